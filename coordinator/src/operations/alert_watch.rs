//! What alerts that go by a lasting state watch: what is the matter at this moment. Looked at outside of transactions, in
//! pages of a bounded number.

use std::collections::BTreeMap;

use drover_protocol::{ProcessId, RobotId, Timestamp, alert::AlertWhen, job::JobState};
use uuid::Uuid;

use crate::{
    domain::{
        alert::{Alert, EXPIRING_SECONDS, LOW_DISK_PART, LOW_ROBOT_DISK_BYTES, Matter},
        job::{Job, State, Target},
        news::Subject,
        queue::Queue,
        resource::Resource,
        robot::{OFFLINE_AFTER_SECONDS, Robot, health_slot},
    },
    error::Result,
    operations::queue,
    store::{Reader, Reading, Scan, key::Kind, schema, schema::HealthSample, table},
};

const PAGE: usize = 1_000;
/// Pages that are looked at in one pass: what lies behind them is looked at when those before are no more.
const MAX_PAGES: usize = 20;
/// The disk of a robot is what its latest report says, if that is not older.
const SAMPLE_SECONDS: u64 = 120;

/// The disk on which the coordinator keeps its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    pub free_bytes: u64,
    pub total_bytes: u64,
    /// Whether writes are refused for lack of space.
    pub is_full: bool,
}

impl Disk {
    pub fn is_low(&self) -> bool {
        self.is_full || self.free_bytes < self.total_bytes / LOW_DISK_PART
    }
}

/// What is the matter now, as far as the alert is concerned.
pub fn matters(reading: &Reader, alert: &Alert, disk: Option<Disk>) -> Result<Vec<Matter>> {
    match alert.when {
        AlertWhen::JobWaiting => waiting(reading, alert),
        AlertWhen::JobRunningLong => running_long(reading, alert),
        AlertWhen::TaskOverSla => over_sla(reading, alert),
        AlertWhen::RobotOffline => offline(reading, alert),
        AlertWhen::ResourceExpiring => expiring(reading, alert),
        AlertWhen::DiskLow => low_disks(reading, alert, disk),
        AlertWhen::JobFailed | AlertWhen::JobLost | AlertWhen::TriggerMissed => Ok(Vec::new()),
    }
}

/// Goes through the records of a scan; `body` says whether to go on.
fn each<R: crate::store::Record>(
    reading: &Reader,
    mut scan: Scan,
    via_index: bool,
    mut body: impl FnMut(R) -> Result<bool>,
) -> Result<()> {
    for _ in 0..MAX_PAGES {
        let found: Vec<(Vec<u8>, R)> =
            if via_index { scan.indexed(reading, PAGE)? } else { scan.records(reading, PAGE)? };
        let Some((last, _)) = found.last() else { return Ok(()) };
        scan = scan.after(&last.clone());
        let is_last = found.len() < PAGE;
        for (_, record) in found {
            if !body(record)? {
                return Ok(());
            }
        }
        if is_last {
            return Ok(());
        }
    }
    Ok(())
}

/// Jobs of one process that take too long.
struct Late {
    process: String,
    count: usize,
    /// The one that takes longest, and since when.
    worst: (Timestamp, drover_protocol::JobId),
}

#[derive(Default)]
struct LateJobs(BTreeMap<ProcessId, Late>);

impl LateJobs {
    fn add(&mut self, job: &Job, since: Timestamp) {
        let worst = (since, job.id);
        let late =
            self.0.entry(job.process_id).or_insert_with(|| Late { process: job.process_name.clone(), count: 0, worst });
        late.count += 1;
        late.worst = late.worst.min(worst);
    }

    /// `one` and `many` say what a job, and what several, do.
    fn matters(self, one: &str, many: &str) -> Vec<Matter> {
        let matter = |(id, late): (ProcessId, Late)| {
            let (since, job) = late.worst;
            let text = match late.count {
                1 => format!("job {job} of {} {one} since {since}", late.process),
                count => format!("{count} jobs of {} {many}, job {job} since {since}", late.process),
            };
            Matter { subject: Subject::new("process", id.uuid(), Some(&late.process)), text }
        };
        self.0.into_iter().map(matter).collect()
    }
}

fn concerns(alert: &Alert, job: &Job) -> bool {
    alert.process_id.is_none_or(|process| job.process_id == process)
        && alert.group_id.is_none_or(|group| job.target == Target::Group(group))
}

fn waiting(reading: &Reader, alert: &Alert) -> Result<Vec<Matter>> {
    let before = reading.now().minus_seconds(alert.after_seconds.unwrap_or_default());
    let mut late = LateJobs::default();
    let scan = Scan::of(reading, Kind::JobByPhase, schema::unfinished_phase(JobState::Waiting));
    each(reading, scan, true, |job: Job| {
        // It may have gone on since the index was read: this is a look in parts.
        let State::Waiting { not_before } = job.state else { return Ok(true) };
        // One that was given back waits since then.
        let times = [Some(job.created_at), not_before, job.assigned_at, job.finished_at];
        let since = times.into_iter().flatten().max().unwrap_or(job.created_at);
        if since <= before && concerns(alert, &job) {
            late.add(&job, since);
        }
        Ok(job.created_at <= before)
    })?;
    Ok(late.matters("waits", "wait"))
}

fn running_long(reading: &Reader, alert: &Alert) -> Result<Vec<Matter>> {
    let before = reading.now().minus_seconds(alert.after_seconds.unwrap_or_default());
    let mut late = LateJobs::default();
    for state in [JobState::Running, JobState::Silent, JobState::Stopping] {
        let scan = Scan::of(reading, Kind::JobByPhase, schema::unfinished_phase(state));
        each(reading, scan, true, |job: Job| {
            let is_long = |since: &Timestamp| *since <= before && job.is_held() && concerns(alert, &job);
            if let Some(since) = job.started_at.filter(is_long) {
                late.add(&job, since);
            }
            Ok(job.created_at <= before)
        })?;
    }
    Ok(late.matters("runs", "run"))
}

fn over_sla(reading: &Reader, alert: &Alert) -> Result<Vec<Matter>> {
    let mut matters = Vec::new();
    let mut look = |queue: Queue| -> Result<bool> {
        let Some(seconds) = alert.after_seconds.or(queue.sla_seconds) else { return Ok(true) };
        if let Some(since) = queue::oldest_new_of(reading, &queue)?
            && since <= reading.now().minus_seconds(seconds)
        {
            let text = format!("a task of the queue {} waits since {since}, longer than {seconds} s", queue.name);
            matters.push(Matter { subject: Subject::new("queue", queue.id.uuid(), Some(&queue.name)), text });
        }
        Ok(true)
    };
    match alert.queue_id {
        Some(id) => {
            if let Some(queue) = table::find(reading, id)? {
                look(queue)?;
            }
        }
        None => each(reading, Scan::of(reading, Kind::Queue, ()), false, look)?,
    }
    Ok(matters)
}

/// The robots that an alert is about.
fn robots(reading: &Reader, alert: &Alert, body: impl FnMut(Robot) -> Result<bool>) -> Result<()> {
    let group = alert.group_id.map(|id| table::find::<crate::domain::robot::RobotGroup>(reading, id)).transpose()?;
    match group {
        // A group that is gone has no robots.
        Some(None) => Ok(()),
        Some(Some(group)) if !group.is_all() => {
            each(reading, Scan::of(reading, Kind::RobotByGroup, group.id), true, body)
        }
        _ => each(reading, Scan::of(reading, Kind::Robot, ()), false, body),
    }
}

fn of_robot(robot: &Robot) -> Subject {
    Subject::new("robot", robot.id.uuid(), Some(&robot.name))
}

fn offline(reading: &Reader, alert: &Alert) -> Result<Vec<Matter>> {
    let seconds = alert.after_seconds.unwrap_or(OFFLINE_AFTER_SECONDS);
    let before = reading.now().minus_seconds(seconds);
    let mut matters = Vec::new();
    robots(reading, alert, |robot| {
        if let Some(seen) = robot.last_seen_at.filter(|seen| robot.enabled && *seen <= before) {
            let text = format!("nothing was heard of the robot {} since {seen}", robot.name);
            matters.push(Matter { subject: of_robot(&robot), text });
        }
        Ok(true)
    })?;
    Ok(matters)
}

fn expiring(reading: &Reader, alert: &Alert) -> Result<Vec<Matter>> {
    let soon = reading.now().plus_seconds(alert.after_seconds.unwrap_or(EXPIRING_SECONDS) + 1);
    let end = table::index_start(reading, Kind::ResourceByExpiry, soon);
    let mut matters = Vec::new();
    each(reading, Scan::of(reading, Kind::ResourceByExpiry, ()).below(end), true, |resource: Resource| {
        if let Some(at) = resource.expires_at.filter(|_| !resource.removed) {
            let how = if at <= reading.now() { "has expired" } else { "expires" };
            let text = format!("the resource {} {how} at {at}", resource.name);
            matters.push(Matter { subject: Subject::new("resource", resource.id.uuid(), Some(&resource.name)), text });
        }
        Ok(true)
    })?;
    Ok(matters)
}

fn low_disks(reading: &Reader, alert: &Alert, disk: Option<Disk>) -> Result<Vec<Matter>> {
    let mut matters = Vec::new();
    if let Some(disk) = disk.filter(|disk| alert.group_id.is_none() && disk.is_low()) {
        let text = match disk.is_full {
            true => "the disk of the coordinator is full; it refuses to write".to_owned(),
            // In whole percents, so that it is not told anew with every file.
            false => format!("of the coordinator's disk only {} % are free", percent(disk)),
        };
        matters.push(Matter { subject: Subject::new("coordinator", Uuid::nil(), None), text });
    }
    robots(reading, alert, |robot| {
        if let Some(free) = free_bytes(reading, robot.id)?.filter(|free| *free < LOW_ROBOT_DISK_BYTES) {
            let text = format!("the disk of the robot {} has only {} MiB left", robot.name, free >> 20);
            matters.push(Matter { subject: of_robot(&robot), text });
        }
        Ok(true)
    })?;
    Ok(matters)
}

fn percent(disk: Disk) -> u64 {
    (u128::from(disk.free_bytes) * 100 / u128::from(disk.total_bytes.max(1))) as u64
}

/// What the latest report of a robot says of its disk.
fn free_bytes(reading: &Reader, robot: RobotId) -> Result<Option<u64>> {
    for at in [reading.now(), reading.now().minus_seconds(60)] {
        let found = table::find::<HealthSample>(reading, (robot, health_slot(at)))?;
        if let Some(kept) = found.filter(|kept| reading.now().since(kept.sample.at).as_secs() <= SAMPLE_SECONDS) {
            return Ok(Some(kept.sample.health.disk_free_bytes));
        }
    }
    Ok(None)
}
