//! The figures of the console's first page.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ProcessId, QueueId, Timestamp, TriggerId, alert::RaisedAlert};

/// Robots by their state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RobotFigures {
    pub offline: u64,
    pub idle: u64,
    pub busy: u64,
    pub draining: u64,
    pub paused: u64,
    pub disabled: u64,
}

/// Jobs that have finished, by their outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutcomeFigures {
    pub succeeded: u64,
    pub failed: u64,
    pub stopped: u64,
    pub aborted: u64,
    pub timed_out: u64,
    pub lost: u64,
}

/// Jobs by their state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobFigures {
    pub waiting: u64,
    pub assigned: u64,
    pub running: u64,
    pub silent: u64,
    pub stopping: u64,
    /// Those that have finished in this hour (UTC) and the 23 hours before it.
    pub finished: OutcomeFigures,
}

/// A queue with what waits in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueFigures {
    pub queue_id: QueueId,
    #[schema(example = "invoices")]
    pub name: String,
    pub paused: bool,
    pub new: u64,
    pub in_progress: u64,
    pub postponed: u64,
    /// When the task came that waits longest.
    #[schema(required)]
    pub oldest_new_at: Option<Timestamp>,
}

/// What alerts have raised and is not over.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AlertFigures {
    pub raised: u64,
    /// Of these nobody has said that they have seen to it.
    pub unacknowledged: u64,
    /// The newest ones.
    pub items: Vec<RaisedAlert>,
}

/// When a trigger fires next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NextFire {
    pub at: Timestamp,
    pub trigger_id: TriggerId,
    #[schema(example = "nightly invoices")]
    pub name: String,
    pub process_id: ProcessId,
}

/// How the use of the disk grows, and when the disk is full if that goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskForecast {
    /// The median of what was added within a day, by whomever, during the last two weeks. Negative if the use shrinks.
    pub growth_bytes_per_day: i64,
    /// Null if it does not grow, or if it would take longer than ten years.
    #[schema(required)]
    pub full_in_days: Option<u64>,
    /// For how many days it was looked at, 14 at the most: the more there are, the less it counts what came once.
    pub observed_days: u64,
}

/// The disk on which the coordinator keeps its store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskFigures {
    pub free_bytes: u64,
    pub total_bytes: u64,
    /// It is low, so that an alert about it would be raised.
    pub low: bool,
    /// It is full: writes are refused.
    pub full: bool,
    /// Null before there are samples of a whole day.
    #[schema(required)]
    pub forecast: Option<DiskForecast>,
}

/// The figures of the console's first page. What the caller may not read is null.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Overview {
    pub at: Timestamp,
    #[schema(required)]
    pub robots: Option<RobotFigures>,
    #[schema(required)]
    pub jobs: Option<JobFigures>,
    /// Those with tasks that wait, the one whose task has waited longest first; then those with other tasks to do.
    #[schema(required)]
    pub queues: Option<Vec<QueueFigures>>,
    #[schema(required)]
    pub alerts: Option<AlertFigures>,
    /// The next ones of all triggers.
    #[schema(required)]
    pub next_fires: Option<Vec<NextFire>>,
    /// Null also where the store lies in memory.
    #[schema(required)]
    pub disk: Option<DiskFigures>,
}
