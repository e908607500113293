//! Giving waiting jobs to robots, and explaining why one still waits.

use std::collections::HashMap;

use drover_protocol::{
    JobId, ProcessVersionId, RobotId,
    job::{Candidate, Explanation, JobState, Reason, ReasonCode},
};

use super::{
    Caller, attempt,
    audit::{self, Act},
    job, key, process, resource_value, robot, robot_group,
};
use crate::{
    domain::{
        assignment::{barred, lacks, unfit},
        job::{Holder, Job, JobEvent, Leases, State, Target},
        permission::Permission,
        process::{Process, ProcessVersion},
        resource::Handed,
        robot::{Robot, standing},
    },
    error::Result,
    secrets::Secrets,
    store::{
        Reading, Scan, Tx,
        document::{self, Slot},
        key::{KeyPart, Kind},
        table,
    },
};

/// Different versions that wait for one target and are looked at in one assignment.
const MAX_LANES: usize = 1_000;
const MAX_CANDIDATES: usize = 1_000;

/// Waiting jobs lie in lanes, one per target and version: whether a lane suits a robot is the same for all its jobs, so
/// that a thousand jobs which do not suit cost one look.
struct Lanes<'a> {
    reading: &'a dyn Reading,
    robot: &'a Robot,
    verdicts: HashMap<ProcessVersionId, bool>,
}

impl Lanes<'_> {
    /// The best job of a target that suits the robot.
    fn best_of(&mut self, target: Target) -> Result<Option<Job>> {
        let mut scan = Scan::of(self.reading, Kind::JobReady, target);
        let mut best: Option<Job> = None;
        for _ in 0..MAX_LANES {
            let Some((_, job)) = scan.indexed::<Job>(self.reading, 1)?.pop() else { break };
            if better(&job, best.as_ref()) && self.suits(job.process_version_id)? {
                best = Some(job.clone());
            }
            scan = scan.from(after_lane(self.reading, target, job.process_version_id));
        }
        Ok(best)
    }

    fn suits(&mut self, version: ProcessVersionId) -> Result<bool> {
        if let Some(verdict) = self.verdicts.get(&version) {
            return Ok(*verdict);
        }
        let record: ProcessVersion = table::get(self.reading, version)?;
        let process: Process = table::get(self.reading, record.process_id)?;
        let verdict = lacks(self.robot, &record.needs).is_empty() && process::may_run_more(self.reading, &process)?;
        self.verdicts.insert(version, verdict);
        Ok(verdict)
    }
}

/// High priority first, then the oldest.
fn better(job: &Job, best: Option<&Job>) -> bool {
    best.is_none_or(|best| (best.priority, job.id) < (job.priority, best.id))
}

/// The first key behind all jobs of this target and version.
fn after_lane(reading: &dyn Reading, target: Target, version: ProcessVersionId) -> Vec<u8> {
    let mut key = table::index_start(reading, Kind::JobReady, (target, version));
    // The part that follows is 0xff less the priority, so that 0xff itself is above all of them.
    u8::MAX.append(&mut key);
    key
}

fn best_for(reading: &dyn Reading, robot: &Robot) -> Result<Option<Job>> {
    let mut lanes = Lanes { reading, robot, verdicts: HashMap::new() };
    let groups = robot_group::of_robot(reading, robot)?;
    let targets = groups.iter().map(|group| Target::Group(group.id)).chain([Target::Robot(robot.id)]);
    let mut best: Option<Job> = None;
    for target in targets {
        if let Some(job) = lanes.best_of(target)?
            && better(&job, best.as_ref())
        {
            best = Some(job);
        }
    }
    Ok(best)
}

/// Whether the robot could be given something, as a look before a transaction.
pub fn has_work(reading: &dyn Reading, robot: &Robot, free: usize, known: &[JobId]) -> Result<bool> {
    let held = robot::held_jobs(reading, robot.id)?;
    if held.iter().any(|job| is_unknown(job, known)) {
        return Ok(true);
    }
    Ok(places(robot, &held, known, free) > 0 && takes_jobs(reading, robot)? && best_for(reading, robot)?.is_some())
}

/// Whether more than so many jobs are ready for the robot's groups, be it that the robot suits them or not.
pub fn more_waits(reading: &dyn Reading, robot: &Robot, than: usize) -> Result<bool> {
    let mut found = 0;
    for group in robot_group::of_robot(reading, robot)? {
        let scan = Scan::of(reading, Kind::JobReady, Target::Group(group.id));
        found += scan.pairs(reading, than + 1 - found)?.len();
        if found > than {
            return Ok(true);
        }
    }
    Ok(false)
}

fn takes_jobs(reading: &dyn Reading, robot: &Robot) -> Result<bool> {
    let groups = robot_group::of_robot(reading, robot)?;
    Ok(barred(robot, &standing(robot, groups.iter(), reading.now())).is_empty())
}

/// How many further jobs it may get. What it is given again takes a place that it takes to be free.
fn places(robot: &Robot, held: &[Job], known: &[JobId], free: usize) -> usize {
    let again = held.iter().filter(|job| is_unknown(job, known)).count();
    (robot.capacity() as usize).saturating_sub(held.len()).min(free.saturating_sub(again))
}

/// An assignment whose answer never arrived.
fn is_unknown(job: &Job, known: &[JobId]) -> bool {
    matches!(job.state, State::Assigned { .. }) && !known.contains(&job.id)
}

/// Gives the robot what it was given before without knowing it, then as many waiting jobs as it has places for.
pub fn assign_next(
    tx: &mut Tx,
    caller: &Caller,
    robot: RobotId,
    free: usize,
    known: &[JobId],
    leases: &Leases,
    secrets: &Secrets,
) -> Result<Vec<Job>> {
    let robot: Robot = table::get(tx, robot)?;
    let held = robot::held_jobs(tx, robot.id)?;
    let places = places(&robot, &held, known, free);
    let mut given: Vec<Job> = held.into_iter().filter(|job| is_unknown(job, known)).collect();
    if !takes_jobs(tx, &robot)? {
        return Ok(given);
    }
    for _ in 0..places {
        let Some(job) = best_for(tx, &robot)? else { break };
        given.push(assign(tx, caller, job, &robot, leases, secrets)?);
    }
    Ok(given)
}

fn assign(tx: &mut Tx, caller: &Caller, job: Job, robot: &Robot, leases: &Leases, secrets: &Secrets) -> Result<Job> {
    let holder = Holder { id: robot.id, name: robot.name.clone() };
    document::delete(tx, job.id.uuid(), Slot::Output)?;
    let job = job::apply(tx, job, JobEvent::Assign { robot: holder.clone() }, leases)?;
    let key = key::make_for_attempt(tx, &job, robot.id, secrets)?;
    let handed = hand_out(tx, caller, &job, robot)?;
    attempt::begin(tx, &job, holder, key, handed)?;
    Ok(job)
}

/// The sealed values that the job reads are told to its agent, which masks them: that is a reading, and written down as one.
fn hand_out(tx: &mut Tx, caller: &Caller, job: &Job, robot: &Robot) -> Result<Vec<Handed>> {
    let version: ProcessVersion = table::get(tx, job.process_version_id)?;
    if version.resources.is_empty() {
        return Ok(Vec::new());
    }
    let given = resource_value::hand_out(tx, &version.resources, robot)?;
    if !given.is_empty() {
        let names: Vec<&str> = given.iter().map(|(_, resource)| resource.name.as_str()).collect();
        let act = Act::new("hand_out_values", "job", job.id, &job.process_name);
        audit::append(tx, caller, act.after(serde_json::json!({ "attempt": job.attempt, "resources": names })))?;
    }
    Ok(given.into_iter().map(|(handed, _)| handed).collect())
}

/// Why a job is where it is: for one that waits, an answer for each candidate robot.
pub fn explain(reading: &dyn Reading, caller: &Caller, id: JobId) -> Result<Explanation> {
    caller.require(Permission::JobRead)?;
    let job = job::get(reading, caller, id)?;
    let not_before = match &job.state {
        State::Waiting { not_before } => *not_before,
        other => {
            let summary = summary_of(other.kind(), &job);
            return Ok(Explanation { state: other.kind(), summary, reasons: Vec::new(), candidates: Vec::new() });
        }
    };
    let mut reasons = Vec::new();
    if let Some(at) = not_before {
        let text = format!("it is not to start before {at}");
        reasons.push(Reason { code: ReasonCode::NotBefore, text });
    }
    let process: Process = table::get(reading, job.process_id)?;
    if !process::may_run_more(reading, &process)? {
        let most = process.defaults.max_parallel.unwrap_or_default();
        let text = format!("{most} jobs of {} run already, as many as may at once", process.name);
        reasons.push(Reason { code: ReasonCode::MaxParallel, text });
    }
    let candidates = candidates(reading, &job)?;
    if candidates.is_empty() {
        let text = "there is no robot in its target".to_owned();
        reasons.push(Reason { code: ReasonCode::NoRobots, text });
    }
    let summary = summary(&reasons, &candidates);
    Ok(Explanation { state: JobState::Waiting, summary, reasons, candidates })
}

fn summary_of(state: JobState, job: &Job) -> String {
    let robot = job.robot.as_ref().map_or("its robot", |holder| holder.name.as_str());
    match state {
        JobState::Waiting => "it waits".to_owned(),
        JobState::Assigned => format!("robot {robot} was given it and has not accepted it yet"),
        JobState::Running => format!("robot {robot} runs it"),
        JobState::Silent => format!("robot {robot} runs it but was not heard of for longer than the lease"),
        JobState::Stopping => format!("its end was asked, and robot {robot} has not reported it yet"),
        JobState::Finished => "it has finished".to_owned(),
    }
}

fn summary(reasons: &[Reason], candidates: &[Candidate]) -> String {
    if let Some(reason) = reasons.first() {
        return format!("it waits because {}", reason.text);
    }
    let suiting = candidates.iter().filter(|candidate| candidate.suits).count();
    if suiting > 0 {
        return format!("{suiting} robots suit it; one of them takes it when it asks next");
    }
    match candidates {
        [only] => {
            let texts: Vec<&str> = only.reasons.iter().map(|reason| reason.text.as_str()).collect();
            format!("it waits for robot {}: {}", only.robot, texts.join("; "))
        }
        many => format!("none of {} robots suits it now; each one's reasons are listed", many.len()),
    }
}

fn candidates(reading: &dyn Reading, job: &Job) -> Result<Vec<Candidate>> {
    let version: ProcessVersion = table::get(reading, job.process_version_id)?;
    let robots: Vec<Robot> = match job.target {
        Target::Robot(id) => table::find(reading, id)?.into_iter().collect(),
        Target::Group(group) if robot_group::all(reading)?.id == group => {
            let found = Scan::of(reading, Kind::Robot, ()).records(reading, MAX_CANDIDATES)?;
            found.into_iter().map(|(_, robot)| robot).collect()
        }
        Target::Group(group) => {
            let found = Scan::of(reading, Kind::RobotByGroup, group).indexed(reading, MAX_CANDIDATES)?;
            found.into_iter().map(|(_, robot)| robot).collect()
        }
    };
    robots.into_iter().map(|robot| candidate(reading, job, &version, robot)).collect()
}

fn candidate(reading: &dyn Reading, job: &Job, version: &ProcessVersion, robot: Robot) -> Result<Candidate> {
    let full = robot::in_full(reading, robot)?;
    let mut reasons = unfit(&full.robot, &full.standing, full.held.len(), reading.now());
    reasons.extend(lacks(&full.robot, &version.needs));
    if reasons.is_empty()
        && let Some(first) = best_for(reading, &full.robot)?
        && first.id != job.id
        && job.is_ready()
    {
        let text = format!("job {} of {} comes first by priority or age", first.id, first.process_name);
        reasons.push(Reason { code: ReasonCode::BehindOthers, text });
    }
    Ok(Candidate { robot: full.robot.name, robot_id: full.robot.id, suits: reasons.is_empty(), reasons })
}
