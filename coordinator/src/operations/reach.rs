//! How far the roles of a caller reach into the fleet: a robot is reached through its groups, and a job or a trigger
//! through the robot or group that it is for. What is out of reach is as if it were not there.

use super::{Caller, robot_group};
use crate::{
    domain::{
        job::{Job, Target},
        permission::Permission,
        robot::{Robot, RobotGroup},
        role::Limited,
        trigger::Trigger,
    },
    error::{Error, Result},
    store::{Reading, table},
};

/// Whether the permission reaches the group.
pub fn reaches_group(caller: &Caller, permission: Permission, group: &RobotGroup) -> bool {
    caller.reaches(permission, Limited::RobotGroups, Some(&group.name))
}

/// Whether the permission reaches the robot.
pub fn reaches_robot(reading: &dyn Reading, caller: &Caller, permission: Permission, robot: &Robot) -> Result<bool> {
    if !caller.is_limited(permission, Limited::RobotGroups) {
        return Ok(true);
    }
    let groups = robot_group::of_robot(reading, robot)?;
    Ok(groups.iter().any(|group| reaches_group(caller, permission, group)))
}

/// Whether the permission reaches what is for this robot or group. One that is gone is reached by nobody who is limited.
pub fn reaches_target(reading: &dyn Reading, caller: &Caller, permission: Permission, target: Target) -> Result<bool> {
    if !caller.is_limited(permission, Limited::RobotGroups) {
        return Ok(true);
    }
    match target {
        Target::Robot(id) => match table::find::<Robot>(reading, id)? {
            Some(robot) => reaches_robot(reading, caller, permission, &robot),
            None => Ok(false),
        },
        Target::Group(id) => {
            let group = table::find::<RobotGroup>(reading, id)?;
            Ok(group.is_some_and(|group| reaches_group(caller, permission, &group)))
        }
    }
}

fn there(reached: bool, noun: &'static str) -> Result<()> {
    if reached { Ok(()) } else { Err(Error::NotFound(noun)) }
}

pub fn group(caller: &Caller, permission: Permission, group: &RobotGroup) -> Result<()> {
    there(reaches_group(caller, permission, group), "robot group")
}

pub fn robot(reading: &dyn Reading, caller: &Caller, permission: Permission, robot: &Robot) -> Result<()> {
    there(reaches_robot(reading, caller, permission, robot)?, "robot")
}

pub fn job(reading: &dyn Reading, caller: &Caller, permission: Permission, job: &Job) -> Result<()> {
    there(reaches_target(reading, caller, permission, job.target)?, "job")
}

pub fn trigger(reading: &dyn Reading, caller: &Caller, permission: Permission, trigger: &Trigger) -> Result<()> {
    there(reaches_target(reading, caller, permission, trigger.target)?, "trigger")
}
