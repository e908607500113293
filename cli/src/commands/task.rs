//! `drover task`: its commands. Importing, exporting, showing and working on tasks have files of their own.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use drover_protocol::{
    Timestamp,
    task::{BulkAction, BulkActionDone, BulkActionKind, NewTask, Task, TaskPatch},
};

use crate::{
    commands::{
        ListArgs, events, list, queue, simple, task_export, task_filter::FilterArgs, task_import, task_show, task_work,
    },
    error::Error,
    output::note,
    place,
    session::Session,
    transfer, values,
};

#[derive(Subcommand)]
pub enum TaskCommand {
    /// Add a task to a queue
    Add(AddArgs),
    /// Add the rows of a CSV file, or the lines of an NDJSON file, to a queue
    Import(Box<task_import::ImportArgs>),
    /// List tasks, newest first
    List {
        #[command(flatten)]
        filter: FilterArgs,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Show a task
    Show {
        /// Id of the task
        task: String,
    },
    /// Show the attempts of a task, oldest first
    Attempts {
        /// Id of the task
        task: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Show what happened to a task
    Events {
        /// Id of the task
        task: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Change a task
    Update(UpdateArgs),
    /// Let a failed, abandoned or postponed task be taken again now
    Retry {
        /// Id of the task
        task: String,
    },
    /// Let a task that waits not be taken before a time; or put one back that was taken
    Postpone(task_work::PostponeArgs),
    /// Comment on a task
    Comment(task_work::CommentArgs),
    /// Delete a task
    Delete {
        /// Id of the task
        task: String,
    },
    /// Do the same with all tasks that a filter matches; says first how many they are
    Bulk(BulkArgs),
    /// Write tasks to a file, as CSV or NDJSON
    Export(task_export::ExportArgs),
    /// Attach a file to a task
    Attach {
        /// Id of the task
        task: String,
        file: PathBuf,
        /// Name under which it is attached (default: that of the file)
        #[arg(long)]
        name: Option<String>,
    },
    /// Download a file of a task
    Download {
        /// Id of the task
        task: String,
        name: String,
        /// Where to (default: its name in this folder)
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
    /// Take tasks of a queue, for scripts: prints them as JSON
    Take(task_work::TakeArgs),
    /// Hold a task that was taken for another lease
    Renew(task_work::RenewArgs),
    /// Keep how far a task that was taken has got, for its next attempt
    Checkpoint(task_work::CheckpointArgs),
    /// End a task that was taken, as succeeded
    Succeed(task_work::SucceedArgs),
    /// End a task that was taken, as failed
    Fail(task_work::FailArgs),
}

#[derive(Args)]
pub struct AddArgs {
    /// Name or id of the queue
    queue: String,
    /// Payload as JSON, @FILE, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    payload: Option<String>,
    /// One member of the payload (repeatable); what reads as JSON is JSON, else it is a text
    #[arg(long = "set", value_parser = values::pair, value_name = "KEY=VALUE")]
    members: Vec<(String, String)>,
    /// Your own name for it, for example the number of the invoice
    #[arg(long)]
    reference: Option<String>,
    #[arg(long)]
    name: Option<String>,
    /// 1 low, 2 normal, 3 high
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=3))]
    priority: Option<u8>,
    /// Once it has passed, the task goes before all others
    #[arg(long, value_parser = values::moment, value_name = "TIME")]
    deadline: Option<Timestamp>,
    /// Not to be taken before this time (2026-11-23T18:00) or for this while (2h)
    #[arg(long, value_parser = values::moment, value_name = "TIME")]
    not_before: Option<Timestamp>,
    /// Tag (repeatable)
    #[arg(long = "tag")]
    tags: Vec<String>,
    #[arg(long, allow_hyphen_values = true)]
    comment: Option<String>,
    /// Attempts that count, instead of the queue's
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// Adds nothing again if the same was added under this key within 24 hours (default: a new key)
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

#[derive(Args)]
pub struct UpdateArgs {
    /// Id of the task
    task: String,
    /// Your own name for it, for example the number of the invoice
    #[arg(long)]
    reference: Option<String>,
    #[arg(long)]
    name: Option<String>,
    /// 1 low, 2 normal, 3 high
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=3))]
    priority: Option<u8>,
    /// Once it has passed, the task goes before all others
    #[arg(long, value_parser = values::moment, value_name = "TIME")]
    deadline: Option<Timestamp>,
    /// All its tags (repeatable)
    #[arg(long = "tag")]
    tags: Vec<String>,
    #[arg(long, allow_hyphen_values = true)]
    comment: Option<String>,
    /// Payload as JSON, @FILE, or - for standard input, instead of the one that it has
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    payload: Option<String>,
    /// Attempts that count, instead of the queue's
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// Hand it over to this queue
    #[arg(long)]
    queue: Option<String>,
}

#[derive(Args)]
pub struct BulkArgs {
    /// What is to be done
    #[arg(value_enum)]
    action: ActionArg,
    /// The time of 'postpone', the priority of 'set-priority', the queue of 'move'
    #[arg(long)]
    value: Option<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Only count
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do it without asking
    #[arg(long, short)]
    yes: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ActionArg {
    /// Let failed, abandoned and postponed tasks be taken again now
    Retry,
    /// Postpone tasks that wait until a time
    Postpone,
    /// Delete tasks that are not in progress
    Delete,
    /// Give tasks another priority
    SetPriority,
    /// Hand tasks over to another queue
    Move,
}

pub const NOUN: &str = "tasks";

pub async fn run(session: &Session, command: TaskCommand) -> Result<u8, Error> {
    let client = &session.client;
    match command {
        TaskCommand::Add(args) => add(session, args).await?,
        TaskCommand::Import(args) => return task_import::import(session, *args).await,
        TaskCommand::List { filter, list } => show_list(session, &filter, &list).await?,
        TaskCommand::Show { task } => task_show::show(session, &task).await?,
        TaskCommand::Attempts { task, list } => task_show::attempts(session, &list, &task).await?,
        TaskCommand::Events { task, list } => events(session, &list, &[NOUN, &task, "events"]).await?,
        TaskCommand::Update(args) => update(session, args).await?,
        TaskCommand::Retry { task } => {
            let done = format!("Task {task} can be taken again.");
            simple(&session.out, client.post(&[NOUN, &task, "retry"])?, &done).await?;
        }
        TaskCommand::Postpone(args) => task_work::postpone(session, args).await?,
        TaskCommand::Comment(args) => task_work::comment(session, args).await?,
        TaskCommand::Delete { task } => {
            simple(&session.out, client.delete(&[NOUN, &task])?, &format!("Task {task} is deleted.")).await?;
        }
        TaskCommand::Bulk(args) => bulk(session, &args).await?,
        TaskCommand::Export(args) => task_export::export(session, &args).await?,
        TaskCommand::Attach { task, file, name } => attach(session, &task, file, name).await?,
        TaskCommand::Download { task, name, output } => {
            let target = output.unwrap_or_else(|| place::named(&name.replace(['/', '\\'], "_")));
            let call = || client.get(&[NOUN, &task, "files", &name]);
            transfer::download("downloading", call, &target, None).await?;
            session.out.about(&target).line(&target.display().to_string())?;
        }
        TaskCommand::Take(args) => task_work::take(session, args).await?,
        TaskCommand::Renew(args) => task_work::renew(session, args).await?,
        TaskCommand::Checkpoint(args) => task_work::checkpoint(session, args).await?,
        TaskCommand::Succeed(args) => task_work::succeed(session, args).await?,
        TaskCommand::Fail(args) => task_work::fail(session, args).await?,
    }
    Ok(0)
}

async fn add(session: &Session, args: AddArgs) -> Result<(), Error> {
    let payload = values::json_with_members(args.payload.as_deref(), &args.members)?;
    let Some(payload) = payload else {
        return Err(Error::Usage("a task needs a payload: give --payload or --set".to_owned()));
    };
    let request = NewTask {
        reference: args.reference,
        name: args.name,
        payload,
        priority: args.priority,
        deadline: args.deadline,
        postponed_until: args.not_before,
        tags: args.tags,
        comment: args.comment,
        max_attempts: args.max_attempts,
    };
    let call = session.client.post(&[queue::NOUN, &args.queue, NOUN])?.idempotency_key(args.idempotency_key);
    let answer = call.json(&request)?.send().await?;
    if !session.out.raw(&answer)? {
        let task: Task = answer.decode()?;
        session.out.line(&task.id.to_string())?;
        note(&format!("Added to {}. Look at it: drover task show {}", args.queue, task.id));
    }
    Ok(())
}

async fn show_list(session: &Session, filter: &FilterArgs, args: &ListArgs) -> Result<(), Error> {
    let listed = list::<Task, _>(session, args, |session| Ok(filter.query(session.client.get(&[NOUN])?)));
    let Some(tasks) = listed.await? else { return Ok(()) };
    if tasks.is_empty() {
        return session.out.line("No tasks. Add some: drover task import QUEUE FILE.csv");
    }
    let rows = tasks.into_iter().map(task_show::row);
    session.out.table(&["ID", "REFERENCE", "STATE", "PRIORITY", "ADDED", "ERROR OR PROGRESS"], rows.collect())
}

async fn update(session: &Session, args: UpdateArgs) -> Result<(), Error> {
    let patch = TaskPatch {
        reference: args.reference.map(Some),
        name: args.name.map(Some),
        priority: args.priority,
        deadline: args.deadline.map(Some),
        tags: (!args.tags.is_empty()).then_some(args.tags),
        comment: args.comment.map(Some),
        payload: values::json_with_members(args.payload.as_deref(), &[])?,
        max_attempts: args.max_attempts.map(Some),
        queue: args.queue,
        ..TaskPatch::default()
    };
    let call = session.client.patch(&[NOUN, &args.task])?.json(&patch)?;
    simple(&session.out, call, &format!("Task {} is changed.", args.task)).await
}

async fn attach(session: &Session, task: &str, file: PathBuf, name: Option<String>) -> Result<(), Error> {
    let name = match name.or_else(|| Some(file.file_name()?.to_str()?.to_owned())) {
        Some(name) => name,
        None => return Err(Error::Usage("the file needs a name: give --name".to_owned())),
    };
    let call = session.client.put(&[NOUN, task, "files", &name])?.file(file, "application/octet-stream");
    simple(&session.out, call, &format!("{name} is attached to task {task}.")).await
}

/// Counts first, asks, and then does it: nobody deletes ten thousand tasks by a slip.
async fn bulk(session: &Session, args: &BulkArgs) -> Result<(), Error> {
    if args.filter.is_empty() {
        return Err(Error::Usage("this would mean all tasks of all queues: name at least --queue".to_owned()));
    }
    let (action, verb) = match args.action {
        ActionArg::Retry => (BulkActionKind::Retry, "tried again"),
        ActionArg::Postpone => (BulkActionKind::Postpone, "postponed"),
        ActionArg::Delete => (BulkActionKind::Delete, "deleted"),
        ActionArg::SetPriority => (BulkActionKind::SetPriority, "given another priority"),
        ActionArg::Move => (BulkActionKind::Move, "handed over"),
    };
    let value = match (args.action, args.value.as_deref()) {
        (ActionArg::Retry | ActionArg::Delete, Some(_)) => {
            return Err(Error::Usage("this action takes no --value".to_owned()));
        }
        (ActionArg::Postpone, Some(text)) => Some(values::moment(text).map_err(Error::Usage)?.to_string().into()),
        (ActionArg::SetPriority, Some(text)) => Some(values::json_or_text(text)),
        (ActionArg::Move, Some(text)) => Some(text.into()),
        (_, None) => None,
    };
    let request = |dry_run| BulkAction { filter: args.filter.filter(), action, value: value.clone(), dry_run };
    if args.dry_run || !args.yes {
        let answer = bulk_call(session, &request(true)).await?;
        if args.dry_run && session.out.raw(&answer)? {
            return Ok(());
        }
        let counted: BulkActionDone = answer.decode()?;
        let text =
            format!("{} of {} matching tasks would be {verb}.{}", counted.changed, counted.matched, not_taken(counted));
        if args.dry_run {
            return session.out.line(&text);
        }
        if counted.changed == 0 {
            return session.out.line(&text);
        }
        if !values::confirmed(&format!("{text} Go on?"))? {
            return Err(Error::Usage(format!("{text} Nothing was done; --yes does it without asking.")));
        }
    }
    let answer = bulk_call(session, &request(false)).await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let done: BulkActionDone = answer.decode()?;
    session.out.line(&format!("{} of {} matching tasks are {verb}.{}", done.changed, done.matched, not_taken(done)))
}

/// What stays where it is although it is in a state to be moved.
fn not_taken(done: BulkActionDone) -> String {
    match done.not_taken {
        0 => String::new(),
        some => {
            format!(" The queue does not take {some}: their payload does not fit, or their reference is taken there.")
        }
    }
}

async fn bulk_call(session: &Session, request: &BulkAction) -> Result<crate::client::Answer, Error> {
    session.client.post(&[NOUN, "bulk-action"])?.json(request)?.long().send().await
}
