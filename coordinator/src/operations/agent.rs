//! What agents do: join, report themselves, take jobs on and end them.

use std::net::IpAddr;

use drover_protocol::{
    JobId, JoinTokenId, RobotId, Timestamp,
    agent::{
        Accept, AgentConfig, Command, Finish, Heartbeat, JobCommand, Join, MAX_CAUSE_BYTES, MAX_CLAIM_BYTES,
        MAX_ERROR_BYTES, MAX_ERROR_CODE_BYTES, MAX_JOBS, RenewedJob,
    },
    job::{Outcome, Progress, StopMode},
    news::NewsType,
    robot::Host,
};

use super::{Caller, attempt, event, join_token, key, news, robot, robot_group};
use crate::{
    domain::{
        attempt::Attempt,
        job::{Job, JobEvent, Leases, Report, State},
        key::JoinToken,
        name::{Faults, MAX_NAME_CHARS},
        process::ProcessVersion,
        robot::{MAX_CAPACITY, Robot, RobotGroup, Sample, health_slot, standing},
    },
    error::{Error, Result},
    secrets::Secrets,
    store::{
        Reading, Topic, Tx,
        document::{self, Slot},
        key::Kind,
        schema::HealthSample,
        table,
    },
};

const MAX_HOST_TEXT_CHARS: usize = 256;
const MAX_PROGRESS_CHARS: usize = 512;

/// Binds an agent to a robot and gives the robot's key. Joining again under the same machine id gives the same robot
/// back, with a new key; that does not use the token up.
pub fn join(
    tx: &mut Tx,
    token: JoinTokenId,
    address: Option<IpAddr>,
    request: &Join,
    secrets: &Secrets,
) -> Result<(robot::RobotInFull, String)> {
    let mut faults = Faults::default();
    faults.text("/machine_id", &request.machine_id, MAX_NAME_CHARS);
    if request.machine_id.is_empty() {
        faults.add("/machine_id", "must not be empty");
    }
    if let Some(name) = &request.name {
        faults.name("/name", name);
    }
    check_host(&mut faults, &request.host);
    faults.check()?;
    let mut token = join_token::check(tx, token, address)?;
    let known: Option<Robot> = table::find_by(tx, Kind::RobotByMachine, request.machine_id.as_str())?;
    let mut robot = match known {
        Some(robot) => {
            check_return(tx, &token, &robot)?;
            robot
        }
        None => {
            join_token::spend(tx, &mut token)?;
            match token.robot_id {
                Some(advance) => table::find(tx, advance)?.ok_or_else(robot_is_gone)?,
                None => new_robot(tx, request)?,
            }
        }
    };
    if robot.machine_id.as_ref().is_some_and(|own| *own != request.machine_id) {
        return Err(Error::wrong_state("the robot of this token has been joined by another host already"));
    }
    robot.machine_id = Some(request.machine_id.clone());
    robot.join_token_id = Some(token.id);
    robot.host = Some(request.host.clone());
    robot.joined_at = Some(tx.now());
    let is_back = robot::heard_of(tx, &mut robot);
    table::update(tx, &mut robot)?;
    if let Some(group) = token.group_id {
        table::find::<RobotGroup>(tx, group)?.ok_or_else(group_is_gone)?;
        let mut groups = robot.groups.clone();
        groups.insert(group);
        robot::set_groups(tx, &mut robot, groups, "coordinator")?;
    }
    let key = key::make_for_robot(tx, robot.id, secrets)?;
    let text = format!("an agent on host {} joined", request.host.hostname);
    event::note(tx, robot.id.uuid(), "joined", text, "agent")?;
    news::tell(tx, NewsType::RobotJoined, |_| Ok(news::of_robot(&robot, serde_json::Value::Null)))?;
    if is_back {
        robot::tell_online(tx, &robot)?;
    }
    Ok((robot::in_full(tx, robot)?, key))
}

/// A machine id is no secret: whoever knows one must not take its robot over with a token that is for another robot or
/// other robots, or that others have used up.
fn check_return(reading: &dyn Reading, token: &JoinToken, robot: &Robot) -> Result<()> {
    if token.robot_id.is_some_and(|id| id != robot.id) {
        return Err(Error::wrong_state(format!(
            "this join token is for another robot; this host is the robot {} already, and needs a token of its own",
            robot.name
        )));
    }
    if robot.join_token_id == Some(token.id) {
        return Ok(());
    }
    if token.uses_left == 0 {
        return Err(join_token::UNKNOWN);
    }
    let all = robot_group::all(reading)?.id;
    if token.group_id.is_some_and(|group| group != all && !robot.groups.contains(&group)) {
        return Err(Error::wrong_state(format!(
            "this host is the robot {} already, and not in the group of this join token; use a token without a group, or \
             add the robot to the group first",
            robot.name
        )));
    }
    Ok(())
}

fn group_is_gone() -> Error {
    Error::wrong_state("the group of this join token was deleted; create a new token")
}

fn robot_is_gone() -> Error {
    Error::wrong_state("the robot of this join token was deleted; create a new token")
}

/// A new robot under the wanted name; a name that came only from the host gets a number if it is taken.
fn new_robot(tx: &mut Tx, request: &Join) -> Result<Robot> {
    let id = RobotId::from_uuid(tx.new_id());
    let name = match &request.name {
        Some(name) => name.clone(),
        None => free_name(tx, &request.host.hostname)?,
    };
    let robot = robot::blank(id, name, tx.now());
    robot::insert(tx, &robot)?;
    Ok(robot)
}

fn free_name(reading: &dyn Reading, hostname: &str) -> Result<String> {
    let mut faults = Faults::default();
    faults.name("/host/hostname", hostname);
    let base = if faults.check().is_ok() { hostname } else { "robot" };
    let base: String = base.chars().take(MAX_NAME_CHARS - 8).collect();
    for number in 1..1_000 {
        let name = if number == 1 { base.clone() } else { format!("{base}-{number}") };
        if table::find_by::<Robot>(reading, Kind::RobotByName, name.as_str())?.is_none() {
            return Ok(name);
        }
    }
    Err(Error::wrong_state("a thousand robots have this host's name; give this one a name with --name"))
}

fn check_host(faults: &mut Faults, host: &Host) {
    let texts = [
        ("hostname", &host.hostname),
        ("os", &host.os),
        ("os_version", &host.os_version),
        ("arch", &host.arch),
        ("agent_version", &host.agent_version),
        ("ip", &host.ip),
        ("mac", &host.mac),
        ("user", &host.user),
        ("time_zone", &host.time_zone),
    ];
    for (name, text) in texts {
        faults.text(&format!("/host/{name}"), text, MAX_HOST_TEXT_CHARS);
    }
    faults.labels("/host/labels", host.labels.iter());
    if let Some(capacity) = host.capacity {
        faults.range("/host/capacity", u64::from(capacity), 1, u64::from(MAX_CAPACITY));
    }
}

/// What a heartbeat comes to.
#[derive(Clone, Debug)]
pub struct Beat {
    pub now: Timestamp,
    pub jobs: Vec<RenewedJob>,
    pub robot: robot::RobotInFull,
    pub config: AgentConfig,
}

/// Takes the host's condition, and renews every lease that is listed, in this one transaction.
pub fn heartbeat(tx: &mut Tx, caller: &Caller, beat: &Heartbeat, leases: &Leases) -> Result<Beat> {
    let id = caller.robot()?;
    check_beat(beat)?;
    let mut robot: Robot = table::get(tx, id)?;
    let is_back = robot::heard_of(tx, &mut robot);
    if beat.host.is_some() && beat.host != robot.host {
        robot.host = beat.host.clone();
        // It may suit a waiting job now.
        tx.wake(Topic::Robot(id));
    }
    table::rewrite(tx, &robot)?;
    if is_back {
        robot::tell_online(tx, &robot)?;
    }
    keep_health(tx, id, beat)?;
    obey_pause(tx, &robot, leases)?;
    let mut jobs = Vec::with_capacity(beat.jobs.len());
    for held in &beat.jobs {
        let event = JobEvent::Renew { robot: id, attempt: held.attempt, progress: held.progress.clone().map(clean) };
        jobs.push(renew(tx, held.job_id, held.attempt, event, leases)?);
    }
    let config = AgentConfig { capacity: robot.capacity() };
    Ok(Beat { now: tx.now(), jobs, robot: robot::in_full(tx, robot)?, config })
}

fn check_beat(beat: &Heartbeat) -> Result<()> {
    let mut faults = Faults::default();
    if beat.jobs.len() > MAX_JOBS {
        faults.add("/jobs", format!("more than {MAX_JOBS} jobs"));
    }
    if let Some(host) = &beat.host {
        check_host(&mut faults, host);
    }
    for (number, held) in beat.jobs.iter().enumerate().take(MAX_JOBS) {
        let Some(progress) = &held.progress else { continue };
        if progress.text.as_ref().is_some_and(|text| text.chars().count() > MAX_PROGRESS_CHARS) {
            faults.add(format!("/jobs/{number}/progress/text"), format!("longer than {MAX_PROGRESS_CHARS} characters"));
        }
        if progress.percent.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
            faults.add(format!("/jobs/{number}/progress/percent"), "must be from 0 to 100");
        }
    }
    Ok(faults.check()?)
}

/// What a process prints as its progress is no reason to refuse the leases of all jobs of its robot.
fn clean(progress: Progress) -> Progress {
    let text = progress.text.map(|text| text.replace(char::is_control, " "));
    Progress { text, ..progress }
}

fn keep_health(tx: &mut Tx, robot_id: RobotId, beat: &Heartbeat) -> Result<()> {
    let at = tx.now();
    let slot = health_slot(at);
    let mut kept = HealthSample { robot_id, slot, sample: Sample { at, health: beat.health.clone() } };
    match table::find::<HealthSample>(tx, (robot_id, slot))? {
        Some(_) => table::update(tx, &mut kept),
        None => table::insert(tx, &kept),
    }
}

/// Ends the robot's jobs if it or a group of it is paused with stop or abort.
fn obey_pause(tx: &mut Tx, robot: &Robot, leases: &Leases) -> Result<bool> {
    let groups = robot_group::of_robot(tx, robot)?;
    match standing(robot, groups.iter(), tx.now()).pause {
        Some((pause, _)) => robot::end_jobs_of_pause(tx, robot.id, &pause, leases),
        None => Ok(false),
    }
}

fn renew(tx: &mut Tx, job_id: JobId, attempt: u32, event: JobEvent, leases: &Leases) -> Result<RenewedJob> {
    let dropped = RenewedJob { job_id, attempt, renewed: false, command: Some(JobCommand::Drop) };
    let Some(job) = table::find::<Job>(tx, job_id)? else { return Ok(dropped) };
    match super::job::apply(tx, job, event, leases) {
        Ok(job) => Ok(RenewedJob { job_id, attempt, renewed: true, command: command_for(&job) }),
        Err(Error::Refused { .. }) => Ok(dropped),
        Err(other) => Err(other),
    }
}

fn command_for(job: &Job) -> Option<JobCommand> {
    match &job.state {
        State::Stopping { stop } => Some(match stop.mode {
            StopMode::Stop => JobCommand::Stop,
            StopMode::Abort => JobCommand::Abort,
        }),
        _ => None,
    }
}

/// Whether there is a command that the agent has not been told, as a look before a transaction.
pub fn has_commands(reading: &dyn Reading, robot: &Robot, known: &[JobId]) -> Result<bool> {
    let held = robot::held_jobs(reading, robot.id)?;
    let untold = held.iter().any(|job| matches!(&job.state, State::Stopping { stop } if stop.told != Some(stop.mode)));
    let groups = robot_group::of_robot(reading, robot)?;
    let pause = standing(robot, groups.iter(), reading.now()).pause;
    let to_end = pause.is_some_and(|(pause, _)| pause.mode != drover_protocol::robot::PauseMode::Drain)
        && held.iter().any(|job| !matches!(job.state, State::Stopping { .. }));
    let taken_away = known.iter().any(|id| !held.iter().any(|job| job.id == *id));
    Ok(untold || to_end || taken_away)
}

/// Commands that the agent has not been told yet. A lost answer does no harm: the heartbeat tells them again.
pub fn take_commands(tx: &mut Tx, robot: RobotId, known: &[JobId], leases: &Leases) -> Result<Vec<Command>> {
    let record: Robot = table::get(tx, robot)?;
    obey_pause(tx, &record, leases)?;
    let held = robot::held_jobs(tx, robot)?;
    let mut commands = Vec::new();
    for id in known.iter().filter(|id| !held.iter().any(|job| job.id == **id)) {
        // The newest attempt that this robot had is the one it knows.
        let newest = attempt::newest_of(tx, *id, robot)?;
        commands.extend(newest.map(|attempt| Command { job_id: *id, attempt, command: JobCommand::Drop }));
    }
    for mut job in held {
        let Some(command) = command_for(&job) else { continue };
        if let State::Stopping { stop } = &mut job.state
            && stop.told != Some(stop.mode)
        {
            stop.told = Some(stop.mode);
            commands.push(Command { job_id: job.id, attempt: job.attempt, command });
            table::update(tx, &mut job)?;
        }
    }
    Ok(commands)
}

/// The attempt of this robot; another robot's is as if it did not exist.
fn own_attempt(reading: &dyn Reading, caller: &Caller, job: JobId, attempt: u32) -> Result<Attempt> {
    let robot = caller.robot()?;
    if let Some(record) = table::find::<Attempt>(reading, (job, attempt))? {
        return if record.robot.id == robot { Ok(record) } else { Err(Error::NotFound("job")) };
    }
    // A number that never was, of a job that this robot has had: the agent is confused, not hostile.
    match attempt::newest_of(reading, job, robot)? {
        Some(_) => Err(Error::stale_attempt(format!("there is no attempt {attempt} of this job"))),
        None => Err(Error::NotFound("job")),
    }
}

/// Refuses a package that no job of this robot has, as if it did not exist: a package may hold what concerns other
/// robots only. Agents fetch none before they have a job with it.
pub fn check_package(reading: &dyn Reading, caller: &Caller, sha256: &str) -> Result<()> {
    for job in robot::held_jobs(reading, caller.robot()?)? {
        let version: ProcessVersion = table::get(reading, job.process_version_id)?;
        if version.sha256 == sha256 {
            return Ok(());
        }
    }
    Err(Error::NotFound("package"))
}

/// The agent has journalled the assignment and takes it on. Repeating it is fine, as long as it is the same agent: two that
/// use one key must not both run it.
pub fn accept(tx: &mut Tx, caller: &Caller, id: JobId, request: &Accept, leases: &Leases) -> Result<Timestamp> {
    if request.claim.as_ref().is_some_and(|claim| claim.len() > MAX_CLAIM_BYTES) {
        return Err(Error::invalid("/claim", format!("over {MAX_CLAIM_BYTES} bytes")));
    }
    let attempt = request.attempt;
    let known = own_attempt(tx, caller, id, attempt)?;
    if known.accepted_at.is_some() && known.claim != request.claim {
        return Err(Error::stale_attempt("another agent that uses this robot's key has taken the attempt on"));
    }
    let robot = caller.robot()?;
    let job: Job = table::get(tx, id)?;
    let job = super::job::apply(tx, job, JobEvent::Accept { robot, attempt }, leases)?;
    if known.accepted_at.is_none() && request.claim.is_some() {
        let mut accepted: Attempt = table::get(tx, (id, attempt))?;
        accepted.claim = request.claim.clone();
        table::update(tx, &mut accepted)?;
    }
    Ok(match job.state {
        State::Running { lease_ends_at } => lease_ends_at,
        _ => tx.now().plus_seconds(leases.job_seconds),
    })
}

/// How a report was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reported {
    Taken,
    /// Refused: the attempt was over. It is kept as an event.
    Late(Error),
}

/// Ends an attempt. The same report again is success; a late one is refused and kept.
pub fn finish(
    tx: &mut Tx,
    caller: &Caller,
    id: JobId,
    report: &Finish,
    output: Option<&[u8]>,
    leases: &Leases,
) -> Result<Reported> {
    let mut attempt = own_attempt(tx, caller, id, report.attempt)?;
    if attempt.reported == Some(report.outcome) {
        return Ok(Reported::Taken);
    }
    let job: Job = table::get(tx, id)?;
    let robot = caller.robot()?;
    if attempt.reported.is_some() || !job.is_held_by(robot, report.attempt) {
        keep_late_report(tx, &mut attempt, report, output)?;
        return Ok(Reported::Late(Error::stale_attempt("the attempt had ended before this report came")));
    }
    match output {
        Some(output) => document::put(tx, id.uuid(), Slot::Output, output)?,
        None => document::delete(tx, id.uuid(), Slot::Output)?,
    }
    let event = JobEvent::Finish {
        robot,
        attempt: report.attempt,
        report: Report {
            outcome: report.outcome,
            cause: report.cause.clone(),
            error: report.error.clone(),
            exit: report.exit.clone(),
            usage: report.usage.clone(),
        },
    };
    super::job::apply(tx, job, event, leases)?;
    let mut attempt: Attempt = table::get(tx, (id, report.attempt))?;
    attempt.reported = Some(report.outcome);
    table::update(tx, &mut attempt)?;
    Ok(Reported::Taken)
}

/// Keeps what came too late, once per attempt: somebody may have to know that the payment was made after all.
fn keep_late_report(tx: &mut Tx, attempt: &mut Attempt, report: &Finish, output: Option<&[u8]>) -> Result<()> {
    if attempt.late_report_kept {
        return Ok(());
    }
    attempt.late_report_kept = true;
    table::update(tx, attempt)?;
    let exit = report.exit.as_ref().map(|exit| format!(", {}", exit.meaning)).unwrap_or_default();
    let kept = output.map(|_| "; its output is kept with this event").unwrap_or_default();
    let text = format!(
        "robot {} reported attempt {} as {} ({}{exit}) after it had ended{kept}",
        attempt.robot.name,
        attempt.attempt,
        report.outcome.as_str(),
        report.cause.message,
    );
    event::note_late(tx, attempt.job_id.uuid(), event::LATE_REPORT, text, "agent", output)
}

/// The robot behind a robot's key, which may have ended since the call began.
pub fn own_robot(reading: &dyn Reading, caller: &Caller) -> Result<Robot> {
    table::get(reading, key::renewed(reading, caller)?.robot()?)
}

/// The limits of a report. Texts are the process's own and are taken as they are, up to a size that a record can hold.
pub fn check_finish(report: &Finish) -> Result<()> {
    let mut faults = Faults::default();
    let error = report.error.as_ref();
    let texts = [
        ("/cause/message", Some(&report.cause.message), MAX_CAUSE_BYTES),
        ("/cause/by", Some(&report.cause.by), MAX_NAME_CHARS),
        ("/error/message", error.map(|error| &error.message), MAX_ERROR_BYTES),
        ("/error/code", error.and_then(|error| error.code.as_ref()), MAX_ERROR_CODE_BYTES),
        ("/exit/meaning", report.exit.as_ref().map(|exit| &exit.meaning), MAX_CAUSE_BYTES),
    ];
    for (pointer, text, limit) in texts {
        if text.is_some_and(|text| text.len() > limit) {
            faults.add(pointer, format!("over {limit} bytes"));
        }
    }
    if report.outcome == Outcome::Succeeded && report.error.is_some() {
        faults.add("/error", "a job that succeeded has no error");
    }
    Ok(faults.check()?)
}
