//! Mailboxes, which outlive a coordinator: a server that speaks POP3 and IMAP, dawdles, and hangs up in the middle of a
//! word; and those who write.

use std::{
    io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use drover_agent::backoff::Jitter;
use drover_coordinator::mailbox::{Connection, Dialer};
use futures::{FutureExt, future::BoxFuture};
use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};

use crate::{file_witness::digest_of, people::must, world::World};

/// The folder for what is attached to mails.
const LETTERS: &str = "letters";
const INTERVAL_SECONDS: u64 = 20;
/// As much as may be on its way between the server and the coordinator, in bytes.
const PIPE_BYTES: usize = 8 * 1024;
const POP3_PORT: u16 = 110;

#[derive(Clone)]
struct Mail {
    subject: String,
    text: String,
    /// What is attached to it.
    attached: Option<String>,
}

impl Mail {
    fn of(subject: String, has_attachment: bool) -> Self {
        let attached = has_attachment.then(|| format!("attached to {subject}"));
        let head = format!("From: a@example.com\r\nSubject: {subject}\r\n");
        let text = match &attached {
            None => format!("{head}\r\nHello\r\n"),
            Some(attached) => format!(
                "{head}MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: \
                 text/plain\r\n\r\nHello\r\n--b\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; \
                 filename=\"a.pdf\"\r\nContent-Transfer-Encoding: base64\r\n\r\n{}\r\n--b--\r\n",
                STANDARD.encode(attached)
            ),
        };
        Self { subject, text, attached }
    }
}

/// A mailbox for each of the two protocols. What lies there stays there.
pub struct MailServer {
    by_pop3: Mutex<Vec<Mail>>,
    by_imap: Mutex<Vec<Mail>>,
    faults: AtomicBool,
    jitter: Mutex<Jitter>,
}

impl MailServer {
    pub fn new(jitter: Jitter) -> Arc<Self> {
        Arc::new(Self {
            by_pop3: Mutex::default(),
            by_imap: Mutex::default(),
            faults: AtomicBool::new(false),
            jitter: Mutex::new(jitter),
        })
    }

    pub fn set_faults(&self, faults: bool) {
        self.faults.store(faults, Ordering::Relaxed);
    }

    fn below(&self, bound: u64) -> u64 {
        self.jitter.lock().below(bound)
    }

    fn fault(&self, of_thousand: u64) -> bool {
        self.faults.load(Ordering::Relaxed) && self.below(1_000) < of_thousand
    }

    async fn dawdle(&self) {
        let most = if self.fault(20) { 30_000 } else { 50 };
        tokio::time::sleep(Duration::from_millis(1 + self.below(most))).await;
    }

    /// Subjects of all mails that have ever come.
    pub fn subjects(&self) -> Vec<String> {
        let both = [self.by_pop3.lock().clone(), self.by_imap.lock().clone()].concat();
        both.into_iter().map(|mail| mail.subject).collect()
    }

    /// Says it; or hangs up before all of it is said, which gives `false`.
    async fn say(&self, stream: &mut BufReader<DuplexStream>, text: &str) -> bool {
        self.dawdle().await;
        let bytes = text.as_bytes();
        let most = if self.fault(30) { self.below(bytes.len() as u64) as usize } else { bytes.len() };
        stream.write_all(&bytes[..most]).await.is_ok() && most == bytes.len()
    }

    /// A session, which sees the mails that lie there at its beginning.
    async fn serve(&self, port: u16, stream: DuplexStream) {
        let by_pop3 = port == POP3_PORT;
        let mails = if by_pop3 { self.by_pop3.lock().clone() } else { self.by_imap.lock().clone() };
        let mut stream = BufReader::new(stream);
        let mut answer = if by_pop3 { "+OK ready\r\n".to_owned() } else { "* OK ready\r\n".to_owned() };
        let mut line = String::new();
        while self.say(&mut stream, &answer).await {
            line.clear();
            if !stream.read_line(&mut line).await.is_ok_and(|bytes| bytes > 0) {
                return;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            answer = if by_pop3 { pop3(&mails, &words) } else { imap(&mails, &words) };
        }
    }
}

impl Dialer for Post {
    fn dial<'a>(&'a self, _: &'a str, port: u16) -> BoxFuture<'a, io::Result<Connection>> {
        async move {
            self.0.dawdle().await;
            if self.0.fault(80) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (theirs, ours) = tokio::io::duplex(PIPE_BYTES);
            let server = Arc::clone(&self.0);
            tokio::spawn(async move { server.serve(port, theirs).await });
            Ok(Box::new(ours) as Connection)
        }
        .boxed()
    }
}

/// The way to the server.
pub struct Post(pub Arc<MailServer>);

fn pop3(mails: &[Mail], words: &[&str]) -> String {
    let listed = |value: &dyn Fn(usize, &Mail) -> String| {
        let lines = mails.iter().enumerate().map(|(at, mail)| format!("{} {}\r\n", at + 1, value(at, mail)));
        format!("+OK\r\n{}.\r\n", lines.collect::<String>())
    };
    match words {
        ["UIDL"] => listed(&|at, _| format!("mail-{at}")),
        ["LIST"] => listed(&|_, mail| mail.text.len().to_string()),
        ["RETR", number] => format!("+OK\r\n{}.\r\n", mails[number.parse::<usize>().expect("a number") - 1].text),
        _ => "+OK\r\n".to_owned(),
    }
}

/// UIDs are the places in the mailbox, counted from 1.
fn imap(mails: &[Mail], words: &[&str]) -> String {
    let (tag, words) = words.split_first().expect("a tag");
    let data = match words {
        ["EXAMINE", _] => format!(
            "* {} EXISTS\r\n* 0 RECENT\r\n* OK [UIDVALIDITY 7] valid\r\n* OK [UIDNEXT {}] next\r\n",
            mails.len(),
            mails.len() + 1
        ),
        ["UID", "SEARCH", "UID", range] => {
            let first: usize = range.trim_end_matches(":*").parse().expect("a number");
            // The last one is in any such range.
            let found = (1..=mails.len()).filter(|uid| *uid >= first || *uid == mails.len());
            format!("* SEARCH{}\r\n", found.map(|uid| format!(" {uid}")).collect::<String>())
        }
        ["UID", "FETCH", set, what @ ..] => {
            let wanted = set.split(',').map(|uid| uid.parse::<usize>().expect("a number"));
            let is_body = what.concat().contains("BODY.PEEK[]");
            let one = |uid: usize| match (&mails[uid - 1].text, is_body) {
                (text, true) => format!("* {uid} FETCH (UID {uid} BODY[] {{{}}}\r\n{text})\r\n", text.len()),
                (text, false) => format!("* {uid} FETCH (UID {uid} RFC822.SIZE {})\r\n", text.len()),
            };
            wanted.map(one).collect()
        }
        ["LOGOUT"] => "* BYE\r\n".to_owned(),
        _ => String::new(),
    };
    format!("{data}{tag} OK done\r\n")
}

/// Makes what the triggers of both mailboxes need; gives their settings.
pub async fn prepare(world: &Rc<World>) -> [Value; 2] {
    must(world, Method::POST, "/storages", json!({"name": LETTERS})).await;
    let value = json!({"username": "me", "password": "correct horse"});
    must(world, Method::POST, "/resources", json!({"name": "box", "kind": "credential", "value": value})).await;
    ["pop3", "imap"].map(|protocol| {
        json!({"protocol": protocol, "security": "plain", "server": "mail.example", "credential": "box",
            "existing": true, "interval_seconds": INTERVAL_SECONDS, "attachments_folder": LETTERS})
    })
}

/// Somebody writes now and then, as long as there are faults.
pub async fn live(world: Rc<World>) {
    while world.has_faults() {
        tokio::time::sleep(Duration::from_millis(2_000 + world.below(20_000))).await;
        let mail = Mail::of(format!("mail {}", world.next_wish()), world.below(3) == 0);
        if let Some(attached) = &mail.attached {
            world.disk.witness.lock().files.note_sent(attached.as_bytes());
        }
        let mailbox = if world.below(2) == 0 { &world.mail.by_pop3 } else { &world.mail.by_imap };
        mailbox.lock().push(mail);
    }
}

/// What was attached to mails is there, each once.
pub fn check(world: &World) {
    let witness = world.disk.witness.lock();
    let letters = witness.files.in_folders().filter(|(folder, _)| folder.name == LETTERS);
    let mut found: Vec<String> = letters.map(|(_, file)| file.sha256.clone()).collect();
    let both = [world.mail.by_pop3.lock().clone(), world.mail.by_imap.lock().clone()].concat();
    let attached = both.into_iter().filter_map(|mail| mail.attached);
    let mut sent: Vec<String> = attached.map(|attached| digest_of(attached.as_bytes())).collect();
    found.sort();
    sent.sort();
    assert_eq!(found, sent, "what was attached to mails is not what was put away");
}
