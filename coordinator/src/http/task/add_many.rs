//! Adding many tasks by a stream of lines, with an answer for each as it goes.
//!
//! Lines are gathered into batches, each of which is one transaction; while one is written, the next waits in the
//! connection. So memory is bounded, and a caller that goes away leaves whole batches only.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use drover_protocol::{
    problem::Code,
    task::{BulkError, BulkLine, BulkSum, NewTask},
};
use futures::{future::BoxFuture, stream};
use sha2::{Digest, Sha256};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::check_schema;
use crate::{
    app::App,
    error::{Error, Result as OperationResult},
    http::{
        Fault,
        extract::{Call, MAX_BODY_BYTES, Path, Pieces, parse_json, repeatable, require_media_type},
    },
    json_schema::Side,
    operations::{
        Caller,
        task::{self, BulkEnd},
    },
};

const NDJSON: &str = "application/x-ndjson";
const TYPES: [&str; 3] = [NDJSON, "application/ndjson", "application/jsonl"];
/// Lines of one transaction, and about how many bytes of them.
const MAX_BATCH_LINES: usize = 500;
const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// A batch that is not full waits so long for further lines: a caller that sends line by line has its answers at once.
const GATHERING: Duration = Duration::from_millis(3);

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(add_tasks))
}

/// Add many tasks to a queue
///
/// The body is a stream of lines, each a task as JSON; it may have any length. The answer is a stream of lines, too:
/// while tasks are still being sent, each line is answered by `{line, id}`, by `{line, duplicate_of}` if references are
/// unique and this one is taken, or by `{line, error}`; lines are counted from 1, and blank ones are not answered. A line
/// that is not valid holds up no other. The last line is the sum; an answer without it has broken off.
///
/// Lines are added in batches, each as a whole or not at all. With an `Idempotency-Key` the whole stream can be sent again
/// within 24 hours, for example after the connection broke: lines that were added are answered with the same ids, lines
/// that were not, or not valid and have been mended, are added now. Another line in the place of one that was added is
/// answered with the error `idempotency_key_reused`.
#[utoipa::path(post, path = "/queues/{queue}/tasks/bulk", tag = "Task",
    request_body(content = NewTask, content_type = "application/x-ndjson"),
    params(("queue" = String, Path, description = "Id or name of the queue"), Call),
    responses((status = 200, body = BulkLine, content_type = "application/x-ndjson")))]
async fn add_tasks(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(queue): Path<String>,
    request: Request,
) -> Result<Response, Fault> {
    let (parts, body) = request.into_parts();
    let record = app.db.read(caller.account, |reading| task::queue_to_add_to(reading, &caller, &queue))?;
    require_media_type(&parts.headers, &TYPES)?;
    let call = repeatable(&parts, &[])?;
    let stream = call.map(|call| task::stream_id(&caller, &record, &call.key));
    let is_repetition = match stream {
        Some(stream) => app.db.read(caller.account, |reading| task::is_repetition(reading, stream))?,
        None => false,
    };
    let lines = LineReader::of(body);
    let target = Target { app, caller, queue, name: record.name, schema: record.payload_schema, stream };
    let mut adding = Adding { target, lines, sum: BulkSum::default(), again: 0, noted: false };
    // What hinders the first batch is answered as it is with any other call.
    let first = adding.next().await?;
    let rest = stream::try_unfold((first, Some(adding)), async |(ready, adding)| match (ready, adding) {
        (Some(bytes), adding) => Ok(Some((bytes, (None, adding)))),
        (None, Some(mut adding)) => {
            Ok(adding.next().await.map_err(broken_off)?.map(|bytes| (bytes, (None, Some(adding)))))
        }
        (None, None) => Ok::<_, std::io::Error>(None),
    });
    let mut response = Body::from_stream(rest).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    // Neither this server nor one before it may gather answers before they are sent.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    if is_repetition {
        headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// The answer has begun and can only end in disorder: without the sum, and with a broken connection.
fn broken_off(fault: Fault) -> std::io::Error {
    match fault.internal() {
        Some(internal) => tracing::error!(error = internal, "a bulk addition was broken off"),
        None => tracing::debug!(reason = fault.detail(), "a bulk addition was broken off"),
    }
    std::io::Error::other("the bulk addition was broken off")
}

/// A bulk addition under way.
struct Adding {
    target: Target,
    lines: LineReader,
    sum: BulkSum,
    /// Those of the added ones that had been added before.
    again: u64,
    /// What it came to is in the audit trail.
    noted: bool,
}

impl Drop for Adding {
    /// What a stream has added that breaks off is an act as well.
    fn drop(&mut self) {
        if let (Some(note), Ok(runtime)) = (self.note(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                if let Err(error) = note.await {
                    tracing::error!(%error, "what a bulk addition has added is not in the audit trail");
                }
            });
        }
    }
}

/// Where tasks are added, and by whom.
struct Target {
    app: Arc<App>,
    caller: Caller,
    queue: String,
    /// Of the queue, as it was called when the stream began.
    name: String,
    /// Name of the schema of payloads.
    schema: Option<Uuid>,
    /// Under which name lines are remembered.
    stream: Option<[u8; 32]>,
}

impl Adding {
    /// Adds the next batch; its answers as bytes, after the last one with the sum. `None` when all is told.
    async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        if self.lines.is_over {
            return Ok(None);
        }
        let stopping = self.target.app.stopping.clone();
        let lines = tokio::select! {
            biased;
            () = stopping.cancelled() => return Err(Error::Unavailable("the coordinator is stopping".to_owned()).into()),
            lines = self.lines.batch() => lines?,
        };
        let mut answers = Vec::with_capacity(lines.len() * 64);
        for (number, end, error) in self.target.add(lines).await? {
            let answer = match (end, error) {
                (BulkEnd::Added(id) | BulkEnd::Again(id), _) => {
                    self.sum.added += 1;
                    self.again += u64::from(matches!(end, BulkEnd::Again(_)));
                    BulkLine::Added { line: number, id }
                }
                (BulkEnd::Duplicate(duplicate_of), _) => {
                    self.sum.duplicates += 1;
                    BulkLine::Duplicate { line: number, duplicate_of }
                }
                (BulkEnd::Reused | BulkEnd::NotValid, error) => {
                    self.sum.failed += 1;
                    BulkLine::Failed { line: number, error: error.unwrap_or_else(reused) }
                }
            };
            write_line(&mut answers, &answer)?;
        }
        if self.lines.is_over {
            if let Some(note) = self.note() {
                note.await?;
            }
            write_line(&mut answers, &BulkLine::Sum(self.sum))?;
        }
        Ok(Some(answers.into()))
    }

    /// Notes once what was added, if that is anything.
    fn note(&mut self) -> Option<BoxFuture<'static, OperationResult<()>>> {
        let sum = BulkSum { added: self.sum.added.saturating_sub(self.again), ..self.sum };
        if std::mem::replace(&mut self.noted, true) || sum.added == 0 {
            return None;
        }
        let Target { app, caller, name, .. } = &self.target;
        let (app, caller, name) = (Arc::clone(app), caller.clone(), name.clone());
        Some(Box::pin(async move {
            app.db.write(caller.account, move |tx| task::note_added(tx, &caller, &name, sum)).await
        }))
    }
}

impl Target {
    /// Adds a batch in one transaction.
    async fn add(&self, lines: Vec<(u64, Line)>) -> Result<Vec<(u64, BulkEnd, Option<BulkError>)>, Fault> {
        if lines.is_empty() {
            return Ok(Vec::new());
        }
        let mut batch = Vec::with_capacity(lines.len());
        let mut errors = Vec::with_capacity(lines.len());
        for (number, line) in lines {
            let digest = digest_of(&line);
            let (task, error) = match self.read(&line).await {
                Ok(task) => (Some(task), None),
                Err(fault) => (None, Some(bulk_error(&fault))),
            };
            errors.push((number, error));
            batch.push(task::BulkLine { number, digest, task });
        }
        let (caller, queue, stream) = (self.caller.clone(), self.queue.clone(), self.stream);
        let adding = move |tx: &mut crate::store::Tx| task::add_batch(tx, &caller, &queue, stream, &batch);
        let ends = self.app.db.write(self.caller.account, adding).await?;
        Ok(errors.into_iter().zip(ends).map(|((number, error), end)| (number, end, error)).collect())
    }

    /// Reads and checks a line, all but what needs a transaction.
    async fn read(&self, line: &Line) -> Result<(NewTask, Vec<u8>), Fault> {
        let Line::Whole(text) = line else {
            return Err(Error::TooLarge(format!(
                "the line is over the limit of {MAX_BODY_BYTES} bytes; attach a file to the task instead"
            ))
            .into());
        };
        let new: NewTask = parse_json(text)?;
        task::check_new(&new)?;
        let payload = task::to_json(&new.payload, "payload")?;
        check_schema(&self.app, &self.caller, self.schema, Side::Input, &new.payload, "/payload").await?;
        Ok((new, payload))
    }
}

fn write_line(out: &mut Vec<u8>, line: &BulkLine) -> Result<(), Fault> {
    serde_json::to_writer(&mut *out, line)
        .map_err(|error| Error::Internal(format!("an answer cannot be written: {error}")))?;
    out.push(b'\n');
    Ok(())
}

fn bulk_error(fault: &Fault) -> BulkError {
    let detail = match fault.detail().strip_prefix("The body") {
        Some(rest) => format!("The line{rest}"),
        None => fault.detail().to_owned(),
    };
    BulkError { code: fault.code(), detail, errors: fault.errors().to_vec() }
}

fn reused() -> BulkError {
    BulkError {
        code: Code::IdempotencyKeyReused,
        detail: "Another line was added in this place under this Idempotency-Key; take a new one.".to_owned(),
        errors: Vec::new(),
    }
}

/// One line of a body.
enum Line {
    Whole(Vec<u8>),
    /// It is longer than a line may be; the rest of it was thrown away.
    TooLong,
}

fn digest_of(line: &Line) -> [u8; 8] {
    let text = match line {
        Line::Whole(text) => text.as_slice(),
        Line::TooLong => &[],
    };
    let digest: [u8; 32] = Sha256::digest(text).into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    [a, b, c, d, e, f, g, h]
}

/// The lines of a body, in bounded memory.
struct LineReader {
    pieces: Pieces,
    buffer: Vec<u8>,
    /// So much of the buffer has been taken, and so much holds no end of a line.
    taken: usize,
    looked_at: usize,
    /// The line at hand is too long and is thrown away until its end.
    skipping: bool,
    number: u64,
    /// The body has ended.
    has_ended: bool,
    /// And every line of it was given out.
    is_over: bool,
}

impl LineReader {
    fn of(body: Body) -> Self {
        Self {
            pieces: Pieces::of(body),
            buffer: Vec::new(),
            taken: 0,
            looked_at: 0,
            skipping: false,
            number: 0,
            has_ended: false,
            is_over: false,
        }
    }

    /// The next lines with their numbers: a full batch, or what is there when no more comes soon.
    async fn batch(&mut self) -> Result<Vec<(u64, Line)>, Fault> {
        let mut lines = Vec::new();
        let mut bytes = 0;
        loop {
            while let Some(line) = self.take() {
                if let Line::Whole(text) = &line {
                    bytes += text.len();
                    if text.iter().all(u8::is_ascii_whitespace) {
                        continue;
                    }
                }
                lines.push((self.number, line));
                if lines.len() >= MAX_BATCH_LINES || bytes >= MAX_BATCH_BYTES {
                    return Ok(lines);
                }
            }
            if self.has_ended {
                self.is_over = true;
                return Ok(lines);
            }
            let piece = match lines.is_empty() {
                true => self.pieces.next().await?,
                false => match tokio::time::timeout(GATHERING, self.pieces.next()).await {
                    Ok(piece) => piece?,
                    Err(_) => return Ok(lines),
                },
            };
            match piece {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None => self.has_ended = true,
            }
        }
    }

    /// The next line that is whole.
    fn take(&mut self) -> Option<Line> {
        let rest = &self.buffer[self.looked_at..];
        let end = rest.iter().position(|byte| *byte == b'\n').map(|at| self.looked_at + at);
        let (end, next) = match end {
            Some(end) => (end, end + 1),
            None if self.has_ended && (self.skipping || self.taken < self.buffer.len()) => {
                (self.buffer.len(), self.buffer.len())
            }
            None => {
                self.looked_at = self.buffer.len();
                if self.looked_at - self.taken > MAX_BODY_BYTES {
                    self.skipping = true;
                    self.taken = self.looked_at;
                }
                self.buffer.drain(..self.taken);
                self.looked_at -= self.taken;
                self.taken = 0;
                return None;
            }
        };
        let is_too_long = std::mem::take(&mut self.skipping) || end - self.taken > MAX_BODY_BYTES;
        let text = &self.buffer[self.taken..end];
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let line = if is_too_long { Line::TooLong } else { Line::Whole(text.to_vec()) };
        (self.taken, self.looked_at) = (next, next);
        self.number += 1;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines_of(pieces: Vec<Vec<u8>>) -> Vec<(u64, Option<Vec<u8>>)> {
        let body = Body::from_stream(stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>)));
        let mut reader = LineReader::of(body);
        let mut found = Vec::new();
        while !reader.is_over {
            for (number, line) in reader.batch().await.expect("it is readable") {
                let text = match line {
                    Line::Whole(text) => Some(text),
                    Line::TooLong => None,
                };
                found.push((number, text));
            }
            assert!(reader.buffer.len() <= MAX_BODY_BYTES + 1024, "memory is bounded");
        }
        found
    }

    /// Wherever the body is cut into pieces, the lines are the same.
    #[tokio::test]
    async fn lines_do_not_depend_on_pieces() {
        let text = b"one\r\n\n  \ntwo\nthree".to_vec();
        let expected = [(1, Some(b"one".to_vec())), (4, Some(b"two".to_vec())), (5, Some(b"three".to_vec()))].to_vec();
        for size in 1..=text.len() {
            let pieces = text.chunks(size).map(<[u8]>::to_vec).collect();
            assert_eq!(lines_of(pieces).await, expected, "pieces of {size}");
        }
        assert!(lines_of(Vec::new()).await.is_empty());
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_thrown_away_and_told() {
        let mut pieces = vec![b"1\n".to_vec()];
        pieces.extend((0..5).map(|_| vec![b'x'; MAX_BODY_BYTES / 2]));
        pieces.push(b"x\n3".to_vec());
        let found = lines_of(pieces).await;
        assert_eq!(found, [(1, Some(b"1".to_vec())), (2, None), (3, Some(b"3".to_vec()))]);
    }

    /// Whatever was thrown away of the last line when the body ends.
    #[tokio::test]
    async fn a_last_line_that_is_too_long_is_told() {
        for beyond in [1, 2, MAX_BODY_BYTES] {
            let pieces = vec![b"1\n".to_vec(), vec![b'x'; MAX_BODY_BYTES + beyond]];
            assert_eq!(lines_of(pieces).await, [(1, Some(b"1".to_vec())), (2, None)], "{beyond} bytes too long");
        }
    }

    #[tokio::test]
    async fn batches_are_bounded_by_lines_and_bytes() {
        let many = "1\n".repeat(MAX_BATCH_LINES * 2 + 1);
        let mut reader = LineReader::of(Body::from(many));
        let mut sizes = Vec::new();
        while !reader.is_over {
            sizes.push(reader.batch().await.expect("it is readable").len());
        }
        assert_eq!(sizes, [MAX_BATCH_LINES, MAX_BATCH_LINES, 1]);
        let large = format!("{}\n", "x".repeat(MAX_BATCH_BYTES / 2)).repeat(5);
        let mut reader = LineReader::of(Body::from(large));
        assert_eq!(reader.batch().await.expect("it is readable").len(), 2);
    }
}
