//! Which lines a search wants, and looking for them among packed lines without unpacking the others.

use std::sync::Arc;

use drover_protocol::{
    JobId, Timestamp,
    log::{FoundLine, Level, LogSearch, MAX_FIELD_FILTERS, MAX_TEXT_CHARS, NewLogLine},
};
use regex::bytes::{Regex, RegexBuilder};
use serde_json::Value;

use super::{Position, Window};
use crate::{
    domain::{name::Faults, permission::Permission, role::Limited},
    error::{Error, Result},
    operations::{
        Caller,
        log_search::{Whose, reaches_log},
    },
    store::{Reading, lines::Columns},
};

/// A pattern that needs more memory than this once it is compiled is refused.
const MAX_PATTERN_BYTES: usize = 1024 * 1024;
/// A search that nobody waits for any more ends after so many lines.
const LOOK_LINES: usize = 1024;

/// What a line must be like.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub whose: Whose,
    pub level: Option<Level>,
    text: Option<Text>,
    fields: Vec<(String, String)>,
    /// The first time that a line may have, and the first one that it may not have any more.
    times: (Option<Timestamp>, Option<Timestamp>),
    /// Who is limited to some logs of those that are wanted.
    limited: Option<Arc<Caller>>,
}

#[derive(Clone, Debug)]
struct Text {
    pattern: Regex,
    /// It is a plain text: messages in which it is nowhere need not be looked at one by one.
    is_plain: bool,
}

impl Filter {
    /// The filter of a query, whose names have been looked up.
    pub fn new(query: &LogSearch, fields: Vec<(String, String)>, whose: Whose) -> Result<Self> {
        let mut faults = Faults::default();
        let text = query.text.as_deref().filter(|text| !text.is_empty());
        if text.is_some_and(|text| text.chars().count() > MAX_TEXT_CHARS) {
            faults.add("text", format!("longer than {MAX_TEXT_CHARS} characters"));
        }
        if fields.len() > MAX_FIELD_FILTERS {
            faults.add("field", format!("more than {MAX_FIELD_FILTERS} fields"));
        }
        if let (Some(from), Some(to)) = (query.from, query.to)
            && from > to
        {
            faults.add("to", "is before from");
        }
        faults.check()?;
        let text = text.map(|text| Text::new(text, query.regex.unwrap_or_default())).transpose()?;
        Ok(Self { whose, level: query.level, text, fields, times: (query.from, query.to), limited: None })
    }

    /// The same for what this caller may see. The log of a job that is named has been looked at.
    pub fn seen_by(self: &Arc<Self>, caller: &Caller) -> Arc<Self> {
        let is_limited = self.whose.job.is_none() && caller.is_limited(Permission::LogRead, Limited::RobotGroups);
        if !is_limited && self.limited.is_none() {
            return Arc::clone(self);
        }
        let limited = is_limited.then(|| Arc::new(caller.clone()));
        Arc::new(Self { limited, ..Self::clone(self) })
    }

    /// Whether it may depend on the log whether its lines may be seen.
    pub fn is_limited(&self) -> bool {
        self.limited.is_some()
    }

    /// Whether the lines of a log with a fitting origin may be seen.
    pub fn reaches(&self, reading: &dyn Reading, job: JobId, attempt: u32) -> Result<bool> {
        match &self.limited {
            Some(caller) => reaches_log(reading, caller, job, attempt),
            None => Ok(true),
        }
    }

    /// Whether a line fits that is unpacked already. Whose it is has been checked.
    pub fn fits(&self, line: &NewLogLine) -> bool {
        self.level.is_none_or(|level| line.level >= level)
            && self.times.0.is_none_or(|from| line.time >= from)
            && self.times.1.is_none_or(|to| line.time < to)
            && self.text.as_ref().is_none_or(|text| text.pattern.is_match(line.message.as_bytes()))
            && self.fields.iter().all(|(name, value)| has_field(&line.fields, name, value))
    }
}

impl Text {
    fn new(text: &str, is_regex: bool) -> Result<Self> {
        let pattern = if is_regex { text.to_owned() } else { regex::escape(text) };
        let pattern = RegexBuilder::new(&pattern)
            .case_insensitive(true)
            .size_limit(MAX_PATTERN_BYTES)
            .dfa_size_limit(MAX_PATTERN_BYTES)
            .nest_limit(32)
            .build()
            .map_err(|error| {
                let why = match error {
                    regex::Error::CompiledTooBig(_) => "the pattern is too large; make it simpler".to_owned(),
                    other => format!("not a regular expression: {other}"),
                };
                Error::invalid("text", why)
            })?;
        Ok(Self { pattern, is_plain: !is_regex })
    }
}

/// A field is compared with its text, or with its JSON if it is no text. A name with dots leads into objects.
fn has_field(fields: &serde_json::Map<String, Value>, name: &str, wanted: &str) -> bool {
    let found = fields.get(name).or_else(|| {
        let mut parts = name.split('.');
        let first = fields.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))
    });
    match found {
        None => false,
        Some(Value::String(text)) => text == wanted,
        Some(other) => {
            let json = other.to_string();
            json == wanted
        }
    }
}

/// Some lines of one log, in which a search looks.
#[derive(Clone, Debug)]
pub struct Place {
    pub log: (JobId, u32),
    pub first_seq: u64,
    /// The lines that count: the first one, and the one after the last.
    pub seqs: std::ops::Range<u64>,
}

/// Lines that fit, by their place in the order of the search.
pub type Hits = Vec<(Position, NewLogLine)>;

impl Filter {
    /// The best `limit` of the lines that fit and lie in the window. `is_over` is asked now and then.
    pub fn search(
        &self,
        columns: &mut Columns,
        place: &Place,
        window: &Window,
        limit: usize,
        is_over: &dyn Fn() -> bool,
    ) -> Result<Hits> {
        let counts = |number: usize| place.seqs.contains(&(place.first_seq + number as u64));
        let position = |columns: &Columns, number: usize| Position {
            time: columns.time(number),
            log: place.log,
            seq: place.first_seq + number as u64,
        };
        if let Some(level) = self.level
            && !(0..columns.len()).any(|number| columns.level(number) >= level)
        {
            return Ok(Vec::new());
        }
        if let Some(text) = &self.text {
            let messages = columns.read_messages()?;
            if text.is_plain && !text.pattern.is_match(messages) {
                return Ok(Vec::new());
            }
        }
        let mut found = Vec::new();
        for number in 0..columns.len() {
            if number % LOOK_LINES == 0 && is_over() {
                return Ok(Vec::new());
            }
            let position = position(columns, number);
            let fits = counts(number)
                && window.contains(&position)
                && self.level.is_none_or(|level| columns.level(number) >= level)
                && self.text.as_ref().is_none_or(|text| text.pattern.is_match(columns.message(number)));
            if fits && self.has_fields(columns, number)? {
                found.push((position, number));
            }
        }
        found.sort_unstable();
        match window.newest_first {
            true => found.drain(..found.len().saturating_sub(limit)).for_each(drop),
            false => found.truncate(limit),
        }
        if !found.is_empty() {
            columns.read_messages()?;
        }
        found.into_iter().map(|(position, number)| Ok((position, columns.line(number)?))).collect()
    }

    fn has_fields(&self, columns: &mut Columns, number: usize) -> Result<bool> {
        if self.fields.is_empty() {
            return Ok(true);
        }
        let fields = columns.fields(number)?;
        Ok(self.fields.iter().all(|(name, value)| has_field(&fields, name, value)))
    }
}

/// About how much memory a line takes.
pub fn bytes_of(line: &FoundLine) -> usize {
    let fields = if line.fields.is_empty() { 0 } else { Value::Object(line.fields.clone()).to_string().len() };
    line.message.len() + fields + 256
}

#[cfg(test)]
mod tests {
    use drover_protocol::{JobId, Timestamp};
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::store::lines::pack;

    fn line(time: i64, level: Level, message: &str, fields: Value) -> NewLogLine {
        let fields = fields.as_object().cloned().unwrap_or_default();
        NewLogLine { time: Timestamp::from_millis(time), level, message: message.to_owned(), fields }
    }

    fn found(query: LogSearch, fields: &[(&str, &str)]) -> Vec<u64> {
        let lines = [
            line(5, Level::Info, "Rechnung ÄRGER gebucht", json!({ "order": "17", "n": { "deep": true } })),
            line(6, Level::Error, "ОШИБКА банка\nвторая строка", json!({ "order": 17 })),
            line(4, Level::Warning, "a.c", json!({})),
            line(7, Level::Info, "abc", json!({ "n.deep": "x" })),
        ];
        let packed = pack(&lines, 3).unwrap();
        let log = (JobId::from_uuid(Uuid::from_u128(1)), 1);
        let place = Place { log, first_seq: 10, seqs: 10..14 };
        let window = Window { from: Position::MIN, below: Position::MAX, newest_first: false };
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let filter = Filter::new(&query, fields, Whose::default()).unwrap();
        let hits = filter.search(&mut Columns::open(&packed).unwrap(), &place, &window, 9, &|| false).unwrap();
        for (position, line) in &hits {
            assert!(filter.fits(line));
            assert_eq!(line, &lines[position.seq as usize - 10]);
        }
        hits.into_iter().map(|(position, _)| position.seq).collect()
    }

    fn text(text: &str, regex: bool) -> LogSearch {
        LogSearch { text: Some(text.to_owned()), regex: Some(regex), ..LogSearch::default() }
    }

    /// Texts are found whatever the case of their letters, in any script, and mean nothing but themselves.
    #[test]
    fn texts_are_found_whatever_the_case() {
        assert_eq!(found(text("ärger", false), &[]), [10]);
        assert_eq!(found(text("ошибка БАНКА\n", false), &[]), [11]);
        assert_eq!(found(text("a.c", false), &[]), [12]);
        assert_eq!(found(text("gebuchtО", false), &[]), [0_u64; 0], "a text does not reach into the next line");
        assert_eq!(found(LogSearch::default(), &[]), [12, 10, 11, 13], "in the order of time");
    }

    #[test]
    fn patterns_are_matched_line_by_line() {
        assert_eq!(found(text("^a.c$", true), &[]), [12, 13]);
        assert_eq!(found(text("(?-i)rechnung", true), &[]), [0_u64; 0]);
        assert_eq!(found(text(r"\bбанка\b", true), &[]), [11]);
    }

    #[test]
    fn fields_are_compared_as_texts_or_as_json() {
        assert_eq!(found(LogSearch::default(), &[("order", "17")]), [10, 11]);
        assert_eq!(found(LogSearch::default(), &[("n.deep", "true")]), [10]);
        assert_eq!(found(LogSearch::default(), &[("n.deep", "x"), ("order", "17")]), [0_u64; 0]);
        assert_eq!(found(LogSearch { level: Some(Level::Warning), ..LogSearch::default() }, &[]), [12, 11]);
    }

    /// Whatever somebody sends as a pattern is refused at once or searched in linear time.
    #[test]
    fn hostile_patterns_are_refused() {
        let refused = |query: LogSearch| Filter::new(&query, Vec::new(), Whose::default()).unwrap_err();
        for pattern in [r"(\w{200}){200}", "(", r"(a)\1", "(?=a)", &"(".repeat(200), &"x".repeat(257)] {
            assert!(matches!(refused(text(pattern, true)), Error::Invalid(_)), "{pattern}");
        }
        let evil = Filter::new(&text("(a+)+$", true), Vec::new(), Whose::default()).unwrap();
        assert!(!evil.fits(&line(1, Level::Info, &format!("{}b", "a".repeat(60_000)), json!({}))));
    }
}
