//! Join tokens: with one, an agent becomes a robot of the account.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{JoinTokenId, RobotGroupId, RobotId, Timestamp};

/// A join token, without its text.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct JoinToken {
    pub id: JoinTokenId,
    /// Robots that join with it become members of this group.
    #[schema(required)]
    pub group_id: Option<RobotGroupId>,
    /// It binds to this robot record, made in advance.
    #[schema(required)]
    pub robot_id: Option<RobotId>,
    pub uses: u32,
    pub uses_left: u32,
    pub expires_at: Timestamp,
    /// Joining is possible only from these addresses.
    #[schema(required)]
    pub cidr: Option<String>,
    pub created_at: Timestamp,
}

/// `POST /join-tokens`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJoinToken {
    /// Id or name of the group that the robots enter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// How many robots may join with it (1 to 10000).
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 10000, default = 1)]
    pub uses: u32,
    /// How long it is valid (60 to 31536000).
    #[serde(default = "a_day")]
    #[schema(minimum = 60, maximum = 31536000, default = 86400)]
    pub expires_in_seconds: u64,
    /// Only hosts of this network may join with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "10.1.0.0/16")]
    pub cidr: Option<String>,
}

fn one() -> u32 {
    1
}

fn a_day() -> u64 {
    86_400
}

/// The answer to `POST /join-tokens`: the token and, only here, its text.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreatedJoinToken {
    #[serde(flatten)]
    pub details: JoinToken,
    pub token: String,
}
