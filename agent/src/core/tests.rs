//! The whole table of phase × event as text, and the rules that are easier to read as stories.

use std::fmt::Write as _;

use drover_protocol::{
    agent::{AgentConfig, HeartbeatAnswer, JobCommand, NextAnswer, RenewedJob, RobotBrief},
    job::{CauseCode, Outcome},
    problem::Problem,
    robot::RobotState,
};
use serde_json::json;

use super::*;
use crate::launcher::EndMode;

const DAY_MS: i64 = 86_400_000;
const T0: Timestamp = Timestamp::from_millis(1_795_421_111_000);

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(T0.millis() + ms)
}

fn id() -> AttemptId {
    "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f-1".parse().expect("an id")
}

fn assignment() -> Assignment {
    let some_id = "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f";
    serde_json::from_value(json!({
        "job": {
            "id": some_id, "process_id": some_id, "process_name": "p", "process_version_id": some_id, "version_number": 1,
            "target": {}, "state": "assigned", "outcome": null, "cause": null, "attempt": 1, "tries": 0, "robot_id": null,
            "robot_name": null, "priority": 2, "error": null, "exit": null, "usage": null, "progress": null,
            "source": {"kind": "user", "id": "u"}, "created_at": T0, "not_before": null, "assigned_at": null,
            "started_at": null, "finished_at": null, "stop_after": null, "abort_after": null, "timeout_seconds": null,
            "stop_grace_seconds": 30, "lease_ends_at": null, "labels": {}, "parent_job_id": null, "revision": 1
        },
        "attempt": 1, "lease_ends_at": T0, "key": "k", "secrets_to_mask": [], "log_level": "info",
        "version": {"id": some_id, "number": 1, "sha256": "", "size_bytes": 0,
            "manifest": {"source": "inferred", "name": null, "run": {"command": ["x"]}}}
    }))
    .expect("an assignment")
}

fn entry(stage: Stage) -> crate::journal::Entry {
    crate::journal::Entry { assignment: Rc::new(assignment()), stage }
}

fn settings() -> CoreSettings {
    CoreSettings { capacity: None, drain_timeout_ms: 60_000, poll_seconds: 30 }
}

fn report() -> Box<Finish> {
    Box::new(report::not_started(id(), CauseCode::LaunchFailed, "x"))
}

fn refused(code: &str, status: u16) -> CallError {
    let problem = json!({"type": code, "title": "", "status": status, "detail": "", "request_id": ""});
    CallError::Refused { problem: Box::new(serde_json::from_value::<Problem>(problem).expect("a problem")) }
}

fn unreachable() -> CallError {
    CallError::Unreachable { why: "away".to_owned(), retry_after_ms: None }
}

fn beat(capacity: u32, command: Option<JobCommand>) -> Event {
    let jobs = vec![RenewedJob { job_id: id().job_id, attempt: 1, renewed: true, command }];
    Event::HeartbeatAnswered(Ok(HeartbeatAnswer {
        server_time: T0,
        lease_seconds: 60,
        next_in_seconds: 20,
        jobs: if command.is_some() { jobs } else { Vec::new() },
        robot: RobotBrief { state: RobotState::Idle, paused: None },
        config: AgentConfig { capacity },
    }))
}

/// A core that holds the one job in the given phase, with its first heartbeat and poll on their way.
fn core_in(phase: &str) -> Core {
    let mut core = Core::new(settings(), 1);
    let loaded = match phase {
        "nothing" => Loaded::default(),
        "Accepting" | "Preparing" => {
            Loaded { entries: vec![entry(Stage::Offered { claim: "c".to_owned() })], damaged: vec![] }
        }
        "Running" | "Stopping" | "Dropping" => Loaded { entries: vec![entry(Stage::Launching)], damaged: vec![] },
        "Delivering" => {
            Loaded { entries: vec![entry(Stage::Ended { report: report(), delivered: false })], damaged: vec![] }
        }
        "LastLines" | "Reporting" => {
            Loaded { entries: vec![entry(Stage::Ended { report: report(), delivered: true })], damaged: vec![] }
        }
        "Damaged" => Loaded { entries: vec![], damaged: vec![id()] },
        other => panic!("{other}"),
    };
    core.handle(Event::Recovered(loaded), T0);
    match phase {
        "Preparing" => drop(core.handle(Event::AcceptAnswered(id(), Ok(())), T0)),
        "Stopping" => drop(core.handle(beat(1, Some(JobCommand::Stop)), T0)),
        "Dropping" => drop(core.handle(Event::LinesRefused(id()), T0)),
        "Reporting" => drop(core.handle(Event::LinesSent(id()), T0)),
        _ => {}
    }
    core
}

fn phase_of(core: &Core) -> &'static str {
    match core.jobs.get(&id()) {
        None => "nothing",
        Some(held) => match held.phase {
            JobPhase::Accepting(_) => "Accepting",
            JobPhase::Preparing => "Preparing",
            JobPhase::Running if held.end.is_some() => "Stopping",
            JobPhase::Running => "Running",
            JobPhase::Delivering(_) => "Delivering",
            JobPhase::LastLines(_) => "LastLines",
            JobPhase::Reporting(_) => "Reporting",
            JobPhase::Dropping(Some(_)) => "Damaged",
            JobPhase::Dropping(None) => "Dropping",
        },
    }
}

fn word(action: &Action) -> String {
    match action {
        Action::Heartbeat(jobs) => format!("heartbeat({})", jobs.len()),
        Action::Next { free, known, .. } => format!("next(free {free}, known {})", known.len()),
        Action::CancelNext => "cancel_next".to_owned(),
        Action::Record(entry) => match &entry.stage {
            Stage::Offered { .. } => "record(offered)".to_owned(),
            Stage::Launching => "record(launching)".to_owned(),
            Stage::Ended { delivered, .. } => format!("record(ended, delivered {delivered})"),
        },
        Action::Accept(..) => "accept".to_owned(),
        Action::Prepare(_) => "prepare".to_owned(),
        Action::CancelPrepare(_) => "cancel_prepare".to_owned(),
        Action::Run { adopt, .. } => format!("run(adopt {adopt})"),
        Action::End(_, request) => format!("end({:?})", request.mode),
        Action::SendLines(_) => "send_lines".to_owned(),
        Action::Deliver(_) => "deliver".to_owned(),
        Action::CancelDeliver(_) => "cancel_deliver".to_owned(),
        Action::CloseLines(_) => "close_lines".to_owned(),
        Action::DropLines(_) => "drop_lines".to_owned(),
        Action::Report(_, report) => format!("report({})", report.outcome.as_str()),
        Action::Abandon(_) => "abandon".to_owned(),
        Action::Forget(_) => "forget".to_owned(),
        Action::Exit => "exit".to_owned(),
    }
}

type MakeEvent = fn() -> Event;

const EVENTS: &[(&str, MakeEvent)] = &[
    ("accepted", || Event::AcceptAnswered(id(), Ok(()))),
    ("accept refused", || Event::AcceptAnswered(id(), Err(refused("stale_attempt", 409)))),
    ("accept unreachable", || Event::AcceptAnswered(id(), Err(unreachable()))),
    ("prepared", || Event::Prepared(id(), Ok(()))),
    ("prepare failed", || Event::Prepared(id(), Err(report()))),
    ("ended", || Event::Ended(id(), report())),
    ("delivered", || Event::Delivered(id())),
    ("lines sent", || Event::LinesSent(id())),
    ("lines refused", || Event::LinesRefused(id())),
    ("reported", || Event::ReportAnswered(id(), Ok(()))),
    ("report stale", || Event::ReportAnswered(id(), Err(refused("stale_attempt", 409)))),
    ("report too large", || Event::ReportAnswered(id(), Err(refused("too_large", 413)))),
    ("report unreachable", || Event::ReportAnswered(id(), Err(unreachable()))),
    ("abandoned", || Event::Abandoned(id())),
    ("journal failed", || Event::JournalFailed(id())),
    ("stop", || beat(1, Some(JobCommand::Stop))),
    ("abort", || beat(1, Some(JobCommand::Abort))),
    ("drop", || beat(1, Some(JobCommand::Drop))),
    ("offered", || Event::NextAnswered(Ok(Some(NextAnswer { assignments: vec![assignment()], commands: Vec::new() })))),
    ("drain", || Event::Signal(Signal::Drain)),
];

const PHASES: &[&str] = &[
    "nothing",
    "Accepting",
    "Preparing",
    "Running",
    "Stopping",
    "Dropping",
    "Delivering",
    "LastLines",
    "Reporting",
    "Damaged",
];

/// A change of any rule is a visible change of the table. Write it anew with `UPDATE_GOLDEN=1`.
#[test]
fn the_table_of_phases_and_events() {
    let mut table = String::from("# phase + event -> phase: actions (polls and heartbeats included)\n");
    for phase in PHASES {
        assert_eq!(phase_of(&core_in(phase)), *phase);
        for (name, event) in EVENTS {
            let mut core = core_in(phase);
            let actions: Vec<String> = core.handle(event(), at(10)).iter().map(word).collect();
            let _ = writeln!(table, "{phase} + {name} -> {}: {}", phase_of(&core), actions.join(", "));
        }
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/core.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &table).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    for (ours, theirs) in table.lines().zip(golden.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(table.lines().count(), golden.lines().count());
}

/// Nothing is promised or started before it is recorded, whatever the order of phases.
#[test]
fn effects_follow_their_record() {
    for phase in PHASES {
        for (name, event) in EVENTS {
            let actions: Vec<String> = core_in(phase).handle(event(), at(10)).iter().map(word).collect();
            let place = |wanted: &str| actions.iter().position(|action| action.starts_with(wanted));
            if let Some(run) = place("run(adopt false)") {
                assert!(place("record(launching)").is_some_and(|record| record < run), "{phase} + {name}");
            }
            if let (Some(accept), "offered") = (place("accept"), *name) {
                assert!(place("record(offered)").is_some_and(|record| record < accept), "{phase} + {name}");
            }
        }
    }
}

/// A claim is made once per attempt and sent as it stands in the journal, so that only this agent can repeat it.
#[test]
fn a_claim_is_kept_and_repeated() {
    let mut core = core_in("nothing");
    let offer = NextAnswer { assignments: vec![assignment()], commands: Vec::new() };
    let actions = core.handle(Event::NextAnswered(Ok(Some(offer))), at(1));
    let (mut journalled, mut sent) = (None, Vec::new());
    for action in actions.into_iter().chain([]) {
        match action {
            Action::Record(entry) => journalled = Some(entry),
            Action::Accept(_, claim) => sent.push(claim),
            _ => {}
        }
    }
    core.handle(Event::AcceptAnswered(id(), Err(unreachable())), at(2));
    let again = core.handle(Event::Tick, at(60_000));
    let mut next = Core::new(settings(), 2);
    let loaded = Loaded { entries: journalled.into_iter().collect(), damaged: vec![] };
    let restarted = next.handle(Event::Recovered(loaded), at(60_001));
    for action in again.into_iter().chain(restarted) {
        if let Action::Accept(_, claim) = action {
            sent.push(claim);
        }
    }
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|claim| *claim == sent[0] && claim.len() == 32), "{sent:?}");
}

#[test]
fn without_room_it_still_listens_for_commands_and_asks_again_when_there_is_room() {
    let mut core = core_in("Reporting");
    core.handle(Event::NextAnswered(Ok(None)), at(5));
    let actions: Vec<String> = core.handle(Event::ReportAnswered(id(), Ok(())), at(6)).iter().map(word).collect();
    assert_eq!(actions, ["forget"], "the coordinator answers the poll that names the job");
    let actions: Vec<String> = core.handle(Event::NextAnswered(Ok(None)), at(7)).iter().map(word).collect();
    assert_eq!(actions, ["next(free 1, known 0)"]);
    let mut core = core_in("Running");
    let actions: Vec<String> = core.handle(Event::NextAnswered(Ok(None)), at(5)).iter().map(word).collect();
    assert_eq!(actions, ["next(free 0, known 1)"]);
    let ended: Vec<String> = core.handle(Event::Ended(id(), report()), at(6)).iter().map(word).collect();
    assert!(
        ended.contains(&"cancel_next".to_owned()) && ended.contains(&"next(free 1, known 1)".to_owned()),
        "{ended:?}"
    );
}

#[test]
fn failing_calls_wait_longer_and_success_starts_over() {
    let mut core = core_in("nothing");
    let mut now = at(0);
    for failure in 0..20 {
        core.handle(Event::NextAnswered(Err(unreachable())), now);
        core.handle(beat(1, None), now);
        let wake = core.poll_at;
        assert!(wake > now && wake.since(now).as_millis() <= 60_000, "failure {failure}");
        now = wake;
        assert!(core.handle(Event::Tick, now).iter().any(|action| matches!(action, Action::Next { .. })));
    }
    let unauthenticated = CallError::Unauthenticated("unknown key".to_owned());
    core.handle(Event::NextAnswered(Err(unauthenticated)), now);
    assert!(core.poll_at.since(now).as_millis() >= 60_000, "a key that is not accepted is tried slowly");
}

/// A proxy's maintenance page may ask for any wait: the leases are renewed as ever, while polls obey.
#[test]
fn no_wait_makes_a_heartbeat_late() {
    let mut core = core_in("Running");
    core.handle(beat(1, None), at(0));
    let busy = || CallError::Unreachable { why: "503".to_owned(), retry_after_ms: Some(900_000) };
    core.handle(Event::NextAnswered(Err(busy())), at(1));
    core.handle(Event::Tick, at(20_000));
    core.handle(Event::HeartbeatAnswered(Err(busy())), at(20_001));
    assert!(core.beat_at <= at(40_001), "{:?}", core.beat_at);
    assert!(core.poll_at >= at(600_000), "{:?}", core.poll_at);
}

/// However much room there is, one poll asks for no more than one answer can bring.
#[test]
fn a_large_host_asks_in_steps() {
    let mut core = core_in("nothing");
    core.handle(Event::NextAnswered(Ok(None)), at(1));
    core.handle(beat(1000, None), at(2));
    let actions: Vec<String> = core.handle(Event::NextAnswered(Ok(None)), at(3)).iter().map(word).collect();
    assert_eq!(actions, ["next(free 32, known 0)"]);
}

#[test]
fn the_jobs_own_deadlines_are_kept_by_the_agent_alone() {
    for (field, mode, code) in
        [("stop_after", EndMode::Soft, CauseCode::StopAfter), ("abort_after", EndMode::Hard, CauseCode::AbortAfter)]
    {
        let mut given = assignment();
        match field {
            "stop_after" => given.job.stop_after = Some(at(60_000)),
            _ => given.job.abort_after = Some(at(60_000)),
        }
        let mut core = Core::new(settings(), 1);
        let entry = crate::journal::Entry { assignment: Rc::new(given), stage: Stage::Launching };
        // The host's clock is off by a day until somebody sets it right: that decides nothing.
        let actions = core.handle(Event::Recovered(Loaded { entries: vec![entry], damaged: vec![] }), at(DAY_MS));
        assert!(actions.iter().all(|action| !matches!(action, Action::End(..))), "{field}");
        // The coordinator's clock is ten seconds behind the host's: its time comes ten seconds later here.
        core.handle(beat(1, None), at(10_000));
        core.handle(Event::NextAnswered(Err(unreachable())), at(10_000));
        assert!(core.handle(Event::Tick, at(69_000)).iter().all(|action| !matches!(action, Action::End(..))));
        let actions = core.handle(Event::Tick, at(70_000));
        let request =
            actions.iter().find_map(|action| if let Action::End(_, request) = action { Some(request) } else { None });
        assert!(request.is_some_and(|request| request.mode == mode && request.cause.code == code), "{field}");
    }
}

/// An abort leaves the artifacts a moment, whether it is asked for by the coordinator or by the job's own limit, before or
/// after the process has ended; what was a success until then is none any more.
#[test]
fn an_abort_ends_the_delivery() {
    let mut success = report();
    (success.outcome, success.error) = (Outcome::Succeeded, None);
    let mut limited = assignment();
    limited.job.abort_after = Some(at(1));
    for (number, given) in [assignment(), limited, assignment()].into_iter().enumerate() {
        let mut core = Core::new(settings(), 1);
        let entry = crate::journal::Entry { assignment: Rc::new(given), stage: Stage::Launching };
        core.handle(Event::Recovered(Loaded { entries: vec![entry], damaged: vec![] }), at(0));
        core.handle(beat(1, None), at(0));
        let abort = || beat(1, Some(JobCommand::Abort));
        match number {
            0 => drop((core.handle(Event::Ended(id(), success.clone()), at(0)), core.handle(abort(), at(1)))),
            1 => drop((core.handle(Event::Ended(id(), success.clone()), at(0)), core.handle(Event::Tick, at(1)))),
            _ => drop((core.handle(abort(), at(0)), core.handle(Event::Ended(id(), success.clone()), at(1)))),
        }
        // It is told again with every heartbeat; that does not make the time longer.
        core.handle(abort(), at(4_000));
        assert_eq!((phase_of(&core), core.wake_at()), ("Delivering", Some(at(5_001))));
        let actions: Vec<String> = core.handle(Event::Tick, at(5_001)).iter().map(word).collect();
        assert_eq!(actions[..3], ["cancel_deliver", "record(ended, delivered true)", "close_lines"]);
        core.handle(Event::Delivered(id()), at(5_002));
        let actions = core.handle(Event::LinesSent(id()), at(5_003));
        let Some(Action::Report(_, report)) = actions.first() else { panic!("no report") };
        let code = if number == 1 { CauseCode::AbortAfter } else { CauseCode::AbortRequested };
        assert_eq!((report.outcome, report.cause.code), (Outcome::Aborted, code));
        assert!(report.error.as_ref().is_some_and(|error| error.message.contains("artifacts")), "{report:?}");
    }
}

#[test]
fn signals_drain_then_stop_then_quit() {
    let mut core = core_in("Running");
    core.handle(Event::Signal(Signal::Terminate), at(10));
    assert_eq!(core.mode(), Mode::Draining);
    core.handle(Event::Signal(Signal::Drain), at(11));
    assert_eq!(core.mode(), Mode::Draining, "asking to drain twice changes nothing");
    let actions = core.handle(Event::Signal(Signal::Terminate), at(12));
    assert!(actions.iter().any(|action| matches!(action, Action::End(_, request) if request.mode == EndMode::Soft)));
    let actions = core.handle(Event::Signal(Signal::Terminate), at(13));
    assert!(matches!(actions.last(), Some(Action::Exit)));
}

/// Draining ends by itself: when the jobs are over, or when its time is over and the jobs were stopped.
#[test]
fn draining_comes_to_an_end() {
    assert!(matches!(core_in("nothing").handle(Event::Signal(Signal::Drain), at(1)).last(), Some(Action::Exit)));
    let mut core = core_in("Running");
    core.handle(Event::Signal(Signal::Drain), at(0));
    let actions = core.handle(Event::Tick, at(60_000));
    assert!(actions.iter().any(|action| matches!(action, Action::End(..))));
    assert_eq!(core.mode(), Mode::Stopping);
    let actions = core.handle(Event::Tick, at(60_000 + 30_000 + 30_000));
    assert!(matches!(actions.last(), Some(Action::Exit)), "reports that cannot be delivered stay in the journal");
}

/// A damaged entry is ended and reported as lost.
#[test]
fn a_damaged_entry_is_reported_lost() {
    let actions = core_in("Damaged").handle(Event::Abandoned(id()), at(1));
    let reported =
        actions.iter().find_map(|action| if let Action::Report(_, report) = action { Some(report) } else { None });
    assert!(reported.is_some_and(|report| report.outcome == Outcome::Lost && report.attempt == 1));
}
