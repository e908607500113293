//! Queues as people make, change, pause and see them.

mod tally;

pub use tally::{Stir, Tallies, Tally, rules};

use drover_protocol::{
    QueueId, Timestamp,
    page::PageQuery,
    queue::{NewQueue, PauseQueue, QueueFilter, QueuePatch},
    robot::PauseMode,
};
use serde_json::Value;
use uuid::Uuid;

use super::{
    Caller, alert,
    audit::{self, Act},
    event,
    list::{self, Page, Via},
    process::patched,
    task, trigger,
};
use crate::{
    domain::{
        name::{Faults, MAX_DESCRIPTION_CHARS, MAX_REASON_CHARS},
        permission::Permission,
        process::MAX_SECONDS,
        queue::{
            Counters, DEFAULT_LEASE_SECONDS, DEFAULT_MAX_ATTEMPTS, Hour, MAX_AGE_SECONDS, MAX_ATTEMPTS, MAX_FACTOR,
            MAX_RETENTION_DAYS, Queue,
        },
        robot::Pause,
        role::Limited,
        task::{Phase, READY_PHASES, Task},
    },
    error::{Error, Result},
    json_schema,
    store::{
        Reading, Scan, Topic, Tx,
        document::{self, Slot},
        key::Kind,
        schema::HourOfQueue,
        table,
    },
};

/// In the audit trail.
const NOUN: &str = "queue";
/// The largest schema, in bytes of JSON.
const MAX_SCHEMA_BYTES: usize = 32 * 1024;
/// Tasks that are removed in one transaction when a queue is deleted.
const DELETE_PAGE: usize = 100;
/// Waiting tasks that are counted as over the limit at the most.
const MAX_OVER_SLA: usize = 1_000;
const SHOWN_HOURS: u64 = 24;

/// The queue with this id or name, for paths.
pub fn resolve(reading: &dyn Reading, text: &str) -> Result<Queue> {
    super::by_id_or_name(reading, Kind::QueueByName, text)
}

/// The queue with this id or name, if the caller has the permission and it reaches that queue.
pub fn reached(reading: &dyn Reading, caller: &Caller, permission: Permission, text: &str) -> Result<Queue> {
    caller.require(permission)?;
    let queue = resolve(reading, text)?;
    caller.require_queue(permission, &queue.name)?;
    Ok(queue)
}

/// The same for a field of a body.
pub fn find(
    reading: &dyn Reading,
    caller: &Caller,
    permission: Permission,
    text: &str,
    pointer: &str,
) -> Result<Queue> {
    reached(reading, caller, permission, text).map_err(|error| match error {
        Error::NotFound(_) => Error::invalid(pointer, "there is no such queue"),
        other => other,
    })
}

/// A queue that the caller may see.
pub fn get(reading: &dyn Reading, caller: &Caller, text: &str) -> Result<Queue> {
    reached(reading, caller, Permission::QueueRead, text)
}

/// Queues, newest first; of a job those that its version declares.
pub fn list(reading: &dyn Reading, caller: &Caller, filter: &QueueFilter, query: &PageQuery) -> Result<Page<Queue>> {
    caller.require(Permission::QueueRead)?;
    let part = filter.q.as_ref().map(|part| part.to_lowercase());
    let scan = Scan::of(reading, Kind::Queue, ()).newest_first();
    list::page(reading, scan, Via::Records, query, |queue: &Queue| {
        part.as_ref().is_none_or(|part| queue.name.to_lowercase().contains(part))
            && caller.require_queue(Permission::QueueRead, &queue.name).is_ok()
    })
}

/// Some queues in the order of their ids, after this one: for loops over all.
pub fn some(reading: &dyn Reading, after: Option<QueueId>, limit: usize) -> Result<Vec<Queue>> {
    let mut scan = Scan::of(reading, Kind::Queue, ());
    if let Some(after) = after {
        scan = scan.after(&table::index_start(reading, Kind::Queue, after));
    }
    Ok(scan.records::<Queue>(reading, limit)?.into_iter().map(|(_, queue)| queue).collect())
}

/// The schema that a queue names.
pub fn schema(reading: &dyn Reading, name: Uuid) -> Result<Value> {
    let bytes = document::get(reading, name, Slot::Schema)?;
    bytes
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .ok_or_else(|| Error::Internal("the schema of a queue cannot be read".to_owned()))
}

pub fn create(tx: &mut Tx, caller: &Caller, new: &NewQueue) -> Result<Queue> {
    caller.require(Permission::QueueCreate)?;
    caller.require_name(Permission::QueueCreate, Limited::Queues, &new.name)?;
    let mut queue = Queue {
        id: QueueId::from_uuid(tx.new_id()),
        name: new.name.clone(),
        description: new.description.clone(),
        unique_references: new.unique_references,
        max_attempts: new.max_attempts.unwrap_or(DEFAULT_MAX_ATTEMPTS),
        retry: new.retry.clone(),
        lease_seconds: new.lease_seconds.unwrap_or(DEFAULT_LEASE_SECONDS),
        abandon_new_after_seconds: new.abandon_new_after_seconds,
        payload_schema: None,
        output_schema: None,
        sla_seconds: new.sla_seconds,
        pause: None,
        retention: new.retention.clone(),
        on_success_queue: None,
        on_failure_queue: None,
        settle_with_job: new.settle_with_job.unwrap_or(true),
        is_watched: false,
        created_at: tx.now(),
        revision: 1,
    };
    check(&queue)?;
    queue.on_success_queue =
        other_queue(tx, caller, Permission::QueueCreate, &queue, new.on_success_queue.as_deref(), "/on_success_queue")?;
    queue.on_failure_queue =
        other_queue(tx, caller, Permission::QueueCreate, &queue, new.on_failure_queue.as_deref(), "/on_failure_queue")?;
    queue.payload_schema = put_schema(tx, new.payload_schema.as_ref(), "/payload_schema")?;
    queue.output_schema = put_schema(tx, new.output_schema.as_ref(), "/output_schema")?;
    table::insert(tx, &queue)?;
    table::insert(tx, &Counters::new(queue.id))?;
    event::note(tx, queue.id.uuid(), "queue_created", "the queue was made", caller.by())?;
    audit::append(tx, caller, Act::new("create", NOUN, queue.id, &queue.name).after(&queue))?;
    Ok(queue)
}

fn check(queue: &Queue) -> Result<()> {
    let mut faults = Faults::default();
    faults.name("/name", &queue.name);
    faults.text("/description", &queue.description, MAX_DESCRIPTION_CHARS);
    faults.range("/max_attempts", u64::from(queue.max_attempts), 1, u64::from(MAX_ATTEMPTS));
    faults.range("/retry/delay_seconds", queue.retry.delay_seconds, 0, MAX_SECONDS);
    faults.range("/retry/max_delay_seconds", queue.retry.max_delay_seconds, 0, MAX_SECONDS);
    if !(1.0..=MAX_FACTOR).contains(&queue.retry.factor) {
        faults.add("/retry/factor", format!("must be from 1 to {MAX_FACTOR}"));
    }
    faults.range("/lease_seconds", queue.lease_seconds, 1, MAX_SECONDS);
    for (pointer, seconds) in
        [("/abandon_new_after_seconds", queue.abandon_new_after_seconds), ("/sla_seconds", queue.sla_seconds)]
    {
        if let Some(seconds) = seconds {
            faults.range(pointer, seconds, 1, MAX_AGE_SECONDS);
        }
    }
    for (pointer, days) in
        [("/retention/done_days", queue.retention.done_days), ("/retention/failed_days", queue.retention.failed_days)]
    {
        faults.range(pointer, u64::from(days), 0, u64::from(MAX_RETENTION_DAYS));
    }
    Ok(faults.check()?)
}

fn other_queue(
    reading: &dyn Reading,
    caller: &Caller,
    permission: Permission,
    queue: &Queue,
    text: Option<&str>,
    pointer: &str,
) -> Result<Option<QueueId>> {
    let Some(text) = text else { return Ok(None) };
    if text == queue.name || text == queue.id.to_string() {
        return Err(Error::invalid(pointer, "must be another queue"));
    }
    Ok(Some(find(reading, caller, permission, text, pointer)?.id))
}

fn put_schema(tx: &mut Tx, schema: Option<&Value>, pointer: &str) -> Result<Option<Uuid>> {
    let Some(schema) = schema else { return Ok(None) };
    let json = serde_json::to_vec(schema).unwrap_or_default();
    if json.len() > MAX_SCHEMA_BYTES {
        return Err(Error::invalid(pointer, format!("larger than {MAX_SCHEMA_BYTES} bytes")));
    }
    json_schema::compile(schema).map_err(|error| Error::invalid(pointer, error))?;
    let name = tx.new_id();
    document::insert(tx, name, Slot::Schema, &json)?;
    Ok(Some(name))
}

/// Puts another schema in the place of one, or takes it away.
fn replace_schema(tx: &mut Tx, old: Option<Uuid>, schema: Option<&Value>, pointer: &str) -> Result<Option<Uuid>> {
    if let Some(old) = old {
        document::delete(tx, old, Slot::Schema)?;
    }
    put_schema(tx, schema, pointer)
}

pub fn update(tx: &mut Tx, caller: &Caller, text: &str, patch: &QueuePatch, revision: Option<u64>) -> Result<Queue> {
    let mut queue = reached(tx, caller, Permission::QueueUpdate, text)?;
    table::check_revision(queue.revision, revision)?;
    let before = queue.clone();
    if patch.unique_references == Some(true) && !queue.unique_references {
        require_unique(tx, &queue)?;
    }
    if let Some(name) = &patch.name {
        caller.require_name(Permission::QueueUpdate, Limited::Queues, name)?;
        queue.name = name.clone();
    }
    if let Some(description) = &patch.description {
        queue.description = description.clone();
    }
    if let Some(members) = &patch.retry {
        queue.retry = patched(&queue.retry, members, "/retry")?;
    }
    if let Some(members) = &patch.retention {
        queue.retention = patched(&queue.retention, members, "/retention")?;
    }
    queue.unique_references = patch.unique_references.unwrap_or(queue.unique_references);
    queue.max_attempts = patch.max_attempts.unwrap_or(queue.max_attempts);
    queue.lease_seconds = patch.lease_seconds.unwrap_or(queue.lease_seconds);
    queue.settle_with_job = patch.settle_with_job.unwrap_or(queue.settle_with_job);
    queue.abandon_new_after_seconds = patch.abandon_new_after_seconds.unwrap_or(queue.abandon_new_after_seconds);
    queue.sla_seconds = patch.sla_seconds.unwrap_or(queue.sla_seconds);
    check(&queue)?;
    if let Some(other) = &patch.on_success_queue {
        queue.on_success_queue =
            other_queue(tx, caller, Permission::QueueUpdate, &queue, other.as_deref(), "/on_success_queue")?;
    }
    if let Some(other) = &patch.on_failure_queue {
        queue.on_failure_queue =
            other_queue(tx, caller, Permission::QueueUpdate, &queue, other.as_deref(), "/on_failure_queue")?;
    }
    if let Some(schema) = &patch.payload_schema {
        queue.payload_schema = replace_schema(tx, queue.payload_schema, schema.as_ref(), "/payload_schema")?;
    }
    if let Some(schema) = &patch.output_schema {
        queue.output_schema = replace_schema(tx, queue.output_schema, schema.as_ref(), "/output_schema")?;
    }
    table::update(tx, &mut queue)?;
    event::note(tx, queue.id.uuid(), "queue_changed", "the queue's settings were changed", caller.by())?;
    audit::append(tx, caller, Act::new("update", NOUN, queue.id, &queue.name).change(&before, &queue))?;
    Ok(queue)
}

/// References can only be made unique while that is seen at a glance: later, all of them would have to be compared.
fn require_unique(reading: &dyn Reading, queue: &Queue) -> Result<()> {
    let counters: Counters = table::get(reading, queue.id)?;
    if counters.counts.iter().sum::<u64>() > 0 {
        return Err(Error::wrong_state(
            "references can be made unique only while the queue has no tasks; make a queue with unique references and \
             move the tasks there",
        ));
    }
    Ok(())
}

pub fn pause(tx: &mut Tx, caller: &Caller, text: &str, request: &PauseQueue) -> Result<Queue> {
    let mut queue = reached(tx, caller, Permission::QueuePause, text)?;
    let mut faults = Faults::default();
    faults.text("/reason", &request.reason, MAX_REASON_CHARS);
    if request.reason.trim().is_empty() {
        faults.add("/reason", "say why, for those who read it later");
    }
    if request.mode.is_some_and(|mode| mode != PauseMode::Drain) {
        faults.add("/mode", "a queue can only be drained; tasks end with the jobs that hold them");
    }
    if request.until.is_some_and(|until| until <= tx.now()) {
        faults.add("/until", "is in the past");
    }
    faults.check()?;
    queue.pause = Some(Pause {
        mode: PauseMode::Drain,
        since: tx.now(),
        until: request.until,
        reason: request.reason.clone(),
        by: caller.name(),
        asked_by: caller.by(),
    });
    table::update(tx, &mut queue)?;
    event::note(tx, queue.id.uuid(), "queue_paused", format!("paused: {}", request.reason), caller.by())?;
    audit::append(tx, caller, Act::new("pause", NOUN, queue.id, &queue.name).after(&queue.pause))?;
    tell_pause_changed(tx, &queue)?;
    Ok(queue)
}

/// Whoever waits for the end of the pause, a taker or a trigger, looks again when that is.
fn tell_pause_changed(tx: &mut Tx, queue: &Queue) -> Result<()> {
    tx.wake(Topic::Pause(queue.id));
    if queue.is_watched {
        trigger::by_queue::pause_changed(tx, queue.id)?;
    }
    Ok(())
}

pub fn resume(tx: &mut Tx, caller: &Caller, text: &str) -> Result<Queue> {
    let mut queue = reached(tx, caller, Permission::QueuePause, text)?;
    if queue.pause.take().is_some() {
        table::update(tx, &mut queue)?;
        event::note(tx, queue.id.uuid(), "queue_resumed", "the pause was ended", caller.by())?;
        audit::append(tx, caller, Act::new("resume", NOUN, queue.id, &queue.name))?;
        tx.wake(Topic::Queue(queue.id));
        tell_pause_changed(tx, &queue)?;
    }
    Ok(queue)
}

/// Deletes a queue whose tasks have all ended, with these tasks, a page at a time: call until it gives `true`.
pub fn delete_page(tx: &mut Tx, caller: &Caller, text: &str, revision: Option<u64>) -> Result<bool> {
    let queue = reached(tx, caller, Permission::QueueDelete, text)?;
    table::check_revision(queue.revision, revision)?;
    let counters: Counters = table::get(tx, queue.id)?;
    if counters.unfinished() > 0 {
        return Err(Error::in_use(format!(
            "{} of its tasks have not ended; end, move or delete them first (POST /tasks/bulk-action)",
            counters.unfinished()
        )));
    }
    if let Some(other) = named_by(tx, queue.id)? {
        return Err(Error::in_use(format!("the queue {} hands tasks on to it; change that one first", other.name)));
    }
    if let Some(trigger) = trigger::by_queue::first_of(tx, queue.id)? {
        return Err(Error::in_use(format!(
            "the trigger {} starts jobs for its tasks; delete or change it first",
            trigger.name
        )));
    }
    if let Some(trigger) = trigger::by_event::of_queue(tx, queue.id)? {
        let text = format!("the trigger {} fires for its tasks; delete or change it first", trigger.name);
        return Err(Error::in_use(text));
    }
    if let Some(alert) = alert::of_queue(tx, queue.id)? {
        return Err(Error::in_use(format!("the alert {} watches it; change or delete that first", alert.name)));
    }
    let mut left = DELETE_PAGE;
    for phase in Phase::ALL {
        let tasks = Scan::of(tx, Kind::TaskByPhase, (queue.id, phase as u8)).indexed::<Task>(tx, left)?;
        let mut tallies = Tallies::default();
        for (_, task) in tasks {
            if !task::remove_page(tx, &mut tallies, &task)? {
                tallies.close(tx)?;
                return Ok(false);
            }
            left -= 1;
        }
        tallies.close(tx)?;
        if left == 0 {
            return Ok(false);
        }
    }
    if !event::delete_page(tx, queue.id.uuid(), DELETE_PAGE)? {
        return Ok(false);
    }
    for (_, hour) in Scan::of(tx, Kind::QueueHour, queue.id).records::<HourOfQueue>(tx, DELETE_PAGE * 10)? {
        table::delete::<HourOfQueue>(tx, (queue.id, hour.hour.number))?;
    }
    for schema in [queue.payload_schema, queue.output_schema].into_iter().flatten() {
        document::delete(tx, schema, Slot::Schema)?;
    }
    table::delete::<Counters>(tx, queue.id)?;
    table::delete::<Queue>(tx, queue.id)?;
    audit::append(tx, caller, Act::new("delete", NOUN, queue.id, &queue.name).before(&queue))?;
    Ok(true)
}

/// A queue that hands tasks on to this one.
fn named_by(reading: &dyn Reading, queue: QueueId) -> Result<Option<Queue>> {
    let names = |other: &Queue| [other.on_success_queue, other.on_failure_queue].contains(&Some(queue));
    let mut after = None;
    loop {
        let queues = some(reading, after, 500)?;
        let Some(last) = queues.last() else { return Ok(None) };
        after = Some(last.id);
        if let Some(other) = queues.into_iter().find(names) {
            return Ok(Some(other));
        }
    }
}

/// Figures of a queue.
#[derive(Clone, Debug)]
pub struct Stats {
    pub counters: Counters,
    pub oldest_new_at: Option<Timestamp>,
    pub per_hour: u64,
    pub eta_seconds: Option<u64>,
    pub over_sla: Option<u64>,
    /// Newest first.
    pub hours: Vec<Hour>,
}

/// Figures from the counters; nothing is looked at that grows with the queue.
pub fn stats(reading: &dyn Reading, caller: &Caller, text: &str) -> Result<Stats> {
    let queue = get(reading, caller, text)?;
    let counters: Counters = table::get(reading, queue.id)?;
    let this_hour = Hour::number_of(reading.now());
    // Those that were kept before the clock was set back lie ahead.
    let ahead = table::index_start(reading, Kind::QueueHour, (queue.id, counters.hour.number));
    let mut hours: Vec<Hour> = Scan::of(reading, Kind::QueueHour, queue.id)
        .below(ahead)
        .newest_first()
        .records::<HourOfQueue>(reading, SHOWN_HOURS as usize)?
        .into_iter()
        .map(|(_, kept)| kept.hour)
        .collect();
    if counters.hour.number > 0 {
        hours.insert(0, counters.hour.clone());
    }
    hours.retain(|hour| hour.number + SHOWN_HOURS > this_hour);
    let before = hours.iter().find(|hour| hour.number + 1 == this_hour).cloned().unwrap_or_default();
    let (per_hour, seconds) = counters.rate(&before, reading.now());
    let to_do = counters.ready() + counters.count(Phase::InProgress);
    let eta_seconds = (per_hour > 0).then(|| to_do * seconds / per_hour);
    let over_sla = queue.sla_seconds.map(|seconds| over_sla(reading, &queue, &counters, seconds)).transpose()?;
    let oldest_new_at = oldest_new(reading, &queue, &counters)?;
    Ok(Stats { counters, oldest_new_at, per_hour, eta_seconds, over_sla, hours })
}

/// Waiting tasks of one priority in the order of their ids, without stepping over those that were taken lately.
pub fn ready_of(reading: &dyn Reading, counters: &Counters, phase: Phase) -> Scan {
    let queue = counters.queue_id;
    let head = table::index_start(reading, Kind::TaskByPhase, (queue, phase as u8, counters.heads[phase as usize]));
    Scan::of(reading, Kind::TaskByPhase, (queue, phase as u8)).from(head)
}

/// When the task came that waits longest to be taken.
pub fn oldest_new_of(reading: &dyn Reading, queue: &Queue) -> Result<Option<Timestamp>> {
    oldest_new(reading, queue, &table::get(reading, queue.id)?)
}

fn oldest_new(reading: &dyn Reading, queue: &Queue, counters: &Counters) -> Result<Option<Timestamp>> {
    debug_assert_eq!(queue.id, counters.queue_id);
    let mut oldest: Option<Timestamp> = None;
    for phase in &Phase::ALL[..READY_PHASES] {
        let first = ready_of(reading, counters, *phase).indexed::<Task>(reading, 1)?;
        oldest = oldest.into_iter().chain(first.first().map(|(_, task)| task.created_at)).min();
    }
    Ok(oldest)
}

fn over_sla(reading: &dyn Reading, queue: &Queue, counters: &Counters, seconds: u64) -> Result<u64> {
    debug_assert_eq!(queue.id, counters.queue_id);
    let since = reading.now().minus_seconds(seconds);
    let end = task::first_id_of(since);
    let mut count = 0;
    for phase in &Phase::ALL[..READY_PHASES] {
        let below = table::index_start(reading, Kind::TaskByPhase, (queue.id, *phase as u8, end));
        count += ready_of(reading, counters, *phase).below(below).pairs(reading, MAX_OVER_SLA)?.len();
    }
    Ok(count.min(MAX_OVER_SLA) as u64)
}

/// Compares the counters of every queue with its tasks, one by one: for tests, and slow. A difference is an error.
pub fn check_counters(reading: &dyn Reading) -> Result<()> {
    for (_, queue) in Scan::of(reading, Kind::Queue, ()).records::<Queue>(reading, usize::MAX)? {
        let counters: Counters = table::get(reading, queue.id)?;
        let wrong = |what: String| Err(Error::Internal(format!("queue {}: {what}", queue.name)));
        for phase in Phase::ALL {
            let tasks =
                Scan::of(reading, Kind::TaskByPhase, (queue.id, phase as u8)).indexed::<Task>(reading, usize::MAX)?;
            if counters.count(phase) != tasks.len() as u64 {
                return wrong(format!("{} tasks are {phase:?}, {} are counted", tasks.len(), counters.count(phase)));
            }
            for (_, task) in tasks.iter().filter(|_| phase.is_ready()) {
                if task.id < counters.heads[phase as usize] {
                    return wrong(format!("the task {} lies before the head of {phase:?}", task.id));
                }
                if task.deadline.is_some_and(|at| counters.earliest_deadline.is_none_or(|earliest| at < earliest)) {
                    return wrong(format!("the deadline of task {} is earlier than the earliest", task.id));
                }
            }
        }
    }
    Ok(())
}
