//! What is removed by age. Each function does one bounded page.

use drover_protocol::Timestamp;

use super::job;
use crate::{
    domain::job::Job,
    error::Result,
    store::{Reading, Scan, Tx, key::Kind, table},
};

/// Finished jobs that ended before `before`, oldest first, looking at no more than `limit` jobs after `position`.
/// Gives where to go on, or `None` at the end.
pub fn expired_jobs(
    reading: &dyn Reading,
    before: Timestamp,
    position: Option<&[u8]>,
    limit: usize,
) -> Result<(Vec<Job>, Option<Vec<u8>>)> {
    let scan = Scan::of(reading, Kind::Job, ());
    let scan = match position {
        Some(position) => scan.resume(position),
        None => scan,
    };
    let found = scan.records::<Job>(reading, limit)?;
    // Ids grow with time: behind the first job that is too young there are only younger ones.
    let old = |job: &Job| job.created_at < before;
    let more = found.len() == limit && found.last().is_some_and(|(_, job)| old(job));
    let next = found.last().filter(|_| more).map(|(key, _)| Scan::position(key).to_vec());
    let expired = found
        .into_iter()
        .map(|(_, job)| job)
        .filter(|job| job.finished_at.is_some_and(|at| at < before) && job.is_finished())
        .collect();
    Ok((expired, next))
}

/// Removes a page of an expired job; `true` when nothing of it is left.
pub fn remove_job_page(tx: &mut Tx, id: drover_protocol::JobId) -> Result<bool> {
    match table::find::<Job>(tx, id)? {
        Some(job) if job.is_finished() => job::remove_page(tx, &job),
        _ => Ok(true),
    }
}
