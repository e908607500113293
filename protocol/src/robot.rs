//! Robots: installed agents, each bound to one OS account of one host.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{JobId, RobotGroupId, RobotId, Timestamp};

/// Who may start jobs on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RobotKind {
    #[default]
    Unattended,
    Attended,
}

/// What the coordinator knows of it, by time and settings alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RobotState {
    /// No contact for 60 seconds.
    Offline,
    Idle,
    Busy,
    /// Finishes its jobs, takes none.
    Draining,
    Paused,
    Disabled,
}

/// Facts about the host, as its agent reports them at start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Host {
    pub hostname: String,
    /// `linux`, `windows`, …
    pub os: String,
    pub os_version: String,
    pub arch: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub agent_version: String,
    pub ip: String,
    pub mac: String,
    /// The OS account that the agent runs as.
    pub user: String,
    /// IANA name.
    pub time_zone: String,
    /// Labels that the host's own configuration gives the robot; those set by people win.
    pub labels: BTreeMap<String, String>,
    /// Jobs at once, if the host's own configuration limits them.
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

/// How a pause treats the jobs that run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PauseMode {
    /// Let them end.
    Drain,
    /// Ask them to stop, force after their grace.
    Stop,
    /// End them at once.
    Abort,
}

/// That no new jobs are taken, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Paused {
    pub since: Timestamp,
    /// It ends by itself then.
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
    #[schema(max_length = 512, example = "Windows updates")]
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
    pub host: Option<Host>,
    pub state: RobotState,
    pub paused: Option<Paused>,
    /// Jobs it holds now.
    pub running: Vec<JobId>,
    pub last_seen_at: Option<Timestamp>,
    pub joined_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub revision: u64,
}

/// `POST /robots`: a record in advance; its agent joins later with the token of the answer.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRobot {
    #[schema(max_length = 128, example = "accounting-01")]
    pub name: String,
    #[serde(default)]
    #[schema(max_length = 2048)]
    pub description: String,
    #[serde(default)]
    pub kind: RobotKind,
    /// Ids or names.
    #[serde(default)]
    pub groups: Vec<String>,
    #[serde(default)]
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<RobotKind>,
    /// Ids or names; replaces the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<String>>,
    /// A merge patch of its own: a label that is null is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, Option<String>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
}

/// `GET /robots/{robot}/status`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RobotStatus {
    pub state: RobotState,
    pub running: Vec<JobId>,
    pub last_seen_at: Option<Timestamp>,
    pub paused: Option<Paused>,
    pub health: Option<HealthSample>,
}

/// Filters of `GET /robots`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RobotFilter {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<RobotState>,
    /// Id or name of a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `key:value`, repeatable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub label: Vec<String>,
    /// Part of the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q: Option<String>,
}

/// `?hours=` of `GET /robots/{robot}/health`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RobotHealthQuery {
    /// How far back (1 to 24).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<u32>,
}
