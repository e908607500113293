//! Sees every commit, remembers what jobs, attempts and robots were before it, and says when something has happened that
//! must not. The rules are written here once more, from the product's promises and not from its code.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use drover_agent::attempt::AttemptId;
use drover_coordinator::{
    domain::{
        attempt::Attempt,
        event::Event,
        job::{Contact, Job, Leases, State, Target},
        log::LogHead,
        robot::{Robot, RobotGroup},
    },
    store::{Reader, blob::Blobs, check::check_keys, engine::WriteSet, key::Kind, table},
};
use drover_protocol::{
    JobId, RobotGroupId, RobotId, Timestamp,
    job::{CauseCode, Outcome},
};
use uuid::Uuid;

use crate::{
    file_witness::FileWitness,
    people::{MAX_PARALLEL, MAX_TRIES},
    process::Processes,
    task_witness::{self, TaskWitness},
    triggers::Ledger,
};

type Verdict = Result<(), String>;

/// Says what is wrong unless the condition holds.
macro_rules! hold {
    ($holds:expr, $($text:tt)+) => { if !$holds { return Err(format!($($text)+)); } };
}

/// All that was ever seen of a job.
struct Seen {
    job: Job,
    /// Attempts that were taken on.
    tries: u32,
}

pub struct Witness {
    leases: Leases,
    processes: Arc<Processes>,
    jobs: BTreeMap<JobId, Seen>,
    attempts: BTreeMap<AttemptId, Attempt>,
    /// In which commit each attempt ended; they are remembered beyond the deletion of their jobs.
    ended_in: BTreeMap<AttemptId, u64>,
    robots: BTreeMap<RobotId, Robot>,
    groups: BTreeMap<RobotGroupId, RobotGroup>,
    logs: BTreeMap<AttemptId, u64>,
    /// In which commit the jobs of each wish were made.
    wishes: BTreeMap<String, u64>,
    pub triggers: Ledger,
    pub delete_asked: BTreeSet<JobId>,
    /// Attempts whose end people were told is on its way.
    pub stop_acknowledged: BTreeSet<AttemptId>,
    pub commits: u64,
    /// What has happened at all, and how often: a rule proves nothing about what never comes about.
    pub reached: BTreeMap<String, u64>,
    /// All that is about tasks.
    pub tasks: TaskWitness,
    /// All that is about files.
    pub files: FileWitness,
    failure: Option<String>,
}

/// What one commit has written, as far as the rules are about it.
struct Commit {
    now: Timestamp,
    jobs: Vec<(JobId, Option<Job>)>,
    attempts: Vec<(AttemptId, Option<Attempt>)>,
    /// Jobs for which a person has just asked for one more attempt.
    retried: BTreeSet<Uuid>,
}

impl Witness {
    /// `kept` is the content of files as it is, without any fault.
    pub fn new(leases: Leases, processes: Arc<Processes>, kept: Blobs) -> Self {
        Self {
            leases,
            processes,
            jobs: BTreeMap::new(),
            attempts: BTreeMap::new(),
            ended_in: BTreeMap::new(),
            robots: BTreeMap::new(),
            groups: BTreeMap::new(),
            logs: BTreeMap::new(),
            wishes: BTreeMap::new(),
            triggers: Ledger::default(),
            delete_asked: BTreeSet::new(),
            stop_acknowledged: BTreeSet::new(),
            commits: 0,
            reached: BTreeMap::new(),
            tasks: TaskWitness::default(),
            files: FileWitness::new(kept),
            failure: None,
        }
    }

    pub fn fail(&mut self, what: String) {
        self.failure.get_or_insert(what);
    }

    pub fn failure(&self) -> Option<String> {
        self.failure.clone()
    }

    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values().map(|seen| &seen.job)
    }

    pub fn job(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id).map(|seen| &seen.job)
    }

    pub fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.values()
    }

    /// Whether the attempt is there and has not ended.
    pub fn is_held(&self, id: AttemptId) -> bool {
        self.attempts.get(&id).is_some_and(|attempt| attempt.ended_at.is_none())
    }

    /// Whether a robot held the attempt at this commit or after it.
    pub fn was_held_since(&self, commit: u64, id: AttemptId, robot: &str) -> bool {
        let ended = self.ended_in.get(&id).is_some_and(|ended| *ended <= commit);
        !ended && self.attempts.get(&id).is_none_or(|attempt| attempt.robot.name == robot)
    }

    /// Whether the coordinator has been told that the robot takes the attempt on.
    pub fn was_accepted(&self, id: AttemptId) -> bool {
        self.ended_in.contains_key(&id) || self.attempts.get(&id).is_some_and(|found| found.accepted_at.is_some())
    }

    /// Looks at a commit that has just been made.
    pub fn see(&mut self, reading: &Reader, written: &WriteSet) {
        self.commits += 1;
        if self.failure.is_some() {
            return;
        }
        if let Err(what) = self.judge(reading, written) {
            self.fail(what);
        }
    }

    fn judge(&mut self, reading: &Reader, written: &WriteSet) -> Verdict {
        let report = check_keys(reading.view, written.keys().cloned()).map_err(|error| error.to_string())?;
        hold!(report.is_sound(), "the store is not sound: {report}");
        let commit = self.read(reading, written)?;
        let new = commit.jobs.iter().filter(|(id, _)| !self.jobs.contains_key(id));
        let new: Vec<Job> = new.filter_map(|(_, job)| job.clone()).collect();
        let reached = self.triggers.judge(reading, written, &new)?;
        reached.into_iter().for_each(|what| self.count(what));
        for (id, after) in &commit.attempts {
            self.judge_attempt(*id, after.as_ref(), &commit)?;
        }
        for (id, after) in &commit.jobs {
            self.judge_job(*id, after.as_ref(), &commit)?;
        }
        let attempts = commit.attempts.iter().filter_map(|(_, attempt)| attempt.as_ref());
        let knew = |attempt: &Attempt| {
            self.ended_in.contains_key(&AttemptId { job_id: attempt.job_id, attempt: attempt.attempt })
        };
        let ended = task_witness::ended(attempts, knew);
        self.remember(&commit);
        for (id, _) in &commit.jobs {
            self.judge_holding(*id)?;
        }
        let jobs = &self.jobs;
        self.tasks.judge(reading, written, |id| jobs.get(&id).map(|seen| seen.job.clone()), &ended)?;
        for what in self.tasks.take_reached() {
            self.count(what.to_owned());
        }
        self.files.judge(reading, written, self.commits)?;
        for what in self.files.take_reached() {
            self.count(what);
        }
        Ok(())
    }

    /// Reads what was written; robots and groups are remembered at once, for an assignment looks at them.
    fn read(&mut self, reading: &Reader, written: &WriteSet) -> Result<Commit, String> {
        let mut commit = Commit { now: reading.now, jobs: Vec::new(), attempts: Vec::new(), retried: BTreeSet::new() };
        let broken = |error: drover_coordinator::error::Error| error.to_string();
        for (key, value) in written {
            let Some(kind) = Kind::of(key) else { continue };
            let id = || Uuid::from_slice(&key[18..34]).expect("a key with an id");
            let attempt = || AttemptId {
                job_id: JobId::from_uuid(id()),
                attempt: u32::from_be_bytes(key[34..38].try_into().expect("four bytes")),
            };
            match kind {
                Kind::Job => {
                    let id = JobId::from_uuid(id());
                    commit.jobs.push((id, table::find(reading, id).map_err(broken)?));
                }
                Kind::Attempt => {
                    let id = attempt();
                    commit.attempts.push((id, table::find(reading, (id.job_id, id.attempt)).map_err(broken)?));
                }
                Kind::Robot => {
                    let id = RobotId::from_uuid(id());
                    self.robots.extend(table::find(reading, id).map_err(broken)?.map(|robot: Robot| (id, robot)));
                }
                Kind::RobotGroup => {
                    let id = RobotGroupId::from_uuid(id());
                    self.groups.extend(table::find(reading, id).map_err(broken)?.map(|group: RobotGroup| (id, group)));
                }
                Kind::LogHead => {
                    let id = attempt();
                    let head: Option<LogHead> = table::find(reading, (id.job_id, id.attempt)).map_err(broken)?;
                    let next = head.map_or(0, |head| head.next_seq);
                    let before = self.logs.insert(id, next).unwrap_or(1);
                    hold!(next == 0 || before <= next, "the log of {id} went back from line {before} to {next}");
                }
                Kind::Event if value.is_some() => {
                    let event = drover_protocol::EventId::from_uuid(Uuid::from_slice(&key[34..50]).expect("an id"));
                    let event: Option<Event> = table::find(reading, (id(), event)).map_err(broken)?;
                    commit.retried.extend(event.filter(|event| event.code == "retry_asked").map(|event| event.object));
                }
                _ => {}
            }
        }
        Ok(commit)
    }

    pub fn count(&mut self, what: String) {
        *self.reached.entry(what).or_default() += 1;
    }

    fn remember(&mut self, commit: &Commit) {
        for (id, after) in &commit.attempts {
            match after {
                Some(attempt) => {
                    if attempt.ended_at.is_some() && !self.ended_in.contains_key(id) {
                        self.ended_in.insert(*id, self.commits);
                        let cause = attempt.cause.as_ref().map(|why| why.code);
                        self.count(match attempt.outcome.zip(cause) {
                            Some((outcome, cause)) => format!("{outcome:?} by {cause:?}"),
                            None => "not accepted".to_owned(),
                        });
                    }
                    let before = self.attempts.insert(*id, attempt.clone());
                    if attempt.late_report_kept && before.is_some_and(|before| !before.late_report_kept) {
                        self.count("late report".to_owned());
                    }
                }
                None => drop(self.attempts.remove(id)),
            }
        }
        for (id, after) in &commit.jobs {
            match after {
                Some(job) => {
                    let tries = self.tries_after(*id, job, commit);
                    self.jobs.insert(*id, Seen { job: job.clone(), tries });
                }
                None => {
                    self.jobs.remove(id);
                    self.count("deleted".to_owned());
                }
            }
        }
    }

    fn tries_after(&self, id: JobId, after: &Job, commit: &Commit) -> u32 {
        let Some(seen) = self.jobs.get(&id) else { return 0 };
        let was_assigned = matches!(seen.job.state, State::Assigned { .. });
        let taken_on = matches!(after.state, State::Running { .. } | State::Silent { .. } | State::Stopping { .. })
            || commit.attempt_of(&seen.job).is_some_and(|attempt| attempt.reported.is_some());
        seen.tries + u32::from(was_assigned && seen.job.attempt == after.attempt && taken_on)
    }

    fn judge_job(&mut self, id: JobId, after: Option<&Job>, commit: &Commit) -> Verdict {
        let before = self.jobs.get(&id).map(|seen| &seen.job);
        match (before, after) {
            (None, None) => Ok(()),
            (None, Some(after)) => {
                hold!(
                    matches!(after.state, State::Waiting { .. }) && after.attempt == 0,
                    "{id} began as {:?}",
                    after.state
                );
                let made_in =
                    after.labels.get("wish").map(|wish| *self.wishes.entry(wish.clone()).or_insert(self.commits));
                hold!(made_in.is_none_or(|commit| commit == self.commits), "{id} was wished once and started again");
                Ok(())
            }
            (Some(before), None) => {
                hold!(before.is_finished(), "{id} was deleted while it was {:?}", before.state);
                hold!(self.delete_asked.contains(&id), "{id} was deleted and nobody had asked for it");
                Ok(())
            }
            (Some(before), Some(after)) => {
                self.judge_move(before, after, commit).map_err(|what| format!("{id}: {what}"))?;
                let tries = self.tries_after(id, after, commit);
                hold!(after.tries == tries, "{id} counts {} tries of {tries}", after.tries);
                if let State::Finished { outcome: Outcome::Succeeded, .. } = after.state {
                    let reported = commit.attempt_of(after).or_else(|| self.attempts.get(&newest(after)));
                    let reported = reported.and_then(|attempt| attempt.reported);
                    hold!(reported == Some(Outcome::Succeeded), "{id} succeeded, but its robot said {reported:?}");
                }
                Ok(())
            }
        }
    }

    fn judge_move(&self, before: &Job, after: &Job, commit: &Commit) -> Verdict {
        use State::{Assigned, Finished, Running, Silent, Stopping, Waiting};
        let now = commit.now;
        let reported = commit.attempt_of(before).is_some_and(|attempt| attempt.reported.is_some());
        let legal = match (&before.state, &after.state) {
            (Waiting { not_before: None }, Assigned { .. }) => return self.judge_assignment(before, after, commit),
            (Waiting { .. }, Waiting { .. } | Finished { .. }) => true,
            (Assigned { .. }, Assigned { .. } | Running { .. } | Finished { .. }) => true,
            (Assigned { accept_by }, Waiting { .. }) => *accept_by <= now || reported,
            (Running { lease_ends_at }, Silent { .. }) => *lease_ends_at <= now,
            (Running { .. }, Running { .. } | Stopping { .. } | Waiting { .. } | Finished { .. }) => true,
            (Silent { lost_at }, Silent { lost_at: later }) => lost_at == later,
            (Silent { .. }, Running { .. } | Stopping { .. }) => true,
            (Silent { lost_at }, Waiting { .. } | Finished { .. }) => reported || *lost_at <= now || is_closed(after),
            (Stopping { stop: before }, Stopping { stop: after }) => before.mode <= after.mode,
            (Stopping { .. }, Waiting { .. } | Finished { .. }) => true,
            (Finished { outcome, cause }, Finished { outcome: again, cause: why }) => outcome == again && cause == why,
            (Finished { .. }, Waiting { .. }) => commit.retried.contains(&before.id.uuid()),
            _ => false,
        };
        hold!(legal, "it went from {:?} to {:?} at {now}", before.state, after.state);
        hold!(before.attempt == after.attempt, "attempt {} came without an assignment", after.attempt);
        hold!(before.robot == after.robot, "attempt {} went to another robot", after.attempt);
        match after.state {
            Running { lease_ends_at } if before.state != after.state => {
                let lease = now.plus_seconds(self.leases.job_seconds);
                hold!(lease_ends_at == lease, "its lease ends at {lease_ends_at}, it is {now}");
            }
            Silent { lost_at } if !matches!(before.state, Silent { .. }) => {
                let lost = now.plus_seconds(self.leases.lost_after_seconds);
                hold!(lost_at == lost, "it is to be lost at {lost_at}, it is {now}");
            }
            Waiting { .. } if before.is_held() => self.judge_retry(before, commit)?,
            _ => {}
        }
        Ok(())
    }

    /// It is tried again by itself: only if its process says so, and not too often.
    fn judge_retry(&self, before: &Job, commit: &Commit) -> Verdict {
        let Some(attempt) = commit.attempt_of(before) else { return Err("its attempt did not end".to_owned()) };
        let Some(outcome) = attempt.outcome else { return Ok(()) };
        let wanted = matches!(outcome, Outcome::Failed | Outcome::Lost | Outcome::TimedOut);
        hold!(before.process_name == "tried again" && wanted, "it is tried again after {outcome:?}");
        let tries = self.tries_after(before.id, before, commit);
        hold!(tries < MAX_TRIES, "it is tried again after {tries} tries");
        let asked = matches!(&before.state, State::Stopping { stop } if stop.why.code != CauseCode::Timeout);
        let acknowledged = self.stop_acknowledged.contains(&newest(before));
        hold!(!asked && !acknowledged, "it is tried again although its end was asked");
        Ok(())
    }

    fn judge_assignment(&self, before: &Job, after: &Job, commit: &Commit) -> Verdict {
        hold!(after.attempt == before.attempt + 1, "attempt {} follows {}", after.attempt, before.attempt);
        let Some(holder) = &after.robot else { return Err("it was given to nobody".to_owned()) };
        let Some(robot) = self.robots.get(&holder.id) else {
            return Err("it was given to an unknown robot".to_owned());
        };
        let suits = match after.target {
            Target::Robot(id) => id == robot.id,
            Target::Group(id) => robot.groups.contains(&id) || self.groups.get(&id).is_some_and(RobotGroup::is_all),
        };
        hold!(suits, "{} is not in its target", robot.name);
        let groups = || self.groups.values().filter(|group| group.is_all() || robot.groups.contains(&group.id));
        hold!(robot.enabled && groups().all(|group| group.enabled), "{} is disabled", robot.name);
        let mut pauses = groups().filter_map(|group| group.pause.as_ref()).chain(&robot.pause);
        hold!(pauses.all(|pause| pause.until.is_some_and(|until| until <= commit.now)), "{} is paused", robot.name);
        // Others that wait in the same line, and go on waiting.
        let comes_first = |other: &Job| {
            let same = other.target == after.target && other.process_version_id == after.process_version_id;
            let first = (other.priority, after.id) > (after.priority, other.id);
            let stays = commit
                .jobs
                .iter()
                .find(|(id, _)| *id == other.id)
                .is_none_or(|(_, now)| now.as_ref().is_some_and(|now| now.is_ready()));
            other.is_ready() && same && first && stays
        };
        let first = self.jobs().find(|other| other.id != after.id && comes_first(other));
        hold!(first.is_none(), "it was taken before {}", first.map_or(String::new(), |job| job.id.to_string()));
        Ok(())
    }

    fn judge_attempt(&self, id: AttemptId, after: Option<&Attempt>, commit: &Commit) -> Verdict {
        let Some(after) = after else { return Ok(()) };
        let Some(before) = self.attempts.get(&id) else {
            hold!(after.ended_at.is_none() && after.reported.is_none(), "{id} began as one that had ended");
            return Ok(());
        };
        hold!(before.robot == after.robot, "{id} went to another robot");
        let kept = |before: bool, same: bool| !before || same;
        hold!(kept(before.accepted_at.is_some(), before.accepted_at == after.accepted_at), "{id} was accepted twice");
        hold!(kept(before.ended_at.is_some(), before.ended_at == after.ended_at), "{id} ended twice");
        hold!(kept(before.ended_at.is_some(), before.outcome == after.outcome), "the outcome of {id} was changed");
        hold!(kept(before.reported.is_some(), before.reported == after.reported), "another report of {id} was taken");
        if before.reported.is_none()
            && let Some(outcome) = after.reported
        {
            hold!(before.ended_at.is_none(), "a report of {id} was taken when it had ended");
            let held = self.jobs.get(&id.job_id).is_some_and(|seen| seen.job.is_held() && newest(&seen.job) == id);
            hold!(held, "a report of {id} was taken, which was not held");
            self.judge_report(id, outcome)?;
        }
        let was_silent = self
            .jobs
            .get(&id.job_id)
            .is_some_and(|seen| lost_at(&seen.job).is_some_and(|lost_at| lost_at <= commit.now));
        let given_up = |attempt: &Attempt| attempt.cause.as_ref().is_some_and(|why| why.code == CauseCode::RobotSilent);
        hold!(given_up(before) || !given_up(after) || was_silent, "{id} was given up too early");
        Ok(())
    }

    /// What was reported is what has happened on the host.
    fn judge_report(&self, id: AttemptId, outcome: Outcome) -> Verdict {
        let Some(process) = self.processes.get(id) else {
            hold!(outcome != Outcome::Succeeded, "{id} is said to have succeeded, and no process ever ran");
            return Ok(());
        };
        hold!(!process.is_alive(), "the end of {id} was reported while its process runs");
        if outcome == Outcome::Succeeded || outcome == Outcome::TimedOut {
            let truth = process.outcome();
            hold!(truth == Some(outcome), "{id} is said to have {}, in truth it is {truth:?}", outcome.as_str());
        }
        Ok(())
    }

    /// Who holds what, after everything that the commit has changed.
    fn judge_holding(&self, id: JobId) -> Verdict {
        let Some(job) = self.job(id) else { return Ok(()) };
        if let Some(attempt) = self.attempts.get(&newest(job)) {
            hold!(attempt.ended_at.is_none() == job.is_held(), "{id} is {:?}, its attempt is not", job.state);
        }
        let (State::Assigned { .. }, Some(holder)) = (&job.state, &job.robot) else { return Ok(()) };
        let held = self.jobs().filter(|other| other.is_held() && other.robot.as_ref() == Some(holder)).count();
        let capacity = self.robots.get(&holder.id).map_or(0, capacity);
        hold!(held <= capacity as usize, "{} holds {held} jobs and has {capacity} places", holder.name);
        let active = self.jobs().filter(|other| other.is_held() && other.process_id == job.process_id).count() as u64;
        hold!(job.process_name != "limited" || active <= MAX_PARALLEL, "{active} jobs of a limited process are active");
        Ok(())
    }
}

impl Commit {
    /// The newest attempt of a job, if this commit has written it.
    fn attempt_of(&self, job: &Job) -> Option<&Attempt> {
        self.attempts.iter().find(|(id, _)| *id == newest(job)).and_then(|(_, attempt)| attempt.as_ref())
    }
}

fn newest(job: &Job) -> AttemptId {
    AttemptId { job_id: job.id, attempt: job.attempt }
}

/// When it is lost if its robot stays silent.
fn lost_at(job: &Job) -> Option<Timestamp> {
    match &job.state {
        State::Silent { lost_at } => Some(*lost_at),
        State::Stopping { stop } => match stop.contact {
            Some(Contact::Silent { lost_at }) => Some(lost_at),
            Some(Contact::Heard { .. }) | None => None,
        },
        _ => None,
    }
}

fn is_closed(job: &Job) -> bool {
    matches!(&job.state, State::Finished { cause, .. } if cause.code == CauseCode::ClosedByOperator)
}

/// What people have set, but never more than the host allows.
fn capacity(robot: &Robot) -> u32 {
    let host = robot.host.as_ref().and_then(|host| host.capacity);
    robot.capacity.unwrap_or(u32::MAX).min(host.unwrap_or(if robot.capacity.is_some() { u32::MAX } else { 1 }))
}
