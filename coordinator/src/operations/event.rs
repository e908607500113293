//! Events: one readable line beside an object for every change and automatic decision.

use drover_protocol::{EventId, page::PageQuery};
use uuid::Uuid;

use super::list::{self, Page, Via};
use crate::{
    domain::event::Event,
    error::Result,
    store::{
        Reading, Scan, Tx,
        document::{self, Slot},
        key::Kind,
        table,
    },
};

/// So long events are kept; those of jobs and tasks go with them before that.
const MAX_AGE_SECONDS: u64 = 400 * 86_400;
/// One event in so many removes this many old ones of its object, so that those go faster than new ones come.
const FORGET_EVERY: u128 = 64;
const FORGET_PAGE: usize = 256;

/// Notes what happened to an object.
pub fn note(tx: &mut Tx, object: Uuid, code: &str, text: impl Into<String>, by: impl Into<String>) -> Result<EventId> {
    let id = EventId::from_uuid(tx.new_id());
    let event = Event { id, object, at: tx.now(), code: code.to_owned(), text: text.into(), by: by.into() };
    table::insert(tx, &event)?;
    if id.uuid().as_u128().is_multiple_of(FORGET_EVERY) {
        forget_old(tx, object)?;
    }
    Ok(id)
}

/// Removes some events of an object that nobody will ask for any more, the oldest first.
fn forget_old(tx: &mut Tx, object: Uuid) -> Result<()> {
    let oldest = tx.now().minus_seconds(MAX_AGE_SECONDS);
    let events = Scan::of(tx, Kind::Event, object).records::<Event>(tx, FORGET_PAGE)?;
    events.into_iter().take_while(|(_, event)| event.at < oldest).try_for_each(|(_, event)| delete(tx, &event))
}

fn delete(tx: &mut Tx, event: &Event) -> Result<()> {
    // A report that came too late has left its output with the event.
    document::delete(tx, event.id.uuid(), Slot::Output)?;
    table::delete::<Event>(tx, (event.object, event.id))
}

/// An object's events, newest first. The caller has been checked for the object.
pub fn list(reading: &dyn Reading, object: Uuid, query: &PageQuery) -> Result<Page<Event>> {
    let scan = Scan::of(reading, Kind::Event, object).newest_first();
    list::page(reading, scan, Via::Records, query, |_: &Event| true)
}

/// Removes all events of an object, a page at a time; `true` when none are left.
pub fn delete_page(tx: &mut Tx, object: Uuid, limit: usize) -> Result<bool> {
    let events = Scan::of(tx, Kind::Event, object).records::<Event>(tx, limit)?;
    let ended = events.len() < limit;
    events.into_iter().try_for_each(|(_, event)| delete(tx, &event))?;
    Ok(ended)
}
