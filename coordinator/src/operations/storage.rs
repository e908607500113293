//! Storage folders: those that people make, and where files lie in general.

use drover_protocol::{
    FolderId, JobId, TaskId,
    page::PageQuery,
    storage::{FolderFilter, NewStorageFolder, StorageFolderPatch},
};

use super::{
    Actor, Caller, Reach,
    audit::{self, Act},
    event, file,
    list::{self, Page, Via},
    reach, task,
};
use crate::{
    domain::{
        file::{File, job_folder, job_of_folder, task_folder, task_of_folder},
        job::Job,
        name::{Faults, MAX_DESCRIPTION_CHARS},
        permission::Permission,
        role::Limited,
        storage::{StorageFolder, check_name, check_retention},
    },
    error::{Error, Result},
    store::{
        Reading, Scan, Topic, Tx,
        key::{Kind, TextPrefix},
        table,
    },
};

const MISSING: Error = Error::NotFound("storage folder");
const NOUN: &str = "storage";
const DAY_SECONDS: u64 = 86_400;

/// Where files lie.
#[derive(Clone, Debug)]
pub enum Place {
    /// A folder that people made.
    Made(StorageFolder),
    /// The artifacts of a job.
    Job(JobId),
    /// The files that are attached to a task.
    Task(TaskId),
}

impl Place {
    /// By this its files are found.
    pub fn key(&self) -> String {
        match self {
            Self::Made(folder) => folder.key(),
            Self::Job(job) => job_folder(*job),
            Self::Task(task) => task_folder(*task),
        }
    }

    /// How people call it.
    pub fn name(&self) -> String {
        match self {
            Self::Made(folder) => folder.name.clone(),
            Self::Job(_) | Self::Task(_) => self.key(),
        }
    }

    /// Refuses what would change the files of the folder. Artifacts are added by the running job alone; anybody who may
    /// write files may delete them. A job changes files as long as it runs, also by links that it made, and not with what
    /// was still on its way when it ended.
    pub fn check_change(&self, reading: &dyn Reading, caller: &Caller, adds: bool) -> Result<()> {
        caller.require(Permission::StorageWrite)?;
        if let Actor::Job { job, attempt, robot } = caller.actor
            && !table::find::<Job>(reading, job)?.is_some_and(|record| record.is_held_by(robot, attempt))
        {
            return Err(Error::stale_attempt("the attempt is over; it does not change any files any more"));
        }
        if let Self::Made(folder) = self
            && !caller.reaches(Permission::StorageWrite, Limited::Folders, Some(&folder.name))
        {
            return Err(MISSING);
        }
        match (self, &caller.actor) {
            (Self::Made(folder), _) if folder.read_only => {
                let message = format!("the folder {} is read only; set read_only to false first", folder.name);
                Err(Error::wrong_state(message))
            }
            (Self::Made(_), _) => Ok(()),
            (Self::Task(task), _) => task::check_files_change(reading, caller, *task),
            (Self::Job(own), Actor::Job { job, .. }) if job == own => Ok(()),
            (Self::Job(_), _) if adds => Err(Error::wrong_state("the folder of a job is written by the job alone")),
            (Self::Job(_), _) => Ok(()),
        }
    }

    /// Keeps the figures of the folder, in the transaction that removes and adds files.
    pub fn count(&mut self, tx: &mut Tx, removed: &[&File], added: &[&File]) -> Result<()> {
        let folder = match self {
            Self::Made(folder) => folder,
            Self::Task(task) => return task::files_changed(tx, *task, !added.is_empty()),
            Self::Job(_) => return Ok(()),
        };
        let bytes = |files: &[&File]| files.iter().map(|file| file.size_bytes).sum::<u64>();
        let room = folder.room_bytes(bytes(removed));
        if !added.is_empty() && room.is_some_and(|room| bytes(added) > room) {
            return Err(over_quota(folder));
        }
        folder.file_count = (folder.file_count + added.len() as u64).saturating_sub(removed.len() as u64);
        folder.used_bytes = (folder.used_bytes + bytes(added)).saturating_sub(bytes(removed));
        table::rewrite(tx, folder)
    }
}

/// Why no more goes into the folder, and what helps.
pub fn over_quota(folder: &StorageFolder) -> Error {
    Error::TooLarge(format!(
        "the folder {} may hold {} bytes and has {} already; delete files from it, or raise its quota_bytes",
        folder.name,
        folder.quota_bytes.unwrap_or_default(),
        folder.used_bytes
    ))
}

/// The folder with this id or name, reserved ones included, within the caller's reach.
pub fn place(reading: &dyn Reading, caller: &Caller, permission: Permission, text: &str) -> Result<Place> {
    if let Some(id) = task_of_folder(text) {
        return match task::get(reading, caller, id) {
            Ok(task) => Ok(Place::Task(task.id)),
            Err(Error::NotFound(_)) => Err(MISSING),
            Err(other) => Err(other),
        };
    }
    let Some(job) = job_of_folder(text) else { return resolve(reading, caller, permission, text).map(Place::Made) };
    let own = matches!(caller.actor, Actor::Job { job: own, .. } if own == job);
    if matches!(caller.reach, Some(Reach::Manifest(_))) && !own {
        return Err(MISSING);
    }
    match table::find::<Job>(reading, job)? {
        Some(record) if reach::reaches_target(reading, caller, permission, record.target)? => Ok(Place::Job(job)),
        _ => Err(MISSING),
    }
}

/// The folder that people made with this id or name, within the caller's reach.
pub fn resolve(reading: &dyn Reading, caller: &Caller, permission: Permission, text: &str) -> Result<StorageFolder> {
    let id = text.parse::<FolderId>().ok();
    let found: Option<StorageFolder> = match id {
        Some(id) => table::find(reading, id)?,
        None => {
            // A process whose manifest lacks the folder learns that rather than whether there is one.
            caller.require_storage(permission, text)?;
            table::find_by(reading, Kind::StorageFolderByName, text)?
        }
    };
    let folder = found.filter(|folder| !folder.deleted).ok_or(MISSING)?;
    caller.require_storage(permission, &folder.name)?;
    Ok(folder)
}

pub fn list(
    reading: &dyn Reading,
    caller: &Caller,
    filter: &FolderFilter,
    query: &PageQuery,
) -> Result<Page<StorageFolder>> {
    caller.require(Permission::StorageRead)?;
    let (scan, via) = match &filter.prefix {
        Some(prefix) => (Scan::of(reading, Kind::StorageFolderByName, TextPrefix(prefix)), Via::Index),
        None => (Scan::of(reading, Kind::StorageFolder, ()).newest_first(), Via::Records),
    };
    let seen = |folder: &StorageFolder| {
        !folder.deleted && caller.require_storage(Permission::StorageRead, &folder.name).is_ok()
    };
    list::page(reading, scan, via, query, seen)
}

pub fn get(reading: &dyn Reading, caller: &Caller, text: &str) -> Result<StorageFolder> {
    caller.require(Permission::StorageRead)?;
    resolve(reading, caller, Permission::StorageRead, text)
}

pub fn create(tx: &mut Tx, caller: &Caller, new: &NewStorageFolder) -> Result<StorageFolder> {
    caller.require(Permission::StorageCreate)?;
    let mut faults = Faults::default();
    check_name(&mut faults, "/name", &new.name);
    faults.text("/description", &new.description, MAX_DESCRIPTION_CHARS);
    check_retention(&mut faults, new.retention_days);
    faults.check()?;
    caller.require_name(Permission::StorageCreate, Limited::Folders, &new.name)?;
    let folder = StorageFolder {
        id: FolderId::from_uuid(tx.new_id()),
        name: new.name.clone(),
        description: new.description.clone(),
        retention_days: new.retention_days,
        quota_bytes: new.quota_bytes,
        read_only: new.read_only,
        file_count: 0,
        used_bytes: 0,
        created_by: caller.by(),
        created_at: tx.now(),
        deleted: false,
        revision: 1,
    };
    table::insert(tx, &folder)?;
    event::note(tx, folder.id.uuid(), "storage_created", "the folder was made", caller.by())?;
    audit::append(tx, caller, Act::new("create", NOUN, folder.id, &folder.name).after(&folder))?;
    Ok(folder)
}

pub fn update(
    tx: &mut Tx,
    caller: &Caller,
    text: &str,
    patch: &StorageFolderPatch,
    revision: Option<u64>,
) -> Result<StorageFolder> {
    caller.require(Permission::StorageUpdate)?;
    let mut folder = resolve(tx, caller, Permission::StorageUpdate, text)?;
    table::check_revision(folder.revision, revision)?;
    let before = folder.clone();
    let mut faults = Faults::default();
    if let Some(name) = &patch.name {
        check_name(&mut faults, "/name", name);
    }
    if let Some(description) = &patch.description {
        faults.text("/description", description, MAX_DESCRIPTION_CHARS);
    }
    check_retention(&mut faults, patch.retention_days.flatten());
    faults.check()?;
    if let Some(name) = &patch.name {
        caller.require_name(Permission::StorageUpdate, Limited::Folders, name)?;
    }
    folder.name = patch.name.clone().unwrap_or(folder.name);
    folder.description = patch.description.clone().unwrap_or(folder.description);
    folder.retention_days = patch.retention_days.unwrap_or(folder.retention_days);
    folder.quota_bytes = patch.quota_bytes.unwrap_or(folder.quota_bytes);
    folder.read_only = patch.read_only.unwrap_or(folder.read_only);
    table::update(tx, &mut folder)?;
    event::note(tx, folder.id.uuid(), "storage_changed", "the folder's settings were changed", caller.by())?;
    audit::append(tx, caller, Act::new("update", NOUN, folder.id, &folder.name).change(&before, &folder))?;
    Ok(folder)
}

/// From now on there is no such folder. Its files, if they are to go with it, are removed in the background.
pub fn delete(tx: &mut Tx, caller: &Caller, text: &str, with_files: bool, revision: Option<u64>) -> Result<()> {
    caller.require(Permission::StorageDelete)?;
    let mut folder = resolve(tx, caller, Permission::StorageDelete, text)?;
    table::check_revision(folder.revision, revision)?;
    if folder.file_count > 0 && !with_files {
        let message =
            format!("{} files are in the folder; delete them first, or ask with files=true", folder.file_count);
        return Err(Error::in_use(message));
    }
    if folder.file_count > 0 && folder.read_only {
        return Err(Error::wrong_state("the folder is read only; set read_only to false first"));
    }
    audit::append(tx, caller, Act::new("delete", NOUN, folder.id, &folder.name).before(&folder))?;
    folder.deleted = true;
    table::update(tx, &mut folder)?;
    tx.wake(Topic::Storage);
    Ok(())
}

/// Deleted folders that are still to be emptied.
pub fn deleted(reading: &dyn Reading, limit: usize) -> Result<Vec<FolderId>> {
    let found = Scan::of(reading, Kind::StorageFolderDeleted, ()).indexed::<StorageFolder>(reading, limit)?;
    Ok(found.into_iter().map(|(_, folder)| folder.id).collect())
}

/// Removes a page of a deleted folder; `true` when nothing of it is left.
pub fn remove_page(tx: &mut Tx, id: FolderId, limit: usize) -> Result<bool> {
    let Some(folder) = table::find::<StorageFolder>(tx, id)?.filter(|folder| folder.deleted) else { return Ok(true) };
    if !file::remove_folder_page(tx, &folder.key(), limit)? || !event::delete_page(tx, id.uuid(), limit)? {
        return Ok(false);
    }
    table::delete::<StorageFolder>(tx, id)?;
    Ok(true)
}

/// Folders whose files end by age, after this one.
pub fn retained(reading: &dyn Reading, after: Option<FolderId>, limit: usize) -> Result<Vec<FolderId>> {
    let scan = Scan::of(reading, Kind::StorageFolderRetained, ());
    let scan = match after {
        Some(id) => scan.after(&table::index_start(reading, Kind::StorageFolderRetained, id)),
        None => scan,
    };
    Ok(scan.indexed::<StorageFolder>(reading, limit)?.into_iter().map(|(_, folder)| folder.id).collect())
}

/// Some of the files that are older than their folder keeps them.
pub fn expired(reading: &dyn Reading, id: FolderId, limit: usize) -> Result<Vec<File>> {
    let folder = table::find::<StorageFolder>(reading, id)?.filter(|folder| !folder.deleted && !folder.read_only);
    let Some(days) = folder.and_then(|folder| folder.retention_days) else { return Ok(Vec::new()) };
    let before = reading.now().minus_seconds(u64::from(days) * DAY_SECONDS);
    file::older_than(reading, id, before, limit)
}

/// Removes a page of files that are older than their folder keeps them; how many there were.
pub fn expire_page(tx: &mut Tx, id: FolderId, limit: usize) -> Result<usize> {
    let old = expired(tx, id, limit)?;
    if old.is_empty() {
        return Ok(0);
    }
    let mut place = Place::Made(table::get(tx, id)?);
    place.count(tx, &old.iter().collect::<Vec<_>>(), &[])?;
    for file in &old {
        file::remove_record(tx, file)?;
    }
    let text = format!("{} files were removed, for they were older than the folder keeps them", old.len());
    event::note(tx, id.uuid(), "files_expired", text, "coordinator")?;
    Ok(old.len())
}
