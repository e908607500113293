//! Sends the lines of one attempt: numbered, in order, each accepted once, for as long as it takes.

use std::time::Duration;

use drover_protocol::{
    agent::LogChunk,
    job::Progress,
    log::{Level, NewLogLine},
    problem::{Code, Problem},
};
use tokio::sync::watch;

use crate::{
    attempt::AttemptId,
    coordinator::{CallError, Coordinator},
    output::Record,
    runner::{LineSource, newest_progress},
    transport::Transport,
};

/// Below the coordinator's limits with a wide margin: escaping may make lines longer than they were read.
const MAX_LINES: usize = 10_000;
const MAX_BYTES: usize = 384 * 1024;
/// Lines are gathered this long before they are sent.
const GATHER: Duration = Duration::from_millis(100);

/// How sending came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Every line is acknowledged.
    All,
    /// The coordinator does not take lines of this attempt any more.
    Refused,
}

/// Sends until `closed` is true and every line is acknowledged. `progress` is told what the lines carry.
pub async fn send_lines<T: Transport, L: LineSource>(
    coordinator: &Coordinator<T>,
    id: AttemptId,
    mut lines: L,
    mut closed: watch::Receiver<bool>,
    mut progress: impl FnMut(Progress),
) -> Sent {
    let mut next_seq = 1;
    loop {
        // Looked at before reading: what was written before the close is then surely read.
        let last = *closed.borrow_and_update();
        let records = match lines.read(next_seq, MAX_LINES, MAX_BYTES).await {
            Ok(records) => records,
            Err(error) => {
                tracing::error!(attempt = %id, %error, "the log of the job cannot be read; it is tried again");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        if records.is_empty() {
            if last {
                return Sent::All;
            }
            tokio::select! {
                biased;
                () = lines.changed() => {}
                _ = closed.changed() => {}
            }
            continue;
        }
        if let Some(newest) = newest_progress(&records) {
            progress(newest);
        }
        match send_chunk(coordinator, id, next_seq, records).await {
            Ok(seq) => next_seq = seq,
            Err(Gone) => return Sent::Refused,
        }
        if let Err(error) = lines.acknowledge(next_seq) {
            tracing::warn!(attempt = %id, %error, "acknowledged log lines cannot be removed from the spool");
        }
        if !last {
            tokio::time::sleep(GATHER).await;
        }
    }
}

struct Gone;

/// Sends lines from `first_seq` on until the coordinator has taken (some of) them; returns the number it expects next.
async fn send_chunk<T: Transport>(
    coordinator: &Coordinator<T>,
    id: AttemptId,
    first_seq: u64,
    records: Vec<Record>,
) -> Result<u64, Gone> {
    let lines = records.into_iter().map(|record| record.line).collect();
    let mut chunk = LogChunk { attempt: id.attempt, first_seq, lines };
    let mut replaced = false;
    loop {
        let answer = coordinator.until_answered("log lines", async || coordinator.logs(id, &chunk).await).await;
        match answer {
            // Whatever it says, it is where to go on: behind, when it knew the lines; before, when it has lost some.
            Ok(accepted) => {
                if accepted.next_seq <= first_seq {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                return Ok(accepted.next_seq.max(1));
            }
            Err(error) if error.is_stale() => return Err(Gone),
            Err(CallError::Refused { problem }) => match (problem.code, problem.next_seq) {
                (Code::LogGap, Some(seq)) if seq != first_seq => return Ok(seq.max(1)),
                (Code::WrongState, _) => return Err(Gone),
                // Not even a line of ours is taken: the job must come to its end without its log.
                _ if std::mem::replace(&mut replaced, chunk.lines.len() == 1) && chunk.lines.len() == 1 => {
                    return Err(Gone);
                }
                _ => shrink(&mut chunk, &problem),
            },
            // `until_answered` does not return these.
            Err(CallError::Unreachable { .. } | CallError::Unread { .. } | CallError::Unauthenticated(_)) => {}
        }
    }
}

/// A chunk that is refused for its content is halved until the one line is found; that line is replaced by one that says so,
/// because its number must not stay empty and the job must come to its end.
fn shrink(chunk: &mut LogChunk, problem: &Problem) {
    tracing::warn!(lines = chunk.lines.len(), detail = problem.detail, "a chunk of log lines was refused");
    if chunk.lines.len() > 1 {
        chunk.lines.truncate(chunk.lines.len() / 2);
    } else if let Some(line) = chunk.lines.first_mut() {
        let message =
            format!("the coordinator refused this line: {}", problem.detail.chars().take(500).collect::<String>());
        *line = NewLogLine { time: line.time, level: Level::Warning, message, fields: serde_json::Map::new() };
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, io, rc::Rc};

    use bytes::Bytes;
    use drover_protocol::Timestamp;
    use futures::{StreamExt, stream};
    use serde_json::json;

    use super::*;
    use crate::transport::{Body, Request, Response, TransportError};

    /// Takes lines, but cannot read a chunk with a certain one in it.
    #[derive(Clone, Default)]
    struct CannotRead {
        lines: Rc<RefCell<Vec<String>>>,
    }

    impl Transport for CannotRead {
        async fn call(&self, request: Request) -> Result<Response, TransportError> {
            let Body::Bytes(body) = request.body else { panic!("no chunk") };
            let body = match request.headers.contains_key("content-encoding") {
                true => zstd::decode_all(body.as_ref()).expect("zstd"),
                false => body.to_vec(),
            };
            let chunk: LogChunk = serde_json::from_slice(&body).expect("a chunk");
            let mut lines = self.lines.borrow_mut();
            assert_eq!(chunk.first_seq, lines.len() as u64 + 1, "no line is missing");
            let (status, answer) = if chunk.lines.iter().any(|line| line.message == "line 13") {
                (400, json!({"type": "bad_request", "title": "", "status": 400, "detail": "odd", "request_id": ""}))
            } else {
                lines.extend(chunk.lines.into_iter().map(|line| line.message));
                (200, json!({"next_seq": lines.len() + 1}))
            };
            let body = stream::iter([Ok(Bytes::from(answer.to_string()))]).boxed_local();
            let status = http::StatusCode::from_u16(status).expect("a status");
            Ok(Response { status, headers: http::HeaderMap::new(), body })
        }
    }

    struct Given(Vec<Record>);

    impl LineSource for Given {
        async fn read(&mut self, from_seq: u64, max_lines: usize, _: usize) -> io::Result<Vec<Record>> {
            let from = usize::try_from(from_seq).expect("small") - 1;
            Ok(self.0.iter().skip(from).take(max_lines).cloned().collect())
        }

        async fn changed(&mut self) {
            std::future::pending().await
        }

        fn acknowledge(&mut self, _: u64) -> io::Result<()> {
            Ok(())
        }
    }

    /// A line that the coordinator never can read is found and replaced; all others arrive, and sending comes to its end.
    #[tokio::test(start_paused = true)]
    async fn a_line_that_is_never_read_is_replaced() {
        let transport = CannotRead::default();
        let coordinator = Coordinator::new(transport.clone(), Some("key"), 1);
        let id = "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f-1".parse().expect("an id");
        let line = |n: u64| Record::new(Timestamp::EPOCH, Level::Info, format!("line {n}"));
        let (_open, closed) = watch::channel(true);
        let sent = send_lines(&coordinator, id, Given((1..=40).map(line).collect()), closed, |_| {}).await;
        assert_eq!(sent, Sent::All);
        let lines = transport.lines.borrow();
        assert_eq!(lines.len(), 40);
        for (n, text) in (1..).zip(lines.iter()) {
            let replaced = n == 13 && text.contains("refused this line: odd");
            assert!(replaced || *text == line(n).line.message, "{n}: {text}");
        }
    }
}
