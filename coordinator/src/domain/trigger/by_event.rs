//! What a trigger fires on that goes by events, and the events that wait for it.

use drover_protocol::{
    NewsId, Timestamp, TriggerId,
    news::NewsType,
    trigger::{ByEvent, EventOn},
};
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use serde_json::{Map, Value, json};

use crate::domain::news::News;

/// Something that happened and for which a trigger is still to fire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    pub trigger_id: TriggerId,
    pub news_id: NewsId,
    pub at: Timestamp,
    /// What the job is told. In the store it is no longer than the news themselves are: JSON may need six bytes for one.
    #[serde(deserialize_with = "event_of")]
    pub event: Map<String, Value>,
    /// Of the job that is to be started for it: see [`crate::domain::job::Job::chain`].
    #[serde(default)]
    pub chain: u32,
}

/// Stores of older versions have it as JSON in a text.
fn event_of<'de, D: Deserializer<'de>>(from: D) -> Result<Map<String, Value>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stored {
        Members(Map<String, Value>),
        Json(String),
    }
    match Stored::deserialize(from)? {
        Stored::Members(members) => Ok(members),
        Stored::Json(text) => serde_json::from_str(&text).map_err(D::Error::custom),
    }
}

/// The news that tell of it.
pub fn news_of(on: EventOn) -> NewsType {
    match on {
        EventOn::JobFinished => NewsType::JobFinished,
        EventOn::TaskFailed => NewsType::TaskFailed,
        EventOn::FileAdded => NewsType::FileAdded,
        EventOn::RobotOffline => NewsType::RobotOffline,
    }
}

/// Filters that were given although they say nothing about such events.
pub fn needless(settings: &ByEvent) -> Vec<&'static str> {
    let given = [
        ("process", settings.process.is_some(), EventOn::JobFinished),
        ("outcome", settings.outcome.is_some(), EventOn::JobFinished),
        ("queue", settings.queue.is_some(), EventOn::TaskFailed),
        ("folder", settings.folder.is_some(), EventOn::FileAdded),
        ("group", settings.group.is_some(), EventOn::RobotOffline),
    ];
    given.into_iter().filter(|(_, is_given, on)| *is_given && *on != settings.on).map(|(name, ..)| name).collect()
}

/// Whether it happened to what the trigger is about. Ids are compared as the news tell them.
pub fn fits(settings: &ByEvent, news: &News) -> bool {
    let text = |name: &str| news.data.get(name).and_then(Value::as_str);
    let is = |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|wanted| text(name) == Some(wanted));
    let outcome = settings.outcome.map(|outcome| json!(outcome));
    let in_group = settings.group.as_ref().is_none_or(|group| {
        news.data.get("group_ids").and_then(Value::as_array).is_some_and(|groups| groups.iter().any(|id| id == group))
    });
    news.kind == news_of(settings.on)
        && is(&settings.process, "process_id")
        && is(&settings.queue, "queue_id")
        && is(&settings.folder, "folder_id")
        && outcome.is_none_or(|outcome| news.data.get("outcome") == Some(&outcome))
        && in_group
}

/// What the job is told.
pub fn told(news: &News) -> Map<String, Value> {
    let mut event = news.data.clone();
    let subject = &news.subject;
    let members = [
        ("id", json!(news.id)),
        ("type", json!(news.kind)),
        ("time", json!(news.at)),
        ("noun", json!(subject.noun)),
        ("object_id", json!(subject.id)),
        ("name", json!(subject.name)),
    ];
    event.extend(members.map(|(name, value)| (name.to_owned(), value)));
    event
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::news::Subject;

    fn news(kind: NewsType, data: Value) -> News {
        let Value::Object(data) = data else { panic!("it is an object") };
        let id = NewsId::from_uuid(Uuid::from_u128(1));
        News { id, kind, at: Timestamp::EPOCH, subject: Subject::new("job", Uuid::nil(), Some("n")), data }
    }

    fn settings(json: Value) -> ByEvent {
        serde_json::from_value(json).expect("these are settings")
    }

    #[test]
    fn each_filter_is_about_its_own_member() {
        let job = news(NewsType::JobFinished, json!({ "process_id": "p", "outcome": "failed" }));
        for (filter, expected) in [
            (json!({ "on": "job_finished" }), true),
            (json!({ "on": "job_finished", "process": "p", "outcome": "failed" }), true),
            (json!({ "on": "job_finished", "process": "q" }), false),
            (json!({ "on": "job_finished", "outcome": "succeeded" }), false),
            (json!({ "on": "task_failed" }), false),
        ] {
            assert_eq!(fits(&settings(filter.clone()), &job), expected, "{filter}");
        }
        let robot = news(NewsType::RobotOffline, json!({ "group_ids": ["a", "b"] }));
        let by_group = |group: &str| settings(json!({ "on": "robot_offline", "group": group }));
        assert!(fits(&by_group("b"), &robot) && !fits(&by_group("c"), &robot));
        let file = news(NewsType::FileAdded, json!({ "folder_id": "f", "folder": "inbox" }));
        assert!(fits(&settings(json!({ "on": "file_added", "folder": "f" })), &file));
    }

    /// Also what an older version has written.
    #[test]
    fn what_waits_is_read_as_it_was_told() {
        let event = told(&news(NewsType::JobFinished, json!({ "process_id": "p", "labels": { "a": "b" } })));
        let mut old = serde_json::to_value(Pending {
            trigger_id: TriggerId::from_uuid(Uuid::nil()),
            news_id: NewsId::from_uuid(Uuid::nil()),
            at: Timestamp::EPOCH,
            event: event.clone(),
            chain: 0,
        })
        .expect("it is plain");
        let read = |value: &Value| serde_json::from_value::<Pending>(value.clone()).expect("it was written so").event;
        assert_eq!(read(&old), event);
        old["event"] = json!(Value::Object(event.clone()).to_string());
        assert_eq!(read(&old), event);
    }

    #[test]
    fn filters_of_other_events_are_told() {
        let mixed = settings(json!({ "on": "file_added", "folder": "f", "queue": "q", "outcome": "failed" }));
        assert_eq!(needless(&mixed), ["outcome", "queue"]);
    }
}
