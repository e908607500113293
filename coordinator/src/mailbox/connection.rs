//! Connections to mail servers: with or without TLS, and no more bytes than one look may bring.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use drover_protocol::trigger::ByMail;
use futures::{FutureExt, future::BoxFuture};
use rustls::{ClientConfig, crypto::aws_lc_rs, pki_types::ServerName};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{MAX_MAIL_BYTES, MAX_PER_LOOK, MailError, Result};
use crate::domain::trigger::by_mail::port;

/// What one connection may bring at the most.
const MAX_BYTES: u64 = MAX_MAIL_BYTES * MAX_PER_LOOK as u64;

/// Something that is written to and read from.
pub trait Wire: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Wire for T {}

/// A connection to a mail server.
pub type Connection = Box<dyn Wire>;

/// By what mail servers are reached.
pub trait Dialer: Send + Sync {
    /// A connection to the server, as yet without TLS.
    fn dial<'a>(&'a self, server: &'a str, port: u16) -> BoxFuture<'a, io::Result<Connection>>;
}

/// Reaches them over TCP.
#[derive(Clone, Copy, Debug)]
pub struct Tcp;

impl Dialer for Tcp {
    fn dial<'a>(&'a self, server: &'a str, port: u16) -> BoxFuture<'a, io::Result<Connection>> {
        async move {
            let stream = TcpStream::connect((server, port)).await?;
            Ok(Box::new(stream) as Connection)
        }
        .boxed()
    }
}

/// Connects without TLS.
pub async fn connect(dialer: &dyn Dialer, settings: &ByMail) -> Result<Connection> {
    let port = port(settings);
    let stream = dialer
        .dial(&settings.server, port)
        .await
        .map_err(|error| MailError(format!("no connection to {} at port {port}: {error}", settings.server)))?;
    Ok(Box::new(Limited { stream, left: MAX_BYTES }))
}

/// Secures a connection, and makes sure that the server is the one that is meant.
pub async fn secure(settings: &ByMail, connection: Connection) -> Result<Connection> {
    let name = ServerName::try_from(settings.server.clone())
        .map_err(|_| MailError(format!("\"{}\" is no name of a server", settings.server)))?;
    let secured = TlsConnector::from(tls()?).connect(name, connection).await;
    match secured {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(MailError(format!("{} cannot be reached by TLS: {error}", settings.server))),
    }
}

/// Servers are known by the certificates that this host trusts.
fn tls() -> Result<Arc<ClientConfig>> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(Arc::clone(config));
    }
    let unusable = |error: rustls::Error| MailError(format!("TLS cannot be used: {error}"));
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_platform_verifier()
        .map_err(unusable)?
        .with_no_client_auth();
    Ok(Arc::clone(CONFIG.get_or_init(|| Arc::new(config))))
}

/// A stream that gives only so many bytes.
#[derive(Debug)]
struct Limited {
    stream: Connection,
    left: u64,
}

impl AsyncRead for Limited {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        let received = (buffer.filled().len() - before) as u64;
        match this.left.checked_sub(received) {
            Some(left) => {
                this.left = left;
                Poll::Ready(Ok(()))
            }
            None => Poll::Ready(Err(io::Error::other("the server sends more than a mailbox may bring at once"))),
        }
    }
}

impl AsyncWrite for Limited {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
