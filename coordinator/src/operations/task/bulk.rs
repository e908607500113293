//! The same done to many tasks: found by a filter, changed in pages.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use drover_protocol::{
    QueueId, TaskId, Timestamp,
    task::{BulkAction, BulkActionDone, BulkActionKind},
};
use serde_json::Value;

use super::{
    apply, hand_over::put_into, list::Checked, remove_page, require_free_reference, require_reach, with_reference,
    write,
};
use crate::{
    domain::{
        permission::Permission,
        queue::Queue,
        task::{State, Task, TaskEvent},
    },
    error::{Error, Result},
    operations::{
        Caller,
        audit::{self, Act},
        event, key,
        queue::{self, Tallies},
    },
    store::{Reading, Tx, table},
};

/// What is done to each task, read and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkChange {
    Retry,
    Postpone(Timestamp),
    Delete,
    SetPriority(u8),
    Move(QueueId),
}

/// What is needed for an action.
pub fn permission_of(action: BulkActionKind) -> Permission {
    match action {
        BulkActionKind::Retry => Permission::TaskRetry,
        BulkActionKind::Delete => Permission::TaskDelete,
        BulkActionKind::Postpone | BulkActionKind::SetPriority | BulkActionKind::Move => Permission::TaskUpdate,
    }
}

/// Checks the action, its value and the right to do it.
pub fn change_of(reading: &dyn Reading, caller: &Caller, request: &BulkAction) -> Result<BulkChange> {
    caller.require(permission_of(request.action))?;
    let value = request.value.as_ref();
    let wrong = |what: &str| Error::invalid("/value", format!("must be {what}"));
    match request.action {
        BulkActionKind::Retry | BulkActionKind::Delete if value.is_some() => {
            Err(Error::invalid("/value", "this action takes no value; leave it out"))
        }
        BulkActionKind::Retry => Ok(BulkChange::Retry),
        BulkActionKind::Delete => Ok(BulkChange::Delete),
        BulkActionKind::Postpone => {
            let until = value.and_then(Value::as_str).and_then(|text| text.parse().ok());
            until.map(BulkChange::Postpone).ok_or_else(|| wrong("the time until which the tasks wait"))
        }
        BulkActionKind::SetPriority => {
            let priority = value.and_then(Value::as_u64).filter(|priority| (1..=3).contains(priority));
            priority
                .map(|priority| BulkChange::SetPriority(priority as u8))
                .ok_or_else(|| wrong("a priority from 1 to 3"))
        }
        BulkActionKind::Move => {
            let text = value.and_then(Value::as_str).ok_or_else(|| wrong("the id or name of a queue"))?;
            let queue = queue::find(reading, caller, Permission::TaskUpdate, text, "/value")?;
            Ok(BulkChange::Move(queue.id))
        }
    }
}

impl BulkChange {
    /// Whether the task is in a state that the change fits; one that would change nothing is not counted.
    pub fn fits(self, task: &Task) -> bool {
        let held = matches!(task.state, State::InProgress { .. });
        match self {
            Self::Retry => matches!(task.state, State::Failed | State::Abandoned | State::Postponed { .. }),
            Self::Postpone(_) => matches!(task.state, State::New { .. } | State::Postponed { .. }),
            Self::Delete => !held,
            Self::SetPriority(priority) => !held && task.priority != priority,
            Self::Move(queue) => !held && task.queue_id != queue,
        }
    }
}

/// So many references that tasks will bring with them are remembered at the most.
const MAX_COMING: usize = 1_000_000;

/// What references keep tasks from being moved, told before it is done: those that the other queue has, and those that
/// another task will have brought by then. Of very many tasks the later ones are only compared with what is there.
#[derive(Default)]
pub struct References {
    hasher: RandomState,
    coming: HashSet<u64>,
}

impl References {
    /// How many of these tasks the queue will not take; they come in the order in which they would be moved.
    pub fn count_refused<'a>(
        &mut self,
        reading: &dyn Reading,
        queue: QueueId,
        tasks: impl Iterator<Item = &'a Task>,
    ) -> Result<usize> {
        let queue: Queue = table::get(reading, queue)?;
        let mut refused = 0;
        for reference in tasks.filter_map(|task| task.reference.as_ref()).filter(|_| queue.unique_references) {
            let is_free = with_reference(reading, &queue, reference)?.is_none()
                && (self.coming.len() >= MAX_COMING || self.coming.insert(self.hasher.hash_one(reference)));
            refused += usize::from(!is_free);
        }
        Ok(refused)
    }
}

/// Changes those of a page of tasks that still fit the filter and the change, and that the caller still may change: `may` is
/// what that needs. A task whose payload was looked at before it is moved is left alone if it has changed since.
pub fn apply_page(
    tx: &mut Tx,
    caller: &Caller,
    may: Permission,
    wanted: &Checked,
    change: BulkChange,
    seen: &[(TaskId, u64)],
) -> Result<BulkActionDone> {
    let caller = &key::renewed(tx, caller)?;
    caller.require(may)?;
    let mut tallies = Tallies::default();
    let mut done = BulkActionDone::default();
    for (id, revision) in seen {
        let Some(task) = table::find::<Task>(tx, *id)? else { continue };
        let as_seen = !matches!(change, BulkChange::Move(_)) || task.revision == *revision;
        if as_seen && change.fits(&task) && wanted.still_fits(tx, &task, *revision)? {
            require_reach(tx, caller, may, &task)?;
            match change_one(tx, &mut tallies, caller, change, &task)? {
                true => done.changed += 1,
                false => done.not_taken += 1,
            }
        }
    }
    tallies.close(tx)?;
    Ok(done)
}

/// Changes one task; `false` if the queue to which it was to be moved has its reference already.
fn change_one(tx: &mut Tx, tallies: &mut Tallies, caller: &Caller, change: BulkChange, task: &Task) -> Result<bool> {
    match change {
        BulkChange::Retry => {
            apply(tx, tallies, task, TaskEvent::Retry { by: caller.by() }, |_| ())?;
        }
        BulkChange::Postpone(until) => {
            apply(tx, tallies, task, TaskEvent::Delay { until, by: caller.by() }, |_| ())?;
        }
        BulkChange::Delete => while !remove_page(tx, tallies, task)? {},
        BulkChange::SetPriority(priority) => {
            let mut after = Task { priority, revision: task.revision + 1, ..task.clone() };
            write(tx, tallies, Some(task), &mut after)?;
            event::note(tx, task.id.uuid(), "changed", format!("its priority is {priority} now"), caller.by())?;
        }
        BulkChange::Move(target) => {
            let queue = Arc::clone(&tallies.of(tx, target)?.queue);
            let mut after = Task { revision: task.revision + 1, ..task.clone() };
            put_into(&mut after, &queue, tx.now());
            if queue.unique_references {
                match require_free_reference(tx, &after) {
                    Err(Error::AlreadyExists { .. }) => return Ok(false),
                    checked => checked?,
                }
            }
            write(tx, tallies, Some(task), &mut after)?;
            let text = format!("it was handed over to the queue {}", queue.name);
            event::note(tx, task.id.uuid(), "changed", text, caller.by())?;
        }
    }
    Ok(true)
}

/// That a bulk action begins is an act, in the transaction of the first tasks that it changes: should it not reach its end, its
/// audit trail tells who did it all the same.
pub fn write_down_begin(tx: &mut Tx, caller: &Caller, request: &BulkAction) -> Result<()> {
    let queue = request.filter.queue.clone().unwrap_or_default();
    let begun = serde_json::json!({ "request": request });
    audit::append(tx, caller, Act::new("begin_bulk_action", "task", "", &queue).after(begun))
}

/// What a bulk action came to is one act, however many tasks it has changed.
pub fn write_down(tx: &mut Tx, caller: &Caller, request: &BulkAction, done: BulkActionDone) -> Result<()> {
    let queue = request.filter.queue.clone().unwrap_or_default();
    let came_to = serde_json::json!({ "request": request, "done": done });
    audit::append(tx, caller, Act::new("bulk_action", "task", "", &queue).after(came_to))
}
