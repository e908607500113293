//! Sends e-mails that are due.

use drover_protocol::AccountId;

use super::{Failures, accounts};
use crate::{app::App, error::Result, operations::alert_raise};

const PAGE: usize = 20;

/// Sends everything that is due now.
pub async fn pass(app: &App) -> Result<()> {
    let mut failures = Failures::default();
    for account in accounts(app)? {
        failures.note(account, pass_of(app, account).await);
    }
    failures.end()
}

/// What was sent but could not be written down is sent again: rather twice than not at all.
async fn pass_of(app: &App, account: AccountId) -> Result<()> {
    loop {
        let due = app.db.read(account, |reading| alert_raise::due_mails(reading, PAGE))?;
        if due.is_empty() {
            return Ok(());
        }
        for mail in due {
            if app.stopping.is_cancelled() {
                return Ok(());
            }
            let failure = app.mail.send(&mail).await.err();
            let id = mail.id;
            app.db.write(account, move |tx| alert_raise::note_mail(tx, id, failure.as_deref())).await?;
        }
    }
}
