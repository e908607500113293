//! Adding many tasks: a batch of lines in one transaction, and the memory of it for repetitions.

use drover_protocol::{
    TaskId,
    task::{BulkSum, NewTask},
};
use sha2::{Digest, Sha256};

use super::{NOUN, add, queue_to_add_to};
use crate::{
    domain::{
        idempotency::KEPT_SECONDS,
        queue::Queue,
        task_batch::{LineDigest, LineEnd, TaskBatch},
    },
    error::{Error, Result},
    operations::{
        Actor, Caller,
        audit::{self, Act},
        key,
        queue::Tallies,
    },
    store::{Reading, Scan, Tx, key::Kind, table},
};

/// Lines of one remembered batch, blank ones among them: as many as one value of the store holds.
const MAX_LINES: u64 = 2_000;

/// One line of the stream.
#[derive(Debug)]
pub struct BulkLine {
    /// Counted from 1.
    pub number: u64,
    pub digest: LineDigest,
    /// The task with its payload as JSON; absent if the line is not valid, which needs no transaction to be known.
    pub task: Option<(NewTask, Vec<u8>)>,
}

/// What a transaction made of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkEnd {
    Added(TaskId),
    /// It was added before, by the first sending of the stream.
    Again(TaskId),
    Duplicate(TaskId),
    /// Another line was added in this place under this key.
    Reused,
    NotValid,
}

/// Under which name the lines of a stream are remembered: each key of the account has its own, for each queue.
pub fn stream_id(caller: &Caller, queue: &Queue, key: &str) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(caller.key_id.uuid().as_bytes());
    digest.update(queue.id.uuid().as_bytes());
    digest.update(key.as_bytes());
    digest.finalize().into()
}

/// Adds what the lines say, in their order. Lines that were added under this stream's key before are only told again.
pub fn add_batch(
    tx: &mut Tx,
    caller: &Caller,
    queue: &str,
    stream: Option<[u8; 32]>,
    lines: &[BulkLine],
) -> Result<Vec<BulkEnd>> {
    let queue = queue_to_add_to(tx, &key::renewed(tx, caller)?, queue)?;
    let mut memory = Memory { stream, known: None, fresh: None, free_below: 0 };
    let mut tallies = Tallies::default();
    let mut ends = Vec::with_capacity(lines.len());
    for line in lines {
        let before = memory.of(tx, line.number)?;
        let end = match before {
            Some((digest, LineEnd::Added(id))) if digest == line.digest => BulkEnd::Again(id),
            Some((_, LineEnd::Added(_))) => BulkEnd::Reused,
            Some((digest, LineEnd::Duplicate(id))) if digest == line.digest => BulkEnd::Duplicate(id),
            _ => add_one(tx, &mut tallies, &queue, line)?,
        };
        memory.keep(tx, line, end)?;
        ends.push(end);
    }
    memory.close(tx)?;
    tallies.close(tx)?;
    Ok(ends)
}

fn add_one(tx: &mut Tx, tallies: &mut Tallies, queue: &Queue, line: &BulkLine) -> Result<BulkEnd> {
    let Some((new, payload)) = &line.task else { return Ok(BulkEnd::NotValid) };
    match add(tx, tallies, queue, new, payload) {
        Ok(task) => Ok(BulkEnd::Added(task.id)),
        Err(Error::AlreadyExists { id, .. }) => {
            let id = id.parse().map_err(|_| Error::Internal("a task has no id".to_owned()))?;
            Ok(BulkEnd::Duplicate(id))
        }
        Err(error) => Err(error),
    }
}

/// What is known of the lines of a stream, and what is to be kept of them.
struct Memory {
    /// Absent: the call carries no key, and nothing is kept.
    stream: Option<[u8; 32]>,
    /// The batch that was looked at last, and whether it has changed.
    known: Option<(TaskBatch, bool)>,
    /// The batch of the lines that come for the first time.
    fresh: Option<TaskBatch>,
    /// From the line that was looked for last up to this one, none is in a batch.
    free_below: u64,
}

impl Memory {
    /// What became of this line before.
    fn of(&mut self, tx: &mut Tx, line: u64) -> Result<Option<(LineDigest, LineEnd)>> {
        let Some(stream) = self.stream else { return Ok(None) };
        if self.known.as_ref().is_none_or(|(batch, _)| batch.get(line).is_none()) && line >= self.free_below {
            self.look(tx, stream, line)?;
        }
        Ok(self.known.as_ref().and_then(|(batch, _)| batch.get(line)))
    }

    /// Looks for the batch that has the line; if none has, for the line with which the next one begins: where lines were blank
    /// at the first time, batches do not follow each other closely.
    fn look(&mut self, tx: &mut Tx, stream: [u8; 32], line: u64) -> Result<()> {
        self.close_known(tx)?;
        let next = table::index_start(tx, Kind::TaskBatch, (stream, line + 1));
        let all = Scan::of(tx, Kind::TaskBatch, stream);
        let before = all.clone().below(next.clone()).newest_first().records::<TaskBatch>(tx, 1)?;
        let before = before.into_iter().next().map(|(_, batch)| batch);
        let lies_between =
            |batch: &TaskBatch| self.fresh.as_ref().is_some_and(|fresh| batch.first_line > fresh.first_line);
        if before.as_ref().is_some_and(lies_between) {
            // A batch that reached over another one would hide its lines.
            self.close_fresh(tx)?;
        }
        match before.filter(|batch| batch.get(line).is_some()) {
            Some(batch) => {
                self.close_fresh(tx)?;
                self.known = Some((batch, false));
            }
            None => {
                let after = all.from(next).records::<TaskBatch>(tx, 1)?;
                self.free_below = after.first().map_or(u64::MAX, |(_, batch)| batch.first_line);
            }
        }
        Ok(())
    }

    fn keep(&mut self, tx: &mut Tx, line: &BulkLine, end: BulkEnd) -> Result<()> {
        let Some(stream) = self.stream else { return Ok(()) };
        let end = match end {
            BulkEnd::Added(id) | BulkEnd::Again(id) => LineEnd::Added(id),
            BulkEnd::Duplicate(id) => LineEnd::Duplicate(id),
            BulkEnd::NotValid => LineEnd::Failed,
            // What was added in this place stays remembered.
            BulkEnd::Reused => return Ok(()),
        };
        if let Some((batch, changed)) = &mut self.known
            && let Some(before) = batch.get(line.number)
        {
            if before != (line.digest, end) {
                batch.set(line.number, line.digest, end);
                *changed = true;
            }
            return Ok(());
        }
        if self.fresh.as_ref().is_some_and(|fresh| line.number - fresh.first_line >= MAX_LINES) {
            self.close_fresh(tx)?;
        }
        let expires_at = tx.now().plus_seconds(KEPT_SECONDS);
        let fresh = self.fresh.get_or_insert_with(|| TaskBatch::new(stream, line.number, expires_at));
        // Lines that hold nothing have a number too.
        while fresh.end() < line.number {
            fresh.push([0; 8], LineEnd::Failed);
        }
        fresh.push(line.digest, end);
        Ok(())
    }

    fn close_known(&mut self, tx: &mut Tx) -> Result<()> {
        match self.known.take() {
            Some((batch, true)) => table::rewrite(tx, &batch),
            _ => Ok(()),
        }
    }

    fn close_fresh(&mut self, tx: &mut Tx) -> Result<()> {
        match self.fresh.take() {
            Some(batch) => table::insert(tx, &batch),
            None => Ok(()),
        }
    }

    fn close(mut self, tx: &mut Tx) -> Result<()> {
        self.close_known(tx)?;
        self.close_fresh(tx)
    }
}

/// What people add by one stream is one act, however many tasks that are.
pub fn note_added(tx: &mut Tx, caller: &Caller, queue: &str, sum: BulkSum) -> Result<()> {
    match caller.actor {
        Actor::User { .. } => audit::append(tx, caller, Act::new("bulk_add", NOUN, "", queue).after(sum)),
        Actor::Robot { .. } | Actor::Job { .. } => Ok(()),
    }
}

/// Whether lines of this stream were kept: the call is a repetition.
pub fn is_repetition(reading: &dyn Reading, stream: [u8; 32]) -> Result<bool> {
    Ok(!Scan::of(reading, Kind::TaskBatch, stream).pairs(reading, 1)?.is_empty())
}

/// Forgets batches that have expired, a page at a time; how many there were.
pub fn expire_batches_page(tx: &mut Tx, limit: usize) -> Result<usize> {
    let end = table::index_start(tx, Kind::TaskBatchByExpiry, tx.now().plus_seconds(0));
    let due = Scan::of(tx, Kind::TaskBatchByExpiry, ()).below(end).indexed::<TaskBatch>(tx, limit)?;
    for (_, batch) in &due {
        table::delete::<TaskBatch>(tx, (batch.stream, batch.first_line))?;
    }
    Ok(due.len())
}
