//! `drover storage`: folders of files.

use clap::{Args, Subcommand};
use drover_protocol::storage::{NewStorageFolder, StorageFolder, StorageFolderPatch};

use crate::{
    commands::{ListArgs, events, list, simple},
    error::Error,
    output::{Tone, moment, number, size, toned},
    session::Session,
    values::{self, OrNone},
};

#[derive(Subcommand)]
pub enum StorageCommand {
    /// List the folders
    List {
        /// Only those whose name begins so, in the order of their names
        #[arg(long)]
        prefix: Option<String>,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Show a folder
    Show {
        /// Name or id
        folder: String,
    },
    /// Make a folder
    Create(CreateArgs),
    /// Change a folder's settings
    Update(UpdateArgs),
    /// Delete a folder
    Delete {
        /// Name or id
        folder: String,
        /// Delete its files with it
        #[arg(long)]
        files: bool,
    },
    /// Show what happened to a folder
    Events {
        /// Name or id
        folder: String,
        #[command(flatten)]
        list: ListArgs,
    },
}

#[derive(Args)]
pub struct CreateArgs {
    /// Any number of parts, such as accounting/invoices
    name: String,
    #[arg(long, default_value = "")]
    description: String,
    /// Delete files that have not been written for so many days
    #[arg(long, value_name = "DAYS")]
    retention_days: Option<u32>,
    /// How much its files may have together, such as 10GiB
    #[arg(long, value_parser = values::bytes, value_name = "SIZE")]
    quota: Option<u64>,
    /// Let nobody write or delete in it
    #[arg(long)]
    read_only: bool,
}

#[derive(Args)]
pub struct UpdateArgs {
    /// Name or id
    folder: String,
    /// A new name; no file is moved
    #[arg(long)]
    name: Option<String>,
    #[arg(long)]
    description: Option<String>,
    /// Delete files that have not been written for so many days; "none": never
    #[arg(long, value_parser = values::or_none(values::days), value_name = "DAYS|none")]
    retention_days: Option<OrNone<u32>>,
    /// How much its files may have together, such as 10GiB; "none": as much as there is space for
    #[arg(long, value_parser = values::or_none(values::bytes), value_name = "SIZE|none")]
    quota: Option<OrNone<u64>>,
    /// Let nobody write or delete in it, or let them again
    #[arg(long, value_name = "true|false")]
    read_only: Option<bool>,
}

pub const NOUN: &str = "storages";

pub async fn run(session: &Session, command: StorageCommand) -> Result<(), Error> {
    let client = &session.client;
    match command {
        StorageCommand::List { prefix, list } => show_list(session, &list, prefix).await,
        StorageCommand::Show { folder } => show(session, &folder).await,
        StorageCommand::Create(args) => {
            let done = format!("Folder {} is made. Write a file: drover file put {} FILE", args.name, args.name);
            let new = NewStorageFolder {
                name: args.name,
                description: args.description,
                retention_days: args.retention_days,
                quota_bytes: args.quota,
                read_only: args.read_only,
            };
            simple(&session.out, client.post(&[NOUN])?.json(&new)?, &done).await
        }
        StorageCommand::Update(args) => {
            let done = format!("Folder {} is changed.", args.folder);
            let patch = StorageFolderPatch {
                name: args.name,
                description: args.description,
                retention_days: args.retention_days.map(|OrNone(days)| days),
                quota_bytes: args.quota.map(|OrNone(bytes)| bytes),
                read_only: args.read_only,
            };
            simple(&session.out, client.patch(&[NOUN, &args.folder])?.json(&patch)?, &done).await
        }
        StorageCommand::Delete { folder, files } => {
            let done = format!("Folder {folder} is deleted.");
            let call = client.delete(&[NOUN, &folder])?.query_opt("files", files.then_some(true));
            simple(&session.out, call, &done).await
        }
        StorageCommand::Events { folder, list } => events(session, &list, &[NOUN, &folder, "events"]).await,
    }
}

fn days(days: Option<u32>) -> String {
    days.map(|days| format!("{days} days")).unwrap_or_default()
}

async fn show_list(session: &Session, args: &ListArgs, prefix: Option<String>) -> Result<(), Error> {
    let listed = list::<StorageFolder, _>(session, args, |session| {
        Ok(session.client.get(&[NOUN])?.query_opt("prefix", prefix.as_ref()))
    });
    let Some(folders) = listed.await? else { return Ok(()) };
    if folders.is_empty() {
        return session.out.line("No folders. Make one: drover storage create NAME");
    }
    let rows = folders.into_iter().map(|folder| {
        let quota = folder.quota_bytes.map(size).unwrap_or_default();
        let state = if folder.read_only { toned("read only", Tone::Warning) } else { toned("", Tone::Plain) };
        vec![
            folder.name.into(),
            number(folder.file_count),
            number(size(folder.used_bytes)),
            number(quota),
            days(folder.retention_days).into(),
            state,
            folder.description.into(),
        ]
    });
    session.out.table(&["NAME", "FILES", "USED", "QUOTA", "KEEPS", "", "DESCRIPTION"], rows.collect())
}

async fn show(session: &Session, folder: &str) -> Result<(), Error> {
    let answer = session.client.get(&[NOUN, folder])?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let folder: StorageFolder = answer.decode()?;
    session.out.fields(vec![
        ("id", folder.id.to_string().into()),
        ("name", folder.name.into()),
        ("description", folder.description.into()),
        ("files", folder.file_count.to_string().into()),
        ("used", size(folder.used_bytes).into()),
        ("quota", folder.quota_bytes.map(size).unwrap_or_default().into()),
        ("keeps files", days(folder.retention_days).into()),
        ("read only", if folder.read_only { "yes" } else { "" }.into()),
        ("made", format!("{} by {}", moment(folder.created_at), folder.created_by).into()),
    ])
}
