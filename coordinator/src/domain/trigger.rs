//! A trigger, and what is to become of the instants at which it fires.

pub mod by_event;
pub mod by_mail;
pub mod by_queue;
pub mod by_webhook;

use drover_protocol::{
    EventId, JobId, ProcessId, QueueId, Timestamp, TriggerId,
    job::Outcome,
    trigger::{
        Busy, ByEvent, ByMail, ByQueue, CatchUp, Continuous, Decision, NonWorkingDays, Overlap, Schedule, TriggerKind,
        Window,
    },
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::by_webhook::Webhook;
use super::{
    job::Target,
    schedule::{Calendar, Fault, Span, Timetable, policy_of},
};

/// So long a trigger that keeps jobs running waits at the most after jobs that have failed.
pub const MAX_PAUSE_SECONDS: u64 = 60;
/// Instants that wait for the end of a job, at the most.
pub const MAX_BUFFERED: usize = 500;
/// Triggers by event that fire in a row, each on what the job of another one did.
pub const MAX_CHAIN: u32 = 10;
/// Misses that have a row each; more of them in a run have one row together.
const MAX_MISSED_ROWS: usize = 100;
/// Instants that are counted one by one in a run of misses.
const MAX_COUNTED: u64 = 1_000;
/// An instant is never on time later than this.
const LATEST_MILLIS: i64 = 60_000;
/// Of instants that follow each other closely, each is on time at least for so long.
const LEAST_MILLIS: i64 = 2_000;

/// By what it fires, with the settings of its kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Rule {
    /// Intervals are counted from `anchor`.
    Schedule {
        schedule: Schedule,
        anchor: Timestamp,
    },
    Continuous(Continuous),
    Queue {
        queue_id: QueueId,
        settings: ByQueue,
    },
    Webhook(Webhook),
    Event(ByEvent),
    Mail(ByMail),
}

impl Rule {
    pub fn kind(&self) -> TriggerKind {
        match self {
            Self::Schedule { .. } => TriggerKind::Schedule,
            Self::Continuous(_) => TriggerKind::Continuous,
            Self::Queue { .. } => TriggerKind::Queue,
            Self::Webhook(_) => TriggerKind::Webhook,
            Self::Event(_) => TriggerKind::Event,
            Self::Mail(_) => TriggerKind::Mail,
        }
    }

    /// Whether each of its fires has an input of its own, so that instants cannot stand for them.
    pub fn has_own_inputs(&self) -> bool {
        matches!(self, Self::Webhook(_) | Self::Event(_) | Self::Mail(_))
    }

    /// Whether it sees to it that a number of jobs is unfinished.
    pub fn keeps_jobs(&self) -> bool {
        matches!(self, Self::Continuous(_) | Self::Queue { .. })
    }
}

/// Jobs that were started in one month.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonthRuns {
    /// Year and month as one number, see [`Span::month`].
    pub month: u32,
    pub runs: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trigger {
    pub id: TriggerId,
    pub name: String,
    pub description: String,
    pub enabled: bool,
    pub process_id: ProcessId,
    pub target: Target,
    pub priority: Option<u8>,
    pub input: Option<serde_json::Map<String, serde_json::Value>>,
    pub max_parallel: Option<u32>,
    pub overlap: Overlap,
    pub valid_from: Option<Timestamp>,
    pub valid_to: Option<Timestamp>,
    pub window: Option<Window>,
    /// By whose clock window and months go; absent: by that of the schedule, or UTC.
    #[serde(default)]
    pub time_zone: Option<String>,
    /// Name of the resource.
    pub calendar: Option<String>,
    pub non_working_days: NonWorkingDays,
    pub max_runs: Option<u64>,
    pub max_runs_per_month: Option<u64>,
    pub stop_after_seconds: Option<u64>,
    pub abort_after_seconds: Option<u64>,
    pub busy: Busy,
    pub rule: Rule,
    pub fired_count: u64,
    pub month: MonthRuns,
    pub last_fired_at: Option<Timestamp>,
    /// The instant that is decided next, of a schedule.
    pub next_fire_at: Option<Timestamp>,
    /// When it is looked at although no instant is due: a job of it has ended, or it is to keep jobs running.
    pub look_at: Option<Timestamp>,
    /// It is not looked at for the sake of tasks before this.
    #[serde(default)]
    pub rests_until: Option<Timestamp>,
    /// Jobs of it that have failed since the last one that succeeded, of a trigger that keeps jobs running.
    #[serde(default)]
    pub failed_in_row: u32,
    /// Instants that wait for the end of a job.
    pub buffered: Vec<Timestamp>,
    pub created_at: Timestamp,
    pub revision: u64,
}

/// What became of an instant, kept once for each trigger, instant and event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fire {
    pub trigger_id: TriggerId,
    pub instant: Timestamp,
    /// Nil for an instant of the schedule; else the event, or an id of its own for what a person asked.
    pub occasion: Uuid,
    pub decided_at: Timestamp,
    pub decision: Decision,
    pub reason: String,
    pub job_ids: Vec<JobId>,
    /// More than 1 for a run of misses.
    pub count: u64,
    /// The last instant of a run of misses.
    pub until: Option<Timestamp>,
    pub event_id: Option<EventId>,
}

/// Misses that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    pub instant: Timestamp,
    pub count: u64,
    pub until: Option<Timestamp>,
    /// There were more of them than `count`.
    pub uncounted: bool,
}

/// What is to be done about a schedule that is due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    pub missed: Vec<Missed>,
    /// An instant that is passed by with all that follow it, and why.
    pub skipped: Option<(Timestamp, String)>,
    pub fire: Option<Timestamp>,
    pub next: Option<Timestamp>,
}

impl Trigger {
    /// Its zone and when it may fire at all.
    pub fn span(&self) -> Result<Span, Vec<Fault>> {
        let (zone, pointer) = match &self.rule {
            Rule::Schedule { schedule, .. } => (schedule.time_zone.as_str(), "/schedule/time_zone"),
            _ => (self.time_zone.as_deref().unwrap_or("UTC"), "/time_zone"),
        };
        Span::of((zone, pointer), (self.valid_from, self.valid_to), self.window.as_ref())
    }

    /// Its schedule, if it has one, by the calendar that it names.
    pub fn timetable(&self, calendar: Option<Calendar>) -> Result<Option<Timetable>, Vec<Fault>> {
        let span = self.span()?;
        match &self.rule {
            Rule::Schedule { schedule, anchor } => {
                let calendar = calendar.map(|calendar| (calendar, policy_of(self.non_working_days)));
                Ok(Some(Timetable::of(schedule, span, *anchor, calendar)?.0))
            }
            _ => Ok(None),
        }
    }

    /// When the loop has to look at it.
    pub fn due_at(&self) -> Option<Timestamp> {
        let due = [self.next_fire_at, self.look_at].into_iter().flatten().min();
        let goes_on = match &self.rule {
            // One that starts no further jobs may still have to end those that it has started.
            Rule::Queue { settings, .. } => settings.end_when_empty,
            // What it was told waits until it is written down why nothing comes of it.
            Rule::Event(_) => true,
            _ => false,
        };
        due.filter(|_| self.enabled && (goes_on || !self.is_used_up()))
    }

    /// Asks for a look at this time, unless there will be one before.
    pub fn look_by(&mut self, at: Timestamp) {
        self.look_at = Some(self.look_at.map_or(at, |known| known.min(at)));
    }

    /// Counts how a job of it has ended; `true` if from now on it waits as long as it ever does.
    pub fn note_end(&mut self, outcome: Outcome) -> bool {
        let before = self.pause_seconds();
        self.failed_in_row = match outcome {
            Outcome::Succeeded => 0,
            Outcome::Failed | Outcome::TimedOut | Outcome::Lost => self.failed_in_row.saturating_add(1),
            Outcome::Stopped | Outcome::Aborted => self.failed_in_row,
        };
        before < MAX_PAUSE_SECONDS && self.pause_seconds() == MAX_PAUSE_SECONDS
    }

    /// How long it waits before it starts the next job after failed ones. Two may fail by chance; where all do, something
    /// is broken, and must not use up the robots' night and every attempt of every task.
    pub fn pause_seconds(&self) -> u64 {
        match self.failed_in_row {
            0..=2 => 0,
            failed => (1 << (failed - 2).min(6)).min(MAX_PAUSE_SECONDS),
        }
    }

    pub fn is_used_up(&self) -> bool {
        self.max_runs.is_some_and(|most| self.fired_count >= most)
    }

    /// Unfinished jobs that it may have at once.
    pub fn most_at_once(&self) -> Option<usize> {
        let most = self.max_parallel.map(|most| most as usize);
        match self.overlap {
            Overlap::Allow => most,
            Overlap::Skip | Overlap::BufferOne | Overlap::BufferAll | Overlap::StopOther => most.or(Some(1)),
        }
    }

    /// Why it does not fire although it is enabled.
    pub fn paused_because(&self, now: Timestamp) -> Option<String> {
        if !self.enabled {
            return None;
        }
        if self.is_used_up() {
            return Some(format!("it has started {} jobs, as many as max_runs allows", self.fired_count));
        }
        let span = self.span().ok()?;
        if span.is_over(now) {
            return Some("its valid_to has passed".to_owned());
        }
        if matches!(self.rule, Rule::Schedule { .. }) && self.next_fire_at.is_none() && self.buffered.is_empty() {
            let text =
                "by its pattern, validity, window and calendar together there is no further time at which it fires";
            return Some(text.to_owned());
        }
        self.month_is_used_up(span.month(now)).then(|| {
            let most = self.max_runs_per_month.unwrap_or_default();
            format!("it has started {most} jobs this month, as many as max_runs_per_month allows")
        })
    }

    pub fn month_is_used_up(&self, month: u32) -> bool {
        self.max_runs_per_month.is_some_and(|most| self.month.month == month && self.month.runs >= most)
    }

    /// Counts jobs that were started.
    pub fn count_runs(&mut self, jobs: u64, month: u32, now: Timestamp) {
        self.fired_count += jobs;
        if self.month.month != month {
            self.month = MonthRuns { month, runs: 0 };
        }
        self.month.runs += jobs;
        self.last_fired_at = Some(now);
    }
}

/// Until how long after an instant it is on time: half of the time to the one that follows, within bounds. An instant
/// that is decided later has been missed, and catching up is a matter of its own.
fn on_time_millis(instant: Timestamp, following: Option<Timestamp>) -> i64 {
    let period = following.map_or(i64::MAX, |following| following.millis() - instant.millis());
    (period / 2).clamp(LEAST_MILLIS, LATEST_MILLIS)
}

/// From where on instants are looked at again when too many were missed to be counted: all that may still fire.
fn edge(schedule: &Schedule, now: Timestamp) -> Timestamp {
    let back = match schedule.catch_up {
        CatchUp::None => 0,
        CatchUp::Last => schedule.catch_up_window_seconds.min(86_400),
        CatchUp::All => schedule.catch_up_window_seconds,
    };
    now.minus_seconds(back.max(LATEST_MILLIS.unsigned_abs() / 1_000) + 1)
}

/// Whether an instant of the past fires: because it is still on time, or is made up for.
fn still_fires(schedule: &Schedule, instant: Timestamp, following: Option<Timestamp>, now: Timestamp) -> bool {
    let late = now.millis() - instant.millis();
    let within = u64::try_from(late).unwrap_or(0) <= schedule.catch_up_window_seconds.saturating_mul(1_000);
    late <= on_time_millis(instant, following)
        || match schedule.catch_up {
            CatchUp::None => false,
            CatchUp::Last => within && following.is_none_or(|following| following > now),
            CatchUp::All => within,
        }
}

/// What is to become of the instants of a schedule that are due, beginning with `first`. At most one of them fires; what
/// comes after it is for the next look.
pub fn due(timetable: &Timetable, schedule: &Schedule, first: Timestamp, now: Timestamp) -> Due {
    let next_after = |instant| timetable.next_after(instant).map(|fire| fire.at);
    let mut missed = Misses::default();
    let mut instant = first;
    loop {
        let following = next_after(instant);
        if still_fires(schedule, instant, following, now) {
            return Due { missed: missed.rows(), skipped: None, fire: Some(instant), next: following };
        }
        missed.add(instant);
        let Some(following) = following.filter(|following| *following <= now) else {
            return Due { missed: missed.rows(), skipped: None, fire: None, next: following };
        };
        instant = following;
        if missed.count >= MAX_COUNTED && !missed.uncounted {
            let edge = edge(schedule, now);
            if let Some(later) = next_after(edge).filter(|later| *later > instant) {
                missed.pass_over(edge);
                if later > now {
                    return Due { missed: missed.rows(), skipped: None, fire: None, next: Some(later) };
                }
                instant = later;
            }
        }
    }
}

/// Misses that are being gathered.
#[derive(Default)]
struct Misses {
    first: Vec<Timestamp>,
    last: Option<Timestamp>,
    count: u64,
    /// Some were passed over without being counted.
    uncounted: bool,
}

impl Misses {
    fn add(&mut self, instant: Timestamp) {
        self.count += 1;
        self.last = Some(instant);
        if self.first.len() < MAX_MISSED_ROWS {
            self.first.push(instant);
        }
    }

    fn pass_over(&mut self, until: Timestamp) {
        self.uncounted = true;
        self.last = self.last.max(Some(until));
    }

    /// A row for each, or one for all if there are many.
    fn rows(self) -> Vec<Missed> {
        match self.first.first() {
            Some(first) if self.count > MAX_MISSED_ROWS as u64 => {
                vec![Missed { instant: *first, count: self.count, until: self.last, uncounted: self.uncounted }]
            }
            _ => {
                let each = |instant| Missed { instant, count: 1, until: None, uncounted: false };
                self.first.into_iter().map(each).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(1_795_000_000_000 + millis)
    }

    fn due_of(interval_seconds: u64, catch_up: CatchUp, window_seconds: u64, late_millis: i64) -> Due {
        let schedule = Schedule {
            interval_seconds: Some(interval_seconds),
            catch_up,
            catch_up_window_seconds: window_seconds,
            ..Schedule::default()
        };
        let span = Span::of(("UTC", "/time_zone"), (None, None), None).expect("a span");
        let timetable = Timetable::of(&schedule, span, at(0), None).expect("a schedule").0;
        due(&timetable, &schedule, at(0), at(late_millis))
    }

    fn instants(due: &Due) -> Vec<i64> {
        due.missed.iter().map(|missed| (missed.instant.millis() - at(0).millis()) / HOUR).collect()
    }

    #[test]
    fn an_instant_a_little_late_still_fires() {
        for late in [0, 900, 29_000] {
            assert_eq!(
                due_of(60, CatchUp::None, 0, late),
                Due { missed: vec![], skipped: None, fire: Some(at(0)), next: Some(at(60_000)) }
            );
        }
        assert_eq!(due_of(60, CatchUp::None, 0, 31_000).fire, None);
        assert_eq!(due_of(1, CatchUp::None, 0, 1_900).fire, Some(at(0)));
    }

    #[test]
    fn what_was_missed_is_told_and_made_up_for_as_wanted() {
        let none = due_of(3_600, CatchUp::None, 86_400, 3 * HOUR + HOUR / 2);
        assert_eq!((instants(&none), none.fire, none.next), (vec![0, 1, 2, 3], None, Some(at(4 * HOUR))));
        let last = due_of(3_600, CatchUp::Last, 86_400, 3 * HOUR + HOUR / 2);
        assert_eq!((instants(&last), last.fire, last.next), (vec![0, 1, 2], Some(at(3 * HOUR)), Some(at(4 * HOUR))));
        let all = due_of(3_600, CatchUp::All, 86_400, 3 * HOUR + HOUR / 2);
        assert_eq!((instants(&all), all.fire, all.next), (vec![], Some(at(0)), Some(at(HOUR))));
        let some = due_of(3_600, CatchUp::All, 2 * 3_600, 3 * HOUR + HOUR / 2);
        assert_eq!((instants(&some), some.fire, some.next), (vec![0, 1], Some(at(2 * HOUR)), Some(at(3 * HOUR))));
    }

    /// However long it was away, the look is short and one row says it.
    #[test]
    fn a_long_run_of_misses_is_one_row() {
        for (catch_up, window, fires) in
            [(CatchUp::None, 0, true), (CatchUp::Last, 86_400, true), (CatchUp::All, 60, true)]
        {
            let found = due_of(1, catch_up, window, 400 * 24 * HOUR + 500);
            assert_eq!(found.missed.len(), 1);
            assert!(found.missed[0].count >= MAX_COUNTED && found.missed[0].uncounted, "{found:?}");
            assert_eq!(found.fire.is_some(), fires);
        }
        let counted = due_of(60, CatchUp::None, 0, 200 * 60_000 + 31_000);
        assert_eq!((counted.missed.len(), counted.missed[0].count), (1, 201));
        assert_eq!(counted.missed[0].until, Some(at(200 * 60_000)));
    }
}
