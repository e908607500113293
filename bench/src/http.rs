//! The load generator's connection: HTTP/1.1 with keep-alive and nothing more, because it shares the cores with what it
//! measures. Requests are bytes that were made before.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
};

use anyhow::{Context, bail};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

/// Whole requests, ready to be sent.
#[derive(Clone, Debug)]
pub struct Request(pub Vec<u8>);

impl Request {
    /// A request with a JSON body; no body where it serialises to `null`.
    pub fn json(method: &str, path: &str, key: &str, body: &impl Serialize) -> anyhow::Result<Self> {
        let body = serde_json::to_vec(body)?;
        let body = if body == b"null" { Vec::new() } else { body };
        Ok(Self::new(method, path, key, "Content-Type: application/json\r\n", &body))
    }

    /// `headers` are whole lines with their ends.
    pub fn new(method: &str, path: &str, key: &str, headers: &str, body: &[u8]) -> Self {
        let mut bytes = format!(
            "{method} {path} HTTP/1.1\r\nHost: drover\r\nAuthorization: Bearer {key}\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        Self(bytes)
    }
}

/// An answer; its body lies in the connection's buffer until the next call.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    pub status: u16,
    pub body: &'a [u8],
}

impl Answer<'_> {
    /// The body as JSON, if the status is as wanted.
    pub fn expect<T: DeserializeOwned>(&self, status: u16) -> anyhow::Result<T> {
        self.require(status)?;
        serde_json::from_slice(self.body).context("an answer is not as expected")
    }

    /// Fails with what the other side says if the status is another.
    pub fn require(&self, status: u16) -> anyhow::Result<()> {
        if self.status == status {
            return Ok(());
        }
        bail!("status {} instead of {status}: {}", self.status, String::from_utf8_lossy(self.body))
    }
}

/// A connection that is kept.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// How much of the buffer was received.
    filled: usize,
}

const FIRST_BUFFER_BYTES: usize = 4 * 1024;

impl Connection {
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect(address).await?)
    }

    /// From a loopback address of its own: each has as many ports as there are.
    pub async fn open_from(source: IpAddr, address: SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        choose_port_late(&socket)?;
        socket.bind(SocketAddr::new(source, 0))?;
        Self::over(socket.connect(address).await?)
    }

    fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new(), filled: 0 })
    }

    /// Sends a request and waits for the whole answer.
    pub async fn call(&mut self, request: &Request) -> io::Result<Answer<'_>> {
        self.stream.write_all(&request.0).await?;
        self.filled = 0;
        let head = loop {
            self.receive().await?;
            if let Some(head) = Head::parse(&self.buffer[..self.filled])? {
                break head;
            }
        };
        let end = head.bytes + head.content_bytes;
        while self.filled < end {
            self.receive().await?;
        }
        Ok(Answer { status: head.status, body: &self.buffer[head.bytes..end] })
    }

    /// Sends a request whose answer is a stream, and gives the connection for reading it.
    pub async fn into_stream(mut self, request: &Request) -> io::Result<TcpStream> {
        self.stream.write_all(&request.0).await?;
        Ok(self.stream)
    }

    async fn receive(&mut self) -> io::Result<()> {
        if self.filled == self.buffer.len() {
            self.buffer.resize((self.filled * 2).max(FIRST_BUFFER_BYTES), 0);
        }
        match self.stream.read(&mut self.buffer[self.filled..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.filled += count;
                Ok(())
            }
        }
    }
}

/// Leaves the choice of the port to `connect`, which knows the other end: looking for one that is free for every end takes
/// the kernel milliseconds when tens of thousands are in use.
fn choose_port_late(socket: &TcpSocket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the length are those of a live value; the descriptor is open.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

struct Head {
    status: u16,
    bytes: usize,
    content_bytes: usize,
}

impl Head {
    /// `None` as long as it is not whole.
    fn parse(received: &[u8]) -> io::Result<Option<Self>> {
        let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "an answer's head is not understood");
        let text = std::str::from_utf8(&received[..end]).map_err(|_| malformed())?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).ok_or_else(malformed)?;
        let mut content_bytes = 0;
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                content_bytes = value.trim().parse().map_err(|_| malformed())?;
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "this client reads no answer in pieces"));
            }
        }
        Ok(Some(Self { status, bytes: end + 4, content_bytes }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_when_they_are_whole() {
        let head = |text: &str| Head::parse(text.as_bytes());
        assert!(head("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n").is_ok_and(|head| head.is_none()));
        let whole =
            head("HTTP/1.1 201 Created\r\ncontent-length: 12\r\nx: y\r\n\r\nabc").expect("read").expect("whole");
        assert_eq!((whole.status, whole.bytes, whole.content_bytes), (201, 50, 12));
        assert!(head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(head("nonsense\r\n\r\n").is_err());
    }
}
