//! `drover robot`: the fleet.

use clap::{Args, Subcommand, ValueEnum};
use drover_protocol::{
    page::Page,
    robot::{CreatedRobot, HealthSample, NewRobot, Robot, RobotKind, RobotPatch},
    robot_group::RobotGroup,
};
use serde::Deserialize;

use crate::{
    commands::{
        ListArgs, events,
        join_token::how_to_join,
        list,
        pause::{self, PauseArgs},
        simple,
    },
    error::Error,
    output::{labels, moment, moment_opt, note, number, robot_state, size},
    session::Session,
    values,
};

#[derive(Subcommand)]
pub enum RobotCommand {
    /// List robots
    List(RobotListArgs),
    /// Show a robot
    Show {
        /// Name or id
        robot: String,
    },
    /// Make a robot record in advance; answers the token with which its agent joins
    Create(NewRobotArgs),
    /// Change a robot
    Update(RobotUpdateArgs),
    /// Delete a robot; its key is void at once
    Delete {
        /// Name or id
        robot: String,
    },
    /// Let a robot take no new jobs
    Pause(PauseArgs),
    /// End a pause
    Resume {
        /// Name or id
        robot: String,
    },
    /// Let a robot take jobs
    Enable {
        /// Name or id
        robot: String,
    },
    /// Let a robot take no jobs until it is enabled again
    Disable {
        /// Name or id
        robot: String,
    },
    /// Show the readings of a robot's host
    Health {
        /// Name or id
        robot: String,
        /// How far back (1 to 24)
        #[arg(long, default_value_t = 1)]
        hours: u32,
    },
    /// Show what happened to a robot
    Events {
        /// Name or id
        robot: String,
        #[command(flatten)]
        list: ListArgs,
    },
}

#[derive(Args)]
pub struct RobotListArgs {
    /// Only those in this state
    #[arg(long, value_parser = ["offline", "idle", "busy", "draining", "paused", "disabled"])]
    state: Option<String>,
    /// Only members of this group
    #[arg(long)]
    group: Option<String>,
    /// Only those with this label (repeatable)
    #[arg(long = "label", value_parser = values::pair, value_name = "KEY=VALUE")]
    labels: Vec<(String, String)>,
    /// Only those with this in their name
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Unattended,
    Attended,
}

impl From<Kind> for RobotKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Unattended => Self::Unattended,
            Kind::Attended => Self::Attended,
        }
    }
}

#[derive(Args)]
pub struct NewRobotArgs {
    name: String,
    #[arg(long, default_value = "")]
    description: String,
    #[arg(long, value_enum, default_value_t = Kind::Unattended)]
    kind: Kind,
    /// Group to put it into (repeatable)
    #[arg(long = "group")]
    groups: Vec<String>,
    /// Label (repeatable)
    #[arg(long = "label", value_parser = values::pair, value_name = "KEY=VALUE")]
    labels: Vec<(String, String)>,
    /// Jobs at once
    #[arg(long)]
    capacity: Option<u32>,
}

#[derive(Args)]
pub struct RobotUpdateArgs {
    /// Name or id
    robot: String,
    /// New name
    #[arg(long)]
    name: Option<String>,
    #[arg(long)]
    description: Option<String>,
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Groups that it is in from now on (repeatable; replaces the old ones)
    #[arg(long = "group")]
    groups: Vec<String>,
    /// Set a label (repeatable)
    #[arg(long = "label", value_parser = values::pair, value_name = "KEY=VALUE")]
    labels: Vec<(String, String)>,
    /// Remove a label (repeatable)
    #[arg(long = "remove-label", value_name = "KEY")]
    removed_labels: Vec<String>,
    /// Jobs at once
    #[arg(long)]
    capacity: Option<u32>,
}

const NOUN: &str = "robots";

pub async fn run(session: &Session, command: RobotCommand) -> Result<(), Error> {
    match command {
        RobotCommand::List(args) => show_list(session, &args).await,
        RobotCommand::Show { robot } => show(session, &robot).await,
        RobotCommand::Create(args) => create(session, args).await,
        RobotCommand::Update(args) => update(session, args).await,
        RobotCommand::Delete { robot } => {
            let done = format!("Robot {robot} is deleted.");
            simple(&session.out, session.client.delete(&[NOUN, &robot])?, &done).await
        }
        RobotCommand::Pause(args) => pause::pause(session, NOUN, args).await,
        RobotCommand::Resume { robot } => act(session, &robot, "resume", "takes jobs again").await,
        RobotCommand::Enable { robot } => act(session, &robot, "enable", "is enabled").await,
        RobotCommand::Disable { robot } => act(session, &robot, "disable", "is disabled").await,
        RobotCommand::Health { robot, hours } => health(session, &robot, hours).await,
        RobotCommand::Events { robot, list } => events(session, &list, &[NOUN, &robot, "events"]).await,
    }
}

async fn act(session: &Session, robot: &str, verb: &str, done: &str) -> Result<(), Error> {
    let call = session.client.post(&[NOUN, robot, verb])?;
    simple(&session.out, call, &format!("{robot} {done}.")).await
}

async fn show_list(session: &Session, args: &RobotListArgs) -> Result<(), Error> {
    let listed = list::<Robot, _>(session, &args.list, |session| {
        let mut call = session.client.get(&[NOUN])?;
        for (key, value) in &args.labels {
            call = call.query("label", format!("{key}:{value}"));
        }
        let call = call.query_opt("state", args.state.as_ref()).query_opt("group", args.group.as_ref());
        Ok(call.query_opt("q", args.name.as_ref()))
    });
    let Some(robots) = listed.await? else { return Ok(()) };
    if robots.is_empty() {
        return session.out.line("No robots. An agent joins with a token: drover join-token create");
    }
    let rows = robots.into_iter().map(|robot| {
        vec![
            robot.name.into(),
            robot_state(robot.state),
            format!("{} of {}", robot.running.len(), robot.capacity).into(),
            robot.last_seen_at.map_or("never".to_owned(), moment).into(),
            robot.host.map(|host| format!("{} {}", host.os, host.arch)).unwrap_or_default().into(),
            labels(&robot.labels).into(),
        ]
    });
    session.out.table(&["NAME", "STATE", "JOBS", "LAST SEEN", "HOST", "LABELS"], rows.collect())
}

async fn show(session: &Session, robot: &str) -> Result<(), Error> {
    let answer = session.client.get(&[NOUN, robot])?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let robot: Robot = answer.decode()?;
    let groups = group_names(session, &robot).await?;
    let mut rows = vec![
        ("name", robot.name.clone().into()),
        ("id", robot.id.to_string().into()),
        ("description", robot.description.clone().into()),
        ("state", robot_state(robot.state)),
        ("paused", pause::in_words(robot.paused.as_ref()).into()),
        ("jobs at once", robot.capacity.to_string().into()),
        ("jobs now", robot.running.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n").into()),
        ("groups", groups.into()),
        ("labels", labels(&robot.labels).into()),
        ("last seen", robot.last_seen_at.map_or("never".to_owned(), moment).into()),
        ("joined", moment_opt(robot.joined_at).into()),
    ];
    if let Some(host) = robot.host {
        let machine = format!("{} CPUs, {} memory", host.cpus, size(host.memory_bytes));
        rows.push(("host", format!("{} ({})", host.hostname, host.ip).into()));
        rows.push(("system", format!("{} {} {}", host.os, host.os_version, host.arch).into()));
        rows.push(("machine", machine.into()));
        rows.push(("runs as", host.user.into()));
        rows.push(("time zone", host.time_zone.into()));
        rows.push(("agent", host.agent_version.into()));
    }
    session.out.fields(rows)
}

/// Names of the groups of a robot; an id stands for what is not among the first thousand groups.
async fn group_names(session: &Session, robot: &Robot) -> Result<String, Error> {
    if robot.groups.is_empty() {
        return Ok("all".to_owned());
    }
    let answer = session.client.get(&["robot-groups"])?.query("limit", 1000).send().await?;
    let known: Page<RobotGroup> = answer.decode()?;
    let names = robot.groups.iter().map(|id| {
        known.items.iter().find(|group| group.id == *id).map_or_else(|| id.to_string(), |group| group.name.clone())
    });
    Ok(std::iter::once("all".to_owned()).chain(names).collect::<Vec<_>>().join(", "))
}

async fn create(session: &Session, args: NewRobotArgs) -> Result<(), Error> {
    let request = NewRobot {
        name: args.name,
        description: args.description,
        kind: args.kind.into(),
        groups: args.groups,
        labels: values::pairs(&args.labels)?,
        capacity: args.capacity,
    };
    let answer = session.client.post(&[NOUN])?.json(&request)?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let created: CreatedRobot = answer.decode()?;
    session.out.fields(vec![
        ("name", created.robot.name.into()),
        ("id", created.robot.id.to_string().into()),
        ("join token", created.join_token.clone().into()),
    ])?;
    note("Keep the token now: it is not shown again.");
    note(&how_to_join(session, &created.join_token));
    Ok(())
}

async fn update(session: &Session, args: RobotUpdateArgs) -> Result<(), Error> {
    let mut labels: std::collections::BTreeMap<_, _> =
        values::pairs(&args.labels)?.into_iter().map(|(key, value)| (key, Some(value))).collect();
    labels.extend(args.removed_labels.into_iter().map(|key| (key, None)));
    let patch = RobotPatch {
        name: args.name,
        description: args.description,
        enabled: None,
        kind: args.kind.map(RobotKind::from),
        groups: (!args.groups.is_empty()).then_some(args.groups),
        labels: (!labels.is_empty()).then_some(labels),
        capacity: args.capacity.map(Some),
    };
    let done = format!("{} is changed.", args.robot);
    simple(&session.out, session.client.patch(&[NOUN, &args.robot])?.json(&patch)?, &done).await
}

async fn health(session: &Session, robot: &str, hours: u32) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Samples {
        items: Vec<HealthSample>,
    }
    let answer = session.client.get(&[NOUN, robot, "health"])?.query("hours", hours).send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let samples: Samples = answer.decode()?;
    if samples.items.is_empty() {
        return session.out.line("No readings in that time.");
    }
    let rows = samples.items.into_iter().map(|HealthSample { at, health }| {
        vec![
            moment(at).into(),
            number(health.cpu_percent.map(|percent| format!("{percent:.0} %")).unwrap_or_default()),
            number(health.load_1m.map(|load| format!("{load:.2}")).unwrap_or_default()),
            number(format!("{} of {}", size(health.memory_used_bytes), size(health.memory_total_bytes))),
            number(size(health.disk_free_bytes)),
        ]
    });
    session.out.table(&["WHEN", "CPU", "LOAD", "MEMORY", "DISK FREE"], rows.collect())
}
