//! Adding tasks by a stream of lines: an answer for each, whole batches, and repetitions under one key.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use futures::StreamExt;
use http::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::{Answer, Call, World, packed, text};

async fn queue(world: &World, settings: Value) {
    let mut body = json!({ "name": "q" });
    body.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    world.post("/queues", body).await.created();
}

fn call(world: &World) -> Call {
    world.call(Method::POST, "/queues/q/tasks/bulk").header("content-type", "application/x-ndjson")
}

async fn send(world: &World, key: Option<&str>, body: impl Into<Vec<u8>>) -> Answer {
    let call = match key {
        Some(key) => call(world).header("idempotency-key", key),
        None => call(world),
    };
    call.body(body).send().await.expect(200)
}

fn lines(answer: &Answer) -> Vec<Value> {
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn sum(added: u64, duplicates: u64, failed: u64) -> Value {
    json!({ "added": added, "duplicates": duplicates, "failed": failed })
}

fn tasks(range: std::ops::Range<u64>) -> String {
    range.map(|n| format!("{}\n", json!({ "reference": format!("r{n}"), "payload": { "n": n } }))).collect()
}

async fn waiting(world: &World) -> u64 {
    world.get("/queues/q/stats").await.ok()["counts"]["new"].as_u64().unwrap()
}

/// Every line is answered for itself; one that is not valid holds up no other.
#[tokio::test]
async fn each_line_is_answered() {
    let world = World::new().await;
    let schema = json!({ "type": "object", "required": ["n"] });
    queue(&world, json!({ "unique_references": true, "payload_schema": schema })).await;
    let there = world.post("/queues/q/tasks", json!({ "reference": "there", "payload": { "n": 0 } })).await.created();
    let body = [
        json!({ "reference": "a", "payload": { "n": 1 }, "priority": 3, "tags": ["x"] }).to_string(),
        json!({ "reference": "there", "payload": { "n": 2 } }).to_string(),
        "{\"payload\":".to_owned(),
        String::new(),
        json!({ "payload": { "n": 1 }, "priorty": 3 }).to_string(),
        json!({ "payload": { "n": 1 }, "priority": 9 }).to_string(),
        json!({ "payload": { "m": 1 } }).to_string(),
        "null".to_owned(),
        json!({ "reference": "a", "payload": { "n": 3 } }).to_string(),
        json!({ "reference": "b", "payload": { "n": 4 } }).to_string(),
    ]
    .join("\n");
    let answer = send(&world, None, body).await;
    assert_eq!(answer.content_type(), "application/x-ndjson");
    let answers = lines(&answer);
    let a = text(&answers[0], "/id");
    assert_eq!(answers[1], json!({ "line": 2, "duplicate_of": there["id"] }));
    let of = |line: u64| answers.iter().find(|answer| answer["line"] == line).unwrap_or(&Value::Null).clone();
    assert_eq!(of(3)["error"]["code"], "bad_request");
    assert!(text(&of(3), "/error/detail").starts_with("The line is not JSON"), "{}", of(3));
    assert_eq!(of(4), Value::Null, "a blank line is nothing");
    assert_eq!(of(5)["error"]["errors"][0]["detail"], "there is no such field; did you mean priority?");
    assert_eq!(of(6)["error"]["errors"][0]["pointer"], "/priority");
    assert_eq!(of(7)["error"]["errors"][0]["pointer"], "/payload/n");
    assert_eq!(of(8)["error"]["code"], "invalid");
    assert_eq!(of(9), json!({ "line": 9, "duplicate_of": a }), "also of a line of the same stream");
    assert!(of(10)["id"].is_string());
    assert_eq!(answers.last(), Some(&sum(2, 2, 5)));
    assert_eq!(waiting(&world).await, 3);
    let task = world.get(&format!("/tasks/{a}")).await.ok();
    assert_eq!((task["priority"].clone(), task["tags"].clone()), (json!(3), json!(["x"])));
    assert_eq!(lines(&send(&world, None, "").await), [sum(0, 0, 0)]);
}

/// More lines than one transaction takes, in pieces that end anywhere, keep their order and their numbers.
#[tokio::test]
async fn many_lines_are_added_in_their_order() {
    let world = World::new().await;
    queue(&world, json!({})).await;
    let body = tasks(0..1_700);
    let pieces: Vec<_> = body.as_bytes().chunks(777).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
    let body = Body::from_stream(futures::stream::iter(pieces));
    let answer = call(&world).streamed(body).send().await.expect(200);
    let answers = lines(&answer);
    assert_eq!(answers.last(), Some(&sum(1_700, 0, 0)));
    let numbers: Vec<u64> = answers[..1_700].iter().map(|answer| answer["line"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=1_700).collect::<Vec<_>>());
    for (number, n) in [(0, 0), (499, 499), (500, 500), (1_699, 1_699)] {
        let task = world.get(&format!("/tasks/{}", text(&answers[number], "/id"))).await.ok();
        assert_eq!(task["payload"], json!({ "n": n }));
    }
    let taken = world.post("/queues/q/take", json!({ "max": 1 })).await.ok();
    assert_eq!(taken["items"][0]["reference"], "r0", "first in, first out");
}

/// Sent again under its key, a stream adds only what it has not added yet.
#[tokio::test]
async fn a_repetition_adds_what_is_missing() {
    let world = World::new().await;
    queue(&world, json!({})).await;
    let first = lines(&send(&world, Some("k"), tasks(0..600)).await);
    // The same again, further than before.
    let answer = send(&world, Some("k"), tasks(0..1_300)).await;
    assert_eq!(answer.header("idempotency-replayed"), Some("true"));
    let again = lines(&answer);
    assert_eq!(again[..600], first[..600]);
    assert_eq!(again.last(), Some(&sum(1_300, 0, 0)));
    // In other pieces: batches of a repetition need not be those of the first time.
    let pieces = tasks(0..1_300)
        .into_bytes()
        .chunks(50)
        .map(|piece| Ok::<_, std::io::Error>(piece.to_vec()))
        .collect::<Vec<_>>();
    let body = Body::from_stream(futures::stream::iter(pieces));
    let third = call(&world).header("idempotency-key", "k").streamed(body).send().await.expect(200);
    assert_eq!(lines(&third), again);
    assert_eq!(waiting(&world).await, 1_300);
    assert_eq!(lines(&send(&world, Some("other"), tasks(0..1)).await).last(), Some(&sum(1, 0, 0)));
    assert_eq!(waiting(&world).await, 1_301);
}

/// Blank lines may be filled when the stream is sent again, and may be any number.
#[tokio::test]
async fn a_repetition_may_have_lines_where_there_were_none() {
    let world = World::new().await;
    queue(&world, json!({})).await;
    let line = |number: u64| json!({ "payload": number }).to_string();
    let blank = "\n".repeat(5_000);
    let first = send(&world, Some("k"), format!("\n{}\n\n{}\n{blank}{}\n", line(1), line(2), line(3))).await;
    assert_eq!(lines(&first).last(), Some(&sum(3, 0, 0)));
    let again =
        send(&world, Some("k"), format!("{}\n{}\n{}\n{}\n{blank}{}\n", line(8), line(1), line(9), line(2), line(3)))
            .await;
    let (first, again) = (lines(&first), lines(&again));
    assert_eq!([&again[1], &again[3], &again[4]], [&first[0], &first[1], &first[2]]);
    assert_eq!(waiting(&world).await, 5);
    world.check();
}

/// Lines that come around others of the same stream do not hide them from a later repetition.
#[tokio::test]
async fn lines_around_others_hide_none() {
    let world = World::new().await;
    queue(&world, json!({})).await;
    let around = format!("\n{}\n\n{}", tasks(1..2), tasks(4..5));
    for (body, there) in [(format!("\n\n{}", tasks(2..4)), 2), (around, 4), (tasks(0..5), 5), (tasks(0..5), 5)] {
        send(&world, Some("k"), body.clone()).await;
        assert_eq!(waiting(&world).await, there, "{body}");
    }
}

/// Lines that failed may be mended; in the place of a line that was added no other one is.
#[tokio::test]
async fn a_repetition_takes_mended_lines_and_no_others() {
    let world = World::new().await;
    queue(&world, json!({ "unique_references": true })).await;
    let good = |n: u64| json!({ "reference": format!("r{n}"), "payload": n }).to_string();
    let body = |second: &str, third: &str| [&good(1), second, third, &good(4)].join("\n");
    let first = lines(&send(&world, Some("k"), body("{", &good(1))).await);
    assert_eq!(first.last(), Some(&sum(2, 1, 1)));
    let mended = lines(&send(&world, Some("k"), body(&good(2), &good(3))).await);
    assert_eq!((mended[0].clone(), mended[3].clone()), (first[0].clone(), first[3].clone()));
    assert_eq!(mended.last(), Some(&sum(4, 0, 0)), "a duplicate that names another reference now is added as well");
    assert_eq!(lines(&send(&world, Some("k"), body(&good(2), &good(3))).await), mended);
    let swapped = lines(&send(&world, Some("k"), body(&good(3), &good(2))).await);
    assert_eq!(swapped[1]["error"]["code"], "idempotency_key_reused");
    assert_eq!(swapped.last(), Some(&sum(2, 0, 2)));
    assert_eq!(waiting(&world).await, 4);
}

/// Nobody replays what another key added, and after a day it is forgotten.
#[tokio::test]
async fn a_key_is_its_callers_own_and_lives_for_a_day() {
    let world = World::new().await;
    queue(&world, json!({})).await;
    let first = lines(&send(&world, Some("k"), tasks(0..3)).await);
    let other = world.key_with(&["task:create", "queue:read"]).await;
    let answer = call(&world).key(&other).header("idempotency-key", "k").body(tasks(0..3)).send().await.expect(200);
    assert_eq!(answer.header("idempotency-replayed"), None);
    assert_ne!(lines(&answer)[0], first[0]);
    world.move_clock(24 * 3600 - 1);
    world.retain(0, 0).await;
    assert_eq!(lines(&send(&world, Some("k"), tasks(0..3)).await), first);
    world.move_clock(2);
    world.retain(0, 0).await;
    assert_ne!(lines(&send(&world, Some("k"), tasks(0..3)).await)[0], first[0]);
    assert_eq!(waiting(&world).await, 9);
}

/// A caller that sends line by line has each answer before it sends the next.
#[tokio::test]
async fn answers_come_while_lines_are_sent() {
    let world = World::new().await;
    queue(&world, json!({})).await;
    let (sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
    sender.send(Ok(tasks(0..1).into())).await.unwrap();
    let opened = call(&world).header("accept-encoding", "gzip").streamed(body).open().await;
    assert_eq!(opened.headers().get("content-encoding"), None, "compression would hold answers back");
    let mut answers = opened.into_body().into_data_stream();
    for n in 1..4 {
        let piece = answers.next().await.unwrap().unwrap();
        let answer: Value = serde_json::from_slice(&piece).unwrap();
        assert_eq!(answer["line"], n);
        sender.send(Ok(tasks(n..n + 1).into())).await.unwrap();
    }
    drop(sender);
    let mut rest = Vec::new();
    while let Some(piece) = answers.next().await {
        rest.extend_from_slice(&piece.unwrap());
    }
    assert!(String::from_utf8(rest).unwrap().ends_with(&format!("{}\n", sum(4, 0, 0))));
}

/// A caller that goes away in the middle leaves whole batches, and the same stream goes on from there.
#[tokio::test]
async fn a_broken_stream_leaves_whole_batches() {
    let world = World::new().await;
    queue(&world, json!({})).await;
    let mut half = tasks(0..700).into_bytes();
    half.extend_from_slice(b"{\"payload\": 7");
    let broken = futures::stream::iter([Ok(Bytes::from(half)), Err(std::io::Error::other("the caller is gone"))]);
    let opened = call(&world).header("idempotency-key", "k").streamed(Body::from_stream(broken)).open().await;
    let mut answers = opened.into_body().into_data_stream();
    let (mut told, mut broke) = (Vec::new(), false);
    while let Some(piece) = answers.next().await {
        match piece {
            Ok(piece) => told.extend_from_slice(&piece),
            Err(_) => broke = true,
        }
    }
    assert!(broke, "an answer that is not whole does not end in order");
    let told = String::from_utf8(told).unwrap();
    assert!(!told.contains("\"added\""), "{told}");
    let answered = told.lines().count() as u64;
    assert_eq!(waiting(&world).await, answered);
    assert!(answered >= 500, "{answered}");
    let whole = lines(&send(&world, Some("k"), tasks(0..700)).await);
    assert_eq!(whole.last(), Some(&sum(700, 0, 0)));
    assert_eq!(waiting(&world).await, 700);
}

/// Two streams under one key at once add nothing twice.
#[tokio::test]
async fn two_streams_under_one_key_are_one() {
    let world = Arc::new(World::new().await);
    queue(&world, json!({})).await;
    let one = async || lines(&send(&world, Some("k"), tasks(0..1_200)).await);
    let (first, second) = tokio::join!(one(), one());
    assert_eq!(first, second);
    assert_eq!(waiting(&world).await, 1_200);
}

#[tokio::test]
async fn what_cannot_begin_is_refused_as_any_other_call() {
    let world = World::new().await;
    queue(&world, json!({})).await;
    let to =
        |path: &str| world.call(Method::POST, path).header("content-type", "application/x-ndjson").body(tasks(0..1));
    to("/queues/none/tasks/bulk").send().await.expect(404).refused("not_found");
    call(&world).header("content-type", "application/json").body("{}").send().await.expect(415);
    let reader = world.key_with(&["task:read", "queue:read"]).await;
    call(&world).key(&reader).body(tasks(0..1)).send().await.expect(403);
    let gzip = packed("gzip", tasks(0..300)).await;
    let answer = call(&world).header("content-encoding", "gzip").body(gzip).send().await.expect(200);
    assert_eq!(lines(&answer).last(), Some(&sum(300, 0, 0)));
}

/// A key that ends while its stream is being sent adds nothing more.
#[tokio::test]
async fn a_key_that_ends_ends_its_stream() {
    let world = World::new().await;
    queue(&world, json!({})).await;
    let made =
        world.post("/keys", json!({ "name": "loader", "permissions": ["task:create", "queue:read"] })).await.created();
    let (sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
    sender.send(Ok(tasks(0..1).into())).await.unwrap();
    let opened = call(&world).key(&text(&made, "/key")).streamed(body).open().await;
    let mut answers = opened.into_body().into_data_stream();
    answers.next().await.unwrap().unwrap();
    world.delete(&format!("/keys/{}", text(&made, "/id"))).await.done();
    sender.send(Ok(tasks(1..2).into())).await.unwrap();
    assert!(answers.next().await.unwrap().is_err());
    assert_eq!(waiting(&world).await, 1);
}

async fn export(world: &World, query: &str, accept: &str) -> Answer {
    world.call(Method::GET, &format!("/tasks?{query}")).header("accept", accept).send().await
}

/// An export holds every task that the filter matches, with its documents, however many they are.
#[tokio::test]
async fn an_export_is_whole() {
    let world = World::new().await;
    queue(&world, json!({})).await;
    send(&world, None, tasks(0..2_300)).await;
    let taken = world.post("/queues/q/take", json!({ "max": 2 })).await.ok();
    let (one, two) = (text(&taken, "/items/0/id"), text(&taken, "/items/1/id"));
    world.post(&format!("/tasks/{one}/succeed"), json!({ "attempt": 1, "output": { "sum": 5 } })).await.ok();
    let failure = json!({ "attempt": 1, "kind": "business", "code": "c", "message": "a \"quoted\",\nword" });
    world.post(&format!("/tasks/{two}/fail"), failure).await.ok();

    let answer = export(&world, "queue=q", "application/x-ndjson").await.expect(200);
    let found = lines(&answer);
    assert_eq!(found.len(), 2_300);
    let references: Vec<String> = found.iter().rev().map(|task| text(task, "/reference")).collect();
    assert_eq!(references, (0..2_300).map(|n| format!("r{n}")).collect::<Vec<_>>());
    assert_eq!(
        (found[2_299]["output"].clone(), found[0]["payload"].clone()),
        (json!({ "sum": 5 }), json!({ "n": 2_299 }))
    );

    let answer = export(&world, "queue=q&state=failed", "text/csv").await.expect(200);
    assert_eq!(answer.content_type(), "text/csv; charset=utf-8");
    let mut rows = csv::Reader::from_reader(answer.body.as_ref());
    let header = rows.headers().unwrap().clone();
    let row = rows.records().next().unwrap().unwrap();
    let cell = |name: &str| row[header.iter().position(|column| column == name).unwrap()].to_owned();
    assert_eq!((cell("id"), cell("reference"), cell("state")), (two, "r1".into(), "failed".into()));
    assert_eq!((cell("error_kind"), cell("error_message")), ("business".into(), "a \"quoted\",\nword".into()));
    assert_eq!(cell("payload"), "{\"n\":1}");
    assert!(rows.records().next().is_none());

    let none = export(&world, "queue=q&state=abandoned", "text/csv").await.expect(200);
    assert_eq!(none.text().lines().count(), 1, "a table without rows has its header");
    export(&world, "queue=q&limit=5", "text/csv").await.invalid(&["limit"]);
    export(&world, "queue=q", "image/png").await.expect(406);
}
