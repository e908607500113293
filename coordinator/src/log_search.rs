//! Searching all logs of an account, in the order of time, whether lines are sealed or not.
//!
//! A line's place in that order never changes: its time, its log, its number. A page is what comes next after a place, so
//! that no line is met twice and none is missed, whatever arrives, is sealed or deleted between two pages.
//!
//! A page looks at a bounded number of lines, on threads of its own; it holds compressed blocks of a few megabytes and the
//! lines that it has found. When nobody waits for it any more it ends by itself.

mod filter;
mod sources;
mod tail;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use drover_protocol::{AccountId, JobId, Timestamp, log::FoundLine};
use futures::TryStreamExt;
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::Semaphore, time::Instant};
use uuid::Uuid;

pub use self::{
    filter::Filter,
    tail::{Tail, TailEvent},
};
use self::{
    filter::{Place, bytes_of},
    sources::{Piece, Sources},
};
use crate::{
    app::App,
    domain::log::{LogBlock, Origin},
    error::{Error, Result},
    operations::{
        list,
        log::{self, FoundRecord, Run},
        log_search::Active,
    },
    store::{
        Db,
        blob::{BlobName, Blobs},
        lines::Columns,
    },
};

/// Searches that run at once; further ones wait for a moment and are refused then.
pub const MAX_SEARCHES: usize = 4;
const PATIENCE: Duration = Duration::from_secs(3);
/// A page ends after so much time, or so many blocks: whoever waits sees within a second how far it got.
const MAX_TIME: Duration = Duration::from_millis(800);
const MAX_PIECES: usize = 4_000;
/// Blocks that are searched together: few at first, for those who wait for the first lines.
const FIRST_PIECES: usize = 8;
const MOST_PIECES: usize = 64;
const MAX_WORKERS: usize = 4;

/// The place of a line in the order of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub time: Timestamp,
    pub log: (JobId, u32),
    pub seq: u64,
}

impl Position {
    pub const MIN: Self = Self::at(Timestamp::EPOCH);
    pub const MAX: Self = Self { time: Timestamp::MAX, log: (JobId::from_uuid(Uuid::max()), u32::MAX), seq: u64::MAX };

    /// Before every line of this time.
    pub const fn at(time: Timestamp) -> Self {
        Self { time, log: (JobId::from_uuid(Uuid::nil()), 0), seq: 0 }
    }

    /// As a cursor says it.
    pub fn cursor(&self) -> String {
        let mut bytes = Vec::with_capacity(36);
        bytes.extend_from_slice(&self.time.millis().to_be_bytes());
        bytes.extend_from_slice(self.log.0.uuid().as_bytes());
        bytes.extend_from_slice(&self.log.1.to_be_bytes());
        bytes.extend_from_slice(&self.seq.to_be_bytes());
        list::cursor_at(&bytes, NOUN)
    }

    pub fn of_cursor(cursor: &str) -> Result<Self> {
        let bytes = list::position_of(cursor, NOUN)?;
        let parse = || {
            let (time, rest) = bytes.split_first_chunk()?;
            let (job, rest) = rest.split_first_chunk()?;
            let (attempt, rest) = rest.split_first_chunk()?;
            let time = Timestamp::from_millis(i64::from_be_bytes(*time));
            let log = (JobId::from_uuid(Uuid::from_bytes(*job)), u32::from_be_bytes(*attempt));
            Some(Self { time, log, seq: u64::from_be_bytes(*rest.first_chunk()?) })
        };
        parse().ok_or_else(|| Error::BadRequest("the cursor is not one that this list has given".to_owned()))
    }
}

/// What the cursors of a search are told from others by.
const NOUN: &str = "log line";

/// The part of the order that is still to be searched.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub from: Position,
    /// The first place that does not belong to it any more.
    pub below: Position,
    pub newest_first: bool,
}

impl Window {
    fn contains(&self, position: &Position) -> bool {
        (self.from..self.below).contains(position)
    }

    /// Whether lines of these times may lie in it.
    fn meets(&self, first: Timestamp, last: Timestamp) -> bool {
        last >= self.from.time && first <= self.below.time
    }

    /// What is left of it after this place.
    fn after(mut self, position: Position) -> Self {
        match self.newest_first {
            true => self.below = self.below.min(position),
            false => self.from = self.from.max(Position { seq: position.seq.saturating_add(1), ..position }),
        }
        self
    }

    /// What is left of it when everything better than this time has been searched.
    fn rest(mut self, best: Timestamp) -> Self {
        match self.newest_first {
            true if best == Timestamp::MAX => {}
            true => self.below = self.below.min(Position::at(Timestamp::from_millis(best.millis() + 1))),
            false => self.from = self.from.max(Position::at(best)),
        }
        self
    }

    /// Where it begins, in the direction of the search.
    pub fn start(&self) -> Position {
        if self.newest_first { self.below } else { self.from }
    }

    /// The same window from a cursor on.
    pub fn resume(mut self, start: Position) -> Self {
        match self.newest_first {
            true => self.below = self.below.min(start),
            false => self.from = self.from.max(start),
        }
        self
    }

    fn is_empty(&self) -> bool {
        self.from >= self.below
    }
}

/// How much a page may hold.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub lines: usize,
    pub bytes: usize,
}

/// A page of a search.
#[derive(Debug)]
pub struct Found {
    pub items: Vec<FoundLine>,
    /// What is still to be searched; `None` at the end.
    pub rest: Option<Window>,
    pub searched_lines: u64,
}

/// A line as those see it who search.
pub fn view(found: FoundRecord) -> FoundLine {
    let of_job = found.attempt > 0;
    let (robot_id, robot_name) = found.origin.robot.map(|robot| (robot.id, robot.name)).unzip();
    let process = found.origin.process;
    FoundLine {
        time: found.line.time,
        level: found.line.level,
        message: found.line.message,
        fields: found.line.fields,
        robot_id,
        robot_name,
        process_id: process.as_ref().map(|process| process.id),
        process_version_id: process.as_ref().map(|process| process.version_id),
        process_name: process.map(|process| process.name),
        job_id: of_job.then_some(found.job_id),
        attempt: of_job.then_some(found.attempt),
        seq: of_job.then_some(found.seq),
        by: found.origin.by,
    }
}

/// Searches on until the room is full, the window is searched, or enough was done for one call.
pub async fn page(app: &App, account: AccountId, filter: Arc<Filter>, window: Window, room: Room) -> Result<Found> {
    let permit = tokio::time::timeout(PATIENCE, Arc::clone(&app.searches).acquire_owned());
    let Ok(Ok(permit)) = permit.await else { return Err(Error::TooMany { retry_after_seconds: 2 }) };
    let is_over = Arc::new(AtomicBool::new(false));
    let _guard = Abandon(Arc::clone(&is_over));
    let lines = Lines { db: Arc::clone(&app.db), blobs: Arc::clone(&app.blobs), account };
    let search = Search { lines, handle: Handle::current(), filter, is_over };
    let page = tokio::task::spawn_blocking(move || {
        // Given back when the work has ended, not when the caller has gone.
        let _permit = permit;
        search.page(window, room)
    });
    page.await.unwrap_or_else(|error| Err(Error::Internal(format!("a search ended badly: {error}"))))
}

/// How many searches may run at once.
pub fn permits() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(MAX_SEARCHES))
}

/// Ends a search when its caller goes away.
struct Abandon(Arc<AtomicBool>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Packed lines, wherever they lie.
#[derive(Clone)]
pub struct Lines {
    pub db: Arc<Db>,
    pub blobs: Arc<Blobs>,
    pub account: AccountId,
}

/// Packed lines of one log.
pub enum Packed {
    Lines {
        first_seq: u64,
        packed: Bytes,
    },
    /// Their content has been deleted.
    Gone(Box<LogBlock>),
}

impl Lines {
    /// The run that holds line `seq`, or the next one.
    pub async fn at(&self, job: JobId, attempt: u32, seq: u64) -> Result<Option<Packed>> {
        match self.db.read(self.account, |reading| log::run_at(reading, job, attempt, seq))? {
            None => Ok(None),
            Some(Run::Chunk { first_seq, packed }) => Ok(Some(Packed::Lines { first_seq, packed: packed.into() })),
            Some(Run::Block(block)) => self.block(*block).await.map(Some),
        }
    }

    /// The lines of a block.
    pub async fn block(&self, block: LogBlock) -> Result<Packed> {
        let range = block.offset..block.offset + block.length;
        match self.blob(&block, range).await? {
            Some(packed) => Ok(Packed::Lines { first_seq: block.first_seq, packed }),
            None => Ok(Packed::Gone(Box::new(block))),
        }
    }

    /// Bytes of the blob in which a block lies; `None` if they are not there any more.
    async fn blob(&self, block: &LogBlock, range: std::ops::Range<u64>) -> Result<Option<Bytes>> {
        if block.expired {
            return Ok(None);
        }
        let mut content = match self.blobs.read(&BlobName::log(block.blob), Some(range)).await {
            // Deletion came between the look at the record and the look at the blob.
            Err(Error::NotFound(_)) => return Ok(None),
            other => other?.1,
        };
        let mut whole = Vec::new();
        while let Some(piece) = content.try_next().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(Some(whole.into()))
    }
}

/// The best lines so far.
struct Best {
    room: Room,
    newest_first: bool,
    lines: BTreeMap<Position, FoundLine>,
    bytes: usize,
    /// Something was found for which there is no room.
    is_over_full: bool,
}

impl Best {
    fn add(&mut self, position: Position, line: FoundLine) {
        self.bytes += bytes_of(&line);
        self.lines.insert(position, line);
        while self.lines.len() > self.room.lines || (self.bytes > self.room.bytes && self.lines.len() > 1) {
            let worst = if self.newest_first { self.lines.pop_first() } else { self.lines.pop_last() };
            self.bytes -= worst.map_or(0, |(_, line)| bytes_of(&line));
            self.is_over_full = true;
            self.room.lines = self.room.lines.min(self.lines.len());
        }
    }

    fn worst(&self) -> Option<Position> {
        let worst = if self.newest_first { self.lines.first_key_value() } else { self.lines.last_key_value() };
        worst.map(|(position, _)| *position)
    }

    fn is_full(&self) -> bool {
        self.lines.len() >= self.room.lines
    }

    /// Drops what may be preceded by lines that were not searched yet.
    fn keep_outside_of(&mut self, rest: &Window) {
        self.lines.retain(|position, _| !rest.contains(position));
    }

    fn into_items(self) -> Vec<FoundLine> {
        match self.newest_first {
            true => self.lines.into_values().rev().collect(),
            false => self.lines.into_values().collect(),
        }
    }
}

struct Search {
    lines: Lines,
    handle: Handle,
    filter: Arc<Filter>,
    is_over: Arc<AtomicBool>,
}

/// What is searched by one worker at once: blocks that lie in one blob are read together.
enum Work {
    Blob(Vec<LogBlock>),
    Active(Active),
}

#[derive(Default)]
struct Results {
    found: Vec<(Position, FoundLine)>,
    /// Unsealed lines that are still to be searched.
    rest: Vec<Active>,
    lines: u64,
}

/// What one thread looks for.
struct Look<'a> {
    filter: Filter,
    window: &'a Window,
    limit: usize,
}

/// Some lines of one log, as they lie packed.
struct PackedLines<'a> {
    packed: &'a [u8],
    place: Place,
    origin: &'a Origin,
}

impl Search {
    fn page(&self, window: Window, room: Room) -> Result<Found> {
        let (begun, newest_first) = (Instant::now(), window.newest_first);
        let mut best = Best { room, newest_first, lines: BTreeMap::new(), bytes: 0, is_over_full: false };
        let (mut searched_lines, mut pieces, mut at_once) = (0, 0, FIRST_PIECES);
        if window.is_empty() {
            return Ok(Found { items: Vec::new(), rest: None, searched_lines });
        }
        let (db, filter) = (Arc::clone(&self.lines.db), Arc::clone(&self.filter));
        let mut sources = Sources::open(db, self.lines.account, filter, window)?;
        loop {
            let mut batch = Vec::new();
            while batch.len() < at_once
                && let Some(piece) = sources.next()?
            {
                batch.push(piece);
            }
            pieces += batch.len();
            at_once = (at_once * 2).min(MOST_PIECES);
            // Nothing that is worse than the worst of a full page is of interest.
            let wanted = match best.worst().filter(|_| best.is_full()) {
                Some(worst) if newest_first => Window { from: window.from.max(worst), ..window },
                Some(worst) => Window { below: window.below.min(worst), ..window },
                None => window,
            };
            let results = self.search_together(works(batch), wanted, best.room.lines)?;
            searched_lines += results.lines;
            results.found.into_iter().for_each(|(position, line)| best.add(position, line));
            results.rest.into_iter().for_each(|active| sources.put_back(active));
            if self.is_over.load(Ordering::Relaxed) {
                return Err(Error::Unavailable("the search was abandoned".to_owned()));
            }
            let Some(time) = sources.rest() else {
                // Everything was searched. What there was no room for comes next.
                let over_full = best.is_over_full || best.is_full();
                let rest = best.worst().filter(|_| over_full).map(|worst| window.after(worst));
                return Ok(Found { items: best.into_items(), rest, searched_lines });
            };
            let rest = window.rest(time);
            if best.is_full()
                && let Some(worst) = best.worst().filter(|worst| !rest.contains(worst))
            {
                return Ok(Found { items: best.into_items(), rest: Some(window.after(worst)), searched_lines });
            }
            let is_enough = pieces >= MAX_PIECES || begun.elapsed() >= MAX_TIME || sources.is_tired();
            if is_enough && rest.start() != window.start() {
                best.keep_outside_of(&rest);
                return Ok(Found { items: best.into_items(), rest: Some(rest), searched_lines });
            }
            if sources.is_tired() {
                sources.rest_up();
            }
        }
    }

    /// Searches all of it, on several threads if it is much.
    fn search_together(&self, works: Vec<Work>, window: Window, limit: usize) -> Result<Results> {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS).min(works.len());
        let (next, results) = (AtomicUsize::new(0), Mutex::new(Ok(Results::default())));
        let work = || {
            while let Some(work) = works.get(next.fetch_add(1, Ordering::Relaxed)) {
                let done = self.search(work, &window, limit);
                let mut results = results.lock();
                match (&mut *results, done) {
                    (Ok(all), Ok(done)) => {
                        all.found.extend(done.found);
                        all.rest.extend(done.rest);
                        all.lines += done.lines;
                    }
                    (Ok(_), Err(error)) => *results = Err(error),
                    (Err(_), _) => return,
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..workers {
                scope.spawn(work);
            }
            work();
        });
        results.into_inner()
    }

    fn search(&self, work: &Work, window: &Window, limit: usize) -> Result<Results> {
        // Patterns keep memory of their own for each thread.
        let look = Look { filter: Filter::clone(&self.filter), window, limit };
        match work {
            Work::Blob(blocks) => self.search_blob(&look, blocks),
            Work::Active(active) => self.search_active(&look, active),
        }
    }

    fn search_blob(&self, look: &Look, blocks: &[LogBlock]) -> Result<Results> {
        let mut results = Results::default();
        let start = blocks.iter().map(|block| block.offset).min().unwrap_or_default();
        let end = blocks.iter().map(|block| block.offset + block.length).max().unwrap_or_default();
        let Some(first) = blocks.first() else { return Ok(results) };
        let Some(bytes) = self.handle.block_on(self.lines.blob(first, start..end))? else { return Ok(results) };
        for block in blocks {
            let at = |offset: u64| usize::try_from(offset - start).unwrap_or(usize::MAX);
            let packed = bytes.get(at(block.offset)..at(block.offset + block.length));
            let packed = packed.ok_or_else(|| Error::Internal("a blob is shorter than its blocks".to_owned()))?;
            let log = (block.job_id, block.attempt);
            let place = Place { log, first_seq: block.first_seq, seqs: block.first_seq..block.last_seq + 1 };
            let origin = block.origin.clone().unwrap_or_default();
            self.search_packed(look, &PackedLines { packed, place, origin: &origin }, &mut results)?;
            if self.is_over.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(results)
    }

    /// Searches the best chunk of unsealed lines, and tells what is left of them.
    fn search_active(&self, look: &Look, active: &Active) -> Result<Results> {
        let (mut results, window) = (Results::default(), look.window);
        let seqs = active.seqs.clone();
        let seq = if window.newest_first { seqs.end - 1 } else { seqs.start };
        let mut rest = active.clone();
        match self.handle.block_on(self.lines.at(active.job_id, active.attempt, seq))? {
            // The job was deleted meanwhile.
            None => return Ok(results),
            Some(Packed::Gone(block)) if window.newest_first => {
                rest.seqs.end = block.first_seq.clamp(seqs.start, seqs.end);
            }
            Some(Packed::Gone(block)) => rest.seqs.start = (block.last_seq + 1).clamp(seqs.start, seqs.end),
            Some(Packed::Lines { first_seq, packed }) => {
                let place = Place { log: (active.job_id, active.attempt), first_seq, seqs: seqs.clone() };
                let lines = PackedLines { packed: &packed, place, origin: &active.origin };
                let times = self.search_packed(look, &lines, &mut results)?;
                let Some((first_time, last_time, count)) = times else { return Ok(results) };
                let lines = &mut rest.lines;
                if window.newest_first {
                    rest.seqs.end = first_seq.clamp(seqs.start, seqs.end);
                    lines.last_time = if lines.in_order { lines.last_time.min(first_time) } else { lines.last_time };
                } else {
                    rest.seqs.start = (first_seq + count).clamp(seqs.start, seqs.end);
                    lines.first_time = if lines.in_order { lines.first_time.max(last_time) } else { lines.first_time };
                }
            }
        }
        if rest.seqs != seqs {
            results.rest.push(rest);
        }
        Ok(results)
    }

    /// Adds what fits; gives the earliest and latest time of all lines, and how many they are.
    fn search_packed(
        &self,
        look: &Look,
        lines: &PackedLines,
        results: &mut Results,
    ) -> Result<Option<(Timestamp, Timestamp, u64)>> {
        let mut columns = Columns::open(lines.packed)?;
        let is_over = || self.is_over.load(Ordering::Relaxed);
        let hits = look.filter.search(&mut columns, &lines.place, look.window, look.limit, &is_over)?;
        results.lines += columns.len() as u64;
        results.found.extend(hits.into_iter().map(|(position, line)| {
            let (job_id, attempt) = lines.place.log;
            let found = FoundRecord { job_id, attempt, seq: position.seq, line, origin: lines.origin.clone() };
            (position, view(found))
        }));
        let times = (0..columns.len()).map(|number| columns.time(number));
        let times = times.fold(None, |found: Option<(Timestamp, Timestamp)>, time| match found {
            None => Some((time, time)),
            Some((first, last)) => Some((first.min(time), last.max(time))),
        });
        Ok(times.map(|(first, last)| (first, last, columns.len() as u64)))
    }
}

fn works(batch: Vec<Piece>) -> Vec<Work> {
    let mut works = Vec::new();
    let mut blobs: HashMap<_, Vec<LogBlock>> = HashMap::new();
    for piece in batch {
        match piece {
            Piece::Active(active) => works.push(Work::Active(active)),
            Piece::Block(block) => blobs.entry(block.blob).or_default().push(block),
        }
    }
    works.extend(blobs.into_values().map(Work::Blob));
    works
}
