//! What the agent has promised, on disk: one small file per attempt, replaced as a whole before each effect.
//!
//! An entry holds the key of its attempt, so files are mode 0600 and the folder 0700. A file is a line with the CRC-32C of
//! the rest, then JSON.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    rc::Rc,
};

use drover_protocol::agent::{Assignment, Finish};
use serde::{Deserialize, Serialize};

use crate::{attempt::AttemptId, durable};

/// How far an attempt is, as far as it matters after a restart.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Written before accept is sent: whether it was accepted is unknown.
    Offered,
    /// The coordinator has confirmed; nothing was started.
    Accepted,
    /// Written before the process is started: from here on it is never started again.
    Launching,
    /// Written before the report is sent.
    Ended {
        report: Box<Finish>,
        /// All artifacts are uploaded and no line will be added to the log.
        delivered: bool,
    },
}

/// One attempt that this agent answers for.
#[derive(Clone, Serialize, Deserialize)]
pub struct Entry {
    #[serde(with = "shared")]
    pub assignment: Rc<Assignment>,
    pub stage: Stage,
}

impl Entry {
    pub fn id(&self) -> AttemptId {
        AttemptId { job_id: self.assignment.job.id, attempt: self.assignment.attempt }
    }
}

/// A shared value is written like a plain one.
mod shared {
    use std::rc::Rc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(value: &Rc<T>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_ref().serialize(serializer)
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Rc<T>, D::Error> {
        T::deserialize(deserializer).map(Rc::new)
    }
}

/// What was found at the start.
#[derive(Default)]
pub struct Loaded {
    pub entries: Vec<Entry>,
    /// Attempts whose entry cannot be read. They are answered for all the same: ended and reported lost.
    pub damaged: Vec<AttemptId>,
}

/// Keeps entries beyond the agent's own life.
pub trait Journal {
    fn load(&mut self) -> io::Result<Loaded>;
    /// When this returns, the entry is on disk.
    fn put(&mut self, entry: &Entry) -> io::Result<()>;
    /// When this returns, the entry is gone for good.
    fn remove(&mut self, id: AttemptId) -> io::Result<()>;
}

/// A folder with a file per attempt.
pub struct FolderJournal {
    folder: PathBuf,
}

impl FolderJournal {
    pub fn open(folder: &Path) -> io::Result<Self> {
        durable::create_private_folder(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    fn path(&self, id: AttemptId) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }
}

impl Journal for FolderJournal {
    fn load(&mut self) -> io::Result<Loaded> {
        let mut loaded = Loaded::default();
        for file in fs::read_dir(&self.folder)? {
            let path = file?.path();
            // Anything else, such as a file that was being written when the power went, was never promised.
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".json"));
            let Some(id) = name.and_then(|name| name.parse::<AttemptId>().ok()) else { continue };
            match decode(&fs::read(&path)?).filter(|entry| entry.id() == id) {
                Some(entry) => loaded.entries.push(entry),
                None => {
                    tracing::error!(attempt = %id, "the journal's entry is damaged; the job will be ended and reported as lost");
                    loaded.damaged.push(id);
                }
            }
        }
        loaded.entries.sort_by_key(Entry::id);
        loaded.damaged.sort_unstable();
        Ok(loaded)
    }

    fn put(&mut self, entry: &Entry) -> io::Result<()> {
        durable::write(&self.path(entry.id()), &encode(entry)?)
    }

    fn remove(&mut self, id: AttemptId) -> io::Result<()> {
        durable::remove(&self.path(id))
    }
}

fn encode(entry: &Entry) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(entry)?;
    let mut content = format!("{:08x}\n", crc32c::crc32c(&json)).into_bytes();
    content.extend(json);
    Ok(content)
}

fn decode(content: &[u8]) -> Option<Entry> {
    let (crc, json) = content.split_at_checked(9)?;
    let crc = u32::from_str_radix(std::str::from_utf8(crc.strip_suffix(b"\n")?).ok()?, 16).ok()?;
    if crc != crc32c::crc32c(json) {
        return None;
    }
    serde_json::from_slice(json).ok()
}

/// A journal in memory, for simulations: a copy shares its entries, as a folder outlives the agent that writes it.
#[derive(Clone, Default)]
pub struct MemoryJournal {
    entries: Rc<RefCell<BTreeMap<AttemptId, Vec<u8>>>>,
}

impl Journal for MemoryJournal {
    fn load(&mut self) -> io::Result<Loaded> {
        let entries = self.entries.borrow().values().filter_map(|content| decode(content)).collect();
        Ok(Loaded { entries, damaged: Vec::new() })
    }

    fn put(&mut self, entry: &Entry) -> io::Result<()> {
        self.entries.borrow_mut().insert(entry.id(), encode(entry)?);
        Ok(())
    }

    fn remove(&mut self, id: AttemptId) -> io::Result<()> {
        self.entries.borrow_mut().remove(&id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    fn entry(attempt: u32) -> Entry {
        let id = "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f";
        let time = "2026-11-23T08:00:00.000Z";
        let assignment = serde_json::from_value(json!({
            "job": {
                "id": id, "process_id": id, "process_name": "p", "process_version_id": id, "version_number": 1, "target": {},
                "state": "assigned", "outcome": null, "cause": null, "attempt": attempt, "tries": 0, "robot_id": null,
                "robot_name": null, "priority": 2, "error": null, "exit": null, "usage": null, "progress": null,
                "source": {"kind": "user", "id": "u"}, "created_at": time, "not_before": null, "assigned_at": null,
                "started_at": null, "finished_at": null, "stop_after": null, "abort_after": null, "timeout_seconds": null,
                "stop_grace_seconds": 30, "lease_ends_at": null, "labels": {}, "parent_job_id": null, "revision": 1
            },
            "attempt": attempt, "lease_ends_at": time, "key": "k", "secrets_to_mask": [], "log_level": "info",
            "version": {"id": id, "number": 1, "sha256": "", "size_bytes": 0,
                "manifest": {"source": "inferred", "name": null, "run": {"command": ["x"]}}}
        }));
        Entry { assignment: Rc::new(assignment.expect("an assignment")), stage: Stage::Offered }
    }

    #[test]
    fn entries_are_replaced_kept_private_and_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = FolderJournal::open(&folder.path().join("journal")).expect("a journal");
        journal.put(&entry(1)).expect("written");
        journal.put(&Entry { stage: Stage::Launching, ..entry(1) }).expect("replaced");
        journal.put(&entry(2)).expect("written");
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!((mode(&journal.folder), mode(&journal.path(entry(1).id()))), (0o700, 0o600));
        let loaded = FolderJournal::open(&journal.folder).and_then(|mut again| again.load()).expect("readable");
        assert_eq!(loaded.entries.iter().map(|entry| entry.id().attempt).collect::<Vec<_>>(), [1, 2]);
        assert!(matches!(loaded.entries[0].stage, Stage::Launching) && loaded.damaged.is_empty());
        journal.remove(entry(1).id()).expect("removed");
        journal.remove(entry(1).id()).expect("removing again is no error");
        assert_eq!(journal.load().expect("readable").entries.len(), 1);
    }

    /// Wherever an entry is torn or a bit is flipped, it is noticed and its attempt is still known; a file that was being
    /// written counts for nothing.
    #[test]
    fn damage_is_noticed_and_the_attempt_still_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = FolderJournal::open(folder.path()).expect("a journal");
        journal.put(&entry(1)).expect("written");
        let path = journal.path(entry(1).id());
        let whole = fs::read(&path).expect("the entry");
        for place in (0..whole.len()).step_by(37) {
            fs::write(&path, &whole[..place]).expect("torn");
            fs::write(path.with_extension("json.new"), &whole[..place]).expect("torn");
            let loaded = journal.load().expect("readable");
            assert_eq!((loaded.entries.len(), loaded.damaged), (0, vec![entry(1).id()]), "torn at {place}");
            let mut flipped = whole.clone();
            flipped[place] ^= 4;
            fs::write(&path, &flipped).expect("flipped");
            assert_eq!(journal.load().expect("readable").damaged.len(), 1, "flipped at {place}");
        }
    }
}
