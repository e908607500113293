//! News: what happened, as it waits to be told to those who want to know, and which types those are.

use std::collections::BTreeMap;

use drover_protocol::{NewsId, Timestamp, news::NewsType};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct News {
    /// In the order of happening.
    pub id: NewsId,
    pub kind: NewsType,
    pub at: Timestamp,
    pub subject: Subject,
    /// What is to know about it: members whose names do not change, no secrets, no inputs and outputs.
    pub data: Map<String, Value>,
}

/// The object that something happened to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    pub noun: String,
    pub id: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Subject {
    pub fn new(noun: &str, id: Uuid, name: Option<&str>) -> Self {
        Self { noun: noun.to_owned(), id, name: name.map(str::to_owned) }
    }
}

/// Which types of news are wanted in an account, and by how many webhooks, alerts and triggers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    counts: BTreeMap<NewsType, u32>,
}

impl Wanted {
    pub fn has(&self, kind: NewsType) -> bool {
        self.counts.contains_key(&kind)
    }

    pub fn counts(&self) -> &BTreeMap<NewsType, u32> {
        &self.counts
    }

    /// One more wants it.
    pub fn add(&mut self, kind: NewsType) {
        *self.counts.entry(kind).or_default() += 1;
    }

    /// One of them wants it no more.
    pub fn remove(&mut self, kind: NewsType) {
        let left = self.counts.get(&kind).copied().unwrap_or_default().saturating_sub(1);
        match left {
            0 => self.counts.remove(&kind),
            left => self.counts.insert(kind, left),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_wanted_while_anybody_wants_it() {
        let mut wanted = Wanted::default();
        wanted.add(NewsType::JobFinished);
        wanted.add(NewsType::JobFinished);
        wanted.remove(NewsType::JobFinished);
        assert!(wanted.has(NewsType::JobFinished) && !wanted.has(NewsType::JobStarted));
        wanted.remove(NewsType::JobFinished);
        assert_eq!(wanted, Wanted::default());
    }
}
