//! Jobs as people start, find, watch and delete them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{World, each, settle, text};

/// By id or name, for one or many, with the process's defaults filled in.
#[tokio::test]
async fn jobs_are_started_with_defaults() {
    let world = World::new().await;
    let retry = json!({ "max_attempts": 2, "on": ["failed"], "delay_seconds": 0 });
    let defaults = json!({ "priority": 3, "timeout_seconds": 60, "stop_grace_seconds": 5, "input": { "a": 1, "b": 1 },
        "retry": retry, "log_level": "warning" });
    let process = world.process_with("p", defaults, &[("main.sh", "true")]).await;
    let agent = world.agent("r").await;
    let request = json!({ "process": "p", "target": { "robot": "r" }, "input": { "b": 2 }, "labels": { "run": "x" } });
    let answer = world.post("/jobs", request).await;
    let location = answer.header("location").unwrap().to_owned();
    let job = answer.created();
    assert_eq!(location, format!("/api/v1/jobs/{}", text(&job, "/id")));
    assert_eq!(job["input"], json!({ "a": 1, "b": 2 }));
    assert_eq!(
        (job["priority"].clone(), job["timeout_seconds"].clone(), job["stop_grace_seconds"].clone()),
        (json!(3), json!(60), json!(5))
    );
    assert_eq!((text(&job, "/process_id"), text(&job, "/target/robot")), (process.clone(), agent.id.clone()));
    assert_eq!(text(&job, "/source/kind"), "api");
    assert_eq!(world.job(&text(&job, "/id")).await, job);
    let many = json!({ "process": process, "target": { "group": "all" }, "count": 3, "priority": 1 });
    let many = world.post("/jobs", many).await.created();
    assert_eq!(each(&many, "priority"), [1, 1, 1]);
    let (_, assignment) = agent.take().await;
    assert_eq!(
        (assignment["log_level"].clone(), assignment["job"]["input"].clone()),
        (json!("warning"), json!({ "a": 1, "b": 2 }))
    );
    assert_eq!(assignment["version"]["manifest"]["source"], "inferred");
}

#[tokio::test]
async fn requests_that_cannot_be_met_are_refused_by_field() {
    let world = World::new().await;
    world.process("p").await;
    world.agent("r").await;
    let start = async |more: Value| {
        let mut request = json!({ "process": "p", "target": { "group": "all" } });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        world.post("/jobs", request).await
    };
    for (more, pointer) in [
        (json!({ "process": "none" }), "/process"),
        (json!({ "version": "9" }), "/version"),
        (json!({ "target": { "robot": "none" } }), "/target/robot"),
        (json!({ "target": { "group": "none" } }), "/target/group"),
        (json!({ "target": { "robot": "r", "group": "all" } }), "/target"),
        (json!({ "target": {} }), "/target"),
        (json!({ "count": 101 }), "/count"),
        (json!({ "timeout_seconds": 31_536_001 }), "/timeout_seconds"),
        (json!({ "input": [1] }), "/input"),
        (json!({ "input": "text" }), "/input"),
        (json!({ "not_before": "tomorrow" }), "/not_before"),
        (json!({ "abort_after": world.now().to_string() }), "/abort_after"),
        (json!({ "labels": { "": "x" } }), "/labels/"),
    ] {
        start(more).await.invalid(&[pointer]);
    }
    let problem = start(json!({ "input": { "x": "y".repeat(1024 * 1024) } })).await.expect(413).refused("too_large");
    assert!(text(&problem, "/detail").contains("file"), "{problem}");
    let much = json!({ "input": { "x": "y".repeat(500_000) }, "count": 100 });
    start(much).await.expect(413).refused("too_large");
    let largest = json!({ "input": { "x": "y".repeat(1024 * 1024 - 8) } });
    let job = start(largest).await.created();
    assert_eq!(job["input"]["x"].as_str().unwrap().len(), 1024 * 1024 - 8);
    assert_eq!(each(&world.get("/jobs").await.ok(), "id").len(), 1);
}

/// The input is held against the version's schema, the defaults included; what is wrong is named, never repeated.
#[tokio::test]
async fn inputs_are_held_against_their_schema() {
    let world = World::new().await;
    let manifest = "[run]\ncommand = [\"true\"]\n[input]\nschema = \"in.json\"\n";
    let schema = r#"{"type": "object", "required": ["month"], "properties": {"month": {"type": "integer", "maximum": 12},
        "lines": {"type": "array", "items": {"type": "object", "properties": {"sum": {"type": "number"}}}}}}"#;
    world
        .process_with("p", json!({ "input": { "month": 5 } }), &[("process.toml", manifest), ("in.json", schema)])
        .await;
    let start = async |input: Value| {
        world.post("/jobs", json!({ "process": "p", "target": { "group": "all" }, "input": input })).await
    };
    start(json!({})).await.created();
    let problem = start(json!({ "month": "hunter2" })).await.invalid(&["/input/month"]);
    assert!(!problem.to_string().contains("hunter2"), "{problem}");
    start(json!({ "month": 13, "lines": [{ "sum": 1 }, { "sum": "x" }] })).await.expect(422);
    world.patch("/processes/p", json!({ "defaults": { "input": null } })).await.ok();
    start(json!({})).await.invalid(&["/input/month"]);
}

/// Each filter finds what it says, alone and together; pages do not shift while jobs are added.
#[tokio::test]
async fn jobs_are_found_by_filters() {
    let world = World::new().await;
    let agent = world.agent_with("r", json!({ "capacity": 9 })).await;
    world.process("p").await;
    world.process("q").await;
    world.post("/robot-groups", json!({ "name": "g" })).await.created();
    let done = world.start_with("p", json!({ "labels": { "run": "1" } })).await;
    agent.run().await;
    agent.finish(&done, 1, json!({})).await.done();
    let failed = world.start_with("p", json!({ "labels": { "run": "2" } })).await;
    agent.run().await;
    agent.fail(&failed, 1).await.done();
    let running = world.start("q").await;
    agent.run().await;
    let between = world.now().plus_seconds(5).to_string();
    world.move_clock(10);
    let waiting = world.start_with("q", json!({ "target": { "group": "g" }, "labels": { "run": "1" } })).await;
    let ids = async |filter: &str| -> Vec<String> {
        let found = world.get(&format!("/jobs?{filter}")).await.ok();
        found["items"].as_array().unwrap().iter().map(|job| text(job, "/id")).collect()
    };
    let all = [&waiting, &running, &failed, &done].map(Clone::clone);
    assert_eq!(ids("").await, all);
    for (filter, expected) in [
        ("state=finished", vec![&failed, &done]),
        ("state=running", vec![&running]),
        ("state=waiting", vec![&waiting]),
        ("outcome=failed", vec![&failed]),
        ("outcome=failed&state=running", vec![]),
        ("process=p", vec![&failed, &done]),
        ("process=q&state=running", vec![&running]),
        ("robot=r", vec![&running, &failed, &done]),
        ("robot=r&process=q", vec![&running]),
        ("group=g", vec![&waiting]),
        ("source=api&label=run:1", vec![&waiting, &done]),
        ("source=trigger", vec![]),
        ("label=run:1&process=p", vec![&done]),
        (&format!("created_from={between}"), vec![&waiting]),
        (&format!("created_to={between}"), vec![&running, &failed, &done]),
        ("trigger=none", vec![]),
    ] {
        assert_eq!(ids(filter).await.iter().collect::<Vec<_>>(), expected, "{filter}");
    }
    assert_eq!(world.get("/jobs").await.ok()["items"][3].get("input"), None, "lists hold no documents");
    world.get("/jobs?process=none").await.invalid(&["process"]);
    world.get("/jobs?label=run").await.invalid(&["label"]);
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = world.get(&format!("/jobs?limit=1&process=p{cursor}")).await.ok();
        found.extend(each(&page, "id"));
        world.start("p").await;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(found, [failed, done]);
}

/// Why a job waits is said for each reason there is.
#[tokio::test]
async fn every_reason_to_wait_is_explained() {
    let world = World::new().await;
    world.process("p").await;
    let job = world.start("p").await;
    let explain = async |job: &str| world.get(&format!("/jobs/{job}/explain")).await.ok();
    assert_eq!(explain(&job).await["reasons"][0]["code"], "no_robots");
    world.post("/robots", json!({ "name": "r0" })).await.created();
    let code = async |job: &str| text(&explain(job).await, "/candidates/0/reasons/0/code");
    assert_eq!(code(&job).await, "not_joined");
    world.delete("/robots/r0").await.done();
    let agent = world.agent("r").await;
    let suits = explain(&job).await;
    assert_eq!(
        (suits["candidates"][0]["suits"].clone(), text(&suits, "/candidates/0/robot")),
        (json!(true), "r".into())
    );
    let second = world.start("p").await;
    assert_eq!(code(&second).await, "behind_others");
    agent.run().await;
    assert_eq!(code(&second).await, "busy");
    assert_eq!(text(&explain(&job).await, "/state"), "running");
    agent.finish(&job, 1, json!({})).await.done();
    world.act("/robots/r/disable").await.ok();
    assert_eq!(code(&second).await, "disabled");
    world.act("/robots/r/enable").await.ok();
    world.patch("/robots/r", json!({ "kind": "attended" })).await.ok();
    assert_eq!(code(&second).await, "attended");
    assert_eq!(agent.next(1, &[]).await.status, 204);
    world.patch("/robots/r", json!({ "kind": "unattended" })).await.ok();
    world.post("/robot-groups/all/pause", json!({ "mode": "drain", "reason": "fire drill" })).await.ok();
    let paused = explain(&second).await;
    assert_eq!(text(&paused, "/candidates/0/reasons/0/code"), "group_paused");
    assert!(text(&paused, "/summary").contains("fire drill"), "{paused}");
    world.act("/robot-groups/all/resume").await.ok();
    world.move_clock(60);
    let offline = explain(&second).await;
    assert_eq!(text(&offline, "/candidates/0/reasons/0/code"), "offline");
    assert!(text(&offline, "/summary").contains("offline since"), "{offline}");
}

/// A long poll answers when the job has got there, or when it never will, or when the time is over.
#[tokio::test(start_paused = true)]
async fn a_job_is_waited_for() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    world.process("p").await;
    let job = world.start("p").await;
    let wait = |query: &str| tokio::spawn(world.call(http::Method::GET, &format!("/jobs/{job}?{query}")).send());
    let finished = wait("wait_seconds=60&until=finished");
    let running = wait("wait_seconds=60&until=running");
    let change = wait("wait_seconds=60");
    settle().await;
    agent.take().await;
    assert_eq!(change.await.unwrap().ok()["state"], "assigned");
    assert!(!running.is_finished());
    agent.accept(&job, 1).await.ok();
    assert_eq!(running.await.unwrap().ok()["state"], "running");
    assert!(!finished.is_finished());
    let short = tokio::time::Instant::now();
    assert_eq!(wait("wait_seconds=7&until=silent").await.unwrap().ok()["state"], "running");
    assert_eq!(short.elapsed(), Duration::from_secs(7));
    agent.finish(&job, 1, json!({ "output": 5 })).await.done();
    assert_eq!(finished.await.unwrap().ok()["output"], 5);
    let now = tokio::time::Instant::now();
    wait("wait_seconds=60&until=running").await.unwrap().ok();
    assert_eq!(now.elapsed(), Duration::ZERO);
    wait("wait_seconds=61").await.unwrap().invalid(&["wait_seconds"]);
    wait("until=done").await.unwrap().invalid(&["until"]);
}

/// Deleting takes everything of the job away: record, attempts, events, lines sealed and not, files, documents, blobs.
#[tokio::test]
async fn a_deleted_job_leaves_nothing() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    world.process_with("p", json!({}), &[("main.sh", "true")]).await;
    // The audit trail says that it was deleted, and that a job has ended stays counted.
    let stays = |key: &[u8]| matches!(key[..2], [b'a', b'u' | b'a' | b'n' | b'o' | b'h'] | [b'n', b'g'] | [b'u', b't']);
    let pairs = || world.pairs().iter().filter(|(key, _)| !stays(key)).count();
    let before = pairs();
    let job = world.start_with("p", json!({ "input": { "x": "y".repeat(200_000) } })).await;
    agent.run().await;
    world.delete(&format!("/jobs/{job}")).await.expect(409).refused("wrong_state");
    agent.log(&job, 1, 1, &["one", "two"]).await.ok();
    agent.put(&job, "a/b.txt", b"content").await.created();
    agent.fail(&job, 1).await.done();
    world.seal_logs().await;
    world.act(&format!("/jobs/{job}/retry")).await.ok();
    agent.run().await;
    agent.log(&job, 2, 1, &["three"]).await.ok();
    world.post(&format!("/jobs/{job}/close"), json!({ "outcome": "lost", "reason": "x" })).await.ok();
    agent.finish(&job, 2, json!({ "output": { "late": "z".repeat(200_000) } })).await.expect(409);
    world.delete(&format!("/jobs/{job}")).await.done();
    // For a while it is known in which order lines have arrived.
    world.move_clock(1_000);
    world.retain(0, 0).await;
    let id: uuid::Uuid = job.parse().unwrap();
    assert_eq!(world.mentions(id.as_bytes()), 0);
    world.collect_garbage().await;
    assert_eq!(pairs(), before);
    assert_eq!(blob_count(&world).await, 1, "only the package is left");
    world.get(&format!("/jobs/{job}")).await.expect(404);
    world.delete(&format!("/jobs/{job}")).await.expect(404);
}

async fn blob_count(world: &World) -> usize {
    use drover_coordinator::store::blob::BlobKind;
    use futures::StreamExt;
    let mut count = 0;
    for kind in [BlobKind::Package, BlobKind::File, BlobKind::Log] {
        count += world.app.blobs.list(kind).count().await;
    }
    count
}

/// Retention removes finished jobs by age, and nothing that still lives.
#[tokio::test]
async fn old_jobs_are_removed() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    world.process("p").await;
    let old = world.start("p").await;
    agent.run().await;
    agent.finish(&old, 1, json!({})).await.done();
    let waiting = world.start("p").await;
    world.move_clock(29 * 86_400);
    let young = world.start("p").await;
    world.post(&format!("/jobs/{young}/stop"), json!({ "mode": "stop" })).await.ok();
    world.move_clock(86_401);
    world.retain(0, 0).await;
    assert_eq!(each(&world.get("/jobs").await.ok(), "id").len(), 3);
    world.retain(30, 0).await;
    assert_eq!(each(&world.get("/jobs").await.ok(), "id"), [young, waiting]);
}

/// Events tell the whole story, newest first, in pages.
#[tokio::test]
async fn events_tell_the_story() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    world.process("p").await;
    let job = world.start("p").await;
    agent.run().await;
    agent.finish(&job, 1, json!({})).await.done();
    let page = world.get(&format!("/jobs/{job}/events?limit=2")).await.ok();
    assert_eq!(each(&page, "code"), ["finished", "accepted"]);
    let next = text(&page, "/next_cursor");
    let page = world.get(&format!("/jobs/{job}/events?limit=2&cursor={next}")).await.ok();
    assert_eq!(
        (each(&page, "code"), page["next_cursor"].clone()),
        (vec![json!("assigned"), json!("created")], Value::Null)
    );
    assert!(text(&page, "/items/1/by").starts_with("user:"));
}
