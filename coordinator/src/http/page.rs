//! Lists and single objects as answers.

use axum::{
    Json,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use drover_protocol::{
    event::Event,
    page::{Page, PageQuery},
};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::{Fault, extract::tags};
use crate::{
    app::App,
    domain,
    error::Result as OperationResult,
    operations::{Caller, event, list},
    store::Reader,
};

/// For annotations: the call answers 304 when `If-None-Match` names what it would answer.
pub struct IfNoneMatch;

/// A page of views.
pub fn page<R, V>(page: list::Page<R>, view: impl Fn(R) -> V) -> Json<Page<V>> {
    let items = page.items.into_iter().map(view).collect();
    Json(Page { items, next_cursor: page.next_cursor, total: None })
}

pub fn event_view((event, output): (domain::event::Event, Option<Value>)) -> Event {
    Event { id: event.id, at: event.at, code: event.code, text: event.text, by: event.by, output }
}

/// What happened to an object, newest first. `find` gives its id, or refuses who may not see it.
pub fn events(
    app: &App,
    caller: &Caller,
    query: &PageQuery,
    find: impl FnOnce(&Reader, &Caller) -> OperationResult<Uuid>,
) -> Result<Json<Page<Event>>, Fault> {
    let found = app.db.read(caller.account, |reading| event::list(reading, find(reading, caller)?, query))?;
    Ok(page(found, event_view))
}

/// An object with its revision as `ETag`; 304 if the caller has this revision. What changes while the revision stays is to be
/// answered without a tag.
pub fn object<V: Serialize>(headers: &HeaderMap, revision: u64, view: V) -> Response {
    let tag = format!("\"{revision}\"");
    let mut response = match is_known(headers, &tag) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => Json(view).into_response(),
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// Whether `If-None-Match` names this tag.
pub fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    match tags(headers, &header::IF_NONE_MATCH) {
        Ok(Some(tags)) => tags.name_weakly(tag),
        Ok(None) | Err(_) => false,
    }
}
