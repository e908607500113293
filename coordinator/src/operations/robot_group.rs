//! Robot groups.

use drover_protocol::{
    RobotGroupId,
    news::NewsType,
    page::PageQuery,
    robot::PauseRequest,
    robot_group::{NewRobotGroup, RobotGroupPatch},
};

use super::{
    Caller,
    audit::{self, Act},
    event,
    list::{self, Page, Via},
    news::{self, Facts},
    reach, resource_value, robot,
};
use crate::{
    domain::{
        job::{Job, Target},
        name::{Faults, MAX_DESCRIPTION_CHARS},
        news::Subject,
        permission::Permission,
        resource::Scope,
        robot::{ALL_GROUP, Robot, RobotGroup},
        role::Limited,
    },
    error::{Error, Result},
    store::{Reading, Scan, Topic, Tx, key::Kind, table},
};

const NOUN: &str = "robot_group";
/// Jobs that are looked at together.
const PAGE: usize = 500;

/// The group with this id or name, for paths.
pub fn resolve(reading: &dyn Reading, text: &str) -> Result<RobotGroup> {
    super::by_id_or_name(reading, Kind::RobotGroupByName, text)
}

/// The group with this id or name, if the caller has the permission and it reaches that group.
pub fn reached(reading: &dyn Reading, caller: &Caller, permission: Permission, text: &str) -> Result<RobotGroup> {
    caller.require(permission)?;
    let group = resolve(reading, text)?;
    reach::group(caller, permission, &group)?;
    Ok(group)
}

/// The same for a field of a body: what is not there is a fault of that field.
pub fn find(
    reading: &dyn Reading,
    caller: &Caller,
    permission: Permission,
    text: &str,
    pointer: &str,
) -> Result<RobotGroup> {
    reached(reading, caller, permission, text).map_err(|error| match error {
        Error::NotFound(_) => Error::invalid(pointer, "there is no such robot group"),
        other => other,
    })
}

/// The group that holds every robot.
pub fn all(reading: &dyn Reading) -> Result<RobotGroup> {
    table::find_by(reading, Kind::RobotGroupByName, ALL_GROUP)?
        .ok_or_else(|| Error::Internal("the group of all robots is missing".to_owned()))
}

pub fn list(reading: &dyn Reading, caller: &Caller, query: &PageQuery) -> Result<Page<RobotGroup>> {
    caller.require(Permission::RobotGroupRead)?;
    let scan = Scan::of(reading, Kind::RobotGroup, ()).newest_first();
    list::page(reading, scan, Via::Records, query, |group: &RobotGroup| {
        reach::reaches_group(caller, Permission::RobotGroupRead, group)
    })
}

pub fn get(reading: &dyn Reading, caller: &Caller, text: &str) -> Result<RobotGroup> {
    reached(reading, caller, Permission::RobotGroupRead, text)
}

pub fn create(tx: &mut Tx, caller: &Caller, new: &NewRobotGroup) -> Result<RobotGroup> {
    caller.require(Permission::RobotGroupCreate)?;
    let mut faults = Faults::default();
    faults.name("/name", &new.name);
    faults.text("/description", &new.description, MAX_DESCRIPTION_CHARS);
    faults.check()?;
    caller.require_name(Permission::RobotGroupCreate, Limited::RobotGroups, &new.name)?;
    let group = RobotGroup {
        id: RobotGroupId::from_uuid(tx.new_id()),
        name: new.name.clone(),
        description: new.description.clone(),
        enabled: true,
        pause: None,
        robot_count: 0,
        created_at: tx.now(),
        revision: 1,
    };
    table::insert(tx, &group)?;
    event::note(tx, group.id.uuid(), "group_created", "the group was made", caller.by())?;
    audit::append(tx, caller, Act::new("create", NOUN, group.id, &group.name).after(&group))?;
    Ok(group)
}

pub fn update(
    tx: &mut Tx,
    caller: &Caller,
    text: &str,
    patch: &RobotGroupPatch,
    revision: Option<u64>,
) -> Result<RobotGroup> {
    let mut group = reached(tx, caller, Permission::RobotGroupUpdate, text)?;
    table::check_revision(group.revision, revision)?;
    let before = group.clone();
    let mut faults = Faults::default();
    if let Some(name) = &patch.name {
        faults.name("/name", name);
        if group.is_all() && *name != group.name {
            faults.add("/name", "the group of all robots keeps its name");
        }
    }
    if let Some(description) = &patch.description {
        faults.text("/description", description, MAX_DESCRIPTION_CHARS);
    }
    faults.check()?;
    if let Some(name) = &patch.name {
        caller.require_name(Permission::RobotGroupUpdate, Limited::RobotGroups, name)?;
    }
    group.name = patch.name.clone().unwrap_or(group.name);
    group.description = patch.description.clone().unwrap_or(group.description);
    table::update(tx, &mut group)?;
    event::note(tx, group.id.uuid(), "group_changed", "the group was changed", caller.by())?;
    audit::append(tx, caller, Act::new("update", NOUN, group.id, &group.name).change(&before, &group))?;
    Ok(group)
}

/// A group that robots, unfinished jobs or triggers refer to is kept. Deletes it with its events, a page at a time: call
/// until it gives `true`.
pub fn delete_page(tx: &mut Tx, caller: &Caller, text: &str, revision: Option<u64>) -> Result<bool> {
    let group = reached(tx, caller, Permission::RobotGroupDelete, text)?;
    table::check_revision(group.revision, revision)?;
    if group.is_all() {
        return Err(Error::in_use("the group of all robots always exists"));
    }
    if group.robot_count > 0 {
        return Err(Error::in_use(format!("{} robots are in the group; remove them first", group.robot_count)));
    }
    if has_unfinished_jobs(tx, Target::Group(group.id))? {
        return Err(Error::in_use("jobs for robots of this group wait or run; stop them first"));
    }
    if is_target_of_trigger(tx, Target::Group(group.id))? {
        return Err(Error::in_use("a trigger starts jobs for robots of this group; change or delete that first"));
    }
    if !event::delete_page(tx, group.id.uuid(), PAGE)? {
        return Ok(false);
    }
    resource_value::forget_holder(tx, Scope::Group(group.id))?;
    audit::append(tx, caller, Act::new("delete", NOUN, group.id, &group.name).before(&group))?;
    table::delete::<RobotGroup>(tx, group.id)?;
    Ok(true)
}

/// Whether some trigger starts jobs for this target.
pub fn is_target_of_trigger(reading: &dyn Reading, target: Target) -> Result<bool> {
    Ok(!Scan::of(reading, Kind::TriggerByTarget, target).pairs(reading, 1)?.is_empty())
}

/// Whether a job for this target has not finished. One that runs counts as well: it may have to wait again.
pub fn has_unfinished_jobs(reading: &dyn Reading, target: Target) -> Result<bool> {
    if !Scan::of(reading, Kind::JobReady, target).pairs(reading, 1)?.is_empty() {
        return Ok(true);
    }
    // All others that have not finished are held or timed, and have a deadline.
    let mut rest = Scan::of(reading, Kind::JobDeadline, ());
    loop {
        let found = rest.indexed::<Job>(reading, PAGE)?;
        if found.iter().any(|(_, job)| job.target == target) {
            return Ok(true);
        }
        match found.last() {
            Some((last, _)) if found.len() == PAGE => rest = rest.after(last),
            _ => return Ok(false),
        }
    }
}

/// Makes the robot a member; nothing happens if it is one.
pub fn add_robot(tx: &mut Tx, caller: &Caller, group: &str, robot: &str) -> Result<()> {
    change_member(tx, caller, group, robot, true)
}

/// Removes the robot; nothing happens if it is no member.
pub fn remove_robot(tx: &mut Tx, caller: &Caller, group: &str, robot: &str) -> Result<()> {
    change_member(tx, caller, group, robot, false)
}

fn change_member(tx: &mut Tx, caller: &Caller, group: &str, robot: &str, member: bool) -> Result<()> {
    let group = reached(tx, caller, Permission::RobotGroupUpdate, group)?;
    let mut robot: Robot = robot::reached(tx, caller, Permission::RobotGroupUpdate, robot)?;
    if group.is_all() {
        return match member {
            true => Ok(()),
            false => Err(Error::wrong_state("every robot is in the group of all robots")),
        };
    }
    let mut groups = robot.groups.clone();
    let (verb, changed) = match member {
        true => ("add_robot", groups.insert(group.id)),
        false => ("remove_robot", groups.remove(&group.id)),
    };
    if changed {
        let act = Act::new(verb, NOUN, group.id, &group.name);
        audit::append(tx, caller, act.after(serde_json::json!({ "robot": robot.name, "robot_id": robot.id })))?;
    }
    robot::set_groups(tx, &mut robot, groups, &caller.by())
}

/// Pauses all robots of the group. Those that hold jobs are told at their next contact, which is at once.
pub fn pause(tx: &mut Tx, caller: &Caller, text: &str, request: &PauseRequest) -> Result<RobotGroup> {
    let mut group = reached(tx, caller, Permission::RobotPause, text)?;
    group.pause = Some(robot::checked_pause(tx, caller, request)?);
    table::update(tx, &mut group)?;
    event::note(tx, group.id.uuid(), "group_paused", format!("paused: {}", request.reason), caller.by())?;
    news::tell(tx, NewsType::RobotPaused, |_| {
        let data = serde_json::json!({
            "robots": group.robot_count, "mode": request.mode, "reason": request.reason, "until": request.until,
            "by": caller.name(),
        });
        Ok(Facts { subject: Subject::new("robot_group", group.id.uuid(), Some(&group.name)), data })
    })?;
    audit::append(tx, caller, Act::new("pause", NOUN, group.id, &group.name).after(&group.pause))?;
    tx.wake(Topic::Group(group.id));
    Ok(group)
}

pub fn resume(tx: &mut Tx, caller: &Caller, text: &str) -> Result<RobotGroup> {
    let mut group = reached(tx, caller, Permission::RobotPause, text)?;
    if group.pause.take().is_some() {
        table::update(tx, &mut group)?;
        event::note(tx, group.id.uuid(), "group_resumed", "the pause was ended", caller.by())?;
        audit::append(tx, caller, Act::new("resume", NOUN, group.id, &group.name))?;
        tx.wake(Topic::Group(group.id));
    }
    Ok(group)
}

pub fn set_enabled(tx: &mut Tx, caller: &Caller, text: &str, enabled: bool) -> Result<RobotGroup> {
    let mut group = reached(tx, caller, Permission::RobotPause, text)?;
    if group.enabled != enabled {
        group.enabled = enabled;
        table::update(tx, &mut group)?;
        let (code, text, verb) = match enabled {
            true => ("group_enabled", "its robots take jobs again", "enable"),
            false => ("group_disabled", "its robots take no jobs from now on", "disable"),
        };
        event::note(tx, group.id.uuid(), code, text, caller.by())?;
        audit::append(tx, caller, Act::new(verb, NOUN, group.id, &group.name))?;
        tx.wake(Topic::Group(group.id));
    }
    Ok(group)
}

/// The groups a robot is in, `all` included.
pub fn of_robot(reading: &dyn Reading, robot: &Robot) -> Result<Vec<RobotGroup>> {
    let mut groups = vec![all(reading)?];
    for id in &robot.groups {
        groups.extend(table::find::<RobotGroup>(reading, *id)?);
    }
    Ok(groups)
}
