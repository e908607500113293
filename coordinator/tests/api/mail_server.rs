//! A mail server on loopback that speaks as much SMTP as a client needs, keeps what it is sent, and refuses when told to.

use std::{net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// A mail as it came.
#[derive(Clone, Debug)]
pub struct Mail {
    pub to: Vec<String>,
    pub text: String,
}

#[derive(Clone)]
pub struct MailServer {
    pub address: SocketAddr,
    mails: Arc<Mutex<Vec<Mail>>>,
    refusing: Arc<Mutex<bool>>,
}

impl MailServer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self { address: listener.local_addr().unwrap(), mails: Arc::default(), refusing: Arc::default() };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move { serving.talk(stream).await });
            }
        });
        server
    }

    /// From now on mails are refused for a while, or taken again.
    pub fn refuse(&self, refusing: bool) {
        *self.refusing.lock() = refusing;
    }

    pub fn take(&self) -> Vec<Mail> {
        std::mem::take(&mut self.mails.lock())
    }

    async fn talk(&self, stream: TcpStream) -> std::io::Result<()> {
        let (reading, mut writing) = stream.into_split();
        let mut lines = BufReader::new(reading).lines();
        writing.write_all(b"220 mail.test ESMTP\r\n").await?;
        let mut to = Vec::new();
        while let Some(line) = lines.next_line().await? {
            let answer = match line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase().as_str() {
                "EHLO" | "HELO" => "250-mail.test\r\n250 8BITMIME\r\n",
                "MAIL" if *self.refusing.lock() => "451 try again later\r\n",
                "MAIL" | "RSET" | "NOOP" => "250 fine\r\n",
                "RCPT" => {
                    to.push(line.split(['<', '>']).nth(1).unwrap_or_default().to_owned());
                    "250 fine\r\n"
                }
                "DATA" => {
                    writing.write_all(b"354 go on\r\n").await?;
                    let mut text = String::new();
                    while let Some(line) = lines.next_line().await?.filter(|line| line != ".") {
                        text.push_str(&line);
                        text.push('\n');
                    }
                    self.mails.lock().push(Mail { to: std::mem::take(&mut to), text });
                    "250 taken\r\n"
                }
                "QUIT" => {
                    writing.write_all(b"221 bye\r\n").await?;
                    return Ok(());
                }
                _ => "502 not known\r\n",
            };
            writing.write_all(answer.as_bytes()).await?;
        }
        Ok(())
    }
}
