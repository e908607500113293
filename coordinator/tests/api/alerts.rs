//! Alerts: raised once for each object, told by every channel, over when the matter is.

use drover_coordinator::{
    app::Rules,
    background,
    mail_client::{MailRules, MailTls},
    operations::alert_watch::Disk,
};
use http::Method;
use serde_json::{Value, json};

use crate::{
    mail_server::MailServer,
    receiver::Receiver,
    support::{Agent, World, each, package, rules, text},
};

async fn make(world: &World, when: &str, more: Value) -> Value {
    let mut alert = json!({ "name": "a", "when": when, "channels": [{ "console": true }] });
    alert.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.post("/alerts", alert).await.created()
}

/// Lets everything happen that happens by itself.
async fn look(world: &World) {
    background::deadlines::pass(&world.app).await.unwrap();
    background::news::pass(&world.app).await.unwrap();
    background::alerts::pass(&world.app).await.unwrap();
    background::news::pass(&world.app).await.unwrap();
}

async fn raised(world: &World, query: &str) -> Vec<Value> {
    world.get(&format!("/alerts/raised{query}")).await.ok()["items"].as_array().unwrap().clone()
}

/// State, noun of the object and count of each, newest first.
async fn states(world: &World) -> Vec<(String, String, u64)> {
    let state = |one: &Value| (text(one, "/state"), text(one, "/subject/noun"), one["count"].as_u64().unwrap());
    raised(world, "").await.iter().map(state).collect()
}

fn state(state: &str, noun: &str, count: u64) -> (String, String, u64) {
    (state.to_owned(), noun.to_owned(), count)
}

async fn run_job(world: &World, agent: &Agent, process: &str, fails: bool) {
    world.start(process).await;
    let (job, attempt) = agent.run().await;
    match fails {
        true => agent.fail(&job, attempt).await.done(),
        false => agent.finish(&job, attempt, json!({})).await.done(),
    }
}

#[tokio::test]
async fn jobs_that_fail_raise_one_alert_until_one_succeeds() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    let (process, other) = (world.process("p").await, world.process("other").await);
    make(&world, "job_failed", json!({ "process": "p" })).await;
    run_job(&world, &agent, &process, false).await;
    run_job(&world, &agent, &other, true).await;
    look(&world).await;
    assert_eq!(states(&world).await, vec![]);
    for _ in 0..3 {
        run_job(&world, &agent, &process, true).await;
    }
    look(&world).await;
    assert_eq!(states(&world).await, [state("raised", "process", 3)]);
    let open = raised(&world, "?state=raised&alert=a").await.remove(0);
    assert_eq!((&open["subject"]["name"], &open["subject"]["id"]), (&json!("p"), &json!(process)));
    assert!(text(&open, "/text").contains("has failed"), "{open}");
    run_job(&world, &agent, &process, false).await;
    look(&world).await;
    assert_eq!(states(&world).await, [state("ended", "process", 3)]);
    run_job(&world, &agent, &process, true).await;
    look(&world).await;
    assert_eq!(states(&world).await, [state("raised", "process", 1), state("ended", "process", 3)]);
    let codes = each(&world.get("/alerts/a/events").await.ok(), "code");
    assert_eq!(codes, ["alert_raised", "alert_ended", "alert_raised", "alert_created"].map(|code| json!(code)));
}

/// Whoever has seen to it says so: what nothing else would end is over by that.
#[tokio::test]
async fn what_was_raised_is_acknowledged() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    let process = world.process("p").await;
    make(&world, "job_failed", json!({})).await;
    make(&world, "robot_offline", json!({ "name": "b" })).await;
    run_job(&world, &agent, &process, true).await;
    world.move_clock(61);
    look(&world).await;
    for one in raised(&world, "").await {
        let path = format!("/alerts/raised/{}/acknowledge", text(&one, "/id"));
        let seen = world.post(&path, json!({ "note": "known" })).await.ok();
        assert_eq!(seen["acknowledged"], json!({ "at": world.now(), "by": "admin", "note": "known" }));
        let ends = seen["when"] == "job_failed";
        assert_eq!(seen["state"], if ends { "ended" } else { "raised" });
        assert_eq!(world.act(&path).await.ok(), seen, "once is enough");
    }
    world.act(&format!("/alerts/raised/{}/acknowledge", world.account)).await.refused("not_found");
    assert_eq!(world.get("/overview").await.ok()["alerts"]["unacknowledged"], 0);
}

#[tokio::test]
async fn jobs_that_wait_or_run_too_long_are_told_by_their_process() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    let process = world.process("p").await;
    make(&world, "job_waiting", json!({ "after_seconds": 60 })).await;
    make(&world, "job_running_long", json!({ "name": "b", "after_seconds": 100 })).await;
    for _ in 0..3 {
        world.start(&process).await;
    }
    let (job, attempt) = agent.run().await;
    world.start_with(&process, json!({ "not_before": world.now().plus_seconds(1_000) })).await;
    world.move_clock(59);
    look(&world).await;
    assert_eq!(states(&world).await, vec![]);
    world.move_clock(1);
    look(&world).await;
    look(&world).await;
    let waiting = raised(&world, "").await;
    assert_eq!(states(&world).await, [state("raised", "process", 1)]);
    assert!(text(&waiting[0], "/text").starts_with("2 jobs of p wait"), "{}", waiting[0]);
    agent.beat(&[(&job, attempt)]).await;
    world.move_clock(41);
    look(&world).await;
    let long = raised(&world, "?alert=b").await.remove(0);
    assert!(text(&long, "/text").contains(&job), "{long}");
    agent.finish(&job, attempt, json!({})).await.done();
    for _ in 0..2 {
        agent.beat(&[]).await;
        let (job, attempt) = agent.run().await;
        agent.finish(&job, attempt, json!({})).await.done();
    }
    look(&world).await;
    assert_eq!(states(&world).await, [state("ended", "process", 1), state("ended", "process", 1)]);
}

#[tokio::test]
async fn tasks_robots_triggers_and_resources_are_watched() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    // It has no version yet, so that its trigger can start no job.
    world.post("/processes", json!({ "name": "p" })).await.created();
    world.queue("q", json!({ "sla_seconds": 100 })).await;
    world.queue("patient", json!({})).await;
    for (name, when) in
        [("q", "task_over_sla"), ("r", "robot_offline"), ("t", "trigger_missed"), ("e", "resource_expiring")]
    {
        make(&world, when, json!({ "name": name })).await;
    }
    make(&world, "robot_offline", json!({ "name": "later", "after_seconds": 600 })).await;
    world.add("q", json!({})).await;
    world.add("patient", json!({})).await;
    let expires = world.now().plus_seconds(604_800 + 50);
    world
        .post("/resources", json!({ "name": "login", "kind": "text", "value": "x", "expires_at": expires }))
        .await
        .created();
    let trigger = json!({ "name": "t", "process": "p", "target": { "group": "all" }, "kind": "schedule",
        "schedule": { "cron": "* * * * *", "catch_up": "none" }, "overlap": "allow" });
    world.post("/triggers", trigger).await.created();
    // Half a minute after the last of several instants.
    world.move_clock(230);
    background::triggers::pass(&world.app).await.unwrap();
    look(&world).await;
    let open = |all: Vec<Value>| -> Vec<String> {
        let mut nouns: Vec<String> = all.iter().map(|one| text(one, "/subject/noun")).collect();
        nouns.sort();
        nouns
    };
    assert_eq!(open(raised(&world, "?state=raised").await), ["queue", "resource", "robot", "trigger"]);
    world.take("q", 1).await;
    agent.beat(&[]).await;
    world.move_clock(30);
    agent.beat(&[]).await;
    world.upload("p", "?activate=true", &package(&[("main.sh", "true")])).await.created();
    background::triggers::pass(&world.app).await.unwrap();
    world.patch("/resources/login", json!({ "expires_at": null })).await.ok();
    look(&world).await;
    assert_eq!(open(raised(&world, "?state=raised").await), Vec::<String>::new(), "all of it is over");
    world.move_clock(601);
    look(&world).await;
    assert_eq!(raised(&world, "?state=raised&alert=later").await.len(), 1);
    // A disabled robot may be silent.
    world.act("/robots/r/disable").await.ok();
    look(&world).await;
    assert_eq!(raised(&world, "?state=raised&alert=later").await.len(), 0);
}

/// A trigger that starts no more jobs is as good as one that misses its time.
#[tokio::test]
async fn a_trigger_that_is_paused_by_its_limits_is_told() {
    let world = World::new().await;
    world.process("p").await;
    make(&world, "trigger_missed", json!({ "name": "t" })).await;
    let trigger = json!({ "name": "few", "process": "p", "target": { "group": "all" }, "kind": "schedule",
        "schedule": { "cron": "* * * * *" }, "overlap": "allow", "max_runs": 1 });
    world.post("/triggers", trigger).await.created();
    world.move_clock(25);
    background::triggers::pass(&world.app).await.unwrap();
    let open = raised(&world, "?state=raised").await;
    assert_eq!(open.len(), 1);
    assert!(text(&open[0], "/text").contains("max_runs"), "{open:?}");
    world.patch("/triggers/few", json!({ "max_runs": 9 })).await.ok();
    world.move_clock(60);
    background::triggers::pass(&world.app).await.unwrap();
    look(&world).await;
    assert_eq!(raised(&world, "?state=raised").await.len(), 0, "it has fired again");
}

#[tokio::test]
async fn low_disks_are_told() {
    assert!(Disk { free_bytes: 9, total_bytes: 100, is_full: false }.is_low());
    assert!(!Disk { free_bytes: 10, total_bytes: 100, is_full: false }.is_low());
    let world = World::new().await;
    let agent = world.agent("r").await;
    make(&world, "disk_low", json!({})).await;
    let beat = async |free: u64| {
        let health = json!({ "memory_used_bytes": 1, "memory_total_bytes": 2, "disk_free_bytes": free });
        agent.post("/heartbeat", json!({ "health": health, "jobs": [] })).await.ok();
        look(&world).await;
    };
    beat(2 << 30).await;
    assert_eq!(states(&world).await, vec![]);
    beat(1 << 20).await;
    assert_eq!(states(&world).await, [state("raised", "robot", 1)]);
    world.move_clock(60);
    beat(2 << 30).await;
    assert_eq!(states(&world).await, [state("ended", "robot", 1)]);
}

fn with_mail(server: &MailServer) -> Rules {
    let mail = MailRules {
        host: "127.0.0.1".to_owned(),
        port: server.address.port(),
        tls: MailTls::None,
        from: "Drover <drover@example.com>".to_owned(),
        user: String::new(),
        password: String::new(),
    };
    Rules { mail, ..rules() }
}

/// Each channel is told once, however often it happens; a mail server that refuses is tried again.
#[tokio::test]
async fn people_are_told_by_mail_and_webhook() {
    let (server, receiver) = (MailServer::start().await, Receiver::start().await);
    let world = World::with_rules(with_mail(&server)).await;
    let agent = world.agent("r").await;
    let process = world.process("платежи").await;
    let hook = json!({ "name": "hook", "url": receiver.url(), "events": ["job.created"], "enabled": true });
    let hook = text(&world.post("/webhooks", hook).await.created(), "/id");
    world.patch("/webhooks/hook", json!({ "events": ["robot.joined"] })).await.ok();
    let channels = json!([{ "email": ["a@example.com", "b@example.com"] }, { "webhook": "hook" }, { "console": true }]);
    let made = make(&world, "job_failed", json!({ "channels": channels })).await;
    assert_eq!(made["channels"][1]["webhook"], json!(hook));
    world.delete("/webhooks/hook").await.refused("in_use");
    server.refuse(true);
    for _ in 0..3 {
        run_job(&world, &agent, &process, true).await;
    }
    look(&world).await;
    background::webhooks::pass(&world.app).await.unwrap();
    background::mail::pass(&world.app).await.unwrap();
    let received = receiver.take();
    assert_eq!(received.len(), 1);
    let event = received[0].json();
    assert_eq!((&event["type"], &event["data"]["alert"]), (&json!("alert.raised"), &json!("a")));
    assert_eq!(event["data"]["subject"]["name"], "платежи");
    assert!(server.take().is_empty());
    server.refuse(false);
    background::mail::pass(&world.app).await.unwrap();
    assert!(server.take().is_empty(), "it is not due yet");
    world.move_clock(31);
    background::mail::pass(&world.app).await.unwrap();
    background::mail::pass(&world.app).await.unwrap();
    let mails = server.take();
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0].to, ["a@example.com", "b@example.com"]);
    assert!(mails[0].text.contains("From: Drover <drover@example.com>") && mails[0].text.contains("Message-ID: <"));
    let codes = each(&world.get("/alerts/a/events").await.ok(), "code");
    assert_eq!(codes, ["mail_sent", "mail_delayed", "alert_raised", "alert_created"].map(|code| json!(code)));
}

#[tokio::test]
async fn alerts_are_made_changed_and_deleted() {
    let world = World::new().await;
    world.process("p").await;
    let refused = [
        (json!({ "when": "sometimes" }), "/when"),
        (json!({ "channels": [] }), "/channels"),
        (json!({ "channels": [{}] }), "/channels/0"),
        (json!({ "channels": [{ "console": false }] }), "/channels/0"),
        (json!({ "channels": [{ "console": true, "webhook": "x" }] }), "/channels/0"),
        (json!({ "channels": [{ "webhook": "none" }] }), "/channels/0/webhook"),
        (json!({ "channels": [{ "email": ["a@example.com"] }] }), "/channels/0/email"),
        (json!({ "process": "none" }), "/process"),
        (json!({ "queue": "none" }), "/queue"),
        (json!({ "after_seconds": 5 }), "/after_seconds"),
        (json!({ "when": "job_waiting" }), "/after_seconds"),
        (json!({ "when": "disk_low", "process": "p" }), "/process"),
        (json!({ "name": "raised" }), "/name"),
    ];
    for (more, pointer) in refused {
        let mut alert = json!({ "name": "a", "when": "job_failed", "channels": [{ "console": true }] });
        alert.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        world.post("/alerts", alert).await.invalid(&[pointer]);
    }
    let agent = world.agent("r").await;
    let made = make(&world, "robot_offline", json!({ "group": "all" })).await;
    world
        .post("/alerts", json!({ "name": "a", "when": "disk_low", "channels": [{ "console": true }] }))
        .await
        .refused("already_exists");
    world.move_clock(61);
    look(&world).await;
    assert_eq!(states(&world).await, [state("raised", "robot", 1)]);
    let changed = world.patch("/alerts/a", json!({ "enabled": false, "group": null })).await.ok();
    assert_eq!((&changed["group_id"], &changed["revision"]), (&Value::Null, &json!(2)));
    let over = raised(&world, "").await.remove(0);
    assert_eq!((&over["state"], &over["ended_because"]), (&json!("ended"), &json!("the alert was disabled")));
    look(&world).await;
    assert_eq!(raised(&world, "?state=raised").await.len(), 0);
    let stale = world.call(Method::DELETE, "/alerts/a").header("if-match", "\"1\"");
    stale.send().await.refused("precondition_failed");
    world.delete(&format!("/alerts/{}", text(&made, "/id"))).await.done();
    assert_eq!(states(&world).await, vec![]);
    agent.beat(&[]).await;
    let acts = each(&world.get("/audit?noun=alert").await.ok(), "verb");
    assert_eq!(acts, ["delete", "update", "create"].map(|verb| json!(verb)));
}

/// What is over is known for some days; what is not stays.
#[tokio::test]
async fn what_is_over_is_removed_after_some_days() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    make(&world, "robot_offline", json!({})).await;
    world.move_clock(61);
    look(&world).await;
    agent.beat(&[]).await;
    look(&world).await;
    world.move_clock(61);
    look(&world).await;
    assert_eq!(states(&world).await, [state("raised", "robot", 1), state("ended", "robot", 1)]);
    world.move_clock(8 * 86_400);
    world.retain(0, 0).await;
    assert_eq!(states(&world).await, [state("raised", "robot", 1)]);
}
