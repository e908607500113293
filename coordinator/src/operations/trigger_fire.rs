//! Triggers that fire. What became of an instant, the jobs that it started and the instant that comes next are written in
//! one transaction, and there is one row for each trigger and instant: whatever crashes, and however the clock is set,
//! nothing fires twice and nothing is lost without a row that says so.

mod by_event;
mod by_queue;
mod occasion;

pub use occasion::{Occasion, fire_for, fire_once, known};

use drover_protocol::{
    JobId, Timestamp, TriggerId,
    job::{Cause, CauseCode, NewJob, StopMode, Target as WireTarget},
    news::NewsType,
    trigger::{Backfill, Busy, Decision, Overlap},
};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    Caller, account, alert_raise,
    audit::{self, Act},
    census, event,
    job::{self, Draft, Origin},
    news::{self, Facts},
    reach, robot, trace,
    trigger::{NOUN, calendar, reached, timetable},
};
use crate::{
    domain::{
        assignment::unfit,
        job::{Job, JobEvent, Leases, Target},
        news::Subject,
        permission::Permission,
        robot::{Robot, RobotGroup},
        schedule::Timetable,
        trigger::{self, Due, Fire, MAX_BUFFERED, Missed, Rule, Trigger, by_event::Pending, by_queue::Seen},
    },
    drafting::Checked,
    error::{Error, Result},
    store::{Reading, Scan, Topic, Tx, key::Kind, table},
};

/// Jobs that a continuous trigger starts in one transaction.
const MAX_STARTED: u32 = 50;
/// How soon a continuous trigger starts a further job: a process that fails at once must not burn the fleet.
const CONTINUOUS_SECONDS: u64 = 1;
/// How soon one that could not start a job tries again.
const FAILED_SECONDS: u64 = 60;
/// Instants of one back-fill, and the largest input of all its jobs together.
const MAX_BACKFILL: usize = 100;
const MAX_BACKFILL_BYTES: usize = 8 * 1024 * 1024;
const MAX_CANDIDATES: usize = 1_000;
const MONTH_IS_USED_UP: &str = "it has started as many jobs this month as max_runs_per_month allows";

/// A job that is ready to be started, or why there can be none.
pub type Ready = std::result::Result<(NewJob, Checked), String>;

/// What is to be done about a trigger that is due.
#[derive(Debug)]
pub struct Plan {
    /// As it was seen; a plan for one that has changed since is void.
    pub seen: Trigger,
    pub due: Due,
    /// What was seen of the queue for whose tasks it starts jobs.
    pub queue: Option<Seen>,
    /// What has happened that it fires for.
    pub events: Vec<Pending>,
    /// Whether it may start a job.
    pub starts: bool,
    /// Why it cannot, as far as that is known already.
    pub hindered: Option<String>,
}

/// Triggers that are due, after a position.
pub fn due_page(reading: &dyn Reading, after: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Trigger)>> {
    let end = table::index_start(reading, Kind::TriggerDue, Timestamp::from_millis(reading.now().millis() + 1));
    let scan = Scan::of(reading, Kind::TriggerDue, ()).below(end);
    let scan = match after {
        Some(key) => scan.after(key),
        None => scan,
    };
    scan.indexed(reading, limit)
}

/// When the next trigger of the account is due.
pub fn next_due(reading: &dyn Reading) -> Result<Option<Timestamp>> {
    let found = Scan::of(reading, Kind::TriggerDue, ()).indexed::<Trigger>(reading, 1)?;
    Ok(found.first().and_then(|(_, trigger)| trigger.due_at()))
}

/// Thinks about a trigger that is due. The schedule is reckoned here, off the writer's thread.
pub fn plan(reading: &dyn Reading, trigger: Trigger) -> Result<Plan> {
    let now = reading.now();
    let hindered = calendar(reading, &trigger)?.err();
    let is_due = |at: Option<Timestamp>| at.is_some_and(|at| at <= now);
    let due = match (&trigger.rule, trigger.next_fire_at, timetable(reading, &trigger)?) {
        (Rule::Schedule { schedule, .. }, Some(first), Some(timetable)) if first <= now => {
            match account::own(reading)?.enabled_at.filter(|enabled| first < *enabled) {
                Some(enabled) => shut_out(&timetable, first, enabled),
                None => trigger::due(&timetable, schedule, first, now),
            }
        }
        _ => Due { next: trigger.next_fire_at, ..Due::default() },
    };
    let looks = is_due(trigger.look_at);
    let queue = if looks { by_queue::see(reading, &trigger)? } else { None };
    let events = if looks { by_event::pending(reading, &trigger)? } else { Vec::new() };
    let starts = match (&trigger.rule, &queue) {
        (_, Some(queue)) => by_queue::lacks(reading, &trigger, queue)?,
        // Each of its events has a job of its own.
        (Rule::Event(_), None) => false,
        (_, None) => due.fire.is_some() || looks,
    };
    Ok(Plan { seen: trigger, due, queue, events, starts, hindered })
}

/// What came due while the account was disabled is passed by.
fn shut_out(timetable: &Timetable, first: Timestamp, enabled: Timestamp) -> Due {
    let next = timetable.next_after(Timestamp::from_millis(enabled.millis() - 1));
    let why = format!("the account was disabled until {enabled}; what came due before is passed by");
    Due { skipped: Some((first, why)), next: next.map(|fire| fire.at), ..Due::default() }
}

/// The job that a trigger starts, as a request.
pub fn request(trigger: &Trigger, now: Timestamp) -> NewJob {
    let target = match trigger.target {
        Target::Robot(id) => WireTarget { robot: Some(id.to_string()), group: None },
        Target::Group(id) => WireTarget { robot: None, group: Some(id.to_string()) },
    };
    NewJob {
        process: trigger.process_id.to_string(),
        version: None,
        target,
        input: trigger.input.clone(),
        priority: trigger.priority,
        count: None,
        not_before: None,
        stop_after: trigger.stop_after_seconds.map(|seconds| now.plus_seconds(seconds)),
        abort_after: trigger.abort_after_seconds.map(|seconds| now.plus_seconds(seconds)),
        timeout_seconds: None,
        labels: Default::default(),
    }
}

/// The same with an input of its own, whose members stand over those of the trigger.
pub fn request_with(trigger: &Trigger, input: Map<String, Value>, now: Timestamp) -> NewJob {
    let mut new = request(trigger, now);
    new.input.get_or_insert_default().extend(input);
    new
}

/// The draft of a trigger's job, for the least busy robot if that is wanted.
pub fn draft(reading: &dyn Reading, trigger: &Trigger, new: &NewJob) -> Result<Draft> {
    let mut draft = job::draft_for(reading, new, trigger.target)?;
    if let (Busy::QueueOnLeastBusy, Target::Group(group)) = (trigger.busy, draft.target) {
        draft.target = least_busy(reading, &table::get(reading, group)?)?.map_or(draft.target, Target::Robot);
    }
    Ok(draft)
}

/// The robot of the group that holds and awaits the fewest jobs, if all of those that take jobs are busy.
fn least_busy(reading: &dyn Reading, group: &RobotGroup) -> Result<Option<drover_protocol::RobotId>> {
    let robots: Vec<(Vec<u8>, Robot)> = match group.is_all() {
        true => Scan::of(reading, Kind::Robot, ()).records(reading, MAX_CANDIDATES)?,
        false => Scan::of(reading, Kind::RobotByGroup, group.id).indexed(reading, MAX_CANDIDATES)?,
    };
    let mut best = None;
    for (_, robot) in robots {
        let full = robot::in_full(reading, robot)?;
        if !unfit(&full.robot, &full.standing, 0, reading.now()).is_empty() {
            continue;
        }
        if full.held.len() < full.robot.capacity() as usize {
            return Ok(None);
        }
        let waiting = Scan::of(reading, Kind::JobReady, Target::Robot(full.robot.id)).pairs(reading, MAX_CANDIDATES)?;
        let load = (full.held.len() + waiting.len(), full.robot.id);
        best = Some(best.map_or(load, |best: (usize, _)| best.min(load)));
    }
    Ok(best.map(|(_, robot)| robot))
}

/// Does what was planned, if the trigger is still as it was seen.
pub fn carry_out(
    tx: &mut Tx,
    plan: &Plan,
    ready: Option<&Ready>,
    of_events: &[(Pending, Ready)],
    leases: &Leases,
) -> Result<()> {
    let Some(mut trigger) = table::find::<Trigger>(tx, plan.seen.id)?.filter(|trigger| *trigger == plan.seen) else {
        return Ok(());
    };
    for missed in &plan.due.missed {
        note_missed(tx, trigger.id, missed)?;
    }
    if let Some((instant, why)) = &plan.due.skipped {
        note_instant(tx, trigger.id, *instant, Decision::Skipped, why)?;
    }
    if let (Some(instant), Some(ready)) = (plan.due.fire, ready) {
        decide(tx, &mut trigger, instant, ready, leases)?;
    }
    trigger.next_fire_at = plan.due.next;
    if trigger.look_at.is_some_and(|at| at <= tx.now()) {
        trigger.look_at = None;
        match trigger.rests_until.filter(|at| *at > tx.now() && trigger.rule.keeps_jobs()) {
            // Jobs have failed since this look was asked for.
            Some(rests_until) => trigger.look_by(rests_until),
            None => look(tx, &mut trigger, plan, ready, of_events, leases)?,
        }
    }
    note_paused(tx, &plan.seen, &trigger)?;
    table::rewrite(tx, &trigger)
}

/// Does what a look that was asked for is about.
fn look(
    tx: &mut Tx,
    trigger: &mut Trigger,
    plan: &Plan,
    ready: Option<&Ready>,
    of_events: &[(Pending, Ready)],
    leases: &Leases,
) -> Result<()> {
    match (&trigger.rule, &plan.queue, ready) {
        (Rule::Continuous(continuous), _, Some(ready)) => {
            let jobs = continuous.jobs;
            top_up(tx, trigger, jobs, "", ready)
        }
        (Rule::Schedule { .. }, _, Some(ready)) => release(tx, trigger, ready),
        (Rule::Queue { .. }, Some(seen), ready) => by_queue::carry_out(tx, trigger, seen, ready, leases),
        (Rule::Event(_), ..) => by_event::carry_out(tx, trigger, of_events, leases),
        (Rule::Webhook(_) | Rule::Mail(_), ..) | (_, _, None) | (Rule::Queue { .. }, None, _) => Ok(()),
    }
}

/// Says once, to those who look after it as well, that the trigger fires no more although it is enabled.
fn note_paused(tx: &mut Tx, before: &Trigger, after: &Trigger) -> Result<()> {
    let now = tx.now();
    let Some(why) = after.paused_because(now).filter(|_| before.paused_because(now).is_none()) else { return Ok(()) };
    event::note(tx, after.id.uuid(), "trigger_paused", why.clone(), "coordinator")?;
    alert_raise::trigger_paused(tx, after, &why)
}

fn row_at(reading: &dyn Reading, trigger: TriggerId, instant: Timestamp) -> Result<Option<Fire>> {
    table::find(reading, (trigger, instant, Uuid::nil()))
}

/// Writes down what became of an instant of the schedule, unless that is known already.
pub fn note_instant(
    tx: &mut Tx,
    trigger: TriggerId,
    instant: Timestamp,
    decision: Decision,
    reason: &str,
) -> Result<()> {
    if row_at(tx, trigger, instant)?.is_none() {
        note(tx, trigger, instant, Uuid::nil(), decision, reason.to_owned(), Vec::new())?;
    }
    Ok(())
}

fn note(
    tx: &mut Tx,
    trigger_id: TriggerId,
    instant: Timestamp,
    occasion: Uuid,
    decision: Decision,
    reason: String,
    job_ids: Vec<JobId>,
) -> Result<Fire> {
    let decided_at = tx.now();
    let row = Fire {
        trigger_id,
        instant,
        occasion,
        decided_at,
        decision,
        reason,
        job_ids,
        count: 1,
        until: None,
        event_id: None,
    };
    table::insert(tx, &row)?;
    trace::fired(tx, &row)?;
    census::count(tx, |totals| totals.fires[decision as usize] += 1)?;
    tell(tx, &row)?;
    Ok(row)
}

/// Writes down what became of something that has no instant of its own.
pub fn note_now(tx: &mut Tx, trigger: TriggerId, decision: Decision, reason: String) -> Result<()> {
    let (now, occasion) = (tx.now(), tx.new_id());
    note(tx, trigger, now, occasion, decision, reason, Vec::new()).map(drop)
}

/// What became of an instant, to those who want to know.
fn tell(tx: &mut Tx, row: &Fire) -> Result<()> {
    if tx.changes_are_followed()
        && let Some(trigger) = table::find::<Trigger>(tx, row.trigger_id)?
    {
        table::tell_changed(tx, &trigger);
    }
    let kind = match row.decision {
        Decision::Fired => NewsType::TriggerFired,
        Decision::Missed | Decision::Failed => NewsType::TriggerMissed,
        Decision::Skipped => return Ok(()),
    };
    news::tell(tx, kind, |tx| {
        let trigger: Trigger = table::get(tx, row.trigger_id)?;
        let data = serde_json::json!({
            "process_id": trigger.process_id, "instant": row.instant, "decision": row.decision, "reason": row.reason,
            "job_ids": row.job_ids,
        });
        Ok(Facts { subject: Subject::new(NOUN, trigger.id.uuid(), Some(&trigger.name)), data })
    })
}

fn note_missed(tx: &mut Tx, trigger_id: TriggerId, missed: &Missed) -> Result<()> {
    if row_at(tx, trigger_id, missed.instant)?.is_some() {
        return Ok(());
    }
    let reason = match (missed.count, missed.until, missed.uncounted) {
        (count, Some(until), true) => format!("more than {count} instants until {until} were missed: nothing ran then"),
        (count, Some(until), false) => format!("{count} instants until {until} were missed: nothing ran then"),
        (_, None, _) => "the coordinator did not run then, and it is not made up for".to_owned(),
    };
    let mut row = note(tx, trigger_id, missed.instant, Uuid::nil(), Decision::Missed, reason, Vec::new())?;
    (row.count, row.until) = (missed.count, missed.until);
    census::count(tx, |totals| totals.fires[Decision::Missed as usize] += missed.count.saturating_sub(1))?;
    table::rewrite(tx, &row)
}

/// Unfinished jobs of a trigger, oldest first.
fn active(reading: &dyn Reading, trigger: TriggerId, limit: usize) -> Result<usize> {
    Ok(Scan::of(reading, Kind::JobActiveByTrigger, trigger).pairs(reading, limit)?.len())
}

/// Decides about an instant by the trigger's limits and its policy of overlapping.
fn decide(tx: &mut Tx, trigger: &mut Trigger, instant: Timestamp, ready: &Ready, leases: &Leases) -> Result<()> {
    if row_at(tx, trigger.id, instant)?.is_some() {
        return Ok(());
    }
    let skip = |tx: &mut Tx, reason: &str| note_instant(tx, trigger.id, instant, Decision::Skipped, reason);
    if trigger.month_is_used_up(month(trigger, tx.now())?) {
        return skip(tx, MONTH_IS_USED_UP);
    }
    let most = trigger.most_at_once().unwrap_or(usize::MAX);
    if most < usize::MAX && active(tx, trigger.id, most)? >= most {
        match trigger.overlap {
            Overlap::Skip | Overlap::Allow => {
                return skip(tx, &format!("{most} jobs of it have not finished, and no more may run at once"));
            }
            Overlap::BufferOne if !trigger.buffered.is_empty() => {
                return skip(tx, "its jobs have not finished, and one instant waits for that already");
            }
            Overlap::BufferAll if trigger.buffered.len() >= MAX_BUFFERED => {
                return skip(tx, &format!("{MAX_BUFFERED} instants wait for the ends of its jobs already"));
            }
            Overlap::BufferOne | Overlap::BufferAll => {
                trigger.buffered.push(instant);
                return Ok(());
            }
            Overlap::StopOther => stop_others(tx, trigger, most - 1, leases)?,
        }
    }
    start_at(tx, trigger, instant, ready, "its time had come")
}

fn month(trigger: &Trigger, at: Timestamp) -> Result<u32> {
    let span = trigger.span().map_err(|_| Error::Internal("the settings of a trigger are unsound".to_owned()))?;
    Ok(span.month(at))
}

/// Asks all but the newest `kept` jobs to stop.
fn stop_others(tx: &mut Tx, trigger: &Trigger, kept: usize, leases: &Leases) -> Result<()> {
    let jobs = Scan::of(tx, Kind::JobActiveByTrigger, trigger.id).indexed::<Job>(tx, MAX_CANDIDATES)?;
    let stopped = jobs.len().saturating_sub(kept);
    for (_, job) in jobs.into_iter().take(stopped) {
        let message = format!("the trigger {} starts a new job and stops the older ones", trigger.name);
        let why = Cause { by: format!("trigger:{}", trigger.id), code: CauseCode::StopRequested, message };
        job::apply(tx, job, JobEvent::Stop { mode: StopMode::Stop, why }, leases)?;
    }
    Ok(())
}

/// Starts the job of an instant, or writes down why that cannot be done.
fn start_at(tx: &mut Tx, trigger: &mut Trigger, instant: Timestamp, ready: &Ready, why: &str) -> Result<()> {
    match start(tx, trigger, ready, 1, 0)? {
        Ok(jobs) => note(tx, trigger.id, instant, Uuid::nil(), Decision::Fired, why.to_owned(), jobs),
        Err(reason) => note(tx, trigger.id, instant, Uuid::nil(), Decision::Failed, reason, Vec::new()),
    }?;
    Ok(())
}

/// Starts jobs with this [`Job::chain`].
fn start(
    tx: &mut Tx,
    trigger: &mut Trigger,
    ready: &Ready,
    count: u32,
    chain: u32,
) -> Result<Result<Vec<JobId>, String>> {
    let (new, checked) = match ready {
        Ok(ready) => ready,
        Err(reason) => return Ok(Err(reason.clone())),
    };
    let new = NewJob { count: Some(count), ..new.clone() };
    match job::start_as(tx, &Origin::trigger(trigger.id, chain), &new, &checked.draft, &checked.input) {
        Ok(jobs) => {
            let month = month(trigger, tx.now())?;
            trigger.count_runs(jobs.len() as u64, month, tx.now());
            Ok(Ok(jobs.iter().map(|job| job.id).collect()))
        }
        Err(error) => cannot(error).map(Err),
    }
}

/// Why a job could not be started, unless that is no matter of the trigger.
pub fn cannot(error: Error) -> Result<String> {
    match error {
        Error::NotFound(_) | Error::Invalid(_) | Error::Refused { .. } | Error::TooLarge(_) => Ok(error.to_string()),
        other => Err(other),
    }
}

/// Starts jobs for instants that have waited for the end of others.
fn release(tx: &mut Tx, trigger: &mut Trigger, ready: &Ready) -> Result<()> {
    let most = trigger.most_at_once().unwrap_or(usize::MAX).min(MAX_CANDIDATES);
    let free = most.saturating_sub(active(tx, trigger.id, most)?);
    let waiting: Vec<Timestamp> = trigger.buffered.drain(..free.min(trigger.buffered.len())).collect();
    for instant in waiting {
        if trigger.is_used_up() {
            note_instant(tx, trigger.id, instant, Decision::Skipped, "it has started as many jobs as max_runs allows")?;
        } else if trigger.month_is_used_up(month(trigger, tx.now())?) {
            note_instant(tx, trigger.id, instant, Decision::Skipped, MONTH_IS_USED_UP)?;
        } else if row_at(tx, trigger.id, instant)?.is_none() {
            start_at(tx, trigger, instant, ready, "a job of it had ended, for which this instant waited")?;
        }
    }
    Ok(())
}

/// When a continuous trigger may start a further job.
pub fn continuous_again(trigger: &Trigger, now: Timestamp) -> Timestamp {
    trigger.last_fired_at.map_or(now, |last| last.plus_seconds(CONTINUOUS_SECONDS).max(now))
}

/// As many of the wanted jobs as may be unfinished at once.
fn most_jobs(trigger: &Trigger, wanted: u32) -> u32 {
    trigger.max_parallel.map_or(wanted, |most| most.min(wanted))
}

/// Starts as many jobs as are lacking of those wanted; `because` says why so many are.
fn top_up(tx: &mut Tx, trigger: &mut Trigger, wanted: u32, because: &str, ready: &Ready) -> Result<()> {
    let now = tx.now();
    let span = trigger.span().map_err(|_| Error::Internal("the settings of a trigger are unsound".to_owned()))?;
    match span.opens(now) {
        Some(at) if at <= now => {}
        later => {
            trigger.look_at = later;
            return Ok(());
        }
    }
    let most = most_jobs(trigger, wanted);
    let lacking = most.saturating_sub(u32::try_from(active(tx, trigger.id, most as usize)?).unwrap_or(most));
    let left = |most: Option<u64>, runs: u64| most.map_or(u64::MAX, |most| most.saturating_sub(runs));
    let month = span.month(now);
    let runs = if trigger.month.month == month { trigger.month.runs } else { 0 };
    let left = left(trigger.max_runs, trigger.fired_count).min(left(trigger.max_runs_per_month, runs));
    let count = u64::from(lacking.min(MAX_STARTED)).min(left) as u32;
    if count == 0 {
        // The month is over some day; jobs that end wake it by themselves.
        trigger.look_at = (lacking > 0 && !trigger.is_used_up()).then(|| now.plus_seconds(3_600));
        return Ok(());
    }
    let occasion = tx.new_id();
    match start(tx, trigger, ready, count, 0)? {
        Ok(ids) => {
            let reason = format!("{because}{lacking} of {most} jobs were lacking");
            note(tx, trigger.id, now, occasion, Decision::Fired, reason, ids)?;
            trigger.look_at = (count < lacking).then(|| continuous_again(trigger, now));
        }
        Err(reason) => {
            note(tx, trigger.id, now, occasion, Decision::Failed, reason, Vec::new())?;
            let again = now.plus_seconds(FAILED_SECONDS);
            (trigger.look_at, trigger.rests_until) = (Some(again), Some(again));
        }
    }
    Ok(())
}

/// Looks the trigger up for a person who wants it to fire.
pub fn for_firing(reading: &dyn Reading, caller: &Caller, text: &str) -> Result<Trigger> {
    reached(reading, caller, Permission::TriggerFire, text)
}

/// Starts one job now because a person wants it, whatever the trigger's limits are.
pub fn fire_now(tx: &mut Tx, caller: &Caller, id: TriggerId, new: &NewJob, checked: &Checked) -> Result<Job> {
    caller.require(Permission::TriggerFire)?;
    let mut trigger: Trigger = table::get(tx, id)?;
    reach::trigger(tx, caller, Permission::TriggerFire, &trigger)?;
    let jobs = job::start_as(tx, &Origin::trigger(id, 0), new, &checked.draft, &checked.input)?;
    let job = jobs.into_iter().next().ok_or_else(|| Error::Internal("no job was started".to_owned()))?;
    let (now, occasion) = (tx.now(), tx.new_id());
    let month = month(&trigger, now)?;
    trigger.count_runs(1, month, now);
    let reason = format!("{} asked for it", caller.name());
    note(tx, id, now, occasion, Decision::Fired, reason, vec![job.id])?;
    table::rewrite(tx, &trigger)?;
    audit::append(tx, caller, Act::new("fire", NOUN, id, &trigger.name))?;
    Ok(job)
}

/// The instants of a back-fill.
pub fn instants(reading: &dyn Reading, trigger: &Trigger, wanted: &Backfill) -> Result<Vec<Timestamp>> {
    if wanted.to <= wanted.from {
        return Err(Error::invalid("/to", "must be later than from"));
    }
    if wanted.to > reading.now() {
        return Err(Error::invalid("/to", "is in the future; instants to come fire by themselves"));
    }
    let Some(timetable) = timetable(reading, trigger)? else {
        return Err(Error::wrong_state("only a trigger of the kind schedule has instants that can be made up for"));
    };
    let mut found = Vec::new();
    let mut after = Timestamp::from_millis(wanted.from.millis() - 1);
    while let Some(fire) = timetable.next_after(after).filter(|fire| fire.at < wanted.to) {
        if found.len() == MAX_BACKFILL {
            let text =
                format!("more than {MAX_BACKFILL} instants lie between; end at {} and go on from there", fire.at);
            return Err(Error::invalid("/to", text));
        }
        found.push(fire.at);
        after = fire.at;
    }
    Ok(found)
}

/// Fires instants of the past that have not fired, because a person wants it, whatever the trigger's limits are. Gives how
/// many fired just now, and the rows of all.
pub fn backfill(
    tx: &mut Tx,
    caller: &Caller,
    id: TriggerId,
    instants: &[Timestamp],
    new: &NewJob,
    checked: &Checked,
) -> Result<(u32, Vec<Fire>)> {
    caller.require(Permission::TriggerFire)?;
    let mut trigger: Trigger = table::get(tx, id)?;
    reach::trigger(tx, caller, Permission::TriggerFire, &trigger)?;
    if checked.input.len().saturating_mul(instants.len()) > MAX_BACKFILL_BYTES {
        let text =
            format!("the inputs of all jobs are over the limit of {MAX_BACKFILL_BYTES} bytes; take a shorter time");
        return Err(Error::TooLarge(text));
    }
    let (mut fired, mut rows) = (0, Vec::new());
    for instant in instants {
        let known = row_at(tx, id, *instant)?;
        if let Some(row) = known.as_ref().filter(|row| row.decision == Decision::Fired) {
            rows.push(row.clone());
            continue;
        }
        let jobs = job::start_as(tx, &Origin::trigger(id, 0), new, &checked.draft, &checked.input)?;
        let month = month(&trigger, tx.now())?;
        trigger.count_runs(jobs.len() as u64, month, tx.now());
        let reason = match &known {
            Some(row) => {
                format!("back-filled by {}; it was {} before: {}", caller.name(), word(row.decision), row.reason)
            }
            None => format!("back-filled by {}", caller.name()),
        };
        if let Some(row) = known {
            pass_run_on(tx, &trigger, &row)?;
            table::delete::<Fire>(tx, (id, *instant, Uuid::nil()))?;
        }
        trigger.buffered.retain(|waiting| waiting != instant);
        let ids = jobs.iter().map(|job| job.id).collect();
        rows.push(note(tx, id, *instant, Uuid::nil(), Decision::Fired, reason, ids)?);
        fired += 1;
    }
    if fired > 0 {
        let text = format!("{fired} instants were back-filled");
        event::note(tx, id.uuid(), "trigger_backfilled", text, caller.by())?;
        audit::append(tx, caller, Act::new("backfill", NOUN, id, &trigger.name).after(instants))?;
        table::rewrite(tx, &trigger)?;
        tx.wake(Topic::Triggers);
    }
    Ok((fired, rows))
}

fn word(decision: Decision) -> &'static str {
    match decision {
        Decision::Fired => "fired",
        Decision::Skipped => "skipped",
        Decision::Missed => "missed",
        Decision::Failed => "failed",
    }
}

/// A run of misses whose first instant is made up for goes on from the next one.
fn pass_run_on(tx: &mut Tx, trigger: &Trigger, run: &Fire) -> Result<()> {
    let (Some(until), Some(timetable)) = (run.until, timetable(tx, trigger)?) else { return Ok(()) };
    let Some(next) = timetable.next_after(run.instant).filter(|fire| fire.at <= until) else { return Ok(()) };
    if run.count > 1 && row_at(tx, trigger.id, next.at)?.is_none() {
        table::insert(tx, &Fire { instant: next.at, count: run.count - 1, ..run.clone() })?;
    }
    Ok(())
}
