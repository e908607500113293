//! A mailbox by POP3 (RFC 1939, with UIDL and STLS): a small language of lines, of which no living library speaks the part
//! that is needed here.

use drover_protocol::trigger::{ByMail, MailSecurity};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::{Dialer, Letter, Login, MAX_MAIL_BYTES, MAX_PER_LOOK, MailError, News, Result, connection};
use crate::domain::trigger::by_mail::{MAX_NAMED, MailMark};

/// No line of a server is longer, those of mails included.
const MAX_LINE_BYTES: u64 = 1024 * 1024;

pub struct Pop3 {
    stream: BufReader<connection::Connection>,
}

fn broken(error: std::io::Error) -> MailError {
    MailError(format!("the connection to the mail server broke: {error}"))
}

impl Pop3 {
    pub async fn open(dialer: &dyn Dialer, settings: &ByMail, login: &Login) -> Result<Self> {
        if [&login.username, &login.password].iter().any(|text| text.contains(['\r', '\n'])) {
            return Err(MailError("name and password must not have line breaks in them".to_owned()));
        }
        let plain = connection::connect(dialer, settings).await?;
        let stream = match settings.security {
            MailSecurity::Tls => connection::secure(settings, plain).await?,
            MailSecurity::Starttls | MailSecurity::Plain => plain,
        };
        let mut pop3 = Self { stream: BufReader::new(stream) };
        pop3.answer("greeting").await?;
        if settings.security == MailSecurity::Starttls {
            pop3.call("STLS", "STLS").await?;
            if !pop3.stream.buffer().is_empty() {
                // What came openly after the answer could be anybody's.
                return Err(MailError("the server said something between STLS and TLS".to_owned()));
            }
            pop3 = Self { stream: BufReader::new(connection::secure(settings, pop3.stream.into_inner()).await?) };
        }
        pop3.call(&format!("USER {}", login.username), "signing in").await?;
        pop3.call(&format!("PASS {}", login.password), "signing in").await?;
        Ok(pop3)
    }

    /// One line, without its end.
    async fn line(&mut self) -> Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut limited = (&mut self.stream).take(MAX_LINE_BYTES);
        limited.read_until(b'\n', &mut line).await.map_err(broken)?;
        match line.pop() {
            Some(b'\n') => {
                line.pop_if(|last| *last == b'\r');
                Ok(line)
            }
            _ => Err(MailError("the mail server has closed the connection, or said a line without end".to_owned())),
        }
    }

    /// An answer of one line, which must not be a refusal. `doing` is what was asked.
    async fn answer(&mut self, doing: &str) -> Result<String> {
        let line = String::from_utf8_lossy(&self.line().await?).into_owned();
        match line.strip_prefix("+OK") {
            Some(rest) => Ok(rest.trim().to_owned()),
            None => Err(MailError(format!("{doing}: the server says: {line}"))),
        }
    }

    async fn call(&mut self, command: &str, doing: &str) -> Result<String> {
        self.stream.get_mut().write_all(format!("{command}\r\n").as_bytes()).await.map_err(broken)?;
        self.stream.get_mut().flush().await.map_err(broken)?;
        self.answer(doing).await
    }

    /// The lines of an answer that ends with a full stop, of so many bytes at the most.
    async fn lines(&mut self, max_bytes: u64) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let line = self.line().await?;
            let line = match line.as_slice() {
                b"." => return Ok(all),
                [b'.', rest @ ..] => rest,
                whole => whole,
            };
            if all.len() as u64 + line.len() as u64 > max_bytes {
                return Err(MailError(format!("the server's answer is longer than {max_bytes} bytes")));
            }
            all.extend_from_slice(line);
            all.extend_from_slice(b"\r\n");
        }
    }

    /// Number and value of each mail, as `UIDL` and `LIST` tell them.
    async fn listed(&mut self, command: &str) -> Result<Vec<(u32, String)>> {
        self.call(command, "listing mails").await?;
        let lines = self.lines(MAX_LINE_BYTES).await?;
        let text = String::from_utf8_lossy(&lines).into_owned();
        let pair = |line: &str| {
            let (number, value) = line.split_once(' ')?;
            Some((number.parse().ok()?, value.trim().to_owned()))
        };
        Ok(text.lines().filter_map(pair).collect())
    }

    pub async fn news(&mut self, settings: &ByMail, mark: &mut MailMark) -> Result<News> {
        let named = self.listed("UIDL").await?;
        if named.len() > MAX_NAMED {
            return Err(MailError(format!("the mailbox has more than {MAX_NAMED} mails; tidy it up or use IMAP")));
        }
        let names: Vec<String> = named.iter().map(|(_, name)| name.clone()).collect();
        mark.keep_only(&names);
        if !mark.has_begun && !settings.existing {
            names.iter().for_each(|name| mark.note_named(name));
        }
        let mut new: Vec<(u32, String)> = named.into_iter().filter(|(_, name)| !mark.knows(name)).collect();
        new.sort_unstable();
        let more = new.len() > MAX_PER_LOOK;
        new.truncate(MAX_PER_LOOK);
        if new.is_empty() {
            return Ok(News::default());
        }
        let sizes = self.listed("LIST").await?;
        let size_of = |number: u32| {
            let size = sizes.iter().find(|(listed, _)| *listed == number);
            size.and_then(|(_, size)| size.parse().ok()).unwrap_or(0)
        };
        let letter = |(number, name): (u32, String)| Letter { number, name, size_bytes: size_of(number) };
        Ok(News { letters: new.into_iter().map(letter).collect(), more })
    }

    pub async fn read(&mut self, letter: &Letter) -> Result<Vec<u8>> {
        self.call(&format!("RETR {}", letter.number), "reading a mail").await?;
        self.lines(MAX_MAIL_BYTES).await
    }

    pub async fn close(mut self) {
        if let Err(error) = self.call("QUIT", "taking leave").await {
            tracing::debug!(%error, "a mail server did not take leave");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Pop3 {
        let (mut server, ours) = tokio::io::duplex(64 * 1024);
        let text = text.to_owned();
        tokio::spawn(async move {
            server.write_all(text.as_bytes()).await.ok();
            // It listens until we go.
            tokio::io::copy(&mut server, &mut tokio::io::sink()).await.ok();
        });
        Pop3 { stream: BufReader::new(Box::new(ours)) }
    }

    #[tokio::test]
    async fn a_mail_comes_as_it_was_before_dots_were_doubled() {
        let mut pop3 = said("+OK 3 lines\r\nSubject: x\r\n\r\n..hidden\r\n.\r\n");
        let letter = Letter { number: 1, name: "a".to_owned(), size_bytes: 9 };
        assert_eq!(pop3.read(&letter).await, Ok(b"Subject: x\r\n\r\n.hidden\r\n".to_vec()));
    }

    #[tokio::test]
    async fn new_mails_are_those_whose_name_is_not_known() {
        let listing = "+OK\r\n1 aaa\r\n2 bbb\r\n3 ccc\r\n.\r\n+OK\r\n1 10\r\n2 20\r\n3 30\r\n.\r\n";
        let settings: ByMail =
            serde_json::from_value(serde_json::json!({ "server": "s", "credential": "c" })).expect("settings");
        let mut mark = MailMark::new(drover_protocol::TriggerId::from_uuid(uuid::Uuid::nil()), uuid::Uuid::nil(), None);
        mark.has_begun = true;
        ["bbb", "gone"].iter().for_each(|name| mark.note_named(name));
        let news = said(listing).news(&settings, &mut mark).await.expect("it is a list");
        let found: Vec<(&str, u64)> = news.letters.iter().map(|one| (one.name.as_str(), one.size_bytes)).collect();
        assert_eq!((found, news.more), (vec![("aaa", 10), ("ccc", 30)], false));
        assert!(!mark.knows("gone"));
        // At the first look all that is there is known.
        mark = MailMark::new(mark.trigger_id, mark.epoch, None);
        assert!(said(listing).news(&settings, &mut mark).await.expect("it is a list").letters.is_empty());
        assert!(mark.knows("aaa") && mark.knows("ccc"));
    }

    #[tokio::test]
    async fn refusals_are_told_and_never_the_password() {
        let error = said("-ERR [AUTH] no such mailbox\r\n").call("PASS hidden", "signing in").await;
        assert_eq!(error, Err(MailError("signing in: the server says: -ERR [AUTH] no such mailbox".to_owned())));
    }
}
