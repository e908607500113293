//! What the host tells about the jobs: how an attempt gets from one phase to the next.

use std::rc::Rc;

use drover_protocol::{Timestamp, agent::Finish, job::Progress};

use super::{Action, Core, JobPhase, after};
use crate::{
    attempt::AttemptId,
    journal::{Entry, Stage},
    report,
};

/// A progress is told earlier than the heartbeat is due, but not more often than this.
const PROGRESS_EVERY_MS: i64 = 5_000;

impl Core {
    pub(super) fn prepared(&mut self, id: AttemptId, result: Result<(), Box<Finish>>, actions: &mut Vec<Action>) {
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

    pub(super) fn ended(&mut self, id: AttemptId, report: Box<Finish>, actions: &mut Vec<Action>) {
        let Some(held) = self.jobs.get(&id) else { return };
        match held.phase {
            JobPhase::Running => self.finish_with(id, report, actions),
            JobPhase::Dropping(None) => self.abandoned(id, actions),
            _ => {}
        }
    }

    /// Nothing runs (any more): from here on it is only about telling the coordinator.
    pub(super) fn finish_with(&mut self, id: AttemptId, report: Box<Finish>, actions: &mut Vec<Action>) {
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

    pub(super) fn delivered(&mut self, id: AttemptId, actions: &mut Vec<Action>) {
        let Some(held) = self.jobs.get_mut(&id) else { return };
        let JobPhase::Delivering(report) = &held.phase else { return };
        let (report, stale) = (report.clone(), held.stale);
        if let Some(assignment) = held.assignment.clone() {
            let stage = Stage::Ended { report: report.clone(), delivered: true };
            actions.push(Action::Record(Entry { assignment, stage }));
        }
        held.phase = JobPhase::LastLines(report);
        held.deliver_until = None;
        if stale {
            self.lines_over(id, true, actions);
        } else {
            actions.push(Action::CloseLines(id));
        }
    }

    pub(super) fn lines_over(&mut self, id: AttemptId, refused: bool, actions: &mut Vec<Action>) {
        let Some(held) = self.jobs.get_mut(&id) else { return };
        match &held.phase {
            JobPhase::LastLines(report) => {
                let report = report.clone();
                actions.push(Action::Report(id, report.clone()));
                held.phase = JobPhase::Reporting(report);
                held.retry_at = None;
            }
            JobPhase::Delivering(_) if refused => held.stale = true,
            JobPhase::Accepting(_) | JobPhase::Preparing | JobPhase::Running if refused => self.drop_job(id, actions),
            _ => {}
        }
    }

    pub(super) fn progressed(&mut self, id: AttemptId, progress: Progress, now: Timestamp) {
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

    pub(super) fn abandoned(&mut self, id: AttemptId, actions: &mut Vec<Action>) {
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
    pub(super) fn journal_failed(&mut self, id: AttemptId, now: Timestamp, actions: &mut Vec<Action>) {
        let Some(held) = self.jobs.get_mut(&id) else { return };
        let Some(assignment) = held.assignment.clone() else { return };
        match &held.phase {
            // Not accepted, so it goes back; and no other is taken at once.
            JobPhase::Accepting(_) => {
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
}
