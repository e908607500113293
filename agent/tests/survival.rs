//! Crashes, restarts and absences: no job runs twice, no line is lost or doubled, every end is reported once.

mod fake;

use std::time::Duration;

use drover_protocol::job::{CauseCode, Outcome};
use fake::{Agent, FakeCoordinator, processes_with, script_until, wait_until};
use serde_json::json;

const COUNTING: &str =
    r#"for n in $(seq 1 200); do echo "line $n"; sleep 0.01; done; echo '{"done": true}' > "$DROVER_OUTPUT""#;

fn all_lines() -> Vec<String> {
    (1..=200).map(|n| format!("line {n}")).collect()
}

/// Killed again and again while the process runs: the process goes on, every line arrives once, and so does the end.
#[test]
fn a_killed_agent_adopts_its_running_job() {
    let coordinator = FakeCoordinator::start();
    let mut agent = Agent::start(&coordinator);
    let job = coordinator.offer_script(COUNTING);
    coordinator.wait_for_line(&job, "line 20");
    for _ in 0..3 {
        agent.kill();
        let beats = coordinator.lock().heartbeats.len();
        agent.run();
        coordinator.wait("the new agent", |fake| (fake.heartbeats.len() > beats).then_some(()));
    }
    let report = coordinator.wait_for_end(&job);
    assert_eq!((report.outcome, report.output), (Outcome::Succeeded, Some(json!({"done": true}))));
    assert_eq!(coordinator.messages(&job), all_lines());
    assert_eq!(coordinator.lock().finishes.len(), 1);
    assert_eq!(coordinator.lock().accepted.len(), 1);
}

/// The process ends while no agent is there; the next one reports it.
#[test]
fn an_end_without_an_agent_is_reported_by_the_next() {
    let coordinator = FakeCoordinator::start();
    let mut agent = Agent::start(&coordinator);
    let mark = agent.state.path().join("go on");
    let job = coordinator.offer_script(&script_until(&mark, "echo last; exit 4"));
    coordinator.wait_for_line(&job, "ready");
    agent.kill();
    std::fs::write(mark, b"").expect("a file");
    let ended = agent.run_folder(&job).join("ended.json");
    wait_until("the end", || ended.exists().then_some(()));
    agent.run();
    let report = coordinator.wait_for_end(&job);
    assert_eq!((report.outcome, report.exit.and_then(|exit| exit.code)), (Outcome::Failed, Some(4)));
    assert_eq!(coordinator.messages(&job), ["ready", "last"]);
}

/// Agent and supervisor both killed: what is left of the tree is ended, and that nobody knows the result is said honestly.
#[test]
fn a_job_without_agent_and_supervisor_is_ended_and_reported_lost() {
    let coordinator = FakeCoordinator::start();
    let mut agent = Agent::start(&coordinator);
    let job = coordinator.offer_script("setsid sleep 7777.6 & echo ready; sleep 7777.6");
    coordinator.wait_for_line(&job, "ready");
    let supervisor = agent.supervisor(&job);
    agent.kill();
    // SAFETY: takes no pointers; the process was started by this test's agent.
    unsafe { libc::kill(supervisor, libc::SIGKILL) };
    agent.run();
    let report = coordinator.wait_for_end(&job);
    assert_eq!((report.outcome, report.cause.code), (Outcome::Lost, CauseCode::AgentRestarted));
    assert_eq!(report.cause.by, "agent");
    assert_eq!(processes_with("7777.6"), 0);
}

/// The supervisor alone is killed: its process dies with it, and the agent cleans up and reports at once.
#[test]
fn a_killed_supervisor_takes_its_tree_along() {
    let coordinator = FakeCoordinator::start();
    let agent = Agent::start(&coordinator);
    let job = coordinator.offer_script("setsid sleep 7777.7 & echo ready; sleep 7777.7");
    coordinator.wait_for_line(&job, "ready");
    // SAFETY: takes no pointers; the process was started by this test's agent.
    unsafe { libc::kill(agent.supervisor(&job), libc::SIGKILL) };
    let report = coordinator.wait_for_end(&job);
    assert_eq!((report.outcome, report.cause.code), (Outcome::Failed, CauseCode::Signal));
    assert!(report.cause.message.contains("supervisor"));
    assert_eq!(processes_with("7777.7"), 0);
}

/// The coordinator is away for the whole rest of the job, and the agent is restarted meanwhile: all of it arrives later.
#[test]
fn a_job_outlives_the_coordinators_absence() {
    let coordinator = FakeCoordinator::start();
    let mut agent = Agent::start(&coordinator);
    let job = coordinator.offer_script(COUNTING);
    coordinator.wait_for_line(&job, "line 10");
    coordinator.lock().away = true;
    let ended = agent.run_folder(&job).join("ended.json");
    wait_until("the end of the process", || ended.exists().then_some(()));
    agent.kill();
    let in_vain = coordinator.lock().in_vain;
    agent.run();
    coordinator.wait("calls of the new agent", |fake| (fake.in_vain > in_vain + 1).then_some(()));
    assert!(coordinator.lock().finishes.is_empty());
    coordinator.lock().away = false;
    assert_eq!(coordinator.wait_for_end(&job).outcome, Outcome::Succeeded);
    assert_eq!(coordinator.messages(&job), all_lines());
    assert_eq!(coordinator.lock().finishes.len(), 1);
}

/// The answer to the end report gets lost: the very same report comes again.
#[test]
fn a_report_whose_answer_was_lost_is_repeated_identically() {
    let coordinator = FakeCoordinator::start();
    let _agent = Agent::start(&coordinator);
    coordinator.lock().lose_finish_answers = 2;
    let job = coordinator.offer_script("echo x; exit 1");
    let reports = coordinator.wait("three reports", |fake| (fake.finishes.len() == 3).then(|| fake.finishes.clone()));
    assert!(reports.iter().all(|report| *report == reports[0] && report.0 == job), "{reports:?}");
}

/// A request that is cut on its way is not read by the coordinator, and says nothing about what it held: nothing is lost.
#[test]
fn requests_that_are_cut_are_repeated() {
    let coordinator = FakeCoordinator::start();
    coordinator.lock().cut = ["accept", "logs", "files", "finish"].into();
    let _agent = Agent::start(&coordinator);
    let job = coordinator
        .offer_script(r#"echo line; echo '{"sum": 3}' > "$DROVER_OUTPUT"; echo x > "$DROVER_ARTIFACTS/x.txt""#);
    let report = coordinator.wait_for_end(&job);
    assert!(coordinator.lock().cut.is_empty(), "every one of them was cut once");
    assert_eq!((report.outcome, report.output), (Outcome::Succeeded, Some(json!({"sum": 3}))));
    assert_eq!(coordinator.messages(&job), ["line"]);
    assert_eq!(coordinator.lock().files.get("x.txt").map(Vec::as_slice), Some(b"x\n".as_slice()));
}

/// An attempt that is not ours any more: the tree is ended, nothing is reported, the host is clean, the next job comes.
#[test]
fn a_stale_attempt_is_ended_and_forgotten() {
    let coordinator = FakeCoordinator::start();
    let agent = Agent::start(&coordinator);
    let job = coordinator.offer_script("setsid sleep 7777.8 & echo ready; while true; do echo tick; sleep 0.1; done");
    coordinator.wait_for_line(&job, "ready");
    coordinator.lock().stale.insert(job.clone());
    wait_until("a clean host", || (!agent.run_folder(&job).exists()).then_some(()));
    assert_eq!(processes_with("7777.8"), 0);
    assert!(coordinator.lock().finishes.is_empty());
    let next = coordinator.offer_script("echo next");
    assert_eq!(coordinator.wait_for_end(&next).outcome, Outcome::Succeeded);
}

/// An abort does not wait for an upload that hangs: the end is reported in seconds, and that something is missing is said.
#[test]
fn an_abort_ends_a_delivery() {
    let coordinator = FakeCoordinator::start();
    coordinator.lock().hold_files = true;
    let _agent = Agent::start(&coordinator);
    let job = coordinator.offer_script("echo x > \"$DROVER_ARTIFACTS/x\"; echo ready");
    coordinator.wait("an upload", |fake| (fake.held_files == 1).then_some(()));
    let asked = std::time::Instant::now();
    coordinator.command(&job, "abort");
    let report = coordinator.wait_for_end(&job);
    assert!(asked.elapsed() < Duration::from_secs(25), "before the coordinator gives up waiting for the end");
    assert_eq!((report.outcome, report.cause.code), (Outcome::Aborted, CauseCode::AbortRequested));
    assert!(report.error.is_some_and(|error| error.message.contains("not all of its artifacts")));
    assert_eq!((coordinator.messages(&job), coordinator.lock().files.len()), (vec!["ready".to_owned()], 0));
}

/// Nothing is delivered any more of an attempt that is not ours any more, however far the upload is.
#[test]
fn a_stale_attempt_is_not_delivered() {
    let coordinator = FakeCoordinator::start();
    coordinator.lock().hold_files = true;
    let agent = Agent::start(&coordinator);
    let job = coordinator.offer_script("echo x > \"$DROVER_ARTIFACTS/x\"");
    coordinator.wait("an upload", |fake| (fake.held_files == 1).then_some(()));
    coordinator.lock().stale.insert(job.clone());
    wait_until("a clean host", || (!agent.run_folder(&job).exists()).then_some(()));
    assert!(coordinator.lock().finishes.is_empty() && coordinator.lock().files.is_empty());
}

/// A host whose clock is off by a day, either way: limits in the coordinator's time are kept to it, also by an agent that was
/// restarted and has not yet heard what time it is.
#[test]
fn a_wrong_clock_decides_nothing() {
    const DAY_MS: i64 = 86_400_000;
    for ahead_ms in [DAY_MS, -DAY_MS] {
        let coordinator = FakeCoordinator::start();
        coordinator.lock().ahead_ms = ahead_ms;
        let mut agent = Agent::start(&coordinator);
        coordinator.wait("the time", |fake| (!fake.heartbeats.is_empty()).then_some(()));
        let server_time = |in_ms: i64| {
            let now = drover_agent::clock::wall_clock().millis();
            json!(drover_protocol::Timestamp::from_millis(now + ahead_ms + in_ms))
        };
        let mark = agent.state.path().join("go on");
        let long = coordinator.offer(&[("main.sh", script_until(&mark, "").as_bytes())], |assignment| {
            assignment["job"]["stop_after"] = server_time(3_600_000);
            assignment["job"]["abort_after"] = server_time(3_600_000);
        });
        let short = coordinator.offer(&[("main.sh", b"trap '' INT TERM; sleep 7777.10")], |assignment| {
            assignment["job"]["abort_after"] = server_time(1_000);
        });
        coordinator.wait_for_line(&long, "ready");
        let report = coordinator.wait_for_end(&short);
        assert_eq!((report.outcome, report.cause.code), (Outcome::Aborted, CauseCode::AbortAfter));
        agent.kill();
        agent.run();
        let beats = coordinator.lock().heartbeats.len();
        coordinator.wait("the new agent", |fake| (fake.heartbeats.len() > beats + 1).then_some(()));
        std::fs::write(mark, b"").expect("a file");
        assert_eq!(coordinator.wait_for_end(&long).outcome, Outcome::Succeeded, "ahead by {ahead_ms} ms");
    }
}

/// What the agent runs for its own purposes is killed with it: the next agent does it again.
#[test]
fn a_killed_agent_takes_its_hooks_along() {
    let coordinator = FakeCoordinator::start();
    let mut agent = Agent::start_with(&coordinator, &[("DROVER_AGENT__HOOKS__BEFORE_JOB", "sleep,7777.13")]);
    coordinator.offer_script("echo never");
    wait_until("the hook", || (processes_with("sleep\x007777.13") == 1).then_some(()));
    agent.kill();
    wait_until("its end", || (processes_with("sleep\x007777.13") == 0).then_some(()));
}

/// A journal entry torn by a power cut or spoiled by the disk: the job is ended and reported lost, and the agent works on.
#[test]
fn a_damaged_journal_entry_is_answered_for() {
    let coordinator = FakeCoordinator::start();
    let mut agent = Agent::start(&coordinator);
    let job = coordinator.offer_script("echo ready; sleep 7777.9");
    coordinator.wait_for_line(&job, "ready");
    agent.kill();
    let journal = agent.state.path().join("journal");
    let content = std::fs::read(&journal).expect("the journal");
    std::fs::write(&journal, &content[..content.len() - 20]).expect("torn");
    std::fs::write(journal.with_extension("new"), b"half a new journ").expect("torn");
    agent.run();
    let report = coordinator.wait_for_end(&job);
    assert_eq!((report.outcome, report.cause.code), (Outcome::Lost, CauseCode::AgentRestarted));
    assert_eq!(processes_with("7777.9"), 0);
    let next = coordinator.offer_script("echo next");
    assert_eq!(coordinator.wait_for_end(&next).outcome, Outcome::Succeeded);
}

/// The first SIGTERM lets the job end and takes no other; the agent then ends by itself.
#[test]
fn draining_finishes_the_job_and_takes_no_other() {
    let coordinator = FakeCoordinator::start();
    let mut agent = Agent::start(&coordinator);
    let mark = agent.state.path().join("go on");
    let job = coordinator.offer_script(&script_until(&mark, "echo finished"));
    coordinator.wait_for_line(&job, "ready");
    agent.ask_to_end();
    let other = coordinator.offer_script("echo never");
    let beats = coordinator.lock().heartbeats.len();
    coordinator.wait("a report", |fake| (fake.heartbeats.len() > beats).then_some(()));
    std::fs::write(mark, b"").expect("a file");
    assert_eq!(agent.wait(), Some(0));
    assert_eq!(coordinator.wait_for_end(&job).outcome, Outcome::Succeeded);
    assert_eq!(coordinator.messages(&job), ["ready", "finished"]);
    assert!(!coordinator.lock().accepted.iter().any(|(id, _)| *id == other));
}

/// The second SIGTERM stops the job, its end is reported before the agent ends.
#[test]
fn the_second_signal_stops_the_jobs() {
    let coordinator = FakeCoordinator::start();
    let mut agent = Agent::start(&coordinator);
    let job = coordinator.offer_script("trap 'exit 0' INT; echo ready; while true; do sleep 0.05; done");
    coordinator.wait_for_line(&job, "ready");
    agent.ask_to_end();
    agent.signal(libc::SIGTERM);
    assert_eq!(agent.wait(), Some(0));
    let report = coordinator.wait_for_end(&job);
    assert_eq!((report.outcome, report.cause.code), (Outcome::Stopped, CauseCode::AgentStopped));
}

/// The third SIGTERM leaves the job alone; the next agent goes on with it.
#[test]
fn the_third_signal_leaves_the_job_to_the_next_agent() {
    let coordinator = FakeCoordinator::start();
    let mut agent = Agent::start(&coordinator);
    let mark = agent.state.path().join("go on");
    let script = script_until(&mark, "echo still here");
    let job = coordinator.offer_script(&format!("trap '' INT; {script}"));
    coordinator.wait_for_line(&job, "ready");
    for _ in 0..3 {
        agent.ask_to_end();
    }
    assert_eq!(agent.wait(), Some(0));
    agent.run();
    std::fs::write(mark, b"").expect("a file");
    coordinator.wait_for_end(&job);
    assert_eq!(coordinator.messages(&job), ["ready", "still here"]);
}

/// A spool that is full holds the process back; nothing is dropped.
#[test]
fn a_full_spool_holds_the_process_back() {
    let coordinator = FakeCoordinator::start();
    let agent = Agent::start_with(&coordinator, &[("DROVER_AGENT__LIMITS__SPOOL_BYTES", "1048576")]);
    let mark = agent.state.path().join("go on");
    let flood = r#"for n in $(seq 1 60000); do echo "line $n with some more text to fill the spool"; done"#;
    let job = coordinator.offer_script(&script_until(&mark, flood));
    coordinator.wait_for_line(&job, "ready");
    coordinator.lock().away = true;
    std::fs::write(mark, b"").expect("a file");
    wait_until("a full spool", || (agent.spool_bytes(&job) >= 1_048_576).then_some(()));
    let mut before = 0;
    wait_until("the spool to grow no more", || {
        std::thread::sleep(Duration::from_millis(500));
        let now = agent.spool_bytes(&job);
        (std::mem::replace(&mut before, now) == now).then_some(())
    });
    assert!(agent.spool_bytes(&job) < 2_500_000, "{}", agent.spool_bytes(&job));
    coordinator.lock().away = false;
    assert_eq!(coordinator.wait_for_end(&job).outcome, Outcome::Succeeded);
    let expected = std::iter::once("ready".to_owned())
        .chain((1..=60_000).map(|n| format!("line {n} with some more text to fill the spool")));
    assert!(coordinator.messages(&job).into_iter().eq(expected));
}
