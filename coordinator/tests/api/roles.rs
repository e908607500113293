//! Roles: built in and made, what they give, how far they reach, and that nobody gives more than they have.

use std::time::Duration;

use futures::StreamExt;
use http::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Call, World, each, settle, text};

/// The key of a new user with these roles.
pub async fn user_with(world: &World, login: &str, roles: &[&str]) -> String {
    text(&world.post("/users", json!({ "login": login, "roles": roles })).await.created(), "/key")
}

async fn role(world: &World, name: &str, permissions: &[&str], limits: Value) -> String {
    let role = json!({ "name": name, "permissions": permissions, "limits": limits });
    text(&world.post("/roles", role).await.created(), "/id")
}

/// Calls with one key.
struct As<'a>(&'a World, &'a str);

impl As<'_> {
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let call = Call::new(self.0.router.clone(), method, path).key(self.1);
        match body {
            Some(body) => call.json(&body).send().await,
            None => call.send().await,
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, Some(body)).await
    }

    async fn patch(&self, path: &str, body: Value) -> Answer {
        self.call(Method::PATCH, path, Some(body)).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, None).await
    }
}

/// Built-in roles come first and stay as they are; others are made, found by id and name, changed by revision, paged
/// through, and deleted only when nobody has them.
#[tokio::test]
async fn roles_are_made_changed_and_deleted() {
    let world = World::new().await;
    let built_in = world.get("/roles").await.ok();
    assert_eq!(each(&built_in, "name"), ["admin", "operator", "developer", "viewer", "robot"]);
    for name in ["admin", "viewer"] {
        world.patch(&format!("/roles/{name}"), json!({ "description": "x" })).await.refused("wrong_state");
        world.delete(&format!("/roles/{name}")).await.refused("wrong_state");
    }
    let made = world.post("/roles", json!({ "name": "night", "permissions": ["job:*", "queue:read"] })).await.created();
    assert_eq!(made["permissions"], json!(["job:*", "queue:read"]));
    let granted = made["granted"].as_array().unwrap();
    assert!(granted.contains(&json!("job:close")) && granted.contains(&json!("queue:read")) && granted.len() == 7);
    world.post("/roles", json!({ "name": "night", "permissions": [] })).await.refused("already_exists");
    world.post("/roles", json!({ "name": "admin", "permissions": [] })).await.invalid(&["/name"]);
    let bad = json!({ "name": "x", "permissions": ["job:fly", "*:read", "agent:*"],
        "limits": { "queues": [""] } });
    let pointers = ["/permissions/0", "/permissions/1", "/permissions/2", "/limits/queues/0"];
    let problem = world.post("/roles", bad).await.invalid(&pointers);
    let why = text(&problem, "/errors/0/detail");
    assert!(why.contains("job:fly") && why.contains("drover role show admin"), "{why}");
    let id = text(&made, "/id");
    assert_eq!(world.get("/roles/night").await.ok(), world.get(&format!("/roles/{id}")).await.ok());
    let patch = world.call(Method::PATCH, "/roles/night").header("if-match", "\"9\"");
    patch.json(&json!({ "description": "x" })).send().await.expect(412);
    let changed = world.patch("/roles/night", json!({ "permissions": ["job:read"], "limits": { "queues": ["a*"] } }));
    let changed = changed.await.ok();
    assert_eq!((&changed["granted"], &changed["limits"]), (&json!(["job:read"]), &json!({ "queues": ["a*"] })));
    let first = world.get("/roles?limit=3").await.ok();
    let rest = world.get(&format!("/roles?limit=3&cursor={}", text(&first, "/next_cursor"))).await.ok();
    assert_eq!(
        (each(&rest, "name"), &rest["next_cursor"]),
        (vec!["viewer".into(), "robot".into(), "night".into()], &Value::Null)
    );
    user_with(&world, "ann", &["night"]).await;
    world.delete("/roles/night").await.refused("in_use");
    world.patch("/users/ann", json!({ "roles": ["viewer"] })).await.ok();
    world.delete("/roles/night").await.done();
    world.get("/roles/night").await.expect(404);
}

/// A change of limits is a merge patch of them: what it does not name stays, null takes one of them away or all.
#[tokio::test]
async fn limits_that_a_change_does_not_name_stay() {
    let world = World::new().await;
    for name in ["pay", "hr"] {
        world.queue(name, json!({})).await;
    }
    let limits = json!({ "queues": ["pay*"], "folders": ["reports/*"] });
    role(&world, "payer", &["queue:read", "storage:read"], limits.clone()).await;
    let own = user_with(&world, "ann", &["payer"]).await;
    let changed = async |limits: Value| {
        let patch = json!({ "limits": limits });
        world.patch("/roles/payer", patch).await.ok()["limits"].clone()
    };
    assert_eq!(changed(json!({})).await, limits);
    let both = json!({ "queues": ["pay*"], "folders": ["bills/*"] });
    assert_eq!(changed(json!({ "folders": ["bills/*"] })).await, both);
    assert_eq!(each(&As(&world, &own).get("/queues").await.ok(), "name"), ["pay"]);
    let told = world.get("/audit?limit=1&verb=update").await.ok();
    let (before, after) = (&told["items"][0]["before"]["limits"], &told["items"][0]["after"]["limits"]);
    assert_eq!((&before["folders"], &after["folders"]), (&limits["folders"], &both["folders"]), "{told}");
    assert_eq!((&before["queues"], &after["queues"]), (&limits["queues"], &limits["queues"]), "{told}");
    assert_eq!(changed(json!({ "folders": null })).await, json!({ "queues": ["pay*"] }));
    let groups = json!({ "queues": ["pay*"], "robot_groups": ["fin-*"] });
    assert_eq!(changed(json!({ "robot_groups": ["fin-*"] })).await, groups);
    assert_eq!(changed(Value::Null).await, Value::Null);
    assert_eq!(changed(json!({ "queues": ["hr"] })).await, json!({ "queues": ["hr"] }), "there was none");
    assert_eq!(changed(json!({ "queues": null })).await, Value::Null, "the last one is gone");
    for (bad, pointer) in [
        (json!({ "queus": [] }), "/limits/queus"),
        (json!({ "queues": [""] }), "/limits/queues/0"),
        (json!({ "queues": ["a", 5] }), "/limits/queues/1"),
    ] {
        world.patch("/roles/payer", json!({ "limits": bad })).await.invalid(&[pointer]);
    }
}

/// A change of a role holds from the next call on, also for keys that its users have had before.
#[tokio::test]
async fn a_change_of_a_role_holds_at_once() {
    let world = World::new().await;
    role(&world, "runner", &["job:read", "key:manage_keys"], Value::Null).await;
    let own = user_with(&world, "ann", &["runner"]).await;
    let ann = As(&world, &own);
    let named = text(&ann.post("/keys", json!({ "name": "n", "permissions": ["job:*"] })).await.created(), "/key");
    As(&world, &named).get("/jobs").await.ok();
    As(&world, &named).get("/queues").await.expect(403);
    world.patch("/roles/runner", json!({ "permissions": ["queue:read"] })).await.ok();
    ann.get("/queues").await.ok();
    ann.get("/jobs").await.expect(403);
    // The named key has what it was given as far as its user still has it: nothing.
    As(&world, &named).get("/jobs").await.expect(403);
    As(&world, &named).get("/queues").await.expect(403);
}

/// What goes on for long ends with the role that allowed it: streams as well as calls that wait.
#[tokio::test(start_paused = true)]
async fn what_goes_on_ends_with_its_role() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    world.process("p").await;
    world.start("p").await;
    let (job, _) = agent.run().await;
    world.queue("q", json!({})).await;
    role(&world, "reader", &["log:read", "job:read", "task:*", "queue:read"], Value::Null).await;
    let ann = user_with(&world, "ann", &["reader"]).await;
    let call = |method, path: &str| Call::new(world.router.clone(), method, path).key(&ann);
    let log = format!("/jobs/{job}/logs");
    let mut streams = Vec::new();
    for path in ["/logs", &log] {
        let response = call(Method::GET, path).header("accept", "text/event-stream").open().await;
        assert_eq!(response.status(), 200);
        streams.push(response.into_body().into_data_stream());
    }
    let taking = call(Method::POST, "/queues/q/take").json(&json!({ "wait_seconds": 60 }));
    let waiting = call(Method::GET, &format!("/jobs/{job}?wait_seconds=60"));
    let (taking, waiting) = (tokio::spawn(taking.send()), tokio::spawn(waiting.send()));
    settle().await;
    // The key stays good: it is the role that allows nothing of this any more.
    world.patch("/roles/reader", json!({ "permissions": ["role:read"] })).await.ok();
    agent.log(&job, 1, 1, &["secret"]).await.ok();
    for stream in streams {
        let rest = tokio::time::timeout(Duration::from_secs(12), stream.collect::<Vec<_>>()).await.expect("it ends");
        let told: Vec<u8> = rest.into_iter().flat_map(Result::unwrap).collect();
        let told = String::from_utf8(told).unwrap();
        assert!(!told.contains("secret"), "{told}");
    }
    world.post("/queues/q/tasks", json!({ "payload": {} })).await.created();
    taking.await.unwrap().refused("forbidden");
    agent.finish(&job, 1, json!({})).await.done();
    waiting.await.unwrap().refused("forbidden");
}

/// Who may make users and roles gives no more than they have, be it by a role, a user, a password or a limit.
#[tokio::test]
async fn nobody_gives_what_they_do_not_have() {
    let world = World::new().await;
    role(&world, "clerk", &["user:*", "role:*", "job:read"], Value::Null).await;
    role(&world, "strong", &["job:*"], Value::Null).await;
    let own = user_with(&world, "clerk", &["clerk"]).await;
    let victim = user_with(&world, "victim", &["strong"]).await;
    let clerk = As(&world, &own);
    let problem = clerk.post("/roles", json!({ "name": "x", "permissions": ["job:stop"] })).await.refused("forbidden");
    assert!(text(&problem, "/detail").contains("job:stop"), "{problem}");
    clerk.post("/roles", json!({ "name": "x", "permissions": ["*"] })).await.refused("forbidden");
    clerk.post("/roles", json!({ "name": "less", "permissions": ["job:read"] })).await.created();
    clerk.patch("/roles/less", json!({ "permissions": ["job:*"] })).await.refused("forbidden");
    // Nor may the clerk weaken, take away or take over what is stronger.
    clerk.patch("/roles/strong", json!({ "permissions": ["job:read"] })).await.refused("forbidden");
    clerk.delete("/roles/strong").await.refused("forbidden");
    for role in ["admin", "strong", "viewer", "robot"] {
        clerk.post("/users", json!({ "login": "x", "roles": [role] })).await.invalid(&["/roles/0"]);
        clerk.patch("/users/clerk", json!({ "roles": ["clerk", role] })).await.invalid(&["/roles/1"]);
    }
    for change in [json!({ "password": "a new password" }), json!({ "blocked": true }), json!({ "roles": ["less"] })] {
        clerk.patch("/users/victim", change.clone()).await.refused("forbidden");
        clerk.patch("/users/admin", change).await.refused("forbidden");
    }
    clerk.delete("/users/victim").await.refused("forbidden");
    let made = clerk.post("/users", json!({ "login": "helper", "roles": ["less", "clerk"] })).await.created();
    clerk.patch("/users/helper", json!({ "name": "Helper", "blocked": true })).await.ok();
    clerk.delete(&format!("/users/{}", text(&made, "/id"))).await.done();
    // Who is limited gives nothing at all: another one's limits would be wider.
    let limits = json!({ "queues": ["a*"] });
    role(&world, "limited", &["user:*", "role:*", "queue:*"], limits).await;
    let own = user_with(&world, "limited", &["limited"]).await;
    let limited = As(&world, &own);
    limited.post("/users", json!({ "login": "y", "roles": ["limited"] })).await.refused("forbidden");
    limited.post("/roles", json!({ "name": "y", "permissions": ["queue:read"] })).await.refused("forbidden");
    // Nor is who is limited told of changes, which are of all objects of a kind: that is said to be the reason.
    role(&world, "reader", &["queue:read", "task:read"], json!({ "queues": ["a*"] })).await;
    let own = user_with(&world, "reader", &["reader"]).await;
    let problem = As(&world, &own).get("/events").await.refused("forbidden");
    let why = text(&problem, "/detail");
    assert!(why.contains("queue:read, task:read are limited to some objects"), "{why}");
    As(&world, &victim).get("/jobs").await.ok();
    // A user of another account that does not run the coordinator has nothing to do with it, whatever the role is called.
    let made = world.post("/accounts", json!({ "name": "other", "admin": { "login": "boss" } })).await.created();
    let key = text(&made, "/key");
    let boss = As(&world, &key);
    let star = boss.post("/roles", json!({ "name": "all", "permissions": ["*"] })).await.created();
    assert!(!star["granted"].as_array().unwrap().contains(&json!("system:accounts")));
    boss.get("/accounts").await.expect(403);
    boss.get("/system/backup").await.expect(403);
    let me = boss.get("/account/me").await.ok();
    assert!(!me["permissions"].as_array().unwrap().contains(&json!("system:backup")), "{me}");
}

/// A role that is limited to queues of some names: all others are as if they were not there, in lists as well.
#[tokio::test]
async fn a_role_reaches_the_queues_that_it_names() {
    let world = World::new().await;
    for name in ["pay", "pay-2", "hr"] {
        world.queue(name, json!({ "output_schema": { "required": ["sum"] } })).await;
        world.add(name, json!({ "reference": name })).await;
    }
    role(&world, "payer", &["queue:*", "task:*"], json!({ "queues": ["pay*"] })).await;
    let own = user_with(&world, "ann", &["payer"]).await;
    let ann = As(&world, &own);
    assert_eq!(each(&ann.get("/queues").await.ok(), "name"), ["pay-2", "pay"]);
    assert_eq!(each(&ann.get("/tasks").await.ok(), "reference"), ["pay-2", "pay"]);
    assert_eq!(each(&ann.get("/tasks?state=new").await.ok(), "reference"), ["pay-2", "pay"]);
    let hidden = text(&world.get("/tasks?reference=hr").await.ok(), "/items/0/id");
    let nowhere = text(&ann.get("/queues/nothing").await.expect(404).json(), "/detail");
    for (method, path, body) in [
        (Method::GET, "/queues/hr", None),
        (Method::GET, "/queues/hr/stats", None),
        (Method::GET, "/queues/hr/events", None),
        (Method::PATCH, "/queues/hr", Some(json!({ "description": "x" }))),
        (Method::DELETE, "/queues/hr", None),
        (Method::POST, "/queues/hr/pause", Some(json!({ "reason": "x" }))),
        (Method::POST, "/queues/hr/resume", None),
        (Method::POST, "/queues/hr/tasks", Some(json!({ "payload": {} }))),
        (Method::POST, "/queues/hr/take", Some(json!({}))),
    ] {
        let answer = ann.call(method, path, body).await.expect(404);
        assert_eq!(text(&answer.json(), "/detail"), nowhere, "{path}");
    }
    for (method, path, body) in [
        (Method::GET, "", None),
        (Method::GET, "/attempts", None),
        (Method::GET, "/events", None),
        (Method::PATCH, "", Some(json!({ "comment": "x" }))),
        (Method::POST, "/retry", None),
        (Method::POST, "/comment", Some(json!({ "comment": "x" }))),
        (Method::POST, "/renew", Some(json!({ "attempt": 1 }))),
        (Method::POST, "/succeed", Some(json!({ "attempt": 1, "output": {} }))),
        (Method::DELETE, "", None),
    ] {
        ann.call(method, &format!("/tasks/{hidden}{path}"), body).await.expect(404);
    }
    ann.get("/tasks?queue=hr").await.invalid(&["queue"]);
    let only_looks = world.key_with(&["task:read"]).await;
    let output = json!({ "attempt": 1, "output": {} });
    As(&world, &only_looks).post(&format!("/tasks/{hidden}/succeed"), output).await.refused("forbidden");
    let all = ann.post("/tasks/bulk-action", json!({ "filter": {}, "action": "delete", "dry_run": false })).await.ok();
    assert_eq!(all["changed"], 2);
    world.task(&hidden).await;
    let own_task = text(&ann.post("/queues/pay/tasks", json!({ "payload": {} })).await.created(), "/id");
    ann.patch(&format!("/tasks/{own_task}"), json!({ "queue": "hr" })).await.invalid(&["/queue"]);
    ann.post("/queues", json!({ "name": "other" })).await.refused("forbidden");
    ann.post("/queues", json!({ "name": "pay-3" })).await.created();
    ann.patch("/queues/pay-3", json!({ "name": "hidden" })).await.refused("forbidden");
    ann.patch("/queues/pay-3", json!({ "on_success_queue": "hr" })).await.invalid(&["/on_success_queue"]);
}

/// A role that is limited to robot groups: robots are reached through their groups, jobs and triggers through their targets.
#[tokio::test]
async fn a_role_reaches_the_fleet_that_it_names() {
    let world = World::new().await;
    for name in ["fin-1", "hr"] {
        world.post("/robot-groups", json!({ "name": name })).await.created();
        world.post("/robots", json!({ "name": format!("robot of {name}"), "groups": [name] })).await.created();
    }
    let process = world.process("p").await;
    let start = |group: &str| json!({ "process": process, "target": { "group": group } });
    let ours = text(&world.post("/jobs", start("fin-1")).await.created(), "/id");
    let theirs = text(&world.post("/jobs", start("hr")).await.created(), "/id");
    let everybodys = text(&world.post("/jobs", start("all")).await.created(), "/id");
    let trigger = |name: &str, group: &str| {
        json!({ "name": name, "process": process, "target": { "group": group }, "kind": "continuous",
            "continuous": { "jobs": 1 }, "enabled": false })
    };
    world.post("/triggers", trigger("t1", "fin-1")).await.created();
    world.post("/triggers", trigger("t2", "hr")).await.created();
    let may = ["robot:*", "robot_group:*", "job:*", "trigger:*", "log:read", "join_token:*", "process:read"];
    role(&world, "finance", &may, json!({ "robot_groups": ["fin-*"] })).await;
    let own = user_with(&world, "ann", &["finance"]).await;
    let ann = As(&world, &own);
    assert_eq!(each(&ann.get("/robot-groups").await.ok(), "name"), ["fin-1"]);
    assert_eq!(each(&ann.get("/robots").await.ok(), "name"), ["robot of fin-1"]);
    assert_eq!(each(&ann.get("/jobs").await.ok(), "id"), [ours.as_str()]);
    assert_eq!(each(&ann.get("/triggers").await.ok(), "name"), ["t1"]);
    for path in ["/robot-groups/hr", "/robot-groups/all", "/robots/robot%20of%20hr", "/triggers/t2"] {
        ann.get(path).await.expect(404);
        ann.delete(path).await.expect(404);
        ann.patch(path, json!({ "description": "x" })).await.expect(404);
    }
    for job in [&theirs, &everybodys] {
        for path in ["", "/explain", "/attempts", "/events", "/logs"] {
            ann.get(&format!("/jobs/{job}{path}")).await.expect(404);
        }
        ann.post(&format!("/jobs/{job}/stop"), json!({ "mode": "stop" })).await.expect(404);
        ann.post(&format!("/jobs/{job}/close"), json!({ "outcome": "lost", "reason": "x" })).await.expect(404);
        ann.delete(&format!("/jobs/{job}")).await.expect(404);
        ann.get(&format!("/logs?job={job}")).await.expect(404);
    }
    ann.get("/logs").await.refused("forbidden");
    ann.get(&format!("/logs?job={ours}")).await.ok();
    ann.get("/jobs?group=hr").await.invalid(&["group"]);
    ann.post("/jobs", start("hr")).await.invalid(&["/target/group"]);
    let robot = json!({ "process": process, "target": { "robot": "robot of hr" } });
    ann.post("/jobs", robot).await.invalid(&["/target/robot"]);
    ann.post("/jobs", start("fin-1")).await.created();
    ann.post("/triggers", trigger("t3", "hr")).await.invalid(&["/target/group"]);
    ann.patch("/triggers/t1", json!({ "target": { "group": "all" } })).await.invalid(&["/target/group"]);
    for verb in ["pause", "resume", "enable", "disable"] {
        let body = (verb == "pause").then(|| json!({ "mode": "drain", "reason": "x" }));
        ann.call(Method::POST, &format!("/robots/robot%20of%20hr/{verb}"), body.clone()).await.expect(404);
        ann.call(Method::POST, &format!("/robot-groups/hr/{verb}"), body).await.expect(404);
    }
    ann.post("/triggers/t2/fire", json!({})).await.expect(404);
    ann.post("/robots", json!({ "name": "stray" })).await.invalid(&["/groups"]);
    ann.post("/join-tokens", json!({})).await.invalid(&["/group"]);
    ann.post("/join-tokens", json!({ "group": "hr" })).await.invalid(&["/group"]);
    world.post("/join-tokens", json!({ "group": "hr" })).await.created();
    ann.post("/join-tokens", json!({ "group": "fin-1" })).await.created();
    assert_eq!(ann.get("/join-tokens").await.ok()["items"].as_array().unwrap().len(), 2, "and that of their robot");
    // Taking a robot into view by putting it into one's own group, or out of others, is no way either.
    ann.call(Method::PUT, "/robot-groups/fin-1/robots/robot%20of%20hr", None).await.expect(404);
    world.patch("/robots/robot%20of%20fin-1", json!({ "groups": ["fin-1", "hr"] })).await.ok();
    ann.patch("/robots/robot%20of%20fin-1", json!({ "groups": ["fin-1"] })).await.ok();
    let groups = world.get("/robots/robot%20of%20fin-1").await.ok();
    assert_eq!(groups["groups"].as_array().unwrap().len(), world_groups(&groups), "{groups}");
    ann.post("/robot-groups", json!({ "name": "hr-2" })).await.refused("forbidden");
    ann.patch("/robot-groups/fin-1", json!({ "name": "renamed" })).await.refused("forbidden");
}

/// A robot may be in groups of several; whose jobs it has done is another matter, in pages as in streams.
#[tokio::test]
async fn a_role_reaches_the_lines_of_its_own_jobs() {
    let world = World::new().await;
    let agent = world.agent_with("r", json!({ "capacity": 2 })).await;
    for group in ["fin-1", "hr"] {
        world.post("/robot-groups", json!({ "name": group })).await.created();
    }
    world.patch("/robots/r", json!({ "groups": ["fin-1", "hr"] })).await.ok();
    let process = world.process("p").await;
    let mut jobs = Vec::new();
    for group in ["fin-1", "hr"] {
        world.post("/jobs", json!({ "process": process, "target": { "group": group } })).await.created();
        jobs.push(agent.run().await.0);
    }
    role(&world, "finance", &["robot:read", "job:read", "log:read"], json!({ "robot_groups": ["fin-*"] })).await;
    let own = user_with(&world, "ann", &["finance"]).await;
    let ann = As(&world, &own);
    let stream = Call::new(world.router.clone(), Method::GET, "/logs?robot=r").key(&own);
    let mut stream = stream.header("accept", "text/event-stream").open().await.into_body().into_data_stream();
    agent.log(&jobs[1], 1, 1, &["of hr"]).await.ok();
    agent.log(&jobs[0], 1, 1, &["of fin"]).await.ok();
    let note = json!({ "level": "info", "message": "of the robot" });
    As(&world, &agent.key).post("/logs", note).await.created();
    let mut told = String::new();
    while !told.contains("of the robot") {
        told.push_str(std::str::from_utf8(&stream.next().await.unwrap().unwrap()).unwrap());
    }
    assert!(told.contains("of fin") && !told.contains("of hr"), "{told}");
    for _ in 0..2 {
        let seen = each(&ann.get("/logs?robot=r&direction=forward").await.ok(), "message");
        assert!(
            seen.contains(&json!("of fin")) && seen.contains(&json!("of the robot")) && seen.len() == 2,
            "{seen:?}"
        );
        assert_eq!(each(&world.get("/logs?robot=r").await.ok(), "message").len(), 3);
        ann.get(&format!("/jobs/{}/logs", jobs[1])).await.expect(404);
        for job in &jobs {
            agent.finish(job, 1, json!({})).await;
        }
        world.move_clock(700);
        world.seal_logs().await;
    }
}

/// Reading jobs and reading their logs are two permissions, each of which reaches as far as its own roles.
#[tokio::test]
async fn a_log_is_reached_by_the_role_that_gives_logs() {
    let world = World::new().await;
    world.process("p").await;
    let job = world.start("p").await;
    role(&world, "jobs", &["job:read"], Value::Null).await;
    role(&world, "logs", &["log:read"], json!({ "robot_groups": ["fin-*"] })).await;
    let own = user_with(&world, "ann", &["jobs", "logs"]).await;
    let ann = As(&world, &own);
    ann.get(&format!("/jobs/{job}")).await.ok();
    ann.get(&format!("/jobs/{job}/logs")).await.expect(404);
    ann.get(&format!("/logs?job={job}")).await.expect(404);
}

/// Both groups, and `all` where views name it.
fn world_groups(robot: &Value) -> usize {
    robot["groups"].as_array().unwrap().iter().filter(|group| group["name"] == "all" || **group == "all").count() + 2
}

/// A role that is limited to storage folders.
#[tokio::test]
async fn a_role_reaches_the_folders_that_it_names() {
    let world = World::new().await;
    for name in ["reports", "secret"] {
        world.post("/storages", json!({ "name": name })).await.created();
        world.put_file(name, "a.txt", "text").await.created();
    }
    role(&world, "reader", &["storage:*"], json!({ "folders": ["report*"] })).await;
    let own = user_with(&world, "ann", &["reader"]).await;
    let ann = As(&world, &own);
    assert_eq!(each(&ann.get("/storages").await.ok(), "name"), ["reports"]);
    ann.get("/storages/reports/files/a.txt").await.expect(200);
    for path in ["/storages/secret", "/storages/secret/files", "/storages/secret/files/a.txt"] {
        ann.get(path).await.expect(404);
    }
    ann.call(Method::PUT, "/storages/secret/files/b.txt", None).await.expect(404);
    ann.delete("/storages/secret/files/a.txt").await.expect(404);
    ann.delete("/storages/secret").await.expect(404);
    let link = json!({ "path": "a.txt", "verb": "get", "expires_in_seconds": 60 });
    ann.post("/storages/secret/links", link).await.expect(404);
    let copy = json!({ "path": "a.txt", "to_folder": "secret", "to_path": "b.txt" });
    ann.post("/storages/reports/copy", copy).await.invalid(&["/to_folder"]);
    ann.post("/storages", json!({ "name": "other" })).await.refused("forbidden");
}

/// Whoever may write files of some folders and only look at tasks does not change what is attached to these; whoever works
/// on the tasks of a queue does.
#[tokio::test]
async fn files_of_tasks_are_changed_by_those_who_work_on_them() {
    let world = World::new().await;
    world.queue("pay", json!({})).await;
    world.queue("hr", json!({})).await;
    world.post("/storages", json!({ "name": "reports" })).await.created();
    world.put_file("reports", "a.txt", "text").await.created();
    let tasks = [world.add("pay", json!({})).await, world.add("hr", json!({})).await];
    for task in &tasks {
        world.call(Method::PUT, &format!("/tasks/{task}/files/a.txt")).body("text").send().await.created();
    }
    role(&world, "looker", &["task:read"], Value::Null).await;
    role(&world, "reporter", &["storage:*"], json!({ "folders": ["report*"] })).await;
    role(&world, "payer", &["task:take"], json!({ "queues": ["pay"] })).await;
    let own = user_with(&world, "ann", &["looker", "reporter", "payer"]).await;
    let ann = As(&world, &own);
    for (task, may) in tasks.iter().zip([true, false]) {
        let copy = json!({ "path": "a.txt", "to_folder": format!("tasks/{task}"), "to_path": "copy.txt" });
        let link = json!({ "path": "a.txt", "verb": "put", "expires_in_seconds": 60 });
        for (method, path, body, status) in [
            (Method::GET, format!("/tasks/{task}/files/a.txt"), None, 200),
            (Method::PUT, format!("/tasks/{task}/files/a.txt"), None, 200),
            (Method::PUT, format!("/storages/tasks%2F{task}/files/b.txt"), None, 201),
            (Method::POST, "/storages/reports/copy".to_owned(), Some(copy), 201),
            (Method::POST, format!("/storages/tasks%2F{task}/links"), Some(link), 201),
            (Method::DELETE, format!("/storages/tasks%2F{task}/files/a.txt"), None, 204),
        ] {
            let looks = method == Method::GET;
            let status = if may || looks { status } else { 403 };
            let answer = ann.call(method.clone(), &path, body).await;
            assert_eq!(answer.status, status, "{method} {path}");
        }
    }
    let whole = world.key_with(&["task:read", "storage:write"]).await;
    As(&world, &whole).delete(&format!("/tasks/{}/files/a.txt", tasks[1])).await.done();
}

/// With several roles each permission reaches as far as the roles that give it, and no further.
#[tokio::test]
async fn limits_of_one_role_are_not_widened_by_another() {
    let world = World::new().await;
    for name in ["a", "b"] {
        world.queue(name, json!({})).await;
    }
    role(&world, "adder", &["task:create", "queue:read"], json!({ "queues": ["a"] })).await;
    let own = user_with(&world, "ann", &["viewer", "adder"]).await;
    let ann = As(&world, &own);
    assert_eq!(each(&ann.get("/queues").await.ok(), "name"), ["b", "a"], "viewers see all");
    ann.post("/queues/a/tasks", json!({ "payload": {} })).await.created();
    ann.post("/queues/b/tasks", json!({ "payload": {} })).await.expect(404);
    // What is about everything needs a role that is not limited.
    role(&world, "auditor", &["audit:read"], json!({ "queues": ["a"] })).await;
    let own = user_with(&world, "bob", &["auditor"]).await;
    As(&world, &own).get("/audit").await.refused("forbidden");
}
