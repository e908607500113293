//! Robots.

use std::sync::Arc;

use axum::{Json, extract::State, response::Response};
use drover_protocol::{
    event::Event,
    page::{Items, Page, PageQuery},
    robot::{
        CreatedRobot, HealthSample, NewRobot, PauseRequest, Paused, Robot, RobotFilter, RobotHealthQuery, RobotPatch,
        RobotStatus,
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    extract::{Call, IfMatch, Json as Body, ListQuery, NoFilter, Path, Posted, Query},
    once::{self, Answer},
    page,
};
use crate::{
    app::App,
    domain::robot::{Pause, Sample},
    error::Error,
    operations::{
        Caller,
        robot::{self, RobotInFull},
    },
    store::Tx,
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_robots, create_robot))
        .routes(routes!(get_robot, update_robot, delete_robot))
        .routes(routes!(get_robot_status))
        .routes(routes!(get_robot_health))
        .routes(routes!(list_robot_events))
        .routes(routes!(pause_robot))
        .routes(routes!(resume_robot))
        .routes(routes!(enable_robot))
        .routes(routes!(disable_robot))
}

pub fn pause_view(pause: Pause, group: Option<String>) -> Paused {
    Paused { since: pause.since, until: pause.until, reason: pause.reason, by: pause.by, mode: pause.mode, group }
}

pub fn view(full: RobotInFull) -> Robot {
    let robot = full.robot;
    Robot {
        id: robot.id,
        capacity: robot.capacity(),
        labels: robot.effective_labels(),
        name: robot.name,
        description: robot.description,
        enabled: robot.enabled,
        kind: robot.kind,
        groups: robot.groups.into_iter().collect(),
        host: robot.host,
        state: full.state,
        paused: full.standing.pause.map(|(pause, group)| pause_view(pause, group)),
        running: full.held,
        last_seen_at: robot.last_seen_at,
        joined_at: robot.joined_at,
        created_at: robot.created_at,
        revision: robot.revision,
    }
}

fn sample_view(sample: Sample) -> HealthSample {
    HealthSample { at: sample.at, health: sample.health }
}

/// Robots
#[utoipa::path(get, path = "/robots", tag = "Robot", params(PageQuery, RobotFilter),
    responses((status = 200, body = Page<Robot>)))]
async fn list_robots(
    State(app): State<Arc<App>>,
    caller: Caller,
    ListQuery(query, filter): ListQuery<RobotFilter>,
) -> Result<Json<Page<Robot>>, Fault> {
    let found = app.db.read(caller.account, |reading| robot::list(reading, &caller, &filter, &query))?;
    Ok(page::page(found, view))
}

/// Make a robot record in advance
///
/// Its agent joins later with the token of the answer, which is in no other answer.
#[utoipa::path(post, path = "/robots", tag = "Robot", request_body = NewRobot,
    params(Call),
    responses((status = 201, body = CreatedRobot)))]
async fn create_robot(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Posted<NewRobot>,
) -> Result<Response, Fault> {
    let secrets = Arc::clone(&app.secrets);
    once::write(&app, caller, request.call, move |tx, caller| {
        let (full, join_token) = robot::create(tx, caller, &request.body, &secrets)?;
        let path = format!("/robots/{}", full.robot.id);
        Ok(Answer::created(CreatedRobot { robot: view(full), join_token }, path))
    })
    .await
}

/// A robot
#[utoipa::path(get, path = "/robots/{robot}", tag = "Robot",
    params(("robot" = String, Path, description = "Id or name")), responses((status = 200, body = Robot)))]
async fn get_robot(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
) -> Result<Json<Robot>, Fault> {
    Ok(Json(view(app.db.read(caller.account, |reading| robot::get(reading, &caller, &text))?)))
}

/// Change a robot
#[utoipa::path(patch, path = "/robots/{robot}", tag = "Robot", request_body = RobotPatch,
    params(("robot" = String, Path, description = "Id or name"), IfMatch), responses((status = 200, body = Robot)))]
async fn update_robot(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
    Body(patch): Body<RobotPatch>,
) -> Result<Response, Fault> {
    once::write(&app, caller, None, move |tx, caller| {
        Ok(Answer::ok(view(robot::update(tx, caller, &text, &patch, revision)?)))
    })
    .await
}

/// Remove a robot that holds no jobs
#[utoipa::path(delete, path = "/robots/{robot}", tag = "Robot",
    params(("robot" = String, Path, description = "Id or name"), IfMatch), responses((status = 204)))]
async fn delete_robot(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
) -> Result<Response, Fault> {
    once::delete_in_pages(&app, caller, move |tx, caller| robot::delete_page(tx, caller, &text, revision)).await
}

/// What a robot does at the moment
#[utoipa::path(get, path = "/robots/{robot}/status", tag = "Robot",
    params(("robot" = String, Path, description = "Id or name")), responses((status = 200, body = RobotStatus)))]
async fn get_robot_status(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
) -> Result<Json<RobotStatus>, Fault> {
    let (full, newest) = app.db.read(caller.account, |reading| {
        let full = robot::get(reading, &caller, &text)?;
        let newest = robot::health(reading, &caller, &text, 24)?.pop();
        Ok((full, newest))
    })?;
    let robot = view(full);
    Ok(Json(RobotStatus {
        state: robot.state,
        running: robot.running,
        last_seen_at: robot.last_seen_at,
        paused: robot.paused,
        health: newest.map(sample_view),
    }))
}

/// Health samples of the last hours, one a minute, oldest first
#[utoipa::path(get, path = "/robots/{robot}/health", tag = "Robot",
    params(("robot" = String, Path, description = "Id or name"), RobotHealthQuery),
    responses((status = 200, body = Items<HealthSample>)))]
async fn get_robot_health(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    Query(query): Query<RobotHealthQuery>,
) -> Result<Json<Items<HealthSample>>, Fault> {
    let hours = query.hours.unwrap_or(1);
    if !(1..=24).contains(&hours) {
        return Err(Error::invalid("hours", "must be from 1 to 24").into());
    }
    let samples = app.db.read(caller.account, |reading| robot::health(reading, &caller, &text, hours))?;
    Ok(Json(Items { items: samples.into_iter().map(sample_view).collect() }))
}

/// What happened to a robot, newest first
#[utoipa::path(get, path = "/robots/{robot}/events", tag = "Robot",
    params(("robot" = String, Path, description = "Id or name"), PageQuery),
    responses((status = 200, body = Page<Event>)))]
async fn list_robot_events(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    ListQuery(query, NoFilter {}): ListQuery<NoFilter>,
) -> Result<Json<Page<Event>>, Fault> {
    page::events(&app, &caller, &query, |reading, caller| Ok(robot::get(reading, caller, &text)?.robot.id.uuid()))
}

/// Pause a robot: it takes no jobs; those it holds end by themselves, softly, or at once
#[utoipa::path(post, path = "/robots/{robot}/pause", tag = "Robot", request_body = PauseRequest,
    params(("robot" = String, Path, description = "Id or name"), Call), responses((status = 200, body = Robot)))]
async fn pause_robot(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    request: Posted<PauseRequest>,
) -> Result<Response, Fault> {
    let leases = app.rules.leases;
    once::write(&app, caller, request.call, move |tx, caller| {
        Ok(Answer::ok(view(robot::pause(tx, caller, &text, &request.body, &leases)?)))
    })
    .await
}

/// An action on a robot that needs no body.
async fn act(
    app: Arc<App>,
    caller: Caller,
    call: Call,
    action: impl FnOnce(&mut Tx, &Caller) -> crate::error::Result<RobotInFull> + Send + 'static,
) -> Result<Response, Fault> {
    once::write(&app, caller, call.0, move |tx, caller| Ok(Answer::ok(view(action(tx, caller)?)))).await
}

/// End the pause of a robot
#[utoipa::path(post, path = "/robots/{robot}/resume", tag = "Robot",
    params(("robot" = String, Path, description = "Id or name"), Call), responses((status = 200, body = Robot)))]
async fn resume_robot(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    call: Call,
) -> Result<Response, Fault> {
    act(app, caller, call, move |tx, caller| robot::resume(tx, caller, &text)).await
}

/// Let a robot take jobs again
#[utoipa::path(post, path = "/robots/{robot}/enable", tag = "Robot",
    params(("robot" = String, Path, description = "Id or name"), Call), responses((status = 200, body = Robot)))]
async fn enable_robot(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    call: Call,
) -> Result<Response, Fault> {
    act(app, caller, call, move |tx, caller| robot::set_enabled(tx, caller, &text, true)).await
}

/// Let a robot take no jobs
///
/// Those that it holds go on.
#[utoipa::path(post, path = "/robots/{robot}/disable", tag = "Robot",
    params(("robot" = String, Path, description = "Id or name"), Call), responses((status = 200, body = Robot)))]
async fn disable_robot(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    call: Call,
) -> Result<Response, Fault> {
    act(app, caller, call, move |tx, caller| robot::set_enabled(tx, caller, &text, false)).await
}
