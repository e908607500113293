//! Queues: their settings, pauses, figures, and when they can be deleted.

use serde_json::{Value, json};

use crate::support::{World, each, settle, text};

#[tokio::test]
async fn a_queue_has_its_settings_and_sensible_ones_by_itself() {
    let world = World::new().await;
    let made = world.post("/queues", json!({ "name": "invoices" })).await.created();
    for (pointer, value) in [
        ("/unique_references", json!(false)),
        ("/max_attempts", json!(1)),
        ("/retry/application", json!(true)),
        ("/retry/business", json!(false)),
        ("/retry/abandoned", json!(true)),
        ("/lease_seconds", json!(600)),
        ("/settle_with_job", json!(true)),
        ("/paused", Value::Null),
        ("/payload_schema", Value::Null),
        ("/on_success_queue", Value::Null),
        ("/revision", json!(1)),
    ] {
        assert_eq!(made.pointer(pointer), Some(&value), "{pointer}");
    }
    assert_eq!(world.get("/queues/invoices").await.ok(), made);
    assert_eq!(world.get(&format!("/queues/{}", text(&made, "/id"))).await.ok(), made);
    world.post("/queues", json!({ "name": "invoices" })).await.expect(409).refused("already_exists");
    assert_eq!(each(&world.get("/queues?q=INV").await.ok(), "name"), ["invoices"]);
    assert!(each(&world.get("/queues?q=other").await.ok(), "name").is_empty());
}

#[tokio::test]
async fn settings_that_make_no_sense_are_named_one_by_one() {
    let world = World::new().await;
    let request = json!({ "name": " x", "max_attempts": 0, "retry": { "factor": 0.5 }, "lease_seconds": 0,
        "sla_seconds": 0, "retention": { "done_days": 99_999 } });
    let pointers =
        ["/name", "/max_attempts", "/retry/factor", "/lease_seconds", "/sla_seconds", "/retention/done_days"];
    world.post("/queues", request).await.expect(422).invalid(&pointers);
    let misspelt = world.post("/queues", json!({ "name": "q", "lease_second": 5 })).await.expect(422);
    assert!(misspelt.text().contains("lease_seconds"), "the nearest name is told");
    let schema = json!({ "name": "q", "payload_schema": { "type": 5 } });
    world.post("/queues", schema).await.expect(422).invalid(&["/payload_schema"]);
    world.post("/queues", json!({ "name": "q", "on_success_queue": "none" })).await.invalid(&["/on_success_queue"]);
    world.post("/queues", json!({ "name": "q", "on_failure_queue": "q" })).await.invalid(&["/on_failure_queue"]);
}

/// What a patch does not name stays; null takes away, or gives the default.
#[tokio::test]
async fn a_patch_changes_what_it_names() {
    let world = World::new().await;
    world.queue("done", json!({})).await;
    let settings = json!({ "sla_seconds": 60, "payload_schema": { "type": "object" }, "on_success_queue": "done",
        "retry": { "delay_seconds": 5, "business": true } });
    world.queue("q", settings).await;
    let changed = world.patch("/queues/q", json!({ "retry": { "factor": 3, "business": null } })).await.ok();
    assert_eq!(changed["retry"]["delay_seconds"], 5);
    assert_eq!((&changed["retry"]["factor"], &changed["retry"]["business"]), (&json!(3.0), &json!(false)));
    assert_eq!((&changed["sla_seconds"], &changed["revision"]), (&json!(60), &json!(2)));
    assert_eq!(changed["payload_schema"], json!({ "type": "object" }));
    let bare = json!({ "sla_seconds": null, "payload_schema": null, "on_success_queue": null, "name": "other" });
    let changed = world.patch("/queues/q", bare).await.ok();
    assert_eq!([&changed["sla_seconds"], &changed["payload_schema"], &changed["on_success_queue"]], [&Value::Null; 3]);
    world.get("/queues/q").await.expect(404);
    world.patch("/queues/other", json!({ "retry": { "factr": 3 } })).await.invalid(&["/retry/factr"]);
    let stale = world.call(http::Method::PATCH, "/queues/other").header("if-match", "\"1\"");
    stale.json(&json!({ "name": "x" })).send().await.expect(412).refused("precondition_failed");
}

/// A pause holds takers back, whoever waits goes on waiting, and the end of the pause wakes them.
#[tokio::test(start_paused = true)]
async fn a_paused_queue_gives_nothing_until_it_is_resumed() {
    let world = World::new().await;
    world.queue("q", json!({})).await;
    let task = world.add("q", json!({})).await;
    world.post("/queues/q/pause", json!({ "reason": " " })).await.invalid(&["/reason"]);
    world.post("/queues/q/pause", json!({ "reason": "x", "mode": "abort" })).await.invalid(&["/mode"]);
    let paused = world.post("/queues/q/pause", json!({ "mode": "drain", "reason": "month end" })).await.ok();
    assert_eq!(text(&paused, "/paused/reason"), "month end");
    assert!(world.take("q", 1).await.is_empty());
    let waiting = world.call(http::Method::POST, "/queues/q/take").json(&json!({ "wait_seconds": 60 }));
    let waiting = tokio::spawn(waiting.send());
    settle().await;
    assert!(!waiting.is_finished());
    assert_eq!(world.act("/queues/q/resume").await.ok()["paused"], Value::Null);
    assert_eq!(each(&waiting.await.unwrap().ok(), "id"), [task]);
    let codes = each(&world.get("/queues/q/events").await.ok(), "code");
    assert_eq!(codes, ["queue_resumed", "queue_paused", "queue_created"]);
}

#[tokio::test]
async fn a_pause_ends_by_itself() {
    let world = World::new().await;
    world.queue("q", json!({})).await;
    world.add("q", json!({})).await;
    let until = world.now().plus_seconds(60).to_string();
    world.post("/queues/q/pause", json!({ "reason": "x", "until": until })).await.ok();
    assert!(world.take("q", 1).await.is_empty());
    world.pass_time(60).await;
    assert_eq!(world.get("/queues/q").await.ok()["paused"], Value::Null);
    assert_eq!(world.take("q", 1).await.len(), 1);
}

/// The figures follow every change, and need no look at the tasks.
#[tokio::test]
async fn figures_follow_every_change() {
    let world = World::new().await;
    world.queue("q", json!({ "sla_seconds": 100 })).await;
    let empty = world.get("/queues/q/stats").await.ok();
    assert_eq!(empty["oldest_new_at"], Value::Null);
    assert_eq!((&empty["per_hour"], &empty["eta_seconds"], &empty["over_sla"]), (&json!(0), &Value::Null, &json!(0)));
    let oldest = world.now().to_string();
    for _ in 0..6 {
        world.add("q", json!({})).await;
        world.move_clock(10);
    }
    world.add("q", json!({ "postponed_until": world.now().plus_seconds(9_999) })).await;
    let taken = world.take("q", 3).await;
    let fail = json!({ "attempt": 1, "kind": "business", "message": "no" });
    world.on_task(&text(&taken[0], "/id"), "fail", fail).await.ok();
    world.move_clock(60);
    world.on_task(&text(&taken[1], "/id"), "succeed", json!({ "attempt": 1 })).await.ok();
    let stats = world.get("/queues/q/stats").await.ok();
    let counts = json!({ "new": 3, "in_progress": 1, "succeeded": 1, "failed": 1, "postponed": 1, "abandoned": 0 });
    assert_eq!(stats["counts"], counts);
    assert_ne!(text(&stats, "/oldest_new_at"), oldest, "the oldest ones are taken");
    // Two in a minute: four more take two minutes.
    assert_eq!((&stats["per_hour"], &stats["eta_seconds"]), (&json!(2), &json!(4 * 60 / 2)));
    // Those of 30, 40 and 50 s are 90, 80 and 70 s old.
    assert_eq!(stats["over_sla"], 0);
    world.move_clock(15);
    assert_eq!(world.get("/queues/q/stats").await.ok()["over_sla"], 1);
    assert_eq!(stats["hours"].as_array().unwrap().iter().map(|hour| hour["added"].as_u64().unwrap()).sum::<u64>(), 7);
    world.move_clock(3 * 3_600);
    let later = world.get("/queues/q/stats").await.ok();
    assert_eq!((&later["per_hour"], &later["eta_seconds"]), (&json!(0), &Value::Null));
}

/// What has ended elsewhere is no work of the queue to which it is moved.
#[tokio::test]
async fn moved_tasks_are_not_worked_off_here() {
    let world = World::new().await;
    world.queue("from", json!({})).await;
    world.queue("to", json!({})).await;
    for _ in 0..3 {
        let id = world.add("from", json!({})).await;
        world.take_one("from").await;
        world.on_task(&id, "fail", json!({ "attempt": 1, "kind": "business", "message": "no" })).await.ok();
    }
    world.add("to", json!({})).await;
    let moved = json!({ "filter": { "queue": "from" }, "action": "move", "value": "to" });
    assert_eq!(world.post("/tasks/bulk-action", moved).await.ok()["changed"], 3);
    let stats = world.get("/queues/to/stats").await.ok();
    assert_eq!(stats["counts"]["failed"], 3);
    assert_eq!((&stats["per_hour"], &stats["eta_seconds"]), (&json!(0), &Value::Null));
    assert_eq!(stats["hours"].as_array().unwrap().iter().map(|hour| hour["failed"].as_u64().unwrap()).sum::<u64>(), 0);
}

/// Queues that hand on to each other what nobody takes do not make tasks for ever; what somebody has worked on goes round.
#[tokio::test]
async fn what_nobody_takes_does_not_go_round() {
    let world = World::new().await;
    let settings = json!({ "abandon_new_after_seconds": 10 });
    for name in ["a", "b", "c"] {
        world.queue(name, settings.clone()).await;
    }
    for (name, next) in [("a", "b"), ("b", "c"), ("c", "a")] {
        world.patch(&format!("/queues/{name}"), json!({ "on_failure_queue": next })).await.ok();
    }
    world.add("a", json!({})).await;
    for _ in 0..10 {
        world.pass_time(10).await;
    }
    let all = world.get("/tasks").await.ok();
    assert_eq!(each(&all, "state"), ["abandoned"; 3]);
    assert_eq!(world.task_events(&text(&all, "/items/0/id")).await, ["abandoned", "not_handed_on"]);
    // One that was taken and failed goes on, and comes back if nobody takes it there.
    let failed = world.add("a", json!({})).await;
    world.take_one("a").await;
    world.on_task(&failed, "fail", json!({ "attempt": 1, "kind": "business", "message": "no" })).await.ok();
    world.pass_time(10).await;
    world.pass_time(10).await;
    assert_eq!(world.take("a", 9).await.len(), 1);
    let worked = world.add("c", json!({})).await;
    world.take_one("c").await;
    world.on_task(&worked, "fail", json!({ "attempt": 1, "kind": "business", "message": "no" })).await.ok();
    assert_eq!(world.take("a", 1).await.len(), 1);
}

/// After the clock was set back every hour is there once, the newest first, with all that happened in it.
#[tokio::test]
async fn hours_of_a_clock_that_was_set_back_are_counted_once() {
    let world = World::new().await;
    world.queue("q", json!({})).await;
    for hours in [1, 1, -2, 1, 1, 1] {
        world.add("q", json!({})).await;
        world.move_clock(hours * 3_600);
    }
    let hours = json!({ "items": world.get("/queues/q/stats").await.ok()["hours"] });
    let starts = each(&hours, "hour");
    assert!(starts.is_sorted_by(|a, b| a.as_str() > b.as_str()), "{starts:?}");
    assert_eq!(each(&hours, "added"), [1, 2, 2]);
}

/// What watches a queue would be switched off in silence by its end.
#[tokio::test]
async fn a_queue_that_is_watched_is_not_deleted() {
    let world = World::new().await;
    world.process("p").await;
    world.queue("q", json!({})).await;
    let alert = json!({ "name": "slow", "when": "task_over_sla", "queue": "q", "after_seconds": 60,
        "channels": [{ "console": true }] });
    let alert = text(&world.post("/alerts", alert).await.created(), "/id");
    let refused = world.delete("/queues/q").await.expect(409).refused("in_use");
    assert!(text(&refused, "/detail").contains("slow"), "{refused}");
    world.delete(&format!("/alerts/{alert}")).await.done();
    let trigger = json!({ "name": "t", "process": "p", "target": { "group": "all" }, "kind": "event",
        "event": { "on": "task_failed", "queue": "q" } });
    world.post("/triggers", trigger).await.created();
    let refused = world.delete("/queues/q").await.expect(409).refused("in_use");
    assert!(text(&refused, "/detail").contains("trigger t"), "{refused}");
    world.delete("/triggers/t").await.done();
    world.delete("/queues/q").await.done();
}

/// Work that waits is not deleted by the way; what has ended goes with its queue.
#[tokio::test]
async fn only_a_queue_without_work_can_be_deleted() {
    let world = World::new().await;
    world.queue("done", json!({})).await;
    world.queue("q", json!({ "on_success_queue": "done" })).await;
    world.delete("/queues/done").await.expect(409).refused("in_use");
    world.add("q", json!({ "reference": "r" })).await;
    world.delete("/queues/q").await.expect(409).refused("in_use");
    let (task, attempt) = world.take_one("q").await;
    world.delete("/queues/q").await.expect(409).refused("in_use");
    world.on_task(&task, "succeed", json!({ "attempt": attempt, "output": { "a": 1 } })).await.ok();
    world.delete("/queues/q").await.done();
    world.get(&format!("/tasks/{task}")).await.expect(404);
    let id: uuid::Uuid = task.parse().unwrap();
    let (handed, _) = world.take_one("done").await;
    assert_eq!(world.task(&handed).await["origin_task_id"], json!(task), "it remembers where it came from");
    assert_eq!(world.mentions(id.as_bytes()), 1, "nothing else is left of it");
}
