//! Robot groups: named sets of robots, targets of jobs. The group `all` always exists and holds every robot.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{RobotGroupId, Timestamp, robot::Paused};

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RobotGroup {
    pub id: RobotGroupId,
    #[schema(example = "accounting")]
    pub name: String,
    pub description: String,
    /// False: its robots take no jobs that are meant for this group.
    pub enabled: bool,
    pub paused: Option<Paused>,
    /// How many robots are in it.
    pub robot_count: u64,
    pub created_at: Timestamp,
    pub revision: u64,
}

/// `POST /robot-groups`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRobotGroup {
    #[schema(max_length = 128, example = "accounting")]
    pub name: String,
    #[serde(default)]
    #[schema(max_length = 2048)]
    pub description: String,
}

/// `PATCH /robot-groups/{group}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RobotGroupPatch {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}
