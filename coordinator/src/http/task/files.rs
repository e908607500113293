//! Files that are attached to a task: the files of the storage folder `tasks/<task id>`.

use std::sync::Arc;

use axum::{
    Json,
    body::Body as HttpBody,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use drover_protocol::{FileId, TaskId, storage::PutFileQuery, task::TaskFile};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    domain::{
        self,
        file::{attachment_fault, task_folder},
    },
    error::{Error, Result as OperationResult},
    http::{
        Fault,
        content::{self, Digest, Ranges},
        extract::{ContentConditions, Path, Query, id},
        file as file_views, once,
        openapi::Binary,
    },
    operations::{Caller, file, task},
    store::{Reading, blob::BlobName},
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(get_task_file, put_task_file, delete_task_file))
}

pub fn view(file: domain::file::File) -> TaskFile {
    TaskFile {
        id: file.id,
        name: file.path,
        size_bytes: file.size_bytes,
        sha256: file.sha256,
        content_type: file.content_type,
        metadata: file.metadata,
        created_by: file.created_by,
        created_at: file.created_at,
        modified_at: file.modified_at,
    }
}

/// The folder of a task that the caller may see.
fn folder_of(reading: &dyn Reading, caller: &Caller, id: TaskId, name: &str) -> OperationResult<String> {
    task::get(reading, caller, id)?;
    match attachment_fault(name) {
        Some(fault) => Err(Error::invalid("name", fault)),
        None => Ok(task_folder(id)),
    }
}

/// The content of a file of a task
#[utoipa::path(get, path = "/tasks/{task}/files/{name}", tag = "Task",
    params(("task" = String, Path, description = "Id of the task"),
        ("name" = String, Path, description = "Name of the file"), Ranges),
    responses((status = 200, body = inline(Binary), content_type = "*/*"),
        (status = 206, body = inline(Binary), content_type = "*/*")))]
async fn get_task_file(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((task, name)): Path<(String, String)>,
    Ranges(headers): Ranges,
) -> Result<Response, Fault> {
    let id: TaskId = id(&task, "task")?;
    let folder = app.db.read(caller.account, |reading| folder_of(reading, &caller, id, &name))?;
    file_views::send(&app, &caller, &folder, &name, &headers).await
}

/// Attach a file to a task
///
/// Of any size up to the operator's limit; whole or not at all. 201 if the file is new, 200 if it took the place of another
/// one of this name. It goes with its task. A role that limits `storage:write` to some folders allows it only together with
/// `task:take` or `task:update` for the task's queue; the same holds for deleting.
#[utoipa::path(put, path = "/tasks/{task}/files/{name}", tag = "Task",
    params(("task" = String, Path, description = "Id of the task"),
        ("name" = String, Path, description = "Name of the file: 1 to 255 bytes, without slashes"),
        PutFileQuery, Digest, ContentConditions),
    request_body(content = inline(Binary), content_type = "application/octet-stream"),
    responses((status = 200, body = TaskFile), (status = 201, body = TaskFile)))]
async fn put_task_file(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((task, name)): Path<(String, String)>,
    Query(query): Query<PutFileQuery>,
    ContentConditions(conditions): ContentConditions,
    headers: HeaderMap,
    body: HttpBody,
) -> Result<Response, Fault> {
    let allowed = || -> Result<_, Fault> {
        let id: TaskId = id(&task, "task")?;
        let described = file_views::described(&headers, &query)?;
        let folder = app.db.read(caller.account, |reading| {
            let folder = folder_of(reading, &caller, id, &name)?;
            file::check_put(reading, &caller, &folder, &name, &described, &conditions)?;
            Ok(folder)
        })?;
        Ok((described, folder))
    };
    let ((described, folder), body) = content::admit(allowed(), &headers, body).await?;
    let staged = content::receive(&app, body, app.rules.limits.file_bytes).await?;
    content::check_digest(&headers, &staged)?;
    let content = file::Content {
        id: FileId::from_uuid(app.db.new_id()),
        sha256: staged.sha256.clone(),
        size_bytes: staged.size_bytes,
    };
    let (account, blob) = (caller.account, BlobName::file(content.id));
    let write = move |app: Arc<App>| async move {
        let written =
            app.db.write(account, move |tx| file::put(tx, &caller, &folder, &name, &content, &described, &conditions));
        written.await.map_err(Fault::from)
    };
    let (stored, is_new) = content::keep(&app, account, staged, blob, write).await?;
    let headers = [(header::LOCATION, file_views::address(&stored)), (header::ETAG, stored.tag())];
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, headers, Json(view(stored))).into_response())
}

/// Delete a file of a task
#[utoipa::path(delete, path = "/tasks/{task}/files/{name}", tag = "Task",
    params(("task" = String, Path, description = "Id of the task"),
        ("name" = String, Path, description = "Name of the file"), ContentConditions),
    responses((status = 204)))]
async fn delete_task_file(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((task, name)): Path<(String, String)>,
    ContentConditions(conditions): ContentConditions,
) -> Result<Response, Fault> {
    let id: TaskId = id(&task, "task")?;
    once::carry_out(&app, caller, move |tx, caller| {
        let folder = folder_of(tx, caller, id, &name)?;
        file::delete(tx, caller, &folder, &name, &conditions)
    })
    .await
}
