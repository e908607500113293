//! Events: one readable line beside an object for every change and automatic decision.

use drover_protocol::{EventId, ResourceId, page::PageQuery};
use serde_json::Value;
use uuid::Uuid;

use super::list::{self, Page, Via};
use crate::{
    domain::{event::Event, resource::Scope},
    error::{Error, Result},
    store::{
        Reading, Record, Scan, Tx,
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

/// A result of a task that came too late.
pub const LATE_RESULT: &str = "late_result";
/// The same of a job.
pub const LATE_REPORT: &str = "late_report";
/// Outputs of this size together are enough for one page.
const ENOUGH_BYTES: usize = 4 * 1024 * 1024;

/// Notes what happened to an object.
pub fn note(tx: &mut Tx, object: Uuid, code: &str, text: impl Into<String>, by: impl Into<String>) -> Result<EventId> {
    let (id, at) = (EventId::from_uuid(tx.new_id()), tx.now());
    let event = Event { id, object, at, code: code.to_owned(), text: text.into(), by: by.into(), scope: None };
    insert(tx, &event)?;
    Ok(id)
}

/// Notes what happened to the value that a resource has for somebody.
pub fn note_of_value(
    tx: &mut Tx,
    (resource, scope): (ResourceId, Scope),
    code: &str,
    text: String,
    by: String,
) -> Result<()> {
    let (id, at) = (EventId::from_uuid(tx.new_id()), tx.now());
    let (object, code, scope) = (resource.uuid(), code.to_owned(), Some(scope));
    insert(tx, &Event { id, object, at, code, text, by, scope })
}

fn insert(tx: &mut Tx, event: &Event) -> Result<()> {
    table::insert(tx, event)?;
    if event.id.uuid().as_u128().is_multiple_of(FORGET_EVERY) {
        forget_old(tx, event.object)?;
    }
    Ok(())
}

/// Removes some events of an object that nobody will ask for any more, the oldest first.
fn forget_old(tx: &mut Tx, object: Uuid) -> Result<()> {
    let oldest = tx.now().minus_seconds(MAX_AGE_SECONDS);
    let events = Scan::of(tx, Kind::Event, object).records::<Event>(tx, FORGET_PAGE)?;
    events.into_iter().take_while(|(_, event)| event.at < oldest).try_for_each(|(_, event)| delete(tx, &event))
}

fn delete(tx: &mut Tx, event: &Event) -> Result<()> {
    // A result that came too late has left its output with the event.
    document::delete(tx, event.id.uuid(), Slot::Output)?;
    table::delete::<Event>(tx, (event.object, event.id))
}

/// Notes a result that came too late, and keeps what it brought, as JSON, with the event.
pub fn note_late(
    tx: &mut Tx,
    object: Uuid,
    code: &str,
    text: impl Into<String>,
    by: impl Into<String>,
    output: Option<&[u8]>,
) -> Result<()> {
    let event = note(tx, object, code, text, by)?;
    match output {
        Some(output) => document::insert(tx, event.uuid(), Slot::Output, output),
        None => Ok(()),
    }
}

/// An event with what is kept with it.
pub type Told = (Event, Option<Value>);

/// An object's events, newest first, each with the output that is kept with it. A page ends early when outputs are large. The
/// caller has been checked for the object.
pub fn list(reading: &dyn Reading, object: Uuid, query: &PageQuery) -> Result<Page<Told>> {
    list_some(reading, object, query, |_| true)
}

/// Those of an object's events that are for the caller.
pub fn list_some(
    reading: &dyn Reading,
    object: Uuid,
    query: &PageQuery,
    is_told: impl Fn(&Event) -> bool,
) -> Result<Page<Told>> {
    let scan = Scan::of(reading, Kind::Event, object).newest_first();
    let found = list::page(reading, scan, Via::Records, query, is_told)?;
    let mut page = Page { items: Vec::with_capacity(found.items.len()), next_cursor: found.next_cursor };
    let mut bytes = 0;
    let mut rest = found.items.into_iter().peekable();
    while let Some(event) = rest.next() {
        let key = table::index_start(reading, Kind::Event, event.id());
        let kept = output(reading, &event)?;
        bytes += kept.as_ref().map_or(0, |(_, bytes)| *bytes);
        page.items.push((event, kept.map(|(output, _)| output)));
        if bytes >= ENOUGH_BYTES && rest.peek().is_some() {
            page.next_cursor = Some(list::cursor_at(Scan::position(&key), Event::NOUN));
            break;
        }
    }
    Ok(page)
}

/// What is kept with an event, and how many bytes of JSON that is.
fn output(reading: &dyn Reading, event: &Event) -> Result<Option<(Value, usize)>> {
    if ![LATE_RESULT, LATE_REPORT].contains(&event.code.as_str()) {
        return Ok(None);
    }
    let Some(json) = document::get(reading, event.id.uuid(), Slot::Output)? else { return Ok(None) };
    let output = serde_json::from_slice(&json)
        .map_err(|error| Error::Internal(format!("the output of an event cannot be read: {error}")))?;
    Ok(Some((output, json.len())))
}

/// Removes all events of an object, a page at a time; `true` when none are left.
pub fn delete_page(tx: &mut Tx, object: Uuid, limit: usize) -> Result<bool> {
    let events = Scan::of(tx, Kind::Event, object).records::<Event>(tx, limit)?;
    let ended = events.len() < limit;
    events.into_iter().try_for_each(|(_, event)| delete(tx, &event))?;
    Ok(ended)
}
