//! The audit trail: who did what to what, in a chain of hashes.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::{KeyId, Timestamp};

/// One act. `hash` is the SHA-256 of this very object as compact JSON without its last member (`hash` itself), in the
/// order in which the members stand here, and `previous_hash` is the hash of the act before: nothing can be changed or left
/// out without a trace. A line of the NDJSON export less `,"hash":"…"` has that hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditRecord {
    /// Counted from 1 in the account, without a gap.
    pub seq: u64,
    /// Never earlier than that of the act before.
    pub at: Timestamp,
    /// `user:<id>`, `robot:<id>`, `job:<id>`, `coordinator`, or `unauthenticated` for who was not let in.
    pub actor: String,
    pub actor_name: String,
    /// The caller's address, as the coordinator sees it.
    #[schema(required)]
    pub address: Option<String>,
    /// Of the key or the session.
    #[schema(required)]
    pub key_id: Option<KeyId>,
    #[schema(example = "update")]
    pub verb: String,
    #[schema(example = "process")]
    pub noun: String,
    /// Id of the object.
    pub object: String,
    pub object_name: String,
    /// What was before, as far as it changed; secrets are masked.
    #[schema(required)]
    pub before: Option<Value>,
    /// What is now, as far as it changed; secrets are masked.
    #[schema(required)]
    pub after: Option<Value>,
    /// Sixty-four zeros for the first.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub previous_hash: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub hash: String,
}

/// Filters of `GET /audit`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditFilter {
    /// `user:<id>`, `robot:<id>`, `job:<id>`, `coordinator`, `unauthenticated`, or a user's login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Such as `process`, `resource`, `job`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noun: Option<String>,
    /// Id of the object, or the name it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Such as `create`, `update`, `delete`, `read_value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verb: Option<String>,
    /// From this time on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// Before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
}

/// Whether the chain is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditVerification {
    pub sound: bool,
    /// How many acts there are.
    pub records: u64,
    /// The last act's number; 0 if there is none.
    pub last_seq: u64,
    /// The last act's hash. Whoever writes it down elsewhere can tell later whether the trail was written anew.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub last_hash: String,
    /// The first hundred problems in words.
    pub problems: Vec<String>,
}
