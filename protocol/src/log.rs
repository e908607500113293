//! Lines of a job's log.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

pub use crate::process::Level;
use crate::{JobId, ProcessId, ProcessVersionId, RobotId, Timestamp};

/// The longest message of a line, in bytes of UTF-8. Longer ones are split by the agent and marked.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// The largest `fields` of a line, in bytes of JSON.
pub const MAX_FIELDS_BYTES: usize = 16 * 1024;
/// Most lines of one chunk.
pub const MAX_CHUNK_LINES: usize = 10_000;
/// The largest chunk, in bytes of JSON after decompression.
pub const MAX_CHUNK_BYTES: usize = 4 * 1024 * 1024;

impl Level {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }
}

/// A line as the agent sends it; its number follows from the chunk's `first_seq`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewLogLine {
    pub time: Timestamp,
    pub level: Level,
    /// At most 64 KiB of UTF-8.
    #[schema(max_length = 65536)]
    pub message: String,
    /// At most 16 KiB of JSON.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub fields: Map<String, Value>,
}

/// A line as it is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// 1, 2, 3 … within the attempt.
    pub seq: u64,
    pub attempt: u32,
    #[serde(flatten)]
    pub line: NewLogLine,
}

/// A page of a job's log, oldest first unless asked backward.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LogPage {
    pub items: Vec<LogLine>,
    /// Give this back as `from_seq` to read on.
    pub next_seq: u64,
    /// True when the attempt has ended and there are no further lines.
    pub complete: bool,
    pub attempt: u32,
}

/// What `GET /jobs/{job}/logs` takes.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogQuery {
    /// The first line (forward: default 1) or the last one (backward: default the newest).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_seq: Option<u64>,
    /// How many lines at the most (default 200). As `text/plain`, absent means the whole log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// This level and worse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// Only lines that contain this text, whatever the case of letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(max_length = 256)]
    pub text: Option<String>,
    /// Which attempt; absent: the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Which way to read from `from_seq`; streams go forward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    #[default]
    Forward,
    Backward,
}

/// The longest text or pattern of a search, in characters.
pub const MAX_TEXT_CHARS: usize = 256;
/// The most fields that one search compares.
pub const MAX_FIELD_FILTERS: usize = 8;

/// What `GET /logs` takes besides `field.<name>=<value>`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogSearch {
    /// Only lines of this time and later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// Only lines before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
    /// This level and worse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// Id or name of the robot that said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub robot: Option<String>,
    /// Id or name of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Id of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// Only lines whose message contains this text, whatever the case of letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(max_length = 256)]
    pub text: Option<String>,
    /// `text` is a regular expression (without look-around and back-references), which matches whatever the case of
    /// letters unless it begins with `(?-i)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<bool>,
    /// `backward`: the newest lines first, as pages are by default; `forward`: the oldest first, as exports are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
}

/// A line of any log, with where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FoundLine {
    pub time: Timestamp,
    pub level: Level,
    pub message: String,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub fields: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub robot_id: Option<RobotId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub robot_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_id: Option<ProcessId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_version_id: Option<ProcessVersionId>,
    /// Absent for a line that belongs to no job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// 1, 2, 3 … within the attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Who wrote a line that belongs to no job: `user:<id>` or `robot:<id>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// A page of a search.
///
/// A search looks at a bounded number of lines per call: a page may hold fewer lines than the limit, even none, while
/// `next_cursor` is present. It has ended when `next_cursor` is null.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FoundLines {
    pub items: Vec<FoundLine>,
    /// Give this back as `cursor` to search on; null at the end.
    #[schema(required)]
    pub next_cursor: Option<String>,
    /// How far in time the search has come; null at the end.
    #[schema(required)]
    pub searched_to: Option<Timestamp>,
    /// Lines that this call has looked at.
    pub searched_lines: u64,
}

/// `POST /logs`: one line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WriteLine {
    pub level: Level,
    /// At most 64 KiB of UTF-8.
    #[schema(max_length = 65536)]
    pub message: String,
    /// At most 16 KiB of JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub fields: Option<Map<String, Value>>,
    /// Id of the job whose log the line belongs to. The key of a job writes to its own one; without a job the line is
    /// kept by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
}

/// What `DELETE /logs` takes.
#[derive(Clone, Debug, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteLogs {
    /// All lines from before this time are deleted.
    pub before: Timestamp,
}
