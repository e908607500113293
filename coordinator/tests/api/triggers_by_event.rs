//! Triggers that fire when something happens: once each time, for what they are about, and not on what they do themselves.

use drover_coordinator::background;
use http::Method;
use serde_json::{Value, json};

use crate::support::{Agent, Call, World, each, text};

/// Hands out what has happened, and fires for it.
async fn settle_events(world: &World) {
    for _ in 0..3 {
        background::news::pass(&world.app).await.unwrap();
        background::triggers::pass(&world.app).await.unwrap();
    }
}

async fn with_processes() -> World {
    let world = World::new().await;
    background::news::pass(&world.app).await.unwrap();
    let manifest = "[run]\ncommand = [\"sh\", \"main.sh\"]\n[requires]\nqueues = [\"q\"]\nstorages = [\"f\"]";
    for name in ["work", "clean"] {
        world.process_with(name, json!({}), &[("main.sh", "true"), ("process.toml", manifest)]).await;
    }
    world
}

async fn make(world: &World, name: &str, event: Value, more: Value) -> Value {
    let mut trigger = json!({ "name": name, "process": "clean", "target": { "group": "all" }, "kind": "event",
        "event": event });
    trigger.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.post("/triggers", trigger).await.created()
}

/// Inputs of the trigger's jobs, oldest first.
async fn inputs(world: &World, trigger: &str) -> Vec<Value> {
    let page = world.get(&format!("/jobs?trigger={trigger}&limit=1000")).await.ok();
    let mut found = Vec::new();
    for job in page["items"].as_array().unwrap().iter().rev() {
        found.push(world.job(&text(job, "/id")).await["input"].clone());
    }
    found
}

/// Runs the next job of the agent to its end.
async fn run_next(agent: &Agent, fails: bool) -> String {
    let (job, attempt) = agent.run().await;
    match fails {
        true => agent.fail(&job, attempt).await.done(),
        false => agent.finish(&job, attempt, json!({})).await.done(),
    }
    job
}

/// Whatever a process has written as its error: a trigger is told of it, and so is whoever comes after it.
#[tokio::test]
async fn an_error_of_control_characters_holds_nobody_up() {
    let world = with_processes().await;
    let agent = world.agent("r").await;
    make(&world, "t", json!({ "on": "job_finished", "process": "work" }), json!({})).await;
    let message = "E\0".repeat(8 * 1024);
    for _ in 0..2 {
        world.start("work").await;
        let (job, attempt) = agent.run().await;
        let cause = json!({ "by": "process", "code": "exit_code", "message": "\u{1}".repeat(4 * 1024) });
        let error = json!({ "kind": "application", "message": message });
        agent.finish(&job, attempt, json!({ "outcome": "failed", "cause": cause, "error": error })).await.done();
        settle_events(&world).await;
        world.move_clock(1);
        run_next(&agent, false).await;
    }
    let inputs = inputs(&world, "t").await;
    let told: Vec<&Value> = inputs.iter().map(|input| &input["event"]["error"]["message"]).collect();
    assert_eq!(told, [&json!(message), &json!(message)]);
}

#[tokio::test]
async fn a_job_that_ends_starts_another_one_and_tells_it_so() {
    let world = with_processes().await;
    let agent = world.agent("r").await;
    let event = json!({ "on": "job_finished", "process": "work", "outcome": "failed" });
    let made = make(&world, "t", event, json!({ "input": { "depth": 1 } })).await;
    assert_eq!((&made["overlap"], &made["event"]["own_jobs"]), (&json!("allow"), &json!(false)));
    for fails in [false, true, true] {
        world.start("work").await;
        let job = run_next(&agent, fails).await;
        settle_events(&world).await;
        if fails {
            let newest = inputs(&world, "t").await.pop().unwrap();
            let event = &newest["event"];
            assert_eq!((&newest["depth"], &event["object_id"]), (&json!(1), &json!(job)));
            assert_eq!((&event["type"], &event["outcome"]), (&json!("job.finished"), &json!("failed")));
            assert_eq!((&event["process"], &event["error"]["message"]), (&json!("work"), &json!("it broke")));
            world.move_clock(1);
            // The job that was started for it is no job of the process, and is out of the way.
            run_next(&agent, false).await;
        }
    }
    settle_events(&world).await;
    assert_eq!(inputs(&world, "t").await.len(), 2);
    let rows = world.get("/triggers/t/history").await.ok();
    assert_eq!(each(&rows, "reason"), ["it has happened", "it has happened"]);
    assert!(rows["items"][0]["event_id"].is_string());
}

/// However often the loops run, and however many of them, each event fires once for each trigger.
#[tokio::test]
async fn many_events_of_one_moment_all_fire() {
    let world = with_processes().await;
    let agent = world.agent_with("r", json!({ "capacity": 60 })).await;
    for name in ["a", "b"] {
        make(&world, name, json!({ "on": "job_finished", "process": "work" }), json!({})).await;
    }
    let start = json!({ "process": "work", "target": { "group": "all" }, "count": 50 });
    world.post("/jobs", start).await.created();
    for _ in 0..50 {
        run_next(&agent, false).await;
    }
    let news = || background::news::pass(&world.app);
    let fires = || background::triggers::pass(&world.app);
    for _ in 0..6 {
        let (a, b, c, d) = tokio::join!(news(), fires(), news(), fires());
        a.and(b).and(c).and(d).unwrap();
    }
    for name in ["a", "b"] {
        let mut jobs: Vec<String> =
            inputs(&world, name).await.iter().map(|input| text(input, "/event/object_id")).collect();
        assert_eq!(jobs.len(), 50, "{name}");
        jobs.sort();
        jobs.dedup();
        assert_eq!(jobs.len(), 50, "{name}");
    }
}

/// What a trigger has started must not start it again, however long the way round is.
#[tokio::test]
async fn a_trigger_does_not_fire_on_its_own_jobs_unless_asked() {
    let world = with_processes().await;
    world.queue("q", json!({})).await;
    world.post("/storages", json!({ "name": "f" })).await.created();
    let agent = world.agent("r").await;
    for (name, event) in [
        ("job", json!({ "on": "job_finished" })),
        ("task", json!({ "on": "task_failed" })),
        ("file", json!({ "on": "file_added" })),
    ] {
        make(&world, name, event, json!({})).await;
        world.act(&format!("/triggers/{name}/fire")).await.created();
        let (job, assignment) = agent.take().await;
        agent.accept(&job, 1).await.ok();
        let key = text(&assignment, "/key");
        let call = |method, path: &str| Call::new(world.router.clone(), method, path).key(&key);
        world.add("q", json!({})).await;
        let taken = call(Method::POST, "/queues/q/take").json(&json!({})).send().await.ok();
        let task = text(&taken, "/items/0/id");
        let end = json!({ "attempt": 1, "kind": "business", "message": "no" });
        call(Method::POST, &format!("/tasks/{task}/fail")).json(&end).send().await.ok();
        call(Method::PUT, "/storages/f/files/x").body("x").send().await.created();
        agent.finish(&job, 1, json!({})).await.done();
        settle_events(&world).await;
        assert_eq!(inputs(&world, name).await.len(), 1, "{name}: only what a person has fired");
        world.patch(&format!("/triggers/{name}"), json!({ "event": { "own_jobs": true } })).await.ok();
        world.act(&format!("/triggers/{name}/disable")).await.ok();
        world.delete("/storages/f/files/x").await.done();
    }
    // Asked for, it does.
    world.act("/triggers/job/enable").await.ok();
    world.act("/triggers/job/fire").await.created();
    run_next(&agent, false).await;
    settle_events(&world).await;
    assert_eq!(inputs(&world, "job").await.len(), 3);
}

/// A file that is moved stays that of its maker, and is added by whoever moves it: a job that clears its inbox by moving
/// files does not start its own trigger, and what a job has made is new where a person puts it.
#[tokio::test]
async fn who_moves_a_file_has_added_it() {
    let world = with_processes().await;
    world.post("/storages", json!({ "name": "f" })).await.created();
    let agent = world.agent("r").await;
    make(&world, "t", json!({ "on": "file_added", "folder": "f" }), json!({})).await;
    world.put_file("f", "a.csv", "1;2").await.created();
    settle_events(&world).await;
    let (job, assignment) = agent.take().await;
    agent.accept(&job, 1).await.ok();
    let key = text(&assignment, "/key");
    let moved = json!({ "path": "a.csv", "to_path": "done/a.csv" });
    world.call(Method::POST, "/storages/f/move").key(&key).json(&moved).send().await.created();
    world.call(Method::PUT, "/storages/f/files/res.csv").key(&key).body("3").send().await.created();
    agent.finish(&job, 1, json!({})).await.done();
    settle_events(&world).await;
    assert_eq!(inputs(&world, "t").await.len(), 1, "only for what a person has put there");

    world.move_clock(1);
    let moved = json!({ "path": "res.csv", "to_path": "new/res.csv" });
    let moved = world.post("/storages/f/move", moved).await.created();
    assert_eq!(text(&moved, "/created_by"), format!("job:{job}"));
    settle_events(&world).await;
    let inputs = inputs(&world, "t").await;
    assert_eq!(inputs.len(), 2, "a person has moved it");
    let event = &inputs[1]["event"];
    assert_eq!((text(event, "/path"), text(event, "/created_by")), ("new/res.csv".to_owned(), format!("job:{job}")));
    assert!(text(event, "/added_by").starts_with("user:"), "{event}");
}

/// Two triggers that move files to each other come to an end like those that fire on each other's jobs.
#[tokio::test]
async fn files_that_jobs_move_to_and_fro_come_to_an_end() {
    let world = with_processes().await;
    let manifest = "[run]\ncommand = [\"sh\", \"main.sh\"]\n[requires]\nstorages = [\"f\", \"g\"]";
    world.process_with("mover", json!({}), &[("main.sh", "true"), ("process.toml", manifest)]).await;
    let agent = world.agent("r").await;
    for folder in ["f", "g"] {
        world.post("/storages", json!({ "name": folder })).await.created();
        let event = json!({ "on": "file_added", "folder": folder });
        make(&world, folder, event, json!({ "process": "mover" })).await;
    }
    world.put_file("f", "a", "x").await.created();
    settle_events(&world).await;
    for round in 0..10 {
        let (from, to) = if round % 2 == 0 { ("f", "g") } else { ("g", "f") };
        let (job, assignment) = agent.take().await;
        agent.accept(&job, 1).await.ok();
        let moved = json!({ "path": "a", "to_path": "a", "to_folder": to });
        let call = world.call(Method::POST, &format!("/storages/{from}/move")).key(&text(&assignment, "/key"));
        call.json(&moved).send().await.created();
        agent.finish(&job, 1, json!({})).await.done();
        settle_events(&world).await;
        world.move_clock(1);
    }
    let rows = world.get("/triggers/f/history").await.ok();
    assert_eq!(rows["items"][0]["decision"], "skipped", "{rows}");
    assert!(text(&rows, "/items/0/reason").contains("10 times in a row"), "{rows}");
}

/// Two triggers that fire on each other's jobs do not go on for ever: the history says where they ended, and why. What a
/// person starts begins anew.
#[tokio::test]
async fn triggers_that_fire_on_each_others_jobs_come_to_an_end() {
    let world = with_processes().await;
    let agent = world.agent("r").await;
    for (name, on, starts) in [("ping", "work", "clean"), ("pong", "clean", "work")] {
        let event = json!({ "on": "job_finished", "process": on });
        make(&world, name, event, json!({ "process": starts })).await;
    }
    let fired = async |name: &str| inputs(&world, name).await.len();
    world.start("work").await;
    for round in 0..=10 {
        assert_eq!(fired("ping").await + fired("pong").await, round);
        run_next(&agent, false).await;
        settle_events(&world).await;
        world.move_clock(1);
    }
    assert_eq!((fired("ping").await, fired("pong").await), (5, 5));
    let rows = world.get("/triggers/ping/history").await.ok();
    assert_eq!(rows["items"][0]["decision"], "skipped");
    assert!(text(&rows, "/items/0/reason").contains("10 times in a row"), "{rows}");
    assert!(rows["items"][0]["event_id"].is_string());
    assert_eq!(each(&rows, "decision")[1..], ["fired"; 5]);

    world.start("work").await;
    run_next(&agent, false).await;
    settle_events(&world).await;
    assert_eq!(fired("ping").await, 6);
}

#[tokio::test]
async fn tasks_files_and_robots_are_events_as_well() {
    let world = with_processes().await;
    world.queue("q", json!({})).await;
    world.queue("other", json!({})).await;
    for folder in ["f", "g"] {
        world.post("/storages", json!({ "name": folder })).await.created();
    }
    world.post("/robot-groups", json!({ "name": "some" })).await.created();
    let (inside, outside) = (world.agent("inside").await, world.agent("outside").await);
    world.call(Method::PUT, &format!("/robot-groups/some/robots/{}", inside.id)).send().await;
    make(&world, "task", json!({ "on": "task_failed", "queue": "q" }), json!({})).await;
    make(&world, "file", json!({ "on": "file_added", "folder": "f" }), json!({})).await;
    make(&world, "robot", json!({ "on": "robot_offline", "group": "some" }), json!({})).await;
    for queue in ["q", "other"] {
        world.add(queue, json!({ "reference": queue })).await;
        let (task, attempt) = world.take_one(queue).await;
        let end = json!({ "attempt": attempt, "kind": "business", "message": "no" });
        world.on_task(&task, "fail", end).await.ok();
    }
    for folder in ["f", "g"] {
        world.put_file(folder, "in/a.csv", "1;2").await.created();
    }
    inside.beat(&[]).await;
    outside.beat(&[]).await;
    world.pass_time(200).await;
    settle_events(&world).await;
    let task = inputs(&world, "task").await;
    assert_eq!((task.len(), &task[0]["event"]["reference"]), (1, &json!("q")));
    let file = inputs(&world, "file").await;
    assert_eq!((file.len(), &file[0]["event"]["path"]), (1, &json!("in/a.csv")));
    let robot = inputs(&world, "robot").await;
    assert_eq!((robot.len(), &robot[0]["event"]["name"]), (1, &json!("inside")));
}

/// Nothing is kept for what nobody wants, and a trigger that is off or gone wants nothing.
#[tokio::test]
async fn only_enabled_triggers_are_told() {
    let world = with_processes().await;
    let agent = world.agent("r").await;
    make(&world, "t", json!({ "on": "job_finished", "process": "work" }), json!({ "enabled": false })).await;
    let end_one = async || {
        world.start("work").await;
        run_next(&agent, false).await;
        settle_events(&world).await;
        inputs(&world, "t").await.len()
    };
    assert_eq!(end_one().await, 0);
    world.act("/triggers/t/enable").await.ok();
    assert_eq!(end_one().await, 1);
    run_next(&agent, false).await;
    world.act("/triggers/t/disable").await.ok();
    assert_eq!(end_one().await, 1);
    world.act("/triggers/t/enable").await.ok();
    assert_eq!(end_one().await, 2);
    world.delete("/triggers/t").await.done();
    settle_events(&world).await;
    let mixed = json!({ "name": "n", "process": "clean", "target": { "group": "all" }, "kind": "event",
        "event": { "on": "file_added", "queue": "q", "outcome": "failed" } });
    world.post("/triggers", mixed.clone()).await.invalid(&["/event/queue"]);
    world.queue("q", json!({})).await;
    world.post("/triggers", mixed).await.invalid(&["/event/outcome", "/event/queue"]);
    let none = json!({ "name": "n", "process": "clean", "target": { "group": "all" }, "kind": "event" });
    world.post("/triggers", none).await.invalid(&["/event"]);
}

/// Its own job may be gone before anybody hears that it has ended.
#[tokio::test]
async fn an_own_job_that_was_deleted_at_once_does_not_fire() {
    let world = with_processes().await;
    let agent = world.agent("r").await;
    let event = json!({ "on": "job_finished", "process": "work" });
    make(&world, "t", event, json!({ "process": "work" })).await;
    world.start("work").await;
    run_next(&agent, false).await;
    settle_events(&world).await;
    let own = run_next(&agent, false).await;
    world.delete(&format!("/jobs/{own}")).await.done();
    settle_events(&world).await;
    let rows = world.get("/triggers/t/history").await.ok();
    assert_eq!(each(&rows, "reason"), ["it has happened"]);
}

/// One that starts no more jobs says so of each event, and keeps none for later.
#[tokio::test]
async fn events_beyond_the_limit_are_told_as_skipped() {
    let world = with_processes().await;
    let agent = world.agent("r").await;
    make(&world, "t", json!({ "on": "job_finished", "process": "work" }), json!({ "max_runs": 1 })).await;
    for _ in 0..3 {
        world.start("work").await;
    }
    for _ in 0..3 {
        run_next(&agent, false).await;
        settle_events(&world).await;
    }
    let rows = each(&world.get("/triggers/t/history").await.ok(), "decision");
    let of = |decision: &str| rows.iter().filter(|row| *row == decision).count();
    assert_eq!((of("fired"), of("skipped")), (1, 2));
    world.patch("/triggers/t", json!({ "max_runs": 9 })).await.ok();
    settle_events(&world).await;
    assert_eq!(inputs(&world, "t").await.len(), 1, "nothing was kept for later");
}
