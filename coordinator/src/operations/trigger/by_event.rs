//! Triggers by event: what they name, and what is kept for them when something happens.
//!
//! News are handed over in the transaction that removes them from those that wait; what a trigger is to fire for is kept
//! there under its name and the news' id, until it has fired. So nothing is forgotten and nothing fires twice.

use drover_protocol::{
    JobId, QueueId, TriggerId,
    news::NewsType,
    trigger::{ByEvent, EventOn},
};
use serde_json::Value;

use crate::{
    domain::{
        job::Job,
        name::Faults,
        news::News,
        permission::Permission,
        trigger::{
            Rule, Trigger,
            by_event::{Pending, fits, needless, news_of, told},
        },
    },
    error::{Error, Result},
    operations::{Caller, news, process, queue, robot_group, storage},
    store::{Reading, Scan, Topic, Tx, key::Kind, table},
};

/// Triggers that fire on one kind of event.
const MAX_OF_EVENT: usize = 500;
/// So far back it is looked for who started a job.
const MAX_ANCESTORS: usize = 16;

/// The rule with the ids of what it names.
pub(super) fn rule_of(reading: &dyn Reading, caller: &Caller, mut settings: ByEvent) -> Result<Rule> {
    if let Some(text) = &mut settings.process {
        *text = process::find(reading, text, "/event/process")?.id.to_string();
    }
    if let Some(text) = &mut settings.queue {
        *text = queue::find(reading, caller, Permission::TaskRead, text, "/event/queue")?.id.to_string();
    }
    if let Some(text) = &mut settings.group {
        *text = robot_group::find(reading, caller, Permission::RobotRead, text, "/event/group")?.id.to_string();
    }
    if let Some(text) = &mut settings.folder {
        *text = storage::resolve(reading, caller, Permission::StorageRead, text)
            .map_err(|error| match error {
                Error::NotFound(_) => Error::invalid("/event/folder", "there is no such folder"),
                other => other,
            })?
            .key();
    }
    let (named, permission) = match settings.on {
        EventOn::JobFinished => (false, Permission::JobRead),
        EventOn::TaskFailed => (settings.queue.is_some(), Permission::TaskRead),
        EventOn::FileAdded => (settings.folder.is_some(), Permission::StorageRead),
        EventOn::RobotOffline => (settings.group.is_some(), Permission::RobotRead),
    };
    if !named {
        // It is told of all there are.
        caller.require_whole(permission)?;
    }
    Ok(Rule::Event(settings))
}

pub(super) fn check(faults: &mut Faults, settings: &ByEvent) {
    for name in needless(settings) {
        faults.add(format!("/event/{name}"), "says nothing about such events; leave it out");
    }
}

/// What the trigger wants to be told.
fn wanted(trigger: Option<&Trigger>) -> Vec<NewsType> {
    match trigger.filter(|trigger| trigger.enabled).map(|trigger| &trigger.rule) {
        Some(Rule::Event(settings)) => vec![news_of(settings.on)],
        _ => Vec::new(),
    }
}

/// The trigger was written or deleted: what it wants to be told is noted.
pub(super) fn follow(tx: &mut Tx, before: Option<&Trigger>, after: Option<&Trigger>) -> Result<()> {
    let (old, new) = (wanted(before), wanted(after));
    if old == new {
        return Ok(());
    }
    if let Some(on) = new.first()
        && of_event(tx, *on, MAX_OF_EVENT + 1)?.len() > MAX_OF_EVENT
    {
        let text = format!("{MAX_OF_EVENT} enabled triggers fire on such events already, and no more may");
        return Err(Error::invalid("/event/on", text));
    }
    news::want(tx, &old, &new)
}

fn of_event(reading: &dyn Reading, kind: NewsType, limit: usize) -> Result<Vec<Trigger>> {
    let found = Scan::of(reading, Kind::TriggerByEvent, kind.as_str()).indexed::<Trigger>(reading, limit)?;
    Ok(found.into_iter().map(|(_, trigger)| trigger).collect())
}

/// An enabled trigger that fires for tasks of this very queue.
pub fn of_queue(reading: &dyn Reading, queue: QueueId) -> Result<Option<Trigger>> {
    let (id, kind) = (queue.to_string(), news_of(EventOn::TaskFailed));
    let is_of_queue = |trigger: &Trigger| match &trigger.rule {
        Rule::Event(settings) => settings.queue.as_ref() == Some(&id),
        _ => false,
    };
    Ok(of_event(reading, kind, MAX_OF_EVENT)?.into_iter().find(is_of_queue))
}

/// Takes news over: keeps them for each trigger that they are for.
pub fn hear(tx: &mut Tx, news: &News) -> Result<()> {
    let all = of_event(tx, news.kind, MAX_OF_EVENT)?;
    let settings = |trigger: &Trigger| match &trigger.rule {
        Rule::Event(settings) if fits(settings, news) => Some(settings.own_jobs),
        _ => None,
    };
    let fitting: Vec<(Trigger, bool)> =
        all.into_iter().filter_map(|trigger| settings(&trigger).map(|own_jobs| (trigger, own_jobs))).collect();
    if fitting.is_empty() {
        return Ok(());
    }
    let behind = behind(tx, news)?;
    for (mut trigger, own_jobs) in fitting {
        let is_own = behind.triggers.contains(&trigger.id);
        if is_own && !own_jobs {
            continue;
        }
        let event = told(news);
        // Whoever wants a trigger to fire on its own jobs wants it for as long as it may go on.
        let chain = if is_own { behind.chain } else { behind.chain + 1 };
        table::insert(tx, &Pending { trigger_id: trigger.id, news_id: news.id, at: news.at, event, chain })?;
        if trigger.look_at.is_none_or(|at| tx.now() < at) {
            trigger.look_at = Some(tx.now());
            table::rewrite(tx, &trigger)?;
            tx.wake(Topic::Triggers);
        }
    }
    Ok(())
}

/// What has led to the news.
#[derive(Default)]
struct Behind {
    /// The triggers that have started the job behind them, or one of those that started it.
    triggers: Vec<TriggerId>,
    /// The longest of these jobs: see [`Job::chain`].
    chain: u32,
}

fn behind(reading: &dyn Reading, news: &News) -> Result<Behind> {
    let text = |name: &str| news.data.get(name).and_then(Value::as_str);
    let mut behind = Behind::default();
    let id: Option<JobId> = match news.kind {
        NewsType::JobFinished => {
            // The job itself may have been deleted since; the news know what has started it.
            behind.triggers.extend(text("trigger_id").and_then(|id| id.parse::<TriggerId>().ok()));
            let id = JobId::from_uuid(news.subject.id);
            let is_there = table::find::<Job>(reading, id)?.is_some();
            if is_there { Some(id) } else { text("parent_job_id").and_then(|id| id.parse().ok()) }
        }
        NewsType::TaskFailed => text("job_id").and_then(|id| id.parse().ok()),
        NewsType::FileAdded => {
            // News from before the time when who adds a file was told apart from who has made it wait for a moment only.
            let by = text("added_by").or_else(|| text("created_by"));
            by.and_then(|by| by.strip_prefix("job:")).and_then(|id| id.parse().ok())
        }
        _ => None,
    };
    let mut next = id;
    for _ in 0..MAX_ANCESTORS {
        let Some(job) = next.map(|id| table::find::<Job>(reading, id)).transpose()?.flatten() else { break };
        behind.chain = behind.chain.max(job.chain);
        behind.triggers.extend(job.trigger_id);
        next = job.parent_job_id;
    }
    Ok(behind)
}

/// Forgets what was kept for a trigger that is deleted, a page at a time; `true` when nothing is left.
pub(super) fn forget_page(tx: &mut Tx, trigger: &Trigger, limit: usize) -> Result<bool> {
    let kept = Scan::of(tx, Kind::TriggerPending, trigger.id).records::<Pending>(tx, limit)?;
    let ended = kept.len() < limit;
    for (_, pending) in kept {
        table::delete::<Pending>(tx, (pending.trigger_id, pending.news_id))?;
    }
    Ok(ended)
}
