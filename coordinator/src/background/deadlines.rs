//! Does what is due for jobs: leases that ran out, limits that passed, times that came.

use std::{sync::Arc, time::Duration};

use drover_protocol::{AccountId, Timestamp};

use super::{Failures, accounts, measured};
use crate::{app::App, error::Result, operations::job, store::Topic};

const PAGE: usize = 100;
/// The clock of the host may be set; no deadline is slept for longer than this without looking at it.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// Runs until the coordinator stops.
pub async fn run(app: Arc<App>) {
    loop {
        let watch = app.db.watch(&[Topic::Deadlines]);
        let began = app.db.now();
        measured(&app, "deadlines", pass(&app)).await;
        let sleep = match next(&app) {
            // What was due before the pass and still is could not be done: the next try must not come at once.
            Some(at) if at > began => at.since(app.db.now()).min(MAX_SLEEP),
            Some(_) | None => MAX_SLEEP,
        };
        tokio::select! {
            biased;
            () = app.stopping.cancelled() => return,
            () = watch.woken() => {}
            // Never twice within the same millisecond: a deadline of now is due then.
            () = tokio::time::sleep(sleep.max(Duration::from_millis(1))) => {}
        }
    }
}

/// Does everything that is due now.
pub async fn pass(app: &App) -> Result<()> {
    let mut failures = Failures::default();
    for account in accounts(app)? {
        failures.note(account, pass_of(app, account).await);
    }
    failures.end()
}

async fn pass_of(app: &App, account: AccountId) -> Result<()> {
    let leases = app.rules.leases;
    // A look costs nothing; a transaction is only begun when something is due.
    while app.db.read(account, |reading| job::next_deadline(reading))?.is_some_and(|at| at <= app.db.now()) {
        let done = app.db.write(account, move |tx| job::tick_page(tx, &leases, PAGE)).await?;
        if done < PAGE {
            break;
        }
    }
    Ok(())
}

/// The next deadline of all accounts.
fn next(app: &App) -> Option<Timestamp> {
    let accounts = accounts(app).ok()?;
    let deadlines = accounts.into_iter().filter_map(|account| app.db.read(account, |r| job::next_deadline(r)).ok()?);
    deadlines.min()
}
