//! Single commands against a scripted coordinator: what they send, what they print, how they fail and repeat.

use std::{
    fs,
    io::Read,
    process::{Output, Stdio},
};

use crate::support::{Answer, JOB, Server, drover, job, run, stderr, stdout, version};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn page(items: &[Value], next_cursor: Option<&str>) -> Answer {
    Answer::json(200, &json!({"items": items, "next_cursor": next_cursor}))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `--json` is the body byte for byte, whatever members and order it has.
#[test]
fn json_is_the_body_untouched() {
    let body = "{\"zeta\":  1,\"items\":[ ],\n \"next_cursor\":null, \"new_member\": {\"b\":1,\"a\":2}}";
    let server = Server::scripted(vec![(
        "GET /api/v1/jobs",
        vec![Answer::bytes(200, "application/json", body.as_bytes().to_vec())],
    )]);
    let output = run(&server, &["job", "list", "--json"]);
    assert_eq!(stdout(&output), format!("{body}\n"));
    assert_eq!(server.seen()[0].header("authorization"), "Bearer a-key");
}

#[test]
fn filters_are_sent_as_the_api_names_them() {
    let server = Server::scripted(vec![("GET /api/v1/jobs", vec![page(&[], None)])]);
    let arguments =
        ["job", "list", "--state", "running", "--outcome", "timed_out", "--label", "team=a b", "--label", "x=1:2"];
    let output = run(&server, &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        server.seen()[0].uri,
        "/api/v1/jobs?label=team%3Aa+b&label=x%3A1%3A2&state=running&outcome=timed_out&limit=50"
    );
    assert!(stdout(&output).contains("No jobs"), "an empty list says how to go on");
}

#[test]
fn a_list_reads_on_over_empty_pages_and_says_if_there_is_more() {
    let jobs: Vec<Value> = (0..3).map(|_| job("running", 1, None)).collect();
    let answers = || vec![page(&[], Some("a")), page(&jobs[..2], Some("b")), page(&jobs[2..], None)];
    let server = Server::scripted(vec![("GET /api/v1/jobs", answers())]);
    let output = run(&server, &["job", "list", "--limit", "2"]);
    assert_eq!(stdout(&output).matches(JOB).count(), 2);
    assert!(stderr(&output).contains("there are more"), "{}", stderr(&output));
    assert_eq!(server.seen().len(), 2);

    let server = Server::scripted(vec![("GET /api/v1/jobs", answers())]);
    let output = run(&server, &["job", "list", "--all"]);
    assert_eq!(stdout(&output).matches(JOB).count(), 3);
    assert!(server.seen()[2].uri.contains("cursor=b"));
}

/// A script gets as many as it asked for, in pages of which each is a line.
#[test]
fn json_reads_on_until_the_limit() {
    let pages = || vec![page(&[json!(1), json!(2)], Some("a")), page(&[json!(3)], Some("b"))];
    let server = Server::scripted(vec![("GET /api/v1/jobs", pages())]);
    let output = run(&server, &["--json", "job", "list", "--limit", "3"]);
    assert_eq!(stdout(&output).lines().count(), 2, "{}{}", stdout(&output), stderr(&output));
    assert!(server.seen()[1].uri.contains("limit=1&cursor=a"), "{}", server.seen()[1].uri);
}

/// A job is started once though its answer is lost twice: the same key goes with each repetition.
#[test]
fn starting_is_repeated_under_one_idempotency_key() {
    let server = Server::scripted(vec![(
        "POST /api/v1/jobs",
        vec![
            Answer::json(201, &job("waiting", 0, None)).header("content-length", "99999").breaking(),
            Answer::problem(503, "unavailable", "the outcome is unknown"),
            Answer::json(201, &job("waiting", 0, None)),
        ],
    )]);
    let arguments =
        ["job", "start", "invoices", "--on", "robot-1", "--set", "limit=5", "--set", "name=ä", "--timeout", "1h"];
    let output = run(&server, &arguments);
    assert_eq!(stdout(&output), format!("{JOB}\n"), "{}", stderr(&output));
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    assert!(!seen[0].header("idempotency-key").is_empty());
    assert!(seen.iter().all(|call| call.header("idempotency-key") == seen[0].header("idempotency-key")));
    let expected = json!({
        "process": "invoices", "target": {"robot": "robot-1"}, "input": {"limit": 5, "name": "ä"}, "timeout_seconds": 3600,
    });
    assert_eq!(seen[0].json(), expected);
}

/// What is not known to be safe is sent once.
#[test]
fn a_delete_is_not_repeated() {
    let server =
        Server::scripted(vec![("DELETE /api/v1/robots/r", vec![Answer::problem(503, "unavailable", "later")])]);
    assert_eq!(run(&server, &["robot", "delete", "r"]).status.code(), Some(1));
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn a_problem_is_told_with_fields_and_request_id() {
    let body = json!({
        "type": "invalid", "title": "Not valid", "status": 422, "detail": "the input does not match", "request_id": "r-7",
        "errors": [{"pointer": "/input/limit", "detail": "must be at least \u{1b}[31m1"}],
    });
    let answer = || Answer::bytes(422, "application/problem+json", body.to_string().into_bytes());
    let server = Server::scripted(vec![("POST /api/v1/jobs", vec![answer()])]);
    let output = run(&server, &["job", "start", "invoices", "--input", "{\"limit\": 0}"]);
    assert_eq!(output.status.code(), Some(1));
    let told = stderr(&output);
    for text in ["Not valid", "the input does not match", "/input/limit: must be at least", "r-7"] {
        assert!(told.contains(text), "{text:?} is missing in {told}");
    }
    assert!(!told.contains('\u{1b}'), "control characters of the answer do not reach the terminal");
    let output = run(&server, &["--json", "job", "start", "invoices"]);
    assert_eq!(stderr(&output), format!("{body}\n"), "for scripts the problem document is on standard error");
}

#[test]
fn errors_name_the_remedy() {
    let server =
        Server::scripted(vec![("GET /api/v1/robots", vec![Answer::problem(401, "unauthenticated", "unknown")])]);
    let output = run(&server, &["robot", "list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("drover login"), "{}", stderr(&output));

    let home = tempfile::tempdir().expect("a temporary folder");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let mut command = drover(home.path());
    let output = command.args(["--server", &closed.to_string(), "--key", "k", "status"]).output().expect("drover runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("Is the coordinator running"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("not known"), "nothing can have been carried out");

    let output = drover(home.path()).args(["job", "list"]).output().expect("drover runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("drover login"), "{}", stderr(&output));
}

#[test]
fn a_proxy_page_is_not_taken_for_an_answer() {
    let server = Server::scripted(vec![(
        "GET /api/v1/robots",
        vec![Answer::bytes(403, "text/html", b"<html>no</html>".to_vec())],
    )]);
    let output = run(&server, &["robot", "list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("403"), "{}", stderr(&output));
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let server = Server::scripted(vec![]);
    for arguments in [
        &["job", "start"][..],
        &["job", "start", "p", "--input", "[1]"],
        &["job", "start", "p", "--set", "novalue"],
        &["job", "start", "p", "--label", "a=1", "--label", "a=2"],
        &["job", "start", "p", "--timeout", "soon"],
        &["job", "start", "p", "--follow", "--count", "2"],
        &["job", "show", ".."],
        &["frobnicate"],
    ] {
        let output = run(&server, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
    }
    assert!(server.seen().is_empty(), "nothing was sent");
}

#[test]
fn publishing_makes_the_process_and_sends_the_package_of_the_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("process.toml"), "[process]\nname = \"invoices\"\ndescription = \"d\"\n")
        .expect("a file");
    fs::write(folder.path().join("main.py"), "print(1)\n").expect("a file");
    let server = Server::start(|seen| {
        let path = seen.uri.split('?').next().unwrap_or_default();
        match (seen.method.as_str(), path) {
            ("POST", "/api/v1/processes") => Some(Answer::json(201, &json!({}))),
            ("POST", "/api/v1/processes/invoices/versions") => Some(Answer::json(201, &version(&sha256(&seen.body)))),
            _ => None,
        }
    });
    let source = folder.path().to_str().expect("UTF-8");
    let output = run(&server, &["process", "publish", source, "--label", "1.0"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("Published invoices, version 3 (1.0): 2 files"), "{}", stdout(&output));
    let made = &server.seen_at("POST /api/v1/processes")[0];
    assert_eq!(made.json()["description"], "d");
    let upload = &server.seen_at("POST /api/v1/processes/invoices/versions")[0];
    assert!(upload.uri.ends_with("?label=1.0&activate=true"), "{}", upload.uri);
    assert_eq!(upload.header("content-type"), "application/zip");
    assert_eq!(upload.header("content-length"), upload.body.len().to_string());
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(upload.body.clone())).expect("a zip");
    let mut text = String::new();
    archive.by_name("main.py").expect("the file").read_to_string(&mut text).expect("its text");
    assert_eq!(text, "print(1)\n");
}

/// What is no package makes no process, which would then have no version.
#[test]
fn a_folder_that_is_no_package_is_refused_before_anything_is_sent() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(folder.path().join("work")).expect("a folder");
    fs::write(folder.path().join("work/process.toml"), "").expect("a file");
    let server = Server::scripted(Vec::new());
    let output = run(&server, &["process", "publish", folder.path().to_str().expect("UTF-8")]);
    assert!(output.status.code() == Some(2) && stderr(&output).contains("process.toml"), "{}", stderr(&output));
    assert!(server.seen().is_empty());
}

/// A package that was changed on its way is not taken for published.
#[test]
fn publishing_compares_the_digest() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("main.py"), "print(1)\n").expect("a file");
    let server = Server::scripted(vec![
        ("GET /api/v1/processes/p", vec![Answer::json(200, &json!({}))]),
        ("POST /api/v1/processes/p/versions", vec![Answer::json(201, &version(&"0".repeat(64)))]),
    ]);
    let output =
        run(&server, &["process", "publish", folder.path().to_str().expect("UTF-8"), "--name", "p", "--no-activate"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("damaged"), "{}", stderr(&output));
    assert!(server.seen()[1].uri.ends_with("activate=false"));
}

fn backup(server: &Server, file: &std::path::Path) -> Output {
    run(server, &["--json", "backup", file.to_str().expect("UTF-8")])
}

/// A backup appears only whole; one that breaks off leaves the older one as it was, and nothing beside it.
#[test]
fn a_backup_is_whole_or_not_there() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("drover.backup");
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|index| (index % 251) as u8).collect();
    let path = "GET /api/v1/system/backup";
    let whole = || Answer::bytes(200, "application/octet-stream", bytes.clone());
    let server = Server::scripted(vec![(path, vec![whole().breaking(), whole()])]);
    let output = backup(&server, &file);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read(&file).expect("the backup"), bytes);
    let facts: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!((&facts["size_bytes"], &facts["sha256"]), (&json!(3_000_000), &json!(sha256(&bytes))));

    let server = Server::scripted(vec![(path, vec![Answer::bytes(200, "x/y", b"half".to_vec()).breaking()])]);
    assert_eq!(backup(&server, &file).status.code(), Some(1));
    assert_eq!(fs::read(&file).expect("the older backup"), bytes);
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1, "no temporary file is left");
}

#[test]
fn artifacts_are_downloaded_into_a_folder_and_verified() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |path: &str, digest: String| {
        json!({
            "id": JOB, "path": path, "size_bytes": 4, "sha256": digest, "content_type": "text/html", "created_by": "job",
            "created_at": "2026-01-01T00:00:00.000Z", "modified_at": "2026-01-01T00:00:00.000Z",
        })
    };
    let start = |files: Vec<Value>| {
        Server::start(move |seen| {
            let path = seen.uri.split('?').next().unwrap_or_default();
            if path.ends_with("/files") {
                return Some(page(&files, None));
            }
            Some(Answer::bytes(200, "text/html", b"data".to_vec()))
        })
    };
    let target = folder.path().join("here");
    let arguments = ["job", "download", JOB, "--dir", target.to_str().expect("UTF-8")];
    let server = start(vec![file("deep/a & b?.html", sha256(b"data"))]);
    let output = run(&server, &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read(target.join("deep/a & b?.html")).expect("the file"), b"data");
    assert_eq!(server.seen()[1].uri, format!("/api/v1/storages/jobs%2F{JOB}/files/deep/a%20%26%20b%3F.html"));

    // The list comes in pages.
    let (first, second) = (file("1.html", sha256(b"data")), file("2.html", sha256(b"data")));
    let server = Server::start(move |seen| match seen.uri.split_once("/files?") {
        Some((_, query)) if query.contains("cursor=a") => Some(page(std::slice::from_ref(&second), None)),
        Some(_) => Some(page(std::slice::from_ref(&first), Some("a"))),
        None => Some(Answer::bytes(200, "text/html", b"data".to_vec())),
    });
    let output = run(&server, &arguments);
    assert_eq!(stdout(&output).lines().count(), 2, "{}{}", stdout(&output), stderr(&output));
    assert!(target.join("1.html").exists() && target.join("2.html").exists());
    assert!(stdout(&run(&server, &["job", "artifacts", JOB])).contains("2.html"));
    assert_eq!(stdout(&run(&server, &["job", "artifacts", JOB, "--json"])).lines().count(), 2);

    let output = run(&start(vec![file("bad.html", sha256(b"other"))]), &arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(!target.join("bad.html").exists());
    let output = run(&start(vec![file("../out.html", sha256(b"data"))]), &arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(!folder.path().join("out.html").exists());
}

fn me() -> Answer {
    let account = json!({"id": JOB, "name": "main", "created_at": "2026-01-01T00:00:00.000Z", "revision": 1});
    let me = json!({
        "account": account, "kind": "user", "id": JOB, "name": "admin", "key_id": JOB, "roles": ["admin"], "permissions": [],
    });
    Answer::json(200, &me)
}

/// A login is checked, saved for its owner only, used for its own server only, and kept up with a new key.
#[test]
fn login_is_saved_privately_and_follows_a_new_key() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let new_key = json!({"id": JOB, "key": "the-new-key", "header": "Bearer the-new-key"});
    let server = Server::scripted(vec![
        ("GET /api/v1/account/me", vec![me()]),
        ("POST /api/v1/account/key", vec![Answer::json(200, &new_key)]),
    ]);
    let mut login = drover(home.path());
    let mut child =
        login.args(["login", &server.url]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("runs");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), b"the-key\n").expect("it reads the key");
    assert!(child.wait().expect("it ends").success());

    let saved = home.path().join(".config/drover/login.toml");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&saved).expect("the login").permissions().mode() & 0o777, 0o600);
    }
    assert!(drover(home.path()).args(["key", "assign"]).output().expect("runs").status.success());
    assert!(drover(home.path()).arg("whoami").output().expect("runs").status.success());
    let keys: Vec<String> = server.seen().iter().map(|seen| seen.header("authorization").to_owned()).collect();
    assert_eq!(keys[..3], ["Bearer the-key", "Bearer the-key", "Bearer the-new-key"]);

    let other = Server::scripted(vec![("GET /api/v1/account/me", vec![me()])]);
    let output = drover(home.path()).args(["--server", &other.url, "whoami"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(2), "a saved key is not shown to another server");
    assert!(other.seen().is_empty());

    assert!(drover(home.path()).arg("logout").output().expect("runs").status.success());
    assert!(!saved.exists());
}

#[test]
fn a_wrong_key_is_not_saved() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let server = Server::scripted(vec![(
        "GET /api/v1/account/me",
        vec![Answer::problem(401, "unauthenticated", "unknown key")],
    )]);
    let output = drover(home.path()).args(["login", &server.url, "--key", "wrong"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(!home.path().join(".config/drover/login.toml").exists());
    assert!(!stderr(&output).contains("wrong"), "the key is in no message");
}

/// The whole log is read page by page, within one attempt.
#[test]
fn logs_are_read_to_their_end() {
    let line = |seq: u64| {
        json!({"seq": seq, "attempt": 2, "time": "2026-01-01T00:00:00.000Z", "level": "warning", "message": format!("line {seq}"),
            "fields": {}})
    };
    let log = |items: Vec<Value>, next_seq: u64, complete: bool| {
        Answer::json(200, &json!({"items": items, "next_seq": next_seq, "complete": complete, "attempt": 2}))
    };
    let path: &'static str = Box::leak(format!("GET /api/v1/jobs/{JOB}/logs").into_boxed_str());
    let answers = vec![log(vec![line(1), line(2)], 3, false), log(vec![], 9, false), log(vec![line(9)], 10, true)];
    let server = Server::scripted(vec![(path, answers)]);
    let output = run(&server, &["job", "logs", JOB, "--level", "warning"]);
    let shown = stdout(&output);
    assert_eq!(shown.lines().count(), 3, "{shown}");
    assert!(shown.starts_with("2026-01-01T00:00:00.000Z warning  line 1\n"), "{shown}");
    let seen = server.seen();
    assert!(seen[0].uri.contains("level=warning"));
    assert!(seen[2].uri.contains("from_seq=9") && seen[2].uri.contains("attempt=2"), "{}", seen[2].uri);
}

/// Answers of a newer coordinator, with members that are not known here, are still shown.
#[test]
fn unknown_members_of_answers_are_forgiven() {
    let mut newer = job("running", 1, None);
    newer["progress"] = json!({"percent": 40.0, "text": "half way", "eta_seconds": 5});
    newer["new"] = json!([1]);
    let path: &'static str = Box::leak(format!("GET /api/v1/jobs/{JOB}").into_boxed_str());
    let server = Server::scripted(vec![(path, vec![Answer::json(200, &newer)])]);
    let output = run(&server, &["job", "show", JOB]);
    assert!(stdout(&output).contains("40 % half way"), "{}{}", stdout(&output), stderr(&output));
}

#[test]
fn completions_are_made_for_every_shell_without_a_server() {
    let home = tempfile::tempdir().expect("a temporary folder");
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = drover(home.path()).args(["completions", shell]).output().expect("runs");
        assert!(output.status.success() && stdout(&output).contains("join-token"), "{shell}");
    }
}
