//! The figures of the first page: from counters, within what the caller may read.

use serde_json::{Value, json};

use crate::support::{Call, PASSWORD, World, each, text};

#[tokio::test]
async fn the_first_page_shows_how_the_fleet_is() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    world.agent("silent").await;
    let process = world.process("p").await;
    for _ in 0..3 {
        world.start(&process).await;
    }
    let (job, attempt) = agent.run().await;
    agent.finish(&job, attempt, json!({})).await.done();
    let (job, attempt) = agent.run().await;
    agent.fail(&job, attempt).await.done();
    agent.run().await;
    world.start(&process).await;
    world.queue("empty", json!({})).await;
    for queue in ["young", "old"] {
        world.queue(queue, json!({})).await;
    }
    world.add("old", json!({})).await;
    let since = world.now();
    world.move_clock(30);
    world.add("young", json!({})).await;
    world.add("young", json!({})).await;
    world.take("young", 1).await;
    let trigger = json!({ "name": "t", "process": "p", "target": { "group": "all" }, "kind": "schedule",
        "schedule": { "cron": "0 * * * *" } });
    let trigger = world.post("/triggers", trigger).await.created();
    agent.beat(&[]).await;
    world.move_clock(40);
    let page = world.get("/overview").await.ok();
    let robots = json!({ "offline": 1, "idle": 0, "busy": 1, "draining": 0, "paused": 0, "disabled": 0 });
    assert_eq!(page["robots"], robots);
    let finished = json!({ "succeeded": 1, "failed": 1, "stopped": 0, "aborted": 0, "timed_out": 0, "lost": 0 });
    assert_eq!((&page["jobs"]["running"], &page["jobs"]["waiting"]), (&json!(1), &json!(1)));
    assert_eq!(page["jobs"]["finished"], finished);
    let queues = page["queues"].as_array().unwrap();
    assert_eq!(queues.iter().map(|queue| text(queue, "/name")).collect::<Vec<_>>(), ["old", "young"]);
    assert_eq!(queues[0]["oldest_new_at"], json!(since));
    assert_eq!((&queues[1]["new"], &queues[1]["in_progress"]), (&json!(1), &json!(1)));
    assert_eq!(page["next_fires"][0]["trigger_id"], trigger["id"]);
    assert_eq!(page["next_fires"][0]["at"], trigger["next_fire_at"]);
    assert_eq!((&page["alerts"]["raised"], &page["disk"]), (&json!(0), &Value::Null), "this store lies in memory");
    assert!(each(&json!({ "items": page["alerts"]["items"] }), "id").is_empty());
    let figures = metrics(&world).await;
    for line in [
        "drover_jobs{state=\"running\"} 1",
        "drover_robots{state=\"offline\"} 1",
        "drover_tasks{state=\"new\"} 2",
        "drover_tasks{state=\"in_progress\"} 1",
        "drover_alerts_raised 0",
        "drover_deliveries_waiting 0",
        "drover_jobs_finished_total{outcome=\"succeeded\"} 1",
        "drover_jobs_finished_total{outcome=\"failed\"} 1",
        "drover_jobs_finished_total{outcome=\"lost\"} 0",
    ] {
        assert!(figures.lines().any(|shown| shown == line), "{line} is missing:\n{figures}");
    }
}

/// What Prometheus reads.
async fn metrics(world: &World) -> String {
    let figures = world.call(http::Method::GET, "//metrics").without("authorization").send().await.expect(200);
    String::from_utf8(figures.body.to_vec()).unwrap()
}

/// There are figures of every noun, over all accounts, each with what it says.
#[tokio::test]
async fn every_noun_has_its_figures() {
    let world = World::new().await;
    let other = world.new_account(drover_protocol::AccountId::from_uuid(uuid::Uuid::from_u128(7)), "other").await;
    world.process("p").await;
    world.agent("r").await;
    let post = async |path: &str, body: Value| world.post(path, body).await.created();
    post("/robot-groups", json!({ "name": "g" })).await;
    for queue in ["q", "paused"] {
        world.queue(queue, json!({})).await;
    }
    world.post("/queues/paused/pause", json!({ "reason": "x" })).await.ok();
    for (name, kind, value) in [("a", "text", "x"), ("b", "text", "y"), ("c", "secret", "z")] {
        post("/resources", json!({ "name": name, "kind": kind, "value": value })).await;
    }
    Call::new(world.router.clone(), http::Method::POST, "/resources")
        .key(&other)
        .json(&json!({ "name": "a", "kind": "text", "value": "x" }))
        .send()
        .await
        .created();
    post("/storages", json!({ "name": "f" })).await;
    world.put_file("f", "x", "12345").await.created();
    world.put_file("f", "y", "1").await.created();
    post("/users", json!({ "login": "ann", "password": "a long password", "roles": ["viewer"] })).await;
    world.patch("/users/ann", json!({ "blocked": true })).await.ok();
    post("/roles", json!({ "name": "own", "permissions": ["job:read"] })).await;
    post("/keys", json!({ "name": "named" })).await;
    let webhook = json!({ "name": "w", "url": "http://127.0.0.1:9/", "events": ["alert.raised"], "enabled": false });
    post("/webhooks", webhook).await;
    post("/alerts", json!({ "name": "a", "when": "disk_low", "channels": [{ "console": true }] })).await;
    for (name, enabled) in [("t", true), ("off", false)] {
        post(
            "/triggers",
            json!({ "name": name, "process": "p", "target": { "group": "all" }, "kind": "schedule", "enabled": enabled, "overlap": "allow",
                "schedule": { "interval_seconds": 3600 } }),
        )
        .await;
    }
    world.act("/triggers/t/fire").await.created();
    world.move_clock(24 * 3_600);
    drover_coordinator::background::triggers::pass(&world.app).await.unwrap();
    for password in [PASSWORD, "wrong"] {
        let body = json!({ "login": "admin", "password": password, "account": "main" });
        Call::new(world.router.clone(), http::Method::POST, "/session").json(&body).send().await;
    }
    let acts = world.get("/audit?limit=1").await.ok()["items"][0]["seq"].as_u64().unwrap();
    let figures = metrics(&world).await;
    let wanted = [
        "drover_accounts{disabled=\"false\"} 2",
        "drover_accounts{disabled=\"true\"} 0",
        "drover_users{blocked=\"false\"} 2",
        "drover_users{blocked=\"true\"} 1",
        "drover_roles 1",
        "drover_keys{holder=\"robot\"} 1",
        "drover_keys{holder=\"user\"} 4",
        "drover_keys{holder=\"job\"} 0",
        "drover_sessions 1",
        "drover_robot_groups 3",
        "drover_processes 1",
        "drover_process_versions 1",
        "drover_queues{paused=\"false\"} 1",
        "drover_queues{paused=\"true\"} 1",
        "drover_triggers{kind=\"schedule\",enabled=\"true\"} 1",
        "drover_triggers{kind=\"schedule\",enabled=\"false\"} 1",
        "drover_triggers{kind=\"mail\",enabled=\"true\"} 0",
        "drover_fires_total{decision=\"fired\"} 2",
        "drover_fires_total{decision=\"missed\"} 23",
        "drover_fires_total{decision=\"failed\"} 0",
        "drover_resources{kind=\"text\"} 3",
        "drover_resources{kind=\"secret\"} 1",
        "drover_resources{kind=\"calendar\"} 0",
        "drover_storage_folders 1",
        "drover_storage_files 2",
        "drover_storage_bytes 6",
        "drover_webhooks{enabled=\"false\"} 1",
        "drover_alerts{enabled=\"true\"} 1",
        "drover_alerts_raised_total 0",
        "drover_deliveries_ended_total{state=\"delivered\"} 0",
        "drover_sign_ins_total{end=\"accepted\"} 1",
        "drover_sign_ins_total{end=\"refused\"} 1",
        "drover_sign_ins_total{end=\"throttled\"} 0",
        "drover_read_only 0",
    ];
    let missing: Vec<&str> = wanted.into_iter().filter(|line| !figures.lines().any(|shown| shown == *line)).collect();
    assert!(missing.is_empty(), "{missing:#?} are missing:\n{figures}");
    let counted_acts = figures.lines().find_map(|line| line.strip_prefix("drover_audit_acts_total ")).unwrap();
    assert!(counted_acts.parse::<u64>().unwrap() > acts, "those of the other account as well");
    for line in figures.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let name = line.split(['{', ' ']).next().unwrap();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        for about in ["HELP", "TYPE"] {
            assert!(figures.contains(&format!("# {about} {family} ")), "{family} has no {about}");
        }
    }
}

/// The use of the disk is sampled once an hour, and foretold as soon as there is a day of samples.
#[tokio::test]
async fn the_use_of_the_disk_is_sampled_and_foretold() {
    use drover_coordinator::{
        operations::{alert_watch::Disk, disk},
        store::key::SYSTEM_ACCOUNT,
    };
    let world = World::new().await;
    let db = &world.app.db;
    let mut free_bytes = 1_000_000;
    for half_hour in 0..=48 {
        let seen = Disk { free_bytes, total_bytes: 2_000_000, is_full: false };
        let is_due = db.read(SYSTEM_ACCOUNT, |reading| disk::is_due(reading)).unwrap();
        assert_eq!(is_due, half_hour % 2 == 0, "once an hour");
        if is_due {
            assert_eq!(db.read(SYSTEM_ACCOUNT, |reading| disk::forecast(reading, &seen)).unwrap(), None);
            db.write(SYSTEM_ACCOUNT, move |tx| disk::sample(tx, &seen)).await.unwrap();
            free_bytes -= 1_000;
        }
        world.move_clock(1_800);
    }
    let seen = Disk { free_bytes: 240_000, total_bytes: 2_000_000, is_full: false };
    let forecast = db.read(SYSTEM_ACCOUNT, |reading| disk::forecast(reading, &seen)).unwrap().unwrap();
    assert_eq!((forecast.growth_bytes_per_day, forecast.full_in_days), (24_000, Some(10)));
}

/// A day later nothing of it is counted any more, and nothing grows with what has been.
#[tokio::test]
async fn finished_jobs_are_counted_for_a_day() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    let process = world.process("p").await;
    let finished = async || world.get("/overview").await.ok()["jobs"]["finished"]["succeeded"].as_u64().unwrap();
    for hour in 0..30_u64 {
        world.start(&process).await;
        agent.beat(&[]).await;
        let (job, attempt) = agent.run().await;
        agent.finish(&job, attempt, json!({})).await.done();
        assert_eq!(finished().await, (hour + 1).min(24), "hour {hour}");
        world.pass_time(3_600).await;
    }
    world.pass_time(23 * 3_600).await;
    assert_eq!(finished().await, 0);
}

#[tokio::test]
async fn the_first_page_shows_what_the_caller_may_read() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    let key = world.key_with(&["queue:read"]).await;
    let call = |key: &str| Call::new(world.router.clone(), http::Method::GET, "/overview").key(key);
    let page = call(&key).send().await.ok();
    assert_eq!((&page["queues"], &page["robots"], &page["jobs"]), (&json!([]), &Value::Null, &Value::Null));
    assert_eq!((&page["alerts"], &page["next_fires"]), (&Value::Null, &Value::Null));
    call(&agent.key).send().await.refused("forbidden");
}
