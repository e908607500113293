//! What a process prints, turned into log records: lines cut, structured ones understood, invalid bytes escaped.
//!
//! Memory is bounded whatever is printed; nothing is dropped. Masking happens before (on the bytes) and after (on the
//! decoded texts).

use std::fmt::Write as _;

use drover_protocol::{
    Timestamp,
    job::Progress,
    json::{is_too_deep, too_long_number},
    log::{Level, MAX_FIELDS_BYTES, MAX_MESSAGE_BYTES, NewLogLine},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::redact::{MASK, Redactor, Stream};

/// A structured line may hold a message and fields of full size, both escaped.
const MAX_STRUCTURED_BYTES: usize = 4 * (MAX_MESSAGE_BYTES + MAX_FIELDS_BYTES);
/// The longest text of a progress.
const MAX_PROGRESS_CHARS: usize = 512;

/// A line of the log, and the progress that came with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "FlatRecord")]
pub struct Record {
    #[serde(flatten)]
    pub line: NewLogLine,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

/// The same as it is read: members that are flattened would be read twice, and every line of every job is read here.
#[derive(Deserialize)]
struct FlatRecord {
    time: Timestamp,
    level: Level,
    message: String,
    #[serde(default)]
    fields: Map<String, Value>,
    #[serde(default)]
    progress: Option<Progress>,
}

impl From<FlatRecord> for Record {
    fn from(flat: FlatRecord) -> Self {
        let FlatRecord { time, level, message, fields, progress } = flat;
        Self { line: NewLogLine { time, level, message, fields }, progress }
    }
}

impl Record {
    /// A line without fields.
    pub fn new(time: Timestamp, level: Level, message: impl Into<String>) -> Self {
        Self { line: NewLogLine { time, level, message: message.into(), fields: Map::new() }, progress: None }
    }
}

/// Which of its two outputs a process wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Stdout,
    Stderr,
}

/// Makes records out of one output of a process.
pub struct LineReader {
    origin: Origin,
    stream: Stream,
    /// The line that is not complete yet.
    line: Vec<u8>,
    /// How many pieces of this line were given out already.
    pieces: u64,
}

impl LineReader {
    pub fn new(origin: Origin) -> Self {
        Self { origin, stream: Stream::default(), line: Vec::new(), pieces: 0 }
    }

    /// Takes the next bytes and appends the records that are complete.
    pub fn push(&mut self, bytes: &[u8], redactor: &Redactor, now: Timestamp, out: &mut Vec<Record>) {
        let mut clean = Vec::with_capacity(bytes.len());
        self.stream.push(redactor, bytes, &mut clean);
        self.take(&clean, redactor, now, out);
    }

    /// The output has ended; what is left is the last line.
    pub fn finish(&mut self, redactor: &Redactor, now: Timestamp, out: &mut Vec<Record>) {
        let mut clean = Vec::new();
        self.stream.finish(redactor, &mut clean);
        self.take(&clean, redactor, now, out);
        if !self.line.is_empty() {
            self.end_line(redactor, now, out);
        }
    }

    fn take(&mut self, mut bytes: &[u8], redactor: &Redactor, now: Timestamp, out: &mut Vec<Record>) {
        while !bytes.is_empty() {
            let limit = if self.may_be_structured(bytes) { MAX_STRUCTURED_BYTES } else { MAX_MESSAGE_BYTES };
            let room = limit.saturating_sub(self.line.len());
            match bytes.iter().take(room + 1).position(|&byte| byte == b'\n') {
                Some(at) => {
                    self.line.extend_from_slice(&bytes[..at]);
                    bytes = &bytes[at + 1..];
                    self.end_line(redactor, now, out);
                }
                None if bytes.len() <= room => {
                    self.line.extend_from_slice(bytes);
                    return;
                }
                None => {
                    self.line.extend_from_slice(&bytes[..room]);
                    bytes = &bytes[room..];
                    self.cut_piece(now, out);
                }
            }
        }
    }

    fn may_be_structured(&self, next: &[u8]) -> bool {
        let first = self.line.first().or(next.first());
        self.origin == Origin::Stdout && self.pieces == 0 && first == Some(&b'{')
    }

    /// Gives out the beginning of a line that is too long, up to a border of characters.
    fn cut_piece(&mut self, now: Timestamp, out: &mut Vec<Record>) {
        let tail = incomplete_character(&self.line);
        let rest = self.line.split_off(self.line.len() - tail);
        let piece = std::mem::replace(&mut self.line, rest);
        self.plain(&piece, true, now, out);
    }

    fn end_line(&mut self, redactor: &Redactor, now: Timestamp, out: &mut Vec<Record>) {
        let mut line = std::mem::take(&mut self.line);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        let structured = self.pieces == 0 && self.origin == Origin::Stdout;
        match structured.then(|| parse_structured(&line)).flatten() {
            Some(parsed) => parsed.records(redactor, now, out),
            None => self.plain(&line, self.pieces > 0, now, out),
        }
        self.pieces = 0;
    }

    fn plain(&mut self, bytes: &[u8], split: bool, now: Timestamp, out: &mut Vec<Record>) {
        let level = match self.origin {
            Origin::Stdout => Level::Info,
            Origin::Stderr => Level::Warning,
        };
        let text = escape_invalid(bytes);
        let pieces = pieces_of(&text);
        let split = split || pieces.len() > 1;
        for piece in pieces {
            let mut record = Record::new(now, level, piece);
            if split {
                self.pieces += 1;
                record.line.fields.insert("split".to_owned(), self.pieces.into());
            }
            out.push(record);
        }
    }
}

/// How many bytes at the end are the beginning of a UTF-8 character.
fn incomplete_character(bytes: &[u8]) -> usize {
    match std::str::from_utf8(&bytes[bytes.len().saturating_sub(4)..]) {
        Ok(_) => 0,
        Err(_) => (1..=3.min(bytes.len()))
            .find(|&back| {
                let lead = bytes[bytes.len() - back];
                let length = match lead {
                    0xC2..=0xDF => 2,
                    0xE0..=0xEF => 3,
                    0xF0..=0xF4 => 4,
                    _ => 1,
                };
                length > back
            })
            .unwrap_or(0),
    }
}

/// UTF-8 with each invalid byte as `\xNN`.
pub fn escape_invalid(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// The largest index up to `most` at which the text may be cut.
pub fn floor_char_boundary(text: &str, most: usize) -> usize {
    (0..=most.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// The text in pieces that fit a message; one empty piece if it is empty.
fn pieces_of(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while rest.len() > MAX_MESSAGE_BYTES {
        let (piece, after) = rest.split_at(floor_char_boundary(rest, MAX_MESSAGE_BYTES));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces
}

/// A line that is a JSON object with `message`.
struct Structured {
    message: String,
    level: Level,
    fields: Map<String, Value>,
    progress: Option<Progress>,
}

/// More lenient than the wire type, so that what a program says is not lost for a level in capitals: levels in any case
/// and by their usual other names; members that are not ours become fields.
fn parse_structured(line: &[u8]) -> Option<Structured> {
    if line.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    structured_of(line).or_else(|| structured_of(&with_masks_quoted(line)?))
}

fn structured_of(line: &[u8]) -> Option<Structured> {
    // Its fields travel inside of other documents, whose readers have a limit of their own. And a number that would lose
    // digits, of an account say, is kept in the line as it was printed.
    let keeps_all = |parsed: &Value| !is_too_deep(parsed) && too_long_number(line).is_none();
    let parsed = serde_json::from_slice(line).ok().filter(keeps_all);
    let Some(Value::Object(mut members)) = parsed else { return None };
    let Some(Value::String(message)) = members.remove("message") else { return None };
    let level = match members.remove("level") {
        None => Level::Info,
        Some(given) => match given.as_str().and_then(level_named) {
            Some(level) => level,
            None => {
                members.insert("level".to_owned(), given);
                Level::Info
            }
        },
    };
    let progress = members.remove("progress").and_then(|given| {
        let progress = parse_progress(&given);
        if progress.is_none() {
            members.insert("progress".to_owned(), given);
        }
        progress
    });
    let mut fields = match members.remove("fields") {
        Some(Value::Object(fields)) => fields,
        Some(other) => Map::from_iter([("fields".to_owned(), other)]),
        None => Map::new(),
    };
    for (name, value) in members {
        fields.entry(name).or_insert(value);
    }
    Some(Structured { message, level, fields, progress })
}

/// The line with its masked numbers and objects as texts: what was masked in the bytes may have stood where JSON has no
/// quotes. Nothing if there is no such mask.
fn with_masks_quoted(line: &[u8]) -> Option<Vec<u8>> {
    let is_between = |byte: &u8| byte.is_ascii_whitespace() || b"{}[]:,\"".contains(byte);
    let is_masked = |word: &[u8]| word.windows(MASK.len()).any(|window| window == MASK.as_bytes());
    let mut quoted = Vec::with_capacity(line.len() + 64);
    let (mut is_text, mut found, mut rest) = (false, false, line);
    while let Some(&byte) = rest.first() {
        let length = match byte {
            b'\\' if is_text => 2.min(rest.len()),
            _ if is_text || is_between(&byte) => 1,
            _ => rest.iter().position(is_between).unwrap_or(rest.len()),
        };
        let (word, after) = rest.split_at(length);
        is_text ^= byte == b'"';
        if !is_text && is_masked(word) {
            found = true;
            quoted.extend([b"\"", word, b"\""].concat());
        } else {
            quoted.extend(word);
        }
        rest = after;
    }
    found.then_some(quoted)
}

fn level_named(name: &str) -> Option<Level> {
    Some(match name.to_ascii_lowercase().as_str() {
        "trace" => Level::Trace,
        "debug" => Level::Debug,
        "info" | "information" | "notice" => Level::Info,
        "warning" | "warn" => Level::Warning,
        "error" | "err" => Level::Error,
        "critical" | "fatal" | "emergency" | "alert" => Level::Critical,
        _ => return None,
    })
}

/// Progress travels with the heartbeat that renews every job: nothing in it may be a reason to refuse that.
fn progress_text(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(MAX_PROGRESS_CHARS).collect()
}

fn parse_progress(value: &Value) -> Option<Progress> {
    let (percent, text) = match value {
        Value::Number(number) => (number.as_f64(), None),
        Value::Object(members) => (
            members.get("percent").and_then(Value::as_f64),
            members.get("text").and_then(Value::as_str).map(progress_text),
        ),
        _ => return None,
    };
    let percent = percent.map(|percent| percent.clamp(0.0, 100.0) as f32);
    (percent.is_some() || text.is_some()).then_some(Progress { percent, text })
}

impl Structured {
    fn records(self, redactor: &Redactor, now: Timestamp, out: &mut Vec<Record>) {
        // Decoding may bring a secret to light that was hidden by unusual escapes.
        let message = redactor.text(&self.message);
        let mut fields = redactor.members(self.fields);
        let mut progress = self.progress;
        if let Some(text) = progress.as_mut().and_then(|progress| progress.text.as_mut()) {
            *text = redactor.text(text).chars().take(MAX_PROGRESS_CHARS).collect();
        }
        let mut overflow = None;
        let size = serde_json::to_string(&fields).map_or(0, |json| json.len());
        // The room that the mark of a split line needs is kept free.
        if size > MAX_FIELDS_BYTES - 64 {
            overflow = serde_json::to_string(&fields).ok();
            fields = Map::from_iter([("fields_in_next_lines".to_owned(), Value::Bool(true))]);
        }
        let pieces = pieces_of(&message);
        let split = pieces.len() > 1;
        for (index, piece) in pieces.into_iter().enumerate() {
            let mut record = Record::new(now, self.level, piece);
            if index == 0 {
                record.line.fields = std::mem::take(&mut fields);
                record.progress = progress.take();
            }
            if split {
                record.line.fields.insert("split".to_owned(), (index + 1).into());
            }
            out.push(record);
        }
        for (index, piece) in overflow.iter().flat_map(|json| pieces_of(json)).enumerate() {
            let mut record = Record::new(now, self.level, piece);
            record.line.fields.insert("fields_of_previous_line".to_owned(), (index + 1).into());
            out.push(record);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(origin: Origin, chunks: &[&[u8]]) -> Vec<Record> {
        let redactor = Redactor::new(["topsecret"]);
        let (mut reader, mut out) = (LineReader::new(origin), Vec::new());
        for chunk in chunks {
            reader.push(chunk, &redactor, Timestamp::EPOCH, &mut out);
            assert!(reader.line.len() <= MAX_STRUCTURED_BYTES);
        }
        reader.finish(&redactor, Timestamp::EPOCH, &mut out);
        out
    }

    fn messages(records: &[Record]) -> Vec<&str> {
        records.iter().map(|record| record.line.message.as_str()).collect()
    }

    #[test]
    fn lines_levels_and_odd_bytes() {
        let records = read(Origin::Stdout, &[b"one\r\ntw", b"o\n\nb\xffd\0\nlast"]);
        assert_eq!(messages(&records), ["one", "two", "", "b\\xffd\0", "last"]);
        assert!(records.iter().all(|record| record.line.level == Level::Info));
        assert_eq!(read(Origin::Stderr, &[b"oops\n"])[0].line.level, Level::Warning);
    }

    /// A secret of digits, or one that is JSON, is masked where no quotes are; the line stays a record with its level and its
    /// fields, and what was no JSON before is still none.
    #[test]
    fn masks_outside_of_texts_spoil_no_record() {
        let read = |line: &str| {
            let redactor = Redactor::new(["2025", r#"{"pin":1234}"#]);
            let (mut reader, mut out) = (LineReader::new(Origin::Stdout), Vec::new());
            reader.push(line.as_bytes(), &redactor, Timestamp::EPOCH, &mut out);
            reader.finish(&redactor, Timestamp::EPOCH, &mut out);
            out.remove(0).line
        };
        let line = read(
            r#"{"level": "error", "message": "of \\\"2025\"", "fields": {"a": 202517, "b": [-0.2025, 12.5, {"pin":1234}], "2025": 1}}"#,
        );
        assert_eq!((line.message.as_str(), line.level), ("of \\\"***\"", Level::Error));
        let fields = serde_json::to_string(&line.fields).expect("JSON");
        assert_eq!(fields, r#"{"***":1,"a":"***17","b":["-0.***",12.5,"***"]}"#);
        assert_eq!(read(r#"{"message": "m", "n": 2025 5}"#).message, r#"{"message": "m", "n": *** 5}"#);
    }

    #[test]
    fn structured_lines_are_understood() {
        let records = read(
            Origin::Stdout,
            &[br#"{"message":"halfway \u0074opsecret","level":"WARN","fields":{"n":1},"progress":{"percent":50,"text":"x"},"logger":"a"}"#],
        );
        let record = &records[0];
        assert_eq!((record.line.message.as_str(), record.line.level), ("halfway ***", Level::Warning));
        assert_eq!(serde_json::to_string(&record.line.fields).expect("JSON"), r#"{"logger":"a","n":1}"#);
        assert_eq!(record.progress, Some(Progress { percent: Some(50.0), text: Some("x".to_owned()) }));
    }

    #[test]
    fn json_that_is_no_record_stays_a_plain_line() {
        for line in [r#"{"msg":"x"}"#, r#"{"message":5}"#, r#"{"message":"#, "[1]", "{}"] {
            assert_eq!(messages(&read(Origin::Stdout, &[line.as_bytes()])), [line]);
        }
        let line = br#"{"message":"on stderr it is only text"}"#;
        assert_eq!(messages(&read(Origin::Stderr, &[line]))[0].as_bytes(), line);
    }

    /// What is nested too deep for those who pass it on is text like any other, and what is not goes all the way.
    #[test]
    fn what_is_nested_too_deep_stays_a_plain_line() {
        let nested = |depth: usize| format!(r#"{{"message":"m","n":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        for depth in [65, 100, 124, 125, 126] {
            assert_eq!(messages(&read(Origin::Stdout, &[nested(depth).as_bytes()])), [nested(depth)], "{depth}");
        }
        let record = read(Origin::Stdout, &[nested(64).as_bytes()]).remove(0);
        assert_eq!(record.line.message, "m");
        let spooled: Record = serde_json::from_slice(&serde_json::to_vec(&record).expect("JSON")).expect("readable");
        assert_eq!(spooled, record);
    }

    /// An account number of twenty digits is another one after it was read as a fraction.
    #[test]
    fn numbers_that_would_lose_digits_stay_in_a_plain_line() {
        let line = r#"{"message":"paid","account":40817810099910004312}"#;
        assert_eq!(messages(&read(Origin::Stdout, &[line.as_bytes()])), [line]);
        let kept = read(Origin::Stdout, &[br#"{"message":"40817810099910004312","n":18446744073709551615}"#]).remove(0);
        assert_eq!(kept.line.message, "40817810099910004312");
        assert_eq!(kept.line.fields["n"].as_u64(), Some(u64::MAX));
    }

    #[test]
    fn long_lines_are_split_and_marked_and_nothing_is_lost() {
        let long = vec![b'x'; 1_000_000];
        let records = read(Origin::Stdout, &[&long, b"\nnext\n"]);
        let total: usize = records.iter().map(|record| record.line.message.len()).sum();
        assert_eq!(total, 1_000_000 + 4);
        let marks: Vec<_> = records.iter().filter_map(|record| record.line.fields.get("split")?.as_u64()).collect();
        assert_eq!(marks, (1..=16).collect::<Vec<u64>>());
        assert!(records.last().is_some_and(|record| record.line.fields.is_empty()));
    }

    #[test]
    fn a_structured_line_keeps_large_messages_and_fields() {
        let line = serde_json::json!({"message": "m".repeat(70_000), "fields": {"f": "g".repeat(20_000)}}).to_string();
        let records = read(Origin::Stdout, &[line.as_bytes(), b"\n"]);
        let all: String = messages(&records).concat();
        assert_eq!((all.matches('m').count(), all.matches('g').count()), (70_000, 20_000));
        for record in &records {
            assert!(record.line.message.len() <= MAX_MESSAGE_BYTES);
            assert!(serde_json::to_string(&record.line.fields).expect("JSON").len() <= MAX_FIELDS_BYTES);
        }
    }

    proptest! {
        /// Any bytes in any chunks: never a panic, never a message over the limit, and plain text comes out whole.
        #[test]
        fn any_bytes_any_chunks(bytes in proptest::collection::vec(any::<u8>(), 0..2000), size in 1usize..300) {
            let chunks: Vec<&[u8]> = bytes.chunks(size).collect();
            let records = read(Origin::Stderr, &chunks);
            let whole = read(Origin::Stderr, &[&bytes]);
            prop_assert_eq!(messages(&records), messages(&whole));
        }
    }
}
