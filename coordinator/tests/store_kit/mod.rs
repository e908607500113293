//! What the tests of the store share: settings that make small stores do in a second what large ones do in a day.
#![allow(dead_code, reason = "each test binary uses another part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it must be")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use drover_coordinator::{
    clock::{SystemClock, SystemRandomness},
    store::{
        Db,
        embedded::{Embedded, Settings},
        engine::{Engine, KeyRange, Order, Pair, WriteSet},
    },
};
use drover_protocol::AccountId;
use uuid::Uuid;

pub const ACCOUNT: AccountId = AccountId::from_uuid(Uuid::from_u128(1));

/// Small segments; nothing happens by itself.
pub fn quiet() -> Settings {
    Settings {
        segment_bytes: 16 * 1024,
        cache_bytes: 4 * 1024 * 1024,
        checkpoint_every: Duration::from_secs(3600),
        reserve_bytes: 0,
        ..Settings::default()
    }
}

/// Checkpoints, exports and new segments all the time.
pub fn busy() -> Settings {
    Settings {
        segment_bytes: 128 * 1024,
        checkpoint_bytes: 64 * 1024,
        checkpoint_every: Duration::from_millis(50),
        export_bytes: 256 * 1024,
        ..quiet()
    }
}

pub fn open(path: &Path) -> Embedded {
    Embedded::open(path, quiet()).unwrap()
}

pub fn db(engine: Arc<dyn Engine>) -> Db {
    Db::new(engine, Arc::new(SystemClock), Arc::new(SystemRandomness), Box::new(|_| ()))
}

pub fn all_keys() -> KeyRange {
    KeyRange { start: Vec::new(), end: vec![0xff; 64] }
}

pub fn all_pairs(engine: &dyn Engine) -> Vec<Pair> {
    engine.view().scan(&all_keys(), Order::Ascending, usize::MAX).unwrap()
}

pub fn put(engine: &dyn Engine, key: &str, value: &str) {
    commit(engine, [(key.as_bytes().to_vec(), Some(value.as_bytes().to_vec()))].into());
}

pub fn commit(engine: &dyn Engine, writes: WriteSet) {
    engine.exclusive(&mut |_| writes.clone()).unwrap();
}

pub fn get(engine: &dyn Engine, key: &str) -> Option<String> {
    engine.view().get(key.as_bytes()).unwrap().map(|value| String::from_utf8(value).unwrap())
}

/// Numbered commits with puts and deletes, and what must be there after each of them.
pub fn history(engine: &dyn Engine, count: u64) -> Vec<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut state = BTreeMap::new();
    let mut states = vec![state.clone()];
    for number in 1..=count {
        let key = |number: u64| format!("kk{:04}", number % 50).into_bytes();
        let mut writes: WriteSet = [(key(number), Some(format!("value {number}").repeat(9).into_bytes()))].into();
        writes.insert(b"last".to_vec(), Some(number.to_string().into_bytes()));
        if number % 3 == 0 {
            writes.insert(key(number / 3), None);
        }
        for (key, value) in &writes {
            match value {
                Some(value) => state.insert(key.clone(), value.clone()),
                None => state.remove(key),
            };
        }
        commit(engine, writes);
        states.push(state.clone());
    }
    states
}

pub fn assert_state(engine: &dyn Engine, expected: &BTreeMap<Vec<u8>, Vec<u8>>) {
    let expected: Vec<Pair> = expected.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    assert!(all_pairs(engine) == expected, "the store has other pairs than were committed");
}

/// Files of the log, the oldest first.
pub fn segments(store: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(store.join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths.sort();
    paths
}

/// Start and end of each record of a segment, read from their headers.
pub fn records(segment: &Path) -> Vec<(usize, usize)> {
    let bytes = fs::read(segment).unwrap();
    let mut found = Vec::new();
    let mut at = 64;
    while at + 32 <= bytes.len() && bytes[at..at + 4] == *b"DRVc" {
        let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        let end = at + 32 + length.next_multiple_of(8);
        found.push((at, end));
        at = end;
    }
    found
}

pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Waits for a condition of another thread or process.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "in 20 seconds there was no: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
