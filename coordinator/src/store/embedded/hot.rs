//! Pairs that were asked for lately. What every request needs, such as its key, its user and its process, is then not
//! looked up in sled's tree each time.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::store::engine::EngineError;

const SHARDS: usize = 16;
/// A shard forgets the older half of what it has when the younger half has grown to this: 8 MiB in all.
const YOUNG_BYTES: usize = 256 * 1024;
/// Larger values are read from sled; copying them is most of their cost.
const MAX_VALUE_BYTES: usize = 4 * 1024;

#[derive(Default)]
pub struct Hot {
    shards: [Mutex<Shard>; SHARDS],
}

/// Two generations: what is asked for again moves from the old to the young, what is not goes with the old.
#[derive(Default)]
struct Shard {
    young: HashMap<Vec<u8>, Vec<u8>>,
    young_bytes: usize,
    old: HashMap<Vec<u8>, Vec<u8>>,
}

impl Shard {
    fn find(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.put(key, value.clone());
        Some(value)
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.young_bytes += key.len() + value.len();
        self.young.insert(key, value);
        if self.young_bytes > YOUNG_BYTES {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
    }
}

impl Hot {
    fn shard(&self, key: &[u8]) -> &Mutex<Shard> {
        // Keys end with ids and names, so their ends are as good as a hash.
        let end = key.last_chunk::<2>().map_or(0, |bytes| usize::from(bytes[0]) + usize::from(bytes[1]));
        &self.shards[end % SHARDS]
    }

    /// The value as it was found before, or as `look` finds it now.
    ///
    /// The shard stays locked during the look. So whoever changes a value, and then calls [`Hot::forget`], finds here
    /// whatever was looked up before the change.
    pub fn get(
        &self,
        key: &[u8],
        look: impl FnOnce() -> Result<Option<Vec<u8>>, EngineError>,
    ) -> Result<Option<Vec<u8>>, EngineError> {
        let mut shard = self.shard(key).lock();
        if let Some(value) = shard.find(key) {
            return Ok(Some(value));
        }
        let found = look()?;
        if let Some(value) = found.as_ref().filter(|value| value.len() <= MAX_VALUE_BYTES) {
            shard.put(key.to_vec(), value.clone());
        }
        Ok(found)
    }

    /// The value has changed.
    pub fn forget(&self, key: &[u8]) {
        let mut shard = self.shard(key).lock();
        if let Some(value) = shard.young.remove(key) {
            shard.young_bytes -= key.len() + value.len();
        }
        shard.old.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Looks up `value`, and counts the looks.
    fn ask(hot: &Hot, key: &[u8], value: Option<&[u8]>, looks: &Cell<usize>) -> Option<Vec<u8>> {
        let look = || {
            looks.set(looks.get() + 1);
            Ok(value.map(<[u8]>::to_vec))
        };
        hot.get(key, look).unwrap()
    }

    #[test]
    fn what_was_found_is_not_looked_up_again_until_it_changes() {
        let (hot, looks) = (Hot::default(), Cell::new(0));
        assert_eq!(ask(&hot, b"k", Some(b"1"), &looks).as_deref(), Some(b"1".as_slice()));
        assert_eq!(ask(&hot, b"k", Some(b"2"), &looks).as_deref(), Some(b"1".as_slice()));
        hot.forget(b"k");
        assert_eq!(ask(&hot, b"k", Some(b"2"), &looks).as_deref(), Some(b"2".as_slice()));
        assert_eq!(looks.get(), 2);
    }

    #[test]
    fn what_is_not_there_or_large_is_looked_up_each_time() {
        let (hot, looks) = (Hot::default(), Cell::new(0));
        let large = vec![0; MAX_VALUE_BYTES + 1];
        for _ in 0..2 {
            assert_eq!(ask(&hot, b"none", None, &looks), None);
            assert_eq!(ask(&hot, b"large", Some(&large), &looks), Some(large.clone()));
        }
        assert_eq!(looks.get(), 4);
    }

    /// Whatever is asked for, memory stays bounded, and what is asked for all the time stays.
    #[test]
    fn memory_is_bounded_and_the_hot_stay() {
        let (hot, looks) = (Hot::default(), Cell::new(0));
        ask(&hot, b"always", Some(b"here"), &looks);
        let value = [0; 1024];
        for number in 0..40_000_u32 {
            ask(&hot, &number.to_be_bytes(), Some(&value), &Cell::new(0));
            ask(&hot, b"always", Some(b"here"), &looks);
        }
        assert_eq!(looks.get(), 1);
        for shard in &hot.shards {
            let shard = shard.lock();
            let bytes = |map: &HashMap<Vec<u8>, Vec<u8>>| map.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
            assert_eq!(bytes(&shard.young), shard.young_bytes);
            assert!(bytes(&shard.young) + bytes(&shard.old) <= 2 * YOUNG_BYTES + MAX_VALUE_BYTES + 100);
        }
    }
}
