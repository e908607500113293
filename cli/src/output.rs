//! What is shown: the API's JSON untouched for scripts, tables and sentences for people.
//!
//! Results go to standard output, remarks about how things go to standard error. Texts from elsewhere lose their
//! control characters, so that no log line can steer a person's terminal.

use std::{
    borrow::Cow,
    io::{self, Write},
    path::Path,
};

use comfy_table::{Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table, presets};
use console::{Style, Term};
use drover_protocol::{
    Timestamp,
    job::{Job, JobState, Outcome},
    robot::RobotState,
};
use jiff::tz::TimeZone;

use crate::{client::Answer, clock, error::Error, place::is_standard_output};

/// How a piece of text is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
    Dim,
}

/// A cell of a table.
pub struct Shown {
    text: String,
    tone: Tone,
    right: bool,
}

impl<T: Into<String>> From<T> for Shown {
    fn from(text: T) -> Self {
        Self { text: text.into(), tone: Tone::Plain, right: false }
    }
}

/// A text with a tone.
pub fn toned(text: impl Into<String>, tone: Tone) -> Shown {
    Shown { text: text.into(), tone, right: false }
}

/// A number, to be set to the right.
pub fn number(value: impl ToString) -> Shown {
    Shown { text: value.to_string(), tone: Tone::Plain, right: true }
}

pub struct Output {
    json: bool,
    terminal: bool,
    /// Standard output belongs to something else, and what is said goes to standard error.
    is_aside: bool,
}

impl Output {
    pub fn new(json: bool) -> Self {
        Self { json, terminal: Term::stdout().is_term(), is_aside: false }
    }

    /// For what is said of a file that is written there: aside, if standard output takes the file itself.
    pub fn about(&self, target: &Path) -> Self {
        match is_standard_output(target) {
            true => Self { json: self.json, terminal: Term::stderr().is_term(), is_aside: true },
            false => Self { ..*self },
        }
    }

    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether standard output is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// With `--json` prints the body as it came and is true; else the caller shows it to a person.
    pub fn raw(&self, answer: &Answer) -> Result<bool, Error> {
        if self.json && !answer.body.is_empty() {
            self.write(&answer.body)?;
            if !answer.body.ends_with(b"\n") {
                self.write(b"\n")?;
            }
        }
        Ok(self.json)
    }

    /// One line of text for a person, or of JSON for a script. Control characters are made visible.
    pub fn line(&self, text: &str) -> Result<(), Error> {
        self.write(printable(text).as_bytes())?;
        self.write(b"\n")
    }

    /// A line that is coloured already, of texts that have gone through [`printable`].
    pub fn styled_line(&self, text: &str) -> Result<(), Error> {
        self.write(text.as_bytes())?;
        self.write(b"\n")
    }

    /// What came as it is, for whoever reads it: a file or a program.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Error> {
        self.write(bytes)
    }

    fn write(&self, bytes: &[u8]) -> Result<(), Error> {
        let written = match self.is_aside {
            true => io::stderr().lock().write_all(bytes),
            false => io::stdout().lock().write_all(bytes),
        };
        written.map_err(Error::Output)
    }

    pub fn table(&self, header: &[&str], rows: Vec<Vec<Shown>>) -> Result<(), Error> {
        let mut table = self.plain_table();
        table.set_header(header.iter().map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
        for row in rows {
            table.add_row(row.into_iter().map(cell));
        }
        // The first column holds what other commands take: it must stay whole to be copied.
        if let Some(first) = table.column_mut(0) {
            first.set_constraint(ColumnConstraint::ContentWidth);
        }
        self.print_table(&table)
    }

    /// Names and values of one object; values that are empty are left out.
    pub fn fields(&self, rows: Vec<(&str, Shown)>) -> Result<(), Error> {
        let mut table = self.plain_table();
        for (name, value) in rows.into_iter().filter(|(_, value)| !value.text.is_empty()) {
            table.add_row([Cell::new(name).fg(Color::DarkGrey), cell(value)]);
        }
        if let Some(first) = table.column_mut(0) {
            first.set_constraint(ColumnConstraint::ContentWidth);
        }
        self.print_table(&table)
    }

    fn plain_table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(if self.terminal {
            ContentArrangement::Dynamic
        } else {
            ContentArrangement::Disabled
        });
        table
    }

    fn print_table(&self, table: &Table) -> Result<(), Error> {
        for line in table.lines() {
            // Left-aligned like the rest of the text; the padding of the style stands at both sides.
            self.styled_line(line.strip_prefix(' ').unwrap_or(&line).trim_end())?;
        }
        Ok(())
    }
}

fn cell(shown: Shown) -> Cell {
    let cell = Cell::new(printable(&shown.text));
    let cell = if shown.right { cell.set_alignment(CellAlignment::Right) } else { cell };
    match shown.tone {
        Tone::Plain => cell,
        Tone::Good => cell.fg(Color::Green),
        Tone::Warning => cell.fg(Color::Yellow),
        Tone::Bad => cell.fg(Color::Red),
        Tone::Dim => cell.fg(Color::DarkGrey),
    }
}

/// A remark on standard error: how things go, hints. Never a result. Nobody may be reading: that is no failure.
pub fn note(text: &str) {
    let style = Style::new().for_stderr().dim();
    let _ = writeln!(io::stderr(), "{}", style.apply_to(printable(text)));
}

/// Text in the colours of its tone, for standard output.
pub fn paint(text: &str, tone: Tone) -> String {
    let style = match tone {
        Tone::Plain => Style::new(),
        Tone::Good => Style::new().green(),
        Tone::Warning => Style::new().yellow(),
        Tone::Bad => Style::new().red(),
        Tone::Dim => Style::new().dim(),
    };
    style.apply_to(printable(text)).to_string()
}

/// The text with its control characters made visible; line breaks and tabs stay.
pub fn printable(text: &str) -> Cow<'_, str> {
    // Also what turns the direction of writing: it can make a name look like another one.
    let harmful = |c: char| {
        (c.is_control() && !matches!(c, '\n' | '\t')) || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    // A carriage return at the end of a line is how Windows ends it.
    let text = text.replace("\r\n", "\n");
    Cow::Owned(text.chars().flat_map(|c| if harmful(c) { c.escape_unicode().collect() } else { vec![c] }).collect())
}

/// A moment in this host's time zone and how far away it is: `2026-11-23 08:26:32 (3 min ago)`.
pub fn moment(time: Timestamp) -> String {
    format!("{} ({})", local_time(time), distance(time, clock::now()))
}

/// The same for what may not have happened; empty then.
pub fn moment_opt(time: Option<Timestamp>) -> String {
    time.map(moment).unwrap_or_default()
}

fn local_time(time: Timestamp) -> String {
    match jiff::Timestamp::from_millisecond(time.millis()) {
        Ok(time) => time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => time.to_string(),
    }
}

/// The time of day in this host's time zone, with milliseconds.
pub fn time_of_day(time: Timestamp) -> String {
    match jiff::Timestamp::from_millisecond(time.millis()) {
        Ok(time) => time.to_zoned(TimeZone::system()).strftime("%H:%M:%S%.3f").to_string(),
        Err(_) => time.to_string(),
    }
}

/// How far `time` is from `now`, in words.
pub fn distance(time: Timestamp, now: Timestamp) -> String {
    if time > now {
        return format!("in {}", rough_seconds(time.since(now).as_secs()));
    }
    match now.since(time).as_secs() {
        0..5 => "just now".to_owned(),
        seconds => format!("{} ago", rough_seconds(seconds)),
    }
}

fn rough_seconds(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7170 => format!("{} min", (seconds + 30) / 60),
        7170..171_000 => format!("{} h", (seconds + 1800) / 3600),
        _ => format!("{} days", (seconds + 43_200) / 86_400),
    }
}

/// How long a job ran, or has been running; empty before it has begun.
pub fn took(job: &Job) -> String {
    let Some(started) = job.started_at else { return String::new() };
    duration_ms(job.finished_at.unwrap_or_else(clock::now).since(started).as_millis())
}

/// A duration for people: `850 ms`, `3.2 s`, `4 min 05 s`, `2 h 10 min`.
pub fn duration_ms(ms: u128) -> String {
    let seconds = ms / 1000;
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{}.{} s", seconds, ms % 1000 / 100),
        60_000..3_600_000 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// A size for people: `34.1 KiB`.
pub fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// `key=value`, separated by commas.
pub fn labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    labels.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}

/// Where a job stands, or how it ended.
pub fn job_state(job: &Job) -> Shown {
    match job.outcome {
        Some(outcome) => toned(outcome.as_str(), outcome_tone(outcome)),
        None => {
            let tone = match job.state {
                JobState::Running => Tone::Good,
                JobState::Silent | JobState::Stopping => Tone::Warning,
                JobState::Waiting | JobState::Assigned | JobState::Finished => Tone::Plain,
            };
            toned(job.state.as_str(), tone)
        }
    }
}

pub fn outcome_tone(outcome: Outcome) -> Tone {
    match outcome {
        Outcome::Succeeded => Tone::Good,
        Outcome::Stopped => Tone::Warning,
        Outcome::Failed | Outcome::Aborted | Outcome::TimedOut | Outcome::Lost => Tone::Bad,
    }
}

pub fn robot_state(state: RobotState) -> Shown {
    match state {
        RobotState::Offline => toned("offline", Tone::Bad),
        RobotState::Idle => toned("idle", Tone::Good),
        RobotState::Busy => toned("busy", Tone::Good),
        RobotState::Draining => toned("draining", Tone::Warning),
        RobotState::Paused => toned("paused", Tone::Warning),
        RobotState::Disabled => toned("disabled", Tone::Dim),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_cannot_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\u{7}\n\tc\r\nd"), "a\\u{1b}[31mb\\u{7}\n\tc\nd");
        assert_eq!(printable("invoice\u{202e}fdp.exe"), "invoice\\u{202e}fdp.exe");
        assert!(matches!(printable("Größe, размер"), Cow::Borrowed(_)));
    }

    #[test]
    fn distances_and_durations_in_words() {
        let now = Timestamp::from_millis(1_000_000_000_000);
        assert_eq!(distance(now, now), "just now");
        assert_eq!(distance(now.minus_seconds(61), now), "61 s ago");
        assert_eq!(distance(now.minus_seconds(7_100), now), "118 min ago");
        assert_eq!(distance(now.plus_seconds(7_199), now), "in 2 h");
        assert_eq!(distance(now.plus_seconds(7_200), now), "in 2 h");
        assert_eq!(distance(now.minus_seconds(864_000), now), "10 days ago");
        assert_eq!(duration_ms(999), "999 ms");
        assert_eq!(duration_ms(3_250), "3.2 s");
        assert_eq!(duration_ms(245_000), "4 min 05 s");
        assert_eq!(duration_ms(7_800_000), "2 h 10 min");
    }
}
