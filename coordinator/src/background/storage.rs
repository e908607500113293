//! Empties deleted storage folders, and removes files that are older than their folder keeps them.

use drover_protocol::{AccountId, FolderId};

use super::{Failures, accounts};
use crate::{app::App, error::Result, operations::storage};

const PAGE: usize = 200;

/// Does all that is due.
pub async fn pass(app: &App) -> Result<()> {
    let mut failures = Failures::default();
    for account in accounts(app)? {
        failures.note(account, empty_deleted(app, account).await);
        failures.note(account, remove_old(app, account).await);
    }
    failures.end()
}

async fn empty_deleted(app: &App, account: AccountId) -> Result<()> {
    loop {
        let folders = app.db.read(account, |reading| storage::deleted(reading, PAGE))?;
        if folders.is_empty() {
            return Ok(());
        }
        for folder in folders {
            while !app.db.write(account, move |tx| storage::remove_page(tx, folder, PAGE)).await? {
                if app.stopping.is_cancelled() {
                    return Ok(());
                }
            }
        }
    }
}

async fn remove_old(app: &App, account: AccountId) -> Result<()> {
    let mut after: Option<FolderId> = None;
    loop {
        let folders = app.db.read(account, |reading| storage::retained(reading, after, PAGE))?;
        for folder in &folders {
            let folder = *folder;
            if app.db.read(account, |reading| storage::expired(reading, folder, 1))?.is_empty() {
                continue;
            }
            while app.db.write(account, move |tx| storage::expire_page(tx, folder, PAGE)).await? == PAGE {
                if app.stopping.is_cancelled() {
                    return Ok(());
                }
            }
        }
        match folders.last() {
            Some(last) => after = Some(*last),
            None => return Ok(()),
        }
    }
}
