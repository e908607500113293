//! Commands about webhooks, alerts and changes against a scripted coordinator: what they send and what they show.

use serde_json::{Value, json};

use crate::support::{Answer, Server, run, stderr, stdout};

const ID: &str = "0192f6c4-7a10-7cc3-98c4-dc0c0c070060";

fn webhook() -> Value {
    json!({
        "id": ID, "name": "chat", "description": "", "url": "https://chat.example.com/", "events": ["job.finished"],
        "enabled": true, "disabled_because": null, "waiting": 2, "last_delivered_at": null,
        "failing_since": "2026-11-23T08:00:00.000Z", "old_secret_until": null,
        "created_at": "2026-11-23T08:00:00.000Z", "revision": 1,
    })
}

#[test]
fn a_webhook_is_made_and_its_secret_shown() {
    let mut made = webhook();
    made["secret"] = json!("whsec_c2VjcmV0");
    let server = Server::scripted(vec![("POST /api/v1/webhooks", vec![Answer::json(201, &made)])]);
    let arguments = ["webhook", "create", "chat", "--url", "https://chat.example.com/", "--event", "job.finished"];
    let output = run(&server, &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("whsec_c2VjcmV0"));
    let expected = json!({
        "name": "chat", "description": "", "url": "https://chat.example.com/", "events": ["job.finished"],
    });
    assert_eq!(server.seen()[0].json(), expected);
    let wrong = run(&server, &["webhook", "create", "x", "--url", "https://x/", "--event", "job.exploded"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("job.finished"), "{}", stderr(&wrong));
}

#[test]
fn webhooks_and_deliveries_are_shown() {
    let page = json!({"items": [webhook()], "next_cursor": null});
    let delivery = json!({
        "id": ID, "webhook_id": ID, "message_id": ID, "event": "job.finished", "object_id": ID, "state": "waiting",
        "created_at": "2026-11-23T08:05:11.000Z", "next_try_at": "2026-11-23T08:05:16.000Z",
        "tries": [{"at": "2026-11-23T08:05:11.000Z", "latency_ms": 7, "status": 500, "error": "the receiver answered 500"}],
        "answer": null,
    });
    let deliveries = json!({"items": [delivery], "next_cursor": null});
    let tested = json!({"delivered": false, "latency_ms": 7, "status": 401, "error": "the receiver answered 401",
        "answer": "who are you"});
    let server = Server::scripted(vec![
        ("GET /api/v1/webhooks", vec![Answer::json(200, &page)]),
        ("GET /api/v1/webhooks/chat/deliveries", vec![Answer::json(200, &deliveries)]),
        ("POST /api/v1/webhooks/chat/test", vec![Answer::json(200, &tested)]),
    ]);
    let list = stdout(&run(&server, &["webhook", "list"]));
    assert!(list.contains("chat") && list.contains("failing"), "{list}");
    let shown = stdout(&run(&server, &["webhook", "deliveries", "chat", "--state", "waiting"]));
    assert!(shown.contains("the receiver answered 500") && shown.contains("job.finished"), "{shown}");
    assert!(server.seen()[1].uri.contains("state=waiting"));
    let answer = stdout(&run(&server, &["webhook", "test", "chat"]));
    assert!(answer.contains("401") && answer.contains("who are you"), "{answer}");
}

#[test]
fn an_alert_is_made_as_the_api_names_it() {
    let alert = json!({
        "id": ID, "name": "slow", "description": "", "enabled": true, "when": "job_waiting", "process_id": null,
        "queue_id": null, "group_id": null, "after_seconds": 600, "channels": [{"console": true}],
        "created_at": "2026-11-23T08:00:00.000Z", "revision": 1,
    });
    let server = Server::scripted(vec![("POST /api/v1/alerts", vec![Answer::json(201, &alert)])]);
    let arguments = [
        "alert",
        "create",
        "slow",
        "--when",
        "job_waiting",
        "--after",
        "10m",
        "--email",
        "a@example.com",
        "--email",
        "b@example.com",
        "--webhook",
        "chat",
    ];
    let output = run(&server, &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    let expected = json!({
        "name": "slow", "description": "", "when": "job_waiting", "after_seconds": 600,
        "channels": [{"email": ["a@example.com", "b@example.com"]}, {"webhook": "chat"}],
    });
    assert_eq!(server.seen()[0].json(), expected);
}

/// A stream that ends is opened again behind what was seen.
#[test]
fn changes_are_followed_over_lost_connections() {
    let change = |seq: u64, kind: &str| {
        let change = json!({"type": kind, "noun": "job", "id": ID, "name": "invoices", "revision": seq,
            "at": "2026-11-23T08:05:11.000Z"});
        format!("id: {seq}\ndata: {change}\n\n")
    };
    let first = format!("id: 6\nevent: position\ndata: {{}}\n\n{}", change(7, "job.created"));
    let server = Server::scripted(vec![(
        "GET /api/v1/events",
        vec![Answer::events(&first), Answer::events(&change(8, "job.changed"))],
    )]);
    let output = run(&server, &["events", "--noun", "job", "--noun", "task", "--count", "2"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let shown = stdout(&output);
    assert!(shown.contains("job.created") && shown.contains("job.changed") && shown.contains("invoices"), "{shown}");
    let seen = server.seen();
    assert!(seen[0].uri.contains("noun=job&noun=task"), "{}", seen[0].uri);
    assert_eq!((seen[0].header("last-event-id"), seen[1].header("last-event-id")), ("", "7"));
}

#[test]
fn the_overview_is_one_page() {
    let mut page = json!({
        "at": "2026-11-23T08:05:12.000Z",
        "robots": {"offline": 1, "idle": 10, "busy": 4, "draining": 0, "paused": 0, "disabled": 0},
        "jobs": {"waiting": 12, "assigned": 0, "running": 4, "silent": 0, "stopping": 0,
            "finished": {"succeeded": 310, "failed": 2, "stopped": 0, "aborted": 0, "timed_out": 0, "lost": 0}},
        "queues": null, "alerts": null, "next_fires": null,
        "disk": {"free_bytes": 80_000_000_000_u64, "total_bytes": 250_000_000_000_u64, "low": false, "full": false},
    });
    let server = Server::scripted(vec![("GET /api/v1/overview", vec![Answer::json(200, &page)])]);
    let shown = stdout(&run(&server, &["overview"]));
    assert!(shown.contains("10 idle, 4 busy, 1 offline"), "{shown}");
    assert!(shown.contains("310 succeeded, 2 failed"), "{shown}");
    assert!(!shown.contains("disk full"), "too little is known: {shown}");
    for (full_in_days, growth, told) in [
        (json!(23), 3_500_000_000_i64, "disk full     in 23 days, by 3.26 GiB a day"),
        (json!(null), 1_024, "disk full     not within ten years, by 1.00 KiB a day"),
        (json!(null), -5, "disk full     its use does not grow"),
    ] {
        page["disk"]["forecast"] =
            json!({ "growth_bytes_per_day": growth, "full_in_days": full_in_days, "observed_days": 14 });
        let server = Server::scripted(vec![("GET /api/v1/overview", vec![Answer::json(200, &page)])]);
        let shown = stdout(&run(&server, &["overview"]));
        assert!(shown.contains(told), "{shown}");
    }
}
