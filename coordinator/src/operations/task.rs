//! Tasks: adding, seeing, changing and deleting them. Taking and ending, lists, and what happens by itself have files of
//! their own.

mod attempt;
mod bulk;
mod bulk_add;
mod count;
mod due;
mod end;
mod hand_over;
mod lateness;
mod list;
mod retain;
mod select;
mod settle;
mod take;

pub use attempt::{attempts, newest_attempts};
pub use bulk::{BulkChange, References, apply_page, change_of, permission_of, write_down, write_down_begin};
pub use bulk_add::{BulkEnd, BulkLine, add_batch, expire_batches_page, is_repetition, note_added, stream_id};
pub use count::{count_ready, is_holder};
pub use due::{lease_ends_at, next_due, tick_page};
pub use end::{Checkpoint, End, Ended, Ending, attempt_of, checkpoint, comment, end, output_schema, renew};
pub use hand_over::{Unchecked, payload_schema, require_unchanged, unchecked};
pub use lateness::renew_page as renew_lateness_page;
pub use list::{Checked, checked_filter, list, page_of_ids};
pub use retain::{expired, remove_expired, too_old_before};
pub use select::{Position, Wanted};
pub use settle::{next_settling, settle_job, settle_page};
pub use take::{Look, Taken, check as check_take, find_further, look, take};

use std::sync::Arc;

use drover_protocol::{
    TaskId, Timestamp,
    json::{MAX_DEPTH, is_too_deep},
    task::{MAX_DOCUMENT_BYTES, NewTask, TaskPatch},
};
use serde_json::Value;
use uuid::Uuid;

use super::{
    Actor, Caller,
    audit::{self, Act},
    event, file, news,
    queue::{self, Tallies},
    trace,
};
use crate::{
    domain::{
        file::task_folder,
        name::{Faults, MAX_DESCRIPTION_CHARS},
        permission::Permission,
        queue::{MAX_ATTEMPTS, Queue},
        role::Limited,
        task::{DEFAULT_PRIORITY, Holder, HolderJob, Refusal, State, Task, TaskEvent, step, waiting_state},
    },
    error::{Error, Result},
    store::{
        Reading, Scan, Topic, Tx,
        document::{self, Slot},
        ids,
        key::Kind,
        schema::PastAttempt,
        table,
    },
};

/// In the audit trail.
const NOUN: &str = "task";
const MAX_REFERENCE_CHARS: usize = 256;
const MAX_TAGS: usize = 20;
const MAX_TAG_CHARS: usize = 64;
/// Once a transaction that goes through many tasks has written so much, the others have their turn in the next.
const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;
/// What is removed of one task in one transaction.
const DELETE_PAGE: usize = 500;
/// The loop that looks at what is due looks at the clock so often anyway.
const LOOKED_AT_SECONDS: u64 = 1;

/// What belongs to a task apart from its record.
const DOCUMENTS: [Slot; 3] = [Slot::Payload, Slot::Output, Slot::Checkpoint];

/// A document of a task as JSON, within its limits.
pub fn to_json(value: &Value, what: &str) -> Result<Vec<u8>> {
    if is_too_deep(value) {
        return Err(Error::invalid(format!("/{what}"), format!("nested deeper than {MAX_DEPTH} levels; use a file")));
    }
    let bytes = serde_json::to_vec(value)
        .map_err(|error| Error::Internal(format!("the {what} of a task cannot be written: {error}")))?;
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(Error::TooLarge(format!(
            "the {what} is over the limit of {MAX_DOCUMENT_BYTES} bytes as JSON; attach a file to the task instead \
             (PUT /tasks/{{task}}/files/{{name}})"
        )));
    }
    Ok(bytes)
}

/// What can be said of a new task without looking at the store.
pub fn check_new(new: &NewTask) -> Result<()> {
    let mut faults = Faults::default();
    for (pointer, text) in [("/reference", &new.reference), ("/name", &new.name)] {
        if let Some(text) = text {
            check_short(&mut faults, pointer, text);
        }
    }
    if let Some(priority) = new.priority {
        faults.range("/priority", u64::from(priority), 1, 3);
    }
    if let Some(attempts) = new.max_attempts {
        faults.range("/max_attempts", u64::from(attempts), 1, u64::from(MAX_ATTEMPTS));
    }
    if let Some(comment) = &new.comment {
        faults.text("/comment", comment, MAX_DESCRIPTION_CHARS);
    }
    check_tags(&mut faults, &new.tags);
    Ok(faults.check()?)
}

fn check_short(faults: &mut Faults, pointer: &str, text: &str) {
    faults.text(pointer, text, MAX_REFERENCE_CHARS);
    if text.is_empty() {
        faults.add(pointer, "must not be empty; leave it out");
    }
}

fn check_tags(faults: &mut Faults, tags: &[String]) {
    if tags.len() > MAX_TAGS {
        faults.add("/tags", format!("more than {MAX_TAGS} tags"));
    }
    for (number, tag) in tags.iter().enumerate() {
        let pointer = format!("/tags/{number}");
        faults.text(&pointer, tag, MAX_TAG_CHARS);
        if tag.trim() != tag || tag.is_empty() || tag.starts_with(['-', '+']) || tag.contains([',', '\n', '\r', '\t']) {
            faults.add(pointer, "a tag must not be empty, begin with - or +, have spaces around it or a comma inside");
        }
    }
}

fn unique_tags(tags: &[String]) -> Vec<String> {
    let mut unique = Vec::with_capacity(tags.len());
    for tag in tags {
        if !unique.contains(tag) {
            unique.push(tag.clone());
        }
    }
    unique
}

/// The queue to which the caller may add tasks.
pub fn queue_to_add_to(reading: &dyn Reading, caller: &Caller, text: &str) -> Result<Queue> {
    queue::reached(reading, caller, Permission::TaskCreate, text)
}

/// Adds a task that has passed [`check_new`]; `payload` is its payload as JSON. A batch shares its `tallies`.
///
/// A reference is taken while a task with it is there, whatever its state; it is free again once that task is deleted, by
/// hand or by retention.
fn add(tx: &mut Tx, tallies: &mut Tallies, queue: &Queue, new: &NewTask, payload: &[u8]) -> Result<Task> {
    let id = TaskId::from_uuid(tx.new_id());
    let now = tx.now();
    let tally = tallies.open(tx, queue)?;
    let mut task = Task {
        id,
        queue_id: tally.queue.id,
        reference: new.reference.clone(),
        name: new.name.clone(),
        state: waiting_state(new.postponed_until, &queue::rules(&tally.queue), now),
        priority: new.priority.unwrap_or(DEFAULT_PRIORITY),
        deadline: new.deadline,
        tags: unique_tags(&new.tags),
        comment: new.comment.clone(),
        attempt: 0,
        tries: 0,
        max_attempts: new.max_attempts,
        newest: None,
        error: None,
        progress: None,
        payload_bytes: u32::try_from(payload.len()).unwrap_or(u32::MAX),
        has_output: false,
        has_checkpoint: false,
        without_files: true,
        created_at: now,
        finished_at: None,
        origin_task_id: None,
        revision: 1,
    };
    if tally.queue.unique_references {
        require_free_reference(tx, &task)?;
    }
    document::insert(tx, id.uuid(), Slot::Payload, payload)?;
    write(tx, tallies, None, &mut task)?;
    Ok(task)
}

/// Adds one task. That is no act: programs of people do nothing else all day, and the task's first event names who did.
pub fn add_one(tx: &mut Tx, queue: &Queue, new: &NewTask, payload: &[u8]) -> Result<Task> {
    let mut tallies = Tallies::default();
    let task = add(tx, &mut tallies, queue, new, payload)?;
    tallies.close(tx)?;
    Ok(task)
}

/// The task of the queue that has this reference, if references are unique there.
pub fn with_reference(reading: &dyn Reading, queue: &Queue, reference: &str) -> Result<Option<TaskId>> {
    let found = Scan::of(reading, Kind::TaskByReference, (reference, queue.id)).pairs(reading, 1)?;
    let Some((_, id)) = found.first() else { return Ok(None) };
    let id = Uuid::from_slice(id).map_err(|_| Error::Internal("an index of tasks holds no id".to_owned()))?;
    Ok(Some(TaskId::from_uuid(id)))
}

fn require_free_reference(tx: &Tx, task: &Task) -> Result<()> {
    let Some(reference) = &task.reference else { return Ok(()) };
    let found = Scan::of(tx, Kind::TaskByReference, (reference.as_str(), task.queue_id)).pairs(tx, 2)?;
    match found.iter().filter_map(|(_, id)| Uuid::from_slice(id).ok()).find(|id| *id != task.id.uuid()) {
        Some(id) => Err(Error::AlreadyExists { what: "a task with this reference".to_owned(), id: id.to_string() }),
        None => Ok(()),
    }
}

/// Writes a task that has come or changed, and all that follows from it: indexes, counters, wake-ups.
fn write(tx: &mut Tx, tallies: &mut Tallies, before: Option<&Task>, task: &mut Task) -> Result<()> {
    match before {
        None => table::insert(tx, task)?,
        Some(before) => table::replace(tx, before, task)?,
    }
    match before {
        Some(old) if old.queue_id != task.queue_id => {
            tallies.of(tx, old.queue_id)?.record(tx, before, None);
            tallies.of(tx, task.queue_id)?.record(tx, None, Some(task));
        }
        _ => tallies.of(tx, task.queue_id)?.record(tx, before, Some(task)),
    }
    let queue = Arc::clone(&tallies.of(tx, task.queue_id)?.queue);
    news::task_changed(tx, before, task, &queue.name)?;
    if task.phase().is_ready() && !before.is_some_and(|old| is_the_same_to_takers(old, task)) {
        tx.wake(Topic::Queue(task.queue_id));
    }
    if task.due_at().is_some_and(|at| at <= tx.now().plus_seconds(LOOKED_AT_SECONDS)) {
        tx.wake(Topic::TasksDue);
    }
    Ok(())
}

/// Whether every taker that wants the task wanted it before, too.
fn is_the_same_to_takers(before: &Task, task: &Task) -> bool {
    before.phase().is_ready()
        && (before.queue_id, &before.reference, &before.tags) == (task.queue_id, &task.reference, &task.tags)
}

/// Applies an event to a task and writes all that follows from it. `edit` changes what is no rule's business: it is told
/// the task as the rules leave it.
fn apply(
    tx: &mut Tx,
    tallies: &mut Tallies,
    before: &Task,
    event: TaskEvent,
    edit: impl FnOnce(&mut Task),
) -> Result<Task> {
    let queue = Arc::clone(&tallies.of(tx, before.queue_id)?.queue);
    let by_itself = matches!(event, TaskEvent::JobHeard { .. });
    let step = step(before.clone(), event, &queue::rules(&queue), tx.now()).map_err(refused)?;
    let mut task = step.task;
    edit(&mut task);
    if task == *before {
        return Ok(task);
    }
    if let Some(attempt) = step.history {
        table::insert(tx, &PastAttempt { task_id: task.id, attempt })?;
    }
    if !by_itself {
        task.revision = before.revision + 1;
    }
    trace::task_changed(tx, before, &task)?;
    write(tx, tallies, Some(before), &mut task)?;
    if let Some(note) = step.note {
        event::note(tx, task.id.uuid(), note.code, note.text, note.by)?;
    }
    if task.is_ended() && !before.is_ended() {
        end::hand_on(tx, tallies, &queue, &task)?;
    }
    Ok(task)
}

fn refused(refusal: Refusal) -> Error {
    let message = refusal.to_string();
    match refusal {
        Refusal::StaleAttempt { .. } => Error::stale_attempt(message),
        Refusal::WrongState(_) => Error::wrong_state(message),
    }
}

/// Refuses a task whose queue is out of the caller's reach.
fn require_reach(reading: &dyn Reading, caller: &Caller, permission: Permission, task: &Task) -> Result<()> {
    if caller.reach.is_none() {
        return Ok(());
    }
    let queue: Queue = table::get(reading, task.queue_id)?;
    caller.require_queue(permission, &queue.name).map_err(|error| match error {
        Error::NotFound(_) => Error::NotFound("task"),
        other => other,
    })
}

/// A task that the caller may see.
pub fn get(reading: &dyn Reading, caller: &Caller, id: TaskId) -> Result<Task> {
    caller.require(Permission::TaskRead)?;
    let task = table::get(reading, id)?;
    require_reach(reading, caller, Permission::TaskRead, &task)?;
    Ok(task)
}

/// Payload, output or checkpoint.
pub fn document(reading: &dyn Reading, id: TaskId, slot: Slot) -> Result<Option<Value>> {
    let Some(bytes) = document::get(reading, id.uuid(), slot)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| Error::Internal(format!("a document of a task cannot be read: {error}")))
}

/// Changes a task. `payload` is the new payload as JSON, if the patch has one.
pub fn update(
    tx: &mut Tx,
    caller: &Caller,
    id: TaskId,
    patch: &TaskPatch,
    payload: Option<&[u8]>,
    revision: Option<u64>,
) -> Result<Task> {
    caller.require(Permission::TaskUpdate)?;
    let before: Task = table::get(tx, id)?;
    require_reach(tx, caller, Permission::TaskUpdate, &before)?;
    table::check_revision(before.revision, revision)?;
    check_patch(patch)?;
    let held = matches!(before.state, State::InProgress { .. });
    let of_the_work = patch.reference.is_some()
        || payload.is_some()
        || patch.deadline.is_some()
        || patch.postponed_until.is_some()
        || patch.max_attempts.is_some()
        || patch.queue.is_some();
    if held && of_the_work {
        return Err(Error::wrong_state(
            "the task is in progress; until it is put back or ends only its name, tags, comment and priority can be \
             changed",
        ));
    }
    let mut tallies = Tallies::default();
    let mut task = edited(&before, patch, payload);
    if let Some(text) = &patch.queue {
        let queue = queue::find(tx, caller, Permission::TaskUpdate, text, "/queue")?;
        if queue.id != before.queue_id {
            hand_over::put_into(&mut task, &queue, tx.now());
        }
    }
    let queue = Arc::clone(&tallies.of(tx, task.queue_id)?.queue);
    if let Some(until) = patch.postponed_until {
        match task.state {
            State::New { .. } | State::Postponed { .. } => {
                task.state = waiting_state(until, &queue::rules(&queue), tx.now());
            }
            _ => return Err(Error::wrong_state("only a task that waits can be postponed; retry it first")),
        }
    }
    if queue.unique_references && (patch.reference.is_some() || patch.queue.is_some()) {
        require_free_reference(tx, &task)?;
    }
    if let Some(payload) = payload {
        document::put(tx, id.uuid(), Slot::Payload, payload)?;
    }
    task.revision += 1;
    write(tx, &mut tallies, Some(&before), &mut task)?;
    tallies.close(tx)?;
    let text = match before.queue_id == task.queue_id {
        true => "the task was changed".to_owned(),
        false => format!("it was handed over to the queue {}", queue.name),
    };
    event::note(tx, id.uuid(), "changed", text, caller.by())?;
    audit::append(tx, caller, Act::new("update", NOUN, id, called(&task)).change(&before, &task))?;
    Ok(task)
}

fn check_patch(patch: &TaskPatch) -> Result<()> {
    let mut faults = Faults::default();
    for (pointer, text) in [("/reference", &patch.reference), ("/name", &patch.name)] {
        if let Some(Some(text)) = text {
            check_short(&mut faults, pointer, text);
        }
    }
    if let Some(priority) = patch.priority {
        faults.range("/priority", u64::from(priority), 1, 3);
    }
    if let Some(Some(attempts)) = patch.max_attempts {
        faults.range("/max_attempts", u64::from(attempts), 1, u64::from(MAX_ATTEMPTS));
    }
    if let Some(Some(comment)) = &patch.comment {
        faults.text("/comment", comment, MAX_DESCRIPTION_CHARS);
    }
    check_tags(&mut faults, patch.tags.as_deref().unwrap_or_default());
    Ok(faults.check()?)
}

fn edited(before: &Task, patch: &TaskPatch, payload: Option<&[u8]>) -> Task {
    let mut task = before.clone();
    task.reference = patch.reference.clone().unwrap_or(task.reference);
    task.name = patch.name.clone().unwrap_or(task.name);
    task.priority = patch.priority.unwrap_or(task.priority);
    task.deadline = patch.deadline.unwrap_or(task.deadline);
    task.comment = patch.comment.clone().unwrap_or(task.comment);
    task.max_attempts = patch.max_attempts.unwrap_or(task.max_attempts);
    task.tags = patch.tags.as_deref().map(unique_tags).unwrap_or(task.tags);
    task.payload_bytes = payload.map_or(task.payload_bytes, |json| u32::try_from(json.len()).unwrap_or(u32::MAX));
    task
}

/// A person wants the task tried again now.
pub fn retry(tx: &mut Tx, caller: &Caller, id: TaskId) -> Result<Task> {
    caller.require(Permission::TaskRetry)?;
    let before: Task = table::get(tx, id)?;
    require_reach(tx, caller, Permission::TaskRetry, &before)?;
    let mut tallies = Tallies::default();
    let task = apply(tx, &mut tallies, &before, TaskEvent::Retry { by: caller.by() }, |_| ())?;
    tallies.close(tx)?;
    if task != before {
        audit::append(tx, caller, Act::new("retry", NOUN, id, called(&task)).change(&before, &task))?;
    }
    Ok(task)
}

/// Refuses a change of a task's files to one who may only look at the task: whoever writes files may do so if that is
/// limited to no folders, or if they work on tasks of its queue.
pub fn check_files_change(reading: &dyn Reading, caller: &Caller, id: TaskId) -> Result<()> {
    if !caller.is_limited(Permission::StorageWrite, Limited::Folders) {
        return Ok(());
    }
    let task = table::get(reading, id)?;
    for permission in [Permission::TaskTake, Permission::TaskUpdate] {
        if caller.permissions.contains(permission) && require_reach(reading, caller, permission, &task).is_ok() {
            return Ok(());
        }
    }
    Err(Error::Forbidden(
        "the roles that give storage:write are limited to some folders; the files of a task are changed by whoever may take \
         or update it"
            .to_owned(),
    ))
}

/// Files belong to what is told of a task, so that a change of them is one of the task. Once some were added, they are looked
/// for whenever the task is told of.
pub fn files_changed(tx: &mut Tx, id: TaskId, added: bool) -> Result<()> {
    let before: Task = table::get(tx, id)?;
    let without_files = before.without_files && !added;
    let task = Task { without_files, revision: before.revision + 1, ..before.clone() };
    table::replace(tx, &before, &task)
}

/// Deletes a task that nobody holds, a page at a time: call until it gives `true`.
pub fn delete_page(tx: &mut Tx, caller: &Caller, id: TaskId, revision: Option<u64>) -> Result<bool> {
    caller.require(Permission::TaskDelete)?;
    let task: Task = table::get(tx, id)?;
    require_reach(tx, caller, Permission::TaskDelete, &task)?;
    table::check_revision(task.revision, revision)?;
    if matches!(task.state, State::InProgress { .. }) {
        return Err(Error::wrong_state("the task is in progress; it can be deleted when it is put back or has ended"));
    }
    let mut tallies = Tallies::default();
    let gone = remove_page(tx, &mut tallies, &task)?;
    tallies.close(tx)?;
    if gone {
        audit::append(tx, caller, Act::new("delete", NOUN, id, called(&task)).before(&task))?;
    }
    Ok(gone)
}

/// One page of removing a task; `true` when nothing of it is left. The record goes last, and its files just before: it may be
/// taken between two pages and goes on then, without its history but with all that its work needs.
pub fn remove_page(tx: &mut Tx, tallies: &mut Tallies, task: &Task) -> Result<bool> {
    if !event::delete_page(tx, task.id.uuid(), DELETE_PAGE)? {
        return Ok(false);
    }
    if task.attempt > 1 {
        let past = Scan::of(tx, Kind::TaskAttempt, task.id).records::<PastAttempt>(tx, DELETE_PAGE)?;
        let ended = past.len() < DELETE_PAGE;
        for (_, past) in past {
            table::delete::<PastAttempt>(tx, (task.id, past.attempt.number))?;
        }
        if !ended {
            return Ok(false);
        }
    }
    if !task.without_files && !file::remove_folder_page(tx, &task_folder(task.id), DELETE_PAGE)? {
        return Ok(false);
    }
    for slot in DOCUMENTS {
        document::delete(tx, task.id.uuid(), slot)?;
    }
    table::delete::<Task>(tx, task.id)?;
    tallies.of(tx, task.queue_id)?.record(tx, Some(task), None);
    Ok(true)
}

/// The smallest id that a task which was made at this time or later can have.
pub fn first_id_of(time: Timestamp) -> TaskId {
    TaskId::from_uuid(ids::first_id_of(time))
}

/// How people call a task.
fn called(task: &Task) -> &str {
    task.reference.as_deref().or(task.name.as_deref()).unwrap_or_default()
}

/// How the caller takes tasks.
fn holder_of(caller: &Caller) -> Holder {
    let job = match caller.actor {
        Actor::Job { job, attempt, robot } => Some(HolderJob { id: job, attempt, robot }),
        Actor::User { .. } | Actor::Robot { .. } => None,
    };
    Holder { by: caller.by(), job }
}
