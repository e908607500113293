//! News: what is told when somebody wants to know, and that nobody pays for what nobody wants.

use drover_coordinator::{
    background,
    domain::news::News,
    operations::news,
    store::{Scan, key::Kind},
};
use drover_protocol::news::NewsType;
use http::Method;
use serde_json::{Value, json};

use crate::support::{World, text};

/// The news that wait, oldest first.
fn waiting(world: &World) -> Vec<News> {
    let read = |reading: &drover_coordinator::store::Reader| Scan::of(reading, Kind::News, ()).records(reading, 1_000);
    let found: Vec<(Vec<u8>, News)> = world.app.db.read(world.account, read).unwrap();
    found.into_iter().map(|(_, news)| news).collect()
}

fn kinds(news: &[News]) -> Vec<&str> {
    news.iter().map(|news| news.kind.as_str()).collect()
}

async fn want(world: &World, kinds: &'static [NewsType]) {
    world.app.db.write(world.account, move |tx| news::want(tx, &[], kinds)).await.unwrap();
}

async fn hand_out(world: &World) {
    background::news::pass(&world.app).await.unwrap();
}

#[tokio::test]
async fn everything_that_happens_is_told_once() {
    let world = World::new().await;
    want(&world, NewsType::ALL).await;
    let agent = world.agent("r").await;
    let process = world.process("p").await;
    let job = world.start(&process).await;
    agent.take().await;
    agent.accept(&job, 1).await.ok();
    agent.finish(&job, 1, json!({})).await.done();
    let told = waiting(&world);
    let expected = [
        "robot.joined",
        "robot.online",
        "version.activated",
        "job.created",
        "job.assigned",
        "job.started",
        "job.finished",
    ];
    assert_eq!(kinds(&told), expected);
    let end = told.last().unwrap();
    assert_eq!((end.subject.noun.as_str(), end.subject.id.to_string()), ("job", job));
    assert_eq!((&end.data["outcome"], &end.data["process"]), (&json!("succeeded"), &json!("p")));
    hand_out(&world).await;
    assert_eq!(kinds(&waiting(&world)), Vec::<&str>::new());
}

#[tokio::test]
async fn what_becomes_of_tasks_is_told() {
    let world = World::new().await;
    want(&world, NewsType::ALL).await;
    let receiver = world.queue("done", json!({})).await;
    let more = json!({ "on_success_queue": receiver, "abandon_new_after_seconds": 10, "max_attempts": 2,
        "retry": { "application": true, "delay_seconds": 30 } });
    world.queue("q", more).await;
    let first = world.add("q", json!({ "reference": "a-1" })).await;
    let (_, attempt) = world.take_one("q").await;
    world.on_task(&first, "succeed", json!({ "attempt": attempt })).await.ok();
    let told = waiting(&world);
    assert_eq!(kinds(&told), ["task.added", "task.taken", "task.succeeded", "task.added"]);
    assert_eq!((&told[0].data["queue"], &told[3].data["queue"]), (&json!("q"), &json!("done")));
    assert_eq!((told[0].subject.name.as_deref(), &told[3].data["origin_task_id"]), (Some("a-1"), &json!(first)));
    hand_out(&world).await;

    let second = world.add("q", json!({})).await;
    let (_, attempt) = world.take_one("q").await;
    let failure = json!({ "attempt": attempt, "kind": "application", "message": "no answer" });
    world.on_task(&second, "fail", failure.clone()).await.ok();
    assert_eq!(kinds(&waiting(&world)), ["task.added", "task.taken", "task.postponed"], "it is tried again");
    hand_out(&world).await;
    world.pass_time(60).await;
    let (_, attempt) = world.take_one("q").await;
    let failure = json!({ "attempt": attempt, "kind": "business", "message": "no such invoice" });
    world.on_task(&second, "fail", failure).await.ok();
    let told = waiting(&world);
    assert_eq!(kinds(&told), ["task.taken", "task.failed"]);
    assert_eq!(told[1].data["error"]["message"], "no such invoice");
    hand_out(&world).await;
    world.add("q", json!({})).await;
    world.pass_time(11).await;
    assert_eq!(kinds(&waiting(&world)), ["task.added", "task.abandoned"]);
}

/// A robot that reports itself in time is never told as offline, however long; one that falls silent is told once.
#[tokio::test]
async fn robots_that_fall_silent_and_come_back_are_told() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    want(&world, &[NewsType::RobotOnline, NewsType::RobotOffline, NewsType::RobotPaused]).await;
    for _ in 0..6 {
        world.pass_time(20).await;
        agent.beat(&[]).await;
    }
    assert_eq!(kinds(&waiting(&world)), Vec::<&str>::new());
    world.pass_time(59).await;
    assert_eq!(kinds(&waiting(&world)), Vec::<&str>::new());
    world.pass_time(2).await;
    world.pass_time(60).await;
    assert_eq!(kinds(&waiting(&world)), ["robot.offline"]);
    agent.beat(&[]).await;
    world.post("/robots/r/pause", json!({ "mode": "drain", "reason": "updates" })).await.ok();
    world.post("/robot-groups/all/pause", json!({ "mode": "drain", "reason": "night" })).await.ok();
    let told = waiting(&world);
    assert_eq!(kinds(&told), ["robot.offline", "robot.online", "robot.paused", "robot.paused"]);
    assert_eq!((told[3].subject.noun.as_str(), &told[3].data["reason"]), ("robot_group", &json!("night")));
    let events = world.get("/robots/r/events").await.ok();
    let codes: Vec<&str> =
        events["items"].as_array().unwrap().iter().rev().filter_map(|e| e["code"].as_str()).collect();
    assert_eq!(codes, ["joined", "robot_online", "robot_offline", "robot_online", "robot_paused"]);
}

#[tokio::test]
async fn fires_and_files_are_told() {
    let world = World::new().await;
    world.process("p").await;
    want(&world, &[NewsType::TriggerFired, NewsType::TriggerMissed, NewsType::FileAdded]).await;
    let trigger = json!({ "name": "t", "process": "p", "target": { "group": "all" }, "kind": "schedule",
        "schedule": { "cron": "* * * * *" }, "overlap": "allow" });
    let trigger = text(&world.post("/triggers", trigger).await.created(), "/id");
    world.move_clock(21);
    background::triggers::pass(&world.app).await.unwrap();
    world.move_clock(3_600);
    background::triggers::pass(&world.app).await.unwrap();
    let told = waiting(&world);
    assert!(told.iter().all(|news| news.subject.id.to_string() == trigger));
    assert_eq!(kinds(&told)[..2], ["trigger.fired", "trigger.missed"]);
    hand_out(&world).await;

    world.post("/storages", json!({ "name": "inbox" })).await.created();
    world.put_file("inbox", "a.txt", "text").await.created();
    world.call(Method::PUT, "/storages/inbox/files/a.txt").body("other").send().await.ok();
    let copy = json!({ "path": "a.txt", "to_path": "b.txt" });
    world.post("/storages/inbox/copy", copy).await;
    let told = waiting(&world);
    assert_eq!(kinds(&told), ["file.added", "file.added", "file.added"]);
    let named: Vec<&Value> = told.iter().map(|news| &news.data["path"]).collect();
    assert_eq!(
        (named, &told[0].data["folder"]),
        (vec![&json!("a.txt"), &json!("a.txt"), &json!("b.txt")], &json!("inbox"))
    );
}

/// Only what is wanted is kept, as long as anybody wants it, and for this account alone.
#[tokio::test]
async fn what_nobody_wants_is_not_kept() {
    let world = World::new().await;
    let process = world.process("p").await;
    world.start(&process).await;
    want(&world, &[NewsType::JobCreated, NewsType::JobFinished]).await;
    want(&world, &[NewsType::JobCreated]).await;
    let other = drover_protocol::AccountId::from_uuid(uuid::Uuid::from_u128(0xacc1));
    world.new_account(other, "other").await;
    world.start(&process).await;
    world.app.db.write(world.account, |tx| news::want(tx, &[NewsType::JobCreated], &[])).await.unwrap();
    world.start(&process).await;
    world.app.db.write(world.account, |tx| news::want(tx, &[NewsType::JobCreated], &[])).await.unwrap();
    world.start(&process).await;
    assert_eq!(kinds(&waiting(&world)), ["job.created", "job.created"]);
}
