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
    log_search::{Filter, Lines, Tail, TailEvent},
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
/// So often a collector may fail at the same pieces until they are given up: five minutes, with the pauses in between.
const MAX_FAILURES: u32 = 10;
/// What waits beyond the bound is looked for at most so often.
const SURPLUS_EVERY: Duration = Duration::from_secs(60);

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

/// What is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Signal {
    Traces,
    Logs,
}

impl Signal {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Logs => "logs",
        }
    }
}

/// Exports for all accounts.
#[derive(Default)]
pub struct Exporter {
    /// Followers of the logs, from where each account's have been exported.
    logs: HashMap<AccountId, Followed>,
    /// How often in a row the collector has failed at what comes next.
    failures: HashMap<(AccountId, Signal), u32>,
    paces: HashMap<Signal, Pace>,
    surplus_dropped_at: Option<Instant>,
}

/// When a signal is exported again: one that cannot be sent holds up the other one no more than an account another one.
#[derive(Clone, Copy)]
struct Pace {
    period: Duration,
    next_at: Instant,
}

/// Runs until the coordinator stops; ends at once if nothing is exported.
pub async fn run(app: Arc<App>) {
    if app.telemetry.is_none() {
        return;
    }
    let mut exporter = Exporter::default();
    loop {
        // What is on its way when it stops is sent again by the next start: a collector that hangs must not hold it up.
        tokio::select! {
            biased;
            () = app.stopping.cancelled() => return,
            () = measured(&app, "telemetry", exporter.export_due(&app)) => {}
        }
        tokio::select! {
            biased;
            () = app.stopping.cancelled() => return,
            () = tokio::time::sleep_until(exporter.next_at()) => {}
        }
    }
}

impl Exporter {
    /// Sends everything that waits now; an error if the collector cannot take it.
    pub async fn pass(&mut self, app: &App) -> Result<()> {
        self.paces.clear();
        self.export_due(app).await
    }

    fn next_at(&self) -> Instant {
        self.paces.values().map(|pace| pace.next_at).min().unwrap_or_else(Instant::now)
    }

    async fn export_due(&mut self, app: &App) -> Result<()> {
        let Some(client) = &app.telemetry else { return Ok(()) };
        let there = app.db.read(SYSTEM_ACCOUNT, |reading| account::some(reading, None, MAX_ACCOUNTS))?;
        let there: Vec<Account> = there.into_iter().filter(|account| !account.deleted).collect();
        self.logs.retain(|id, _| there.iter().any(|account| account.id == *id));
        self.failures.retain(|(id, _), _| there.iter().any(|account| account.id == *id));
        let mut failures = Failures::default();
        if client.takes_logs() {
            // Before anything is sent: an account whose turn does not come must know from where on its lines are wanted.
            for account in &there {
                failures.note(account.id, self.follow(app, account.id).await);
            }
        }
        for (signal, is_wanted) in [(Signal::Traces, client.takes_traces()), (Signal::Logs, client.takes_logs())] {
            let pace = self.paces.get(&signal).copied();
            if is_wanted && pace.is_none_or(|pace| pace.next_at <= Instant::now()) {
                let before = pace.map_or(PERIOD, |pace| pace.period);
                let period = self.export(app, client, signal, &there, before, &mut failures).await;
                self.paces.insert(signal, Pace { period, next_at: Instant::now() + period });
            }
        }
        self.drop_surplus(app).await?;
        failures.end()
    }

    /// Exports a signal of all accounts; how long it pauses then, if it did so for `before` the last time.
    async fn export(
        &mut self,
        app: &App,
        client: &TelemetryClient,
        signal: Signal,
        accounts: &[Account],
        before: Duration,
        failures: &mut Failures,
    ) -> Duration {
        let (mut pause, mut is_more) = (None, false);
        for account in accounts {
            let done = match signal {
                Signal::Traces => self.export_spans(app, client, account).await,
                Signal::Logs => self.export_lines(app, client, account).await,
            };
            let (done, is_away) = match done {
                Ok(Exported { is_more: more }) => {
                    is_more |= more;
                    (Ok(()), false)
                }
                Err(Unsent { error, after, is_away }) => {
                    pause = pause.max(Some((before.max(PERIOD) * 2).min(MAX_PERIOD).max(after)));
                    (Err(error), is_away)
                }
            };
            failures.note(account.id, done);
            if is_away {
                break;
            }
        }
        pause.unwrap_or(if is_more { Duration::ZERO } else { PERIOD })
    }

    async fn export_spans(
        &mut self,
        app: &App,
        client: &TelemetryClient,
        account: &Account,
    ) -> std::result::Result<Exported, Unsent> {
        for _ in 0..MAX_CALLS {
            let page = app.db.read(account.id, |reading| trace::page(reading))?;
            if page.is_empty() {
                return Ok(Exported { is_more: false });
            }
            let (notes, spans): (Vec<_>, Vec<Vec<Span>>) = page.into_iter().unzip();
            let spans = spans.concat();
            if !spans.is_empty() {
                let sent = client.send_spans(account, &spans).await?;
                self.count(app, account.id, Signal::Traces, spans.len(), sent)?;
            }
            app.db.write(account.id, move |tx| trace::forget(tx, &notes)).await?;
        }
        Ok(Exported { is_more: true })
    }

    async fn export_lines(
        &mut self,
        app: &App,
        client: &TelemetryClient,
        account: &Account,
    ) -> std::result::Result<Exported, Unsent> {
        // If this fails it is known again from what is written down how far they were exported.
        let Some(mut followed) = self.logs.remove(&account.id) else { return Ok(Exported { is_more: false }) };
        for _ in 0..MAX_CALLS {
            let events = followed.tail.read().await?;
            if events.is_empty() {
                self.logs.insert(account.id, followed);
                return Ok(Exported { is_more: false });
            }
            let lines = lines(app, events);
            if !lines.is_empty() {
                let sent = client.send_lines(account, &lines, app.db.now()).await?;
                self.count(app, account.id, Signal::Logs, lines.len(), sent)?;
            }
            if !lines.is_empty() || followed.marked_at.elapsed() > MARK_EVERY {
                followed.marked_at = Instant::now();
                let position = followed.tail.position();
                app.db.write(account.id, move |tx| trace::note_logs_exported(tx, position)).await?;
            }
        }
        self.logs.insert(account.id, followed);
        Ok(Exported { is_more: true })
    }

    /// Follows the logs of an account from where they have been exported, or from now on.
    async fn follow(&mut self, app: &App, account: AccountId) -> Result<()> {
        if self.logs.contains_key(&account) {
            return Ok(());
        }
        let lines = Lines { db: Arc::clone(&app.db), blobs: Arc::clone(&app.blobs), account };
        let exported = app.db.read(account, |reading| trace::logs_exported(reading))?;
        let tail = Tail::open(lines, Arc::new(Filter::default()), exported.as_deref())?;
        if exported.is_none() {
            let position = tail.position();
            app.db.write(account, move |tx| trace::note_logs_exported(tx, position)).await?;
        }
        self.logs.insert(account, Followed { tail, marked_at: Instant::now() });
        Ok(())
    }

    /// Counts what was sent; an error if it must be sent again.
    fn count(
        &mut self,
        app: &App,
        account: AccountId,
        signal: Signal,
        pieces: usize,
        sent: Sent,
    ) -> std::result::Result<(), Unsent> {
        let (pieces, name) = (pieces as u64, signal.as_str());
        let (refused, reason) = match sent {
            Sent::Taken { refused, reason } => (refused, reason),
            Sent::Later { after, reason } => {
                let error = Error::Unavailable(format!("{name} cannot be exported now: {reason}"));
                return Err(Unsent { error, after: after.unwrap_or_default(), is_away: true });
            }
            Sent::Failed { reason } => {
                let failures = self.failures.entry((account, signal)).or_default();
                *failures += 1;
                if *failures < MAX_FAILURES {
                    return Err(Error::Internal(format!("{name} of an account cannot be exported: {reason}")).into());
                }
                (pieces, reason)
            }
        };
        self.failures.remove(&(account, signal));
        app.metrics.count(SENT, ("signal", name), pieces - refused);
        if refused > 0 {
            tracing::warn!(refused, reason, signal = name, "the collector refuses what it was sent");
            app.metrics.count(LOST, ("signal", name), refused);
        }
        Ok(())
    }

    /// Removes what waits beyond the bound in each account, so that a collector that is gone or slow fills no disk.
    async fn drop_surplus(&mut self, app: &App) -> Result<()> {
        if self.surplus_dropped_at.is_some_and(|at| at.elapsed() < SURPLUS_EVERY) {
            return Ok(());
        }
        self.surplus_dropped_at = Some(Instant::now());
        for account in accounts(app)? {
            loop {
                let surplus = app.read_aside(account, |reading| trace::surplus(reading, MAX_NOTES)).await?;
                if surplus.is_empty() {
                    break;
                }
                let lost = surplus.len() as u64;
                app.db.write(account, move |tx| trace::forget(tx, &surplus)).await?;
                app.metrics.count(LOST, ("signal", Signal::Traces.as_str()), lost);
            }
        }
        Ok(())
    }
}

/// What of a signal and an account could be sent was sent.
struct Exported {
    /// More of it waits.
    is_more: bool,
}

/// What waits cannot be sent now.
struct Unsent {
    error: Error,
    /// When the collector wants to be called again.
    after: Duration,
    /// It takes nothing at all, whosever it is.
    is_away: bool,
}

impl From<Error> for Unsent {
    fn from(error: Error) -> Self {
        Self { error, after: Duration::ZERO, is_away: false }
    }
}

/// The lines that were told. What is not known any more is counted.
fn lines(app: &App, events: Vec<TailEvent>) -> Vec<FoundLine> {
    let mut lines = Vec::new();
    for event in events {
        match event {
            TailEvent::Line { line, .. } => lines.push(*line),
            TailEvent::Gap { until } => {
                tracing::warn!(%until, "lines of logs before this time could not be exported in time");
                app.metrics.count(LOST, ("signal", Signal::Logs.as_str()), 1);
            }
            TailEvent::Position { .. } => {}
        }
    }
    lines
}
