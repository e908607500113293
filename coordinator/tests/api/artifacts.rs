//! Artifacts of jobs: putting, repeating, replacing, listing, downloading, and paths that must not be.

use axum::body::Body;
use http::Method;
use serde_json::json;

use crate::support::{Agent, World, each, settle, text};

async fn running() -> (World, Agent, String) {
    let world = World::new().await;
    let agent = world.agent("r").await;
    world.process("p").await;
    world.start("p").await;
    let (job, _) = agent.run().await;
    (world, agent, job)
}

async fn files(world: &World) -> usize {
    use futures::StreamExt;
    world.app.blobs.list(drover_coordinator::store::blob::BlobKind::File).count().await
}

/// The same file again is the same file; other content under its path takes its place; nothing unneeded remains.
#[tokio::test]
async fn files_are_put_repeated_and_replaced() {
    let (world, agent, job) = running().await;
    let first = agent.put(&job, "out/report.txt", b"one").await.created();
    assert_eq!((text(&first, "/path"), first["size_bytes"].clone()), ("out/report.txt".into(), json!(3)));
    assert_eq!(text(&first, "/content_type"), "text/plain; charset=utf-8");
    world.move_clock(5);
    assert_eq!(agent.put(&job, "out/report.txt", b"one").await.created(), first);
    let second = agent.put(&job, "out/report.txt", b"two").await.created();
    assert_eq!(
        (second["created_at"].clone(), text(&second, "/modified_at")),
        (first["created_at"].clone(), world.now().to_string())
    );
    world.collect_garbage().await;
    assert_eq!(files(&world).await, 1);
    let path = format!("/storages/jobs%2F{job}/files/out/report.txt");
    let answer = world.get(&path).await.expect(200);
    assert_eq!(answer.body, "two");
    assert_eq!(answer.header("etag"), Some(&*format!("\"{}\"", text(&second, "/sha256"))));
    // What a robot made never runs as a page of this host.
    assert!(answer.header("content-security-policy").unwrap().contains("sandbox"));
    assert!(answer.header("content-disposition").unwrap().starts_with("attachment"));
    let part = world.call(Method::GET, &path).header("range", "bytes=1-").send().await.expect(206);
    assert_eq!(part.body, "wo");
    agent.put(&job, "empty", b"").await.created();
    assert_eq!(world.get(&format!("/storages/jobs%2F{job}/files/empty")).await.expect(200).body, "");
}

#[tokio::test]
async fn files_are_listed_by_path_and_prefix() {
    let (world, agent, job) = running().await;
    let name = "Отчёт & + % ? #.csv";
    let encoded: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
    for path in ["b.txt", "a/2.txt", "a/1.txt", "ab.txt", &encoded] {
        agent.put(&job, path, b"x").await.created();
    }
    let list = async |query: &str| world.get(&format!("/storages/jobs%2F{job}/files{query}")).await.ok();
    assert_eq!(each(&list("").await, "path"), ["a/1.txt", "a/2.txt", "ab.txt", "b.txt", name]);
    assert_eq!(each(&list("?prefix=a/").await, "path"), ["a/1.txt", "a/2.txt"]);
    assert_eq!(each(&list("?prefix=zzz").await, "path").len(), 0);
    let page = list("?prefix=a&limit=2").await;
    let next = list(&format!("?prefix=a&limit=2&cursor={}", text(&page, "/next_cursor"))).await;
    assert_eq!(each(&next, "path"), ["ab.txt"]);
    world.get(&format!("/storages/jobs%2F{job}/files/{encoded}")).await.expect(200);
}

#[tokio::test]
async fn paths_that_lead_elsewhere_are_refused() {
    let (world, agent, job) = running().await;
    for bad in [
        "..%2Fx",
        "a/../x",
        "a//b",
        "a/",
        "%2Fetc%2Fpasswd",
        "a%00b",
        "a%0Ab",
        ".",
        &"x".repeat(256),
        &"a/".repeat(600),
    ] {
        agent.put(&job, bad, b"x").await.invalid(&["path"]);
    }
    agent.put(&job, "%FF", b"x").await.expect(400);
    agent.put(&job, "large", &vec![0; 1024 * 1024 + 1]).await.expect(413).refused("too_large");
    let call = agent.call(Method::PUT, &format!("/jobs/{job}/files/x")).body("x");
    call.header("content-digest", &format!("sha-256=:{}=:", "A".repeat(43))).send().await.invalid(&["Content-Digest"]);
    assert_eq!(files(&world).await, 0);
    for folder in ["none", "jobs", "jobs%2Fx", "jobs%2F0192f6c4-7a10-7cc3-98c4-dc0c0c07398f", "..", ""] {
        world.get(&format!("/storages/{folder}/files")).await.expect(404);
        world.get(&format!("/storages/{folder}/files/x")).await.expect(404);
    }
    world.get(&format!("/storages/jobs%2F{job}/files/none")).await.expect(404);
}

/// What an attempt leaves is complete when it has ended: neither afterwards nor under a later attempt is anything added to it
/// or replaced, also if the file was on its way when the attempt ended.
#[tokio::test]
async fn an_attempt_that_is_over_adds_no_files() {
    let (world, agent, job) = running().await;
    agent.put(&job, "a.txt", b"in time").await.created();
    let (pieces, body) = futures::channel::mpsc::unbounded::<Result<&'static [u8], std::io::Error>>();
    let slow = agent.call(Method::PUT, &format!("/jobs/{job}/files/slow.txt")).streamed(Body::from_stream(body));
    let slow = tokio::spawn(slow.send());
    pieces.unbounded_send(Ok(b"begun in time")).unwrap();
    settle().await;
    agent.fail(&job, 1).await.done();
    drop(pieces);
    slow.await.unwrap().expect(409).refused("stale_attempt");
    for name in ["a.txt", "late.txt", "late.txt?attempt=1"] {
        agent.put(&job, name, b"too late").await.expect(409).refused("stale_attempt");
    }
    world.act(&format!("/jobs/{job}/retry")).await.ok();
    agent.put(&job, "late.txt?attempt=1", b"x").await.expect(409).refused("stale_attempt");
    agent.run().await;
    agent.put(&job, "late.txt?attempt=1", b"x").await.expect(409).refused("stale_attempt");
    agent.put(&job, "now.txt?attempt=2", b"x").await.created();
    agent.put(&job, "never.txt?attempt=3", b"x").await.expect(404);
    world.collect_garbage().await;
    let list = world.get(&format!("/storages/jobs%2F{job}/files")).await.ok();
    assert_eq!(each(&list, "path"), ["a.txt", "now.txt"]);
    assert_eq!(files(&world).await, 2);
    assert_eq!(world.get(&format!("/storages/jobs%2F{job}/files/a.txt")).await.expect(200).body, "in time");
}

/// Whoever asks for an end may still get what the attempt has to deliver, until it has ended; an abort that is not confirmed
/// ends that as well.
#[tokio::test]
async fn files_are_taken_while_an_end_is_under_way_and_not_after_it() {
    let (world, agent, job) = running().await;
    world.post(&format!("/jobs/{job}/stop"), json!({ "mode": "abort" })).await.ok();
    agent.put(&job, "before.txt", b"x").await.created();
    world.pass_time(31).await;
    agent.put(&job, "after.txt", b"x").await.expect(409).refused("stale_attempt");
}
