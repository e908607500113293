//! Pages of lists. A page looks at a bounded number of entries, whatever its filter matches.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use drover_protocol::page::PageQuery;

use crate::{
    error::{Error, Result},
    store::{Reading, Record, Scan},
};

pub const DEFAULT_LIMIT: u32 = 50;
pub const MAX_LIMIT: u32 = 1_000;
/// Entries that one page looks at, at the most.
const MAX_EXAMINED: usize = 2_000;
const STEP: usize = 200;

/// Some records of a list, and where it goes on.
#[derive(Debug)]
pub struct Page<R> {
    pub items: Vec<R>,
    pub next_cursor: Option<String>,
}

/// The limit asked for, checked.
pub fn limit(asked: Option<u32>, default: u32) -> Result<usize> {
    match asked.unwrap_or(default) {
        limit @ 1..=MAX_LIMIT => Ok(limit as usize),
        _ => Err(Error::invalid("limit", format!("must be from 1 to {MAX_LIMIT}"))),
    }
}

/// Where the records of a list are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The scan is over the records themselves.
    Records,
    /// The scan is over an index of them.
    Index,
}

/// A page of a scan: records that `matches` accepts, from the cursor on.
///
/// A cursor is the last key that was looked at, less the part that names kind and account, and a checksum that tells it
/// from nonsense and from those of other nouns; a forged one can still only move within the same list.
pub fn page<R: Record>(
    reading: &dyn Reading,
    scan: Scan,
    via: Via,
    query: &PageQuery,
    matches: impl Fn(&R) -> bool,
) -> Result<Page<R>> {
    let limit = limit(query.limit, DEFAULT_LIMIT)?;
    let mut scan = match &query.cursor {
        Some(cursor) => scan.resume(&position_of(cursor, R::NOUN)?),
        None => scan,
    };
    let mut items = Vec::new();
    let mut examined = 0;
    loop {
        let wanted = STEP.min(MAX_EXAMINED - examined).max(1);
        let found: Vec<(Vec<u8>, R)> = match via {
            Via::Records => scan.records(reading, wanted)?,
            Via::Index => scan.indexed(reading, wanted)?,
        };
        let ended = found.len() < wanted;
        let mut last_key = None;
        for (key, record) in found {
            examined += 1;
            if matches(&record) {
                items.push(record);
            }
            last_key = Some(key);
            if items.len() == limit {
                break;
            }
        }
        let Some(last_key) = last_key else { return Ok(Page { items, next_cursor: None }) };
        scan = scan.after(&last_key);
        if items.len() == limit || examined >= MAX_EXAMINED {
            let more = !scan.pairs(reading, 1)?.is_empty();
            let cursor = more.then(|| cursor_at(Scan::position(&last_key), R::NOUN));
            return Ok(Page { items, next_cursor: cursor });
        }
        if ended {
            return Ok(Page { items, next_cursor: None });
        }
    }
}

/// The text of a cursor.
pub fn cursor_at(position: &[u8], noun: &str) -> String {
    let sum = crc32c::crc32c_append(crc32c::crc32c(noun.as_bytes()), position);
    URL_SAFE_NO_PAD.encode([position, &sum.to_be_bytes()].concat())
}

/// What [`cursor_at`] was given.
pub fn position_of(cursor: &str, noun: &str) -> Result<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).unwrap_or_default();
    let position = bytes.split_last_chunk::<4>().map(|(position, _)| position.to_vec());
    position
        .filter(|position| cursor_at(position, noun) == cursor)
        .ok_or_else(|| Error::BadRequest("the cursor is not one that this list has given".to_owned()))
}

/// `key:value` filters, as pairs.
pub fn parse_labels(texts: &[String]) -> Result<Vec<(String, String)>> {
    let parse = |text: &String| match text.split_once(':') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(Error::invalid("label", "must have the form key:value")),
    };
    texts.iter().map(parse).collect()
}
