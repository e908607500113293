//! `drover process`: named automations and their versions.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use drover_protocol::{
    job::Job,
    process::{NewProcess, Process, ProcessDefaults, ProcessVersion, VersionState},
};

use crate::{
    commands::{ListArgs, list, publish, simple},
    error::Error,
    output::{Shown, Tone, duration_ms, moment, note, number, size, toned},
    session::Session,
    {transfer, values},
};

#[derive(Subcommand)]
pub enum ProcessCommand {
    /// List processes
    List {
        #[command(flatten)]
        list: ListArgs,
    },
    /// Show a process and its active version
    Show {
        /// Name or id
        process: String,
    },
    /// Make a process without a version; 'publish' makes it too
    Create(NewProcessArgs),
    /// Delete a process
    Delete {
        /// Name or id
        process: String,
    },
    /// Pack a folder, upload it as a new version, and activate it
    Publish(publish::PublishArgs),
    /// List the versions of a process
    Versions {
        /// Name or id
        process: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Make a version the active one; an older one too: that is the roll-back
    Activate {
        /// Name or id
        process: String,
        /// Number, label or id
        version: String,
    },
    /// Download the package of a version
    Download {
        /// Name or id
        process: String,
        /// Number, label or id
        #[arg(default_value = "active")]
        version: String,
        /// Where to (default: PROCESS-NUMBER.zip in this folder)
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
}

#[derive(Args)]
pub struct NewProcessArgs {
    name: String,
    #[arg(long, default_value = "")]
    description: String,
    /// 1 low, 2 normal, 3 high
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=3))]
    priority: Option<u8>,
    /// Longest time of a job, for example 1h
    #[arg(long, value_parser = values::seconds, value_name = "DURATION")]
    timeout: Option<u64>,
    /// Time between a soft stop and the end by force, for example 30s
    #[arg(long, value_parser = values::seconds, value_name = "DURATION")]
    stop_grace: Option<u64>,
    /// Jobs of this process at once in the whole fleet
    #[arg(long)]
    max_parallel: Option<u32>,
}

pub const NOUN: &str = "processes";

pub async fn run(session: &Session, command: ProcessCommand) -> Result<(), Error> {
    let client = &session.client;
    match command {
        ProcessCommand::List { list } => show_list(session, &list).await,
        ProcessCommand::Show { process } => show(session, &process).await,
        ProcessCommand::Create(args) => create(session, args).await,
        ProcessCommand::Delete { process } => {
            let done = format!("Process {process} is deleted.");
            simple(&session.out, client.delete(&[NOUN, &process])?, &done).await
        }
        ProcessCommand::Publish(args) => publish::publish(session, args).await,
        ProcessCommand::Versions { process, list } => versions(session, &process, &list).await,
        ProcessCommand::Activate { process, version } => {
            let call = client.post(&[NOUN, &process, "versions", &version, "activate"])?;
            simple(&session.out, call, &format!("Version {version} of {process} is active.")).await
        }
        ProcessCommand::Download { process, version, output } => download(session, &process, &version, output).await,
    }
}

async fn show_list(session: &Session, args: &ListArgs) -> Result<(), Error> {
    let Some(processes) = list::<Process, _>(session, args, |session| session.client.get(&[NOUN])).await? else {
        return Ok(());
    };
    if processes.is_empty() {
        return session.out.line("There are no processes. Publish one: drover process publish DIR");
    }
    let rows = processes.into_iter().map(|process| {
        let ready = match process.active_version_id {
            Some(_) => toned("ready", Tone::Good),
            None => toned("no active version", Tone::Warning),
        };
        vec![process.name.into(), ready, moment(process.created_at).into(), process.description.into()]
    });
    session.out.table(&["NAME", "STATE", "MADE", "DESCRIPTION"], rows.collect())
}

async fn show(session: &Session, process: &str) -> Result<(), Error> {
    let answer = session.client.get(&[NOUN, process])?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let process: Process = answer.decode()?;
    let id = process.id.to_string();
    let mut rows = vec![
        ("name", process.name.clone().into()),
        ("id", id.clone().into()),
        ("description", process.description.clone().into()),
        ("made", moment(process.created_at).into()),
    ];
    rows.extend(defaults_in_words(&process.defaults));
    if process.active_version_id.is_some() {
        let answer = session.client.get(&[NOUN, &id, "versions", "active"])?.send().await?;
        let version: ProcessVersion = answer.decode()?;
        rows.push(("active version", version_name(version.number, version.label.as_deref()).into()));
        rows.push(("uploaded", format!("{} by {}", moment(version.created_at), version.uploaded_by).into()));
        rows.push(("size", size(version.size_bytes).into()));
        rows.push(("sha256", version.sha256.into()));
        rows.push(("command", version.manifest.run.command.join(" ").into()));
    } else {
        rows.push(("active version", toned("none: publish or activate one", Tone::Warning)));
    }
    session.out.fields(rows)
}

fn defaults_in_words(defaults: &ProcessDefaults) -> Vec<(&'static str, Shown)> {
    let duration = |seconds: Option<u64>| seconds.map(|seconds| duration_ms(u128::from(seconds) * 1000));
    let input = defaults.input.as_ref().and_then(|input| serde_json::to_string(input).ok());
    let retry = defaults.retry.as_ref().filter(|retry| retry.max_attempts > 1);
    vec![
        ("priority", defaults.priority.map(|priority| priority.to_string()).unwrap_or_default().into()),
        ("timeout", duration(defaults.timeout_seconds).unwrap_or_default().into()),
        ("stop grace", duration(defaults.stop_grace_seconds).unwrap_or_default().into()),
        ("jobs at once", defaults.max_parallel.map(|most| most.to_string()).unwrap_or_default().into()),
        ("tries", retry.map(|retry| retry.max_attempts.to_string()).unwrap_or_default().into()),
        ("input", input.unwrap_or_default().into()),
    ]
}

/// `3 (v1.2)`.
pub fn version_name(number: u32, label: Option<&str>) -> String {
    label.map_or_else(|| number.to_string(), |label| format!("{number} ({label})"))
}

async fn create(session: &Session, args: NewProcessArgs) -> Result<(), Error> {
    let defaults = ProcessDefaults {
        priority: args.priority,
        timeout_seconds: args.timeout,
        stop_grace_seconds: args.stop_grace,
        max_parallel: args.max_parallel,
        ..ProcessDefaults::default()
    };
    let done = format!("Process {} is made. Give it a version: drover process publish DIR --name {0}", args.name);
    let request = NewProcess { name: args.name, description: args.description, defaults };
    simple(&session.out, session.client.post(&[NOUN])?.json(&request)?, &done).await
}

async fn versions(session: &Session, process: &str, args: &ListArgs) -> Result<(), Error> {
    let listed = list::<ProcessVersion, _>(session, args, |session| session.client.get(&[NOUN, process, "versions"]));
    let Some(versions) = listed.await? else { return Ok(()) };
    if versions.is_empty() {
        return session.out.line(&format!("{process} has no version. Publish one: drover process publish DIR"));
    }
    let rows = versions.into_iter().map(|version| {
        let state = match (version.active, version.state) {
            (true, _) => toned("active", Tone::Good),
            (false, VersionState::Available) => toned("available", Tone::Plain),
            (false, VersionState::Archived) => toned("archived", Tone::Dim),
        };
        vec![
            version.number.to_string().into(),
            state,
            version.label.unwrap_or_default().into(),
            number(size(version.size_bytes)),
            moment(version.created_at).into(),
            version.uploaded_by.into(),
            version.notes.into(),
        ]
    });
    session.out.table(&["NUMBER", "STATE", "LABEL", "SIZE", "UPLOADED", "BY", "NOTES"], rows.collect())
}

async fn download(session: &Session, process: &str, version: &str, output: Option<PathBuf>) -> Result<(), Error> {
    let path = [NOUN, process, "versions", version];
    let answer = session.client.get(&path)?.send().await?;
    let about: ProcessVersion = answer.decode()?;
    let number = about.number.to_string();
    let target = output.unwrap_or_else(|| PathBuf::from(format!("{}-{number}.zip", safe_file_name(process))));
    // By its number, so that it is the same version even if another one is activated meanwhile.
    let call = || session.client.get(&[NOUN, process, "versions", &number, "package"]);
    transfer::download("downloading", call, &target, Some(&about.sha256)).await?;
    let out = session.out.about(&target);
    if out.raw(&answer)? {
        return Ok(());
    }
    note(&format!("Version {number} of {process}, {}, digest verified.", size(about.size_bytes)));
    out.line(&target.display().to_string())
}

/// A name of a process as a file name.
fn safe_file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' }).collect()
}

/// Process and version of a job in words.
pub fn of_job(job: &Job) -> String {
    format!("{} (version {})", job.process_name, job.version_number)
}
