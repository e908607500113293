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
    if nouns.is_empty() {
        return Err(Error::Forbidden("this key may read nothing whose changes could be followed".to_owned()));
    }
    Ok(nouns)
}
