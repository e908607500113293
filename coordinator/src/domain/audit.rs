//! The audit trail: acts in a chain of hashes.

use drover_protocol::{Timestamp, audit::AuditRecord};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// What stands in place of a secret.
pub const MASK: &str = "••••";
/// The hash before the first act.
pub const NO_HASH: [u8; 32] = [0; 32];
/// The largest `before` and `after` as JSON; of larger ones only the size is kept.
const MAX_CHANGE_BYTES: usize = 8 * 1024;

/// An act as it is kept: the very text whose hash it is, and the hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    pub seq: u64,
    /// The record as JSON, without its hash.
    pub line: String,
    #[serde(with = "serde_bytes")]
    pub hash: [u8; 32],
}

/// Where the chain ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub seq: u64,
    #[serde(with = "serde_bytes")]
    pub hash: [u8; 32],
    pub at: Timestamp,
}

impl Head {
    pub const START: Head = Head { seq: 0, hash: NO_HASH, at: Timestamp::EPOCH };
}

/// Up to where the trail was removed for its age: the chain goes on from here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The last act that was removed.
    pub seq: u64,
    #[serde(with = "serde_bytes")]
    pub hash: [u8; 32],
    pub removed_at: Timestamp,
}

/// By this act the coordinator says in the trail itself what it has removed.
pub const REMOVED_VERB: &str = "remove_old";
pub const REMOVED_NOUN: &str = "audit";

pub fn hash_of(line: &str) -> [u8; 32] {
    Sha256::digest(line.as_bytes()).into()
}

pub fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Act {
    /// The record with its hash, if its text can be read.
    pub fn record(&self) -> Option<AuditRecord> {
        let record: AuditRecord = serde_json::from_str(&self.line).ok()?;
        Some(AuditRecord { hash: hex(&self.hash), ..record })
    }

    /// The record as a line of an export: the very text that is hashed, and the hash.
    pub fn exported(&self) -> String {
        let open = self.line.strip_suffix('}').unwrap_or(&self.line);
        format!("{open},\"hash\":\"{}\"}}\n", hex(&self.hash))
    }
}

/// Names of members that hold what nobody may read later.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "secret", "token", "api_key", "authorization", "credential", "private"]
        .iter()
        .any(|word| name.contains(word))
}

/// The value with all members masked whose names say that they are secret.
pub fn masked(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let mask = |(name, value): (String, Value)| match is_secret(&name) && !value.is_null() {
                true => (name, Value::from(MASK)),
                false => (name, masked(value)),
            };
            Value::Object(members.into_iter().map(mask).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(masked).collect()),
        plain => plain,
    }
}

/// The same within the limit of a record.
pub fn bounded(value: Value) -> Value {
    let value = masked(value);
    let size = value.to_string().len();
    match size > MAX_CHANGE_BYTES {
        true => Value::from(format!("({size} bytes of JSON, not kept here)")),
        false => value,
    }
}

/// Those members that differ, as they were and as they are.
pub fn difference(before: Value, after: Value) -> (Value, Value) {
    let (Value::Object(mut before), Value::Object(mut after)) = (before, after) else {
        return (Value::Null, Value::Null);
    };
    // These differ after every change and say nothing.
    for counted in ["revision", "updated_at", "updated_by"] {
        before.remove(counted);
        after.remove(counted);
    }
    let same: Vec<String> =
        before.iter().filter(|(name, value)| after.get(*name) == Some(*value)).map(|(name, _)| name.clone()).collect();
    for name in same {
        before.remove(&name);
        after.remove(&name);
    }
    (Value::Object(before), Value::Object(after))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_masked_at_any_depth_and_large_changes_bounded() {
        let given = json!({"name": "n", "password": "x", "deep": [{"join_token": "y", "size": 3}], "secret": null});
        let expected =
            json!({"name": "n", "password": MASK, "deep": [{"join_token": MASK, "size": 3}], "secret": null});
        assert_eq!(masked(given), expected);
        assert!(bounded(json!({"text": "x".repeat(MAX_CHANGE_BYTES)})).is_string());
    }

    #[test]
    fn only_what_differs_is_told() {
        let (before, after) = difference(
            json!({"name": "a", "size": 1, "gone": 5, "revision": 1}),
            json!({"name": "b", "size": 1, "new": 6, "revision": 2}),
        );
        assert_eq!((before, after), (json!({"name": "a", "gone": 5}), json!({"name": "b", "new": 6})));
    }

    /// What is exported proves itself: the line less its last member has the hash that the member says.
    #[test]
    fn an_exported_line_has_the_hash_that_it_says() {
        let line = r#"{"seq":1,"verb":"create"}"#.to_owned();
        let act = Act { seq: 1, hash: hash_of(&line), line };
        let exported = act.exported();
        let (open, hash) = exported.trim_end().rsplit_once(",\"hash\":\"").expect("the hash comes last");
        assert_eq!(hex(&hash_of(&format!("{open}}}"))), hash.trim_end_matches("\"}"));
    }
}
