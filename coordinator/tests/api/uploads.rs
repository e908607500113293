//! Blobs that come and go while the world changes: callers that go away, a disk that is full, others who delete.

use std::sync::Arc;

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

use crate::support::{Agent, Call, World, package, rules};

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
