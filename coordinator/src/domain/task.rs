//! A task and its life.
//!
//! ```text
//!                take                  succeed
//!      new ─────────────► in_progress ─────────► succeeded
//!     ▲ ▲ │                │  │  │  │
//!     │ │ │ not taken      │  │  │  └── fail, its job ended ──► failed ───────┐
//!     │ │ └───────────┐    │  │  └───── lease out ────────────► abandoned ──┐ │
//!     │ │             └────│──│───────────────────────────────►  ▲          │ │
//!     │ └── tried again ───┘  │ postpone, tried again later                 │ │
//!     │                       ▼                                             │ │
//!     └──── its time came ── postponed                                      │ │
//!     └──── a person wants it tried again ──────────────────────────────────┴─┘
//! ```
//!
//! Every change goes through [`step`]. It is one task with many attempts, never a copy. The attempt number fences late
//! answers: who calls with another one is refused.

use drover_protocol::{
    JobId, QueueId, RobotId, TaskId, Timestamp,
    job::Progress,
    queue::TaskRetry,
    task::{TaskAttemptEnd, TaskError, TaskErrorKind, TaskState},
};
use serde::{Deserialize, Serialize};

pub const DEFAULT_PRIORITY: u8 = 2;

/// Priorities there are: so many of the phases are ready.
pub const READY_PHASES: usize = 3;

/// Where a task stands, as one byte that never changes its meaning. Those that may be taken come first, the higher
/// priority before the lower, so that they are found in the order of taking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    NewHigh = 0,
    NewNormal = 1,
    NewLow = 2,
    InProgress = 3,
    Postponed = 4,
    Succeeded = 5,
    FailedBusiness = 6,
    FailedApplication = 7,
    Abandoned = 8,
}

impl Phase {
    pub const ALL: [Self; 9] = [
        Self::NewHigh,
        Self::NewNormal,
        Self::NewLow,
        Self::InProgress,
        Self::Postponed,
        Self::Succeeded,
        Self::FailedBusiness,
        Self::FailedApplication,
        Self::Abandoned,
    ];

    /// Whether tasks in it may be taken.
    pub fn is_ready(self) -> bool {
        (self as usize) < READY_PHASES
    }

    pub fn state(self) -> TaskState {
        match self {
            Self::NewHigh | Self::NewNormal | Self::NewLow => TaskState::New,
            Self::InProgress => TaskState::InProgress,
            Self::Postponed => TaskState::Postponed,
            Self::Succeeded => TaskState::Succeeded,
            Self::FailedBusiness | Self::FailedApplication => TaskState::Failed,
            Self::Abandoned => TaskState::Abandoned,
        }
    }
}

/// The attempt of a job that took a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderJob {
    pub id: JobId,
    pub attempt: u32,
    pub robot: RobotId,
}

/// Who took a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// As events name callers: `user:<id>`, `job:<id>`.
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<HolderJob>,
}

/// One taking of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    pub number: u32,
    pub holder: Holder,
    pub started_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<TaskAttemptEnd>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskError>,
    /// Whether its holder ended it, and not the coordinator: the same end said again is then a repetition.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended_by_holder: bool,
    /// Of all that the holder said at the end. What says anything else is no repetition, and must not be taken for kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_digest: Option<u64>,
    /// The task that was taken in the call that ended this attempt, and its attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<(TaskId, u32)>,
    /// Of the late results that were refused and kept: each is one event, however often it is repeated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub late_digests: Vec<u64>,
}

/// Where the task stands, with what only this state needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    New {
        /// If nobody has taken it by then, it is abandoned.
        abandon_at: Option<Timestamp>,
    },
    InProgress {
        lease_ends_at: Timestamp,
    },
    Postponed {
        until: Timestamp,
    },
    Succeeded,
    Failed,
    Abandoned,
}

impl State {
    pub fn kind(&self) -> TaskState {
        match self {
            Self::New { .. } => TaskState::New,
            Self::InProgress { .. } => TaskState::InProgress,
            Self::Postponed { .. } => TaskState::Postponed,
            Self::Succeeded => TaskState::Succeeded,
            Self::Failed => TaskState::Failed,
            Self::Abandoned => TaskState::Abandoned,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub id: TaskId,
    pub queue_id: QueueId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub state: State,
    /// 1 to 3.
    pub priority: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Number of the newest attempt, 0 before the first.
    pub attempt: u32,
    /// Attempts that count.
    pub tries: u32,
    /// Instead of the queue's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// The newest attempt. Those before it are records of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<Attempt>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskError>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Of the payload as JSON.
    pub payload_bytes: u32,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_output: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_checkpoint: bool,
    /// No file was ever attached to it, so that none need be looked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_files: bool,
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin_task_id: Option<TaskId>,
    pub revision: u64,
}

/// What the task's queue says.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    pub max_attempts: u32,
    pub retry: &'a TaskRetry,
    pub lease_seconds: u64,
    pub abandon_new_after_seconds: Option<u64>,
}

/// What can happen to a task.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskEvent {
    Take {
        holder: Holder,
    },
    Renew {
        attempt: u32,
    },
    Succeed {
        attempt: u32,
    },
    Fail {
        attempt: u32,
        error: TaskError,
        /// What its holder thinks of trying again, whatever the queue says of this kind of error.
        retry: Option<bool>,
        chance: Chance,
    },
    /// Its holder puts it back.
    Postpone {
        attempt: u32,
        until: Timestamp,
        counts: bool,
    },
    Checkpoint {
        attempt: u32,
        progress: Option<Progress>,
    },
    /// The job that holds it has ended.
    JobEnded {
        error: TaskError,
        chance: Chance,
    },
    /// The job that holds it was heard of, and its lease goes on until then.
    JobHeard {
        lease_ends_at: Timestamp,
    },
    /// A person wants it tried again now.
    Retry {
        by: String,
    },
    /// A person wants it later.
    Delay {
        until: Timestamp,
        by: String,
    },
    /// Time has passed; what is due is done.
    Tick {
        chance: Chance,
    },
}

/// Randomness for delays, from outside: 0 is none, 255 the most.
pub type Chance = u8;

/// Why an event is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the task has moved on; attempt {attempt} does not hold it any more")]
    StaleAttempt { attempt: u32 },
    #[error("the task is {}", .0.as_str())]
    WrongState(TaskState),
}

/// Something to tell beside the task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub code: &'static str,
    pub text: String,
    pub by: String,
}

/// The task after an event.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub task: Task,
    pub note: Option<Note>,
    /// An attempt that the task no longer remembers by itself.
    pub history: Option<Attempt>,
}

impl Task {
    pub fn phase(&self) -> Phase {
        match (&self.state, self.priority) {
            (State::New { .. }, 3) => Phase::NewHigh,
            (State::New { .. }, 1) => Phase::NewLow,
            (State::New { .. }, _) => Phase::NewNormal,
            (State::InProgress { .. }, _) => Phase::InProgress,
            (State::Postponed { .. }, _) => Phase::Postponed,
            (State::Succeeded, _) => Phase::Succeeded,
            (State::Failed, _) => match &self.error {
                Some(error) if error.kind == TaskErrorKind::Business => Phase::FailedBusiness,
                _ => Phase::FailedApplication,
            },
            (State::Abandoned, _) => Phase::Abandoned,
        }
    }

    /// When the coordinator must look at it by itself.
    pub fn due_at(&self) -> Option<Timestamp> {
        match self.state {
            State::New { abandon_at } => abandon_at,
            State::InProgress { lease_ends_at } => Some(lease_ends_at),
            State::Postponed { until } => Some(until),
            State::Succeeded | State::Failed | State::Abandoned => None,
        }
    }

    /// Until when it is put back.
    pub fn postponed_until(&self) -> Option<Timestamp> {
        match self.state {
            State::Postponed { until } => Some(until),
            _ => None,
        }
    }

    /// The attempt of a job that holds it or held it last.
    pub fn holder_job(&self) -> Option<HolderJob> {
        self.newest.as_ref().and_then(|attempt| attempt.holder.job)
    }

    /// The attempt of a job that holds it now.
    pub fn held_by_job(&self) -> Option<HolderJob> {
        self.holder_job().filter(|_| matches!(self.state, State::InProgress { .. }))
    }

    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Succeeded | State::Failed | State::Abandoned)
    }
}

/// Applies an event to a task. `Ok` with an unchanged task means that the event was a repetition and is fine.
pub fn step(task: Task, event: TaskEvent, rules: &Rules<'_>, now: Timestamp) -> Result<Step, Refusal> {
    match event {
        TaskEvent::Take { holder } => take(task, holder, rules, now),
        TaskEvent::Renew { attempt } => renew(task, attempt, rules, now),
        TaskEvent::Succeed { attempt } => succeed(task, attempt, now),
        TaskEvent::Fail { attempt, error, retry, chance } => {
            check_held(&task, attempt)?;
            Ok(fail(task, error, Ended { retry, by_holder: true, chance }, rules, now))
        }
        TaskEvent::Postpone { attempt, until, counts } => postpone(task, attempt, until, counts, rules, now),
        TaskEvent::Checkpoint { attempt, progress } => checkpoint(task, attempt, progress),
        TaskEvent::JobEnded { error, chance } => match task.state {
            State::InProgress { .. } => {
                Ok(fail(task, error, Ended { retry: None, by_holder: false, chance }, rules, now))
            }
            _ => Err(Refusal::WrongState(task.state.kind())),
        },
        TaskEvent::JobHeard { lease_ends_at } => job_heard(task, lease_ends_at),
        TaskEvent::Retry { by } => retry(task, by, rules, now),
        TaskEvent::Delay { until, by } => delay(task, until, by, rules, now),
        TaskEvent::Tick { chance } => Ok(tick(task, chance, rules, now)),
    }
}

fn unchanged(task: Task) -> Step {
    Step { task, note: None, history: None }
}

fn noted(task: Task, code: &'static str, text: String, by: impl Into<String>) -> Step {
    Step { task, note: Some(Note { code, text, by: by.into() }), history: None }
}

fn check_held(task: &Task, attempt: u32) -> Result<(), Refusal> {
    match task.state {
        State::InProgress { .. } if task.attempt == attempt => Ok(()),
        State::New { .. }
        | State::InProgress { .. }
        | State::Postponed { .. }
        | State::Succeeded
        | State::Failed
        | State::Abandoned => Err(Refusal::StaleAttempt { attempt }),
    }
}

fn take(mut task: Task, holder: Holder, rules: &Rules<'_>, now: Timestamp) -> Result<Step, Refusal> {
    if !task.phase().is_ready() {
        return Err(Refusal::WrongState(task.state.kind()));
    }
    task.attempt += 1;
    task.tries += 1;
    task.progress = None;
    task.state = State::InProgress { lease_ends_at: now.plus_seconds(rules.lease_seconds) };
    let attempt = Attempt {
        number: task.attempt,
        holder,
        started_at: now,
        ended_at: None,
        end: None,
        error: None,
        ended_by_holder: false,
        end_digest: None,
        next: None,
        late_digests: Vec::new(),
    };
    let history = task.newest.replace(attempt);
    Ok(Step { task, note: None, history })
}

fn renew(mut task: Task, attempt: u32, rules: &Rules<'_>, now: Timestamp) -> Result<Step, Refusal> {
    check_held(&task, attempt)?;
    task.state = State::InProgress { lease_ends_at: now.plus_seconds(rules.lease_seconds) };
    Ok(unchanged(task))
}

fn job_heard(mut task: Task, until: Timestamp) -> Result<Step, Refusal> {
    match task.state {
        State::InProgress { lease_ends_at } => {
            task.state = State::InProgress { lease_ends_at: lease_ends_at.max(until) };
            Ok(unchanged(task))
        }
        _ => Err(Refusal::WrongState(task.state.kind())),
    }
}

fn checkpoint(mut task: Task, attempt: u32, progress: Option<Progress>) -> Result<Step, Refusal> {
    check_held(&task, attempt)?;
    task.progress = progress.or(task.progress);
    Ok(unchanged(task))
}

fn end_attempt(task: &mut Task, end: TaskAttemptEnd, error: Option<TaskError>, by_holder: bool, now: Timestamp) {
    if let Some(attempt) = &mut task.newest {
        attempt.ended_at = Some(now);
        attempt.end = Some(end);
        attempt.error = error;
        attempt.ended_by_holder = by_holder;
    }
}

fn succeed(mut task: Task, attempt: u32, now: Timestamp) -> Result<Step, Refusal> {
    check_held(&task, attempt)?;
    end_attempt(&mut task, TaskAttemptEnd::Succeeded, None, true, now);
    task.state = State::Succeeded;
    // What went wrong before, and how far it had got, says nothing any more.
    (task.error, task.progress) = (None, None);
    task.finished_at = Some(now);
    Ok(unchanged(task))
}

/// How an attempt came to its end.
struct Ended {
    retry: Option<bool>,
    by_holder: bool,
    chance: Chance,
}

fn fail(mut task: Task, error: TaskError, ended: Ended, rules: &Rules<'_>, now: Timestamp) -> Step {
    end_attempt(&mut task, TaskAttemptEnd::Failed, Some(error.clone()), ended.by_holder, now);
    let by_rule = match error.kind {
        TaskErrorKind::Business => rules.retry.business,
        TaskErrorKind::Application => rules.retry.application,
    };
    let what = format!("attempt {} failed: {}", task.attempt, error.message);
    let by = if ended.by_holder { holder_of(&task) } else { "coordinator".to_owned() };
    task.error = Some(error);
    if ended.retry.unwrap_or(by_rule)
        && let Some(step) = try_again(&mut task, &what, ended.chance, rules, now)
    {
        return step;
    }
    task.state = State::Failed;
    task.finished_at = Some(now);
    noted(task, "failed", what, by)
}

fn holder_of(task: &Task) -> String {
    task.newest.as_ref().map(|attempt| attempt.holder.by.clone()).unwrap_or_default()
}

/// Puts the task back for a further attempt, if it has one left.
fn try_again(task: &mut Task, what: &str, chance: Chance, rules: &Rules<'_>, now: Timestamp) -> Option<Step> {
    let most = task.max_attempts.unwrap_or(rules.max_attempts);
    if task.tries >= most {
        return None;
    }
    let delay_millis = delay_millis(rules.retry, task.tries, chance);
    let used = format!("{} of {most} attempts are used", task.tries);
    let text = if delay_millis == 0 {
        task.state = new_state(rules, now);
        format!("{what}; it is tried again at once, {used}")
    } else {
        let until = Timestamp::from_millis(now.millis().saturating_add(delay_millis));
        task.state = State::Postponed { until };
        format!("{what}; it is tried again at {until}, {used}")
    };
    task.progress = None;
    Some(noted(task.clone(), "retried", text, "coordinator"))
}

/// How long the repetition after the `tries`-th attempt waits: growing by the factor, with up to a quarter more by chance,
/// and never longer than the queue says.
fn delay_millis(retry: &TaskRetry, tries: u32, chance: Chance) -> i64 {
    let exponent = i32::try_from(tries.saturating_sub(1)).unwrap_or(i32::MAX);
    let seconds = retry.delay_seconds as f64 * retry.factor.max(1.0).powi(exponent);
    let jitter = 1.0 + 0.25 * f64::from(chance) / 255.0;
    ((seconds * jitter).min(retry.max_delay_seconds as f64) * 1_000.0) as i64
}

fn new_state(rules: &Rules<'_>, now: Timestamp) -> State {
    State::New { abandon_at: rules.abandon_new_after_seconds.map(|seconds| now.plus_seconds(seconds)) }
}

/// The state of a task that is to be taken from a time on.
pub fn waiting_state(until: Option<Timestamp>, rules: &Rules<'_>, now: Timestamp) -> State {
    match until {
        Some(until) if until > now => State::Postponed { until },
        _ => new_state(rules, now),
    }
}

fn postpone(
    mut task: Task,
    attempt: u32,
    until: Timestamp,
    counts: bool,
    rules: &Rules<'_>,
    now: Timestamp,
) -> Result<Step, Refusal> {
    check_held(&task, attempt)?;
    end_attempt(&mut task, TaskAttemptEnd::Postponed, None, true, now);
    if !counts {
        task.tries = task.tries.saturating_sub(1);
    }
    task.state = waiting_state(Some(until), rules, now);
    let text = format!("attempt {attempt} put it back until {until}");
    let by = holder_of(&task);
    Ok(noted(task, "postponed", text, by))
}

fn retry(mut task: Task, by: String, rules: &Rules<'_>, now: Timestamp) -> Result<Step, Refusal> {
    match task.state {
        State::New { .. } => return Ok(unchanged(task)),
        State::Postponed { .. } | State::Failed | State::Abandoned => {}
        State::InProgress { .. } | State::Succeeded => return Err(Refusal::WrongState(task.state.kind())),
    }
    task.state = new_state(rules, now);
    task.finished_at = None;
    task.progress = None;
    Ok(noted(task, "retry_asked", "it is to be tried again now".to_owned(), by))
}

fn delay(mut task: Task, until: Timestamp, by: String, rules: &Rules<'_>, now: Timestamp) -> Result<Step, Refusal> {
    match task.state {
        State::New { .. } | State::Postponed { .. } => {}
        State::InProgress { .. } | State::Succeeded | State::Failed | State::Abandoned => {
            return Err(Refusal::WrongState(task.state.kind()));
        }
    }
    task.state = waiting_state(Some(until), rules, now);
    Ok(noted(task, "postponed", format!("it was postponed until {until}"), by))
}

/// What is due at `now`; nothing if nothing is.
fn tick(task: Task, chance: Chance, rules: &Rules<'_>, now: Timestamp) -> Step {
    match task.state {
        State::New { abandon_at: Some(at) } if at <= now => not_taken(task, now),
        State::InProgress { lease_ends_at } if lease_ends_at <= now => lease_out(task, chance, rules, now),
        State::Postponed { until } if until <= now => {
            let mut task = task;
            task.state = new_state(rules, now);
            noted(task, "due", "its time has come; it waits to be taken".to_owned(), "coordinator")
        }
        State::New { .. }
        | State::InProgress { .. }
        | State::Postponed { .. }
        | State::Succeeded
        | State::Failed
        | State::Abandoned => unchanged(task),
    }
}

fn not_taken(mut task: Task, now: Timestamp) -> Step {
    task.state = State::Abandoned;
    task.finished_at = Some(now);
    noted(task, "abandoned", "nobody has taken it in time".to_owned(), "coordinator")
}

fn lease_out(mut task: Task, chance: Chance, rules: &Rules<'_>, now: Timestamp) -> Step {
    end_attempt(&mut task, TaskAttemptEnd::Abandoned, None, false, now);
    let what = format!("{} did not renew attempt {}, and its lease ran out", holder_of(&task), task.attempt);
    if rules.retry.abandoned
        && let Some(step) = try_again(&mut task, &what, chance, rules, now)
    {
        return step;
    }
    task.state = State::Abandoned;
    task.finished_at = Some(now);
    noted(task, "abandoned", what, "coordinator")
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
