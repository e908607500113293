//! Taking tasks: claim and lease in one transaction.

use std::time::Duration;

use drover_protocol::{
    QueueId,
    task::{MAX_TAKE, TakeTasks},
};

use super::{
    apply, holder_of,
    select::{Position, Wanted, advance, choose},
};
use crate::{
    domain::{
        job::Job,
        permission::Permission,
        queue::Counters,
        task::{Holder, Task, TaskEvent},
    },
    error::{Error, Result},
    operations::{
        Caller, key,
        queue::{self, Tallies},
    },
    store::{Reading, Tx, table},
};

/// What a taker sees before it begins a transaction.
#[derive(Clone, Debug)]
pub struct Look {
    pub queue: QueueId,
    /// Tasks that wait to be taken, whatever the taker wants.
    pub ready: u64,
    pub paused: bool,
    /// When the pause ends by itself.
    pub pause_ends_in: Option<Duration>,
}

/// Whether it is worth while to begin a transaction. Refuses who may not take tasks of this queue.
pub fn look(reading: &dyn Reading, caller: &Caller, text: &str) -> Result<Look> {
    caller.require(Permission::TaskTake)?;
    let queue = queue::resolve(reading, text)?;
    caller.require_queue(Permission::TaskTake, &queue.name)?;
    let counters: Counters = table::get(reading, queue.id)?;
    let paused = queue.is_paused(reading.now());
    let pause_ends = queue.pause.as_ref().filter(|_| paused).and_then(|pause| pause.until);
    Ok(Look {
        queue: queue.id,
        ready: counters.ready(),
        paused,
        pause_ends_in: pause_ends.map(|until| until.since(reading.now())),
    })
}

/// What was taken.
#[derive(Debug, Default)]
pub struct Taken {
    pub tasks: Vec<Task>,
    /// Whether tasks are left that another taker may want.
    pub more_waits: bool,
    /// More are there than were looked at; if none was found so far, look on from here.
    pub further: Option<Position>,
}

/// The limits of a request.
pub fn check(request: &TakeTasks) -> Result<Wanted> {
    let max = request.max.unwrap_or(1);
    if !(1..=MAX_TAKE).contains(&max) {
        return Err(Error::invalid("/max", format!("must be from 1 to {MAX_TAKE}")));
    }
    Wanted::of(request.filter.as_ref())
}

/// Takes up to as many tasks as asked, in the order of the queue.
pub fn take(tx: &mut Tx, caller: &Caller, id: QueueId, request: &TakeTasks, wanted: &Wanted) -> Result<Taken> {
    let mut tallies = Tallies::default();
    caller.require(Permission::TaskTake)?;
    caller.require_queue(Permission::TaskTake, &tallies.of(tx, id)?.queue.name)?;
    let max = request.max.unwrap_or(1) as usize;
    let taken = take_in(tx, &mut tallies, id, &holder_of(caller), wanted, max)?;
    tallies.close(tx)?;
    Ok(taken)
}

/// The same within a transaction that does more.
pub(super) fn take_in(
    tx: &mut Tx,
    tallies: &mut Tallies,
    queue: QueueId,
    holder: &Holder,
    wanted: &Wanted,
    max: usize,
) -> Result<Taken> {
    require_job(tx, holder)?;
    let tally = tallies.of(tx, queue)?;
    if tally.queue.is_paused(tx.now()) || tally.counters.ready() == 0 {
        return Ok(Taken::default());
    }
    let chosen = choose(tx, &tally.counters, wanted, max, None)?;
    let mut tasks = Vec::with_capacity(chosen.tasks.len());
    for task in &chosen.tasks {
        tasks.push(apply(tx, tallies, task, TaskEvent::Take { holder: holder.clone() }, |_| ())?);
    }
    let tally = tallies.of(tx, queue)?;
    if wanted.is_any() {
        advance(tx, tally, &chosen.tasks)?;
    }
    Ok(Taken { tasks, more_waits: tally.counters.ready() > 0, further: chosen.further })
}

/// Refuses a job that has ended since its key was looked at: its tasks were settled then, and this one would be left with it.
fn require_job(reading: &dyn Reading, holder: &Holder) -> Result<()> {
    let Some(holder) = holder.job else { return Ok(()) };
    let job = table::find::<Job>(reading, holder.id)?;
    match job.is_some_and(|job| job.is_held_by(holder.robot, holder.attempt)) {
        true => Ok(()),
        false => Err(key::UNKNOWN),
    }
}

/// The first tasks behind a position that are wanted: where a queue is long and few of its tasks will do, they are looked
/// for outside of a transaction, a page at a time, and then taken by their ids.
pub fn find_further(
    reading: &dyn Reading,
    queue: QueueId,
    wanted: &Wanted,
    max: usize,
    from: Position,
) -> Result<(Wanted, Option<Position>)> {
    let counters: Counters = table::get(reading, queue)?;
    let chosen = choose(reading, &counters, wanted, max, Some(from))?;
    let ids = chosen.tasks.iter().map(|task| task.id).collect();
    Ok((Wanted { ids, ..wanted.clone() }, chosen.further))
}
