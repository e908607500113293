//! Every record of the store with its indexes, on one page: what `check` goes through.

use drover_protocol::AccountId;

use super::{
    key::Kind,
    table::{Record, index_keys_of},
};
use crate::error::Result;

/// Reads a stored record and gives its id and the keys of all its index entries.
type IndexKeysOf = fn(AccountId, &[u8]) -> Result<(Vec<u8>, Vec<Vec<u8>>)>;

/// A kind of records.
pub struct RecordKind {
    pub kind: Kind,
    pub noun: &'static str,
    /// The kinds of its index entries.
    pub indexes: &'static [Kind],
    pub index_keys_of: IndexKeysOf,
}

const fn records<R: Record>(indexes: &'static [Kind]) -> RecordKind {
    RecordKind { kind: R::KIND, noun: R::NOUN, indexes, index_keys_of: index_keys_of::<R> }
}

/// All records.
pub const RECORDS: &[RecordKind] = &[];

/// Kinds that are neither records nor indexes: pieces of documents, rings, and names found by hash.
pub const PLAIN: &[Kind] = &[];
