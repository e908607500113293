//! `drover audit`: who did what.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use drover_protocol::{
    Timestamp,
    audit::{AuditRecord, AuditVerification},
};

use crate::{
    client::Call,
    commands::{ListArgs, list},
    error::Error,
    output::{moment, note, number, size},
    session::Session,
    transfer, values,
};

#[derive(Subcommand)]
pub enum AuditCommand {
    /// List acts, newest first
    List {
        #[command(flatten)]
        filter: FilterArgs,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Check that nothing in the trail was changed or left out
    Verify,
    /// Write the trail to a file as NDJSON, oldest first; each line proves itself and the one before
    Export {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        filter: FilterArgs,
    },
}

#[derive(ClapArgs)]
pub struct FilterArgs {
    /// A login, or user:ID, robot:ID, job:ID, coordinator
    #[arg(long)]
    actor: Option<String>,
    /// What was acted upon, such as process, resource, job
    #[arg(long)]
    noun: Option<String>,
    /// What was done, such as create, update, delete, read_value
    #[arg(long)]
    verb: Option<String>,
    /// Id of the object, or the name it had
    #[arg(long)]
    object: Option<String>,
    /// From this time on, or since a while such as 2h
    #[arg(long, value_parser = values::past_moment, value_name = "TIME")]
    from: Option<Timestamp>,
    /// Before this time, or this while ago
    #[arg(long, value_parser = values::past_moment, value_name = "TIME")]
    to: Option<Timestamp>,
}

impl FilterArgs {
    fn on<'a>(&self, call: Call<'a>) -> Call<'a> {
        call.query_opt("actor", self.actor.as_ref())
            .query_opt("noun", self.noun.as_ref())
            .query_opt("verb", self.verb.as_ref())
            .query_opt("object", self.object.as_ref())
            .query_opt("from", self.from)
            .query_opt("to", self.to)
    }
}

pub async fn run(session: &Session, command: AuditCommand) -> Result<(), Error> {
    match command {
        AuditCommand::List { filter, list } => show_list(session, &filter, &list).await,
        AuditCommand::Verify => verify(session).await,
        AuditCommand::Export { file, filter } => {
            let call = || Ok(filter.on(session.client.get(&["audit"])?));
            let written = transfer::download_as("exporting", "application/x-ndjson", call, &file, None).await?;
            note(&format!("{} are in {}.", size(written.size_bytes), file.display()));
            Ok(())
        }
    }
}

async fn show_list(session: &Session, filter: &FilterArgs, args: &ListArgs) -> Result<(), Error> {
    let listed = list::<AuditRecord, _>(session, args, |session| Ok(filter.on(session.client.get(&["audit"])?)));
    let Some(records) = listed.await? else { return Ok(()) };
    if records.is_empty() {
        return session.out.line("Nothing of that kind was done.");
    }
    let rows = records.into_iter().map(|record| {
        let object = if record.object_name.is_empty() { record.object } else { record.object_name };
        vec![
            number(record.seq),
            moment(record.at).into(),
            record.actor_name.into(),
            record.verb.into(),
            record.noun.into(),
            object.into(),
            record.address.unwrap_or_default().into(),
            record.after.map(|after| after.to_string().chars().take(80).collect::<String>()).unwrap_or_default().into(),
        ]
    });
    session.out.table(&["NO", "WHEN", "WHO", "DID", "NOUN", "OBJECT", "FROM", "NOW"], rows.collect())
}

async fn verify(session: &Session) -> Result<(), Error> {
    let answer = session.client.get(&["audit", "verify"])?.long().send().await?;
    let found: AuditVerification = answer.decode()?;
    if !session.out.raw(&answer)? {
        for problem in &found.problems {
            session.out.line(problem)?;
        }
        session.out.line(&format!(
            "{} acts; the last, number {}, has the hash {}",
            found.records, found.last_seq, found.last_hash
        ))?;
    }
    match found.sound {
        true => Ok(()),
        false => Err(Error::NotWhole),
    }
}
