//! Operation of the coordinator itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /healthz` and `GET /readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceState {
    /// `ok`, `starting`, `stopping` or `read_only`.
    #[schema(example = "ok")]
    pub status: String,
    pub version: String,
    /// What is wrong and what helps, if anything is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}
