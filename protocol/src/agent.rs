//! What agents and the coordinator say to each other. Only the agent opens connections.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{
    JobId, ProcessVersionId, Timestamp,
    job::{Cause, Exit, Job, JobError, Outcome, Progress, Usage},
    log::{Level, NewLogLine},
    manifest::Manifest,
    robot::{Health, Host, Paused, Robot, RobotState},
    words::words,
};

/// Most jobs that one agent may hold or report at once.
pub const MAX_JOBS: usize = 1000;
/// The longest `cause.message` and `exit.meaning` of a report, in bytes of UTF-8.
pub const MAX_CAUSE_BYTES: usize = 4 * 1024;
/// The longest `error.message` of a report, in bytes of UTF-8.
pub const MAX_ERROR_BYTES: usize = 16 * 1024;
/// The longest `error.code` of a report, in bytes of UTF-8.
pub const MAX_ERROR_CODE_BYTES: usize = 512;

/// `POST /agent/join`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Join {
    pub token: String,
    /// Names the host and the agent's state folder; joining again with it gives the same robot back.
    #[schema(min_length = 1, max_length = 128)]
    pub machine_id: String,
    /// Name for a new robot; absent: the host's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 128)]
    pub name: Option<String>,
    pub host: Host,
}

/// The robot and its key, shown only here.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct Joined {
    pub robot: Robot,
    pub key: String,
}

words! {
    /// How far the agent is with a job.
    pub enum Phase {
        /// The package is fetched, the environment built.
        Preparing,
        /// The process runs.
        Running,
        /// The process is being ended.
        Stopping,
        /// It has ended, its report is on the way.
        Ended,
    }
}

/// A job that the agent holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HeldJob {
    pub job_id: JobId,
    pub attempt: u32,
    pub phase: Phase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

/// `POST /agent/heartbeat`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// Sent at start and when something has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
    pub health: Health,
    #[serde(default)]
    #[schema(max_items = 1000)]
    pub jobs: Vec<HeldJob>,
}

words! {
    /// What the agent is to do with a job.
    pub enum JobCommand {
        /// Ask the process to end, force it after its grace.
        Stop,
        /// End the whole process tree now.
        Abort,
        /// The attempt is not this agent's any more: end the process tree and forget it; a report is not awaited.
        Drop,
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RenewedJob {
    pub job_id: JobId,
    pub attempt: u32,
    pub renewed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<JobCommand>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HeartbeatAnswer {
    pub server_time: Timestamp,
    pub lease_seconds: u64,
    pub next_in_seconds: u64,
    pub jobs: Vec<RenewedJob>,
    pub robot: RobotBrief,
    pub config: AgentConfig,
}

/// What the coordinator says about the robot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RobotBrief {
    pub state: RobotState,
    #[schema(required)]
    pub paused: Option<Paused>,
}

/// Settings that the coordinator gives its agents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentConfig {
    /// Jobs at once, as the coordinator counts them.
    pub capacity: u32,
}

/// `POST /agent/next`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Next {
    /// How many more jobs the agent can take.
    #[schema(minimum = 0, maximum = 1000)]
    pub free: u32,
    /// How long to wait at the most.
    #[schema(minimum = 0, maximum = 60)]
    pub wait_seconds: u64,
    /// Every job that the agent holds; assignments that it does not know are given to it again.
    #[serde(default)]
    #[schema(max_items = 1000)]
    pub known: Vec<JobId>,
}

/// The package to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AssignedVersion {
    pub id: ProcessVersionId,
    pub number: u32,
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub sha256: String,
    pub size_bytes: u64,
    pub manifest: Manifest,
}

/// A job given to this agent. It is kept only if it is accepted in time.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct Assignment {
    pub job: Job,
    pub attempt: u32,
    pub lease_ends_at: Timestamp,
    pub version: AssignedVersion,
    /// Key of this attempt, for the process.
    pub key: String,
    /// Texts that must not leave the host, besides the key: secrets, and passwords of credentials.
    pub secrets_to_mask: Vec<String>,
    /// Lines below this level need not be sent.
    pub log_level: Level,
}

/// A command for one job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Command {
    pub job_id: JobId,
    pub attempt: u32,
    pub command: JobCommand,
}

#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct NextAnswer {
    pub assignments: Vec<Assignment>,
    pub commands: Vec<Command>,
}

/// The longest claim of an accept.
pub const MAX_CLAIM_BYTES: usize = 64;

/// `POST /agent/jobs/{job}/accept`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Accept {
    pub attempt: u32,
    /// Made up by the agent for this attempt, and kept with it: the first accept binds the attempt to it. A second agent
    /// that uses the same key, and so may have been given the same assignment, is refused. At most 64 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
}

/// The answer to accept: how long the lease is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    pub lease_ends_at: Timestamp,
}

/// `POST /agent/jobs/{job}/finish`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Finish {
    pub attempt: u32,
    pub outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// At most 1 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
    pub cause: Cause,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// `POST /agent/jobs/{job}/logs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogChunk {
    pub attempt: u32,
    /// Number of the first line; numbers start at 1 per attempt.
    #[schema(minimum = 1)]
    pub first_seq: u64,
    #[schema(max_items = 10000)]
    pub lines: Vec<NewLogLine>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogAccepted {
    /// The line that is expected next.
    pub next_seq: u64,
}

/// `error.json`, as a process may write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorFile {
    pub kind: crate::job::ErrorKind,
    #[serde(default)]
    pub code: Option<String>,
    pub message: String,
}

/// A line of standard output that is a JSON object with `message`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct StructuredLine {
    pub message: String,
    #[serde(default)]
    pub level: Option<Level>,
    #[serde(default)]
    pub fields: Map<String, Value>,
    #[serde(default)]
    pub progress: Option<Progress>,
}
