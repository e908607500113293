//! Users: their particulars and passwords, blocking and deleting them, and that an administrator is always left.

use http::Method;
use serde_json::{Value, json};

use crate::{
    roles::user_with,
    support::{Call, PASSWORD, World, each, text},
};

fn with_key(world: &World, key: &str, method: Method, path: &str) -> Call {
    Call::new(world.router.clone(), method, path).key(key)
}

/// Users are made with all that is known of them, found by id and login, listed by filters, changed by revision; each has
/// an own key, which is shown only to whoever makes one without a password.
#[tokio::test]
async fn users_are_made_changed_and_listed() {
    let world = World::new().await;
    let new = json!({ "login": "ann", "password": "a long password", "name": "Ann Smith", "email": "ann@example.com",
        "roles": ["operator"], "locale": "ru", "time_zone": "Europe/Berlin" });
    let made = world.post("/users", new.clone()).await.created();
    assert_eq!(
        (&made["roles"], &made["locale"], &made["has_password"]),
        (&json!(["operator"]), &json!("ru"), &json!(true))
    );
    assert_eq!(made.get("key"), None);
    assert!(!made.to_string().contains("argon2"));
    world.post("/users", new).await.refused("already_exists");
    let bad = json!({ "login": "Bob", "password": "a long password", "email": "no address", "roles": ["viewer"],
        "time_zone": "Mars/Olympus" });
    world.post("/users", bad).await.invalid(&["/login", "/email", "/time_zone"]);
    for password in ["short", "bobbobbobbob", "aaaaaaaaaaaa"] {
        let new = json!({ "login": "bobbobbobbob", "password": password, "roles": [] });
        world.post("/users", new).await.invalid(&["/password"]);
    }
    world.post("/users", json!({ "login": "bob", "roles": ["nothing"] })).await.invalid(&["/roles/0"]);
    let key = user_with(&world, "bob", &["viewer"]).await;
    with_key(&world, &key, Method::GET, "/jobs").send().await.ok();
    let id = text(&made, "/id");
    assert_eq!(world.get("/users/ann").await.ok(), world.get(&format!("/users/{id}")).await.ok());
    assert_eq!(each(&world.get("/users").await.ok(), "login"), ["bob", "ann", "admin"]);
    assert_eq!(each(&world.get("/users?q=SMITH").await.ok(), "login"), ["ann"]);
    assert_eq!(each(&world.get("/users?role=viewer").await.ok(), "login"), ["bob"]);
    assert_eq!(each(&world.get("/users?blocked=true").await.ok(), "login"), [] as [Value; 0]);
    let patch = json!({ "name": "Ann Jones", "email": null, "locale": "en", "roles": ["viewer", "developer"] });
    world.call(Method::PATCH, "/users/ann").header("if-match", "\"7\"").json(&patch).send().await.expect(412);
    let changed = world.patch("/users/ann", patch).await.ok();
    assert_eq!((&changed["email"], &changed["roles"]), (&Value::Null, &json!(["viewer", "developer"])));
    assert_eq!(each(&world.get("/users/ann/events").await.ok(), "code"), ["user_changed", "user_created"]);
    world.patch("/users/ann", json!({ "login": "admin" })).await.refused("already_exists");
    world.patch("/users/ann", json!({ "login": "anna" })).await.ok();
    world.get("/users/ann").await.expect(404);
    world.delete("/users/anna").await.done();
    world.get(&format!("/users/{id}")).await.expect(404);
}

/// A repeated call gives the first answer, the key of that user included, and makes no second one.
#[tokio::test]
async fn making_a_user_can_be_repeated() {
    let world = World::new().await;
    let call = || {
        let call = world.call(Method::POST, "/users").header("idempotency-key", "once");
        call.json(&json!({ "login": "ann", "roles": [] })).send()
    };
    let first = call().await.created();
    assert_eq!(call().await.created(), first);
    assert!(first["key"].is_string());
}

/// Blocking and deleting end every key of the user at once, also that of a call which waits; unblocking gives them back.
#[tokio::test]
async fn who_is_blocked_or_deleted_is_out_at_once() {
    let world = World::new().await;
    world.queue("q", json!({})).await;
    let own = user_with(&world, "ann", &["admin"]).await;
    let named = with_key(&world, &own, Method::POST, "/keys").json(&json!({ "name": "n" })).send().await.created();
    let named = text(&named, "/key");
    let waiting = with_key(&world, &named, Method::POST, "/queues/q/take").json(&json!({ "wait_seconds": 60 }));
    let waiting = tokio::spawn(waiting.send());
    crate::support::settle().await;
    world.patch("/users/ann", json!({ "blocked": true })).await.ok();
    waiting.await.unwrap().expect(401);
    for key in [&own, &named] {
        with_key(&world, key, Method::GET, "/account/me").send().await.expect(401);
    }
    world.patch("/users/ann", json!({ "blocked": false })).await.ok();
    with_key(&world, &named, Method::GET, "/account/me").send().await.ok();
    world.delete("/users/ann").await.done();
    for key in [&own, &named] {
        with_key(&world, key, Method::GET, "/account/me").send().await.expect(401);
    }
    let acts = each(&world.get("/audit?noun=user").await.ok(), "verb");
    assert_eq!(acts, ["delete", "unblock", "block", "create"]);
}

/// The last administrator who is not blocked can be neither deleted, blocked nor demoted, by nobody.
#[tokio::test]
async fn an_administrator_is_always_left() {
    let world = World::new().await;
    let hopeless = [json!({ "blocked": true }), json!({ "roles": ["operator"] })];
    let refused = async || {
        for change in &hopeless {
            world.patch("/users/admin", change.clone()).await.refused("wrong_state");
        }
        world.delete("/users/admin").await.refused("wrong_state");
    };
    refused().await;
    user_with(&world, "ann", &["admin"]).await;
    world.patch("/users/ann", json!({ "blocked": true })).await.ok();
    refused().await;
    world.patch("/users/ann", json!({ "blocked": false })).await.ok();
    world.patch("/users/admin", json!({ "roles": ["admin", "viewer"] })).await.ok();
    world.delete("/users/ann").await.done();
    refused().await;
}

/// One's own password is changed against the old one; wrong ones are counted and written down.
#[tokio::test]
async fn ones_own_password_is_changed_against_the_old_one() {
    let world = World::new().await;
    let change = async |old: &str, new: &str| world.post("/account/password", json!({ "old": old, "new": new })).await;
    change(PASSWORD, "short").await.invalid(&["/new"]);
    change("wrong one here", "another password").await.refused("forbidden");
    change(PASSWORD, "another password").await.done();
    change(PASSWORD, "a third password").await.refused("forbidden");
    let reveal = world.post("/account/key/reveal", json!({ "password": "another password" })).await.ok();
    assert_eq!(reveal["key"], world.admin.as_str());
    for _ in 0..5 {
        change("wrong one here", "another password").await;
    }
    let answer = change("another password", "a fourth password").await.expect(429);
    assert!(answer.header("retry-after").is_some());
    let verbs = each(&world.get("/audit?noun=user").await.ok(), "verb");
    assert_eq!(verbs.iter().filter(|verb| **verb == "change_password").count(), 1);
    let key = user_with(&world, "ann", &["viewer"]).await;
    let body = json!({ "old": "x", "new": "another password" });
    with_key(&world, &key, Method::POST, "/account/password").json(&body).send().await.refused("wrong_state");
    assert!(!world.get("/audit?limit=1000").await.ok().to_string().contains("argon2"));
}
