//! The log of one attempt on disk, between the one who writes it (the supervisor, before and after it the agent) and
//! the agent that sends it.
//!
//! A folder of segments, each named by the number of its first line, so that a line's number follows from where it
//! lies and nothing has to be remembered beside it. A segment holds frames: length, CRC-32C, JSON. What is acknowledged
//! is cut away by deleting whole segments. One writer and one reader at a time; they share nothing but the files.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use drover_protocol::{Timestamp, log::Level};

use crate::{durable, output::Record};

/// A segment is closed when it has grown to this.
const SEGMENT_BYTES: u64 = 1024 * 1024;
const HEADER_BYTES: u64 = 8;
/// No frame is longer: message and fields have limits far below. A longer length is damage.
const MAX_FRAME_BYTES: u32 = 4 * 1024 * 1024;
const SUFFIX: &str = ".spool";
const DAMAGED: &str = "this line was damaged on the robot's host and cannot be read";

fn segment_path(folder: &Path, first_seq: u64) -> PathBuf {
    folder.join(format!("{first_seq:020}{SUFFIX}"))
}

/// The numbers of the first lines of all segments, ascending.
fn segments(folder: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    match fs::read_dir(folder) {
        Ok(entries) => {
            for entry in entries {
                let name = entry?.file_name();
                let digits = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
                found.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    found.sort_unstable();
    Ok(found)
}

/// Reads one frame at `offset`; `None` if there is no whole one (yet).
fn read_frame(file: &File, offset: u64, end: u64) -> io::Result<Option<(Vec<u8>, u64)>> {
    if end.saturating_sub(offset) < HEADER_BYTES {
        return Ok(None);
    }
    let mut header = [0; 8];
    file.read_exact_at(&mut header, offset)?;
    let [a, b, c, d, e, f, g, h] = header;
    let (length, crc) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    let after = offset + HEADER_BYTES + u64::from(length);
    // After a power cut there may be zeros where a frame was to be: they are no empty frame.
    if length == 0 || length > MAX_FRAME_BYTES || after > end {
        return Ok(None);
    }
    let mut payload = vec![0; length as usize];
    file.read_exact_at(&mut payload, offset + HEADER_BYTES)?;
    Ok((crc32c::crc32c(&payload) == crc).then_some((payload, after)))
}

/// Appends lines.
pub struct Writer {
    folder: PathBuf,
    file: File,
    /// Number of the first line of the current segment.
    first_seq: u64,
    length: u64,
    next_seq: u64,
    /// Whether there is anything that [`Writer::sync`] has to flush.
    unsynced: bool,
    /// First line and size of the segments that the reader has not deleted as far as is known, without the current one.
    older: VecDeque<(u64, u64)>,
}

impl Writer {
    /// Opens the spool for appending, makes it if there is none, and cuts off a last line that was written half.
    pub fn open(folder: &Path) -> io::Result<Self> {
        durable::private_folder(folder)?;
        let mut numbers = segments(folder)?;
        let current = numbers.pop().unwrap_or(1);
        let older = numbers
            .into_iter()
            .map(|number| Ok((number, fs::metadata(segment_path(folder, number))?.len())))
            .collect::<io::Result<_>>()?;
        let file = open_segment(folder, current)?;
        let end = file.metadata()?.len();
        let (mut length, mut next_seq) = (0, current);
        while let Some((_, after)) = read_frame(&file, length, end)? {
            length = after;
            next_seq += 1;
        }
        if length < end {
            file.set_len(length)?;
        }
        let mut writer =
            Self { folder: folder.to_owned(), file, first_seq: current, length, next_seq, unsynced: length > 0, older };
        writer.file.seek(SeekFrom::Start(length))?;
        Ok(writer)
    }

    /// Appends lines, all of them or none; they are on disk after [`Writer::sync`] or when the reader has synced them.
    pub fn append(&mut self, records: &[Record]) -> io::Result<()> {
        self.close_long_segment()?;
        let mut frames = Vec::new();
        for record in records {
            let payload = serde_json::to_vec(record)?;
            let length = u32::try_from(payload.len()).ok().filter(|length| *length <= MAX_FRAME_BYTES);
            let length = length.ok_or_else(|| io::Error::other("a log line is too large for the spool"))?;
            frames.extend(length.to_le_bytes());
            frames.extend(crc32c::crc32c(&payload).to_le_bytes());
            frames.extend(payload);
        }
        if let Err(error) = self.file.write_all(&frames) {
            // A half frame would hide everything after it, and lines before it would get a second number.
            self.file.set_len(self.length)?;
            self.file.seek(SeekFrom::Start(self.length))?;
            return Err(error);
        }
        self.length += frames.len() as u64;
        self.next_seq += records.len() as u64;
        self.unsynced = true;
        Ok(())
    }

    /// A line of the agent itself.
    pub fn note(&mut self, time: Timestamp, level: Level, message: impl Into<String>) -> io::Result<()> {
        self.append(&[Record::new(time, level, message)])
    }

    /// Flushes what was appended.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.unsynced {
            self.file.sync_all()?;
            durable::sync_folder(&self.folder)?;
            self.unsynced = false;
        }
        Ok(())
    }

    fn close_long_segment(&mut self) -> io::Result<()> {
        if self.length >= SEGMENT_BYTES {
            self.file.sync_data()?;
            let file = open_segment(&self.folder, self.next_seq)?;
            self.older.push_back((self.first_seq, self.length));
            (self.file, self.first_seq, self.length) = (file, self.next_seq, 0);
        }
        Ok(())
    }

    /// How many bytes lie on disk that the reader has not cut away.
    pub fn stored_bytes(&mut self) -> u64 {
        // The reader cuts away closed segments only: whoever waits for room without appending must not keep one open. If
        // that fails it is tried again by the next call.
        let _ = self.close_long_segment();
        while let Some(&(first, _)) = self.older.front() {
            if segment_path(&self.folder, first).exists() {
                break;
            }
            self.older.pop_front();
        }
        self.older.iter().map(|(_, size)| size).sum::<u64>() + self.length
    }
}

fn open_segment(folder: &Path, first_seq: u64) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(segment_path(folder, first_seq))
}

/// Lines as they were read: `records[0]` has the number `first_seq`.
#[derive(Debug, Default)]
pub struct Batch {
    pub first_seq: u64,
    pub records: Vec<Record>,
}

/// Reads lines by number and follows the writer.
pub struct Reader {
    folder: PathBuf,
    segment: Option<OpenSegment>,
}

struct OpenSegment {
    first_seq: u64,
    file: File,
    offset: u64,
    seq: u64,
    synced: u64,
}

impl Reader {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), segment: None }
    }

    /// The lines from number `from_seq` on that are there, at most so many lines and about so many bytes; they are
    /// flushed to disk before they are given out, so that a number is never used for two different lines.
    /// For numbers that were cut away a line is given that says so.
    pub fn read(&mut self, from_seq: u64, max_lines: usize, max_bytes: usize) -> io::Result<Batch> {
        let mut batch = Batch { first_seq: from_seq, records: Vec::new() };
        let oldest = segments(&self.folder)?.first().copied();
        if let Some(oldest) = oldest.filter(|&oldest| oldest > from_seq) {
            let missing = usize::try_from(oldest - from_seq).unwrap_or(usize::MAX).min(max_lines);
            let line = "this line was acknowledged before and is not on the robot's host any more";
            batch.records = vec![Record::new(Timestamp::EPOCH, Level::Warning, line); missing];
            return Ok(batch);
        }
        if self.segment.as_ref().is_none_or(|segment| segment.seq > from_seq) {
            self.open_segment_of(from_seq)?;
        }
        let (mut bytes, mut no_frame_at) = (0, None);
        while batch.records.len() < max_lines && bytes < max_bytes {
            let Some(segment) = &mut self.segment else { break };
            let end = segment.file.metadata()?.len();
            let payload = match read_frame(&segment.file, segment.offset, end)? {
                Some((payload, after)) => {
                    segment.offset = after;
                    Some(payload)
                }
                None => {
                    // The next segment is made only after this one is complete.
                    let Some(next) = segments(&self.folder)?.into_iter().find(|&first| first > segment.first_seq)
                    else {
                        break;
                    };
                    if segment.seq >= next {
                        self.sync()?;
                        self.open_segment_of(next)?;
                        continue;
                    }
                    // The writer may have completed both since the frame was looked for.
                    if no_frame_at.replace(segment.offset) != Some(segment.offset) {
                        continue;
                    }
                    None
                }
            };
            segment.seq += 1;
            if segment.seq > from_seq {
                bytes += payload.as_ref().map_or(DAMAGED.len(), Vec::len);
                let record = payload.and_then(|payload| serde_json::from_slice(&payload).ok());
                batch.records.push(record.unwrap_or_else(damaged));
            }
        }
        self.sync()?;
        Ok(batch)
    }

    fn open_segment_of(&mut self, seq: u64) -> io::Result<()> {
        self.segment = None;
        let Some(first_seq) = segments(&self.folder)?.into_iter().rfind(|&first| first <= seq) else {
            return Ok(());
        };
        let file = File::open(segment_path(&self.folder, first_seq))?;
        self.segment = Some(OpenSegment { first_seq, file, offset: 0, seq: first_seq, synced: 0 });
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if let Some(segment) = self.segment.as_mut().filter(|segment| segment.synced < segment.offset) {
            segment.file.sync_data()?;
            if segment.synced == 0 {
                // The run folder that holds this one was made without flushing as well.
                self.folder.ancestors().take(3).try_for_each(durable::sync_folder)?;
            }
            segment.synced = segment.offset;
        }
        Ok(())
    }

    /// Deletes the segments all of whose lines have numbers below `seq`; the newest always stays.
    pub fn cut(&mut self, seq: u64) -> io::Result<()> {
        let numbers = segments(&self.folder)?;
        for pair in numbers.windows(2) {
            if pair[1] <= seq {
                fs::remove_file(segment_path(&self.folder, pair[0]))?;
            }
        }
        Ok(())
    }
}

/// Takes the place of a line, whose number must not stay empty.
fn damaged() -> Record {
    Record::new(Timestamp::EPOCH, Level::Warning, DAMAGED)
}

/// Reads a small file whole; refuses one over `limit` bytes.
pub fn read_limited(file: File, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content)?;
    Ok((content.len() as u64 <= limit).then_some(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(n: u64) -> Record {
        Record::new(Timestamp::from_millis(1), Level::Info, format!("line {n} {}", "x".repeat(10_000)))
    }

    fn all(reader: &mut Reader, mut from: u64) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let batch = reader.read(from, 50, 100_000).expect("the spool can be read");
            if batch.records.is_empty() {
                return lines;
            }
            from += batch.records.len() as u64;
            lines.extend(batch.records.into_iter().map(|record| record.line.message));
        }
    }

    /// Also where a single segment is all that may be stored there is room again when its lines are acknowledged.
    #[test]
    fn a_segment_that_is_full_can_be_cut_away() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = Writer::open(folder.path()).expect("a spool");
        let lines: Vec<Record> = (1..=150).map(line).collect();
        writer.append(&lines).expect("room");
        assert!(writer.stored_bytes() >= SEGMENT_BYTES);
        Reader::new(folder.path()).cut(151).expect("cut");
        assert_eq!(writer.stored_bytes(), 0);
        writer.append(&[line(151)]).expect("room");
        assert_eq!(all(&mut Reader::new(folder.path()), 151), [line(151).line.message]);
    }

    /// Numbers, order and content survive segments, reopening, and a reader that starts in the middle.
    #[test]
    fn lines_keep_their_numbers_over_segments_and_reopening() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut reader = Reader::new(folder.path());
        assert!(all(&mut reader, 1).is_empty());
        for start in [1, 151] {
            let mut writer = Writer::open(folder.path()).expect("a spool");
            for n in start..start + 150 {
                writer.append(&[line(n)]).expect("room");
            }
        }
        let expected: Vec<String> = (1..=300).map(|n| line(n).line.message).collect();
        assert_eq!(all(&mut reader, 1), expected);
        assert_eq!(all(&mut Reader::new(folder.path()), 299), expected[298..]);
        assert_eq!(all(&mut reader, 7), expected[6..], "a reader can go back");
    }

    #[test]
    fn a_torn_last_line_is_cut_and_its_number_used_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = Writer::open(folder.path()).expect("a spool");
        writer.append(&[line(1)]).expect("room");
        writer.append(&[line(2)]).expect("room");
        let path = segment_path(folder.path(), 1);
        let length = fs::metadata(&path).expect("it is there").len();
        OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(length - 3)).expect("cut");
        assert_eq!(all(&mut Reader::new(folder.path()), 1).len(), 1, "half a line is not given out");
        Writer::open(folder.path()).and_then(|mut writer| writer.append(&[line(9)])).expect("it goes on");
        assert_eq!(all(&mut Reader::new(folder.path()), 1), [line(1).line.message, line(9).line.message]);
    }

    /// Zeros at the end, as a power cut leaves them, are no lines, neither for the reader nor for the next writer.
    #[test]
    fn zeros_at_the_end_are_no_lines() {
        let folder = tempfile::tempdir().expect("a folder");
        Writer::open(folder.path()).and_then(|mut writer| writer.append(&[line(1)])).expect("room");
        let path = segment_path(folder.path(), 1);
        let length = fs::metadata(&path).expect("it is there").len();
        OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(length + 4096)).expect("longer");
        assert_eq!(all(&mut Reader::new(folder.path()), 1), [line(1).line.message]);
        Writer::open(folder.path()).and_then(|mut writer| writer.append(&[line(2)])).expect("it goes on");
        assert_eq!(all(&mut Reader::new(folder.path()), 1), [line(1).line.message, line(2).line.message]);
    }

    /// Lines that cannot be read are named, and those after them keep their numbers, wherever a reader starts.
    #[test]
    fn damage_is_named_and_hides_nothing_after_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = Writer::open(folder.path()).expect("a spool");
        for n in 1..=200 {
            writer.append(&[line(n)]).expect("room");
        }
        let second = segments(folder.path()).expect("readable")[1];
        let path = segment_path(folder.path(), 1);
        let mut content = fs::read(&path).expect("the segment");
        let middle = content.len() / 2;
        content[middle] ^= 1;
        fs::write(&path, content).expect("damaged");
        let lines = all(&mut Reader::new(folder.path()), 1);
        assert_eq!(lines.len(), 200);
        for (n, text) in (1..).zip(&lines) {
            assert!(*text == line(n).line.message || (n < second && text.contains("damaged")), "{n}: {text}");
        }
        let whole = lines.iter().position(|text| text.contains("damaged")).expect("a damaged line");
        assert!(whole > 10, "lines before the damage are read");
        assert_eq!(
            all(&mut Reader::new(folder.path()), second - 3),
            lines[usize::try_from(second).expect("small") - 4..]
        );
    }

    /// A record that is not understood does not end the reading.
    #[test]
    fn a_record_that_is_no_line_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = Writer::open(folder.path()).expect("a spool");
        writer.append(&[line(1), line(2)]).expect("room");
        let path = segment_path(folder.path(), 1);
        let mut content = fs::read(&path).expect("the segment");
        let length = u32::from_le_bytes([content[0], content[1], content[2], content[3]]) as usize;
        content[8] = b'[';
        let crc = crc32c::crc32c(&content[8..8 + length]);
        content[4..8].copy_from_slice(&crc.to_le_bytes());
        fs::write(&path, content).expect("damaged");
        assert_eq!(all(&mut Reader::new(folder.path()), 1), [DAMAGED.to_owned(), line(2).line.message]);
    }

    #[test]
    fn cutting_frees_room_and_missing_lines_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = Writer::open(folder.path()).expect("a spool");
        for n in 1..=400 {
            writer.append(&[line(n)]).expect("room");
        }
        let before = writer.stored_bytes();
        let mut reader = Reader::new(folder.path());
        reader.cut(300).expect("cut");
        assert!(writer.stored_bytes() < before - 2_000_000, "{} of {before}", writer.stored_bytes());
        assert_eq!(all(&mut reader, 300)[0], line(300).line.message, "what is not acknowledged stays");
        let batch = reader.read(5, 10, 1000).expect("readable");
        assert_eq!((batch.first_seq, batch.records.len()), (5, 10));
        assert!(batch.records[0].line.message.contains("acknowledged before"));
    }
}
