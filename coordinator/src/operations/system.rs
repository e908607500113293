//! Figures of an account for those who watch the coordinator.

use drover_protocol::{job::JobState, robot::RobotState, task::TaskState};

use super::robot;
use crate::{
    domain::{queue::Counters, robot::Robot, task::Phase},
    error::Result,
    store::{Reader, Scan, key::Kind, schema},
};

/// Jobs of one state and robots are counted up to this many; a fleet that has more is counted as having so many.
pub const MAX_COUNTED: usize = 20_000;

/// Robot states with the words for them.
pub const ROBOT_STATES: [(RobotState, &str); 6] = [
    (RobotState::Offline, "offline"),
    (RobotState::Idle, "idle"),
    (RobotState::Busy, "busy"),
    (RobotState::Draining, "draining"),
    (RobotState::Paused, "paused"),
    (RobotState::Disabled, "disabled"),
];

/// How many jobs, robots and tasks are in which state, and what waits besides.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    jobs: [usize; 6],
    robots: [usize; 6],
    tasks: [u64; TaskState::ALL.len()],
    /// Alerts that are not over.
    pub raised: usize,
    /// Deliveries to webhooks that wait for a try.
    pub deliveries: usize,
}

impl Figures {
    pub fn jobs_in(&self, state: JobState) -> usize {
        self.jobs[state as usize]
    }

    pub fn robots_in(&self, state: RobotState) -> usize {
        self.robots[state as usize]
    }

    pub fn tasks_in(&self, state: TaskState) -> u64 {
        self.tasks[state as usize]
    }

    pub fn plus(mut self, other: Self) -> Self {
        self.tasks.iter_mut().zip(other.tasks).for_each(|(own, more)| *own += more);
        self.raised += other.raised;
        self.deliveries += other.deliveries;
        for (own, more) in self.jobs.iter_mut().zip(other.jobs).chain(self.robots.iter_mut().zip(other.robots)) {
            *own += more;
        }
        self
    }
}

fn state_of(phase: Phase) -> TaskState {
    match phase {
        Phase::NewHigh | Phase::NewNormal | Phase::NewLow => TaskState::New,
        Phase::InProgress => TaskState::InProgress,
        Phase::Postponed => TaskState::Postponed,
        Phase::Succeeded => TaskState::Succeeded,
        Phase::FailedBusiness | Phase::FailedApplication => TaskState::Failed,
        Phase::Abandoned => TaskState::Abandoned,
    }
}

/// Counts unfinished jobs, robots and whatever else waits; tasks by the counters of their queues.
pub fn figures(reading: &Reader) -> Result<Figures> {
    let mut figures = Figures::default();
    for state in JobState::ALL.into_iter().filter(|state| *state != JobState::Finished) {
        let scan = Scan::of(reading, Kind::JobByPhase, schema::unfinished_phase(state));
        figures.jobs[state as usize] = scan.pairs(reading, MAX_COUNTED)?.len();
    }
    for (_, record) in Scan::of(reading, Kind::Robot, ()).records::<Robot>(reading, MAX_COUNTED)? {
        figures.robots[robot::in_full(reading, record)?.state as usize] += 1;
    }
    for (_, counters) in Scan::of(reading, Kind::QueueCounters, ()).records::<Counters>(reading, MAX_COUNTED)? {
        for phase in Phase::ALL {
            figures.tasks[state_of(phase) as usize] += counters.count(phase);
        }
    }
    figures.raised = Scan::of(reading, Kind::RaisedOpen, ()).pairs(reading, MAX_COUNTED)?.len();
    figures.deliveries = Scan::of(reading, Kind::DeliveryDue, ()).pairs(reading, MAX_COUNTED)?.len();
    Ok(figures)
}
