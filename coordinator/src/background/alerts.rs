//! Looks at what alerts watch that goes by time and state, and raises and ends them.

use drover_protocol::AccountId;

use super::{Failures, accounts};
use crate::{
    app::App,
    domain::alert::{Alert, Matter},
    error::Result,
    operations::{alert, alert_raise, alert_watch},
};

/// Looks at all alerts.
pub async fn pass(app: &App) -> Result<()> {
    let mut failures = Failures::default();
    for account in accounts(app)? {
        failures.note(account, pass_of(app, account).await);
    }
    failures.end()
}

async fn pass_of(app: &App, account: AccountId) -> Result<()> {
    let alerts = app.db.read(account, |reading| alert::all(reading))?;
    for watched in alerts.into_iter().filter(alert_raise::is_lasting) {
        look(app, account, watched).await?;
        if app.stopping.is_cancelled() {
            break;
        }
    }
    Ok(())
}

async fn look(app: &App, account: AccountId, watched: Alert) -> Result<()> {
    let disk = app.disk();
    let (id, revision) = (watched.id, watched.revision);
    let (matters, open) = app
        .read_aside_in_parts(account, move |reading| {
            let matters = alert_watch::matters(reading, &watched, disk)?;
            Ok((matters, alert_raise::open_of(reading, id)?))
        })
        .await?;
    // Most of the time nothing has changed, and nothing is written.
    let as_before = |matter: &Matter| {
        open.iter().any(|raised| raised.subject.id == matter.subject.id && raised.text == matter.text)
    };
    if matters.len() == open.len() && matters.iter().all(as_before) {
        return Ok(());
    }
    app.db.write(account, move |tx| alert_raise::settle(tx, id, revision, &matters)).await
}
