//! Alert rules as people make, change and see them, and what they have raised. When one is raised is in `alert_raise.rs`.

use drover_protocol::{
    AlertId, QueueId, RaisedAlertId, Timestamp, WebhookId,
    alert::{AcknowledgeAlert, AlertChannel, AlertPatch, AlertWhen, NewAlert, RaisedFilter, RaisedState},
    page::PageQuery,
};

use super::{
    Caller, alert_raise,
    audit::{self, Act},
    event,
    list::{self, Page, Via},
    news, process, queue, robot_group, webhook,
};
use crate::{
    domain::{
        alert::{Acknowledged, Alert, Channel, Raised},
        name::{Faults, MAX_DESCRIPTION_CHARS},
        permission::Permission,
        process::MAX_SECONDS,
    },
    error::{Error, Result},
    store::{Reading, Scan, Topic, Tx, key::Kind, table},
};

/// How the audit trail calls it.
const NOUN: &str = "alert";
/// Alerts of one account: all of them are looked at again and again.
const MAX_ALERTS: usize = 100;
const MAX_CHANNELS: usize = 20;
const MAX_ADDRESSES: usize = 20;
const MAX_ADDRESS_BYTES: usize = 254;
/// What is removed in one transaction when an alert is deleted.
const DELETE_PAGE: usize = 500;
/// A path that means something else stands in the way of this name.
const RESERVED: &str = "raised";

/// The alert with this id or name, for paths.
pub fn resolve(reading: &dyn Reading, text: &str) -> Result<Alert> {
    super::by_id_or_name(reading, Kind::AlertByName, text)
}

pub fn get(reading: &dyn Reading, caller: &Caller, text: &str) -> Result<Alert> {
    caller.require_whole(Permission::AlertRead)?;
    resolve(reading, text)
}

/// All alerts, newest first.
pub fn list(reading: &dyn Reading, caller: &Caller, query: &PageQuery) -> Result<Page<Alert>> {
    caller.require_whole(Permission::AlertRead)?;
    let scan = Scan::of(reading, Kind::Alert, ()).newest_first();
    list::page(reading, scan, Via::Records, query, |_: &Alert| true)
}

/// Every alert of the account.
pub fn all(reading: &dyn Reading) -> Result<Vec<Alert>> {
    let found = Scan::of(reading, Kind::Alert, ()).records(reading, MAX_ALERTS)?;
    Ok(found.into_iter().map(|(_, alert)| alert).collect())
}

/// Whether an alert is told to this webhook.
pub fn uses_webhook(reading: &dyn Reading, id: WebhookId) -> Result<bool> {
    Ok(all(reading)?.iter().any(|alert| alert.webhooks().any(|used| used == id)))
}

/// An alert that watches this very queue.
pub fn of_queue(reading: &dyn Reading, id: QueueId) -> Result<Option<Alert>> {
    Ok(all(reading)?.into_iter().find(|alert| alert.queue_id == Some(id)))
}

/// Makes an alert. `can_mail`: whether a mail server is known.
pub fn create(tx: &mut Tx, caller: &Caller, new: &NewAlert, can_mail: bool) -> Result<Alert> {
    caller.require_whole(Permission::AlertCreate)?;
    if Scan::of(tx, Kind::Alert, ()).pairs(tx, MAX_ALERTS)?.len() == MAX_ALERTS {
        return Err(Error::wrong_state(format!("an account has at most {MAX_ALERTS} alerts; delete one first")));
    }
    let alert = Alert {
        id: AlertId::from_uuid(tx.new_id()),
        name: new.name.clone(),
        description: new.description.clone(),
        enabled: new.enabled.unwrap_or(true),
        when: new.when,
        process_id: new.process.as_deref().map(|text| process::find(tx, text, "/process")).transpose()?.map(|p| p.id),
        queue_id: new
            .queue
            .as_deref()
            .map(|text| queue::find(tx, caller, Permission::QueueRead, text, "/queue"))
            .transpose()?
            .map(|queue| queue.id),
        group_id: new
            .group
            .as_deref()
            .map(|text| robot_group::find(tx, caller, Permission::RobotGroupRead, text, "/group"))
            .transpose()?
            .map(|g| g.id),
        after_seconds: new.after_seconds,
        channels: channels(tx, &new.channels, can_mail)?,
        created_at: tx.now(),
        revision: 1,
    };
    check(&alert)?;
    table::insert(tx, &alert)?;
    news::want(tx, &[], alert.wants())?;
    event::note(tx, alert.id.uuid(), "alert_created", "the alert was made", caller.by())?;
    audit::append(tx, caller, Act::new("create", NOUN, alert.id, &alert.name).after(&alert))?;
    tx.wake(Topic::Alerts);
    Ok(alert)
}

fn channels(reading: &dyn Reading, wanted: &[AlertChannel], can_mail: bool) -> Result<Vec<Channel>> {
    if wanted.is_empty() || wanted.len() > MAX_CHANNELS {
        return Err(Error::invalid("/channels", format!("name 1 to {MAX_CHANNELS} channels")));
    }
    let mut channels = Vec::with_capacity(wanted.len());
    for (number, channel) in wanted.iter().enumerate() {
        let at = format!("/channels/{number}");
        channels.push(match channel {
            AlertChannel { email: Some(addresses), webhook: None, console: None } => {
                Channel::Email(checked_addresses(&format!("{at}/email"), addresses, can_mail)?)
            }
            AlertChannel { email: None, webhook: Some(text), console: None } => {
                let found = webhook::resolve(reading, text).map_err(|error| match error {
                    Error::NotFound(_) => Error::invalid(format!("{at}/webhook"), "there is no such webhook"),
                    other => other,
                })?;
                Channel::Webhook(found.id)
            }
            AlertChannel { email: None, webhook: None, console: Some(true) } => Channel::Console,
            _ => return Err(Error::invalid(at, "name exactly one of email, webhook and console (which is true)")),
        });
    }
    Ok(channels)
}

fn checked_addresses(pointer: &str, addresses: &[String], can_mail: bool) -> Result<Vec<String>> {
    let mut faults = Faults::default();
    if !can_mail {
        faults.add(pointer, "no mail server is known; the operator sets it as mail.host");
    }
    if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
        faults.add(pointer, format!("name 1 to {MAX_ADDRESSES} addresses"));
    }
    for (number, address) in addresses.iter().enumerate() {
        let parts = address.rsplit_once('@');
        let fits = parts.is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty())
            && address.len() <= MAX_ADDRESS_BYTES
            && !address.contains(|char: char| char.is_whitespace() || char.is_control() || ",;<>()[]\"".contains(char));
        if !fits {
            faults.add(format!("{pointer}/{number}"), "must be an address such as name@example.com");
        }
    }
    faults.check()?;
    Ok(addresses.to_vec())
}

/// Refuses settings that are not sound.
fn check(alert: &Alert) -> Result<()> {
    use AlertWhen as W;
    let mut faults = Faults::default();
    faults.name("/name", &alert.name);
    if alert.name == RESERVED {
        faults.add("/name", "is reserved; take another one");
    }
    faults.text("/description", &alert.description, MAX_DESCRIPTION_CHARS);
    if let Some(seconds) = alert.after_seconds {
        faults.range("/after_seconds", seconds, 1, MAX_SECONDS);
    }
    let about_jobs = matches!(alert.when, W::JobFailed | W::JobLost | W::JobWaiting | W::JobRunningLong);
    let about_robots = matches!(alert.when, W::RobotOffline | W::DiskLow);
    let by_time = matches!(
        alert.when,
        W::JobWaiting | W::JobRunningLong | W::TaskOverSla | W::RobotOffline | W::ResourceExpiring
    );
    let members = [
        ("/process", alert.process_id.is_some(), about_jobs || alert.when == W::TriggerMissed),
        ("/queue", alert.queue_id.is_some(), alert.when == W::TaskOverSla),
        ("/group", alert.group_id.is_some(), about_jobs || about_robots),
        ("/after_seconds", alert.after_seconds.is_some(), by_time),
    ];
    for (pointer, _, _) in members.iter().filter(|(_, given, applies)| *given && !applies) {
        faults.add(*pointer, "does not apply to what this alert watches");
    }
    if matches!(alert.when, W::JobWaiting | W::JobRunningLong) && alert.after_seconds.is_none() {
        faults.add("/after_seconds", "is required: how long is too long?");
    }
    Ok(faults.check()?)
}

pub fn update(
    tx: &mut Tx,
    caller: &Caller,
    text: &str,
    patch: &AlertPatch,
    revision: Option<u64>,
    can_mail: bool,
) -> Result<Alert> {
    caller.require_whole(Permission::AlertUpdate)?;
    let mut alert = resolve(tx, text)?;
    table::check_revision(alert.revision, revision)?;
    let before = alert.clone();
    alert.name = patch.name.clone().unwrap_or(alert.name);
    alert.description = patch.description.clone().unwrap_or(alert.description);
    alert.enabled = patch.enabled.unwrap_or(alert.enabled);
    alert.after_seconds = patch.after_seconds.unwrap_or(alert.after_seconds);
    if let Some(named) = &patch.process {
        alert.process_id = named.as_deref().map(|text| process::find(tx, text, "/process")).transpose()?.map(|p| p.id);
    }
    if let Some(named) = &patch.queue {
        alert.queue_id = named
            .as_deref()
            .map(|text| queue::find(tx, caller, Permission::QueueRead, text, "/queue"))
            .transpose()?
            .map(|q| q.id);
    }
    if let Some(named) = &patch.group {
        alert.group_id = named
            .as_deref()
            .map(|text| robot_group::find(tx, caller, Permission::RobotGroupRead, text, "/group"))
            .transpose()?
            .map(|g| g.id);
    }
    if let Some(wanted) = &patch.channels {
        alert.channels = channels(tx, wanted, can_mail)?;
    }
    check(&alert)?;
    table::update(tx, &mut alert)?;
    news::want(tx, before.wants(), alert.wants())?;
    if before.enabled && !alert.enabled {
        alert_raise::end_all(tx, &alert, "the alert was disabled")?;
    }
    event::note(tx, alert.id.uuid(), "alert_changed", "the alert's settings were changed", caller.by())?;
    audit::append(tx, caller, Act::new("update", NOUN, alert.id, &alert.name).change(&before, &alert))?;
    tx.wake(Topic::Alerts);
    Ok(alert)
}

/// Deletes an alert with all that it has raised, a page at a time: call until it gives `true`.
pub fn delete_page(tx: &mut Tx, caller: &Caller, text: &str, revision: Option<u64>) -> Result<bool> {
    caller.require_whole(Permission::AlertDelete)?;
    let mut alert = resolve(tx, text)?;
    table::check_revision(alert.revision, revision)?;
    if alert.enabled {
        // It must not be raised while it is being removed.
        news::want(tx, alert.wants(), &[])?;
        alert.enabled = false;
        table::rewrite(tx, &alert)?;
    }
    let raised = Scan::of(tx, Kind::RaisedByAlert, alert.id).indexed::<Raised>(tx, DELETE_PAGE)?;
    for (_, one) in &raised {
        table::delete::<Raised>(tx, one.id)?;
    }
    if raised.len() == DELETE_PAGE || !event::delete_page(tx, alert.id.uuid(), DELETE_PAGE)? {
        return Ok(false);
    }
    audit::append(tx, caller, Act::new("delete", NOUN, alert.id, &alert.name).before(&alert))?;
    table::delete::<Alert>(tx, alert.id)?;
    Ok(true)
}

/// What was raised, newest first.
pub fn raised(
    reading: &dyn Reading,
    caller: &Caller,
    filter: &RaisedFilter,
    query: &PageQuery,
) -> Result<Page<Raised>> {
    caller.require_whole(Permission::AlertRead)?;
    let alert = filter.alert.as_deref().map(|text| find(reading, text)).transpose()?;
    let (scan, via) = match (&alert, filter.state) {
        (Some(alert), _) => (Scan::of(reading, Kind::RaisedByAlert, alert.id), Via::Index),
        (None, Some(RaisedState::Raised)) => (Scan::of(reading, Kind::RaisedOpen, ()), Via::Index),
        (None, _) => (Scan::of(reading, Kind::Raised, ()), Via::Records),
    };
    let fits = |raised: &Raised| filter.state.is_none_or(|state| raised.state() == state);
    list::page(reading, scan.newest_first(), via, query, fits)
}

fn find(reading: &dyn Reading, text: &str) -> Result<Alert> {
    resolve(reading, text).map_err(|error| match error {
        Error::NotFound(_) => Error::invalid("alert", "there is no such alert"),
        other => other,
    })
}

/// Somebody has seen to what was raised. What was raised by something momentary is over by that.
pub fn acknowledge(tx: &mut Tx, caller: &Caller, id: RaisedAlertId, request: &AcknowledgeAlert) -> Result<Raised> {
    caller.require_whole(Permission::AlertAcknowledge)?;
    let mut faults = Faults::default();
    faults.text("/note", &request.note, MAX_DESCRIPTION_CHARS);
    faults.check()?;
    let mut raised: Raised = table::find(tx, id)?.ok_or(Error::NotFound("raised alert"))?;
    if raised.acknowledged.is_some() {
        return Ok(raised);
    }
    raised.acknowledged = Some(Acknowledged { at: tx.now(), by: caller.name(), note: request.note.clone() });
    let alert: Alert = table::get(tx, raised.alert_id)?;
    if alert.is_momentary() && raised.ended.is_none() {
        raised.ended = Some((tx.now(), format!("{} has seen to it", caller.name())));
    }
    table::rewrite(tx, &raised)?;
    table::tell_changed(tx, &raised);
    let told = format!("{} has seen to it: {}", caller.name(), raised.text);
    event::note(tx, alert.id.uuid(), "alert_acknowledged", told, caller.by())?;
    audit::append(tx, caller, Act::new("acknowledge", NOUN, alert.id, &alert.name).after(&raised))?;
    Ok(raised)
}

/// Removes what was over before `before`, a page at a time from a position on; how far it came, if there is more.
pub fn expire_page(tx: &mut Tx, before: Timestamp, position: Option<Vec<u8>>, limit: usize) -> Result<Option<Vec<u8>>> {
    let mut scan = Scan::of(tx, Kind::Raised, ());
    if let Some(position) = position {
        scan = scan.after(&position);
    }
    let found = scan.records::<Raised>(tx, limit)?;
    let more = found.len() == limit && found.iter().all(|(_, raised)| raised.raised_at < before);
    let is_old = |raised: &Raised| raised.ended.as_ref().is_some_and(|(at, _)| *at < before);
    for (_, raised) in found.iter().filter(|(_, raised)| is_old(raised)) {
        table::delete::<Raised>(tx, raised.id)?;
    }
    Ok(found.last().filter(|_| more).map(|(key, _)| key.clone()))
}
