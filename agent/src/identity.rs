//! Who this agent is: its robot, its key, its machine id, and that it runs only once per state folder.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use drover_protocol::RobotId;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{durable, package::hex};

/// What joining has given.
#[derive(Clone, Serialize, Deserialize)]
pub struct Identity {
    pub server: String,
    pub robot_id: RobotId,
    pub robot_name: String,
    pub key: String,
    pub machine_id: String,
}

fn path(state: &Path) -> PathBuf {
    state.join("agent.json")
}

impl Identity {
    /// `None` if the folder has not been joined.
    pub fn load(state: &Path) -> io::Result<Option<Self>> {
        crate::launcher::read_json(&path(state))
    }

    /// Keeps it, for the owner's eyes only.
    pub fn save(&self, state: &Path) -> io::Result<()> {
        durable::write(&path(state), &serde_json::to_vec_pretty(self)?)
    }
}

/// The id under which the coordinator knows this agent: the configured one, or made from host and folder. On hosts without a
/// machine id one is made up and kept in the state folder.
pub fn machine_id(configured: &str, state: &Path) -> io::Result<String> {
    if !configured.is_empty() {
        return Ok(configured.to_owned());
    }
    let host = match fs::read_to_string("/etc/machine-id") {
        Ok(id) if !id.trim().is_empty() => id.trim().to_owned(),
        _ => made_up_id(state)?,
    };
    let folder = fs::canonicalize(state)?;
    let mut digest = Sha256::new();
    digest.update(host.as_bytes());
    digest.update([0]);
    digest.update(folder.as_os_str().as_encoded_bytes());
    Ok(hex(&digest.finalize()[..16]))
}

fn made_up_id(state: &Path) -> io::Result<String> {
    let path = state.join("machine-id");
    match fs::read_to_string(&path) {
        Ok(id) => Ok(id),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = hex(&random_bytes::<16>()?);
            durable::write(&path, id.as_bytes())?;
            Ok(id)
        }
        Err(error) => Err(error),
    }
}

/// Randomness of the operating system.
pub fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Held by the one agent that works with a state folder.
pub struct RunLock {
    _file: File,
}

/// Another agent works with this folder.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("another drover-agent{} already runs with this state folder", .0.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Taken(Option<u32>),
    #[error("the lock file cannot be used: {0}")]
    Io(#[from] io::Error),
}

fn lock_path(state: &Path) -> PathBuf {
    state.join("agent.lock")
}

impl RunLock {
    /// Takes the lock and writes the process id into it.
    pub fn take(state: &Path) -> Result<Self, LockError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(lock_path(state))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(LockError::Taken(read_pid(&mut file))),
            Err(error) => return Err(LockError::Io(error.into())),
        }
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self { _file: file })
    }
}

/// Process id of the agent that runs with this folder; `None` if none does.
pub fn running_agent(state: &Path) -> io::Result<Option<u32>> {
    let mut file = match File::open(lock_path(state)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(None),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(read_pid(&mut file)),
        Err(error) => Err(error.into()),
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two agents on one host are two robots; the same agent stays the same one.
    #[test]
    fn the_machine_id_is_that_of_host_and_folder() {
        let (a, b) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let id = |folder: &Path| machine_id("", folder).expect("an id");
        assert_eq!(id(a.path()), id(a.path()));
        assert_ne!(id(a.path()), id(b.path()));
        assert_eq!(machine_id("mine", a.path()).expect("an id"), "mine");
    }

    #[test]
    fn only_one_agent_runs_per_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(running_agent(folder.path()).expect("readable"), None);
        let lock = RunLock::take(folder.path()).expect("free");
        assert!(matches!(RunLock::take(folder.path()), Err(LockError::Taken(Some(pid))) if pid == std::process::id()));
        assert_eq!(running_agent(folder.path()).expect("readable"), Some(std::process::id()));
        drop(lock);
        assert!(RunLock::take(folder.path()).is_ok());
    }
}
