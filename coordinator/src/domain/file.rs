//! Stored files and the rules of their paths.

use drover_protocol::{FileId, JobId, TaskId, Timestamp, storage::MAX_PATH_BYTES};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct File {
    pub id: FileId,
    pub folder: String,
    pub path: String,
    pub size_bytes: u64,
    pub sha256: String,
    pub content_type: String,
    pub created_by: String,
    pub created_at: Timestamp,
    pub modified_at: Timestamp,
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
