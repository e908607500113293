//! Jobs as people and programs start, see and end them. What agents do with them is in `agent.rs`.

use drover_protocol::{
    JobId, TriggerId,
    job::{Cause, CauseCode, CloseJob, JobFilter, JobState, NewJob, Source, SourceKind, StopMode},
    json::{MAX_DEPTH, is_too_deep},
    news::NewsType,
    page::PageQuery,
};

use super::{
    Actor, Caller, attempt,
    audit::{self, Act},
    event, file,
    list::{self, Page, Via},
    log, news, overview, process, process_version, reach, robot, robot_group, task, trace, trigger,
};
use crate::{
    domain::{
        file::job_folder,
        job::{Job, JobEvent, Leases, Refusal, State, Target, step},
        name::{Faults, MAX_REASON_CHARS},
        permission::Permission,
        process::{DEFAULT_PRIORITY, DEFAULT_STOP_GRACE_SECONDS, MAX_SECONDS, Process, ProcessVersion},
        robot::{Robot, RobotGroup},
    },
    error::{Error, Result},
    store::{
        Reading, Scan, Topic, Tx,
        document::{self, Slot},
        key::Kind,
        schema, table,
    },
};

/// The largest input and output, in bytes of JSON.
pub const MAX_JSON_BYTES: usize = 1024 * 1024;
const MAX_COUNT: u64 = 100;
/// The largest input of all jobs of one call together.
const MAX_TOTAL_BYTES: usize = 8 * 1024 * 1024;
/// What is removed in one transaction when a job is deleted.
const DELETE_PAGE: usize = 500;

/// Why an input is refused for its size.
pub fn too_large(what: &str) -> Error {
    Error::TooLarge(format!(
        "the {what} is over the limit of {MAX_JSON_BYTES} bytes as JSON; put it into a file (artifact or storage) and \
         pass its name"
    ))
}

/// A job that is about to start: everything is found and checked but not yet written.
#[derive(Clone, Debug)]
pub struct Draft {
    pub process: Process,
    pub version: ProcessVersion,
    pub target: Target,
    /// The input with the process's defaults filled in.
    pub input: serde_json::Value,
}

/// Who or what starts a job.
#[derive(Clone, Debug)]
pub struct Origin {
    source: Source,
    parent_job_id: Option<JobId>,
    trigger_id: Option<TriggerId>,
    /// See [`Job::chain`].
    chain: u32,
    by: String,
}

impl Origin {
    fn caller(caller: &Caller) -> Self {
        let (kind, id, parent_job_id) = match &caller.actor {
            Actor::User { id, .. } => (SourceKind::Api, id.to_string(), None),
            Actor::Robot { id, .. } => (SourceKind::Api, id.to_string(), None),
            Actor::Job { job, .. } => (SourceKind::Job, job.to_string(), Some(*job)),
        };
        Self { source: Source { kind, id }, parent_job_id, trigger_id: None, chain: 0, by: caller.by() }
    }

    pub fn trigger(id: TriggerId, chain: u32) -> Self {
        let source = Source { kind: SourceKind::Trigger, id: id.to_string() };
        Self { source, parent_job_id: None, trigger_id: Some(id), chain, by: format!("trigger:{id}") }
    }
}

/// Finds what the request names and checks it, but for the schema of the input, which is compiled elsewhere.
pub fn draft(reading: &dyn Reading, caller: &Caller, new: &NewJob) -> Result<Draft> {
    caller.require(Permission::JobStart)?;
    let target = target_of(reading, caller, Permission::JobStart, &new.target)?;
    draft_for(reading, new, target)
}

/// The robot or group that a request names, if the permission reaches it.
pub fn target_of(
    reading: &dyn Reading,
    caller: &Caller,
    permission: Permission,
    target: &drover_protocol::job::Target,
) -> Result<Target> {
    match (&target.robot, &target.group) {
        (Some(name), None) => Ok(Target::Robot(robot::find(reading, caller, permission, name, "/target/robot")?.id)),
        (None, Some(name)) => {
            Ok(Target::Group(robot_group::find(reading, caller, permission, name, "/target/group")?.id))
        }
        _ => Err(Error::invalid("/target", "name either a robot or a group")),
    }
}

/// The same draft for what needs nobody's permission: the coordinator's own decision.
pub fn draft_for(reading: &dyn Reading, new: &NewJob, target: Target) -> Result<Draft> {
    check_request(reading, new)?;
    let process = process::find(reading, &new.process, "/process")?;
    let version = process_version::for_job(reading, &process, new.version.as_deref(), target)?;
    let mut input = process.defaults.input.clone().unwrap_or_default();
    input.extend(new.input.clone().unwrap_or_default());
    let input = serde_json::Value::Object(input);
    if is_too_deep(&input) {
        return Err(Error::invalid("/input", format!("nested deeper than {MAX_DEPTH} levels; use a file instead")));
    }
    Ok(Draft { process, version, target, input })
}

fn check_request(reading: &dyn Reading, new: &NewJob) -> Result<()> {
    let mut faults = Faults::default();
    if let Some(priority) = new.priority {
        faults.range("/priority", u64::from(priority), 1, 3);
    }
    if let Some(count) = new.count {
        faults.range("/count", u64::from(count), 1, MAX_COUNT);
    }
    if let Some(seconds) = new.timeout_seconds {
        faults.range("/timeout_seconds", seconds, 1, MAX_SECONDS);
    }
    for (pointer, time) in [("/stop_after", new.stop_after), ("/abort_after", new.abort_after)] {
        if time.is_some_and(|time| time <= reading.now()) {
            faults.add(pointer, "is in the past");
        }
    }
    faults.labels("/labels", new.labels.iter());
    Ok(faults.check()?)
}

/// Writes the jobs. `input` is the draft's input as JSON.
pub fn start(tx: &mut Tx, caller: &Caller, new: &NewJob, draft: &Draft, input: &[u8]) -> Result<Vec<Job>> {
    caller.require(Permission::JobStart)?;
    start_as(tx, &Origin::caller(caller), new, draft, input)
}

/// The same for the coordinator's own decision.
pub fn start_as(tx: &mut Tx, origin: &Origin, new: &NewJob, draft: &Draft, input: &[u8]) -> Result<Vec<Job>> {
    if input.len() > MAX_JSON_BYTES {
        return Err(too_large("input"));
    }
    let count = new.count.unwrap_or(1);
    if input.len().saturating_mul(count as usize) > MAX_TOTAL_BYTES {
        return Err(Error::TooLarge(format!(
            "the inputs of all {count} jobs are over the limit of {MAX_TOTAL_BYTES} bytes; start fewer jobs per call"
        )));
    }
    // What the draft names may have been deleted since it was made.
    match draft.target {
        Target::Robot(id) => table::require::<Robot>(tx, id)?,
        Target::Group(id) => table::require::<RobotGroup>(tx, id)?,
    }
    table::require::<ProcessVersion>(tx, draft.version.id)?;
    let mut jobs = Vec::new();
    for _ in 0..count {
        let job = build(tx, origin, new, draft);
        table::insert(tx, &job)?;
        document::insert(tx, job.id.uuid(), Slot::Input, input)?;
        let text = format!("version {} of {} was started", job.version_number, job.process_name);
        event::note(tx, job.id.uuid(), "created", text, origin.by.clone())?;
        news::tell(tx, NewsType::JobCreated, |_| Ok(news::of_job(&job)))?;
        wake_for(tx, None, &job);
        jobs.push(job);
    }
    Ok(jobs)
}

fn build(tx: &Tx, origin: &Origin, new: &NewJob, draft: &Draft) -> Job {
    let (defaults, version) = (&draft.process.defaults, &draft.version);
    let grace = defaults.stop_grace_seconds.or(version.stop_grace_seconds).unwrap_or(DEFAULT_STOP_GRACE_SECONDS);
    Job {
        id: JobId::from_uuid(tx.new_id()),
        process_id: draft.process.id,
        process_name: draft.process.name.clone(),
        process_version_id: version.id,
        version_number: version.number,
        target: draft.target,
        state: State::Waiting { not_before: new.not_before.filter(|at| *at > tx.now()) },
        attempt: 0,
        tries: 0,
        robot: None,
        priority: new.priority.or(defaults.priority).unwrap_or(DEFAULT_PRIORITY),
        source: origin.source.clone(),
        created_at: tx.now(),
        assigned_at: None,
        started_at: None,
        finished_at: None,
        stop_after: new.stop_after,
        abort_after: new.abort_after,
        timeout_seconds: new.timeout_seconds.or(defaults.timeout_seconds).or(version.timeout_seconds),
        stop_grace_seconds: grace,
        retry: defaults.retry.clone().unwrap_or_default(),
        log_level: defaults.log_level.unwrap_or(drover_protocol::log::Level::Trace),
        labels: new.labels.clone(),
        parent_job_id: origin.parent_job_id,
        trigger_id: origin.trigger_id,
        chain: origin.chain,
        progress: None,
        error: None,
        exit: None,
        usage: None,
        revision: 1,
    }
}

/// Applies an event to a job and writes all that follows from it: record, attempt, events, wake-ups.
pub fn apply(tx: &mut Tx, before: Job, event: JobEvent, leases: &Leases) -> Result<Job> {
    let step = step(before.clone(), event, leases, tx.now()).map_err(refused)?;
    if step.job == before {
        return Ok(before);
    }
    attempt::follow(tx, &before, &step)?;
    if step.ended.is_some() || step.job.is_finished() {
        log::end(tx, before.id, before.attempt)?;
    }
    if let Some(end) = &step.ended {
        task::settle_job(tx, &before, end)?;
    }
    trace::job_stepped(tx, &before, &step)?;
    let mut job = step.job;
    table::update(tx, &mut job)?;
    if !before.is_finished() && job.is_finished() {
        trigger::job_ended(tx, &job)?;
    }
    if let (State::Finished { outcome, .. }, false) = (&job.state, before.is_finished()) {
        overview::count_finished(tx, *outcome)?;
    }
    news::job_changed(tx, &before, &job)?;
    for note in step.notes {
        event::note(tx, job.id.uuid(), note.code, note.text, note.by)?;
    }
    if before.is_held() && !job.is_held() {
        wake_other_jobs_of(tx, &job)?;
    }
    wake_for(tx, Some(&before), &job);
    Ok(job)
}

fn refused(refusal: Refusal) -> Error {
    let message = refusal.to_string();
    match refusal {
        Refusal::StaleAttempt { .. } => Error::stale_attempt(message),
        Refusal::WrongState(_) => Error::wrong_state(message),
    }
}

/// Who has to know that the job has changed.
fn wake_for(tx: &mut Tx, before: Option<&Job>, job: &Job) {
    tx.wake(Topic::Job(job.id));
    if job.is_ready() && !before.is_some_and(Job::is_ready) {
        tx.wake(match job.target {
            Target::Robot(robot) => Topic::Robot(robot),
            Target::Group(group) => Topic::Ready(group),
        });
    }
    let sooner = match (before.and_then(Job::deadline), job.deadline()) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(before), Some(now)) => now < before,
    };
    if sooner {
        tx.wake(Topic::Deadlines);
    }
    let holder = before.filter(|before| before.is_held()).and_then(|before| before.robot.as_ref());
    let stop_of = |job: &Job| match &job.state {
        State::Stopping { stop } => Some((stop.mode, stop.told)),
        _ => None,
    };
    let stop_is_new = stop_of(job).is_some() && before.is_some_and(|before| stop_of(before) != stop_of(job));
    let taken_away = holder.is_some() && !job.is_held();
    if let Some(holder) = holder
        && (stop_is_new || taken_away)
    {
        tx.wake(Topic::Robot(holder.id));
    }
}

/// A place of a process that was at its `max_parallel` has become free: any robot may now take one of its waiting jobs.
fn wake_other_jobs_of(tx: &mut Tx, job: &Job) -> Result<()> {
    let process: Option<Process> = table::find(tx, job.process_id)?;
    let Some(most) = process.and_then(|process| process.defaults.max_parallel) else { return Ok(()) };
    // Robots are many, and each that is woken looks at all that waits.
    if process::active_jobs(tx, job.process_id, most as usize)? + 1 >= most as usize {
        let all = robot_group::all(tx)?.id;
        tx.wake(Topic::Group(all));
    }
    Ok(())
}

/// A job that the caller may see. Job keys see their own job only.
pub fn get(reading: &dyn Reading, caller: &Caller, id: JobId) -> Result<Job> {
    caller.require(Permission::JobRead)?;
    if let Actor::Job { job, .. } = &caller.actor
        && *job != id
    {
        return Err(Error::NotFound("job"));
    }
    reached(reading, caller, Permission::JobRead, id)
}

/// The job with this id, if the caller has the permission and it reaches that job.
fn reached(reading: &dyn Reading, caller: &Caller, permission: Permission, id: JobId) -> Result<Job> {
    caller.require(permission)?;
    let job = table::get(reading, id)?;
    reach::job(reading, caller, permission, &job)?;
    Ok(job)
}

/// Input or output of a job.
pub fn document(reading: &dyn Reading, id: JobId, slot: Slot) -> Result<Option<serde_json::Value>> {
    let Some(bytes) = document::get(reading, id.uuid(), slot)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| Error::Internal(format!("a document of a job cannot be read: {error}")))
}

/// Jobs that fit the filter, newest first, by the most selective index there is for it.
pub fn list(reading: &dyn Reading, caller: &Caller, filter: &JobFilter, query: &PageQuery) -> Result<Page<Job>> {
    caller.require(Permission::JobRead)?;
    if let Actor::Job { .. } = caller.actor {
        return Err(Error::Forbidden("a job's key reads its own job only".to_owned()));
    }
    let may = Permission::JobRead;
    let robot = |text| robot::find(reading, caller, may, text, "robot");
    let robot = filter.robot.as_deref().map(robot).transpose()?;
    let process = filter.process.as_deref().map(|text| process::find(reading, text, "process")).transpose()?;
    let group = |text| robot_group::find(reading, caller, may, text, "group");
    let group = filter.group.as_deref().map(group).transpose()?;
    let trigger = filter.trigger.as_deref().map(|text| trigger::id_of(reading, text)).transpose()?;
    let labels = list::parse_labels(&filter.label)?;
    let finished_only = filter.state == Some(JobState::Finished);
    let (scan, via) = match (filter.outcome, filter.state, &robot, &process) {
        (Some(outcome), ..) => (Scan::of(reading, Kind::JobByPhase, 16 + outcome as u8), Via::Index),
        (None, Some(state), ..) if !finished_only => {
            (Scan::of(reading, Kind::JobByPhase, schema::unfinished_phase(state)), Via::Index)
        }
        (None, _, Some(robot), _) => (Scan::of(reading, Kind::JobByRobot, robot.id), Via::Index),
        (None, _, None, Some(process)) => (Scan::of(reading, Kind::JobByProcess, process.id), Via::Index),
        (None, _, None, None) => (Scan::of(reading, Kind::Job, ()), Via::Records),
    };
    let (scan, via) = match trigger {
        Some(trigger) => (Scan::of(reading, Kind::JobByTrigger, trigger), Via::Index),
        None => (scan, via),
    };
    let fits = |job: &Job| {
        filter.state.is_none_or(|state| job.state.kind() == state)
            && filter
                .outcome
                .is_none_or(|wanted| matches!(job.state, State::Finished { outcome, .. } if outcome == wanted))
            && robot.as_ref().is_none_or(|robot| job.robot.as_ref().is_some_and(|holder| holder.id == robot.id))
            && process.as_ref().is_none_or(|process| job.process_id == process.id)
            && group.as_ref().is_none_or(|group| job.target == Target::Group(group.id))
            && trigger.is_none_or(|trigger| job.trigger_id == Some(trigger))
            && filter.source.is_none_or(|source| job.source.kind == source)
            && filter.created_from.is_none_or(|from| job.created_at >= from)
            && filter.created_to.is_none_or(|to| job.created_at < to)
            && labels.iter().all(|(key, value)| job.labels.get(key) == Some(value))
            && reach::reaches_target(reading, caller, may, job.target) == Ok(true)
    };
    list::page(reading, scan.newest_first(), via, query, fits)
}

fn asked_by(caller: &Caller, code: CauseCode, message: String) -> Cause {
    Cause { by: caller.by(), code, message }
}

/// Asks for a soft stop or an abort. Asking again changes nothing; a finished job refuses.
pub fn stop(tx: &mut Tx, caller: &Caller, id: JobId, mode: StopMode, leases: &Leases) -> Result<Job> {
    let job = reached(tx, caller, Permission::JobStop, id)?;
    let (code, verb) = match mode {
        StopMode::Stop => (CauseCode::StopRequested, "stop"),
        StopMode::Abort => (CauseCode::AbortRequested, "abort"),
    };
    let why = asked_by(caller, code, format!("{} asked to {verb} it", caller.name()));
    acted(tx, caller, verb, job, JobEvent::Stop { mode, why }, leases)
}

/// What a person does to a job is an act, if anything came of it.
fn acted(
    tx: &mut Tx,
    caller: &Caller,
    verb: &'static str,
    before: Job,
    event: JobEvent,
    leases: &Leases,
) -> Result<Job> {
    let (revision, was) = (before.revision, before.state.kind());
    let job = apply(tx, before, event, leases)?;
    if job.revision != revision {
        let state = |state: JobState| serde_json::json!({ "state": state });
        let act = Act::new(verb, "job", job.id, &job.process_name);
        audit::append(tx, caller, act.before(state(was)).after(state(job.state.kind())))?;
    }
    Ok(job)
}

pub fn retry(tx: &mut Tx, caller: &Caller, id: JobId, leases: &Leases) -> Result<Job> {
    let job = reached(tx, caller, Permission::JobRetry, id)?;
    let (target, there) = match job.target {
        Target::Robot(robot) => ("robot", table::find::<Robot>(tx, robot)?.is_some()),
        Target::Group(group) => ("robot group", table::find::<RobotGroup>(tx, group)?.is_some()),
    };
    if !there {
        return Err(Error::wrong_state(format!("the {target} that it was meant for is gone; start a new job")));
    }
    acted(tx, caller, "retry", job, JobEvent::Retry { by: caller.by() }, leases)
}

/// An operator ends a job whose robot is gone.
pub fn close(tx: &mut Tx, caller: &Caller, id: JobId, request: &CloseJob, leases: &Leases) -> Result<Job> {
    caller.require(Permission::JobClose)?;
    let mut faults = Faults::default();
    faults.text("/reason", &request.reason, MAX_REASON_CHARS);
    if request.reason.trim().is_empty() {
        faults.add("/reason", "say why, for those who read it later");
    }
    faults.check()?;
    let job = reached(tx, caller, Permission::JobClose, id)?;
    let message = format!("closed by {}: {}", caller.name(), request.reason);
    let cause = asked_by(caller, CauseCode::ClosedByOperator, message);
    acted(tx, caller, "close", job, JobEvent::Close { outcome: request.outcome, cause }, leases)
}

/// Deletes a finished job with all that belongs to it, a page at a time: call until it gives `true`.
///
/// The record goes last, so that an interrupted deletion can be asked for again.
pub fn delete_page(tx: &mut Tx, caller: &Caller, id: JobId, revision: Option<u64>) -> Result<bool> {
    let job = reached(tx, caller, Permission::JobDelete, id)?;
    table::check_revision(job.revision, revision)?;
    if !job.is_finished() {
        return Err(Error::wrong_state("only a finished job can be deleted; stop or close it first"));
    }
    let gone = remove_page(tx, &job)?;
    if gone {
        audit::append(tx, caller, Act::new("delete", "job", job.id, &job.process_name))?;
    }
    Ok(gone)
}

/// One page of removing a job; `true` when nothing of it is left.
pub fn remove_page(tx: &mut Tx, job: &Job) -> Result<bool> {
    if !log::remove_page(tx, job.id, DELETE_PAGE)? || !file::remove_folder_page(tx, &job_folder(job.id), DELETE_PAGE)? {
        return Ok(false);
    }
    if !event::delete_page(tx, job.id.uuid(), DELETE_PAGE)? {
        return Ok(false);
    }
    if !attempt::remove_page(tx, job.id, DELETE_PAGE)? {
        return Ok(false);
    }
    document::delete(tx, job.id.uuid(), Slot::Input)?;
    document::delete(tx, job.id.uuid(), Slot::Output)?;
    table::delete::<Job>(tx, job.id)?;
    tx.wake(Topic::Job(job.id));
    Ok(true)
}

/// Does what is due for the jobs of the account, a page at a time; how many were due.
pub fn tick_page(tx: &mut Tx, leases: &Leases, limit: usize) -> Result<usize> {
    let end = table::index_start(tx, Kind::JobDeadline, drover_protocol::Timestamp::from_millis(tx.now().millis() + 1));
    let due = Scan::of(tx, Kind::JobDeadline, ()).below(end).indexed::<Job>(tx, limit)?;
    let count = due.len();
    for (_, job) in due {
        apply(tx, job, JobEvent::Tick, leases)?;
    }
    Ok(count)
}

/// When the next job of the account is due.
pub fn next_deadline(reading: &dyn Reading) -> Result<Option<drover_protocol::Timestamp>> {
    let found = Scan::of(reading, Kind::JobDeadline, ()).indexed::<Job>(reading, 1)?;
    Ok(found.first().and_then(|(_, job)| job.deadline()))
}
