//! What a search over all logs looks up in the store: which blocks and which unsealed lines there are, by time, robot,
//! process and job; and in which order lines have arrived.

use drover_protocol::{JobId, ProcessId, RobotId, Timestamp, log::LogSearch};
use uuid::Uuid;

use super::{
    Actor, Caller,
    audit::{self, Act},
    event, log, log_sealing, process, reach, robot,
};
use crate::{
    domain::{
        job::{Job, Target},
        log::{LogBlock, LogHead, Origin, Unsealed},
        permission::Permission,
        role::Limited,
    },
    error::{Error, Result},
    store::{
        Reading, Scan, Tx,
        ids::first_id_of,
        key::{Key, Kind},
        table,
    },
};

/// For so long it is known in which order lines have arrived.
pub const ARRIVALS_SECONDS: u64 = 900;
/// Blocks that one transaction deletes.
const DELETE_PAGE: usize = 200;

/// Whose lines are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whose {
    pub robot: Option<RobotId>,
    pub process: Option<ProcessId>,
    pub job: Option<JobId>,
}

impl Whose {
    /// Whether a log with this origin may have such lines. A log of no job is never wanted by its job.
    pub fn fits(&self, job: JobId, attempt: u32, origin: &Origin) -> bool {
        let robot = || origin.robot.as_ref().map(|robot| robot.id);
        let process = || origin.process.as_ref().map(|process| process.id);
        self.job.is_none_or(|wanted| wanted == job && attempt > 0)
            && self.robot.is_none_or(|wanted| robot() == Some(wanted))
            && self.process.is_none_or(|wanted| process() == Some(wanted))
    }
}

/// What a search names, found. An id may be of something that has been deleted since; its lines are still there.
pub fn whose(reading: &dyn Reading, caller: &Caller, query: &LogSearch) -> Result<Whose> {
    // Before anything that is named is looked for: what there is is not for everybody to know.
    caller.require(Permission::LogRead)?;
    let robot = match query.robot.as_deref() {
        Some(text) => Some(
            text.parse()
                .or_else(|_| robot::find(reading, caller, Permission::LogRead, text, "robot").map(|robot| robot.id))?,
        ),
        None => None,
    };
    let process = match query.process.as_deref() {
        Some(text) => {
            Some(text.parse().or_else(|_| process::find(reading, text, "process").map(|process| process.id))?)
        }
        None => None,
    };
    // The key of a job reads what that job has said, and nothing else.
    let job = match (&caller.actor, query.job) {
        (Actor::Job { job, .. }, None) => Some(*job),
        (Actor::Job { job, .. }, Some(asked)) if asked != *job => return Err(Error::NotFound("job")),
        (_, asked) => asked,
    };
    let whose = Whose { robot, process, job };
    require_reach(reading, caller, &whose)?;
    Ok(whose)
}

/// Refuses a caller who may not read these lines. One whose roles are limited to some robots says whose lines it wants:
/// there are too many others to step over.
pub fn require_reach(reading: &dyn Reading, caller: &Caller, whose: &Whose) -> Result<()> {
    let may = Permission::LogRead;
    caller.require(may)?;
    if !caller.is_limited(may, Limited::RobotGroups) {
        return Ok(());
    }
    if let Some(id) = whose.job {
        let job: Job = table::get(reading, id)?;
        return reach::job(reading, caller, may, &job);
    }
    match whose.robot {
        Some(id) => match reach::reaches_target(reading, caller, may, Target::Robot(id))? {
            true => Ok(()),
            false => Err(Error::invalid("robot", "there is no such robot")),
        },
        None => Err(Error::Forbidden(
            "the roles that give log:read are limited to some robots; name a robot or a job".to_owned(),
        )),
    }
}

/// Whether the caller reaches a log of a robot that it reaches: a job is reached through what it is for, and the robot may
/// have been in other groups too.
pub fn reaches_log(reading: &dyn Reading, caller: &Caller, job: JobId, attempt: u32) -> Result<bool> {
    if attempt == 0 {
        return Ok(true);
    }
    match table::find::<Job>(reading, job)? {
        Some(job) => reach::reaches_target(reading, caller, Permission::LogRead, job.target),
        None => Ok(false),
    }
}

/// Unsealed lines of one log.
#[derive(Clone, Debug)]
pub struct Active {
    pub job_id: JobId,
    pub attempt: u32,
    /// The first one and the one after the last.
    pub seqs: std::ops::Range<u64>,
    pub lines: Unsealed,
    pub origin: Origin,
}

/// A page of the logs with unsealed lines, whatever their time, and where the next page begins.
pub fn active_page(
    reading: &dyn Reading,
    whose: &Whose,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<(Vec<Active>, Option<Vec<u8>>)> {
    let scan = match whose.job {
        Some(job) => Scan::of(reading, Kind::LogActive, job),
        None => Scan::of(reading, Kind::LogActive, ()),
    };
    let scan = match after {
        Some(after) => scan.after(after),
        None => scan,
    };
    let heads = scan.indexed::<LogHead>(reading, limit)?;
    let next = (heads.len() == limit).then(|| heads.last().map(|(key, _)| key.clone())).flatten();
    let mut found = Vec::new();
    for (_, head) in heads {
        let Some(lines) = head.unsealed.clone() else { continue };
        let origin = log::origin(reading, &head)?;
        if whose.fits(head.job_id, head.attempt, &origin) {
            let seqs = lines.first_seq..head.next_seq;
            found.push(Active { job_id: head.job_id, attempt: head.attempt, seqs, lines, origin });
        }
    }
    Ok((found, next))
}

/// Blocks whose lines span less than `2^span` milliseconds and more than half of that, by their last time.
#[derive(Clone, Debug)]
pub struct BlockScan {
    pub span: u8,
    /// Last times in milliseconds: the first one, and the one after the last.
    pub times: (u64, u64),
    pub newest_first: bool,
    pub after: Option<Vec<u8>>,
}

/// Spans that blocks can have.
pub const SPANS: std::ops::RangeInclusive<u8> = 0..=48;

/// A page of such blocks, from the most selective index there is, with the keys of the index.
pub fn blocks(
    reading: &dyn Reading,
    whose: &Whose,
    scan: &BlockScan,
    limit: usize,
) -> Result<Vec<(Vec<u8>, LogBlock)>> {
    let (from, below) = scan.times;
    let bounds = |kind: Kind, bound: u64| match (kind, whose.robot, whose.process) {
        (Kind::LogBlockByRobot, Some(robot), _) => table::index_start(reading, kind, (robot, scan.span, bound)),
        (Kind::LogBlockByProcess, _, Some(process)) => table::index_start(reading, kind, (process, scan.span, bound)),
        _ => table::index_start(reading, kind, (scan.span, bound)),
    };
    let kind = match (whose.robot, whose.process) {
        (Some(_), _) => Kind::LogBlockByRobot,
        (None, Some(_)) => Kind::LogBlockByProcess,
        (None, None) => Kind::LogBlockBySpan,
    };
    let mut range = Scan::of(reading, kind, ()).from(bounds(kind, from)).below(bounds(kind, below));
    if scan.newest_first {
        range = range.newest_first();
    }
    if let Some(after) = &scan.after {
        range = range.after(after);
    }
    range.indexed(reading, limit)
}

/// A page of the blocks of a job.
pub fn blocks_of_job(
    reading: &dyn Reading,
    job: JobId,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<(Vec<u8>, LogBlock)>> {
    let scan = Scan::of(reading, Kind::LogBlock, job);
    let scan = match after {
        Some(after) => scan.after(after),
        None => scan,
    };
    scan.records(reading, limit)
}

/// Lines that have come together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Grows with each arrival.
    pub id: Uuid,
    pub job_id: JobId,
    pub attempt: u32,
    pub first_seq: u64,
    pub lines: u64,
}

/// Notes that lines are about to be added to a log.
pub fn note_arrival(tx: &mut Tx, head: &LogHead, lines: u64) -> Result<()> {
    let key = Key::new(Kind::LogArrival, tx.account()).with(tx.new_id()).into_bytes();
    let mut value = Vec::with_capacity(36);
    value.extend_from_slice(head.job_id.uuid().as_bytes());
    value.extend_from_slice(&head.attempt.to_be_bytes());
    value.extend_from_slice(&head.next_seq.to_be_bytes());
    value.extend_from_slice(&lines.to_be_bytes());
    tx.put(key, value)
}

fn arrival((key, value): (Vec<u8>, Vec<u8>)) -> Result<Arrival> {
    let parse = || {
        let (job, rest) = value.split_first_chunk::<16>()?;
        let (attempt, rest) = rest.split_first_chunk::<4>()?;
        let (first_seq, rest) = rest.split_first_chunk::<8>()?;
        Some(Arrival {
            id: Uuid::from_slice(Scan::position(&key)).ok()?,
            job_id: JobId::from_uuid(Uuid::from_bytes(*job)),
            attempt: u32::from_be_bytes(*attempt),
            first_seq: u64::from_be_bytes(*first_seq),
            lines: u64::from_be_bytes(*rest.first_chunk::<8>()?),
        })
    };
    parse().ok_or_else(|| Error::Internal("the note of an arrival is broken".to_owned()))
}

/// Arrivals from this one on, in their order.
pub fn arrivals(reading: &dyn Reading, from: Uuid, limit: usize) -> Result<Vec<Arrival>> {
    let from = table::index_start(reading, Kind::LogArrival, from);
    let found = Scan::of(reading, Kind::LogArrival, ()).from(from).pairs(reading, limit)?;
    found.into_iter().map(arrival).collect()
}

/// The newest arrival that is known.
pub fn newest_arrival(reading: &dyn Reading) -> Result<Option<Arrival>> {
    let found = Scan::of(reading, Kind::LogArrival, ()).newest_first().pairs(reading, 1)?;
    found.into_iter().map(arrival).next().transpose()
}

/// Forgets arrivals of long ago, a page at a time; how many there were.
pub fn forget_arrivals(tx: &mut Tx, limit: usize) -> Result<usize> {
    let oldest = first_id_of(tx.now().minus_seconds(ARRIVALS_SECONDS));
    let below = table::index_start(tx, Kind::LogArrival, oldest);
    let due = Scan::of(tx, Kind::LogArrival, ()).below(below).pairs(tx, limit)?;
    let count = due.len();
    for (key, _) in due {
        tx.delete(key);
    }
    Ok(count)
}

/// Where the lines of one log come from, by its number.
pub fn origin_of(reading: &dyn Reading, job: JobId, attempt: u32) -> Result<Option<Origin>> {
    let head: Option<LogHead> = table::find(reading, (job, attempt))?;
    head.map(|head| log::origin(reading, &head)).transpose()
}

/// Deletes a page of the blocks whose newest line is older than `before`, and notes it with the account; `true` when
/// none is left.
pub fn delete_page(tx: &mut Tx, caller: &Caller, before: Timestamp) -> Result<bool> {
    caller.require_whole(Permission::LogDelete)?;
    let taken = log_sealing::delete_page(tx, before, caller.by(), DELETE_PAGE)?;
    if taken.entries > 0 {
        let text = format!(
            "{} deleted {} lines ({} bytes) of logs, all of them from before {before}",
            caller.name(),
            taken.lines,
            taken.bytes
        );
        let account = tx.account().uuid();
        event::note(tx, account, "logs_deleted", text, caller.by())?;
        let about = serde_json::json!({ "before": before, "lines": taken.lines, "bytes": taken.bytes });
        audit::append(tx, caller, Act::new("delete", "log", "", "").after(about))?;
    }
    Ok(taken.entries < DELETE_PAGE)
}
