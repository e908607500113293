//! Following all logs: lines in the order in which they arrive, from now on or from the last one that was seen.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use drover_protocol::{JobId, Timestamp, log::FoundLine};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Filter, Lines, Packed, view};
use crate::{
    domain::log::Origin,
    error::{Error, Result},
    operations::{
        log::FoundRecord,
        log_search::{self, ARRIVALS_SECONDS, Arrival},
    },
    store::{Reader, Reading, ids::first_id_of, lines::Columns},
};

/// Arrivals that are looked up at once.
const ARRIVALS: usize = 100;
/// So many lines are given at once, or a few more.
const LINES: usize = 500;
/// So often those who are told no line are told where they are.
const POSITION_EVERY: Duration = Duration::from_secs(10);

/// Something to tell.
#[derive(Clone, Debug, PartialEq)]
pub enum TailEvent {
    Line {
        id: String,
        line: Box<FoundLine>,
    },
    /// No line, but the follower need not look at what came before this again.
    Position {
        id: String,
    },
    /// What came between the last line that was seen and this time is not known any more.
    Gap {
        until: Timestamp,
    },
}

/// Up to where arrivals have been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    arrival: Uuid,
    /// Lines of that arrival.
    lines: u64,
}

impl Told {
    fn id(&self) -> String {
        format!("{}-{}", self.arrival.simple(), self.lines)
    }

    /// A place that is known for as long as any, and before all that comes, however the clock is set until then.
    fn before_all(now: Timestamp) -> Self {
        Self { arrival: first_id_of(now.minus_seconds(ARRIVALS_SECONDS / 2)), lines: 0 }
    }

    fn parse(text: &str) -> Option<Self> {
        let (arrival, lines) = text.trim().split_once('-')?;
        Some(Self { arrival: Uuid::try_parse(arrival).ok()?, lines: lines.parse().ok()? })
    }
}

/// A follower of all logs.
pub struct Tail {
    lines: Lines,
    filter: Arc<Filter>,
    told: Told,
    /// The lines that were read last: many small arrivals may lie in one block.
    held: Option<Held>,
    said_at: Instant,
}

struct Held {
    log: (JobId, u32),
    first_seq: u64,
    end: u64,
    packed: Bytes,
}

impl Tail {
    /// Follows from the event with this id on, or from now on.
    pub fn open(lines: Lines, filter: Arc<Filter>, last_event: Option<&str>) -> Result<Self> {
        let db = Arc::clone(&lines.db);
        let told = match last_event {
            Some(text) => Told::parse(text).ok_or_else(|| {
                Error::BadRequest("Last-Event-ID must be the id of an event of this stream".to_owned())
            })?,
            None => db.read(lines.account, |reading| {
                let newest = log_search::newest_arrival(reading)?;
                let told = newest.map(|arrival| Told { arrival: arrival.id, lines: arrival.lines });
                let long_ago = Told::before_all(reading.now());
                Ok(told.filter(|told| told.arrival > long_ago.arrival).unwrap_or(long_ago))
            })?,
        };
        Ok(Self { lines, filter, told, held: None, said_at: Instant::now() })
    }

    /// Gives from now on what fits another filter.
    pub fn refine(&mut self, filter: Arc<Filter>) {
        self.filter = filter;
    }

    /// Up to where everything has been told: follow from here to go on.
    pub fn position(&self) -> String {
        self.told.id()
    }

    /// What has come since the last call; nothing if nothing has come. Call again until then.
    pub async fn read(&mut self) -> Result<Vec<TailEvent>> {
        let mut events = Vec::new();
        loop {
            let look = |reading: &Reader| Ok((self.gap(reading)?, self.arrivals(reading)?));
            let (gap, found) = self.lines.db.read(self.lines.account, look)?;
            if let Some(until) = gap {
                events.push(TailEvent::Gap { until });
                if found.is_empty() {
                    self.told = Told::before_all(self.lines.db.now());
                }
            }
            let is_last = found.len() < ARRIVALS;
            let before = self.told;
            for (arrival, origin) in found {
                if arrival.id != self.told.arrival {
                    self.told = Told { arrival: arrival.id, lines: 0 };
                }
                match origin {
                    Some(origin) => self.tell(&arrival, &origin, &mut events).await?,
                    None => self.told.lines = arrival.lines,
                }
                if events.len() >= LINES {
                    self.said_at = Instant::now();
                    return Ok(events);
                }
            }
            if is_last || self.told == before {
                break;
            }
        }
        if !events.is_empty() {
            self.said_at = Instant::now();
        } else if self.said_at.elapsed() >= POSITION_EVERY && !self.told.arrival.is_nil() {
            self.said_at = Instant::now();
            // Nothing has come since, so that the place may move on, and stays known.
            let moved = Told::before_all(self.lines.db.now());
            if moved.arrival > self.told.arrival {
                self.told = moved;
            }
            events.push(TailEvent::Position { id: self.told.id() });
        }
        Ok(events)
    }

    /// Until when there is a gap: what came after the last line that was told is not known any more.
    fn gap(&self, reading: &dyn Reading) -> Result<Option<Timestamp>> {
        let kept_since = reading.now().minus_seconds(ARRIVALS_SECONDS);
        if time_of(self.told.arrival) >= kept_since {
            return Ok(None);
        }
        let oldest = log_search::arrivals(reading, Uuid::nil(), 1)?.pop();
        let is_known = oldest.is_some_and(|oldest| oldest.id <= self.told.arrival);
        Ok((!is_known).then_some(kept_since))
    }

    /// The next arrivals, with where their lines come from if those are wanted.
    fn arrivals(&self, reading: &dyn Reading) -> Result<Vec<(Arrival, Option<Origin>)>> {
        let with_origin = |arrival: Arrival| {
            let (job, attempt) = (arrival.job_id, arrival.attempt);
            let origin = log_search::origin_of(reading, job, attempt)?;
            let origin = origin.filter(|origin| self.filter.whose.fits(job, attempt, origin));
            let is_seen = origin.is_some() && self.filter.reaches(reading, job, attempt)?;
            Ok((arrival, origin.filter(|_| is_seen)))
        };
        log_search::arrivals(reading, self.told.arrival, ARRIVALS)?.into_iter().map(with_origin).collect()
    }

    /// Tells the rest of an arrival, unless it is too much for once.
    async fn tell(&mut self, arrival: &Arrival, origin: &Origin, events: &mut Vec<TailEvent>) -> Result<()> {
        let end = arrival.first_seq + arrival.lines;
        while self.told.lines < arrival.lines && events.len() < LINES {
            let seq = arrival.first_seq + self.told.lines;
            let Some((first_seq, held_end, packed)) = self.hold(arrival, seq).await? else {
                // Deleted since.
                self.told.lines = arrival.lines;
                return Ok(());
            };
            let mut columns = Columns::open(&packed)?;
            columns.read_messages()?;
            for seq in seq..held_end.min(end) {
                let line = columns.line(usize::try_from(seq - first_seq).unwrap_or(usize::MAX))?;
                self.told.lines = seq + 1 - arrival.first_seq;
                if self.filter.fits(&line) {
                    let (job_id, attempt) = (arrival.job_id, arrival.attempt);
                    let found = FoundRecord { job_id, attempt, seq, line, origin: origin.clone() };
                    events.push(TailEvent::Line { id: self.told.id(), line: Box::new(view(found)) });
                }
                if events.len() >= LINES {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The packed lines that have line `seq` of an arrival among them, with the first number and the one after the last;
    /// `None` if it is not there any more.
    async fn hold(&mut self, arrival: &Arrival, seq: u64) -> Result<Option<(u64, u64, Bytes)>> {
        let log = (arrival.job_id, arrival.attempt);
        let fits = |held: &Held| held.log == log && (held.first_seq..held.end).contains(&seq);
        if !self.held.as_ref().is_some_and(fits) {
            self.held = match self.lines.at(arrival.job_id, arrival.attempt, seq).await? {
                Some(Packed::Lines { first_seq, packed }) => {
                    let end = first_seq + crate::store::lines::count(&packed)?;
                    Some(Held { log, first_seq, end, packed })
                }
                Some(Packed::Gone(_)) | None => None,
            };
        }
        let held = self.held.as_ref().filter(|held| fits(held));
        Ok(held.map(|held| (held.first_seq, held.end, held.packed.clone())))
    }
}

/// When an id was made: its first 48 bits.
fn time_of(id: Uuid) -> Timestamp {
    Timestamp::from_millis(i64::try_from(id.as_u128() >> 80).unwrap_or(i64::MAX))
}
