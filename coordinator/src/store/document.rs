//! Documents: JSON of an object (input, output, manifest, answer) apart from its record, in pieces that fit a value.
//!
//! A claim then rewrites a small record, never the payload.

use uuid::Uuid;

use super::{
    key::{Key, Kind},
    table::{Reading, Scan},
    tx::Tx,
};
use crate::error::{Error, Result};

const PIECE_BYTES: usize = 60 * 1024;

/// Which document of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Slot {
    Input = 1,
    Output = 2,
    Manifest = 3,
    Answer = 4,
    Payload = 5,
    Checkpoint = 6,
    Schema = 7,
    Value = 21,
}

fn prefix(account: drover_protocol::AccountId, object: Uuid, slot: Slot) -> Key {
    Key::new(Kind::Document, account).with(object).with(slot as u8)
}

/// Puts the document in place of the one that was there.
pub fn put(tx: &mut Tx, object: Uuid, slot: Slot, bytes: &[u8]) -> Result<()> {
    delete(tx, object, slot)?;
    insert(tx, object, slot, bytes)
}

/// Puts the document of an object that is new, so that nothing can be there yet.
pub fn insert(tx: &mut Tx, object: Uuid, slot: Slot, bytes: &[u8]) -> Result<()> {
    for (number, piece) in bytes.chunks(PIECE_BYTES).enumerate() {
        let number = u16::try_from(number).map_err(|_| Error::Internal("a document is too large".to_owned()))?;
        tx.put(prefix(tx.account(), object, slot).with(number).into_bytes(), piece.to_vec())?;
    }
    Ok(())
}

/// The document, if there is one.
pub fn get(reading: &dyn Reading, object: Uuid, slot: Slot) -> Result<Option<Vec<u8>>> {
    let pieces = Scan::of(reading, Kind::Document, (object, slot as u8)).pairs(reading, usize::from(u16::MAX))?;
    if pieces.is_empty() {
        return Ok(None);
    }
    Ok(Some(pieces.into_iter().flat_map(|(_, piece)| piece).collect()))
}

/// Removes the document if there is one.
pub fn delete(tx: &mut Tx, object: Uuid, slot: Slot) -> Result<()> {
    for (key, _) in Scan::of(tx, Kind::Document, (object, slot as u8)).pairs(tx, usize::from(u16::MAX))? {
        tx.delete(key);
    }
    Ok(())
}
