//! Wake-ups: who waits for a topic is woken after a commit that names it.
//!
//! A watch is armed before its holder looks at the store, so that no change between the look and the wait is missed.
//!
//! A ready job is for one robot, and ten thousand may wait for it, as a task is for one taker: of those who wait for
//! [`Topic::Ready`] or [`Topic::Queue`] only the first is woken, and passes the [wake-up](WakeUp) on to the next by dropping it, unless it finds that nothing is left and settles
//! it. So a wake-up is never lost with the one who got it, and each goes round at most once.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use drover_protocol::{AccountId, JobId, KeyId, QueueId, RobotGroupId, RobotId};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// What can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Something for this robot alone: a job, a command, its own settings.
    Robot(RobotId),
    /// Something for all robots of this group: its settings, a pause, a place for further jobs of some process.
    Group(RobotGroupId),
    /// A job has become ready for some robot of this group.
    Ready(RobotGroupId),
    /// The job has changed.
    Job(JobId),
    /// The job has new log lines.
    JobLog(JobId),
    /// Some log of the account has new lines.
    Logs(AccountId),
    /// The key has ended.
    Key(KeyId),
    /// A deadline of some job has been set.
    Deadlines,
    /// Some job's log can be sealed.
    Sealing,
    /// Some blob is no longer needed.
    Garbage,
    /// A task of this queue has become ready to be taken.
    Queue(QueueId),
    /// The pause of this queue has begun, ended, or ends at another time.
    Pause(QueueId),
    /// Something is due for a task in a moment.
    TasksDue,
    /// A job has ended and holds more tasks than were settled at once.
    Settling,
    /// A storage folder was deleted.
    Storage,
    /// A trigger is due sooner than was known.
    Triggers,
    /// News wait to be handed out.
    News,
    /// A delivery to a webhook is due.
    Deliveries,
    /// The alerts have changed.
    Alerts,
    /// An e-mail waits to be sent.
    Mail,
    /// A mailbox is to be looked into sooner than was known.
    Mailboxes,
    /// An account was deleted.
    Accounts,
}

impl Topic {
    /// Whether waking one of those who wait is enough.
    const fn is_for_one(self) -> bool {
        matches!(self, Self::Ready(_) | Self::Queue(_))
    }
}

/// Somebody who waits.
#[derive(Debug, Default)]
struct Waiter {
    notify: Notify,
    /// Set when it was woken for one: the wake-up may be passed on to those with ids below. Only changed under the lock.
    until: AtomicU64,
}

impl Waiter {
    fn wake_for_one(&self, until: u64) {
        self.until.fetch_max(until, Ordering::Relaxed);
        self.notify.notify_one();
    }
}

/// The inner order is that of arming, so that who waited first is woken first.
type Waiters = HashMap<Topic, BTreeMap<u64, Arc<Waiter>>>;

/// Everybody who waits.
#[derive(Debug, Default)]
pub struct Watches {
    waiters: Mutex<Waiters>,
    next_id: AtomicU64,
}

impl Watches {
    /// Arms a watch for any of the topics.
    pub fn watch(self: &Arc<Self>, topics: &[Topic]) -> Watch {
        let waiter = Arc::new(Waiter::default());
        let mut waiters = self.waiters.lock();
        // Given out under the lock, so that whoever is armed later has a larger one.
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        for topic in topics {
            waiters.entry(*topic).or_default().insert(id, Arc::clone(&waiter));
        }
        Watch { watches: Arc::clone(self), topics: topics.to_vec(), id, waiter }
    }

    /// Wakes everybody who waits for one of the topics, or the first where that is enough.
    pub fn announce(&self, topics: &[Topic]) {
        if topics.is_empty() {
            return;
        }
        let waiters = self.waiters.lock();
        let until = self.next_id.load(Ordering::Relaxed);
        for topic in topics {
            let of_topic = waiters.get(topic).into_iter().flat_map(BTreeMap::values);
            if topic.is_for_one() {
                of_topic.take(1).for_each(|waiter| waiter.wake_for_one(until));
            } else {
                of_topic.for_each(|waiter| waiter.notify.notify_one());
            }
        }
    }
}

/// An armed watch. A wake-up that came before [`Watch::woken`] was called is not lost.
#[derive(Debug)]
pub struct Watch {
    watches: Arc<Watches>,
    topics: Vec<Topic>,
    id: u64,
    waiter: Arc<Waiter>,
}

impl Watch {
    /// Waits for a wake-up since the watch was armed or since the last one. There may be more of them than changes.
    pub async fn woken(&self) {
        self.waiter.notify.notified().await;
    }

    /// Ends the watch. What follows has to be decided by a look that comes after this: later wake-ups go to others.
    pub fn end(mut self) -> WakeUp {
        self.disarm()
    }

    fn disarm(&mut self) -> WakeUp {
        let topics = std::mem::take(&mut self.topics);
        let mut waiters = self.watches.waiters.lock();
        for topic in &topics {
            if let Some(of_topic) = waiters.get_mut(topic) {
                of_topic.remove(&self.id);
                if of_topic.is_empty() {
                    waiters.remove(topic);
                }
            }
        }
        let until = self.waiter.until.load(Ordering::Relaxed);
        drop(waiters);
        WakeUp { watches: Arc::clone(&self.watches), topics, after: self.id, until }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.disarm());
    }
}

/// What an ended watch leaves: perhaps a wake-up for one, which goes on to the next when this is dropped.
#[derive(Debug)]
pub struct WakeUp {
    watches: Arc<Watches>,
    topics: Vec<Topic>,
    /// The one that was woken; the next one was armed later, but before `until`.
    after: u64,
    until: u64,
}

impl WakeUp {
    /// Whether somebody else would be woken.
    pub fn is_for_one(&self) -> bool {
        self.until > self.after
    }

    /// Nothing is left for anybody else.
    pub fn settle(mut self) {
        self.until = 0;
    }
}

impl Drop for WakeUp {
    fn drop(&mut self) {
        if !self.is_for_one() {
            return;
        }
        let waiters = self.watches.waiters.lock();
        for topic in self.topics.iter().filter(|topic| topic.is_for_one()) {
            let next = waiters.get(topic).and_then(|of_topic| of_topic.range(self.after..self.until).next());
            if let Some((_, next)) = next {
                next.wake_for_one(self.until);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn group() -> RobotGroupId {
        RobotGroupId::from_uuid(uuid::Uuid::from_u128(7))
    }

    fn three(watches: &Arc<Watches>) -> [Watch; 3] {
        [(); 3].map(|()| watches.watch(&[Topic::Ready(group()), Topic::Group(group())]))
    }

    fn is_woken(watch: &Watch) -> bool {
        watch.woken().now_or_never().is_some()
    }

    #[test]
    fn what_is_for_all_wakes_all() {
        let watches = Arc::new(Watches::default());
        let waiting = three(&watches);
        watches.announce(&[Topic::Group(group())]);
        assert_eq!(waiting.each_ref().map(is_woken), [true, true, true]);
    }

    #[test]
    fn what_is_for_one_wakes_the_first_and_goes_on_when_that_one_goes() {
        let watches = Arc::new(Watches::default());
        let [first, second, third] = three(&watches);
        watches.announce(&[Topic::Ready(group())]);
        assert!(!is_woken(&second) && !is_woken(&third));
        // As when the connection is cut: it never even looked.
        drop(first);
        assert!(is_woken(&second) && !is_woken(&third));
        second.end().settle();
        assert!(!is_woken(&third), "nothing is left for anybody else");
    }

    /// A job that suits nobody must not keep the robots asking for ever.
    #[test]
    fn a_wake_up_goes_round_once() {
        let watches = Arc::new(Watches::default());
        let mut waiting: Vec<Watch> = three(&watches).into();
        watches.announce(&[Topic::Ready(group())]);
        for _ in 0..3 {
            let woken = waiting.remove(0);
            assert!(is_woken(&woken));
            // Armed again, looked in vain, then the old watch goes.
            waiting.push(watches.watch(&[Topic::Ready(group())]));
            drop(woken);
        }
        assert!(waiting.iter().all(|watch| !is_woken(watch)));
    }
}
