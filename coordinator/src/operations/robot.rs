//! Robots as people see and set them. What their agents say is in `agent.rs`.

use std::collections::BTreeSet;

use drover_protocol::{
    JobId, RobotGroupId, RobotId, Timestamp,
    job::{Cause, CauseCode, StopMode},
    news::NewsType,
    page::PageQuery,
    robot::{NewRobot, PauseMode, PauseRequest, RobotFilter, RobotPatch, RobotState},
};
use serde_json::Value;

use super::{
    Caller,
    audit::{self, Act},
    event, job, join_token, key,
    list::{self, Page, Via},
    news, reach, resource_value, robot_group,
};
use crate::{
    domain::{
        job::{Job, JobEvent, Leases, Target},
        key::Owner,
        name::{Faults, MAX_DESCRIPTION_CHARS, MAX_REASON_CHARS},
        permission::Permission,
        resource::Scope,
        robot::{
            HEALTH_SLOTS, MAX_CAPACITY, OFFLINE_AFTER_SECONDS, Pause, Robot, RobotGroup, Sample, Standing, standing,
        },
    },
    error::{Error, Result},
    secrets::Secrets,
    store::{Reading, Scan, Topic, Tx, key::Kind, schema::HealthSample, table},
};

const NOUN: &str = "robot";
const MAX_GROUPS: usize = 100;
const DELETE_PAGE: usize = 500;

/// A robot with what follows from its groups and jobs.
#[derive(Clone, Debug)]
pub struct RobotInFull {
    pub robot: Robot,
    pub standing: Standing,
    pub held: Vec<JobId>,
    pub state: RobotState,
}

/// The robot with this id or name, for paths.
pub fn resolve(reading: &dyn Reading, text: &str) -> Result<Robot> {
    super::by_id_or_name(reading, Kind::RobotByName, text)
}

/// The robot with this id or name, if the caller has the permission and it reaches that robot.
pub fn reached(reading: &dyn Reading, caller: &Caller, permission: Permission, text: &str) -> Result<Robot> {
    caller.require(permission)?;
    let robot = resolve(reading, text)?;
    reach::robot(reading, caller, permission, &robot)?;
    Ok(robot)
}

/// The same for a field of a body.
pub fn find(
    reading: &dyn Reading,
    caller: &Caller,
    permission: Permission,
    text: &str,
    pointer: &str,
) -> Result<Robot> {
    reached(reading, caller, permission, text).map_err(|error| match error {
        Error::NotFound(_) => Error::invalid(pointer, "there is no such robot"),
        other => other,
    })
}

/// The jobs that a robot holds now.
pub fn held_jobs(reading: &dyn Reading, robot: RobotId) -> Result<Vec<Job>> {
    let limit = MAX_CAPACITY as usize + 1;
    let found = Scan::of(reading, Kind::JobHeld, robot).indexed::<Job>(reading, limit)?;
    Ok(found.into_iter().map(|(_, job)| job).collect())
}

/// Looks up what belongs to a robot.
pub fn in_full(reading: &dyn Reading, robot: Robot) -> Result<RobotInFull> {
    let groups = robot_group::of_robot(reading, &robot)?;
    let standing = standing(&robot, groups.iter(), reading.now());
    let held: Vec<JobId> = held_jobs(reading, robot.id)?.iter().map(|job| job.id).collect();
    let state = robot.state(&standing, held.len(), reading.now());
    Ok(RobotInFull { robot, standing, held, state })
}

pub fn get(reading: &dyn Reading, caller: &Caller, text: &str) -> Result<RobotInFull> {
    in_full(reading, reached(reading, caller, Permission::RobotRead, text)?)
}

/// Robots that fit the filter, newest first.
pub fn list(
    reading: &dyn Reading,
    caller: &Caller,
    filter: &RobotFilter,
    query: &PageQuery,
) -> Result<Page<RobotInFull>> {
    caller.require(Permission::RobotRead)?;
    let labels = list::parse_labels(&filter.label)?;
    let part = filter.q.as_ref().map(|text| text.to_lowercase());
    let seen = |robot: &Robot| reach::reaches_robot(reading, caller, Permission::RobotRead, robot) == Ok(true);
    let fits = |robot: &Robot| {
        let has = robot.effective_labels();
        labels.iter().all(|(key, value)| has.get(key) == Some(value))
            && part.as_ref().is_none_or(|part| robot.name.to_lowercase().contains(part))
            && seen(robot)
            && filter.state.is_none_or(|state| in_full(reading, robot.clone()).is_ok_and(|full| full.state == state))
    };
    let group = |text| robot_group::find(reading, caller, Permission::RobotRead, text, "group");
    let group = filter.group.as_deref().map(group).transpose()?;
    let page = match group.filter(|group| !group.is_all()) {
        Some(group) => {
            let scan = Scan::of(reading, Kind::RobotByGroup, group.id).newest_first();
            list::page(reading, scan, Via::Index, query, fits)?
        }
        None => list::page(reading, Scan::of(reading, Kind::Robot, ()).newest_first(), Via::Records, query, fits)?,
    };
    let items = page.items.into_iter().map(|robot| in_full(reading, robot)).collect::<Result<_>>()?;
    Ok(Page { items, next_cursor: page.next_cursor })
}

/// Makes a robot record in advance, and the token with which its agent joins.
pub fn create(tx: &mut Tx, caller: &Caller, new: &NewRobot, secrets: &Secrets) -> Result<(RobotInFull, String)> {
    caller.require(Permission::RobotCreate)?;
    let mut faults = Faults::default();
    faults.name("/name", &new.name);
    faults.text("/description", &new.description, MAX_DESCRIPTION_CHARS);
    faults.labels("/labels", new.labels.iter());
    if let Some(capacity) = new.capacity {
        faults.range("/capacity", u64::from(capacity), 1, u64::from(MAX_CAPACITY));
    }
    faults.check()?;
    let mut robot = blank(RobotId::from_uuid(tx.new_id()), new.name.clone(), tx.now());
    robot.description = new.description.clone();
    robot.kind = new.kind;
    robot.labels = new.labels.clone();
    robot.capacity = new.capacity;
    insert(tx, &robot)?;
    let groups = resolve_groups(tx, caller, Permission::RobotCreate, &new.groups)?;
    set_groups(tx, &mut robot, groups, &caller.by())?;
    if !reach::reaches_robot(tx, caller, Permission::RobotCreate, &robot)? {
        return Err(Error::invalid("/groups", "name a group that your roles reach"));
    }
    event::note(tx, robot.id.uuid(), "robot_created", "the record was made in advance", caller.by())?;
    audit::append(tx, caller, Act::new("create", NOUN, robot.id, &robot.name).after(&robot))?;
    let token = join_token::create_for_robot(tx, robot.id, secrets)?;
    Ok((in_full(tx, robot)?, token))
}

/// A robot of which nothing is known but its name.
pub fn blank(id: RobotId, name: String, now: Timestamp) -> Robot {
    Robot {
        id,
        name,
        description: String::new(),
        enabled: true,
        kind: Default::default(),
        groups: BTreeSet::new(),
        labels: Default::default(),
        capacity: None,
        machine_id: None,
        join_token_id: None,
        host: None,
        pause: None,
        last_seen_at: None,
        joined_at: None,
        offline_at: None,
        created_at: now,
        revision: 1,
    }
}

/// Puts a new robot, which is in the group of all robots from then on.
pub fn insert(tx: &mut Tx, robot: &Robot) -> Result<()> {
    table::insert(tx, robot)?;
    let all = robot_group::all(tx)?.id;
    count_members(tx, all, 1)
}

fn count_members(tx: &mut Tx, group: RobotGroupId, change: i64) -> Result<()> {
    let mut group: RobotGroup = table::get(tx, group)?;
    group.robot_count = group.robot_count.saturating_add_signed(change);
    table::rewrite(tx, &group)
}

fn resolve_groups(
    reading: &dyn Reading,
    caller: &Caller,
    permission: Permission,
    texts: &[String],
) -> Result<BTreeSet<RobotGroupId>> {
    if texts.len() > MAX_GROUPS {
        return Err(Error::invalid("/groups", format!("a robot may be in at most {MAX_GROUPS} groups")));
    }
    let mut groups = BTreeSet::new();
    for (number, text) in texts.iter().enumerate() {
        let group = robot_group::find(reading, caller, permission, text, &format!("/groups/{number}"))?;
        if !group.is_all() {
            groups.insert(group.id);
        }
    }
    Ok(groups)
}

/// Changes the groups that a robot is in, and counts their members.
pub fn set_groups(tx: &mut Tx, robot: &mut Robot, groups: BTreeSet<RobotGroupId>, by: &str) -> Result<()> {
    if groups == robot.groups {
        return Ok(());
    }
    if groups.len() > MAX_GROUPS {
        return Err(Error::wrong_state(format!("a robot may be in at most {MAX_GROUPS} groups")));
    }
    for left in robot.groups.difference(&groups) {
        count_members(tx, *left, -1)?;
    }
    for entered in groups.difference(&robot.groups) {
        count_members(tx, *entered, 1)?;
    }
    robot.groups = groups;
    table::update(tx, robot)?;
    event::note(tx, robot.id.uuid(), "groups_changed", "the robot's groups were changed", by)?;
    // Its agent waits for jobs of the groups it was in; it has to look again.
    tx.wake(Topic::Robot(robot.id));
    Ok(())
}

pub fn update(
    tx: &mut Tx,
    caller: &Caller,
    text: &str,
    patch: &RobotPatch,
    revision: Option<u64>,
) -> Result<RobotInFull> {
    let mut robot = reached(tx, caller, Permission::RobotUpdate, text)?;
    table::check_revision(robot.revision, revision)?;
    let before = robot.clone();
    let mut labels = robot.labels.clone();
    for (key, value) in patch.labels.iter().flatten() {
        match value {
            Some(value) => labels.insert(key.clone(), value.clone()),
            None => labels.remove(key),
        };
    }
    let mut faults = Faults::default();
    if let Some(name) = &patch.name {
        faults.name("/name", name);
    }
    if let Some(description) = &patch.description {
        faults.text("/description", description, MAX_DESCRIPTION_CHARS);
    }
    if let Some(Some(capacity)) = patch.capacity {
        faults.range("/capacity", u64::from(capacity), 1, u64::from(MAX_CAPACITY));
    }
    faults.labels("/labels", labels.iter());
    faults.check()?;
    if let Some(groups) = &patch.groups {
        let mut groups = resolve_groups(tx, caller, Permission::RobotUpdate, groups)?;
        // Of the groups that the caller does not reach it takes no robot away.
        for group in robot_group::of_robot(tx, &robot)?.iter().filter(|group| !group.is_all()) {
            if !reach::reaches_group(caller, Permission::RobotUpdate, group) {
                groups.insert(group.id);
            }
        }
        set_groups(tx, &mut robot, groups, &caller.by())?;
    }
    robot.labels = labels;
    robot.name = patch.name.clone().unwrap_or(robot.name);
    robot.description = patch.description.clone().unwrap_or(robot.description);
    robot.enabled = patch.enabled.unwrap_or(robot.enabled);
    robot.kind = patch.kind.unwrap_or(robot.kind);
    robot.capacity = patch.capacity.unwrap_or(robot.capacity);
    table::update(tx, &mut robot)?;
    event::note(tx, robot.id.uuid(), "robot_changed", "the robot's settings were changed", caller.by())?;
    audit::append(tx, caller, Act::new("update", NOUN, robot.id, &robot.name).change(&before, &robot))?;
    tx.wake(Topic::Robot(robot.id));
    in_full(tx, robot)
}

/// Removes a robot that holds nothing. Its key is unknown from then on; its finished jobs stay.
/// Deletes a robot with its events, a page at a time: call until it gives `true`.
pub fn delete_page(tx: &mut Tx, caller: &Caller, text: &str, revision: Option<u64>) -> Result<bool> {
    let robot = reached(tx, caller, Permission::RobotDelete, text)?;
    table::check_revision(robot.revision, revision)?;
    if !held_jobs(tx, robot.id)?.is_empty() {
        return Err(Error::in_use("the robot holds jobs; stop or close them first"));
    }
    if robot_group::has_unfinished_jobs(tx, Target::Robot(robot.id))? {
        return Err(Error::in_use("jobs wait for this very robot; stop them first"));
    }
    if robot_group::is_target_of_trigger(tx, Target::Robot(robot.id))? {
        return Err(Error::in_use("a trigger starts jobs for this very robot; change or delete that first"));
    }
    if !event::delete_page(tx, robot.id.uuid(), DELETE_PAGE)? {
        return Ok(false);
    }
    for group in &robot.groups {
        count_members(tx, *group, -1)?;
    }
    let all = robot_group::all(tx)?.id;
    count_members(tx, all, -1)?;
    for slot in 0..HEALTH_SLOTS {
        table::delete::<HealthSample>(tx, (robot.id, slot))?;
    }
    key::revoke_of(tx, Owner::Robot(robot.id))?;
    resource_value::forget_holder(tx, Scope::Robot(robot.id))?;
    table::delete::<Robot>(tx, robot.id)?;
    audit::append(tx, caller, Act::new("delete", NOUN, robot.id, &robot.name).before(&robot))?;
    tx.wake(Topic::Robot(robot.id));
    Ok(true)
}

/// A pause as it is kept, if the request is sound.
pub fn checked_pause(reading: &dyn Reading, caller: &Caller, request: &PauseRequest) -> Result<Pause> {
    let mut faults = Faults::default();
    faults.text("/reason", &request.reason, MAX_REASON_CHARS);
    if request.until.is_some_and(|until| until <= reading.now()) {
        faults.add("/until", "is in the past");
    }
    faults.check()?;
    Ok(Pause {
        mode: request.mode,
        since: reading.now(),
        until: request.until,
        reason: request.reason.clone(),
        by: caller.name(),
        asked_by: caller.by(),
    })
}

/// Pauses a robot; with `stop` or `abort` its jobs are told at once.
pub fn pause(tx: &mut Tx, caller: &Caller, text: &str, request: &PauseRequest, leases: &Leases) -> Result<RobotInFull> {
    let mut robot = reached(tx, caller, Permission::RobotPause, text)?;
    let pause = checked_pause(tx, caller, request)?;
    robot.pause = Some(pause.clone());
    table::update(tx, &mut robot)?;
    event::note(tx, robot.id.uuid(), "robot_paused", format!("paused: {}", request.reason), caller.by())?;
    audit::append(tx, caller, Act::new("pause", NOUN, robot.id, &robot.name).after(&pause))?;
    news::tell(tx, NewsType::RobotPaused, |_| {
        let more =
            serde_json::json!({ "mode": pause.mode, "reason": pause.reason, "until": pause.until, "by": pause.by });
        Ok(news::of_robot(&robot, more))
    })?;
    end_jobs_of_pause(tx, robot.id, &pause, leases)?;
    tx.wake(Topic::Robot(robot.id));
    in_full(tx, robot)
}

/// Asks the jobs that a paused robot holds to end, if the pause says so; whether any was asked just now.
pub fn end_jobs_of_pause(tx: &mut Tx, robot: RobotId, pause: &Pause, leases: &Leases) -> Result<bool> {
    let mode = match pause.mode {
        PauseMode::Drain => return Ok(false),
        PauseMode::Stop => StopMode::Stop,
        PauseMode::Abort => StopMode::Abort,
    };
    let message = format!("the robot was paused: {}", pause.reason);
    let mut asked = false;
    for held in held_jobs(tx, robot)? {
        let why = Cause { by: pause.asked_by.clone(), code: CauseCode::RobotPaused, message: message.clone() };
        let before = held.revision;
        asked |= job::apply(tx, held, JobEvent::Stop { mode, why }, leases)?.revision != before;
    }
    Ok(asked)
}

pub fn resume(tx: &mut Tx, caller: &Caller, text: &str) -> Result<RobotInFull> {
    let mut robot = reached(tx, caller, Permission::RobotPause, text)?;
    if robot.pause.take().is_some() {
        table::update(tx, &mut robot)?;
        event::note(tx, robot.id.uuid(), "robot_resumed", "the pause was ended", caller.by())?;
        audit::append(tx, caller, Act::new("resume", NOUN, robot.id, &robot.name))?;
        tx.wake(Topic::Robot(robot.id));
    }
    in_full(tx, robot)
}

pub fn set_enabled(tx: &mut Tx, caller: &Caller, text: &str, enabled: bool) -> Result<RobotInFull> {
    let mut robot = reached(tx, caller, Permission::RobotPause, text)?;
    if robot.enabled != enabled {
        robot.enabled = enabled;
        table::update(tx, &mut robot)?;
        let (code, text, verb) = match enabled {
            true => ("robot_enabled", "it takes jobs again", "enable"),
            false => ("robot_disabled", "it takes no jobs from now on", "disable"),
        };
        event::note(tx, robot.id.uuid(), code, text, caller.by())?;
        audit::append(tx, caller, Act::new(verb, NOUN, robot.id, &robot.name))?;
        tx.wake(Topic::Robot(robot.id));
    }
    in_full(tx, robot)
}

/// Health samples of the last hours, oldest first.
pub fn health(reading: &dyn Reading, caller: &Caller, text: &str, hours: u32) -> Result<Vec<Sample>> {
    let robot = reached(reading, caller, Permission::RobotRead, text)?;
    let from = reading.now().minus_seconds(u64::from(hours) * 3600);
    let found =
        Scan::of(reading, Kind::HealthSample, robot.id).records::<HealthSample>(reading, usize::from(HEALTH_SLOTS))?;
    let mut samples: Vec<Sample> = found.into_iter().map(|(_, kept)| kept.sample).collect();
    samples.retain(|sample| sample.at >= from);
    samples.sort_by_key(|sample| sample.at);
    Ok(samples)
}

/// The robot was heard of just now; whether it comes back by that. When it is looked at again is not moved each time: a
/// record with its index is more to write than the record alone.
pub fn heard_of(tx: &Tx, robot: &mut Robot) -> bool {
    robot.last_seen_at = Some(tx.now());
    let is_back = robot.offline_at.is_none();
    robot.offline_at.get_or_insert(tx.now().plus_seconds(OFFLINE_AFTER_SECONDS));
    is_back
}

/// Tells that a robot is heard of again.
pub fn tell_online(tx: &mut Tx, robot: &Robot) -> Result<()> {
    event::note(tx, robot.id.uuid(), "robot_online", "its agent reports itself", "coordinator")?;
    table::tell_changed(tx, robot);
    news::tell(tx, NewsType::RobotOnline, |_| Ok(news::of_robot(robot, Value::Null)))
}

/// When the next robot of the account is to be looked at.
pub fn next_offline(reading: &dyn Reading) -> Result<Option<Timestamp>> {
    let found = Scan::of(reading, Kind::RobotByOffline, ()).indexed::<Robot>(reading, 1)?;
    Ok(found.first().and_then(|(_, robot)| robot.offline_at))
}

/// Tells which robots have not been heard of for too long, a page at a time; how many were looked at.
pub fn offline_page(tx: &mut Tx, limit: usize) -> Result<usize> {
    let end = table::index_start(tx, Kind::RobotByOffline, Timestamp::from_millis(tx.now().millis() + 1));
    let due = Scan::of(tx, Kind::RobotByOffline, ()).below(end).indexed::<Robot>(tx, limit)?;
    let count = due.len();
    for (_, mut robot) in due {
        let silent_at = robot.last_seen_at.unwrap_or_default().plus_seconds(OFFLINE_AFTER_SECONDS);
        robot.offline_at = Some(silent_at).filter(|at| *at > tx.now());
        table::rewrite(tx, &robot)?;
        if robot.offline_at.is_none() {
            let text = format!("nothing was heard of its agent for {OFFLINE_AFTER_SECONDS} s");
            event::note(tx, robot.id.uuid(), "robot_offline", text, "coordinator")?;
            table::tell_changed(tx, &robot);
            news::tell(tx, NewsType::RobotOffline, |_| Ok(news::of_robot(&robot, Value::Null)))?;
        }
    }
    Ok(count)
}
