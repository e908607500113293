//! Packages, files and sealed blocks of log lines: whatever is too large for the key-value store.
//!
//! Content is read, listed and deleted through the `object_store` crate, and arrives through [`Staging`]. That crate's
//! local store does not sync, so what must be on disk before an answer is written by `folder` instead. Which blobs are
//! still needed is not known here: a record says so, and the operations keep both in step.

mod folder;
mod name;
mod remote;
mod staging;
mod traffic;

use std::{io::ErrorKind, ops::Range, os::unix::fs::FileExt, path::Path, sync::Arc};

use bytes::Bytes;
use drover_protocol::Timestamp;
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{
    GetOptions, GetResultPayload, ObjectStore, ObjectStoreExt, local::LocalFileSystem, memory::InMemory,
};

use self::{folder::Folder, remote::Remote, traffic::Traffic};
pub use self::{
    name::{BlobKind, BlobName},
    remote::S3Settings,
    staging::{Content, Staged, Staging},
    traffic::{Arriving, Deleting},
};
use crate::error::{Error, Result};

/// How much of one answer is read at once, in bytes: a piece is read while another goes out.
const CHUNK_BYTES: usize = 256 * 1024;

/// One blob of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobEntry {
    pub name: BlobName,
    pub size_bytes: u64,
    /// When it was kept, by the clock of the place where it lies.
    pub kept_at: Timestamp,
}

/// Where kept content goes.
#[derive(Debug)]
enum Place {
    Folder(Arc<Folder>),
    /// What was staged on the local disk is uploaded.
    Remote(Remote),
    /// What was staged in memory is given to the store.
    Memory,
}

/// The blobs of one coordinator.
#[derive(Debug)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    place: Place,
    traffic: Arc<Traffic>,
}

impl Blobs {
    /// Opens (or makes) the folder `root` and removes what interrupted uploads have left there. Blocks; only one
    /// process may have the folder open, which the lock on the store ensures.
    pub fn open(root: &Path) -> Result<Self> {
        let folder = Folder::open(root)?;
        let store = LocalFileSystem::new_with_prefix(root).map_err(|error| store_error(error, "opening the blobs"))?;
        Ok(Self { store: Arc::new(store), place: Place::Folder(Arc::new(folder)), traffic: Arc::default() })
    }

    /// Opens an S3-compatible object store. Content on its way in lies in the folder `staging`, which only one process
    /// may have open. What interrupted uploads have left is removed there and here.
    pub async fn open_remote(settings: &S3Settings, staging: &Path) -> Result<Self> {
        let remote = Remote::open(settings, staging).await?;
        Ok(Self { store: remote.store(), place: Place::Remote(remote), traffic: Arc::default() })
    }

    /// Refuses a remote store that belongs to another coordinator; takes one that belongs to nobody.
    pub async fn claim(&self, owner: &str) -> Result<()> {
        match &self.place {
            Place::Remote(remote) => remote.claim(owner).await,
            Place::Folder(_) | Place::Memory => Ok(()),
        }
    }

    /// Blobs that live and die with the process. They touch no disk, no other thread and no timer.
    pub fn memory() -> Self {
        Self::within(Arc::new(InMemory::new()))
    }

    /// Blobs of a store that is given. Content on its way in lies in memory as a whole until the store has it.
    pub fn within(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, place: Place::Memory, traffic: Arc::default() }
    }

    /// Begins to take in content of at most `limit_bytes`. Nothing remains of it unless it is finished and kept.
    pub async fn stage(&self, limit_bytes: u64) -> Result<Staging> {
        match &self.place {
            Place::Folder(folder) | Place::Remote(Remote { staging: folder, .. }) => {
                let folder = Arc::clone(folder);
                let (file, path) = blocking(move || folder.new_staging_file()).await?;
                Ok(Staging::in_file(file, path, limit_bytes))
            }
            Place::Memory => Ok(Staging::in_memory(limit_bytes)),
        }
    }

    /// Gives staged content its name. It is on disk, and will be found under its name after a power cut, before this
    /// returns. Keeping the same content again is success; other content under a name in use is refused.
    pub async fn keep(&self, staged: Staged, name: &BlobName) -> Result<()> {
        if name.digest().is_some_and(|digest| digest != staged.sha256) {
            return Err(Error::Internal(format!("content with digest {} was to be kept as {name}", staged.sha256)));
        }
        self.refuse_other_content(&staged, name).await?;
        match (&self.place, staged.content) {
            (Place::Folder(folder), Content::File { file, path }) => {
                let (folder, name) = (Arc::clone(folder), name.clone());
                blocking(move || folder.keep(&file, path, &name)).await
            }
            (Place::Remote(remote), Content::File { path, .. }) => remote.keep(&path, staged.size_bytes, name).await,
            (_, Content::Memory(bytes)) => {
                self.store
                    .put(&name.path(), bytes.into())
                    .await
                    .map_err(|error| store_error(error, "keeping a blob"))?;
                Ok(())
            }
            (Place::Memory, Content::File { .. }) => {
                Err(Error::Internal("content staged elsewhere was to be kept in memory".to_owned()))
            }
        }
    }

    /// Ids are given once, so this can only be a call repeated after its answer was lost, or a bug.
    async fn refuse_other_content(&self, staged: &Staged, name: &BlobName) -> Result<()> {
        // A package is named by its content. Writing it anew heals a damaged one.
        if name.digest().is_some() {
            return Ok(());
        }
        let (total, stored) = match self.read(name, None).await {
            Err(Error::NotFound(_)) => return Ok(()),
            other => other?,
        };
        if total == staged.size_bytes && staging::digest(stored).await? == staged.sha256 {
            return Ok(());
        }
        Err(Error::Internal(format!("{name} exists already with other content")))
    }

    /// Keeps content that is at hand as a whole, with the same promise as [`Blobs::keep`].
    pub async fn put(&self, name: &BlobName, bytes: Bytes) -> Result<()> {
        let mut staging = self.stage(u64::MAX).await?;
        staging.write(bytes).await?;
        self.keep(staging.finish().await?, name).await
    }

    /// The size of the whole blob in bytes, and the content of `range` (everything if there is none) in pieces of at
    /// most 256 KiB, read as they are asked for. A range that reaches past the end gives what there is.
    pub async fn read(
        &self,
        name: &BlobName,
        range: Option<Range<u64>>,
    ) -> Result<(u64, BoxStream<'static, Result<Bytes>>)> {
        let mut options = GetOptions::default();
        if let Some(range) = range {
            let total = self.size_bytes(name).await?;
            let end = range.end.min(total);
            if range.start >= end {
                return Ok((total, stream::empty().boxed()));
            }
            options.range = Some((range.start..end).into());
        }
        let found =
            self.store.get_opts(&name.path(), options).await.map_err(|error| store_error(error, "reading a blob"))?;
        let total = found.meta.size;
        let range = found.range.clone();
        let content = match found.payload {
            GetResultPayload::File(file, _) => file_content(file, range),
            GetResultPayload::Stream(content) => in_chunks(content),
        };
        Ok((total, content))
    }

    /// The whole of a blob known to be small.
    pub async fn read_all(&self, name: &BlobName) -> Result<Bytes> {
        let (total, mut content) = self.read(name, None).await?;
        let mut whole = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
        while let Some(piece) = content.try_next().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole.into())
    }

    /// The size of a blob in bytes; `NotFound` if there is none of that name.
    pub async fn size_bytes(&self, name: &BlobName) -> Result<u64> {
        let meta = self.store.head(&name.path()).await.map_err(|error| store_error(error, "looking for a blob"))?;
        Ok(meta.size)
    }

    /// Deletes a blob, so that it does not come back after a power cut; one that is not there is success. Delete the record first: a blob without a record is found by
    /// a listing, a record without a blob is a loss.
    pub async fn delete(&self, name: &BlobName) -> Result<()> {
        if let Place::Folder(folder) = &self.place {
            let (folder, name) = (Arc::clone(folder), name.clone());
            return blocking(move || folder.remove(&name)).await;
        }
        match self.store.delete(&name.path()).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            other => other.map_err(|error| store_error(error, "deleting a blob")),
        }
    }

    /// Every blob of a kind, in no particular order.
    pub fn list(&self, kind: BlobKind) -> BoxStream<'static, Result<BlobEntry>> {
        self.store
            .list(Some(&kind.path()))
            .map_err(|error| store_error(error, "listing blobs"))
            // What was not put there by this file is none of its business.
            .try_filter_map(move |meta| async move {
                let name = BlobName::of_path(kind, &meta.location);
                let kept_at = Timestamp::from_millis(meta.last_modified.timestamp_millis());
                Ok(name.map(|name| BlobEntry { name, size_bytes: meta.size, kept_at }))
            })
            .boxed()
    }

    /// Held by whoever brings the blob, from noting that it comes until its record is committed. It is not deleted
    /// meanwhile: what no record names yet looks like what no record names any more.
    pub async fn arriving(&self, name: &BlobName) -> Arriving {
        self.traffic.arriving(name).await
    }

    /// Held by whoever deletes the blob, from finding that no record names it. `None` while it arrives.
    pub fn deleting(&self, name: &BlobName) -> Option<Deleting> {
        self.traffic.deleting(name)
    }
}

/// The bytes of `range`, the next piece being read while one goes out. A file that turns out to be shorter is an error,
/// never a short answer.
fn file_content(file: std::fs::File, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
    let file = Arc::new(file);
    let pieces = stream::iter(range.clone().step_by(CHUNK_BYTES)).map(move |start| {
        let file = Arc::clone(&file);
        let length = usize::try_from(range.end - start).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        blocking(move || {
            let mut piece = vec![0; length];
            file.read_exact_at(&mut piece, start).map_err(|error| io_error(&error, "reading a blob"))?;
            Ok(Bytes::from(piece))
        })
    });
    // Nothing is read after a failure: a stream that has failed has ended.
    pieces
        .buffered(2)
        .scan(false, |failed, piece| {
            let ended = std::mem::replace(failed, piece.is_err());
            futures::future::ready((!ended).then_some(piece))
        })
        .boxed()
}

/// Other stores give pieces as large as they like; the in-memory one gives everything at once.
fn in_chunks(content: BoxStream<'static, object_store::Result<Bytes>>) -> BoxStream<'static, Result<Bytes>> {
    content
        .map_err(|error| store_error(error, "reading a blob"))
        .map_ok(|mut whole| {
            let pieces = whole.len().div_ceil(CHUNK_BYTES);
            stream::iter((0..pieces).map(move |_| Ok(whole.split_to(whole.len().min(CHUNK_BYTES)))))
        })
        .try_flatten()
        .boxed()
}

/// Runs file work on a thread made for it.
async fn blocking<R: Send + 'static>(work: impl FnOnce() -> Result<R> + Send + 'static) -> Result<R> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::Internal(format!("file work was not done: {error}"))))
}

/// `action` says what was being done, for the coordinator's own log.
fn io_error(error: &std::io::Error, action: &str) -> Error {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::OutOfSpace,
        _ => Error::Internal(format!("{action}: {error}")),
    }
}

fn store_error(error: object_store::Error, action: &str) -> Error {
    if matches!(error, object_store::Error::NotFound { .. }) {
        return Error::NotFound("stored content");
    }
    if is_remote(&error) {
        tracing::warn!(%error, action, "the object store does not do what it is asked");
        return Error::Unavailable("the object store with the content does not answer as it should".to_owned());
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<std::io::Error>() {
            return io_error(io, action);
        }
        cause = current.source();
    }
    Error::Internal(format!("{action}: {error}"))
}

/// Whether the error is of a store at the other end of a network.
fn is_remote(error: &object_store::Error) -> bool {
    use object_store::Error as E;
    match error {
        E::Generic { store, .. } => *store == "S3",
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
