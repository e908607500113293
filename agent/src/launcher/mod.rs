//! Starting and ending processes: what the agent asks of the operating system, behind one trait.
//!
//! Each job has a *supervisor*: a small process of its own that starts the command, writes its output to the spool,
//! keeps its time limits and ends its whole tree, also while the agent is away. Agent and supervisor speak through files
//! of the *run folder*, so that an agent that was restarted can go on with either of them.

use std::{
    io,
    path::{Path, PathBuf},
};

use drover_protocol::{
    Timestamp,
    job::{Cause, Usage},
    log::Level,
};
use serde::{Deserialize, Serialize};

use crate::{attempt::AttemptId, durable};

#[cfg(target_os = "linux")]
mod outputs;
#[cfg(target_os = "linux")]
mod supervisor;
#[cfg(target_os = "linux")]
mod system;
#[cfg(target_os = "linux")]
mod tree;
#[cfg(target_os = "linux")]
mod unix;

#[cfg(target_os = "linux")]
pub use supervisor::supervise;
#[cfg(target_os = "linux")]
use supervisor::{complain, until_there_is_room};
#[cfg(target_os = "linux")]
pub use unix::{
    UnixLauncher, allow_passage, end_carriers, end_with_agent, give_to, process_account, run_as, take_back,
};

/// The first argument of the agent's own program that makes it a supervisor; the second is the run folder.
pub const SUPERVISE: &str = "supervise";

/// The files of one attempt that belong to agent and supervisor, not to the process.
#[derive(Clone, Debug)]
pub struct RunFolder(pub PathBuf);

impl RunFolder {
    /// What is to be run ([`Spec`]); holds secrets.
    pub fn spec(&self) -> PathBuf {
        self.0.join("spec.json")
    }
    /// Who supervises ([`Identity`]).
    pub fn identity(&self) -> PathBuf {
        self.0.join("supervisor.json")
    }
    /// The boot of the host in which this folder was made.
    pub fn boot(&self) -> PathBuf {
        self.0.join("boot")
    }
    /// Held locked by the supervisor as long as it lives.
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }
    /// What the agent wants of the supervisor ([`EndRequest`]).
    pub fn control(&self) -> PathBuf {
        self.0.join("control.json")
    }
    /// There when the agent gave the attempt up: a supervisor that comes late must not start it.
    pub fn abandoned(&self) -> PathBuf {
        self.0.join("abandoned")
    }
    /// How it ended ([`Ended`]).
    pub fn ended(&self) -> PathBuf {
        self.0.join("ended.json")
    }
    /// The log.
    pub fn spool(&self) -> PathBuf {
        self.0.join("spool")
    }
    /// What the supervisor itself has to complain about.
    pub fn complaints(&self) -> PathBuf {
        self.0.join("supervisor.log")
    }
    /// Name of the cached environment that the process uses, which must not be evicted meanwhile.
    pub fn environment(&self) -> PathBuf {
        self.0.join("environment")
    }
}

impl RunFolder {
    /// Makes it. None of its files needs to outlive a power cut, which ends the processes that it tells about, but for the
    /// log and [`Ended`].
    pub fn create(&self) -> io::Result<()> {
        durable::private_folder(&self.0)?;
        durable::replace(&self.boot(), tree::boot_id()?.as_bytes())
    }

    /// Whether everything that was written here is still here, because the host has not been started again since.
    pub fn is_of_this_boot(&self) -> io::Result<bool> {
        match std::fs::read_to_string(self.boot()) {
            Ok(boot) => Ok(boot == tree::boot_id()?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The account to run a process as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

/// All that a supervisor needs to know.
#[derive(Clone, Serialize, Deserialize)]
pub struct Spec {
    pub id: AttemptId,
    pub command: Vec<String>,
    pub folder: PathBuf,
    /// The whole environment of the process.
    pub environment: Vec<(String, String)>,
    pub stop_file: PathBuf,
    /// Texts that must not leave the host.
    pub secrets: Vec<String>,
    /// Lines below this level are not kept.
    pub log_level: Level,
    pub timeout_ms: Option<u64>,
    /// Until the stop, from the start on: no wall clock is needed, which somebody may set meanwhile.
    pub stop_in_ms: Option<u64>,
    /// Until the abort, from the start on.
    pub abort_in_ms: Option<u64>,
    pub stop_grace_ms: u64,
    /// Between SIGTERM and SIGKILL.
    pub kill_wait_ms: u64,
    pub spool_limit_bytes: u64,
    pub account: Option<Account>,
    pub limits: Limits,
}

/// Limits of the process; 0 means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Most address space of each single process.
    pub memory_bytes: u64,
    /// Most open files of each single process.
    pub open_files: u64,
}

/// How a job is to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndMode {
    /// Ask, and force it when the grace is over.
    Soft,
    /// End the whole tree now.
    Hard,
}

/// That a job is to be ended, how, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndRequest {
    pub mode: EndMode,
    pub cause: Cause,
}

/// A process that cannot be taken for another: ids are used again, but not with the same start time in the same boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub pid: u32,
    /// In clock ticks since the host's start.
    pub start_time: u64,
    pub boot_id: String,
}

/// Why the process did not end by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interference {
    /// Nobody asked it to.
    None,
    /// It was asked to stop and did so.
    Stopped(Cause),
    /// It was asked to stop and had to be forced.
    StopForced(Cause),
    Aborted(Cause),
    TimedOut,
    /// The supervisor was told to end, as happens when the host goes down.
    SupervisorEnded,
}

/// How the supervisor saw it end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub at: Timestamp,
    /// Set when the command could not be started.
    #[serde(default)]
    pub launch_error: Option<String>,
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// The host's kernel ended processes for lack of memory meanwhile.
    #[serde(default)]
    pub out_of_memory: bool,
    pub interference: Interference,
    pub usage: Usage,
    /// Processes of the tree that were still there when the main process had ended.
    #[serde(default)]
    pub leftovers: u32,
    /// Processes that could not be ended.
    #[serde(default)]
    pub survivors: u32,
}

/// What an agent finds of an attempt that an earlier agent had started.
pub enum Found<S> {
    /// The supervisor lives.
    Alive(S),
    /// It is gone; whether it left [`Ended`] is in the run folder. It will not come any more.
    Gone,
}

/// Waits for the end of a supervisor.
#[allow(async_fn_in_trait, reason = "the agent runs on one thread")]
pub trait Supervisor {
    /// Returns when the supervisor is gone.
    async fn gone(&mut self) -> io::Result<()>;
}

/// What the agent asks of the operating system.
#[allow(async_fn_in_trait, reason = "the agent runs on one thread")]
pub trait Launcher {
    type Supervisor: Supervisor;

    /// Writes the spec and starts a supervisor, which then starts the command. If that fails, no supervisor is there any more,
    /// but one may have been for a moment.
    fn start(&self, run: &RunFolder, spec: &Spec) -> io::Result<Self::Supervisor>;
    /// Finds the supervisor that an earlier agent started. If there is none, none can start later.
    fn find(&self, run: &RunFolder) -> io::Result<Found<Self::Supervisor>>;
    /// Tells the supervisor to end the job.
    fn end(&self, run: &RunFolder, request: &EndRequest) -> io::Result<()>;
    /// Ends every process that carries the attempt in its environment; returns how many there were.
    async fn sweep(&self, id: AttemptId) -> io::Result<u32>;
}

/// Reads how it ended; `None` if the supervisor did not come to write it.
pub fn read_ended(run: &RunFolder) -> io::Result<Option<Ended>> {
    read_json(&run.ended())
}

/// Reads a JSON file; `None` if there is none.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(content) => Ok(Some(serde_json::from_slice(&content)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
