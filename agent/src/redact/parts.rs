//! What of a secret of several values is a secret by itself: a key file or a file of settings is seldom printed as a
//! whole, what stands in it is.

use std::collections::BTreeSet;

use serde_json::Value;

/// Shorter parts would tear holes into innocent text.
const MIN_PART_BYTES: usize = 8;
/// Ends of names, as letters and digits in lower case, whose values are no secrets by themselves: users, places and
/// kinds, which logs are full of. The values of all other names are masked: a log with too few words can still be read,
/// a password that somebody has read is lost.
const OPEN_NAMES: &str = "type name user email host domain database schema region zone env environment project \
                          projectid level format version mode scope authuri tokenuri certurl";

/// Words that structured lines of a log consist of.
const COMMON_WORDS: [&str; 4] = ["critical", "emergency", "information", "progress"];

/// The texts of a secret that is JSON, each of them taken apart like a secret of its own; of another one its lines, if they are
/// several, and the values of `NAME=value` and `NAME: value` in them. Numbers of JSON are none: ports, accounts and times stand
/// in every line of a log.
pub fn parts_of(secret: &str) -> BTreeSet<String> {
    let mut parts = BTreeSet::new();
    take_apart(secret, &mut parts);
    parts
}

fn add(part: &str, parts: &mut BTreeSet<String>) {
    let part = part.trim();
    if part.len() >= MIN_PART_BYTES && !COMMON_WORDS.contains(&part) && !is_time(part) {
        parts.insert(part.to_owned());
    }
}

/// A date, alone or with a time of day: until when a key is good, which is a day like any other in what a job writes.
fn is_time(part: &str) -> bool {
    let of_date =
        |(place, byte): (usize, u8)| if [4, 7].contains(&place) { byte == b'-' } else { byte.is_ascii_digit() };
    let is_date = |date: &str| date.len() == 10 && date.bytes().enumerate().all(of_date);
    is_date(part.split(['T', ' ']).next().unwrap_or_default())
}

fn take_apart(secret: &str, parts: &mut BTreeSet<String>) {
    if let Ok(value @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str(secret) {
        return add_texts("", value, parts);
    }
    let lines: Vec<&str> = secret.trim().lines().map(str::trim).collect();
    for line in &lines {
        if lines.len() > 1 {
            add(line, parts);
        }
        if let Some((name, value)) = named_value(line) {
            add_value(name, value, parts);
            // What follows is a comment, or the value goes on: both are known.
            if let Some((value, _)) = value.split_once(" #") {
                add_value(name, value, parts);
            }
        }
    }
}

/// A line of a `.env` file, of a script that is sourced, of an INI, TOML or YAML file.
fn named_value(line: &str) -> Option<(&str, &str)> {
    let line = line.strip_prefix("export ").or_else(|| line.strip_prefix("- ")).unwrap_or(line);
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    ["=", ": "].into_iter().filter_map(|between| line.split_once(between)).find_map(|(name, value)| {
        let (name, value) = (name.trim(), value.trim());
        (!name.is_empty() && name.bytes().all(of_name)).then_some((name, value))
    })
}

fn is_open(name: &str, value: &str) -> bool {
    let name: String =
        name.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect();
    // An address with a user in it has a password as well, whatever its name says.
    let has_user = value.contains("://") && value.contains('@');
    !has_user && OPEN_NAMES.split(' ').any(|end| name.ends_with(end))
}

/// Without its quotes, which are those of other texts, too. What was quoted is known as it stands there and as JSON reads it:
/// parsers of `.env` files differ in whether they take escapes.
fn add_value(name: &str, value: &str, parts: &mut BTreeSet<String>) {
    let value = value.trim();
    let unquoted = ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
    let text = unquoted.unwrap_or(value);
    if !is_open(name, text) {
        add(text, parts);
    }
    add_json(name, value, parts);
    add_json(name, text, parts);
}

/// Nothing, if the text is no JSON.
fn add_json(name: &str, text: &str, parts: &mut BTreeSet<String>) {
    if let Ok(value) = serde_json::from_str(text) {
        add_texts(name, value, parts);
    }
}

/// The items of an array go by the name of the array.
fn add_texts(name: &str, value: Value, parts: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            if !is_open(name, &text) {
                add(&text, parts);
            }
            // Also what is open may hold values that have names of their own.
            take_apart(&text, parts);
        }
        Value::Array(items) => items.into_iter().for_each(|item| add_texts(name, item, parts)),
        Value::Object(members) => members.into_iter().for_each(|(name, value)| add_texts(&name, value, parts)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
