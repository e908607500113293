//! Blobs that no record refers to any more: noted in the transaction that dropped the last reference, deleted later.

use crate::{
    domain::{garbage::Garbage, process::ProcessVersion},
    error::Result,
    store::{Reading, Scan, Topic, Tx, blob::BlobName, key::Kind, table},
};

/// Notes that nobody needs the blob any more.
pub fn discard(tx: &mut Tx, blob: String) -> Result<()> {
    if table::find::<Garbage>(tx, blob.clone())?.is_none() {
        let since = tx.now();
        table::insert(tx, &Garbage { blob, since })?;
        tx.wake(Topic::Garbage);
    }
    Ok(())
}

/// Notes that nobody needs the package any more, unless some version has it.
pub fn discard_package(tx: &mut Tx, sha256: &str) -> Result<()> {
    match package_is_used(tx, sha256)? {
        true => Ok(()),
        false => discard(tx, BlobName::package(sha256)?.to_string()),
    }
}

/// Notes that the blob is needed after all.
pub fn keep(tx: &mut Tx, blob: &str) -> Result<()> {
    table::delete::<Garbage>(tx, blob.to_owned())
}

/// Blobs that may be deleted, oldest names first.
pub fn list(reading: &dyn Reading, limit: usize) -> Result<Vec<String>> {
    let found = Scan::of(reading, Kind::Garbage, ()).records::<Garbage>(reading, limit)?;
    Ok(found.into_iter().map(|(_, garbage)| garbage.blob).collect())
}

/// Whether some version still has this package.
pub fn package_is_used(reading: &dyn Reading, sha256: &str) -> Result<bool> {
    let found = Scan::of(reading, Kind::ProcessVersionBySha, sha256).indexed::<ProcessVersion>(reading, 1)?;
    Ok(!found.is_empty())
}
