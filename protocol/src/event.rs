//! Events: every change and automatic decision, told beside the object it concerns.

use serde::{Deserialize, Serialize};
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
}
