//! Packages: fetched by digest into a cache, verified, unpacked into the folder of a job.
//!
//! The cache holds the zip files as they came. Each attempt unpacks its own copy, so that no process can spoil what the next
//! one gets; damage of a cached file is found by the checksums inside of it, and mended by fetching it again.

use std::{
    cell::Cell,
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use drover_protocol::{agent::AssignedVersion, job::CauseCode};
use futures::StreamExt;
use sha2::{Digest, Sha256};
use tokio::{io::AsyncWriteExt, time::Instant};

use crate::{
    coordinator::{CallError, Coordinator},
    durable,
    transport::Transport,
};

/// Most entries of one package.
const MAX_ENTRIES: usize = 200_000;
/// How long the download is tried while nothing of it is received.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Why a package cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    #[error("the package cannot be fetched: {0}")]
    Unavailable(String),
    /// Trying again would not help.
    #[error("the coordinator does not give the package out: {0}")]
    Refused(String),
    #[error("the package is not valid: {0}")]
    Invalid(String),
    #[error("the package cannot be written to this host's disk: {0}")]
    Disk(#[from] io::Error),
}

impl PackageError {
    pub fn code(&self) -> CauseCode {
        match self {
            Self::Unavailable(_) | Self::Refused(_) | Self::Disk(_) => CauseCode::PackageUnavailable,
            Self::Invalid(_) => CauseCode::PackageInvalid,
        }
    }
}

/// How many bytes of a download were there at the most, and since when: what only comes again is no progress.
#[derive(Clone, Copy)]
struct Received {
    most: u64,
    at: Instant,
}

/// Fetched packages, kept for the next job.
pub struct PackageCache {
    folder: PathBuf,
    limit_bytes: u64,
}

impl PackageCache {
    pub fn open(folder: &Path, limit_bytes: u64) -> io::Result<Self> {
        durable::create_private_folder(folder)?;
        Ok(Self { folder: folder.to_owned(), limit_bytes })
    }

    fn path(&self, version: &AssignedVersion) -> PathBuf {
        self.folder.join(format!("{}.zip", version.sha256.to_ascii_lowercase()))
    }

    /// The disk is full: removes what was kept for later jobs, and the begun download of this version. Returns whether that
    /// gave room, so that trying again may help; if not, the version's own package goes as well.
    pub fn make_all_room(&self, version: &AssignedVersion) -> io::Result<bool> {
        let path = self.path(version);
        let _ = fs::remove_file(path.with_extension("partial"));
        let removed = self.make_room(0, &path)?;
        if !removed {
            let _ = fs::remove_file(&path);
        }
        Ok(removed)
    }

    /// A version could not be unpacked: removes its zip file if the disk has damaged that, so that it is fetched again. Returns
    /// whether it did. Not to be called while the same digest is fetched.
    pub async fn remove_damaged(&self, version: &AssignedVersion) -> io::Result<bool> {
        let path = self.path(version);
        match digest_of(path.clone()).await {
            Ok(digest) if digest == version.sha256.to_ascii_lowercase() => Ok(false),
            Ok(_) => fs::remove_file(&path).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The zip file of a version, from the cache or fetched; it stays readable if it is evicted meanwhile. Not to be called for
    /// the same digest twice at a time.
    pub async fn fetch<T: Transport>(
        &self,
        coordinator: &Coordinator<T>,
        version: &AssignedVersion,
    ) -> Result<File, PackageError> {
        if version.sha256.len() != 64 || !version.sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(PackageError::Invalid("its digest is not a SHA-256".to_owned()));
        }
        let path = self.path(version);
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() == version.size_bytes) {
            touch(&path);
            return Ok(File::open(path)?);
        }
        self.make_room(self.limit_bytes.saturating_sub(version.size_bytes), &path)?;
        let partial = path.with_extension("partial");
        for again in [true, false] {
            self.download(coordinator, version, &partial).await?;
            if digest_of(partial.clone()).await? == version.sha256.to_ascii_lowercase() {
                fs::rename(&partial, &path)?;
                durable::sync_folder(&self.folder)?;
                return Ok(File::open(&path)?);
            }
            fs::remove_file(&partial)?;
            // Pieces of an interrupted download may not fit together; a whole one that is wrong stays wrong.
            if !again {
                break;
            }
        }
        Err(PackageError::Invalid("the bytes received do not have the digest they were announced with".to_owned()))
    }

    /// Fetches what is missing; the file has the announced size afterwards.
    async fn download<T: Transport>(
        &self,
        coordinator: &Coordinator<T>,
        version: &AssignedVersion,
        partial: &Path,
    ) -> Result<(), PackageError> {
        let received = Cell::new(Received { most: 0, at: Instant::now() });
        let work = async {
            loop {
                match self.download_piece(coordinator, version, partial, &received).await {
                    Err(PackageError::Unavailable(why)) => {
                        tracing::warn!(%why, "the download of a package was interrupted; it goes on");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                    done => return done,
                }
            }
        };
        let mut work = std::pin::pin!(work);
        loop {
            let patience_ends = received.get().at + PATIENCE;
            match tokio::time::timeout_at(patience_ends, &mut work).await {
                Ok(done) => return done,
                Err(_) if received.get().at + PATIENCE > patience_ends => {}
                Err(_) => {
                    let why = format!("nothing of it was received for {} minutes", PATIENCE.as_secs() / 60);
                    return Err(PackageError::Unavailable(why));
                }
            }
        }
    }

    async fn download_piece<T: Transport>(
        &self,
        coordinator: &Coordinator<T>,
        version: &AssignedVersion,
        partial: &Path,
        received: &Cell<Received>,
    ) -> Result<(), PackageError> {
        let have = fs::metadata(partial).map_or(0, |metadata| metadata.len());
        if have == version.size_bytes && have > 0 {
            return Ok(());
        }
        let have = if have > version.size_bytes { 0 } else { have };
        let answer =
            coordinator.until_answered("package", async || coordinator.package(&version.sha256, have).await).await;
        let (mut body, resumed) = match answer {
            Ok(answer) => answer,
            Err(CallError::Refused { problem }) => return Err(PackageError::Refused(problem.detail)),
            Err(error) => return Err(PackageError::Unavailable(error.to_string())),
        };
        let mut options = OpenOptions::new();
        options.write(true).create(true).mode(0o600);
        let file = if resumed { options.append(true).open(partial)? } else { options.truncate(true).open(partial)? };
        let mut file = tokio::fs::File::from_std(file);
        let mut size = if resumed { have } else { 0 };
        while let Some(chunk) = body.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => {
                    file.flush().await?;
                    return Err(PackageError::Unavailable(error.0));
                }
            };
            size += chunk.len() as u64;
            if size > version.size_bytes {
                drop(file);
                fs::remove_file(partial)?;
                return Err(PackageError::Invalid("more bytes were received than announced".to_owned()));
            }
            file.write_all(&chunk).await?;
            if size > received.get().most {
                received.set(Received { most: size, at: Instant::now() });
            }
        }
        file.flush().await?;
        file.sync_all().await?;
        if size < version.size_bytes {
            return Err(PackageError::Unavailable("the answer ended early".to_owned()));
        }
        Ok(())
    }

    /// Removes the packages that were not used for longest until all others have at most `most_bytes`; returns whether there
    /// was any to remove.
    fn make_room(&self, most_bytes: u64, keep: &Path) -> io::Result<bool> {
        let (mut files, mut removed) = (Vec::new(), false);
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if entry.path().with_extension("") != keep.with_extension("") {
                files.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in files {
            if total <= most_bytes {
                break;
            }
            tracing::debug!(path = %path.display(), "a package is evicted from the cache");
            fs::remove_file(&path)?;
            (total, removed) = (total - size, true);
        }
        Ok(removed)
    }
}

/// Marks a file as used now. Failing to do so only makes eviction less fair.
fn touch(path: &Path) {
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
    if let Ok(file) = File::open(path) {
        let _ = rustix::fs::futimens(file, &times);
    }
}

async fn digest_of(path: PathBuf) -> io::Result<String> {
    tokio::task::spawn_blocking(move || {
        let mut file = File::open(path)?;
        let (mut digest, mut buffer) = (Sha256::new(), vec![0; 128 * 1024]);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hex(&digest.finalize())),
                count => digest.update(&buffer[..count]),
            }
        }
    })
    .await
    .map_err(io::Error::other)?
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Unpacks a package into a folder that does not exist yet. No entry can reach out of it; links are refused.
pub fn unpack(zip: File, target: &Path, limit_bytes: u64) -> Result<(), PackageError> {
    let invalid = |error: &dyn std::fmt::Display| PackageError::Invalid(error.to_string());
    let mut archive = zip::ZipArchive::new(zip).map_err(|error| invalid(&error))?;
    if archive.len() > MAX_ENTRIES {
        return Err(PackageError::Invalid(format!("it has more than {MAX_ENTRIES} entries")));
    }
    create_folder(target)?;
    let (mut left, mut seen) = (limit_bytes, HashSet::new());
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|error| invalid(&error))?;
        let name = entry.name().map_err(|error| invalid(&error))?.into_owned();
        let path = target.join(checked_name(&name)?);
        if entry.is_symlink() || entry.encrypted() {
            return Err(PackageError::Invalid(format!("\"{}\" is a link or encrypted", name.escape_debug())));
        }
        if entry.is_dir() {
            create_folder(&path)?;
            continue;
        }
        if !seen.insert(path.clone()) {
            return Err(PackageError::Invalid(format!("\"{}\" is there twice", name.escape_debug())));
        }
        if let Some(parent) = path.parent() {
            create_folder(parent)?;
        }
        let executable = entry.unix_mode().is_some_and(|mode| mode & 0o111 != 0);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(if executable { 0o755 } else { 0o644 })
            .open(&path)
            .map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
                    PackageError::Invalid(format!("\"{}\" clashes with another entry", name.escape_debug()))
                }
                _ => PackageError::Disk(error),
            })?;
        // One byte more than allowed, so that being over the limit is seen; what the entry claims is not believed.
        left -=
            copy_entry(&mut entry, &mut file, left.saturating_add(1)).map_err(|error| error.of_entry(&name)).and_then(
                |copied| if copied > left { Err(PackageError::Invalid(over(limit_bytes))) } else { Ok(copied) },
            )?;
    }
    Ok(())
}

fn over(limit_bytes: u64) -> String {
    format!("unpacked it is larger than {limit_bytes} bytes, the limit of this host (limits.unpacked_bytes)")
}

enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

impl CopyError {
    fn of_entry(self, name: &str) -> PackageError {
        match self {
            Self::Read(error) => {
                PackageError::Invalid(format!("\"{}\" cannot be unpacked: {error}", name.escape_debug()))
            }
            Self::Write(error) => PackageError::Disk(error),
        }
    }
}

fn copy_entry(entry: &mut impl Read, file: &mut File, most: u64) -> Result<u64, CopyError> {
    let (mut buffer, mut copied) = (vec![0; 64 * 1024], 0);
    while copied < most {
        let count = entry.read(&mut buffer).map_err(CopyError::Read)?;
        if count == 0 {
            break;
        }
        file.write_all(&buffer[..count]).map_err(CopyError::Write)?;
        copied += count as u64;
    }
    Ok(copied)
}

fn create_folder(path: &Path) -> Result<(), PackageError> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            PackageError::Invalid(format!("\"{}\" is both a file and a folder", path.display()))
        }
        _ => PackageError::Disk(error),
    })
}

/// The path of an entry, if it is surely inside.
fn checked_name(name: &str) -> Result<PathBuf, PackageError> {
    let refused = || PackageError::Invalid(format!("the name \"{}\" is not allowed", name.escape_debug()));
    if name.is_empty() || name.contains(['\\', '\0']) || name.starts_with('/') {
        return Err(refused());
    }
    let path = PathBuf::from(name);
    let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    if inside { Ok(path) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::stream;
    use zip::write::SimpleFileOptions;

    use super::*;
    use crate::transport::{Request, Response, TransportError};

    fn zip_of(entries: &[(&str, &[u8])]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut zip = zip::ZipWriter::new(file.reopen().expect("the file"));
        for (name, content) in entries {
            let options =
                SimpleFileOptions::default().unix_permissions(if name.ends_with(".sh") { 0o755 } else { 0o644 });
            zip.start_file(*name, options).expect("an entry");
            zip.write_all(content).expect("content");
        }
        zip.finish().expect("a zip");
        file
    }

    fn unpacked(entries: &[(&str, &[u8])], limit: u64) -> Result<tempfile::TempDir, PackageError> {
        let folder = tempfile::tempdir().expect("a folder");
        unpack(zip_of(entries).reopen()?, &folder.path().join("out"), limit)?;
        Ok(folder)
    }

    #[test]
    fn an_honest_package_is_unpacked_with_its_modes() {
        use std::os::unix::fs::PermissionsExt;
        let folder = unpacked(&[("main.py", b"print()"), ("bin/имя.sh", b"#!")], 1000).expect("unpacked");
        let out = folder.path().join("out");
        assert_eq!(fs::read(out.join("main.py")).expect("the file"), b"print()");
        assert_eq!(fs::metadata(out.join("bin/имя.sh")).expect("the file").permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn no_entry_gets_out() {
        for name in ["../evil", "a/../../evil", "/etc/evil", "a\\..\\evil", "./../evil", "a/./b"] {
            let result = unpacked(&[(name, b"x")], 1000);
            // What the zip library refuses or mends itself may stay inside, but never outside.
            if let Ok(folder) = result {
                assert!(!folder.path().join("evil").exists(), "{name}");
            }
        }
        assert!(checked_name("../evil").is_err() && checked_name("/evil").is_err() && checked_name("a\\b").is_err());
        assert!(checked_name("a/b.txt").is_ok() && checked_name("..a/b").is_ok());
    }

    #[test]
    fn links_are_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut zip = zip::ZipWriter::new(file.reopen().expect("the file"));
        zip.add_symlink("link", "/etc/passwd", SimpleFileOptions::default()).expect("a link");
        zip.finish().expect("a zip");
        let folder = tempfile::tempdir().expect("a folder");
        let result = unpack(file.reopen().expect("the file"), &folder.path().join("out"), 1000);
        assert!(matches!(result, Err(PackageError::Invalid(why)) if why.contains("link")));
    }

    #[test]
    fn clashes_and_bombs_are_refused() {
        assert!(matches!(unpacked(&[("a", b"1"), ("a/b", b"2")], 1000), Err(PackageError::Invalid(_))));
        let zeros = vec![0; 10_000_000];
        let result = unpacked(&[("bomb", &zeros)], 1_000_000);
        assert!(matches!(result, Err(PackageError::Invalid(why)) if why.contains("1000000 bytes")));
        assert!(unpacked(&[("all", &zeros[..1_000_000])], 1_000_000).is_ok(), "exactly the limit is allowed");
    }

    /// Gives a package out in pieces with pauses in between, whatever part is asked for.
    struct Slow {
        pieces: u32,
        pause: Duration,
    }

    impl Transport for Slow {
        async fn call(&self, _: Request) -> Result<Response, TransportError> {
            let pause = self.pause;
            let pieces = stream::iter(0..self.pieces).then(move |_| async move {
                tokio::time::sleep(pause).await;
                Ok(Bytes::from_static(b"piece"))
            });
            Ok(Response { status: http::StatusCode::OK, headers: http::HeaderMap::new(), body: pieces.boxed_local() })
        }
    }

    async fn fetched(transport: Slow, content: &[u8]) -> Result<File, PackageError> {
        let version = serde_json::from_value(serde_json::json!({
            "id": "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f", "number": 1, "sha256": hex(&Sha256::digest(content)),
            "size_bytes": content.len(), "manifest": {"source": "inferred", "name": null, "run": {"command": ["x"]}}
        }));
        let folder = tempfile::tempdir().expect("a folder");
        let cache = PackageCache::open(folder.path(), u64::MAX).expect("a cache");
        cache.fetch(&Coordinator::new(transport, None, 1), &version.expect("a version")).await
    }

    /// A slow way is no reason to give up, however long it takes; one on which nothing new comes is.
    #[tokio::test(start_paused = true)]
    async fn a_download_may_take_as_long_as_it_goes_on() {
        let content = b"piece".repeat(20);
        let began = Instant::now();
        fetched(Slow { pieces: 20, pause: PATIENCE / 3 }, &content).await.expect("it comes to its end");
        assert!(began.elapsed() >= PATIENCE * 6);
        for slow in [Slow { pieces: 1, pause: PATIENCE * 2 }, Slow { pieces: 3, pause: PATIENCE / 10 }] {
            let began = Instant::now();
            let failed = fetched(slow, &content).await;
            assert!(matches!(failed, Err(PackageError::Unavailable(why)) if why.contains("15 minutes")));
            assert!(began.elapsed() < PATIENCE * 2);
        }
    }

    #[test]
    fn what_is_no_zip_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), b"not a zip").expect("written");
        let folder = tempfile::tempdir().expect("a folder");
        assert!(matches!(
            unpack(file.reopen().expect("the file"), &folder.path().join("out"), 1000),
            Err(PackageError::Invalid(_))
        ));
    }
}
