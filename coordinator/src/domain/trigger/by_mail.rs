//! Which mails a trigger fires for, and how far it has come in its mailbox.

use drover_protocol::{
    Timestamp, TriggerId,
    trigger::{ByMail, MailProtocol, MailSecurity},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Mails that a mailbox may have which knows them by name only.
pub const MAX_NAMED: usize = 4_000;
/// Bytes by which the name of a mail is remembered.
const NAME_BYTES: usize = 8;

/// How far a trigger has come in its mailbox, and when it looks again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MailMark {
    pub trigger_id: TriggerId,
    /// Another one for each mailbox that the trigger looks into.
    pub epoch: Uuid,
    /// When it looks next; absent while the trigger is disabled.
    pub look_at: Option<Timestamp>,
    /// It was looked into the mailbox before.
    pub has_begun: bool,
    /// Of IMAP: the numbers of mails are good for as long as this stays.
    pub uid_validity: Option<u32>,
    /// Of IMAP: mails up to this number are done with.
    pub last_uid: u32,
    /// Of POP3: the names of mails that are done with and still there, each as so many bytes of its digest.
    #[serde(with = "serde_bytes")]
    pub done: Vec<u8>,
    /// Why the last look came to nothing.
    pub failure: Option<String>,
    /// Looks in a row that came to nothing.
    #[serde(default)]
    pub failures: u32,
}

/// Nobody waits longer for the next look after failed ones.
const MAX_PAUSE_SECONDS: u64 = 3_600;

impl MailMark {
    /// How long the next look waits. A password that is wrong stays wrong, and whoever tries it again and again locks the
    /// mailbox for everybody.
    pub fn pause_seconds(&self, interval_seconds: u64) -> u64 {
        let longest = interval_seconds.max(MAX_PAUSE_SECONDS);
        interval_seconds.saturating_mul(1 << self.failures.saturating_sub(1).min(20)).min(longest)
    }

    pub fn new(trigger_id: TriggerId, epoch: Uuid, look_at: Option<Timestamp>) -> Self {
        Self {
            trigger_id,
            epoch,
            look_at,
            has_begun: false,
            uid_validity: None,
            last_uid: 0,
            done: Vec::new(),
            failure: None,
            failures: 0,
        }
    }

    /// The mail of this name is done with.
    pub fn note_named(&mut self, name: &str) {
        if !self.knows(name) {
            self.done.extend_from_slice(&digest_of(name));
        }
    }

    pub fn knows(&self, name: &str) -> bool {
        let digest = digest_of(name);
        self.done.chunks_exact(NAME_BYTES).any(|known| known == digest)
    }

    /// Forgets those that are there no more.
    pub fn keep_only(&mut self, names: &[String]) {
        let there: std::collections::HashSet<[u8; NAME_BYTES]> = names.iter().map(|name| digest_of(name)).collect();
        let kept = self.done.chunks_exact(NAME_BYTES).filter(|known| there.iter().any(|name| name == known));
        self.done = kept.flatten().copied().collect();
    }
}

fn digest_of(name: &str) -> [u8; NAME_BYTES] {
    let mut bytes = [0; NAME_BYTES];
    bytes.copy_from_slice(&Sha256::digest(name.as_bytes())[..NAME_BYTES]);
    bytes
}

/// The port of the server.
pub fn port(settings: &ByMail) -> u16 {
    settings.port.unwrap_or(match (settings.protocol, settings.security) {
        (MailProtocol::Imap, MailSecurity::Tls) => 993,
        (MailProtocol::Imap, MailSecurity::Starttls | MailSecurity::Plain) => 143,
        (MailProtocol::Pop3, MailSecurity::Tls) => 995,
        (MailProtocol::Pop3, MailSecurity::Starttls | MailSecurity::Plain) => 110,
    })
}

/// What the filters look at.
#[derive(Clone, Debug, Default)]
pub struct Outline<'a> {
    pub subject: &'a str,
    pub text: &'a str,
    pub attachments: Vec<&'a str>,
}

/// Whether the trigger fires for such a mail.
pub fn fits(settings: &ByMail, mail: &Outline) -> bool {
    let has_one = |texts: &[String], within: &str| {
        let within = within.to_lowercase();
        texts.is_empty() || texts.iter().any(|text| within.contains(&text.to_lowercase()))
    };
    let masks = &settings.attachment_names;
    has_one(&settings.subject_contains, mail.subject)
        && has_one(&settings.body_contains, mail.text)
        && (masks.is_empty() || mail.attachments.iter().any(|name| masks.iter().any(|mask| fits_mask(mask, name))))
}

/// Whether a name fits a mask of `*` and `?`, whatever the case of letters.
fn fits_mask(mask: &str, name: &str) -> bool {
    let mask: Vec<char> = mask.to_lowercase().chars().collect();
    let name: Vec<char> = name.to_lowercase().chars().collect();
    let (mut at, mut of_name) = (0, 0);
    // Where the last `*` stands, and how many letters it has taken so far.
    let mut star: Option<(usize, usize)> = None;
    while of_name < name.len() {
        match mask.get(at) {
            Some('*') => {
                star = Some((at, of_name));
                at += 1;
            }
            Some(letter) if *letter == '?' || *letter == name[of_name] => {
                at += 1;
                of_name += 1;
            }
            _ => match &mut star {
                Some((place, taken)) => {
                    *taken += 1;
                    (at, of_name) = (*place + 1, *taken);
                }
                None => return false,
            },
        }
    }
    mask[at..].iter().all(|letter| *letter == '*')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(more: serde_json::Value) -> ByMail {
        let mut all = json!({ "server": "s", "credential": "c" });
        all.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        serde_json::from_value(all).expect("these are settings")
    }

    #[test]
    fn masks_are_those_of_file_names() {
        for (mask, name) in [
            ("*.pdf", "Invoice 7.PDF"),
            ("in?oice*", "invoice"),
            ("*", ""),
            ("a*b*c", "aXbXbc"),
            ("счёт*", "Счёт 1.xls"),
        ] {
            assert!(fits_mask(mask, name), "{mask} {name}");
        }
        for (mask, name) in [("*.pdf", "a.pdf.exe"), ("?", ""), ("a*b", "abc"), ("", "a"), ("a", "")] {
            assert!(!fits_mask(mask, name), "{mask} {name}");
        }
        let long = "a".repeat(2_000);
        assert!(!fits_mask(&"a*".repeat(30).replace("a*", "*a"), &format!("{long}b")));
    }

    #[test]
    fn each_filter_must_be_met_by_one_of_its_texts() {
        let mail = Outline { subject: "Rechnung 1007", text: "Bitte ZAHLEN", attachments: vec!["r.pdf", "logo.png"] };
        for (more, expected) in [
            (json!({}), true),
            (json!({ "subject_contains": ["invoice", "rechnung"] }), true),
            (json!({ "subject_contains": ["invoice"] }), false),
            (json!({ "body_contains": ["zahlen"], "attachment_names": ["*.pdf"] }), true),
            (json!({ "body_contains": ["zahlen"], "attachment_names": ["*.xml"] }), false),
        ] {
            assert_eq!(fits(&settings(more.clone()), &mail), expected, "{more}");
        }
    }

    #[test]
    fn names_are_remembered_as_long_as_they_are_there() {
        let mut mark = MailMark::new(TriggerId::from_uuid(Uuid::nil()), Uuid::nil(), None);
        for name in ["a", "b", "a"] {
            mark.note_named(name);
        }
        assert!(mark.knows("a") && mark.knows("b") && !mark.knows("c"));
        mark.keep_only(&["b".to_owned(), "c".to_owned()]);
        assert!(!mark.knows("a") && mark.knows("b"));
        assert_eq!(mark.done.len(), NAME_BYTES);
    }
}
