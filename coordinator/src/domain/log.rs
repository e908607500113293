//! How logs are kept: lines as received in chunks, sealed later into compressed blocks.
//!
//! A log is that of one attempt of a job. Lines that belong to no job lie in a log of whoever wrote them: its number is
//! the writer's id and its attempt is 0, which no attempt of a job has.

use drover_protocol::{
    JobId, LogBlockId, ProcessId, ProcessVersionId, Timestamp,
    log::{Level, NewLogLine},
};
use serde::{Deserialize, Serialize};

use super::job::Holder;

/// How far one log is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogHead {
    pub job_id: JobId,
    pub attempt: u32,
    /// The number of the line that is expected next; 1 at first.
    pub next_seq: u64,
    /// Bytes of all lines received.
    pub bytes: u64,
    /// Chunks that lie in the store and not yet in a block.
    pub unsealed_chunks: u32,
    pub unsealed_bytes: u64,
    /// The attempt has ended: what is left can be sealed.
    pub ended_at: Option<Timestamp>,
    /// Lines that did not come from the agent; its own numbers leave them out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub inserted: u64,
    /// What is known of the lines that are not sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsealed: Option<Unsealed>,
    /// Bytes of the lines in blocks that are still there.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub kept_bytes: u64,
    /// The beginning of the log, which is kept when it becomes too long.
    #[serde(default, skip_serializing_if = "Beginning::is_empty")]
    pub beginning: Beginning,
    /// The last line of the middle up to which every block after the beginning is gone.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gone_to: u64,
    /// Who writes here, if it is no job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<Author>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Lines that lie in the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unsealed {
    pub first_seq: u64,
    /// When the first of them came.
    pub since: Timestamp,
    pub first_time: Timestamp,
    pub last_time: Timestamp,
    /// No line is earlier than one before it.
    pub in_order: bool,
}

/// Blocks at the beginning of a log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Beginning {
    pub bytes: u64,
    pub last_seq: u64,
    /// The block after it was too much.
    pub is_full: bool,
}

impl Beginning {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Who wrote a line that belongs to no job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Author {
    /// As in events: `user:<id>` or `robot:<id>`.
    pub by: String,
    pub robot: Option<Holder>,
}

/// The process of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogProcess {
    pub id: ProcessId,
    pub name: String,
    pub version_id: ProcessVersionId,
}

/// Where lines come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    pub robot: Option<Holder>,
    pub process: Option<LogProcess>,
    /// Who wrote them, if they belong to no job.
    pub by: Option<String>,
}

/// Why lines are not there any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gone {
    /// They had become too old.
    Retention,
    /// The log had become too long.
    Cap,
    /// Somebody had them deleted.
    Deleted(String),
}

/// A compressed run of lines of one log. Runs of many logs lie together in one blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogBlock {
    pub job_id: JobId,
    pub attempt: u32,
    pub first_seq: u64,
    /// The last line in it.
    pub last_seq: u64,
    pub first_time: Timestamp,
    pub last_time: Timestamp,
    /// The worst level in it.
    pub worst: Level,
    /// The blob, and which bytes of it.
    pub blob: LogBlockId,
    pub offset: u64,
    pub length: u64,
    /// Bytes of the lines before compression.
    pub bytes: u64,
    pub sealed_at: Timestamp,
    /// Its content was deleted; its lines are counted, but gone.
    pub expired: bool,
    /// Where its lines come from. Without it a search over all logs does not find them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Why its content was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<Gone>,
}

/// Logs are sealed in runs of about so many bytes, together up to about so many in one blob.
pub const SEAL_BYTES: u64 = 4 * 1024 * 1024;
/// A block is read as a whole: small enough for a page of it, large enough to be compressed well.
pub const BLOCK_BYTES: u64 = 512 * 1024;
/// Lines of a running attempt lie in the store no longer than this, so that they become old like all others.
const SEAL_AFTER_SECONDS: u64 = 24 * 3600;
/// The same for lines that belong to no job.
const SEAL_JOBLESS_AFTER_SECONDS: u64 = 600;

impl LogHead {
    pub fn new(job_id: JobId, attempt: u32) -> Self {
        Self {
            job_id,
            attempt,
            next_seq: 1,
            bytes: 0,
            unsealed_chunks: 0,
            unsealed_bytes: 0,
            ended_at: None,
            inserted: 0,
            unsealed: None,
            kept_bytes: 0,
            beginning: Beginning::default(),
            gone_to: 0,
            author: None,
        }
    }

    /// Whether so much lies in the store that it is sealed before the attempt ends.
    pub fn is_long(&self) -> bool {
        self.unsealed_bytes >= SEAL_BYTES
    }

    /// The number of the line that the agent is to send next, as it counts them.
    pub fn next_of_agent(&self) -> u64 {
        self.next_seq.saturating_sub(self.inserted)
    }

    /// From when on what lies in the store can be sealed.
    pub fn sealable_at(&self) -> Option<Timestamp> {
        if let Some(ended_at) = self.ended_at {
            return Some(ended_at);
        }
        if self.is_long() {
            return Some(Timestamp::EPOCH);
        }
        let seconds = if self.attempt == 0 { SEAL_JOBLESS_AFTER_SECONDS } else { SEAL_AFTER_SECONDS };
        self.unsealed.as_ref().map(|unsealed| unsealed.since.plus_seconds(seconds))
    }
}

impl LogBlock {
    /// Why it is gone, if it is.
    pub fn reason(&self) -> Gone {
        self.gone.clone().unwrap_or(Gone::Retention)
    }

    /// Counts the lines of another gone block, side by side with this one.
    pub fn take_in(&mut self, other: &Self) {
        self.first_seq = self.first_seq.min(other.first_seq);
        self.last_seq = self.last_seq.max(other.last_seq);
        self.first_time = self.first_time.min(other.first_time);
        self.last_time = self.last_time.max(other.last_time);
        self.worst = self.worst.max(other.worst);
        self.bytes += other.bytes;
    }

    /// How much time its lines span, as a power of two: less than 2^span milliseconds.
    pub fn span(&self) -> u8 {
        let millis = self.last_time.millis().abs_diff(self.first_time.millis());
        (u64::BITS - millis.leading_zeros()) as u8
    }
}

/// The earliest and the latest time of lines, and whether none is earlier than one before it.
pub fn times<'a>(lines: impl IntoIterator<Item = &'a NewLogLine>) -> Option<(Timestamp, Timestamp, bool)> {
    lines.into_iter().map(|line| line.time).fold(None, |found, time| match found {
        None => Some((time, time, true)),
        Some((first, last, in_order)) => Some((first.min(time), last.max(time), in_order && time >= last)),
    })
}
