//! Figures: how fast Drover is on this machine, each beside what the same disk and the same load generator reach
//! without it. Prints, never asserts. `figures/` has a file per figure; `make bench` runs all of them.

mod api;
mod bare;
mod figures;
mod http;
mod load;
mod program;
mod report;
mod robots;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::bail;
use clap::Parser;

use crate::figures::{FIGURES, Figure, Setting};

/// Measures Drover on this machine. Without names: everything.
#[derive(Parser)]
#[command(after_help = figures::list())]
struct Arguments {
    /// Names of figures.
    figures: Vec<String>,
    /// How long each load lasts.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Folder on the disk that is to be judged (default: the system's for temporary files).
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Size of the log that is read page by page.
    #[arg(long, default_value_t = 1_000)]
    log_mb: u64,
    /// Simulated agents of the large fleet.
    #[arg(long, default_value_t = 10_000)]
    robots: usize,
    /// Tasks of the large queue; 10000000 take minutes and some GB of disk.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(100_000..))]
    tasks: u64,
    #[arg(long, hide = true)]
    serve_bare: Option<String>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("drover-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let below = arguments.folder.unwrap_or_else(std::env::temp_dir);
    if let Some(kind) = arguments.serve_bare {
        bare::serve(&kind, &below)?;
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = chosen(&arguments.figures)?;
    raise_open_files();
    report::print_conditions(&below);
    let mut rows = Vec::new();
    let mut unmeasured = 0;
    for figure in chosen {
        let folder = tempfile::tempdir_in(&below)?;
        let setting = Setting {
            folder: folder.path().to_owned(),
            duration: Duration::from_secs(arguments.seconds),
            log_bytes: arguments.log_mb * 1_000_000,
            robots: arguments.robots,
            tasks: usize::try_from(arguments.tasks)?,
        };
        match (figure.measure)(&setting) {
            Ok(measured) => {
                report::print(figure.name, &measured);
                rows.extend(measured);
            }
            Err(error) => {
                unmeasured += 1;
                println!("\n{}\n  could not be measured: {error:#}", figure.name);
            }
        }
    }
    let (targets, missed) = report::summary(&rows);
    println!(
        "\n{} of {targets} targets reached, {missed} missed; {unmeasured} figures could not be measured",
        targets - missed
    );
    Ok(if unmeasured == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static Figure>> {
    if let Some(unknown) = names.iter().find(|name| !FIGURES.iter().any(|figure| figure.name == name.as_str())) {
        bail!("there is no figure \"{unknown}\"; there are\n{}", figures::list());
    }
    Ok(FIGURES.iter().filter(|figure| names.is_empty() || names.iter().any(|name| name == figure.name)).collect())
}

/// A large fleet needs many connections on either side; the programs inherit what is allowed here.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = Some(100_000);
    // Only an administrator may go beyond the hard limit; anybody may go up to it.
    if setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum: wanted }).is_err() {
        let allowed = getrlimit(Resource::Nofile).maximum;
        let _ = setrlimit(Resource::Nofile, Rlimit { current: allowed, maximum: allowed });
    }
}
