//! Robots and robot groups, and what state a robot is in by time and settings alone.

use std::collections::{BTreeMap, BTreeSet};

use drover_protocol::{
    JoinTokenId, RobotGroupId, RobotId, Timestamp,
    robot::{Health, Host, PauseMode, RobotKind, RobotState},
};
use serde::{Deserialize, Serialize};

/// Without contact for this long a robot is offline.
pub const OFFLINE_AFTER_SECONDS: u64 = 60;
/// Health samples are kept one a minute for a day.
pub const HEALTH_SLOTS: u16 = 24 * 60;
pub const MAX_CAPACITY: u32 = 1_000;
/// The group that always exists and holds every robot.
pub const ALL_GROUP: &str = "all";

/// That no new jobs are taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub mode: PauseMode,
    pub since: Timestamp,
    pub until: Option<Timestamp>,
    pub reason: String,
    /// The name of whoever paused, for people.
    pub by: String,
    /// The same as causes and events name it: `user:<id>`.
    pub asked_by: String,
}

impl Pause {
    pub fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Robot {
    pub id: RobotId,
    pub name: String,
    pub description: String,
    pub enabled: bool,
    pub kind: RobotKind,
    /// Besides `all`, of which every robot is a member.
    pub groups: BTreeSet<RobotGroupId>,
    /// Set by people; they win over those of the host.
    pub labels: BTreeMap<String, String>,
    /// Set by people; absent: what the host says, else 1.
    pub capacity: Option<u32>,
    pub machine_id: Option<String>,
    /// The token it joined with last.
    #[serde(default)]
    pub join_token_id: Option<JoinTokenId>,
    pub host: Option<Host>,
    pub pause: Option<Pause>,
    pub last_seen_at: Option<Timestamp>,
    pub joined_at: Option<Timestamp>,
    /// Looked at then, and told as offline unless it was heard of meanwhile. Absent: it was told as offline, or never came.
    #[serde(default)]
    pub offline_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub revision: u64,
}

impl Robot {
    /// Jobs at once: what people set, but never more than the host allows.
    pub fn capacity(&self) -> u32 {
        let host = self.host.as_ref().and_then(|host| host.capacity);
        match (self.capacity, host) {
            (Some(set), Some(host)) => set.min(host),
            (Some(set), None) => set,
            (None, Some(host)) => host,
            (None, None) => 1,
        }
        .clamp(1, MAX_CAPACITY)
    }

    /// All labels, those of the host included.
    pub fn effective_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.host.as_ref().map(|host| host.labels.clone()).unwrap_or_default();
        labels.extend(self.labels.clone());
        labels
    }

    pub fn is_online(&self, now: Timestamp) -> bool {
        self.last_seen_at.is_some_and(|seen| now.since(seen).as_secs() < OFFLINE_AFTER_SECONDS)
    }

    /// The state that is shown.
    pub fn state(&self, standing: &Standing, held: usize, now: Timestamp) -> RobotState {
        if !self.enabled || standing.disabled_group.is_some() {
            RobotState::Disabled
        } else if !self.is_online(now) {
            RobotState::Offline
        } else if standing.pause.is_some() {
            if held > 0 { RobotState::Draining } else { RobotState::Paused }
        } else if held > 0 {
            RobotState::Busy
        } else {
            RobotState::Idle
        }
    }
}

/// What a robot's own settings and those of its groups come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// A group of it that is disabled.
    pub disabled_group: Option<String>,
    /// The strictest pause that holds now, and the group it comes from unless it is the robot's own.
    pub pause: Option<(Pause, Option<String>)>,
}

/// Weighs a robot and the groups it is in.
pub fn standing<'a>(robot: &Robot, groups: impl Iterator<Item = &'a RobotGroup>, now: Timestamp) -> Standing {
    let own = robot.pause.clone().map(|pause| (pause, None));
    let mut pauses: Vec<(Pause, Option<String>)> = own.into_iter().collect();
    let mut disabled_group = None;
    for group in groups {
        if !group.enabled {
            disabled_group.get_or_insert_with(|| group.name.clone());
        }
        pauses.extend(group.pause.clone().map(|pause| (pause, Some(group.name.clone()))));
    }
    let strictness = |pause: &Pause| match pause.mode {
        PauseMode::Drain => 0,
        PauseMode::Stop => 1,
        PauseMode::Abort => 2,
    };
    let pause = pauses.into_iter().filter(|(pause, _)| pause.holds(now)).max_by_key(|(pause, _)| strictness(pause));
    Standing { disabled_group, pause }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RobotGroup {
    pub id: RobotGroupId,
    pub name: String,
    pub description: String,
    pub enabled: bool,
    pub pause: Option<Pause>,
    /// Members; counted as they come and go.
    pub robot_count: u64,
    pub created_at: Timestamp,
    pub revision: u64,
}

impl RobotGroup {
    /// Whether it is the group of all robots.
    pub fn is_all(&self) -> bool {
        self.name == ALL_GROUP
    }
}

/// A reading of the host's condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub at: Timestamp,
    pub health: Health,
}

/// The place of a sample in the ring of a day.
pub fn health_slot(at: Timestamp) -> u16 {
    let minute = (at.millis() / 60_000) % i64::from(HEALTH_SLOTS);
    u16::try_from(minute).unwrap_or_default()
}
