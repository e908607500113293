//! Robots: installed agents, each bound to one OS account of one host.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{JobId, RobotGroupId, RobotId, Timestamp, words::words};

/// Who may start jobs on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RobotKind {
    #[default]
    Unattended,
    Attended,
}

words! {
    /// What the coordinator knows of it, by time and settings alone.
    pub enum RobotState {
        /// No contact for 60 seconds.
        Offline,
        /// Ready, holds no job.
        Idle,
        /// Holds jobs.
        Busy,
        /// Finishes its jobs, takes none.
        Draining,
        /// Takes no jobs until the pause ends.
        Paused,
        /// Takes no jobs until it is enabled.
        Disabled,
    }
}

/// Facts about the host, as its agent reports them at start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Host {
    #[schema(max_length = 256)]
    pub hostname: String,
    /// `linux`, `windows`, …
    #[schema(max_length = 256)]
    pub os: String,
    #[schema(max_length = 256)]
    pub os_version: String,
    #[schema(max_length = 256)]
    pub arch: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    #[schema(max_length = 256)]
    pub agent_version: String,
    #[schema(max_length = 256)]
    pub ip: String,
    #[schema(max_length = 256)]
    pub mac: String,
    /// The OS account that the agent runs as.
    #[schema(max_length = 256)]
    pub user: String,
    /// IANA name.
    #[schema(max_length = 256)]
    pub time_zone: String,
    /// Labels that the host's own configuration gives the robot; those set by people win.
    #[schema(schema_with = crate::labels::schema)]
    pub labels: BTreeMap<String, String>,
    /// Jobs at once, if the host's own configuration limits them.
    #[schema(minimum = 1, maximum = 1000)]
    pub capacity: Option<u32>,
}

/// One reading of the host's condition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<f32>,
    pub memory_used_bytes: u64,
    pub memory_total_bytes: u64,
    pub disk_free_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_1m: Option<f32>,
}

/// A reading and when it was received.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HealthSample {
    pub at: Timestamp,
    #[serde(flatten)]
    pub health: Health,
}

words! {
    /// How a pause treats the jobs that run.
    pub enum PauseMode {
        /// Let them end.
        Drain,
        /// Ask them to stop, force after their grace.
        Stop,
        /// End them at once.
        Abort,
    }
}

/// That no new jobs are taken, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Paused {
    pub since: Timestamp,
    /// It ends by itself then.
    #[schema(required)]
    pub until: Option<Timestamp>,
    pub reason: String,
    pub by: String,
    pub mode: PauseMode,
    /// Set when the pause is that of a group: its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// `POST …/pause` of a robot or group.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PauseRequest {
    pub mode: PauseMode,
    #[schema(max_length = 512)]
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// A robot.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Robot {
    pub id: RobotId,
    #[schema(example = "accounting-01")]
    pub name: String,
    pub description: String,
    pub enabled: bool,
    pub kind: RobotKind,
    /// Groups it is a member of, besides `all`.
    pub groups: Vec<RobotGroupId>,
    pub labels: BTreeMap<String, String>,
    /// Jobs at once.
    pub capacity: u32,
    /// Empty until the agent has joined.
    #[schema(required)]
    pub host: Option<Host>,
    pub state: RobotState,
    #[schema(required)]
    pub paused: Option<Paused>,
    /// Jobs it holds now.
    pub running: Vec<JobId>,
    #[schema(required)]
    pub last_seen_at: Option<Timestamp>,
    #[schema(required)]
    pub joined_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub revision: u64,
}

/// `POST /robots`: a record in advance; its agent joins later with the token of the answer.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRobot {
    #[schema(min_length = 1, max_length = 128)]
    pub name: String,
    #[serde(default)]
    #[schema(max_length = 2048)]
    pub description: String,
    #[serde(default)]
    pub kind: RobotKind,
    /// Ids or names.
    #[serde(default)]
    #[schema(max_items = 100)]
    pub groups: Vec<String>,
    #[serde(default)]
    #[schema(schema_with = crate::labels::schema)]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000)]
    pub capacity: Option<u32>,
}

/// The answer to `POST /robots`: the robot and the token with which its agent joins, shown only here.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreatedRobot {
    #[serde(flatten)]
    pub robot: Robot,
    pub join_token: String,
}

/// `PATCH /robots/{robot}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RobotPatch {
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, min_length = 1, max_length = 128)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, max_length = 2048)]
    pub description: Option<String>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = bool, required = false)]
    pub enabled: Option<bool>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = RobotKind, required = false)]
    pub kind: Option<RobotKind>,
    /// Ids or names; replaces the list.
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<String>, required = false, max_items = 100)]
    pub groups: Option<Vec<String>>,
    /// A merge patch of its own: a label that is null is removed.
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = BTreeMap<String, Option<String>>, required = false)]
    pub labels: Option<BTreeMap<String, Option<String>>>,
    /// Null: as the host says, else 1.
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    pub capacity: Option<Option<u32>>,
}

/// `GET /robots/{robot}/status`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RobotStatus {
    pub state: RobotState,
    pub running: Vec<JobId>,
    #[schema(required)]
    pub last_seen_at: Option<Timestamp>,
    #[schema(required)]
    pub paused: Option<Paused>,
    #[schema(required)]
    pub health: Option<HealthSample>,
}

/// Filters of `GET /robots`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RobotFilter {
    /// Only robots in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<RobotState>,
    /// Id or name of a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `key:value`, repeatable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub label: Vec<String>,
    /// Part of the name, whatever the case of letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q: Option<String>,
}

/// `?hours=` of `GET /robots/{robot}/health`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RobotHealthQuery {
    /// How far back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 24, default = 1)]
    pub hours: Option<u32>,
}
