//! The engine for tests: everything in one ordered map, gone with the process.

use std::ops::Bound;

use parking_lot::{RwLock, RwLockReadGuard};

use super::engine::{Engine, EngineError, KeyRange, Order, Pair, View, WriteSet};

type Map = std::collections::BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Debug, Default)]
pub struct Memory {
    map: RwLock<Map>,
    writer: parking_lot::Mutex<()>,
}

struct Guard<'a>(RwLockReadGuard<'a, Map>);

impl View for Guard<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, range: &KeyRange, order: Order, limit: usize) -> Result<Vec<Pair>, EngineError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let bounds = (Bound::Included(range.start.as_slice()), Bound::Excluded(range.end.as_slice()));
        let pairs = self.0.range::<[u8], _>(bounds).map(|(key, value)| (key.clone(), value.clone()));
        Ok(match order {
            Order::Ascending => pairs.take(limit).collect(),
            Order::Descending => pairs.rev().take(limit).collect(),
        })
    }
}

impl Engine for Memory {
    fn view(&self) -> Box<dyn View + '_> {
        Box::new(Guard(self.map.read()))
    }

    fn exclusive(&self, body: &mut dyn FnMut(&dyn View) -> WriteSet) -> Result<(), EngineError> {
        let _serial = self.writer.lock();
        let writes = body(&Guard(self.map.read()));
        let mut map = self.map.write();
        for (key, value) in writes {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok(())
    }
}
