//! Working on tasks from the shell: take, succeed, fail. The answers are JSON: they are for scripts.

use clap::{Args, ValueEnum};
use drover_protocol::task::{FailTask, SucceedTask, TakeFilter, TakeTasks, TaskErrorKind};

use crate::{
    commands::{queue, simple, task::NOUN},
    error::Error,
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
}

#[derive(Args)]
pub struct SucceedArgs {
    /// Id of the task
    task: String,
    /// "attempt" of the task as it was taken
    #[arg(long)]
    attempt: u32,
    /// Output as JSON, @FILE, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-")]
    output: Option<String>,
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
    #[arg(long)]
    message: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum KindArg {
    Business,
    Application,
}

pub async fn take(session: &Session, args: TakeArgs) -> Result<(), Error> {
    let filter = TakeFilter { reference: args.reference, tags: args.tags, ids: Vec::new() };
    let filter = (filter != TakeFilter::default()).then_some(filter);
    let request = TakeTasks { max: args.max, wait_seconds: args.wait, filter };
    let answer = session.client.post(&[queue::NOUN, &args.queue, "take"])?.json(&request)?.send().await?;
    if !session.out.raw(&answer)? {
        session.out.line(String::from_utf8_lossy(&answer.body).trim_end())?;
    }
    Ok(())
}

pub async fn succeed(session: &Session, args: SucceedArgs) -> Result<(), Error> {
    let output = values::json_with_members(args.output.as_deref(), &[])?;
    let request = SucceedTask { attempt: args.attempt, output, take_next: None };
    let call = session.client.post(&[NOUN, &args.task, "succeed"])?.json(&request)?;
    simple(&session.out, call, &format!("Task {} has succeeded.", args.task)).await
}

pub async fn fail(session: &Session, args: FailArgs) -> Result<(), Error> {
    let kind = match args.kind {
        KindArg::Business => TaskErrorKind::Business,
        KindArg::Application => TaskErrorKind::Application,
    };
    let (attempt, code, message) = (args.attempt, args.code, args.message);
    let request = FailTask { attempt, kind, code, message, output: None, retry: None, take_next: None };
    let call = session.client.post(&[NOUN, &args.task, "fail"])?.json(&request)?;
    simple(&session.out, call, &format!("Task {} has failed.", args.task)).await
}
