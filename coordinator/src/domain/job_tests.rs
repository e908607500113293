//! Proves the life of a job: the whole table of state × event is a file, so that a change of a rule is a visible diff.

use drover_protocol::job::SourceKind;
use uuid::Uuid;

use super::*;

const TABLE: &str = include_str!("job_table.golden");
const LEASES: Leases = Leases { job_seconds: 60, accept_seconds: 30, lost_after_seconds: 300 };

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000 + seconds * 1000)
}

fn robot(number: u128) -> RobotId {
    RobotId::from_uuid(Uuid::from_u128(number))
}

fn holder() -> Holder {
    Holder { id: robot(1), name: "r1".to_owned() }
}

fn job(state: State) -> Job {
    let held = !matches!(state, State::Waiting { .. });
    let running = !matches!(state, State::Waiting { .. } | State::Assigned { .. });
    Job {
        id: JobId::from_uuid(Uuid::from_u128(7)),
        process_id: ProcessId::from_uuid(Uuid::from_u128(8)),
        process_name: "p".to_owned(),
        process_version_id: ProcessVersionId::from_uuid(Uuid::from_u128(9)),
        version_number: 1,
        target: Target::Robot(robot(1)),
        state,
        attempt: u32::from(held),
        tries: u32::from(running),
        robot: held.then(holder),
        priority: 2,
        source: Source { kind: SourceKind::Api, id: "u".to_owned() },
        created_at: at(-100),
        assigned_at: held.then(|| at(-20)),
        started_at: running.then(|| at(-10)),
        finished_at: None,
        stop_after: None,
        abort_after: None,
        timeout_seconds: None,
        stop_grace_seconds: 15,
        retry: Retry::default(),
        log_level: Level::Trace,
        labels: BTreeMap::new(),
        parent_job_id: None,
        trigger_id: None,
        chain: 0,
        progress: None,
        error: None,
        exit: None,
        usage: None,
        revision: 1,
    }
}

fn cause(code: CauseCode) -> Cause {
    Cause { by: "user:u".to_owned(), code, message: "because".to_owned() }
}

fn stop_of(mode: StopMode, code: CauseCode, force_at: Timestamp) -> State {
    State::Stopping { stop: Stop { mode, why: cause(code), force_at, told: None, contact: None } }
}

fn stopping(code: CauseCode, contact: Contact) -> State {
    let stop = Stop { mode: StopMode::Stop, why: cause(code), force_at: at(900), told: None, contact: Some(contact) };
    State::Stopping { stop }
}

/// Every state in the variations that matter, with its name in the table.
fn states() -> Vec<(&'static str, State)> {
    let finished = State::Finished { outcome: Outcome::Succeeded, cause: cause(CauseCode::Completed) };
    vec![
        ("waiting", State::Waiting { not_before: None }),
        ("waiting for its time", State::Waiting { not_before: Some(at(9)) }),
        ("waiting, its time has come", State::Waiting { not_before: Some(at(0)) }),
        ("assigned", State::Assigned { accept_by: at(9) }),
        ("assigned, too long ago", State::Assigned { accept_by: at(0) }),
        ("running", State::Running { lease_ends_at: at(9) }),
        ("running, lease out", State::Running { lease_ends_at: at(0) }),
        ("silent", State::Silent { lost_at: at(9) }),
        ("silent for too long", State::Silent { lost_at: at(0) }),
        ("stopping softly", stop_of(StopMode::Stop, CauseCode::StopRequested, at(9))),
        ("stopping softly, grace out", stop_of(StopMode::Stop, CauseCode::StopRequested, at(0))),
        ("stopping for its timeout", stop_of(StopMode::Stop, CauseCode::Timeout, at(9))),
        ("stopping for its timeout, grace out", stop_of(StopMode::Stop, CauseCode::Timeout, at(0))),
        ("stopping, lease out", stopping(CauseCode::StopRequested, Contact::Heard { lease_ends_at: at(0) })),
        ("stopping, silent", stopping(CauseCode::StopRequested, Contact::Silent { lost_at: at(9) })),
        ("stopping, silent for too long", stopping(CauseCode::StopRequested, Contact::Silent { lost_at: at(0) })),
        ("aborting", stop_of(StopMode::Abort, CauseCode::AbortRequested, at(9))),
        ("aborting, unconfirmed", stop_of(StopMode::Abort, CauseCode::AbortRequested, at(0))),
        ("aborting after the grace, unconfirmed", stop_of(StopMode::Abort, CauseCode::StopGraceExceeded, at(0))),
        ("finished", finished),
    ]
}

fn report(outcome: Outcome, code: CauseCode) -> Report {
    let cause = Cause { by: "agent".to_owned(), code, message: "said so".to_owned() };
    Report { outcome, cause, error: None, exit: None, usage: None }
}

fn events() -> Vec<(&'static str, JobEvent)> {
    let finish = |attempt, outcome, code| JobEvent::Finish { robot: robot(1), attempt, report: report(outcome, code) };
    let ask = |mode, code| JobEvent::Stop { mode, why: cause(code) };
    vec![
        ("assign", JobEvent::Assign { robot: holder() }),
        ("accept", JobEvent::Accept { robot: robot(1), attempt: 1 }),
        ("accept of another attempt", JobEvent::Accept { robot: robot(1), attempt: 2 }),
        ("accept of another robot", JobEvent::Accept { robot: robot(2), attempt: 1 }),
        ("renew", JobEvent::Renew { robot: robot(1), attempt: 1, progress: None }),
        ("renew of another attempt", JobEvent::Renew { robot: robot(1), attempt: 2, progress: None }),
        ("finish succeeded", finish(1, Outcome::Succeeded, CauseCode::Completed)),
        ("finish failed", finish(1, Outcome::Failed, CauseCode::ExitCode)),
        ("finish stopped", finish(1, Outcome::Stopped, CauseCode::StopRequested)),
        ("finish aborted", finish(1, Outcome::Aborted, CauseCode::AbortRequested)),
        ("finish aborted, forced", finish(1, Outcome::Aborted, CauseCode::StopGraceExceeded)),
        ("finish timed out", finish(1, Outcome::TimedOut, CauseCode::Timeout)),
        ("finish of another attempt", finish(2, Outcome::Succeeded, CauseCode::Completed)),
        ("stop", ask(StopMode::Stop, CauseCode::StopRequested)),
        ("abort", ask(StopMode::Abort, CauseCode::AbortRequested)),
        ("close as failed", JobEvent::Close { outcome: Outcome::Failed, cause: cause(CauseCode::ClosedByOperator) }),
        ("retry", JobEvent::Retry { by: "user:u".to_owned() }),
        ("time passes", JobEvent::Tick),
    ]
}

fn shown(state: &State) -> String {
    let seconds = |time: Timestamp| (time.millis() - at(0).millis()) / 1000;
    let word = |code: CauseCode| serde_json::to_string(&code).unwrap().replace('"', "");
    match state {
        State::Waiting { not_before: None } => "waiting".to_owned(),
        State::Waiting { not_before: Some(time) } => format!("waiting until {}s", seconds(*time)),
        State::Assigned { accept_by } => format!("assigned until {}s", seconds(*accept_by)),
        State::Running { lease_ends_at } => format!("running until {}s", seconds(*lease_ends_at)),
        State::Silent { lost_at } => format!("silent until {}s", seconds(*lost_at)),
        State::Stopping { stop } => {
            let contact = match stop.contact {
                Some(Contact::Heard { lease_ends_at }) => format!(", heard until {}s", seconds(lease_ends_at)),
                Some(Contact::Silent { lost_at }) => format!(", silent until {}s", seconds(lost_at)),
                None => String::new(),
            };
            let (mode, code, until) = (stop.mode, word(stop.why.code), seconds(stop.force_at));
            format!("stopping ({mode:?}, {code}) until {until}s{contact}")
        }
        State::Finished { outcome, cause } => format!("finished {} ({})", outcome.as_str(), word(cause.code)),
    }
}

fn result_of(state: State, event: JobEvent) -> String {
    let before = job(state);
    match step(before.clone(), event, &LEASES, at(0)) {
        Err(refusal) => match refusal {
            Refusal::StaleAttempt { .. } => "refused: stale attempt".to_owned(),
            Refusal::WrongState(_) => "refused: wrong state".to_owned(),
        },
        Ok(step) if step.job == before => "nothing".to_owned(),
        Ok(step) => shown(&step.job.state),
    }
}

/// Any change of a rule shows in the file; run with `UPDATE_GOLDEN=1` to write it anew, and read the diff.
#[test]
fn the_whole_table_is_as_written_down() {
    let mut table = String::from("# state × event → result. Times are seconds from the moment of the event.\n");
    for (state_name, state) in states() {
        table.push_str(&format!("\n{state_name}\n"));
        for (event_name, event) in events() {
            table.push_str(&format!("    {event_name:28} {}\n", result_of(state.clone(), event)));
        }
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/domain/job_table.golden"), &table).unwrap();
        return;
    }
    assert_eq!(table, TABLE, "the rules of a job have changed");
}

/// A finished job stays as it is, whatever comes; only a person's wish to retry moves it.
#[test]
fn a_finished_job_never_changes_by_itself() {
    let finished = State::Finished { outcome: Outcome::Lost, cause: cause(CauseCode::RobotSilent) };
    for (name, event) in events().into_iter().filter(|(name, _)| *name != "retry") {
        let before = job(finished.clone());
        if let Ok(step) = step(before.clone(), event, &LEASES, at(1_000_000)) {
            assert_eq!(step.job, before, "{name}");
        }
    }
}

/// From every unfinished held state time alone leads to a final state, in bounded steps: nothing runs for ever.
#[test]
fn time_alone_ends_every_held_job() {
    for (name, state) in states() {
        let mut job = job(state);
        if !job.is_held() {
            continue;
        }
        for _ in 0..10 {
            let Some(deadline) = job.deadline() else { break };
            job = step(job, JobEvent::Tick, &LEASES, deadline).unwrap().job;
        }
        // Not accepted: it waits again for a robot, which is no robot's place.
        assert!(job.is_finished() || job.is_ready(), "{name} stays {:?}", job.state);
    }
}

/// What is due is done by one tick at its deadline, or the loop that ticks would spin.
#[test]
fn a_tick_at_the_deadline_always_moves_it() {
    for (name, state) in states() {
        let mut before = job(state);
        before.timeout_seconds = Some(1);
        before.abort_after = Some(at(2));
        let Some(deadline) = before.deadline() else { continue };
        let after = step(before.clone(), JobEvent::Tick, &LEASES, deadline.max(at(0))).unwrap().job;
        assert_ne!(after.deadline(), before.deadline(), "{name}");
    }
}

fn with_retry(on: RetryOn, delay_seconds: u64) -> Job {
    let mut job = job(State::Running { lease_ends_at: at(9) });
    job.retry = Retry { max_attempts: 2, on: vec![on], delay_seconds };
    job
}

#[test]
fn retries_are_counted_delayed_and_only_for_the_outcomes_named() {
    let failed =
        || JobEvent::Finish { robot: robot(1), attempt: 1, report: report(Outcome::Failed, CauseCode::ExitCode) };
    let again = step(with_retry(RetryOn::Failed, 60), failed(), &LEASES, at(0)).unwrap();
    assert_eq!(again.job.state, State::Waiting { not_before: Some(at(60)) });
    assert_eq!(again.ended.unwrap().outcome, Some(Outcome::Failed));

    let mut second = with_retry(RetryOn::Failed, 60);
    second.tries = 2;
    assert!(step(second, failed(), &LEASES, at(0)).unwrap().job.is_finished());
    assert!(step(with_retry(RetryOn::Lost, 0), failed(), &LEASES, at(0)).unwrap().job.is_finished());
}

#[test]
fn a_business_error_is_never_tried_again() {
    let error = JobError { kind: ErrorKind::Business, code: None, message: "no such customer".to_owned() };
    let report = Report { error: Some(error), ..report(Outcome::Failed, CauseCode::BusinessError) };
    let event = JobEvent::Finish { robot: robot(1), attempt: 1, report };
    assert!(step(with_retry(RetryOn::Failed, 0), event, &LEASES, at(0)).unwrap().job.is_finished());
}

/// A person's word is final: neither close nor abort starts another attempt.
#[test]
fn what_a_person_ends_is_not_tried_again() {
    let close = JobEvent::Close { outcome: Outcome::Failed, cause: cause(CauseCode::ClosedByOperator) };
    assert!(step(with_retry(RetryOn::Failed, 0), close, &LEASES, at(0)).unwrap().job.is_finished());
}

/// A time limit leaves a further try to the process; a person who asks for the end meanwhile does not.
#[test]
fn who_asks_for_the_end_of_a_job_that_is_stopped_for_its_time_limit_ends_it() {
    for (mode, asked) in [(StopMode::Stop, StopMode::Stop), (StopMode::Abort, StopMode::Stop)] {
        let mut job = with_retry(RetryOn::TimedOut, 0);
        job.state = stop_of(mode, CauseCode::Timeout, at(9));
        let timed_out = |job: Job| {
            let report = report(Outcome::TimedOut, CauseCode::Timeout);
            step(job, JobEvent::Finish { robot: robot(1), attempt: 1, report }, &LEASES, at(1)).unwrap().job
        };
        assert!(timed_out(job.clone()).is_ready(), "its process wants another try");
        let wish = JobEvent::Stop { mode: asked, why: cause(CauseCode::StopRequested) };
        let asked = step(job, wish.clone(), &LEASES, at(0)).unwrap();
        assert_eq!(asked.notes.len(), 1);
        assert_eq!(step(asked.job.clone(), wish, &LEASES, at(0)).unwrap().job, asked.job);
        assert!(timed_out(asked.job).is_finished());
    }
}

/// However long the grace: a job whose robot is gone is lost as soon as if nobody had asked for its end, and not tried
/// again; a robot that is heard of meanwhile has the whole grace.
#[test]
fn a_long_grace_does_not_keep_the_job_of_a_robot_that_is_gone() {
    let mut job = with_retry(RetryOn::Lost, 0);
    (job.stop_grace_seconds, job.state) = (3600, State::Running { lease_ends_at: at(60) });
    let wish = JobEvent::Stop { mode: StopMode::Stop, why: cause(CauseCode::StopRequested) };
    let asked = step(job, wish, &LEASES, at(1)).unwrap().job;
    let silent = step(asked.clone(), JobEvent::Tick, &LEASES, at(60)).unwrap().job;
    assert_eq!(silent.deadline(), Some(at(60).plus_seconds(LEASES.lost_after_seconds)));
    let lost = step(silent.clone(), JobEvent::Tick, &LEASES, silent.deadline().unwrap()).unwrap().job;
    assert_eq!(shown(&lost.state), "finished lost (robot_silent)");
    let renew = JobEvent::Renew { robot: robot(1), attempt: 1, progress: None };
    let back = step(silent, renew, &LEASES, at(100)).unwrap();
    assert_eq!(back.notes.len(), 1);
    assert_eq!(back.job.deadline(), Some(at(100).plus_seconds(LEASES.job_seconds)));
}

/// The clock may jump ahead by a day: a job is not lost by that alone, its robot gets the whole time to come back.
#[test]
fn a_jump_of_the_clock_loses_nothing() {
    let day = at(86_400);
    let silent = step(job(State::Running { lease_ends_at: at(9) }), JobEvent::Tick, &LEASES, day).unwrap().job;
    assert_eq!(silent.state, State::Silent { lost_at: day.plus_seconds(300) });
    let renew = JobEvent::Renew { robot: robot(1), attempt: 1, progress: None };
    let back = step(silent, renew, &LEASES, day).unwrap().job;
    assert_eq!(back.state.kind(), JobState::Running);
}
