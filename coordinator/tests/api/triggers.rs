//! Triggers: what they are made of, when they fire, and what became of each instant.

use drover_coordinator::background;
use http::Method;
use serde_json::{Value, json};

use crate::support::{Agent, World, each, text};

/// The clock of every test begins on a Wednesday, the 18th of November 2026, at 11:06:40 UTC.
const MINUTE: i64 = 60;

async fn make(world: &World, name: &str, schedule: Value, more: Value) -> Value {
    let mut trigger = json!({ "name": name, "process": "p", "target": { "group": "all" }, "kind": "schedule",
        "schedule": schedule });
    trigger.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.post("/triggers", trigger).await.created()
}

async fn with_process() -> World {
    let world = World::new().await;
    world.process("p").await;
    world
}

/// Moves the clock to a time in seconds after the start of the test, and lets what is due happen.
async fn fire_after(world: &World, seconds: i64) {
    world.move_clock(seconds);
    fire(world).await;
}

/// Fires until nothing is due any more.
async fn fire(world: &World) {
    for _ in 0..30 {
        background::triggers::pass(&world.app).await.unwrap();
    }
}

async fn history(world: &World, name: &str) -> Vec<(String, String)> {
    let page = world.get(&format!("/triggers/{name}/history?limit=1000")).await.ok();
    let rows = page["items"].as_array().unwrap().iter().rev();
    rows.map(|row| (text(row, "/instant")[11..19].to_owned(), text(row, "/decision"))).collect()
}

fn rows(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(at, decision)| ((*at).to_owned(), (*decision).to_owned())).collect()
}

async fn jobs_of(world: &World, trigger: &str) -> Vec<Value> {
    let page = world.get(&format!("/jobs?trigger={trigger}&limit=1000")).await.ok();
    page["items"].as_array().unwrap().iter().rev().cloned().collect()
}

async fn finish_next(agent: &Agent) {
    let (job, attempt) = agent.run().await;
    agent.finish(&job, attempt, json!({})).await.done();
}

#[tokio::test]
async fn a_schedule_fires_once_at_each_of_its_instants() {
    let world = with_process().await;
    let input = json!({ "limit": 7 });
    let more = json!({ "input": input, "overlap": "allow", "priority": 3, "stop_after_seconds": 60,
        "abort_after_seconds": 90 });
    let made = make(&world, "minutely", json!({ "cron": "* * * * *" }), more).await;
    assert_eq!(made["schedule"]["cron_text"], "Every minute.");
    assert_eq!((&made["schedule"]["dialect"], &made["schedule"]["time_zone"]), (&json!("unix"), &json!("UTC")));
    assert_eq!(made["next_fire_at"], "2026-11-18T11:07:00.000Z");
    fire(&world).await;
    assert_eq!(history(&world, "minutely").await, vec![], "its time has not come");
    fire_after(&world, 20).await;
    fire_after(&world, MINUTE).await;
    // The clock is set back: what has fired does not fire again.
    fire_after(&world, -3 * MINUTE).await;
    fire_after(&world, 3 * MINUTE).await;
    assert_eq!(history(&world, "minutely").await, rows(&[("11:07:00", "fired"), ("11:08:00", "fired")]));
    let jobs = jobs_of(&world, "minutely").await;
    assert_eq!(jobs.len(), 2);
    let id = text(&made, "/id");
    assert_eq!(jobs[0]["source"], json!({ "kind": "trigger", "id": id }));
    assert_eq!((&jobs[0]["priority"], &jobs[0]["stop_after"]), (&json!(3), &json!("2026-11-18T11:08:00.000Z")));
    assert_eq!(jobs[0]["abort_after"], "2026-11-18T11:08:30.000Z");
    assert_eq!(world.job(&text(&jobs[0], "/id")).await["input"], input);
    let now = world.get("/triggers/minutely").await.ok();
    assert_eq!((&now["fired_count"], &now["next_fire_at"]), (&json!(2), &json!("2026-11-18T11:09:00.000Z")));
    assert_eq!(now["revision"], made["revision"], "firing is nobody's change");
    let page = world.get("/triggers/minutely/history").await.ok();
    assert_eq!(page["items"][1]["job_ids"], json!([text(&jobs[0], "/id")]));
}

/// Five fields number days as Unix does, six as Quartz does; the answer says how it was understood, in either language.
#[tokio::test]
async fn patterns_are_told_in_plain_words() {
    let world = with_process().await;
    make(&world, "quartz", json!({ "cron": "0 30 6 ? * 2" }), json!({})).await;
    let told = async |language: &str| {
        let call = world.call(Method::GET, "/triggers/quartz").header("accept-language", language);
        let schedule = call.send().await.ok()["schedule"].clone();
        (text(&schedule, "/cron_text"), text(&schedule, "/dialect"))
    };
    assert_eq!(told("en").await, ("At 06:30, on Monday.".to_owned(), "quartz".to_owned()));
    assert_eq!(told("ru-RU, en;q=0.5").await.0, "В 06:30, понедельник.");
    let refused = [
        (json!({ "cron": "0 0 6 1 * 2" }), "/schedule/cron"),
        (json!({ "cron": "61 * * * *" }), "/schedule/cron"),
        (json!({ "cron": "* * * *" }), "/schedule/cron"),
        (json!({ "cron": "0 0 30 2 *" }), "/schedule"),
        (json!({}), "/schedule"),
        (json!({ "cron": "* * * * *", "interval_seconds": 5 }), "/schedule"),
        (json!({ "interval_seconds": 0 }), "/schedule/interval_seconds"),
        (json!({ "cron": "* * * * *", "time_zone": "Mars/Olympus" }), "/schedule/time_zone"),
        (json!({ "monthly": { "day": 32, "at": "06:00" } }), "/schedule/monthly/day"),
        (json!({ "monthly": { "day": "last", "at": "6:00" } }), "/schedule/monthly/at"),
        (json!({ "cron": "* * * * *", "zone": "UTC" }), "/schedule/zone"),
    ];
    for (schedule, pointer) in refused {
        let trigger = json!({ "name": "n", "process": "p", "target": { "group": "all" }, "kind": "schedule",
            "schedule": schedule });
        world.post("/triggers", trigger).await.invalid(&[pointer]);
    }
}

#[tokio::test]
async fn a_preview_marks_what_a_change_of_the_clock_does() {
    let world = with_process().await;
    make(&world, "night", json!({ "cron": "30 2 * * *", "time_zone": "Europe/Berlin" }), json!({})).await;
    let found = world.get("/triggers/night/preview?count=2&from=2027-03-27T12:00:00Z").await.ok();
    let expected = json!([
        { "at": "2027-03-28T01:00:00.000Z", "local": "2027-03-28T03:00:00", "offset": "+02:00", "note": "missing_hour" },
        { "at": "2027-03-29T00:30:00.000Z", "local": "2027-03-29T02:30:00", "offset": "+02:00" },
    ]);
    assert_eq!(found["items"], expected);
    let twenty = world.get("/triggers/night/preview").await.ok();
    assert_eq!(twenty["items"].as_array().unwrap().len(), 20);
    world.get("/triggers/night/preview?count=0").await.invalid(&["count"]);
}

/// Each policy, over a job that takes longer than a minute.
#[tokio::test]
async fn overlapping_is_as_the_trigger_says() {
    let cases = [
        ("skip", 1, vec!["fired", "skipped", "skipped", "fired"]),
        ("buffer_one", 1, vec!["fired", "fired", "skipped", "fired"]),
        ("buffer_all", 1, vec!["fired", "fired", "fired", "fired"]),
        ("stop_other", 1, vec!["fired", "fired", "fired", "fired"]),
        ("allow", 3, vec!["fired", "fired", "fired", "fired"]),
    ];
    for (overlap, at_once, expected) in cases {
        let world = with_process().await;
        let agent = world.agent_with("r", json!({ "capacity": 4 })).await;
        make(&world, "t", json!({ "cron": "* * * * *" }), json!({ "overlap": overlap })).await;
        fire_after(&world, 20).await;
        let (job, attempt) = agent.run().await;
        for _ in 0..2 {
            fire_after(&world, MINUTE).await;
            agent.beat(&[(&job, attempt)]).await;
        }
        let open = jobs_of(&world, "t")
            .await
            .iter()
            .filter(|job| job["state"] == "waiting" || job["state"] == "running")
            .count();
        let stopping = world.job(&job).await["state"] == "stopping";
        assert_eq!((open, stopping), (at_once, overlap == "stop_other"), "{overlap}");
        agent.finish(&job, attempt, json!({})).await.done();
        // Each end lets the next one go on.
        for _ in 0..2 {
            fire(&world).await;
            if jobs_of(&world, "t").await.iter().any(|job| job["state"] == "waiting") {
                finish_next(&agent).await;
            }
        }
        fire_after(&world, MINUTE).await;
        let decisions: Vec<String> = history(&world, "t").await.into_iter().map(|(_, decision)| decision).collect();
        assert_eq!(decisions, expected, "{overlap}");
        let listed = each(&world.get("/triggers/t/history?decision=skipped").await.ok(), "decision");
        assert_eq!(listed.len(), expected.iter().filter(|decision| **decision == "skipped").count());
    }
}

/// After an hour in which nothing ran.
#[tokio::test]
async fn missed_instants_are_told_and_made_up_for_as_wanted() {
    for (catch_up, fired) in [("none", 0), ("last", 1), ("all", 4)] {
        let world = with_process().await;
        let schedule = json!({ "cron": "*/15 * * * *", "catch_up": catch_up, "catch_up_window_seconds": 3_600 });
        make(&world, "t", schedule, json!({ "overlap": "allow" })).await;
        fire_after(&world, 75 * MINUTE).await;
        let found = history(&world, "t").await;
        let instants: Vec<&str> = found.iter().map(|(instant, _)| instant.as_str()).collect();
        assert_eq!(instants, ["11:15:00", "11:30:00", "11:45:00", "12:00:00", "12:15:00"], "{catch_up}");
        let made_up = found.iter().filter(|(_, decision)| decision == "fired").count();
        assert_eq!(made_up, fired, "{catch_up}: {found:?}");
        assert_eq!(jobs_of(&world, "t").await.len(), fired);
        assert!(found.iter().all(|(_, decision)| decision == "fired" || decision == "missed"));
    }
}

#[tokio::test]
async fn a_back_fill_makes_up_for_what_has_not_fired_and_for_nothing_twice() {
    let world = with_process().await;
    make(&world, "t", json!({ "cron": "*/15 * * * *" }), json!({})).await;
    fire_after(&world, 500).await;
    fire_after(&world, 75 * MINUTE).await;
    assert_eq!(jobs_of(&world, "t").await.len(), 1);
    let wanted = json!({ "from": "2026-11-18T11:00:00Z", "to": "2026-11-18T12:00:00Z" });
    let done = world.post("/triggers/t/backfill", wanted.clone()).await.ok();
    // The one at 11:00 lies before the trigger was made, and is made up for as well.
    assert_eq!((&done["fired"], &done["fired_before"]), (&json!(3), &json!(1)));
    assert_eq!(jobs_of(&world, "t").await.len(), 4);
    let again = world.post("/triggers/t/backfill", wanted).await.ok();
    assert_eq!((&again["fired"], &again["fired_before"]), (&json!(0), &json!(4)));
    assert_eq!(jobs_of(&world, "t").await.len(), 4);
    let rows = world.get("/triggers/t/history").await.ok();
    let back_filled =
        rows["items"].as_array().unwrap().iter().filter(|row| text(row, "/reason").contains("back-filled"));
    assert_eq!(back_filled.count(), 3);
    let future = json!({ "from": "2026-11-18T11:00:00Z", "to": "2026-12-18T12:00:00Z" });
    world.post("/triggers/t/backfill", future).await.invalid(&["/to"]);
    let many = json!({ "from": "2026-11-01T00:00:00Z", "to": "2026-11-18T00:00:00Z" });
    world.post("/triggers/t/backfill", many).await.invalid(&["/to"]);
}

/// A long time of misses is one row, whose first instants can be made up for without the others being lost.
#[tokio::test]
async fn a_long_run_of_misses_is_one_row_that_a_back_fill_shortens() {
    let world = with_process().await;
    make(&world, "t", json!({ "cron": "* * * * *" }), json!({})).await;
    fire_after(&world, 5 * 60 * MINUTE).await;
    let page = world.get("/triggers/t/history").await.ok();
    let run = &page["items"][0];
    assert_eq!((&run["instant"], &run["count"]), (&json!("2026-11-18T11:07:00.000Z"), &json!(300)));
    assert_eq!(run["until"], "2026-11-18T16:06:00.000Z");
    let wanted = json!({ "from": "2026-11-18T11:07:00Z", "to": "2026-11-18T11:09:00Z" });
    assert_eq!(world.post("/triggers/t/backfill", wanted).await.ok()["fired"], 2);
    let page = world.get("/triggers/t/history").await.ok();
    assert_eq!(page["items"].as_array().unwrap().len(), 3);
    assert_eq!(
        (&page["items"][0]["instant"], &page["items"][0]["count"]),
        (&json!("2026-11-18T11:09:00.000Z"), &json!(298))
    );
}

/// A trigger that cannot start its job says so each time, and goes on trying.
#[tokio::test]
async fn what_cannot_start_is_told_and_nothing_is_switched_off() {
    let world = World::new().await;
    world.post("/processes", json!({ "name": "p" })).await.created();
    make(&world, "t", json!({ "cron": "* * * * *" }), json!({})).await;
    fire_after(&world, 20).await;
    fire_after(&world, MINUTE).await;
    let page = world.get("/triggers/t/history").await.ok();
    assert_eq!(each(&page, "decision"), ["failed", "failed"]);
    assert!(text(&page["items"][0], "/reason").contains("no active version"), "{page}");
    let now = world.get("/triggers/t").await.ok();
    assert_eq!((&now["enabled"], &now["fired_count"]), (&json!(true), &json!(0)));
    world.act("/triggers/t/fire").await.expect(409).refused("wrong_state");
}

/// The input must be as the version's schema says, at each fire.
#[tokio::test]
async fn an_input_that_does_not_fit_fails_the_fire() {
    let world = World::new().await;
    let schema = r#"{"type":"object","required":["amount"]}"#;
    let manifest = "[run]\ncommand = [\"sh\", \"main.sh\"]\n[input]\nschema = \"input.json\"\n";
    let files = [("main.sh", "true"), ("process.toml", manifest), ("input.json", schema)];
    world.post("/processes", json!({ "name": "p" })).await.created();
    let uploaded = world.upload("p", "?activate=true", &crate::support::package(&files)).await;
    if uploaded.status != 201 {
        panic!("{}", uploaded.text());
    }
    make(&world, "t", json!({ "cron": "* * * * *" }), json!({})).await;
    fire_after(&world, 20).await;
    let page = world.get("/triggers/t/history").await.ok();
    assert_eq!(each(&page, "decision"), ["failed"]);
    world.patch("/triggers/t", json!({ "input": { "amount": 3 } })).await.ok();
    fire_after(&world, MINUTE).await;
    assert_eq!(each(&world.get("/triggers/t/history").await.ok(), "decision"), ["fired", "failed"]);
}

#[tokio::test]
async fn limits_end_and_pause_a_trigger_and_say_so() {
    let world = with_process().await;
    make(&world, "few", json!({ "cron": "* * * * *" }), json!({ "overlap": "allow", "max_runs": 2 })).await;
    let monthly = json!({ "overlap": "allow", "max_runs_per_month": 1 });
    make(&world, "monthly", json!({ "cron": "* * * * *" }), monthly).await;
    let until = json!({ "overlap": "allow", "valid_to": "2026-11-18T11:08:00Z" });
    make(&world, "until", json!({ "cron": "* * * * *" }), until).await;
    fire_after(&world, 20).await;
    for _ in 0..2 {
        fire_after(&world, MINUTE).await;
    }
    let few = world.get("/triggers/few").await.ok();
    assert_eq!((&few["fired_count"], &few["next_fire_at"], &few["enabled"]), (&json!(2), &Value::Null, &json!(true)));
    assert!(text(&few, "/paused_because").contains("max_runs"));
    let events = each(&world.get("/triggers/few/events").await.ok(), "code");
    assert_eq!(events, ["trigger_paused", "trigger_created"]);
    assert_eq!(
        history(&world, "monthly").await,
        rows(&[("11:07:00", "fired"), ("11:08:00", "skipped"), ("11:09:00", "skipped")])
    );
    // The next month begins.
    world.patch("/triggers/monthly", json!({ "schedule": { "cron": "0 0 1 * *" } })).await.ok();
    fire_after(&world, 12 * 24 * 3_600 + 12 * 3_600 + 51 * MINUTE + 1).await;
    assert_eq!(history(&world, "monthly").await.last().unwrap().1, "fired");
    assert_eq!(history(&world, "until").await, rows(&[("11:07:00", "fired")]));
    assert!(text(&world.get("/triggers/until").await.ok(), "/paused_because").contains("valid_to"));
    // A higher limit lets it go on.
    world.patch("/triggers/few", json!({ "max_runs": null })).await.ok();
    assert_eq!(world.get("/triggers/few").await.ok()["paused_because"], Value::Null);
}

#[tokio::test]
async fn a_continuous_trigger_keeps_its_jobs_running() {
    let world = with_process().await;
    let agent = world.agent_with("r", json!({ "capacity": 9 })).await;
    let trigger = json!({ "name": "two", "process": "p", "target": { "group": "all" }, "kind": "continuous",
        "continuous": { "jobs": 2 } });
    world.post("/triggers", trigger.clone()).await.created();
    fire(&world).await;
    assert_eq!(jobs_of(&world, "two").await.len(), 2);
    let (job, attempt) = agent.run().await;
    fire_after(&world, 5).await;
    assert_eq!(jobs_of(&world, "two").await.len(), 2, "as many as are wanted");
    agent.finish(&job, attempt, json!({})).await.done();
    fire(&world).await;
    assert_eq!(jobs_of(&world, "two").await.len(), 3);
    let (job, attempt) = agent.run().await;
    agent.finish(&job, attempt, json!({})).await.done();
    fire(&world).await;
    assert_eq!(jobs_of(&world, "two").await.len(), 3, "not twice within a second");
    fire_after(&world, 1).await;
    assert_eq!(jobs_of(&world, "two").await.len(), 4);
    world.act("/triggers/two/disable").await.ok();
    finish_next(&agent).await;
    fire_after(&world, 60).await;
    assert_eq!(jobs_of(&world, "two").await.len(), 4);
    assert_eq!(world.get("/triggers/two/preview").await.ok()["items"], json!([]));
    world
        .post("/triggers/two/backfill", json!({ "from": "2026-11-18T11:00:00Z", "to": "2026-11-18T11:01:00Z" }))
        .await
        .expect(409);
    let mut other = trigger;
    other["name"] = json!("other");
    other["schedule"] = json!({ "cron": "* * * * *" });
    world.post("/triggers", other).await.invalid(&["/schedule"]);
}

#[tokio::test]
async fn a_person_may_fire_and_repeat_the_call() {
    let world = with_process().await;
    make(&world, "t", json!({ "cron": "0 0 1 1 *" }), json!({ "enabled": false })).await;
    let call = || world.call(Method::POST, "/triggers/t/fire").header("idempotency-key", "one");
    let first = call().send().await;
    assert!(first.header("location").unwrap().ends_with(&text(&first.json(), "/id")));
    let second = call().send().await;
    assert_eq!(first.created()["id"], second.created()["id"]);
    assert_eq!(jobs_of(&world, "t").await.len(), 1);
    world.act("/triggers/t/fire").await.created();
    let page = world.get("/triggers/t/history").await.ok();
    assert_eq!(each(&page, "decision"), ["fired", "fired"], "two within the same millisecond are two");
    assert_eq!(text(&page["items"][0], "/reason"), "admin asked for it");
}

/// A job for a group whose robots are all busy goes to the one with the fewest jobs, if that is wanted.
#[tokio::test]
async fn the_least_busy_robot_is_chosen_when_all_are_busy() {
    let world = with_process().await;
    let (first, second) = (world.agent("a").await, world.agent("b").await);
    for agent in [&first, &second] {
        agent.beat(&[]).await;
        world.start_with("p", json!({ "target": { "robot": agent.id } })).await;
        agent.run().await;
    }
    world.start_with("p", json!({ "target": { "robot": first.id } })).await;
    let more = json!({ "busy": "queue_on_least_busy", "overlap": "allow" });
    make(&world, "t", json!({ "cron": "* * * * *" }), more).await;
    fire_after(&world, 20).await;
    assert_eq!(jobs_of(&world, "t").await[0]["target"], json!({ "robot": second.id }));
}

#[tokio::test]
async fn a_trigger_is_changed_disabled_and_deleted() {
    let world = with_process().await;
    let made = make(&world, "t", json!({ "cron": "0 6 * * *", "time_zone": "Europe/Berlin" }), json!({})).await;
    let patch =
        json!({ "name": "u", "schedule": { "interval_seconds": 30 }, "window": { "from": "11:00", "to": "11:10" } });
    let changed = world.patch("/triggers/t", patch).await.ok();
    assert_eq!(changed["schedule"]["interval_seconds"], 30);
    assert_eq!((changed["schedule"].get("cron"), &changed["schedule"]["time_zone"]), (None, &json!("Europe/Berlin")));
    // By the clock of Berlin the window is open from 10:00 to 10:10 UTC.
    assert_eq!(changed["next_fire_at"], "2026-11-19T10:00:10.000Z");
    assert_eq!(changed["revision"], 2);
    let stale = world.call(Method::PATCH, "/triggers/u").header("if-match", "\"1\"").json(&json!({ "name": "v" }));
    stale.send().await.expect(412);
    world.patch("/triggers/u", json!({ "continuous": { "jobs": 1 } })).await.invalid(&["/continuous"]);
    world.patch("/triggers/u", json!({ "kind": "continuous" })).await.invalid(&["/kind"]);
    world.patch("/triggers/u", json!({ "window": { "from": "x", "to": "y" } })).await.invalid(&["/window"]);
    let disabled = world.act("/triggers/u/disable").await.ok();
    assert_eq!((&disabled["enabled"], &disabled["next_fire_at"]), (&json!(false), &Value::Null));
    assert_eq!(world.act("/triggers/u/disable").await.ok()["revision"], disabled["revision"]);
    world.patch("/triggers/u", json!({ "window": null, "schedule": { "cron": "* * * * *" } })).await.ok();
    world.act("/triggers/u/enable").await.ok();
    fire_after(&world, 20).await;
    let id = text(&made, "/id");
    let jobs = jobs_of(&world, &id).await.len();
    assert_eq!(jobs, 1);
    // What a trigger goes by stays while it is there.
    world.delete("/processes/p").await.refused("in_use");
    world.delete(&format!("/triggers/{id}")).await.done();
    world.get("/triggers/u").await.expect(404);
    assert_eq!(jobs_of(&world, &id).await.len(), jobs, "its jobs stay");
    assert_eq!(world.mentions(b"trigger_created"), 0);
}

#[tokio::test]
async fn what_a_trigger_goes_by_cannot_be_deleted() {
    let world = with_process().await;
    world.post("/robot-groups", json!({ "name": "g" })).await.created();
    world.post("/robots", json!({ "name": "r" })).await.created();
    make(&world, "a", json!({ "cron": "0 6 * * *" }), json!({ "target": { "group": "g" } })).await;
    make(&world, "b", json!({ "cron": "0 6 * * *" }), json!({ "target": { "robot": "r" } })).await;
    for thing in ["/processes/p", "/robot-groups/g", "/robots/r"] {
        world.delete(thing).await.refused("in_use");
    }
    make(&world, "a2", json!({ "cron": "0 7 * * *" }), json!({})).await;
    let taken = json!({ "name": "a", "process": "p", "target": { "group": "all" }, "kind": "continuous",
        "continuous": { "jobs": 1 } });
    world.post("/triggers", taken).await.refused("already_exists");
    assert_eq!(each(&world.get("/triggers?q=A").await.ok(), "name"), ["a2", "a"]);
    assert_eq!(each(&world.get("/triggers?process=p&kind=continuous").await.ok(), "name"), Vec::<Value>::new());
    for trigger in ["a", "b"] {
        world.delete(&format!("/triggers/{trigger}")).await.done();
    }
    world.delete("/robot-groups/g").await.done();
    world.delete("/robots/r").await.done();
}

/// History is kept as long as jobs are.
#[tokio::test]
async fn old_rows_of_history_are_removed() {
    let world = with_process().await;
    make(&world, "t", json!({ "cron": "* * * * *" }), json!({})).await;
    fire_after(&world, 20).await;
    world.act("/triggers/t/disable").await.ok();
    world.retain(1, 0).await;
    assert_eq!(history(&world, "t").await.len(), 1);
    world.move_clock(2 * 24 * 3_600);
    world.retain(1, 0).await;
    assert_eq!(history(&world, "t").await.len(), 0);
}

/// Ten thousand would take the test too long; a thousand show that pages and transactions fit together.
#[tokio::test]
async fn a_thousand_triggers_that_are_due_together_fire_once_each() {
    let world = with_process().await;
    for number in 0..1_000 {
        make(&world, &format!("t{number}"), json!({ "cron": "* * * * *" }), json!({ "overlap": "allow" })).await;
    }
    world.move_clock(20);
    background::triggers::pass(&world.app).await.unwrap();
    background::triggers::pass(&world.app).await.unwrap();
    let page = world.get("/jobs?source=trigger&limit=1000").await.ok();
    let mut sources: Vec<String> =
        page["items"].as_array().unwrap().iter().map(|job| text(job, "/source/id")).collect();
    assert_eq!(sources.len(), 1_000);
    sources.sort();
    sources.dedup();
    assert_eq!(sources.len(), 1_000);
}

/// A trigger goes by the days of a resource, and follows them when they change.
#[tokio::test]
async fn a_calendar_says_which_days_are_worked_on() {
    let world = with_process().await;
    let days = json!({ "rest_days": ["saturday", "sunday"], "holidays": ["2026-11-18", "2026-11-19"] });
    let resource = json!({ "name": "days", "kind": "calendar", "value": days });
    world.post("/resources", resource).await.created();
    world.post("/resources", json!({ "name": "word", "kind": "text", "value": "x" })).await.created();
    let more = |policy: &str| json!({ "calendar": "days", "non_working_days": policy, "overlap": "allow" });
    let skip = make(&world, "skip", json!({ "cron": "0 12 * * *" }), more("skip")).await;
    assert_eq!((&skip["calendar"], &skip["next_fire_at"]), (&json!("days"), &json!("2026-11-20T12:00:00.000Z")));
    make(&world, "before", json!({ "cron": "0 12 * * 6" }), more("before")).await;
    let moved = world.get("/triggers/before/preview?count=1").await.ok();
    assert_eq!(
        moved["items"][0],
        json!({ "at": "2026-11-20T12:00:00.000Z", "local": "2026-11-20T12:00:00",
        "offset": "+00:00", "note": "moved_by_calendar" })
    );
    let last = json!({ "monthly": { "day": 13, "working": true, "at": "06:00" } });
    // Without its two holidays the 13th working day of November would be the 18th.
    assert_eq!(make(&world, "nth", last, more("skip")).await["next_fire_at"], "2026-11-20T06:00:00.000Z");
    let interval = make(&world, "interval", json!({ "interval_seconds": 3_600 }), more("skip")).await;
    assert_eq!(interval["next_fire_at"], "2026-11-20T00:06:40.000Z");
    let refused = world.delete("/resources/days").await.expect(409).refused("in_use");
    for name in ["skip", "before", "nth", "interval"] {
        assert!(text(&refused, "/detail").contains(name), "{refused}");
    }
    let changed = world.call(Method::PUT, "/resources/days/value").json(&json!({ "value": { "holidays": [] } }));
    assert!(changed.send().await.status.is_success());
    assert_eq!(world.get("/triggers/skip").await.ok()["next_fire_at"], "2026-11-18T12:00:00.000Z");
    world.patch("/triggers/skip", json!({ "calendar": "word" })).await.invalid(&["/calendar"]);
    world.patch("/triggers/skip", json!({ "calendar": "none" })).await.invalid(&["/calendar"]);
    let none = world.patch("/triggers/skip", json!({ "calendar": null })).await.ok();
    assert_eq!(none["calendar"], Value::Null);
}

/// A calendar that gets another name takes the triggers along that go by it, so that they go on to fire as before, also when
/// another calendar gets the old name.
#[tokio::test]
async fn a_calendar_takes_its_triggers_along_to_a_new_name() {
    let world = with_process().await;
    let calendar = |name: &str, holiday: &str| {
        world.post("/resources", json!({ "name": name, "kind": "calendar", "value": { "holidays": [holiday] } }))
    };
    calendar("days", "2026-11-18").await.created();
    let more = json!({ "calendar": "days", "non_working_days": "skip", "overlap": "allow" });
    let made = make(&world, "t", json!({ "cron": "0 12 * * *" }), more).await;
    assert_eq!(made["next_fire_at"], "2026-11-19T12:00:00.000Z");
    world.patch("/resources/days", json!({ "name": "our days" })).await.ok();
    calendar("days", "2026-11-19").await.created();
    let after = world.get("/triggers/t").await.ok();
    assert_eq!((&after["calendar"], &after["next_fire_at"]), (&json!("our days"), &made["next_fire_at"]));
    assert_ne!(after["revision"], made["revision"]);
    assert_eq!(each(&world.get("/triggers/t/events").await.ok(), "code"), ["calendar_renamed", "trigger_created"]);
    world.delete("/resources/our%20days").await.refused("in_use");
    world.delete("/resources/days").await.done();
    let preview = world.get("/triggers/t/preview?count=1").await.ok();
    assert_eq!(preview["items"][0]["at"], "2026-11-19T12:00:00.000Z");
}

/// What came due while the limit was reached is not made up for when it is raised.
#[tokio::test]
async fn a_raised_limit_counts_from_then_on() {
    for catch_up in ["all", "none"] {
        let world = with_process().await;
        let schedule = json!({ "cron": "* * * * *", "catch_up": catch_up });
        make(&world, "t", schedule, json!({ "overlap": "allow", "max_runs": 1 })).await;
        fire_after(&world, 20).await;
        fire_after(&world, 5 * MINUTE).await;
        world.patch("/triggers/t", json!({ "max_runs": 3 })).await.ok();
        fire(&world).await;
        let expected = rows(&[("11:07:00", "fired"), ("11:08:00", "skipped")]);
        assert_eq!(history(&world, "t").await, expected, "{catch_up}");
        fire_after(&world, MINUTE).await;
        assert_eq!(history(&world, "t").await.last().unwrap(), &("11:13:00".to_owned(), "fired".to_owned()));
    }
}

/// Whatever lets an instant fire, the limit of the month holds.
#[tokio::test]
async fn instants_that_waited_count_against_the_month() {
    let world = with_process().await;
    let agent = world.agent("r").await;
    let more = json!({ "overlap": "buffer_all", "max_runs_per_month": 2 });
    make(&world, "t", json!({ "cron": "* * * * *" }), more).await;
    fire_after(&world, 20).await;
    for _ in 0..3 {
        agent.beat(&[]).await;
        fire_after(&world, MINUTE).await;
    }
    for _ in 0..2 {
        agent.beat(&[]).await;
        finish_next(&agent).await;
        fire(&world).await;
    }
    assert_eq!(
        history(&world, "t").await,
        rows(&[("11:07:00", "fired"), ("11:08:00", "fired"), ("11:09:00", "skipped")])
    );
    assert_eq!(jobs_of(&world, "t").await.len(), 2);
}

/// Whatever a trigger has become, it can be turned off; it is turned on only if it fires some day.
#[tokio::test]
async fn what_never_fires_again_can_be_disabled() {
    let world = with_process().await;
    let until = json!({ "valid_to": "2026-11-18T11:08:00Z" });
    make(&world, "t", json!({ "cron": "* * * * *" }), until).await;
    fire_after(&world, 10 * MINUTE).await;
    let told = world.get("/triggers/t").await.ok();
    assert!(text(&told, "/paused_because").contains("valid_to"), "{told}");
    world.patch("/triggers/t", json!({ "enabled": false })).await.ok();
    world.act("/triggers/t/enable").await.invalid(&["/schedule"]);
    world.patch("/triggers/t", json!({ "enabled": true })).await.invalid(&["/schedule"]);
    world.act("/triggers/t/disable").await.ok();
    world.patch("/triggers/t", json!({ "valid_to": null, "enabled": true })).await.ok();
    let never = json!({ "name": "n", "process": "p", "target": { "group": "all" }, "kind": "schedule", "enabled": false,
        "schedule": { "cron": "0 0 30 2 *" } });
    world.post("/triggers", never).await.invalid(&["/schedule"]);
}

/// An instant that is due and not yet decided leaves a row when the trigger is changed.
#[tokio::test]
async fn a_change_loses_no_instant_without_a_row() {
    let world = with_process().await;
    make(&world, "t", json!({ "cron": "* * * * *" }), json!({})).await;
    world.move_clock(MINUTE);
    world.patch("/triggers/t", json!({ "schedule": { "cron": "0 0 * * *" } })).await.ok();
    fire(&world).await;
    assert_eq!(history(&world, "t").await, rows(&[("11:07:00", "skipped")]));
}

/// The clock by which a window goes is the trigger's, of all kinds.
#[tokio::test]
async fn each_kind_has_a_zone() {
    let world = with_process().await;
    // It is 20:06 in Tokyo.
    let mut trigger = json!({ "name": "t", "process": "p", "target": { "group": "all" }, "kind": "continuous",
        "continuous": { "jobs": 1 }, "window": { "from": "20:00", "to": "21:00" } });
    let made = world.post("/triggers", trigger.clone()).await.created();
    assert_eq!(made["time_zone"], "UTC");
    fire(&world).await;
    assert_eq!(jobs_of(&world, "t").await.len(), 0);
    let changed = world.patch("/triggers/t", json!({ "time_zone": "Asia/Tokyo" })).await.ok();
    assert_eq!(changed["time_zone"], "Asia/Tokyo");
    fire(&world).await;
    assert_eq!(jobs_of(&world, "t").await.len(), 1);
    trigger["name"] = json!("u");
    trigger["time_zone"] = json!("Mars/Olympus");
    world.post("/triggers", trigger).await.invalid(&["/time_zone"]);
    // Of a schedule it is the schedule's own.
    let made = make(&world, "s", json!({ "cron": "0 6 * * *" }), json!({ "time_zone": "Asia/Tokyo" })).await;
    assert_eq!((&made["time_zone"], &made["schedule"]["time_zone"]), (&json!("Asia/Tokyo"), &json!("Asia/Tokyo")));
    assert_eq!(made["next_fire_at"], "2026-11-18T21:00:00.000Z");
    let changed = world.patch("/triggers/s", json!({ "time_zone": "Europe/Berlin" })).await.ok();
    assert_eq!(changed["schedule"]["time_zone"], "Europe/Berlin");
    let both = json!({ "name": "b", "process": "p", "target": { "group": "all" }, "kind": "schedule",
        "schedule": { "cron": "0 6 * * *", "time_zone": "Asia/Tokyo" }, "time_zone": "Europe/Berlin" });
    world.post("/triggers", both).await.invalid(&["/time_zone"]);
}

/// Where every job fails something is broken: it is tried less and less often, which is said, until one succeeds.
#[tokio::test]
async fn jobs_that_keep_failing_are_started_less_often() {
    let world = with_process().await;
    let agent = world.agent("r").await;
    let trigger = json!({ "name": "t", "process": "p", "target": { "group": "all" }, "kind": "continuous",
        "continuous": { "jobs": 1 } });
    world.post("/triggers", trigger).await.created();
    let mut waited = Vec::new();
    for number in 1..=9 {
        fire(&world).await;
        let mut seconds = 0;
        while jobs_of(&world, "t").await.len() < number {
            seconds += 1;
            world.move_clock(1);
            background::triggers::pass(&world.app).await.unwrap();
        }
        waited.push(seconds);
        agent.beat(&[]).await;
        let (job, attempt) = agent.run().await;
        agent.fail(&job, attempt).await.done();
    }
    assert_eq!(waited, [0, 1, 1, 2, 4, 8, 16, 32, 60]);
    let events = each(&world.get("/triggers/t/events").await.ok(), "code");
    assert_eq!(events, ["jobs_keep_failing", "trigger_created"]);
    fire_after(&world, 60).await;
    agent.beat(&[]).await;
    finish_next(&agent).await;
    fire_after(&world, 1).await;
    assert_eq!(jobs_of(&world, "t").await.len(), 11, "one has succeeded");
}
