//! Stored files and the rules of their paths.

use std::collections::BTreeMap;

use drover_protocol::{FileId, FolderId, JobId, TaskId, Timestamp, problem::Code, storage::MAX_PATH_BYTES};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct File {
    pub id: FileId,
    /// `jobs/<job id>`, `tasks/<task id>`, or the id of a folder that people made, whose name may change.
    pub folder: String,
    /// Exactly as it was given: texts that only look alike are different paths.
    pub path: String,
    pub size_bytes: u64,
    pub sha256: String,
    pub content_type: String,
    pub created_by: String,
    pub created_at: Timestamp,
    pub modified_at: Timestamp,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// The file whose content it shares, for a copy; absent: its content is its own.
    #[serde(default)]
    pub content_of: Option<FileId>,
}

impl File {
    /// Under which id its content is kept.
    pub fn content_id(&self) -> FileId {
        self.content_of.unwrap_or(self.id)
    }

    /// The folder that people made in which it lies.
    pub fn made_folder(&self) -> Option<FolderId> {
        self.folder.parse().ok()
    }

    /// The entity tag of its content.
    pub fn tag(&self) -> String {
        format!("\"{}\"", self.sha256)
    }
}

/// An entity tag of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntityTag {
    pub is_weak: bool,
    /// With its quotes.
    pub text: String,
}

/// Entity tags that a condition names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags {
    /// `*`: whatever is there.
    Any,
    These(Vec<EntityTag>),
}

impl Tags {
    /// As `If-Match` compares: a weak tag is none of all the bytes (RFC 9110, 13.1.1).
    fn name_strongly(&self, tag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::These(tags) => tags.iter().any(|named| !named.is_weak && named.text == tag),
        }
    }

    /// As `If-None-Match` compares (RFC 9110, 13.1.2).
    pub fn name_weakly(&self, tag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::These(tags) => tags.iter().any(|named| named.text == tag),
        }
    }
}

/// `If-Match` and `If-None-Match` of a call that writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    pub if_match: Option<Tags>,
    pub if_none_match: Option<Tags>,
}

impl Conditions {
    /// Refuses unless they hold for what is there.
    pub fn check(&self, file: Option<&File>) -> Result<()> {
        let refuse =
            |message: &str| Err(Error::Refused { code: Code::PreconditionFailed, message: message.to_owned() });
        let tag = file.map(File::tag);
        if self.if_match.as_ref().is_some_and(|tags| !tag.as_ref().is_some_and(|tag| tags.name_strongly(tag))) {
            return refuse(match file {
                Some(_) => "the file has other content than If-Match names; read it again",
                None => "there is no such file, and If-Match wants one",
            });
        }
        if self.if_none_match.as_ref().zip(tag.as_ref()).is_some_and(|(tags, tag)| tags.name_weakly(tag)) {
            return refuse("the file exists already, with content that If-None-Match names");
        }
        Ok(())
    }
}

/// A media type as it may be sent again in a header.
pub fn is_content_type(text: &str) -> bool {
    text.len() <= 255 && text.contains('/') && text.chars().all(|char| matches!(char, ' '..='~'))
}

/// The folder of a job's artifacts.
pub fn job_folder(job: JobId) -> String {
    format!("jobs/{job}")
}

/// The folder of the files that are attached to a task.
pub fn task_folder(task: TaskId) -> String {
    format!("tasks/{task}")
}

/// The job whose artifacts the folder holds.
pub fn job_of_folder(folder: &str) -> Option<JobId> {
    folder.strip_prefix("jobs/")?.parse().ok()
}

/// The task whose files the folder holds.
pub fn task_of_folder(folder: &str) -> Option<TaskId> {
    folder.strip_prefix("tasks/")?.parse().ok()
}

/// Why a path cannot name a file: it must be relative, in parts that any system could make a file of.
pub fn path_fault(path: &str) -> Option<String> {
    if path.is_empty() || path.len() > MAX_PATH_BYTES {
        return Some(format!("a path must have 1 to {MAX_PATH_BYTES} bytes"));
    }
    if path.chars().any(char::is_control) {
        return Some("a path must not contain control characters".to_owned());
    }
    let bad = path.split('/').any(|part| part.is_empty() || part == "." || part == ".." || part.len() > 255);
    bad.then(|| "a path has parts of 1 to 255 bytes between single slashes, none of them . or ..".to_owned())
}

/// Why a name cannot be that of a file of a task, which has an address of its own with one part for it.
pub fn attachment_fault(name: &str) -> Option<&'static str> {
    name.contains('/').then_some("the name of a file of a task has no slashes")
}

/// The media type by the ending of a path; a list short enough to be certain of.
pub fn content_type(path: &str) -> &'static str {
    let ending = path.rsplit_once('.').map_or("", |(_, ending)| ending).to_ascii_lowercase();
    match ending.as_str() {
        "txt" | "log" | "md" => "text/plain; charset=utf-8",
        "html" | "htm" => "text/html; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "json" => "application/json",
        "xml" => "application/xml",
        "pdf" => "application/pdf",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "zip" => "application/zip",
        "xlsx" => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "docx" => "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside_their_folder() {
        for good in ["report.html", "a/b/c.txt", "Отчёт & + % ? #.csv", ".hidden"] {
            assert_eq!(path_fault(good), None, "{good}");
        }
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "a\nb", "a\0b", &"x".repeat(300)] {
            assert!(path_fault(bad).is_some(), "{bad:?}");
        }
    }
}
