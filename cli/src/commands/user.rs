//! `drover user`: the users of the account, and one's own password.

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use drover_protocol::user::{ChangePassword, CreatedUser, Locale, NewUser, User, UserPatch};

use crate::{
    commands::{ListArgs, events, list, simple},
    error::Error,
    output::{Shown, Tone, moment, moment_opt, note, toned},
    session::Session,
    values::{self, OrNone},
};

#[derive(Subcommand)]
pub enum UserCommand {
    /// List users
    List {
        /// Only those whose login or name holds this text
        #[arg(long, short)]
        query: Option<String>,
        /// Only those who have this role
        #[arg(long)]
        role: Option<String>,
        /// Only those who are blocked
        #[arg(long)]
        blocked: bool,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Show a user
    Show {
        /// Login or id
        user: String,
    },
    /// Make a user; the password is asked for, or comes from standard input
    Create(CreateArgs),
    /// Change a user; what is not named stays as it is
    Update(UpdateArgs),
    /// Block a user: sessions end at once, and no key opens anything
    Block {
        /// Login or id
        user: String,
    },
    /// Let a blocked user in again
    Unblock {
        /// Login or id
        user: String,
    },
    /// Delete a user with all keys and sessions
    Delete {
        /// Login or id
        user: String,
    },
    /// Show what happened to a user
    Events {
        /// Login or id
        user: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Change your own password; the old and the new one are asked for, or come from standard input line by line
    Password,
}

/// The language in which a user is spoken to.
#[derive(Clone, Copy, ValueEnum)]
pub enum Language {
    Ru,
    En,
}

impl From<Language> for Locale {
    fn from(language: Language) -> Self {
        match language {
            Language::Ru => Self::Ru,
            Language::En => Self::En,
        }
    }
}

#[derive(ClapArgs)]
pub struct CreateArgs {
    /// Without capital letters
    login: String,
    /// A role, by name or id; may be given several times
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// The user's full name
    #[arg(long, default_value = "")]
    name: String,
    #[arg(long)]
    email: Option<String>,
    #[arg(long)]
    locale: Option<Language>,
    /// Such as Europe/Berlin
    #[arg(long)]
    time_zone: Option<String>,
    /// By which a provider of OpenID Connect or a directory knows the user
    #[arg(long)]
    external_id: Option<String>,
    /// The user works with a key alone, which is shown once
    #[arg(long)]
    no_password: bool,
}

#[derive(ClapArgs)]
pub struct UpdateArgs {
    /// Login or id
    user: String,
    /// A new login
    #[arg(long)]
    login: Option<String>,
    /// All roles of the user from now on; may be given several times
    #[arg(long = "role", value_name = "ROLE")]
    roles: Option<Vec<String>>,
    #[arg(long)]
    name: Option<String>,
    /// `none` takes it away
    #[arg(long, value_parser = values::or_none(text))]
    email: Option<OrNone<String>>,
    #[arg(long)]
    locale: Option<Language>,
    /// `none` takes it away
    #[arg(long, value_parser = values::or_none(text))]
    time_zone: Option<OrNone<String>>,
    /// By which a provider of OpenID Connect or a directory knows the user; `none` takes it away
    #[arg(long, value_parser = values::or_none(text))]
    external_id: Option<OrNone<String>>,
    /// Asks for a new password, or reads it from standard input
    #[arg(long)]
    password: bool,
}

fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

const NOUN: &str = "users";

pub async fn run(session: &Session, command: UserCommand) -> Result<(), Error> {
    let client = &session.client;
    match command {
        UserCommand::List { query, role, blocked, list } => {
            let listed = list_users(session, query.as_deref(), role.as_deref(), blocked, &list).await?;
            listed.map_or(Ok(()), |users| show_list(session, users))
        }
        UserCommand::Show { user } => show(session, &user).await,
        UserCommand::Create(args) => create(session, args).await,
        UserCommand::Update(args) => update(session, args).await,
        UserCommand::Block { user } => block(session, &user, true).await,
        UserCommand::Unblock { user } => block(session, &user, false).await,
        UserCommand::Delete { user } => {
            simple(&session.out, client.delete(&[NOUN, &user])?, &format!("User {user} is deleted.")).await
        }
        UserCommand::Events { user, list } => events(session, &list, &[NOUN, &user, "events"]).await,
        UserCommand::Password => {
            let old = values::secret("Old password (it is not shown): ")?;
            let new = values::secret("New password (at least 10 characters): ")?;
            let call = client.post(&["account", "password"])?.json(&ChangePassword { old, new })?;
            simple(&session.out, call, "Your password is changed; your other sessions have ended.").await
        }
    }
}

async fn list_users(
    session: &Session,
    query: Option<&str>,
    role: Option<&str>,
    blocked: bool,
    args: &ListArgs,
) -> Result<Option<Vec<User>>, Error> {
    list(session, args, |session| {
        let call = session.client.get(&[NOUN])?.query_opt("q", query).query_opt("role", role);
        Ok(call.query_opt("blocked", blocked.then_some(true)))
    })
    .await
}

fn show_list(session: &Session, users: Vec<User>) -> Result<(), Error> {
    if users.is_empty() {
        return session.out.line("There are no such users.");
    }
    let rows = users.into_iter().map(|user| {
        let state = state(&user);
        vec![
            user.login.into(),
            user.name.into(),
            user.roles.join(", ").into(),
            state,
            moment_opt(user.last_sign_in_at).into(),
        ]
    });
    session.out.table(&["LOGIN", "NAME", "ROLES", "STATE", "LAST SIGN-IN"], rows.collect())
}

fn state(user: &User) -> Shown {
    match (user.blocked, user.has_password) {
        (true, _) => toned("blocked", Tone::Bad),
        (false, false) => toned("key only", Tone::Dim),
        (false, true) => "active".into(),
    }
}

async fn show(session: &Session, user: &str) -> Result<(), Error> {
    let answer = session.client.get(&[NOUN, user])?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let user: User = answer.decode()?;
    let state = state(&user);
    session.out.fields(vec![
        ("login", user.login.into()),
        ("id", user.id.to_string().into()),
        ("name", user.name.into()),
        ("email", user.email.unwrap_or_default().into()),
        ("roles", user.roles.join(", ").into()),
        ("state", state),
        ("time zone", user.time_zone.unwrap_or_default().into()),
        ("known elsewhere as", user.external_id.unwrap_or_default().into()),
        ("last sign-in", moment_opt(user.last_sign_in_at).into()),
        ("made", moment(user.created_at).into()),
    ])
}

async fn create(session: &Session, args: CreateArgs) -> Result<(), Error> {
    let password = match args.no_password {
        true => None,
        false => Some(values::secret("Password of the user (at least 10 characters): ")?),
    };
    let new = NewUser {
        login: args.login,
        password,
        name: args.name,
        email: args.email,
        roles: args.roles,
        locale: args.locale.map(Locale::from),
        time_zone: args.time_zone,
        external_id: args.external_id,
    };
    let answer = session.client.post(&[NOUN])?.json(&new)?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let made: CreatedUser = answer.decode()?;
    session.out.line(&format!("User {} is made.", made.details.login))?;
    if let Some(key) = made.key {
        session.out.fields(vec![("key", key.into())])?;
        note("Keep it now: it is not shown again.");
    }
    Ok(())
}

async fn update(session: &Session, args: UpdateArgs) -> Result<(), Error> {
    let password = match args.password {
        true => Some(Some(values::secret("New password of the user (at least 10 characters): ")?)),
        false => None,
    };
    let patch = UserPatch {
        login: args.login,
        password,
        name: args.name,
        email: args.email.map(|OrNone(email)| email),
        roles: args.roles,
        locale: args.locale.map(Locale::from),
        time_zone: args.time_zone.map(|OrNone(zone)| zone),
        external_id: args.external_id.map(|OrNone(id)| id),
        blocked: None,
    };
    let call = session.client.patch(&[NOUN, &args.user])?.json(&patch)?;
    simple(&session.out, call, &format!("User {} is changed.", args.user)).await
}

async fn block(session: &Session, user: &str, blocked: bool) -> Result<(), Error> {
    let patch = UserPatch { blocked: Some(blocked), ..UserPatch::default() };
    let done = match blocked {
        true => format!("User {user} is blocked."),
        false => format!("User {user} may come in again."),
    };
    simple(&session.out, session.client.patch(&[NOUN, user])?.json(&patch)?, &done).await
}
