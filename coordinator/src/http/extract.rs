//! Reading requests: bodies with limits and clear errors, query strings, and the headers of conditions and repetition.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, BodyDataStream, Bytes},
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, header, request::Parts},
};
use drover_protocol::{
    json::{too_long_number, too_long_text},
    page::PageQuery,
    problem::{Code, FieldError},
};
use futures::StreamExt;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;
use tokio::time::Instant;

use super::{Fault, objects::Objects};
use crate::{
    app::App,
    domain::{
        file::{Conditions, EntityTag, Tags},
        idempotency::MAX_KEY_CHARS,
    },
    error::Error,
    nearest::{nearest, unknown_name},
    operations::idempotency::{Repeatable, request_digest},
    pointer::pointer_of,
};

/// The largest JSON body, in bytes: an input of 1 MiB with room for what is around it.
pub const MAX_BODY_BYTES: usize = 2 * 1024 * 1024;
const JSON_TYPES: [&str; 2] = ["application/json", "application/merge-patch+json"];
/// A client that sends nothing for this long has gone.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// A body that comes more slowly than this, on the whole, is not waited for: no line in use is so slow.
const MIN_BYTES_PER_SECOND: u64 = 1024;
/// What a call without a body may have as one, blanks included.
const MAX_EMPTY_BODY_BYTES: usize = 1024;
/// How serde begins its refusal of what is no value at all.
const NO_WORD: &str = "expected value";
/// So many faults of one body are told at once.
const MAX_FAULTS: usize = 20;
/// Of a larger body only the first fault is told: each further one costs reading it again.
const MAX_BYTES_READ_AGAIN: usize = 64 * 1024;

/// A body that is received piece by piece; a client that dawdles is not waited for.
pub struct Pieces {
    stream: BodyDataStream,
    started: Instant,
    received: u64,
}

impl Pieces {
    pub fn of(body: Body) -> Self {
        Self { stream: body.into_data_stream(), started: Instant::now(), received: 0 }
    }

    /// The next piece; `None` at the end of the body.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        let earned = Duration::from_secs(self.received / MIN_BYTES_PER_SECOND);
        let ends_at = (Instant::now() + BODY_TIMEOUT).min(self.started + BODY_TIMEOUT + earned);
        match tokio::time::timeout_at(ends_at, self.stream.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(piece))) => {
                self.received += piece.len() as u64;
                Ok(Some(piece))
            }
            Ok(Some(Err(error))) => Err(Fault::bad_request(format!("The body could not be read: {error}."))),
            Err(_) => Err(Fault::bad_request(format!(
                "The body came too slowly: nothing for {} s, or less than {MIN_BYTES_PER_SECOND} bytes a second.",
                BODY_TIMEOUT.as_secs()
            ))),
        }
    }
}

/// A whole body of at most `limit` bytes.
pub async fn whole_body(body: Body, limit: usize) -> Result<Bytes, Fault> {
    let mut pieces = Pieces::of(body);
    let mut whole = Vec::new();
    while let Some(piece) = pieces.next().await? {
        if whole.len() + piece.len() > limit {
            return Err(Error::TooLarge(format!(
                "the body is over the limit of {limit} bytes; send large content as a file, or in several calls"
            ))
            .into());
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.into())
}

/// Refuses a body of another media type.
pub fn require_media_type(headers: &HeaderMap, wanted: &[&str]) -> Result<(), Fault> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if wanted.contains(&essence.as_str()) {
        return Ok(());
    }
    let detail = format!("Send the body with Content-Type: {}.", wanted.join(" or "));
    Err(Fault::new(Code::UnsupportedMediaType, detail))
}

/// A JSON body of at most `LIMIT` bytes, and whether the call may be a repetition.
pub struct Posted<T, const LIMIT: usize = MAX_BODY_BYTES> {
    pub body: T,
    pub call: Option<Repeatable>,
}

impl<T: DeserializeOwned, const LIMIT: usize> FromRequest<Arc<App>> for Posted<T, LIMIT> {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &Arc<App>) -> Result<Self, Fault> {
        let (parts, body) = request.into_parts();
        let bytes = json_body(&parts, body, LIMIT).await?;
        Ok(Self { body: parse_json(&bytes)?, call: repeatable(&parts, &bytes)? })
    }
}

/// The same where nothing needs to be said: no body at all is an empty object.
pub struct MaybePosted<T>(pub Posted<T>);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for MaybePosted<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &Arc<App>) -> Result<Self, Fault> {
        let (parts, body) = request.into_parts();
        let mut bytes = whole_body(body, MAX_BODY_BYTES).await?;
        let call = repeatable(&parts, &bytes)?;
        if bytes.is_empty() {
            bytes = Bytes::from_static(b"{}");
        } else {
            require_media_type(&parts.headers, &JSON_TYPES)?;
        }
        Ok(Self(Posted { body: parse_json(&bytes)?, call }))
    }
}

/// A JSON body of at most `LIMIT` bytes, of a call that is repeatable by its own nature.
pub struct Json<T, const LIMIT: usize = MAX_BODY_BYTES>(pub T);

impl<T: DeserializeOwned, const LIMIT: usize> FromRequest<Arc<App>> for Json<T, LIMIT> {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &Arc<App>) -> Result<Self, Fault> {
        let (parts, body) = request.into_parts();
        Ok(Self(parse_json(&json_body(&parts, body, LIMIT).await?)?))
    }
}

async fn json_body(parts: &Parts, body: Body, limit: usize) -> Result<Bytes, Fault> {
    require_media_type(&parts.headers, &JSON_TYPES)?;
    whole_body(body, limit).await
}

/// Whether a call without a body may be a repetition. What is said in a body all the same would be ignored, and is
/// refused instead; an empty object, which some clients always send, says nothing.
pub struct Call(pub Option<Repeatable>);

impl FromRequest<Arc<App>> for Call {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &Arc<App>) -> Result<Self, Fault> {
        let (parts, body) = request.into_parts();
        let refusal = || Error::invalid("", "this call takes no body; leave it out");
        let bytes = match whole_body(body, MAX_EMPTY_BODY_BYTES).await {
            Err(fault) if fault.code() == Code::TooLarge => return Err(refusal().into()),
            received => received?,
        };
        let text: Vec<u8> = bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        match text.as_slice() {
            b"" | b"{}" => Ok(Self(repeatable(&parts, &[])?)),
            _ => Err(refusal().into()),
        }
    }
}

/// The key and the digest of a call that carries an `Idempotency-Key`.
pub fn repeatable(parts: &Parts, body: &[u8]) -> Result<Option<Repeatable>, Fault> {
    let Some(value) = parts.headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().unwrap_or_default().trim();
    if key.is_empty() || key.len() > MAX_KEY_CHARS {
        return Err(Fault::bad_request(format!("Idempotency-Key must have 1 to {MAX_KEY_CHARS} visible characters.")));
    }
    let path = parts.uri.path_and_query().map(|path| path.as_str()).unwrap_or_default();
    let request = request_digest(&[parts.method.as_str().as_bytes(), path.as_bytes(), body]);
    Ok(Some(Repeatable { key: key.to_owned(), request }))
}

/// `If-Match: "<revision>"`. A tag that is no revision of ours is the tag of nothing that is there now.
pub struct IfMatch(pub Option<u64>);

/// No object has this revision; they are counted from 1.
const NO_REVISION: u64 = 0;

impl FromRequestParts<Arc<App>> for IfMatch {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Fault> {
        let named = match tags(&parts.headers, &header::IF_MATCH) {
            Ok(None | Some(Tags::Any)) => return Ok(Self(None)),
            Ok(Some(Tags::These(tags))) => tags,
            Err(_) => Vec::new(),
        };
        match named.as_slice() {
            // Weak tags never match where all of the object counts (RFC 9110, 13.1.1).
            [tag] => {
                let revision = tag.text.trim_matches('"').parse().ok().filter(|_| !tag.is_weak);
                Ok(Self(Some(revision.unwrap_or(NO_REVISION))))
            }
            _ => Err(Fault::bad_request("If-Match must hold one tag in quotes, the revision, such as \"3\".")),
        }
    }
}

/// `If-Match` and `If-None-Match` with entity tags of content.
pub struct ContentConditions(pub Conditions);

impl ContentConditions {
    pub fn of(headers: &HeaderMap) -> Result<Self, Fault> {
        let if_match = tags(headers, &header::IF_MATCH)?;
        Ok(Self(Conditions { if_match, if_none_match: tags(headers, &header::IF_NONE_MATCH)? }))
    }
}

impl FromRequestParts<Arc<App>> for ContentConditions {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Fault> {
        Self::of(&parts.headers)
    }
}

/// The tags of all lines of a condition.
pub fn tags(headers: &HeaderMap, name: &header::HeaderName) -> Result<Option<Tags>, Fault> {
    let malformed = || Fault::bad_request(format!("{name} must hold * or entity tags in quotes."));
    let mut found = None;
    for value in headers.get_all(name) {
        let text = value.to_str().map_err(|_| malformed())?.trim();
        if text == "*" {
            return Ok(Some(Tags::Any));
        }
        found.get_or_insert_with(Vec::new).extend(tags_of(text).ok_or_else(malformed)?);
    }
    Ok(found.map(Tags::These))
}

/// The entity tags of a list (RFC 9110, 8.8.3), whose commas may also stand within tags; elements may be empty.
fn tags_of(mut text: &str) -> Option<Vec<EntityTag>> {
    let mut tags = Vec::new();
    loop {
        text = text.trim_start_matches([',', ' ', '\t']);
        if text.is_empty() {
            return Some(tags);
        }
        let (is_weak, opened) = text.strip_prefix("W/").map_or((false, text), |tag| (true, tag));
        let (tag, rest) = opened.strip_prefix('"')?.split_once('"')?;
        tags.push(EntityTag { is_weak, text: format!("\"{tag}\"") });
        if !rest.trim_start().is_empty() && !rest.trim_start().starts_with(',') {
            return None;
        }
        text = rest;
    }
}

/// A query string. Unknown parameters are refused.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<Arc<App>> for Query<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Fault> {
        parse_query(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

/// The query string of a list: its page and its filters.
pub struct ListQuery<F>(pub PageQuery, pub F);

impl<F: DeserializeOwned> FromRequestParts<Arc<App>> for ListQuery<F> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Fault> {
        let (mut page, mut filter) = (Vec::new(), Vec::new());
        for pair in parts.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            match pair.split('=').next() {
                Some("limit" | "cursor" | "count") => page.push(pair),
                _ => filter.push(pair),
            }
        }
        Ok(Self(parse_query(&page.join("&"))?, parse_query(&filter.join("&"))?))
    }
}

/// For lists without filters.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoFilter {}

/// Reads a query string. Unknown parameters are refused.
pub fn parse_query<T: DeserializeOwned>(text: &str) -> Result<T, Fault> {
    let deserializer = serde_html_form::Deserializer::new(url_pairs(text));
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        // A parameter that is given several times is one parameter.
        let at = match error.path().iter().next() {
            Some(Segment::Map { key }) => key.clone(),
            _ => String::new(),
        };
        let message = error.inner().to_string();
        if let Some(name) = missing_name(&message) {
            return field_fault(name, "is required");
        }
        let pointer = unknown_name(&message).map_or(at, str::to_owned);
        field_fault(&pointer, &message)
    })
}

/// The pairs of a query string, decoded.
pub fn url_pairs(text: &str) -> url::form_urlencoded::Parse<'_> {
    url::form_urlencoded::parse(text.as_bytes())
}

/// Reads JSON: what is not JSON is a bad request, what does not fit are faults of fields.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    // To note the place of each member costs as much as reading it: that is done only where there is a fault to tell, or an
    // array, which could stand where an object is meant.
    let may_be_read_plainly = !bytes.contains(&b'[');
    if may_be_read_plainly && let Ok(value) = serde_json::from_slice(bytes) {
        return without_too_long_number(bytes, value);
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = match serde_path_to_error::deserialize(Objects::new(&mut deserializer)) {
        Ok(value) => value,
        Err(error) => {
            return Err(match error.inner().classify() {
                serde_json::error::Category::Data => faults_of::<T>(bytes, data_fault(&error)).into(),
                // The reader of words calls it no JSON if null, a number or a list stands where one of some words is meant.
                _ if is_json(bytes) && error.inner().to_string().starts_with(NO_WORD) => {
                    let fault = field_error(&pointer_of(error.path()), "must be a text, one of some words");
                    faults_of::<T>(bytes, fault).into()
                }
                _ => Fault::bad_request(format!("The body is not JSON: {}.", error.inner())),
            });
        }
    };
    deserializer.end().map_err(|error| Fault::bad_request(format!("The body is not JSON: {error}.")))?;
    without_too_long_number(bytes, value)
}

fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
}

fn without_too_long_number<T>(bytes: &[u8], value: T) -> Result<T, Fault> {
    match too_long_number(bytes) {
        Some(number) => Err(field_fault("", &too_long_text(number))),
        None => Ok(value),
    }
}

/// The first fault and, so that nobody has to mend one after another, those of other members: what is wrong is taken out,
/// and the rest read again.
fn faults_of<T: DeserializeOwned>(bytes: &[u8], first: FieldError) -> Error {
    let mut faults = vec![first];
    if bytes.len() > MAX_BYTES_READ_AGAIN {
        return Error::Invalid(faults);
    }
    let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else { return Error::Invalid(faults) };
    while faults.len() < MAX_FAULTS {
        let last = faults.last().map_or("", |fault| &fault.pointer);
        if !take_out(&mut value, last) {
            break;
        }
        let Err(error) = serde_path_to_error::deserialize::<_, T>(Objects::new(&value)) else { break };
        let fault = data_fault(&error);
        // That what was taken out is missing now is no fault of the caller's.
        if faults.iter().any(|known| known.pointer == fault.pointer) {
            break;
        }
        faults.push(fault);
    }
    Error::Invalid(faults)
}

/// Takes the member of an object out at this place, if it is one.
fn take_out(value: &mut Value, pointer: &str) -> bool {
    let Some((parent, name)) = pointer.rsplit_once('/') else { return false };
    let Some(Value::Object(members)) = value.pointer_mut(parent) else { return false };
    members.remove(&name.replace("~1", "/").replace("~0", "~")).is_some()
}

fn data_fault(error: &serde_path_to_error::Error<serde_json::Error>) -> FieldError {
    let pointer = pointer_of(error.path());
    let message = error.inner().to_string();
    let message = message.split(" at line ").next().unwrap_or(&message);
    match missing_name(message) {
        Some(name) => field_error(&format!("{pointer}/{name}"), "is required"),
        // The path of an unknown field ends with that field already.
        None => field_error(&pointer, message),
    }
}

/// The name of a field that is missing, if that is what the message says.
fn missing_name(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.strip_suffix('`')
}

/// One invalid field; an unknown one is answered with the nearest known name.
fn field_fault(pointer: &str, message: &str) -> Fault {
    Error::Invalid(vec![field_error(pointer, message)]).into()
}

fn field_error(pointer: &str, message: &str) -> FieldError {
    let detail = match unknown_name(message) {
        Some(name) => match nearest(name, message) {
            Some(near) => format!("there is no such field; did you mean {near}?"),
            None => "there is no such field".to_owned(),
        },
        // The reader of ids says at which character it stopped.
        None if message.starts_with("UUID parsing failed") => {
            "must be an id such as 0192f6c4-7a10-7cc3-98c4-dc0c0c07398f; lists and answers have it as \"id\"".to_owned()
        }
        None => message.to_owned(),
    };
    FieldError { pointer: pointer.to_owned(), detail }
}

/// The media types that the caller accepts, in its order; empty means anything.
pub struct Accept {
    /// The most wanted ones first.
    wanted: Vec<String>,
    refused: Vec<String>,
}

impl FromRequestParts<Arc<App>> for Accept {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Fault> {
        Ok(Self::of(parts.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default()))
    }
}

impl Accept {
    fn of(text: &str) -> Self {
        let mut types: Vec<(f32, String)> = Vec::new();
        for part in text.split(',') {
            let mut parts = part.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
            let quality = parts.find_map(|parameter| parameter.strip_prefix("q=").or(parameter.strip_prefix("Q=")));
            if !media_type.is_empty() {
                types.push((quality.and_then(|quality| quality.parse().ok()).unwrap_or(1.0), media_type));
            }
        }
        // Those that are wanted alike stay in the order in which they are given.
        types.sort_by(|one, other| other.0.total_cmp(&one.0));
        let (wanted, refused): (Vec<_>, Vec<_>) = types.into_iter().partition(|(quality, _)| *quality > 0.0);
        let names = |types: Vec<(f32, String)>| types.into_iter().map(|(_, media_type)| media_type).collect();
        Self { wanted: names(wanted), refused: names(refused) }
    }

    /// The one of the offered types that the caller wants most; the first offer is for those who accept anything.
    pub fn choose(&self, offers: &[&'static str]) -> Result<&'static str, Fault> {
        if self.wanted.is_empty() && self.refused.is_empty() {
            return Ok(offers[0]);
        }
        for wanted in &self.wanted {
            let group = wanted.strip_suffix("/*");
            let fits = |offer: &&&str| {
                **offer == wanted
                    || (wanted == "*/*" || group.is_some_and(|group| offer.split('/').next() == Some(group)))
                        && !self.refused.iter().any(|refused| refused == **offer)
            };
            if let Some(offer) = offers.iter().find(fits) {
                return Ok(offer);
            }
        }
        Err(Fault::new(Code::NotAcceptable, format!("This address can answer with {}.", offers.join(", "))))
    }
}

/// Parts of the path, percent-decoded.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<App>> for Path<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Fault> {
        match axum::extract::Path::<T>::from_request_parts(parts, app).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(Fault::bad_request(format!("The path could not be read: {rejection}."))),
        }
    }
}

/// An id in a path: what cannot be one is not there.
pub fn id<T: std::str::FromStr>(text: &str, noun: &'static str) -> Result<T, Fault> {
    text.parse().map_err(|_| Error::NotFound(noun).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_most_is_chosen() {
        for (accept, chosen) in [
            ("", Some("application/json")),
            ("*/*", Some("application/json")),
            ("text/csv", Some("text/csv")),
            ("text/csv, application/json", Some("text/csv")),
            ("text/csv;q=0.1, application/json", Some("application/json")),
            ("text/csv; charset=utf-8; q=0.5, application/json;q=0.4", Some("text/csv")),
            ("TEXT/*, */*;q=0.1", Some("text/csv")),
            ("text/html, application/xhtml+xml, */*;q=0.8", Some("application/json")),
            ("application/json;q=0, */*", Some("text/csv")),
            ("text/csv;q=0", None),
            ("image/png", None),
        ] {
            let found = Accept::of(accept).choose(&["application/json", "text/csv"]);
            assert_eq!(found.ok(), chosen, "{accept}");
        }
    }
}
