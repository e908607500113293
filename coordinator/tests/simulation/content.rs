//! What outlives a coordinator beside its store: the content of files, packages and logs. It lies in an object store that
//! dawdles, is full now and then, and fails before and after it has done what it was asked.

use std::{
    fmt,
    io::{Error as IoError, ErrorKind},
    sync::Arc,
};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};

use crate::disk::Life;

/// The object store as one life of the coordinator has it.
#[derive(Clone)]
pub struct Content {
    kept: Arc<InMemory>,
    life: Arc<Life>,
}

impl Content {
    pub fn new(kept: Arc<InMemory>, life: Arc<Life>) -> Self {
        Self { kept, life }
    }

    /// Takes its time, and fails perhaps before anything is done.
    async fn begin(&self) -> Result<()> {
        if let Some(wait) = self.life.dawdles() {
            tokio::time::sleep(wait).await;
        }
        if self.life.is_over() {
            return Err(unreachable("the process that asked has ended"));
        }
        if self.life.chance(80) {
            return Err(unreachable("it did not answer, and has done nothing"));
        }
        Ok(())
    }

    /// Fails perhaps although it is done.
    fn end<T>(&self, done: Result<T>) -> Result<T> {
        match self.life.chance(80) {
            true => Err(unreachable("it did not answer when it was done")),
            false => done,
        }
    }

    async fn remove(&self, location: Path) -> Result<Path> {
        self.begin().await?;
        let one = futures::stream::iter([Ok(location.clone())]).boxed();
        let removed = self.kept.delete_stream(one).next().await.unwrap_or(Ok(location));
        self.end(removed)
    }
}

fn unreachable(why: &str) -> Error {
    Error::Generic { store: "S3", source: why.into() }
}

fn full() -> Error {
    Error::Generic { store: "disk", source: Box::new(IoError::from(ErrorKind::StorageFull)) }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").finish_non_exhaustive()
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("content of this world")
    }
}

#[async_trait]
impl ObjectStore for Content {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.begin().await?;
        if self.life.chance(80) {
            return Err(full());
        }
        let put = self.kept.put_opts(location, payload, options).await;
        self.end(put)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.begin().await?;
        self.kept.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.begin().await?;
        self.kept.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let content = self.clone();
        locations
            .then(move |location| {
                let content = content.clone();
                async move { content.remove(location?).await }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.kept.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.kept.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.begin().await?;
        let copied = self.kept.copy_opts(from, to, options).await;
        self.end(copied)
    }
}
