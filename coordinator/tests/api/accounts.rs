//! Accounts: made, disabled and deleted by those who run the coordinator, and by nobody else.

use std::path::Path;

use drover_coordinator::{
    account_archive::{Taken, export as export_account, import as import_account},
    background,
    store::{
        Db,
        key::{Key, Kind},
    },
};
use drover_protocol::AccountId;
use http::Method;
use serde_json::{Value, json};

use crate::support::{Call, World, each, package, text};

fn with_key(world: &World, key: &str, method: Method, path: &str) -> Call {
    Call::new(world.router.clone(), method, path).key(key)
}

async fn made(world: &World, name: &str) -> (String, String) {
    let made = world.post("/accounts", json!({ "name": name, "admin": { "login": "ann" } })).await.created();
    (text(&made, "/account/id"), text(&made, "/key"))
}

/// An account is made with its administrator, who works in it at once and sees no other.
#[tokio::test]
async fn accounts_are_made_listed_and_renamed() {
    let world = World::new().await;
    let (id, key) = made(&world, "north").await;
    assert_eq!(with_key(&world, &key, Method::GET, "/account").send().await.ok()["name"], "north");
    assert_eq!(each(&with_key(&world, &key, Method::GET, "/users").send().await.ok(), "login"), ["ann"]);
    for path in ["/accounts".to_owned(), format!("/accounts/{id}")] {
        with_key(&world, &key, Method::GET, &path).send().await.refused("forbidden");
    }
    let new = json!({ "name": "x", "admin": { "login": "bob" } });
    with_key(&world, &key, Method::POST, "/accounts").json(&new).send().await.refused("forbidden");
    world.post("/accounts", json!({ "name": "north", "admin": { "login": "x" } })).await.refused("already_exists");
    let bad = json!({ "name": "", "admin": { "login": "Bob", "email": "x" } });
    world.post("/accounts", bad).await.invalid(&["/name", "/admin/login", "/admin/email"]);
    let weak = json!({ "name": "y", "admin": { "login": "bob", "password": "short" } });
    world.post("/accounts", weak).await.invalid(&["/admin/password"]);
    assert_eq!(each(&world.get("/accounts").await.ok(), "name"), ["north", "main"]);
    let renamed = world.patch("/accounts/north", json!({ "name": "far north" })).await.ok();
    assert_eq!(renamed["name"], "far north");
    world.patch(&format!("/accounts/{id}"), json!({ "name": "main" })).await.refused("already_exists");
    // Whoever is in the account may call it what they like, and does not learn who else is called so.
    let rename = with_key(&world, &key, Method::PATCH, "/account").json(&json!({ "name": "main" }));
    rename.send().await.ok();
    world.get("/accounts/main").await.refused("wrong_state");
    assert_eq!(each(&world.get("/audit?noun=account").await.ok(), "verb"), ["update", "create"]);
}

/// Into a disabled account nobody gets, and nothing happens in it by itself.
#[tokio::test]
async fn a_disabled_account_is_shut() {
    let world = World::new().await;
    let (id, key) = made(&world, "north").await;
    let path = format!("/accounts/{id}");
    let post = |path: &'static str, body: Value| with_key(&world, &key, Method::POST, path).json(&body).send();
    post("/processes", json!({ "name": "p" })).await.created();
    let upload = with_key(&world, &key, Method::POST, "/processes/p/versions?activate=true");
    let upload = upload.header("content-type", "application/zip").body(package(&[("main.sh", "true")]));
    upload.send().await.created();
    let trigger = json!({ "name": "t", "process": "p", "target": { "group": "all" }, "kind": "schedule",
        "schedule": { "interval_seconds": 60 } });
    post("/triggers", trigger).await.created();
    world.patch("/accounts/main", json!({ "disabled": true })).await.refused("wrong_state");
    world.patch(&path, json!({ "disabled": true })).await.ok();
    with_key(&world, &key, Method::GET, "/account").send().await.expect(401);
    world.move_clock(600);
    background::triggers::pass(&world.app).await.unwrap();
    world.patch(&path, json!({ "disabled": false })).await.ok();
    let jobs = with_key(&world, &key, Method::GET, "/jobs").send().await.ok();
    assert_eq!(jobs["items"], json!([]));
    background::triggers::pass(&world.app).await.unwrap();
    world.move_clock(61);
    background::triggers::pass(&world.app).await.unwrap();
    let jobs = with_key(&world, &key, Method::GET, "/jobs").send().await.ok();
    assert_ne!(jobs["items"], json!([]), "it goes on where it was");
    // What came due meanwhile was passed by, and not missed because nothing ran.
    let history = with_key(&world, &key, Method::GET, "/triggers/t/history").send().await.ok();
    assert_eq!(each(&history, "decision"), ["skipped", "fired", "skipped"]);
    assert!(text(&history["items"][2], "/reason").contains("disabled"), "{history}");
}

/// A deleted account is gone at once for everybody; then all that it held goes, in pages, its blobs included, and what others
/// hold of the same content stays.
#[tokio::test]
async fn a_deleted_account_leaves_nothing() {
    let world = World::new().await;
    let (id, key) = made(&world, "north").await;
    let zip = package(&[("main.sh", "the same for both")]);
    for key in [&key, &world.admin] {
        with_key(&world, key, Method::POST, "/processes").json(&json!({ "name": "p" })).send().await.created();
        let upload = with_key(&world, key, Method::POST, "/processes/p/versions?activate=true");
        upload.header("content-type", "application/zip").body(zip.clone()).send().await.created();
    }
    with_key(&world, &key, Method::POST, "/storages").json(&json!({ "name": "f" })).send().await.created();
    let put = |path: String| with_key(&world, &key, Method::PUT, &path).body("content").send();
    for number in 0..5 {
        put(format!("/storages/f/files/{number}.txt")).await.created();
    }
    with_key(&world, &key, Method::POST, "/queues").json(&json!({ "name": "q" })).send().await.created();
    for _ in 0..50 {
        let task = json!({ "payload": { "a": "b" }, "tags": ["x", "y"] });
        with_key(&world, &key, Method::POST, "/queues/q/tasks").json(&task).send().await.created();
    }
    world.delete("/accounts/main").await.refused("wrong_state");
    world.delete(&format!("/accounts/{id}")).await.done();
    with_key(&world, &key, Method::GET, "/account").send().await.expect(401);
    world.get(&format!("/accounts/{id}")).await.expect(404);
    assert_eq!(each(&world.get("/accounts").await.ok(), "name"), ["main"]);
    assert_eq!(world.file_blobs().await, 5);
    for _ in 0..2 {
        background::accounts::pass(&world.app).await.unwrap();
        world.collect_garbage().await;
    }
    assert_eq!(world.file_blobs().await, 0);
    let account: AccountId = id.parse().unwrap();
    let begins = |key: &[u8]| Kind::ALL.iter().any(|kind| key.starts_with(&Key::new(*kind, account).into_bytes()));
    let left: Vec<_> = world.pairs().into_iter().filter(|(key, _)| begins(key)).collect();
    assert!(left.is_empty(), "{} pairs are left", left.len());
    // The act of deleting it is all that is known.
    assert_eq!(each(&world.get("/audit?noun=account&verb=delete").await.ok(), "object"), [id.as_str()]);
    world.call(Method::GET, "/processes/p/versions/1/package").send().await.expect(200);
    made(&world, "north").await;
}

/// Totals only grow, whatever goes.
#[tokio::test]
async fn what_has_happened_is_counted_when_the_account_is_gone() {
    let world = World::new().await;
    let acts = async || -> u64 {
        let figures = world.call(Method::GET, "//metrics").send().await.expect(200).text();
        figures.lines().find_map(|line| line.strip_prefix("drover_audit_acts_total ")).unwrap().parse().unwrap()
    };
    let (id, key) = made(&world, "north").await;
    for number in 0..5 {
        let queue = json!({ "name": format!("q{number}") });
        with_key(&world, &key, Method::POST, "/queues").json(&queue).send().await.created();
    }
    let before = acts().await;
    world.delete(&format!("/accounts/{id}")).await.done();
    for _ in 0..2 {
        background::accounts::pass(&world.app).await.unwrap();
    }
    assert_eq!(acts().await, before + 1, "those of the account, and that it was deleted");
}

const PASSPHRASE: &str = "a long passphrase";

async fn export(world: &World, name: &str, to: &Path) -> anyhow::Result<Taken> {
    let (app, name, to) = (world.app.clone(), name.to_owned(), to.to_owned());
    let handle = tokio::runtime::Handle::current();
    let export = move || export_account(&handle, (&app.db, &app.blobs, &app.secrets), &name, PASSPHRASE, &to);
    tokio::task::spawn_blocking(export).await.unwrap()
}

async fn import(
    world: &World,
    from: &Path,
    passphrase: &'static str,
    name: Option<&'static str>,
) -> anyhow::Result<Taken> {
    let (app, from) = (world.app.clone(), from.to_owned());
    let handle = tokio::runtime::Handle::current();
    let import = move || import_account(&handle, (&app.db, &app.blobs, &app.secrets), &from, passphrase, name);
    tokio::task::spawn_blocking(import).await.unwrap()
}

/// An account goes to another coordinator with all that it holds: records, content, sealed values, the audit trail and the
/// own keys of its users. Other keys stay behind, and so does everything of other accounts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_is_taken_to_another_coordinator() {
    let here = World::new().await;
    let (id, key) = made(&here, "north").await;
    let post = |path: &'static str, body: Value| with_key(&here, &key, Method::POST, path).json(&body).send();
    let zip = package(&[("main.sh", "true")]);
    post("/processes", json!({ "name": "p" })).await.created();
    let upload = with_key(&here, &key, Method::POST, "/processes/p/versions?activate=true");
    upload.header("content-type", "application/zip").body(zip.clone()).send().await.created();
    post("/resources", json!({ "name": "login", "kind": "secret", "value": "much secret" })).await.created();
    post("/storages", json!({ "name": "f" })).await.created();
    let put = with_key(&here, &key, Method::PUT, "/storages/f/files/a.txt").body("the content");
    put.send().await.created();
    post("/queues", json!({ "name": "q" })).await.created();
    for number in 0..700 {
        post("/queues/q/tasks", json!({ "payload": { "n": number } })).await.created();
    }
    let hook = json!({ "name": "t", "process": "p", "target": { "group": "all" }, "kind": "webhook",
        "webhook": { "auth": "bearer" } });
    let hook = post("/triggers", hook).await.created();
    let named = text(&post("/keys", json!({ "name": "named" })).await.created(), "/key");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("north.drover");
    export(&here, "nowhere", &file).await.unwrap_err();
    let taken = export(&here, "north", &file).await.unwrap();
    assert_eq!((taken.account.to_string(), taken.blobs), (id, 2));
    export(&here, "north", &file).await.unwrap_err();
    let bytes = std::fs::read(&file).unwrap();
    for secret in ["much secret", &key, &named, &here.admin, &text(&hook, "/secret")] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }
    let there = World::with_secret(crate::support::rules(), [9; 32], |engine, clock, randomness| {
        Db::inline(engine, clock, randomness)
    });
    let there = there.await;
    let refused = async |from: &Path, passphrase: &'static str, why: &str| {
        let error = import(&there, from, passphrase, None).await.unwrap_err();
        assert!(format!("{error:#}").contains(why), "{error:#}");
    };
    refused(&file, "another passphrase", "the passphrase is wrong").await;
    let cut = folder.path().join("cut");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    import(&there, &cut, PASSPHRASE, None).await.unwrap_err();
    let mut changed = bytes.clone();
    let at = changed.windows(11).position(|window| window == b"the content").unwrap();
    changed[at] = b'T';
    std::fs::write(&cut, &changed).unwrap();
    refused(&cut, PASSPHRASE, "was changed").await;
    // Something that an import of another archive has left when it was interrupted.
    let stale = Key::new(Kind::TaskByPhase, taken.account).with(7_u128.to_be_bytes()).into_bytes();
    there.app.db.write(taken.account, move |tx| tx.put(stale, vec![7; 16])).await.unwrap();
    assert_eq!(import(&there, &file, PASSPHRASE, Some("from the north")).await.unwrap(), taken);
    there.check();
    refused(&file, PASSPHRASE, "is here already").await;
    let get = |path: &'static str| with_key(&there, &key, Method::GET, path).send();
    assert_eq!(get("/account").await.ok()["name"], "from the north");
    assert_eq!(get("/resources/login/value").await.ok()["value"], "much secret");
    assert_eq!(get("/storages/f/files/a.txt").await.expect(200).text(), "the content");
    assert_eq!(get("/processes/p/versions/1/package").await.expect(200).body, zip);
    assert_eq!(get("/queues/q/stats").await.ok()["counts"]["new"], 700);
    assert_eq!(get("/audit/verify").await.ok()["sound"], true);
    assert_eq!(get("/audit?noun=account&verb=import").await.ok()["items"].as_array().unwrap().len(), 1);
    with_key(&there, &named, Method::GET, "/account").send().await.expect(401);
    assert_eq!(each(&there.get("/accounts").await.ok(), "name"), ["from the north", "main"]);
    let start = with_key(&there, &key, Method::POST, "/jobs");
    start.json(&json!({ "process": "p", "target": { "group": "all" } })).send().await.created();
    // Who calls a trigger's address there goes on with it and with its secret here.
    let url = text(&hook, "/url");
    let (path, secret) = (url.split_once("/api/v1").unwrap().1, text(&hook, "/secret"));
    let call = |secret: &str| with_key(&there, secret, Method::POST, path).json(&json!({ "n": 1 })).send();
    call("another").await.expect(401);
    let called = call(&secret).await.expect(202).json();
    let job = format!("/jobs/{}", text(&called, "/job_ids/0"));
    let job = with_key(&there, &key, Method::GET, &job).send().await.ok();
    assert_eq!(job["input"], json!({ "n": 1 }));
    // It can be taken in again when nothing is left of it, and not before.
    there.delete(&format!("/accounts/{}", taken.account)).await.done();
    refused(&file, PASSPHRASE, "is still being removed").await;
    for _ in 0..2 {
        background::accounts::pass(&there.app).await.unwrap();
        there.collect_garbage().await;
    }
    assert_eq!(import(&there, &file, PASSPHRASE, None).await.unwrap(), taken);
    assert_eq!(get("/storages/f/files/a.txt").await.expect(200).text(), "the content");
    there.check();
}
