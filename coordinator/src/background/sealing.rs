//! Seals logs: moves the lines of ended attempts, and the older lines of long ones, from the store into compressed
//! blocks. The lines of many attempts go into one blob, so that a thousand short jobs make one file and not a thousand.

use drover_protocol::{AccountId, LogBlockId, Timestamp};

use super::{Failures, accounts};
use crate::{
    app::App,
    error::{Error, Result},
    operations::{
        garbage,
        log_sealing::{self, Sealable, Sealed},
    },
    store::{Tx, blob::BlobName, lines},
};

/// Logs that are looked at for one blob.
const MAX_LOGS: usize = 500;
/// A good balance for text that is written once and read seldom.
const COMPRESSION: i32 = 6;
/// So much is compressed in about a millisecond.
const SMALL_BYTES: u64 = 64 * 1024;

/// Seals all that can be sealed now.
pub async fn pass(app: &App) -> Result<()> {
    let mut failures = Failures::default();
    for account in accounts(app)? {
        failures.note(account, pass_of(app, account).await);
    }
    failures.end()
}

async fn pass_of(app: &App, account: AccountId) -> Result<()> {
    loop {
        let runs = app.db.read(account, |reading| log_sealing::sealable(reading, MAX_LOGS))?;
        if runs.is_empty() || app.stopping.is_cancelled() {
            return Ok(());
        }
        seal(app, account, runs).await?;
    }
}

/// Seals each log that has lines from before a time in the store, as far as it has come, whatever else may come soon.
pub async fn seal_older(app: &App, account: AccountId, before: Timestamp) -> Result<()> {
    let mut from = None;
    loop {
        let page = app.db.read(account, |reading| log_sealing::older(reading, before, from.take(), MAX_LOGS))?;
        if !page.runs.is_empty() {
            seal(app, account, page.runs).await?;
        }
        match page.next {
            Some(next) => from = Some(next),
            None => return Ok(()),
        }
    }
}

async fn seal(app: &App, account: AccountId, runs: Vec<Sealable>) -> Result<()> {
    let cap_bytes = app.rules.limits.job_log_bytes;
    let blob = LogBlockId::from_uuid(app.db.new_id());
    keep(app, account, blob, runs, move |tx, sealed| log_sealing::seal(tx, blob, sealed, cap_bytes)).await
}

/// Keeps runs of lines in one blob. It is on disk before `record` refers to it, and before what it takes the place of is
/// deleted.
pub async fn keep(
    app: &App,
    account: AccountId,
    blob: LogBlockId,
    runs: Vec<Sealable>,
    record: impl FnOnce(&mut Tx, &[Sealed]) -> Result<()> + Send + 'static,
) -> Result<()> {
    let name = BlobName::log(blob);
    let (content, sealed) = packed(runs).await?;
    let _arriving = app.blobs.arriving(&name).await;
    let noted = name.to_string();
    app.db.write(account, move |tx| garbage::announce(tx, noted)).await?;
    app.blobs.put(&name, content.into()).await?;
    app.db.write(account, move |tx| record(tx, &sealed)).await
}

/// Compresses runs; many of them on a thread where that holds nobody up.
async fn packed(runs: Vec<Sealable>) -> Result<(Vec<u8>, Vec<Sealed>)> {
    if runs.iter().map(|run| run.bytes).sum::<u64>() < SMALL_BYTES {
        return pack(runs);
    }
    tokio::task::spawn_blocking(move || pack(runs))
        .await
        .unwrap_or_else(|error| Err(Error::Internal(format!("log lines were not packed: {error}"))))
}

fn pack(runs: Vec<Sealable>) -> Result<(Vec<u8>, Vec<Sealed>)> {
    let mut content = Vec::new();
    let mut sealed = Vec::with_capacity(runs.len());
    for run in runs {
        let packed = lines::pack(&run.lines, COMPRESSION)?;
        sealed.push(Sealed { run, offset: content.len() as u64, length: packed.len() as u64 });
        content.extend_from_slice(&packed);
    }
    Ok((content, sealed))
}
