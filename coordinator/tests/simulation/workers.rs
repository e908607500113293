//! Those who work the queue off: processes of jobs, with the key of their job, and outsiders with a key of their own. They
//! take, note how far they are, and end tasks in every way, and repeat a call until it is answered.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use drover_agent::{
    attempt::AttemptId,
    transport::{Body, Request, Transport},
};
use drover_protocol::{TaskId, task::Task};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    network::Network,
    world::{ADMIN_KEY, World},
};

/// The queue that is worked off, and the one that receives what has succeeded there.
pub const QUEUE: &str = "work";
pub const DONE: &str = "done";
/// Attempts of a task that count.
pub const MAX_ATTEMPTS: u32 = 3;
pub const LEASE_SECONDS: u64 = 30;

/// One who works: as long as the process of a job lives, or for as long as an outsider likes.
struct Worker {
    world: Rc<World>,
    network: Network,
    key: String,
    of: Option<AttemptId>,
}

/// Works as the process of a job, until that ends or is killed.
pub async fn work(world: Rc<World>, robot: usize, of: AttemptId, key: String) {
    let network = Network { world: Rc::clone(&world), robot: Some(robot) };
    let worker = Worker { world, network, key, of: Some(of) };
    while worker.is_alive() {
        worker.work_once().await;
    }
}

/// An outsider takes a task and ends it.
pub async fn work_outside(world: &Rc<World>) {
    let network = Network { world: Rc::clone(world), robot: None };
    let worker = Worker { world: Rc::clone(world), network, key: ADMIN_KEY.to_owned(), of: None };
    worker.work_once().await;
}

impl Worker {
    fn is_alive(&self) -> bool {
        let process = self.of.map(|id| self.world.processes.get(id));
        process.is_none_or(|process| process.is_some_and(|process| process.is_alive()))
    }

    async fn call(&self, path: &str, body: &Value) -> Option<(StatusCode, Value)> {
        let request = Request {
            method: Method::POST,
            path: format!("/api/v1{path}"),
            key: Some(self.key.as_str().into()),
            headers: HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]),
            body: Body::Bytes(body.to_string().into()),
            timeout: None,
        };
        let answer = self.network.call(request).await.ok()?;
        let pieces: Vec<Bytes> = answer.body.map(|piece| piece.expect("a simulated body is whole")).collect().await;
        Some((answer.status, serde_json::from_slice(&pieces.concat()).expect("an answer is JSON")))
    }

    /// Repeats a call until it is answered for good, or nobody is there any more who would.
    async fn insist(&self, path: &str, body: &Value) -> Option<(StatusCode, Value)> {
        for _ in 0..20 {
            let passing = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::INSUFFICIENT_STORAGE];
            if let Some(answer) = self.call(path, body).await.filter(|(status, _)| !passing.contains(status)) {
                return Some(answer);
            }
            if !self.is_alive() {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(self.world.below(5_000))).await;
        }
        None
    }

    async fn take(&self) -> Option<Value> {
        let wait = self.world.below(15);
        let taken = self.call(&format!("/queues/{QUEUE}/take"), &json!({"wait_seconds": wait})).await;
        let (_, taken) = taken.filter(|(status, _)| *status == StatusCode::OK)?;
        taken["items"].get(0).cloned()
    }

    async fn work_once(&self) {
        let mut task = self.take().await;
        if task.is_none() {
            return tokio::time::sleep(Duration::from_secs(1)).await;
        }
        while let Some(held) = task.take().filter(|_| self.is_alive()) {
            let held: Task = serde_json::from_value(held).expect("a task");
            task = self.work_on(&held).await;
        }
    }

    /// Works on a task and ends it in some way; gives the next one, if that was asked for.
    async fn work_on(&self, task: &Task) -> Option<Value> {
        let (world, attempt) = (&self.world, task.attempt);
        let path = |verb: &str| format!("/tasks/{}/{verb}", task.id);
        let seconds = world.below(if world.below(8) == 0 { 60 } else { 8 });
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        if world.below(4) == 0 {
            self.call(&path("checkpoint"), &json!({"attempt": attempt, "checkpoint": {"by": attempt}})).await;
        }
        if self.of.is_none() && world.below(2) == 0 {
            self.call(&path("renew"), &json!({"attempt": attempt})).await;
            tokio::time::sleep(Duration::from_secs(world.below(LEASE_SECONDS))).await;
        }
        // The lease of one who is too slow ends; what it takes then may be the same task, before it says that it is done.
        let is_late = self.of.is_none() && world.below(3) == 0;
        let mut taken = None;
        if is_late {
            tokio::time::sleep(Duration::from_secs(LEASE_SECONDS + world.below(10))).await;
            taken = self.take().await;
        }
        if !self.is_alive() || world.fault(100) {
            // It is left as it is: its lease or the end of its job must see to it.
            return None;
        }
        let take_next = self.of.is_some() && world.below(2) == 0;
        let (verb, mut body) = match world.below(10) {
            0 => ("fail", json!({"kind": "business", "message": "no such customer"})),
            1 | 2 => ("fail", json!({"kind": "application", "message": "it broke"})),
            3 => ("postpone", json!({"until": crate::people::later(world, 20), "attempt_counts": true})),
            _ => ("succeed", json!({"output": {"by": attempt}})),
        };
        body["attempt"] = json!(attempt);
        body["take_next"] = json!(take_next);
        let (status, answer) = self.insist(&path(verb), &body).await?;
        match status {
            StatusCode::OK => {
                self.check_end(task.id, attempt, verb);
                answer.get("next").filter(|next| !next.is_null()).cloned().or(taken)
            }
            // The attempt is over, or the job and its key.
            StatusCode::CONFLICT | StatusCode::UNAUTHORIZED => taken,
            _ => panic!("{verb} was answered with {status}: {answer}"),
        }
    }

    /// What was acknowledged is what has become of this attempt, and of no other.
    fn check_end(&self, task: TaskId, attempt: u32, verb: &str) {
        let said = self.world.disk.witness.lock().tasks.end_of(task, attempt);
        let expected = match verb {
            "succeed" => "succeeded",
            "fail" => "failed",
            _ => "postponed",
        };
        if said.as_deref() != Some(expected) {
            self.world.fail(format!("{verb} of {task}-{attempt} was acknowledged, and it is {said:?}"));
        }
    }
}
