//! What a package says about itself, with everything resolved: commands per platform, durations in seconds,
//! schemas as JSON. Reading `process.toml` and its kin is the coordinator's work when a version is uploaded.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::words::words;

words! {
    /// From which file the manifest was read.
    pub enum ManifestSource {
        /// `process.toml` at the root of the package.
        ProcessToml,
        /// `robot.yaml` (Robocorp layout).
        RobotYaml,
        /// A lone `main.py`, `main.sh`, `main.ps1` or `*.robot`.
        Inferred,
    }
}

/// How a process version is run, and what it needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Manifest {
    pub source: ManifestSource,
    #[schema(example = "invoices")]
    #[schema(required)]
    pub name: Option<String>,
    #[serde(default)]
    pub description: String,
    pub run: Run,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub python: Option<Python>,
    /// JSON Schema of the input, checked when a job is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_schema: Option<serde_json::Value>,
    /// JSON Schema of the output, checked when a job ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<serde_json::Value>,
    #[serde(default)]
    pub requires: Requires,
}

/// The command per platform; `linux` and `windows` win over `command`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Run {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["python3", "main.py"]))]
    pub command: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linux: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_grace_seconds: Option<u64>,
}

impl Run {
    /// The command for an operating system as `std::env::consts::OS` names it; `None` if there is none for it.
    pub fn command_for(&self, os: &str) -> Option<&[String]> {
        let special = match os {
            "linux" => self.linux.as_deref(),
            "windows" => self.windows.as_deref(),
            _ => None,
        };
        special.or(Some(&self.command)).filter(|command| !command.is_empty())
    }
}

/// Python requirements, installed into an environment that is built once and shared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Python {
    /// Path of the requirements file inside the package.
    #[schema(example = "requirements.txt")]
    pub requirements: String,
}

/// What a robot must have, and what the job's key may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Requires {
    #[serde(default)]
    #[schema(example = json!({"os": "linux"}))]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub resources: Vec<String>,
    #[serde(default)]
    pub queues: Vec<String>,
    #[serde(default)]
    pub storages: Vec<String>,
}
