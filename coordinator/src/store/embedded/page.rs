//! A page of the index: neighbouring pairs in one value of sled. It knows the form of a page and how pairs are shared out
//! among pages, and nothing of sled.
//!
//! sled's own leaves hold sixteen entries, and each of their splits writes the whole parent anew. With one entry for each
//! pair that cost more than all the rest of a commit; a page takes all that a commit, or hundreds of them, puts beside it.
//!
//! Form, numbers little-endian: how many bytes the keys begin with in common (u16), number of pairs (u16), these bytes,
//! for each pair where it ends (u32, counted from the first pair), then the pairs: length of the rest of the key (u16), the
//! rest, the value.

use std::{borrow::Cow, cmp::Ordering};

/// Pages are filled up to about so many bytes of keys and values. A larger pair has a page of its own.
pub const TARGET_BYTES: usize = 4096;
const HEAD_BYTES: usize = 4;
const END_BYTES: usize = 4;

/// A key and its value on their way into a page.
pub type Entry<'a> = (Cow<'a, [u8]>, &'a [u8]);

fn bytes_of((key, value): &Entry) -> usize {
    key.len() + value.len()
}

/// A page as it lies in sled. One of another form makes its methods panic; the index guards against that.
#[derive(Clone, Copy)]
pub struct Page<'a> {
    prefix: &'a [u8],
    ends: &'a [u8],
    pairs: &'a [u8],
}

impl<'a> Page<'a> {
    /// No bytes are a page without pairs.
    pub fn read(bytes: &'a [u8]) -> Self {
        if bytes.is_empty() {
            return Self { prefix: &[], ends: &[], pairs: &[] };
        }
        let u16_at = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        let (prefix, rest) = bytes[HEAD_BYTES..].split_at(u16_at(0));
        let (ends, pairs) = rest.split_at(u16_at(2) * END_BYTES);
        Self { prefix, ends, pairs }
    }

    pub fn len(&self) -> usize {
        self.ends.len() / END_BYTES
    }

    fn end(&self, number: usize) -> usize {
        let at = number * END_BYTES;
        let bytes = [self.ends[at], self.ends[at + 1], self.ends[at + 2], self.ends[at + 3]];
        u32::from_le_bytes(bytes) as usize
    }

    /// The rest of a pair's key, and its value.
    fn pair(&self, number: usize) -> (&'a [u8], &'a [u8]) {
        let start = if number == 0 { 0 } else { self.end(number - 1) };
        let pair = &self.pairs[start..self.end(number)];
        let key_bytes = usize::from(u16::from_le_bytes([pair[0], pair[1]]));
        pair[2..].split_at(key_bytes)
    }

    pub fn key(&self, number: usize) -> Vec<u8> {
        [self.prefix, self.pair(number).0].concat()
    }

    pub fn value(&self, number: usize) -> &'a [u8] {
        self.pair(number).1
    }

    /// The number of the first pair whose key is not below this one.
    pub fn position(&self, key: &[u8]) -> usize {
        let shared = key.len().min(self.prefix.len());
        let rest = match key[..shared].cmp(self.prefix) {
            Ordering::Less => return 0,
            Ordering::Greater => return self.len(),
            Ordering::Equal => &key[shared..],
        };
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.pair(middle).0 < rest {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }

    pub fn get(&self, key: &[u8]) -> Option<&'a [u8]> {
        let number = self.position(key);
        let rest = key.strip_prefix(self.prefix)?;
        (number < self.len()).then(|| self.pair(number)).filter(|(found, _)| *found == rest).map(|(_, value)| value)
    }
}

/// What the page holds once these writes, in order of their keys, have been made; and whether they only add to its end.
pub fn merge<'a>(page: Page<'a>, writes: &[(&'a [u8], Option<&'a [u8]>)]) -> (Vec<Entry<'a>>, bool) {
    let mut merged: Vec<Entry> = Vec::with_capacity(page.len() + writes.len());
    let mut number = 0;
    for (key, value) in writes {
        let position = page.position(key);
        merged.extend((number..position).map(|number| (Cow::Owned(page.key(number)), page.value(number))));
        let replaces = position < page.len() && page.key(position) == *key;
        number = position + usize::from(replaces);
        merged.extend(value.map(|value| (Cow::Borrowed(*key), value)));
    }
    let adds_only = number == page.len() && writes.first().is_some_and(|(key, _)| page.position(key) == page.len());
    merged.extend((number..page.len()).map(|number| (Cow::Owned(page.key(number)), page.value(number))));
    (merged, adds_only)
}

/// Shares entries, in order of their keys, out among pages: the first key and the bytes of each. Pages that grow at their
/// end are filled, since nothing will come in between; others are left with room.
pub fn pack(entries: &[Entry], adds_only: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let total: usize = entries.iter().map(bytes_of).sum();
    let limit = match adds_only {
        true => TARGET_BYTES,
        false => total.div_ceil(total.div_ceil(TARGET_BYTES).max(1)),
    };
    let mut pages = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|entry| {
            bytes += bytes_of(entry);
            bytes <= limit
        });
        let count = fits.count().clamp(1, usize::from(u16::MAX));
        let (page, after) = rest.split_at(count);
        pages.push((page[0].0.to_vec(), encode(page)));
        rest = after;
    }
    pages
}

fn encode(entries: &[Entry]) -> Vec<u8> {
    let (first, last) = (&entries[0].0, &entries[entries.len() - 1].0);
    let shared = first.iter().zip(last.iter()).take_while(|(one, other)| one == other).count();
    let total: usize = entries.iter().map(|entry| bytes_of(entry) + 2 + END_BYTES).sum();
    let mut bytes = Vec::with_capacity(HEAD_BYTES + shared + total);
    // Keys are no longer than the engine's limit, and so are their beginnings and ends.
    bytes.extend((shared as u16).to_le_bytes());
    bytes.extend((entries.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&first[..shared]);
    let mut end = 0;
    for (key, value) in entries {
        end += 2 + key.len() - shared + value.len();
        bytes.extend((end as u32).to_le_bytes());
    }
    for (key, value) in entries {
        bytes.extend(((key.len() - shared) as u16).to_le_bytes());
        bytes.extend_from_slice(&key[shared..]);
        bytes.extend_from_slice(value);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

    fn entries(pairs: &Pairs) -> Vec<Entry<'_>> {
        pairs.iter().map(|(key, value)| (Cow::Borrowed(key.as_slice()), value.as_slice())).collect()
    }

    fn pairs_of(page: Page) -> Vec<(Vec<u8>, Vec<u8>)> {
        (0..page.len()).map(|number| (page.key(number), page.value(number).to_vec())).collect()
    }

    fn keys() -> impl Strategy<Value = Vec<u8>> {
        // Few letters, so that keys meet, and begin alike.
        proptest::collection::vec(0_u8..3, 0..6)
    }

    proptest! {
        /// A page gives back what was put into it, by key, by number and by position.
        #[test]
        fn a_page_holds_its_pairs(
            pairs in proptest::collection::btree_map(keys(), proptest::collection::vec(any::<u8>(), 0..9), 1..30),
            asked in keys(),
        ) {
            let bytes = encode(&entries(&pairs));
            let page = Page::read(&bytes);
            prop_assert_eq!(pairs_of(page), pairs.clone().into_iter().collect::<Vec<_>>());
            prop_assert_eq!(page.get(&asked), pairs.get(&asked).map(Vec::as_slice));
            prop_assert_eq!(page.position(&asked), pairs.range(..asked.clone()).count());
        }

        /// Merging is the same as making the writes in a map, and knows when they only add to the end.
        #[test]
        fn merging_is_writing(
            pairs in proptest::collection::btree_map(keys(), proptest::collection::vec(any::<u8>(), 0..3), 0..20),
            writes in proptest::collection::btree_map(keys(), proptest::option::of(proptest::collection::vec(any::<u8>(), 0..3)), 1..20),
        ) {
            let bytes = if pairs.is_empty() { Vec::new() } else { encode(&entries(&pairs)) };
            let list: Vec<_> = writes.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
            let (merged, adds_only) = merge(Page::read(&bytes), &list);
            let mut expected = pairs.clone();
            for (key, value) in &writes {
                match value {
                    Some(value) => expected.insert(key.clone(), value.clone()),
                    None => expected.remove(key),
                };
            }
            prop_assert_eq!(merged, entries(&expected));
            let beyond = pairs.last_key_value().is_none_or(|(last, _)| last < writes.first_key_value().unwrap().0);
            prop_assert_eq!(adds_only, beyond);
        }

        /// Packing loses nothing, keeps the order, and no page but that of a single pair is over the size.
        #[test]
        fn packing_keeps_everything(
            sizes in proptest::collection::vec(prop_oneof![0_usize..200, 3_000_usize..9_000], 1..60),
            adds_only in any::<bool>(),
        ) {
            let pairs: Pairs = sizes.iter().enumerate().map(|(n, size)| (format!("k{n:03}").into_bytes(), vec![7; *size])).collect();
            let pages = pack(&entries(&pairs), adds_only);
            let unpacked: Vec<_> = pages.iter().flat_map(|(_, bytes)| pairs_of(Page::read(bytes))).collect();
            prop_assert_eq!(unpacked, pairs.into_iter().collect::<Vec<_>>());
            for (first, bytes) in &pages {
                let page = Page::read(bytes);
                prop_assert_eq!(first, &page.key(0));
                let held: usize = pairs_of(page).iter().map(|(key, value)| key.len() + value.len()).sum();
                prop_assert!(page.len() == 1 || held <= TARGET_BYTES, "{} pairs of {held} bytes", page.len());
            }
        }
    }
}
