//! Deleting the lines of all logs from before a time, to the line: what lies in the store yet is sealed first, and blocks
//! in which younger lines lie as well are divided, so that only whole blocks have to go.

use std::sync::Arc;

use drover_protocol::{LogBlockId, Timestamp};

use crate::{
    app::App,
    background::sealing,
    domain::{log::LogBlock, permission::Permission},
    error::Result,
    log_search::{Lines, Packed},
    operations::{
        Caller, log_sealing,
        log_search::{self, BlockScan, SPANS, Whose},
    },
    store::lines,
};

/// Blocks that are looked at together.
const PAGE: usize = 100;

/// Deletes the lines from before a time that had come when this began.
pub async fn delete_older(app: &App, caller: &Caller, before: Timestamp) -> Result<()> {
    caller.require_whole(Permission::LogDelete)?;
    sealing::seal_older(app, caller.account, before).await?;
    let lines = Lines { db: Arc::clone(&app.db), blobs: Arc::clone(&app.blobs), account: caller.account };
    for span in SPANS {
        divide_of_span(app, &lines, before, span).await?;
    }
    loop {
        let asking = caller.clone();
        if app.db.write(caller.account, move |tx| log_search::delete_page(tx, &asking, before)).await? {
            return Ok(());
        }
    }
}

/// Divides the blocks of one span of time that lie across the border.
async fn divide_of_span(app: &App, lines: &Lines, before: Timestamp, span: u8) -> Result<()> {
    let border = u64::try_from(before.millis()).unwrap_or(0);
    let mut scan =
        BlockScan { span, times: (border, border.saturating_add(1 << span)), newest_first: false, after: None };
    loop {
        let found =
            app.db.read(lines.account, |reading| log_search::blocks(reading, &Whose::default(), &scan, PAGE))?;
        let is_last = found.len() < PAGE;
        scan.after = found.last().map(|(key, _)| key.clone());
        for (_, block) in found {
            let mut block = Some(block).filter(|block| block.first_time < before);
            while let Some(whole) = block {
                block = divide(app, lines, before, whole).await?;
            }
        }
        if is_last {
            return Ok(());
        }
    }
}

/// Divides a block; gives what is left of it to be divided.
async fn divide(app: &App, lines: &Lines, before: Timestamp, block: LogBlock) -> Result<Option<LogBlock>> {
    let (job, attempt, last_seq) = (block.job_id, block.attempt, block.last_seq);
    // Whoever has deleted it meanwhile has deleted the older lines too.
    let Packed::Lines { packed, .. } = lines.block(block.clone()).await? else { return Ok(None) };
    let parts = log_sealing::parts(&block, lines::unpack(&packed)?, before);
    // Retention goes by the age of blobs, and the lines are no younger for having been divided.
    let blob = LogBlockId::from_uuid(app.db.id_of_time(block.sealed_at));
    sealing::keep(app, lines.account, blob, parts, move |tx, parts| log_sealing::divide(tx, blob, &block, parts))
        .await?;
    let rest = app.db.read(lines.account, |reading| log_sealing::last_of(reading, job, attempt, last_seq))?;
    Ok(rest.filter(|rest| !rest.expired && rest.first_time < before && rest.last_time >= before))
}
