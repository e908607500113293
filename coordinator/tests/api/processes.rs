//! Processes and versions: uploads, activation and roll-back, pins, archiving, deletion, downloads.

use http::Method;
use serde_json::{Value, json};

use crate::support::{Agent, World, each, package, text};

fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, content) in parts {
        let file = if *name == "package" { "; filename=\"p.zip\"" } else { "" };
        body.extend(format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").as_bytes());
        body.extend_from_slice(content);
        body.extend(b"\r\n");
    }
    body.extend(b"--XX--\r\n");
    body
}

async fn blobs(world: &World) -> usize {
    use futures::StreamExt;
    world.app.blobs.list(drover_coordinator::store::blob::BlobKind::Package).count().await
}

/// The zip itself and a form give the same version; the same bytes are stored once and go with their last version.
#[tokio::test]
async fn a_package_comes_as_body_or_form_and_is_stored_once() {
    let world = World::new().await;
    world.post("/processes", json!({ "name": "p" })).await.created();
    let bytes = package(&[("main.sh", "echo hello")]);
    let first = world.upload("p", "?label=1.0&notes=first&activate=true", &bytes).await.created();
    assert_eq!((first["number"].clone(), first["active"].clone()), (json!(1), json!(true)));
    assert_eq!(first["size_bytes"], json!(bytes.len()));
    let parts: [(&str, &[u8]); 4] =
        [("label", b"1.1"), ("notes", "второй".as_bytes()), ("activate", b"false"), ("package", &bytes)];
    let call =
        world.call(Method::POST, "/processes/p/versions").header("content-type", "multipart/form-data; boundary=XX");
    let second = call.body(form(&parts)).send().await.created();
    assert_eq!((text(&second, "/label"), text(&second, "/notes")), ("1.1".into(), "второй".into()));
    assert_eq!((second["number"].clone(), second["active"].clone()), (json!(2), json!(false)));
    assert_eq!(first["sha256"], second["sha256"]);
    assert_eq!(blobs(&world).await, 1);
    world.delete("/processes/p/versions/2").await.done();
    world.collect_garbage().await;
    assert_eq!(blobs(&world).await, 1);
    world.delete("/processes/p").await.done();
    world.collect_garbage().await;
    assert_eq!(blobs(&world).await, 0);
}

#[tokio::test]
async fn forms_are_checked() {
    let world = World::new().await;
    world.post("/processes", json!({ "name": "p" })).await.created();
    let bytes = package(&[("main.sh", "true")]);
    let send = async |parts: &[(&str, &[u8])]| {
        let call = world
            .call(Method::POST, "/processes/p/versions")
            .header("content-type", "multipart/form-data; boundary=XX");
        call.body(form(parts)).send().await
    };
    send(&[("label", b"x")]).await.invalid(&["package"]);
    send(&[("package", &bytes), ("lable", b"x")]).await.invalid(&["lable"]);
    send(&[("package", &bytes), ("activate", b"perhaps")]).await.invalid(&["activate"]);
    send(&[("package", &bytes), ("label", b"\xff")]).await.expect(400);
    send(&[("package", &bytes), ("notes", &vec![b'x'; 70_000])]).await.expect(413);
    send(&[("package", &vec![0; 1024 * 1024 + 1])]).await.expect(413).refused("too_large");
    let call = world.call(Method::POST, "/processes/p/versions").header("content-type", "multipart/form-data");
    call.body("x").send().await.expect(400);
    let call = world.call(Method::POST, "/processes/p/versions").header("content-type", "application/zip");
    let digest = format!("sha-256=:{}:", "A".repeat(43) + "=");
    call.header("content-digest", &digest).body(bytes).send().await.invalid(&["Content-Digest"]);
    assert_eq!(blobs(&world).await, 0);
}

/// What is no harmless package is refused with the reason, and nothing remains of it.
#[tokio::test]
async fn hostile_packages_are_refused_with_the_reason() {
    let world = World::new().await;
    world.post("/processes", json!({ "name": "p" })).await.created();
    let cases = [
        (b"not a zip".to_vec(), ""),
        (package(&[("../evil.sh", "x"), ("main.sh", "true")]), "evil"),
        (package(&[("/etc/passwd", "x"), ("main.sh", "true")]), "passwd"),
        (package(&[("Main.sh", "x"), ("main.sh", "true")]), "ain.sh"),
        (package(&[("readme.txt", "nothing to run")]), ""),
        (package(&[("process.toml", "[run\n")]), "process.toml"),
        (package(&[("process.toml", "[run]\ncommand=[\"x\"]\n[input]\nschema=\"none.json\"\n")]), "none.json"),
    ];
    // So many labels would not fit where a version is kept.
    let labels: String = (0..60).map(|number| format!("\"{number:02}\" = \"{}\"\n", "😀".repeat(128))).collect();
    let wide = package(&[("process.toml", &format!("[run]\ncommand = [\"x\"]\n[requires.labels]\n{labels}"))]);
    let cases = cases.into_iter().chain([(wide, "requires.labels")]);
    for (bytes, word) in cases {
        let problem = world.upload("p", "", &bytes).await.expect(422).refused("invalid_package");
        assert!(text(&problem, "/detail").contains(word), "{problem}");
    }
    world.upload("p", "", &vec![0; 1024 * 1024 + 1]).await.expect(413).refused("too_large");
    world.upload("nobody", "", b"x").await.expect(404);
    assert_eq!(blobs(&world).await, 0);
    assert_eq!(world.get("/processes/p/versions").await.ok()["items"], json!([]));
}

/// An upload that is repeated gives its first version, also when its label is taken by that very version.
#[tokio::test]
async fn a_repeated_upload_gives_the_first_version() {
    let world = World::new().await;
    world.post("/processes", json!({ "name": "p" })).await.created();
    let bytes = package(&[("main.sh", "true")]);
    let send = async |label: &str, bytes: &[u8]| {
        let call = world.call(Method::POST, &format!("/processes/p/versions?label={label}"));
        call.header("content-type", "application/zip").header("idempotency-key", "k").body(bytes.to_vec()).send().await
    };
    let first = send("1.0", &bytes).await.created();
    let second = send("1.0", &bytes).await.expect(201);
    assert_eq!(second.header("idempotency-replayed"), Some("true"));
    assert_eq!(second.json(), first);
    send("2.0", &bytes).await.expect(422).refused("idempotency_key_reused");
    send("1.0", &package(&[("main.sh", "false")])).await.expect(422).refused("idempotency_key_reused");
    let parts: [(&str, &[u8]); 2] = [("label", b"1.0"), ("package", &bytes)];
    let call = world.call(Method::POST, "/processes/p/versions").header("idempotency-key", "other");
    let problem = call.header("content-type", "multipart/form-data; boundary=XX").body(form(&parts)).send().await;
    assert_eq!(problem.refused("already_exists")["id"], first["id"]);
    world.collect_garbage().await;
    assert_eq!(blobs(&world).await, 1);
}

#[tokio::test]
async fn labels_name_one_version_and_nothing_else() {
    let world = World::new().await;
    world.post("/processes", json!({ "name": "p" })).await.created();
    let bytes = package(&[("main.sh", "true")]);
    let first = world.upload("p", "?label=1.0", &bytes).await.created();
    world.upload("p", "", &bytes).await.created();
    for bad in ["7", "active", "", "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f", &"x".repeat(129)] {
        // An empty parameter is one that was not given.
        if !bad.is_empty() {
            world.upload("p", &format!("?label={bad}"), &bytes).await.invalid(&["label"]);
        }
        world.patch("/processes/p/versions/2", json!({ "label": bad })).await.expect(422);
    }
    world.upload("p", "?label=1.0", &bytes).await.expect(409).refused("already_exists");
    world.patch("/processes/p/versions/2", json!({ "label": "1.0" })).await.expect(409);
    world.patch("/processes/p/versions/1", json!({ "label": "1.0", "notes": "same" })).await.ok();
    for name in ["1.0", "1"] {
        assert_eq!(world.get(&format!("/processes/p/versions/{name}")).await.ok()["id"], first["id"]);
    }
    world.get("/processes/p/versions/active").await.expect(404);
    assert_eq!(world.patch("/processes/p/versions/1", json!({ "label": null })).await.ok()["label"], Value::Null);
    world.patch("/processes/p/versions/2", json!({ "label": "1.0" })).await.ok();
}

/// New jobs run the active version; activating an older one is the roll-back; a pinned group has its own.
#[tokio::test]
async fn activation_roll_back_pins_and_archiving() {
    let world = World::new().await;
    world.process("p").await;
    world.upload("p", "?activate=true", &package(&[("main.sh", "echo two")])).await.created();
    world.post("/robot-groups", json!({ "name": "g" })).await.created();
    let number = async |more: Value| {
        let id = world.start_with("p", more).await;
        world.job(&id).await["version_number"].clone()
    };
    assert_eq!(number(json!({})).await, 2);
    world.act("/processes/p/versions/1/activate").await.ok();
    assert_eq!(number(json!({})).await, 1);
    world.patch("/processes/p", json!({ "group_pins": { "g": "2" } })).await.ok();
    assert_eq!(number(json!({ "target": { "group": "g" } })).await, 2);
    assert_eq!(number(json!({ "target": { "group": "g" }, "version": "1" })).await, 1);
    world.patch("/processes/p/versions/1", json!({ "state": "archived" })).await.expect(409).refused("in_use");
    world.patch("/processes/p/versions/2", json!({ "state": "archived" })).await.expect(409).refused("in_use");
    world.delete("/processes/p/versions/2").await.expect(409).refused("in_use");
    world.patch("/processes/p", json!({ "group_pins": { "g": null } })).await.ok();
    world.patch("/processes/p/versions/2", json!({ "state": "archived" })).await.ok();
    world.act("/processes/p/versions/2/activate").await.expect(409).refused("wrong_state");
    let wanted = json!({ "process": "p", "version": "2", "target": { "group": "all" } });
    world.post("/jobs", wanted.clone()).await.expect(409).refused("wrong_state");
    world.patch("/processes/p", json!({ "group_pins": { "g": "2" } })).await.invalid(&["/group_pins/g"]);
    world.patch("/processes/p/versions/2", json!({ "state": "available" })).await.ok();
    world.post("/jobs", wanted).await.created();
    // A number is as good as its text, and anything else is said to be wrong.
    assert_eq!(number(json!({ "version": 2 })).await, 2);
    let wrong = json!({ "process": "p", "version": true, "target": { "group": "all" } });
    world.post("/jobs", wrong).await.invalid(&["/version"]);
    world.delete("/processes/p/versions/2").await.expect(409).refused("in_use");
    world.delete("/processes/p").await.expect(409).refused("in_use");
}

/// A pin of a group that is gone can be taken away: it would keep its version for ever.
#[tokio::test]
async fn a_pin_of_a_deleted_group_can_be_removed() {
    let world = World::new().await;
    world.process("p").await;
    world.upload("p", "", &package(&[("main.sh", "echo two")])).await.created();
    let group = text(&world.post("/robot-groups", json!({ "name": "g" })).await.created(), "/id");
    world.patch("/processes/p", json!({ "group_pins": { "g": "2" } })).await.ok();
    world.delete("/robot-groups/g").await.done();
    world.patch("/processes/p", json!({ "group_pins": { group.clone(): null } })).await.ok();
    world.delete("/processes/p/versions/2").await.done();
}

/// `defaults` is a merge patch down to the last member.
#[tokio::test]
async fn defaults_are_merged() {
    let world = World::new().await;
    let defaults = json!({ "priority": 3, "retry": { "max_attempts": 3, "on": ["failed"], "delay_seconds": 5 }, "input": { "a": 1 } });
    world.post("/processes", json!({ "name": "p", "defaults": defaults })).await.created();
    let patch = json!({ "defaults": { "priority": null, "retry": { "delay_seconds": 9 }, "input": { "b": 2 } } });
    let patched = world.patch("/processes/p", patch).await.ok();
    let retry = json!({ "max_attempts": 3, "on": ["failed"], "delay_seconds": 9 });
    assert_eq!(patched["defaults"], json!({ "retry": retry, "input": { "a": 1, "b": 2 } }));
    for (patch, pointer) in [
        (json!({ "priority": 4 }), "/defaults/priority"),
        (json!({ "max_parallel": 0 }), "/defaults/max_parallel"),
        (json!({ "retry": { "max_attempts": 0 } }), "/defaults/retry/max_attempts"),
        (json!({ "retry": { "on": ["never"] } }), "/defaults/retry/on/0"),
        (json!({ "timeout_seconds": "soon" }), "/defaults/timeout_seconds"),
        (json!({ "input": { "x": "y".repeat(40_000) } }), "/defaults/input"),
    ] {
        world.patch("/processes/p", json!({ "defaults": patch })).await.invalid(&[pointer]);
    }
}

/// Downloads: whole, ranges, conditions, heads.
#[tokio::test]
async fn packages_are_downloaded_in_any_part() {
    let world = World::new().await;
    world.process("p").await;
    let bytes = package(&[("main.sh", "echo hello")]);
    let path = "/processes/p/versions/active/package";
    let whole = world.get(path).await.expect(200);
    assert_eq!(whole.body, bytes);
    let tag = whole.header("etag").unwrap().to_owned();
    let version = world.get("/processes/p/versions/active").await.ok();
    assert_eq!(tag, format!("\"{}\"", text(&version, "/sha256")));
    assert_eq!(whole.content_type(), "application/zip");
    assert!(whole.header("content-digest").unwrap().starts_with("sha-256=:"));
    let part = async |range: &str, if_range: &str| {
        world.call(Method::GET, path).header("range", range).header("if-range", if_range).send().await
    };
    let some = part("bytes=2-5", &tag).await.expect(206);
    assert_eq!(
        (&some.body[..], some.header("content-range")),
        (&bytes[2..6], Some(&*format!("bytes 2-5/{}", bytes.len())))
    );
    assert_eq!(part("bytes=-3", &tag).await.expect(206).body, bytes[bytes.len() - 3..]);
    assert_eq!(part("bytes=2-5", "\"other\"").await.expect(200).body, bytes);
    let none = part("bytes=99999-", &tag).await.expect(416);
    assert_eq!(none.header("content-range"), Some(&*format!("bytes */{}", bytes.len())));
    let same = world.call(Method::GET, path).header("if-none-match", &tag).send().await.expect(304);
    assert!(same.body.is_empty());
    let head = world.call(Method::HEAD, path).send().await.expect(200);
    assert!(head.body.is_empty() && head.header("content-length") == Some(&*bytes.len().to_string()));
}

/// A robot gets the package of a job that it holds, and no other of its account: not before, not of another robot's job,
/// not after the end.
#[tokio::test]
async fn a_robot_gets_the_packages_of_its_jobs_alone() {
    let world = World::new().await;
    let process = world.process("p").await;
    let (agent, other) = (world.agent("r").await, world.agent("other").await);
    let sha = text(&world.get("/processes/p/versions/active").await.ok(), "/sha256");
    let get = async |agent: &Agent, sha: &str| agent.call(Method::GET, &format!("/packages/{sha}")).send().await;
    get(&agent, &sha).await.expect(404).refused("not_found");
    world.start(&process).await;
    get(&agent, &sha).await.expect(404);
    let (job, _) = agent.take().await;
    assert_eq!(get(&agent, &sha).await.expect(200).body, package(&[("main.sh", "echo hello")]));
    get(&other, &sha).await.expect(404);
    agent.accept(&job, 1).await.ok();
    get(&agent, &sha).await.expect(200);
    for odd in ["0".repeat(64), "x".to_owned(), "..%2F..%2Fkeys".to_owned(), sha.to_uppercase()] {
        get(&agent, &odd).await.expect(404);
    }
    agent.finish(&job, 1, json!({})).await.done();
    get(&agent, &sha).await.expect(404);
}

#[tokio::test]
async fn processes_are_listed_changed_and_deleted() {
    let world = World::new().await;
    world.post("/processes", json!({ "name": "a" })).await.created();
    world.post("/processes", json!({ "name": "b", "description": "d" })).await.created();
    assert_eq!(each(&world.get("/processes").await.ok(), "name"), ["b", "a"]);
    world.patch("/processes/b", json!({ "name": "a" })).await.expect(409).refused("already_exists");
    world.patch("/processes/b", json!({ "name": "c" })).await.ok();
    world.get("/processes/b").await.expect(404);
    assert_eq!(each(&world.get("/processes/c/events").await.ok(), "code"), ["process_changed", "process_created"]);
    let request = json!({ "process": "c", "target": { "group": "all" } });
    world.post("/jobs", request).await.expect(409).refused("wrong_state");
    world.delete("/processes/c").await.done();
    world.delete("/processes/c").await.expect(404);
}
