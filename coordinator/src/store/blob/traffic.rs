//! Which blobs are arriving and which are being deleted, so that neither happens to one while the other does.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::name::BlobName;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// So many bring it.
    Arriving(usize),
    Deleting,
}

#[derive(Debug, Default)]
pub(super) struct Traffic {
    uses: Mutex<HashMap<BlobName, Use>>,
    deleted: Notify,
}

/// While it lives the blob is not deleted.
#[derive(Debug)]
pub struct Arriving {
    traffic: Arc<Traffic>,
    name: BlobName,
}

/// While it lives the blob does not arrive.
#[derive(Debug)]
pub struct Deleting {
    traffic: Arc<Traffic>,
    name: BlobName,
}

impl Traffic {
    /// Waits as long as the blob is being deleted.
    pub(super) async fn arriving(self: &Arc<Self>, name: &BlobName) -> Arriving {
        loop {
            // Armed before looking, so that no end is missed in between.
            let deleted = self.deleted.notified();
            if self.try_arriving(name) {
                return Arriving { traffic: Arc::clone(self), name: name.clone() };
            }
            deleted.await;
        }
    }

    fn try_arriving(&self, name: &BlobName) -> bool {
        let mut uses = self.uses.lock();
        match uses.entry(name.clone()).or_insert(Use::Arriving(0)) {
            Use::Arriving(count) => {
                *count += 1;
                true
            }
            Use::Deleting => false,
        }
    }

    /// `None` when somebody brings or deletes it: whoever deletes comes back later.
    pub(super) fn deleting(self: &Arc<Self>, name: &BlobName) -> Option<Deleting> {
        let mut uses = self.uses.lock();
        if uses.contains_key(name) {
            return None;
        }
        uses.insert(name.clone(), Use::Deleting);
        Some(Deleting { traffic: Arc::clone(self), name: name.clone() })
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let mut uses = self.traffic.uses.lock();
        match uses.get_mut(&self.name) {
            Some(Use::Arriving(count)) if *count > 1 => *count -= 1,
            _ => drop(uses.remove(&self.name)),
        }
    }
}

impl Drop for Deleting {
    fn drop(&mut self) {
        self.traffic.uses.lock().remove(&self.name);
        self.traffic.deleted.notify_waiters();
    }
}
