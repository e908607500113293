//! Queues: named, ordered lists of tasks, with the rules that hold for each task in them.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{
        ObjectBuilder, RefOr,
        schema::{Schema, SchemaType, Type},
    },
};

use crate::{QueueId, Timestamp, robot::Paused};

/// After which ends of an attempt a task is tried again by itself, and when. It also takes `max_attempts` above 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TaskRetry {
    /// After a failure of kind `application`.
    pub application: bool,
    /// After a failure of kind `business`.
    pub business: bool,
    /// After the lease ran out.
    pub abandoned: bool,
    /// How long the first repetition waits at the least.
    #[schema(minimum = 0, maximum = 31536000)]
    pub delay_seconds: u64,
    /// Each further repetition waits so many times longer than the one before. Up to a quarter of each delay is added by
    /// chance, so that what failed together does not come back together.
    #[schema(minimum = 1, maximum = 100)]
    pub factor: f64,
    /// No repetition waits longer.
    #[schema(minimum = 0, maximum = 31536000)]
    pub max_delay_seconds: u64,
}

impl Default for TaskRetry {
    fn default() -> Self {
        Self {
            application: true,
            business: false,
            abandoned: true,
            delay_seconds: 0,
            factor: 2.0,
            max_delay_seconds: 3_600,
        }
    }
}

/// How long ended tasks are kept; 0: for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TaskRetention {
    /// Succeeded tasks.
    #[schema(minimum = 0, maximum = 36500)]
    pub done_days: u32,
    /// Failed and abandoned tasks.
    #[schema(minimum = 0, maximum = 36500)]
    pub failed_days: u32,
}

impl Default for TaskRetention {
    fn default() -> Self {
        Self { done_days: 30, failed_days: 90 }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Queue {
    pub id: QueueId,
    #[schema(example = "invoices")]
    pub name: String,
    pub description: String,
    /// Whether two tasks of this queue may not have the same reference.
    pub unique_references: bool,
    /// Attempts that count, in all, before a task stays failed or abandoned.
    pub max_attempts: u32,
    pub retry: TaskRetry,
    /// How long a taker keeps a task without renewing it.
    pub lease_seconds: u64,
    /// A task that nobody has taken for this long is abandoned.
    #[schema(required)]
    pub abandon_new_after_seconds: Option<u64>,
    /// JSON Schema of payloads, checked when a task is added.
    #[schema(required)]
    pub payload_schema: Option<Value>,
    /// JSON Schema of outputs, checked when a task succeeds.
    #[schema(required)]
    pub output_schema: Option<Value>,
    /// How long after it was added a task should have ended.
    #[schema(required)]
    pub sla_seconds: Option<u64>,
    /// No task is taken while it is paused; adding, ending and renewing go on.
    #[schema(required)]
    pub paused: Option<Paused>,
    pub retention: TaskRetention,
    /// The queue that receives a new task for each one that succeeded here.
    #[schema(required)]
    pub on_success_queue: Option<QueueId>,
    /// The queue that receives a new task for each one that stays failed or abandoned here; but none for one that came from
    /// there and that nobody has taken, neither there nor here.
    #[schema(required)]
    pub on_failure_queue: Option<QueueId>,
    /// A task whose job ends without settling it fails with the job's error. Otherwise it stays with its lease.
    pub settle_with_job: bool,
    pub created_at: Timestamp,
    pub revision: u64,
}

/// A JSON Schema, for annotations: an object, or `true` or `false`, which everything and nothing fits.
pub struct JsonSchema;

impl ToSchema for JsonSchema {}

impl PartialSchema for JsonSchema {
    fn schema() -> RefOr<Schema> {
        let types = SchemaType::Array(vec![Type::Object, Type::Boolean]);
        let text = "A JSON Schema: an object, or `true` or `false`, which everything and nothing fits.";
        ObjectBuilder::new().schema_type(types).description(Some(text)).into()
    }
}

/// `POST /queues`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewQueue {
    #[schema(min_length = 1, max_length = 128)]
    pub name: String,
    #[serde(default)]
    #[schema(max_length = 2048)]
    pub description: String,
    #[serde(default)]
    pub unique_references: bool,
    /// 1 if absent: no task is tried again by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000)]
    pub max_attempts: Option<u32>,
    #[serde(default)]
    pub retry: TaskRetry,
    /// 600 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31536000)]
    pub lease_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 315360000)]
    pub abandon_new_after_seconds: Option<u64>,
    /// A JSON Schema of at most 32 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<JsonSchema>)]
    pub payload_schema: Option<Value>,
    /// A JSON Schema of at most 32 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<JsonSchema>)]
    pub output_schema: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 315360000)]
    pub sla_seconds: Option<u64>,
    #[serde(default)]
    pub retention: TaskRetention,
    /// Id or name of another queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_success_queue: Option<String>,
    /// Id or name of another queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure_queue: Option<String>,
    /// True if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle_with_job: Option<bool>,
}

/// `PATCH /queues/{queue}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QueuePatch {
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, min_length = 1, max_length = 128)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, max_length = 2048)]
    pub description: Option<String>,
    /// Turned on only while the queue has no tasks.
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = bool, required = false)]
    pub unique_references: Option<bool>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u32, required = false, minimum = 1, maximum = 1000)]
    pub max_attempts: Option<u32>,
    /// A merge patch of `retry`: a member that is null gets its default.
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = TaskRetry, required = false)]
    pub retry: Option<serde_json::Map<String, Value>>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u64, required = false, minimum = 1, maximum = 31536000)]
    pub lease_seconds: Option<u64>,
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 315360000)]
    pub abandon_new_after_seconds: Option<Option<u64>>,
    /// Holds for tasks that are added from now on.
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<JsonSchema>)]
    pub payload_schema: Option<Option<Value>>,
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<JsonSchema>)]
    pub output_schema: Option<Option<Value>>,
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 315360000)]
    pub sla_seconds: Option<Option<u64>>,
    /// A merge patch of `retention`: a member that is null gets its default.
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = TaskRetention, required = false)]
    pub retention: Option<serde_json::Map<String, Value>>,
    /// Id or name of another queue.
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub on_success_queue: Option<Option<String>>,
    /// Id or name of another queue.
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub on_failure_queue: Option<Option<String>>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = bool, required = false)]
    pub settle_with_job: Option<bool>,
}

/// `POST /queues/{queue}/pause`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PauseQueue {
    /// Only `drain`, which is also meant if it is absent: tasks that are held are worked on to their end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<crate::robot::PauseMode>,
    #[schema(max_length = 512)]
    pub reason: String,
    /// It ends by itself then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// Filters of `GET /queues`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct QueueFilter {
    /// Part of the name, whatever the case of letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q: Option<String>,
}

/// How many tasks are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskCounts {
    pub new: u64,
    pub in_progress: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub postponed: u64,
    pub abandoned: u64,
}

/// What ended in one hour.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HourStats {
    /// Start of the hour.
    pub hour: Timestamp,
    pub added: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub abandoned: u64,
}

/// `GET /queues/{queue}/stats`: from counters that are kept with every change.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct QueueStats {
    pub queue_id: QueueId,
    pub counts: TaskCounts,
    /// When the oldest task that waits was added.
    #[schema(required)]
    pub oldest_new_at: Option<Timestamp>,
    /// Tasks that succeeded or stayed failed in the last hour.
    pub per_hour: u64,
    /// How long the tasks that wait and are in progress take at this rate; null if none ended lately.
    #[schema(required)]
    pub eta_seconds: Option<u64>,
    /// How many of the tasks that wait are older than `sla_seconds`; counting ends at 1000. Null without such a limit.
    #[schema(required)]
    pub over_sla: Option<u64>,
    /// The last 24 hours, newest first; hours in which nothing happened are left out.
    pub hours: Vec<HourStats>,
}
