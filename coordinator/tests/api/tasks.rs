//! Tasks: the order of taking, the fence of attempts, and every way in which an attempt ends.

use drover_coordinator::{
    operations::task,
    store::{
        Db,
        engine::{Engine as _, KeyRange, Order, WriteSet},
    },
};
use futures::FutureExt;
use http::Method;
use serde_json::{Value, json};

use crate::support::{World, each, rules, settle, text};

async fn world() -> World {
    let world = World::new().await;
    world.queue("q", json!({})).await;
    world
}

/// A number that would lose digits is refused, one by one as in bulk: two accounts must not become one.
#[tokio::test]
async fn numbers_that_would_lose_digits_are_refused() {
    const LONG: &str = r#"{"payload":{"account":40817810099910004312}}"#;
    let world = world().await;
    let post = |path: &str, media_type: &str, body: String| {
        world.call(Method::POST, path).header("content-type", media_type).body(body)
    };
    let problem = post("/queues/q/tasks", "application/json", LONG.to_owned()).send().await.invalid(&[""]);
    assert!(text(&problem, "/errors/0/detail").contains("40817810099910004312"), "{problem}");
    let lines = format!("{LONG}\n{}", LONG.replace("4312}", "431}"));
    let answer = post("/queues/q/tasks/bulk", "application/x-ndjson", lines).send().await.expect(200).text();
    assert!(answer.contains("write it as text"), "{answer}");
    let kept: Vec<Value> = world.take("q", 5).await.into_iter().map(|task| task["payload"].clone()).collect();
    assert_eq!(kept, [json!({ "account": 4_081_781_009_991_000_431_u64 })]);
}

#[tokio::test]
async fn a_task_is_added_taken_and_succeeds() {
    let world = world().await;
    let request = json!({ "reference": "R-1", "name": "first", "payload": { "sum": 12.5 }, "priority": 3,
        "tags": ["a", "b", "a"], "comment": "look closely", "max_attempts": 4 });
    let answer = world.post("/queues/q/tasks", request).await.expect(201);
    let made = answer.json();
    let id = text(&made, "/id");
    assert_eq!(answer.header("location"), Some(format!("/api/v1/tasks/{id}").as_str()));
    assert_eq!((&made["state"], &made["attempt"], &made["tags"]), (&json!("new"), &json!(0), &json!(["a", "b"])));
    assert_eq!(made, world.task(&id).await, "what is answered is what is there");

    let taken = world.take("q", 1).await.remove(0);
    assert_eq!(taken["payload"], json!({ "sum": 12.5 }));
    assert_eq!((&taken["state"], &taken["attempt"]), (&json!("in_progress"), &json!(1)));
    assert_eq!(text(&taken, "/lease_ends_at"), world.now().plus_seconds(600).to_string());
    assert!(text(&taken, "/holder/by").starts_with("user:"));
    assert!(world.take("q", 1).await.is_empty(), "nobody else gets it");

    let output = json!({ "paid": true });
    let ended = world.on_task(&id, "succeed", json!({ "attempt": 1, "output": output })).await.ok();
    assert_eq!((&ended["state"], &ended["output"]), (&json!("succeeded"), &output));
    let task = world.task(&id).await;
    assert_eq!((&task["output"], &task["lease_ends_at"]), (&output, &Value::Null));
    assert_eq!(text(&task, "/finished_at"), world.now().to_string());
    assert_eq!(task["attempts"][0]["end"], "succeeded");
}

#[tokio::test]
async fn what_is_wrong_with_a_task_is_named() {
    let world = world().await;
    let request = json!({ "payload": 1, "reference": "", "priority": 4, "tags": ["-a", "x,y"], "max_attempts": 0 });
    let pointers = ["/reference", "/priority", "/max_attempts", "/tags/0", "/tags/1"];
    world.post("/queues/q/tasks", request).await.expect(422).invalid(&pointers);
    world.post("/queues/q/tasks", json!({ "reference": "x" })).await.expect(422).invalid(&["/payload"]);
    world.post("/queues/none/tasks", json!({ "payload": 1 })).await.expect(404);
    let large = json!({ "payload": "x".repeat(1024 * 1024) });
    let refused = world.post("/queues/q/tasks", large).await.expect(413).refused("too_large");
    assert!(text(&refused, "/detail").contains("file"), "the way to send more is told");
    world.post("/queues/q/take", json!({ "max": 101 })).await.expect(422).invalid(&["/max"]);
    world.post("/queues/q/take", json!({ "wait_seconds": 61 })).await.expect(422).invalid(&["/wait_seconds"]);
}

/// Deadline passed (the earliest first), then priority, then first in first out: strictly.
#[tokio::test]
async fn the_order_is_strict() {
    let world = world().await;
    let at = |seconds: u64| json!(world.now().plus_seconds(seconds));
    let low = world.add("q", json!({ "priority": 1 })).await;
    let first = world.add("q", json!({})).await;
    let late = world.add("q", json!({ "priority": 1, "deadline": at(20) })).await;
    let later = world.add("q", json!({ "deadline": at(30) })).await;
    let not_yet = world.add("q", json!({ "deadline": at(900) })).await;
    let high = world.add("q", json!({ "priority": 3 })).await;
    let second = world.add("q", json!({})).await;
    world.move_clock(31);
    let order = [late, later, high, first, not_yet, second, low];
    assert_eq!(each(&json!({ "items": world.take("q", 3).await }), "id"), order[..3]);
    for expected in &order[3..] {
        assert_eq!(world.take_one("q").await.0, *expected);
    }
    assert!(world.take("q", 100).await.is_empty());
}

/// What comes back is older than what waits, and is taken before it although takers had passed its place.
#[tokio::test]
async fn what_comes_back_has_its_old_place() {
    let world = World::new().await;
    world.queue("q", json!({ "max_attempts": 2 })).await;
    let old = world.add("q", json!({})).await;
    for _ in 0..3 {
        world.add("q", json!({})).await;
    }
    assert_eq!(world.take_one("q").await.0, old);
    world.take_one("q").await;
    world.on_task(&old, "fail", json!({ "attempt": 1, "kind": "application", "message": "x" })).await.ok();
    assert_eq!(world.take_one("q").await, (old, 2));
}

#[tokio::test]
async fn takers_may_be_choosy() {
    let world = world().await;
    let plain = world.add("q", json!({})).await;
    let a = world.add("q", json!({ "tags": ["a"] })).await;
    let ab = world.add("q", json!({ "tags": ["a", "b"], "reference": "R" })).await;
    let a_high = world.add("q", json!({ "tags": ["a"], "priority": 3 })).await;
    let take = async |filter: Value| {
        let taken = world.post("/queues/q/take", json!({ "filter": filter })).await.ok();
        each(&taken, "id").first().map(|id| id.as_str().unwrap().to_owned())
    };
    assert_eq!(take(json!({ "tags": ["c"] })).await, None);
    assert_eq!(take(json!({ "tags": ["+a", "-b"] })).await.as_ref(), Some(&a_high));
    assert_eq!(take(json!({ "tags": ["a,-b"] })).await.as_ref(), Some(&a));
    assert_eq!(take(json!({ "tags": ["a", "-b"] })).await, None);
    assert_eq!(take(json!({ "reference": "S" })).await, None);
    assert_eq!(take(json!({ "reference": "R", "tags": ["b"] })).await.as_ref(), Some(&ab));
    assert_eq!(take(json!({ "ids": [a, plain] })).await.as_ref(), Some(&plain), "only one of them waits");
    assert_eq!(take(json!({})).await, None);
}

/// A seldom kind of task is found behind any number of others.
#[tokio::test]
async fn a_seldom_task_is_found_in_a_long_queue() {
    let world = world().await;
    for _ in 0..2_100 {
        world.add("q", json!({ "tags": ["common"] })).await;
    }
    let seldom = world.add("q", json!({ "tags": ["common", "seldom"] })).await;
    let last = world.add("q", json!({})).await;
    let filter = json!({ "filter": { "tags": ["common", "seldom"] } });
    assert_eq!(each(&world.post("/queues/q/take", filter).await.ok(), "id"), [seldom]);
    let filter = json!({ "filter": { "tags": ["-common"] } });
    assert_eq!(each(&world.post("/queues/q/take", filter.clone()).await.ok(), "id"), [last]);
    assert!(each(&world.post("/queues/q/take", filter).await.ok(), "id").is_empty());
}

/// However many tasks of the queue have had a reference: those that wait with it are found, in the order of the queue.
#[tokio::test]
async fn a_reference_is_found_behind_all_that_have_had_it() {
    let world = world().await;
    let ended: String = (0..1_001).map(|_| "{\"reference\":\"R\",\"payload\":0}\n").collect();
    let bulk = world.call(Method::POST, "/queues/q/tasks/bulk").header("content-type", "application/x-ndjson");
    bulk.body(ended).send().await.expect(200);
    while !world.take("q", 100).await.is_empty() {}
    world.add("q", json!({ "reference": "S", "priority": 3 })).await;
    let last = world.add("q", json!({ "reference": "R" })).await;
    let first = world.add("q", json!({ "reference": "R", "priority": 3 })).await;
    let take = async |max: u32| {
        let wanted = json!({ "max": max, "filter": { "reference": "R" } });
        each(&world.post("/queues/q/take", wanted).await.ok(), "id")
    };
    assert_eq!(take(1).await, [first]);
    assert_eq!(take(100).await, [last]);
    assert!(take(1).await.is_empty());
}

/// Waiting takers are woken by a task that comes, comes due or comes back; each by one, none is left asleep.
#[tokio::test(start_paused = true)]
async fn waiting_takers_are_woken_at_once() {
    let world = world().await;
    let wait = |body: Value| tokio::spawn(world.call(Method::POST, "/queues/q/take").json(&body).send());
    let choosy = wait(json!({ "wait_seconds": 60, "filter": { "tags": ["a"] } }));
    settle().await;
    let takers: Vec<_> = (0..3).map(|_| wait(json!({ "wait_seconds": 60 }))).collect();
    settle().await;
    let mut added = Vec::new();
    for _ in 0..3 {
        added.push(world.add("q", json!({})).await);
    }
    settle().await;
    let mut got = Vec::new();
    for taker in takers {
        assert!(taker.is_finished(), "a task was there for each");
        got.extend(each(&taker.await.unwrap().ok(), "id").iter().map(|id| id.as_str().unwrap().to_owned()));
    }
    got.sort();
    assert_eq!(got, added);
    assert!(!choosy.is_finished(), "nothing for it has come");
    let later = world.add("q", json!({ "tags": ["a"], "postponed_until": world.now().plus_seconds(5) })).await;
    settle().await;
    assert!(!choosy.is_finished());
    world.pass_time(5).await;
    assert_eq!(each(&choosy.await.unwrap().ok(), "id"), [later]);
    let nobody = wait(json!({ "wait_seconds": 2 })).await.unwrap().ok();
    assert_eq!(nobody, json!({ "items": [] }), "an empty list when the time is over");
}

/// A task that waits already may become one that a taker waits for.
#[tokio::test(start_paused = true)]
async fn a_taker_is_woken_by_a_task_that_becomes_what_it_wants() {
    let world = world().await;
    let id = world.add("q", json!({})).await;
    for (filter, patch) in [
        (json!({ "tags": ["a"] }), json!({ "tags": ["a"] })),
        (json!({ "reference": "R" }), json!({ "reference": "R" })),
    ] {
        let body = json!({ "wait_seconds": 60, "filter": filter });
        let taker = tokio::spawn(world.call(Method::POST, "/queues/q/take").json(&body).send());
        settle().await;
        assert!(!taker.is_finished());
        world.patch(&format!("/tasks/{id}"), patch).await.ok();
        settle().await;
        assert!(taker.is_finished(), "it sleeps although {filter} fits");
        let attempt = taker.await.unwrap().ok()["items"][0]["attempt"].clone();
        let back = json!({ "attempt": attempt, "until": world.now() });
        world.on_task(&id, "postpone", back).await.ok();
        world.pass_time(1).await;
    }
}

/// Takers that wait behind a pause go by its end as it is now, not as it was when they came.
#[tokio::test(start_paused = true)]
async fn takers_learn_that_a_pause_ends_sooner() {
    let world = world().await;
    let id = world.add("q", json!({})).await;
    let pause = async |seconds: u64| {
        let until = world.now().plus_seconds(seconds);
        world.post("/queues/q/pause", json!({ "reason": "updates", "until": until })).await.ok();
    };
    pause(3_600).await;
    let begun = tokio::time::Instant::now();
    let takers: Vec<_> = (0..3)
        .map(|_| tokio::spawn(world.call(Method::POST, "/queues/q/take").json(&json!({ "wait_seconds": 60 })).send()))
        .collect();
    settle().await;
    pause(5).await;
    settle().await;
    world.move_clock(5);
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    settle().await;
    let taken = takers.iter().filter(|taker| taker.is_finished()).count();
    assert_eq!((taken, begun.elapsed().as_secs()), (1, 6), "one of them has the task");
    assert_eq!(world.task(&id).await["state"], "in_progress");
    for taker in takers {
        taker.await.unwrap().ok();
    }
}

/// Deadline passed comes first, however many of those do not fit.
#[tokio::test]
async fn the_order_is_strict_behind_many_that_do_not_fit() {
    let world = world().await;
    let at = |seconds: u64| world.now().plus_seconds(seconds);
    let line = json!({ "payload": 0, "tags": ["x"], "deadline": at(10) });
    let bulk = world.call(Method::POST, "/queues/q/tasks/bulk").header("content-type", "application/x-ndjson");
    bulk.body(format!("{line}\n").repeat(2_005)).send().await.expect(200);
    let late = world.add("q", json!({ "priority": 1, "deadline": at(20) })).await;
    let high = world.add("q", json!({ "priority": 3 })).await;
    world.move_clock(30);
    for expected in [late, high] {
        let taken = world.post("/queues/q/take", json!({ "max": 1, "filter": { "tags": ["-x"] } })).await.ok();
        assert_eq!(each(&taken, "id"), [expected]);
    }
}

/// What an attempt that failed has brought is not the output of the one that succeeds without any.
#[tokio::test]
async fn an_output_is_that_of_the_attempt_that_succeeded() {
    let world = World::new().await;
    world.queue("next", json!({})).await;
    let schema = json!({ "required": ["whole"] });
    world.queue("q", json!({ "max_attempts": 3, "output_schema": schema, "on_success_queue": "next" })).await;
    let id = world.add("q", json!({})).await;
    world.take_one("q").await;
    let failed = json!({ "attempt": 1, "kind": "application", "message": "x", "output": { "partial": 1 } });
    world.on_task(&id, "fail", failed).await.ok();
    assert_eq!(world.task(&id).await["output"], json!({ "partial": 1 }));
    world.take_one("q").await;
    world.on_task(&id, "succeed", json!({ "attempt": 2 })).await.ok();
    assert!(world.task(&id).await.get("output").is_none());
    let made = world.take("next", 1).await.remove(0);
    assert!(made.get("output").is_none(), "{made}");
    world.check();
}

/// A task that was handed on carries what the one before it brought, until it brings something itself, or nothing.
#[tokio::test]
async fn a_handed_on_output_is_not_that_of_the_next_task() {
    let world = World::new().await;
    world.queue("next", json!({})).await;
    world.queue("q", json!({ "on_success_queue": "next" })).await;
    let id = world.add("q", json!({})).await;
    world.take_one("q").await;
    world.on_task(&id, "succeed", json!({ "attempt": 1, "output": { "a": 1 } })).await.ok();
    let made = world.take("next", 1).await.remove(0);
    assert_eq!(made["output"], json!({ "a": 1 }));
    let made = text(&made, "/id");
    world.on_task(&made, "succeed", json!({ "attempt": 1 })).await.ok();
    assert!(world.task(&made).await.get("output").is_none());
}

/// A repetition is answered as the first call was, whatever the world has become.
#[tokio::test]
async fn an_end_is_repeated_although_the_task_is_gone() {
    let world = world().await;
    let id = world.add("q", json!({})).await;
    world.take_one("q").await;
    let end = || {
        let body = json!({ "attempt": 1, "output": { "a": 1 } });
        world.call(Method::POST, &format!("/tasks/{id}/succeed")).header("idempotency-key", "k").json(&body).send()
    };
    let first = end().await.ok();
    world.delete(&format!("/tasks/{id}")).await.done();
    assert_eq!(end().await.ok(), first);
}

/// An answer to a take is bounded, also where it is the checkpoints that are large.
#[tokio::test]
async fn fewer_tasks_come_where_their_checkpoints_are_large() {
    let world = world().await;
    let checkpoint = "x".repeat(1_000_000);
    for _ in 0..8 {
        world.add("q", json!({})).await;
    }
    for task in world.take("q", 8).await {
        let back = json!({ "attempt": 1, "until": world.now(), "checkpoint": checkpoint });
        world.on_task(&text(&task, "/id"), "postpone", back).await.ok();
    }
    world.pass_time(1).await;
    assert_eq!(world.take("q", 100).await.len(), 5);
    assert_eq!(world.take("q", 100).await.len(), 3);
}

/// What is due with large documents is done in several transactions, all of it.
#[tokio::test]
async fn many_large_tasks_come_due_at_once() {
    let world = World::new().await;
    world.queue("lost", json!({})).await;
    world.queue("q", json!({ "abandon_new_after_seconds": 10, "on_failure_queue": "lost" })).await;
    for _ in 0..12 {
        world.add("q", json!({ "payload": "x".repeat(1_000_000) })).await;
    }
    world.pass_time(10).await;
    let counts = world.get("/queues/lost/stats").await.ok()["counts"].clone();
    assert_eq!(counts["new"], 12);
}

/// An attempt that is over cannot end the task, and what it brought is kept as one event.
#[tokio::test]
async fn late_results_are_refused_and_kept() {
    let world = World::new().await;
    world.queue("q", json!({ "max_attempts": 3, "lease_seconds": 60 })).await;
    let id = world.add("q", json!({})).await;
    world.take_one("q").await;
    world.pass_time(60).await;
    assert_eq!(world.take_one("q").await, (id.clone(), 2));
    for verb in ["renew", "checkpoint"] {
        let body = if verb == "renew" { json!({ "attempt": 1 }) } else { json!({ "attempt": 1, "checkpoint": 1 }) };
        world.on_task(&id, verb, body).await.expect(409).refused("stale_attempt");
    }
    world.on_task(&id, "comment", json!({ "attempt": 1, "comment": "x" })).await.refused("stale_attempt");
    for _ in 0..2 {
        let late = json!({ "attempt": 1, "output": { "late": true } });
        world.on_task(&id, "succeed", late).await.expect(409).refused("stale_attempt");
    }
    world.on_task(&id, "succeed", json!({ "attempt": 7 })).await.expect(409).refused("stale_attempt");
    assert_eq!(world.task_events(&id).await, ["retried", "late_result"]);
    let events = world.get(&format!("/tasks/{id}/events")).await.ok();
    assert_eq!(each(&events, "output"), [json!({ "late": true }), Value::Null]);
    assert_eq!(world.task(&id).await["state"], "in_progress");
    world.on_task(&id, "succeed", json!({ "attempt": 2 })).await.ok();
    let task = world.task(&id).await;
    assert_eq!(task["attempts"][0]["end"], "abandoned");
    assert_eq!(task["attempts"][1]["end"], "succeeded");
    assert!(task.get("output").is_none(), "the late output is not the task's");
}

/// What came too late is read with the events; a page of them ends early where that is large, and goes on.
#[tokio::test]
async fn large_late_results_take_several_pages() {
    let world = World::new().await;
    let retry = json!({ "abandoned": true, "delay_seconds": 0 });
    world.queue("q", json!({ "max_attempts": 6, "lease_seconds": 60, "retry": retry })).await;
    let id = world.add("q", json!({})).await;
    let brought = |attempt: u64| json!(format!("{attempt}{}", "x".repeat(1_000_000)));
    for attempt in 1..=6 {
        assert_eq!(world.take_one("q").await.1, attempt);
        world.pass_time(60).await;
        let late = json!({ "attempt": attempt, "output": brought(attempt) });
        world.on_task(&id, "succeed", late).await.expect(409).refused("stale_attempt");
    }
    let (mut outputs, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = world.get(&format!("/tasks/{id}/events?{cursor}")).await.ok();
        outputs.extend(each(&page, "output").into_iter().filter(|output| !output.is_null()));
        pages += 1;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("cursor={next}"),
            None => break,
        }
    }
    assert_eq!((pages, outputs), (2, (1..=6).rev().map(brought).collect()));
}

/// A result that comes too late is kept whatever it is: its output needs not fit the schema.
#[tokio::test]
async fn late_results_need_not_fit() {
    let world = World::new().await;
    let schema = json!({ "type": "object", "required": ["x"] });
    world.queue("q", json!({ "lease_seconds": 60, "output_schema": schema })).await;
    let id = world.add("q", json!({})).await;
    world.take_one("q").await;
    let unfit = json!({ "attempt": 1, "output": { "y": 1 } });
    world.on_task(&id, "succeed", unfit.clone()).await.expect(422).invalid(&["/output/x"]);
    world.pass_time(60).await;
    world.on_task(&id, "succeed", unfit).await.expect(409).refused("stale_attempt");
    assert_eq!(world.task_events(&id).await, ["abandoned", "late_result"]);
}

/// The same end again is success, whatever has become of the task since; another end is refused.
#[tokio::test]
async fn ending_twice_is_ending_once() {
    let world = World::new().await;
    world.queue("q", json!({ "max_attempts": 2 })).await;
    let id = world.add("q", json!({})).await;
    world.take_one("q").await;
    let fail = json!({ "attempt": 1, "kind": "application", "message": "x" });
    for _ in 0..3 {
        assert_eq!(world.on_task(&id, "fail", fail.clone()).await.ok()["state"], "new");
    }
    assert_eq!(world.take_one("q").await.1, 2);
    assert_eq!(world.on_task(&id, "fail", fail).await.ok()["attempt"], 2, "it has been taken again meanwhile");
    world.on_task(&id, "succeed", json!({ "attempt": 1 })).await.expect(409).refused("stale_attempt");
    for _ in 0..2 {
        world.on_task(&id, "succeed", json!({ "attempt": 2 })).await.ok();
    }
    assert_eq!(world.get("/queues/q/stats").await.ok()["counts"]["succeeded"], 1);
}

/// Of tasks with the same deadline the urgent ones come first, as among all others, whichever way they are looked for.
#[tokio::test]
async fn the_same_deadline_leaves_the_priority() {
    let world = world().await;
    let deadline = world.now();
    world.move_clock(60);
    let mut ids = Vec::new();
    for priority in [1, 3, 2, 3] {
        let task = json!({ "priority": priority, "deadline": deadline, "tags": ["t"], "reference": "R" });
        ids.push(world.add("q", task).await);
    }
    let in_order: Vec<Value> = [1, 3, 2, 0].map(|place: usize| json!(ids[place])).into();
    for filter in [json!({}), json!({ "tags": ["t"] }), json!({ "reference": "R" }), json!({ "ids": ids })] {
        let taken = world.post("/queues/q/take", json!({ "max": 4, "filter": filter })).await.ok();
        assert_eq!(each(&taken, "id"), in_order, "{filter}");
        for id in &ids {
            let attempt = world.task(id).await["attempt"].clone();
            let back = json!({ "attempt": attempt, "until": world.now(), "attempt_counts": false });
            world.on_task(id, "postpone", back).await.ok();
        }
        world.pass_time(1).await;
    }
}

/// A task that is added between a taker's transaction and its answer is not lost on that taker's watch, but told to the next
/// one that waits.
#[tokio::test(start_paused = true)]
async fn a_task_that_comes_while_another_is_taken_wakes_the_next_taker() {
    let world = World::with_db(rules(), |engine, clock, randomness| {
        Db::paced(engine, clock, randomness, Box::new(|| tokio::task::yield_now().boxed()))
    })
    .await;
    world.queue("q", json!({})).await;
    world.add("q", json!({})).await;
    let take = async || each(&world.post("/queues/q/take", json!({ "wait_seconds": 30 })).await.ok(), "id").len();
    let add = async |turns: u32| {
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        world.add("q", json!({})).await
    };
    // Whenever it comes, both have one in the end, and at once.
    for turns in 0..12 {
        let begun = tokio::time::Instant::now();
        let (first, second, _) = futures::join!(take(), take(), add(turns));
        assert_eq!((first, second, begun.elapsed().as_secs()), (1, 1, 0), "added after {turns} turns");
        world.add("q", json!({})).await;
    }
}

/// Only the same result is a repetition: another one would be lost if it were answered as kept. It is refused and kept as an
/// event, once, and who repeats the first is shown what is there.
#[tokio::test]
async fn another_end_of_an_ended_attempt_is_refused_and_kept() {
    let world = world().await;
    let until = |seconds: u64| world.now().plus_seconds(seconds).to_string();
    let ends = [
        ("succeed", json!({ "output": { "r": 1 } }), json!({ "output": { "r": 2 } })),
        ("succeed", json!({}), json!({ "output": 1 })),
        ("fail", json!({ "kind": "business", "message": "m" }), json!({ "kind": "business", "message": "n" })),
        (
            "fail",
            json!({ "kind": "business", "message": "m" }),
            json!({ "kind": "business", "message": "m", "retry": true }),
        ),
        ("postpone", json!({ "until": until(60) }), json!({ "until": until(61) })),
        ("postpone", json!({ "until": until(60) }), json!({ "until": until(60), "checkpoint": 1 })),
    ];
    for (verb, first, other) in ends {
        let id = world.add("q", json!({})).await;
        let attempt = world.take_one("q").await.1;
        let with_attempt = |mut body: Value| {
            body["attempt"] = attempt.into();
            body
        };
        let answer = world.on_task(&id, verb, with_attempt(first.clone())).await.ok();
        for _ in 0..2 {
            let refused =
                world.on_task(&id, verb, with_attempt(other.clone())).await.expect(409).refused("stale_attempt");
            assert!(text(&refused, "/detail").contains("another result"), "{refused}");
        }
        let events = world.task_events(&id).await;
        assert_eq!(events.iter().filter(|event| *event == "late_result").count(), 1, "{verb} {other}: {events:?}");
        let again = world.on_task(&id, verb, with_attempt(first.clone())).await.ok();
        assert_eq!((&again["state"], &again["output"]), (&answer["state"], &answer["output"]), "{verb} {first}");
        world.delete(&format!("/tasks/{id}")).await.done();
    }
}

/// A repetition takes nothing that the first call did not take: nobody may be there any more to work on it.
#[tokio::test]
async fn a_repetition_takes_no_task() {
    let world = world().await;
    let ids = [world.add("q", json!({})).await, world.add("q", json!({})).await];
    world.take_one("q").await;
    world.on_task(&ids[0], "succeed", json!({ "attempt": 1 })).await.ok();
    let answer = world.on_task(&ids[0], "succeed", json!({ "attempt": 1, "take_next": true })).await.ok();
    assert_eq!(answer["next"], Value::Null);
    assert_eq!(world.task(&ids[1]).await["state"], "new");
}

/// Each different result that comes late is kept, and it is said when no more are.
#[tokio::test]
async fn every_other_result_is_kept_up_to_a_bound() {
    let world = world().await;
    let id = world.add("q", json!({})).await;
    world.take_one("q").await;
    world.on_task(&id, "succeed", json!({ "attempt": 1, "output": "first" })).await.ok();
    for (number, kept) in (0..12).map(|number| (number, number.min(9) + 1)) {
        for _ in 0..2 {
            let other = json!({ "attempt": 1, "output": number });
            let refused = world.on_task(&id, "succeed", other).await.expect(409).refused("stale_attempt");
            assert_eq!(text(&refused, "/detail").contains("is kept as an event"), number < 10, "{refused}");
        }
        let late = world.task_events(&id).await.iter().filter(|event| *event == "late_result").count();
        assert_eq!(late, kept, "after {number}");
    }
}

/// Entries of the index of deadlines as older versions wrote them, without the priority, are written anew.
#[tokio::test]
async fn an_older_index_of_deadlines_is_renewed() {
    let world = world().await;
    let deadline = world.now();
    world.move_clock(60);
    let mut ids = Vec::new();
    for priority in [1, 3] {
        ids.push(world.add("q", json!({ "priority": priority, "deadline": deadline, "tags": ["t"] })).await);
    }
    world
        .engine
        .exclusive(&mut |view| {
            let all = KeyRange { start: Vec::new(), end: vec![0xff; 64] };
            let entries = view.scan(&all, Order::Ascending, usize::MAX).unwrap();
            let mut writes = WriteSet::new();
            for (key, id) in entries.into_iter().filter(|(key, _)| key.starts_with(b"tf")) {
                let (head, tail) = (&key[2..key.len() - 17], &key[key.len() - 16..]);
                writes.insert([&b"td"[..], head, tail].concat(), Some(id));
                writes.insert(key, None);
            }
            assert_eq!(writes.len(), 8);
            writes
        })
        .unwrap();
    let renewed = world.app.db.write(world.account, |tx| task::renew_lateness_page(tx, 100)).await.unwrap();
    let again = world.app.db.write(world.account, |tx| task::renew_lateness_page(tx, 100)).await.unwrap();
    assert_eq!((renewed, again), (4, 0));
    world.check();
    let taken: Vec<Value> = world.take("q", 2).await.iter().map(|task| task["id"].clone()).collect();
    assert_eq!(taken, [json!(ids[1]), json!(ids[0])]);
    world.check();
}

/// End one and take the next in one call; should the answer be lost, the same call gives the same next task.
#[tokio::test]
async fn ending_one_and_taking_the_next() {
    let world = world().await;
    let ids = [world.add("q", json!({})).await, world.add("q", json!({ "payload": 7 })).await];
    world.take_one("q").await;
    let end = json!({ "attempt": 1, "take_next": true });
    for _ in 0..2 {
        let answer = world.on_task(&ids[0], "succeed", end.clone()).await.ok();
        assert_eq!((&answer["task"]["id"], &answer["task"]["state"]), (&json!(ids[0]), &json!("succeeded")));
        assert_eq!((&answer["next"]["id"], &answer["next"]["payload"]), (&json!(ids[1]), &json!(7)));
    }
    let answer = world.on_task(&ids[1], "succeed", end.clone()).await.ok();
    assert_eq!(answer["next"], Value::Null);
    // The first answer stays what it was although the next task has ended since.
    assert_eq!(world.on_task(&ids[0], "succeed", end).await.ok()["next"], Value::Null);
}

/// With the only task of a queue, failing it and taking the next gives it back.
#[tokio::test]
async fn the_next_task_may_be_the_same_one() {
    let world = World::new().await;
    world.queue("q", json!({ "max_attempts": 2 })).await;
    let id = world.add("q", json!({})).await;
    world.take_one("q").await;
    let fail = json!({ "attempt": 1, "kind": "application", "message": "x", "take_next": true });
    for _ in 0..2 {
        let answer = world.on_task(&id, "fail", fail.clone()).await.ok();
        assert_eq!((&answer["next"]["id"], &answer["next"]["attempt"]), (&json!(id), &json!(2)));
    }
    assert_eq!(world.task(&id).await["attempts"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_repeated_take_with_its_key_gives_the_same_tasks() {
    let world = world().await;
    let id = world.add("q", json!({ "payload": { "a": 1 } })).await;
    world.add("q", json!({})).await;
    let take = || world.call(Method::POST, "/queues/q/take").header("idempotency-key", "k").json(&json!({})).send();
    let first = take().await;
    let again = take().await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(first.json(), again.json());
    assert_eq!(each(&first.ok(), "id"), [id]);
    assert_eq!(world.get("/queues/q/stats").await.ok()["counts"]["new"], 1);
}

/// Repetitions wait longer each time, by the factor and a little chance; the queue says how many there are.
#[tokio::test]
async fn failures_are_tried_again_as_the_queue_says() {
    let world = World::new().await;
    let retry = json!({ "delay_seconds": 100, "factor": 2, "max_delay_seconds": 1000 });
    world.queue("q", json!({ "max_attempts": 3, "retry": retry })).await;
    let id = world.add("q", json!({})).await;
    for (attempt, delay) in [(1, 100), (2, 200)] {
        assert_eq!(world.take_one("q").await.1, attempt);
        let fail = json!({ "attempt": attempt, "kind": "application", "message": "x" });
        assert_eq!(world.on_task(&id, "fail", fail).await.ok()["state"], "postponed");
        world.pass_time(delay - 1).await;
        assert!(world.take("q", 1).await.is_empty(), "it waits at the least {delay} s");
        world.pass_time(delay / 4 + 1).await;
    }
    assert_eq!(world.take_one("q").await.1, 3);
    let fail = json!({ "attempt": 3, "kind": "application", "message": "for good", "code": "E7" });
    let failed = world.on_task(&id, "fail", fail).await.ok();
    assert_eq!((&failed["state"], &failed["error"]["code"]), (&json!("failed"), &json!("E7")));
    assert_eq!(world.task_events(&id).await, ["retried", "due", "retried", "due", "failed"]);
    assert_eq!(each(&world.get(&format!("/tasks/{id}/attempts")).await.ok(), "attempt"), [1, 2, 3]);
}

/// All attempts are listed oldest first in pages; the task itself shows the newest hundred.
#[tokio::test]
async fn attempts_are_listed_in_pages() {
    let world = World::new().await;
    world.queue("q", json!({ "max_attempts": 1000 })).await;
    let id = world.add("q", json!({})).await;
    let path = format!("/tasks/{id}/attempts");
    assert_eq!(world.get(&path).await.ok(), json!({ "items": [], "next_cursor": null }));
    let numbers = |from: u32, to: u32| (from..=to).map(Value::from).collect::<Vec<_>>();
    for attempt in 1..=105 {
        world.take_one("q").await;
        if attempt < 105 {
            let until = world.now().plus_seconds(1);
            world.on_task(&id, "postpone", json!({ "attempt": attempt, "until": until })).await.ok();
            world.pass_time(1).await;
        }
    }
    assert_eq!(each(&world.get(&path).await.ok(), "attempt"), numbers(1, 50));
    for limit in [1, 26, 52, 104, 105, 1000] {
        let (mut found, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = world.get(&format!("{path}?limit={limit}{cursor}")).await.ok();
            found.extend(each(&page, "attempt"));
            pages += 1;
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!((found, pages), (numbers(1, 105), 105_u32.div_ceil(limit)), "limit={limit}");
    }
    // The one that is held moves into the past between two pages, and comes once all the same.
    let page = world.get(&format!("{path}?limit=104")).await.ok();
    world.on_task(&id, "fail", json!({ "attempt": 105, "kind": "business", "message": "x" })).await.ok();
    world.act(&format!("/tasks/{id}/retry")).await.ok();
    world.take_one("q").await;
    let rest = world.get(&format!("{path}?cursor={}", text(&page, "/next_cursor"))).await.ok();
    assert_eq!((each(&rest, "attempt"), &rest["next_cursor"]), (numbers(105, 106), &Value::Null));
    let whole = world.task(&id).await;
    assert_eq!(each(&json!({ "items": whole["attempts"] }), "attempt"), numbers(7, 106));
    world.get(&format!("{path}?limit=1001")).await.invalid(&["limit"]);
    world.get(&format!("{path}?cursor=x")).await.expect(400);
}

/// A business error is not tried again unless its holder or the queue asks for that.
#[tokio::test]
async fn business_errors_are_final_unless_asked() {
    let world = World::new().await;
    world.queue("q", json!({ "max_attempts": 9 })).await;
    world.queue("again", json!({ "max_attempts": 9, "retry": { "business": true } })).await;
    for (queue, more, state) in [
        ("q", json!({}), "failed"),
        ("q", json!({ "retry": true }), "new"),
        ("again", json!({}), "new"),
        ("again", json!({ "retry": false }), "failed"),
    ] {
        let id = world.add(queue, json!({})).await;
        world.post(&format!("/queues/{queue}/take"), json!({ "filter": { "ids": [id] } })).await.ok();
        let mut fail = json!({ "attempt": 1, "kind": "business", "message": "no such customer" });
        fail.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(world.on_task(&id, "fail", fail).await.ok()["state"], state, "{queue} {more}");
    }
}

/// Put back with its state: the next holder goes on where this one was.
#[tokio::test]
async fn a_task_is_put_back_with_its_checkpoint() {
    let world = world().await;
    let id = world.add("q", json!({})).await;
    world.take_one("q").await;
    let note = json!({ "attempt": 1, "checkpoint": { "page": 3 }, "progress": { "percent": 30 } });
    assert_eq!(world.on_task(&id, "checkpoint", note).await.ok()["progress"]["percent"], 30.0);
    assert_eq!(world.task(&id).await["checkpoint"], json!({ "page": 3 }));
    let bad = json!({ "attempt": 1, "checkpoint": 1, "progress": { "percent": 130 } });
    world.on_task(&id, "checkpoint", bad).await.invalid(&["/progress/percent"]);
    let until = json!(world.now().plus_seconds(50));
    let back = json!({ "attempt": 1, "until": until, "checkpoint": { "page": 4 } });
    let put = world.on_task(&id, "postpone", back.clone()).await.ok();
    assert_eq!((&put["state"], &put["postponed_until"], &put["tries"]), (&json!("postponed"), &until, &json!(0)));
    world.on_task(&id, "postpone", back).await.ok();
    world.pass_time(50).await;
    let taken = world.take("q", 1).await.remove(0);
    assert_eq!((&taken["attempt"], &taken["checkpoint"]), (&json!(2), &json!({ "page": 4 })));
    assert_eq!(taken["attempts"][0]["end"], "postponed", "its history comes with it");
    let counted = json!({ "attempt": 2, "until": world.now(), "attempt_counts": true });
    let put = world.on_task(&id, "postpone", counted).await.ok();
    assert_eq!((&put["state"], &put["tries"]), (&json!("new"), &json!(1)), "a time that has passed is now");
}

/// Without renewal the lease runs out; with it, never.
#[tokio::test]
async fn leases_are_kept_by_renewing() {
    let world = World::new().await;
    world.queue("q", json!({ "lease_seconds": 60 })).await;
    let id = world.add("q", json!({})).await;
    world.take_one("q").await;
    for _ in 0..5 {
        world.pass_time(59).await;
        let renewed = world.on_task(&id, "renew", json!({ "attempt": 1 })).await.ok();
        assert_eq!(text(&renewed, "/lease_ends_at"), world.now().plus_seconds(60).to_string());
    }
    world.pass_time(60).await;
    assert_eq!(world.task(&id).await["state"], "abandoned");
    world.on_task(&id, "renew", json!({ "attempt": 1 })).await.expect(409).refused("stale_attempt");
    assert_eq!(world.task_events(&id).await, ["abandoned"]);
    assert_eq!(world.on_task(&id, "retry", json!({})).await.ok()["state"], "new");
    assert_eq!(world.take_one("q").await, (id, 2));
}

/// Work that nobody wants is not left lying for ever where the queue says so.
#[tokio::test]
async fn what_nobody_takes_is_abandoned() {
    let world = World::new().await;
    world.queue("lost", json!({})).await;
    world.queue("q", json!({ "abandon_new_after_seconds": 100, "on_failure_queue": "lost" })).await;
    let id = world.add("q", json!({ "payload": { "a": 1 }, "reference": "R" })).await;
    world.pass_time(99).await;
    assert_eq!(world.task(&id).await["state"], "new");
    world.pass_time(1).await;
    assert_eq!(world.task(&id).await["state"], "abandoned");
    let handed = world.take("lost", 1).await.remove(0);
    assert_eq!((&handed["payload"], &handed["reference"]), (&json!({ "a": 1 }), &json!("R")));
    assert_eq!(handed["origin_task_id"], json!(id));
    assert_eq!(world.task_events(&id).await, ["abandoned", "handed_on"]);
}

/// A success queue receives a new task with payload and output, a failure queue one with the error.
#[tokio::test]
async fn what_ends_is_handed_on() {
    let world = World::new().await;
    world.queue("good", json!({ "unique_references": true })).await;
    world.queue("bad", json!({})).await;
    world.queue("q", json!({ "on_success_queue": "good", "on_failure_queue": "bad" })).await;
    let ids = [
        world.add("q", json!({ "payload": 1, "reference": "R", "tags": ["t"] })).await,
        world.add("q", json!({ "payload": 2 })).await,
    ];
    world.take("q", 2).await;
    world.on_task(&ids[0], "succeed", json!({ "attempt": 1, "output": [5] })).await.ok();
    world.on_task(&ids[1], "fail", json!({ "attempt": 1, "kind": "business", "message": "no" })).await.ok();
    let good = world.take("good", 2).await;
    assert_eq!((&good[0]["payload"], &good[0]["output"], &good[0]["tags"]), (&json!(1), &json!([5]), &json!(["t"])));
    let bad = world.take("bad", 2).await;
    assert_eq!((&bad[0]["payload"], &bad[0]["error"]["message"]), (&json!(2), &json!("no")));
    // A reference that is taken there: the end holds, and an event tells what was left undone.
    let again = world.add("q", json!({ "payload": 3, "reference": "R" })).await;
    world.take_one("q").await;
    assert_eq!(world.on_task(&again, "succeed", json!({ "attempt": 1 })).await.ok()["state"], "succeeded");
    assert_eq!(world.task_events(&again).await, ["not_handed_on"]);
}

/// What a queue hands on comes into the other one although its payload does not fit there; the new task tells.
#[tokio::test]
async fn what_is_handed_on_and_does_not_fit_is_told() {
    let world = World::new().await;
    world.queue("next", json!({ "payload_schema": { "required": ["a"] } })).await;
    world.queue("q", json!({ "on_success_queue": "next" })).await;
    for payload in [json!({}), json!({ "a": 1 })] {
        let id = world.add("q", json!({ "payload": payload })).await;
        world.take_one("q").await;
        world.on_task(&id, "succeed", json!({ "attempt": 1 })).await.ok();
    }
    let handed = world.take("next", 2).await;
    assert_eq!(world.task_events(&text(&handed[0], "/id")).await, ["payload_unfit"]);
    assert!(world.task_events(&text(&handed[1], "/id")).await.is_empty());
}

/// In another queue a task comes under the rules of that one: its schema, and how long tasks may wait there.
#[tokio::test]
async fn a_task_that_is_handed_over_comes_under_other_rules() {
    let world = World::new().await;
    world.queue("free", json!({})).await;
    world.queue("short", json!({ "abandon_new_after_seconds": 100 })).await;
    let rules = json!({ "payload_schema": { "required": ["a"] }, "abandon_new_after_seconds": 50 });
    world.queue("strict", rules).await;
    let unfit = format!("/tasks/{}", world.add("short", json!({})).await);
    world.patch(&unfit, json!({ "queue": "strict" })).await.expect(422).invalid(&["/payload/a"]);
    assert_ne!(world.get(&unfit).await.ok()["queue_id"], world.get("/queues/strict").await.ok()["id"]);
    world.patch(&unfit, json!({ "queue": "strict", "payload": { "a": 1 } })).await.ok();
    let id = world.add("short", json!({ "payload": { "a": 1 } })).await;
    let path = format!("/tasks/{id}");
    world.patch(&path, json!({ "queue": "free" })).await.ok();
    world.pass_time(1_000).await;
    assert_eq!(world.task(&id).await["state"], "new", "the queue that it has left abandons it no more");
    world.patch(&path, json!({ "queue": "strict" })).await.ok();
    world.pass_time(49).await;
    world.patch(&path, json!({ "queue": "strict", "name": "n" })).await.ok();
    assert_eq!(world.task(&id).await["state"], "new");
    world.pass_time(1).await;
    assert_eq!(world.task(&id).await["state"], "abandoned");
}

/// One task per reference, where the queue wants that: until it is deleted, whatever its state.
#[tokio::test]
async fn references_may_be_unique() {
    let world = world().await;
    world.queue("unique", json!({ "unique_references": true })).await;
    let request = json!({ "payload": 1, "reference": "R" });
    let id = world.add("unique", request.clone()).await;
    let refused = world.post("/queues/unique/tasks", request.clone()).await.expect(409).refused("already_exists");
    assert_eq!(text(&refused, "/id"), id);
    world.add("unique", json!({})).await;
    world.add("unique", json!({})).await;
    world.take_one("unique").await;
    world.on_task(&id, "succeed", json!({ "attempt": 1 })).await.ok();
    world.post("/queues/unique/tasks", request.clone()).await.expect(409);
    let other = world.add("q", json!({ "reference": "R" })).await;
    world.add("q", json!({ "reference": "R" })).await;
    world.patch(&format!("/tasks/{other}"), json!({ "queue": "unique" })).await.expect(409).refused("already_exists");
    world.delete(&format!("/tasks/{id}")).await.done();
    world.patch(&format!("/tasks/{other}"), json!({ "queue": "unique" })).await.ok();
    world.post("/queues/unique/tasks", request).await.expect(409);
    let renamed = world.patch(&format!("/tasks/{other}"), json!({ "reference": "R", "name": "n" })).await.ok();
    assert_eq!(renamed["name"], "n", "its own reference is no obstacle");
    world.patch("/queues/q", json!({ "unique_references": true })).await.expect(409).refused("wrong_state");
}

#[tokio::test]
async fn payload_and_output_keep_to_their_schemas() {
    let world = World::new().await;
    let schema = |field: &str| json!({ "type": "object", "required": [field] });
    world.queue("q", json!({ "payload_schema": schema("a"), "output_schema": schema("b") })).await;
    world.post("/queues/q/tasks", json!({ "payload": {} })).await.expect(422).invalid(&["/payload/a"]);
    let id = world.add("q", json!({ "payload": { "a": 1 } })).await;
    world.patch(&format!("/tasks/{id}"), json!({ "payload": {} })).await.invalid(&["/payload/a"]);
    world.take_one("q").await;
    world.on_task(&id, "succeed", json!({ "attempt": 1, "output": {} })).await.invalid(&["/output/b"]);
    assert_eq!(world.task(&id).await["state"], "in_progress");
    world.on_task(&id, "succeed", json!({ "attempt": 1, "output": { "b": 1 } })).await.ok();
    world.patch("/queues/q", json!({ "payload_schema": null })).await.ok();
    world.add("q", json!({ "payload": {} })).await;
}

/// People change what waits or has ended; of what is in progress only what its holder does not depend on.
#[tokio::test]
async fn people_change_tasks() {
    let world = world().await;
    world.queue("other", json!({})).await;
    let id = world.add("q", json!({ "comment": "c" })).await;
    let path = format!("/tasks/{id}");
    let changes = json!({ "priority": 3, "payload": [1], "tags": ["x"], "comment": null, "reference": "R" });
    let changed = world.patch(&path, changes).await.ok();
    assert_eq!(
        (&changed["priority"], &changed["payload"], &changed["comment"]),
        (&json!(3), &json!([1]), &Value::Null)
    );
    let until = json!(world.now().plus_seconds(60));
    assert_eq!(world.patch(&path, json!({ "postponed_until": until })).await.ok()["state"], "postponed");
    assert_eq!(world.patch(&path, json!({ "postponed_until": null })).await.ok()["state"], "new");
    assert_eq!(world.patch(&path, json!({ "queue": "other" })).await.ok()["state"], "new");
    assert!(world.take("q", 1).await.is_empty());
    world.take_one("other").await;
    world.patch(&path, json!({ "payload": 2 })).await.expect(409).refused("wrong_state");
    world.delete(&path).await.expect(409).refused("wrong_state");
    let commented = world.on_task(&id, "comment", json!({ "comment": "seen" })).await.ok();
    assert_eq!(commented["comment"], "seen");
    assert_eq!(world.patch(&path, json!({ "priority": 1, "name": "n" })).await.ok()["priority"], 1);
    world.on_task(&id, "succeed", json!({ "attempt": 1 })).await.ok();
    world.act(&format!("{path}/retry")).await.expect(409).refused("wrong_state");
    world.delete(&path).await.done();
    let uuid: uuid::Uuid = id.parse().unwrap();
    assert_eq!(world.mentions(uuid.as_bytes()), 0, "nothing is left of it");
}

/// What has ended is removed when it is too old for its queue, counted from its end; what has not ended never.
#[tokio::test]
async fn ended_tasks_are_kept_as_long_as_their_queue_says() {
    const DAY: i64 = 86_400;
    let world = World::new().await;
    world.queue("q", json!({ "retention": { "done_days": 2, "failed_days": 4 } })).await;
    world.queue("kept", json!({ "retention": { "done_days": 0, "failed_days": 0 } })).await;
    let old = world.add("q", json!({ "reference": "R" })).await;
    let failed = world.add("q", json!({})).await;
    let waiting = world.add("q", json!({})).await;
    let kept = world.add("kept", json!({})).await;
    world.move_clock(10 * DAY);
    world.take("q", 2).await;
    world.take("kept", 1).await;
    for id in [&old, &kept] {
        world.on_task(id, "succeed", json!({ "attempt": 1, "output": 1 })).await.ok();
    }
    let fail = json!({ "attempt": 1, "kind": "application", "message": "x" });
    world.on_task(&failed, "fail", fail).await.ok();
    let there = async |id: &str| world.get(&format!("/tasks/{id}")).await.status.is_success();
    world.move_clock(2 * DAY - 1);
    world.retain(0, 0).await;
    assert!(there(&old).await, "it was made long ago, but ended lately");
    world.move_clock(2);
    world.retain(0, 0).await;
    assert!(!there(&old).await && there(&failed).await);
    let uuid: uuid::Uuid = old.parse().unwrap();
    assert_eq!(world.mentions(uuid.as_bytes()), 0);
    world.move_clock(2 * DAY);
    world.retain(0, 0).await;
    assert!(!there(&failed).await && there(&waiting).await && there(&kept).await);
    let counts = world.get("/queues/q/stats").await.ok()["counts"].clone();
    assert_eq!((&counts["succeeded"], &counts["failed"], &counts["new"]), (&json!(0), &json!(0), &json!(1)));
}

/// Files are attached whatever the state of the task, come with it, and go with it.
#[tokio::test]
async fn files_are_attached_to_tasks() {
    let world = world().await;
    let id = world.add("q", json!({})).await;
    let path = format!("/tasks/{id}/files/Rechnung%20%26%20%C3%BC.txt");
    let put = |content: &str| world.call(Method::PUT, &path).body(content).send();
    let made = put("first").await.created();
    assert_eq!((text(&made, "/name"), &made["size_bytes"]), ("Rechnung & ü.txt".into(), &json!(5)));
    assert_eq!(put("second").await.ok()["size_bytes"], 6);
    let taken = world.take("q", 1).await.remove(0);
    assert_eq!(each(&json!({ "items": taken["files"] }), "name"), ["Rechnung & ü.txt"]);
    let part = world.call(Method::GET, &path).header("range", "bytes=0-2").send().await.expect(206);
    assert_eq!(part.text(), "sec");
    let listed = world.get(&format!("/storages/tasks%2F{id}/files")).await.ok();
    assert_eq!(each(&listed, "path"), ["Rechnung & ü.txt"]);
    let second = world.add("q", json!({})).await;
    let copy = json!({ "path": "Rechnung & ü.txt", "to_folder": format!("tasks/{second}"), "to_path": "c.txt" });
    world.post(&format!("/storages/tasks%2F{id}/copy"), copy).await.created();
    assert_eq!(each(&json!({ "items": world.take("q", 1).await.remove(0)["files"] }), "name"), ["c.txt"]);
    let other = format!("/tasks/{id}/files/b.txt");
    world.call(Method::PUT, &other).body("b").send().await.created();
    world.delete(&other).await.done();
    world.get(&other).await.expect(404);
    world.call(Method::PUT, &format!("/tasks/{id}/files/a%2Fb")).body("x").send().await.expect(422).invalid(&["name"]);
    world.put_file(&format!("tasks%2F{id}"), "a/b", "x").await.expect(422).invalid(&["path"]);
    let deep = json!({ "path": "Rechnung & ü.txt", "to_path": "a/b" });
    world.post(&format!("/storages/tasks%2F{id}/move"), deep).await.expect(422).invalid(&["/to_path"]);
    world.on_task(&id, "succeed", json!({ "attempt": 1 })).await.ok();
    assert_eq!(world.get(&path).await.text(), "second");
    world.delete(&format!("/tasks/{id}")).await.done();
    world.get(&path).await.expect(404);
    world.collect_garbage().await;
    world.get(&format!("/storages/tasks%2F{id}/files")).await.expect(404);
}

/// What is noted beside a file of a task is kept, as with every other file.
#[tokio::test]
async fn metadata_of_files_is_kept() {
    let world = World::new().await;
    world.queue("q", json!({})).await;
    let id = world.add("q", json!({})).await;
    let put = async |query: &str| {
        let path = format!("/tasks/{id}/files/a.txt{query}");
        world.call(Method::PUT, &path).body("text").send().await
    };
    let made = put("?metadata=customer:%D0%9E%D0%9E%D0%9E&metadata=a:b:c").await.created();
    assert_eq!(made["metadata"], json!({ "customer": "ООО", "a": "b:c" }));
    assert_eq!(world.task(&id).await["files"][0]["metadata"], made["metadata"]);
    let read = world.get(&format!("/tasks/{id}/files/a.txt")).await;
    assert_eq!(read.header("x-drover-metadata"), Some("a=b%3Ac&customer=%D0%9E%D0%9E%D0%9E"));
    for (bad, name) in [("?metadata=x", "metadata"), ("?metadata=a:1&metadata=a:2", "metadata"), ("?foo=1", "foo")] {
        put(bad).await.invalid(&[name]);
    }
    assert_eq!(put("").await.ok()["metadata"], json!({}));
}
