//! Tells by events which resources expire, and removes what deleted ones have left.

use drover_protocol::AccountId;

use super::{Failures, accounts};
use crate::{app::App, error::Result, operations::resource};

const PAGE: usize = 200;

/// Looks at all that is due.
pub async fn pass(app: &App) -> Result<()> {
    let mut failures = Failures::default();
    for account in accounts(app)? {
        failures.note(account, pass_of(app, account).await);
    }
    failures.end()
}

async fn pass_of(app: &App, account: AccountId) -> Result<()> {
    let mut after = None;
    loop {
        after = app.db.write(account, move |tx| resource::tend_page(tx, after, PAGE)).await?;
        if after.is_none() {
            return Ok(());
        }
    }
}
