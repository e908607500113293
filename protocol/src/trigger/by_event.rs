//! Triggers that fire when something happens.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{job::Outcome, words::words};

words! {
    /// What a trigger of kind `event` fires on.
    pub enum EventOn {
        /// A job has ended, whatever its outcome.
        JobFinished,
        /// A task has failed and is not tried again by itself.
        TaskFailed,
        /// A file was added to a storage folder that people made, or replaced there, be it written, copied or moved.
        FileAdded,
        /// Nothing was heard of a robot for a minute.
        RobotOffline,
    }
}

/// What a trigger of kind `event` fires on, once each time. The input of the job gets a member `event` that says what
/// happened: `id`, `type`, `time`, the object's `noun`, `object_id` and `name`, and what is to know about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ByEvent {
    pub on: EventOn,
    /// Of `job_finished`: only jobs of this process (id or name; answers say the id, here and below).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Of `job_finished`: only jobs that have ended so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Of `task_failed`: only tasks of this queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Of `file_added`: only files of this folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// Of `robot_offline`: only robots of this group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Whether it also fires on what its own jobs do: that they finish, fail a task, add or move a file, or that jobs do so
    /// which they have started. False if absent, lest it should go on for ever. Triggers that fire on each other's jobs go on for
    /// ten fires in a row; the next is skipped, and the history says why.
    #[serde(default)]
    pub own_jobs: bool,
}
