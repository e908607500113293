//! Deletes blobs that no record refers to any more.

use super::accounts;
use crate::{
    app::App,
    error::Result,
    operations::garbage,
    store::{blob::BlobName, table},
};

const PAGE: usize = 100;

/// Deletes all that was noted. Packages are held meanwhile: an upload of the same bytes waits, or has withdrawn the note.
pub async fn pass(app: &App) -> Result<()> {
    for account in accounts(app)? {
        loop {
            // A backup copies what its records name; nothing is deleted under its hands.
            let Some(_deleting) = app.blob_hold.try_delete() else { return Ok(()) };
            let _held = app.blobs.hold_packages().await;
            let names = app.db.read(account, |reading| garbage::list(reading, PAGE))?;
            let ended = names.len() < PAGE;
            for text in &names {
                match BlobName::parse(text) {
                    Some(name) => delete(app, account, &name).await?,
                    None => tracing::error!(blob = text, "a noted blob has no name that could be one"),
                }
            }
            app.db
                .write(account, move |tx| {
                    for name in names {
                        table::delete::<crate::domain::garbage::Garbage>(tx, name)?;
                    }
                    Ok(())
                })
                .await?;
            if ended {
                break;
            }
        }
    }
    Ok(())
}

/// Packages are shared between accounts by their content; another account may still have this one.
async fn delete(app: &App, own: drover_protocol::AccountId, name: &BlobName) -> Result<()> {
    if let Some(sha256) = name.digest() {
        for account in accounts(app)?.into_iter().filter(|account| *account != own) {
            if app.db.read(account, |reading| garbage::package_is_used(reading, sha256))? {
                return Ok(());
            }
        }
    }
    app.blobs.delete(name).await
}
