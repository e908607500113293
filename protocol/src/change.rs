//! Changes of objects, as `GET /events` tells them.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{Timestamp, words::words};

words! {
    /// What kind of object.
    pub enum Noun {
        Account,
        User,
        Key,
        JoinToken,
        Robot,
        RobotGroup,
        Process,
        Version,
        Job,
        Queue,
        Task,
        Trigger,
        Resource,
        Storage,
        File,
        Webhook,
        Alert,
        RaisedAlert,
    }
}

impl Noun {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::User => "user",
            Self::Key => "key",
            Self::JoinToken => "join_token",
            Self::Robot => "robot",
            Self::RobotGroup => "robot_group",
            Self::Process => "process",
            Self::Version => "version",
            Self::Job => "job",
            Self::Queue => "queue",
            Self::Task => "task",
            Self::Trigger => "trigger",
            Self::Resource => "resource",
            Self::Storage => "storage",
            Self::File => "file",
            Self::Webhook => "webhook",
            Self::Alert => "alert",
            Self::RaisedAlert => "raised_alert",
        }
    }
}

/// A change of an object, as the `data` of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ObjectChange {
    /// `<noun>.created`, `<noun>.changed` or `<noun>.deleted`.
    #[serde(rename = "type")]
    #[schema(example = "job.changed")]
    pub kind: String,
    pub noun: Noun,
    pub id: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    pub at: Timestamp,
}

/// Filter of `GET /events`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ChangeFilter {
    /// Only changes of these kinds of objects; repeatable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub noun: Vec<Noun>,
}
