//! Logs of all jobs at once: searching in the order of time, paging while things move, exports, live streams, lines that
//! people and robots write themselves, deletion, and logs that become too long.

use std::time::Duration;

use bytes::Bytes;
use drover_coordinator::store::blob::BlobKind;
use drover_protocol::{AccountId, Timestamp};
use futures::StreamExt;
use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Agent, Call, START, World, each, rules, text};

/// A line `ms` after the start of the clock.
fn at(ms: i64, level: &str, message: &str) -> Value {
    json!({ "time": Timestamp::from_millis(START + ms).to_string(), "level": level, "message": message })
}

async fn send(agent: &Agent, job: &str, first_seq: u64, lines: Vec<Value>) {
    let chunk = json!({ "attempt": 1, "first_seq": first_seq, "lines": lines });
    agent.post(&format!("/jobs/{job}/logs"), chunk).await.ok();
}

/// Two robots with a job each, of two processes.
struct Two {
    world: World,
    agents: [Agent; 2],
    jobs: [String; 2],
}

async fn two() -> Two {
    two_in(World::new().await).await
}

async fn two_in(world: World) -> Two {
    let agents = [world.agent("first").await, world.agent("second").await];
    let mut jobs = Vec::new();
    for (agent, process) in agents.iter().zip(["invoices", "mail"]) {
        world.process(process).await;
        let start = json!({ "process": process, "target": { "robot": agent.id } });
        world.post("/jobs", start).await.created();
        jobs.push(agent.run().await.0);
    }
    let jobs = jobs.try_into().unwrap();
    Two { world, agents, jobs }
}

async fn search(world: &World, query: &str) -> Vec<String> {
    let page = world.get(&format!("/logs?limit=1000&{query}")).await.ok();
    assert_eq!(page["next_cursor"], Value::Null);
    assert_eq!(page["searched_to"], Value::Null);
    each(&page, "message").iter().map(|message| message.as_str().unwrap().to_owned()).collect()
}

/// All lines, page by page; `between` is done after each page.
async fn page_through(world: &World, query: &str, mut between: impl AsyncFnMut(usize)) -> Vec<String> {
    let (mut found, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = world.get(&format!("/logs?{query}{cursor}")).await.ok();
        found.extend(each(&page, "message").iter().map(|message| message.as_str().unwrap().to_owned()));
        pages += 1;
        assert!(pages < 2_000, "the search does not end");
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
        between(pages).await;
    }
}

async fn blobs(world: &World) -> usize {
    world.app.blobs.list(BlobKind::Log).count().await
}

/// Each filter by itself and together with others, newest first and oldest first, before and after lines are sealed.
#[tokio::test]
async fn lines_are_found_by_every_filter() {
    let Two { world, agents: [first, second], jobs: [invoices, mail] } = two().await;
    let mut with_fields = at(40, "error", "Bank ÄRGER");
    with_fields["fields"] = json!({ "order": "4711", "deep": { "n": 3 } });
    send(&first, &invoices, 1, vec![at(10, "info", "one"), at(30, "warning", "three"), with_fields]).await;
    send(&second, &mail, 1, vec![at(20, "debug", "two"), at(50, "critical", "five")]).await;
    world.post("/logs", json!({ "level": "info", "message": "by hand" })).await.created();
    let by_id = world.get("/processes/mail").await.ok();
    let from = |ms: i64| Timestamp::from_millis(START + ms).to_string();
    for state in ["as received", "half sealed", "sealed"] {
        let all = ["five", "Bank ÄRGER", "three", "two", "one", "by hand"];
        assert_eq!(search(&world, "").await, all, "{state}");
        let forward: Vec<&str> = all.into_iter().rev().collect();
        assert_eq!(search(&world, "direction=forward").await, forward, "{state}");
        assert_eq!(search(&world, "level=warning").await, ["five", "Bank ÄRGER", "three"]);
        assert_eq!(search(&world, "robot=first").await, ["Bank ÄRGER", "three", "one"]);
        assert_eq!(search(&world, &format!("robot={}&level=critical", second.id)).await, ["five"]);
        assert_eq!(search(&world, "process=mail").await, ["five", "two"]);
        assert_eq!(search(&world, &format!("process={}&robot=first", text(&by_id, "/id"))).await, [""; 0]);
        assert_eq!(search(&world, &format!("job={mail}")).await, ["five", "two"]);
        assert_eq!(search(&world, "text=%C3%A4rger").await, ["Bank ÄRGER"]);
        assert_eq!(search(&world, "text=%5Et..$%7Cfive&regex=true").await, ["five", "two"]);
        assert_eq!(search(&world, "field.order=4711").await, ["Bank ÄRGER"]);
        assert_eq!(search(&world, "field.deep.n=3&text=bank&level=error&robot=first").await, ["Bank ÄRGER"]);
        assert_eq!(search(&world, "field.order=4712").await, [""; 0]);
        assert_eq!(search(&world, &format!("from={}&to={}", from(20), from(40))).await, ["three", "two"]);
        match state {
            "as received" => first.finish(&invoices, 1, json!({})).await.done(),
            _ => second.finish(&mail, 1, json!({})).await.done(),
        }
        world.seal_logs().await;
    }
    assert!(blobs(&world).await > 0);
    let page = world.get("/logs?text=bank").await.ok();
    let line = &page["items"][0];
    assert_eq!((text(line, "/robot_name"), text(line, "/process_name")), ("first".to_owned(), "invoices".to_owned()));
    assert_eq!((text(line, "/robot_id"), text(line, "/job_id")), (first.id, invoices));
    assert_eq!((line["attempt"].clone(), line["seq"].clone()), (json!(1), json!(3)));
    assert_eq!(line["fields"], json!({ "order": "4711", "deep": { "n": 3 } }));
}

/// Lines of many overlapping logs come in the exact order of their times, in pages of any size, whichever way.
#[tokio::test]
async fn the_order_is_that_of_time() {
    let Two { world, agents: [first, second], jobs: [one, two] } = two().await;
    let long = "x".repeat(3_000);
    let mut expected = Vec::new();
    for chunk in 0..10_u64 {
        for (agent, job, offset) in [(&first, &one, 0), (&second, &two, 1)] {
            // Clocks go back now and then, and several lines have the same time.
            let ms = |n: u64| {
                (chunk * 100 + n * 4 + offset - if n.is_multiple_of(7) { 60.min(chunk * 100) } else { 0 }) as i64
            };
            let lines: Vec<Value> =
                (0..25).map(|n| at(ms(n), "info", &format!("{} {job} {chunk} {n} {long}", ms(n)))).collect();
            expected.extend((0..25).map(|n| (ms(n), job.clone(), chunk * 25 + n)));
            send(agent, job, chunk * 25 + 1, lines).await;
        }
        if chunk == 6 {
            first.finish(&one, 1, json!({})).await.done();
            world.seal_logs().await;
        }
    }
    expected.sort();
    let expected: Vec<String> =
        expected.into_iter().map(|(ms, job, seq)| format!("{ms} {job} {} {} {long}", seq / 25, seq % 25)).collect();
    let backward: Vec<String> = expected.iter().rev().cloned().collect();
    for limit in [1_000, 7, 1] {
        let found = page_through(&world, &format!("limit={limit}&direction=forward"), async |_| ()).await;
        assert!(found == expected, "{limit} forward");
        let found = page_through(&world, &format!("limit={limit}"), async |_| ()).await;
        assert!(found == backward, "{limit} backward");
    }
}

/// Whatever arrives, is sealed or ends while somebody pages, no line comes twice and none that was there is missing.
#[tokio::test]
async fn paging_is_stable_while_lines_arrive_and_are_sealed() {
    let Two { world, agents: [first, second], jobs: [one, two] } = two().await;
    for chunk in 0..20_u64 {
        let lines = |name: &str| -> Vec<Value> {
            (0..50).map(|n| at((chunk * 50 + n) as i64, "info", &format!("{name} {}", chunk * 50 + n))).collect()
        };
        send(&first, &one, chunk * 50 + 1, lines("one")).await;
        send(&second, &two, chunk * 50 + 1, lines("two")).await;
    }
    for direction in ["backward", "forward"] {
        let found = page_through(&world, &format!("limit=97&direction={direction}"), async |page| {
            match (direction, page) {
                ("backward", 3) => first.finish(&one, 1, json!({})).await.done(),
                ("backward", 5 | 8) | ("forward", 4) => world.seal_logs().await,
                ("backward", 7) => second.finish(&two, 1, json!({})).await.done(),
                _ => {}
            }
            if direction == "backward" && page < 7 {
                let new = at(10_000 + page as i64, "info", &format!("new {page}"));
                send(&second, &two, 1_000 + page as u64, vec![new]).await;
            }
        })
        .await;
        let old: Vec<&String> = found.iter().filter(|message| !message.starts_with("new")).collect();
        let unique: std::collections::HashSet<&String> = found.iter().collect();
        assert_eq!((old.len(), unique.len()), (2_000, found.len()), "{direction}");
    }
}

/// A search sees its own account and a job's key its own job, whatever it asks for.
#[tokio::test]
async fn nobody_sees_the_lines_of_others() {
    let world = World::new().await;
    let agent = world.agent_with("r", json!({ "capacity": 2 })).await;
    world.process("p").await;
    world.start("p").await;
    let (job, assignment) = agent.take().await;
    agent.accept(&job, 1).await.ok();
    world.start("p").await;
    let (other_job, _) = agent.run().await;
    send(&agent, &job, 1, vec![at(1, "info", "mine")]).await;
    send(&agent, &other_job, 1, vec![at(2, "info", "of the other")]).await;
    let other = world.new_account(AccountId::from_uuid(Uuid::from_u128(0xacc1)), "other").await;
    let job_key = text(&assignment, "/key");
    let as_key = |key: &str, path: &str| world.call(Method::GET, path).key(key).send();
    for _ in 0..2 {
        for query in ["", "?robot=r", &format!("?job={job}"), &format!("?robot={}", agent.id)] {
            let answer = as_key(&other, &format!("/logs{query}")).await;
            match query {
                "?robot=r" => drop(answer.invalid(&["robot"])),
                _ => assert_eq!(answer.ok()["items"], json!([]), "{query}"),
            }
        }
        let seen = as_key(&job_key, "/logs").await.ok();
        assert_eq!(each(&seen, "message"), ["mine"]);
        as_key(&job_key, &format!("/logs?job={other_job}")).await.expect(404);
        as_key(&job_key, &format!("/jobs/{other_job}/logs")).await.expect(404);
        assert_eq!(as_key(&job_key, &format!("/jobs/{job}/logs")).await.ok()["items"].as_array().unwrap().len(), 1);
        // Half of them sealed, by and by.
        agent.finish(&other_job, 1, json!({})).await;
        world.seal_logs().await;
    }
    as_key(&agent.key, "/logs").await.expect(403);
}

#[tokio::test]
async fn hostile_filters_are_refused() {
    let Two { world, agents: [first, _], jobs: [job, _] } = two().await;
    send(&first, &job, 1, vec![at(1, "info", &"a".repeat(50_000))]).await;
    let bad = [
        ("text", "x".repeat(257)),
        ("text", format!("{}&regex=true", "%28".repeat(40))),
        ("text", "(%5Cw%7B200%7D)%7B200%7D&regex=true".to_owned()),
        ("text", "(%3F%3Da)&regex=true".to_owned()),
        ("text", "x".repeat(1_000_000)),
        ("level", "loud".to_owned()),
        ("robot", "nobody".to_owned()),
        ("process", "nothing".to_owned()),
        ("job", "x".to_owned()),
        ("from", "yesterday".to_owned()),
        ("limit", "0".to_owned()),
        ("limit", "1001".to_owned()),
        ("direction", "up".to_owned()),
        ("fields", "x".to_owned()),
    ];
    for (name, value) in bad {
        // What is longer than an address may be is for the connection to refuse; here it reaches the filter.
        if value.len() < 60_000 {
            world.get(&format!("/logs?{name}={value}")).await.invalid(&[name]);
        }
    }
    world.get("/logs?from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z").await.invalid(&["to"]);
    let problem = world.get("/logs?job=nope").await.invalid(&["job"]);
    assert!(text(&problem, "/errors/0/detail").starts_with("must be an id such as 0192f6c4-"), "{problem}");
    world.get(&format!("/logs?{}", "field.a=1&".repeat(9))).await.invalid(&["field"]);
    world.get("/logs?cursor=x").await.expect(400).refused("bad_request");
    world.get("/logs?text=(a*)*b%24&regex=true").await.ok();
    let call = world.call(Method::GET, "/logs").header("accept", "image/png");
    call.send().await.expect(406).refused("not_acceptable");
    let call = world.call(Method::GET, "/logs").header("accept", "text/event-stream").header("last-event-id", "x");
    call.send().await.expect(400);
}

/// Searches are bounded: when too many are under way, the next one is told so and when to come again.
#[tokio::test(start_paused = true)]
async fn too_many_searches_are_refused() {
    let Two { world, agents: [first, _], jobs: [job, _] } = two().await;
    send(&first, &job, 1, vec![at(1, "info", "one")]).await;
    let busy = std::sync::Arc::clone(&world.app.searches).acquire_many_owned(4).await.unwrap();
    let answer = world.get("/logs").await.expect(429);
    assert_eq!(answer.header("retry-after"), Some("2"));
    answer.refused("too_many_requests");
    drop(busy);
    assert_eq!(search(&world, "").await, ["one"]);
}

/// Everything is exported, each line once and in order, in every form, however much it is.
#[tokio::test]
async fn exports_are_whole() {
    let Two { world, agents: [first, second], jobs: [one, two] } = two().await;
    for chunk in 0..12_u64 {
        let lines = |name: &str| -> Vec<Value> {
            (0..5_000)
                .map(|n| at((chunk * 5_000 + n) as i64, "info", &format!("{name} {}", chunk * 5_000 + n)))
                .collect()
        };
        send(&first, &one, chunk * 5_000 + 1, lines("one")).await;
        send(&second, &two, chunk * 5_000 + 1, lines("two")).await;
    }
    first.finish(&one, 1, json!({})).await.done();
    world.seal_logs().await;
    let export = async |accept: &str, query: &str| {
        let call = world.call(Method::GET, &format!("/logs?{query}")).header("accept", accept);
        let answer = call.send().await.expect(200);
        assert!(answer.content_type().starts_with(accept));
        answer.text()
    };
    let whole = export("application/x-ndjson", "").await;
    let lines: Vec<Value> = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 120_000);
    let unique: std::collections::HashSet<&str> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert_eq!(unique.len(), 120_000);
    let times: Vec<&str> = lines.iter().map(|line| line["time"].as_str().unwrap()).collect();
    assert!(times.is_sorted());
    let mut odd = at(1_000_000, "warning", "says \"hm\", and\ngoes on");
    odd["fields"] = json!({ "a": [1] });
    send(&second, &two, 60_001, vec![odd]).await;
    let csv = export("text/csv", "level=warning").await;
    assert_eq!(csv.lines().next().unwrap(), "time,level,robot,process,job_id,attempt,seq,message,fields");
    let row = format!(",warning,second,mail,{two},1,60001,\"says \"\"hm\"\", and\ngoes on\",\"{{\"\"a\"\":[1]}}\"\r\n");
    assert!(csv.ends_with(&row), "{csv}");
    let plain = export("text/plain", "level=warning").await;
    assert!(
        plain.ends_with(&format!("warning  second mail {two}: says \"hm\", and\ngoes on {{\"a\":[1]}}\n")),
        "{plain}"
    );
    assert_eq!(export("application/x-ndjson", "limit=3&direction=backward").await.lines().count(), 3);
    // Whoever loses the right to it does not get the rest.
    let ann = text(&world.post("/users", json!({ "login": "ann", "roles": ["viewer"] })).await.created(), "/key");
    let call = world.call(Method::GET, "/logs").key(&ann).header("accept", "application/x-ndjson");
    let mut pieces = call.open().await.into_body().into_data_stream();
    pieces.next().await.unwrap().unwrap();
    world.patch("/users/ann", json!({ "roles": [] })).await.ok();
    assert!(pieces.next().await.unwrap().is_err());
}

/// Reads a live stream piece by piece.
struct Live(axum::body::BodyDataStream, String);

impl Live {
    async fn open(world: &World, query: &str, key: Option<&str>, last: Option<&str>) -> Self {
        let mut call = world.call(Method::GET, &format!("/logs?{query}")).header("accept", "text/event-stream");
        if let Some(key) = key {
            call = Call::new(world.router.clone(), Method::GET, "/logs").key(key).header("accept", "text/event-stream");
        }
        if let Some(last) = last {
            call = call.header("last-event-id", last);
        }
        let response = call.open().await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self(response.into_body().into_data_stream(), String::new())
    }

    async fn until(&mut self, wanted: &str) -> &str {
        while !self.1.contains(wanted) {
            let piece: Option<Result<Bytes, _>> = tokio::time::timeout(Duration::from_secs(5), self.0.next())
                .await
                .unwrap_or_else(|_| panic!("no {wanted} in {}", self.1));
            self.1.push_str(std::str::from_utf8(&piece.expect("the stream has ended").unwrap()).unwrap());
        }
        &self.1
    }

    /// Messages and the id of the last event.
    fn seen(&self) -> (Vec<String>, String) {
        let data = self.1.lines().filter_map(|line| line.strip_prefix("data: "));
        let messages =
            data.filter_map(|json| serde_json::from_str::<Value>(json).unwrap()["message"].as_str().map(str::to_owned));
        let id = self.1.lines().rev().find_map(|line| line.strip_prefix("id: ")).unwrap_or_default();
        (messages.collect(), id.to_owned())
    }
}

/// Whoever follows all logs gets the lines of all as they come; who comes again goes on after the last one, although the
/// lines were sealed meanwhile, in the middle of what had come together.
#[tokio::test]
async fn a_follower_of_all_logs_misses_nothing() {
    let Two { world, agents: [first, second], jobs: [one, two] } = two().await;
    send(&first, &one, 1, vec![at(1, "info", "before")]).await;
    let mut live = Live::open(&world, "", None, None).await;
    let mut errors = Live::open(&world, "level=error&robot=second", None, None).await;
    send(&first, &one, 2, vec![at(2, "info", "a1"), at(3, "info", "a2"), at(4, "info", "a3")]).await;
    send(&second, &two, 1, vec![at(1, "error", "b1"), at(2, "info", "b2")]).await;
    world.post("/logs", json!({ "level": "info", "message": "by hand" })).await.created();
    live.until("by hand").await;
    assert_eq!(live.seen().0, ["a1", "a2", "a3", "b1", "b2", "by hand"]);
    errors.until("b1").await;
    assert_eq!(errors.seen().0, ["b1"]);
    // Cut off after the second line; the rest of its chunk comes again.
    let id_of = |message: &str| {
        let events: Vec<&str> = live.1.split("\n\n").collect();
        let event = events.iter().find(|event| event.contains(&format!("\"{message}\""))).unwrap();
        event.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned()
    };
    let last = id_of("a2");
    first.finish(&one, 1, json!({})).await.done();
    second.finish(&two, 1, json!({})).await.done();
    world.move_clock(700);
    world.seal_logs().await;
    world.post("/logs", json!({ "level": "info", "message": "later" })).await.created();
    let mut again = Live::open(&world, "", None, Some(&last)).await;
    again.until("later").await;
    assert_eq!(again.seen().0, ["a3", "b1", "b2", "by hand", "later"]);
    live.until("later").await;
    // So long ago that nobody knows the order any more: that is said.
    world.move_clock(2_000);
    world.post("/logs", json!({ "level": "info", "message": "much later" })).await.created();
    world.retain(0, 0).await;
    let mut late = Live::open(&world, "", None, Some(&last)).await;
    late.until("much later").await;
    assert!(late.1.contains("event: gap"), "{}", late.1);
    world.app.stopping.cancel();
}

/// Who has seen no line yet knows all the same where to go on.
#[tokio::test]
async fn a_follower_is_told_first_where_it_is() {
    let Two { world, agents: [first, _], jobs: [one, _] } = two().await;
    send(&first, &one, 1, vec![at(1, "info", "before")]).await;
    let mut live = Live::open(&world, "", None, None).await;
    live.until("event: position").await;
    let (_, id) = live.seen();
    drop(live);
    send(&first, &one, 2, vec![at(2, "info", "meanwhile")]).await;
    let mut again = Live::open(&world, "", None, Some(&id)).await;
    again.until("meanwhile").await;
    assert_eq!(again.seen().0, ["meanwhile"]);
    assert!(!again.1.contains("gap"), "{}", again.1);
}

/// Who does not keep up is told so, once, and goes on with what is known.
#[tokio::test]
async fn a_follower_that_is_too_slow_is_told_so() {
    let Two { world, agents: [first, _], jobs: [one, _] } = two().await;
    let mut live = Live::open(&world, "", None, None).await;
    send(&first, &one, 1, vec![at(1, "info", "seen")]).await;
    live.until("seen").await;
    send(&first, &one, 2, vec![at(2, "info", "lost")]).await;
    world.move_clock(1_000);
    world.retain(0, 0).await;
    send(&first, &one, 3, vec![at(3, "info", "later")]).await;
    live.until("later").await;
    send(&first, &one, 4, vec![at(4, "info", "last")]).await;
    live.until("last").await;
    assert_eq!(live.seen().0, ["seen", "later", "last"]);
    assert_eq!(live.1.matches("event: gap").count(), 1, "{}", live.1);
}

/// A stream keeps to the times that are asked for, and refuses what is of pages.
#[tokio::test]
async fn a_follower_gets_what_it_asked_for() {
    let Two { world, agents: [first, _], jobs: [one, _] } = two().await;
    let time = |ms: i64| Timestamp::from_millis(START + ms).to_string();
    let mut live = Live::open(&world, &format!("from={}&to={}", time(10), time(20)), None, None).await;
    let lines = [9, 10, 19, 20, 15].map(|ms| at(ms, "info", &format!("at {ms}")));
    send(&first, &one, 1, lines.to_vec()).await;
    live.until("at 15").await;
    assert_eq!(live.seen().0, ["at 10", "at 19", "at 15"]);
    let cursor = text(&world.get("/logs?limit=1").await.ok(), "/next_cursor");
    for (name, value) in [("limit", "5"), ("direction", "forward"), ("cursor", &cursor)] {
        let call = world.call(Method::GET, &format!("/logs?{name}={value}")).header("accept", "text/event-stream");
        call.send().await.invalid(&[name]);
    }
}

#[tokio::test]
async fn what_is_named_is_not_looked_for_without_the_right_to_read() {
    let world = World::new().await;
    let key = world.key_with(&["queue:read"]).await;
    for path in ["/logs", "/logs?process=nope", "/logs?robot=nope"] {
        Call::new(world.router.clone(), Method::GET, path).key(&key).send().await.expect(403);
    }
}

/// A line that people and robots write: into the log of a job beside those of its agent, whose numbers go on as if
/// nothing had happened, or by itself.
#[tokio::test]
async fn lines_are_written_by_hand() {
    let Two { world, agents: [first, second], jobs: [one, two] } = two().await;
    let write = async |key: &str, body: Value| world.call(Method::POST, "/logs").key(key).json(&body).send().await;
    send(&first, &one, 1, vec![at(1, "info", "a"), at(2, "info", "b")]).await;
    let body = json!({ "level": "warning", "message": "careful", "fields": { "n": 1 }, "job": one });
    let written = write(&world.admin, body.clone()).await.created();
    assert_eq!((written["seq"].clone(), text(&written, "/job_id")), (json!(3), one.clone()));
    assert!(text(&written, "/fields/written_by").starts_with("user:"), "{written}");
    // The agent's own count is not disturbed, nor is what it repeats.
    assert_eq!(first.log(&one, 1, 2, &["b", "c"]).await.ok()["next_seq"], 4);
    first.log(&one, 1, 5, &["x"]).await.expect(409).refused("log_gap");
    write(&first.key, json!({ "level": "info", "message": "of the robot", "job": one })).await.created();
    let page = world.get(&format!("/jobs/{one}/logs")).await.ok();
    assert_eq!(each(&page, "message"), ["a", "b", "careful", "c", "of the robot"]);
    assert_eq!(each(&page, "seq"), [1, 2, 3, 4, 5]);
    // Only their own: the job of another robot is none.
    write(&second.key, json!({ "level": "info", "message": "x", "job": one })).await.expect(404);
    write(&world.admin, json!({ "level": "info", "message": "x", "job": Uuid::from_u128(9) })).await.expect(404);
    let viewer = world.key_with(&["log:read"]).await;
    write(&viewer, json!({ "level": "info", "message": "x" })).await.expect(403);
    let own = write(&second.key, json!({ "level": "error", "message": "no job at all" })).await.created();
    assert_eq!((own.get("job_id"), text(&own, "/robot_name")), (None, "second".to_owned()));
    assert_eq!(search(&world, "robot=second").await, ["no job at all"]);
    // Said once, however often it is sent.
    for _ in 0..2 {
        let call = world.call(Method::POST, "/logs").header("idempotency-key", "k").json(&body);
        call.send().await.created();
    }
    assert_eq!(search(&world, "text=careful").await.len(), 2);
    for (body, pointer) in [
        (json!({ "level": "info", "message": "x".repeat(65_537) }), "/message"),
        (json!({ "level": "info", "message": "x", "fields": { "f": "x".repeat(16_384) } }), "/fields"),
        (
            json!({ "level": "info", "message": "x", "job": one, "fields": { "written_by": "me" } }),
            "/fields/written_by",
        ),
        (json!({ "level": "loud", "message": "x" }), "/level"),
        (json!({ "message": "x" }), "/level"),
        (json!({ "level": "info", "message": "x", "time": 1 }), "/time"),
    ] {
        write(&world.admin, body).await.invalid(&[pointer]);
    }
    // A job that has not begun, and one that has ended.
    let waiting = world.start("mail").await;
    write(&world.admin, json!({ "level": "info", "message": "early", "job": waiting })).await.created();
    world.post(&format!("/jobs/{waiting}/stop"), json!({ "mode": "stop" })).await.ok();
    let page = world.get(&format!("/jobs/{waiting}/logs")).await.ok();
    assert_eq!((each(&page, "message"), page["complete"].clone()), (vec![json!("early")], json!(true)));
    second.finish(&two, 1, json!({})).await.done();
    world.seal_logs().await;
    write(&world.admin, json!({ "level": "info", "message": "after its end", "job": two })).await.created();
    world.seal_logs().await;
    assert_eq!(search(&world, "text=end").await, ["after its end"]);
}

/// The key of a job writes into the log of that job, whether it names it or not, and into no other.
#[tokio::test]
async fn a_job_writes_into_its_own_log() {
    let world = World::new().await;
    let agent = world.agent_with("r", json!({ "capacity": 2 })).await;
    world.process("p").await;
    world.start("p").await;
    let (job, assignment) = agent.take().await;
    agent.accept(&job, 1).await.ok();
    world.start("p").await;
    let (other, _) = agent.run().await;
    let key = text(&assignment, "/key");
    let write = async |body: Value| world.call(Method::POST, "/logs").key(&key).json(&body).send().await;
    let line = write(json!({ "level": "info", "message": "one" })).await.created();
    assert_eq!((text(&line, "/job_id"), line["seq"].clone()), (job.clone(), json!(1)));
    write(json!({ "level": "info", "message": "two", "job": job })).await.created();
    write(json!({ "level": "info", "message": "three", "job": other })).await.expect(404);
    assert_eq!(search(&world, "").await, ["two", "one"]);
    // Who wrote a line is for the coordinator to say, whichever way the process tries.
    let claim = json!({ "written_by": "user:1", "n": 1 });
    write(json!({ "level": "info", "message": "x", "fields": claim })).await.invalid(&["/fields/written_by"]);
    let mut line = at(9, "info", "claimed");
    line["fields"] = claim;
    send(&agent, &job, 1, vec![line]).await;
    let found = world.get("/logs?text=claimed").await.ok();
    assert_eq!(found["items"][0]["fields"], json!({ "_written_by": "user:1", "n": 1 }));
}

/// Old lines are deleted; the logs of jobs say by whom, lines of no job leave nothing behind, and it is
/// noted with the account.
#[tokio::test]
async fn old_lines_are_deleted() {
    let Two { world, agents: [first, second], jobs: [one, two] } = two().await;
    send(&first, &one, 1, vec![at(0, "info", "old"), at(1, "info", "old too")]).await;
    world.post("/logs", json!({ "level": "info", "message": "old by hand" })).await.created();
    first.finish(&one, 1, json!({})).await.done();
    world.move_clock(3_600);
    world.seal_logs().await;
    send(&second, &two, 1, vec![at(3_600_000, "info", "young")]).await;
    second.finish(&two, 1, json!({})).await.done();
    world.seal_logs().await;
    world.delete("/logs").await.invalid(&["before"]);
    let operator = world.key_with(&["log:read", "log:write"]).await;
    let before = format!("/logs?before={}", Timestamp::from_millis(START + 1_000_000));
    world.call(Method::DELETE, &before).key(&operator).send().await.expect(403);
    world.delete(&before).await.done();
    world.delete(&before).await.done();
    assert_eq!(search(&world, "").await, ["young"]);
    let page = world.get(&format!("/jobs/{one}/logs")).await.ok();
    let said = text(&page, "/items/0/message");
    assert!(said.starts_with("2 lines of this log were deleted by user:"), "{said}");
    world.collect_garbage().await;
    assert_eq!(blobs(&world).await, 1);
    let events =
        world.pairs().iter().filter(|(_, value)| value.windows(12).any(|part| part == b"logs_deleted")).count();
    assert_eq!(events, 1, "what was deleted is noted once");
}

/// Lines are deleted to the line: what is not sealed yet goes too, and of what lies together with younger lines the older
/// ones, in whatever order they lie there. A running job goes on.
#[tokio::test]
async fn no_line_from_before_is_left() {
    let Two { world, agents: [first, second], jobs: [one, two] } = two().await;
    send(&first, &one, 1, vec![at(0, "info", "old"), at(1, "info", "old"), at(3_600_000, "info", "young")]).await;
    let mixed = (0..500).flat_map(|n| [at(n, "info", "old"), at(3_600_000 + n, "info", "young")]);
    send(&second, &two, 1, mixed.collect()).await;
    second.finish(&two, 1, json!({})).await.done();
    world.seal_logs().await;
    world.post("/logs", json!({ "level": "info", "message": "old by hand" })).await.created();
    let before = format!("/logs?before={}", Timestamp::from_millis(START + 1_000_000));
    for _ in 0..2 {
        world.delete(&before).await.done();
        assert_eq!(page_through(&world, "limit=400", async |_| ()).await, vec!["young".to_owned(); 501]);
    }
    let page = world.get(&format!("/jobs/{one}/logs")).await.ok();
    assert!(text(&page, "/items/0/message").starts_with("2 lines of this log were deleted by user:"), "{page}");
    assert_eq!(text(&page, "/items/1/message"), "young");
    let page = world.get(&format!("/jobs/{two}/logs?from_seq=999")).await.ok();
    assert!(text(&page, "/items/0/message").starts_with("1 lines of this log were deleted by user:"), "{page}");
    send(&first, &one, 4, vec![at(3_600_001, "info", "next")]).await;
    first.finish(&one, 1, json!({})).await.done();
    world.seal_logs().await;
    let whole = world.get(&format!("/jobs/{one}/logs")).await.ok();
    assert_eq!((&whole["next_seq"], &whole["complete"]), (&json!(5), &json!(true)));
    world.collect_garbage().await;
    assert_eq!(blobs(&world).await, 8, "nothing is kept of what was divided");
}

/// Lines of no job become old like all others, although nothing of theirs ever ends.
#[tokio::test]
async fn lines_of_no_job_are_retained_and_deleted() {
    let world = World::new().await;
    world.post("/logs", json!({ "level": "info", "message": "a note" })).await.created();
    world.seal_logs().await;
    assert_eq!(blobs(&world).await, 0, "more may come soon");
    world.move_clock(700);
    world.seal_logs().await;
    assert_eq!((blobs(&world).await, search(&world, "").await), (1, vec!["a note".to_owned()]));
    world.move_clock(31 * 86_400);
    world.retain(0, 30).await;
    world.collect_garbage().await;
    assert_eq!((blobs(&world).await, search(&world, "").await), (0, Vec::new()));
    world.post("/logs", json!({ "level": "info", "message": "another" })).await.created();
    assert_eq!(search(&world, "").await, ["another"]);
}

/// The limit is that of a job's log. What somebody writes without a job is one log for ever, in which nothing would say that
/// its middle is missing: all of it is there until it is too old.
#[tokio::test]
async fn lines_of_no_job_have_no_limit() {
    let mut rules = rules();
    rules.limits.job_log_bytes = 1 << 20;
    let world = World::with_rules(rules).await;
    let long = "y".repeat(48_000);
    for n in 0..60 {
        world.post("/logs", json!({ "level": "info", "message": format!("{n} {long}") })).await.created();
    }
    world.move_clock(700);
    world.seal_logs().await;
    assert!(blobs(&world).await > 0);
    assert_eq!(page_through(&world, "limit=100", async |_| ()).await.len(), 60);
}

/// However many pieces of it are gone, and for whatever reasons, a log goes on to keep to its limit.
#[tokio::test]
async fn a_log_of_many_gaps_keeps_to_its_limit() {
    const YOUNG: i64 = 3_600_000;
    let mut rules = rules();
    rules.limits.job_log_bytes = 1 << 20;
    let Two { world, agents: [agent, _], jobs: [job, _] } = two_in(World::with_rules(rules).await).await;
    let long = "y".repeat(1_000);
    let mut next = 1;
    let mut say = async |lines: Vec<Value>| {
        let count = lines.len() as u64;
        send(&agent, &job, next, lines).await;
        next += count;
    };
    for _ in 0..5 {
        say((0..1_000).map(|_| at(YOUNG, "info", &long)).collect()).await;
    }
    world.seal_logs().await;
    say((0..120).map(|n| at(YOUNG * (n % 2), "info", "short")).collect()).await;
    world.move_clock(2 * YOUNG / 1_000);
    world.delete(&format!("/logs?before={}", Timestamp::from_millis(START + YOUNG))).await.done();
    let page = world.get(&format!("/jobs/{job}/logs?from_seq=5001&limit=1000")).await.ok();
    assert_eq!(each(&page, "message").iter().filter(|message| **message == "short").count(), 60);
    for _ in 0..15 {
        say((0..1_000).map(|_| at(YOUNG, "info", &long)).collect()).await;
        world.seal_logs().await;
    }
    agent.finish(&job, 1, json!({})).await.done();
    world.seal_logs().await;
    let call = world.call(Method::GET, &format!("/jobs/{job}/logs")).header("accept", "text/plain");
    let kept = call.send().await.expect(200).text().len();
    assert!(kept < 2 << 20, "{kept} bytes are kept");
    let tail = world.get(&format!("/jobs/{job}/logs?direction=backward&limit=1")).await.ok();
    assert_eq!(tail["items"][0]["seq"], 20_120, "the newest lines stay");
}

/// A log over its limit keeps beginning and end, says in one line what is missing between them, and the agent never
/// learns of it.
#[tokio::test]
async fn a_log_that_is_too_long_keeps_its_beginning_and_its_end() {
    let mut rules = rules();
    rules.limits.job_log_bytes = 4 << 20;
    let Two { world, agents: [agent, _], jobs: [job, _] } = two_in(World::with_rules(rules).await).await;
    let long = "y".repeat(1_000);
    let total = 12_000_u64;
    for chunk in 0..total / 1_000 {
        let lines = (0..1_000).map(|n| at(n as i64, "info", &format!("{} {long}", chunk * 1_000 + n + 1))).collect();
        send(&agent, &job, chunk * 1_000 + 1, lines).await;
        world.seal_logs().await;
    }
    agent.finish(&job, 1, json!({})).await.done();
    world.seal_logs().await;
    let call = world.call(Method::GET, &format!("/jobs/{job}/logs")).header("accept", "text/plain");
    let whole = call.send().await.expect(200).text();
    let numbers: Vec<u64> = whole
        .lines()
        .filter(|line| line.ends_with('y'))
        .map(|line| line.split_whitespace().nth(2).unwrap().parse().unwrap())
        .collect();
    let gaps: Vec<(u64, u64)> =
        numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).map(|pair| (pair[0], pair[1])).collect();
    assert_eq!((numbers[0], *numbers.last().unwrap(), gaps.len()), (1, total, 1), "{gaps:?}");
    let missing = gaps[0].1 - gaps[0].0 - 1;
    assert_eq!(numbers.len() as u64 + missing, total);
    let said: Vec<&str> = whole.lines().filter(|line| line.contains("were left out here")).collect();
    assert_eq!(said.len(), 1);
    assert!(said[0].contains(&format!("warning  {missing} lines (")), "{}", said[0]);
    assert!(said[0].contains("limits.job_log_mib"), "{}", said[0]);
    let kept: usize = whole.len();
    assert!((3 << 20..5 << 20).contains(&kept), "{kept} bytes are kept");
    assert!(gaps[0].0 > 1_000 && total - gaps[0].1 > 1_000, "{gaps:?}");
    world.collect_garbage().await;
    assert!(blobs(&world).await < 12, "the middle still takes space");
    // The search goes on as if the middle had never been.
    assert_eq!(page_through(&world, "limit=1000", async |_| ()).await.len(), numbers.len());
}
