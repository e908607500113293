//! Does what is due for jobs, tasks and robots: leases that ran out, limits that passed, times that came, robots that fell
//! silent; and settles what ended jobs still hold.

use std::{sync::Arc, time::Duration};

use drover_protocol::{AccountId, Timestamp};

use super::{Failures, accounts, measured};
use crate::{
    app::App,
    error::Result,
    operations::{job, robot, task},
    store::Topic,
};

const PAGE: usize = 100;
/// The clock of the host may be set; no deadline is slept for longer than this without looking at it.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// Runs until the coordinator stops.
pub async fn run(app: Arc<App>) {
    loop {
        let watch = app.db.watch(&[Topic::Deadlines, Topic::TasksDue, Topic::Settling]);
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
        // What cannot be done of one kind does not hold up the other.
        failures.note(account, jobs(app, account).await);
        failures.note(account, settling(app, account).await);
        failures.note(account, tasks(app, account).await);
        failures.note(account, robots(app, account).await);
    }
    failures.end()
}

async fn jobs(app: &App, account: AccountId) -> Result<()> {
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

async fn settling(app: &App, account: AccountId) -> Result<()> {
    while app.db.read(account, |reading| task::next_settling(reading))?.is_some() {
        app.db.write(account, task::settle_page).await?;
    }
    Ok(())
}

async fn tasks(app: &App, account: AccountId) -> Result<()> {
    let leases = app.rules.leases;
    while app.db.read(account, |reading| task::next_due(reading))?.is_some_and(|at| at <= app.db.now()) {
        if !app.db.write(account, move |tx| task::tick_page(tx, &leases, PAGE)).await? {
            break;
        }
    }
    Ok(())
}

async fn robots(app: &App, account: AccountId) -> Result<()> {
    while app.db.read(account, |reading| robot::next_offline(reading))?.is_some_and(|at| at <= app.db.now()) {
        let done = app.db.write(account, |tx| robot::offline_page(tx, PAGE)).await?;
        if done < PAGE {
            break;
        }
    }
    Ok(())
}

/// The next deadline of all accounts.
fn next(app: &App) -> Option<Timestamp> {
    let accounts = accounts(app).ok()?;
    let next = |account| {
        let of_jobs = app.db.read(account, |reading| job::next_deadline(reading)).ok().flatten();
        let of_tasks = app.db.read(account, |reading| task::next_due(reading)).ok().flatten();
        let of_robots = app.db.read(account, |reading| robot::next_offline(reading)).ok().flatten();
        of_jobs.into_iter().chain(of_tasks).chain(of_robots).min()
    };
    accounts.into_iter().filter_map(next).min()
}
