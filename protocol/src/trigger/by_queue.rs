//! Triggers that start jobs for the tasks of a queue.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How many jobs a trigger of kind `queue` starts for the tasks that wait to be taken.
///
/// Once `threshold` tasks wait, it sees to it that so many of its jobs are unfinished as there are `tasks_per_job` in the
/// number of these tasks, rounded up, but at least `min_jobs` and at most `max_jobs`. It looks again when tasks come, come
/// due, come back or are retried, and when a job of it ends, though at most five times in a second; what has ended is made
/// up for a second after the last fire at the earliest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ByQueue {
    /// Id or name; answers say the id.
    #[schema(example = "invoices")]
    pub queue: String,
    /// Only tasks that have all of these tags, and none of those with a `-` before them. With tags, up to 10,000 waiting
    /// tasks are looked at.
    #[serde(default)]
    #[schema(max_items = 20)]
    pub tags: Vec<String>,
    /// While fewer tasks wait, no job is started. 0: `min_jobs` run even if no task waits.
    #[serde(default = "one")]
    #[schema(minimum = 0, maximum = 1000000000)]
    pub threshold: u64,
    #[serde(default = "one_job")]
    #[schema(minimum = 1, maximum = 1000000)]
    pub tasks_per_job: u32,
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1000)]
    pub min_jobs: u32,
    #[serde(default = "one_job")]
    #[schema(minimum = 1, maximum = 1000)]
    pub max_jobs: u32,
    /// When no task waits any more, jobs of the trigger that hold no task are asked to stop (softly, with the grace of
    /// their process), whatever `min_jobs` says. A job that holds a task is asked when it has ended it.
    #[serde(default)]
    pub end_when_empty: bool,
}

fn one() -> u64 {
    1
}

fn one_job() -> u32 {
    1
}
