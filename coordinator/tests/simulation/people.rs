//! People and programs who use the API: they start, stop, pause, retry, close and delete, and read what became of it.

use std::{rc::Rc, time::Duration};

use axum::body::Body as HttpBody;
use bytes::Bytes;
use drover_agent::{
    attempt::AttemptId,
    transport::{Body, Request, Transport},
};
use drover_protocol::{JobId, Timestamp, log::LogPage, problem::Problem, robot::Host};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    network::{Answer, Network, deliver},
    workers,
    world::{ADMIN_KEY, ROBOTS, World},
};

const PROCESSES: [&str; 3] = ["plain", "tried again", "limited"];
/// Most jobs at once of the process that is limited.
pub const MAX_PARALLEL: u64 = 2;
/// Most tries of the process that is tried again.
pub const MAX_TRIES: u32 = 3;

/// A call as it is on the wire, over the network of people; `None` if no answer came.
pub async fn send(world: &Rc<World>, method: Method, path: &str, headers: HeaderMap, body: Bytes) -> Option<Answer> {
    let request = Request {
        method,
        path: format!("/api/v1{path}"),
        key: Some(ADMIN_KEY.into()),
        headers,
        body: Body::Bytes(body),
        timeout: None,
    };
    let network = Network { world: Rc::clone(world), robot: None };
    let answer = network.call(request).await.ok()?;
    let body: Vec<Bytes> = answer.body.map(|piece| piece.expect("a simulated body is whole")).collect().await;
    Some(Answer { status: answer.status, headers: answer.headers, body: body.concat().into() })
}

/// The same again until an answer comes that a repetition would not change.
pub async fn persist(world: &Rc<World>, method: Method, path: &str, headers: HeaderMap, body: Bytes) -> Option<Answer> {
    for _ in 0..8 {
        let answer = send(world, method.clone(), path, headers.clone(), body.clone()).await;
        if let Some(answer) = answer.filter(|answer| !is_passing(answer.status)) {
            return Some(answer);
        }
        tokio::time::sleep(Duration::from_millis(world.below(8_000))).await;
    }
    None
}

fn json_headers() -> HeaderMap {
    HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"))])
}

fn parsed(body: &Bytes) -> Value {
    if body.is_empty() { Value::Null } else { serde_json::from_slice(body).expect("an answer is JSON") }
}

async fn call(world: &Rc<World>, method: Method, path: &str, body: Value) -> Option<(StatusCode, Value)> {
    let answer = send(world, method, path, json_headers(), bytes_of(&body)).await?;
    Some((answer.status, parsed(&answer.body)))
}

/// A body as it is sent; of a call that takes none, nothing.
fn bytes_of(body: &Value) -> Bytes {
    if body.is_null() { Bytes::new() } else { body.to_string().into() }
}

/// Whether the same call may be answered otherwise in a moment.
pub fn is_passing(status: StatusCode) -> bool {
    matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::INSUFFICIENT_STORAGE)
}

/// A call that is repeated with the same `Idempotency-Key` until an answer comes that a repetition would not change.
pub async fn insist(world: &Rc<World>, path: &str, body: &Value, key: &str) -> Option<(StatusCode, Value)> {
    let mut headers = json_headers();
    headers.insert("idempotency-key", HeaderValue::from_str(key).expect("a sound key"));
    let answer = persist(world, Method::POST, path, headers, bytes_of(body)).await?;
    Some((answer.status, parsed(&answer.body)))
}

/// A call that must succeed: there are no faults, or they have just ended.
pub async fn must(world: &Rc<World>, method: Method, path: &str, body: Value) -> Value {
    for _ in 0..300 {
        let answer = call(world, method.clone(), path, body.clone()).await;
        if let Some((status, answer)) = answer.filter(|(status, _)| !is_passing(*status)) {
            assert!(status.is_success(), "{path}: {status} {answer}");
            return answer;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("{path} was never answered");
}

/// Makes processes with a version each, and a group.
pub async fn prepare(world: &Rc<World>) {
    let retry = json!({"max_attempts": MAX_TRIES, "on": ["failed", "lost", "timed_out"], "delay_seconds": 5});
    let defaults = [json!({}), json!({"retry": retry}), json!({"max_parallel": MAX_PARALLEL})];
    must(world, Method::POST, "/robot-groups", json!({"name": "some"})).await;
    for (name, defaults) in PROCESSES.into_iter().zip(defaults) {
        must(world, Method::POST, "/processes", json!({"name": name, "defaults": defaults})).await;
        let path = format!("/processes/{}/versions?activate=true", name.replace(' ', "%20"));
        let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static("application/zip"))]);
        let answer = send(world, Method::POST, &path, headers, package().into()).await;
        let answer = answer.expect("the coordinator lives");
        assert_eq!(answer.status, StatusCode::CREATED, "{}", String::from_utf8_lossy(&answer.body));
    }
    must(world, Method::POST, "/queues", json!({"name": workers::DONE})).await;
    let retry = json!({"delay_seconds": 2});
    let queue = json!({"name": workers::QUEUE, "unique_references": true, "max_attempts": workers::MAX_ATTEMPTS,
        "retry": retry, "lease_seconds": workers::LEASE_SECONDS, "on_success_queue": workers::DONE});
    must(world, Method::POST, "/queues", queue).await;
}

/// Adds tasks, each exactly once however often a call has to be repeated.
async fn add_task(world: &Rc<World>) {
    for _ in 0..=world.below(4) {
        let reference = format!("task {}", world.next_wish());
        let mut new = json!({"payload": {"n": 1}, "reference": reference, "priority": 1 + world.below(3)});
        if world.below(5) == 0 {
            new["deadline"] = later(world, 60);
        }
        if world.below(8) == 0 {
            new["postponed_until"] = later(world, 30);
        }
        let path = format!("/queues/{}/tasks", workers::QUEUE);
        let Some((status, answer)) = insist(world, &path, &new, &reference).await else { continue };
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        assert!(
            world.disk.witness.lock().tasks.has_reference(&reference),
            "{reference} was acknowledged and is not there"
        );
        world.task_wishes.borrow_mut().push(reference);
    }
}

fn package() -> Vec<u8> {
    use std::io::Write;
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("main.sh", zip::write::SimpleFileOptions::default()).expect("a zip in memory");
    zip.write_all(b"true\n").expect("a zip in memory");
    zip.start_file("process.toml", zip::write::SimpleFileOptions::default()).expect("a zip in memory");
    let manifest = format!("[run]\ncommand = [\"sh\", \"main.sh\"]\n[requires]\nqueues = [\"{}\"]\n", workers::QUEUE);
    zip.write_all(manifest.as_bytes()).expect("a zip in memory");
    zip.finish().expect("a zip in memory").into_inner()
}

pub fn host(robot: usize) -> Host {
    Host { hostname: format!("host-{robot}"), os: "linux".to_owned(), ..Host::default() }
}

/// Joins a robot; gives its key. Tries until it is done, as an installer would.
pub async fn join(world: &Rc<World>, robot: usize) -> String {
    loop {
        let group = if robot.is_multiple_of(2) { json!("some") } else { Value::Null };
        let asked = json!({"uses": 1, "expires_in_seconds": 86_400, "group": group});
        if let Some((StatusCode::CREATED, token)) = call(world, Method::POST, "/join-tokens", asked).await {
            let request = json!({"token": token["token"], "machine_id": format!("machine-{robot}"),
                "name": format!("robot-{robot}"), "host": host(robot)});
            if let Some((StatusCode::CREATED, joined)) = call(world, Method::POST, "/agent/join", request).await {
                return joined["key"].as_str().expect("a key").to_owned();
            }
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// One of several who do something at random again and again, as long as there are faults.
pub async fn live(world: Rc<World>) {
    while world.has_faults() {
        act(&world).await;
    }
}

async fn act(world: &Rc<World>) {
    tokio::time::sleep(Duration::from_millis(500 + world.below(6_000))).await;
    let robot = world.below(ROBOTS as u64);
    match world.below(100) {
        0..27 => start(world).await,
        27..30 => call_trigger(world).await,
        30..40 => add_task(world).await,
        40..44 => workers::work_outside(world).await,
        44..55 => {
            let mode = if world.below(2) == 0 { "stop" } else { "abort" };
            stop_some_job(world, mode).await;
        }
        55..61 => drop(on_some_job(world, "retry", Value::Null).await),
        61..63 => drop(on_some_job(world, "close", json!({"outcome": "failed", "reason": "given up"})).await),
        63..67 => delete_some_job(world).await,
        67..73 => read_some_log(world).await,
        73..80 => pause(world).await,
        80..89 => drop(call(world, Method::POST, &format!("/robots/robot-{robot}/resume"), Value::Null).await),
        89..91 => {
            let capacity = if world.below(2) == 0 { Value::Null } else { json!(1 + world.below(3)) };
            call(world, Method::PATCH, &format!("/robots/robot-{robot}"), json!({"capacity": capacity})).await;
        }
        91..94 => able(world, robot).await,
        94..95 => world.step_clock(),
        95..98 => world.cut_network(),
        _ => {
            let group = if world.below(2) == 0 { "all" } else { "some" };
            call(world, Method::POST, &format!("/robot-groups/{group}/resume"), Value::Null).await;
        }
    }
}

async fn able(world: &Rc<World>, robot: u64) {
    let able = if world.below(3) == 0 { "disable" } else { "enable" };
    let path = match world.below(4) {
        0 => format!("/robot-groups/some/{able}"),
        _ => format!("/robots/robot-{robot}/{able}"),
    };
    call(world, Method::POST, &path, Value::Null).await;
}

pub fn later(world: &World, seconds: u64) -> Value {
    use drover_coordinator::clock::Clock;
    let at: Timestamp = world.clock.now().plus_seconds(1 + world.below(seconds));
    json!(at)
}

fn new_job(world: &World) -> Value {
    let process = PROCESSES[world.pick(3)];
    let target = match world.below(4) {
        0 => json!({"robot": format!("robot-{}", world.below(ROBOTS as u64))}),
        1 => json!({"group": "some"}),
        _ => json!({"group": "all"}),
    };
    let seconds = world.below(if world.below(10) == 0 { 150 } else { 20 });
    let fails = if world.below(5) == 0 { 9 } else { world.below(3) };
    let input = json!({"seconds": seconds, "fails": fails, "obeys": world.below(2), "artifacts": world.below(3),
        "works": world.below(2)});
    let mut new = json!({"process": process, "target": target, "input": input, "priority": 1 + world.below(3)});
    if world.below(4) == 0 {
        new["timeout_seconds"] = json!(1 + world.below(15));
    }
    for name in ["not_before", "stop_after", "abort_after"] {
        if world.below(12) == 0 {
            new[name] = later(world, 60);
        }
    }
    if world.below(8) == 0 {
        new["count"] = json!(2 + world.below(3));
    }
    new
}

/// Starts what is wished for exactly once, however often the call has to be repeated.
async fn start(world: &Rc<World>) {
    let wish = world.next_wish();
    let mut new = new_job(world);
    new["labels"] = json!({"wish": wish.to_string()});
    let Some((status, answer)) = insist(world, "/jobs", &new, &format!("wish {wish}")).await else { return };
    if status != StatusCode::CREATED {
        // A robot has not joined yet, or a time is past by the coordinator's clock; a known answer all the same.
        serde_json::from_value::<Problem>(answer).expect("every refusal is a problem document");
        return;
    }
    let one = [answer.clone()];
    let jobs = answer["items"].as_array().map_or(&one[..], Vec::as_slice);
    let ids: Vec<JobId> =
        jobs.iter().map(|job| job["id"].as_str().and_then(|id| id.parse().ok()).expect("an id")).collect();
    assert_eq!(ids.len() as u64, new["count"].as_u64().unwrap_or(1), "as many jobs as were asked for");
    let witness = world.disk.witness.lock();
    let missing = ids.iter().find(|id| witness.job(**id).is_none_or(|job| job.labels["wish"] != wish.to_string()));
    assert!(missing.is_none(), "the start of {missing:?} was acknowledged, and it is not there");
    world.jobs.borrow_mut().extend(ids);
}

/// Calls a trigger from outside: it starts one job, however often the call has to be repeated.
async fn call_trigger(world: &Rc<World>) {
    let wish = format!("call {}", world.next_wish());
    let path = world.hook.borrow().clone();
    let Some((status, answer)) = insist(world, &path, &json!({"seconds": 2, "call": wish}), &wish).await else {
        return;
    };
    if status == StatusCode::CONFLICT {
        // It has been disabled, for faults have ended.
        return;
    }
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    let ids: Vec<JobId> = serde_json::from_value(answer["job_ids"].clone()).expect("ids");
    assert_eq!(ids.len(), 1, "one call is one job");
    let witness = world.disk.witness.lock();
    assert!(witness.job(ids[0]).is_some(), "the call was acknowledged, and its job is not there");
    world.jobs.borrow_mut().extend(ids);
}

fn some_job(world: &World) -> Option<JobId> {
    let count = world.jobs.borrow().len();
    // Newer ones are of more interest.
    let back = world.pick(count.max(1)).min(world.pick(count.max(1)));
    world.jobs.borrow().iter().rev().nth(back).copied()
}

async fn on_some_job(world: &Rc<World>, action: &str, body: Value) -> Option<(StatusCode, Value)> {
    let id = some_job(world)?;
    let key = format!("act {}", world.next_wish());
    insist(world, &format!("/jobs/{id}/{action}"), &body, &key).await
}

async fn stop_some_job(world: &Rc<World>, mode: &str) {
    let Some((StatusCode::OK, answer)) = on_some_job(world, "stop", json!({"mode": mode})).await else { return };
    if answer["state"] == "stopping" {
        let job_id: JobId = serde_json::from_value(answer["id"].clone()).expect("an id");
        let attempt: u32 = serde_json::from_value(answer["attempt"].clone()).expect("a number");
        world.disk.witness.lock().stop_acknowledged.insert(AttemptId { job_id, attempt });
    }
}

async fn delete_some_job(world: &Rc<World>) {
    if let Some(id) = some_job(world) {
        world.disk.witness.lock().delete_asked.insert(id);
        call(world, Method::DELETE, &format!("/jobs/{id}"), Value::Null).await;
    }
}

/// Whatever is read of a log while it grows is its beginning, without gap and without any line of another attempt.
async fn read_some_log(world: &Rc<World>) {
    let Some(id) = some_job(world) else { return };
    let Some(attempt) = world.disk.witness.lock().job(id).map(|job| job.attempt) else { return };
    let path = format!("/jobs/{id}/logs?attempt={attempt}&limit=1000");
    if let Some((StatusCode::OK, page)) = call(world, Method::GET, &path, Value::Null).await {
        let page: LogPage = serde_json::from_value(page).expect("a page of a log");
        for (line, number) in page.items.iter().zip(1..) {
            assert_eq!(line.line.message, format!("{id}-{attempt} line {number}"), "line {number} of the log of {id}");
        }
    }
}

async fn pause(world: &Rc<World>) {
    let mode = ["drain", "stop", "abort"][world.pick(3)];
    let path = match world.below(4) {
        0 => "/robot-groups/some/pause".to_owned(),
        _ => format!("/robots/robot-{}/pause", world.below(ROBOTS as u64)),
    };
    let mut body = json!({"mode": mode, "reason": "updates"});
    if world.below(3) == 0 {
        body["until"] = later(world, 40);
    }
    call(world, Method::POST, &path, body).await;
}

/// Lets everybody work again, when faults have ended.
pub async fn resume_everything(world: &Rc<World>) {
    for group in ["all", "some"] {
        must(world, Method::POST, &format!("/robot-groups/{group}/resume"), Value::Null).await;
    }
    must(world, Method::POST, "/robot-groups/some/enable", Value::Null).await;
    for robot in 0..ROBOTS {
        for action in ["resume", "enable"] {
            // One that never joined has nothing to be resumed.
            call(world, Method::POST, &format!("/robots/robot-{robot}/{action}"), Value::Null).await;
        }
    }
}

/// What waits for a host that will never come back is stopped by somebody.
pub async fn stop_what_waits_for_the_dead(world: &Rc<World>) {
    let Some(dead) = world.dead.get() else { return };
    let waiting: Vec<JobId> = world.disk.read(|reading| {
        use drover_coordinator::{domain::job::Target, operations::robot};
        let Ok(robot) = robot::resolve(reading, &format!("robot-{dead}")) else { return Vec::new() };
        let witness = world.disk.witness.lock();
        witness
            .jobs()
            .filter(|job| job.target == Target::Robot(robot.id) && !job.is_held() && !job.is_finished())
            .map(|job| job.id)
            .collect()
    });
    for id in waiting {
        call(world, Method::POST, &format!("/jobs/{id}/stop"), json!({"mode": "abort"})).await;
    }
}

/// A call without any network between.
pub async fn at_desk(world: &World, method: Method, path: &str, body: HttpBody) -> Option<Answer> {
    let request = http::Request::builder()
        .method(method)
        .uri(format!("/api/v1{path}"))
        .header("authorization", format!("Bearer {ADMIN_KEY}"))
        .body(body)
        .expect("a request");
    deliver(world, request).await
}

/// A reading call when faults have ended.
pub async fn read(world: &World, path: &str) -> (StatusCode, Bytes) {
    let answer = at_desk(world, Method::GET, path, HttpBody::empty()).await.expect("the coordinator lives");
    (answer.status, answer.body)
}
