//! API keys: recognising them, and the keys that people hold.

use std::sync::Arc;

use drover_protocol::{
    AccountId, KeyId, ProcessVersionId, RobotId, Timestamp, UserId,
    key::{NewKey, OwnKey},
    manifest::Manifest,
    page::PageQuery,
};

use super::{
    Actor, Caller, Reach, account,
    audit::{self, Act},
    event,
    idempotency::Repeatable,
    list::{self, Page, Via},
    process_version, role,
    session::MAX_SESSIONS,
};
use crate::{
    domain::{
        account::{Account, User},
        job::Job,
        key::{
            ApiKey, LAST_USE_OF_SESSION_SECONDS, LAST_USE_SECONDS, MAX_KEY_CHARS, MIN_CHARS_FOR_PREFIX,
            MIN_REPEATABLE_CHARS, Owner, PREFIX_CHARS, REPEATABLE_SECONDS, Session,
        },
        name::Faults,
        permission::{self, Permission, Permissions, Role, matching},
        robot::Robot,
    },
    error::{Error, Result},
    manifests::Manifests,
    secrets::{Secrets, key_text},
    store::{
        Reader, Reading, Scan, Topic, Tx,
        key::{Key, Kind, SYSTEM_ACCOUNT},
        table,
    },
};

const NOUN: &str = "key";
/// Longest grace of a refreshed key: a week.
const MAX_GRACE_SECONDS: u64 = 604_800;
const MAX_NAMED_KEYS: usize = 1_000;
/// Own keys in their grace, and the one that counts.
const MAX_OWN_KEYS: usize = 100;
/// Keys of a robot that nobody has used yet, for as many answers to its joining may have been lost.
const MAX_UNUSED_ROBOT_KEYS: usize = 4;
pub const UNKNOWN: Error = Error::Unauthenticated("the key is unknown, expired or revoked");

/// How the text of a key comes along with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brought {
    /// In the header `Authorization`.
    InHeader,
    /// In the cookie of a session.
    InCookie,
}

/// The caller whose key this is, and the key if its time of last use is to be written again. `reading` is of the system
/// account.
pub fn authenticate(
    reading: &Reader,
    (text, brought): (&str, Brought),
    secrets: &Secrets,
    manifests: &Manifests,
) -> Result<(Caller, Option<KeyId>)> {
    let (caller, key) = recognise(reading, text, secrets, manifests)?;
    if key.replaced || key.session.is_some() != (brought == Brought::InCookie) {
        return Err(UNKNOWN);
    }
    let accuracy = if key.session.is_some() { LAST_USE_OF_SESSION_SECONDS } else { LAST_USE_SECONDS };
    let stale = key.last_used_at.is_none_or(|at| reading.now.since(at).as_secs() >= accuracy);
    Ok((caller, stale.then_some(key.id)))
}

/// The caller whose key this is, and whether it is one that was replaced: good for repeating that call alone.
pub fn authenticate_for_replacing(
    reading: &Reader,
    text: &str,
    secrets: &Secrets,
    manifests: &Manifests,
) -> Result<(Caller, bool)> {
    let (caller, key) = recognise(reading, text, secrets, manifests)?;
    if key.session.is_some() {
        return Err(UNKNOWN);
    }
    Ok((caller, key.replaced))
}

fn recognise(reading: &Reader, text: &str, secrets: &Secrets, manifests: &Manifests) -> Result<(Caller, ApiKey)> {
    if text.is_empty() || text.len() > MAX_KEY_CHARS {
        return Err(UNKNOWN);
    }
    let hash = secrets.hash(text);
    let key = Key::new(Kind::KeyByHash, SYSTEM_ACCOUNT).with(hash).into_bytes();
    let value = reading.view.get(&key)?.ok_or(UNKNOWN)?;
    let (account, key_id) = rmp_serde::from_slice::<(AccountId, KeyId)>(&value)
        .map_err(|error| Error::Internal(format!("the entry of a key cannot be read: {error}")))?;
    let reading = Reader { view: reading.view, account, now: reading.now };
    let key: ApiKey = table::find(&reading, key_id)?.ok_or(UNKNOWN)?;
    if key.is_expired(reading.now) {
        return Err(UNKNOWN);
    }
    Ok((caller_with(&reading, &key, kept_in(manifests, &reading))?, key))
}

/// The caller whose key has this id, if it is still good: for what goes on in the name of a key without its text.
pub fn caller_of(reading: &Reader, key: KeyId, manifests: &Manifests) -> Result<Caller> {
    let key = table::find::<ApiKey>(reading, key)?.filter(|key| key.is_good(reading.now)).ok_or(UNKNOWN)?;
    caller_with(reading, &key, kept_in(manifests, reading))
}

/// The caller as it is now: for calls that go on for long. Refuses when the key has ended meanwhile; whether roles still
/// allow what is done is for the call to ask again.
pub fn renewed(reading: &dyn Reading, caller: &Caller) -> Result<Caller> {
    let key = table::find::<ApiKey>(reading, caller.key_id)?.filter(|key| key.is_good(reading.now())).ok_or(UNKNOWN)?;
    // What an attempt has declared stays as it is.
    let declared = |_| match &caller.reach {
        Some(Reach::Manifest(manifest)) => Ok(Arc::clone(manifest)),
        Some(Reach::Roles(_)) | None => Err(UNKNOWN),
    };
    Ok(Caller { address: caller.address, ..caller_with(reading, &key, declared)? })
}

/// Where the manifest of a version is found.
fn kept_in(manifests: &Manifests, reading: &dyn Reading) -> impl Fn(ProcessVersionId) -> Result<Arc<Manifest>> {
    |version| manifests.get(version, || process_version::manifest(reading, version))
}

fn caller_with(
    reading: &dyn Reading,
    key: &ApiKey,
    manifest: impl Fn(ProcessVersionId) -> Result<Arc<Manifest>>,
) -> Result<Caller> {
    let Identity { actor, mut permissions, reach } = identity(reading, &key.owner, manifest)?;
    if let Some(scope) = key.permissions {
        permissions &= scope;
    }
    Ok(Caller { account: reading.account(), actor, key_id: key.id, permissions, reach, address: None })
}

/// Who the owner of a key is, and what that allows before the key's own limits.
struct Identity {
    actor: Actor,
    permissions: Permissions,
    reach: Option<Reach>,
}

/// The account, in which nobody may do anything unless it is open.
pub fn open_account(reading: &dyn Reading) -> Result<Account> {
    account::own(reading).ok().filter(Account::is_open).ok_or(UNKNOWN)
}

fn identity(
    reading: &dyn Reading,
    owner: &Owner,
    manifest: impl Fn(ProcessVersionId) -> Result<Arc<Manifest>>,
) -> Result<Identity> {
    let account = open_account(reading)?;
    match *owner {
        Owner::User(id) => {
            let user: User = table::find(reading, id)?.filter(|user: &User| !user.blocked).ok_or(UNKNOWN)?;
            let (permissions, reach) = role::rights(reading, &account, &user.roles)?;
            Ok(Identity { actor: Actor::User { id, login: user.login }, permissions, reach })
        }
        Owner::Robot(id) => {
            let robot: Robot = table::find(reading, id)?.ok_or(UNKNOWN)?;
            let actor = Actor::Robot { id, name: robot.name };
            Ok(Identity { actor, permissions: Role::Robot.permissions(), reach: None })
        }
        Owner::Job { job, attempt, robot } => {
            let record: Job = table::find(reading, job)?.ok_or(UNKNOWN)?;
            if !record.is_held_by(robot, attempt) {
                return Err(UNKNOWN);
            }
            let manifest = manifest(record.process_version_id)?;
            Ok(Identity {
                actor: Actor::Job { job, attempt, robot },
                permissions: permission::of_jobs(),
                reach: Some(Reach::Manifest(manifest)),
            })
        }
    }
}

/// Writes down that the key was used. With the first use of a robot's key, those it had before end.
pub fn touch(tx: &mut Tx, id: KeyId) -> Result<()> {
    let Some(mut key) = table::find::<ApiKey>(tx, id)? else { return Ok(()) };
    if let (Owner::Robot(_), None) = (key.owner, key.last_used_at) {
        for older in of_owner(tx, key.owner)?.into_iter().filter(|older| older.id < id) {
            revoke(tx, older.id)?;
        }
    }
    key.last_used_at = Some(tx.now());
    table::rewrite(tx, &key)
}

pub(super) fn add(tx: &mut Tx, key: &ApiKey) -> Result<()> {
    let by_hash = Key::new(Kind::KeyByHash, SYSTEM_ACCOUNT).with(key.hash).into_bytes();
    if tx.view().get(&by_hash)?.is_some() {
        return Err(Error::invalid("key", "this text is in use as a key already"));
    }
    let value = rmp_serde::to_vec(&(tx.account(), key.id))
        .map_err(|error| Error::Internal(format!("the entry of a key cannot be written: {error}")))?;
    tx.put(by_hash, value)?;
    table::insert(tx, key)
}

/// The key is unknown from now on.
pub fn revoke(tx: &mut Tx, id: KeyId) -> Result<()> {
    if let Some(key) = table::find::<ApiKey>(tx, id)? {
        tx.delete(Key::new(Kind::KeyByHash, SYSTEM_ACCOUNT).with(key.hash).into_bytes());
        table::delete::<ApiKey>(tx, id)?;
        tx.wake(Topic::Key(id));
    }
    Ok(())
}

/// A key about to be made.
pub(super) struct Draft {
    pub owner: Owner,
    pub name: Option<String>,
    pub text: String,
    pub permissions: Option<Permissions>,
    pub expires_at: Option<Timestamp>,
    pub revealable: bool,
    pub session: Option<Session>,
}

pub(super) fn make(tx: &mut Tx, draft: Draft, secrets: &Secrets) -> Result<ApiKey> {
    let id = KeyId::from_uuid(tx.new_id());
    let sealed = match draft.revealable {
        true => Some(secrets.seal(id.uuid().as_bytes(), draft.text.as_bytes(), tx.random())?),
        false => None,
    };
    let key = ApiKey {
        id,
        owner: draft.owner,
        name: draft.name,
        prefix: shown_prefix(&draft.text),
        hash: secrets.hash(&draft.text),
        sealed,
        permissions: draft.permissions,
        created_at: tx.now(),
        last_used_at: None,
        expires_at: draft.expires_at,
        replaced: false,
        session: draft.session,
    };
    add(tx, &key)?;
    Ok(key)
}

/// The beginning of a key, to recognise it by; of a short one, given from outside, nothing is shown.
fn shown_prefix(text: &str) -> String {
    if text.len() < MIN_CHARS_FOR_PREFIX { String::new() } else { text.chars().take(PREFIX_CHARS).collect() }
}

/// A user's own key; `text` comes from outside only when the first account is made.
pub fn make_own(tx: &mut Tx, user: UserId, text: Option<String>, secrets: &Secrets) -> Result<(ApiKey, String)> {
    let text = text.unwrap_or_else(|| key_text(tx.random()));
    let draft = Draft {
        owner: Owner::User(user),
        name: None,
        text: text.clone(),
        permissions: None,
        expires_at: None,
        revealable: true,
        session: None,
    };
    Ok((make(tx, draft, secrets)?, text))
}

/// A new key for a robot. The one it works with goes on until the new one is used: the answer with the new one may be
/// lost, and a late copy of the call that asked for it must not shut out an agent that has one already.
pub fn make_for_robot(tx: &mut Tx, robot: RobotId, secrets: &Secrets) -> Result<String> {
    let keys = of_owner(tx, Owner::Robot(robot))?;
    let unused: Vec<&ApiKey> = keys.iter().filter(|key| key.last_used_at.is_none()).collect();
    for key in &unused[..unused.len().saturating_sub(MAX_UNUSED_ROBOT_KEYS - 1)] {
        revoke(tx, key.id)?;
    }
    let text = key_text(tx.random());
    let draft = Draft {
        owner: Owner::Robot(robot),
        name: None,
        text: text.clone(),
        permissions: None,
        expires_at: None,
        revealable: false,
        session: None,
    };
    make(tx, draft, secrets)?;
    Ok(text)
}

/// The key of one attempt.
pub fn make_for_attempt(tx: &mut Tx, job: &Job, robot: RobotId, secrets: &Secrets) -> Result<KeyId> {
    let draft = Draft {
        owner: Owner::Job { job: job.id, attempt: job.attempt, robot },
        name: None,
        text: secrets.attempt_key(job.id, job.attempt),
        permissions: None,
        expires_at: None,
        revealable: false,
        session: None,
    };
    Ok(make(tx, draft, secrets)?.id)
}

pub(super) fn of_owner(reading: &dyn Reading, owner: Owner) -> Result<Vec<ApiKey>> {
    let most = MAX_NAMED_KEYS + MAX_SESSIONS + MAX_OWN_KEYS;
    let found = Scan::of(reading, Kind::ApiKeyByOwner, owner).indexed::<ApiKey>(reading, most)?;
    Ok(found.into_iter().map(|(_, key)| key).collect())
}

/// Revokes every key of an owner.
pub fn revoke_of(tx: &mut Tx, owner: Owner) -> Result<()> {
    for key in of_owner(tx, owner)? {
        revoke(tx, key.id)?;
    }
    Ok(())
}

/// Those who wait with a key of this owner look whether it is still good.
pub fn wake_of(tx: &mut Tx, owner: Owner) -> Result<()> {
    for key in of_owner(tx, owner)? {
        tx.wake(Topic::Key(key.id));
    }
    Ok(())
}

/// The user's own key, masked. It is the newest without a name: older ones live on only in their grace.
pub fn own(reading: &dyn Reading, caller: &Caller) -> Result<OwnKey> {
    let key = own_record(reading, caller.user()?)?;
    Ok(OwnKey {
        id: key.id,
        masked: format!("{}••••••••", key.prefix),
        prefix: key.prefix,
        created_at: key.created_at,
        last_used_at: key.last_used_at,
        expires_at: key.expires_at,
        header: "Bearer ••••".to_owned(),
    })
}

fn own_record(reading: &dyn Reading, user: UserId) -> Result<ApiKey> {
    let keys = of_owner(reading, Owner::User(user))?;
    keys.into_iter().filter(|key| key.is_own() && !key.replaced).max_by_key(|key| key.id).ok_or(Error::NotFound("key"))
}

/// Gives the user a new own key. Old ones end at once, or after a grace. If the call can be repeated, the caller's own
/// one stays known for that and for nothing else.
pub fn replace_own(
    tx: &mut Tx,
    caller: &Caller,
    grace_seconds: u64,
    call: Option<&Repeatable>,
    secrets: &Secrets,
) -> Result<(ApiKey, String)> {
    let user = caller.user()?;
    full_rights(tx, caller)?;
    let mut faults = Faults::default();
    faults.range("/grace_seconds", grace_seconds, 0, MAX_GRACE_SECONDS);
    faults.check()?;
    let ends_at = tx.now().plus_seconds(grace_seconds);
    for mut key in of_owner(tx, Owner::User(user))?.into_iter().filter(ApiKey::is_own) {
        if grace_seconds == 0 && key.id == caller.key_id && is_repeatable(call) {
            key.replaced = true;
            key.expires_at = Some(tx.now().plus_seconds(REPEATABLE_SECONDS));
            table::update(tx, &mut key)?;
            tx.wake(Topic::Key(key.id));
            continue;
        }
        // Those whose grace is over would pile up.
        if grace_seconds == 0 || !key.is_good(tx.now()) {
            revoke(tx, key.id)?;
            continue;
        }
        key.expires_at = Some(key.expires_at.map_or(ends_at, |at| at.min(ends_at)));
        table::update(tx, &mut key)?;
    }
    let text = format!("the user's key was replaced; the old one works for {grace_seconds} s more");
    event::note(tx, user.uuid(), "key_replaced", text, caller.by())?;
    let (key, text) = make_own(tx, user, None, secrets)?;
    let act = Act::new("replace", NOUN, key.id, "own key");
    audit::append(tx, caller, act.after(serde_json::json!({ "grace_seconds": grace_seconds })))?;
    Ok((key, text))
}

fn is_repeatable(call: Option<&Repeatable>) -> bool {
    call.is_some_and(|call| call.key.chars().count() >= MIN_REPEATABLE_CHARS)
}

/// Replaces the own key of the user with this login, if the account has one: for whoever has the host itself.
pub fn replace_for_login(tx: &mut Tx, login: &str, secrets: &Secrets) -> Result<Option<String>> {
    let Some(user) = table::find_by::<User>(tx, Kind::UserByLogin, login)? else { return Ok(None) };
    for key in of_owner(tx, Owner::User(user.id))?.into_iter().filter(ApiKey::is_own) {
        revoke(tx, key.id)?;
    }
    event::note(tx, user.id.uuid(), "key_replaced", "the user's key was replaced on the host itself", "coordinator")?;
    Ok(Some(make_own(tx, user.id, None, secrets)?.1))
}

/// A named key with fewer rights must not give itself a key with more.
fn full_rights(reading: &dyn Reading, caller: &Caller) -> Result<()> {
    let key: ApiKey = table::get(reading, caller.key_id)?;
    if key.permissions.is_some() {
        return Err(Error::Forbidden("a key with a scope of its own cannot manage the user's key".to_owned()));
    }
    Ok(())
}

/// What is needed to reveal the user's key: the sealed text and the hash that the password must fit.
pub fn prepare_reveal(reading: &dyn Reading, caller: &Caller) -> Result<(ApiKey, String)> {
    let user: User = table::get(reading, caller.user()?)?;
    let no_password = || Error::wrong_state("this user has no password; assign a new key instead");
    let hash = user.password_hash.ok_or_else(no_password)?;
    Ok((own_record(reading, user.id)?, hash))
}

/// Notes a try to reveal the key, good or bad.
pub fn note_reveal(tx: &mut Tx, caller: &Caller, good: bool) -> Result<()> {
    let (code, text) = match good {
        true => ("key_revealed", "the user's key was revealed"),
        false => ("key_reveal_refused", "the user's key was not revealed: the password was wrong"),
    };
    event::note(tx, caller.user()?.uuid(), code, text, caller.by())?;
    let key = own_record(tx, caller.user()?)?;
    audit::append(tx, caller, Act::new(if good { "reveal" } else { "reveal_refused" }, NOUN, key.id, "own key"))
}

/// The text of a key that was sealed for its user.
pub fn unseal(key: &ApiKey, secrets: &Secrets) -> Result<String> {
    let sealed = key.sealed.as_ref().ok_or_else(|| Error::wrong_state("this key cannot be revealed"))?;
    let text = secrets.open_sealed(key.id.uuid().as_bytes(), sealed)?;
    String::from_utf8(text).map_err(|_| Error::Internal("a sealed key is not text".to_owned()))
}

/// Named keys of the user, newest first.
pub fn list_named(reading: &dyn Reading, caller: &Caller, query: &PageQuery) -> Result<Page<ApiKey>> {
    caller.require(Permission::KeyManage)?;
    let scan = Scan::of(reading, Kind::ApiKeyByOwner, Owner::User(caller.user()?)).newest_first();
    list::page(reading, scan, Via::Index, query, |key: &ApiKey| key.name.is_some())
}

/// A named key of the caller.
pub fn get_named(reading: &dyn Reading, caller: &Caller, id: KeyId) -> Result<ApiKey> {
    caller.require(Permission::KeyManage)?;
    let user = caller.user()?;
    let key: ApiKey = table::get(reading, id)?;
    match key.owner == Owner::User(user) && key.name.is_some() {
        true => Ok(key),
        false => Err(Error::NotFound("key")),
    }
}

/// A named key, with at most the caller's own rights.
pub fn create_named(tx: &mut Tx, caller: &Caller, new: &NewKey, secrets: &Secrets) -> Result<(ApiKey, String)> {
    caller.require(Permission::KeyManage)?;
    let user = caller.user()?;
    let mut faults = Faults::default();
    faults.name("/name", &new.name);
    if new.expires_at.is_some_and(|at| at <= tx.now()) {
        faults.add("/expires_at", "is in the past");
    }
    let permissions = scope(caller, new.permissions.as_deref(), &mut faults);
    faults.check()?;
    if of_owner(tx, Owner::User(user))?.iter().filter(|key| key.name.is_some()).count() >= MAX_NAMED_KEYS {
        return Err(Error::wrong_state(format!("this user has {MAX_NAMED_KEYS} named keys; delete some first")));
    }
    let text = key_text(tx.random());
    let draft = Draft {
        owner: Owner::User(user),
        name: Some(new.name.clone()),
        text: text.clone(),
        permissions: Some(permissions),
        expires_at: new.expires_at,
        revealable: false,
        session: None,
    };
    let key = make(tx, draft, secrets)?;
    event::note(tx, user.uuid(), "key_created", format!("the named key {} was made", new.name), caller.by())?;
    let rights = serde_json::json!({ "permissions": key.permissions, "expires_at": key.expires_at });
    audit::append(tx, caller, Act::new("create", NOUN, key.id, &new.name).after(rights))?;
    Ok((key, text))
}

fn scope(caller: &Caller, wanted: Option<&[String]>, faults: &mut Faults) -> Permissions {
    let Some(wanted) = wanted else { return caller.permissions };
    let mut permissions = Permissions::new();
    for (number, text) in wanted.iter().enumerate() {
        match matching(text) {
            // Of a pattern the key gets what the caller has.
            Some(found) if text.contains('*') => permissions |= found & caller.permissions,
            Some(found) if caller.permissions.is_superset(found) => permissions |= found,
            Some(_) => faults.add(format!("/permissions/{number}"), "you do not have this permission yourself"),
            None => faults.add(format!("/permissions/{number}"), "there is no such permission"),
        }
    }
    permissions
}

pub fn delete_named(tx: &mut Tx, caller: &Caller, id: KeyId) -> Result<()> {
    caller.require(Permission::KeyManage)?;
    let user = caller.user()?;
    let key: ApiKey = table::get(tx, id)?;
    if key.owner != Owner::User(user) || key.session.is_some() {
        return Err(Error::NotFound("key"));
    }
    let Some(name) = key.name else {
        return Err(Error::wrong_state("this is the user's own key; assign a new one to end it"));
    };
    event::note(tx, user.uuid(), "key_deleted", format!("the named key {name} was deleted"), caller.by())?;
    audit::append(tx, caller, Act::new("delete", NOUN, id, &name))?;
    revoke(tx, id)
}

/// Names of the caller's roles.
pub fn roles(reading: &dyn Reading, caller: &Caller) -> Result<Vec<String>> {
    Ok(match caller.actor {
        Actor::User { id, .. } => role::names(reading, &table::get::<User>(reading, id)?.roles)?,
        Actor::Robot { .. } => vec![Role::Robot.as_str().to_owned()],
        Actor::Job { .. } => Vec::new(),
    })
}
