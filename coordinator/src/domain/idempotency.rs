//! The answer to a call that carried an `Idempotency-Key`, kept for when the call is repeated.

use drover_protocol::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How long a repetition gives the first answer.
pub const KEPT_SECONDS: u64 = 24 * 3600;
pub const MAX_KEY_CHARS: usize = 255;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Digest of the caller's key id and the idempotency key.
    #[serde(with = "serde_bytes")]
    pub id: [u8; 32],
    /// Tag of the request, made with the key file: no digest that whoever has the store could compare guesses with.
    #[serde(with = "serde_bytes")]
    pub request: [u8; 32],
    pub status: u16,
    pub location: Option<String>,
    /// Where the sealed body lies, as a document.
    pub body: Uuid,
    pub expires_at: Timestamp,
}
