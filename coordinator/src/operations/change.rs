//! Who may follow the changes of which objects.

use std::collections::BTreeSet;

use drover_protocol::change::{ChangeFilter, Noun};

use super::{Actor, Caller, key};
use crate::{
    domain::permission::to_see,
    error::{Error, Result},
    store::Reading,
};

/// The kinds of objects that the caller wants to be told of and may see by now. Refuses one who may see nothing of it, or
/// whose key has ended.
pub fn nouns(reading: &dyn Reading, caller: &Caller, filter: &ChangeFilter) -> Result<BTreeSet<Noun>> {
    let caller = key::renewed(reading, caller)?;
    if let Actor::Job { .. } = caller.actor {
        return Err(Error::Forbidden("a job's key sees its own job only, and cannot follow changes".to_owned()));
    }
    for noun in &filter.noun {
        caller.require_whole(to_see(*noun))?;
    }
    let wanted = |noun: &Noun| filter.noun.is_empty() || filter.noun.contains(noun);
    // A change is told by what it is of, and not by how far roles reach: who is limited is told none of such objects.
    let may_see = |noun: &Noun| caller.require_whole(to_see(*noun)).is_ok();
    let nouns: BTreeSet<Noun> = Noun::ALL.into_iter().filter(|noun| wanted(noun) && may_see(noun)).collect();
    match nouns.is_empty() {
        true => Err(Error::Forbidden(why_none(&caller, wanted))),
        false => Ok(nouns),
    }
}

/// Why a caller is told of none of these: it may see none of them, or only some objects of each.
fn why_none(caller: &Caller, wanted: impl Fn(&Noun) -> bool) -> String {
    let permissions: BTreeSet<&str> = Noun::ALL
        .into_iter()
        .filter(|noun| wanted(noun) && caller.require(to_see(*noun)).is_ok())
        .map(|noun| to_see(noun).as_str())
        .collect();
    if permissions.is_empty() {
        return "this key may read nothing whose changes could be followed".to_owned();
    }
    let permissions = permissions.into_iter().collect::<Vec<_>>().join(", ");
    format!(
        "the roles that give {permissions} are limited to some objects, and changes are told only to whom may see all \
         of a kind"
    )
}
