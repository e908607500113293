//! Logs of jobs: lines arrive in numbered chunks, each accepted once, and are sealed later into compressed blocks.

use drover_protocol::{
    JobId, LogBlockId,
    agent::LogChunk,
    log::{Level, LogLine, MAX_CHUNK_LINES, MAX_FIELDS_BYTES, MAX_MESSAGE_BYTES, NewLogLine},
};

use super::{Caller, garbage};
use crate::{
    domain::{
        attempt::Attempt,
        job::Job,
        log::{LogBlock, LogHead, SEAL_BYTES},
        name::Faults,
    },
    error::{Error, Result},
    store::{
        Reading, Scan, Topic, Tx,
        blob::BlobName,
        key::{Key, Kind},
        table,
    },
};

/// Lines are stored together up to so many bytes, then cut into pieces that fit a value.
const GROUP_BYTES: usize = 256 * 1024;
const PIECE_BYTES: usize = 60 * 1024;
/// Fast, and half of what a better level would save.
const CHUNK_COMPRESSION: i32 = 1;
/// What a line weighs besides its texts.
const LINE_OVERHEAD_BYTES: usize = 32;

/// Some lines, packed as they are stored.
#[derive(Clone, Debug)]
struct Group {
    first_seq: u64,
    packed: Vec<u8>,
    bytes: u64,
}

/// A chunk that was checked and packed before the transaction, which has to be short.
#[derive(Clone, Debug)]
pub struct PackedChunk {
    attempt: u32,
    first_seq: u64,
    lines: Vec<NewLogLine>,
    groups: Vec<Group>,
}

/// Checks the limits of a chunk and packs it.
pub fn pack(chunk: LogChunk) -> Result<PackedChunk> {
    let mut faults = Faults::default();
    faults.range("/first_seq", chunk.first_seq, 1, u64::MAX / 2);
    if chunk.lines.len() > MAX_CHUNK_LINES {
        faults.add("/lines", format!("more than {MAX_CHUNK_LINES} lines; send several chunks"));
    }
    for (number, line) in chunk.lines.iter().enumerate().take(MAX_CHUNK_LINES) {
        if line.message.len() > MAX_MESSAGE_BYTES {
            faults.add(format!("/lines/{number}/message"), format!("over {MAX_MESSAGE_BYTES} bytes; split the line"));
        }
        let fields = serde_json::to_vec(&line.fields).map_or(0, |json| json.len());
        if fields > MAX_FIELDS_BYTES {
            faults.add(format!("/lines/{number}/fields"), format!("over {MAX_FIELDS_BYTES} bytes of JSON"));
        }
    }
    faults.check()?;
    let groups = group(chunk.first_seq, &chunk.lines)?;
    Ok(PackedChunk { attempt: chunk.attempt, first_seq: chunk.first_seq, lines: chunk.lines, groups })
}

fn weight(line: &NewLogLine) -> usize {
    let fields = if line.fields.is_empty() { 0 } else { serde_json::to_vec(&line.fields).map_or(0, |json| json.len()) };
    line.message.len() + fields + LINE_OVERHEAD_BYTES
}

fn group(first_seq: u64, lines: &[NewLogLine]) -> Result<Vec<Group>> {
    let mut groups = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (number, line) in lines.iter().enumerate() {
        bytes += weight(line);
        if bytes >= GROUP_BYTES || number + 1 == lines.len() {
            let packed = pack_lines(&lines[start..=number], CHUNK_COMPRESSION)?;
            groups.push(Group { first_seq: first_seq + start as u64, packed, bytes: bytes as u64 });
            (start, bytes) = (number + 1, 0);
        }
    }
    Ok(groups)
}

/// Lines as MessagePack, compressed.
pub fn pack_lines(lines: &[NewLogLine], level: i32) -> Result<Vec<u8>> {
    let broken = |error: String| Error::Internal(format!("log lines cannot be packed: {error}"));
    let plain = rmp_serde::to_vec_named(lines).map_err(|error| broken(error.to_string()))?;
    zstd::bulk::compress(&plain, level).map_err(|error| broken(error.to_string()))
}

/// The lines of a packed run.
pub fn unpack_lines(packed: &[u8]) -> Result<Vec<NewLogLine>> {
    let broken = |error: String| Error::Internal(format!("packed log lines cannot be read: {error}"));
    let plain = zstd::stream::decode_all(packed).map_err(|error| broken(error.to_string()))?;
    rmp_serde::from_slice(&plain).map_err(|error| broken(error.to_string()))
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
    if chunk.first_seq > head.next_seq {
        return Err(Error::LogGap { next_seq: head.next_seq });
    }
    let end = chunk.first_seq + chunk.lines.len() as u64;
    if end <= head.next_seq {
        return Ok(head.next_seq);
    }
    if chunk.first_seq == head.next_seq {
        put_groups(tx, &mut head, &chunk.groups)?;
    } else {
        let seen = usize::try_from(head.next_seq - chunk.first_seq).unwrap_or(usize::MAX);
        let groups = group(head.next_seq, &chunk.lines[seen..])?;
        put_groups(tx, &mut head, &groups)?;
    }
    head.next_seq = end;
    head.ended_at = attempt.ended_at;
    if is_new {
        table::insert(tx, &head)?
    } else {
        table::update(tx, &mut head)?
    }
    tx.wake(Topic::JobLog(job_id));
    if head.is_long() {
        tx.wake(Topic::Sealing);
    }
    Ok(end)
}

fn put_groups(tx: &mut Tx, head: &mut LogHead, groups: &[Group]) -> Result<()> {
    for group in groups {
        for (number, piece) in group.packed.chunks(PIECE_BYTES).enumerate() {
            let number = u16::try_from(number).map_err(|_| Error::Internal("a log chunk is too large".to_owned()))?;
            let key =
                Key::new(Kind::LogChunk, tx.account()).with((head.job_id, head.attempt, group.first_seq)).with(number);
            tx.put(key.into_bytes(), piece.to_vec())?;
        }
        head.unsealed_chunks += 1;
        head.unsealed_bytes += group.bytes;
        head.bytes += group.bytes;
    }
    Ok(())
}

/// The attempt has ended: its log can be sealed whole.
pub fn end(tx: &mut Tx, job: JobId, attempt: u32) -> Result<()> {
    if let Some(mut head) = table::find::<LogHead>(tx, (job, attempt))? {
        head.ended_at = Some(tx.now());
        table::update(tx, &mut head)?;
    }
    tx.wake(Topic::JobLog(job));
    Ok(())
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
    /// In the store, unpacked already.
    Lines(Vec<LogLine>),
    /// In the object store.
    Block(LogBlock),
}

/// The run that holds line `seq`, or the next one after it; `None` if there is no such line.
pub fn run_at(reading: &dyn Reading, job: JobId, attempt: u32, seq: u64) -> Result<Option<Run>> {
    let blocks = Scan::of(reading, Kind::LogBlock, (job, attempt));
    let after = table::index_start(reading, Kind::LogBlock, (job, attempt, seq.saturating_add(1)));
    let before = blocks.clone().newest_first().below(after.clone()).records::<LogBlock>(reading, 1)?.pop();
    if let Some((_, block)) = before
        && block.last_seq >= seq
    {
        return Ok(Some(Run::Block(block)));
    }
    if let Some((_, block)) = blocks.from(after).records::<LogBlock>(reading, 1)?.pop() {
        return Ok(Some(Run::Block(block)));
    }
    let chunks = Scan::of(reading, Kind::LogChunk, (job, attempt));
    let after = table::index_start(reading, Kind::LogChunk, (job, attempt, seq.saturating_add(1)));
    let before = chunks.clone().newest_first().below(after.clone()).pairs(reading, 1)?.pop();
    for first in [before.map(|(key, _)| first_seq_of(&key)), next_chunk(reading, chunks, after)?] {
        let Some(first) = first.transpose()? else { continue };
        let lines = chunk_lines(reading, job, attempt, first)?;
        if lines.last().is_some_and(|line| line.seq >= seq) {
            return Ok(Some(Run::Lines(lines)));
        }
    }
    Ok(None)
}

fn next_chunk(reading: &dyn Reading, chunks: Scan, from: Vec<u8>) -> Result<Option<Result<u64>>> {
    Ok(chunks.from(from).pairs(reading, 1)?.pop().map(|(key, _)| first_seq_of(&key)))
}

/// A chunk's key ends with its first line (8 bytes) and the number of the piece (2 bytes).
fn first_seq_of(key: &[u8]) -> Result<u64> {
    let bytes = key.len().checked_sub(10).and_then(|start| key.get(start..start + 8));
    let bytes = bytes.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
    bytes.map(u64::from_be_bytes).ok_or_else(|| Error::Internal("the key of a log chunk is broken".to_owned()))
}

fn chunk_lines(reading: &dyn Reading, job: JobId, attempt: u32, first_seq: u64) -> Result<Vec<LogLine>> {
    let pieces = Scan::of(reading, Kind::LogChunk, (job, attempt, first_seq)).pairs(reading, 1_000)?;
    let packed: Vec<u8> = pieces.into_iter().flat_map(|(_, piece)| piece).collect();
    Ok(numbered(attempt, first_seq, unpack_lines(&packed)?))
}

/// Gives lines their numbers.
pub fn numbered(attempt: u32, first_seq: u64, lines: Vec<NewLogLine>) -> Vec<LogLine> {
    lines.into_iter().zip(first_seq..).map(|(line, seq)| LogLine { seq, attempt, line }).collect()
}

/// A run of lines on its way into a blob.
#[derive(Clone, Debug)]
pub struct Sealable {
    pub job_id: JobId,
    pub attempt: u32,
    pub first_seq: u64,
    pub lines: Vec<NewLogLine>,
    pub chunks: u32,
    pub bytes: u64,
}

/// Logs that can be sealed, up to about `SEAL_BYTES` in all, longest waiting first. One that is broken holds up no other.
pub fn sealable(reading: &dyn Reading, limit: usize) -> Result<Vec<Sealable>> {
    let heads = Scan::of(reading, Kind::LogHeadUnsealed, ()).indexed::<LogHead>(reading, limit)?;
    let mut runs = Vec::new();
    let mut bytes = 0;
    for (_, head) in heads {
        let run = match sealable_of(reading, &head) {
            Ok(run) => run,
            Err(error) => {
                tracing::error!(%error, job = %head.job_id, attempt = head.attempt, "a log cannot be sealed");
                continue;
            }
        };
        bytes += run.bytes;
        runs.push(run);
        if bytes >= SEAL_BYTES {
            break;
        }
    }
    Ok(runs)
}

/// The oldest chunks of one log, up to about `SEAL_BYTES`.
fn sealable_of(reading: &dyn Reading, head: &LogHead) -> Result<Sealable> {
    let mut scan = Scan::of(reading, Kind::LogChunk, (head.job_id, head.attempt));
    let mut run: Option<Sealable> = None;
    while let Some((key, _)) = scan.pairs(reading, 1)?.pop() {
        let first_seq = first_seq_of(&key)?;
        let lines = chunk_lines(reading, head.job_id, head.attempt, first_seq)?;
        let next = first_seq + lines.len() as u64;
        let (job_id, attempt) = (head.job_id, head.attempt);
        let run = run.get_or_insert(Sealable { job_id, attempt, first_seq, lines: Vec::new(), chunks: 0, bytes: 0 });
        run.chunks += 1;
        run.bytes += lines.iter().map(|line| weight(&line.line) as u64).sum::<u64>();
        run.lines.extend(lines.into_iter().map(|line| line.line));
        if run.bytes >= SEAL_BYTES {
            break;
        }
        scan = scan.from(table::index_start(reading, Kind::LogChunk, (head.job_id, head.attempt, next)));
    }
    run.ok_or_else(|| Error::Internal("a log counts chunks that are not there".to_owned()))
}

/// A sealed run: which bytes of the blob it takes.
#[derive(Clone, Debug)]
pub struct Sealed {
    pub run: Sealable,
    pub offset: u64,
    pub length: u64,
}

/// Puts blocks in the place of the chunks that a kept blob now holds. A job that was deleted meanwhile is passed over;
/// the blob is discarded if nothing of it is needed.
pub fn seal(tx: &mut Tx, blob: LogBlockId, sealed: &[Sealed]) -> Result<()> {
    let mut used = false;
    for Sealed { run, offset, length } in sealed {
        let Some(mut head) = table::find::<LogHead>(tx, (run.job_id, run.attempt))? else { continue };
        if !delete_chunks(tx, run)? {
            continue;
        }
        used = true;
        head.unsealed_chunks = head.unsealed_chunks.saturating_sub(run.chunks);
        head.unsealed_bytes = head.unsealed_bytes.saturating_sub(run.bytes);
        table::update(tx, &mut head)?;
        let times = || run.lines.iter().map(|line| line.time);
        table::insert(
            tx,
            &LogBlock {
                job_id: run.job_id,
                attempt: run.attempt,
                first_seq: run.first_seq,
                last_seq: run.first_seq + run.lines.len() as u64 - 1,
                first_time: times().min().unwrap_or(tx.now()),
                last_time: times().max().unwrap_or(tx.now()),
                worst: run.lines.iter().map(|line| line.level).max().unwrap_or(Level::Trace),
                blob,
                offset: *offset,
                length: *length,
                bytes: run.bytes,
                sealed_at: tx.now(),
                expired: false,
            },
        )?;
    }
    let blob = BlobName::log(blob).to_string();
    if used { garbage::keep(tx, &blob) } else { garbage::discard(tx, blob) }
}

/// Deletes the chunks of a run; `false` if they are not there any more.
fn delete_chunks(tx: &mut Tx, run: &Sealable) -> Result<bool> {
    let bound = |seq: u64| table::index_start(tx, Kind::LogChunk, (run.job_id, run.attempt, seq));
    let (from, below) = (bound(run.first_seq), bound(run.first_seq + run.lines.len() as u64));
    let scan = Scan::of(tx, Kind::LogChunk, (run.job_id, run.attempt)).from(from).below(below);
    let pieces = scan.pairs(tx, 10_000)?;
    let found = !pieces.is_empty();
    for (key, _) in pieces {
        tx.delete(key);
    }
    Ok(found)
}

/// Deletes the content of blocks whose newest line is older than `before`, a page at a time; how many there were.
pub fn expire_page(tx: &mut Tx, before: drover_protocol::Timestamp, limit: usize) -> Result<usize> {
    let end = table::index_start(tx, Kind::LogBlockByTime, before);
    let due = Scan::of(tx, Kind::LogBlockByTime, ()).below(end).indexed::<LogBlock>(tx, limit)?;
    let count = due.len();
    for (_, mut block) in due {
        block.expired = true;
        table::update(tx, &mut block)?;
        discard_blob_if_unused(tx, block.blob)?;
    }
    Ok(count)
}

fn discard_blob_if_unused(tx: &mut Tx, blob: LogBlockId) -> Result<()> {
    if Scan::of(tx, Kind::LogBlockByBlob, blob).pairs(tx, 1)?.is_empty() {
        garbage::discard(tx, BlobName::log(blob).to_string())?;
    }
    Ok(())
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
        table::delete::<LogBlock>(tx, (block.job_id, block.attempt, block.first_seq))?;
        discard_blob_if_unused(tx, block.blob)?;
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
        (head.unsealed_chunks, head.unsealed_bytes) = (0, 0);
        table::update(tx, &mut head)?;
    }
    Ok(())
}
