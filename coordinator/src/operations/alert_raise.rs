//! Alerts that are raised: by news, or by a state that lasts; once for each object, until it is over for that object. Whoever
//! is to be told is told in the same transaction, as far as the way to them goes.

use drover_protocol::{AlertId, NewsId, RaisedAlertId, Timestamp, alert::AlertWhen, job::Outcome, news::NewsType};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    alert, census, event,
    news::{self, Facts},
    webhook,
};
use crate::{
    domain::{
        alert::{Alert, Channel, Mail, Matter, Raised, verdict},
        news::{News, Subject},
        trigger::Trigger,
        webhook::Webhook,
    },
    error::Result,
    store::{Reading, Scan, Topic, Tx, key::Kind, table},
};

/// Objects for which one alert is raised at the same time; what comes on top is told by no alert of its own.
const MAX_OPEN: usize = 1_000;
const MAX_SUBJECT_CHARS: usize = 200;

/// Raises and ends alerts by what has happened.
pub fn hear(tx: &mut Tx, news: &News) -> Result<()> {
    if !matches!(news.kind, NewsType::JobFinished | NewsType::TriggerMissed | NewsType::TriggerFired) {
        return Ok(());
    }
    for alert in alert::all(tx)?.into_iter().filter(|alert| alert.wants().contains(&news.kind)) {
        match news.kind {
            NewsType::JobFinished => job_finished(tx, &alert, news)?,
            NewsType::TriggerMissed if is_about(alert.process_id.map(|id| id.uuid()), &news.data, "process_id") => {
                let reason = news.data.get("reason").and_then(Value::as_str).unwrap_or("its time was missed");
                let name = news.subject.name.as_deref().unwrap_or_default();
                let text = format!("the trigger {name} did not start a job: {reason}");
                raise(tx, &alert, &Matter { subject: news.subject.clone(), text }, true)?;
            }
            NewsType::TriggerFired => end(tx, &alert, news.subject.id, "it has fired again")?,
            _ => {}
        }
    }
    Ok(())
}

/// A trigger fires no more although it is enabled; it is over when it has fired again.
pub fn trigger_paused(tx: &mut Tx, trigger: &Trigger, why: &str) -> Result<()> {
    let text = format!("the trigger {} starts no more jobs: {why}", trigger.name);
    let matter = Matter { subject: Subject::new("trigger", trigger.id.uuid(), Some(&trigger.name)), text };
    let is_wanted = |alert: &Alert| {
        alert.when == AlertWhen::TriggerMissed && alert.process_id.is_none_or(|process| process == trigger.process_id)
    };
    for alert in alert::all(tx)?.into_iter().filter(|alert| alert.enabled && is_wanted(alert)) {
        raise(tx, &alert, &matter, true)?;
    }
    Ok(())
}

/// Whether a member of the facts is the object that an alert is limited to.
fn is_about(wanted: Option<Uuid>, data: &serde_json::Map<String, Value>, member: &str) -> bool {
    wanted.is_none_or(|wanted| id_in(data, member) == Some(wanted))
}

fn id_in(data: &serde_json::Map<String, Value>, member: &str) -> Option<Uuid> {
    Uuid::try_parse(data.get(member)?.as_str()?).ok()
}

fn job_finished(tx: &mut Tx, alert: &Alert, news: &News) -> Result<()> {
    let data = &news.data;
    if !is_about(alert.process_id.map(|id| id.uuid()), data, "process_id")
        || !is_about(alert.group_id.map(|id| id.uuid()), data, "target_group_id")
    {
        return Ok(());
    }
    let outcome = data.get("outcome").and_then(|outcome| serde_json::from_value::<Outcome>(outcome.clone()).ok());
    let (Some(process), Some(outcome)) = (id_in(data, "process_id"), outcome) else { return Ok(()) };
    let name = data.get("process").and_then(Value::as_str).unwrap_or_default();
    match verdict(alert.when, outcome) {
        Some(true) => {
            let why = data.get("cause").and_then(|cause| cause.get("message")).and_then(Value::as_str);
            let was = if outcome == Outcome::Lost { "is lost" } else { "has failed" };
            let text = format!("job {} of {name} {was}: {}", news.subject.id, why.unwrap_or("nobody said why"));
            raise(tx, alert, &Matter { subject: Subject::new("process", process, Some(name)), text }, true)
        }
        Some(false) => end(tx, alert, process, "a job has succeeded"),
        None => Ok(()),
    }
}

/// Alerts that go by a state that lasts are raised for what is the matter now, and end for all else.
pub fn settle(tx: &mut Tx, id: AlertId, seen_revision: u64, matters: &[Matter]) -> Result<()> {
    let found = table::find::<Alert>(tx, id)?.filter(|alert| alert.enabled && alert.revision == seen_revision);
    let Some(alert) = found else { return Ok(()) };
    for raised in open_of(tx, id)? {
        if !matters.iter().any(|matter| matter.subject.id == raised.subject.id) {
            end(tx, &alert, raised.subject.id, "it is over")?;
        }
    }
    matters.iter().try_for_each(|matter| raise(tx, &alert, matter, false))
}

/// What is open of an alert.
pub fn open_of(reading: &dyn Reading, id: AlertId) -> Result<Vec<Raised>> {
    let found = Scan::of(reading, Kind::RaisedBySubject, id).indexed(reading, MAX_OPEN)?;
    Ok(found.into_iter().map(|(_, raised)| raised).collect())
}

fn open_for(reading: &dyn Reading, id: AlertId, subject: Uuid) -> Result<Option<Raised>> {
    table::find_by(reading, Kind::RaisedBySubject, (id, subject))
}

/// Raises an alert, unless it is raised for this object already; then that is noted there. `is_new`: it has happened again,
/// and does not merely go on.
fn raise(tx: &mut Tx, alert: &Alert, matter: &Matter, is_new: bool) -> Result<()> {
    if let Some(mut raised) = open_for(tx, alert.id, matter.subject.id)? {
        if is_new || raised.text != matter.text {
            raised.count += u64::from(is_new);
            raised.text.clone_from(&matter.text);
            raised.last_at = tx.now();
            table::rewrite(tx, &raised)?;
        }
        return Ok(());
    }
    if Scan::of(tx, Kind::RaisedBySubject, alert.id).pairs(tx, MAX_OPEN)?.len() == MAX_OPEN {
        return Ok(());
    }
    let raised = Raised {
        id: RaisedAlertId::from_uuid(tx.new_id()),
        alert_id: alert.id,
        alert_name: alert.name.clone(),
        when: alert.when,
        subject: matter.subject.clone(),
        text: matter.text.clone(),
        count: 1,
        raised_at: tx.now(),
        last_at: tx.now(),
        ended: None,
        acknowledged: None,
    };
    table::insert(tx, &raised)?;
    census::count(tx, |totals| totals.raised += 1)?;
    event::note(tx, alert.id.uuid(), "alert_raised", raised.text.clone(), "coordinator")?;
    tell(tx, alert, &raised)
}

fn facts(raised: &Raised) -> Facts {
    let data = json!({
        "alert_id": raised.alert_id, "alert": raised.alert_name, "when": raised.when, "text": raised.text,
        "subject": { "noun": raised.subject.noun, "id": raised.subject.id, "name": raised.subject.name },
        "raised_at": raised.raised_at,
    });
    Facts { subject: Subject::new("raised_alert", raised.id.uuid(), Some(&raised.alert_name)), data }
}

/// Tells of an alert by its channels, and to all who want to know of any.
fn tell(tx: &mut Tx, alert: &Alert, raised: &Raised) -> Result<()> {
    let kind = NewsType::AlertRaised;
    news::tell(tx, kind, |_| Ok(facts(raised)))?;
    for channel in &alert.channels {
        match channel {
            Channel::Console => {}
            Channel::Email(to) => mail(tx, alert, raised, to)?,
            Channel::Webhook(id) => {
                let Some(hook) = table::find::<Webhook>(tx, *id)? else { continue };
                // It gets what it wants anyway.
                if hook.enabled && !hook.events.contains(&kind) {
                    let Facts { subject, data } = facts(raised);
                    let data = data.as_object().cloned().unwrap_or_default();
                    let id = NewsId::from_uuid(tx.new_id());
                    webhook::put_on_its_way(tx, &hook, &News { id, kind, at: tx.now(), subject, data })?;
                }
            }
        }
    }
    Ok(())
}

fn mail(tx: &mut Tx, alert: &Alert, raised: &Raised, to: &[String]) -> Result<()> {
    let about: String = format!("[Drover] {}: {}", alert.name, raised.text).chars().take(MAX_SUBJECT_CHARS).collect();
    let name = raised.subject.name.clone().unwrap_or_else(|| raised.subject.id.to_string());
    let text = format!(
        "{}\n\nAlert: {}\nConcerns: {} {name}\nSince: {}\n\nIt is told again only when it was over in between.\n",
        raised.text, alert.name, raised.subject.noun, raised.raised_at
    );
    let mail = Mail {
        id: NewsId::from_uuid(tx.new_id()),
        alert_id: alert.id,
        to: to.to_vec(),
        subject: about.replace(char::is_control, " "),
        text,
        created_at: tx.now(),
        next_try_at: tx.now(),
        tries: 0,
    };
    table::insert(tx, &mail)?;
    tx.wake(Topic::Mail);
    Ok(())
}

/// It is over for this object, if it was raised for it.
fn end(tx: &mut Tx, alert: &Alert, subject: Uuid, why: &str) -> Result<()> {
    let Some(mut raised) = open_for(tx, alert.id, subject)? else { return Ok(()) };
    raised.ended = Some((tx.now(), why.to_owned()));
    table::rewrite(tx, &raised)?;
    table::tell_changed(tx, &raised);
    let told = format!("over: {why} ({})", raised.text);
    event::note(tx, alert.id.uuid(), "alert_ended", told, "coordinator")?;
    Ok(())
}

/// All that an alert has raised is over.
pub fn end_all(tx: &mut Tx, alert: &Alert, why: &str) -> Result<()> {
    for raised in open_of(tx, alert.id)? {
        end(tx, alert, raised.subject.id, why)?;
    }
    Ok(())
}

/// Mails that are due, the longest overdue first.
pub fn due_mails(reading: &dyn Reading, limit: usize) -> Result<Vec<Mail>> {
    let end = table::index_start(reading, Kind::MailDue, Timestamp::from_millis(reading.now().millis() + 1));
    let found = Scan::of(reading, Kind::MailDue, ()).below(end).indexed(reading, limit)?;
    Ok(found.into_iter().map(|(_, mail)| mail).collect())
}

/// Writes down how sending a mail went.
pub fn note_mail(tx: &mut Tx, id: NewsId, failure: Option<&str>) -> Result<()> {
    let Some(mut mail) = table::find::<Mail>(tx, id)? else { return Ok(()) };
    let to = mail.to.join(", ");
    let alert = mail.alert_id.uuid();
    match failure {
        None => {
            table::delete::<Mail>(tx, id)?;
            event::note(tx, alert, "mail_sent", format!("a mail was sent to {to}"), "coordinator")?;
        }
        Some(why) if mail.failed(tx.now()) => {
            if mail.tries == 1 {
                let told = format!("a mail to {to} could not be sent yet: {why}");
                event::note(tx, alert, "mail_delayed", told, "coordinator")?;
            }
            table::rewrite(tx, &mail)?;
        }
        Some(why) => {
            table::delete::<Mail>(tx, id)?;
            let told = format!("a mail to {to} was given up after {} tries: {why}", mail.tries);
            event::note(tx, alert, "mail_given_up", told, "coordinator")?;
        }
    }
    Ok(())
}

/// Whether it goes by a state that lasts, and so has to be looked at again and again.
pub fn is_lasting(alert: &Alert) -> bool {
    alert.enabled && !alert.is_momentary()
}
