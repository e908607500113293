//! `drover logs`: the logs of all jobs at once.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use drover_protocol::{
    JobId, Timestamp,
    log::{FoundLine, WriteLine},
};
use futures::StreamExt;
use serde_json::{Map, Value};

use crate::{
    client::{Call, reason},
    commands::{
        ListArgs,
        job_logs::{LevelArg, coloured},
        list, simple,
    },
    error::{Error, NetworkError},
    event_stream::{Event, EventReader},
    follow::Patience,
    output::{Output, note, size},
    session::Session,
    transfer, values,
};

const NOUN: &str = "logs";

#[derive(Subcommand)]
pub enum LogsCommand {
    /// Find lines, the newest at the end; with --follow: show lines as they are written
    Search {
        #[command(flatten)]
        filter: Filter,
        /// Stay and show lines of all jobs as they are written, until Ctrl-C
        #[arg(long, short, conflicts_with_all = ["limit", "all", "cursor", "from", "to"])]
        follow: bool,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Write all lines that fit to a file, the oldest first
    Export {
        /// Where to write it; appears under its name only when it is whole
        file: PathBuf,
        /// Default: by the ending of the file's name, else text
        #[arg(long, value_enum)]
        format: Option<Format>,
        #[command(flatten)]
        filter: Filter,
    },
    /// Write one line by yourself
    Write {
        message: String,
        #[arg(long, value_enum, default_value = "info")]
        level: LevelArg,
        /// Into the log of this job (default: of no job)
        #[arg(long, value_parser = values::id::<JobId>("job"))]
        job: Option<JobId>,
        /// A field of the line (repeatable); JSON if it is any, else a text
        #[arg(long = "field", value_parser = values::pair, value_name = "NAME=VALUE")]
        fields: Vec<(String, String)>,
    },
    /// Delete old lines of all logs for good
    Delete {
        /// All lines from before this: a time, or a while ago such as 30d
        #[arg(long, value_parser = values::past_moment, value_name = "TIME")]
        before: Timestamp,
    },
}

/// Which lines.
#[derive(Args)]
pub struct Filter {
    /// From this time on: a time, or a while ago such as 2h
    #[arg(long, value_parser = values::past_moment, value_name = "TIME")]
    from: Option<Timestamp>,
    /// Before this time, or this while ago
    #[arg(long, value_parser = values::past_moment, value_name = "TIME")]
    to: Option<Timestamp>,
    /// Only this level and worse
    #[arg(long, value_enum)]
    level: Option<LevelArg>,
    /// Only of this robot
    #[arg(long)]
    robot: Option<String>,
    /// Only of this process
    #[arg(long)]
    process: Option<String>,
    /// Only of this job (id)
    #[arg(long, value_parser = values::id::<JobId>("job"))]
    job: Option<JobId>,
    /// Only lines with this text, whatever the case of letters
    #[arg(long, allow_hyphen_values = true)]
    text: Option<String>,
    /// The text is a regular expression
    #[arg(long, requires = "text")]
    regex: bool,
    /// Only lines with this field (repeatable)
    #[arg(long = "field", value_parser = values::pair, value_name = "NAME=VALUE")]
    fields: Vec<(String, String)>,
}

impl Filter {
    fn on<'a>(&self, call: Call<'a>) -> Call<'a> {
        let call = call
            .query_opt("from", self.from)
            .query_opt("to", self.to)
            .query_opt("level", self.level.map(LevelArg::as_str))
            .query_opt("robot", self.robot.as_ref())
            .query_opt("process", self.process.as_ref())
            .query_opt("job", self.job.as_ref())
            .query_opt("text", self.text.as_ref())
            .query_opt("regex", self.regex.then_some(true));
        self.fields.iter().fold(call, |call, (name, value)| call.query(&format!("field.{name}"), value))
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Format {
    Text,
    Ndjson,
    Csv,
}

impl Format {
    fn media_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain",
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv",
        }
    }

    fn of_file(file: &std::path::Path) -> Self {
        match file.extension().and_then(|ending| ending.to_str()) {
            Some("ndjson" | "jsonl") => Self::Ndjson,
            Some("csv") => Self::Csv,
            _ => Self::Text,
        }
    }
}

pub async fn run(session: &Session, command: LogsCommand) -> Result<(), Error> {
    match command {
        LogsCommand::Search { filter, follow: true, .. } => follow(session, &filter).await,
        LogsCommand::Search { filter, list, .. } => search(session, &filter, &list).await,
        LogsCommand::Export { file, format, filter } => export(session, file, format, &filter).await,
        LogsCommand::Write { message, level, job, fields } => {
            let fields: Map<String, Value> = fields.into_iter().map(|(name, text)| (name, value(text))).collect();
            let fields = (!fields.is_empty()).then_some(fields);
            let line = WriteLine { level: level.level(), message, fields, job };
            let call = session.client.post(&[NOUN])?.json(&line)?;
            simple(&session.out, call, "The line is written.").await
        }
        LogsCommand::Delete { before } => {
            let done = format!("The lines from before {before} are deleted.");
            simple(&session.out, session.client.delete(&[NOUN])?.query("before", before), &done).await
        }
    }
}

fn value(text: String) -> Value {
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

async fn search(session: &Session, filter: &Filter, args: &ListArgs) -> Result<(), Error> {
    let listed = list::<FoundLine, _>(session, args, |session| Ok(filter.on(session.client.get(&[NOUN])?))).await?;
    let Some(mut lines) = listed else { return Ok(()) };
    if lines.is_empty() {
        return session.out.line("No line fits.");
    }
    lines.reverse();
    lines.iter().try_for_each(|line| session.out.styled_line(&shown(&session.out, line)))
}

/// A line for a person, with where it comes from.
fn shown(out: &Output, line: &FoundLine) -> String {
    let mut origin = line.robot_name.as_deref().or(line.by.as_deref()).unwrap_or_default().to_owned();
    if let Some(process) = &line.process_name {
        origin.push(' ');
        origin.push_str(process);
    }
    if let Some(job) = &line.job_id {
        origin.push(' ');
        origin.push_str(&job.to_string());
    }
    coloured(out, (line.time, line.level, &line.message, &line.fields), &origin)
}

async fn export(session: &Session, file: PathBuf, format: Option<Format>, filter: &Filter) -> Result<(), Error> {
    let format = format.unwrap_or_else(|| Format::of_file(&file));
    let call = || Ok(filter.on(session.client.get(&[NOUN])?));
    let downloaded = transfer::download_as("exporting", format.media_type(), call, &file, None).await?;
    let (out, name) = (session.out.about(&file), file.display().to_string());
    if out.is_json() {
        let facts =
            serde_json::json!({ "file": name, "size_bytes": downloaded.size_bytes, "sha256": downloaded.sha256 });
        return out.line(&facts.to_string());
    }
    out.fields(vec![
        ("file", name.into()),
        ("size", format!("{} ({} bytes)", size(downloaded.size_bytes), downloaded.size_bytes).into()),
    ])
}

/// Shows lines as they are written, connecting again as often as needed.
async fn follow(session: &Session, filter: &Filter) -> Result<(), Error> {
    let mut patience = Patience::new("Trying again; no line is missed.");
    let mut last_id: Option<String> = None;
    loop {
        let before = last_id.clone();
        let error = match stream(session, filter, &mut last_id).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        if last_id != before {
            patience.reached();
        }
        patience.wait(error).await?;
    }
}

/// One connection: ends only by an error.
async fn stream(
    session: &Session,
    filter: &Filter,
    last_id: &mut Option<String>,
) -> Result<std::convert::Infallible, Error> {
    let call = filter.on(session.client.get(&[NOUN])?).accept("text/event-stream").last_event_id(last_id.clone());
    let mut pieces = call.open().await?.bytes_stream();
    let mut reader = EventReader::default();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| broken(session, &reason(&error)))?;
        for event in reader.push(&piece).map_err(|_| Error::Answer("an event is too large".to_owned()))? {
            show_event(session, &event)?;
            if event.id.is_some() {
                last_id.clone_from(&event.id);
            }
        }
    }
    Err(broken(session, "the stream ended early"))
}

fn show_event(session: &Session, event: &Event) -> Result<(), Error> {
    match event.name.as_str() {
        "message" if session.out.is_json() => session.out.styled_line(&event.data),
        "message" => {
            let line = crate::decode::decode::<FoundLine>(event.data.as_bytes())?;
            session.out.styled_line(&shown(&session.out, &line))
        }
        "gap" => {
            note("Too much time has passed: some lines are missing here. drover logs search finds them.");
            Ok(())
        }
        _ => Ok(()),
    }
}

pub(super) fn broken(session: &Session, reason: &str) -> Error {
    Error::Network(Box::new(NetworkError {
        server: session.client.root().to_string(),
        reason: reason.to_owned(),
        not_connected: false,
        idempotency_key: None,
        outcome_unknown: false,
    }))
}
