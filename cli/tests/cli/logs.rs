//! `drover logs` against a scripted coordinator: searching, following over lost connections, exporting, writing.

use std::io::{BufRead, BufReader};

use serde_json::{Value, json};

use crate::support::{Answer, JOB, Server, run, spawn, stderr, stdout};

fn line(message: &str) -> Value {
    json!({
        "time": "2026-11-23T08:05:04.120Z", "level": "warning", "message": message, "fields": {"n": 7},
        "robot_id": JOB, "robot_name": "accounting-01", "process_id": JOB, "process_name": "invoices",
        "process_version_id": JOB, "job_id": JOB, "attempt": 1, "seq": 3,
    })
}

fn page(lines: &[Value]) -> Answer {
    let page = json!({"items": lines, "next_cursor": null, "searched_to": null, "searched_lines": 9});
    Answer::json(200, &page)
}

/// The newest line comes last, as in a file, with where it comes from; filters go out as the API names them.
#[test]
fn lines_are_searched_and_shown_in_the_order_of_time() {
    let server = Server::scripted(vec![("GET /api/v1/logs", vec![page(&[line("second"), line("first")])])]);
    let arguments = [
        "logs",
        "search",
        "--level",
        "warning",
        "--robot",
        "accounting-01",
        "--text",
        "a b",
        "--regex",
        "--field",
        "order=47 11",
        "--from",
        "2026-11-23T08:00:00Z",
    ];
    let output = run(&server, &arguments);
    let shown = stdout(&output);
    assert_eq!(
        shown.lines().next(),
        Some(&*format!("2026-11-23T08:05:04.120Z warning  accounting-01 invoices {JOB}: first n=7")),
        "{shown}"
    );
    assert!(shown.ends_with("second n=7\n"));
    assert_eq!(
        server.seen()[0].uri,
        "/api/v1/logs?from=2026-11-23T08%3A00%3A00.000Z&level=warning&robot=accounting-01&text=a+b&regex=true\
         &field.order=47+11&limit=50"
    );
    let server = Server::scripted(vec![("GET /api/v1/logs", vec![page(&[])])]);
    assert!(stdout(&run(&server, &["logs", "search"])).contains("No line fits"));
}

/// What is not understood is answered with what would be, before anything is sent.
#[test]
fn an_id_and_a_time_that_are_none_come_with_a_remedy() {
    let server = Server::scripted(vec![]);
    let told = |arguments: &[&str]| {
        let output = run(&server, &[&["logs", "search"], arguments].concat());
        assert_eq!(output.status.code(), Some(2));
        stderr(&output)
    };
    let text = told(&["--job", "nope"]);
    assert!(text.contains("such as 0192f6c4-") && text.contains("drover job list"), "{text}");
    let text = told(&["--from", "tomorrow"]);
    assert!(text.contains("a while ago such as 2h") && !text.contains("from now"), "{text}");
    assert!(server.seen().is_empty());
}

/// When the connection breaks, it goes on after the last line that was shown; what is missing for ever is said.
#[test]
fn lines_are_followed_over_lost_connections() {
    let event = |id: &str, message: &str| format!("id: {id}\ndata: {}\n\n", line(message));
    let server = Server::scripted(vec![(
        "GET /api/v1/logs",
        vec![
            Answer::events(&format!("{}event: position\nid: a-2\ndata: {{}}\n\n", event("a-1", "one"))),
            Answer::events(&format!("event: gap\ndata: {{\"until\":\"x\"}}\n\n{}", event("b-1", "two"))),
        ],
    )]);
    let home = tempfile::tempdir().expect("a temporary folder");
    let mut child = spawn(&server, home.path(), &["logs", "search", "--follow", "--json"]);
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let messages: Vec<Value> = lines
        .take(2)
        .map(|line| serde_json::from_str::<Value>(&line.expect("a line")).expect("JSON")["message"].clone())
        .collect();
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    assert_eq!(messages, ["one", "two"]);
    let seen = server.seen();
    assert_eq!((seen[0].header("last-event-id"), seen[1].header("last-event-id")), ("", "a-2"));
    assert_eq!(seen[0].header("accept"), "text/event-stream");
}

#[test]
fn lines_are_exported_to_a_file() {
    let server =
        Server::scripted(vec![("GET /api/v1/logs", vec![Answer::bytes(200, "text/csv", b"time,level\r\n".to_vec())])]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("out.csv");
    let output = run(&server, &["logs", "export", file.to_str().expect("a path"), "--process", "invoices"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(std::fs::read(&file).expect("the file"), b"time,level\r\n");
    assert_eq!(
        (server.seen()[0].header("accept"), server.seen()[0].uri.as_str()),
        ("text/csv", "/api/v1/logs?process=invoices")
    );
}

#[test]
fn a_line_is_written_and_old_ones_are_deleted() {
    let server = Server::scripted(vec![
        ("POST /api/v1/logs", vec![Answer::json(201, &line("careful"))]),
        ("DELETE /api/v1/logs", vec![Answer::bytes(204, "application/json", Vec::new())]),
    ]);
    let arguments = ["logs", "write", "careful", "--level", "error", "--job", JOB, "--field", "n=7", "--field", "t=a"];
    let output = run(&server, &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    let expected = json!({"level": "error", "message": "careful", "fields": {"n": 7, "t": "a"}, "job": JOB});
    assert_eq!(server.seen()[0].json(), expected);
    let output = run(&server, &["logs", "delete", "--before", "2026-01-01T00:00:00Z"]);
    assert!(stdout(&output).contains("are deleted"), "{}", stderr(&output));
    assert_eq!(server.seen()[1].uri, "/api/v1/logs?before=2026-01-01T00%3A00%3A00.000Z");
}
