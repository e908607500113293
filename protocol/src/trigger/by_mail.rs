//! Triggers that look into a mailbox.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::words::words;

words! {
    /// How a mailbox is read.
    pub enum MailProtocol {
        /// IMAP: a folder of a mailbox.
        Imap,
        /// POP3: the whole mailbox, which has at most 4000 mails.
        Pop3,
    }

    /// How the connection to a mail server is secured.
    pub enum MailSecurity {
        /// TLS from the beginning.
        Tls,
        /// TLS by the command of the protocol.
        Starttls,
        /// Not at all: password and mails go openly. For servers on the same host.
        Plain,
    }

    /// How many jobs mails are worth.
    pub enum MailJobs {
        /// One for each mail.
        PerMail,
        /// One for all mails of one look.
        PerLook,
    }
}

/// Which mails a trigger of kind `mail` fires for, each of them once.
///
/// What counts is that a mail is new in the mailbox since the last look, and fits the filters. The input of the job gets a
/// member `mail` (`id`, `from`, `to`, `cc`, `subject`, `date`, `message_id`, `text`, `html`, `attachments`), or, with one job
/// per look, a list `mails` of these. Whoever makes or changes such a trigger needs `resource:read_value`, for the password
/// goes to the server that is named here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ByMail {
    /// `imap` if absent.
    #[serde(default = "imap")]
    pub protocol: MailProtocol,
    #[schema(min_length = 1, max_length = 253, example = "imap.example.com")]
    pub server: String,
    /// Absent: the usual one of the protocol and its security (993, 143, 995 or 110).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub port: Option<u16>,
    /// `tls` if absent.
    #[serde(default = "tls")]
    pub security: MailSecurity,
    /// Id or name of a resource of the kind `credential`, whose default value counts; answers say the id.
    #[schema(example = "invoices-mailbox")]
    pub credential: String,
    /// Of IMAP: the folder; `INBOX` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 255)]
    pub mailbox: Option<String>,
    /// Whether mails count that lie there already at the first look.
    #[serde(default)]
    pub existing: bool,
    /// Of IMAP: only mails that nobody has read.
    #[serde(default)]
    pub unread_only: bool,
    /// Of IMAP: mails for which a job was started are marked as read.
    #[serde(default)]
    pub mark_as_read: bool,
    /// The subject must have one of these texts in it, whatever the case of letters.
    #[serde(default)]
    #[schema(max_items = 50)]
    pub subject_contains: Vec<String>,
    /// The same for the text of the mail.
    #[serde(default)]
    #[schema(max_items = 50)]
    pub body_contains: Vec<String>,
    /// One attachment must have a name that fits one of these masks (`*` any letters, `?` one letter, whatever their case).
    #[serde(default)]
    #[schema(max_items = 50)]
    pub attachment_names: Vec<String>,
    /// `per_mail` if absent.
    #[serde(default = "per_mail")]
    pub jobs: MailJobs,
    /// With one job per look: no job is started while fewer mails fit.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 50)]
    pub threshold: u32,
    /// From one look to the next.
    #[serde(default = "ten_minutes")]
    #[schema(minimum = 10, maximum = 86400)]
    pub interval_seconds: u64,
    /// Id or name of the storage folder into which attachments go; answers say the id. Absent: they are told by name alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachments_folder: Option<String>,
}

fn imap() -> MailProtocol {
    MailProtocol::Imap
}

fn tls() -> MailSecurity {
    MailSecurity::Tls
}

fn per_mail() -> MailJobs {
    MailJobs::PerMail
}

fn one() -> u32 {
    1
}

fn ten_minutes() -> u64 {
    600
}
