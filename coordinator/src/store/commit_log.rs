//! The commit log: every commit as one record, on disk before anybody is told. This, not the index, is what is kept.
//!
//! Records go into segments whose space is written beforehand, so that a commit is one overwrite and one `fdatasync`.
//! It knows nothing of the index that follows it, nor of what the keys mean.

pub mod recovery;
pub mod segment;

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use drover_protocol::Timestamp;
use uuid::Uuid;

use self::segment::{Found, HEADER_BYTES, SegmentHeader, SegmentReader, encode_record, seal};
use super::{
    disk::{self, create_file, is_out_of_space, sync_folder},
    engine::{EngineError, WriteSet},
};
use crate::clock::Randomness;

/// How the names of segments end.
pub const EXTENSION: &str = "log";
/// A segment that is being written full of zeros.
const NEXT: &str = "next.tmp";
/// Space is written in pieces of this size, each synced, so that commits meanwhile do not wait for all of it.
const FILL_BYTES: usize = 4 * 1024 * 1024;
const SMALLEST_SEGMENT_BYTES: u64 = 64 * 1024;
/// A buffer that grew beyond this for one large commit is given back.
const BUFFER_BYTES: usize = 16 * 1024 * 1024;

/// A segment as far as it holds records.
#[derive(Clone, Debug)]
pub struct Segment {
    pub path: PathBuf,
    pub first_commit: u64,
    /// Of its records; one less than the first if it has none yet.
    pub last_commit: u64,
    /// Time of the last commit.
    pub last_at: Timestamp,
    /// End of the last record.
    pub end: u64,
}

/// Takes number, time and payload of a commit.
pub type Apply<'a> = dyn FnMut(u64, Timestamp, &[u8]) -> io::Result<()> + 'a;

/// The log, open for appending.
pub struct CommitLog {
    folder: PathBuf,
    store: Uuid,
    segment_bytes: u64,
    randomness: Arc<dyn Randomness>,
    /// Never empty; the last one is written to.
    segments: Vec<Segment>,
    file: File,
    file_bytes: u64,
    salt: u32,
    preparing: Option<JoinHandle<io::Result<()>>>,
    buffer: Vec<u8>,
    last_record_bytes: u64,
    torn: bool,
}

impl CommitLog {
    /// A new log whose first commit will be number 1.
    pub fn create(folder: &Path, store: Uuid, segment_bytes: u64, randomness: Arc<dyn Randomness>) -> io::Result<Self> {
        let capacity = capacity(folder, segment_bytes, 0);
        fill(folder, capacity)?;
        let (file, segment, salt) = activate(folder, store, 1, Timestamp::EPOCH, &*randomness)?;
        Self::of(folder, store, segment_bytes, randomness, vec![segment], file, salt)
    }

    fn of(
        folder: &Path,
        store: Uuid,
        segment_bytes: u64,
        randomness: Arc<dyn Randomness>,
        segments: Vec<Segment>,
        file: File,
        salt: u32,
    ) -> io::Result<Self> {
        Ok(Self {
            folder: folder.to_owned(),
            store,
            segment_bytes,
            randomness,
            segments,
            file_bytes: file.metadata()?.len(),
            file,
            salt,
            preparing: None,
            buffer: Vec::new(),
            last_record_bytes: 0,
            torn: false,
        })
    }

    /// The id of the store that this log belongs to.
    pub fn store(&self) -> Uuid {
        self.store
    }

    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    fn active(&mut self) -> &mut Segment {
        self.segments.last_mut().expect("a log always has a segment")
    }

    pub fn last_commit(&self) -> u64 {
        self.segments.last().map_or(0, |segment| segment.last_commit)
    }

    /// Time of the last commit.
    pub fn last_at(&self) -> Timestamp {
        self.segments.last().map_or(Timestamp::EPOCH, |segment| segment.last_at)
    }

    /// Whether something that was no record was cut off its end when it was opened.
    pub fn was_torn(&self) -> bool {
        self.torn
    }

    /// Size of what was appended last.
    pub fn last_record_bytes(&self) -> u64 {
        self.last_record_bytes
    }

    /// Bytes of records from the segment on that holds the commit after this one.
    pub fn bytes_after(&self, commit: u64) -> u64 {
        self.segments.iter().filter(|segment| segment.last_commit > commit).map(|s| s.end - HEADER_BYTES).sum()
    }

    /// Appends a commit and gives its number when it is on disk. Times in the log never go back.
    ///
    /// # Errors
    /// `OutOfSpace`: nothing of it is left in the log. `Broken`: it may or may not be there.
    pub fn append(&mut self, writes: &WriteSet, now: Timestamp) -> Result<u64, EngineError> {
        let commit = self.last_commit() + 1;
        let at = now.max(self.last_at());
        let mut record = std::mem::take(&mut self.buffer);
        let appended = if encode_record(&mut record, self.salt, commit, at, writes) {
            self.append_record(&mut record, commit, at)
        } else {
            Err(EngineError::Broken("one commit is larger than a record of the log can be".to_owned()))
        };
        if record.capacity() <= BUFFER_BYTES {
            self.buffer = record;
        }
        appended.map(|()| commit)
    }

    fn append_record(&mut self, record: &mut [u8], commit: u64, at: Timestamp) -> Result<(), EngineError> {
        let length = record.len() as u64;
        if self.active().end + length > self.file_bytes {
            self.roll(HEADER_BYTES + length)?;
            seal(record, self.salt);
        }
        let offset = self.active().end;
        if let Err(error) = self.file.write_all_at(record, offset).and_then(|()| self.file.sync_data()) {
            return Err(self.take_back(record.len(), offset, &error));
        }
        let active = self.active();
        active.end += length;
        active.last_commit = commit;
        active.last_at = at;
        self.last_record_bytes = length;
        self.prepare_next();
        Ok(())
    }

    /// Clears what a failed write may have left, lest a later start takes it for a commit that was acknowledged.
    fn take_back(&mut self, length: usize, offset: u64, error: &io::Error) -> EngineError {
        let path = self.active().path.clone();
        if is_out_of_space(error) {
            let cleared = self.file.write_all_at(&vec![0; length], offset).and_then(|()| self.file.sync_data());
            match cleared {
                Ok(()) => return EngineError::OutOfSpace,
                Err(error) => return failed("taking a commit back from", &path, &error),
            }
        }
        failed("writing to", &path, error)
    }

    /// Goes on in a new segment of at least `needed` bytes.
    fn roll(&mut self, needed: u64) -> Result<(), EngineError> {
        let next = self.folder.join(NEXT);
        let prepared = self.preparing.take().is_some_and(|thread| matches!(thread.join(), Ok(Ok(()))));
        let fits = prepared && fs::metadata(&next).is_ok_and(|facts| facts.len() >= needed);
        let new = if fits { Ok(()) } else { fill(&self.folder, capacity(&self.folder, self.segment_bytes, needed)) };
        let first_commit = self.last_commit() + 1;
        let last_at = self.last_at();
        let activated = new.and_then(|()| activate(&self.folder, self.store, first_commit, last_at, &*self.randomness));
        let (file, segment, salt) = activated.map_err(|error| {
            // Half a segment only takes the space that is missing.
            let _ = disk::remove_if_there(&next);
            if is_out_of_space(&error) { EngineError::OutOfSpace } else { failed("starting", &next, &error) }
        })?;
        self.file_bytes = file.metadata().map_err(|error| failed("looking at", &segment.path, &error))?.len();
        self.file = file;
        self.salt = salt;
        if self.active().last_commit < self.active().first_commit {
            // Too small for its first record. The new one begins with the same commit and has taken its name.
            self.segments.pop();
        }
        self.segments.push(segment);
        Ok(())
    }

    /// Writes the next segment's space in the background once this one is half full.
    fn prepare_next(&mut self) {
        if self.preparing.is_some() || self.active().end < self.file_bytes / 2 {
            return;
        }
        let (folder, segment_bytes) = (self.folder.clone(), self.segment_bytes);
        let fill_next = move || fill(&folder, capacity(&folder, segment_bytes, 0));
        // Without a thread the segment is made when it is needed.
        self.preparing = std::thread::Builder::new().name("log segment".to_owned()).spawn(fill_next).ok();
    }

    /// Calls `apply` for every commit after this one, in order.
    ///
    /// # Errors
    /// Whatever cannot be read, and what `apply` gives.
    pub fn replay(&self, after: u64, apply: &mut Apply<'_>) -> io::Result<()> {
        for segment in self.segments.iter().filter(|segment| segment.last_commit > after) {
            let mut reader = SegmentReader::open(&segment.path)?
                .ok_or_else(|| io::Error::other(format!("{} has lost its header", segment.path.display())))?;
            while reader.offset < segment.end {
                match reader.read()? {
                    Found::Record { commit, at, payload } if commit > after => apply(commit, at, payload)?,
                    Found::Record { .. } => {}
                    Found::Nothing | Found::Bad(_) => {
                        let path = segment.path.display();
                        return Err(io::Error::other(format!("{path} has changed while it was read")));
                    }
                }
            }
        }
        Ok(())
    }

    /// Forgets the segments that hold nothing after this commit and names their files, the oldest first.
    pub fn take_through(&mut self, commit: u64) -> Vec<PathBuf> {
        let kept_from = self.segments.iter().position(|segment| segment.last_commit > commit);
        let count = kept_from.unwrap_or(self.segments.len()).min(self.segments.len() - 1);
        self.segments.drain(..count).map(|segment| segment.path).collect()
    }
}

impl Drop for CommitLog {
    fn drop(&mut self) {
        if let Some(thread) = self.preparing.take() {
            let _ = thread.join();
        }
    }
}

/// Moves a file into an archive, also to another file system.
pub fn move_to(archive: &Path, path: &Path) -> io::Result<()> {
    disk::create_folder(archive)?;
    let Some(name) = path.file_name() else { return Ok(()) };
    let target = archive.join(name);
    if fs::rename(path, &target).is_err() {
        let temporary = target.with_added_extension("tmp");
        fs::copy(path, &temporary)?;
        File::open(&temporary)?.sync_all()?;
        disk::put_in_place(&temporary, &target)?;
        fs::remove_file(path)?;
    }
    sync_folder(archive)
}

fn failed(action: &str, path: &Path, error: &io::Error) -> EngineError {
    EngineError::Broken(format!("{action} {} failed: {error}", path.display()))
}

/// The size of a new segment: as configured, but on a small or nearly full disk no more than an eighth of what is free.
fn capacity(folder: &Path, segment_bytes: u64, needed: u64) -> u64 {
    let affordable = disk::space(folder).map_or(segment_bytes, |(free, _)| free / 8 / 4096 * 4096);
    segment_bytes.min(affordable.max(SMALLEST_SEGMENT_BYTES)).max(needed).max(2 * HEADER_BYTES)
}

/// Writes the space of a new segment. Zeros that are really written: later overwrites then need neither space nor
/// changes of the file system's own records.
fn fill(folder: &Path, bytes: u64) -> io::Result<()> {
    let path = folder.join(NEXT);
    let file = create_file(&path)?;
    let zeros = vec![0; FILL_BYTES];
    let mut offset = 0;
    while offset < bytes {
        let piece = usize::try_from(bytes - offset).unwrap_or(FILL_BYTES).min(FILL_BYTES);
        file.write_all_at(&zeros[..piece], offset)?;
        file.sync_data()?;
        offset += piece as u64;
    }
    file.sync_all()
}

/// Makes the prepared file the segment that begins with this commit.
fn activate(
    folder: &Path,
    store: Uuid,
    first_commit: u64,
    last_at: Timestamp,
    randomness: &dyn Randomness,
) -> io::Result<(File, Segment, u32)> {
    let next = folder.join(NEXT);
    let file = File::options().read(true).write(true).open(&next)?;
    let mut salt = [0; 4];
    randomness.fill(&mut salt);
    let salt = u32::from_le_bytes(salt);
    file.write_all_at(&SegmentHeader { first_commit, salt, store }.encode(), 0)?;
    file.sync_all()?;
    let path = folder.join(format!("{first_commit:020}.{EXTENSION}"));
    disk::put_in_place(&next, &path)?;
    let segment = Segment { path, first_commit, last_commit: first_commit - 1, last_at, end: HEADER_BYTES };
    Ok((file, segment, salt))
}
