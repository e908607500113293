//! Errors as answers: one mapping, RFC 9457 documents, and the id by which a request is found in the log.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use drover_protocol::problem::{Code, FieldError, Problem};
use futures::FutureExt;

use super::coding;
use crate::{app::App, error::Error};

/// What a handler gives instead of an answer. Boxed, for it is seldom and results carry it everywhere.
#[derive(Clone, Debug)]
pub struct Fault(Box<Details>);

#[derive(Clone, Debug)]
struct Details {
    code: Code,
    detail: String,
    errors: Vec<FieldError>,
    id: Option<String>,
    next_seq: Option<u64>,
    retry_after_seconds: Option<u64>,
    /// For the coordinator's own log only.
    internal: Option<String>,
}

impl Fault {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Box::new(Details {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            id: None,
            next_seq: None,
            retry_after_seconds: None,
            internal: None,
        }))
    }

    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What is wrong, as the caller is told.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// One entry per field that is not valid.
    pub fn errors(&self) -> &[FieldError] {
        &self.0.errors
    }

    /// What only the coordinator's own log is told.
    pub fn internal(&self) -> Option<&str> {
        self.0.internal.as_deref()
    }

    /// A request that cannot be read.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, detail)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let mut fault = Self::new(error.code(), sentence(&error.to_string()));
        match error {
            Error::AlreadyExists { id, .. } => fault.0.id = Some(id),
            Error::LogGap { next_seq } => fault.0.next_seq = Some(next_seq),
            Error::Invalid(errors) => fault.0.errors = errors,
            Error::TooMany { retry_after_seconds } => fault.0.retry_after_seconds = Some(retry_after_seconds),
            Error::Unavailable(_) => fault.0.retry_after_seconds = Some(1),
            Error::OutOfSpace => fault.0.retry_after_seconds = Some(30),
            Error::Internal(text) => {
                fault.0.internal = Some(text);
                fault.0.detail = "This is a bug of the coordinator; its log has more under the request id.".to_owned();
            }
            Error::BadRequest(_)
            | Error::NotFound(_)
            | Error::Refused { .. }
            | Error::PreconditionFailed { .. }
            | Error::Unauthenticated(_)
            | Error::Forbidden(_)
            | Error::TooLarge(_) => {}
        }
        fault
    }
}

/// A fragment as people read it.
fn sentence(fragment: &str) -> String {
    let mut chars = fragment.chars();
    match chars.next() {
        Some(first) => {
            let end = if fragment.ends_with(['.', '?', '!']) { "" } else { "." };
            format!("{}{}{end}", first.to_uppercase(), chars.as_str())
        }
        None => String::new(),
    }
}

impl IntoResponse for Fault {
    /// The body is written by [`complete`], which knows the request's id.
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"drover\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = self.0.retry_after_seconds {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self);
        response
    }
}

fn body_of(fault: &Fault, request_id: &str) -> Problem {
    Problem {
        code: fault.0.code,
        title: fault.0.code.title().to_owned(),
        status: fault.0.code.status(),
        detail: fault.0.detail.clone(),
        request_id: request_id.to_owned(),
        errors: fault.0.errors.clone(),
        id: fault.0.id.clone(),
        next_seq: fault.0.next_seq,
    }
}

/// Gives each request an id, writes the bodies of faults, counts and logs.
pub async fn complete(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let request_id = app.db.new_id().simple().to_string();
    let started = Instant::now();
    let method = request.method().clone();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("unknown", MatchedPath::as_str);
    let figures = app.metrics.of_route(known_method(&method), route);
    let under_way = figures.begin();
    let mut response = AssertUnwindSafe(coding::run(request, next)).catch_unwind().await.unwrap_or_else(panicked);
    drop(under_way);
    if let Some(fault) = response.extensions_mut().remove::<Fault>().or_else(|| bare_fault(&response)) {
        if let Some(internal) = &fault.0.internal {
            tracing::error!(request_id, %method, route, error = internal, "request failed");
        }
        write_problem(&mut response, &body_of(&fault, &request_id));
    }
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert("x-request-id", value);
    }
    harden(response.headers_mut());
    let (status, took) = (response.status(), started.elapsed());
    figures.count(status.as_u16(), took);
    tracing::debug!(request_id, %method, route, status = status.as_u16(), took_ms = took.as_millis(), "request");
    response
}

/// Methods can be invented without end; figures are not kept for each of them.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// What a layer below the handlers has refused without a word.
fn bare_fault(response: &Response) -> Option<Fault> {
    let status = response.status();
    let bare = (status.is_client_error() || status.is_server_error())
        && !response.headers().contains_key(header::CONTENT_TYPE);
    match status {
        _ if !bare => None,
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Some(Fault::new(
            Code::UnsupportedMediaType,
            "Send the body as it is, or with Content-Encoding gzip, zstd or br.",
        )),
        _ => {
            let code = Code::ALL.iter().find(|code| code.status() == status.as_u16())?;
            Some(Fault::new(*code, code.explanation().trim()))
        }
    }
}

fn write_problem(response: &mut Response, problem: &Problem) {
    let json = serde_json::to_vec(problem).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.remove(header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(json);
}

/// Answers hold people's data: nobody in between keeps them, and no browser takes them for something else.
fn harden(headers: &mut HeaderMap) {
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
}

pub async fn not_found() -> Fault {
    Fault::new(Code::NotFound, "There is no such address; /docs lists all of them.")
}

/// The router adds the header `Allow` to either answer.
pub async fn method_not_allowed(method: Method) -> Response {
    if method == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    let detail = "This address does not take this method; the header Allow names those that it takes.";
    Fault::new(Code::MethodNotAllowed, detail).into_response()
}

/// The answer to a request whose handler panicked.
fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
    Fault::from(Error::Internal(format!("a handler panicked: {text}"))).into_response()
}
