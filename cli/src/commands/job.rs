//! `drover job`: its commands. Starting, showing and logs have files of their own.

use clap::{Args, Subcommand, ValueEnum};
use drover_protocol::{
    Timestamp,
    job::{CloseJob, Job, Outcome, StopJob, StopMode},
};

use crate::{
    commands::{ListArgs, events, job_logs, job_show, job_start, list, process, simple},
    error::Error,
    output::{job_state, moment, took},
    session::Session,
    values,
};

#[derive(Subcommand)]
pub enum JobCommand {
    /// Start a job of a process
    Start(job_start::StartArgs),
    /// List jobs, newest first
    List(JobListArgs),
    /// Show a job
    Show {
        /// Id of the job
        job: String,
    },
    /// Ask a job to end in order; it is forced when its grace is over
    Stop {
        /// Id of the job
        job: String,
        /// End the whole process tree at once
        #[arg(long)]
        abort: bool,
    },
    /// Run a finished job again, as a further attempt
    Retry {
        /// Id of the job
        job: String,
    },
    /// End a job whose robot is gone
    Close {
        /// Id of the job
        job: String,
        /// How it is to be counted
        #[arg(long, value_enum)]
        outcome: OutcomeArg,
        /// Why, for whoever looks at it later
        #[arg(long)]
        reason: String,
    },
    /// Say why a job waits, for each robot
    Explain {
        /// Id of the job
        job: String,
    },
    /// Show what happened to a job
    Events {
        /// Id of the job
        job: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Show the attempts of a job, oldest first
    Attempts {
        /// Id of the job
        job: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Show the log of a job
    Logs(job_logs::LogsArgs),
    /// List the files that a job left behind
    Artifacts {
        /// Id of the job
        job: String,
    },
    /// Download the files that a job left behind
    Download(job_show::DownloadArgs),
    /// Delete a finished job with its log and files
    Delete {
        /// Id of the job
        job: String,
    },
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum OutcomeArg {
    Succeeded,
    Failed,
    Stopped,
    Aborted,
    TimedOut,
    Lost,
}

impl From<OutcomeArg> for Outcome {
    fn from(outcome: OutcomeArg) -> Self {
        match outcome {
            OutcomeArg::Succeeded => Self::Succeeded,
            OutcomeArg::Failed => Self::Failed,
            OutcomeArg::Stopped => Self::Stopped,
            OutcomeArg::Aborted => Self::Aborted,
            OutcomeArg::TimedOut => Self::TimedOut,
            OutcomeArg::Lost => Self::Lost,
        }
    }
}

#[derive(Args)]
pub struct JobListArgs {
    /// Only those in this state
    #[arg(long, value_parser = ["waiting", "assigned", "running", "silent", "stopping", "finished"])]
    state: Option<String>,
    /// Only those that ended like this
    #[arg(long, value_enum)]
    outcome: Option<OutcomeArg>,
    /// Only those of this process (name or id)
    #[arg(long)]
    process: Option<String>,
    /// Only those that this robot has or had
    #[arg(long)]
    robot: Option<String>,
    /// Only those that were meant for this group
    #[arg(long)]
    group: Option<String>,
    /// Only those that this trigger started (id)
    #[arg(long)]
    trigger: Option<String>,
    /// Only those started like this
    #[arg(long, value_parser = ["user", "api", "trigger", "retry", "job"])]
    source: Option<String>,
    /// Only those made since this time (2026-11-23T18:00) or in this last while (2h)
    #[arg(long, value_parser = values::past_moment, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Only those made before this time
    #[arg(long, value_parser = values::past_moment, value_name = "TIME")]
    before: Option<Timestamp>,
    /// Only those with this label (repeatable)
    #[arg(long = "label", value_parser = values::pair, value_name = "KEY=VALUE")]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    list: ListArgs,
}

pub const NOUN: &str = "jobs";

pub async fn run(session: &Session, command: JobCommand) -> Result<u8, Error> {
    let client = &session.client;
    match command {
        JobCommand::Start(args) => return job_start::start(session, args).await,
        JobCommand::Logs(args) => return job_logs::logs(session, args).await,
        JobCommand::List(args) => show_list(session, &args).await?,
        JobCommand::Show { job } => job_show::show(session, &job).await?,
        JobCommand::Stop { job, abort } => stop(session, &job, abort).await?,
        JobCommand::Retry { job } => {
            let done = format!("Job {job} runs again. Watch it: drover job logs --follow {job}");
            simple(&session.out, client.post(&[NOUN, &job, "retry"])?, &done).await?;
        }
        JobCommand::Close { job, outcome, reason } => {
            let request = CloseJob { outcome: outcome.into(), reason };
            let done = format!("Job {job} is closed as {}.", request.outcome.as_str());
            simple(&session.out, client.post(&[NOUN, &job, "close"])?.json(&request)?, &done).await?;
        }
        JobCommand::Explain { job } => job_show::explain(session, &job).await?,
        JobCommand::Events { job, list } => events(session, &list, &[NOUN, &job, "events"]).await?,
        JobCommand::Attempts { job, list } => job_show::attempts(session, &list, &job).await?,
        JobCommand::Artifacts { job } => job_show::artifacts(session, &job).await?,
        JobCommand::Download(args) => job_show::download(session, args).await?,
        JobCommand::Delete { job } => {
            simple(&session.out, client.delete(&[NOUN, &job])?, &format!("Job {job} is deleted.")).await?;
        }
    }
    Ok(0)
}

async fn stop(session: &Session, job: &str, abort: bool) -> Result<(), Error> {
    let mode = if abort { StopMode::Abort } else { StopMode::Stop };
    let answer = session.client.post(&[NOUN, job, "stop"])?.json(&StopJob { mode })?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    // A job that no robot has is ended at once.
    let ended = answer.decode::<Job>().ok().and_then(|job| job.outcome);
    session.out.line(&match (ended, mode) {
        (Some(outcome), _) => format!("Job {job} has ended: {}.", outcome.as_str()),
        (None, StopMode::Stop) => format!("Job {job} is asked to stop; it is forced when its grace is over."),
        (None, StopMode::Abort) => format!("Job {job} is being aborted."),
    })
}

async fn show_list(session: &Session, args: &JobListArgs) -> Result<(), Error> {
    let listed = list::<Job, _>(session, &args.list, |session| {
        let mut call = session.client.get(&[NOUN])?;
        for (key, value) in &args.labels {
            call = call.query("label", format!("{key}:{value}"));
        }
        let outcome = args.outcome.map(|outcome| Outcome::from(outcome).as_str());
        Ok(call
            .query_opt("state", args.state.as_ref())
            .query_opt("outcome", outcome)
            .query_opt("process", args.process.as_ref())
            .query_opt("robot", args.robot.as_ref())
            .query_opt("group", args.group.as_ref())
            .query_opt("trigger", args.trigger.as_ref())
            .query_opt("source", args.source.as_ref())
            .query_opt("created_from", args.since)
            .query_opt("created_to", args.before))
    });
    let Some(jobs) = listed.await? else { return Ok(()) };
    if jobs.is_empty() {
        return session.out.line("No jobs. Start one: drover job start PROCESS --follow");
    }
    let rows = jobs.into_iter().map(|job| {
        vec![
            job.id.to_string().into(),
            process::of_job(&job).into(),
            job_state(&job),
            job.robot_name.clone().unwrap_or_default().into(),
            moment(job.created_at).into(),
            took(&job).into(),
        ]
    });
    session.out.table(&["ID", "PROCESS", "STATE", "ROBOT", "MADE", "TOOK"], rows.collect())
}
