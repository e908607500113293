//! People and programs who use the API: they start, stop, pause, retry and close, and set clocks.

use std::time::Duration;

use axum::body::Body;
use drover_protocol::{JobId, problem::Problem};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    network::deliver,
    world::{ADMIN_KEY, ROBOTS, World},
};

const PROCESSES: [&str; 3] = ["plain", "tried again", "limited"];
/// Most jobs at once of the process that is limited.
pub const MAX_PARALLEL: u64 = 2;

/// A call with the administrator's key; `None` if the coordinator did not answer.
async fn call(world: &World, method: Method, path: &str, body: Value) -> Option<(StatusCode, Value)> {
    let request = http::Request::builder()
        .method(method)
        .uri(format!("/api/v1{path}"))
        .header("authorization", format!("Bearer {ADMIN_KEY}"))
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .expect("a request");
    let answer = deliver(world, request).await?;
    let body = if answer.body.is_empty() { Value::Null } else { serde_json::from_slice(&answer.body).expect("JSON") };
    assert_ne!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{path}: {body}");
    Some((answer.status, body))
}

async fn must(world: &World, method: Method, path: &str, body: Value) -> Value {
    let (status, answer) = call(world, method, path, body).await.expect("the coordinator lives");
    assert!(status.is_success(), "{path}: {status} {answer}");
    answer
}

/// Makes processes with a version each, and a group; then the faults begin.
pub async fn prepare(world: &World) {
    let defaults = [
        json!({}),
        json!({"retry": {"max_attempts": 3, "on": ["failed", "lost", "timed_out"], "delay_seconds": 5}}),
        json!({"max_parallel": MAX_PARALLEL}),
    ];
    must(world, Method::POST, "/robot-groups", json!({"name": "some"})).await;
    for (name, defaults) in PROCESSES.into_iter().zip(defaults) {
        must(world, Method::POST, "/processes", json!({"name": name, "defaults": defaults})).await;
        let path = format!("/api/v1/processes/{}/versions?activate=true", name.replace(' ', "%20"));
        let request = http::Request::post(path)
            .header("authorization", format!("Bearer {ADMIN_KEY}"))
            .header("content-type", "application/zip")
            .body(Body::from(package()))
            .expect("a request");
        let answer = deliver(world, request).await.expect("the coordinator lives");
        assert_eq!(answer.status, StatusCode::CREATED, "{}", String::from_utf8_lossy(&answer.body));
    }
    world.begin_faults();
}

fn package() -> Vec<u8> {
    use std::io::Write;
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("main.sh", zip::write::SimpleFileOptions::default()).expect("a zip in memory");
    zip.write_all(b"true\n").expect("a zip in memory");
    zip.finish().expect("a zip in memory").into_inner()
}

/// Joins a robot; gives its key. Tries until it is done, as an installer would.
pub async fn join(world: &World, robot: usize) -> String {
    loop {
        let group = if robot.is_multiple_of(2) { json!("some") } else { Value::Null };
        let asked = json!({"uses": 1, "expires_in_seconds": 86_400, "group": group});
        if let Some((StatusCode::CREATED, token)) = call(world, Method::POST, "/join-tokens", asked).await {
            let request = json!({"token": token["token"], "machine_id": format!("machine-{robot}"),
                "name": format!("robot-{robot}"), "host": {"hostname": format!("host-{robot}"), "os": "linux"}});
            if let Some((StatusCode::CREATED, joined)) = call(world, Method::POST, "/agent/join", request).await {
                return joined["key"].as_str().expect("a key").to_owned();
            }
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// One random act, and some time.
pub async fn act(world: &World) {
    tokio::time::sleep(Duration::from_millis(200 + world.below(2_500))).await;
    match world.below(100) {
        0..50 => start(world).await,
        50..62 => {
            let mode = if world.below(2) == 0 { "stop" } else { "abort" };
            on_some_job(world, "stop", json!({"mode": mode})).await;
        }
        62..66 => on_some_job(world, "retry", Value::Null).await,
        66..68 => on_some_job(world, "close", json!({"outcome": "failed", "reason": "given up"})).await,
        68..78 => pause(world).await,
        78..92 => resume(world, world.below(ROBOTS as u64)).await,
        92..97 => world.step_clock(),
        _ => {
            let group = if world.below(2) == 0 { "all" } else { "some" };
            call(world, Method::POST, &format!("/robot-groups/{group}/resume"), Value::Null).await;
        }
    }
}

async fn start(world: &World) {
    let process = PROCESSES[usize::try_from(world.below(3)).expect("small")];
    let target = match world.below(4) {
        0 => json!({"robot": format!("robot-{}", world.below(ROBOTS as u64))}),
        1 => json!({"group": "some"}),
        _ => json!({"group": "all"}),
    };
    let input = json!({"seconds": world.below(20), "fails": world.below(3), "obeys": world.below(2)});
    let mut new = json!({"process": process, "target": target, "input": input, "priority": 1 + world.below(3)});
    if world.below(4) == 0 {
        new["timeout_seconds"] = json!(1 + world.below(15));
    }
    let Some((status, answer)) = call(world, Method::POST, "/jobs", new).await else { return };
    if status == StatusCode::CREATED {
        let id: JobId = answer["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
        world.jobs.borrow_mut().push(id);
        return;
    }
    // The disk may be full, the engine broken, or a robot not joined yet; a known answer all the same.
    serde_json::from_value::<Problem>(answer).expect("every refusal is a problem document");
}

async fn on_some_job(world: &World, action: &str, body: Value) {
    let count = world.jobs.borrow().len() as u64;
    if count == 0 {
        return;
    }
    let at = usize::try_from(world.below(count)).expect("small");
    let id = world.jobs.borrow()[at];
    call(world, Method::POST, &format!("/jobs/{id}/{action}"), body).await;
}

async fn pause(world: &World) {
    let mode = ["drain", "stop", "abort"][usize::try_from(world.below(3)).expect("small")];
    let path = match world.below(4) {
        0 => "/robot-groups/some/pause".to_owned(),
        _ => format!("/robots/robot-{}/pause", world.below(ROBOTS as u64)),
    };
    call(world, Method::POST, &path, json!({"mode": mode, "reason": "updates"})).await;
}

async fn resume(world: &World, robot: u64) {
    call(world, Method::POST, &format!("/robots/robot-{robot}/resume"), Value::Null).await;
}

/// Lets everybody work again, when faults have ended.
pub async fn resume_everything(world: &World) {
    while world.coordinator().is_none() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for group in ["all", "some"] {
        must(world, Method::POST, &format!("/robot-groups/{group}/resume"), Value::Null).await;
    }
    for robot in 0..ROBOTS as u64 {
        // One that never joined has nothing to be resumed.
        resume(world, robot).await;
    }
}
