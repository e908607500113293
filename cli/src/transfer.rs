//! Files on their way to and from the coordinator: streamed, with progress, digests, and whole or not at all.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use futures::TryStreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Body, Response};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio_util::io::ReaderStream;

use crate::{
    client::{Call, reason},
    error::{Error, NetworkError},
};

/// How often a download is begun again when the connection breaks.
const DOWNLOAD_TRIES: u32 = 3;

/// A file that has arrived whole.
pub struct Downloaded {
    pub size_bytes: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
}

/// Opens a file for sending: its size and the stream of its bytes, with a progress bar.
pub async fn upload_body(path: &Path) -> Result<(u64, Body), Error> {
    let file = tokio::fs::File::open(path).await.map_err(Error::file("read", path))?;
    let size_bytes = file.metadata().await.map_err(Error::file("read", path))?.len();
    let bar = progress_bar("uploading", Some(size_bytes));
    let stream = ReaderStream::with_capacity(file, 64 * 1024).inspect_ok(move |piece| bar.inc(piece.len() as u64));
    Ok((size_bytes, Body::wrap_stream(stream)))
}

/// Downloads to `target`: into a temporary file beside it, which is flushed to the disk and then takes its place.
/// A broken connection begins anew, a few times. With `expected_sha256`, content of another digest is refused.
pub async fn download<'a>(
    label: &'static str,
    call: impl Fn() -> Result<Call<'a>, Error>,
    target: &Path,
    expected_sha256: Option<&str>,
) -> Result<Downloaded, Error> {
    download_as(label, "*/*", call, target, expected_sha256).await
}

/// The same of an answer that comes in several media types.
pub async fn download_as<'a>(
    label: &'static str,
    media_type: &'static str,
    call: impl Fn() -> Result<Call<'a>, Error>,
    target: &Path,
    expected_sha256: Option<&str>,
) -> Result<Downloaded, Error> {
    let mut tries = 1;
    loop {
        let response = call()?.accept(media_type).open().await?;
        let mut file = temporary_beside(target)?;
        match receive(label, response, &mut file, target).await {
            Ok(downloaded) => {
                if let Some(expected) = expected_sha256.filter(|expected| *expected != downloaded.sha256) {
                    let what = target.display().to_string();
                    return Err(Error::Damaged { what, expected: expected.to_owned(), found: downloaded.sha256 });
                }
                persist(file, target)?;
                return Ok(downloaded);
            }
            Err(Error::Network(_)) if tries < DOWNLOAD_TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

async fn receive(
    label: &'static str,
    response: Response,
    file: &mut NamedTempFile,
    target: &Path,
) -> Result<Downloaded, Error> {
    let server = response.url().origin().ascii_serialization();
    let bar = progress_bar(label, response.content_length());
    let mut digest = Sha256::new();
    let mut size_bytes = 0;
    let mut pieces = response.bytes_stream();
    loop {
        let piece = pieces.try_next().await.map_err(|error| broken_off(&server, &error))?;
        let Some(piece) = piece else { break };
        file.write_all(&piece).map_err(Error::file("write", target))?;
        digest.update(&piece);
        size_bytes += piece.len() as u64;
        bar.inc(piece.len() as u64);
    }
    bar.finish_and_clear();
    Ok(Downloaded { size_bytes, sha256: hex(&digest.finalize()) })
}

pub fn broken_off(server: &str, error: &reqwest::Error) -> Error {
    broken(server, format!("the connection broke: {}", reason(error)))
}

/// The answer ended in order, but not all of it is there.
pub fn incomplete(server: &str) -> Error {
    broken(server, "the answer broke off".to_owned())
}

fn broken(server: &str, reason: String) -> Error {
    Error::Network(Box::new(NetworkError {
        server: server.to_owned(),
        reason,
        not_connected: false,
        idempotency_key: None,
        outcome_unknown: false,
    }))
}

/// The digest of a file, as lower-case hexadecimal.
pub fn sha256_of(path: &Path) -> Result<String, Error> {
    let mut file = File::open(path).map_err(Error::file("read", path))?;
    let mut digest = Sha256::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        let length = io::Read::read(&mut file, &mut piece).map_err(Error::file("read", path))?;
        if length == 0 {
            return Ok(hex(&digest.finalize()));
        }
        digest.update(&piece[..length]);
    }
}

/// Writes a file that only this account may read, whole or not at all, and flushes it to the disk.
pub fn write_private(target: &Path, text: &str) -> Result<(), Error> {
    // Temporary files are readable by their owner only, and stay so when they are renamed.
    let mut file = temporary_beside(target)?;
    file.write_all(text.as_bytes()).map_err(Error::file("write", target))?;
    persist_with_its_mode(file, target)
}

fn temporary_beside(target: &Path) -> Result<NamedTempFile, Error> {
    let folder = parent_of(target);
    tempfile::Builder::new().prefix(".drover-").tempfile_in(&folder).map_err(Error::file("write into", folder))
}

/// Gives a finished file the rights of an ordinary new file, and its name.
fn persist(file: NamedTempFile, target: &Path) -> Result<(), Error> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // What was there decides; else only this account may read it: it may hold anything.
        let mode = fs::metadata(target).map_or(0o600, |metadata| metadata.permissions().mode() & 0o777);
        file.as_file().set_permissions(fs::Permissions::from_mode(mode)).map_err(Error::file("write", target))?;
    }
    persist_with_its_mode(file, target)
}

fn persist_with_its_mode(file: NamedTempFile, target: &Path) -> Result<(), Error> {
    file.as_file().sync_all().map_err(Error::file("write", target))?;
    file.persist(target).map_err(|error| Error::file("write", target)(error.error))?;
    // The name is safe only when its folder is on the disk as well.
    #[cfg(unix)]
    File::open(parent_of(target)).and_then(|folder| folder.sync_all()).map_err(Error::file("write", target))?;
    Ok(())
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A bar on standard error, hidden when that is no terminal.
pub fn progress_bar(label: &'static str, size_bytes: Option<u64>) -> ProgressBar {
    let template = if size_bytes.is_some() {
        "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}"
    } else {
        "{msg} {spinner} {bytes} {bytes_per_sec}"
    };
    let style = ProgressStyle::with_template(template).expect("the template is constant and right");
    let bar = size_bytes.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    bar.set_style(style);
    bar.set_message(label);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
