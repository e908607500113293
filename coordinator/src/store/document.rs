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
    let key = prefix(reading.account(), object, slot).with(0_u16).into_bytes();
    let Some(mut bytes) = reading.view().get(&key)? else { return Ok(None) };
    // Nearly all documents are one piece, which is found at less cost than all pieces are looked for. Only the last one
    // may be short.
    if bytes.len() >= PIECE_BYTES {
        let rest = Scan::of(reading, Kind::Document, (object, slot as u8)).after(&key);
        bytes.extend(rest.pairs(reading, usize::from(u16::MAX))?.into_iter().flat_map(|(_, piece)| piece));
    }
    Ok(Some(bytes))
}

/// Removes the document if there is one.
pub fn delete(tx: &mut Tx, object: Uuid, slot: Slot) -> Result<()> {
    for (key, _) in Scan::of(tx, Kind::Document, (object, slot as u8)).pairs(tx, usize::from(u16::MAX))? {
        tx.delete(key);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use drover_protocol::AccountId;

    use super::*;
    use crate::{
        clock::{SystemClock, SystemRandomness},
        store::{Db, memory::Memory},
    };

    const ACCOUNT: AccountId = AccountId::from_uuid(Uuid::from_u128(1));
    const OBJECT: Uuid = Uuid::from_u128(7);

    /// Whatever was there before, and wherever its pieces end.
    #[tokio::test]
    async fn a_document_is_given_back_whole() {
        let db = Db::inline(Arc::new(Memory::default()), Arc::new(SystemClock), Arc::new(SystemRandomness));
        let read = |slot| db.read(ACCOUNT, |reading| get(reading, OBJECT, slot)).expect("the store can be read");
        assert_eq!(read(Slot::Payload), None);
        for length in [3 * PIECE_BYTES + 7, 2 * PIECE_BYTES, PIECE_BYTES + 1, PIECE_BYTES, PIECE_BYTES - 1, 1] {
            let written: Vec<u8> = (0..length).map(|number| (number % 251) as u8).collect();
            let bytes = written.clone();
            let put = db.write(ACCOUNT, move |tx| put(tx, OBJECT, Slot::Payload, &bytes));
            put.await.expect("the store can be written");
            assert!(read(Slot::Payload) == Some(written), "a document of {length} bytes");
            assert_eq!(read(Slot::Output), None);
        }
    }
}
