//! The agent's state machine: events in, actions out. Pure and synchronous: no I/O, no clock, no randomness but a seed.
//!
//! ```text
//!            offered                accepted            prepared            process gone
//!  (next) ──────────► Accepting ──────────► Preparing ──────────► Running ──────────────┐
//!                        │ refused              │ failed, ended first                    ▼
//!                        ▼                      └──────────────────────────────────► Delivering
//!                     forgotten ◄── Reporting ◄── LastLines ◄───────────────────────────┘
//!                        ▲                                                      artifacts uploaded
//!                        └────── Dropping  (the attempt is not ours any more: tree ended, no report)
//! ```
//!
//! What must be on disk before an effect is asked for by [`Action::Record`] in front of it; the actions of one event are
//! carried out in order.

use std::{collections::BTreeMap, rc::Rc};

use drover_protocol::{
    JobId, Timestamp,
    agent::{Assignment, Finish, HeartbeatAnswer, HeldJob, JobCommand, MAX_JOBS, NextAnswer, Phase},
    job::{Cause, CauseCode, Progress},
};

use crate::{
    attempt::AttemptId,
    backoff::{Backoff, Jitter},
    coordinator::CallError,
    journal::{Entry, Loaded, Stage},
    launcher::{EndMode, EndRequest},
    report,
};

/// A progress is told earlier than the heartbeat is due, but not more often than this.
const PROGRESS_EVERY_MS: i64 = 5_000;
/// A key that is not accepted is tried again this slowly: somebody has to do something about it.
const UNAUTHENTICATED_WAIT_MS: u64 = 60_000;
/// After the jobs were stopped, reports get this long to be delivered; what is not stays in the journal.
const LAST_REPORTS_MS: i64 = 30_000;

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
    Accept(AttemptId),
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

enum JobPhase {
    Accepting,
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
    /// Milliseconds to add to the host's time to get the coordinator's.
    server_ahead_ms: i64,
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
            server_ahead_ms: 0,
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

    /// How many milliseconds the coordinator's clock is ahead of the host's.
    pub fn server_ahead_ms(&self) -> i64 {
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
            times.push(held.retry_at);
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
                Stage::Offered => {
                    actions.push(Action::Accept(id));
                    JobPhase::Accepting
                }
                Stage::Accepted => {
                    actions.extend([Action::SendLines(id), Action::Prepare(Rc::clone(&assignment))]);
                    JobPhase::Preparing
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

    // --- What the coordinator says -------------------------------------------------------------------------------------

    fn heartbeat_answered(
        &mut self,
        answer: Result<HeartbeatAnswer, CallError>,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        self.beating = false;
        match answer {
            Ok(answer) => {
                self.beat_backoff.reset();
                self.beat_every_ms = answer.next_in_seconds.clamp(1, 300) * 1000;
                self.beat_at = after(now, self.beat_every_ms);
                self.server_ahead_ms = answer.server_time.millis().saturating_sub(now.millis());
                let most = u32::try_from(MAX_JOBS).unwrap_or(u32::MAX);
                self.capacity = answer.config.capacity.min(self.settings.capacity.unwrap_or(most)).min(most);
                self.reached(now);
                for job in answer.jobs {
                    if let Some(command) = job.command {
                        self.command(AttemptId { job_id: job.job_id, attempt: job.attempt }, command, actions);
                    }
                }
            }
            Err(error) => {
                let wait = wait_after(&error, &mut self.beat_backoff, &mut self.jitter);
                // A lease must not run out only because the wait was long.
                self.beat_at =
                    after(now, if error.retry_after_ms().is_some() { wait } else { wait.min(self.beat_every_ms) });
            }
        }
    }

    /// The coordinator can be reached: what waits to be tried again is tried soon.
    fn reached(&mut self, now: Timestamp) {
        if self.polling.is_none() && self.poll_at > now {
            self.poll_backoff.reset();
            self.poll_at = after(now, self.jitter.below(500));
        }
        for held in self.jobs.values_mut() {
            if held.retry_at.is_some_and(|at| at > now) {
                held.retry_at = Some(after(now, self.jitter.below(500)));
            }
        }
    }

    fn next_answered(
        &mut self,
        answer: Result<Option<NextAnswer>, CallError>,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        self.polling = None;
        match answer {
            Ok(answer) => {
                self.poll_backoff.reset();
                self.poll_at = now;
                for command in answer.iter().flat_map(|answer| &answer.commands) {
                    self.command(
                        AttemptId { job_id: command.job_id, attempt: command.attempt },
                        command.command,
                        actions,
                    );
                }
                for assignment in answer.into_iter().flat_map(|answer| answer.assignments) {
                    self.offered(assignment, actions);
                }
            }
            Err(error) => self.poll_at = after(now, wait_after(&error, &mut self.poll_backoff, &mut self.jitter)),
        }
    }

    fn offered(&mut self, assignment: Assignment, actions: &mut Vec<Action>) {
        let assignment = Rc::new(assignment);
        let id = AttemptId { job_id: assignment.job.id, attempt: assignment.attempt };
        // An answer that crossed with a stop, or was given twice. What is not accepted goes back by itself.
        if self.mode != Mode::Ready || self.jobs.contains_key(&id) || self.jobs.len() >= MAX_JOBS {
            return;
        }
        actions.push(Action::Record(Entry { assignment: Rc::clone(&assignment), stage: Stage::Offered }));
        actions.push(Action::Accept(id));
        self.jobs.insert(id, Held::new(Some(assignment), JobPhase::Accepting));
    }

    fn command(&mut self, id: AttemptId, command: JobCommand, actions: &mut Vec<Action>) {
        match command {
            JobCommand::Stop => self.end(id, EndMode::Soft, requested(CauseCode::StopRequested), actions),
            JobCommand::Abort => self.end(id, EndMode::Hard, requested(CauseCode::AbortRequested), actions),
            JobCommand::Drop => self.drop_job(id, actions),
        }
    }

    fn accept_answered(
        &mut self,
        id: AttemptId,
        answer: Result<(), CallError>,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        let Some(held) = self.jobs.get_mut(&id).filter(|held| matches!(held.phase, JobPhase::Accepting)) else {
            return;
        };
        let Some(assignment) = held.assignment.clone() else { return };
        match answer {
            Ok(()) => {
                actions.push(Action::Record(Entry { assignment: Rc::clone(&assignment), stage: Stage::Accepted }));
                actions.push(Action::SendLines(id));
                held.backoff.reset();
                if let Some(request) = held.end.clone() {
                    self.finish_with(id, Box::new(report::ended_before_start(id, &request)), actions);
                } else {
                    held.phase = JobPhase::Preparing;
                    actions.push(Action::Prepare(assignment));
                }
            }
            Err(CallError::Refused { .. }) => {
                self.jobs.remove(&id);
                actions.push(Action::Forget(id));
            }
            Err(error) => held.retry_at = Some(after(now, wait_after(&error, &mut held.backoff, &mut self.jitter))),
        }
    }

    fn report_answered(
        &mut self,
        id: AttemptId,
        answer: Result<(), CallError>,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        let Some(held) = self.jobs.get_mut(&id) else { return };
        let JobPhase::Reporting(report) = &mut held.phase else { return };
        match answer {
            Ok(()) => self.forget(id, now, actions),
            Err(CallError::Refused { problem }) if problem.status == 404 || problem.status == 409 => {
                self.forget(id, now, actions);
            }
            Err(CallError::Refused { problem }) if report::reduce(report, &problem) => {
                let stage = Stage::Ended { report: report.clone(), delivered: true };
                let report = report.clone();
                if let Some(assignment) = held.assignment.clone() {
                    actions.push(Action::Record(Entry { assignment, stage }));
                }
                actions.push(Action::Report(id, report));
            }
            Err(error) => held.retry_at = Some(after(now, wait_after(&error, &mut held.backoff, &mut self.jitter))),
        }
    }

    /// It is over and known: its room is free again.
    fn forget(&mut self, id: AttemptId, now: Timestamp, actions: &mut Vec<Action>) {
        self.jobs.remove(&id);
        actions.push(Action::Forget(id));
        // A poll on its way was made when the coordinator still counted this job: ask again at once.
        self.cancel_poll(actions);
        self.poll_at = self.poll_at.min(now);
    }

    // --- What the host says ----------------------------------------------------------------------------------------------

    fn prepared(&mut self, id: AttemptId, result: Result<(), Box<Finish>>, actions: &mut Vec<Action>) {
        let Some(held) = self.jobs.get_mut(&id).filter(|held| matches!(held.phase, JobPhase::Preparing)) else {
            return;
        };
        let Some(assignment) = held.assignment.clone() else { return };
        match result {
            Ok(()) => {
                actions.push(Action::Record(Entry { assignment: Rc::clone(&assignment), stage: Stage::Launching }));
                actions.push(Action::Run { assignment, adopt: false });
                held.phase = JobPhase::Running;
            }
            Err(report) => self.finish_with(id, report, actions),
        }
    }

    fn ended(&mut self, id: AttemptId, report: Box<Finish>, actions: &mut Vec<Action>) {
        let Some(held) = self.jobs.get(&id) else { return };
        match held.phase {
            JobPhase::Running => self.finish_with(id, report, actions),
            JobPhase::Dropping(None) => self.abandoned(id, actions),
            _ => {}
        }
    }

    /// Nothing runs (any more): from here on it is only about telling the coordinator.
    fn finish_with(&mut self, id: AttemptId, report: Box<Finish>, actions: &mut Vec<Action>) {
        let Some(held) = self.jobs.get_mut(&id) else { return };
        let Some(assignment) = held.assignment.clone() else { return };
        if held.stale {
            held.phase = JobPhase::Dropping(None);
            self.abandoned(id, actions);
            return;
        }
        let stage = Stage::Ended { report: report.clone(), delivered: false };
        actions.push(Action::Record(Entry { assignment: Rc::clone(&assignment), stage }));
        actions.push(Action::Deliver(assignment));
        held.phase = JobPhase::Delivering(report);
    }

    fn delivered(&mut self, id: AttemptId, actions: &mut Vec<Action>) {
        let Some(held) = self.jobs.get_mut(&id) else { return };
        let JobPhase::Delivering(report) = &held.phase else { return };
        let (report, stale) = (report.clone(), held.stale);
        if let Some(assignment) = held.assignment.clone() {
            let stage = Stage::Ended { report: report.clone(), delivered: true };
            actions.push(Action::Record(Entry { assignment, stage }));
        }
        held.phase = JobPhase::LastLines(report);
        if stale {
            self.lines_over(id, true, actions);
        } else {
            actions.push(Action::CloseLines(id));
        }
    }

    fn lines_over(&mut self, id: AttemptId, refused: bool, actions: &mut Vec<Action>) {
        let Some(held) = self.jobs.get_mut(&id) else { return };
        match &held.phase {
            JobPhase::LastLines(report) => {
                let report = report.clone();
                actions.push(Action::Report(id, report.clone()));
                held.phase = JobPhase::Reporting(report);
                held.retry_at = None;
            }
            JobPhase::Delivering(_) if refused => held.stale = true,
            JobPhase::Accepting | JobPhase::Preparing | JobPhase::Running if refused => self.drop_job(id, actions),
            _ => {}
        }
    }

    fn progressed(&mut self, id: AttemptId, progress: Progress, now: Timestamp) {
        if let Some(held) = self.jobs.get_mut(&id)
            && held.progress.as_ref() != Some(&progress)
        {
            held.progress = Some(progress);
            let soon = Timestamp::from_millis(self.last_beat_at.millis() + PROGRESS_EVERY_MS).max(now);
            // Not while the coordinator is away: then the back-off decides.
            if self.beat_at > soon && self.beat_every_ms > 0 && self.last_beat_at > Timestamp::EPOCH {
                self.beat_at = soon;
            }
        }
    }

    fn abandoned(&mut self, id: AttemptId, actions: &mut Vec<Action>) {
        let Some(held) = self.jobs.get_mut(&id) else { return };
        match &mut held.phase {
            JobPhase::Dropping(report @ Some(_)) => {
                if let Some(report) = report.take() {
                    actions.push(Action::Report(id, report.clone()));
                    held.phase = JobPhase::Reporting(report);
                }
            }
            JobPhase::Dropping(None) => {
                self.jobs.remove(&id);
                actions.extend([Action::DropLines(id), Action::Forget(id)]);
            }
            _ => {}
        }
    }

    /// The disk does not take what would have to be promised.
    fn journal_failed(&mut self, id: AttemptId, now: Timestamp, actions: &mut Vec<Action>) {
        let Some(held) = self.jobs.get_mut(&id) else { return };
        let Some(assignment) = held.assignment.clone() else { return };
        match &held.phase {
            // Not accepted, so it goes back; and no other is taken at once.
            JobPhase::Accepting => {
                self.jobs.remove(&id);
                actions.push(Action::Forget(id));
                self.poll_at = after(now, self.poll_backoff.next_ms(&mut self.jitter, None));
            }
            // Accepted before, or not started yet: it ends here, and the report is sent even if it cannot be kept.
            JobPhase::Preparing | JobPhase::Running => {
                let report = Box::new(report::journal_unwritable(id));
                actions.push(Action::Deliver(assignment));
                held.phase = JobPhase::Delivering(report);
            }
            JobPhase::Delivering(_) => actions.push(Action::Deliver(assignment)),
            JobPhase::LastLines(_) => actions.push(Action::CloseLines(id)),
            JobPhase::Reporting(report) => actions.push(Action::Report(id, report.clone())),
            JobPhase::Dropping(_) => {}
        }
    }

    // --- Ending ------------------------------------------------------------------------------------------------------------

    /// Ends a job; an end that is not harder than the one under way changes nothing.
    fn end(&mut self, id: AttemptId, mode: EndMode, cause: Cause, actions: &mut Vec<Action>) {
        let Some(held) = self.jobs.get_mut(&id) else { return };
        if held.end.as_ref().is_some_and(|end| end.mode >= mode) {
            return;
        }
        let request = EndRequest { mode, cause };
        match held.phase {
            JobPhase::Accepting => held.end = Some(request),
            JobPhase::Preparing => {
                held.end = Some(request.clone());
                actions.push(Action::CancelPrepare(id));
                self.finish_with(id, Box::new(report::ended_before_start(id, &request)), actions);
            }
            JobPhase::Running => {
                held.end = Some(request.clone());
                actions.push(Action::End(id, request));
            }
            JobPhase::Delivering(_) | JobPhase::LastLines(_) | JobPhase::Reporting(_) | JobPhase::Dropping(_) => {}
        }
    }

    /// The attempt is not ours any more: its tree is ended and its files go.
    fn drop_job(&mut self, id: AttemptId, actions: &mut Vec<Action>) {
        let Some(held) = self.jobs.get_mut(&id) else { return };
        held.stale = true;
        match held.phase {
            JobPhase::Accepting => {
                self.jobs.remove(&id);
                actions.push(Action::Forget(id));
            }
            JobPhase::Preparing => {
                held.phase = JobPhase::Dropping(None);
                actions.extend([Action::CancelPrepare(id), Action::DropLines(id), Action::Abandon(id)]);
            }
            JobPhase::Running => {
                held.phase = JobPhase::Dropping(None);
                let cause = requested(CauseCode::AbortRequested);
                actions.extend([Action::DropLines(id), Action::End(id, EndRequest { mode: EndMode::Hard, cause })]);
            }
            // A late result is worth an event for the coordinator; its lines are not awaited.
            JobPhase::LastLines(_) => {
                actions.push(Action::DropLines(id));
                self.lines_over(id, true, actions);
            }
            JobPhase::Delivering(_) | JobPhase::Reporting(_) | JobPhase::Dropping(_) => {}
        }
    }

    fn signalled(&mut self, signal: Signal, now: Timestamp, actions: &mut Vec<Action>) {
        match (signal, self.mode) {
            (_, Mode::Ready) => {
                self.mode = Mode::Draining;
                self.mode_ends_at = Some(after(now, self.settings.drain_timeout_ms));
                self.cancel_poll(actions);
            }
            (Signal::Terminate, Mode::Draining) => self.stop_jobs(now, actions),
            (Signal::Terminate, Mode::Stopping) => self.quit(actions),
            (Signal::Drain, _) | (Signal::Terminate, Mode::Quitting) => {}
        }
    }

    fn stop_jobs(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        self.mode = Mode::Stopping;
        let graces = self.jobs.values().filter_map(|held| held.assignment.as_ref());
        let grace = graces.map(|assignment| assignment.job.stop_grace_seconds).max().unwrap_or(0);
        let ends_at = now.plus_seconds(grace);
        self.mode_ends_at = Some(Timestamp::from_millis(ends_at.millis().saturating_add(LAST_REPORTS_MS)));
        for id in self.held() {
            let cause = Cause {
                by: "agent".to_owned(),
                code: CauseCode::AgentStopped,
                message: "the agent was told to stop its jobs".to_owned(),
            };
            self.end(id, EndMode::Soft, cause, actions);
        }
    }

    fn quit(&mut self, actions: &mut Vec<Action>) {
        self.mode = Mode::Quitting;
        self.exited = true;
        actions.push(Action::Exit);
    }

    // --- Time ----------------------------------------------------------------------------------------------------------------

    fn keep_time(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if !self.recovered || self.exited {
            return;
        }
        self.keep_deadlines(now, actions);
        self.retry(now, actions);
        if self.mode_is_over(now, actions) {
            return;
        }
        if !self.beating && self.beat_at <= now {
            self.beating = true;
            self.last_beat_at = now;
            actions.push(Action::Heartbeat(self.report_held()));
        }
        self.poll(now, actions);
    }

    /// Handles the end of draining and stopping; true if the agent exits.
    fn mode_is_over(&mut self, now: Timestamp, actions: &mut Vec<Action>) -> bool {
        let late = self.mode_ends_at.is_some_and(|at| at <= now);
        match self.mode {
            Mode::Ready => false,
            Mode::Draining | Mode::Stopping if self.jobs.is_empty() => {
                self.quit(actions);
                true
            }
            Mode::Draining if late => {
                self.stop_jobs(now, actions);
                false
            }
            Mode::Stopping if late => {
                self.quit(actions);
                true
            }
            Mode::Draining | Mode::Stopping => false,
            Mode::Quitting => true,
        }
    }

    /// The times at which a job is to be ended, by the host's clock.
    fn deadlines(&self, held: &Held) -> impl Iterator<Item = (Timestamp, EndMode)> {
        let may_end = matches!(held.phase, JobPhase::Accepting | JobPhase::Preparing | JobPhase::Running);
        let job = held.assignment.as_ref().filter(|_| may_end).map(|assignment| &assignment.job);
        let stop = job.and_then(|job| job.stop_after).map(|at| (at, EndMode::Soft));
        let abort = job.and_then(|job| job.abort_after).map(|at| (at, EndMode::Hard));
        let (ahead, asked) = (self.server_ahead_ms, held.end.as_ref().map(|end| end.mode));
        stop.into_iter()
            .chain(abort)
            .filter(move |(_, mode)| asked.is_none_or(|asked| asked < *mode))
            .map(move |(at, mode)| (Timestamp::from_millis(at.millis().saturating_sub(ahead)), mode))
    }

    fn keep_deadlines(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        for id in self.held() {
            let Some(held) = self.jobs.get(&id) else { continue };
            let due: Vec<EndMode> = self.deadlines(held).filter(|(at, _)| *at <= now).map(|(_, mode)| mode).collect();
            for mode in due {
                let (code, name) = match mode {
                    EndMode::Soft => (CauseCode::StopAfter, "stop_after"),
                    EndMode::Hard => (CauseCode::AbortAfter, "abort_after"),
                };
                let cause = Cause { by: "agent".to_owned(), code, message: format!("the job's {name} has come") };
                self.end(id, mode, cause, actions);
            }
        }
    }

    fn retry(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        for (id, held) in &mut self.jobs {
            if held.retry_at.is_some_and(|at| at <= now) {
                held.retry_at = None;
                match &held.phase {
                    JobPhase::Accepting => actions.push(Action::Accept(*id)),
                    JobPhase::Reporting(report) => actions.push(Action::Report(*id, report.clone())),
                    _ => {}
                }
            }
        }
    }

    fn free(&self) -> u32 {
        let taken = self.jobs.values().filter(|held| !held.over()).count();
        let taken = u32::try_from(taken).unwrap_or(u32::MAX);
        if self.mode == Mode::Ready { self.capacity.saturating_sub(taken) } else { 0 }
    }

    /// Also without room there is a poll while jobs are held: that is how commands come at once.
    fn wants_poll(&self) -> bool {
        self.mode == Mode::Ready || !self.jobs.is_empty()
    }

    fn poll(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let free = self.free();
        if self.polling == Some(0) && free > 0 {
            // The poll on its way asks for nothing; now there is room.
            self.cancel_poll(actions);
            self.poll_at = now;
        }
        if self.polling.is_none() && self.wants_poll() && self.poll_at <= now {
            // Those that the coordinator has taken away are left out: it would only say so again, at once and for ever.
            let ours = |held: &Held| !held.stale && !matches!(held.phase, JobPhase::Dropping(_));
            let mut known: Vec<JobId> =
                self.jobs.iter().filter(|(_, held)| ours(held)).map(|(id, _)| id.job_id).collect();
            known.dedup();
            known.truncate(MAX_JOBS);
            self.polling = Some(free);
            actions.push(Action::Next { free, known, wait_seconds: self.settings.poll_seconds });
        }
    }

    fn cancel_poll(&mut self, actions: &mut Vec<Action>) {
        if self.polling.take().is_some() {
            actions.push(Action::CancelNext);
        }
    }

    fn report_held(&self) -> Vec<HeldJob> {
        let jobs = self.jobs.iter().filter_map(|(id, held)| {
            let phase = match held.phase {
                // Not confirmed yet, or not ours any more: nothing to renew.
                JobPhase::Accepting | JobPhase::Dropping(_) => return None,
                JobPhase::Preparing => Phase::Preparing,
                JobPhase::Running if held.end.is_some() => Phase::Stopping,
                JobPhase::Running => Phase::Running,
                JobPhase::Delivering(_) | JobPhase::LastLines(_) | JobPhase::Reporting(_) => Phase::Ended,
            };
            Some(HeldJob { job_id: id.job_id, attempt: id.attempt, phase, progress: held.progress.clone() })
        });
        jobs.take(MAX_JOBS).collect()
    }
}

impl Held {
    fn new(assignment: Option<Rc<Assignment>>, phase: JobPhase) -> Self {
        Self { assignment, phase, end: None, progress: None, backoff: Backoff::default(), retry_at: None, stale: false }
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
        CallError::Unreachable { .. } => wait,
        CallError::Unauthenticated(_) | CallError::Refused { .. } => wait.max(UNAUTHENTICATED_WAIT_MS),
    }
}

fn requested(code: CauseCode) -> Cause {
    let message = match code {
        CauseCode::StopRequested => "a stop was asked",
        _ => "an abort was asked",
    };
    Cause { by: "coordinator".to_owned(), code, message: message.to_owned() }
}
