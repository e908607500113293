//! Files of storage folders.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    body::Body as HttpBody,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use drover_protocol::{
    API_BASE, FileId,
    page::PageQuery,
    problem::Code,
    storage::{FileFilter, FilePage, FileTransfer, PutFileQuery, StoredFile},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    content::{self, Digest, Ranges, Sending},
    extract::{ContentConditions, ListQuery, Path, Posted, Query},
    once::{self, Answer},
    openapi::Binary,
};
use crate::{
    app::App,
    domain::{
        self,
        file::{Conditions, is_content_type},
    },
    error::Error,
    operations::{
        Caller,
        file::{self, Content, Described, Transfer},
        list::parse_pairs,
        storage,
    },
    store::blob::BlobName,
};

/// So often a file is looked for whose content was gone when it was to be sent.
const MAX_LOOKS: usize = 5;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_files))
        .routes(routes!(get_file, put_file, delete_file))
        .routes(routes!(copy_file))
        .routes(routes!(move_file))
}

pub fn view(file: domain::file::File) -> StoredFile {
    StoredFile {
        id: file.id,
        path: file.path,
        size_bytes: file.size_bytes,
        sha256: file.sha256,
        content_type: file.content_type,
        metadata: file.metadata,
        created_by: file.created_by,
        created_at: file.created_at,
        modified_at: file.modified_at,
    }
}

fn encode(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// Where the content of a file is read, below the API's base.
fn path_of(file: &domain::file::File) -> String {
    let path: Vec<String> = file.path.split('/').map(encode).collect();
    format!("/storages/{}/files/{}", encode(&file.folder), path.join("/"))
}

/// Where the content of a file is read.
pub fn address(file: &domain::file::File) -> String {
    format!("{API_BASE}{}", path_of(file))
}

/// Files of a folder, by path
///
/// In the order of their paths. `count=true` tells their `total` for a folder that people made, without `prefix` and
/// `delimiter`. With `delimiter=/` one level at a time: what lies deeper is told by its beginning only.
#[utoipa::path(get, path = "/storages/{folder}/files", tag = "Storage",
    params(("folder" = String, Path, description = "Id, or name with its slashes percent-encoded, such as jobs%2F<job id>"),
        PageQuery, FileFilter),
    responses((status = 200, body = FilePage)))]
async fn list_files(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(folder): Path<String>,
    ListQuery(query, filter): ListQuery<FileFilter>,
) -> Result<Json<FilePage>, Fault> {
    let prefix = filter.prefix.unwrap_or_default();
    let views = |files: Vec<domain::file::File>| files.into_iter().map(view).collect();
    let page = match filter.delimiter.as_deref() {
        None => {
            let (page, total) =
                app.db.read(caller.account, |reading| file::list(reading, &caller, &folder, &prefix, &query))?;
            FilePage { items: views(page.items), prefixes: None, next_cursor: page.next_cursor, total }
        }
        Some("/") => {
            let level =
                app.db.read(caller.account, |reading| file::list_level(reading, &caller, &folder, &prefix, &query))?;
            let (items, prefixes) = (views(level.files), Some(level.prefixes));
            FilePage { items, prefixes, next_cursor: level.next_cursor, total: None }
        }
        Some(_) => return Err(Error::invalid("delimiter", "the one delimiter is /").into()),
    };
    Ok(Json(page))
}

/// The content of a file
///
/// `HEAD` tells the same without the content. `X-Drover-Metadata` has the metadata in the form of a query string.
#[utoipa::path(get, path = "/storages/{folder}/files/{*path}", tag = "Storage",
    params(("folder" = String, Path, description = "Id, or name with its slashes percent-encoded"),
        ("path" = String, Path, description = "Path of the file"), Ranges),
    responses((status = 200, body = inline(Binary), content_type = "*/*"),
        (status = 206, body = inline(Binary),
            content_type = "*/*")))]
async fn get_file(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((folder, path)): Path<(String, String)>,
    Ranges(headers): Ranges,
) -> Result<Response, Fault> {
    send(&app, &caller, &folder, &path, &headers).await
}

/// Sends a file that the caller may read.
pub async fn send(
    app: &App,
    caller: &Caller,
    folder: &str,
    path: &str,
    headers: &HeaderMap,
) -> Result<Response, Fault> {
    let look = || app.db.read(caller.account, |reading| file::get(reading, caller, folder, path));
    let mut found = look()?;
    for _ in 0..MAX_LOOKS {
        let before = found.content_id();
        match send_found(app, headers, found).await {
            // It was replaced since it was looked for, and its old content is gone already.
            Err(fault) if fault.code() == Code::NotFound => {
                found = look()?;
                if found.content_id() == before {
                    return Err(fault);
                }
            }
            answer => return answer,
        }
    }
    Err(Error::Unavailable("the file is replaced again and again; ask for it once more".to_owned()).into())
}

async fn send_found(app: &App, headers: &HeaderMap, found: domain::file::File) -> Result<Response, Fault> {
    // A condition on what is read: it must still be what the caller has begun to read.
    let if_match = ContentConditions::of(headers)?.0.if_match;
    Conditions { if_match, if_none_match: None }.check(Some(&found))?;
    let sending = Sending {
        name: BlobName::file(found.content_id()),
        sha256: &found.sha256,
        content_type: &found.content_type,
        file_name: found.path.rsplit('/').next().unwrap_or("file"),
    };
    let mut response = content::send(app, headers, sending).await?;
    if !found.metadata.is_empty() {
        let pairs = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&found.metadata).finish();
        if let Ok(value) = HeaderValue::from_str(&pairs) {
            response.headers_mut().insert(HeaderName::from_static("x-drover-metadata"), value);
        }
    }
    Ok(response)
}

/// Write a file
///
/// Whole or not at all: until all of it is on disk whoever reads sees what was there before. Of any size up to the
/// operator's limit and the folder's quota. `Content-Type` is kept, or found by the ending of the path. Paths are kept
/// exactly as they are given, in any script; two that only look alike (upper and lower case, composed and decomposed
/// letters) are two files. 201 if the file is new, 200 if it took the place of another.
#[utoipa::path(put, path = "/storages/{folder}/files/{*path}", tag = "Storage",
    params(("folder" = String, Path, description = "Id, or name with its slashes percent-encoded"),
        ("path" = String, Path, description = "Path of the file: parts of 1 to 255 bytes, 1024 bytes together"),
        PutFileQuery, Digest, ContentConditions),
    request_body(content = inline(Binary), content_type = "application/octet-stream"),
    responses((status = 200, body = StoredFile), (status = 201, body = StoredFile)))]
async fn put_file(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((folder, path)): Path<(String, String)>,
    Query(query): Query<PutFileQuery>,
    ContentConditions(conditions): ContentConditions,
    headers: HeaderMap,
    body: HttpBody,
) -> Result<Response, Fault> {
    let (described, body) = content::admit(described(&headers, &query), &headers, body).await?;
    receive(&app, caller, folder, path, described, conditions, &headers, body).await
}

/// What the headers and the query of a writing call say about the file.
pub fn described(headers: &HeaderMap, query: &PutFileQuery) -> Result<Described, Fault> {
    let content_type = match headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default()) {
        Some(text) if !is_content_type(text) => {
            return Err(Error::invalid("Content-Type", "must be a media type of at most 255 characters").into());
        }
        given => given.map(str::to_owned),
    };
    let metadata: BTreeMap<String, String> = parse_pairs("metadata", &query.metadata)?.into_iter().collect();
    if metadata.len() < query.metadata.len() {
        return Err(Error::invalid("metadata", "names a key twice").into());
    }
    Ok(Described { content_type, metadata })
}

/// Takes a file in that the caller may write.
#[expect(clippy::too_many_arguments, reason = "the parts of one request")]
pub async fn receive(
    app: &Arc<App>,
    caller: Caller,
    folder: String,
    path: String,
    described: Described,
    conditions: Conditions,
    headers: &HeaderMap,
    body: HttpBody,
) -> Result<Response, Fault> {
    let allowed = app.db.read(caller.account, |reading| {
        let place = file::check_put(reading, &caller, &folder, &path, &described, &conditions)?;
        let room = file::room_bytes(reading, &place, &path)?;
        Ok((place, room))
    });
    let ((place, room), body) = content::admit(allowed, headers, body).await?;
    let most = app.rules.limits.file_bytes;
    let limit = room.map_or(most, |room| room.min(most));
    let staged = content::receive(app, body, limit).await.map_err(|fault| match (&place, fault.code()) {
        (storage::Place::Made(folder), Code::TooLarge) if limit < most => storage::over_quota(folder).into(),
        _ => fault,
    })?;
    content::check_digest(headers, &staged)?;
    let content = Content {
        id: FileId::from_uuid(app.db.new_id()),
        sha256: staged.sha256.clone(),
        size_bytes: staged.size_bytes,
    };
    let (account, name) = (caller.account, BlobName::file(content.id));
    let write = move |app: Arc<App>| async move {
        let written =
            app.db.write(account, move |tx| file::put(tx, &caller, &folder, &path, &content, &described, &conditions));
        written.await.map_err(Fault::from)
    };
    let (stored, is_new) = content::keep(app, account, staged, name, write).await?;
    let headers = [(header::LOCATION, address(&stored)), (header::ETAG, stored.tag())];
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, headers, Json(view(stored))).into_response())
}

/// Delete a file
#[utoipa::path(delete, path = "/storages/{folder}/files/{*path}", tag = "Storage",
    params(("folder" = String, Path, description = "Id, or name with its slashes percent-encoded"),
        ("path" = String, Path, description = "Path of the file"), ContentConditions),
    responses((status = 204)))]
async fn delete_file(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((folder, path)): Path<(String, String)>,
    ContentConditions(conditions): ContentConditions,
) -> Result<Response, Fault> {
    once::carry_out(&app, caller, move |tx, caller| file::delete(tx, caller, &folder, &path, &conditions)).await
}

/// Copy a file
///
/// Within its folder or to another one, of whatever size at once: a copy shares the content, which is kept as long as
/// either of them is there.
#[utoipa::path(post, path = "/storages/{folder}/copy", tag = "Storage", request_body = FileTransfer,
    params(("folder" = String, Path, description = "Id, or name with its slashes percent-encoded"), super::extract::Call),
    responses((status = 201, body = StoredFile)))]
async fn copy_file(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(folder): Path<String>,
    request: Posted<FileTransfer>,
) -> Result<Response, Fault> {
    transfer(app, caller, folder, request, Transfer::Copy).await
}

/// Move a file
///
/// Within its folder, which is to rename it, or to another one. Readers find it at one of the two places at any time.
#[utoipa::path(post, path = "/storages/{folder}/move", tag = "Storage", request_body = FileTransfer,
    params(("folder" = String, Path, description = "Id, or name with its slashes percent-encoded"), super::extract::Call),
    responses((status = 201, body = StoredFile)))]
async fn move_file(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(folder): Path<String>,
    request: Posted<FileTransfer>,
) -> Result<Response, Fault> {
    transfer(app, caller, folder, request, Transfer::Move).await
}

async fn transfer(
    app: Arc<App>,
    caller: Caller,
    folder: String,
    request: Posted<FileTransfer>,
    transfer: Transfer,
) -> Result<Response, Fault> {
    once::write(&app, caller, request.call, move |tx, caller| {
        let file = file::transfer(tx, caller, &folder, &request.body, transfer)?;
        let path = path_of(&file);
        Ok(Answer::created(view(file), path))
    })
    .await
}
