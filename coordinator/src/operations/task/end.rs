//! What holders do with their tasks: renew, note how far they are, and end them. Every call is fenced by its attempt.

use drover_protocol::{
    QueueId, TaskId, Timestamp,
    job::Progress,
    task::{CommentTask, TaskAttemptEnd, TaskError},
};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{DOCUMENTS, NOUN, apply, called, hand_over, holder_of, require_reach, select::Wanted, take::take_in};
use crate::{
    domain::{
        name::{Faults, MAX_DESCRIPTION_CHARS},
        permission::Permission,
        queue::Queue,
        task::{Attempt, State, Task, TaskEvent, waiting_state},
    },
    error::{Error, Result},
    operations::{
        Actor, Caller,
        audit::{self, Act},
        event,
        queue::{self, Tallies},
    },
    store::{
        Reading, Tx,
        document::{self, Slot},
        schema::PastAttempt,
        table,
    },
};

const MAX_MESSAGE_BYTES: usize = 8 * 1024;
const MAX_CODE_BYTES: usize = 256;
const MAX_PROGRESS_CHARS: usize = 512;
/// So many different results of one attempt are kept that came after its end.
const MAX_LATE_RESULTS: usize = 10;
/// So often a task that nobody takes is handed on, at the most.
const MAX_ORIGINS: usize = 16;

/// How a holder ends its attempt. Documents are JSON.
#[derive(Clone, Debug)]
pub enum Ending {
    Succeed { output: Option<Vec<u8>> },
    Fail { error: TaskError, retry: Option<bool>, output: Option<Vec<u8>> },
    Postpone { until: Timestamp, checkpoint: Option<Vec<u8>>, counts: bool },
}

impl Ending {
    fn word(&self) -> TaskAttemptEnd {
        match self {
            Self::Succeed { .. } => TaskAttemptEnd::Succeeded,
            Self::Fail { .. } => TaskAttemptEnd::Failed,
            Self::Postpone { .. } => TaskAttemptEnd::Postponed,
        }
    }

    /// What it leaves beside the record.
    fn document(&self) -> Option<(Slot, &[u8])> {
        match self {
            Self::Succeed { output } | Self::Fail { output, .. } => {
                output.as_ref().map(|json| (Slot::Output, json.as_slice()))
            }
            Self::Postpone { checkpoint, .. } => checkpoint.as_ref().map(|json| (Slot::Checkpoint, json.as_slice())),
        }
    }

    fn digest(&self) -> Result<u64> {
        let said = match self {
            Self::Succeed { output } => serde_json::to_vec(&("succeed", output.is_some())),
            Self::Fail { error, retry, output } => serde_json::to_vec(&("fail", error, retry, output.is_some())),
            Self::Postpone { until, checkpoint, counts } => {
                serde_json::to_vec(&("postpone", until, counts, checkpoint.is_some()))
            }
        };
        let said = said.map_err(|error| Error::Internal(format!("an end cannot be written: {error}")))?;
        let mut digest = Sha256::new_with_prefix(said);
        if let Some((_, json)) = self.document() {
            digest.update(json);
        }
        let digest: [u8; 32] = digest.finalize().into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        Ok(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    /// The limits of texts.
    fn check(&self) -> Result<()> {
        let Self::Fail { error, .. } = self else { return Ok(()) };
        let mut faults = Faults::default();
        if error.message.len() > MAX_MESSAGE_BYTES {
            faults.add("/message", format!("over {MAX_MESSAGE_BYTES} bytes"));
        }
        if error.code.as_ref().is_some_and(|code| code.len() > MAX_CODE_BYTES) {
            faults.add("/code", format!("over {MAX_CODE_BYTES} bytes"));
        }
        Ok(faults.check()?)
    }
}

/// What a holder says of the end of an attempt.
#[derive(Clone, Debug)]
pub struct End {
    attempt: u32,
    ending: Ending,
    /// Of all that the ending says.
    digest: u64,
    take_next: bool,
}

impl End {
    /// Within the limits. It is made before the transaction: documents may be large.
    pub fn new(attempt: u32, ending: Ending, take_next: bool) -> Result<Self> {
        ending.check()?;
        let digest = ending.digest()?;
        Ok(Self { attempt, ending, digest, take_next })
    }

    /// Whether the next task of the queue is wanted.
    pub fn takes_next(&self) -> bool {
        self.take_next
    }
}

/// How an end was taken.
#[derive(Debug)]
pub enum Ended {
    /// With the next task, if it was asked for and there was one.
    Done { task: Box<Task>, next: Option<Box<Task>> },
    /// It had ended so before: the task as it is now.
    Again { task: Box<Task>, next: Option<Box<Task>> },
    /// Refused: the attempt was over. The result is kept as an event.
    Late(Error),
}

/// The task, for one who says that it holds it.
fn held(reading: &dyn Reading, caller: &Caller, id: TaskId) -> Result<Task> {
    caller.require(Permission::TaskTake)?;
    let task = table::get(reading, id)?;
    require_reach(reading, caller, Permission::TaskTake, &task)?;
    Ok(task)
}

/// The schema that an output of this attempt has to fit: none if the attempt does not hold the task. A result that comes too
/// late is kept as it is, and a repetition changes nothing.
pub fn output_schema(reading: &dyn Reading, caller: &Caller, id: TaskId, number: u32) -> Result<Option<Uuid>> {
    let task = held(reading, caller, id)?;
    if !is_held_by(caller, &task, number) {
        return Ok(None);
    }
    Ok(table::get::<Queue>(reading, task.queue_id)?.output_schema)
}

/// Whether this attempt holds the task, and is the caller's to end.
fn is_held_by(caller: &Caller, task: &Task, number: u32) -> bool {
    let own = task.newest.as_ref().is_some_and(|newest| newest.number == number && is_own(caller, newest));
    matches!(task.state, State::InProgress { .. }) && task.attempt == number && own
}

/// The key of a job ends only what the same attempt of that job has taken. People may end for others what they can see the
/// attempt of.
fn is_own(caller: &Caller, attempt: &Attempt) -> bool {
    match caller.actor {
        Actor::Job { job, attempt: of_job, .. } => {
            attempt.holder.job.is_some_and(|holder| (holder.id, holder.attempt) == (job, of_job))
        }
        Actor::User { .. } | Actor::Robot { .. } => true,
    }
}

fn not_own() -> Error {
    Error::stale_attempt("another job holds this attempt of the task")
}

/// The attempt of this number, if there was one.
pub fn attempt_of(reading: &dyn Reading, task: &Task, number: u32) -> Result<Option<Attempt>> {
    match &task.newest {
        Some(newest) if newest.number == number => Ok(Some(newest.clone())),
        _ => Ok(table::find::<PastAttempt>(reading, (task.id, number))?.map(|past| past.attempt)),
    }
}

fn keep_attempt(tx: &mut Tx, task: &Task, attempt: Attempt) -> Result<()> {
    if task.attempt == attempt.number {
        let after = Task { newest: Some(attempt), ..task.clone() };
        return table::replace(tx, task, &after);
    }
    table::overwrite(tx, &PastAttempt { task_id: task.id, attempt })
}

/// Ends an attempt, and takes the next task of the same queue if that is wanted. The same end again is success, and gives
/// the same next task; a late one is refused and kept.
pub fn end(tx: &mut Tx, caller: &Caller, id: TaskId, end: End) -> Result<Ended> {
    let task = held(tx, caller, id)?;
    let take_next = end.take_next;
    if !is_held_by(caller, &task, end.attempt) {
        return repeated_or_late(tx, caller, task, &end);
    }
    let number = end.attempt;
    let mut tallies = Tallies::default();
    let mut ended = end_held(tx, &mut tallies, &task, end)?;
    let next = if take_next { take_after(tx, &mut tallies, caller, &ended, number)? } else { None };
    if next.as_ref().is_some_and(|next| next.id == id) {
        ended = table::get(tx, id)?;
    }
    tallies.close(tx)?;
    Ok(Ended::Done { task: Box::new(ended), next: next.map(Box::new) })
}

/// Takes the next task of the queue. Should this answer be lost, a repetition finds the same task noted with the attempt that
/// has ended.
fn take_after(tx: &mut Tx, tallies: &mut Tallies, caller: &Caller, ended: &Task, number: u32) -> Result<Option<Task>> {
    let taken = take_in(tx, tallies, ended.queue_id, &holder_of(caller), &Wanted::default(), 1)?;
    let Some(next) = taken.tasks.into_iter().next() else { return Ok(None) };
    let now: Task = table::get(tx, ended.id)?;
    if let Some(mut attempt) = attempt_of(tx, &now, number)? {
        attempt.next = Some((next.id, next.attempt));
        keep_attempt(tx, &now, attempt)?;
    }
    Ok(Some(next))
}

fn end_held(tx: &mut Tx, tallies: &mut Tallies, task: &Task, end: End) -> Result<Task> {
    let End { attempt: number, ending, digest, .. } = end;
    let written = ending.document().map(|(slot, _)| slot);
    if let Some((slot, json)) = ending.document() {
        let is_there = if slot == Slot::Output { task.has_output } else { task.has_checkpoint };
        match is_there {
            true => document::put(tx, task.id.uuid(), slot, json)?,
            false => document::insert(tx, task.id.uuid(), slot, json)?,
        }
    }
    let has_no_output = matches!(ending, Ending::Succeed { output: None }) && task.has_output;
    if has_no_output {
        // What is there is of an attempt that failed, or of the task that this one was made for.
        document::delete(tx, task.id.uuid(), Slot::Output)?;
    }
    let event = match ending {
        Ending::Succeed { .. } => TaskEvent::Succeed { attempt: number },
        Ending::Fail { error, retry, .. } => {
            let [chance] = tx.random();
            TaskEvent::Fail { attempt: number, error, retry, chance }
        }
        Ending::Postpone { until, counts, .. } => TaskEvent::Postpone { attempt: number, until, counts },
    };
    apply(tx, tallies, task, event, |task| {
        match written {
            Some(Slot::Output) => task.has_output = true,
            Some(_) => task.has_checkpoint = true,
            None if has_no_output => task.has_output = false,
            None => {}
        }
        if let Some(attempt) = &mut task.newest {
            attempt.end_digest = Some(digest);
        }
    })
}

fn repeated_or_late(tx: &mut Tx, caller: &Caller, task: Task, end: &End) -> Result<Ended> {
    let number = end.attempt;
    let Some(mut attempt) = attempt_of(tx, &task, number)? else {
        return Err(Error::stale_attempt(format!("there is no attempt {number} of this task")));
    };
    if !is_own(caller, &attempt) {
        return Err(not_own());
    }
    if is_repeated(&attempt, end) {
        let next = if end.take_next { next_again(tx, &attempt)? } else { None };
        return Ok(Ended::Again { task: Box::new(task), next: next.map(Box::new) });
    }
    let ended = match attempt.ended_by_holder {
        true => "the attempt has ended with another result",
        false => "the attempt had ended before this result came",
    };
    let is_kept = attempt.late_digests.contains(&end.digest);
    if !is_kept && attempt.late_digests.len() >= MAX_LATE_RESULTS {
        let text = format!("{ended}; this one is not kept, for {MAX_LATE_RESULTS} others of it are");
        return Err(Error::stale_attempt(text));
    }
    if !is_kept {
        keep_late_result(tx, caller, &task, &attempt, &end.ending)?;
        attempt.late_digests.push(end.digest);
        keep_attempt(tx, &task, attempt)?;
    }
    Ok(Ended::Late(Error::stale_attempt(format!("{ended}; this one is kept as an event"))))
}

/// Whether the holder has ended its attempt in just this way. Of attempts that ended before digests were kept only the
/// kind of the end is known.
fn is_repeated(attempt: &Attempt, end: &End) -> bool {
    attempt.ended_by_holder
        && attempt.end == Some(end.ending.word())
        && attempt.end_digest.is_none_or(|digest| digest == end.digest)
}

/// What was taken when the attempt ended, if it is still held. A repetition takes nothing: it may be one that went round in
/// the network, whose answer nobody reads.
fn next_again(reading: &dyn Reading, attempt: &Attempt) -> Result<Option<Task>> {
    let Some((id, number)) = attempt.next else { return Ok(None) };
    let next = table::find::<Task>(reading, id)?;
    Ok(next.filter(|next| matches!(next.state, State::InProgress { .. }) && next.attempt == number))
}

fn keep_late_result(tx: &mut Tx, caller: &Caller, task: &Task, attempt: &Attempt, ending: &Ending) -> Result<()> {
    let what = match ending {
        Ending::Succeed { .. } => "succeeded".to_owned(),
        Ending::Fail { error, .. } => format!("failed ({})", error.message),
        Ending::Postpone { until, .. } => format!("postponed until {until}"),
    };
    let kept = ending.document().map(|_| "; what it brought is kept with this event").unwrap_or_default();
    let text = format!("{} reported attempt {} as {what} after it had ended{kept}", attempt.holder.by, attempt.number);
    let brought = ending.document().map(|(_, json)| json);
    event::note_late(tx, task.id.uuid(), event::LATE_RESULT, text, caller.by(), brought)
}

/// A change by the holder that leaves the attempt going on.
fn go_on(
    tx: &mut Tx,
    caller: &Caller,
    id: TaskId,
    number: u32,
    event: TaskEvent,
    edit: impl FnOnce(&mut Task),
) -> Result<Task> {
    let task = held(tx, caller, id)?;
    if task.newest.as_ref().is_some_and(|newest| newest.number == number && !is_own(caller, newest)) {
        return Err(not_own());
    }
    let mut tallies = Tallies::default();
    let task = apply(tx, &mut tallies, &task, event, edit)?;
    tallies.close(tx)?;
    Ok(task)
}

/// Holds the task for a whole lease from now on.
pub fn renew(tx: &mut Tx, caller: &Caller, id: TaskId, number: u32) -> Result<Task> {
    go_on(tx, caller, id, number, TaskEvent::Renew { attempt: number }, |_| ())
}

/// What a holder notes on its way.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// JSON.
    pub checkpoint: Vec<u8>,
    pub progress: Option<Progress>,
}

impl Checkpoint {
    /// The limits of the progress.
    pub fn check(&self) -> Result<()> {
        let mut faults = Faults::default();
        if let Some(progress) = &self.progress {
            faults.text("/progress/text", progress.text.as_deref().unwrap_or_default(), MAX_PROGRESS_CHARS);
            if progress.percent.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
                faults.add("/progress/percent", "must be from 0 to 100");
            }
        }
        Ok(faults.check()?)
    }
}

/// Keeps how far the holder has got, for the next attempt should this one not come to its end.
pub fn checkpoint(tx: &mut Tx, caller: &Caller, id: TaskId, number: u32, noted: Checkpoint) -> Result<Task> {
    let event = TaskEvent::Checkpoint { attempt: number, progress: noted.progress };
    let task = go_on(tx, caller, id, number, event, |task| {
        task.has_checkpoint = true;
        // Even where nothing of the record changes, what the task is has changed.
        task.revision += 1;
    })?;
    document::put(tx, id.uuid(), Slot::Checkpoint, &noted.checkpoint)?;
    Ok(task)
}

/// Sets the comment; the one before stays in the events.
pub fn comment(tx: &mut Tx, caller: &Caller, id: TaskId, request: &CommentTask) -> Result<Task> {
    let may = match caller.permissions.contains(Permission::TaskTake) {
        true => Permission::TaskTake,
        false => Permission::TaskUpdate,
    };
    caller.require(may)?;
    let mut faults = Faults::default();
    faults.text("/comment", &request.comment, MAX_DESCRIPTION_CHARS);
    faults.check()?;
    let before: Task = table::get(tx, id)?;
    require_reach(tx, caller, may, &before)?;
    if let Some(number) = request.attempt {
        let own = before.newest.as_ref().is_some_and(|newest| newest.number == number && is_own(caller, newest));
        if before.attempt != number || (number > 0 && !own) {
            return Err(Error::stale_attempt(format!("the task has moved on from attempt {number}")));
        }
    }
    let mut task = before.clone();
    task.comment = Some(request.comment.clone()).filter(|comment| !comment.is_empty());
    task.revision += 1;
    table::replace(tx, &before, &task)?;
    event::note(tx, id.uuid(), "commented", request.comment.clone(), caller.by())?;
    if let Actor::User { .. } = caller.actor {
        audit::append(tx, caller, Act::new("comment", NOUN, id, called(&task)).change(&before, &task))?;
    }
    Ok(task)
}

/// Whether the task was made for one of this queue, over others or not, and nobody has taken any of them, or whether it has
/// come through so many queues in this way. Queues that hand on to each other what nobody takes would make tasks for ever.
fn comes_round(reading: &dyn Reading, task: &Task, target: QueueId) -> Result<bool> {
    let mut last = task.clone();
    for _ in 0..MAX_ORIGINS {
        if last.attempt > 0 {
            return Ok(false);
        }
        let Some(origin) = last.origin_task_id else { return Ok(false) };
        let Some(origin) = table::find::<Task>(reading, origin)? else { return Ok(false) };
        if origin.queue_id == target && origin.attempt == 0 {
            return Ok(true);
        }
        last = origin;
    }
    Ok(true)
}

/// Makes a new task in the queue that receives what ends here, with payload, output and error.
pub(super) fn hand_on(tx: &mut Tx, tallies: &mut Tallies, queue: &Queue, task: &Task) -> Result<()> {
    let target = match task.state {
        State::Succeeded => queue.on_success_queue,
        _ => queue.on_failure_queue,
    };
    let Some(target) = target else { return Ok(()) };
    let Some(target) = table::find::<Queue>(tx, target)? else { return Ok(()) };
    if comes_round(tx, task, target.id)? {
        let text = format!(
            "it was not handed on to {}: it has been there or in {MAX_ORIGINS} other queues, and nobody has taken it",
            target.name
        );
        event::note(tx, task.id.uuid(), "not_handed_on", text, "coordinator")?;
        return Ok(());
    }
    if target.unique_references
        && let Some(reference) = &task.reference
        && let Some(other) = super::with_reference(tx, &target, reference)?
    {
        let text = format!("it was not handed on to {}: the task {other} there has its reference", target.name);
        event::note(tx, task.id.uuid(), "not_handed_on", text, "coordinator")?;
        return Ok(());
    }
    let id = TaskId::from_uuid(tx.new_id());
    let now = tx.now();
    let name = target.name.clone();
    let mut made = Task {
        id,
        queue_id: target.id,
        state: waiting_state(None, &queue::rules(&target), now),
        deadline: None,
        comment: None,
        attempt: 0,
        tries: 0,
        max_attempts: None,
        newest: None,
        progress: None,
        has_checkpoint: false,
        without_files: true,
        created_at: now,
        finished_at: None,
        origin_task_id: Some(task.id),
        revision: 1,
        ..task.clone()
    };
    tallies.open(tx, &target)?;
    for slot in &DOCUMENTS[..2] {
        if let Some(json) = document::get(tx, task.id.uuid(), *slot)? {
            document::insert(tx, id.uuid(), *slot, &json)?;
        }
    }
    super::write(tx, tallies, None, &mut made)?;
    event::note(tx, task.id.uuid(), "handed_on", format!("the task {id} of {name} was made for it"), "coordinator")?;
    hand_over::note_unfit(tx, &target, id)
}
