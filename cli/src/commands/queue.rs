//! `drover queue`: named lists of tasks.

use clap::Subcommand;
use drover_protocol::queue::{PauseQueue, Queue, QueueStats};

use crate::{
    commands::{
        ListArgs, events, list,
        pause::in_words,
        queue_settings::{CreateArgs, UpdateArgs},
        simple,
    },
    error::Error,
    output::{Shown, Tone, duration_ms, moment, moment_opt, number, toned},
    session::Session,
    values,
};

#[derive(Subcommand)]
pub enum QueueCommand {
    /// List queues
    List {
        /// Only those whose name holds this text
        #[arg(long, short)]
        query: Option<String>,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Show a queue: its settings and what waits in it
    Show {
        /// Name or id
        queue: String,
    },
    /// Make a queue
    Create(Box<CreateArgs>),
    /// Change the settings of a queue; what is not named stays as it is
    Update(Box<UpdateArgs>),
    /// Delete a queue that has no tasks left
    Delete {
        /// Name or id
        queue: String,
    },
    /// Let no task be taken; those that are held are worked on to their end
    Pause(PauseQueueArgs),
    /// End a pause
    Resume {
        /// Name or id
        queue: String,
    },
    /// Show how many tasks are in each state, how fast they are done and how long the rest takes
    Stats {
        /// Name or id
        queue: String,
    },
    /// Show what happened to a queue
    Events {
        /// Name or id
        queue: String,
        #[command(flatten)]
        list: ListArgs,
    },
}

#[derive(clap::Args)]
pub struct PauseQueueArgs {
    /// Name or id
    queue: String,
    /// Why, for whoever looks at it later
    #[arg(long, default_value = "paused from the command line")]
    reason: String,
    /// End by itself at this time (2026-11-23T18:00) or after this while (2h)
    #[arg(long, value_parser = values::moment, value_name = "TIME")]
    until: Option<drover_protocol::Timestamp>,
}

pub const NOUN: &str = "queues";

pub async fn run(session: &Session, command: QueueCommand) -> Result<(), Error> {
    let client = &session.client;
    match command {
        QueueCommand::List { query, list } => show_list(session, query.as_deref(), &list).await,
        QueueCommand::Show { queue } => show(session, &queue).await,
        QueueCommand::Create(args) => {
            let done = format!("Queue {} is made. Add tasks: drover task import {0} FILE.csv", args.name);
            simple(&session.out, client.post(&[NOUN])?.json(&args.body()?)?, &done).await
        }
        QueueCommand::Update(args) => {
            let done = format!("Queue {} is changed.", args.queue);
            simple(&session.out, client.patch(&[NOUN, &args.queue])?.json(&args.body()?)?, &done).await
        }
        QueueCommand::Delete { queue } => {
            simple(&session.out, client.delete(&[NOUN, &queue])?, &format!("Queue {queue} is deleted.")).await
        }
        QueueCommand::Pause(args) => {
            let until = args.until.map(|until| format!(" until {}", moment(until))).unwrap_or_default();
            let done = format!("Queue {} is paused{until}: no task is taken from it.", args.queue);
            let request = PauseQueue { mode: None, reason: args.reason, until: args.until };
            simple(&session.out, client.post(&[NOUN, &args.queue, "pause"])?.json(&request)?, &done).await
        }
        QueueCommand::Resume { queue } => {
            let done = format!("Tasks of queue {queue} are taken again.");
            simple(&session.out, client.post(&[NOUN, &queue, "resume"])?, &done).await
        }
        QueueCommand::Stats { queue } => stats(session, &queue).await,
        QueueCommand::Events { queue, list } => events(session, &list, &[NOUN, &queue, "events"]).await,
    }
}

async fn show_list(session: &Session, query: Option<&str>, args: &ListArgs) -> Result<(), Error> {
    let listed = list::<Queue, _>(session, args, |session| Ok(session.client.get(&[NOUN])?.query_opt("q", query)));
    let Some(queues) = listed.await? else { return Ok(()) };
    if queues.is_empty() {
        return session.out.line("There are no queues. Make one: drover queue create NAME");
    }
    let rows = queues.into_iter().map(|queue| {
        let state = if queue.paused.is_some() { toned("paused", Tone::Warning) } else { toned("open", Tone::Good) };
        vec![
            queue.name.into(),
            state,
            number(queue.max_attempts),
            moment(queue.created_at).into(),
            queue.description.into(),
        ]
    });
    session.out.table(&["NAME", "STATE", "ATTEMPTS", "MADE", "DESCRIPTION"], rows.collect())
}

async fn show(session: &Session, name: &str) -> Result<(), Error> {
    let answer = session.client.get(&[NOUN, name])?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let queue: Queue = answer.decode()?;
    let id = queue.id.to_string();
    let stats: QueueStats = session.client.get(&[NOUN, &id, "stats"])?.send().await?.decode()?;
    let mut rows = settings_in_words(&queue);
    rows.extend(stats_in_words(&stats));
    session.out.fields(rows)
}

async fn stats(session: &Session, name: &str) -> Result<(), Error> {
    let answer = session.client.get(&[NOUN, name, "stats"])?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    session.out.fields(stats_in_words(&answer.decode::<QueueStats>()?))
}

fn settings_in_words(queue: &Queue) -> Vec<(&'static str, Shown)> {
    let while_of = |seconds: u64| duration_ms(u128::from(seconds) * 1000);
    let retry = &queue.retry;
    let kinds = [
        ("application errors", retry.application),
        ("business errors", retry.business),
        ("abandoned", retry.abandoned),
    ];
    let kinds: Vec<&str> = kinds.into_iter().filter_map(|(name, is_on)| is_on.then_some(name)).collect();
    let tried_again = match queue.max_attempts {
        1 => String::new(),
        _ if kinds.is_empty() => "never".to_owned(),
        _ => format!(
            "after {}; {} × {} each time, at most {}",
            kinds.join(", "),
            while_of(retry.delay_seconds),
            retry.factor,
            while_of(retry.max_delay_seconds)
        ),
    };
    let kept = |days: u32| if days == 0 { "for ever".to_owned() } else { format!("{days} days") };
    let schema = |schema: &Option<serde_json::Value>| if schema.is_some() { "checked by a schema" } else { "" };
    let paused = in_words(queue.paused.as_ref());
    vec![
        ("name", queue.name.clone().into()),
        ("id", queue.id.to_string().into()),
        ("description", queue.description.clone().into()),
        ("paused", toned(paused, Tone::Warning)),
        ("references", if queue.unique_references { "unique" } else { "not unique" }.into()),
        ("attempts", queue.max_attempts.to_string().into()),
        ("tried again", tried_again.into()),
        ("lease", while_of(queue.lease_seconds).into()),
        ("payload", schema(&queue.payload_schema).into()),
        ("output", schema(&queue.output_schema).into()),
        ("to be done within", queue.sla_seconds.map(while_of).unwrap_or_default().into()),
        ("abandoned after", queue.abandon_new_after_seconds.map(while_of).unwrap_or_default().into()),
        ("success goes on to", queue.on_success_queue.map(|id| id.to_string()).unwrap_or_default().into()),
        ("failure goes on to", queue.on_failure_queue.map(|id| id.to_string()).unwrap_or_default().into()),
        ("when its job ends", if queue.settle_with_job { "" } else { "a task stays until its lease ends" }.into()),
        ("done tasks kept", kept(queue.retention.done_days).into()),
        ("failed tasks kept", kept(queue.retention.failed_days).into()),
        ("made", moment(queue.created_at).into()),
    ]
}

fn stats_in_words(stats: &QueueStats) -> Vec<(&'static str, Shown)> {
    let counts = &stats.counts;
    let some = |count: u64, tone: Tone| match count {
        0 => toned("0", Tone::Dim),
        count => toned(count.to_string(), tone),
    };
    let eta = stats.eta_seconds.map(|seconds| duration_ms(u128::from(seconds) * 1000));
    vec![
        ("new", some(counts.new, Tone::Plain)),
        ("in progress", some(counts.in_progress, Tone::Good)),
        ("postponed", some(counts.postponed, Tone::Plain)),
        ("succeeded", some(counts.succeeded, Tone::Good)),
        ("failed", some(counts.failed, Tone::Bad)),
        ("abandoned", some(counts.abandoned, Tone::Bad)),
        ("oldest new", moment_opt(stats.oldest_new_at).into()),
        ("done in the last hour", stats.per_hour.to_string().into()),
        ("the rest takes about", eta.unwrap_or_default().into()),
        ("too late", stats.over_sla.map(|count| some(count, Tone::Bad)).unwrap_or_else(|| "".into())),
    ]
}
