//! A limit that every JSON document of users has to keep.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_from_the_outside() {
        let nested = |depth: usize| serde_json::from_str(&format!("{}1{}", "[".repeat(depth), "]".repeat(depth)));
        assert!(!is_too_deep(&nested(MAX_DEPTH).expect("it is JSON")));
        assert!(is_too_deep(&nested(MAX_DEPTH + 1).expect("it is JSON")));
    }
}
