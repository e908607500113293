//! Processes.

use std::sync::Arc;

use axum::{Json, extract::State, http::HeaderMap, response::Response};
use drover_protocol::{
    event::Event,
    page::{Page, PageQuery},
    process::{NewProcess, Process, ProcessPatch},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    extract::{Call, IfMatch, Json as Body, ListQuery, NoFilter, Path, Posted},
    once::{self, Answer},
    page::{self, IfNoneMatch},
};
use crate::{
    app::App,
    domain,
    operations::{Caller, process},
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_processes, create_process))
        .routes(routes!(get_process, update_process, delete_process))
        .routes(routes!(list_process_events))
}

fn view(process: domain::process::Process) -> Process {
    Process {
        id: process.id,
        name: process.name,
        description: process.description,
        active_version_id: process.active_version_id,
        defaults: process.defaults,
        group_pins: process.group_pins,
        created_at: process.created_at,
        revision: process.revision,
    }
}

/// Processes
#[utoipa::path(get, path = "/processes", tag = "Process", params(PageQuery),
    responses((status = 200, body = Page<Process>)))]
async fn list_processes(
    State(app): State<Arc<App>>,
    caller: Caller,
    ListQuery(query, NoFilter {}): ListQuery<NoFilter>,
) -> Result<Json<Page<Process>>, Fault> {
    let found = app.db.read(caller.account, |reading| process::list(reading, &caller, &query))?;
    Ok(page::page(found, view))
}

/// Make a process
#[utoipa::path(post, path = "/processes", tag = "Process", request_body = NewProcess,
    params(Call),
    responses((status = 201, body = Process)))]
async fn create_process(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Posted<NewProcess>,
) -> Result<Response, Fault> {
    once::write(&app, caller, request.call, move |tx, caller| {
        let process = process::create(tx, caller, &request.body)?;
        let path = format!("/processes/{}", process.id);
        Ok(Answer::created(view(process), path))
    })
    .await
}

/// A process
#[utoipa::path(get, path = "/processes/{process}", tag = "Process",
    params(("process" = String, Path, description = "Id or name"), IfNoneMatch), responses((status = 200, body = Process)))]
async fn get_process(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let process = app.db.read(caller.account, |reading| process::get(reading, &caller, &text))?;
    Ok(page::object(&headers, process.revision, view(process)))
}

/// Change a process
#[utoipa::path(patch, path = "/processes/{process}", tag = "Process", request_body = ProcessPatch,
    params(("process" = String, Path, description = "Id or name"), IfMatch), responses((status = 200, body = Process)))]
async fn update_process(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
    Body(patch): Body<ProcessPatch>,
) -> Result<Response, Fault> {
    once::write(&app, caller, None, move |tx, caller| {
        Ok(Answer::ok(view(process::update(tx, caller, &text, &patch, revision)?)))
    })
    .await
}

/// Delete a process that has no jobs, with all its versions
///
/// Finished jobs count as well, until they are deleted or their retention is over.
#[utoipa::path(delete, path = "/processes/{process}", tag = "Process",
    params(("process" = String, Path, description = "Id or name"), IfMatch), responses((status = 204)))]
async fn delete_process(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
) -> Result<Response, Fault> {
    once::delete_in_pages(&app, caller, move |tx, caller| process::delete_page(tx, caller, &text, revision)).await
}

/// What happened to a process, newest first
#[utoipa::path(get, path = "/processes/{process}/events", tag = "Process",
    params(("process" = String, Path, description = "Id or name"), PageQuery),
    responses((status = 200, body = Page<Event>)))]
async fn list_process_events(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    ListQuery(query, NoFilter {}): ListQuery<NoFilter>,
) -> Result<Json<Page<Event>>, Fault> {
    page::events(&app, &caller, &query, |reading, caller| Ok(process::get(reading, caller, &text)?.id.uuid()))
}
