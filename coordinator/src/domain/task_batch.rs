//! What became of the lines of a bulk addition, kept for when the stream comes again under the same `Idempotency-Key`.

use drover_protocol::{TaskId, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The beginning of the digest of a line.
pub type LineDigest = [u8; 8];

/// Digest, end, id.
const ENTRY_BYTES: usize = 8 + 1 + 16;

/// What a line came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEnd {
    /// It added nothing; another try may.
    Failed,
    Added(TaskId),
    /// The reference is taken by this task.
    Duplicate(TaskId),
}

/// Lines that were added in one transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskBatch {
    /// Digest of the caller's key id, the idempotency key and the queue.
    #[serde(with = "serde_bytes")]
    pub stream: [u8; 32],
    /// Counted from 1.
    pub first_line: u64,
    #[serde(with = "serde_bytes")]
    entries: Vec<u8>,
    pub expires_at: Timestamp,
}

impl TaskBatch {
    pub fn new(stream: [u8; 32], first_line: u64, expires_at: Timestamp) -> Self {
        Self { stream, first_line, entries: Vec::new(), expires_at }
    }

    /// The first line after its own.
    pub fn end(&self) -> u64 {
        self.first_line + (self.entries.len() / ENTRY_BYTES) as u64
    }

    pub fn push(&mut self, digest: LineDigest, end: LineEnd) {
        self.entries.extend_from_slice(&entry(digest, end));
    }

    /// What became of a line, if it is one of its own.
    pub fn get(&self, line: u64) -> Option<(LineDigest, LineEnd)> {
        let at = usize::try_from(line.checked_sub(self.first_line)?).ok()?.checked_mul(ENTRY_BYTES)?;
        let entry: &[u8; ENTRY_BYTES] = self.entries.get(at..at.checked_add(ENTRY_BYTES)?)?.try_into().ok()?;
        let digest = entry.first_chunk::<8>()?;
        let id = TaskId::from_uuid(Uuid::from_bytes(*entry.last_chunk::<16>()?));
        let end = match entry[8] {
            1 => LineEnd::Added(id),
            2 => LineEnd::Duplicate(id),
            _ => LineEnd::Failed,
        };
        Some((*digest, end))
    }

    /// Replaces what became of one of its lines.
    pub fn set(&mut self, line: u64, digest: LineDigest, end: LineEnd) {
        if self.get(line).is_some() {
            let at = (line - self.first_line) as usize * ENTRY_BYTES;
            self.entries[at..at + ENTRY_BYTES].copy_from_slice(&entry(digest, end));
        }
    }
}

fn entry(digest: LineDigest, end: LineEnd) -> [u8; ENTRY_BYTES] {
    let (code, id) = match end {
        LineEnd::Failed => (0, Uuid::nil()),
        LineEnd::Added(id) => (1, id.uuid()),
        LineEnd::Duplicate(id) => (2, id.uuid()),
    };
    let mut entry = [0; ENTRY_BYTES];
    entry[..8].copy_from_slice(&digest);
    entry[8] = code;
    entry[9..].copy_from_slice(id.as_bytes());
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_by_their_number_and_can_be_replaced() {
        let id = |n: u128| TaskId::from_uuid(Uuid::from_u128(n));
        let mut batch = TaskBatch::new([7; 32], 501, Timestamp::EPOCH);
        batch.push([1; 8], LineEnd::Added(id(1)));
        batch.push([2; 8], LineEnd::Failed);
        batch.push([3; 8], LineEnd::Duplicate(id(3)));
        assert_eq!(batch.end(), 504);
        assert_eq!(batch.get(501), Some(([1; 8], LineEnd::Added(id(1)))));
        assert_eq!(batch.get(503), Some(([3; 8], LineEnd::Duplicate(id(3)))));
        assert_eq!((batch.get(500), batch.get(504), batch.get(u64::MAX)), (None, None, None));
        batch.set(502, [9; 8], LineEnd::Added(id(2)));
        batch.set(504, [9; 8], LineEnd::Failed);
        assert_eq!(batch.get(502), Some(([9; 8], LineEnd::Added(id(2)))));
        assert_eq!(batch.end(), 504);
    }
}
