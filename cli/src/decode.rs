//! Reads answers into the types of the protocol, forgiving members that a newer coordinator may have added.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use crate::error::Error;

/// More unknown members than this in one object mean that it is something else altogether.
const MAX_UNKNOWN: usize = 200;

/// Decodes a body.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    let value = serde_json::from_slice(body).map_err(|error| Error::Answer(error.to_string()))?;
    decode_value(value)
}

/// Decodes a value. Types that requests and answers share refuse unknown members, as requests must; in an answer
/// such a member is taken out and the rest is read.
pub fn decode_value<T: DeserializeOwned>(mut value: Value) -> Result<T, Error> {
    for _ in 0..MAX_UNKNOWN {
        let error = match serde_path_to_error::deserialize::<_, T>(&value) {
            Ok(decoded) => return Ok(decoded),
            Err(error) => error,
        };
        let unknown = error.inner().to_string().starts_with("unknown field");
        if !unknown || !remove(&mut value, error.path()) {
            return Err(Error::Answer(format!("{}: {}", error.path(), error.inner())));
        }
    }
    Err(Error::Answer("too many unknown members".to_owned()))
}

/// Takes the member at `path` away; false if there is none.
fn remove(value: &mut Value, path: &Path) -> bool {
    let segments: Vec<&Segment> = path.iter().collect();
    let Some((last, parents)) = segments.split_last() else { return false };
    let mut place = value;
    for segment in parents {
        let next = match segment {
            Segment::Map { key } => place.get_mut(key.as_str()),
            Segment::Seq { index } => place.get_mut(*index),
            _ => None,
        };
        let Some(next) = next else { return false };
        place = next;
    }
    match (last, place) {
        (Segment::Map { key }, Value::Object(members)) => members.remove(key.as_str()).is_some(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drover_protocol::{job::Progress, robot::Host};

    #[test]
    fn unknown_members_are_forgiven_at_any_depth() {
        let progress: Progress = decode(br#"{"percent": 5, "eta": 3, "more": {"a": 1}}"#).expect("it is readable");
        assert_eq!(progress.percent, Some(5.0));
        let hosts: Vec<Host> = decode(br#"[{"hostname": "a"}, {"hostname": "b", "gpu": 1}]"#).expect("it is readable");
        assert_eq!(hosts[1].hostname, "b");
    }

    #[test]
    fn wrong_types_and_broken_json_are_refused_with_the_place() {
        let error = decode::<Progress>(br#"{"percent": "much"}"#).expect_err("a text is no number");
        assert!(error.to_string().contains("percent"), "{error}");
        assert!(decode::<Progress>(b"<html>").is_err());
    }
}
