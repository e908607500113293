//! Lists of tasks, newest first, by any filter.
//!
//! There is one index by queue and phase, and others by tag and reference: each gives runs of ids in their order. A list
//! merges the runs that its filter needs, so that no index is kept for what can be merged. The cursor is an id: a task
//! that changes its state meanwhile stays where it is.

use std::collections::HashSet;

use drover_protocol::{
    QueueId, TaskId,
    page::PageQuery,
    task::{TaskErrorKind, TaskFilter},
};
use serde_json::Value;
use uuid::Uuid;

use super::{
    first_id_of,
    select::{has_tags, parse_tags},
};
use crate::{
    domain::{
        permission::Permission,
        queue::{Counters, Queue},
        role::Limited,
        task::{Phase, Task},
    },
    error::{Error, Result},
    operations::{
        Actor, Caller,
        list::{self, DEFAULT_LIMIT, Page, cursor_at, limit, position_of},
        queue,
    },
    store::{
        Reading, Record, Scan,
        document::{self, Slot},
        key::Kind,
        table,
    },
};

/// Tasks that one page looks at, at the most.
const MAX_EXAMINED: usize = 2_000;
/// The same where payloads are looked at, and how much of them.
const MAX_EXAMINED_PAYLOADS: usize = 1_000;
const MAX_EXAMINED_BYTES: usize = 16 * 1024 * 1024;
/// With more queues than this, a list over all of them looks at the tasks themselves.
const MAX_QUEUES: usize = 200;
/// Queues that are looked at together to find those within reach.
const MAX_REACHED: usize = 500;
const MAX_IDS: usize = 1_000;
const MAX_CONDITIONS: usize = 20;
/// An id may be so much younger than the time of its task, when the clock was set back or ids were made very fast.
const ID_SLACK_SECONDS: u64 = 10;

/// A filter with what it names found.
#[derive(Clone, Debug)]
pub struct Checked {
    filter: TaskFilter,
    queue: Option<Queue>,
    /// The queues that the caller reaches, if its roles limit that.
    within: Option<HashSet<QueueId>>,
    with: Vec<String>,
    without: Vec<String>,
}

/// Whether the filter has to look into payloads.
fn needs_payload(filter: &TaskFilter) -> bool {
    !filter.payload.is_empty()
}

/// Checks a filter and finds what it names. Fields of a body are named by a JSON pointer below `pointer`.
pub fn checked_filter(
    reading: &dyn Reading,
    caller: &Caller,
    permission: Permission,
    filter: &TaskFilter,
    pointer: &str,
) -> Result<Checked> {
    caller.require(Permission::TaskRead)?;
    let queue = match &filter.queue {
        Some(text) => {
            let pointer = format!("{pointer}queue");
            queue::find(reading, caller, Permission::TaskRead, text, &pointer)?;
            Some(queue::find(reading, caller, permission, text, &pointer)?)
        }
        None => None,
    };
    if queue.is_none() && matches!(caller.actor, Actor::Job { .. }) {
        return Err(Error::Forbidden("a job's key lists the tasks of a queue that it names".to_owned()));
    }
    if filter.id.len() > MAX_IDS {
        return Err(Error::invalid(format!("{pointer}id"), format!("more than {MAX_IDS} ids")));
    }
    if filter.payload.len() > MAX_CONDITIONS {
        return Err(Error::invalid(format!("{pointer}payload"), format!("more than {MAX_CONDITIONS} conditions")));
    }
    if filter.priority.is_some_and(|priority| !(1..=3).contains(&priority)) {
        return Err(Error::invalid(format!("{pointer}priority"), "must be from 1 to 3"));
    }
    let (with, without) = parse_tags(&filter.tag);
    // Whatever it is called when this is looked at again.
    let filter = TaskFilter { queue: queue.as_ref().map(|queue| queue.id.to_string()), ..filter.clone() };
    let within = if queue.is_none() { queues_within(reading, caller, permission)? } else { None };
    Ok(Checked { filter, queue, within, with, without })
}

/// All queues whose tasks the caller may see and act upon, if its roles limit that.
fn queues_within(reading: &dyn Reading, caller: &Caller, permission: Permission) -> Result<Option<HashSet<QueueId>>> {
    let wanted = [Permission::TaskRead, permission];
    if !wanted.iter().any(|permission| caller.is_limited(*permission, Limited::Queues)) {
        return Ok(None);
    }
    let (mut within, mut after) = (HashSet::new(), None);
    loop {
        let queues = queue::some(reading, after, MAX_REACHED)?;
        let Some(last) = queues.last() else { return Ok(Some(within)) };
        after = Some(last.id);
        let reached = |queue: &&Queue| wanted.iter().all(|p| caller.require_queue(*p, &queue.name).is_ok());
        within.extend(queues.iter().filter(reached).map(|queue| queue.id));
    }
}

impl Checked {
    /// The same for what the caller may see by now.
    pub fn renewed(&self, reading: &dyn Reading, caller: &Caller) -> Result<Self> {
        checked_filter(reading, caller, Permission::TaskRead, &self.filter, "")
    }

    /// Whether the task is one of those that are wanted, but for its payload.
    pub fn fits(&self, task: &Task) -> bool {
        let filter = &self.filter;
        self.queue.as_ref().is_none_or(|queue| queue.id == task.queue_id)
            && self.within.as_ref().is_none_or(|within| within.contains(&task.queue_id))
            && (filter.state.is_empty() || filter.state.contains(&task.state.kind()))
            && (filter.reference.is_none() || filter.reference == task.reference)
            && has_tags(task, &self.with, &self.without)
            && filter.priority.is_none_or(|priority| priority == task.priority)
            && filter.created_from.is_none_or(|from| task.created_at >= from)
            && filter.created_to.is_none_or(|to| task.created_at < to)
            && filter.error_kind.is_none_or(|kind| task.error.as_ref().is_some_and(|error| error.kind == kind))
            && filter.job.is_none_or(|job| task.holder_job().is_some_and(|holder| holder.id == job))
            && (filter.id.is_empty() || filter.id.contains(&task.id))
    }

    /// Whether it fits as a whole, payload and all. The payload of one that is as it was seen has been looked at.
    pub fn still_fits(&self, reading: &dyn Reading, task: &Task, seen_revision: u64) -> Result<bool> {
        Ok(self.fits(task) && (task.revision == seen_revision || self.fits_payload(reading, task)?.0))
    }

    /// Whether its payload is as wanted; and how many bytes had to be read to know that.
    fn fits_payload(&self, reading: &dyn Reading, task: &Task) -> Result<(bool, usize)> {
        if self.filter.payload.is_empty() {
            return Ok((true, 0));
        }
        let Some(json) = document::get(reading, task.id.uuid(), Slot::Payload)? else { return Ok((false, 0)) };
        let payload: Value = serde_json::from_slice(&json).unwrap_or_default();
        let fits = self.filter.payload.iter().all(|(path, wanted)| {
            value_at(&payload, path).is_some_and(|found| found == wanted || text_of(found) == text_of(wanted))
        });
        Ok((fits, json.len()))
    }

    /// The phases in which such tasks can be.
    fn phases(&self) -> Vec<Phase> {
        let states = &self.filter.state;
        let of_priority = |phase: Phase| match (self.filter.priority, phase) {
            (Some(priority), Phase::NewHigh) => priority == 3,
            (Some(priority), Phase::NewNormal) => priority == 2,
            (Some(priority), Phase::NewLow) => priority == 1,
            _ => true,
        };
        let of_kind = |phase: Phase| match (self.filter.error_kind, phase) {
            (Some(TaskErrorKind::Business), Phase::FailedApplication) => false,
            (Some(TaskErrorKind::Application), Phase::FailedBusiness) => false,
            // Nothing that ended well has an error.
            (Some(_), Phase::Succeeded) => false,
            _ => true,
        };
        let wanted = |phase: &Phase| {
            (states.is_empty() || states.contains(&phase.state())) && of_priority(*phase) && of_kind(*phase)
        };
        Phase::ALL.into_iter().filter(wanted).collect()
    }

    fn is_of_phases(&self) -> bool {
        !self.filter.state.is_empty() || self.filter.error_kind.is_some() || !self.with.is_empty()
    }

    /// How many there are, where counters know it.
    fn total(&self, reading: &dyn Reading) -> Result<Option<u64>> {
        let plain = TaskFilter { queue: None, state: Vec::new(), ..self.filter.clone() } == TaskFilter::default();
        let Some(queue) = self.queue.as_ref().filter(|_| plain) else { return Ok(None) };
        let counters: Counters = table::get(reading, queue.id)?;
        Ok(Some(self.phases().into_iter().map(|phase| counters.count(phase)).sum()))
    }
}

/// The value at a path such as `customer.address.0.city`.
fn value_at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, part| match value {
        Value::Object(members) => members.get(part),
        Value::Array(items) => items.get(part.parse::<usize>().ok()?),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    })
}

/// A plain value as it is written in a query string.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some("null".to_owned()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(value) => Some(value.to_string()),
        Value::String(value) => Some(value.clone()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// Ids in their order, newest first, fetched a few at a time.
struct Run {
    scan: Scan,
    /// The next ones, the newest last.
    ids: Vec<TaskId>,
    ended: bool,
}

impl Run {
    fn newest(&mut self, reading: &dyn Reading, step: usize) -> Result<Option<TaskId>> {
        if self.ids.is_empty() && !self.ended {
            let pairs = self.scan.pairs(reading, step)?;
            self.ended = pairs.len() < step;
            if let Some((last, _)) = pairs.last() {
                self.scan = self.scan.clone().after(last);
            }
            // Every key of these kinds ends with the id of its task.
            let ids = pairs.iter().rev().filter_map(|(key, _)| key.last_chunk::<16>());
            self.ids = ids.map(|bytes| TaskId::from_uuid(Uuid::from_bytes(*bytes))).collect();
        }
        Ok(self.ids.last().copied())
    }
}

/// Ids from here (included) to there (excluded).
type Bounds = (TaskId, TaskId);

fn run_of<P: crate::store::key::KeyPart + Clone>(
    reading: &dyn Reading,
    kind: Kind,
    parts: P,
    (from, below): Bounds,
) -> Run {
    let start = table::index_start(reading, kind, (parts.clone(), from));
    let end = table::index_start(reading, kind, (parts.clone(), below));
    let scan = Scan::of(reading, kind, parts).from(start).below(end).newest_first();
    Run { scan, ids: Vec::new(), ended: false }
}

/// The runs that hold all tasks of the filter.
fn runs(reading: &dyn Reading, wanted: &Checked, bounds: Bounds) -> Result<Vec<Run>> {
    if let Some(reference) = &wanted.filter.reference {
        let queues = match &wanted.queue {
            Some(queue) => Some(vec![queue.id]),
            None => queues_with(reading, reference)?,
        };
        let of_queue = |queue| run_of(reading, Kind::TaskByReference, (reference.as_str(), queue), bounds);
        return Ok(match queues {
            Some(queues) => queues.into_iter().map(of_queue).collect(),
            None => vec![run_of(reading, Kind::Task, (), bounds)],
        });
    }
    let queues = match &wanted.queue {
        Some(queue) => vec![queue.id],
        None if wanted.is_of_phases() => {
            let queues = Scan::of(reading, Kind::Queue, ()).records::<Queue>(reading, MAX_QUEUES + 1)?;
            let within = |id: &QueueId| wanted.within.as_ref().is_none_or(|within| within.contains(id));
            queues.into_iter().map(|(_, queue)| queue.id).filter(within).collect()
        }
        None => Vec::new(),
    };
    if wanted.queue.is_none() && (!wanted.is_of_phases() || queues.len() > MAX_QUEUES) {
        return Ok(vec![run_of(reading, Kind::Task, (), bounds)]);
    }
    let tag = wanted.with.first();
    let of_phase = |queue, phase: Phase| match tag {
        Some(tag) => run_of(reading, Kind::TaskByTag, (queue, tag.as_str(), phase as u8), bounds),
        None => run_of(reading, Kind::TaskByPhase, (queue, phase as u8), bounds),
    };
    let phases = wanted.phases();
    Ok(queues
        .into_iter()
        .flat_map(|queue| phases.iter().map(move |phase| (queue, *phase)))
        .map(|(q, p)| of_phase(q, p))
        .collect())
}

/// The queues that have tasks with this reference, found by stepping from one to the next; `None` if they are too many.
fn queues_with(reading: &dyn Reading, reference: &str) -> Result<Option<Vec<QueueId>>> {
    let mut scan = Scan::of(reading, Kind::TaskByReference, reference);
    let mut queues = Vec::new();
    loop {
        let found = scan.indexed::<Task>(reading, 1)?;
        let Some((_, task)) = found.first() else { return Ok(Some(queues)) };
        if queues.len() == MAX_QUEUES {
            return Ok(None);
        }
        queues.push(task.queue_id);
        let last = TaskId::from_uuid(Uuid::max());
        let end = table::index_start(reading, Kind::TaskByReference, ((reference, task.queue_id), last));
        scan = scan.after(&end);
    }
}

/// Tasks that fit the filter, newest first. A page may hold fewer than the limit and go on: it looks at so many only.
pub fn list(reading: &dyn Reading, wanted: &Checked, query: &PageQuery) -> Result<(Page<Task>, Option<u64>)> {
    let total = if query.count == Some(true) { wanted.total(reading)? } else { None };
    Ok((page_of(reading, wanted, query)?, total))
}

fn page_of(reading: &dyn Reading, wanted: &Checked, query: &PageQuery) -> Result<Page<Task>> {
    let limit = limit(query.limit, DEFAULT_LIMIT)?;
    let bounds = bounds_of(wanted, query)?;
    let (most, most_bytes) = match needs_payload(&wanted.filter) {
        true => (MAX_EXAMINED_PAYLOADS, MAX_EXAMINED_BYTES),
        false => (MAX_EXAMINED, usize::MAX),
    };
    let mut source = Source::of(reading, wanted, bounds, limit)?;
    let mut items = Vec::new();
    let (mut examined, mut bytes) = (0, 0);
    while let Some(id) = source.next(reading)? {
        examined += 1;
        let task = table::find::<Task>(reading, id)?;
        if let Some(task) = task.filter(|task| wanted.fits(task)) {
            let (fits, read) = wanted.fits_payload(reading, &task)?;
            bytes += read;
            if fits {
                items.push(task);
            }
        }
        if items.len() == limit || examined >= most || bytes >= most_bytes {
            let more = source.next(reading)?.is_some();
            let next_cursor = more.then(|| cursor_at(id.uuid().as_bytes(), Task::NOUN));
            return Ok(Page { items, next_cursor });
        }
    }
    Ok(Page { items, next_cursor: None })
}

/// One page of the tasks that fit, as ids, and where it goes on: for actions on many of them.
pub fn page_of_ids(
    reading: &dyn Reading,
    wanted: &Checked,
    cursor: Option<String>,
) -> Result<(Vec<Task>, Option<String>)> {
    let query = PageQuery { limit: Some(list::MAX_LIMIT), cursor, count: None };
    let page = page_of(reading, wanted, &query)?;
    Ok((page.items, page.next_cursor))
}

fn bounds_of(wanted: &Checked, query: &PageQuery) -> Result<Bounds> {
    let from = wanted.filter.created_from.map_or(TaskId::from_uuid(Uuid::nil()), first_id_of);
    let to = wanted.filter.created_to.map(|to| first_id_of(to.plus_seconds(ID_SLACK_SECONDS)));
    let mut below = to.unwrap_or(TaskId::from_uuid(Uuid::max()));
    if let Some(cursor) = &query.cursor {
        let position = position_of(cursor, Task::NOUN)?;
        let id =
            Uuid::from_slice(&position).map_err(|_| Error::BadRequest("the cursor is of another list".to_owned()))?;
        below = below.min(TaskId::from_uuid(id));
    }
    Ok((from, below))
}

/// Where the ids of a list come from.
enum Source {
    Runs {
        runs: Vec<Run>,
        step: usize,
    },
    /// They were named; the newest last.
    Named(Vec<TaskId>),
}

impl Source {
    fn of(reading: &dyn Reading, wanted: &Checked, bounds: Bounds, limit: usize) -> Result<Self> {
        if !wanted.filter.id.is_empty() {
            let mut ids = wanted.filter.id.clone();
            ids.retain(|id| (bounds.0..bounds.1).contains(id));
            ids.sort();
            ids.dedup();
            return Ok(Self::Named(ids));
        }
        let runs = runs(reading, wanted, bounds)?;
        let step = (2 * limit / runs.len().max(1)).clamp(8, 200);
        Ok(Self::Runs { runs, step })
    }

    fn next(&mut self, reading: &dyn Reading) -> Result<Option<TaskId>> {
        match self {
            Self::Named(ids) => Ok(ids.pop()),
            Self::Runs { runs, step } => {
                let mut newest: Option<(TaskId, usize)> = None;
                for (number, run) in runs.iter_mut().enumerate() {
                    if let Some(id) = run.newest(reading, *step)?
                        && newest.is_none_or(|(best, _)| id > best)
                    {
                        newest = Some((id, number));
                    }
                }
                let Some((id, number)) = newest else { return Ok(None) };
                runs[number].ids.pop();
                Ok(Some(id))
            }
        }
    }
}
