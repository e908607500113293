//! Triggers that start jobs for the tasks of a queue: how many, when, and when their jobs end.

use drover_coordinator::background;
use http::Method;
use serde_json::{Value, json};

use crate::support::{Agent, Call, World, each, text};

async fn fire(world: &World) {
    for _ in 0..5 {
        background::triggers::pass(&world.app).await.unwrap();
    }
}

/// Moves the clock so far that every trigger has rested, and lets what is due happen.
async fn rest_and_fire(world: &World) {
    world.pass_time(1).await;
    fire(world).await;
}

async fn with_queue(more: Value) -> World {
    let world = World::new().await;
    let manifest = "[run]\ncommand = [\"sh\", \"main.sh\"]\n[requires]\nqueues = [\"q\"]";
    world.process_with("p", json!({}), &[("main.sh", "true"), ("process.toml", manifest)]).await;
    world.queue("q", more).await;
    world
}

async fn make(world: &World, name: &str, settings: Value, more: Value) -> Value {
    let mut queue = json!({ "queue": "q" });
    queue.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let mut trigger = json!({ "name": name, "process": "p", "target": { "group": "all" }, "kind": "queue",
        "queue": queue });
    trigger.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.post("/triggers", trigger).await.created()
}

async fn add_many(world: &World, count: usize, more: Value) {
    let mut task = json!({ "payload": {} });
    task.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let lines = format!("{task}\n").repeat(count);
    let call = world.call(Method::POST, "/queues/q/tasks/bulk").header("content-type", "application/x-ndjson");
    call.body(lines).send().await.expect(200);
}

/// States of the trigger's jobs, oldest first.
async fn states(world: &World, trigger: &str) -> Vec<String> {
    let page = world.get(&format!("/jobs?trigger={trigger}&limit=1000")).await.ok();
    let items = page["items"].as_array().unwrap().iter().rev();
    items.map(|job| job["outcome"].as_str().or(job["state"].as_str()).unwrap().to_owned()).collect()
}

async fn unfinished(world: &World, trigger: &str) -> usize {
    let states = states(world, trigger).await;
    states.iter().filter(|state| ["waiting", "assigned", "running", "stopping"].contains(&state.as_str())).count()
}

async fn history(world: &World, trigger: &str) -> Vec<(String, String)> {
    let page = world.get(&format!("/triggers/{trigger}/history?limit=1000")).await.ok();
    let rows = page["items"].as_array().unwrap().iter().rev();
    rows.map(|row| (text(row, "/decision"), text(row, "/reason"))).collect()
}

/// Takes a task with the key of a job.
async fn take_with(world: &World, key: &str) -> Option<(String, u64)> {
    let call = Call::new(world.router.clone(), Method::POST, "/queues/q/take").key(key).json(&json!({}));
    let taken = call.send().await.ok();
    let task = taken["items"].as_array().unwrap().first()?.clone();
    Some((text(&task, "/id"), task["attempt"].as_u64().unwrap()))
}

/// The next job of the agent, running, with its key.
async fn run_next(agent: &Agent) -> (String, u64, String) {
    let (job, assignment) = agent.take().await;
    let attempt = assignment["attempt"].as_u64().unwrap();
    agent.accept(&job, attempt).await.ok();
    (job, attempt, text(&assignment, "/key"))
}

#[tokio::test]
async fn jobs_are_started_for_waiting_tasks_within_the_bounds() {
    let world = with_queue(json!({})).await;
    let made = make(&world, "t", json!({ "threshold": 3, "tasks_per_job": 10, "max_jobs": 4 }), json!({})).await;
    let expected = json!({ "queue": text(&world.get("/queues/q").await.ok(), "/id"), "tags": [], "threshold": 3,
        "tasks_per_job": 10, "min_jobs": 0, "max_jobs": 4, "end_when_empty": false });
    assert_eq!((&made["queue"], &made["next_fire_at"]), (&expected, &Value::Null));
    fire(&world).await;
    add_many(&world, 2, json!({})).await;
    rest_and_fire(&world).await;
    assert_eq!(unfinished(&world, "t").await, 0, "two are fewer than the threshold");
    add_many(&world, 1, json!({})).await;
    rest_and_fire(&world).await;
    assert_eq!(unfinished(&world, "t").await, 1);
    add_many(&world, 18, json!({})).await;
    rest_and_fire(&world).await;
    assert_eq!(unfinished(&world, "t").await, 3, "21 tasks are three jobs of ten");
    add_many(&world, 500, json!({})).await;
    rest_and_fire(&world).await;
    assert_eq!(unfinished(&world, "t").await, 4, "never more than max_jobs");
    let rows = history(&world, "t").await;
    let reasons: Vec<&str> = rows.iter().map(|(_, reason)| reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "3 tasks wait to be taken: 1 of 1 jobs were lacking",
            "21 tasks wait to be taken: 2 of 3 jobs were lacking",
            "521 tasks wait to be taken: 1 of 4 jobs were lacking",
        ]
    );
    let trigger = world.get("/triggers/t").await.ok();
    assert_eq!((&trigger["fired_count"], &trigger["revision"]), (&json!(4), &made["revision"]));
}

/// A thousand tasks that come in one moment are one look; without a rest in between there is no second one.
#[tokio::test]
async fn tasks_that_come_together_are_one_look() {
    let world = with_queue(json!({})).await;
    make(&world, "t", json!({ "tasks_per_job": 1000, "max_jobs": 9 }), json!({})).await;
    fire(&world).await;
    rest_and_fire(&world).await;
    for _ in 0..4 {
        add_many(&world, 1_000, json!({})).await;
    }
    fire(&world).await;
    assert_eq!(history(&world, "t").await.len(), 1);
    add_many(&world, 1_000, json!({})).await;
    fire(&world).await;
    assert_eq!(history(&world, "t").await.len(), 1, "it rests");
    rest_and_fire(&world).await;
    assert_eq!(history(&world, "t").await.len(), 2);
    assert_eq!(unfinished(&world, "t").await, 5);
}

/// Tasks become ready in other ways than by being added, and each of them is seen.
#[tokio::test]
async fn it_reacts_to_tasks_that_come_due_come_back_and_are_retried() {
    let world = with_queue(json!({ "max_attempts": 3, "lease_seconds": 60,
        "retry": { "abandoned": true, "delay_seconds": 0 } }))
    .await;
    let agent = world.agent_with("r", json!({ "capacity": 9 })).await;
    make(&world, "t", json!({}), json!({})).await;
    fire(&world).await;
    world.add("q", json!({ "postponed_until": "2026-11-18T11:07:00Z" })).await;
    rest_and_fire(&world).await;
    assert_eq!(unfinished(&world, "t").await, 0);
    let end_all = async || {
        let (job, attempt) = agent.run().await;
        agent.finish(&job, attempt, json!({})).await.done();
        rest_and_fire(&world).await;
    };
    world.pass_time(20).await;
    fire(&world).await;
    assert_eq!(unfinished(&world, "t").await, 1, "it has come due");
    let (task, attempt) = world.take_one("q").await;
    end_all().await;
    assert_eq!(unfinished(&world, "t").await, 0, "no task waits");
    world.on_task(&task, "fail", json!({ "attempt": attempt, "kind": "business", "message": "no" })).await.ok();
    rest_and_fire(&world).await;
    assert_eq!(unfinished(&world, "t").await, 0, "it has failed for good");
    world.act(&format!("/tasks/{task}/retry")).await.ok();
    rest_and_fire(&world).await;
    assert_eq!(unfinished(&world, "t").await, 1, "a person has it tried again");
    let (task, _) = world.take_one("q").await;
    end_all().await;
    assert_eq!(unfinished(&world, "t").await, 0);
    agent.beat(&[]).await;
    world.pass_time(61).await;
    rest_and_fire(&world).await;
    assert_eq!(world.task(&task).await["state"], "new");
    assert_eq!(unfinished(&world, "t").await, 1, "its lease has run out");
}

/// A job that ends while tasks wait is made up for, though not within a second of the last fire.
#[tokio::test]
async fn ended_jobs_are_made_up_for() {
    let world = with_queue(json!({})).await;
    let agent = world.agent_with("r", json!({ "capacity": 9 })).await;
    make(&world, "t", json!({ "max_jobs": 1 }), json!({})).await;
    add_many(&world, 5, json!({})).await;
    fire(&world).await;
    let (job, attempt) = agent.run().await;
    agent.finish(&job, attempt, json!({})).await.done();
    fire(&world).await;
    assert_eq!(states(&world, "t").await, ["succeeded"], "not twice within a second");
    rest_and_fire(&world).await;
    assert_eq!(states(&world, "t").await, ["succeeded", "waiting"]);
}

#[tokio::test]
async fn several_triggers_look_at_one_queue_each_by_its_tags() {
    let world = with_queue(json!({})).await;
    make(&world, "red", json!({ "tags": ["red"], "max_jobs": 9 }), json!({})).await;
    make(&world, "large", json!({ "tags": ["red", "large"], "max_jobs": 9 }), json!({})).await;
    make(&world, "other", json!({ "tags": ["-red"], "max_jobs": 9 }), json!({})).await;
    fire(&world).await;
    rest_and_fire(&world).await;
    add_many(&world, 3, json!({ "tags": ["red"] })).await;
    add_many(&world, 2, json!({ "tags": ["red", "large"], "priority": 3 })).await;
    add_many(&world, 1, json!({ "tags": ["blue"] })).await;
    fire(&world).await;
    rest_and_fire(&world).await;
    let counts = async || {
        [unfinished(&world, "red").await, unfinished(&world, "large").await, unfinished(&world, "other").await]
    };
    assert_eq!(counts().await, [5, 2, 1]);
    // Another tag is another task to those who look by tags.
    let page = world.get("/tasks?queue=q&tag=blue").await.ok();
    let task = text(&page["items"][0], "/id");
    world.patch(&format!("/tasks/{task}"), json!({ "tags": ["red", "large"] })).await.ok();
    rest_and_fire(&world).await;
    assert_eq!(counts().await, [6, 3, 1]);
}

/// Jobs that hold no task are stopped when none waits any more; one that holds a task is stopped when it has ended it.
#[tokio::test]
async fn jobs_end_when_the_queue_is_empty_if_that_is_wanted() {
    let world = with_queue(json!({})).await;
    let agent = world.agent_with("r", json!({ "capacity": 2 })).await;
    make(&world, "t", json!({ "max_jobs": 3, "end_when_empty": true }), json!({})).await;
    add_many(&world, 3, json!({})).await;
    fire(&world).await;
    let (idle, _, _) = run_next(&agent).await;
    let (busy, _, key) = run_next(&agent).await;
    let (task, attempt) = take_with(&world, &key).await.unwrap();
    world.take("q", 2).await;
    rest_and_fire(&world).await;
    assert_eq!(states(&world, "t").await, ["stopping", "running", "stopped"], "{idle} and {busy}");
    let cause = world.job(&idle).await["cause"].clone();
    assert_eq!(cause["code"], "stop_requested");
    assert!(text(&cause, "/message").contains("no task waits any more"), "{cause}");
    let events = world.get("/triggers/t/events").await.ok();
    assert_eq!(text(&events["items"][0], "/code"), "queue_empty");
    let end = json!({ "attempt": attempt });
    let call = Call::new(world.router.clone(), Method::POST, &format!("/tasks/{task}/succeed")).key(&key);
    call.json(&end).send().await.ok();
    rest_and_fire(&world).await;
    assert_eq!(world.job(&busy).await["state"], "stopping");
}

#[tokio::test]
async fn a_paused_queue_and_a_disabled_trigger_start_nothing() {
    let world = with_queue(json!({})).await;
    make(&world, "t", json!({}), json!({})).await;
    world.post("/queues/q/pause", json!({ "reason": "updates", "until": "2026-11-18T12:00:00Z" })).await.ok();
    add_many(&world, 1, json!({})).await;
    rest_and_fire(&world).await;
    assert_eq!(unfinished(&world, "t").await, 0);
    world.act("/triggers/t/disable").await.ok();
    world.act("/queues/q/resume").await.ok();
    rest_and_fire(&world).await;
    assert_eq!(unfinished(&world, "t").await, 0);
    world.act("/triggers/t/enable").await.ok();
    rest_and_fire(&world).await;
    assert_eq!(unfinished(&world, "t").await, 1);
    // The end of a pause is seen by itself as well.
    let world = with_queue(json!({})).await;
    make(&world, "t", json!({}), json!({})).await;
    world.post("/queues/q/pause", json!({ "reason": "updates", "until": "2026-11-18T12:00:00Z" })).await.ok();
    add_many(&world, 1, json!({})).await;
    rest_and_fire(&world).await;
    assert_eq!(unfinished(&world, "t").await, 0);
    world.pass_time(3_600).await;
    fire(&world).await;
    assert_eq!(unfinished(&world, "t").await, 1);
}

/// A trigger goes by the end of a pause as it is now, not as it was when it looked.
#[tokio::test]
async fn a_pause_may_get_another_end() {
    let pause = async |world: &World, until: Option<u64>| {
        let until = until.map(|seconds| world.now().plus_seconds(seconds));
        world.post("/queues/q/pause", json!({ "reason": "updates", "until": until })).await.ok();
    };
    for first in [None, Some(7_200)] {
        let world = with_queue(json!({})).await;
        make(&world, "t", json!({}), json!({})).await;
        pause(&world, first).await;
        add_many(&world, 1, json!({})).await;
        rest_and_fire(&world).await;
        pause(&world, Some(3_600)).await;
        rest_and_fire(&world).await;
        assert_eq!(unfinished(&world, "t").await, 0);
        world.pass_time(3_600).await;
        fire(&world).await;
        assert_eq!(unfinished(&world, "t").await, 1, "the pause was {first:?} before");
    }
}

/// What a trigger keeps running without tasks, what its own limits allow, and what a change of it does at once.
#[tokio::test]
async fn limits_and_changes_count_at_once() {
    let world = with_queue(json!({})).await;
    let kept = json!({ "threshold": 0, "min_jobs": 2, "max_jobs": 5 });
    make(&world, "t", kept, json!({ "max_parallel": 3, "max_runs": 4 })).await;
    fire(&world).await;
    assert_eq!(unfinished(&world, "t").await, 2);
    add_many(&world, 9, json!({})).await;
    rest_and_fire(&world).await;
    assert_eq!(unfinished(&world, "t").await, 3, "max_parallel");
    world.patch("/triggers/t", json!({ "max_parallel": null })).await.ok();
    fire(&world).await;
    assert_eq!(unfinished(&world, "t").await, 4, "max_runs");
    let patch = json!({ "max_runs": null, "queue": { "max_jobs": 6, "min_jobs": null } });
    let changed = world.patch("/triggers/t", patch).await.ok();
    assert_eq!((&changed["queue"]["max_jobs"], &changed["queue"]["min_jobs"]), (&json!(6), &json!(0)));
    fire(&world).await;
    assert_eq!(unfinished(&world, "t").await, 6);
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused() {
    let world = with_queue(json!({})).await;
    let refused = [
        (json!({ "queue": "none" }), "/queue/queue"),
        (json!({ "queue": "q", "min_jobs": 2 }), "/queue/min_jobs"),
        (json!({ "queue": "q", "max_jobs": 0 }), "/queue/max_jobs"),
        (json!({ "queue": "q", "tasks_per_job": 0 }), "/queue/tasks_per_job"),
        (json!({ "queue": "q", "tags": ["a"], "tasks_per_job": 100, "max_jobs": 101 }), "/queue/tags"),
        (json!({ "queue": "q", "tags": ["-"] }), "/queue/tags/0"),
        (json!({ "queue": "q", "threshold": 0, "min_jobs": 1, "end_when_empty": true }), "/queue/end_when_empty"),
        (json!({ "queue": "q", "tag": "a" }), "/queue/tag"),
    ];
    for (queue, pointer) in refused {
        let trigger = json!({ "name": "n", "process": "p", "target": { "group": "all" }, "kind": "queue",
            "queue": queue });
        world.post("/triggers", trigger).await.invalid(&[pointer]);
    }
    let without = json!({ "name": "n", "process": "p", "target": { "group": "all" }, "kind": "queue" });
    world.post("/triggers", without).await.invalid(&["/queue"]);
    for number in 0..20 {
        make(&world, &format!("t{number}"), json!({}), json!({ "enabled": false })).await;
    }
    let one_more = json!({ "name": "more", "process": "p", "target": { "group": "all" }, "kind": "queue",
        "queue": { "queue": "q" } });
    world.post("/triggers", one_more).await.invalid(&["/queue/queue"]);
    assert_eq!(each(&world.get("/triggers?kind=queue&q=t19").await.ok(), "name"), ["t19"]);
    let problem = world.delete("/queues/q").await.refused("in_use");
    assert!(text(&problem, "/detail").contains("trigger t"), "{problem}");
    for number in 0..20 {
        world.delete(&format!("/triggers/t{number}")).await.done();
    }
    world.delete("/queues/q").await.done();
}

/// Two loops at once, as two coordinators would run, start no job twice.
#[tokio::test]
async fn loops_that_run_at_once_start_nothing_twice() {
    let world = with_queue(json!({})).await;
    for number in 0..5 {
        make(&world, &format!("t{number}"), json!({ "max_jobs": 3 }), json!({})).await;
    }
    add_many(&world, 3, json!({})).await;
    let pass = || background::triggers::pass(&world.app);
    let (a, b, c) = tokio::join!(pass(), pass(), pass());
    a.and(b).and(c).unwrap();
    rest_and_fire(&world).await;
    for number in 0..5 {
        assert_eq!(unfinished(&world, &format!("t{number}")).await, 3);
    }
}
