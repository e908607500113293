//! Files on their way to and from the coordinator: streamed, with progress, digests, and whole or not at all.

use std::{fs::File, io, path::Path, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures::TryStreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{
    Body, Response, StatusCode,
    header::{ETAG, HeaderValue},
};
use sha2::{Digest, Sha256};
use tokio_util::io::ReaderStream;

use crate::{
    client::{Call, reason},
    error::{Error, NetworkError},
    place::{Place, is_standard_output},
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

/// Downloads to `target`: a file appears there only when it is whole and on the disk.
/// A broken connection goes on where it broke, if the content is still the same, and else begins anew; a few times without
/// any progress. Content of another digest than `expected_sha256`, or than the coordinator says, is refused.
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
    let mut arriving = Arriving::new(label, target)?;
    let mut tries = 1;
    loop {
        let mut call = call()?.accept(media_type);
        if let Some(tag) = arriving.tag.clone().filter(|_| arriving.size_bytes > 0) {
            call = call.rest_from(arriving.size_bytes, tag);
        }
        let before = arriving.size_bytes;
        match arriving.receive(call.open().await?).await {
            Ok(()) => break,
            Err(Error::Network(_)) if arriving.size_bytes > before => tries = 1,
            Err(Error::Network(_)) if tries < DOWNLOAD_TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
    arriving.bar.finish_and_clear();
    let sha256 = hex(&arriving.digest.finalize());
    let expected = expected_sha256.map(str::to_owned).or(arriving.sha256);
    if let Some(expected) = expected.filter(|expected| *expected != sha256) {
        return Err(Error::Damaged { what: target.display().to_string(), expected, found: sha256 });
    }
    arriving.place.finish()?;
    Ok(Downloaded { size_bytes: arriving.size_bytes, sha256 })
}

/// A file of which a part has arrived.
struct Arriving<'t> {
    target: &'t Path,
    place: Place,
    digest: Sha256,
    size_bytes: u64,
    /// Names the content of which this is a part.
    tag: Option<HeaderValue>,
    /// As the coordinator says.
    sha256: Option<String>,
    bar: ProgressBar,
}

impl<'t> Arriving<'t> {
    fn new(label: &'static str, target: &'t Path) -> Result<Self, Error> {
        let (place, bar) = (Place::open(target)?, progress_bar(label, None));
        Ok(Self { target, place, digest: Sha256::new(), size_bytes: 0, tag: None, sha256: None, bar })
    }

    async fn receive(&mut self, response: Response) -> Result<(), Error> {
        let server = response.url().origin().ascii_serialization();
        if response.status() != StatusCode::PARTIAL_CONTENT {
            self.begin(&response)?;
        }
        let mut pieces = response.bytes_stream();
        while let Some(piece) = pieces.try_next().await.map_err(|error| broken_off(&server, &error))? {
            self.place.write(&piece).map_err(|error| self.unwritable(error))?;
            self.digest.update(&piece);
            self.size_bytes += piece.len() as u64;
            self.bar.inc(piece.len() as u64);
        }
        Ok(())
    }

    /// The whole content comes: what has arrived of another is forgotten.
    fn begin(&mut self, response: &Response) -> Result<(), Error> {
        if self.size_bytes > 0 {
            self.place.begin_again().map_err(|error| self.unwritable(error))?;
        }
        (self.digest, self.size_bytes) = (Sha256::new(), 0);
        let headers = response.headers();
        self.tag = headers.get(ETAG).cloned();
        self.sha256 = headers.get("content-digest").and_then(|value| hex_of_digest(value.to_str().ok()?));
        self.bar.set_position(0);
        if let Some(size_bytes) = response.content_length() {
            self.bar.set_length(size_bytes);
            self.bar.set_style(style(true));
        }
        Ok(())
    }

    fn unwritable(&self, error: io::Error) -> Error {
        match is_standard_output(self.target) {
            true => Error::Output(error),
            false => Error::file("write", self.target)(error),
        }
    }
}

/// The header `Content-Digest` for a digest in hexadecimal.
pub fn content_digest(sha256: &str) -> Result<HeaderValue, Error> {
    let bytes: Option<Vec<u8>> =
        (0..sha256.len()).step_by(2).map(|at| u8::from_str_radix(sha256.get(at..at + 2)?, 16).ok()).collect();
    let wrong = || Error::Usage(format!("{sha256} is not a digest in hexadecimal"));
    let text = format!("sha-256=:{}:", STANDARD.encode(bytes.ok_or_else(wrong)?));
    HeaderValue::from_str(&text).map_err(|_| wrong())
}

fn hex_of_digest(header: &str) -> Option<String> {
    let digest = header.split(',').find_map(|part| part.trim().strip_prefix("sha-256=:")?.strip_suffix(':'))?;
    STANDARD.decode(digest).ok().map(|bytes| hex(&bytes))
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

/// A bar on standard error, hidden when that is no terminal.
pub fn progress_bar(label: &'static str, size_bytes: Option<u64>) -> ProgressBar {
    let bar = size_bytes.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    bar.set_style(style(size_bytes.is_some()));
    bar.set_message(label);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn style(size_is_known: bool) -> ProgressStyle {
    let template = match size_is_known {
        true => "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        false => "{msg} {spinner} {bytes} {bytes_per_sec}",
    };
    ProgressStyle::with_template(template).expect("the template is constant and right")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
