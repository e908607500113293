//! Queues: the rules that hold for their tasks, and the figures that are kept with every change of a task.

use drover_protocol::{
    QueueId, TaskId, Timestamp,
    queue::{TaskRetention, TaskRetry},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    robot::Pause,
    task::{Phase, READY_PHASES, Task},
};

pub const DEFAULT_MAX_ATTEMPTS: u32 = 1;
pub const MAX_ATTEMPTS: u32 = 1_000;
pub const DEFAULT_LEASE_SECONDS: u64 = 600;
pub const MAX_FACTOR: f64 = 100.0;
/// The longest time that a queue may name, apart from leases and delays: ten years.
pub const MAX_AGE_SECONDS: u64 = 315_360_000;
/// The longest retention: a hundred years.
pub const MAX_RETENTION_DAYS: u32 = 36_500;
/// Hours of throughput that are kept.
pub const KEPT_HOURS: u64 = 7 * 24;

const HOUR_MILLIS: i64 = 3_600_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Queue {
    pub id: QueueId,
    pub name: String,
    pub description: String,
    pub unique_references: bool,
    pub max_attempts: u32,
    pub retry: TaskRetry,
    pub lease_seconds: u64,
    pub abandon_new_after_seconds: Option<u64>,
    /// Names the document that holds the schema; another schema has another name.
    pub payload_schema: Option<Uuid>,
    pub output_schema: Option<Uuid>,
    pub sla_seconds: Option<u64>,
    pub pause: Option<Pause>,
    pub retention: TaskRetention,
    pub on_success_queue: Option<QueueId>,
    pub on_failure_queue: Option<QueueId>,
    pub settle_with_job: bool,
    /// Some enabled trigger starts jobs for its tasks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_watched: bool,
    pub created_at: Timestamp,
    pub revision: u64,
}

impl Queue {
    pub fn is_paused(&self, now: Timestamp) -> bool {
        self.pause.as_ref().is_some_and(|pause| pause.holds(now))
    }
}

/// What happened to the tasks of a queue in one hour.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hour {
    /// Hours since 1970.
    pub number: u64,
    pub added: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub abandoned: u64,
    /// When the first of those that succeeded or failed did so.
    pub first_end_at: Option<Timestamp>,
}

impl Hour {
    /// The number of the hour in which a time lies.
    pub fn number_of(time: Timestamp) -> u64 {
        (time.millis() / HOUR_MILLIS).unsigned_abs()
    }

    pub fn starts_at(&self) -> Timestamp {
        Timestamp::EPOCH.plus_seconds(self.number.saturating_mul(3_600))
    }

    /// The same with what else has happened in this hour.
    pub fn with(self, other: &Self) -> Self {
        Self {
            number: self.number,
            added: self.added + other.added,
            succeeded: self.succeeded + other.succeeded,
            failed: self.failed + other.failed,
            abandoned: self.abandoned + other.abandoned,
            first_end_at: self.first_end_at.into_iter().chain(other.first_end_at).min(),
        }
    }

    /// Tasks that were worked off.
    pub fn done(&self) -> u64 {
        self.succeeded + self.failed
    }
}

/// Figures of a queue, and where the first of its tasks may be found. Changed in the transaction that changes a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    pub queue_id: QueueId,
    /// Tasks per [`Phase`].
    pub counts: [u64; Phase::ALL.len()],
    /// Per priority: no task that may be taken has a smaller id. What was taken lately need not be stepped over then.
    pub heads: [TaskId; READY_PHASES],
    /// No task that may be taken has an earlier deadline; absent: none has any.
    pub earliest_deadline: Option<Timestamp>,
    /// The hour of the last change.
    pub hour: Hour,
    /// Counts every change of a task: what was seen of the tasks is true while it stays.
    #[serde(default)]
    pub changes: u64,
}

impl Counters {
    pub fn new(queue_id: QueueId) -> Self {
        Self {
            queue_id,
            counts: Default::default(),
            heads: [TaskId::from_uuid(Uuid::nil()); READY_PHASES],
            earliest_deadline: None,
            hour: Hour::default(),
            changes: 0,
        }
    }

    pub fn count(&self, phase: Phase) -> u64 {
        self.counts[phase as usize]
    }

    /// Tasks that wait to be taken.
    pub fn ready(&self) -> u64 {
        self.counts[..READY_PHASES].iter().sum()
    }

    /// Tasks that are not at their end.
    pub fn unfinished(&self) -> u64 {
        self.ready() + self.count(Phase::InProgress) + self.count(Phase::Postponed)
    }

    /// Begins the hour of `now`; gives the one before if it has ended. A clock that is set back a little changes nothing; one
    /// that is set back further begins an hour as well, lest nothing counts until it has caught up.
    pub fn turn(&mut self, now: Timestamp) -> Option<Hour> {
        let number = Hour::number_of(now);
        if number <= self.hour.number && self.hour.number <= number + 1 {
            return None;
        }
        let ended = std::mem::replace(&mut self.hour, Hour { number, ..Hour::default() });
        (ended.number > 0).then_some(ended)
    }

    /// A task has changed, come (`before` is absent) or gone (`after` is).
    pub fn record(&mut self, before: Option<&Task>, after: Option<&Task>, now: Timestamp) {
        let (old, new) = (before.map(Task::phase), after.map(Task::phase));
        if let Some(task) = after.filter(|task| task.phase().is_ready()) {
            let head = &mut self.heads[task.phase() as usize];
            // One that comes back, or is moved here, may be older than those that wait.
            *head = (*head).min(task.id);
            if let Some(deadline) = task.deadline {
                self.earliest_deadline = Some(self.earliest_deadline.map_or(deadline, |known| known.min(deadline)));
            }
        }
        self.changes += 1;
        if old == new {
            return;
        }
        if let Some(old) = old {
            self.counts[old as usize] = self.counts[old as usize].saturating_sub(1);
        }
        let Some(new) = new else { return };
        self.counts[new as usize] += 1;
        if before.is_none() {
            self.hour.added += 1;
            // One that is moved here after its end was worked off elsewhere.
            return;
        }
        match new {
            Phase::Succeeded => self.hour.succeeded += 1,
            Phase::FailedBusiness | Phase::FailedApplication => self.hour.failed += 1,
            Phase::Abandoned => self.hour.abandoned += 1,
            Phase::NewHigh | Phase::NewNormal | Phase::NewLow | Phase::InProgress | Phase::Postponed => {}
        }
        if matches!(new, Phase::Succeeded | Phase::FailedBusiness | Phase::FailedApplication) {
            self.hour.first_end_at.get_or_insert(now);
        }
    }

    /// How many were worked off in the last hour, and in which time, as far as hours of the clock tell. `before` is the
    /// hour before that of `now`.
    pub fn rate(&self, before: &Hour, now: Timestamp) -> (u64, u64) {
        let current = if self.hour.number == Hour::number_of(now) { self.hour.clone() } else { Hour::default() };
        let into_hour = (now.millis() % HOUR_MILLIS).unsigned_abs() / 1_000;
        if before.done() == 0 {
            let seconds = current.first_end_at.map_or(0, |first| now.since(first).as_secs());
            return (current.done(), seconds.max(1));
        }
        let since_first = before.first_end_at.map(|first| now.since(first).as_secs());
        if let Some(seconds) = since_first.filter(|seconds| *seconds < 3_600) {
            return (current.done() + before.done(), seconds.max(1));
        }
        // Of the hour before so much counts as is missing to a whole hour.
        let of_before = before.done() * (3_600 - into_hour) / 3_600;
        (current.done() + of_before, 3_600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters() -> Counters {
        Counters::new(QueueId::from_uuid(Uuid::from_u128(1)))
    }

    fn at_minute(minute: u64) -> Timestamp {
        Timestamp::EPOCH.plus_seconds(1_000 * 3_600 + minute * 60)
    }

    /// A quarter into the hour, three quarters of the hour before count.
    #[test]
    fn the_rate_is_that_of_the_last_hour() {
        let mut counters = counters();
        counters.hour = Hour { number: 1_000, succeeded: 10, failed: 2, ..Hour::default() };
        let before = Hour { number: 999, succeeded: 40, abandoned: 7, ..Hour::default() };
        assert_eq!(counters.rate(&before, at_minute(15)), (12 + 30, 3_600));
        // Two hours later nothing of it counts.
        assert_eq!(counters.rate(&Hour::default(), at_minute(135)), (0, 1));
    }

    /// A queue that began to be worked off a minute ago is judged by that minute.
    #[test]
    fn a_young_queue_is_judged_by_its_own_time() {
        let mut counters = counters();
        counters.hour = Hour { number: 1_000, succeeded: 30, first_end_at: Some(at_minute(20)), ..Hour::default() };
        assert_eq!(counters.rate(&Hour::default(), at_minute(21)), (30, 60));
    }

    /// That the clock strikes makes nobody slower: what began just before is still judged by its own time, and what has gone
    /// on for an hour by that hour.
    #[test]
    fn a_young_queue_may_see_the_hour_turn() {
        let mut counters = counters();
        counters.hour = Hour { number: 1_000, succeeded: 4, ..Hour::default() };
        let of_before = |second: u64| Some(Timestamp::EPOCH.plus_seconds(999 * 3_600 + second));
        let before = Hour { number: 999, succeeded: 240, first_end_at: of_before(3_570), ..Hour::default() };
        assert_eq!(counters.rate(&before, at_minute(0).plus_seconds(1)), (244, 31));
        assert_eq!(counters.rate(&before, at_minute(45)), (244, 2_730));
        let long = Hour { first_end_at: of_before(10), ..before };
        assert_eq!(counters.rate(&long, at_minute(15)), (4 + 180, 3_600));
    }

    #[test]
    fn an_hour_turns_once_and_never_back() {
        let mut counters = counters();
        assert_eq!(counters.turn(at_minute(5)), None);
        counters.hour.added = 3;
        assert_eq!(counters.turn(at_minute(59)), None);
        let ended = counters.turn(at_minute(60)).expect("the hour has ended");
        assert_eq!((ended.number, ended.added), (1_000, 3));
        assert_eq!(counters.turn(at_minute(1)), None, "the clock was set back");
        assert_eq!(counters.hour.number, 1_001);
    }

    /// A host that starts with a clock ten years ahead must not leave a queue without figures for ten years.
    #[test]
    fn an_hour_of_a_wrong_clock_ends() {
        let mut counters = counters();
        let ahead = Hour { number: 90_000, succeeded: 3, ..Hour::default() };
        counters.hour = ahead.clone();
        assert_eq!(counters.turn(at_minute(5)), Some(ahead));
        assert_eq!(counters.hour, Hour { number: 1_000, ..Hour::default() });
    }
}
