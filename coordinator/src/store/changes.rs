//! Changes of objects, for those who follow them: gathered by transactions, published after their commit, kept in a ring
//! of memory for a while.
//!
//! Nobody's writing waits for a follower: what is published goes into the ring of its account, and each follower reads it
//! at a pace of its own. One that is slower than the ring turns round has lost its place and is told so. Nothing is
//! gathered for an account that nobody follows. After a restart the ring is empty; whoever comes back begins anew.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use drover_protocol::{AccountId, Timestamp, change::Noun};
use parking_lot::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

use crate::error::{Error, Result};

/// Changes that a ring keeps.
const CAPACITY: usize = 8_192;
/// Followers of one account.
const MAX_FOLLOWERS: usize = 1_000;

/// What of a record everybody with the right to read it may know.
#[derive(Clone, Copy, Debug)]
pub struct Public<'a> {
    pub noun: Noun,
    pub id: Uuid,
    pub name: Option<&'a str>,
    pub revision: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Created,
    Changed,
    Deleted,
}

impl Verb {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Deleted => "deleted",
        }
    }
}

/// What happened to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub account: AccountId,
    pub noun: Noun,
    pub verb: Verb,
    pub id: Uuid,
    pub name: Option<String>,
    pub revision: Option<u64>,
    pub at: Timestamp,
}

/// A change in its place of the ring.
#[derive(Debug)]
pub struct Entry {
    pub seq: u64,
    pub change: Change,
    /// As it goes out: made once by the first who needs it, for all.
    rendered: OnceLock<Bytes>,
}

impl Entry {
    pub fn rendered(&self, render: impl FnOnce(&Self) -> Bytes) -> &Bytes {
        self.rendered.get_or_init(|| render(self))
    }
}

struct Ring {
    entries: VecDeque<Arc<Entry>>,
    /// Number of the next change.
    next: u64,
    followers: usize,
    /// The number at which the last follower left. It may come back; the ring goes when it has turned round since.
    left_at: u64,
    newest: watch::Sender<u64>,
}

impl Ring {
    /// Numbers go on from the time in microseconds: one that was given out before a restart, or before this ring was made,
    /// is lower than all of this one.
    fn new(now: Timestamp) -> Self {
        let next = now.millis().unsigned_abs().saturating_mul(1_000).max(1);
        let newest = watch::Sender::new(next);
        Self { entries: VecDeque::new(), next, followers: 0, left_at: next, newest }
    }

    fn push(&mut self, change: Change) {
        if self.entries.len() == CAPACITY {
            self.entries.pop_front();
        }
        self.entries.push_back(Arc::new(Entry { seq: self.next, change, rendered: OnceLock::new() }));
        self.next += 1;
    }

    /// The first number that a follower can still be given.
    fn first(&self) -> u64 {
        self.next - self.entries.len() as u64
    }

    fn is_forsaken(&self) -> bool {
        self.followers == 0 && self.next - self.left_at >= CAPACITY as u64
    }
}

/// The rings of all accounts.
#[derive(Default)]
pub struct Changes {
    rings: Mutex<HashMap<AccountId, Ring>>,
    count: AtomicUsize,
}

impl Changes {
    /// Whether anything has to be gathered at all.
    pub fn are_followed(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// Gives changes that are committed to those who follow.
    pub fn publish(&self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let mut rings = self.rings.lock();
        let mut touched: Vec<AccountId> = Vec::new();
        for change in changes {
            let account = change.account;
            let Some(ring) = rings.get_mut(&account) else { continue };
            ring.push(change);
            if !touched.contains(&account) {
                touched.push(account);
            }
        }
        for account in touched {
            let Some(ring) = rings.get(&account) else { continue };
            ring.newest.send_replace(ring.next);
            if ring.is_forsaken() {
                rings.remove(&account);
            }
        }
        self.count.store(rings.len(), Ordering::Release);
    }

    /// Follows an account from the next change on, or from behind the one of number `last`; then tells whether that place
    /// is still there. What is being written at this moment may be missing: a write after this call ends that.
    pub fn follow(self: &Arc<Self>, account: AccountId, now: Timestamp, last: Option<u64>) -> Result<(Follower, bool)> {
        let mut rings = self.rings.lock();
        let ring = rings.entry(account).or_insert_with(|| Ring::new(now));
        if ring.followers >= MAX_FOLLOWERS {
            return Err(Error::TooMany { retry_after_seconds: 60 });
        }
        ring.followers += 1;
        let wanted = last.map(|last| last.saturating_add(1));
        let there = wanted.is_none_or(|next| (ring.first()..=ring.next).contains(&next));
        let next = wanted.filter(|_| there).unwrap_or(ring.next);
        let newest = ring.newest.subscribe();
        self.count.store(rings.len(), Ordering::Release);
        drop(rings);
        Ok((Follower { changes: Arc::clone(self), account, next, newest }, there))
    }
}

/// Somebody who follows the changes of an account.
pub struct Follower {
    changes: Arc<Changes>,
    account: AccountId,
    next: u64,
    newest: watch::Receiver<u64>,
}

/// What a follower finds.
#[derive(Debug)]
pub enum Found {
    Changes(Vec<Arc<Entry>>),
    /// It was too slow, and goes on with what comes next.
    Lost,
}

impl Follower {
    /// Number of the last change that it was given, or that was there before it came.
    pub fn position(&self) -> u64 {
        self.next - 1
    }

    /// Waits for the next change.
    pub async fn changed(&mut self) {
        let next = self.next;
        // The sender goes with its ring, which stays as long as it is followed.
        let _ = self.newest.wait_for(|newest| *newest > next).await;
    }

    /// The changes since the last call, at most so many.
    pub fn take(&mut self, limit: usize) -> Found {
        let rings = self.changes.rings.lock();
        let Some(ring) = rings.get(&self.account) else { return Found::Changes(Vec::new()) };
        let first = ring.first();
        if self.next < first {
            self.next = ring.next;
            return Found::Lost;
        }
        let place = usize::try_from(self.next - first).unwrap_or(usize::MAX);
        let found: Vec<Arc<Entry>> = ring.entries.iter().skip(place).take(limit).cloned().collect();
        self.next += found.len() as u64;
        Found::Changes(found)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some(ring) = self.changes.rings.lock().get_mut(&self.account) {
            ring.followers -= 1;
            ring.left_at = ring.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);

    fn account() -> AccountId {
        AccountId::from_uuid(Uuid::from_u128(1))
    }

    fn change(number: u64) -> Change {
        let id = Uuid::from_u128(u128::from(number));
        let verb = Verb::Changed;
        Change { account: account(), noun: Noun::Job, verb, id, name: None, revision: Some(number), at: NOW }
    }

    fn taken(follower: &mut Follower) -> Option<Vec<u64>> {
        match follower.take(CAPACITY) {
            Found::Changes(entries) => Some(entries.iter().filter_map(|entry| entry.change.revision).collect()),
            Found::Lost => None,
        }
    }

    #[test]
    fn a_follower_is_given_each_change_once_and_may_come_back() {
        let changes = Arc::new(Changes::default());
        changes.publish(vec![change(0)]);
        assert!(!changes.are_followed(), "nobody follows yet");
        let (mut follower, _) = changes.follow(account(), NOW, None).expect("there is room");
        assert!(follower.changed().now_or_never().is_none());
        changes.publish(vec![change(1), change(2)]);
        assert!(follower.changed().now_or_never().is_some());
        assert_eq!(taken(&mut follower), Some(vec![1, 2]));
        let position = follower.position();
        drop(follower);
        changes.publish(vec![change(3)]);
        let (mut back, resumed) = changes.follow(account(), NOW, Some(position)).expect("there is room");
        assert!(resumed);
        assert_eq!(taken(&mut back), Some(vec![3]));
        let (_, resumed) = changes.follow(account(), NOW, Some(7)).expect("there is room");
        assert!(!resumed, "that number is of another time");
    }

    #[test]
    fn who_is_too_slow_is_told_so_and_goes_on() {
        let changes = Arc::new(Changes::default());
        let (mut slow, _) = changes.follow(account(), NOW, None).expect("there is room");
        changes.publish((0..CAPACITY as u64 + 1).map(change).collect());
        assert_eq!(taken(&mut slow), None);
        changes.publish(vec![change(9)]);
        assert_eq!(taken(&mut slow), Some(vec![9]));
    }

    /// A ring costs memory: it goes a while after the last follower.
    #[test]
    fn what_nobody_follows_is_gathered_no_more() {
        let changes = Arc::new(Changes::default());
        let (follower, _) = changes.follow(account(), NOW, None).expect("there is room");
        let position = follower.position();
        changes.publish((0..CAPACITY as u64).map(change).collect());
        assert!(changes.are_followed());
        drop(follower);
        changes.publish((0..CAPACITY as u64).map(change).collect());
        assert!(!changes.are_followed());
        let later = Timestamp::from_millis(NOW.millis() + 1_000);
        let (_, resumed) = changes.follow(account(), later, Some(position)).expect("there is room");
        assert!(!resumed);
    }
}
