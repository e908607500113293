//! The marker: what is known of sled's folder from outside of it, so that sled is never asked whether it can be believed.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::store::disk;

const FILE: &str = "marker";

/// In what state the folder was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Left {
    /// All is on disk.
    Closed,
    /// Written to: what the operating system held then was in its memory.
    Open,
    /// Half filled.
    Rebuilding,
}

/// The marker's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    pub store: Uuid,
    pub left: Left,
    /// The start of the host that it was written in; unknown outside of Linux.
    pub boot: Option<String>,
    /// A commit that was on disk when this was written, in the log as in sled's folder.
    pub commit: u64,
}

impl Marker {
    /// The marker of a store; `None` if it is not there or cannot be read: then nothing is believed.
    pub fn load(store_folder: &Path) -> io::Result<Option<Self>> {
        match fs::read(store_folder.join(FILE)) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn save(&self, store_folder: &Path) -> io::Result<()> {
        disk::write_whole(&store_folder.join(FILE), serde_json::to_string_pretty(self)?.as_bytes())
    }

    /// Takes all belief from sled's folder.
    pub fn remove(store_folder: &Path) -> io::Result<()> {
        disk::remove_if_there(&store_folder.join(FILE))?;
        disk::sync_folder(store_folder)
    }

    /// Why sled's folder cannot be believed as it was left, if so.
    ///
    /// After a mere kill all that was written is still in the memory of the same running host. After a power cut it is
    /// not, and sled does not order its writes well enough to know what is missing.
    pub fn distrust(marker: Option<&Self>, store: Uuid, boot: Option<&str>) -> Option<&'static str> {
        let Some(marker) = marker else { return Some("it has no marker") };
        match marker.left {
            _ if marker.store != store => Some("it belongs to another store"),
            Left::Rebuilding => Some("an earlier rebuild did not end"),
            Left::Closed => None,
            Left::Open if boot.is_some() && marker.boot.as_deref() == boot => None,
            Left::Open => Some("the host has been started anew since it was last written to, without a clean close"),
        }
    }
}

/// Which start of the host this is.
pub fn boot() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}
