//! Attempts: the history that stays with a job.

use drover_protocol::{JobId, KeyId, RobotId, page::PageQuery};

use super::{
    key,
    list::{self, Page, Via},
};
use crate::{
    domain::{
        attempt::Attempt,
        job::{Holder, Job, Step},
        resource::Handed,
    },
    error::Result,
    store::{Reading, Scan, Tx, key::Kind, table},
};

/// The attempts of a job, oldest first. The caller has been checked for the job.
pub fn list(reading: &dyn Reading, job: JobId, query: &PageQuery) -> Result<Page<Attempt>> {
    list::page(reading, Scan::of(reading, Kind::Attempt, job), Via::Records, query, |_: &Attempt| true)
}

/// The newest attempt that the robot had.
pub fn newest_of(reading: &dyn Reading, job: JobId, robot: RobotId) -> Result<Option<u32>> {
    let found = Scan::of(reading, Kind::Attempt, job).newest_first().records::<Attempt>(reading, 1_000)?;
    Ok(found.into_iter().find(|(_, attempt)| attempt.robot.id == robot).map(|(_, attempt)| attempt.attempt))
}

/// Removes one page of a job's attempts; `true` when none is left.
pub fn remove_page(tx: &mut Tx, job: JobId, limit: usize) -> Result<bool> {
    let attempts = Scan::of(tx, Kind::Attempt, job).records::<Attempt>(tx, limit)?;
    let ended = attempts.len() < limit;
    for (_, attempt) in attempts {
        table::delete::<Attempt>(tx, (job, attempt.attempt))?;
    }
    Ok(ended)
}

/// Begins the attempt that `job` has just been assigned.
pub fn begin(tx: &mut Tx, job: &Job, robot: Holder, key_id: KeyId, handed: Vec<Handed>) -> Result<()> {
    let attempt = Attempt {
        job_id: job.id,
        attempt: job.attempt,
        robot,
        process_version_id: job.process_version_id,
        key_id,
        assigned_at: tx.now(),
        accepted_at: None,
        claim: None,
        ended_at: None,
        outcome: None,
        cause: None,
        error: None,
        exit: None,
        usage: None,
        reported: None,
        late_report_kept: false,
        handed,
    };
    table::insert(tx, &attempt)
}

/// Brings the attempt up to what has happened to its job: when it was accepted, how it ended.
pub fn follow(tx: &mut Tx, before: &Job, step: &Step) -> Result<()> {
    let accepted = step.job.tries > before.tries;
    if !accepted && step.ended.is_none() {
        return Ok(());
    }
    let Some(mut attempt) = table::find::<Attempt>(tx, (before.id, before.attempt))? else { return Ok(()) };
    if accepted {
        attempt.accepted_at = Some(tx.now());
    }
    if let Some(end) = &step.ended {
        attempt.ended_at = Some(tx.now());
        attempt.outcome = end.outcome;
        attempt.cause = end.cause.clone();
        attempt.error = end.error.clone();
        attempt.exit = end.exit.clone();
        attempt.usage = end.usage.clone();
        key::revoke(tx, attempt.key_id)?;
    }
    table::update(tx, &mut attempt)
}
