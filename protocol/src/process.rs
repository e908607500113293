//! Processes (named automations) and their versions (immutable packages).

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::{IntoParams, ToSchema};

use crate::{ProcessId, ProcessVersionId, RobotGroupId, Timestamp, manifest::Manifest, words::words};

words! {
    /// Outcomes after which a job is tried again by itself.
    pub enum RetryOn {
        /// It failed.
        Failed,
        /// Its robot was lost.
        Lost,
        /// Its time limit was over.
        TimedOut,
    }
}

/// When and how often a job is tried again by itself. By default never: running a payment twice is worse than asking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Tries in all, the first one included.
    #[schema(minimum = 1, maximum = 100)]
    pub max_attempts: u32,
    #[schema(max_items = 3)]
    pub on: Vec<RetryOn>,
    #[schema(minimum = 0, maximum = 31536000)]
    pub delay_seconds: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Self { max_attempts: 1, on: Vec::new(), delay_seconds: 0 }
    }
}

/// What the process prints at least to be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Trace,
    Debug,
    #[default]
    Info,
    Warning,
    Error,
    Critical,
}

/// What holds for each job of the process unless the job says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessDefaults {
    /// 1 low, 2 normal, 3 high.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 3)]
    pub priority: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31536000)]
    pub timeout_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 31536000)]
    pub stop_grace_seconds: Option<u64>,
    /// Members that the job's input does not have are taken from here (at most 32 KiB).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub input: Option<serde_json::Map<String, serde_json::Value>>,
    /// Lines below this level are not sent by the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<Level>,
    /// Jobs of this process at once in the whole fleet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000)]
    pub max_parallel: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Process {
    pub id: ProcessId,
    #[schema(example = "invoices")]
    pub name: String,
    pub description: String,
    #[schema(required)]
    pub active_version_id: Option<ProcessVersionId>,
    pub defaults: ProcessDefaults,
    /// Robot groups that run a version of their own.
    pub group_pins: BTreeMap<RobotGroupId, ProcessVersionId>,
    pub created_at: Timestamp,
    pub revision: u64,
}

/// `POST /processes`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewProcess {
    #[schema(min_length = 1, max_length = 128)]
    pub name: String,
    #[serde(default)]
    #[schema(max_length = 2048)]
    pub description: String,
    #[serde(default)]
    pub defaults: ProcessDefaults,
}

/// `PATCH /processes/{process}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessPatch {
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, min_length = 1, max_length = 128)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, max_length = 2048)]
    pub description: Option<String>,
    /// A merge patch of `defaults`: a member that is null is removed.
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = ProcessDefaults, required = false)]
    pub defaults: Option<serde_json::Map<String, serde_json::Value>>,
    /// Group (id or name) to version (id, number or label); null unpins.
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = BTreeMap<String, Option<String>>, required = false)]
    pub group_pins: Option<BTreeMap<String, Option<String>>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VersionState {
    #[default]
    Available,
    /// Kept, but no new job can be started with it.
    Archived,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ProcessVersion {
    pub id: ProcessVersionId,
    pub process_id: ProcessId,
    /// 1, 2, 3 … within the process.
    pub number: u32,
    #[schema(required)]
    pub label: Option<String>,
    pub notes: String,
    /// Digest of the package, lower-case hexadecimal.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub sha256: String,
    pub size_bytes: u64,
    pub manifest: Manifest,
    pub uploaded_by: String,
    pub created_at: Timestamp,
    pub state: VersionState,
    /// Whether it is the process's active version.
    pub active: bool,
    pub revision: u64,
}

/// `?label=&notes=&activate=` of an upload.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UploadQuery {
    /// For example a semantic version; not a number, an id, or the word `active`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(min_length = 1, max_length = 128, example = "1.4.0")]
    pub label: Option<String>,
    /// What is new in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(max_length = 2048)]
    pub notes: Option<String>,
    /// Make it the active version at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activate: Option<bool>,
}

/// For a field that names a version: a number is taken as well as the text of it.
pub fn version_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    struct Name;
    impl de::Visitor<'_> for Name {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the id, number or label of a version")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<String, E> {
            Ok(number.to_string())
        }
    }
    struct Wanted(String);
    impl<'de> Deserialize<'de> for Wanted {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(Name).map(Self)
        }
    }
    Ok(Option::<Wanted>::deserialize(deserializer)?.map(|wanted| wanted.0))
}

/// `PATCH …/versions/{version}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VersionPatch {
    /// Null removes it. Not a number, an id, or the word `active`.
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 128)]
    pub label: Option<Option<String>>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, max_length = 2048)]
    pub notes: Option<String>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = VersionState, required = false)]
    pub state: Option<VersionState>,
}
