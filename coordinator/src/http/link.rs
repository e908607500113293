//! Signed links, which open one file without a key.

use std::sync::Arc;

use axum::{
    body::Body as HttpBody,
    extract::State,
    http::{HeaderMap, Uri},
    response::Response,
};
use drover_protocol::{
    API_BASE,
    problem::Code,
    storage::{Link, LinkVerb, NewLink, PutFileQuery, StoredFile},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    content::{self, Digest, Ranges},
    extract::{Call, ContentConditions, Path, Posted, Query},
    file,
    once::{self, Answer},
    openapi::Binary,
    session,
};
use crate::{
    app::App,
    error::{Error, Result as OperationResult},
    operations::{
        Caller,
        link::{self, Grant},
    },
    store::key::SYSTEM_ACCOUNT,
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(create_link)).routes(routes!(read_by_link, write_by_link))
}

/// Make a link to a file
///
/// Whoever has it can read (`get`) or write (`put`) this one file without a key, for a week at the most. It acts in the name
/// of the key that made it: it ends with that key and with the folder. What a job has made is read as long as the job is
/// kept, and written while the attempt runs that made it. The file need not be there yet.
#[utoipa::path(post, path = "/storages/{folder}/links", tag = "Storage", request_body = NewLink,
    params(("folder" = String, Path, description = "Id, or name with its slashes percent-encoded"), Call),
    responses((status = 201, body = Link)))]
async fn create_link(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(folder): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    request: Posted<NewLink>,
) -> Result<Response, Fault> {
    let (base, secrets) = (base(&app, &uri, &headers), Arc::clone(&app.secrets));
    once::write(&app, caller, request.call, move |tx, caller| {
        let (token, grant) = link::create(tx, caller, &folder, &request.body, &secrets)?;
        let path = format!("/links/{token}");
        Ok(Answer::created(Link { url: format!("{base}{API_BASE}{path}"), expires_at: grant.expires_at }, path))
    })
    .await
}

/// Under which root the caller reaches this coordinator: as set, or as it was called just now.
pub fn base(app: &App, uri: &Uri, headers: &HeaderMap) -> String {
    if !app.rules.public_url.is_empty() {
        return app.rules.public_url.trim_end_matches('/').to_owned();
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(host) = uri.authority().map(|host| host.as_str()).or_else(|| text("host")) else { return String::new() };
    let is_encrypted = session::is_encrypted(app) || text("x-forwarded-proto") == Some("https");
    let scheme = if is_encrypted { "https" } else { "http" };
    format!("{scheme}://{host}")
}

fn open(app: &App, grant: Grant, verb: LinkVerb) -> OperationResult<(Grant, Caller)> {
    app.db.read(SYSTEM_ACCOUNT, |reading| link::open(reading, grant, verb, &app.manifests))
}

/// Read a file by its link
#[utoipa::path(get, path = "/links/{token}", tag = "Storage", security(()),
    params(("token" = String, Path, description = "As it stands in the link"), Ranges),
    responses((status = 200, body = inline(Binary), content_type = "*/*"),
        (status = 206, body = inline(Binary),
            content_type = "*/*")))]
async fn read_by_link(
    State(app): State<Arc<App>>,
    Path(token): Path<String>,
    Ranges(headers): Ranges,
) -> Result<Response, Fault> {
    let (grant, caller) = open(&app, link::read(&token, &app.secrets)?, LinkVerb::Get)?;
    file::send(&app, &caller, &grant.folder, &grant.path, &headers).await
}

/// Write a file by its link
///
/// As with a key: whole or not at all, within the limit and the folder's quota.
#[utoipa::path(put, path = "/links/{token}", tag = "Storage", security(()),
    params(("token" = String, Path, description = "As it stands in the link"), PutFileQuery, Digest, ContentConditions),
    request_body(content = inline(Binary), content_type = "application/octet-stream"),
    responses((status = 200, body = StoredFile), (status = 201, body = StoredFile)))]
async fn write_by_link(
    State(app): State<Arc<App>>,
    Path(token): Path<String>,
    Query(query): Query<PutFileQuery>,
    ContentConditions(conditions): ContentConditions,
    headers: HeaderMap,
    body: HttpBody,
) -> Result<Response, Fault> {
    // What somebody sends with a forged link is not even read off.
    let grant = link::read(&token, &app.secrets)?;
    let allowed = || Ok::<_, Fault>((open(&app, grant, LinkVerb::Put)?, file::described(&headers, &query)?));
    let (((grant, caller), described), body) = content::admit(allowed(), &headers, body).await?;
    let written = file::receive(&app, caller, grant.folder, grant.path, described, conditions, &headers, body).await;
    // Its key may end while the content comes.
    written.map_err(|fault| match fault.code() {
        Code::Unauthenticated => Error::Forbidden(link::ENDED.to_owned()).into(),
        _ => fault,
    })
}
