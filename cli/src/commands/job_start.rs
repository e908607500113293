//! `drover job start`: starts a job, and with `--follow` stays until its end.

use clap::Args;
use drover_protocol::{
    Timestamp,
    job::{Job, NewJob, Target},
};

use crate::{
    commands::{job::NOUN, job_show, process},
    error::Error,
    follow::{self, Follower, Sink},
    output::note,
    session::Session,
    values,
};

#[derive(Args)]
pub struct StartArgs {
    /// Name or id of the process
    process: String,
    /// Number, label or id of the version (default: the one pinned for the group, else the active one)
    #[arg(long)]
    version: Option<String>,
    /// Run it on this robot
    #[arg(long, value_name = "ROBOT", conflicts_with = "group")]
    on: Option<String>,
    /// Run it on any robot of this group
    #[arg(long, default_value = "all")]
    group: String,
    /// Input as a JSON object, @FILE, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-")]
    input: Option<String>,
    /// One member of the input (repeatable); what reads as JSON is JSON, else it is a text
    #[arg(long = "set", value_parser = values::pair, value_name = "KEY=VALUE")]
    members: Vec<(String, String)>,
    /// 1 low, 2 normal, 3 high
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=3))]
    priority: Option<u8>,
    /// How many equal jobs
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    count: Option<u32>,
    /// Label of the job (repeatable)
    #[arg(long = "label", value_parser = values::pair, value_name = "KEY=VALUE")]
    labels: Vec<(String, String)>,
    /// Longest time of an attempt, for example 1h
    #[arg(long, value_parser = values::seconds, value_name = "DURATION")]
    timeout: Option<u64>,
    /// Not before this time (2026-11-23T18:00) or after this while (2h)
    #[arg(long, value_parser = values::moment, value_name = "TIME")]
    not_before: Option<Timestamp>,
    /// Ask it to stop at this time
    #[arg(long, value_parser = values::moment, value_name = "TIME")]
    stop_after: Option<Timestamp>,
    /// Abort it at this time
    #[arg(long, value_parser = values::moment, value_name = "TIME")]
    abort_after: Option<Timestamp>,
    /// Show its log as it is written, and end with its outcome. Ctrl-C stops the job, twice aborts it, three times leaves
    #[arg(long, short, conflicts_with = "count")]
    follow: bool,
    /// Starts nothing again if the same was started under this key within 24 hours (default: a new key)
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

pub async fn start(session: &Session, args: StartArgs) -> Result<u8, Error> {
    let target = match args.on {
        Some(robot) => Target { robot: Some(robot), group: None },
        None => Target { robot: None, group: Some(args.group) },
    };
    let place = in_words(&target);
    let request = NewJob {
        process: args.process,
        version: args.version,
        target,
        input: values::job_input(args.input.as_deref(), &args.members)?,
        priority: args.priority,
        count: args.count.filter(|count| *count > 1),
        not_before: args.not_before,
        stop_after: args.stop_after,
        abort_after: args.abort_after,
        timeout_seconds: args.timeout,
        labels: values::pairs(&args.labels)?,
    };
    let call = session.client.post(&[NOUN])?.idempotency_key(args.idempotency_key).json(&request)?;
    let answer = call.send().await?;
    if request.count.is_some() {
        return started_many(session, &answer);
    }
    if !args.follow {
        if !session.out.raw(&answer)? {
            let job: Job = answer.decode()?;
            session.out.line(&job.id.to_string())?;
            note(&format!("Started {} {place}. Watch it: drover job logs --follow {}", process::of_job(&job), job.id));
        }
        return Ok(0);
    }
    let job: Job = answer.decode()?;
    let left = follow::interrupts(session.client.clone(), job.id.to_string());
    note(&format!("Started job {} of {} {place}. Ctrl-C asks it to stop.", job.id, process::of_job(&job)));
    let id = job.id.to_string();
    // A script that asked for JSON gets the finished job on standard output, and nothing else.
    let sink = if session.out.is_json() { Sink::StandardError } else { Sink::StandardOutput };
    let answer = tokio::select! {
        answer = Follower::new(session, &id, sink).run_to_end() => answer?,
        () = left => return Err(Error::Left),
    };
    let finished: Job = answer.decode()?;
    if !session.out.raw(&answer)? {
        job_show::result(session, &finished).await?;
    }
    Ok(follow::exit_code(&finished))
}

fn started_many(session: &Session, answer: &crate::client::Answer) -> Result<u8, Error> {
    #[derive(serde::Deserialize)]
    struct Many {
        items: Vec<Job>,
    }
    if !session.out.raw(answer)? {
        for job in answer.decode::<Many>()?.items {
            session.out.line(&job.id.to_string())?;
        }
    }
    Ok(0)
}

fn in_words(target: &Target) -> String {
    match (&target.robot, &target.group) {
        (Some(robot), _) => format!("on robot {robot}"),
        (None, Some(group)) => format!("for group {group}"),
        (None, None) => String::new(),
    }
}
