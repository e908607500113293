//! Signing in and out: who may be meant by a login, what is written down of each try, and the sessions of a user.

use std::net::IpAddr;

use drover_protocol::{AccountId, KeyId, UserId, session::SignInMethod};

use super::{
    Caller, account,
    audit::{self, Act, Author},
    census, key,
};
use crate::{
    domain::{
        account::{Account, User},
        key::{ApiKey, Owner, Session},
        name::MAX_NAME_CHARS,
        totals::SignInEnd,
    },
    error::{Error, Result},
    secrets::{Secrets, session_text},
    store::{Reader, Reading, Scan, Tx, key::Kind, table},
};

const NOUN: &str = "session";
/// Accounts in which a login is looked for when none is named.
const MAX_ACCOUNTS: usize = 1_000;
/// So many users of the same login are told apart by their passwords; with more the account must be named.
const MAX_CANDIDATES: usize = 4;
/// Sessions that a user has at once; a further one ends the oldest.
pub const MAX_SESSIONS: usize = 50;
const MAX_AGENT_CHARS: usize = 200;
/// The same for whoever is not let in, whatever the reason is.
pub const REFUSED: Error = Error::Unauthenticated(
    "the login or the password is wrong; where several accounts have the login, the account must be named as well",
);

/// How long sessions last.
#[derive(Clone, Copy, Debug)]
pub struct SessionRules {
    /// It ends when it was not used for so long.
    pub idle_seconds: u64,
    /// It ends after so long at the latest.
    pub lifetime_seconds: u64,
    /// Calls come encrypted: the cookie is sent over nothing else.
    pub encrypted: bool,
}

/// From where somebody signs in, and how.
#[derive(Clone, Debug)]
pub struct Entrance {
    pub method: SignInMethod,
    pub address: Option<IpAddr>,
    pub user_agent: Option<String>,
}

/// Somebody who may be meant by a login.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub account: AccountId,
    pub user: User,
}

impl Candidate {
    /// What the password must fit. Who is blocked has none.
    pub fn password_hash(&self) -> Option<String> {
        self.user.password_hash.clone().filter(|_| !self.user.blocked)
    }
}

/// Everybody who may be meant. `reading` is of the system account.
pub fn candidates(reading: &Reader, login: &str, account: Option<&str>) -> Result<Vec<Candidate>> {
    if login.is_empty() || login.chars().count() > MAX_NAME_CHARS {
        return Ok(Vec::new());
    }
    let accounts: Vec<Account> = match account {
        Some(text) => account::named(reading, text)?,
        None => {
            let accounts = account::some(reading, None, MAX_ACCOUNTS + 1)?;
            if accounts.len() > MAX_ACCOUNTS {
                return Ok(Vec::new());
            }
            accounts
        }
    };
    let lower = login.to_lowercase();
    let mut found = Vec::new();
    for account in accounts.into_iter().filter(Account::is_open) {
        let reading = Reader { view: reading.view, account: account.id, now: reading.now };
        let user = match table::find_by::<User>(&reading, Kind::UserByLogin, login)? {
            None => table::find_by::<User>(&reading, Kind::UserByLogin, lower.as_str())?,
            user => user,
        };
        found.extend(user.map(|user| Candidate { account: account.id, user }));
        if found.len() > MAX_CANDIDATES {
            return Ok(Vec::new());
        }
    }
    Ok(found)
}

/// Lets the user in, and gives the text of the session's key.
pub fn begin(
    tx: &mut Tx,
    user: UserId,
    entrance: &Entrance,
    rules: SessionRules,
    secrets: &Secrets,
) -> Result<(ApiKey, User, String)> {
    let mut user = table::find::<User>(tx, user)?.filter(|user| !user.blocked).ok_or(REFUSED)?;
    if !account::own(tx)?.is_open() {
        return Err(REFUSED);
    }
    user.last_sign_in_at = Some(tx.now());
    table::rewrite(tx, &user)?;
    let session = Session {
        method: entrance.method,
        idle_seconds: rules.idle_seconds,
        address: entrance.address.map(|address| address.to_canonical().to_string()),
        user_agent: entrance.user_agent.as_ref().map(|agent| agent.chars().take(MAX_AGENT_CHARS).collect()),
    };
    let (key, text) = make(tx, user.id, session, rules.lifetime_seconds, secrets)?;
    let author = Author {
        actor: format!("user:{}", user.id),
        name: user.login.clone(),
        address: entrance.address,
        key_id: Some(key.id),
    };
    census::count(tx, |totals| totals.sign_ins[SignInEnd::Accepted as usize] += 1)?;
    let act = Act::new("sign_in", NOUN, user.id, &user.login);
    audit::append_as(tx, author, act.after(serde_json::json!({ "method": entrance.method })))?;
    Ok((key, user, text))
}

/// Why somebody was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such user, or the password is wrong, or the user is blocked.
    Wrong,
    /// Too many have been tried before.
    Throttled,
}

/// Writes down that somebody was not let in as this user; without one the login is unknown. What was typed in place of a
/// known login is not kept: it may have been a password.
pub fn note_refused(tx: &mut Tx, user: Option<&User>, address: Option<IpAddr>, why: Refusal) -> Result<()> {
    let (verb, end) = match why {
        Refusal::Wrong => ("sign_in_refused", SignInEnd::Refused),
        Refusal::Throttled => ("sign_in_throttled", SignInEnd::Throttled),
    };
    census::count(tx, |totals| totals.sign_ins[end as usize] += 1)?;
    let (object, name) = match user {
        Some(user) => (user.id.to_string(), user.login.as_str()),
        None => (String::new(), "(an unknown login)"),
    };
    audit::append_as(tx, Author::nobody(address), Act::new(verb, NOUN, object, name))
}

/// The user's session of this very call.
pub fn current(reading: &dyn Reading, caller: &Caller) -> Result<(ApiKey, User)> {
    let key: Option<ApiKey> = table::find(reading, caller.key_id)?;
    let key = key.filter(|key| key.session.is_some()).ok_or(Error::NotFound("session: the call came with a key"))?;
    Ok((key, table::get(reading, caller.user()?)?))
}

/// Signs the caller out.
pub fn end_current(tx: &mut Tx, caller: &Caller) -> Result<()> {
    let (key, user) = current(tx, caller)?;
    audit::append(tx, caller, Act::new("sign_out", NOUN, user.id, &user.login))?;
    key::revoke(tx, key.id)
}

/// Sessions of the caller, the newest first; there are a few at most.
pub fn list(reading: &dyn Reading, caller: &Caller) -> Result<Vec<ApiKey>> {
    let mut sessions = of_user(reading, caller.user()?)?;
    sessions.retain(|key| key.is_good(reading.now()));
    Ok(sessions)
}

/// Ends one of the caller's sessions.
pub fn end(tx: &mut Tx, caller: &Caller, id: KeyId) -> Result<()> {
    let found = list(tx, caller)?.into_iter().find(|key| key.id == id).ok_or(Error::NotFound("session"))?;
    let user: User = table::get(tx, caller.user()?)?;
    audit::append(tx, caller, Act::new("end_session", NOUN, user.id, &user.login))?;
    key::revoke(tx, found.id)
}

/// Ends the sessions of a user, but for one.
pub fn end_all_of(tx: &mut Tx, user: UserId, except: Option<KeyId>) -> Result<()> {
    for key in of_user(tx, user)?.into_iter().filter(|key| Some(key.id) != except) {
        key::revoke(tx, key.id)?;
    }
    Ok(())
}

/// Sessions of a user, the newest first, those included that have expired.
pub fn of_user(reading: &dyn Reading, user: UserId) -> Result<Vec<ApiKey>> {
    let mut keys = key::of_owner(reading, Owner::User(user))?;
    keys.retain(|key| key.session.is_some());
    keys.sort_by_key(|key| std::cmp::Reverse(key.id));
    Ok(keys)
}

/// A session of a user. Those that have expired end now, and of more than there may be the oldest ones.
fn make(
    tx: &mut Tx,
    user: UserId,
    session: Session,
    lifetime_seconds: u64,
    secrets: &Secrets,
) -> Result<(ApiKey, String)> {
    let (good, bad): (Vec<ApiKey>, Vec<ApiKey>) = of_user(tx, user)?.into_iter().partition(|key| key.is_good(tx.now()));
    for key in bad.iter().chain(good.iter().skip(MAX_SESSIONS - 1)) {
        key::revoke(tx, key.id)?;
    }
    let text = session_text(tx.random());
    let draft = key::Draft {
        owner: Owner::User(user),
        name: None,
        text: text.clone(),
        permissions: None,
        expires_at: Some(tx.now().plus_seconds(lifetime_seconds)),
        revealable: false,
        session: Some(session),
    };
    Ok((key::make(tx, draft, secrets)?, text))
}

/// Sessions that have expired, looking at no more than `limit` keys after `position`. Gives where to go on, or `None` at
/// the end.
pub fn expired(reading: &dyn Reading, position: Option<&[u8]>, limit: usize) -> Result<(Vec<KeyId>, Option<Vec<u8>>)> {
    let scan = Scan::of(reading, Kind::ApiKey, ());
    let scan = match position {
        Some(position) => scan.resume(position),
        None => scan,
    };
    let found = scan.records::<ApiKey>(reading, limit)?;
    let next = found.last().filter(|_| found.len() == limit).map(|(key, _)| Scan::position(key).to_vec());
    let old = found.into_iter().map(|(_, key)| key).filter(|key| key.session.is_some() && !key.is_good(reading.now()));
    Ok((old.map(|key| key.id).collect(), next))
}
