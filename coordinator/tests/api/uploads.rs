//! Blobs that come and go while the world changes: callers that go away, a disk that is full, others who delete.

use std::{io, sync::Arc};

use axum::body::Body;
use bytes::Bytes;
use drover_coordinator::store::{
    Db,
    blob::BlobKind,
    engine::{Engine, EngineError, View, WriteSet},
    memory::Memory,
};
use futures::StreamExt;
use http::Method;
use parking_lot::{Condvar, Mutex};
use serde_json::json;

use crate::support::{Agent, Call, World, package, rules, settle, text};

struct Gate {
    /// So many commits are let through; the others wait.
    allowed: usize,
    waiting: usize,
    /// Commits are refused for lack of space instead.
    full: bool,
}

/// The memory engine behind a gate.
struct Gated {
    memory: Arc<Memory>,
    gate: Mutex<Gate>,
    changed: Condvar,
}

impl Gated {
    fn set(&self, change: impl FnOnce(&mut Gate)) {
        change(&mut self.gate.lock());
        self.changed.notify_all();
    }

    /// Lets so many commits through and waits until the next one waits.
    fn let_through(&self, commits: usize) {
        self.set(|gate| gate.allowed = commits);
        let mut gate = self.gate.lock();
        while gate.allowed > 0 || gate.waiting == 0 {
            self.changed.wait(&mut gate);
        }
    }
}

impl Engine for Gated {
    fn view(&self) -> Box<dyn View + '_> {
        self.memory.view()
    }

    fn exclusive(&self, body: &mut dyn FnMut(&dyn View) -> WriteSet) -> Result<(), EngineError> {
        let mut gate = self.gate.lock();
        gate.waiting += 1;
        self.changed.notify_all();
        while gate.allowed == 0 {
            self.changed.wait(&mut gate);
        }
        gate.waiting -= 1;
        gate.allowed -= 1;
        if gate.full {
            return Err(EngineError::OutOfSpace);
        }
        drop(gate);
        self.memory.exclusive(body)
    }
}

async fn gated() -> (World, Arc<Gated>) {
    let mut engine = None;
    let world = World::with_db(rules(), |memory, clock, randomness| {
        let gate = Gate { allowed: usize::MAX, waiting: 0, full: false };
        let gated = Arc::new(Gated { memory, gate: Mutex::new(gate), changed: Condvar::new() });
        engine = Some(Arc::clone(&gated));
        Db::new(gated, clock, randomness, Box::new(|_| ()))
    });
    (world.await, engine.unwrap())
}

fn upload(world: &World, bytes: &[u8]) -> Call {
    let call = world.call(Method::POST, "/processes/p/versions");
    call.header("content-type", "application/zip").body(bytes.to_vec())
}

async fn running(world: &World) -> (Agent, String) {
    let agent = world.agent("r").await;
    world.process("p").await;
    world.start("p").await;
    let (job, _) = agent.run().await;
    (agent, job)
}

async fn blobs(world: &World) -> usize {
    let mut count = 0;
    for kind in [BlobKind::Package, BlobKind::File, BlobKind::Log] {
        count += world.app.blobs.list(kind).count().await;
    }
    count
}

/// The same bytes are uploaded again while the package of their last version waits to be deleted, and the caller goes
/// away at the first commit of the upload, or at the second: what it began is brought to its end, and the package is
/// there as its version is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_package_is_not_deleted_although_its_uploader_went_away() {
    for commits in 0..2 {
        let (world, gate) = gated().await;
        world.post("/processes", json!({ "name": "p" })).await.created();
        let bytes = package(&[("main.sh", "true")]);
        upload(&world, &bytes).send().await.created();
        world.delete("/processes/p/versions/1").await.done();

        gate.set(|gate| gate.allowed = 0);
        let caller = tokio::spawn(upload(&world, &bytes).send());
        gate.let_through(commits);
        caller.abort();
        assert!(caller.await.is_err_and(|gone| gone.is_cancelled()), "it was answered before its commit");
        // What arrives is passed over, without waiting for it.
        world.collect_garbage().await;
        gate.set(|gate| gate.allowed = usize::MAX);
        while world.get("/processes/p/versions/2").await.status == 404 {
            tokio::task::yield_now().await;
        }
        world.collect_garbage().await;
        assert_eq!(world.get("/processes/p/versions/2/package").await.expect(200).body, bytes);
        assert_eq!(blobs(&world).await, 1);
    }
}

/// The disk is full when the record of what was uploaded is to be written: once there is space, nothing is left of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_an_upload_without_space_for_its_record() {
    for commits in 0..2 {
        let (world, gate) = gated().await;
        let (agent, job) = running(&world).await;
        let before = blobs(&world).await;
        let calls = [upload(&world, &package(&[("main.sh", "false")])), agent.put_call(&job, "report.txt", b"content")];
        for call in calls {
            gate.set(|gate| gate.allowed = 0);
            let caller = tokio::spawn(call.send());
            gate.let_through(commits);
            gate.set(|gate| (gate.allowed, gate.full) = (usize::MAX, true));
            caller.await.unwrap().expect(507).refused("out_of_space");
            gate.set(|gate| gate.full = false);
        }
        world.collect_garbage().await;
        assert_eq!(blobs(&world).await, before);
    }
}

/// A robot goes away while its artifact is being kept: the artifact is there, or nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_artifact_whose_sender_went_away_is_there_with_its_record() {
    for commits in 0..2 {
        let (world, gate) = gated().await;
        let (agent, job) = running(&world).await;
        let before = blobs(&world).await;
        gate.set(|gate| gate.allowed = 0);
        let caller = tokio::spawn(agent.put_call(&job, "report.txt", b"content").send());
        gate.let_through(commits);
        caller.abort();
        assert!(caller.await.is_err_and(|gone| gone.is_cancelled()), "it was answered before its commit");
        // What arrives is passed over, without waiting for it.
        world.collect_garbage().await;
        gate.set(|gate| gate.allowed = usize::MAX);
        let read = async || world.get(&format!("/storages/jobs%2F{job}/files/report.txt")).await;
        let mut answer = read().await;
        while answer.status == 404 {
            tokio::task::yield_now().await;
            answer = read().await;
        }
        assert_eq!(answer.expect(200).body, "content");
        world.collect_garbage().await;
        assert_eq!(blobs(&world).await, before + 1);
    }
}

/// A world in which everything can be uploaded: a folder `f` with the file `a`, a queue, a process `p` with a running job,
/// and a resource.
struct Targets {
    world: World,
    agent: Agent,
    job: String,
    task: String,
}

async fn targets() -> Targets {
    let world = World::new().await;
    let (agent, job) = running(&world).await;
    world.post("/storages", json!({ "name": "f" })).await.created();
    world.put_file("f", "a", "the whole content").await.created();
    world.queue("q", json!({})).await;
    let task = world.add("q", json!({})).await;
    world.post("/resources", json!({ "name": "days", "kind": "text", "value": "old" })).await.created();
    Targets { world, agent, job, task }
}

impl Targets {
    /// The link by which `a` is written, made with this key.
    async fn link(&self, key: &str) -> String {
        let new = json!({ "path": "a", "verb": "put", "expires_in_seconds": 60 });
        let made = self.world.call(Method::POST, "/storages/f/links").key(key).json(&new).send().await.created();
        text(&made, "/url").split("/api/v1").nth(1).unwrap().to_owned()
    }

    /// What is there of all that the tests try to write.
    async fn state(&self) -> Vec<String> {
        let Self { world, job, task, .. } = self;
        let mut state = Vec::new();
        for path in [
            "/storages/f/files/a".to_owned(),
            format!("/tasks/{task}/files/a"),
            format!("/storages/jobs%2F{job}/files/a"),
            "/processes/p/versions".to_owned(),
            "/resources/days/value".to_owned(),
            "/resources/days".to_owned(),
        ] {
            let answer = world.get(&path).await;
            state.push(if answer.status == 404 { "nothing".to_owned() } else { answer.text() });
        }
        state
    }
}

/// Nothing is written in parts: what was sent as one would take the place of the whole (RFC 9110, 14.5).
#[tokio::test]
async fn a_part_never_takes_the_place_of_the_whole() {
    let targets = targets().await;
    let Targets { world, agent, job, task } = &targets;
    let put = |path: &str| world.call(Method::PUT, path).body("abc");
    let link = targets.link(&world.admin).await;
    let before = targets.state().await;
    for call in [
        put("/storages/f/files/a"),
        put("/storages/f/files/b"),
        put(&format!("/tasks/{task}/files/a")),
        Call::new(world.router.clone(), Method::PUT, &link).body("abc"),
        agent.put_call(job, "a", b"abc"),
        upload(world, &package(&[("main.sh", "false")])),
    ] {
        let refusal = call.header("content-range", "bytes 0-2/100").send().await.expect(400).refused("bad_request");
        assert!(text(&refusal, "/detail").contains("Content-Range"), "{refusal}");
    }
    assert_eq!(targets.state().await, before);
}

/// A call whose body is half sent.
struct Half {
    rest: Bytes,
    pieces: futures::channel::mpsc::UnboundedSender<Result<Bytes, io::Error>>,
    call: tokio::task::JoinHandle<crate::support::Answer>,
}

impl Half {
    async fn of(call: Call, content: impl Into<Bytes>) -> Self {
        let mut first = content.into();
        let rest = first.split_off(first.len() / 2);
        let (pieces, body) = futures::channel::mpsc::unbounded();
        let call = tokio::spawn(call.streamed(Body::from_stream(body)).send());
        pieces.unbounded_send(Ok(first)).unwrap();
        settle().await;
        Self { rest, pieces, call }
    }

    async fn end(self) -> crate::support::Answer {
        self.pieces.unbounded_send(Ok(self.rest)).unwrap();
        drop(self.pieces);
        self.call.await.unwrap()
    }
}

/// Whoever was let in when an upload began is asked for anew when it has come: a key that was revoked meanwhile writes
/// nothing, whatever the upload is of.
#[tokio::test]
async fn what_comes_after_its_key_has_ended_is_not_kept() {
    let targets = targets().await;
    let Targets { world, agent, task, job } = &targets;
    let made = world.post("/keys", json!({ "name": "k" })).await.created();
    let key = text(&made, "/key");
    let link = targets.link(&key).await;
    let before = targets.state().await;
    let put = |path: &str| world.call(Method::PUT, path).key(&key);
    let value = br#"{"value":"new"}"#.as_slice();
    let json = |path: &str| put(path).header("content-type", "application/json");
    let zip = package(&[("main.sh", "false")]);
    let mut begun = Vec::new();
    for (call, content, status) in [
        (put("/storages/f/files/a"), b"abc".as_slice().into(), 401),
        (put(&format!("/tasks/{task}/files/a")), b"abc".as_slice().into(), 401),
        (Call::new(world.router.clone(), Method::PUT, &link), b"abc".as_slice().into(), 403),
        (upload(world, b"").key(&key), Bytes::from(zip.clone()), 401),
        (upload(world, b"").key(&key).header("idempotency-key", "once"), zip.into(), 401),
        (json("/resources/days/value"), value.into(), 401),
        (json(&format!("/resources/days/overrides/robot/{}", agent.id)), value.into(), 401),
    ] {
        begun.push((Half::of(call, content).await, status));
    }
    let artifact = Half::of(agent.put_call(job, "a", b""), b"abc".as_slice()).await;
    world.delete(&format!("/keys/{}", text(&made, "/id"))).await.done();
    // The robot joins again, and its old key ends with the first use of the new one.
    let again = world.agent("r").await;
    assert_eq!(again.id, agent.id);
    again.beat(&[(job, 1)]).await;
    begun.push((artifact, 401));
    for (half, status) in begun {
        half.end().await.expect(status);
    }
    assert_eq!(targets.state().await, before);
    world.collect_garbage().await;
    assert_eq!(blobs(world).await, 2, "the package and the file that were there");
}
