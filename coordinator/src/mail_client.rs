//! Sends e-mails over the operator's mail server.

use std::time::Duration;

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Tokio1Executor,
    message::{Mailbox, Message, header::ContentType},
    transport::smtp::{
        authentication::Credentials,
        client::{Tls, TlsParameters},
    },
};

use crate::domain::alert::Mail;

const TIMEOUT: Duration = Duration::from_secs(30);

/// How the connection to the mail server is kept from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailTls {
    /// The connection begins in the open and must then be secured.
    Starttls,
    /// It is secured from the beginning.
    Tls,
    /// Not at all: only for a server on the same host or network.
    None,
}

/// Which mail server, and as whom.
#[derive(Clone)]
pub struct MailRules {
    /// Empty: there is none.
    pub host: String,
    pub port: u16,
    pub tls: MailTls,
    pub from: String,
    /// Empty: it asks for none.
    pub user: String,
    pub password: String,
}

impl MailRules {
    /// There is no mail server.
    pub fn none() -> Self {
        Self {
            host: String::new(),
            port: 0,
            tls: MailTls::Starttls,
            from: String::new(),
            user: String::new(),
            password: String::new(),
        }
    }
}

impl std::fmt::Debug for MailRules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MailRules").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

/// A connection to the mail server, or none.
pub struct MailClient {
    rules: MailRules,
}

impl MailClient {
    pub fn new(rules: MailRules) -> Self {
        Self { rules }
    }

    /// Whether a mail server is known.
    pub fn is_known(&self) -> bool {
        !self.rules.host.is_empty()
    }

    /// Sends a mail; the error says why not.
    pub async fn send(&self, mail: &Mail) -> Result<(), String> {
        if !self.is_known() {
            return Err("no mail server is known; set mail.host".to_owned());
        }
        let message = self.message(mail)?;
        let transport = self.transport()?;
        transport.send(message).await.map(drop).map_err(|error| described(&error))
    }

    fn message(&self, mail: &Mail) -> Result<Message, String> {
        let from: Mailbox = self.rules.from.parse().map_err(|error| format!("mail.from is no address: {error}"))?;
        let domain = from.email.domain().to_owned();
        let mut message = Message::builder()
            .from(from)
            // The same at every try, so that one that has come twice can be known as one.
            .message_id(Some(format!("<{}@{domain}>", mail.id)))
            .subject(&mail.subject)
            .header(ContentType::TEXT_PLAIN);
        for address in &mail.to {
            message = message.to(address.parse().map_err(|error| format!("{address} is no address: {error}"))?);
        }
        message.body(mail.text.clone()).map_err(|error| format!("the mail cannot be written: {error}"))
    }

    fn transport(&self) -> Result<AsyncSmtpTransport<Tokio1Executor>, String> {
        let rules = &self.rules;
        let parameters = || {
            TlsParameters::new(rules.host.clone()).map_err(|error| format!("TLS cannot be used: {}", described(&error)))
        };
        let tls = match rules.tls {
            MailTls::None => Tls::None,
            MailTls::Starttls => Tls::Required(parameters()?),
            MailTls::Tls => Tls::Wrapper(parameters()?),
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&rules.host)
            .port(rules.port)
            .tls(tls)
            .timeout(Some(TIMEOUT));
        if !rules.user.is_empty() {
            builder = builder.credentials(Credentials::new(rules.user.clone(), rules.password.clone()));
        }
        Ok(builder.build())
    }
}

/// The error with what has caused it.
fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    text
}
