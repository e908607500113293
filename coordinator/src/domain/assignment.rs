//! Which robot may take which job: the same answer for the assignment and for its explanation.

use drover_protocol::{
    Timestamp,
    job::{Reason, ReasonCode},
    robot::{PauseMode, RobotKind},
};

use super::{
    process::Needs,
    robot::{Robot, Standing},
};

fn reason(code: ReasonCode, text: impl Into<String>) -> Reason {
    Reason { code, text: text.into() }
}

/// Why this robot takes no jobs at all at the moment; empty if it does. `held` is how many it has.
pub fn unfit(robot: &Robot, standing: &Standing, held: usize, now: Timestamp) -> Vec<Reason> {
    let mut reasons = Vec::new();
    match robot.last_seen_at {
        _ if robot.joined_at.is_none() => {
            reasons.push(reason(ReasonCode::NotJoined, "its agent has not joined yet"));
        }
        Some(seen) if !robot.is_online(now) => {
            reasons.push(reason(ReasonCode::Offline, format!("offline since {seen}")));
        }
        None => reasons.push(reason(ReasonCode::Offline, "it was never heard of")),
        Some(_) => {}
    }
    reasons.extend(barred(robot, standing));
    if held >= robot.capacity() as usize {
        let text = format!("busy with {held} of {} jobs", robot.capacity());
        reasons.push(reason(ReasonCode::Busy, text));
    }
    reasons
}

/// Why this robot may take no jobs by its settings, whether it is reachable or not.
pub fn barred(robot: &Robot, standing: &Standing) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if !robot.enabled {
        reasons.push(reason(ReasonCode::Disabled, "disabled"));
    }
    if let Some(group) = &standing.disabled_group {
        reasons.push(reason(ReasonCode::GroupDisabled, format!("its group {group} is disabled")));
    }
    if robot.kind == RobotKind::Attended {
        reasons.push(reason(ReasonCode::Attended, "an attended robot takes no jobs by itself"));
    }
    if let Some((pause, group)) = &standing.pause {
        let how = match pause.mode {
            PauseMode::Drain => "paused",
            PauseMode::Stop => "paused with stop",
            PauseMode::Abort => "paused with abort",
        };
        let until = pause.until.map(|until| format!(" until {until}")).unwrap_or_default();
        let tail = format!("{how} by {} since {}{until}: {}", pause.by, pause.since, pause.reason);
        reasons.push(match group {
            None => reason(ReasonCode::Paused, tail),
            Some(group) => reason(ReasonCode::GroupPaused, format!("its group {group} is {tail}")),
        });
    }
    reasons
}

/// What the version needs and the robot does not have.
pub fn lacks(robot: &Robot, needs: &Needs) -> Vec<Reason> {
    let labels = robot.effective_labels();
    let mut reasons: Vec<Reason> = needs
        .labels
        .iter()
        .filter(|(key, value)| labels.get(*key) != Some(value))
        .map(|(key, value)| {
            let has = labels.get(key).map(|has| format!(" (it has {key}={has})")).unwrap_or_default();
            reason(ReasonCode::LabelMissing, format!("the label {key}={value} is missing{has}"))
        })
        .collect();
    let os = robot.host.as_ref().map_or("", |host| host.os.as_str());
    if let Some(systems) = &needs.systems
        && !systems.iter().any(|system| system == os)
    {
        let text = format!("the version has commands for {} only, the host runs {os}", systems.join(" and "));
        reasons.push(reason(ReasonCode::NoCommandForOs, text));
    }
    reasons
}
