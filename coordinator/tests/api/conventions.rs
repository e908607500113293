//! What goes for every call: bodies, errors, limits, pages, repetition, conditions, compression, names in addresses.

use bytes::Bytes;
use drover_coordinator::app::{Limits, Rules};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    permissions::{Things, described_operations},
    support::{Answer, Call, World, each, package, packed, rules, text},
};

/// A field that does not exist is refused by name, with the one that was probably meant.
#[tokio::test]
async fn unknown_fields_are_named_with_the_nearest_one() {
    let world = World::new().await;
    let problem = world.post("/processes", json!({ "name": "p", "descriptoin": "x" })).await.invalid(&["/descriptoin"]);
    assert!(text(&problem, "/errors/0/detail").contains("did you mean description"), "{problem}");
    let nested = json!({ "process": "p", "target": { "grop": "all" } });
    let problem = world.post("/jobs", nested).await.invalid(&["/target/grop"]);
    assert!(text(&problem, "/errors/0/detail").contains("did you mean group"), "{problem}");
    let problem = world.get("/jobs?stat=waiting").await.invalid(&["stat"]);
    assert!(text(&problem, "/errors/0/detail").contains("did you mean state"), "{problem}");
    world.post("/processes", json!({ "name": "p" })).await.created();
    let patch = json!({ "defaults": { "retry": { "dely_seconds": 1 } } });
    let problem = world.patch("/processes/p", patch).await.invalid(&["/defaults/retry/dely_seconds"]);
    assert!(text(&problem, "/errors/0/detail").contains("did you mean delay_seconds"), "{problem}");
}

#[tokio::test]
async fn what_is_not_json_is_400_and_what_does_not_fit_is_422() {
    let world = World::new().await;
    let send = async |body: &[u8]| {
        let call = world.call(Method::POST, "/processes").header("content-type", "application/json");
        call.body(body.to_vec()).send().await
    };
    let deep = format!("{{\"name\":{}1{}}}", "[".repeat(5_000), "]".repeat(5_000));
    let broken: [&[u8]; 8] = [
        b"",
        b"{",
        b"{\"name\": \"a\"} x",
        b"{\"name\": \"\xff\xfe\"}",
        b"{\"name\": \"a\nb\"}",
        b"{\"name\": \"\\ud800\"}",
        b"{\"name\": 1e999}",
        b"nonsense",
    ];
    for body in broken {
        send(body).await.expect(400).refused("bad_request");
    }
    let answer = send(deep.as_bytes()).await;
    assert!(answer.status == 400 || answer.status == 422, "{answer:?}");
    for body in [&b"[]"[..], b"[\"a\", \"the members in their order\"]", b"7", b"null", b"\"text\""] {
        send(body).await.expect(422).refused("invalid");
    }
    send(b"{\"name\": 7}").await.invalid(&["/name"]);
    send(b"{}").await.invalid(&["/name"]);
    send(b"{\"name\": \"a\", \"name\": \"b\"}").await.expect(422);
    send(b"{\"name\": \"nul \\u0000\"}").await.invalid(&["/name"]);
    let huge = json!({ "name": "x".repeat(1024 * 1024) }).to_string();
    send(huge.as_bytes()).await.invalid(&["/name"]);
    // Everything that is wrong is said at once.
    let body = json!({ "process": "p", "target": { "group": "all" }, "priority": 9, "count": 0, "timeout_seconds": 0 });
    world.post("/jobs", body).await.invalid(&["/priority", "/count", "/timeout_seconds"]);
}

#[tokio::test]
async fn media_types_sizes_and_methods() {
    let world = World::new().await;
    for given in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let call = world.call(Method::POST, "/processes").header("content-type", given).body("{\"name\":\"p\"}");
        let problem = call.send().await.expect(415).refused("unsupported_media_type");
        assert!(text(&problem, "/detail").contains("application/json"));
    }
    let call = world.call(Method::POST, "/processes").header("content-type", "Application/JSON; charset=utf-8");
    call.body("{\"name\":\"p\"}").send().await.created();
    let call = world.call(Method::PATCH, "/processes/p").header("content-type", "application/merge-patch+json");
    call.body("{\"description\":\"d\"}").send().await.ok();
    let body = json!({ "name": "x", "description": "y".repeat(3 * 1024 * 1024) });
    let problem = world.post("/processes", body).await.expect(413).refused("too_large");
    assert!(text(&problem, "/detail").contains("2097152") && text(&problem, "/detail").contains("file"), "{problem}");
    let answer = world.call(Method::PUT, "/processes").send().await.expect(405);
    let allowed = answer.header("allow").unwrap();
    assert!(allowed.contains("GET") && allowed.contains("POST"), "{allowed}");
    answer.refused("method_not_allowed");
    let call = world.call(Method::GET, "/jobs/0192f6c4-7a10-7cc3-98c4-dc0c0c07398f/logs");
    call.header("accept", "image/png").send().await.expect(404);
    for odd in ["/nothing", "/jobs/1/2/3/4", "//nothing", "//api/v2/jobs", "//docs/nothing.js"] {
        world.get(odd).await.expect(404).refused("not_found");
    }
}

#[tokio::test]
async fn pages_hold_what_is_asked_and_end() {
    let world = World::new().await;
    for number in 0..7 {
        world.post("/processes", json!({ "name": format!("p{number}") })).await.created();
    }
    for bad in ["0", "1001", "-1", "x", "99999999999999999999"] {
        world.get(&format!("/processes?limit={bad}")).await.invalid(&["limit"]);
    }
    let (mut names, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = world.get(&format!("/processes?limit=2{cursor}")).await.ok();
        names.extend(each(&page, "name"));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
        // What is added meanwhile does not move the pages that follow.
        world.post("/processes", json!({ "name": format!("new {}", names.len()) })).await.created();
    }
    let expected: Vec<Value> = (0..7).rev().map(|number| json!(format!("p{number}"))).collect();
    assert_eq!(names, expected);
    assert_eq!(world.get("/processes?limit=10").await.ok()["next_cursor"], Value::Null);
    world.get("/processes?count=true").await.ok();
}

/// A cursor that no list has given is refused, and one of another list leads nowhere else.
#[tokio::test]
async fn cursors_are_checked() {
    let world = World::new().await;
    for name in ["a", "b", "c"] {
        world.post("/processes", json!({ "name": name })).await.created();
        world.post("/robot-groups", json!({ "name": name })).await.created();
    }
    for bad in ["!", "%00", "abc", "AAAA", "a=b", &"A".repeat(4_000), ""] {
        world.get(&format!("/processes?cursor={bad}")).await.expect(400).refused("bad_request");
    }
    let page = world.get("/processes?limit=1").await.ok();
    let cursor = text(&page, "/next_cursor");
    world.get(&format!("/robot-groups?cursor={cursor}")).await.expect(400);
    world.get(&format!("/processes?cursor={cursor}x")).await.expect(400);
    assert_eq!(each(&world.get(&format!("/processes?cursor={cursor}")).await.ok(), "name"), ["b", "a"]);
}

async fn repeated(world: &World, key: &str, path: &str, body: &Value) -> Answer {
    world.call(Method::POST, path).header("idempotency-key", key).json(body).send().await
}

/// A repetition gives the first answer, whatever has happened since, and does nothing.
#[tokio::test]
async fn a_repeated_call_gives_the_first_answer() {
    let world = World::new().await;
    let process = world.process("p").await;
    let later = world.now().plus_seconds(60).to_string();
    let body = json!({ "process": "p", "target": { "group": "all" }, "stop_after": later });
    let first = repeated(&world, "k1", "/jobs", &body).await.expect(201);
    assert_eq!(first.header("idempotency-replayed"), None);
    world.move_clock(3600);
    world.patch(&format!("/processes/{process}"), json!({ "name": "renamed" })).await.ok();
    let second = repeated(&world, "k1", "/jobs", &body).await.expect(201);
    assert_eq!(second.header("idempotency-replayed"), Some("true"));
    assert_eq!((&first.body, first.header("location")), (&second.body, second.header("location")));
    assert_eq!(each(&world.get("/jobs").await.ok(), "id").len(), 1);
    let other = json!({ "process": "p", "target": { "group": "all" } });
    repeated(&world, "k1", "/jobs", &other).await.expect(422).refused("idempotency_key_reused");
    repeated(&world, "k1", "/robots", &json!({ "name": "r" })).await.expect(422).refused("idempotency_key_reused");
    for bad in [" ", &"x".repeat(256)] {
        repeated(&world, bad, "/robots", &json!({ "name": "r" })).await.expect(400);
    }
}

/// Answers that hold a secret are repeated as well, and lie sealed in the store meanwhile.
#[tokio::test]
async fn secrets_are_repeated_to_their_own_key_only() {
    let world = World::new().await;
    let other = world.key_with(&["join_token:create"]).await;
    let first = repeated(&world, "k", "/join-tokens", &json!({})).await.created();
    assert_eq!(repeated(&world, "k", "/join-tokens", &json!({})).await.created(), first);
    assert_eq!(world.mentions(text(&first, "/token").as_bytes()), 0);
    let call = world.call(Method::POST, "/join-tokens").key(&other).header("idempotency-key", "k").json(&json!({}));
    assert_ne!(call.send().await.created()["id"], first["id"]);
}

/// A day later the key is free again, and retention has left nothing of the answer.
#[tokio::test]
async fn idempotency_keys_are_forgotten_after_a_day() {
    let world = World::new().await;
    let before = world.pairs().len();
    let first = repeated(&world, "k", "/robots", &json!({ "name": "a" })).await.created();
    world.move_clock(86_399);
    assert_eq!(repeated(&world, "k", "/robots", &json!({ "name": "a" })).await.created(), first);
    world.move_clock(1);
    repeated(&world, "k", "/robots", &json!({ "name": "b" })).await.created();
    world.check();
    world.move_clock(86_400);
    world.retain(0, 0).await;
    let kept: Vec<_> =
        world.pairs().into_iter().filter(|(key, _)| key.starts_with(b"id") || key.starts_with(b"ix")).collect();
    assert!(kept.is_empty(), "{kept:?}");
    assert!(world.pairs().len() > before);
}

/// Many repetitions at once make one thing.
#[tokio::test]
async fn concurrent_repetitions_make_one_thing() {
    let world = World::new().await;
    let body = json!({ "name": "r" });
    let calls = (0..20).map(|_| repeated(&world, "k", "/robots", &body));
    let answers = futures::future::join_all(calls).await;
    let mut bodies: Vec<Bytes> = answers.into_iter().map(|answer| answer.expect(201).body).collect();
    bodies.dedup();
    assert_eq!(bodies.len(), 1);
}

#[tokio::test]
async fn conditions_are_held_against_revisions() {
    let world = World::new().await;
    let made = world.post("/processes", json!({ "name": "p" })).await.created();
    let revision = made["revision"].as_u64().unwrap();
    let patch = async |tag: &str| {
        let call = world.call(Method::PATCH, "/processes/p").header("if-match", tag);
        call.json(&json!({ "description": tag })).send().await
    };
    patch("\"99\"").await.expect(412).refused("precondition_failed");
    // Another system's tags, and weak ones, are tags of nothing that is there.
    for foreign in ["\"33a64df551425fcc55e4d42a148795d9f25f89d4\"", "\"\"", "\"-1\"", "\"99999999999999999999\""] {
        patch(foreign).await.expect(412).refused("precondition_failed");
    }
    patch(&format!("W/\"{revision}\"")).await.expect(412);
    for no_tag in ["3", "\"1\", \"2\"", "\"1", "W/", "", " "] {
        patch(no_tag).await.expect(400).refused("bad_request");
    }
    patch(&format!("\"{revision}\"")).await.ok();
    patch(&format!("\"{revision}\"")).await.expect(412);
    patch("*").await.ok();
    let now = world.get("/processes/p").await.expect(200);
    let tag = now.header("etag").unwrap().to_owned();
    assert_eq!(tag, format!("\"{}\"", now.json()["revision"]));
    let known = async |tag: &str| world.call(Method::GET, "/processes/p").header("if-none-match", tag).send().await;
    let same = known(&format!("\"x\", W/{tag}")).await.expect(304);
    assert!(same.body.is_empty() && same.header("etag") == Some(&tag));
    known("\"1\"").await.ok();
    let call = world.call(Method::DELETE, "/processes/p").header("if-match", "\"1\"");
    call.send().await.expect(412);
    world.call(Method::DELETE, "/processes/p").header("if-match", &tag).send().await.done();
    // A job has a revision as well.
    let process = world.process("q").await;
    let job = world.start(&process).await;
    world.post(&format!("/jobs/{job}/stop"), json!({ "mode": "stop" })).await.ok();
    let call = world.call(Method::DELETE, &format!("/jobs/{job}")).header("if-match", "\"1\"");
    call.send().await.expect(412);
    let tag = world.get(&format!("/jobs/{job}")).await.expect(200).header("etag").unwrap().to_owned();
    world.call(Method::DELETE, &format!("/jobs/{job}")).header("if-match", &tag).send().await.done();
}

/// Whatever refuses a field names it by a JSON pointer, in a patch as in a body, and a parameter by its name.
#[tokio::test]
async fn fields_in_lists_are_named_by_their_place() {
    let world = World::new().await;
    world.process("p").await;
    world.queue("q", json!({})).await;
    let calendar = json!({ "name": "c", "kind": "calendar", "value": { "rest_days": ["monday"] } });
    world.post("/resources", calendar).await.created();
    let trigger = json!({ "name": "t", "process": "p", "target": { "group": "all" }, "kind": "queue", "enabled": false,
        "queue": { "queue": "q", "tags": ["a"] } });
    world.post("/triggers", trigger).await.created();
    let days = json!({ "value": { "rest_days": ["sunday", "someday"] } });
    let put = world.call(Method::PUT, "/resources/c/value").json(&days);
    put.send().await.invalid(&["/value/rest_days/1"]);
    let on = json!({ "retry": { "on": ["failed", "sometimes"] } });
    world.patch("/processes/p", json!({ "defaults": on })).await.invalid(&["/defaults/retry/on/1"]);
    world.post("/processes", json!({ "name": "p2", "defaults": on })).await.invalid(&["/defaults/retry/on/1"]);
    world.patch("/triggers/t", json!({ "queue": { "tags": ["a", 5] } })).await.invalid(&["/queue/tags/1"]);
    let odd = json!({ "defaults": { "a.b/c~d": 1 } });
    world.patch("/processes/p", odd).await.invalid(&["/defaults/a.b~1c~0d"]);
    world.get("/tasks?state=new&state=never").await.invalid(&["state"]);
}

/// A tag stands for the whole answer: what changes it changes the tag, and what changes while the revision stays has none.
#[tokio::test]
async fn a_tag_stands_for_the_whole_answer() {
    let world = World::new().await;
    world.queue("q", json!({})).await;
    let id = world.add("q", json!({})).await;
    let (path, file) = (format!("/tasks/{id}"), format!("/tasks/{id}/files/a.txt"));
    let read = async |path: &str, tag: &str| world.call(Method::GET, path).header("if-none-match", tag).send().await;
    let tag_of = |answer: &Answer| answer.header("etag").map(str::to_owned);
    let mut tag = tag_of(&world.get(&path).await).unwrap();
    for (content, sizes) in [(Some("one"), json!([3])), (Some("other"), json!([5])), (None, json!([]))] {
        match content {
            Some(content) => drop(world.call(Method::PUT, &file).body(content).send().await),
            None => world.delete(&file).await.done(),
        }
        let now = read(&path, &tag).await.expect(200);
        assert_eq!(json!(each(&json!({ "items": now.json()["files"] }), "size_bytes")), sizes);
        tag = tag_of(&now).unwrap();
        read(&path, &tag).await.expect(304);
    }
    // Whoever holds the task goes on with its attempt, and changes what it has seen.
    world.take_one("q").await;
    world.call(Method::PUT, &file).body("x").send().await.created();
    tag = tag_of(&world.get(&path).await).unwrap();
    let named = world.call(Method::PATCH, &path).header("if-match", &tag).json(&json!({ "name": "n" }));
    named.send().await.ok();
    world.on_task(&id, "checkpoint", json!({ "attempt": 1, "checkpoint": 1 })).await.ok();
    world.on_task(&id, "succeed", json!({ "attempt": 1 })).await.ok();

    let until = world.now().plus_seconds(60);
    world.post("/queues/q/pause", json!({ "reason": "x", "until": until })).await.ok();
    let paused = world.get("/queues/q").await;
    assert_eq!(tag_of(&paused), None);
    world.pass_time(60).await;
    let over = read("/queues/q", &format!("\"{}\"", paused.ok()["revision"])).await.ok();
    assert_eq!(over["paused"], Value::Null);

    world.post("/robots", json!({ "name": "r" })).await.created();
    world.post("/resources", json!({ "name": "s", "kind": "text", "value": "v" })).await.created();
    let of_robot = world.call(Method::PUT, "/resources/s/overrides/robot/r").json(&json!({ "value": "w" }));
    of_robot.send().await.ok();
    let overridden = world.get("/resources/s").await;
    assert_eq!(tag_of(&overridden), None);
    world.delete("/robots/r").await.done();
    let without = read("/resources/s", &format!("\"{}\"", overridden.ok()["revision"])).await.ok();
    assert_eq!(without["overrides"], json!([]));
}

/// What lies behind a name is found under it, percent-encoded, whatever script and signs it has.
#[tokio::test]
async fn names_in_any_script_are_found() {
    let world = World::new().await;
    for name in ["Счета за ночь", "a & b + c % d ? e # f / g", "请求", "\"quoted\" \\ <b>", "..", "a%2Fb", "active"]
    {
        let made = world.post("/processes", json!({ "name": name })).await.created();
        let encoded: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
        assert_eq!(world.get(&format!("/processes/{encoded}")).await.ok()["id"], made["id"], "{name}");
        let problem = world.post("/processes", json!({ "name": name })).await.expect(409).refused("already_exists");
        assert_eq!(problem["id"], made["id"]);
    }
    world.get("/processes/%FF").await.expect(400);
    world.get("/processes/%00").await.expect(404);
}

/// An id of another kind is nobody's id here, and nonsense is nothing.
#[tokio::test]
async fn ids_of_the_wrong_kind_are_not_found() {
    let world = World::new().await;
    let process = world.process("p").await;
    for path in ["/jobs", "/robots", "/robot-groups", "/processes/p/versions"] {
        world.get(&format!("{path}/{process}")).await.expect(404);
    }
    for odd in ["x", "0", "0192f6c47a107cc398c4dc0c0c07398f", "%7B0192f6c4-7a10-7cc3-98c4-dc0c0c07398f%7D"] {
        world.get(&format!("/jobs/{odd}")).await.expect(404);
    }
}

/// Long answers are compressed as the caller likes, and bodies are taken compressed; what cannot be read is said so.
#[tokio::test]
async fn compression_works_both_ways() {
    let world = World::new().await;
    let plain = world.get("/account/me").await;
    assert_eq!(plain.header("vary"), Some("accept-encoding"), "another caller may get it in another form");
    let plain = plain.body;
    for coding in ["gzip", "zstd", "br"] {
        let answer = world.call(Method::GET, "/account/me").header("accept-encoding", coding).send().await.expect(200);
        assert_eq!(answer.header("content-encoding"), Some(coding));
        assert_eq!(answer.header("vary"), Some("accept-encoding"));
        assert!(answer.body.len() < plain.len());
        if coding == "zstd" {
            assert_eq!(zstd::decode_all(&answer.body[..]).unwrap(), plain);
        }
    }
    // Whoever accepts none at all is answered plainly: what was asked has been done.
    for none in ["*;q=0", "identity;q=0"] {
        let call = world.call(Method::POST, "/queues").header("accept-encoding", none);
        let made = call.json(&json!({ "name": format!("for {}", &none[..1]) })).send().await;
        assert_eq!((made.status.as_u16(), made.header("content-encoding")), (201, None));
        let gone = world.call(Method::GET, "/queues/nope").header("accept-encoding", none).send().await;
        gone.refused("not_found");
    }
    let body = json!({ "name": "packed", "description": "d".repeat(500) }).to_string().into_bytes();
    for (number, coding) in ["zstd", "gzip", "br"].into_iter().enumerate() {
        let packed = packed(coding, body.clone()).await;
        let call = world.call(Method::POST, "/processes").header("content-encoding", coding);
        call.header("content-type", "application/json").body(packed.clone()).send().await.created();
        world.patch("/processes/packed", json!({ "name": format!("packed {number}") })).await.ok();
        let call = world.call(Method::POST, "/processes").header("content-encoding", coding);
        let cut = packed[..packed.len() - 12].to_vec();
        call.header("content-type", "application/json").body(cut).send().await.expect(400);
    }
    let call = world.call(Method::POST, "/processes").header("content-encoding", "compress");
    let answer = call.json(&json!({ "name": "x" })).send().await.expect(415);
    assert!(text(&answer.refused("unsupported_media_type"), "/detail").contains("gzip"));
}

/// What was packed piece by piece is one body; what follows the last piece and is none is not overlooked.
#[tokio::test]
async fn every_packed_piece_counts() {
    let world = World::new().await;
    world.post("/storages", json!({ "name": "f" })).await.created();
    let put = async |coding: &str, body: Vec<u8>| {
        let call = world.call(Method::PUT, "/storages/f/files/a").header("content-type", "text/plain");
        call.header("content-encoding", coding).body(body).send().await
    };
    for coding in ["gzip", "x-gzip", "GZIP", "zstd"] {
        let piece = async |text: &'static str| packed(if coding == "zstd" { "zstd" } else { "gzip" }, text).await;
        let both = [piece("one, ").await, piece("two").await].concat();
        put(coding, both.clone()).await;
        assert_eq!(world.get("/storages/f/files/a").await.text(), "one, two", "{coding}");
        put(coding, [&both[..], b"+more"].concat()).await.expect(400);
    }
    assert_eq!(world.get("/storages/f/files/a").await.text(), "one, two");
    // A digest is of the bytes as they are sent; one that cannot be checked is not passed over.
    let call = world.call(Method::PUT, "/storages/f/files/a").header("content-encoding", "gzip");
    let call = call.header("content-digest", "sha-256=:AAEC:").body(packed("gzip", "x").await);
    call.send().await.invalid(&["Content-Digest"]);
    // As it is sent it can be checked.
    let call = world.call(Method::PUT, "/storages/f/files/a").header("content-encoding", "identity");
    call.header("content-digest", "sha-256=:AAEC:").body("x").send().await.invalid(&["Content-Digest"]);
    let call = world.call(Method::PUT, "/storages/f/files/a").header("content-encoding", "identity");
    let digest = "sha-256=:LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IaSIE=:";
    call.header("content-digest", digest).body("x").send().await.expect(200);
}

/// At no depth are the items of an array taken for the fields of an object: a filter by tags would be one by reference, and
/// an empty one everything.
#[tokio::test]
async fn an_array_is_no_object() {
    let world = World::new().await;
    world.queue("q", json!({})).await;
    world.process("p").await;
    for (path, body, pointer) in [
        ("/queues/q/take", json!({ "filter": ["urgent"] }), "/filter"),
        ("/tasks/bulk-action", json!({ "filter": [], "action": "delete", "dry_run": true }), "/filter"),
        ("/jobs", json!({ "process": "p", "target": [null, "all"] }), "/target"),
        ("/queues", json!({ "name": "x", "retry": [] }), "/retry"),
        ("/processes", json!({ "name": "x", "defaults": [1] }), "/defaults"),
        ("/queues", json!([]), ""),
    ] {
        let problem = world.post(path, body).await.invalid(&[pointer]);
        assert!(text(&problem, "/errors/0/detail").contains("expected an object"), "{path}: {problem}");
    }
    let line = world.call(Method::POST, "/queues/q/tasks/bulk").header("content-type", "application/x-ndjson");
    let answer = line.body("[\"reference\"]\n").send().await.text();
    assert!(answer.contains("expected an object"), "{answer}");
}

/// All that is wrong in a body is told at once, also where it does not even have the right type or is not known.
#[tokio::test]
async fn faults_come_together() {
    let world = World::new().await;
    let body = json!({ "name": 5, "lease_seconds": "x", "retry": { "dely": 1, "on": 7 }, "foo": 1, "bar": [] });
    let problem = world.post("/queues", body).await.refused("invalid");
    let mut found: Vec<&str> =
        problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, ["/bar", "/foo", "/lease_seconds", "/name", "/retry/dely", "/retry/on"], "{problem}");
    // What was taken out to go on is not told to be missing.
    world.post("/jobs", json!({ "process": 7 })).await.invalid(&["/process"]);
}

/// Where no body is taken, one that says something is refused instead of being overlooked.
#[tokio::test]
async fn a_body_where_none_is_taken_is_refused() {
    let world = World::new().await;
    world.post("/robots", json!({ "name": "r" })).await.created();
    let send = async |body: &str| world.call(Method::POST, "/robots/r/disable").body(body).send().await;
    for nothing in ["", "{}", " {\n} "] {
        send(nothing).await.ok();
    }
    for something in ["{\"reason\": \"updates\"}", "[]", "null", "x", &"x".repeat(5_000)] {
        let problem = send(something).await.invalid(&[""]);
        assert!(text(&problem, "/errors/0/detail").contains("takes no body"), "{problem}");
    }
}

/// `HEAD` answers as `GET` without the content; nothing is open to other origins.
#[tokio::test]
async fn heads_and_origins() {
    let world = World::new().await;
    world.call(Method::HEAD, "/account").send().await.expect(200);
    let call = world.call(Method::GET, "/account").header("origin", "https://elsewhere.example");
    assert_eq!(call.send().await.header("access-control-allow-origin"), None);
    let answer = world.get("/account").await;
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    let docs = Call::new(world.router.clone(), Method::GET, "//docs/").open().await;
    assert_eq!(docs.status(), StatusCode::OK);
    let document = Call::new(world.router.clone(), Method::GET, "/openapi.json").send().await.ok();
    assert_eq!(text(&document, "/openapi")[..3], *"3.1");
}

/// A key that sends too much is told how long to wait, for itself alone; what agents report is served in any case.
#[tokio::test]
async fn a_key_that_sends_too_much_has_to_wait() {
    let limits = Limits { requests_per_second: 1, ..rules().limits };
    let world = World::with_rules(Rules { limits, ..rules() }).await;
    let agent = world.agent("r").await;
    let mut refused = None;
    for _ in 0..10 {
        let answer = world.get("/account/me").await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("ten requests at once are too many");
    assert_eq!(refused.headers["retry-after"], "1");
    refused.refused("too_many_requests");
    for _ in 0..20 {
        agent.beat(&[]).await;
    }
}
/// What a call does not know in its query is refused by name, also where it knows nothing at all.
#[tokio::test]
async fn unknown_parameters_are_refused_everywhere() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    let (things, _) = Things::make(&world, &agent).await;
    // These are called from outside, each in its own way, and what comes along is not ours to judge.
    let open = |operation: &Value| operation["security"] == json!([{}]);
    let mut asked = 0;
    for (method, path, operation) in described_operations() {
        let Some(below) = path.strip_prefix("/api/v1").filter(|_| !open(&operation)) else { continue };
        let key = if below.starts_with("/agent/") { &agent.key } else { &world.admin };
        let operation = format!("{method} {below}");
        let mut call = world.call(method, &format!("{}?foo=1", things.path(below))).key(key);
        call = match (things.body(&operation), operation.as_str()) {
            (Some(body), _) => call.json(&body),
            (None, "POST /queues/{queue}/tasks/bulk") => call.header("content-type", "application/x-ndjson"),
            (None, "POST /processes/{process}/versions") => call.header("content-type", "application/zip"),
            (None, _) => call,
        };
        let answer = call.send().await;
        assert_eq!(answer.status, 422, "{operation}: {}", answer.text());
        let problem = answer.json();
        assert!(
            problem["errors"].as_array().is_some_and(|errors| errors[0]["pointer"] == "foo"),
            "{operation}: {problem}"
        );
        asked += 1;
    }
    assert!(asked > 150, "{asked}");
    // What is refused has not been done.
    for empty in ["", "?", "?&"] {
        world.get(&things.path(&format!("/queues/{{queue}}{empty}"))).await.ok();
    }
    world.call(Method::GET, "//healthz?foo=1").send().await.ok();
}

/// What is documented as nullable in a patch is taken as null, and what is not is refused.
#[tokio::test]
async fn patches_take_null_where_the_document_says_so() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    let (things, _) = Things::make(&world, &agent).await;
    let document: Value = serde_json::from_str(&drover_coordinator::http::openapi::document_text().unwrap()).unwrap();
    let (mut wrong, mut asked) = (Vec::new(), 0);
    for (method, path, operation) in described_operations() {
        let Some(below) = path.strip_prefix("/api/v1").filter(|_| method == Method::PATCH) else { continue };
        let body = &operation["requestBody"]["content"]["application/json"]["schema"]["$ref"];
        let schema = document.pointer(body.as_str().unwrap().trim_start_matches('#')).unwrap();
        for (name, property) in schema["properties"].as_object().unwrap() {
            let is_null = |schema: &Value| schema["type"] == "null";
            let nullable = property["type"].as_array().is_some_and(|types| types.contains(&json!("null")))
                || ["oneOf", "anyOf"]
                    .iter()
                    .any(|all| property[all].as_array().is_some_and(|all| all.iter().any(is_null)))
                || property.get("type").is_none() && property.get("$ref").is_none() && property.get("oneOf").is_none();
            let answer = world.patch(&things.path(below), json!({ name: null })).await;
            // A rule of the product may refuse null as well, in its own words.
            let of_null = ["invalid type: null", "one of some words"];
            let refused = answer.status == 422 && of_null.iter().any(|text| answer.text().contains(text));
            if refused == nullable {
                wrong.push(format!("{below} {name} is documented as nullable: {nullable}; {}", answer.text()));
            }
            asked += 1;
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(asked > 50, "{asked}");
}

/// Where the answer to what was made says that it lies, there it is.
#[tokio::test]
async fn what_is_made_is_found_at_its_location() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    let (things, _) = Things::make(&world, &agent).await;
    let mut made = 0;
    for (method, path, operation) in described_operations() {
        let Some(below) = path.strip_prefix("/api/v1") else { continue };
        if method != Method::POST || operation["responses"].get("201").is_none() || below.starts_with("/agent/") {
            continue;
        }
        let call = world.call(method, &things.path(below));
        let call = match things.body(&format!("POST {below}")) {
            Some(body) => call.json(&body),
            None if below.ends_with("/versions") => {
                call.header("content-type", "application/zip").body(package(&[("main.sh", "true")]))
            }
            None => call,
        };
        let answer = call.send().await;
        assert_eq!(answer.status, 201, "{below}: {}", answer.text());
        let location = answer.header("location").unwrap_or_else(|| panic!("{below} has no location")).to_owned();
        let found = world.get(&format!("/{location}")).await;
        assert_eq!(found.status, 200, "{below}: {location}: {}", found.text());
        made += 1;
    }
    assert!(made > 15, "{made}");
}
