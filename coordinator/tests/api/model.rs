//! Random calls of people, agents and the clock, held after each step against what must always be so.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::support::{Agent, World, text};

/// What the agents of the test believe: jobs that they were given, with the attempt.
#[derive(Default)]
struct Belief {
    given: Vec<(usize, String, u64)>,
}

struct Fleet {
    world: World,
    agents: Vec<Agent>,
    belief: Belief,
    random: StdRng,
    /// Finished jobs as they were first seen, without what may still come beside them.
    finished: BTreeMap<String, (u64, Value)>,
    /// Which robot held which attempt.
    holders: BTreeMap<(String, u64), String>,
    steps: BTreeMap<&'static str, usize>,
    /// Ids of all jobs that were ever seen finished.
    ended: BTreeSet<String>,
}

const CAPACITY: [u64; 4] = [1, 2, 3, 1];
const MAX_PARALLEL: usize = 3;

impl Fleet {
    async fn new(seed: u64) -> Self {
        let world = World::new().await;
        let retry = json!({ "max_attempts": 2, "on": ["failed", "lost", "timed_out"], "delay_seconds": 7 });
        world.process_with("free", json!({ "retry": retry }), &[("main.sh", "true")]).await;
        let few = json!({ "max_parallel": MAX_PARALLEL, "timeout_seconds": 90 });
        world.process_with("few", few, &[("main.sh", "true")]).await;
        world.post("/robot-groups", json!({ "name": "g" })).await.created();
        let mut agents = Vec::new();
        for (number, capacity) in CAPACITY.iter().enumerate() {
            let name = format!("r{number}");
            agents.push(world.agent_with(&name, json!({ "capacity": capacity })).await);
            if number % 2 == 0 {
                world.call(http::Method::PUT, &format!("/robot-groups/g/robots/{name}")).send().await.done();
            }
        }
        let random = StdRng::seed_from_u64(seed);
        Self {
            world,
            agents,
            belief: Belief::default(),
            random,
            finished: BTreeMap::new(),
            holders: BTreeMap::new(),
            steps: BTreeMap::new(),
            ended: BTreeSet::new(),
        }
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.random.random_range(0..from.len())].clone()
    }

    async fn jobs(&self) -> Vec<Value> {
        let (mut jobs, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.world.get(&format!("/jobs?limit=1000{cursor}")).await.ok();
            jobs.extend(page["items"].as_array().unwrap().iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return jobs,
            }
        }
    }

    async fn some_job(&mut self) -> Option<String> {
        let jobs = self.jobs().await;
        (!jobs.is_empty()).then(|| text(&self.pick(&jobs), "/id"))
    }

    /// One random call. Any refusal is fine, as long as it is one that the API knows; that is checked with every answer.
    async fn step(&mut self) {
        let kinds = [
            ("start", 10),
            ("next", 8),
            ("accept", 8),
            ("finish", 7),
            ("beat", 6),
            ("stop", 2),
            ("close", 1),
            ("retry", 2),
            ("pause", 1),
            ("delete", 3),
            ("log", 2),
            ("time", 5),
            ("seal", 1),
        ];
        let total: u32 = kinds.iter().map(|(_, weight)| weight).sum();
        let mut at = self.random.random_range(0..total);
        let kind = kinds.iter().find(|(_, weight)| {
            at.checked_sub(*weight).is_none_or(|rest| {
                at = rest;
                false
            })
        });
        let kind = kind.expect("the weights are those that were summed").0;
        *self.steps.entry(kind).or_default() += 1;
        match kind {
            "start" => self.start().await,
            "next" => self.next().await,
            "accept" | "finish" | "log" => self.report(kind).await,
            "beat" => self.beat().await,
            "stop" | "close" | "retry" | "delete" => self.command(kind).await,
            "pause" => self.pause().await,
            "time" => {
                let seconds = self.pick(&[1, 5, 20, 31, 61, 120, 301]);
                self.world.pass_time(seconds).await;
            }
            _ => self.world.seal_logs().await,
        }
    }

    async fn start(&mut self) {
        let target = self.pick(&[json!({ "group": "all" }), json!({ "group": "g" }), json!({ "robot": "r1" })]);
        let (process, priority) = (self.pick(&["free", "few"]), self.random.random_range(1..=3));
        let mut request = json!({ "process": process, "target": target, "priority": priority });
        if self.random.random_bool(0.2) {
            let after = self.random.random_range(1..200);
            let field = self.pick(&["not_before", "stop_after", "abort_after"]);
            request[field] = json!(self.world.now().plus_seconds(after).to_string());
        }
        self.world.post("/jobs", request).await.created();
    }

    async fn next(&mut self) {
        let number = self.random.random_range(0..self.agents.len());
        let free = self.random.random_range(0..4);
        let all: Vec<String> =
            self.belief.given.iter().filter(|(agent, ..)| *agent == number).map(|(_, job, _)| job.clone()).collect();
        // Now and then the agent has forgotten what it was given, as after a lost answer.
        let known: Vec<&str> = all.iter().filter(|_| self.random.random_bool(0.9)).map(String::as_str).collect();
        let answer = self.agents[number].next(free, &known).await;
        if answer.status == 204 {
            return;
        }
        for assignment in answer.ok()["assignments"].as_array().unwrap() {
            let given = (number, text(assignment, "/job/id"), assignment["attempt"].as_u64().unwrap());
            if !self.belief.given.contains(&given) {
                self.belief.given.push(given);
            }
        }
    }

    /// An agent says something about an attempt that it was given once, right or wrong by now.
    async fn report(&mut self, kind: &str) {
        if self.belief.given.is_empty() {
            return;
        }
        let recent = self.belief.given.len().saturating_sub(12);
        let recent = self.belief.given[recent..].to_vec();
        let (mut agent, job, mut attempt) = self.pick(&recent);
        if self.random.random_bool(0.05) {
            agent = self.random.random_range(0..self.agents.len());
        }
        if self.random.random_bool(0.05) {
            attempt = self.random.random_range(0..5);
        }
        let agent = self.agents[agent].clone();
        let answer = match kind {
            "accept" => agent.accept(&job, attempt).await,
            "log" => agent.log(&job, attempt, 1, &["one", "two"]).await,
            _ => {
                let outcome = self.pick(&["succeeded", "failed", "stopped", "aborted", "timed_out", "lost"]);
                let cause = json!({ "by": "agent", "code": "exit_code", "message": "it ended" });
                agent.finish(&job, attempt, json!({ "outcome": outcome, "cause": cause })).await
            }
        };
        assert!([200, 204, 404, 409].contains(&answer.status.as_u16()), "{kind}: {answer:?}");
    }

    async fn beat(&mut self) {
        let number = self.random.random_range(0..self.agents.len());
        let held: Vec<(String, u64)> = self
            .belief
            .given
            .iter()
            .filter(|(agent, ..)| *agent == number)
            .map(|(_, job, attempt)| (job.clone(), *attempt))
            .collect();
        let held: Vec<(&str, u64)> = held.iter().map(|(job, attempt)| (job.as_str(), *attempt)).collect();
        let answer = self.agents[number].beat(&held).await;
        // What the coordinator takes away the agent forgets.
        for told in answer["jobs"].as_array().unwrap().iter().filter(|told| told["command"] == "drop") {
            let gone = (number, text(told, "/job_id"), told["attempt"].as_u64().unwrap());
            self.belief.given.retain(|given| *given != gone);
        }
    }

    async fn command(&mut self, kind: &str) {
        let Some(job) = self.some_job().await else { return };
        let path = format!("/jobs/{job}");
        let answer = match kind {
            "stop" => {
                let mode = self.pick(&["stop", "abort"]);
                self.world.post(&format!("{path}/stop"), json!({ "mode": mode })).await
            }
            "close" => self.world.post(&format!("{path}/close"), json!({ "outcome": "lost", "reason": "x" })).await,
            "retry" => self.world.act(&format!("{path}/retry")).await,
            _ => self.world.delete(&path).await,
        };
        assert!([200, 204, 409].contains(&answer.status.as_u16()), "{kind}: {answer:?}");
        if answer.status != 409 && (kind == "retry" || kind == "delete") {
            self.finished.remove(&job);
        }
    }

    async fn pause(&mut self) {
        let object = self.pick(&["/robots/r0", "/robots/r1", "/robot-groups/g", "/robot-groups/all"]);
        let mode = self.pick(&["drain", "stop", "abort"]);
        let until = self.world.now().plus_seconds(40).to_string();
        let pause = json!({ "mode": mode, "reason": "x", "until": until });
        match self.random.random_bool(0.4) {
            true => self.world.post(&format!("{object}/pause"), pause).await.ok(),
            false => self.world.act(&format!("{object}/resume")).await.ok(),
        };
    }

    /// What must be so after every step.
    async fn check(&mut self) {
        let jobs = self.jobs().await;
        let held: Vec<&Value> = jobs
            .iter()
            .filter(|job| ["assigned", "running", "silent", "stopping"].contains(&job["state"].as_str().unwrap()))
            .collect();
        for (agent, capacity) in self.agents.iter().zip(CAPACITY) {
            let own: BTreeSet<String> =
                held.iter().filter(|job| job["robot_id"] == agent.id).map(|job| text(job, "/id")).collect();
            assert!(own.len() as u64 <= capacity, "a robot of capacity {capacity} holds {}", own.len());
            let shown = self.world.get(&format!("/robots/{}", agent.id)).await.ok();
            let shown: BTreeSet<String> =
                shown["running"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect();
            assert_eq!(shown, own);
        }
        let few = held.iter().filter(|job| job["process_name"] == "few").count();
        assert!(few <= MAX_PARALLEL, "{few} jobs run of a process that allows {MAX_PARALLEL}");
        for job in &held {
            let attempt = (text(job, "/id"), job["attempt"].as_u64().unwrap());
            let robot = text(job, "/robot_id");
            let first = self.holders.entry(attempt).or_insert_with(|| robot.clone());
            assert_eq!(*first, robot, "one attempt was held by two robots");
        }
        for job in jobs.iter().filter(|job| job["state"] == "finished") {
            assert!(job["outcome"].is_string() && job["cause"].is_object() && job["finished_at"].is_string());
            let seen = (job["revision"].as_u64().unwrap(), job["outcome"].clone());
            self.ended.insert(text(job, "/id"));
            let first = self.finished.entry(text(job, "/id")).or_insert_with(|| seen.clone());
            assert_eq!(*first, seen, "a finished job has changed");
        }
        for job in jobs.iter().filter(|job| job["state"] != "finished") {
            assert!(!self.finished.contains_key(&text(job, "/id")), "a finished job lives again: {job}");
        }
        self.world.check();
    }

    /// When nobody says anything any more, every job that was ever held comes to an end or waits again.
    async fn check_that_all_ends(&mut self) {
        for object in ["/robots/r0", "/robots/r1", "/robot-groups/g", "/robot-groups/all"] {
            self.world.act(&format!("{object}/resume")).await.ok();
        }
        for _ in 0..12 {
            self.world.pass_time(61).await;
        }
        for job in self.jobs().await {
            assert!(["waiting", "finished"].contains(&job["state"].as_str().unwrap()), "{job}");
        }
    }
}

/// Nothing that agents, people and time do in any order breaks a rule.
#[tokio::test]
async fn random_calls_break_no_rule() {
    for seed in 1..=4 {
        let mut fleet = Fleet::new(seed).await;
        for _ in 0..500 {
            fleet.step().await;
            fleet.check().await;
        }
        fleet.check_that_all_ends().await;
        assert_eq!(fleet.steps.len(), 13, "some kind of step was never tried: {:?}", fleet.steps);
        assert!(fleet.ended.len() > 25, "hardly anything has ended: {}", fleet.ended.len());
    }
}
