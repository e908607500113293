//! Wake-ups: who waits for a topic is woken after a commit that names it.
//!
//! A watch is armed before its holder looks at the store, so that no change between the look and the wait is missed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use drover_protocol::{JobId, KeyId, RobotGroupId, RobotId};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// What can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Something for this robot alone: a job, a command, its own settings.
    Robot(RobotId),
    /// A job for the robots of this group.
    Group(RobotGroupId),
    /// The job has changed.
    Job(JobId),
    /// The job has new log lines.
    JobLog(JobId),
    /// The key has ended.
    Key(KeyId),
    /// A deadline of some job has been set.
    Deadlines,
    /// Some job's log can be sealed.
    Sealing,
    /// Some blob is no longer needed.
    Garbage,
}

/// The inner order is that of arming, so that who waited first is woken first.
type Waiters = HashMap<Topic, BTreeMap<u64, Arc<Notify>>>;

/// Everybody who waits.
#[derive(Debug, Default)]
pub struct Watches {
    waiters: Mutex<Waiters>,
    next_id: AtomicU64,
}

impl Watches {
    /// Arms a watch for any of the topics.
    pub fn watch(self: &Arc<Self>, topics: &[Topic]) -> Watch {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let notify = Arc::new(Notify::new());
        let mut waiters = self.waiters.lock();
        for topic in topics {
            waiters.entry(*topic).or_default().insert(id, Arc::clone(&notify));
        }
        Watch { watches: Arc::clone(self), topics: topics.to_vec(), id, notify }
    }

    /// Wakes everybody who waits for one of the topics.
    pub fn announce(&self, topics: &[Topic]) {
        if topics.is_empty() {
            return;
        }
        let waiters = self.waiters.lock();
        for waiter in topics.iter().filter_map(|topic| waiters.get(topic)).flat_map(BTreeMap::values) {
            waiter.notify_one();
        }
    }
}

/// An armed watch. A wake-up that came before [`Watch::woken`] was called is not lost.
#[derive(Debug)]
pub struct Watch {
    watches: Arc<Watches>,
    topics: Vec<Topic>,
    id: u64,
    notify: Arc<Notify>,
}

impl Watch {
    /// Waits for a wake-up since the watch was armed or since the last one. There may be more of them than changes.
    pub async fn woken(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut waiters = self.watches.waiters.lock();
        for topic in &self.topics {
            if let Some(of_topic) = waiters.get_mut(topic) {
                of_topic.remove(&self.id);
                if of_topic.is_empty() {
                    waiters.remove(topic);
                }
            }
        }
    }
}
