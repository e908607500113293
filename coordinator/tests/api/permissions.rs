//! Who may call what: every route of the API's document under every kind of key, and from another account.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use drover_coordinator::{
    domain::{alert::Matter, news::Subject, permission::Role},
    operations::alert_raise,
    store::Tx,
};
use drover_protocol::AccountId;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Agent, Answer, Call, World, package, text};

/// Method and path of every operation in the document.
fn operations() -> Vec<(Method, String)> {
    described_operations().into_iter().map(|(method, path, _)| (method, path)).collect()
}

/// The same with what the document says about each.
pub fn described_operations() -> Vec<(Method, String, Value)> {
    let document: Value = serde_json::from_str(&drover_coordinator::http::openapi::document_text().unwrap()).unwrap();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if let Ok(method) = method.to_uppercase().parse::<Method>()
                && ["GET", "PUT", "POST", "PATCH", "DELETE"].contains(&method.as_str())
            {
                found.push((method, path.clone(), operation.clone()));
            }
        }
    }
    found
}

/// One object of each kind, to be named in paths.
pub struct Things(BTreeMap<&'static str, String>);

impl Things {
    pub async fn make(world: &World, agent: &Agent) -> (Self, String) {
        let queue = text(&world.post("/queues", json!({ "name": "q" })).await.created(), "/id");
        let task = text(&world.post("/queues/q/tasks", json!({ "payload": {} })).await.created(), "/id");
        let manifest = "[run]\ncommand = [\"sh\", \"main.sh\"]\n[requires]\nqueues = [\"q\"]\nstorages = [\"f\"]";
        let process = world.process_with("p", json!({}), &[("main.sh", "true"), ("process.toml", manifest)]).await;
        world.start(&process).await;
        let (job, assignment) = agent.take().await;
        agent.accept(&job, 1).await.ok();
        agent.put(&job, "report.txt", b"text").await.created();
        let token = world.post("/join-tokens", json!({ "uses": 5 })).await.created();
        let key = world.post("/keys", json!({ "name": "n" })).await.created();
        let login = json!({ "username": "u", "password": "p" });
        let resource = json!({ "name": "login", "kind": "credential", "value": login });
        let resource = world.post("/resources", resource).await.created();
        let group = world.post("/robot-groups", json!({ "name": "g" })).await.created();
        let folder = text(&world.post("/storages", json!({ "name": "f" })).await.created(), "/id");
        for path in ["report.txt", "to-be-moved.txt"] {
            world.call(Method::PUT, &format!("/storages/{folder}/files/{path}")).body("text").send().await.created();
        }
        let link = async |verb: &str| {
            let link = json!({ "path": "report.txt", "verb": verb, "expires_in_seconds": 60 });
            let made = world.post(&format!("/storages/{folder}/links"), link).await.created();
            text(&made, "/url").rsplit('/').next().unwrap().to_owned()
        };
        let links = (link("get").await, link("put").await);
        let trigger = json!({ "name": "t", "process": process, "target": { "group": "all" }, "kind": "schedule",
            "schedule": { "cron": "0 0 1 1 *" } });
        let trigger = world.post("/triggers", trigger).await.created();
        let webhook = json!({ "name": "w", "url": "http://127.0.0.1:9/", "events": ["task.added"] });
        let webhook = world.post("/webhooks", webhook).await.created();
        world.add("q", json!({})).await;
        drover_coordinator::background::news::pass(&world.app).await.unwrap();
        let delivery = world.get("/webhooks/w/deliveries").await.ok();
        let alert =
            json!({ "name": "a", "when": "job_waiting", "after_seconds": 1, "channels": [{ "console": true }] });
        let alert = world.post("/alerts", alert).await.created();
        let raised = raise(world, &text(&alert, "/id")).await;
        let hook = json!({ "name": "hook", "process": process, "target": { "group": "all" }, "kind": "webhook",
            "webhook": { "auth": "none" } });
        let hook = text(&world.post("/triggers", hook).await.created(), "/url");
        let role = world.post("/roles", json!({ "name": "r", "permissions": ["job:read"] })).await.created();
        let user = world.post("/users", json!({ "login": "ann", "roles": ["viewer"] })).await.created();
        let account = json!({ "name": "third", "admin": { "login": "bob" } });
        let account = world.post("/accounts", account).await.created();
        let things = BTreeMap::from([
            ("{hook}", hook.rsplit('/').next().unwrap().to_owned()),
            ("{robot}", agent.id.clone()),
            ("{resource}", text(&resource, "/id")),
            ("{scope}", "robot".to_owned()),
            ("{holder}", agent.id.clone()),
            ("{group}", text(&group, "/id")),
            ("{process}", process),
            ("{version}", text(&assignment, "/version/id")),
            ("{sha256}", text(&assignment, "/version/sha256")),
            ("{folder}", folder),
            ("{path}", "report.txt".to_owned()),
            ("/files/{name}", "/files/a.txt".to_owned()),
            ("GET /links/{token}", links.0),
            ("{token}", links.1),
            ("{job}", job),
            ("{queue}", queue),
            ("{task}", task),
            ("{trigger}", text(&trigger, "/id")),
            ("{webhook}", text(&webhook, "/id")),
            ("{delivery}", text(&delivery, "/items/0/id")),
            ("{alert}", text(&alert, "/id")),
            ("{raised}", raised),
            ("token", text(&token, "/token")),
            ("/join-tokens/{id}", format!("/join-tokens/{}", text(&token, "/id"))),
            ("/keys/{id}", format!("/keys/{}", text(&key, "/id"))),
            ("{role}", text(&role, "/id")),
            ("{user}", text(&user, "/id")),
            ("/accounts/{id}", format!("/accounts/{}", text(&account, "/account/id"))),
            // Only a session has sessions.
            ("/sessions/{id}", format!("/sessions/{}", text(&key, "/id"))),
        ]);
        (Self(things), text(&assignment, "/key"))
    }

    /// Nothing that is named here exists.
    fn none() -> Self {
        let id = || Uuid::from_u128(0x0192_f6c4_7a10_7cc3_98c4_dc0c_0c07_398f).to_string();
        Self(BTreeMap::from([
            ("{hook}", "none".to_owned()),
            ("{robot}", id()),
            ("{resource}", id()),
            ("{scope}", "robot".to_owned()),
            ("{holder}", id()),
            ("{group}", id()),
            ("{process}", id()),
            ("{version}", id()),
            ("{sha256}", "0".repeat(64)),
            ("{folder}", id()),
            ("{path}", "report.txt".to_owned()),
            ("/files/{name}", "/files/a.txt".to_owned()),
            ("{token}", "none".to_owned()),
            ("{job}", id()),
            ("{queue}", id()),
            ("{task}", id()),
            ("{trigger}", id()),
            ("{webhook}", id()),
            ("{delivery}", id()),
            ("{alert}", id()),
            ("{raised}", id()),
            ("token", "x".to_owned()),
            ("/join-tokens/{id}", format!("/join-tokens/{}", id())),
            ("/keys/{id}", format!("/keys/{}", id())),
            ("{role}", id()),
            ("{user}", id()),
            ("/accounts/{id}", format!("/accounts/{}", id())),
            ("/sessions/{id}", format!("/sessions/{}", id())),
        ]))
    }

    /// The same objects by their names, where they have any.
    fn by_names(&self) -> Self {
        let names = [
            ("{robot}", "r"),
            ("{holder}", "r"),
            ("{resource}", "login"),
            ("{group}", "g"),
            ("{process}", "p"),
            ("{version}", "1"),
            ("{folder}", "f"),
            ("{queue}", "q"),
            ("{trigger}", "t"),
            ("{role}", "r"),
            ("{user}", "ann"),
        ];
        let mut things = self.0.clone();
        things.extend(names.map(|(noun, name)| (noun, name.to_owned())));
        Self(things)
    }

    pub fn path(&self, template: &str) -> String {
        let filled = self.0.iter().fold(template.to_owned(), |path, (name, value)| {
            match name.contains('{') && !name.contains(' ') {
                true => path.replace(name, value),
                false => path,
            }
        });
        assert!(!filled.contains('{'), "the test has nothing for {filled}");
        filled
    }

    /// A body that is right, so that only the key can be wrong.
    pub fn body(&self, operation: &str) -> Option<Value> {
        let report = json!({ "attempt": 1, "outcome": "succeeded",
            "cause": { "by": "process", "code": "completed", "message": "exit code 0" } });
        let health = json!({ "memory_used_bytes": 1, "memory_total_bytes": 2, "disk_free_bytes": 3 });
        let body = match operation {
            "PATCH /account" => json!({ "name": "renamed" }),
            "POST /account/key/refresh" => json!({ "grace_seconds": 60 }),
            "POST /account/key/reveal" => json!({ "password": crate::support::PASSWORD }),
            "POST /keys" | "POST /robots" | "POST /robot-groups" | "POST /processes" | "POST /queues" => {
                json!({ "name": "new" })
            }
            "POST /roles" => json!({ "name": "new", "permissions": ["job:read"] }),
            "POST /users" => json!({ "login": "new", "roles": ["viewer"] }),
            "PATCH /users/{user}" => json!({ "name": "new" }),
            "POST /account/password" => {
                json!({ "old": crate::support::PASSWORD, "new": crate::support::PASSWORD })
            }
            "POST /session" => json!({ "login": "admin", "password": crate::support::PASSWORD }),
            "POST /accounts" => json!({ "name": "new", "admin": { "login": "new" } }),
            "PATCH /accounts/{id}" => json!({ "disabled": true }),
            "POST /queues/{queue}/pause" => json!({ "reason": "updates" }),
            "POST /queues/{queue}/tasks" => json!({ "payload": { "a": 1 } }),
            "POST /queues/{queue}/take" => json!({ "filter": { "reference": "none" } }),
            "POST /tasks/{task}/renew" | "POST /tasks/{task}/succeed" => json!({ "attempt": 1 }),
            "POST /tasks/{task}/fail" => json!({ "attempt": 1, "kind": "business", "message": "no" }),
            "POST /tasks/{task}/postpone" => json!({ "attempt": 1, "until": "2030-01-01T00:00:00Z" }),
            "POST /tasks/{task}/checkpoint" => json!({ "attempt": 1, "checkpoint": 1 }),
            "POST /tasks/{task}/comment" => json!({ "comment": "seen" }),
            "POST /tasks/bulk-action" => {
                json!({ "filter": { "queue": self.0["{queue}"] }, "action": "retry", "dry_run": true })
            }
            "PATCH /tasks/{task}" => json!({ "comment": "new" }),
            "POST /resources" => json!({ "name": "new", "kind": "text", "value": "x" }),
            "PUT /resources/{resource}/value" | "PUT /resources/{resource}/overrides/{scope}/{holder}" => {
                json!({ "value": { "username": "u", "password": "q" } })
            }
            "POST /join-tokens" => json!({ "uses": 1 }),
            "POST /storages" => json!({ "name": "new" }),
            "POST /storages/{folder}/copy" => json!({ "path": "report.txt", "to_path": "copy.txt" }),
            "POST /storages/{folder}/move" => json!({ "path": "to-be-moved.txt", "to_path": "moved.txt" }),
            "POST /storages/{folder}/links" => {
                json!({ "path": "report.txt", "verb": "get", "expires_in_seconds": 60 })
            }
            "POST /jobs" => json!({ "process": self.0["{process}"], "target": { "group": "all" } }),
            "POST /logs" => json!({ "level": "info", "message": "by hand" }),
            "POST /triggers" => json!({ "name": "new", "process": self.0["{process}"], "target": { "group": "all" },
                "kind": "continuous", "continuous": { "jobs": 1 } }),
            "POST /alerts" => json!({ "name": "new", "when": "disk_low", "channels": [{ "console": true }] }),
            "POST /alerts/raised/{raised}/acknowledge" => json!({ "note": "seen" }),
            "POST /webhooks" => json!({ "name": "new", "url": "https://x.example/", "events": ["job.finished"] }),
            "POST /webhooks/{webhook}/rotate-secret" => json!({ "grace_seconds": 60 }),
            "POST /triggers/{trigger}/rotate-secret" => json!({ "grace_seconds": 60 }),
            "POST /triggers/{trigger}/backfill" => {
                json!({ "from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z" })
            }
            "POST /jobs/{job}/stop" => json!({ "mode": "stop" }),
            "POST /jobs/{job}/close" => json!({ "outcome": "lost", "reason": "gone" }),
            "POST /robots/{robot}/pause" | "POST /robot-groups/{group}/pause" => {
                json!({ "mode": "drain", "reason": "updates" })
            }
            "POST /agent/join" => {
                json!({ "token": self.0["token"], "machine_id": "other", "host": { "hostname": "other" } })
            }
            "POST /agent/heartbeat" => json!({ "health": health }),
            "POST /agent/next" => json!({ "free": 0, "wait_seconds": 0, "known": [self.0["{job}"]] }),
            "POST /agent/jobs/{job}/accept" => json!({ "attempt": 1 }),
            "POST /agent/jobs/{job}/finish" => report,
            "POST /agent/jobs/{job}/logs" => json!({ "attempt": 1, "first_seq": 1, "lines": [] }),
            _ if operation.starts_with("PATCH") => json!({ "description": "new" }),
            _ => return None,
        };
        Some(match operation {
            "PATCH /processes/{process}/versions/{version}" => json!({ "notes": "new" }),
            _ => body,
        })
    }

    async fn call(&self, world: &World, method: &Method, path: &str, key: Option<&str>) -> Answer {
        let below = path.strip_prefix("/api/v1");
        let operation = format!("{method} {}", below.unwrap_or(path));
        let mut target = match self.0.get(operation.as_str()) {
            Some(token) => format!("/links/{token}"),
            None => below.map_or(format!("/{path}"), |below| self.path(below)),
        };
        if (method, below) == (&Method::DELETE, Some("/logs")) {
            target.push_str("?before=2026-01-01T00:00:00Z");
        }
        let mut call = Call::new(world.router.clone(), method.clone(), &target);
        if let Some(key) = key {
            call = call.key(key);
        }
        call = match (self.body(&operation), operation.as_str()) {
            (Some(body), _) => call.json(&body),
            (None, "POST /processes/{process}/versions") => {
                call.header("content-type", "application/zip").body(package(&[("main.sh", "true")]))
            }
            (None, "POST /queues/{queue}/tasks/bulk") => {
                call.header("content-type", "application/x-ndjson").body("{\"payload\":1}\n")
            }
            (None, _) => call,
        };
        if operation == "GET /events" {
            let (parts, body) = call.open().await.into_parts();
            // A stream has no end.
            let body = match parts.status {
                StatusCode::OK => Default::default(),
                _ => body.collect().await.unwrap().to_bytes(),
            };
            return Answer { status: parts.status, headers: parts.headers, body };
        }
        call.send().await
    }
}

/// Raises an alert for something, and gives its id.
async fn raise(world: &World, alert: &str) -> String {
    let matter = Matter { subject: Subject::new("process", Uuid::from_u128(1), None), text: "it waits".to_owned() };
    let id = alert.parse().unwrap();
    let settle = move |tx: &mut Tx| alert_raise::settle(tx, id, 1, &[matter]);
    world.app.db.write(world.account, settle).await.unwrap();
    text(&world.get("/alerts/raised").await.ok(), "/items/0/id")
}

/// What changes nothing that a person would look for, or is told elsewhere; with the reason. Everything else that a person
/// changes is in the audit trail.
const NO_ACTS: &[(&str, &str)] = &[
    ("POST /jobs", "the first event of the job names who started it; a record besides would cost a fifth more"),
    ("POST /queues/{queue}/tasks", "work, as a job: the first event of the task names who added it"),
    ("POST /queues/{queue}/take", "work: attempt and events name the holder"),
    ("POST /tasks/{task}/renew", "work of whoever holds the task"),
    ("POST /tasks/{task}/succeed", "work of whoever holds the task"),
    ("POST /tasks/{task}/fail", "work of whoever holds the task"),
    ("POST /tasks/{task}/postpone", "work of whoever holds the task"),
    ("POST /tasks/{task}/checkpoint", "work of whoever holds the task"),
    ("POST /hooks/{hook}", "whoever has the address: making it is the act, and each call is in the trigger's history"),
    ("POST /tasks/bulk-action", "the test asks for a dry run"),
    ("POST /logs", "the line itself names who wrote it"),
    ("DELETE /logs", "the test has no lines that old"),
    ("PUT /links/{token}", "whoever has the link: making it is the act"),
    ("POST /processes/{process}/versions/{version}/activate", "the test's version is the active one"),
    ("DELETE /robot-groups/{group}/robots/{robot}", "the test's robot is not in the group"),
    ("POST /tasks/{task}/retry", "the test's task waits already"),
    ("POST /robots/{robot}/resume", "the test's robot is not paused"),
    ("POST /robot-groups/{group}/resume", "the test's group is not paused"),
    ("POST /robots/{robot}/enable", "the test's robot is enabled"),
    ("POST /robot-groups/{group}/enable", "the test's group is enabled"),
    ("POST /queues/{queue}/resume", "the test's queue is not paused"),
    ("POST /triggers/{trigger}/enable", "the test's trigger is enabled"),
    ("POST /triggers/{trigger}/backfill", "the test's trigger has nothing to make up for"),
    ("DELETE /resources/{resource}/overrides/{scope}/{holder}", "the test's robot has no value of its own yet"),
];

/// Every call of a person that changes something leaves an act, whatever route is added; the exceptions have reasons.
#[tokio::test]
async fn every_change_by_a_person_leaves_an_act() {
    let last = async |world: &World| {
        let page = world.get("/audit?limit=1").await.ok();
        page["items"][0]["seq"].as_u64().unwrap_or_default()
    };
    let changes = operations().into_iter().filter(|(method, path)| {
        *method != Method::GET && path.starts_with("/api/v1") && !path.starts_with("/api/v1/agent/")
    });
    let (mut silent, mut told) = (Vec::new(), 0);
    for (method, path) in changes {
        let world = World::new().await;
        let agent = world.agent("r").await;
        let (things, _) = Things::make(&world, &agent).await;
        let operation = format!("{method} {}", path.trim_start_matches("/api/v1"));
        let before = last(&world).await;
        let answer = things.call(&world, &method, &path, Some(&world.admin)).await;
        // After this one the old key is good for nothing.
        if operation == "POST /account/key" {
            continue;
        }
        let changed = answer.status.is_success() && last(&world).await == before;
        match (answer.status.is_success(), changed) {
            (true, true) => silent.push(operation),
            (true, false) => told += 1,
            (false, _) => {}
        }
    }
    let unexpected: Vec<&String> =
        silent.iter().filter(|operation| !NO_ACTS.iter().any(|(known, _)| known == operation)).collect();
    assert!(unexpected.is_empty(), "these leave no act: {unexpected:#?}");
    assert!(told > 50, "{told}");
}

/// Every route with every key. The table is what reviewers read: a change of rights is a changed line of it.
#[tokio::test]
async fn every_route_with_every_key() {
    let mut table: BTreeMap<(String, &str), Vec<String>> = BTreeMap::new();
    let columns = ["admin", "operator", "developer", "viewer", "robot", "job", "none", "revoked"];
    for column in columns {
        let world = World::new().await;
        let agent = world.agent("r").await;
        let (things, job_key) = Things::make(&world, &agent).await;
        let key = match column {
            "none" => None,
            "robot" => Some(agent.key.clone()),
            "job" => Some(job_key),
            "revoked" => {
                let made = world.post("/keys", json!({ "name": "gone" })).await.created();
                world.delete(&format!("/keys/{}", text(&made, "/id"))).await.done();
                Some(text(&made, "/key"))
            }
            role => {
                let role = Role::ALL.into_iter().find(|known| known.as_str() == role).unwrap();
                let names: Vec<&str> = role.permissions().iter().map(|permission| permission.as_str()).collect();
                Some(world.key_with(&names).await)
            }
        };
        let mut operations = operations();
        // What is deleted is there no more for the calls that follow.
        operations.sort_by_key(|(method, _)| *method == Method::DELETE);
        for (method, path) in operations {
            let answer = things.call(&world, &method, &path, key.as_deref()).await;
            let word = match answer.status {
                StatusCode::UNAUTHORIZED => "401",
                StatusCode::FORBIDDEN => "-",
                // Whoever gets past the rights must find a call that is in order, or the test would prove nothing.
                StatusCode::OK
                | StatusCode::CREATED
                | StatusCode::ACCEPTED
                | StatusCode::NO_CONTENT
                | StatusCode::NOT_FOUND
                | StatusCode::CONFLICT => "yes",
                other => panic!("{column}: {method} {path} gave {other}: {}", answer.text()),
            };
            let row = table.entry((path.clone(), method_order(&method))).or_default();
            row.push(word.to_owned());
        }
    }
    let mut golden = format!("{:6} {:62}", "", "");
    columns.iter().for_each(|column| write!(golden, " {column:9}").unwrap());
    for ((path, method), words) in table {
        write!(golden, "\n{method:6} {path:62}").unwrap();
        words.iter().for_each(|word| write!(golden, " {word:9}").unwrap());
    }
    compare_with_golden(&golden);
}

fn method_order(method: &Method) -> &'static str {
    ["GET", "PUT", "POST", "PATCH", "DELETE"].into_iter().find(|known| *known == method.as_str()).unwrap()
}

/// `UPDATE_GOLDEN=1` writes the file anew.
fn compare_with_golden(found: &str) {
    let found: String = found.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/permissions.golden");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let changed: Vec<&str> = found.lines().filter(|line| !golden.lines().any(|known| known == *line)).collect();
    assert!(golden == found, "the rights are not those of permissions.golden; changed lines: {changed:#?}");
}

/// What a route may not do with other methods, and what it may, is what the document says: no method is hidden.
#[tokio::test]
async fn the_document_names_every_method_of_its_addresses() {
    let world = World::new().await;
    let mut methods: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (method, path) in operations() {
        methods.entry(path).or_default().push(method.to_string());
    }
    let things = Things::none();
    for (path, documented) in methods {
        for method in ["GET", "PUT", "POST", "PATCH", "DELETE"] {
            let method: Method = method.parse().unwrap();
            let answer = things.call(&world, &method, &path, None).await;
            let known = answer.status != StatusCode::METHOD_NOT_ALLOWED;
            assert_eq!(known, documented.contains(&method.to_string()), "{method} {path}");
            if !known {
                let allowed = answer.header("allow").unwrap_or_default().to_owned();
                assert!(documented.iter().all(|method| allowed.contains(method.as_str())), "{path}: {allowed:?}");
            }
        }
    }
}

/// The key of a job that runs in the account of these keys.
async fn job_key_of(world: &World, admin: &str, robot: &str) -> String {
    let call = |key: &str, path: &str| Call::new(world.router.clone(), Method::POST, path).key(key);
    call(admin, "/processes").json(&json!({ "name": "theirs" })).send().await.created();
    let upload = call(admin, "/processes/theirs/versions?activate=true").header("content-type", "application/zip");
    upload.body(package(&[("main.sh", "true")])).send().await.created();
    let start = json!({ "process": "theirs", "target": { "group": "all" } });
    call(admin, "/jobs").json(&start).send().await.created();
    let next = json!({ "free": 1, "wait_seconds": 0, "known": [] });
    text(&call(robot, "/agent/next").json(&next).send().await.ok(), "/assignments/0/key")
}

/// With another account's keys everything of this account is as if it did not exist, in the very same words.
#[tokio::test]
async fn another_account_sees_nothing() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    let (things, _) = Things::make(&world, &agent).await;
    let other_admin = world.new_account(AccountId::from_uuid(Uuid::from_u128(0xacc1)), "other").await;
    let made = Call::new(world.router.clone(), Method::POST, "/join-tokens").key(&other_admin).json(&json!({}));
    let token = text(&made.send().await.created(), "/token");
    let other_robot = text(&world.join(&token, "m2", Some("r2"), json!({})).await.created(), "/key");
    let other_job = job_key_of(&world, &other_admin, &other_robot).await;
    let named = things.by_names();
    let mut seen = 0;
    // A link and a webhook are for whoever has them, whatever key goes along.
    let about_things =
        |(_, path): &(Method, String)| path.contains('{') && !path.contains("{token}") && !path.contains("{hook}");
    for (method, path) in operations().into_iter().filter(about_things) {
        let may = if path.contains("/agent/") { &other_robot } else { &other_admin };
        // The key of a job learns what it would have to declare, by the name that it said.
        let asking = [(&other_admin, &things), (&other_admin, &named), (&other_robot, &things), (&other_job, &things)];
        for (key, things) in asking {
            let real = things.call(&world, &method, &path, Some(key)).await;
            let invented = Things::none().call(&world, &method, &path, Some(key)).await;
            // What the key may not do at all is refused before anybody has looked whether the object is there.
            // Only those who run the coordinator see accounts at all.
            let expected = if key == may && !path.contains("/accounts/") { vec![404] } else { vec![403, 404] };
            assert!(expected.contains(&real.status.as_u16()), "{method} {path}: {}", real.text());
            let words = |answer: &Answer| (answer.json()["type"].clone(), answer.json()["detail"].clone());
            assert_eq!(words(&real), words(&invented), "{method} {path}");
        }
        seen += 1;
    }
    assert!(seen > 30);
    let start = json!({ "process": things.0["{process}"], "target": { "group": "all" } });
    let call = Call::new(world.router.clone(), Method::POST, "/jobs").key(&other_admin).json(&start);
    call.send().await.invalid(&["/process"]);
    for list in [
        "/robots",
        "/jobs",
        "/processes",
        "/keys",
        "/join-tokens",
        "/robot-groups",
        "/queues",
        "/tasks",
        "/resources",
        "/audit",
        "/storages",
        "/triggers",
        "/webhooks",
        "/alerts",
        "/alerts/raised",
        "/users",
        "/roles",
        "/sessions",
    ] {
        let call = Call::new(world.router.clone(), Method::GET, list).key(&other_admin);
        let page = call.send().await.ok();
        let ours = things.0.values().filter(|id| id.len() == 36).any(|id| page.to_string().contains(id.as_str()));
        assert!(!ours, "{list}: {page}");
    }
}

/// What a body or a filter names must be of the same account; otherwise it is a fault of that field, as if it were nowhere.
#[tokio::test]
async fn nothing_of_another_account_is_named() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    let (things, _) = Things::make(&world, &agent).await;
    let made = world.post("/accounts", json!({ "name": "other", "admin": { "login": "bob" } })).await.created();
    let key = text(&made, "/key");
    let call = |method: Method, path: &str| Call::new(world.router.clone(), method, path).key(&key);
    let post = |path: &str, body: Value| call(Method::POST, path).json(&body).send();
    post("/processes", json!({ "name": "own" })).await.created();
    let upload = call(Method::POST, "/processes/own/versions?activate=true").header("content-type", "application/zip");
    upload.body(package(&[("main.sh", "true")])).send().await.created();
    for (path, name) in [("/queues", "own"), ("/robot-groups", "own"), ("/robots", "own"), ("/storages", "own")] {
        post(path, json!({ "name": name })).await.created();
    }
    let task = text(&post("/queues/own/tasks", json!({ "payload": {} })).await.created(), "/id");
    let put = call(Method::PUT, "/storages/own/files/a").body("x");
    put.send().await.created();
    post("/resources", json!({ "name": "own", "kind": "text", "value": "x" })).await.created();
    for things in [&things, &things.by_names()] {
        let of = |noun: &str| things.0[noun].clone();
        let job = |target: Value| json!({ "process": "own", "target": target });
        let trigger = |process: String, target: Value| json!({ "name": "t2", "process": process, "target": target, "kind": "continuous", "continuous": { "jobs": 1 } });
        let own = || json!({ "group": "own" });
        for (path, body, pointer) in [
            ("/jobs", json!({ "process": of("{process}"), "target": own() }), "/process"),
            ("/jobs", job(json!({ "robot": of("{robot}") })), "/target/robot"),
            ("/jobs", job(json!({ "group": of("{group}") })), "/target/group"),
            ("/triggers", trigger(of("{process}"), own()), "/process"),
            ("/triggers", trigger("own".to_owned(), json!({ "robot": of("{robot}") })), "/target/robot"),
            ("/triggers", trigger("own".to_owned(), json!({ "group": of("{group}") })), "/target/group"),
            ("/queues", json!({ "name": "q2", "on_success_queue": of("{queue}") }), "/on_success_queue"),
            ("/robots", json!({ "name": "r2", "groups": [of("{group}")] }), "/groups/0"),
            ("/join-tokens", json!({ "group": of("{group}") }), "/group"),
            ("/users", json!({ "login": "x", "roles": [of("{role}")] }), "/roles/0"),
            (
                "/tasks/bulk-action",
                json!({ "filter": { "queue": of("{queue}") }, "action": "retry", "dry_run": true }),
                "/filter/queue",
            ),
            (
                "/tasks/bulk-action",
                json!({ "filter": {}, "action": "move", "value": of("{queue}"), "dry_run": true }),
                "/value",
            ),
            ("/storages/own/copy", json!({ "path": "a", "to_folder": of("{folder}"), "to_path": "b" }), "/to_folder"),
        ] {
            post(path, body).await.invalid(&[pointer]);
        }
        let moved = call(Method::PATCH, &format!("/tasks/{task}")).json(&json!({ "queue": of("{queue}") }));
        moved.send().await.invalid(&["/queue"]);
        for (path, field) in [
            (format!("/jobs?process={}", of("{process}")), "process"),
            (format!("/jobs?robot={}", of("{robot}")), "robot"),
            (format!("/jobs?group={}", of("{group}")), "group"),
            (format!("/robots?group={}", of("{group}")), "group"),
            (format!("/tasks?queue={}", of("{queue}")), "queue"),
            (format!("/triggers?process={}", of("{process}")), "process"),
            (format!("/users?role={}", of("{role}")), "role"),
            (format!("/resources/own/value?robot={}", of("{robot}")), "robot"),
        ] {
            call(Method::GET, &path).send().await.invalid(&[field]);
        }
        for path in [
            format!("/robot-groups/own/robots/{}", of("{robot}")),
            format!("/robot-groups/{}/robots/own", of("{group}")),
        ] {
            call(Method::PUT, &path).send().await.expect(404);
        }
        for (kind, noun) in [("robot", "{robot}"), ("group", "{group}")] {
            let path = format!("/resources/own/overrides/{kind}/{}", of(noun));
            call(Method::PUT, &path).json(&json!({ "value": "y" })).send().await.expect(404);
        }
    }
    let found = call(Method::GET, &format!("/logs?job={}", things.0["{job}"])).send().await.ok();
    assert_eq!(found["items"], json!([]));
}

/// A 403 names the permission that is missing, so that an administrator knows what to give.
#[tokio::test]
async fn what_is_missing_is_named() {
    let world = World::new().await;
    let key = world.key_with(&["robot:read"]).await;
    let problem = world.call(Method::GET, "/jobs").key(&key).send().await.expect(403).refused("forbidden");
    assert!(text(&problem, "/detail").contains("job:read"), "{problem}");
}
