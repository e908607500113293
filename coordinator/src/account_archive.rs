//! An account as one file, to be taken to another coordinator: a tar of its records as lines of JSON and of its blobs. What
//! is sealed is sealed anew with a passphrase. Keys are known to their coordinator alone: of these only such go along that
//! people can have revealed; robots join again, and named keys are made again.

use std::{
    collections::HashSet,
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use anyhow::{Context, bail, ensure};
use argon2::Argon2;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use drover_protocol::{AccountId, Timestamp};
use futures::{TryStreamExt, stream::BoxStream};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use crate::{
    clock::{Randomness, SystemClock, SystemRandomness},
    domain::{account::Account, file::File, log::LogBlock, process::ProcessVersion},
    error::Result as StoreResult,
    operations::{account, rotation, transfer},
    secrets::Secrets,
    store::{
        Db, Scan,
        blob::{BlobName, Blobs},
        document::Slot,
        embedded::{Embedded, Settings},
        engine::Pair,
        key::{Key, Kind, SYSTEM_ACCOUNT},
    },
};

const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
const RECORDS: &str = "records/";
const BLOBS: &str = "blobs/";
const END: &str = "end.json";
const PAGE: usize = 300;
/// Lines are gathered into entries of about this size.
const ENTRY_BYTES: usize = 4 * 1024 * 1024;
/// The largest entry of lines that is read.
const MAX_ENTRY_BYTES: u64 = 64 * 1024 * 1024;
/// Kind and account.
const HEAD_BYTES: usize = 2 + 16;
/// Of the coordinator and not of the account, or worth nothing elsewhere.
const LEFT_OUT: &[Kind] = &[
    Kind::Account,
    Kind::KeyByHash,
    Kind::JoinTokenByHash,
    Kind::HookByHash,
    Kind::JoinToken,
    Kind::Idempotency,
    Kind::IdempotencyByExpiry,
    Kind::LogArrival,
    Kind::Garbage,
    Kind::System,
];

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    drover_version: String,
    created_at: Timestamp,
    account: Account,
    /// With it the passphrase becomes a key.
    salt: String,
    /// Tells a wrong passphrase.
    fingerprint: String,
}

#[derive(Serialize, Deserialize)]
struct Line {
    k: String,
    v: String,
}

/// The last entry: an archive without it was cut off.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct End {
    records: u64,
    blobs: u64,
    sha256: String,
}

/// What was taken along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub account: AccountId,
    pub records: u64,
    pub blobs: u64,
}

/// The secrets that a passphrase stands for.
fn secrets_of(passphrase: &str, salt: &[u8]) -> anyhow::Result<Secrets> {
    ensure!(passphrase.chars().count() >= 12, "a passphrase must have at least 12 characters");
    let mut secret = [0; 32];
    Argon2::default()
        .hash_password_into(passphrase.as_bytes(), salt, &mut secret)
        .map_err(|error| anyhow::anyhow!("the passphrase cannot be used: {error}"))?;
    Ok(Secrets::from_bytes(&secret))
}

/// Entries of a tar, digested as they go.
struct Out<W: Write> {
    tar: tar::Builder<W>,
    digest: Sha256,
}

impl<W: Write> Out<W> {
    fn entry(&mut self, name: &str, size_bytes: u64, content: impl Read) -> anyhow::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(size_bytes);
        header.set_mode(0o600);
        self.digest.update(name.as_bytes());
        let content = Digested { content, digest: &mut self.digest };
        Ok(self.tar.append_data(&mut header, name, content)?)
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        self.entry(name, bytes.len() as u64, bytes)
    }
}

struct Digested<'a, R> {
    content: R,
    digest: &'a mut Sha256,
}

impl<R: Read> Read for Digested<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.content.read(buffer)?;
        self.digest.update(&buffer[..count]);
        Ok(count)
    }
}

/// A blob, read piece by piece from a thread that may wait.
struct Pieces {
    handle: Handle,
    stream: BoxStream<'static, StoreResult<Bytes>>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.piece.is_empty() {
            match self.handle.block_on(self.stream.try_next()) {
                Ok(Some(piece)) => self.piece = piece,
                Ok(None) => return Ok(0),
                Err(error) => return Err(std::io::Error::other(error.to_string())),
            }
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

fn hex(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A page of the pairs of an account's kind.
fn page(db: &Db, account: AccountId, kind: Kind, after: Option<&[u8]>) -> StoreResult<Vec<Pair>> {
    db.read(account, |reading| {
        let scan = Scan::of(reading, kind, ());
        let scan = match after {
            Some(after) => scan.after(after),
            None => scan,
        };
        scan.pairs(reading, PAGE)
    })
}

/// Calls `with` for each page of all pairs that go along.
fn each_page(db: &Db, account: AccountId, mut with: impl FnMut(Vec<Pair>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for kind in Kind::ALL.iter().copied().filter(|kind| !LEFT_OUT.contains(kind)) {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let pairs = page(db, account, kind, after.as_deref())?;
            let Some((last, _)) = pairs.last() else { break };
            after = Some(last.clone());
            with(pairs)?;
        }
    }
    Ok(())
}

/// The answer to a repeated call, kept as a document: it is sealed, and nobody can repeat the call elsewhere.
fn is_kept_answer(key: &[u8]) -> bool {
    Kind::of(key) == Some(Kind::Document) && key.get(HEAD_BYTES + 16) == Some(&(Slot::Answer as u8))
}

/// Writes an account of a coordinator that is stopped into a file that is not there yet. Blocks: not for a thread of the
/// runtime. `aside` is a folder for the copy in which secrets are sealed anew, beside the file.
pub fn export(
    handle: &Handle,
    (source, blobs, secrets): (&Db, &Blobs, &Arc<Secrets>),
    name: &str,
    passphrase: &str,
    to: &Path,
) -> anyhow::Result<Taken> {
    let found = source.read(SYSTEM_ACCOUNT, |reading| account::named(reading, name))?;
    let [account] = found.as_slice() else { bail!("there is no one account called {name}; say its id") };
    let mut salt = [0; 16];
    SystemRandomness.fill(&mut salt);
    let own = secrets_of(passphrase, &salt)?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let aside = tempfile::Builder::new().prefix(".drover-export-").tempdir_in(folder)?;
    let engine = Arc::new(Embedded::open(aside.path(), Settings::default())?);
    let copy = Db::new(engine.clone(), Arc::new(SystemClock), Arc::new(SystemRandomness), Box::new(|_| {}));
    copy_and_seal(handle, (source, &copy), account.id, Arc::new(own.with_older(secrets)))?;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    let file = file.with_context(|| format!("{} cannot be made", to.display()))?;
    let written = write_archive(handle, (&copy, blobs), account, (&own, &salt[..]), file);
    if written.is_err() {
        // Half an archive is worth nothing, and would be in the way of the next try.
        std::fs::remove_file(to).ok();
    }
    let (records, blobs) = written?;
    copy.close();
    engine.close().map_err(|error| anyhow::anyhow!("the copy was not closed cleanly: {error}"))?;
    Ok(Taken { account: account.id, records, blobs })
}

/// Writes everything out; how many records and blobs that were.
fn write_archive(
    handle: &Handle,
    (copy, blobs): (&Db, &Blobs),
    account: &Account,
    (own, salt): (&Secrets, &[u8]),
    file: std::fs::File,
) -> anyhow::Result<(u64, u64)> {
    let mut out = Out { tar: tar::Builder::new(std::io::BufWriter::new(file)), digest: Sha256::new() };
    let manifest = Manifest {
        format: FORMAT,
        drover_version: env!("CARGO_PKG_VERSION").to_owned(),
        created_at: copy.now(),
        account: account.clone(),
        salt: STANDARD.encode(salt),
        fingerprint: own.fingerprint_text(),
    };
    out.bytes(MANIFEST, &serde_json::to_vec_pretty(&manifest)?)?;
    let records = write_records(copy, account.id, &mut out)?;
    let names = blob_names(copy, account.id)?;
    for name in &names {
        let (size_bytes, stream) = handle.block_on(blobs.read(name, None))?;
        let content = Pieces { handle: handle.clone(), stream, piece: Bytes::new() };
        out.entry(&format!("{BLOBS}{name}"), size_bytes, content)?;
    }
    let end = End { records, blobs: names.len() as u64, sha256: hex(out.digest.clone()) };
    out.bytes(END, &serde_json::to_vec(&end)?)?;
    let file = out.tar.into_inner()?.into_inner().map_err(|error| error.into_error())?;
    file.sync_all()?;
    Ok((records, end.blobs))
}

fn copy_and_seal(
    handle: &Handle,
    (source, copy): (&Db, &Db),
    account: AccountId,
    secrets: Arc<Secrets>,
) -> anyhow::Result<()> {
    each_page(source, account, |pairs| {
        let kept: Vec<Pair> = pairs.into_iter().filter(|(key, _)| !is_kept_answer(key)).collect();
        let put = copy.write(account, move |tx| kept.into_iter().try_for_each(|(key, value)| tx.put(key, value)));
        Ok(handle.block_on(put)?)
    })?;
    while handle.block_on(copy.write(account, |tx| transfer::drop_unknown_keys_page(tx, PAGE)))? {}
    reseal(handle, copy, account, &secrets)
}

fn reseal(handle: &Handle, db: &Db, account: AccountId, secrets: &Arc<Secrets>) -> anyhow::Result<()> {
    for kind in rotation::SEALED {
        let mut after = None;
        loop {
            let secrets = Arc::clone(secrets);
            let page = db.write(account, move |tx| rotation::reseal_page(tx, kind, &secrets, after, PAGE));
            after = handle.block_on(page)?.1;
            if after.is_none() {
                break;
            }
        }
    }
    Ok(())
}

fn write_records<W: Write>(db: &Db, account: AccountId, out: &mut Out<W>) -> anyhow::Result<u64> {
    let (mut lines, mut entries, mut count) = (Vec::new(), 0, 0);
    each_page(db, account, |pairs| {
        for (key, value) in pairs {
            let bare = [&key[..2], &key[HEAD_BYTES..]].concat();
            let line = Line { k: STANDARD.encode(bare), v: STANDARD.encode(value) };
            serde_json::to_writer(&mut lines, &line)?;
            lines.push(b'\n');
            count += 1;
        }
        if lines.len() >= ENTRY_BYTES {
            entries += 1;
            out.bytes(&format!("{RECORDS}{entries:06}.ndjson"), &std::mem::take(&mut lines))?;
        }
        Ok(())
    })?;
    if !lines.is_empty() {
        out.bytes(&format!("{RECORDS}{:06}.ndjson", entries + 1), &lines)?;
    }
    Ok(count)
}

/// Every blob that the records name, once.
fn blob_names(db: &Db, account: AccountId) -> anyhow::Result<Vec<BlobName>> {
    let mut names = Vec::new();
    let mut seen = HashSet::new();
    for kind in [Kind::ProcessVersion, Kind::File, Kind::LogBlock] {
        let mut scan = db.read(account, |reading| Ok(Scan::of(reading, kind, ())))?;
        loop {
            let (found, last) = db.read(account, |reading| blobs_of(&scan, reading, kind))?;
            names.extend(found.into_iter().filter(|name| seen.insert(name.to_string())));
            match last {
                Some(last) => scan = scan.after(&last),
                None => break,
            }
        }
    }
    Ok(names)
}

fn blobs_of(scan: &Scan, reading: &crate::store::Reader, kind: Kind) -> StoreResult<(Vec<BlobName>, Option<Vec<u8>>)> {
    Ok(match kind {
        Kind::ProcessVersion => {
            let found = scan.records::<ProcessVersion>(reading, PAGE)?;
            let last = found.last().map(|(key, _)| key.clone());
            let names = found.iter().map(|(_, version)| BlobName::package(&version.sha256));
            (names.collect::<StoreResult<_>>()?, last)
        }
        Kind::File => {
            let found = scan.records::<File>(reading, PAGE)?;
            let last = found.last().map(|(key, _)| key.clone());
            (found.iter().map(|(_, file)| BlobName::file(file.content_id())).collect(), last)
        }
        _ => {
            let found = scan.records::<LogBlock>(reading, PAGE)?;
            let last = found.last().map(|(key, _)| key.clone());
            let there = found.iter().filter(|(_, block)| !block.expired);
            (there.map(|(_, block)| BlobName::log(block.blob)).collect(), last)
        }
    })
}

fn open(from: &Path) -> anyhow::Result<tar::Archive<std::io::BufReader<std::fs::File>>> {
    let file = std::fs::File::open(from).with_context(|| format!("{} cannot be read", from.display()))?;
    Ok(tar::Archive::new(std::io::BufReader::new(file)))
}

/// Goes through all of an archive, and gives what it says of itself. One that was cut off or changed is refused.
fn verify(from: &Path) -> anyhow::Result<Manifest> {
    let mut manifest: Option<Manifest> = None;
    let (mut digest, mut records, mut blobs, mut end) = (Sha256::new(), 0, 0, None);
    for entry in open(from)?.entries()? {
        let entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        ensure!(end.is_none(), "the archive goes on after its end");
        if name == END {
            let said: End = serde_json::from_reader(entry)?;
            let found = End { records, blobs, sha256: hex(digest.clone()) };
            ensure!(said == found, "the archive was changed: it says {said:?}, and holds {found:?}");
            end = Some(said);
            continue;
        }
        digest.update(name.as_bytes());
        let mut content = Digested { content: entry, digest: &mut digest };
        if name == MANIFEST {
            manifest = Some(serde_json::from_reader(&mut content).context("the archive's manifest cannot be read")?);
        } else if name.starts_with(RECORDS) {
            let mut lines = Vec::new();
            content.take(MAX_ENTRY_BYTES).read_to_end(&mut lines)?;
            records += lines.iter().filter(|byte| **byte == b'\n').count() as u64;
        } else if name.starts_with(BLOBS) {
            std::io::copy(&mut content, &mut std::io::sink())?;
            blobs += 1;
        } else {
            bail!("the archive holds {name}, which is nothing that belongs there");
        }
    }
    ensure!(end.is_some(), "the archive was cut off: its end is missing");
    let manifest = manifest.context("the archive has no manifest")?;
    ensure!(
        manifest.format == FORMAT,
        "the archive has the form {}, which this version does not read",
        manifest.format
    );
    Ok(manifest)
}

/// Takes an account from an archive into a coordinator that is stopped, under another name if one is given. Blocks as
/// [`export`] does. Interrupted, it can be called again: only at the end does the account exist.
pub fn import(
    handle: &Handle,
    (target, blobs, secrets): (&Db, &Blobs, &Arc<Secrets>),
    from: &Path,
    passphrase: &str,
    name: Option<&str>,
) -> anyhow::Result<Taken> {
    let manifest = verify(from)?;
    let sealed_with = secrets_of(passphrase, &STANDARD.decode(&manifest.salt)?)?;
    ensure!(sealed_with.fingerprint_text() == manifest.fingerprint, "the passphrase is wrong");
    let mut account = manifest.account;
    let id = account.id;
    account.name = name.map_or(account.name, str::to_owned);
    (account.runs_system, account.disabled, account.deleted) = (false, false, false);
    let (is_known, is_here, name_is_taken) = target.read(SYSTEM_ACCOUNT, |reading| {
        let by_id = account::named(reading, &id.to_string())?;
        let by_name = account::named(reading, &account.name)?;
        Ok((account::is_known(reading, id)?, !by_id.is_empty(), !by_name.is_empty()))
    })?;
    ensure!(!is_here, "this very account is here already; delete it first");
    ensure!(
        !is_known,
        "what this account held is still being removed; start the coordinator, and try again when its log says that all of \
         a deleted account was removed"
    );
    ensure!(!name_is_taken, "an account called {} is here already; say --name", account.name);
    // What an import left that did not come to its end, perhaps of another archive.
    while !handle.block_on(target.write(id, move |tx| account::remove_pairs(tx, PAGE)))? {}
    let (mut records, mut count) = (0, 0);
    for entry in open(from)?.entries()? {
        let entry = entry?;
        let entry_name = entry.path()?.to_string_lossy().into_owned();
        if entry_name.starts_with(RECORDS) {
            records += put_records(handle, target, id, entry)?;
        } else if let Some(blob) = entry_name.strip_prefix(BLOBS) {
            let blob = BlobName::parse(blob).with_context(|| format!("{blob} is no name of a blob"))?;
            keep_blob(handle, blobs, &blob, entry)?;
            count += 1;
        }
    }
    reseal(handle, target, id, &Arc::new(secrets.with_older(&sealed_with)))?;
    for know_again in [transfer::know_keys_again_page, transfer::know_triggers_again_page] {
        let mut after = None;
        loop {
            let secrets = Arc::clone(secrets);
            let page = target.write(id, move |tx| know_again(tx, &secrets, after, PAGE));
            after = handle.block_on(page).context("the account's keys and addresses cannot be taken over")?;
            if after.is_none() {
                break;
            }
        }
    }
    handle.block_on(target.write(id, move |tx| account::take_in(tx, &account)))?;
    Ok(Taken { account: id, records, blobs: count })
}

fn put_records(handle: &Handle, target: &Db, account: AccountId, entry: impl Read) -> anyhow::Result<u64> {
    let mut text = String::new();
    entry.take(MAX_ENTRY_BYTES).read_to_string(&mut text)?;
    let mut pairs: Vec<Pair> = Vec::new();
    for line in text.lines() {
        let line: Line = serde_json::from_str(line)?;
        let bare = STANDARD.decode(line.k)?;
        let kind = Kind::of(&bare).filter(|kind| !LEFT_OUT.contains(kind));
        let kind = kind.context("the archive holds a record of a kind that this version does not know")?;
        pairs.push((Key::new(kind, account).with_bytes(&bare[2..]), STANDARD.decode(line.v)?));
    }
    let count = pairs.len() as u64;
    while !pairs.is_empty() {
        let some: Vec<Pair> = pairs.split_off(pairs.len().saturating_sub(PAGE));
        let put = target.write(account, move |tx| some.into_iter().try_for_each(|(key, value)| tx.put(key, value)));
        handle.block_on(put)?;
    }
    Ok(count)
}

fn keep_blob(handle: &Handle, blobs: &Blobs, name: &BlobName, mut entry: impl Read) -> anyhow::Result<()> {
    let mut staging = handle.block_on(blobs.stage(u64::MAX))?;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = entry.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        handle.block_on(staging.write(Bytes::copy_from_slice(&buffer[..count])))?;
    }
    let staged = handle.block_on(staging.finish())?;
    Ok(handle.block_on(blobs.keep(staged, name))?)
}
