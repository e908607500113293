//! `drover resource`: named values for processes.

use std::{
    io::{self, Read},
    path::PathBuf,
};

use clap::{Args as ClapArgs, Subcommand};
use drover_protocol::{
    Timestamp,
    resource::{
        NewResource, NewResourceValue, Resource, ResourceKind, ResourceOverride, ResourcePatch, ResourceScope,
        ResourceValue, ResourceVersion,
    },
};
use serde_json::{Value, json};

use crate::{
    client::{Answer, Call},
    commands::{ListArgs, events, list, simple},
    error::Error,
    output::{Tone, moment, note, number, toned},
    session::Session,
    transfer, values,
};

const NOUN: &str = "resources";
/// More than the API takes, so that the coordinator says the limit.
const MAX_VALUE_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Subcommand)]
pub enum ResourceCommand {
    /// List the resources
    List {
        /// Only of this kind: text, integer, number, boolean, json, credential, secret or calendar
        #[arg(long, value_parser = kind)]
        kind: Option<ResourceKind>,
        /// Only those with this in their name
        #[arg(long = "name", value_name = "PART")]
        part: Option<String>,
        /// Only what has expired or will within so many days (30 unless a number is given)
        #[arg(long, value_name = "DAYS", num_args = 0..=1, default_missing_value = "true")]
        expiring: Option<String>,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Show a resource and for whom it has values; sealed values are not shown
    Show {
        /// Name or id
        resource: String,
    },
    /// Make a resource; its default value can be given at once
    Create {
        name: String,
        /// text, integer, number, boolean, json, credential, secret or calendar
        #[arg(long, value_parser = kind)]
        kind: ResourceKind,
        #[arg(long, default_value = "")]
        description: String,
        /// When it expires: a time, or after a while such as 90d
        #[arg(long, value_parser = values::moment, value_name = "TIME")]
        expires: Option<Timestamp>,
        /// Jobs whose version declares it may set its value
        #[arg(long)]
        writable_by_jobs: bool,
        #[command(flatten)]
        value: ValueArgs,
        /// Make it without a default value
        #[arg(long)]
        empty: bool,
    },
    /// Change a resource's settings
    Update {
        /// Name or id
        resource: String,
        /// A new name
        #[arg(long)]
        name: Option<String>,
        #[arg(long)]
        description: Option<String>,
        /// When it expires: a time, after a while such as 90d, or never
        #[arg(long, value_parser = moment_or_never, value_name = "TIME")]
        expires: Option<Expiry>,
        #[arg(long, value_name = "TRUE|FALSE")]
        writable_by_jobs: Option<bool>,
    },
    /// Set the value: the default one, or that of a robot or group
    Set {
        /// Name or id
        resource: String,
        #[command(flatten)]
        whom: WhomArgs,
        #[command(flatten)]
        value: ValueArgs,
    },
    /// Print the value as a robot, a group or everybody finds it; that is written into the audit trail if it is sealed
    Get {
        /// Name or id
        resource: String,
        #[command(flatten)]
        whom: WhomArgs,
    },
    /// Remove the value of a robot or group
    Unset {
        /// Name or id
        resource: String,
        #[command(flatten)]
        whom: WhomArgs,
    },
    /// Set the value of a robot or group (the same as set with --robot or --group)
    Override {
        /// Name or id
        resource: String,
        #[command(flatten)]
        whom: WhomArgs,
        #[command(flatten)]
        value: ValueArgs,
    },
    /// Who set its values when
    Versions {
        /// Name or id
        resource: String,
        #[command(flatten)]
        whom: WhomArgs,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Set the holidays of a calendar from an iCalendar file
    ImportCalendar {
        /// Name or id
        resource: String,
        /// The file (.ics)
        file: PathBuf,
        #[command(flatten)]
        whom: WhomArgs,
    },
    /// Print a calendar as iCalendar, or write it to a file
    ExportCalendar {
        /// Name or id
        resource: String,
        /// The file (.ics)
        file: Option<PathBuf>,
        #[command(flatten)]
        whom: WhomArgs,
    },
    /// Show what happened to a resource
    Events {
        /// Name or id
        resource: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Delete a resource with all its values
    Delete {
        /// Name or id
        resource: String,
    },
}

/// For whom a value is meant.
#[derive(ClapArgs)]
pub struct WhomArgs {
    /// Name or id of a robot
    #[arg(long, conflicts_with = "group")]
    robot: Option<String>,
    /// Name or id of a robot group
    #[arg(long)]
    group: Option<String>,
}

impl WhomArgs {
    fn on<'a>(&self, call: Call<'a>) -> Call<'a> {
        call.query_opt("robot", self.robot.as_ref()).query_opt("group", self.group.as_ref())
    }

    fn in_words(&self) -> String {
        match (&self.robot, &self.group) {
            (Some(robot), _) => format!("for robot {robot}"),
            (_, Some(group)) => format!("for group {group}"),
            _ => "by default".to_owned(),
        }
    }
}

/// Sealed values are prompted for, or read from standard input: what stands in arguments is seen by everybody on the host.
#[derive(ClapArgs)]
pub struct ValueArgs {
    /// The value; @FILE reads a file, - standard input. A secret or password is asked for, or read in one of these ways:
    /// the line break at the end of a single line is no part of it, the one at the end of several lines is
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    value: Option<String>,
    /// Username of a credential; the value is its password then, and else an object in JSON with both
    #[arg(long)]
    username: Option<String>,
}

#[derive(Clone, Copy)]
pub struct Expiry(Option<Timestamp>);

fn moment_or_never(text: &str) -> Result<Expiry, String> {
    if text == "never" { Ok(Expiry(None)) } else { values::moment(text).map(|at| Expiry(Some(at))) }
}

fn kind(text: &str) -> Result<ResourceKind, String> {
    serde_json::from_value(Value::from(text)).map_err(|_| {
        format!("\"{text}\" is none of text, integer, number, boolean, json, credential, secret, calendar")
    })
}

fn word(kind: ResourceKind) -> String {
    serde_json::to_value(kind).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The value that is given, in the form of its kind.
fn given(kind: ResourceKind, args: &ValueArgs) -> Result<Value, Error> {
    if args.username.is_some() && kind != ResourceKind::Credential {
        return Err(Error::Usage("--username is for credentials".to_owned()));
    }
    match (kind, args.value.as_deref()) {
        (ResourceKind::Secret | ResourceKind::Credential, Some(text)) if text != "-" && !text.starts_with('@') => {
            Err(Error::Usage(
                "a secret in the arguments is seen by everybody on this host: leave --value out to be asked for it, or \
                 give --value - or --value @FILE"
                    .to_owned(),
            ))
        }
        (ResourceKind::Secret, None) => Ok(values::whole_secret("Secret (it is not shown): ")?.into()),
        (ResourceKind::Secret, Some(text)) => Ok(values::as_secret(&read(text)?).into()),
        (ResourceKind::Credential, text) => credential(args.username.clone(), text),
        (_, None) => Err(Error::Usage("give the --value: the value itself, @FILE, or - for standard input".to_owned())),
        (ResourceKind::Text, Some(text)) => Ok(read(text)?.into()),
        (_, Some(text)) => values::exact_json(read(text)?.trim().as_bytes())
            .map_err(|why| Error::Usage(format!("the value of a resource of the kind {} {why}", word(kind)))),
    }
}

/// A password for the username that is given, or both as JSON.
fn credential(username: Option<String>, text: Option<&str>) -> Result<Value, Error> {
    let password = match (&username, text) {
        (Some(_), Some(text)) => values::as_secret(&read(text)?).to_owned(),
        (Some(_), None) => values::whole_secret("Password (it is not shown): ")?,
        (None, Some(text)) => {
            return serde_json::from_str(&read(text)?).map_err(|_| {
                let remedy = "without --username a credential is read as JSON: {\"username\": …, \"password\": …}";
                Error::Usage(remedy.to_owned())
            });
        }
        (None, None) => return Err(Error::Usage("give the --username of the credential".to_owned())),
    };
    Ok(json!({ "username": username, "password": password }))
}

fn read(text: &str) -> Result<String, Error> {
    let (name, reader): (&str, Box<dyn Read>) = match text.strip_prefix('@') {
        Some(path) => (path, Box::new(std::fs::File::open(path).map_err(Error::file("read", path))?)),
        None if text == "-" => ("standard input", Box::new(io::stdin())),
        None => return Ok(text.to_owned()),
    };
    let mut content = String::new();
    reader.take(MAX_VALUE_BYTES).read_to_string(&mut content).map_err(Error::file("read", name))?;
    Ok(content)
}

pub async fn run(session: &Session, command: ResourceCommand) -> Result<(), Error> {
    let client = &session.client;
    match command {
        ResourceCommand::List { kind, part, expiring, list } => {
            show_list(session, &list, kind.map(word), part, expiring).await
        }
        ResourceCommand::Show { resource } => show(session, &resource).await,
        ResourceCommand::Create { name, kind, description, expires, writable_by_jobs, value, empty } => {
            let value = if empty { None } else { Some(Some(given(kind, &value)?)) };
            let done = format!("Resource {name} is made.");
            let new = NewResource { name, description, kind, value, writable_by_jobs, expires_at: expires };
            simple(&session.out, client.post(&[NOUN])?.json(&new)?, &done).await
        }
        ResourceCommand::Update { resource, name, description, expires, writable_by_jobs } => {
            let expires_at = expires.map(|Expiry(at)| at);
            let patch = ResourcePatch { name, description, writable_by_jobs, expires_at };
            let done = format!("Resource {resource} is changed.");
            simple(&session.out, client.patch(&[NOUN, &resource])?.json(&patch)?, &done).await
        }
        ResourceCommand::Set { resource, whom, value } => set(session, &resource, &whom, &value).await,
        ResourceCommand::Override { resource, whom, value } => {
            path_of(&whom)?;
            set(session, &resource, &whom, &value).await
        }
        ResourceCommand::Get { resource, whom } => get(session, &resource, &whom).await,
        ResourceCommand::Unset { resource, whom } => {
            let (scope, holder) = path_of(&whom)?;
            let done = format!("{resource} has no value {} any more.", whom.in_words());
            simple(&session.out, client.delete(&[NOUN, &resource, "overrides", scope, holder])?, &done).await
        }
        ResourceCommand::Versions { resource, whom, list } => versions(session, &resource, &whom, &list).await,
        ResourceCommand::ImportCalendar { resource, file, whom } => {
            let call = whom.on(client.put(&[NOUN, &resource, "value"])?).file(file, "text/calendar");
            let done = format!("{resource} has the holidays of the file {}.", whom.in_words());
            simple(&session.out, call, &done).await
        }
        ResourceCommand::ExportCalendar { resource, file, whom } => {
            let call = || Ok(whom.on(client.get(&[NOUN, &resource, "value"])?).accept("text/calendar"));
            match file {
                Some(file) => {
                    transfer::download_as("exporting", "text/calendar", call, &file, None).await?;
                    note(&format!("The calendar is in {}.", file.display()));
                    Ok(())
                }
                None => {
                    let answer = call()?.send().await?;
                    session.out.styled_line(String::from_utf8_lossy(&answer.body).trim_end())
                }
            }
        }
        ResourceCommand::Events { resource, list } => events(session, &list, &[NOUN, &resource, "events"]).await,
        ResourceCommand::Delete { resource } => {
            let done = format!("Resource {resource} is deleted.");
            simple(&session.out, client.delete(&[NOUN, &resource])?, &done).await
        }
    }
}

/// The robot or group, which must be named.
fn path_of(whom: &WhomArgs) -> Result<(&'static str, &str), Error> {
    match (&whom.robot, &whom.group) {
        (Some(robot), _) => Ok(("robot", robot)),
        (_, Some(group)) => Ok(("group", group)),
        _ => Err(Error::Usage("name a --robot or a --group".to_owned())),
    }
}

async fn set(session: &Session, resource: &str, whom: &WhomArgs, args: &ValueArgs) -> Result<(), Error> {
    let known: Resource = session.client.get(&[NOUN, resource])?.send().await?.decode()?;
    let new = NewResourceValue { value: given(known.kind, args)? };
    let call = whom.on(session.client.put(&[NOUN, resource, "value"])?).json(&new)?;
    let answer: Answer = call.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let set: ResourceVersion = answer.decode()?;
    session.out.line(&format!("{resource} has a new value {}, version {}.", whom.in_words(), set.version))
}

async fn get(session: &Session, resource: &str, whom: &WhomArgs) -> Result<(), Error> {
    let answer = whom.on(session.client.get(&[NOUN, resource, "value"])?).send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let found: ResourceValue = answer.decode()?;
    match &found.value {
        // As it is, so that a script can take it; on a terminal control characters are made visible.
        Value::String(text) if !session.out.is_terminal() => session.out.styled_line(text),
        Value::String(text) => session.out.line(text),
        value => session.out.line(&value.to_string()),
    }
}

async fn show_list(
    session: &Session,
    args: &ListArgs,
    kind: Option<String>,
    part: Option<String>,
    expiring: Option<String>,
) -> Result<(), Error> {
    let listed = list::<Resource, _>(session, args, |session| {
        let call = session.client.get(&[NOUN])?.query_opt("kind", kind.as_ref());
        Ok(call.query_opt("q", part.as_ref()).query_opt("expiring", expiring.as_ref()))
    });
    let Some(resources) = listed.await? else { return Ok(()) };
    if resources.is_empty() {
        return session.out.line("There are no such resources. Make one: drover resource create NAME --kind KIND");
    }
    let rows = resources.into_iter().map(|resource| {
        let value = value_in_words(resource.sealed, resource.value.as_ref(), resource.size_bytes);
        let expiry = expiry(&resource);
        vec![
            resource.name.into(),
            word(resource.kind).into(),
            value.into(),
            number(resource.override_count),
            expiry,
            resource.description.into(),
        ]
    });
    session.out.table(&["NAME", "KIND", "VALUE", "OVERRIDES", "EXPIRES", "DESCRIPTION"], rows.collect())
}

fn expiry(resource: &Resource) -> crate::output::Shown {
    match (resource.expires_at, resource.expired) {
        (None, _) => "".into(),
        (Some(at), true) => toned(format!("expired {}", moment(at)), Tone::Bad),
        (Some(at), false) => moment(at).into(),
    }
}

fn value_in_words(sealed: bool, value: Option<&Value>, size_bytes: Option<u64>) -> String {
    match (value, size_bytes) {
        (Some(Value::String(text)), _) => text.chars().take(60).collect(),
        (Some(value), _) => value.to_string().chars().take(60).collect(),
        (None, Some(_)) if sealed => "(sealed)".to_owned(),
        (None, Some(bytes)) => format!("({bytes} bytes)"),
        (None, None) => "(none)".to_owned(),
    }
}

async fn show(session: &Session, resource: &str) -> Result<(), Error> {
    let answer = session.client.get(&[NOUN, resource])?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let found: Resource = answer.decode()?;
    let expires = expiry(&found);
    session.out.fields(vec![
        ("name", found.name.into()),
        ("id", found.id.to_string().into()),
        ("description", found.description.into()),
        ("kind", word(found.kind).into()),
        ("value", value_in_words(found.sealed, found.value.as_ref(), found.size_bytes).into()),
        ("expires", expires),
        ("jobs", if found.writable_by_jobs { "may set its value" } else { "read it only" }.into()),
        ("changed", format!("{} by {}", moment(found.updated_at), found.updated_by).into()),
    ])?;
    let overrides = found.overrides.unwrap_or_default();
    if overrides.is_empty() {
        return Ok(());
    }
    session.out.line("")?;
    let row = |one: ResourceOverride| {
        let value = value_in_words(found.sealed, one.value.as_ref(), Some(one.size_bytes));
        let changed = format!("{} by {}", moment(one.updated_at), one.updated_by);
        vec![scope(one.scope, Some(one.scope_name)).into(), value.into(), number(one.version), changed.into()]
    };
    session.out.table(&["FOR", "VALUE", "VERSION", "CHANGED"], overrides.into_iter().map(row).collect())
}

fn scope(scope: ResourceScope, name: Option<String>) -> String {
    let name = name.unwrap_or_default();
    match scope {
        ResourceScope::Default => "everybody".to_owned(),
        ResourceScope::Group => format!("group {name}"),
        ResourceScope::Robot => format!("robot {name}"),
    }
}

async fn versions(session: &Session, resource: &str, whom: &WhomArgs, args: &ListArgs) -> Result<(), Error> {
    let listed = list::<ResourceVersion, _>(session, args, |session| {
        Ok(whom.on(session.client.get(&[NOUN, resource, "versions"])?))
    });
    let Some(versions) = listed.await? else { return Ok(()) };
    let rows = versions.into_iter().map(|version| {
        let value = version.value.as_ref().map_or_else(
            || format!("({} bytes)", version.size_bytes),
            |value| value_in_words(false, Some(value), None),
        );
        let current = if version.current { toned("current", Tone::Good) } else { "".into() };
        vec![
            number(version.version),
            scope(version.scope, version.scope_name).into(),
            current,
            value.into(),
            moment(version.created_at).into(),
            version.created_by.into(),
        ]
    });
    session.out.table(&["VERSION", "FOR", "", "VALUE", "SET", "BY"], rows.collect())
}
