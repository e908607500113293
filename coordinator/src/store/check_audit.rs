//! Goes through the chain of an account's audit trail: every act must have the hash that it says, name the hash of the one
//! before, and the last must be the one that is known as the last.

use drover_protocol::{AccountId, Timestamp, audit::AuditRecord};

use super::{
    check::Report,
    engine::{KeyRange, Order, View},
    key::{Key, Kind, SYSTEM_ACCOUNT},
    table::{self, Reader, Scan},
};
use crate::{
    domain::{
        account::Account,
        audit::{Act, Checkpoint, Head, REMOVED_NOUN, REMOVED_VERB, hash_of, hex},
    },
    error::{Error, Result},
};

const PAGE: usize = 1_000;
/// So many problems are described; all are counted.
const DESCRIBED: usize = 100;
const MAX_ACCOUNTS: usize = 100_000;

/// What was found.
#[derive(Debug)]
pub struct Found {
    pub records: u64,
    /// What the store knows as the end of the trail.
    pub head: Head,
    pub problems: Vec<String>,
    pub problem_count: u64,
    /// The last act that was removed for its age and its hash, as the trail says.
    removed: Option<(u64, String)>,
}

/// Where the trail of an account ends.
pub fn head(view: &dyn View, account: AccountId) -> Result<Head> {
    match view.get(&Key::new(Kind::AuditHead, account).into_bytes())? {
        Some(bytes) => rmp_serde::from_slice(&bytes)
            .map_err(|error| Error::Internal(format!("the end of the audit trail cannot be read: {error}"))),
        None => Ok(Head::START),
    }
}

/// Up to where the trail was removed for its age, if it was.
pub fn checkpoint(view: &dyn View, account: AccountId) -> Result<Option<Checkpoint>> {
    let bytes = view.get(&Key::new(Kind::AuditCheckpoint, account).into_bytes())?;
    let read = |bytes: Vec<u8>| {
        rmp_serde::from_slice(&bytes)
            .map_err(|error| Error::Internal(format!("the beginning of the audit trail cannot be read: {error}")))
    };
    bytes.map(read).transpose()
}

/// Goes through all acts of an account, from the checkpoint on.
pub fn verify(view: &dyn View, account: AccountId) -> Result<Found> {
    let head = head(view, account)?;
    let checkpoint = checkpoint(view, account)?;
    let mut found = Found { records: 0, head, problems: Vec::new(), problem_count: 0, removed: None };
    let mut last = match &checkpoint {
        Some(checkpoint) => Head { seq: checkpoint.seq, hash: checkpoint.hash, at: Timestamp::EPOCH },
        None => Head::START,
    };
    let mut range = KeyRange::prefix(Key::new(Kind::Audit, account).into_bytes());
    loop {
        let page = view.scan(&range, Order::Ascending, PAGE)?;
        for (_, bytes) in &page {
            last = found.check(&last, table::decode(bytes));
        }
        match page.last() {
            Some((key, _)) if page.len() == PAGE => range = range.after(key, Order::Ascending),
            _ => break,
        }
    }
    // The trail itself says what was removed; a checkpoint of which it knows nothing was put there by somebody else.
    let told = found.removed.take();
    let expected = checkpoint.map(|checkpoint| (checkpoint.seq, hex(&checkpoint.hash)));
    if told != expected {
        let text = |of: &Option<(u64, String)>| of.as_ref().map_or(0, |(seq, _)| *seq);
        let text = format!("it begins after act {}, but says that it does after {}", text(&expected), text(&told));
        found.problem(text);
    }
    if (last.seq, last.hash) != (found.head.seq, found.head.hash) {
        let text = format!("the trail ends with act {}, but act {} was the last", last.seq, found.head.seq);
        found.problem(text);
    }
    Ok(found)
}

impl Found {
    fn problem(&mut self, text: String) {
        self.problem_count += 1;
        if self.problems.len() < DESCRIBED {
            self.problems.push(text);
        }
    }

    /// Checks the next act and gives what the one after it must name.
    fn check(&mut self, last: &Head, act: Result<Act>) -> Head {
        self.records += 1;
        let expected = last.seq + 1;
        let act = match act {
            Ok(act) => act,
            Err(error) => {
                self.problem(format!("act {expected} cannot be read: {error}"));
                return Head { seq: expected, ..last.clone() };
            }
        };
        let seq = act.seq;
        if seq != expected {
            self.problem(format!("after act {} comes act {seq}: what was between them is gone", last.seq));
        }
        if hash_of(&act.line) != act.hash {
            self.problem(format!("act {seq} was changed: its text does not have its hash"));
        }
        match act.record() {
            Some(record) => {
                let AuditRecord { seq: own, previous_hash, .. } = &record;
                if let Some(removed) = removed_by(&record) {
                    self.removed = Some(removed);
                }
                let own = *own;
                if own != seq {
                    self.problem(format!("act {seq} says that it is act {own}"));
                }
                if *previous_hash != hex(&last.hash) {
                    self.problem(format!("act {seq} does not follow the act before it: that was changed or replaced"));
                }
            }
            None => self.problem(format!("act {seq} is not readable")),
        }
        Head { seq, hash: act.hash, at: last.at }
    }
}

/// What an act of the coordinator says to have removed.
fn removed_by(record: &AuditRecord) -> Option<(u64, String)> {
    if (record.verb.as_str(), record.noun.as_str()) != (REMOVED_VERB, REMOVED_NOUN) {
        return None;
    }
    let about = record.after.as_ref()?;
    Some((about["last_seq"].as_u64()?, about["last_hash"].as_str()?.to_owned()))
}

/// Checks the trails of all accounts.
pub fn check_audit(view: &dyn View, report: &mut Report) -> Result<()> {
    let reading = Reader { view, account: SYSTEM_ACCOUNT, now: drover_protocol::Timestamp::EPOCH };
    let accounts = Scan::of(&reading, Kind::Account, ()).records::<Account>(&reading, MAX_ACCOUNTS)?;
    for (_, account) in accounts {
        let found = verify(view, account.id)?;
        let described = found.problems.len() as u64;
        for problem in found.problems {
            report.problem(format!("audit trail of account {}: {problem}", account.name));
        }
        report.problem_count += found.problem_count - described;
    }
    Ok(())
}
