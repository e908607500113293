//! Reading mailboxes: IMAP and POP3, over TLS unless the trigger says otherwise. No rule of triggers is decided here.

mod connection;
mod imap;
mod message;
mod pop3;

use std::time::Duration;

use drover_protocol::trigger::{ByMail, MailProtocol};

pub use self::{
    connection::{Connection, Dialer, Tcp},
    message::{Attachment, Mail},
};
use self::{imap::Imap, pop3::Pop3};
use crate::domain::trigger::by_mail::MailMark;

/// The largest mail that is read, in bytes.
pub const MAX_MAIL_BYTES: u64 = 32 * 1024 * 1024;
/// Mails that one look reads; those after them are for the next one.
pub const MAX_PER_LOOK: usize = 50;

/// Connecting and signing in take no longer.
const OPEN_SECONDS: u64 = 20;

/// Why a mailbox could not be read, in words for those who have set it up. Never holds the password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MailError(pub String);

type Result<T> = std::result::Result<T, MailError>;

/// Name and password of the mailbox.
pub struct Login {
    pub username: String,
    pub password: String,
}

/// A mail of the mailbox that was not looked at before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// By which the server calls it in this session.
    number: u32,
    /// Tells it from all others of the mailbox, for good.
    pub name: String,
    pub size_bytes: u64,
}

/// What is new in a mailbox.
#[derive(Debug, Default)]
pub struct News {
    /// Oldest first.
    pub letters: Vec<Letter>,
    /// There are more than one look reads.
    pub more: bool,
}

/// A mailbox that is open.
pub enum Mailbox {
    Imap(Box<Imap>),
    Pop3(Box<Pop3>),
}

impl Mailbox {
    /// Connects and signs in.
    pub async fn open(dialer: &dyn Dialer, settings: &ByMail, login: &Login) -> Result<Self> {
        let opening = async {
            Ok(match settings.protocol {
                MailProtocol::Imap => Self::Imap(Box::new(Imap::open(dialer, settings, login).await?)),
                MailProtocol::Pop3 => Self::Pop3(Box::new(Pop3::open(dialer, settings, login).await?)),
            })
        };
        // A server that waits for TLS says nothing to who does not begin with it.
        tokio::time::timeout(Duration::from_secs(OPEN_SECONDS), opening).await.unwrap_or_else(|_| {
            let text = "the server did not let us in within";
            Err(MailError(format!("{text} {OPEN_SECONDS} s; do its port and security go together?")))
        })
    }

    /// What is new since the mark, which is brought up to date as far as no mail needs to be looked at for that.
    pub async fn news(&mut self, settings: &ByMail, mark: &mut MailMark) -> Result<News> {
        let news = match self {
            Self::Imap(imap) => imap.news(settings, mark).await?,
            Self::Pop3(pop3) => pop3.news(settings, mark).await?,
        };
        mark.has_begun = true;
        Ok(news)
    }

    /// The mail as it was received.
    pub async fn read(&mut self, letter: &Letter) -> Result<Vec<u8>> {
        match self {
            Self::Imap(imap) => imap.read(letter).await,
            Self::Pop3(pop3) => pop3.read(letter).await,
        }
    }

    /// Marks a mail as read, where there is such a mark.
    pub async fn mark_as_read(&mut self, letter: &Letter) -> Result<()> {
        match self {
            Self::Imap(imap) => imap.mark_as_read(letter).await,
            Self::Pop3(_) => Ok(()),
        }
    }

    /// Takes leave. What goes wrong with that is of no matter any more.
    pub async fn close(self) {
        match self {
            Self::Imap(imap) => imap.close().await,
            Self::Pop3(pop3) => pop3.close().await,
        }
    }
}

/// The mail is done with.
pub fn note_done(mark: &mut MailMark, settings: &ByMail, letter: &Letter) {
    match settings.protocol {
        MailProtocol::Imap => mark.last_uid = mark.last_uid.max(letter.number),
        MailProtocol::Pop3 => mark.note_named(&letter.name),
    }
}
