//! One assignment of a job to a robot; it stays with the job as history.

use drover_protocol::{
    JobId, KeyId, ProcessVersionId, Timestamp,
    job::{Cause, Exit, JobError, Outcome, Usage},
};
use serde::{Deserialize, Serialize};

use super::{job::Holder, resource::Handed};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    pub job_id: JobId,
    pub attempt: u32,
    pub robot: Holder,
    pub process_version_id: ProcessVersionId,
    /// The key of this attempt; it dies with it.
    pub key_id: KeyId,
    pub assigned_at: Timestamp,
    pub accepted_at: Option<Timestamp>,
    /// Which of the agents that use the robot's key has taken it on.
    #[serde(default)]
    pub claim: Option<String>,
    pub ended_at: Option<Timestamp>,
    pub outcome: Option<Outcome>,
    pub cause: Option<Cause>,
    pub error: Option<JobError>,
    pub exit: Option<Exit>,
    pub usage: Option<Usage>,
    /// What the agent reported, so that the same report again is known as a repetition.
    pub reported: Option<Outcome>,
    /// A refused late report is kept as one event, however often it is repeated.
    pub late_report_kept: bool,
    /// The sealed values that it reads. Its agent masks those that it was assigned with.
    #[serde(default)]
    pub handed: Vec<Handed>,
}
