//! Time for the agent: a wall-clock reading at the start, carried on by the runtime's monotonic timer.
//!
//! Nothing else in the agent asks for the time, so that a jump of the host's clock cannot make a heartbeat late, and a
//! test with paused time decides what time it is.

use std::time::Duration;

use drover_protocol::Timestamp;
use tokio::time::Instant;

/// Tells the time; a copy tells the same time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: Timestamp,
    start: Instant,
}

impl Clock {
    /// A clock that shows the host's time. Needs a tokio runtime.
    pub fn system() -> Self {
        Self::starting_at(wall_clock())
    }

    /// A clock that shows `base` now and goes on with `tokio::time`.
    pub fn starting_at(base: Timestamp) -> Self {
        Self { base, start: Instant::now() }
    }

    /// The time now; never goes back.
    pub fn now(&self) -> Timestamp {
        let elapsed = i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(self.base.millis().saturating_add(elapsed))
    }

    /// The instant at which this clock will show `time`; now, if that is past.
    pub fn instant_of(&self, time: Timestamp) -> Instant {
        // A year is as good as for ever here, and far from the timer's own limits.
        let wait = time.since(self.now()).min(Duration::from_secs(365 * 24 * 3600));
        Instant::now() + wait
    }
}

/// The host's wall clock, for programs without a runtime (the supervisor) and for the start of [`Clock::system`].
#[allow(clippy::disallowed_methods, reason = "this is the one place where time enters the agent")]
pub fn wall_clock() -> Timestamp {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}
