//! The counters of queues during a transaction: read once, kept true with every change of a task, written once.

use std::sync::Arc;

use drover_protocol::QueueId;

use crate::{
    domain::{
        queue::{Counters, Hour, KEPT_HOURS, Queue},
        task::{Phase, Rules, Task},
    },
    error::Result,
    operations::trigger,
    store::{Reading, Scan, Tx, key::Kind, schema::HourOfQueue, table},
};

/// One queue with its counters.
#[derive(Debug)]
pub struct Tally {
    pub queue: Arc<Queue>,
    pub counters: Counters,
    ended: Option<Hour>,
    changed: bool,
    stir: Stir,
}

/// What has happened to the tasks of a queue that triggers look at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stir {
    /// Some may be taken now that could not before, or by others than before.
    pub came: bool,
    /// Some wait or are held no more.
    pub left: bool,
}

impl Stir {
    fn note(&mut self, before: Option<&Task>, after: Option<&Task>) {
        let is_ready = |task: Option<&Task>| task.is_some_and(|task| task.phase().is_ready());
        let is_held = |task: Option<&Task>| task.is_some_and(|task| task.phase() == Phase::InProgress);
        let same_tags = || before.zip(after).is_none_or(|(before, after)| before.tags == after.tags);
        self.came |= is_ready(after) && (!is_ready(before) || !same_tags());
        self.left |= (is_ready(before) && (!is_ready(after) || !same_tags())) || (is_held(before) && !is_held(after));
    }
}

impl Tally {
    /// A task of this queue has changed, come (`before` is absent) or gone (`after` is).
    pub fn record(&mut self, tx: &Tx, before: Option<&Task>, after: Option<&Task>) {
        self.changed = true;
        if self.queue.is_watched {
            self.stir.note(before, after);
        }
        self.counters.record(before, after, tx.now());
    }
}

/// What the queue says of its tasks.
pub fn rules(queue: &Queue) -> Rules<'_> {
    Rules {
        max_attempts: queue.max_attempts,
        retry: &queue.retry,
        lease_seconds: queue.lease_seconds,
        abandon_new_after_seconds: queue.abandon_new_after_seconds,
    }
}

/// The queues that a transaction changes tasks of. Every change of a task goes through here, and [`Tallies::close`] ends
/// it; what is not closed is not counted.
#[derive(Debug, Default)]
pub struct Tallies(Vec<Tally>);

impl Tallies {
    /// The queue, with its counters.
    pub fn of(&mut self, tx: &Tx, id: QueueId) -> Result<&mut Tally> {
        if let Some(place) = self.0.iter().position(|tally| tally.queue.id == id) {
            return Ok(&mut self.0[place]);
        }
        let queue = table::get::<Queue>(tx, id)?;
        self.open(tx, &queue)
    }

    /// The same for a queue that was read in this transaction.
    pub fn open(&mut self, tx: &Tx, queue: &Queue) -> Result<&mut Tally> {
        let place = match self.0.iter().position(|tally| tally.queue.id == queue.id) {
            Some(place) => place,
            None => {
                let mut counters: Counters = table::get(tx, queue.id)?;
                let ended = counters.turn(tx.now());
                self.0.push(Tally {
                    queue: Arc::new(queue.clone()),
                    counters,
                    ended,
                    changed: false,
                    stir: Stir::default(),
                });
                self.0.len() - 1
            }
        };
        Ok(&mut self.0[place])
    }

    /// Writes the counters of all queues whose tasks have changed.
    pub fn close(self, tx: &mut Tx) -> Result<()> {
        for tally in self.0.into_iter().filter(|tally| tally.changed) {
            if let Some(hour) = tally.ended {
                keep_hour(tx, tally.queue.id, hour)?;
            }
            table::overwrite(tx, &tally.counters)?;
            if tally.queue.is_watched {
                trigger::by_queue::tasks_changed(tx, &tally.counters, tally.stir)?;
            }
        }
        Ok(())
    }
}

/// Keeps the figures of an hour that has ended, and drops those that nobody looks at any more.
fn keep_hour(tx: &mut Tx, queue_id: QueueId, hour: Hour) -> Result<()> {
    let oldest = hour.number.saturating_sub(KEPT_HOURS);
    let end = table::index_start(tx, Kind::QueueHour, (queue_id, oldest));
    for (_, old) in Scan::of(tx, Kind::QueueHour, queue_id).below(end).records::<HourOfQueue>(tx, 100)? {
        table::delete::<HourOfQueue>(tx, (queue_id, old.hour.number))?;
    }
    // When the clock was set back an hour comes twice.
    let before = table::find::<HourOfQueue>(tx, (queue_id, hour.number))?.map(|kept| kept.hour).unwrap_or_default();
    table::overwrite(tx, &HourOfQueue { queue_id, hour: hour.with(&before) })
}
