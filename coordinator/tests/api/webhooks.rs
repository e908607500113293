//! Webhooks: what a real receiver is sent, how often, and what becomes of one that does not take it.

use drover_coordinator::{app::Rules, background, webhook_client::WebhookRules};
use http::Method;
use serde_json::{Value, json};

use crate::{
    receiver::{Answering, Receiver},
    support::{Call, World, each, rules, text},
};

/// A webhook for these events at a receiver; gives its secret.
async fn hook(world: &World, receiver: &Receiver, events: &[&str]) -> String {
    let new = json!({ "name": "hook", "url": receiver.url(), "events": events });
    text(&world.post("/webhooks", new).await.created(), "/secret")
}

/// Hands out what has happened, and sends what is due.
async fn send(world: &World) {
    background::news::pass(&world.app).await.unwrap();
    background::webhooks::pass(&world.app).await.unwrap();
}

async fn deliveries(world: &World) -> Vec<Value> {
    let page = world.get("/webhooks/hook/deliveries?limit=1000").await.ok();
    page["items"].as_array().unwrap().clone()
}

/// Codes of the webhook's events, oldest first.
async fn events(world: &World) -> Vec<String> {
    let page = world.get("/webhooks/hook/events").await.ok();
    page["items"].as_array().unwrap().iter().rev().map(|event| text(event, "/code")).collect()
}

#[tokio::test]
async fn a_receiver_is_sent_signed_events_of_the_types_it_wants() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.queue("q", json!({})).await;
    let secret = hook(&world, &receiver, &["task.added", "task.succeeded"]).await;
    let task = world.add("q", json!({ "reference": "a-1" })).await;
    let (_, attempt) = world.take_one("q").await;
    world.on_task(&task, "succeed", json!({ "attempt": attempt })).await.ok();
    send(&world).await;
    send(&world).await;
    let received = receiver.take();
    let types: Vec<String> = received.iter().map(|one| text(&one.json(), "/type")).collect();
    assert_eq!(types.len(), 2, "each once: {types:?}");
    assert!(types.contains(&"task.added".to_owned()) && types.contains(&"task.succeeded".to_owned()));
    for one in &received {
        assert!(one.is_signed_with(&secret));
        assert_eq!(one.header("content-type"), "application/cloudevents+json");
        let event = one.json();
        assert_eq!((&event["specversion"], &event["id"]), (&json!("1.0"), &json!(one.header("webhook-id"))));
        assert_eq!(event["subject"], format!("task/{task}"));
        assert_eq!(event["source"], format!("/accounts/{}", world.account));
        let data = &event["data"];
        assert_eq!((&data["id"], &data["name"], &data["queue"]), (&json!(task), &json!("a-1"), &json!("q")));
    }
    let known = deliveries(&world).await;
    assert!(known.iter().all(|delivery| delivery["state"] == "delivered" && delivery["tries"][0]["status"] == 204));
    let shown = world.get("/webhooks/hook").await.ok();
    assert_eq!((&shown["waiting"], &shown["failing_since"]), (&json!(0), &Value::Null));
    assert_eq!(shown["last_delivered_at"], json!(world.now()));
}

/// The message keeps its id and its words, so that a receiver can take it once; the next try comes later each time.
#[tokio::test]
async fn what_is_not_taken_is_tried_again() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.queue("q", json!({})).await;
    let secret = hook(&world, &receiver, &["task.added"]).await;
    receiver.answer([Answering::Status(500), Answering::Body(429, "x".repeat(5_000)), Answering::Status(200)]);
    world.add("q", json!({})).await;
    send(&world).await;
    let first = receiver.take().remove(0);
    let waiting = deliveries(&world).await.remove(0);
    assert_eq!((&waiting["state"], &waiting["tries"][0]["status"]), (&json!("waiting"), &json!(500)));
    assert_eq!(world.get("/webhooks/hook").await.ok()["failing_since"], json!(world.now()));
    world.move_clock(4);
    send(&world).await;
    assert!(receiver.take().is_empty(), "it is not due yet");
    world.move_clock(3);
    send(&world).await;
    let second = receiver.take().remove(0);
    let cut = deliveries(&world).await.remove(0);
    assert_eq!(cut["answer"].as_str().map(str::len), Some(1_024), "an answer is kept in part");
    world.move_clock(13);
    send(&world).await;
    let third = receiver.take().remove(0);
    for one in [&second, &third] {
        assert_eq!((one.header("webhook-id"), &one.body), (first.header("webhook-id"), &first.body));
        assert!(one.is_signed_with(&secret));
    }
    assert_ne!(third.header("webhook-timestamp"), first.header("webhook-timestamp"));
    let done = deliveries(&world).await.remove(0);
    assert_eq!((&done["state"], &done["next_try_at"]), (&json!("delivered"), &Value::Null));
    assert_eq!(done["tries"].as_array().map(Vec::len), Some(3));
    assert_eq!(world.get("/webhooks/hook").await.ok()["failing_since"], Value::Null);
}

#[tokio::test]
async fn after_a_day_a_delivery_is_given_up_and_can_be_sent_again() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.queue("q", json!({})).await;
    hook(&world, &receiver, &["task.added"]).await;
    receiver.answer(std::iter::repeat_n(Answering::Status(503), 60));
    world.add("q", json!({})).await;
    let mut hours = 0;
    while deliveries(&world).await.first().is_none_or(|delivery| delivery["state"] == "waiting") {
        send(&world).await;
        world.move_clock(3_600);
        hours += 1;
    }
    assert!((20..30).contains(&hours), "{hours}");
    assert_eq!(events(&world).await.last().map(String::as_str), Some("delivery_given_up"));
    let sent = receiver.take().len();
    world.move_clock(86_400);
    send(&world).await;
    assert!(receiver.take().is_empty() && sent > 15, "{sent}");
    receiver.answer([]);
    let id = text(&deliveries(&world).await[0], "/id");
    let replayed = world.act(&format!("/webhooks/hook/deliveries/{id}/replay")).await.ok();
    assert_eq!(replayed["state"], "waiting");
    send(&world).await;
    assert_eq!(receiver.take().len(), 1);
    assert_eq!(deliveries(&world).await[0]["state"], "delivered");
    // What was taken may be asked for once more as well.
    world.act(&format!("/webhooks/hook/deliveries/{id}/replay")).await.ok();
    send(&world).await;
    assert_eq!(receiver.take().len(), 1);
    world.act(&format!("/webhooks/hook/deliveries/{}/replay", world.account)).await.refused("not_found");
}

/// Whatever was on its way when the coordinator ended is sent by the next one, under the same id.
#[tokio::test]
async fn nothing_is_lost_when_the_coordinator_ends_in_between() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.queue("q", json!({})).await;
    hook(&world, &receiver, &["task.added"]).await;
    world.add("q", json!({})).await;
    receiver.answer([Answering::Never]);
    background::news::pass(&world.app).await.unwrap();
    let running = tokio::spawn(background::webhooks::run(world.app.clone()));
    receiver.came().await;
    running.abort();
    let first = receiver.take().remove(0);
    assert_eq!(deliveries(&world).await[0]["state"], "waiting");
    send(&world).await;
    assert_eq!(receiver.take()[0].header("webhook-id"), first.header("webhook-id"));
}

/// However many hand out at the same time, each event becomes one delivery.
#[tokio::test]
async fn what_happens_is_handed_out_once() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.queue("q", json!({})).await;
    hook(&world, &receiver, &["task.added"]).await;
    let tasks: Vec<String> = (0..450).map(|number| json!({ "payload": number }).to_string()).collect();
    let call = world.call(Method::POST, "/queues/q/tasks/bulk").header("content-type", "application/x-ndjson");
    call.body(tasks.join("\n")).send().await.expect(200);
    let hand_out = || background::news::pass(&world.app);
    let (one, two, three) = tokio::join!(hand_out(), hand_out(), hand_out());
    one.and(two).and(three).unwrap();
    let mut objects: Vec<String> = deliveries(&world).await.iter().map(|one| text(one, "/object_id")).collect();
    objects.sort();
    objects.dedup();
    assert_eq!((objects.len(), deliveries(&world).await.len()), (450, 450));
}

/// One that never answers must not hold up another.
#[tokio::test]
async fn a_receiver_that_hangs_holds_up_nobody_else() {
    let (world, dead, alive) = (World::new().await, Receiver::start().await, Receiver::start().await);
    world.queue("q", json!({})).await;
    dead.answer(std::iter::repeat_n(Answering::Never, 50));
    hook(&world, &dead, &["task.added"]).await;
    let new = json!({ "name": "alive", "url": alive.url(), "events": ["task.added"] });
    world.post("/webhooks", new).await.created();
    for _ in 0..10 {
        world.add("q", json!({})).await;
    }
    background::news::pass(&world.app).await.unwrap();
    let running = tokio::spawn(background::webhooks::run(world.app.clone()));
    let mut received = 0;
    while received < 10 {
        alive.came().await;
        received += alive.take().len();
    }
    running.abort();
    assert_eq!(dead.take().len(), 4, "at most so many wait for an answer at once");
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_left_alone() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.queue("q", json!({})).await;
    hook(&world, &receiver, &["task.added"]).await;
    receiver.answer([Answering::Status(410)]);
    world.add("q", json!({})).await;
    send(&world).await;
    let shown = world.get("/webhooks/hook").await.ok();
    assert_eq!(shown["enabled"], false);
    assert!(text(&shown, "/disabled_because").contains("410"));
    assert_eq!(events(&world).await, ["webhook_created", "delivery_given_up", "webhook_disabled"]);
    world.add("q", json!({})).await;
    world.move_clock(10);
    send(&world).await;
    assert_eq!(receiver.take().len(), 1);
    let id = text(&deliveries(&world).await[0], "/id");
    world.act(&format!("/webhooks/hook/deliveries/{id}/replay")).await.refused("wrong_state");
    let enabled = world.patch("/webhooks/hook", json!({ "enabled": true })).await.ok();
    assert_eq!(enabled["disabled_because"], Value::Null);
    world.add("q", json!({})).await;
    send(&world).await;
    assert_eq!(receiver.take().len(), 1, "what happened meanwhile is not made up for");
}

/// A test tells how the receiver really answers, at once.
#[tokio::test]
async fn a_test_tells_the_real_answer() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let secret = hook(&world, &receiver, &["job.finished"]).await;
    receiver.answer([
        Answering::Body(200, "thanks".to_owned()),
        Answering::Body(401, "who are you".to_owned()),
        Answering::Redirect("http://elsewhere.example/".to_owned()),
    ]);
    let taken = world.act("/webhooks/hook/test").await.ok();
    assert_eq!((&taken["delivered"], &taken["answer"]), (&json!(true), &json!("thanks")));
    let sent = receiver.take().remove(0);
    assert!(sent.is_signed_with(&secret));
    assert_eq!(sent.json()["type"], "webhook.test");
    let refused = world.act("/webhooks/hook/test").await.ok();
    assert_eq!((&refused["delivered"], &refused["status"]), (&json!(false), &json!(401)));
    assert_eq!(refused["answer"], "who are you");
    let moved = world.act("/webhooks/hook/test").await.ok();
    assert_eq!((&moved["delivered"], &moved["status"]), (&json!(false), &json!(307)));
    assert!(text(&moved, "/error").contains("http://elsewhere.example/"), "{moved}");
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    world.patch("/webhooks/hook", json!({ "url": format!("http://{closed}/") })).await.ok();
    let nobody = world.act("/webhooks/hook/test").await.ok();
    assert_eq!((&nobody["delivered"], &nobody["status"]), (&json!(false), &Value::Null));
    assert!(text(&nobody, "/error").contains("refused"), "{nobody}");
    assert_eq!(deliveries(&world).await, Vec::<Value>::new(), "a test is no delivery");
}

/// However the address is written: what is connected to is what counts.
#[tokio::test]
async fn private_targets_are_not_called_unless_that_is_allowed() {
    let receiver = Receiver::start().await;
    let port = receiver.address.port();
    let webhooks = WebhookRules { allow_private_targets: false, timeout_seconds: 15 };
    let world = World::with_rules(Rules { webhooks, ..rules() }).await;
    hook(&world, &receiver, &["task.added"]).await;
    for host in
        ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0x7f.1", "2130706433", "0.0.0.0", "169.254.169.254"]
    {
        world.patch("/webhooks/hook", json!({ "url": format!("http://{host}:{port}/") })).await.ok();
        let tested = world.act("/webhooks/hook/test").await.ok();
        assert_eq!((&tested["delivered"], &tested["status"]), (&json!(false), &Value::Null), "{host}");
        assert!(text(&tested, "/error").contains("allow_private_targets"), "{host}: {tested}");
    }
    assert!(receiver.take().is_empty());
}

#[tokio::test]
async fn a_secret_is_shown_once_and_can_be_changed() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.queue("q", json!({})).await;
    let old = hook(&world, &receiver, &["task.added"]).await;
    let changed = world.post("/webhooks/hook/rotate-secret", json!({ "grace_seconds": 60 })).await.ok();
    let new = text(&changed, "/secret");
    assert_eq!(changed["old_secret_until"], json!(world.now().plus_seconds(60)));
    world.add("q", json!({})).await;
    send(&world).await;
    let both = receiver.take().remove(0);
    assert!(both.is_signed_with(&old) && both.is_signed_with(&new));
    world.move_clock(61);
    world.add("q", json!({})).await;
    send(&world).await;
    let one = receiver.take().remove(0);
    assert!(!one.is_signed_with(&old) && one.is_signed_with(&new));
    world
        .post("/webhooks/hook/rotate-secret", json!({ "grace_seconds": 10_000_000 }))
        .await
        .invalid(&["/grace_seconds"]);
    let third = text(&world.act("/webhooks/hook/rotate-secret").await.ok(), "/secret");
    for path in ["/webhooks", "/webhooks/hook", "/webhooks/hook/events", "/webhooks/hook/deliveries", "/audit"] {
        let shown = world.get(path).await.expect(200).text();
        assert!([&old, &new, &third].iter().all(|secret| !shown.contains(secret.as_str())), "{path}");
    }
    use base64::{Engine, engine::general_purpose::STANDARD};
    for secret in [&old, &new, &third] {
        let bytes = STANDARD.decode(&secret["whsec_".len()..]).unwrap();
        assert_eq!(
            (world.mentions(secret.as_bytes()), world.mentions(&bytes)),
            (0, 0),
            "it is sealed where it is kept"
        );
    }
}

#[tokio::test]
async fn webhooks_are_made_changed_and_deleted() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let refused = [
        (json!({ "url": "ftp://x/" }), "/url"),
        (json!({ "url": "nonsense" }), "/url"),
        (json!({ "url": "https://user:secret@x/" }), "/url"),
        (json!({ "events": [] }), "/events"),
        (json!({ "events": ["job.exploded"] }), "/events/0"),
        (json!({ "name": "" }), "/name"),
        (json!({ "secret": "mine" }), "/secret"),
    ];
    for (more, pointer) in refused {
        let mut new = json!({ "name": "n", "url": "https://x.example/", "events": ["job.finished"] });
        new.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        world.post("/webhooks", new).await.invalid(&[pointer]);
    }
    let new = json!({ "name": "hook", "url": receiver.url(), "events": ["task.added"] });
    let call = || world.call(Method::POST, "/webhooks").header("idempotency-key", "once-and-never-again-1");
    let made = call().json(&new).send().await.created();
    let again = call().json(&new).send().await;
    assert_eq!((again.header("idempotency-replayed"), again.json()), (Some("true"), made.clone()));
    world.post("/webhooks", new).await.refused("already_exists");
    assert_eq!(each(&world.get("/webhooks").await.ok(), "name"), [json!("hook")]);
    let changed = world.patch("/webhooks/hook", json!({ "events": ["task.failed", "job.finished"] })).await.ok();
    assert_eq!((&changed["events"], &changed["revision"]), (&json!(["job.finished", "task.failed"]), &json!(2)));
    let stale = world.call(Method::PATCH, "/webhooks/hook").header("if-match", "\"1\"").json(&json!({ "name": "x" }));
    stale.send().await.refused("precondition_failed");
    world.queue("q", json!({})).await;
    world.add("q", json!({})).await;
    send(&world).await;
    assert!(receiver.take().is_empty(), "it wants that no more");
    world.patch("/webhooks/hook", json!({ "events": ["task.added"] })).await.ok();
    receiver.answer([Answering::Status(500)]);
    world.add("q", json!({})).await;
    send(&world).await;
    world.delete("/webhooks/hook").await.done();
    world.get("/webhooks/hook").await.refused("not_found");
    world.move_clock(3_600);
    send(&world).await;
    assert_eq!(receiver.take().len(), 1, "what was on its way has gone with it");
    let acts = each(&world.get("/audit?noun=webhook").await.ok(), "verb");
    assert_eq!(acts, ["delete", "update", "update", "create"].map(|verb| json!(verb)));
}

/// What is delivered is known for some days; what still waits is kept.
#[tokio::test]
async fn old_deliveries_are_removed() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.queue("q", json!({})).await;
    hook(&world, &receiver, &["task.added"]).await;
    world.add("q", json!({})).await;
    send(&world).await;
    world.move_clock(8 * 86_400);
    world.add("q", json!({})).await;
    send(&world).await;
    world.retain(0, 0).await;
    assert_eq!(deliveries(&world).await.len(), 1);
    receiver.answer(std::iter::repeat_n(Answering::Status(500), 9));
    world.add("q", json!({})).await;
    send(&world).await;
    let id = text(&deliveries(&world).await[0], "/id");
    world.move_clock(8 * 86_400);
    world.act(&format!("/webhooks/hook/deliveries/{id}/replay")).await.ok();
    world.retain(0, 0).await;
    let left = deliveries(&world).await;
    assert_eq!((left.len(), text(&left[0], "/id")), (1, id), "it is on its way");
}

#[tokio::test]
async fn webhooks_of_another_account_are_as_if_they_did_not_exist() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    hook(&world, &receiver, &["task.added"]).await;
    let other = drover_protocol::AccountId::from_uuid(uuid::Uuid::from_u128(0xacc1));
    let key = world.new_account(other, "other").await;
    let call = |path: &str, method: Method| Call::new(world.router.clone(), method, path).key(&key);
    call("/webhooks/hook", Method::GET).send().await.refused("not_found");
    call("/queues", Method::POST).json(&json!({ "name": "q" })).send().await.created();
    call("/queues/q/tasks", Method::POST).json(&json!({ "payload": 1 })).send().await.created();
    send(&world).await;
    assert!(receiver.take().is_empty());
}
