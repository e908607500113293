//! A view for looks that take long. A view of one moment holds up every commit until it is let go of; this one is held for
//! a part of the look at a time, and each part sees the state of its moment.

use super::engine::{Engine, EngineError, KeyRange, Order, Pair, View};

/// Pairs that are read at one moment.
const PART: usize = 500;

pub(super) struct InParts<'a>(pub &'a dyn Engine);

impl View for InParts<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.0.view().get(key)
    }

    fn scan(&self, range: &KeyRange, order: Order, limit: usize) -> Result<Vec<Pair>, EngineError> {
        let mut pairs: Vec<Pair> = Vec::new();
        let mut rest = range.clone();
        loop {
            let wanted = PART.min(limit - pairs.len());
            let part = self.0.view().scan(&rest, order, wanted)?;
            let is_last = part.len() < wanted;
            pairs.extend(part);
            match pairs.last() {
                Some((last, _)) if !is_last && pairs.len() < limit => rest = rest.after(last, order),
                _ => return Ok(pairs),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::Memory;

    /// In either direction and with whatever limit, as a view of one moment does.
    #[test]
    fn scans_give_what_one_view_gives() {
        let engine = Memory::default();
        let keys = (0..3 * PART as u32 + 7).map(|number| (number.to_be_bytes().to_vec(), Some(vec![7])));
        let writes: super::super::engine::WriteSet = keys.collect();
        engine.exclusive(&mut |_| writes.clone()).expect("memory takes it");
        let range = KeyRange { start: vec![], end: vec![0xff; 8] };
        for order in [Order::Ascending, Order::Descending] {
            for limit in [0, 1, PART - 1, PART, PART + 1, 2 * PART, 3 * PART + 7, usize::MAX] {
                let wanted = engine.view().scan(&range, order, limit).expect("it is there");
                assert_eq!(InParts(&engine).scan(&range, order, limit), Ok(wanted), "{order:?} {limit}");
            }
        }
        assert_eq!(InParts(&engine).get(&7_u32.to_be_bytes()), Ok(Some(vec![7])));
    }
}
