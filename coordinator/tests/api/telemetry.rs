//! What is exported to a collector of OpenTelemetry: what has ended, once it has ended and not without what it follows
//! from, whatever the collector answers.

use drover_coordinator::{
    app::Rules,
    background::telemetry::Exporter,
    operations::trace,
    telemetry_client::{TelemetryRules, headers},
};
use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceRequest, trace::v1::Span};
use prost::Message;
use serde_json::json;

use crate::{
    receiver::{Answering, Receiver},
    support::{World, rules},
};

async fn world(receiver: &Receiver) -> World {
    let telemetry = TelemetryRules {
        endpoint: format!("http://{}", receiver.address),
        headers: headers("x-tenant=robots").unwrap(),
        traces: true,
        logs: false,
        timeout_seconds: 5,
    };
    World::with_rules(Rules { telemetry: Some(telemetry), ..rules() }).await
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
    world.delete("/queues/q?force=true").await;
    Exporter::default().pass(&world.app).await.unwrap();
    assert_eq!(waiting(&world), 0);
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
