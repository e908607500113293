//! The commands of the program, one file each; the smallest are here.

use std::process::ExitCode;

use anyhow::Context;
use drover_agent::{config::Settings, identity, launcher};

pub mod diagnose;
pub mod join;
pub mod run;
pub mod service;

/// Why no job can run where [`launcher::UnixLauncher::check`] fails.
pub const UNWATCHED: &str = "this host does not tell when a process ends; Linux 5.3 or later is needed, and in a container rules (seccomp) that allow pidfd_open";

/// Says whether the settings can be used.
pub fn check_config(settings: &Settings) -> anyhow::Result<ExitCode> {
    let connection = connection(settings, &settings.server);
    if !settings.server.is_empty() || !settings.ca_file.is_empty() || !settings.proxy.is_empty() {
        let server = if settings.server.is_empty() { "http://localhost".to_owned() } else { connection.server.clone() };
        drover_agent::transport::HttpTransport::new(&drover_agent::transport::Connection { server, ..connection })?;
    }
    account(settings)?;
    println!("the settings are valid");
    Ok(ExitCode::SUCCESS)
}

/// How the coordinator is reached with these settings.
pub fn connection(settings: &Settings, server: &str) -> drover_agent::transport::Connection {
    drover_agent::transport::Connection {
        server: server.to_owned(),
        proxy: settings.proxy.clone(),
        ca_file: settings.ca_file.clone(),
    }
}

/// The account that processes run as, if another than the agent's own is set.
pub fn account(settings: &Settings) -> anyhow::Result<Option<launcher::Account>> {
    if settings.policy.run_as.is_empty() {
        return Ok(None);
    }
    if !rustix::process::geteuid().is_root() {
        anyhow::bail!("policy.run_as: the agent must run as root to run processes as \"{}\"", settings.policy.run_as);
    }
    launcher::process_account(&settings.policy.run_as).context("policy.run_as").map(Some)
}

/// Asks the running agent to drain.
pub fn drain(settings: &Settings) -> anyhow::Result<ExitCode> {
    let pid = identity::running_agent(&settings.state_dir).context("the state folder cannot be read")?;
    let Some(pid) = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw) else {
        anyhow::bail!("no agent runs with the state folder {}", settings.state_dir.display());
    };
    rustix::process::kill_process(pid, rustix::process::Signal::USR1).with_context(|| {
        format!("the agent (process {}) cannot be told; try as the account it runs as", pid.as_raw_nonzero())
    })?;
    println!("the agent (process {}) finishes its jobs, takes no more, and then ends", pid.as_raw_nonzero());
    Ok(ExitCode::SUCCESS)
}
