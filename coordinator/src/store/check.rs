//! Checks records against their indexes, both ways, and that nothing lies in the store that nobody knows.
//!
//! It reads page by page over one view, so its memory does not grow with the store; it repairs nothing.

use std::{collections::BTreeMap, fmt};

use drover_protocol::AccountId;
use uuid::Uuid;

use super::{
    engine::{EngineError, Order, Pair, View},
    export::everything,
    key::Kind,
    schema::{PLAIN, RECORDS, RecordKind},
};

const PAGE_PAIRS: usize = 1_000;
/// So many problems are described; all are counted.
const DESCRIBED: usize = 100;
/// Two letters and the account.
const PREFIX_BYTES: usize = 18;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Pairs by the letters of their kind.
    pub pairs: BTreeMap<String, u64>,
    /// The first hundred problems in words.
    pub problems: Vec<String>,
    pub problem_count: u64,
}

impl Report {
    pub fn is_sound(&self) -> bool {
        self.problem_count == 0
    }

    pub(super) fn problem(&mut self, text: String) {
        self.problem_count += 1;
        if self.problems.len() < DESCRIBED {
            self.problems.push(text);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: u64 = self.pairs.values().sum();
        writeln!(f, "{pairs} pairs of {} kinds checked, {} problems", self.pairs.len(), self.problem_count)?;
        for problem in &self.problems {
            writeln!(f, "  {problem}")?;
        }
        if self.problem_count > self.problems.len() as u64 {
            writeln!(f, "  … and {} more", self.problem_count - self.problems.len() as u64)?;
        }
        Ok(())
    }
}

/// Checks everything that a view shows.
pub fn check(view: &dyn View) -> Result<Report, EngineError> {
    check_against(view, RECORDS, PLAIN)
}

/// Checks only what lies under these keys: as long as everything else was sound, everything is, unless an index entry was
/// deleted from under a record that is not among them.
pub fn check_keys(view: &dyn View, keys: impl IntoIterator<Item = Vec<u8>>) -> Result<Report, EngineError> {
    let mut report = Report::default();
    for key in keys {
        if let Some(value) = view.get(&key)? {
            check_pair(view, RECORDS, PLAIN, &(key, value), &mut report)?;
        }
    }
    Ok(report)
}

fn check_against(view: &dyn View, records: &[RecordKind], plain: &[Kind]) -> Result<Report, EngineError> {
    let mut report = Report::default();
    let mut rest = everything();
    loop {
        let page = view.scan(&rest, Order::Ascending, PAGE_PAIRS)?;
        for pair in &page {
            check_pair(view, records, plain, pair, &mut report)?;
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE_PAIRS => rest = rest.after(last, Order::Ascending),
            _ => return Ok(report),
        }
    }
}

fn check_pair(
    view: &dyn View,
    records: &[RecordKind],
    plain: &[Kind],
    (key, value): &Pair,
    report: &mut Report,
) -> Result<(), EngineError> {
    let letters = key.get(..2).unwrap_or(key).escape_ascii().to_string();
    *report.pairs.entry(letters).or_default() += 1;
    let kind = Kind::of(key);
    let account = key.get(2..PREFIX_BYTES).and_then(|bytes| Uuid::from_slice(bytes).ok()).map(AccountId::from_uuid);
    let (Some(kind), Some(account)) = (kind, account) else {
        report.problem(format!("nobody knows the key {}", key.escape_ascii()));
        return Ok(());
    };
    if let Some(record) = records.iter().find(|record| record.kind == kind) {
        return check_record(view, record, account, key, value, report);
    }
    if let Some(record) = records.iter().find(|record| record.indexes.contains(&kind)) {
        return check_entry(view, record, account, key, value, report);
    }
    if !plain.contains(&kind) {
        report.problem(format!("nobody knows the key {}", key.escape_ascii()));
    }
    Ok(())
}

/// A record must lie under its own id and have all its index entries.
fn check_record(
    view: &dyn View,
    record: &RecordKind,
    account: AccountId,
    key: &[u8],
    value: &[u8],
    report: &mut Report,
) -> Result<(), EngineError> {
    let (noun, name) = (record.noun, key.escape_ascii());
    let (id, index_keys) = match (record.index_keys_of)(account, value) {
        Ok(found) => found,
        Err(error) => {
            report.problem(format!("{noun} {name}: {error}"));
            return Ok(());
        }
    };
    if key[PREFIX_BYTES..] != id {
        report.problem(format!("{noun} {name} says that its id is {}", id.escape_ascii()));
    }
    for index_key in index_keys {
        match view.get(&index_key)? {
            Some(found) if found == id => {}
            Some(found) => report.problem(format!(
                "the index entry {} of {noun} {name} names {}",
                index_key.escape_ascii(),
                found.escape_ascii()
            )),
            None => report.problem(format!("{noun} {name} has no index entry {}", index_key.escape_ascii())),
        }
    }
    Ok(())
}

/// An index entry must name a record that has it.
fn check_entry(
    view: &dyn View,
    record: &RecordKind,
    account: AccountId,
    key: &[u8],
    id: &[u8],
    report: &mut Report,
) -> Result<(), EngineError> {
    let record_key = [&record.kind.bytes()[..], &key[2..PREFIX_BYTES], id].concat();
    let Some(value) = view.get(&record_key)? else {
        report.problem(format!("the index entry {} names a {} that is not there", key.escape_ascii(), record.noun));
        return Ok(());
    };
    // A record that cannot be read is reported as such where it lies.
    if let Ok((_, index_keys)) = (record.index_keys_of)(account, &value)
        && !index_keys.iter().any(|own| own == key)
    {
        report.problem(format!("the index entry {} is none of the {} that it names", key.escape_ascii(), record.noun));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::{
        clock::{SystemClock, SystemRandomness},
        store::{
            Db, IndexEntry, Record,
            engine::Engine,
            key::Key,
            memory::Memory,
            table::{self, index_keys_of},
        },
    };

    #[derive(Clone, Serialize, Deserialize)]
    struct Thing {
        id: Uuid,
        name: String,
        size: u32,
    }

    impl Record for Thing {
        const KIND: Kind = Kind::Robot;
        const NOUN: &'static str = "thing";
        type Id = Uuid;

        fn id(&self) -> Uuid {
            self.id
        }

        fn indexes(&self) -> Vec<IndexEntry> {
            vec![
                IndexEntry::unique(Kind::RobotByName, self.name.as_str()),
                IndexEntry::many(Kind::RobotByGroup, self.size),
            ]
        }
    }

    const THINGS: &[RecordKind] = &[RecordKind {
        kind: Kind::Robot,
        noun: "thing",
        indexes: &[Kind::RobotByName, Kind::RobotByGroup],
        index_keys_of: index_keys_of::<Thing>,
    }];

    const ACCOUNT: AccountId = AccountId::from_uuid(Uuid::from_u128(7));

    fn things(engine: &Arc<dyn Engine>) -> Vec<Uuid> {
        let db = Db::inline(Arc::clone(engine), Arc::new(SystemClock), Arc::new(SystemRandomness));
        let write = db.write(ACCOUNT, |tx| {
            let mut ids = Vec::new();
            for number in 0..3 {
                let thing = Thing { id: tx.new_id(), name: format!("thing {number}"), size: number % 2 };
                table::insert(tx, &thing)?;
                ids.push(thing.id);
            }
            let mut second: Thing = table::get(tx, ids[1])?;
            second.name = "renamed".to_owned();
            table::update(tx, &mut second)?;
            table::delete::<Thing>(tx, ids[2])?;
            Ok(ids)
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(write).unwrap()
    }

    fn put(engine: &Arc<dyn Engine>, key: Vec<u8>, value: Option<Vec<u8>>) {
        engine.exclusive(&mut |_| [(key.clone(), value.clone())].into()).unwrap();
    }

    /// What the tables write is sound, after inserting, renaming and deleting.
    #[test]
    fn what_tables_write_is_sound() {
        let engine: Arc<dyn Engine> = Arc::new(Memory::default());
        things(&engine);
        let report = check_against(&*engine.view(), THINGS, &[]).unwrap();
        assert!(report.is_sound(), "{report}");
        let counts: Vec<(&str, u64)> = report.pairs.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
        assert_eq!(counts, [("rb", 2), ("rg", 2), ("rn", 2)]);
    }

    /// Each kind of disagreement is found and named: the two directions are checked on their own.
    #[test]
    fn every_disagreement_is_named() {
        let id = |number: u128| Uuid::from_u128(number);
        let key = |kind| Key::new(kind, ACCOUNT);
        let cases = [
            (key(Kind::RobotByName).with("thing 0").into_bytes(), None, "has no index entry"),
            (key(Kind::RobotByName).with("thing 0").into_bytes(), Some(id(9).as_bytes().to_vec()), "names"),
            (key(Kind::RobotByName).with("nobody").into_bytes(), Some(id(9).as_bytes().to_vec()), "is not there"),
            (key(Kind::Robot).with(id(9)).into_bytes(), Some(vec![1, 0xc1]), "cannot be read"),
            (key(Kind::Robot).with(id(9)).into_bytes(), Some(Vec::new()), "is empty"),
            (key(Kind::Job).with(id(9)).into_bytes(), Some(vec![1]), "nobody knows"),
            (b"zz".to_vec(), Some(vec![1]), "nobody knows"),
        ];
        for (key, value, expected) in cases {
            let engine: Arc<dyn Engine> = Arc::new(Memory::default());
            things(&engine);
            put(&engine, key, value);
            let report = check_against(&*engine.view(), THINGS, &[]).unwrap();
            assert!(report.problems.iter().any(|problem| problem.contains(expected)), "{expected}: {report}");
        }
    }

    /// An entry left behind by a record that has moved on is found, although the record that it names is there.
    #[test]
    fn a_stale_index_entry_is_found() {
        let engine: Arc<dyn Engine> = Arc::new(Memory::default());
        let ids = things(&engine);
        let stale = Key::new(Kind::RobotByName, ACCOUNT).with("thing 1").into_bytes();
        put(&engine, stale, Some(ids[1].as_bytes().to_vec()));
        let report = check_against(&*engine.view(), THINGS, &[]).unwrap();
        assert_eq!(report.problem_count, 1, "{report}");
        assert!(report.problems[0].contains("is none of the thing"), "{report}");
    }

    /// A store that is wrong all over gives a report of bounded size with the true count.
    #[test]
    fn problems_are_counted_beyond_those_described() {
        let engine: Arc<dyn Engine> = Arc::new(Memory::default());
        for number in 0..2_500_u32 {
            put(&engine, [b"zz".as_slice(), &number.to_be_bytes()].concat(), Some(vec![1]));
        }
        let report = check_against(&*engine.view(), THINGS, &[]).unwrap();
        assert_eq!((report.problems.len(), report.problem_count), (DESCRIBED, 2_500));
        assert_eq!(report.pairs["zz"], 2_500);
    }
}
