//! `drover process publish`: from a folder to an active version in one step.

use std::path::PathBuf;

use clap::Args;
use drover_protocol::{
    problem::Code,
    process::{NewProcess, ProcessDefaults, ProcessVersion},
};

use crate::{
    commands::process::{NOUN, version_name},
    error::Error,
    output::{note, size},
    package::Package,
    session::Session,
    transfer,
};

/// A folder is packed the same way every time: .git, caches of Python, virtual environments and what .droverignore
/// names (as .gitignore does) are left out. Files and folders from elsewhere that .droverinclude names, one a line, are
/// packed beside the others.
#[derive(Args)]
pub struct PublishArgs {
    /// A folder with process.toml (or main.py, main.sh …), or a zip file of one
    #[arg(value_name = "DIR|ZIP")]
    source: PathBuf,
    /// Name of the process (default: as process.toml says, else the name of the folder); it is made if it is missing
    #[arg(long)]
    name: Option<String>,
    /// For example a semantic version
    #[arg(long)]
    label: Option<String>,
    /// What is new
    #[arg(long, allow_hyphen_values = true)]
    notes: Option<String>,
    /// Make it the active version (this is the default)
    #[arg(long, overrides_with = "no_activate")]
    activate: bool,
    /// Only upload it
    #[arg(long, overrides_with = "activate")]
    no_activate: bool,
}

pub async fn publish(session: &Session, args: PublishArgs) -> Result<(), Error> {
    let package = Package::of(&args.source)?;
    let sha256 = transfer::sha256_of(package.path())?;
    let name = args.name.as_deref().unwrap_or(&package.name);
    make_process_if_missing(session, name, &package.description).await?;
    let answer = session
        .client
        .post(&[NOUN, name, "versions"])?
        .query_opt("label", args.label.as_ref())
        .query_opt("notes", args.notes.as_ref())
        .query("activate", args.activate || !args.no_activate)
        .file(package.path().to_owned(), "application/zip")
        .send()
        .await?;
    let version: ProcessVersion = answer.decode()?;
    if version.sha256 != sha256 {
        let what = format!("the package of version {}", version.number);
        return Err(Error::Damaged { what, expected: sha256, found: version.sha256 });
    }
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let state = if version.active { "active" } else { "not active" };
    session.out.line(&format!(
        "Published {name}, version {}: {} files, {}, {state}.",
        version_name(version.number, version.label.as_deref()),
        package.file_count,
        size(version.size_bytes),
    ))?;
    note(&if version.active {
        format!("Start it: drover job start {name} --follow")
    } else {
        format!("Activate it: drover process activate {name} {}", version.number)
    });
    Ok(())
}

async fn make_process_if_missing(session: &Session, name: &str, description: &str) -> Result<(), Error> {
    match session.client.get(&[NOUN, name])?.send().await {
        Ok(_) => return Ok(()),
        Err(error) if error.code() == Some(Code::NotFound) => {}
        Err(error) => return Err(error),
    }
    let request =
        NewProcess { name: name.to_owned(), description: description.to_owned(), defaults: ProcessDefaults::default() };
    match session.client.post(&[NOUN])?.json(&request)?.send().await {
        Ok(_) => Ok(()),
        // Somebody else was quicker: it is there, which is all that is needed.
        Err(error) if error.code() == Some(Code::AlreadyExists) => Ok(()),
        Err(error) => Err(error),
    }
}
