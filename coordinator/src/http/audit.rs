//! The audit trail.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use drover_protocol::{
    audit::{AuditFilter, AuditRecord, AuditVerification},
    page::{Page, PageQuery},
};
use futures::stream;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    extract::{Accept, ListQuery},
    page,
};
use crate::{
    app::App,
    error::Error,
    operations::{
        Caller,
        audit::{self, Search},
    },
};

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";
/// Records that are looked at together for an export.
const EXPORT_PAGE: usize = 1_000;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list_audit)).routes(routes!(verify_audit))
}

/// The audit trail: who did what
///
/// Newest first, page by page. With `Accept: application/x-ndjson` all that fits the filter, oldest first, one record to a
/// line; `limit` and `cursor` do not matter then. What people do is written here, and every reading of a sealed value;
/// the start of a job is told by its own events.
#[utoipa::path(get, path = "/audit", tag = "Account", params(PageQuery, AuditFilter),
    responses((status = 200, content((Page<AuditRecord> = "application/json"), (String = "application/x-ndjson",
        example = json!("{\"seq\":1, …, \"hash\":\"6b86…\"}\n"))))))]
async fn list_audit(
    State(app): State<Arc<App>>,
    caller: Caller,
    ListQuery(query, filter): ListQuery<AuditFilter>,
    accept: Accept,
) -> Result<Response, Fault> {
    match accept.choose(&[JSON, NDJSON])? {
        NDJSON => {
            let search = app.db.read(caller.account, |reading| audit::search(reading, &caller, &filter))?;
            Ok(export(app, caller, search))
        }
        _ => {
            let found = app.db.read(caller.account, |reading| audit::list(reading, &caller, &filter, &query))?;
            let found: Json<Page<AuditRecord>> = page::page(found, |record| record);
            Ok(found.into_response())
        }
    }
}

fn export(app: Arc<App>, caller: Caller, search: Search) -> Response {
    let pages = stream::try_unfold(Some(search), move |rest| {
        let (app, account) = (Arc::clone(&app), caller.account);
        async move {
            let Some(mut search) = rest else { return Ok::<_, Error>(None) };
            let (lines, rest) = app
                .read_aside(account, move |reading| {
                    let (lines, more) = audit::export_page(reading, &mut search, EXPORT_PAGE)?;
                    Ok((lines, more.then_some(search)))
                })
                .await?;
            Ok(Some((lines, rest)))
        }
    });
    let mut response = Body::from_stream(pages).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    response
}

/// Check the chain of the audit trail
///
/// Goes through every act: each must have its hash and name that of the act before. What is wrong is told in words.
#[utoipa::path(get, path = "/audit/verify", tag = "Account", responses((status = 200, body = AuditVerification)))]
async fn verify_audit(State(app): State<Arc<App>>, caller: Caller) -> Result<Json<AuditVerification>, Fault> {
    let account = caller.account;
    Ok(Json(app.read_aside(account, move |reading| audit::verify(reading, &caller)).await?))
}
