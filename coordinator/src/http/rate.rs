//! How many requests a key may send, so that one script that runs wild does not take the coordinator away from all others.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use drover_protocol::KeyId;
use governor::{
    Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
    middleware::NoOpMiddleware,
    state::keyed::HashMapStateStore,
};

use crate::error::{Error, Result};

/// A key that was silent may send at once what it may send in so many seconds.
const BURST_SECONDS: u32 = 2;
/// Keys that have not called for a while are forgotten after so many requests.
const FORGET_EVERY: u32 = 10_000;

type Limiter =
    RateLimiter<KeyId, HashMapStateStore<KeyId>, MonotonicClock, NoOpMiddleware<<MonotonicClock as Clock>::Instant>>;

/// The requests of all keys. A restart forgets them.
pub struct Rates {
    limiter: Option<Limiter>,
    requests: AtomicU32,
}

impl Rates {
    /// `per_second` requests of each key, on average; 0: any number.
    pub fn new(per_second: u32) -> Self {
        let quota = NonZeroU32::new(per_second).map(|rate| {
            let burst = rate.saturating_mul(NonZeroU32::MIN.saturating_add(BURST_SECONDS - 1));
            Quota::per_second(rate).allow_burst(burst)
        });
        let limiter = quota.map(|quota| RateLimiter::new(quota, HashMapStateStore::default(), MonotonicClock));
        Self { limiter, requests: AtomicU32::new(0) }
    }

    /// Counts a request; refuses it with `TooMany` when the key sends too many.
    pub fn count(&self, key: KeyId) -> Result<()> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        if self.requests.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            limiter.retain_recent();
        }
        let wait = match limiter.check_key(&key) {
            Ok(()) => return Ok(()),
            Err(until) => until.wait_time_from(MonotonicClock.now()),
        };
        Err(Error::TooMany { retry_after_seconds: whole_seconds(wait) })
    }
}

/// Rounded up, so that who waits as long as told is served.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_millis().div_ceil(1_000).max(1).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn key(number: u128) -> KeyId {
        KeyId::from_uuid(Uuid::from_u128(number))
    }

    /// One key that sends too much is told how long to wait; others are served.
    #[test]
    fn each_key_has_its_own_measure() {
        let rates = Rates::new(1);
        let refused = (0..10).filter_map(|_| rates.count(key(1)).err()).last();
        assert!(matches!(refused, Some(Error::TooMany { retry_after_seconds: 1 })), "{refused:?}");
        assert_eq!(rates.count(key(2)), Ok(()));
    }

    #[test]
    fn nothing_is_refused_where_no_limit_is_set() {
        let rates = Rates::new(0);
        assert!((0..100_000).all(|_| rates.count(key(1)).is_ok()));
    }
}
