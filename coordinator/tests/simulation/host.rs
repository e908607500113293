//! A host: an agent that is started again whenever it has crashed or was told to end, over processes that go on.

use std::{io, rc::Rc, time::Duration};

use bytes::Bytes;
use drover_agent::{
    attempt::AttemptId,
    clock::Clock,
    coordinator::{CallError, Coordinator},
    core::{CoreSettings, Signal},
    daemon::{Daemon, HostProbe, Parts},
    journal::{Entry, Journal, Loaded, MemoryJournal},
    output::Record,
    report,
    runner::{Control, JobRunner, LineSource},
    transport::{Body, Request, Transport},
};
use drover_protocol::{
    API_BASE, Timestamp,
    agent::{Assignment, Finish},
    log::Level,
    robot::{Health, Host},
};
use http::{HeaderMap, Method};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    network::Network,
    people,
    process::Process,
    workers,
    world::{ROBOTS, World},
};

struct SimulatedHost {
    world: Rc<World>,
    robot: usize,
    coordinator: Rc<Coordinator<Network>>,
    key: Rc<str>,
}

struct SimulatedLines {
    world: Rc<World>,
    id: AttemptId,
}

fn id_of(assignment: &Assignment) -> AttemptId {
    AttemptId { job_id: assignment.job.id, attempt: assignment.attempt }
}

impl SimulatedHost {
    fn start(&self, assignment: &Assignment) {
        let id = id_of(assignment);
        let accepted = self.world.disk.witness.lock().was_accepted(id);
        assert!(accepted, "{id} was started, and the coordinator has not heard that it was taken on");
        self.world.note(format!("{id} starts on robot-{}", self.robot));
        self.world.processes.start(Process::of(assignment, self.robot));
        if assignment.job.input.as_ref().is_some_and(|input| input.get("works") == Some(&1.into())) {
            let (world, key) = (Rc::clone(&self.world), assignment.key.clone());
            // The process goes on whatever becomes of the agent.
            self.world.spawn(workers::work(world, self.robot, id, key));
        }
    }

    async fn put_artifact(&self, id: AttemptId, path: &str, content: &str) -> Result<(), CallError> {
        let unreachable = |why: String| CallError::Unreachable { why, retry_after_ms: None };
        self.world.disk.witness.lock().files.note_sent(content.as_bytes());
        let request = Request {
            method: Method::PUT,
            path: format!("{API_BASE}/agent/jobs/{}/files/{path}?attempt={}", id.job_id, id.attempt),
            key: Some(self.key.as_ref().into()),
            headers: HeaderMap::new(),
            body: Body::Bytes(Bytes::from(content.to_owned())),
            timeout: None,
        };
        let network = Network { world: Rc::clone(&self.world), robot: Some(self.robot) };
        let status = network.call(request).await.map_err(|error| unreachable(error.0))?.status;
        match status.as_u16() {
            201 => {
                let mut artifacts = self.world.artifacts.borrow_mut();
                let newest = artifacts.entry((id.job_id, path.to_owned())).or_default();
                *newest = id.attempt.max(*newest);
                Ok(())
            }
            // It is not this robot's any more; the finish will hear the same.
            404 | 409 => Ok(()),
            429 | 503 | 507 => Err(unreachable(status.to_string())),
            _ => panic!("an artifact was answered with {status}"),
        }
    }
}

impl JobRunner for SimulatedHost {
    type Lines = SimulatedLines;

    async fn prepare(&self, _: &Assignment) -> Result<(), Box<Finish>> {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(())
    }

    async fn run(&self, assignment: &Assignment, adopt: bool, _: i64, mut control: Control) -> Box<Finish> {
        let (id, processes) = (id_of(assignment), &self.world.processes);
        if !adopt {
            self.start(assignment);
        }
        let mut open = true;
        loop {
            let Some(process) = processes.get(id) else {
                return Box::new(report::lost(id, "the crash came just before the start"));
            };
            if process.is_killed() {
                return Box::new(report::lost(id, "the host was started anew"));
            }
            tokio::select! {
                biased;
                request = control.recv(), if open => match request {
                    Some(request) => processes.ask(id, request),
                    None => open = false,
                },
                () = tokio::time::sleep_until(process.ends_at()) => return Box::new(process.finish()),
            }
        }
    }

    async fn deliver(&self, assignment: &Assignment) {
        let id = id_of(assignment);
        let Some(process) = self.world.processes.get(id) else { return };
        for (path, content) in process.artifacts() {
            let sent =
                self.coordinator.until_answered("artifact", async || self.put_artifact(id, &path, &content).await);
            sent.await.expect("every refusal counts as an answer");
        }
    }

    async fn abandon(&self, id: AttemptId) {
        self.world.processes.kill_one(id);
    }

    fn lines(&self, id: AttemptId) -> SimulatedLines {
        SimulatedLines { world: Rc::clone(&self.world), id }
    }

    async fn discard(&self, _: AttemptId) {}

    async fn tidy(&self, known: &[AttemptId]) {
        self.world.processes.kill(self.robot, known);
    }
}

impl LineSource for SimulatedLines {
    async fn read(&mut self, from_seq: u64, max_lines: usize, _: usize) -> io::Result<Vec<Record>> {
        let Some(process) = self.world.processes.get(self.id) else { return Ok(Vec::new()) };
        let numbers = (from_seq..=process.printed()).take(max_lines);
        Ok(numbers.map(|n| Record::new(Timestamp::EPOCH, Level::Info, process.line(n))).collect())
    }

    async fn changed(&mut self) {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    fn acknowledge(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }
}

/// A journal whose disk is full now and then, and that forgets with a crash what was not flushed.
#[derive(Clone)]
struct FaultyJournal {
    entries: MemoryJournal,
    unflushed: Vec<Entry>,
    world: Rc<World>,
}

impl FaultyJournal {
    fn may_be_full(&self) -> io::Result<()> {
        if self.world.fault(10) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl Journal for FaultyJournal {
    fn load(&mut self) -> io::Result<Loaded> {
        self.entries.load()
    }

    fn put(&mut self, entry: &Entry) -> io::Result<()> {
        self.may_be_full()?;
        self.unflushed.push(entry.clone());
        Ok(())
    }

    fn remove(&mut self, id: AttemptId) -> io::Result<()> {
        self.unflushed.retain(|entry| entry.id() != id);
        self.may_be_full()?;
        self.entries.remove(id)
    }

    fn flush(&mut self) -> io::Result<()> {
        let unflushed = std::mem::take(&mut self.unflushed);
        self.may_be_full()?;
        unflushed.iter().try_for_each(|entry| self.entries.put(entry))
    }
}

struct SimulatedProbe(usize);

impl HostProbe for SimulatedProbe {
    fn host(&mut self) -> Host {
        Host { capacity: u32::try_from(self.0 % 3 + 1).ok(), ..people::host(self.0) }
    }

    fn health(&mut self) -> Health {
        Health::default()
    }
}

/// A host from its first start to the end of the world.
pub async fn live(world: Rc<World>, robot: usize) {
    let key: Rc<str> = people::join(&world, robot).await.into();
    let journal = FaultyJournal { entries: MemoryJournal::default(), unflushed: Vec::new(), world: Rc::clone(&world) };
    let network = Network { world: Rc::clone(&world), robot: Some(robot) };
    while world.dead.get() != Some(robot) {
        let seed = world.below(u64::MAX);
        let coordinator = Rc::new(Coordinator::new(network.clone(), Some(&key), seed));
        let host = SimulatedHost {
            world: Rc::clone(&world),
            robot,
            coordinator: Rc::clone(&coordinator),
            key: Rc::clone(&key),
        };
        let mut daemon = Daemon::new(Parts {
            coordinator,
            runner: Rc::new(host),
            journal: journal.clone(),
            probe: Box::new(SimulatedProbe(robot)),
            clock: Clock::starting_at(world.host_time()),
            settings: CoreSettings { capacity: None, drain_timeout_ms: 20_000, poll_seconds: 30 },
            seed,
        });
        let (signals, received) = mpsc::unbounded_channel();
        tokio::select! {
            biased;
            ended = daemon.run(received) => world.note(format!("agent {robot} has ended: {ended:?}")),
            () = end_agent(&world, robot, &signals) => world.note(format!("agent {robot} crashes")),
        }
        drop(daemon);
        if world.fault(200) || world.dead.get() == Some(robot) {
            world.note(format!("host {robot} is started anew"));
            world.processes.kill(robot, &[]);
        }
        let long = world.fault(100);
        tokio::time::sleep(Duration::from_millis(world.below(if long { 120_000 } else { 10_000 }))).await;
    }
}

/// Tells the agent to end, or returns when it is to crash; neither, when faults have ended.
async fn end_agent(world: &World, robot: usize, signals: &mpsc::UnboundedSender<Signal>) {
    let until = Instant::now() + Duration::from_millis(world.below(80_000));
    let kind = world.below(10);
    while Instant::now() < until {
        tokio::time::sleep_until(until.min(Instant::now() + Duration::from_secs(10))).await;
        if world.dead.get() == Some(robot) {
            return;
        }
    }
    if !world.has_faults() {
        return std::future::pending().await;
    }
    let asked: &[Signal] = match kind {
        0 => &[Signal::Drain],
        1 => &[Signal::Terminate],
        2 => &[Signal::Terminate, Signal::Terminate],
        3 => &[Signal::Terminate, Signal::Terminate, Signal::Terminate],
        _ => return,
    };
    for signal in asked {
        world.note(format!("agent {robot} gets {signal:?}"));
        // The agent that does not listen any more has ended already.
        let _ = signals.send(*signal);
        tokio::time::sleep(Duration::from_millis(world.below(5_000))).await;
    }
    // Whoever waits for its end loses patience at last.
    tokio::time::sleep(Duration::from_secs(120)).await;
}

/// Some host dies for good, in every second world.
pub async fn die(world: Rc<World>) {
    let (robot, seconds) = (world.pick(2 * ROBOTS), 40 + world.below(120));
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    if robot < ROBOTS {
        world.note(format!("host {robot} dies for good"));
        world.dead.set(Some(robot));
    }
}
