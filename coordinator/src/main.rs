//! The program `drover-coordinator`: arguments, settings, tracing, and the commands for whoever operates it.

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use drover_coordinator::{
    config::{Config, LogFormat},
    start::{self, engine_settings},
    store::{
        check,
        check_audit::check_audit,
        check_blobs::check_blobs,
        embedded::Embedded,
        engine::Engine,
        restore::{self, RestoreReport},
    },
};
use drover_protocol::Timestamp;
use tracing_subscriber::EnvFilter;

/// What one thread takes another gives back, from request to writer to index: the system's allocator spent a quarter of
/// all time on that. Without huge pages, with which an idle coordinator takes 27 MB more.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The coordinator of Drover: holds robots, processes, jobs and logs, and serves the API.
#[derive(Parser)]
#[command(name = "drover-coordinator", version)]
struct Arguments {
    /// File with settings; what it does not say is as built in.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the settings in force, secrets masked, and end.
    #[arg(long, global = true)]
    print_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM or Ctrl-C.
    Run,
    /// Check the settings without starting.
    CheckConfig,
    /// Check the records of a stopped coordinator's store against their indexes and blobs, both ways, and the audit trail.
    Check,
    /// Make the index of a stopped coordinator's store anew from export and log.
    Rebuild {
        /// Cut a damaged log before the damage, losing what follows; that is kept in `log.damaged`.
        #[arg(long)]
        accept_loss: bool,
    },
    /// Restore a backup (made with `drover backup FILE`) into the store's folder, which must be empty.
    Restore {
        /// The backup.
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Only go through everything and say whether it can be restored.
        #[arg(long)]
        verify: bool,
        /// Restore the state of this moment, for example 2026-11-23T08:05:11Z.
        #[arg(long, value_name = "TIME")]
        until: Option<Timestamp>,
    },
    /// Give a user of a stopped coordinator a new key, when the old one is lost.
    NewKey {
        /// The user's login.
        #[arg(long, default_value = "admin")]
        login: String,
    },
    /// Change the key with which a stopped coordinator's secrets are sealed, and seal all of them anew.
    ///
    /// Whatever interrupts it, it can be called again, and the coordinator can be started meanwhile. Old backups need the
    /// key file of their time.
    RotateKey,
    /// Write an account of a stopped coordinator into a file, to take it to another one.
    ///
    /// Secrets are sealed with a passphrase. Keys of robots and named keys stay behind: robots join again.
    ExportAccount {
        /// Name or id of the account.
        #[arg(long)]
        account: String,
        /// The file, which must not be there yet.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// A file with the passphrase, of at least 12 characters.
        #[arg(long, value_name = "FILE")]
        passphrase_file: PathBuf,
    },
    /// Take an account into a stopped coordinator from a file that `export-account` has written.
    ImportAccount {
        /// The file.
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// A file with the passphrase.
        #[arg(long, value_name = "FILE")]
        passphrase_file: PathBuf,
        /// Another name for the account.
        #[arg(long)]
        name: Option<String>,
    },
    /// Print the API's document (OpenAPI 3.1).
    Openapi,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("drover-coordinator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    // A setting is text; what else the environment holds is none of ours.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let config = Config::load(arguments.config.as_deref(), environment)?;
    if arguments.print_config {
        return say(config.printed().trim_end());
    }
    match arguments.command {
        None | Some(Command::Run | Command::CheckConfig | Command::Openapi | Command::Restore { .. }) => {}
        Some(_) => start::require_store(&config)?,
    }
    match arguments.command {
        None => bail!("say what to do: `drover-coordinator run` serves, `--help` lists all commands"),
        Some(Command::Run) => serve(&config),
        Some(Command::CheckConfig) => {
            start::check(&config)?;
            say("the settings are fine")
        }
        Some(Command::Openapi) => say(&drover_coordinator::http::openapi::document_text()?),
        Some(Command::Check) => check_store(&config),
        Some(Command::Rebuild { accept_loss }) => rebuild(&config, accept_loss),
        Some(Command::Restore { from, verify, until }) => restore_backup(&config, &from, verify, until),
        Some(Command::RotateKey) => rotate_key(&config),
        Some(Command::ExportAccount { account, to, passphrase_file }) => {
            let passphrase = read_passphrase(&passphrase_file)?;
            let taken = archive_runtime()?.block_on(start::export_account(&config, account, passphrase, to))?;
            say(&format!("{} records and {} blobs were written", taken.records, taken.blobs))
        }
        Some(Command::ImportAccount { from, passphrase_file, name }) => {
            let passphrase = read_passphrase(&passphrase_file)?;
            let taken = archive_runtime()?.block_on(start::import_account(&config, from, passphrase, name))?;
            say(&format!("{} records and {} blobs were taken in; robots join again", taken.records, taken.blobs))
        }
        Some(Command::NewKey { login }) => new_key(&config, &login),
    }
}

/// Prints a text. Who reads no further, as `head` does, has read enough.
fn say(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn read_passphrase(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Reading blobs goes on while a thread waits for them.
fn archive_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}

fn trace(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log.level)?;
    let colours = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    match config.log.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

fn serve(config: &Config) -> anyhow::Result<()> {
    trace(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let running = start::start(config).await?;
        let address = running.server.address();
        if let Some(key) = &running.new_key {
            show_key(&format!("The store is new. The key of its administrator {}", config.bootstrap.login), key)?;
        }
        let stopping = running.app.stopping.clone();
        // Listened for before anybody is told that it serves: from then on it ends in order.
        let stop_signal = stop_signal()?;
        tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "the coordinator serves");
        tokio::spawn(async move {
            let signal = stop_signal.await;
            tracing::info!(signal, "the coordinator stops");
            stopping.cancel();
        });
        running.serve().await?;
        tracing::info!("the coordinator has stopped");
        Ok(())
    })
}

/// The one time that a key is shown. It goes to standard output, never into the log.
fn show_key(whose: &str, key: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{whose} is shown only now:\n\n    {key}\n")?;
    writeln!(out, "Use it as `Authorization: Bearer <key>`, with `drover login`, or on the page /docs.")?;
    Ok(out.flush()?)
}

/// Ends with the name of the signal by which the process is asked to stop.
fn stop_signal() -> std::io::Result<impl Future<Output = &'static str>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            biased;
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

fn check_store(config: &Config) -> anyhow::Result<()> {
    let engine = Embedded::open(&config.store.path, engine_settings(config))?;
    let mut report = check::check(&*engine.view())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (blobs, _) = runtime.block_on(start::open_blobs(config))?;
    runtime.block_on(check_blobs(&*engine.view(), &blobs, &mut report))?;
    check_audit(&*engine.view(), &mut report)?;
    say(&report.to_string())?;
    engine.close()?;
    if report.is_sound() {
        Ok(())
    } else {
        bail!("the store is not sound; `drover-coordinator rebuild` makes its index anew, a backup has the blobs")
    }
}

fn rebuild(config: &Config, accept_loss: bool) -> anyhow::Result<()> {
    let engine = Embedded::rebuild(&config.store.path, engine_settings(config), accept_loss)?;
    let report = check::check(&*engine.view())?;
    say(&format!("the index was made anew\n{report}"))?;
    Ok(engine.close()?)
}

fn restore_backup(config: &Config, from: &Path, verify: bool, until: Option<Timestamp>) -> anyhow::Result<()> {
    let file = std::fs::File::open(from).with_context(|| format!("cannot open {}", from.display()))?;
    let report: RestoreReport = restore::restore(file, &config.store.path, engine_settings(config), until, verify)?;
    say(&report.to_string())?;
    if !report.check.is_sound() {
        bail!("what was restored is not sound; `drover-coordinator rebuild` makes its index anew");
    }
    if !verify {
        say(&format!("Put the key file of that store at {} before you start.", config.key_file().display()))?;
    }
    Ok(())
}

fn new_key(config: &Config, login: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let key = runtime.block_on(start::new_key(config, login))?;
    show_key(&format!("The new key of {login}"), &key)
}

fn rotate_key(config: &Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let sealed = runtime.block_on(start::rotate_key(config))?;
    let file = config.key_file();
    let secrets = if sealed == 1 { "secret was" } else { "secrets were" };
    say(&format!("{sealed} {secrets} sealed anew; the old sealing key is no longer in {}", file.display()))?;
    say("Keep a copy of the key file. Backups of before need the one of then.")
}
