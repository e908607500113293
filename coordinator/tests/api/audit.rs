//! The audit trail: what is written down, how it is searched and exported, and that tampering is found.

use axum::body::Body;
use drover_coordinator::{
    domain::audit::{Act, hash_of},
    store::{
        Record,
        engine::Engine,
        key::{Key, Kind},
        table,
    },
};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::support::{World, each, settle, text};

async fn verbs(world: &World, filter: &str) -> Vec<String> {
    let page = world.get(&format!("/audit?limit=1000{filter}")).await.ok();
    let item = |item: &Value| format!("{} {}", text(item, "/verb"), text(item, "/noun"));
    page["items"].as_array().unwrap().iter().rev().map(item).collect()
}

/// What people do is written down with what it changed, the caller and the address; what changes nothing is not.
#[tokio::test]
async fn acts_of_people_are_written_down() {
    let world = World::new().await;
    world.post("/robots", json!({ "name": "r", "description": "old" })).await.created();
    let renamed = world.call(Method::PATCH, "/robots/r").json(&json!({ "description": "new" })).from("10.1.2.3:4567");
    renamed.send().await.ok();
    world.act("/robots/r/enable").await.ok();
    world.act("/robots/r/disable").await.ok();
    world.post("/robot-groups", json!({ "name": "g" })).await.created();
    for _ in 0..2 {
        world.call(Method::PUT, "/robot-groups/g/robots/r").send().await.done();
    }
    let process = world.process("p").await;
    let job = world.start(&process).await;
    world.post(&format!("/jobs/{job}/stop"), json!({ "mode": "stop" })).await.ok();
    world.delete(&format!("/jobs/{job}")).await.done();
    world.post("/keys", json!({ "name": "nightly" })).await.created();
    world.patch("/account", json!({ "name": "renamed" })).await.ok();
    world.delete("/robots/r").await.done();
    let expected = [
        "create robot",
        "update robot",
        "disable robot",
        "create robot_group",
        "add_robot robot_group",
        "create process",
        "create version",
        "activate version",
        "stop job",
        "delete job",
        "create key",
        "update account",
        "delete robot",
    ];
    assert_eq!(verbs(&world, "").await, expected);
    let update = world.get("/audit?noun=robot&verb=update").await.ok();
    let update = &update["items"][0];
    assert_eq!(
        (update["before"].clone(), update["after"].clone()),
        (json!({"description": "old"}), json!({"description": "new"}))
    );
    assert_eq!(
        (text(update, "/address"), text(update, "/actor_name"), text(update, "/object_name")),
        ("10.1.2.3".into(), "admin".into(), "r".into())
    );
    assert_eq!(world.get("/audit/verify").await.ok()["records"], expected.len());
    // A refused act leaves nothing.
    world.post("/robot-groups", json!({ "name": "g" })).await.expect(409);
    assert_eq!(verbs(&world, "").await.len(), expected.len());
}

/// Commenting on a task is an act of people, and so is adding many: one for a whole stream with what it came to, also if it
/// breaks off. A repetition adds nothing.
#[tokio::test]
async fn adding_many_tasks_is_an_act() {
    let world = World::new().await;
    world.queue("q", json!({})).await;
    let id = world.add("q", json!({ "reference": "R", "payload": { "a": "hunter2" } })).await;
    world.on_task(&id, "comment", json!({ "comment": "seen" })).await.ok();
    let send = |key: &str, body: Body| {
        let call = world.call(Method::POST, "/queues/q/tasks/bulk").header("content-type", "application/x-ndjson");
        call.header("idempotency-key", key).streamed(body)
    };
    for _ in 0..2 {
        let lines = "{\"payload\":\"hunter2\"}\n{\"payload\":2}\n{\"paylod\":3}\n";
        send("whole", Body::from(lines)).send().await.expect(200);
    }
    let broken = futures::stream::iter([Ok("{\"payload\":4}\n".repeat(500)), Err(std::io::Error::other("gone"))]);
    let answer = send("broken", Body::from_stream(broken)).open().await;
    answer.into_body().collect().await.expect_err("it breaks off");
    settle().await;
    assert_eq!(verbs(&world, "&noun=task").await, ["comment task", "bulk_add task", "bulk_add task"]);
    let acts = world.get("/audit?noun=task").await.ok();
    assert_eq!(
        each(&acts, "after"),
        [
            json!({ "added": 500, "duplicates": 0, "failed": 0 }),
            json!({ "added": 2, "duplicates": 0, "failed": 1 }),
            json!({ "comment": "seen" }),
        ]
    );
    assert!(!acts.to_string().contains("hunter2"), "payloads are nobody's business here");
}

/// No key, token or password is in the trail, nor are the answers of the calls that make them.
#[tokio::test]
async fn the_trail_holds_no_secrets() {
    let world = World::new().await;
    let made = [
        text(&world.post("/keys", json!({ "name": "k" })).await.created(), "/key"),
        text(&world.post("/join-tokens", json!({})).await.created(), "/token"),
        text(&world.post("/robots", json!({ "name": "r" })).await.created(), "/join_token"),
    ];
    world.post("/account/key/reveal", json!({ "password": "wrong" })).await;
    world.post("/account/key/reveal", json!({ "password": crate::support::PASSWORD })).await.ok();
    assert_eq!(verbs(&world, "&noun=key").await, ["create key", "reveal_refused key", "reveal key"]);
    let trail = world.get("/audit?limit=1000").await.ok().to_string();
    for secret in made.iter().chain([&world.admin, &crate::support::PASSWORD.to_owned()]) {
        assert!(!trail.contains(secret.as_str()), "{trail}");
    }
}

/// Filters find what they say, alone and together, page by page; times are bounds.
#[tokio::test]
async fn the_trail_is_searched() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for number in 0..5 {
        let made = world.post("/resources", json!({ "name": format!("n{number}"), "kind": "text" })).await.created();
        ids.push(text(&made, "/id"));
        world.move_clock(60);
    }
    world.patch("/resources/n2", json!({ "description": "d" })).await.ok();
    world.post("/robot-groups", json!({ "name": "n3" })).await.created();
    assert_eq!(verbs(&world, &format!("&object={}", ids[2])).await, ["create resource", "update resource"]);
    assert_eq!(verbs(&world, "&object=n3").await, ["create resource", "create robot_group"]);
    assert_eq!(verbs(&world, "&noun=resource&verb=update").await, ["update resource"]);
    assert_eq!(verbs(&world, "&actor=admin&noun=robot_group").await, ["create robot_group"]);
    assert_eq!(verbs(&world, "&actor=job:x").await.len(), 0);
    world.get("/audit?actor=nobody").await.expect(422).invalid(&["actor"]);
    let start = world.now().minus_seconds(300);
    let at = |seconds: u64| start.plus_seconds(seconds);
    for (from, to, names) in
        [(60, 180, vec!["n2", "n1"]), (61, 181, vec!["n3", "n2"]), (0, 1, vec!["n0"]), (1, 2, vec![])]
    {
        let path = format!("/audit?noun=resource&verb=create&from={}&to={}", at(from), at(to));
        assert_eq!(each(&world.get(&path).await.ok(), "object_name"), names, "{from} to {to}");
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = world.get(&format!("/audit?limit=2{cursor}")).await.ok();
        seen.extend(each(&page, "seq"));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, [7, 6, 5, 4, 3, 2, 1]);
}

/// An export is the whole of it, oldest first, and each line proves itself and the one before it.
#[tokio::test]
async fn an_export_proves_itself() {
    let world = World::new().await;
    for number in 0..30 {
        let new = json!({ "name": format!("n{number}"), "description": "дом \"x\" \n", "kind": "text" });
        world.post("/resources", new).await.created();
    }
    let export =
        |filter: &str| world.call(Method::GET, &format!("/audit{filter}")).header("accept", "application/x-ndjson");
    let answer = export("").send().await.expect(200);
    assert_eq!(answer.content_type(), "application/x-ndjson");
    let mut before = "0".repeat(64);
    let mut count = 0;
    for line in answer.text().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let hash = text(&record, "/hash");
        let hashed = line.replace(&format!(",\"hash\":\"{hash}\""), "");
        let found: String = hash_of(&hashed).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((found, text(&record, "/previous_hash")), (hash.clone(), before));
        before = hash;
        count += 1;
    }
    assert_eq!(count, 30);
    let verified = world.get("/audit/verify").await.ok();
    assert_eq!((verified["sound"].clone(), text(&verified, "/last_hash")), (json!(true), before));
    assert_eq!(export("?object=n7").send().await.expect(200).text().lines().count(), 1);
    world.call(Method::GET, "/audit").header("accept", "text/csv").send().await.expect(406);
}

/// Puts bytes behind the coordinator's back.
fn tamper(world: &World, key: Vec<u8>, value: Option<Vec<u8>>) {
    world.engine.exclusive(&mut |_| [(key.clone(), value.clone())].into()).unwrap();
}

fn stored(world: &World, seq: u64) -> (Vec<u8>, Act) {
    let key = Key::new(Kind::Audit, world.account).with(seq).into_bytes();
    let act = world.app.db.read(world.account, |reading| table::get::<Act>(reading, seq)).unwrap();
    (key, act)
}

/// The stored form of an act.
fn written(act: &Act) -> Vec<u8> {
    [vec![Act::VERSION], rmp_serde::to_vec_named(act).unwrap()].concat()
}

/// Whoever changes, removes, replaces or cuts off acts is found out.
#[tokio::test]
async fn tampering_is_found() {
    type Harm = fn(&World);
    let harms: [(&str, Harm); 5] = [
        ("does not have its hash", |world| {
            let (key, mut act) = stored(world, 3);
            act.line = act.line.replace("n2", "xx");
            tamper(world, key, Some(written(&act)));
        }),
        ("does not follow", |world| {
            let (key, mut act) = stored(world, 3);
            act.line = act.line.replace("n2", "xx");
            act.hash = hash_of(&act.line);
            tamper(world, key, Some(written(&act)));
        }),
        ("is gone", |world| tamper(world, stored(world, 3).0, None)),
        ("but act 5 was the last", |world| tamper(world, stored(world, 5).0, None)),
        ("cannot be read", |world| tamper(world, stored(world, 2).0, Some(vec![1, 0xc1]))),
    ];
    for (expected, harm) in harms {
        let world = World::new().await;
        for number in 0..5 {
            world.post("/resources", json!({ "name": format!("n{number}"), "kind": "text" })).await.created();
        }
        assert_eq!(world.get("/audit/verify").await.ok()["sound"], true);
        harm(&world);
        let found = world.get("/audit/verify").await.ok();
        assert_eq!(found["sound"], false);
        let problems = found["problems"].to_string();
        assert!(problems.contains(expected), "{expected}: {problems}");
        // The store is not sound any more, which is what its end would complain about.
        std::mem::forget(world);
    }
}

/// Old acts go when the account and the setting both allow it, a day's worth at once; what is left still proves itself, and
/// says what is gone. Neither alone makes the time shorter.
#[tokio::test]
async fn old_acts_go_and_the_rest_still_proves_itself() {
    let mut rules = crate::support::rules();
    rules.audit_retention_days = Some(30);
    let world = World::with_rules(rules).await;
    let days = |days: i64| days * 86_400;
    for number in 0..5 {
        world.post("/robots", json!({ "name": format!("r{number}") })).await.created();
        world.move_clock(days(1));
    }
    world.move_clock(days(60));
    world.retain(0, 0).await;
    assert_eq!(verbs(&world, "").await.len(), 5, "the account keeps its acts for ever until it says otherwise");
    world.patch("/account", json!({ "audit_retention_days": 29 })).await.invalid(&["/audit_retention_days"]);
    world.patch("/account", json!({ "audit_retention_days": 62 })).await.ok();
    world.retain(0, 0).await;
    assert_eq!(
        verbs(&world, "").await,
        ["create robot", "create robot", "update account", "remove_old audit"],
        "three days are older than 62"
    );
    let verified = world.get("/audit/verify").await.ok();
    assert_eq!((&verified["sound"], &verified["last_seq"]), (&json!(true), &json!(7)));
    let removal = &world.get("/audit?verb=remove_old").await.ok()["items"][0];
    assert_eq!((&removal["actor"], &removal["after"]["removed"]), (&json!("coordinator"), &json!(3)));
    let first = world.get(&format!("/audit?to={}", text(removal, "/at"))).await.ok();
    assert_eq!(each(&first, "seq"), [5, 4]);
    // Nothing is due: nothing is written either.
    world.retain(0, 0).await;
    assert_eq!(verbs(&world, "").await.len(), 4);
    // Whoever removes more by hand is found out.
    let account = world.account;
    world.app.db.write(account, |tx| table::delete::<Act>(tx, 4)).await.unwrap();
    assert_eq!(world.get("/audit/verify").await.ok()["sound"], false);
    std::mem::forget(world);
}
