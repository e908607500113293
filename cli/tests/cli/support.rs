//! A coordinator that answers as a test scripts it, over real TCP, and the `drover` binary run against it.

use std::{
    collections::VecDeque,
    io::Write,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    response::Response,
};
use serde_json::{Value, json};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// Path and query, as sent.
    pub uri: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a text"))
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }
}

/// An answer of the script.
pub struct Answer {
    status: u16,
    content_type: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// After the body the connection breaks, though more was promised.
    breaks: bool,
}

impl Answer {
    pub fn json(status: u16, body: &Value) -> Self {
        Self::bytes(status, "application/json", body.to_string().into_bytes())
    }

    pub fn bytes(status: u16, content_type: &'static str, body: Vec<u8>) -> Self {
        Self { status, content_type, headers: Vec::new(), body, breaks: false }
    }

    pub fn problem(status: u16, code: &str, detail: &str) -> Self {
        let body = json!({
            "type": code, "title": "It was refused", "status": status, "detail": detail, "request_id": "req-1",
        });
        Self::bytes(status, "application/problem+json", body.to_string().into_bytes())
    }

    pub fn events(text: &str) -> Self {
        Self::bytes(200, "text/event-stream", text.as_bytes().to_vec())
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// The connection breaks after the body.
    pub fn breaking(mut self) -> Self {
        self.breaks = true;
        self
    }
}

type Script = Box<dyn FnMut(&Seen) -> Option<Answer> + Send>;

struct Shared {
    script: Mutex<Script>,
    seen: Mutex<Vec<Seen>>,
}

/// The scripted coordinator. It ends with the test's process.
pub struct Server {
    pub url: String,
    shared: Arc<Shared>,
}

impl Server {
    /// Answers each request by the script; what it does not know is a 404.
    pub fn start(script: impl FnMut(&Seen) -> Option<Answer> + Send + 'static) -> Self {
        let shared = Arc::new(Shared { script: Mutex::new(Box::new(script)), seen: Mutex::default() });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        listener.set_nonblocking(true).expect("a listener for tokio");
        let router = Router::new().fallback(answer).with_state(shared.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                axum::serve(listener, router).await
            })
        });
        Self { url, shared }
    }

    /// Answers the requests to each `"METHOD /path"` (without query) one after another; the last answer stays.
    pub fn scripted(routes: Vec<(&'static str, Vec<Answer>)>) -> Self {
        let mut routes: Vec<(&str, VecDeque<Answer>)> =
            routes.into_iter().map(|(route, answers)| (route, answers.into())).collect();
        Self::start(move |seen| {
            let path = seen.uri.split('?').next().unwrap_or_default();
            let wanted = format!("{} {path}", seen.method);
            let (_, answers) = routes.iter_mut().find(|(route, _)| *route == wanted)?;
            if answers.len() > 1 {
                return answers.pop_front();
            }
            let last = answers.front()?;
            Some(Answer { headers: last.headers.clone(), body: last.body.clone(), ..*last })
        })
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("no test panics with it").clone()
    }

    /// The requests to `"METHOD /path"`, whatever the query.
    pub fn seen_at(&self, route: &str) -> Vec<Seen> {
        let path = |seen: &Seen| format!("{} {}", seen.method, seen.uri.split('?').next().unwrap_or_default());
        self.seen().into_iter().filter(|seen| path(seen) == route).collect()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 64 * 1024 * 1024).await.unwrap_or_default();
    let seen = Seen { method: parts.method.to_string(), uri: parts.uri.to_string(), headers: parts.headers, body };
    shared.seen.lock().expect("no test panics with it").push(seen.clone());
    let answer = (shared.script.lock().expect("no test panics with it"))(&seen)
        .unwrap_or_else(|| Answer::problem(404, "not_found", &format!("no script for {}", seen.uri)));
    let mut response = Response::new(if answer.breaks {
        let body = futures::stream::once(async { Ok(Bytes::from(answer.body)) });
        let broken = futures::stream::once(async {
            // What is there goes out while this waits.
            tokio::task::yield_now().await;
            Err(std::io::Error::other("scripted"))
        });
        Body::from_stream(futures::StreamExt::chain(body, broken))
    } else {
        Body::from(answer.body)
    });
    *response.status_mut() = StatusCode::from_u16(answer.status).expect("a status");
    response.headers_mut().insert("content-type", HeaderValue::from_static(answer.content_type));
    for (name, value) in answer.headers {
        response.headers_mut().insert(HeaderName::from_static(name), value.parse().expect("a header"));
    }
    response
}

/// `drover` with an environment of its own: nothing of the host's settings or of a saved login reaches it.
pub fn drover(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drover"));
    command.env_clear().env("HOME", home).env("TZ", "UTC").stdin(Stdio::null());
    command
}

/// Runs `drover` against the scripted coordinator.
pub fn run(server: &Server, arguments: &[&str]) -> Output {
    let home = tempfile::tempdir().expect("a temporary folder");
    let mut command = drover(home.path());
    command.env("DROVER_URL", &server.url).env("DROVER_KEY", "a-key").args(arguments);
    command.output().expect("drover runs")
}

/// Runs a command with this on its standard input.
pub fn run_with_input(server: &Server, arguments: &[&str], input: &str) -> Output {
    let home = tempfile::tempdir().expect("a temporary folder");
    let mut command = drover(home.path());
    command.env("DROVER_URL", &server.url).env("DROVER_KEY", "a-key").args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("drover runs");
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("it is taken");
    child.wait_with_output().expect("it ends")
}

/// Starts `drover` with its outputs piped, to be watched and interrupted.
pub fn spawn(server: &Server, home: &Path, arguments: &[&str]) -> Child {
    let mut command = drover(home);
    command.env("DROVER_URL", &server.url).env("DROVER_KEY", "a-key").args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("drover runs")
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

pub const JOB: &str = "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f";
const OTHER: &str = "0192f6c4-7a10-7cc3-98c4-dc0c0c073990";

/// A job in the given state.
pub fn job(state: &str, attempt: u32, outcome: Option<&str>) -> Value {
    let cause = outcome.map(|_| json!({"by": "process", "code": "completed", "message": "it ended"}));
    json!({
        "id": JOB, "process_id": OTHER, "process_name": "invoices", "process_version_id": OTHER, "version_number": 3,
        "target": {"group": OTHER}, "state": state, "outcome": outcome, "cause": cause, "attempt": attempt, "tries": attempt,
        "robot_id": OTHER, "robot_name": "robot-1", "priority": 2, "input": {}, "error": null,
        "output": outcome.map(|_| json!({"checked": 5})),
        "exit": outcome.map(|_| json!({"code": 0, "meaning": "success"})), "usage": null, "progress": null,
        "source": {"kind": "user", "id": OTHER}, "created_at": "2026-01-01T00:00:00.000Z", "not_before": null,
        "assigned_at": null, "started_at": "2026-01-01T00:00:01.000Z", "finished_at": outcome.map(|_| "2026-01-01T00:00:04.500Z"),
        "stop_after": null, "abort_after": null, "timeout_seconds": null, "stop_grace_seconds": 30,
        "lease_ends_at": null, "labels": {}, "parent_job_id": null, "revision": 1,
    })
}

/// A line of a log as a server-sent event.
pub fn line_event(attempt: u32, seq: u64, message: &str) -> String {
    let line = json!({
        "seq": seq, "attempt": attempt, "time": "2026-01-01T00:00:02.000Z", "level": "info", "message": message,
        "fields": {"n": seq},
    });
    format!("id: {seq}\ndata: {line}\n\n")
}

/// A version of a process, with the digest of its package.
pub fn version(sha256: &str) -> Value {
    json!({
        "id": OTHER, "process_id": OTHER, "number": 3, "label": "1.0", "notes": "", "sha256": sha256,
        "size_bytes": 10, "manifest": {"source": "process_toml", "name": "invoices", "run": {"command": ["true"]}},
        "uploaded_by": "admin", "created_at": "2026-01-01T00:00:00.000Z", "state": "available", "active": true,
        "revision": 1,
    })
}
