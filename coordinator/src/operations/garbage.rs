//! Blobs that no record refers to: noted before they come and in the transaction that drops the last reference, taken
//! off the list in the one that writes a record, deleted later. So none is left behind, whatever ends half-way.

use drover_protocol::{FileId, LogBlockId};

use crate::{
    domain::{file::File, garbage::Garbage, process::ProcessVersion},
    error::{Error, Result},
    store::{
        Reading, Scan, Topic, Tx,
        blob::{BlobKind, BlobName},
        key::Kind,
        table,
    },
};

/// Notes that a blob is about to come, which nobody needs until a record names it.
pub fn announce(tx: &mut Tx, blob: String) -> Result<()> {
    if table::find::<Garbage>(tx, blob.clone())?.is_none() {
        let since = tx.now();
        table::insert(tx, &Garbage { blob, since })?;
    }
    Ok(())
}

/// Notes that nobody needs the blob any more.
pub fn discard(tx: &mut Tx, blob: String) -> Result<()> {
    tx.wake(Topic::Garbage);
    announce(tx, blob)
}

/// Notes that nobody needs the package any more, unless some version has it.
pub fn discard_package(tx: &mut Tx, sha256: &str) -> Result<()> {
    match package_is_used(tx, sha256)? {
        true => Ok(()),
        false => discard(tx, BlobName::package(sha256)?.to_string()),
    }
}

/// Notes that nobody needs the content of the file any more, unless it or a copy of it is there.
pub fn discard_file(tx: &mut Tx, content: FileId) -> Result<()> {
    match file_is_used(tx, content)? {
        true => Ok(()),
        false => discard(tx, BlobName::file(content).to_string()),
    }
}

/// Notes that the blob is needed: a record names it from this transaction on.
pub fn keep(tx: &mut Tx, blob: &str) -> Result<()> {
    table::delete::<Garbage>(tx, blob.to_owned())
}

/// Blobs that may be deleted, by name, after this one.
pub fn list(reading: &dyn Reading, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
    let scan = Scan::of(reading, Kind::Garbage, ());
    let scan = match after {
        Some(blob) => scan.after(&table::index_start(reading, Kind::Garbage, blob)),
        None => scan,
    };
    let found = scan.records::<Garbage>(reading, limit)?;
    Ok(found.into_iter().map(|(_, garbage)| garbage.blob).collect())
}

/// Whether some version still has this package.
pub fn package_is_used(reading: &dyn Reading, sha256: &str) -> Result<bool> {
    let found = Scan::of(reading, Kind::ProcessVersionBySha, sha256).indexed::<ProcessVersion>(reading, 1)?;
    Ok(!found.is_empty())
}

/// Whether a file, or a copy of it, has this content.
pub fn file_is_used(reading: &dyn Reading, content: FileId) -> Result<bool> {
    let own = table::find::<File>(reading, content)?.is_some_and(|file| file.content_id() == content);
    Ok(own || !Scan::of(reading, Kind::FileByContent, content).pairs(reading, 1)?.is_empty())
}

/// Whether the blob is on the list.
pub fn is_noted(reading: &dyn Reading, blob: &str) -> Result<bool> {
    Ok(table::find::<Garbage>(reading, blob.to_owned())?.is_some())
}

/// Whether a record of the account has the blob.
pub fn is_used(reading: &dyn Reading, blob: &BlobName) -> Result<bool> {
    let lost = |_| Error::Internal(format!("the blob {blob} has a name without an id"));
    match blob.kind() {
        BlobKind::Package => package_is_used(reading, blob.key()),
        BlobKind::File => file_is_used(reading, blob.key().parse().map_err(lost)?),
        BlobKind::Log => {
            let id: LogBlockId = blob.key().parse().map_err(lost)?;
            Ok(!Scan::of(reading, Kind::LogBlockByBlob, id).pairs(reading, 1)?.is_empty())
        }
    }
}
