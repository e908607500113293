//! A folder of a mailbox, by IMAP (RFC 3501). Mails are known by their UID as long as the folder's UIDVALIDITY stays.

use async_imap::{Client, Session, error::Error};
use drover_protocol::trigger::{ByMail, MailSecurity};
use futures::TryStreamExt;

use super::{Dialer, Letter, Login, MAX_MAIL_BYTES, MAX_PER_LOOK, MailError, News, Result, connection};
use crate::domain::trigger::by_mail::MailMark;

const DEFAULT_MAILBOX: &str = "INBOX";

pub struct Imap {
    session: Session<connection::Connection>,
    uid_validity: u32,
    /// No mail that is there has this UID or a larger one.
    uid_next: u32,
}

/// What the server says, without what we have said: that may hold the password.
fn failed(doing: &str) -> impl Fn(Error) -> MailError + '_ {
    move |error| match error {
        Error::No(text) | Error::Bad(text) => MailError(format!("{doing}: the server says: {text}")),
        Error::ConnectionLost => MailError(format!("{doing}: the server has closed the connection")),
        Error::Io(error) => MailError(format!("{doing}: {error}")),
        _ => MailError(format!("{doing}: the server's answer is not understood")),
    }
}

impl Imap {
    pub async fn open(dialer: &dyn Dialer, settings: &ByMail, login: &Login) -> Result<Self> {
        let mut client = greeted(dialer, settings).await?;
        if settings.security == MailSecurity::Starttls {
            client.run_command_and_check_ok("STARTTLS", None).await.map_err(failed("STARTTLS"))?;
            client = Client::new(connection::secure(settings, client.into_inner()).await?);
        }
        let signed_in = client.login(&login.username, &login.password).await;
        let mut session = signed_in.map_err(|(error, _)| failed("signing in")(error))?;
        let name = settings.mailbox.as_deref().unwrap_or(DEFAULT_MAILBOX);
        let selected = match settings.mark_as_read {
            true => session.select(name).await,
            // Nothing is changed by looking.
            false => session.examine(name).await,
        };
        let mailbox = selected.map_err(failed("opening the folder"))?;
        let (Some(uid_validity), Some(uid_next)) = (mailbox.uid_validity, mailbox.uid_next) else {
            return Err(MailError("the server knows mails by no lasting number (UIDVALIDITY, UIDNEXT)".to_owned()));
        };
        Ok(Self { session, uid_validity, uid_next })
    }

    pub async fn news(&mut self, settings: &ByMail, mark: &mut MailMark) -> Result<News> {
        if mark.uid_validity != Some(self.uid_validity) {
            // Numbers of before mean nothing any more: what is there now is taken for known, unless it is wanted.
            let takes_all = !mark.has_begun && settings.existing;
            mark.last_uid = if takes_all { 0 } else { self.uid_next.saturating_sub(1) };
            mark.uid_validity = Some(self.uid_validity);
        }
        let unread = if settings.unread_only { "UNSEEN " } else { "" };
        let query = format!("{unread}UID {}:*", u64::from(mark.last_uid) + 1);
        let found = self.session.uid_search(query).await.map_err(failed("looking for new mails"))?;
        // A range that ends with the last mail has it in any case.
        let mut numbers: Vec<u32> = found.into_iter().filter(|number| *number > mark.last_uid).collect();
        numbers.sort_unstable();
        let more = numbers.len() > MAX_PER_LOOK;
        numbers.truncate(MAX_PER_LOOK);
        Ok(News { letters: self.letters(&numbers).await?, more })
    }

    async fn letters(&mut self, numbers: &[u32]) -> Result<Vec<Letter>> {
        if numbers.is_empty() {
            return Ok(Vec::new());
        }
        let set = numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let fetched = self.session.uid_fetch(set, "(UID RFC822.SIZE)").await.map_err(failed("reading sizes"))?;
        let fetched: Vec<_> = fetched.try_collect().await.map_err(failed("reading sizes"))?;
        let letter = |number: &u32| {
            let size = fetched.iter().find(|one| one.uid == Some(*number)).and_then(|one| one.size)?;
            let name = format!("{}/{number}", self.uid_validity);
            Some(Letter { number: *number, name, size_bytes: u64::from(size) })
        };
        // What was deleted in the meantime is no news.
        Ok(numbers.iter().filter_map(letter).collect())
    }

    pub async fn read(&mut self, letter: &Letter) -> Result<Vec<u8>> {
        let doing = "reading a mail";
        let fetched = self.session.uid_fetch(letter.number.to_string(), "(UID BODY.PEEK[])").await;
        let fetched: Vec<_> = fetched.map_err(failed(doing))?.try_collect().await.map_err(failed(doing))?;
        let body = fetched.iter().find(|one| one.uid == Some(letter.number)).and_then(|one| one.body());
        let body = body.ok_or_else(|| MailError("a mail is gone".to_owned()))?;
        if body.len() as u64 > MAX_MAIL_BYTES {
            return Err(MailError("a mail is larger than the server has said".to_owned()));
        }
        Ok(body.to_vec())
    }

    pub async fn mark_as_read(&mut self, letter: &Letter) -> Result<()> {
        let doing = "marking a mail as read";
        let stored = self.session.uid_store(letter.number.to_string(), "+FLAGS.SILENT (\\Seen)").await;
        stored.map_err(failed(doing))?.try_collect::<Vec<_>>().await.map_err(failed(doing))?;
        Ok(())
    }

    pub async fn close(mut self) {
        if let Err(error) = self.session.logout().await {
            tracing::debug!(%error, "a mail server did not take leave");
        }
    }
}

/// Connects and waits for the server's greeting.
async fn greeted(dialer: &dyn Dialer, settings: &ByMail) -> Result<Client<connection::Connection>> {
    let plain = connection::connect(dialer, settings).await?;
    let stream = match settings.security {
        MailSecurity::Tls => connection::secure(settings, plain).await?,
        MailSecurity::Starttls | MailSecurity::Plain => plain,
    };
    let mut client = Client::new(stream);
    match client.read_response().await {
        Ok(Some(_)) => Ok(client),
        Ok(None) => Err(MailError("the server has closed the connection without a greeting".to_owned())),
        Err(error) => Err(MailError(format!("the server's greeting is not understood: {error}"))),
    }
}
