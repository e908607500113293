//! News: told in the transaction in which something happens, kept only if somebody of the account wants their type, and
//! handed out once by a loop.
//!
//! Who wants news says so by [`want`] whenever that changes, and has a place in [`LISTENERS`], where they are handed over.
//! Both happen in transactions with everything that follows from them, so that nothing is told twice or forgotten,
//! whatever crashes.

use drover_protocol::{NewsId, news::NewsType};
use serde_json::{Map, Value, json};

use super::{alert, alert_raise, trigger, webhook};
use crate::{
    domain::{
        file::File,
        job::{Job, State, Target},
        news::{News, Subject, Wanted},
        robot::Robot,
        storage::StorageFolder,
        task::Task,
        webhook::Webhook,
    },
    error::{Error, Result},
    store::{Reading, Scan, Topic, Tx, key::Kind, table},
};

/// News of one page, and about how much may be written for them.
const PAGE: usize = 200;
const PAGE_WRITES: usize = 1_000;

/// Takes news over, within the transaction that removes them.
type Listener = fn(&mut Tx, &News) -> Result<()>;

/// Everybody to whom news are handed.
const LISTENERS: &[Listener] = &[webhook::hear, alert_raise::hear, trigger::by_event::hear];

/// Whom something happened to, and what is to know about it.
pub struct Facts {
    pub subject: Subject,
    pub data: Value,
}

/// Tells that something happened. `facts` are put together only if somebody wants them: of all that happens in a large
/// fleet most interests nobody.
pub fn tell(tx: &mut Tx, kind: NewsType, facts: impl FnOnce(&Tx) -> Result<Facts>) -> Result<()> {
    if !wanted(tx)?.is_some_and(|wanted| wanted.has(kind)) {
        return Ok(());
    }
    let Facts { subject, data } = facts(tx)?;
    let data = match data {
        Value::Object(members) => members.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    };
    table::insert(tx, &News { id: NewsId::from_uuid(tx.new_id()), kind, at: tx.now(), subject, data })?;
    tx.wake(Topic::News);
    Ok(())
}

fn wanted(reading: &dyn Reading) -> Result<Option<Wanted>> {
    table::find(reading, ())
}

/// Somebody who wanted the types of `before` wants those of `after` instead.
pub fn want(tx: &mut Tx, before: &[NewsType], after: &[NewsType]) -> Result<()> {
    let mut wanted = wanted(tx)?.unwrap_or_default();
    before.iter().for_each(|kind| wanted.remove(*kind));
    after.iter().for_each(|kind| wanted.add(*kind));
    table::overwrite(tx, &wanted)
}

/// Puts down that nothing is wanted where that was never said: what is there is found at once, what is not is looked for
/// each time.
pub fn begin(tx: &mut Tx) -> Result<()> {
    match wanted(tx)? {
        Some(_) => Ok(()),
        None => table::overwrite(tx, &Wanted::default()),
    }
}

/// Whether it was said what is wanted.
pub fn has_begun(reading: &dyn Reading) -> Result<bool> {
    Ok(wanted(reading)?.is_some())
}

/// Whether news wait to be handed out.
pub fn waits(reading: &dyn Reading) -> Result<bool> {
    Ok(!Scan::of(reading, Kind::News, ()).pairs(reading, 1)?.is_empty())
}

/// Hands out a page of news, the oldest first: fewer where many want them, so that the transaction stays short.
pub fn hand_out_page(tx: &mut Tx) -> Result<()> {
    for (_, news) in Scan::of(tx, Kind::News, ()).records::<News>(tx, PAGE)? {
        for listener in LISTENERS {
            listener(tx, &news)?;
        }
        table::delete::<News>(tx, news.id)?;
        if tx.written() > PAGE_WRITES {
            break;
        }
    }
    Ok(())
}

/// What is said to be wanted must be wanted by as many at least as there are webhooks and alerts that want it. For tests.
pub fn check_wanted(reading: &dyn Reading) -> Result<()> {
    let counted = wanted(reading)?.unwrap_or_default();
    let mut found = Wanted::default();
    webhook::all(reading)?.iter().flat_map(Webhook::wants).for_each(|kind| found.add(kind));
    alert::all(reading)?.iter().flat_map(|alert| alert.wants().to_vec()).for_each(|kind| found.add(kind));
    for (kind, count) in found.counts() {
        let said = counted.counts().get(kind).copied().unwrap_or_default();
        if said < *count {
            return Err(Error::Internal(format!("{kind} is wanted by {count}, and not by {said}")));
        }
    }
    Ok(())
}

/// What is told of a job.
pub fn of_job(job: &Job) -> Facts {
    let (outcome, cause) = match &job.state {
        State::Finished { outcome, cause } => (Some(outcome), Some(cause)),
        _ => (None, None),
    };
    let (robot, group) = match job.target {
        Target::Robot(id) => (Some(id), None),
        Target::Group(id) => (None, Some(id)),
    };
    let data = json!({
        "process_id": job.process_id, "process": job.process_name, "process_version_id": job.process_version_id,
        "version": job.version_number, "state": job.state.kind(), "outcome": outcome, "cause": cause,
        "error": job.error, "attempt": job.attempt, "target_robot_id": robot, "target_group_id": group,
        "robot_id": job.robot.as_ref().map(|robot| robot.id),
        "robot": job.robot.as_ref().map(|robot| robot.name.as_str()),
        "trigger_id": job.trigger_id, "parent_job_id": job.parent_job_id, "source": job.source, "labels": job.labels,
        "created_at": job.created_at, "started_at": job.started_at, "finished_at": job.finished_at,
        "revision": job.revision,
    });
    Facts { subject: Subject::new("job", job.id.uuid(), Some(&job.process_name)), data }
}

/// Tells what has become of a job.
pub fn job_changed(tx: &mut Tx, before: &Job, job: &Job) -> Result<()> {
    let is_assigned = |job: &Job| matches!(job.state, State::Assigned { .. });
    if is_assigned(job) && job.attempt != before.attempt {
        tell(tx, NewsType::JobAssigned, |_| Ok(of_job(job)))?;
    }
    if job.tries > before.tries {
        tell(tx, NewsType::JobStarted, |_| Ok(of_job(job)))?;
    }
    if job.is_finished() && !before.is_finished() {
        tell(tx, NewsType::JobFinished, |_| Ok(of_job(job)))?;
    }
    Ok(())
}

/// What is told of a task.
fn of_task(task: &Task, queue: &str) -> Facts {
    let holder = task.newest.as_ref().map(|attempt| &attempt.holder);
    let job = task.holder_job();
    let data = json!({
        "queue_id": task.queue_id, "queue": queue, "reference": task.reference, "state": task.state.kind(),
        "priority": task.priority, "tags": task.tags, "attempt": task.attempt, "error": task.error,
        "taken_by": holder.map(|holder| holder.by.as_str()), "job_id": job.map(|job| job.id),
        "robot_id": job.map(|job| job.robot), "postponed_until": task.postponed_until(),
        "origin_task_id": task.origin_task_id, "created_at": task.created_at, "finished_at": task.finished_at,
        "revision": task.revision,
    });
    let name = task.name.as_deref().or(task.reference.as_deref());
    Facts { subject: Subject::new("task", task.id.uuid(), name), data }
}

/// Tells what has become of a task; `before` is absent for one that has just come.
pub fn task_changed(tx: &mut Tx, before: Option<&Task>, task: &Task, queue: &str) -> Result<()> {
    use drover_protocol::task::TaskState;
    let kind = match (before.map(|before| before.state.kind()), task.state.kind()) {
        (None, _) => NewsType::TaskAdded,
        (Some(old), new) if old == new => return Ok(()),
        (Some(_), TaskState::New) => return Ok(()),
        (Some(_), TaskState::InProgress) => NewsType::TaskTaken,
        (Some(_), TaskState::Succeeded) => NewsType::TaskSucceeded,
        (Some(_), TaskState::Failed) => NewsType::TaskFailed,
        (Some(_), TaskState::Postponed) => NewsType::TaskPostponed,
        (Some(_), TaskState::Abandoned) => NewsType::TaskAbandoned,
    };
    tell(tx, kind, |_| Ok(of_task(task, queue)))
}

/// What is told of a robot, with what happened to it.
pub fn of_robot(robot: &Robot, more: Value) -> Facts {
    let mut data = json!({
        "group_ids": robot.groups, "host": robot.host.as_ref().map(|host| host.hostname.as_str()),
        "last_seen_at": robot.last_seen_at, "enabled": robot.enabled, "revision": robot.revision,
    });
    if let (Some(members), Value::Object(more)) = (data.as_object_mut(), more) {
        members.extend(more);
    }
    Facts { subject: Subject::new("robot", robot.id.uuid(), Some(&robot.name)), data }
}

/// What is told of a file in a folder that people made, and of who has put it there.
pub fn of_file(file: &File, by: &str, folder: &StorageFolder) -> Facts {
    let data = json!({
        "folder_id": folder.id, "folder": folder.name, "path": file.path, "size_bytes": file.size_bytes, "sha256": file.sha256,
        "content_type": file.content_type, "created_by": file.created_by, "modified_at": file.modified_at,
        "added_by": by,
    });
    Facts { subject: Subject::new("file", file.id.uuid(), Some(&file.path)), data }
}
