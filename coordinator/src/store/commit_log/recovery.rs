//! Opening a log that is there: every record is read and checked, a torn end is cut, damage is refused by name.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use drover_protocol::Timestamp;

use super::{
    CommitLog, EXTENSION, Segment,
    segment::{Found, HEADER_BYTES, SegmentReader},
};
use crate::{
    clock::Randomness,
    store::disk::{self, files_with_extension, sync_folder},
};

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{} is damaged at byte {offset}: {detail}", path.display())]
    Damaged { path: PathBuf, offset: u64, detail: String },
    #[error("reading the log in {} failed: {source}", folder.display())]
    Io { folder: PathBuf, source: io::Error },
}

/// What to do with damage that is no torn end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Nothing is touched; the error names the place.
    Refuse,
    /// The log ends before it from now on; what follows is put aside, into this sibling of the log's folder.
    PutAside,
}

/// Where what was behind damage is kept.
pub const ASIDE: &str = "log.damaged";

/// The segments as read, and where the good records end.
struct Scan {
    segments: Vec<Segment>,
    /// The last segment's reader, at the end of its last good record.
    last: SegmentReader,
    /// Files that follow the damage, if it is to be put aside.
    rest: Vec<PathBuf>,
}

impl CommitLog {
    /// Opens the log of a folder; `None` if there is none.
    ///
    /// # Errors
    /// `Damaged` names file and offset when a record is bad that others follow, when numbers are missing, or when
    /// segments of different stores lie together. `before_cut` is called before a torn end is cut.
    pub fn open(
        folder: &Path,
        segment_bytes: u64,
        randomness: Arc<dyn Randomness>,
        damage: Damage,
        before_cut: &dyn Fn() -> io::Result<()>,
    ) -> Result<Option<Self>, LogError> {
        let failed = |source| LogError::Io { folder: folder.to_owned(), source };
        for unfinished in files_with_extension(folder, "tmp").map_err(failed)? {
            disk::remove_if_there(&unfinished).map_err(failed)?;
        }
        let paths = files_with_extension(folder, EXTENSION).map_err(failed)?;
        let Some(scan) = scan(folder, &paths, damage)? else { return Ok(None) };
        put_aside(folder, &scan).map_err(failed)?;
        let (file, torn) = cut(&scan.last, before_cut).map_err(failed)?;
        let header = scan.last.header;
        let mut log = Self::of(folder, header.store, segment_bytes, randomness, scan.segments, file, header.salt)
            .map_err(failed)?;
        log.torn = torn;
        Ok(Some(log))
    }

    /// Forgets every commit after this one. For restores: it changes what the log says has happened.
    pub fn cut_after(&mut self, commit: u64) -> io::Result<()> {
        while self.segments.len() > 1 && self.active().first_commit > commit {
            let path = self.active().path.clone();
            fs::remove_file(&path)?;
            self.segments.pop();
        }
        sync_folder(&self.folder)?;
        let path = self.active().path.clone();
        let lost = || io::Error::other(format!("{} has lost its header", path.display()));
        let mut reader = SegmentReader::open(&path)?.ok_or_else(lost)?;
        let mut last = (self.active().first_commit - 1, Timestamp::EPOCH, HEADER_BYTES);
        while last.0 < commit {
            match reader.read()? {
                Found::Record { commit, at, .. } => last = (commit, at, 0),
                Found::Nothing | Found::Bad(_) => break,
            }
            last.2 = reader.offset;
        }
        reader.offset = last.2;
        self.file = File::options().read(true).write(true).open(&path)?;
        self.file_bytes = self.file.metadata()?.len();
        self.salt = reader.header.salt;
        zero(&self.file, last.2, self.file_bytes)?;
        let active = self.active();
        (active.last_commit, active.last_at, active.end) = last;
        Ok(())
    }
}

fn scan(folder: &Path, paths: &[PathBuf], damage: Damage) -> Result<Option<Scan>, LogError> {
    let failed = |source| LogError::Io { folder: folder.to_owned(), source };
    let mut segments: Vec<Segment> = Vec::new();
    let mut last: Option<SegmentReader> = None;
    for (place, path) in paths.iter().enumerate() {
        let read = match SegmentReader::open(path).map_err(failed)? {
            None => Err(LogError::Damaged { path: path.clone(), offset: 0, detail: "its header is bad".to_owned() }),
            Some(reader) => follows(&segments, last.as_ref(), &reader).and_then(|()| read_segment(reader, &segments)),
        };
        let (segment, reader, damaged) = match read {
            Ok(read) => read,
            Err(error @ LogError::Io { .. }) => return Err(error),
            Err(error) => match (damage, last) {
                (Damage::PutAside, Some(last)) => {
                    return Ok(Some(Scan { segments, last, rest: paths[place..].to_vec() }));
                }
                _ => return Err(error),
            },
        };
        segments.push(segment);
        match (damaged, damage) {
            (Some(error), Damage::Refuse) => return Err(error),
            (Some(_), Damage::PutAside) => {
                // The damaged segment itself is copied before it is cut.
                return Ok(Some(Scan { segments, last: reader, rest: paths[place..].to_vec() }));
            }
            (None, _) => last = Some(reader),
        }
    }
    Ok(last.map(|last| Scan { segments, last, rest: Vec::new() }))
}

/// Whether a segment continues those before it.
fn follows(before: &[Segment], last: Option<&SegmentReader>, next: &SegmentReader) -> Result<(), LogError> {
    let (Some(segment), Some(last)) = (before.last(), last) else { return Ok(()) };
    let damaged = |path: &Path, offset, detail| Err(LogError::Damaged { path: path.to_owned(), offset, detail });
    if next.header.store != last.header.store {
        return damaged(&next.path, 0, "it belongs to another store".to_owned());
    }
    let expected = segment.last_commit + 1;
    if next.header.first_commit != expected {
        let found = next.header.first_commit;
        let next = next.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let detail = format!("commit {expected} should follow here, but the next segment, {next}, begins with {found}");
        return damaged(&segment.path, segment.end, detail);
    }
    Ok(())
}

type ReadSegment = (Segment, SegmentReader, Option<LogError>);

/// Reads all of a segment. The last part is damage behind which good records were found.
fn read_segment(mut reader: SegmentReader, before: &[Segment]) -> Result<ReadSegment, LogError> {
    let failed = |path: &Path, source| LogError::Io { folder: path.to_owned(), source };
    let path = reader.path.clone();
    let first_commit = reader.header.first_commit;
    let last_at = before.last().map_or(Timestamp::EPOCH, |segment| segment.last_at);
    let mut segment =
        Segment { path: path.clone(), first_commit, last_commit: first_commit - 1, last_at, end: HEADER_BYTES };
    let what = loop {
        let expected = segment.last_commit + 1;
        match reader.read().map_err(|error| failed(&path, error))? {
            Found::Record { commit, at, .. } if commit == expected => {
                segment.last_commit = commit;
                segment.last_at = at;
            }
            Found::Record { commit, .. } => {
                let detail = format!("commit {expected} should be here, but it is {commit}");
                let error = LogError::Damaged { path: path.clone(), offset: segment.end, detail };
                reader.offset = segment.end;
                return Ok((segment, reader, Some(error)));
            }
            Found::Nothing => break "the record is missing",
            Found::Bad(what) => break what,
        }
        segment.end = reader.offset;
    };
    let behind = reader.search_behind().map_err(|error| failed(&path, error))?;
    let damage = behind.record.map(|(offset, commit)| LogError::Damaged {
        path,
        offset: segment.end,
        detail: format!(
            "commit {} should be here, but {what}, while commit {commit} follows at byte {offset}",
            segment.last_commit + 1
        ),
    });
    Ok((segment, reader, damage))
}

/// Keeps copies of what is about to be cut off as damaged.
fn put_aside(folder: &Path, scan: &Scan) -> io::Result<()> {
    let Some(parent) = folder.parent().filter(|_| !scan.rest.is_empty()) else { return Ok(()) };
    let aside = parent.join(ASIDE);
    for path in &scan.rest {
        if *path == scan.last.path {
            disk::create_folder(&aside)?;
            fs::copy(path, aside.join(path.file_name().unwrap_or_default()))?;
        } else {
            super::move_to(&aside, path)?;
        }
    }
    sync_folder(folder)
}

/// Clears what lies behind the last good record, so that it is never taken for one. `true` if there was anything.
fn cut(last: &SegmentReader, before_cut: &dyn Fn() -> io::Result<()>) -> io::Result<(File, bool)> {
    let file = File::options().read(true).write(true).open(&last.path)?;
    let behind = last.search_behind()?;
    let end = if behind.record.is_some() { last.file_bytes } else { behind.end };
    let torn = end > last.offset;
    if torn {
        tracing::warn!(segment = %last.path.display(), from = last.offset, to = end, "the torn end of the log is cut");
        before_cut()?;
    }
    zero(&file, last.offset, end)?;
    Ok((file, torn))
}

fn zero(file: &File, from: u64, to: u64) -> io::Result<()> {
    if from >= to {
        return Ok(());
    }
    let zeros = vec![0; 1024 * 1024];
    let mut at = from;
    while at < to {
        let piece = usize::try_from(to - at).unwrap_or(zeros.len()).min(zeros.len());
        file.write_all_at(&zeros[..piece], at)?;
        at += piece as u64;
    }
    file.sync_all()
}
