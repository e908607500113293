//! Logs of all jobs at once: searching, exporting and following them, writing one line, deleting old ones.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{FromRequestParts, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use drover_protocol::{
    log::{DeleteLogs, Direction, FoundLine, FoundLines, LogSearch, WriteLine},
    page::PageQuery,
};
use futures::{Stream, stream};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    extract::{Accept, Call, Posted, Query, parse_query, url_pairs},
    once::{self, Answer},
};
use crate::{
    app::App,
    error::{Error, Result as OperationResult},
    log_deletion,
    log_search::{self, Filter, Found, Lines, Position, Room, Tail, TailEvent, Window},
    operations::{Caller, key, list, log, log_search::require_reach, log_search::whose},
    store::{Topic, Watch},
};

/// What one page may hold, in bytes: whatever comes first, this or the limit.
const PAGE_BYTES: usize = 8 * 1024 * 1024;
/// The same for each piece of an export, in lines.
const PIECE_LINES: usize = 50_000;
/// An export that is under way waits so long for its next turn when too many search at once.
const TURN: Duration = Duration::from_secs(1);
/// A key that expires wakes nobody: so often it is looked at while nothing happens.
const KEY_LOOK: Duration = Duration::from_secs(10);

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(search_logs, write_log_line, delete_logs))
}

/// The query string: a page, filters, and fields.
struct Asked {
    page: PageQuery,
    search: LogSearch,
    fields: Vec<(String, String)>,
}

impl FromRequestParts<Arc<App>> for Asked {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Fault> {
        let text = parts.uri.query().unwrap_or_default();
        let (mut page, mut search, mut fields) = (Vec::new(), Vec::new(), Vec::new());
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let Some((name, value)) = url_pairs(pair).next() else { continue };
            match (name.strip_prefix("field."), name.as_ref()) {
                (Some(field), _) => fields.push((field.to_owned(), value.into_owned())),
                (None, "limit" | "cursor" | "count") => page.push(pair),
                (None, _) => search.push(pair),
            }
        }
        Ok(Self { page: parse_query(&page.join("&"))?, search: parse_query(&search.join("&"))?, fields })
    }
}

/// Lines of all logs
///
/// As JSON page by page, the newest lines first. `field.<name>=<value>`, which may be repeated, compares a field of the
/// line: a text as it is, anything else as JSON; dots in the name lead into objects. All filters hold together.
///
/// With `Accept: application/x-ndjson`, `text/csv` or `text/plain` everything that fits is sent as a file, the oldest line
/// first, or as many as `limit` says; with `Accept: text/event-stream` lines come as they arrive: each event has the line
/// as `data` and an `id` with which `Last-Event-ID` goes on without a gap, the event `position`, which comes first, has an
/// `id` alone, and the event `gap` says that too much time has passed and lines before `until` have to be searched for
/// instead. A stream takes no `limit`, `cursor` or `direction`.
///
/// The key of a job sees the lines of that job. At most a few searches run at once; further ones get 429 after a moment.
#[utoipa::path(get, path = "/logs", tag = "Log",
    params(PageQuery, LogSearch,
        ("Last-Event-ID" = Option<String>, Header, description = "Id of the last event seen, for streams")),
    responses((status = 200, content((FoundLines = "application/json"), (FoundLine = "application/x-ndjson"),
        (String = "text/csv"), (String = "text/plain"), (String = "text/event-stream")))))]
async fn search_logs(
    State(app): State<Arc<App>>,
    caller: Caller,
    asked: Asked,
    accept: Accept,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let whose = app.db.read(caller.account, |reading| whose(reading, &caller, &asked.search))?;
    let filter = Arc::new(Filter::new(&asked.search, asked.fields, whose)?).seen_by(&caller);
    let lines = list::limit(asked.page.limit, list::DEFAULT_LIMIT)?;
    let cursor = asked.page.cursor.as_deref().map(Position::of_cursor).transpose()?;
    let types = ["application/json", "application/x-ndjson", "text/plain", "text/csv", "text/event-stream"];
    let format = match accept.choose(&types)? {
        "application/json" => None,
        "text/event-stream" => {
            refuse_pages(&asked.page, &asked.search)?;
            return follow(app, caller, filter, &headers);
        }
        "application/x-ndjson" => Some(Format::NdJson),
        "text/csv" => Some(Format::Csv),
        _ => Some(Format::Text),
    };
    let by_default = if format.is_some() { Direction::Forward } else { Direction::Backward };
    let newest_first = asked.search.direction.unwrap_or(by_default) == Direction::Backward;
    let window = Window {
        from: asked.search.from.map_or(Position::MIN, Position::at),
        below: asked.search.to.map_or(Position::MAX, Position::at),
        newest_first,
    };
    let window = cursor.map_or(window, |cursor| window.resume(cursor));
    match format {
        None => {
            let room = Room { lines, bytes: PAGE_BYTES };
            let found = log_search::page(&app, caller.account, filter, window, room).await?;
            Ok(Json(page_view(found)).into_response())
        }
        Some(format) => {
            let left = if asked.page.limit.is_some() { lines } else { usize::MAX };
            Export { app, caller, filter, format, left }.send(window).await
        }
    }
}

/// A stream has lines as they come: what is of pages would do nothing there.
fn refuse_pages(page: &PageQuery, search: &LogSearch) -> OperationResult<()> {
    let of_pages =
        [("limit", page.limit.is_some()), ("cursor", page.cursor.is_some()), ("direction", search.direction.is_some())];
    match of_pages.into_iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(Error::invalid(name, "a stream has lines as they come; leave it out")),
        None => Ok(()),
    }
}

/// The filter for what the caller may read by now: roles may change while a stream goes on. Refuses who may read nothing of
/// it any more.
fn renewed(app: &App, caller: &Caller, filter: &Arc<Filter>) -> OperationResult<Arc<Filter>> {
    app.db.read(caller.account, |reading| {
        let caller = key::renewed(reading, caller)?;
        require_reach(reading, &caller, &filter.whose)?;
        Ok(filter.seen_by(&caller))
    })
}

fn page_view(found: Found) -> FoundLines {
    let start = found.rest.map(|rest| rest.start());
    FoundLines {
        items: found.items,
        next_cursor: start.map(|start| start.cursor()),
        searched_to: start.map(|start| start.time),
        searched_lines: found.searched_lines,
    }
}

#[derive(Clone, Copy, Debug)]
enum Format {
    NdJson,
    Csv,
    Text,
}

impl Format {
    const fn media_type(self) -> &'static str {
        match self {
            Self::NdJson => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Text => "text/plain; charset=utf-8",
        }
    }

    const fn beginning(self) -> &'static str {
        match self {
            Self::Csv => "time,level,robot,process,job_id,attempt,seq,message,fields\r\n",
            Self::NdJson | Self::Text => "",
        }
    }

    fn write(self, line: &FoundLine, text: &mut String) {
        use std::fmt::Write;
        let fields = || match line.fields.is_empty() {
            true => String::new(),
            false => serde_json::Value::Object(line.fields.clone()).to_string(),
        };
        let robot = || line.robot_name.as_deref().or(line.by.as_deref()).unwrap_or_default();
        let process = line.process_name.as_deref().unwrap_or_default();
        let job = || line.job_id.map(|id| id.to_string()).unwrap_or_default();
        match self {
            Self::NdJson => {
                text.push_str(&serde_json::to_string(line).unwrap_or_default());
                text.push('\n');
            }
            Self::Csv => {
                let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
                let cells = [
                    line.time.to_string(),
                    line.level.as_str().to_owned(),
                    robot().to_owned(),
                    process.to_owned(),
                    job(),
                    number(line.attempt.map(u64::from)),
                    number(line.seq),
                    line.message.clone(),
                    fields(),
                ];
                let cells: Vec<String> = cells.into_iter().map(csv_cell).collect();
                text.push_str(&cells.join(","));
                text.push_str("\r\n");
            }
            Self::Text => {
                let _ = write!(text, "{} {:8} {}", line.time, line.level.as_str(), robot());
                if !process.is_empty() {
                    let _ = write!(text, " {process} {}", job());
                }
                let _ = write!(text, ": {}", line.message);
                if !line.fields.is_empty() {
                    let _ = write!(text, " {}", fields());
                }
                text.push('\n');
            }
        }
    }
}

/// As RFC 4180 has it.
fn csv_cell(text: String) -> String {
    if text.contains([',', '"', '\r', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

/// Lines on their way into a file.
struct Export {
    app: Arc<App>,
    caller: Caller,
    filter: Arc<Filter>,
    format: Format,
    /// Lines that may still come.
    left: usize,
}

impl Export {
    async fn send(mut self, window: Window) -> Result<Response, Fault> {
        let format = self.format;
        // The first piece comes before the status: what is wrong can still be said.
        let (first, rest) = self.piece(window).await?;
        let first = format!("{}{first}", format.beginning());
        let begun = stream::once(async move { Ok::<_, Error>(first) });
        let further = stream::try_unfold((self, rest), |(mut export, rest)| async move {
            let Some(window) = rest else { return Ok::<_, Error>(None) };
            let (text, rest) = loop {
                match export.piece(window).await {
                    Err(Error::TooMany { .. }) => tokio::time::sleep(TURN).await,
                    other => break other?,
                }
            };
            Ok(Some((text, (export, rest))))
        });
        let mut response = Body::from_stream(futures::StreamExt::chain(begun, further)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
        Ok(response)
    }

    /// The next lines, and where to search on. None may have been found although there are more: a search looks at a
    /// bounded number of lines at once.
    async fn piece(&mut self, window: Window) -> OperationResult<(String, Option<Window>)> {
        if self.app.stopping.is_cancelled() {
            return Err(Error::Unavailable("the coordinator is stopping".to_owned()));
        }
        self.filter = renewed(&self.app, &self.caller, &self.filter)?;
        let (filter, room) = (Arc::clone(&self.filter), Room { lines: self.left.min(PIECE_LINES), bytes: PAGE_BYTES });
        let found = log_search::page(&self.app, self.caller.account, filter, window, room).await?;
        let format = self.format;
        self.left -= found.items.len();
        let rest = found.rest.filter(|_| self.left > 0);
        let text = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            found.items.iter().for_each(|line| format.write(line, &mut text));
            text
        });
        let text = text.await.map_err(|error| Error::Internal(format!("lines were not written: {error}")))?;
        Ok((text, rest))
    }
}

/// A reader that follows all logs.
struct Follower {
    app: Arc<App>,
    caller: Caller,
    filter: Arc<Filter>,
    tail: Tail,
    watch: Watch,
    ready: VecDeque<Event>,
}

fn follow(app: Arc<App>, caller: Caller, filter: Arc<Filter>, headers: &HeaderMap) -> Result<Response, Fault> {
    let last = headers.get("last-event-id").map(|value| value.to_str().unwrap_or_default().to_owned());
    // Armed before it is looked where the end is.
    let watch = app.db.watch(&[Topic::Logs(caller.account), Topic::Key(caller.key_id)]);
    let lines = Lines { db: Arc::clone(&app.db), blobs: Arc::clone(&app.blobs), account: caller.account };
    let tail = Tail::open(lines, Arc::clone(&filter), last.as_deref())?;
    // Said before anything comes: whoever loses the connection now goes on from here.
    let ready = VecDeque::from([event(TailEvent::Position { id: tail.position() })]);
    let follower = Follower { app, caller, filter, tail, watch, ready };
    Ok(Sse::new(events(follower)).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response())
}

fn events(follower: Follower) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(follower, |mut follower| async move {
        loop {
            if let Some(event) = follower.ready.pop_front() {
                return Some((Ok(event), follower));
            }
            if !follower.read_on().await {
                return None;
            }
        }
    })
}

impl Follower {
    /// Gets the next events ready, waiting for them if need be; `false` when the stream has to end without a word.
    async fn read_on(&mut self) -> bool {
        let Ok(filter) = renewed(&self.app, &self.caller, &self.filter) else { return false };
        self.filter = Arc::clone(&filter);
        self.tail.refine(filter);
        match self.tail.read().await {
            Ok(events) => self.ready.extend(events.into_iter().map(event)),
            Err(error) => {
                tracing::debug!(%error, "a follower of logs was let go");
                return false;
            }
        }
        if !self.ready.is_empty() {
            return true;
        }
        tokio::select! {
            biased;
            () = self.app.stopping.cancelled() => return false,
            () = self.watch.woken() => {}
            () = tokio::time::sleep(KEY_LOOK) => {}
        }
        true
    }
}

fn event(event: TailEvent) -> Event {
    let (event, data) = match event {
        TailEvent::Line { id, line } => (Event::default().id(id), serde_json::to_value(line).unwrap_or_default()),
        TailEvent::Position { id } => (Event::default().id(id).event("position"), serde_json::json!({})),
        TailEvent::Gap { until } => (Event::default().event("gap"), serde_json::json!({ "until": until })),
    };
    event.json_data(data).unwrap_or_default()
}

/// Write one line
///
/// Into the log of a job, or, without one, by itself. The key of a job writes into its own log; a robot into those of the
/// jobs that it has. What anybody but the job writes into its log has the field `written_by`. The time is that of the
/// coordinator.
#[utoipa::path(post, path = "/logs", tag = "Log", request_body = WriteLine, params(Call),
    responses((status = 201, body = FoundLine)))]
async fn write_log_line(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Posted<WriteLine>,
) -> Result<Response, Fault> {
    let written = log::written(&caller, &request.body, app.db.now())?;
    let job = request.body.job;
    once::write(&app, caller, request.call, move |tx, caller| {
        let line = log_search::view(log::write(tx, caller, job, &written)?);
        let path = match (line.job_id, line.attempt, line.seq) {
            (Some(job), Some(attempt), Some(seq)) => {
                format!("/jobs/{job}/logs?attempt={attempt}&from_seq={seq}&limit=1")
            }
            _ => format!("/logs?from={}", line.time),
        };
        Ok(Answer::created(line, path))
    })
    .await
}

/// Delete old lines
///
/// All lines with a time before `before` go, those of running jobs too, as far as they had come. In the logs of jobs one line
/// says how many are gone and who deleted them.
#[utoipa::path(delete, path = "/logs", tag = "Log", params(DeleteLogs), responses((status = 204)))]
async fn delete_logs(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(asked): Query<DeleteLogs>,
) -> Result<StatusCode, Fault> {
    log_deletion::delete_older(&app, &caller, asked.before).await?;
    Ok(StatusCode::NO_CONTENT)
}
