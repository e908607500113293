//! `drover file`: files of storage folders.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use drover_protocol::{
    problem::Code,
    storage::{FilePage, FileTransfer, Link, LinkVerb, NewLink, StoredFile},
};

use crate::{
    client::Call,
    commands::{ListArgs, list, simple, storage::NOUN},
    error::Error,
    output::{Tone, moment, note, number, size, toned},
    place::{self, is_standard_output},
    session::Session,
    transfer, values,
};

#[derive(Subcommand)]
pub enum FileCommand {
    /// List the files of a folder
    List {
        /// Name or id of the folder; jobs/<id> has the artifacts of a job
        folder: String,
        /// Only those whose path begins so
        #[arg(long, default_value = "")]
        prefix: String,
        /// One level only: what lies deeper as one line for each beginning
        #[arg(long, conflicts_with_all = ["limit", "all", "cursor"])]
        level: bool,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Write a file, or a folder of them with all below it; one that cannot be written holds up no other
    Put(PutArgs),
    /// Read a file
    Get {
        /// Name or id of the folder
        folder: String,
        /// Path of the file in it
        path: String,
        /// Where to put it (default: its name, in the current folder)
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Delete files
    Delete {
        /// Name or id of the folder
        folder: String,
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Move a file to another path or folder; no content is moved
    Move(TransferArgs),
    /// Copy a file; the copy shares the content
    Copy(TransferArgs),
    /// Make an address that opens one file without a key, for a time
    Link {
        /// Name or id of the folder
        folder: String,
        path: String,
        /// What it is good for
        #[arg(long, default_value = "get")]
        verb: Verb,
        /// How long it holds, a week at the most
        #[arg(long, default_value = "1h", value_parser = values::seconds, value_name = "DURATION")]
        expires: u64,
    },
}

#[derive(Args)]
pub struct PutArgs {
    /// Name or id of the folder
    folder: String,
    /// A file, or a folder of files
    #[arg(value_name = "FILE|DIR")]
    source: PathBuf,
    /// Its path in the folder (default: its name; for a folder of files: none, so that what is in it goes to the top)
    path: Option<String>,
    /// Media type (default: by the ending of the path)
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// To be kept beside it (repeatable)
    #[arg(long = "metadata", value_parser = values::pair, value_name = "KEY=VALUE")]
    metadata: Vec<(String, String)>,
}

#[derive(Args)]
pub struct TransferArgs {
    /// Name or id of the folder
    folder: String,
    path: String,
    to_path: String,
    /// Another folder
    #[arg(long, value_name = "FOLDER")]
    to_folder: Option<String>,
    /// Replace what is there
    #[arg(long)]
    replace: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Verb {
    /// Reading it
    Get,
    /// Writing it
    Put,
}

pub async fn run(session: &Session, command: FileCommand) -> Result<(), Error> {
    match command {
        FileCommand::List { folder, prefix, level: true, .. } => show_level(session, &folder, &prefix).await,
        FileCommand::List { folder, prefix, list, .. } => show_list(session, &folder, &prefix, &list).await,
        FileCommand::Put(args) => put(session, args).await,
        FileCommand::Get { folder, path, output } => get(session, &folder, &path, output).await,
        FileCommand::Delete { folder, paths } => {
            for path in paths {
                let call = session.client.delete(&address(&folder, &path))?;
                simple(&session.out, call, &format!("{path} is deleted.")).await?;
            }
            Ok(())
        }
        FileCommand::Move(args) => transfer_to(session, args, "move", "is moved").await,
        FileCommand::Copy(args) => transfer_to(session, args, "copy", "is copied").await,
        FileCommand::Link { folder, path, verb, expires } => link(session, &folder, path, verb, expires).await,
    }
}

/// The parts of the address of a file.
fn address<'a>(folder: &'a str, path: &'a str) -> Vec<&'a str> {
    [NOUN, folder, "files"].into_iter().chain(path.split('/')).collect()
}

fn listing<'a>(session: &'a Session, folder: &str, prefix: &str) -> Result<Call<'a>, Error> {
    let prefix = Some(prefix).filter(|prefix| !prefix.is_empty());
    Ok(session.client.get(&[NOUN, folder, "files"])?.query_opt("prefix", prefix))
}

const HEADER: [&str; 4] = ["PATH", "SIZE", "WRITTEN", "TYPE"];

fn row(file: StoredFile) -> Vec<crate::output::Shown> {
    vec![file.path.into(), number(size(file.size_bytes)), moment(file.modified_at).into(), file.content_type.into()]
}

async fn show_list(session: &Session, folder: &str, prefix: &str, args: &ListArgs) -> Result<(), Error> {
    let (folder, prefix) = (folder.to_owned(), prefix.to_owned());
    let listed = list::<StoredFile, _>(session, args, |session| listing(session, &folder, &prefix));
    let Some(files) = listed.await? else { return Ok(()) };
    if files.is_empty() {
        return session.out.line("No files.");
    }
    session.out.table(&HEADER, files.into_iter().map(row).collect())
}

async fn show_level(session: &Session, folder: &str, prefix: &str) -> Result<(), Error> {
    let mut rows = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let call = listing(session, folder, prefix)?.query("delimiter", "/").query("limit", 1000);
        let answer = call.query_opt("cursor", cursor.as_ref()).send().await?;
        let page: FilePage = answer.decode()?;
        if !session.out.raw(&answer)? {
            let deeper = page.prefixes.unwrap_or_default().into_iter();
            rows.extend(deeper.map(|prefix| vec![toned(prefix, Tone::Dim), "".into(), "".into(), "".into()]));
            rows.extend(page.items.into_iter().map(row));
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    match session.out.is_json() {
        true => Ok(()),
        false => session.out.table(&HEADER, rows),
    }
}

async fn put(session: &Session, args: PutArgs) -> Result<(), Error> {
    if !args.source.is_dir() {
        let name = args.source.file_name().map(|name| name.to_string_lossy().into_owned());
        let path = args.path.clone().or(name);
        let path = path.ok_or_else(|| Error::Usage("say under which path to keep it".to_owned()))?;
        return put_one(session, &args, &args.source, &path).await;
    }
    let files = files_below(&args.source)?;
    // A folder that cannot be one is no fault of its files.
    session.client.put(&address(&args.folder, "file"))?;
    let (all, mut failed) = (files.len(), 0);
    note(&format!("{all} files"));
    for file in files {
        if let Err(error) = put_below(session, &args, &file).await {
            note(&format!("{} is not written: {}", file.display(), error.explain()));
            if !is_of_one_file(&error) {
                return Err(error);
            }
            failed += 1;
        }
    }
    match failed {
        0 => Ok(()),
        _ => Err(Error::NotWritten { failed, all }),
    }
}

/// Whether others may fare better.
fn is_of_one_file(error: &Error) -> bool {
    match error {
        Error::Usage(_) | Error::File { .. } | Error::Damaged { .. } => true,
        Error::Refused(refused) => match refused.problem.code {
            Code::BadRequest | Code::TooLarge => true,
            // Metadata, say, are the same for all.
            Code::Invalid => refused.problem.errors.iter().all(|fault| fault.pointer == "path"),
            _ => false,
        },
        _ => false,
    }
}

/// Writes a file under the path that it has in the source.
async fn put_below(session: &Session, args: &PutArgs, file: &Path) -> Result<(), Error> {
    let below = file.strip_prefix(&args.source).unwrap_or(file);
    let parts: Option<Vec<&str>> = below.iter().map(|part| part.to_str()).collect();
    let parts = parts.ok_or_else(|| Error::Usage("its name is not UTF-8".to_owned()))?;
    let path: Vec<&str> = args.path.as_deref().into_iter().chain(parts).collect();
    put_one(session, args, file, &path.join("/")).await
}

/// All files below a folder, in an order that does not change. Links are not followed: they may lead anywhere.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(Error::file("read", &folder))? {
            let entry = entry.map_err(Error::file("read", &folder))?;
            let kind = entry.file_type().map_err(Error::file("read", entry.path()))?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            } else {
                note(&format!("{} is no file and is left out", entry.path().display()));
            }
        }
    }
    files.sort();
    Ok(files)
}

async fn put_one(session: &Session, args: &PutArgs, source: &Path, path: &str) -> Result<(), Error> {
    let sha256 = transfer::sha256_of(source)?;
    let mut call = session.client.put(&address(&args.folder, path))?;
    for (key, value) in &args.metadata {
        call = call.query("metadata", format!("{key}:{value}"));
    }
    let call = call.upload(source.to_owned(), args.content_type.clone()).sha256(&sha256)?;
    let answer = call.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let file: StoredFile = answer.decode()?;
    if file.sha256 != sha256 {
        return Err(Error::Damaged { what: file.path, expected: sha256, found: file.sha256 });
    }
    session.out.line(&format!("{} is written ({}).", file.path, size(file.size_bytes)))
}

async fn get(session: &Session, folder: &str, path: &str, output: Option<PathBuf>) -> Result<(), Error> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let target = output.unwrap_or_else(|| place::named(name));
    let target = if target.is_dir() && !is_standard_output(&target) { target.join(name) } else { target };
    let address = address(folder, path);
    let downloaded = transfer::download("downloading", || session.client.get(&address), &target, None).await?;
    note(&format!("{} ({}), SHA-256 {}", target.display(), size(downloaded.size_bytes), downloaded.sha256));
    Ok(())
}

async fn transfer_to(session: &Session, args: TransferArgs, verb: &str, done: &str) -> Result<(), Error> {
    let done = format!("{} {done} to {}.", args.path, args.to_path);
    let TransferArgs { folder, path, to_path, to_folder, replace } = args;
    let call = session.client.post(&[NOUN, &folder, verb])?;
    simple(&session.out, call.json(&FileTransfer { path, to_folder, to_path, replace })?, &done).await
}

async fn link(session: &Session, folder: &str, path: String, verb: Verb, expires: u64) -> Result<(), Error> {
    let verb = match verb {
        Verb::Get => LinkVerb::Get,
        Verb::Put => LinkVerb::Put,
    };
    let new = NewLink { path, verb, expires_in_seconds: expires };
    let answer = session.client.post(&[NOUN, folder, "links"])?.json(&new)?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let link: Link = answer.decode()?;
    note(&format!("Whoever has this address can use it until {}:", moment(link.expires_at)));
    session.out.line(&link.url)
}
