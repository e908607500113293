//! Content on its way in: counted, digested and limited while it is written, and gone again unless it is kept.

use std::{
    fs::File,
    io::{Cursor, Read, Seek, Write},
    path::Path,
};

use bytes::{Bytes, BytesMut};
use futures::{TryStreamExt, stream::BoxStream};
use sha2::{Digest, Sha256};
use tempfile::TempPath;
use tokio::task::JoinHandle;

use super::{blocking, io_error};
use crate::error::{Error, Result};

/// How much is gathered before it is written, in bytes. There are two such buffers: one is digested and written while the
/// other is filled.
const BUFFER_BYTES: usize = 512 * 1024;
/// After so many bytes the disk begins to write them, so that little is left to be waited for at the end.
const SYNC_BYTES: u64 = 64 * 1024 * 1024;

/// Takes in content piece by piece. Dropping it removes what was written.
#[derive(Debug)]
pub struct Staging {
    writing: Writing,
    path: Option<TempPath>,
    buffer: BytesMut,
    size_bytes: u64,
    limit_bytes: u64,
    unsynced_bytes: u64,
    syncing: Option<JoinHandle<std::io::Result<()>>>,
}

#[derive(Debug)]
enum Writing {
    Idle(Open),
    /// A buffer is being digested and written; it comes back empty.
    Busy(JoinHandle<Result<(Open, BytesMut)>>),
    /// A write failed or was given up half-way: the content can no longer be whole.
    Broken,
}

#[derive(Debug)]
struct Open {
    hasher: Sha256,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    File(File),
    Memory(Vec<u8>),
}

impl Open {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        match &mut self.sink {
            Sink::File(file) => file.write_all(bytes).map_err(|error| io_error(&error, "writing staged content")),
            Sink::Memory(memory) => {
                memory.extend_from_slice(bytes);
                Ok(())
            }
        }
    }
}

impl Staging {
    pub(super) fn in_file(file: File, path: TempPath, limit_bytes: u64) -> Self {
        Self::new(Sink::File(file), Some(path), limit_bytes)
    }

    pub(super) fn in_memory(limit_bytes: u64) -> Self {
        Self::new(Sink::Memory(Vec::new()), None, limit_bytes)
    }

    fn new(sink: Sink, path: Option<TempPath>, limit_bytes: u64) -> Self {
        let writing = Writing::Idle(Open { hasher: Sha256::new(), sink });
        let buffer = BytesMut::new();
        Self { writing, path, buffer, size_bytes: 0, limit_bytes, unsynced_bytes: 0, syncing: None }
    }

    /// Bytes taken in so far.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Appends. `TooLarge` as soon as the limit is passed, `OutOfSpace` when the disk is full, which may be found a little
    /// later; after any error, or if this future is dropped before it ends, the staging can only be dropped.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        let size_bytes = self.size_bytes.saturating_add(bytes.len() as u64);
        if size_bytes > self.limit_bytes {
            self.writing = Writing::Broken;
            return Err(Error::TooLarge(format!(
                "the content is larger than the limit of {}; send less, or ask the administrator to raise the limit",
                in_words(self.limit_bytes)
            )));
        }
        while !bytes.is_empty() {
            let room = BUFFER_BYTES - self.buffer.len();
            let piece = bytes.split_to(room.min(bytes.len()));
            self.buffer.extend_from_slice(&piece);
            if self.buffer.len() == BUFFER_BYTES {
                self.flush().await?;
            }
        }
        self.size_bytes = size_bytes;
        Ok(())
    }

    /// Begins to write the buffer; what was being written before is written then.
    async fn flush(&mut self) -> Result<()> {
        let (mut open, spare) = self.written().await?;
        let mut buffer = std::mem::replace(&mut self.buffer, spare);
        self.unsynced_bytes += buffer.len() as u64;
        // In memory nothing blocks, and nothing may run beside the simulation's one thread.
        if self.path.is_none() {
            open.append(&buffer)?;
            self.writing = Writing::Idle(open);
            return Ok(());
        }
        self.sync_early(&open).await?;
        self.writing = Writing::Busy(tokio::task::spawn_blocking(move || {
            open.append(&buffer)?;
            buffer.clear();
            Ok((open, buffer))
        }));
        Ok(())
    }

    /// Waits for what is being written. Gives an empty buffer as well.
    async fn written(&mut self) -> Result<(Open, BytesMut)> {
        match std::mem::replace(&mut self.writing, Writing::Broken) {
            Writing::Idle(open) => Ok((open, BytesMut::new())),
            Writing::Busy(busy) => busy
                .await
                .unwrap_or_else(|error| Err(Error::Internal(format!("staged content was not written: {error}")))),
            Writing::Broken => Err(incomplete()),
        }
    }

    /// Lets the disk begin with what there is, beside the writing.
    async fn sync_early(&mut self, open: &Open) -> Result<()> {
        let Sink::File(file) = &open.sink else { return Ok(()) };
        let is_syncing = self.syncing.as_ref().is_some_and(|syncing| !syncing.is_finished());
        if self.unsynced_bytes < SYNC_BYTES || is_syncing {
            return Ok(());
        }
        self.synced().await?;
        self.unsynced_bytes = 0;
        let file = file.try_clone().map_err(|error| io_error(&error, "syncing staged content"))?;
        self.syncing = Some(tokio::task::spawn_blocking(move || file.sync_data()));
        Ok(())
    }

    /// Waits for an early sync. Its failure counts: the disk tells of it only once.
    async fn synced(&mut self) -> Result<()> {
        match self.syncing.take() {
            Some(syncing) => match syncing.await {
                Ok(synced) => synced.map_err(|error| io_error(&error, "syncing staged content")),
                Err(error) => Err(Error::Internal(format!("staged content was not synced: {error}"))),
            },
            None => Ok(()),
        }
    }

    /// Ends the content and tells its size and digest. It is not durable yet: [`super::Blobs::keep`] makes it so.
    pub async fn finish(mut self) -> Result<Staged> {
        self.flush().await?;
        let (open, _) = self.written().await?;
        self.synced().await?;
        let content = match (open.sink, self.path.take()) {
            (Sink::File(file), Some(path)) => Content::File { file, path },
            (Sink::Memory(memory), _) => Content::Memory(memory.into()),
            (Sink::File(_), None) => return Err(incomplete()),
        };
        Ok(Staged { sha256: hex(&open.hasher.finalize()), size_bytes: self.size_bytes, content })
    }
}

fn incomplete() -> Error {
    Error::Internal("staged content was used after a write had failed".to_owned())
}

/// Content that is complete, waiting to be looked at and kept. Dropping it removes it.
#[derive(Debug)]
pub struct Staged {
    /// Lower-case hexadecimal.
    pub sha256: String,
    pub size_bytes: u64,
    pub content: Content,
}

/// Where staged content lies.
#[derive(Debug)]
pub enum Content {
    /// `file` is open for syncing; read through the path.
    File {
        file: File,
        path: TempPath,
    },
    Memory(Bytes),
}

/// What random access needs.
pub trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

impl Staged {
    /// The file to read at random, unless the content lies in memory.
    pub fn path(&self) -> Option<&Path> {
        match &self.content {
            Content::File { path, .. } => Some(path),
            Content::Memory(_) => None,
        }
    }

    /// Runs `look` over the content: for a file on a thread where it may block, in memory at once on this one.
    pub async fn inspect<R, F>(&self, look: F) -> Result<R>
    where
        R: Send + 'static,
        F: FnOnce(&mut dyn ReadSeek) -> Result<R> + Send + 'static,
    {
        match &self.content {
            Content::File { path, .. } => {
                let path = path.to_path_buf();
                blocking(move || {
                    let mut file = File::open(path).map_err(|error| io_error(&error, "reading staged content"))?;
                    look(&mut file)
                })
                .await
            }
            Content::Memory(bytes) => look(&mut Cursor::new(bytes.clone())),
        }
    }
}

/// The SHA-256 of a whole stream, lower-case hexadecimal.
pub(super) async fn digest(mut content: BoxStream<'static, Result<Bytes>>) -> Result<String> {
    let mut hasher = Sha256::new();
    while let Some(piece) = content.try_next().await? {
        hasher.update(&piece);
    }
    Ok(hex(&hasher.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A size as people say it: whole units where it is one.
fn in_words(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} bytes"),
    }
}
