//! Triggers by queue: what they name, and who tells them that they have to look.
//!
//! A queue knows whether any enabled trigger looks at it. So a task of one without triggers costs nothing, and of one with
//! triggers a transaction asks each of them for one look at the most, however many tasks it is about.

use drover_protocol::{QueueId, trigger::ByQueue};

use crate::{
    domain::{
        name::Faults,
        permission::Permission,
        process::MAX_PARALLEL,
        queue::{Counters, Queue},
        trigger::{
            Rule, Trigger,
            by_queue::{MAX_COUNTED, enough},
        },
    },
    error::{Error, Result},
    operations::{
        Caller,
        queue::{self, Stir},
    },
    store::{Reading, Scan, Topic, Tx, key::Kind, table},
};

/// Triggers that may look at one queue.
const MAX_OF_QUEUE: usize = 20;
const MAX_TAGS: usize = 20;
const MAX_TAG_CHARS: usize = 65;
const MAX_THRESHOLD: u64 = 1_000_000_000;
const MAX_TASKS_PER_JOB: u64 = 1_000_000;

/// The rule with the queue that it names.
pub(super) fn rule_of(reading: &dyn Reading, caller: &Caller, mut settings: ByQueue) -> Result<Rule> {
    let queue_id = queue::find(reading, caller, Permission::QueueRead, &settings.queue, "/queue/queue")?.id;
    settings.queue = queue_id.to_string();
    Ok(Rule::Queue { queue_id, settings })
}

pub(super) fn check(faults: &mut Faults, settings: &ByQueue) {
    let jobs = |jobs: u32| u64::from(jobs);
    faults.range("/queue/threshold", settings.threshold, 0, MAX_THRESHOLD);
    faults.range("/queue/tasks_per_job", u64::from(settings.tasks_per_job), 1, MAX_TASKS_PER_JOB);
    faults.range("/queue/min_jobs", jobs(settings.min_jobs), 0, jobs(MAX_PARALLEL));
    faults.range("/queue/max_jobs", jobs(settings.max_jobs), 1, jobs(MAX_PARALLEL));
    if settings.min_jobs > settings.max_jobs {
        faults.add("/queue/min_jobs", "must not be more than max_jobs");
    }
    if settings.end_when_empty && settings.threshold == 0 && settings.min_jobs > 0 {
        let text = "jobs that run although no task waits cannot end when none waits; set threshold to 1 or more";
        faults.add("/queue/end_when_empty", text);
    }
    if settings.tags.len() > MAX_TAGS {
        faults.add("/queue/tags", format!("more than {MAX_TAGS} tags"));
    }
    for (number, tag) in settings.tags.iter().enumerate() {
        faults.text(&format!("/queue/tags/{number}"), tag, MAX_TAG_CHARS);
        if tag.trim_start_matches(['-', '+']).is_empty() {
            faults.add(format!("/queue/tags/{number}"), "must not be empty");
        }
    }
    if !settings.tags.is_empty() && enough(settings) > MAX_COUNTED {
        let text = format!(
            "with tags at most {MAX_COUNTED} tasks are counted, so that threshold, and max_jobs times tasks_per_job, \
             must not be more than that"
        );
        faults.add("/queue/tags", text);
    }
}

/// A trigger that starts jobs for this queue, enabled or not.
pub fn first_of(reading: &dyn Reading, queue: QueueId) -> Result<Option<Trigger>> {
    Ok(all_of(reading, queue, 1)?.into_iter().next())
}

fn all_of(reading: &dyn Reading, queue: QueueId, limit: usize) -> Result<Vec<Trigger>> {
    let found = Scan::of(reading, Kind::TriggerByQueue, queue).indexed::<Trigger>(reading, limit)?;
    Ok(found.into_iter().map(|(_, trigger)| trigger).collect())
}

fn queue_of(trigger: &Trigger) -> Option<QueueId> {
    match &trigger.rule {
        Rule::Queue { queue_id, .. } => Some(*queue_id),
        _ => None,
    }
}

/// The trigger was written or deleted: its queues know from now on whether anybody looks at them. Refuses more triggers
/// than one queue may have.
pub(super) fn follow(tx: &mut Tx, before: Option<&Trigger>, after: Option<&Trigger>) -> Result<()> {
    let (old, new) = (before.and_then(queue_of), after.and_then(queue_of));
    for queue_id in old.into_iter().chain(new.filter(|_| new != old)) {
        let triggers = all_of(tx, queue_id, MAX_OF_QUEUE + 1)?;
        if triggers.len() > MAX_OF_QUEUE && new == Some(queue_id) && old != new {
            let text = format!("{MAX_OF_QUEUE} triggers start jobs for this queue already, and no more may");
            return Err(Error::invalid("/queue/queue", text));
        }
        let Some(mut queue) = table::find::<Queue>(tx, queue_id)? else { continue };
        let is_watched = triggers.iter().any(|trigger| trigger.enabled);
        if queue.is_watched != is_watched {
            queue.is_watched = is_watched;
            table::rewrite(tx, &queue)?;
        }
    }
    Ok(())
}

/// Tasks of a watched queue have changed in this transaction.
pub fn tasks_changed(tx: &mut Tx, counters: &Counters, stir: Stir) -> Result<()> {
    if !stir.came && !stir.left {
        return Ok(());
    }
    for trigger in all_of(tx, counters.queue_id, MAX_OF_QUEUE)? {
        let Rule::Queue { settings, .. } = &trigger.rule else { continue };
        // Whether none is left that has certain tags is for the look to find out.
        let may_be_empty = counters.ready() == 0 || !settings.tags.is_empty();
        if stir.came || (stir.left && settings.end_when_empty && may_be_empty) {
            look(tx, trigger)?;
        }
    }
    Ok(())
}

/// The queue's pause has begun, ended, or ends at another time.
pub fn pause_changed(tx: &mut Tx, queue: QueueId) -> Result<()> {
    all_of(tx, queue, MAX_OF_QUEUE)?.into_iter().try_for_each(|trigger| look(tx, trigger))
}

/// Asks for a look now, or when the trigger has rested.
fn look(tx: &mut Tx, mut trigger: Trigger) -> Result<()> {
    let at = tx.now().max(trigger.rests_until.unwrap_or_default());
    if trigger.enabled && trigger.look_at.is_none_or(|known| at < known) {
        trigger.look_at = Some(at);
        table::rewrite(tx, &trigger)?;
        tx.wake(Topic::Triggers);
    }
    Ok(())
}
