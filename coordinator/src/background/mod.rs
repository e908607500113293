//! Loops: what the coordinator does by itself. Each is woken by a topic or a period, takes no input, may run twice
//! without harm, works in bounded pages and measures itself.

pub mod accounts;
pub mod alerts;
pub mod deadlines;
pub mod garbage;
pub mod mail;
pub mod mailboxes;
pub mod news;
pub mod orphans;
pub mod resources;
pub mod retention;
pub mod sealing;
pub mod storage;
pub mod telemetry;
pub mod triggers;
pub mod webhooks;

use std::{fmt::Display, sync::Arc, time::Duration};

use drover_protocol::AccountId;
use tokio::{task::JoinSet, time::Instant};
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};

use crate::{
    app::App,
    error::{Error, Result},
    mailbox::Tcp,
    operations::account,
    store::{Topic, key::SYSTEM_ACCOUNT},
};

/// Everything that runs beside the requests.
pub struct Background {
    loops: JoinSet<()>,
    scheduler: JobScheduler,
    /// The scheduler does not wait for what it has started.
    under_way: [UnderWay; 2],
}

/// Starts all loops. They end when `app.stopping` is cancelled.
pub async fn start(app: &Arc<App>, ages: retention::Ages) -> std::result::Result<Background, JobSchedulerError> {
    let mut loops = JoinSet::new();
    loops.spawn(deadlines::run(Arc::clone(app)));
    loops.spawn(triggers::run(Arc::clone(app)));
    loops.spawn(webhooks::run(Arc::clone(app)));
    loops.spawn(mailboxes::run(Arc::clone(app), Arc::new(Tcp)));
    loops.spawn(telemetry::run(Arc::clone(app)));
    loops.spawn(repeat(Arc::clone(app), "sealing", Topic::Sealing, Duration::from_secs(5), sealing::pass));
    loops.spawn(repeat(Arc::clone(app), "garbage", Topic::Garbage, Duration::from_secs(60), garbage::pass));
    loops.spawn(repeat(Arc::clone(app), "storage", Topic::Storage, Duration::from_secs(60), storage::pass));
    loops.spawn(repeat(Arc::clone(app), "news", Topic::News, Duration::from_secs(5), news::pass));
    loops.spawn(repeat(Arc::clone(app), "alerts", Topic::Alerts, Duration::from_secs(10), alerts::pass));
    loops.spawn(repeat(Arc::clone(app), "mail", Topic::Mail, Duration::from_secs(10), mail::pass));
    loops.spawn(repeat(Arc::clone(app), "accounts", Topic::Accounts, Duration::from_secs(60), accounts::pass));
    loops.spawn(daily(Arc::clone(app), "orphans", orphans::pass));
    let mut scheduler = JobScheduler::new().await?;
    let under_way = [Arc::default(), Arc::default()];
    let retain = move |app: Arc<App>| async move { retention::pass(&app, ages).await };
    scheduler.add(every_minute(app, "retention", &under_way[0], retain)?).await?;
    let tend = |app: Arc<App>| async move { resources::pass(&app).await };
    scheduler.add(every_minute(app, "resources", &under_way[1], tend)?).await?;
    let metrics = app.metrics.clone();
    scheduler.add(Job::new_repeated(Duration::from_secs(5), move |_, _| metrics.gather())?).await?;
    scheduler.start().await?;
    scheduler.set_shutdown_handler(Box::new(|| Box::pin(async {})));
    Ok(Background { loops, scheduler, under_way })
}

/// Held while a pass is under way.
type UnderWay = Arc<tokio::sync::Mutex<()>>;

/// A pass that the scheduler starts. It starts them by the clock alone; one whose turn comes while the last one is still at
/// work is left out.
fn every_minute<F>(
    app: &Arc<App>,
    name: &'static str,
    under_way: &UnderWay,
    pass: impl Fn(Arc<App>) -> F + Copy + Send + Sync + 'static,
) -> std::result::Result<Job, JobSchedulerError>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let (app, under_way) = (Arc::clone(app), Arc::clone(under_way));
    Job::new_repeated_async(Duration::from_secs(60), move |_, _| {
        let (app, under_way) = (Arc::clone(&app), Arc::clone(&under_way));
        Box::pin(async move {
            if let Ok(_held) = under_way.try_lock() {
                measured(&app, name, pass(Arc::clone(&app))).await;
            }
        })
    })
}

impl Background {
    /// Waits until all loops have ended; `app.stopping` has been cancelled before.
    pub async fn ended(mut self) {
        if let Err(error) = self.scheduler.shutdown().await {
            tracing::debug!(%error, "the scheduler was not shut down");
        }
        for pass in &self.under_way {
            let _ended = pass.lock().await;
        }
        while let Some(ended) = self.loops.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a loop ended badly");
            }
        }
    }
}

/// Runs `pass` whenever the topic is announced and at least once in a period.
async fn repeat<F>(app: Arc<App>, name: &'static str, topic: Topic, period: Duration, pass: F)
where
    F: AsyncFn(&App) -> Result<()>,
{
    loop {
        let watch = app.db.watch(&[topic]);
        measured(&app, name, pass(&app)).await;
        tokio::select! {
            biased;
            () = app.stopping.cancelled() => return,
            () = watch.woken() => {}
            () = tokio::time::sleep(period) => {}
        }
    }
}

/// Runs `pass` at the start and then once a day.
async fn daily<F>(app: Arc<App>, name: &'static str, pass: F)
where
    F: AsyncFn(&App) -> Result<()>,
{
    loop {
        measured(&app, name, pass(&app)).await;
        tokio::select! {
            biased;
            () = app.stopping.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(86_400)) => {}
        }
    }
}

/// A failure is logged once, here; the next pass tries again.
async fn measured(app: &App, name: &'static str, pass: impl Future<Output = Result<()>>) {
    let started = Instant::now();
    if let Err(error) = pass.await {
        tracing::warn!(%error, loop_name = name, "a loop could not do its work; it tries again");
    }
    app.metrics.set("drover_loop_seconds", vec![("loop", name.to_owned())], started.elapsed().as_secs_f64());
}

/// What failed in a pass. It must not hold up what comes after it: the first failure is given at the end, further ones are
/// logged at once.
#[derive(Default)]
struct Failures(Option<Error>);

impl Failures {
    fn note(&mut self, of: impl Display, done: Result<()>) {
        match (done, &self.0) {
            (Ok(()), _) => {}
            (Err(error), None) => self.0 = Some(error),
            (Err(error), Some(_)) => tracing::warn!(%error, %of, "a loop could not do all of its work; it tries again"),
        }
    }

    fn end(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// Ids of all accounts that are there.
fn accounts(app: &App) -> Result<Vec<AccountId>> {
    app.db.read(SYSTEM_ACCOUNT, |reading| account::all(reading))
}

/// Ids of the accounts in which something may happen by itself.
fn open_accounts(app: &App) -> Result<Vec<AccountId>> {
    app.db.read(SYSTEM_ACCOUNT, |reading| account::open(reading))
}

/// Ids of those accounts as well whose removal is under way.
fn accounts_with_blobs(app: &App) -> Result<Vec<AccountId>> {
    app.db.read(SYSTEM_ACCOUNT, |reading| Ok([account::all(reading)?, account::deleted(reading)?].concat()))
}
