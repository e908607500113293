//! Backups of a running coordinator: one tar stream with the newest export, the log since, and local blobs.
//!
//! The first entry, `manifest.json`, says what it is; the last, `SHA256SUMS`, has the digest of every other, so that a
//! stream that was cut off or changed is known as such. Reading it again is `restore.rs`.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use drover_protocol::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use uuid::Uuid;

use super::embedded::{Contents, Embedded};

pub const FORMAT: u32 = 1;
pub const MANIFEST: &str = "manifest.json";
pub const SUMS: &str = "SHA256SUMS";
/// Folders of the entries.
pub const LOG: &str = "log/";
pub const EXPORT: &str = "export/";
pub const BLOBS: &str = "blobs/";

/// The first entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of the backup's form; a reader refuses those it does not know.
    pub format: u32,
    pub drover_version: String,
    pub created_at: Timestamp,
    pub store: Uuid,
    /// The earliest commit and time that can be restored, and the last.
    pub earliest: Point,
    pub last: Point,
    pub blobs: BlobsNote,
    /// `secrets.key` is never in a backup: whoever has the one must not have the other. Without it the secrets in the
    /// store cannot be read. This is the fingerprint of the one that fits.
    pub secrets_key_fingerprint: Option<String>,
}

/// A state of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    pub commit: u64,
    pub at: Timestamp,
}

/// Where the files, packages and sealed logs are that records name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlobsNote {
    Included,
    /// In an object store, which must be kept by its own means.
    Elsewhere,
}

/// Keeps blobs from being deleted while a backup copies them.
///
/// A blob is written before the record that names it and deleted after the last one is gone. So with deletions held
/// from before the backup's last commit is fixed, every blob that some record in the backup names is there to be copied.
#[derive(Debug, Default)]
pub struct BlobHold(RwLock<()>);

impl BlobHold {
    /// Held by a backup; waits for a deletion that is going on. Blocks: not for the threads of requests.
    pub fn hold(&self) -> RwLockReadGuard<'_, ()> {
        self.0.blocking_read()
    }

    /// Leave to delete while it is kept; `None` while a backup runs: try again later.
    pub fn try_delete(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        self.0.try_write().ok()
    }
}

/// Local blobs.
#[derive(Clone, Copy)]
pub struct Blobs<'a> {
    pub folder: &'a Path,
    pub hold: &'a BlobHold,
}

/// What is said in the manifest beside what the store knows itself.
#[derive(Clone, Debug)]
pub struct About {
    pub created_at: Timestamp,
    pub secrets_key_fingerprint: Option<String>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub manifest: Manifest,
    pub entries: u64,
    pub bytes: u64,
}

/// Writes a backup of the running store as of this moment; later commits go on meanwhile and are not in it.
///
/// # Errors
/// What cannot be read or written. What was written until then is known as cut off when it is read.
pub fn write(engine: &Embedded, blobs: Option<Blobs>, about: &About, out: impl Write) -> io::Result<Written> {
    let _held = blobs.map(|blobs| blobs.hold.hold());
    let contents = engine.contents()?;
    let manifest = Manifest {
        format: FORMAT,
        drover_version: env!("CARGO_PKG_VERSION").to_owned(),
        created_at: about.created_at,
        store: contents.store,
        earliest: earliest(&contents),
        last: Point { commit: contents.commit, at: contents.at },
        blobs: if blobs.is_some() { BlobsNote::Included } else { BlobsNote::Elsewhere },
        secrets_key_fingerprint: about.secrets_key_fingerprint.clone(),
    };
    let mut tar =
        Tar { out: tar::Builder::new(out), sums: tempfile::tempfile()?, entries: 0, bytes: 0, at: about.created_at };
    let text = serde_json::to_vec_pretty(&manifest)?;
    tar.add(MANIFEST, text.len() as u64, text.as_slice())?;
    for (segment, mut file) in contents.segments {
        file.seek(SeekFrom::Start(0))?;
        tar.add(&entry_name(LOG, &segment.path)?, segment.end, file)?;
    }
    if let Some((export, file)) = contents.export {
        let length = file.metadata()?.len();
        tar.add(&entry_name(EXPORT, &export.path)?, length, file)?;
    }
    if let Some(blobs) = blobs {
        tar.add_folder(blobs.folder, blobs.folder)?;
    }
    tar.finish(manifest)
}

fn earliest(contents: &Contents) -> Point {
    match &contents.export {
        Some((export, _)) => Point { commit: export.end, at: export.end_at },
        None => Point { commit: 0, at: Timestamp::EPOCH },
    }
}

fn entry_name(folder: &str, path: &Path) -> io::Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(|name| format!("{folder}{name}"))
        .ok_or_else(|| io::Error::other(format!("{} has no plain name", path.display())))
}

struct Tar<W: Write> {
    out: tar::Builder<W>,
    /// Lines of the last entry, in a file without a name: there may be millions.
    sums: File,
    entries: u64,
    bytes: u64,
    at: Timestamp,
}

impl<W: Write> Tar<W> {
    /// Adds an entry of exactly this length.
    fn add(&mut self, name: &str, length: u64, content: impl Read) -> io::Result<()> {
        let mut content = Hashing::new(content.take(length));
        self.append(name, length, &mut content)?;
        if content.bytes != length {
            return Err(io::Error::other(format!("{name} has become shorter while it was read")));
        }
        writeln!(self.sums, "{}  {name}", content.digest())?;
        self.entries += 1;
        self.bytes += length;
        Ok(())
    }

    fn append(&mut self, name: &str, length: u64, content: impl Read) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(length);
        header.set_mode(0o600);
        header.set_mtime(self.at.millis().unsigned_abs() / 1000);
        header.set_entry_type(tar::EntryType::Regular);
        self.out.append_data(&mut header, name, content)
    }

    /// Adds all blobs below a folder. What is gone when its turn comes was an upload that did not end.
    fn add_folder(&mut self, top: &Path, folder: &Path) -> io::Result<()> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
        paths.sort();
        for path in paths {
            let Ok(facts) = fs::symlink_metadata(&path) else { continue };
            if facts.is_dir() {
                self.add_folder(top, &path)?;
            } else if facts.is_file()
                && let Ok(file) = File::open(&path)
            {
                let relative = path.strip_prefix(top).ok().and_then(Path::to_str).filter(|name| !name.contains('\n'));
                let name = relative.ok_or_else(|| io::Error::other(format!("{} has no plain name", path.display())))?;
                let length = file.metadata()?.len();
                self.add(&format!("{BLOBS}{name}"), length, file)?;
            }
        }
        Ok(())
    }

    fn finish(mut self, manifest: Manifest) -> io::Result<Written> {
        let length = self.sums.stream_position()?;
        self.sums.seek(SeekFrom::Start(0))?;
        let sums = self.sums.try_clone()?;
        self.append(SUMS, length, sums)?;
        self.out.into_inner()?.flush()?;
        Ok(Written { manifest, entries: self.entries, bytes: self.bytes })
    }
}

/// Passes bytes on and takes their digest.
pub(super) struct Hashing<R> {
    inner: R,
    hash: Sha256,
    pub bytes: u64,
}

impl<R> Hashing<R> {
    pub fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }

    /// Of all that was read, in hexadecimal.
    pub fn digest(self) -> String {
        self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hash.update(&buffer[..length]);
        self.bytes += length as u64;
        Ok(length)
    }
}
