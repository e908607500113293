//! Signed links: one file, one verb, for a time, without a key.
//!
//! A link is not kept. It names who made it, in whose name it acts when it is used: it ends with the key that made it
//! (what a job has made is read as long as the job is kept, and written while its attempt runs), with the folder, and with
//! the coordinator's key file.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use drover_protocol::{
    AccountId, JobId, KeyId, RobotId, Timestamp,
    storage::{LinkVerb, MAX_LINK_SECONDS, NewLink},
};
use serde::{Deserialize, Serialize};

use super::{
    Actor, Caller,
    audit::{self, Act},
    key, storage,
};
use crate::{
    domain::{file::path_fault, job::Job, name::Faults, permission::Permission},
    error::{Error, Result},
    manifests::Manifests,
    secrets::{LINK_TAG_BYTES, Secrets},
    store::{Reader, Reading, Tx, table},
};

/// No token of ours is longer: a path, an id of a folder and little more.
const MAX_TOKEN_CHARS: usize = 4096;

/// What a link allows, as it stands in its token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub account: AccountId,
    /// By which the files of the folder are found: the link follows it when it gets another name.
    pub folder: String,
    pub path: String,
    pub verb: LinkVerb,
    pub expires_at: Timestamp,
    key: KeyId,
    /// The attempt of a job that made it.
    job: Option<(JobId, u32, RobotId)>,
}

/// Why nothing is read or written any more by a link.
pub const ENDED: &str = "the key that made this link has ended, and so has it";
const UNKNOWN: &str = "this link is not one of this coordinator's, or its key file has been replaced";

/// Makes the token of a link, and says until when it holds.
pub fn create(tx: &mut Tx, caller: &Caller, folder: &str, new: &NewLink, secrets: &Secrets) -> Result<(String, Grant)> {
    let place = match new.verb {
        LinkVerb::Get => {
            caller.require(Permission::StorageRead)?;
            storage::place(tx, caller, Permission::StorageRead, folder)?
        }
        LinkVerb::Put => {
            caller.require(Permission::StorageWrite)?;
            let place = storage::place(tx, caller, Permission::StorageWrite, folder)?;
            place.check_change(tx, caller, true)?;
            place
        }
    };
    let mut faults = Faults::default();
    if let Some(fault) = path_fault(&new.path) {
        faults.add("/path", fault);
    }
    faults.range("/expires_in_seconds", new.expires_in_seconds, 1, MAX_LINK_SECONDS);
    faults.check()?;
    let job = match caller.actor {
        Actor::Job { job, attempt, robot } => Some((job, attempt, robot)),
        Actor::User { .. } | Actor::Robot { .. } => None,
    };
    let grant = Grant {
        account: caller.account,
        folder: place.key(),
        path: new.path.clone(),
        verb: new.verb,
        expires_at: tx.now().plus_seconds(new.expires_in_seconds),
        key: caller.key_id,
        job,
    };
    if let Actor::User { .. } = caller.actor {
        // Whoever has the link needs no key.
        let about = serde_json::json!({ "folder": place.name(), "verb": new.verb, "expires_at": grant.expires_at });
        audit::append(tx, caller, Act::new("create_link", "file", "", &new.path).after(about))?;
    }
    let payload = rmp_serde::to_vec(&grant)
        .map_err(|error| Error::Internal(format!("the token of a link cannot be written: {error}")))?;
    let tag = secrets.link_tag(&payload);
    Ok((URL_SAFE_NO_PAD.encode([tag.as_slice(), &payload].concat()), grant))
}

/// What a token has been made for. Refuses one that is forged, without a look into the store.
pub fn read(token: &str, secrets: &Secrets) -> Result<Grant> {
    grant_of(token, secrets).ok_or_else(|| Error::Forbidden(UNKNOWN.to_owned()))
}

/// What is allowed of that now, and in whose name. The reader is that of the system account.
pub fn open(reading: &Reader, grant: Grant, verb: LinkVerb, manifests: &Manifests) -> Result<(Grant, Caller)> {
    let refuse = |message: &str| Err(Error::Forbidden(message.to_owned()));
    if grant.expires_at <= reading.now {
        return refuse("this link has expired; ask for a new one");
    }
    if grant.verb != verb {
        return refuse("this link is for another verb");
    }
    let own = Reader { view: reading.view, account: grant.account, now: reading.now };
    let ended = |error| match error {
        Error::Unauthenticated(_) => Error::Forbidden(ENDED.to_owned()),
        other => other,
    };
    let caller = match grant.job {
        None => key::caller_of(&own, grant.key, manifests).map_err(ended)?,
        Some((job, attempt, robot)) => {
            key::open_account(&own).map_err(ended)?;
            let Some(record) = table::find::<Job>(&own, job)? else {
                return refuse("the job that made this link is gone, and so is it");
            };
            // A robot hands out what others read after its work is done.
            if verb == LinkVerb::Put && !record.is_held_by(robot, attempt) {
                return refuse("the attempt that made this link has ended, and nothing is written by it any more");
            }
            Caller {
                account: grant.account,
                actor: Actor::Job { job, attempt, robot },
                key_id: grant.key,
                permissions: Permission::StorageRead | Permission::StorageWrite,
                // What the manifest declares was looked at when the link was made.
                reach: None,
                address: None,
            }
        }
    };
    Ok((grant, caller))
}

fn grant_of(token: &str, secrets: &Secrets) -> Option<Grant> {
    if token.len() > MAX_TOKEN_CHARS {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (tag, payload) = bytes.split_first_chunk::<LINK_TAG_BYTES>()?;
    if !secrets.is_link_tag(payload, tag) {
        return None;
    }
    rmp_serde::from_slice(payload).ok()
}
