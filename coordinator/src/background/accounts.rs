//! Removes what deleted accounts held, a page at a time; their blobs are deleted as all others are.

use drover_protocol::AccountId;

use super::Failures;
use crate::{app::App, error::Result, operations::account, store::key::SYSTEM_ACCOUNT};

const PAGE: usize = 200;

pub async fn pass(app: &App) -> Result<()> {
    let mut failures = Failures::default();
    for account in app.db.read(SYSTEM_ACCOUNT, |reading| account::deleted(reading))? {
        failures.note(account, remove(app, account).await);
    }
    failures.end()
}

async fn remove(app: &App, account: AccountId) -> Result<()> {
    while !app.db.write(account, |tx| account::remove_page(tx, PAGE)).await? {
        if app.stopping.is_cancelled() {
            return Ok(());
        }
    }
    if app.db.write(account, account::forget).await? {
        tracing::info!(%account, "all of a deleted account was removed");
    }
    Ok(())
}
