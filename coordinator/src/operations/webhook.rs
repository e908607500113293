//! Webhooks as people make, change and see them, and the news that are put on their way to them. What is sent is in
//! `webhook_client.rs`.

use std::collections::BTreeSet;

use drover_protocol::{
    DeliveryId, Timestamp, WebhookId,
    news::NewsType,
    page::PageQuery,
    webhook::{DeliveryFilter, DeliveryState, NewWebhook, RotateSecret, WebhookPatch},
};

use super::{
    Caller, alert,
    audit::{self, Act},
    census, event,
    list::{self, Page, Via},
    news,
};
use crate::{
    domain::{
        name::{Faults, MAX_DESCRIPTION_CHARS},
        news::News,
        permission::Permission,
        webhook::{
            DEFAULT_GRACE_SECONDS, Delivery, Faring, MAX_GRACE_SECONDS, MAX_WAITING, Outcome, SealedSecret, Webhook,
            secret_text,
        },
    },
    error::{Error, Result},
    secrets::Secrets,
    store::{Reading, Scan, Topic, Tx, key::Kind, schema::FaringOf, table},
};

/// How the audit trail calls it.
const NOUN: &str = "webhook";
/// Webhooks of one account: all of them are looked at for each of the news.
const MAX_WEBHOOKS: usize = 100;
const MAX_URL_CHARS: usize = 2_048;
const SECRET_BYTES: usize = 32;
/// What is removed in one transaction when a webhook is deleted.
const DELETE_PAGE: usize = 500;

/// The webhook with this id or name, for paths.
pub fn resolve(reading: &dyn Reading, text: &str) -> Result<Webhook> {
    super::by_id_or_name(reading, Kind::WebhookByName, text)
}

/// A webhook and how it fares.
#[derive(Clone, Debug)]
pub struct WithFaring {
    pub webhook: Webhook,
    pub faring: Faring,
}

fn in_full(reading: &dyn Reading, webhook: Webhook) -> Result<WithFaring> {
    let faring = faring(reading, webhook.id)?;
    Ok(WithFaring { webhook, faring })
}

fn faring(reading: &dyn Reading, id: WebhookId) -> Result<Faring> {
    Ok(table::find::<FaringOf>(reading, id)?.map(|of| of.faring).unwrap_or_default())
}

fn keep_faring(tx: &mut Tx, webhook_id: WebhookId, faring: Faring) -> Result<()> {
    table::overwrite(tx, &FaringOf { webhook_id, faring })
}

pub fn get(reading: &dyn Reading, caller: &Caller, text: &str) -> Result<WithFaring> {
    caller.require_whole(Permission::WebhookRead)?;
    in_full(reading, resolve(reading, text)?)
}

/// All webhooks, newest first.
pub fn list(reading: &dyn Reading, caller: &Caller, query: &PageQuery) -> Result<Page<WithFaring>> {
    caller.require_whole(Permission::WebhookRead)?;
    let scan = Scan::of(reading, Kind::Webhook, ()).newest_first();
    let page = list::page(reading, scan, Via::Records, query, |_: &Webhook| true)?;
    let items = page.items.into_iter().map(|webhook| in_full(reading, webhook)).collect::<Result<_>>()?;
    Ok(Page { items, next_cursor: page.next_cursor })
}

/// Every webhook of the account.
pub fn all(reading: &dyn Reading) -> Result<Vec<Webhook>> {
    let found = Scan::of(reading, Kind::Webhook, ()).records(reading, MAX_WEBHOOKS)?;
    Ok(found.into_iter().map(|(_, webhook)| webhook).collect())
}

/// Makes a webhook, and gives the text of its secret.
pub fn create(tx: &mut Tx, caller: &Caller, new: &NewWebhook, secrets: &Secrets) -> Result<(WithFaring, String)> {
    caller.require_whole(Permission::WebhookCreate)?;
    if Scan::of(tx, Kind::Webhook, ()).pairs(tx, MAX_WEBHOOKS)?.len() == MAX_WEBHOOKS {
        return Err(Error::wrong_state(format!("an account has at most {MAX_WEBHOOKS} webhooks; delete one first")));
    }
    let id = WebhookId::from_uuid(tx.new_id());
    let (secret, text) = new_secret(tx, id, secrets)?;
    let webhook = Webhook {
        id,
        name: new.name.clone(),
        description: new.description.clone(),
        url: new.url.clone(),
        events: new.events.iter().copied().collect(),
        enabled: new.enabled.unwrap_or(true),
        disabled_because: None,
        secret,
        old_secret: None,
        created_at: tx.now(),
        revision: 1,
    };
    check(&webhook)?;
    table::insert(tx, &webhook)?;
    news::want(tx, &[], &webhook.wants())?;
    event::note(tx, id.uuid(), "webhook_created", "the webhook was made", caller.by())?;
    audit::append(tx, caller, Act::new("create", NOUN, id, &webhook.name).after(Shown::of(&webhook)))?;
    Ok((in_full(tx, webhook)?, text))
}

fn new_secret(tx: &mut Tx, id: WebhookId, secrets: &Secrets) -> Result<(SealedSecret, String)> {
    let secret = tx.random::<SECRET_BYTES>();
    let sealed = secrets.seal(&context(id), &secret, tx.random())?;
    Ok((SealedSecret(sealed), secret_text(&secret)))
}

/// What a sealed secret is bound to.
pub fn context(id: WebhookId) -> Vec<u8> {
    [b"webhook ".as_slice(), id.uuid().as_bytes()].concat()
}

/// The secrets with which something that is sent now is signed.
pub fn signing_secrets(webhook: &Webhook, secrets: &Secrets, now: Timestamp) -> Result<Vec<Vec<u8>>> {
    let old = webhook.old_secret.as_ref().filter(|(_, until)| now < *until).map(|(old, _)| old);
    [Some(&webhook.secret), old]
        .into_iter()
        .flatten()
        .map(|sealed| secrets.open_sealed(&context(webhook.id), &sealed.0))
        .collect()
}

/// What the audit trail is told of a webhook.
#[derive(serde::Serialize)]
struct Shown<'a> {
    name: &'a str,
    description: &'a str,
    url: &'a str,
    events: &'a BTreeSet<NewsType>,
    enabled: bool,
}

impl<'a> Shown<'a> {
    fn of(webhook: &'a Webhook) -> Self {
        let Webhook { name, description, url, events, enabled, .. } = webhook;
        Self { name, description, url, events, enabled: *enabled }
    }
}

/// Refuses settings that are not sound. Where an address leads is only known when it is called.
fn check(webhook: &Webhook) -> Result<()> {
    let mut faults = Faults::default();
    faults.name("/name", &webhook.name);
    faults.text("/description", &webhook.description, MAX_DESCRIPTION_CHARS);
    faults.text("/url", &webhook.url, MAX_URL_CHARS);
    match url::Url::parse(&webhook.url) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") || url.host().is_none() => {
            faults.add("/url", "must begin with https:// or http://");
        }
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            faults.add("/url", "must not hold a user and a password; the receiver checks the signature instead");
        }
        Ok(_) => {}
        Err(error) => faults.add("/url", format!("is no address: {error}")),
    }
    if webhook.events.is_empty() {
        faults.add("/events", "name at least one type of events");
    }
    Ok(faults.check()?)
}

pub fn update(
    tx: &mut Tx,
    caller: &Caller,
    text: &str,
    patch: &WebhookPatch,
    revision: Option<u64>,
) -> Result<WithFaring> {
    caller.require_whole(Permission::WebhookUpdate)?;
    let mut webhook = resolve(tx, text)?;
    table::check_revision(webhook.revision, revision)?;
    let before = webhook.clone();
    webhook.name = patch.name.clone().unwrap_or(webhook.name);
    webhook.description = patch.description.clone().unwrap_or(webhook.description);
    webhook.url = patch.url.clone().unwrap_or(webhook.url);
    if let Some(events) = &patch.events {
        webhook.events = events.iter().copied().collect();
    }
    if let Some(enabled) = patch.enabled {
        webhook.enabled = enabled;
        webhook.disabled_because = None;
    }
    check(&webhook)?;
    table::update(tx, &mut webhook)?;
    news::want(tx, &before.wants(), &webhook.wants())?;
    event::note(tx, webhook.id.uuid(), "webhook_changed", "the webhook's settings were changed", caller.by())?;
    let act = Act::new("update", NOUN, webhook.id, &webhook.name);
    audit::append(tx, caller, act.change(&Shown::of(&before), &Shown::of(&webhook)))?;
    tx.wake(Topic::Deliveries);
    in_full(tx, webhook)
}

/// Gives a webhook a new secret; for a while both are good.
pub fn rotate_secret(
    tx: &mut Tx,
    caller: &Caller,
    text: &str,
    request: &RotateSecret,
    secrets: &Secrets,
) -> Result<(WithFaring, String)> {
    caller.require_whole(Permission::WebhookUpdate)?;
    let grace_seconds = request.grace_seconds.unwrap_or(DEFAULT_GRACE_SECONDS);
    let mut faults = Faults::default();
    faults.range("/grace_seconds", grace_seconds, 0, MAX_GRACE_SECONDS);
    faults.check()?;
    let mut webhook = resolve(tx, text)?;
    let (secret, text) = new_secret(tx, webhook.id, secrets)?;
    let old = std::mem::replace(&mut webhook.secret, secret);
    webhook.old_secret = (grace_seconds > 0).then(|| (old, tx.now().plus_seconds(grace_seconds)));
    table::update(tx, &mut webhook)?;
    let told = format!("it got a new secret; the old one is good for another {grace_seconds} s");
    event::note(tx, webhook.id.uuid(), "webhook_secret_changed", told, caller.by())?;
    audit::append(tx, caller, Act::new("rotate_secret", NOUN, webhook.id, &webhook.name))?;
    Ok((in_full(tx, webhook)?, text))
}

/// Deletes a webhook with its deliveries, a page at a time: call until it gives `true`.
pub fn delete_page(tx: &mut Tx, caller: &Caller, text: &str, revision: Option<u64>) -> Result<bool> {
    caller.require_whole(Permission::WebhookDelete)?;
    let mut webhook = resolve(tx, text)?;
    table::check_revision(webhook.revision, revision)?;
    if alert::uses_webhook(tx, webhook.id)? {
        return Err(Error::in_use("an alert is told to this webhook; change or delete the alert first"));
    }
    if webhook.enabled {
        // It must not get anything more while it is being removed.
        news::want(tx, &webhook.wants(), &[])?;
        webhook.enabled = false;
        table::rewrite(tx, &webhook)?;
    }
    let deliveries = Scan::of(tx, Kind::DeliveryByWebhook, webhook.id).indexed::<Delivery>(tx, DELETE_PAGE)?;
    for (_, delivery) in &deliveries {
        table::delete::<Delivery>(tx, delivery.id)?;
    }
    if deliveries.len() == DELETE_PAGE || !event::delete_page(tx, webhook.id.uuid(), DELETE_PAGE)? {
        return Ok(false);
    }
    audit::append(tx, caller, Act::new("delete", NOUN, webhook.id, &webhook.name).before(Shown::of(&webhook)))?;
    table::delete::<FaringOf>(tx, webhook.id)?;
    table::delete::<Webhook>(tx, webhook.id)?;
    Ok(true)
}

/// Deliveries of a webhook, newest first.
pub fn deliveries(
    reading: &dyn Reading,
    caller: &Caller,
    text: &str,
    filter: &DeliveryFilter,
    query: &PageQuery,
) -> Result<Page<Delivery>> {
    caller.require_whole(Permission::WebhookRead)?;
    let webhook = resolve(reading, text)?;
    let scan = Scan::of(reading, Kind::DeliveryByWebhook, webhook.id).newest_first();
    let fits = |delivery: &Delivery| filter.state.is_none_or(|state| delivery.state == state);
    list::page(reading, scan, Via::Index, query, fits)
}

/// Puts a delivery on its way again, whether or not it was taken. One that waits is tried now.
pub fn replay(tx: &mut Tx, caller: &Caller, text: &str, id: DeliveryId) -> Result<Delivery> {
    caller.require_whole(Permission::WebhookSend)?;
    let webhook = resolve(tx, text)?;
    let found = table::find::<Delivery>(tx, id)?.filter(|delivery| delivery.webhook_id == webhook.id);
    let mut delivery = found.ok_or(Error::NotFound("delivery"))?;
    if !webhook.enabled {
        return Err(Error::wrong_state("the webhook is disabled; enable it first"));
    }
    if delivery.state != DeliveryState::Waiting {
        let mut faring = faring(tx, webhook.id)?;
        faring.waiting += 1;
        keep_faring(tx, webhook.id, faring)?;
    }
    delivery.begin_again(tx.now());
    table::rewrite(tx, &delivery)?;
    let told = format!("the delivery {id} is sent again");
    event::note(tx, webhook.id.uuid(), "delivery_replayed", told, caller.by())?;
    audit::append(tx, caller, Act::new("replay", NOUN, webhook.id, &webhook.name).after(id))?;
    tx.wake(Topic::Deliveries);
    Ok(delivery)
}

/// Looks a webhook up for somebody who wants to see how it answers.
pub fn for_testing(reading: &dyn Reading, caller: &Caller, text: &str) -> Result<Webhook> {
    caller.require_whole(Permission::WebhookSend)?;
    resolve(reading, text)
}

/// Notes that somebody has tried a webhook out.
pub fn note_test(tx: &mut Tx, caller: &Caller, webhook: &Webhook, outcome: &Outcome) -> Result<()> {
    let told = match (&outcome.error, outcome.status) {
        (Some(error), _) => format!("a test was sent: {error}"),
        (None, status) => format!("a test was sent and answered with {}", status.unwrap_or_default()),
    };
    event::note(tx, webhook.id.uuid(), "webhook_tested", told, caller.by())?;
    audit::append(tx, caller, Act::new("test", NOUN, webhook.id, &webhook.name))
}

/// Hands news to the webhooks that want them.
pub fn hear(tx: &mut Tx, news: &News) -> Result<()> {
    for webhook in all(tx)?.into_iter().filter(|webhook| webhook.enabled && webhook.events.contains(&news.kind)) {
        put_on_its_way(tx, &webhook, news)?;
    }
    Ok(())
}

/// Puts news on their way to a webhook, whatever else it wants.
pub fn put_on_its_way(tx: &mut Tx, webhook: &Webhook, news: &News) -> Result<()> {
    let mut faring = faring(tx, webhook.id)?;
    if faring.waiting >= MAX_WAITING {
        if !faring.is_full {
            faring.is_full = true;
            keep_faring(tx, webhook.id, faring)?;
            let told = format!(
                "{MAX_WAITING} deliveries wait for it already; what comes from now on is left out until there is room"
            );
            event::note(tx, webhook.id.uuid(), "webhook_full", told, "coordinator")?;
        }
        return Ok(());
    }
    faring.waiting += 1;
    faring.is_full = false;
    keep_faring(tx, webhook.id, faring)?;
    let id = DeliveryId::from_uuid(tx.new_id());
    table::insert(tx, &Delivery::new(id, webhook.id, news.clone(), tx.now()))?;
    tx.wake(Topic::Deliveries);
    Ok(())
}

/// The deliveries of a webhook that are due, the longest overdue first.
pub fn due(reading: &dyn Reading, webhook: WebhookId, limit: usize) -> Result<Vec<Delivery>> {
    let now = Timestamp::from_millis(reading.now().millis() + 1);
    let end = table::index_start(reading, Kind::DeliveryDue, (webhook, now));
    let found = Scan::of(reading, Kind::DeliveryDue, webhook).below(end).indexed(reading, limit)?;
    Ok(found.into_iter().map(|(_, delivery)| delivery).collect())
}

/// When the next delivery of a webhook is due.
pub fn next_due(reading: &dyn Reading, webhook: WebhookId) -> Result<Option<Timestamp>> {
    let found = Scan::of(reading, Kind::DeliveryDue, webhook).indexed::<Delivery>(reading, 1)?;
    Ok(found.first().and_then(|(_, delivery)| delivery.next_try_at))
}

/// Writes down how a try went that began at `at`, and what follows from it.
pub fn note_try(tx: &mut Tx, id: DeliveryId, at: Timestamp, outcome: &Outcome) -> Result<()> {
    let Some(mut delivery) = table::find::<Delivery>(tx, id)? else { return Ok(()) };
    if delivery.state != DeliveryState::Waiting {
        return Ok(());
    }
    let [chance] = tx.random();
    delivery.tried(at, outcome, tx.now(), chance);
    table::rewrite(tx, &delivery)?;
    let mut faring = faring(tx, delivery.webhook_id)?;
    if delivery.state != DeliveryState::Waiting {
        faring.waiting = faring.waiting.saturating_sub(1);
    }
    match &outcome.error {
        None => (faring.last_delivered_at, faring.failing_since) = (Some(tx.now()), None),
        Some(_) => faring.failing_since = faring.failing_since.or(Some(tx.now())),
    }
    keep_faring(tx, delivery.webhook_id, faring)?;
    match delivery.state {
        DeliveryState::Waiting => {}
        DeliveryState::Delivered => census::count(tx, |totals| totals.delivered += 1)?,
        DeliveryState::GivenUp => census::count(tx, |totals| totals.given_up += 1)?,
    }
    if delivery.state == DeliveryState::GivenUp {
        let why = outcome.error.as_deref().unwrap_or_default();
        let told = format!("{} of {} was given up: {why}", delivery.news.kind, delivery.news.at);
        event::note(tx, delivery.webhook_id.uuid(), "delivery_given_up", told, "coordinator")?;
    }
    match outcome.is_gone() {
        true => disable_gone(tx, delivery.webhook_id),
        false => Ok(()),
    }
}

/// A receiver that answers 410 wants nothing any more.
fn disable_gone(tx: &mut Tx, id: WebhookId) -> Result<()> {
    let Some(mut webhook) = table::find::<Webhook>(tx, id)?.filter(|webhook| webhook.enabled) else { return Ok(()) };
    let before = webhook.wants();
    webhook.enabled = false;
    webhook.disabled_because = Some("the receiver answered 410 Gone".to_owned());
    table::update(tx, &mut webhook)?;
    news::want(tx, &before, &[])?;
    let told = "it was disabled, for the receiver answered 410 Gone; enable it when it takes events again";
    event::note(tx, id.uuid(), "webhook_disabled", told, "coordinator")?;
    Ok(())
}

/// Removes deliveries that were made before `before`, a page at a time from a position on; how far it came, if there is
/// more. One that is still tried stays.
pub fn expire_page(tx: &mut Tx, before: Timestamp, position: Option<Vec<u8>>, limit: usize) -> Result<Option<Vec<u8>>> {
    let mut scan = Scan::of(tx, Kind::Delivery, ());
    if let Some(position) = position {
        scan = scan.after(&position);
    }
    let found = scan.records::<Delivery>(tx, limit)?;
    let is_old = |delivery: &Delivery| delivery.created_at < before;
    let more = found.len() == limit && found.iter().all(|(_, delivery)| is_old(delivery));
    for (_, delivery) in found.iter().filter(|(_, delivery)| is_old(delivery)) {
        let is_tried = delivery.state == DeliveryState::Waiting && tx.now() <= delivery.give_up_at;
        if is_tried {
            continue;
        }
        if delivery.state == DeliveryState::Waiting {
            let mut faring = faring(tx, delivery.webhook_id)?;
            faring.waiting = faring.waiting.saturating_sub(1);
            keep_faring(tx, delivery.webhook_id, faring)?;
        }
        table::delete::<Delivery>(tx, delivery.id)?;
    }
    Ok(found.last().filter(|_| more).map(|(key, _)| key.clone()))
}

/// What is said of the webhooks must be what is there: deliveries that wait are counted. For tests.
pub fn check_faring(reading: &dyn Reading) -> Result<()> {
    for webhook in all(reading)? {
        let counted = faring(reading, webhook.id)?.waiting;
        let found = Scan::of(reading, Kind::DeliveryDue, webhook.id).pairs(reading, usize::MAX)?.len() as u64;
        if counted != found {
            let text = format!("{found} deliveries wait for the webhook {}, not {counted}", webhook.name);
            return Err(Error::Internal(text));
        }
    }
    Ok(())
}
