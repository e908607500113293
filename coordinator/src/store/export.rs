//! Exports: all pairs of the store in one compressed file, made while the store goes on.
//!
//! An export is fuzzy: pairs are read page by page, at different moments between two commits, its `start` and its `end`.
//! Putting the log from `start` on over it gives the exact state of any commit from `end` on, since a commit in the log
//! says what each key became, not how it changed.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use crc32c::{crc32c, crc32c_append};
use drover_protocol::Timestamp;
use uuid::Uuid;

use super::{
    disk::{self, create_file, files_with_extension},
    engine::{EngineError, KeyRange, Order, View},
};

/// How the names of exports end.
pub const EXTENSION: &str = "export";

const HEADER_MAGIC: &[u8; 8] = b"DRVEXP\x00\x01";
const FOOTER_MAGIC: &[u8; 8] = b"DRVEND\x00\x01";
const HEADER_BYTES: usize = 36;
const FOOTER_BYTES: usize = 44;
/// Pairs read at once: readers and the writer wait for no more than this.
const PAGE_PAIRS: usize = 128;
const FRAME_BYTES: usize = 1024 * 1024;
/// A frame is as long as its last pair makes it; a pair is far below this.
const LARGEST_FRAME_BYTES: usize = 4 * FRAME_BYTES;
const SYNC_BYTES: usize = 16 * FRAME_BYTES;
const LEVEL: i32 = 1;

/// What an export holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    pub path: PathBuf,
    pub store: Uuid,
    /// The last commit before it was begun.
    pub start: u64,
    /// The last commit before it was ended, with its time: the earliest state that it can give.
    pub end: u64,
    pub end_at: Timestamp,
    pub pairs: u64,
    /// Bytes of all keys and values.
    pub raw_bytes: u64,
}

/// Why an export cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("the export {} is damaged at byte {offset}: {detail}", path.display())]
    Damaged { path: PathBuf, offset: u64, detail: &'static str },
    #[error("reading the export {} failed: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Why an export was not made.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("writing an export failed: {0}")]
    Io(#[from] io::Error),
    #[error("the export that was just written cannot be read back: {0}")]
    Unreadable(#[from] ExportError),
}

/// The number and time of the last commit that a view sees.
pub type Position = (u64, Timestamp);

/// Makes an export of a running store and gives it its name only when it is whole, on disk and has been read back.
pub fn write<'a>(
    folder: &Path,
    store: Uuid,
    view: &dyn Fn() -> Box<dyn View + 'a>,
    position: &dyn Fn() -> Position,
) -> Result<Export, WriteError> {
    let (start, _) = position();
    let temporary = folder.join("export.tmp");
    let written = write_file(&temporary, store, start, view, position).and_then(|()| {
        read(&temporary, &mut |_| Ok(()))?;
        Ok(())
    });
    if let Err(error) = written {
        disk::remove_if_there(&temporary)?;
        return Err(error);
    }
    let path = folder.join(format!("{start:020}.{EXTENSION}"));
    disk::put_in_place(&temporary, &path)?;
    Ok(describe(&path)?)
}

fn write_file<'a>(
    path: &Path,
    store: Uuid,
    start: u64,
    view: &dyn Fn() -> Box<dyn View + 'a>,
    position: &dyn Fn() -> Position,
) -> Result<(), WriteError> {
    let mut file = create_file(path)?;
    file.write_all(&header(store, start))?;
    let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
    let mut rest = everything();
    let (mut pairs, mut raw_bytes, mut unsynced) = (0_u64, 0_u64, 0);
    let mut frame = Vec::with_capacity(FRAME_BYTES * 2);
    loop {
        let page = view().scan(&rest, Order::Ascending, PAGE_PAIRS)?;
        if let Some((last, _)) = page.last() {
            rest = rest.after(last, Order::Ascending);
        }
        for (key, value) in &page {
            push_bytes(&mut frame, key);
            push_bytes(&mut frame, value);
            pairs += 1;
            raw_bytes += (key.len() + value.len()) as u64;
            if frame.len() >= FRAME_BYTES {
                unsynced += write_frame(&mut file, &mut compressor, &mut frame)?;
            }
        }
        if unsynced > SYNC_BYTES {
            file.sync_data()?;
            unsynced = 0;
        }
        if page.len() < PAGE_PAIRS {
            break;
        }
    }
    write_frame(&mut file, &mut compressor, &mut frame)?;
    let (end, end_at) = position();
    file.write_all(&footer(pairs, raw_bytes, end, end_at))?;
    file.sync_all()?;
    Ok(())
}

/// Every key of the product; they begin with letters.
pub fn everything() -> KeyRange {
    KeyRange { start: vec![1], end: vec![0xff; 64] }
}

fn push_bytes(frame: &mut Vec<u8>, bytes: &[u8]) {
    frame.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    frame.extend_from_slice(bytes);
}

fn write_frame(
    file: &mut File,
    compressor: &mut zstd::bulk::Compressor,
    frame: &mut Vec<u8>,
) -> Result<usize, WriteError> {
    if frame.is_empty() {
        return Ok(0);
    }
    let compressed = compressor.compress(frame)?;
    let mut head = [0; 12];
    head[..4].copy_from_slice(&length_bytes(frame.len()));
    head[4..8].copy_from_slice(&length_bytes(compressed.len()));
    let crc = crc32c_append(crc32c(&head[..8]), &compressed);
    head[8..].copy_from_slice(&crc.to_le_bytes());
    file.write_all(&head)?;
    file.write_all(&compressed)?;
    frame.clear();
    Ok(compressed.len())
}

fn length_bytes(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

fn header(store: Uuid, start: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(HEADER_MAGIC);
    bytes[8..24].copy_from_slice(store.as_bytes());
    bytes[24..32].copy_from_slice(&start.to_le_bytes());
    let crc = crc32c(&bytes[..32]);
    bytes[32..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn footer(pairs: u64, raw_bytes: u64, end: u64, end_at: Timestamp) -> [u8; FOOTER_BYTES] {
    let mut bytes = [0; FOOTER_BYTES];
    bytes[..8].copy_from_slice(FOOTER_MAGIC);
    bytes[8..16].copy_from_slice(&pairs.to_le_bytes());
    bytes[16..24].copy_from_slice(&raw_bytes.to_le_bytes());
    bytes[24..32].copy_from_slice(&end.to_le_bytes());
    bytes[32..40].copy_from_slice(&end_at.millis().to_le_bytes());
    let crc = crc32c(&bytes[..40]);
    bytes[40..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// Reads head and foot of an export.
pub fn describe(path: &Path) -> Result<Export, ExportError> {
    let damaged = |offset, detail| ExportError::Damaged { path: path.to_owned(), offset, detail };
    let failed = |source| ExportError::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if length < (HEADER_BYTES + FOOTER_BYTES) as u64 {
        return Err(damaged(length, "it is cut off"));
    }
    let mut head = [0; HEADER_BYTES];
    file.read_exact(&mut head).map_err(failed)?;
    if &head[..8] != HEADER_MAGIC || u32_at(&head, 32) != crc32c(&head[..32]) {
        return Err(damaged(0, "its header is bad"));
    }
    let footer_offset = length - FOOTER_BYTES as u64;
    let mut foot = [0; FOOTER_BYTES];
    file.seek(SeekFrom::Start(footer_offset)).map_err(failed)?;
    file.read_exact(&mut foot).map_err(failed)?;
    if &foot[..8] != FOOTER_MAGIC || u32_at(&foot, 40) != crc32c(&foot[..40]) {
        return Err(damaged(footer_offset, "its end is bad or cut off"));
    }
    Ok(Export {
        path: path.to_owned(),
        store: Uuid::from_slice(&head[8..24]).unwrap_or_default(),
        start: u64_at(&head, 24),
        pairs: u64_at(&foot, 8),
        raw_bytes: u64_at(&foot, 16),
        end: u64_at(&foot, 24),
        end_at: Timestamp::from_millis(u64_at(&foot, 32).cast_signed()),
    })
}

/// The newest export of a folder, by its name.
pub fn newest(folder: &Path) -> Result<Option<Export>, ExportError> {
    let failed = |source| ExportError::Io { path: folder.to_owned(), source };
    let paths = files_with_extension(folder, EXTENSION).map_err(failed)?;
    paths.last().map(|path| describe(path)).transpose()
}

/// A key and its value as they lie in an export.
pub type RawPair<'a> = (&'a [u8], &'a [u8]);

/// Gives all pairs of an export, in order of their keys, a page at a time; `Ok` means that all of it is sound.
pub fn read(path: &Path, apply: &mut dyn FnMut(&[RawPair<'_>]) -> io::Result<()>) -> Result<Export, ExportError> {
    let export = describe(path)?;
    let damaged = |offset, detail| ExportError::Damaged { path: path.to_owned(), offset, detail };
    let failed = |source| ExportError::Io { path: path.to_owned(), source };
    let mut file = BufReader::with_capacity(FRAME_BYTES, File::open(path).map_err(failed)?);
    let end = fs::metadata(path).map_err(failed)?.len() - FOOTER_BYTES as u64;
    let mut offset = HEADER_BYTES as u64;
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    let mut pairs = 0;
    while offset < end {
        let mut head = [0; 12];
        file.read_exact(&mut head).map_err(failed)?;
        let (raw, compressed) = (u32_at(&head, 0) as usize, u32_at(&head, 4) as usize);
        if raw > LARGEST_FRAME_BYTES || compressed > LARGEST_FRAME_BYTES || offset + 12 + compressed as u64 > end {
            return Err(damaged(offset, "a length is wrong"));
        }
        let mut bytes = vec![0; compressed];
        file.read_exact(&mut bytes).map_err(failed)?;
        if u32_at(&head, 8) != crc32c_append(crc32c(&head[..8]), &bytes) {
            return Err(damaged(offset, "a check sum is wrong"));
        }
        let frame = zstd::bulk::decompress(&bytes, raw).map_err(|_| damaged(offset, "it cannot be decompressed"))?;
        let page = pairs_of(&frame).ok_or_else(|| damaged(offset, "a pair is cut off"))?;
        pairs += page.len() as u64;
        apply(&page).map_err(failed)?;
        offset += 12 + compressed as u64;
    }
    if pairs != export.pairs {
        return Err(damaged(end, "pairs are missing"));
    }
    Ok(export)
}

fn pairs_of(frame: &[u8]) -> Option<Vec<RawPair<'_>>> {
    fn bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
        let (length, after) = rest.split_at_checked(4)?;
        let (bytes, after) = after.split_at_checked(u32_at(length, 0) as usize)?;
        *rest = after;
        Some(bytes)
    }
    let mut pairs = Vec::new();
    let mut rest = frame;
    while !rest.is_empty() {
        pairs.push((bytes(&mut rest)?, bytes(&mut rest)?));
    }
    Some(pairs)
}
