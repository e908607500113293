//! Makes ids: UUID version 7, strictly increasing within a process, so that their order is the order of birth.

use std::sync::Arc;

use drover_protocol::Timestamp;
use parking_lot::Mutex;
use uuid::{Builder, Uuid};

use crate::clock::Randomness;

/// Before every id of this time and later.
pub fn first_id_of(time: Timestamp) -> Uuid {
    Uuid::from_u128(u128::from(time.millis().unsigned_abs()) << 80)
}

/// The twelve bits after the time count ids of the same millisecond.
const COUNTER_MAX: u16 = 0x0fff;

/// Random bytes are asked for in such pieces: each asking is a call of the operating system.
const POOL_BYTES: usize = 1024;

pub struct Ids {
    state: Mutex<State>,
    randomness: Arc<dyn Randomness>,
}

struct State {
    /// Milliseconds and counter of the last id.
    last: (u64, u16),
    /// Random bytes, used up to this place. An id is no credential, so they may lie in memory for a while.
    pool: [u8; POOL_BYTES],
    used: usize,
}

impl State {
    fn step(&mut self, now: Timestamp) -> (u64, u16) {
        let millis = now.millis().unsigned_abs();
        self.last = match self.last {
            (last_millis, _) if millis > last_millis => (millis, 0),
            (last_millis, COUNTER_MAX) => (last_millis + 1, 0),
            (last_millis, counter) => (last_millis, counter + 1),
        };
        self.last
    }

    fn random(&mut self, randomness: &dyn Randomness) -> [u8; 8] {
        if self.used == POOL_BYTES {
            randomness.fill(&mut self.pool);
            self.used = 0;
        }
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.pool[self.used..self.used + 8]);
        self.used += 8;
        bytes
    }
}

impl Ids {
    pub fn new(randomness: Arc<dyn Randomness>) -> Self {
        let state = State { last: (0, 0), pool: [0; POOL_BYTES], used: POOL_BYTES };
        Self { state: Mutex::new(state), randomness }
    }

    pub fn randomness(&self) -> &dyn Randomness {
        &*self.randomness
    }

    /// The next id; its time is `now`, or later if ids were made faster than the counter allows or the clock went back.
    pub fn next(&self, now: Timestamp) -> Uuid {
        let ((millis, counter), random) = {
            let mut state = self.state.lock();
            (state.step(now), state.random(&*self.randomness))
        };
        let mut bytes = [0; 10];
        bytes[..2].copy_from_slice(&counter.to_be_bytes());
        bytes[2..].copy_from_slice(&random);
        Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid()
    }

    /// One more id among those of an earlier time.
    pub fn of_time(&self, time: Timestamp) -> Uuid {
        let mut bytes = [0; 10];
        self.randomness.fill(&mut bytes);
        Builder::from_unix_timestamp_millis(time.millis().unsigned_abs(), &bytes).into_uuid()
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
