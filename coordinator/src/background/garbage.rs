//! Deletes blobs that no record refers to.

use drover_protocol::AccountId;

use super::{Failures, accounts_with_blobs};
use crate::{
    app::App,
    domain::garbage::Garbage,
    error::Result,
    operations::garbage,
    store::{blob::BlobName, table},
};

/// So many are deleted together.
const PAGE: usize = 20;

/// Deletes all that was noted.
pub async fn pass(app: &App) -> Result<()> {
    let mut failures = Failures::default();
    for account in accounts_with_blobs(app)? {
        failures.note(account, pass_of(app, account).await);
    }
    failures.end()
}

async fn pass_of(app: &App, account: AccountId) -> Result<()> {
    let mut failures = Failures::default();
    let mut after: Option<String> = None;
    loop {
        // A backup copies what its records name; nothing is deleted under its hands.
        let Some(_deleting) = app.blob_hold.try_delete() else { return failures.end() };
        let names = app.db.read(account, |reading| garbage::list(reading, after.as_deref(), PAGE))?;
        let Some(last) = names.last().cloned() else { return failures.end() };
        let mut gone = Vec::new();
        // Held until the notes are gone: what arrives next is noted anew.
        let mut held = Vec::new();
        for name in names {
            let Some(blob) = BlobName::parse(&name) else {
                tracing::error!(blob = name, "a noted blob has no name that could be one");
                gone.push(name);
                continue;
            };
            // One that arrives just now is looked at in the next pass.
            let Some(hold) = app.blobs.deleting(&blob) else { continue };
            held.push(hold);
            // It may have arrived since the page was read.
            if !app.db.read(account, |reading| garbage::is_noted(reading, &name))? {
                continue;
            }
            let deleted = delete_unused(app, &blob).await;
            if deleted.is_ok() {
                gone.push(name.clone());
            }
            failures.note(name, deleted);
        }
        if gone.is_empty() {
            after = Some(last);
            continue;
        }
        app.db.write(account, |tx| gone.into_iter().try_for_each(|name| table::delete::<Garbage>(tx, name))).await?;
        drop(held);
        after = Some(last);
    }
}

/// Deletes the blob unless a record has it. Packages are shared by their content, also between accounts.
pub async fn delete_unused(app: &App, blob: &BlobName) -> Result<()> {
    for account in accounts_with_blobs(app)? {
        if app.db.read(account, |reading| garbage::is_used(reading, blob))? {
            return Ok(());
        }
    }
    app.blobs.delete(blob).await
}
