//! The document of the API, and the page that shows it.

use std::sync::Arc;

use axum::{Router, body::Bytes, http::header, response::Redirect, routing::get};
use drover_protocol::problem::{Code, Problem};
use utoipa::{
    OpenApi, PartialSchema, ToSchema,
    openapi::{
        self, ContentBuilder, Ref, RefOr, ResponseBuilder,
        path::{HttpMethod, Operation},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::app::App;

/// Where the document lies.
pub const DOCUMENT_PATH: &str = "/api/v1/openapi.json";

#[derive(OpenApi)]
#[openapi(
    info(title = "Drover", description = "The API of the Drover coordinator.

Send `Authorization: Bearer <key>` with every call. In a path, objects are named by id or by their unique name. Lists \
answer `{items, next_cursor}`. Errors are problem documents (RFC 9457) whose `type` is one of the codes below. A POST \
that carries an `Idempotency-Key` may be repeated: the same call within 24 hours gives the first answer."),
    tags(
        (name = "Key"), (name = "Robot"), (name = "Robot group"), (name = "Process"), (name = "Process version"),
        (name = "Job"), (name = "Log"), (name = "Storage"), (name = "Account"),
        (name = "Agent", description = "What agents say; with the robot's key, except to join."),
        (name = "System", description = "Operation of the coordinator itself.")
    ),
    components(schemas(Problem))
)]
struct Base;

/// The document before the routes are added.
pub fn base() -> openapi::OpenApi {
    let mut document = Base::openapi();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    let reference: String = Code::ALL
        .iter()
        .map(|code| format!("\n| {} | `{}` | {} |", code.status(), code.as_str(), code.explanation().trim()))
        .collect();
    let description = document.info.description.take().unwrap_or_default();
    document.info.description =
        Some(format!("{description}\n\n| status | code | when, and what helps |\n|---|---|---|{reference}"));
    document
}

/// The whole document: what holds for every operation is added here, once.
pub fn finish(mut document: openapi::OpenApi) -> openapi::OpenApi {
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("The key's text. `Basic <key>` is accepted as well."))
        .build();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("key", SecurityScheme::Http(scheme));
    components.schemas.insert(Problem::name().into_owned(), Problem::schema());
    for (path, item) in &mut document.paths.paths {
        let methods = [
            (HttpMethod::Get, &mut item.get),
            (HttpMethod::Post, &mut item.post),
            (HttpMethod::Put, &mut item.put),
            (HttpMethod::Patch, &mut item.patch),
            (HttpMethod::Delete, &mut item.delete),
        ];
        for (method, operation) in methods {
            if let Some(operation) = operation {
                complete(path, &method, operation);
            }
        }
    }
    // The catch-all segment of the router has no such form in a document.
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths = paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    document
}

fn complete(path: &str, method: &HttpMethod, operation: &mut Operation) {
    let open = operation.security.is_some();
    if !open {
        operation.security = Some(vec![SecurityRequirement::new::<_, [String; 0], String>("key", [])]);
    }
    let writes = !matches!(method, HttpMethod::Get);
    for code in possible_codes(path, writes, operation.request_body.is_some(), open) {
        let status = code.status().to_string();
        if operation.responses.responses.contains_key(&status) {
            continue;
        }
        let titles: Vec<&str> =
            Code::ALL.iter().filter(|other| other.status() == code.status()).map(|c| c.as_str()).collect();
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name()))).build();
        let response = ResponseBuilder::new()
            .description(format!("{} (`{}`)", code.title(), titles.join("`, `")))
            .content("application/problem+json", content)
            .build();
        operation.responses.responses.insert(status, RefOr::T(response));
    }
}

/// Which errors an operation can answer, by its nature.
fn possible_codes(path: &str, writes: bool, has_body: bool, open: bool) -> Vec<Code> {
    let mut codes = vec![Code::BadRequest, Code::TooManyRequests, Code::Internal, Code::Unavailable];
    if path == "/healthz" || path == "/readyz" {
        return Vec::new();
    }
    if !open || path.ends_with("/join") {
        codes.extend([Code::Unauthenticated, Code::Forbidden]);
    }
    if path.contains('{') {
        codes.push(Code::NotFound);
    }
    if path.contains("{*") || path.ends_with("package") || path.contains("packages") {
        codes.push(Code::RangeNotSatisfiable);
    }
    if path.ends_with("/logs") && !writes {
        codes.push(Code::NotAcceptable);
    }
    codes.push(Code::Invalid);
    if writes {
        codes.extend([Code::WrongState, Code::PreconditionFailed, Code::TooLarge, Code::OutOfSpace]);
    }
    if has_body {
        codes.push(Code::UnsupportedMediaType);
    }
    codes
}

/// The document as text, in an order that does not change: for files that are compared.
pub fn document_text() -> Result<String, serde_json::Error> {
    let (_, document) = super::routes().split_for_parts();
    let mut text = serde_json::to_string_pretty(&serde_json::to_value(finish(document))?)?;
    text.push('\n');
    Ok(text)
}

/// The document and the page that shows it.
pub fn pages(document: &openapi::OpenApi) -> Router<Arc<App>> {
    let json = Bytes::from(serde_json::to_vec(document).expect("a document of names and texts can be written"));
    let headers = [(header::CONTENT_TYPE, "application/json")];
    let config = Config::from(DOCUMENT_PATH).persist_authorization(true).try_it_out_enabled(true).validator_url("none");
    Router::new()
        .route(DOCUMENT_PATH, get(move || async move { (headers, json) }))
        .merge(SwaggerUi::new("/docs").config(config))
        .route("/", get(|| async { Redirect::temporary("/docs") }))
}
