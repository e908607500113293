//! Makes ids: UUID version 7, strictly increasing within a process, so that their order is the order of birth.

use std::sync::Arc;

use drover_protocol::Timestamp;
use parking_lot::Mutex;
use uuid::{Builder, Uuid};

use crate::clock::Randomness;

/// The twelve bits after the time count ids of the same millisecond.
const COUNTER_MAX: u16 = 0x0fff;

pub struct Ids {
    last: Mutex<(u64, u16)>,
    randomness: Arc<dyn Randomness>,
}

impl Ids {
    pub fn new(randomness: Arc<dyn Randomness>) -> Self {
        Self { last: Mutex::new((0, 0)), randomness }
    }

    pub fn randomness(&self) -> &dyn Randomness {
        &*self.randomness
    }

    /// The next id; its time is `now`, or later if ids were made faster than the counter allows or the clock went back.
    pub fn next(&self, now: Timestamp) -> Uuid {
        let (millis, counter) = {
            let mut last = self.last.lock();
            let millis = now.millis().unsigned_abs();
            *last = match *last {
                (last_millis, _) if millis > last_millis => (millis, 0),
                (last_millis, COUNTER_MAX) => (last_millis + 1, 0),
                (last_millis, counter) => (last_millis, counter + 1),
            };
            *last
        };
        let mut bytes = [0; 10];
        self.randomness.fill(&mut bytes[2..]);
        bytes[..2].copy_from_slice(&counter.to_be_bytes());
        Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemRandomness;

    /// Lists are ordered by id, and first in first out depends on it: even when the clock steps back.
    #[test]
    fn ids_increase_whatever_the_clock_does() {
        let ids = Ids::new(Arc::new(SystemRandomness));
        let mut before = Uuid::nil();
        for step in 0..20_000_i64 {
            let now = Timestamp::from_millis(1_000_000 + if step % 7 == 0 { -5_000 } else { step / 5_000 });
            let id = ids.next(now);
            assert!(id > before, "{id} came after {before}");
            assert_eq!(id.get_version_num(), 7);
            before = id;
        }
    }
}
