//! News: what happened in an account, as webhooks, alerts and triggers are told.

use serde::{Deserialize, Serialize};
use utoipa::openapi::{RefOr, schema::Schema};

macro_rules! news_types {
    ($($(#[doc = $meaning:literal])* $name:ident = $text:literal,)*) => {
        /// What kind of news: `<noun>.<verb in the past>`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum NewsType { $($(#[doc = $meaning])* #[serde(rename = $text)] $name,)* }

        impl NewsType {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The text on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }

        impl utoipa::ToSchema for NewsType {}

        impl utoipa::PartialSchema for NewsType {
            fn schema() -> RefOr<Schema> {
                let words = [$((serde_json::to_value(Self::$name), concat!($($meaning),*)),)*];
                crate::words::schema("What kind of news: `<noun>.<verb in the past>`.", words)
            }
        }
    };
}

news_types! {
    /// A job was started by a caller or a trigger, and waits for a robot.
    JobCreated = "job.created",
    /// A job was given to a robot.
    JobAssigned = "job.assigned",
    /// A robot has accepted a job and runs it.
    JobStarted = "job.started",
    /// A job has ended, whatever its outcome.
    JobFinished = "job.finished",
    /// A task came into a queue.
    TaskAdded = "task.added",
    /// A task was taken by a job or another caller.
    TaskTaken = "task.taken",
    /// A task was done.
    TaskSucceeded = "task.succeeded",
    /// A task has failed and is not tried again by itself.
    TaskFailed = "task.failed",
    /// A task was put back for later.
    TaskPostponed = "task.postponed",
    /// A task was abandoned: nobody took it in time, or its holder was not heard of.
    TaskAbandoned = "task.abandoned",
    /// A trigger has started jobs.
    TriggerFired = "trigger.fired",
    /// A trigger did not start a job although its time had come.
    TriggerMissed = "trigger.missed",
    /// An agent has joined as this robot.
    RobotJoined = "robot.joined",
    /// A robot is heard of again.
    RobotOnline = "robot.online",
    /// Nothing was heard of a robot for a minute.
    RobotOffline = "robot.offline",
    /// A robot, or all robots of a group, take no new jobs.
    RobotPaused = "robot.paused",
    /// Another version of a process is the active one.
    VersionActivated = "version.activated",
    /// An alert was raised.
    AlertRaised = "alert.raised",
    /// A file was added to a storage folder, or replaced.
    FileAdded = "file.added",
}

impl std::fmt::Display for NewsType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
