//! A transaction: one operation's pending writes over the store, with the time, the ids and the wake-ups it may use.
//!
//! It is confined to one account. Only the hashes by which keys and join tokens are found lie outside, in the system
//! account; they are random, so that no two accounts can ever meet there.

use drover_protocol::{AccountId, Timestamp, change::Noun};
use uuid::Uuid;

use super::{
    changes::{Change, Public, Verb},
    engine::{MAX_KEY_BYTES, MAX_VALUE_BYTES, View, WriteSet},
    ids::Ids,
    overlay::Overlay,
    table::Reading,
    watch::Topic,
};
use crate::error::{Error, Result};

/// How many of the latest changes a further one is compared with.
const LOOKED_BACK: usize = 8;

/// Who wants to know what a transaction does, beside those who read it afterwards.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interest {
    pub changes_are_followed: bool,
    pub is_traced: bool,
}

pub struct Tx<'a> {
    overlay: Overlay<'a>,
    account: AccountId,
    now: Timestamp,
    ids: &'a Ids,
    wakes: Vec<Topic>,
    written_bytes: usize,
    /// Absent: nobody follows changes.
    changes: Option<Vec<Change>>,
    is_traced: bool,
}

impl<'a> Tx<'a> {
    pub(super) fn new(
        base: &'a dyn View,
        account: AccountId,
        now: Timestamp,
        ids: &'a Ids,
        interest: Interest,
    ) -> Self {
        let changes = interest.changes_are_followed.then(Vec::new);
        let is_traced = interest.is_traced;
        Self { overlay: Overlay::new(base), account, now, ids, wakes: Vec::new(), written_bytes: 0, changes, is_traced }
    }

    /// What was written, who is to be woken and what has changed, when the operation has succeeded.
    pub(super) fn into_parts(self) -> (WriteSet, Vec<Topic>, Vec<Change>) {
        (self.overlay.writes, self.wakes, self.changes.unwrap_or_default())
    }

    /// Whether somebody follows the changes of objects.
    pub fn changes_are_followed(&self) -> bool {
        self.changes.is_some()
    }

    /// Whether what ends is to be noted for traces.
    pub fn is_traced(&self) -> bool {
        self.is_traced
    }

    /// Tells those who follow changes once this is committed. Several changes of one object are one.
    pub(super) fn changed(&mut self, verb: Verb, object: Public) {
        // An account is a record of the system account, and an object of its own.
        let account = match object.noun {
            Noun::Account => AccountId::from_uuid(object.id),
            _ => self.account,
        };
        let Public { noun, id, name, revision } = object;
        let at = self.now;
        let Some(changes) = &mut self.changes else { return };
        let name = name.map(str::to_owned);
        match changes.iter_mut().rev().take(LOOKED_BACK).find(|known| known.id == id && known.noun == noun) {
            Some(known) if known.verb == Verb::Created && verb == Verb::Changed => {
                (known.name, known.revision) = (name, revision);
            }
            Some(known) if known.verb == Verb::Changed => {
                (known.verb, known.name, known.revision) = (verb, name, revision);
            }
            _ => changes.push(Change { account, noun, verb, id, name, revision, at }),
        }
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
        self.written_bytes += value.len();
        self.overlay.writes.insert(key, Some(value));
        Ok(())
    }

    pub fn delete(&mut self, key: Vec<u8>) {
        self.overlay.writes.insert(key, None);
    }

    /// How many keys are written so far.
    pub fn written(&self) -> usize {
        self.overlay.writes.len()
    }

    /// How much was put so far: with large documents a page ends sooner, so that others need not wait for it.
    pub fn written_bytes(&self) -> usize {
        self.written_bytes
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
