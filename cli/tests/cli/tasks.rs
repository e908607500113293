//! Queues and tasks against a scripted coordinator: what is sent, what is told, and that a broken import goes on.

use std::{fs, io::Write, path::Path, process::Output};

use serde_json::{Value, json};

use crate::support::{Answer, Server, drover, run, run_with_input, stderr, stdout};

const TASK: &str = "0192f6c4-7a10-7cc3-98c4-dc0c0c073991";
const QUEUE: &str = "0192f6c4-7a10-7cc3-98c4-dc0c0c073992";
const BULK: &str = "POST /api/v1/queues/invoices/tasks/bulk";

fn queue() -> Value {
    json!({
        "id": QUEUE, "name": "invoices", "description": "", "unique_references": true, "max_attempts": 3,
        "retry": {"application": true, "business": false, "abandoned": true, "delay_seconds": 30, "factor": 2.0,
            "max_delay_seconds": 3600},
        "lease_seconds": 600, "abandon_new_after_seconds": null, "payload_schema": null, "output_schema": null,
        "sla_seconds": 60, "paused": null, "retention": {"done_days": 30, "failed_days": 0}, "on_success_queue": null,
        "on_failure_queue": null, "settle_with_job": true, "created_at": "2026-01-01T00:00:00.000Z", "revision": 1,
    })
}

fn stats() -> Value {
    json!({
        "queue_id": QUEUE, "oldest_new_at": "2026-01-01T00:00:00.000Z", "per_hour": 1200, "eta_seconds": 90,
        "over_sla": 5, "hours": [],
        "counts": {"new": 30, "in_progress": 2, "succeeded": 400, "failed": 7, "postponed": 0, "abandoned": 0},
    })
}

fn task(state: &str) -> Value {
    json!({
        "id": TASK, "queue_id": QUEUE, "reference": "A-1", "name": null, "payload": {"total": 5}, "state": state,
        "error": {"kind": "business", "code": "unknown", "message": "no such\nsupplier"}, "priority": 2, "deadline": null,
        "postponed_until": null, "tags": ["x"], "comment": null, "progress": null, "attempt": 1, "tries": 1,
        "max_attempts": null, "holder": null, "lease_ends_at": null, "created_at": "2026-01-01T00:00:00.000Z",
        "started_at": null, "finished_at": null, "origin_task_id": null, "revision": 3,
    })
}

fn id(n: usize) -> String {
    format!("0192f6c4-7a10-7cc3-98c4-{n:012}")
}

/// The answer to so many lines, all of them added.
fn added(count: usize) -> String {
    let lines: String = (1..=count).map(|line| format!("{}\n", json!({"line": line, "id": id(line)}))).collect();
    format!("{lines}{}\n", json!({"added": count, "duplicates": 0, "failed": 0}))
}

fn ndjson(text: impl Into<String>) -> Answer {
    Answer::bytes(200, "application/x-ndjson", text.into().into_bytes())
}

/// Runs `drover` in a folder of its own that holds these files.
fn run_with(server: &Server, files: &[(&str, &str)], arguments: &[&str]) -> (Output, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, content) in files {
        fs::write(folder.path().join(name), content).expect("a file");
    }
    let mut command = drover(folder.path());
    command.current_dir(folder.path()).env("DROVER_URL", &server.url).env("DROVER_KEY", "a-key").args(arguments);
    (command.output().expect("drover runs"), folder)
}

fn read(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).expect(name)
}

#[test]
fn a_queue_is_made_with_the_settings_that_were_given_and_no_others() {
    let server = Server::scripted(vec![("POST /api/v1/queues", vec![Answer::json(201, &queue())])]);
    let arguments = [
        "queue",
        "create",
        "invoices",
        "--unique-references",
        "--max-attempts",
        "3",
        "--retry-delay",
        "30s",
        "--lease",
        "10m",
        "--payload-schema",
        "schema.json",
        "--keep-done",
        "7",
        "--settle-with-job",
        "false",
    ];
    let (output, _folder) = run_with(&server, &[("schema.json", r#"{"type": "object"}"#)], &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    let expected = json!({
        "name": "invoices", "unique_references": true, "max_attempts": 3, "retry": {"delay_seconds": 30},
        "lease_seconds": 600, "payload_schema": {"type": "object"}, "retention": {"done_days": 7}, "settle_with_job": false,
    });
    assert_eq!(server.seen()[0].json(), expected);
}

#[test]
fn a_setting_is_changed_or_taken_away() {
    let server = Server::scripted(vec![("PATCH /api/v1/queues/invoices", vec![Answer::json(200, &queue())])]);
    let output = run(&server, &["queue", "update", "invoices", "--sla", "1h", "--clear", "payload_schema"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(server.seen()[0].json(), json!({"sla_seconds": 3600, "payload_schema": null}));
    for wrong in [&["queue", "update", "q"][..], &["queue", "update", "q", "--sla", "1h", "--clear", "sla_seconds"]] {
        assert_eq!(run(&server, wrong).status.code(), Some(2), "{wrong:?}");
    }
}

/// Without its tab it would be the name of another queue, which is there.
#[test]
fn a_name_with_a_tab_is_no_other_name() {
    let server = Server::scripted(vec![("DELETE /api/v1/queues/victim", vec![Answer::json(200, &json!({}))])]);
    let output = run(&server, &["queue", "delete", "vic\ttim"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(server.seen()[0].uri, "/api/v1/queues/vic%09tim");
}

/// A value may begin with a hyphen, as numbers and remarks do.
#[test]
fn values_may_begin_with_a_hyphen() {
    let server = Server::scripted(vec![("POST /api/v1/queues/invoices/tasks", vec![Answer::json(201, &task("new"))])]);
    let output = run(&server, &["task", "add", "invoices", "--payload", "-5", "--comment", "- late"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let sent = server.seen()[0].json();
    assert_eq!((&sent["payload"], &sent["comment"]), (&json!(-5), &json!("- late")));
}

#[test]
fn a_queue_is_shown_with_its_figures() {
    let stats_path = format!("GET /api/v1/queues/{QUEUE}/stats");
    let server = Server::start(move |seen| match format!("{} {}", seen.method, seen.uri) {
        route if route == "GET /api/v1/queues/invoices" => Some(Answer::json(200, &queue())),
        route if route == stats_path => Some(Answer::json(200, &stats())),
        _ => None,
    });
    let output = run(&server, &["queue", "show", "invoices"]);
    let shown = stdout(&output);
    for text in ["unique", "application errors, abandoned", "30.0 s × 2", "30 days", "for ever", "400", "1 min 30 s"] {
        assert!(shown.contains(text), "{text:?} is missing in {shown}{}", stderr(&output));
    }
}

#[test]
fn filters_are_sent_as_the_api_names_them() {
    let page = Answer::json(200, &json!({"items": [task("failed")], "next_cursor": null}));
    let server = Server::scripted(vec![("GET /api/v1/tasks", vec![page])]);
    let arguments = [
        "task",
        "list",
        "--queue",
        "a b",
        "--state",
        "in_progress",
        "--state",
        "failed",
        "--tag",
        "x",
        "--tag",
        "-y",
        "--where",
        "customer.city=Казань",
        "--error",
        "business",
        "--priority",
        "3",
    ];
    let output = run(&server, &arguments);
    assert_eq!(
        server.seen()[0].uri,
        "/api/v1/tasks?state=in_progress&state=failed&tag=x&tag=-y\
         &payload.customer.city=%D0%9A%D0%B0%D0%B7%D0%B0%D0%BD%D1%8C&queue=a+b&priority=3&error_kind=business&limit=50"
    );
    assert!(stdout(&output).contains("business (unknown): no such supplier"), "{}", stdout(&output));
}

#[test]
fn a_task_is_added_once_and_its_id_is_printed() {
    let server = Server::scripted(vec![(
        "POST /api/v1/queues/invoices/tasks",
        vec![Answer::problem(503, "unavailable", "later"), Answer::json(201, &task("new"))],
    )]);
    let output = run(&server, &["task", "add", "invoices", "--set", "total=5", "--reference", "A-1", "--tag", "x"]);
    assert_eq!(stdout(&output), format!("{TASK}\n"), "{}", stderr(&output));
    let seen = server.seen();
    assert_eq!(seen[1].json(), json!({"payload": {"total": 5}, "reference": "A-1", "tags": ["x"]}));
    assert_eq!(seen[0].header("idempotency-key"), seen[1].header("idempotency-key"));
    assert_eq!(run(&server, &["task", "add", "invoices"]).status.code(), Some(2), "a payload is needed");
}

#[test]
fn a_csv_file_becomes_tasks_with_a_count_of_each_end() {
    let answers = [
        json!({"line": 1, "id": id(1)}),
        json!({"line": 2, "duplicate_of": TASK}),
        json!({"line": 3, "error": {"code": "invalid", "detail": "not valid"}}),
        json!({"line": 4, "error": {"code": "invalid", "detail": "not valid",
            "errors": [{"pointer": "/payload/total", "detail": "must be positive"}]}}),
        json!({"added": 1, "duplicates": 1, "failed": 2}),
    ];
    let text: String = answers.iter().map(|answer| format!("{answer}\n")).collect();
    let server = Server::scripted(vec![(BULK, vec![ndjson(text)])]);
    let csv = "no;total\nA-1;5\nA-2;6\nA-3;much\nA-4;-1\n";
    let arguments = [
        "task",
        "import",
        "invoices",
        "in.csv",
        "--reference-column",
        "no",
        "--type",
        "total=integer",
        "--column",
        "total",
    ];
    let (output, folder) = run_with(&server, &[("in.csv", csv)], &arguments);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert_eq!(stdout(&output), "1 tasks added, 1 were there already, 2 rows could not be added.\n");
    let seen = &server.seen()[0];
    assert_eq!(seen.header("content-type"), "application/x-ndjson");
    let sent = String::from_utf8(seen.body.to_vec()).expect("a text");
    assert_eq!(
        sent,
        "{\"reference\":\"A-1\",\"payload\":{\"total\":5}}\n{\"reference\":\"A-2\",\"payload\":{\"total\":6}}\nnull\n\
         {\"reference\":\"A-4\",\"payload\":{\"total\":-1}}\n"
    );
    let errors = read(folder.path(), "in.csv.errors.csv");
    assert_eq!(
        errors,
        "line,error\n4,\"total: \"\"much\"\" is not a whole number\"\n5,/payload/total: must be positive\n"
    );
    assert!(stderr(&output).contains("in.csv.errors.csv"));
}

/// Wherever the connection breaks, the whole file is sent again under the same key, and each row is counted once.
#[test]
fn an_import_that_breaks_off_goes_on_under_its_key() {
    let whole = added(3);
    let half: String = whole.lines().take(2).map(|line| format!("{line}\n")).collect();
    let without_sum: String = whole.lines().take(3).map(|line| format!("{line}\n")).collect();
    let server = Server::scripted(vec![(
        BULK,
        vec![
            ndjson(half).breaking(),
            ndjson(without_sum),
            Answer::problem(503, "unavailable", "starting"),
            ndjson(whole),
        ],
    )]);
    let (output, _folder) = run_with(&server, &[("in.csv", "a\n1\n2\n3\n")], &["task", "import", "invoices", "in.csv"]);
    assert_eq!(
        stdout(&output),
        "3 tasks added, 0 were there already, 0 rows could not be added.\n",
        "{}",
        stderr(&output)
    );
    let seen = server.seen();
    assert_eq!(seen.len(), 4);
    assert!(seen.iter().all(|call| call.body == seen[0].body));
    assert!(seen.iter().all(|call| call.header("idempotency-key") == seen[0].header("idempotency-key")));
}

#[test]
fn an_import_from_standard_input_says_how_to_go_on() {
    let server = Server::scripted(vec![(BULK, vec![ndjson("").breaking()])]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = drover(folder.path());
    command.env("DROVER_URL", &server.url).env("DROVER_KEY", "a-key");
    command.args(["task", "import", "invoices", "-", "--format", "ndjson", "--idempotency-key", "my-import"]);
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("drover runs");
    child.stdin.take().expect("an input").write_all(b"{\"payload\": 1}\n").expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--idempotency-key my-import"), "{}", stderr(&output));
    assert_eq!(server.seen()[0].header("idempotency-key"), "my-import");
}

/// What is wrong is said of standard input as it is of a file, and before anything is sent.
#[test]
fn standard_input_that_cannot_be_read_says_why() {
    let server = Server::start(|_| None);
    let output = run_with_input(&server, &["task", "import", "invoices", "-"], "a,a\n1,2\n");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("must name the columns"), "{}", stderr(&output));
    assert!(server.seen().is_empty());
    // Nor does it hide that nobody listens.
    let nowhere = ["--server", "http://127.0.0.1:1", "task", "import", "invoices", "-"];
    let output = run_with_input(&server, &nowhere, "a\n1\n");
    assert!(stderr(&output).contains("cannot be reached"), "{}", stderr(&output));
}

/// All of it is sent, also what was read beforehand for the header.
#[test]
fn standard_input_is_imported_whole() {
    let rows = 20_000;
    let server = Server::start(move |_| Some(ndjson(added(rows))));
    let input: String = std::iter::once("a\n".to_owned()).chain((1..=rows).map(|n| format!("{n}\n"))).collect();
    let output = run_with_input(&server, &["task", "import", "invoices", "-"], &input);
    assert_eq!(
        stdout(&output),
        "20000 tasks added, 0 were there already, 0 rows could not be added.\n",
        "{}",
        stderr(&output)
    );
    let sent = String::from_utf8(server.seen()[0].body.to_vec()).expect("a text");
    let expected: String = (1..=rows).map(|n| format!("{{\"payload\":{{\"a\":\"{n}\"}}}}\n")).collect();
    assert!(sent == expected, "{} and {} bytes", sent.len(), expected.len());
}

/// A list of faults beside a file is one of its last import.
#[test]
fn faults_of_an_earlier_import_are_forgotten() {
    let server = Server::scripted(vec![(BULK, vec![ndjson(added(1)), ndjson(added(1))])]);
    let files = [("in.csv", "a\n1\n"), ("in.csv.errors.csv", "line,error\n2,old\n"), ("other.errors.csv", "")];
    let (output, folder) = run_with(&server, &files, &["task", "import", "invoices", "in.csv"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!folder.path().join("in.csv.errors.csv").exists() && folder.path().join("other.errors.csv").exists());
    // Nothing was added, and what is no list of faults is not an import's to remove.
    let dry_run = ["task", "import", "invoices", "in.csv", "--dry-run"];
    let (output, folder) = run_with(&server, &files, &dry_run);
    assert!(output.status.success() && folder.path().join("in.csv.errors.csv").exists(), "{}", stderr(&output));
    let notes = ["task", "import", "invoices", "in.csv", "--errors", "notes.csv"];
    let (output, folder) = run_with(&server, &[("in.csv", "a\n1\n"), ("notes.csv", "mine\n")], &notes);
    assert!(output.status.success() && folder.path().join("notes.csv").exists(), "{}", stderr(&output));
    let same = ["task", "import", "invoices", "in.csv", "--errors", "./in.csv"];
    let (output, folder) = run_with(&server, &files, &same);
    assert_eq!((output.status.code(), read(folder.path(), "in.csv").as_str()), (Some(2), "a\n1\n"));
}

/// What is given for all tasks holds for whole tasks as well; names of columns are none of theirs.
#[test]
fn what_is_given_for_all_holds_for_lines_of_ndjson() {
    let server = Server::scripted(vec![(BULK, vec![ndjson(added(1))])]);
    let import = ["task", "import", "invoices", "in.ndjson"];
    let file = [("in.ndjson", "{\"payload\": 1, \"priority\": 2, \"tags\": [\"own\"]}\n")];
    let all = ["--priority", "3", "--tag", "all", "--tag", "own", "--max-attempts", "4"];
    let (output, _folder) = run_with(&server, &file, &[&import[..], &all].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let sent = server.seen()[0].json();
    assert_eq!(sent, json!({"payload": 1, "priority": 3, "tags": ["all", "own"], "max_attempts": 4}));
    let (output, _folder) = run_with(&server, &file, &[&import[..], &["--reference-column", "no"]].concat());
    assert!(output.status.code() == Some(2) && stderr(&output).contains("--payload-lines"), "{}", stderr(&output));
}

/// A file is read several times. What is there only once is refused by any name but that of standard input.
#[test]
fn a_pipe_is_not_taken_for_a_file() {
    let server = Server::start(|_| None);
    let output = run(&server, &["task", "import", "invoices", "/dev/null"]);
    assert!(output.status.code() == Some(2) && stderr(&output).contains("with - in its place"), "{}", stderr(&output));
}

/// An export is added as the tasks that it holds, not as rows of columns.
#[test]
fn an_export_as_csv_is_imported_as_its_tasks() {
    let server = Server::scripted(vec![(BULK, vec![ndjson(added(1))])]);
    let export = "id,queue_id,reference,name,state,error_kind,error_code,error_message,priority,deadline,postponed_until,\
                  tags,comment,attempt,tries,job_id,created_at,started_at,finished_at,origin_task_id,payload,output,\
                  checkpoint\r\n1,2,A-1,,new,,,,2,,,,,0,0,,2026-01-01T00:00:00.000Z,,,,\"{\"\"total\"\":5}\",,\r\n";
    let (output, _folder) = run_with(&server, &[("in.csv", export)], &["task", "import", "invoices", "in.csv"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let sent = server.seen()[0].json();
    assert_eq!(sent, json!({"reference": "A-1", "payload": {"total": 5}, "priority": 2}));
}

#[test]
fn an_import_can_be_tried_without_adding_anything() {
    let server = Server::start(|_| None);
    let arguments = ["task", "import", "invoices", "in.csv", "--dry-run", "--type", "n=integer"];
    let (output, _folder) = run_with(&server, &[("in.csv", "n\n1\nx\n2\n")], &arguments);
    assert_eq!(stdout(&output), "2 rows can be sent, 1 cannot. Nothing was added.\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(server.seen().is_empty());
}

#[test]
fn a_file_that_cannot_be_used_is_told_before_anything_is_sent() {
    let server = Server::start(|_| None);
    let arguments = ["task", "import", "invoices", "in.csv", "--reference-column", "nr"];
    let (output, _folder) = run_with(&server, &[("in.csv", "no\n1\n")], &arguments);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no column \"nr\""), "{}", stderr(&output));
    assert!(server.seen().is_empty());
}

#[test]
fn json_shows_the_answer_of_each_row_with_its_line_in_the_file() {
    let server = Server::scripted(vec![(BULK, vec![ndjson(added(2))])]);
    let (output, _folder) =
        run_with(&server, &[("in.csv", "a,b\n1,\"x\ny\"\n2,z\n")], &["--json", "task", "import", "invoices", "in.csv"]);
    let lines: Vec<Value> = stdout(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let expected = [
        json!({"line": 2, "id": id(1)}),
        json!({"line": 4, "id": id(2)}),
        json!({"added": 2, "duplicates": 0, "failed": 0}),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn an_export_is_a_whole_file_or_none() {
    let text = "id,state\n1,new\n";
    let server = Server::scripted(vec![(
        "GET /api/v1/tasks",
        vec![
            Answer::bytes(200, "text/csv", b"id,st".to_vec()).breaking(),
            Answer::bytes(200, "text/csv", text.as_bytes().to_vec()),
        ],
    )]);
    let arguments = ["task", "export", "--queue", "invoices", "--state", "failed", "--output", "out.csv"];
    let (output, folder) = run_with(&server, &[], &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(read(folder.path(), "out.csv"), text);
    let seen = server.seen();
    assert_eq!((seen.len(), seen[1].header("accept")), (2, "text/csv"));
    assert_eq!(seen[1].uri, "/api/v1/tasks?state=failed&queue=invoices");
    let server = Server::scripted(vec![("GET /api/v1/tasks", vec![ndjson("{\"id\":1}\n")])]);
    let output = run(&server, &["task", "export", "--queue", "invoices"]);
    assert_eq!((stdout(&output).as_str(), server.seen()[0].header("accept")), ("{\"id\":1}\n", "application/x-ndjson"));
}

/// Nobody deletes ten thousand tasks by a slip: it counts first, and does nothing that was not confirmed.
#[test]
fn a_bulk_action_counts_first_and_wants_to_be_confirmed() {
    let counted = || Answer::json(200, &json!({"matched": 12, "changed": 10}));
    let server = Server::scripted(vec![("POST /api/v1/tasks/bulk-action", vec![counted()])]);
    let filter = ["task", "bulk", "delete", "--queue", "invoices", "--state", "failed", "--where", "total=5"];
    let output = run(&server, &filter);
    assert_eq!(output.status.code(), Some(2), "without a person nothing is confirmed");
    assert!(stderr(&output).contains("10 of 12") && stderr(&output).contains("--yes"), "{}", stderr(&output));
    let request = server.seen()[0].json();
    assert_eq!((request["dry_run"].clone(), request["action"].clone()), (json!(true), json!("delete")));
    assert_eq!(request["filter"]["payload"], json!({"total": "5"}), "as in the query of a list");
    assert_eq!(server.seen().len(), 1);

    let output = run(&server, &[&filter[..], &["--yes"]].concat());
    assert_eq!(stdout(&output), "10 of 12 matching tasks are deleted.\n");
    assert_eq!(server.seen()[1].json()["dry_run"], json!(false));
    let left = Answer::json(200, &json!({"matched": 12, "changed": 10, "not_taken": 2}));
    let server = Server::scripted(vec![("POST /api/v1/tasks/bulk-action", vec![left])]);
    let output = run(&server, &["task", "bulk", "move", "--value", "strict", "--queue", "invoices", "--yes"]);
    assert!(stdout(&output).contains("10 of 12") && stdout(&output).contains("does not take 2"), "{}", stdout(&output));
    assert_eq!(
        run(&server, &["task", "bulk", "delete", "--yes"]).status.code(),
        Some(2),
        "never all tasks of all queues"
    );
}

#[test]
fn people_postpone_and_scripts_take_and_end() {
    let server = Server::start(|seen| match format!("{} {}", seen.method, seen.uri) {
        route if route == format!("PATCH /api/v1/tasks/{TASK}") => Some(Answer::json(200, &task("postponed"))),
        route if route == "POST /api/v1/queues/invoices/take" => Some(Answer::json(200, &json!({"items": []}))),
        route if route.starts_with(&format!("POST /api/v1/tasks/{TASK}/")) => Some(Answer::json(200, &task("new"))),
        _ => None,
    });
    for arguments in [
        &["task", "postpone", TASK, "--until", "2026-11-23T18:00:00Z"][..],
        &["task", "take", "invoices", "--max", "5", "--wait", "0", "--tag", "-x"],
        &["task", "succeed", TASK, "--attempt", "1", "--output", "{\"a\": 1}"],
        &["task", "fail", TASK, "--attempt", "1", "--kind", "business", "--message", "no"],
        &["task", "take", "invoices", "--id", TASK],
        &["task", "renew", TASK, "--attempt", "1"],
        &["task", "checkpoint", TASK, "--attempt", "1", "--checkpoint", "[1]", "--percent", "50", "--progress", "half"],
        &["task", "comment", TASK, "seen", "--attempt", "1"],
        &[
            "task",
            "postpone",
            TASK,
            "--until",
            "2026-11-23T18:00:00Z",
            "--attempt",
            "1",
            "--checkpoint",
            "2",
            "--counts",
        ],
        &[
            "task",
            "fail",
            TASK,
            "--attempt",
            "1",
            "--message",
            "no",
            "--output",
            "3",
            "--retry",
            "false",
            "--take-next",
        ],
        &["task", "update", TASK, "--reference", "R", "--max-attempts", "4"],
    ] {
        let output = run(&server, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    }
    let sent: Vec<Value> = server.seen().iter().map(|call| call.json()).collect();
    let expected = [
        json!({"postponed_until": "2026-11-23T18:00:00.000Z"}),
        json!({"max": 5, "wait_seconds": 0, "filter": {"tags": ["-x"]}}),
        json!({"attempt": 1, "output": {"a": 1}}),
        json!({"attempt": 1, "kind": "business", "message": "no"}),
        json!({"filter": {"ids": [TASK]}}),
        json!({"attempt": 1}),
        json!({"attempt": 1, "checkpoint": [1], "progress": {"percent": 50.0, "text": "half"}}),
        json!({"attempt": 1, "comment": "seen"}),
        json!({"attempt": 1, "until": "2026-11-23T18:00:00.000Z", "checkpoint": 2, "attempt_counts": true}),
        json!({"attempt": 1, "kind": "application", "message": "no", "output": 3, "retry": false, "take_next": true}),
        json!({"reference": "R", "max_attempts": 4}),
    ];
    assert_eq!(sent, expected);
    let printed = run(&server, &["task", "succeed", TASK, "--attempt", "1", "--take-next"]);
    assert_eq!(serde_json::from_str::<Value>(&stdout(&printed)).expect("JSON for scripts"), task("new"));
}
