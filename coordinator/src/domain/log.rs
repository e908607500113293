//! How the log of a job's attempt is kept: lines as received in chunks, sealed later into compressed blocks.

use drover_protocol::{JobId, LogBlockId, Timestamp, log::Level};
use serde::{Deserialize, Serialize};

/// How far the log of one attempt is.
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
}

impl LogHead {
    pub fn new(job_id: JobId, attempt: u32) -> Self {
        Self { job_id, attempt, next_seq: 1, bytes: 0, unsealed_chunks: 0, unsealed_bytes: 0, ended_at: None }
    }
}

/// A compressed run of lines of one attempt. Runs of many attempts lie together in one blob.
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
    /// Its content was deleted by retention; its lines are counted, but gone.
    pub expired: bool,
}

/// A running job's log is sealed as it grows, once so many bytes lie in the store.
pub const SEAL_BYTES: u64 = 4 * 1024 * 1024;

impl LogHead {
    /// Whether so much lies in the store that it is sealed before the attempt ends.
    pub fn is_long(&self) -> bool {
        self.unsealed_bytes >= SEAL_BYTES
    }
}
