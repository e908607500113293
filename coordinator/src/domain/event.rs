//! Events beside the object they concern.

use drover_protocol::{EventId, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One readable line of an object's history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub id: EventId,
    /// The object it concerns.
    pub object: Uuid,
    pub at: Timestamp,
    pub code: String,
    pub text: String,
    pub by: String,
}
