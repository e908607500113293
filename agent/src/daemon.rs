//! The loop: waits for events, hands them to the core, carries out what it answers. Decides nothing itself.
//!
//! Everything that takes time is a future held here and polled here; nothing is spawned. So dropping the future of
//! [`Daemon::run`] at any point is a crash of the agent, and a new daemon over the same journal and host goes on from there.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    rc::Rc,
};

use drover_protocol::{
    agent::{Assignment, Finish, Heartbeat, HeldJob, Next},
    robot::{Health, Host},
};
use futures::{
    FutureExt, StreamExt,
    future::{AbortHandle, Aborted, LocalBoxFuture, abortable},
    stream::FuturesUnordered,
};
use tokio::sync::{mpsc, watch};

use crate::{
    attempt::AttemptId,
    clock::Clock,
    coordinator::{CallError, Coordinator},
    core::{Action, Core, CoreSettings, Event, Signal},
    journal::{Entry, Journal},
    launcher::EndRequest,
    log_sender::{Sent, send_lines},
    runner::JobRunner,
    transport::Transport,
};

/// Reads facts and condition of the host.
pub trait HostProbe {
    /// Facts; told at the start.
    fn host(&mut self) -> Host;
    /// The condition now; told with each heartbeat.
    fn health(&mut self) -> Health;
}

/// All that a daemon is made of.
pub struct Parts<T, R, J> {
    pub coordinator: Rc<Coordinator<T>>,
    pub runner: Rc<R>,
    pub journal: J,
    pub probe: Box<dyn HostProbe>,
    pub clock: Clock,
    pub settings: CoreSettings,
    /// For the jitter of waits.
    pub seed: u64,
}

/// What is under way for one attempt.
#[derive(Default)]
struct Threads {
    control: Option<mpsc::UnboundedSender<EndRequest>>,
    lines_closed: Option<watch::Sender<bool>>,
    lines: Option<AbortHandle>,
    prepare: Option<AbortHandle>,
    deliver: Option<AbortHandle>,
}

/// The agent at work.
pub struct Daemon<T, R, J> {
    parts: Parts<T, R, J>,
    core: Core,
    /// Each ends with an event, or with nothing if it was called off.
    pending: FuturesUnordered<LocalBoxFuture<'static, Option<Event>>>,
    attempts: BTreeMap<AttemptId, Threads>,
    poll: Option<AbortHandle>,
    progress: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
    host_told: bool,
}

impl<T: Transport + 'static, R: JobRunner + 'static, J: Journal> Daemon<T, R, J> {
    /// Opens no connection and touches no file yet.
    pub fn new(parts: Parts<T, R, J>) -> Self {
        let core = Core::new(parts.settings.clone(), parts.seed);
        Self {
            parts,
            core,
            pending: FuturesUnordered::new(),
            attempts: BTreeMap::new(),
            poll: None,
            progress: mpsc::unbounded_channel(),
            host_told: false,
        }
    }

    /// Runs until a signal has ended it. Fails only if the journal cannot be read at the start.
    pub async fn run(&mut self, mut signals: mpsc::UnboundedReceiver<Signal>) -> io::Result<()> {
        let loaded = self.parts.journal.load()?;
        let known: Vec<AttemptId> =
            loaded.entries.iter().map(Entry::id).chain(loaded.damaged.iter().copied()).collect();
        if !known.is_empty() {
            tracing::info!(attempts = known.len(), "going on with what an earlier agent has left");
        }
        let runner = Rc::clone(&self.parts.runner);
        // Nothing waits for it: what is left may be hard to end or to remove, and no lease must run out for that.
        self.start(async move {
            runner.tidy(&known).await;
            None
        });
        let mut events = vec![Event::Recovered(loaded)];
        let mut signals_open = true;
        loop {
            if self.handle(events) {
                return Ok(());
            }
            let wake = self.core.wake_at().map(|at| self.parts.clock.instant_of(at));
            let event = tokio::select! {
                biased;
                signal = signals.recv(), if signals_open => match signal {
                    Some(signal) => Event::Signal(signal),
                    None => {
                        signals_open = false;
                        Event::Tick
                    }
                },
                Some(done) = self.pending.next(), if !self.pending.is_empty() => done.unwrap_or(Event::Tick),
                Some(progress) = self.progress.1.recv() => progress,
                () = tokio::time::sleep_until(wake.unwrap_or_else(tokio::time::Instant::now)), if wake.is_some() => Event::Tick,
            };
            events = vec![event];
            // What else has come to its end meanwhile shares the flush of the journal.
            while let Some(Some(done)) = self.pending.next().now_or_never() {
                events.extend(done);
            }
            // What else has happened may call a poll off. An answer that it has got by then must not be taken for one to the next.
            events.sort_by_key(|event| !matches!(event, Event::NextAnswered(_)));
        }
    }

    /// Handles events and everything that follows from them at once; true if the agent is to exit.
    fn handle(&mut self, mut events: Vec<Event>) -> bool {
        while !events.is_empty() {
            let mut actions = Vec::new();
            for event in events.drain(..) {
                note(&event);
                if matches!(&event, Event::HeartbeatAnswered(Ok(_))) {
                    self.host_told = true;
                }
                actions.extend(self.core.handle(event, self.parts.clock.now()));
            }
            let failed = self.record(&actions);
            for action in actions {
                match action {
                    Action::Exit => return true,
                    action if attempt_of(&action).is_some_and(|id| failed.contains(&id)) => {}
                    action => self.carry_out(action),
                }
            }
            events.extend(failed.into_iter().map(Event::JournalFailed));
        }
        false
    }

    /// Writes down what the actions promise, all of it with one flush; gives the attempts for which that failed.
    fn record(&mut self, actions: &[Action]) -> BTreeSet<AttemptId> {
        let journal = &mut self.parts.journal;
        let (mut recorded, mut failed) = (BTreeSet::new(), BTreeSet::new());
        for action in actions {
            match action {
                Action::Record(entry) => match journal.put(entry) {
                    Ok(()) => drop(recorded.insert(entry.id())),
                    Err(error) => {
                        tracing::error!(attempt = %entry.id(), %error, "the journal cannot be written");
                        failed.insert(entry.id());
                    }
                },
                Action::Forget(id) => {
                    if let Err(error) = journal.remove(*id) {
                        // It is found again at the next start, reported again, and the coordinator knows it already.
                        tracing::error!(attempt = %id, %error, "the journal's entry cannot be removed");
                    }
                }
                _ => {}
            }
        }
        if let Err(error) = journal.flush() {
            tracing::error!(%error, attempts = recorded.len(), "the journal cannot be flushed");
            failed.extend(recorded);
        }
        failed
    }

    fn carry_out(&mut self, action: Action) {
        let coordinator = Rc::clone(&self.parts.coordinator);
        let runner = Rc::clone(&self.parts.runner);
        match action {
            Action::Heartbeat(jobs) => self.heartbeat(jobs),
            Action::Next { free, known, wait_seconds } => {
                let next = Next { free, wait_seconds, known };
                let (poll, handle) = abortable(async move { coordinator.next(&next).await });
                self.poll = Some(handle);
                self.start(async move { poll.await.ok().map(Event::NextAnswered) });
            }
            Action::CancelNext => {
                if let Some(poll) = self.poll.take() {
                    poll.abort();
                }
            }
            Action::Accept(id, claim) => self.start(async move {
                let answer = coordinator.accept(id, claim).await.map(drop);
                Some(Event::AcceptAnswered(id, answer))
            }),
            Action::Prepare(assignment) => {
                let id = AttemptId { job_id: assignment.job.id, attempt: assignment.attempt };
                let (prepare, handle) = abortable(async move { runner.prepare(&assignment).await });
                self.attempts.entry(id).or_default().prepare = Some(handle);
                self.start(async move { prepare.await.ok().map(|result| Event::Prepared(id, result)) });
            }
            Action::CancelPrepare(id) => {
                if let Some(prepare) = self.attempts.entry(id).or_default().prepare.take() {
                    prepare.abort();
                }
            }
            Action::Run { assignment, adopt } => {
                let id = AttemptId { job_id: assignment.job.id, attempt: assignment.attempt };
                let (control, requests) = mpsc::unbounded_channel();
                self.attempts.entry(id).or_default().control = Some(control);
                let (assignment, ahead) = match self.core.server_ahead_ms() {
                    Some(ahead) => (assignment, ahead),
                    None => (without_limits(&assignment), 0),
                };
                self.start(
                    async move { Some(Event::Ended(id, runner.run(&assignment, adopt, ahead, requests).await)) },
                );
            }
            Action::End(id, request) => {
                if let Some(control) = &self.attempts.entry(id).or_default().control {
                    // The receiver is gone only when the process is; then there is nothing to end.
                    let _ = control.send(request);
                }
            }
            Action::SendLines(id) => self.send_lines(id),
            Action::CloseLines(id) => {
                if let Some(closed) = &self.attempts.entry(id).or_default().lines_closed {
                    closed.send_replace(true);
                }
            }
            Action::DropLines(id) => {
                if let Some(lines) = self.attempts.entry(id).or_default().lines.take() {
                    lines.abort();
                }
            }
            Action::Deliver(assignment) => {
                let id = AttemptId { job_id: assignment.job.id, attempt: assignment.attempt };
                let (deliver, handle) = abortable(async move { runner.deliver(&assignment).await });
                self.attempts.entry(id).or_default().deliver = Some(handle);
                self.start(async move { deliver.await.ok().map(|()| Event::Delivered(id)) });
            }
            Action::CancelDeliver(id) => {
                if let Some(deliver) = self.attempts.entry(id).or_default().deliver.take() {
                    deliver.abort();
                }
            }
            Action::Report(id, report) => self.report(id, report),
            Action::Abandon(id) => self.start(async move {
                runner.abandon(id).await;
                Some(Event::Abandoned(id))
            }),
            Action::Forget(id) => self.forget(id),
            // `record` and `handle` have seen to these.
            Action::Record(_) | Action::Exit => {}
        }
    }

    fn start(&mut self, future: impl Future<Output = Option<Event>> + 'static) {
        self.pending.push(future.boxed_local());
    }

    fn heartbeat(&mut self, jobs: Vec<HeldJob>) {
        let host = (!self.host_told).then(|| self.parts.probe.host());
        let heartbeat = Heartbeat { host, health: self.parts.probe.health(), jobs };
        let coordinator = Rc::clone(&self.parts.coordinator);
        self.start(async move { Some(Event::HeartbeatAnswered(coordinator.heartbeat(&heartbeat).await)) });
    }

    fn send_lines(&mut self, id: AttemptId) {
        let (closed, closing) = watch::channel(false);
        let (coordinator, lines) = (Rc::clone(&self.parts.coordinator), self.parts.runner.lines(id));
        let progress = self.progress.0.clone();
        let (sending, handle) = abortable(async move {
            send_lines(&coordinator, id, lines, closing, |newest| {
                // The receiver lives as long as the daemon that polls this.
                let _ = progress.send(Event::Progress(id, newest));
            })
            .await
        });
        let threads = self.attempts.entry(id).or_default();
        (threads.lines_closed, threads.lines) = (Some(closed), Some(handle));
        self.start(async move {
            match sending.await {
                Ok(Sent::All) => Some(Event::LinesSent(id)),
                Ok(Sent::Refused) => Some(Event::LinesRefused(id)),
                Err(Aborted) => None,
            }
        });
    }

    fn report(&mut self, id: AttemptId, report: Box<Finish>) {
        let coordinator = Rc::clone(&self.parts.coordinator);
        self.start(async move { Some(Event::ReportAnswered(id, coordinator.finish(id, &report).await)) });
    }

    fn forget(&mut self, id: AttemptId) {
        if let Some(threads) = self.attempts.remove(&id) {
            for handle in [threads.lines, threads.prepare, threads.deliver].into_iter().flatten() {
                handle.abort();
            }
        }
        let runner = Rc::clone(&self.parts.runner);
        self.start(async move {
            runner.discard(id).await;
            None
        });
    }
}

/// Without the limits that are in the coordinator's time: as long as that is not known, only the core can keep them, later.
fn without_limits(assignment: &Assignment) -> Rc<Assignment> {
    let mut assignment = assignment.clone();
    (assignment.job.stop_after, assignment.job.abort_after) = (None, None);
    Rc::new(assignment)
}

/// Which attempt an action is about, if it is one of those that must not follow a failed record.
fn attempt_of(action: &Action) -> Option<AttemptId> {
    match action {
        Action::Record(entry) => Some(entry.id()),
        Action::Prepare(assignment) | Action::Run { assignment, .. } | Action::Deliver(assignment) => {
            Some(AttemptId { job_id: assignment.job.id, attempt: assignment.attempt })
        }
        Action::Accept(id, _) | Action::CloseLines(id) | Action::Report(id, _) => Some(*id),
        _ => None,
    }
}

/// One place that says in the agent's own log what happens.
fn note(event: &Event) {
    match event {
        Event::HeartbeatAnswered(Err(error)) => warn_of("heartbeat", error),
        Event::NextAnswered(Err(error)) => warn_of("asking for jobs", error),
        Event::NextAnswered(Ok(Some(answer))) => {
            for assignment in &answer.assignments {
                let job = &assignment.job;
                tracing::info!(job = %job.id, attempt = assignment.attempt, process = job.process_name, "a job was offered");
            }
        }
        Event::AcceptAnswered(id, Err(error)) => tracing::warn!(attempt = %id, %error, "the job was not accepted"),
        Event::Ended(id, report) => {
            tracing::info!(attempt = %id, outcome = report.outcome.as_str(), cause = report.cause.message, "the job has ended");
        }
        Event::Prepared(id, Err(report)) => {
            tracing::warn!(attempt = %id, cause = report.cause.message, "the job could not be prepared");
        }
        Event::ReportAnswered(id, Ok(())) => tracing::info!(attempt = %id, "the coordinator knows the end of the job"),
        Event::ReportAnswered(id, Err(error)) => tracing::warn!(attempt = %id, %error, "the end could not be reported"),
        Event::LinesRefused(id) => tracing::warn!(attempt = %id, "the coordinator does not take this attempt any more"),
        Event::Signal(signal) => tracing::info!(?signal, "asked to end"),
        _ => {}
    }
}

fn warn_of(what: &str, error: &CallError) {
    if matches!(error, CallError::Unauthenticated(_)) {
        tracing::error!(%error, "{what}: join again with `drover-agent join`; until then no jobs are taken");
    } else {
        tracing::warn!(%error, "{what} failed; it is tried again");
    }
}
