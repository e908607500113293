//! What agents say: taking work on, renewing it, ending it; and what a job's key may do.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::support::{Agent, World, each, settle, text};

/// Ids of the jobs in an answer to `next`.
async fn given(agent: &Agent, free: u32, known: &[&str]) -> Vec<String> {
    let answer = agent.next(free, known).await;
    if answer.status == 204 {
        return Vec::new();
    }
    answer.ok()["assignments"].as_array().unwrap().iter().map(|given| text(given, "/job/id")).collect()
}

/// High priority first, then the oldest, whatever version or target they wait under.
#[tokio::test]
async fn jobs_are_given_by_priority_then_age() {
    let world = World::new().await;
    let agent = world.agent_with("r", json!({ "capacity": 20 })).await;
    let (a, b) = (world.process("a").await, world.process("b").await);
    world.post("/robot-groups", json!({ "name": "g" })).await.created();
    world.call(Method::PUT, "/robot-groups/g/robots/r").send().await.done();
    let mut expected: Vec<(i64, usize, String)> = Vec::new();
    let targets = [json!({ "group": "all" }), json!({ "group": "g" }), json!({ "robot": "r" })];
    for number in 0..18_usize {
        let priority = (number % 3 + 1) as i64;
        let process = if number % 2 == 0 { &a } else { &b };
        let more = json!({ "priority": priority, "target": targets[number / 3 % 3] });
        expected.push((-priority, number, world.start_with(process, more).await));
    }
    expected.sort();
    let expected: Vec<String> = expected.into_iter().map(|(_, _, id)| id).collect();
    let mut found = given(&agent, 1, &[]).await;
    let known: Vec<&str> = found.iter().map(String::as_str).collect();
    let rest = given(&agent, 20, &known).await;
    found.extend(rest);
    assert_eq!(found, expected);
}

/// A job meant for one robot or group is given to no other.
#[tokio::test]
async fn targets_are_kept_to() {
    let world = World::new().await;
    let (one, two) = (world.agent("one").await, world.agent("two").await);
    let process = world.process("p").await;
    let job = world.start_with(&process, json!({ "target": { "robot": two.id } })).await;
    assert_eq!(given(&one, 5, &[]).await, Vec::<String>::new());
    assert_eq!(given(&two, 5, &[]).await, [job]);
    world.post("/robot-groups", json!({ "name": "g" })).await.created();
    let job = world.start_with(&process, json!({ "target": { "group": "g" } })).await;
    assert!(given(&one, 5, &[]).await.is_empty());
    world.call(Method::PUT, "/robot-groups/g/robots/one").send().await.done();
    assert_eq!(given(&one, 5, &[]).await, [job]);
}

/// Labels of host and people are weighed against what the version requires; people's win.
#[tokio::test]
async fn labels_decide_which_robot_suits() {
    let world = World::new().await;
    let manifest = "[run]\ncommand = [\"true\"]\n[requires]\nlabels = { room = \"a\" }\n";
    world.process_with("p", json!({}), &[("process.toml", manifest)]).await;
    let agent = world.agent_with("r", json!({ "labels": { "room": "b" } })).await;
    let job = world.start("p").await;
    assert!(given(&agent, 1, &[]).await.is_empty());
    let explained = world.get(&format!("/jobs/{job}/explain")).await.ok();
    assert_eq!(explained["candidates"][0]["reasons"][0]["code"], "label_missing");
    world.patch("/robots/r", json!({ "labels": { "room": "a" } })).await.ok();
    assert_eq!(given(&agent, 1, &[]).await, [job]);
}

/// A version without a command for the host's system is not given to it.
#[tokio::test]
async fn the_system_of_the_host_decides_too() {
    let world = World::new().await;
    world.process_with("p", json!({}), &[("process.toml", "[run.windows]\ncommand = [\"run.exe\"]\n")]).await;
    let linux = world.agent("l").await;
    let windows = world.agent_with("w", json!({ "os": "windows" })).await;
    let job = world.start("p").await;
    assert!(given(&linux, 1, &[]).await.is_empty());
    assert_eq!(given(&windows, 1, &[]).await, [job]);
}

/// `max_parallel` holds over the whole fleet, and a place that becomes free is taken at once.
#[tokio::test]
async fn max_parallel_is_kept_and_a_free_place_wakes() {
    let world = World::new().await;
    let (one, two) = (world.agent("one").await, world.agent("two").await);
    let process = world.process_with("p", json!({ "max_parallel": 1 }), &[("main.sh", "true")]).await;
    let (first, second) = (world.start(&process).await, world.start(&process).await);
    let (job, attempt) = one.run().await;
    assert_eq!(job, first);
    assert!(given(&two, 1, &[]).await.is_empty());
    let explained = world.get(&format!("/jobs/{second}/explain")).await.ok();
    assert_eq!(explained["reasons"][0]["code"], "max_parallel");
    let waiting = tokio::spawn(two.next_request(1, 60, &[]).send());
    settle().await;
    assert!(!waiting.is_finished());
    one.finish(&job, attempt, json!({})).await.done();
    let answer = tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap().ok();
    assert_eq!(text(&answer, "/assignments/0/job/id"), second);
    // Raising the limit is enough as well.
    let third = world.start(&process).await;
    let waiting = tokio::spawn(one.next_request(1, 60, &[]).send());
    settle().await;
    assert!(!waiting.is_finished());
    world.patch("/processes/p", json!({ "defaults": { "max_parallel": 2 } })).await.ok();
    let answer = tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap().ok();
    assert_eq!(text(&answer, "/assignments/0/job/id"), third);
}

/// Neither the robot's capacity nor what the agent says to be free is exceeded, assignments given again included.
#[tokio::test]
async fn capacity_and_free_places_are_kept() {
    let world = World::new().await;
    let agent = world.agent_with("r", json!({ "capacity": 3 })).await;
    let process = world.process("p").await;
    for _ in 0..5 {
        world.start(&process).await;
    }
    assert!(given(&agent, 0, &[]).await.is_empty());
    let first = given(&agent, 1, &[]).await;
    assert_eq!(first.len(), 1);
    // The answer was lost: the same one is given again, and nothing beyond what is free.
    assert_eq!(given(&agent, 1, &[]).await, first);
    let both = given(&agent, 2, &[]).await;
    assert_eq!((both.len(), &both[0]), (2, &first[0]));
    let known: Vec<&str> = both.iter().map(String::as_str).collect();
    assert_eq!(given(&agent, 9, &known).await.len(), 1);
    world.patch("/robots/r", json!({ "capacity": 1 })).await.ok();
    assert_eq!(agent.beat(&[]).await["config"]["capacity"], 1);
}

/// A ready job wakes one robot and not all of them; whoever cannot take it passes it on, also one that has just gone.
#[tokio::test]
async fn a_ready_job_finds_its_robot_among_many_that_wait() {
    let world = World::new().await;
    let manifest = "[run]\ncommand = [\"true\"]\n[requires]\nlabels = { zone = \"north\" }\n";
    let picky = world.process_with("picky", json!({}), &[("process.toml", manifest)]).await;
    let easy = world.process("easy").await;
    let north = json!({ "labels": { "zone": "north" } });
    let mut waiting = Vec::new();
    for (name, host) in [("gone", json!({})), ("south", json!({})), ("north-1", north.clone()), ("north-2", north)] {
        let agent = world.agent_with(name, host).await;
        waiting.push(tokio::spawn(agent.next_request(1, 60, &[]).send()));
        settle().await;
    }
    let job = world.start(&picky).await;
    // It was woken and has not run yet.
    waiting.remove(0).abort();
    let first_north = waiting.remove(1);
    let answer = tokio::time::timeout(Duration::from_secs(5), first_north).await.unwrap().unwrap().ok();
    assert_eq!(text(&answer, "/assignments/0/job/id"), job);
    for busy in 1..=2 {
        settle().await;
        assert_eq!(waiting.iter().filter(|call| call.is_finished()).count(), busy - 1);
        world.start(&easy).await;
    }
    for call in waiting {
        let answer = tokio::time::timeout(Duration::from_secs(5), call).await.unwrap().unwrap().ok();
        assert_eq!(answer["assignments"].as_array().map(Vec::len), Some(1));
    }
}

/// Whatever can give a waiting agent something to do ends its wait.
#[tokio::test]
async fn a_waiting_agent_is_woken_at_once() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    let process = world.process("p").await;
    world.post("/robot-groups", json!({ "name": "g" })).await.created();
    #[allow(clippy::async_yields_async, reason = "the call goes on while the test does other things")]
    let wait = async |known: Vec<String>| {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let call = tokio::spawn(agent.next_request(1, 60, &known).send());
        settle().await;
        assert!(!call.is_finished());
        call
    };
    let woken = async |call: tokio::task::JoinHandle<crate::support::Answer>| {
        tokio::time::timeout(Duration::from_secs(5), call).await.expect("it was not woken").unwrap()
    };
    // A job of its group.
    let call = wait(vec![]).await;
    let job = world.start(&process).await;
    assert_eq!(text(&woken(call).await.ok(), "/assignments/0/job/id"), job);
    agent.accept(&job, 1).await.ok();
    // A stop.
    let call = wait(vec![job.clone()]).await;
    world.post(&format!("/jobs/{job}/stop"), json!({ "mode": "stop" })).await.ok();
    assert_eq!(woken(call).await.ok()["commands"], json!([{ "job_id": job, "attempt": 1, "command": "stop" }]));
    // An abort after that, which is told although the stop was.
    let call = wait(vec![job.clone()]).await;
    world.post(&format!("/jobs/{job}/stop"), json!({ "mode": "abort" })).await.ok();
    assert_eq!(woken(call).await.ok()["commands"][0]["command"], "abort");
    // A job that is taken away.
    let call = wait(vec![job.clone()]).await;
    world.post(&format!("/jobs/{job}/close"), json!({ "outcome": "lost", "reason": "gone" })).await.ok();
    assert_eq!(woken(call).await.ok()["commands"][0]["command"], "drop");
    // Entering a group for which a job waits.
    let job = world.start_with(&process, json!({ "target": { "group": "g" } })).await;
    let call = wait(vec![]).await;
    world.call(Method::PUT, "/robot-groups/g/robots/r").send().await.done();
    assert_eq!(text(&woken(call).await.ok(), "/assignments/0/job/id"), job);
    agent.accept(&job, 1).await.ok();
    agent.finish(&job, 1, json!({})).await.done();
    // Being resumed, being enabled.
    for (before, after) in [("pause", "resume"), ("disable", "enable")] {
        for object in ["/robots/r", "/robot-groups/g", "/robot-groups/all"] {
            match before {
                "pause" => world.post(&format!("{object}/pause"), json!({ "mode": "drain", "reason": "x" })).await.ok(),
                _ => world.act(&format!("{object}/{before}")).await.ok(),
            };
            let job = world.start(&process).await;
            let call = wait(vec![]).await;
            world.act(&format!("{object}/{after}")).await.ok();
            assert_eq!(text(&woken(call).await.ok(), "/assignments/0/job/id"), job, "{object} {after}");
            agent.accept(&job, 1).await.ok();
            agent.finish(&job, 1, json!({})).await.done();
        }
    }
    // The time of a job that was to start later.
    let at = world.now().plus_seconds(10).to_string();
    let job = world.start_with(&process, json!({ "not_before": at })).await;
    let call = wait(vec![]).await;
    world.pass_time(10).await;
    assert_eq!(text(&woken(call).await.ok(), "/assignments/0/job/id"), job);
    // A host that says what it lacked.
    agent.accept(&job, 1).await.ok();
    agent.finish(&job, 1, json!({})).await.done();
    let manifest = "[run]\ncommand = [\"true\"]\n[requires]\nlabels = { room = \"a\" }\n";
    world.process_with("q", json!({}), &[("process.toml", manifest)]).await;
    let job = world.start("q").await;
    let call = wait(vec![]).await;
    let host = json!({ "hostname": "r", "os": "linux", "labels": { "room": "a" } });
    let health = json!({ "memory_used_bytes": 1, "memory_total_bytes": 2, "disk_free_bytes": 3 });
    agent.post("/heartbeat", json!({ "host": host, "health": health })).await.ok();
    assert_eq!(text(&woken(call).await.ok(), "/assignments/0/job/id"), job);
}

/// The wait ends with the coordinator, and by itself with 204.
#[tokio::test(start_paused = true)]
async fn a_wait_ends_by_itself_or_with_the_coordinator() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    let started = tokio::time::Instant::now();
    agent.next_request(1, 30, &[]).send().await.done();
    assert_eq!(started.elapsed().as_secs(), 30);
    let call = tokio::spawn(agent.next_request(1, 60, &[]).send());
    settle().await;
    world.app.stopping.cancel();
    call.await.unwrap().done();
    agent.next_request(1, 61, &[]).send().await.invalid(&["/wait_seconds"]);
    agent.next_request(1001, 0, &[]).send().await.invalid(&["/free"]);
}

/// An assignment is given again until it is accepted; accepting twice is fine; the key of the attempt stays the same.
#[tokio::test]
async fn an_assignment_is_given_again_until_accepted() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    world.process("p").await;
    let job = world.start("p").await;
    let (_, first) = agent.take().await;
    let (_, again) = agent.take().await;
    assert_eq!(first, again);
    assert_eq!((first["attempt"].clone(), text(&first, "/job/state")), (json!(1), "assigned".into()));
    assert_eq!(text(&first, "/lease_ends_at"), world.now().plus_seconds(30).to_string());
    assert_eq!(agent.next(1, &[&job]).await.status, 204);
    let lease = agent.accept(&job, 1).await.ok();
    assert_eq!(text(&lease, "/lease_ends_at"), world.now().plus_seconds(60).to_string());
    agent.accept(&job, 1).await.ok();
    assert_eq!(agent.next(1, &[]).await.status, 204);
    assert_eq!(world.events(&job).await, ["created", "assigned", "accepted"]);
    assert_eq!(world.job(&job).await["tries"], 1);
}

/// Two agents with one key are one robot: what one of them holds counts for both, what both were given is run by the one that
/// was first to take it on, and by nobody twice; each may repeat itself.
#[tokio::test]
async fn two_agents_with_one_key_run_nothing_twice() {
    let world = World::new().await;
    let one = world.agent("r").await;
    world.process("p").await;
    let job = world.start("p").await;
    world.start("p").await;
    let accept =
        async |claim: &str| one.post(&format!("/jobs/{job}/accept"), json!({ "attempt": 1, "claim": claim })).await;
    assert_eq!((given(&one, 1, &[]).await, given(&one, 1, &[]).await), (vec![job.clone()], vec![job.clone()]));
    accept(&"x".repeat(65)).await.invalid(&["/claim"]);
    accept("one").await.ok();
    accept("two").await.expect(409).refused("stale_attempt");
    one.accept(&job, 1).await.expect(409).refused("stale_attempt");
    accept("one").await.ok();
    assert_eq!(one.next(1, &[]).await.status, 204, "the other agent has no place of its own");
    // What the other one says of it is taken once, whoever was first.
    one.log(&job, 1, 1, &["a", "b"]).await.ok();
    one.log(&job, 1, 1, &["other", "lines", "c"]).await.ok();
    one.finish(&job, 1, json!({})).await.done();
    one.fail(&job, 1).await.expect(409).refused("stale_attempt");
    accept("one").await.expect(409).refused("stale_attempt");
    let log = world.get(&format!("/jobs/{job}/logs")).await.ok();
    assert_eq!(each(&log, "message"), ["a", "b", "c"]);
    assert_eq!(world.events(&job).await, ["created", "assigned", "accepted", "finished", "late_report"]);
}

/// When an agent's lines were printed is kept as it says, and decides nothing.
#[tokio::test]
async fn a_clock_that_is_off_by_a_day_is_only_kept() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    world.process("p").await;
    world.start("p").await;
    let (job, _) = agent.run().await;
    let day = 24 * 60 * 60;
    let times = [world.now().plus_seconds(day), world.now().minus_seconds(day)].map(|time| time.to_string());
    for (number, time) in times.iter().enumerate() {
        let line = json!({ "time": time, "level": "info", "message": "x" });
        let chunk = json!({ "attempt": 1, "first_seq": number + 1, "lines": [line] });
        agent.post(&format!("/jobs/{job}/logs"), chunk).await.ok();
    }
    world.pass_time(59).await;
    assert_eq!(world.job(&job).await["state"], "running");
    agent.finish(&job, 1, json!({})).await.done();
    let log = world.get(&format!("/jobs/{job}/logs")).await.ok();
    assert_eq!(each(&log, "time"), times);
    assert_eq!(text(&world.job(&job).await, "/finished_at"), world.now().to_string());
}

#[tokio::test]
async fn other_robots_and_invented_jobs_are_not_found() {
    let world = World::new().await;
    let (one, two) = (world.agent("one").await, world.agent("two").await);
    world.process("p").await;
    world.start("p").await;
    let (job, attempt) = one.run().await;
    let nobody = "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f";
    for (id, number) in [(job.as_str(), attempt), (nobody, 1), ("x", 1)] {
        two.accept(id, number).await.expect(404).refused("not_found");
        two.finish(id, number, json!({})).await.expect(404);
        two.finish(id, number, json!({ "output": { "a": 1 } })).await.expect(404);
        two.log(id, number, 1, &["x"]).await.expect(404);
        two.put(id, "x.txt", b"x").await.expect(404);
    }
    one.accept(&job, 7).await.expect(409).refused("stale_attempt");
    one.finish(&job, 7, json!({})).await.expect(409).refused("stale_attempt");
    let answer = two.beat(&[(&job, 1), (nobody, 3)]).await;
    let dropped =
        |id: &str, attempt: u32| json!({ "job_id": id, "attempt": attempt, "renewed": false, "command": "drop" });
    assert_eq!(answer["jobs"], json!([dropped(&job, 1), dropped(nobody, 3)]));
    assert_eq!(two.next(1, &[nobody]).await.status, 204);
    assert_eq!(world.job(&job).await["state"], "running");
}

/// Ending twice with the same result is success; with another it is refused, and kept once as an event.
#[tokio::test]
async fn ends_are_taken_once() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    world.process("p").await;
    world.start("p").await;
    let (job, attempt) = agent.run().await;
    let exit = json!({ "code": 0, "meaning": "success" });
    let usage = json!({ "peak_memory_bytes": 5, "cpu_time_ms": 7 });
    let report = json!({ "output": { "sum": 3 }, "exit": exit, "usage": usage });
    agent.finish(&job, attempt, report.clone()).await.done();
    agent.finish(&job, attempt, report).await.done();
    let ended = world.job(&job).await;
    assert_eq!((text(&ended, "/state"), text(&ended, "/outcome")), ("finished".into(), "succeeded".into()));
    assert_eq!(
        (ended["output"].clone(), ended["exit"].clone(), ended["usage"].clone()),
        (json!({ "sum": 3 }), exit, usage)
    );
    let late = json!({ "outcome": "stopped", "output": { "sum": 4 } });
    for _ in 0..2 {
        agent.finish(&job, attempt, late.clone()).await.expect(409).refused("stale_attempt");
    }
    let newest = world.get(&format!("/jobs/{job}/events?limit=1")).await.ok();
    assert_eq!(newest["items"][0]["output"], json!({ "sum": 4 }), "what came too late can be read");
    let events = world.events(&job).await;
    assert_eq!(events, ["created", "assigned", "accepted", "finished", "late_report"]);
    assert_eq!(world.job(&job).await, ended);
}

/// Reports have limits that are said; a success that contradicts itself is refused.
#[tokio::test]
async fn reports_have_limits() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    world.process("p").await;
    world.start("p").await;
    let (job, attempt) = agent.run().await;
    let finish = async |more: Value| agent.finish(&job, attempt, more).await;
    let problem = finish(json!({ "output": "x".repeat(1024 * 1024) })).await.expect(413).refused("too_large");
    assert!(text(&problem, "/detail").contains("file"), "{problem}");
    finish(json!({ "output": "x".repeat(3 * 1024 * 1024) })).await.expect(413);
    let error = json!({ "kind": "application", "message": "m" });
    finish(json!({ "error": error })).await.invalid(&["/error"]);
    let long = json!({ "kind": "application", "message": "m".repeat(17_000) });
    finish(json!({ "outcome": "failed", "error": long })).await.invalid(&["/error/message"]);
    finish(json!({ "outcome": "perhaps" })).await.invalid(&["/outcome"]);
    finish(json!({ "exit": { "meaning": "m".repeat(5_000) } })).await.invalid(&["/exit/meaning"]);
    assert_eq!(world.job(&job).await["state"], "running");
    let largest = "x".repeat(1024 * 1024 - 2);
    finish(json!({ "output": largest })).await.done();
    assert_eq!(world.job(&job).await["output"].as_str().unwrap().len(), 1024 * 1024 - 2);
}

/// A success whose output is not as its schema says is a failure, in the same words when it is repeated.
#[tokio::test]
async fn outputs_are_held_against_their_schema() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    let manifest = "[run]\ncommand = [\"true\"]\n[output]\nschema = \"out.json\"\n";
    let schema = r#"{"type": "object", "required": ["sum"], "properties": {"sum": {"type": "integer"}}}"#;
    world.process_with("p", json!({}), &[("process.toml", manifest), ("out.json", schema)]).await;
    world.start("p").await;
    let (job, attempt) = agent.run().await;
    for _ in 0..2 {
        agent.finish(&job, attempt, json!({ "output": { "sum": "a secret" } })).await.done();
    }
    let ended = world.job(&job).await;
    assert_eq!((text(&ended, "/outcome"), text(&ended, "/cause/code")), ("failed".into(), "output_invalid".into()));
    assert!(text(&ended, "/error/message").contains("/sum") && !ended["error"].to_string().contains("a secret"));
    world.start("p").await;
    let (job, attempt) = agent.run().await;
    agent.finish(&job, attempt, json!({ "output": { "sum": 1 } })).await.done();
    assert_eq!(world.job(&job).await["outcome"], "succeeded");
}

/// A job's key reaches its own job and nothing else, and dies with its attempt.
#[tokio::test]
async fn a_jobs_key_lives_for_its_attempt() {
    let world = World::new().await;
    let agent = world.agent_with("r", json!({ "capacity": 2 })).await;
    world.process("p").await;
    let other = world.start("p").await;
    agent.run().await;
    world.start("p").await;
    let (job, assignment) = agent.take().await;
    let key = text(&assignment, "/key");
    let get = async |path: &str| world.call(Method::GET, path).key(&key).send().await;
    for below in ["", "/attempts", "/events", "/explain"] {
        get(&format!("/jobs/{job}{below}")).await.ok();
        get(&format!("/jobs/{other}{below}")).await.expect(404);
    }
    get("/jobs").await.expect(403);
    get("/robots").await.expect(403);
    agent.accept(&job, 1).await.ok();
    get(&format!("/jobs/{job}")).await.ok();
    agent.finish(&job, 1, json!({})).await.done();
    get(&format!("/jobs/{job}")).await.expect(401);
    // The key of another attempt is another one.
    world.act(&format!("/jobs/{job}/retry")).await.ok();
    let (_, again) = agent.take().await;
    assert_ne!(text(&again, "/key"), key);
    get(&format!("/jobs/{job}")).await.expect(401);
    let new = text(&again, "/key");
    world.call(Method::GET, &format!("/jobs/{job}")).key(&new).send().await.ok();
    world.pass_time(30).await;
    world.call(Method::GET, &format!("/jobs/{job}")).key(&new).send().await.expect(401);
}

/// Heartbeats renew every lease that is listed, tell commands, and keep progress.
#[tokio::test]
async fn heartbeats_renew_and_tell() {
    let world = World::new().await;
    let agent = world.agent_with("r", json!({ "capacity": 3 })).await;
    world.process("p").await;
    for _ in 0..2 {
        world.start("p").await;
    }
    let ((one, _), (two, _)) = (agent.run().await, agent.run().await);
    world.move_clock(50);
    let answer = agent.beat(&[(&one, 1), (&two, 1)]).await;
    assert_eq!((answer["lease_seconds"].clone(), answer["next_in_seconds"].clone()), (json!(60), json!(20)));
    assert_eq!(text(&answer, "/server_time"), world.now().to_string());
    assert_eq!(text(&answer, "/robot/state"), "busy");
    let lease = world.now().plus_seconds(60).to_string();
    assert_eq!(text(&world.job(&two).await, "/lease_ends_at"), lease);
    world.post(&format!("/jobs/{one}/stop"), json!({ "mode": "stop" })).await.ok();
    let answer = agent.beat(&[(&one, 1), (&two, 1)]).await;
    assert_eq!(each(&json!({ "items": answer["jobs"] }), "command"), [json!("stop"), Value::Null]);
    let health = json!({ "memory_used_bytes": 1, "memory_total_bytes": 2, "disk_free_bytes": 3 });
    let with = async |progress: Value| {
        let held = json!([{ "job_id": two, "attempt": 1, "phase": "running", "progress": progress }]);
        agent.post("/heartbeat", json!({ "health": health, "jobs": held })).await
    };
    with(json!({ "percent": 40.5, "text": "половина" })).await.ok();
    assert_eq!(world.job(&two).await["progress"], json!({ "percent": 40.5, "text": "половина" }));
    with(json!({ "percent": 101 })).await.invalid(&["/jobs/0/progress/percent"]);
    with(json!({ "text": "x".repeat(513) })).await.invalid(&["/jobs/0/progress/text"]);
    // Colours of a terminal are no reason to refuse the leases of all jobs.
    with(json!({ "text": "\u{1b}[32m10%" })).await.ok();
    assert_eq!(world.job(&two).await["progress"]["text"], " [32m10%");
}

/// A machine id is no credential: a token for another robot does not take over the one that joined from it.
#[tokio::test]
async fn a_token_of_another_robot_takes_nobody_over() {
    let world = World::new().await;
    let first = world.agent("first").await;
    let advance = world.post("/robots", json!({ "name": "advance" })).await.created();
    world.join(&text(&advance, "/join_token"), "first", None, json!({})).await.refused("wrong_state");
    let once = text(&world.post("/join-tokens", json!({ "uses": 1 })).await.created(), "/token");
    world.join(&once, "second", None, json!({})).await.created();
    world.join(&once, "first", None, json!({})).await.refused("unauthenticated");
    world.join(&once, "second", None, json!({})).await.created();
    let health = json!({ "memory_used_bytes": 1, "memory_total_bytes": 2, "disk_free_bytes": 3 });
    first.post("/heartbeat", json!({ "health": health, "jobs": [] })).await.ok();
}

/// Nor does a token for the robots of a group: whoever may make one gets no hold of the robots of other groups.
#[tokio::test]
async fn a_token_of_another_group_takes_nobody_over() {
    let world = World::new().await;
    for name in ["ours", "theirs"] {
        world.post("/robot-groups", json!({ "name": name })).await.created();
    }
    let token = async |more: Value| text(&world.post("/join-tokens", more).await.created(), "/token");
    let (ours, theirs) = (token(json!({ "group": "ours" })).await, token(json!({ "group": "theirs" })).await);
    world.join(&theirs, "machine", Some("r"), json!({})).await.created();
    let problem = world.join(&ours, "machine", None, json!({})).await.refused("wrong_state");
    assert!(text(&problem, "/detail").contains("add the robot to the group"), "{problem}");
    let groups = async || world.get("/robots/r").await.ok()["groups"].as_array().unwrap().len();
    let before = groups().await;
    for good in [&theirs, &token(json!({})).await, &token(json!({ "group": "theirs" })).await] {
        world.join(good, "machine", None, json!({})).await.created();
    }
    assert_eq!(groups().await, before);
    world.call(http::Method::PUT, "/robot-groups/ours/robots/r").send().await.done();
    world.join(&ours, "machine", None, json!({})).await.created();
}

/// A late copy of the call that joined a host must not shut out its agent: the key in use ends when a newer one is used,
/// and not when that is made. Answers that were lost leave few keys behind.
#[tokio::test]
async fn a_late_copy_of_joining_shuts_nobody_out() {
    let world = World::new().await;
    let token = text(&world.post("/join-tokens", json!({ "uses": 1 })).await.created(), "/token");
    let health = json!({ "memory_used_bytes": 1, "memory_total_bytes": 2, "disk_free_bytes": 3 });
    let mut keys = Vec::new();
    for _ in 0..6 {
        let joined = world.join(&token, "host", None, json!({})).await.created();
        keys.push(Agent { router: world.router.clone(), key: text(&joined, "/key"), id: text(&joined, "/robot/id") });
    }
    let beat = async |agent: &Agent| agent.post("/heartbeat", json!({ "health": health, "jobs": [] })).await;
    beat(&keys[0]).await.refused("unauthenticated");
    beat(&keys[1]).await.refused("unauthenticated");
    beat(&keys[4]).await.ok();
    settle().await;
    beat(&keys[3]).await.refused("unauthenticated");
    world.join(&token, "host", None, json!({})).await.created();
    beat(&keys[4]).await.ok();
    beat(&keys[2]).await.refused("unauthenticated");
    beat(&keys[5]).await.ok();
    settle().await;
    beat(&keys[4]).await.refused("unauthenticated");
}

/// Documents travel inside of others; one that an agent could not read would stop all that comes with it.
#[tokio::test]
async fn an_input_that_no_agent_could_read_is_refused() {
    let world = World::new().await;
    world.process("deep").await;
    let nested: Value = serde_json::from_str(&format!("{}1{}", "[".repeat(70), "]".repeat(70))).unwrap();
    let request = json!({ "process": "deep", "target": { "group": "all" }, "input": { "nested": nested } });
    world.post("/jobs", request).await.invalid(&["/input"]);
}

/// A job that runs may have to wait again: its group stays until it has finished.
#[tokio::test]
async fn a_group_outlives_the_jobs_that_run_for_it() {
    let world = World::new().await;
    world.process("p").await;
    world.post("/robot-groups", json!({ "name": "g" })).await.created();
    let agent = world.agent("r").await;
    world.call(http::Method::PUT, "/robot-groups/g/robots/r").send().await;
    let job = world.start_with("p", json!({ "target": { "group": "g" } })).await;
    agent.next_request(1, 0, &[]).send().await.ok();
    world.delete("/robot-groups/g/robots/r").await;
    world.delete("/robot-groups/g").await.refused("in_use");
    world.post(&format!("/jobs/{job}/close"), json!({ "outcome": "failed", "reason": "done" })).await.ok();
    assert_eq!(world.delete("/robot-groups/g").await.status, 204);
}
