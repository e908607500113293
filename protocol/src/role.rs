//! Roles: what their users may do, and to what.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{RoleId, Timestamp};

/// A role. Built-in ones are named `admin`, `operator`, `developer`, `viewer` and `robot`, and cannot be changed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Role {
    /// Absent for built-in roles, which are found by their names.
    #[schema(required)]
    pub id: Option<RoleId>,
    #[schema(example = "invoices")]
    pub name: String,
    pub description: String,
    pub built_in: bool,
    /// As they were given: permissions, `noun:*` or `*`.
    #[schema(example = json!(["job:start", "queue:*"]))]
    pub permissions: Vec<String>,
    /// What `permissions` come to now.
    #[schema(example = json!(["job:start", "queue:read"]))]
    pub granted: Vec<String>,
    #[schema(required)]
    pub limits: Option<RoleLimits>,
    #[schema(required)]
    pub created_at: Option<Timestamp>,
    pub revision: u64,
}

/// Patterns of names, in which `*` stands for any text. What is absent is not limited; an empty list reaches nothing.
/// A robot is reached through its groups, and a job or trigger through the robot or group that it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleLimits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = json!(["finance*"]), max_items = 100)]
    pub robot_groups: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = json!(["invoices", "payments*"]), max_items = 100)]
    pub queues: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = json!(["reports/*"]), max_items = 100)]
    pub folders: Option<Vec<String>>,
}

/// `POST /roles`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRole {
    #[schema(min_length = 1, max_length = 128, example = "invoices")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 2048)]
    pub description: String,
    /// `noun:verb`, `noun:*` or `*`; nothing that the caller does not have.
    #[schema(example = json!(["job:read", "job:start", "queue:*"]), max_items = 100)]
    pub permissions: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<RoleLimits>,
}

/// `PATCH /roles/{role}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RolePatch {
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, min_length = 1, max_length = 128)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, max_length = 2048)]
    pub description: Option<String>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<String>, required = false, max_items = 100)]
    pub permissions: Option<Vec<String>>,
    /// A merge patch of `limits`: one that is not named stays, one that is null is removed; null removes all of them.
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    pub limits: Option<Option<RoleLimitsPatch>>,
}

/// A change of limits: what is absent stays as it is, and null lifts that limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleLimitsPatch {
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>, example = json!(["finance*"]), max_items = 100)]
    pub robot_groups: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>, example = json!(["invoices", "payments*"]), max_items = 100)]
    pub queues: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>, example = json!(["reports/*"]), max_items = 100)]
    pub folders: Option<Option<Vec<String>>>,
}
