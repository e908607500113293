//! `drover join-token`: tokens with which agents become robots.

use clap::Subcommand;
use drover_protocol::join_token::{CreatedJoinToken, JoinToken, NewJoinToken};

use crate::{
    commands::{ListArgs, list, simple},
    error::Error,
    output::{moment, note},
    session::Session,
    values,
};

#[derive(Subcommand)]
pub enum JoinTokenCommand {
    /// Make a token; it is shown only once
    Create {
        /// Group that the robots enter
        #[arg(long)]
        group: Option<String>,
        /// How many robots may join with it
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// How long it is valid, for example 1h or 7d
        #[arg(long, default_value = "1d", value_parser = values::seconds, value_name = "DURATION")]
        expires_in: u64,
        /// Only hosts of this network may join with it, for example 10.1.0.0/16
        #[arg(long)]
        cidr: Option<String>,
    },
    /// List the tokens (never their text)
    List {
        #[command(flatten)]
        list: ListArgs,
    },
    /// Delete a token: nobody joins with it any more
    Delete {
        /// Id of the token
        id: String,
    },
}

pub async fn run(session: &Session, command: JoinTokenCommand) -> Result<(), Error> {
    match command {
        JoinTokenCommand::Create { group, uses, expires_in, cidr } => {
            create(session, &NewJoinToken { group, uses, expires_in_seconds: expires_in, cidr }).await
        }
        JoinTokenCommand::List { list } => show_list(session, &list).await,
        JoinTokenCommand::Delete { id } => {
            let done = format!("Join token {id} is deleted.");
            simple(&session.out, session.client.delete(&["join-tokens", &id])?, &done).await
        }
    }
}

async fn create(session: &Session, request: &NewJoinToken) -> Result<(), Error> {
    let answer = session.client.post(&["join-tokens"])?.json(request)?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let created: CreatedJoinToken = answer.decode()?;
    session.out.fields(vec![
        ("token", created.token.clone().into()),
        ("id", created.details.id.to_string().into()),
        ("robots", created.details.uses.to_string().into()),
        ("expires", moment(created.details.expires_at).into()),
    ])?;
    note("Keep it now: it is not shown again.");
    note(&how_to_join(session, &created.token));
    Ok(())
}

/// What to type on the robot's host.
pub fn how_to_join(session: &Session, token: &str) -> String {
    format!(
        "On the robot's host: drover-agent join --server {} --token {token} --state DIR, then drover-agent run --state DIR",
        session.client.root()
    )
}

async fn show_list(session: &Session, args: &ListArgs) -> Result<(), Error> {
    let listed = list::<JoinToken, _>(session, args, |session| session.client.get(&["join-tokens"])).await?;
    let Some(tokens) = listed else { return Ok(()) };
    if tokens.is_empty() {
        return session.out.line("There are no join tokens. Make one: drover join-token create");
    }
    let rows = tokens.into_iter().map(|token| {
        vec![
            token.id.to_string().into(),
            format!("{} of {}", token.uses_left, token.uses).into(),
            moment(token.expires_at).into(),
            token.group_id.map(|id| id.to_string()).unwrap_or_default().into(),
            token.cidr.unwrap_or_default().into(),
        ]
    });
    session.out.table(&["ID", "LEFT", "EXPIRES", "GROUP", "NETWORK"], rows.collect())
}
