//! What the agent has promised, on disk: a file that grows by a line for each promise, and is written anew, with only what
//! still counts, when it has grown long. The lines of many attempts are flushed together.
//!
//! A line holds the attempt and what is known of it as JSON, `null` when it is over, each after its CRC-32C: of a line that
//! is damaged the attempt is still known. The JSON holds the key of the attempt and the values of its secrets, so the file
//! is mode 0600, and empty when no attempt is open.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    rc::Rc,
};

use drover_protocol::agent::{Assignment, Finish};
use serde::{Deserialize, Serialize};

use crate::{attempt::AttemptId, durable};

/// The file is written anew when it is longer than this and most of it does not count any more.
const LONG_BYTES: usize = 1024 * 1024;

/// How far an attempt is, as far as it matters after a restart.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Written before accept is sent: whether it was accepted is unknown, and it may be accepted again, with the same claim.
    Offered { claim: String },
    /// Written before the process is started: from here on it is never started again.
    Launching,
    /// Written before the report is sent.
    Ended {
        report: Box<Finish>,
        /// All artifacts are uploaded and no line will be added to the log.
        delivered: bool,
    },
}

impl Stage {
    /// Whether it must be on disk before anything follows from it. Delivering again would do no harm.
    fn is_promise(&self) -> bool {
        !matches!(self, Self::Ended { delivered: true, .. })
    }
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
    /// Puts an entry in the place of the older one of its attempt. If it is a promise, it is on disk after the next
    /// [`Journal::flush`].
    fn put(&mut self, entry: &Entry) -> io::Result<()>;
    /// The attempt is over. If that is lost, it is found again, reported again, and the coordinator knows it already.
    fn remove(&mut self, id: AttemptId) -> io::Result<()>;
    /// When this returns, every promise that was put is on disk. If it fails, none counts that was put since the last time.
    fn flush(&mut self) -> io::Result<()>;
}

/// The journal as a file.
pub struct FileJournal {
    path: PathBuf,
    /// The newest line of each attempt.
    lines: BTreeMap<AttemptId, Vec<u8>>,
    /// For appending; without it the file has to be written anew.
    file: Option<File>,
    length: usize,
    /// What was there before the lines that are not flushed yet.
    before: BTreeMap<AttemptId, Option<Vec<u8>>>,
}

impl FileJournal {
    /// Opens no file yet; [`Journal::load`] does.
    pub fn new(path: &Path) -> Self {
        let path = path.to_owned();
        Self { path, lines: BTreeMap::new(), file: None, length: 0, before: BTreeMap::new() }
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        self.length += line.len();
        let Some(file) = &mut self.file else { return Ok(()) };
        let written = file.write_all(line);
        if written.is_err() {
            // Half a line may be there: what follows it must not be joined to it.
            self.file = None;
        }
        written
    }

    fn is_long(&self) -> bool {
        self.length > LONG_BYTES && self.length > 4 * self.lines.values().map(Vec::len).sum::<usize>()
    }

    fn write_anew(&mut self) -> io::Result<()> {
        let content: Vec<u8> = self.lines.values().flatten().copied().collect();
        durable::write(&self.path, &content)?;
        self.file = Some(OpenOptions::new().append(true).open(&self.path)?);
        self.length = content.len();
        Ok(())
    }
}

impl Journal for FileJournal {
    fn load(&mut self) -> io::Result<Loaded> {
        let content = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        let mut loaded = Read::default();
        for line in content.split_inclusive(|&byte| byte == b'\n') {
            loaded.take(line);
        }
        self.lines = loaded.lines;
        // A last line that was never finished must not be appended to. A full disk is no reason not to see to the jobs.
        if let Err(error) = self.write_anew() {
            tracing::warn!(%error, "the journal cannot be written anew; it is tried again with the next promise");
        }
        let damaged = loaded.damaged.into_iter().collect();
        Ok(Loaded { entries: loaded.entries.into_values().collect(), damaged })
    }

    fn put(&mut self, entry: &Entry) -> io::Result<()> {
        let (id, line) = (entry.id(), line_of(entry.id(), Some(entry))?);
        self.append(&line)?;
        let before = self.lines.insert(id, line);
        if entry.stage.is_promise() {
            self.before.entry(id).or_insert(before);
        }
        Ok(())
    }

    fn remove(&mut self, id: AttemptId) -> io::Result<()> {
        self.lines.remove(&id);
        self.before.remove(&id);
        // Keys of attempts and values of secrets need not lie there until the file is long: with few jobs that takes months.
        if self.lines.is_empty() && self.file.as_ref().is_some_and(|file| file.set_len(0).is_ok()) {
            self.length = 0;
            return Ok(());
        }
        self.append(&line_of(id, None)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.before.is_empty() {
            return Ok(());
        }
        let before = std::mem::take(&mut self.before);
        let flushed = match &self.file {
            Some(file) if !self.is_long() => file.sync_data(),
            _ => self.write_anew(),
        };
        if flushed.is_err() {
            // Whatever of it has come to the disk all the same is replaced by what counts.
            self.file = None;
            for (id, line) in before {
                match line {
                    Some(line) => self.lines.insert(id, line),
                    None => self.lines.remove(&id),
                };
            }
        }
        flushed
    }
}

/// What the lines come to that were read so far.
#[derive(Default)]
struct Read {
    lines: BTreeMap<AttemptId, Vec<u8>>,
    entries: BTreeMap<AttemptId, Entry>,
    damaged: BTreeSet<AttemptId>,
}

impl Read {
    fn take(&mut self, line: &[u8]) {
        let (whole, torn) = match line.strip_suffix(b"\n") {
            Some(whole) => (whole, false),
            None => (line, true),
        };
        let (id, json) = parts_of(whole);
        match (id, json.map(serde_json::from_slice::<Option<Entry>>)) {
            (_, Some(Ok(Some(entry)))) if !torn => {
                let id = entry.id();
                self.forget(id);
                self.lines.insert(id, line.to_owned());
                self.entries.insert(id, entry);
            }
            (Some(id), Some(Ok(None))) if !torn => self.forget(id),
            (Some(id), _) => match self.entries.get(&id).map(|entry| &entry.stage) {
                // It was started, that is sure, and what became of it is found out on the host.
                Some(Stage::Launching | Stage::Ended { .. }) => {
                    tracing::error!(attempt = %id, "a line of the journal is damaged; the older one of its attempt counts");
                }
                // The power went while its first line was written: nothing was promised.
                None if torn => {}
                Some(Stage::Offered { .. }) | None => self.damage(id),
            },
            // It may have said that any of those was started, and none may be started twice.
            (None, _) => {
                tracing::error!("the journal has a damaged line, and it cannot be said of which attempt");
                let doubtful = self.entries.iter().filter(|(_, entry)| matches!(entry.stage, Stage::Offered { .. }));
                let doubtful: Vec<AttemptId> = doubtful.map(|(id, _)| *id).collect();
                doubtful.into_iter().for_each(|id| self.damage(id));
            }
        }
    }

    fn damage(&mut self, id: AttemptId) {
        tracing::error!(attempt = %id, "the journal's entry is damaged; the job will be ended and reported as lost");
        self.forget(id);
        // It stays damaged until somebody has answered for it.
        self.lines.insert(id, line_with(id, 0, b"damaged"));
        self.damaged.insert(id);
    }

    fn forget(&mut self, id: AttemptId) {
        self.lines.remove(&id);
        self.entries.remove(&id);
        self.damaged.remove(&id);
    }
}

/// What is known of an attempt; `None` when it is over.
fn line_of(id: AttemptId, entry: Option<&Entry>) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(&entry)?;
    Ok(line_with(id, crc32c::crc32c(&json), &json))
}

/// `<CRC> <attempt> <CRC> <JSON>` and a line break, which JSON as it is written here does not have.
fn line_with(id: AttemptId, crc: u32, json: &[u8]) -> Vec<u8> {
    let name = id.to_string();
    let mut line = format!("{:08x} {name} {crc:08x} ", crc32c::crc32c(name.as_bytes())).into_bytes();
    line.extend(json);
    line.push(b'\n');
    line
}

/// The attempt and the JSON of a line, each if it is undamaged.
fn parts_of(line: &[u8]) -> (Option<AttemptId>, Option<&[u8]>) {
    let mut parts = line.splitn(4, |&byte| byte == b' ');
    let mut checked = || {
        let (crc, content) = (parts.next()?, parts.next()?);
        let crc = u32::from_str_radix(std::str::from_utf8(crc).ok()?, 16).ok()?;
        (crc32c::crc32c(content) == crc).then_some(content)
    };
    let (name, json) = (checked(), checked());
    (name.and_then(|name| std::str::from_utf8(name).ok()?.parse().ok()), json)
}

/// A journal in memory, for simulations: a copy shares its entries, as a file outlives the agent that writes it.
#[derive(Clone, Default)]
pub struct MemoryJournal {
    entries: Rc<RefCell<BTreeMap<AttemptId, Vec<u8>>>>,
}

impl Journal for MemoryJournal {
    fn load(&mut self) -> io::Result<Loaded> {
        let mut read = Read::default();
        self.entries.borrow().values().for_each(|line| read.take(line));
        Ok(Loaded { entries: read.entries.into_values().collect(), damaged: Vec::new() })
    }

    fn put(&mut self, entry: &Entry) -> io::Result<()> {
        self.entries.borrow_mut().insert(entry.id(), line_of(entry.id(), Some(entry))?);
        Ok(())
    }

    fn remove(&mut self, id: AttemptId) -> io::Result<()> {
        self.entries.borrow_mut().remove(&id);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
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
        Entry {
            assignment: Rc::new(assignment.expect("an assignment")),
            stage: Stage::Offered { claim: "c".to_owned() },
        }
    }

    fn reopened(journal: &FileJournal) -> Loaded {
        FileJournal::new(&journal.path).load().expect("readable")
    }

    #[test]
    fn entries_are_replaced_kept_private_and_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = FileJournal::new(&folder.path().join("journal"));
        assert!(journal.load().expect("there is none yet").entries.is_empty());
        journal.put(&entry(1)).expect("written");
        journal.put(&Entry { stage: Stage::Launching, ..entry(1) }).expect("replaced");
        journal.put(&entry(2)).expect("written");
        journal.flush().expect("on disk");
        assert_eq!(fs::metadata(&journal.path).expect("it is there").permissions().mode() & 0o777, 0o600);
        let loaded = reopened(&journal);
        assert_eq!(loaded.entries.iter().map(|entry| entry.id().attempt).collect::<Vec<_>>(), [1, 2]);
        assert!(matches!(loaded.entries[0].stage, Stage::Launching) && loaded.damaged.is_empty());
        journal.load().expect("readable");
        journal.remove(entry(1).id()).expect("removed");
        journal.remove(entry(1).id()).expect("removing again is no error");
        assert_eq!(reopened(&journal).entries.len(), 1);
    }

    /// What the file held, keys and secrets, does not outlive the last open attempt; and it goes on from there.
    #[test]
    fn it_is_empty_when_no_attempt_is_open() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = FileJournal::new(&folder.path().join("journal"));
        journal.load().expect("there is none yet");
        for attempt in [1, 2] {
            journal.put(&entry(attempt)).expect("written");
        }
        journal.flush().expect("on disk");
        journal.remove(entry(1).id()).expect("removed");
        assert_eq!(reopened(&journal).entries.len(), 1);
        journal.load().expect("readable");
        journal.remove(entry(2).id()).expect("removed");
        assert_eq!(fs::metadata(&journal.path).expect("it is there").len(), 0);
        journal.put(&entry(3)).expect("written");
        journal.flush().expect("on disk");
        let loaded = reopened(&journal);
        assert_eq!((loaded.entries[0].id().attempt, loaded.entries.len(), loaded.damaged), (3, 1, vec![]));
    }

    /// However long an agent runs, its journal stays as long as what it holds.
    #[test]
    fn what_counts_no_more_is_cleared_away() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = FileJournal::new(&folder.path().join("journal"));
        journal.load().expect("there is none yet");
        journal.put(&entry(1)).expect("written");
        for attempt in 2..5_000 {
            journal.put(&entry(attempt)).expect("written");
            journal.flush().expect("on disk");
            journal.remove(entry(attempt).id()).expect("removed");
        }
        let length = fs::metadata(&journal.path).expect("it is there").len();
        assert!(length < 2 * LONG_BYTES as u64, "{length} bytes for one entry");
        assert_eq!(reopened(&journal).entries.len(), 1);
    }

    /// A disk that fails: what was put since the last flush does not count, what was flushed before does.
    #[test]
    fn a_failed_flush_takes_back_what_was_put() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = FileJournal::new(&folder.path().join("journal"));
        journal.load().expect("there is none yet");
        journal.put(&entry(1)).expect("written");
        journal.flush().expect("on disk");
        // A file that takes nothing: the next line fails, and so does writing anew beside a folder of that name.
        journal.file = Some(File::options().append(true).open("/dev/full").expect("Linux has it"));
        let beside = folder.path().join("journal.new");
        fs::create_dir(&beside).expect("in the way");
        assert!(journal.put(&Entry { stage: Stage::Launching, ..entry(1) }).is_err());
        journal.put(&entry(2)).expect("only remembered");
        assert!(journal.flush().is_err());
        fs::remove_dir(&beside).expect("out of the way");
        journal.put(&entry(3)).expect("only remembered");
        journal.flush().expect("it works again");
        let loaded = reopened(&journal);
        assert_eq!(loaded.entries.iter().map(|entry| entry.id().attempt).collect::<Vec<_>>(), [1, 3]);
        assert!(matches!(loaded.entries[0].stage, Stage::Offered { .. }));
    }

    /// Wherever a bit of an entry is flipped it is noticed, and its attempt is still known; a line that was being written
    /// counts for nothing.
    #[test]
    fn damage_is_noticed_and_the_attempt_still_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = FileJournal::new(&folder.path().join("journal"));
        journal.load().expect("there is none yet");
        journal.put(&entry(1)).expect("written");
        journal.put(&entry(2)).expect("written");
        journal.flush().expect("on disk");
        let (whole, first) = (fs::read(&journal.path).expect("the entries"), journal.lines[&entry(1).id()].len());
        let json_from = whole.iter().position(|&byte| byte == b'{').expect("JSON");
        let separators = |place: &usize| *place >= json_from || whole[*place] != b' ';
        for place in (0..first - 1).filter(separators) {
            let mut flipped = whole.clone();
            flipped[place] ^= 4;
            fs::write(&journal.path, &flipped).expect("flipped");
            // Twice, because the first reader writes the file anew.
            for loaded in [reopened(&journal), reopened(&journal)] {
                // The JSON names the attempt as well.
                let damaged = if place < json_from - 9 { vec![] } else { vec![entry(1).id()] };
                assert_eq!((loaded.entries.len() + damaged.len(), loaded.damaged), (2, damaged), "flipped at {place}");
            }
        }
        // Only when the name is torn as well can it not be said that this was the second one's first line.
        for place in first + json_from - 10..whole.len() {
            fs::write(&journal.path, &whole[..place]).expect("torn");
            let loaded = reopened(&journal);
            assert_eq!((loaded.entries.len(), loaded.damaged.len()), (1, 0), "torn at {place}");
        }
    }

    /// Also on a full disk an agent starts, and knows what it has promised.
    #[test]
    fn a_journal_that_cannot_be_written_is_read_all_the_same() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = FileJournal::new(&folder.path().join("journal"));
        journal.load().expect("there is none yet");
        journal.put(&entry(1)).expect("written");
        journal.flush().expect("on disk");
        let beside = folder.path().join("journal.new");
        fs::create_dir(&beside).expect("in the way");
        let mut again = FileJournal::new(&journal.path);
        assert_eq!(again.load().expect("readable").entries.len(), 1);
        again.put(&entry(2)).expect("only remembered");
        assert!(again.flush().is_err());
        fs::remove_dir(&beside).expect("out of the way");
        again.put(&entry(2)).expect("only remembered");
        again.flush().expect("it works again");
        assert_eq!(reopened(&journal).entries.len(), 2);
    }

    /// An attempt that may have been started must not be taken for one that was only offered.
    #[test]
    fn after_a_torn_line_nothing_is_started_twice() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = FileJournal::new(&folder.path().join("journal"));
        journal.load().expect("there is none yet");
        journal.put(&entry(1)).expect("written");
        journal.put(&Entry { stage: Stage::Launching, ..entry(1) }).expect("written");
        journal.flush().expect("on disk");
        let whole = fs::read(&journal.path).expect("the entries");
        let second = whole.iter().position(|&byte| byte == b'\n').expect("two lines") + 1;
        for place in second + 1..whole.len() {
            fs::write(&journal.path, &whole[..place]).expect("torn");
            let loaded = reopened(&journal);
            assert_eq!((loaded.entries.len(), loaded.damaged), (0, vec![entry(1).id()]), "torn at {place}");
        }
        // What was surely started is looked for on the host, whatever the line after that would have said.
        let third = [&whole[..], &whole[second..whole.len() - 9]].concat();
        fs::write(&journal.path, third).expect("torn");
        assert!(matches!(reopened(&journal).entries[0].stage, Stage::Launching));
    }
}
