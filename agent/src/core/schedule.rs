//! What is due: deadlines, retries, heartbeats, polls.

use drover_protocol::{
    JobId, Timestamp,
    agent::{HeldJob, MAX_JOBS, Phase},
    job::{Cause, CauseCode},
};

use super::{Action, Core, Held, JobPhase, Mode, after};
use crate::{launcher::EndMode, report};

/// Artifacts get this long after an abort: enough for small ones, and well within the time in which the coordinator expects
/// the end to be confirmed.
const DELIVERY_AFTER_ABORT_MS: u64 = 5_000;

/// One answer brings no more jobs than this: with the largest inputs it is still one that the agent reads.
const MOST_AT_ONCE: u32 = 32;

impl Core {
    pub(super) fn keep_time(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if !self.recovered || self.exited {
            return;
        }
        self.keep_deadlines(now, actions);
        self.keep_deliveries(now, actions);
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
    pub(super) fn mode_is_over(&mut self, now: Timestamp, actions: &mut Vec<Action>) -> bool {
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
    pub(super) fn deadlines(&self, held: &Held) -> impl Iterator<Item = (Timestamp, EndMode)> {
        let may_stop = matches!(held.phase, JobPhase::Accepting(_) | JobPhase::Preparing | JobPhase::Running);
        let may_abort = may_stop || matches!(held.phase, JobPhase::Delivering(_));
        let ahead = self.server_ahead_ms;
        let job = held.assignment.as_ref().filter(|_| ahead.is_some()).map(|assignment| &assignment.job);
        let stop = job.filter(|_| may_stop).and_then(|job| job.stop_after).map(|at| (at, EndMode::Soft));
        let abort = job.filter(|_| may_abort).and_then(|job| job.abort_after).map(|at| (at, EndMode::Hard));
        let (ahead, asked) = (ahead.unwrap_or(0), held.end.as_ref().map(|end| end.mode));
        stop.into_iter()
            .chain(abort)
            .filter(move |(_, mode)| asked.is_none_or(|asked| asked < *mode))
            .map(move |(at, mode)| (Timestamp::from_millis(at.millis().saturating_sub(ahead)), mode))
    }

    pub(super) fn keep_deadlines(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
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

    /// After an abort, artifacts are delivered for a moment only; a success that did not deliver all of them is none.
    fn keep_deliveries(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        for id in self.held() {
            let Some(held) = self.jobs.get_mut(&id) else { continue };
            let (JobPhase::Delivering(report), Some(end)) = (&mut held.phase, &held.end) else { continue };
            if end.mode != EndMode::Hard {
                continue;
            }
            if now < *held.deliver_until.get_or_insert(after(now, DELIVERY_AFTER_ABORT_MS)) {
                continue;
            }
            report::not_delivered(report, &end.cause);
            actions.push(Action::CancelDeliver(id));
            self.delivered(id, actions);
        }
    }

    pub(super) fn retry(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        for (id, held) in &mut self.jobs {
            if held.retry_at.is_some_and(|at| at <= now) {
                held.retry_at = None;
                match &held.phase {
                    JobPhase::Accepting(claim) => actions.push(Action::Accept(*id, claim.clone())),
                    JobPhase::Reporting(report) => actions.push(Action::Report(*id, report.clone())),
                    _ => {}
                }
            }
        }
    }

    pub(super) fn free(&self) -> u32 {
        let taken = self.jobs.values().filter(|held| !held.over()).count();
        let taken = u32::try_from(taken).unwrap_or(u32::MAX);
        if self.mode == Mode::Ready { self.capacity.saturating_sub(taken) } else { 0 }
    }

    /// Also without room there is a poll while jobs are held: that is how commands come at once.
    pub(super) fn wants_poll(&self) -> bool {
        self.mode == Mode::Ready || !self.jobs.is_empty()
    }

    pub(super) fn poll(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let free = self.free();
        if self.polling == Some(0) && free > 0 {
            // The poll on its way asks for nothing; now there is room.
            self.cancel_poll(actions);
        }
        if self.polling.is_none() && self.wants_poll() && self.poll_at <= now {
            // Those that the coordinator has taken away are left out: it would only say so again, at once and for ever.
            let ours = |held: &Held| !held.stale && !matches!(held.phase, JobPhase::Dropping(_));
            let mut known: Vec<JobId> =
                self.jobs.iter().filter(|(_, held)| ours(held)).map(|(id, _)| id.job_id).collect();
            known.dedup();
            known.truncate(MAX_JOBS);
            self.polling = Some(free);
            actions.push(Action::Next {
                free: free.min(MOST_AT_ONCE),
                known,
                wait_seconds: self.settings.poll_seconds,
            });
        }
    }

    pub(super) fn cancel_poll(&mut self, actions: &mut Vec<Action>) {
        if self.polling.take().is_some() {
            actions.push(Action::CancelNext);
        }
    }

    pub(super) fn report_held(&self) -> Vec<HeldJob> {
        let jobs = self.jobs.iter().filter_map(|(id, held)| {
            let phase = match held.phase {
                // Not confirmed yet, or not ours any more: nothing to renew.
                JobPhase::Accepting(_) | JobPhase::Dropping(_) => return None,
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
