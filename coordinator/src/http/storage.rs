//! Storage folders.

use std::sync::Arc;

use axum::{Json, extract::State, response::Response};
use drover_protocol::{
    event::Event,
    page::{Page, PageQuery},
    storage::{DeleteFolderQuery, FolderFilter, NewStorageFolder, StorageFolder, StorageFolderPatch},
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
    domain,
    operations::{Caller, storage},
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_storages, create_storage))
        .routes(routes!(get_storage, update_storage, delete_storage))
        .routes(routes!(list_storage_events))
}

fn view(folder: domain::storage::StorageFolder) -> StorageFolder {
    StorageFolder {
        id: folder.id,
        name: folder.name,
        description: folder.description,
        retention_days: folder.retention_days,
        quota_bytes: folder.quota_bytes,
        read_only: folder.read_only,
        file_count: folder.file_count,
        used_bytes: folder.used_bytes,
        created_by: folder.created_by,
        created_at: folder.created_at,
        revision: folder.revision,
    }
}

/// Storage folders
///
/// Those that people have made; the folders `jobs/<job id>` and `tasks/<task id>` belong to their jobs and tasks and are
/// not listed. The key of a job sees the folders that its process version declares.
#[utoipa::path(get, path = "/storages", tag = "Storage", params(PageQuery, FolderFilter),
    responses((status = 200, body = Page<StorageFolder>)))]
async fn list_storages(
    State(app): State<Arc<App>>,
    caller: Caller,
    ListQuery(query, filter): ListQuery<FolderFilter>,
) -> Result<Json<Page<StorageFolder>>, Fault> {
    let found = app.db.read(caller.account, |reading| storage::list(reading, &caller, &filter, &query))?;
    Ok(page::page(found, view))
}

/// Make a storage folder
///
/// Its name may have any number of parts between slashes. A folder within another has nothing to do with that one: each
/// has its own files, quota and retention.
#[utoipa::path(post, path = "/storages", tag = "Storage", request_body = NewStorageFolder, params(Call),
    responses((status = 201, body = StorageFolder)))]
async fn create_storage(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Posted<NewStorageFolder>,
) -> Result<Response, Fault> {
    once::write(&app, caller, request.call, move |tx, caller| {
        let folder = storage::create(tx, caller, &request.body)?;
        let path = format!("/storages/{}", folder.id);
        Ok(Answer::created(view(folder), path))
    })
    .await
}

/// A storage folder
#[utoipa::path(get, path = "/storages/{folder}", tag = "Storage",
    params(("folder" = String, Path, description = "Id, or name with its slashes percent-encoded")),
    responses((status = 200, body = StorageFolder)))]
async fn get_storage(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
) -> Result<Json<StorageFolder>, Fault> {
    // Without ETag: files come and go while the revision stays.
    let folder = app.db.read(caller.account, |reading| storage::get(reading, &caller, &text))?;
    Ok(Json(view(folder)))
}

/// Change a storage folder
///
/// Another name moves no file: links and whatever names the folder by its id go on working. A quota below what is used
/// deletes nothing; nothing more is taken then.
#[utoipa::path(patch, path = "/storages/{folder}", tag = "Storage", request_body = StorageFolderPatch,
    params(("folder" = String, Path, description = "Id, or name with its slashes percent-encoded"), IfMatch),
    responses((status = 200, body = StorageFolder)))]
async fn update_storage(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
    Body(patch): Body<StorageFolderPatch>,
) -> Result<Response, Fault> {
    once::write(&app, caller, None, move |tx, caller| {
        Ok(Answer::ok(view(storage::update(tx, caller, &text, &patch, revision)?)))
    })
    .await
}

/// Delete a storage folder
///
/// One that has files is refused with `in_use`, unless `files=true`: then it is gone at once with all of them, and the
/// space is given back in the background. Its links end with it.
#[utoipa::path(delete, path = "/storages/{folder}", tag = "Storage",
    params(("folder" = String, Path, description = "Id, or name with its slashes percent-encoded"), DeleteFolderQuery,
        IfMatch),
    responses((status = 204)))]
async fn delete_storage(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    Query(query): Query<DeleteFolderQuery>,
    IfMatch(revision): IfMatch,
) -> Result<Response, Fault> {
    once::carry_out(&app, caller, move |tx, caller| {
        storage::delete(tx, caller, &text, query.files == Some(true), revision)
    })
    .await
}

/// What happened to a storage folder, newest first
///
/// Changes of its settings, and how many files were removed because of their age.
#[utoipa::path(get, path = "/storages/{folder}/events", tag = "Storage",
    params(("folder" = String, Path, description = "Id, or name with its slashes percent-encoded"), PageQuery),
    responses((status = 200, body = Page<Event>)))]
async fn list_storage_events(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    ListQuery(query, NoFilter {}): ListQuery<NoFilter>,
) -> Result<Json<Page<Event>>, Fault> {
    page::events(&app, &caller, &query, |reading, caller| Ok(storage::get(reading, caller, &text)?.id.uuid()))
}
