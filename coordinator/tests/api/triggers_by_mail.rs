//! Triggers that look into mailboxes: what may be set, who may set it, and that each mail fires once. The mailbox is a small
//! POP3 server of the test; `tests/contract/triggers_by_mail.py` looks into one of a real mail server.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use drover_coordinator::{
    background,
    domain::account::Account,
    mailbox::Tcp,
    store::{key::SYSTEM_ACCOUNT, table},
};
use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::support::{World, each, text};

const PASSWORD: &str = "correct horse";

/// Name and content of each mail.
type Mails = Arc<Mutex<Vec<(String, String)>>>;

/// A mailbox that anybody can open who has the password.
struct MailServer {
    address: SocketAddr,
    mails: Mails,
    calls: Arc<AtomicUsize>,
}

impl MailServer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, mails) = (listener.local_addr().unwrap(), Mails::default());
        let (shared, calls) = (Arc::clone(&mails), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&calls);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { address, mails, calls }
    }

    /// How often somebody has called.
    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    fn deliver(&self, name: &str, subject: &str) {
        let mail = format!("From: a@example.com\r\nSubject: {subject}\r\n\r\nHello\r\n");
        self.mails.lock().push((name.to_owned(), mail));
    }

    fn settings(&self) -> Value {
        json!({ "protocol": "pop3", "security": "plain", "server": "127.0.0.1", "port": self.address.port(),
            "credential": "box", "interval_seconds": 60 })
    }
}

async fn serve(stream: TcpStream, mails: Mails) {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"+OK ready\r\n").await.unwrap();
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|bytes| bytes > 0) {
        let mails = mails.lock().clone();
        let listed = |value: fn(&(String, String)) -> String| {
            let lines = mails.iter().enumerate().map(|(at, mail)| format!("{} {}\r\n", at + 1, value(mail)));
            format!("+OK\r\n{}.\r\n", lines.collect::<String>())
        };
        let words: Vec<&str> = line.trim().splitn(2, ' ').collect();
        let answer = match words[..] {
            ["USER", _] => "+OK\r\n".to_owned(),
            ["PASS", PASSWORD] => "+OK\r\n".to_owned(),
            ["PASS", _] => "-ERR wrong password\r\n".to_owned(),
            ["UIDL"] => listed(|mail| mail.0.clone()),
            ["LIST"] => listed(|mail| mail.1.len().to_string()),
            ["RETR", number] => format!("+OK\r\n{}.\r\n", mails[number.parse::<usize>().unwrap() - 1].1),
            _ => "+OK bye\r\n".to_owned(),
        };
        stream.write_all(answer.as_bytes()).await.unwrap();
        line.clear();
    }
}

async fn with_mailbox() -> (World, MailServer) {
    let world = World::new().await;
    world.process("p").await;
    let value = json!({ "username": "me", "password": PASSWORD });
    world.post("/resources", json!({ "name": "box", "kind": "credential", "value": value })).await.created();
    (world, MailServer::start().await)
}

async fn make(world: &World, mail: Value, more: Value) -> Value {
    let mut trigger =
        json!({ "name": "t", "process": "p", "target": { "group": "all" }, "kind": "mail", "mail": mail });
    trigger.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.post("/triggers", trigger).await.created()
}

/// Looks into what is due after so many seconds.
async fn look_after(world: &World, seconds: i64) {
    world.move_clock(seconds);
    background::mailboxes::pass(&world.app, Arc::new(Tcp)).await.unwrap();
}

/// Subjects of the mails that have become jobs, oldest first.
async fn subjects(world: &World) -> Vec<String> {
    let page = world.get("/jobs?trigger=t&limit=1000").await.ok();
    let mut found = Vec::new();
    for job in page["items"].as_array().unwrap().iter().rev() {
        found.push(text(&world.job(&text(job, "/id")).await["input"], "/mail/subject"));
    }
    found
}

fn with(mut settings: Value, more: Value) -> Value {
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    settings
}

#[tokio::test]
async fn each_mail_that_comes_fires_once() {
    let (world, server) = with_mailbox().await;
    server.deliver("a", "before");
    let made =
        make(&world, with(server.settings(), json!({ "subject_contains": ["one", "two", "three"] })), json!({})).await;
    assert_eq!((&made["overlap"], &made["mail"]["jobs"]), (&json!("allow"), &json!("per_mail")));
    look_after(&world, 0).await;
    assert_eq!(subjects(&world).await, Vec::<String>::new(), "what lay there before is no news");
    server.deliver("b", "one");
    server.deliver("c", "nothing of that");
    look_after(&world, 59).await;
    assert_eq!(subjects(&world).await, Vec::<String>::new(), "its time has not come");
    look_after(&world, 1).await;
    assert_eq!(subjects(&world).await, ["one"]);
    // One that is deleted gives its number to another, not its name.
    server.mails.lock().remove(1);
    server.deliver("d", "two");
    // Two at once, as two coordinators would look.
    tokio::join!(look_after(&world, 60), look_after(&world, 0));
    look_after(&world, 60).await;
    assert_eq!(subjects(&world).await, ["one", "two"]);
    let rows = world.get("/triggers/t/history").await.ok();
    assert_eq!(each(&rows, "reason"), ["a mail has come", "a mail has come"]);
    world.act("/triggers/t/disable").await.ok();
    server.deliver("e", "three");
    look_after(&world, 60).await;
    assert_eq!(subjects(&world).await.len(), 2);
    world.act("/triggers/t/enable").await.ok();
    look_after(&world, 0).await;
    assert_eq!(subjects(&world).await, ["one", "two", "three"], "what came while it was disabled is still new");
    world.delete("/triggers/t").await.done();
    assert_eq!(
        world.app.db.read(world.account, |r| drover_coordinator::operations::trigger::by_mail::next_due(r)),
        Ok(None)
    );
}

#[tokio::test]
async fn a_mailbox_that_cannot_be_read_is_told_once() {
    let (world, server) = with_mailbox().await;
    let wrong = json!({ "name": "wrong", "kind": "credential", "value": { "username": "me", "password": "no horse" } });
    world.post("/resources", wrong).await.created();
    make(&world, with(server.settings(), json!({ "credential": "wrong", "existing": true })), json!({})).await;
    server.deliver("a", "one");
    for _ in 0..3 {
        look_after(&world, 60).await;
    }
    let events = world.get("/triggers/t/events").await.ok();
    assert_eq!(each(&events, "code"), ["mailbox_failed", "trigger_created"]);
    let told = text(&events["items"][0], "/text");
    assert!(told.contains("wrong password") && !told.contains("no horse"), "{told}");
    assert_eq!(each(&world.get("/triggers/t/history").await.ok(), "decision"), ["failed"]);
    world.patch("/triggers/t", json!({ "mail": { "credential": "box" } })).await.ok();
    look_after(&world, 0).await;
    assert_eq!(subjects(&world).await, ["one"]);
    // A mail for which no job can be started is told as well, and is done with.
    world.patch("/triggers/t", json!({ "input": { "deep": 1 }, "mail": { "attachments_folder": null } })).await.ok();
    world.post("/storages", json!({ "name": "gone" })).await.created();
    world.patch("/triggers/t", json!({ "mail": { "attachments_folder": "gone" } })).await.ok();
    world.delete("/storages/gone").await.done();
    server.deliver("b", "two");
    look_after(&world, 60).await;
    look_after(&world, 60).await;
    let rows = world.get("/triggers/t/history").await.ok();
    assert_eq!(each(&rows, "decision"), ["failed", "fired", "failed"]);
    assert!(text(&rows["items"][0], "/reason").contains("storage folder"), "{rows}");
}

/// Servers lock a mailbox at which a wrong password is tried again and again.
#[tokio::test]
async fn a_mailbox_that_cannot_be_read_is_tried_less_often() {
    let (world, server) = with_mailbox().await;
    let wrong = json!({ "name": "wrong", "kind": "credential", "value": { "username": "me", "password": "no horse" } });
    world.post("/resources", wrong).await.created();
    let settings = json!({ "credential": "wrong", "existing": true, "interval_seconds": 10 });
    make(&world, with(server.settings(), settings), json!({})).await;
    look_after(&world, 0).await;
    let before = server.calls();
    for _ in 0..360 {
        look_after(&world, 10).await;
    }
    assert_eq!(server.calls() - before, 8, "after 10, 20, 40 … seconds of this hour");
    world.act("/triggers/t/disable").await.ok();
    world.act("/triggers/t/enable").await.ok();
    look_after(&world, 0).await;
    assert_eq!(server.calls() - before, 9, "a person wants to know at once");
}

/// In an account that is shut nobody looks into a mailbox.
#[tokio::test]
async fn the_mails_of_an_account_that_is_shut_stay_where_they_are() {
    let (world, server) = with_mailbox().await;
    make(&world, server.settings(), json!({})).await;
    look_after(&world, 0).await;
    let before = server.calls();
    let mut account =
        world.app.db.read(SYSTEM_ACCOUNT, |reading| table::get::<Account>(reading, world.account)).unwrap();
    account.disabled = true;
    world.app.db.write(SYSTEM_ACCOUNT, move |tx| table::update(tx, &mut account)).await.unwrap();
    look_after(&world, 600).await;
    assert_eq!(server.calls(), before);
}

/// The password goes to the server that the settings name: who may not read it may not choose where it goes.
#[tokio::test]
async fn only_those_who_may_read_the_password_choose_where_it_goes() {
    let (world, server) = with_mailbox().await;
    let trigger = json!({ "name": "t", "process": "p", "target": { "group": "all" }, "kind": "mail",
        "mail": server.settings() });
    let key = world.key_with(&["trigger:create", "trigger:update", "trigger:read"]).await;
    let call = |method, path: &str, body: &Value| world.call(method, path).key(&key).json(body);
    let problem = call(Method::POST, "/triggers", &trigger).send().await.expect(403).refused("forbidden");
    assert!(text(&problem, "/detail").contains("resource:read_value"), "{problem}");
    world.post("/triggers", trigger).await.created();
    let elsewhere = json!({ "mail": { "server": "evil.example" } });
    call(Method::PATCH, "/triggers/t", &elsewhere).send().await.expect(403);
    call(Method::PATCH, "/triggers/t", &json!({ "description": "x" })).send().await.ok();
}

#[tokio::test]
async fn settings_that_cannot_be_meant_are_refused() {
    let (world, server) = with_mailbox().await;
    world.post("/resources", json!({ "name": "word", "kind": "text", "value": "x" })).await.created();
    for (more, pointers) in [
        (json!({ "credential": "none" }), vec!["/mail/credential"]),
        (json!({ "credential": "word" }), vec!["/mail/credential"]),
        (json!({ "attachments_folder": "none" }), vec!["/mail/attachments_folder"]),
        (json!({ "mailbox": "x", "unread_only": true }), vec!["/mail/mailbox", "/mail/unread_only"]),
        (json!({ "threshold": 3 }), vec!["/mail/threshold"]),
        (json!({ "interval_seconds": 1 }), vec!["/mail/interval_seconds"]),
        (json!({ "subject_contains": [""] }), vec!["/mail/subject_contains/0"]),
        (json!({ "sever": "x" }), vec!["/mail/sever"]),
    ] {
        let trigger = json!({ "name": "n", "process": "p", "target": { "group": "all" }, "kind": "mail",
            "mail": with(server.settings(), more) });
        world.post("/triggers", trigger).await.invalid(&pointers);
    }
}
