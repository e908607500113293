//! `drover account`: one's own account; and all accounts, for those who run the coordinator.

use clap::Subcommand;
use drover_protocol::account::{Account, AccountChange, AccountPatch, CreatedAccount, NewAccount, NewAdmin};

use crate::{
    commands::{ListArgs, list, simple},
    error::Error,
    output::{Tone, moment, note, toned},
    session::Session,
    values::{self, OrNone},
};

#[derive(Subcommand)]
pub enum AccountCommand {
    /// Show your own account
    Show,
    /// Change your own account; what is not named stays as it is
    Update {
        /// A new name
        #[arg(long)]
        name: Option<String>,
        /// For how many days the audit trail is kept at the least, 30 or more; `none`: for ever
        #[arg(long, value_parser = values::or_none(values::days), value_name = "DAYS")]
        audit_retention: Option<OrNone<u32>>,
    },
    /// List all accounts
    List {
        #[command(flatten)]
        list: ListArgs,
    },
    /// Make an account with its administrator, whose password is asked for or comes from standard input
    Create {
        name: String,
        /// Login of the administrator, without capital letters
        #[arg(long, default_value = "admin")]
        login: String,
        /// The administrator's full name
        #[arg(long, default_value = "")]
        full_name: String,
        #[arg(long)]
        email: Option<String>,
        /// The administrator works with the key alone
        #[arg(long)]
        no_password: bool,
    },
    /// Give an account another name
    Rename {
        /// Name or id
        account: String,
        name: String,
    },
    /// Shut an account: nobody gets in, and no trigger fires
    Disable {
        /// Name or id
        account: String,
    },
    /// Open an account again
    Enable {
        /// Name or id
        account: String,
    },
    /// Delete an account with everything in it
    Delete {
        /// Name or id
        account: String,
        /// Say it, for nothing brings it back
        #[arg(long, required = true)]
        with_everything: bool,
    },
}

const NOUN: &str = "accounts";

pub async fn run(session: &Session, command: AccountCommand) -> Result<(), Error> {
    let client = &session.client;
    match command {
        AccountCommand::Show => show(session).await,
        AccountCommand::Update { name, audit_retention } => {
            let patch = AccountPatch { name, audit_retention_days: audit_retention.map(|OrNone(days)| days) };
            let call = client.patch(&["account"])?.json(&patch)?;
            simple(&session.out, call, "The account is changed.").await
        }
        AccountCommand::List { list } => show_list(session, &list).await,
        AccountCommand::Create { name, login, full_name, email, no_password } => {
            let password = match no_password {
                true => None,
                false => Some(values::secret("Password of the administrator (at least 10 characters): ")?),
            };
            let admin = NewAdmin { login, password, name: full_name, email };
            create(session, &NewAccount { name, admin }).await
        }
        AccountCommand::Rename { account, name } => {
            let done = format!("Account {account} is called {name} from now on.");
            change(session, &account, AccountChange { name: Some(name), disabled: None }, &done).await
        }
        AccountCommand::Disable { account } => {
            let done = format!("Account {account} is shut.");
            change(session, &account, AccountChange { name: None, disabled: Some(true) }, &done).await
        }
        AccountCommand::Enable { account } => {
            let done = format!("Account {account} is open again.");
            change(session, &account, AccountChange { name: None, disabled: Some(false) }, &done).await
        }
        AccountCommand::Delete { account, with_everything: _ } => {
            let done = format!("Account {account} is deleted; what it held is being removed.");
            simple(&session.out, client.delete(&[NOUN, &account])?, &done).await
        }
    }
}

async fn show(session: &Session) -> Result<(), Error> {
    let answer = session.client.get(&["account"])?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let account: Account = answer.decode()?;
    let kept = account.audit_retention_days.map_or("for ever".to_owned(), |days| format!("{days} days"));
    session.out.fields(vec![
        ("name", account.name.into()),
        ("id", account.id.to_string().into()),
        ("runs the coordinator", if account.runs_system { "yes" } else { "no" }.into()),
        ("audit trail kept", kept.into()),
        ("made", moment(account.created_at).into()),
    ])
}

async fn show_list(session: &Session, args: &ListArgs) -> Result<(), Error> {
    let listed = list::<Account, _>(session, args, |session| session.client.get(&[NOUN])).await?;
    let Some(accounts) = listed else { return Ok(()) };
    let rows = accounts.into_iter().map(|account| {
        let state = match (account.disabled, account.runs_system) {
            (true, _) => toned("disabled", Tone::Bad),
            (false, true) => "runs the coordinator".into(),
            (false, false) => "open".into(),
        };
        vec![account.name.into(), state, account.id.to_string().into(), moment(account.created_at).into()]
    });
    session.out.table(&["NAME", "STATE", "ID", "MADE"], rows.collect())
}

async fn create(session: &Session, new: &NewAccount) -> Result<(), Error> {
    let answer = session.client.post(&[NOUN])?.json(new)?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let made: CreatedAccount = answer.decode()?;
    session.out.fields(vec![
        ("account", made.account.name.into()),
        ("id", made.account.id.to_string().into()),
        ("administrator's key", made.key.into()),
    ])?;
    note("Keep the key now: it is not shown again.");
    Ok(())
}

async fn change(session: &Session, account: &str, change: AccountChange, done: &str) -> Result<(), Error> {
    simple(&session.out, session.client.patch(&[NOUN, account])?.json(&change)?, done).await
}
