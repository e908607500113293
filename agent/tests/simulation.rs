//! Real daemons in one thread under virtual time, with a network that loses requests and answers and with crashes at any await
//! point: every job runs exactly once, every line arrives once, every end is known. One seed gives one history.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    io,
    rc::{Rc, Weak},
    time::Duration,
};

use bytes::Bytes;
use drover_agent::{
    attempt::AttemptId,
    backoff::Jitter,
    clock::Clock,
    coordinator::Coordinator,
    core::CoreSettings,
    daemon::{Daemon, HostProbe, Parts},
    journal::MemoryJournal,
    output::Record,
    report,
    runner::{Control, JobRunner, LineSource},
    transport::{Body, Request, Response, Transport, TransportError},
};
use drover_protocol::{
    Timestamp,
    agent::{Assignment, Finish, LogChunk},
    job::{Cause, CauseCode, Outcome},
    log::Level,
    robot::{Health, Host},
};
use futures::StreamExt;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};

const JOBS: usize = 20;

/// The world outside of the agent: it survives crashes.
struct World {
    jitter: RefCell<Jitter>,
    /// Of a thousand requests so many are lost, and as many answers.
    losses: Cell<u64>,
    waiting: RefCell<Vec<String>>,
    assigned: RefCell<BTreeSet<String>>,
    accepted: RefCell<BTreeSet<String>>,
    lines: RefCell<BTreeMap<String, Vec<String>>>,
    finished: RefCell<BTreeMap<String, Value>>,
    /// Lives as long as a poll is on its way.
    poll: RefCell<Weak<()>>,
    /// When each process was started; a second start is the worst that can happen.
    started: RefCell<BTreeMap<AttemptId, Instant>>,
    trace: RefCell<Vec<String>>,
}

impl World {
    fn chance(&self, of_thousand: u64) -> bool {
        self.jitter.borrow_mut().below(1000) < of_thousand
    }

    fn note(&self, text: String) {
        self.trace.borrow_mut().push(text);
    }
}

fn job_id(n: usize) -> String {
    format!("0192f6c4-7a10-7cc3-98c4-{n:012x}")
}

fn assignment(job: &str) -> Value {
    let time = "2026-11-23T08:00:00.000Z";
    json!({
        "job": {
            "id": job, "process_id": job, "process_name": "p", "process_version_id": job, "version_number": 1, "target": {},
            "state": "assigned", "outcome": null, "cause": null, "attempt": 1, "tries": 0, "robot_id": null, "robot_name": null,
            "priority": 2, "error": null, "exit": null, "usage": null, "progress": null, "source": {"kind": "user", "id": "u"},
            "created_at": time, "not_before": null, "assigned_at": null, "started_at": null, "finished_at": null,
            "stop_after": null, "abort_after": null, "timeout_seconds": null, "stop_grace_seconds": 30, "lease_ends_at": null,
            "labels": {}, "parent_job_id": null, "revision": 1
        },
        "attempt": 1, "lease_ends_at": time, "key": "k", "secrets_to_mask": [], "log_level": "info",
        "version": {"id": job, "number": 1, "sha256": "", "size_bytes": 0,
            "manifest": {"source": "inferred", "name": null, "run": {"command": ["x"]}}}
    })
}

/// A coordinator in memory behind a bad network.
#[derive(Clone)]
struct Network(Rc<World>);

impl Transport for Network {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        let world = &self.0;
        let on_its_way = Rc::new(());
        if request.path.ends_with("/next") {
            let before = world.poll.replace(Rc::downgrade(&on_its_way));
            assert_eq!(before.strong_count(), 0, "there is one poll at a time");
        }
        let delay = 1 + world.jitter.borrow_mut().below(80);
        tokio::time::sleep(Duration::from_millis(delay)).await;
        if world.chance(world.losses.get()) {
            return Err(TransportError("the request was lost".to_owned()));
        }
        let (status, body) = self.serve(&request).await;
        if world.chance(world.losses.get()) {
            return Err(TransportError("the answer was lost".to_owned()));
        }
        let body = futures::stream::iter([Ok(Bytes::from(body.to_string()))]).boxed_local();
        Ok(Response { status, headers: HeaderMap::new(), body })
    }
}

impl Network {
    async fn serve(&self, request: &Request) -> (StatusCode, Value) {
        let world = &self.0;
        let body = match &request.body {
            Body::Bytes(bytes) if request.headers.contains_key("content-encoding") => {
                zstd::decode_all(bytes.as_ref()).expect("zstd")
            }
            Body::Bytes(bytes) => bytes.to_vec(),
            other => panic!("unexpected body {other:?}"),
        };
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        let path = request.path.strip_prefix("/api/v1/agent/").expect("an agent's call");
        world.note(path.to_owned());
        if path == "heartbeat" {
            let answer = json!({"server_time": "2026-11-23T08:00:00.000Z", "lease_seconds": 60, "next_in_seconds": 20, "jobs": [],
                "robot": {"state": "idle", "paused": null}, "config": {"capacity": 2}});
            return (StatusCode::OK, answer);
        }
        if path == "next" {
            return self.next(&body).await;
        }
        let job = path.split('/').nth(1).expect("a job").to_owned();
        match path.rsplit('/').next() {
            Some("accept") => {
                world.accepted.borrow_mut().insert(job);
                (StatusCode::OK, json!({"lease_ends_at": "2026-11-23T08:00:00.000Z"}))
            }
            Some("logs") => self.logs(job, serde_json::from_value(body).expect("a chunk")),
            Some("finish") => {
                let before = world.finished.borrow_mut().insert(job, body.clone());
                assert!(before.is_none_or(|before| before == body), "a repeated report is the same");
                (StatusCode::OK, json!({}))
            }
            other => panic!("unexpected call {other:?}"),
        }
    }

    async fn next(&self, body: &Value) -> (StatusCode, Value) {
        let until = Instant::now() + Duration::from_secs(body["wait_seconds"].as_u64().expect("a number"));
        while Instant::now() < until {
            let given = self.give(body);
            if !given.is_empty() {
                let assignments: Vec<Value> = given.iter().map(|job| assignment(job)).collect();
                return (StatusCode::OK, json!({"assignments": assignments, "commands": []}));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        (StatusCode::NO_CONTENT, Value::Null)
    }

    /// First what was given before and is not known to the agent, then what waits.
    fn give(&self, body: &Value) -> Vec<String> {
        let free = usize::try_from(body["free"].as_u64().expect("a number")).expect("small");
        let known: Vec<String> = serde_json::from_value(body["known"].clone()).expect("ids");
        let (mut assigned, accepted) = (self.0.assigned.borrow_mut(), self.0.accepted.borrow());
        let mut given: Vec<String> = assigned
            .iter()
            .filter(|job| !known.contains(job) && !accepted.contains(*job))
            .take(free)
            .cloned()
            .collect();
        let fresh: Vec<String> = (given.len()..free).filter_map(|_| self.0.waiting.borrow_mut().pop()).collect();
        assigned.extend(fresh.iter().cloned());
        given.extend(fresh);
        given
    }

    fn logs(&self, job: String, chunk: LogChunk) -> (StatusCode, Value) {
        let mut all = self.0.lines.borrow_mut();
        let lines = all.entry(job).or_default();
        let expected = lines.len() as u64 + 1;
        if chunk.first_seq > expected {
            let problem = json!({"type": "log_gap", "title": "", "status": 409, "detail": "", "request_id": "", "next_seq": expected});
            return (StatusCode::CONFLICT, problem);
        }
        let known = usize::try_from(expected - chunk.first_seq).expect("small");
        lines.extend(chunk.lines.into_iter().skip(known).map(|line| line.message));
        (StatusCode::OK, json!({"next_seq": lines.len() as u64 + 1}))
    }
}

/// A host whose processes print a line each second of their ten, whatever becomes of the agent.
struct SimulatedHost(Rc<World>);

struct SimulatedLines(Rc<World>, AttemptId);

fn id_of(assignment: &Assignment) -> AttemptId {
    AttemptId { job_id: assignment.job.id, attempt: assignment.attempt }
}

impl JobRunner for SimulatedHost {
    type Lines = SimulatedLines;

    async fn prepare(&self, _: &Assignment) -> Result<(), Box<Finish>> {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(())
    }

    async fn run(&self, assignment: &Assignment, adopt: bool, _: i64, _: Control) -> Box<Finish> {
        let id = id_of(assignment);
        let started = self.0.started.borrow().get(&id).copied();
        let started = match (adopt, started) {
            (true, Some(started)) => started,
            (true, None) => return Box::new(report::lost(id, "the crash came just before the start")),
            (false, started) => {
                assert!(started.is_none(), "{id} was started twice");
                self.0.started.borrow_mut().insert(id, Instant::now());
                Instant::now()
            }
        };
        tokio::time::sleep_until(started + Duration::from_secs(10)).await;
        Box::new(Finish {
            attempt: id.attempt,
            outcome: Outcome::Succeeded,
            exit: None,
            output: None,
            error: None,
            cause: Cause { by: "process".to_owned(), code: CauseCode::Completed, message: String::new() },
            usage: None,
        })
    }

    async fn deliver(&self, _: &Assignment) {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    async fn abandon(&self, _: AttemptId) {}

    fn lines(&self, id: AttemptId) -> SimulatedLines {
        SimulatedLines(Rc::clone(&self.0), id)
    }

    async fn discard(&self, _: AttemptId) {}

    /// Something is left that cannot be removed. Nothing waits for that.
    async fn tidy(&self, _: &[AttemptId]) {
        std::future::pending().await
    }
}

impl LineSource for SimulatedLines {
    async fn read(&mut self, from_seq: u64, max_lines: usize, _: usize) -> io::Result<Vec<Record>> {
        let started = self.0.started.borrow().get(&self.1).copied();
        let printed = started.map_or(0, |started| started.elapsed().as_secs().min(10));
        let numbers = (from_seq..=printed).take(max_lines);
        Ok(numbers.map(|n| Record::new(Timestamp::EPOCH, Level::Info, format!("line {n}"))).collect())
    }

    async fn changed(&mut self) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    fn acknowledge(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }
}

struct NoProbe;

impl HostProbe for NoProbe {
    fn host(&mut self) -> Host {
        Host::default()
    }

    fn health(&mut self) -> Health {
        Health::default()
    }
}

async fn live(world: Rc<World>, seed: u64) {
    let journal = MemoryJournal::default();
    let runner = Rc::new(SimulatedHost(Rc::clone(&world)));
    let begin = Instant::now();
    for life in 0.. {
        let parts = Parts {
            coordinator: Rc::new(Coordinator::new(Network(Rc::clone(&world)), Some("key"), seed + life)),
            runner: Rc::clone(&runner),
            journal: journal.clone(),
            probe: Box::new(NoProbe),
            clock: Clock::starting_at(Timestamp::from_millis(1_795_421_111_000)),
            settings: CoreSettings { capacity: None, drain_timeout_ms: 60_000, poll_seconds: 30 },
            seed: seed + life,
        };
        let (_signals, received) = mpsc::unbounded_channel();
        let mut daemon = Daemon::new(parts);
        // First faults, then none: whatever they have done, all must come to its end.
        let calm = begin.elapsed() > Duration::from_secs(120);
        if calm {
            world.losses.set(0);
        }
        let lifetime = Duration::from_millis(if calm { 3_600_000 } else { world.jitter.borrow_mut().below(15_000) });
        let all_known = async {
            while world.finished.borrow().len() < JOBS {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        tokio::select! {
            biased;
            result = daemon.run(received) => panic!("the agent ended by itself: {result:?}"),
            () = tokio::time::sleep(lifetime) => assert!(!calm, "faults are over and still not all jobs have ended"),
            () = all_known => return,
        }
    }
}

fn simulate(seed: u64) -> Vec<String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let world = Rc::new(World {
        jitter: RefCell::new(Jitter::new(seed)),
        losses: Cell::new(150),
        waiting: RefCell::new((0..JOBS).map(job_id).collect()),
        assigned: RefCell::default(),
        accepted: RefCell::default(),
        lines: RefCell::default(),
        finished: RefCell::default(),
        poll: RefCell::default(),
        started: RefCell::default(),
        trace: RefCell::default(),
    });
    runtime.block_on(live(Rc::clone(&world), seed));
    let expected: Vec<String> = (1..=10).map(|n| format!("line {n}")).collect();
    for (job, report) in world.finished.borrow().iter() {
        if report["outcome"] == "succeeded" {
            assert_eq!(world.lines.borrow().get(job), Some(&expected), "seed {seed}, {job}");
        } else {
            // Only a crash between the record and the start may do this, and then nothing was started.
            assert_eq!(report["outcome"], "lost", "seed {seed}, {job}");
            let id = AttemptId { job_id: job.parse().expect("an id"), attempt: 1 };
            assert!(!world.started.borrow().contains_key(&id), "seed {seed}, {job}");
        }
    }
    world.trace.take()
}

#[test]
fn crashes_and_losses_lose_and_double_nothing() {
    let seeds = std::env::var("SIMULATION_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(20);
    for seed in 0..seeds {
        simulate(seed);
    }
}

#[test]
fn one_seed_gives_one_history() {
    assert_eq!(simulate(7), simulate(7));
    assert_ne!(simulate(7), simulate(8));
}
