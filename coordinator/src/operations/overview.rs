//! The figures of the console's first page: counters, and looks that are bounded by the size of the fleet and not by its
//! history.

use drover_protocol::{Timestamp, job::Outcome};

use super::{Actor, Caller, census, queue, system};
use crate::{
    domain::{
        alert::Raised,
        permission::Permission,
        queue::{Counters, Queue},
        trigger::Trigger,
    },
    error::{Error, Result},
    store::{Reader, Reading, Scan, Tx, key::Kind, schema::HourOfJobs, table},
};

/// What is shown of each kind.
const MAX_QUEUES: usize = 20;
pub const MAX_RAISED: usize = 10;
const MAX_FIRES: usize = 10;
/// What is looked at of each kind.
const MAX_LOOKED_AT: usize = 1_000;
const HOURS: u64 = 24;
/// Hours of finished jobs that are kept.
const KEPT_HOURS: u64 = 7 * 24;
const HOUR_MILLIS: i64 = 3_600_000;

fn hour_of(at: Timestamp) -> u64 {
    (at.millis() / HOUR_MILLIS).unsigned_abs()
}

/// Counts a job that has finished just now.
pub fn count_finished(tx: &mut Tx, outcome: Outcome) -> Result<()> {
    let number = hour_of(tx.now());
    let known = table::find::<HourOfJobs>(tx, number)?;
    if known.is_none() {
        let end = table::index_start(tx, Kind::JobHour, number.saturating_sub(KEPT_HOURS));
        for (_, old) in Scan::of(tx, Kind::JobHour, ()).below(end).records::<HourOfJobs>(tx, 100)? {
            table::delete::<HourOfJobs>(tx, old.number)?;
        }
    }
    let mut hour = known.unwrap_or(HourOfJobs { number, finished: Default::default() });
    hour.finished[outcome as usize] += 1;
    table::overwrite(tx, &hour)?;
    census::count(tx, |totals| totals.finished_jobs[outcome as usize] += 1)
}

/// Jobs that have finished in this hour and the 23 before it, by outcome.
fn finished(reading: &Reader) -> Result<[u64; Outcome::ALL.len()]> {
    let from = table::index_start(reading, Kind::JobHour, (hour_of(reading.now()) + 1).saturating_sub(HOURS));
    let mut all = [0; Outcome::ALL.len()];
    for (_, hour) in Scan::of(reading, Kind::JobHour, ()).from(from).records::<HourOfJobs>(reading, HOURS as usize)? {
        all.iter_mut().zip(hour.finished).for_each(|(sum, of_hour)| *sum += of_hour);
    }
    Ok(all)
}

/// A queue with its figures.
#[derive(Debug)]
pub struct QueueLook {
    pub queue: Queue,
    pub counters: Counters,
    pub oldest_new_at: Option<Timestamp>,
    pub paused: bool,
}

/// What the first page shows; absent what the caller may not read.
#[derive(Debug, Default)]
pub struct Overview {
    pub fleet: system::Figures,
    pub may_see_robots: bool,
    pub finished: Option<[u64; Outcome::ALL.len()]>,
    pub queues: Option<Vec<QueueLook>>,
    /// All that is not over, newest first.
    pub raised: Option<Vec<Raised>>,
    pub next_fires: Option<Vec<Trigger>>,
}

/// Refuses who may read nothing of it.
pub fn check(caller: &Caller) -> Result<()> {
    if let Actor::Job { .. } = caller.actor {
        return Err(Error::Forbidden("a job's key sees its own job only".to_owned()));
    }
    let parts = [
        Permission::RobotRead,
        Permission::JobRead,
        Permission::QueueRead,
        Permission::AlertRead,
        Permission::TriggerRead,
    ];
    match parts.iter().any(|permission| caller.permissions.contains(*permission)) {
        true => Ok(()),
        false => caller.require(Permission::JobRead),
    }
}

/// The figures as they are now.
pub fn overview(reading: &Reader, caller: &Caller) -> Result<Overview> {
    check(caller)?;
    // The figures are of all there is, which is more than somebody whose roles are limited may see.
    let may = |permission| caller.require_whole(permission).is_ok();
    let mut overview = Overview { may_see_robots: may(Permission::RobotRead), ..Overview::default() };
    if may(Permission::RobotRead) || may(Permission::JobRead) {
        overview.fleet = system::figures(reading)?;
    }
    overview.finished = may(Permission::JobRead).then(|| finished(reading)).transpose()?;
    overview.queues = may(Permission::QueueRead).then(|| queues(reading)).transpose()?;
    overview.raised = may(Permission::AlertRead).then(|| raised(reading)).transpose()?;
    overview.next_fires = may(Permission::TriggerRead).then(|| next_fires(reading)).transpose()?;
    Ok(overview)
}

fn queues(reading: &Reader) -> Result<Vec<QueueLook>> {
    let mut looks = Vec::new();
    for (_, queue) in Scan::of(reading, Kind::Queue, ()).records::<Queue>(reading, MAX_LOOKED_AT)? {
        // The queue may have been deleted since: this is a look in parts.
        let Some(counters) = table::find::<Counters>(reading, queue.id)?.filter(|counters| counters.unfinished() > 0)
        else {
            continue;
        };
        let oldest_new_at = if counters.ready() > 0 { queue::oldest_new_of(reading, &queue)? } else { None };
        let paused = queue.is_paused(reading.now());
        looks.push(QueueLook { queue, counters, oldest_new_at, paused });
    }
    looks.sort_by_key(|look| (look.oldest_new_at.is_none(), look.oldest_new_at));
    looks.truncate(MAX_QUEUES);
    Ok(looks)
}

/// What is not over, up to a bound.
fn raised(reading: &Reader) -> Result<Vec<Raised>> {
    let scan = Scan::of(reading, Kind::RaisedOpen, ()).newest_first();
    let open = scan.indexed::<Raised>(reading, MAX_LOOKED_AT)?;
    Ok(open.into_iter().map(|(_, raised)| raised).collect())
}

fn next_fires(reading: &Reader) -> Result<Vec<Trigger>> {
    let due = Scan::of(reading, Kind::TriggerDue, ()).indexed::<Trigger>(reading, MAX_LOOKED_AT)?;
    let mut firing: Vec<Trigger> =
        due.into_iter().map(|(_, trigger)| trigger).filter(|trigger| trigger.next_fire_at.is_some()).collect();
    firing.sort_by_key(|trigger| trigger.next_fire_at);
    firing.truncate(MAX_FIRES);
    Ok(firing)
}
