//! Traces: what has ended is noted in the transaction in which it ends, if the coordinator exports traces, and stays noted
//! until it is exported. So nothing is missing in a trace, whatever crashes; and what was on its way when the coordinator
//! crashed is sent again, as the same span.

use super::task::attempt_of;
use crate::{
    domain::{
        attempt::Attempt,
        job::{Job, Step},
        queue::Queue,
        task::Task,
        trace::{self, Ended, LogsExported, Span, Unexported},
        trigger::{Fire, Trigger},
    },
    error::Result,
    store::{Reading, Scan, Tx, key::Kind, table},
};

/// Notes of one page.
const PAGE: usize = 500;
/// Notes that an account keeps at the most while nobody takes them.
pub const MAX_NOTES: usize = 100_000;

/// Notes that something has ended.
fn note(tx: &mut Tx, ended: Ended) -> Result<()> {
    table::insert(tx, &Unexported { id: tx.new_id(), ended })
}

/// Notes what has ended with this step of a job.
pub fn job_stepped(tx: &mut Tx, before: &Job, step: &Step) -> Result<()> {
    if !tx.is_traced() {
        return Ok(());
    }
    if step.ended.is_some() {
        note(tx, Ended::Attempt(before.id, before.attempt))?;
    }
    if step.job.is_finished() && !before.is_finished() {
        note(tx, Ended::Job(before.id))?;
    }
    Ok(())
}

/// Notes the attempt at a task if it has just ended.
pub fn task_changed(tx: &mut Tx, before: &Task, task: &Task) -> Result<()> {
    let ended = |task: &Task, number: u32| {
        let newest = task.newest.as_ref().filter(|attempt| attempt.number == number);
        newest.is_none_or(|attempt| attempt.ended_at.is_some())
    };
    let number = before.attempt;
    if tx.is_traced() && number > 0 && !ended(before, number) && ended(task, number) {
        note(tx, Ended::TaskAttempt(before.id, number))?;
    }
    Ok(())
}

/// Notes a fire that has started jobs.
pub fn fired(tx: &mut Tx, fire: &Fire) -> Result<()> {
    if !tx.is_traced() || fire.job_ids.is_empty() {
        return Ok(());
    }
    let (trigger_id, instant, occasion) = (fire.trigger_id, fire.instant, fire.occasion);
    note(tx, Ended::Fire { trigger_id, instant, occasion })
}

/// The oldest notes, with the spans that they come to: none for what has been deleted since.
pub fn page(reading: &dyn Reading) -> Result<Vec<(Unexported, Vec<Span>)>> {
    let notes = Scan::of(reading, Kind::Unexported, ()).records::<Unexported>(reading, PAGE)?;
    let with_spans = |(_, note): (Vec<u8>, Unexported)| spans(reading, &note.ended).map(|spans| (note, spans));
    notes.into_iter().map(with_spans).collect()
}

fn spans(reading: &dyn Reading, ended: &Ended) -> Result<Vec<Span>> {
    let span = match *ended {
        Ended::Fire { trigger_id, instant, occasion } => {
            let trigger = table::find::<Trigger>(reading, trigger_id)?;
            let fire = table::find::<Fire>(reading, (trigger_id, instant, occasion))?;
            return Ok(trigger.zip(fire).map(|(trigger, fire)| trace::of_fire(&trigger, &fire)).unwrap_or_default());
        }
        Ended::Job(id) => table::find::<Job>(reading, id)?.as_ref().and_then(trace::of_job),
        Ended::Attempt(id, number) => {
            let job = table::find::<Job>(reading, id)?;
            let attempt = table::find::<Attempt>(reading, (id, number))?;
            job.zip(attempt).and_then(|(job, attempt)| trace::of_attempt(&job, &attempt))
        }
        Ended::TaskAttempt(id, number) => match table::find::<Task>(reading, id)? {
            Some(task) => {
                let queue = table::find::<Queue>(reading, task.queue_id)?;
                let attempt = attempt_of(reading, &task, number)?;
                let queue = queue.as_ref().map(|queue| queue.name.as_str());
                attempt.and_then(|attempt| trace::of_task_attempt(&task, queue, &attempt))
            }
            None => None,
        },
    };
    Ok(span.into_iter().collect())
}

/// Forgets notes that were exported, or that nobody will take.
pub fn forget(tx: &mut Tx, notes: &[Unexported]) -> Result<()> {
    notes.iter().try_for_each(|note| table::delete::<Unexported>(tx, note.id))
}

/// Notes beyond the newest `most`, the oldest first; a page of them.
pub fn surplus(reading: &dyn Reading, most: usize) -> Result<Vec<Unexported>> {
    let kept = Scan::of(reading, Kind::Unexported, ()).newest_first().pairs(reading, most)?;
    let Some((oldest_kept, _)) = kept.last().filter(|_| kept.len() == most) else { return Ok(Vec::new()) };
    let surplus = Scan::of(reading, Kind::Unexported, ()).below(oldest_kept.clone());
    Ok(surplus.records(reading, PAGE)?.into_iter().map(|(_, note)| note).collect())
}

/// How far the logs of the account have been exported, if ever.
pub fn logs_exported(reading: &dyn Reading) -> Result<Option<String>> {
    Ok(table::find::<LogsExported>(reading, ())?.map(|mark| mark.position))
}

/// Writes down how far the logs of the account have been exported.
pub fn note_logs_exported(tx: &mut Tx, position: String) -> Result<()> {
    table::overwrite(tx, &LogsExported { position })
}
