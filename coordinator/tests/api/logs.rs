//! Logs of jobs: chunks, pages, text, live streams; before, while and after they are sealed, and when they are too old.

use std::time::Duration;

use bytes::Bytes;
use drover_coordinator::{
    operations::retention,
    store::{Scan, blob::BlobKind, key::Kind},
};
use drover_protocol::Timestamp;
use futures::StreamExt;
use http::Method;
use serde_json::{Value, json};

use crate::support::{Agent, START, World, each, line, settle, text};

async fn running() -> (World, Agent, String) {
    let world = World::new().await;
    let agent = world.agent_with("r", json!({ "capacity": 500 })).await;
    world.process("p").await;
    world.start("p").await;
    let (job, _) = agent.run().await;
    (world, agent, job)
}

async fn read(world: &World, job: &str, query: &str) -> Value {
    world.get(&format!("/jobs/{job}/logs?{query}")).await.ok()
}

async fn whole(world: &World, job: &str) -> String {
    world.call(Method::GET, &format!("/jobs/{job}/logs")).header("accept", "text/plain").send().await.expect(200).text()
}

async fn blobs(world: &World) -> usize {
    world.app.blobs.list(BlobKind::Log).count().await
}

fn messages(page: &Value) -> Vec<String> {
    page["items"].as_array().unwrap().iter().map(|line| text(line, "/message")).collect()
}

/// Each line is kept once, however often and with whatever overlap its chunk comes; a gap is refused with what is missing.
#[tokio::test]
async fn chunks_are_taken_once_and_without_gaps() {
    let (world, agent, job) = running().await;
    assert_eq!(agent.log(&job, 1, 1, &["a", "b"]).await.ok()["next_seq"], 3);
    assert_eq!(agent.log(&job, 1, 1, &["a", "b"]).await.ok()["next_seq"], 3);
    assert_eq!(agent.log(&job, 1, 2, &["b", "c", "d"]).await.ok()["next_seq"], 5);
    assert_eq!(agent.log(&job, 1, 1, &["a"]).await.ok()["next_seq"], 5);
    let problem = agent.log(&job, 1, 7, &["x"]).await.expect(409).refused("log_gap");
    assert_eq!(problem["next_seq"], 5);
    assert_eq!(agent.log(&job, 1, 5, &[]).await.ok()["next_seq"], 5);
    agent.log(&job, 1, 0, &["x"]).await.invalid(&["/first_seq"]);
    agent.log(&job, 2, 1, &["x"]).await.expect(404);
    let page = read(&world, &job, "").await;
    assert_eq!(messages(&page), ["a", "b", "c", "d"]);
    assert_eq!(each(&page, "seq"), [1, 2, 3, 4]);
    assert_eq!((page["next_seq"].clone(), page["complete"].clone()), (json!(5), json!(false)));
}

#[tokio::test]
async fn chunks_have_limits() {
    let (world, agent, job) = running().await;
    let send = async |lines: Vec<Value>| {
        agent.post(&format!("/jobs/{job}/logs"), json!({ "attempt": 1, "first_seq": 1, "lines": lines })).await
    };
    send(vec![line("info", &"x".repeat(65_537))]).await.invalid(&["/lines/0/message"]);
    let mut fields = line("info", "x");
    fields["fields"] = json!({ "f": "x".repeat(16_384) });
    send(vec![line("info", "ok"), fields]).await.invalid(&["/lines/1/fields"]);
    send(vec![line("info", "x"); 10_001]).await.invalid(&["/lines"]);
    send(vec![line("loud", "x")]).await.invalid(&["/lines/0/level"]);
    send(vec![line("info", &"x".repeat(60_000)); 80]).await.expect(413).refused("too_large");
    assert_eq!(read(&world, &job, "").await["items"], json!([]));
    let mut odd = line("critical", "строка\nс\0 \u{1b}[31m \u{feff}");
    odd["fields"] = json!({ "deep": { "list": [1, 2.5, null, "т"] } });
    let packed =
        zstd::encode_all(json!({ "attempt": 1, "first_seq": 1, "lines": [odd] }).to_string().as_bytes(), 3).unwrap();
    let call = agent.call(Method::POST, &format!("/jobs/{job}/logs")).header("content-type", "application/json");
    call.header("content-encoding", "zstd").body(packed).send().await.ok();
    let kept = read(&world, &job, "").await["items"][0].clone();
    assert_eq!((kept["message"].clone(), kept["fields"].clone()), (odd["message"].clone(), odd["fields"].clone()));
}

/// Pages forward and backward, by level and text, meet every line once.
#[tokio::test]
async fn logs_are_read_in_pages() {
    let (world, agent, job) = running().await;
    let levels = ["trace", "debug", "info", "warning", "error", "critical"];
    for chunk in 0..5_u64 {
        let lines: Vec<Value> =
            (0..6).map(|n| line(levels[n], &format!("Line {}", chunk * 6 + n as u64 + 1))).collect();
        let chunk = json!({ "attempt": 1, "first_seq": chunk * 6 + 1, "lines": lines });
        agent.post(&format!("/jobs/{job}/logs"), chunk).await.ok();
    }
    for sealed in [false, true] {
        let (mut forward, mut next) = (Vec::new(), 1);
        while next <= 30 {
            let page = read(&world, &job, &format!("from_seq={next}&limit=7")).await;
            forward.extend(each(&page, "seq"));
            next = page["next_seq"].as_u64().unwrap();
        }
        assert_eq!(forward, (1..=30).map(Value::from).collect::<Vec<_>>());
        let (mut backward, mut from) = (Vec::new(), String::new());
        loop {
            let page = read(&world, &job, &format!("direction=backward&limit=7{from}")).await;
            backward.extend(each(&page, "seq"));
            match page["next_seq"].as_u64().unwrap() {
                0 => break,
                next => from = format!("&from_seq={next}"),
            }
        }
        assert_eq!(backward, (1..=30).rev().map(Value::from).collect::<Vec<_>>());
        let warnings = read(&world, &job, "level=warning").await;
        assert_eq!(warnings["items"].as_array().unwrap().len(), 15);
        assert_eq!(messages(&read(&world, &job, "text=LINE%2030").await), ["Line 30"]);
        assert_eq!(messages(&read(&world, &job, "level=error&text=line%202&limit=2").await), ["Line 23", "Line 24"]);
        assert_eq!(each(&read(&world, &job, "from_seq=29").await, "seq"), [29, 30]);
        assert_eq!(read(&world, &job, "from_seq=99").await["items"], json!([]));
        assert_eq!(read(&world, &job, "").await["complete"], sealed);
        if !sealed {
            agent.finish(&job, 1, json!({})).await.done();
            world.seal_logs().await;
        }
    }
    for bad in ["limit=0", "limit=1001", "level=loud", "direction=up", &format!("text={}", "x".repeat(257))] {
        let name = bad.split('=').next().unwrap();
        world.get(&format!("/jobs/{job}/logs?{bad}")).await.invalid(&[name]);
    }
    let call = world.call(Method::GET, &format!("/jobs/{job}/logs")).header("accept", "image/png");
    call.send().await.expect(406).refused("not_acceptable");
    for attempt in [0, 2, 99] {
        world.get(&format!("/jobs/{job}/logs?attempt={attempt}")).await.expect(404);
    }
}

/// What is read is the same, byte for byte, before and after sealing, as text and as pages.
#[tokio::test]
async fn sealing_changes_nothing_that_is_read() {
    let (world, agent, job) = running().await;
    let long = "ё".repeat(20_000);
    let lines: Vec<String> =
        (0..300).map(|n| if n % 50 == 0 { format!("{n} {long}") } else { format!("line {n}") }).collect();
    for (number, chunk) in lines.chunks(37).enumerate() {
        let chunk: Vec<&str> = chunk.iter().map(String::as_str).collect();
        agent.log(&job, 1, number as u64 * 37 + 1, &chunk).await.ok();
    }
    agent.finish(&job, 1, json!({})).await.done();
    let (before, page) = (whole(&world, &job).await, read(&world, &job, "limit=1000").await);
    assert_eq!(before.lines().count(), 300);
    world.seal_logs().await;
    assert_eq!(blobs(&world).await, 1);
    assert!(world.pairs().iter().all(|(key, _)| !key.starts_with(b"lc")), "chunks are left");
    assert_eq!(whole(&world, &job).await, before);
    assert_eq!(read(&world, &job, "limit=1000").await, page);
    let call = world.call(Method::GET, &format!("/jobs/{job}/logs?limit=2&from_seq=2")).header("accept", "text/plain");
    let two = call.send().await.expect(200).text();
    assert!(two.lines().count() == 2 && two.contains("line 1") && two.contains("line 2"), "{two}");
    // Lines that come after the end are sealed as well.
    agent.log(&job, 1, 301, &["after"]).await.ok();
    assert_eq!(read(&world, &job, "from_seq=300").await["items"].as_array().unwrap().len(), 2);
    world.seal_logs().await;
    assert_eq!(messages(&read(&world, &job, "from_seq=301").await), ["after"]);
}

/// A long log is sealed while its job runs and goes on being written.
#[tokio::test]
async fn a_long_log_is_sealed_while_it_grows() {
    let (world, agent, job) = running().await;
    let message = "x".repeat(60_000);
    for chunk in 0..3_u64 {
        agent.log(&job, 1, chunk * 50 + 1, &vec![message.as_str(); 50]).await.ok();
    }
    world.seal_logs().await;
    assert!(blobs(&world).await > 0);
    agent.log(&job, 1, 151, &["last"]).await.ok();
    let page = read(&world, &job, "from_seq=1&limit=1000").await;
    assert_eq!(each(&page, "seq"), (1..=151).map(Value::from).collect::<Vec<_>>());
    assert_eq!(each(&read(&world, &job, "direction=backward&limit=3").await, "seq"), [151, 150, 149]);
    agent.finish(&job, 1, json!({})).await.done();
    world.seal_logs().await;
    assert_eq!(messages(&read(&world, &job, "from_seq=151").await), ["last"]);
}

/// A job that says a little now and then makes a chunk of each line. However many they are, each is sealed once and as what
/// it is, none stays behind, and what is sealed later goes on where that ended.
#[tokio::test]
async fn very_many_small_chunks_are_sealed_whole() {
    const CHUNKS: u64 = 10_200;
    let (world, agent, job) = running().await;
    for number in 1..=CHUNKS {
        agent.log(&job, 1, number, &[&number.to_string()]).await.ok();
    }
    agent.finish(&job, 1, json!({})).await.done();
    world.seal_logs().await;
    world.post("/logs", json!({ "job": job, "level": "info", "message": "later" })).await.expect(201);
    world.seal_logs().await;
    let chunks = world.app.db.read(world.account, |reading| Scan::of(reading, Kind::LogChunk, ()).pairs(reading, 1));
    assert_eq!(chunks.unwrap(), []);
    for first in (1..=CHUNKS + 1).step_by(1000) {
        let wanted: Vec<String> = (first..first + 1000)
            .filter_map(|number| match number {
                ..=CHUNKS => Some(number.to_string()),
                _ => (number == CHUNKS + 1).then(|| "later".to_owned()),
            })
            .collect();
        assert_eq!(messages(&read(&world, &job, &format!("from_seq={first}&limit=1000")).await), wanted);
    }
}

/// The lines of many short jobs lie together in one blob, which goes with the last of them.
#[tokio::test]
async fn many_short_logs_share_a_blob() {
    let (world, agent, first) = running().await;
    let mut jobs = vec![first];
    for _ in 0..49 {
        world.start("p").await;
        jobs.push(agent.run().await.0);
    }
    for job in &jobs {
        agent.log(job, 1, 1, &[&format!("of {job}")]).await.ok();
        agent.finish(job, 1, json!({})).await.done();
    }
    world.seal_logs().await;
    assert_eq!(blobs(&world).await, 1);
    for (number, job) in jobs.iter().enumerate() {
        assert_eq!(messages(&read(&world, job, "").await), [format!("of {job}")]);
        if number > 0 {
            world.delete(&format!("/jobs/{job}")).await.done();
        }
    }
    world.collect_garbage().await;
    assert_eq!(blobs(&world).await, 1);
    assert_eq!(messages(&read(&world, &jobs[0], "").await), [format!("of {}", jobs[0])]);
    world.delete(&format!("/jobs/{}", jobs[0])).await.done();
    world.collect_garbage().await;
    assert_eq!(blobs(&world).await, 0);
}

/// Lines that retention has taken are said to be gone, forward and backward, once, and cost nothing to pass over.
#[tokio::test]
async fn retention_says_what_it_took() {
    let (world, agent, job) = running().await;
    let many: Vec<String> = (1..=9_000).map(|n| format!("line {n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    agent.log(&job, 1, 1, &many).await.ok();
    agent.finish(&job, 1, json!({})).await.done();
    world.seal_logs().await;
    world.move_clock(40 * 86_400);
    let chunk = json!({ "attempt": 1, "first_seq": 9_001,
        "lines": [{ "time": world.now().to_string(), "level": "info", "message": "new" }] });
    agent.post(&format!("/jobs/{job}/logs"), chunk).await.ok();
    world.seal_logs().await;
    world.retain(0, 30).await;
    world.collect_garbage().await;
    assert_eq!(blobs(&world).await, 1);
    let gone = "9000 lines of this log were deleted by retention";
    assert_eq!(messages(&read(&world, &job, "").await), [gone, "new"]);
    assert_eq!(messages(&read(&world, &job, "from_seq=4000").await), [gone, "new"]);
    assert_eq!(messages(&read(&world, &job, "direction=backward").await), ["new", gone]);
    assert_eq!(messages(&read(&world, &job, "direction=backward&from_seq=4000").await), [gone]);
    let page = read(&world, &job, "direction=backward&limit=2").await;
    assert_eq!((page["next_seq"].clone(), page["complete"].clone()), (json!(0), json!(true)));
    assert!(whole(&world, &job).await.contains(gone));
    world.delete(&format!("/jobs/{job}")).await.done();
}

/// A robot whose clock is wrong by years keeps its lines as long as all others, and no longer; dividing what lies together
/// makes nothing younger.
#[tokio::test]
async fn retention_goes_by_the_clock_of_the_coordinator() {
    let (world, agent, job) = running().await;
    let lines = |times: &[&str]| -> Vec<Value> {
        times.iter().map(|time| json!({ "time": time, "level": "info", "message": "x" })).collect()
    };
    let behind = lines(&["1970-01-01T00:00:01Z", "1970-01-01T00:00:02Z"]);
    let chunk = json!({ "attempt": 1, "first_seq": 1, "lines": behind });
    agent.post(&format!("/jobs/{job}/logs"), chunk).await.ok();
    agent.finish(&job, 1, json!({})).await.done();
    world.start("p").await;
    let (ahead, _) = agent.run().await;
    let chunk = json!({ "attempt": 1, "first_seq": 1, "lines": lines(&["2090-01-01T00:00:00Z"]) });
    agent.post(&format!("/jobs/{ahead}/logs"), chunk).await.ok();
    agent.finish(&ahead, 1, json!({})).await.done();
    world.seal_logs().await;
    world.move_clock(29 * 86_400);
    world.retain(0, 30).await;
    assert_eq!(messages(&read(&world, &job, "").await), ["x", "x"]);
    // The first line goes, the second one lies in another blob from then on.
    world.delete("/logs?before=1970-01-01T00:00:02Z").await.done();
    assert_eq!(messages(&read(&world, &job, "").await)[1], "x");
    world.move_clock(2 * 86_400);
    world.retain(0, 30).await;
    for job in [&job, &ahead] {
        let left = messages(&read(&world, job, "").await);
        assert_eq!(left.last().unwrap(), "1 lines of this log were deleted by retention", "{left:?}");
    }
    world.collect_garbage().await;
    assert_eq!(blobs(&world).await, 0);
}

/// A filter that matches late finds its line, in the text as in a stream, however many lines do not match before it.
#[tokio::test]
async fn a_rare_line_is_found_behind_many_others() {
    let (world, agent, job) = running().await;
    let many = vec!["x"; 10_000];
    for chunk in 0..11_u64 {
        agent.log(&job, 1, chunk * 10_000 + 1, &many).await.ok();
    }
    agent.log(&job, 1, 110_001, &["needle"]).await.ok();
    agent.finish(&job, 1, json!({})).await.done();
    let path = format!("/jobs/{job}/logs?text=needle&from_seq=1");
    let found = world.call(Method::GET, &path).header("accept", "text/plain").send().await.expect(200).text();
    assert!(found.contains("needle"), "{found:?}");
    let found = world.call(Method::GET, &path).header("accept", "text/event-stream").send().await.expect(200).text();
    assert!(found.contains("needle") && found.contains("event: end"), "{found:?}");
    for (limit, lines) in [(1, 1), (2, 1)] {
        let path = format!("{path}&limit={limit}");
        let found = world.call(Method::GET, &path).header("accept", "text/plain").send().await.expect(200).text();
        assert_eq!(found.lines().filter(|line| line.contains("needle")).count(), lines, "{found:?}");
    }
    let path = format!("/jobs/{job}/logs?text=x&limit=1200");
    world.call(Method::GET, &path).header("accept", "text/plain").send().await.invalid(&["limit"]);
    let path = format!("/jobs/{job}/logs?text=x&limit=700&direction=backward");
    let found = world.call(Method::GET, &path).header("accept", "text/plain").send().await.expect(200).text();
    assert_eq!(found.lines().count(), 700);
}

/// A limit is one for what is found, and not for how far is looked: one look takes no more than four thousand pieces, and
/// each small chunk is one.
#[tokio::test]
async fn a_rare_line_is_found_however_few_are_wanted() {
    let (world, agent, job) = running().await;
    for number in 1..=4_100 {
        let time = Timestamp::from_millis(START + number);
        let lines = json!([{ "time": time, "level": "info", "message": format!("line {number}") }]);
        let chunk = json!({ "attempt": 1, "first_seq": number, "lines": lines });
        agent.post(&format!("/jobs/{job}/logs"), chunk).await.ok();
    }
    let call = world.call(Method::GET, "/logs?text=line+4100&limit=1").header("accept", "application/x-ndjson");
    let found = call.send().await.expect(200).text();
    assert!(found.contains("line 4100") && found.lines().count() == 1, "{found}");
}

/// Letters that differ in their case alone are the same, those included that have two small forms.
#[tokio::test]
async fn texts_are_found_alike_in_one_log_and_in_all() {
    let (world, agent, job) = running().await;
    agent.log(&job, 1, 1, &["ΟΔΟΣΦ", "other"]).await.ok();
    let text = "%CE%9F%CE%94%CE%9F%CE%A3";
    assert_eq!(messages(&read(&world, &job, &format!("text={text}")).await), ["ΟΔΟΣΦ"]);
    assert_eq!(messages(&world.get(&format!("/logs?text={text}")).await.ok()), ["ΟΔΟΣΦ"]);
    world.get(&format!("/jobs/{job}/logs?text={}", "x".repeat(257))).await.invalid(&["text"]);
}

/// A log without lines is complete when its attempt has ended, or its job without any attempt.
#[tokio::test]
async fn an_empty_log_is_complete_in_the_end() {
    let (world, agent, job) = running().await;
    assert_eq!(read(&world, &job, "").await["complete"], false);
    agent.finish(&job, 1, json!({})).await.done();
    assert_eq!(read(&world, &job, "").await["complete"], true);
    assert_eq!(whole(&world, &job).await, "");
    let never = world.start("p").await;
    assert_eq!(read(&world, &never, "").await["complete"], false);
    world.post(&format!("/jobs/{never}/stop"), json!({ "mode": "stop" })).await.ok();
    assert_eq!(read(&world, &never, "").await["complete"], true);
    let call = world.call(Method::GET, &format!("/jobs/{never}/logs")).header("accept", "text/event-stream");
    assert!(call.send().await.expect(200).text().contains("event: end"));
}

/// Reads a live log piece by piece.
struct Live(axum::body::BodyDataStream, String);

impl Live {
    async fn open(world: &World, job: &str, last: Option<&str>) -> Self {
        let mut call = world.call(Method::GET, &format!("/jobs/{job}/logs")).header("accept", "text/event-stream");
        if let Some(last) = last {
            call = call.header("last-event-id", last);
        }
        let response = call.open().await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self(response.into_body().into_data_stream(), String::new())
    }

    /// Reads until the text is there.
    async fn until(&mut self, wanted: &str) -> &str {
        while !self.1.contains(wanted) {
            let piece: Option<Result<Bytes, _>> = tokio::time::timeout(Duration::from_secs(5), self.0.next())
                .await
                .unwrap_or_else(|_| panic!("no {wanted} in {}", self.1));
            self.1.push_str(std::str::from_utf8(&piece.expect("the stream has ended").unwrap()).unwrap());
        }
        &self.1
    }
}

/// Lines arrive as they are written, each with its number; a reader that comes again goes on after the last it saw; the
/// end is told.
#[tokio::test]
async fn a_live_log_follows_its_job() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    world.process("p").await;
    let job = world.start("p").await;
    let mut live = Live::open(&world, &job, None).await;
    settle().await;
    agent.run().await;
    agent.log(&job, 1, 1, &["one"]).await.ok();
    assert!(live.until("one").await.contains("id: 1\n"));
    agent.log(&job, 1, 2, &["two", "three"]).await.ok();
    live.until("three").await;
    let mut again = Live::open(&world, &job, Some("2")).await;
    let seen = again.until("three").await.to_owned();
    assert!(!seen.contains("two") && seen.contains("id: 3\n"), "{seen}");
    agent.finish(&job, 1, json!({})).await.done();
    for reader in [&mut live, &mut again] {
        reader.until("event: end").await;
        assert!(reader.0.next().await.is_none(), "the stream goes on after its end");
    }
    world.seal_logs().await;
    let sealed = Live::open(&world, &job, None).await.until("event: end").await.to_owned();
    assert!(sealed.contains("one") && sealed.contains("three"));
    let call = world.call(Method::GET, &format!("/jobs/{job}/logs")).header("accept", "text/event-stream");
    call.header("last-event-id", "x").send().await.expect(400);
}

/// A stream ends without a word when the coordinator stops: the reader comes again.
#[tokio::test]
async fn a_live_log_ends_with_the_coordinator() {
    let (world, agent, job) = running().await;
    agent.log(&job, 1, 1, &["one"]).await.ok();
    let mut live = Live::open(&world, &job, None).await;
    live.until("one").await;
    world.app.stopping.cancel();
    let rest = tokio::time::timeout(Duration::from_secs(5), live.0.collect::<Vec<_>>()).await.unwrap();
    assert!(rest.is_empty());
}

/// A stream ends with the key that it was opened with: at once when the key is deleted, soon when it expires.
#[tokio::test(start_paused = true)]
async fn a_live_log_ends_with_its_key() {
    let (world, agent, job) = running().await;
    agent.log(&job, 1, 1, &["one"]).await.ok();
    let open = async |key: &str| {
        let call = world.call(Method::GET, &format!("/jobs/{job}/logs")).key(key).header("accept", "text/event-stream");
        let mut live = Live(call.open().await.into_body().into_data_stream(), String::new());
        live.until("one").await;
        live
    };
    let ends = async |live: Live, seconds: u64| {
        let rest = tokio::time::timeout(Duration::from_secs(seconds), live.0.collect::<Vec<_>>()).await;
        let rest = rest.expect("it ends");
        assert!(rest.is_empty(), "nothing more is told: {rest:?}");
    };
    let made =
        world.post("/keys", json!({ "name": "reader", "permissions": ["log:read", "job:read"] })).await.created();
    let live = open(&text(&made, "/key")).await;
    let mut other = open(&world.admin).await;
    world.delete(&format!("/keys/{}", text(&made, "/id"))).await.done();
    agent.log(&job, 1, 2, &["two"]).await.ok();
    ends(live, 1).await;
    let expires_at = world.now().plus_seconds(60).to_string();
    let made = world.post("/keys", json!({ "name": "short", "expires_at": expires_at })).await.created();
    let mut live = open(&text(&made, "/key")).await;
    live.until("two").await;
    world.move_clock(60);
    ends(live, 12).await;
    other.until("two").await;
}

/// Each attempt has a log of its own; the newest is read unless another is asked for.
#[tokio::test]
async fn attempts_have_logs_of_their_own() {
    let (world, agent, job) = running().await;
    agent.log(&job, 1, 1, &["first try"]).await.ok();
    agent.fail(&job, 1).await.done();
    world.act(&format!("/jobs/{job}/retry")).await.ok();
    agent.run().await;
    agent.log(&job, 1, 2, &["late"]).await.expect(409).refused("stale_attempt");
    agent.log(&job, 2, 1, &["second try"]).await.ok();
    assert_eq!(messages(&read(&world, &job, "").await), ["second try"]);
    let first = read(&world, &job, "attempt=1").await;
    assert_eq!((messages(&first), first["complete"].clone()), (vec!["first try".to_owned()], json!(true)));
}

/// The deletion of a job with a long log ended half-way, as by a crash: other logs are sealed, and it can be deleted.
#[tokio::test]
async fn a_log_that_is_half_deleted_holds_up_no_other() {
    let (world, agent, job) = running().await;
    for seq in 1..=501 {
        agent.log(&job, 1, seq, &["line"]).await.ok();
    }
    agent.finish(&job, 1, json!({})).await.done();
    let id = job.parse().unwrap();
    let ended = world.app.db.write(world.account, move |tx| retention::remove_job_page(tx, id)).await.unwrap();
    assert!(!ended, "the log is not long enough for two pages");
    world.start("p").await;
    let (other, _) = agent.run().await;
    agent.log(&other, 1, 1, &["one"]).await.ok();
    agent.finish(&other, 1, json!({})).await.done();
    for _ in 0..3 {
        world.move_clock(1);
        world.seal_logs().await;
    }
    assert_eq!(blobs(&world).await, 1, "the other job's log is not sealed");
    assert_eq!(messages(&read(&world, &other, "").await), ["one"]);
    world.delete(&format!("/jobs/{job}")).await.done();
    // For a while it is known in which order lines have arrived.
    world.move_clock(1_000);
    world.retain(0, 0).await;
    let id: uuid::Uuid = job.parse().unwrap();
    assert_eq!(world.mentions(id.as_bytes()), 0);
}
