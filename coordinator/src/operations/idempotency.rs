//! Repeated calls give the first answer. The answer is kept in the same transaction as what it answers.

use drover_protocol::{Timestamp, problem::Code};
use sha2::{Digest, Sha256};

use super::Caller;
use crate::{
    domain::idempotency::{Answer, KEPT_SECONDS},
    error::{Error, Result},
    secrets::Secrets,
    store::{
        Reading, Scan, Tx,
        document::{self, Slot},
        key::{KeyPart, Kind},
        table,
    },
};

/// A call that may be repeated: its key as the caller gave it, and a digest of all that it asks.
#[derive(Clone, Debug)]
pub struct Repeatable {
    pub key: String,
    pub request: [u8; 32],
}

/// What was answered the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstAnswer {
    pub status: u16,
    pub location: Option<String>,
    pub body: Vec<u8>,
}

/// Different keys of one account may use the same text; nobody can replay another's answer.
fn record_id(caller: &Caller, key: &str) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(caller.key_id.uuid().as_bytes());
    digest.update(key.as_bytes());
    digest.finalize().into()
}

/// The first answer, if this call was made before.
pub fn find(
    reading: &dyn Reading,
    caller: &Caller,
    call: &Repeatable,
    secrets: &Secrets,
) -> Result<Option<FirstAnswer>> {
    let id = record_id(caller, &call.key);
    let kept = table::find::<Answer>(reading, id)?;
    let Some(answer) = kept.filter(|answer| answer.expires_at > reading.now()) else { return Ok(None) };
    // Older versions kept the digest itself.
    if answer.request != secrets.request_tag(&call.request) && answer.request != call.request {
        let message = "this Idempotency-Key was used for another request within 24 hours; take a new one".to_owned();
        return Err(Error::Refused { code: Code::IdempotencyKeyReused, message });
    }
    let sealed = document::get(reading, answer.body, Slot::Answer)?.unwrap_or_default();
    let body = secrets.open_sealed(&id, &sealed)?;
    Ok(Some(FirstAnswer { status: answer.status, location: answer.location, body }))
}

/// Keeps an answer. It is sealed, for it may hold a key.
pub fn keep(tx: &mut Tx, caller: &Caller, call: &Repeatable, answer: &FirstAnswer, secrets: &Secrets) -> Result<()> {
    let id = record_id(caller, &call.key);
    if let Some(expired) = table::find::<Answer>(tx, id)? {
        remove(tx, &expired)?;
    }
    let body = tx.new_id();
    let sealed = secrets.seal(&id, &answer.body, tx.random())?;
    document::insert(tx, body, Slot::Answer, &sealed)?;
    let expires_at = tx.now().plus_seconds(KEPT_SECONDS);
    let (status, location) = (answer.status, answer.location.clone());
    let request = secrets.request_tag(&call.request);
    table::insert(tx, &Answer { id, request, status, location, body, expires_at })
}

fn remove(tx: &mut Tx, answer: &Answer) -> Result<()> {
    document::delete(tx, answer.body, Slot::Answer)?;
    table::delete::<Answer>(tx, answer.id)
}

/// Removes answers that have expired, a page at a time; how many there were.
pub fn expire_page(tx: &mut Tx, limit: usize) -> Result<usize> {
    let end = table::index_start(tx, Kind::IdempotencyByExpiry, Timestamp::from_millis(tx.now().millis() + 1));
    let due = Scan::of(tx, Kind::IdempotencyByExpiry, ()).below(end).indexed::<Answer>(tx, limit)?;
    for (_, answer) in &due {
        remove(tx, answer)?;
    }
    Ok(due.len())
}

/// Digest of a request: method, path with query, and body.
pub fn request_digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}
