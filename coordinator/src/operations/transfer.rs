//! What must be done to the records of an account that goes to another coordinator.

use drover_protocol::{AccountId, KeyId};

use super::{key, trigger::by_webhook};
use crate::{
    domain::{key::ApiKey, trigger::Trigger},
    error::Result,
    secrets::Secrets,
    store::{
        Reading, Scan, Tx,
        key::{Key, Kind, SYSTEM_ACCOUNT},
        table,
    },
};

/// Drops a page of the keys that only this coordinator can know: all whose text is not sealed for a user. Whether there may
/// be more. Only for a copy of an account that is taken elsewhere.
pub fn drop_unknown_keys_page(tx: &mut Tx, limit: usize) -> Result<bool> {
    let keys = Scan::of(tx, Kind::ApiKey, ()).records::<ApiKey>(tx, usize::MAX)?;
    let unknown: Vec<KeyId> = keys
        .into_iter()
        .map(|(_, key)| key)
        .filter(|key| !key.is_own() || key.sealed.is_none() || key.replaced)
        .map(|key| key.id)
        .take(limit)
        .collect();
    for id in &unknown {
        table::delete::<ApiKey>(tx, *id)?;
    }
    Ok(unknown.len() == limit)
}

/// Makes a page of keys that came from elsewhere known here, by their texts; where to go on.
pub fn know_keys_again_page(
    tx: &mut Tx,
    secrets: &Secrets,
    after: Option<Vec<u8>>,
    limit: usize,
) -> Result<Option<Vec<u8>>> {
    let scan = Scan::of(tx, Kind::ApiKey, ());
    let scan = match after {
        Some(after) => scan.after(&after),
        None => scan,
    };
    let found = scan.records::<ApiKey>(tx, limit)?;
    let next = found.last().filter(|_| found.len() == limit).map(|(key, _)| key.clone());
    for (_, mut own) in found {
        own.hash = secrets.hash(&key::unseal(&own, secrets)?);
        table::delete::<ApiKey>(tx, own.id)?;
        // It is known already where an earlier try was interrupted.
        let by_hash = Key::new(Kind::KeyByHash, SYSTEM_ACCOUNT).with(own.hash).into_bytes();
        let known = tx.view().get(&by_hash)?.and_then(|value| rmp_serde::from_slice::<(AccountId, KeyId)>(&value).ok());
        if known == Some((tx.account(), own.id)) {
            tx.delete(by_hash);
        }
        key::add(tx, &own)?;
    }
    Ok(next)
}

/// The same for the addresses of triggers that are called from outside.
pub fn know_triggers_again_page(
    tx: &mut Tx,
    secrets: &Secrets,
    after: Option<Vec<u8>>,
    limit: usize,
) -> Result<Option<Vec<u8>>> {
    let scan = Scan::of(tx, Kind::Trigger, ());
    let scan = match after {
        Some(after) => scan.after(&after),
        None => scan,
    };
    let found = scan.records::<Trigger>(tx, limit)?;
    let next = found.last().filter(|_| found.len() == limit).map(|(key, _)| key.clone());
    for (_, trigger) in found {
        by_webhook::know_again(tx, trigger, secrets)?;
    }
    Ok(next)
}
