//! Calls of the coordinator's API: addresses, the key, retries of what may be repeated, errors. Meanings of single
//! calls are the commands' business.

use std::{
    error::Error as _,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use drover_protocol::{API_BASE, address::percent_encode, problem::Problem};
use reqwest::{
    Body, ClientBuilder, Method, RequestBuilder, Response, StatusCode,
    header::{
        ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, IF_RANGE, RANGE,
        RETRY_AFTER,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use url::Url;

use crate::{
    clock,
    decode::decode,
    error::{Error, NetworkError, Refused},
    transfer,
};

/// Waits before the second, third … try of a call that may be repeated.
const RETRY_DELAYS_MS: [u64; 3] = [250, 500, 1000];
/// The longest `Retry-After` that is waited for; a longer one is told instead.
const MAX_RETRY_AFTER_SECONDS: u64 = 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest silence within an answer: longer than any long poll and than the pulse of an event stream.
const READ_TIMEOUT: Duration = Duration::from_secs(90);
/// How long an answer may take that goes through all there is before its first byte.
const LONG_TIMEOUT: Duration = Duration::from_secs(3600);
/// A file that is sent more slowly is given up.
const SLOWEST_BYTES_PER_SECOND: u64 = 16 * 1024;
/// A connection that died without a word is found out, also while nothing is to be said.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// A connection to one coordinator with one key.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Allows silence: the one that [`READ_TIMEOUT`] limits counts from the sending of a request, however fast it is sent.
    patient: reqwest::Client,
    root: Url,
    key: Option<HeaderValue>,
}

/// Makes a body that is written while it is sent, anew for each try.
pub type Lines = Box<dyn FnMut() -> Result<Body, Error> + Send>;

/// What is sent along.
enum Payload {
    Nothing,
    Bytes {
        body: Bytes,
        content_type: &'static str,
    },
    /// Lines of JSON that are made while they are sent.
    Lines(Mutex<Lines>),
    /// Streamed from the disk, anew for each try. Without a type the coordinator finds it.
    File {
        path: PathBuf,
        content_type: Option<String>,
        sha256: Option<HeaderValue>,
    },
}

/// One call, not yet sent.
pub struct Call<'a> {
    client: &'a Client,
    method: Method,
    url: Url,
    payload: Payload,
    accept: Option<&'static str>,
    idempotency_key: Option<String>,
    /// The person who called can repeat it under the same key.
    key_is_offered: bool,
    last_event_id: Option<String>,
    rest: Option<(u64, HeaderValue)>,
    /// What is sent along is there only once.
    is_once: bool,
    /// The answer may take longer than [`READ_TIMEOUT`].
    is_long: bool,
}

/// A whole answer that is no error.
pub struct Answer {
    pub body: Bytes,
}

impl Answer {
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, Error> {
        decode(&self.body)
    }
}

impl Client {
    /// A client for the coordinator at `root` (without `/api/v1`). Nothing is sent yet.
    pub fn new(root: Url, key: Option<&str>) -> Result<Self, Error> {
        Self::with_read_timeout(root, key, READ_TIMEOUT)
    }

    fn with_read_timeout(root: Url, key: Option<&str>, read_timeout: Duration) -> Result<Self, Error> {
        let key = key.map(bearer).transpose()?;
        let http = http_client(&root, |builder| builder.read_timeout(read_timeout))?;
        let patient = http_client(&root, |builder| builder)?;
        Ok(Self { http, patient, root, key })
    }

    /// Address of the coordinator, without `/api/v1`.
    pub fn root(&self) -> &Url {
        &self.root
    }

    pub fn get(&self, path: &[&str]) -> Result<Call<'_>, Error> {
        self.call(Method::GET, path)
    }

    /// A POST with an `Idempotency-Key` of its own, so that it can be repeated when the answer is lost.
    pub fn post(&self, path: &[&str]) -> Result<Call<'_>, Error> {
        let mut call = self.call(Method::POST, path)?;
        call.idempotency_key = Some(clock::new_idempotency_key());
        Ok(call)
    }

    pub fn patch(&self, path: &[&str]) -> Result<Call<'_>, Error> {
        self.call(Method::PATCH, path)
    }

    pub fn put(&self, path: &[&str]) -> Result<Call<'_>, Error> {
        self.call(Method::PUT, path)
    }

    pub fn delete(&self, path: &[&str]) -> Result<Call<'_>, Error> {
        self.call(Method::DELETE, path)
    }

    /// A GET outside of `/api/v1`.
    pub fn get_outside_api(&self, path: &str) -> Result<Call<'_>, Error> {
        Ok(self.call_url(Method::GET, self.address(&[path])?))
    }

    /// The address of an API path, as a person may open it.
    pub fn api_address(&self, path: &[&str]) -> Result<Url, Error> {
        let whole: Vec<&str> = API_BASE.trim_start_matches('/').split('/').chain(path.iter().copied()).collect();
        self.address(&whole)
    }

    fn call(&self, method: Method, path: &[&str]) -> Result<Call<'_>, Error> {
        Ok(self.call_url(method, self.api_address(path)?))
    }

    fn call_url(&self, method: Method, url: Url) -> Call<'_> {
        Call {
            client: self,
            method,
            url,
            payload: Payload::Nothing,
            accept: None,
            idempotency_key: None,
            key_is_offered: false,
            last_event_id: None,
            rest: None,
            is_once: false,
            is_long: false,
        }
    }

    /// Joins path segments to the root; each is encoded, so that a name may hold any character.
    pub fn address(&self, path: &[&str]) -> Result<Url, Error> {
        // A URL drops these, so that the call would go to another object.
        if let Some(part) = path.iter().find(|part| matches!(**part, "" | "." | "..")) {
            return Err(Error::Usage(format!("\"{part}\" is not a name or an id")));
        }
        let mut whole = self.root.path().trim_end_matches('/').to_owned();
        for part in path {
            whole.push('/');
            // By hand, because a URL drops tabs and line breaks too.
            whole.push_str(&percent_encode(part));
        }
        let mut url = self.root.clone();
        url.set_path(&whole);
        Ok(url)
    }
}

impl Call<'_> {
    pub fn query(mut self, name: &str, value: impl ToString) -> Self {
        self.url.query_pairs_mut().append_pair(name, &value.to_string());
        self
    }

    pub fn query_opt(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    pub fn json(self, body: &impl Serialize) -> Result<Self, Error> {
        let body = serde_json::to_vec(body).map_err(|error| Error::Usage(format!("cannot be sent: {error}")))?;
        Ok(self.bytes(body.into(), "application/json"))
    }

    pub fn bytes(mut self, body: Bytes, content_type: &'static str) -> Self {
        self.payload = Payload::Bytes { body, content_type };
        self
    }

    pub fn lines(mut self, lines: Lines) -> Self {
        self.payload = Payload::Lines(Mutex::new(lines));
        self
    }

    /// It cannot be sent again, if `is_once`: what is sent along is not there a second time.
    pub fn once(mut self, is_once: bool) -> Self {
        self.is_once = is_once;
        self
    }

    pub fn file(self, path: PathBuf, content_type: &'static str) -> Self {
        self.upload(path, Some(content_type.to_owned()))
    }

    pub fn upload(mut self, path: PathBuf, content_type: Option<String>) -> Self {
        self.payload = Payload::File { path, content_type, sha256: None };
        self
    }

    /// Lets the coordinator refuse a file that arrives with another digest, which is given as hexadecimal.
    pub fn sha256(mut self, wanted: &str) -> Result<Self, Error> {
        if let Payload::File { sha256, .. } = &mut self.payload {
            *sha256 = Some(transfer::content_digest(wanted)?);
        }
        Ok(self)
    }

    /// Only what comes from this byte on, if the content is still the one with this tag; else all of it.
    pub fn rest_from(mut self, start: u64, tag: HeaderValue) -> Self {
        self.rest = Some((start, tag));
        self
    }

    /// The coordinator goes through all there is before it answers.
    pub fn long(mut self) -> Self {
        self.is_long = true;
        self
    }

    pub fn accept(mut self, media_type: &'static str) -> Self {
        self.accept = Some(media_type);
        self
    }

    pub fn last_event_id(mut self, id: Option<impl ToString>) -> Self {
        self.last_event_id = id.map(|id| id.to_string());
        self
    }

    /// Takes a key that belongs to this very call.
    pub fn under_key(mut self, key: String) -> Self {
        self.idempotency_key = Some(key);
        self
    }

    /// Takes a key that the person chose, and offers the key for a repetition if the answer is lost.
    pub fn idempotency_key(mut self, key: Option<String>) -> Self {
        if key.is_some() {
            self.idempotency_key = key;
        }
        self.key_is_offered = true;
        self
    }

    /// Sends it and reads the whole answer. A GET, and a POST with its `Idempotency-Key`, is repeated a few times when
    /// the network or the coordinator cannot answer now.
    pub async fn send(self) -> Result<Answer, Error> {
        self.repeat(async |response: Response| Ok(Answer { body: response.bytes().await? })).await
    }

    /// Sends it and answers as soon as the head of the answer is there; the body is read by the caller.
    pub async fn open(self) -> Result<Response, Error> {
        self.repeat(async |response| Ok(response)).await
    }

    async fn repeat<T>(&self, read: impl AsyncFn(Response) -> reqwest::Result<T>) -> Result<T, Error> {
        let mut delays = RETRY_DELAYS_MS.iter();
        loop {
            let (error, wait) = match self.attempt(&read).await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            let is_idempotent = matches!(self.method, Method::GET | Method::PUT) || self.idempotency_key.is_some();
            let may_repeat = is_idempotent && !self.is_once;
            match (wait, delays.next()) {
                (Some(least), Some(delay_ms)) if may_repeat => {
                    tokio::time::sleep(Duration::from_millis(*delay_ms).max(least)).await;
                }
                _ => return Err(error),
            }
        }
    }

    /// One try; a failure comes with the least time to wait before another one, if another one may help.
    async fn attempt<T>(
        &self,
        read: &impl AsyncFn(Response) -> reqwest::Result<T>,
    ) -> Result<T, (Error, Option<Duration>)> {
        let request = self.request().await.map_err(|error| (error, None))?;
        let lost = |error: reqwest::Error| (self.lost(&error), (!error.is_builder()).then_some(Duration::ZERO));
        let response = request.send().await.map_err(lost)?;
        let status = response.status();
        if status.is_success() {
            return read(response).await.map_err(lost);
        }
        let wait = retry_after(status, response.headers());
        let body = response.bytes().await.map_err(lost)?;
        Err((self.refused(status, &body), wait))
    }

    async fn request(&self) -> Result<RequestBuilder, Error> {
        let is_sent_long = matches!(self.payload, Payload::File { .. } | Payload::Lines(_));
        let http = if self.is_long || is_sent_long { &self.client.patient } else { &self.client.http };
        let mut request = http.request(self.method.clone(), self.url.clone());
        if self.is_long {
            request = request.timeout(LONG_TIMEOUT);
        }
        if let Some(key) = &self.client.key {
            request = request.header(AUTHORIZATION, key.clone());
        }
        if let Some(media_type) = self.accept {
            // A stream must arrive as it is written, and the size of a file be known beforehand.
            request = request.header(ACCEPT, media_type).header(ACCEPT_ENCODING, "identity");
        }
        if let Some(key) = &self.idempotency_key {
            request = request.header("Idempotency-Key", key);
        }
        if let Some(id) = &self.last_event_id {
            request = request.header("Last-Event-ID", id);
        }
        if let Some((start, tag)) = &self.rest {
            request = request.header(RANGE, format!("bytes={start}-")).header(IF_RANGE, tag.clone());
        }
        Ok(match &self.payload {
            Payload::Nothing => request,
            Payload::Bytes { body, content_type } => request.header(CONTENT_TYPE, *content_type).body(body.clone()),
            Payload::Lines(lines) => {
                let body = (lines.lock().unwrap_or_else(PoisonError::into_inner))()?;
                request.header(CONTENT_TYPE, "application/x-ndjson").body(body)
            }
            Payload::File { path, content_type, sha256 } => {
                let (size_bytes, body) = transfer::upload_body(path).await?;
                if let Some(content_type) = content_type {
                    request = request.header(CONTENT_TYPE, content_type);
                }
                if let Some(digest) = sha256 {
                    request = request.header("Content-Digest", digest.clone());
                }
                let most = READ_TIMEOUT + Duration::from_secs(size_bytes / SLOWEST_BYTES_PER_SECOND);
                request.header(CONTENT_LENGTH, size_bytes).timeout(most).body(body)
            }
        })
    }

    fn lost(&self, error: &reqwest::Error) -> Error {
        let not_connected = error.is_connect() || error.is_builder();
        let changes = self.method != Method::GET;
        Error::Network(Box::new(NetworkError {
            server: self.client.root.to_string(),
            reason: reason(error),
            not_connected,
            idempotency_key: if self.key_is_offered { self.idempotency_key.clone() } else { None },
            outcome_unknown: changes && !not_connected,
        }))
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> Error {
        match decode::<Problem>(body) {
            Ok(problem) => {
                Error::Refused(Box::new(Refused { problem, body: String::from_utf8_lossy(body).into_owned() }))
            }
            Err(_) => Error::NotACoordinator {
                server: self.client.root.to_string(),
                status: status.as_u16(),
                hint: "Check the address given by --server or DROVER_URL, and the proxy.".to_owned(),
            },
        }
    }
}

fn http_client(root: &Url, set: impl Fn(ClientBuilder) -> ClientBuilder) -> Result<reqwest::Client, Error> {
    let builder = || {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("drover/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEPALIVE)
            .referer(false);
        set(builder)
    };
    match builder().build() {
        // A host without any certificate authority can still speak plain HTTP.
        Err(_) if root.scheme() == "http" => builder().tls_certs_only([]).build().map_err(not_prepared),
        built => built.map_err(not_prepared),
    }
}

/// How long to wait at least before another try, if the status says that one may help.
fn retry_after(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    if !matches!(status.as_u16(), 429 | 502 | 503 | 504) {
        return None;
    }
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok()).unwrap_or(0);
    (seconds <= MAX_RETRY_AFTER_SECONDS).then(|| Duration::from_secs(seconds))
}

fn bearer(key: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
        .map_err(|_| Error::Usage("the key has characters that no key has; copy it again".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn not_prepared(error: reqwest::Error) -> Error {
    Error::Usage(format!(
        "connections cannot be prepared: {}; are certificates of authorities installed (package ca-certificates)?",
        reason(&error)
    ))
}

/// The causes of a network error, outermost first, without the address, which the message names already.
pub fn reason(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Many layers repeat what they wrap.
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        source = cause.source();
    }
    if error.is_timeout() && parts.iter().all(|part| !part.contains("timed out")) {
        parts.push("timed out".to_owned());
    }
    if parts.is_empty() { "no reason is known".to_owned() } else { parts.join(": ") }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    fn client(root: &str) -> Client {
        Client::new(root.parse().expect("a URL"), None).expect("a client")
    }

    #[test]
    fn names_with_any_character_stay_one_segment() {
        let url = client("http://host/sub/").api_address(&["processes", "a/b ?#%ё"]).expect("an address");
        assert_eq!(url.as_str(), "http://host/sub/api/v1/processes/a%2Fb%20%3F%23%25%D1%91");
    }

    /// What a URL would drop from a name makes it the name of another object.
    #[test]
    fn control_characters_of_names_are_sent() {
        let client = client("http://host");
        let url = client.api_address(&["queues", " vic\ttim\r\n%2e\u{1}"]).expect("an address");
        assert_eq!(url.as_str(), "http://host/api/v1/queues/%20vic%09tim%0D%0A%252e%01");
        let call = client.get(&["queues"]).expect("a call").query("q", "a\tb\r\nc&d=e");
        assert_eq!(call.url.query(), Some("q=a%09b%0D%0Ac%26d%3De"));
    }

    /// What is sent may take its time, as long as something is sent; an answer to anything else may not.
    #[tokio::test]
    async fn an_upload_outlasts_the_silence_that_answers_are_allowed() {
        const ALLOWED: Duration = Duration::from_millis(50);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let root = format!("http://{}", listener.local_addr().expect("an address"));
        let router = axum::Router::new().fallback(async |body: Bytes| {
            if body.is_empty() {
                std::future::pending::<()>().await;
            }
            body
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client = Client::with_read_timeout(root.parse().expect("a URL"), None, ALLOWED).expect("a client");
        let slow = || {
            let pieces = futures::stream::iter(["a", "b", "c"]).then(async |piece| {
                tokio::time::sleep(ALLOWED).await;
                Ok::<_, std::io::Error>(piece)
            });
            Ok(Body::wrap_stream(pieces))
        };
        let call = client.post(&["tasks"]).expect("a call").lines(Box::new(slow));
        assert_eq!(call.send().await.expect("an answer").body, "abc");
        let silent = client.patch(&["tasks"]).expect("a call").send().await.err().expect("it is silent").to_string();
        assert!(silent.contains("timed out"), "{silent}");
    }

    #[test]
    fn names_that_a_url_would_drop_are_refused() {
        for name in ["", ".", ".."] {
            assert!(client("http://host").api_address(&["processes", name]).is_err(), "{name:?}");
        }
    }
}
