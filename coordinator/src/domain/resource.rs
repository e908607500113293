//! Resources and their values: what each kind takes, and which value counts for whom.

use drover_protocol::{
    ResourceId, RobotGroupId, RobotId, Timestamp,
    json::{MAX_DEPTH, is_too_deep},
    resource::{Calendar, Credential, MAX_SEALED_BYTES, MAX_SHOWN_BYTES, MAX_VALUE_BYTES, ResourceKind, ResourceScope},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    error::{Error, Result},
    pointer::pointer_of,
};

/// Robots and groups that may have a value of their own, of one resource.
pub const MAX_OVERRIDES: u32 = 1_000;
/// What `expiring=true` means.
pub const EXPIRING_DAYS: u64 = 30;
/// So long before it expires, an event says so: a week.
pub const TELL_BEFORE_SECONDS: u64 = 604_800;
const MAX_CALENDAR_DAYS: usize = 20_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    pub id: ResourceId,
    pub name: String,
    pub description: String,
    pub kind: ResourceKind,
    pub writable_by_jobs: bool,
    pub expires_at: Option<Timestamp>,
    /// The number of the newest version of any of its values.
    pub last_version: u64,
    pub override_count: u32,
    /// How far its expiry was told by events.
    pub told: Told,
    /// It was deleted: nobody finds it any more, and what is left of its values is being removed.
    pub removed: bool,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub updated_by: String,
    pub revision: u64,
}

/// Which events of its expiry a resource has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    Nothing,
    Expiring,
    Expired,
}

impl Resource {
    /// What is to be told of its expiry at this time.
    pub fn to_tell(&self, now: Timestamp) -> Told {
        match self.expires_at {
            Some(at) if at <= now => Told::Expired,
            Some(at) if at <= now.plus_seconds(TELL_BEFORE_SECONDS) => Told::Expiring,
            _ => Told::Nothing,
        }
    }

    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// For whom a value is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    Default,
    Group(RobotGroupId),
    Robot(RobotId),
}

impl Scope {
    pub fn word(self) -> ResourceScope {
        match self {
            Self::Default => ResourceScope::Default,
            Self::Group(_) => ResourceScope::Group,
            Self::Robot(_) => ResourceScope::Robot,
        }
    }

    /// Of the robot or group.
    pub fn id(self) -> Option<Uuid> {
        match self {
            Self::Default => None,
            Self::Group(id) => Some(id.uuid()),
            Self::Robot(id) => Some(id.uuid()),
        }
    }
}

/// One version of a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResourceValue {
    pub resource_id: ResourceId,
    /// Counted over all values of the resource.
    pub number: u64,
    /// Under which its content lies, if that is large.
    pub id: Uuid,
    pub scope: Scope,
    /// It is the one that counts for its scope.
    pub current: bool,
    /// As JSON.
    pub size_bytes: u64,
    /// JSON, sealed if the kind is; absent if it lies apart.
    #[serde(with = "serde_bytes")]
    pub content: Option<Vec<u8>>,
    pub sealed: bool,
    pub at: Timestamp,
    pub by: String,
}

impl ResourceValue {
    /// The value, where it may stand in a list.
    pub fn shown(&self) -> Option<Value> {
        let content = self.content.as_ref().filter(|_| !self.sealed && self.size_bytes <= MAX_SHOWN_BYTES as u64)?;
        serde_json::from_slice(content).ok()
    }
}

/// A sealed value that was handed to an attempt: which version of it the job reads, and the agent masks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed {
    pub resource_id: ResourceId,
    pub number: u64,
}

/// The value as JSON, if the kind takes it.
pub fn checked(kind: ResourceKind, value: &Value, pointer: &str) -> Result<Vec<u8>> {
    let refuse = |what: &str| Err(Error::invalid(pointer, format!("must be {what}")));
    let value = match kind {
        ResourceKind::Text if !value.is_string() => return refuse("a text"),
        ResourceKind::Secret if value.as_str().is_none_or(str::is_empty) => return refuse("a text that is not empty"),
        ResourceKind::Integer if value.as_i64().is_none() => return refuse("a whole number from -2^63 to 2^63-1"),
        ResourceKind::Number if !value.is_number() => return refuse("a number"),
        ResourceKind::Boolean if !value.is_boolean() => return refuse("true or false"),
        ResourceKind::Json if is_too_deep(value) => {
            return Err(Error::invalid(pointer, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        ResourceKind::Credential => {
            let credential: Credential = typed(value, pointer)?;
            if credential.username.is_empty() && credential.password.is_empty() {
                return refuse("a username and a password");
            }
            value.clone()
        }
        ResourceKind::Calendar => to_value(&tidied(typed(value, pointer)?, pointer)?)?,
        _ => value.clone(),
    };
    let json = serde_json::to_vec(&value).map_err(unwritable)?;
    let limit = if kind.is_sealed() { MAX_SEALED_BYTES } else { MAX_VALUE_BYTES };
    let size = value.as_str().map_or(json.len(), str::len);
    if size > limit {
        return Err(Error::TooLarge(format!(
            "the value is over the limit of {limit} bytes; put it into a file of a storage folder"
        )));
    }
    Ok(json)
}

fn unwritable(error: serde_json::Error) -> Error {
    Error::Internal(format!("a value cannot be written: {error}"))
}

fn to_value<T: Serialize>(value: &T) -> Result<Value> {
    serde_json::to_value(value).map_err(unwritable)
}

fn typed<T: DeserializeOwned>(value: &Value, pointer: &str) -> Result<T> {
    if !value.is_object() {
        return Err(Error::invalid(pointer, "must be an object"));
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let at = pointer_of(error.path());
        // What is said of a value that does not fit must not repeat it: it may be a secret.
        let message = error.inner().to_string();
        let detail = match message.split_once('`') {
            Some((start, rest)) if start.starts_with("missing field") || start.starts_with("unknown field") => {
                format!("{start}{}", rest.split('`').next().unwrap_or_default())
            }
            // After the last of these come the words that there are, which are no secret.
            Some((start, rest)) if start.starts_with("unknown variant") => {
                let words = rest.rsplit_once("`, expected ").map_or("another word", |(_, words)| words);
                format!("must be {}", words.replace('`', ""))
            }
            _ => "does not fit this kind of resource".to_owned(),
        };
        Error::invalid(format!("{pointer}{at}"), detail)
    })
}

/// A calendar with its days in order, each once.
pub fn tidied(mut calendar: Calendar, pointer: &str) -> Result<Calendar> {
    calendar.rest_days.sort_unstable();
    calendar.rest_days.dedup();
    for (name, days) in [("holidays", &mut calendar.holidays), ("working_days", &mut calendar.working_days)] {
        if days.len() > MAX_CALENDAR_DAYS {
            return Err(Error::invalid(format!("{pointer}/{name}"), format!("more than {MAX_CALENDAR_DAYS} days")));
        }
        for (number, day) in days.iter().enumerate() {
            if !is_date(day) {
                let at = format!("{pointer}/{name}/{number}");
                return Err(Error::invalid(at, "is not a date such as 2026-01-01"));
            }
        }
        days.sort_unstable();
        days.dedup();
    }
    Ok(calendar)
}

/// A date of the calendar in the one form `YYYY-MM-DD`.
fn is_date(text: &str) -> bool {
    text.len() == 10 && text.is_ascii() && format!("{text}T00:00:00.000Z").parse::<Timestamp>().is_ok()
}

/// The text of a sealed value that must not leave the host of a robot: a secret, or the password of a credential. A user
/// name is often a common word; masked, it would spoil the names and texts of outputs in which it occurs.
pub fn text_to_mask(json: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(json).ok()?;
    let secret = value.get("password").unwrap_or(&value).as_str()?;
    Some(secret.to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Each kind takes what it is for, and nothing of another kind.
    #[test]
    fn kinds_take_what_they_are_for() {
        use ResourceKind as K;
        let good = [
            (K::Text, json!("x")),
            (K::Text, json!("")),
            (K::Integer, json!(-3)),
            (K::Number, json!(1.5)),
            (K::Boolean, json!(false)),
            (K::Json, json!(null)),
            (K::Json, json!({"a": [1]})),
            (K::Secret, json!("s")),
            (K::Credential, json!({"username": "u", "password": ""})),
            (K::Calendar, json!({"rest_days": ["sunday"], "holidays": ["2024-02-29"]})),
        ];
        for (kind, value) in good {
            assert!(checked(kind, &value, "/value").is_ok(), "{kind:?} {value}");
        }
        let bad = [
            (K::Text, json!(1), "/value"),
            (K::Integer, json!(1.5), "/value"),
            (K::Integer, json!(u64::MAX), "/value"),
            (K::Number, json!("1"), "/value"),
            (K::Boolean, json!(0), "/value"),
            (K::Secret, json!(""), "/value"),
            (K::Credential, json!("u:p"), "/value"),
            (K::Credential, json!({"username": "u"}), "/value"),
            (K::Credential, json!({"username": 5, "password": "p"}), "/value/username"),
            (K::Calendar, json!({"holidays": ["2023-02-29"]}), "/value/holidays/0"),
            (K::Calendar, json!({"holidays": ["2026-1-1"]}), "/value/holidays/0"),
            (K::Calendar, json!({"rest_days": ["Sunday"]}), "/value/rest_days/0"),
            (K::Calendar, json!({"free": []}), "/value"),
        ];
        for (kind, value, at) in bad {
            match checked(kind, &value, "/value") {
                Err(Error::Invalid(fields)) => assert!(fields[0].pointer.starts_with(at), "{fields:?}"),
                other => panic!("{kind:?} {value}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_refusal_of_a_word_says_which_there_are() {
        let days = json!({ "rest_days": ["`, expected one of `caturday"] });
        match checked(ResourceKind::Calendar, &days, "/value") {
            Err(Error::Invalid(fields)) => assert_eq!(
                fields[0].detail,
                "must be one of monday, tuesday, wednesday, thursday, friday, saturday, sunday"
            ),
            other => panic!("{other:?}"),
        }
    }

    /// A refusal is read by people and kept in logs: it must not hold the value.
    #[test]
    fn a_refusal_never_repeats_the_value() {
        for value in [json!({"username": "u", "password": 12345678}), json!({"username": "u", "passwort": "hunter2x"})]
        {
            let error = checked(ResourceKind::Credential, &value, "/value").expect_err("it does not fit");
            let text = format!("{error:?}");
            assert!(!text.contains("12345678") && !text.contains("hunter2x"), "{text}");
        }
    }

    #[test]
    fn only_the_secret_part_is_masked() {
        let masked = |value: Value| text_to_mask(value.to_string().as_bytes());
        assert_eq!(masked(json!("s3cret")).as_deref(), Some("s3cret"));
        assert_eq!(masked(json!({"username": "invoice", "password": "p4ss"})).as_deref(), Some("p4ss"));
        assert_eq!(masked(json!({"username": "invoice", "password": ""})), None);
    }

    #[test]
    fn sizes_are_limited_and_calendars_tidied() {
        let large = json!("x".repeat(MAX_VALUE_BYTES + 1));
        assert!(matches!(checked(ResourceKind::Text, &large, "/value"), Err(Error::TooLarge(_))));
        assert!(checked(ResourceKind::Text, &json!("x".repeat(MAX_VALUE_BYTES)), "/value").is_ok());
        let secret = json!("x".repeat(MAX_SEALED_BYTES + 1));
        assert!(matches!(checked(ResourceKind::Secret, &secret, "/value"), Err(Error::TooLarge(_))));
        let days = json!({"rest_days": ["sunday", "saturday", "sunday"], "holidays": ["2026-05-01", "2026-01-01"]});
        let tidy = checked(ResourceKind::Calendar, &days, "/value").expect("it fits");
        let expected = json!({"rest_days": ["saturday", "sunday"], "holidays": ["2026-01-01", "2026-05-01"],
            "working_days": []});
        assert_eq!(serde_json::from_slice::<Value>(&tidy).expect("it is JSON"), expected);
    }
}
