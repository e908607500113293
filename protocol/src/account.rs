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
    /// Its administrators see to the coordinator as a whole, and to all accounts.
    #[serde(default)]
    #[schema(required)]
    pub runs_system: bool,
    #[serde(default)]
    #[schema(required)]
    pub disabled: bool,
    /// For so many days the audit trail is kept at the least; null: for ever.
    #[serde(default)]
    #[schema(required)]
    pub audit_retention_days: Option<u32>,
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
    /// For how many days the audit trail is kept at the least, at least 30; null: for ever. It is never kept for a shorter
    /// time because of a setting alone: this here says so, and the act of saying it is in the trail.
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 30, maximum = 36500)]
    pub audit_retention_days: Option<Option<u32>>,
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
    /// Of the key, or of the session.
    pub key_id: KeyId,
    pub roles: Vec<String>,
    /// Permissions in the form `noun:verb`.
    #[schema(example = json!(["job:read", "job:start"]))]
    pub permissions: Vec<String>,
}

/// `POST /accounts`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAccount {
    #[schema(min_length = 1, max_length = 128, example = "north")]
    pub name: String,
    pub admin: NewAdmin,
}

/// The first user of an account, with the role `admin`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAdmin {
    /// Without capital letters; other accounts may have users of this login as well.
    #[schema(min_length = 1, max_length = 128, example = "ann")]
    pub login: String,
    /// At least 10 characters and not the login. Absent: the user has the key alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 10, max_length = 1024)]
    pub password: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 128)]
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 254)]
    pub email: Option<String>,
}

/// The answer to `POST /accounts`: the account and, only here, its administrator's key.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedAccount {
    pub account: Account,
    pub key: String,
}

/// `PATCH /accounts/{id}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountChange {
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, min_length = 1, max_length = 128)]
    pub name: Option<String>,
    /// Into a disabled account nobody gets, with whatever key, and none of its triggers fires.
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = bool, required = false)]
    pub disabled: Option<bool>,
}
