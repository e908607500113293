//! Sends what is on its way to webhooks. A receiver that dawdles or fails holds up nobody but itself.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use drover_protocol::{AccountId, DeliveryId, Timestamp, WebhookId};
use tokio::task::JoinSet;

use super::{Failures, accounts, measured};
use crate::{
    app::App,
    domain::webhook::{Delivery, Webhook},
    error::Result,
    operations::webhook,
    store::Topic,
    webhook_client::Message,
};

/// Deliveries that are under way to one webhook at the same time.
const MAX_AT_ONCE: usize = 4;
/// The clock of the host may be set; nothing is slept for longer than this without looking at it.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// How soon a delivery is sent again whose outcome could not be written down.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Deliveries that are being sent. What was being sent when the coordinator ended is sent again.
#[derive(Default)]
struct Sending {
    calls: JoinSet<(WebhookId, DeliveryId, Result<()>)>,
    by_webhook: HashMap<WebhookId, HashSet<DeliveryId>>,
}

impl Sending {
    /// Begins to send what is due, as far as there is room; when the next one is due.
    fn begin(&mut self, app: &Arc<App>) -> Result<Option<Timestamp>> {
        let mut next: Option<Timestamp> = None;
        let mut failures = Failures::default();
        for account in accounts(app)? {
            match self.begin_of(app, account) {
                Ok(at) => next = next.into_iter().chain(at).min(),
                Err(error) => failures.note(account, Err(error)),
            }
        }
        failures.end().map(|()| next)
    }

    fn begin_of(&mut self, app: &Arc<App>, account: AccountId) -> Result<Option<Timestamp>> {
        let mut next: Option<Timestamp> = None;
        for webhook in app.db.read(account, |reading| webhook::all(reading))?.into_iter().filter(|w| w.enabled) {
            let under_way = self.by_webhook.get(&webhook.id).map_or(0, HashSet::len);
            if under_way == MAX_AT_ONCE {
                continue;
            }
            let due = app.db.read(account, |reading| webhook::due(reading, webhook.id, MAX_AT_ONCE))?;
            if due.is_empty() {
                let of_this = app.db.read(account, |reading| webhook::next_due(reading, webhook.id))?;
                next = next.into_iter().chain(of_this).min();
                continue;
            }
            let sent = self.by_webhook.entry(webhook.id).or_default();
            for delivery in due {
                if sent.len() < MAX_AT_ONCE && sent.insert(delivery.id) {
                    let (app, webhook) = (Arc::clone(app), webhook.clone());
                    self.calls.spawn(async move {
                        let done = send(&app, account, &webhook, &delivery).await;
                        if done.is_err() {
                            // It is due still, and must not be sent again at once.
                            tokio::time::sleep(AFTER_FAILURE).await;
                        }
                        (webhook.id, delivery.id, done)
                    });
                }
            }
        }
        Ok(next)
    }

    /// Waits for the end of a call; for ever if there is none.
    async fn ended(&mut self) {
        match self.calls.join_next().await {
            Some(Ok((webhook, delivery, done))) => {
                if let Some(of_webhook) = self.by_webhook.get_mut(&webhook) {
                    of_webhook.remove(&delivery);
                    if of_webhook.is_empty() {
                        self.by_webhook.remove(&webhook);
                    }
                }
                if let Err(error) = done {
                    tracing::warn!(%error, %webhook, %delivery, "how a delivery went could not be written down");
                }
            }
            // Whose call that was is not known; what is due is found again.
            Some(Err(error)) => {
                tracing::error!(%error, "a delivery ended badly");
                self.by_webhook.clear();
            }
            None => std::future::pending().await,
        }
    }
}

async fn send(app: &App, account: AccountId, webhook: &Webhook, delivery: &Delivery) -> Result<()> {
    let at = app.db.now();
    let secrets = webhook::signing_secrets(webhook, &app.secrets, at)?;
    let message = Message {
        root: &app.rules.public_url,
        account,
        kind: delivery.news.kind.as_str(),
        news: &delivery.news,
        secrets: &secrets,
        now: at,
    };
    let outcome = app.webhooks.send(webhook, &message).await?;
    let id = delivery.id;
    app.db.write(account, move |tx| webhook::note_try(tx, id, at, &outcome)).await
}

/// Runs until the coordinator stops.
pub async fn run(app: Arc<App>) {
    let mut sending = Sending::default();
    loop {
        let watch = app.db.watch(&[Topic::Deliveries]);
        let mut next = None;
        measured(&app, "webhooks", async {
            next = sending.begin(&app)?;
            Ok(())
        })
        .await;
        let sleep = next.map_or(MAX_SLEEP, |at: Timestamp| at.since(app.db.now()).min(MAX_SLEEP));
        tokio::select! {
            biased;
            () = app.stopping.cancelled() => return,
            () = sending.ended() => {}
            () = watch.woken() => {}
            () = tokio::time::sleep(sleep.max(Duration::from_millis(1))) => {}
        }
    }
}

/// Sends everything that is due now, and waits for the answers.
pub async fn pass(app: &Arc<App>) -> Result<()> {
    let mut sending = Sending::default();
    loop {
        sending.begin(app)?;
        if sending.calls.is_empty() {
            return Ok(());
        }
        sending.ended().await;
    }
}
