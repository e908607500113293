//! The network between everybody and the coordinator: it delays, drops requests, drops answers, repeats, reorders, and
//! keeps connections half open whose other end has gone.

use std::{rc::Rc, time::Duration};

use axum::body::Body as HttpBody;
use bytes::Bytes;
use drover_agent::{
    attempt::AttemptId,
    transport::{Body, Request, Response, Transport, TransportError},
};
use drover_protocol::agent::HeartbeatAnswer;
use futures::StreamExt;
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::{sync::oneshot, task::JoinHandle};
use tower::ServiceExt;

use crate::world::World;

/// The connection of a robot, or of people.
#[derive(Clone)]
pub struct Network {
    pub world: Rc<World>,
    pub robot: Option<usize>,
}

/// An answer as a whole.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Ends what travels when nobody waits for it any more; with faults the other end may learn that late.
struct Connection {
    world: Rc<World>,
    journey: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.journey.is_finished() || !self.world.fault(400) {
            return self.journey.abort();
        }
        let (journey, open) = (self.journey.abort_handle(), Duration::from_millis(self.world.below(40_000)));
        self.world.spawn(async move {
            tokio::time::sleep(open).await;
            journey.abort();
        });
    }
}

fn lost(what: &str) -> TransportError {
    TransportError(what.to_owned())
}

/// Brings a request to the coordinator, if it lives, and its answer back, if it lives until then.
pub async fn deliver(world: &World, request: http::Request<HttpBody>) -> Option<Answer> {
    let coordinator = world.coordinator()?;
    let mut life = world.life();
    life.mark_unchanged();
    let path = request.uri().path().to_owned();
    tokio::select! {
       biased;
        _ = life.changed() => None,
        response = coordinator.router.oneshot(request) => {
            let (parts, body) = response.expect("a router always answers").into_parts();
            let body = body.collect().await.ok()?.to_bytes();
            if parts.status == StatusCode::INTERNAL_SERVER_ERROR {
                world.fail(format!("{path} was answered with {}", String::from_utf8_lossy(&body)));
            }
            Some(Answer { status: parts.status, headers: parts.headers, body })
        }
    }
}

fn http_request(request: &Request, body: &Bytes) -> http::Request<HttpBody> {
    let mut builder = http::Request::builder().method(request.method.clone()).uri(&request.path);
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    if let Some(key) = &request.key {
        builder = builder.header(header::AUTHORIZATION, format!("Bearer {key}"));
    }
    builder.body(HttpBody::from(body.clone())).expect("it has a path and sound headers")
}

impl Network {
    async fn pause(&self) {
        let world = &self.world;
        let most = match (world.fault(50), world.fault(3)) {
            (_, true) => 60_000,
            (true, false) => 5_000,
            (false, false) => 50,
        };
        tokio::time::sleep(Duration::from_millis(1 + world.below(most))).await;
    }

    async fn travel(self, request: Request, body: Bytes, back: oneshot::Sender<Result<Answer, TransportError>>) {
        let answer = self.go_and_return(&request, &body).await;
        // Whoever asked may have gone.
        let _ = back.send(answer);
    }

    async fn go_and_return(&self, request: &Request, body: &Bytes) -> Result<Answer, TransportError> {
        let world = &self.world;
        self.pause().await;
        if world.is_cut(self.robot) || world.fault(50) {
            // Either the sender is told at once, or it waits in vain.
            let silence = if world.below(2) == 0 { 0 } else { 30_000 };
            tokio::time::sleep(Duration::from_millis(silence)).await;
            return Err(lost("the request was dropped"));
        }
        if world.fault(40) {
            self.repeat(request, body);
        }
        let answer = self.arrive(request.path.clone(), http_request(request, body), body, "").await;
        let answer = answer.ok_or_else(|| lost("the connection was closed"))?;
        self.pause().await;
        if world.is_cut(self.robot) || world.fault(50) {
            return Err(lost("the answer was dropped"));
        }
        Ok(answer)
    }

    /// A copy of the request arrives as well, before this one or long after it.
    fn repeat(&self, request: &Request, body: &Bytes) {
        let (network, path) = (self.clone(), request.path.clone());
        let (copy, body) = (http_request(request, body), body.clone());
        let later = self.world.below(if self.world.below(3) == 0 { 120_000 } else { 3_000 });
        self.world.spawn(async move {
            tokio::time::sleep(Duration::from_millis(later)).await;
            network.arrive(path, copy, &body, "a copy of ").await;
        });
    }

    async fn arrive(&self, path: String, request: http::Request<HttpBody>, body: &Bytes, how: &str) -> Option<Answer> {
        let commits = self.world.disk.witness.lock().commits;
        let method = request.method().clone();
        let answer = deliver(&self.world, request).await?;
        let who = self.robot.map_or("people".to_owned(), |robot| format!("robot-{robot}"));
        self.world.note(format!("{who}: {how}{method} {path} -> {}", answer.status.as_u16()));
        if let Some(robot) = self.robot {
            self.check_renewals(robot, &path, &answer, commits);
            self.check_refusal(&path, body, &answer);
        }
        Some(answer)
    }

    /// No lease is renewed of an attempt that had ended before the heartbeat came, or is another robot's.
    fn check_renewals(&self, robot: usize, path: &str, answer: &Answer, commits: u64) {
        if !path.ends_with("/heartbeat") || !answer.status.is_success() {
            return;
        }
        let beat: HeartbeatAnswer = serde_json::from_slice(&answer.body).expect("an answer to a heartbeat");
        for job in beat.jobs.iter().filter(|job| job.renewed) {
            let id = AttemptId { job_id: job.job_id, attempt: job.attempt };
            let held = self.world.disk.witness.lock().was_held_since(commits, id, &format!("robot-{robot}"));
            if !held {
                self.world.fail(format!("the lease of {id} was renewed for robot-{robot}, which did not hold it"));
            }
        }
    }

    /// What a robot says of an attempt that it holds is not refused, however often it says it.
    fn check_refusal(&self, path: &str, body: &Bytes, answer: &Answer) {
        let job = path.strip_suffix("/accept").or_else(|| path.strip_suffix("/finish"));
        let job = job.and_then(|path| path.rsplit('/').next()).and_then(|id| id.parse().ok());
        let (Some(job_id), StatusCode::CONFLICT | StatusCode::NOT_FOUND) = (job, answer.status) else { return };
        let body: Value = serde_json::from_slice(body).expect("JSON");
        let attempt = body["attempt"].as_u64().and_then(|number| u32::try_from(number).ok()).expect("a number");
        let id = AttemptId { job_id, attempt };
        if self.world.disk.witness.lock().is_held(id) {
            self.world.fail(format!("{path} was answered with {} while {id} is held", answer.status));
        }
    }
}

impl Transport for Network {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        let body = match &request.body {
            Body::Empty => Bytes::new(),
            Body::Bytes(bytes) => bytes.clone(),
            Body::File(..) => return Err(lost("a simulated host has no files")),
        };
        let timeout = request.timeout.unwrap_or(Duration::from_secs(90));
        let (back, answer) = oneshot::channel();
        let journey = self.world.spawn(self.clone().travel(request, body, back));
        let _open = Connection { world: Rc::clone(&self.world), journey };
        let answer = tokio::time::timeout(timeout, answer).await.map_err(|_| lost("no answer came in time"))?;
        let answer = answer.map_err(|_| lost("the connection was closed"))??;
        let body = futures::stream::iter([Ok(answer.body)]).boxed_local();
        Ok(Response { status: answer.status, headers: answer.headers, body })
    }
}
