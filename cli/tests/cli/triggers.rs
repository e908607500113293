//! Commands about triggers against a scripted coordinator: what they send and what they show.

use serde_json::{Value, json};

use crate::support::{Answer, JOB, Server, job, run, stderr, stdout};

const ID: &str = "0192f6c4-7a10-7cc3-98c4-dc0c0c07000d";

fn trigger() -> Value {
    json!({
        "id": ID, "name": "nightly", "description": "", "enabled": true, "process_id": ID, "target": {"group": ID},
        "priority": null, "max_parallel": null, "overlap": "skip", "valid_from": null, "valid_to": null,
        "window": {"from": "22:00", "to": "06:00"}, "time_zone": "Europe/Berlin", "calendar": null,
        "non_working_days": "skip", "max_runs": null, "max_runs_per_month": null,
        "stop_after_seconds": 90, "abort_after_seconds": null, "busy": "wait_in_group", "kind": "schedule",
        "schedule": {"cron": "30 6 * * 1", "cron_text": "At 06:30, on Monday.", "dialect": "unix",
            "time_zone": "Europe/Berlin", "missing_hour": "run_after", "repeated_hour": "first", "catch_up": "none",
            "catch_up_window_seconds": 86400},
        "fired_count": 3, "last_fired_at": null, "next_fire_at": "2026-11-23T05:30:00.000Z", "buffered": 0,
        "paused_because": null, "created_at": "2026-11-22T08:00:00.000Z", "revision": 1,
    })
}

#[test]
fn settings_are_sent_as_the_api_names_them() {
    let server = Server::scripted(vec![("POST /api/v1/triggers", vec![Answer::json(201, &trigger())])]);
    let arguments = [
        "trigger",
        "create",
        "nightly",
        "--process",
        "invoices",
        "--monthly",
        "working-1@06:30",
        "--time-zone",
        "Europe/Berlin",
        "--catch-up",
        "last",
        "--catch-up-window",
        "6h",
        "--window",
        "22:00-06:00",
        "--stop-after",
        "90s",
        "--overlap",
        "buffer_one",
        "--set",
        "limit=5",
    ];
    let output = run(&server, &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("drover trigger preview nightly"));
    let expected = json!({
        "name": "nightly", "process": "invoices", "target": {"group": "all"}, "kind": "schedule",
        "schedule": {"monthly": {"day": 1, "working": true, "at": "06:30"}, "catch_up": "last",
            "catch_up_window_seconds": 21600},
        "time_zone": "Europe/Berlin",
        "window": {"from": "22:00", "to": "06:00"}, "stop_after_seconds": 90, "overlap": "buffer_one",
        "input": {"limit": 5},
    });
    assert_eq!(server.seen()[0].json(), expected);
    assert!(!server.seen()[0].header("idempotency-key").is_empty());
}

/// Nothing is sent that could not be meant.
#[test]
fn what_is_missing_or_given_twice_is_said_before_anything_is_sent() {
    let server = Server::scripted(vec![]);
    let create = ["trigger", "create", "n", "--process", "p"];
    let output = run(&server, &create);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--cron PATTERN"), "{}", stderr(&output));
    for more in [&["--cron", "* * * * *", "--every", "5m"][..], &["--monthly", "first"], &["--window", "22"]] {
        let output = run(&server, &[&create[..], more].concat());
        assert_eq!(output.status.code(), Some(2), "{more:?}");
    }
    assert_eq!(run(&server, &["trigger", "update", "n"]).status.code(), Some(2));
    assert!(server.seen().is_empty());
}

#[test]
fn a_change_sends_only_what_changes() {
    let server = Server::scripted(vec![("PATCH /api/v1/triggers/nightly", vec![Answer::json(200, &trigger())])]);
    let output = run(&server, &["trigger", "update", "nightly", "--cron", "0 7 * * *", "--rename", "daily"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(server.seen()[0].json(), json!({"name": "daily", "schedule": {"cron": "0 7 * * *"}}));
}

/// Bank holidays are a resource, and a trigger goes by one or by none.
#[test]
fn a_calendar_is_given_shown_and_taken_away() {
    let mut by_calendar = trigger();
    (by_calendar["calendar"], by_calendar["non_working_days"]) = (json!("bank holidays"), json!("after"));
    let named = |name: &str| vec![Answer::json(200, &json!({"name": name}))];
    let process = format!("GET /api/v1/processes/{ID}");
    let group = format!("GET /api/v1/robot-groups/{ID}");
    let server = Server::scripted(vec![
        ("POST /api/v1/triggers", vec![Answer::json(201, &by_calendar)]),
        ("PATCH /api/v1/triggers/nightly", vec![Answer::json(200, &trigger())]),
        ("GET /api/v1/triggers/nightly", vec![Answer::json(200, &by_calendar), Answer::json(200, &trigger())]),
        (process.leak(), named("invoices")),
        (group.leak(), named("night shift")),
    ]);
    let create = ["trigger", "create", "nightly", "--process", "p", "--cron", "30 6 * * *"];
    let calendar = ["--calendar", "bank holidays", "--non-working-days", "after"];
    let output = run(&server, &[&create[..], &calendar].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let sent = server.seen()[0].json();
    assert_eq!((&sent["calendar"], &sent["non_working_days"]), (&json!("bank holidays"), &json!("after")));
    let output = run(&server, &["trigger", "update", "nightly", "--calendar", "none"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(server.seen()[1].json(), json!({"calendar": null}));
    let text = stdout(&run(&server, &["trigger", "show", "nightly"]));
    for part in ["bank holidays", "fires on the next working day", "invoices", "group night shift"] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    let text = stdout(&run(&server, &["trigger", "show", "nightly"]));
    assert!(text.contains("nightly") && !text.contains("working day"), "{text}");
}

#[test]
fn triggers_fires_and_histories_are_shown() {
    let page = |items: Value| vec![Answer::json(200, &json!({"items": items, "next_cursor": null}))];
    let fires = json!({"items": [{"at": "2027-03-28T01:00:00.000Z", "local": "2027-03-28T03:00:00", "offset": "+02:00",
        "note": "missing_hour"}]});
    let row = json!({"instant": "2026-11-23T05:30:00.000Z", "decided_at": "2026-11-23T05:30:00.004Z",
        "decision": "skipped", "reason": "1 jobs of it have not finished", "job_ids": [], "count": 1});
    let done = json!({"fired": 2, "fired_before": 1, "items": []});
    let server = Server::scripted(vec![
        ("GET /api/v1/triggers", page(json!([trigger()]))),
        ("GET /api/v1/triggers/nightly", vec![Answer::json(200, &trigger())]),
        ("GET /api/v1/triggers/nightly/preview", vec![Answer::json(200, &fires)]),
        ("GET /api/v1/triggers/nightly/history", page(json!([row]))),
        ("POST /api/v1/triggers/nightly/backfill", vec![Answer::json(200, &done)]),
        ("POST /api/v1/triggers/nightly/fire", vec![Answer::json(201, &job("waiting", 0, None))]),
        ("POST /api/v1/triggers/nightly/disable", vec![Answer::json(200, &trigger())]),
    ]);
    let shown = |arguments: &[&str]| {
        let output = run(&server, &[&["trigger"], arguments].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    assert!(shown(&["list"]).contains("At 06:30, on Monday. (Europe/Berlin)"));
    let text = shown(&["show", "nightly"]);
    // Names that cannot be had leave the ids.
    assert!(text.contains("22:00 to 06:00 (Europe/Berlin)") && text.contains(&format!("group {ID}")), "{text}");
    assert!(shown(&["preview", "nightly", "--count", "1"]).contains("the clock leaps over its time"));
    assert!(shown(&["history", "nightly", "--decision", "skipped"]).contains("have not finished"));
    let back_filled = shown(&["backfill", "nightly", "--from", "2026-11-23T05:00:00Z", "--to", "2026-11-23T06:00:00Z"]);
    assert!(back_filled.contains("2 instants have fired now; 1 had fired before."));
    assert_eq!(shown(&["fire", "nightly"]), format!("{JOB}\n"));
    assert!(shown(&["disable", "nightly"]).contains("fires no more"));
    let sent: Vec<String> = server.seen().iter().map(|seen| seen.uri.clone()).collect();
    assert!(sent.contains(&"/api/v1/triggers/nightly/preview?count=1".to_owned()), "{sent:?}");
    assert!(sent.contains(&"/api/v1/triggers/nightly/history?decision=skipped&limit=50".to_owned()), "{sent:?}");
    let body = json!({"from": "2026-11-23T05:00:00.000Z", "to": "2026-11-23T06:00:00.000Z"});
    assert!(server.seen().iter().any(|seen| seen.method == "POST" && !seen.body.is_empty() && seen.json() == body));
}

#[test]
fn a_trigger_for_the_tasks_of_a_queue_is_made() {
    let mut made = trigger();
    made["kind"] = json!("queue");
    made.as_object_mut().expect("an object").remove("schedule");
    made["queue"] = json!({"queue": ID, "tags": ["red", "-late"], "threshold": 1, "tasks_per_job": 20, "min_jobs": 0,
        "max_jobs": 5, "end_when_empty": true});
    let server = Server::scripted(vec![("POST /api/v1/triggers", vec![Answer::json(201, &made)])]);
    let arguments = [
        "trigger",
        "create",
        "nightly",
        "--process",
        "invoices",
        "--for-queue",
        "inbox",
        "--tag",
        "red",
        "--tag",
        "-late",
        "--tasks-per-job",
        "20",
        "--max-jobs",
        "5",
        "--end-when-empty",
    ];
    let output = run(&server, &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains(&format!("starts up to 5 jobs for tasks with red -late of {ID}, 20 each")));
    let expected = json!({"queue": "inbox", "tags": ["red", "-late"], "tasks_per_job": 20, "max_jobs": 5,
        "end_when_empty": true});
    let sent = server.seen()[0].json();
    assert_eq!((&sent["kind"], &sent["queue"]), (&json!("queue"), &expected));
}

/// Address and secret are shown when they are made, and never again.
#[test]
fn a_webhook_is_made_and_its_secret_changed() {
    let mut made = trigger();
    made["kind"] = json!("webhook");
    made.as_object_mut().expect("an object").remove("schedule");
    made["webhook"] = json!({"auth": "bearer", "mode": "sync"});
    let url = "http://127.0.0.1:7070/api/v1/hooks/abc";
    made["url"] = json!(url);
    let shown = made.clone();
    made["secret"] = json!("whsec_one");
    let rotated = json!({"url": url, "secret": "whsec_two", "old_secret_until": "2026-11-23T05:30:00.000Z"});
    let server = Server::scripted(vec![
        ("POST /api/v1/triggers", vec![Answer::json(201, &made)]),
        ("GET /api/v1/triggers/nightly", vec![Answer::json(200, &shown)]),
        ("POST /api/v1/triggers/nightly/rotate-secret", vec![Answer::json(200, &rotated)]),
    ]);
    let said = |arguments: &[&str]| {
        let output = run(&server, &[&["trigger"], arguments].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let text = said(&["create", "nightly", "--process", "p", "--webhook", "bearer", "--answer", "sync"]);
    assert!(text.contains(url) && text.contains("whsec_one"), "{text}");
    let text = said(&["show", "nightly"]);
    assert!(text.contains(url) && text.contains("fires when it is called") && !text.contains("whsec"), "{text}");
    let text = said(&["rotate-secret", "nightly", "--grace", "24h"]);
    assert!(text.contains("whsec_two") && text.contains("The old secret is good until"), "{text}");
    let seen = server.seen();
    assert_eq!(seen[0].json()["webhook"], json!({"auth": "bearer", "mode": "sync"}));
    assert_eq!(seen.last().expect("a call").json(), json!({"grace_seconds": 86400}));
}

/// Each kind is told by its own words, and its settings are sent as the API names them.
#[test]
fn triggers_by_event_and_by_mail_are_made() {
    let with = |kind: &str, settings: Value| {
        let mut made = trigger();
        made.as_object_mut().expect("an object").remove("schedule");
        made["kind"] = json!(kind);
        made[kind] = settings;
        made
    };
    let event = json!({"on": "job_finished", "process": ID, "outcome": "failed", "own_jobs": false});
    let mail = json!({"protocol": "imap", "server": "imap.example.com", "security": "tls", "credential": ID,
        "existing": false, "unread_only": true, "mark_as_read": false, "subject_contains": [], "body_contains": [],
        "attachment_names": ["*.pdf"], "jobs": "per_look", "threshold": 3, "interval_seconds": 300});
    let answers = vec![Answer::json(201, &with("event", event)), Answer::json(201, &with("mail", mail))];
    let server = Server::scripted(vec![("POST /api/v1/triggers", answers)]);
    let said = |arguments: &[&str]| {
        let output = run(&server, &[&["trigger", "create", "n", "--process", "clean"], arguments].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let text = said(&["--when", "job_finished", "--of-process", "work", "--outcome", "failed"]);
    assert!(text.contains("fires when a job has finished"), "{text}");
    let arguments = [
        "--mail-server",
        "imap.example.com",
        "--mail-credential",
        "box",
        "--unread-only",
        "--attachment",
        "*.pdf",
        "--mail-jobs",
        "per_look",
        "--threshold",
        "3",
        "--mail-interval",
        "5m",
    ];
    let text = said(&arguments);
    assert!(text.contains("fires for new mails in the mailbox at imap.example.com"), "{text}");
    let seen = server.seen();
    let sent = |number: usize, kind: &str| seen[number].json()[kind].clone();
    assert_eq!(sent(0, "event"), json!({"on": "job_finished", "process": "work", "outcome": "failed"}));
    let expected = json!({"server": "imap.example.com", "credential": "box", "unread_only": true,
        "attachment_names": ["*.pdf"], "jobs": "per_look", "threshold": 3, "interval_seconds": 300});
    assert_eq!((sent(1, "kind"), sent(1, "mail"), sent(1, "queue")), (json!("mail"), expected, Value::Null));
}
