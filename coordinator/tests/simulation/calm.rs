//! When faults have ended and everybody is there, work begins and ends at once: whoever waits is woken, and does not find
//! out with its next long poll.

use std::{rc::Rc, time::Duration};

use drover_coordinator::domain::job::State;
use drover_protocol::{JobId, job::JobState};
use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    people::{MAX_PARALLEL, must},
    world::{ROBOTS, World},
};

/// Far longer than the network needs, far shorter than a poll or a heartbeat.
const AT_ONCE: Duration = Duration::from_secs(2);

async fn start(world: &Rc<World>, process: &str, target: Value, seconds: u64) -> JobId {
    let input = json!({"seconds": seconds, "obeys": 1});
    let job = must(world, Method::POST, "/jobs", json!({"process": process, "target": target, "input": input})).await;
    job["id"].as_str().and_then(|id| id.parse().ok()).expect("an id")
}

fn state(world: &World, job: JobId) -> JobState {
    world.disk.witness.lock().job(job).expect("the job is there").state.kind()
}

async fn at_once(world: &World, job: JobId, wanted: JobState, when: &str) {
    let began = Instant::now();
    while state(world, job) != wanted {
        assert!(began.elapsed() < AT_ONCE, "{when}, {job} is {:?} and not {wanted:?}", state(world, job));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn stop(world: &Rc<World>, job: JobId) {
    must(world, Method::POST, &format!("/jobs/{job}/stop"), json!({"mode": "abort"})).await;
    at_once(world, job, JobState::Finished, "told to abort").await;
}

/// Needs that all jobs have finished and nothing is on its way any more.
pub async fn everything_is_prompt(world: &Rc<World>) {
    let alive = (0..ROBOTS).filter(|robot| world.dead.get() != Some(*robot));
    let robots: Vec<String> = alive.map(|robot| format!("robot-{robot}")).collect();
    for robot in &robots {
        starts_and_ends(world, json!({"robot": robot})).await;
        waits_for_a_resume(world, robot).await;
        waits_for_the_end_of_a_pause(world, robot).await;
        due_in_time(world, robot).await;
    }
    starts_and_ends(world, json!({"group": "all"})).await;
    starts_and_ends(world, json!({"group": "some"})).await;
    one_after_another(world, &robots).await;
}

async fn starts_and_ends(world: &Rc<World>, target: Value) {
    let job = start(world, "plain", target, 60).await;
    at_once(world, job, JobState::Running, "just started").await;
    stop(world, job).await;
}

async fn waits_for_a_resume(world: &Rc<World>, robot: &str) {
    must(world, Method::POST, &format!("/robots/{robot}/pause"), json!({"mode": "drain", "reason": "updates"})).await;
    let job = start(world, "plain", json!({"robot": robot}), 60).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(state(world, job), JobState::Waiting, "{robot} is paused and takes a job");
    must(world, Method::POST, &format!("/robots/{robot}/resume"), Value::Null).await;
    at_once(world, job, JobState::Running, "its robot resumed").await;
    stop(world, job).await;
}

async fn waits_for_the_end_of_a_pause(world: &Rc<World>, robot: &str) {
    use drover_coordinator::clock::Clock;
    let pause = json!({"mode": "stop", "reason": "updates", "until": world.clock.now().plus_seconds(8)});
    must(world, Method::POST, &format!("/robots/{robot}/pause"), pause).await;
    let job = start(world, "plain", json!({"robot": robot}), 60).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(state(world, job), JobState::Waiting, "{robot} is paused and takes a job");
    tokio::time::sleep(Duration::from_secs(2)).await;
    at_once(world, job, JobState::Running, "the pause of its robot over").await;
    stop(world, job).await;
}

async fn due_in_time(world: &Rc<World>, robot: &str) {
    use drover_coordinator::clock::Clock;
    let input = json!({"seconds": 60});
    let new = json!({"process": "plain", "target": {"robot": robot}, "input": input,
        "not_before": world.clock.now().plus_seconds(7), "abort_after": world.clock.now().plus_seconds(15)});
    let job = must(world, Method::POST, "/jobs", new).await;
    let job: JobId = job["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(state(world, job), JobState::Waiting, "it was to wait");
    tokio::time::sleep(Duration::from_secs(2)).await;
    at_once(world, job, JobState::Running, "its time come").await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    at_once(world, job, JobState::Finished, "its abort_after past").await;
}

/// Of a limited process the next begins as soon as one has ended, also on a robot that had nothing to do with that one.
async fn one_after_another(world: &Rc<World>, robots: &[String]) {
    let mut jobs = Vec::new();
    for robot in robots.iter().cycle().take(MAX_PARALLEL as usize) {
        let job = start(world, "limited", json!({"robot": robot}), 60).await;
        at_once(world, job, JobState::Running, "within the limit").await;
        jobs.push(job);
    }
    let last = start(world, "limited", json!({"robot": robots[robots.len() - 1]}), 60).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let waits = matches!(world.disk.witness.lock().job(last).expect("it is there").state, State::Waiting { .. });
    assert!(waits, "{last} is one more than may be active");
    stop(world, jobs[0]).await;
    at_once(world, last, JobState::Running, "another of its process ended").await;
    for job in jobs.into_iter().skip(1).chain([last]) {
        stop(world, job).await;
    }
}
