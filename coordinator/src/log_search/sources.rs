//! Where the lines of a search lie, in the order of time: blocks by their index, and the unsealed lines of logs.
//!
//! Blocks are indexed by the time that they span, as a power of two, and by their last time. So those that reach over any
//! moment are found without looking at others, and the time before which (or after which) no further block has lines is
//! known exactly enough.

use std::{
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::Arc,
};

use drover_protocol::{AccountId, JobId, Timestamp};

use super::{Filter, Window};
use crate::{
    domain::log::LogBlock,
    error::Result,
    operations::log_search::{self, Active, BlockScan, SPANS},
    store::Db,
};

/// Records that are looked up at once.
const PAGE: usize = 200;
/// Blocks that one call passes over, at the most, before it says how far it got.
const MAX_PASSED: usize = 50_000;

/// Lines to search.
#[derive(Debug)]
pub enum Piece {
    Block(LogBlock),
    Active(Active),
}

#[derive(Debug)]
enum Source {
    Piece(Piece),
    /// Further blocks of an index: those that were read and the rest.
    Index(BlockScan, VecDeque<LogBlock>),
}

/// Sources sort by the best time that a line of theirs can have, as far as is known.
struct Ranked(i64, u64, Source);

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

pub struct Sources {
    db: Arc<Db>,
    account: AccountId,
    filter: Arc<Filter>,
    window: Window,
    heap: BinaryHeap<Ranked>,
    /// Unsealed lines begin here; what is sealed of them meanwhile is not met a second time.
    unsealed_from: HashMap<(JobId, u32), u64>,
    /// Whether logs may be seen, as far as that was looked up.
    seen: HashMap<(JobId, u32), bool>,
    count: u64,
    passed: usize,
}

impl Sources {
    pub fn open(db: Arc<Db>, account: AccountId, filter: Arc<Filter>, window: Window) -> Result<Self> {
        let (heap, unsealed_from, seen) = (BinaryHeap::new(), HashMap::new(), HashMap::new());
        let mut sources = Self { db, account, filter, window, heap, unsealed_from, seen, count: 0, passed: 0 };
        // Unsealed lines first: whatever is sealed after this look is known to have been seen.
        sources.open_active()?;
        match sources.filter.whose.job {
            Some(job) => sources.open_job(job)?,
            None => {
                for span in SPANS {
                    sources.open_index(span)?;
                }
            }
        }
        Ok(sources)
    }

    fn open_active(&mut self) -> Result<()> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let whose = &self.filter.whose;
            let page = |reading: &crate::store::Reader| log_search::active_page(reading, whose, after.as_deref(), PAGE);
            let (found, next) = self.db.read(self.account, page)?;
            for active in found {
                self.unsealed_from.insert((active.job_id, active.attempt), active.seqs.start);
                if self.window.meets(active.lines.first_time, active.lines.last_time)
                    && self.may_be_seen((active.job_id, active.attempt))?
                {
                    self.put_back(active);
                }
            }
            match next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    fn open_job(&mut self, job: JobId) -> Result<()> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = |reading: &crate::store::Reader| log_search::blocks_of_job(reading, job, after.as_deref(), PAGE);
            let found = self.db.read(self.account, page)?;
            after = found.last().filter(|_| found.len() == PAGE).map(|(key, _)| key.clone());
            for (_, block) in found {
                if self.suits(&block)? {
                    self.push(block.first_time, block.last_time, Source::Piece(Piece::Block(block)));
                }
            }
            if after.is_none() {
                return Ok(());
            }
        }
    }

    fn open_index(&mut self, span: u8) -> Result<()> {
        let Window { from, below, newest_first } = self.window;
        // A block that begins in the window may end so much later.
        let millis = |time: Timestamp| time.millis().unsigned_abs();
        let times = (millis(from.time), millis(below.time) + (1 << span) + 1);
        let scan = BlockScan { span, times, newest_first, after: None };
        self.go_on(scan, VecDeque::new())
    }

    /// Puts an index back, with at least one block read.
    fn go_on(&mut self, mut scan: BlockScan, mut ready: VecDeque<LogBlock>) -> Result<()> {
        if ready.is_empty() {
            let whose = &self.filter.whose;
            let limit = if scan.after.is_some() { PAGE } else { 8 };
            let found = self.db.read(self.account, |reading| log_search::blocks(reading, whose, &scan, limit))?;
            if let Some((key, _)) = found.last() {
                scan.after = Some(key.clone());
            }
            ready.extend(found.into_iter().map(|(_, block)| block));
        }
        let Some(next) = ready.front() else { return Ok(()) };
        let (last, span) = (next.last_time, scan.span);
        // No later block of this index begins before this.
        let first = Timestamp::from_millis(last.millis() - (1 << span) + 1);
        self.push(first, last, Source::Index(scan, ready));
        Ok(())
    }

    fn push(&mut self, first: Timestamp, last: Timestamp, source: Source) {
        let rank = match self.window.newest_first {
            true => last.millis().min(self.window.below.time.millis()),
            false => -first.millis().max(self.window.from.time.millis()),
        };
        self.count += 1;
        self.heap.push(Ranked(rank, u64::MAX - self.count, source));
    }

    /// Unsealed lines that are still to be searched.
    pub fn put_back(&mut self, active: Active) {
        if !active.seqs.is_empty() {
            self.push(active.lines.first_time, active.lines.last_time, Source::Piece(Piece::Active(active)));
        }
    }

    fn suits(&mut self, block: &LogBlock) -> Result<bool> {
        Ok(self.may_hold(block) && self.may_be_seen((block.job_id, block.attempt))?)
    }

    /// Whether the caller may see the lines of a log.
    fn may_be_seen(&mut self, log: (JobId, u32)) -> Result<bool> {
        if !self.filter.is_limited() {
            return Ok(true);
        }
        if let Some(seen) = self.seen.get(&log) {
            return Ok(*seen);
        }
        let seen = self.db.read(self.account, |reading| self.filter.reaches(reading, log.0, log.1))?;
        self.seen.insert(log, seen);
        Ok(seen)
    }

    /// Whether a block may have lines that are wanted.
    fn may_hold(&self, block: &LogBlock) -> bool {
        let whose = &self.filter.whose;
        let origin = block.origin.as_ref();
        !block.expired
            && self.window.meets(block.first_time, block.last_time)
            && self.filter.level.is_none_or(|level| block.worst >= level)
            && origin.is_some_and(|origin| whose.fits(block.job_id, block.attempt, origin))
            && self.unsealed_from.get(&(block.job_id, block.attempt)).is_none_or(|from| block.first_seq < *from)
    }

    /// The next lines to search; `None` if there are none, or if too many blocks were passed over to go on now.
    pub fn next(&mut self) -> Result<Option<Piece>> {
        while self.passed < MAX_PASSED {
            match self.heap.pop() {
                None => return Ok(None),
                Some(Ranked(_, _, Source::Piece(piece))) => return Ok(Some(piece)),
                Some(Ranked(_, _, Source::Index(scan, mut ready))) => {
                    let block = ready.pop_front();
                    self.go_on(scan, ready)?;
                    match block {
                        Some(block) if self.suits(&block)? => return Ok(Some(Piece::Block(block))),
                        _ => self.passed += 1,
                    }
                }
            }
        }
        Ok(None)
    }

    /// The best time that any line can have which was not searched yet; `None` when there is none.
    pub fn rest(&self) -> Option<Timestamp> {
        self.heap.peek().map(|ranked| Timestamp::from_millis(ranked.0.abs()))
    }

    /// Whether too many blocks were passed over to go on now.
    pub fn is_tired(&self) -> bool {
        self.passed >= MAX_PASSED
    }

    /// Goes on all the same.
    pub fn rest_up(&mut self) {
        self.passed = 0;
    }
}
