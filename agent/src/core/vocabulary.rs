//! The words of the state machine: what can happen, what can be asked for.

use std::rc::Rc;

use drover_protocol::{
    JobId,
    agent::{Assignment, Finish, HeartbeatAnswer, HeldJob, NextAnswer},
    job::Progress,
};

use crate::{
    attempt::AttemptId,
    coordinator::CallError,
    journal::{Entry, Loaded},
    launcher::EndRequest,
};

/// What the agent as a whole is doing. Only ever moves on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    Ready,
    /// Finishes its jobs, takes none.
    Draining,
    /// Ends its jobs, takes none.
    Stopping,
    /// Leaves everything as it is; the next agent goes on with it.
    Quitting,
}

/// What a person or service manager asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Take no more jobs and end after the last.
    Drain,
    /// The first drains, the second stops the jobs, the third quits.
    Terminate,
}

/// Settings of the host's owner.
#[derive(Clone, Debug)]
pub struct CoreSettings {
    /// Jobs at once; `None` leaves it to the coordinator.
    pub capacity: Option<u32>,
    /// How long draining may take before the jobs are stopped.
    pub drain_timeout_ms: u64,
    /// How long one poll waits.
    pub poll_seconds: u64,
}

/// Something has happened.
pub enum Event {
    /// The first event: what the journal holds.
    Recovered(Loaded),
    /// The time that [`Core::wake_at`] named has come.
    Tick,
    HeartbeatAnswered(Result<HeartbeatAnswer, CallError>),
    NextAnswered(Result<Option<NextAnswer>, CallError>),
    AcceptAnswered(AttemptId, Result<(), CallError>),
    /// Package, environment and folder are ready, or it has failed.
    Prepared(AttemptId, Result<(), Box<Finish>>),
    /// The process and its whole tree are gone.
    Ended(AttemptId, Box<Finish>),
    /// All artifacts are with the coordinator.
    Delivered(AttemptId),
    /// Every line of the log is acknowledged.
    LinesSent(AttemptId),
    /// The coordinator does not take this attempt's lines.
    LinesRefused(AttemptId),
    Progress(AttemptId, Progress),
    ReportAnswered(AttemptId, Result<(), CallError>),
    /// Nothing of the attempt is left on the host.
    Abandoned(AttemptId),
    /// An entry could not be written.
    JournalFailed(AttemptId),
    Signal(Signal),
}

/// Something is to be done. Those that take time are answered by an event.
pub enum Action {
    Heartbeat(Vec<HeldJob>),
    Next {
        free: u32,
        known: Vec<JobId>,
        wait_seconds: u64,
    },
    CancelNext,
    /// Write the entry to the journal. If that fails, nothing further of this attempt is done but `JournalFailed`.
    Record(Entry),
    /// With the claim that is in the journal.
    Accept(AttemptId, String),
    Prepare(Rc<Assignment>),
    CancelPrepare(AttemptId),
    /// Start the process, or go on with the one that an earlier agent has started.
    Run {
        assignment: Rc<Assignment>,
        adopt: bool,
    },
    End(AttemptId, EndRequest),
    /// Send the log's lines as they come.
    SendLines(AttemptId),
    /// Upload the artifacts.
    Deliver(Rc<Assignment>),
    CancelDeliver(AttemptId),
    /// No line will come any more: send the rest.
    CloseLines(AttemptId),
    /// Do not send the rest.
    DropLines(AttemptId),
    Report(AttemptId, Box<Finish>),
    /// End whatever runs of it, without a result.
    Abandon(AttemptId),
    /// Remove it from the journal and its files from the host.
    Forget(AttemptId),
    Exit,
}
