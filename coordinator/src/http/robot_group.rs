//! Robot groups.

use std::sync::Arc;

use axum::{Json, extract::State, response::Response};
use drover_protocol::{
    page::{Page, PageQuery},
    robot::PauseRequest,
    robot_group::{NewRobotGroup, RobotGroup, RobotGroupPatch},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    extract::{Call, IfMatch, Json as Body, ListQuery, NoFilter, Path, Posted},
    once::{self, Answer},
    page, robot,
};
use crate::{
    app::App,
    domain,
    operations::{Caller, robot_group},
    store::Tx,
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_robot_groups, create_robot_group))
        .routes(routes!(get_robot_group, update_robot_group, delete_robot_group))
        .routes(routes!(add_robot, remove_robot))
        .routes(routes!(pause_robot_group))
        .routes(routes!(resume_robot_group))
        .routes(routes!(enable_robot_group))
        .routes(routes!(disable_robot_group))
}

fn view(group: domain::robot::RobotGroup) -> RobotGroup {
    RobotGroup {
        id: group.id,
        name: group.name,
        description: group.description,
        enabled: group.enabled,
        paused: group.pause.map(|pause| robot::pause_view(pause, None)),
        robot_count: group.robot_count,
        created_at: group.created_at,
        revision: group.revision,
    }
}

/// Robot groups
#[utoipa::path(get, path = "/robot-groups", tag = "Robot group", params(PageQuery),
    responses((status = 200, body = Page<RobotGroup>)))]
async fn list_robot_groups(
    State(app): State<Arc<App>>,
    caller: Caller,
    ListQuery(query, NoFilter {}): ListQuery<NoFilter>,
) -> Result<Json<Page<RobotGroup>>, Fault> {
    let found = app.db.read(caller.account, |reading| robot_group::list(reading, &caller, &query))?;
    Ok(page::page(found, view))
}

/// Make a robot group
#[utoipa::path(post, path = "/robot-groups", tag = "Robot group", request_body = NewRobotGroup,
    params(Call),
    responses((status = 201, body = RobotGroup)))]
async fn create_robot_group(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Posted<NewRobotGroup>,
) -> Result<Response, Fault> {
    once::write(&app, caller, request.call, move |tx, caller| {
        let group = robot_group::create(tx, caller, &request.body)?;
        let path = format!("/robot-groups/{}", group.id);
        Ok(Answer::created(view(group), path))
    })
    .await
}

/// A robot group
#[utoipa::path(get, path = "/robot-groups/{group}", tag = "Robot group",
    params(("group" = String, Path, description = "Id or name")), responses((status = 200, body = RobotGroup)))]
async fn get_robot_group(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
) -> Result<Json<RobotGroup>, Fault> {
    // Without ETag: robots come and go while the revision stays.
    let group = app.db.read(caller.account, |reading| robot_group::get(reading, &caller, &text))?;
    Ok(Json(view(group)))
}

/// Change a robot group
#[utoipa::path(patch, path = "/robot-groups/{group}", tag = "Robot group", request_body = RobotGroupPatch,
    params(("group" = String, Path, description = "Id or name"), IfMatch), responses((status = 200, body = RobotGroup)))]
async fn update_robot_group(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
    Body(patch): Body<RobotGroupPatch>,
) -> Result<Response, Fault> {
    once::write(&app, caller, None, move |tx, caller| {
        Ok(Answer::ok(view(robot_group::update(tx, caller, &text, &patch, revision)?)))
    })
    .await
}

/// Delete a robot group that is empty
#[utoipa::path(delete, path = "/robot-groups/{group}", tag = "Robot group",
    params(("group" = String, Path, description = "Id or name"), IfMatch), responses((status = 204)))]
async fn delete_robot_group(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
) -> Result<Response, Fault> {
    once::delete_in_pages(&app, caller, move |tx, caller| robot_group::delete_page(tx, caller, &text, revision)).await
}

/// Put a robot into a group
#[utoipa::path(put, path = "/robot-groups/{group}/robots/{robot}", tag = "Robot group", operation_id = "add_robot_to_group",
    params(("group" = String, Path, description = "Id or name"), ("robot" = String, Path, description = "Id or name")),
    responses((status = 204)))]
async fn add_robot(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((group, robot)): Path<(String, String)>,
) -> Result<Response, Fault> {
    once::carry_out(&app, caller, move |tx, caller| robot_group::add_robot(tx, caller, &group, &robot)).await
}

/// Take a robot out of a group
#[utoipa::path(delete, path = "/robot-groups/{group}/robots/{robot}", tag = "Robot group", operation_id = "remove_robot_from_group",
    params(("group" = String, Path, description = "Id or name"), ("robot" = String, Path, description = "Id or name")),
    responses((status = 204)))]
async fn remove_robot(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((group, robot)): Path<(String, String)>,
) -> Result<Response, Fault> {
    once::carry_out(&app, caller, move |tx, caller| robot_group::remove_robot(tx, caller, &group, &robot)).await
}

/// Pause all robots of a group
#[utoipa::path(post, path = "/robot-groups/{group}/pause", tag = "Robot group", request_body = PauseRequest,
    params(("group" = String, Path, description = "Id or name"), Call), responses((status = 200, body = RobotGroup)))]
async fn pause_robot_group(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    request: Posted<PauseRequest>,
) -> Result<Response, Fault> {
    once::write(&app, caller, request.call, move |tx, caller| {
        Ok(Answer::ok(view(robot_group::pause(tx, caller, &text, &request.body)?)))
    })
    .await
}

/// An action on a group that needs no body.
async fn act(
    app: Arc<App>,
    caller: Caller,
    call: Call,
    action: impl FnOnce(&mut Tx, &Caller) -> crate::error::Result<domain::robot::RobotGroup> + Send + 'static,
) -> Result<Response, Fault> {
    once::write(&app, caller, call.0, move |tx, caller| Ok(Answer::ok(view(action(tx, caller)?)))).await
}

/// End the pause of a group
#[utoipa::path(post, path = "/robot-groups/{group}/resume", tag = "Robot group",
    params(("group" = String, Path, description = "Id or name"), Call), responses((status = 200, body = RobotGroup)))]
async fn resume_robot_group(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    call: Call,
) -> Result<Response, Fault> {
    act(app, caller, call, move |tx, caller| robot_group::resume(tx, caller, &text)).await
}

/// Let the robots of a group take jobs again
#[utoipa::path(post, path = "/robot-groups/{group}/enable", tag = "Robot group",
    params(("group" = String, Path, description = "Id or name"), Call), responses((status = 200, body = RobotGroup)))]
async fn enable_robot_group(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    call: Call,
) -> Result<Response, Fault> {
    act(app, caller, call, move |tx, caller| robot_group::set_enabled(tx, caller, &text, true)).await
}

/// Let the robots of a group take no jobs
#[utoipa::path(post, path = "/robot-groups/{group}/disable", tag = "Robot group",
    params(("group" = String, Path, description = "Id or name"), Call), responses((status = 200, body = RobotGroup)))]
async fn disable_robot_group(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    call: Call,
) -> Result<Response, Fault> {
    act(app, caller, call, move |tx, caller| robot_group::set_enabled(tx, caller, &text, false)).await
}
