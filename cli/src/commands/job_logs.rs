//! `drover job logs`: the log of a job, whole or as it is written.

use clap::{Args, ValueEnum};
use drover_protocol::{
    Timestamp,
    job::Job,
    log::{LogLine, LogPage},
    process::Level,
};
use serde_json::{Map, Value};

use crate::{
    commands::job::NOUN,
    error::Error,
    follow::{self, Follower, Sink},
    output::{Output, Tone, paint, printable, time_of_day},
    session::Session,
};

/// The most that the API gives at once.
const MAX_LINES: u32 = 1000;

#[derive(Args)]
pub struct LogsArgs {
    /// Id of the job
    job: String,
    /// Stay and show lines as they are written, until the job ends; the exit code is its outcome
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    filter: LogFilter,
    /// Which attempt (default: the newest; with --follow: all from the newest on)
    #[arg(long, conflicts_with = "follow")]
    attempt: Option<u32>,
    /// Begin with the line of this number
    #[arg(long, conflicts_with = "follow")]
    from_seq: Option<u64>,
    /// At most so many lines (default: all)
    #[arg(long, conflicts_with = "follow", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
}

/// Which lines are shown.
#[derive(Args, Clone, Default)]
pub struct LogFilter {
    /// Only this level and worse
    #[arg(long, value_enum)]
    pub level: Option<LevelArg>,
    /// Only lines with this text
    #[arg(long, allow_hyphen_values = true)]
    pub text: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum LevelArg {
    Trace,
    Debug,
    Info,
    Warning,
    Error,
    Critical,
}

impl LevelArg {
    pub fn level(self) -> Level {
        match self {
            Self::Trace => Level::Trace,
            Self::Debug => Level::Debug,
            Self::Info => Level::Info,
            Self::Warning => Level::Warning,
            Self::Error => Level::Error,
            Self::Critical => Level::Critical,
        }
    }

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        self.level().as_str()
    }
}

pub async fn logs(session: &Session, args: LogsArgs) -> Result<u8, Error> {
    if !args.follow {
        return whole(session, &args).await.map(|()| 0);
    }
    let sink = if session.out.is_json() { Sink::Json } else { Sink::StandardOutput };
    let answer = Follower::new(session, &args.job, sink).filter(args.filter).run_to_end().await?;
    Ok(follow::exit_code(&answer.decode::<Job>()?))
}

/// Shows what there is now, page by page. With `--json` each page is printed as it came, on a line of its own.
async fn whole(session: &Session, args: &LogsArgs) -> Result<(), Error> {
    let mut from_seq = args.from_seq;
    let mut attempt = args.attempt;
    let mut left = args.limit.unwrap_or(u32::MAX);
    let mut shown = 0;
    loop {
        let call = session
            .client
            .get(&[NOUN, &args.job, "logs"])?
            .query("limit", left.min(MAX_LINES))
            .query_opt("from_seq", from_seq)
            .query_opt("attempt", attempt)
            .query_opt("level", args.filter.level.map(LevelArg::as_str))
            .query_opt("text", args.filter.text.as_ref());
        let answer = call.send().await?;
        let page: LogPage = answer.decode()?;
        // A job that still writes has no end: its last page is the one that brings nothing more.
        let moved = from_seq.is_none_or(|from_seq| page.next_seq > from_seq) && page.next_seq > 1;
        let worth = shown == 0 || !page.items.is_empty();
        if worth && !session.out.raw(&answer)? {
            for line in &page.items {
                session.out.styled_line(&in_colours(&session.out, line))?;
            }
        }
        shown += 1;
        left -= left.min(page.items.len() as u32);
        if page.complete || !moved || left == 0 {
            return Ok(());
        }
        // The next page must be of the same attempt, even if another one begins meanwhile.
        (from_seq, attempt) = (Some(page.next_seq), Some(page.attempt));
    }
}

/// A line for a person; on a terminal with colours and the time of day, else with the full time.
pub fn in_colours(out: &Output, line: &LogLine) -> String {
    coloured(out, (line.line.time, line.line.level, &line.line.message, &line.line.fields), "")
}

/// The same with where the line comes from.
pub fn coloured(
    out: &Output,
    (time, level, message, fields): (Timestamp, Level, &str, &Map<String, Value>),
    origin: &str,
) -> String {
    let time = if out.is_terminal() { time_of_day(time) } else { time.to_string() };
    let tone = match level {
        Level::Trace | Level::Debug => Tone::Dim,
        Level::Info => Tone::Plain,
        Level::Warning => Tone::Warning,
        Level::Error | Level::Critical => Tone::Bad,
    };
    let mut text = format!("{} {} ", paint(&time, Tone::Dim), paint(&format!("{:8}", level.as_str()), tone));
    if !origin.is_empty() {
        text.push_str(&paint(&printable(origin), Tone::Dim));
        text.push_str(": ");
    }
    text.push_str(&printable(message));
    for (name, value) in fields {
        let value = match value {
            Value::String(text) if !text.contains([' ', '"']) => text.clone(),
            other => other.to_string(),
        };
        text.push(' ');
        text.push_str(&paint(&format!("{name}={value}"), Tone::Dim));
    }
    text
}
