//! `drover keys`: named API keys with scopes of their own.

use clap::Subcommand;
use drover_protocol::{
    Timestamp,
    key::{CreatedKey, Key, NewKey},
};

use crate::{
    commands::{ListArgs, list, simple},
    error::Error,
    output::{moment, moment_opt, note},
    session::Session,
    values,
};

#[derive(Subcommand)]
pub enum KeysCommand {
    /// List your named keys
    List {
        #[command(flatten)]
        list: ListArgs,
    },
    /// Make a named key; it is shown only once
    Create {
        /// What it is for
        name: String,
        /// What it may do, for example job:start (repeatable; default: all that you may)
        #[arg(long = "permission", value_name = "NOUN:VERB")]
        permissions: Vec<String>,
        /// When it ends: a time, or after a while such as 90d
        #[arg(long, value_parser = values::moment, value_name = "TIME")]
        expires: Option<Timestamp>,
    },
    /// Delete a named key: it is void at once
    Delete {
        /// Id of the key
        id: String,
    },
}

pub async fn run(session: &Session, command: KeysCommand) -> Result<(), Error> {
    match command {
        KeysCommand::List { list } => show_list(session, &list).await,
        KeysCommand::Create { name, permissions, expires } => {
            let permissions = (!permissions.is_empty()).then_some(permissions);
            create(session, &NewKey { name, permissions, expires_at: expires }).await
        }
        KeysCommand::Delete { id } => {
            let done = format!("Key {id} is deleted.");
            simple(&session.out, session.client.delete(&["keys", &id])?, &done).await
        }
    }
}

async fn show_list(session: &Session, args: &ListArgs) -> Result<(), Error> {
    let Some(keys) = list::<Key, _>(session, args, |session| session.client.get(&["keys"])).await? else {
        return Ok(());
    };
    if keys.is_empty() {
        return session.out.line("There are no named keys. Make one: drover keys create NAME");
    }
    let rows = keys.into_iter().map(|key| {
        vec![
            key.id.to_string().into(),
            key.name.into(),
            format!("{}…", key.prefix).into(),
            moment_opt(key.last_used_at).into(),
            moment_opt(key.expires_at).into(),
            key.permissions.join(" ").into(),
        ]
    });
    session.out.table(&["ID", "NAME", "KEY", "LAST USED", "EXPIRES", "PERMISSIONS"], rows.collect())
}

async fn create(session: &Session, request: &NewKey) -> Result<(), Error> {
    let answer = session.client.post(&["keys"])?.json(request)?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let created: CreatedKey = answer.decode()?;
    session.out.fields(vec![
        ("key", created.key.into()),
        ("header", format!("Authorization: {}", created.header).into()),
        ("id", created.details.id.to_string().into()),
        ("made", moment(created.details.created_at).into()),
        ("expires", moment_opt(created.details.expires_at).into()),
    ])?;
    note("Keep it now: it is not shown again.");
    Ok(())
}
