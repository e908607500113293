//! API keys: how they are sent, replaced, revealed, narrowed, and how they end.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::Method;
use serde_json::{Value, json};

use crate::support::{PASSWORD, World, settle, text};

async fn works(world: &World, key: &str) -> bool {
    let answer = world.call(Method::GET, "/account/me").key(key).send().await;
    match answer.status.as_u16() {
        200 => true,
        401 => {
            assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"));
            false
        }
        other => panic!("{other}"),
    }
}

async fn codes_of_user(world: &World) -> Vec<String> {
    let me = world.get("/account/me").await.ok();
    let reading = drover_protocol::page::PageQuery::default();
    let user: uuid::Uuid = text(&me, "/id").parse().unwrap();
    let app = &world.app;
    let page = app.db.read(world.account, |view| drover_coordinator::operations::event::list(view, user, &reading));
    page.unwrap().items.into_iter().map(|(event, _)| event.code).collect()
}

/// Both schemes are taken, in any case of letters; anything else is no key.
#[tokio::test]
async fn bearer_and_basic_are_taken_and_nothing_else() {
    let world = World::new().await;
    let key = world.admin.clone();
    for good in ["Bearer", "Basic", "bearer", "BASIC"] {
        let value = format!("{good} {key}");
        world.get("/account/me").await.ok();
        world.call(Method::GET, "/account/me").header("authorization", &value).send().await.ok();
    }
    for bad in [key.clone(), format!("Digest {key}"), "Bearer".to_owned(), "Bearer ".to_owned(), "Bearer x".to_owned()]
    {
        let call = world.call(Method::GET, "/account/me").header("authorization", &bad);
        call.send().await.expect(401).refused("unauthenticated");
    }
    let long = format!("Bearer {}", "x".repeat(5_000));
    world.call(Method::GET, "/account/me").header("authorization", &long).send().await.expect(401);
}

/// The text of every key is the Base64 of a GUID's text, and is shown nowhere but in the answer that makes it.
#[tokio::test]
async fn a_keys_text_is_the_base64_of_a_guid_and_shown_once() {
    let world = World::new().await;
    let guid = String::from_utf8(STANDARD.decode(&world.admin).unwrap()).unwrap();
    assert_eq!(uuid::Uuid::parse_str(&guid).unwrap().to_string(), guid);
    let own = world.get("/account/key").await.ok();
    assert_eq!(text(&own, "/prefix"), world.admin[..4]);
    assert_eq!(text(&own, "/masked"), format!("{}••••••••", &world.admin[..4]));
    assert!(!own.to_string().contains(&world.admin));
    let made = world.post("/keys", json!({ "name": "nightly" })).await.created();
    let key = text(&made, "/key");
    assert_eq!(text(&made, "/header"), format!("Bearer {key}"));
    assert!(!world.get("/keys").await.text().contains(&key));
    assert_eq!(world.mentions(key.as_bytes()), 0, "a key lies in the store as plain text");
    assert_eq!(world.mentions(world.admin.as_bytes()), 0);
}

#[tokio::test]
async fn an_assigned_key_ends_the_old_one_at_once() {
    let world = World::new().await;
    let answer = world.act("/account/key").await.ok();
    let new = text(&answer, "/key");
    assert_eq!(text(&answer, "/header"), format!("Bearer {new}"));
    assert!(!works(&world, &world.admin).await);
    assert!(works(&world, &new).await);
}

/// The answer to an assignment may get lost when the old key has ended already: that very call can be repeated with it,
/// for ten minutes and with a key that nobody can guess, and it is good for nothing else.
#[tokio::test]
async fn an_assignment_can_be_repeated_with_the_old_key() {
    let mut world = World::new().await;
    for path in ["/account/key", "/account/key/refresh"] {
        let secret = "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f";
        let assign = async |key: &str, repeat: &str| {
            world.call(Method::POST, path).key(key).header("idempotency-key", repeat).send().await
        };
        let first = assign(&world.admin, secret).await.expect(200);
        assert!(!works(&world, &world.admin).await, "it has ended");
        let again = assign(&world.admin, secret).await.expect(200);
        assert_eq!((again.header("idempotency-replayed"), &again.body), (Some("true"), &first.body));
        assign(&world.admin, "0192f6c4-7a10-7cc3-98c4-dc0c0c073990").await.expect(401);
        world.call(Method::POST, path).send().await.expect(401);
        let new = text(&first.json(), "/key");
        assert_eq!(text(&world.call(Method::GET, "/account/key").key(&new).send().await.ok(), "/prefix"), new[..4]);
        world.move_clock(600);
        assign(&world.admin, secret).await.expect(401).refused("unauthenticated");
        // What can be guessed is no way to the next key.
        assign(&new, "1").await.ok();
        assign(&new, "1").await.expect(401);
        world = World::new().await;
    }
}

/// Assigning again and again leaves one key that can repeat, not one more each time.
#[tokio::test]
async fn replaced_keys_do_not_pile_up() {
    let mut world = World::new().await;
    for number in 0..5 {
        let call = world.call(Method::POST, "/account/key");
        let answer = call.header("idempotency-key", &format!("{number:030}")).send().await.ok();
        world.admin = text(&answer, "/key");
    }
    let keys = world.pairs().into_iter().filter(|(key, _)| key.starts_with(b"ky")).count();
    assert_eq!(keys, 2);
}

/// Five wrong passwords, then a wait that the answer names, whether they come one after another or all at once; the right
/// one does not help meanwhile, and the other user's tries are not counted here.
#[tokio::test]
async fn passwords_cannot_be_guessed() {
    let world = World::new().await;
    let guess = async |password: &str| world.post("/account/key/reveal", json!({ "password": password })).await;
    let tries = futures::future::join_all((0..30).map(|_| guess("wrong"))).await;
    assert_eq!(tries.iter().filter(|answer| answer.status == 403).count(), 5);
    let refused = tries.iter().find(|answer| answer.status == 429).expect("the others are refused");
    assert_eq!(refused.header("retry-after"), Some("900"));
    world.move_clock(800);
    let refused = guess(PASSWORD).await.expect(429);
    assert_eq!(refused.header("retry-after"), Some("100"));
    refused.refused("too_many_requests");
    world.move_clock(100);
    guess(PASSWORD).await.ok();
    for _ in 0..20 {
        guess(PASSWORD).await.ok();
    }
    assert_eq!(codes_of_user(&world).await.iter().filter(|code| *code == "key_reveal_refused").count(), 5);
}

/// The old key of a refresh lives exactly as long as its grace, and a second refresh does not lengthen it.
#[tokio::test]
async fn a_refreshed_key_lives_on_for_its_grace() {
    let mut world = World::new().await;
    let refresh = json!({ "grace_seconds": 3600 });
    let new = text(&world.post("/account/key/refresh", refresh).await.ok(), "/key");
    assert!(works(&world, &world.admin).await && works(&world, &new).await);
    let old = std::mem::replace(&mut world.admin, new);
    assert_eq!(text(&world.get("/account/key").await.ok(), "/prefix"), world.admin[..4], "the newest is the own one");
    let newest = text(&world.post("/account/key/refresh", json!({ "grace_seconds": 7200 })).await.ok(), "/key");
    world.move_clock(3599);
    assert!(works(&world, &old).await);
    world.move_clock(1);
    assert!(!works(&world, &old).await);
    assert!(works(&world, &world.admin).await);
    world.move_clock(3600);
    assert!(!works(&world, &world.admin).await && works(&world, &newest).await);
    world.admin = newest;
    world.post("/account/key/refresh", json!({ "grace_seconds": 604_801 })).await.invalid(&["/grace_seconds"]);
}

/// A user who refreshes every day for years keeps one key: ended ones do not pile up until the newest is lost sight of.
#[tokio::test]
async fn ended_keys_do_not_pile_up() {
    let mut world = World::new().await;
    for _ in 0..1_010 {
        let answer = world.post("/account/key/refresh", json!({ "grace_seconds": 60 })).await.ok();
        world.admin = text(&answer, "/key");
        world.move_clock(61);
    }
    assert_eq!(text(&world.get("/account/key").await.ok(), "/prefix"), world.admin[..4]);
    world.post("/keys", json!({ "name": "still possible" })).await.created();
}

/// A refresh needs nothing to be said.
#[tokio::test]
async fn a_refresh_needs_no_body() {
    let world = World::new().await;
    world.act("/account/key/refresh").await.ok();
    assert!(!works(&world, &world.admin).await);
}

/// Revealing asks for the password whatever the key, and both outcomes are noted.
#[tokio::test]
async fn revealing_needs_the_password_and_is_noted() {
    let world = World::new().await;
    let wrong = world.post("/account/key/reveal", json!({ "password": "guess" })).await.expect(403);
    assert!(!wrong.text().contains(&world.admin));
    assert_eq!(codes_of_user(&world).await[0], "key_reveal_refused");
    let shown = world.post("/account/key/reveal", json!({ "password": PASSWORD })).await.ok();
    assert_eq!(text(&shown, "/key"), world.admin);
    assert_eq!(codes_of_user(&world).await[0], "key_revealed");
    world.post("/account/key/reveal", json!({ "password": "x".repeat(100_000) })).await.expect(403);
}

/// A named key can do what it was given and nothing else: not more than its maker, and not with the user's own key.
#[tokio::test]
async fn a_named_key_stays_within_its_scope() {
    let world = World::new().await;
    let narrow = world.key_with(&["key:manage_keys", "job:read"]).await;
    world.call(Method::GET, "/jobs").key(&narrow).send().await.ok();
    world.call(Method::GET, "/robots").key(&narrow).send().await.expect(403);
    let wanted = json!({ "name": "more", "permissions": ["job:read", "job:start", "nonsense"] });
    let answer = world.call(Method::POST, "/keys").key(&narrow).json(&wanted).send().await;
    answer.invalid(&["/permissions/1", "/permissions/2"]);
    let all = world.call(Method::POST, "/keys").key(&narrow).json(&json!({ "name": "all that I have" })).send().await;
    let all = all.created();
    assert_eq!(all["permissions"], json!(["key:manage_keys", "job:read"]));
    world.call(Method::POST, "/account/key").key(&narrow).send().await.expect(403);
    let refresh = world.call(Method::POST, "/account/key/refresh").key(&narrow).json(&json!({}));
    refresh.send().await.expect(403);
    // An agent's rights are not for people to give.
    world.post("/keys", json!({ "name": "robot", "permissions": ["agent:work"] })).await.invalid(&["/permissions/0"]);
}

#[tokio::test]
async fn named_keys_expire_and_are_deleted() {
    let world = World::new().await;
    let at = world.now().plus_seconds(100).to_string();
    let made = world.post("/keys", json!({ "name": "short", "expires_at": at })).await.created();
    let key = text(&made, "/key");
    assert_eq!(text(&made, "/expires_at"), at);
    world.move_clock(99);
    assert!(works(&world, &key).await);
    world.move_clock(1);
    assert!(!works(&world, &key).await);
    world.post("/keys", json!({ "name": "past", "expires_at": at })).await.invalid(&["/expires_at"]);
    let second = world.post("/keys", json!({ "name": "second" })).await.created();
    world.delete(&format!("/keys/{}", text(&second, "/id"))).await.done();
    assert!(!works(&world, &text(&second, "/key")).await);
    world.delete(&format!("/keys/{}", text(&second, "/id"))).await.expect(404);
    let own = text(&world.get("/account/key").await.ok(), "/id");
    world.delete(&format!("/keys/{own}")).await.expect(409).refused("wrong_state");
    world.post("/keys", json!({ "name": " " })).await.invalid(&["/name"]);
}

/// Last use is written with the first use and again after five minutes, not with each call.
#[tokio::test]
async fn the_last_use_is_shown() {
    let world = World::new().await;
    let last = async || {
        settle().await;
        world.get("/account/key").await.ok()["last_used_at"].clone()
    };
    world.get("/account/me").await.ok();
    let first = last().await;
    assert_eq!(first, Value::String(world.now().to_string()));
    world.move_clock(200);
    world.get("/account/me").await.ok();
    assert_eq!(last().await, first);
    world.move_clock(100);
    world.get("/account/me").await.ok();
    assert_eq!(last().await, Value::String(world.now().to_string()));
}

/// Who is asking is told to every kind of key.
#[tokio::test]
async fn me_tells_who_is_asking() {
    let world = World::new().await;
    let agent = world.agent("r1").await;
    let process = world.process("p").await;
    let job = world.start(&process).await;
    let (_, assignment) = agent.take().await;
    let me = async |key: &str| world.call(Method::GET, "/account/me").key(key).send().await.ok();
    let admin = me(&world.admin).await;
    assert_eq!((text(&admin, "/kind"), text(&admin, "/name")), ("user".into(), "admin".into()));
    assert_eq!(admin["roles"], json!(["admin"]));
    let robot = me(&agent.key).await;
    assert_eq!((text(&robot, "/kind"), text(&robot, "/id")), ("robot".into(), agent.id.clone()));
    let own = me(&text(&assignment, "/key")).await;
    assert_eq!((text(&own, "/kind"), text(&own, "/id")), ("job".into(), job));
    let permissions = own["permissions"].as_array().unwrap();
    let may = |permission: &str| permissions.contains(&json!(permission));
    assert!(
        may("job:read")
            && may("log:write")
            && may("task:take")
            && may("resource:read_value")
            && may("storage:write")
            && !may("job:start")
            && !may("queue:create"),
        "{permissions:?}"
    );
}

/// A named key is found by its id as it stands in the list, by its own user alone, and without what it opens.
#[tokio::test]
async fn a_named_key_is_found_by_its_id() {
    let world = World::new().await;
    let made = world.post("/keys", json!({ "name": "n", "permissions": ["job:read"] })).await.created();
    let path = format!("/keys/{}", text(&made, "/id"));
    let found = world.get(&path).await.ok();
    assert_eq!(found, world.get("/keys").await.ok()["items"][0]);
    assert!(found.get("key").is_none() && !found.to_string().contains(&text(&made, "/key")), "{found}");
    let ann = world.post("/users", json!({ "login": "ann", "roles": ["admin"] })).await.created();
    world.call(Method::GET, &path).key(&text(&ann, "/key")).send().await.expect(404);
    world.call(Method::GET, &path).key(&text(&made, "/key")).send().await.refused("forbidden");
    // The user's own key, which no list names, has an address of its own.
    let own = world.get("/account/key").await.ok();
    world.get(&format!("/keys/{}", text(&own, "/id"))).await.expect(404);
    world.get("/keys/x").await.expect(404);
}
