//! How many objects of each noun there are in an account, and what has happened in it: figures for those who watch the
//! coordinator. What is counted one by one is counted up to a bound.

use std::{borrow::Cow, collections::BTreeMap};

use drover_protocol::{
    AccountId,
    job::Outcome,
    resource::ResourceKind,
    trigger::{Decision, TriggerKind},
};
use serde::Serialize;

use super::system::MAX_COUNTED;
use crate::{
    domain::{
        account::User,
        alert::Alert,
        key::{ApiKey, Owner},
        queue::Queue,
        resource::Resource,
        storage::StorageFolder,
        totals::{SignInEnd, Totals},
        trigger::Trigger,
        webhook::Webhook,
    },
    error::Result,
    store::{Reader, Reading, Record, Scan, Tx, check_audit, key::Kind, table},
};

/// The name of a figure, with its labels.
pub type Name = (&'static str, Vec<(&'static str, Cow<'static, str>)>);

/// Figures by their names.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// What there is.
    pub gauges: BTreeMap<Name, u64>,
    /// What has happened.
    pub counters: BTreeMap<Name, u64>,
}

impl Census {
    /// This together with the figures of another account.
    pub fn plus(mut self, other: Self) -> Self {
        other.gauges.into_iter().for_each(|(name, value)| *self.gauges.entry(name).or_default() += value);
        other.counters.into_iter().for_each(|(name, value)| *self.counters.entry(name).or_default() += value);
        self
    }

    fn gauge(&mut self, name: &'static str, labels: &[(&'static str, Cow<'static, str>)], value: u64) {
        *self.gauges.entry((name, labels.to_vec())).or_default() += value;
    }

    fn counter(&mut self, name: &'static str, labels: &[(&'static str, Cow<'static, str>)], value: u64) {
        *self.counters.entry((name, labels.to_vec())).or_default() += value;
    }
}

/// The word of a list on the wire.
fn word(word: impl Serialize) -> Cow<'static, str> {
    match serde_json::to_value(word) {
        Ok(serde_json::Value::String(text)) => Cow::Owned(text),
        _ => Cow::Borrowed("unknown"),
    }
}

fn yes_or_no(is: bool) -> Cow<'static, str> {
    Cow::Borrowed(if is { "true" } else { "false" })
}

/// Counts something that has happened.
pub fn count(tx: &mut Tx, change: impl FnOnce(&mut Totals)) -> Result<()> {
    let mut totals = table::find::<Totals>(tx, ())?.unwrap_or_default();
    change(&mut totals);
    table::overwrite(tx, &totals)
}

fn all<R: Record>(reading: &Reader) -> Result<impl Iterator<Item = R>> {
    let found = Scan::of(reading, R::KIND, ()).records::<R>(reading, MAX_COUNTED)?;
    Ok(found.into_iter().map(|(_, record)| record))
}

/// The figures of an account.
pub fn census(reading: &Reader) -> Result<Census> {
    let mut census = Census::default();
    count_objects(reading, &mut census)?;
    count_people(reading, &mut census)?;
    count_triggers(reading, &mut census)?;
    count_files(reading, &mut census)?;
    count_totals(&totals(reading)?, &mut census);
    Ok(census)
}

/// What has happened in an account.
fn totals(reading: &dyn Reading) -> Result<Totals> {
    let acts = check_audit::head(reading.view(), reading.account())?.seq;
    let totals = table::find::<Totals>(reading, ())?.unwrap_or_default();
    Ok(Totals { acts: totals.acts + acts, ..totals })
}

/// What has happened in accounts that are gone. `reading` is of the system account.
pub fn of_the_gone(reading: &Reader) -> Result<Census> {
    let mut census = Census::default();
    count_totals(&table::find::<Totals>(reading, ())?.unwrap_or_default(), &mut census);
    Ok(census)
}

/// An account goes: what has happened in it has happened all the same. `tx` is of the system account.
pub fn account_goes(tx: &mut Tx, id: AccountId) -> Result<()> {
    let of_account = tx.in_account(id, |tx| totals(tx))?;
    count(tx, |sums| *sums = std::mem::take(sums).plus(&of_account))
}

fn count_totals(totals: &Totals, census: &mut Census) {
    census.counter("drover_audit_acts_total", &[], totals.acts);
    for outcome in Outcome::ALL {
        let labels = [("outcome", Cow::Borrowed(outcome.as_str()))];
        census.counter("drover_jobs_finished_total", &labels, totals.finished_jobs[outcome as usize]);
    }
    for decision in Decision::ALL {
        census.counter("drover_fires_total", &[("decision", word(decision))], totals.fires[decision as usize]);
    }
    for end in SignInEnd::ALL {
        let labels = [("end", Cow::Borrowed(end.as_str()))];
        census.counter("drover_sign_ins_total", &labels, totals.sign_ins[end as usize]);
    }
    for (state, value) in [("delivered", totals.delivered), ("given_up", totals.given_up)] {
        census.counter("drover_deliveries_ended_total", &[("state", Cow::Borrowed(state))], value);
    }
    census.counter("drover_alerts_raised_total", &[], totals.raised);
}

fn count_objects(reading: &Reader, census: &mut Census) -> Result<()> {
    for (name, kind) in [
        ("drover_robot_groups", Kind::RobotGroup),
        ("drover_processes", Kind::Process),
        ("drover_process_versions", Kind::ProcessVersion),
        ("drover_roles", Kind::OwnRole),
    ] {
        census.gauge(name, &[], Scan::of(reading, kind, ()).pairs(reading, MAX_COUNTED)?.len() as u64);
    }
    for paused in [false, true] {
        census.gauge("drover_queues", &[("paused", yes_or_no(paused))], 0);
    }
    for queue in all::<Queue>(reading)? {
        census.gauge("drover_queues", &[("paused", yes_or_no(queue.is_paused(reading.now())))], 1);
    }
    for kind in ResourceKind::ALL {
        census.gauge("drover_resources", &[("kind", word(kind))], 0);
    }
    for resource in all::<Resource>(reading)?.filter(|resource| !resource.removed) {
        census.gauge("drover_resources", &[("kind", word(resource.kind))], 1);
    }
    for enabled in [false, true] {
        census.gauge("drover_webhooks", &[("enabled", yes_or_no(enabled))], 0);
        census.gauge("drover_alerts", &[("enabled", yes_or_no(enabled))], 0);
    }
    for webhook in all::<Webhook>(reading)? {
        census.gauge("drover_webhooks", &[("enabled", yes_or_no(webhook.enabled))], 1);
    }
    for alert in all::<Alert>(reading)? {
        census.gauge("drover_alerts", &[("enabled", yes_or_no(alert.enabled))], 1);
    }
    Ok(())
}

fn count_people(reading: &Reader, census: &mut Census) -> Result<()> {
    for blocked in [false, true] {
        census.gauge("drover_users", &[("blocked", yes_or_no(blocked))], 0);
    }
    for user in all::<User>(reading)? {
        census.gauge("drover_users", &[("blocked", yes_or_no(user.blocked))], 1);
    }
    for holder in ["user", "robot", "job"] {
        census.gauge("drover_keys", &[("holder", Cow::Borrowed(holder))], 0);
    }
    census.gauge("drover_sessions", &[], 0);
    for key in all::<ApiKey>(reading)?.filter(|key| key.is_good(reading.now())) {
        let holder = match key.owner {
            Owner::User(_) if key.session.is_some() => {
                census.gauge("drover_sessions", &[], 1);
                continue;
            }
            Owner::User(_) => "user",
            Owner::Robot(_) => "robot",
            Owner::Job { .. } => "job",
        };
        census.gauge("drover_keys", &[("holder", Cow::Borrowed(holder))], 1);
    }
    Ok(())
}

fn count_triggers(reading: &Reader, census: &mut Census) -> Result<()> {
    let labels = |kind: TriggerKind, enabled: bool| [("kind", word(kind)), ("enabled", yes_or_no(enabled))];
    for kind in TriggerKind::ALL {
        for enabled in [false, true] {
            census.gauge("drover_triggers", &labels(kind, enabled), 0);
        }
    }
    for trigger in all::<Trigger>(reading)? {
        census.gauge("drover_triggers", &labels(trigger.rule.kind(), trigger.enabled), 1);
    }
    Ok(())
}

/// By the figures that folders keep of themselves.
fn count_files(reading: &Reader, census: &mut Census) -> Result<()> {
    let (mut folders, mut files, mut bytes) = (0, 0, 0);
    for folder in all::<StorageFolder>(reading)?.filter(|folder| !folder.deleted) {
        folders += 1;
        files += folder.file_count;
        bytes += folder.used_bytes;
    }
    for (name, value) in
        [("drover_storage_folders", folders), ("drover_storage_files", files), ("drover_storage_bytes", bytes)]
    {
        census.gauge(name, &[], value);
    }
    Ok(())
}
