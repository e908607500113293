//! The agent's state machine: events in, actions out. Pure and synchronous: no I/O, no clock, no randomness but a seed.
//!
//! ```text
//!            offered                accepted            prepared            process gone
//!  (next) ──────────► Accepting ──────────► Preparing ──────────► Running ──────────────┐
//!                        │ refused              │ failed, ended first                    ▼
//!                        ▼                      └──────────────────────────────────► Delivering
//!                     forgotten ◄── Reporting ◄── LastLines ◄───────────────────────────┘
//!                        ▲                                      artifacts uploaded, or an end asked for
//!                        └────── Dropping  (the attempt is not ours any more: tree ended, no report)
//! ```
//!
//! What must be on disk before an effect is asked for by [`Action::Record`] in front of it; the actions of one event are
//! carried out in order.

use std::{collections::BTreeMap, rc::Rc};

use drover_protocol::{
    Timestamp,
    agent::{Assignment, Finish},
    job::Progress,
};

use crate::{
    attempt::AttemptId,
    backoff::{Backoff, Jitter},
    coordinator::CallError,
    journal::{Loaded, Stage},
    launcher::EndRequest,
    report,
};

mod answers;
mod ending;
mod progress;
mod schedule;
#[cfg(test)]
mod tests;
mod vocabulary;

pub use vocabulary::{Action, CoreSettings, Event, Mode, Signal};

/// A key that is not accepted is tried again this slowly: somebody has to do something about it.
const UNAUTHENTICATED_WAIT_MS: u64 = 60_000;

enum JobPhase {
    /// With the claim that accept carries.
    Accepting(String),
    Preparing,
    Running,
    Delivering(Box<Finish>),
    LastLines(Box<Finish>),
    Reporting(Box<Finish>),
    /// Not ours any more, or its entry is damaged (then it is reported as lost, if `Some`).
    Dropping(Option<Box<Finish>>),
}

struct Held {
    /// `None` only if the journal's entry is damaged.
    assignment: Option<Rc<Assignment>>,
    phase: JobPhase,
    end: Option<EndRequest>,
    progress: Option<Progress>,
    backoff: Backoff,
    /// When the call of this phase is to be tried again.
    retry_at: Option<Timestamp>,
    /// Set when an abort leaves the delivery of artifacts only so long.
    deliver_until: Option<Timestamp>,
    /// The coordinator does not want this attempt's lines and report any more.
    stale: bool,
}

/// The state machine.
pub struct Core {
    settings: CoreSettings,
    jitter: Jitter,
    mode: Mode,
    /// When draining or stopping must be over.
    mode_ends_at: Option<Timestamp>,
    jobs: BTreeMap<AttemptId, Held>,
    capacity: u32,
    /// Milliseconds to add to the host's time to get the coordinator's; `None` until the coordinator has said what time it
    /// is. Until then the job's limits, which are in its time, are not judged: the host's clock may be off by days.
    server_ahead_ms: Option<i64>,
    recovered: bool,
    /// `Some(free)` while a poll is on its way.
    polling: Option<u32>,
    poll_at: Timestamp,
    poll_backoff: Backoff,
    beating: bool,
    beat_at: Timestamp,
    beat_every_ms: u64,
    beat_backoff: Backoff,
    last_beat_at: Timestamp,
    exited: bool,
}

impl Core {
    /// A state machine that waits for [`Event::Recovered`].
    pub fn new(settings: CoreSettings, seed: u64) -> Self {
        let capacity = settings.capacity.unwrap_or(1);
        Self {
            settings,
            jitter: Jitter::new(seed),
            mode: Mode::Ready,
            mode_ends_at: None,
            jobs: BTreeMap::new(),
            capacity,
            server_ahead_ms: None,
            recovered: false,
            polling: None,
            poll_at: Timestamp::EPOCH,
            poll_backoff: Backoff::default(),
            beating: false,
            beat_at: Timestamp::EPOCH,
            beat_every_ms: 20_000,
            beat_backoff: Backoff::default(),
            last_beat_at: Timestamp::EPOCH,
            exited: false,
        }
    }

    /// What the agent is doing.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// How many milliseconds the coordinator's clock is ahead of the host's, if it is known yet.
    pub fn server_ahead_ms(&self) -> Option<i64> {
        self.server_ahead_ms
    }

    /// Every attempt that is held.
    pub fn held(&self) -> Vec<AttemptId> {
        self.jobs.keys().copied().collect()
    }

    /// When [`Event::Tick`] is due at the latest; `None` if nothing waits for a time.
    pub fn wake_at(&self) -> Option<Timestamp> {
        if !self.recovered || self.exited {
            return None;
        }
        let mut times = vec![self.mode_ends_at];
        if !self.beating {
            times.push(Some(self.beat_at));
        }
        if self.polling.is_none() && self.wants_poll() {
            times.push(Some(self.poll_at));
        }
        for held in self.jobs.values() {
            times.extend([held.retry_at, held.deliver_until]);
            times.extend(self.deadlines(held).map(|(at, _)| Some(at)));
        }
        times.into_iter().flatten().min()
    }

    /// Takes an event and says what is to be done now.
    pub fn handle(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.exited {
            return actions;
        }
        match event {
            Event::Recovered(loaded) => self.recover(loaded, &mut actions),
            Event::Tick => {}
            Event::HeartbeatAnswered(answer) => self.heartbeat_answered(answer, now, &mut actions),
            Event::NextAnswered(answer) => self.next_answered(answer, now, &mut actions),
            Event::Signal(signal) => self.signalled(signal, now, &mut actions),
            Event::AcceptAnswered(id, answer) => self.accept_answered(id, answer, now, &mut actions),
            Event::Prepared(id, result) => self.prepared(id, result, &mut actions),
            Event::Ended(id, report) => self.ended(id, report, &mut actions),
            Event::Delivered(id) => self.delivered(id, &mut actions),
            Event::LinesSent(id) | Event::LinesRefused(id) => {
                self.lines_over(id, matches!(event, Event::LinesRefused(_)), &mut actions);
            }
            Event::Progress(id, progress) => self.progressed(id, progress, now),
            Event::ReportAnswered(id, answer) => self.report_answered(id, answer, now, &mut actions),
            Event::Abandoned(id) => self.abandoned(id, &mut actions),
            Event::JournalFailed(id) => self.journal_failed(id, now, &mut actions),
        }
        self.keep_time(now, &mut actions);
        actions
    }

    fn recover(&mut self, loaded: Loaded, actions: &mut Vec<Action>) {
        self.recovered = true;
        for entry in loaded.entries {
            let (id, assignment) = (entry.id(), entry.assignment);
            let phase = match entry.stage {
                Stage::Offered { claim } => {
                    actions.push(Action::Accept(id, claim.clone()));
                    JobPhase::Accepting(claim)
                }
                Stage::Launching => {
                    let run = Action::Run { assignment: Rc::clone(&assignment), adopt: true };
                    actions.extend([Action::SendLines(id), run]);
                    JobPhase::Running
                }
                Stage::Ended { report, delivered: false } => {
                    actions.extend([Action::SendLines(id), Action::Deliver(Rc::clone(&assignment))]);
                    JobPhase::Delivering(report)
                }
                Stage::Ended { report, delivered: true } => {
                    actions.extend([Action::SendLines(id), Action::CloseLines(id)]);
                    JobPhase::LastLines(report)
                }
            };
            self.jobs.insert(id, Held::new(Some(assignment), phase));
        }
        for id in loaded.damaged {
            let report = report::lost(id, "the agent's journal entry of this attempt was damaged");
            self.jobs.insert(id, Held::new(None, JobPhase::Dropping(Some(Box::new(report)))));
            actions.push(Action::Abandon(id));
        }
    }
}

impl Held {
    fn new(assignment: Option<Rc<Assignment>>, phase: JobPhase) -> Self {
        Self {
            assignment,
            phase,
            end: None,
            progress: None,
            backoff: Backoff::default(),
            retry_at: None,
            deliver_until: None,
            stale: false,
        }
    }

    /// True if it takes no room on the host any more.
    fn over(&self) -> bool {
        matches!(self.phase, JobPhase::Delivering(_) | JobPhase::LastLines(_) | JobPhase::Reporting(_))
    }
}
fn after(now: Timestamp, wait_ms: u64) -> Timestamp {
    Timestamp::from_millis(now.millis().saturating_add(i64::try_from(wait_ms).unwrap_or(i64::MAX)))
}

fn wait_after(error: &CallError, backoff: &mut Backoff, jitter: &mut Jitter) -> u64 {
    let wait = backoff.next_ms(jitter, error.retry_after_ms());
    match error {
        CallError::Unreachable { .. } | CallError::Unread { .. } => wait,
        CallError::Unauthenticated(_) | CallError::Refused { .. } => wait.max(UNAUTHENTICATED_WAIT_MS),
    }
}
