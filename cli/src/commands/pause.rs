//! Pausing, which robots and groups have in common.

use clap::{Args, ValueEnum};
use drover_protocol::{
    Timestamp,
    robot::{PauseMode, PauseRequest, Paused},
};

use crate::{
    commands::simple,
    error::Error,
    output::{distance, moment},
    session::Session,
    {clock, values},
};

#[derive(Args)]
pub struct PauseArgs {
    /// Name or id
    name: String,
    /// Why, for whoever looks at it later
    #[arg(long, default_value = "paused from the command line")]
    reason: String,
    /// What happens to the jobs that run
    #[arg(long, value_enum, default_value_t = Mode::Drain)]
    mode: Mode,
    /// End by itself at this time (2026-11-23T18:00) or after this while (2h)
    #[arg(long, value_parser = values::moment)]
    until: Option<Timestamp>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    /// Let them end
    Drain,
    /// Ask them to stop, force them after their grace
    Stop,
    /// End them at once
    Abort,
}

pub async fn pause(session: &Session, noun: &str, args: PauseArgs) -> Result<(), Error> {
    let mode = match args.mode {
        Mode::Drain => PauseMode::Drain,
        Mode::Stop => PauseMode::Stop,
        Mode::Abort => PauseMode::Abort,
    };
    let request = PauseRequest { mode, reason: args.reason, until: args.until };
    let call = session.client.post(&[noun, &args.name, "pause"])?.json(&request)?;
    let until = args.until.map(|until| format!(" until {}", moment(until))).unwrap_or_default();
    simple(&session.out, call, &format!("{} is paused{until}.", args.name)).await
}

/// A pause in words; empty if there is none.
pub fn in_words(paused: Option<&Paused>) -> String {
    let Some(paused) = paused else { return String::new() };
    let since = distance(paused.since, clock::now());
    let until = paused.until.map(|until| format!(", until {}", moment(until))).unwrap_or_default();
    let group = paused.group.as_ref().map(|group| format!(" with group {group}")).unwrap_or_default();
    format!("{}{group} ({since} by {}{until})", paused.reason, paused.by)
}
