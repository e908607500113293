//! Triggers by mail: what they name, when their mailboxes are looked into, and what is written down about a look. The
//! looking itself is no matter of transactions: see `background/mailboxes.rs`.
//!
//! How far a trigger has come lies in a mark, which is written in the transaction that fires. So a mail fires once, whatever
//! crashes between two looks or in the middle of one.

use drover_protocol::{
    FolderId, ResourceId, Timestamp, TriggerId,
    resource::ResourceKind,
    trigger::{ByMail, Decision, MailJobs, MailProtocol},
};
use serde::Deserialize;

use crate::{
    domain::{
        job::Leases,
        name::Faults,
        permission::Permission,
        resource::{Resource, Scope},
        storage::StorageFolder,
        trigger::{Fire, Rule, Trigger, by_mail::MailMark},
    },
    error::{Error, Result},
    operations::{
        Caller, event, resource, resource_value, storage,
        trigger_fire::{self, Occasion, Ready},
    },
    secrets::Secrets,
    store::{Reading, Scan, Topic, Tx, key::Kind, table},
};

const MAX_TEXTS: usize = 50;
const MAX_TEXT_CHARS: usize = 256;
const MAX_SERVER_CHARS: usize = 253;
const MAX_MAILBOX_CHARS: usize = 255;
const MAX_THRESHOLD: u64 = 50;
const INTERVAL_SECONDS: (u64, u64) = (10, 86_400);
/// How soon a mailbox is looked into again of which one look did not see all.
const MORE_SECONDS: u64 = 1;

/// The rule with the ids of what it names. The password goes to a server that the caller chooses: only those may choose it
/// who may read the password.
pub(super) fn rule_of(reading: &dyn Reading, caller: &Caller, mut settings: ByMail) -> Result<Rule> {
    caller.require(Permission::ResourceReadValue)?;
    let found = match resource::within_reach(reading, caller, &settings.credential) {
        Ok(found) => found,
        Err(Error::NotFound(_)) => return Err(Error::invalid("/mail/credential", "there is no such resource")),
        Err(other) => return Err(other),
    };
    if found.kind != ResourceKind::Credential {
        return Err(Error::invalid("/mail/credential", "the resource is of another kind than credential"));
    }
    settings.credential = found.id.to_string();
    if let Some(text) = &mut settings.attachments_folder {
        caller.require(Permission::StorageWrite)?;
        *text = match storage::resolve(reading, caller, Permission::StorageWrite, text) {
            Ok(folder) => folder.id.to_string(),
            Err(Error::NotFound(_)) => {
                return Err(Error::invalid("/mail/attachments_folder", "there is no such folder"));
            }
            Err(other) => return Err(other),
        };
    }
    Ok(Rule::Mail(settings))
}

pub(super) fn check(faults: &mut Faults, settings: &ByMail) {
    faults.text("/mail/server", &settings.server, MAX_SERVER_CHARS);
    if settings.server.trim().is_empty() {
        faults.add("/mail/server", "must not be empty");
    }
    if settings.port == Some(0) {
        faults.add("/mail/port", "must be from 1 to 65535");
    }
    faults.range("/mail/interval_seconds", settings.interval_seconds, INTERVAL_SECONDS.0, INTERVAL_SECONDS.1);
    faults.range("/mail/threshold", u64::from(settings.threshold), 1, MAX_THRESHOLD);
    if settings.threshold > 1 && settings.jobs == MailJobs::PerMail {
        faults.add("/mail/threshold", "counts only with one job for all mails of a look; set jobs to per_look");
    }
    if settings.protocol == MailProtocol::Pop3 {
        let only_imap = [
            ("mailbox", settings.mailbox.is_some()),
            ("unread_only", settings.unread_only),
            ("mark_as_read", settings.mark_as_read),
        ];
        for (name, _) in only_imap.into_iter().filter(|(_, is_set)| *is_set) {
            faults.add(format!("/mail/{name}"), "POP3 knows nothing of that; leave it out, or use imap");
        }
    }
    if let Some(mailbox) = &settings.mailbox {
        faults.text("/mail/mailbox", mailbox, MAX_MAILBOX_CHARS);
    }
    let lists = [
        ("subject_contains", &settings.subject_contains),
        ("body_contains", &settings.body_contains),
        ("attachment_names", &settings.attachment_names),
    ];
    for (name, texts) in lists {
        if texts.len() > MAX_TEXTS {
            faults.add(format!("/mail/{name}"), format!("more than {MAX_TEXTS} texts"));
        }
        for (number, text) in texts.iter().enumerate() {
            faults.text(&format!("/mail/{name}/{number}"), text, MAX_TEXT_CHARS);
            if text.is_empty() {
                faults.add(format!("/mail/{name}/{number}"), "must not be empty");
            }
        }
    }
}

/// Which mailbox it is: in another one, what was seen before says nothing.
#[derive(PartialEq)]
struct Place<'a> {
    protocol: MailProtocol,
    server: &'a str,
    port: Option<u16>,
    mailbox: Option<&'a str>,
    credential: &'a str,
}

fn mailbox_of(trigger: &Trigger) -> Option<Place<'_>> {
    match &trigger.rule {
        Rule::Mail(mail) => Some(Place {
            protocol: mail.protocol,
            server: &mail.server,
            port: mail.port,
            mailbox: mail.mailbox.as_deref(),
            credential: &mail.credential,
        }),
        _ => None,
    }
}

/// The trigger was written or deleted: its mark is made, moved or removed.
pub(super) fn follow(tx: &mut Tx, before: Option<&Trigger>, after: Option<&Trigger>) -> Result<()> {
    let Some(trigger) = after.filter(|trigger| mailbox_of(trigger).is_some()) else {
        return match before.filter(|trigger| mailbox_of(trigger).is_some()) {
            Some(gone) => table::delete::<MailMark>(tx, gone.id),
            None => Ok(()),
        };
    };
    let look_at = Some(tx.now()).filter(|_| trigger.enabled);
    let known: Option<MailMark> = table::find(tx, trigger.id)?;
    match known.filter(|_| before.and_then(mailbox_of) == mailbox_of(trigger)) {
        Some(mut mark) => {
            mark.look_at = look_at;
            (mark.failure, mark.failures) = (None, 0);
            table::rewrite(tx, &mark)?;
        }
        None => {
            table::delete::<MailMark>(tx, trigger.id)?;
            table::insert(tx, &MailMark::new(trigger.id, tx.new_id(), look_at))?;
        }
    }
    tx.wake(Topic::Mailboxes);
    Ok(())
}

/// Triggers whose mailboxes are to be looked into.
pub fn due(reading: &dyn Reading, limit: usize) -> Result<Vec<TriggerId>> {
    let end = table::index_start(reading, Kind::MailMarkDue, Timestamp::from_millis(reading.now().millis() + 1));
    let found = Scan::of(reading, Kind::MailMarkDue, ()).below(end).indexed::<MailMark>(reading, limit)?;
    Ok(found.into_iter().map(|(_, mark)| mark.trigger_id).collect())
}

/// When the next mailbox of the account is due.
pub fn next_due(reading: &dyn Reading) -> Result<Option<Timestamp>> {
    let found = Scan::of(reading, Kind::MailMarkDue, ()).indexed::<MailMark>(reading, 1)?;
    Ok(found.first().and_then(|(_, mark)| mark.look_at))
}

/// A trigger that is about to look, how far it has come, and its settings; absent if it looks no more.
pub fn looking(reading: &dyn Reading, id: TriggerId) -> Result<Option<(Trigger, MailMark, ByMail)>> {
    let Some(trigger) = table::find::<Trigger>(reading, id)? else { return Ok(None) };
    let Some(mark) = table::find::<MailMark>(reading, id)? else { return Ok(None) };
    Ok(match &trigger.rule {
        Rule::Mail(settings) => {
            let settings = settings.clone();
            Some((trigger, mark, settings))
        }
        _ => None,
    })
}

/// Name and password of a mailbox.
#[derive(Deserialize)]
pub struct Credential {
    pub username: String,
    pub password: String,
}

/// The credential that the settings name, or why there is none.
pub fn credential(
    reading: &dyn Reading,
    settings: &ByMail,
    secrets: &Secrets,
) -> Result<std::result::Result<Credential, String>> {
    let gone = "its credential is not there, or has no value; set one, or name another credential";
    let Ok(id) = settings.credential.parse::<ResourceId>() else { return Ok(Err(gone.to_owned())) };
    if table::find::<Resource>(reading, id)?.is_none() {
        return Ok(Err(gone.to_owned()));
    }
    let Some(value) = resource_value::current(reading, id, Scope::Default)? else { return Ok(Err(gone.to_owned())) };
    let json = resource_value::content(reading, &value, secrets)?;
    Ok(serde_json::from_slice(&json).map_err(|_| gone.to_owned()))
}

/// The folder into which attachments go, or why they cannot.
pub fn folder(reading: &dyn Reading, settings: &ByMail) -> Result<std::result::Result<Option<StorageFolder>, String>> {
    let Some(text) = &settings.attachments_folder else { return Ok(Ok(None)) };
    let found = text.parse::<FolderId>().ok().map(|id| table::find::<StorageFolder>(reading, id)).transpose()?;
    match found.flatten().filter(|folder| !folder.deleted) {
        Some(folder) => Ok(Ok(Some(folder))),
        None => Ok(Err("the storage folder for attachments is not there any more; name another one".to_owned())),
    }
}

/// Writes how far the trigger has come, unless it looks into another mailbox by now.
fn put_mark(tx: &mut Tx, mark: &MailMark, look_at: Option<Timestamp>) -> Result<bool> {
    let known = table::find::<MailMark>(tx, mark.trigger_id)?.filter(|known| known.epoch == mark.epoch);
    let Some(known) = known else { return Ok(false) };
    // Who has disabled it meanwhile has the last word.
    let look_at = known.look_at.and_then(|known| look_at.or(Some(known)));
    table::rewrite(tx, &MailMark { look_at, ..mark.clone() })?;
    Ok(true)
}

/// Fires for mails, and writes in the same transaction that they are done with. `None`: the trigger looks into another
/// mailbox by now.
pub fn fire(tx: &mut Tx, mark: &MailMark, occasion: &Occasion, ready: &Ready, leases: &Leases) -> Result<Option<Fire>> {
    if !put_mark(tx, mark, None)? {
        return Ok(None);
    }
    let (row, _) = trigger_fire::fire_once(tx, mark.trigger_id, occasion, ready, leases)?;
    Ok(Some(row))
}

/// A look has ended: when the next one comes, and what is to be told about this one.
pub fn end_look(
    tx: &mut Tx,
    mark: &MailMark,
    settings: &ByMail,
    done: std::result::Result<bool, String>,
) -> Result<()> {
    let known = table::find::<MailMark>(tx, mark.trigger_id)?;
    let failures = known.as_ref().map_or(0, |known| known.failures);
    let before = known.and_then(|known| known.failure);
    let is_more = done == Ok(true);
    let failure = done.err();
    let failures = if failure.is_some() { failures.saturating_add(1) } else { 0 };
    let mark = MailMark { failure: failure.clone(), failures, ..mark.clone() };
    let seconds = if is_more { MORE_SECONDS } else { mark.pause_seconds(settings.interval_seconds) };
    if !put_mark(tx, &mark, Some(tx.now().plus_seconds(seconds)))? {
        return Ok(());
    }
    let object = mark.trigger_id.uuid();
    match (before, failure) {
        (None, Some(why)) => {
            let text = format!(
                "its mailbox cannot be read: {why}; it is looked into again after longer and longer pauses of an hour at \
                 the most, and at once when the trigger is changed, or disabled and enabled"
            );
            event::note(tx, object, "mailbox_failed", text, "coordinator")?;
            trigger_fire::note_now(tx, mark.trigger_id, Decision::Failed, format!("the mailbox cannot be read: {why}"))
        }
        (Some(_), None) => {
            event::note(tx, object, "mailbox_read", "its mailbox can be read again", "coordinator").map(drop)
        }
        (None, None) | (Some(_), Some(_)) => Ok(()),
    }
}
