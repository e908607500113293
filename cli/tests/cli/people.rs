//! Commands about users, roles and accounts against a scripted coordinator: what they send and what they show.

use serde_json::{Value, json};

use crate::support::{Answer, Server, run, run_with_input, stderr, stdout};

const ID: &str = "0192f6c4-7a10-7cc3-98c4-dc0c0c07000d";
const AT: &str = "2026-11-22T08:00:00.000Z";

fn user() -> Value {
    json!({
        "id": ID, "login": "ann", "name": "Ann Smith", "email": null, "roles": ["operator"], "locale": "en",
        "time_zone": null, "blocked": true, "has_password": false, "external_id": null, "last_sign_in_at": null,
        "created_at": AT, "revision": 1,
    })
}

fn account() -> Value {
    json!({"id": ID, "name": "north", "runs_system": false, "disabled": false, "audit_retention_days": null,
        "created_at": AT, "revision": 1})
}

#[test]
fn users_are_made_without_a_password_on_the_command_line() {
    let mut made = user();
    made["key"] = "the key".into();
    let server = Server::scripted(vec![
        ("POST /api/v1/users", vec![Answer::json(201, &made)]),
        ("PATCH /api/v1/users/ann", vec![Answer::json(200, &user())]),
        ("GET /api/v1/users", vec![Answer::json(200, &json!({"items": [user()], "next_cursor": null}))]),
    ]);
    let output = run(&server, &["user", "create", "ann", "--role", "operator", "--role", "viewer", "--no-password"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("the key"), "{}", stdout(&output));
    assert_eq!(server.seen()[0].json(), json!({"login": "ann", "roles": ["operator", "viewer"]}));
    let output = run(&server, &["user", "update", "ann", "--email", "none", "--time-zone", "Europe/Berlin"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(server.seen()[1].json(), json!({"email": null, "time_zone": "Europe/Berlin"}));
    run(&server, &["user", "block", "ann"]);
    assert_eq!(server.seen()[2].json(), json!({"blocked": true}));
    let shown = stdout(&run(&server, &["user", "list"]));
    assert!(shown.contains("ann") && shown.contains("operator") && shown.contains("blocked"), "{shown}");
}

/// Both passwords come from one standard input, each with the blanks it has.
#[test]
fn a_password_is_changed_by_two_lines() {
    let done = Answer::bytes(204, "application/json", Vec::new());
    let server = Server::scripted(vec![("POST /api/v1/account/password", vec![done])]);
    let output = run_with_input(&server, &["user", "password"], " old \nnew password\n");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(server.seen()[0].json(), json!({"old": " old ", "new": "new password"}));
}

#[test]
fn roles_are_sent_with_their_limits() {
    let role = json!({"id": ID, "name": "payers", "description": "", "built_in": false, "permissions": ["task:*"],
        "granted": ["task:read"], "limits": {"queues": ["pay*"]}, "created_at": AT, "revision": 1});
    let server = Server::scripted(vec![
        ("POST /api/v1/roles", vec![Answer::json(201, &role)]),
        ("PATCH /api/v1/roles/payers", vec![Answer::json(200, &role)]),
        ("GET /api/v1/roles/payers", vec![Answer::json(200, &role)]),
    ]);
    let output = run(&server, &["role", "create", "payers", "-p", "task:*", "--queue", "pay*", "--queue", "x"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let expected = json!({"name": "payers", "permissions": ["task:*"], "limits": {"queues": ["pay*", "x"]}});
    assert_eq!(server.seen()[0].json(), expected);
    for (given, sent) in [
        (vec!["--no-limits"], json!(null)),
        (vec!["--queue", "pay*"], json!({"queues": ["pay*"]})),
        (vec!["--no-limit", "folder", "--group", "fin*"], json!({"folders": null, "robot_groups": ["fin*"]})),
    ] {
        run(&server, &[&["role", "update", "payers"], &given[..]].concat());
        assert_eq!(server.seen().last().expect("it was sent").json(), json!({"limits": sent}));
    }
    let shown = stdout(&run(&server, &["role", "show", "payers"]));
    assert!(shown.contains("pay*") && shown.contains("task:read"), "{shown}");
}

#[test]
fn an_account_is_deleted_only_with_everything() {
    let made = json!({"account": account(), "key": "the key"});
    let server = Server::scripted(vec![
        ("POST /api/v1/accounts", vec![Answer::json(201, &made)]),
        ("DELETE /api/v1/accounts/north", vec![Answer::bytes(204, "application/json", Vec::new())]),
    ]);
    let output = run(&server, &["account", "create", "north", "--no-password"]);
    assert!(stdout(&output).contains("the key"), "{}", stderr(&output));
    assert_eq!(server.seen()[0].json(), json!({"name": "north", "admin": {"login": "admin"}}));
    assert!(!run(&server, &["account", "delete", "north"]).status.success());
    assert_eq!(server.seen().len(), 1, "nothing was sent");
    let output = run(&server, &["account", "delete", "north", "--with-everything"]);
    assert!(output.status.success(), "{}", stderr(&output));
}

/// Users, storage folders and resources show what happened to them as other objects do; the parts of a folder's name are
/// one part of the address.
#[test]
fn what_happened_is_shown_of_users_folders_and_resources() {
    let event = json!({"id": ID, "at": AT, "code": "changed", "text": "its settings were changed", "by": "user:ann"});
    let page = json!({"items": [event], "next_cursor": null});
    for (noun, name, path) in [
        ("user", "ann", "GET /api/v1/users/ann/events"),
        ("storage", "a/b", "GET /api/v1/storages/a%2Fb/events"),
        ("resource", "days", "GET /api/v1/resources/days/events"),
    ] {
        let server = Server::scripted(vec![(path, vec![Answer::json(200, &page)])]);
        let output = run(&server, &[noun, "events", name]);
        assert!(stdout(&output).contains("its settings were changed"), "{noun}: {}", stderr(&output));
    }
}
