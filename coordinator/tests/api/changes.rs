//! The stream of changes: who is told what, in which order, and what happens to those who come back or dawdle.

use axum::body::Body;
use drover_coordinator::store::changes::{Change, Verb};
use drover_protocol::change::Noun;
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::support::{Call, World, text};

/// A reader of the stream.
struct Stream {
    body: Body,
    text: String,
}

/// One event: its id, its name, its data.
#[derive(Debug, PartialEq)]
struct Event {
    id: u64,
    name: String,
    data: Value,
}

impl Stream {
    async fn open(world: &World, key: &str, query: &str, last: Option<u64>) -> Self {
        let mut call = Call::new(world.router.clone(), Method::GET, &format!("/events{query}")).key(key);
        call = call.header("accept", "text/event-stream");
        if let Some(last) = last {
            call = call.header("last-event-id", &last.to_string());
        }
        let response = call.open().await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body(), text: String::new() }
    }

    /// The next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let found = event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                    found.map(str::to_owned)
                };
                let found = (field("id"), field("event"), field("data"));
                self.text = rest.to_owned();
                let (Some(id), name, Some(data)) = found else { continue };
                let (id, data) = (id.parse().unwrap(), serde_json::from_str(&data).unwrap());
                return Some(Event { id, name: name.unwrap_or_default(), data });
            }
            let frame = self.body.frame().await?.unwrap();
            self.text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    }

    /// Types and names of the next changes.
    async fn types(&mut self, count: usize) -> Vec<(String, Value)> {
        let mut found = Vec::new();
        for _ in 0..count {
            let event = self.next().await.unwrap();
            found.push((text(&event.data, "/type"), event.data["name"].clone()));
        }
        found
    }
}

fn named(expected: &[(&str, &str)]) -> Vec<(String, Value)> {
    expected.iter().map(|(kind, name)| ((*kind).to_owned(), json!(name))).collect()
}

#[tokio::test]
async fn changes_are_told_in_their_order_and_whoever_comes_back_misses_none() {
    let world = World::new().await;
    let mut stream = Stream::open(&world, &world.admin, "", None).await;
    assert_eq!(stream.next().await.unwrap().name, "position");
    let queue = world.post("/queues", json!({ "name": "q" })).await.created();
    world.patch("/queues/q", json!({ "description": "new" })).await.ok();
    let created = stream.next().await.unwrap();
    let expected = json!({ "type": "queue.created", "noun": "queue", "id": queue["id"], "name": "q", "revision": 1,
        "at": world.now() });
    assert_eq!(created.data, expected);
    let changed = stream.next().await.unwrap();
    assert_eq!((&changed.data["type"], &changed.data["revision"]), (&json!("queue.changed"), &json!(2)));
    assert!(changed.id > created.id);
    drop(stream);
    world.post("/queues", json!({ "name": "while away" })).await.created();
    let mut back = Stream::open(&world, &world.admin, "", Some(created.id)).await;
    assert_eq!(back.next().await.unwrap().name, "position");
    world.delete("/queues/q").await.done();
    let expected = named(&[("queue.changed", "q"), ("queue.created", "while away"), ("queue.deleted", "q")]);
    assert_eq!(back.types(3).await, expected);
}

/// A whole life is told, and nothing of what was refused in the end.
#[tokio::test]
async fn every_kind_of_object_is_told_and_what_failed_is_not() {
    let world = World::new().await;
    let mut stream = Stream::open(&world, &world.admin, "?noun=process&noun=job&noun=robot&noun=task", None).await;
    stream.next().await.unwrap();
    let agent = world.agent("r").await;
    let process = world.process("p").await;
    world.post("/processes", json!({ "name": "p" })).await.refused("already_exists");
    let job = world.start(&process).await;
    agent.take().await;
    agent.accept(&job, 1).await.ok();
    agent.finish(&job, 1, json!({})).await.done();
    world.queue("q", json!({})).await;
    world.add("q", json!({ "name": "first" })).await;
    let expected = named(&[
        ("robot.created", "r"),
        ("process.created", "p"),
        ("process.changed", "p"),
        ("job.created", "p"),
        ("job.changed", "p"),
        ("job.changed", "p"),
        ("job.changed", "p"),
        ("task.created", "first"),
    ]);
    assert_eq!(stream.types(8).await, expected);
    // A robot that falls silent changes nothing that is counted, and yet what is shown of it.
    world.pass_time(61).await;
    assert_eq!(stream.types(1).await, named(&[("robot.changed", "r")]));
}

#[tokio::test]
async fn each_is_told_what_it_may_read_of_its_own_account() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    let other = drover_protocol::AccountId::from_uuid(uuid::Uuid::from_u128(0xacc1));
    let other_key = world.new_account(other, "other").await;
    let key = world.key_with(&["queue:read"]).await;
    let process = world.process("p").await;
    world.start(&process).await;
    let (_, assignment) = agent.take().await;
    let job_key = text(&assignment, "/key");
    let refused = async |key: &str, query: &str| {
        Call::new(world.router.clone(), Method::GET, &format!("/events{query}")).key(key).send().await
    };
    refused(&agent.key, "").await.refused("forbidden");
    refused(&job_key, "").await.refused("forbidden");
    refused(&key, "?noun=job").await.refused("forbidden");
    refused(&key, "?noun=jobs").await.refused("invalid");
    world.get("/events?x=1").await.refused("invalid");
    world.call(Method::GET, "/events").header("accept", "image/png").send().await.refused("not_acceptable");
    let mut stream = Stream::open(&world, &key, "", None).await;
    let mut of_other = Stream::open(&world, &other_key, "?noun=queue", None).await;
    stream.next().await.unwrap();
    of_other.next().await.unwrap();
    world.start(&process).await;
    world.queue("seen", json!({})).await;
    let theirs = Call::new(world.router.clone(), Method::POST, "/queues").key(&other_key);
    theirs.json(&json!({ "name": "theirs" })).send().await.created();
    assert_eq!(stream.types(1).await, named(&[("queue.created", "seen")]));
    assert_eq!(of_other.types(1).await, named(&[("queue.created", "theirs")]));
    // Logins are for those who may read users, and nobody reads the keys of others.
    let key = world.key_with(&["account:read", "key:manage_keys", "queue:read"]).await;
    let mut stream = Stream::open(&world, &key, "", None).await;
    stream.next().await.unwrap();
    world.post("/users", json!({ "login": "hidden", "roles": ["viewer"] })).await.created();
    world.post("/keys", json!({ "name": "of the admin" })).await.created();
    world.queue("last", json!({})).await;
    let mut told = stream.types(1).await;
    while told.last() != named(&[("queue.created", "last")]).last() {
        told.extend(stream.types(1).await);
    }
    assert!(told.iter().all(|(kind, name)| !kind.starts_with("user.") && name != "of the admin"), "{told:?}");
}

/// Whoever is too slow, or comes back too late, is told to read anew and goes on from there; nobody waits for it.
#[tokio::test]
async fn who_has_lost_its_place_is_told_to_read_anew() {
    let world = World::new().await;
    let mut slow = Stream::open(&world, &world.admin, "?noun=queue", None).await;
    let begun = slow.next().await.unwrap();
    world.queue("q", json!({})).await;
    // As many changes as are kept, without a call for each.
    let change = |id| Change {
        account: world.account,
        noun: Noun::Task,
        verb: Verb::Changed,
        id: uuid::Uuid::from_u128(id),
        name: None,
        revision: None,
        at: world.now(),
    };
    world.app.db.changes().publish((0..8_192).map(change).collect());
    let reset = slow.next().await.unwrap();
    assert_eq!((reset.name.as_str(), reset.data), ("reset", json!({})));
    world.delete("/queues/q").await.done();
    assert_eq!(slow.types(1).await, named(&[("queue.deleted", "q")]));
    for last in [begun.id, 0, u64::MAX] {
        let mut back = Stream::open(&world, &world.admin, "", Some(last)).await;
        assert_eq!(back.next().await.unwrap().name, "reset");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_lives_as_long_as_its_key() {
    let world = World::new().await;
    let made = world.post("/keys", json!({ "name": "short", "permissions": ["queue:read"] })).await.created();
    let mut stream = Stream::open(&world, &text(&made, "/key"), "", None).await;
    stream.next().await.unwrap();
    let beat = stream.body.frame().await.unwrap().unwrap();
    assert!(beat.data_ref().unwrap().starts_with(b":\nid: "));
    world.delete(&format!("/keys/{}", text(&made, "/id"))).await.done();
    assert_eq!(stream.next().await, None);
}

/// A stream ends soon after its reader has lost the role, however much happens, and tells before that what another role
/// still gives.
#[tokio::test(start_paused = true)]
async fn a_stream_tells_what_roles_allow_by_now() {
    let world = World::new().await;
    for (name, may) in [("all", json!(["queue:read", "process:read"])), ("some", json!(["process:read"]))] {
        world.post("/roles", json!({ "name": name, "permissions": may })).await.created();
    }
    let ann = text(&world.post("/users", json!({ "login": "ann", "roles": ["all"] })).await.created(), "/key");
    let mut stream = Stream::open(&world, &ann, "", None).await;
    let seen = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(event) = stream.next().await {
            seen.push(event.data["name"].clone());
        }
        seen
    });
    for (number, roles) in [json!(["all"]), json!(["some"]), json!([])].into_iter().enumerate() {
        world.patch("/users/ann", json!({ "roles": roles })).await.ok();
        for _ in 0..12 {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        world.queue(&format!("q{number}"), json!({})).await;
        world.post("/processes", json!({ "name": format!("p{number}") })).await.created();
    }
    let mut seen = tokio::time::timeout(std::time::Duration::from_secs(1), seen).await.expect("it ends").unwrap();
    seen.retain(|name| !name.is_null());
    assert_eq!(seen, ["q0", "p0", "p1"]);
}
