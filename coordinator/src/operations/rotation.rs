//! Seals everything anew, after the sealing key was changed: a page at a time, each of which may be done again.

use super::{
    resource_value,
    trigger::by_webhook::{Part, context},
    webhook,
};
use crate::{
    domain::{
        idempotency::Answer,
        key::ApiKey,
        resource::ResourceValue,
        trigger::{Rule, Trigger},
        webhook::{SealedSecret, Webhook},
    },
    error::Result,
    secrets::Secrets,
    store::{
        Reading, Record, Scan, Tx,
        document::{self, Slot},
        table,
    },
};

/// How many records were sealed anew, and where to go on.
type Page = (usize, Option<Vec<u8>>);

/// Seals one page anew, after a position.
type Reseal = fn(&mut Tx, &Secrets, Option<Vec<u8>>, usize) -> Result<Page>;

/// A kind of records that hold something sealed.
pub struct Sealed {
    pub noun: &'static str,
    page: Reseal,
}

/// All of them.
pub const SEALED: &[Sealed] = &[
    Sealed {
        noun: ApiKey::NOUN,
        page: |tx, secrets, after, limit| page(tx, after, limit, |tx, key| reseal_key(tx, key, secrets)),
    },
    Sealed {
        noun: Answer::NOUN,
        page: |tx, secrets, after, limit| page(tx, after, limit, |tx, answer| reseal_answer(tx, answer, secrets)),
    },
    Sealed {
        noun: ResourceValue::NOUN,
        page: |tx, secrets, after, limit| page(tx, after, limit, |tx, value| reseal_value(tx, value, secrets)),
    },
    Sealed {
        noun: Webhook::NOUN,
        page: |tx, secrets, after, limit| page(tx, after, limit, |tx, webhook| reseal_webhook(tx, webhook, secrets)),
    },
    Sealed {
        noun: Trigger::NOUN,
        page: |tx, secrets, after, limit| page(tx, after, limit, |tx, trigger| reseal_trigger(tx, trigger, secrets)),
    },
];

/// Seals one page of records anew, after this position; how many were sealed, and where to go on.
pub fn reseal_page(
    tx: &mut Tx,
    sealed: &Sealed,
    secrets: &Secrets,
    after: Option<Vec<u8>>,
    limit: usize,
) -> Result<Page> {
    (sealed.page)(tx, secrets, after, limit)
}

fn page<R: Record>(
    tx: &mut Tx,
    after: Option<Vec<u8>>,
    limit: usize,
    mut reseal: impl FnMut(&mut Tx, R) -> Result<bool>,
) -> Result<Page> {
    let mut scan = Scan::of(tx, R::KIND, ());
    if let Some(after) = after {
        scan = scan.after(&after);
    }
    let found = scan.records::<R>(tx, limit)?;
    let next = found.last().filter(|_| found.len() == limit).map(|(key, _)| key.clone());
    let mut count = 0;
    for (_, record) in found {
        count += usize::from(reseal(tx, record)?);
    }
    Ok((count, next))
}

/// The same sealed with the newest key; `None` if it is so already.
fn anew(tx: &Tx, secrets: &Secrets, context: &[u8], sealed: &[u8]) -> Result<Option<Vec<u8>>> {
    if secrets.newest_only().open_sealed(context, sealed).is_ok() {
        return Ok(None);
    }
    let plain = secrets.open_sealed(context, sealed)?;
    secrets.seal(context, &plain, tx.random()).map(Some)
}

fn reseal_key(tx: &mut Tx, mut key: ApiKey, secrets: &Secrets) -> Result<bool> {
    let Some(sealed) = &key.sealed else { return Ok(false) };
    let Some(sealed) = anew(tx, secrets, key.id.uuid().as_bytes(), sealed)? else { return Ok(false) };
    key.sealed = Some(sealed);
    table::rewrite(tx, &key)?;
    Ok(true)
}

fn reseal_answer(tx: &mut Tx, answer: Answer, secrets: &Secrets) -> Result<bool> {
    let Some(sealed) = document::get(tx, answer.body, Slot::Answer)? else { return Ok(false) };
    let Some(sealed) = anew(tx, secrets, &answer.id, &sealed)? else { return Ok(false) };
    document::put(tx, answer.body, Slot::Answer, &sealed)?;
    Ok(true)
}

fn reseal_value(tx: &mut Tx, mut value: ResourceValue, secrets: &Secrets) -> Result<bool> {
    if !value.sealed {
        return Ok(false);
    }
    let kept = resource_value::kept(tx, &value)?;
    let Some(sealed) = anew(tx, secrets, &resource_value::context(tx, &value), &kept)? else { return Ok(false) };
    resource_value::put_content(tx, &mut value, sealed)?;
    table::rewrite(tx, &value)?;
    Ok(true)
}

fn reseal_webhook(tx: &mut Tx, mut webhook: Webhook, secrets: &Secrets) -> Result<bool> {
    let context = webhook::context(webhook.id);
    let old = webhook.old_secret.iter_mut().map(|(secret, _)| secret);
    let mut sealed_anew = false;
    for SealedSecret(secret) in std::iter::once(&mut webhook.secret).chain(old) {
        if let Some(sealed) = anew(tx, secrets, &context, secret)? {
            *secret = sealed;
            sealed_anew = true;
        }
    }
    if sealed_anew {
        table::rewrite(tx, &webhook)?;
    }
    Ok(sealed_anew)
}

fn reseal_trigger(tx: &mut Tx, mut trigger: Trigger, secrets: &Secrets) -> Result<bool> {
    let Rule::Webhook(webhook) = &mut trigger.rule else { return Ok(false) };
    let (account, id) = (tx.account(), trigger.id);
    let old = webhook.old_secret.iter_mut().map(|old| (Part::Secret, &mut old.secret_sealed));
    let parts = [(Part::Token, &mut webhook.token_sealed), (Part::Secret, &mut webhook.secret_sealed)];
    let mut resealed = false;
    for (part, sealed) in parts.into_iter().chain(old) {
        if let Some(new) = anew(tx, secrets, &context(account, id, part), sealed)? {
            *sealed = new;
            resealed = true;
        }
    }
    if resealed {
        table::rewrite(tx, &trigger)?;
    }
    Ok(resealed)
}
