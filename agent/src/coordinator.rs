//! The agent's calls, typed: what is asked, what is answered, and what a refusal means. How often something is tried again
//! is decided by the callers, with one exception: [`Coordinator::until_answered`], for what must get through.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use drover_protocol::{
    API_BASE,
    address::percent_encode,
    agent::{
        Accept, Accepted, Finish, Heartbeat, HeartbeatAnswer, Join, Joined, LogAccepted, LogChunk, Next, NextAnswer,
    },
    problem::{Code, Problem},
};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::Notify, time::Instant};

use crate::{
    attempt::AttemptId,
    backoff::{Backoff, Jitter},
    transport::{Body, BodyStream, Request, Response, Transport},
};

/// No answer that is read whole is larger: an assignment carries at most 1 MiB of input per job.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
const SHORT: Duration = Duration::from_secs(30);
/// What could not be read so often in a row was not cut by chance: it is what was sent.
const MOST_UNREAD: u32 = 5;

/// Why a call did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No answer, one that cannot be understood, or "not now". Trying again helps.
    #[error("{why}")]
    Unreachable { why: String, retry_after_ms: Option<u64> },
    /// The coordinator could not read the request, which was cut on its way most likely. Trying again helps then.
    #[error("{}: {}", problem.title, problem.detail)]
    Unread { problem: Box<Problem> },
    /// The key is not accepted.
    #[error("the coordinator does not accept this robot's key: {0}")]
    Unauthenticated(String),
    /// The coordinator understood and refuses.
    #[error("refused ({}): {}", problem.code.as_str(), problem.detail)]
    Refused { problem: Box<Problem> },
}

impl CallError {
    fn unreachable(why: impl Into<String>) -> Self {
        Self::Unreachable { why: why.into(), retry_after_ms: None }
    }

    /// True if the attempt is not this agent's any more.
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Refused { problem } if matches!(problem.code, Code::StaleAttempt | Code::NotFound))
    }

    /// How long the coordinator asked to wait.
    pub fn retry_after_ms(&self) -> Option<u64> {
        if let Self::Unreachable { retry_after_ms, .. } = self { *retry_after_ms } else { None }
    }
}

/// The coordinator, as one robot sees it.
pub struct Coordinator<T> {
    transport: T,
    key: RefCell<Option<Arc<str>>>,
    /// Told when a call succeeds: whoever waits to try again need not wait longer.
    recovered: Notify,
    /// When a call has last succeeded; at first, the start.
    reached_at: Cell<Instant>,
    jitter: RefCell<Jitter>,
}

impl<T: Transport> Coordinator<T> {
    /// `key` is the robot's; join goes without. `seed` is for the jitter of retries.
    pub fn new(transport: T, key: Option<&str>, seed: u64) -> Self {
        let jitter = RefCell::new(Jitter::new(seed));
        let reached_at = Cell::new(Instant::now());
        Self { transport, key: RefCell::new(key.map(Arc::from)), recovered: Notify::new(), reached_at, jitter }
    }

    /// Uses another key from now on.
    pub fn set_key(&self, key: &str) {
        *self.key.borrow_mut() = Some(Arc::from(key));
        self.recovered.notify_waiters();
    }

    /// Exchanges a join token for a robot and its key.
    pub async fn join(&self, join: &Join) -> Result<Joined, CallError> {
        self.post("/agent/join", join, SHORT).await
    }

    /// Says what the agent holds; renews all its leases.
    pub async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<HeartbeatAnswer, CallError> {
        self.post("/agent/heartbeat", heartbeat, Duration::from_secs(15)).await
    }

    /// Waits for assignments and commands; `None` if there are none.
    pub async fn next(&self, next: &Next) -> Result<Option<NextAnswer>, CallError> {
        let timeout = Duration::from_secs(next.wait_seconds) + Duration::from_secs(15);
        let answer = self.send(Method::POST, "/agent/next", json(next)?, HeaderMap::new(), Some(timeout)).await?;
        if answer.status == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        decode(answer).await.map(Some)
    }

    /// Takes an attempt on; `claim` tells this agent from others with the same key.
    pub async fn accept(&self, id: AttemptId, claim: String) -> Result<Accepted, CallError> {
        let accept = Accept { attempt: id.attempt, claim: Some(claim) };
        self.post(&format!("/agent/jobs/{}/accept", id.job_id), &accept, SHORT).await
    }

    pub async fn finish(&self, id: AttemptId, finish: &Finish) -> Result<(), CallError> {
        let path = format!("/agent/jobs/{}/finish", id.job_id);
        self.send(Method::POST, &path, json(finish)?, HeaderMap::new(), Some(SHORT)).await.map(drop)
    }

    /// Sends numbered log lines, compressed.
    pub async fn logs(&self, id: AttemptId, chunk: &LogChunk) -> Result<LogAccepted, CallError> {
        let body = serde_json::to_vec(chunk).map_err(|error| CallError::unreachable(error.to_string()))?;
        let mut headers = json_headers();
        let body = match zstd::bulk::compress(&body, 3) {
            Ok(compressed) if compressed.len() < body.len() => {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
                compressed
            }
            _ => body,
        };
        let path = format!("/agent/jobs/{}/logs", id.job_id);
        decode(self.send(Method::POST, &path, Body::Bytes(body.into()), headers, Some(SHORT)).await?).await
    }

    /// Uploads a file of a job. `path` is that inside of the artifacts' folder, its parts separated by `/`.
    pub async fn put_file(
        &self,
        id: AttemptId,
        path: &str,
        file: tokio::fs::File,
        length: u64,
    ) -> Result<(), CallError> {
        let path = path.split('/').map(percent_encode).collect::<Vec<_>>().join("/");
        let path = format!("/agent/jobs/{}/files/{path}?attempt={}", id.job_id, id.attempt);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        self.send(Method::PUT, &path, Body::File(file, length), headers, None).await.map(drop)
    }

    /// The bytes of a package from `offset` on. The flag tells whether the answer really begins there; else at 0.
    pub async fn package(&self, sha256: &str, offset: u64) -> Result<(BodyStream, bool), CallError> {
        let mut headers = HeaderMap::new();
        // The bytes are named by their digest: nothing may recode them on the way.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if offset > 0 {
            let range = HeaderValue::from_str(&format!("bytes={offset}-"));
            headers.insert(header::RANGE, range.map_err(|error| CallError::unreachable(error.to_string()))?);
        }
        let answer = self.send(Method::GET, &format!("/agent/packages/{sha256}"), Body::Empty, headers, None).await?;
        let expected = format!("bytes {offset}-");
        let range = answer.headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let resumed =
            answer.status == StatusCode::PARTIAL_CONTENT && range.is_some_and(|range| range.starts_with(&expected));
        if answer.status == StatusCode::PARTIAL_CONTENT && !resumed {
            return Err(CallError::unreachable("the answer holds another range than the one asked for"));
        }
        Ok((answer.body, resumed))
    }

    /// Tries until the coordinator has given an answer that trying again would not change, with back-off in between.
    pub async fn until_answered<R>(
        &self,
        what: &str,
        call: impl AsyncFnMut() -> Result<R, CallError>,
    ) -> Result<R, CallError> {
        self.until_answered_within(Duration::MAX, what, call).await
    }

    /// The same, but gives up with the last error when it has failed for so long although the coordinator is there. The time
    /// between two failures counts if another call has succeeded meanwhile.
    pub async fn until_answered_within<R>(
        &self,
        patience: Duration,
        what: &str,
        mut call: impl AsyncFnMut() -> Result<R, CallError>,
    ) -> Result<R, CallError> {
        let (mut backoff, mut unread) = (Backoff::default(), 0);
        let (mut in_vain, mut failed_at) = (Duration::ZERO, Instant::now());
        loop {
            let error = match call().await {
                Err(CallError::Unread { problem }) if unread == MOST_UNREAD => {
                    return Err(CallError::Refused { problem });
                }
                Err(CallError::Refused { problem }) => return Err(CallError::Refused { problem }),
                Err(error) => error,
                Ok(answer) => return Ok(answer),
            };
            unread = if matches!(error, CallError::Unread { .. }) { unread + 1 } else { 0 };
            if self.reached_at.get() > failed_at {
                in_vain += failed_at.elapsed();
            }
            if in_vain >= patience {
                return Err(error);
            }
            failed_at = Instant::now();
            let wait = backoff.next(&mut self.jitter.borrow_mut(), error.retry_after_ms());
            tracing::debug!(what, %error, wait_ms = wait.as_millis(), "it is tried again");
            self.pause(wait, error.retry_after_ms().is_some()).await;
        }
    }

    /// Waits to try again; shorter if another call succeeds meanwhile, unless the coordinator asked for the wait.
    async fn pause(&self, wait: Duration, asked: bool) {
        if asked {
            tokio::time::sleep(wait).await;
        } else {
            // Not at once even then: many callers wait, and a coordinator that has just come back needs air.
            tokio::time::sleep(wait.min(Duration::from_millis(500))).await;
            let rest = wait.saturating_sub(Duration::from_millis(500));
            tokio::select! {
                biased;
                () = tokio::time::sleep(rest) => {}
                () = self.recovered.notified() => {}
            }
        }
    }

    async fn post<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        body: &Q,
        timeout: Duration,
    ) -> Result<A, CallError> {
        decode(self.send(Method::POST, path, json(body)?, json_headers(), Some(timeout)).await?).await
    }

    /// Sends a request; anything but success becomes an error.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Body,
        mut headers: HeaderMap,
        timeout: Option<Duration>,
    ) -> Result<Response, CallError> {
        if matches!(body, Body::Bytes(_)) && !headers.contains_key(header::CONTENT_TYPE) {
            headers.extend(json_headers());
        }
        let request = Request {
            method,
            path: format!("{API_BASE}{path}"),
            key: self.key.borrow().clone(),
            headers,
            body,
            timeout,
        };
        let answer = self.transport.call(request).await.map_err(|error| CallError::unreachable(error.0))?;
        if answer.status.is_success() {
            self.reached_at.set(Instant::now());
            self.recovered.notify_waiters();
            return Ok(answer);
        }
        Err(refusal(answer).await)
    }
}

fn json<T: Serialize>(value: &T) -> Result<Body, CallError> {
    let text = serde_json::to_vec(value).map_err(|error| CallError::unreachable(error.to_string()))?;
    Ok(Body::Bytes(text.into()))
}

fn json_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers
}

async fn read_whole(mut body: BodyStream) -> Result<Bytes, CallError> {
    let mut whole = BytesMut::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| CallError::unreachable(error.0))?;
        if whole.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(CallError::unreachable("the answer is larger than any the coordinator gives"));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

/// A body that cannot be decoded is a failure of the way: a proxy's page, a cut answer, another server.
async fn decode<A: DeserializeOwned>(answer: Response) -> Result<A, CallError> {
    let body = read_whole(answer.body).await?;
    serde_json::from_slice(&body)
        .map_err(|error| CallError::unreachable(format!("the answer is not understood: {error}")))
}

async fn refusal(answer: Response) -> CallError {
    let (status, retry_after_ms) = (answer.status, retry_after_ms(&answer.headers));
    let body = tokio::time::timeout(SHORT, read_whole(answer.body)).await;
    let problem = body.ok().and_then(Result::ok).and_then(|body| serde_json::from_slice::<Problem>(&body).ok());
    let Some(problem) = problem else {
        if status == StatusCode::PAYLOAD_TOO_LARGE {
            // A proxy has a limit of its own, and the same request would never get past it.
            return CallError::Refused { problem: Box::new(too_large_on_the_way()) };
        }
        let why = format!("status {} without a description that the coordinator would give", status.as_u16());
        return CallError::Unreachable { why, retry_after_ms };
    };
    match problem.code {
        Code::Unauthenticated => CallError::Unauthenticated(problem.detail),
        // What the agent sends is well-formed: a request that could not be read was cut on its way.
        Code::BadRequest => CallError::Unread { problem: Box::new(problem) },
        // Server-side trouble passes, and so does a key's lack of permission or a full disk when somebody mends it.
        Code::TooManyRequests | Code::Internal | Code::Unavailable | Code::OutOfSpace | Code::Forbidden => {
            CallError::Unreachable { why: format!("{}: {}", problem.title, problem.detail), retry_after_ms }
        }
        _ => CallError::Refused { problem: Box::new(problem) },
    }
}

fn too_large_on_the_way() -> Problem {
    Problem {
        code: Code::TooLarge,
        title: Code::TooLarge.title().to_owned(),
        status: Code::TooLarge.status(),
        detail: "something between the agent and the coordinator, such as a proxy, takes no request of this size"
            .to_owned(),
        request_id: String::new(),
        errors: Vec::new(),
        id: None,
        next_seq: None,
    }
}

/// Seconds only: the coordinator never sends a date.
fn retry_after_ms(headers: &HeaderMap) -> Option<u64> {
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(seconds.saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use serde_json::json;

    use super::*;
    use crate::transport::TransportError;

    /// Heartbeats get through unless the coordinator is away until that time; nothing else ever does.
    struct OnlyHeartbeats {
        away_until: Instant,
        status: StatusCode,
        body: &'static str,
    }

    impl Transport for OnlyHeartbeats {
        async fn call(&self, request: Request) -> Result<Response, TransportError> {
            if self.away_until > Instant::now() {
                return Err(TransportError("away".to_owned()));
            }
            let (status, body) = match request.path.ends_with("/heartbeat") {
                true => {
                    let robot = json!({"state": "idle", "paused": null});
                    let answer = json!({"server_time": "2026-11-23T08:00:00.000Z", "lease_seconds": 60, "next_in_seconds": 20,
                        "jobs": [], "robot": robot, "config": {"capacity": 1}});
                    (StatusCode::OK, answer.to_string())
                }
                false => (self.status, self.body.to_owned()),
            };
            let body = stream::iter([Ok(Bytes::from(body))]).boxed_local();
            Ok(Response { status, headers: HeaderMap::new(), body })
        }
    }

    fn id() -> AttemptId {
        "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f-1".parse().expect("an id")
    }

    /// Tries a call of which nothing ever gets through, with heartbeats beside it; tells the error and after how long.
    async fn in_vain(transport: OnlyHeartbeats, patience: Duration) -> (CallError, Duration) {
        let coordinator = Coordinator::new(transport, Some("key"), 1);
        let began = Instant::now();
        let beating = async {
            loop {
                let heartbeat =
                    Heartbeat { host: None, health: drover_protocol::robot::Health::default(), jobs: Vec::new() };
                let _ = coordinator.heartbeat(&heartbeat).await;
                tokio::time::sleep(Duration::from_secs(20)).await;
            }
        };
        let trying = coordinator
            .until_answered_within(patience, "a call", async || coordinator.accept(id(), String::new()).await);
        tokio::select! {
            () = beating => unreachable!("it beats for ever"),
            tried = trying => (tried.expect_err("nothing gets through"), began.elapsed()),
        }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    /// What never gets through is given up, but only the time counts in which the coordinator is there.
    #[tokio::test(start_paused = true)]
    async fn what_fails_beside_heartbeats_is_given_up() {
        for away in [Duration::ZERO, 600 * MINUTE] {
            let transport =
                OnlyHeartbeats { away_until: Instant::now() + away, status: StatusCode::BAD_GATEWAY, body: "<html>" };
            let (error, after) = in_vain(transport, 30 * MINUTE).await;
            assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
            assert!(after > away + 28 * MINUTE && after < away + 45 * MINUTE, "{away:?}: {after:?}");
        }
    }

    /// What could not be read was cut once or twice; after that it is refused.
    #[tokio::test(start_paused = true)]
    async fn what_is_never_read_is_refused() {
        let body = r#"{"type": "bad_request", "title": "", "status": 400, "detail": "", "request_id": ""}"#;
        let transport = OnlyHeartbeats { away_until: Instant::now(), status: StatusCode::BAD_REQUEST, body };
        let (error, after) = in_vain(transport, Duration::MAX).await;
        assert!(matches!(&error, CallError::Refused { problem } if problem.code == Code::BadRequest), "{error}");
        assert!(after > Duration::from_secs(2) && after < 5 * MINUTE, "{after:?}");
    }

    /// A proxy's limit is one: its page says no more than its status, and that is enough.
    #[tokio::test(start_paused = true)]
    async fn a_proxys_limit_is_a_refusal() {
        let transport = OnlyHeartbeats {
            away_until: Instant::now(),
            status: StatusCode::PAYLOAD_TOO_LARGE,
            body: "<html>too large",
        };
        let (error, _) = in_vain(transport, Duration::MAX).await;
        assert!(matches!(&error, CallError::Refused { problem } if problem.code == Code::TooLarge), "{error}");
    }
}
