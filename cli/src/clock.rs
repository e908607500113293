//! The one place where the time of day and randomness enter the command line.

use drover_protocol::Timestamp;

/// The time of this host.
#[allow(clippy::disallowed_methods, reason = "this is where time enters")]
pub fn now() -> Timestamp {
    Timestamp::from_millis(jiff::Timestamp::now().as_millisecond())
}

/// A text that no other call has, for the header `Idempotency-Key`.
#[allow(clippy::disallowed_methods, reason = "this is where randomness enters")]
pub fn new_idempotency_key() -> String {
    uuid::Uuid::new_v4().to_string()
}
