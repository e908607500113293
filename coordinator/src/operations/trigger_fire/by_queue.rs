//! Jobs for the tasks of a queue: what is seen of the queue off the writer's thread, and what is done about it.
//!
//! What was seen may have changed before it is acted upon. The counter of changes tells: then there is another look.

use drover_protocol::job::{Cause, CauseCode, StopMode};

use super::{Ready, active, most_jobs, top_up};
use crate::{
    domain::{
        job::{Job, JobEvent, Leases, State},
        queue::{Counters, Queue},
        trigger::{
            Rule, Trigger,
            by_queue::{Seen, enough, jobs_for, rest_until},
        },
    },
    error::Result,
    operations::{event, job, task},
    store::{Reading, Scan, Tx, key::Kind, table},
};

/// Jobs that are asked to stop in one transaction.
const MAX_STOPPED: usize = 50;
const MAX_JOBS: usize = 1_000;

/// Looks at the queue of a trigger.
pub(super) fn see(reading: &dyn Reading, trigger: &Trigger) -> Result<Option<Seen>> {
    let Rule::Queue { queue_id, settings } = &trigger.rule else { return Ok(None) };
    let queue: Queue = table::get(reading, *queue_id)?;
    let counters: Counters = table::get(reading, *queue_id)?;
    let waiting = task::count_ready(reading, &counters, &settings.tags, enough(settings))?;
    let is_paused = queue.is_paused(reading.now());
    Ok(Some(Seen { queue_id: *queue_id, waiting, changes: counters.changes, is_paused }))
}

/// Whether jobs are lacking for what was seen.
pub(super) fn lacks(reading: &dyn Reading, trigger: &Trigger, seen: &Seen) -> Result<bool> {
    let Rule::Queue { settings, .. } = &trigger.rule else { return Ok(false) };
    if seen.is_paused {
        return Ok(false);
    }
    let most = most_jobs(trigger, jobs_for(settings, seen.waiting));
    Ok(active(reading, trigger.id, most as usize)? < most as usize)
}

/// Starts jobs that are lacking, or asks those to stop that nothing is left for.
pub(super) fn carry_out(
    tx: &mut Tx,
    trigger: &mut Trigger,
    seen: &Seen,
    ready: Option<&Ready>,
    leases: &Leases,
) -> Result<()> {
    let Rule::Queue { settings, .. } = trigger.rule.clone() else { return Ok(()) };
    let rested = rest_until(tx.now());
    trigger.rests_until = Some(rested);
    let (Some(queue), Some(counters)) =
        (table::find::<Queue>(tx, seen.queue_id)?, table::find::<Counters>(tx, seen.queue_id)?)
    else {
        return Ok(());
    };
    if queue.is_paused(tx.now()) {
        // Nobody can take its tasks. Whoever ends the pause before its time asks for a look.
        trigger.look_at = queue.pause.and_then(|pause| pause.until);
        return Ok(());
    }
    let has_changed = counters.changes != seen.changes || seen.is_paused;
    match ready {
        Some(ready) => {
            let because = format!("{} tasks wait to be taken: ", seen.waiting);
            top_up(tx, trigger, jobs_for(&settings, seen.waiting), &because, ready)?;
        }
        // A job has ended since.
        None if lacks(tx, trigger, seen)? => trigger.look_by(rested),
        None => {}
    }
    if has_changed {
        trigger.look_by(trigger.rests_until.unwrap_or(rested));
    } else if seen.waiting == 0 && settings.end_when_empty && !stop_idle(tx, trigger, leases)? {
        trigger.look_by(rested);
    }
    Ok(())
}

/// Asks the jobs to stop that hold no task; `false` if there were more of them than one transaction stops.
fn stop_idle(tx: &mut Tx, trigger: &Trigger, leases: &Leases) -> Result<bool> {
    let jobs = Scan::of(tx, Kind::JobActiveByTrigger, trigger.id).indexed::<Job>(tx, MAX_JOBS)?;
    let mut stopped = 0;
    for (_, job) in jobs {
        if matches!(job.state, State::Stopping { .. }) || task::is_holder(tx, job.id, job.attempt)? {
            continue;
        }
        if stopped == MAX_STOPPED {
            break;
        }
        let message = format!("no task waits any more for which the trigger {} has started it", trigger.name);
        let why = Cause { by: format!("trigger:{}", trigger.id), code: CauseCode::StopRequested, message };
        job::apply(tx, job, JobEvent::Stop { mode: StopMode::Stop, why }, leases)?;
        stopped += 1;
    }
    if stopped > 0 {
        let text = format!("no task waits any more: {stopped} jobs that held none were asked to stop");
        event::note(tx, trigger.id.uuid(), "queue_empty", text, "coordinator")?;
    }
    Ok(stopped < MAX_STOPPED)
}
