//! A mail as people read it: who, what, when, its text, and what is attached.

use drover_protocol::Timestamp;
use mail_parser::{Address, Message, MessageParser, MimeHeaders};
use serde_json::{Map, Value, json};

use super::{MailError, Result};
use crate::domain::trigger::by_mail::Outline;

/// Attachments that are taken from one mail.
const MAX_ATTACHMENTS: usize = 100;
/// The longest name of an attachment, in bytes.
const MAX_NAME_BYTES: usize = 200;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Fit to be the last part of a path.
    pub name: String,
    pub content_type: Option<String>,
    pub content: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    pub from: Option<String>,
    pub to: Vec<String>,
    pub cc: Vec<String>,
    pub subject: String,
    pub date: Option<Timestamp>,
    pub message_id: Option<String>,
    pub text: String,
    pub html: Option<String>,
    pub attachments: Vec<Attachment>,
}

impl Mail {
    /// Reads a mail as it was received. A mail that is no good by the rules is read as well as can be.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let message =
            MessageParser::default().parse(bytes).ok_or_else(|| MailError("a mail cannot be read".to_owned()))?;
        let attachments: Vec<Attachment> = attachments_of(&message);
        if attachments.len() > MAX_ATTACHMENTS {
            return Err(MailError(format!("a mail has more than {MAX_ATTACHMENTS} attachments")));
        }
        // What has no such part is given as one that was made of its text.
        let has_html = message.html_part(0).is_some_and(|part| part.is_text_html());
        Ok(Self {
            from: texts_of(message.from()).into_iter().next(),
            to: texts_of(message.to()),
            cc: texts_of(message.cc()),
            subject: message.subject().unwrap_or_default().to_owned(),
            date: message.date().map(|date| Timestamp::from_millis(date.to_timestamp().max(0).saturating_mul(1_000))),
            message_id: message.message_id().map(str::to_owned),
            text: message.body_text(0).unwrap_or_default().into_owned(),
            html: message.body_html(0).filter(|_| has_html).map(|html| html.into_owned()),
            attachments,
        })
    }

    /// What filters look at.
    pub fn outline(&self) -> Outline<'_> {
        let attachments = self.attachments.iter().map(|attachment| attachment.name.as_str()).collect();
        Outline { subject: &self.subject, text: &self.text, attachments }
    }

    /// What the job is told. `paths` says where the attachments were put, if they were.
    pub fn told(&self, id: &str, folder: Option<&str>, paths: &[String]) -> Map<String, Value> {
        let attachments: Vec<Value> = self
            .attachments
            .iter()
            .enumerate()
            .map(|(number, attachment)| {
                json!({ "name": attachment.name, "content_type": attachment.content_type,
                    "size_bytes": attachment.content.len(), "folder": folder, "path": paths.get(number) })
            })
            .collect();
        let mail = json!({ "id": id, "from": self.from, "to": self.to, "cc": self.cc, "subject": self.subject,
            "date": self.date, "message_id": self.message_id, "text": self.text, "html": self.html,
            "attachments": attachments });
        match mail {
            Value::Object(members) => members,
            _ => Map::new(),
        }
    }
}

/// Addresses as `Name <box@example.com>`, or the bare address.
fn texts_of(address: Option<&Address>) -> Vec<String> {
    address.into_iter().flat_map(|address| address.iter().filter_map(text_of).collect::<Vec<_>>()).collect()
}

fn text_of(one: &mail_parser::Addr) -> Option<String> {
    match (&one.name, &one.address) {
        (Some(name), Some(address)) => Some(format!("{name} <{address}>")),
        (None, Some(address)) => Some(address.to_string()),
        (Some(name), None) => Some(name.to_string()),
        (None, None) => None,
    }
}

fn attachments_of(message: &Message) -> Vec<Attachment> {
    let mut attachments = Vec::new();
    for (number, part) in message.attachments().take(MAX_ATTACHMENTS + 1).enumerate() {
        let content_type = part.content_type().map(|kind| match kind.subtype() {
            Some(subtype) => format!("{}/{subtype}", kind.ctype()).to_ascii_lowercase(),
            None => kind.ctype().to_ascii_lowercase(),
        });
        let name = safe_name(part.attachment_name().unwrap_or_default(), number + 1);
        attachments.push(Attachment { name, content_type, content: part.contents().to_vec() });
    }
    attachments
}

/// A name that is one part of a path, whatever the sender has written.
fn safe_name(name: &str, number: usize) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let mut safe: String = last.chars().filter(|letter| !letter.is_control()).collect();
    while safe.len() > MAX_NAME_BYTES {
        safe.pop();
    }
    match safe.trim() {
        "" | "." | ".." => format!("attachment-{number}"),
        trimmed => trimmed.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIL: &str = "From: =?utf-8?q?J=C3=BCrgen?= <j@example.com>\r\nTo: a@example.com, B <b@example.com>\r\n\
        Subject: =?utf-8?b?0KHRh9GR0YI=?= 7\r\nDate: Mon, 23 Nov 2026 09:05:11 +0100\r\nMessage-ID: <m1@example.com>\r\n\
        MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain; \
        charset=utf-8\r\n\r\nHello\r\n--b\r\nContent-Type: application/pdf; name=\"../../x.pdf\"\r\n\
        Content-Disposition: attachment; filename=\"../../x.pdf\"\r\nContent-Transfer-Encoding: base64\r\n\r\nAAEC\r\n--b--\r\n";

    #[test]
    fn a_mail_is_read_with_its_names_and_attachments() {
        let mail = Mail::parse(MAIL.as_bytes()).expect("it is a mail");
        assert_eq!(mail.from.as_deref(), Some("Jürgen <j@example.com>"));
        assert_eq!(mail.to, ["a@example.com", "B <b@example.com>"]);
        assert_eq!((mail.subject.as_str(), mail.text.trim()), ("Счёт 7", "Hello"));
        assert_eq!(mail.date, "2026-11-23T08:05:11Z".parse().ok());
        let pdf = &mail.attachments[0];
        assert_eq!((pdf.name.as_str(), pdf.content.as_slice()), ("x.pdf", [0, 1, 2].as_slice()));
        assert_eq!(pdf.content_type.as_deref(), Some("application/pdf"));
        let told = mail.told("7/1", Some("f"), &["p/x.pdf".to_owned()]);
        assert_eq!(told["attachments"][0]["path"], "p/x.pdf");
    }

    #[test]
    fn names_are_parts_of_paths_whatever_was_written() {
        for (name, safe) in [("a/b\\c.txt", "c.txt"), ("..", "attachment-3"), ("", "attachment-3"), ("x\r\ny", "xy")] {
            assert_eq!(safe_name(name, 3), safe);
        }
    }

    #[test]
    fn nonsense_is_read_as_well_as_can_be() {
        for nonsense in ["", "\r\n", "no header at all", "Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n"] {
            drop(Mail::parse(nonsense.as_bytes()));
        }
    }
}
