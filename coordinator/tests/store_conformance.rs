//! What every engine must do, whatever it is made of. Each rule is one function, run against each engine.
#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it must be")]

mod store_kit;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
};

use drover_coordinator::{
    clock::{SystemClock, SystemRandomness},
    error::{Error, Result},
    store::{
        Db, Reading, Scan,
        embedded::Embedded,
        engine::{Engine, EngineError, KeyRange, Order, View, WriteSet},
        key::{Key, Kind},
        memory::Memory,
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use store_kit::{ACCOUNT, all_pairs, busy, commit, db, get, put};

/// Runs a rule against every engine, each new and empty. The embedded one with settings under which checkpoints,
/// exports and new segments come all the time.
fn for_every_engine(rule: impl Fn(Arc<dyn Engine>)) {
    rule(Arc::new(Memory::default()));
    let folder = tempfile::tempdir().unwrap();
    rule(Arc::new(Embedded::open(folder.path(), busy()).unwrap()));
}

fn keys(view: &dyn View, start: &str, end: &str, order: Order, limit: usize) -> Vec<String> {
    let range = KeyRange { start: start.into(), end: end.into() };
    let pairs = view.scan(&range, order, limit).unwrap();
    pairs.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect()
}

#[test]
fn scans_give_the_keys_of_a_range_in_order() {
    for_every_engine(|engine| {
        for key in ["ab", "a", "b", "aa", "c", "abc", "b\u{7f}"] {
            put(&*engine, key, key);
        }
        let view = engine.view();
        assert_eq!(keys(&*view, "a", "c", Order::Ascending, 99), ["a", "aa", "ab", "abc", "b", "b\u{7f}"]);
        assert_eq!(keys(&*view, "aa", "b", Order::Descending, 99), ["abc", "ab", "aa"]);
        assert_eq!(keys(&*view, "a", "z", Order::Ascending, 2), ["a", "aa"]);
        assert_eq!(keys(&*view, "a", "z", Order::Descending, 2), ["c", "b\u{7f}"]);
        assert!(keys(&*view, "b", "b", Order::Ascending, 9).is_empty());
        assert!(keys(&*view, "c", "a", Order::Descending, 9).is_empty());
        assert!(keys(&*view, "a", "z", Order::Ascending, 0).is_empty());
        assert!(keys(&*view, "d", "z", Order::Ascending, 9).is_empty());
    });
}

#[test]
fn a_whole_scan_shows_nothing_but_what_was_committed() {
    for_every_engine(|engine| {
        assert!(all_pairs(&*engine).is_empty());
        put(&*engine, "aa", "1");
        assert_eq!(all_pairs(&*engine), [(b"aa".to_vec(), b"1".to_vec())]);
        commit(&*engine, [(b"aa".to_vec(), None), (b"none".to_vec(), None)].into());
        assert!(all_pairs(&*engine).is_empty());
    });
}

#[test]
fn values_may_be_empty_or_as_long_as_the_limit() {
    for_every_engine(|engine| {
        let long = "x".repeat(drover_coordinator::store::engine::MAX_VALUE_BYTES);
        put(&*engine, "empty", "");
        for number in 0..40 {
            put(&*engine, &format!("long{number:02}"), &long);
        }
        assert_eq!(get(&*engine, "empty").as_deref(), Some(""));
        assert!((0..40).all(|number| get(&*engine, &format!("long{number:02}")) == Some(long.clone())));
    });
}

#[test]
fn the_body_of_a_commit_sees_the_commit_before() {
    for_every_engine(|engine| {
        for number in 0..100_u32 {
            let mut seen = None;
            engine
                .exclusive(&mut |view| {
                    seen = view.get(b"number").unwrap();
                    [(b"number".to_vec(), Some(number.to_be_bytes().to_vec()))].into()
                })
                .unwrap();
            assert_eq!(seen, number.checked_sub(1).map(|before| before.to_be_bytes().to_vec()));
        }
    });
}

#[test]
fn a_transaction_reads_its_own_writes_laid_over_the_store() {
    for_every_engine(|engine| {
        let db = db(engine);
        let key = |number: u8| Key::new(Kind::Robot, ACCOUNT).with(number).into_bytes();
        let numbers = |reading: &dyn Reading, newest_first: bool, limit| -> Result<Vec<u8>> {
            let scan = Scan::of(reading, Kind::Robot, ());
            let scan = if newest_first { scan.newest_first() } else { scan };
            Ok(scan.pairs(reading, limit)?.into_iter().map(|(_, value)| value[0]).collect())
        };
        block_on(db.write(ACCOUNT, move |tx| (0..6).try_for_each(|number| tx.put(key(number), vec![number])))).unwrap();
        let seen = block_on(db.write(ACCOUNT, move |tx| {
            tx.delete(key(0));
            tx.delete(key(3));
            tx.put(key(4), vec![44])?;
            tx.put(key(9), vec![9])?;
            Ok((numbers(tx, false, 99)?, numbers(tx, true, 3)?, numbers(tx, false, 2)?, tx.view().get(&key(3))?))
        }));
        assert_eq!(seen.unwrap(), (vec![1, 2, 44, 5, 9], vec![9, 5, 44], vec![1, 2], None));
        assert_eq!(db.read(ACCOUNT, |reader| numbers(reader, false, 99)).unwrap(), [1, 2, 44, 5, 9]);
    });
}

/// Every commit gives all keys one and the same new value; a reader that finds two values has seen half of one.
#[test]
fn readers_never_see_half_of_a_commit() {
    const KEYS: u8 = 60;
    const COMMITS: u32 = 300;
    for_every_engine(|engine| {
        let all = |number: u32| -> WriteSet {
            (0..KEYS).map(|key| (vec![b'k', key], Some(number.to_be_bytes().repeat(20)))).collect()
        };
        commit(&*engine, all(0));
        let ended = AtomicBool::new(false);
        let start = Barrier::new(4);
        let reader = |by_scan: bool| {
            start.wait();
            let mut last = Vec::new();
            while !ended.load(Ordering::SeqCst) {
                let view = engine.view();
                let values: Vec<Vec<u8>> = if by_scan {
                    let pairs = view.scan(&KeyRange::prefix(*b"k"), Order::Descending, 99).unwrap();
                    pairs.into_iter().map(|(_, value)| value).collect()
                } else {
                    (0..KEYS).map(|key| view.get(&[b'k', key]).unwrap().unwrap()).collect()
                };
                assert_eq!(values.len(), usize::from(KEYS));
                assert!(values.iter().all(|value| *value == values[0]), "half of a commit was seen");
                assert!(values[0] >= last, "an older state was seen after a newer one");
                last = values[0].clone();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| reader(true));
            scope.spawn(|| reader(false));
            scope.spawn(|| reader(true));
            start.wait();
            (1..=COMMITS).for_each(|number| commit(&*engine, all(number)));
            ended.store(true, Ordering::SeqCst);
        });
    });
}

/// Random commits and reads give what an ordered map gives. The seed is fixed: the same trace every time.
#[test]
fn random_operations_do_as_an_ordered_map_does() {
    for_every_engine(|engine| {
        let mut random = StdRng::seed_from_u64(20_261_123);
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let key = |random: &mut StdRng| -> Vec<u8> {
            let length = random.random_range(1..6);
            (0..length).map(|_| random.random_range(b'a'..b'e')).collect()
        };
        for _ in 0..600 {
            let mut writes = WriteSet::new();
            for _ in 0..random.random_range(0..12) {
                let length = if random.random_bool(0.02) { 60_000 } else { random.random_range(0..200) };
                let value = random.random_bool(0.6).then(|| vec![random.random(); length]);
                writes.insert(key(&mut random), value);
            }
            commit(&*engine, writes.clone());
            for (key, value) in writes {
                match value {
                    Some(value) => model.insert(key, value),
                    None => model.remove(&key),
                };
            }
            let (one, other, limit) = (key(&mut random), key(&mut random), random.random_range(0..30));
            let range = KeyRange { start: one.clone().min(other.clone()), end: one.clone().max(other) };
            let inside = model.range(range.start.clone()..range.end.clone()).map(|(k, v)| (k.clone(), v.clone()));
            let view = engine.view();
            assert_eq!(view.get(&one).unwrap(), model.get(&one).cloned());
            assert!(
                view.scan(&range, Order::Ascending, limit).unwrap() == inside.clone().take(limit).collect::<Vec<_>>()
            );
            assert!(
                view.scan(&range, Order::Descending, limit).unwrap() == inside.rev().take(limit).collect::<Vec<_>>()
            );
        }
        store_kit::assert_state(&*engine, &model);
    });
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn robot(name: &str) -> Vec<u8> {
    Key::new(Kind::RobotByName, ACCOUNT).with(name).into_bytes()
}

/// Operations that are committed together fail apart: by their own error or panic, and only they.
#[test]
fn a_failing_or_panicking_operation_fails_alone() {
    for_every_engine(|engine| {
        let db = Arc::new(db(Arc::clone(&engine)));
        let (good, failing, panicking, after) = block_on(async {
            // The first one keeps the writer until all others wait, so that these make one commit.
            let (release, hold) = std::sync::mpsc::channel::<()>();
            let first = db.write(ACCOUNT, move |_| hold.recv().map_err(|error| Error::Internal(error.to_string())));
            let good = db.write(ACCOUNT, |tx| tx.put(robot("good"), vec![1]));
            let failing = db.write(ACCOUNT, |tx| {
                tx.put(robot("failing"), vec![1])?;
                tx.put(robot("good"), vec![2])?;
                Err::<(), _>(Error::NotFound("robot"))
            });
            let panicking = db.write(ACCOUNT, |tx| -> Result<()> {
                tx.put(robot("panicking"), vec![1])?;
                panic!("on purpose")
            });
            let after = db.write(ACCOUNT, |tx| {
                tx.put(robot("after"), vec![1])?;
                Ok(tx.view().get(&robot("good"))?)
            });
            let released = async {
                tokio::task::yield_now().await;
                release.send(()).map_err(|error| Error::Internal(error.to_string()))
            };
            let (first, good, failing, panicking, after, released) =
                tokio::join!(first, good, failing, panicking, after, released);
            first.and(released).unwrap();
            (good, failing, panicking, after)
        });
        good.unwrap();
        assert_eq!(failing.unwrap_err(), Error::NotFound("robot"));
        assert!(matches!(panicking.unwrap_err(), Error::Internal(_)));
        assert_eq!(after.unwrap(), Some(vec![1]));
        let mut there: Vec<Vec<u8>> = all_pairs(&*engine).into_iter().map(|(key, _)| key).collect();
        there.sort();
        assert_eq!(there, [robot("after"), robot("good")]);
    });
}

/// A caller that goes away does not take its write with it: it is as a call whose answer was lost.
#[test]
fn a_dropped_caller_s_operation_still_runs() {
    for_every_engine(|engine| {
        let db = db(Arc::clone(&engine));
        block_on(async {
            let mut dropped = Box::pin(db.write(ACCOUNT, |tx| tx.put(robot("dropped"), vec![1])));
            let first_poll = futures::poll!(&mut dropped);
            drop(first_poll);
            drop(dropped);
            db.write(ACCOUNT, |tx| tx.put(robot("next"), vec![1])).await.unwrap();
        });
        assert_eq!(all_pairs(&*engine).len(), 2);
        db.close();
    });
}

/// Operations that write more than one commit should hold are spread over several, and every one is answered.
#[test]
fn large_operations_that_wait_together_are_all_committed() {
    for_every_engine(|engine| {
        let db = db(Arc::clone(&engine));
        let write = |number: u8| {
            db.write(ACCOUNT, move |tx| {
                (0..30_u8).try_for_each(|piece| {
                    let key = Key::new(Kind::Document, ACCOUNT).with(number).with(piece).into_bytes();
                    tx.put(key, vec![number; 60 * 1024])
                })
            })
        };
        for outcome in block_on(futures::future::join_all((0..8).map(write))) {
            outcome.unwrap();
        }
        assert_eq!(all_pairs(&*engine).len(), 8 * 30);
    });
}

#[test]
fn a_closed_database_refuses_writes() {
    for_every_engine(|engine| {
        let db = db(engine);
        db.close();
        let refused = block_on(db.write(ACCOUNT, |tx| tx.put(robot("late"), vec![1])));
        assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    });
}

/// How far an engine got that panics in a commit is not known: the caller is told so, whoever must end the process is
/// told, and nothing is written any more. This holds on the caller's own thread as on the writer's.
#[test]
fn an_engine_that_panics_is_broken() {
    struct Panicking(Memory);

    impl Engine for Panicking {
        fn view(&self) -> Box<dyn View + '_> {
            self.0.view()
        }

        fn exclusive(&self, body: &mut dyn FnMut(&dyn View) -> WriteSet) -> Result<(), EngineError> {
            self.0.exclusive(body)?;
            panic!("on purpose")
        }
    }

    for runtime in [tokio::runtime::Builder::new_current_thread, tokio::runtime::Builder::new_multi_thread] {
        let (tell, told) = std::sync::mpsc::channel();
        let on_broken = Box::new(move |reason: &str| tell.send(reason.to_owned()).unwrap());
        let engine = Arc::new(Panicking(Memory::default()));
        let db = Db::new(engine, Arc::new(SystemClock), Arc::new(SystemRandomness), on_broken);
        runtime().build().unwrap().block_on(async {
            for _ in 0..2 {
                let outcome = db.write(ACCOUNT, |tx| tx.put(robot("unknown"), vec![1])).await;
                assert!(matches!(&outcome, Err(Error::Unavailable(text)) if text.contains("unknown")), "{outcome:?}");
            }
        });
        assert_eq!(told.try_iter().collect::<Vec<_>>(), ["the engine panicked"]);
        assert!(db.read_only());
        db.close();
    }
}
