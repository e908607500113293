//! Join tokens.

use std::net::IpAddr;

use drover_protocol::{JoinTokenId, RobotId, join_token::NewJoinToken, page::PageQuery};

use super::{
    Caller,
    audit::{self, Act},
    list::{self, Page, Via},
    reach, robot_group,
};
use crate::{
    domain::{job::Target, key::JoinToken, name::Faults, permission::Permission, role::Limited},
    error::{Error, Result},
    secrets::{Secrets, key_text},
    store::{
        Reader, Reading, Scan, Tx,
        key::{Key, Kind, SYSTEM_ACCOUNT},
        table,
    },
};

const NOUN: &str = "join_token";
const MIN_SECONDS: u64 = 60;
const MAX_SECONDS: u64 = 31_536_000;
const MAX_USES: u64 = 10_000;
/// How long the token that comes with a robot record made in advance is valid: a week.
const ADVANCE_SECONDS: u64 = 604_800;
/// What is said of every token that is not good.
pub const UNKNOWN: Error = Error::Unauthenticated(
    "the join token is unknown, used up or expired; create a new one with `drover join-token create`",
);

pub fn create(tx: &mut Tx, caller: &Caller, new: &NewJoinToken, secrets: &Secrets) -> Result<(JoinToken, String)> {
    caller.require(Permission::JoinTokenCreate)?;
    let mut faults = Faults::default();
    faults.range("/uses", u64::from(new.uses), 1, MAX_USES);
    faults.range("/expires_in_seconds", new.expires_in_seconds, MIN_SECONDS, MAX_SECONDS);
    let cidr = new
        .cidr
        .as_deref()
        .map(|text| text.parse::<ipnet::IpNet>().or_else(|_| text.parse::<IpAddr>().map(ipnet::IpNet::from)));
    if matches!(cidr, Some(Err(_))) {
        faults.add("/cidr", "is not a network such as 10.1.0.0/16");
    }
    faults.check()?;
    let group_id = match &new.group {
        Some(group) => Some(robot_group::find(tx, caller, Permission::JoinTokenCreate, group, "/group")?.id),
        None if caller.is_limited(Permission::JoinTokenCreate, Limited::RobotGroups) => {
            return Err(Error::invalid("/group", "name a group that your roles reach"));
        }
        None => None,
    };
    let draft = Draft { group_id, robot_id: None, uses: new.uses, seconds: new.expires_in_seconds };
    let (token, text) = make(tx, draft, cidr.and_then(Result::ok), secrets)?;
    let act = Act::new("create", NOUN, token.id, "");
    audit::append(
        tx,
        caller,
        act.after(serde_json::json!({
            "group_id": token.group_id, "uses": token.uses, "expires_at": token.expires_at, "cidr": token.cidr
        })),
    )?;
    Ok((token, text))
}

/// The token with which the agent of a robot record made in advance joins.
pub fn create_for_robot(tx: &mut Tx, robot: RobotId, secrets: &Secrets) -> Result<String> {
    let draft = Draft { group_id: None, robot_id: Some(robot), uses: 1, seconds: ADVANCE_SECONDS };
    Ok(make(tx, draft, None, secrets)?.1)
}

struct Draft {
    group_id: Option<drover_protocol::RobotGroupId>,
    robot_id: Option<RobotId>,
    uses: u32,
    seconds: u64,
}

fn make(tx: &mut Tx, draft: Draft, cidr: Option<ipnet::IpNet>, secrets: &Secrets) -> Result<(JoinToken, String)> {
    let text = key_text(tx.random());
    let token = JoinToken {
        id: JoinTokenId::from_uuid(tx.new_id()),
        hash: secrets.hash(&text),
        group_id: draft.group_id,
        robot_id: draft.robot_id,
        uses: draft.uses,
        uses_left: draft.uses,
        expires_at: tx.now().plus_seconds(draft.seconds),
        cidr,
        created_at: tx.now(),
    };
    let value = rmp_serde::to_vec(&(tx.account(), token.id))
        .map_err(|error| Error::Internal(format!("the entry of a join token cannot be written: {error}")))?;
    tx.put(by_hash(&token.hash), value)?;
    table::insert(tx, &token)?;
    Ok((token, text))
}

fn by_hash(hash: &[u8; 32]) -> Vec<u8> {
    Key::new(Kind::JoinTokenByHash, SYSTEM_ACCOUNT).with(*hash).into_bytes()
}

/// The account that a join token leads into. `reading` is of the system account.
pub fn account_of(
    reading: &Reader,
    text: &str,
    secrets: &Secrets,
) -> Result<(drover_protocol::AccountId, JoinTokenId)> {
    let value = reading.view.get(&by_hash(&secrets.hash(text)))?.ok_or(UNKNOWN)?;
    rmp_serde::from_slice(&value)
        .map_err(|error| Error::Internal(format!("the entry of a join token cannot be read: {error}")))
}

/// The token, if it is good for a host of this address. It is not used up by that.
pub fn check(tx: &mut Tx, id: JoinTokenId, address: Option<IpAddr>) -> Result<JoinToken> {
    let token: JoinToken = table::find(tx, id)?.ok_or(UNKNOWN)?;
    if token.expires_at <= tx.now() {
        return Err(UNKNOWN);
    }
    if let Some(cidr) = token.cidr
        && !address.is_some_and(|address| cidr.contains(&address.to_canonical()))
    {
        return Err(Error::Forbidden("this join token is not valid from this host's address".to_owned()));
    }
    Ok(token)
}

/// Uses the token once.
pub fn spend(tx: &mut Tx, token: &mut JoinToken) -> Result<()> {
    if token.uses_left == 0 {
        return Err(UNKNOWN);
    }
    token.uses_left -= 1;
    table::update(tx, token)
}

/// Join tokens, newest first.
pub fn list(reading: &dyn Reading, caller: &Caller, query: &PageQuery) -> Result<Page<JoinToken>> {
    caller.require(Permission::JoinTokenRead)?;
    let scan = Scan::of(reading, Kind::JoinToken, ()).newest_first();
    list::page(reading, scan, Via::Records, query, |token: &JoinToken| {
        reaches(reading, caller, Permission::JoinTokenRead, token) == Ok(true)
    })
}

/// A join token that the caller may see.
pub fn get(reading: &dyn Reading, caller: &Caller, id: JoinTokenId) -> Result<JoinToken> {
    caller.require(Permission::JoinTokenRead)?;
    let token: JoinToken = table::get(reading, id)?;
    match reaches(reading, caller, Permission::JoinTokenRead, &token)? {
        true => Ok(token),
        false => Err(Error::NotFound("join token")),
    }
}

/// Whether the permission reaches the group or the robot that the token is for.
fn reaches(reading: &dyn Reading, caller: &Caller, permission: Permission, token: &JoinToken) -> Result<bool> {
    match (token.robot_id, token.group_id) {
        (Some(robot), _) => reach::reaches_target(reading, caller, permission, Target::Robot(robot)),
        (None, Some(group)) => reach::reaches_target(reading, caller, permission, Target::Group(group)),
        (None, None) => Ok(!caller.is_limited(permission, Limited::RobotGroups)),
    }
}

pub fn delete(tx: &mut Tx, caller: &Caller, id: JoinTokenId) -> Result<()> {
    caller.require(Permission::JoinTokenDelete)?;
    let token = table::get::<JoinToken>(tx, id)?;
    if !reaches(tx, caller, Permission::JoinTokenDelete, &token)? {
        return Err(Error::NotFound("join token"));
    }
    audit::append(tx, caller, Act::new("delete", NOUN, id, ""))?;
    remove(tx, id)
}

/// Tokens that expired a day ago or earlier, looking at no more than `limit` tokens after `position`. Gives where to go
/// on, or `None` at the end.
pub fn expired(
    reading: &dyn Reading,
    position: Option<&[u8]>,
    limit: usize,
) -> Result<(Vec<JoinTokenId>, Option<Vec<u8>>)> {
    let before = reading.now().minus_seconds(86_400);
    let scan = Scan::of(reading, Kind::JoinToken, ());
    let scan = match position {
        Some(position) => scan.resume(position),
        None => scan,
    };
    let found = scan.records::<JoinToken>(reading, limit)?;
    let next = found.last().filter(|_| found.len() == limit).map(|(key, _)| Scan::position(key).to_vec());
    let old = found.into_iter().map(|(_, token)| token).filter(|token| token.expires_at <= before);
    Ok((old.map(|token| token.id).collect(), next))
}

/// Removes a token ; nothing happens if it is gone already.
pub fn remove(tx: &mut Tx, id: JoinTokenId) -> Result<()> {
    let Some(token) = table::find::<JoinToken>(tx, id)? else { return Ok(()) };
    tx.delete(by_hash(&token.hash));
    table::delete::<JoinToken>(tx, id)
}
