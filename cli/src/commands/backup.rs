//! `drover backup`: a backup of the running coordinator as one file.

use std::path::PathBuf;

use clap::Args;

use crate::{error::Error, output::size, session::Session, transfer};

/// The file appears under its name only when it is whole and on the disk. What was there under that name is replaced.
#[derive(Args)]
pub struct BackupArgs {
    /// Where to write it
    file: PathBuf,
}

pub async fn backup(session: &Session, args: BackupArgs) -> Result<(), Error> {
    let call = || session.client.get(&["system", "backup"]);
    let downloaded = transfer::download("backing up", call, &args.file, None).await?;
    let (out, file) = (session.out.about(&args.file), args.file.display().to_string());
    if out.is_json() {
        // The API's answer is the backup itself; this is about the file that was made of it.
        let facts = serde_json::json!({
            "file": file, "size_bytes": downloaded.size_bytes, "sha256": downloaded.sha256,
        });
        return out.line(&facts.to_string());
    }
    out.fields(vec![
        ("backup", file.into()),
        ("size", format!("{} ({} bytes)", size(downloaded.size_bytes), downloaded.size_bytes).into()),
        ("sha256", downloaded.sha256.into()),
    ])
}
