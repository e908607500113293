//! Changes of objects as a stream of events.
//!
//! A stream may have hundreds of readers and thousands of changes a second: what an event looks like is written once for all
//! readers, and each is given what has come since in one piece, at most every few milliseconds.

use std::{collections::BTreeSet, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use drover_protocol::change::{ChangeFilter, Noun, ObjectChange};
use futures::{Stream, stream};
use tokio::time::Instant;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    extract::{Accept, Query},
};
use crate::{
    app::App,
    error::Error,
    operations::{Caller, change},
    store::changes::{Entry, Follower, Found},
};

/// A reader is given something at most this often.
const PACE: Duration = Duration::from_millis(50);
/// What one piece may hold.
const MAX_PIECE: usize = 1_000;
/// So often a reader is told that the connection lives, and looked at whether its key still does.
const BEAT: Duration = Duration::from_secs(10);

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(follow_changes))
}

/// Changes of objects, as they happen
///
/// A stream for consoles and scripts (server-sent events): each event has a change as `data` and its number as `id`. Told
/// are objects that the caller may read: `noun:read` of each kind. The first event is called `position` and has an `id`
/// alone: what is read after it is at least as new. With `Last-Event-ID` a stream goes on without a gap, as long as the
/// coordinator remembers that place; otherwise, or if the reader was too slow, the event `reset` tells to read anew
/// whatever is shown, and the stream goes on from there.
#[utoipa::path(get, path = "/events", tag = "System",
    params(ChangeFilter, ("Last-Event-ID" = Option<String>, Header, description = "Id of the last event seen")),
    responses((status = 200, content((ObjectChange = "text/event-stream")))))]
async fn follow_changes(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(filter): Query<ChangeFilter>,
    accept: Accept,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    accept.choose(&["text/event-stream"])?;
    let nouns = app.db.read(caller.account, |reading| change::nouns(reading, &caller, &filter))?;
    let last = match headers.get("last-event-id").map(|value| value.to_str().unwrap_or_default().trim()) {
        None | Some("") => None,
        // A number that was never given out is as good as one that is forgotten.
        Some(text) => Some(text.parse().unwrap_or(0)),
    };
    let (follower, resumed) = app.db.changes().follow(caller.account, app.db.now(), last)?;
    // What was under way when the following began is over after this, and can be read.
    app.db.write(caller.account, |_| Ok(())).await?;
    let first = frame(if resumed { "position" } else { "reset" }, follower.position());
    let now = Instant::now();
    let (first, beat_at) = (Some(first), now + BEAT);
    let reader = Reader { app, caller, filter, nouns, follower, first, not_before: now, beat_at };
    let mut response = Body::from_stream(pieces(reader)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// An event without a change.
fn frame(event: &str, id: u64) -> Bytes {
    format!("id: {id}\nevent: {event}\ndata: {{}}\n\n").into()
}

/// The event of a change.
fn event(entry: &Entry) -> Bytes {
    let change = &entry.change;
    let view = ObjectChange {
        kind: format!("{}.{}", change.noun.as_str(), change.verb.as_str()),
        noun: change.noun,
        id: change.id,
        name: change.name.clone(),
        revision: change.revision,
        at: change.at,
    };
    let data = serde_json::to_string(&view).unwrap_or_default();
    format!("id: {}\ndata: {data}\n\n", entry.seq).into()
}

/// A reader of the stream.
struct Reader {
    app: Arc<App>,
    caller: Caller,
    filter: ChangeFilter,
    nouns: BTreeSet<Noun>,
    follower: Follower,
    first: Option<Bytes>,
    not_before: Instant,
    beat_at: Instant,
}

fn pieces(reader: Reader) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(reader, |mut reader| async move { reader.next().await.map(|piece| (Ok(piece), reader)) })
}

impl Reader {
    /// The next piece; `None` when the stream has to end without a word.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let app = Arc::clone(&self.app);
        loop {
            let pace = self.not_before;
            let changed = async {
                tokio::time::sleep_until(pace).await;
                self.follower.changed().await;
            };
            tokio::select! {
                biased;
                () = app.stopping.cancelled() => return None,
                // However much is told, it is looked at in time whether it may be.
                () = tokio::time::sleep_until(self.beat_at) => return self.beat(),
                () = changed => {}
            }
            self.not_before = Instant::now() + PACE;
            let piece = match self.follower.take(MAX_PIECE) {
                Found::Changes(entries) => self.piece(&entries),
                Found::Lost => frame("reset", self.follower.position()),
            };
            if !piece.is_empty() {
                return Some(piece);
            }
        }
    }

    fn piece(&self, entries: &[Arc<Entry>]) -> Bytes {
        let mut piece = Vec::with_capacity(entries.len() * 256);
        for entry in entries.iter().filter(|entry| self.nouns.contains(&entry.change.noun)) {
            piece.extend_from_slice(entry.rendered(event));
        }
        piece.into()
    }

    /// Says that the connection lives and how far it is, unless the key has ended or may read nothing any more.
    fn beat(&mut self) -> Option<Bytes> {
        self.beat_at = Instant::now() + BEAT;
        let may = self.app.db.read(self.caller.account, |reading| change::nouns(reading, &self.caller, &self.filter));
        match may.map(|nouns| self.nouns = nouns) {
            Ok(()) => Some(format!(":\nid: {}\n\n", self.follower.position()).into()),
            Err(Error::Internal(error)) => {
                tracing::warn!(error, "a reader of changes was let go");
                None
            }
            Err(_) => None,
        }
    }
}
