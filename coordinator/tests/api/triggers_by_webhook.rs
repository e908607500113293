//! Triggers that are called from outside: who may call, what comes of a call, and that no secret is told twice.

use base64::{Engine, engine::general_purpose::STANDARD};
use drover_coordinator::domain::webhook;
use http::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Call, World, each, settle, text};

/// A webhook as its caller knows it.
struct Hook<'a> {
    world: &'a World,
    path: String,
    secret: String,
}

async fn make<'a>(world: &'a World, name: &str, webhook: Value, more: Value) -> Hook<'a> {
    let mut trigger = json!({ "name": name, "process": "p", "target": { "group": "all" }, "kind": "webhook",
        "webhook": webhook });
    trigger.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let made = world.post("/triggers", trigger).await.created();
    let secret = made["secret"].as_str().unwrap_or_default().to_owned();
    Hook { world, path: path_of(&text(&made, "/url")), secret }
}

/// The address below the API's base.
fn path_of(url: &str) -> String {
    url.split_once("/api/v1").unwrap().1.to_owned()
}

async fn with_process() -> World {
    let world = World::new().await;
    world.process("p").await;
    world
}

impl Hook<'_> {
    /// A call that proves nothing yet.
    fn plain(&self, body: &str) -> Call {
        Call::new(self.world.router.clone(), Method::POST, &self.path).body(body)
    }

    /// A call that is signed with the secret, as of so many seconds later.
    fn signed_at(&self, id: &str, body: &str, seconds: i64) -> Call {
        let timestamp = self.world.now().millis() / 1_000 + seconds;
        let secret = STANDARD.decode(self.secret.strip_prefix("whsec_").unwrap()).unwrap();
        let signature = webhook::signature(&[secret], id, timestamp, body.as_bytes());
        let call = self.plain(body).header("webhook-id", id).header("webhook-timestamp", &timestamp.to_string());
        call.header("webhook-signature", &signature)
    }

    async fn signed(&self, id: &str, body: &str) -> Answer {
        self.signed_at(id, body, 0).send().await
    }
}

async fn jobs_of(world: &World, trigger: &str) -> Vec<Value> {
    let page = world.get(&format!("/jobs?trigger={trigger}&limit=1000")).await.ok();
    page["items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_signed_call_starts_a_job_with_its_body_as_input() {
    let world = with_process().await;
    let hook = make(&world, "t", json!({}), json!({ "input": { "limit": 7, "invoice": 1 } })).await;
    let answer = hook.signed("msg_1", r#"{"invoice": 1007}"#).await.expect(202).json();
    let job = text(&answer, "/job_ids/0");
    assert_eq!(answer, json!({ "job_ids": [job], "repeated": false }));
    let job = world.job(&job).await;
    assert_eq!(job["input"], json!({ "limit": 7, "invoice": 1007 }));
    assert_eq!(job["source"]["kind"], "trigger");
    let row = world.get("/triggers/t/history").await.ok()["items"][0].clone();
    assert_eq!((text(&row, "/decision"), text(&row, "/reason")), ("fired".to_owned(), "it was called".to_owned()));
    assert_eq!(row["job_ids"], answer["job_ids"]);
    let trigger = world.get("/triggers/t").await.ok();
    let shown = (&trigger["fired_count"], &trigger["overlap"], &trigger["webhook"]);
    assert_eq!(shown, (&json!(1), &json!("allow"), &json!({ "auth": "signature", "mode": "async" })));
}

#[tokio::test]
async fn the_same_message_fires_once() {
    let world = with_process().await;
    let hook = make(&world, "t", json!({}), json!({})).await;
    let first = hook.signed("msg_1", "{}").await.expect(202).json();
    world.move_clock(60);
    let second = hook.signed("msg_1", "{}").await.expect(202).json();
    assert_eq!((&second["job_ids"], &second["repeated"]), (&first["job_ids"], &json!(true)));
    let (a, b) = tokio::join!(hook.signed("msg_2", "{}"), hook.signed("msg_2", "{}"));
    assert_eq!(a.expect(202).json()["job_ids"], b.expect(202).json()["job_ids"]);
    assert_eq!(jobs_of(&world, "t").await.len(), 2);
    // Where nothing is signed, whoever calls may say by what a call is known again.
    let open = make(&world, "open", json!({ "auth": "none" }), json!({})).await;
    for _ in 0..2 {
        open.plain("{}").header("idempotency-key", "one").send().await.expect(202);
    }
    for _ in 0..2 {
        open.plain("").send().await.expect(202);
    }
    assert_eq!(jobs_of(&world, "open").await.len(), 3);
    // The same id at another trigger is another message.
    let other = make(&world, "other", json!({}), json!({})).await;
    assert_eq!(other.signed("msg_1", "{}").await.expect(202).json()["repeated"], false);
}

/// Whatever is wrong, the refusal is the same.
#[tokio::test]
async fn who_does_not_prove_that_it_may_call_is_refused_without_a_hint() {
    let world = with_process().await;
    let hook = make(&world, "t", json!({}), json!({})).await;
    let bearer = make(&world, "b", json!({ "auth": "bearer" }), json!({})).await;
    let other = format!("Bearer {}", hook.secret);
    let wrong = [
        hook.plain("{}"),
        hook.signed_at("m", "{}", -301),
        hook.signed_at("m", "{}", 301),
        hook.signed_at("m", "{}", 0).body("{\"a\": 1}"),
        hook.signed_at("m", "{}", 0).header("webhook-id", "other"),
        hook.signed_at("m", "{}", 0).header("webhook-signature", "v1,AAAA"),
        hook.signed_at("m", "{}", 0).header("webhook-timestamp", "soon"),
        hook.signed_at("m", "{}", 0).without("webhook-id"),
        hook.plain("not even JSON"),
        hook.plain("{}").key(&world.admin),
        hook.plain("{}").key(&hook.secret),
        bearer.plain("{}"),
        bearer.plain("{}").header("authorization", &other),
        bearer.plain("{}").header("authorization", "Basic whsec_"),
        bearer.signed_at("m", "{}", 0),
    ];
    let mut details = Vec::new();
    for call in wrong {
        details.push(text(&call.send().await.expect(401).refused("unauthenticated"), "/detail"));
    }
    details.dedup();
    assert_eq!(details.len(), 1);
    let unknown = Call::new(world.router.clone(), Method::POST, "/hooks/none").body("{}");
    unknown.send().await.expect(404).refused("not_found");
    bearer.plain("{}").key(&bearer.secret).send().await.expect(202);
    let [early, late] = [hook.signed_at("a", "{}", -300), hook.signed_at("b", "{}", 299)];
    early.send().await.expect(202);
    late.send().await.expect(202);
    let several = hook.signed_at("c", "{}", 0);
    several.send().await.expect(202);
    assert_eq!((jobs_of(&world, "t").await.len(), jobs_of(&world, "b").await.len()), (3, 1));
}

/// Neither keys of the API open a webhook, nor does a webhook's secret open the API.
#[tokio::test]
async fn a_secret_is_no_key() {
    let world = with_process().await;
    let hook = make(&world, "t", json!({ "auth": "bearer" }), json!({})).await;
    let token = hook.path.rsplit('/').next().unwrap().to_owned();
    for key in [&hook.secret, &token] {
        world.call(Method::GET, "/jobs").key(key).send().await.expect(401);
    }
    hook.plain("{}").key(&world.admin).send().await.expect(401);
}

#[tokio::test]
async fn a_body_that_cannot_be_an_input_is_refused_and_told_in_the_history() {
    let world = World::new().await;
    let schema = json!({ "type": "object", "required": ["invoice"] }).to_string();
    let manifest = "[run]\ncommand = [\"sh\", \"main.sh\"]\n[input]\nschema = \"input.json\"\n";
    let files = [("main.sh", "true"), ("process.toml", manifest), ("input.json", schema.as_str())];
    world.process_with("p", json!({}), &files).await;
    let hook = make(&world, "t", json!({ "auth": "none" }), json!({})).await;
    for body in ["[1]", "{", "7", "{} {}", "{}\0", "null"] {
        hook.plain(body).send().await.expect(422).refused("invalid");
    }
    let large = format!("{{\"a\": \"{}\"}}", "x".repeat(1024 * 1024));
    hook.plain(&large).send().await.expect(413).refused("too_large");
    hook.plain("{}").send().await.invalid(&["/input/invoice"]);
    let rows = world.get("/triggers/t/history").await.ok();
    assert_eq!(each(&rows, "decision"), ["failed"], "what is no input at all is nobody's history");
    hook.plain("{\"invoice\": 1}").send().await.expect(202);
}

/// A call in mode `sync` is answered when the job ends, however it ends.
#[tokio::test]
async fn a_synchronous_call_waits_for_the_end_of_its_job() {
    let world = with_process().await;
    let agent = world.agent("r").await;
    let hook = make(&world, "t", json!({ "auth": "none", "mode": "sync" }), json!({})).await;
    let router = world.router.clone();
    for (fails, outcome) in [(false, "succeeded"), (true, "failed")] {
        let call = Call::new(router.clone(), Method::POST, &hook.path).body("{}");
        let waiting = tokio::spawn(call.send());
        settle().await;
        let (job, attempt) = agent.run().await;
        settle().await;
        assert!(!waiting.is_finished());
        match fails {
            false => agent.finish(&job, attempt, json!({ "output": { "sum": 3 } })).await.done(),
            true => agent.fail(&job, attempt).await.done(),
        }
        let answer = waiting.await.unwrap().ok();
        assert_eq!((text(&answer, "/outcome"), text(&answer, "/job_ids/0")), (outcome.to_owned(), job));
        assert_eq!(answer["output"]["sum"], if fails { Value::Null } else { json!(3) });
    }
    let call = |query: &str| Call::new(router.clone(), Method::POST, &format!("{}{query}", hook.path)).body("{}");
    let answer = call("?wait_seconds=0").send().await.expect(202).json();
    assert_eq!((&answer["state"], answer.get("outcome")), (&json!("waiting"), None));
    call("?wait_seconds=61").send().await.invalid(&["wait_seconds"]);
    call("?wait=1").send().await.refused("invalid");
}

#[tokio::test]
async fn the_rules_of_the_trigger_are_told_to_the_caller() {
    let world = with_process().await;
    let hook = make(&world, "t", json!({}), json!({ "overlap": "skip" })).await;
    hook.signed("1", "{}").await.expect(202);
    world.move_clock(1);
    let problem = hook.signed("2", "{}").await.expect(409).refused("wrong_state");
    assert!(text(&problem, "/detail").contains("have not finished"), "{problem}");
    world.patch("/triggers/t", json!({ "overlap": "allow" })).await.ok();
    world.move_clock(1);
    // A message that was not let in may come again.
    assert_eq!(hook.signed("2", "{}").await.expect(202).json()["repeated"], false);
    let rows = world.get("/triggers/t/history").await.ok();
    assert_eq!(each(&rows, "decision"), ["fired", "skipped", "fired"]);
    world.patch("/triggers/t", json!({ "max_runs": 2 })).await.ok();
    let problem = hook.signed("3", "{}").await.expect(409).refused("wrong_state");
    assert!(text(&problem, "/detail").contains("max_runs"), "{problem}");
    world.patch("/triggers/t", json!({ "max_runs": null, "valid_from": "2027-01-01T00:00:00Z" })).await.ok();
    hook.signed("3", "{}").await.expect(409).refused("wrong_state");
    world.act("/triggers/t/disable").await.ok();
    let problem = hook.signed("3", "{}").await.expect(409).refused("wrong_state");
    assert!(text(&problem, "/detail").contains("is disabled"), "{problem}");
    world.patch("/triggers/t", json!({ "overlap": "buffer_one" })).await.invalid(&["/overlap"]);
    world.delete("/triggers/t").await.done();
    hook.signed("4", "{}").await.expect(404);
}

#[tokio::test]
async fn a_secret_is_changed_and_the_old_one_may_live_on_for_a_while() {
    let world = with_process().await;
    let mut hook = make(&world, "t", json!({}), json!({})).await;
    let call = || world.call(Method::POST, "/triggers/t/rotate-secret").header("idempotency-key", "k");
    let rotated = call().json(&json!({ "grace_seconds": 3_600 })).send().await.ok();
    assert_eq!(
        call().json(&json!({ "grace_seconds": 3_600 })).send().await.ok(),
        rotated,
        "a repetition changes nothing"
    );
    assert_eq!(rotated["old_secret_until"], "2026-11-18T12:06:40.000Z");
    let old = std::mem::replace(&mut hook.secret, text(&rotated, "/secret"));
    assert_ne!(old, hook.secret);
    hook.signed("new", "{}").await.expect(202);
    let old = Hook { world: &world, path: hook.path.clone(), secret: old };
    old.signed("old", "{}").await.expect(202);
    world.move_clock(3_600);
    old.signed("later", "{}").await.expect(401);
    hook.signed("later", "{}").await.expect(202);
    let at_once = world.act("/triggers/t/rotate-secret").await.ok();
    assert_eq!(at_once.get("old_secret_until"), None);
    hook.signed("gone", "{}").await.expect(401);
    let too_long = world.post("/triggers/t/rotate-secret", json!({ "grace_seconds": 604_801 })).await;
    too_long.invalid(&["/grace_seconds"]);
    assert_eq!(each(&world.get("/triggers/t/events").await.ok(), "code")[..2], ["secret_rotated", "secret_rotated"]);
    // Of an open webhook the address is the secret.
    let open = make(&world, "open", json!({ "auth": "none" }), json!({})).await;
    assert_eq!(open.secret, "");
    let rotated = world.act("/triggers/open/rotate-secret").await.ok();
    assert_eq!(rotated.get("secret"), None);
    open.plain("{}").send().await.expect(404);
    let new = Call::new(world.router.clone(), Method::POST, &path_of(&text(&rotated, "/url"))).body("{}");
    new.send().await.expect(202);
    let schedule = json!({ "name": "s", "process": "p", "target": { "group": "all" }, "kind": "schedule",
        "schedule": { "cron": "* * * * *" } });
    world.post("/triggers", schedule).await.created();
    world.act("/triggers/s/rotate-secret").await.expect(409).refused("wrong_state");
}

/// The secret is told once; the address to those who may let the trigger fire, one by one.
#[tokio::test]
async fn no_secret_is_in_lists_events_audit_or_the_store() {
    let world = with_process().await;
    let hook = make(&world, "t", json!({}), json!({})).await;
    world.patch("/triggers/t", json!({ "webhook": { "auth": "bearer" } })).await.ok();
    let rotated = world.post("/triggers/t/rotate-secret", json!({ "grace_seconds": 60 })).await.ok();
    let token = hook.path.rsplit('/').next().unwrap();
    let secrets = [hook.secret.clone(), text(&rotated, "/secret")];
    let raw = secrets.iter().map(|secret| STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap());
    for bytes in raw.chain(secrets.iter().map(|secret| secret.clone().into_bytes())).chain([token.into()]) {
        assert_eq!(world.mentions(&bytes), 0, "it lies open in the store");
    }
    let viewer = world.key_with(&["trigger:read"]).await;
    let shown = world.get("/triggers/t").await.ok();
    assert!(text(&shown, "/url").ends_with(&hook.path));
    assert_eq!(shown.get("secret"), None);
    let by_viewer = world.call(Method::GET, "/triggers/t").key(&viewer).send().await.ok();
    assert_eq!(by_viewer.get("url"), None);
    for path in ["/triggers", "/triggers/t/events", "/triggers/t/history", "/audit?noun=trigger"] {
        let page = world.get(path).await.text();
        assert!(!page.contains(token) && !page.contains("whsec_"), "{path}: {page}");
    }
    let audit = world.get("/audit?noun=trigger&verb=create").await.ok();
    let hidden = &audit["items"][0]["after"]["rule"]["Webhook"];
    assert_eq!((&hidden["secret_sealed"], &hidden["token_sealed"]), (&json!("••••"), &json!("••••")), "{audit}");
}

/// An account that is shut starts nothing, however it is called, and does so again when it is open.
#[tokio::test]
async fn the_webhooks_of_an_account_that_is_shut_are_not_there() {
    let world = World::new().await;
    let account = json!({ "name": "north", "admin": { "login": "bob" } });
    let account = world.post("/accounts", account).await.created();
    let (id, key) = (text(&account, "/account/id"), text(&account, "/key"));
    let post = async |path: &str, body: Value| world.call(Method::POST, path).key(&key).json(&body).send().await;
    post("/processes", json!({ "name": "p" })).await.created();
    let hook = json!({ "name": "h", "process": "p", "target": { "group": "all" }, "kind": "webhook",
        "webhook": { "auth": "none" } });
    let url = text(&post("/triggers", hook).await.created(), "/url");
    let path = format!("/hooks/{}", url.rsplit('/').next().unwrap());
    let call = async || world.call(Method::POST, &path).without("authorization").json(&json!({})).send().await.status;
    let open = call().await;
    assert_ne!(open, 404, "only a version is missing");
    for (disabled, expected) in [(true, http::StatusCode::NOT_FOUND), (false, open)] {
        world.patch(&format!("/accounts/{id}"), json!({ "disabled": disabled })).await.ok();
        assert_eq!(call().await, expected);
    }
}

/// Who reaches some robots only does not change the secrets of triggers for others.
#[tokio::test]
async fn a_secret_out_of_reach_is_not_changed() {
    let world = with_process().await;
    let hook = make(&world, "h", json!({}), json!({})).await;
    let role = json!({ "name": "some", "permissions": ["trigger:*"], "limits": { "robot_groups": ["finance*"] } });
    world.post("/roles", role).await.created();
    let user = world.post("/users", json!({ "login": "ann", "roles": ["some"] })).await.created();
    let rotate = world.call(Method::POST, "/triggers/h/rotate-secret").key(&text(&user, "/key")).json(&json!({}));
    rotate.send().await.expect(404);
    hook.signed("m", "{}").await.expect(202);
}
