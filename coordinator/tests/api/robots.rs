//! Robots, groups and join tokens: joining, states by time, pauses, health, deletion.

use drover_coordinator::{operations::event, store::Tx};
use http::Method;
use serde_json::{Value, json};

use crate::support::{World, each, text};

async fn token(world: &World, request: Value) -> String {
    text(&world.post("/join-tokens", request).await.created(), "/token")
}

async fn state(world: &World, robot: &str) -> String {
    text(&world.get(&format!("/robots/{robot}/status")).await.ok(), "/state")
}

/// A token is good for as many robots as it says, and for none after its time.
#[tokio::test]
async fn tokens_are_counted_and_expire() {
    let world = World::new().await;
    let once = token(&world, json!({})).await;
    world.join(&once, "m1", None, json!({})).await.created();
    world.join(&once, "m2", None, json!({})).await.expect(401).refused("unauthenticated");
    let twice = token(&world, json!({ "uses": 2, "expires_in_seconds": 60 })).await;
    world.join(&twice, "m3", None, json!({})).await.created();
    let listed = world.get("/join-tokens").await.ok();
    assert_eq!(each(&listed, "uses_left"), [1, 0]);
    assert!(!listed.to_string().contains(&twice));
    world.move_clock(60);
    world.join(&twice, "m4", None, json!({})).await.expect(401);
    world.join("nonsense", "m4", None, json!({})).await.expect(401);
    let gone = world.post("/join-tokens", json!({})).await.created();
    world.delete(&format!("/join-tokens/{}", text(&gone, "/id"))).await.done();
    world.join(&text(&gone, "/token"), "m4", None, json!({})).await.expect(401);
    for (request, pointer) in [
        (json!({ "uses": 0 }), "/uses"),
        (json!({ "uses": 10_001 }), "/uses"),
        (json!({ "expires_in_seconds": 59 }), "/expires_in_seconds"),
        (json!({ "cidr": "10.1" }), "/cidr"),
        (json!({ "group": "nobody" }), "/group"),
    ] {
        world.post("/join-tokens", request).await.invalid(&[pointer]);
    }
}

/// Tokens that have expired are removed, also behind hundreds of older ones that have not.
#[tokio::test]
async fn expired_tokens_are_removed_behind_long_lived_ones() {
    let world = World::new().await;
    for _ in 0..250 {
        token(&world, json!({ "expires_in_seconds": 31_536_000 })).await;
    }
    token(&world, json!({ "expires_in_seconds": 60 })).await;
    world.move_clock(2 * 86_400);
    world.retain(0, 0).await;
    assert_eq!(each(&world.get("/join-tokens?limit=1000").await.ok(), "id").len(), 250);
}

/// A token bound to a network is good from its addresses only, also when they come mapped into IPv6.
#[tokio::test]
async fn tokens_are_bound_to_networks() {
    let world = World::new().await;
    let bound = token(&world, json!({ "cidr": "10.1.0.0/16", "uses": 5 })).await;
    let join = async |machine: &str, from: Option<&str>| {
        let body = json!({ "token": bound, "machine_id": machine, "host": { "hostname": machine } });
        let call = world.call(Method::POST, "/agent/join").without("authorization").json(&body);
        match from {
            Some(address) => call.from(address).send().await,
            None => call.send().await,
        }
    };
    join("m1", Some("10.1.2.3:5000")).await.created();
    join("m2", Some("[::ffff:10.1.2.3]:5000")).await.created();
    for address in [Some("10.2.0.1:5000"), Some("[::1]:5000"), None] {
        join("m3", address).await.expect(403).refused("forbidden");
    }
    assert_eq!(world.get("/join-tokens").await.ok()["items"][0]["uses_left"], 3);
}

/// The same machine is the same robot: a new key, the old one dead, the token not used up once more, and whoever still
/// waits with the old key is told.
#[tokio::test]
async fn joining_again_gives_the_same_robot() {
    let world = World::new().await;
    let once = token(&world, json!({})).await;
    let first = world.join(&once, "m1", Some("r1"), json!({ "os_version": "1" })).await.created();
    let old = text(&first, "/key");
    let waits = json!({ "free": 1, "wait_seconds": 60, "known": [] });
    let waiting = tokio::spawn(world.call(Method::POST, "/agent/next").key(&old).json(&waits).send());
    crate::support::settle().await;
    let second = world.join(&once, "m1", Some("other name"), json!({ "os_version": "2" })).await.created();
    assert_eq!(first["robot"]["id"], second["robot"]["id"]);
    assert_eq!((text(&second, "/robot/name"), text(&second, "/robot/host/os_version")), ("r1".into(), "2".into()));
    world.call(Method::GET, "/account/me").key(&old).send().await.ok();
    world.call(Method::GET, "/account/me").key(&text(&second, "/key")).send().await.ok();
    // The new key was used: whoever still waits with the old one learns that it is over.
    tokio::time::timeout(std::time::Duration::from_secs(5), waiting).await.unwrap().unwrap().expect(401);
    world.call(Method::GET, "/account/me").key(&old).send().await.expect(401);
    world.delete("/robots/r1").await.done();
    world.call(Method::GET, "/account/me").key(&text(&second, "/key")).send().await.expect(401);
    world.join(&once, "m1", None, json!({})).await.expect(401);
}

/// A record made in advance waits for its agent; its token fits it alone.
#[tokio::test]
async fn robots_are_made_in_advance() {
    let world = World::new().await;
    world.post("/robot-groups", json!({ "name": "g" })).await.created();
    let new = json!({ "name": "r1", "groups": ["g", "all"], "labels": { "room": "7" }, "capacity": 2 });
    let made = world.post("/robots", new).await.created();
    assert_eq!(state(&world, "r1").await, "offline");
    assert_eq!((made["groups"].as_array().unwrap().len(), made["joined_at"].clone()), (1, Value::Null));
    let advance = text(&made, "/join_token");
    let joined = world.join(&advance, "m1", Some("ignored"), json!({ "capacity": 1 })).await.created();
    assert_eq!(joined["robot"]["id"], made["id"]);
    assert_eq!(joined["robot"]["capacity"], 1, "the host may limit what people set");
    world.join(&advance, "m2", None, json!({})).await.expect(401);
    let lost = text(&world.post("/robots", json!({ "name": "r2" })).await.created(), "/join_token");
    world.delete("/robots/r2").await.done();
    world.join(&lost, "m3", None, json!({})).await.expect(409).refused("wrong_state");
    world.post("/robots", json!({ "name": "r1" })).await.expect(409).refused("already_exists");
    world.post("/robots", json!({ "name": "r3", "groups": ["none"] })).await.invalid(&["/groups/0"]);
    world.post("/robots", json!({ "name": "r3", "capacity": 0 })).await.invalid(&["/capacity"]);
}

/// A token may lead into a group; when that is gone the token says so.
#[tokio::test]
async fn a_token_leads_into_its_group() {
    let world = World::new().await;
    let group = text(&world.post("/robot-groups", json!({ "name": "g" })).await.created(), "/id");
    let bound = token(&world, json!({ "group": "g", "uses": 5 })).await;
    let joined = world.join(&bound, "m1", None, json!({})).await.created();
    assert_eq!(joined["robot"]["groups"], json!([group]));
    assert_eq!(world.get("/robot-groups/g").await.ok()["robot_count"], 1);
    world.join(&bound, "m1", None, json!({})).await.created();
    assert_eq!(world.get("/robot-groups/g").await.ok()["robot_count"], 1);
    assert_eq!(world.get("/robot-groups/all").await.ok()["robot_count"], 1);
    world.call(Method::DELETE, "/robot-groups/g/robots/m1").send().await.done();
    world.delete("/robot-groups/g").await.done();
    let problem = world.join(&bound, "m2", None, json!({})).await.expect(409).refused("wrong_state");
    assert!(text(&problem, "/detail").contains("group"), "{problem}");
    assert_eq!(world.get("/robot-groups/all").await.ok()["robot_count"], 1);
}

/// Hosts of one name get numbers; a name that was asked for must be free.
#[tokio::test]
async fn names_of_hosts_get_numbers() {
    let world = World::new().await;
    let many = token(&world, json!({ "uses": 9 })).await;
    let join = async |machine: &str, name: Option<&str>, host: &str| {
        world.join(&many, machine, name, json!({ "hostname": host })).await
    };
    for (machine, host, expected) in
        [("m1", "pc", "pc"), ("m2", "pc", "pc-2"), ("m3", " ", "robot"), ("m4", "", "robot-2")]
    {
        assert_eq!(text(&join(machine, None, host).await.created(), "/robot/name"), expected);
    }
    join("m5", Some("pc"), "x").await.expect(409).refused("already_exists");
    join("", None, "x").await.invalid(&["/machine_id"]);
    join(&"m".repeat(129), None, "x").await.invalid(&["/machine_id"]);
    join("m6", None, &"x".repeat(300)).await.invalid(&["/host/hostname"]);
}

/// The state follows from time, jobs and settings alone.
#[tokio::test]
async fn states_follow_from_time_and_settings() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    world.process("p").await;
    assert_eq!(state(&world, "r").await, "idle");
    world.move_clock(59);
    assert_eq!(state(&world, "r").await, "idle");
    world.move_clock(1);
    assert_eq!(state(&world, "r").await, "offline");
    let answer = agent.beat(&[]).await;
    assert_eq!(text(&answer, "/robot/state"), "idle");
    world.start("p").await;
    let (job, _) = agent.run().await;
    assert_eq!(state(&world, "r").await, "busy");
    world.post("/robots/r/pause", json!({ "mode": "drain", "reason": "updates" })).await.ok();
    assert_eq!(state(&world, "r").await, "draining");
    assert_eq!(world.job(&job).await["state"], "running");
    agent.finish(&job, 1, json!({})).await.done();
    let status = world.get("/robots/r/status").await.ok();
    assert_eq!((text(&status, "/state"), text(&status, "/paused/reason")), ("paused".into(), "updates".into()));
    assert_eq!(text(&status, "/paused/by"), "admin");
    world.act("/robots/r/disable").await.ok();
    assert_eq!(state(&world, "r").await, "disabled");
    for after in ["enable", "resume"] {
        world.act(&format!("/robots/r/{after}")).await.ok();
    }
    assert_eq!(state(&world, "r").await, "idle");
    for (wanted, names) in [("idle", vec!["r"]), ("offline", vec![])] {
        assert_eq!(each(&world.get(&format!("/robots?state={wanted}")).await.ok(), "name"), names);
    }
}

/// A pause with an end ends by itself; the strictest of several holds.
#[tokio::test]
async fn pauses_of_robot_and_groups() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    world.process("p").await;
    let until = world.now().plus_seconds(30).to_string();
    world.post("/robots/r/pause", json!({ "mode": "drain", "reason": "a", "until": until })).await.ok();
    let job = world.start("p").await;
    assert_eq!(agent.next(1, &[]).await.status, 204);
    let explained = world.get(&format!("/jobs/{job}/explain")).await.ok();
    assert_eq!(explained["candidates"][0]["reasons"][0]["code"], "paused");
    world.move_clock(30);
    assert_eq!(agent.take().await.0, job);
    agent.accept(&job, 1).await.ok();
    world.post("/robots/r/pause", json!({ "mode": "drain", "reason": "own" })).await.ok();
    world.post("/robot-groups/all/pause", json!({ "mode": "stop", "reason": "fire drill" })).await.ok();
    let status = world.get("/robots/r/status").await.ok();
    assert_eq!((text(&status, "/paused/mode"), text(&status, "/paused/group")), ("stop".into(), "all".into()));
    // The agent hears of it at its next contact, and whoever paused is the cause.
    let told = agent.next(1, &[&job]).await.ok();
    assert_eq!(told["commands"][0]["command"], "stop");
    let stopping = world.job(&job).await;
    assert_eq!((text(&stopping, "/state"), text(&stopping, "/cause/code")), ("stopping".into(), "robot_paused".into()));
    assert!(text(&stopping, "/cause/by").starts_with("user:"), "{stopping}");
    world.post("/robots/r/pause", json!({ "mode": "abort", "reason": "now" })).await.ok();
    assert_eq!(agent.beat(&[(&job, 1)]).await["jobs"][0]["command"], "abort");
    for path in ["/robots/r", "/robot-groups/all"] {
        let past = world.now().to_string();
        let pause = json!({ "mode": "drain", "reason": "x", "until": past });
        world.post(&format!("{path}/pause"), pause).await.invalid(&["/until"]);
        world
            .post(&format!("{path}/pause"), json!({ "mode": "drain", "reason": "x".repeat(513) }))
            .await
            .invalid(&["/reason"]);
    }
    let codes = each(&world.get("/robots/r/events").await.ok(), "code");
    assert_eq!(codes.iter().filter(|code| *code == "robot_paused").count(), 3);
}

/// The robots of a disabled group take nothing, and the explanation says whose doing it is.
#[tokio::test]
async fn a_disabled_group_disables_its_robots() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    world.process("p").await;
    world.post("/robot-groups", json!({ "name": "g" })).await.created();
    world.call(Method::PUT, "/robot-groups/g/robots/r").send().await.done();
    world.act("/robot-groups/g/disable").await.ok();
    let job = world.start("p").await;
    assert_eq!(agent.next(1, &[]).await.status, 204);
    let explained = world.get(&format!("/jobs/{job}/explain")).await.ok();
    assert_eq!(explained["candidates"][0]["reasons"][0]["code"], "group_disabled");
    assert_eq!(state(&world, "r").await, "disabled");
    world.act("/robot-groups/g/enable").await.ok();
    assert_eq!(agent.take().await.0, job);
}

/// One sample a minute for a day; what is older is gone.
#[tokio::test]
async fn health_is_kept_for_a_day() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    for _ in 0..1_500 {
        agent.beat(&[]).await;
        world.move_clock(60);
    }
    agent.beat(&[]).await;
    let samples = async |hours: &str| world.get(&format!("/robots/r/health{hours}")).await.ok()["items"].clone();
    let day = samples("?hours=24").await;
    assert_eq!(day.as_array().unwrap().len(), 1_440);
    let times: Vec<String> = day.as_array().unwrap().iter().map(|sample| text(sample, "/at")).collect();
    assert!(times.is_sorted());
    assert_eq!(times.last().unwrap(), &world.now().to_string());
    assert_eq!(samples("").await.as_array().unwrap().len(), 61);
    for bad in ["0", "25", "x"] {
        world.get(&format!("/robots/r/health?hours={bad}")).await.invalid(&["hours"]);
    }
    let status = world.get("/robots/r/status").await.ok();
    assert_eq!(status["health"]["cpu_percent"], 12.5);
    world.delete("/robots/r").await.done();
    let id: uuid::Uuid = agent.id.parse().unwrap();
    assert!(world.pairs().iter().all(|(key, _)| !key.starts_with(b"hs")), "samples of {id} are left");
}

/// What is referred to is not deleted.
#[tokio::test]
async fn robots_and_groups_in_use_are_kept() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    world.process("p").await;
    world.post("/robot-groups", json!({ "name": "g" })).await.created();
    world.call(Method::PUT, "/robot-groups/g/robots/r").send().await.done();
    world.call(Method::PUT, "/robot-groups/g/robots/r").send().await.done();
    assert_eq!(world.get("/robot-groups/g").await.ok()["robot_count"], 1);
    world.delete("/robot-groups/g").await.expect(409).refused("in_use");
    world.call(Method::DELETE, "/robot-groups/g/robots/r").send().await.done();
    let at = world.now().plus_seconds(1000).to_string();
    let later = world.start_with("p", json!({ "target": { "group": "g" }, "not_before": at })).await;
    world.delete("/robot-groups/g").await.expect(409).refused("in_use");
    world.post(&format!("/jobs/{later}/stop"), json!({ "mode": "stop" })).await.ok();
    world.delete("/robot-groups/g").await.done();
    world.delete("/robot-groups/all").await.expect(409).refused("in_use");
    world.patch("/robot-groups/all", json!({ "name": "some" })).await.invalid(&["/name"]);
    world.call(Method::DELETE, "/robot-groups/all/robots/r").send().await.expect(409).refused("wrong_state");
    let job = world.start_with("p", json!({ "target": { "robot": "r" } })).await;
    world.delete("/robots/r").await.expect(409).refused("in_use");
    agent.run().await;
    world.delete("/robots/r").await.expect(409).refused("in_use");
    agent.finish(&job, 1, json!({})).await.done();
    world.delete("/robots/r").await.done();
    assert_eq!(text(&world.job(&job).await, "/robot_name"), "r", "the history stays");
    assert_eq!(world.get("/robot-groups/all").await.ok()["robot_count"], 0);
    // Jobs that wait for their time are found behind any number of others.
    world.post("/robots", json!({ "name": "last" })).await.created();
    for _ in 0..11 {
        world.post("/jobs", json!({ "process": "p", "target": { "group": "all" }, "count": 100 })).await.created();
    }
    let at = world.now().plus_seconds(1000).to_string();
    world.start_with("p", json!({ "target": { "robot": "last" }, "not_before": at })).await;
    world.delete("/robots/last").await.expect(409).refused("in_use");
}

/// Filters and changes of robots; labels are a merge patch of their own.
#[tokio::test]
async fn robots_are_found_and_changed() {
    let world = World::new().await;
    world.agent_with("alpha", json!({ "labels": { "room": "1", "os": "x" } })).await;
    world.agent("Бета").await;
    world.post("/robot-groups", json!({ "name": "g" })).await.created();
    let patch = json!({ "groups": ["g"], "labels": { "room": "2" }, "capacity": 5, "description": "d" });
    let changed = world.patch("/robots/alpha", patch).await.ok();
    assert_eq!(changed["labels"], json!({ "room": "2", "os": "x" }));
    let names = async |filter: &str| each(&world.get(&format!("/robots?{filter}")).await.ok(), "name");
    assert_eq!(names("label=room:2&label=os:x").await, ["alpha"]);
    assert_eq!(names("label=room:1").await, Vec::<Value>::new());
    assert_eq!(names("group=g").await, ["alpha"]);
    assert_eq!(names("group=all").await, ["Бета", "alpha"]);
    assert_eq!(names("q=%D0%91%D0%95").await, ["Бета"]);
    world.get("/robots?label=room").await.invalid(&["label"]);
    world.get("/robots?group=none").await.invalid(&["group"]);
    world.get("/robots?state=happy").await.invalid(&["state"]);
    let changed = world.patch("/robots/alpha", json!({ "labels": { "room": null }, "capacity": null })).await.ok();
    assert_eq!((changed["labels"]["room"].clone(), changed["capacity"].clone()), (json!("1"), json!(1)));
    let labels: serde_json::Map<String, Value> = (0..33).map(|n| (format!("l{n}"), json!("v"))).collect();
    world.patch("/robots/alpha", json!({ "labels": labels })).await.invalid(&["/labels"]);
    world.patch("/robots/alpha", json!({ "labels": { "a:b": "v" } })).await.invalid(&["/labels/a:b"]);
}

/// The largest of everything still fits where it is kept: no limit of one field breaks the sum of them.
#[tokio::test]
async fn the_largest_robot_and_process_can_be_kept() {
    let world = World::new().await;
    let wide = "😀".repeat(128);
    let labels = || -> Value {
        (0..32).map(|n| (format!("{n:02}{}", "😀".repeat(120)), json!(wide))).collect::<serde_json::Map<_, _>>().into()
    };
    let new = json!({ "name": wide, "description": "😀".repeat(2048), "labels": labels() });
    world.post("/robots", new).await.invalid(&["/labels"]);
    let labels = json!({ "00": "changed" });
    let most = |n: usize| -> Value {
        (0..n).map(|n| (format!("{n:02}"), json!(wide))).collect::<serde_json::Map<_, _>>().into()
    };
    let new = json!({ "name": wide, "description": "😀".repeat(2048), "labels": most(31) });
    let token = text(&world.post("/robots", new).await.created(), "/join_token");
    let wide_host = "😀".repeat(256);
    let host = json!({ "labels": most(31), "hostname": wide_host, "os_version": wide_host, "arch": wide_host,
        "agent_version": wide_host, "ip": wide_host, "mac": wide_host, "user": wide_host, "time_zone": wide_host });
    let agent_key = text(&world.join(&token, &wide, None, host).await.created(), "/key");
    for number in 0..100 {
        world.post("/robot-groups", json!({ "name": format!("g{number}") })).await.created();
    }
    let groups: Vec<String> = (0..100).map(|number| format!("g{number}")).collect();
    let id = world.get("/robots").await.ok()["items"][0]["id"].as_str().unwrap().to_owned();
    world.patch(&format!("/robots/{id}"), json!({ "groups": groups, "labels": labels })).await.ok();
    world.post("/robot-groups", json!({ "name": "one more" })).await.created();
    let path = format!("/robot-groups/one%20more/robots/{id}");
    world.call(Method::PUT, &path).send().await.expect(409).refused("wrong_state");
    world.call(Method::GET, "/account/me").key(&agent_key).send().await.ok();
    let input = json!({ "x": "y".repeat(32_700) });
    world.process_with(&wide, json!({ "input": input }), &[("main.sh", "true")]).await;
    let process = world.get("/processes").await.ok()["items"][0]["id"].as_str().unwrap().to_owned();
    let pins: serde_json::Map<String, Value> = groups.iter().map(|group| (group.clone(), json!("1"))).collect();
    let patch = json!({ "description": "😀".repeat(2048), "group_pins": pins });
    world.patch(&format!("/processes/{process}"), patch).await.ok();
}

/// What is told of an object that lasts for years does not fill the disk.
#[tokio::test]
async fn old_events_are_forgotten() {
    let world = World::new().await;
    let robot = world.post("/robots", json!({ "name": "r" })).await.created();
    let id: uuid::Uuid = text(&robot, "/id").parse().unwrap();
    let note_many = async |code: &'static str| {
        let note =
            move |tx: &mut Tx| (0..2_000).try_for_each(|_| event::note(tx, id, code, "it was so", "x").map(drop));
        world.app.db.write(world.account, note).await.unwrap();
    };
    note_many("of_old").await;
    world.move_clock(399 * 86_400);
    note_many("of_late").await;
    assert_eq!(world.mentions(b"of_old"), 2_000);
    world.move_clock(2 * 86_400);
    note_many("of_now").await;
    assert_eq!((world.mentions(b"of_old"), world.mentions(b"of_late")), (0, 2_000));
}

/// What is told of a robot goes with it.
#[tokio::test]
async fn a_deleted_robot_leaves_no_events() {
    let world = World::new().await;
    world.post("/robots", json!({ "name": "r" })).await.created();
    assert!(world.mentions(b"robot_created") > 0);
    world.delete("/robots/r").await.done();
    assert_eq!(world.mentions(b"robot_created"), 0);
}

/// A join token is found by its id as it stands in the list, and only by those who reach what it is for.
#[tokio::test]
async fn a_join_token_is_found_by_its_id() {
    let world = World::new().await;
    for group in ["fin", "hr"] {
        world.post("/robot-groups", json!({ "name": group })).await.created();
    }
    let role = json!({ "name": "finance", "permissions": ["join_token:read"], "limits": { "robot_groups": ["fin"] } });
    world.post("/roles", role).await.created();
    let ann = world.post("/users", json!({ "login": "ann", "roles": ["finance"] })).await.created();
    for (token, status) in [(json!({ "group": "fin" }), 200), (json!({ "group": "hr" }), 404), (json!({}), 404)] {
        let made = world.post("/join-tokens", token).await.created();
        let path = format!("/join-tokens/{}", text(&made, "/id"));
        let found = world.get(&path).await.ok();
        assert_eq!(found, world.get("/join-tokens").await.ok()["items"][0]);
        assert!(found.get("token").is_none() && !found.to_string().contains(&text(&made, "/token")), "{found}");
        world.call(Method::GET, &path).key(&text(&ann, "/key")).send().await.expect(status);
        let other = world.key_with(&["join_token:create"]).await;
        world.call(Method::GET, &path).key(&other).send().await.refused("forbidden");
    }
    world.get("/join-tokens/x").await.expect(404);
}
