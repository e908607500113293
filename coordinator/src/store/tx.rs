//! A transaction: one operation's pending writes over the store, with the time, the ids and the wake-ups it may use.
//!
//! It is confined to one account. Only the hashes by which keys and join tokens are found lie outside, in the system
//! account; they are random, so that no two accounts can ever meet there.

use drover_protocol::{AccountId, Timestamp};
use uuid::Uuid;

use super::{
    engine::{MAX_KEY_BYTES, MAX_VALUE_BYTES, View, WriteSet},
    ids::Ids,
    overlay::Overlay,
    table::Reading,
    watch::Topic,
};
use crate::error::{Error, Result};

pub struct Tx<'a> {
    overlay: Overlay<'a>,
    account: AccountId,
    now: Timestamp,
    ids: &'a Ids,
    wakes: Vec<Topic>,
}

impl<'a> Tx<'a> {
    pub(super) fn new(base: &'a dyn View, account: AccountId, now: Timestamp, ids: &'a Ids) -> Self {
        Self { overlay: Overlay::new(base), account, now, ids, wakes: Vec::new() }
    }

    /// What was written and who is to be woken, when the operation has succeeded.
    pub(super) fn into_parts(self) -> (WriteSet, Vec<Topic>) {
        (self.overlay.writes, self.wakes)
    }

    /// A new id, larger than all before it.
    pub fn new_id(&self) -> Uuid {
        self.ids.next(self.now)
    }

    /// Random bytes, good enough for keys.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.ids.randomness().fill(&mut bytes);
        bytes
    }

    /// Wakes those who wait for the topic once this is committed.
    pub fn wake(&mut self, topic: Topic) {
        if !self.wakes.contains(&topic) {
            self.wakes.push(topic);
        }
    }

    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<()> {
        if value.len() > MAX_VALUE_BYTES {
            return Err(Error::Internal(format!("a value of {} bytes is over the limit of the store", value.len())));
        }
        if key.len() > MAX_KEY_BYTES {
            return Err(Error::Internal(format!("a key of {} bytes is over the limit of the store", key.len())));
        }
        self.overlay.writes.insert(key, Some(value));
        Ok(())
    }

    pub fn delete(&mut self, key: Vec<u8>) {
        self.overlay.writes.insert(key, None);
    }

    /// The same transaction as seen from another account; see the exception above.
    pub fn in_account<R>(&mut self, account: AccountId, body: impl FnOnce(&mut Self) -> R) -> R {
        let own = std::mem::replace(&mut self.account, account);
        let result = body(self);
        self.account = own;
        result
    }
}

impl Reading for Tx<'_> {
    fn view(&self) -> &dyn View {
        &self.overlay
    }

    fn account(&self) -> AccountId {
        self.account
    }

    fn now(&self) -> Timestamp {
        self.now
    }
}
