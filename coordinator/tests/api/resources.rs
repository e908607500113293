//! Resources: kinds, whose value counts, who may read and set it, versions, expiry; and that sealed values are nowhere to
//! be found but where they are asked for.

use drover_coordinator::operations::idempotency::request_digest;
use drover_protocol::AccountId;
use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Agent, Answer, Call, World, each, package, text};

const SECRET: &str = "tr0ub4dor-and-three";

async fn make(world: &World, name: &str, kind: &str, value: Value) -> Value {
    world.post("/resources", json!({ "name": name, "kind": kind, "value": value })).await.created()
}

async fn put(world: &World, path: &str, value: Value) -> Answer {
    world.call(Method::PUT, path).json(&json!({ "value": value })).send().await
}

async fn value(world: &World, path: &str) -> Value {
    world.get(path).await.ok()["value"].clone()
}

/// A process whose version declares these resources.
async fn process_with(world: &World, name: &str, resources: &[&str]) -> String {
    let manifest = format!(
        "[process]\nname = \"{name}\"\n[run]\ncommand = [\"sh\", \"main.sh\"]\n[requires]\nresources = {resources:?}\n"
    );
    let id = text(&world.post("/processes", json!({ "name": name })).await.created(), "/id");
    let files = [("process.toml", manifest.as_str()), ("main.sh", "true")];
    world.upload(&id, "?activate=true", &package(&files)).await.created();
    id
}

/// A job of such a process that runs on the robot: its assignment.
async fn job_with(world: &World, agent: &Agent, resources: &[&str]) -> Value {
    let name = format!(
        "needs {resources:?} {}",
        world.get("/processes?limit=1000").await.ok()["items"].as_array().unwrap().len()
    );
    let process = process_with(world, &name.replace(['"', '[', ']'], ""), resources).await;
    world.start(&process).await;
    let (job, assignment) = agent.take().await;
    agent.accept(&job, 1).await.ok();
    assignment
}

fn as_job(world: &World, assignment: &Value, method: Method, path: &str) -> Call {
    world.call(method, path).key(&text(assignment, "/key"))
}

async fn audited(world: &World, verb: &str) -> usize {
    let page = world.get(&format!("/audit?limit=1000&verb={verb}")).await.ok();
    page["items"].as_array().unwrap().len()
}

/// Every kind keeps what it is given; a value that does not fit is refused at its field.
#[tokio::test]
async fn each_kind_is_kept_and_read() {
    let world = World::new().await;
    let cases = [
        ("text", json!("line\nline"), json!(5)),
        ("integer", json!(-7), json!(1.5)),
        ("number", json!(1.5), json!("1.5")),
        ("boolean", json!(true), json!("true")),
        ("json", json!({"a": [1, null]}), Value::Null),
        ("credential", json!({"username": "u", "password": SECRET}), json!({"username": "u"})),
        ("secret", json!(SECRET), json!(12)),
        (
            "calendar",
            json!({"rest_days": ["saturday"], "holidays": ["2026-01-01"], "working_days": []}),
            json!({"holidays": ["yesterday"]}),
        ),
    ];
    for (kind, good, bad) in cases {
        let made = make(&world, kind, kind, good.clone()).await;
        let sealed = kind == "credential" || kind == "secret";
        assert_eq!((made["sealed"].clone(), made["has_value"].clone()), (json!(sealed), json!(true)));
        assert_eq!(made["value"], if sealed { Value::Null } else { good.clone() });
        let read = world.get(&format!("/resources/{kind}/value")).await;
        assert_eq!(read.header("cache-control"), Some("no-store"));
        let read = read.ok();
        assert_eq!((read["value"].clone(), read["scope"].clone()), (good, json!("default")));
        if !bad.is_null() {
            put(&world, &format!("/resources/{kind}/value"), bad).await.expect(422).refused("invalid");
        }
    }
    put(&world, "/resources/json/value", Value::Null).await.ok();
    assert_eq!(value(&world, "/resources/json/value").await, Value::Null);
    world.post("/resources", json!({ "name": "x", "kind": "password" })).await.expect(422);
    let unset = world.post("/resources", json!({ "name": "unset", "kind": "text" })).await.created();
    assert_eq!(unset["has_value"], false);
    world.get("/resources/unset/value").await.expect(404);
}

/// A text of a whole MiB is kept and stands in no list; a larger one is refused with the limit.
#[tokio::test]
async fn a_mebibyte_is_the_limit() {
    let world = World::new().await;
    let large = "x".repeat(1024 * 1024);
    let made = make(&world, "large", "text", json!(large)).await;
    assert_eq!((made["value"].clone(), made["size_bytes"].as_u64()), (Value::Null, Some(1024 * 1024 + 2)));
    assert_eq!(value(&world, "/resources/large/value").await, json!(large));
    let answer = put(&world, "/resources/large/value", json!("x".repeat(1024 * 1024 + 1))).await;
    assert!(text(&answer.expect(413).refused("too_large"), "/detail").contains("1048576"));
    // However its sender writes it: some escape all that is not ASCII, some more.
    let send = |method, path: &str, body: String| {
        world.call(method, path).header("content-type", "application/json").body(body)
    };
    let (escaped, written) = ("\\u0078".repeat(1024 * 1024), format!("{}!", "\\u044f".repeat(512 * 1024 - 1)));
    send(Method::PUT, "/resources/large/value", format!("{{\"value\":\"{written}\"}}")).send().await.ok();
    assert_eq!(value(&world, "/resources/large/value").await, json!(format!("{}!", "я".repeat(512 * 1024 - 1))));
    let new = format!("{{\"name\":\"escaped\",\"kind\":\"text\",\"value\":\"{escaped}\"}}");
    send(Method::POST, "/resources", new).send().await.created();
    assert_eq!(value(&world, "/resources/escaped/value").await, json!(large));
    world.post("/robots", json!({ "name": "r" })).await.created();
    let longer = format!("{{\"value\":\"{escaped}\\u0078\"}}");
    for path in ["/resources/escaped/value", "/resources/escaped/overrides/robot/r"] {
        let answer = send(Method::PUT, path, longer.clone()).send().await;
        assert!(text(&answer.expect(413).refused("too_large"), "/detail").contains("1048576"));
    }
    let secret = json!("s".repeat(64 * 1024));
    make(&world, "long secret", "secret", secret.clone()).await;
    assert_eq!(value(&world, "/resources/long%20secret/value").await, secret);
    assert_eq!(world.mentions(&[b's'; 64]), 0);
}

/// Robot before group by name before `all` before default; what is removed lets the next one count.
#[tokio::test]
async fn the_value_that_counts_is_the_nearest() {
    let world = World::new().await;
    let robot = world.agent("r").await.id;
    for group in ["b-group", "a-group", "other"] {
        world.post("/robot-groups", json!({ "name": group })).await.created();
    }
    world.patch("/robots/r", json!({ "groups": ["b-group", "a-group"] })).await.ok();
    make(&world, "n", "integer", json!(0)).await;
    let of_robot = "/resources/n/value?robot=r";
    assert_eq!(value(&world, of_robot).await, 0);
    let steps = [("group/all", 1), ("group/b-group", 2), ("group/other", 9), ("group/a-group", 3)];
    let seen = [1, 2, 2, 3];
    for ((path, number), seen) in steps.into_iter().zip(seen) {
        let set = put(&world, &format!("/resources/n/overrides/{path}"), json!(number)).await.ok();
        assert_eq!((set["current"].clone(), set["scope"].clone()), (json!(true), json!("group")));
        assert_eq!(value(&world, of_robot).await, seen);
    }
    put(&world, &format!("/resources/n/value?robot={robot}"), json!(4)).await.ok();
    let found = world.get(of_robot).await.ok();
    assert_eq!(
        (found["value"].clone(), text(&found, "/scope"), text(&found, "/scope_name")),
        (json!(4), "robot".into(), "r".into())
    );
    assert_eq!(value(&world, "/resources/n/value?group=other").await, 9);
    assert_eq!(value(&world, "/resources/n/value").await, 0);
    let whole = world.get("/resources/n").await.ok();
    assert_eq!(whole["override_count"], 5);
    let names: Vec<&str> =
        whole["overrides"].as_array().unwrap().iter().map(|one| one["scope_name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a-group", "all", "b-group", "other", "r"]);
    for (gone, then) in [("robot/r", 3), ("group/a-group", 2), ("group/b-group", 1), ("group/all", 0), ("group/all", 0)]
    {
        world.delete(&format!("/resources/n/overrides/{gone}")).await.done();
        assert_eq!(value(&world, of_robot).await, then);
    }
    world.get("/resources/n/value?robot=r&group=all").await.expect(422).invalid(&["group"]);
    world.get("/resources/n/value?robot=nobody").await.expect(422).invalid(&["robot"]);
    put(&world, "/resources/n/overrides/robot/nobody", json!(1)).await.expect(404);
    put(&world, "/resources/n/overrides/host/r", json!(1)).await.expect(404);
}

/// Robots and groups take their values with them when they are deleted.
#[tokio::test]
async fn values_go_with_their_robot_and_group() {
    let world = World::new().await;
    world.post("/robots", json!({ "name": "r" })).await.created();
    world.post("/robot-groups", json!({ "name": "g" })).await.created();
    make(&world, "s", "secret", json!(SECRET)).await;
    for number in 0..3 {
        put(&world, "/resources/s/overrides/robot/r", json!(format!("{SECRET}{number}"))).await.ok();
        put(&world, "/resources/s/overrides/group/g", json!(format!("{SECRET}{number}"))).await.ok();
    }
    world.delete("/robots/r").await.done();
    world.delete("/robot-groups/g").await.done();
    let whole = world.get("/resources/s").await.ok();
    assert_eq!((whole["override_count"].clone(), whole["overrides"].clone()), (json!(0), json!([])));
    assert_eq!(each(&world.get("/resources/s/versions").await.ok(), "version"), [1]);
}

/// The last twenty of each value are kept with who and when; the same value again is no new version, unless it is sealed,
/// where that would tell that a guess is right.
#[tokio::test]
async fn twenty_versions_are_kept() {
    let world = World::new().await;
    world.post("/robots", json!({ "name": "r" })).await.created();
    make(&world, "t", "text", json!("v1")).await;
    put(&world, "/resources/t/overrides/robot/r", json!("own")).await.ok();
    for number in 3..30 {
        put(&world, "/resources/t/value", json!(format!("v{number}"))).await.ok();
        put(&world, "/resources/t/value", json!(format!("v{number}"))).await.ok();
    }
    let versions = world.get("/resources/t/versions?limit=100").await.ok();
    let numbers = each(&versions, "version");
    assert_eq!(
        (numbers.len(), numbers[0].clone(), numbers[19].clone(), numbers[20].clone()),
        (21, 29.into(), 10.into(), 2.into())
    );
    assert_eq!(
        (text(&versions, "/items/0/value"), text(&versions, "/items/0/created_by")),
        ("v29".into(), "admin".into())
    );
    let current: Vec<Value> = each(&versions, "current");
    assert_eq!(current.iter().filter(|current| **current == json!(true)).count(), 2);
    let own = world.get("/resources/t/versions?robot=r").await.ok();
    assert_eq!(each(&own, "value"), ["own"]);
    make(&world, "s", "secret", json!(SECRET)).await;
    assert_eq!(put(&world, "/resources/s/value", json!(SECRET)).await.ok()["version"], 2);
}

/// Settings change by patch under a revision; names are taken once; what is deleted is gone with everything of it.
#[tokio::test]
async fn resources_are_changed_listed_and_deleted() {
    let world = World::new().await;
    let made = make(&world, "one", "text", json!("x")).await;
    make(&world, "Two", "integer", json!(2)).await;
    let taken = world.post("/resources", json!({ "name": "one", "kind": "text" })).await.expect(409);
    assert_eq!(taken.refused("already_exists")["id"], made["id"]);
    let patch = json!({ "name": "first", "description": "d", "writable_by_jobs": true });
    let stale = world.call(Method::PATCH, "/resources/one").header("if-match", "\"7\"").json(&patch);
    stale.send().await.expect(412);
    let changed = world.patch("/resources/one", patch).await.ok();
    assert_eq!((changed["revision"].as_u64(), text(&changed, "/name")), (Some(2), "first".into()));
    world.get("/resources/one").await.expect(404);
    world.patch("/resources/first", json!({ "name": "Two" })).await.expect(409);
    world.patch("/resources/first", json!({ "kind": "secret" })).await.expect(422);
    assert_eq!(each(&world.get("/resources").await.ok(), "name"), ["Two", "first"]);
    assert_eq!(each(&world.get("/resources?kind=text").await.ok(), "name"), ["first"]);
    assert_eq!(each(&world.get("/resources?q=tW").await.ok(), "name"), ["Two"]);
    let stale = world.call(Method::PUT, "/resources/first/value").header("if-match", "\"1\"");
    stale.json(&json!({ "value": "y" })).send().await.expect(412);
    let pairs = world.pairs().into_iter().filter(|(key, _)| !key.starts_with(b"a")).count();
    let large = make(&world, "gone", "text", json!("x".repeat(200_000))).await;
    for number in 0..25 {
        put(&world, "/resources/gone/value", json!(number.to_string())).await.ok();
    }
    world.delete("/resources/gone").await.done();
    world.get(&format!("/resources/{}", text(&large, "/id"))).await.expect(404);
    world.delete("/resources/gone").await.expect(404);
    let left = world.pairs().into_iter().filter(|(key, _)| !key.starts_with(b"a")).count();
    assert_eq!(left, pairs, "something of it is left");
    make(&world, "gone", "text", json!("x")).await;
}

/// Expiry is shown and listed, the soonest first, and told by events.
#[tokio::test]
async fn expiry_is_shown_listed_and_told() {
    let world = World::new().await;
    let at = |days: u64| world.now().plus_seconds(days * 86_400).to_string();
    for (name, days) in [("late", 40), ("soon", 3), ("sooner", 2)] {
        let new = json!({ "name": name, "kind": "text", "value": "x", "expires_at": at(days) });
        world.post("/resources", new).await.created();
    }
    make(&world, "never", "text", json!("x")).await;
    assert_eq!(each(&world.get("/resources?expiring=true").await.ok(), "name"), ["sooner", "soon"]);
    assert_eq!(each(&world.get("/resources?expiring=50").await.ok(), "name"), ["sooner", "soon", "late"]);
    world.get("/resources?expiring=maybe").await.expect(422).invalid(&["expiring"]);
    assert_eq!(world.get("/resources/soon").await.ok()["expired"], false);
    let tend = async || drover_coordinator::background::resources::pass(&world.app).await.unwrap();
    tend().await;
    world.move_clock(3 * 86_400);
    tend().await;
    tend().await;
    assert_eq!(world.get("/resources/soon").await.ok()["expired"], true);
    assert_eq!(world.get("/resources/soon/value").await.ok()["expired"], true);
    let codes = async |name: &str| each(&world.get(&format!("/resources/{name}/events")).await.ok(), "code");
    assert_eq!(codes("soon").await, ["resource_expired", "resource_expiring", "resource_created"]);
    assert_eq!(codes("late").await, ["resource_created"]);
    world.patch("/resources/soon", json!({ "expires_at": null })).await.ok();
    assert_eq!(world.get("/resources/soon").await.ok()["expired"], false);
}

/// A sealed value is in no list, no object, no event, no audit record, no log of versions, and not readable in the store; and
/// a copy of one under another name cannot be opened.
#[tokio::test]
async fn sealed_values_are_nowhere_to_be_found() {
    let world = World::new().await;
    world.post("/robots", json!({ "name": "r" })).await.created();
    make(&world, "login", "credential", json!({ "username": "erp-user-77", "password": SECRET })).await;
    make(&world, "key", "secret", json!(format!("{SECRET}-2"))).await;
    put(&world, "/resources/key/overrides/robot/r", json!(format!("{SECRET}-3"))).await.ok();
    let once = json!({ "name": "repeated", "kind": "secret", "value": SECRET });
    let call = || world.call(Method::POST, "/resources").header("idempotency-key", "again").json(&once);
    assert_eq!(call().send().await.created(), call().send().await.created());
    for path in [
        "/resources",
        "/resources/login",
        "/resources/key",
        "/resources/key/versions",
        "/resources/login/versions",
        "/audit",
    ] {
        let page = world.get(path).await.ok().to_string();
        assert!(!page.contains(SECRET) && !page.contains("erp-user-77"), "{path}: {page}");
    }
    assert_eq!(world.mentions(SECRET.as_bytes()) + world.mentions(b"erp-user-77"), 0);
    // Nor is there a digest of the request, by which whoever has the store could tell whether a guess is right.
    for path in ["/resources", "/api/v1/resources"] {
        let digest = request_digest(&[b"POST", path.as_bytes(), once.to_string().as_bytes()]);
        let listed = digest.map(|byte| byte.to_string()).join(",");
        assert_eq!(world.mentions(&digest) + world.mentions(listed.as_bytes()), 0, "{path}");
    }
    assert_eq!(value(&world, "/resources/key/value?robot=r").await, json!(format!("{SECRET}-3")));
    assert_eq!(value(&world, "/resources/login/value").await["password"], SECRET);
    // Reading them has left nothing behind either.
    assert_eq!(world.mentions(SECRET.as_bytes()), 0);
}

/// Whoever swaps sealed values in the store gets none of them opened: each is bound to its account, resource, scope and
/// version.
#[tokio::test]
async fn sealed_values_cannot_be_exchanged() {
    use drover_coordinator::{
        domain::resource::{ResourceValue, Scope},
        operations::resource_value::content,
        store::Reader,
    };
    let world = World::new().await;
    let id = text(&make(&world, "s", "secret", json!(SECRET)).await, "/id").parse().unwrap();
    let app = &world.app;
    let kept = app.db.read(world.account, |reading| {
        drover_coordinator::operations::resource_value::current(reading, id, Scope::Default)
    });
    let kept: ResourceValue = kept.unwrap().unwrap();
    let open = |account: AccountId, value: &ResourceValue| {
        app.db.read(account, |reading: &Reader| content(reading, value, &app.secrets))
    };
    assert_eq!(open(world.account, &kept).unwrap(), json!(SECRET).to_string().into_bytes());
    let other = Uuid::from_u128(9);
    let group = Scope::Group(drover_protocol::RobotGroupId::from_uuid(other));
    let resource_id = drover_protocol::ResourceId::from_uuid(other);
    assert!(open(AccountId::from_uuid(other), &kept).is_err());
    for moved in [
        ResourceValue { number: 2, ..kept.clone() },
        ResourceValue { scope: group, ..kept.clone() },
        ResourceValue { resource_id, ..kept.clone() },
    ] {
        assert!(open(world.account, &moved).is_err(), "{moved:?}");
    }
}

/// Sealed values are read by the administrator, and by the key of a job that declares them; by nobody else. Each reading is
/// in the audit trail, and a refused one leaves nothing.
#[tokio::test]
async fn only_those_who_may_read_a_secret() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    make(&world, "mine", "secret", json!(SECRET)).await;
    make(&world, "theirs", "secret", json!("another secret")).await;
    let theirs = text(&world.get("/resources/theirs").await.ok(), "/id");
    let job = job_with(&world, &agent, &["mine", "not there"]).await;
    assert_eq!(job["secrets_to_mask"], json!([SECRET]));
    let read = as_job(&world, &job, Method::GET, "/resources/mine/value").send().await.ok();
    assert_eq!(read["value"], SECRET);
    assert_eq!(audited(&world, "read_value").await, 1);
    let reading = world.get("/audit?verb=read_value").await.ok();
    assert_eq!(text(&reading, "/items/0/actor"), format!("job:{}", text(&job, "/job/id")));
    assert_eq!(audited(&world, "hand_out_values").await, 1);
    // What is not declared is refused in the same words, whether it is there or not.
    let refused = async |path: &str| as_job(&world, &job, Method::GET, path).send().await;
    refused("/resources/theirs/value").await.expect(403);
    refused("/resources/invented/value").await.expect(403);
    refused("/resources/not%20there/value").await.expect(404);
    refused(&format!("/resources/{theirs}/value")).await.expect(404);
    for path in ["/resources", "/resources/mine", "/resources/mine/versions", "/audit", "/audit/verify"] {
        refused(path).await.expect(403);
    }
    for path in ["/resources/mine/value?robot=other", "/resources/mine/value?group=all"] {
        refused(path).await.expect(403);
    }
    refused("/resources/mine/value?robot=r").await.ok();
    let viewer = world.key_with(&["resource:read"]).await;
    for key in [&agent.key, &viewer] {
        world.call(Method::GET, "/resources/mine/value").key(key).send().await.expect(403);
    }
    let other = world.new_account(AccountId::from_uuid(Uuid::from_u128(0xacc1)), "other").await;
    world.call(Method::GET, "/resources/mine/value").key(&other).send().await.expect(404);
    assert_eq!(audited(&world, "read_value").await, 2);
    // With the attempt its key ends.
    agent.finish(&text(&job, "/job/id"), 1, json!({})).await.done();
    refused("/resources/mine/value").await.expect(401);
}

/// A plain value is read by a viewer, a sealed one is not, and neither is set by one.
#[tokio::test]
async fn viewers_read_plain_values_and_set_none() {
    let world = World::new().await;
    make(&world, "plain", "text", json!("x")).await;
    let viewer = world.key_with(&["resource:read"]).await;
    let call = |method, path: &str| world.call(method, path).key(&viewer);
    assert_eq!(call(Method::GET, "/resources/plain/value").send().await.ok()["value"], "x");
    let set = call(Method::PUT, "/resources/plain/value").json(&json!({ "value": "y" }));
    assert!(text(&set.send().await.expect(403).json(), "/detail").contains("resource:write_value"));
}

/// A job reads the sealed value that its agent was given to mask, whatever has changed since; the next attempt has the new
/// one. Plain values it reads as they are. User names are not masked: they are no secrets, and may be common words.
#[tokio::test]
async fn a_job_reads_what_its_agent_masks() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    make(&world, "s", "secret", json!("first-secret")).await;
    make(&world, "c", "credential", json!({ "username": "user-name", "password": "pass-word" })).await;
    make(&world, "t", "text", json!("before")).await;
    let job = job_with(&world, &agent, &["s", "c", "t"]).await;
    assert_eq!(job["secrets_to_mask"], json!(["first-secret", "pass-word"]));
    let id = text(&job, "/job/id");
    put(&world, "/resources/s/value", json!("second-secret")).await.ok();
    put(&world, "/resources/s/overrides/robot/r", json!("third-secret")).await.ok();
    put(&world, "/resources/t/value", json!("after")).await.ok();
    let read = async |assignment: &Value, name: &str| {
        as_job(&world, assignment, Method::GET, &format!("/resources/{name}/value")).send().await
    };
    assert_eq!(read(&job, "s").await.ok()["value"], "first-secret");
    assert_eq!(read(&job, "t").await.ok()["value"], "after");
    agent.fail(&id, 1).await.done();
    world.act(&format!("/jobs/{id}/retry")).await.ok();
    let (_, again) = agent.take().await;
    assert_eq!(again["secrets_to_mask"], json!(["third-secret", "pass-word"]));
    agent.accept(&id, 2).await.ok();
    assert_eq!(read(&again, "s").await.ok()["value"], "third-secret");
    // A value of which nothing is kept any more is refused, not replaced by one that the agent does not know.
    world.delete("/resources/s/overrides/robot/r").await.done();
    read(&again, "s").await.expect(409).refused("wrong_state");
    world.delete("/resources/c").await.done();
    make(&world, "c", "credential", json!({ "username": "u2", "password": "p2" })).await;
    read(&again, "c").await.expect(409).refused("wrong_state");
}

/// An assignment whose answer was lost is given again with the very same texts to mask.
#[tokio::test]
async fn a_lost_assignment_is_given_again_with_its_masks() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    make(&world, "s", "secret", json!("first-secret")).await;
    let process = process_with(&world, "p", &["s"]).await;
    world.start(&process).await;
    let (_, lost) = agent.take().await;
    put(&world, "/resources/s/value", json!("second-secret")).await.ok();
    let (_, again) = agent.take().await;
    assert_eq!(lost["secrets_to_mask"], again["secrets_to_mask"]);
    assert_eq!(audited(&world, "hand_out_values").await, 1);
}

/// A job sets a value only if the resource says so, and only the one that it reads or its own robot's.
#[tokio::test]
async fn jobs_set_values_only_where_they_may() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    world.post("/robot-groups", json!({ "name": "g" })).await.created();
    world.patch("/robots/r", json!({ "groups": ["g"] })).await.ok();
    make(&world, "closed", "text", json!("x")).await;
    make(&world, "other", "text", json!("x")).await;
    make(&world, "open", "secret", json!("old-password")).await;
    world.patch("/resources/open", json!({ "writable_by_jobs": true })).await.ok();
    put(&world, "/resources/open/overrides/group/g", json!("group-password")).await.ok();
    let job = job_with(&world, &agent, &["closed", "open"]).await;
    let set = async |path: &str, value: &str| {
        as_job(&world, &job, Method::PUT, path).json(&json!({ "value": value })).send().await
    };
    let refusal = set("/resources/closed/value", "y").await.expect(403).json();
    assert!(text(&refusal, "/detail").contains("writable_by_jobs"), "{refusal}");
    set("/resources/other/value", "y").await.expect(403);
    set("/resources/open/value?group=g", "y").await.expect(403);
    set("/resources/open/overrides/robot/r", "y").await.expect(403);
    as_job(&world, &job, Method::DELETE, "/resources/open/overrides/group/g").send().await.expect(403);
    let done = set("/resources/open/value", "new-password").await.ok();
    assert_eq!((text(&done, "/scope"), done["value"].clone()), ("group".into(), Value::Null));
    assert_eq!(value(&world, "/resources/open/value?group=g").await, "new-password");
    assert_eq!(value(&world, "/resources/open/value").await, "old-password");
    let read = as_job(&world, &job, Method::GET, "/resources/open/value").send().await.ok();
    assert_eq!(read["value"], "new-password");
    assert_eq!(text(&set("/resources/open/value?robot=r", "robot-password").await.ok(), "/scope"), "robot");
    assert_eq!(value(&world, "/resources/open/value?robot=r").await, "robot-password");
}

/// A robot that has come into another group since the assignment sets the login that its job was given, never that of the
/// other group.
#[tokio::test]
async fn a_job_sets_the_sealed_value_that_it_was_given() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    let login = |name: &str| json!({ "username": name, "password": format!("{name}-password") });
    make(&world, "login", "credential", login("default")).await;
    world.patch("/resources/login", json!({ "writable_by_jobs": true })).await.ok();
    for group in ["ga", "gb"] {
        world.post("/robot-groups", json!({ "name": group })).await.created();
        put(&world, &format!("/resources/login/overrides/group/{group}"), login(group)).await.ok();
    }
    world.patch("/robots/r", json!({ "groups": ["ga"] })).await.ok();
    let job = job_with(&world, &agent, &["login"]).await;
    world.patch("/robots/r", json!({ "groups": ["gb"] })).await.ok();
    let set = async |query: &str, name: &str| {
        let call = as_job(&world, &job, Method::PUT, &format!("/resources/login/value{query}"));
        call.json(&json!({ "value": login(name) })).send().await
    };
    assert_eq!(text(&set("", "new").await.ok(), "/scope_name"), "ga");
    assert_eq!(value(&world, "/resources/login/value?group=ga").await, login("new"));
    // With the login of its group what the job was given is gone, and says of no other value that it is the same.
    world.delete("/resources/login/overrides/group/ga").await.done();
    let refusal = set("", "newer").await.expect(409).refused("wrong_state");
    assert!(text(&refusal, "/detail").contains("next attempt"), "{refusal}");
    assert_eq!(value(&world, "/resources/login/value?group=gb").await, login("gb"));
    assert_eq!(value(&world, "/resources/login/value").await, login("default"));
    assert_eq!(text(&set("?robot=r", "own").await.ok(), "/scope"), "robot");
    // What the job has set itself it reads back at once, and its agent masks it from the next attempt on.
    let read = as_job(&world, &job, Method::GET, "/resources/login/value").send().await.ok();
    assert_eq!(read["value"], login("own"));
    let id = text(&job, "/job/id");
    agent.fail(&id, 1).await.done();
    world.act(&format!("/jobs/{id}/retry")).await.ok();
    assert_eq!(agent.take().await.1["secrets_to_mask"], json!(["own-password"]));
}

/// Where there was no sealed value, a job sets the first; one that somebody else has set meanwhile it leaves.
#[tokio::test]
async fn a_job_sets_the_first_sealed_value() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    for name in ["empty", "filled"] {
        let new = json!({ "name": name, "kind": "secret", "writable_by_jobs": true });
        world.post("/resources", new).await.created();
    }
    let job = job_with(&world, &agent, &["empty", "filled"]).await;
    put(&world, "/resources/filled/value", json!(SECRET)).await.ok();
    let set = async |name: &str| {
        let call = as_job(&world, &job, Method::PUT, &format!("/resources/{name}/value"));
        call.json(&json!({ "value": "new-secret" })).send().await
    };
    assert_eq!(text(&set("empty").await.ok(), "/scope"), "default");
    set("filled").await.expect(409).refused("wrong_state");
    assert_eq!(value(&world, "/resources/filled/value").await, SECRET);
}

/// A deletion that was interrupted is ended by the loop; nobody finds the resource meanwhile.
#[tokio::test]
async fn an_interrupted_deletion_is_ended_later() {
    let world = World::new().await;
    let id = text(&make(&world, "s", "secret", json!(SECRET)).await, "/id").parse().unwrap();
    let admin = world.app.clone();
    // The first transaction of the call alone, as if the coordinator had ended then.
    admin
        .db
        .write(world.account, move |tx| {
            use drover_coordinator::{domain::resource::Resource, store::table};
            let mut resource: Resource = table::get(tx, id)?;
            resource.removed = true;
            table::update(tx, &mut resource)
        })
        .await
        .unwrap();
    world.get("/resources/s").await.expect(404);
    world.get("/resources/s/value").await.expect(404);
    assert_eq!(each(&world.get("/resources").await.ok(), "name"), Vec::<Value>::new());
    assert_eq!(each(&world.get("/resources?expiring=true").await.ok(), "name"), Vec::<Value>::new());
    drover_coordinator::background::resources::pass(&world.app).await.unwrap();
    assert_eq!(
        world.pairs().iter().filter(|(key, _)| key.starts_with(b"r") && [b's', b'v', b'x'].contains(&key[1])).count(),
        0
    );
}

/// All that is sealed is sealed anew, page by page, and at any moment between two pages everything can be opened.
#[tokio::test]
async fn sealing_anew_can_be_interrupted_anywhere() {
    use drover_coordinator::{
        operations::rotation::{SEALED, reseal_page},
        secrets::Secrets,
    };
    let world = World::new().await;
    let app = &world.app;
    for number in 0..5 {
        make(&world, &format!("s{number}"), "secret", json!(format!("{SECRET}{number}"))).await;
    }
    make(&world, "large", "secret", json!("L".repeat(30_000))).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secrets.key");
    std::fs::write(&path, [3; 32]).unwrap();
    let during =
        std::sync::Arc::new(Secrets::begin_rotation(&path, &drover_coordinator::clock::SystemRandomness).unwrap());
    let openable = |secrets: &Secrets| {
        app.db
            .read(world.account, |reading| {
                use drover_coordinator::{
                    domain::resource::ResourceValue,
                    operations::resource_value,
                    store::{Scan, key::Kind},
                };
                let values = Scan::of(reading, Kind::ResourceValue, ()).records::<ResourceValue>(reading, 100)?;
                Ok(values.iter().filter(|(_, value)| resource_value::content(reading, value, secrets).is_ok()).count())
            })
            .unwrap()
    };
    let mut resealed = 0;
    for kind in SEALED {
        let mut after = None;
        loop {
            let secrets = std::sync::Arc::clone(&during);
            let (count, next) =
                app.db.write(world.account, move |tx| reseal_page(tx, kind, &secrets, after, 2)).await.unwrap();
            resealed += count;
            assert_eq!(
                openable(&Secrets::open(&path, false, &drover_coordinator::clock::SystemRandomness).unwrap()),
                6
            );
            after = next;
            if after.is_none() {
                break;
            }
        }
    }
    assert_eq!(resealed, 7, "six values and the administrator's key");
    let after = Secrets::end_rotation(&path).unwrap();
    assert_eq!((openable(&after), openable(&Secrets::from_bytes(&[3; 32]))), (6, 0));
}

/// A calendar comes from an iCalendar file and goes out as one; what is not understood is refused with the name of the event.
#[tokio::test]
async fn calendars_come_and_go_as_icalendar() {
    let world = World::new().await;
    world.post("/robots", json!({ "name": "r" })).await.created();
    let days =
        json!({ "rest_days": ["saturday", "sunday"], "holidays": ["2020-01-01"], "working_days": ["2026-11-01"] });
    make(&world, "days", "calendar", days).await;
    make(&world, "text", "text", json!("x")).await;
    let event = |more: &str| {
        format!(
            "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nBEGIN:VEVENT\r\nSUMMARY:Victory\r\n{more}\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
        )
    };
    let import = |path: &str, body: String| {
        world.call(Method::PUT, path).header("content-type", "text/calendar; charset=utf-8").body(body)
    };
    let good = event("DTSTART;VALUE=DATE:20260509\r\nRRULE:FREQ=YEARLY;COUNT=2");
    import("/resources/days/value", good.clone()).send().await.ok();
    let expected = json!({ "rest_days": ["saturday", "sunday"], "holidays": ["2026-05-09", "2027-05-09"],
        "working_days": ["2026-11-01"] });
    assert_eq!(value(&world, "/resources/days/value").await, expected);
    let export = world.call(Method::GET, "/resources/days/value").header("accept", "text/calendar").send().await;
    assert_eq!(export.content_type(), "text/calendar; charset=utf-8");
    // What was exported is the same calendar elsewhere.
    import("/resources/days/overrides/robot/r", export.expect(200).text()).send().await.ok();
    assert_eq!(value(&world, "/resources/days/value?robot=r").await, expected);
    let unsure = import("/resources/days/value", event("DTSTART:20260509T090000Z")).send().await.expect(422);
    assert!(unsure.refused("invalid").to_string().contains("Victory"));
    import("/resources/text/value", good).send().await.expect(422);
    import("/resources/days/value", "no calendar".to_owned()).send().await.expect(422);
    import("/resources/days/value", "x".repeat(1024 * 1024 + 1)).send().await.expect(413);
    let call = world.call(Method::GET, "/resources/text/value").header("accept", "text/calendar");
    call.send().await.expect(406);
    let call = world.call(Method::PUT, "/resources/days/value").header("content-type", "text/plain").body("x");
    call.send().await.expect(415);
    assert_eq!(value(&world, "/resources/days/value").await, expected);
}

/// Whoever reaches some robot groups sees the values of these and of their robots, and nothing of any others: neither in
/// the resource itself nor in its versions and events. Pages go on where much is left out.
#[tokio::test]
async fn values_of_robots_and_groups_out_of_reach_are_not_told() {
    let world = World::new().await;
    for group in ["fin", "hr"] {
        world.post("/robot-groups", json!({ "name": group })).await.created();
        world.post("/robots", json!({ "name": format!("{group}-robot"), "groups": [group] })).await.created();
    }
    make(&world, "limit", "integer", json!(11)).await;
    let holders = ["group/fin", "group/hr", "robot/fin-robot", "robot/hr-robot"];
    for (holder, number) in holders.into_iter().zip([22, 44, 33, 55]) {
        put(&world, &format!("/resources/limit/overrides/{holder}"), json!(number)).await.ok();
    }
    world.delete("/resources/limit/overrides/robot/hr-robot").await.done();
    put(&world, "/resources/limit/overrides/robot/hr-robot", json!(56)).await.ok();
    let role = json!({ "name": "finance", "permissions": ["resource:*"], "limits": { "robot_groups": ["fin"] } });
    world.post("/roles", role).await.created();
    let ann = world.post("/users", json!({ "login": "ann", "roles": ["finance"] })).await.created();
    let key = text(&ann, "/key");
    let get = async |path: &str| world.call(Method::GET, path).key(&key).send().await.ok();

    let whole = get("/resources/limit").await;
    let names = |list: &Value| each(list, "scope_name");
    assert_eq!(names(&json!({ "items": whole["overrides"] })), ["fin", "fin-robot"]);
    assert_eq!(world.get("/resources/limit").await.ok()["overrides"].as_array().unwrap().len(), 4);
    let patch = world.call(Method::PATCH, "/resources/limit").key(&key).json(&json!({ "description": "x" }));
    assert_eq!(patch.send().await.ok()["overrides"], whole["overrides"]);

    let versions = get("/resources/limit/versions").await;
    assert_eq!(each(&versions, "value"), [json!(33), json!(22), json!(11)]);
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = get(&format!("/resources/limit/versions?limit=1{cursor}")).await;
        paged.extend(each(&page, "value"));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(paged, each(&versions, "value"));

    let told = get("/resources/limit/events?limit=1000").await.to_string();
    assert!(told.contains("the value for fin was") && told.contains("the value for fin-robot was"), "{told}");
    assert!(!told.contains("hr"), "{told}");
    put(&world, "/resources/limit/value", json!(12)).await.ok();
    let told = get("/resources/limit/events?limit=1").await;
    assert!(text(&told, "/items/0/text").contains("default"), "{told}");
    let all = world.get("/resources/limit/events?limit=1000").await.ok();
    assert_eq!(all["items"].as_array().unwrap().len(), 9, "{all}");
    // A robot that comes into the group comes into view with its value.
    world.patch("/robots/hr-robot", json!({ "groups": ["hr", "fin"] })).await.ok();
    let whole = get("/resources/limit").await;
    assert_eq!(names(&json!({ "items": whole["overrides"] })), ["fin", "fin-robot", "hr-robot"]);
}

/// A robot or group without a calendar of its own goes by another one: what a file does not say stays as it counted for it.
#[tokio::test]
async fn an_imported_calendar_keeps_the_rest_days_that_counted() {
    let world = World::new().await;
    let robot = text(&world.post("/robots", json!({ "name": "r" })).await.created(), "/id");
    for group in ["g1", "g2"] {
        world.post("/robot-groups", json!({ "name": group })).await.created();
    }
    world.call(Method::PUT, &format!("/robot-groups/g2/robots/{robot}")).send().await.done();
    let days = json!({ "rest_days": ["saturday", "sunday"], "holidays": ["2026-01-01"] });
    make(&world, "days", "calendar", days).await;
    let of_group = json!({ "value": { "rest_days": ["friday"], "working_days": ["2026-11-06"] } });
    world.call(Method::PUT, "/resources/days/overrides/group/g2").json(&of_group).send().await.expect(200);
    let file = "BEGIN:VCALENDAR\nBEGIN:VEVENT\nDTSTART;VALUE=DATE:20270101\nEND:VEVENT\nEND:VCALENDAR\n";
    let import = async |path: &str| {
        world.call(Method::PUT, path).header("content-type", "text/calendar").body(file).send().await
    };
    import("/resources/days/overrides/group/g1").await.ok();
    let found = value(&world, "/resources/days/value?group=g1").await;
    assert_eq!((&found["rest_days"], &found["holidays"]), (&json!(["saturday", "sunday"]), &json!(["2027-01-01"])));
    import("/resources/days/value?robot=r").await.ok();
    let found = value(&world, "/resources/days/value?robot=r").await;
    assert_eq!((&found["rest_days"], &found["working_days"]), (&json!(["friday"]), &json!(["2026-11-06"])));
    assert_eq!(found["holidays"], json!(["2027-01-01"]));
}

/// Programs fold a line after 75 bytes, in the middle of a letter if need be: only what is joined again is text.
#[tokio::test]
async fn a_calendar_may_be_folded_within_a_letter() {
    let world = World::new().await;
    make(&world, "days", "calendar", json!({ "holidays": ["2026-01-01"] })).await;
    let file = |summary: &[u8]| {
        let begin: &[u8] = b"BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nDTSTART;VALUE=DATE:20260509\r\nSUMMARY:";
        [begin, summary, b"\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"].concat()
    };
    let import = async |body: Vec<u8>| {
        let call = world.call(Method::PUT, "/resources/days/value").header("content-type", "text/calendar");
        call.body(body).send().await
    };
    let (begin, end) = "День Победы".as_bytes().split_at(12);
    import(file(&[begin, b"\r\n ", end].concat())).await.ok();
    assert_eq!(value(&world, "/resources/days/value").await["holidays"], json!(["2026-05-09"]));
    import(file(begin)).await.expect(400).refused("bad_request");
    import(file(&[begin, b"\r\n", end].concat())).await.expect(400).refused("bad_request");
}
