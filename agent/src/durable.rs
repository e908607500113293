//! Files that are either wholly there or not at all, where it is asked for also after a power cut.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

/// Replaces `path` by `content`: a neighbouring file is written and flushed, renamed, and the folder flushed.
/// The file can be read by its owner only (mode 0600).
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    put_in_place(path, content, true)?;
    sync_folder(folder_of(path))
}

/// The same without flushing, for what means nothing after a power cut: whole or not there at all for whoever looks,
/// whatever becomes of the process that writes.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    put_in_place(path, content, false)
}

fn put_in_place(path: &Path, content: &[u8], flush: bool) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = folder_of(path).join(name);
    let written = write_beside(&beside, content, flush).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // Half a file would only take the room that there is too little of.
        let _ = fs::remove_file(&beside);
    }
    written
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

fn write_beside(beside: &Path, content: &[u8], flush: bool) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(beside)?;
    file.write_all(content)?;
    if flush { file.sync_all() } else { Ok(()) }
}

/// True if a write failed only for lack of room, so that it may succeed later.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Removes a file for good; it is no error if it is gone already.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder(folder_of(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes a folder that only its owner can enter (mode 0700), with its parents.
pub fn create_private_folder(path: &Path) -> io::Result<()> {
    private_folder(path)?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        sync_folder(parent)?;
    }
    Ok(())
}

/// The same without flushing.
pub fn private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Flushes the names in a folder.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
