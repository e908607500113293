//! Processes and their versions.

use std::collections::BTreeMap;

use drover_protocol::{
    ProcessId, ProcessVersionId, RobotGroupId, Timestamp,
    manifest::Manifest,
    process::{ProcessDefaults, VersionState},
};
use serde::{Deserialize, Serialize};

pub const DEFAULT_PRIORITY: u8 = 2;
pub const DEFAULT_STOP_GRACE_SECONDS: u64 = 30;
/// The longest timeout, grace and delay: a year.
pub const MAX_SECONDS: u64 = 31_536_000;
pub const MAX_PARALLEL: u32 = 1_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    pub id: ProcessId,
    pub name: String,
    pub description: String,
    pub active_version_id: Option<ProcessVersionId>,
    pub defaults: ProcessDefaults,
    pub group_pins: BTreeMap<RobotGroupId, ProcessVersionId>,
    pub last_version_number: u32,
    pub created_at: Timestamp,
    pub revision: u64,
}

/// A version. Its whole manifest is a document of its own; what assignment needs stands here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessVersion {
    pub id: ProcessVersionId,
    pub process_id: ProcessId,
    pub number: u32,
    pub label: Option<String>,
    pub notes: String,
    pub sha256: String,
    pub size_bytes: u64,
    pub needs: Needs,
    /// Names of the resources that its manifest declares.
    #[serde(default)]
    pub resources: Vec<String>,
    pub timeout_seconds: Option<u64>,
    pub stop_grace_seconds: Option<u64>,
    pub uploaded_by: String,
    pub created_at: Timestamp,
    pub state: VersionState,
    pub revision: u64,
}

/// What a robot must have to run a version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    pub labels: BTreeMap<String, String>,
    /// Operating systems it has a command for; absent: any.
    pub systems: Option<Vec<String>>,
}

impl Needs {
    pub fn of(manifest: &Manifest) -> Self {
        let run = &manifest.run;
        let systems = run.command.is_empty().then(|| {
            let special = [("linux", &run.linux), ("windows", &run.windows)];
            special.into_iter().filter(|(_, command)| command.is_some()).map(|(os, _)| os.to_owned()).collect()
        });
        Self { labels: manifest.requires.labels.clone(), systems }
    }
}
