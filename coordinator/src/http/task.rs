//! Tasks: adding, seeing, changing and deleting them. What takers and holders do is in `work.rs`.

mod add_many;
mod bulk;
mod export;
mod files;
mod work;

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{FromRequestParts, State},
    http::{HeaderMap, request::Parts},
    response::{IntoResponse, Response},
};
use drover_protocol::{
    TaskId,
    event::Event,
    page::{Page, PageQuery},
    task::{NewTask, Task, TaskAttempt, TaskFilter, TaskHolder, TaskPatch},
};
use serde_json::Value;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    extract::{Accept, Call, IfMatch, Json as Body, ListQuery, NoFilter, Path, Posted, id, url_pairs},
    once::{self, Answer},
    page::{self, IfNoneMatch},
};
use crate::{
    app::App,
    domain::{self, file::task_folder, job::Leases, permission::Permission, task::State as TaskStatus},
    error::{Error, Result as OperationResult},
    json_schema::{self, Side},
    operations::{
        Caller, file, queue,
        task::{self, Unchecked},
    },
    store::{Reading, document::Slot},
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(add_task))
        .routes(routes!(list_tasks))
        .routes(routes!(get_task, update_task, delete_task))
        .routes(routes!(list_task_attempts))
        .routes(routes!(list_task_events))
        .merge(work::routes())
        .merge(bulk::routes())
        .merge(add_many::routes())
        .merge(files::routes())
}

fn holder_view(holder: &domain::task::Holder) -> TaskHolder {
    TaskHolder {
        by: holder.by.clone(),
        robot_id: holder.job.map(|job| job.robot),
        job_id: holder.job.map(|job| job.id),
    }
}

fn attempt_view(attempt: domain::task::Attempt) -> TaskAttempt {
    TaskAttempt {
        attempt: attempt.number,
        holder: holder_view(&attempt.holder),
        started_at: attempt.started_at,
        ended_at: attempt.ended_at,
        end: attempt.end,
        error: attempt.error,
    }
}

/// A task without its documents, as it stands in lists.
pub fn view(reading: &dyn Reading, task: domain::task::Task, leases: &Leases) -> OperationResult<Task> {
    let lease_ends_at = task::lease_ends_at(reading, &task, leases)?;
    Ok(plain_view(task, lease_ends_at))
}

/// The same of a task whose lease is known.
fn plain_view(task: domain::task::Task, lease_ends_at: Option<drover_protocol::Timestamp>) -> Task {
    let state = task.state.kind();
    let waits = matches!(task.state, TaskStatus::New { .. } | TaskStatus::Postponed { .. });
    let postponed_until = match task.state {
        TaskStatus::Postponed { until } => Some(until),
        _ => None,
    };
    Task {
        id: task.id,
        queue_id: task.queue_id,
        reference: task.reference,
        name: task.name,
        payload: None,
        state,
        error: task.error,
        output: None,
        priority: task.priority,
        deadline: task.deadline,
        postponed_until,
        tags: task.tags,
        comment: task.comment,
        progress: task.progress,
        checkpoint: None,
        attempt: task.attempt,
        tries: task.tries,
        max_attempts: task.max_attempts,
        attempts: None,
        holder: task.newest.as_ref().filter(|_| !waits).map(|attempt| holder_view(&attempt.holder)),
        lease_ends_at,
        created_at: task.created_at,
        started_at: task.newest.as_ref().map(|attempt| attempt.started_at),
        finished_at: task.finished_at,
        files: None,
        origin_task_id: task.origin_task_id,
        revision: task.revision,
    }
}

/// A task with all that belongs to it.
pub fn full_view(reading: &dyn Reading, record: domain::task::Task, leases: &Leases) -> OperationResult<Task> {
    let attempts = task::newest_attempts(reading, &record)?.into_iter().map(attempt_view).collect();
    let files = match record.without_files {
        true => Vec::new(),
        false => file::all_of(reading, &task_folder(record.id))?.into_iter().map(files::view).collect(),
    };
    Ok(Task { attempts: Some(attempts), files: Some(files), ..with_documents(reading, record, leases)? })
}

/// A task as it stands in an export: with its documents, without attempts and files.
fn with_documents(reading: &dyn Reading, record: domain::task::Task, leases: &Leases) -> OperationResult<Task> {
    let id = record.id;
    let (has_output, has_checkpoint) = (record.has_output, record.has_checkpoint);
    let document = |wanted: bool, slot| if wanted { task::document(reading, id, slot) } else { Ok(None) };
    Ok(Task {
        payload: document(true, Slot::Payload)?,
        output: document(has_output, Slot::Output)?,
        checkpoint: document(has_checkpoint, Slot::Checkpoint)?,
        ..view(reading, record, leases)?
    })
}

/// Checks a document against the schema of that name, if the queue has one.
async fn check_schema(
    app: &App,
    caller: &Caller,
    name: Option<uuid::Uuid>,
    side: Side,
    document: &Value,
    pointer: &'static str,
) -> Result<(), Fault> {
    let Some(name) = name else { return Ok(()) };
    let read = || app.db.read(caller.account, |reading| queue::schema(reading, name));
    let schema = app.queue_schemas.get(name, read)?;
    let unusable = |error| Error::Internal(format!("the schema of a queue is unusable: {error}"));
    let validator = app.schemas.get(name, side, &schema).map_err(unusable)?;
    let errors = json_schema::check(&validator, &schema, document, pointer).await;
    if errors.is_empty() { Ok(()) } else { Err(Error::Invalid(errors).into()) }
}

/// Add a task to a queue
///
/// Where the queue's references are unique and another task has the same, the answer is 409 `already_exists` with the id of
/// that task, whatever its state; once it is deleted the reference is free again.
#[utoipa::path(post, path = "/queues/{queue}/tasks", tag = "Task", request_body = NewTask,
    params(("queue" = String, Path, description = "Id or name of the queue"), Call),
    responses((status = 201, body = Task)))]
async fn add_task(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    request: Posted<NewTask>,
) -> Result<Response, Fault> {
    if let Some(first) = once::replay(&app, &caller, request.call.as_ref())? {
        return Ok(first);
    }
    let mut new = request.body;
    task::check_new(&new)?;
    let payload = task::to_json(&new.payload, "payload")?;
    let queue = app.db.read(caller.account, |reading| task::queue_to_add_to(reading, &caller, &text))?;
    check_schema(&app, &caller, queue.payload_schema, Side::Input, &new.payload, "/payload").await?;
    once::write(&app, caller, request.call, move |tx, caller| {
        let queue = task::queue_to_add_to(tx, caller, &text)?;
        let task = task::add_one(tx, &queue, &new, &payload)?;
        let path = format!("/tasks/{}", task.id);
        let given = std::mem::take(&mut new.payload);
        let view = Task {
            payload: Some(given),
            attempts: Some(Vec::new()),
            files: Some(Vec::new()),
            ..plain_view(task, None)
        };
        Ok(Answer::created(view, path))
    })
    .await
}

/// The query string of the list of tasks: its page, its filters, and conditions on the payload.
struct TaskQuery(PageQuery, TaskFilter);

const PAYLOAD_PREFIX: &str = "payload.";
/// The other way to say which tags a task must not have.
const WITHOUT_TAG: &str = "-tag";

/// `-tag=a,b` as `tag=-a,-b`.
fn without_tags(tags: &str) -> String {
    let tags: Vec<String> = tags.split(',').map(|tag| format!("-{}", tag.trim())).collect();
    url::form_urlencoded::Serializer::new(String::new()).append_pair("tag", &tags.join(",")).finish()
}

impl FromRequestParts<Arc<App>> for TaskQuery {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Fault> {
        let text = parts.uri.query().unwrap_or_default();
        let mut conditions = BTreeMap::new();
        let mut rest = Vec::new();
        for pair in text.split('&') {
            match url_pairs(pair).next() {
                Some((name, value)) if name.starts_with(PAYLOAD_PREFIX) => {
                    conditions.insert(name[PAYLOAD_PREFIX.len()..].to_owned(), Value::String(value.into_owned()));
                }
                Some((name, tags)) if name == WITHOUT_TAG => rest.push(without_tags(&tags)),
                _ => rest.push(pair.to_owned()),
            }
        }
        // In a query string a plus is a space, unless it is escaped; a tag with a space before it is one with a plus.
        let mut uri = http::Uri::builder();
        uri = uri.path_and_query(format!("/?{}", rest.join("&")));
        let uri = uri.build().map_err(|_| Fault::bad_request("The query string could not be read."))?;
        let mut parts = http::Request::new(()).into_parts().0;
        parts.uri = uri;
        let ListQuery(query, mut filter): ListQuery<TaskFilter> =
            ListQuery::from_request_parts(&mut parts, app).await?;
        filter.payload = conditions;
        Ok(Self(query, filter))
    }
}

/// Tasks, newest first
///
/// A condition on the payload is written `payload.<path>=<text>`, with names and positions between points, for example
/// `payload.customer.city=Kazan`; it may be given several times. Payloads are looked at in bounded steps: a page may then
/// have fewer items than the limit, even none, and go on with `next_cursor`.
///
/// With `Accept: text/csv` or `application/x-ndjson` the answer is a file with all tasks that the filters match and their
/// payloads, outputs and checkpoints, however many they are; it takes no `limit`, `cursor` and `count`.
#[utoipa::path(get, path = "/tasks", tag = "Task",
    params(PageQuery, TaskFilter,
        ("-tag" = Option<Vec<String>>, Query,
            description = "The task must have none of these tags; repeatable. The same as a `tag` with a `-` before it.")),
    responses((status = 200, content((Page<Task> = "application/json"), (String = "text/csv"),
        (Task = "application/x-ndjson")))))]
async fn list_tasks(
    State(app): State<Arc<App>>,
    caller: Caller,
    accept: Accept,
    TaskQuery(query, filter): TaskQuery,
) -> Result<Response, Fault> {
    let (account, leases) = (caller.account, app.rules.leases);
    let media_type = accept.choose(&["application/json", export::CSV, export::NDJSON])?;
    if media_type != "application/json" {
        let of_pages =
            [("limit", query.limit.is_some()), ("cursor", query.cursor.is_some()), ("count", query.count.is_some())];
        if let Some((name, _)) = of_pages.into_iter().find(|(_, given)| *given) {
            return Err(Error::invalid(name, "an export holds all that the filters match; leave it out").into());
        }
        let wanted = app
            .db
            .read(account, |reading| task::checked_filter(reading, &caller, Permission::TaskRead, &filter, ""))?;
        return Ok(export::export(app, caller, wanted, media_type));
    }
    let found = app
        .read_aside(account, move |reading| {
            let wanted = task::checked_filter(reading, &caller, Permission::TaskRead, &filter, "")?;
            let (found, total) = task::list(reading, &wanted, &query)?;
            let views = found.items.into_iter().map(|task| view(reading, task, &leases));
            Ok(Page { items: views.collect::<OperationResult<_>>()?, next_cursor: found.next_cursor, total })
        })
        .await?;
    Ok(Json(found).into_response())
}

/// A task
///
/// Its files count in its revision. Without `ETag` while a job holds it: the job's heartbeats renew its lease while the
/// revision stays.
#[utoipa::path(get, path = "/tasks/{task}", tag = "Task",
    params(("task" = String, Path, description = "Id of the task"), IfNoneMatch), responses((status = 200, body = Task)))]
async fn get_task(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let (id, leases): (TaskId, _) = (id(&text, "task")?, app.rules.leases);
    let (task, is_renewed) = app.db.read(caller.account, |reading| {
        let task = task::get(reading, &caller, id)?;
        let is_renewed = task.held_by_job().is_some();
        Ok((full_view(reading, task, &leases)?, is_renewed))
    })?;
    if is_renewed {
        return Ok(Json(task).into_response());
    }
    Ok(page::object(&headers, task.revision, task))
}

/// Change a task, or hand it over to another queue
///
/// A task that is in progress takes a new name, tags, comment and priority only. In another queue it comes under the rules of
/// that one: its payload has to fit the schema there, and it waits as long as tasks may wait there.
#[utoipa::path(patch, path = "/tasks/{task}", tag = "Task", request_body = TaskPatch,
    params(("task" = String, Path, description = "Id of the task"), IfMatch), responses((status = 200, body = Task)))]
async fn update_task(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
    Body(patch): Body<TaskPatch>,
) -> Result<Response, Fault> {
    let (id, leases): (TaskId, _) = (id(&text, "task")?, app.rules.leases);
    let payload = patch.payload.as_ref().map(|payload| task::to_json(payload, "payload")).transpose()?;
    let seen = check_change(&app, &caller, id, &patch).await?;
    once::write(&app, caller, None, move |tx, caller| {
        if let Some(seen) = seen {
            task::require_unchanged(tx, id, seen)?;
        }
        let task = task::update(tx, caller, id, &patch, payload.as_deref(), revision)?;
        Ok(Answer::ok(full_view(tx, task, &leases)?))
    })
    .await
}

/// Holds the payload that a change leaves the task with to the schema of its queue. Gives the revision that was looked at, if
/// that payload is the one that the task has already.
async fn check_change(app: &App, caller: &Caller, id: TaskId, patch: &TaskPatch) -> Result<Option<u64>, Fault> {
    let found = app.db.read(caller.account, |reading| task::unchecked(reading, caller, id, patch))?;
    let Some(Unchecked { schema, own }) = found else { return Ok(None) };
    if let Some(payload) = own.as_ref().map(|own| &own.payload).or(patch.payload.as_ref()) {
        check_schema(app, caller, schema, Side::Input, payload, "/payload").await?;
    }
    Ok(own.map(|own| own.revision))
}

/// Delete a task that nobody holds, with its files and events
///
/// A task that is in progress is refused. The reference of a deleted task is free again.
#[utoipa::path(delete, path = "/tasks/{task}", tag = "Task",
    params(("task" = String, Path, description = "Id of the task"), IfMatch), responses((status = 204)))]
async fn delete_task(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
) -> Result<Response, Fault> {
    let id: TaskId = id(&text, "task")?;
    once::delete_in_pages(&app, caller, move |tx, caller| task::delete_page(tx, caller, id, revision)).await
}

/// The attempts of a task, oldest first
#[utoipa::path(get, path = "/tasks/{task}/attempts", tag = "Task",
    params(("task" = String, Path, description = "Id of the task"), PageQuery),
    responses((status = 200, body = Page<TaskAttempt>)))]
async fn list_task_attempts(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    ListQuery(query, NoFilter {}): ListQuery<NoFilter>,
) -> Result<Json<Page<TaskAttempt>>, Fault> {
    let id: TaskId = id(&text, "task")?;
    let found = app.db.read(caller.account, |reading| {
        let task = task::get(reading, &caller, id)?;
        task::attempts(reading, &task, &query)
    })?;
    Ok(page::page(found, attempt_view))
}

/// What happened to a task, newest first
///
/// Decisions of the coordinator, wishes of people, and results that came too late, with what they brought as `output`: where
/// that is large, a page has fewer items than the limit. That it was added, taken and has succeeded its attempts tell.
#[utoipa::path(get, path = "/tasks/{task}/events", tag = "Task",
    params(("task" = String, Path, description = "Id of the task"), PageQuery),
    responses((status = 200, body = Page<Event>)))]
async fn list_task_events(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    ListQuery(query, NoFilter {}): ListQuery<NoFilter>,
) -> Result<Json<Page<Event>>, Fault> {
    let id: TaskId = id(&text, "task")?;
    page::events(&app, &caller, &query, |reading, caller| Ok(task::get(reading, caller, id)?.id.uuid()))
}
