//! Resources: named values for processes. Each has a default, and values of its own for robots and robot groups.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{ResourceId, Timestamp, words::words};

/// The largest value of the kinds `text`, `json` and `calendar`, in bytes as JSON.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;
/// The largest value of the kinds `secret` and `credential`, in bytes as JSON: agents mask them in all their forms.
pub const MAX_SEALED_BYTES: usize = 64 * 1024;
/// Larger values stand in no list and no object; the value's own address has them.
pub const MAX_SHOWN_BYTES: usize = 4 * 1024;
/// Versions that are kept of each value.
pub const KEPT_VERSIONS: usize = 20;

words! {
    /// What a resource holds.
    pub enum ResourceKind {
        /// A text of at most 1 MiB.
        Text,
        /// A whole number from -2^63 to 2^63-1.
        Integer,
        /// Any number.
        Number,
        /// True or false.
        Boolean,
        /// Any JSON of at most 1 MiB.
        Json,
        /// `{username, password}`, sealed.
        Credential,
        /// A text of at most 64 KiB, sealed.
        Secret,
        /// `{rest_days, holidays, working_days}`: which days are working days.
        Calendar,
    }

    /// For whom a value is meant. A robot finds its own value, else that of the first of its groups by name (`all` comes
    /// last), else the default.
    pub enum ResourceScope {
        /// For everybody who has no value of their own.
        Default,
        /// For the robots of a group.
        Group,
        /// For one robot.
        Robot,
    }

    /// A day of the week.
    pub enum Weekday {
        Monday,
        Tuesday,
        Wednesday,
        Thursday,
        Friday,
        Saturday,
        Sunday,
    }
}

impl ResourceKind {
    /// Whether its values are sealed at rest and stand in no list.
    pub const fn is_sealed(self) -> bool {
        matches!(self, Self::Credential | Self::Secret)
    }
}

/// The value of a resource of the kind `credential`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    pub username: String,
    pub password: String,
}

/// The value of a resource of the kind `calendar`: days are working days, but for the weekly days of rest and the
/// holidays; the days listed last are working days all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Calendar {
    #[serde(default)]
    pub rest_days: Vec<Weekday>,
    /// Dates, as `2026-01-01`.
    #[serde(default)]
    #[schema(example = json!(["2026-01-01"]))]
    pub holidays: Vec<String>,
    #[serde(default)]
    pub working_days: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Resource {
    pub id: ResourceId,
    #[schema(example = "erp-login")]
    pub name: String,
    pub description: String,
    pub kind: ResourceKind,
    /// Its values are sealed at rest; they are read at the value's own address only, and each reading is audited.
    pub sealed: bool,
    /// Jobs whose version declares the resource may change its value.
    pub writable_by_jobs: bool,
    #[schema(required)]
    pub expires_at: Option<Timestamp>,
    pub expired: bool,
    /// Whether there is a default value.
    pub has_value: bool,
    /// The default value; null if there is none, if it is sealed, or if it is larger than 4 KiB.
    #[schema(required)]
    pub value: Option<Value>,
    /// The size of the default value as JSON.
    #[schema(required)]
    pub size_bytes: Option<u64>,
    /// How many robots and groups have a value of their own (at most 1000).
    pub override_count: u32,
    /// Their values; only where one resource is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<Vec<ResourceOverride>>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Who changed it last.
    pub updated_by: String,
    pub revision: u64,
}

/// A value of a robot or a group.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ResourceOverride {
    pub scope: ResourceScope,
    /// Id of the robot or group.
    pub scope_id: Uuid,
    pub scope_name: String,
    /// Null if it is sealed or larger than 4 KiB.
    #[schema(required)]
    pub value: Option<Value>,
    pub size_bytes: u64,
    pub version: u64,
    pub updated_at: Timestamp,
    pub updated_by: String,
}

/// `POST /resources`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewResource {
    #[schema(min_length = 1, max_length = 128)]
    pub name: String,
    #[serde(default)]
    #[schema(max_length = 2048)]
    pub description: String,
    pub kind: ResourceKind,
    /// The default value; it can be set later, or for robots and groups only.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::patch::nullable")]
    #[schema(value_type = Option<Value>, required = false)]
    pub value: Option<Option<Value>>,
    #[serde(default)]
    pub writable_by_jobs: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// `PATCH /resources/{resource}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourcePatch {
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, min_length = 1, max_length = 128)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, max_length = 2048)]
    pub description: Option<String>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = bool, required = false)]
    pub writable_by_jobs: Option<bool>,
    /// Null: it does not expire.
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Timestamp>, required = false)]
    pub expires_at: Option<Option<Timestamp>>,
}

/// `PUT /resources/{resource}/value`, and the same for a robot or a group.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewResourceValue {
    /// What the resource's kind asks for; for a credential `{username, password}`.
    #[schema(required)]
    pub value: Value,
}

/// A value, sealed ones opened.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct ResourceValue {
    pub resource_id: ResourceId,
    pub name: String,
    pub kind: ResourceKind,
    pub value: Value,
    /// Whose value it is.
    pub scope: ResourceScope,
    #[schema(required)]
    pub scope_id: Option<Uuid>,
    #[schema(required)]
    pub scope_name: Option<String>,
    pub version: u64,
    pub updated_at: Timestamp,
    pub updated_by: String,
    #[schema(required)]
    pub expires_at: Option<Timestamp>,
    pub expired: bool,
}

/// One version of a value.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ResourceVersion {
    /// Counted over all values of the resource.
    pub version: u64,
    pub scope: ResourceScope,
    #[schema(required)]
    pub scope_id: Option<Uuid>,
    #[schema(required)]
    pub scope_name: Option<String>,
    /// Whether it is the value that counts now.
    pub current: bool,
    /// Null if it is sealed or larger than 4 KiB.
    #[schema(required)]
    pub value: Option<Value>,
    pub size_bytes: u64,
    pub created_at: Timestamp,
    pub created_by: String,
}

/// Filters of `GET /resources`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ResourceFilter {
    /// Only resources of this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ResourceKind>,
    /// A part of the name, in any case of letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q: Option<String>,
    /// Only what has expired or will within so many days, the soonest first; `true` means 30 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(pattern = "^(true|[0-9]{1,4})$")]
    pub expiring: Option<String>,
}

/// For whom a value is meant: a robot, a group, or (neither) everybody.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ValueFor {
    /// Id or name of a robot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub robot: Option<String>,
    /// Id or name of a robot group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}
