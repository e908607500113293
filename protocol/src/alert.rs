//! Alerts: rules that say what people want to be told of, and what was raised by them.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{AlertId, ProcessId, QueueId, RaisedAlertId, RobotGroupId, Timestamp, words::words};

words! {
    /// What an alert watches. One alert is raised for each object that it concerns, until it is over for that object.
    pub enum AlertWhen {
        /// Jobs of a process fail or exceed their time, until one succeeds.
        JobFailed,
        /// Jobs of a process are lost with their robot, until one succeeds.
        JobLost,
        /// Jobs of a process have waited for longer than `after_seconds`.
        JobWaiting,
        /// Jobs of a process have run for longer than `after_seconds`.
        JobRunningLong,
        /// The oldest task of a queue has waited for longer than `after_seconds`, or than `sla_seconds` of the queue.
        TaskOverSla,
        /// Nothing was heard of a robot for `after_seconds`, or a minute. A disabled robot may be silent.
        RobotOffline,
        /// The time of a trigger has come and no job was started, until it fires again.
        TriggerMissed,
        /// A resource expires within `after_seconds`, or a week, or has expired.
        ResourceExpiring,
        /// The disk of the coordinator is nearly full, or that of a robot.
        DiskLow,
    }

    /// Whether what an alert watches still goes on.
    pub enum RaisedState {
        Raised,
        Ended,
    }
}

/// Where people are told: exactly one of the members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AlertChannel {
    /// Addresses of people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 20, example = json!(["operations@example.com"]))]
    pub email: Option<Vec<String>>,
    /// Id or name of a webhook: it is sent `alert.raised` whatever else it wants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<String>,
    /// True: in the console, where all alerts are shown anyway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console: Option<bool>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Alert {
    pub id: AlertId,
    #[schema(example = "invoices fail")]
    pub name: String,
    pub description: String,
    pub enabled: bool,
    pub when: AlertWhen,
    /// Only what concerns this process.
    #[schema(required)]
    pub process_id: Option<ProcessId>,
    /// Only this queue.
    #[schema(required)]
    pub queue_id: Option<QueueId>,
    /// Only robots of this group, or jobs for it.
    #[schema(required)]
    pub group_id: Option<RobotGroupId>,
    #[schema(required)]
    pub after_seconds: Option<u64>,
    pub channels: Vec<AlertChannel>,
    pub created_at: Timestamp,
    pub revision: u64,
}

/// `POST /alerts`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAlert {
    #[schema(min_length = 1, max_length = 128)]
    pub name: String,
    #[serde(default)]
    #[schema(max_length = 2048)]
    pub description: String,
    /// True if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    pub when: AlertWhen,
    /// Id or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Id or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Id or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31536000)]
    pub after_seconds: Option<u64>,
    #[schema(min_items = 1, max_items = 20)]
    pub channels: Vec<AlertChannel>,
}

/// `PATCH /alerts/{alert}`. What it watches stays.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AlertPatch {
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, min_length = 1, max_length = 128)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, max_length = 2048)]
    pub description: Option<String>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = bool, required = false)]
    pub enabled: Option<bool>,
    /// Id or name.
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    pub process: Option<Option<String>>,
    /// Id or name.
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    pub queue: Option<Option<String>>,
    /// Id or name.
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    pub group: Option<Option<String>>,
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31536000)]
    pub after_seconds: Option<Option<u64>>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<AlertChannel>, required = false, min_items = 1, max_items = 20)]
    pub channels: Option<Vec<AlertChannel>>,
}

/// The object that an alert was raised for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertSubject {
    #[schema(example = "process")]
    pub noun: String,
    pub id: Uuid,
    #[schema(required, example = "invoices")]
    pub name: Option<String>,
}

/// That somebody has seen to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Acknowledgement {
    pub at: Timestamp,
    /// Name of whoever did it.
    #[schema(example = "admin")]
    pub by: String,
    pub note: String,
}

/// What an alert has raised.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RaisedAlert {
    pub id: RaisedAlertId,
    pub alert_id: AlertId,
    #[schema(example = "invoices fail")]
    pub alert_name: String,
    pub when: AlertWhen,
    pub state: RaisedState,
    pub subject: AlertSubject,
    /// What is the matter, in words, as it was last.
    #[schema(example = "job 0192f6c4-7a10-7cc3-98c4-dc0c0c070006 of invoices has failed: exit code 1")]
    pub text: String,
    /// How often it has happened since it was raised.
    pub count: u64,
    pub raised_at: Timestamp,
    pub last_at: Timestamp,
    #[schema(required)]
    pub ended_at: Option<Timestamp>,
    /// Why it is over.
    #[schema(required)]
    pub ended_because: Option<String>,
    #[schema(required)]
    pub acknowledged: Option<Acknowledgement>,
}

/// `POST /alerts/raised/{raised}/acknowledge`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcknowledgeAlert {
    #[serde(default)]
    #[schema(max_length = 2048)]
    pub note: String,
}

/// Filter of `GET /alerts/raised`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RaisedFilter {
    /// Only those in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<RaisedState>,
    /// Only those of this alert (id or name).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert: Option<String>,
}
