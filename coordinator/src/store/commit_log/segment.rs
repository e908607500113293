//! The form of a segment file on disk: a header, then records, then zeros. Reading, and telling a torn end from damage.
//!
//! All numbers are little-endian. Every record lies on a multiple of eight bytes. Its CRC begins with a number drawn
//! for the segment, so that no content that somebody stores can pass for a record.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crc32c::crc32c_append;
use drover_protocol::Timestamp;
use uuid::Uuid;

use crate::store::engine::WriteSet;

pub const HEADER_BYTES: u64 = 64;
pub const RECORD_HEADER_BYTES: usize = 32;

const SEGMENT_MAGIC: &[u8; 8] = b"DRVLOG\x00\x01";
const RECORD_MAGIC: &[u8; 4] = b"DRVc";
/// Stands for the length of a value that is deleted.
const DELETED: u32 = u32::MAX;
const SEARCH_BYTES: usize = 256 * 1024;

/// What stands at the head of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub first_commit: u64,
    pub salt: u32,
    pub store: Uuid,
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[..8].copy_from_slice(SEGMENT_MAGIC);
        bytes[8..16].copy_from_slice(&self.first_commit.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.salt.to_le_bytes());
        bytes[20..36].copy_from_slice(self.store.as_bytes());
        let crc = crc32c_append(0, &bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES as usize]) -> Option<Self> {
        let right = &bytes[..8] == SEGMENT_MAGIC && u32_at(bytes, 60) == crc32c_append(0, &bytes[..60]);
        right.then(|| Self {
            first_commit: u64_at(bytes, 8),
            salt: u32_at(bytes, 16),
            store: Uuid::from_slice(&bytes[20..36]).unwrap_or_default(),
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Bytes that a payload takes with the zeros after it.
fn padded(length: usize) -> usize {
    length.next_multiple_of(8)
}

/// Writes one whole record into the buffer, in place of what was there. `false` if it is too long for a record.
#[must_use]
pub fn encode_record(buffer: &mut Vec<u8>, salt: u32, commit: u64, at: Timestamp, writes: &WriteSet) -> bool {
    buffer.clear();
    buffer.resize(RECORD_HEADER_BYTES, 0);
    for (key, value) in writes {
        let length = value.as_ref().map_or(DELETED, |value| u32::try_from(value.len()).unwrap_or(DELETED));
        buffer.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes());
        buffer.extend_from_slice(&length.to_le_bytes());
        buffer.extend_from_slice(key);
        buffer.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    let payload_bytes = buffer.len() - RECORD_HEADER_BYTES;
    // Above this a length inside could not be told from the sign of a deletion either.
    let Ok(length) = i32::try_from(payload_bytes) else { return false };
    buffer.resize(RECORD_HEADER_BYTES + padded(payload_bytes), 0);
    buffer[..4].copy_from_slice(RECORD_MAGIC);
    buffer[4..8].copy_from_slice(&length.to_le_bytes());
    buffer[8..16].copy_from_slice(&commit.to_le_bytes());
    buffer[16..24].copy_from_slice(&at.millis().to_le_bytes());
    seal(buffer, salt);
    true
}

/// Puts the check sums for a segment with this salt into an encoded record.
pub fn seal(record: &mut [u8], salt: u32) {
    let header_crc = crc32c_append(salt, &record[..24]);
    record[24..28].copy_from_slice(&header_crc.to_le_bytes());
    let crc = record_crc(record, salt);
    record[28..32].copy_from_slice(&crc.to_le_bytes());
}

/// Over all of the record, so that a bit of the header is covered twice; the header has one of its own so that a
/// length is never believed, nor a search led astray, by chance or by somebody's content.
fn record_crc(record: &[u8], salt: u32) -> u32 {
    crc32c_append(crc32c_append(salt, &record[..28]), &record[RECORD_HEADER_BYTES..])
}

fn is_header(bytes: &[u8], salt: u32) -> bool {
    &bytes[..4] == RECORD_MAGIC && u32_at(bytes, 24) == crc32c_append(salt, &bytes[..24])
}

/// A key with its value, or with nothing if it is deleted.
pub type RawWrite<'a> = (&'a [u8], Option<&'a [u8]>);

/// The puts and deletes of a payload. What has passed its CRC was written by [`encode_record`]; anything else is `None`.
pub fn writes_of(payload: &[u8]) -> Option<Vec<RawWrite<'_>>> {
    let mut writes = Vec::new();
    let mut rest = payload;
    while !rest.is_empty() {
        let (lengths, after) = rest.split_at_checked(8)?;
        let (key, after) = after.split_at_checked(u32_at(lengths, 0) as usize)?;
        let value_length = u32_at(lengths, 4);
        if value_length == DELETED {
            writes.push((key, None));
            rest = after;
        } else {
            let (value, after) = after.split_at_checked(value_length as usize)?;
            writes.push((key, Some(value)));
            rest = after;
        }
    }
    Some(writes)
}

/// What a reader finds where a record can be.
#[derive(Debug)]
pub enum Found<'a> {
    Record {
        commit: u64,
        at: Timestamp,
        payload: &'a [u8],
    },
    /// Zeros, or no more room.
    Nothing,
    /// Something that is no record; says what is wrong.
    Bad(&'static str),
}

/// Reads the records of one segment in order.
pub struct SegmentReader {
    pub path: PathBuf,
    pub header: SegmentHeader,
    /// Where the next record is read.
    pub offset: u64,
    pub file_bytes: u64,
    file: io::BufReader<File>,
    record: Vec<u8>,
}

impl SegmentReader {
    /// `None` if the file does not begin with a good header.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        Self::of(path, File::open(path)?)
    }

    pub fn of(path: &Path, mut file: File) -> io::Result<Option<Self>> {
        let file_bytes = file.metadata()?.len();
        let mut header = [0; HEADER_BYTES as usize];
        file.seek(SeekFrom::Start(0))?;
        if file_bytes < HEADER_BYTES {
            return Ok(None);
        }
        file.read_exact(&mut header)?;
        Ok(SegmentHeader::decode(&header).map(|header| Self {
            path: path.to_owned(),
            header,
            offset: HEADER_BYTES,
            file_bytes,
            file: io::BufReader::with_capacity(1024 * 1024, file),
            record: Vec::new(),
        }))
    }

    /// The next record; the reader stays where it is if there is none.
    pub fn read(&mut self) -> io::Result<Found<'_>> {
        let room = self.file_bytes - self.offset;
        if room < RECORD_HEADER_BYTES as u64 {
            return Ok(Found::Nothing);
        }
        self.record.resize(RECORD_HEADER_BYTES, 0);
        self.file.read_exact(&mut self.record)?;
        if self.record.iter().all(|byte| *byte == 0) {
            return Ok(Found::Nothing);
        }
        if !is_header(&self.record, self.header.salt) {
            return Ok(Found::Bad("no good record begins here"));
        }
        let length = u32_at(&self.record, 4) as usize;
        let whole = RECORD_HEADER_BYTES + padded(length);
        if whole as u64 > room {
            return Ok(Found::Bad("the record is longer than its file"));
        }
        self.record.resize(whole, 0);
        self.file.read_exact(&mut self.record[RECORD_HEADER_BYTES..])?;
        if u32_at(&self.record, 28) != record_crc(&self.record, self.header.salt) {
            return Ok(Found::Bad("the check sum of the record is wrong"));
        }
        self.offset += whole as u64;
        Ok(Found::Record {
            commit: u64_at(&self.record, 8),
            at: Timestamp::from_millis(u64_at(&self.record, 16).cast_signed()),
            payload: &self.record[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + length],
        })
    }

    /// Looks behind a place where no record is: the first good record there, and the end of what is not zero.
    pub fn search_behind(&self) -> io::Result<Behind> {
        let file = self.file.get_ref();
        let mut behind = Behind { record: None, end: self.offset };
        let zeros = vec![0; SEARCH_BYTES];
        let mut chunk = vec![0; SEARCH_BYTES];
        let mut at = self.offset;
        while at < self.file_bytes {
            let length = usize::try_from(self.file_bytes - at).unwrap_or(SEARCH_BYTES).min(SEARCH_BYTES);
            let chunk = &mut chunk[..length];
            file.read_exact_at(chunk, at)?;
            if chunk != &zeros[..length] {
                let last = chunk.iter().rposition(|byte| *byte != 0).unwrap_or(0);
                behind.end = at + last as u64 + 1;
                for place in (0..length.saturating_sub(3)).step_by(8) {
                    let offset = at + place as u64;
                    if &chunk[place..place + 4] == RECORD_MAGIC
                        && offset > self.offset
                        && let Some(commit) = self.good_record_at(offset)?
                    {
                        behind.record = Some((offset, commit));
                        return Ok(behind);
                    }
                }
            }
            at += length as u64;
        }
        Ok(behind)
    }

    fn good_record_at(&self, offset: u64) -> io::Result<Option<u64>> {
        let file = self.file.get_ref();
        let room = self.file_bytes - offset;
        if room < RECORD_HEADER_BYTES as u64 {
            return Ok(None);
        }
        let mut record = vec![0; RECORD_HEADER_BYTES];
        file.read_exact_at(&mut record, offset)?;
        let whole = RECORD_HEADER_BYTES + padded(u32_at(&record, 4) as usize);
        if !is_header(&record, self.header.salt) || whole as u64 > room {
            return Ok(None);
        }
        record.resize(whole, 0);
        file.read_exact_at(&mut record, offset)?;
        Ok((u32_at(&record, 28) == record_crc(&record, self.header.salt)).then(|| u64_at(&record, 8)))
    }
}

/// What lies behind the last good record of a segment.
#[derive(Debug)]
pub struct Behind {
    /// Offset and commit number of a good record: what lies before it is damage, not a torn end.
    pub record: Option<(u64, u64)>,
    /// From here on all is zero.
    pub end: u64,
}
