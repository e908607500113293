//! Fires triggers whose time has come.

use std::{sync::Arc, time::Duration};

use drover_protocol::{AccountId, Timestamp};
use futures::future::join_all;

use serde_json::{Map, Value};

use super::{Failures, measured, open_accounts};
use crate::{
    app::App,
    domain::trigger::{Trigger, by_event::Pending},
    drafting,
    error::Result,
    operations::trigger_fire::{self, Plan, Ready},
    store::Topic,
};

/// Triggers that are looked at together.
const PAGE: usize = 400;
/// Triggers that are decided in one transaction, and rows of misses; several transactions go to the writer at once.
const CHUNK: usize = 40;
const CHUNK_ROWS: usize = 200;
/// The clock of the host may be set; no instant is slept for longer than this without looking at it.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// Runs until the coordinator stops.
pub async fn run(app: Arc<App>) {
    loop {
        let watch = app.db.watch(&[Topic::Triggers]);
        let mut failed = false;
        measured(&app, "triggers", async {
            let done = pass(&app).await;
            failed = done.is_err();
            done
        })
        .await;
        // What could not be done is not tried again at once.
        let sleep = match next(&app) {
            Some(at) if !failed => at.since(app.db.now()).min(MAX_SLEEP),
            _ => MAX_SLEEP,
        };
        tokio::select! {
            biased;
            () = app.stopping.cancelled() => return,
            () = watch.woken() => {}
            () = tokio::time::sleep(sleep.max(Duration::from_millis(1))) => {}
        }
    }
}

/// Fires everything that is due now.
pub async fn pass(app: &App) -> Result<()> {
    let mut failures = Failures::default();
    for account in open_accounts(app)? {
        failures.note(account, pass_of(app, account).await);
    }
    failures.end()
}

async fn pass_of(app: &App, account: AccountId) -> Result<()> {
    let mut failures = Failures::default();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let due = app.db.read(account, |reading| trigger_fire::due_page(reading, after.as_deref(), PAGE))?;
        let Some((last, _)) = due.last() else { return failures.end() };
        after = Some(last.clone());
        let mut planned = Vec::with_capacity(due.len());
        for (_, trigger) in due {
            let id = trigger.id;
            match prepared(app, account, trigger).await {
                Ok(prepared) => planned.push(prepared),
                Err(error) => failures.note(id, Err(error)),
            }
        }
        let leases = app.rules.leases;
        let writes = chunks(planned).into_iter().map(|chunk| {
            app.db.write(account, move |tx| {
                let mut all = chunk.iter();
                all.try_for_each(|one| trigger_fire::carry_out(tx, &one.plan, one.ready.as_ref(), &one.events, &leases))
            })
        });
        for written in join_all(writes).await {
            failures.note(account, written);
        }
        if app.stopping.is_cancelled() {
            return failures.end();
        }
    }
}

/// What is to be done about a trigger, with the jobs that it starts.
struct Prepared {
    plan: Plan,
    ready: Option<Ready>,
    events: Vec<(Pending, Ready)>,
}

impl Prepared {
    /// Rows of history that are written for it at the most.
    fn rows(&self) -> usize {
        self.plan.due.missed.len() + self.events.len()
    }
}

/// What was planned, in parts that are short enough for a transaction each.
fn chunks(planned: Vec<Prepared>) -> Vec<Vec<Prepared>> {
    let mut chunks: Vec<Vec<_>> = Vec::new();
    let mut rows = 0;
    for one in planned {
        rows += one.rows();
        match chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK && rows <= CHUNK_ROWS => chunk.push(one),
            _ => {
                rows = one.rows();
                chunks.push(vec![one]);
            }
        }
    }
    chunks
}

/// What is to be done about a trigger, and its jobs, checked.
async fn prepared(app: &App, account: AccountId, trigger: Trigger) -> Result<Prepared> {
    let mut plan = app.db.read(account, |reading| trigger_fire::plan(reading, trigger))?;
    let mut events = Vec::new();
    for event in std::mem::take(&mut plan.events) {
        let input = Map::from_iter([("event".to_owned(), Value::Object(event.event.clone()))]);
        let ready = job(app, account, &plan.seen, Some(input)).await?;
        events.push((event, ready));
    }
    let ready = match (&plan.hindered, plan.starts) {
        (_, false) => None,
        (Some(reason), true) => Some(Err(reason.clone())),
        (None, true) => Some(job(app, account, &plan.seen, None).await?),
    };
    Ok(Prepared { plan, ready, events })
}

/// A job of the trigger, ready to be started, with more in its input than the trigger says.
async fn job(app: &App, account: AccountId, trigger: &Trigger, more: Option<Map<String, Value>>) -> Result<Ready> {
    let now = app.db.now();
    let new = match more {
        Some(input) => trigger_fire::request_with(trigger, input, now),
        None => trigger_fire::request(trigger, now),
    };
    let checked = drafting::checked(app, account, |reading| trigger_fire::draft(reading, trigger, &new)).await;
    Ok(match checked {
        Ok(checked) => Ok((new, checked)),
        Err(error) => Err(trigger_fire::cannot(error)?),
    })
}

/// The next instant of all accounts.
fn next(app: &App) -> Option<Timestamp> {
    let accounts = open_accounts(app).ok()?;
    accounts.into_iter().filter_map(|account| app.db.read(account, |r| trigger_fire::next_due(r)).ok()?).min()
}
