//! `drover-agent run`: puts the real parts together and runs the daemon until a signal ends it.

use std::{
    cell::Cell,
    convert::Infallible,
    path::{Path, PathBuf},
    process::ExitCode,
    rc::Rc,
    time::Duration,
};

use anyhow::{Context, bail};
use drover_agent::{
    clock::Clock,
    config::Settings,
    coordinator::Coordinator,
    core::{CoreSettings, Signal},
    daemon::{Daemon, Parts},
    durable,
    host::SystemProbe,
    identity::{Identity, RunLock, random_bytes},
    job_runner::{ProcessRunner, RobotFacts},
    journal::FileJournal,
    launcher::UnixLauncher,
    transport::{HttpTransport, Transport, server_root},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// Ended because of `drover-agent drain`: the service manager is not to start it again. See the systemd unit.
const DRAINED: u8 = 80;
/// The program that runs, also when its file was replaced by a newer one meanwhile.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// How often it is looked whether the folder was joined again.
const LOOK_FOR_KEY_EVERY: Duration = Duration::from_secs(10);
/// How long one poll for jobs waits.
const POLL_SECONDS: u64 = 30;

/// Runs until told to end.
pub async fn run(settings: Settings) -> anyhow::Result<ExitCode> {
    let state = settings.state_dir.clone();
    let identity = Identity::load(&state).context("agent.json in the state folder cannot be read")?;
    let Some(identity) = identity else {
        bail!(
            "{} has not joined a coordinator; do so with `drover-agent join --server URL --token T --state {}`",
            state.display(),
            state.display()
        );
    };
    durable::create_private_folder(&state)?;
    let _lock = RunLock::take(&state)?;
    let server = if settings.server.is_empty() { identity.server.clone() } else { server_root(&settings.server)? };
    let account = super::account(&settings)?;
    let seed = u64::from_ne_bytes(random_bytes()?);
    let clock = Clock::system();
    let transport = HttpTransport::new(&super::connection(&settings, &server))?;
    let coordinator = Rc::new(Coordinator::new(transport, Some(&identity.key), seed));
    UnixLauncher::check().context(super::UNWATCHED)?;
    let launcher = UnixLauncher::new(PathBuf::from(OWN_PROGRAM));
    let core_settings = CoreSettings {
        capacity: (settings.capacity > 0).then_some(settings.capacity),
        drain_timeout_ms: settings.drain_timeout_seconds.saturating_mul(1000),
        poll_seconds: POLL_SECONDS,
    };
    let probe = Box::new(SystemProbe::new(&settings, &server));
    let journal = FileJournal::new(&state.join("journal"));
    let ca_file = Some(settings.ca_file.clone()).filter(|file| !file.is_empty());
    let robot = RobotFacts { server: server.clone(), name: identity.robot_name.clone(), ca_file };
    let runner = ProcessRunner::new(Rc::clone(&coordinator), launcher, settings, robot, clock, account)
        .context("the work folders cannot be made")?;
    let parts = Parts {
        coordinator: Rc::clone(&coordinator),
        runner: Rc::new(runner),
        journal,
        probe,
        clock,
        settings: core_settings,
        seed,
    };
    tracing::info!(server, robot = identity.robot_name, id = %identity.robot_id, version = env!("CARGO_PKG_VERSION"), "the agent runs");
    let (signals, received) = mpsc::unbounded_channel();
    let drained = Cell::new(false);
    let mut daemon = Daemon::new(parts);
    tokio::select! {
        result = daemon.run(received) => result.context("the journal cannot be read")?,
        never = follow_key(&state, &identity, &coordinator) => match never {},
        error = forward_signals(&signals, &drained) => {
            let Err(error) = error;
            return Err(error);
        },
    }
    tracing::info!("the agent has ended");
    Ok(if drained.get() { ExitCode::from(DRAINED) } else { ExitCode::SUCCESS })
}

/// Takes over the new key when somebody joins this folder again.
async fn follow_key<T: Transport>(state: &Path, started_as: &Identity, coordinator: &Coordinator<T>) -> Infallible {
    let mut key = started_as.key.clone();
    loop {
        tokio::time::sleep(LOOK_FOR_KEY_EVERY).await;
        let Ok(Some(identity)) = Identity::load(state) else { continue };
        if identity.key == key {
            continue;
        }
        key.clone_from(&identity.key);
        if identity.robot_id == started_as.robot_id && identity.server == started_as.server {
            tracing::info!("the robot has joined again; its new key is used from now on");
            coordinator.set_key(&identity.key);
        } else {
            tracing::error!("this folder was joined as another robot; restart the agent to become that one");
        }
    }
}

/// Passes the signals of the operating system on. Ends only if that is not possible.
async fn forward_signals(signals: &mpsc::UnboundedSender<Signal>, drained: &Cell<bool>) -> anyhow::Result<Infallible> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut drain = signal(SignalKind::user_defined1())?;
    loop {
        let asked = tokio::select! {
            _ = terminate.recv() => Signal::Terminate,
            _ = interrupt.recv() => Signal::Terminate,
            _ = drain.recv() => {
                drained.set(true);
                Signal::Drain
            }
        };
        // The receiver is the daemon, which is polled beside this.
        let _ = signals.send(asked);
    }
}
