//! Triggers that fire while everything fails and the clock is set: what must hold of their instants after each commit.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use drover_coordinator::{
    domain::{
        job::Job,
        trigger::{Fire, Rule, Trigger, by_webhook::is_once},
    },
    operations,
    store::{Reader, Scan, document::Slot, engine::WriteSet, key::Kind, table},
};
use drover_protocol::{
    JobId, Timestamp, TriggerId,
    trigger::{Decision, TriggerKind},
};
use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{event_ledger::EventLedger, filing::WATCHED, mailboxes, people::must, workers, world::World};

/// Those that would go on for ever.
const RESTLESS: [&str; 6] = ["often", "steady", "kept", "tasked", "called", "echoing"];
/// Those that fire for each of what others do, until nobody does anything any more.
const HEARING: [&str; 4] = ["told", "filed", "posted", "mailed"];

/// Makes triggers of each kind, which fire from now on.
pub async fn prepare(world: &Rc<World>) {
    let base = json!({"process": "plain", "target": {"group": "all"}, "input": {"seconds": 3, "obeys": 1}});
    let often = json!({"name": "often", "kind": "schedule", "overlap": "allow", "max_parallel": 2,
        "schedule": {"cron": "*/7 * * * * *", "catch_up": "all", "catch_up_window_seconds": 60}});
    let steady = json!({"name": "steady", "kind": "schedule", "overlap": "buffer_one",
        "schedule": {"interval_seconds": 11}});
    let kept = json!({"name": "kept", "kind": "continuous", "continuous": {"jobs": 1}});
    let tasked = json!({"name": "tasked", "kind": "queue", "queue": {"queue": workers::QUEUE, "tasks_per_job": 2,
        "max_jobs": 2, "end_when_empty": true}, "input": {"seconds": 20, "obeys": 1, "works": 1}});
    let called = json!({"name": "called", "kind": "webhook", "webhook": {"auth": "none"}});
    // It starts jobs of the very process on whose ends it fires, and must not hear its own.
    let told = json!({"name": "told", "kind": "event", "event": {"on": "job_finished", "process": "tried again"},
        "process": "tried again", "input": {"seconds": 1, "obeys": 1}});
    // It hears its own jobs, which is to say that it goes on by itself.
    let echoing = json!({"name": "echoing", "kind": "event", "max_parallel": 1, "process": "limited",
        "event": {"on": "job_finished", "process": "limited", "own_jobs": true}, "input": {"seconds": 12, "obeys": 1}});
    let filed = json!({"name": "filed", "kind": "event", "event": {"on": "file_added", "folder": WATCHED},
        "input": {"seconds": 1, "obeys": 1}});
    let [by_pop3, by_imap] = mailboxes::prepare(world).await;
    let posted = json!({"name": "posted", "kind": "mail", "mail": by_pop3, "input": {"seconds": 1, "obeys": 1}});
    let mailed = json!({"name": "mailed", "kind": "mail", "mail": by_imap, "input": {"seconds": 1, "obeys": 1}});
    for mut trigger in [often, steady, kept, tasked, called, told, echoing, filed, posted, mailed] {
        let members = trigger.as_object_mut().expect("an object");
        for (name, member) in base.as_object().expect("an object") {
            members.entry(name.clone()).or_insert(member.clone());
        }
        let made = must(world, Method::POST, "/triggers", trigger).await;
        if let Some((_, path)) = made["url"].as_str().and_then(|url| url.split_once("/api/v1")) {
            world.hook.replace(path.to_owned());
        }
    }
}

/// Lets those fire no more that would go on for ever, so that all work can end.
pub async fn disable_restless(world: &Rc<World>) {
    for name in RESTLESS {
        must(world, Method::POST, &format!("/triggers/{name}/disable"), Value::Null).await;
    }
}

/// Lets none fire any more.
pub async fn disable_hearing(world: &Rc<World>) {
    for name in HEARING {
        must(world, Method::POST, &format!("/triggers/{name}/disable"), Value::Null).await;
    }
}

type RowId = (TriggerId, Timestamp, Uuid);

/// What was ever written about triggers.
#[derive(Default)]
pub struct Ledger {
    triggers: BTreeMap<TriggerId, Trigger>,
    rows: BTreeMap<RowId, Fire>,
    /// At which instant what may happen once has happened.
    occasions: BTreeMap<(TriggerId, Uuid), Timestamp>,
    /// Messages from outside for which it was fired.
    messages: BTreeSet<(TriggerId, String)>,
    events: EventLedger,
}

impl Ledger {
    /// Judges a commit; gives what has come about in it.
    pub fn judge(&mut self, reading: &Reader, written: &WriteSet, new: &[Job]) -> Result<Vec<String>, String> {
        let broken = |error: drover_coordinator::error::Error| error.to_string();
        let mut named: BTreeSet<JobId> = BTreeSet::new();
        let (mut reached, mut rows) = (Vec::new(), Vec::new());
        let uuid = |bytes: &[u8]| Uuid::from_slice(bytes).expect("an id in a key");
        for key in written.iter().filter(|(_, value)| value.is_some()).map(|(key, _)| key) {
            if Kind::of(key) != Some(Kind::TriggerFire) {
                continue;
            }
            let millis = u64::from_be_bytes(key[34..42].try_into().expect("eight bytes"));
            let at = Timestamp::from_millis(i64::try_from(millis).expect("a time"));
            let id = (TriggerId::from_uuid(uuid(&key[18..34])), at, uuid(&key[42..58]));
            let row: Fire = table::get(reading, id).map_err(broken)?;
            self.judge_row(&row, new, &mut named)?;
            reached.push(format!("trigger {:?}", row.decision));
            if let Some(kind) = self.judge_kind(reading, &row)? {
                reached.push(format!("{kind:?} trigger {:?}", row.decision));
            }
            if self.rows.insert(id, row.clone()).is_none() {
                self.judge_message(reading, &row)?;
                rows.push(row);
            }
        }
        for job in new.iter().filter(|job| job.trigger_id.is_some()) {
            if !named.contains(&job.id) {
                return Err(format!("{} was started by a trigger, and no row of this commit says so", job.id));
            }
        }
        self.events.judge(reading, written, &self.triggers, new, &rows)?;
        for key in written.keys().filter(|key| Kind::of(key) == Some(Kind::Trigger)) {
            let id = TriggerId::from_uuid(uuid(&key[18..34]));
            let after: Trigger = table::get(reading, id).map_err(broken)?;
            self.judge_instant(reading, &after)?;
            self.triggers.insert(id, after);
        }
        Ok(reached)
    }

    /// For what triggers have still to fire, although nothing more happens.
    pub fn owed(&self) -> Vec<String> {
        self.events.owed(&self.triggers)
    }

    /// Whether some trigger has fired for the message.
    pub fn has_fired_for(&self, message: &str) -> bool {
        self.messages.iter().any(|(_, known)| known == message)
    }

    /// One message from outside, a call or a mail, is one job.
    fn judge_message(&mut self, reading: &Reader, row: &Fire) -> Result<(), String> {
        for job in &row.job_ids {
            let input = operations::job::document(reading, *job, Slot::Input).map_err(|error| error.to_string())?;
            let input = input.unwrap_or_default();
            let Some(message) = input["call"].as_str().or(input["mail"]["subject"].as_str()) else { continue };
            if !self.messages.insert((row.trigger_id, message.to_owned())) {
                return Err(format!("{} fired for {message}, for which it had fired", row.trigger_id));
            }
        }
        Ok(())
    }

    /// What may happen once happens at one instant, and a queue has never more jobs than its trigger allows.
    fn judge_kind(&mut self, reading: &Reader, row: &Fire) -> Result<Option<TriggerKind>, String> {
        if is_once(row.occasion) {
            let first = *self.occasions.entry((row.trigger_id, row.occasion)).or_insert(row.instant);
            if first != row.instant {
                return Err(format!(
                    "{} of {} was at {first} and again at {}",
                    row.occasion, row.trigger_id, row.instant
                ));
            }
        }
        let trigger: Option<Trigger> = table::find(reading, row.trigger_id).map_err(|error| error.to_string())?;
        let Some(trigger) = trigger else { return Ok(None) };
        if let Rule::Queue { settings, .. } = &trigger.rule {
            let jobs = Scan::of(reading, Kind::JobActiveByTrigger, trigger.id).pairs(reading, 1_000);
            let count = jobs.map_err(|error| error.to_string())?.len();
            if count > settings.max_jobs as usize {
                return Err(format!("{} has {count} unfinished jobs, more than it may", trigger.name));
            }
        }
        Ok(Some(trigger.rule.kind()))
    }

    /// An instant fires once, with jobs that were made for it.
    fn judge_row(&self, row: &Fire, new: &[Job], named: &mut BTreeSet<JobId>) -> Result<(), String> {
        let what = format!("the instant {} of {}", row.instant, row.trigger_id);
        match self.rows.get(&(row.trigger_id, row.instant, row.occasion)) {
            Some(before) if before != row => return Err(format!("{what} was {before:?} and is {row:?}")),
            Some(_) => return Ok(()),
            None => {}
        }
        if (row.decision == Decision::Fired) == row.job_ids.is_empty() {
            return Err(format!("{what} is {:?} with the jobs {:?}", row.decision, row.job_ids));
        }
        for id in &row.job_ids {
            let made = new.iter().any(|job| job.id == *id && job.trigger_id == Some(row.trigger_id));
            if !made || !named.insert(*id) {
                return Err(format!("{what} names {id}, which was not made for it"));
            }
        }
        Ok(())
    }

    /// No instant is passed over without a word.
    fn judge_instant(&self, reading: &Reader, after: &Trigger) -> Result<(), String> {
        let Some(before) = self.triggers.get(&after.id) else { return Ok(()) };
        let Some(instant) = before.next_fire_at else { return Ok(()) };
        if before.revision != after.revision || after.next_fire_at == Some(instant) || after.buffered.contains(&instant)
        {
            return Ok(());
        }
        let row: Option<Fire> =
            table::find(reading, (after.id, instant, Uuid::nil())).map_err(|error| error.to_string())?;
        match row {
            Some(_) => Ok(()),
            None => Err(format!("the instant {instant} of {} was passed over without a word", after.name)),
        }
    }
}
