//! How values are written on the command line: durations, moments, labels, JSON. Pure, but for files that are named.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, IsTerminal, Read},
    str::FromStr,
};

use drover_protocol::{
    Timestamp,
    json::{too_long_number, too_long_text},
};
use jiff::{Span, SpanRelativeTo, civil, tz::TimeZone};
use serde_json::{Map, Value};

use crate::{clock, error::Error};

/// More than the API takes (1 MiB), so that the coordinator says the limit; less than what would fill the memory.
const MAX_JSON_BYTES: u64 = 16 * 1024 * 1024;
/// More than any password has.
const MAX_SECRET_LINE_BYTES: u64 = 64 * 1024;

/// `90`, `90s`, `15m`, `1h30m`, `7d` as whole seconds.
pub fn seconds(text: &str) -> Result<u64, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let wrong = || format!("\"{text}\" is not a duration such as 90s, 15m, 1h30m or 7d");
    let span: Span = text.parse().map_err(|_| wrong())?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    u64::try_from(duration.as_secs()).map_err(|_| wrong())
}

/// A moment: RFC 3339, a local time without a zone, or a duration from now.
pub fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = fixed_moment(text) {
        return Ok(time);
    }
    match seconds(text.strip_prefix('+').unwrap_or(text)) {
        Ok(seconds) => Ok(clock::now().plus_seconds(seconds)),
        Err(_) => Err(format!("{}, or a while from now such as 2h", no_moment(text))),
    }
}

/// A moment that is the same whenever it is read.
pub fn fixed_moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let local = text.parse::<civil::DateTime>().ok().and_then(|time| time.to_zoned(TimeZone::system()).ok());
    local.map(|zoned| Timestamp::from_millis(zoned.timestamp().as_millisecond())).ok_or_else(|| no_moment(text))
}

fn no_moment(text: &str) -> String {
    format!("\"{text}\" is not a time such as 2026-11-23T18:00:00Z or 2026-11-23T18:00 (local)")
}

/// A moment as [`moment`] takes it, but a duration is one that has passed.
pub fn past_moment(text: &str) -> Result<Timestamp, String> {
    match seconds(text) {
        Ok(seconds) => Ok(clock::now().minus_seconds(seconds)),
        Err(_) => fixed_moment(text).map_err(|why| format!("{why}, or a while ago such as 2h")),
    }
}

/// `1000`, `500MB`, `10GiB` as bytes: units of 1000, or of 1024 with an i.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("\"{text}\" is not a size such as 500MB or 10GiB");
    let digits = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

/// A number of days.
pub fn days(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("\"{text}\" is not a number of days"))
}

/// A value, or nothing where that is to be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrNone<T>(pub Option<T>);

/// What `parse` takes, or the word `none`.
pub fn or_none<T>(
    parse: impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<OrNone<T>, String> + Clone + Send + Sync + 'static {
    move |text| match text {
        "none" => Ok(OrNone(None)),
        text => parse(text).map(|value| OrNone(Some(value))),
    }
}

/// The id of a noun, of which `drover <noun> list` shows the ids.
pub fn id<T: FromStr>(noun: &'static str) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        text.parse().map_err(|_| {
            let example = "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f";
            format!("\"{text}\" is no id of a {noun}, such as {example}: drover {noun} list --json tells them")
        })
    }
}

/// `key=value`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("\"{text}\" is not key=value")),
    }
}

/// Pairs as a map; a key given twice is refused, because one of both would be lost.
pub fn pairs(list: &[(String, String)]) -> Result<BTreeMap<String, String>, Error> {
    let mut map = BTreeMap::new();
    for (key, value) in list {
        if map.insert(key.clone(), value.clone()).is_some() {
            return Err(Error::Usage(format!("\"{key}\" is given twice")));
        }
    }
    Ok(map)
}

/// The input of a job: JSON text, `@file`, or `-` for standard input, and single members that win over it.
pub fn job_input(text: Option<&str>, members: &[(String, String)]) -> Result<Option<Map<String, Value>>, Error> {
    let mut input = match text {
        None if members.is_empty() => return Ok(None),
        None => Map::new(),
        Some(text) => parse_object(&read_text(text)?)?,
    };
    add_members(&mut input, members);
    Ok(Some(input))
}

fn add_members(object: &mut Map<String, Value>, members: &[(String, String)]) {
    for (key, value) in members {
        object.insert(key.clone(), json_or_text(value));
    }
}

/// What reads as JSON is meant so (12, true, null, "12"); anything else is a text, and so is what JSON would not keep as
/// it is written: the number of an account.
pub fn json_or_text(text: &str) -> Value {
    exact_json(text.as_bytes()).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// Reads JSON, and refuses a number that would lose digits. The reason follows the name of what is read.
pub fn exact_json(text: &[u8]) -> Result<Value, String> {
    let value = serde_json::from_slice(text).map_err(|error| format!("is not JSON: {error}"))?;
    match too_long_number(text) {
        None => Ok(value),
        Some(number) => Err(format!("cannot be kept as it is: {}", too_long_text(number))),
    }
}

/// Any JSON: a text, `@file`, or `-` for standard input; members win over those of an object.
pub fn json_with_members(text: Option<&str>, members: &[(String, String)]) -> Result<Option<Value>, Error> {
    let mut value = match text {
        None if members.is_empty() => return Ok(None),
        None => Value::Object(Map::new()),
        Some(text) => parse_json(&read_text(text)?, "what was given")?,
    };
    match &mut value {
        Value::Object(object) => add_members(object, members),
        _ if members.is_empty() => {}
        _ => return Err(Error::Usage("--set needs an object to set members of".to_owned())),
    }
    Ok(Some(value))
}

/// The JSON of a file.
pub fn json_file(path: impl AsRef<std::path::Path>) -> Result<Value, Error> {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
    parse_json(&text, &path.display().to_string())
}

fn parse_json(text: &str, name: &str) -> Result<Value, Error> {
    exact_json(text.trim_start_matches('\u{feff}').as_bytes()).map_err(|why| Error::Usage(format!("{name} {why}")))
}

/// Asks a person; without one, the answer is no.
pub fn confirmed(question: &str) -> Result<bool, Error> {
    if !console::user_attended_stderr() || !io::stdin().is_terminal() {
        return Ok(false);
    }
    let terminal = console::Term::stderr();
    let answer = terminal.write_str(&format!("{question} [y/N] ")).and_then(|()| terminal.read_line());
    Ok(matches!(answer.map_err(Error::file("read", "standard input"))?.trim(), "y" | "Y" | "yes"))
}

fn read_text(text: &str) -> Result<String, Error> {
    let (name, mut reader): (&str, Box<dyn Read>) = match text.strip_prefix('@') {
        Some(path) => (path, Box::new(std::fs::File::open(path).map_err(Error::file("read", path))?)),
        None if text == "-" => ("standard input", Box::new(io::stdin())),
        None => return Ok(text.to_owned()),
    };
    let mut content = String::new();
    reader.by_ref().take(MAX_JSON_BYTES + 1).read_to_string(&mut content).map_err(Error::file("read", name))?;
    if content.len() as u64 > MAX_JSON_BYTES {
        return Err(Error::Usage(format!(
            "{name} is larger than an input may be; put a file into the package instead"
        )));
    }
    Ok(content)
}

fn parse_object(text: &str) -> Result<Map<String, Value>, Error> {
    match parse_json(text, "the input")? {
        Value::Object(members) => Ok(members),
        _ => Err(Error::Usage("the input must be a JSON object such as {\"limit\": 100}".to_owned())),
    }
}

/// A password or key: prompted for without echo on a terminal, else the next line of standard input.
pub fn secret(prompt: &str) -> Result<String, Error> {
    let text = match prompted(prompt)? {
        Some(text) => text,
        None => {
            let mut line = String::new();
            // What this buffer has read beyond the line is there for the next password.
            let read = io::stdin().lock().take(MAX_SECRET_LINE_BYTES).read_line(&mut line);
            read.map_err(Error::file("read", "standard input"))?;
            line
        }
    };
    some_secret(&text)
}

/// A secret of any kind: prompted for without echo on a terminal, else all of standard input. A key in PEM form has many
/// lines.
pub fn whole_secret(prompt: &str) -> Result<String, Error> {
    match prompted(prompt)? {
        Some(text) => some_secret(&text),
        None => some_secret(&read_text("-")?),
    }
}

/// What a person types without echo; `None` if nobody is there to be asked.
fn prompted(prompt: &str) -> Result<Option<String>, Error> {
    if !console::user_attended_stderr() || !io::stdin().is_terminal() {
        return Ok(None);
    }
    let terminal = console::Term::stderr();
    let text = terminal.write_str(prompt).and_then(|()| terminal.read_secure_line());
    text.map(Some).map_err(Error::file("read", "standard input"))
}

fn some_secret(text: &str) -> Result<String, Error> {
    match as_secret(text) {
        "" => Err(Error::Usage("nothing was given on standard input".to_owned())),
        text => Ok(text.to_owned()),
    }
}

/// A secret as it was meant. A single line was ended by the file or program that it comes from; blanks may belong to it. What
/// has several lines is a file of its own, and programs refuse a key in PEM form whose last line has no end.
pub fn as_secret(text: &str) -> &str {
    match text.strip_suffix('\n') {
        Some(line) if !line.contains('\n') => line.strip_suffix('\r').unwrap_or(line),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in
            [("90", 90), ("90s", 90), ("15m", 900), ("1h30m", 5400), ("1h 30m", 5400), ("7d", 604_800)]
        {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "-5s", "soon", "1.5.2h", "-1"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn moments() {
        assert_eq!(moment("2026-11-23T18:00:00Z"), "2026-11-23T18:00:00Z".parse());
        assert!(moment("2026-11-23T18:00").is_ok());
        assert!(moment("+2h").expect("a duration") > clock::now());
        assert!(past_moment("2h").expect("a duration") < clock::now());
        assert!(fixed_moment("2026-11-23T18:00").is_ok() && fixed_moment("2h").is_err());
        // Each says of which a while counts.
        assert!(moment("tomorrow").is_err_and(|why| why.contains("2h") && why.contains("from now")));
        assert!(past_moment("yesterday").is_err_and(|why| why.contains("ago") && !why.contains("from now")));
    }

    #[test]
    fn members_win_over_the_input_and_keep_their_type() {
        let members = [("limit".to_owned(), "5".to_owned()), ("name".to_owned(), "Müller & Co".to_owned())];
        let input = job_input(Some(r#"{"limit": 1, "deep": {"a": []}}"#), &members).expect("it is right");
        let expected = serde_json::json!({"limit": 5, "deep": {"a": []}, "name": "Müller & Co"});
        assert_eq!(input.map(Value::Object), Some(expected));
        assert!(matches!(job_input(None, &[]), Ok(None)));
    }

    /// Numbers of accounts have twenty digits, of which a reader of JSON keeps sixteen.
    #[test]
    fn a_number_that_would_lose_digits_is_a_text_or_refused() {
        let long = "40817810099910004312";
        assert_eq!(json_or_text(long), Value::from(long));
        assert_eq!(json_or_text("18446744073709551615"), Value::from(u64::MAX));
        let input = format!("{{\"no\": {long}}}");
        assert!(matches!(job_input(Some(&input), &[]), Err(Error::Usage(why)) if why.contains(long)));
        assert!(matches!(json_with_members(Some(&input), &[]), Err(Error::Usage(why)) if why.contains(long)));
        let members = [("no".to_owned(), long.to_owned())];
        assert_eq!(json_with_members(None, &members).ok(), Some(Some(serde_json::json!({"no": long}))));
    }

    #[test]
    fn the_end_of_a_single_line_is_no_part_of_a_secret() {
        let whole = ["a\nb\n", "a\nb", "a\r\nb\r\n", "a\n\n", "a"];
        let single = [(" a \r\n", " a "), ("a\n", "a"), ("\n", "")];
        for (given, kept) in whole.map(|text| (text, text)).into_iter().chain(single) {
            assert_eq!(as_secret(given), kept, "{given:?}");
        }
    }

    #[test]
    fn input_that_is_no_object_is_refused() {
        for text in ["[]", "12", "{", ""] {
            assert!(matches!(job_input(Some(text), &[]), Err(Error::Usage(_))), "{text}");
        }
    }
}
