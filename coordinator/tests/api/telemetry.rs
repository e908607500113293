//! What is exported to a collector of OpenTelemetry: what has ended, once it has ended and not without what it follows
//! from, whatever the collector answers.

use drover_coordinator::{
    app::Rules,
    background::telemetry::Exporter,
    operations::trace,
    telemetry_client::{TelemetryRules, headers},
};
use http::Method;
use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceRequest, trace::v1::Span};
use prost::Message;
use serde_json::{Value, json};

use crate::{
    receiver::{Answering, Receiver},
    support::{World, rules, text},
};

async fn world(receiver: &Receiver) -> World {
    world_with(receiver, false).await
}

async fn world_with(receiver: &Receiver, logs: bool) -> World {
    let telemetry = TelemetryRules {
        endpoint: format!("http://{}", receiver.address),
        headers: headers("x-tenant=robots").unwrap(),
        traces: true,
        logs,
        timeout_seconds: 5,
    };
    World::with_rules(Rules { telemetry: Some(telemetry), ..rules() }).await
}

/// A task of an account that is tried once.
async fn try_task(world: &World, key: &str) {
    let post = async |path: &str, body: Value| world.call(Method::POST, path).key(key).json(&body).send().await.json();
    let task = post("/queues/q/tasks", json!({ "payload": {} })).await;
    post("/queues/q/take", json!({})).await;
    let id = text(&task, "/id");
    world.call(Method::POST, &format!("/tasks/{id}/succeed")).key(key).json(&json!({ "attempt": 1 })).send().await.ok();
}

fn spans(receiver: &Receiver) -> Vec<Span> {
    let mut spans = Vec::new();
    for received in receiver.take() {
        assert_eq!(
            (received.header("content-type"), received.header("x-tenant")),
            ("application/x-protobuf", "robots")
        );
        let request = ExportTraceServiceRequest::decode(received.body).unwrap();
        spans.extend(request.resource_spans.into_iter().flat_map(|r| r.scope_spans).flat_map(|s| s.spans));
    }
    spans
}

/// How many notes wait.
fn waiting(world: &World) -> usize {
    world.app.db.read(world.account, |reading| trace::page(reading)).unwrap().len()
}

async fn lost(world: &World) -> bool {
    let text = world.app.metrics.render();
    text.contains(r#"drover_telemetry_lost_total{signal="traces"} "#)
}

/// A task that is tried twice and put back in between has three attempts; none of its content is told.
#[tokio::test]
async fn each_attempt_at_a_task_is_a_span_of_its_own() {
    let receiver = Receiver::start().await;
    let world = world(&receiver).await;
    world.queue("q", json!({ "max_attempts": 3, "retry": { "delay_seconds": 0 } })).await;
    let task = world.add("q", json!({ "reference": "a-1", "payload": { "iban": "DE-PAYLOAD" } })).await;
    for (verb, more) in [
        ("fail", json!({ "kind": "application", "message": "the window was gone" })),
        ("postpone", json!({ "until": world.now() })),
        ("succeed", json!({ "output": { "iban": "DE-OUTPUT" } })),
    ] {
        let (_, attempt) = world.take_one("q").await;
        assert_eq!(waiting(&world), (attempt - 1) as usize, "nothing is told of what goes on");
        let mut body = more;
        body["attempt"] = json!(attempt);
        world.on_task(&task, verb, body).await.ok();
        world.pass_time(1).await;
    }
    let mut exporter = Exporter::default();
    receiver.answer([Answering::Status(503)]);
    assert!(exporter.pass(&world.app).await.is_err());
    assert_eq!(waiting(&world), 3, "what was not taken waits");
    let refused = spans(&receiver);
    exporter.pass(&world.app).await.unwrap();
    let sent = spans(&receiver);
    assert_eq!(refused, sent, "the same spans come again");
    assert_eq!(sent.len(), 3);
    let trace = task.replace('-', "");
    for span in &sent {
        assert_eq!(span.trace_id.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), trace);
        assert!(span.parent_span_id.is_empty(), "no job took it");
        assert_eq!(span.name, "task q");
        let text = format!("{span:?}");
        assert!(text.contains("a-1") && !text.contains("DE-PAYLOAD") && !text.contains("DE-OUTPUT"));
    }
    let messages: Vec<&str> = sent.iter().map(|span| span.status.as_ref().unwrap().message.as_str()).collect();
    assert_eq!(messages, ["the window was gone", "", ""]);
    assert_eq!(waiting(&world), 0);
    exporter.pass(&world.app).await.unwrap();
    assert!(spans(&receiver).is_empty(), "what was taken is not sent again");
    assert!(!lost(&world).await);
}

/// What the collector calls wrong would be wrong for ever, and everything after it would wait.
#[tokio::test]
async fn what_the_collector_refuses_for_good_is_counted_and_holds_up_nothing() {
    let receiver = Receiver::start().await;
    let world = world(&receiver).await;
    world.queue("q", json!({})).await;
    let task = world.add("q", json!({})).await;
    let (_, attempt) = world.take_one("q").await;
    world.on_task(&task, "succeed", json!({ "attempt": attempt })).await.ok();
    receiver.answer([Answering::Status(400)]);
    Exporter::default().pass(&world.app).await.unwrap();
    assert_eq!(spans(&receiver).len(), 1);
    assert_eq!(waiting(&world), 0);
    assert!(lost(&world).await);
}

/// Of too many the oldest go, and what was deleted in the meantime is passed over.
#[tokio::test]
async fn what_nobody_takes_is_bounded() {
    let receiver = Receiver::start().await;
    let world = world(&receiver).await;
    world.queue("q", json!({})).await;
    for _ in 0..5 {
        let task = world.add("q", json!({})).await;
        let (_, attempt) = world.take_one("q").await;
        world.on_task(&task, "succeed", json!({ "attempt": attempt })).await.ok();
    }
    let surplus = |most| world.app.db.read(world.account, |reading| trace::surplus(reading, most)).unwrap();
    assert!(surplus(5).is_empty() && surplus(6).is_empty());
    let all = world.app.db.read(world.account, |reading| trace::page(reading)).unwrap();
    let oldest: Vec<_> = all.into_iter().take(2).map(|(note, _)| note).collect();
    assert_eq!(surplus(3), oldest);
    world.app.db.write(world.account, move |tx| trace::forget(tx, &oldest)).await.unwrap();
    world.delete("/queues/q").await.expect(204);
    Exporter::default().pass(&world.app).await.unwrap();
    assert_eq!(waiting(&world), 0);
    assert!(spans(&receiver).is_empty());
}

/// A batch at which the collector fails holds up nobody else, and is given up some day.
#[tokio::test]
async fn what_the_collector_fails_at_holds_up_nobody_else() {
    let receiver = Receiver::start().await;
    let world = world_with(&receiver, true).await;
    let (north, key) = {
        let made = world.post("/accounts", json!({ "name": "north", "admin": { "login": "bob" } })).await.created();
        (text(&made, "/account/id").parse().unwrap(), text(&made, "/key"))
    };
    for key in [&world.admin, &key] {
        world.call(Method::POST, "/queues").key(key).json(&json!({ "name": "q" })).send().await.created();
    }
    let mut exporter = Exporter::default();
    exporter.pass(&world.app).await.unwrap();
    try_task(&world, &world.admin.clone()).await;
    try_task(&world, &key).await;
    let line = json!({ "level": "info", "message": "NORTH" });
    world.call(Method::POST, "/logs").key(&key).json(&line).send().await.expect(201);
    receiver.answer([Answering::Status(500)]);
    assert!(exporter.pass(&world.app).await.is_err());
    let of_north = world.app.db.read(north, |reading| trace::page(reading)).unwrap();
    assert_eq!((waiting(&world), of_north.len()), (1, 0), "the other account's got through");
    let bodies: Vec<_> = receiver.take().into_iter().map(|received| received.body).collect();
    assert!(bodies.iter().any(|body| body.windows(5).any(|five| five == b"NORTH")), "and its lines");
    receiver.answer((0..8).map(|_| Answering::Status(500)));
    for _ in 0..8 {
        assert!(exporter.pass(&world.app).await.is_err());
    }
    assert!(!lost(&world).await);
    receiver.answer([Answering::Status(500)]);
    exporter.pass(&world.app).await.unwrap();
    assert_eq!(waiting(&world), 0);
    assert!(lost(&world).await, "ten times are enough, and it is counted");
}

/// Lines that come while nothing can be sent are wanted later, of an account whose turn has never come as well.
#[tokio::test]
async fn lines_of_a_new_account_wait_for_the_collector() {
    let receiver = Receiver::start().await;
    let world = world_with(&receiver, true).await;
    let mut exporter = Exporter::default();
    exporter.pass(&world.app).await.unwrap();
    let main = json!({ "level": "info", "message": "MAIN" });
    world.post("/logs", main).await.expect(201);
    let made = world.post("/accounts", json!({ "name": "north", "admin": { "login": "bob" } })).await.created();
    receiver.answer([Answering::Status(503)]);
    assert!(exporter.pass(&world.app).await.is_err());
    let line = json!({ "level": "info", "message": "NORTH" });
    world.call(Method::POST, "/logs").key(&text(&made, "/key")).json(&line).send().await.expect(201);
    receiver.take();
    exporter.pass(&world.app).await.unwrap();
    let bodies: Vec<_> = receiver.take().into_iter().map(|received| received.body).collect();
    for wanted in [&b"MAIN"[..], b"NORTH"] {
        assert!(bodies.iter().any(|body| body.windows(wanted.len()).any(|part| part == wanted)));
    }
}

/// What is too large for the collector is sent in halves.
#[tokio::test]
async fn what_is_too_large_is_divided() {
    let receiver = Receiver::start().await;
    let world = world(&receiver).await;
    world.queue("q", json!({})).await;
    for _ in 0..4 {
        try_task(&world, &world.admin.clone()).await;
    }
    // All four, then two, of which the first alone is too large as well.
    receiver.answer([413, 413, 413, 200, 200].map(Answering::Status));
    Exporter::default().pass(&world.app).await.unwrap();
    let sizes: Vec<usize> = receiver
        .take()
        .into_iter()
        .map(|received| {
            let request = ExportTraceServiceRequest::decode(received.body).unwrap();
            request.resource_spans[0].scope_spans[0].spans.len()
        })
        .collect();
    assert_eq!(sizes, [4, 2, 1, 1, 2]);
    assert_eq!(waiting(&world), 0);
    assert!(lost(&world).await, "one by itself was too large");
}

/// Whoever exports nothing pays nothing.
#[tokio::test]
async fn nothing_is_noted_unless_it_is_exported() {
    let world = World::new().await;
    world.queue("q", json!({})).await;
    let task = world.add("q", json!({})).await;
    let (_, attempt) = world.take_one("q").await;
    world.on_task(&task, "succeed", json!({ "attempt": attempt })).await.ok();
    assert_eq!(waiting(&world), 0);
}
