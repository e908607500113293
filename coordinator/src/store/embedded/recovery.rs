//! Opening a store: which of what lies in its folder can be believed, and making the index anew when it cannot.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use drover_protocol::Timestamp;

use super::{
    Folders, OpenError, Settings,
    index::Index,
    marker::{Left, Marker, boot},
};
use crate::store::{
    commit_log::{CommitLog, recovery::Damage, segment::writes_of},
    disk::{self, create_folder, sync_folder},
    engine::WriteSet,
    export::{self, Export},
};

/// Writes go into the index in batches of about this many bytes while the log is replayed.
const REPLAY_BYTES: usize = 32 * 1024 * 1024;

/// What to do beyond opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    Nothing,
    /// The index is made anew even if it could be believed: that also gives back the space it no longer needs.
    Rebuild,
    /// The same, and damage in the log loses what follows it instead of stopping.
    AcceptLoss,
}

/// A store's parts, agreeing with one another.
pub(super) struct Opened {
    pub log: CommitLog,
    pub index: Index,
    pub export: Option<Export>,
    /// Why the index was made anew, if it was.
    pub rebuilt: Option<String>,
}

pub(super) fn open(folders: &Folders, settings: &Settings, repair: Repair) -> Result<Opened, OpenError> {
    for folder in [&folders.log, &folders.export] {
        create_folder(folder).map_err(|source| OpenError::io("making the folder", folder, source))?;
    }
    let export = newest_export(folders)?;
    let damage = if repair == Repair::AcceptLoss { Damage::PutAside } else { Damage::Refuse };
    let marker = Marker::load(&folders.store).map_err(|source| OpenError::io("reading", &folders.store, source))?;
    // The index may have what is cut off, and must then not be believed, even if this start does not end.
    let before_cut = || Marker::remove(&folders.store);
    let randomness = settings.randomness.clone();
    let log = CommitLog::open(&folders.log, settings.segment_bytes, randomness, damage, &before_cut)?;
    let Some(log) = log else { return create(folders, settings, export.is_some() || marker.is_some()) };
    belongs_together(&log, export.as_ref(), marker.as_ref(), repair)?;

    let found = match repair {
        Repair::Nothing => trusted(folders, settings, &log, marker.as_ref()),
        Repair::Rebuild | Repair::AcceptLoss => Err("it was asked for".to_owned()),
    };
    let (index, rebuilt) = match found {
        Ok((index, commit)) => {
            if commit > log.last_commit() {
                return Err(OpenError::LogTooShort { known: commit, found: log.last_commit(), at: end_of(&log) });
            }
            save_marker(folders, &log, Left::Open, marker.map_or(0, |marker| marker.commit))?;
            replay(&log, &index, commit)?;
            (index, None)
        }
        Err(reason) => {
            let half_filled = marker.is_some_and(|marker| marker.left == Left::Rebuilding);
            (rebuild(folders, settings, &log, export.as_ref(), &reason, half_filled)?, Some(reason))
        }
    };
    Ok(Opened { log, index, export, rebuilt })
}

fn newest_export(folders: &Folders) -> Result<Option<Export>, OpenError> {
    for unfinished in disk::files_with_extension(&folders.export, "tmp").unwrap_or_default() {
        disk::remove_if_there(&unfinished).map_err(|source| OpenError::io("removing", &unfinished, source))?;
    }
    Ok(export::newest(&folders.export)?)
}

/// A store that is new. If anything else is there than its folders the log has been lost, and that is no new store.
fn create(folders: &Folders, settings: &Settings, anything_else: bool) -> Result<Opened, OpenError> {
    if anything_else || Index::is_there(&folders.index) {
        return Err(OpenError::NoLog { folder: folders.log.clone() });
    }
    let mut random = [0; 16];
    settings.randomness.fill(&mut random);
    let store = uuid::Builder::from_random_bytes(random).into_uuid();
    let log = CommitLog::create(&folders.log, store, settings.segment_bytes, settings.randomness.clone())
        .map_err(|source| OpenError::io("making the log in", &folders.log, source))?;
    let index = fresh_index(folders, settings, &log)?;
    complete(folders, &log, &index)?;
    Ok(Opened { log, index, export: None, rebuilt: None })
}

/// The log must reach from the export, or from the beginning, to the last commit that is known to have been on disk.
fn belongs_together(
    log: &CommitLog,
    export: Option<&Export>,
    marker: Option<&Marker>,
    repair: Repair,
) -> Result<(), OpenError> {
    if let Some(export) = export
        && export.store != log.store()
    {
        return Err(OpenError::OtherStore { path: export.path.clone() });
    }
    let first = log.segments().first().map_or(1, |segment| segment.first_commit);
    let start = export.map_or(0, |export| export.start);
    if first > start + 1 {
        return Err(OpenError::LogGap { from: start + 1, to: first - 1, folder: end_of(log).0 });
    }
    let of_this_store = marker.filter(|marker| marker.store == log.store()).map_or(0, |marker| marker.commit);
    let known = export.map_or(0, |export| export.end).max(of_this_store);
    if known > log.last_commit() && repair != Repair::AcceptLoss {
        return Err(OpenError::LogTooShort { known, found: log.last_commit(), at: end_of(log) });
    }
    Ok(())
}

fn end_of(log: &CommitLog) -> (PathBuf, u64) {
    log.segments().last().map(|segment| (segment.path.clone(), segment.end)).unwrap_or_default()
}

/// The index as it was left with its commit number, or why it cannot be believed.
fn trusted(
    folders: &Folders,
    settings: &Settings,
    log: &CommitLog,
    marker: Option<&Marker>,
) -> Result<(Index, u64), String> {
    if !Index::is_there(&folders.index) {
        return Err("it is not there".to_owned());
    }
    if let Some(reason) = Marker::distrust(marker, log.store(), boot().as_deref()) {
        return Err(reason.to_owned());
    }
    if log.was_torn() {
        return Err("the end of the log was torn, so that it may have a commit that the log has not".to_owned());
    }
    if Index::has_stray_pages(&folders.index) {
        return Err("pages lie in its blobs folder, which is never synced".to_owned());
    }
    let index =
        Index::open(&folders.index, settings.cache_bytes).map_err(|error| format!("cannot be opened: {error}"))?;
    let (store, commit) = index.position()?.ok_or("it is empty or half filled")?;
    let first = log.segments().first().map_or(1, |segment| segment.first_commit);
    if store != log.store() {
        return Err("it belongs to another store".to_owned());
    }
    if marker.is_some_and(|marker| commit < marker.commit) {
        return Err("it is older than its own last checkpoint".to_owned());
    }
    if commit + 1 < first {
        return Err("it is behind the log".to_owned());
    }
    Ok((index, commit))
}

fn save_marker(folders: &Folders, log: &CommitLog, left: Left, commit: u64) -> Result<(), OpenError> {
    let marker = Marker { store: log.store(), left, boot: boot(), commit };
    marker.save(&folders.store).map_err(|source| OpenError::io("writing the marker in", &folders.store, source))
}

/// Makes the index anew from the newest export and the log. What was there is kept aside.
fn rebuild(
    folders: &Folders,
    settings: &Settings,
    log: &CommitLog,
    export: Option<&Export>,
    reason: &str,
    half_filled: bool,
) -> Result<Index, OpenError> {
    tracing::error!(store = %folders.store.display(), reason, "the index is made anew from export and log");
    keep_aside(folders, half_filled).map_err(|source| OpenError::io("moving away", &folders.index, source))?;
    let index = fresh_index(folders, settings, log)?;
    let mut from = 0;
    if let Some(export) = export {
        export::read(&export.path, &mut |pairs| index.load(pairs).map_err(io::Error::other))?;
        from = export.start;
    }
    replay(log, &index, from)?;
    complete(folders, log, &index)?;
    tracing::info!(store = %folders.store.display(), commit = log.last_commit(), "the index has been made anew");
    Ok(index)
}

fn fresh_index(folders: &Folders, settings: &Settings, log: &CommitLog) -> Result<Index, OpenError> {
    save_marker(folders, log, Left::Rebuilding, 0)?;
    create_folder(&folders.index).map_err(|source| OpenError::io("making the folder", &folders.index, source))?;
    Index::open(&folders.index, settings.cache_bytes).map_err(OpenError::Index)
}

/// Puts the last commit's number into the index and only then has the marker say that it can be believed.
fn complete(folders: &Folders, log: &CommitLog, index: &Index) -> Result<(), OpenError> {
    index.set_position(log.store(), log.last_commit())?;
    index.sync_everything()?;
    save_marker(folders, log, Left::Open, log.last_commit())
}

/// Moves the folder away under a number of its own. Only the newest is kept; a half-filled one is worth nothing.
fn keep_aside(folders: &Folders, half_filled: bool) -> io::Result<()> {
    if !folders.index.exists() {
        return Ok(());
    }
    if half_filled {
        fs::remove_dir_all(&folders.index)?;
        return sync_folder(&folders.store);
    }
    let older = kept_aside(&folders.store)?;
    let number = older.iter().map(|(number, _)| number + 1).max().unwrap_or(1);
    fs::rename(&folders.index, folders.index.with_added_extension(format!("old-{number}")))?;
    sync_folder(&folders.store)?;
    older.iter().try_for_each(|(_, path)| fs::remove_dir_all(path))
}

fn kept_aside(store: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(store)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(number) = name.strip_prefix("sled.old-").and_then(|number| number.parse().ok()) {
            found.push((number, path.clone()));
        }
    }
    Ok(found)
}

/// Puts every commit after this one into the index, the writes of many commits at once. What it has of them already it
/// becomes once more: puts and deletes are absolute.
fn replay(log: &CommitLog, index: &Index, after: u64) -> Result<(), OpenError> {
    let mut writes = WriteSet::new();
    let mut bytes = 0;
    let mut put = |_: u64, _: Timestamp, payload: &[u8]| {
        let commit_writes =
            writes_of(payload).ok_or_else(|| io::Error::other("a record of the log has another form"))?;
        for (key, value) in commit_writes {
            writes.insert(key.to_vec(), value.map(<[u8]>::to_vec));
        }
        bytes += payload.len();
        if bytes > REPLAY_BYTES {
            bytes = 0;
            index.apply(&std::mem::take(&mut writes)).map_err(io::Error::other)?;
        }
        Ok(())
    };
    log.replay(after, &mut put).map_err(|source| OpenError::io("replaying", &end_of(log).0, source))?;
    Ok(index.apply(&writes)?)
}
