//! Content codings: bodies that come compressed, and answers that go out so. What does neither, as most requests do, passes
//! without the layers that could: with the state of every coder in them they are large, and are moved about.

use std::{convert::Infallible, future::ready};

use axum::{
    body::Body,
    extract::Request,
    http::{Extensions, HeaderMap, HeaderValue, StatusCode, Version, header},
    middleware::Next,
    response::Response,
};
use tower::{Layer, ServiceExt, service_fn};
use tower_http::{
    CompressionLevel,
    compression::{
        CompressionLayer,
        predicate::{DefaultPredicate, NotForContentType, Predicate},
    },
    decompression::{DecompressionBody, RequestDecompressionLayer},
};

/// Answers a request, however its body is coded, in a coding that it accepts.
pub async fn run(request: Request, next: Next) -> Response {
    let accepted = request.headers().contains_key(header::ACCEPT_ENCODING).then(|| accepted(request.headers()));
    let response = match request.headers().contains_key(header::CONTENT_ENCODING) {
        true => decoded(request, next).await,
        false => next.run(request).await,
    };
    encoded(response, accepted).await
}

/// What the layer for answers looks at.
fn accepted(headers: &HeaderMap) -> Request<()> {
    let mut request = Request::new(());
    for coding in headers.get_all(header::ACCEPT_ENCODING) {
        request.headers_mut().append(header::ACCEPT_ENCODING, coding.clone());
    }
    request
}

async fn decoded(request: Request, next: Next) -> Response {
    let mut next = Some(next);
    let inner = service_fn(move |request: http::Request<DecompressionBody<Body>>| {
        let next = next.take();
        async move {
            Ok::<_, Infallible>(match next {
                Some(next) => next.run(request.map(Body::new)).await,
                None => Response::default(),
            })
        }
    });
    let layer = RequestDecompressionLayer::new().gzip(true).zstd(true).br(true);
    let Ok(response) = layer.layer(inner).oneshot(request).await;
    response.map(Body::new)
}

async fn encoded(mut response: Response, accepted: Option<Request<()>>) -> Response {
    let Some(accepted) = accepted else {
        // Another caller may get it in another form.
        if may_encode().should_compress(&response) && !response.headers().contains_key(header::CONTENT_ENCODING) {
            response.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
        }
        return response;
    };
    // The layer would call a request refused that has been carried out, because it accepts no coding at all; it may then
    // be answered as if it had said nothing.
    let status = response.status();
    let mut response = Some(response);
    let inner = service_fn(move |_: Request<()>| ready(Ok::<_, Infallible>(response.take().unwrap_or_default())));
    let layer = CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(may_encode());
    let Ok(response) = layer.layer(inner).oneshot(accepted).await;
    let mut response = response.map(Body::new);
    *response.status_mut() = status;
    response
}

/// Parts of files and what has a digest of its own go out as they are; streams of events and of answers to lines must not
/// be held back.
fn may_encode() -> impl Predicate {
    let not_partial = |_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions| {
        !headers.contains_key(header::CONTENT_RANGE)
            && !headers.contains_key("content-digest")
            && !headers.contains_key("x-accel-buffering")
    };
    DefaultPredicate::new().and(NotForContentType::new("application/zip")).and(not_partial)
}
