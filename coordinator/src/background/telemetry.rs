//! Exports what has ended as spans, and the lines of robots, to a collector of OpenTelemetry. Both are read from the
//! store and marked there as exported once the collector has them: a crash loses nothing, and a collector that is slow or
//! gone holds up nobody but this loop.

use std::{collections::HashMap, sync::Arc, time::Duration};

use drover_protocol::{AccountId, log::FoundLine};
use tokio::time::Instant;

use super::{Failures, accounts, measured};
use crate::{
    app::App,
    domain::{account::Account, trace::Span},
    error::{Error, Result},
    log_search::{Filter, Lines, Tail, TailEvent, bytes_of},
    operations::{
        account::{self, MAX_ACCOUNTS},
        trace::{self, MAX_NOTES},
    },
    store::key::SYSTEM_ACCOUNT,
    telemetry_client::{Sent, TelemetryClient},
};

/// What has come together in this time is sent together.
const PERIOD: Duration = Duration::from_secs(1);
/// While the collector cannot be reached it is tried again after twice as long each time, at last so seldom.
const MAX_PERIOD: Duration = Duration::from_secs(60);
/// Calls for one account, before it is another one's turn.
const MAX_CALLS: usize = 20;
/// Lines of one call, in bytes: collectors refuse what is too large.
const MAX_LINES_BYTES: usize = 2 * 1024 * 1024;

const SENT: &str = "drover_telemetry_sent_total";
const LOST: &str = "drover_telemetry_lost_total";

/// How far quiet logs were exported is written down so seldom.
const MARK_EVERY: Duration = Duration::from_secs(300);

/// The logs of an account.
struct Followed {
    tail: Tail,
    /// When it was written down how far they are exported.
    marked_at: Instant,
}

/// Exports for all accounts.
pub struct Exporter {
    /// Followers of the logs, from where each account's have been exported.
    logs: HashMap<AccountId, Followed>,
    period: Duration,
}

/// Runs until the coordinator stops; ends at once if nothing is exported.
pub async fn run(app: Arc<App>) {
    if app.telemetry.is_none() {
        return;
    }
    let mut exporter = Exporter::default();
    loop {
        measured(&app, "telemetry", exporter.pass(&app)).await;
        tokio::select! {
            biased;
            () = app.stopping.cancelled() => return,
            () = tokio::time::sleep(exporter.period) => {}
        }
    }
}

impl Default for Exporter {
    fn default() -> Self {
        Self { logs: HashMap::new(), period: PERIOD }
    }
}

impl Exporter {
    /// Sends everything that waits; an error if the collector cannot take it now.
    pub async fn pass(&mut self, app: &App) -> Result<()> {
        let Some(client) = &app.telemetry else { return Ok(()) };
        let there = app.db.read(SYSTEM_ACCOUNT, |reading| account::some(reading, None, MAX_ACCOUNTS))?;
        let there: Vec<Account> = there.into_iter().filter(|account| !account.deleted).collect();
        self.logs.retain(|id, _| there.iter().any(|account| account.id == *id));
        let before = std::mem::replace(&mut self.period, PERIOD);
        let mut failures = Failures::default();
        for account in there {
            let done = self.pass_of(app, client, &account).await;
            let is_away = matches!(done, Err(Error::Unavailable(_)));
            if done.is_err() {
                // From what is written down it is known again how far its logs were exported.
                self.logs.remove(&account.id);
                self.period = self.period.max((before.max(PERIOD) * 2).min(MAX_PERIOD));
            }
            failures.note(account.id, done);
            if is_away {
                drop_surplus(app).await?;
                break;
            }
        }
        failures.end()
    }

    async fn pass_of(&mut self, app: &App, client: &TelemetryClient, account: &Account) -> Result<()> {
        if client.takes_traces() {
            self.export_spans(app, client, account).await?;
        }
        if client.takes_logs() {
            self.export_lines(app, client, account).await?;
        }
        Ok(())
    }

    async fn export_spans(&mut self, app: &App, client: &TelemetryClient, account: &Account) -> Result<()> {
        for _ in 0..MAX_CALLS {
            let page = app.db.read(account.id, |reading| trace::page(reading))?;
            if page.is_empty() || app.stopping.is_cancelled() {
                return Ok(());
            }
            let (notes, spans): (Vec<_>, Vec<Vec<Span>>) = page.into_iter().unzip();
            let spans = spans.concat();
            if !spans.is_empty() {
                let sent = client.send_spans(account, &spans).await?;
                self.count(app, "traces", spans.len(), sent)?;
            }
            app.db.write(account.id, move |tx| trace::forget(tx, &notes)).await?;
        }
        self.period = Duration::ZERO;
        Ok(())
    }

    async fn export_lines(&mut self, app: &App, client: &TelemetryClient, account: &Account) -> Result<()> {
        let mut followed = match self.logs.remove(&account.id) {
            Some(followed) => followed,
            None => follow(app, account.id).await?,
        };
        for _ in 0..MAX_CALLS {
            let events = followed.tail.read().await?;
            if events.is_empty() || app.stopping.is_cancelled() {
                self.logs.insert(account.id, followed);
                return Ok(());
            }
            let batches = batches(app, events);
            for batch in &batches {
                let sent = client.send_lines(account, batch, app.db.now()).await?;
                self.count(app, "logs", batch.len(), sent)?;
            }
            if !batches.is_empty() || followed.marked_at.elapsed() > MARK_EVERY {
                followed.marked_at = Instant::now();
                let position = followed.tail.position();
                app.db.write(account.id, move |tx| trace::note_logs_exported(tx, position)).await?;
            }
        }
        self.logs.insert(account.id, followed);
        self.period = Duration::ZERO;
        Ok(())
    }

    /// Counts what was sent; an error if it must be sent again.
    fn count(&mut self, app: &App, signal: &'static str, pieces: usize, sent: Sent) -> Result<()> {
        let pieces = pieces as u64;
        let (refused, reason) = match sent {
            Sent::Taken { refused, reason } => (refused.min(pieces), reason),
            Sent::Refused { reason } => (pieces, reason),
            Sent::Later { after, reason } => {
                self.period = after.unwrap_or_default();
                return Err(Error::Unavailable(format!("{signal} cannot be exported now: {reason}")));
            }
        };
        app.metrics.count(SENT, ("signal", signal), pieces - refused);
        if refused > 0 {
            tracing::warn!(refused, reason, signal, "the collector refuses what it was sent");
            app.metrics.count(LOST, ("signal", signal), refused);
        }
        Ok(())
    }
}

/// Follows the logs of an account from where they have been exported, or from now on.
async fn follow(app: &App, account: AccountId) -> Result<Followed> {
    let lines = Lines { db: Arc::clone(&app.db), blobs: Arc::clone(&app.blobs), account };
    let exported = app.db.read(account, |reading| trace::logs_exported(reading))?;
    let tail = Tail::open(lines, Arc::new(Filter::default()), exported.as_deref())?;
    if exported.is_none() {
        let position = tail.position();
        app.db.write(account, move |tx| trace::note_logs_exported(tx, position)).await?;
    }
    Ok(Followed { tail, marked_at: Instant::now() })
}

/// The lines that were told, in batches of bounded size. What is not known any more is counted.
fn batches(app: &App, events: Vec<TailEvent>) -> Vec<Vec<FoundLine>> {
    let (mut batches, mut room) = (Vec::<Vec<FoundLine>>::new(), 0);
    for event in events {
        match event {
            TailEvent::Line { line, .. } => {
                let bytes = bytes_of(&line);
                match batches.last_mut() {
                    Some(batch) if bytes <= room => batch.push(*line),
                    _ => {
                        room = MAX_LINES_BYTES;
                        batches.push(vec![*line]);
                    }
                }
                room = room.saturating_sub(bytes);
            }
            TailEvent::Gap { until } => {
                tracing::warn!(%until, "lines of logs before this time could not be exported in time");
                app.metrics.count(LOST, ("signal", "logs"), 1);
            }
            TailEvent::Position { .. } => {}
        }
    }
    batches
}

/// Removes what waits beyond the bound in each account, so that a collector that is gone fills no disk.
async fn drop_surplus(app: &App) -> Result<()> {
    for account in accounts(app)? {
        loop {
            let surplus = app.read_aside(account, |reading| trace::surplus(reading, MAX_NOTES)).await?;
            if surplus.is_empty() {
                break;
            }
            let lost = surplus.len() as u64;
            app.db.write(account, move |tx| trace::forget(tx, &surplus)).await?;
            app.metrics.count(LOST, ("signal", "traces"), lost);
        }
    }
    Ok(())
}
