//! Files of storage folders: for now the artifacts of jobs.

use drover_protocol::{FileId, JobId, page::PageQuery};

use super::{
    Caller, garbage,
    list::{self, Page, Via},
};
use crate::{
    domain::{
        attempt::Attempt,
        file::{File, content_type, job_folder, job_of_folder, path_fault},
        job::Job,
        permission::Permission,
    },
    error::{Error, Result},
    store::{
        Reading, Scan, Tx,
        blob::BlobName,
        key::{Kind, TextPrefix},
        table,
    },
};

/// Content that was announced and kept, and now gets its name.
#[derive(Clone, Debug)]
pub struct Content {
    pub id: FileId,
    pub sha256: String,
    pub size_bytes: u64,
}

/// Checks that the robot may add a file to the job's folder, before the content is read.
pub fn check_artifact(reading: &dyn Reading, caller: &Caller, job: JobId, attempt: u32, path: &str) -> Result<()> {
    let robot = caller.robot()?;
    let record: Option<Attempt> = table::find(reading, (job, attempt))?;
    record.filter(|record| record.robot.id == robot).ok_or(Error::NotFound("job"))?;
    if !table::get::<Job>(reading, job)?.is_held_by(robot, attempt) {
        return Err(Error::stale_attempt("the attempt is over; its artifacts are not taken any more"));
    }
    match path_fault(path) {
        Some(fault) => Err(Error::invalid("path", fault)),
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
    check_artifact(tx, caller, job, attempt, path)?;
    let folder = job_folder(job);
    let mut file = File {
        id: content.id,
        path: path.to_owned(),
        size_bytes: content.size_bytes,
        sha256: content.sha256.clone(),
        content_type: content_type(path).to_owned(),
        created_by: caller.by(),
        created_at: tx.now(),
        modified_at: tx.now(),
        folder,
    };
    if let Some(old) = find(tx, &file.folder, path)? {
        if old.sha256 == content.sha256 {
            // The answer to the first upload was lost; the second copy is not needed.
            garbage::discard(tx, BlobName::file(content.id).to_string())?;
            return Ok(old);
        }
        file.created_at = old.created_at;
        remove(tx, &old)?;
    }
    table::insert(tx, &file)?;
    garbage::keep(tx, &BlobName::file(file.id).to_string())?;
    Ok(file)
}

fn find(reading: &dyn Reading, folder: &str, path: &str) -> Result<Option<File>> {
    table::find_by(reading, Kind::FileByPath, (folder, path))
}

fn remove(tx: &mut Tx, file: &File) -> Result<()> {
    garbage::discard(tx, BlobName::file(file.id).to_string())?;
    table::delete::<File>(tx, file.id)
}

fn check_folder(reading: &dyn Reading, caller: &Caller, folder: &str) -> Result<()> {
    caller.require(Permission::StorageRead)?;
    let job = job_of_folder(folder).ok_or(Error::NotFound("storage folder"))?;
    table::get::<Job>(reading, job).map(|_| ()).map_err(|error| match error {
        Error::NotFound(_) => Error::NotFound("storage folder"),
        other => other,
    })
}

/// Files of a folder by path.
pub fn list(
    reading: &dyn Reading,
    caller: &Caller,
    folder: &str,
    prefix: &str,
    query: &PageQuery,
) -> Result<Page<File>> {
    check_folder(reading, caller, folder)?;
    let scan = Scan::of(reading, Kind::FileByPath, (folder, TextPrefix(prefix)));
    list::page(reading, scan, Via::Index, query, |_: &File| true)
}

pub fn get(reading: &dyn Reading, caller: &Caller, folder: &str, path: &str) -> Result<File> {
    check_folder(reading, caller, folder)?;
    find(reading, folder, path)?.ok_or(Error::NotFound("file"))
}

/// Removes one page of a folder's files; `true` when none is left.
pub fn remove_folder_page(tx: &mut Tx, folder: &str, limit: usize) -> Result<bool> {
    let files = Scan::of(tx, Kind::FileByPath, folder).indexed::<File>(tx, limit)?;
    let ended = files.len() < limit;
    for (_, file) in files {
        remove(tx, &file)?;
    }
    Ok(ended)
}
