//! What the coordinator answers.

use std::rc::Rc;

use drover_protocol::{
    Timestamp,
    agent::{Assignment, HeartbeatAnswer, JobCommand, MAX_JOBS, NextAnswer},
    job::CauseCode,
};

use super::{Action, Core, Held, JobPhase, Mode, after, ending::requested, wait_after};
use crate::{
    attempt::AttemptId,
    coordinator::CallError,
    journal::{Entry, Stage},
    launcher::EndMode,
    report,
};

impl Core {
    pub(super) fn heartbeat_answered(
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
                self.server_ahead_ms = Some(answer.server_time.millis().saturating_sub(now.millis()));
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
                // A lease must not run out only because the wait was long, whoever asked for it: that may have been a proxy.
                self.beat_at = after(now, wait.min(self.beat_every_ms));
            }
        }
    }

    /// The coordinator can be reached: what waits to be tried again is tried soon.
    pub(super) fn reached(&mut self, now: Timestamp) {
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

    pub(super) fn next_answered(
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

    pub(super) fn offered(&mut self, assignment: Assignment, actions: &mut Vec<Action>) {
        let assignment = Rc::new(assignment);
        let id = AttemptId { job_id: assignment.job.id, attempt: assignment.attempt };
        // An answer that crossed with a stop, or was given twice. What is not accepted goes back by itself.
        if self.mode != Mode::Ready || self.jobs.contains_key(&id) || self.jobs.len() >= MAX_JOBS {
            return;
        }
        let claim = format!("{:016x}{:016x}", self.jitter.below(u64::MAX), self.jitter.below(u64::MAX));
        let stage = Stage::Offered { claim: claim.clone() };
        actions.push(Action::Record(Entry { assignment: Rc::clone(&assignment), stage }));
        actions.push(Action::Accept(id, claim.clone()));
        self.jobs.insert(id, Held::new(Some(assignment), JobPhase::Accepting(claim)));
    }

    pub(super) fn command(&mut self, id: AttemptId, command: JobCommand, actions: &mut Vec<Action>) {
        match command {
            JobCommand::Stop => self.end(id, EndMode::Soft, requested(CauseCode::StopRequested), actions),
            JobCommand::Abort => self.end(id, EndMode::Hard, requested(CauseCode::AbortRequested), actions),
            JobCommand::Drop => self.drop_job(id, actions),
        }
    }

    pub(super) fn accept_answered(
        &mut self,
        id: AttemptId,
        answer: Result<(), CallError>,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        let Some(held) = self.jobs.get_mut(&id).filter(|held| matches!(held.phase, JobPhase::Accepting(_))) else {
            return;
        };
        let Some(assignment) = held.assignment.clone() else { return };
        match answer {
            Ok(()) => {
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

    pub(super) fn report_answered(
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
    pub(super) fn forget(&mut self, id: AttemptId, now: Timestamp, actions: &mut Vec<Action>) {
        let named = self.jobs.remove(&id).is_some_and(|held| !held.stale);
        actions.push(Action::Forget(id));
        // A poll on its way that names it is answered at once, because the coordinator does not count it any more. One that
        // does not name it may have been made when it was still counted: ask again.
        if !named {
            self.cancel_poll(actions);
        }
        self.poll_at = self.poll_at.min(now);
    }
}
