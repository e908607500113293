//! Traces: what has ended, as spans of OpenTelemetry.
//!
//! ```text
//!   fire of a trigger
//!   └── job                    from its start to its end; the trace has the id of the job
//!       └── process            one for each attempt that a robot accepted: the parent that TRACEPARENT names
//!           └── task           one for each attempt at a task that the job took
//! ```
//!
//! Names of spans follow from the ids of what they tell of: one that is sent twice is the same span. Inputs, outputs,
//! payloads and values of resources are never part of it.

use drover_protocol::{
    JobId, TaskId, Timestamp, TriggerId,
    job::{Cause, CauseCode, Outcome},
    task::TaskAttemptEnd,
    trace::SpanId,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    attempt::Attempt,
    job::{Job, State},
    task::{self, Task},
    trigger::{Fire, Trigger},
};

/// Something that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    Fire { trigger_id: TriggerId, instant: Timestamp, occasion: Uuid },
    Job(JobId),
    Attempt(JobId, u32),
    TaskAttempt(TaskId, u32),
}

/// Something that has ended and waits to be exported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unexported {
    /// In the order of ending.
    pub id: Uuid,
    pub ended: Ended,
}

/// How far the logs of the account have been exported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsExported {
    /// As those who follow all logs are told where they are.
    pub position: String,
}

/// A piece of work in a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub trace: Uuid,
    pub id: SpanId,
    pub parent: Option<SpanId>,
    /// Work of another trace that led to this.
    pub follows: Option<(Uuid, SpanId)>,
    pub name: String,
    pub started_at: Timestamp,
    pub ended_at: Timestamp,
    /// Why it did not go well, if it did not.
    pub error: Option<String>,
    pub attributes: Vec<(String, Value)>,
}

fn of_job_id(job: JobId) -> SpanId {
    SpanId::of(&[b"job", job.uuid().as_bytes()])
}

fn of_fire_of(job: JobId) -> SpanId {
    SpanId::of(&[b"fire", job.uuid().as_bytes()])
}

/// Attributes without those that are null.
fn attributes(known: Vec<(&str, Value)>) -> Vec<(String, Value)> {
    known.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Ends that somebody asked for are no errors.
fn error_of(outcome: Option<Outcome>, cause: Option<&Cause>, message: Option<&str>) -> Option<String> {
    let is_error = !matches!(outcome, Some(Outcome::Succeeded | Outcome::Stopped | Outcome::Aborted));
    let text =
        || message.or(cause.map(|cause| cause.message.as_str())).unwrap_or("nobody knows how it ended").to_owned();
    is_error.then(text)
}

fn code(cause: Option<&Cause>) -> Option<CauseCode> {
    cause.map(|cause| cause.code)
}

/// The fire, once in the trace of each job that it started.
pub fn of_fire(trigger: &Trigger, fire: &Fire) -> Vec<Span> {
    let known = vec![
        ("drover.trigger.id", json!(trigger.id)),
        ("drover.trigger.name", json!(trigger.name)),
        ("drover.trigger.kind", json!(trigger.rule.kind())),
        ("drover.fire.instant", json!(fire.instant)),
        ("drover.fire.reason", json!(fire.reason)),
    ];
    let span = |job: &JobId| Span {
        trace: job.uuid(),
        id: of_fire_of(*job),
        parent: None,
        follows: None,
        name: format!("fire {}", trigger.name),
        started_at: fire.decided_at,
        ended_at: fire.decided_at,
        error: None,
        attributes: attributes(known.clone()),
    };
    fire.job_ids.iter().map(span).collect()
}

/// A job that has finished.
pub fn of_job(job: &Job) -> Option<Span> {
    let State::Finished { outcome, cause } = &job.state else { return None };
    let mut attributes = attributes(vec![
        ("drover.job.id", json!(job.id)),
        ("drover.job.outcome", json!(outcome)),
        ("drover.job.cause", json!(cause.code)),
        ("drover.job.source", json!(job.source.kind)),
        ("drover.job.priority", json!(job.priority)),
        ("drover.job.tries", json!(job.tries)),
        ("drover.process.id", json!(job.process_id)),
        ("drover.process.name", json!(job.process_name)),
        ("drover.process.version", json!(job.version_number)),
        ("drover.trigger.id", json!(job.trigger_id)),
        ("drover.robot.name", json!(job.robot.as_ref().map(|robot| robot.name.as_str()))),
    ]);
    attributes.extend(job.labels.iter().map(|(name, value)| (format!("drover.label.{name}"), json!(value))));
    Some(Span {
        trace: job.id.uuid(),
        id: of_job_id(job.id),
        parent: job.trigger_id.map(|_| of_fire_of(job.id)),
        follows: job.parent_job_id.map(|parent| (parent.uuid(), of_job_id(parent))),
        name: format!("job {}", job.process_name),
        started_at: job.created_at,
        ended_at: job.finished_at.unwrap_or(job.created_at),
        error: error_of(Some(*outcome), Some(cause), job.error.as_ref().map(|error| error.message.as_str())),
        attributes,
    })
}

/// An attempt that has ended. One that no robot accepted ran nothing.
pub fn of_attempt(job: &Job, attempt: &Attempt) -> Option<Span> {
    let (started_at, ended_at) = (attempt.accepted_at?, attempt.ended_at?);
    let exit = attempt.exit.as_ref();
    let usage = attempt.usage.as_ref();
    Some(Span {
        trace: job.id.uuid(),
        id: SpanId::of_process(job.id, attempt.attempt),
        parent: Some(of_job_id(job.id)),
        follows: None,
        name: format!("process {}", job.process_name),
        started_at,
        ended_at,
        error: error_of(
            attempt.outcome,
            attempt.cause.as_ref(),
            attempt.error.as_ref().map(|error| error.message.as_str()),
        ),
        attributes: attributes(vec![
            ("drover.job.id", json!(job.id)),
            ("drover.job.attempt", json!(attempt.attempt)),
            ("drover.job.outcome", json!(attempt.outcome)),
            ("drover.job.cause", json!(code(attempt.cause.as_ref()))),
            ("drover.process.name", json!(job.process_name)),
            ("drover.process.version", json!(job.version_number)),
            ("drover.robot.id", json!(attempt.robot.id)),
            ("drover.robot.name", json!(attempt.robot.name)),
            ("process.exit.code", json!(exit.and_then(|exit| exit.code))),
            ("drover.process.signal", json!(exit.and_then(|exit| exit.signal))),
            ("drover.process.peak_memory_bytes", json!(usage.and_then(|usage| usage.peak_memory_bytes))),
            ("drover.process.cpu_time_ms", json!(usage.and_then(|usage| usage.cpu_time_ms))),
        ]),
    })
}

/// An attempt at a task that has ended: in the trace of the job that took it, else in one of the task's own.
pub fn of_task_attempt(task: &Task, queue: Option<&str>, attempt: &task::Attempt) -> Option<Span> {
    let job = attempt.holder.job;
    let failed = matches!(attempt.end, Some(TaskAttemptEnd::Failed | TaskAttemptEnd::Abandoned));
    let error = attempt.error.as_ref();
    let message = || error.map_or("its lease ran out", |error| error.message.as_str()).to_owned();
    Some(Span {
        trace: job.map_or(task.id.uuid(), |job| job.id.uuid()),
        id: SpanId::of(&[b"task", task.id.uuid().as_bytes(), &attempt.number.to_be_bytes()]),
        parent: job.map(|job| SpanId::of_process(job.id, job.attempt)),
        follows: None,
        name: format!("task {}", queue.unwrap_or("of a queue that was deleted")),
        started_at: attempt.started_at,
        ended_at: attempt.ended_at?,
        error: failed.then(message),
        attributes: attributes(vec![
            ("drover.task.id", json!(task.id)),
            ("drover.task.attempt", json!(attempt.number)),
            ("drover.task.end", json!(attempt.end)),
            ("drover.task.reference", json!(task.reference)),
            ("drover.task.error_kind", json!(error.map(|error| error.kind))),
            ("drover.queue.id", json!(task.queue_id)),
            ("drover.queue.name", json!(queue)),
            ("drover.job.id", json!(job.map(|job| job.id))),
        ]),
    })
}
