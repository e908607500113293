//! `drover task export`: tasks that a filter matches, streamed into a file or to standard output.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use futures::TryStreamExt;

use crate::{
    commands::{task::NOUN, task_filter::FilterArgs},
    error::Error,
    output::{note, size},
    session::Session,
    transfer,
};

#[derive(Args)]
pub struct ExportArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// File to write (default: standard output)
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Kind of file (default: by the name of the file, else NDJSON)
    #[arg(long, value_enum)]
    format: Option<Format>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One row per task; payload, output and checkpoint as JSON
    Csv,
    /// One JSON object per line
    Ndjson,
}

impl Format {
    /// As the name of a file says it.
    pub fn of_name(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" | "tsv" | "txt" => Some(Self::Csv),
            "ndjson" | "jsonl" | "json" => Some(Self::Ndjson),
            _ => None,
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv",
            Self::Ndjson => "application/x-ndjson",
        }
    }
}

pub async fn export(session: &Session, args: &ExportArgs) -> Result<(), Error> {
    let named = args.output.as_deref().and_then(Format::of_name);
    let media_type = args.format.or(named).unwrap_or(Format::Ndjson).media_type();
    let call = || Ok(args.filter.query(session.client.get(&[NOUN])?));
    let Some(target) = &args.output else { return to_standard_output(session, call()?.accept(media_type)).await };
    let written = transfer::download_as("exporting", media_type, call, target, None).await?;
    note(&format!("{} written.", size(written.size_bytes)));
    session.out.about(target).line(&target.display().to_string())
}

async fn to_standard_output(session: &Session, call: crate::client::Call<'_>) -> Result<(), Error> {
    let response = call.open().await?;
    let server = response.url().origin().ascii_serialization();
    let mut pieces = response.bytes_stream();
    while let Some(piece) = pieces.try_next().await.map_err(|error| transfer::broken_off(&server, &error))? {
        session.out.bytes(&piece)?;
    }
    Ok(())
}
