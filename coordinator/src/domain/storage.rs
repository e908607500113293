//! Storage folders that people make, and the rules of their names.
//!
//! Beside them there are reserved folders, which exist as long as what they belong to: `jobs/<job id>` with the artifacts
//! of a job, `tasks/<task id>` with the files of a task.

use drover_protocol::{
    FolderId, Timestamp,
    storage::{MAX_FOLDER_NAME_BYTES, MAX_RETENTION_DAYS},
};
use serde::{Deserialize, Serialize};

use super::name::Faults;

/// First parts of names that are not for people to give.
const RESERVED: [&str; 2] = ["jobs", "tasks"];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StorageFolder {
    pub id: FolderId,
    pub name: String,
    pub description: String,
    pub retention_days: Option<u32>,
    pub quota_bytes: Option<u64>,
    pub read_only: bool,
    /// Of its files, kept in the transaction that writes or deletes one.
    pub file_count: u64,
    pub used_bytes: u64,
    pub created_by: String,
    pub created_at: Timestamp,
    /// It is gone for everybody; its files are being removed.
    pub deleted: bool,
    pub revision: u64,
}

impl StorageFolder {
    /// By this the folder's files are found, whatever its name is at the time.
    pub fn key(&self) -> String {
        self.id.to_string()
    }

    /// How many bytes may take the place of `replaced_bytes`: no fewer than these, for over a quota that was lowered the
    /// folder grows no further, and stays usable.
    pub fn room_bytes(&self, replaced_bytes: u64) -> Option<u64> {
        let left = |quota: u64| quota.saturating_sub(self.used_bytes.saturating_sub(replaced_bytes));
        self.quota_bytes.map(|quota| left(quota).max(replaced_bytes))
    }
}

/// A name in parts between slashes, none of which could lead elsewhere.
pub fn check_name(faults: &mut Faults, pointer: &str, name: &str) {
    if name.is_empty() || name.len() > MAX_FOLDER_NAME_BYTES {
        faults.add(pointer, format!("a name must have 1 to {MAX_FOLDER_NAME_BYTES} bytes"));
    }
    if name.chars().any(char::is_control) {
        faults.add(pointer, "control characters are not allowed");
    }
    let bad = |part: &str| part.trim() != part || part.is_empty() || part == "." || part == "..";
    if !name.is_empty() && name.split('/').any(bad) {
        faults.add(
            pointer,
            "a name has parts between single slashes, none of them empty, . or .., nor with spaces around",
        );
    }
    if uuid::Uuid::try_parse(name).is_ok() {
        faults.add(pointer, "a name must not look like an id");
    }
    if RESERVED.contains(&name.split('/').next().unwrap_or_default()) {
        faults.add(pointer, "names that begin with jobs or tasks are reserved for the files of jobs and tasks");
    }
}

pub fn check_retention(faults: &mut Faults, days: Option<u32>) {
    if let Some(days) = days {
        faults.range("/retention_days", u64::from(days), 1, u64::from(MAX_RETENTION_DAYS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_fine(name: &str) -> bool {
        let mut faults = Faults::default();
        check_name(&mut faults, "/name", name);
        faults.check().is_ok()
    }

    #[test]
    fn names_of_folders_are_of_any_depth_and_script_and_lead_nowhere_else() {
        for good in ["invoices", "a/b/c/d/e/f", "Счета & акты/2026 + % ? #", "请求/文件", "jobs2", "a/jobs", "a.b/.c"]
        {
            assert!(is_fine(good), "{good}");
        }
        for bad in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            "..",
            "a/../b",
            "a/.",
            " a",
            "a /b",
            "a\nb",
            "a\0",
            "jobs",
            "jobs/x",
            "tasks/0192f6c4-7a10-7cc3-98c4-dc0c0c07398f",
            "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f",
            &"x".repeat(513),
        ] {
            assert!(!is_fine(bad), "{bad:?}");
        }
    }
}
