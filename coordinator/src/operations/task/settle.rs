//! Tasks whose job has ended without settling them fail with the job's error: a few in the transaction that ends the job,
//! more of them in pages by a loop.

use drover_protocol::{
    JobId,
    job::ErrorKind,
    task::{TaskError, TaskErrorKind},
};

use super::{MAX_PAGE_BYTES, apply};
use crate::{
    domain::{
        job::{End, Job},
        task::{Task, TaskEvent},
    },
    error::Result,
    operations::queue::Tallies,
    store::{Reading, Scan, Topic, Tx, key::Kind, schema::Settling, table},
};

/// So many are settled in one transaction.
const PAGE: usize = 100;

/// Settles what an attempt of a job holds, now that the attempt has ended.
pub fn settle_job(tx: &mut Tx, job: &Job, end: &End) -> Result<()> {
    // Most jobs hold none.
    if Scan::of(tx, Kind::TaskByJob, (job.id, job.attempt)).pairs(tx, 1)?.is_empty() {
        return Ok(());
    }
    let settling = Settling { job_id: job.id, attempt: job.attempt, error: error_of(job.id, end), position: None };
    if let Some(left) = settle(tx, settling)? {
        table::insert(tx, &left)?;
        tx.wake(Topic::Settling);
    }
    Ok(())
}

/// What the task is told of the end of its job.
fn error_of(job: JobId, end: &End) -> TaskError {
    if let Some(error) = &end.error {
        let kind = match error.kind {
            ErrorKind::Business => TaskErrorKind::Business,
            ErrorKind::Application | ErrorKind::Infrastructure => TaskErrorKind::Application,
        };
        return TaskError { kind, code: error.code.clone(), message: error.message.clone() };
    }
    let how = end.outcome.map_or("given back", |outcome| outcome.as_str());
    let why = end.cause.as_ref().map(|cause| format!(": {}", cause.message)).unwrap_or_default();
    let message = format!("the job {job} ended ({how}{why}) without settling the task");
    TaskError { kind: TaskErrorKind::Application, code: Some("job_ended".to_owned()), message }
}

/// Settles one page; gives what is left to do.
fn settle(tx: &mut Tx, mut settling: Settling) -> Result<Option<Settling>> {
    let mut scan = Scan::of(tx, Kind::TaskByJob, (settling.job_id, settling.attempt));
    if let Some(position) = &settling.position {
        scan = scan.resume(position);
    }
    let held = scan.indexed::<Task>(tx, PAGE)?;
    let mut ended = held.len() < PAGE;
    let mut tallies = Tallies::default();
    for (key, task) in held {
        if tx.written_bytes() > MAX_PAGE_BYTES {
            ended = false;
            break;
        }
        settling.position = Some(Scan::position(&key).to_vec());
        // One that is not to be settled stays with its lease, which no heartbeat renews any more.
        if tallies.of(tx, task.queue_id)?.queue.settle_with_job {
            let [chance] = tx.random();
            let event = TaskEvent::JobEnded { error: settling.error.clone(), chance };
            apply(tx, &mut tallies, &task, event, |_| ())?;
        }
    }
    tallies.close(tx)?;
    Ok((!ended).then_some(settling))
}

/// A job whose tasks are still to be settled.
pub fn next_settling(reading: &dyn Reading) -> Result<Option<(JobId, u32)>> {
    let found = Scan::of(reading, Kind::TaskSettling, ()).records::<Settling>(reading, 1)?;
    Ok(found.first().map(|(_, settling)| (settling.job_id, settling.attempt)))
}

/// Settles a page of the tasks of the first such job.
pub fn settle_page(tx: &mut Tx) -> Result<()> {
    let found = Scan::of(tx, Kind::TaskSettling, ()).records::<Settling>(tx, 1)?;
    let Some((_, settling)) = found.into_iter().next() else { return Ok(()) };
    let id = (settling.job_id, settling.attempt);
    match settle(tx, settling)? {
        Some(left) => table::overwrite(tx, &left),
        None => table::delete::<Settling>(tx, id),
    }
}
