//! Typed ids: one Rust type per noun, so that a robot's id can never be passed where a job's is meant.
//!
//! An id is a UUID version 7 (ordered by its time of birth) and never a credential. Ids are made in one place only,
//! the coordinator's transaction; this file just carries them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = String, format = Uuid, example = "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f")]
        pub struct $name(Uuid);

        impl $name {
            /// Gives a UUID the meaning of this noun.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The bare UUID, for keys of the store.
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            /// Accepts the hyphenated form only, the one form in which ids are written.
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let uuid = Uuid::try_parse(text)?;
                if text.len() == 36 { Ok(Self(uuid)) } else { Err(Uuid::try_parse("").expect_err("an empty text is no id")) }
            }
        }
    )* };
}

ids! {
    /// Id of an account.
    AccountId,
    /// Id of a user.
    UserId,
    /// Id of an API key (not its text).
    KeyId,
    /// Id of a join token (not its text).
    JoinTokenId,
    /// Id of a robot.
    RobotId,
    /// Id of a robot group.
    RobotGroupId,
    /// Id of a process.
    ProcessId,
    /// Id of a process version.
    ProcessVersionId,
    /// Id of a job.
    JobId,
    /// Id of a resource.
    ResourceId,
    /// Id of a trigger.
    TriggerId,
    /// Id of an event of any object.
    EventId,
    /// Id of a stored file.
    FileId,
    /// Id of a storage folder.
    FolderId,
    /// Id of a sealed block of log lines.
    LogBlockId,
    /// Id of a queue.
    QueueId,
    /// Id of a task.
    TaskId,
    /// Id of news: something that happened, as it is told to those who want to know.
    NewsId,
    /// Id of a webhook.
    WebhookId,
    /// Id of a delivery of news to a webhook.
    DeliveryId,
    /// Id of an alert rule.
    AlertId,
    /// Id of an alert that was raised.
    RaisedAlertId,
    /// Id of a role that people made.
    RoleId,
}
