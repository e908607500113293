//! One file per noun: its arguments and what each command does. Here: which is which, and what they share.

pub mod account;
pub mod alert;
pub mod audit;
pub mod backup;
pub mod changes;
pub mod file;
pub mod group;
pub mod job;
pub mod job_logs;
mod job_show;
mod job_start;
pub mod join_token;
pub mod key;
pub mod keys;
pub mod login;
pub mod logs;
mod overview;
mod pause;
pub mod process;
mod publish;
pub mod queue;
mod queue_settings;
pub mod resource;
pub mod robot;
pub mod role;
mod status;
pub mod storage;
pub mod task;
mod task_export;
mod task_filter;
mod task_import;
mod task_rows;
mod task_show;
mod task_work;
pub mod trigger;
mod trigger_settings;
pub mod user;
pub mod webhook;

use clap::{Args as ClapArgs, CommandFactory};
use drover_protocol::{event::Event, job::Target, page::Page};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    args::{Args, Command},
    client::{Answer, Call},
    decode::decode_value,
    error::Error,
    output::{Output, moment, note},
    session::Session,
};

/// Carries out a command; answers the exit code.
pub async fn run(args: Args) -> Result<u8, Error> {
    let connection = args.connection;
    match args.command {
        Command::Login(arguments) => login::login(&connection, arguments).await?,
        Command::Logout => login::logout()?,
        Command::Completions { shell } => completions(shell)?,
        Command::Status => status::status(&Session::open(&connection)?).await?,
        Command::Process(command) => process::run(&Session::open(&connection)?, command).await?,
        Command::Job(command) => return job::run(&Session::open(&connection)?, command).await,
        Command::Queue(command) => queue::run(&Session::open(&connection)?, command).await?,
        Command::Task(command) => return task::run(&Session::open(&connection)?, command).await,
        Command::Logs(command) => logs::run(&Session::open(&connection)?, command).await?,
        Command::Robot(command) => robot::run(&Session::open(&connection)?, command).await?,
        Command::Group(command) => group::run(&Session::open(&connection)?, command).await?,
        Command::JoinToken(command) => join_token::run(&Session::open(&connection)?, command).await?,
        Command::Storage(command) => storage::run(&Session::open(&connection)?, command).await?,
        Command::File(command) => file::run(&Session::open(&connection)?, command).await?,
        Command::Trigger(command) => trigger::run(&Session::open(&connection)?, command).await?,
        Command::Resource(command) => resource::run(&Session::open(&connection)?, command).await?,
        Command::Webhook(command) => webhook::run(&Session::open(&connection)?, command).await?,
        Command::Alert(command) => alert::run(&Session::open(&connection)?, command).await?,
        Command::Events(arguments) => changes::follow(&Session::open(&connection)?, arguments).await?,
        Command::Overview => overview::show(&Session::open(&connection)?).await?,
        Command::Audit(command) => audit::run(&Session::open(&connection)?, command).await?,
        Command::User(command) => user::run(&Session::open(&connection)?, command).await?,
        Command::Role(command) => role::run(&Session::open(&connection)?, command).await?,
        Command::Account(command) => account::run(&Session::open(&connection)?, command).await?,
        Command::Key(command) => key::run(&Session::open(&connection)?, command).await?,
        Command::Keys(command) => keys::run(&Session::open(&connection)?, command).await?,
        Command::Backup(arguments) => backup::backup(&Session::open(&connection)?, arguments).await?,
    }
    Ok(0)
}

fn completions(shell: clap_complete::Shell) -> Result<(), Error> {
    // Made in memory first: the generator panics when the reader of the output has gone.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "drover", &mut script);
    std::io::Write::write_all(&mut std::io::stdout(), &script).map_err(Error::Output)
}

/// How much of a list is shown.
#[derive(ClapArgs)]
pub struct ListArgs {
    /// How many to show
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Show all, however many
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Read on from where a list ended ("next_cursor" of --json)
    #[arg(long)]
    cursor: Option<String>,
}

/// The most that the API gives at once.
const MAX_PAGE: u32 = 1000;

/// Reads a list. With `--json` its pages are printed as they came, one per line, and there is nothing left to show.
/// Else: the items, after a remark if there are more.
async fn list<T, F>(session: &Session, args: &ListArgs, call: F) -> Result<Option<Vec<T>>, Error>
where
    T: DeserializeOwned,
    F: for<'a> Fn(&'a Session) -> Result<Call<'a>, Error>,
{
    let mut items = Vec::new();
    let mut count = 0;
    let mut cursor = args.cursor.clone();
    loop {
        let wanted = if args.all { MAX_PAGE } else { args.limit - count };
        let page_call = call(session)?.query("limit", wanted.min(MAX_PAGE)).query_opt("cursor", cursor.as_ref());
        let answer = page_call.send().await?;
        let page: Page<Value> = answer.decode()?;
        count += page.items.len() as u32;
        cursor = page.next_cursor;
        let is_end = cursor.is_none() || (!args.all && count >= args.limit);
        if session.out.raw(&answer)? {
            if is_end {
                return Ok(None);
            }
            continue;
        }
        for item in page.items {
            items.push(decode_value(item)?);
        }
        if is_end {
            if cursor.is_some() {
                note(&format!("These are the first {}; there are more: --limit N or --all shows them.", items.len()));
            }
            return Ok(Some(items));
        }
    }
}

/// Shows the events of an object, oldest last.
async fn events(session: &Session, args: &ListArgs, path: &[&str]) -> Result<(), Error> {
    let path: Vec<String> = path.iter().map(|part| (*part).to_owned()).collect();
    let listed = list::<Event, _>(session, args, |session| {
        session.client.get(&path.iter().map(String::as_str).collect::<Vec<_>>())
    });
    let Some(events) = listed.await? else { return Ok(()) };
    if events.is_empty() {
        return session.out.line("Nothing has happened yet.");
    }
    let rows = events.into_iter().map(|event| vec![moment(event.at).into(), event.text.into(), event.by.into()]);
    session.out.table(&["WHEN", "WHAT", "BY"], rows.collect())
}

/// The name of an object; its id if the name cannot be had, for example because it has been deleted.
async fn name_or_id(session: &Session, noun: &str, id: &str) -> String {
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    let answer = match session.client.get(&[noun, id]) {
        Ok(call) => call.send().await,
        Err(error) => Err(error),
    };
    answer.and_then(|answer| answer.decode::<Named>()).map_or_else(|_| id.to_owned(), |named| named.name)
}

/// For whom a job is meant.
async fn target_in_words(session: &Session, target: &Target) -> String {
    match (&target.robot, &target.group) {
        (Some(robot), _) => format!("robot {}", name_or_id(session, "robots", robot).await),
        (None, Some(group)) => format!("group {}", name_or_id(session, "robot-groups", group).await),
        (None, None) => String::new(),
    }
}

/// Sends a call whose answer needs no more than a sentence.
async fn simple(out: &Output, call: Call<'_>, done: &str) -> Result<(), Error> {
    let answer: Answer = call.send().await?;
    if out.raw(&answer)? { Ok(()) } else { out.line(done) }
}
