//! Files of storage folders.

use std::sync::Arc;

use axum::{Json, extract::State, http::HeaderMap, response::Response};
use drover_protocol::{
    API_BASE,
    page::{Page, PageQuery},
    storage::{FileFilter, StoredFile},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    content::{self, Ranges, Sending},
    extract::{ListQuery, Path},
    openapi::Binary,
    page,
};
use crate::{
    app::App,
    domain,
    operations::{Caller, file},
    store::blob::BlobName,
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list_files)).routes(routes!(get_file))
}

pub fn view(file: domain::file::File) -> StoredFile {
    StoredFile {
        id: file.id,
        path: file.path,
        size_bytes: file.size_bytes,
        sha256: file.sha256,
        content_type: file.content_type,
        created_by: file.created_by,
        created_at: file.created_at,
        modified_at: file.modified_at,
    }
}

/// Where the content of a file is read.
pub fn address(file: &domain::file::File) -> String {
    let encode =
        |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20");
    let path: Vec<String> = file.path.split('/').map(encode).collect();
    format!("{API_BASE}/storages/{}/files/{}", encode(&file.folder), path.join("/"))
}

/// Files of a folder, by path
///
/// In the order of their paths.
#[utoipa::path(get, path = "/storages/{folder}/files", tag = "Storage",
    params(("folder" = String, Path, description = "Name of the folder, percent-encoded, such as jobs%2F<job id>"),
        PageQuery, FileFilter),
    responses((status = 200, body = Page<StoredFile>)))]
async fn list_files(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(folder): Path<String>,
    ListQuery(query, filter): ListQuery<FileFilter>,
) -> Result<Json<Page<StoredFile>>, Fault> {
    let prefix = filter.prefix.unwrap_or_default();
    let found = app.db.read(caller.account, |reading| file::list(reading, &caller, &folder, &prefix, &query))?;
    Ok(page::page(found, view))
}

/// The content of a file
#[utoipa::path(get, path = "/storages/{folder}/files/{*path}", tag = "Storage",
    params(("folder" = String, Path, description = "Name of the folder, percent-encoded"),
        ("path" = String, Path, description = "Path of the file"), Ranges),
    responses((status = 200, body = inline(Binary), content_type = "*/*"),
        (status = 206, body = inline(Binary),
            content_type = "*/*")))]
async fn get_file(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((folder, path)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let found = app.db.read(caller.account, |reading| file::get(reading, &caller, &folder, &path))?;
    let file_name = found.path.rsplit('/').next().unwrap_or("file");
    let sending =
        Sending { name: BlobName::file(found.id), sha256: &found.sha256, content_type: &found.content_type, file_name };
    content::send(&app, &headers, sending).await
}
