//! Pending writes laid over a view: what has been written is read back before it is committed.

use std::{cmp::Ordering, collections::VecDeque, ops::Bound};

use super::engine::{EngineError, KeyRange, Order, Pair, View, WriteSet};

/// A view with writes over it.
pub struct Overlay<'a> {
    base: &'a dyn View,
    pub writes: WriteSet,
}

impl<'a> Overlay<'a> {
    pub fn new(base: &'a dyn View) -> Self {
        Self { base, writes: WriteSet::new() }
    }
}

impl View for Overlay<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Layer { writes: &self.writes, base: self.base }.get(key)
    }

    fn scan(&self, range: &KeyRange, order: Order, limit: usize) -> Result<Vec<Pair>, EngineError> {
        Layer { writes: &self.writes, base: self.base }.scan(range, order, limit)
    }
}

/// The same with writes that belong to somebody else.
pub struct Layer<'a> {
    pub writes: &'a WriteSet,
    pub base: &'a dyn View,
}

impl View for Layer<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(&self, range: &KeyRange, order: Order, limit: usize) -> Result<Vec<Pair>, EngineError> {
        if range.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        let bounds = (Bound::Included(range.start.as_slice()), Bound::Excluded(range.end.as_slice()));
        let mut written = self.writes.range::<[u8], _>(bounds);
        let mut next_written = move || match order {
            Order::Ascending => written.next(),
            Order::Descending => written.next_back(),
        };
        let mut write = next_written();
        if write.is_none() {
            return self.base.scan(range, order, limit);
        }
        let mut stored = Stored::new(self.base, range.clone(), order);
        let mut pairs = Vec::new();
        while pairs.len() < limit {
            let side = match (stored.peek(limit - pairs.len())?, write) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((key, _)), Some((written_key, _))) => match order {
                    Order::Ascending => key.cmp(written_key),
                    Order::Descending => written_key.cmp(key),
                },
            };
            // Less: the stored pair comes first. Equal: the write replaces it. Greater: the write comes first.
            let pair = if side == Ordering::Greater { None } else { stored.take() };
            if side == Ordering::Less {
                pairs.extend(pair);
                continue;
            }
            if let Some((key, Some(value))) = write {
                pairs.push((key.clone(), value.clone()));
            }
            write = next_written();
        }
        Ok(pairs)
    }
}

/// The pairs below the overlay, fetched in small pages.
struct Stored<'a> {
    base: &'a dyn View,
    rest: KeyRange,
    order: Order,
    page: VecDeque<Pair>,
    ended: bool,
}

impl<'a> Stored<'a> {
    fn new(base: &'a dyn View, range: KeyRange, order: Order) -> Self {
        Self { base, rest: range, order, page: VecDeque::new(), ended: false }
    }

    fn peek(&mut self, wanted: usize) -> Result<Option<&Pair>, EngineError> {
        if self.page.is_empty() && !self.ended {
            let pairs = self.base.scan(&self.rest, self.order, wanted)?;
            self.ended = pairs.len() < wanted;
            if let Some((last, _)) = pairs.last() {
                self.rest = self.rest.after(last, self.order);
            }
            self.page = pairs.into();
        }
        Ok(self.page.front())
    }

    fn take(&mut self) -> Option<Pair> {
        self.page.pop_front()
    }
}
