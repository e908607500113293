//! What the tests share: a coordinator in memory with a clock of its own, calls to it, and an agent driven by hand.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use axum::{Router, body::Body};
use bytes::Bytes;
use drover_coordinator::{
    app::{App, Limits, Rules},
    background::{self, retention::Ages},
    clock::{Clock, Randomness},
    domain::job::Leases,
    mail_client::MailRules,
    operations::{
        account::{self, Bootstrap},
        session::SessionRules,
    },
    secrets::Secrets,
    store::{
        Db,
        blob::Blobs,
        check,
        check_audit::check_audit,
        engine::{Engine, KeyRange, Order, Pair},
        memory::Memory,
    },
    webhook_client::WebhookRules,
};
use drover_protocol::{AccountId, Timestamp};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tower::ServiceExt;
use uuid::Uuid;

/// The password of the administrators that [`World`] makes.
pub const PASSWORD: &str = "correct horse";
/// Where every clock begins.
pub const START: i64 = 1_795_000_000_000;

/// A clock that stands still until it is moved.
pub struct ManualClock(AtomicI64);

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

struct Seeded(Mutex<StdRng>);

impl Randomness for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().fill_bytes(bytes);
    }
}

/// A whole coordinator. When it is dropped its store must be sound.
pub struct World {
    pub app: Arc<App>,
    pub router: Router,
    pub engine: Arc<Memory>,
    clock: Arc<ManualClock>,
    pub account: AccountId,
    /// The administrator's own key.
    pub admin: String,
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check();
        }
    }
}

pub fn rules() -> Rules {
    Rules {
        leases: Leases { job_seconds: 60, accept_seconds: 30, lost_after_seconds: 300 },
        heartbeat_seconds: 20,
        limits: Limits {
            package_bytes: 1024 * 1024,
            artifact_bytes: 1024 * 1024,
            file_bytes: 1024 * 1024,
            job_log_bytes: 256 << 20,
            requests_per_second: 0,
        },
        public_metrics: true,
        public_url: String::new(),
        webhooks: WebhookRules { allow_private_targets: true, timeout_seconds: 15 },
        mail: MailRules::none(),
        telemetry: None,
        audit_retention_days: None,
        openid: None,
        ldap: None,
        sessions: SessionRules { idle_seconds: 3600, lifetime_seconds: 86_400, encrypted: false },
    }
}

impl World {
    pub async fn new() -> Self {
        Self::with_rules(rules()).await
    }

    pub async fn with_rules(rules: Rules) -> Self {
        Self::with_db(rules, |engine, clock, randomness| Db::inline(engine, clock, randomness)).await
    }

    /// A coordinator whose database is made by the test, over the memory engine that it is given.
    pub async fn with_db(
        rules: Rules,
        open: impl FnOnce(Arc<Memory>, Arc<dyn Clock>, Arc<dyn Randomness>) -> Db,
    ) -> Self {
        Self::with_secret(rules, [3; 32], open).await
    }

    /// The same with a key file of its own.
    pub async fn with_secret(
        rules: Rules,
        secret: [u8; 32],
        open: impl FnOnce(Arc<Memory>, Arc<dyn Clock>, Arc<dyn Randomness>) -> Db,
    ) -> Self {
        Self::with_all(rules, secret, Blobs::memory(), open).await
    }

    /// A coordinator whose content lies where the test wants it.
    pub async fn with_blobs(blobs: Blobs) -> Self {
        Self::with_all(rules(), [3; 32], blobs, |engine, clock, randomness| Db::inline(engine, clock, randomness)).await
    }

    async fn with_all(
        rules: Rules,
        secret: [u8; 32],
        blobs: Blobs,
        open: impl FnOnce(Arc<Memory>, Arc<dyn Clock>, Arc<dyn Randomness>) -> Db,
    ) -> Self {
        let engine = Arc::new(Memory::default());
        let clock = Arc::new(ManualClock(AtomicI64::new(START)));
        let randomness = Arc::new(Seeded(Mutex::new(StdRng::seed_from_u64(7))));
        let db = Arc::new(open(engine.clone(), clock.clone(), randomness));
        let secrets = Arc::new(Secrets::from_bytes(&secret));
        let app = App::new(db, Arc::new(blobs), secrets, rules, None);
        let router = drover_coordinator::http::router(Arc::clone(&app));
        let account = AccountId::from_uuid(Uuid::from_u128(0xacc0));
        let mut world = Self { app, router, engine, clock, account, admin: String::new() };
        world.admin = world.new_account(account, "main").await;
        world
    }

    /// Makes an account with an administrator, and gives the administrator's key.
    pub async fn new_account(&self, account: AccountId, name: &str) -> String {
        // Hashing is slow on purpose, and one hash does for all.
        static HASH: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
            drover_coordinator::password::hash(PASSWORD, &Seeded(Mutex::new(StdRng::seed_from_u64(1)))).unwrap()
        });
        let wanted = Bootstrap {
            account: name.to_owned(),
            login: "admin".to_owned(),
            password_hash: Some(HASH.clone()),
            api_key: None,
            name: String::new(),
            email: None,
            runs_system: account == self.account,
            audit_retention_days: None,
        };
        let secrets = Arc::clone(&self.app.secrets);
        self.app.db.write(account, move |tx| account::bootstrap(tx, account, &wanted, &secrets)).await.unwrap()
    }

    /// Records and indexes must agree, and the audit trail be whole.
    pub fn check(&self) {
        let mut report = check::check(&*self.engine.view()).unwrap();
        check_audit(&*self.engine.view(), &mut report).unwrap();
        assert!(report.is_sound(), "{report}");
        self.app
            .db
            .read(self.account, |reading| {
                drover_coordinator::operations::queue::check_counters(reading)?;
                drover_coordinator::operations::news::check_wanted(reading)?;
                drover_coordinator::operations::webhook::check_faring(reading)
            })
            .unwrap();
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Moves the clock, and does what has become due.
    pub async fn pass_time(&self, seconds: i64) {
        self.move_clock(seconds);
        background::deadlines::pass(&self.app).await.unwrap();
    }

    /// Moves the clock alone.
    pub fn move_clock(&self, seconds: i64) {
        self.clock.0.fetch_add(seconds * 1000, Ordering::SeqCst);
    }

    pub async fn seal_logs(&self) {
        background::sealing::pass(&self.app).await.unwrap();
    }

    pub async fn collect_garbage(&self) {
        background::garbage::pass(&self.app).await.unwrap();
    }

    pub async fn retain(&self, jobs_days: u64, logs_days: u64) {
        let ages = Ages { jobs_days, logs_days, deliveries_days: 7 };
        background::retention::pass(&self.app, ages).await.unwrap();
    }

    pub async fn tend_storage(&self) {
        background::storage::pass(&self.app).await.unwrap();
    }

    /// Writes a file with the administrator's key.
    pub async fn put_file(&self, folder: &str, path: &str, content: impl Into<Vec<u8>>) -> Answer {
        self.call(Method::PUT, &format!("/storages/{folder}/files/{path}")).body(content).send().await
    }

    /// How many blobs of files there are.
    pub async fn file_blobs(&self) -> usize {
        use futures::StreamExt;
        self.app.blobs.list(drover_coordinator::store::blob::BlobKind::File).count().await
    }

    /// Every pair of the store.
    pub fn pairs(&self) -> Vec<Pair> {
        let all = KeyRange { start: Vec::new(), end: vec![0xff; 64] };
        self.engine.view().scan(&all, Order::Ascending, usize::MAX).unwrap()
    }

    /// How many pairs mention the bytes in key or value.
    pub fn mentions(&self, bytes: &[u8]) -> usize {
        let has = |hay: &[u8]| hay.windows(bytes.len()).any(|window| window == bytes);
        self.pairs().iter().filter(|(key, value)| has(key) || has(value)).count()
    }

    /// A call with the administrator's key.
    pub fn call(&self, method: Method, path: &str) -> Call {
        Call::new(self.router.clone(), method, path).key(&self.admin)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path).send().await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path).json(&body).send().await
    }

    /// A POST without a body.
    pub async fn act(&self, path: &str) -> Answer {
        self.call(Method::POST, path).send().await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.call(Method::PATCH, path).json(&body).send().await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path).send().await
    }

    /// A named key with these permissions.
    pub async fn key_with(&self, permissions: &[&str]) -> String {
        let made = self.post("/keys", json!({ "name": "scoped", "permissions": permissions })).await.created();
        text(&made, "/key")
    }

    /// A process with an active version that needs nothing.
    pub async fn process(&self, name: &str) -> String {
        self.process_with(name, json!({}), &[("main.sh", "echo hello")]).await
    }

    /// A process with defaults, and an active version of these files.
    pub async fn process_with(&self, name: &str, defaults: Value, files: &[(&str, &str)]) -> String {
        let made = self.post("/processes", json!({ "name": name, "defaults": defaults })).await.created();
        let id = text(&made, "/id");
        self.upload(&id, "?activate=true", &package(files)).await.created();
        id
    }

    pub async fn upload(&self, process: &str, query: &str, package: &[u8]) -> Answer {
        self.call(Method::POST, &format!("/processes/{process}/versions{query}"))
            .header("content-type", "application/zip")
            .body(package.to_vec())
            .send()
            .await
    }

    /// Starts a job for all robots and gives its id.
    pub async fn start(&self, process: &str) -> String {
        self.start_with(process, json!({})).await
    }

    /// Starts a job with more members in the request.
    pub async fn start_with(&self, process: &str, more: Value) -> String {
        let mut request = json!({ "process": process, "target": { "group": "all" } });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        text(&self.post("/jobs", request).await.created(), "/id")
    }

    pub async fn job(&self, id: &str) -> Value {
        self.get(&format!("/jobs/{id}")).await.ok()
    }

    /// A queue with more settings; gives its id.
    pub async fn queue(&self, name: &str, more: Value) -> String {
        let mut request = json!({ "name": name });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        text(&self.post("/queues", request).await.created(), "/id")
    }

    /// Adds a task with more members in the request, and gives its id.
    pub async fn add(&self, queue: &str, more: Value) -> String {
        let mut request = json!({ "payload": {} });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        text(&self.post(&format!("/queues/{queue}/tasks"), request).await.created(), "/id")
    }

    /// Takes up to so many tasks.
    pub async fn take(&self, queue: &str, max: u32) -> Vec<Value> {
        let taken = self.post(&format!("/queues/{queue}/take"), json!({ "max": max })).await.ok();
        taken["items"].as_array().unwrap().clone()
    }

    /// Takes the next task, which must be there, and gives its id and attempt.
    pub async fn take_one(&self, queue: &str) -> (String, u64) {
        let taken = self.take(queue, 1).await;
        assert_eq!(taken.len(), 1, "a task is there");
        (text(&taken[0], "/id"), taken[0]["attempt"].as_u64().unwrap())
    }

    pub async fn task(&self, id: &str) -> Value {
        self.get(&format!("/tasks/{id}")).await.ok()
    }

    /// A call about one task.
    pub async fn on_task(&self, id: &str, verb: &str, body: Value) -> Answer {
        self.post(&format!("/tasks/{id}/{verb}"), body).await
    }

    /// Codes of the task's events, oldest first.
    pub async fn task_events(&self, id: &str) -> Vec<String> {
        let page = self.get(&format!("/tasks/{id}/events?limit=1000")).await.ok();
        page["items"].as_array().unwrap().iter().rev().map(|event| text(event, "/code")).collect()
    }

    /// Codes of the job's events, oldest first.
    pub async fn events(&self, id: &str) -> Vec<String> {
        let page = self.get(&format!("/jobs/{id}/events?limit=1000")).await.ok();
        page["items"].as_array().unwrap().iter().rev().map(|event| text(event, "/code")).collect()
    }

    /// An agent that has joined under this name.
    pub async fn agent(&self, name: &str) -> Agent {
        self.agent_with(name, json!({})).await
    }

    /// An agent on a host with these members.
    pub async fn agent_with(&self, name: &str, host: Value) -> Agent {
        let token = text(&self.post("/join-tokens", json!({ "uses": 1 })).await.created(), "/token");
        let joined = self.join(&token, name, Some(name), host).await.created();
        Agent { router: self.router.clone(), key: text(&joined, "/key"), id: text(&joined, "/robot/id") }
    }

    pub async fn join(&self, token: &str, machine: &str, name: Option<&str>, host: Value) -> Answer {
        let mut facts = json!({ "hostname": machine, "os": "linux" });
        facts.as_object_mut().unwrap().extend(host.as_object().unwrap().clone());
        let request = json!({ "token": token, "machine_id": machine, "name": name, "host": facts });
        Call::new(self.router.clone(), Method::POST, "/agent/join").json(&request).send().await
    }
}

/// The text at a JSON pointer.
pub fn text(value: &Value, pointer: &str) -> String {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_else(|| panic!("there is no text {pointer} in {value}")).to_owned()
}

/// Members `name` of a list's items.
pub fn each(list: &Value, name: &str) -> Vec<Value> {
    list["items"]
        .as_array()
        .unwrap_or_else(|| panic!("no list: {list}"))
        .iter()
        .map(|item| item[name].clone())
        .collect()
}

/// A zip of these files.
pub fn package(files: &[(&str, &str)]) -> Vec<u8> {
    use std::io::Write;
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in files {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(content.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// Content in a coding of HTTP: gzip, zstd or br.
pub async fn packed(coding: &'static str, content: impl Into<Body>) -> Vec<u8> {
    let content = Mutex::new(Some(content.into()));
    let answering = tower::service_fn(move |_: Request<Body>| {
        let body = content.lock().take().unwrap();
        async { Ok::<_, std::convert::Infallible>(http::Response::new(body)) }
    });
    let anything = |_: StatusCode, _: http::Version, _: &HeaderMap, _: &http::Extensions| true;
    let packing = tower_http::compression::Compression::new(answering).compress_when(anything);
    let request = Request::builder().header("accept-encoding", coding).body(Body::empty()).unwrap();
    let answer = packing.oneshot(request).await.unwrap();
    assert_eq!(answer.headers()["content-encoding"], coding);
    answer.into_body().collect().await.unwrap().to_bytes().to_vec()
}

/// A call in the making.
pub struct Call {
    router: Router,
    request: http::request::Builder,
    body: Body,
    peer: Option<std::net::SocketAddr>,
}

impl Call {
    /// `path` is below the API's base, unless it begins with `//`, which then stands for the root.
    pub fn new(router: Router, method: Method, path: &str) -> Self {
        let uri = match path.strip_prefix("//") {
            Some(rest) => format!("/{rest}"),
            None => format!("/api/v1{path}"),
        };
        Self { router, request: Request::builder().method(method).uri(uri), body: Body::empty(), peer: None }
    }

    pub fn key(self, key: &str) -> Self {
        self.header("authorization", &format!("Bearer {key}"))
    }

    /// Sets a header in place of the one that is there.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.request.headers_mut().unwrap().insert(name, value.parse().unwrap());
        self
    }

    /// One more line of a header.
    pub fn also(mut self, name: &'static str, value: &str) -> Self {
        self.request.headers_mut().unwrap().append(name, value.parse().unwrap());
        self
    }

    pub fn without(mut self, name: &'static str) -> Self {
        self.request.headers_mut().unwrap().remove(name);
        self
    }

    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    pub fn body(self, body: impl Into<Vec<u8>>) -> Self {
        self.streamed(Body::from(body.into()))
    }

    /// With a body that comes piece by piece.
    pub fn streamed(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    /// The address that the call seems to come from.
    pub fn from(mut self, address: &str) -> Self {
        self.peer = Some(address.parse().unwrap());
        self
    }

    /// The answer's head and its body as it comes.
    pub async fn open(self) -> http::Response<Body> {
        let mut request = self.request.body(self.body).unwrap();
        if let Some(peer) = self.peer {
            request.extensions_mut().insert(axum::extract::ConnectInfo(peer));
        }
        self.router.oneshot(request).await.unwrap()
    }

    /// Sends it, and holds the answer to what goes for every answer.
    pub async fn send(self) -> Answer {
        let (parts, body) = self.open().await.into_parts();
        let answer =
            Answer { status: parts.status, headers: parts.headers, body: body.collect().await.unwrap().to_bytes() };
        answer.check();
        answer
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// Every answer has a request id; every error is a problem document with that id, its status and a known code.
    fn check(&self) {
        let id = self.header("x-request-id").expect("every answer has an X-Request-Id").to_owned();
        if self.status.is_client_error() || self.status.is_server_error() {
            assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
            let problem: drover_protocol::problem::Problem = serde_json::from_slice(&self.body).unwrap();
            assert_eq!((problem.request_id, problem.status), (id, self.status.as_u16()));
            assert_eq!(problem.code.status(), self.status.as_u16());
            assert!(!problem.detail.is_empty() && !problem.title.is_empty());
            assert_ne!(self.status, StatusCode::INTERNAL_SERVER_ERROR, "{}", String::from_utf8_lossy(&self.body));
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    #[track_caller]
    pub fn ok(self) -> Value {
        self.expect(200).json()
    }

    #[track_caller]
    pub fn created(self) -> Value {
        let answer = self.expect(201);
        answer.json()
    }

    #[track_caller]
    pub fn done(self) {
        self.expect(204);
    }

    /// The problem document; its code must be this one.
    #[track_caller]
    pub fn refused(self, code: &str) -> Value {
        let problem = self.json();
        assert_eq!(problem["type"], code, "{problem}");
        problem
    }

    /// Refused for these fields.
    #[track_caller]
    pub fn invalid(self, pointers: &[&str]) -> Value {
        let problem = self.refused("invalid");
        let found: Vec<&str> =
            problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect();
        assert_eq!(found, pointers, "{problem}");
        problem
    }

    pub fn content_type(&self) -> &str {
        self.headers.get(header::CONTENT_TYPE).unwrap().to_str().unwrap()
    }
}

/// An agent that does what a test says.
#[derive(Clone)]
pub struct Agent {
    pub router: Router,
    pub key: String,
    pub id: String,
}

impl Agent {
    pub fn call(&self, method: Method, path: &str) -> Call {
        Call::new(self.router.clone(), method, &format!("/agent{path}")).key(&self.key)
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path).json(&body).send().await
    }

    pub fn next_request(&self, free: u32, wait_seconds: u64, known: &[&str]) -> Call {
        let request = json!({ "free": free, "wait_seconds": wait_seconds, "known": known });
        self.call(Method::POST, "/next").json(&request)
    }

    pub async fn next(&self, free: u32, known: &[&str]) -> Answer {
        self.next_request(free, 0, known).send().await
    }

    /// Takes one assignment and gives its job's id and its whole.
    pub async fn take(&self) -> (String, Value) {
        let answer = self.next(1, &[]).await.ok();
        let assignments = answer["assignments"].as_array().unwrap();
        assert_eq!(assignments.len(), 1, "{answer}");
        (text(&assignments[0], "/job/id"), assignments[0].clone())
    }

    /// Takes one job and accepts it.
    pub async fn run(&self) -> (String, u64) {
        let (job, assignment) = self.take().await;
        let attempt = assignment["attempt"].as_u64().unwrap();
        self.accept(&job, attempt).await.ok();
        (job, attempt)
    }

    pub async fn accept(&self, job: &str, attempt: u64) -> Answer {
        self.post(&format!("/jobs/{job}/accept"), json!({ "attempt": attempt })).await
    }

    pub async fn finish(&self, job: &str, attempt: u64, more: Value) -> Answer {
        let mut report = json!({ "attempt": attempt, "outcome": "succeeded",
            "cause": { "by": "process", "code": "completed", "message": "exit code 0" } });
        report.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.post(&format!("/jobs/{job}/finish"), report).await
    }

    /// The same as a failure.
    pub async fn fail(&self, job: &str, attempt: u64) -> Answer {
        let error = json!({ "kind": "application", "message": "it broke" });
        let cause = json!({ "by": "process", "code": "exit_code", "message": "exit code 1" });
        self.finish(job, attempt, json!({ "outcome": "failed", "error": error, "cause": cause })).await
    }

    pub async fn beat(&self, jobs: &[(&str, u64)]) -> Value {
        let held: Vec<Value> = jobs
            .iter()
            .map(|(job, attempt)| json!({ "job_id": job, "attempt": attempt, "phase": "running" }))
            .collect();
        let health =
            json!({ "cpu_percent": 12.5, "memory_used_bytes": 1, "memory_total_bytes": 2, "disk_free_bytes": 3 });
        self.post("/heartbeat", json!({ "health": health, "jobs": held })).await.ok()
    }

    pub async fn log(&self, job: &str, attempt: u64, first_seq: u64, messages: &[&str]) -> Answer {
        let lines: Vec<Value> = messages.iter().map(|message| line("info", message)).collect();
        let chunk = json!({ "attempt": attempt, "first_seq": first_seq, "lines": lines });
        self.post(&format!("/jobs/{job}/logs"), chunk).await
    }

    pub async fn put(&self, job: &str, path: &str, content: &[u8]) -> Answer {
        self.put_call(job, path, content).send().await
    }

    pub fn put_call(&self, job: &str, path: &str, content: &[u8]) -> Call {
        self.call(Method::PUT, &format!("/jobs/{job}/files/{path}")).body(content.to_vec())
    }
}

/// A line of a log.
pub fn line(level: &str, message: &str) -> Value {
    json!({ "time": "2026-11-23T08:00:00.000Z", "level": level, "message": message })
}

/// Lets other parts of the same runtime go on until they wait.
pub async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}
