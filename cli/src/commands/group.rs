//! `drover group`: named sets of robots.

use clap::Subcommand;
use drover_protocol::robot_group::{NewRobotGroup, RobotGroup};

use crate::{
    commands::{
        ListArgs, list,
        pause::{self, PauseArgs},
        simple,
    },
    error::Error,
    output::{Tone, number, toned},
    session::Session,
};

#[derive(Subcommand)]
pub enum GroupCommand {
    /// List the groups
    List {
        #[command(flatten)]
        list: ListArgs,
    },
    /// Make a group
    Create {
        name: String,
        #[arg(long, default_value = "")]
        description: String,
    },
    /// Delete a group; its robots stay
    Delete {
        /// Name or id
        group: String,
    },
    /// Put robots into a group
    Add {
        /// Name or id of the group
        group: String,
        /// Names or ids
        #[arg(required = true)]
        robots: Vec<String>,
    },
    /// Take robots out of a group
    Remove {
        /// Name or id of the group
        group: String,
        /// Names or ids
        #[arg(required = true)]
        robots: Vec<String>,
    },
    /// Pause all robots of a group
    Pause(PauseArgs),
    /// End the pause of a group
    Resume {
        /// Name or id
        group: String,
    },
    /// Let its robots take jobs that are meant for the group
    Enable {
        /// Name or id
        group: String,
    },
    /// Let its robots take no jobs that are meant for the group
    Disable {
        /// Name or id
        group: String,
    },
}

const NOUN: &str = "robot-groups";

pub async fn run(session: &Session, command: GroupCommand) -> Result<(), Error> {
    let client = &session.client;
    match command {
        GroupCommand::List { list } => show_list(session, &list).await,
        GroupCommand::Create { name, description } => {
            let done = format!("Group {name} is made. Put robots into it: drover group add {name} ROBOT");
            simple(&session.out, client.post(&[NOUN])?.json(&NewRobotGroup { name, description })?, &done).await
        }
        GroupCommand::Delete { group } => {
            let done = format!("Group {group} is deleted.");
            simple(&session.out, client.delete(&[NOUN, &group])?, &done).await
        }
        GroupCommand::Add { group, robots } => {
            for robot in robots {
                let done = format!("{robot} is in {group}.");
                simple(&session.out, client.put(&[NOUN, &group, "robots", &robot])?, &done).await?;
            }
            Ok(())
        }
        GroupCommand::Remove { group, robots } => {
            for robot in robots {
                let done = format!("{robot} is no longer in {group}.");
                simple(&session.out, client.delete(&[NOUN, &group, "robots", &robot])?, &done).await?;
            }
            Ok(())
        }
        GroupCommand::Pause(args) => pause::pause(session, NOUN, args).await,
        GroupCommand::Resume { group } => act(session, &group, "resume", "takes jobs again").await,
        GroupCommand::Enable { group } => act(session, &group, "enable", "is enabled").await,
        GroupCommand::Disable { group } => act(session, &group, "disable", "is disabled").await,
    }
}

async fn act(session: &Session, group: &str, verb: &str, done: &str) -> Result<(), Error> {
    let call = session.client.post(&[NOUN, group, verb])?;
    simple(&session.out, call, &format!("Group {group} {done}.")).await
}

async fn show_list(session: &Session, args: &ListArgs) -> Result<(), Error> {
    let Some(groups) = list::<RobotGroup, _>(session, args, |session| session.client.get(&[NOUN])).await? else {
        return Ok(());
    };
    let rows = groups.into_iter().map(|group| {
        let state = match (group.enabled, &group.paused) {
            (false, _) => toned("disabled", Tone::Dim),
            (true, Some(_)) => toned("paused", Tone::Warning),
            (true, None) => toned("enabled", Tone::Good),
        };
        let why = pause::in_words(group.paused.as_ref());
        vec![group.name.into(), state, number(group.robot_count), group.description.into(), why.into()]
    });
    session.out.table(&["NAME", "STATE", "ROBOTS", "DESCRIPTION", "PAUSED"], rows.collect())
}
