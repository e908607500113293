//! Figures of an account for those who watch the coordinator.

use drover_protocol::{job::JobState, robot::RobotState};

use super::robot;
use crate::{
    domain::robot::Robot,
    error::Result,
    store::{Reader, Scan, key::Kind, schema},
};

/// Jobs of one state and robots are counted up to this many; a fleet that has more is counted as having so many.
const MAX_COUNTED: usize = 20_000;

/// Robot states with the words for them.
pub const ROBOT_STATES: [(RobotState, &str); 6] = [
    (RobotState::Offline, "offline"),
    (RobotState::Idle, "idle"),
    (RobotState::Busy, "busy"),
    (RobotState::Draining, "draining"),
    (RobotState::Paused, "paused"),
    (RobotState::Disabled, "disabled"),
];

/// How many jobs and robots are in which state.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    jobs: [usize; 6],
    robots: [usize; 6],
}

impl Figures {
    pub fn jobs_in(&self, state: JobState) -> usize {
        self.jobs[state as usize]
    }

    pub fn robots_in(&self, state: RobotState) -> usize {
        self.robots[state as usize]
    }

    pub fn plus(mut self, other: Self) -> Self {
        for (own, more) in self.jobs.iter_mut().zip(other.jobs).chain(self.robots.iter_mut().zip(other.robots)) {
            *own += more;
        }
        self
    }
}

/// Counts unfinished jobs and robots.
pub fn figures(reading: &Reader) -> Result<Figures> {
    let mut figures = Figures::default();
    for state in JobState::ALL.into_iter().filter(|state| *state != JobState::Finished) {
        let scan = Scan::of(reading, Kind::JobByPhase, schema::unfinished_phase(state));
        figures.jobs[state as usize] = scan.pairs(reading, MAX_COUNTED)?.len();
    }
    for (_, record) in Scan::of(reading, Kind::Robot, ()).records::<Robot>(reading, MAX_COUNTED)? {
        figures.robots[robot::in_full(reading, record)?.state as usize] += 1;
    }
    Ok(figures)
}
