//! What happens to tasks by time alone: leases run out, postponed ones come due, and what nobody takes is abandoned.

use drover_protocol::Timestamp;

use super::{MAX_PAGE_BYTES, apply};
use crate::{
    domain::{
        job::{Contact, Job, Leases, State as JobState},
        queue::Queue,
        task::{HolderJob, State, Task, TaskEvent},
    },
    error::Result,
    operations::queue::Tallies,
    store::{Reading, Scan, Tx, key::Kind, table},
};

/// How long a job that holds a task keeps it, by its last heartbeat; absent if that attempt of the job is over.
fn lease_of_job(
    reading: &dyn Reading,
    holder: HolderJob,
    lease_seconds: u64,
    leases: &Leases,
) -> Result<Option<Timestamp>> {
    let Some(job) = table::find::<Job>(reading, holder.id)?.filter(|job| job.attempt == holder.attempt) else {
        return Ok(None);
    };
    // A task is kept at least as long as the job itself, however short its own lease: heartbeats come only so often.
    let more_seconds = lease_seconds.saturating_sub(leases.job_seconds);
    let now = reading.now();
    // Perhaps the loop of the jobs has not found yet that its lease is over; then it falls silent now.
    let heard = |until: Timestamp| until.max(now.plus_seconds(1)).plus_seconds(more_seconds);
    let silent = |lost_at: Timestamp| lost_at.minus_seconds(leases.lost_after_seconds).plus_seconds(more_seconds);
    Ok(match job.state {
        JobState::Running { lease_ends_at } => Some(heard(lease_ends_at)),
        JobState::Assigned { accept_by } => Some(heard(accept_by)),
        JobState::Silent { lost_at } => Some(silent(lost_at)),
        JobState::Stopping { stop } => Some(match stop.contact {
            Some(Contact::Silent { lost_at }) => silent(lost_at),
            Some(Contact::Heard { lease_ends_at }) => heard(lease_ends_at),
            None => heard(stop.force_at),
        }),
        JobState::Waiting { .. } | JobState::Finished { .. } => None,
    })
}

/// When the lease of a task ends as far as is known now: that of a job's task goes on with the job's heartbeat.
pub fn lease_ends_at(reading: &dyn Reading, task: &Task, leases: &Leases) -> Result<Option<Timestamp>> {
    let State::InProgress { lease_ends_at } = task.state else { return Ok(None) };
    let Some(holder) = task.held_by_job() else { return Ok(Some(lease_ends_at)) };
    let queue = table::get::<Queue>(reading, task.queue_id)?;
    let of_job = lease_of_job(reading, holder, queue.lease_seconds, leases)?;
    Ok(Some(of_job.map_or(lease_ends_at, |of_job| of_job.max(lease_ends_at))))
}

/// Does what is due for the tasks of the account, a page at a time; whether more may be due.
pub fn tick_page(tx: &mut Tx, leases: &Leases, limit: usize) -> Result<bool> {
    let end = table::index_start(tx, Kind::TaskDue, Timestamp::from_millis(tx.now().millis() + 1));
    let due = Scan::of(tx, Kind::TaskDue, ()).below(end).indexed::<Task>(tx, limit)?;
    let mut more = due.len() == limit;
    let mut tallies = Tallies::default();
    for (_, task) in due {
        let kept_by_job = lease_ends_at(tx, &task, leases)?.filter(|at| *at > tx.now());
        let [chance] = tx.random();
        let event = match kept_by_job {
            Some(lease_ends_at) => TaskEvent::JobHeard { lease_ends_at },
            None => TaskEvent::Tick { chance },
        };
        apply(tx, &mut tallies, &task, event, |_| ())?;
        if tx.written_bytes() > MAX_PAGE_BYTES {
            more = true;
            break;
        }
    }
    tallies.close(tx)?;
    Ok(more)
}

/// When the next task of the account is due.
pub fn next_due(reading: &dyn Reading) -> Result<Option<Timestamp>> {
    let found = Scan::of(reading, Kind::TaskDue, ()).indexed::<Task>(reading, 1)?;
    Ok(found.first().and_then(|(_, task)| task.due_at()))
}
