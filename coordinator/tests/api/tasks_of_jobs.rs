//! Tasks that a job works on: what its key reaches, its heartbeat as their renewal, and its end as theirs.

use drover_coordinator::{
    error::Error,
    operations::{self, key},
    store::{Reader, Tx, key::SYSTEM_ACCOUNT},
};
use drover_protocol::task::TakeTasks;
use http::Method;
use serde_json::{Value, json};

use crate::support::{Agent, Answer, Call, World, text};

const MANIFEST: &str = "[run]\ncommand = [\"true\"]\n[requires]\nqueues = [\"q\"]\n";

/// A running job that may work on the queue `q`.
struct Working {
    world: World,
    agent: Agent,
    job: String,
    key: String,
}

impl Working {
    async fn new(queue: Value) -> Self {
        let world = World::new().await;
        world.queue("q", queue).await;
        let agent = world.agent("r").await;
        let defaults = json!({ "retry": { "max_attempts": 2, "on": ["failed"] } });
        world.process_with("p", defaults, &[("process.toml", MANIFEST)]).await;
        world.start("p").await;
        let (job, assignment) = agent.take().await;
        agent.accept(&job, 1).await.ok();
        Self { world, agent, job, key: text(&assignment, "/key") }
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        Call::new(self.world.router.clone(), Method::POST, path).key(&self.key).json(&body).send().await
    }

    async fn take(&self, max: u32) -> Vec<Value> {
        self.post("/queues/q/take", json!({ "max": max })).await.ok()["items"].as_array().unwrap().clone()
    }

    async fn state(&self, task: &str) -> String {
        text(&self.world.task(task).await, "/state")
    }
}

#[tokio::test]
async fn a_jobs_key_reaches_the_queues_that_its_version_declares() {
    let working = Working::new(json!({})).await;
    working.world.queue("secret", json!({})).await;
    let hidden = working.world.add("secret", json!({})).await;
    let made = working.post("/queues/q/tasks", json!({ "payload": 1 })).await.created();
    let taken = working.take(1).await.remove(0);
    assert_eq!(taken["id"], made["id"]);
    assert_eq!(
        (text(&taken, "/holder/job_id"), text(&taken, "/holder/robot_id")),
        (working.job.clone(), working.agent.id.clone())
    );
    for (path, body) in [
        ("/queues/secret/take".to_owned(), json!({})),
        ("/queues/secret/tasks".to_owned(), json!({ "payload": 1 })),
        (format!("/tasks/{hidden}/succeed"), json!({ "attempt": 1 })),
        (format!("/tasks/{hidden}/comment"), json!({ "comment": "x" })),
    ] {
        let refused = working.post(&path, body).await.expect(403).refused("forbidden");
        assert!(text(&refused, "/detail").contains("[requires]"), "how to declare it is told: {refused}");
    }
    let get =
        async |path: &str| Call::new(working.world.router.clone(), Method::GET, path).key(&working.key).send().await;
    get(&format!("/tasks/{hidden}")).await.expect(403);
    get("/tasks").await.expect(403);
    get("/tasks?queue=secret").await.expect(403);
    let held = get(&format!("/tasks?queue=q&job={}", working.job)).await.ok();
    assert_eq!(held["items"][0]["id"], made["id"]);
    assert_eq!(get("/queues").await.ok()["items"].as_array().unwrap().len(), 1);
    working.post("/queues", json!({ "name": "x" })).await.expect(403);
    working.post(&format!("/tasks/{}/retry", text(&made, "/id")), json!({})).await.expect(403);
}

/// A take that was on its way when its job ended takes nothing: nobody would settle it any more.
#[tokio::test]
async fn a_job_that_has_ended_meanwhile_takes_nothing() {
    let working = Working::new(json!({})).await;
    let task = working.world.add("q", json!({})).await;
    let app = &working.world.app;
    let brought = (working.key.as_str(), key::Brought::InHeader);
    let read = |reading: &Reader| key::authenticate(reading, brought, &app.secrets, &app.manifests);
    let (caller, _) = app.db.read(SYSTEM_ACCOUNT, read).unwrap();
    let request = TakeTasks::default();
    let wanted = operations::task::check_take(&request).unwrap();
    let queue = app.db.read(caller.account, |reading| operations::task::look(reading, &caller, "q")).unwrap().queue;
    working.agent.finish(&working.job, 1, json!({})).await.done();
    let taking = move |tx: &mut Tx| operations::task::take(tx, &caller, queue, &request, &wanted);
    let taken = app.db.write(working.world.account, taking).await;
    assert!(matches!(taken, Err(Error::Unauthenticated(_))), "{taken:?}");
    assert_eq!(working.state(&task).await, "new");
}

/// Only the job that holds a task ends it, even if another knows the attempt.
#[tokio::test]
async fn another_jobs_key_cannot_end_what_it_does_not_hold() {
    let working = Working::new(json!({})).await;
    let task = working.world.add("q", json!({})).await;
    working.world.take_one("q").await;
    for (verb, body) in [
        ("succeed", json!({ "attempt": 1 })),
        ("renew", json!({ "attempt": 1 })),
        ("checkpoint", json!({ "attempt": 1, "checkpoint": 0 })),
        ("comment", json!({ "attempt": 1, "comment": "mine" })),
    ] {
        working.post(&format!("/tasks/{task}/{verb}"), body).await.expect(409).refused("stale_attempt");
    }
    assert_eq!(working.state(&task).await, "in_progress");
}

/// As long as the job's heartbeats come its tasks stay its own, however short their lease; when they stop, the lease runs.
#[tokio::test]
async fn the_heartbeat_of_the_job_renews_its_tasks() {
    let working = Working::new(json!({ "lease_seconds": 200 })).await;
    let task = working.world.add("q", json!({})).await;
    working.take(1).await;
    for _ in 0..40 {
        working.world.pass_time(20).await;
        working.agent.beat(&[(&working.job, 1)]).await;
    }
    assert_eq!(working.state(&task).await, "in_progress");
    let answer = working.world.get(&format!("/tasks/{task}")).await.expect(200);
    assert_eq!(answer.header("etag"), None, "its lease goes on while its revision stays");
    let shown = text(&answer.json(), "/lease_ends_at");
    assert_eq!(shown, working.world.now().plus_seconds(200).to_string(), "a whole lease from the last heartbeat");
    working.world.pass_time(60).await;
    working.world.pass_time(139).await;
    assert_eq!(working.state(&task).await, "in_progress");
    working.world.pass_time(2).await;
    assert_eq!(working.state(&task).await, "abandoned", "the job is silent, but not lost yet");
    assert_eq!(text(&working.world.job(&working.job).await, "/state"), "silent");
}

#[tokio::test]
async fn a_lease_shorter_than_the_heartbeat_is_no_trap() {
    let working = Working::new(json!({ "lease_seconds": 1 })).await;
    let task = working.world.add("q", json!({})).await;
    working.take(1).await;
    for _ in 0..20 {
        working.world.pass_time(10).await;
        assert_eq!(working.state(&task).await, "in_progress");
        working.agent.beat(&[(&working.job, 1)]).await;
    }
}

/// What a job leaves unsettled fails with the job's error, in the moment in which the job ends.
#[tokio::test]
async fn the_end_of_a_job_settles_what_it_holds() {
    let working = Working::new(json!({ "max_attempts": 2 })).await;
    let world = &working.world;
    let tasks = [world.add("q", json!({})).await, world.add("q", json!({ "max_attempts": 1 })).await];
    let done = world.add("q", json!({})).await;
    working.take(3).await;
    working.post(&format!("/tasks/{done}/succeed"), json!({ "attempt": 1 })).await.ok();
    working.agent.fail(&working.job, 1).await.done();
    assert_eq!(working.state(&done).await, "succeeded");
    assert_eq!(working.state(&tasks[0]).await, "new", "it is tried again as the queue says");
    let failed = world.task(&tasks[1]).await;
    assert_eq!((text(&failed, "/state"), text(&failed, "/error/message")), ("failed".into(), "it broke".into()));
    assert_eq!(world.task_events(&tasks[1]).await, ["failed"]);
    // The job is tried again: its next attempt takes the task like anybody else.
    let (job, assignment) = working.agent.take().await;
    assert_eq!((job, assignment["attempt"].as_u64()), (working.job.clone(), Some(2)));
    working.agent.accept(&working.job, 2).await.ok();
    let second =
        Working { key: text(&assignment, "/key"), world: working.world, agent: working.agent, job: working.job };
    assert_eq!(second.take(9).await.len(), 1);
    second.agent.finish(&second.job, 2, json!({})).await.done();
    let left = second.world.task(&tasks[0]).await;
    assert_eq!((text(&left, "/state"), text(&left, "/error/code")), ("failed".into(), "job_ended".into()));
}

/// A lost job's tasks are settled with it, by time alone.
#[tokio::test]
async fn a_lost_job_loses_no_task() {
    let working = Working::new(json!({ "lease_seconds": 9_999 })).await;
    let task = working.world.add("q", json!({})).await;
    working.take(1).await;
    working.world.pass_time(60).await;
    working.world.pass_time(299).await;
    assert_eq!(working.state(&task).await, "in_progress");
    working.world.pass_time(1).await;
    let settled = working.world.task(&task).await;
    assert_eq!((text(&settled, "/state"), text(&settled, "/error/kind")), ("failed".into(), "application".into()));
}

/// More tasks than fit one transaction are settled by the loop.
#[tokio::test]
async fn a_job_with_many_tasks_is_settled_in_pages() {
    let working = Working::new(json!({})).await;
    for _ in 0..250 {
        working.world.add("q", json!({})).await;
    }
    for _ in 0..3 {
        working.take(100).await;
    }
    working.agent.fail(&working.job, 1).await.done();
    let counts = async || working.world.get("/queues/q/stats").await.ok()["counts"].clone();
    assert_eq!((counts().await["failed"].clone(), counts().await["in_progress"].clone()), (json!(100), json!(150)));
    working.world.pass_time(0).await;
    assert_eq!((counts().await["failed"].clone(), counts().await["in_progress"].clone()), (json!(250), json!(0)));
}

/// Where the queue does not settle, the lease decides.
#[tokio::test]
async fn a_queue_may_leave_tasks_to_their_lease() {
    let working = Working::new(json!({ "settle_with_job": false })).await;
    let task = working.world.add("q", json!({})).await;
    working.take(1).await;
    working.agent.finish(&working.job, 1, json!({})).await.done();
    assert_eq!(working.state(&task).await, "in_progress");
    working.world.pass_time(600).await;
    assert_eq!(working.state(&task).await, "abandoned");
}
