//! What has happened in an account since it was made, as numbers that only grow.

use drover_protocol::{job::Outcome, trigger::Decision};
use serde::{Deserialize, Serialize};

/// How somebody's wish to sign in went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignInEnd {
    Accepted,
    Refused,
    Throttled,
}

impl SignInEnd {
    pub const ALL: [Self; 3] = [Self::Accepted, Self::Refused, Self::Throttled];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Throttled => "throttled",
        }
    }
}

/// Fields are added and never change their meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Jobs that have finished, by outcome.
    pub finished_jobs: [u64; Outcome::ALL.len()],
    /// Instants and events for which triggers were to fire, by what became of them.
    pub fires: [u64; Decision::ALL.len()],
    pub sign_ins: [u64; SignInEnd::ALL.len()],
    /// Deliveries to webhooks that were taken, and that were given up.
    pub delivered: u64,
    pub given_up: u64,
    /// Alerts that were raised.
    pub raised: u64,
    /// Acts in the audit trails of accounts that are gone; a trail that is there knows its own number.
    pub acts: u64,
}

impl Totals {
    /// These together with others.
    pub fn plus(mut self, other: &Self) -> Self {
        let add = |sums: &mut [u64], others: &[u64]| sums.iter_mut().zip(others).for_each(|(sum, other)| *sum += other);
        add(&mut self.finished_jobs, &other.finished_jobs);
        add(&mut self.fires, &other.fires);
        add(&mut self.sign_ins, &other.sign_ins);
        self.delivered += other.delivered;
        self.given_up += other.given_up;
        self.raised += other.raised;
        self.acts += other.acts;
        self
    }
}
