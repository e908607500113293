//! Events: every change and automatic decision, told beside the object it concerns.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{EventId, Timestamp};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    pub id: EventId,
    pub at: Timestamp,
    /// What happened, in one stable word.
    #[schema(example = "lease_ran_out")]
    pub code: String,
    /// The same and why, for people.
    pub text: String,
    /// `coordinator`, `agent`, `user:<id>`, `robot:<id>` or `job:<id>`.
    pub by: String,
    /// What a result brought that came too late: the output, or the checkpoint of a task that was to be put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub output: Option<Value>,
}
