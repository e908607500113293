//! Process versions and their packages.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    response::Response,
};
use drover_protocol::{
    page::{Page, PageQuery},
    process::{ProcessVersion, UploadQuery, VersionPatch},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    content::{self, Digest, Ranges, Sending},
    extract::{Call, IfMatch, Json as Body, ListQuery, NoFilter, Path, Query, repeatable, require_media_type},
    form::{self, UploadForm},
    once::{self, Answer},
    openapi::Binary,
};
use crate::{
    app::App,
    domain,
    error::Result as OperationResult,
    operations::{
        Caller, key,
        process_version::{self, Package},
    },
    package,
    store::{Reading, blob::BlobName},
};

const ZIP_TYPES: [&str; 3] = ["application/zip", "application/x-zip-compressed", "application/octet-stream"];

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_versions, upload_version))
        .routes(routes!(get_version, update_version, delete_version))
        .routes(routes!(activate_version))
        .routes(routes!(get_package))
}

type Found = (domain::process::Process, domain::process::ProcessVersion);

fn view(reading: &dyn Reading, (process, version): Found) -> OperationResult<ProcessVersion> {
    Ok(ProcessVersion {
        id: version.id,
        process_id: version.process_id,
        number: version.number,
        label: version.label,
        notes: version.notes,
        sha256: version.sha256,
        size_bytes: version.size_bytes,
        manifest: process_version::manifest(reading, version.id)?,
        uploaded_by: version.uploaded_by,
        created_at: version.created_at,
        state: version.state,
        active: process.active_version_id == Some(version.id),
        revision: version.revision,
    })
}

/// Versions of a process, newest first
#[utoipa::path(get, path = "/processes/{process}/versions", tag = "Process version",
    params(("process" = String, Path, description = "Id or name"), PageQuery),
    responses((status = 200, body = Page<ProcessVersion>)))]
async fn list_versions(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    ListQuery(query, NoFilter {}): ListQuery<NoFilter>,
) -> Result<Json<Page<ProcessVersion>>, Fault> {
    let found = app.db.read(caller.account, |reading| {
        let (process, found) = process_version::list(reading, &caller, &text, &query)?;
        let views = found.items.into_iter().map(|version| view(reading, (process.clone(), version)));
        Ok(Page { items: views.collect::<OperationResult<_>>()?, next_cursor: found.next_cursor, total: None })
    })?;
    Ok(Json(found))
}

/// Upload a package as a new version
///
/// The body is the zip itself (`application/zip`), with what is said about it in the query; or a form
/// (`multipart/form-data`) with the part `package` and the fields `label`, `notes` and `activate`. The package is
/// validated before it is accepted; the same bytes are stored once.
#[utoipa::path(post, path = "/processes/{process}/versions", tag = "Process version",
    params(("process" = String, Path, description = "Id or name"), UploadQuery, Call, Digest),
    request_body(content((inline(Binary) = "application/zip"), (UploadForm = "multipart/form-data"))),
    responses((status = 201, body = ProcessVersion)))]
async fn upload_version(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    Query(mut query): Query<UploadQuery>,
    request: Request,
) -> Result<Response, Fault> {
    let (parts, body) = request.into_parts();
    // What a repetition asks for is there already: it gets its first answer below.
    let allowed = match parts.headers.contains_key("idempotency-key") {
        true => caller.require(domain::permission::Permission::VersionCreate),
        false => app.db.read(caller.account, |reading| process_version::check_upload(reading, &caller, &text, &query)),
    };
    let ((), body) = content::admit(allowed, &parts.headers, body).await?;
    let staged = match form::is_form(&parts.headers) {
        true => {
            let (staged, fields) = form::receive(&app, &parts, body).await?;
            query = form::merge(query, fields);
            staged
        }
        false => {
            let is_zip = require_media_type(&parts.headers, &ZIP_TYPES);
            let ((), body) = content::admit(is_zip, &parts.headers, body).await?;
            content::receive(&app, body, app.rules.limits.package_bytes).await?
        }
    };
    content::check_digest(&parts.headers, &staged)?;
    // The fields of a form are part of what is asked.
    let asked = format!("{} {query:?}", staged.sha256);
    let call = repeatable(&parts, asked.as_bytes())?;
    let caller = app.db.read(caller.account, |reading| key::renewed(reading, &caller))?;
    if let Some(first) = once::replay(&app, &caller, call.as_ref())? {
        return Ok(first);
    }
    app.db.read(caller.account, |reading| process_version::check_upload(reading, &caller, &text, &query))?;
    let manifest = staged.inspect(|content| package::validate(content, &package::Limits::default())).await?;
    let package = Package { sha256: staged.sha256.clone(), size_bytes: staged.size_bytes, manifest };
    let name = BlobName::package(&package.sha256)?;
    let account = caller.account;
    let write = move |app: Arc<App>| async move {
        once::write(&app, caller, call, move |tx, caller| {
            let found = process_version::create(tx, caller, &text, &query, &package)?;
            let path = format!("/processes/{}/versions/{}", found.0.id, found.1.id);
            Ok(Answer::created(view(tx, found)?, path))
        })
        .await
    };
    content::keep(&app, account, staged, name, write).await
}

/// A version
#[utoipa::path(get, path = "/processes/{process}/versions/{version}", tag = "Process version",
    params(("process" = String, Path, description = "Id or name"),
        ("version" = String, Path, description = "Id, number, label or `active`")),
    responses((status = 200, body = ProcessVersion)))]
async fn get_version(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((process, version)): Path<(String, String)>,
) -> Result<Json<ProcessVersion>, Fault> {
    Ok(Json(
        app.db.read(caller.account, |reading| {
            view(reading, process_version::get(reading, &caller, &process, &version)?)
        })?,
    ))
}

/// Change label, notes or state of a version
#[utoipa::path(patch, path = "/processes/{process}/versions/{version}", tag = "Process version",
    request_body = VersionPatch,
    params(("process" = String, Path, description = "Id or name"),
        ("version" = String, Path, description = "Id, number, label or `active`"), IfMatch),
    responses((status = 200, body = ProcessVersion)))]
async fn update_version(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((process, version)): Path<(String, String)>,
    IfMatch(revision): IfMatch,
    Body(patch): Body<VersionPatch>,
) -> Result<Response, Fault> {
    once::write(&app, caller, None, move |tx, caller| {
        let found = process_version::update(tx, caller, &process, &version, &patch, revision)?;
        Ok(Answer::ok(view(tx, found)?))
    })
    .await
}

/// Delete a version that nothing refers to
///
/// The active version, one that a group is pinned to, and one that jobs were started with are kept.
#[utoipa::path(delete, path = "/processes/{process}/versions/{version}", tag = "Process version",
    params(("process" = String, Path, description = "Id or name"),
        ("version" = String, Path, description = "Id, number or label"), IfMatch),
    responses((status = 204)))]
async fn delete_version(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((process, version)): Path<(String, String)>,
    IfMatch(revision): IfMatch,
) -> Result<Response, Fault> {
    once::carry_out(&app, caller, move |tx, caller| process_version::delete(tx, caller, &process, &version, revision))
        .await
}

/// Make it the version that new jobs run
///
/// Activating an older one is the way back. Jobs that wait or run keep the version with which they were started.
#[utoipa::path(post, path = "/processes/{process}/versions/{version}/activate", tag = "Process version",
    params(("process" = String, Path, description = "Id or name"),
        ("version" = String, Path, description = "Id, number or label"), Call),
    responses((status = 200, body = ProcessVersion)))]
async fn activate_version(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((process, version)): Path<(String, String)>,
    Call(call): Call,
) -> Result<Response, Fault> {
    once::write(&app, caller, call, move |tx, caller| {
        let found = process_version::activate(tx, caller, &process, &version)?;
        Ok(Answer::ok(view(tx, found)?))
    })
    .await
}

/// The package of a version
#[utoipa::path(get, path = "/processes/{process}/versions/{version}/package", tag = "Process version",
    params(("process" = String, Path, description = "Id or name"),
        ("version" = String, Path, description = "Id, number, label or `active`"), Ranges),
    responses((status = 200, body = inline(Binary), content_type = "application/zip"),
        (status = 206, body = inline(Binary), content_type = "application/zip")))]
async fn get_package(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((process, version)): Path<(String, String)>,
    Ranges(headers): Ranges,
) -> Result<Response, Fault> {
    let (process, version) =
        app.db.read(caller.account, |reading| process_version::get(reading, &caller, &process, &version))?;
    let file_name = format!("{}-{}.zip", process.name, version.number);
    let name = BlobName::package(&version.sha256)?;
    let sending = Sending { name, sha256: &version.sha256, content_type: "application/zip", file_name: &file_name };
    content::send(&app, &headers, sending).await
}
