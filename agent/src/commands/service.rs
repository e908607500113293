//! `drover-agent service`: the agent as a service of systemd.

use std::{
    fs,
    path::Path,
    process::{Command as Process, ExitCode},
};

use anyhow::{Context, bail};
use clap::Subcommand;
use drover_agent::{config::Settings, identity::Identity};

const UNIT: &str = include_str!("../../../packaging/systemd/drover-agent.service");
const UNIT_NAME: &str = "drover-agent.service";
const UNIT_PATH: &str = "/etc/systemd/system/drover-agent.service";

#[derive(Subcommand)]
pub enum Command {
    /// Write the systemd unit, switch the service on and start it.
    Install,
    /// Let running jobs end, stop the service and remove the unit; the state folder stays.
    Uninstall,
    /// Show whether the service is installed and runs.
    Status,
}

/// Does what is asked; clear errors where there is no systemd.
pub fn service(command: Command, settings: &Settings, config: Option<&Path>) -> anyhow::Result<ExitCode> {
    if !Path::new("/run/systemd/system").exists() {
        bail!("systemd does not run on this host; start `drover-agent run` with the service manager that does");
    }
    match command {
        Command::Install => install(settings, config),
        Command::Uninstall => uninstall(),
        Command::Status => {
            let shown = Process::new("systemctl").args(["status", "--no-pager", UNIT_NAME]).status();
            let code = shown.context("systemctl cannot be started")?.code().unwrap_or(1);
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
        }
    }
}

fn install(settings: &Settings, config: Option<&Path>) -> anyhow::Result<ExitCode> {
    needs_root()?;
    if Identity::load(&settings.state_dir).ok().flatten().is_none() {
        let state = settings.state_dir.display();
        bail!("join first: drover-agent join --server URL --token T --state {state}");
    }
    let program = std::env::current_exe().context("the agent's own program cannot be found")?;
    let unit = unit_for(&program, &settings.state_dir, config)?;
    fs::write(UNIT_PATH, unit).with_context(|| format!("{UNIT_PATH} cannot be written"))?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", "--now", UNIT_NAME])?;
    println!("installed and started; its log: journalctl -u drover-agent");
    Ok(ExitCode::SUCCESS)
}

fn uninstall() -> anyhow::Result<ExitCode> {
    needs_root()?;
    if !Path::new(UNIT_PATH).exists() {
        bail!("the service is not installed ({UNIT_PATH} does not exist)");
    }
    systemctl(&["disable", "--now", UNIT_NAME])?;
    fs::remove_file(UNIT_PATH).with_context(|| format!("{UNIT_PATH} cannot be removed"))?;
    systemctl(&["daemon-reload"])?;
    println!("the service is removed; key and journal stay in the state folder");
    Ok(ExitCode::SUCCESS)
}

fn needs_root() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("services are installed by root; try with sudo");
    }
    Ok(())
}

fn systemctl(arguments: &[&str]) -> anyhow::Result<()> {
    let words = arguments.join(" ");
    let done = Process::new("systemctl").args(arguments).status().context("systemctl cannot be started")?;
    if !done.success() {
        bail!("`systemctl {words}` failed; see `journalctl -u drover-agent`");
    }
    Ok(())
}

/// The unit of the package, with this program, state folder and settings file.
fn unit_for(program: &Path, state: &Path, config: Option<&Path>) -> anyhow::Result<String> {
    let quoted = |path: &Path| -> anyhow::Result<String> {
        let text = path.to_str().context("a path is not UTF-8")?;
        if text.contains(['"', '\\', '%', '\n', '$']) {
            bail!("\"{text}\" holds characters that a systemd unit cannot take");
        }
        Ok(format!("\"{text}\""))
    };
    let mut start = format!("ExecStart={} run --state {}", quoted(program)?, quoted(state)?);
    if let Some(config) = config {
        start.push_str(&format!(" --config {}", quoted(&std::path::absolute(config)?)?));
    }
    let lines = UNIT.lines().map(|line| if line.starts_with("ExecStart=") { start.as_str() } else { line });
    let unit: String =
        lines.filter(|line| !line.starts_with("StateDirectory")).map(|line| format!("{line}\n")).collect();
    Ok(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_starts_this_program() {
        let unit =
            unit_for(Path::new("/opt/a b/drover-agent"), Path::new("/srv/state"), Some(Path::new("/etc/x.toml")))
                .expect("a unit");
        assert!(
            unit.contains("ExecStart=\"/opt/a b/drover-agent\" run --state \"/srv/state\" --config \"/etc/x.toml\"\n")
        );
        assert!(unit.contains("KillMode=process") && unit.contains("RestartPreventExitStatus=80"));
        assert!(unit_for(Path::new("/a%b"), Path::new("/s"), None).is_err());
    }
}
