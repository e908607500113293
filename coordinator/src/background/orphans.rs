//! Finds and deletes blobs that nothing names: neither a record nor a note of what is to be deleted.
//!
//! Every blob is noted before it comes, so none is left behind in the ordinary course of things. But a store that was
//! restored from a backup knows nothing of what came after that, and what people copy into the folder is nobody's.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt};

use super::{Failures, accounts_with_blobs, garbage::delete_unused};
use crate::{
    app::App,
    error::Result,
    operations::garbage,
    store::blob::{BlobEntry, BlobKind},
};

/// A younger one may belong to a record that is about to be written.
const MIN_AGE_SECONDS: u64 = 86_400;
const PAGE: usize = 500;

/// Goes through all blobs once, a page at a time; how many were deleted.
pub async fn pass(app: &App) -> Result<()> {
    sweep(app).await.map(|_| ())
}

/// The same, and says how many were deleted.
pub async fn sweep(app: &App) -> Result<usize> {
    let mut failures = Failures::default();
    let mut count = 0;
    for kind in [BlobKind::Package, BlobKind::File, BlobKind::Log] {
        let mut pages = app.blobs.list(kind).try_chunks(PAGE);
        while let Some(page) = pages.next().await {
            if app.stopping.is_cancelled() {
                return Ok(count);
            }
            let page = page.map_err(|error| error.1)?;
            for blob in unnamed(app, page)? {
                let removed = remove(app, &blob).await;
                count += usize::from(removed == Ok(true));
                failures.note(&blob.name, removed.map(|_| ()));
            }
        }
    }
    failures.end().map(|()| count)
}

/// Those of a page that are old enough and that no account knows.
fn unnamed(app: &App, page: Vec<BlobEntry>) -> Result<Vec<BlobEntry>> {
    let before = app.db.now().minus_seconds(MIN_AGE_SECONDS);
    let mut left: Vec<BlobEntry> = page.into_iter().filter(|blob| blob.kept_at < before).collect();
    for account in accounts_with_blobs(app)? {
        if left.is_empty() {
            break;
        }
        let known: HashSet<String> = app.db.read(account, |reading| {
            let mut known = HashSet::new();
            for blob in &left {
                let name = blob.name.to_string();
                if garbage::is_used(reading, &blob.name)? || garbage::is_noted(reading, &name)? {
                    known.insert(name);
                }
            }
            Ok(known)
        })?;
        left.retain(|blob| !known.contains(&blob.name.to_string()));
    }
    Ok(left)
}

/// Whether it was deleted: not while a backup copies, nor while it arrives after all.
async fn remove(app: &App, blob: &BlobEntry) -> Result<bool> {
    let (Some(_deleting), Some(_hold)) = (app.blob_hold.try_delete(), app.blobs.deleting(&blob.name)) else {
        return Ok(false);
    };
    if unnamed(app, vec![blob.clone()])?.is_empty() {
        return Ok(false);
    }
    delete_unused(app, &blob.name).await?;
    tracing::warn!(blob = %blob.name, bytes = blob.size_bytes, "a blob that nothing names was deleted");
    Ok(true)
}
