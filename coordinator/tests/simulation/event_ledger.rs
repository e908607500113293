//! What must hold of triggers that fire on events: each of them fires once for each event that it is about, and for nothing
//! else. The rules are written here once more, from the product's promises and not from its code.

use std::collections::BTreeMap;

use drover_coordinator::{
    domain::{
        audit::Act,
        event::Event,
        job::Job,
        trigger::{Fire, Rule, Trigger, by_event::Pending},
    },
    operations::job,
    store::{Reader, document::Slot, engine::WriteSet, key::Kind, table},
};
use drover_protocol::{
    EventId, JobId, NewsId, ProcessId, TriggerId,
    trigger::{ByEvent, Decision, EventOn},
};
use serde_json::Value;
use uuid::Uuid;

use crate::filing::WATCHED;

type Verdict = Result<(), String>;

macro_rules! hold {
    ($holds:expr, $($text:tt)+) => { if !$holds { return Err(format!($($text)+)); } };
}

/// Something that has happened to an object, however often.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Finished(JobId),
    FileAdded(Uuid),
}

impl Happening {
    fn object(self) -> Uuid {
        match self {
            Self::Finished(job) => job.uuid(),
            Self::FileAdded(file) => file,
        }
    }
}

#[derive(Default)]
pub struct EventLedger {
    /// Process of each job, and the trigger that has started it.
    jobs: BTreeMap<JobId, (ProcessId, Option<TriggerId>)>,
    /// How often what a trigger is about has happened to an object.
    happened: BTreeMap<(TriggerId, Uuid), u64>,
    /// How often it was told so.
    told: BTreeMap<(TriggerId, Uuid), u64>,
    /// For what a trigger is still to fire.
    pending: BTreeMap<(TriggerId, NewsId), Uuid>,
}

fn settings(trigger: &Trigger) -> Option<&ByEvent> {
    match &trigger.rule {
        Rule::Event(settings) if trigger.enabled => Some(settings),
        _ => None,
    }
}

impl EventLedger {
    /// Judges a commit that has started `new` jobs and written `rows`; `triggers` are as they were before it.
    pub fn judge(
        &mut self,
        reading: &Reader,
        written: &WriteSet,
        triggers: &BTreeMap<TriggerId, Trigger>,
        new: &[Job],
        rows: &[Fire],
    ) -> Verdict {
        let broken = |error: drover_coordinator::error::Error| error.to_string();
        self.jobs.extend(new.iter().map(|job| (job.id, (job.process_id, job.trigger_id))));
        let uuid = |bytes: &[u8]| Uuid::from_slice(bytes).expect("an id in a key");
        let mut settled: BTreeMap<(TriggerId, NewsId), Uuid> = BTreeMap::new();
        let mut heard = Vec::new();
        for (key, value) in written {
            match Kind::of(key) {
                Some(Kind::Event) if value.is_some() => {
                    let id = (uuid(&key[18..34]), EventId::from_uuid(uuid(&key[34..50])));
                    let event: Event = table::get(reading, id).map_err(broken)?;
                    if event.code == "finished" {
                        self.note(triggers, Happening::Finished(JobId::from_uuid(event.object)));
                    }
                }
                Some(Kind::Audit) if value.is_some() => {
                    let seq = u64::from_be_bytes(key[18..26].try_into().expect("a number in a key"));
                    let act: Act = table::get(reading, seq).map_err(broken)?;
                    added(&act).into_iter().for_each(|file| self.note(triggers, Happening::FileAdded(file)));
                }
                Some(Kind::TriggerPending) => {
                    let id = (TriggerId::from_uuid(uuid(&key[18..34])), NewsId::from_uuid(uuid(&key[34..50])));
                    match table::find::<Pending>(reading, id).map_err(broken)? {
                        Some(pending) => heard.push((id, object_of(&pending)?)),
                        None => settled.extend(self.pending.remove(&id).map(|object| (id, object))),
                    }
                }
                _ => {}
            }
        }
        for ((trigger, news), object) in heard {
            if self.pending.insert((trigger, news), object).is_none() {
                self.note_told(trigger, object)?;
            }
        }
        for row in rows {
            let Some(event) = row.event_id else { continue };
            let object = settled.remove(&(row.trigger_id, NewsId::from_uuid(event.uuid())));
            let Some(object) = object else {
                return Err(format!("{} fired for {event}, which did not wait to be fired for", row.trigger_id));
            };
            judge_jobs(reading, row, object)?;
        }
        hold!(settled.is_empty(), "it was forgotten that triggers were to fire: {settled:?}");
        Ok(())
    }

    /// Counts something for every trigger that is about it.
    fn note(&mut self, triggers: &BTreeMap<TriggerId, Trigger>, happening: Happening) {
        for trigger in triggers.values() {
            if settings(trigger).is_some_and(|settings| self.is_about(trigger.id, settings, happening)) {
                *self.happened.entry((trigger.id, happening.object())).or_default() += 1;
            }
        }
    }

    fn is_about(&self, trigger: TriggerId, settings: &ByEvent, happening: Happening) -> bool {
        match happening {
            Happening::Finished(job) => {
                let Some((process, started_by)) = self.jobs.get(&job) else { return false };
                settings.on == EventOn::JobFinished
                    && settings.process == Some(process.to_string())
                    && (settings.own_jobs || *started_by != Some(trigger))
            }
            Happening::FileAdded(_) => settings.on == EventOn::FileAdded,
        }
    }

    fn note_told(&mut self, trigger: TriggerId, object: Uuid) -> Verdict {
        let told = self.told.entry((trigger, object)).or_default();
        *told += 1;
        let happened = self.happened.get(&(trigger, object)).copied().unwrap_or_default();
        hold!(*told <= happened, "{trigger} was told {told} times of {object}, to which it happened {happened} times");
        Ok(())
    }

    /// What a trigger that is enabled has still to be told, or to fire for.
    pub fn owed(&self, triggers: &BTreeMap<TriggerId, Trigger>) -> Vec<String> {
        let is_enabled = |id: &TriggerId| triggers.get(id).and_then(settings).is_some();
        let told = |key: &(TriggerId, Uuid)| self.told.get(key).copied().unwrap_or_default();
        let untold = self.happened.iter().filter(|(key, happened)| is_enabled(&key.0) && told(key) < **happened);
        let untold = untold.map(|((trigger, object), _)| format!("{trigger} was not told of {object}"));
        let waiting = self.pending.iter().filter(|((trigger, _), _)| is_enabled(trigger));
        untold.chain(waiting.map(|((trigger, _), object)| format!("{trigger} has not fired for {object}"))).collect()
    }
}

/// The file that people have put into the folder that is watched, if this is what they have done.
fn added(act: &Act) -> Option<Uuid> {
    let record = act.record().filter(|record| record.noun == "file" && record.verb != "delete")?;
    let is_watched = record.after?["folder"] == WATCHED;
    record.object.parse().ok().filter(|_| is_watched)
}

fn object_of(pending: &Pending) -> Result<Uuid, String> {
    let id = pending.event.get("object_id").and_then(Value::as_str).and_then(|id| id.parse().ok());
    id.ok_or_else(|| format!("an event is about no object: {:?}", pending.event))
}

/// The job is told of what it was started for.
fn judge_jobs(reading: &Reader, row: &Fire, object: Uuid) -> Verdict {
    hold!(row.decision != Decision::Failed, "{} could not fire for {object}: {}", row.trigger_id, row.reason);
    for id in &row.job_ids {
        let input = job::document(reading, *id, Slot::Input).map_err(|error| error.to_string())?;
        let said = input.map(|input| input["event"]["object_id"].clone());
        hold!(said == Some(object.to_string().into()), "{id} was started for {object}, and is told of {said:?}");
    }
    Ok(())
}
