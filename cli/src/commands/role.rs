//! `drover role`: what users may do, and to what.

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use drover_protocol::role::{NewRole, Role, RoleLimits, RoleLimitsPatch, RolePatch};

use crate::{
    commands::{ListArgs, list, simple},
    error::Error,
    output::{moment_opt, number},
    session::Session,
};

#[derive(Subcommand)]
pub enum RoleCommand {
    /// List roles, the built-in ones first
    List {
        #[command(flatten)]
        list: ListArgs,
    },
    /// Show a role and what it gives
    Show {
        /// Name or id
        role: String,
    },
    /// Make a role
    Create {
        name: String,
        #[arg(long, default_value = "")]
        description: String,
        /// Such as job:start, queue:* or *; may be given several times
        #[arg(long = "permission", short, value_name = "PERMISSION")]
        permissions: Vec<String>,
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Change a role; what is not named stays as it is
    Update {
        /// Name or id
        role: String,
        /// A new name
        #[arg(long)]
        name: Option<String>,
        #[arg(long)]
        description: Option<String>,
        /// All permissions of the role from now on; may be given several times
        #[arg(long = "permission", short, value_name = "PERMISSION")]
        permissions: Option<Vec<String>>,
        #[command(flatten)]
        limits: LimitArgs,
        /// Takes this limit away; may be given several times
        #[arg(long = "no-limit", value_enum, value_name = "KIND")]
        lifted: Vec<LimitKind>,
        /// Takes all limits away
        #[arg(long, conflicts_with_all = ["groups", "queues", "folders", "lifted"])]
        no_limits: bool,
    },
    /// Delete a role that nobody has
    Delete {
        /// Name or id
        role: String,
    },
}

/// Patterns of names, in which * stands for any text.
#[derive(ClapArgs)]
pub struct LimitArgs {
    /// Only robots of groups of such names, such as "finance*"; may be given several times
    #[arg(long = "group", value_name = "PATTERN")]
    groups: Option<Vec<String>>,
    /// Only queues of such names
    #[arg(long = "queue", value_name = "PATTERN")]
    queues: Option<Vec<String>>,
    /// Only storage folders of such names
    #[arg(long = "folder", value_name = "PATTERN")]
    folders: Option<Vec<String>>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LimitKind {
    Group,
    Queue,
    Folder,
}

impl LimitArgs {
    fn limits(self) -> Option<RoleLimits> {
        let limits = RoleLimits { robot_groups: self.groups, queues: self.queues, folders: self.folders };
        Some(limits).filter(|limits| *limits != RoleLimits::default())
    }

    /// As a change of those that a role has, some of which are lifted.
    fn patch(self, lifted: &[LimitKind]) -> Option<RoleLimitsPatch> {
        let of = |kind, patterns: Option<Vec<String>>| match patterns {
            None if lifted.contains(&kind) => Some(None),
            patterns => patterns.map(Some),
        };
        let patch = RoleLimitsPatch {
            robot_groups: of(LimitKind::Group, self.groups),
            queues: of(LimitKind::Queue, self.queues),
            folders: of(LimitKind::Folder, self.folders),
        };
        Some(patch).filter(|patch| *patch != RoleLimitsPatch::default())
    }
}

const NOUN: &str = "roles";

pub async fn run(session: &Session, command: RoleCommand) -> Result<(), Error> {
    let client = &session.client;
    match command {
        RoleCommand::List { list } => show_list(session, &list).await,
        RoleCommand::Show { role } => show(session, &role).await,
        RoleCommand::Create { name, description, permissions, limits } => {
            let done = format!("Role {name} is made.");
            let new = NewRole { name, description, permissions, limits: limits.limits() };
            simple(&session.out, client.post(&[NOUN])?.json(&new)?, &done).await
        }
        RoleCommand::Update { role, name, description, permissions, limits, lifted, no_limits } => {
            let limits = if no_limits { Some(None) } else { limits.patch(&lifted).map(Some) };
            let patch = RolePatch { name, description, permissions, limits };
            let call = client.patch(&[NOUN, &role])?.json(&patch)?;
            simple(&session.out, call, &format!("Role {role} is changed.")).await
        }
        RoleCommand::Delete { role } => {
            simple(&session.out, client.delete(&[NOUN, &role])?, &format!("Role {role} is deleted.")).await
        }
    }
}

async fn show_list(session: &Session, args: &ListArgs) -> Result<(), Error> {
    let listed = list::<Role, _>(session, args, |session| session.client.get(&[NOUN])).await?;
    let Some(roles) = listed else { return Ok(()) };
    let rows = roles.into_iter().map(|role| {
        let kind = match (role.built_in, &role.limits) {
            (true, _) => "built in",
            (false, Some(_)) => "limited",
            (false, None) => "",
        };
        vec![role.name.into(), kind.into(), number(role.granted.len()), role.description.into()]
    });
    session.out.table(&["NAME", "KIND", "PERMISSIONS", "DESCRIPTION"], rows.collect())
}

async fn show(session: &Session, role: &str) -> Result<(), Error> {
    let answer = session.client.get(&[NOUN, role])?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let role: Role = answer.decode()?;
    let limits = role.limits.unwrap_or_default();
    let patterns = |patterns: Option<Vec<String>>| match patterns {
        Some(patterns) if patterns.is_empty() => "none".to_owned(),
        Some(patterns) => patterns.join(", "),
        None => String::new(),
    };
    session.out.fields(vec![
        ("name", role.name.into()),
        ("id", role.id.map(|id| id.to_string()).unwrap_or_default().into()),
        ("description", role.description.into()),
        ("permissions", role.permissions.join(" ").into()),
        ("come to", role.granted.join(" ").into()),
        ("only groups", patterns(limits.robot_groups).into()),
        ("only queues", patterns(limits.queues).into()),
        ("only folders", patterns(limits.folders).into()),
        ("made", moment_opt(role.created_at).into()),
    ])
}
