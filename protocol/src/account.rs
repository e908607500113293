//! The account and who is asking.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{AccountId, KeyId, Timestamp};

/// An isolated tenant.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Account {
    pub id: AccountId,
    #[schema(example = "main")]
    pub name: String,
    pub created_at: Timestamp,
    pub revision: u64,
}

/// `PATCH /account`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountPatch {
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, min_length = 1, max_length = 128)]
    pub name: Option<String>,
}

/// Who is asking, and what they may do.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Me {
    pub account: Account,
    /// `user`, `robot` or `job`.
    #[schema(example = "user")]
    pub kind: String,
    /// Id of the user, robot or job.
    pub id: String,
    /// Login of the user or name of the robot.
    pub name: String,
    pub key_id: KeyId,
    pub roles: Vec<String>,
    /// Permissions in the form `noun:verb`.
    #[schema(example = json!(["job:read", "job:start"]))]
    pub permissions: Vec<String>,
}
