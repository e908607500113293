//! Sealing of logs: lines go from the store into compressed blocks, too long logs lose their middle, old blocks go.

use drover_protocol::{JobId, LogBlockId, Timestamp, log::NewLogLine};

use super::{
    garbage,
    log::{self, chunk, first_seq_of, weight},
};
use crate::{
    domain::log::{BLOCK_BYTES, Gone, LogBlock, LogHead, Origin, SEAL_BYTES, times},
    error::{Error, Result},
    store::{Reading, Scan, Tx, blob::BlobName, engine::Pair, ids::first_id_of, key::Kind, lines, table},
};

/// Looks for blocks to leave out that one transaction makes in a log that is too long: many more than it has sealed blocks.
const MAX_LOOKS: usize = 64;
/// Blocks that are passed by in one look, because they are gone already.
const LOOK: usize = 15;
/// Chunks that are sealed together. A quiet job makes one of each line; they are read under one view and deleted in one
/// transaction.
const MAX_CHUNKS: u32 = 1_000;
/// Parts into which one transaction divides a block.
const MAX_PARTS: usize = 200;

/// A run of lines on its way into a block.
#[derive(Clone, Debug)]
pub struct Sealable {
    pub job_id: JobId,
    pub attempt: u32,
    pub first_seq: u64,
    pub lines: Vec<NewLogLine>,
    pub chunks: u32,
    pub bytes: u64,
}

/// Whether so much is to be sealed that no more is looked for.
fn is_full(runs: &[Sealable]) -> bool {
    let (bytes, chunks) = runs.iter().fold((0, 0), |(bytes, chunks), run| (bytes + run.bytes, chunks + run.chunks));
    bytes >= SEAL_BYTES || chunks >= MAX_CHUNKS
}

/// Logs that can be sealed, up to about `SEAL_BYTES` in all, longest waiting first. One that is broken holds up no other.
pub fn sealable(reading: &dyn Reading, limit: usize) -> Result<Vec<Sealable>> {
    let due = Timestamp::from_millis(reading.now().millis() + 1);
    let due = table::index_start(reading, Kind::LogHeadUnsealed, due);
    let heads = Scan::of(reading, Kind::LogHeadUnsealed, ()).below(due).indexed::<LogHead>(reading, limit)?;
    let mut runs = Vec::new();
    for (_, head) in heads {
        let of_head = match sealable_of(reading, &head) {
            Ok(of_head) => of_head,
            Err(error) => {
                tracing::error!(%error, job = %head.job_id, attempt = head.attempt, "a log cannot be sealed");
                continue;
            }
        };
        runs.extend(of_head);
        if is_full(&runs) {
            break;
        }
    }
    Ok(runs)
}

/// A page of runs, and where the next page begins.
#[derive(Debug, Default)]
pub struct Page {
    pub runs: Vec<Sealable>,
    pub next: Option<Vec<u8>>,
}

/// What lies in the store of the logs that have lines from before a time there, up to about `SEAL_BYTES` in all.
pub fn older(reading: &dyn Reading, before: Timestamp, from: Option<Vec<u8>>, limit: usize) -> Result<Page> {
    let scan = Scan::of(reading, Kind::LogActive, ()).from(from.unwrap_or_default());
    let heads = scan.indexed::<LogHead>(reading, limit)?;
    let is_last = heads.len() < limit;
    let mut page = Page::default();
    for (key, head) in heads {
        let mut is_whole = true;
        if head.unsealed.as_ref().is_some_and(|unsealed| unsealed.first_time < before) {
            match sealable_of(reading, &head) {
                Ok(runs) => {
                    is_whole = runs.last().is_none_or(|run| run.first_seq + run.lines.len() as u64 >= head.next_seq);
                    page.runs.extend(runs);
                }
                Err(error) => {
                    tracing::error!(%error, job = %head.job_id, attempt = head.attempt, "a log cannot be sealed");
                }
            }
        }
        page.next = Some(if is_whole { [key.as_slice(), &[0]].concat() } else { key });
        if !is_whole || is_full(&page.runs) {
            return Ok(page);
        }
    }
    page.next = page.next.filter(|_| !is_last);
    Ok(page)
}

/// The oldest chunks of one log, up to about `SEAL_BYTES`, in runs of about `BLOCK_BYTES` without a gap.
fn sealable_of(reading: &dyn Reading, head: &LogHead) -> Result<Vec<Sealable>> {
    let (job_id, attempt) = (head.job_id, head.attempt);
    let mut scan = Scan::of(reading, Kind::LogChunk, (job_id, attempt));
    let mut runs: Vec<Sealable> = Vec::new();
    while let Some((key, _)) = scan.pairs(reading, 1)?.pop() {
        let first_seq = first_seq_of(&key)?;
        let lines = lines::unpack(&chunk(reading, job_id, attempt, first_seq)?)?;
        let next = first_seq + lines.len() as u64;
        let goes_on = |run: &Sealable| run.bytes < BLOCK_BYTES && run.first_seq + run.lines.len() as u64 == first_seq;
        if !runs.last().is_some_and(goes_on) {
            runs.push(Sealable { job_id, attempt, first_seq, lines: Vec::new(), chunks: 0, bytes: 0 });
        }
        if let Some(run) = runs.last_mut() {
            run.chunks += 1;
            run.bytes += lines.iter().map(|line| weight(line) as u64).sum::<u64>();
            run.lines.extend(lines);
        }
        if is_full(&runs) {
            break;
        }
        scan = scan.from(table::index_start(reading, Kind::LogChunk, (job_id, attempt, next)));
    }
    match runs.is_empty() {
        true => Err(Error::Internal("a log counts chunks that are not there".to_owned())),
        false => Ok(runs),
    }
}

/// A sealed run: which bytes of the blob it takes.
#[derive(Clone, Debug)]
pub struct Sealed {
    pub run: Sealable,
    pub offset: u64,
    pub length: u64,
}

impl Sealed {
    fn block(&self, blob: LogBlockId, origin: &Origin, now: Timestamp) -> LogBlock {
        let run = &self.run;
        let (first_time, last_time, _) = times(&run.lines).unwrap_or((now, now, true));
        LogBlock {
            job_id: run.job_id,
            attempt: run.attempt,
            first_seq: run.first_seq,
            last_seq: run.first_seq + run.lines.len() as u64 - 1,
            first_time,
            last_time,
            worst: run.lines.iter().map(|line| line.level).max().unwrap_or_default(),
            blob,
            offset: self.offset,
            length: self.length,
            bytes: run.bytes,
            sealed_at: now,
            expired: false,
            origin: Some(origin.clone()),
            gone: None,
        }
    }
}

/// The parts of a block whose lines are all from before a time, or all from then on. Of very many the last one is the rest.
pub fn parts(block: &LogBlock, lines: Vec<NewLogLine>, before: Timestamp) -> Vec<Sealable> {
    let mut parts: Vec<Sealable> = Vec::new();
    let mut is_older = None;
    let (job_id, attempt) = (block.job_id, block.attempt);
    for (first_seq, line) in (block.first_seq..).zip(lines) {
        if parts.is_empty() || (is_older != Some(line.time < before) && parts.len() < MAX_PARTS) {
            parts.push(Sealable { job_id, attempt, first_seq, lines: Vec::new(), chunks: 0, bytes: 0 });
        }
        is_older = Some(line.time < before);
        if let Some(part) = parts.last_mut() {
            part.bytes += weight(&line) as u64;
            part.lines.push(line);
        }
    }
    parts
}

/// The block that ends with this line.
pub fn last_of(reading: &dyn Reading, job: JobId, attempt: u32, last_seq: u64) -> Result<Option<LogBlock>> {
    let below = table::index_start(reading, Kind::LogBlock, (job, attempt, last_seq + 1));
    let found = Scan::of(reading, Kind::LogBlock, (job, attempt)).newest_first().below(below);
    let block = found.records::<LogBlock>(reading, 1)?.pop().map(|(_, block)| block);
    Ok(block.filter(|block| block.last_seq == last_seq))
}

/// Puts the parts of a block in its place; nothing happens if it is not any more as it was.
pub fn divide(tx: &mut Tx, blob: LogBlockId, block: &LogBlock, parts: &[Sealed]) -> Result<()> {
    let kept = BlobName::log(blob).to_string();
    let now: Option<LogBlock> = table::find(tx, (block.job_id, block.attempt, block.first_seq))?;
    if now.as_ref() != Some(block) {
        return garbage::discard(tx, kept);
    }
    let origin = block.origin.clone().unwrap_or_default();
    remove_block(tx, block)?;
    for part in parts {
        table::insert(tx, &LogBlock { sealed_at: block.sealed_at, ..part.block(blob, &origin, tx.now()) })?;
    }
    garbage::keep(tx, &kept)
}

/// Puts blocks in the place of the chunks that a kept blob now holds. A job that was deleted meanwhile is passed over;
/// the blob is discarded if nothing of it is needed. The log of an attempt loses its middle if it has more than `cap_bytes`.
pub fn seal(tx: &mut Tx, blob: LogBlockId, sealed: &[Sealed], cap_bytes: u64) -> Result<()> {
    let mut used = false;
    for of_log in sealed.chunk_by(|a, b| (a.run.job_id, a.run.attempt) == (b.run.job_id, b.run.attempt)) {
        used |= seal_log(tx, blob, of_log, cap_bytes)?;
    }
    let blob = BlobName::log(blob).to_string();
    if used { garbage::keep(tx, &blob) } else { garbage::discard(tx, blob) }
}

/// Seals the runs of one log; `false` if none of them was needed any more.
fn seal_log(tx: &mut Tx, blob: LogBlockId, sealed: &[Sealed], cap_bytes: u64) -> Result<bool> {
    let Some(first) = sealed.first() else { return Ok(false) };
    let Some(mut head) = table::find::<LogHead>(tx, (first.run.job_id, first.run.attempt))? else { return Ok(false) };
    let origin = log::origin(tx, &head)?;
    let mut used = false;
    for sealed in sealed {
        if !delete_chunks(tx, &sealed.run)? {
            continue;
        }
        used = true;
        let block = sealed.block(blob, &origin, tx.now());
        table::insert(tx, &block)?;
        count_sealed(&mut head, &block, sealed.run.chunks, tx.now(), cap_bytes);
    }
    if used {
        // The lines that somebody writes without a job are one log that never ends, and are read line by line by nobody:
        // nothing would say that some were left out. They go when they are old.
        if head.attempt != 0 {
            leave_middle_out(tx, &mut head, cap_bytes)?;
        }
        table::update(tx, &mut head)?;
    }
    Ok(used)
}

fn count_sealed(head: &mut LogHead, block: &LogBlock, chunks: u32, now: Timestamp, cap_bytes: u64) {
    head.unsealed_chunks = head.unsealed_chunks.saturating_sub(chunks);
    head.unsealed_bytes = head.unsealed_bytes.saturating_sub(block.bytes);
    head.kept_bytes += block.bytes;
    if head.unsealed_chunks == 0 {
        head.unsealed = None;
    } else if let Some(unsealed) = &mut head.unsealed {
        (unsealed.first_seq, unsealed.since) = (block.last_seq + 1, now);
    }
    let beginning = &mut head.beginning;
    if !beginning.is_full && (beginning.bytes == 0 || beginning.bytes + block.bytes <= cap_bytes / 2) {
        beginning.bytes += block.bytes;
        beginning.last_seq = block.last_seq;
    } else {
        beginning.is_full = true;
    }
}

/// Deletes the oldest blocks after the beginning until what is left is within the cap. The newest one always stays. However
/// many blocks are gone in the middle, for whatever reasons, each is passed by once: the head keeps how far it has come.
fn leave_middle_out(tx: &mut Tx, head: &mut LogHead, cap_bytes: u64) -> Result<()> {
    if head.kept_bytes <= cap_bytes {
        return Ok(());
    }
    let of_log = (head.job_id, head.attempt);
    let newest = Scan::of(tx, Kind::LogBlock, of_log).newest_first().records::<LogBlock>(tx, 1)?.pop();
    let Some((_, newest)) = newest else { return Ok(()) };
    let below = table::index_start(tx, Kind::LogBlock, (head.job_id, head.attempt, newest.first_seq));
    for _ in 0..MAX_LOOKS {
        let gone_to = head.gone_to.max(head.beginning.last_seq);
        if head.kept_bytes <= cap_bytes || gone_to >= newest.first_seq {
            break;
        }
        let from = table::index_start(tx, Kind::LogBlock, (head.job_id, head.attempt, gone_to + 1));
        let blocks = Scan::of(tx, Kind::LogBlock, of_log).from(from).below(below.clone());
        let mut blocks = blocks.records::<LogBlock>(tx, LOOK)?.into_iter().map(|(_, block)| block);
        let mut passed = None;
        let oldest = blocks.by_ref().find(|block| {
            passed = Some(block.last_seq);
            !block.expired
        });
        let Some(last_seq) = passed else { break };
        head.gone_to = last_seq;
        if let Some(oldest) = oldest {
            head.kept_bytes = head.kept_bytes.saturating_sub(oldest.bytes);
            empty(tx, oldest, Gone::Cap)?;
        }
    }
    Ok(())
}

/// Deletes the chunks of a run; `false` if they are not there any more. Logs are sealed from their beginning, so that all are
/// there if the first one is.
fn delete_chunks(tx: &mut Tx, run: &Sealable) -> Result<bool> {
    let bound = |seq: u64| table::index_start(tx, Kind::LogChunk, (run.job_id, run.attempt, seq));
    let (from, below) = (bound(run.first_seq), bound(run.first_seq + run.lines.len() as u64));
    let scan = Scan::of(tx, Kind::LogChunk, (run.job_id, run.attempt)).from(from).below(below);
    // Few: a run has no more than `MAX_CHUNKS`, and only a large one has several pieces.
    let pieces = scan.pairs(tx, usize::MAX)?;
    let Some((first, _)) = pieces.first() else { return Ok(false) };
    if first_seq_of(first)? != run.first_seq {
        return Ok(false);
    }
    for (key, _) in pieces {
        tx.delete(key);
    }
    Ok(true)
}

/// What a page of deletion has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Blocks that were due; a full page means that there may be more.
    pub entries: usize,
    pub lines: u64,
    pub bytes: u64,
}

/// Deletes the content of blocks that were sealed before a time, a page at a time; how many there were.
///
/// Blobs are ordered by the coordinator's own clock. Lines have the time of their robot, whose clock may be wrong by years:
/// by it, what a host says that begins in 1970 would be too old as soon as it is sealed.
pub fn expire_page(tx: &mut Tx, before: Timestamp, limit: usize) -> Result<usize> {
    let end = table::index_start(tx, Kind::LogBlockByBlob, first_id_of(before));
    let due = Scan::of(tx, Kind::LogBlockByBlob, ()).below(end).pairs(tx, limit)?;
    Ok(empty_all(tx, due, &Gone::Retention)?.entries)
}

/// Deletes the content of blocks whose newest line is older than `before`, a page at a time.
pub fn delete_page(tx: &mut Tx, before: Timestamp, by: String, limit: usize) -> Result<Taken> {
    let end = table::index_start(tx, Kind::LogBlockByTime, before);
    let due = Scan::of(tx, Kind::LogBlockByTime, ()).below(end).pairs(tx, limit)?;
    empty_all(tx, due, &Gone::Deleted(by))
}

/// Deletes the content of the blocks that these entries of an index name.
fn empty_all(tx: &mut Tx, due: Vec<Pair>, why: &Gone) -> Result<Taken> {
    let mut taken = Taken { entries: due.len(), ..Taken::default() };
    for (_, id) in due {
        let Some((_, block)) = Scan::of(tx, Kind::LogBlock, Raw(&id)).records::<LogBlock>(tx, 1)?.pop() else {
            continue;
        };
        taken.lines += block.last_seq - block.first_seq + 1;
        taken.bytes += block.bytes;
        if let Some(mut head) = table::find::<LogHead>(tx, (block.job_id, block.attempt))? {
            head.kept_bytes = head.kept_bytes.saturating_sub(block.bytes);
            table::update(tx, &mut head)?;
        }
        match block.attempt {
            0 => remove_jobless(tx, &block)?,
            _ => empty(tx, block, why.clone())?,
        }
    }
    Ok(taken)
}

/// The bytes of an id that an index names.
struct Raw<'a>(&'a [u8]);

impl crate::store::key::KeyPart for Raw<'_> {
    fn append(&self, key: &mut Vec<u8>) {
        key.extend_from_slice(self.0);
    }
}

/// Removes a block, and its content unless another block lies there too.
pub fn remove_block(tx: &mut Tx, block: &LogBlock) -> Result<()> {
    table::delete::<LogBlock>(tx, (block.job_id, block.attempt, block.first_seq))?;
    discard_blob_if_unused(tx, block.blob)
}

/// Lines that belong to no job are read by nobody line by line: nothing needs to say that they are gone.
fn remove_jobless(tx: &mut Tx, block: &LogBlock) -> Result<()> {
    remove_block(tx, block)?;
    let is_last = Scan::of(tx, Kind::LogBlock, (block.job_id, 0u32)).pairs(tx, 1)?.is_empty();
    if is_last && table::find::<LogHead>(tx, (block.job_id, 0))?.is_some_and(|head| head.unsealed_chunks == 0) {
        table::delete::<LogHead>(tx, (block.job_id, 0))?;
    }
    Ok(())
}

/// Deletes the content of a block. What is gone for the same reason side by side becomes one block, so that it is told
/// in one line.
fn empty(tx: &mut Tx, mut block: LogBlock, why: Gone) -> Result<()> {
    let blob = block.blob;
    let own = table::index_start(tx, Kind::LogBlock, (block.job_id, block.attempt, block.first_seq));
    let next = table::index_start(tx, Kind::LogBlock, (block.job_id, block.attempt, block.last_seq + 1));
    let of_log = Scan::of(tx, Kind::LogBlock, (block.job_id, block.attempt));
    let before = of_log.clone().newest_first().below(own).records::<LogBlock>(tx, 1)?.pop();
    let after = of_log.from(next).records::<LogBlock>(tx, 1)?.pop();
    let is_like = |other: &LogBlock| other.expired && other.reason() == why;
    block.expired = true;
    block.gone = Some(why.clone());
    if let Some((_, after)) = after.filter(|(_, after)| is_like(after) && after.first_seq == block.last_seq + 1) {
        table::delete::<LogBlock>(tx, (after.job_id, after.attempt, after.first_seq))?;
        block.take_in(&after);
    }
    match before.filter(|(_, before)| is_like(before) && before.last_seq + 1 == block.first_seq) {
        Some((_, mut before)) => {
            table::delete::<LogBlock>(tx, (block.job_id, block.attempt, block.first_seq))?;
            before.take_in(&block);
            table::update(tx, &mut before)?;
        }
        None => table::update(tx, &mut block)?,
    }
    discard_blob_if_unused(tx, blob)
}

/// Notes that nobody needs a blob any more, unless some block still lies in it.
pub fn discard_blob_if_unused(tx: &mut Tx, blob: LogBlockId) -> Result<()> {
    if Scan::of(tx, Kind::LogBlockByBlob, blob).pairs(tx, 1)?.is_empty() {
        garbage::discard(tx, BlobName::log(blob).to_string())?;
    }
    Ok(())
}
