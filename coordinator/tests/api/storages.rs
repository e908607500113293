//! Storage folders: names, settings, figures, quota, retention, deletion with files, and what a job's key reaches.

use http::Method;
use serde_json::json;

use crate::support::{Call, World, each, text};

/// Names of any depth and script; by name or by id; another name moves nothing.
#[tokio::test]
async fn folders_are_made_found_renamed_and_listed() {
    let world = World::new().await;
    let name = "Счета & акты/2026 + % ? #";
    let encoded: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let made = world.post("/storages", json!({ "name": name, "description": "d", "retention_days": 7 })).await;
    let location = made.header("location").unwrap().to_owned();
    let made = made.created();
    assert_eq!(location, format!("/api/v1/storages/{}", text(&made, "/id")));
    assert_eq!((made["file_count"].clone(), made["quota_bytes"].clone()), (json!(0), json!(null)));
    assert_eq!(world.get(&format!("/storages/{encoded}")).await.ok(), made);
    let taken = world.post("/storages", json!({ "name": name })).await.expect(409).refused("already_exists");
    assert_eq!(taken["id"], made["id"]);
    world.put_file(&encoded, "a.txt", "x").await.created();
    let id = text(&made, "/id");
    let renamed = world.patch(&format!("/storages/{id}"), json!({ "name": "b", "retention_days": null })).await.ok();
    assert_eq!((text(&renamed, "/name"), renamed["retention_days"].clone()), ("b".into(), json!(null)));
    assert_eq!(world.get("/storages/b/files/a.txt").await.expect(200).body, "x");
    world.get(&format!("/storages/{encoded}")).await.expect(404);
    world.get(&format!("/storages/{encoded}/events")).await.expect(404);
    assert_eq!(each(&world.get("/storages/b/events").await.ok(), "code"), ["storage_changed", "storage_created"]);
    let stale = world.call(Method::PATCH, "/storages/b").header("if-match", "\"1\"").json(&json!({}));
    stale.send().await.expect(412).refused("precondition_failed");
    for other in ["a/1", "a/2", "c"] {
        world.post("/storages", json!({ "name": other })).await.created();
    }
    let names = async |query: &str| each(&world.get(&format!("/storages{query}")).await.ok(), "name");
    assert_eq!(names("").await, ["c", "a/2", "a/1", "b"], "newest first");
    assert_eq!(names("?prefix=a/").await, ["a/1", "a/2"]);
    for bad in ["", "a//b", "../x", "jobs/x", "tasks", "a\u{0}", "/a", "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f"] {
        world.post("/storages", json!({ "name": bad })).await.expect(422).refused("invalid");
    }
    world.post("/storages", json!({ "name": "x", "retention_days": 0 })).await.invalid(&["/retention_days"]);
    world.post("/storages", json!({ "name": "x", "quota": 1 })).await.expect(422).refused("invalid");
}

/// The figures are those of the files at any time, whatever is done to them.
#[tokio::test]
async fn figures_are_kept_with_the_files() {
    let world = World::new().await;
    for name in ["a", "b"] {
        world.post("/storages", json!({ "name": name })).await.created();
    }
    let figures = async |name: &str| {
        let folder = world.get(&format!("/storages/{name}")).await.ok();
        (folder["file_count"].as_u64().unwrap(), folder["used_bytes"].as_u64().unwrap())
    };
    world.put_file("a", "x", "12345").await.created();
    world.put_file("a", "y", "1").await.created();
    assert_eq!(figures("a").await, (2, 6));
    world.put_file("a", "x", "12").await.ok();
    assert_eq!(figures("a").await, (2, 3));
    let transfer = async |kind: &str, body| world.post(&format!("/storages/a/{kind}"), body).await.created();
    transfer("copy", json!({ "path": "x", "to_folder": "b", "to_path": "x" })).await;
    assert_eq!((figures("a").await, figures("b").await), ((2, 3), (1, 2)));
    transfer("move", json!({ "path": "y", "to_path": "x", "replace": true })).await;
    assert_eq!(figures("a").await, (1, 1));
    transfer("move", json!({ "path": "x", "to_folder": "b", "to_path": "x", "replace": true })).await;
    assert_eq!((figures("a").await, figures("b").await), ((0, 0), (1, 1)));
    world.delete("/storages/b/files/x").await.done();
    assert_eq!(figures("b").await, (0, 0));
    for number in 0..3 {
        world.put_file("b", &format!("n{number}"), "").await.created();
    }
    let counted =
        async |query: &str| world.get(&format!("/storages/b/files?limit=1{query}")).await.ok()["total"].clone();
    assert_eq!((counted("&count=true").await, counted("").await), (json!(3), json!(null)));
    assert_eq!(counted("&count=true&prefix=n1").await, json!(null), "no counter knows that");
    let revision = world.get("/storages/b").await.ok()["revision"].clone();
    assert_eq!(revision, 1, "files come and go while the settings stay");
}

/// The quota holds while the content comes and when it is there, two that come at once included.
#[tokio::test]
async fn a_quota_is_never_passed() {
    let world = World::new().await;
    world.post("/storages", json!({ "name": "q", "quota_bytes": 10 })).await.created();
    world.put_file("q", "a", "1234567").await.created();
    let refusal = world.put_file("q", "b", "1234").await.expect(413).refused("too_large");
    assert!(text(&refusal, "/detail").contains("quota_bytes"), "{refusal}");
    world.put_file("q", "b", "123").await.created();
    world.put_file("q", "b", "321").await.ok();
    world.put_file("q", "a", "12345678").await.expect(413);
    assert_eq!(world.get("/storages/q/files/a").await.expect(200).body, "1234567");
    world.post("/storages/q/copy", json!({ "path": "b", "to_path": "c" })).await.expect(413).refused("too_large");
    world.delete("/storages/q/files/a").await.done();
    let (pieces, body) = futures::channel::mpsc::unbounded::<Result<&'static [u8], std::io::Error>>();
    let slow = world.call(Method::PUT, "/storages/q/files/slow").streamed(axum::body::Body::from_stream(body));
    let slow = tokio::spawn(slow.send());
    pieces.unbounded_send(Ok(b"123456")).unwrap();
    crate::support::settle().await;
    world.put_file("q", "fast", "1234567").await.created();
    drop(pieces);
    slow.await.unwrap().expect(413).refused("too_large");
    world.collect_garbage().await;
    assert_eq!(world.file_blobs().await, 2, "nothing is left of what was refused");
    world.patch("/storages/q", json!({ "quota_bytes": 1 })).await.ok();
    world.get("/storages/q/files/fast").await.expect(200);
}

/// Over a quota that was lowered a folder grows no further, while its files are renamed, joined and made smaller.
#[tokio::test]
async fn a_folder_over_its_quota_stays_usable() {
    let world = World::new().await;
    world.post("/storages", json!({ "name": "q", "quota_bytes": 10 })).await.created();
    world.put_file("q", "a", "123456").await.created();
    world.put_file("q", "b", "1234").await.created();
    world.patch("/storages/q", json!({ "quota_bytes": 5 })).await.ok();
    world.post("/storages/q/move", json!({ "path": "a", "to_path": "c" })).await.created();
    world.put_file("q", "c", "1234567").await.expect(413).refused("too_large");
    world.put_file("q", "c", "12345").await.ok();
    let refusal = world.put_file("q", "d", "1").await.expect(413).refused("too_large");
    assert!(text(&refusal, "/detail").contains("may hold 5 bytes and has 9 already"), "{refusal}");
    world.post("/storages/q/copy", json!({ "path": "b", "to_path": "d" })).await.expect(413);
    world.post("/storages/q/move", json!({ "path": "c", "to_path": "b", "replace": true })).await.created();
    let folder = world.get("/storages/q").await.ok();
    assert_eq!((folder["file_count"].as_u64(), folder["used_bytes"].as_u64()), (Some(1), Some(5)));
}

/// Read only is for everybody, retention included, and for all that would change a file.
#[tokio::test]
async fn a_read_only_folder_stays_as_it_is() {
    let world = World::new().await;
    world.post("/storages", json!({ "name": "r", "retention_days": 1 })).await.created();
    world.put_file("r", "a", "x").await.created();
    let link = json!({ "path": "a", "verb": "put", "expires_in_seconds": 600 });
    let link = text(&world.post("/storages/r/links", link).await.created(), "/url");
    let link = link.split("/api/v1").nth(1).unwrap();
    world.patch("/storages/r", json!({ "read_only": true })).await.ok();
    world.put_file("r", "b", "x").await.expect(409).refused("wrong_state");
    Call::new(world.router.clone(), Method::PUT, link).body("y").send().await.expect(409).refused("wrong_state");
    world.delete("/storages/r/files/a").await.expect(409).refused("wrong_state");
    world.post("/storages/r/move", json!({ "path": "a", "to_path": "b" })).await.expect(409);
    world.post("/storages/r/copy", json!({ "path": "a", "to_path": "b" })).await.expect(409);
    world.delete("/storages/r?files=true").await.expect(409).refused("wrong_state");
    world.move_clock(3 * 86_400);
    world.tend_storage().await;
    assert_eq!(world.get("/storages/r/files/a").await.expect(200).body, "x");
    world.patch("/storages/r", json!({ "read_only": false })).await.ok();
    world.tend_storage().await;
    world.get("/storages/r/files/a").await.expect(404);
}

/// By the time of the last writing, in more than one page, and nothing of another folder.
#[tokio::test]
async fn retention_removes_what_is_too_old_and_nothing_else() {
    let world = World::new().await;
    world.post("/storages", json!({ "name": "old", "retention_days": 2 })).await.created();
    world.post("/storages", json!({ "name": "kept" })).await.created();
    for number in 0..210 {
        world.put_file("old", &format!("{number}"), "x").await.created();
    }
    world.put_file("kept", "a", "x").await.created();
    world.move_clock(86_400);
    world.put_file("old", "7", "again").await.ok();
    world.move_clock(86_400 + 1);
    world.tend_storage().await;
    world.collect_garbage().await;
    let left = world.get("/storages/old/files").await.ok();
    assert_eq!(each(&left, "path"), ["7"]);
    let folder = world.get("/storages/old").await.ok();
    assert_eq!((folder["file_count"].clone(), folder["used_bytes"].clone()), (json!(1), json!(5)));
    assert_eq!(world.file_blobs().await, 2);
    world.get("/storages/kept/files/a").await.expect(200);
}

/// A folder with files is kept unless that is said; then it is gone at once, its name is free, and in the end nothing of
/// it is left.
#[tokio::test]
async fn a_folder_is_deleted_with_its_files_only_when_that_is_asked() {
    let world = World::new().await;
    let id = text(&world.post("/storages", json!({ "name": "d" })).await.created(), "/id");
    for number in 0..230 {
        world.put_file("d", &format!("x/{number}"), "x").await.created();
    }
    world.delete("/storages/d").await.expect(409).refused("in_use");
    let stale = world.call(Method::DELETE, "/storages/d?files=true").header("if-match", "\"7\"");
    stale.send().await.expect(412);
    world.delete("/storages/d?files=true").await.done();
    for gone in ["d", &id] {
        world.get(&format!("/storages/{gone}")).await.expect(404);
        world.get(&format!("/storages/{gone}/files/x/1")).await.expect(404);
        world.put_file(gone, "y", "x").await.expect(404);
    }
    assert_eq!(each(&world.get("/storages").await.ok(), "name").len(), 0);
    world.post("/storages", json!({ "name": "d" })).await.created();
    assert_eq!(each(&world.get("/storages/d/files").await.ok(), "path").len(), 0);
    world.tend_storage().await;
    world.collect_garbage().await;
    // The audit trail goes on to tell who wrote it.
    let is_told = |(key, value): &(Vec<u8>, Vec<u8>)| {
        !key.starts_with(b"au") && [key, value].iter().any(|bytes| bytes.windows(4).any(|part| part == b"x/22"))
    };
    assert_eq!((world.file_blobs().await, world.pairs().iter().filter(|pair| is_told(pair)).count()), (0, 0));
    world.delete("/storages/d").await.done();
    world.tend_storage().await;
    world.delete("/storages/d").await.expect(404);
}

/// A job reaches its own artifacts and what its process declares, by name or id, and nothing else.
#[tokio::test]
async fn a_job_reaches_what_its_process_declares() {
    let world = World::new().await;
    let agent = world.agent_with("r", json!({ "capacity": 2 })).await;
    let manifest = "[run]\ncommand = [\"sh\", \"main.sh\"]\n[requires]\nstorages = [\"in/a\"]";
    let files = [("main.sh", "true"), ("process.toml", manifest)];
    world.process_with("p", json!({}), &files).await;
    let declared = text(&world.post("/storages", json!({ "name": "in/a" })).await.created(), "/id");
    let other = text(&world.post("/storages", json!({ "name": "other" })).await.created(), "/id");
    world.put_file("in%2Fa", "1", "in").await.created();
    world.put_file("other", "1", "secret").await.created();
    world.start("p").await;
    let (job, assignment) = agent.take().await;
    agent.accept(&job, 1).await.ok();
    let key = text(&assignment, "/key");
    let call = |method: Method, path: &str| Call::new(world.router.clone(), method, path).key(&key);
    assert_eq!(call(Method::GET, "/storages/in%2Fa/files/1").send().await.expect(200).body, "in");
    let own = format!("/storages/jobs%2F{job}/files/out.txt");
    for path in ["/storages/in%2Fa/files/2", &format!("/storages/{declared}/files/3"), &own] {
        let made = call(Method::PUT, path).body("out").send().await.created();
        assert_eq!(text(&made, "/created_by"), format!("job:{job}"));
    }
    assert_eq!(each(&call(Method::GET, "/storages").send().await.ok(), "name"), ["in/a"]);
    for folder in ["other", &other, "none"] {
        let problem = call(Method::GET, &format!("/storages/{folder}/files/1")).send().await.expect(403);
        assert!(text(&problem.json(), "/detail").contains("[requires]"));
        call(Method::PUT, &format!("/storages/{folder}/files/1")).body("x").send().await.expect(403);
        let to = json!({ "path": "1", "to_folder": folder, "to_path": "1" });
        call(Method::POST, "/storages/in%2Fa/copy").json(&to).send().await.expect(403);
    }
    world.start("p").await;
    let (second, _) = agent.take().await;
    let foreign = format!("/storages/jobs%2F{second}/files/x");
    call(Method::PUT, &foreign).body("x").send().await.expect(404);
    call(Method::GET, &format!("/storages/jobs%2F{second}/files")).send().await.expect(404);
    call(Method::POST, "/storages").json(&json!({ "name": "x" })).send().await.expect(403);
    // People read and delete artifacts; only the job adds them.
    world.call(Method::PUT, &own).body("forged").send().await.expect(409).refused("wrong_state");
    world.delete(&own).await.done();
    agent.finish(&job, 1, json!({})).await.done();
    call(Method::GET, "/storages/in%2Fa/files/1").send().await.expect(401);
}
