//! Sees every commit as far as it is about tasks, and says when something has happened that must not. The rules are written
//! here once more, from the product's promises and not from its code.

use std::collections::{BTreeMap, BTreeSet};

use drover_coordinator::{
    domain::{
        attempt::Attempt as JobAttempt,
        job::{Job, State as JobState},
        queue::Queue,
        task::{Attempt, State, Task},
    },
    store::{Reader, engine::WriteSet, key::Kind, schema::PastAttempt, table},
};
use drover_protocol::{JobId, QueueId, TaskId, Timestamp, task::TaskAttemptEnd};
use uuid::Uuid;

use crate::workers::{DONE, MAX_ATTEMPTS, QUEUE};

type Verdict = Result<(), String>;

macro_rules! hold {
    ($holds:expr, $($text:tt)+) => { if !$holds { return Err(format!($($text)+)); } };
}

/// Every task that ever was, with all of its attempts.
#[derive(Default)]
pub struct TaskWitness {
    queues: BTreeMap<QueueId, String>,
    tasks: BTreeMap<TaskId, Task>,
    past: BTreeMap<(TaskId, u32), Attempt>,
    references: BTreeMap<String, TaskId>,
    /// What came of the ends of tasks: origin to the task that was made for it.
    handed_on: BTreeMap<TaskId, TaskId>,
    reached: BTreeSet<&'static str>,
}

impl TaskWitness {
    /// What has come about at all since this was asked last.
    pub fn take_reached(&mut self) -> BTreeSet<&'static str> {
        std::mem::take(&mut self.reached)
    }

    /// How an attempt ended, as people call it.
    pub fn end_of(&self, task: TaskId, attempt: u32) -> Option<String> {
        let newest = self.tasks.get(&task)?.newest.as_ref().filter(|newest| newest.number == attempt);
        let end = newest.or_else(|| self.past.get(&(task, attempt)))?.end?;
        Some(serde_json::to_value(end).ok()?.as_str()?.to_owned())
    }

    pub fn has_reference(&self, reference: &str) -> bool {
        self.references.contains_key(reference)
    }

    /// Tasks of the worked queue that have not ended.
    pub fn unfinished(&self) -> impl Iterator<Item = &Task> {
        self.tasks.values().filter(|task| self.is_worked(task) && !task.is_ended())
    }

    /// What has succeeded was handed on, each once.
    pub fn check_handed_on(&self) -> Verdict {
        for task in self.tasks.values().filter(|task| self.is_worked(task)) {
            let wanted = matches!(task.state, State::Succeeded);
            hold!(self.handed_on.contains_key(&task.id) == wanted, "{} is {:?}, handed on or not", task.id, task.state);
        }
        Ok(())
    }

    fn is_worked(&self, task: &Task) -> bool {
        self.queues.get(&task.queue_id).is_some_and(|name| name == QUEUE)
    }

    /// Looks at a commit that has just been made. `jobs` are those that it has written.
    pub fn judge(
        &mut self,
        reading: &Reader,
        written: &WriteSet,
        job: impl Fn(JobId) -> Option<Job>,
        ended: &[(JobId, u32)],
    ) -> Verdict {
        let broken = |error: drover_coordinator::error::Error| error.to_string();
        let mut changed = Vec::new();
        for key in written.keys() {
            let id = || Uuid::from_slice(&key[18..34]).expect("a key with an id");
            match Kind::of(key) {
                Some(Kind::Queue) => {
                    let queue: Option<Queue> = table::find(reading, QueueId::from_uuid(id())).map_err(broken)?;
                    self.queues.extend(queue.map(|queue| (queue.id, queue.name)));
                }
                Some(Kind::Task) => changed.push(TaskId::from_uuid(id())),
                Some(Kind::TaskAttempt) => {
                    let number = u32::from_be_bytes(key[34..38].try_into().expect("four bytes"));
                    let task = TaskId::from_uuid(id());
                    let past: Option<PastAttempt> = table::find(reading, (task, number)).map_err(broken)?;
                    let Some(past) = past else { return Err(format!("attempt {number} of {task} was forgotten")) };
                    self.past.insert((task, number), past.attempt);
                }
                _ => {}
            }
        }
        for id in changed {
            let after: Option<Task> = table::find(reading, id).map_err(broken)?;
            let Some(after) = after else { return Err(format!("the task {id} was lost")) };
            self.judge_task(&after, reading.now, &job).map_err(|what| format!("task {id}: {what}"))?;
            self.tasks.insert(id, after);
        }
        for (id, attempt) in ended {
            let holds = |task: &&Task| task.held_by_job().is_some_and(|job| (job.id, job.attempt) == (*id, *attempt));
            let left = self.tasks.values().find(holds);
            hold!(
                left.is_none(),
                "{id}-{attempt} has ended and holds {}",
                left.map_or(String::new(), |t| t.id.to_string())
            );
        }
        Ok(())
    }

    fn judge_task(&mut self, after: &Task, now: Timestamp, job: &impl Fn(JobId) -> Option<Job>) -> Verdict {
        let Some(before) = self.tasks.get(&after.id).cloned() else { return self.judge_new(after) };
        hold!(before.queue_id == after.queue_id, "it changed its queue");
        if before.is_ended() {
            hold!(before.state == after.state, "it went from {:?} to {:?}", before.state, after.state);
        }
        match (&before.state, &after.state) {
            (State::New { .. }, State::InProgress { .. }) => {
                hold!(after.attempt == before.attempt + 1, "attempt {} follows {}", after.attempt, before.attempt);
                // Trying again by itself has a limit; a holder that puts a task back wants it taken once more.
                let put_back =
                    before.newest.as_ref().is_some_and(|newest| newest.end == Some(TaskAttemptEnd::Postponed));
                hold!(put_back || after.tries <= MAX_ATTEMPTS, "it was tried {} times", after.tries);
                let history =
                    before.newest.as_ref().is_none_or(|newest| self.past.contains_key(&(after.id, newest.number)));
                hold!(history, "attempt {} was forgotten", before.attempt);
                return Ok(());
            }
            (State::InProgress { .. }, State::InProgress { .. }) if after.attempt == before.attempt => {
                let holder = |task: &Task| task.newest.as_ref().map(|newest| newest.holder.clone());
                hold!(holder(&before) == holder(after), "attempt {} has another holder", after.attempt);
                return Ok(());
            }
            (State::InProgress { lease_ends_at }, _) => self.judge_end(&before, after, *lease_ends_at, now, job)?,
            (State::Postponed { until }, State::New { .. }) => hold!(*until <= now, "it came due before its time"),
            (same, state) => hold!(same == state, "it went from {same:?} to {state:?}"),
        }
        Ok(())
    }

    /// An attempt has ended, in the same commit perhaps the next one has begun.
    fn judge_end(
        &mut self,
        before: &Task,
        after: &Task,
        lease_ends_at: Timestamp,
        now: Timestamp,
        job: &impl Fn(JobId) -> Option<Job>,
    ) -> Verdict {
        let number = before.attempt;
        let newest = after.newest.as_ref().filter(|newest| newest.number == number);
        let Some(attempt) = newest.or_else(|| self.past.get(&(after.id, number))) else {
            return Err(format!("attempt {number} was forgotten"));
        };
        let Some(end) = attempt.end else { return Err(format!("attempt {number} is over and has not ended")) };
        let code = attempt.error.as_ref().and_then(|error| error.code.clone());
        let (by_holder, error) = (attempt.ended_by_holder, attempt.error.clone());
        match end {
            TaskAttemptEnd::Succeeded => {
                hold!(by_holder && after.state == State::Succeeded, "it succeeded and is {:?}", after.state);
                self.reached.insert("task succeeded");
            }
            TaskAttemptEnd::Failed if by_holder => drop(self.reached.insert("task failed")),
            TaskAttemptEnd::Failed => {
                let held = before.held_by_job().and_then(|holder| job(holder.id).map(|job| (holder, job)));
                let over = held.is_some_and(|(holder, job)| job.attempt != holder.attempt || !job.is_held());
                hold!(over, "it failed with its job, which goes on: {error:?} {code:?}");
                self.reached.insert("task settled with its job");
            }
            TaskAttemptEnd::Postponed => {
                hold!(by_holder, "nobody has put it back");
                self.reached.insert("task postponed");
            }
            TaskAttemptEnd::Abandoned => {
                hold!(lease_ends_at <= now, "it was abandoned although its lease runs until {lease_ends_at}");
                let running =
                    before.held_by_job().and_then(|holder| job(holder.id).filter(|job| job.attempt == holder.attempt));
                // By the heartbeats of its job.
                let kept = running
                    .is_some_and(|job| matches!(job.state, JobState::Running { lease_ends_at } if lease_ends_at > now));
                hold!(!kept, "it was abandoned while its job is heard of");
                self.reached.insert("task abandoned");
            }
        }
        Ok(())
    }

    fn judge_new(&mut self, after: &Task) -> Verdict {
        hold!(after.attempt == 0 && !after.is_ended(), "it began as {:?}", after.state);
        if let Some(origin) = after.origin_task_id {
            let done = self.queues.get(&after.queue_id).is_some_and(|name| name == DONE);
            let first = self.handed_on.insert(origin, after.id).is_none();
            hold!(done && first, "{origin} was handed on twice, or elsewhere");
            self.reached.insert("task handed on");
            return Ok(());
        }
        let Some(reference) = &after.reference else { return Ok(()) };
        let other = self.references.insert(reference.clone(), after.id);
        hold!(other.is_none(), "{reference} was added twice");
        Ok(())
    }
}

/// Attempts of jobs that have ended in this commit.
pub fn ended<'a>(
    attempts: impl Iterator<Item = &'a JobAttempt>,
    knew: impl Fn(&JobAttempt) -> bool,
) -> Vec<(JobId, u32)> {
    attempts.filter(|attempt| attempt.ended_at.is_some() && !knew(attempt)).map(|a| (a.job_id, a.attempt)).collect()
}
