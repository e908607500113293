//! Which tasks have become too old for their queue. A task is counted from its end.

use drover_protocol::{QueueId, TaskId, Timestamp, queue::TaskRetention};

use super::{first_id_of, remove_page};
use crate::{
    domain::task::{Phase, Task},
    error::Result,
    operations::queue::Tallies,
    store::{Reading, Scan, Tx, key::Kind, table},
};

const DAY_SECONDS: u64 = 86_400;

/// The ended phases, each with the end before which its tasks are too old.
pub fn too_old_before(retention: &TaskRetention, now: Timestamp) -> Vec<(Phase, Timestamp)> {
    let kept = [
        (Phase::Succeeded, retention.done_days),
        (Phase::FailedBusiness, retention.failed_days),
        (Phase::FailedApplication, retention.failed_days),
        (Phase::Abandoned, retention.failed_days),
    ];
    let limited = kept.into_iter().filter(|(_, days)| *days > 0);
    limited.map(|(phase, days)| (phase, now.minus_seconds(u64::from(days) * DAY_SECONDS))).collect()
}

/// One page of the tasks of a phase that ended before a time, and from where on the next page goes.
pub fn expired(
    reading: &dyn Reading,
    queue: QueueId,
    (phase, before): (Phase, Timestamp),
    position: Option<&[u8]>,
    limit: usize,
) -> Result<(Vec<TaskId>, Option<Vec<u8>>)> {
    // What ended before that time was made before it.
    let end = table::index_start(reading, Kind::TaskByPhase, (queue, phase as u8, first_id_of(before)));
    let mut scan = Scan::of(reading, Kind::TaskByPhase, (queue, phase as u8)).below(end);
    if let Some(position) = position {
        scan = scan.resume(position);
    }
    let found = scan.indexed::<Task>(reading, limit)?;
    let next = found.last().filter(|_| found.len() == limit).map(|(key, _)| Scan::position(key).to_vec());
    let old = found.into_iter().filter(|(_, task)| is_older(task, before));
    Ok((old.map(|(_, task)| task.id).collect(), next))
}

fn is_older(task: &Task, before: Timestamp) -> bool {
    task.is_ended() && task.finished_at.is_some_and(|ended| ended < before)
}

/// Removes those of these tasks that are still too old; how many are gone as a whole.
pub fn remove_expired(tx: &mut Tx, before: Timestamp, ids: &[TaskId]) -> Result<usize> {
    let mut tallies = Tallies::default();
    let mut gone = 0;
    for id in ids {
        let task = table::find::<Task>(tx, *id)?.filter(|task| is_older(task, before));
        if let Some(task) = task
            && remove_page(tx, &mut tallies, &task)?
        {
            gone += 1;
        }
    }
    tallies.close(tx)?;
    Ok(gone)
}
