//! `drover login` and `drover logout`.

use std::io::IsTerminal;

use clap::Args;
use drover_protocol::account::Me;

use crate::{
    args::Connection,
    client::Client,
    error::Error,
    login_file::{self, Login},
    output::{Output, note},
    session::{is_readable_on_the_way, parse_server},
    values,
};

/// Where a coordinator listens unless it is told otherwise.
const DEFAULT_SERVER: &str = "http://127.0.0.1:7070";

/// The key is asked for; it is also taken from --key, DROVER_KEY or the first line of standard input.
#[derive(Args)]
pub struct LoginArgs {
    /// Address of the coordinator (default: --server, else it is asked for)
    url: Option<String>,
}

pub async fn login(connection: &Connection, args: LoginArgs) -> Result<(), Error> {
    let server = match args.url.as_ref().or(connection.server.as_ref()) {
        Some(text) => parse_server(text)?,
        None => parse_server(&ask_for_server()?)?,
    };
    if is_readable_on_the_way(&server) {
        note(&format!("{server} is not encrypted: everybody on the way can read the key. Prefer https."));
    }
    let key = match &connection.key {
        Some(key) => key.trim().to_owned(),
        None => values::secret("API key (it is not shown): ")?.trim().to_owned(),
    };
    let out = Output::new(connection.json);
    let answer = Client::new(server.clone(), Some(&key))?.get(&["account", "me"])?.send().await?;
    let me: Me = answer.decode()?;
    let path = login_file::write(&Login { server: server.clone(), key })?;
    if out.raw(&answer)? {
        return Ok(());
    }
    out.line(&format!("Signed in to {server} as {} of account {}.", me.name, me.account.name))?;
    note(&format!("Saved in {}.", path.display()));
    Ok(())
}

fn ask_for_server() -> Result<String, Error> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::Usage("give the address of the coordinator: drover login URL".to_owned()));
    }
    let suggestion = login_file::read().ok().flatten().map_or(DEFAULT_SERVER.to_owned(), |login| login.server.into());
    let terminal = console::Term::stderr();
    let answer = terminal
        .write_str(&format!("Address of the coordinator [{suggestion}]: "))
        .and_then(|()| terminal.read_line())
        .map_err(Error::file("read", "standard input"))?;
    Ok(if answer.trim().is_empty() { suggestion } else { answer })
}

pub fn logout() -> Result<(), Error> {
    note(if login_file::remove()? { "The saved login is removed." } else { "There was no saved login." });
    Ok(())
}
