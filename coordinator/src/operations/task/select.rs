//! Which of the waiting tasks of a queue comes next: deadline passed (the earliest first), then priority, then first in
//! first out.

use drover_protocol::{QueueId, TaskId, Timestamp, task::TakeFilter};
use uuid::Uuid;

use crate::{
    domain::{
        queue::Counters,
        task::{Phase, READY_PHASES, Task},
    },
    error::{Error, Result},
    operations::queue::{self, Tally},
    store::{
        Reading, Scan, Tx,
        document::{self, Slot},
        key::Kind,
        table,
    },
};

/// Tasks that one transaction looks at, at the most.
const MAX_EXAMINED: usize = 1_000;
const MAX_IDS: usize = 100;
const MAX_TAGS: usize = 20;
/// Documents of this size together are enough for one answer.
const ENOUGH_BYTES: usize = 4 * 1024 * 1024;

/// Which tasks are wanted, read and checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub reference: Option<String>,
    pub with: Vec<String>,
    pub without: Vec<String>,
    pub ids: Vec<TaskId>,
}

/// `a`, `+a` and `-a`, also several between commas, as the tags that a task must have and those it must not have.
pub fn parse_tags(texts: &[String]) -> (Vec<String>, Vec<String>) {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for text in texts.iter().flat_map(|text| text.split(',')).map(str::trim) {
        match text.strip_prefix('-') {
            Some(tag) => without.push(tag.to_owned()),
            None => with.push(text.strip_prefix('+').unwrap_or(text).to_owned()),
        }
    }
    (with, without)
}

impl Wanted {
    pub fn of(filter: Option<&TakeFilter>) -> Result<Self> {
        let Some(filter) = filter else { return Ok(Self::default()) };
        if filter.ids.len() > MAX_IDS {
            return Err(Error::invalid("/filter/ids", format!("more than {MAX_IDS} ids")));
        }
        let (with, without) = parse_tags(&filter.tags);
        if with.len() + without.len() > MAX_TAGS {
            return Err(Error::invalid("/filter/tags", format!("more than {MAX_TAGS} tags")));
        }
        Ok(Self { reference: filter.reference.clone(), with, without, ids: filter.ids.clone() })
    }

    /// Whether any task will do.
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }

    fn fits(&self, task: &Task) -> bool {
        task.phase().is_ready()
            && (self.ids.is_empty() || self.ids.contains(&task.id))
            && (self.reference.is_none() || self.reference == task.reference)
            && has_tags(task, &self.with, &self.without)
    }
}

/// Whether the task has all of these tags, and none of those.
pub fn has_tags(task: &Task, with: &[String], without: &[String]) -> bool {
    with.iter().all(|tag| task.tags.contains(tag)) && !without.iter().any(|tag| task.tags.contains(tag))
}

/// The tasks that are chosen, and whether the look ended before the queue did.
#[derive(Debug, Default)]
pub struct Chosen {
    pub tasks: Vec<Task>,
    /// More were there than one transaction may look at: look on from here, if none of them will do.
    pub further: Option<Position>,
    examined: usize,
    bytes: usize,
}

/// Where a look goes on: after which task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Of those whose deadline has passed.
    Late { deadline: Timestamp, phase: Phase, after: TaskId },
    /// Of those of one priority.
    Ready { phase: usize, after: TaskId },
}

impl Chosen {
    fn is_full(&self, max: usize) -> bool {
        self.tasks.len() >= max || self.bytes >= ENOUGH_BYTES
    }

    fn add(&mut self, reading: &dyn Reading, task: Task) -> Result<()> {
        self.bytes += task.payload_bytes as usize;
        for (is_there, slot) in [(task.has_checkpoint, Slot::Checkpoint), (task.has_output, Slot::Output)] {
            if is_there {
                self.bytes += document::get(reading, task.id.uuid(), slot)?.map_or(0, |json| json.len());
            }
        }
        self.tasks.push(task);
        Ok(())
    }
}

/// Chooses up to `max` tasks in their order.
pub fn choose(
    reading: &dyn Reading,
    counters: &Counters,
    wanted: &Wanted,
    max: usize,
    from: Option<Position>,
) -> Result<Chosen> {
    if from.is_none()
        && let Some(named) = named(reading, counters.queue_id, wanted)?
    {
        return choose_of(reading, named, counters.queue_id, wanted, max);
    }
    let mut chosen = Chosen::default();
    let (first, after_first) = match from {
        Some(Position::Ready { phase, after }) => (phase, Some(after)),
        Some(Position::Late { .. }) | None => (0, None),
    };
    if after_first.is_none() {
        choose_late(reading, counters, wanted, max, from, &mut chosen)?;
    }
    let late = chosen.tasks.len();
    for number in first..READY_PHASES {
        if chosen.is_full(max) || chosen.further.is_some() {
            break;
        }
        let after = after_first.filter(|_| number == first);
        choose_of_phase(reading, counters, wanted, max, (number, after, late), &mut chosen)?;
    }
    Ok(chosen)
}

/// Those whose deadline has passed, from the earliest or from a position on.
fn choose_late(
    reading: &dyn Reading,
    counters: &Counters,
    wanted: &Wanted,
    max: usize,
    from: Option<Position>,
    chosen: &mut Chosen,
) -> Result<()> {
    let Some(earliest) = counters.earliest_deadline.filter(|at| *at <= reading.now()) else { return Ok(()) };
    // The index has all tasks under an empty tag as well.
    let tag = wanted.with.first().map_or("", String::as_str);
    let start = table::index_start(reading, Kind::TaskByLateness, (counters.queue_id, tag, earliest));
    let next_millis = Timestamp::from_millis(reading.now().millis() + 1);
    let end = table::index_start(reading, Kind::TaskByLateness, (counters.queue_id, tag, next_millis));
    let mut scan = Scan::of(reading, Kind::TaskByLateness, (counters.queue_id, tag)).from(start).below(end);
    if let Some(Position::Late { deadline, phase, after }) = from {
        let parts = (((counters.queue_id, tag), deadline, phase as u8), after);
        scan = scan.after(&table::index_start(reading, Kind::TaskByLateness, parts));
    }
    while !chosen.is_full(max) {
        let wish = (max - chosen.tasks.len()).max(if wanted.is_any() { 1 } else { 16 });
        let found = scan.indexed::<Task>(reading, wish)?;
        let Some((last, _)) = found.last() else { break };
        scan = scan.clone().after(last);
        for (_, task) in found {
            if chosen.is_full(max) {
                return Ok(());
            }
            chosen.examined += 1;
            let phase = task.phase();
            let position = task.deadline.map(|deadline| Position::Late { deadline, phase, after: task.id });
            if wanted.fits(&task) {
                chosen.add(reading, task)?;
            }
            if chosen.examined >= MAX_EXAMINED && !chosen.is_full(max) {
                chosen.further = position;
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Those of one priority, from its head or from a position on; the first `late` that were chosen are known already.
fn choose_of_phase(
    reading: &dyn Reading,
    counters: &Counters,
    wanted: &Wanted,
    max: usize,
    (number, after, late): (usize, Option<TaskId>, usize),
    chosen: &mut Chosen,
) -> Result<()> {
    let phase = Phase::ALL[number];
    if counters.count(phase) == 0 {
        return Ok(());
    }
    let start = after.map_or(counters.heads[number], following);
    let mut scan = match wanted.with.first() {
        None => {
            let start = table::index_start(reading, Kind::TaskByPhase, (counters.queue_id, phase as u8, start));
            queue::ready_of(reading, counters, phase).from(start)
        }
        Some(tag) => {
            let parts = (counters.queue_id, tag.as_str(), phase as u8);
            let start = table::index_start(reading, Kind::TaskByTag, (parts, start));
            Scan::of(reading, Kind::TaskByTag, parts).from(start)
        }
    };
    while !chosen.is_full(max) {
        let wish = (max + late - chosen.tasks.len()).max(if wanted.is_any() { 1 } else { 16 });
        let found = scan.indexed::<Task>(reading, wish)?;
        let ended = found.len() < wish;
        let Some((last, _)) = found.last() else { return Ok(()) };
        scan = scan.clone().after(last);
        for (_, task) in found {
            if chosen.is_full(max) {
                return Ok(());
            }
            chosen.examined += 1;
            let known = chosen.tasks[..late].iter().any(|chosen| chosen.id == task.id);
            let id = task.id;
            if !known && wanted.fits(&task) {
                chosen.add(reading, task)?;
            }
            if chosen.examined >= MAX_EXAMINED && !chosen.is_full(max) {
                chosen.further = Some(Position::Ready { phase: number, after: id });
                return Ok(());
            }
        }
        if ended {
            return Ok(());
        }
    }
    Ok(())
}

/// Those that are named by id or reference, if they are so few that they can be put into their order. Where very many
/// have had the reference, most of them long ago, those that wait are looked through instead.
fn named(reading: &dyn Reading, queue: QueueId, wanted: &Wanted) -> Result<Option<Vec<Task>>> {
    if !wanted.ids.is_empty() {
        let found = wanted.ids.iter().map(|id| table::find::<Task>(reading, *id));
        return Ok(Some(found.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect()));
    }
    let Some(reference) = &wanted.reference else { return Ok(None) };
    let all = Scan::of(reading, Kind::TaskByReference, (reference.as_str(), queue));
    if all.pairs(reading, MAX_EXAMINED + 1)?.len() > MAX_EXAMINED {
        return Ok(None);
    }
    let found = all.indexed::<Task>(reading, MAX_EXAMINED)?;
    Ok(Some(found.into_iter().map(|(_, task)| task).collect()))
}

/// Of those that are named, the first that are wanted.
fn choose_of(
    reading: &dyn Reading,
    mut tasks: Vec<Task>,
    queue: QueueId,
    wanted: &Wanted,
    max: usize,
) -> Result<Chosen> {
    let now = reading.now();
    tasks.retain(|task| task.queue_id == queue && wanted.fits(task));
    tasks.sort_by_key(|task| {
        let late = task.deadline.filter(|at| *at <= now);
        (late.is_none(), late, task.phase(), task.id)
    });
    tasks.dedup_by_key(|task| task.id);
    let mut chosen = Chosen::default();
    for task in tasks {
        if chosen.is_full(max) {
            break;
        }
        chosen.add(reading, task)?;
    }
    Ok(chosen)
}

/// After the chosen ones were taken: from where on the next look has to begin. Only a look at any task tells that.
pub fn advance(tx: &Tx, tally: &mut Tally, taken: &[Task]) -> Result<()> {
    let counters = &mut tally.counters;
    for task in taken {
        let number = task.phase() as usize;
        // Tasks are chosen in the order of their ids, but for those that are late.
        let late = task.deadline.is_some_and(|at| at <= tx.now());
        if !late && number < READY_PHASES {
            counters.heads[number] = counters.heads[number].max(following(task.id));
        }
    }
    if counters.earliest_deadline.is_some_and(|at| at <= tx.now()) {
        // The late ones come first: what was taken of them is gone from the index.
        let queue = counters.queue_id;
        let start =
            table::index_start(tx, Kind::TaskByLateness, (queue, "", counters.earliest_deadline.unwrap_or_default()));
        let first = Scan::of(tx, Kind::TaskByLateness, (queue, "")).from(start).indexed::<Task>(tx, 1)?;
        counters.earliest_deadline = first.first().and_then(|(_, task)| task.deadline);
    }
    Ok(())
}

fn following(id: TaskId) -> TaskId {
    TaskId::from_uuid(Uuid::from_u128(id.uuid().as_u128().saturating_add(1)))
}
