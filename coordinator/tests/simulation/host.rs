//! A host: its processes live and die whatever becomes of the agent, which is started again whenever it has crashed.

use std::{io, rc::Rc, time::Duration};

use drover_agent::{
    attempt::AttemptId,
    clock::Clock,
    coordinator::Coordinator,
    core::CoreSettings,
    daemon::{Daemon, HostProbe, Parts},
    journal::MemoryJournal,
    launcher::{EndMode, EndRequest},
    output::Record,
    report,
    runner::{Control, JobRunner, LineSource},
};
use drover_protocol::{
    Timestamp,
    agent::{Assignment, Finish},
    job::{Cause, CauseCode, ErrorKind, JobError, Outcome},
    log::Level,
    robot::{Health, Host},
};
use tokio::{sync::mpsc, time::Instant};

use crate::{network::Network, people, world::World};

/// A process on a host, as its supervisor would know it.
#[derive(Clone, Debug)]
pub struct Process {
    pub robot: usize,
    started: Instant,
    plan: Plan,
    grace: Duration,
    timeout: Option<Duration>,
    asked: Option<(Instant, EndRequest)>,
    /// Killed from outside: by the agent that gave it up, or by a reboot.
    killed: Option<Instant>,
}

/// What the process would do if it were left alone, taken from the job's input.
#[derive(Clone, Copy, Debug)]
struct Plan {
    runs: Duration,
    succeeds: bool,
    obeys: bool,
}

impl Process {
    /// When and how it ends, or has ended, by what is known now.
    fn end(&self) -> (Instant, Outcome, CauseCode) {
        let natural = self.started + self.plan.runs;
        let (outcome, code) = match self.plan.succeeds {
            true => (Outcome::Succeeded, CauseCode::Completed),
            false => (Outcome::Failed, CauseCode::ExitCode),
        };
        let mut ends = vec![(natural, outcome, code)];
        if let Some(timeout) = self.timeout {
            ends.push((self.started + timeout, Outcome::TimedOut, CauseCode::Timeout));
        }
        if let Some((at, request)) = &self.asked {
            ends.push(match (request.mode, self.plan.obeys) {
                (EndMode::Hard, _) => (*at, Outcome::Aborted, CauseCode::AbortRequested),
                (EndMode::Soft, true) => {
                    (*at + self.grace.min(Duration::from_secs(1)), Outcome::Stopped, CauseCode::StopRequested)
                }
                (EndMode::Soft, false) => (*at + self.grace, Outcome::Aborted, CauseCode::StopGraceExceeded),
            });
        }
        ends.into_iter().min_by_key(|(at, _, _)| *at).expect("it ends naturally at the latest")
    }

    pub fn is_alive(&self) -> bool {
        self.killed.is_none() && Instant::now() < self.end().0
    }

    /// A line each second while it lives.
    pub fn printed(&self) -> u64 {
        let until = self.killed.unwrap_or_else(Instant::now).min(self.end().0);
        until.duration_since(self.started).as_secs()
    }
}

struct SimulatedHost {
    world: Rc<World>,
    robot: usize,
}

struct SimulatedLines {
    world: Rc<World>,
    id: AttemptId,
}

fn id_of(assignment: &Assignment) -> AttemptId {
    AttemptId { job_id: assignment.job.id, attempt: assignment.attempt }
}

fn process_of(assignment: &Assignment, robot: usize) -> Process {
    let input = assignment.job.input.clone().unwrap_or_default();
    let number = |name: &str| input.get(name).and_then(|value| value.as_u64()).unwrap_or_default();
    Process {
        robot,
        started: Instant::now(),
        plan: Plan {
            runs: Duration::from_secs(number("seconds")),
            succeeds: number("fails") < u64::from(assignment.attempt),
            obeys: number("obeys") == 1,
        },
        grace: Duration::from_secs(assignment.job.stop_grace_seconds),
        timeout: assignment.job.timeout_seconds.map(Duration::from_secs),
        asked: None,
        killed: None,
    }
}

impl SimulatedHost {
    fn change(&self, id: AttemptId, change: impl FnOnce(&mut Process)) {
        if let Some(process) = self.world.processes.borrow_mut().get_mut(&id) {
            change(process);
        }
    }

    fn kill(&self, id: AttemptId) {
        self.change(id, |process| {
            process.killed.get_or_insert_with(Instant::now);
        });
    }

    fn process(&self, id: AttemptId) -> Option<Process> {
        self.world.processes.borrow().get(&id).cloned()
    }
}

impl JobRunner for SimulatedHost {
    type Lines = SimulatedLines;

    async fn prepare(&self, _: &Assignment) -> Result<(), Box<Finish>> {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(())
    }

    async fn run(&self, assignment: &Assignment, adopt: bool, _: i64, mut control: Control) -> Box<Finish> {
        let id = id_of(assignment);
        if !adopt {
            let before = self.world.processes.borrow_mut().insert(id, process_of(assignment, self.robot));
            assert!(before.is_none(), "{id} was started twice");
        }
        let mut open = true;
        loop {
            let Some(process) = self.process(id) else {
                return Box::new(report::lost(id, "the crash came just before the start"));
            };
            if process.killed.is_some() {
                return Box::new(report::lost(id, "the host was started anew"));
            }
            let (at, outcome, code) = process.end();
            tokio::select! {
                biased;
                request = control.recv(), if open => match request {
                    Some(request) => self.change(id, |process| process.asked = Some((Instant::now(), request))),
                    None => open = false,
                },
                () = tokio::time::sleep_until(at) => return Box::new(finish(id, outcome, code)),
            }
        }
    }

    async fn deliver(&self, _: &Assignment) {}

    async fn abandon(&self, id: AttemptId) {
        self.kill(id);
    }

    fn lines(&self, id: AttemptId) -> SimulatedLines {
        SimulatedLines { world: Rc::clone(&self.world), id }
    }

    async fn discard(&self, _: AttemptId) {}

    async fn tidy(&self, known: &[AttemptId]) {
        let left: Vec<AttemptId> = self
            .world
            .processes
            .borrow()
            .iter()
            .filter(|(id, process)| process.robot == self.robot && process.is_alive() && !known.contains(id))
            .map(|(id, _)| *id)
            .collect();
        left.into_iter().for_each(|id| self.kill(id));
    }
}

fn finish(id: AttemptId, outcome: Outcome, code: CauseCode) -> Finish {
    let error = (outcome == Outcome::Failed).then(|| JobError {
        kind: ErrorKind::Application,
        code: None,
        message: "as it was meant to".to_owned(),
    });
    let cause = Cause { by: "process".to_owned(), code, message: "simulated".to_owned() };
    Finish { attempt: id.attempt, outcome, exit: None, output: None, error, cause, usage: None }
}

impl LineSource for SimulatedLines {
    async fn read(&mut self, from_seq: u64, max_lines: usize, _: usize) -> io::Result<Vec<Record>> {
        let printed = self.world.processes.borrow().get(&self.id).map_or(0, Process::printed);
        let numbers = (from_seq..=printed).take(max_lines);
        Ok(numbers.map(|n| Record::new(Timestamp::EPOCH, Level::Info, format!("line {n}"))).collect())
    }

    async fn changed(&mut self) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    fn acknowledge(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }
}

struct SimulatedProbe(usize);

impl HostProbe for SimulatedProbe {
    fn host(&mut self) -> Host {
        let capacity = u32::try_from(self.0 % 3 + 1).ok();
        Host { hostname: format!("host-{}", self.0), os: "linux".to_owned(), capacity, ..Host::default() }
    }

    fn health(&mut self) -> Health {
        Health::default()
    }
}

/// A host from its first start to the end of the world.
pub async fn live(world: Rc<World>, robot: usize) {
    let key = people::join(&world, robot).await;
    let journal = MemoryJournal::default();
    let host = Rc::new(SimulatedHost { world: Rc::clone(&world), robot });
    loop {
        let seed = world.below(u64::MAX);
        let parts = Parts {
            coordinator: Rc::new(Coordinator::new(Network(Rc::clone(&world)), Some(&key), seed)),
            runner: Rc::clone(&host),
            journal: journal.clone(),
            probe: Box::new(SimulatedProbe(robot)),
            clock: Clock::starting_at(Timestamp::from_millis(1_795_421_111_000)),
            settings: CoreSettings { capacity: None, drain_timeout_ms: 60_000, poll_seconds: 30 },
            seed,
        };
        let (_signals, received) = mpsc::unbounded_channel();
        let mut daemon = Daemon::new(parts);
        tokio::select! {
            biased;
            ended = daemon.run(received) => panic!("agent {robot} ended by itself: {ended:?}"),
            () = crash(&world) => world.note(format!("agent {robot} crashes")),
        }
        if world.fault(200) {
            world.note(format!("host {robot} is started anew"));
            let mut processes = world.processes.borrow_mut();
            let own = processes.values_mut().filter(|process| process.robot == robot && process.is_alive());
            own.for_each(|process| process.killed = Some(Instant::now()));
        }
        tokio::time::sleep(Duration::from_millis(world.below(10_000))).await;
    }
}

/// The next crash of an agent; never, when faults have ended.
async fn crash(world: &World) {
    loop {
        tokio::time::sleep(Duration::from_millis(world.below(60_000))).await;
        if world.has_faults() {
            return;
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}
