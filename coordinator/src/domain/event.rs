//! Events beside the object they concern.

use drover_protocol::{EventId, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::resource::Scope;

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
    /// For whom the value of a resource was set or removed: whoever does not reach these is not told of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
}

impl Event {
    /// Whether it is about a value of a resource. One that was noted before scopes were names it in its text alone.
    pub fn is_of_value(&self) -> bool {
        self.scope.is_some() || ["value_set", "value_removed"].contains(&self.code.as_str())
    }
}
