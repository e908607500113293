//! Lists of tasks by every filter, and the same done to many of them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use drover_coordinator::store::Db;
use futures::FutureExt;
use http::Method;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::support::{World, each, rules, settle, text};

/// Two queues with tasks in every state.
async fn world() -> World {
    let world = World::new().await;
    world.queue("q", json!({})).await;
    world.queue("other", json!({})).await;
    for number in 0..12_u64 {
        let tags = if number % 2 == 0 { json!(["even"]) } else { json!(["odd", "red"]) };
        let city = if number < 6 { "Kazan" } else { "Perm" };
        let task = json!({ "reference": format!("R{}", number % 4), "tags": tags, "priority": number % 3 + 1,
            "payload": { "customer": { "city": city }, "items": [{ "n": number }] } });
        world.add(if number == 11 { "other" } else { "q" }, task).await;
        world.move_clock(60);
    }
    let taken = world.take("q", 5).await;
    let id = |place: usize| text(&taken[place], "/id");
    world.on_task(&id(0), "succeed", json!({ "attempt": 1 })).await.ok();
    world.on_task(&id(1), "fail", json!({ "attempt": 1, "kind": "business", "message": "b" })).await.ok();
    world.on_task(&id(2), "fail", json!({ "attempt": 1, "kind": "application", "message": "a" })).await.ok();
    let until = world.now().plus_seconds(3_600);
    world.on_task(&id(3), "postpone", json!({ "attempt": 1, "until": until })).await.ok();
    world
}

/// Every filter gives what looking through all tasks gives, page by page as well as at once.
#[tokio::test]
async fn every_filter_gives_what_it_says() {
    let world = world().await;
    let all = world.get("/tasks?limit=1000").await.ok()["items"].as_array().unwrap().clone();
    assert_eq!(all.len(), 12);
    let other = world.get("/queues/other").await.ok()["id"].clone();
    type Fits = Box<dyn Fn(&Value) -> bool>;
    let has = |task: &Value, tag: &str| task["tags"].as_array().unwrap().contains(&json!(tag));
    let middle = text(&all[6], "/created_at");
    let middle_too = middle.clone();
    let cases: Vec<(String, Fits)> = vec![
        ("queue=q".into(), Box::new(move |task| task["queue_id"] != other)),
        ("state=new".into(), Box::new(|task| task["state"] == "new")),
        ("queue=q&state=new".into(), Box::new(|task| task["state"] == "new" && !task["tags"].is_null())),
        ("state=failed&state=postponed".into(), Box::new(|t| t["state"] == "failed" || t["state"] == "postponed")),
        ("queue=q&state=in_progress".into(), Box::new(|task| task["state"] == "in_progress")),
        ("reference=R1".into(), Box::new(|task| task["reference"] == "R1")),
        ("queue=q&reference=R2".into(), Box::new(|task| task["reference"] == "R2")),
        ("tag=even".into(), Box::new(move |task| has(task, "even"))),
        ("tag=odd&tag=red".into(), Box::new(move |task| has(task, "red"))),
        ("tag=-even&queue=q".into(), Box::new(move |task| !has(task, "even"))),
        ("-tag=even&queue=q".into(), Box::new(move |task| !has(task, "even"))),
        ("%2Dtag=even".into(), Box::new(move |task| !has(task, "even"))),
        ("tag=odd&-tag=even&queue=q".into(), Box::new(move |task| has(task, "odd"))),
        ("-tag=none&-tag=odd,none".into(), Box::new(move |task| has(task, "even"))),
        ("tag=even&state=new".into(), Box::new(move |task| has(task, "even") && task["state"] == "new")),
        ("priority=3".into(), Box::new(|task| task["priority"] == 3)),
        ("queue=q&priority=1".into(), Box::new(|task| task["priority"] == 1)),
        ("error_kind=business".into(), Box::new(|task| task["error"]["kind"] == "business")),
        ("error_kind=application&queue=q".into(), Box::new(|task| task["error"]["kind"] == "application")),
        (format!("created_from={middle}"), Box::new(move |task| text(task, "/created_at") >= middle)),
        (format!("created_to={middle_too}&queue=q"), Box::new(move |task| text(task, "/created_at") < middle_too)),
    ];
    let q = world.get("/queues/q").await.ok()["id"].clone();
    for (query, fits) in cases {
        let in_queue = |task: &Value| !query.contains("queue=q") || task["queue_id"] == q;
        let expected: Vec<Value> = all.iter().filter(|task| fits(task) && in_queue(task)).cloned().collect();
        assert!(!expected.is_empty(), "{query} would prove nothing");
        assert_eq!(world.get(&format!("/tasks?{query}")).await.ok()["items"], json!(expected), "{query}");
        assert_eq!(pages(&world, &query, 2).await, expected, "{query} by pages");
    }
}

/// All items of a list, read by pages.
async fn pages(world: &World, query: &str, limit: u32) -> Vec<Value> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = world.get(&format!("/tasks?{query}&limit={limit}{cursor}")).await.ok();
        items.extend(page["items"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return items,
        }
    }
}

/// A tag that is left out is left out of a file as well, whichever way it is said and whatever signs it has.
#[tokio::test]
async fn tags_are_left_out_of_exports() {
    let world = World::new().await;
    world.queue("q", json!({})).await;
    for (reference, tags) in [("a", json!(["R&D + sales"])), ("b", json!(["x"])), ("c", json!([]))] {
        world.add("q", json!({ "reference": reference, "tags": tags })).await;
    }
    for query in ["-tag=R%26D+%2B+sales", "tag=-R%26D+%2B+sales"] {
        let call = world.call(Method::GET, &format!("/tasks?{query}&queue=q")).header("accept", "application/x-ndjson");
        let lines = call.send().await.expect(200).text();
        let tasks = lines.lines().map(|line| text(&serde_json::from_str(line).unwrap(), "/reference"));
        assert_eq!(tasks.collect::<Vec<_>>(), ["c", "b"], "{query}");
    }
    world.get("/tasks?-tags=x").await.invalid(&["-tags"]);
}

#[tokio::test]
async fn payloads_are_looked_into() {
    let world = world().await;
    for (query, count) in [
        ("payload.customer.city=Kazan", 6),
        ("queue=q&payload.customer.city=Perm", 5),
        ("payload.items.0.n=7", 1),
        ("payload.customer.city=Kazan&payload.items.0.n=7", 0),
        ("payload.customer=Kazan", 0),
        ("payload.none=1", 0),
    ] {
        assert_eq!(pages(&world, query, 4).await.len(), count, "{query}");
    }
}

/// A condition that seldom holds looks at a bounded number of payloads per page, and goes on.
#[tokio::test]
async fn a_seldom_payload_takes_several_pages() {
    let world = World::new().await;
    world.queue("q", json!({})).await;
    let seldom = world.add("q", json!({ "payload": { "n": "x" } })).await;
    for _ in 0..1_200 {
        world.add("q", json!({ "payload": { "n": "y" } })).await;
    }
    let first = world.get("/tasks?queue=q&payload.n=x").await.ok();
    assert!(each(&first, "id").is_empty() && first["next_cursor"].is_string());
    assert_eq!(pages(&world, "queue=q&payload.n=x", 50).await[0]["id"], json!(seldom));
}

#[tokio::test]
async fn lists_count_refuse_and_stay_stable() {
    let world = world().await;
    assert_eq!(world.get("/tasks?queue=q&count=true&limit=1").await.ok()["total"], 11);
    assert_eq!(world.get("/tasks?queue=q&state=failed&count=true").await.ok()["total"], 2);
    assert!(world.get("/tasks?tag=even&count=true").await.ok().get("total").is_none(), "no counter knows that");
    world.get("/tasks?queue=none").await.expect(422).invalid(&["queue"]);
    world.get("/tasks?priority=9").await.expect(422).invalid(&["priority"]);
    world.get("/tasks?stat=new").await.expect(422).invalid(&["stat"]);
    world.get("/tasks?cursor=nonsense").await.expect(400);
    // What changes its state between two pages neither comes twice nor is left out.
    let first = world.get("/tasks?queue=q&limit=6").await.ok();
    let taken = world.take("q", 100).await;
    let rest = world.get(&format!("/tasks?queue=q&cursor={}", text(&first, "/next_cursor"))).await.ok();
    let mut ids: Vec<String> =
        [each(&first, "id"), each(&rest, "id")].concat().iter().map(|id| id.as_str().unwrap().to_owned()).collect();
    ids.dedup();
    assert_eq!((ids.len(), taken.is_empty()), (11, false));
}

/// However many queues have tasks with a reference, all of these are listed and acted upon.
#[tokio::test]
async fn a_reference_of_very_many_queues_is_listed_whole() {
    let world = World::new().await;
    for number in 0..201 {
        let queue = format!("q{number}");
        world.queue(&queue, json!({})).await;
        world.add(&queue, json!({ "reference": "R" })).await;
        world.add(&queue, json!({ "reference": "S" })).await;
    }
    assert_eq!(pages(&world, "reference=R", 100).await.len(), 201);
    let urgent = json!({ "value": 3 });
    assert_eq!(act(&world, json!({ "reference": "R" }), "set_priority", urgent).await, (201, 201));
}

async fn act(world: &World, filter: Value, action: &str, more: Value) -> (u64, u64) {
    let mut request = json!({ "filter": filter, "action": action });
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let done = world.post("/tasks/bulk-action", request).await.ok();
    (done["matched"].as_u64().unwrap(), done["changed"].as_u64().unwrap())
}

/// A dry run counts and changes nothing; the run itself does what the dry run counted.
#[tokio::test]
async fn the_same_is_done_to_many_and_counted_before() {
    let world = world().await;
    let new = async || world.get("/queues/q/stats").await.ok()["counts"]["new"].clone();
    let dry = json!({ "dry_run": true });
    let ended = json!({ "queue": "q", "state": ["failed", "succeeded"] });
    assert_eq!(act(&world, ended.clone(), "retry", dry.clone()).await, (3, 2));
    assert_eq!(new().await, 6);
    assert_eq!(act(&world, ended, "retry", json!({})).await, (3, 2));
    assert_eq!(new().await, 8);
    let waiting = json!({ "queue": "q", "state": ["new"] });
    let until = json!({ "value": world.now().plus_seconds(60) });
    assert_eq!(act(&world, waiting.clone(), "postpone", until).await, (8, 8));
    assert_eq!(new().await, 0);
    world.pass_time(60).await;
    assert_eq!(act(&world, waiting.clone(), "set_priority", json!({ "value": 3 })).await.0, 8);
    assert_eq!(world.get("/tasks?queue=q&state=new&priority=3").await.ok()["items"].as_array().unwrap().len(), 8);
    let kazan = json!({ "queue": "q", "payload": { "customer.city": "Kazan" } });
    let (matched, changed) = act(&world, kazan, "move", json!({ "value": "other" })).await;
    assert_eq!(matched, 6);
    let other = world.get("/queues/other/stats").await.ok()["counts"].clone();
    assert_eq!(other.as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum::<u64>(), 1 + changed);
    let (matched, changed) = act(&world, json!({ "queue": "q" }), "delete", json!({})).await;
    let left = world.get("/tasks?queue=q").await.ok();
    assert_eq!(each(&left, "state").len() as u64, matched - changed);
    assert!(each(&left, "state").iter().all(|state| state == "in_progress"));
}

/// Who has begun to do something to many tasks is known although it may not have come to its end.
#[tokio::test]
async fn that_a_bulk_action_begins_is_in_the_audit_trail() {
    let world = world().await;
    let filter = json!({ "queue": "q", "state": ["new"] });
    act(&world, filter.clone(), "delete", json!({ "dry_run": true })).await;
    assert!(each(&world.get("/audit?noun=task").await.ok(), "verb").is_empty());
    act(&world, filter, "delete", json!({})).await;
    let acts = world.get("/audit?noun=task").await.ok();
    assert_eq!(each(&acts, "verb"), ["bulk_action", "begin_bulk_action"]);
    assert_eq!(acts["items"][1]["after"]["request"]["action"], "delete");
}

/// What the other queue does not take stays where it is, and is counted.
#[tokio::test]
async fn only_what_a_queue_takes_is_moved_to_it() {
    let world = World::new().await;
    world.queue("q", json!({})).await;
    world.queue("strict", json!({ "payload_schema": { "required": ["a"] }, "unique_references": true })).await;
    world.add("strict", json!({ "payload": { "a": 0 }, "reference": "R" })).await;
    let unfit = world.add("q", json!({ "payload": {} })).await;
    world.add("q", json!({ "payload": { "a": 1 } })).await;
    let double = world.add("q", json!({ "payload": { "a": 2 }, "reference": "R" })).await;
    let two = [2, 3].map(|n| world.add("q", json!({ "payload": { "a": n }, "reference": "S" })));
    let two = futures::future::join_all(two).await;
    let mut wish = json!({ "filter": { "queue": "q" }, "action": "move", "value": "strict", "dry_run": true });
    let counted = world.post("/tasks/bulk-action", wish.clone()).await.ok();
    assert_eq!(counted, json!({ "matched": 5, "changed": 2, "not_taken": 3 }));
    wish["dry_run"] = json!(false);
    assert_eq!(world.post("/tasks/bulk-action", wish).await.ok(), counted, "just what the dry run told");
    let left = each(&world.get("/tasks?queue=q").await.ok(), "id");
    let of_two = left.iter().find(|id| two.iter().any(|one| one == *id)).expect("one of the two is left");
    assert_eq!(left, [of_two.clone(), double.into(), unfit.into()]);
}

/// A task whose payload was changed after the action has found it, and fits no longer, is left alone.
#[tokio::test]
async fn what_no_longer_fits_is_left_alone() {
    let (armed, reached, go) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()), Arc::new(Notify::new()));
    let gate = (Arc::clone(&armed), Arc::clone(&reached), Arc::clone(&go));
    let world = World::with_db(rules(), |engine, clock, randomness| {
        let pace = move || {
            let (armed, reached, go) = gate.clone();
            let wait = async move {
                if armed.swap(false, Ordering::SeqCst) {
                    reached.notify_one();
                    go.notified().await;
                }
            };
            wait.boxed()
        };
        Db::paced(engine, clock, randomness, Box::new(pace))
    })
    .await;
    world.queue("q", json!({})).await;
    let changed = world.add("q", json!({ "payload": { "s": "old" } })).await;
    let renamed = world.add("q", json!({ "payload": { "s": "old" } })).await;
    world.add("q", json!({ "payload": { "s": "old" } })).await;
    // That the key was used is written beside the calls, and must not be what is held up.
    settle().await;
    armed.store(true, Ordering::SeqCst);
    let meanwhile = async {
        reached.notified().await;
        world.patch(&format!("/tasks/{changed}"), json!({ "payload": { "s": "keep" } })).await.ok();
        world.patch(&format!("/tasks/{renamed}"), json!({ "name": "n" })).await.ok();
        go.notify_one();
    };
    let old = json!({ "queue": "q", "payload": { "s": "old" } });
    let (done, ()) = futures::join!(act(&world, old, "delete", json!({})), meanwhile);
    assert_eq!(done, (3, 2));
    assert_eq!(each(&world.get("/tasks?queue=q").await.ok(), "id"), [changed]);
}

#[tokio::test]
async fn bulk_actions_say_what_is_wrong() {
    let world = world().await;
    let all = json!({ "queue": "q" });
    for (action, value) in [
        ("set_priority", json!(4)),
        ("set_priority", Value::Null),
        ("postpone", json!("tomorrow")),
        ("move", json!("none")),
        ("retry", json!(1)),
    ] {
        let request = json!({ "filter": all, "action": action, "value": value });
        world.post("/tasks/bulk-action", request).await.expect(422).invalid(&["/value"]);
    }
    let unknown = json!({ "filter": { "queu": "q" }, "action": "retry" });
    world.post("/tasks/bulk-action", unknown).await.expect(422).invalid(&["/filter/queu"]);
    let none = json!({ "filter": { "queue": "none" }, "action": "retry" });
    world.post("/tasks/bulk-action", none).await.expect(422).invalid(&["/filter/queue"]);
}
