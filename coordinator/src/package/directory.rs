//! The structure of a zip: its end, its central directory and the local headers, all of which must tell the same.
//!
//! Unpackers differ in which of them they believe, so a package that lets them differ is refused. Entries must lie one
//! after another from the first byte to the directory: nothing overlaps (as in zip bombs that use the same bytes many
//! times), and nothing hides in between. Content is not looked at here. The format is PKWARE's APPNOTE 6.3.10.

use std::io::{BufReader, Read, Seek, SeekFrom};

use super::{refusal, shown};
use crate::error::{Error, Result};

const END_BYTES: u64 = 22;
const END64_BYTES: u64 = 56;
const LOCATOR64_BYTES: u64 = 20;
const MAX_COMMENT_BYTES: u64 = 0xffff;
/// Names, comments and extra fields of all entries together: what reading the directory costs in memory.
const MAX_DIRECTORY_BYTES: u64 = 16 << 20;

const FLAG_ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;
const FLAG_DESCRIPTOR: u16 = 1 << 3;
const FLAG_UTF8: u16 = 1 << 11;
/// Flags that change how an entry is read. The others are hints about how it was packed.
const FLAGS_THAT_MATTER: u16 = FLAG_ENCRYPTED | FLAG_DESCRIPTOR | FLAG_UTF8;
const METHOD_STORED: u16 = 0;
const METHOD_DEFLATED: u16 = 8;
const EXTRA_ZIP64: u16 = 0x0001;
const EXTRA_UNICODE_NAME: u16 = 0x7075;
const SATURATED: u32 = u32::MAX;

/// An entry as the central directory tells it, and the local header confirms it.
#[derive(Debug)]
pub(super) struct Entry {
    pub name: String,
    pub size_bytes: u64,
    packed_bytes: u64,
    crc32: u32,
    flags: u16,
    method: u16,
    attributes: u32,
    header_at: u64,
}

impl Entry {
    pub(super) fn is_folder(&self) -> bool {
        self.name.ends_with('/')
    }
}

/// The place of the central directory.
#[derive(Clone, Copy)]
struct Directory {
    start: u64,
    end: u64,
    entries: u64,
}

/// Reads the entries in the order of the directory, at most `max_entries`.
pub(super) fn read<R: Read + Seek>(zip: &mut R, max_entries: usize) -> Result<Vec<Entry>> {
    let directory = find_directory(zip)?;
    if directory.entries > max_entries as u64 {
        let count = directory.entries;
        return Err(refusal(format!(
            "the package has {count} entries, and at most {max_entries} are allowed; pack only what is needed \
                 to run, and many small files into one archive"
        )));
    }
    if directory.end - directory.start > MAX_DIRECTORY_BYTES {
        return Err(refusal("the zip's directory is larger than 16 MiB; use shorter names and no comments"));
    }
    let entries = read_entries(zip, &directory)?;
    check_layout(zip, &entries, directory.start)?;
    Ok(entries)
}

fn find_directory<R: Read + Seek>(zip: &mut R) -> Result<Directory> {
    let length = zip.seek(SeekFrom::End(0)).map_err(read_error)?;
    let tail_start = length.saturating_sub(END_BYTES + MAX_COMMENT_BYTES);
    let mut tail = Vec::new();
    zip.seek(SeekFrom::Start(tail_start)).map_err(read_error)?;
    zip.take(END_BYTES + MAX_COMMENT_BYTES).read_to_end(&mut tail).map_err(read_error)?;
    let Some(at) = tail.windows(4).rposition(|bytes| bytes == b"PK\x05\x06") else {
        return Err(refusal(
            "this is not a zip file, or its end is missing; pack the process as a zip and upload all of it",
        ));
    };
    let end_at = tail_start + at as u64;
    let end = &tail[at..];
    if (end.len() as u64) < END_BYTES || end.len() as u64 != END_BYTES + u64::from(u16_at(end, 20)) {
        return Err(refusal("there is data after the end of the zip; pack it again without what was appended"));
    }
    let (disk, directory_disk, entries_here) = (u16_at(end, 4), u16_at(end, 6), u16_at(end, 8));
    let (entries, size, start) = (u16_at(end, 10), u32_at(end, 12), u32_at(end, 16));
    let wide = find_zip64(zip, end_at)?;
    let directory = match wide {
        Some((directory, _)) => directory,
        None => Directory { start: start.into(), end: u64::from(start) + u64::from(size), entries: entries.into() },
    };
    let expected_end = wide.map_or(end_at, |(_, at)| at);
    let agrees = |small: u64, wide: u64, saturated: u64| small == wide || small == saturated;
    if ![disk, directory_disk].iter().all(|disk| matches!(disk, 0 | 0xffff)) || entries_here != entries {
        return Err(refusal("the zip is one part of several; pack it as a single file"));
    }
    if !agrees(entries.into(), directory.entries, 0xffff)
        || !agrees(start.into(), directory.start, SATURATED.into())
        || !agrees(size.into(), directory.end.wrapping_sub(directory.start), SATURATED.into())
    {
        return Err(refusal("the two ends of the zip (zip64 and plain) contradict each other; pack it again"));
    }
    if directory.end != expected_end || directory.start > directory.end {
        return Err(refusal(
            "the zip's directory is not where its end says, so there is data in front of the zip or it is \
                 damaged; pack it again, and not as a self-extracting archive",
        ));
    }
    Ok(directory)
}

/// What the zip64 records say, and where they begin, if there are any.
fn find_zip64<R: Read + Seek>(zip: &mut R, end_at: u64) -> Result<Option<(Directory, u64)>> {
    let Some(locator_at) = end_at.checked_sub(LOCATOR64_BYTES) else { return Ok(None) };
    let locator: [u8; LOCATOR64_BYTES as usize] = read_at(zip, locator_at)?;
    if !locator.starts_with(b"PK\x06\x07") {
        return Ok(None);
    }
    let damaged = || refusal("the zip64 end of the zip is damaged; pack it again");
    let record_at = u64_at(&locator, 8);
    if record_at.checked_add(END64_BYTES).is_none_or(|end| end > locator_at) {
        return Err(damaged());
    }
    let record: [u8; END64_BYTES as usize] = read_at(zip, record_at)?;
    let whole = record_at.checked_add(12).and_then(|at| at.checked_add(u64_at(&record, 4)));
    let (size, start) = (u64_at(&record, 40), u64_at(&record, 48));
    let end = start.checked_add(size);
    let one_disk = u32_at(&record, 16) == 0 && u32_at(&record, 20) == 0 && u64_at(&record, 24) == u64_at(&record, 32);
    match end {
        Some(end) if record.starts_with(b"PK\x06\x06") && whole == Some(locator_at) && one_disk => {
            Ok(Some((Directory { start, end, entries: u64_at(&record, 32) }, record_at)))
        }
        _ => Err(damaged()),
    }
}

fn read_entries<R: Read + Seek>(zip: &mut R, directory: &Directory) -> Result<Vec<Entry>> {
    let length = directory.end - directory.start;
    zip.seek(SeekFrom::Start(directory.start)).map_err(read_error)?;
    let mut reader = BufReader::new(zip.take(length));
    let mut entries = Vec::new();
    let mut used = 0;
    for number in 1..=directory.entries {
        let (entry, size) = read_entry(&mut reader, number)?;
        used += size;
        entries.push(entry);
    }
    if used != length {
        return Err(refusal("the zip's directory has more in it than its entries; pack it again"));
    }
    Ok(entries)
}

/// One record of the directory, and its size.
fn read_entry(reader: &mut impl Read, number: u64) -> Result<(Entry, u64)> {
    let mut fixed = [0; 46];
    reader.read_exact(&mut fixed).map_err(read_error)?;
    if !fixed.starts_with(b"PK\x01\x02") {
        return Err(refusal(format!("entry {number} of the zip's directory is damaged; pack it again")));
    }
    let name = read_bytes(reader, u16_at(&fixed, 28))?;
    let extra = read_bytes(reader, u16_at(&fixed, 30))?;
    let comment = read_bytes(reader, u16_at(&fixed, 32))?;
    let size = fixed.len() + name.len() + extra.len() + comment.len();
    let flags = u16_at(&fixed, 8);
    let name = read_name(name, &extra, flags, number)?;
    let mut entry = Entry {
        size_bytes: u32_at(&fixed, 24).into(),
        packed_bytes: u32_at(&fixed, 20).into(),
        crc32: u32_at(&fixed, 16),
        flags,
        method: u16_at(&fixed, 10),
        attributes: u32_at(&fixed, 38),
        header_at: u32_at(&fixed, 42).into(),
        name,
    };
    let wide = [&mut entry.size_bytes, &mut entry.packed_bytes, &mut entry.header_at];
    if !widen(wide, &extra) || !matches!(u16_at(&fixed, 34), 0 | 0xffff) {
        return Err(refusal(format!("the sizes of the entry {} are damaged; pack it again", shown(&entry.name))));
    }
    check_kind(&entry)?;
    Ok((entry, size as u64))
}

/// Names are UTF-8 and marked as such. An unpacker may prefer the name in the extra field, so it must be the same.
fn read_name(name: Vec<u8>, extra: &[u8], flags: u16, number: u64) -> Result<String> {
    let utf8 = "pack it again with a tool that writes and marks UTF-8 names, such as `drover process publish` \
         or `python3 -m zipfile -c`";
    let Ok(name) = String::from_utf8(name) else {
        return Err(refusal(format!("the name of entry {number} is not UTF-8; {utf8}")));
    };
    let second = extra_field(extra, EXTRA_UNICODE_NAME);
    if second.is_some_and(|field| field.get(5..) != Some(name.as_bytes())) {
        let name = shown(&name);
        return Err(refusal(format!("the entry {name} has a second, different name; pack it again with another tool")));
    }
    if flags & FLAG_UTF8 == 0 && second.is_none() && !name.is_ascii() {
        return Err(refusal(format!("the name of the entry {} is not marked as UTF-8; {utf8}", shown(&name))));
    }
    Ok(name)
}

fn check_kind(entry: &Entry) -> Result<()> {
    let refuse = |reason: &str| Err(refusal(format!("the entry {} {reason}", shown(&entry.name))));
    if entry.flags & FLAG_ENCRYPTED != 0 {
        return refuse("is encrypted; pack it without a password, and keep secrets as resources");
    }
    if !matches!(entry.method, METHOD_STORED | METHOD_DEFLATED) {
        let method = entry.method;
        return refuse(&format!(
            "is packed by method {method}, and only stored (0) and deflate (8) are accepted; pack it again with deflate"
        ));
    }
    // Upper half: the mode of Unix, which tools write whatever system they name. Lower half: attributes of Windows.
    const REPARSE_POINT: u32 = 0x400;
    let (mode, is_folder) = ((entry.attributes >> 16) & 0o170_000, entry.is_folder());
    match mode {
        0o120_000 => return refuse("is a symbolic link; pack the file itself (`zip` without `-y`)"),
        0 | 0o100_000 | 0o040_000 => {}
        _ => return refuse("is a special file (device, pipe or socket); pack only files and folders"),
    }
    if entry.attributes & REPARSE_POINT != 0 && mode == 0 {
        return refuse("is a link of Windows (reparse point); pack the file itself");
    }
    if mode == 0o040_000 && !is_folder {
        return refuse("is a folder by its mode and a file by its name; pack it again");
    }
    if is_folder && entry.size_bytes != 0 {
        return refuse("is a folder with content; pack it again");
    }
    if entry.method == METHOD_STORED && entry.packed_bytes != entry.size_bytes {
        return refuse("is stored, but its two sizes differ; pack it again");
    }
    Ok(())
}

/// Compares the local headers with the directory, and has the entries fill the file up to `end` without a gap.
fn check_layout<R: Read + Seek>(zip: &mut R, entries: &[Entry], end: u64) -> Result<()> {
    let mut in_order: Vec<&Entry> = entries.iter().collect();
    in_order.sort_by_key(|entry| entry.header_at);
    let Some(first) = in_order.first() else {
        return Err(refusal("the package is empty; pack the files of the process"));
    };
    if first.header_at != 0 {
        return Err(refusal(
            "there is data in front of the first entry; pack it again, and not as a self-extracting archive",
        ));
    }
    for (index, entry) in in_order.iter().enumerate() {
        let next = in_order.get(index + 1).map_or(end, |next| next.header_at);
        let content_end = check_local_header(zip, entry)?;
        if content_end.is_none_or(|content_end| content_end > next) {
            let name = shown(&entry.name);
            return Err(refusal(format!(
                "the entry {name} overlaps what comes after it, as in a zip bomb; pack it again"
            )));
        }
        check_gap(zip, entry, content_end.unwrap_or(next), next)?;
    }
    Ok(())
}

/// Gives where the content ends.
fn check_local_header<R: Read + Seek>(zip: &mut R, entry: &Entry) -> Result<Option<u64>> {
    let differs = |what: &str| {
        let name = shown(&entry.name);
        refusal(format!(
            "the entry {name} has another {what} in its own header than in the zip's directory; pack it again"
        ))
    };
    let fixed: [u8; 30] = read_at(zip, entry.header_at)?;
    if !fixed.starts_with(b"PK\x03\x04") {
        return Err(refusal(format!("the header of the entry {} is missing; pack it again", shown(&entry.name))));
    }
    let name = read_bytes(zip, u16_at(&fixed, 26))?;
    let extra = read_bytes(zip, u16_at(&fixed, 28))?;
    let flags = u16_at(&fixed, 6);
    if name != entry.name.as_bytes() {
        return Err(differs("name"));
    }
    if extra_field(&extra, EXTRA_UNICODE_NAME).is_some_and(|field| field.get(5..) != Some(entry.name.as_bytes())) {
        return Err(differs("name"));
    }
    if (flags ^ entry.flags) & FLAGS_THAT_MATTER != 0 || u16_at(&fixed, 8) != entry.method {
        return Err(differs("method"));
    }
    let mut sizes = [u64::from(u32_at(&fixed, 22)), u64::from(u32_at(&fixed, 18))];
    let [size_bytes, packed_bytes] = &mut sizes;
    let told = widen([size_bytes, packed_bytes], &extra);
    // With a descriptor behind the content, whoever wrote the header did not know yet.
    let later = flags & FLAG_DESCRIPTOR != 0;
    let same = |here: u64, there: u64| here == there || later && (here == 0 || here == u64::from(SATURATED));
    if !(told || later) || !same(sizes[0], entry.size_bytes) || !same(sizes[1], entry.packed_bytes) {
        return Err(differs("size"));
    }
    if !same(u32_at(&fixed, 14).into(), entry.crc32.into()) {
        return Err(differs("checksum"));
    }
    let header_bytes = (fixed.len() + name.len() + extra.len()) as u64;
    Ok(entry.header_at.checked_add(header_bytes).and_then(|start| start.checked_add(entry.packed_bytes)))
}

/// Between an entry and the next there is nothing, or the descriptor that its header announced.
fn check_gap<R: Read + Seek>(zip: &mut R, entry: &Entry, start: u64, end: u64) -> Result<()> {
    const LONGEST: u64 = 24;
    if start == end {
        return Ok(());
    }
    if entry.flags & FLAG_DESCRIPTOR != 0 && end - start <= LONGEST {
        zip.seek(SeekFrom::Start(start)).map_err(read_error)?;
        let mut found = Vec::new();
        zip.take(end - start).read_to_end(&mut found).map_err(read_error)?;
        let bare = found.strip_prefix(b"PK\x07\x08").unwrap_or(&found);
        let narrow = bare.len() == 12
            && u64::from(u32_at(bare, 4)) == entry.packed_bytes
            && u64::from(u32_at(bare, 8)) == entry.size_bytes;
        let wide = bare.len() == 20 && u64_at(bare, 4) == entry.packed_bytes && u64_at(bare, 12) == entry.size_bytes;
        if (narrow || wide) && u32_at(bare, 0) == entry.crc32 {
            return Ok(());
        }
    }
    let name = shown(&entry.name);
    Err(refusal(format!(
        "there is something hidden behind the entry {name} that the zip's directory does not list; pack it again"
    )))
}

/// Replaces saturated numbers by those of the zip64 field, in its order; `false` if one is missing there.
fn widen<const N: usize>(numbers: [&mut u64; N], extra: &[u8]) -> bool {
    let mut wide = extra_field(extra, EXTRA_ZIP64).unwrap_or_default();
    for number in numbers {
        if *number == u64::from(SATURATED) {
            let Some((value, rest)) = wide.split_first_chunk::<8>() else { return false };
            *number = u64::from_le_bytes(*value);
            wide = rest;
        }
    }
    true
}

/// The first extra field with this id. Fields that do not add up end the search, as they do for every unpacker.
fn extra_field(mut extra: &[u8], id: u16) -> Option<&[u8]> {
    while extra.len() >= 4 {
        let (found, size) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
        let content = extra.get(4..4 + size)?;
        if found == id {
            return Some(content);
        }
        extra = &extra[4 + size..];
    }
    None
}

fn read_at<const N: usize, R: Read + Seek>(zip: &mut R, at: u64) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    zip.seek(SeekFrom::Start(at)).map_err(read_error)?;
    zip.read_exact(&mut bytes).map_err(read_error)?;
    Ok(bytes)
}

fn read_bytes(reader: &mut impl Read, length: u16) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length.into()];
    reader.read_exact(&mut bytes).map_err(read_error)?;
    Ok(bytes)
}

/// The file ending too early is the package's fault, anything else the disk's.
pub(super) fn read_error(error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => refusal("the zip ends too early; upload all of it"),
        // A seek to where no file can reach.
        std::io::ErrorKind::InvalidInput => refusal("the zip points outside of itself; pack it again"),
        _ => Error::Internal(format!("reading a package: {error}")),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
