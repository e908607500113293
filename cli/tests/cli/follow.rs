//! `drover job start --follow` against a scripted coordinator: log, further attempts, lost connections, Ctrl-C, exit codes.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use crate::support::{Answer, JOB, Server, job, line_event, run, spawn, stderr, stdout};
use serde_json::json;

const START: &str = "POST /api/v1/jobs";

fn job_path(rest: &str) -> &'static str {
    Box::leak(format!("{rest} /api/v1/jobs/{JOB}").into_boxed_str())
}

fn logs_path() -> &'static str {
    Box::leak(format!("GET /api/v1/jobs/{JOB}/logs").into_boxed_str())
}

fn files_path() -> &'static str {
    Box::leak(format!("GET /api/v1/storages/jobs%2F{JOB}/files").into_boxed_str())
}

fn no_files() -> Vec<Answer> {
    vec![Answer::json(200, &json!({"items": [], "next_cursor": null}))]
}

fn started() -> Vec<Answer> {
    vec![Answer::json(201, &job("waiting", 0, None))]
}

/// A job that runs once and ends like this.
fn job_that_ends(outcome: &'static str) -> Server {
    let log = format!("{}{}event: end\ndata: {{}}\n\n", line_event(1, 1, "first"), line_event(1, 2, "second"));
    Server::scripted(vec![
        (START, started()),
        (
            job_path("GET"),
            vec![Answer::json(200, &job("running", 1, None)), Answer::json(200, &job("finished", 1, Some(outcome)))],
        ),
        (logs_path(), vec![Answer::events(&log)]),
        (files_path(), no_files()),
    ])
}

#[test]
fn the_exit_code_is_the_outcome() {
    for (outcome, code) in
        [("succeeded", 0), ("failed", 10), ("stopped", 11), ("aborted", 12), ("timed_out", 13), ("lost", 14)]
    {
        let output = run(&job_that_ends(outcome), &["job", "start", "invoices", "--follow"]);
        assert_eq!(output.status.code(), Some(code), "{outcome}: {}", stderr(&output));
        let shown = stdout(&output);
        for text in ["first n=1", "second n=2", outcome, "in 3.5 s on robot-1", "\"checked\": 5", "0: success"] {
            assert!(shown.contains(text), "{text:?} is missing in\n{shown}");
        }
    }
}

#[test]
fn with_json_standard_output_is_the_finished_job_and_nothing_else() {
    let output = run(&job_that_ends("succeeded"), &["--json", "job", "start", "invoices", "--follow"]);
    assert_eq!(stdout(&output), format!("{}\n", job("finished", 1, Some("succeeded"))));
    assert!(stderr(&output).contains("second"), "the log goes to standard error");
}

#[test]
fn a_lost_connection_goes_on_after_the_last_line() {
    let server = Server::scripted(vec![
        (START, started()),
        (
            job_path("GET"),
            vec![
                Answer::json(200, &job("running", 1, None)),
                Answer::json(200, &job("finished", 1, Some("succeeded"))),
            ],
        ),
        (
            logs_path(),
            vec![
                Answer::events(&line_event(1, 1, "one")).breaking(),
                Answer::problem(503, "unavailable", "starting"),
                // The line that was seen comes again: it must not be shown twice.
                Answer::events(&format!("{}{}event: end\n\n", line_event(1, 1, "one"), line_event(1, 2, "two"))),
            ],
        ),
        (files_path(), no_files()),
    ]);
    let output = run(&server, &["job", "start", "invoices", "--follow"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let shown = stdout(&output);
    assert_eq!(shown.matches("one n=1").count(), 1, "{shown}");
    assert_eq!(shown.matches("two n=2").count(), 1, "{shown}");
    let requests = server.seen_at(logs_path());
    assert_eq!(requests[0].header("last-event-id"), "");
    assert_eq!(requests.last().expect("three requests").header("last-event-id"), "1");
    assert_eq!(requests[0].header("accept"), "text/event-stream");
}

#[test]
fn a_further_attempt_is_followed_on() {
    let server = Server::scripted(vec![
        (START, started()),
        (
            job_path("GET"),
            vec![
                Answer::json(200, &job("running", 1, None)),
                Answer::json(200, &job("waiting", 1, None)),
                Answer::json(200, &job("running", 2, None)),
                Answer::json(200, &job("finished", 2, Some("succeeded"))),
            ],
        ),
        (
            logs_path(),
            vec![
                Answer::events(&format!("{}event: end\n\n", line_event(1, 1, "of the first"))),
                Answer::events(&format!("{}event: end\n\n", line_event(2, 1, "of the second"))),
            ],
        ),
        (files_path(), no_files()),
    ]);
    let output = run(&server, &["job", "start", "invoices", "--follow"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let shown = stdout(&output);
    assert!(shown.contains("of the first") && shown.contains("of the second"), "{shown}");
    assert!(stderr(&output).contains("Attempt 2 begins"), "{}", stderr(&output));
    let attempts: Vec<String> = server.seen_at(logs_path()).into_iter().map(|seen| seen.uri).collect();
    assert!(attempts[0].contains("attempt=1") && attempts[1].contains("attempt=2"), "{attempts:?}");
}

#[test]
fn a_job_that_is_aborted_while_it_waits_ends_without_a_log() {
    let server = Server::scripted(vec![
        (START, started()),
        (job_path("GET"), vec![Answer::json(200, &job("finished", 0, Some("aborted")))]),
        (files_path(), no_files()),
    ]);
    let output = run(&server, &["job", "start", "invoices", "--follow"]);
    assert_eq!(output.status.code(), Some(12), "{}", stderr(&output));
    assert!(server.seen_at(logs_path()).is_empty());
}

#[test]
fn a_job_that_waits_for_long_is_explained() {
    let looks = Arc::new(AtomicU32::new(0));
    let counter = looks.clone();
    let explanation =
        json!({"state": "waiting", "summary": "no robot of group all is online", "reasons": [], "candidates": []});
    let explained = Arc::new(AtomicU32::new(0));
    let explained_counter = explained.clone();
    let server = Server::start(move |seen| {
        let path = seen.uri.split('?').next().unwrap_or_default();
        Some(match path.rsplit('/').next().unwrap_or_default() {
            "jobs" => Answer::json(201, &job("waiting", 0, None)),
            "explain" => {
                explained_counter.fetch_add(1, Ordering::SeqCst);
                Answer::json(200, &explanation)
            }
            "files" => Answer::json(200, &json!({"items": [], "next_cursor": null})),
            _ if explained_counter.load(Ordering::SeqCst) > 0 => {
                Answer::json(200, &job("finished", 0, Some("stopped")))
            }
            _ => {
                counter.fetch_add(1, Ordering::SeqCst);
                Answer::json(200, &job("waiting", 0, None))
            }
        })
    });
    let output = run(&server, &["job", "start", "invoices", "--follow"]);
    assert_eq!(output.status.code(), Some(11));
    assert!(stderr(&output).contains("Waiting: no robot of group all is online"), "{}", stderr(&output));
    assert_eq!(explained.load(Ordering::SeqCst), 1);
    assert!(looks.load(Ordering::SeqCst) > 1);
}

/// The first Ctrl-C asks for a stop, the second for an abort, the third leaves with 130 while the job goes on.
#[test]
fn ctrl_c_stops_then_aborts_then_leaves() {
    let server = Server::start(move |seen| {
        let path = seen.uri.split('?').next().unwrap_or_default();
        Some(match path.rsplit('/').next().unwrap_or_default() {
            "jobs" => Answer::json(201, &job("waiting", 0, None)),
            "stop" => Answer::json(202, &job("stopping", 0, None)),
            _ => Answer::json(200, &job("waiting", 0, None)),
        })
    });
    let home = tempfile::tempdir().expect("a temporary folder");
    let mut child = spawn(&server, home.path(), &["job", "start", "invoices", "--follow"]);
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let mut read_until = |text: &str| {
        let found = lines.by_ref().any(|line| line.expect("UTF-8").contains(text));
        assert!(found, "{text:?} was not said");
    };
    let interrupt = || {
        let pid = child.id().to_string();
        let status = Command::new("kill").args(["-INT", &pid]).stdin(Stdio::null()).status();
        assert!(status.expect("kill runs").success());
    };
    read_until("Started job");
    interrupt();
    read_until("Asking the job to stop");
    interrupt();
    read_until("Aborting the job");
    let stops = format!("POST /api/v1/jobs/{JOB}/stop");
    for _ in 0..1000 {
        if server.seen_at(&stops).len() == 2 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    interrupt();
    read_until("the job goes on");
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    let mut modes: Vec<String> = server.seen_at(&stops).iter().map(|seen| seen.json()["mode"].to_string()).collect();
    modes.sort();
    assert_eq!(modes, ["\"abort\"", "\"stop\""]);
}

#[test]
fn the_log_alone_can_be_followed_as_json_lines() {
    let server = job_that_ends("failed");
    let output = run(&server, &["--json", "job", "logs", JOB, "--follow"]);
    assert_eq!(output.status.code(), Some(10), "{}", stderr(&output));
    let lines: Vec<serde_json::Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((lines.len(), &lines[1]["message"]), (2, &json!("second")));
}
