//! Lines of logs as they lie in a value or in a blob: packed in columns, each compressed by itself, so that a search looks
//! at levels, times and messages without reading anything else.
//!
//! The form: one byte that names it, the number of lines, for each column its plain and its packed length, then the
//! columns. All numbers are of variable length. The columns are
//! - heads: levels, then times as differences, then lengths of messages, then lengths of fields;
//! - messages, one after another;
//! - fields as MessagePack, one after another; a line without any has none.

use drover_protocol::{
    Timestamp,
    log::{Level, NewLogLine},
};
use serde_json::{Map, Value};
use zstd::bulk::{Compressor, Decompressor};

use crate::error::{Error, Result};

/// The first byte of this form. What has another one was packed as a whole, in MessagePack.
const COLUMNS: u8 = 1;
/// No column is ever larger; what says so is broken.
const MAX_COLUMN_BYTES: usize = 64 * 1024 * 1024;
/// So little is not worth the compression.
const SMALL_BYTES: usize = 64;
const LEVELS: [Level; 6] = [Level::Trace, Level::Debug, Level::Info, Level::Warning, Level::Error, Level::Critical];

fn broken(why: impl std::fmt::Display) -> Error {
    Error::Internal(format!("packed log lines cannot be read: {why}"))
}

/// Packs lines; the level is that of the compression.
pub fn pack(lines: &[NewLogLine], level: i32) -> Result<Vec<u8>> {
    let unusable = |error: String| Error::Internal(format!("log lines cannot be packed: {error}"));
    let mut heads = Vec::with_capacity(lines.len() * 4);
    let mut messages = Vec::with_capacity(lines.iter().map(|line| line.message.len()).sum());
    let (mut fields, mut field_lengths) = (Vec::new(), Vec::with_capacity(lines.len()));
    heads.extend(lines.iter().map(|line| line.level as u8));
    let mut before = 0;
    for line in lines {
        put(&mut heads, zigzag(line.time.millis() - before));
        before = line.time.millis();
    }
    for line in lines {
        put(&mut heads, line.message.len() as u64);
        messages.extend_from_slice(line.message.as_bytes());
        let start = fields.len();
        if !line.fields.is_empty() {
            rmp_serde::encode::write(&mut fields, &line.fields).map_err(|error| unusable(error.to_string()))?;
        }
        field_lengths.push(fields.len() - start);
    }
    field_lengths.into_iter().for_each(|length| put(&mut heads, length as u64));
    let mut compressor = None;
    let mut packed = vec![COLUMNS];
    put(&mut packed, lines.len() as u64);
    let mut columns = Vec::with_capacity(3);
    for plain in [heads, messages, fields] {
        put(&mut packed, plain.len() as u64);
        let column = match plain.len() {
            0..SMALL_BYTES => plain,
            _ => {
                let compressor = match &mut compressor {
                    Some(compressor) => compressor,
                    none => none.insert(Compressor::new(level).map_err(|error| unusable(error.to_string()))?),
                };
                let column = compressor.compress(&plain).map_err(|error| unusable(error.to_string()))?;
                if column.len() < plain.len() { column } else { plain }
            }
        };
        put(&mut packed, column.len() as u64);
        columns.push(column);
    }
    columns.iter().for_each(|column| packed.extend_from_slice(column));
    Ok(packed)
}

/// The lines of a packed run.
pub fn unpack(packed: &[u8]) -> Result<Vec<NewLogLine>> {
    let mut columns = Columns::open(packed)?;
    columns.read_messages()?;
    (0..columns.len()).map(|number| columns.line(number)).collect()
}

/// How many lines there are, without unpacking them where that can be.
pub fn count(packed: &[u8]) -> Result<u64> {
    match packed.split_first() {
        Some((&COLUMNS, mut rest)) => take(&mut rest),
        _ => Ok(unpack_whole(packed)?.len() as u64),
    }
}

fn unpack_whole(packed: &[u8]) -> Result<Vec<NewLogLine>> {
    let plain = zstd::stream::decode_all(packed).map_err(broken)?;
    rmp_serde::from_slice(&plain).map_err(broken)
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or_else(|| broken("a number is cut off"))?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(broken("a number does not end"))
}

fn take_length(bytes: &mut &[u8]) -> Result<usize> {
    let length = usize::try_from(take(bytes)?).unwrap_or(usize::MAX);
    if length > MAX_COLUMN_BYTES { Err(broken("a length is out of all proportion")) } else { Ok(length) }
}

/// One column, still packed.
#[derive(Clone, Copy, Debug, Default)]
struct Column<'a> {
    plain_bytes: usize,
    packed: &'a [u8],
}

impl Column<'_> {
    fn unpack(&self) -> Result<Vec<u8>> {
        if self.packed.len() == self.plain_bytes {
            return Ok(self.packed.to_vec());
        }
        let plain = Decompressor::new()
            .and_then(|mut decompressor| decompressor.decompress(self.packed, self.plain_bytes))
            .map_err(broken)?;
        if plain.len() == self.plain_bytes { Ok(plain) } else { Err(broken("a column has another length")) }
    }
}

/// Where each part of a column ends.
fn ends(bytes: &mut &[u8], count: usize, whole: usize) -> Result<Vec<u32>> {
    let mut end = 0;
    let mut ends = Vec::with_capacity(count);
    for _ in 0..count {
        end += take_length(bytes)?;
        if end > whole {
            return Err(broken("a part lies outside of its column"));
        }
        ends.push(end as u32);
    }
    if end == whole { Ok(ends) } else { Err(broken("a column is longer than its parts")) }
}

fn part(ends: &[u32], number: usize) -> std::ops::Range<usize> {
    let start = if number == 0 { 0 } else { ends[number - 1] as usize };
    start..ends[number] as usize
}

/// Lines whose heads are read, and whose messages and fields are read when they are asked for.
#[derive(Debug)]
pub struct Columns<'a> {
    levels: Vec<u8>,
    times: Vec<i64>,
    message_ends: Vec<u32>,
    field_ends: Vec<u32>,
    packed_messages: Column<'a>,
    packed_fields: Column<'a>,
    messages: Option<Vec<u8>>,
    fields: Option<Vec<u8>>,
}

impl<'a> Columns<'a> {
    /// Reads the heads.
    pub fn open(packed: &'a [u8]) -> Result<Self> {
        match packed.split_first() {
            Some((&COLUMNS, rest)) => Self::parse(rest),
            _ => Self::of_lines(&unpack_whole(packed)?),
        }
    }

    fn parse(mut rest: &'a [u8]) -> Result<Self> {
        let count = take_length(&mut rest)?;
        let mut lengths = [(0, 0); 3];
        for length in &mut lengths {
            *length = (take_length(&mut rest)?, take_length(&mut rest)?);
        }
        let mut columns = [Column::default(); 3];
        for (column, (plain_bytes, packed_bytes)) in columns.iter_mut().zip(lengths) {
            let (packed, after) = rest.split_at_checked(packed_bytes).ok_or_else(|| broken("a column is cut off"))?;
            (*column, rest) = (Column { plain_bytes, packed }, after);
        }
        let [heads, packed_messages, packed_fields] = columns;
        let heads = heads.unpack()?;
        let (levels, mut heads) = heads.split_at_checked(count).ok_or_else(|| broken("levels are missing"))?;
        if levels.iter().any(|level| usize::from(*level) >= LEVELS.len()) {
            return Err(broken("a level is unknown"));
        }
        let mut time = 0_i64;
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            time = time.wrapping_add(unzigzag(take(&mut heads)?));
            times.push(time);
        }
        let message_ends = ends(&mut heads, count, packed_messages.plain_bytes)?;
        let field_ends = ends(&mut heads, count, packed_fields.plain_bytes)?;
        let levels = levels.to_vec();
        Ok(Self {
            levels,
            times,
            message_ends,
            field_ends,
            packed_messages,
            packed_fields,
            messages: None,
            fields: None,
        })
    }

    fn of_lines(lines: &[NewLogLine]) -> Result<Self> {
        let (mut messages, mut fields) = (Vec::new(), Vec::new());
        let (mut message_ends, mut field_ends) = (Vec::new(), Vec::new());
        for line in lines {
            messages.extend_from_slice(line.message.as_bytes());
            message_ends.push(messages.len() as u32);
            if !line.fields.is_empty() {
                rmp_serde::encode::write(&mut fields, &line.fields).map_err(broken)?;
            }
            field_ends.push(fields.len() as u32);
        }
        Ok(Self {
            levels: lines.iter().map(|line| line.level as u8).collect(),
            times: lines.iter().map(|line| line.time.millis()).collect(),
            message_ends,
            field_ends,
            packed_messages: Column::default(),
            packed_fields: Column::default(),
            messages: Some(messages),
            fields: Some(fields),
        })
    }

    pub fn len(&self) -> usize {
        self.levels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    pub fn level(&self, number: usize) -> Level {
        LEVELS[usize::from(self.levels[number])]
    }

    pub fn time(&self, number: usize) -> Timestamp {
        Timestamp::from_millis(self.times[number])
    }

    /// All messages, one after another.
    pub fn read_messages(&mut self) -> Result<&[u8]> {
        if self.messages.is_none() {
            self.messages = Some(self.packed_messages.unpack()?);
        }
        Ok(self.messages.as_deref().unwrap_or_default())
    }

    /// One message; empty until the messages have been read.
    pub fn message(&self, number: usize) -> &[u8] {
        self.messages.as_deref().unwrap_or_default().get(part(&self.message_ends, number)).unwrap_or_default()
    }

    /// The fields of a line.
    pub fn fields(&mut self, number: usize) -> Result<Map<String, Value>> {
        let range = part(&self.field_ends, number);
        if range.is_empty() {
            return Ok(Map::new());
        }
        if self.fields.is_none() {
            self.fields = Some(self.packed_fields.unpack()?);
        }
        let packed = self.fields.as_deref().unwrap_or_default().get(range).unwrap_or_default();
        rmp_serde::from_slice(packed).map_err(broken)
    }

    /// The whole line; its messages have been read.
    pub fn line(&mut self, number: usize) -> Result<NewLogLine> {
        Ok(NewLogLine {
            time: self.time(number),
            level: self.level(number),
            message: std::str::from_utf8(self.message(number)).map_err(broken)?.to_owned(),
            fields: self.fields(number)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn lines() -> impl Strategy<Value = Vec<NewLogLine>> {
        let line = (0..6_usize, 0..253_402_300_799_999_i64, ".{0,80}", proptest::option::of("[a-z\"\\\\ё]{0,9}"));
        let line = line.prop_map(|(level, time, message, field)| NewLogLine {
            time: Timestamp::from_millis(time),
            level: LEVELS[level],
            message,
            fields: field.map(|text| Map::from_iter([(text.clone(), json!([text, 1.5]))])).unwrap_or_default(),
        });
        proptest::collection::vec(line, 0..60)
    }

    proptest! {
        /// What is packed comes out as it went in.
        #[test]
        fn lines_come_out_as_they_went_in(lines in lines()) {
            let packed = pack(&lines, 1).unwrap();
            prop_assert_eq!(count(&packed).unwrap(), lines.len() as u64);
            prop_assert_eq!(unpack(&packed).unwrap(), lines);
        }

        /// Bytes that are broken are an error, never a panic.
        #[test]
        fn broken_bytes_are_refused(lines in lines(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut packed = pack(&lines, 1).unwrap();
            let at = at.index(packed.len());
            packed[at] = byte;
            let _ = unpack(&packed);
            let _ = unpack(&packed[..at]);
        }
    }

    /// Lines that were packed as a whole, in the form before this one, are read as well.
    #[test]
    fn the_older_form_is_read() {
        let line = NewLogLine {
            time: Timestamp::from_millis(5),
            level: Level::Error,
            message: "ё".to_owned(),
            fields: Map::from_iter([("a".to_owned(), json!(1))]),
        };
        let packed = zstd::bulk::compress(&rmp_serde::to_vec_named(std::slice::from_ref(&line)).unwrap(), 1).unwrap();
        assert_eq!(count(&packed).unwrap(), 1);
        assert_eq!(unpack(&packed).unwrap(), [line]);
    }
}
