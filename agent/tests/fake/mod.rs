//! A scripted coordinator over real TCP, and the real agent beside it. It keeps what it is told exactly as it came, and follows
//! the contract strictly, so that the tests can say what the agent really sent.

#![allow(dead_code, reason = "each test file uses its part of this")]

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ffi::CString,
    io::{Cursor, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path as UrlPath, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use drover_protocol::{
    Timestamp,
    agent::{Finish, Heartbeat, LogChunk},
    log::NewLogLine,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Nothing takes nearly as long unless the host is very busy; then it is not the agent's fault.
const PATIENCE: Duration = Duration::from_secs(120);

pub const ROBOT_KEY: &str = "cm9ib3Qta2V5LXRleHQ=";
pub const JOB_KEY: &str = "am9iLWtleS0wMTIzNDU2Nzg5";

/// What the coordinator knows and how it is to behave.
#[derive(Default)]
pub struct Fake {
    pub packages: HashMap<String, Vec<u8>>,
    /// Not yet accepted; given to whoever asks and does not know them.
    pub offers: Vec<Value>,
    pub commands: Vec<Value>,
    pub accepted: Vec<(String, u64)>,
    /// Which agent each accepted job is bound to.
    pub claims: HashMap<String, String>,
    pub lines: BTreeMap<(String, u64), Vec<NewLogLine>>,
    /// Lines are counted in `counted`, as (lines, bytes), instead of kept in `lines`.
    pub count_only: bool,
    pub counted: BTreeMap<(String, u64), (u64, u64)>,
    pub chunks: usize,
    /// Every end report as it came.
    pub finishes: Vec<(String, Value)>,
    pub files: BTreeMap<String, Vec<u8>>,
    pub heartbeats: Vec<Heartbeat>,
    pub known: Vec<Value>,
    /// Nobody answers usefully.
    pub away: bool,
    /// Calls that came meanwhile.
    pub in_vain: usize,
    /// So many finish calls are carried out, but their answers get lost.
    pub lose_finish_answers: usize,
    /// So many package downloads break off in the middle.
    pub break_downloads: usize,
    pub ranges: Vec<String>,
    pub stale: HashSet<String>,
    pub refuse_files: bool,
    /// A proxy in between refuses longer bodies, in its own words.
    pub most_body_bytes: Option<usize>,
    /// Calls, by the last word of their address or `files`, of which the next one is cut on its way.
    pub cut: HashSet<&'static str>,
    /// Uploads of files begin and never get an answer; how many have.
    pub hold_files: bool,
    pub held_files: usize,
    /// How far this coordinator's clock is ahead of the host's.
    pub ahead_ms: i64,
    pub unauthenticated: bool,
    pub joins: Vec<Value>,
    pub violations: Vec<String>,
}

type Shared = Arc<Mutex<Fake>>;

pub struct FakeCoordinator {
    pub url: String,
    state: Shared,
    runtime: Option<tokio::runtime::Runtime>,
}

impl FakeCoordinator {
    pub fn start() -> Self {
        let state = Shared::default();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let app = Router::new()
            .route("/healthz", get(|| async { "ok" }))
            .route("/api/v1/agent/join", post(join))
            .route("/api/v1/agent/heartbeat", post(heartbeat))
            .route("/api/v1/agent/next", post(next))
            .route("/api/v1/agent/jobs/{job}/accept", post(accept))
            .route("/api/v1/agent/jobs/{job}/logs", post(logs))
            .route("/api/v1/agent/jobs/{job}/finish", post(finish))
            .route("/api/v1/agent/jobs/{job}/files/{*path}", put(file))
            .route("/api/v1/agent/packages/{sha256}", get(package))
            .layer(middleware::from_fn_with_state(Arc::clone(&state), guard))
            .with_state(Arc::clone(&state));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { url, state, runtime: Some(runtime) }
    }

    pub fn lock(&self) -> MutexGuard<'_, Fake> {
        self.state.lock().expect("no test panics while it holds this")
    }

    /// Waits until the coordinator's knowledge is as wanted; fails the test after two minutes.
    pub fn wait<R>(&self, what: &str, mut look: impl FnMut(&mut Fake) -> Option<R>) -> R {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut fake = self.lock();
            if let Some(found) = look(&mut fake) {
                return found;
            }
            if Instant::now() >= until {
                let told =
                    format!("chunks {}, finishes {:?}, lines {:?}", fake.chunks, fake.finishes, fake.lines.values());
                // Not while the lock is held: the agent beside is still to be ended in order.
                drop(fake);
                panic!("waited in vain for {what}; {}", told.chars().take(4000).collect::<String>());
            }
            drop(fake);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Offers a job that runs this shell script; returns its id.
    pub fn offer_script(&self, script: &str) -> String {
        self.offer(&[("main.sh", script.as_bytes())], |_| {})
    }

    /// Offers a job with this package, whose assignment may be changed.
    pub fn offer(&self, files: &[(&str, &[u8])], change: impl FnOnce(&mut Value)) -> String {
        self.offer_zip(zip_of(files), change)
    }

    pub fn offer_zip(&self, zip: Vec<u8>, change: impl FnOnce(&mut Value)) -> String {
        let mut fake = self.lock();
        // Other tests run beside this one, in this process or another: their jobs must have other ids.
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let job = format!("0192f6c4-7a10-7cc3-98c4-{:08x}{count:04x}", std::process::id());
        let sha256: String = Sha256::digest(&zip).iter().map(|byte| format!("{byte:02x}")).collect();
        let mut assignment = assignment(&job, &sha256, zip.len());
        change(&mut assignment);
        fake.packages.insert(sha256, zip);
        fake.offers.push(assignment);
        job
    }

    pub fn command(&self, job: &str, command: &str) {
        self.lock().commands.push(json!({"job_id": job, "attempt": 1, "command": command}));
    }

    pub fn wait_for_end(&self, job: &str) -> Finish {
        self.wait("the end of the job", |fake| {
            let found = fake.finishes.iter().find(|(id, _)| id == job)?;
            serde_json::from_value(found.1.clone()).ok()
        })
    }

    pub fn messages(&self, job: &str) -> Vec<String> {
        let fake = self.lock();
        fake.lines.get(&(job.to_owned(), 1)).into_iter().flatten().map(|line| line.message.clone()).collect()
    }

    pub fn wait_for_line(&self, job: &str, text: &str) {
        self.wait(text, |fake| {
            let lines = fake.lines.get(&(job.to_owned(), 1))?;
            lines.iter().any(|line| line.message.contains(text)).then_some(())
        });
    }
}

impl Drop for FakeCoordinator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        if !std::thread::panicking() {
            assert_eq!(self.lock().violations, Vec::<String>::new(), "the agent broke the contract");
        }
    }
}

pub fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        zip.start_file(*name, zip::write::SimpleFileOptions::default().unix_permissions(0o755)).expect("an entry");
        zip.write_all(content).expect("content");
    }
    zip.finish().expect("a zip").into_inner()
}

fn assignment(job: &str, sha256: &str, size: usize) -> Value {
    let now = "2026-11-23T08:00:00.000Z";
    let some_id = "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f";
    json!({
        "job": {
            "id": job, "process_id": some_id, "process_name": "invoices", "process_version_id": some_id, "version_number": 7,
            "target": {"group": "all"}, "state": "assigned", "outcome": null, "cause": null, "attempt": 1, "tries": 0,
            "robot_id": some_id, "robot_name": "robot-1", "priority": 2, "input": {"limit": 3}, "error": null, "exit": null,
            "usage": null, "progress": null, "source": {"kind": "user", "id": "u"}, "created_at": now, "not_before": null,
            "assigned_at": now, "started_at": null, "finished_at": null, "stop_after": null, "abort_after": null,
            "timeout_seconds": null, "stop_grace_seconds": 5, "lease_ends_at": null, "labels": {}, "parent_job_id": null,
            "revision": 1
        },
        "attempt": 1,
        "lease_ends_at": now,
        "version": {
            "id": some_id, "number": 7, "sha256": sha256, "size_bytes": size,
            "manifest": {"source": "inferred", "name": "invoices", "run": {"command": ["bash", "main.sh"]}}
        },
        "key": JOB_KEY,
        "secrets_to_mask": ["s3cret-value"],
        "log_level": "info"
    })
}

fn problem(status: u16, code: &str, detail: &str, next_seq: Option<u64>) -> Response {
    let mut body = json!({"type": code, "title": code, "status": status, "detail": detail, "request_id": "test"});
    if let Some(next_seq) = next_seq {
        body["next_seq"] = json!(next_seq);
    }
    let status = StatusCode::from_u16(status).expect("a status");
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

fn lock(state: &Shared) -> MutexGuard<'_, Fake> {
    state.lock().expect("no test panics while it holds this")
}

async fn guard(State(state): State<Shared>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let (user_agent, authorization) = {
        let text =
            |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        (text("user-agent"), text("authorization"))
    };
    let length =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let most = lock(&state).most_body_bytes;
    if most.zip(length).is_some_and(|(most, length)| length > most) {
        // Taken all the same, so that the answer is not lost with the connection.
        let _ = axum::body::to_bytes(request.into_body(), usize::MAX).await;
        return (StatusCode::PAYLOAD_TOO_LARGE, "<html>Request Entity Too Large</html>").into_response();
    }
    {
        let mut fake = lock(&state);
        if fake.away {
            fake.in_vain += 1;
            // Like a proxy whose server is gone: not the coordinator's own words.
            return (StatusCode::BAD_GATEWAY, "<html>Bad Gateway</html>").into_response();
        }
        if path.split('/').nth(6).is_some_and(|call| fake.cut.remove(call)) {
            return problem(400, "bad_request", "The body could not be read: it ended early.", None);
        }
        if !user_agent.starts_with("drover-agent/") {
            fake.violations.push(format!("{path}: no user agent"));
        }
        if path.starts_with("/api/v1/agent/") && path != "/api/v1/agent/join" {
            if fake.unauthenticated {
                return problem(401, "unauthenticated", "the key is unknown", None);
            }
            if authorization != format!("Bearer {ROBOT_KEY}") {
                fake.violations.push(format!("{path}: not the robot's key"));
            }
        }
    }
    next.run(request).await
}

async fn join(State(state): State<Shared>, body: String) -> Response {
    let request: Value = serde_json::from_str(&body).expect("JSON");
    let mut fake = lock(&state);
    if request["token"] != "good-token" {
        return problem(401, "unauthenticated", "the join token has expired", None);
    }
    fake.joins.push(request);
    let some_id = "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f";
    let robot = json!({
        "id": some_id, "name": "robot-1", "description": "", "enabled": true, "kind": "unattended", "groups": [], "labels": {},
        "capacity": 1, "host": null, "state": "idle", "paused": null, "running": [], "last_seen_at": null, "joined_at": null,
        "created_at": "2026-11-23T08:00:00.000Z", "revision": 1
    });
    (StatusCode::CREATED, json!({"robot": robot, "key": ROBOT_KEY}).to_string()).into_response()
}

async fn heartbeat(State(state): State<Shared>, body: String) -> Response {
    let heartbeat: Heartbeat = serde_json::from_str(&body).expect("a heartbeat");
    let mut fake = lock(&state);
    let jobs: Vec<Value> = heartbeat
        .jobs
        .iter()
        .map(|job| {
            let stale = fake.stale.contains(&job.job_id.to_string());
            let command = if stale { json!("drop") } else { Value::Null };
            json!({"job_id": job.job_id, "attempt": job.attempt, "renewed": !stale, "command": command})
        })
        .collect();
    fake.heartbeats.push(heartbeat);
    let now = drover_agent::clock::wall_clock().millis() + fake.ahead_ms;
    json!({
        "server_time": Timestamp::from_millis(now), "lease_seconds": 60, "next_in_seconds": 1, "jobs": jobs,
        "robot": {"state": "idle", "paused": null}, "config": {"capacity": 4}
    })
    .to_string()
    .into_response()
}

async fn next(State(state): State<Shared>, body: String) -> Response {
    let request: Value = serde_json::from_str(&body).expect("JSON");
    let wait = Duration::from_secs(request["wait_seconds"].as_u64().expect("a number").min(2));
    let until = tokio::time::Instant::now() + wait;
    lock(&state).known.push(request.clone());
    loop {
        {
            let mut fake = lock(&state);
            let free = request["free"].as_u64().expect("a number");
            let known: Vec<&str> =
                request["known"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let unknown = |offer: &&Value| !known.contains(&offer["job"]["id"].as_str().unwrap_or_default());
            let limit = usize::try_from(free).unwrap_or(0);
            let assignments: Vec<Value> = fake.offers.iter().filter(unknown).take(limit).cloned().collect();
            let commands = std::mem::take(&mut fake.commands);
            if !assignments.is_empty() || !commands.is_empty() {
                return json!({"assignments": assignments, "commands": commands}).to_string().into_response();
            }
        }
        if tokio::time::Instant::now() >= until {
            return StatusCode::NO_CONTENT.into_response();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn accept(State(state): State<Shared>, UrlPath(job): UrlPath<String>, body: String) -> Response {
    let request: Value = serde_json::from_str(&body).expect("JSON");
    let attempt = request["attempt"].as_u64().expect("a number");
    let mut fake = lock(&state);
    if fake.stale.contains(&job) {
        return problem(409, "stale_attempt", "it is not yours any more", None);
    }
    let claim = request["claim"].as_str().expect("a claim").to_owned();
    if *fake.claims.entry(job.clone()).or_insert_with(|| claim.clone()) != claim {
        fake.violations.push(format!("{job} was claimed anew"));
    }
    fake.offers.retain(|offer| offer["job"]["id"] != job.as_str());
    if !fake.accepted.contains(&(job.clone(), attempt)) {
        fake.accepted.push((job, attempt));
    }
    json!({"lease_ends_at": "2026-11-23T08:00:00.000Z"}).to_string().into_response()
}

async fn logs(State(state): State<Shared>, UrlPath(job): UrlPath<String>, headers: HeaderMap, body: Bytes) -> Response {
    let body = match headers.get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok()) {
        Some("zstd") => zstd::decode_all(body.as_ref()).expect("zstd"),
        None => body.to_vec(),
        Some(other) => panic!("unexpected encoding {other}"),
    };
    let chunk: LogChunk = serde_json::from_slice(&body).expect("a chunk");
    let mut fake = lock(&state);
    if fake.stale.contains(&job) {
        return problem(409, "stale_attempt", "it is not yours any more", None);
    }
    if chunk.lines.len() > 10_000 || chunk.lines.is_empty() || body.len() > 1024 * 1024 {
        fake.violations.push(format!("a chunk of {} lines and {} bytes", chunk.lines.len(), body.len()));
    }
    if fake.finishes.iter().any(|(id, _)| *id == job) {
        fake.violations.push("lines after the end report".to_owned());
    }
    fake.chunks += 1;
    if fake.count_only {
        return count(fake.counted.entry((job, u64::from(chunk.attempt))).or_default(), &chunk);
    }
    let lines = fake.lines.entry((job, u64::from(chunk.attempt))).or_default();
    let expected = lines.len() as u64 + 1;
    if chunk.first_seq > expected {
        return problem(409, "log_gap", "lines are missing", Some(expected));
    }
    let known = usize::try_from(expected - chunk.first_seq).expect("small");
    lines.extend(chunk.lines.into_iter().skip(known));
    json!({"next_seq": lines.len() as u64 + 1}).to_string().into_response()
}

fn count((lines, bytes): &mut (u64, u64), chunk: &LogChunk) -> Response {
    let expected = *lines + 1;
    if chunk.first_seq > expected {
        return problem(409, "log_gap", "lines are missing", Some(expected));
    }
    for line in chunk.lines.iter().skip(usize::try_from(expected - chunk.first_seq).expect("small")) {
        (*lines, *bytes) = (*lines + 1, *bytes + line.message.len() as u64);
    }
    json!({"next_seq": *lines + 1}).to_string().into_response()
}

async fn finish(State(state): State<Shared>, UrlPath(job): UrlPath<String>, body: String) -> Response {
    let mut fake = lock(&state);
    if fake.stale.contains(&job) {
        return problem(409, "stale_attempt", "it is not yours any more", None);
    }
    let parsed: Finish = serde_json::from_str(&body).expect("a report");
    drop(parsed);
    fake.finishes.push((job, serde_json::from_str(&body).expect("JSON")));
    if fake.lose_finish_answers > 0 {
        fake.lose_finish_answers -= 1;
        return (StatusCode::BAD_GATEWAY, "lost").into_response();
    }
    "{}".into_response()
}

async fn file(
    State(state): State<Shared>,
    UrlPath((job, path)): UrlPath<(String, String)>,
    Query(query): Query<HashMap<String, String>>,
    body: Bytes,
) -> Response {
    if std::mem::take(&mut lock(&state).hold_files) {
        lock(&state).held_files += 1;
        std::future::pending::<()>().await;
    }
    let mut fake = lock(&state);
    if query.get("attempt").map(String::as_str) != Some("1") {
        fake.violations.push(format!("artifact of {job} without its attempt"));
    }
    if fake.refuse_files {
        return problem(413, "too_large", "the quota of the folder is 0 bytes", None);
    }
    fake.files.insert(path, body.to_vec());
    "{}".into_response()
}

async fn package(State(state): State<Shared>, UrlPath(sha256): UrlPath<String>, headers: HeaderMap) -> Response {
    let mut fake = lock(&state);
    let Some(bytes) = fake.packages.get(&sha256).cloned() else {
        return problem(404, "not_found", "there is no such package", None);
    };
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let from: usize =
        range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()).unwrap_or(0);
    fake.ranges.extend(range.clone());
    let mut part = bytes[from.min(bytes.len())..].to_vec();
    if fake.break_downloads > 0 {
        fake.break_downloads -= 1;
        part.truncate(part.len() / 2);
    }
    if range.is_some() {
        let content_range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
        return (StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, content_range)], part).into_response();
    }
    part.into_response()
}

/// The real agent, with a state folder of its own. Ended by its id when dropped, with all it has started.
pub struct Agent {
    pub state: tempfile::TempDir,
    pub child: Option<Child>,
    environment: Vec<(String, String)>,
}

impl Agent {
    /// Joins and runs.
    pub fn start(coordinator: &FakeCoordinator) -> Self {
        Self::start_with(coordinator, &[])
    }

    pub fn start_with(coordinator: &FakeCoordinator, environment: &[(&str, &str)]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder"), coordinator, environment)
    }

    pub fn start_in(state: tempfile::TempDir, coordinator: &FakeCoordinator, environment: &[(&str, &str)]) -> Self {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut agent = Self { state, child: None, environment };
        let joined = agent
            .command(&["join", "--server", &coordinator.url, "--token", "good-token"])
            .output()
            .expect("the agent can be started");
        assert!(joined.status.success(), "{joined:?}");
        agent.run();
        agent
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drover-agent"));
        command.args(arguments).arg("--state").arg(self.state.path()).envs(self.environment.iter().cloned());
        for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command
    }

    pub fn run(&mut self) {
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.state.path().join("test.log"))
            .expect("a log");
        let child = self.command(&["run"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.child = Some(child.expect("the agent can be started"));
    }

    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.as_ref().expect("it runs").id()).expect("an id");
        // SAFETY: takes no pointers; the id is that of a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Asks it to end, and waits until it has heard that.
    pub fn ask_to_end(&self) {
        let heard = || self.log().matches("asked to end").count();
        let before = heard();
        self.signal(libc::SIGTERM);
        wait_until("the agent to hear the signal", || (heard() > before).then_some(()));
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        self.wait();
    }

    /// Waits for its end and returns its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("it runs");
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("a child") {
                return status.code();
            }
            assert!(Instant::now() < until, "the agent does not end; its log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.state.path().join("test.log")).unwrap_or_default()
    }

    pub fn run_folder(&self, job: &str) -> PathBuf {
        self.state.path().join("runs").join(format!("{job}-1"))
    }

    /// Bytes of log lines on its disk.
    pub fn spool_bytes(&self, job: &str) -> u64 {
        let files = std::fs::read_dir(self.run_folder(job).join("spool")).into_iter().flatten().flatten();
        files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
    }

    pub fn supervisor(&self, job: &str) -> i32 {
        let identity = wait_until("the supervisor's identity", || {
            let text = std::fs::read(self.run_folder(job).join("supervisor.json")).ok()?;
            serde_json::from_slice::<Value>(&text).ok()
        });
        i32::try_from(identity["pid"].as_i64().expect("a number")).expect("an id")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the agent's log ---\n{}", self.log());
        }
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        for run in std::fs::read_dir(self.state.path().join("runs")).into_iter().flatten().flatten() {
            let text = std::fs::read(run.path().join("supervisor.json")).unwrap_or_default();
            if let Some(pid) = serde_json::from_slice::<Value>(&text).ok().and_then(|identity| identity["pid"].as_i64())
            {
                // SAFETY: takes no pointers; asks a supervisor that this test started to end its tree.
                unsafe { libc::kill(i32::try_from(pid).expect("an id"), libc::SIGTERM) };
            }
        }
    }
}

/// A small disk of its own: a tmpfs, which only root may mount. Goes with this value, whoever still uses it.
pub struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`, said loudly, where that is not allowed.
    pub fn mount(bytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = c_path(folder.path());
        let options = CString::new(format!("size={bytes}")).expect("no NUL");
        // SAFETY: all pointers are to C strings that outlive the call.
        let mounted = unsafe {
            let (kind, options) = (c"tmpfs".as_ptr(), options.as_ptr().cast());
            libc::mount(c"drover-test".as_ptr(), path.as_ptr(), kind, 0, options)
        };
        if mounted != 0 {
            let error = std::io::Error::last_os_error();
            eprintln!("SKIPPED, nothing is tested here: a tmpfs cannot be mounted ({error}); run the tests as root");
            return None;
        }
        Some(Self { folder })
    }

    /// A folder on it.
    pub fn folder(&self) -> tempfile::TempDir {
        tempfile::tempdir_in(self.folder.path()).expect("a folder")
    }

    fn filler(&self) -> PathBuf {
        self.folder.path().join("filler")
    }

    /// Takes the room that is left, to the last byte.
    pub fn fill(&self) {
        let mut filler = std::fs::File::options().append(true).create(true).open(self.filler()).expect("a file");
        for _ in 0..1_000_000 {
            if let Err(error) = filler.write_all(&[1; 4096]) {
                assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
                return;
            }
        }
        panic!("the disk is not small");
    }

    /// Gives the room back.
    pub fn free(&self) {
        std::fs::remove_file(self.filler()).expect("the filler");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever still waits for room, after a test that has failed, is to come to its end.
        let _ = std::fs::remove_file(self.filler());
        // SAFETY: the pointer is to a C string that outlives the call.
        unsafe { libc::umount2(c_path(self.folder.path()).as_ptr(), libc::MNT_DETACH) };
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_encoded_bytes()).expect("no NUL")
}

/// The most memory that a living process has had at a time, in KiB.
pub fn peak_memory_kib(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

pub fn wait_until<R>(what: &str, look: impl FnMut() -> Option<R>) -> R {
    wait_within(PATIENCE, what, look)
}

/// For what may take long because much is to be done.
pub fn wait_until_late<R>(what: &str, look: impl FnMut() -> Option<R>) -> R {
    wait_within(20 * PATIENCE, what, look)
}

fn wait_within<R>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<R>) -> R {
    let until = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How many living processes have this text in their command line.
pub fn processes_with(text: &str) -> usize {
    let entries = std::fs::read_dir("/proc").expect("/proc");
    let matches = |path: PathBuf| {
        let command = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
        let zombie = stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'));
        !zombie && String::from_utf8_lossy(&command).contains(text)
    };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
        .filter(|entry| matches(entry.path()))
        .count()
}

/// A script that says it is ready, waits until a file is there, and goes on with `then`.
pub fn script_until(file: &Path, then: &str) -> String {
    format!("echo ready; while ! test -e '{}'; do sleep 0.02; done\n{then}", file.display())
}

pub fn exists(path: &Path) -> bool {
    path.exists()
}
