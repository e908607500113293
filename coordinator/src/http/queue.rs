//! Queues.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use drover_protocol::{
    event::Event,
    page::{Page, PageQuery},
    queue::{HourStats, NewQueue, PauseQueue, Queue, QueueFilter, QueuePatch, QueueStats, TaskCounts},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    extract::{Call, IfMatch, Json as Body, ListQuery, NoFilter, Path, Posted},
    once::{self, Answer},
    page::{self, IfNoneMatch},
    robot::pause_view,
};
use crate::{
    app::App,
    domain::{self, queue::Hour, task::Phase},
    error::Result as OperationResult,
    operations::{
        Caller,
        queue::{self, Stats},
    },
    store::Reading,
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_queues, create_queue))
        .routes(routes!(get_queue, update_queue, delete_queue))
        .routes(routes!(get_queue_stats))
        .routes(routes!(pause_queue))
        .routes(routes!(resume_queue))
        .routes(routes!(list_queue_events))
}

fn view(reading: &dyn Reading, queue: domain::queue::Queue) -> OperationResult<Queue> {
    let schema = |name: Option<uuid::Uuid>| name.map(|name| queue::schema(reading, name)).transpose();
    Ok(Queue {
        id: queue.id,
        name: queue.name,
        description: queue.description,
        unique_references: queue.unique_references,
        max_attempts: queue.max_attempts,
        retry: queue.retry,
        lease_seconds: queue.lease_seconds,
        abandon_new_after_seconds: queue.abandon_new_after_seconds,
        payload_schema: schema(queue.payload_schema)?,
        output_schema: schema(queue.output_schema)?,
        sla_seconds: queue.sla_seconds,
        paused: queue.pause.filter(|pause| pause.holds(reading.now())).map(|pause| pause_view(pause, None)),
        retention: queue.retention,
        on_success_queue: queue.on_success_queue,
        on_failure_queue: queue.on_failure_queue,
        settle_with_job: queue.settle_with_job,
        created_at: queue.created_at,
        revision: queue.revision,
    })
}

fn stats_view(stats: Stats) -> QueueStats {
    let counters = &stats.counters;
    let counts = TaskCounts {
        new: counters.ready(),
        in_progress: counters.count(Phase::InProgress),
        succeeded: counters.count(Phase::Succeeded),
        failed: counters.count(Phase::FailedBusiness) + counters.count(Phase::FailedApplication),
        postponed: counters.count(Phase::Postponed),
        abandoned: counters.count(Phase::Abandoned),
    };
    let hour = |hour: Hour| HourStats {
        hour: hour.starts_at(),
        added: hour.added,
        succeeded: hour.succeeded,
        failed: hour.failed,
        abandoned: hour.abandoned,
    };
    QueueStats {
        queue_id: counters.queue_id,
        counts,
        oldest_new_at: stats.oldest_new_at,
        per_hour: stats.per_hour,
        eta_seconds: stats.eta_seconds,
        over_sla: stats.over_sla,
        hours: stats.hours.into_iter().map(hour).collect(),
    }
}

/// Queues, newest first
#[utoipa::path(get, path = "/queues", tag = "Queue", params(PageQuery, QueueFilter),
    responses((status = 200, body = Page<Queue>)))]
async fn list_queues(
    State(app): State<Arc<App>>,
    caller: Caller,
    ListQuery(query, filter): ListQuery<QueueFilter>,
) -> Result<Json<Page<Queue>>, Fault> {
    let (items, next_cursor) = app.db.read(caller.account, |reading| {
        let found = queue::list(reading, &caller, &filter, &query)?;
        let items: Vec<Queue> =
            found.items.into_iter().map(|queue| view(reading, queue)).collect::<OperationResult<_>>()?;
        Ok((items, found.next_cursor))
    })?;
    Ok(Json(Page { items, next_cursor, total: None }))
}

/// Make a queue
#[utoipa::path(post, path = "/queues", tag = "Queue", request_body = NewQueue,
    params(Call),
    responses((status = 201, body = Queue)))]
async fn create_queue(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Posted<NewQueue>,
) -> Result<Response, Fault> {
    once::write(&app, caller, request.call, move |tx, caller| {
        let queue = queue::create(tx, caller, &request.body)?;
        let path = format!("/queues/{}", queue.id);
        Ok(Answer::created(view(tx, queue)?, path))
    })
    .await
}

/// A queue
///
/// Without `ETag` once it was paused with an end: the pause ends while the revision stays.
#[utoipa::path(get, path = "/queues/{queue}", tag = "Queue",
    params(("queue" = String, Path, description = "Id or name"), IfNoneMatch), responses((status = 200, body = Queue)))]
async fn get_queue(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let (queue, ends_by_itself) = app.db.read(caller.account, |reading| {
        let queue = queue::get(reading, &caller, &text)?;
        let ends_by_itself = queue.pause.as_ref().is_some_and(|pause| pause.until.is_some());
        Ok((view(reading, queue)?, ends_by_itself))
    })?;
    if ends_by_itself {
        return Ok(Json(queue).into_response());
    }
    Ok(page::object(&headers, queue.revision, queue))
}

/// Change a queue
///
/// Rules hold for what happens to its tasks from now on; leases that run and times that are set stay as they are.
#[utoipa::path(patch, path = "/queues/{queue}", tag = "Queue", request_body = QueuePatch,
    params(("queue" = String, Path, description = "Id or name"), IfMatch), responses((status = 200, body = Queue)))]
async fn update_queue(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
    Body(patch): Body<QueuePatch>,
) -> Result<Response, Fault> {
    once::write(&app, caller, None, move |tx, caller| {
        let queue = queue::update(tx, caller, &text, &patch, revision)?;
        Ok(Answer::ok(view(tx, queue)?))
    })
    .await
}

/// Delete a queue whose tasks have all ended, with these tasks
///
/// A queue with tasks that wait or are in progress is refused, and so is one to which another queue hands tasks on.
#[utoipa::path(delete, path = "/queues/{queue}", tag = "Queue",
    params(("queue" = String, Path, description = "Id or name"), IfMatch), responses((status = 204)))]
async fn delete_queue(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
) -> Result<Response, Fault> {
    once::delete_in_pages(&app, caller, move |tx, caller| queue::delete_page(tx, caller, &text, revision)).await
}

/// Figures of a queue
///
/// They come from counters that are kept with every change of a task, and cost the same whatever the queue holds.
#[utoipa::path(get, path = "/queues/{queue}/stats", tag = "Queue",
    params(("queue" = String, Path, description = "Id or name")), responses((status = 200, body = QueueStats)))]
async fn get_queue_stats(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
) -> Result<Json<QueueStats>, Fault> {
    let stats = app.db.read(caller.account, |reading| queue::stats(reading, &caller, &text))?;
    Ok(Json(stats_view(stats)))
}

/// Let no task of a queue be taken
///
/// Adding, ending and renewing go on. Whoever waits for a task goes on waiting.
#[utoipa::path(post, path = "/queues/{queue}/pause", tag = "Queue", request_body = PauseQueue,
    params(("queue" = String, Path, description = "Id or name"), Call), responses((status = 200, body = Queue)))]
async fn pause_queue(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    request: Posted<PauseQueue>,
) -> Result<Response, Fault> {
    once::write(&app, caller, request.call, move |tx, caller| {
        let queue = queue::pause(tx, caller, &text, &request.body)?;
        Ok(Answer::ok(view(tx, queue)?))
    })
    .await
}

/// End the pause of a queue
#[utoipa::path(post, path = "/queues/{queue}/resume", tag = "Queue",
    params(("queue" = String, Path, description = "Id or name"), Call), responses((status = 200, body = Queue)))]
async fn resume_queue(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    call: Call,
) -> Result<Response, Fault> {
    once::write(&app, caller, call.0, move |tx, caller| {
        let queue = queue::resume(tx, caller, &text)?;
        Ok(Answer::ok(view(tx, queue)?))
    })
    .await
}

/// What happened to a queue, newest first
#[utoipa::path(get, path = "/queues/{queue}/events", tag = "Queue",
    params(("queue" = String, Path, description = "Id or name"), PageQuery),
    responses((status = 200, body = Page<Event>)))]
async fn list_queue_events(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    ListQuery(query, NoFilter {}): ListQuery<NoFilter>,
) -> Result<Json<Page<Event>>, Fault> {
    page::events(&app, &caller, &query, |reading, caller| Ok(queue::get(reading, caller, &text)?.id.uuid()))
}
