//! `drover storage` and `drover file`: what they send, how downloads go on where they broke, digests.

use std::{fs, io::Read, process::Command};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{Answer, Server, drover, run, stderr, stdout};

const ID: &str = "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f";

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn file(path: &str, content: &[u8]) -> Value {
    json!({
        "id": ID, "path": path, "size_bytes": content.len(), "sha256": sha256(content), "content_type": "text/plain",
        "metadata": {}, "created_by": "user:x", "created_at": "2026-01-01T00:00:00.000Z",
        "modified_at": "2026-01-01T00:00:00.000Z",
    })
}

/// What has arrived is not asked for again, as long as it is still the same content.
#[test]
fn a_download_goes_on_where_it_broke() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let target = folder.path().join("a.txt");
    let path = "GET /api/v1/storages/f/files/deep/a.txt";
    let part = |status, body: &[u8]| Answer::bytes(status, "text/plain", body.to_vec()).header("etag", "\"tag\"");
    let arguments = ["file", "get", "f", "deep/a.txt", "--output", target.to_str().expect("UTF-8")];

    let server = Server::scripted(vec![(path, vec![part(200, b"first ").breaking(), part(206, b"second")])]);
    let output = run(&server, &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read(&target).expect("the file"), b"first second");
    let seen = server.seen();
    assert_eq!((seen[1].header("range"), seen[1].header("if-range")), ("bytes=6-", "\"tag\""));

    // Another content comes from its beginning.
    let server = Server::scripted(vec![(path, vec![part(200, b"old ").breaking(), part(200, b"new")])]);
    assert!(run(&server, &arguments).status.success());
    assert_eq!(fs::read(&target).expect("the file"), b"new");

    let wrong = part(200, b"rotten").header("content-digest", "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:");
    let output = run(&Server::scripted(vec![(path, vec![wrong])]), &arguments);
    assert!(stderr(&output).contains("damaged"), "{}", stderr(&output));
    assert_eq!(fs::read(&target).expect("the older file"), b"new");
}

/// A link stays one, and the file to which it leads is the new one, also if it was not there yet.
#[cfg(unix)]
#[test]
fn a_download_follows_links() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    fs::write(path("file"), "old").expect("a file");
    symlink("file", path("link")).expect("a link");
    symlink(path("none yet"), path("dangling")).expect("a link");
    let content = || Answer::bytes(200, "text/plain", b"new".to_vec());
    let server = Server::scripted(vec![("GET /api/v1/storages/f/files/a.txt", vec![content()])]);
    for (link, file) in [("link", "file"), ("dangling", "none yet")] {
        let output = run(&server, &["file", "get", "f", "a.txt", "-o", path(link).to_str().expect("UTF-8")]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(fs::symlink_metadata(path(link)).expect("it is there").is_symlink(), "{link}");
        assert_eq!(fs::read(path(file)).expect("the file"), b"new", "{file}");
    }
}

/// A pipe that a program reads stays a pipe, and the program gets all of it.
#[cfg(unix)]
#[test]
fn a_download_into_a_pipe_goes_through_it() {
    use std::os::unix::fs::FileTypeExt;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    // Opened for both, it waits for nobody, and takes so little without a reader.
    let mut reader = fs::OpenOptions::new().read(true).write(true).open(&pipe).expect("a pipe");
    let content = Answer::bytes(200, "text/plain", b"all of it".to_vec());
    let server = Server::scripted(vec![("GET /api/v1/storages/f/files/a.txt", vec![content])]);
    let output = run(&server, &["file", "get", "f", "a.txt", "-o", pipe.to_str().expect("UTF-8")]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(fs::symlink_metadata(&pipe).expect("it is there").file_type().is_fifo());
    let mut found = [0; 9];
    reader.read_exact(&mut found).expect("the content");
    assert_eq!(&found, b"all of it");
}

/// Whoever reads standard output gets the file and nothing else, from each command that writes one.
#[test]
fn a_dash_is_standard_output() {
    let bytes = || Answer::bytes(200, "application/octet-stream", b"\0bytes\n".to_vec());
    let routes = [
        "GET /api/v1/storages/f/files/a.txt",
        "GET /api/v1/tasks",
        "GET /api/v1/tasks/t/files/a",
        "GET /api/v1/logs",
        "GET /api/v1/audit",
        "GET /api/v1/system/backup",
        "GET /api/v1/resources/days/value",
    ];
    let server = Server::scripted(routes.into_iter().map(|route| (route, vec![bytes()])).collect());
    let folder = tempfile::tempdir().expect("a temporary folder");
    for arguments in [
        &["file", "get", "f", "a.txt", "-o", "-"][..],
        &["task", "export", "-o", "-"],
        &["task", "download", "t", "a", "-o", "-"],
        &["logs", "export", "-"],
        &["--json", "logs", "export", "-"],
        &["audit", "export", "-"],
        &["backup", "-"],
        &["--json", "backup", "-"],
        &["resource", "export-calendar", "days", "-"],
    ] {
        let mut command = drover(folder.path());
        command.current_dir(folder.path()).env("DROVER_URL", &server.url).env("DROVER_KEY", "a-key").args(arguments);
        let output = command.output().expect("drover runs");
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "\0bytes\n", "{arguments:?}");
        assert!(!folder.path().join("-").exists(), "{arguments:?}");
    }
}

/// What has left cannot be taken back: another content is not written behind the beginning of the first.
#[test]
fn what_went_to_standard_output_is_not_begun_anew() {
    let part = |body: &[u8]| Answer::bytes(200, "text/plain", body.to_vec()).header("etag", "\"tag\"");
    let path = "GET /api/v1/storages/f/files/a.txt";
    let server = Server::scripted(vec![(path, vec![part(b"old ").breaking(), part(b"new")])]);
    let output = run(&server, &["file", "get", "f", "a.txt", "-o", "-"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), "old "));
    assert!(stderr(&output).contains("does not go on with what was written"), "{}", stderr(&output));
}

/// A folder goes with all below it, under names of any kind; each file with its digest.
#[test]
fn a_folder_is_written_file_by_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(folder.path().join("sub")).expect("a folder");
    fs::write(folder.path().join("sub/hello & + % ? #.txt"), "hello").expect("a file");
    fs::write(folder.path().join("z"), "hello").expect("a file");
    let server = Server::start(|seen| {
        (seen.method == "PUT").then(|| Answer::json(201, &file(seen.uri.rsplit('/').next().unwrap_or(""), b"hello")))
    });
    let source = folder.path().to_str().expect("UTF-8");
    let output = run(&server, &["file", "put", "a/b", source, "to", "--metadata", "k=v"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let seen = server.seen();
    let uris: Vec<&str> = seen.iter().map(|seen| seen.uri.as_str()).collect();
    assert_eq!(
        uris,
        [
            "/api/v1/storages/a%2Fb/files/to/sub/hello%20%26%20%2B%20%25%20%3F%20%23.txt?metadata=k%3Av",
            "/api/v1/storages/a%2Fb/files/to/z?metadata=k%3Av"
        ]
    );
    assert_eq!(seen[0].header("content-digest"), "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:");
    assert_eq!((seen[0].header("content-length"), &seen[0].body[..]), ("5", &b"hello"[..]));

    // What the coordinator has kept must be what was sent.
    let server = Server::start(|_| Some(Answer::json(201, &file("z", b"other"))));
    let one = folder.path().join("z");
    let output = run(&server, &["file", "put", "f", one.to_str().expect("UTF-8")]);
    assert!(stderr(&output).contains("damaged"), "{}", stderr(&output));
}

/// One file of a folder that is refused is named, and holds up no other; what concerns all of them ends it.
#[cfg(unix)]
#[test]
fn a_file_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["a", "b\\c", "d"] {
        fs::write(folder.path().join(name), "hello").expect("a file");
    }
    let source = folder.path().to_str().expect("UTF-8");
    let server = Server::start(|seen| {
        let name = seen.uri.rsplit('/').next().unwrap_or_default();
        Some(match name.contains("%5C") {
            true => Answer::problem(422, "invalid", "a path must not hold a backslash"),
            false => Answer::json(201, &file(name, b"hello")),
        })
    });
    let output = run(&server, &["file", "put", "f", source]);
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("b\\c is not written") && told.contains("backslash") && told.contains("1 of 3"), "{told}");
    assert!(
        stdout(&output).contains("a is written") && stdout(&output).contains("d is written"),
        "{}",
        stdout(&output)
    );

    let server = Server::start(|_| Some(Answer::problem(403, "forbidden", "file:write is missing")));
    let output = run(&server, &["file", "put", "f", source]);
    assert!(stderr(&output).contains("file:write is missing"), "{}", stderr(&output));
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn settings_of_a_folder_are_set_and_taken_away() {
    let server = Server::start(|_| Some(Answer::json(200, &json!({}))));
    let update = ["storage", "update", "a", "--quota", "none", "--retention-days", "7", "--read-only", "true"];
    assert!(run(&server, &update).status.success());
    let create = ["storage", "create", "a/b", "--quota", "10GiB"];
    assert!(run(&server, &create).status.success());
    assert!(run(&server, &["storage", "delete", "a/b", "--files"]).status.success());
    let seen = server.seen();
    assert_eq!(seen[0].json(), json!({ "quota_bytes": null, "retention_days": 7, "read_only": true }));
    assert_eq!(seen[1].json(), json!({ "name": "a/b", "quota_bytes": 10_737_418_240_u64, "read_only": false }));
    assert_eq!(seen[2].uri, "/api/v1/storages/a%2Fb?files=true");
    assert_eq!(run(&server, &["storage", "create", "x", "--quota", "much"]).status.code(), Some(2));
}

#[test]
fn one_level_and_links_are_shown() {
    let page = json!({ "items": [file("a/x.txt", b"x")], "prefixes": ["a/deep/"], "next_cursor": null });
    let link = json!({ "url": "http://host/api/v1/links/token", "expires_at": "2026-01-01T00:00:00.000Z" });
    let server = Server::scripted(vec![
        ("GET /api/v1/storages/f/files", vec![Answer::json(200, &page)]),
        ("POST /api/v1/storages/f/links", vec![Answer::json(201, &link)]),
    ]);
    let output = run(&server, &["file", "list", "f", "--level", "--prefix", "a/"]);
    assert!(stdout(&output).contains("a/deep/") && stdout(&output).contains("a/x.txt"), "{}", stdout(&output));
    let output = run(&server, &["file", "link", "f", "a/x.txt", "--expires", "2h"]);
    assert_eq!(stdout(&output), "http://host/api/v1/links/token\n");
    assert_eq!(server.seen()[1].json(), json!({ "path": "a/x.txt", "verb": "get", "expires_in_seconds": 7200 }));
}
