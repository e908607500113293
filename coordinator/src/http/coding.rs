//! Content codings: bodies that come compressed, and answers that go out so. What does neither, as most requests do, passes
//! without the layers that could: with the state of every coder in them they are large, and are moved about.

use std::{convert::Infallible, future::ready, io};

use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZstdDecoder};
use axum::{
    body::Body,
    extract::Request,
    http::{Extensions, HeaderMap, HeaderValue, StatusCode, Version, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use drover_protocol::problem::Code;
use futures::TryStreamExt;
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};
use tower::{Layer, ServiceExt, service_fn};
use tower_http::{
    CompressionLevel,
    compression::{
        CompressionLayer,
        predicate::{DefaultPredicate, NotForContentType, Predicate},
    },
};

use super::{Fault, content::read_off};
use crate::error::Error;

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

/// What a request may come in.
const CODINGS: &str = "gzip, zstd, br";

async fn decoded(request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let codings = parts.headers.get_all(header::CONTENT_ENCODING);
    let codings: Vec<&str> = codings.iter().map(|value| value.to_str().unwrap_or_default().trim()).collect();
    let coding = codings.join(", ").to_ascii_lowercase();
    if coding == "identity" {
        parts.headers.remove(header::CONTENT_ENCODING);
        return next.run(Request::from_parts(parts, body)).await;
    }
    if parts.headers.contains_key("content-digest") {
        read_off(&parts.headers, body).await;
        // It would be of the bytes as they are sent (RFC 9530), which nobody sees behind this layer.
        let detail = "is not checked of content that comes with Content-Encoding; send the content as it is";
        return Fault::from(Error::invalid("Content-Digest", detail)).into_response();
    }
    let coded = |body: Body| StreamReader::new(body.into_data_stream().map_err(io::Error::other));
    let plain = match coding.as_str() {
        "gzip" | "x-gzip" => all_members(GzipDecoder::new(coded(body)), GzipDecoder::multiple_members),
        "zstd" => all_members(ZstdDecoder::new(coded(body)), ZstdDecoder::multiple_members),
        "br" => all_members(BrotliDecoder::new(coded(body)), BrotliDecoder::multiple_members),
        _ => {
            read_off(&parts.headers, body).await;
            return unknown_coding();
        }
    };
    parts.headers.remove(header::CONTENT_ENCODING);
    parts.headers.remove(header::CONTENT_LENGTH);
    next.run(Request::from_parts(parts, plain)).await
}

/// All that was packed: a body may be several pieces that were packed one by one. What follows and is none is an error.
fn all_members<D: AsyncRead + Send + 'static>(mut decoder: D, set_multiple: fn(&mut D, bool)) -> Body {
    set_multiple(&mut decoder, true);
    Body::from_stream(ReaderStream::new(decoder))
}

fn unknown_coding() -> Response {
    let detail = format!("Send the body as it is, or with Content-Encoding: one of {CODINGS}.");
    let mut response = Fault::new(Code::UnsupportedMediaType, detail).into_response();
    response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static(CODINGS));
    response
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
