//! Fires for what has happened: each event that was kept for a trigger becomes one job, or one row that says why not.

use drover_protocol::EventId;

use super::{Occasion, Ready, fire_for};
use crate::{
    domain::{
        job::Leases,
        trigger::{Rule, Trigger, by_event::Pending, by_webhook::occasion_of},
    },
    error::Result,
    store::{Reading, Scan, Tx, key::Kind, table},
};

/// Events for which one transaction fires.
const PAGE: usize = 20;

/// The oldest events that wait for a trigger.
pub(super) fn pending(reading: &dyn Reading, trigger: &Trigger) -> Result<Vec<Pending>> {
    if !matches!(trigger.rule, Rule::Event(_)) {
        return Ok(Vec::new());
    }
    let found = Scan::of(reading, Kind::TriggerPending, trigger.id).records::<Pending>(reading, PAGE)?;
    Ok(found.into_iter().map(|(_, pending)| pending).collect())
}

/// Fires for those events that still wait, each with the job that was made ready for it.
pub(super) fn carry_out(
    tx: &mut Tx,
    trigger: &mut Trigger,
    events: &[(Pending, Ready)],
    leases: &Leases,
) -> Result<()> {
    for (event, ready) in events {
        let key = (event.trigger_id, event.news_id);
        if table::find::<Pending>(tx, key)?.is_none() {
            continue;
        }
        let occasion = Occasion {
            id: Some(occasion_of(trigger.id, "news", event.news_id.uuid().as_bytes())),
            why: "it has happened".to_owned(),
            comes_again: false,
            event_id: Some(EventId::from_uuid(event.news_id.uuid())),
            chain: event.chain,
        };
        fire_for(tx, trigger, &occasion, ready, leases)?;
        table::delete::<Pending>(tx, key)?;
    }
    let more = Scan::of(tx, Kind::TriggerPending, trigger.id).pairs(tx, 1)?;
    if !more.is_empty() {
        trigger.look_by(tx.now());
    }
    Ok(())
}
