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

/// The lines of a secret of several lines, the values of `NAME=value` and `NAME: value` in its lines and, if it or such
/// a value is JSON, the texts and numbers in that, each of them taken apart like a secret of its own.
pub fn parts_of(secret: &str) -> BTreeSet<String> {
    let mut parts = BTreeSet::new();
    take_apart(secret, &mut parts);
    parts
}

fn add(part: &str, parts: &mut BTreeSet<String>) {
    if part.trim().len() >= MIN_PART_BYTES {
        parts.insert(part.trim().to_owned());
    }
}

fn take_apart(secret: &str, parts: &mut BTreeSet<String>) {
    add_json("", secret, parts);
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

/// With and without its quotes. What is quoted is known as it stands there and as JSON reads it: parsers of `.env` files
/// differ in whether they take escapes.
fn add_value(name: &str, value: &str, parts: &mut BTreeSet<String>) {
    let value = value.trim();
    let unquoted = ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
    for text in [Some(value), unquoted].into_iter().flatten() {
        if !is_open(name, text) {
            add(text, parts);
        }
        add_json(name, text, parts);
    }
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
        Value::String(text) if is_open(name, &text) => add_json(name, &text, parts),
        Value::Number(_) if is_open(name, "") => {}
        Value::String(text) => {
            add(&text, parts);
            take_apart(&text, parts);
        }
        Value::Number(number) => add(&number.to_string(), parts),
        Value::Array(items) => items.into_iter().for_each(|item| add_texts(name, item, parts)),
        Value::Object(members) => members.into_iter().for_each(|(name, value)| add_texts(&name, value, parts)),
        Value::Null | Value::Bool(_) => {}
    }
}
