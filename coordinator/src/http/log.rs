//! Logs of jobs: as pages, as text, and live.

use std::{collections::VecDeque, convert::Infallible, fmt::Write as _, sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use drover_protocol::{
    JobId,
    log::{LogLine, LogPage, LogQuery, LogSearch},
};
use futures::{Stream, stream};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    extract::{Accept, Path, Query, id},
};
use crate::{
    app::App,
    domain::job::Job,
    error::{Error, Result as OperationResult},
    log_reader::{LogReader, Wanted},
    log_search::{Filter, Lines},
    operations::{Caller, key, list, log, log_search::Whose},
    store::{Topic, Watch},
};

const DEFAULT_LIMIT: u32 = 200;
const STREAM_PAGE: usize = 1_000;
/// A key that expires wakes nobody: so often it is looked at while nothing happens.
const KEY_LOOK: Duration = Duration::from_secs(10);

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(read_log))
}

/// The log of a job's attempt
///
/// As JSON page by page; with `Accept: text/plain` as text, whole unless `limit` is given; with
/// `Accept: text/event-stream` live: each event has the line's number as `id` and the line as `data`, `Last-Event-ID`
/// resumes, and the event `end` closes the stream when the attempt has ended. Line numbers start at 1 per attempt; a
/// stream or page is of one attempt.
#[utoipa::path(get, path = "/jobs/{job}/logs", tag = "Log", operation_id = "read_job_log",
    params(("job" = String, Path, description = "Id of the job"), LogQuery,
        ("Last-Event-ID" = Option<String>, Header, description = "Number of the last line seen, for streams")),
    responses((status = 200, content((LogPage = "application/json"), (String = "text/plain"),
        (String = "text/event-stream")))))]
async fn read_log(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    Query(query): Query<LogQuery>,
    accept: Accept,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let id: JobId = id(&text, "job")?;
    let job = app.db.read(caller.account, |reading| log::readable(reading, &caller, id))?;
    // Before its first attempt a job has the empty log of the attempt to come.
    let newest = job.attempt.max(1);
    let attempt = query.attempt.unwrap_or(newest);
    if !(1..=newest).contains(&attempt) {
        return Err(Error::NotFound("attempt").into());
    }
    let lines = Lines { db: Arc::clone(&app.db), blobs: Arc::clone(&app.blobs), account: caller.account };
    let reader = LogReader { lines, job: id, attempt, cap_bytes: app.rules.limits.job_log_bytes };
    let wanted = wanted(&query)?;
    match accept.choose(&["application/json", "text/plain", "text/event-stream"])? {
        "text/event-stream" => Ok(live(LongReader { app, caller, reader }, resumed(wanted, &headers)?)),
        "text/plain" => {
            let left = if query.limit.is_some() { wanted.limit } else { usize::MAX };
            Ok(as_text(Text { reader: LongReader { app, caller, reader }, wanted, left }))
        }
        _ => Ok(Json(reader.page(&wanted).await?).into_response()),
    }
}

fn wanted(query: &LogQuery) -> Result<Wanted, Error> {
    let search = LogSearch { level: query.level, text: query.text.clone(), ..LogSearch::default() };
    Ok(Wanted {
        from_seq: query.from_seq,
        limit: list::limit(query.limit, DEFAULT_LIMIT)?,
        filter: Filter::new(&search, Vec::new(), Whose::default())?,
        direction: query.direction.unwrap_or_default(),
    })
}

fn resumed(wanted: Wanted, headers: &HeaderMap) -> Result<Wanted, Fault> {
    let Some(value) = headers.get("last-event-id") else { return Ok(wanted) };
    let seen: Option<u64> = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    match seen {
        Some(seen) => Ok(Wanted { from_seq: Some(seen.saturating_add(1)), ..wanted }),
        None => Err(Fault::bad_request("Last-Event-ID must be the number of a line.")),
    }
}

/// One line as people read it.
fn as_line(line: &LogLine) -> String {
    let mut text = format!("{} {:8} {}", line.line.time, line.line.level.as_str(), line.line.message);
    if !line.line.fields.is_empty() {
        let _ = write!(text, " {}", serde_json::Value::Object(line.line.fields.clone()));
    }
    text.push('\n');
    text
}

/// A log that is read for longer than a caller is known to have the right to it.
struct LongReader {
    app: Arc<App>,
    caller: Caller,
    reader: LogReader,
}

impl LongReader {
    /// A page, and the job as it was before; refuses who may not read it any more.
    async fn page(&self, wanted: &Wanted) -> OperationResult<(Job, LogPage)> {
        let job = self.app.db.read(self.caller.account, |reading| {
            log::readable(reading, &key::renewed(reading, &self.caller)?, self.reader.job)
        })?;
        Ok((job, self.reader.page(wanted).await?))
    }
}

/// A log on its way into a text.
struct Text {
    reader: LongReader,
    wanted: Wanted,
    /// Lines that may still come.
    left: usize,
}

impl Text {
    /// The next piece, and what is still to come.
    async fn piece(mut self) -> OperationResult<(String, Option<Self>)> {
        self.wanted.limit = self.left.min(STREAM_PAGE);
        let (_, page) = self.reader.page(&self.wanted).await?;
        let text = page.items.iter().map(as_line).collect();
        self.left -= page.items.len();
        let moved = Some(page.next_seq) != self.wanted.from_seq && page.next_seq > 0;
        self.wanted.from_seq = Some(page.next_seq);
        // A page without a line is not the end: its filter may match further on.
        let more = self.left > 0 && moved && !page.complete;
        Ok((text, more.then_some(self)))
    }
}

fn as_text(text: Text) -> Response {
    let pages = stream::try_unfold(Some(text), |rest| async move {
        let Some(text) = rest else { return Ok::<_, Error>(None) };
        text.piece().await.map(Some)
    });
    let mut response = Body::from_stream(pages).into_response();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// A reader that follows the end of the log.
struct Tail {
    long: LongReader,
    wanted: Wanted,
    watch: Watch,
    ready: VecDeque<Event>,
    ended: bool,
}

fn live(long: LongReader, wanted: Wanted) -> Response {
    let job = long.reader.job;
    let watch = long.app.db.watch(&[Topic::JobLog(job), Topic::Job(job), Topic::Key(long.caller.key_id)]);
    let wanted = Wanted { limit: STREAM_PAGE, direction: Default::default(), ..wanted };
    let tail = Tail { long, wanted, watch, ready: VecDeque::new(), ended: false };
    Sse::new(events(tail)).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response()
}

fn events(tail: Tail) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(tail, |mut tail| async move {
        loop {
            if let Some(event) = tail.ready.pop_front() {
                return Some((Ok(event), tail));
            }
            if tail.ended || !tail.read_on().await {
                return None;
            }
        }
    })
}

impl Tail {
    /// Gets the next events ready, waiting for them if need be; `false` when the stream has to end without a word:
    /// the coordinator stops, the job was deleted, or the reader's key or right has ended. The reader then connects again
    /// and sees.
    async fn read_on(&mut self) -> bool {
        let (job, page) = match self.long.page(&self.wanted).await {
            Ok(read) => read,
            Err(error) => {
                tracing::debug!(%error, "a live log has ended early");
                return false;
            }
        };
        let moved = self.wanted.from_seq != Some(page.next_seq);
        self.wanted.from_seq = Some(page.next_seq);
        self.ready.extend(page.items.iter().map(line_event));
        // The attempt may be over although its log was never ended.
        let is_over = job.attempt > page.attempt || job.is_finished();
        if page.complete || (!moved && is_over) {
            self.ready.push_back(end_event(&page));
            self.ended = true;
            return true;
        }
        if !moved {
            tokio::select! {
                biased;
                () = self.long.app.stopping.cancelled() => return false,
                () = self.watch.woken() => {}
                () = tokio::time::sleep(KEY_LOOK) => {}
            }
        }
        true
    }
}

fn line_event(line: &LogLine) -> Event {
    Event::default().id(line.seq.to_string()).json_data(line).unwrap_or_default()
}

fn end_event(page: &LogPage) -> Event {
    let data = serde_json::json!({ "attempt": page.attempt, "next_seq": page.next_seq });
    Event::default().event("end").json_data(data).unwrap_or_default()
}
