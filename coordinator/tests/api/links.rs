//! Signed links: one file, one verb, for a time, and only as long as who made them may do it.

use axum::body::Body;
use http::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Call, World, settle, text};

async fn world() -> World {
    let world = World::new().await;
    world.post("/storages", json!({ "name": "f" })).await.created();
    world.put_file("f", "a%20%26%20b", "content").await.created();
    world
}

async fn link(world: &World, verb: &str) -> Value {
    let new = json!({ "path": "a & b", "verb": verb, "expires_in_seconds": 60 });
    world.post("/storages/f/links", new).await.created()
}

/// The path of a link below the API's base.
fn below(link: &Value) -> String {
    text(link, "/url").split("/api/v1").nth(1).unwrap().to_owned()
}

async fn open(world: &World, method: Method, path: &str) -> Answer {
    Call::new(world.router.clone(), method, path).body("written").send().await
}

#[tokio::test]
async fn a_link_opens_one_file_for_one_verb_until_it_expires() {
    let world = world().await;
    let get = link(&world, "get").await;
    assert_eq!(text(&get, "/expires_at"), world.now().plus_seconds(60).to_string());
    let read = open(&world, Method::GET, &below(&get)).await.expect(200);
    assert_eq!(read.text(), "content");
    assert!(read.header("content-disposition").unwrap().contains("a%20%26%20b"));
    open(&world, Method::HEAD, &below(&get)).await.expect(200);
    let part = Call::new(world.router.clone(), Method::GET, &below(&get)).header("range", "bytes=0-2").send().await;
    assert_eq!(part.expect(206).text(), "con");
    open(&world, Method::PUT, &below(&get)).await.expect(403).refused("forbidden");
    open(&world, Method::DELETE, &below(&get)).await.expect(405);
    let put = link(&world, "PUT").await;
    open(&world, Method::GET, &below(&put)).await.expect(403);
    let written = open(&world, Method::PUT, &below(&put)).await.ok();
    assert!(text(&written, "/created_by").starts_with("user:"));
    assert_eq!(open(&world, Method::GET, &below(&get)).await.expect(200).text(), "written");
    world.patch("/storages/f", json!({ "name": "other" })).await.ok();
    open(&world, Method::GET, &below(&get)).await.expect(200);
    world.move_clock(60);
    open(&world, Method::GET, &below(&get)).await.expect(403);
    open(&world, Method::PUT, &below(&put)).await.expect(403);
}

/// The address is the one by which the coordinator was called.
#[tokio::test]
async fn a_link_is_a_whole_address() {
    let world = world().await;
    let new = json!({ "path": "x", "verb": "get", "expires_in_seconds": 1 });
    let call = || world.call(Method::POST, "/storages/f/links").header("host", "drover.example:7070").json(&new);
    let made = call().send().await.created();
    assert!(text(&made, "/url").starts_with("http://drover.example:7070/api/v1/links/"), "{made}");
    let made = call().header("x-forwarded-proto", "https").send().await.created();
    assert!(text(&made, "/url").starts_with("https://drover.example:7070/api/v1/links/"), "{made}");
    open(&world, Method::GET, &below(&made)).await.expect(404);
    for bad in [json!({ "path": "../x" }), json!({ "expires_in_seconds": 0 }), json!({ "expires_in_seconds": 604_801 })]
    {
        let mut new = new.clone();
        new.as_object_mut().unwrap().extend(bad.as_object().unwrap().clone());
        world.post("/storages/f/links", new).await.expect(422).refused("invalid");
    }
}

/// Any other byte, and it is none: nobody makes a link of another one's.
#[tokio::test]
async fn a_forged_link_opens_nothing() {
    let world = world().await;
    let path = below(&link(&world, "get").await);
    let token = path.rsplit('/').next().unwrap();
    for at in 0..token.len() {
        let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
        let forged = format!("{}{other}{}", &token[..at], &token[at + 1..]);
        let answer = open(&world, Method::GET, &format!("/links/{forged}")).await;
        assert!(answer.status == 403, "{at}: {}", answer.status);
    }
    for forged in ["x", "", &"A".repeat(5000), &token[..40], &format!("{token}AAAA")] {
        let answer = open(&world, Method::GET, &format!("/links/{forged}")).await;
        assert!(matches!(answer.status.as_u16(), 403 | 404), "{forged}");
    }
}

/// Deleting the folder, and making another of its name, ends its links; so does the end of the key that made them.
#[tokio::test]
async fn a_link_ends_with_its_folder_and_with_its_key() {
    let world = world().await;
    let key = world.post("/keys", json!({ "name": "k", "permissions": ["storage:read"] })).await.created();
    let new = json!({ "path": "a & b", "verb": "get", "expires_in_seconds": 60 });
    let call = |new: &Value| world.call(Method::POST, "/storages/f/links").key(&text(&key, "/key")).json(new).send();
    let by_key = below(&call(&new).await.created());
    let mut put = new.clone();
    put["verb"] = json!("put");
    call(&put).await.expect(403).refused("forbidden");
    open(&world, Method::GET, &by_key).await.expect(200);
    let own = below(&link(&world, "get").await);
    world.delete(&format!("/keys/{}", text(&key, "/id"))).await.done();
    open(&world, Method::GET, &by_key).await.expect(403);
    open(&world, Method::GET, &own).await.expect(200);
    world.delete("/storages/f?files=true").await.done();
    world.post("/storages", json!({ "name": "f" })).await.created();
    world.put_file("f", "a%20%26%20b", "another").await.created();
    open(&world, Method::GET, &own).await.expect(404);
}

/// What a job hands out is read as long as the job is kept; it writes nothing any more when its attempt is over, neither
/// artifacts nor into a folder that people made.
#[tokio::test]
async fn the_link_of_a_job_writes_while_its_attempt_runs() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    world.post("/storages", json!({ "name": "f" })).await.created();
    let manifest = "[run]\ncommand = [\"true\"]\n[requires]\nstorages = [\"f\"]\n";
    let retried = json!({ "retry": { "max_attempts": 2, "on": ["failed"] } });
    world.process_with("p", retried, &[("process.toml", manifest)]).await;
    world.start("p").await;
    let (job, assignment) = agent.take().await;
    agent.accept(&job, 1).await.ok();
    agent.put(&job, "report.txt", b"text").await.created();
    world.put_file("f", "report.txt", "text").await.created();
    let key = text(&assignment, "/key");
    let make = async |folder: &str, verb: &str| {
        let new = json!({ "path": "report.txt", "verb": verb, "expires_in_seconds": 600 });
        let call = world.call(Method::POST, &format!("/storages/{folder}/links")).key(&key);
        below(&call.json(&new).send().await.created())
    };
    let mut links = Vec::new();
    for folder in [format!("jobs%2F{job}"), "f".to_owned()] {
        let (get, put) = (make(&folder, "get").await, make(&folder, "put").await);
        open(&world, Method::PUT, &put).await.ok();
        assert_eq!(open(&world, Method::GET, &get).await.expect(200).text(), "written");
        links.extend([(Method::GET, get), (Method::PUT, put)]);
    }
    let none_writes = async |reads: u16| {
        for (method, link) in &links {
            let expected = if *method == Method::GET { reads } else { 403 };
            open(&world, method.clone(), link).await.expect(expected);
        }
    };
    let (pieces, body) = futures::channel::mpsc::unbounded::<Result<&'static [u8], std::io::Error>>();
    let slow = Call::new(world.router.clone(), Method::PUT, &links[3].1).streamed(Body::from_stream(body));
    let slow = tokio::spawn(slow.send());
    pieces.unbounded_send(Ok(b"begun in time")).unwrap();
    settle().await;
    agent.fail(&job, 1).await.done();
    drop(pieces);
    slow.await.unwrap().expect(409).refused("stale_attempt");
    none_writes(200).await;
    // Another attempt of the same job makes links of its own.
    let (_, attempt) = agent.run().await;
    none_writes(200).await;
    agent.finish(&job, attempt, json!({})).await.done();
    world.delete(&format!("/jobs/{job}")).await.done();
    none_writes(403).await;
}

/// In an account that is shut nothing is read or written, be it by what a person or what a job has handed out.
#[tokio::test]
async fn links_open_nothing_in_a_disabled_account() {
    use drover_coordinator::{
        domain::account::Account,
        store::{key::SYSTEM_ACCOUNT, table},
    };
    let world = World::new().await;
    let agent = world.agent("r").await;
    world.process("p").await;
    world.start("p").await;
    let (job, assignment) = agent.take().await;
    agent.accept(&job, 1).await.ok();
    agent.put(&job, "report.txt", b"text").await.created();
    let make = async |key: &str, verb: &str| {
        let new = json!({ "path": "report.txt", "verb": verb, "expires_in_seconds": 600 });
        let call = world.call(Method::POST, &format!("/storages/jobs%2F{job}/links")).key(key).json(&new);
        below(&call.send().await.created())
    };
    let key = text(&assignment, "/key");
    let get = [make(&world.admin, "get").await, make(&key, "get").await];
    let put = make(&key, "put").await;
    let disable = async |disabled: bool| {
        let account = world.account;
        let written = world.app.db.write(SYSTEM_ACCOUNT, move |tx| {
            let mut account: Account = table::get(tx, account)?;
            account.disabled = disabled;
            table::update(tx, &mut account)
        });
        written.await.unwrap();
    };
    disable(true).await;
    for link in &get {
        open(&world, Method::GET, link).await.expect(403).refused("forbidden");
    }
    open(&world, Method::PUT, &put).await.expect(403).refused("forbidden");
    disable(false).await;
    for link in &get {
        assert_eq!(open(&world, Method::GET, link).await.expect(200).text(), "text");
    }
    open(&world, Method::PUT, &put).await.ok();
}
