//! Fires for what happens at no time of its own: a call to a webhook, an event. Each occasion fires a trigger once,
//! however often it is told and whatever crashes in between.

use drover_protocol::{
    EventId, TriggerId,
    trigger::{Decision, Overlap},
};
use uuid::Uuid;

use super::{MONTH_IS_USED_UP, Ready, active, month, note, note_paused, start, stop_others};
use crate::{
    domain::{
        job::Leases,
        trigger::{Fire, MAX_CHAIN, Trigger},
    },
    error::{Error, Result},
    store::{Reading, Tx, key::Kind, table},
};

/// Something for which a trigger fires.
#[derive(Clone, Debug)]
pub struct Occasion {
    /// Tells it from others, see [`crate::domain::trigger::by_webhook::occasion_of`]; absent: it is like no other.
    pub id: Option<Uuid>,
    /// For the reader of the history: "it was called", say.
    pub why: String,
    /// Whether it comes again if the trigger does not fire for it now, so that a skip must not be its last word.
    pub comes_again: bool,
    pub event_id: Option<EventId>,
    /// See [`crate::domain::job::Job::chain`]; of the job that is to be started.
    pub chain: u32,
}

/// What became of an occasion, if it is known already.
pub fn known(reading: &dyn Reading, trigger: TriggerId, occasion: &Occasion) -> Result<Option<Fire>> {
    match occasion.id {
        Some(id) => table::find_by(reading, Kind::TriggerFireByOccasion, (trigger, id)),
        None => Ok(None),
    }
}

/// The same as [`fire_for`] for the trigger as it is now.
pub fn fire_once(
    tx: &mut Tx,
    trigger: TriggerId,
    occasion: &Occasion,
    ready: &Ready,
    leases: &Leases,
) -> Result<(Fire, bool)> {
    let mut trigger: Trigger = table::get(tx, trigger)?;
    let before = trigger.clone();
    let done = fire_for(tx, &mut trigger, occasion, ready, leases)?;
    if trigger != before {
        note_paused(tx, &before, &trigger)?;
        table::replace(tx, &before, &trigger)?;
    }
    Ok(done)
}

/// Starts the job of an occasion if the trigger's rules allow it, and writes down what became of it. The row of an occasion
/// that was answered before is given again; the flag says so.
pub fn fire_for(
    tx: &mut Tx,
    trigger: &mut Trigger,
    occasion: &Occasion,
    ready: &Ready,
    leases: &Leases,
) -> Result<(Fire, bool)> {
    if let Some(row) = known(tx, trigger.id, occasion)? {
        return Ok((row, true));
    }
    let (decision, reason, jobs) = match hindrance(tx, trigger, occasion, leases)? {
        Some(reason) => (Decision::Skipped, reason, Vec::new()),
        None => match start(tx, trigger, ready, 1, occasion.chain)? {
            Ok(jobs) => (Decision::Fired, occasion.why.clone(), jobs),
            Err(reason) => (Decision::Failed, reason, Vec::new()),
        },
    };
    let id = occasion.id.filter(|_| decision == Decision::Fired || !occasion.comes_again);
    let id = id.unwrap_or_else(|| tx.new_id());
    let mut row = note(tx, trigger.id, tx.now(), id, decision, reason, jobs)?;
    if occasion.event_id.is_some() {
        row.event_id = occasion.event_id;
        table::rewrite(tx, &row)?;
    }
    Ok((row, false))
}

/// Why the trigger must not fire now. Asks older jobs to stop if that is its policy.
fn hindrance(tx: &mut Tx, trigger: &Trigger, occasion: &Occasion, leases: &Leases) -> Result<Option<String>> {
    let now = tx.now();
    if let Some(because) = trigger.paused_because(now) {
        return Ok(Some(because));
    }
    if !trigger.enabled {
        return Ok(Some("the trigger is disabled".to_owned()));
    }
    let span = trigger.span().map_err(|_| Error::Internal("the settings of a trigger are unsound".to_owned()))?;
    if span.opens(now).is_none_or(|at| at > now) {
        return Ok(Some("it is outside of its validity and window".to_owned()));
    }
    if occasion.chain > MAX_CHAIN {
        return Ok(Some(format!(
            "triggers have fired on what each other's jobs did {MAX_CHAIN} times in a row, and go no further lest they go \
             on for ever"
        )));
    }
    if trigger.month_is_used_up(month(trigger, now)?) {
        return Ok(Some(MONTH_IS_USED_UP.to_owned()));
    }
    let most = trigger.most_at_once().unwrap_or(usize::MAX);
    if most == usize::MAX || active(tx, trigger.id, most)? < most {
        return Ok(None);
    }
    if trigger.overlap == Overlap::StopOther {
        stop_others(tx, trigger, most - 1, leases)?;
        return Ok(None);
    }
    Ok(Some(format!("{most} jobs of it have not finished, and no more may run at once")))
}
