//! Files of storage folders, the artifacts of jobs among them.

use std::collections::BTreeMap;

use drover_protocol::{FileId, FolderId, JobId, Timestamp, news::NewsType, page::PageQuery, storage::FileTransfer};
use uuid::Uuid;

use super::{
    Actor, Caller,
    audit::{self, Act},
    garbage, key,
    list::{self, Page, Via},
    news,
    storage::{self, Place},
};
use crate::{
    domain::{
        attempt::Attempt,
        file::{Conditions, File, attachment_fault, content_type, job_folder, path_fault},
        job::Job,
        name::Faults,
        permission::Permission,
        storage::StorageFolder,
    },
    error::{Error, Result},
    store::{
        Reading, Scan, Tx,
        blob::BlobName,
        key::{Kind, TextPrefix},
        table,
    },
};

/// Entries of an index that are looked at together when one level is listed.
const STEP: usize = 100;

/// Content that was announced and kept, and now gets its name.
#[derive(Clone, Debug)]
pub struct Content {
    pub id: FileId,
    pub sha256: String,
    pub size_bytes: u64,
}

/// What a writer says about a file.
#[derive(Clone, Debug, Default)]
pub struct Described {
    /// Absent: by the ending of the path.
    pub content_type: Option<String>,
    pub metadata: BTreeMap<String, String>,
}

/// Checks that the robot may add a file to the job's folder, before the content is read.
pub fn check_artifact(reading: &dyn Reading, caller: &Caller, job: JobId, attempt: u32, path: &str) -> Result<()> {
    let robot = caller.robot()?;
    let record: Option<Attempt> = table::find(reading, (job, attempt))?;
    record.filter(|record| record.robot.id == robot).ok_or(Error::NotFound("job"))?;
    if !table::get::<Job>(reading, job)?.is_held_by(robot, attempt) {
        return Err(Error::stale_attempt("the attempt is over; its artifacts are not taken any more"));
    }
    check_path("path", path)
}

/// Checks the path of a file that is to lie in this place.
fn check_path_in(place: &Place, pointer: &str, path: &str) -> Result<()> {
    match (place, attachment_fault(path)) {
        (Place::Task(_), Some(fault)) => Err(Error::invalid(pointer, fault)),
        _ => check_path(pointer, path),
    }
}

fn check_path(pointer: &str, path: &str) -> Result<()> {
    match path_fault(path) {
        Some(fault) => Err(Error::invalid(pointer, fault)),
        None => Ok(()),
    }
}

/// Adds an artifact, or replaces the one of the same path.
pub fn put_artifact(
    tx: &mut Tx,
    caller: &Caller,
    job: JobId,
    attempt: u32,
    path: &str,
    content: &Content,
) -> Result<File> {
    let caller = &key::renewed(tx, caller)?;
    check_artifact(tx, caller, job, attempt, path)?;
    if let Some(old) = find(tx, &job_folder(job), path)?
        && old.sha256 == content.sha256
    {
        // The answer to the first upload was lost; the second copy is not needed.
        garbage::discard(tx, BlobName::file(content.id).to_string())?;
        return Ok(old);
    }
    write(tx, &caller.by(), &mut Place::Job(job), path, content, &Described::default()).map(|(file, _)| file)
}

/// Checks that the caller may write the file, before its content is read. Gives where it will lie.
pub fn check_put(
    reading: &dyn Reading,
    caller: &Caller,
    folder: &str,
    path: &str,
    described: &Described,
    conditions: &Conditions,
) -> Result<Place> {
    caller.require(Permission::StorageWrite)?;
    let place = storage::place(reading, caller, Permission::StorageWrite, folder)?;
    place.check_change(reading, caller, true)?;
    check_path_in(&place, "path", path)?;
    let mut faults = Faults::default();
    faults.labels("metadata", described.metadata.iter());
    faults.check()?;
    conditions.check(find(reading, &place.key(), path)?.as_ref())?;
    Ok(place)
}

/// How many bytes a file at this path may have by the quota of its folder.
pub fn room_bytes(reading: &dyn Reading, place: &Place, path: &str) -> Result<Option<u64>> {
    let Place::Made(folder) = place else { return Ok(None) };
    let old = find(reading, &place.key(), path)?;
    Ok(folder.room_bytes(old.map_or(0, |old| old.size_bytes)))
}

/// Adds a file, or replaces the one of the same path. Readers see the old one or the new one, whole. Gives whether it is
/// new.
pub fn put(
    tx: &mut Tx,
    caller: &Caller,
    folder: &str,
    path: &str,
    content: &Content,
    described: &Described,
    conditions: &Conditions,
) -> Result<(File, bool)> {
    let caller = &still_good(tx, caller)?;
    let mut place = check_put(tx, caller, folder, path, described, conditions)?;
    let (file, is_new) = write(tx, &caller.by(), &mut place, path, content, described)?;
    write_down(tx, caller, if is_new { "create" } else { "update" }, &place, &file)?;
    Ok((file, is_new))
}

/// The caller as it is now that the content has come, which may have taken hours. A job may write while its attempt runs, be
/// it with its key or by a link, which [`Place::check_change`] asks.
fn still_good(reading: &dyn Reading, caller: &Caller) -> Result<Caller> {
    match caller.actor {
        Actor::Job { .. } => key::open_account(reading).map(|_| caller.clone()),
        Actor::User { .. } | Actor::Robot { .. } => key::renewed(reading, caller),
    }
}

/// The same for what the coordinator puts away by itself, into a folder that people made.
pub fn put_by(
    tx: &mut Tx,
    by: &str,
    folder: FolderId,
    path: &str,
    content: &Content,
    described: &Described,
) -> Result<File> {
    check_path("path", path)?;
    let folder: StorageFolder = table::get(tx, folder)?;
    if folder.deleted {
        return Err(Error::NotFound("storage folder"));
    }
    if folder.read_only {
        return Err(Error::wrong_state(format!("the folder {} is read only", folder.name)));
    }
    write(tx, by, &mut Place::Made(folder), path, content, described).map(|(file, _)| file)
}

/// What people do with files is an act; what jobs and robots do is their work.
fn write_down(tx: &mut Tx, caller: &Caller, verb: &'static str, place: &Place, file: &File) -> Result<()> {
    if !matches!(caller.actor, Actor::User { .. }) {
        return Ok(());
    }
    let about =
        serde_json::json!({ "folder": place.name(), "size_bytes": file.size_bytes, "sha256": file.sha256.clone() });
    audit::append(tx, caller, Act::new(verb, "file", file.id, &file.path).after(about))
}

fn write(
    tx: &mut Tx,
    by: &str,
    place: &mut Place,
    path: &str,
    content: &Content,
    described: &Described,
) -> Result<(File, bool)> {
    let mut file = File {
        id: content.id,
        folder: place.key(),
        path: path.to_owned(),
        size_bytes: content.size_bytes,
        sha256: content.sha256.clone(),
        content_type: described.content_type.clone().unwrap_or_else(|| content_type(path).to_owned()),
        created_by: by.to_owned(),
        created_at: tx.now(),
        modified_at: tx.now(),
        metadata: described.metadata.clone(),
        content_of: None,
    };
    let old = find(tx, &file.folder, path)?;
    if let Some(old) = &old {
        file.created_at = old.created_at;
    }
    place.count(tx, old.as_ref().as_slice(), &[&file])?;
    settle(tx, old.as_ref(), &file)?;
    tell(tx, &file, by)?;
    garbage::keep(tx, &BlobName::file(file.id).to_string())?;
    Ok((file, old.is_none()))
}

/// Puts a record in the place of another, or where there was none. The figures of its folder are the caller's care.
fn settle(tx: &mut Tx, old: Option<&File>, file: &File) -> Result<()> {
    if let Some(old) = old {
        remove_record(tx, old)?;
    }
    table::insert(tx, file)
}

/// Files of folders that people made are news; artifacts of jobs and attachments of tasks belong to those. Who has put a
/// file there may be another one than who has made it: a file that is moved stays that of its maker.
fn tell(tx: &mut Tx, file: &File, by: &str) -> Result<()> {
    match file.made_folder() {
        Some(folder) => news::tell(tx, NewsType::FileAdded, |tx| Ok(news::of_file(file, by, &table::get(tx, folder)?))),
        None => Ok(()),
    }
}

fn find(reading: &dyn Reading, folder: &str, path: &str) -> Result<Option<File>> {
    table::find_by(reading, Kind::FileByPath, (folder, path))
}

/// Removes a record, and its content unless that of a copy is the same. The figures of its folder are the caller's care.
pub fn remove_record(tx: &mut Tx, file: &File) -> Result<()> {
    table::delete::<File>(tx, file.id)?;
    garbage::discard_file(tx, file.content_id())
}

/// Whether `file` may be read by this caller where it lies.
pub fn get(reading: &dyn Reading, caller: &Caller, folder: &str, path: &str) -> Result<File> {
    caller.require(Permission::StorageRead)?;
    let place = storage::place(reading, caller, Permission::StorageRead, folder)?;
    find(reading, &place.key(), path)?.ok_or(Error::NotFound("file"))
}

pub fn delete(tx: &mut Tx, caller: &Caller, folder: &str, path: &str, conditions: &Conditions) -> Result<()> {
    caller.require(Permission::StorageWrite)?;
    let mut place = storage::place(tx, caller, Permission::StorageWrite, folder)?;
    let file = find(tx, &place.key(), path)?.ok_or(Error::NotFound("file"))?;
    place.check_change(tx, caller, false)?;
    conditions.check(Some(&file))?;
    place.count(tx, &[&file], &[])?;
    write_down(tx, caller, "delete", &place, &file)?;
    remove_record(tx, &file)
}

/// Whether a file stays where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    Copy,
    Move,
}

/// Copies or moves a file within a folder or to another one. No content is moved, and a copy shares it.
pub fn transfer(
    tx: &mut Tx,
    caller: &Caller,
    folder: &str,
    request: &FileTransfer,
    transfer: Transfer,
) -> Result<File> {
    caller.require(Permission::StorageRead)?;
    caller.require(Permission::StorageWrite)?;
    let mut from = storage::place(tx, caller, Permission::StorageRead, folder)?;
    let found = find(tx, &from.key(), &request.path)?;
    let source = found.ok_or_else(|| Error::invalid("/path", "there is no such file in the folder"))?;
    let mut to = match &request.to_folder {
        Some(text) => storage::place(tx, caller, Permission::StorageWrite, text).map_err(|error| match error {
            Error::NotFound(_) => Error::invalid("/to_folder", "there is no such storage folder"),
            other => other,
        })?,
        None => from.clone(),
    };
    if transfer == Transfer::Move {
        from.check_change(tx, caller, false)?;
    }
    to.check_change(tx, caller, true)?;
    check_path_in(&to, "/to_path", &request.to_path)?;
    let old = find(tx, &to.key(), &request.to_path)?;
    if old.as_ref().is_some_and(|old| old.id == source.id) {
        return Ok(source);
    }
    if let Some(old) = old.as_ref().filter(|_| !request.replace) {
        return Err(Error::AlreadyExists { what: "a file of this path".to_owned(), id: old.id.to_string() });
    }
    let mut file = File { folder: to.key(), path: request.to_path.clone(), ..source.clone() };
    let mut removed: Vec<&File> = old.iter().collect();
    if transfer == Transfer::Move {
        match from.key() == to.key() {
            // By another name alone the folder holds no more, however full it is.
            true => removed.push(&source),
            false => from.count(tx, &[&source], &[])?,
        }
        table::delete::<File>(tx, source.id)?;
    } else {
        file.id = FileId::from_uuid(tx.new_id());
        file.content_of = Some(source.content_id());
        file.created_by = caller.by();
        file.created_at = tx.now();
        file.modified_at = tx.now();
    }
    to.count(tx, &removed, &[&file])?;
    settle(tx, old.as_ref(), &file)?;
    tell(tx, &file, &caller.by())?;
    write_down(tx, caller, if transfer == Transfer::Move { "move" } else { "copy" }, &to, &file)?;
    Ok(file)
}

/// Files of a folder by path; and how many there are, if that is asked and the folder counts them.
pub fn list(
    reading: &dyn Reading,
    caller: &Caller,
    folder: &str,
    prefix: &str,
    query: &PageQuery,
) -> Result<(Page<File>, Option<u64>)> {
    caller.require(Permission::StorageRead)?;
    let place = storage::place(reading, caller, Permission::StorageRead, folder)?;
    let scan = Scan::of(reading, Kind::FileByPath, (place.key(), TextPrefix(prefix)));
    let total = match &place {
        Place::Made(folder) if query.count == Some(true) && prefix.is_empty() => Some(folder.file_count),
        Place::Made(_) | Place::Job(_) | Place::Task(_) => None,
    };
    Ok((list::page(reading, scan, Via::Index, query, |_: &File| true)?, total))
}

/// One level of a folder.
#[derive(Debug)]
pub struct Level {
    pub files: Vec<File>,
    /// Beginnings of what lies deeper, each with its slash.
    pub prefixes: Vec<String>,
    pub next_cursor: Option<String>,
}

/// Files of one level, by path, and the beginnings of what lies deeper: each is passed over in one step, whatever is in
/// it.
pub fn list_level(
    reading: &dyn Reading,
    caller: &Caller,
    folder: &str,
    prefix: &str,
    query: &PageQuery,
) -> Result<Level> {
    caller.require(Permission::StorageRead)?;
    let place = storage::place(reading, caller, Permission::StorageRead, folder)?.key();
    let limit = list::limit(query.limit, list::DEFAULT_LIMIT)?;
    let start_of = |text: &str| table::index_start(reading, Kind::FileByPath, (place.as_str(), TextPrefix(text)));
    let all = Scan::of(reading, Kind::FileByPath, (place.as_str(), TextPrefix(prefix)));
    let before_rest = start_of(prefix).len();
    let mut start = match &query.cursor {
        Some(cursor) => {
            [table::index_start(reading, Kind::FileByPath, ()), list::position_of(cursor, "level of files")?].concat()
        }
        None => Vec::new(),
    };
    let mut level = Level { files: Vec::new(), prefixes: Vec::new(), next_cursor: None };
    loop {
        let found = all.clone().from(start.clone()).pairs(reading, STEP)?;
        for (key, id) in &found {
            if *key < start {
                continue;
            }
            if level.files.len() + level.prefixes.len() == limit {
                level.next_cursor = Some(list::cursor_at(Scan::position(&start), "level of files"));
                return Ok(level);
            }
            // The last byte ends the text.
            let rest = key.get(before_rest..key.len().saturating_sub(1)).unwrap_or_default();
            if let Some(slash) = rest.iter().position(|byte| *byte == b'/') {
                let deeper = format!("{prefix}{}", String::from_utf8_lossy(&rest[..slash]));
                // Everything below begins with a slash, and '0' comes right after that.
                start = start_of(&format!("{deeper}0"));
                level.prefixes.push(format!("{deeper}/"));
            } else {
                level.files.push(table::get(reading, file_id(id)?)?);
                start = [key.as_slice(), &[0]].concat();
            }
        }
        if found.len() < STEP {
            return Ok(level);
        }
    }
}

fn file_id(bytes: &[u8]) -> Result<FileId> {
    let id = Uuid::from_slice(bytes).map_err(|_| Error::Internal("an index of files has no id".to_owned()))?;
    Ok(FileId::from_uuid(id))
}

/// Files of a folder that were written before, oldest first.
pub fn older_than(reading: &dyn Reading, folder: FolderId, before: Timestamp, limit: usize) -> Result<Vec<File>> {
    let end = table::index_start(reading, Kind::FileByTime, (folder, before));
    let found = Scan::of(reading, Kind::FileByTime, folder).below(end).indexed(reading, limit)?;
    Ok(found.into_iter().map(|(_, file)| file).collect())
}

/// All files of a folder, by path; of more than 1000 the first.
pub fn all_of(reading: &dyn Reading, folder: &str) -> Result<Vec<File>> {
    let found = Scan::of(reading, Kind::FileByPath, folder).indexed::<File>(reading, 1_000)?;
    Ok(found.into_iter().map(|(_, file)| file).collect())
}

/// Removes one page of a folder's files; `true` when none is left.
pub fn remove_folder_page(tx: &mut Tx, folder: &str, limit: usize) -> Result<bool> {
    let files = Scan::of(tx, Kind::FileByPath, folder).indexed::<File>(tx, limit)?;
    let ended = files.len() < limit;
    for (_, file) in files {
        remove_record(tx, &file)?;
    }
    Ok(ended)
}
