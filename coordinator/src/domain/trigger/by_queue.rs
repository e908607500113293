//! How many jobs the tasks of a queue need.

use drover_protocol::{QueueId, Timestamp, trigger::ByQueue};

/// Waiting tasks with the wanted tags that are counted at the most.
pub const MAX_COUNTED: u64 = 10_000;
/// So long a trigger rests after it was looked at, in milliseconds: tasks that come by the thousand are one look.
const REST_MILLIS: i64 = 200;

/// What was seen of the queue of a trigger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub queue_id: QueueId,
    /// Tasks that wait to be taken and have the tags.
    pub waiting: u64,
    /// The count of changes of the queue's tasks then.
    pub changes: u64,
    pub is_paused: bool,
}

/// Until when a trigger rests that is looked at now.
pub fn rest_until(now: Timestamp) -> Timestamp {
    Timestamp::from_millis(now.millis() + REST_MILLIS)
}

/// How many unfinished jobs there are to be while so many tasks wait.
pub fn jobs_for(settings: &ByQueue, waiting: u64) -> u32 {
    if waiting < settings.threshold {
        return 0;
    }
    let wanted = waiting.div_ceil(u64::from(settings.tasks_per_job.max(1)));
    let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
    wanted.max(settings.min_jobs).min(settings.max_jobs)
}

/// As many waiting tasks as can make a difference.
pub fn enough(settings: &ByQueue) -> u64 {
    settings.threshold.max(u64::from(settings.max_jobs) * u64::from(settings.tasks_per_job))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(threshold: u64, tasks_per_job: u32, min_jobs: u32, max_jobs: u32) -> ByQueue {
        let (queue, tags) = ("q".to_owned(), Vec::new());
        ByQueue { queue, tags, threshold, tasks_per_job, min_jobs, max_jobs, end_when_empty: false }
    }

    #[test]
    fn jobs_follow_the_waiting_tasks_within_their_bounds() {
        let ten_each = settings(1, 10, 2, 5);
        let wanted = [0, 1, 19, 20, 21, 41, 1_000_000].map(|waiting| jobs_for(&ten_each, waiting));
        assert_eq!(wanted, [0, 2, 2, 2, 3, 5, 5]);
    }

    #[test]
    fn nothing_is_started_below_the_threshold_and_a_threshold_of_none_keeps_the_least() {
        assert_eq!([4, 5, 6].map(|waiting| jobs_for(&settings(5, 1, 0, 9), waiting)), [0, 5, 6]);
        assert_eq!([0, 1, 3].map(|waiting| jobs_for(&settings(0, 1, 2, 9), waiting)), [2, 2, 3]);
        assert_eq!(jobs_for(&settings(0, 1, 0, 9), 0), 0);
    }

    /// Counting further than this cannot change what is decided.
    #[test]
    fn enough_is_enough() {
        for settings in [settings(7, 3, 0, 4), settings(50, 1, 1, 10)] {
            let enough = enough(&settings);
            assert_eq!(jobs_for(&settings, enough), jobs_for(&settings, u64::MAX));
        }
    }
}
