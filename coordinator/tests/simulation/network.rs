//! The network between an agent and the coordinator: it delays, drops requests, drops answers and repeats.

use std::{rc::Rc, time::Duration};

use axum::body::Body as HttpBody;
use bytes::Bytes;
use drover_agent::transport::{Body, Request, Response, Transport, TransportError};
use futures::StreamExt;
use http::{StatusCode, header};
use http_body_util::BodyExt;
use tower::ServiceExt;

use crate::world::World;

#[derive(Clone)]
pub struct Network(pub Rc<World>);

/// An answer as a whole.
pub struct Answer {
    pub status: StatusCode,
    headers: http::HeaderMap,
    pub body: Bytes,
}

fn lost(what: &str) -> TransportError {
    TransportError(what.to_owned())
}

/// Brings a request to the coordinator, if it lives, and its answer back, if it lives until then.
pub async fn deliver(world: &World, request: http::Request<HttpBody>) -> Option<Answer> {
    let coordinator = world.coordinator()?;
    let mut life = world.life();
    life.mark_unchanged();
    tokio::select! {
       biased;
        _ = life.changed() => None,
        response = coordinator.router.oneshot(request) => {
            let (parts, body) = response.expect("a router always answers").into_parts();
            let body = body.collect().await.ok()?.to_bytes();
            Some(Answer { status: parts.status, headers: parts.headers, body })
        }
    }
}

impl Network {
    async fn pause(&self) {
        let slow = self.0.fault(50);
        let millis = 1 + self.0.below(if slow { 5_000 } else { 50 });
        tokio::time::sleep(Duration::from_millis(millis)).await;
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
    builder.body(HttpBody::from(body.clone())).expect("an agent's request is one")
}

impl Transport for Network {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        let world = &self.0;
        let body = match &request.body {
            Body::Empty => Bytes::new(),
            Body::Bytes(bytes) => bytes.clone(),
            Body::File(..) => return Err(lost("a simulated host has no files")),
        };
        self.pause().await;
        if world.fault(50) {
            return Err(lost("the request was dropped"));
        }
        if world.fault(30) {
            // An earlier copy of the request arrives as well, before this one or after it.
            let copy = http_request(&request, &body);
            let world = Rc::clone(world);
            let later = Duration::from_millis(world.below(3_000));
            tokio::task::spawn_local(async move {
                tokio::time::sleep(later).await;
                deliver(&world, copy).await;
            });
        }
        let answered = deliver(world, http_request(&request, &body));
        let answer = match request.timeout {
            Some(timeout) => tokio::time::timeout(timeout, answered).await.ok().flatten(),
            None => answered.await,
        };
        let answer = answer.ok_or_else(|| lost("the connection was closed"))?;
        world.note(format!("{} {} -> {}", request.method, request.path, answer.status.as_u16()));
        self.pause().await;
        if world.fault(50) {
            return Err(lost("the answer was dropped"));
        }
        let body = futures::stream::iter([Ok(answer.body)]).boxed_local();
        Ok(Response { status: answer.status, headers: answer.headers, body })
    }
}
