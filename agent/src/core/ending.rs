//! Ending: one job, because somebody asked or it is not ours any more, or the agent as a whole.

use drover_protocol::{
    Timestamp,
    job::{Cause, CauseCode},
};

use super::{Action, Core, JobPhase, Mode, Signal, after};
use crate::{
    attempt::AttemptId,
    launcher::{EndMode, EndRequest},
    report,
};

/// After the jobs were stopped, reports get this long to be delivered; what is not stays in the journal.
const LAST_REPORTS_MS: i64 = 30_000;

impl Core {
    /// Ends a job; an end that is not harder than the one under way changes nothing.
    pub(super) fn end(&mut self, id: AttemptId, mode: EndMode, cause: Cause, actions: &mut Vec<Action>) {
        let Some(held) = self.jobs.get_mut(&id) else { return };
        if held.end.as_ref().is_some_and(|end| end.mode >= mode) {
            return;
        }
        let request = EndRequest { mode, cause };
        match held.phase {
            JobPhase::Accepting(_) => held.end = Some(request),
            JobPhase::Preparing => {
                held.end = Some(request.clone());
                actions.push(Action::CancelPrepare(id));
                self.finish_with(id, Box::new(report::ended_before_start(id, &request)), actions);
            }
            JobPhase::Running => {
                held.end = Some(request.clone());
                actions.push(Action::End(id, request));
            }
            // The process is gone; whoever aborts does not want to wait for its artifacts either (see `keep_deliveries`).
            JobPhase::Delivering(_) if mode == EndMode::Hard => held.end = Some(request),
            JobPhase::Delivering(_) | JobPhase::LastLines(_) | JobPhase::Reporting(_) | JobPhase::Dropping(_) => {}
        }
    }

    /// The attempt is not ours any more: its tree is ended and its files go.
    pub(super) fn drop_job(&mut self, id: AttemptId, actions: &mut Vec<Action>) {
        let Some(held) = self.jobs.get_mut(&id) else { return };
        held.stale = true;
        match held.phase {
            JobPhase::Accepting(_) => {
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
            // A late result is worth an event for the coordinator; its artifacts and lines are not awaited.
            JobPhase::Delivering(_) => {
                actions.extend([Action::CancelDeliver(id), Action::DropLines(id)]);
                self.delivered(id, actions);
            }
            JobPhase::LastLines(_) => {
                actions.push(Action::DropLines(id));
                self.lines_over(id, true, actions);
            }
            JobPhase::Reporting(_) | JobPhase::Dropping(_) => {}
        }
    }

    pub(super) fn signalled(&mut self, signal: Signal, now: Timestamp, actions: &mut Vec<Action>) {
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

    pub(super) fn stop_jobs(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
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

    pub(super) fn quit(&mut self, actions: &mut Vec<Action>) {
        self.mode = Mode::Quitting;
        self.exited = true;
        actions.push(Action::Exit);
    }
}

/// The cause of an end that the coordinator asks for.
pub(super) fn requested(code: CauseCode) -> Cause {
    let message = match code {
        CauseCode::StopRequested => "a stop was asked",
        _ => "an abort was asked",
    };
    Cause { by: "coordinator".to_owned(), code, message: message.to_owned() }
}
