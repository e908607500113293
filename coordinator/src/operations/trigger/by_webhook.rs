//! Triggers that are called from outside: their addresses and secrets, and whether a call proves that it may call.
//!
//! The last part of an address is found by its keyed hash, as an API key is. It and the secrets are kept sealed.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use drover_protocol::{
    AccountId, TriggerId,
    trigger::{ByWebhook, HookAuth, RotateHookSecret},
};
use subtle::ConstantTimeEq;

use super::{NOUN, reached};
use crate::{
    domain::{
        account::Account,
        name::Faults,
        permission::Permission,
        trigger::{
            Rule, Trigger,
            by_webhook::{MAX_GRACE_SECONDS, MAX_MESSAGE_ID_CHARS, OldSecret, Webhook},
        },
        webhook::secret_text,
    },
    error::{Error, Result},
    operations::{
        Caller,
        audit::{self, Act},
        event,
    },
    secrets::Secrets,
    standard_webhooks::{Message, SECRET_BYTES},
    store::{
        Reader, Reading, Tx,
        key::{Key, Kind, SYSTEM_ACCOUNT},
        table,
    },
};

const TOKEN_BYTES: usize = 32;
const MAX_TOKEN_CHARS: usize = 128;
/// Says nothing about what is wrong: that would help only those who guess.
const NOT_PROVED: Error = Error::Unauthenticated("the call does not prove that it may call this webhook");

/// A part of a webhook that is sealed.
#[derive(Clone, Copy)]
pub enum Part {
    Token,
    Secret,
}

/// What a sealed part is bound to.
pub fn context(account: AccountId, trigger: TriggerId, part: Part) -> Vec<u8> {
    let part: &[u8] = match part {
        Part::Token => b"hook token",
        Part::Secret => b"hook secret",
    };
    [account.uuid().as_bytes().as_slice(), trigger.uuid().as_bytes(), part].concat()
}

/// A new address and a new secret.
pub(super) fn rule_of(tx: &mut Tx, id: TriggerId, settings: ByWebhook, secrets: &Secrets) -> Result<Rule> {
    let (token_hash, token_sealed) = new_token(tx, id, secrets)?;
    let (_, secret_sealed) = new_secret(tx, id, secrets)?;
    Ok(Rule::Webhook(Webhook { settings, token_hash, token_sealed, secret_sealed, old_secret: None }))
}

fn new_token(tx: &mut Tx, id: TriggerId, secrets: &Secrets) -> Result<([u8; 32], Vec<u8>)> {
    let token = URL_SAFE_NO_PAD.encode(tx.random::<TOKEN_BYTES>());
    let hash = secrets.hash(&token);
    let found = rmp_serde::to_vec(&(tx.account(), id))
        .map_err(|error| Error::Internal(format!("the entry of an address cannot be written: {error}")))?;
    tx.put(hash_key(hash), found)?;
    Ok((hash, secrets.seal(&context(tx.account(), id, Part::Token), token.as_bytes(), tx.random())?))
}

fn new_secret(tx: &Tx, id: TriggerId, secrets: &Secrets) -> Result<([u8; SECRET_BYTES], Vec<u8>)> {
    let secret = tx.random::<SECRET_BYTES>();
    Ok((secret, secrets.seal(&context(tx.account(), id, Part::Secret), &secret, tx.random())?))
}

fn hash_key(hash: [u8; 32]) -> Vec<u8> {
    Key::new(Kind::HookByHash, SYSTEM_ACCOUNT).with(hash).into_bytes()
}

/// The trigger is deleted: nothing has its address any more.
pub fn forget(tx: &mut Tx, trigger: &Trigger) {
    if let Rule::Webhook(webhook) = &trigger.rule {
        tx.delete(hash_key(webhook.token_hash));
    }
}

/// The trigger has come from another coordinator: its address is found here by another hash.
pub fn know_again(tx: &mut Tx, mut trigger: Trigger, secrets: &Secrets) -> Result<()> {
    let id = trigger.id;
    let Rule::Webhook(webhook) = &mut trigger.rule else { return Ok(()) };
    let token = secrets.open_sealed(&context(tx.account(), id, Part::Token), &webhook.token_sealed)?;
    webhook.token_hash = secrets.hash(&String::from_utf8_lossy(&token));
    let found = rmp_serde::to_vec(&(tx.account(), id))
        .map_err(|error| Error::Internal(format!("the entry of an address cannot be written: {error}")))?;
    tx.put(hash_key(webhook.token_hash), found)?;
    table::rewrite(tx, &trigger)
}

/// The last part of the address, for those who may let the trigger fire or change it.
pub fn token(account: AccountId, caller: &Caller, trigger: &Trigger, secrets: &Secrets) -> Result<Option<String>> {
    let may = [Permission::TriggerFire, Permission::TriggerUpdate, Permission::TriggerCreate];
    let Rule::Webhook(webhook) = &trigger.rule else { return Ok(None) };
    if !may.into_iter().any(|permission| caller.permissions.contains(permission)) {
        return Ok(None);
    }
    let token = secrets.open_sealed(&context(account, trigger.id, Part::Token), &webhook.token_sealed)?;
    Ok(Some(String::from_utf8_lossy(&token).into_owned()))
}

/// The secret as people copy it, if callers are to prove that they have it.
pub fn secret(account: AccountId, trigger: &Trigger, secrets: &Secrets) -> Result<Option<String>> {
    match &trigger.rule {
        Rule::Webhook(webhook) if webhook.settings.auth != HookAuth::None => {
            open_secret(account, trigger.id, &webhook.secret_sealed, secrets).map(|secret| Some(secret_text(&secret)))
        }
        _ => Ok(None),
    }
}

fn open_secret(account: AccountId, id: TriggerId, sealed: &[u8], secrets: &Secrets) -> Result<Vec<u8>> {
    secrets.open_sealed(&context(account, id, Part::Secret), sealed)
}

/// A new secret in the place of the one that there is; where the address is the secret, a new address.
pub fn rotate(
    tx: &mut Tx,
    caller: &Caller,
    text: &str,
    request: &RotateHookSecret,
    secrets: &Secrets,
) -> Result<Trigger> {
    let mut trigger = reached(tx, caller, Permission::TriggerUpdate, text)?;
    let mut faults = Faults::default();
    let grace_seconds = request.grace_seconds.unwrap_or_default();
    faults.range("/grace_seconds", grace_seconds, 0, MAX_GRACE_SECONDS);
    let Rule::Webhook(webhook) = &mut trigger.rule else {
        return Err(Error::wrong_state("only a trigger of the kind webhook has a secret"));
    };
    let text = match webhook.settings.auth {
        HookAuth::None => {
            if grace_seconds > 0 {
                faults.add("/grace_seconds", "an address that is the secret ends at once; leave it out");
            }
            faults.check()?;
            tx.delete(hash_key(webhook.token_hash));
            (webhook.token_hash, webhook.token_sealed) = new_token(tx, trigger.id, secrets)?;
            "the address of the webhook was changed".to_owned()
        }
        HookAuth::Signature | HookAuth::Bearer => {
            faults.check()?;
            let until = tx.now().plus_seconds(grace_seconds);
            let secret_sealed = std::mem::replace(&mut webhook.secret_sealed, new_secret(tx, trigger.id, secrets)?.1);
            webhook.old_secret = (grace_seconds > 0).then_some(OldSecret { secret_sealed, until });
            match grace_seconds {
                0 => "the secret of the webhook was changed".to_owned(),
                _ => format!("the secret of the webhook was changed; the old one is good until {until}"),
            }
        }
    };
    table::update(tx, &mut trigger)?;
    event::note(tx, trigger.id.uuid(), "secret_rotated", text, caller.by())?;
    audit::append(tx, caller, Act::new("rotate_secret", NOUN, trigger.id, &trigger.name))?;
    Ok(trigger)
}

/// The trigger that is called at an address. The reader is that of the system account.
pub fn find(reading: &Reader, token: &str, secrets: &Secrets) -> Result<(AccountId, Trigger)> {
    const UNKNOWN: Error = Error::NotFound("webhook");
    if token.is_empty() || token.len() > MAX_TOKEN_CHARS {
        return Err(UNKNOWN);
    }
    let found = reading.view.get(&hash_key(secrets.hash(token)))?.ok_or(UNKNOWN)?;
    let (account, id) = rmp_serde::from_slice::<(AccountId, TriggerId)>(&found)
        .map_err(|error| Error::Internal(format!("the entry of an address cannot be read: {error}")))?;
    // An account that is shut is called by nobody.
    table::find::<Account>(reading, account)?.filter(Account::is_open).ok_or(UNKNOWN)?;
    let own = Reader { view: reading.view, account, now: reading.now };
    Ok((account, table::find(&own, id)?.ok_or(UNKNOWN)?))
}

/// What a call says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Proof<'a> {
    pub message_id: &'a str,
    pub timestamp: &'a str,
    pub signatures: &'a str,
    /// What stands after `Bearer`.
    pub bearer: &'a str,
}

/// Refuses a call that does not prove that it may call.
pub fn authenticate(reading: &Reader, trigger: &Trigger, proof: &Proof, body: &[u8], secrets: &Secrets) -> Result<()> {
    let Rule::Webhook(webhook) = &trigger.rule else { return Err(NOT_PROVED) };
    let old = webhook.old_secret.iter().filter(|old| old.until > reading.now).map(|old| &old.secret_sealed);
    for sealed in std::iter::once(&webhook.secret_sealed).chain(old) {
        let proved = match webhook.settings.auth {
            HookAuth::None => true,
            HookAuth::Bearer => {
                let secret = secret_text(&open_secret(reading.account, trigger.id, sealed, secrets)?);
                proof.bearer.as_bytes().ct_eq(secret.as_bytes()).into()
            }
            HookAuth::Signature => {
                let secret = open_secret(reading.account, trigger.id, sealed, secrets)?;
                let (id, timestamp, signatures) = (proof.message_id, proof.timestamp, proof.signatures);
                (1..=MAX_MESSAGE_ID_CHARS).contains(&id.len())
                    && Message { id, timestamp, signatures, body }.is_signed(&secret, reading.now)
            }
        };
        if proved {
            return Ok(());
        }
    }
    Err(NOT_PROVED)
}
