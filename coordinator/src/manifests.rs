//! Manifests of versions, read once. Versions never change, so nothing here can be out of date.

use std::{num::NonZeroUsize, sync::Arc};

use drover_protocol::{ProcessVersionId, manifest::Manifest};
use lru::LruCache;
use parking_lot::Mutex;

use crate::error::Result;

const CAPACITY: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// The manifests that were used lately. Every job start and every assignment needs one. Usable from many threads.
#[derive(Debug)]
pub struct Manifests(Mutex<LruCache<ProcessVersionId, Arc<Manifest>>>);

impl Default for Manifests {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(CAPACITY)))
    }
}

impl Manifests {
    /// The manifest of a version, which `read` gives if it is not here.
    pub fn get(&self, version: ProcessVersionId, read: impl FnOnce() -> Result<Manifest>) -> Result<Arc<Manifest>> {
        if let Some(manifest) = self.0.lock().get(&version) {
            return Ok(Arc::clone(manifest));
        }
        let manifest = Arc::new(read()?);
        self.0.lock().put(version, Arc::clone(&manifest));
        Ok(manifest)
    }
}
