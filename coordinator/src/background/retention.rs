//! Removes what has become too old: finished jobs, ended tasks, histories of triggers, lines of logs, deliveries to
//! webhooks, kept answers, join tokens, sessions. And samples the use of the disk, from which follows when it is full all
//! the same.

use drover_protocol::{AccountId, Timestamp};

use super::{Failures, accounts};
use crate::{
    app::App,
    domain::{queue::Queue, task::Phase},
    error::Result,
    operations::{
        account, alert, audit, disk, idempotency, join_token, key, log_sealing, log_search, queue, retention, session,
        task, trigger, webhook,
    },
    store::{Reader, key::SYSTEM_ACCOUNT},
};

const PAGE: usize = 200;
/// Tasks have many entries each.
const TASKS_PAGE: usize = 50;
const DAY_SECONDS: u64 = 86_400;

/// How old things may become; 0 means for ever.
#[derive(Clone, Copy, Debug)]
pub struct Ages {
    pub jobs_days: u64,
    pub logs_days: u64,
    pub deliveries_days: u64,
}

/// Removes everything that is too old now.
pub async fn pass(app: &App, ages: Ages) -> Result<()> {
    let mut failures = Failures::default();
    failures.note("the disk", sample_disk(app).await);
    for account in accounts(app)? {
        failures.note(account, remove_answers(app, account).await);
        failures.note(account, remove_tokens(app, account).await);
        failures.note(account, remove_sessions(app, account).await);
        failures.note(account, forget_arrivals(app, account).await);
        failures.note(account, remove_tasks(app, account).await);
        failures.note(account, remove_acts(app, account).await);
        if ages.logs_days > 0 {
            failures.note(account, remove_lines(app, account, ages.logs_days).await);
        }
        if ages.deliveries_days > 0 {
            failures.note(account, remove_deliveries(app, account, ages.deliveries_days).await);
            failures.note(account, remove_raised(app, account, ages.deliveries_days).await);
        }
        if ages.jobs_days > 0 {
            failures.note(account, remove_jobs(app, account, ages.jobs_days).await);
            failures.note(account, remove_fires(app, account, ages.jobs_days).await);
        }
    }
    failures.end()
}

async fn sample_disk(app: &App) -> Result<()> {
    // A full disk takes no sample either.
    let Some(disk) = app.disk().filter(|disk| !disk.is_full) else { return Ok(()) };
    match app.db.read(SYSTEM_ACCOUNT, |reading| disk::is_due(reading))? {
        true => app.db.write(SYSTEM_ACCOUNT, move |tx| disk::sample(tx, &disk)).await,
        false => Ok(()),
    }
}

async fn remove_answers(app: &App, account: AccountId) -> Result<()> {
    while app.db.write(account, |tx| idempotency::expire_page(tx, PAGE)).await? == PAGE {}
    while app.db.write(account, |tx| task::expire_batches_page(tx, PAGE)).await? == PAGE {}
    Ok(())
}

async fn forget_arrivals(app: &App, account: AccountId) -> Result<()> {
    while app.db.write(account, |tx| log_search::forget_arrivals(tx, PAGE)).await? == PAGE {}
    Ok(())
}

async fn remove_lines(app: &App, account: AccountId, days: u64) -> Result<()> {
    let before = app.db.now().minus_seconds(days * DAY_SECONDS);
    while app.db.write(account, move |tx| log_sealing::expire_page(tx, before, PAGE)).await? == PAGE {}
    Ok(())
}

/// What became of instants is kept as long as the jobs that they started.
async fn remove_fires(app: &App, account: AccountId, days: u64) -> Result<()> {
    let before = app.db.now().minus_seconds(days * DAY_SECONDS);
    while app.db.write(account, move |tx| trigger::expire_page(tx, before, PAGE)).await? == PAGE {}
    Ok(())
}

async fn remove_deliveries(app: &App, account: AccountId, days: u64) -> Result<()> {
    let before = app.db.now().minus_seconds(days * DAY_SECONDS);
    let mut position = None;
    loop {
        let from = position.take();
        position = app.db.write(account, move |tx| webhook::expire_page(tx, before, from, PAGE)).await?;
        if position.is_none() {
            return Ok(());
        }
    }
}

async fn remove_raised(app: &App, account: AccountId, days: u64) -> Result<()> {
    let before = app.db.now().minus_seconds(days * DAY_SECONDS);
    let mut position = None;
    loop {
        let from = position.take();
        position = app.db.write(account, move |tx| alert::expire_page(tx, before, from, PAGE)).await?;
        if position.is_none() {
            return Ok(());
        }
    }
}

async fn remove_tokens(app: &App, account: AccountId) -> Result<()> {
    let mut position = None;
    loop {
        let (expired, next) =
            app.db.read(account, |reading| join_token::expired(reading, position.as_deref(), PAGE))?;
        if !expired.is_empty() {
            app.db.write(account, |tx| expired.into_iter().try_for_each(|id| join_token::remove(tx, id))).await?;
        }
        match next {
            Some(next) => position = Some(next),
            None => return Ok(()),
        }
    }
}

/// An act is kept as long as the account was told and as the setting says, whichever is longer. A day's worth is removed at
/// once: each removal is an act itself.
async fn remove_acts(app: &App, account: AccountId) -> Result<()> {
    let kept = app.db.read(account, |reading| account::own(reading))?.audit_retention_days;
    let (Some(kept), Some(set)) = (kept, app.rules.audit_retention_days) else { return Ok(()) };
    let before = app.db.now().minus_seconds(u64::from(kept.max(set)) * DAY_SECONDS);
    if !app.db.read(account, |reading| audit::is_older(reading, before.minus_seconds(DAY_SECONDS)))? {
        return Ok(());
    }
    while app.db.write(account, move |tx| audit::expire_page(tx, before, PAGE)).await? == PAGE {}
    Ok(())
}

async fn remove_sessions(app: &App, account: AccountId) -> Result<()> {
    let mut position = None;
    loop {
        let (expired, next) = app.db.read(account, |reading| session::expired(reading, position.as_deref(), PAGE))?;
        if !expired.is_empty() {
            app.db.write(account, |tx| expired.into_iter().try_for_each(|id| key::revoke(tx, id))).await?;
        }
        match next {
            Some(next) => position = Some(next),
            None => return Ok(()),
        }
    }
}

async fn remove_jobs(app: &App, account: AccountId, days: u64) -> Result<()> {
    let before = app.db.now().minus_seconds(days * DAY_SECONDS);
    let mut position = None;
    loop {
        let (expired, next) =
            app.db.read(account, |reading| retention::expired_jobs(reading, before, position.as_deref(), PAGE))?;
        for job in expired {
            if app.stopping.is_cancelled() {
                return Ok(());
            }
            while !app.db.write(account, move |tx| retention::remove_job_page(tx, job.id)).await? {}
            tracing::info!(job = %job.id, days, "a finished job was removed by retention");
        }
        match next {
            Some(next) => position = Some(next),
            None => return Ok(()),
        }
    }
}

/// Each queue says how long its tasks are kept.
async fn remove_tasks(app: &App, account: AccountId) -> Result<()> {
    let mut after = None;
    loop {
        let queues = app.db.read(account, |reading| queue::some(reading, after, PAGE))?;
        let Some(last) = queues.last() else { return Ok(()) };
        after = Some(last.id);
        for queue in queues {
            for too_old in task::too_old_before(&queue.retention, app.db.now()) {
                remove_tasks_of(app, account, &queue, too_old).await?;
            }
        }
    }
}

async fn remove_tasks_of(app: &App, account: AccountId, queue: &Queue, too_old: (Phase, Timestamp)) -> Result<()> {
    let (mut position, mut removed) = (None, 0);
    loop {
        let page = |reading: &Reader| task::expired(reading, queue.id, too_old, position.as_deref(), PAGE);
        let (ids, next) = app.db.read(account, page)?;
        for ids in ids.chunks(TASKS_PAGE) {
            if app.stopping.is_cancelled() {
                return Ok(());
            }
            let ids = ids.to_vec();
            removed += app.db.write(account, move |tx| task::remove_expired(tx, too_old.1, &ids)).await?;
        }
        match next {
            Some(next) => position = Some(next),
            None => break,
        }
    }
    if removed > 0 {
        tracing::info!(queue = queue.name, removed, phase = ?too_old.0, "ended tasks were removed by retention");
    }
    Ok(())
}
