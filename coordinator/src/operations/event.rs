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

/// Notes what happened to an object.
pub fn note(tx: &mut Tx, object: Uuid, code: &str, text: impl Into<String>, by: impl Into<String>) -> Result<EventId> {
    let id = EventId::from_uuid(tx.new_id());
    let event = Event { id, object, at: tx.now(), code: code.to_owned(), text: text.into(), by: by.into() };
    table::insert(tx, &event)?;
    Ok(id)
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
    for (_, event) in events {
        // A report that came too late has left its output with the event.
        document::delete(tx, event.id.uuid(), Slot::Output)?;
        table::delete::<Event>(tx, (object, event.id))?;
    }
    Ok(ended)
}
