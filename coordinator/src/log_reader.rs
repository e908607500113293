//! Reading logs of jobs, wherever their lines lie: in the store as received, or in sealed blocks.

use drover_protocol::{
    JobId,
    log::{Direction, Level, LogLine, LogPage},
};

use crate::{
    domain::log::{Gone, LogBlock, LogHead},
    error::Result,
    log_search::{Filter, Lines, Packed},
    operations::log::{self, numbered},
    store::lines,
};

/// Lines that one page looks at, at the most, when a filter matches seldom.
const MAX_EXAMINED: usize = 50_000;

/// Which lines are wanted.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The first line (forward) or the last one (backward).
    pub from_seq: Option<u64>,
    pub limit: usize,
    /// What a line must be like; whose it is has been checked.
    pub filter: Filter,
    pub direction: Direction,
}

#[derive(Clone)]
pub struct LogReader {
    pub lines: Lines,
    pub job: JobId,
    pub attempt: u32,
    /// How long a log may be, in bytes.
    pub cap_bytes: u64,
}

impl LogReader {
    /// A page of lines.
    pub async fn page(&self, wanted: &Wanted) -> Result<LogPage> {
        match wanted.direction {
            Direction::Forward => self.forward(wanted).await,
            Direction::Backward => self.backward(wanted).await,
        }
    }

    fn head(&self) -> Result<LogHead> {
        self.lines.db.read(self.lines.account, |reading| log::head(reading, self.job, self.attempt))
    }

    async fn forward(&self, wanted: &Wanted) -> Result<LogPage> {
        // The head is read first: what has arrived since is read on the next page, and `complete` is never too early.
        let head = self.head()?;
        let mut next = wanted.from_seq.unwrap_or(1).max(1);
        let (mut items, mut examined) = (Vec::new(), 0);
        while next < head.next_seq && items.len() < wanted.limit && examined < MAX_EXAMINED {
            let (_, lines) = self.run_at(next).await?;
            if lines.is_empty() {
                next = head.next_seq;
                break;
            }
            let from = next;
            for line in lines.into_iter().filter(|line| line.seq >= from) {
                if items.len() == wanted.limit {
                    break;
                }
                next = line.seq + 1;
                examined += 1;
                if wanted.filter.fits(&line.line) {
                    items.push(line);
                }
            }
        }
        let complete = head.ended_at.is_some() && next >= head.next_seq;
        Ok(LogPage { items, next_seq: next, complete, attempt: self.attempt })
    }

    async fn backward(&self, wanted: &Wanted) -> Result<LogPage> {
        let head = self.head()?;
        let newest = head.next_seq - 1;
        let mut next = wanted.from_seq.unwrap_or(newest).min(newest);
        let (mut items, mut examined) = (Vec::new(), 0);
        while next > 0 && items.len() < wanted.limit && examined < MAX_EXAMINED {
            let (first, lines) = self.run_at(next).await?;
            let before = next;
            // What retention has taken is one line that stands for all of its run, wherever in it reading begins.
            let is_gone = lines.first().is_some_and(|line| line.seq > first);
            for line in lines.into_iter().rev().filter(|line| is_gone || line.seq <= before) {
                if items.len() == wanted.limit {
                    break;
                }
                next = if is_gone { first - 1 } else { line.seq - 1 };
                examined += 1;
                if wanted.filter.fits(&line.line) {
                    items.push(line);
                }
            }
            if next == before {
                next -= 1;
            }
        }
        let complete = head.ended_at.is_some() && next == 0;
        Ok(LogPage { items, next_seq: next, complete, attempt: self.attempt })
    }

    /// The number of the first line of the run that holds `seq`, or of the next run, and its lines; none if there is
    /// no such run.
    async fn run_at(&self, seq: u64) -> Result<(u64, Vec<LogLine>)> {
        match self.lines.at(self.job, self.attempt, seq).await? {
            None => Ok((seq, Vec::new())),
            Some(Packed::Lines { first_seq, packed }) => {
                Ok((first_seq, numbered(self.attempt, first_seq, lines::unpack(&packed)?)))
            }
            // One line says it, in place of all of them.
            Some(Packed::Gone(block)) => Ok((block.first_seq, vec![gone(&block, self.cap_bytes)])),
        }
    }
}

fn gone(block: &LogBlock, cap_bytes: u64) -> LogLine {
    let count = block.last_seq - block.first_seq + 1;
    let (level, message) = match block.reason() {
        Gone::Retention => (Level::Info, format!("{count} lines of this log were deleted by retention")),
        Gone::Deleted(by) => (Level::Info, format!("{count} lines of this log were deleted by {by}")),
        Gone::Cap => {
            let (bytes, mib) = (block.bytes, cap_bytes / (1024 * 1024));
            let why = format!("a log may have {mib} MiB (limits.job_log_mib); its beginning and its end are kept");
            (Level::Warning, format!("{count} lines ({bytes} bytes) were left out here: {why}"))
        }
    };
    let line = drover_protocol::log::NewLogLine { time: block.last_time, level, message, fields: Default::default() };
    LogLine { seq: block.last_seq, attempt: block.attempt, line }
}
