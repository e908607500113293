//! Connections: accepts them, bounds what a slow or greedy client can hold, and ends them in order.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo, http::Request};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto::Builder,
        graceful::{GracefulShutdown, Watcher},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::{
    activity::{Activity, Watched},
    proxies::Proxies,
    tls::{Certificate, TlsError},
};
use crate::app::App;

/// A client that does not finish its headers in this time has gone. Longer than agents pause between two calls, so that
/// they need no new connection for each.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may be open without a request under way; the second is for when places become scarce.
const IDLE_ALLOWANCE: Duration = Duration::from_secs(30);
const SCARCE_ALLOWANCE: Duration = Duration::from_secs(2);
/// How often it is looked whether a connection is still worth its place.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A client that does not agree upon encryption in this time has gone.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the files of the certificate are read, so that a new one counts without a restart.
const CERTIFICATE_EVERY: Duration = Duration::from_secs(2);
const MAX_HEADER_BYTES: usize = 64 * 1024;
const MAX_CONNECTIONS: usize = 20_000;
/// Open files that the store and all else need beside the connections.
const FILES_BESIDE: usize = 256;
/// What one HTTP/2 connection can have the coordinator hold.
const MAX_STREAMS: u32 = 100;
const MAX_UNSENT_BYTES_PER_STREAM: usize = 64 * 1024;

/// How connections are encrypted.
struct Encryption {
    acceptor: TlsAcceptor,
    certificate: Arc<Certificate>,
}

/// A service that listens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    encryption: Option<Encryption>,
    proxies: Arc<Proxies>,
}

impl Server {
    pub async fn bind(address: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, encryption: None, proxies: Arc::default() })
    }

    /// Believes these proxies when they say by whom they were called.
    pub fn behind(mut self, proxies: Proxies) -> Self {
        self.proxies = Arc::new(proxies);
        self
    }

    /// Encrypts every connection by this certificate.
    pub fn encrypted(mut self, certificate: Certificate) -> Result<Self, TlsError> {
        let certificate = Arc::new(certificate);
        let acceptor = TlsAcceptor::from(Arc::new(certificate.server_config()?));
        self.encryption = Some(Encryption { acceptor, certificate });
        Ok(self)
    }

    /// Where it listens; the port is the real one if any was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Serves until `app.stopping` is cancelled, then lets requests end for at most `patience`.
pub async fn serve(server: Server, app: Arc<App>, patience: Duration) {
    let router = super::router(Arc::clone(&app));
    let graceful = GracefulShutdown::new();
    let most = most_connections();
    let places = Arc::new(Semaphore::new(most));
    let acceptor = server.encryption.map(|encryption| {
        tokio::spawn(keep_current(Arc::clone(&app), encryption.certificate));
        encryption.acceptor
    });
    loop {
        let accepted = tokio::select! {
            biased;
            () = app.stopping.cancelled() => break,
            accepted = accept(&server.listener, &places) => accepted,
        };
        if let Some((stream, peer, place)) = accepted {
            // Answers are small and awaited: they must not wait for more of them.
            let _ = stream.set_nodelay(true);
            let scarce = Scarce { places: Arc::clone(&places), below: most / 4 };
            let (router, proxies, watcher) = (router.clone(), Arc::clone(&server.proxies), graceful.watcher());
            let connection = Connection { peer, place, scarce, router, proxies, watcher };
            match acceptor.clone() {
                None => tokio::spawn(connection.serve(stream)),
                Some(acceptor) => tokio::spawn(connection.serve_encrypted(stream, acceptor)),
            };
        }
    }
    drop(server.listener);
    if tokio::time::timeout(patience, graceful.shutdown()).await.is_err() {
        tracing::warn!(patience_seconds = patience.as_secs(), "some requests had not ended in time");
    }
}

/// As many as there may be files open, each connection being one and perhaps reading or writing another, less what is
/// needed beside. The process's soft limit is raised to its hard one first.
fn most_connections() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let files = if raised.is_ok() { limit.maximum } else { limit.current };
    let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    let most = (files.saturating_sub(FILES_BESIDE.min(files / 2)) / 2).clamp(1, MAX_CONNECTIONS);
    if most < MAX_CONNECTIONS {
        tracing::warn!(connections = most, files, "fewer connections than usual, for few files may be open at once");
    }
    most
}

/// Whether places become scarce.
struct Scarce {
    places: Arc<Semaphore>,
    below: usize,
}

impl Scarce {
    fn idle_allowance(&self) -> Duration {
        if self.places.available_permits() < self.below { SCARCE_ALLOWANCE } else { IDLE_ALLOWANCE }
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, place)),
        Err(error) => {
            // Too many open files, most likely: a pause lets some of them close.
            tracing::warn!(%error, "a connection was not accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

/// Takes a new certificate when its files have changed, until the coordinator stops.
async fn keep_current(app: Arc<App>, certificate: Arc<Certificate>) {
    let mut was_unreadable = false;
    loop {
        tokio::select! {
            () = app.stopping.cancelled() => return,
            () = tokio::time::sleep(CERTIFICATE_EVERY) => {}
        }
        let files = Arc::clone(&certificate);
        let Ok(reloaded) = tokio::task::spawn_blocking(move || files.reload()).await else { continue };
        let unreadable = matches!(reloaded, Err(TlsError::Unreadable { .. }));
        match reloaded {
            Ok(true) => tracing::info!("the certificate has changed; new connections use it"),
            Ok(false) => {}
            Err(_) if unreadable && was_unreadable => {}
            Err(error) => tracing::error!(%error, "the new certificate cannot be used; the one before stays in use"),
        }
        was_unreadable = unreadable;
    }
}

/// A connection that was accepted.
struct Connection {
    peer: SocketAddr,
    /// Free again when the connection ends.
    place: OwnedSemaphorePermit,
    scarce: Scarce,
    router: Router,
    proxies: Arc<Proxies>,
    watcher: Watcher,
}

impl Connection {
    async fn serve_encrypted(self, stream: TcpStream, acceptor: TlsAcceptor) {
        let peer = self.peer;
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.serve(stream).await,
            Ok(Err(error)) => tracing::debug!(%error, %peer, "a client did not agree upon encryption"),
            Err(_) => tracing::debug!(%peer, "a client took too long to agree upon encryption"),
        }
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let Self { peer, place, scarce, router, proxies, watcher } = self;
        let activity = Arc::new(Activity::default());
        let seen = Arc::clone(&activity);
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let ticket = activity.begin();
            let mut request = request.map(Body::new);
            let client = SocketAddr::new(proxies.client(peer.ip(), request.headers()), peer.port());
            request.extensions_mut().insert(ConnectInfo(client));
            let answering = router.clone().oneshot(request);
            async move { answering.await.map(|answer| answer.map(|body| Watched { body, ticket })) }
        });
        let connection = protocols().serve_connection(TokioIo::new(stream), service).into_owned();
        let mut connection = std::pin::pin!(watcher.watch(connection));
        loop {
            tokio::select! {
                biased;
                ended = &mut connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, %peer, "a connection ended with an error");
                    }
                    break;
                }
                () = tokio::time::sleep(LOOK_EVERY) => {
                    if let Some(reason) = seen.overdue(scarce.idle_allowance()) {
                        tracing::debug!(reason, %peer, "a connection is closed");
                        break;
                    }
                }
            }
        }
        drop(place);
    }
}

/// HTTP/1.1 and HTTP/2 within the bounds above.
fn protocols() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEADER_BYTES as u32)
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(MAX_UNSENT_BYTES_PER_STREAM);
    builder
}
