//! A job and its life.
//!
//! ```text
//!              assign             accept            finish
//!   waiting ──────────► assigned ────────► running ─────────► finished(outcome)
//!      ▲                   │                │  ▲ │ stop or       ▲   ▲   ▲
//!      └── accept too late ┘      lease out │  │ │ abort asked   │   │   │
//!      ▲                                    ▼  │ ▼               │   │   │
//!      │                                 silent  stopping ───────┘   │   │
//!      │                                   │   finish, grace out     │   │
//!      └── retry, if the process allows ───┴── silent too long ──────┘   │
//!   stop or abort asked while waiting or assigned ───────────────────────┘
//! ```
//!
//! Every change goes through [`step`]. The attempt number fences late answers: who calls with another one is refused.

use std::collections::BTreeMap;

use drover_protocol::{
    JobId, ProcessId, ProcessVersionId, RobotGroupId, RobotId, Timestamp, TriggerId,
    job::{Cause, CauseCode, ErrorKind, Exit, JobError, JobState, Outcome, Progress, Source, StopMode, Usage},
    log::Level,
    process::{Retry, RetryOn},
};
use serde::{Deserialize, Serialize};

/// Longest time an agent may take to confirm an abort, before the coordinator ends the job without it.
pub const CONFIRM_END_SECONDS: u64 = 30;
/// The agent keeps the time limit itself; the coordinator steps in this much later.
pub const TIMEOUT_SLACK_SECONDS: u64 = 5;

/// Times that the operator may set.
#[derive(Clone, Copy, Debug)]
pub struct Leases {
    /// How long a holder keeps a job without renewing it.
    pub job_seconds: u64,
    /// How long an assigned job waits to be accepted.
    pub accept_seconds: u64,
    /// How long a silent job waits for its robot.
    pub lost_after_seconds: u64,
}

/// Which robots may run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    Robot(RobotId),
    Group(RobotGroupId),
}

/// The robot that has or had it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub id: RobotId,
    pub name: String,
}

/// A stop or abort that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    pub mode: StopMode,
    pub why: Cause,
    /// When a soft stop becomes an abort, or an abort ends without the agent's word.
    pub force_at: Timestamp,
    /// The mode that was handed to the agent by `next`.
    pub told: Option<StopMode>,
    /// Whether its robot is heard of meanwhile; not known of jobs that an older version began to stop.
    #[serde(default)]
    pub contact: Option<Contact>,
}

/// What is heard of the robot of a job that is being stopped. One that is gone must not keep the job for a long grace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Contact {
    Heard { lease_ends_at: Timestamp },
    Silent { lost_at: Timestamp },
}

impl Contact {
    /// When it comes to an end unless the robot is heard of.
    fn ends_at(self) -> Timestamp {
        match self {
            Self::Heard { lease_ends_at } => lease_ends_at,
            Self::Silent { lost_at } => lost_at,
        }
    }
}

/// Where the job stands, with what only this state needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    Waiting { not_before: Option<Timestamp> },
    Assigned { accept_by: Timestamp },
    Running { lease_ends_at: Timestamp },
    Silent { lost_at: Timestamp },
    Stopping { stop: Stop },
    Finished { outcome: Outcome, cause: Cause },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub id: JobId,
    pub process_id: ProcessId,
    pub process_name: String,
    pub process_version_id: ProcessVersionId,
    pub version_number: u32,
    pub target: Target,
    pub state: State,
    /// Number of the newest attempt, 0 before the first.
    pub attempt: u32,
    /// Attempts that a robot accepted.
    pub tries: u32,
    pub robot: Option<Holder>,
    /// 1 to 3.
    pub priority: u8,
    pub source: Source,
    pub created_at: Timestamp,
    pub assigned_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub stop_after: Option<Timestamp>,
    pub abort_after: Option<Timestamp>,
    pub timeout_seconds: Option<u64>,
    pub stop_grace_seconds: u64,
    pub retry: Retry,
    pub log_level: Level,
    pub labels: BTreeMap<String, String>,
    pub parent_job_id: Option<JobId>,
    pub trigger_id: Option<TriggerId>,
    /// How many triggers by event have fired in a row to start it, each on what the job of another one did.
    #[serde(default)]
    pub chain: u32,
    pub progress: Option<Progress>,
    pub error: Option<JobError>,
    pub exit: Option<Exit>,
    pub usage: Option<Usage>,
    pub revision: u64,
}

/// What the agent says at the end of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub outcome: Outcome,
    pub cause: Cause,
    pub error: Option<JobError>,
    pub exit: Option<Exit>,
    pub usage: Option<Usage>,
}

/// What can happen to a job.
#[derive(Clone, Debug, PartialEq)]
pub enum JobEvent {
    Assign {
        robot: Holder,
    },
    Accept {
        robot: RobotId,
        attempt: u32,
    },
    /// The heartbeat of its holder.
    Renew {
        robot: RobotId,
        attempt: u32,
        progress: Option<Progress>,
    },
    Finish {
        robot: RobotId,
        attempt: u32,
        report: Report,
    },
    Stop {
        mode: StopMode,
        why: Cause,
    },
    Close {
        outcome: Outcome,
        cause: Cause,
    },
    /// A person wants one more attempt.
    Retry {
        by: String,
    },
    /// Time has passed; what is due is done.
    Tick,
}

/// Why an event is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the job has moved on; attempt {attempt} is not held by this robot any more")]
    StaleAttempt { attempt: u32 },
    #[error("the job is {} already", .0.as_str())]
    WrongState(JobState),
}

/// Something to tell beside the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub code: &'static str,
    pub text: String,
    pub by: String,
}

/// How an attempt ended; the job may go on with another one.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    pub outcome: Option<Outcome>,
    pub cause: Option<Cause>,
    pub error: Option<JobError>,
    pub exit: Option<Exit>,
    pub usage: Option<Usage>,
}

/// The job after an event, what to tell, and how its attempt ended if it did.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub job: Job,
    pub notes: Vec<Note>,
    pub ended: Option<End>,
}

impl State {
    pub fn kind(&self) -> JobState {
        match self {
            Self::Waiting { .. } => JobState::Waiting,
            Self::Assigned { .. } => JobState::Assigned,
            Self::Running { .. } => JobState::Running,
            Self::Silent { .. } => JobState::Silent,
            Self::Stopping { .. } => JobState::Stopping,
            Self::Finished { .. } => JobState::Finished,
        }
    }
}

impl Job {
    /// Whether a robot holds it now: it takes one of the robot's places.
    pub fn is_held(&self) -> bool {
        match self.state {
            State::Assigned { .. } | State::Running { .. } | State::Silent { .. } | State::Stopping { .. } => true,
            State::Waiting { .. } | State::Finished { .. } => false,
        }
    }

    pub fn is_finished(&self) -> bool {
        matches!(self.state, State::Finished { .. })
    }

    /// Whether it may be given to a robot now.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Waiting { not_before: None })
    }

    pub fn is_held_by(&self, robot: RobotId, attempt: u32) -> bool {
        self.is_held() && self.attempt == attempt && self.robot.as_ref().is_some_and(|holder| holder.id == robot)
    }

    fn timeout_at(&self) -> Option<Timestamp> {
        let seconds = self.timeout_seconds?.saturating_add(TIMEOUT_SLACK_SECONDS);
        Some(self.started_at?.plus_seconds(seconds))
    }

    fn contact(&self) -> Option<Contact> {
        match &self.state {
            State::Running { lease_ends_at } => Some(Contact::Heard { lease_ends_at: *lease_ends_at }),
            State::Silent { lost_at } => Some(Contact::Silent { lost_at: *lost_at }),
            State::Stopping { stop } => stop.contact,
            State::Waiting { .. } | State::Assigned { .. } | State::Finished { .. } => None,
        }
    }

    /// When the coordinator must look at it by itself.
    pub fn deadline(&self) -> Option<Timestamp> {
        let limits = [self.stop_after, self.abort_after];
        let own = match &self.state {
            State::Finished { .. } => return None,
            State::Stopping { stop } => {
                let abort_after = self.abort_after.filter(|_| stop.mode == StopMode::Stop);
                let contact = stop.contact.map(Contact::ends_at);
                return [Some(stop.force_at), abort_after, contact].into_iter().flatten().min();
            }
            State::Waiting { not_before } => [*not_before, None],
            State::Assigned { accept_by } => [Some(*accept_by), None],
            State::Running { lease_ends_at } => [Some(*lease_ends_at), self.timeout_at()],
            State::Silent { lost_at } => [Some(*lost_at), None],
        };
        own.into_iter().chain(limits).flatten().min()
    }
}

/// Applies an event to a job. `Ok` with an unchanged job means that the event was a repetition and is fine.
pub fn step(job: Job, event: JobEvent, leases: &Leases, now: Timestamp) -> Result<Step, Refusal> {
    match event {
        JobEvent::Assign { robot } => assign(job, robot, leases, now),
        JobEvent::Accept { robot, attempt } => accept(job, robot, attempt, leases, now),
        JobEvent::Renew { robot, attempt, progress } => renew(job, robot, attempt, progress, leases, now),
        JobEvent::Finish { robot, attempt, report } => finish(job, robot, attempt, report, now),
        JobEvent::Stop { mode, why } => stop(job, mode, why, now),
        JobEvent::Close { outcome, cause } => close(job, outcome, cause, now),
        JobEvent::Retry { by } => retry(job, by),
        JobEvent::Tick => Ok(tick(job, leases, now)),
    }
}

fn unchanged(job: Job) -> Step {
    Step { job, notes: Vec::new(), ended: None }
}

fn noted(job: Job, code: &'static str, text: impl Into<String>, by: impl Into<String>) -> Step {
    Step { job, notes: vec![Note { code, text: text.into(), by: by.into() }], ended: None }
}

fn assign(mut job: Job, robot: Holder, leases: &Leases, now: Timestamp) -> Result<Step, Refusal> {
    match job.state {
        State::Waiting { not_before: None } => {}
        State::Waiting { not_before: Some(_) }
        | State::Assigned { .. }
        | State::Running { .. }
        | State::Silent { .. }
        | State::Stopping { .. }
        | State::Finished { .. } => return Err(Refusal::WrongState(job.state.kind())),
    }
    job.attempt += 1;
    // How the attempt before ended stays with that attempt.
    (job.error, job.exit, job.usage) = (None, None, None);
    job.assigned_at = Some(now);
    job.started_at = None;
    job.state = State::Assigned { accept_by: now.plus_seconds(leases.accept_seconds) };
    let text = format!("attempt {} was given to robot {}", job.attempt, robot.name);
    job.robot = Some(robot);
    Ok(noted(job, "assigned", text, "coordinator"))
}

fn check_holder(job: &Job, robot: RobotId, attempt: u32) -> Result<(), Refusal> {
    let same_robot = job.robot.as_ref().is_some_and(|holder| holder.id == robot);
    if same_robot && job.attempt == attempt { Ok(()) } else { Err(Refusal::StaleAttempt { attempt }) }
}

fn accept(mut job: Job, robot: RobotId, attempt: u32, leases: &Leases, now: Timestamp) -> Result<Step, Refusal> {
    check_holder(&job, robot, attempt)?;
    match job.state {
        State::Assigned { .. } => {}
        // The answer to an earlier accept was lost.
        State::Running { .. } | State::Silent { .. } | State::Stopping { .. } => return Ok(unchanged(job)),
        State::Waiting { .. } | State::Finished { .. } => return Err(Refusal::StaleAttempt { attempt }),
    }
    job.tries += 1;
    job.started_at = Some(now);
    job.state = State::Running { lease_ends_at: now.plus_seconds(leases.job_seconds) };
    Ok(noted(job, "accepted", format!("the robot took attempt {attempt} on"), "agent"))
}

fn renew(
    mut job: Job,
    robot: RobotId,
    attempt: u32,
    progress: Option<Progress>,
    leases: &Leases,
    now: Timestamp,
) -> Result<Step, Refusal> {
    check_holder(&job, robot, attempt)?;
    let lease_ends_at = now.plus_seconds(leases.job_seconds);
    let came_back = match job.state {
        State::Running { .. } => false,
        State::Silent { .. } => true,
        State::Assigned { .. } => return Ok(unchanged(job)),
        State::Stopping { .. } => matches!(job.contact(), Some(Contact::Silent { .. })),
        State::Waiting { .. } | State::Finished { .. } => return Err(Refusal::StaleAttempt { attempt }),
    };
    job.progress = progress.or(job.progress);
    match &mut job.state {
        State::Stopping { stop } => stop.contact = Some(Contact::Heard { lease_ends_at }),
        state => *state = State::Running { lease_ends_at },
    }
    if came_back {
        Ok(noted(
            job,
            "robot_came_back",
            "the robot was heard of again and goes on with the same attempt",
            "coordinator",
        ))
    } else {
        Ok(unchanged(job))
    }
}

fn finish(mut job: Job, robot: RobotId, attempt: u32, report: Report, now: Timestamp) -> Result<Step, Refusal> {
    check_holder(&job, robot, attempt)?;
    let report = match &job.state {
        // The robot worked on it although its accept never arrived: that is a try like any other.
        State::Assigned { .. } => {
            job.tries += 1;
            report
        }
        State::Running { .. } | State::Silent { .. } => report,
        State::Stopping { stop } => {
            let report = after_stop(stop, report);
            // Whoever asked for the end wants no further try; only a time limit leaves that to the process's rules.
            if stop.why.code != CauseCode::Timeout {
                return Ok(without_retry(job, report, now));
            }
            report
        }
        State::Waiting { .. } | State::Finished { .. } => return Err(Refusal::StaleAttempt { attempt }),
    };
    Ok(end(job, report, now))
}

/// What a report means when the coordinator had asked for the end: whoever asked is the cause, not the agent that obeyed.
fn after_stop(stop: &Stop, report: Report) -> Report {
    let asked = &stop.why;
    match report.outcome {
        // It ended by itself before the stop had reached it.
        Outcome::Succeeded | Outcome::Failed | Outcome::Lost => return report,
        Outcome::TimedOut if asked.code != CauseCode::Timeout => return report,
        Outcome::Stopped | Outcome::Aborted | Outcome::TimedOut => {}
    }
    if asked.code == CauseCode::Timeout {
        return Report { outcome: Outcome::TimedOut, cause: asked.clone(), ..report };
    }
    let forced = report.outcome == Outcome::Aborted && report.cause.code == CauseCode::StopGraceExceeded;
    let cause = if forced { grace_exceeded(asked) } else { asked.clone() };
    Report { cause, ..report }
}

fn grace_exceeded(asked: &Cause) -> Cause {
    let message = format!("{}; it did not end within its grace and was ended by force", asked.message);
    Cause { by: asked.by.clone(), code: CauseCode::StopGraceExceeded, message }
}

fn stop(mut job: Job, mode: StopMode, why: Cause, now: Timestamp) -> Result<Step, Refusal> {
    let text = match mode {
        StopMode::Stop => format!("a stop was asked: {}", why.message),
        StopMode::Abort => format!("an abort was asked: {}", why.message),
    };
    let by = why.by.clone();
    match &job.state {
        State::Finished { .. } => return Err(Refusal::WrongState(JobState::Finished)),
        State::Waiting { .. } | State::Assigned { .. } => {
            let outcome = match mode {
                StopMode::Stop => Outcome::Stopped,
                StopMode::Abort => Outcome::Aborted,
            };
            return Ok(close_with(job, outcome, why, now));
        }
        State::Stopping { stop } if stop.mode >= mode => return Ok(stop_again(job, why)),
        State::Running { .. } | State::Silent { .. } | State::Stopping { .. } => {}
    }
    let seconds = match mode {
        StopMode::Stop => job.stop_grace_seconds,
        StopMode::Abort => CONFIRM_END_SECONDS,
    };
    let contact = job.contact();
    job.state = State::Stopping { stop: Stop { mode, why, force_at: now.plus_seconds(seconds), told: None, contact } };
    let code = match mode {
        StopMode::Stop => "stop_asked",
        StopMode::Abort => "abort_asked",
    };
    Ok(noted(job, code, text, by))
}

/// A further wish to stop changes nothing, and an abort is never weakened. But what is stopped for its time limit may be
/// tried again by the process's rules; who asks for its end wants no further try.
fn stop_again(mut job: Job, why: Cause) -> Step {
    match &mut job.state {
        State::Stopping { stop } if stop.why.code == CauseCode::Timeout && why.code != CauseCode::Timeout => {
            let text =
                format!("an end was asked: {}; it is being stopped already, and is not tried again", why.message);
            let by = why.by.clone();
            stop.why = why;
            noted(job, "stop_asked", text, by)
        }
        _ => unchanged(job),
    }
}

fn close(job: Job, outcome: Outcome, cause: Cause, now: Timestamp) -> Result<Step, Refusal> {
    if job.is_finished() {
        return Err(Refusal::WrongState(JobState::Finished));
    }
    Ok(close_with(job, outcome, cause, now))
}

fn retry(mut job: Job, by: String) -> Result<Step, Refusal> {
    match job.state {
        State::Finished { .. } => {}
        State::Waiting { .. }
        | State::Assigned { .. }
        | State::Running { .. }
        | State::Silent { .. }
        | State::Stopping { .. } => return Err(Refusal::WrongState(job.state.kind())),
    }
    // Limits that have passed would end the new attempt before it began.
    (job.stop_after, job.abort_after) = (None, None);
    wait_again(&mut job, None);
    Ok(noted(job, "retry_asked", "one more attempt was asked", by))
}

/// What is due at `now`; nothing if nothing is.
fn tick(job: Job, leases: &Leases, now: Timestamp) -> Step {
    let due = |at: Option<Timestamp>| at.is_some_and(|at| at <= now);
    if due(job.abort_after) && !job.is_finished() && !is_aborting(&job) {
        let why = coordinator_cause(CauseCode::AbortAfter, "the job's abort_after has passed");
        return stop(job, StopMode::Abort, why, now).expect("an unfinished job can be aborted");
    }
    if due(job.stop_after) && !job.is_finished() && !matches!(job.state, State::Stopping { .. }) {
        let why = coordinator_cause(CauseCode::StopAfter, "the job's stop_after has passed");
        return stop(job, StopMode::Stop, why, now).expect("an unfinished job can be stopped");
    }
    match job.state.clone() {
        State::Waiting { not_before } if due(not_before) => become_ready(job),
        State::Assigned { accept_by } if accept_by <= now => not_accepted(job),
        State::Running { .. } if due(job.timeout_at()) => {
            let message = format!("the time limit of {} s has passed", job.timeout_seconds.unwrap_or_default());
            let why = coordinator_cause(CauseCode::Timeout, &message);
            stop(job, StopMode::Stop, why, now).expect("a running job can be stopped")
        }
        State::Running { lease_ends_at } if lease_ends_at <= now => fall_silent(job, leases, now),
        State::Silent { lost_at } if lost_at <= now => lose(job, leases, now),
        State::Stopping { stop } if stop.force_at <= now => force(job, stop, now),
        State::Stopping { stop } if due(stop.contact.map(Contact::ends_at)) => lose_contact(job, stop, leases, now),
        State::Waiting { .. }
        | State::Assigned { .. }
        | State::Running { .. }
        | State::Silent { .. }
        | State::Stopping { .. }
        | State::Finished { .. } => unchanged(job),
    }
}

fn is_aborting(job: &Job) -> bool {
    matches!(&job.state, State::Stopping { stop } if stop.mode == StopMode::Abort)
}

fn coordinator_cause(code: CauseCode, message: &str) -> Cause {
    Cause { by: "coordinator".to_owned(), code, message: message.to_owned() }
}

fn become_ready(mut job: Job) -> Step {
    job.state = State::Waiting { not_before: None };
    noted(job, "due", "its time has come; it waits for a robot", "coordinator")
}

fn not_accepted(mut job: Job) -> Step {
    let text = format!("attempt {} was not accepted in time; the job waits again", job.attempt);
    wait_again(&mut job, None);
    let mut step = noted(job, "not_accepted", text, "coordinator");
    step.ended = Some(End { outcome: None, cause: None, error: None, exit: None, usage: None });
    step
}

fn fall_silent(mut job: Job, leases: &Leases, now: Timestamp) -> Step {
    let lost_at = now.plus_seconds(leases.lost_after_seconds);
    match &mut job.state {
        State::Stopping { stop } => stop.contact = Some(Contact::Silent { lost_at }),
        state => *state = State::Silent { lost_at },
    }
    let text = format!(
        "the robot has not renewed its lease of {} s; the job is lost if it stays silent for {} s more",
        leases.job_seconds, leases.lost_after_seconds
    );
    noted(job, "robot_silent", text, "coordinator")
}

fn lose(job: Job, leases: &Leases, now: Timestamp) -> Step {
    let message = format!("the robot stayed silent for {} s after its lease had run out", leases.lost_after_seconds);
    let report = Report {
        outcome: Outcome::Lost,
        cause: coordinator_cause(CauseCode::RobotSilent, &message),
        error: Some(JobError { kind: ErrorKind::Infrastructure, code: None, message }),
        exit: None,
        usage: None,
    };
    end(job, report, now)
}

/// The robot of a job that is being stopped is not heard of: it is given as long as any other, and not the whole grace.
fn lose_contact(job: Job, asked: Stop, leases: &Leases, now: Timestamp) -> Step {
    match asked.contact {
        Some(Contact::Silent { .. }) if asked.why.code == CauseCode::Timeout => lose(job, leases, now),
        Some(Contact::Silent { .. }) => without_retry_of(job, |job| lose(job, leases, now)),
        Some(Contact::Heard { .. }) => fall_silent(job, leases, now),
        None => unchanged(job),
    }
}

/// The grace is over: a soft stop becomes an abort; an abort ends the job, confirmed or not.
fn force(mut job: Job, asked: Stop, now: Timestamp) -> Step {
    match asked.mode {
        StopMode::Stop => {
            let text = format!("it did not end within its grace of {} s and is aborted now", job.stop_grace_seconds);
            let why = if asked.why.code == CauseCode::Timeout { asked.why } else { grace_exceeded(&asked.why) };
            let force_at = now.plus_seconds(CONFIRM_END_SECONDS);
            let (mode, contact) = (StopMode::Abort, asked.contact);
            job.state = State::Stopping { stop: Stop { mode, why, force_at, told: None, contact } };
            noted(job, "stop_forced", text, "coordinator")
        }
        StopMode::Abort => {
            let outcome = if asked.why.code == CauseCode::Timeout { Outcome::TimedOut } else { Outcome::Aborted };
            let message = format!(
                "{}; the agent did not confirm the end within {CONFIRM_END_SECONDS} s, so the process may still run",
                asked.why.message
            );
            let code = match asked.why.code {
                kept @ (CauseCode::Timeout | CauseCode::StopGraceExceeded) => kept,
                _ => CauseCode::EndUnconfirmed,
            };
            let cause = Cause { by: asked.why.by, code, message };
            close_with(job, outcome, cause, now)
        }
    }
}

/// Ends the attempt; the job ends as well unless it is to be tried again.
fn end(mut job: Job, report: Report, now: Timestamp) -> Step {
    let ended = End {
        outcome: Some(report.outcome),
        cause: Some(report.cause.clone()),
        error: report.error.clone(),
        exit: report.exit.clone(),
        usage: report.usage.clone(),
    };
    job.error = report.error;
    job.exit = report.exit;
    job.usage = report.usage;
    if is_tried_again(&job, report.outcome) {
        let text = format!(
            "attempt {} ended as {} ({}); it is tried again, {} of {} tries are used",
            job.attempt,
            report.outcome.as_str(),
            report.cause.message,
            job.tries,
            job.retry.max_attempts
        );
        let delay = job.retry.delay_seconds;
        wait_again(&mut job, (delay > 0).then(|| now.plus_seconds(delay)));
        let mut step = noted(job, "retried", text, "coordinator");
        step.ended = Some(ended);
        return step;
    }
    let text = format!("{}: {}", report.outcome.as_str(), report.cause.message);
    let by = report.cause.by.clone();
    if report.outcome == Outcome::Succeeded {
        // How far it had got when it was last heard of says nothing any more.
        job.progress = None;
    }
    job.state = State::Finished { outcome: report.outcome, cause: report.cause };
    job.finished_at = Some(now);
    let mut step = noted(job, "finished", text, by);
    step.ended = Some(ended);
    step
}

/// Ends the job for good, whatever its rules of retrying say: a person or a limit wants it so.
fn close_with(job: Job, outcome: Outcome, cause: Cause, now: Timestamp) -> Step {
    let was_held = job.is_held();
    let mut step = without_retry(job, Report { outcome, cause, error: None, exit: None, usage: None }, now);
    if !was_held {
        step.ended = None;
    }
    step
}

/// Ends the job with the report, whatever its rules of retrying say.
fn without_retry(job: Job, report: Report, now: Timestamp) -> Step {
    without_retry_of(job, |job| end(job, report, now))
}

fn without_retry_of(job: Job, end: impl FnOnce(Job) -> Step) -> Step {
    let retry = job.retry.clone();
    let mut step = end(Job { retry: Retry::default(), ..job });
    step.job.retry = retry;
    step
}

/// A business error is never tried again: the same data under the same rules gives the same error.
fn is_tried_again(job: &Job, outcome: Outcome) -> bool {
    let wanted = match outcome {
        Outcome::Failed => Some(RetryOn::Failed),
        Outcome::Lost => Some(RetryOn::Lost),
        Outcome::TimedOut => Some(RetryOn::TimedOut),
        Outcome::Succeeded | Outcome::Stopped | Outcome::Aborted => None,
    };
    let business = job.error.as_ref().is_some_and(|error| error.kind == ErrorKind::Business);
    wanted.is_some_and(|on| job.retry.on.contains(&on)) && job.tries < job.retry.max_attempts && !business
}

fn wait_again(job: &mut Job, not_before: Option<Timestamp>) {
    job.state = State::Waiting { not_before };
    job.finished_at = None;
    job.progress = None;
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
