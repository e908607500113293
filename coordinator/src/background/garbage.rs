//! Deletes blobs that no record refers to.

use drover_protocol::AccountId;

use super::{Failures, accounts};
use crate::{
    app::App,
    domain::garbage::Garbage,
    error::Result,
    operations::garbage,
    store::{blob::BlobName, table},
};

/// So many are deleted while whoever brings blobs waits.
const PAGE: usize = 20;

/// Deletes all that was noted.
pub async fn pass(app: &App) -> Result<()> {
    let mut failures = Failures::default();
    for account in accounts(app)? {
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
        // Nor is what has come and is named by no record yet.
        let _alone = app.blobs.deleting().await;
        let names = app.db.read(account, |reading| garbage::list(reading, after.as_deref(), PAGE))?;
        let Some(last) = names.last().cloned() else { return failures.end() };
        let mut gone = Vec::new();
        for name in names {
            let deleted = delete(app, &name).await;
            if deleted.is_ok() {
                gone.push(name.clone());
            }
            failures.note(name, deleted);
        }
        app.db.write(account, |tx| gone.into_iter().try_for_each(|name| table::delete::<Garbage>(tx, name))).await?;
        after = Some(last);
    }
}

/// Packages are shared by their content, also between accounts: one that some version has is kept.
async fn delete(app: &App, text: &str) -> Result<()> {
    let Some(name) = BlobName::parse(text) else {
        tracing::error!(blob = text, "a noted blob has no name that could be one");
        return Ok(());
    };
    if let Some(sha256) = name.digest() {
        for account in accounts(app)? {
            if app.db.read(account, |reading| garbage::package_is_used(reading, sha256))? {
                return Ok(());
            }
        }
    }
    app.blobs.delete(&name).await
}
