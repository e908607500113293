//! An S3-compatible object store as the place of blobs.
//!
//! Content is staged on the local disk, where its digest is found, and then uploaded in parts, of which a few are in memory
//! at once. An upload that is ended half-way is given up at once; one whose process has died is given up by the next one,
//! for each is written down in a small file before its first part.

use std::{
    fs::File,
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreExt,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey},
    multipart::{MultipartStore, PartId},
    path::Path as ObjectPath,
    prefix::PrefixStore,
};
use serde::{Deserialize, Serialize};

use super::{blocking, folder::Folder, io_error, name::BlobName, store_error};
use crate::error::{Error, Result};

/// Content up to this size goes in one call; larger in parts of at least this size.
const PART_BYTES: u64 = 8 * 1024 * 1024;
/// No store takes more parts of one object.
const MAX_PARTS: u64 = 10_000;
/// Parts under way at once; so many are in memory.
const PARTS_AT_ONCE: usize = 3;
/// Where the store says whose it is.
const OWNER: &str = "drover-store";

/// Where the object store is and how to get in. What is empty is taken from the environment (`AWS_REGION`,
/// `AWS_ACCESS_KEY_ID` …), or from the host's own credentials.
#[derive(Clone, Default)]
pub struct S3Settings {
    pub bucket: String,
    /// Below which all blobs lie; may be empty.
    pub prefix: String,
    /// For stores that are not Amazon's: `https://…`, or `http://…` within a trusted network.
    pub endpoint: String,
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key: String,
}

/// An upload under way, as it is written down.
#[derive(Serialize, Deserialize)]
struct Unfinished {
    path: String,
    id: String,
}

#[derive(Debug)]
pub(super) struct Remote {
    store: Arc<PrefixStore<AmazonS3>>,
    /// Content on its way in.
    pub(super) staging: Arc<Folder>,
    uploads: PathBuf,
}

impl Remote {
    /// Opens the store and gives up what a dead process has left unfinished. Only one process may use the staging folder.
    pub(super) async fn open(settings: &S3Settings, staging: &Path) -> Result<Self> {
        let options = ClientOptions::new()
            .with_allow_http(settings.endpoint.starts_with("http://"))
            .with_connect_timeout(Duration::from_secs(10))
            // A large answer may take as long as it likes, as long as something comes.
            .with_timeout_disabled()
            .with_read_timeout(Duration::from_secs(60));
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(&settings.bucket).with_client_options(options);
        for (key, value) in [
            (AmazonS3ConfigKey::Endpoint, &settings.endpoint),
            (AmazonS3ConfigKey::Region, &settings.region),
            (AmazonS3ConfigKey::AccessKeyId, &settings.access_key_id),
            (AmazonS3ConfigKey::SecretAccessKey, &settings.secret_access_key),
        ] {
            if !value.is_empty() {
                builder = builder.with_config(key, value);
            }
        }
        let store = builder.build().map_err(|error| store_error(error, "setting up the object store"))?;
        let store = Arc::new(PrefixStore::new(store, settings.prefix.as_str()));
        let uploads = staging.join("uploads");
        let root = staging.to_owned();
        let (folder, uploads) = blocking(move || {
            let folder = Folder::open(&root)?;
            std::fs::create_dir_all(&uploads).map_err(|error| io_error(&error, "making the folder of uploads"))?;
            Ok((folder, uploads))
        })
        .await?;
        let remote = Self { store, staging: Arc::new(folder), uploads };
        remote.give_up_unfinished().await?;
        Ok(remote)
    }

    pub(super) fn store(&self) -> Arc<dyn ObjectStore> {
        self.store.clone()
    }

    /// Refuses a prefix that belongs to another coordinator: it would take our blobs for its orphans, and we its.
    pub(super) async fn claim(&self, owner: &str) -> Result<()> {
        let path = ObjectPath::from(OWNER);
        match self.store.get(&path).await {
            Ok(found) => {
                let found = found.bytes().await.map_err(|error| store_error(error, "reading whose the store is"))?;
                match found == owner.as_bytes() {
                    true => Ok(()),
                    false => Err(Error::Internal(
                        "the bucket and prefix of blobs.url belong to another coordinator; take another prefix"
                            .to_owned(),
                    )),
                }
            }
            Err(object_store::Error::NotFound { .. }) => {
                let put = self.store.put(&path, owner.as_bytes().to_vec().into()).await;
                put.map(|_| ()).map_err(|error| store_error(error, "writing whose the store is"))
            }
            Err(error) => Err(store_error(error, "reading whose the store is")),
        }
    }

    /// Uploads a staged file. It is found under its name, whole, when this returns.
    pub(super) async fn keep(&self, path: &Path, size_bytes: u64, name: &BlobName) -> Result<()> {
        let file = File::open(path).map_err(|error| io_error(&error, "reading staged content"))?;
        if size_bytes <= PART_BYTES {
            let content = read_part(file, 0, size_bytes).await?;
            let put = self.store.put(&name.path(), content.into()).await;
            return put.map(|_| ()).map_err(|error| store_error(error, "uploading a blob"));
        }
        let path = name.path();
        let id = self.store.create_multipart(&path).await.map_err(|error| store_error(error, "beginning an upload"))?;
        let noted = self.note(&Unfinished { path: path.to_string(), id: id.clone() }).await;
        let uploaded = match &noted {
            Ok(_) => self.upload(file, size_bytes, &path, &id).await,
            Err(error) => Err(error.clone()),
        };
        if uploaded.is_err()
            && let Err(error) = self.store.abort_multipart(&path, &id).await
        {
            // The note stays, so that the next process tries again.
            tracing::warn!(%error, blob = %name, "an unfinished upload could not be given up");
            return uploaded;
        }
        if let Ok(note) = noted
            && let Err(error) = std::fs::remove_file(note)
        {
            tracing::warn!(%error, blob = %name, "the note of an upload could not be removed");
        }
        uploaded
    }

    async fn upload(&self, file: File, size_bytes: u64, path: &ObjectPath, id: &String) -> Result<()> {
        let part_bytes = PART_BYTES.max(size_bytes.div_ceil(MAX_PARTS));
        let count = size_bytes.div_ceil(part_bytes);
        let (store, target, upload) = (Arc::clone(&self.store), path.clone(), id.clone());
        let parts = stream::iter(0..count).map(move |index| {
            let (store, target, upload) = (Arc::clone(&store), target.clone(), upload.clone());
            let file = file.try_clone().map_err(|error| io_error(&error, "reading staged content"));
            async move {
                let start = index * part_bytes;
                let content = read_part(file?, start, part_bytes.min(size_bytes - start)).await?;
                let index = usize::try_from(index).unwrap_or(usize::MAX);
                let put = store.put_part(&target, &upload, index, content.into()).await;
                put.map_err(|error| store_error(error, "uploading a part of a blob"))
            }
        });
        let parts: Vec<PartId> = parts.buffered(PARTS_AT_ONCE).try_collect().await?;
        let done = self.store.complete_multipart(path, id, parts).await;
        done.map(|_| ()).map_err(|error| store_error(error, "completing an upload"))
    }

    /// Writes down that an upload is under way. The note is removed when that has ended; it outlives whoever is ended
    /// before.
    async fn note(&self, upload: &Unfinished) -> Result<PathBuf> {
        let text = serde_json::to_vec(upload)
            .map_err(|error| Error::Internal(format!("the note of an upload cannot be written: {error}")))?;
        let folder = self.uploads.clone();
        blocking(move || {
            let write = || {
                let mut note = tempfile::NamedTempFile::new_in(folder)?;
                note.write_all(&text)?;
                note.as_file().sync_data()?;
                Ok(note.into_temp_path().keep()?)
            };
            write().map_err(|error: std::io::Error| io_error(&error, "noting an upload"))
        })
        .await
    }

    async fn give_up_unfinished(&self) -> Result<()> {
        let entries = std::fs::read_dir(&self.uploads).map_err(|error| io_error(&error, "reading notes of uploads"))?;
        for entry in entries {
            let path = entry.map_err(|error| io_error(&error, "reading notes of uploads"))?.path();
            let text = std::fs::read(&path).map_err(|error| io_error(&error, "reading a note of an upload"))?;
            // A note that is not whole was never followed by a part.
            if let Ok(upload) = serde_json::from_slice::<Unfinished>(&text) {
                let object = ObjectPath::from(upload.path.as_str());
                match self.store.abort_multipart(&object, &upload.id).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => {
                        tracing::warn!(%error, "an unfinished upload could not be given up; the next start tries again");
                        continue;
                    }
                }
            }
            std::fs::remove_file(&path).map_err(|error| io_error(&error, "removing a note of an upload"))?;
        }
        Ok(())
    }
}

async fn read_part(file: File, start: u64, length: u64) -> Result<Bytes> {
    blocking(move || {
        let mut part = vec![0; usize::try_from(length).unwrap_or(0)];
        // Parts are read from one file at once, so none may move the place where another reads.
        file.read_exact_at(&mut part, start).map_err(|error| io_error(&error, "reading staged content"))?;
        Ok(Bytes::from(part))
    })
    .await
}
