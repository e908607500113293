//! Hands news out to those who want them.

use drover_protocol::AccountId;

use super::{Failures, accounts};
use crate::{app::App, error::Result, operations::news};

/// Hands out everything that waits.
pub async fn pass(app: &App) -> Result<()> {
    let mut failures = Failures::default();
    for account in accounts(app)? {
        failures.note(account, pass_of(app, account).await);
    }
    failures.end()
}

async fn pass_of(app: &App, account: AccountId) -> Result<()> {
    if !app.db.read(account, |reading| news::has_begun(reading))? {
        app.db.write(account, news::begin).await?;
    }
    while app.db.read(account, |reading| news::waits(reading))? {
        app.db.write(account, news::hand_out_page).await?;
        if app.stopping.is_cancelled() {
            break;
        }
    }
    Ok(())
}
