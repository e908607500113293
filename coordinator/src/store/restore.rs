//! Restores: makes a store out of a backup, as of its last commit or an earlier time, and proves that it is sound.
//!
//! Nothing of a backup is believed before its digest is known to be right; a restore that fails leaves nothing behind.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, Write},
    path::{Component, Path, PathBuf},
};

use drover_protocol::Timestamp;

use super::{
    backup::{BLOBS, BlobsNote, EXPORT, FORMAT, Hashing, LOG, MANIFEST, Manifest, Point, SUMS},
    check::{Report, check},
    commit_log::{CommitLog, recovery::Damage},
    disk::{self, create_file, create_folder, sync_folder},
    embedded::{Embedded, OpenError, RESTORING, Settings},
    engine::{Engine, EngineError},
    export,
};

/// A manifest is far smaller.
const LARGEST_MANIFEST_BYTES: u64 = 1024 * 1024;
/// The operator may have put this into the folder beforehand; it is not in a backup.
const SECRETS_KEY: &str = "secrets.key";

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("{} is not empty; restore into a folder that is empty or not there", .0.display())]
    NotEmpty(PathBuf),
    #[error("this is no backup of a coordinator: {0}")]
    NoBackup(String),
    #[error(
        "the backup was made by Drover {version} in the form {format}, this program reads form {FORMAT}; use a newer one"
    )]
    UnknownFormat { version: String, format: u32 },
    #[error("the backup is cut off or damaged: {0}; take another copy of it, or an older backup")]
    Damaged(String),
    #[error("the backup can be restored as of {earliest} and later, but {asked} was asked for; take an older backup")]
    TooEarly { asked: Timestamp, earliest: Timestamp },
    #[error("{action} {} failed: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What was done.
#[derive(Clone, Debug)]
pub struct RestoreReport {
    pub manifest: Manifest,
    /// The state that was restored.
    pub restored: Point,
    /// Files that were verified, with their bytes; blobs among them.
    pub entries: u64,
    pub bytes: u64,
    pub blobs: u64,
    /// Records against indexes. Restored all the same if there are problems: they were in the store already.
    pub check: Report,
}

impl std::fmt::Display for RestoreReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { manifest, restored, entries, bytes, blobs, check } = self;
        writeln!(
            f,
            "backup of store {} made at {} by Drover {}",
            manifest.store, manifest.created_at, manifest.drover_version
        )?;
        writeln!(f, "{entries} files with {bytes} bytes verified, {blobs} blobs among them")?;
        if manifest.blobs == BlobsNote::Elsewhere {
            writeln!(f, "blobs are not in it: they lie in an object store of their own")?;
        }
        writeln!(f, "state as of {} (commit {} of {})", restored.at, restored.commit, manifest.last.commit)?;
        match &manifest.secrets_key_fingerprint {
            Some(fingerprint) => {
                writeln!(f, "{SECRETS_KEY} is not in it: put the one with fingerprint {fingerprint} into the folder")?
            }
            None => writeln!(f, "{SECRETS_KEY} is not in it")?,
        }
        write!(f, "{check}")
    }
}

/// Restores a backup into the folder of a store, `to`, as of the last commit not after `until`. With `verify_only`
/// it does all of that in a temporary folder, copies no blob, and leaves nothing.
pub fn restore(
    from: impl Read,
    to: &Path,
    settings: Settings,
    until: Option<Timestamp>,
    verify_only: bool,
) -> Result<RestoreReport, RestoreError> {
    if verify_only {
        let folder =
            tempfile::tempdir().map_err(|source| io_error("making a folder in", &std::env::temp_dir(), source))?;
        return fill(from, folder.path(), settings, until, false);
    }
    let entries = disk_entries(to).map_err(|source| io_error("reading", to, source))?;
    if entries.iter().any(|name| name != SECRETS_KEY) {
        return Err(RestoreError::NotEmpty(to.to_owned()));
    }
    create_folder(to).map_err(|source| io_error("making", to, source))?;
    let unfinished = to.join(RESTORING);
    disk::write_whole(&unfinished, b"a restore is filling this folder\n")
        .map_err(|source| io_error("writing", &unfinished, source))?;
    let restored = fill(from, to, settings, until, true);
    if restored.is_err() {
        clear(to).map_err(|source| io_error("clearing", to, source))?;
    }
    restored
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> RestoreError {
    RestoreError::Io { action, path: path.to_owned(), source }
}

fn disk_entries(folder: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| entry.map(|entry| entry.file_name())).collect(),
    }
}

/// Removes all that was put into the folder.
fn clear(folder: &Path) -> io::Result<()> {
    for name in disk_entries(folder)?.into_iter().filter(|name| name != SECRETS_KEY) {
        let path = folder.join(name);
        if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
    }
    Ok(())
}

fn fill(
    from: impl Read,
    to: &Path,
    settings: Settings,
    until: Option<Timestamp>,
    with_blobs: bool,
) -> Result<RestoreReport, RestoreError> {
    let unpacked = unpack(from, to, with_blobs)?;
    let restored = cut(to, &settings, &unpacked.manifest, until)?;
    disk::remove_if_there(&to.join(RESTORING)).map_err(|source| io_error("clearing", to, source))?;
    let engine = Embedded::open(to, settings)?;
    let check = check(&*engine.view())?;
    engine.close()?;
    let Unpacked { manifest, entries, bytes, blobs, .. } = unpacked;
    Ok(RestoreReport { manifest, restored, entries, bytes, blobs, check })
}

struct Unpacked {
    manifest: Manifest,
    /// The digests as found, in the form of the last entry.
    sums: File,
    entries: u64,
    bytes: u64,
    blobs: u64,
}

/// Writes out all entries and compares their digests with the last one.
fn unpack(from: impl Read, to: &Path, with_blobs: bool) -> Result<Unpacked, RestoreError> {
    let damaged = |error: io::Error| RestoreError::Damaged(error.to_string());
    let mut archive = tar::Archive::new(from);
    let mut entries = archive.entries().map_err(damaged)?;
    let first = entries.next().ok_or_else(|| RestoreError::NoBackup("it is empty".to_owned()))?;
    let first = first.map_err(|error| RestoreError::NoBackup(error.to_string()))?;
    let sums = tempfile::tempfile().map_err(|source| io_error("making a file in", &std::env::temp_dir(), source))?;
    let (manifest, sum) = read_manifest(first)?;
    let mut unpacked = Unpacked { manifest, sums, entries: 1, bytes: 0, blobs: 0 };
    unpacked.note(&sum, MANIFEST)?;
    for entry in entries {
        let mut entry = entry.map_err(damaged)?;
        let name = std::str::from_utf8(&entry.path_bytes()).map(str::to_owned);
        let name = name.map_err(|_| RestoreError::Damaged("an entry has a name that is no text".to_owned()))?;
        if name == SUMS {
            unpacked.compare(entry)?;
            return Ok(unpacked);
        }
        let path = destination(&name, to).filter(|_| entry.header().entry_type().is_file());
        let path = path.ok_or_else(|| RestoreError::Damaged(format!("\"{name}\" does not belong into a backup")))?;
        let is_blob = name.starts_with(BLOBS);
        let mut content = Hashing::new(&mut entry);
        if is_blob && !with_blobs {
            io::copy(&mut content, &mut io::sink()).map_err(damaged)?;
        } else {
            write_out(&mut content, &path)?;
        }
        unpacked.entries += 1;
        unpacked.blobs += u64::from(is_blob);
        unpacked.bytes += content.bytes;
        let sum = content.digest();
        unpacked.note(&sum, &name)?;
    }
    Err(RestoreError::Damaged(format!("its last entry, {SUMS}, is missing")))
}

impl Unpacked {
    fn note(&mut self, sum: &str, name: &str) -> Result<(), RestoreError> {
        writeln!(self.sums, "{sum}  {name}").map_err(|source| io_error("noting the digest of", Path::new(name), source))
    }

    /// Compares the digests that were found with those that the backup lists, line by line.
    fn compare(&mut self, listed: impl Read) -> Result<(), RestoreError> {
        let damaged = |error: io::Error| RestoreError::Damaged(error.to_string());
        self.sums.rewind().map_err(damaged)?;
        let mut found = BufReader::new(&self.sums).lines();
        for line in BufReader::new(listed).lines() {
            let line = line.map_err(damaged)?;
            let found = found.next().transpose().map_err(damaged)?.unwrap_or_default();
            if line != found {
                let name = line.split_once("  ").map_or(line.as_str(), |(_, name)| name);
                return Err(RestoreError::Damaged(format!("{name} is not as it was written")));
            }
        }
        match found.next() {
            None => Ok(()),
            Some(_) => Err(RestoreError::Damaged(format!("{SUMS} is cut off"))),
        }
    }
}

fn read_manifest(entry: impl Read) -> Result<(Manifest, String), RestoreError> {
    let mut text = Vec::new();
    let mut content = Hashing::new(entry.take(LARGEST_MANIFEST_BYTES));
    content.read_to_end(&mut text).map_err(|error| RestoreError::NoBackup(error.to_string()))?;
    let no_manifest = || RestoreError::NoBackup(format!("its first entry is not a {MANIFEST}"));
    let facts: serde_json::Value = serde_json::from_slice(&text).map_err(|_| no_manifest())?;
    let format = facts.get("format").and_then(serde_json::Value::as_u64).ok_or_else(no_manifest)?;
    if format != u64::from(FORMAT) {
        let version = facts.get("drover_version").and_then(serde_json::Value::as_str).unwrap_or("?").chars().take(40);
        return Err(RestoreError::UnknownFormat {
            version: version.collect(),
            format: u32::try_from(format).unwrap_or(u32::MAX),
        });
    }
    let manifest = serde_json::from_value(facts).map_err(|_| no_manifest())?;
    Ok((manifest, content.digest()))
}

/// Where an entry goes; `None` for a name that no backup has.
fn destination(name: &str, to: &Path) -> Option<PathBuf> {
    let path = Path::new(name);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    let depth = path.components().count();
    let has_extension = |extension: &str| path.extension().is_some_and(|found| found == extension);
    let known = (name.starts_with(LOG) && depth == 2 && has_extension(super::commit_log::EXTENSION))
        || (name.starts_with(EXPORT) && depth == 2 && has_extension(export::EXTENSION))
        || (name.starts_with(BLOBS) && depth >= 2);
    (plain && known).then(|| to.join(path))
}

fn write_out(content: &mut impl Read, path: &Path) -> Result<(), RestoreError> {
    let failed = |source| io_error("writing", path, source);
    let folder = path.parent().unwrap_or(path);
    create_folder(folder).map_err(failed)?;
    let mut file = create_file(path).map_err(failed)?;
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let length = content.read(&mut buffer).map_err(|error| RestoreError::Damaged(error.to_string()))?;
        if length == 0 {
            break;
        }
        file.write_all(&buffer[..length]).map_err(failed)?;
    }
    file.sync_all().and_then(|()| sync_folder(folder)).map_err(failed)
}

/// Ends the log at the last commit not after `until`, and tells which that is.
fn cut(
    store: &Path,
    settings: &Settings,
    manifest: &Manifest,
    until: Option<Timestamp>,
) -> Result<Point, RestoreError> {
    let folder = store.join(LOG);
    let read = |source| io_error("reading the log in", &folder, source);
    let randomness = settings.randomness.clone();
    let log = CommitLog::open(&folder, settings.segment_bytes, randomness, Damage::Refuse, &|| Ok(()))
        .map_err(OpenError::Log)?;
    let mut log = log.ok_or_else(|| RestoreError::Damaged("it has no log".to_owned()))?;
    if log.last_commit() != manifest.last.commit {
        return Err(RestoreError::Damaged(format!(
            "its log ends at commit {}, not at {}",
            log.last_commit(),
            manifest.last.commit
        )));
    }
    let Some(until) = until else { return Ok(manifest.last) };
    if until < manifest.earliest.at {
        return Err(RestoreError::TooEarly { asked: until, earliest: manifest.earliest.at });
    }
    let mut last = manifest.earliest;
    log.replay(last.commit, &mut |commit, at, _| {
        if at <= until {
            last = Point { commit, at };
        }
        Ok(())
    })
    .map_err(read)?;
    log.cut_after(last.commit).map_err(read)?;
    Ok(last)
}
