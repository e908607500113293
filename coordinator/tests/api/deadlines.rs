//! What happens to jobs by time: acceptance, leases, silence, loss, retries, limits and graces. The clock is moved by
//! hand, never slept for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use drover_coordinator::{
    background,
    store::{
        Db,
        engine::{Engine, EngineError, View, WriteSet},
        memory::Memory,
    },
};
use drover_protocol::AccountId;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Agent, World, each, package, rules, text};

async fn world() -> (World, Agent) {
    let world = World::new().await;
    let agent = world.agent_with("r", json!({ "capacity": 5 })).await;
    world.process("p").await;
    (world, agent)
}

async fn state(world: &World, job: &str) -> String {
    let job = world.job(job).await;
    match job["outcome"].as_str() {
        Some(outcome) => format!("{} {}", outcome, text(&job, "/cause/code")),
        None => text(&job, "/state"),
    }
}

/// Not accepted in time: it waits again, the attempt is spent, but it was no try.
#[tokio::test]
async fn what_is_not_accepted_waits_again() {
    let (world, agent) = world().await;
    let job = world.start("p").await;
    agent.take().await;
    world.pass_time(29).await;
    assert_eq!(state(&world, &job).await, "assigned");
    world.pass_time(1).await;
    let waiting = world.job(&job).await;
    assert_eq!(
        (text(&waiting, "/state"), waiting["attempt"].clone(), waiting["tries"].clone()),
        ("waiting".into(), json!(1), json!(0))
    );
    agent.accept(&job, 1).await.expect(409).refused("stale_attempt");
    let (_, again) = agent.take().await;
    assert_eq!(again["attempt"], 2);
    agent.accept(&job, 1).await.expect(409).refused("stale_attempt");
    agent.accept(&job, 2).await.ok();
    assert_eq!(world.job(&job).await["tries"], 1);
    let attempts = world.get(&format!("/jobs/{job}/attempts")).await.ok();
    assert_eq!(attempts["items"][0]["outcome"], Value::Null);
    assert_eq!(attempts["items"][0]["accepted_at"], Value::Null);
    assert!(attempts["items"][0]["ended_at"].is_string() && attempts["items"][1]["ended_at"].is_null());
}

/// Attempts are listed oldest first in pages, and not one of them is left out.
#[tokio::test]
async fn attempts_are_listed_in_pages() {
    let (world, agent) = world().await;
    let job = world.start("p").await;
    for _ in 0..52 {
        agent.take().await;
        world.pass_time(30).await;
    }
    let first = world.get(&format!("/jobs/{job}/attempts")).await.ok();
    assert_eq!(each(&first, "attempt").len(), 50);
    let (mut numbers, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = world.get(&format!("/jobs/{job}/attempts?limit=20{cursor}")).await.ok();
        numbers.extend(each(&page, "attempt"));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(numbers, (1..=52).map(Value::from).collect::<Vec<_>>());
    assert_eq!(each(&world.get(&format!("/jobs/{job}/attempts?limit=1000")).await.ok(), "attempt"), numbers);
    world.get(&format!("/jobs/{job}/attempts?limit=0")).await.invalid(&["limit"]);
    world.get(&format!("/jobs/{job}/attempts?cursor=x")).await.expect(400);
    world.get(&format!("/jobs/{job}/attempts?state=lost")).await.invalid(&["state"]);
}

/// An agent that never accepts uses up attempts without end; nothing of a thousand of them is lost or left behind.
#[tokio::test]
async fn more_than_a_thousand_attempts_are_no_trouble() {
    let (world, agent) = world().await;
    let job = world.start("p").await;
    for _ in 0..1_010 {
        agent.take().await;
        world.pass_time(30).await;
    }
    let (_, assignment) = agent.take().await;
    let attempt = assignment["attempt"].as_u64().unwrap();
    assert_eq!(attempt, 1_011);
    agent.accept(&job, attempt).await.ok();
    world.post(&format!("/jobs/{job}/close"), json!({ "outcome": "lost", "reason": "x" })).await.ok();
    let told = agent.next(1, &[&job]).await.ok();
    assert_eq!(told["commands"], json!([{ "job_id": job, "attempt": attempt, "command": "drop" }]));
    world.delete(&format!("/jobs/{job}")).await.done();
    let id: uuid::Uuid = job.parse().unwrap();
    assert_eq!(world.mentions(id.as_bytes()), 0);
}

/// Silent after its lease, back with the same attempt when the robot is heard of, lost if it never is.
#[tokio::test]
async fn silence_return_and_loss() {
    let (world, agent) = world().await;
    world.start("p").await;
    let (job, _) = agent.run().await;
    world.pass_time(59).await;
    assert_eq!(state(&world, &job).await, "running");
    world.pass_time(1).await;
    assert_eq!(state(&world, &job).await, "silent");
    world.pass_time(299).await;
    let back = agent.beat(&[(&job, 1)]).await;
    assert_eq!(back["jobs"][0]["renewed"], true);
    assert_eq!(state(&world, &job).await, "running");
    world.pass_time(60).await;
    world.pass_time(300).await;
    assert_eq!(state(&world, &job).await, "lost robot_silent");
    assert_eq!(world.job(&job).await["error"]["kind"], "infrastructure");
    // By default nothing runs twice.
    assert_eq!(agent.beat(&[(&job, 1)]).await["jobs"][0]["command"], "drop");
    agent.finish(&job, 1, json!({ "output": { "paid": true } })).await.expect(409).refused("stale_attempt");
    let events = world.events(&job).await;
    let expected = [
        "created",
        "assigned",
        "accepted",
        "robot_silent",
        "robot_came_back",
        "robot_silent",
        "finished",
        "late_report",
    ];
    assert_eq!(events, expected);
    assert_eq!(state(&world, &job).await, "lost robot_silent");
}

/// A silent job can be finished by the robot that had it.
#[tokio::test]
async fn a_silent_job_can_end_well() {
    let (world, agent) = world().await;
    world.start("p").await;
    let (job, attempt) = agent.run().await;
    world.pass_time(200).await;
    agent.finish(&job, attempt, json!({})).await.done();
    assert_eq!(state(&world, &job).await, "succeeded completed");
}

/// Each outcome that the process names is tried again, after the delay, as often as it says; nothing else is.
#[tokio::test]
async fn retries_follow_the_process() {
    let (world, agent) = world().await;
    let retry = json!({ "max_attempts": 3, "on": ["failed", "lost", "timed_out"], "delay_seconds": 10 });
    world.process_with("q", json!({ "retry": retry, "timeout_seconds": 100 }), &[("main.sh", "true")]).await;
    let job = world.start("q").await;
    agent.run().await;
    agent.fail(&job, 1).await.done();
    let waiting = world.job(&job).await;
    assert_eq!(text(&waiting, "/not_before"), world.now().plus_seconds(10).to_string());
    assert_eq!(text(&waiting, "/state"), "waiting");
    assert_eq!(agent.next(1, &[]).await.status, 204);
    let explained = world.get(&format!("/jobs/{job}/explain")).await.ok();
    assert_eq!(explained["reasons"][0]["code"], "not_before");
    world.pass_time(10).await;
    let (_, attempt) = agent.run().await;
    assert_eq!(attempt, 2);
    // What the attempt before has left is not shown as if it were of this one.
    let running = world.job(&job).await;
    assert_eq!((running["error"].clone(), running["exit"].clone()), (Value::Null, Value::Null));
    world.pass_time(60).await;
    world.pass_time(300).await;
    world.pass_time(10).await;
    assert_eq!(agent.run().await, (job.clone(), 3));
    agent.fail(&job, 3).await.done();
    assert_eq!(state(&world, &job).await, "failed exit_code");
    let attempts = world.get(&format!("/jobs/{job}/attempts")).await.ok();
    let outcomes: Vec<Value> = crate::support::each(&attempts, "outcome");
    assert_eq!(outcomes, ["failed", "lost", "failed"]);
}

#[tokio::test]
async fn business_errors_are_not_tried_again() {
    let (world, agent) = world().await;
    let retry = json!({ "max_attempts": 3, "on": ["failed"] });
    world.process_with("q", json!({ "retry": retry }), &[("main.sh", "true")]).await;
    let job = world.start("q").await;
    agent.run().await;
    let error = json!({ "kind": "business", "code": "no_money", "message": "the account is empty" });
    let cause = json!({ "by": "process", "code": "business_error", "message": "the account is empty" });
    agent.finish(&job, 1, json!({ "outcome": "failed", "error": error, "cause": cause })).await.done();
    assert_eq!(state(&world, &job).await, "failed business_error");
    // A person may well want it again; that is one more attempt of the same job.
    world.act(&format!("/jobs/{job}/retry")).await.ok();
    assert_eq!(agent.run().await, (job.clone(), 2));
    agent.finish(&job, 2, json!({})).await.done();
    assert_eq!(world.job(&job).await["error"], Value::Null);
    world.start("q").await;
    let (other, _) = agent.run().await;
    world.act(&format!("/jobs/{other}/retry")).await.expect(409).refused("wrong_state");
}

/// Who asked for the end gets it: a process that fails on its way out is not started again.
#[tokio::test]
async fn a_stopped_job_is_not_tried_again() {
    let (world, agent) = world().await;
    let retry = json!({ "max_attempts": 3, "on": ["failed", "lost", "timed_out"] });
    world.process_with("q", json!({ "retry": retry }), &[("main.sh", "true")]).await;
    for mode in ["stop", "abort"] {
        let job = world.start("q").await;
        agent.run().await;
        world.post(&format!("/jobs/{job}/stop"), json!({ "mode": mode })).await.ok();
        agent.fail(&job, 1).await.done();
        assert_eq!(state(&world, &job).await, "failed exit_code", "{mode}");
    }
}

/// A soft stop ends in order, or is forced when its grace is over, or ends without the agent's word.
#[tokio::test]
async fn stops_end_whatever_the_agent_does() {
    let (world, agent) = world().await;
    let start = async || {
        world.start("p").await;
        let (job, _) = agent.run().await;
        world.post(&format!("/jobs/{job}/stop"), json!({ "mode": "stop" })).await.ok();
        assert_eq!(state(&world, &job).await, "stopping");
        job
    };
    let stopped = json!({ "by": "agent", "code": "stop_requested", "message": "it ended" });
    let job = start().await;
    agent.finish(&job, 1, json!({ "outcome": "stopped", "cause": stopped })).await.done();
    assert_eq!(state(&world, &job).await, "stopped stop_requested");
    assert!(text(&world.job(&job).await, "/cause/by").starts_with("user:"));
    // The agent forces it by itself.
    let job = start().await;
    let forced = json!({ "by": "agent", "code": "stop_grace_exceeded", "message": "killed" });
    agent.finish(&job, 1, json!({ "outcome": "aborted", "cause": forced })).await.done();
    assert_eq!(state(&world, &job).await, "aborted stop_grace_exceeded");
    // The coordinator forces it, the agent confirms.
    let job = start().await;
    world.pass_time(30).await;
    assert_eq!(agent.beat(&[(&job, 1)]).await["jobs"][0]["command"], "abort");
    let aborted = json!({ "by": "agent", "code": "abort_requested", "message": "killed" });
    agent.finish(&job, 1, json!({ "outcome": "aborted", "cause": aborted })).await.done();
    assert_eq!(state(&world, &job).await, "aborted stop_grace_exceeded");
    // Nobody confirms.
    let job = start().await;
    world.pass_time(30).await;
    world.pass_time(30).await;
    assert_eq!(state(&world, &job).await, "aborted stop_grace_exceeded");
    // Success before the stop arrived stays success.
    let job = start().await;
    agent.finish(&job, 1, json!({})).await.done();
    assert_eq!(state(&world, &job).await, "succeeded completed");
}

/// Stop and abort work in every state but finished.
#[tokio::test]
async fn stop_and_abort_in_every_state() {
    let (world, agent) = world().await;
    let ask = async |job: &str, mode: &str| world.post(&format!("/jobs/{job}/stop"), json!({ "mode": mode })).await;
    for (mode, outcome) in [("stop", "stopped stop_requested"), ("abort", "aborted abort_requested")] {
        let waiting = world.start("p").await;
        ask(&waiting, mode).await.ok();
        assert_eq!(state(&world, &waiting).await, outcome);
        ask(&waiting, mode).await.expect(409).refused("wrong_state");
        let at = world.now().plus_seconds(1000).to_string();
        let later = world.start_with("p", json!({ "not_before": at })).await;
        ask(&later, mode).await.ok();
        assert_eq!(state(&world, &later).await, outcome);
        let assigned = world.start("p").await;
        agent.take().await;
        ask(&assigned, mode).await.ok();
        assert_eq!(state(&world, &assigned).await, outcome);
        agent.accept(&assigned, 1).await.expect(409).refused("stale_attempt");
        world.start("p").await;
        let (silent, _) = agent.run().await;
        world.pass_time(60).await;
        ask(&silent, mode).await.ok();
        assert_eq!(state(&world, &silent).await, "stopping");
        world.pass_time(30).await;
        world.pass_time(30).await;
        let ended = state(&world, &silent).await;
        assert!(ended == "aborted stop_grace_exceeded" || ended == "aborted end_unconfirmed", "{ended}");
    }
    world.start("p").await;
    let (job, _) = agent.run().await;
    ask(&job, "abort").await.ok();
    let revision = world.job(&job).await["revision"].clone();
    // An abort is not weakened, and asking twice changes nothing.
    for mode in ["stop", "abort"] {
        assert_eq!(ask(&job, mode).await.ok()["revision"], revision);
    }
    world.pass_time(30).await;
    assert_eq!(state(&world, &job).await, "aborted end_unconfirmed");
    let late = json!({ "by": "agent", "code": "abort_requested", "message": "killed" });
    agent.finish(&job, 1, json!({ "outcome": "aborted", "cause": late })).await.expect(409);
}

/// The time limit is the agent's to keep; the coordinator steps in a little later.
#[tokio::test]
async fn time_limits_are_kept_by_both() {
    let (world, agent) = world().await;
    let start = async || {
        world.start_with("p", json!({ "timeout_seconds": 50 })).await;
        agent.run().await.0
    };
    let job = start().await;
    let cause = json!({ "by": "agent", "code": "timeout", "message": "50 s" });
    agent.finish(&job, 1, json!({ "outcome": "timed_out", "cause": cause })).await.done();
    assert_eq!(state(&world, &job).await, "timed_out timeout");
    let job = start().await;
    world.pass_time(54).await;
    assert_eq!(state(&world, &job).await, "running");
    world.pass_time(1).await;
    assert_eq!(state(&world, &job).await, "stopping");
    let aborted = json!({ "by": "agent", "code": "abort_requested", "message": "killed" });
    agent.finish(&job, 1, json!({ "outcome": "aborted", "cause": aborted })).await.done();
    assert_eq!(state(&world, &job).await, "timed_out timeout");
    let job = start().await;
    for seconds in [55, 30, 30] {
        world.pass_time(seconds).await;
    }
    assert_eq!(state(&world, &job).await, "timed_out timeout");
    // The version's own limit holds if nobody says otherwise, the process's wins over it.
    world
        .upload("p", "?activate=true", &package(&[("process.toml", "[run]\ncommand=[\"x\"]\ntimeout = \"7s\"\n")]))
        .await
        .created();
    let job = world.start("p").await;
    assert_eq!(world.job(&job).await["timeout_seconds"], 7);
    world.patch("/processes/p", json!({ "defaults": { "timeout_seconds": 9 } })).await.ok();
    let job = world.start("p").await;
    assert_eq!(world.job(&job).await["timeout_seconds"], 9);
}

/// `stop_after` and `abort_after` hold in every state.
#[tokio::test]
async fn limits_of_the_clock_hold_in_every_state() {
    let (world, agent) = world().await;
    for (field, code, outcome) in [("stop_after", "stop_after", "stopped"), ("abort_after", "abort_after", "aborted")] {
        let at = world.now().plus_seconds(20).to_string();
        let running = world.start_with("p", json!({ field: at })).await;
        agent.run().await;
        let assigned = world.start_with("p", json!({ field: at })).await;
        agent.take().await;
        let waiting = world.start_with("p", json!({ field: at })).await;
        world.pass_time(20).await;
        for job in [&assigned, &waiting] {
            assert_eq!(state(&world, job).await, format!("{outcome} {code}"));
        }
        assert_eq!(state(&world, &running).await, "stopping");
        let cause = json!({ "by": "agent", "code": "stop_requested", "message": "ended" });
        agent.finish(&running, 1, json!({ "outcome": outcome, "cause": cause })).await.done();
        assert_eq!(state(&world, &running).await, format!("{outcome} {code}"));
        world.post("/jobs", json!({ "process": "p", "target": { "group": "all" }, field: at })).await.expect(422);
        // A further attempt is not ended by the limit that has passed.
        world.act(&format!("/jobs/{running}/retry")).await.ok();
        assert_eq!(agent.run().await, (running.clone(), 2));
        agent.finish(&running, 2, json!({})).await.done();
    }
}

/// A job of a deleted target cannot be tried again: nobody could ever take it.
#[tokio::test]
async fn a_retry_without_a_target_is_refused() {
    let (world, _) = world().await;
    let agent = world.agent("gone").await;
    world.start_with("p", json!({ "target": { "robot": "gone" } })).await;
    let (job, _) = agent.run().await;
    agent.fail(&job, 1).await.done();
    world.delete("/robots/gone").await.done();
    world.act(&format!("/jobs/{job}/retry")).await.expect(409).refused("wrong_state");
    world.post("/robot-groups", json!({ "name": "g" })).await.created();
    let job = world.start_with("p", json!({ "target": { "group": "g" } })).await;
    world.post(&format!("/jobs/{job}/stop"), json!({ "mode": "stop" })).await.ok();
    world.delete("/robot-groups/g").await.done();
    world.act(&format!("/jobs/{job}/retry")).await.expect(409).refused("wrong_state");
}

/// An operator ends what nobody else ends, in any state but finished.
#[tokio::test]
async fn an_operator_closes_a_job() {
    let (world, agent) = world().await;
    world.start("p").await;
    let (job, _) = agent.run().await;
    let close = async |reason: &str| {
        let body = json!({ "outcome": "succeeded", "reason": reason });
        world.post(&format!("/jobs/{job}/close"), body).await
    };
    close("  ").await.invalid(&["/reason"]);
    close("done by hand").await.ok();
    let ended = world.job(&job).await;
    assert_eq!(
        (text(&ended, "/outcome"), text(&ended, "/cause/code")),
        ("succeeded".into(), "closed_by_operator".into())
    );
    assert!(text(&ended, "/cause/message").contains("done by hand"));
    close("again").await.expect(409).refused("wrong_state");
    assert_eq!(agent.next(1, &[&job]).await.ok()["commands"][0]["command"], "drop");
}

/// A record that cannot be read, in one account, holds up no loop in the accounts after it.
#[tokio::test]
async fn a_broken_record_holds_up_no_other_account() {
    let mut world = World::new().await;
    let admins = [world.admin.clone(), world.new_account(AccountId::from_uuid(Uuid::from_u128(0xacc1)), "other").await];
    let mut jobs = Vec::new();
    for admin in &admins {
        world.admin.clone_from(admin);
        world.process("p").await;
        let stop_after = world.now().plus_seconds(60).to_string();
        jobs.push(world.start_with("p", json!({ "stop_after": stop_after })).await);
    }
    let id: Uuid = jobs[0].parse().unwrap();
    let own = |(key, _): &(Vec<u8>, Vec<u8>)| key.starts_with(b"jb") && key.ends_with(id.as_bytes());
    let (key, record) = world.pairs().into_iter().find(own).unwrap();
    let put = |value: Vec<u8>| world.engine.exclusive(&mut |_| [(key.clone(), Some(value.clone()))].into()).unwrap();
    put(vec![1, 0xc1]);
    world.move_clock(61);
    background::deadlines::pass(&world.app).await.expect_err("the broken record is told of");
    assert_eq!(world.job(&jobs[1]).await["state"], "finished");
    put(record);
    background::deadlines::pass(&world.app).await.unwrap();
    world.admin.clone_from(&admins[0]);
    assert_eq!(world.job(&jobs[0]).await["state"], "finished");
}

/// The memory engine on a disk that can be full.
struct Disk {
    memory: Arc<Memory>,
    full: AtomicBool,
    refused: AtomicU64,
}

impl Engine for Disk {
    fn view(&self) -> Box<dyn View + '_> {
        self.memory.view()
    }

    fn exclusive(&self, body: &mut dyn FnMut(&dyn View) -> WriteSet) -> Result<(), EngineError> {
        if self.full.load(Ordering::Relaxed) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(EngineError::OutOfSpace);
        }
        self.memory.exclusive(body)
    }
}

/// What is due and cannot be done is tried again each second, neither a thousand times in it nor never.
#[tokio::test(start_paused = true)]
async fn a_deadline_that_cannot_be_kept_does_not_keep_the_coordinator_busy() {
    let mut engine = None;
    let world = World::with_db(rules(), |memory, clock, randomness| {
        let disk = Arc::new(Disk { memory, full: AtomicBool::new(false), refused: AtomicU64::new(0) });
        engine = Some(Arc::clone(&disk));
        Db::inline(disk, clock, randomness)
    })
    .await;
    let disk = engine.unwrap();
    let agent = world.agent("r").await;
    world.process("p").await;
    let job = world.start("p").await;
    agent.take().await;
    world.move_clock(31);
    disk.full.store(true, Ordering::Relaxed);
    let deadlines = tokio::spawn(background::deadlines::run(Arc::clone(&world.app)));
    tokio::time::sleep(Duration::from_millis(9_500)).await;
    let refused = disk.refused.load(Ordering::Relaxed);
    assert!((9..=12).contains(&refused), "it was tried {refused} times in 9.5 s");
    disk.full.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(state(&world, &job).await, "waiting");
    world.app.stopping.cancel();
    deadlines.await.unwrap();
}
