//! The audit trail: acts are written in the transaction in which they happen, each with the hash of the one before.
//!
//! Written down is what people do (and every reading of a sealed value, whoever reads). What agents report is told by the
//! events of the object; so is the start of a job, which names who started it: a record for each would cost a fifth more.

use std::net::IpAddr;

use drover_protocol::{
    KeyId, Timestamp,
    audit::{AuditFilter, AuditRecord, AuditVerification},
    page::PageQuery,
};
use serde::Serialize;
use serde_json::Value;

use super::{
    Caller,
    list::{self, Page, Via},
};
use crate::{
    domain::{
        account::User,
        audit::{Act as Record, Checkpoint, Head, REMOVED_NOUN, REMOVED_VERB, bounded, difference, hash_of, hex},
        permission::Permission,
    },
    error::{Error, Result},
    store::{
        Reading, Scan, Tx, check_audit,
        key::{Key, Kind},
        table,
    },
};

/// What was done, to what.
#[derive(Debug)]
pub struct Act<'a> {
    verb: &'static str,
    noun: &'static str,
    object: String,
    name: &'a str,
    before: Option<Value>,
    after: Option<Value>,
}

impl<'a> Act<'a> {
    pub fn new(verb: &'static str, noun: &'static str, object: impl ToString, name: &'a str) -> Self {
        Self { verb, noun, object: object.to_string(), name, before: None, after: None }
    }

    /// What was there before.
    pub fn before(mut self, state: impl Serialize) -> Self {
        self.before = serde_json::to_value(state).ok().map(bounded);
        self
    }

    /// What is there now.
    pub fn after(mut self, state: impl Serialize) -> Self {
        self.after = serde_json::to_value(state).ok().map(bounded);
        self
    }

    /// What has changed between two states.
    pub fn change(self, before: &impl Serialize, after: &impl Serialize) -> Self {
        let states = serde_json::to_value(before).ok().zip(serde_json::to_value(after).ok());
        let Some((before, after)) = states else { return self };
        let (before, after) = difference(before, after);
        self.before(before).after(after)
    }
}

/// Who did it, and from where.
#[derive(Clone, Debug)]
pub struct Author {
    pub actor: String,
    pub name: String,
    pub address: Option<IpAddr>,
    pub key_id: Option<KeyId>,
}

/// How records name somebody of whom nothing is proven.
pub const NOBODY: &str = "unauthenticated";

impl Author {
    pub fn of(caller: &Caller) -> Self {
        let (actor, name) = (caller.by(), caller.name());
        Self { actor, name, address: caller.address, key_id: Some(caller.key_id) }
    }

    /// What the coordinator does by itself.
    pub fn coordinator() -> Self {
        Self { actor: "coordinator".to_owned(), name: "coordinator".to_owned(), address: None, key_id: None }
    }

    /// Somebody who has not signed in.
    pub fn nobody(address: Option<IpAddr>) -> Self {
        Self { actor: NOBODY.to_owned(), name: String::new(), address, key_id: None }
    }
}

/// Writes the act of a caller down.
pub fn append(tx: &mut Tx, caller: &Caller, act: Act) -> Result<()> {
    append_as(tx, Author::of(caller), act)
}

/// Writes an act down.
pub fn append_as(tx: &mut Tx, author: Author, act: Act) -> Result<()> {
    let head = head(tx)?;
    let at = tx.now().max(head.at);
    let record = AuditRecord {
        seq: head.seq + 1,
        at,
        actor: author.actor,
        actor_name: author.name,
        address: author.address.map(|address| address.to_canonical().to_string()),
        key_id: author.key_id,
        verb: act.verb.to_owned(),
        noun: act.noun.to_owned(),
        object: act.object,
        object_name: act.name.to_owned(),
        before: act.before,
        after: act.after,
        previous_hash: hex(&head.hash),
        hash: String::new(),
    };
    let line = serde_json::to_string(&record)
        .map_err(|error| Error::Internal(format!("an act cannot be written down: {error}")))?;
    let hash = hash_of(&line);
    table::insert(tx, &Record { seq: record.seq, line, hash })?;
    let head = rmp_serde::to_vec_named(&Head { seq: record.seq, hash, at })
        .map_err(|error| Error::Internal(format!("the end of the audit trail cannot be written: {error}")))?;
    tx.put(Key::new(Kind::AuditHead, tx.account()).into_bytes(), head)
}

/// Where the trail ends.
fn head(reading: &dyn Reading) -> Result<Head> {
    check_audit::head(reading.view(), reading.account())
}

/// How the records that fit a filter are found: by the most selective index there is.
pub struct Search {
    scan: Scan,
    via: Via,
    filter: AuditFilter,
    by_id: bool,
}

impl Search {
    fn fits(&self, record: &AuditRecord) -> bool {
        let filter = &self.filter;
        filter.actor.as_ref().is_none_or(|actor| record.actor == *actor)
            && filter.noun.as_ref().is_none_or(|noun| record.noun == *noun)
            && filter.verb.as_ref().is_none_or(|verb| record.verb == *verb)
            && filter.object.as_ref().is_none_or(|object| match self.by_id {
                true => record.object == *object,
                false => record.object_name == *object,
            })
    }
}

/// Checks the filter and finds where to look. The records of a search are those of this moment and before.
pub fn search(reading: &dyn Reading, caller: &Caller, filter: &AuditFilter) -> Result<Search> {
    caller.require_whole(Permission::AuditRead)?;
    let mut filter = filter.clone();
    if let Some(actor) = filter.actor.take() {
        filter.actor = Some(named_actor(reading, actor)?);
    }
    let by_id = filter.object.as_ref().is_some_and(|object| uuid::Uuid::try_parse(object).is_ok());
    let from = filter.from.map_or(Ok(1), |from| first_since(reading, from))?;
    let to = filter.to.map_or_else(|| Ok(head(reading)?.seq + 1), |to| first_since(reading, to))?;
    let within = |kind: Kind, parts: Option<&str>| {
        let scan = match parts {
            Some(text) => Scan::of(reading, kind, text),
            None => Scan::of(reading, kind, ()),
        };
        let bound = |seq: u64| match parts {
            Some(text) => table::index_start(reading, kind, (text, seq)),
            None => table::index_start(reading, kind, seq),
        };
        scan.from(bound(from)).below(bound(to))
    };
    let (scan, via) = match (&filter.object, &filter.actor, &filter.noun) {
        (Some(object), ..) if by_id => (within(Kind::AuditByObject, Some(object)), Via::Index),
        (_, Some(actor), _) => (within(Kind::AuditByActor, Some(actor)), Via::Index),
        (_, None, Some(noun)) => (within(Kind::AuditByNoun, Some(noun)), Via::Index),
        (_, None, None) => (within(Kind::Audit, None), Via::Records),
    };
    Ok(Search { scan, via, filter, by_id })
}

/// An actor as the records name it; a login stands for its user.
fn named_actor(reading: &dyn Reading, text: String) -> Result<String> {
    if text.contains(':') || text == "coordinator" || text == NOBODY {
        return Ok(text);
    }
    match table::find_by::<User>(reading, Kind::UserByLogin, text.as_str())? {
        Some(user) => Ok(format!("user:{}", user.id)),
        None => Err(Error::invalid("actor", "there is no such user; say user:<id>, robot:<id>, job:<id> or a login")),
    }
}

/// The number of the first act at this time or later. Times never go back, so that it is found by halving.
fn first_since(reading: &dyn Reading, time: Timestamp) -> Result<u64> {
    let removed = check_audit::checkpoint(reading.view(), reading.account())?.map_or(0, |checkpoint| checkpoint.seq);
    let (mut low, mut high) = (removed + 1, head(reading)?.seq + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let record = table::find::<Record>(reading, middle)?.and_then(|record| record.record());
        match record {
            Some(record) if record.at >= time => high = middle,
            _ => low = middle + 1,
        }
    }
    Ok(low)
}

/// A page of the trail, newest first.
pub fn list(
    reading: &dyn Reading,
    caller: &Caller,
    filter: &AuditFilter,
    query: &PageQuery,
) -> Result<Page<AuditRecord>> {
    let search = search(reading, caller, filter)?;
    let scan = search.scan.clone().newest_first();
    let page = list::page(reading, scan, search.via, query, |record: &Record| {
        record.record().is_some_and(|record| search.fits(&record))
    })?;
    let unreadable = || Error::Internal("a record of the audit trail cannot be read".to_owned());
    let items = page.items.iter().map(|record| record.record().ok_or_else(unreadable)).collect::<Result<_>>()?;
    Ok(Page { items, next_cursor: page.next_cursor })
}

/// The next lines of an export, oldest first; `false` when there are no more.
pub fn export_page(reading: &dyn Reading, search: &mut Search, limit: usize) -> Result<(String, bool)> {
    let found: Vec<(Vec<u8>, Record)> = match search.via {
        Via::Records => search.scan.records(reading, limit)?,
        Via::Index => search.scan.indexed(reading, limit)?,
    };
    let more = found.len() == limit;
    if let Some((last, _)) = found.last() {
        search.scan = search.scan.clone().after(last);
    }
    let fits = |record: &Record| record.record().is_none_or(|parsed| search.fits(&parsed));
    let lines = found.iter().filter(|(_, record)| fits(record)).map(|(_, record)| record.exported()).collect();
    Ok((lines, more))
}

/// Goes through the whole chain.
pub fn verify(reading: &dyn Reading, caller: &Caller) -> Result<AuditVerification> {
    caller.require_whole(Permission::AuditRead)?;
    let found = check_audit::verify(reading.view(), reading.account())?;
    Ok(AuditVerification {
        sound: found.problem_count == 0,
        records: found.records,
        last_seq: found.head.seq,
        last_hash: hex(&found.head.hash),
        problems: found.problems,
    })
}

/// Removes a page of the acts before this time, but for the newest one of all, and says so in the trail, with the number and
/// hash of the last that is gone: so the rest can still be proven. How many were removed.
pub fn expire_page(tx: &mut Tx, before: Timestamp, limit: usize) -> Result<usize> {
    let newest = head(tx)?.seq;
    let mut gone: Option<(u64, [u8; 32])> = None;
    let mut count = 0;
    for (_, act) in Scan::of(tx, Kind::Audit, ()).records::<Record>(tx, limit)? {
        let is_old = act.record().is_none_or(|record| record.at < before);
        if !is_old || act.seq >= newest {
            break;
        }
        table::delete::<Record>(tx, act.seq)?;
        gone = Some((act.seq, act.hash));
        count += 1;
    }
    let Some((seq, hash)) = gone else { return Ok(0) };
    let checkpoint = rmp_serde::to_vec_named(&Checkpoint { seq, hash, removed_at: tx.now() })
        .map_err(|error| Error::Internal(format!("the beginning of the audit trail cannot be written: {error}")))?;
    tx.put(Key::new(Kind::AuditCheckpoint, tx.account()).into_bytes(), checkpoint)?;
    let about = serde_json::json!({ "before": before, "removed": count, "last_seq": seq, "last_hash": hex(&hash) });
    append_as(tx, Author::coordinator(), Act::new(REMOVED_VERB, REMOVED_NOUN, "", "").after(about))?;
    Ok(count)
}

/// Whether the oldest act was made before this time.
pub fn is_older(reading: &dyn Reading, before: Timestamp) -> Result<bool> {
    let first = Scan::of(reading, Kind::Audit, ()).records::<Record>(reading, 1)?;
    Ok(first.first().and_then(|(_, act)| act.record()).is_some_and(|record| record.at < before))
}
