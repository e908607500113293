//! Tasks: items of work in a queue, each taken, worked on and ended by one holder at a time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::{FileId, JobId, QueueId, RobotId, TaskId, Timestamp, job::Progress, words::words};

/// The largest payload, output or checkpoint, in bytes of JSON.
pub const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;
/// Tasks that one call takes at the most.
pub const MAX_TAKE: u32 = 100;

words! {
    /// Where a task stands.
    pub enum TaskState {
        /// It waits to be taken.
        New,
        /// Somebody has taken it and holds its lease.
        InProgress,
        /// It ended well.
        Succeeded,
        /// It ended with an error, and is not tried again by itself.
        Failed,
        /// It waits for a time, see `postponed_until`.
        Postponed,
        /// Its lease ran out or nobody took it, and it is not tried again by itself.
        Abandoned,
    }
}

impl TaskState {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::InProgress => "in_progress",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Postponed => "postponed",
            Self::Abandoned => "abandoned",
        }
    }
}

words! {
    /// Whom the error of a task concerns.
    pub enum TaskErrorKind {
        /// The data or the rules of the business forbid it; not tried again unless the queue says so.
        Business,
        /// The program or the applications it drives failed.
        Application,
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskError {
    pub kind: TaskErrorKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    pub message: String,
}

/// Who has taken a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskHolder {
    /// `user:<id>` or `job:<id>`.
    pub by: String,
    #[schema(required)]
    pub robot_id: Option<RobotId>,
    #[schema(required)]
    pub job_id: Option<JobId>,
}

words! {
    /// How one attempt at a task ended.
    pub enum TaskAttemptEnd {
        /// The task succeeded.
        Succeeded,
        /// The attempt failed; the task may have been tried again.
        Failed,
        /// It was put back for later.
        Postponed,
        /// Its lease ran out.
        Abandoned,
    }
}

/// One taking of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskAttempt {
    pub attempt: u32,
    pub holder: TaskHolder,
    pub started_at: Timestamp,
    #[schema(required)]
    pub ended_at: Option<Timestamp>,
    /// Null while it goes on.
    #[schema(required)]
    pub end: Option<TaskAttemptEnd>,
    #[schema(required)]
    pub error: Option<TaskError>,
}

/// A file that is attached to a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskFile {
    pub id: FileId,
    #[schema(example = "invoice.pdf")]
    pub name: String,
    pub size_bytes: u64,
    /// Lower-case hexadecimal.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub sha256: String,
    pub content_type: String,
    /// What the one who wrote it has noted beside it.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    pub created_by: String,
    pub created_at: Timestamp,
    pub modified_at: Timestamp,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Task {
    pub id: TaskId,
    pub queue_id: QueueId,
    #[schema(required)]
    pub reference: Option<String>,
    #[schema(required)]
    pub name: Option<String>,
    /// Any JSON. Absent in lists, and in answers to whoever holds the task and has it already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
    pub state: TaskState,
    /// Of the newest attempt that failed.
    #[schema(required)]
    pub error: Option<TaskError>,
    /// Absent in lists and until one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
    /// 1 low, 2 normal, 3 high.
    pub priority: u8,
    /// Once it has passed, the task is taken before all whose deadline has not.
    #[schema(required)]
    pub deadline: Option<Timestamp>,
    #[schema(required)]
    pub postponed_until: Option<Timestamp>,
    pub tags: Vec<String>,
    #[schema(required)]
    pub comment: Option<String>,
    #[schema(required)]
    pub progress: Option<Progress>,
    /// What the attempt before left for the next one. Absent in lists and until one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Value>,
    /// Number of the newest attempt; 0 before the first. Every call of its holder carries it.
    pub attempt: u32,
    /// How many attempts counted.
    pub tries: u32,
    /// How many may count, if this task has a number of its own.
    #[schema(required)]
    pub max_attempts: Option<u32>,
    /// The newest hundred, oldest first; `GET /tasks/{task}/attempts` lists all of them. Absent in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 100)]
    pub attempts: Option<Vec<TaskAttempt>>,
    #[schema(required)]
    pub holder: Option<TaskHolder>,
    #[schema(required)]
    pub lease_ends_at: Option<Timestamp>,
    pub created_at: Timestamp,
    /// When the newest attempt began.
    #[schema(required)]
    pub started_at: Option<Timestamp>,
    #[schema(required)]
    pub finished_at: Option<Timestamp>,
    /// Absent in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<TaskFile>>,
    /// The task of another queue for whose end this one was made.
    #[schema(required)]
    pub origin_task_id: Option<TaskId>,
    pub revision: u64,
}

/// The columns of tasks that are exported as CSV. By all of them an import knows such a file.
pub const EXPORT_COLUMNS: [&str; 23] = [
    "id",
    "queue_id",
    "reference",
    "name",
    "state",
    "error_kind",
    "error_code",
    "error_message",
    "priority",
    "deadline",
    "postponed_until",
    "tags",
    "comment",
    "attempt",
    "tries",
    "job_id",
    "created_at",
    "started_at",
    "finished_at",
    "origin_task_id",
    "payload",
    "output",
    "checkpoint",
];

/// `POST /queues/{queue}/tasks`, and each line of `POST /queues/{queue}/tasks/bulk`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTask {
    /// The caller's own name for it, for example the number of the invoice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub reference: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub name: Option<String>,
    /// Any JSON of at most 1 MiB.
    pub payload: Value,
    /// 1 low, 2 normal, 3 high.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 3, default = 2)]
    pub priority: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// It is not taken before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postponed_until: Option<Timestamp>,
    /// At most 20 of at most 64 characters, without `-` or `+` at the start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 20)]
    pub tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2048)]
    pub comment: Option<String>,
    /// Instead of the queue's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000)]
    pub max_attempts: Option<u32>,
}

/// One line of the answer to `POST /queues/{queue}/tasks/bulk`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum BulkLine {
    /// The task of this line was added.
    Added { line: u64, id: TaskId },
    /// The queue's references are unique, and this one is taken by another task.
    Duplicate { line: u64, duplicate_of: TaskId },
    /// The line is not valid; the others are not held up by it.
    Failed { line: u64, error: BulkError },
    /// The last line: how many of each there were.
    Sum(BulkSum),
}

/// What is wrong with one line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BulkError {
    pub code: crate::problem::Code,
    pub detail: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<crate::problem::FieldError>,
}

/// The last line of the answer to `POST /queues/{queue}/tasks/bulk`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BulkSum {
    pub added: u64,
    pub duplicates: u64,
    pub failed: u64,
}

/// Which tasks a taker wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TakeFilter {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 256)]
    pub reference: Option<String>,
    /// A task must have all of these, and none of those with a `-` before them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 20, example = json!(["urgent", "-foreign"]))]
    pub tags: Vec<String>,
    /// One of these tasks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 100)]
    pub ids: Vec<TaskId>,
}

/// `POST /queues/{queue}/take`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TakeTasks {
    /// How many at the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100, default = 1)]
    pub max: Option<u32>,
    /// How long to wait for the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 60, default = 0)]
    pub wait_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<TakeFilter>,
}

/// `POST /tasks/{task}/renew`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewTask {
    pub attempt: u32,
}

/// `POST /tasks/{task}/succeed`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SucceedTask {
    pub attempt: u32,
    /// Any JSON of at most 1 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
    /// Take the next task of the same queue in the same transaction; the answer is then `{task, next}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub take_next: Option<bool>,
}

/// `POST /tasks/{task}/fail`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FailTask {
    pub attempt: u32,
    pub kind: TaskErrorKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 256)]
    pub code: Option<String>,
    /// At most 8 KiB.
    pub message: String,
    /// Any JSON of at most 1 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
    /// Whether it is to be tried again, whatever the queue says of this kind; attempts remain limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<bool>,
    /// Take the next task of the same queue in the same transaction; the answer is then `{task, next}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub take_next: Option<bool>,
}

/// `POST /tasks/{task}/postpone`: put it back with its state.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PostponeTask {
    pub attempt: u32,
    pub until: Timestamp,
    /// For the next attempt: any JSON of at most 1 MiB; absent: the one that is there stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Value>,
    /// Whether this attempt counts against `max_attempts`; absent: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt_counts: Option<bool>,
    /// Take the next task of the same queue in the same transaction; the answer is then `{task, next}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub take_next: Option<bool>,
}

/// The answer to `succeed`, `fail` and `postpone`: the task, or `{task, next}` if the next one was asked for.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum EndedTask {
    WithNext {
        task: Box<Task>,
        /// Null if none waits.
        #[schema(required)]
        next: Option<Box<Task>>,
    },
    Alone(Box<Task>),
}

/// `POST /tasks/{task}/checkpoint`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckpointTask {
    pub attempt: u32,
    /// Any JSON of at most 1 MiB.
    pub checkpoint: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

/// `POST /tasks/{task}/comment`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CommentTask {
    /// Absent: whatever the attempt; people comment on tasks that they do not hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Takes the place of the comment that is there.
    #[schema(max_length = 2048)]
    pub comment: String,
}

/// `PATCH /tasks/{task}`. A task that is in progress takes a new name, tags, comment and priority only.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskPatch {
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 256)]
    pub reference: Option<Option<String>>,
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 256)]
    pub name: Option<Option<String>>,
    /// Replaces the payload as a whole.
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value, required = false)]
    pub payload: Option<Value>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u8, required = false, minimum = 1, maximum = 3)]
    pub priority: Option<u8>,
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Timestamp>)]
    pub deadline: Option<Option<Timestamp>>,
    /// Of a task that waits: postpones it, or with null lets it be taken at once.
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Timestamp>)]
    pub postponed_until: Option<Option<Timestamp>>,
    /// Replaces the list.
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<String>, required = false, max_items = 20)]
    pub tags: Option<Vec<String>>,
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, max_length = 2048)]
    pub comment: Option<Option<String>>,
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    pub max_attempts: Option<Option<u32>>,
    /// Id or name of the queue to which it is handed over.
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    pub queue: Option<String>,
}

/// Filters of `GET /tasks`, and `filter` of `POST /tasks/bulk-action`.
///
/// In the query string of `GET /tasks` a condition on the payload is written `payload.<path>=<text>`, for example
/// `payload.customer.city=Kazan`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TaskFilter {
    /// Id or name of a queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// One of these states; repeatable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub state: Vec<TaskState>,
    /// The reference that the task must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The task must have all of these, and none of those with a `-` before them; repeatable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tag: Vec<String>,
    /// 1 low, 2 normal, 3 high.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 3)]
    #[param(minimum = 1, maximum = 3)]
    pub priority: Option<u8>,
    /// Not before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_from: Option<Timestamp>,
    /// Before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_to: Option<Timestamp>,
    /// The kind of error of its newest attempt that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_kind: Option<TaskErrorKind>,
    /// Id of the job that holds or held it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// One of these tasks; repeatable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub id: Vec<TaskId>,
    /// Path within the payload (names and positions between points) to the value that must be there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[param(ignore)]
    pub payload: BTreeMap<String, Value>,
}

words! {
    /// What a bulk action does to each task that its filter matches.
    pub enum BulkActionKind {
        /// Failed, abandoned and postponed tasks are tried again now.
        Retry,
        /// Tasks that wait are postponed until `value`, a time.
        Postpone,
        /// Tasks that are not in progress are deleted.
        Delete,
        /// Tasks that are not in progress get the priority `value`.
        SetPriority,
        /// Tasks that are not in progress are handed over to the queue `value`, an id or a name.
        Move,
    }
}

/// `POST /tasks/bulk-action`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkAction {
    pub filter: TaskFilter,
    pub action: BulkActionKind,
    /// A time, a priority or a queue, as the action says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub value: Option<Value>,
    /// Only counts what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a bulk action came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BulkActionDone {
    /// Tasks that the filter matches.
    pub matched: u64,
    /// Those of them that were changed, or would be in a dry run: the others are in a state that the action does not fit, or
    /// not taken.
    pub changed: u64,
    /// Those of them that the queue to which they were to be moved does not take: their payload does not fit its schema, or
    /// their reference is that of another task there. A dry run looks at payloads only.
    #[serde(default)]
    pub not_taken: u64,
}
