//! Working on tasks from the shell: take, renew, note how far one is, and end. Tasks that are taken are printed as JSON: they
//! are for scripts.

use clap::{Args, ValueEnum};
use drover_protocol::{
    TaskId, Timestamp,
    job::Progress,
    task::{
        CheckpointTask, CommentTask, FailTask, PostponeTask, RenewTask, SucceedTask, TakeFilter, TakeTasks,
        TaskErrorKind, TaskPatch,
    },
};
use serde::Serialize;

use crate::{
    client::Answer,
    commands::{queue, simple, task::NOUN},
    error::Error,
    output::moment,
    session::Session,
    values,
};

#[derive(Args)]
pub struct TakeArgs {
    /// Name or id of the queue
    queue: String,
    /// How many at the most
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    max: Option<u32>,
    /// Seconds to wait for the first one
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=60), value_name = "SECONDS")]
    wait: Option<u64>,
    /// Only the one with this reference
    #[arg(long)]
    reference: Option<String>,
    /// Only those with this tag, or with a - before it those without (repeatable)
    #[arg(long = "tag", allow_hyphen_values = true)]
    tags: Vec<String>,
    /// Only one of these tasks (repeatable)
    #[arg(long = "id", value_name = "TASK", value_parser = values::id::<TaskId>("task"))]
    ids: Vec<TaskId>,
}

#[derive(Args)]
pub struct RenewArgs {
    /// Id of the task
    task: String,
    /// "attempt" of the task as it was taken
    #[arg(long)]
    attempt: u32,
}

#[derive(Args)]
pub struct CheckpointArgs {
    /// Id of the task
    task: String,
    /// "attempt" of the task as it was taken
    #[arg(long)]
    attempt: u32,
    /// What the next attempt is to have, as JSON, @FILE, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    checkpoint: String,
    /// How much is done, from 0 to 100
    #[arg(long)]
    percent: Option<f32>,
    /// What is being done
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    progress: Option<String>,
}

#[derive(Args)]
pub struct PostponeArgs {
    /// Id of the task
    task: String,
    /// A time (2026-11-23T18:00) or a while from now (2h)
    #[arg(long, value_parser = values::moment, value_name = "TIME")]
    until: Timestamp,
    /// Puts a task back that was taken: its "attempt" as it was taken
    #[arg(long)]
    attempt: Option<u32>,
    /// What the next attempt is to have, as JSON, @FILE, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-", requires = "attempt", allow_hyphen_values = true)]
    checkpoint: Option<String>,
    /// Let the attempt count as one of those that the task may have
    #[arg(long, requires = "attempt")]
    counts: bool,
    /// Take the next task of the queue at once, and print both as JSON
    #[arg(long, requires = "attempt")]
    take_next: bool,
}

#[derive(Args)]
pub struct CommentArgs {
    /// Id of the task
    task: String,
    /// Takes the place of the comment that is there
    comment: String,
    /// Only if it is still this "attempt" of the task
    #[arg(long)]
    attempt: Option<u32>,
}

#[derive(Args)]
pub struct SucceedArgs {
    /// Id of the task
    task: String,
    /// "attempt" of the task as it was taken
    #[arg(long)]
    attempt: u32,
    /// Output as JSON, @FILE, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    output: Option<String>,
    /// Take the next task of the queue at once, and print both as JSON
    #[arg(long)]
    take_next: bool,
}

#[derive(Args)]
pub struct FailArgs {
    /// Id of the task
    task: String,
    /// "attempt" of the task as it was taken
    #[arg(long)]
    attempt: u32,
    /// Whom the error concerns
    #[arg(long, value_enum, default_value_t = KindArg::Application)]
    kind: KindArg,
    /// A word of your own for statistics
    #[arg(long)]
    code: Option<String>,
    /// What went wrong
    #[arg(long, allow_hyphen_values = true)]
    message: String,
    /// Output as JSON, @FILE, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    output: Option<String>,
    /// Whether it is to be tried again (default: as the queue says of this kind)
    #[arg(long, value_name = "true|false")]
    retry: Option<bool>,
    /// Take the next task of the queue at once, and print both as JSON
    #[arg(long)]
    take_next: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum KindArg {
    Business,
    Application,
}

pub async fn take(session: &Session, args: TakeArgs) -> Result<(), Error> {
    let filter = TakeFilter { reference: args.reference, tags: args.tags, ids: args.ids };
    let filter = (filter != TakeFilter::default()).then_some(filter);
    let request = TakeTasks { max: args.max, wait_seconds: args.wait, filter };
    let answer = session.client.post(&[queue::NOUN, &args.queue, "take"])?.json(&request)?.send().await?;
    print(session, &answer)
}

pub async fn renew(session: &Session, args: RenewArgs) -> Result<(), Error> {
    let call = session.client.post(&[NOUN, &args.task, "renew"])?.json(&RenewTask { attempt: args.attempt })?;
    simple(&session.out, call, &format!("Task {} is held for another lease.", args.task)).await
}

pub async fn checkpoint(session: &Session, args: CheckpointArgs) -> Result<(), Error> {
    let checkpoint = values::json_with_members(Some(&args.checkpoint), &[])?.unwrap_or_default();
    let progress = Progress { percent: args.percent, text: args.progress };
    let progress = (progress != Progress::default()).then_some(progress);
    let request = CheckpointTask { attempt: args.attempt, checkpoint, progress };
    let call = session.client.post(&[NOUN, &args.task, "checkpoint"])?.json(&request)?;
    simple(&session.out, call, &format!("How far task {} has got is kept.", args.task)).await
}

pub async fn comment(session: &Session, args: CommentArgs) -> Result<(), Error> {
    let request = CommentTask { attempt: args.attempt, comment: args.comment };
    let call = session.client.post(&[NOUN, &args.task, "comment"])?.json(&request)?;
    simple(&session.out, call, &format!("The comment of task {} is set.", args.task)).await
}

/// Its holder puts a task back with its attempt; people postpone one that waits.
pub async fn postpone(session: &Session, args: PostponeArgs) -> Result<(), Error> {
    let done = format!("Task {} is postponed until {}.", args.task, moment(args.until));
    let Some(attempt) = args.attempt else {
        let patch = TaskPatch { postponed_until: Some(Some(args.until)), ..TaskPatch::default() };
        return simple(&session.out, session.client.patch(&[NOUN, &args.task])?.json(&patch)?, &done).await;
    };
    let request = PostponeTask {
        attempt,
        until: args.until,
        checkpoint: values::json_with_members(args.checkpoint.as_deref(), &[])?,
        attempt_counts: args.counts.then_some(true),
        take_next: args.take_next.then_some(true),
    };
    end(session, &args.task, "postpone", &request, args.take_next, &done).await
}

pub async fn succeed(session: &Session, args: SucceedArgs) -> Result<(), Error> {
    let output = values::json_with_members(args.output.as_deref(), &[])?;
    let request = SucceedTask { attempt: args.attempt, output, take_next: args.take_next.then_some(true) };
    let done = format!("Task {} has succeeded.", args.task);
    end(session, &args.task, "succeed", &request, args.take_next, &done).await
}

pub async fn fail(session: &Session, args: FailArgs) -> Result<(), Error> {
    let kind = match args.kind {
        KindArg::Business => TaskErrorKind::Business,
        KindArg::Application => TaskErrorKind::Application,
    };
    let request = FailTask {
        attempt: args.attempt,
        kind,
        code: args.code,
        message: args.message,
        output: values::json_with_members(args.output.as_deref(), &[])?,
        retry: args.retry,
        take_next: args.take_next.then_some(true),
    };
    let done = format!("Task {} has failed.", args.task);
    end(session, &args.task, "fail", &request, args.take_next, &done).await
}

/// Ends an attempt. The next task, if it was asked for, is printed with this one: whoever asks works on it.
async fn end(
    session: &Session,
    task: &str,
    verb: &str,
    request: &impl Serialize,
    take_next: bool,
    done: &str,
) -> Result<(), Error> {
    let call = session.client.post(&[NOUN, task, verb])?.json(request)?;
    if !take_next {
        return simple(&session.out, call, done).await;
    }
    let answer = call.send().await?;
    print(session, &answer)
}

fn print(session: &Session, answer: &Answer) -> Result<(), Error> {
    match session.out.raw(answer)? {
        true => Ok(()),
        false => session.out.line(String::from_utf8_lossy(&answer.body).trim_end()),
    }
}
