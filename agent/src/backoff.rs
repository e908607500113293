//! The one retry policy: exponential back-off with full jitter, reset by success, an answered `Retry-After` obeyed.
//!
//! Pure: randomness comes in as a seed, waiting is the caller's.

use std::time::Duration;

/// The first ceiling of a wait.
const FIRST_MS: u64 = 1_000;
/// The highest ceiling of a wait.
const HIGHEST_MS: u64 = 60_000;
/// Even a lucky draw waits this long, so that a refusing coordinator is not asked in a tight loop.
const LOWEST_MS: u64 = 50;
/// A longer `Retry-After` is not believed.
const LONGEST_RETRY_AFTER_MS: u64 = 10 * 60_000;

/// A small seeded generator (SplitMix64): jitter needs spread, not secrecy.
#[derive(Clone, Debug)]
pub struct Jitter(u64);

impl Jitter {
    /// The same seed draws the same numbers.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        if bound == 0 { 0 } else { mixed % bound }
    }
}

/// How often in a row something has failed, and how long to wait therefore.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait after one more failure. `retry_after_ms` is what the coordinator asked for.
    pub fn next_ms(&mut self, jitter: &mut Jitter, retry_after_ms: Option<u64>) -> u64 {
        let ceiling = FIRST_MS.saturating_mul(1 << self.failures.min(6)).min(HIGHEST_MS);
        self.failures = self.failures.saturating_add(1);
        let wait = LOWEST_MS + jitter.below(ceiling - LOWEST_MS);
        match retry_after_ms {
            // Everybody was told the same time: jitter on top keeps them apart.
            Some(asked) => asked.min(LONGEST_RETRY_AFTER_MS) + jitter.below(FIRST_MS),
            None => wait,
        }
    }

    /// The same as a duration.
    pub fn next(&mut self, jitter: &mut Jitter, retry_after_ms: Option<u64>) -> Duration {
        Duration::from_millis(self.next_ms(jitter, retry_after_ms))
    }

    /// Something succeeded.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ceiling doubles from one second to sixty and stays there; draws spread over the whole range.
    #[test]
    fn ceilings_double_up_to_a_minute() {
        for (failures, ceiling) in [(0, 1_000), (1, 2_000), (2, 4_000), (5, 32_000), (6, 60_000), (1000, 60_000)] {
            let waits: Vec<u64> =
                (0..500).map(|seed| Backoff { failures }.next_ms(&mut Jitter::new(seed), None)).collect();
            let (least, most) = (waits.iter().min().copied(), waits.iter().max().copied());
            assert!(most.is_some_and(|most| most <= ceiling && most > ceiling * 9 / 10), "{failures}: {most:?}");
            assert!(least.is_some_and(|least| least >= LOWEST_MS && least < ceiling / 5), "{failures}: {least:?}");
        }
    }

    #[test]
    fn a_retry_after_is_obeyed_within_reason() {
        let mut jitter = Jitter::new(7);
        let wait = Backoff::default().next_ms(&mut jitter, Some(30_000));
        assert!((30_000..31_000).contains(&wait));
        assert!(Backoff::default().next_ms(&mut jitter, Some(u64::MAX)) <= LONGEST_RETRY_AFTER_MS + 1_000);
    }

    #[test]
    fn success_starts_over() {
        let mut backoff = Backoff { failures: 40 };
        backoff.reset();
        assert!(backoff.next_ms(&mut Jitter::new(1), None) <= 1_000);
    }
}
