//! Content of blobs as answers: digests, conditions, ranges; and content that is received.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::Body,
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use drover_protocol::{AccountId, problem::Code};

use super::{Fault, extract::Pieces, page::is_known};
use crate::{
    app::App,
    error::Error,
    operations::garbage,
    store::blob::{BlobName, Staged},
};

/// So much of a refused body is read for the sake of its answer.
const READ_OFF_BYTES: usize = 64 * 1024 * 1024;

/// The headers of a call that sends a blob, or a range of it, or 304. A range is asked for with GET alone: with other methods
/// the header means nothing (RFC 9110, 14.2).
pub struct Ranges(pub HeaderMap);

impl<S: Sync> FromRequestParts<S> for Ranges {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let mut headers = parts.headers.clone();
        if parts.method != Method::GET {
            headers.remove(header::RANGE);
        }
        Ok(Self(headers))
    }
}

/// For annotations: the call checks what it receives against `Content-Digest`.
pub struct Digest;

/// What is known about a blob that is to be sent.
pub struct Sending<'a> {
    pub name: BlobName,
    /// Lower-case hexadecimal.
    pub sha256: &'a str,
    pub content_type: &'a str,
    /// Under which name a browser keeps it.
    pub file_name: &'a str,
}

/// Which part of the content is wanted.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Part(u64, u64),
    Impossible,
}

/// Sends a blob, or a range of it, or 304.
pub async fn send(app: &App, headers: &HeaderMap, sending: Sending<'_>) -> Result<Response, Fault> {
    let tag = format!("\"{}\"", sending.sha256);
    let total = app.blobs.size_bytes(&sending.name).await?;
    let mut response = if is_known(headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        match wanted(headers, &tag, total) {
            Wanted::Impossible => {
                let mut response =
                    Fault::new(Code::RangeNotSatisfiable, format!("It has {total} bytes.")).into_response();
                set(response.headers_mut(), header::CONTENT_RANGE, &format!("bytes */{total}"));
                return Ok(response);
            }
            Wanted::All => whole(app, &sending, total).await?,
            Wanted::Part(start, end) => part(app, &sending.name, start, end, total).await?,
        }
    };
    let headers = response.headers_mut();
    set(headers, header::ETAG, &tag);
    set(headers, header::ACCEPT_RANGES, "bytes");
    set(headers, header::CONTENT_TYPE, sending.content_type);
    // What robots made must never run as a page of this host.
    set(
        headers,
        header::CONTENT_SECURITY_POLICY,
        "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    );
    let name: String = url::form_urlencoded::byte_serialize(sending.file_name.as_bytes()).collect();
    let disposition = format!("attachment; filename*=UTF-8''{}", name.replace('+', "%20"));
    set(headers, header::CONTENT_DISPOSITION, &disposition);
    set(headers, header::CACHE_CONTROL, "private, no-cache");
    Ok(response)
}

fn set(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

async fn whole(app: &App, sending: &Sending<'_>, total: u64) -> Result<Response, Fault> {
    let (_, content) = app.blobs.read(&sending.name, None).await?;
    let mut response = Body::from_stream(content).into_response();
    let headers = response.headers_mut();
    set(headers, header::CONTENT_LENGTH, &total.to_string());
    if let Some(digest) = from_hex(sending.sha256) {
        let value = format!("sha-256=:{}:", STANDARD.encode(digest));
        set(headers, header::HeaderName::from_static("content-digest"), &value);
    }
    Ok(response)
}

async fn part(app: &App, name: &BlobName, start: u64, end: u64, total: u64) -> Result<Response, Fault> {
    let (_, content) = app.blobs.read(name, Some(start..end)).await?;
    let mut response = Body::from_stream(content).into_response();
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    set(response.headers_mut(), header::CONTENT_LENGTH, &(end - start).to_string());
    set(response.headers_mut(), header::CONTENT_RANGE, &format!("bytes {start}-{}/{total}", end - 1));
    Ok(response)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

/// The single range that is asked for. Several at once, or one in another unit, give everything, as the standard allows.
fn wanted(headers: &HeaderMap, tag: &str, total: u64) -> Wanted {
    let Some(text) = headers.get(header::RANGE).and_then(|value| value.to_str().ok()) else { return Wanted::All };
    if headers.get(header::IF_RANGE).is_some_and(|value| value.as_bytes() != tag.as_bytes()) {
        return Wanted::All;
    }
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Wanted::All;
    };
    let (start, end) = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(start), Ok(last)) if start <= last => (start, last.saturating_add(1).min(total)),
        (Ok(start), Err(_)) if last.trim().is_empty() => (start, total),
        (Err(_), Ok(count)) if first.trim().is_empty() => (total.saturating_sub(count), total),
        _ => return Wanted::All,
    };
    if start < end { Wanted::Part(start, end) } else { Wanted::Impossible }
}

/// What is allowed before content is received, and the body. That of a refused call is read off for the sake of the answer.
/// A part of content is refused wherever content is received: it would take the place of the whole.
pub async fn admit<T, E: Into<Fault>>(
    allowed: Result<T, E>,
    headers: &HeaderMap,
    body: Body,
) -> Result<(T, Body), Fault> {
    let allowed = allowed.map_err(Into::into).and_then(|allowed| refuse_part(headers).map(|()| allowed));
    match allowed {
        Ok(allowed) => Ok((allowed, body)),
        Err(fault) => {
            read_off(headers, body).await;
            Err(fault)
        }
    }
}

/// RFC 9110, 14.5.
fn refuse_part(headers: &HeaderMap) -> Result<(), Fault> {
    match headers.contains_key(header::CONTENT_RANGE) {
        true => Err(Fault::bad_request(
            "Content is not taken in parts: send all of it in one call, without the header Content-Range.",
        )),
        false => Ok(()),
    }
}

/// Reads a bounded part of a body that is not wanted: a caller that is still sending when the connection ends never sees
/// the answer. One that waits to be asked for the body is not asked.
pub async fn read_off(headers: &HeaderMap, body: Body) {
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let (mut pieces, mut bytes) = (Pieces::of(body), 0);
    while let Ok(Some(piece)) = pieces.next().await {
        bytes += piece.len();
        if bytes >= READ_OFF_BYTES {
            return;
        }
    }
}

/// Takes a body in as staged content of at most `limit` bytes.
pub async fn receive(app: &App, body: Body, limit: u64) -> Result<Staged, Fault> {
    let mut pieces = Pieces::of(body);
    let mut staging = app.blobs.stage(limit).await;
    let mut refused_bytes = 0;
    while let Some(piece) = pieces.next().await? {
        staging = match staging {
            Ok(mut open) => open.write(piece).await.map(|()| open),
            // A caller that is still sending when the connection ends never sees the answer.
            Err(error) if refused_bytes < READ_OFF_BYTES => {
                refused_bytes += piece.len();
                Err(error)
            }
            Err(error) => return Err(error.into()),
        };
    }
    Ok(staging?.finish().await?)
}

/// Keeps content and writes the record that names it: both, or in the end neither. A caller that goes away meanwhile
/// stops nothing, and until the record is there nobody deletes these very bytes.
pub async fn keep<R, F>(
    app: &Arc<App>,
    account: AccountId,
    staged: Staged,
    name: BlobName,
    write: impl FnOnce(Arc<App>) -> F + Send + 'static,
) -> Result<R, Fault>
where
    R: Send + 'static,
    F: Future<Output = Result<R, Fault>> + Send + 'static,
{
    let app = Arc::clone(app);
    let kept = tokio::spawn(async move {
        let _arriving = app.blobs.arriving(&name).await;
        let noted = name.to_string();
        app.db.write(account, move |tx| garbage::announce(tx, noted)).await?;
        app.blobs.keep(staged, &name).await?;
        write(Arc::clone(&app)).await
    });
    kept.await.unwrap_or_else(|error| Err(Error::Internal(format!("content was not kept: {error}")).into()))
}

/// Refuses content that is not what `Content-Digest` says, and a digest that cannot be checked: who sends one relies on that.
pub fn check_digest(headers: &HeaderMap, staged: &Staged) -> Result<(), Fault> {
    let Some(given) = digest(headers)? else { return Ok(()) };
    match Some(given) == from_hex(&staged.sha256) {
        true => Ok(()),
        false => {
            Err(Error::invalid("Content-Digest", "the content that arrived has another digest; send it again").into())
        }
    }
}

/// The SHA-256 that `Content-Digest` names among others.
fn digest(headers: &HeaderMap) -> Result<Option<Vec<u8>>, Fault> {
    let malformed = || Fault::bad_request("Content-Digest must have the form sha-256=:<Base64>: (RFC 9530).");
    let (mut is_there, mut found) = (false, None);
    for value in headers.get_all("content-digest") {
        is_there = true;
        for part in value.to_str().map_err(|_| malformed())?.split(',') {
            let (algorithm, digest) = part.trim().split_once('=').ok_or_else(malformed)?;
            let digest = digest.strip_prefix(':').and_then(|digest| digest.strip_suffix(':')).ok_or_else(malformed)?;
            let digest = STANDARD.decode(digest).map_err(|_| malformed())?;
            if algorithm == "sha-256" {
                found = Some(digest);
            }
        }
    }
    match is_there && found.is_none() {
        true => Err(Error::invalid("Content-Digest", "names no sha-256, which is what is checked here").into()),
        false => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted_of(range: &'static str) -> Wanted {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_static(range));
        wanted(&headers, "\"x\"", 10)
    }

    #[test]
    fn only_digests_that_can_be_checked_are_taken() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("content-digest", HeaderValue::from_static(value));
            }
            digest(&headers).map_err(|fault| fault.code())
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["sha-256=:AAEC:"]), Ok(Some(vec![0, 1, 2])));
        assert_eq!(of(&["sha-512=:AAAA:, sha-256=:AAEC:"]), Ok(Some(vec![0, 1, 2])));
        assert_eq!(of(&["sha-512=:AAAA:", "sha-256=:AAEC:"]), Ok(Some(vec![0, 1, 2])));
        for malformed in ["", "sha-256", "sha-256=AAEC", "sha-256=:A:", "sha-256=:AAEC:,", "sha-256=:?:"] {
            assert_eq!(of(&[malformed]), Err(Code::BadRequest), "{malformed}");
        }
        assert_eq!(of(&["sha-512=:AAAA:"]), Err(Code::Invalid));
    }

    #[test]
    fn ranges_are_those_of_the_standard() {
        assert_eq!(wanted_of("bytes=0-3"), Wanted::Part(0, 4));
        assert_eq!(wanted_of("bytes=4-"), Wanted::Part(4, 10));
        assert_eq!(wanted_of("bytes=-3"), Wanted::Part(7, 10));
        assert_eq!(wanted_of("bytes=-30"), Wanted::Part(0, 10));
        assert_eq!(wanted_of("bytes=8-99"), Wanted::Part(8, 10));
        assert_eq!(wanted_of("bytes=10-"), Wanted::Impossible);
        assert_eq!(wanted_of("bytes=-0"), Wanted::Impossible);
        for odd in ["bytes=3-1", "bytes=a-b", "lines=1-2", "bytes=0-1,3-4", "bytes=-"] {
            assert_eq!(wanted_of(odd), Wanted::All, "{odd}");
        }
    }
}
