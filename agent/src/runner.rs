//! What the daemon asks of whoever runs processes. The real one is `job_runner.rs`; a simulation brings its own.
//!
//! Every future may be dropped at any await point, as by a crash of the agent: processes and lines must outlive that, and
//! [`JobRunner::run`] with `adopt` goes on with them.

use std::io;

use drover_protocol::{
    agent::{Assignment, Finish},
    job::Progress,
};
use tokio::sync::mpsc;

use crate::{attempt::AttemptId, launcher::EndRequest, output::Record};

/// Where a running job gets its end requests from; the newest counts.
pub type Control = mpsc::UnboundedReceiver<EndRequest>;

/// Runs processes on a host.
#[allow(async_fn_in_trait, reason = "the agent runs on one thread")]
pub trait JobRunner {
    type Lines: LineSource;

    /// Makes everything ready: package, environment, folder, hooks. May be done again after a crash.
    async fn prepare(&self, assignment: &Assignment) -> Result<(), Box<Finish>>;

    /// Starts the process, or with `adopt` goes on with the one started before, and waits until its whole tree is gone.
    async fn run(&self, assignment: &Assignment, adopt: bool, server_ahead_ms: i64, control: Control) -> Box<Finish>;

    /// Uploads the artifacts, as often as it takes; what the coordinator refuses becomes a line of the log. After that no
    /// line is added any more. May be done again after a crash.
    async fn deliver(&self, assignment: &Assignment);

    /// Ends whatever runs of an attempt, without a result.
    async fn abandon(&self, id: AttemptId);

    /// The lines of an attempt's log.
    fn lines(&self, id: AttemptId) -> Self::Lines;

    /// Removes the files of an attempt that is over.
    async fn discard(&self, id: AttemptId);

    /// Ends and removes everything of attempts that are not in `known`: what a crash between two steps left behind. May take
    /// long; an attempt that is prepared meanwhile and had left something waits until that is gone.
    async fn tidy(&self, known: &[AttemptId]);
}

/// Lines by number, from 1 on.
#[allow(async_fn_in_trait, reason = "the agent runs on one thread")]
pub trait LineSource {
    /// The lines from `from_seq` on that are there now; empty if there are none (yet). Gives out only lines whose number
    /// will never be used for another line.
    async fn read(&mut self, from_seq: u64, max_lines: usize, max_bytes: usize) -> io::Result<Vec<Record>>;
    /// Returns when there may be new lines, after a moment at the latest.
    async fn changed(&mut self);
    /// The coordinator has all lines below `seq`.
    fn acknowledge(&mut self, seq: u64) -> io::Result<()>;
}

/// The newest progress among records.
pub fn newest_progress(records: &[Record]) -> Option<Progress> {
    records.iter().rev().find_map(|record| record.progress.clone())
}
