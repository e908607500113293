//! Checks records against the blobs that they name, both ways: every blob is there as long as its record says, and none is
//! there that no record names and no note has for deletion.

use std::collections::{HashMap, HashSet};

use futures::TryStreamExt;

use super::{
    blob::{BlobKind, BlobName, Blobs},
    check::Report,
    engine::{Order, Pair, View},
    export::everything,
    key::Kind,
    table::decode,
};
use crate::{
    domain::{file::File, garbage::Garbage, log::LogBlock, process::ProcessVersion},
    error::Result,
};

const PAGE_PAIRS: usize = 1_000;

/// What records say of blobs.
#[derive(Default)]
struct Named {
    /// Length in bytes: exactly, or at least for blocks of logs.
    needed: HashMap<BlobName, u64>,
    noted: HashSet<String>,
}

/// Adds what is wrong to the report. Holds the names of all blobs in memory.
pub async fn check_blobs(view: &(dyn View + '_), blobs: &Blobs, report: &mut Report) -> Result<()> {
    let named = named(view)?;
    let mut there = HashMap::new();
    for kind in [BlobKind::Package, BlobKind::File, BlobKind::Log] {
        let mut found = blobs.list(kind);
        while let Some(blob) = found.try_next().await? {
            there.insert(blob.name, blob.size_bytes);
        }
    }
    for (name, bytes) in &named.needed {
        match there.get(name) {
            None => report.problem(format!("the blob {name} is missing")),
            Some(found) if found == bytes || (name.kind() == BlobKind::Log && found > bytes) => {}
            Some(found) => report.problem(format!("the blob {name} has {found} bytes instead of {bytes}")),
        }
    }
    for name in there.keys().filter(|name| !named.needed.contains_key(name)) {
        if !named.noted.contains(&name.to_string()) {
            report.problem(format!("no record names the blob {name}"));
        }
    }
    Ok(())
}

fn named(view: &(dyn View + '_)) -> Result<Named> {
    let mut named = Named::default();
    let mut rest = everything();
    loop {
        let page = view.scan(&rest, Order::Ascending, PAGE_PAIRS)?;
        for pair in &page {
            named.read(pair)?;
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE_PAIRS => rest = rest.after(last, Order::Ascending),
            _ => return Ok(named),
        }
    }
}

impl Named {
    fn read(&mut self, (key, value): &Pair) -> Result<()> {
        match Kind::of(key) {
            Some(Kind::ProcessVersion) => {
                let version: ProcessVersion = decode(value)?;
                self.needed.insert(BlobName::package(&version.sha256)?, version.size_bytes);
            }
            Some(Kind::File) => {
                let file: File = decode(value)?;
                self.needed.insert(BlobName::file(file.content_id()), file.size_bytes);
            }
            Some(Kind::LogBlock) => {
                let block: LogBlock = decode(value)?;
                if !block.expired {
                    let end = self.needed.entry(BlobName::log(block.blob)).or_default();
                    *end = (*end).max(block.offset + block.length);
                }
            }
            Some(Kind::Garbage) => {
                let garbage: Garbage = decode(value)?;
                self.noted.insert(garbage.blob);
            }
            _ => {}
        }
        Ok(())
    }
}
