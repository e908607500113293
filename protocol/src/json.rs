//! Limits that every JSON document of users has to keep.

use serde_json::Value;

/// How deep arrays and objects may lie in each other. Documents travel inside of others, and every reader on the way
/// has a limit of its own; one that a reader cannot take would stop all that travels with it.
pub const MAX_DEPTH: usize = 64;

/// Whether a document is nested deeper than [`MAX_DEPTH`].
pub fn is_too_deep(document: &Value) -> bool {
    let mut left = vec![(document, 0)];
    while let Some((value, depth)) = left.pop() {
        if depth > MAX_DEPTH {
            return true;
        }
        match value {
            Value::Array(items) => left.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(members) => left.extend(members.values().map(|member| (member, depth + 1))),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    false
}

/// The first whole number in a JSON text that would not be kept as it is written: one beyond 64 bits becomes a fraction of
/// sixteen digits, and two account numbers become one. Whoever has such numbers writes them as texts.
pub fn too_long_number(text: &[u8]) -> Option<&str> {
    let mut rest = text;
    while let Some(start) = rest.iter().position(|byte| matches!(byte, b'"' | b'-' | b'0'..=b'9')) {
        rest = &rest[start..];
        if rest[0] == b'"' {
            rest = after_string(&rest[1..]);
            continue;
        }
        let of_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let (number, after) = rest.split_at(rest.iter().position(|byte| !of_number(byte)).unwrap_or(rest.len()));
        rest = after;
        let is_whole = number[1..].iter().all(u8::is_ascii_digit);
        // Eighteen digits always fit.
        if is_whole && number.len() > 18 {
            let number = std::str::from_utf8(number).ok()?;
            if number.parse::<u64>().is_err() && number.parse::<i64>().is_err() {
                return Some(number);
            }
        }
    }
    None
}

/// What is said of such a number.
pub fn too_long_text(number: &str) -> String {
    let shown: String = number.chars().take(40).collect();
    format!("the whole number {shown} has more digits than are kept; write it as text, in quotes")
}

/// What follows the string into which `text` begins.
fn after_string(mut text: &[u8]) -> &[u8] {
    while let Some(at) = text.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        let skipped = if text[at] == b'"' { at + 1 } else { (at + 2).min(text.len()) };
        let is_end = text[at] == b'"';
        text = &text[skipped..];
        if is_end {
            return text;
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found is exactly what a reader would change; what stands in strings is text.
    #[test]
    fn whole_numbers_that_would_lose_digits_are_found() {
        let kept = [
            r#"{"a": 18446744073709551615, "b": [-9223372036854775808, 0], "c": 1.5e300}"#,
            r#"{"40817810099910004312": "40817810099910004312", "q": "\"40817810099910004312", "b": "\\"}"#,
            r#"[0.12345678901234567890123, 12345678901234567890123.5]"#,
            "7",
            "",
            "\"",
            "\"\\",
        ];
        for text in kept {
            assert_eq!(too_long_number(text.as_bytes()), None, "{text}");
        }
        for (text, number) in [
            (r#"{"no":40817810099910004312}"#, "40817810099910004312"),
            (r#"{"q": "\\", "no": [1, -9223372036854775809]}"#, "-9223372036854775809"),
            ("18446744073709551616", "18446744073709551616"),
        ] {
            assert_eq!(too_long_number(text.as_bytes()), Some(number), "{text}");
        }
    }

    #[test]
    fn depth_is_counted_from_the_outside() {
        let nested = |depth: usize| serde_json::from_str(&format!("{}1{}", "[".repeat(depth), "]".repeat(depth)));
        assert!(!is_too_deep(&nested(MAX_DEPTH).expect("it is JSON")));
        assert!(is_too_deep(&nested(MAX_DEPTH + 1).expect("it is JSON")));
    }
}
