//! The program `drover-agent`: arguments, configuration, its own log, and which command is run. The only use of `anyhow`.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use drover_agent::{
    config::{LogFormat, SYSTEM_FILE, Settings},
    launcher::SUPERVISE,
};
use tracing_subscriber::{EnvFilter, fmt};

mod commands;

/// The agent of Drover: takes jobs from a coordinator and runs them on this host.
#[derive(Parser)]
#[command(name = "drover-agent", version, arg_required_else_help = true)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Print the settings that hold, with defaults, file and environment taken together, and end.
    #[arg(long)]
    print_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args)]
struct Common {
    /// Settings file (default: /etc/drover/agent.toml if it exists).
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// State folder; wins over file and environment.
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Join a coordinator as a robot; needed once per state folder.
    Join(commands::join::Arguments),
    /// Take jobs and run them until told to end (SIGTERM: drain; a second one: stop the jobs; a third one: quit now).
    Run,
    /// Check the settings and end.
    CheckConfig,
    /// Look for what could keep the agent from working, with a remedy for each finding.
    Diagnose,
    /// Let the agent that runs with this state folder finish its jobs, take no more, and end.
    Drain,
    /// Install, remove or show the system service.
    #[command(subcommand)]
    Service(commands::service::Command),
    /// Print the version.
    Version,
}

fn main() -> ExitCode {
    // Before all else, even the arguments of people: a supervisor is started for every job, has no settings and no runtime.
    let mut words = std::env::args_os().skip(1);
    if let (Some(word), Some(folder), None) = (words.next(), words.next(), words.next())
        && word == SUPERVISE
    {
        return match drover_agent::launcher::supervise(Path::new(&folder)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // Into a file that may lie on a full disk.
                let _ = writeln!(std::io::stderr(), "{error}");
                ExitCode::FAILURE
            }
        };
    }
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("drover-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let settings = load(&arguments.common)?;
    if arguments.print_config {
        print!("{}", settings.print());
        return Ok(ExitCode::SUCCESS);
    }
    let Some(command) = arguments.command else {
        anyhow::bail!("a command is needed; see --help");
    };
    start_log(&settings)?;
    match command {
        Command::Join(join) => in_runtime(commands::join::join(&settings, &join)),
        Command::Run => in_runtime(commands::run::run(settings)),
        Command::CheckConfig => commands::check_config(&settings),
        Command::Diagnose => in_runtime(commands::diagnose::diagnose(&settings)),
        Command::Drain => commands::drain(&settings),
        Command::Service(command) => commands::service::service(command, &settings, arguments.common.config.as_deref()),
        Command::Version => {
            println!("drover-agent {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn load(common: &Common) -> anyhow::Result<Settings> {
    let system = PathBuf::from(SYSTEM_FILE);
    let file = common.config.clone().or_else(|| system.exists().then_some(system));
    let mut environment: std::collections::HashMap<String, String> = std::env::vars().collect();
    if let Some(state) = &common.state {
        let text = state.to_str().context("the state folder's name is not UTF-8")?;
        environment.insert("DROVER_AGENT__STATE_DIR".to_owned(), text.to_owned());
    }
    let mut settings = Settings::load(file.as_deref(), environment.into_iter().collect())?;
    // Processes have other current folders: every path is made absolute once.
    settings.state_dir = std::path::absolute(&settings.state_dir)?;
    if !settings.work_dir.as_os_str().is_empty() {
        settings.work_dir = std::path::absolute(&settings.work_dir)?;
    }
    Ok(settings)
}

fn start_log(settings: &Settings) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&settings.log.filter)
        .map_err(|error| anyhow::anyhow!("log.filter: {error}; write a level such as \"info\""))?;
    // A log that cannot be written, on a full disk say, must not end the agent: it would be complained about there as well.
    let log = fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    match settings.log.format {
        LogFormat::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

/// One thread is enough for an agent and keeps it small; file work happens on few short-lived others.
fn in_runtime(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_stack_size(512 * 1024)
        .build()
        .context("the runtime cannot be started")?;
    let done = runtime.block_on(work);
    // What is still being copied or removed is not waited for: it is made good at the next start.
    runtime.shutdown_background();
    done
}
