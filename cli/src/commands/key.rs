//! `drover key`: the caller's own API key.

use clap::Subcommand;
use drover_protocol::key::{FullKey, KeyRefresh, KeyReveal, OwnKey};

use crate::{
    client::Answer,
    error::Error,
    output::{moment, moment_opt, note},
    session::Session,
    values,
};

#[derive(Subcommand)]
pub enum KeyCommand {
    /// Show your key, masked, and when it was last used
    Show,
    /// Make a new key; the old one is void at once
    Assign,
    /// Make a new key; the old one goes on for a while
    Refresh {
        /// How long the old key still works, for example 1h (at most 7d)
        #[arg(long, value_parser = values::seconds)]
        grace: Option<u64>,
    },
    /// Show your key in full; asks for your password (or takes it from standard input)
    Reveal,
}

pub async fn run(session: &Session, command: KeyCommand) -> Result<(), Error> {
    match command {
        KeyCommand::Show => show(session).await,
        KeyCommand::Assign => renewed(session, session.client.post(&["account", "key"])?.send().await?),
        KeyCommand::Refresh { grace } => {
            let call = session.client.post(&["account", "key", "refresh"])?;
            renewed(session, call.json(&KeyRefresh { grace_seconds: grace })?.send().await?)
        }
        KeyCommand::Reveal => {
            let password = values::secret("Password (it is not shown): ")?;
            let call = session.client.post(&["account", "key", "reveal"])?.json(&KeyReveal { password })?;
            let answer = call.send().await?;
            if session.out.raw(&answer)? { Ok(()) } else { show_full(session, &answer.decode()?) }
        }
    }
}

async fn show(session: &Session) -> Result<(), Error> {
    let answer = session.client.get(&["account", "key"])?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let key: OwnKey = answer.decode()?;
    session.out.fields(vec![
        ("key", key.masked.into()),
        ("id", key.id.to_string().into()),
        ("made", moment(key.created_at).into()),
        ("last used", moment_opt(key.last_used_at).into()),
        ("expires", moment_opt(key.expires_at).into()),
    ])
}

/// Shows a new key; if the old one was that of the saved login, saves it there too, before anything can go wrong.
fn renewed(session: &Session, answer: Answer) -> Result<(), Error> {
    let key: FullKey = answer.decode()?;
    let saved = session.own_key_changed(&key.key);
    if !session.out.raw(&answer)? {
        show_full(session, &key)?;
    }
    if saved? {
        note("The saved login has the new key.");
    }
    Ok(())
}

fn show_full(session: &Session, key: &FullKey) -> Result<(), Error> {
    session.out.fields(vec![
        ("key", key.key.clone().into()),
        ("header", format!("Authorization: {}", key.header).into()),
        ("id", key.id.to_string().into()),
    ])
}
