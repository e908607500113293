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
    #[schema(required)]
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
    #[schema(min_length = 1, max_length = 128)]
    pub name: String,
    #[serde(default)]
    #[schema(max_length = 2048)]
    pub description: String,
}

/// `PATCH /robot-groups/{group}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RobotGroupPatch {
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, min_length = 1, max_length = 128)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, max_length = 2048)]
    pub description: Option<String>,
}
