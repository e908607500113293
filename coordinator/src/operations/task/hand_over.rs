//! Tasks that come into another queue: whose rules hold for them, and whether their payload fits its schema.

use drover_protocol::{QueueId, TaskId, Timestamp, task::TaskPatch};
use serde_json::Value;
use uuid::Uuid;

use super::{document, require_reach};
use crate::{
    domain::{
        permission::Permission,
        queue::Queue,
        task::{State, Task, waiting_state},
    },
    error::{Error, Result},
    json_schema,
    operations::{Caller, event, queue},
    store::{Reading, Tx, document::Slot, table},
};

/// Hands a task that nobody holds over to another queue, whose rules hold for it from now on.
pub(super) fn put_into(task: &mut Task, queue: &Queue, now: Timestamp) {
    task.queue_id = queue.id;
    if let State::New { .. } = task.state {
        task.state = waiting_state(None, &queue::rules(queue), now);
    }
}

/// A payload that is to be held to the schema of a queue before a task is changed.
#[derive(Debug)]
pub struct Unchecked {
    pub schema: Option<Uuid>,
    /// Absent: that of the patch.
    pub own: Option<Own>,
}

/// The payload that a task has, as it was when the task was of this revision.
#[derive(Debug)]
pub struct Own {
    pub payload: Value,
    pub revision: u64,
}

/// What has to be checked before a task is changed: a new payload, and one that comes into another queue.
pub fn unchecked(reading: &dyn Reading, caller: &Caller, id: TaskId, patch: &TaskPatch) -> Result<Option<Unchecked>> {
    if patch.payload.is_none() && patch.queue.is_none() {
        return Ok(None);
    }
    caller.require(Permission::TaskUpdate)?;
    let task: Task = table::get(reading, id)?;
    require_reach(reading, caller, Permission::TaskUpdate, &task)?;
    let queue = match &patch.queue {
        Some(text) => queue::find(reading, caller, Permission::TaskUpdate, text, "/queue")?,
        None => table::get(reading, task.queue_id)?,
    };
    let own = match &patch.payload {
        Some(_) => None,
        None if queue.id == task.queue_id || queue.payload_schema.is_none() => return Ok(None),
        None => {
            Some(Own { payload: document(reading, id, Slot::Payload)?.unwrap_or_default(), revision: task.revision })
        }
    };
    Ok(Some(Unchecked { schema: queue.payload_schema, own }))
}

/// The schema of what comes into a queue.
pub fn payload_schema(reading: &dyn Reading, queue: QueueId) -> Result<Option<Uuid>> {
    Ok(table::get::<Queue>(reading, queue)?.payload_schema)
}

/// Refuses a task that is not any more as it was when it was checked.
pub fn require_unchanged(tx: &Tx, id: TaskId, revision: u64) -> Result<()> {
    match table::get::<Task>(tx, id)?.revision == revision {
        true => Ok(()),
        false => Err(Error::wrong_state("the task was changed while it was being handed over; try again")),
    }
}

/// What is handed on is not refused, for then it would be lost; that it is not what the queue expects, an event of the new
/// task tells.
pub(super) fn note_unfit(tx: &mut Tx, queue: &Queue, id: TaskId) -> Result<()> {
    let Some(name) = queue.payload_schema else { return Ok(()) };
    let schema = queue::schema(tx, name)?;
    let payload = document(tx, id, Slot::Payload)?.unwrap_or_default();
    let (code, text) = match json_schema::check_at_once(&schema, &payload, "") {
        None => ("payload_unchecked", "it would take too long to check its payload against the schema of".to_owned()),
        Some(faults) => match faults.into_iter().next() {
            None => return Ok(()),
            Some(fault) => (
                "payload_unfit",
                format!("its payload is wrong at {:?} ({}) by the schema of", fault.pointer, fault.detail),
            ),
        },
    };
    event::note(
        tx,
        id.uuid(),
        code,
        format!("{text} the queue {}, to which it was handed on", queue.name),
        "coordinator",
    )?;
    Ok(())
}
