//! The local folder of blobs: the steps that make content survive a power cut.
//!
//! Content is written to `staging/`, synced, renamed to its place, and then the folders that gained an entry are synced.

use std::{
    collections::HashSet,
    fs::File,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use tempfile::TempPath;

use super::{io_error, name::BlobName};
use crate::error::Result;

const STAGING: &str = "staging";

#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// Folders whose own entry in their parent is known to be on disk. At most 65,536 per kind.
    durable: Mutex<HashSet<PathBuf>>,
}

impl Folder {
    pub(super) fn open(root: &Path) -> Result<Self> {
        let staging = root.join(STAGING);
        std::fs::create_dir_all(&staging).map_err(|error| io_error(&error, "making the folder of blobs"))?;
        remove_leftovers(&staging).map_err(|error| io_error(&error, "removing unfinished uploads"))?;
        sync_folder(root)?;
        if let Some(parent) = root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_folder(parent)?;
        }
        Ok(Self { root: root.to_owned(), durable: Mutex::default() })
    }

    /// An empty file that vanishes with its path. Only the owner may read it.
    pub(super) fn new_staging_file(&self) -> Result<(File, TempPath)> {
        let file = tempfile::Builder::new()
            .prefix("upload-")
            .tempfile_in(self.root.join(STAGING))
            .map_err(|error| io_error(&error, "making a file for an upload"))?;
        Ok(file.into_parts())
    }

    /// Moves a staged file to its place, replacing what is there. All of it is on disk when this returns.
    pub(super) fn keep(&self, file: &File, staged: TempPath, name: &BlobName) -> Result<()> {
        file.sync_all().map_err(|error| io_error(&error, "syncing a blob"))?;
        let path = self.root.join(name.path().as_ref());
        let folder = path.parent().unwrap_or(&self.root);
        self.make_durable(folder)?;
        staged.persist(&path).map_err(|error| io_error(&error.error, "moving a blob to its place"))?;
        sync_folder(folder)
    }

    /// Removes a blob, if it is there, and its name from the disk: whoever has noted that it is to go forgets that next.
    pub(super) fn remove(&self, name: &BlobName) -> Result<()> {
        let path = self.root.join(name.path().as_ref());
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io_error(&error, "deleting a blob")),
            _ => {}
        }
        // One that was not there may have been removed a moment ago by somebody who did not get to this.
        match path.parent().filter(|folder| folder.is_dir()) {
            Some(folder) => sync_folder(folder),
            None => Ok(()),
        }
    }

    /// Makes a folder below the root, and ensures that its name is on disk, and those of the folders above it.
    fn make_durable(&self, folder: &Path) -> Result<()> {
        if folder == self.root || self.durable.lock().contains(folder) {
            return Ok(());
        }
        let Some(parent) = folder.parent() else { return Ok(()) };
        self.make_durable(parent)?;
        match std::fs::create_dir(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(io_error(&error, "making a folder for blobs"));
            }
            // One that was there may have been made a moment ago, and not be on disk: it is synced all the same.
            _ => sync_folder(parent)?,
        }
        self.durable.lock().insert(folder.to_owned());
        Ok(())
    }
}

fn remove_leftovers(staging: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(staging)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Puts the names in a folder on disk.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| io_error(&error, "syncing a folder"))
}

/// Other systems cannot open a folder for this; their file systems write names ahead by themselves.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> Result<()> {
    Ok(())
}
