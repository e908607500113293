//! Processes on hosts: they live and die whatever becomes of the agents that started them.

use std::{collections::BTreeMap, time::Duration};

use drover_agent::{
    attempt::AttemptId,
    launcher::{EndMode, EndRequest},
};
use drover_protocol::{
    agent::{Assignment, Finish},
    job::{Cause, CauseCode, ErrorKind, JobError, Outcome},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

/// A process on a host, as its supervisor would know it.
#[derive(Clone, Debug)]
pub struct Process {
    id: AttemptId,
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
    artifacts: u64,
}

impl Process {
    pub fn of(assignment: &Assignment, robot: usize) -> Self {
        let input = assignment.job.input.clone().unwrap_or_default();
        let number = |name: &str| input.get(name).and_then(Value::as_u64).unwrap_or_default();
        Self {
            id: AttemptId { job_id: assignment.job.id, attempt: assignment.attempt },
            robot,
            started: Instant::now(),
            plan: Plan {
                runs: Duration::from_secs(number("seconds")),
                succeeds: number("fails") < u64::from(assignment.attempt),
                obeys: number("obeys") == 1,
                artifacts: number("artifacts"),
            },
            grace: Duration::from_secs(assignment.job.stop_grace_seconds),
            timeout: assignment.job.timeout_seconds.map(Duration::from_secs),
            asked: None,
            killed: None,
        }
    }

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

    pub fn ends_at(&self) -> Instant {
        self.end().0
    }

    pub fn is_alive(&self) -> bool {
        self.killed.is_none() && Instant::now() < self.end().0
    }

    pub fn is_killed(&self) -> bool {
        self.killed.is_some()
    }

    /// How it ended; `None` if it has not, or nobody can know.
    pub fn outcome(&self) -> Option<Outcome> {
        (self.killed.is_none() && !self.is_alive()).then(|| self.end().1)
    }

    /// A line each second while it lived.
    pub fn printed(&self) -> u64 {
        let until = self.killed.unwrap_or_else(Instant::now).min(self.end().0);
        until.duration_since(self.started).as_secs()
    }

    /// What the numbered line says; no other attempt prints the same.
    pub fn line(&self, number: u64) -> String {
        format!("{} line {number}", self.id)
    }

    /// Files that it leaves behind, with their content. Attempts of one job use the same names.
    pub fn artifacts(&self) -> impl Iterator<Item = (String, String)> {
        let id = self.id;
        (0..self.plan.artifacts).map(move |number| (format!("part/{number}.txt"), format!("{number} of {id}")))
    }

    /// What it says it has found out.
    pub fn output(&self) -> Value {
        json!({"of": self.id.to_string()})
    }

    /// What is reported of it when it has ended.
    pub fn finish(&self) -> Finish {
        let (_, outcome, code) = self.end();
        let error = (outcome == Outcome::Failed).then(|| JobError {
            kind: ErrorKind::Application,
            code: None,
            message: "as it was meant to".to_owned(),
        });
        let cause = Cause { by: "process".to_owned(), code, message: "simulated".to_owned() };
        let output = (outcome == Outcome::Succeeded).then(|| self.output());
        Finish { attempt: self.id.attempt, outcome, exit: None, output, error, cause, usage: None }
    }
}

/// Every process that ever ran on any host.
#[derive(Default)]
pub struct Processes(Mutex<BTreeMap<AttemptId, Process>>);

impl Processes {
    pub fn get(&self, id: AttemptId) -> Option<Process> {
        self.0.lock().get(&id).cloned()
    }

    /// Starts one; an attempt must never be started twice.
    pub fn start(&self, process: Process) {
        let (id, before) = (process.id, self.get(process.id));
        assert!(before.is_none(), "{id} was started twice");
        self.0.lock().insert(id, process);
    }

    pub fn ask(&self, id: AttemptId, request: EndRequest) {
        if let Some(process) = self.0.lock().get_mut(&id) {
            process.asked = Some((Instant::now(), request));
        }
    }

    /// Kills those that live of a robot and are not known to it.
    pub fn kill(&self, robot: usize, known: &[AttemptId]) {
        for (id, process) in &mut *self.0.lock() {
            if process.robot == robot && process.is_alive() && !known.contains(id) {
                process.killed = Some(Instant::now());
            }
        }
    }

    pub fn kill_one(&self, id: AttemptId) {
        if let Some(process) = self.0.lock().get_mut(&id).filter(|process| process.is_alive()) {
            process.killed = Some(Instant::now());
        }
    }

    pub fn alive(&self) -> Vec<AttemptId> {
        self.0.lock().iter().filter(|(_, process)| process.is_alive()).map(|(id, _)| *id).collect()
    }
}
