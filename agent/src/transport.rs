//! How a request gets to the coordinator: one trait, and HTTPS behind it. Knows nothing of what is said.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::stream::{LocalBoxStream, StreamExt};
use http::{HeaderMap, Method, StatusCode};
use tokio::sync::watch;

/// What is sent along.
#[derive(Debug)]
pub enum Body {
    Empty,
    Bytes(Bytes),
    /// Streamed; the length in bytes is announced.
    File(tokio::fs::File, u64),
}

/// A request to the coordinator.
#[derive(Debug)]
pub struct Request {
    pub method: Method,
    /// Path and query below the server's root, beginning with `/`.
    pub path: String,
    /// Sent as `Authorization: Bearer`.
    pub key: Option<Arc<str>>,
    pub headers: HeaderMap,
    pub body: Body,
    /// How long the whole may take; `None` only bounds the silence in between.
    pub timeout: Option<Duration>,
}

/// The body of an answer, as it comes.
pub type BodyStream = LocalBoxStream<'static, Result<Bytes, TransportError>>;

/// An answer of the coordinator, or of something between.
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: BodyStream,
}

/// No answer was received, or not all of it. Whether the request had an effect is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TransportError(pub String);

/// Carries requests to the coordinator.
#[allow(async_fn_in_trait, reason = "the agent runs on one thread")]
pub trait Transport {
    /// Sends a request and waits for the head of the answer.
    async fn call(&self, request: Request) -> Result<Response, TransportError>;
}

/// How the coordinator is reached.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// The server's root, without `/api/v1`.
    pub server: String,
    /// Address of a proxy; empty: as the environment says (`HTTPS_PROXY`, `NO_PROXY` …).
    pub proxy: String,
    /// PEM file of further certificate authorities; empty: none.
    pub ca_file: String,
}

/// Longest silence while a file is sent, or an answer awaited or read; longer than any long poll.
const READ_TIMEOUT: Duration = Duration::from_secs(90);

/// HTTP and HTTPS by reqwest.
#[derive(Clone, Debug)]
pub struct HttpTransport {
    client: reqwest::Client,
    /// For bodies that may take long to send.
    uploads: reqwest::Client,
    server: String,
}

/// The connection cannot be set up as configured.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("\"{0}\" is not the address of a coordinator; write it like https://drover.example.org")]
    Server(String),
    #[error("\"{0}\" is not the address of a proxy; write it like http://proxy.example.org:3128")]
    Proxy(String),
    #[error("the CA file {path} cannot be used: {reason}")]
    CaFile { path: String, reason: String },
    #[error("the HTTP client cannot be set up: {0}")]
    Client(String),
}

/// Brings the address of a coordinator into its usual form: no path of the API, no slash at the end.
pub fn server_root(given: &str) -> Result<String, ConnectionError> {
    let wrong = || ConnectionError::Server(given.to_owned());
    let url = url::Url::parse(given.trim()).map_err(|_| wrong())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() || url.query().is_some() {
        return Err(wrong());
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(wrong());
    }
    let text = url.as_str().trim_end_matches('/');
    Ok(text.strip_suffix(drover_protocol::API_BASE).unwrap_or(text).trim_end_matches('/').to_owned())
}

impl HttpTransport {
    /// Sets the client up; opens no connection yet.
    pub fn new(connection: &Connection) -> Result<Self, ConnectionError> {
        // The client counts the silence from the sending of a request: an upload may take longer than that (see
        // `unless_silent`).
        let client = Self::client(connection, Some(READ_TIMEOUT))?;
        let uploads = Self::client(connection, None)?;
        Ok(Self { client, uploads, server: server_root(&connection.server)? })
    }

    fn client(connection: &Connection, read_timeout: Option<Duration>) -> Result<reqwest::Client, ConnectionError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("drover-agent/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(15))
            // A connection that died without a word (a suspended laptop, a router) is found out.
            .tcp_keepalive(Duration::from_secs(20))
            .pool_max_idle_per_host(4)
            // Answers to an agent are short, and packages are compressed already: it would only cost both sides time.
            .gzip(false)
            .zstd(false)
            .redirect(reqwest::redirect::Policy::none());
        if !connection.proxy.is_empty() {
            let proxy = reqwest::Proxy::all(&connection.proxy);
            // The address may hold a password: it is not repeated whole.
            let proxy = proxy.map_err(|_| ConnectionError::Proxy(without_password(&connection.proxy)))?;
            builder = builder.proxy(proxy);
        }
        if !connection.ca_file.is_empty() {
            let refused = |reason: String| ConnectionError::CaFile { path: connection.ca_file.clone(), reason };
            let pem = std::fs::read(&connection.ca_file).map_err(|error| refused(error.to_string()))?;
            let certificates =
                reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| refused(error.to_string()))?;
            if certificates.is_empty() {
                return Err(refused("it holds no certificate in PEM form".to_owned()));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        let server = server_root(&connection.server)?;
        if server.starts_with("http://") && connection.proxy.is_empty() && connection.ca_file.is_empty() {
            // A host without any certificate authority can still speak plain HTTP; redirects are not followed.
            builder = builder.tls_certs_only([]);
        }
        if let Some(read_timeout) = read_timeout {
            builder = builder.read_timeout(read_timeout);
        }
        builder.build().map_err(|error| ConnectionError::Client(describe(&error)))
    }
}

/// An address without user and password.
pub fn without_password(address: &str) -> String {
    match url::Url::parse(address) {
        Ok(mut url) => {
            let _ = url.set_password(None);
            let _ = url.set_username("");
            url.to_string()
        }
        Err(_) => "(not an address)".to_owned(),
    }
}

impl Transport for HttpTransport {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        let client = if matches!(request.body, Body::File(..)) { &self.uploads } else { &self.client };
        let mut builder =
            client.request(request.method, format!("{}{}", self.server, request.path)).headers(request.headers);
        if let Some(key) = &request.key {
            builder = builder.bearer_auth(key);
        }
        if let Some(timeout) = request.timeout {
            builder = builder.timeout(timeout);
        }
        let (sent, sending) = watch::channel(());
        builder = match request.body {
            Body::Empty => builder,
            Body::Bytes(bytes) => builder.body(bytes),
            Body::File(file, length) => {
                let stream = tokio_util::io::ReaderStream::with_capacity(file, 64 * 1024);
                let stream = stream.inspect(move |_| sent.send_replace(()));
                builder.header(http::header::CONTENT_LENGTH, length).body(reqwest::Body::wrap_stream(stream))
            }
        };
        let failed = |error: reqwest::Error| TransportError(describe(&error.without_url()));
        let answer = unless_silent(builder.send(), sending).await?.map_err(failed)?;
        Ok(Response {
            status: answer.status(),
            headers: answer.headers().clone(),
            body: answer.bytes_stream().map(move |chunk| chunk.map_err(failed)).boxed_local(),
        })
    }
}

/// Waits for the head of an answer; gives up when for too long neither that has come nor a piece of the body was taken.
async fn unless_silent<T>(
    answer: impl Future<Output = T>,
    mut sending: watch::Receiver<()>,
) -> Result<T, TransportError> {
    let (mut answer, mut is_sending) = (std::pin::pin!(answer), true);
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return Ok(answer),
            taken = sending.changed(), if is_sending => is_sending = taken.is_ok(),
            () = tokio::time::sleep(READ_TIMEOUT) => {
                return Err(TransportError(format!("nothing moved for {} seconds", READ_TIMEOUT.as_secs())));
            }
        }
    }
}

/// An error with all its causes: "error sending request" alone helps nobody.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_brought_into_one_form() {
        for given in ["http://h:7070", "http://h:7070/", "http://h:7070/api/v1", " http://h:7070/api/v1/ "] {
            assert_eq!(server_root(given).ok().as_deref(), Some("http://h:7070"), "{given}");
        }
        assert_eq!(server_root("https://h/drover/").ok().as_deref(), Some("https://h/drover"));
        for bad in ["", "h:7070", "ftp://h", "http://", "http://u:p@h", "http://h/?a=b"] {
            assert!(server_root(bad).is_err(), "{bad}");
        }
    }

    /// An upload may take as long as it moves; one that was taken whole and is never answered is given up.
    #[tokio::test(start_paused = true)]
    async fn only_silence_ends_an_upload() {
        let began = tokio::time::Instant::now();
        let (sent, sending) = watch::channel(());
        let pieces = async {
            for _ in 0..10 {
                tokio::time::sleep(READ_TIMEOUT * 2 / 3).await;
                sent.send_replace(());
            }
            drop(sent);
        };
        let (given_up, ()) = futures::join!(unless_silent(std::future::pending::<()>(), sending), pieces);
        assert!(given_up.is_err());
        assert_eq!(began.elapsed().as_secs(), READ_TIMEOUT.as_secs() * 20 / 3 + READ_TIMEOUT.as_secs());
    }

    #[test]
    fn errors_do_not_repeat_a_proxys_password() {
        let connection = Connection {
            server: "http://h".to_owned(),
            proxy: "nonsense://u:hunter2@p:1".to_owned(),
            ..Default::default()
        };
        if let Err(error) = HttpTransport::new(&connection) {
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
