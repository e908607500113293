//! Alerts: what is watched, what was raised, and when an e-mail about it is tried again.

use drover_protocol::{
    AlertId, NewsId, ProcessId, QueueId, RaisedAlertId, RobotGroupId, Timestamp, WebhookId,
    alert::{AlertWhen, RaisedState},
    job::Outcome,
    news::NewsType,
};
use serde::{Deserialize, Serialize};

use super::news::Subject;

/// So long before it expires a resource is told of, unless the alert says otherwise: a week.
pub const EXPIRING_SECONDS: u64 = 604_800;
/// A robot whose disk has less is told of.
pub const LOW_ROBOT_DISK_BYTES: u64 = 1 << 30;
/// The coordinator's disk is low when less than one part of so many is free.
pub const LOW_DISK_PART: u64 = 10;
/// An e-mail is tried for a day.
pub const MAIL_GIVE_UP_SECONDS: u64 = 86_400;
const FIRST_MAIL_RETRY_SECONDS: u64 = 30;
const LONGEST_MAIL_RETRY_SECONDS: u64 = 3_600;

/// Where people are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Channel {
    Email(Vec<String>),
    Webhook(WebhookId),
    Console,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    pub id: AlertId,
    pub name: String,
    pub description: String,
    pub enabled: bool,
    pub when: AlertWhen,
    pub process_id: Option<ProcessId>,
    pub queue_id: Option<QueueId>,
    pub group_id: Option<RobotGroupId>,
    pub after_seconds: Option<u64>,
    pub channels: Vec<Channel>,
    pub created_at: Timestamp,
    pub revision: u64,
}

impl Alert {
    /// The news by which it is raised and ends; none where it goes by time.
    pub fn wants(&self) -> &'static [NewsType] {
        match self.when {
            _ if !self.enabled => &[],
            AlertWhen::JobFailed | AlertWhen::JobLost => &[NewsType::JobFinished],
            AlertWhen::TriggerMissed => &[NewsType::TriggerMissed, NewsType::TriggerFired],
            AlertWhen::JobWaiting
            | AlertWhen::JobRunningLong
            | AlertWhen::TaskOverSla
            | AlertWhen::RobotOffline
            | AlertWhen::ResourceExpiring
            | AlertWhen::DiskLow => &[],
        }
    }

    /// Whether it is raised by something that happens, and not by a state that lasts: then nothing but the next of its kind
    /// says that it is over, and whoever has seen to it can say so as well.
    pub fn is_momentary(&self) -> bool {
        matches!(self.when, AlertWhen::JobFailed | AlertWhen::JobLost | AlertWhen::TriggerMissed)
    }

    pub fn webhooks(&self) -> impl Iterator<Item = WebhookId> {
        self.channels.iter().filter_map(|channel| match channel {
            Channel::Webhook(id) => Some(*id),
            Channel::Email(_) | Channel::Console => None,
        })
    }
}

/// What the end of a job says to alerts about jobs: raised, over, or nothing.
pub fn verdict(when: AlertWhen, outcome: Outcome) -> Option<bool> {
    match (when, outcome) {
        (AlertWhen::JobFailed, Outcome::Failed | Outcome::TimedOut) => Some(true),
        (AlertWhen::JobLost, Outcome::Lost) => Some(true),
        (AlertWhen::JobFailed | AlertWhen::JobLost, Outcome::Succeeded) => Some(false),
        _ => None,
    }
}

/// What is the matter with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matter {
    pub subject: Subject,
    pub text: String,
}

/// That somebody has seen to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    pub at: Timestamp,
    pub by: String,
    pub note: String,
}

/// What an alert has raised for one object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Raised {
    pub id: RaisedAlertId,
    pub alert_id: AlertId,
    pub alert_name: String,
    pub when: AlertWhen,
    pub subject: Subject,
    pub text: String,
    pub count: u64,
    pub raised_at: Timestamp,
    pub last_at: Timestamp,
    /// When and why it was over.
    pub ended: Option<(Timestamp, String)>,
    pub acknowledged: Option<Acknowledged>,
}

impl Raised {
    pub fn state(&self) -> RaisedState {
        if self.ended.is_some() { RaisedState::Ended } else { RaisedState::Raised }
    }
}

/// An e-mail on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mail {
    /// That of the news it is about, with the address: the same mail at every try.
    pub id: NewsId,
    pub alert_id: AlertId,
    pub to: Vec<String>,
    pub subject: String,
    pub text: String,
    pub created_at: Timestamp,
    pub next_try_at: Timestamp,
    pub tries: u32,
}

impl Mail {
    /// Takes a try in vain; `false` if it is given up by that.
    pub fn failed(&mut self, now: Timestamp) -> bool {
        let doubled = FIRST_MAIL_RETRY_SECONDS.saturating_mul(1 << self.tries.min(20));
        self.tries += 1;
        self.next_try_at = now.plus_seconds(doubled.min(LONGEST_MAIL_RETRY_SECONDS));
        self.next_try_at <= self.created_at.plus_seconds(MAIL_GIVE_UP_SECONDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_job_raises_ends_or_leaves_alone() {
        let cases = [
            (AlertWhen::JobFailed, Outcome::Failed, Some(true)),
            (AlertWhen::JobFailed, Outcome::TimedOut, Some(true)),
            (AlertWhen::JobFailed, Outcome::Lost, None),
            (AlertWhen::JobFailed, Outcome::Stopped, None),
            (AlertWhen::JobFailed, Outcome::Succeeded, Some(false)),
            (AlertWhen::JobLost, Outcome::Lost, Some(true)),
            (AlertWhen::JobLost, Outcome::Failed, None),
            (AlertWhen::JobLost, Outcome::Succeeded, Some(false)),
            (AlertWhen::DiskLow, Outcome::Failed, None),
        ];
        for (when, outcome, expected) in cases {
            assert_eq!(verdict(when, outcome), expected, "{when:?} {outcome:?}");
        }
    }

    #[test]
    fn a_mail_is_tried_for_a_day() {
        let start = Timestamp::from_millis(0);
        let mut mail = Mail {
            id: NewsId::from_uuid(uuid::Uuid::from_u128(1)),
            alert_id: AlertId::from_uuid(uuid::Uuid::from_u128(2)),
            to: vec![],
            subject: String::new(),
            text: String::new(),
            created_at: start,
            next_try_at: start,
            tries: 0,
        };
        assert!(mail.failed(start));
        assert_eq!(mail.next_try_at, start.plus_seconds(30));
        while mail.failed(mail.next_try_at) {}
        assert!((25..40).contains(&mail.tries), "{}", mail.tries);
    }
}
