//! Logs: lines arrive in numbered chunks, each accepted once, or one by one; they are sealed later into compressed blocks.

use drover_protocol::{
    JobId, Timestamp,
    agent::LogChunk,
    log::{LogLine, MAX_CHUNK_LINES, MAX_FIELDS_BYTES, MAX_MESSAGE_BYTES, NewLogLine, WriteLine},
};

use super::{Actor, Caller, attempt, job, log_sealing, log_search, reach};
use crate::{
    domain::{
        attempt::Attempt,
        job::{Holder, Job},
        log::{self, Author, LogBlock, LogHead, LogProcess, Origin, Unsealed},
        name::Faults,
        permission::Permission,
    },
    error::{Error, Result},
    store::{
        Reading, Scan, Topic, Tx,
        key::{Key, Kind},
        lines, table,
    },
};

/// Lines are stored together up to so many bytes, then cut into pieces that fit a value.
const GROUP_BYTES: usize = 256 * 1024;
const PIECE_BYTES: usize = 60 * 1024;
/// Fast, and half of what a better level would save.
const CHUNK_COMPRESSION: i32 = 1;
/// What a line weighs besides its texts.
const LINE_OVERHEAD_BYTES: usize = 32;
/// The field that says who wrote a line into the log of a job, if it was not the job.
pub const WRITTEN_BY: &str = "written_by";
/// What a process itself says there.
const CLAIMED_WRITTEN_BY: &str = "_written_by";

/// Some lines, packed as they are stored.
#[derive(Clone, Debug)]
pub struct Group {
    packed: Vec<u8>,
    lines: u64,
    bytes: u64,
    first_time: Timestamp,
    last_time: Timestamp,
    in_order: bool,
}

/// A chunk that was checked and packed before the transaction, which has to be short.
#[derive(Clone, Debug)]
pub struct PackedChunk {
    attempt: u32,
    first_seq: u64,
    lines: Vec<NewLogLine>,
    groups: Vec<Group>,
}

/// Checks the limits of a chunk and packs it. A process says about itself whatever it likes, but not who wrote a line:
/// such a field gets another name.
pub fn pack(mut chunk: LogChunk) -> Result<PackedChunk> {
    let mut faults = Faults::default();
    faults.range("/first_seq", chunk.first_seq, 1, u64::MAX / 2);
    if chunk.lines.len() > MAX_CHUNK_LINES {
        faults.add("/lines", format!("more than {MAX_CHUNK_LINES} lines; send several chunks"));
    }
    for (number, line) in chunk.lines.iter().enumerate().take(MAX_CHUNK_LINES) {
        check_size(&mut faults, &format!("/lines/{number}"), line);
    }
    faults.check()?;
    for line in &mut chunk.lines {
        if let Some(claimed) = line.fields.remove(WRITTEN_BY) {
            line.fields.insert(CLAIMED_WRITTEN_BY.to_owned(), claimed);
        }
    }
    let groups = group(&chunk.lines)?;
    Ok(PackedChunk { attempt: chunk.attempt, first_seq: chunk.first_seq, lines: chunk.lines, groups })
}

fn check_size(faults: &mut Faults, pointer: &str, line: &NewLogLine) {
    if line.message.len() > MAX_MESSAGE_BYTES {
        faults.add(format!("{pointer}/message"), format!("over {MAX_MESSAGE_BYTES} bytes; split the line"));
    }
    if fields_bytes(line) > MAX_FIELDS_BYTES {
        faults.add(format!("{pointer}/fields"), format!("over {MAX_FIELDS_BYTES} bytes of JSON"));
    }
}

fn fields_bytes(line: &NewLogLine) -> usize {
    if line.fields.is_empty() { 0 } else { serde_json::to_vec(&line.fields).map_or(0, |json| json.len()) }
}

/// How much a line counts for limits, in bytes.
pub fn weight(line: &NewLogLine) -> usize {
    line.message.len() + fields_bytes(line) + LINE_OVERHEAD_BYTES
}

fn group(lines: &[NewLogLine]) -> Result<Vec<Group>> {
    let mut groups = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (number, line) in lines.iter().enumerate() {
        bytes += weight(line);
        if bytes >= GROUP_BYTES || number + 1 == lines.len() {
            groups.push(group_of(&lines[start..=number], bytes)?);
            (start, bytes) = (number + 1, 0);
        }
    }
    Ok(groups)
}

fn group_of(lines: &[NewLogLine], bytes: usize) -> Result<Group> {
    let packed = lines::pack(lines, CHUNK_COMPRESSION)?;
    let (first_time, last_time, in_order) = log::times(lines).unwrap_or_default();
    Ok(Group { packed, lines: lines.len() as u64, bytes: bytes as u64, first_time, last_time, in_order })
}

/// Adds what is new in a chunk, and gives the number of the line that is expected next.
///
/// A chunk seen before is accepted and changes nothing; one that leaves a gap is refused. Lines of an attempt that has
/// ended are still taken from the robot that had it, as long as the job has not gone on to another attempt.
pub fn append(tx: &mut Tx, caller: &Caller, job_id: JobId, chunk: &PackedChunk) -> Result<u64> {
    let robot = caller.robot()?;
    let attempt: Option<Attempt> = table::find(tx, (job_id, chunk.attempt))?;
    let attempt = attempt.filter(|attempt| attempt.robot.id == robot).ok_or(Error::NotFound("job"))?;
    let job: Job = table::get(tx, job_id)?;
    if job.attempt != chunk.attempt {
        return Err(Error::stale_attempt("the job has moved on to another attempt"));
    }
    let known: Option<LogHead> = table::find(tx, (job_id, chunk.attempt))?;
    let is_new = known.is_none();
    let mut head = known.unwrap_or_else(|| LogHead::new(job_id, chunk.attempt));
    let expected = head.next_of_agent();
    if chunk.first_seq > expected {
        return Err(Error::LogGap { next_seq: expected });
    }
    let end = chunk.first_seq + chunk.lines.len() as u64;
    if end <= expected {
        return Ok(expected);
    }
    if chunk.first_seq == expected {
        put_groups(tx, &mut head, &chunk.groups)?;
    } else {
        let seen = usize::try_from(expected - chunk.first_seq).unwrap_or(usize::MAX);
        let groups = group(&chunk.lines[seen..])?;
        put_groups(tx, &mut head, &groups)?;
    }
    head.ended_at = attempt.ended_at;
    put_head(tx, head, is_new)?;
    Ok(end)
}

fn put_head(tx: &mut Tx, mut head: LogHead, is_new: bool) -> Result<()> {
    match is_new {
        true => table::insert(tx, &head)?,
        false => table::update(tx, &mut head)?,
    }
    if head.author.is_none() {
        tx.wake(Topic::JobLog(head.job_id));
    }
    tx.wake(Topic::Logs(tx.account()));
    if head.is_long() {
        tx.wake(Topic::Sealing);
    }
    Ok(())
}

fn put_groups(tx: &mut Tx, head: &mut LogHead, groups: &[Group]) -> Result<()> {
    log_search::note_arrival(tx, head, groups.iter().map(|group| group.lines).sum())?;
    for group in groups {
        for (number, piece) in group.packed.chunks(PIECE_BYTES).enumerate() {
            let number = u16::try_from(number).map_err(|_| Error::Internal("a log chunk is too large".to_owned()))?;
            let key =
                Key::new(Kind::LogChunk, tx.account()).with((head.job_id, head.attempt, head.next_seq)).with(number);
            tx.put(key.into_bytes(), piece.to_vec())?;
        }
        match &mut head.unsealed {
            Some(unsealed) => {
                unsealed.in_order &= group.in_order && group.first_time >= unsealed.last_time;
                unsealed.first_time = unsealed.first_time.min(group.first_time);
                unsealed.last_time = unsealed.last_time.max(group.last_time);
            }
            none => {
                *none = Some(Unsealed {
                    first_seq: head.next_seq,
                    since: tx.now(),
                    first_time: group.first_time,
                    last_time: group.last_time,
                    in_order: group.in_order,
                });
            }
        }
        head.next_seq += group.lines;
        head.unsealed_chunks += 1;
        head.unsealed_bytes += group.bytes;
        head.bytes += group.bytes;
    }
    Ok(())
}

/// A line that somebody writes by itself, checked and packed before the transaction.
#[derive(Clone, Debug)]
pub struct Written {
    line: NewLogLine,
    group: Group,
}

/// Checks and packs a line. What a person or a robot writes into the log of a job says so in a field of its own.
pub fn written(caller: &Caller, request: &WriteLine, now: Timestamp) -> Result<Written> {
    caller.require(Permission::LogWrite)?;
    let mut fields = request.fields.clone().unwrap_or_default();
    let mut line =
        NewLogLine { time: now, level: request.level, message: request.message.clone(), fields: Default::default() };
    let mut faults = Faults::default();
    if fields.contains_key(WRITTEN_BY) {
        faults.add(format!("/fields/{WRITTEN_BY}"), "is filled in by the coordinator; leave it out");
    }
    if !matches!(caller.actor, Actor::Job { .. }) && request.job.is_some() {
        fields.insert(WRITTEN_BY.to_owned(), caller.by().into());
    }
    line.fields = fields;
    check_size(&mut faults, "", &line);
    faults.check()?;
    let group = group_of(std::slice::from_ref(&line), weight(&line))?;
    Ok(Written { line, group })
}

/// Which log a line goes to: that of a job, or the caller's own.
fn place(tx: &Tx, caller: &Caller, job: Option<JobId>) -> Result<(JobId, u32)> {
    let job_id = match (&caller.actor, job) {
        (Actor::Job { job, attempt, .. }, asked) if asked.is_none_or(|asked| asked == *job) => {
            return Ok((*job, *attempt));
        }
        (Actor::User { id, .. }, None) => return Ok((JobId::from_uuid(id.uuid()), 0)),
        (Actor::Robot { id, .. }, None) => return Ok((JobId::from_uuid(id.uuid()), 0)),
        (Actor::Job { .. }, _) => return Err(Error::NotFound("job")),
        (_, Some(job)) => job,
    };
    let job: Job = table::get(tx, job_id)?;
    reach::job(tx, caller, Permission::LogWrite, &job)?;
    let newest = job.attempt.max(1);
    if let Actor::Robot { id, .. } = caller.actor
        && attempt::newest_of(tx, job_id, id)?.ok_or(Error::NotFound("job"))? != newest
    {
        return Err(Error::stale_attempt("the job has moved on to another attempt"));
    }
    Ok((job_id, newest))
}

/// Adds a line to the log of a job, or to the caller's own, and gives it with its number.
pub fn write(tx: &mut Tx, caller: &Caller, job: Option<JobId>, written: &Written) -> Result<FoundRecord> {
    let (job_id, attempt) = place(tx, caller, job)?;
    let known: Option<LogHead> = table::find(tx, (job_id, attempt))?;
    let is_new = known.is_none();
    let mut head = match known {
        Some(head) => head,
        None if attempt == 0 => LogHead { author: Some(author(caller)), ..LogHead::new(job_id, 0) },
        None => self::head(tx, job_id, attempt)?,
    };
    let seq = head.next_seq;
    put_groups(tx, &mut head, std::slice::from_ref(&written.group))?;
    head.inserted += 1;
    let origin = origin(tx, &head)?;
    put_head(tx, head, is_new)?;
    Ok(FoundRecord { job_id, attempt, seq, line: written.line.clone(), origin })
}

fn author(caller: &Caller) -> Author {
    let robot = match &caller.actor {
        Actor::Robot { id, name } => Some(Holder { id: *id, name: name.clone() }),
        Actor::User { .. } | Actor::Job { .. } => None,
    };
    Author { by: caller.by(), robot }
}

/// A line with all that is known of where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundRecord {
    pub job_id: JobId,
    /// 0: it belongs to no job.
    pub attempt: u32,
    pub seq: u64,
    pub line: NewLogLine,
    pub origin: Origin,
}

/// Where the lines of a log come from.
pub fn origin(reading: &dyn Reading, head: &LogHead) -> Result<Origin> {
    if let Some(author) = &head.author {
        return Ok(Origin { robot: author.robot.clone(), process: None, by: Some(author.by.clone()) });
    }
    let attempt: Option<Attempt> = table::find(reading, (head.job_id, head.attempt))?;
    let job: Option<Job> = table::find(reading, head.job_id)?;
    let process = job.map(|job| LogProcess {
        id: job.process_id,
        name: job.process_name,
        version_id: attempt.as_ref().map_or(job.process_version_id, |attempt| attempt.process_version_id),
    });
    Ok(Origin { robot: attempt.map(|attempt| attempt.robot), process, by: None })
}

/// The attempt has ended: its log can be sealed whole. A job that never had one may have the log of the first.
pub fn end(tx: &mut Tx, job: JobId, attempt: u32) -> Result<()> {
    let head = table::find::<LogHead>(tx, (job, attempt.max(1)))?;
    if let Some(mut head) = head.filter(|head| head.ended_at.is_none()) {
        head.ended_at = Some(tx.now());
        table::update(tx, &mut head)?;
    }
    tx.wake(Topic::JobLog(job));
    Ok(())
}

/// The job, if the caller may read its log.
pub fn readable(reading: &dyn Reading, caller: &Caller, id: JobId) -> Result<Job> {
    caller.require(Permission::LogRead)?;
    let job = job::get(reading, caller, id)?;
    reach::job(reading, caller, Permission::LogRead, &job)?;
    Ok(job)
}

/// How far the log of an attempt is. One without any line has ended with its attempt, or with a job that never had one.
pub fn head(reading: &dyn Reading, job: JobId, attempt: u32) -> Result<LogHead> {
    if let Some(head) = table::find(reading, (job, attempt))? {
        return Ok(head);
    }
    let ended_at = match table::find::<Attempt>(reading, (job, attempt))? {
        Some(attempt) => attempt.ended_at,
        None => table::find::<Job>(reading, job)?.and_then(|job| job.finished_at),
    };
    Ok(LogHead { ended_at, ..LogHead::new(job, attempt) })
}

/// Where a run of lines is found.
#[derive(Clone, Debug)]
pub enum Run {
    /// In the store, packed.
    Chunk { first_seq: u64, packed: Vec<u8> },
    /// In the object store.
    Block(Box<LogBlock>),
}

/// The run that holds line `seq`, or the next one after it; `None` if there is no such line.
pub fn run_at(reading: &dyn Reading, job: JobId, attempt: u32, seq: u64) -> Result<Option<Run>> {
    let blocks = Scan::of(reading, Kind::LogBlock, (job, attempt));
    let after = table::index_start(reading, Kind::LogBlock, (job, attempt, seq.saturating_add(1)));
    let before = blocks.clone().newest_first().below(after.clone()).records::<LogBlock>(reading, 1)?.pop();
    if let Some((_, block)) = before
        && block.last_seq >= seq
    {
        return Ok(Some(Run::Block(Box::new(block))));
    }
    if let Some((_, block)) = blocks.from(after).records::<LogBlock>(reading, 1)?.pop() {
        return Ok(Some(Run::Block(Box::new(block))));
    }
    let chunks = Scan::of(reading, Kind::LogChunk, (job, attempt));
    let after = table::index_start(reading, Kind::LogChunk, (job, attempt, seq.saturating_add(1)));
    let before = chunks.clone().newest_first().below(after.clone()).pairs(reading, 1)?.pop();
    for first in [before.map(|(key, _)| first_seq_of(&key)), next_chunk(reading, chunks, after)?] {
        let Some(first_seq) = first.transpose()? else { continue };
        let packed = chunk(reading, job, attempt, first_seq)?;
        if first_seq + lines::count(&packed)? > seq {
            return Ok(Some(Run::Chunk { first_seq, packed }));
        }
    }
    Ok(None)
}

fn next_chunk(reading: &dyn Reading, chunks: Scan, from: Vec<u8>) -> Result<Option<Result<u64>>> {
    Ok(chunks.from(from).pairs(reading, 1)?.pop().map(|(key, _)| first_seq_of(&key)))
}

/// A chunk's key ends with its first line (8 bytes) and the number of the piece (2 bytes).
pub fn first_seq_of(key: &[u8]) -> Result<u64> {
    let bytes = key.len().checked_sub(10).and_then(|start| key.get(start..start + 8));
    let bytes = bytes.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
    bytes.map(u64::from_be_bytes).ok_or_else(|| Error::Internal("the key of a log chunk is broken".to_owned()))
}

/// The packed lines of a chunk.
pub fn chunk(reading: &dyn Reading, job: JobId, attempt: u32, first_seq: u64) -> Result<Vec<u8>> {
    let pieces = Scan::of(reading, Kind::LogChunk, (job, attempt, first_seq)).pairs(reading, 1_000)?;
    Ok(pieces.into_iter().flat_map(|(_, piece)| piece).collect())
}

/// Gives lines their numbers.
pub fn numbered(attempt: u32, first_seq: u64, lines: Vec<NewLogLine>) -> Vec<LogLine> {
    lines.into_iter().zip(first_seq..).map(|(line, seq)| LogLine { seq, attempt, line }).collect()
}

/// Removes one page of all logs of a job; `true` when nothing is left.
pub fn remove_page(tx: &mut Tx, job: JobId, limit: usize) -> Result<bool> {
    seal_no_more(tx, job, limit)?;
    let chunks = Scan::of(tx, Kind::LogChunk, job).pairs(tx, limit)?;
    let mut ended = chunks.len() < limit;
    for (key, _) in chunks {
        tx.delete(key);
    }
    let blocks = Scan::of(tx, Kind::LogBlock, job).records::<LogBlock>(tx, limit)?;
    ended &= blocks.len() < limit;
    for (_, block) in blocks {
        log_sealing::remove_block(tx, &block)?;
    }
    if !ended {
        return Ok(false);
    }
    let heads = Scan::of(tx, Kind::LogHead, job).records::<LogHead>(tx, limit)?;
    let ended = heads.len() < limit;
    for (_, head) in heads {
        table::delete::<LogHead>(tx, (head.job_id, head.attempt))?;
    }
    Ok(ended)
}

/// What is being deleted is not sealed any more: its chunks go page by page, and the removal may be interrupted.
fn seal_no_more(tx: &mut Tx, job: JobId, limit: usize) -> Result<()> {
    let heads = Scan::of(tx, Kind::LogHead, job).records::<LogHead>(tx, limit)?;
    for (_, mut head) in heads.into_iter().filter(|(_, head)| head.unsealed_chunks > 0) {
        (head.unsealed_chunks, head.unsealed_bytes, head.unsealed) = (0, 0, None);
        table::update(tx, &mut head)?;
    }
    Ok(())
}
