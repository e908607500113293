//! `drover resource` and `drover audit` against a scripted coordinator.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Answer, JOB, Server, run, run_with_input, stderr, stdout};

const AT: &str = "2026-01-01T00:00:00.000Z";

fn resource(kind: &str) -> Value {
    json!({
        "id": JOB, "name": "login", "description": "", "kind": kind, "sealed": kind == "secret" || kind == "credential",
        "writable_by_jobs": false, "expires_at": AT, "expired": true, "has_value": true, "value": null, "size_bytes": 12,
        "override_count": 1, "created_at": AT, "updated_at": AT, "updated_by": "admin", "revision": 1,
    })
}

fn version() -> Answer {
    let version = json!({
        "version": 4, "scope": "robot", "scope_id": JOB, "scope_name": "r", "current": true, "value": null,
        "size_bytes": 9, "created_at": AT, "created_by": "admin",
    });
    Answer::json(200, &version)
}

fn server(kind: &str) -> Server {
    Server::scripted(vec![
        ("GET /api/v1/resources/login", vec![Answer::json(200, &resource(kind))]),
        ("PUT /api/v1/resources/login/value", vec![version()]),
        ("POST /api/v1/resources", vec![Answer::json(201, &resource(kind))]),
    ])
}

/// Secrets come from standard input; in the arguments they are refused before anything is sent.
#[test]
fn secrets_are_never_arguments() {
    let server = server("secret");
    let output = run(&server, &["resource", "set", "login", "--value", "hunter2hunter2"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(!stderr(&output).contains("hunter2"), "{}", stderr(&output));
    assert!(server.seen_at("PUT /api/v1/resources/login/value").is_empty());
    let output = run_with_input(&server, &["resource", "set", "login", "--robot", "r"], "hunter2hunter2\n");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!stdout(&output).contains("hunter2"));
    let seen = server.seen_at("PUT /api/v1/resources/login/value");
    assert_eq!(
        (seen[0].json(), seen[0].uri.as_str()),
        (json!({"value": "hunter2hunter2"}), "/api/v1/resources/login/value?robot=r")
    );
}

#[test]
fn a_number_below_zero_is_a_value() {
    let server = server("number");
    let output = run(&server, &["resource", "set", "login", "--value", "-5"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(server.seen_at("PUT /api/v1/resources/login/value")[0].json(), json!({"value": -5}));
}

/// A key in PEM form has many lines, and no program takes one whose last line has no end; and what is at the ends of a
/// single line may belong to it.
#[test]
fn a_secret_is_kept_whole() {
    for (input, kept) in [("-----BEGIN\nkey\n-----END\n", "-----BEGIN\nkey\n-----END\n"), (" a b \r\n", " a b ")] {
        let server = server("secret");
        let output = run_with_input(&server, &["resource", "create", "login", "--kind", "secret"], input);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(server.seen_at("POST /api/v1/resources")[0].json()["value"], json!(kept));
        run_with_input(&server, &["resource", "set", "login", "--value", "-"], input);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("key");
        fs::write(&file, input).expect("a file");
        run(&server, &["resource", "set", "login", "--value", &format!("@{}", file.to_str().expect("UTF-8"))]);
        let sent: Vec<Value> =
            server.seen_at("PUT /api/v1/resources/login/value").iter().map(|seen| seen.json()).collect();
        assert_eq!(sent, [json!({"value": kept}), json!({"value": kept})]);
    }
}

#[test]
fn a_credential_is_asked_for_by_its_parts() {
    let server = server("credential");
    let arguments = ["resource", "create", "login", "--kind", "credential", "--username", "u", "--writable-by-jobs"];
    let output = run_with_input(&server, &arguments, "p4ssword\n");
    assert!(output.status.success(), "{}", stderr(&output));
    let sent = server.seen_at("POST /api/v1/resources")[0].json();
    assert_eq!(sent["value"], json!({"username": "u", "password": "p4ssword"}));
    assert_eq!((sent["kind"].as_str(), sent["writable_by_jobs"].as_bool()), (Some("credential"), Some(true)));
    // With the username the value is the password, whatever it looks like.
    let arguments = ["resource", "set", "login", "--username", "u", "--value", "-"];
    let json = "{\"username\": \"other\", \"password\": \"x\"}";
    for password in ["p4ssword", json] {
        let output = run_with_input(&server, &arguments, &format!("{password}\n"));
        assert!(output.status.success(), "{}", stderr(&output));
        let sent = server.seen_at("PUT /api/v1/resources/login/value").pop().expect("it was sent").json();
        assert_eq!(sent["value"], json!({"username": "u", "password": password}));
    }
    let output = run_with_input(&server, &["resource", "set", "login"], "p4ssword\n");
    assert!(stderr(&output).contains("--username"), "{}", stderr(&output));
}

/// Values of other kinds are given as they are written in JSON; what is none is refused with the kind.
#[test]
fn plain_values_have_the_form_of_their_kind() {
    for (kind, value, sent) in
        [("integer", "12", json!(12)), ("boolean", "true", json!(true)), ("text", "12", json!("12"))]
    {
        let server = server(kind);
        let output = run(&server, &["resource", "set", "login", "--value", value]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(server.seen_at("PUT /api/v1/resources/login/value")[0].json()["value"], sent);
    }
    let output = run(&server("integer"), &["resource", "set", "login", "--value", "twelve"]);
    assert!(output.status.code() == Some(2) && stderr(&output).contains("integer"), "{}", stderr(&output));
}

#[test]
fn resources_are_shown_without_their_secrets() {
    let page = json!({"items": [resource("secret")], "next_cursor": null});
    let server = Server::scripted(vec![("GET /api/v1/resources", vec![Answer::json(200, &page)])]);
    let output = run(&server, &["resource", "list", "--expiring", "--kind", "secret", "--name", "log"]);
    let shown = stdout(&output);
    assert!(shown.contains("(sealed)") && shown.contains("expired"), "{shown}{}", stderr(&output));
    assert_eq!(server.seen()[0].uri, "/api/v1/resources?kind=secret&q=log&expiring=true&limit=50");
    assert_eq!(run(&server, &["resource", "list", "--kind", "password"]).status.code(), Some(2));
}

/// A value for a script is the value itself.
#[test]
fn a_value_is_printed_as_it_is() {
    let value = json!({
        "resource_id": JOB, "name": "login", "kind": "text", "value": "two\nlines", "scope": "default", "scope_id": null,
        "scope_name": null, "version": 1, "updated_at": AT, "updated_by": "admin", "expires_at": null, "expired": false,
    });
    let server = Server::scripted(vec![("GET /api/v1/resources/login/value", vec![Answer::json(200, &value)])]);
    assert_eq!(stdout(&run(&server, &["resource", "get", "login", "--group", "g"])), "two\nlines\n");
    assert_eq!(server.seen()[0].uri, "/api/v1/resources/login/value?group=g");
}

#[test]
fn calendars_are_imported_and_exported_as_they_are() {
    let calendar = "BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n";
    let file = || Answer::bytes(200, "text/calendar", calendar.as_bytes().to_vec());
    let server = Server::scripted(vec![
        ("PUT /api/v1/resources/days/value", vec![version()]),
        ("GET /api/v1/resources/days/value", vec![file()]),
    ]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (from, to) = (folder.path().join("in.ics"), folder.path().join("out.ics"));
    fs::write(&from, calendar).expect("a file");
    let path = |path: &std::path::Path| path.to_str().expect("a path").to_owned();
    let output = run(&server, &["resource", "import-calendar", "days", &path(&from)]);
    assert!(output.status.success(), "{}", stderr(&output));
    let seen = server.seen();
    assert_eq!((seen[0].header("content-type"), &seen[0].body[..]), ("text/calendar", calendar.as_bytes()));
    let output = run(&server, &["resource", "export-calendar", "days", &path(&to)]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(&to).expect("the file"), calendar);
    assert_eq!(server.seen()[1].header("accept"), "text/calendar");
    assert!(stdout(&run(&server, &["resource", "export-calendar", "days"])).starts_with("BEGIN:VCALENDAR"));
}

/// The exit code says whether the trail is whole; an export is the file as it came.
#[test]
fn the_trail_is_verified_and_exported() {
    let verified = |sound: bool| {
        let problems: &[&str] = if sound { &[] } else { &["act 3 was changed"] };
        Answer::json(
            200,
            &json!({
                "sound": sound, "records": 5, "last_seq": 5, "last_hash": "0".repeat(64), "problems": problems,
            }),
        )
    };
    let lines = "{\"seq\":1}\n{\"seq\":2}\n";
    let server = Server::scripted(vec![
        ("GET /api/v1/audit/verify", vec![verified(true), verified(false)]),
        ("GET /api/v1/audit", vec![Answer::bytes(200, "application/x-ndjson", lines.as_bytes().to_vec())]),
    ]);
    assert!(run(&server, &["audit", "verify"]).status.success());
    let output = run(&server, &["audit", "verify"]);
    assert!(output.status.code() == Some(1) && stdout(&output).contains("act 3 was changed"), "{}", stdout(&output));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("audit.ndjson");
    let arguments = ["audit", "export", file.to_str().expect("a path"), "--noun", "resource"];
    let output = run(&server, &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(&file).expect("the file"), lines);
    let seen = server.seen_at("GET /api/v1/audit");
    assert_eq!(
        (seen[0].header("accept"), seen[0].uri.as_str()),
        ("application/x-ndjson", "/api/v1/audit?noun=resource")
    );
}
