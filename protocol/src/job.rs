//! Jobs: runs of a process version for a robot or a group.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use crate::{JobId, ProcessId, ProcessVersionId, RobotId, Timestamp, words::words};

words! {
    /// Where a job stands.
    pub enum JobState {
        /// No robot has it.
        Waiting,
        /// Given to a robot that has not accepted it yet.
        Assigned,
        /// A robot has accepted it and renews its lease.
        Running,
        /// Its robot has not been heard of for longer than the lease.
        Silent,
        /// A stop or abort was asked and the end is awaited.
        Stopping,
        /// It has ended, see `outcome`.
        Finished,
    }
}

impl JobState {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Assigned => "assigned",
            Self::Running => "running",
            Self::Silent => "silent",
            Self::Stopping => "stopping",
            Self::Finished => "finished",
        }
    }
}

words! {
    /// How a job ended, apart from why.
    pub enum Outcome {
        /// The process ended well.
        Succeeded,
        /// The process ended with an error, or could not be run.
        Failed,
        /// Ended in order after a soft stop.
        Stopped,
        /// Ended by force.
        Aborted,
        /// Its time limit was over.
        TimedOut,
        /// Nobody knows: its robot was not heard of again.
        Lost,
    }
}

impl Outcome {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Aborted => "aborted",
            Self::TimedOut => "timed_out",
            Self::Lost => "lost",
        }
    }
}

words! {
    /// Why a job ended, from a closed list.
    pub enum CauseCode {
        /// The process ended with exit code 0.
        Completed,
        /// The process ended with another exit code.
        ExitCode,
        /// The process was ended by a signal that Drover did not send.
        Signal,
        /// The host ended the process for lack of memory.
        OutOfMemory,
        /// The process wrote an error of kind `business`.
        BusinessError,
        /// The process wrote an error of kind `application`.
        ApplicationError,
        /// The process wrote an error of kind `infrastructure`.
        InfrastructureError,
        /// The output is not JSON, too large, or not as its schema says.
        OutputInvalid,
        /// A person or program asked for a soft stop.
        StopRequested,
        /// A soft stop had to be forced when its grace was over.
        StopGraceExceeded,
        /// A person or program asked for an abort.
        AbortRequested,
        /// The job's time limit.
        Timeout,
        /// The job's `stop_after`.
        StopAfter,
        /// The job's `abort_after`.
        AbortAfter,
        /// An end was asked, and the agent did not confirm it in time.
        EndUnconfirmed,
        /// The package could not be fetched.
        PackageUnavailable,
        /// The package is damaged or could not be unpacked.
        PackageInvalid,
        /// The environment (for example the Python requirements) could not be built.
        EnvironmentFailed,
        /// The command could not be started.
        LaunchFailed,
        /// The host's own configuration forbids this process.
        HostPolicy,
        /// The agent was restarted and could not go on with the job.
        AgentRestarted,
        /// The agent was told to quit.
        AgentStopped,
        /// The robot was silent for too long.
        RobotSilent,
        /// The robot was paused with stop or abort.
        RobotPaused,
        /// An operator closed the job.
        ClosedByOperator,
    }
}

/// Who ended the job and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cause {
    /// `process`, `agent`, `coordinator`, `user:<id>` or `trigger:<id>`.
    #[schema(example = "process")]
    pub by: String,
    pub code: CauseCode,
    pub message: String,
}

words! {
    /// Whom an error concerns.
    pub enum ErrorKind {
        /// The data or the rules of the business forbid it; trying again does not help.
        Business,
        /// The program or the applications it drives failed.
        Application,
        /// Host, network or package failed; the program itself is not to blame.
        Infrastructure,
    }
}

/// What went wrong, as the process or the agent says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobError {
    pub kind: ErrorKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    pub message: String,
}

/// How the operating system saw the process end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Exit {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The same in words.
    #[schema(example = "success")]
    pub meaning: String,
}

/// What the process used of its host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_time_ms: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 100)]
    pub percent: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 512)]
    pub text: Option<String>,
}

/// What started the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Source {
    pub kind: SourceKind,
    /// Id of the user, key, trigger or job.
    pub id: String,
}

words! {
    /// What kind of thing started a job.
    pub enum SourceKind {
        /// A person in the console.
        User,
        /// A call with a key.
        Api,
        /// A trigger.
        Trigger,
        /// A repetition of another job.
        Retry,
        /// Another job.
        Job,
    }
}

/// A robot or a group; exactly one of both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Id (in requests also the name) of a robot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub robot: Option<String>,
    /// Id (in requests also the name) of a robot group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

words! {
    /// How a running job is ended.
    pub enum StopMode {
        /// The process sees it and ends in order; forced when its grace is over.
        Stop,
        /// The whole process tree is ended at once.
        Abort,
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Job {
    pub id: JobId,
    pub process_id: ProcessId,
    /// The process's name when the job was made.
    pub process_name: String,
    pub process_version_id: ProcessVersionId,
    pub version_number: u32,
    pub target: Target,
    pub state: JobState,
    #[schema(required)]
    pub outcome: Option<Outcome>,
    #[schema(required)]
    pub cause: Option<Cause>,
    /// Number of the newest attempt; 0 before the first.
    pub attempt: u32,
    /// How many attempts were accepted by a robot.
    pub tries: u32,
    #[schema(required)]
    pub robot_id: Option<RobotId>,
    /// The robot's name when it took the job.
    #[schema(required)]
    pub robot_name: Option<String>,
    pub priority: u8,
    /// Absent in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub input: Option<Map<String, Value>>,
    /// Absent in lists and until the process has given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
    #[schema(required)]
    pub error: Option<JobError>,
    #[schema(required)]
    pub exit: Option<Exit>,
    #[schema(required)]
    pub usage: Option<Usage>,
    #[schema(required)]
    pub progress: Option<Progress>,
    pub source: Source,
    pub created_at: Timestamp,
    #[schema(required)]
    pub not_before: Option<Timestamp>,
    #[schema(required)]
    pub assigned_at: Option<Timestamp>,
    #[schema(required)]
    pub started_at: Option<Timestamp>,
    #[schema(required)]
    pub finished_at: Option<Timestamp>,
    #[schema(required)]
    pub stop_after: Option<Timestamp>,
    #[schema(required)]
    pub abort_after: Option<Timestamp>,
    #[schema(required)]
    pub timeout_seconds: Option<u64>,
    pub stop_grace_seconds: u64,
    #[schema(required)]
    pub lease_ends_at: Option<Timestamp>,
    pub labels: BTreeMap<String, String>,
    #[schema(required)]
    pub parent_job_id: Option<JobId>,
    pub revision: u64,
}

/// `POST /jobs`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJob {
    /// Id or name.
    pub process: String,
    /// Id, number or label of a version; absent: the one pinned for the group, else the active one.
    #[serde(default, deserialize_with = "crate::process::version_name", skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    pub target: Target,
    /// At most 1 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub input: Option<Map<String, Value>>,
    /// 1 low, 2 normal, 3 high.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 3)]
    pub priority: Option<u8>,
    /// How many equal jobs; their inputs together have at most 8 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100)]
    pub count: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// A soft stop is asked at this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_after: Option<Timestamp>,
    /// It is aborted at this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort_after: Option<Timestamp>,
    /// Longest time that one attempt may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31536000)]
    pub timeout_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(schema_with = crate::labels::schema)]
    pub labels: BTreeMap<String, String>,
}

/// The answer to `POST /jobs`: the job, or `items` if `count` was more than 1.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum StartedJobs {
    Many { items: Vec<Job> },
    One(Box<Job>),
}

/// `POST /jobs/{job}/stop`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StopJob {
    pub mode: StopMode,
}

/// `POST /jobs/{job}/close`: an operator ends a job whose robot is gone.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloseJob {
    pub outcome: Outcome,
    #[schema(max_length = 512)]
    pub reason: String,
}

/// One assignment of a job to a robot.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    pub attempt: u32,
    pub robot_id: RobotId,
    pub robot_name: String,
    pub process_version_id: ProcessVersionId,
    pub assigned_at: Timestamp,
    #[schema(required)]
    pub accepted_at: Option<Timestamp>,
    #[schema(required)]
    pub ended_at: Option<Timestamp>,
    #[schema(required)]
    pub outcome: Option<Outcome>,
    #[schema(required)]
    pub cause: Option<Cause>,
    #[schema(required)]
    pub error: Option<JobError>,
    #[schema(required)]
    pub exit: Option<Exit>,
    #[schema(required)]
    pub usage: Option<Usage>,
}

/// Why a job waits: for each candidate robot, computed at the moment of asking.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    pub state: JobState,
    /// One sentence that answers the question.
    pub summary: String,
    /// What holds the job back wherever it might run.
    pub reasons: Vec<Reason>,
    /// At most 1000 robots of the target.
    pub candidates: Vec<Candidate>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Candidate {
    /// Name of the robot.
    pub robot: String,
    pub robot_id: RobotId,
    pub suits: bool,
    pub reasons: Vec<Reason>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reason {
    pub code: ReasonCode,
    pub text: String,
}

words! {
    /// Why a job is not given to a robot.
    pub enum ReasonCode {
        /// Its time has not come.
        NotBefore,
        /// As many jobs of the process run as may run at once.
        MaxParallel,
        /// The group is disabled.
        GroupDisabled,
        /// The group is paused.
        GroupPaused,
        /// The group has no robots.
        NoRobots,
        /// The agent of the robot has never joined.
        NotJoined,
        /// The robot has not been heard of.
        Offline,
        /// The robot is disabled.
        Disabled,
        /// The robot is paused.
        Paused,
        /// The robot takes jobs only from the person at it.
        Attended,
        /// The robot holds as many jobs as it can.
        Busy,
        /// The robot lacks a label that the version requires.
        LabelMissing,
        /// The version has no command for the system of the robot.
        NoCommandForOs,
        /// Other jobs go first.
        BehindOthers,
    }
}

/// Filters of `GET /jobs`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JobFilter {
    /// Only jobs in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// Only jobs that ended like this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Id or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Id or name of the robot that has or had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub robot: Option<String>,
    /// Id or name of the group it was meant for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Id of the trigger that started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// Only jobs that were started by this kind of thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceKind>,
    /// Not before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_from: Option<Timestamp>,
    /// Before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_to: Option<Timestamp>,
    /// `key:value`, repeatable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub label: Vec<String>,
}

/// Long poll of `GET /jobs/{job}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JobWait {
    /// How long to wait at the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 0, maximum = 60, default = 0)]
    pub wait_seconds: Option<u64>,
    /// The state to wait for; absent: any change of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<JobState>,
}
