//! Typed records with declared indexes. This is the only place that writes index keys.

use drover_protocol::{AccountId, Timestamp};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    changes::{Public, Verb},
    decoded,
    engine::{KeyRange, Order, View},
    key::{Key, KeyPart, Kind},
    tx::Tx,
};
use crate::error::{Error, Result};

/// Something through which records of one account are read at one moment: a transaction or a reader's view.
pub trait Reading {
    fn view(&self) -> &dyn View;
    fn account(&self) -> AccountId;
    fn now(&self) -> Timestamp;
}

/// A reader's view of one account.
pub struct Reader<'a> {
    pub view: &'a dyn View,
    pub account: AccountId,
    pub now: Timestamp,
}

impl Reading for Reader<'_> {
    fn view(&self) -> &dyn View {
        self.view
    }

    fn account(&self) -> AccountId {
        self.account
    }

    fn now(&self) -> Timestamp {
        self.now
    }
}

/// Kind and account, with which every key begins.
const KEY_HEAD_BYTES: usize = 2 + 16;

/// One index entry of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    kind: Kind,
    parts: Vec<u8>,
    unique: bool,
}

impl IndexEntry {
    /// Found by these parts together with other records.
    pub fn many(kind: Kind, parts: impl KeyPart) -> Self {
        Self { kind, parts: parts.to_bytes(), unique: false }
    }

    /// Only one record may have these parts.
    pub fn unique(kind: Kind, parts: impl KeyPart) -> Self {
        Self { kind, parts: parts.to_bytes(), unique: true }
    }

    /// The whole key; that of an entry which many may share ends with the record's id.
    fn key(&self, account: AccountId, id: &[u8]) -> Vec<u8> {
        let mut key = Key::new(self.kind, account).into_bytes();
        key.extend_from_slice(&self.parts);
        if !self.unique {
            key.extend_from_slice(id);
        }
        key
    }
}

/// A typed value of the store.
pub trait Record: Serialize + DeserializeOwned + Clone + 'static {
    const KIND: Kind;
    /// How people call it, for errors.
    const NOUN: &'static str;
    /// Version of the stored form; readers accept all older ones through [`Record::upgrade`].
    const VERSION: u8 = 1;
    /// It is read at nearly every request, and seldom changes or is read where it was written: see [`super::decoded`].
    const IS_READ_OFTEN: bool = false;
    type Id: KeyPart;

    fn id(&self) -> Self::Id;

    /// Its entries in other kinds, from its fields alone.
    fn indexes(&self) -> Vec<IndexEntry> {
        Vec::new()
    }

    /// Called by [`update`]; records with a revision count it here.
    fn touch(&mut self) {}

    /// What those who follow changes are told of it; absent: they are told nothing.
    fn public(&self) -> Option<Public<'_>> {
        None
    }

    /// Reads the stored form of an older version.
    fn upgrade(version: u8, _bytes: &[u8]) -> Result<Self> {
        Err(Error::Internal(format!("a {} of the unknown version {version} is in the store", Self::NOUN)))
    }
}

fn record_key<R: Record>(account: AccountId, id: &R::Id) -> Vec<u8> {
    let mut key = Key::new(R::KIND, account).into_bytes();
    id.append(&mut key);
    key
}

/// The stored form: one byte of version, then MessagePack with field names, so that fields can come and go.
pub(super) fn encode<R: Record>(record: &R) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512);
    bytes.push(R::VERSION);
    let mut writer = rmp_serde::Serializer::new(&mut bytes).with_struct_map();
    record
        .serialize(&mut writer)
        .map_err(|error| Error::Internal(format!("a {} cannot be written: {error}", R::NOUN)))?;
    if R::IS_READ_OFTEN {
        decoded::keep(&bytes, record);
    }
    Ok(bytes)
}

pub(super) fn decode<R: Record>(bytes: &[u8]) -> Result<R> {
    if R::IS_READ_OFTEN { decoded::kept(bytes, decode_anew) } else { decode_anew(bytes) }
}

pub(super) fn decode_anew<R: Record>(bytes: &[u8]) -> Result<R> {
    match bytes.split_first() {
        Some((version, rest)) if *version == R::VERSION => rmp_serde::from_slice(rest)
            .map_err(|error| Error::Internal(format!("a {} in the store cannot be read: {error}", R::NOUN))),
        Some((version, rest)) => R::upgrade(*version, rest),
        None => Err(Error::Internal(format!("a {} in the store is empty", R::NOUN))),
    }
}

/// Keys of all index entries of a stored record, for `check`.
pub(super) fn index_keys_of<R: Record>(account: AccountId, bytes: &[u8]) -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
    let record: R = decode(bytes)?;
    let id = record.id().to_bytes();
    let keys = record.indexes().iter().map(|entry| entry.key(account, &id)).collect();
    Ok((id, keys))
}

/// The record with this id, if there is one.
pub fn find<R: Record>(reading: &dyn Reading, id: R::Id) -> Result<Option<R>> {
    match reading.view().get(&record_key::<R>(reading.account(), &id))? {
        Some(bytes) => decode(&bytes).map(Some),
        None => Ok(None),
    }
}

/// The record with this id; `NotFound` names the noun.
pub fn get<R: Record>(reading: &dyn Reading, id: R::Id) -> Result<R> {
    find(reading, id)?.ok_or(Error::NotFound(R::NOUN))
}

/// Refuses with `NotFound` when there is no record with this id.
pub fn require<R: Record>(reading: &dyn Reading, id: R::Id) -> Result<()> {
    reading.view().get(&record_key::<R>(reading.account(), &id))?.map(drop).ok_or(Error::NotFound(R::NOUN))
}

/// The record that a unique index names.
pub fn find_by<R: Record>(reading: &dyn Reading, index: Kind, parts: impl KeyPart) -> Result<Option<R>> {
    let key = Key::new(index, reading.account()).with_bytes(&parts.to_bytes());
    let Some(id) = reading.view().get(&key)? else { return Ok(None) };
    let mut record_key = Key::new(R::KIND, reading.account()).into_bytes();
    record_key.extend_from_slice(&id);
    match reading.view().get(&record_key)? {
        Some(bytes) => decode(&bytes).map(Some),
        None => Err(Error::Internal(format!("an index names a {} that is not there", R::NOUN))),
    }
}

/// Puts a new record and its index entries. A taken unique entry is `AlreadyExists`.
pub fn insert<R: Record>(tx: &mut Tx, record: &R) -> Result<()> {
    write(tx, record, None)?;
    announce(tx, Verb::Created, record);
    Ok(())
}

/// Replaces a record that is there, counts its revision and moves its index entries.
pub fn update<R: Record>(tx: &mut Tx, record: &mut R) -> Result<()> {
    let old: R = get(tx, record.id())?;
    record.touch();
    write(tx, record, Some(&old))?;
    announce(tx, Verb::Changed, record);
    Ok(())
}

/// Replaces a record without counting a revision: for what changes by itself and not by anybody's wish.
pub fn rewrite<R: Record>(tx: &mut Tx, record: &R) -> Result<()> {
    let old: R = get(tx, record.id())?;
    replace(tx, &old, record)
}

/// Replaces a record that the caller has just read as `before`, without counting a revision. Those who follow changes are
/// told if the caller has counted it.
pub fn replace<R: Record>(tx: &mut Tx, before: &R, record: &R) -> Result<()> {
    debug_assert_eq!(before.id().to_bytes(), record.id().to_bytes());
    write(tx, record, Some(before))?;
    let revision = |record: &R| record.public().and_then(|public| public.revision);
    if tx.changes_are_followed() && revision(before) != revision(record) {
        announce(tx, Verb::Changed, record);
    }
    Ok(())
}

/// Tells those who follow changes that something about the object has changed which is not counted as a revision.
pub fn tell_changed<R: Record>(tx: &mut Tx, record: &R) {
    announce(tx, Verb::Changed, record);
}

fn announce<R: Record>(tx: &mut Tx, verb: Verb, record: &R) {
    if tx.changes_are_followed()
        && let Some(public) = record.public()
    {
        tx.changed(verb, public);
    }
}

/// Puts a record that has no index entries, whether or not it is there.
pub fn overwrite<R: Record>(tx: &mut Tx, record: &R) -> Result<()> {
    debug_assert!(record.indexes().is_empty());
    tx.put(record_key::<R>(tx.account(), &record.id()), encode(record)?)
}

/// Removes a record and its index entries; nothing happens if it is not there.
pub fn delete<R: Record>(tx: &mut Tx, id: R::Id) -> Result<()> {
    let key = record_key::<R>(tx.account(), &id);
    let Some(bytes) = tx.view().get(&key)? else { return Ok(()) };
    let record: R = decode(&bytes)?;
    let (account, id) = (tx.account(), id.to_bytes());
    for entry in record.indexes() {
        tx.delete(entry.key(account, &id));
    }
    tx.delete(key);
    announce(tx, Verb::Deleted, &record);
    Ok(())
}

/// Puts the index entries of a record again, for an index that has not had them before.
pub fn put_indexes<R: Record>(tx: &mut Tx, record: &R) -> Result<()> {
    let (account, id) = (tx.account(), record.id().to_bytes());
    record.indexes().iter().try_for_each(|entry| tx.put(entry.key(account, &id), id.clone()))
}

fn write<R: Record>(tx: &mut Tx, record: &R, old: Option<&R>) -> Result<()> {
    let account = tx.account();
    let id = record.id().to_bytes();
    let new_entries = record.indexes();
    let old_entries = old.map(Record::indexes).unwrap_or_default();
    for entry in old_entries.iter().filter(|entry| !new_entries.contains(entry)) {
        tx.delete(entry.key(account, &id));
    }
    for entry in new_entries.iter().filter(|entry| !old_entries.contains(entry)) {
        let key = entry.key(account, &id);
        if entry.unique
            && let Some(holder) = tx.view().get(&key)?
        {
            let holder = uuid::Uuid::from_slice(&holder).map(|id| id.to_string()).unwrap_or_default();
            return Err(Error::AlreadyExists { what: format!("a {} of this name", R::NOUN), id: holder });
        }
        tx.put(key, id.clone())?;
    }
    tx.put(record_key::<R>(account, &record.id()), encode(record)?)
}

/// The key at which entries of an index with these parts begin: a bound for [`Scan::from`] and [`Scan::below`].
pub fn index_start(reading: &dyn Reading, kind: Kind, parts: impl KeyPart) -> Vec<u8> {
    Key::new(kind, reading.account()).with(parts).into_bytes()
}

/// Where to scan, and from where on.
#[derive(Clone, Debug)]
pub struct Scan {
    range: KeyRange,
    order: Order,
}

impl Scan {
    /// All keys of a kind that begin with these parts.
    pub fn of(reading: &dyn Reading, kind: Kind, parts: impl KeyPart) -> Self {
        let prefix = Key::new(kind, reading.account()).with_bytes(&parts.to_bytes());
        Self { range: KeyRange::prefix(prefix), order: Order::Ascending }
    }

    pub fn newest_first(mut self) -> Self {
        self.order = Order::Descending;
        self
    }

    /// Only keys that come after this one in the scan's order.
    pub fn after(mut self, key: &[u8]) -> Self {
        if self.range.contains(key) {
            self.range = self.range.after(key, self.order);
        }
        self
    }

    /// The part of a key by which a scan can be resumed: all but its kind and account.
    pub fn position(key: &[u8]) -> &[u8] {
        key.get(KEY_HEAD_BYTES..).unwrap_or_default()
    }

    /// Goes on after a position. One that lies outside of this scan's range changes nothing.
    pub fn resume(self, position: &[u8]) -> Self {
        let head = self.range.start.get(..KEY_HEAD_BYTES).unwrap_or_default();
        let key = [head, position].concat();
        self.after(&key)
    }

    /// Only keys from this one on.
    pub fn from(mut self, key: Vec<u8>) -> Self {
        self.range.start = self.range.start.max(key);
        self
    }

    /// Only keys below this one.
    pub fn below(mut self, key: Vec<u8>) -> Self {
        self.range.end = self.range.end.min(key);
        self
    }

    /// Keys and values.
    pub fn pairs(&self, reading: &dyn Reading, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        Ok(reading.view().scan(&self.range, self.order, limit)?)
    }

    /// Records themselves, with their keys: the scan is over the record's own kind.
    pub fn records<R: Record>(&self, reading: &dyn Reading, limit: usize) -> Result<Vec<(Vec<u8>, R)>> {
        self.pairs(reading, limit)?.into_iter().map(|(key, bytes)| Ok((key, decode(&bytes)?))).collect()
    }

    /// Records that an index names, with the keys of the index.
    pub fn indexed<R: Record>(&self, reading: &dyn Reading, limit: usize) -> Result<Vec<(Vec<u8>, R)>> {
        let mut records = Vec::new();
        for (key, id) in self.pairs(reading, limit)? {
            let record_key = Key::new(R::KIND, reading.account()).with_bytes(&id);
            match reading.view().get(&record_key)? {
                Some(bytes) => records.push((key, decode(&bytes)?)),
                // A look in parts may find the entry before both are deleted, and not the record afterwards.
                None if reading.view().get(&key)?.is_none() => {}
                None => return Err(Error::Internal(format!("an index names a {} that is not there", R::NOUN))),
            }
        }
        Ok(records)
    }
}

/// For conditional changes: refuses when the caller has seen another revision.
pub fn check_revision(revision: u64, wanted: Option<u64>) -> Result<()> {
    match wanted {
        Some(wanted) if wanted != revision => Err(Error::PreconditionFailed { revision }),
        _ => Ok(()),
    }
}
