//! The index beside an ordered map: the same writes give the same pairs, whatever pages they fell into.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use super::*;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn open(folder: &TempDir) -> Index {
    Index::open(folder.path(), 16 * 1024 * 1024).unwrap()
}

/// Keys of a few kinds that share long beginnings, some running on and some scattered, as those of the product.
fn random_key(random: &mut StdRng, step: u32) -> Vec<u8> {
    match random.random_range(0..4) {
        0 => [b"jo-one and the same account-".as_slice(), &step.to_be_bytes()].concat(),
        1 => [b"jp-one and the same account-".as_slice(), &random.random_range(0..400_u32).to_be_bytes()].concat(),
        2 => vec![random.random_range(0..3); random.random_range(0..40)],
        _ => [b"jo-one and the same account-".as_slice(), &random.random_range(0..=step).to_be_bytes()].concat(),
    }
}

fn random_writes(random: &mut StdRng, step: u32) -> WriteSet {
    let count = if random.random_bool(0.1) { 300 } else { random.random_range(1..8) };
    let write = |random: &mut StdRng| {
        let bytes = if random.random_bool(0.02) { 20_000 } else { random.random_range(0..300) };
        let value = random.random_bool(0.6).then(|| vec![random.random(); bytes]);
        (random_key(random, step), value)
    };
    (0..count).map(|_| write(random)).collect()
}

fn assert_same(index: &Index, map: &Map, random: &mut StdRng, step: u32) {
    let (one, other) = (random_key(random, step), random_key(random, step));
    assert_eq!(index.get(&one).unwrap().as_ref(), map.get(&one), "step {step}");
    let range = KeyRange { start: one.clone().min(other.clone()), end: one.max(other) };
    let limit = random.random_range(1..200);
    let expected =
        || map.range(range.start.clone()..range.end.clone()).map(|(key, value)| (key.clone(), value.clone()));
    let ascending = index.scan(&range, Order::Ascending, limit).unwrap();
    assert_eq!(ascending, expected().take(limit).collect::<Vec<_>>(), "step {step}");
    let descending = index.scan(&range, Order::Descending, limit).unwrap();
    assert_eq!(descending, expected().rev().take(limit).collect::<Vec<_>>(), "step {step}");
}

fn all(index: &Index) -> Map {
    let everything = KeyRange { start: Vec::new(), end: vec![0xff; 64] };
    index.scan(&everything, Order::Ascending, usize::MAX).unwrap().into_iter().collect()
}

#[test]
fn it_does_as_an_ordered_map_does() {
    for seed in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        let mut random = StdRng::seed_from_u64(seed);
        let (mut index, mut map) = (open(&folder), Map::new());
        for step in 0..600 {
            let writes = random_writes(&mut random, step);
            index.apply(&writes).unwrap();
            for (key, value) in writes {
                match value {
                    Some(value) => map.insert(key, value),
                    None => map.remove(&key),
                };
            }
            assert_same(&index, &map, &mut random, step);
            if step % 200 == 199 {
                index.set_position(Uuid::nil(), u64::from(step)).unwrap();
                index.sync_everything().unwrap();
                drop(index);
                index = open(&folder);
                assert_eq!(index.position(), Ok(Some((Uuid::nil(), u64::from(step)))));
            }
        }
        assert_eq!(all(&index), map, "seed {seed}");
        index.apply(&map.into_keys().map(|key| (key, None)).collect()).unwrap();
        assert_eq!(index.tree.len(), 1, "seed {seed}: nothing but the position is left when every pair is gone");
    }
}

/// What is not changed is always there, once, while the pages around it are split, filled and emptied.
#[test]
fn readers_see_every_pair_once_while_pages_change() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(&folder);
    let key = |number: u32| number.to_be_bytes().to_vec();
    let kept: Vec<u32> = (0..20_000).step_by(100).collect();
    index.apply(&kept.iter().map(|number| (key(*number), Some(vec![1]))).collect()).unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = StdRng::seed_from_u64(7);
            for _ in 0..300 {
                let from = random.random_range(0..20_000_u32);
                let around = (from..from + 500).filter(|number| number % 100 != 0);
                let value = random.random_bool(0.5).then(|| vec![2; 200]);
                index.apply(&around.map(|number| (key(number), value.clone())).collect()).unwrap();
            }
            ended.store(true, Relaxed);
        });
        for order in [Order::Ascending, Order::Descending] {
            let (index, kept, ended) = (&index, &kept, &ended);
            scope.spawn(move || {
                while !ended.load(Relaxed) {
                    let everything = KeyRange { start: Vec::new(), end: vec![0xff; 8] };
                    let mut found: Vec<u32> = index
                        .scan(&everything, order, usize::MAX)
                        .unwrap()
                        .iter()
                        .filter(|(_, value)| *value == [1])
                        .map(|(key, _)| u32::from_be_bytes(key.as_slice().try_into().unwrap()))
                        .collect();
                    if order == Order::Descending {
                        found.reverse();
                    }
                    assert_eq!(found, *kept);
                }
            });
        }
    });
}

/// An index of the form before pages is told apart, so that the store makes it anew.
#[test]
fn an_index_of_another_form_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(&folder);
    index.tree.insert(POSITION, &[0_u8; 24]).unwrap();
    assert_eq!(index.position(), Err("it has another form".to_owned()));
    assert!(index.apply(&[(vec![7; MAX_KEY_BYTES + 1], None)].into()).is_err());
}
