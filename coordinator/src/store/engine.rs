//! All that a storage engine must provide: an ordered key-value view, and serial, atomic, durable writes.
//!
//! No rule of the product is known here, and no engine is named outside of its own file.

use std::collections::BTreeMap;

use crate::error::Error;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// The longest value an engine must carry, in bytes. Larger content is a document in pieces or a file.
pub const MAX_VALUE_BYTES: usize = 64 * 1024;

/// The longest key an engine must carry, in bytes.
pub const MAX_KEY_BYTES: usize = 16 * 1024;

/// Keys from `start` (included) to `end` (excluded).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    pub start: Vec<u8>,
    pub end: Vec<u8>,
}

impl KeyRange {
    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        let start = prefix.into();
        let end = after_prefix(&start);
        Self { start, end }
    }

    /// The part of this range that a scan in `order` has still to visit after it has seen `key`.
    pub fn after(&self, key: &[u8], order: Order) -> Self {
        match order {
            Order::Ascending => {
                let mut start = key.to_vec();
                start.push(0);
                Self { start, end: self.end.clone() }
            }
            Order::Descending => Self { start: self.start.clone(), end: key.to_vec() },
        }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_slice() <= key && key < self.end.as_slice()
    }

    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }
}

/// The first key that is larger than every key beginning with `prefix`.
fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    // Keys begin with two letters, so a prefix of 0xff bytes only is never asked for; this end is above all kinds.
    vec![0xff; 64]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Ascending,
    Descending,
}

/// Why the engine could not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Nothing was written; reading goes on, and writing will once there is space.
    #[error("no space left on the device")]
    OutOfSpace,
    /// The engine can no longer be trusted in this process: answer nobody with success and stop.
    #[error("{0}")]
    Broken(String),
}

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::OutOfSpace => Self::OutOfSpace,
            EngineError::Broken(text) => Self::Internal(text),
        }
    }
}

/// A consistent state of the store: no half of any commit is ever seen through it.
pub trait View {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;

    /// At most `limit` pairs of the range, in order.
    fn scan(&self, range: &KeyRange, order: Order, limit: usize) -> Result<Vec<Pair>, EngineError>;
}

/// What one commit changes: a value puts, `None` deletes. Applying it twice is the same as once.
pub type WriteSet = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A store of pairs.
pub trait Engine: Send + Sync {
    /// A consistent view for readers. Hold it briefly: a writer may have to wait for it.
    fn view(&self) -> Box<dyn View + '_>;

    /// Runs `body` while nobody else writes, then commits what it gives: all of it or nothing, on disk before this
    /// returns. An empty set commits nothing and costs nothing.
    fn exclusive(&self, body: &mut dyn FnMut(&dyn View) -> WriteSet) -> Result<(), EngineError>;

    /// Whether writes are refused for lack of space at the moment.
    fn read_only(&self) -> bool {
        false
    }
}
