//! Schemas of queues, read once. Another schema has another name, so nothing here can be out of date.

use std::{num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use parking_lot::Mutex;
use serde_json::Value;
use uuid::Uuid;

use crate::error::Result;

const CAPACITY: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// The schemas that were used lately. Usable from many threads.
#[derive(Debug)]
pub struct QueueSchemas(Mutex<LruCache<Uuid, Arc<Value>>>);

impl Default for QueueSchemas {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(CAPACITY)))
    }
}

impl QueueSchemas {
    /// The schema of this name, which `read` gives if it is not here.
    pub fn get(&self, name: Uuid, read: impl FnOnce() -> Result<Value>) -> Result<Arc<Value>> {
        if let Some(schema) = self.0.lock().get(&name) {
            return Ok(Arc::clone(schema));
        }
        let schema = Arc::new(read()?);
        self.0.lock().put(name, Arc::clone(&schema));
        Ok(schema)
    }
}
