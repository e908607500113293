//! Tasks as a file: all that a filter matches, with their documents, streamed as CSV or NDJSON.
//!
//! Records are read a page at a time and documents a piece at a time, so that memory is bounded whatever they hold.

use std::{collections::VecDeque, sync::Arc};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use drover_protocol::task::{EXPORT_COLUMNS, Task};
use futures::stream;
use serde_json::Value;

use super::with_documents;
use crate::{
    app::App,
    domain,
    error::{Error, Result},
    operations::{
        Caller, key,
        task::{self, Checked},
    },
};

/// A piece of the answer ends when it has so many bytes.
const PIECE_BYTES: usize = 512 * 1024;

pub const CSV: &str = "text/csv";
pub const NDJSON: &str = "application/x-ndjson";

/// An export under way.
struct Export {
    app: Arc<App>,
    caller: Caller,
    wanted: Arc<Checked>,
    is_csv: bool,
    ready: VecDeque<domain::task::Task>,
    cursor: Option<String>,
    /// The last page has been read.
    is_over: bool,
    begun: bool,
}

/// The answer with all tasks that the filter matches, newest first.
pub fn export(app: Arc<App>, caller: Caller, wanted: Checked, media_type: &'static str) -> Response {
    let is_csv = media_type == CSV;
    let export = Export {
        app,
        caller,
        wanted: Arc::new(wanted),
        is_csv,
        ready: VecDeque::new(),
        cursor: None,
        is_over: false,
        begun: false,
    };
    let pieces = stream::try_unfold(export, async |mut export| match export.next().await {
        Ok(piece) => Ok(piece.map(|bytes| (bytes, export))),
        Err(error) => {
            tracing::warn!(%error, "an export of tasks was broken off");
            Err(std::io::Error::other("the export was broken off"))
        }
    });
    let mut response = Body::from_stream(pieces).into_response();
    let (content_type, name) = match is_csv {
        true => ("text/csv; charset=utf-8", "attachment; filename=tasks.csv"),
        false => (NDJSON, "attachment; filename=tasks.ndjson"),
    };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CONTENT_DISPOSITION, HeaderValue::from_static(name));
    response
}

impl Export {
    /// The next piece; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let mut text = Vec::new();
        if self.is_csv && !self.begun {
            write_row(&mut text, EXPORT_COLUMNS.map(str::to_owned))?;
        }
        self.begun = true;
        while text.is_empty() || !self.ready.is_empty() && text.len() < PIECE_BYTES {
            if self.ready.is_empty() {
                if self.is_over {
                    break;
                }
                self.read_page().await?;
                continue;
            }
            let ready = std::mem::take(&mut self.ready);
            let (is_csv, leases, account) = (self.is_csv, self.app.rules.leases, self.caller.account);
            let (ready, more) = self
                .app
                .read_aside(account, move |reading| {
                    let (mut ready, mut text) = (ready, Vec::new());
                    while text.len() < PIECE_BYTES {
                        let Some(record) = ready.pop_front() else { break };
                        let task = with_documents(reading, record, &leases)?;
                        if is_csv { write_row(&mut text, cells(&task))? } else { write_object(&mut text, &task)? }
                    }
                    Ok((ready, text))
                })
                .await?;
            self.ready = ready;
            text.extend_from_slice(&more);
        }
        Ok((!text.is_empty()).then(|| text.into()))
    }

    async fn read_page(&mut self) -> Result<()> {
        let (caller, wanted, cursor) = (self.caller.clone(), Arc::clone(&self.wanted), self.cursor.take());
        let (found, next) = self
            .app
            .read_aside(self.caller.account, move |reading| {
                // The download may take longer than the key or the roles of its user live.
                let wanted = wanted.renewed(reading, &key::renewed(reading, &caller)?)?;
                task::page_of_ids(reading, &wanted, cursor)
            })
            .await?;
        self.ready = found.into();
        self.is_over = next.is_none();
        self.cursor = next;
        Ok(())
    }
}

fn write_object(out: &mut Vec<u8>, task: &Task) -> Result<()> {
    serde_json::to_writer(&mut *out, task)
        .map_err(|error| Error::Internal(format!("a task cannot be written: {error}")))?;
    out.push(b'\n');
    Ok(())
}

fn write_row(out: &mut Vec<u8>, cells: [String; EXPORT_COLUMNS.len()]) -> Result<()> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(&mut *out);
    let written = writer.write_record(cells).map_err(csv::Error::into).and_then(|()| writer.flush());
    written.map_err(|error: std::io::Error| Error::Internal(format!("a row cannot be written: {error}")))
}

fn cells(task: &Task) -> [String; EXPORT_COLUMNS.len()] {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let time = |time: Option<drover_protocol::Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
    let json = |value: &Option<Value>| value.as_ref().map(Value::to_string).unwrap_or_default();
    let kind = task.error.as_ref().and_then(|error| serde_json::to_value(error.kind).ok());
    [
        task.id.to_string(),
        task.queue_id.to_string(),
        text(&task.reference),
        text(&task.name),
        task.state.as_str().to_owned(),
        kind.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned(),
        task.error.as_ref().and_then(|error| error.code.clone()).unwrap_or_default(),
        task.error.as_ref().map(|error| error.message.clone()).unwrap_or_default(),
        task.priority.to_string(),
        time(task.deadline),
        time(task.postponed_until),
        task.tags.join(","),
        text(&task.comment),
        task.attempt.to_string(),
        task.tries.to_string(),
        task.holder.as_ref().and_then(|holder| holder.job_id).map(|id| id.to_string()).unwrap_or_default(),
        task.created_at.to_string(),
        time(task.started_at),
        time(task.finished_at),
        task.origin_task_id.map(|id| id.to_string()).unwrap_or_default(),
        json(&task.payload),
        json(&task.output),
        json(&task.checkpoint),
    ]
}
