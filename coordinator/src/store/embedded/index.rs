//! The index over the commit log: a sled tree with all pairs as of some commit, in pages. The only file that knows sled.
//!
//! Nothing rests on sled keeping anything: whatever it loses is in the log.

use std::{
    fs::{self, File},
    io,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::RwLock;
use uuid::Uuid;

use super::{
    hot::Hot,
    page::{self, Page},
};
use crate::store::{
    disk::{self, sync_folder},
    engine::{EngineError, KeyRange, MAX_KEY_BYTES, Order, Pair, View, WriteSet},
};

/// Fixed for the life of a folder; pages above a quarter of it would go to files that sled never syncs.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;
/// Space that is held behind the end of sled's file: several times what may wait to be moved into it.
const ROOM_BYTES: u64 = 32 * 1024 * 1024;
/// Where store and commit number lie. It is below all pages.
const POSITION: &[u8] = &[0];
/// The form of the pages, written beside the position: an index of another form is made anew.
const FORM: u8 = 2;
/// A page lies under its fence: this byte and a key. It holds the pairs from that key on, up to the next fence.
const LOWEST: &[u8] = &[1];
/// About so many bytes are written before readers get a turn.
const WRITE_BYTES: usize = 64 * 1024;
/// sled lets go of its lock a little after it has been dropped.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// A key and its new value, or nothing if it is deleted.
type Write<'a> = (&'a [u8], Option<&'a [u8]>);

pub struct Index {
    folder: PathBuf,
    tree: sled::Db,
    /// Held for writing while pages change, so that readers never see a pair in two pages or in none.
    structure: RwLock<()>,
    hot: Hot,
    /// A handle of sled's own file: sled itself never syncs it on Linux.
    file: File,
    /// Where the file ended when room was held for it.
    held_from: AtomicU64,
}

fn fence_of(key: &[u8]) -> Vec<u8> {
    [LOWEST, key].concat()
}

fn broken(error: impl std::fmt::Display) -> EngineError {
    EngineError::Broken(format!("the index failed: {error}"))
}

/// sled may panic where it should give an error.
fn guarded<T>(action: impl FnOnce() -> sled::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(action)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("it panicked".to_owned()),
    }
}

impl Index {
    /// Opens or makes the index in a folder. Whether what is in it can be believed is for the caller to judge.
    pub fn open(folder: &Path, cache_bytes: u64) -> Result<Self, String> {
        let config = sled::Config::new()
            .path(folder)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(cache_bytes)
            .flush_every_ms(None);
        let started = Instant::now();
        let tree = loop {
            match guarded(|| config.open()) {
                Err(error) if error.contains("could not acquire lock") && started.elapsed() < LOCK_WAIT => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                result => break result?,
            }
        };
        let synced = || {
            let file = File::options().read(true).write(true).open(folder.join("db"))?;
            file.sync_all()?;
            sync_folder(folder)?;
            folder.parent().map_or(Ok(()), sync_folder)?;
            Ok(file)
        };
        let file = synced().map_err(|error: io::Error| error.to_string())?;
        Ok(Self {
            folder: folder.to_owned(),
            tree,
            structure: RwLock::default(),
            hot: Hot::default(),
            file,
            held_from: AtomicU64::new(u64::MAX),
        })
    }

    /// Whether there is anything in the folder.
    pub fn is_there(folder: &Path) -> bool {
        folder.join("db").exists()
    }

    /// Whether sled has put a page aside into a file that it does not sync. With values within the limit it never does.
    pub fn has_stray_pages(folder: &Path) -> bool {
        fs::read_dir(folder.join("blobs")).is_ok_and(|mut entries| entries.next().is_some())
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Store and commit number that the pairs stand at; `None` if nothing was ever completed.
    pub fn position(&self) -> Result<Option<(Uuid, u64)>, String> {
        let Some(value) = guarded(|| self.tree.get(POSITION))? else { return Ok(None) };
        let Some((&FORM, rest)) = value.split_first() else { return Err("it has another form".to_owned()) };
        let (store, commit) = rest.split_at_checked(16).ok_or("its position cannot be read")?;
        let commit = commit.try_into().map_err(|_| "its position cannot be read")?;
        Ok(Some((Uuid::from_slice(store).unwrap_or_default(), u64::from_be_bytes(commit))))
    }

    /// Makes the writes. Whether all of them last does not matter, since the next start makes all again that come after
    /// the position; but of neighbouring pages either all are as they were or none, lest a pair falls between them.
    pub fn apply(&self, writes: &WriteSet) -> Result<(), EngineError> {
        let writes: Vec<Write> = writes.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
        self.write(&writes)
    }

    /// Puts pairs without a position: for filling an empty index.
    pub fn load(&self, pairs: &[(&[u8], &[u8])]) -> Result<(), EngineError> {
        let mut writes: Vec<Write> = pairs.iter().map(|(key, value)| (*key, Some(*value))).collect();
        writes.sort_unstable_by_key(|(key, _)| *key);
        self.write(&writes)
    }

    /// Makes writes that are in order of their keys, so many at a time that readers need not wait for long.
    fn write(&self, writes: &[Write]) -> Result<(), EngineError> {
        if writes.iter().any(|(key, _)| key.len() > MAX_KEY_BYTES) {
            return Err(broken("a key is too long for it"));
        }
        let mut rest = writes;
        while !rest.is_empty() {
            let done = {
                let _changing = self.structure.write();
                guarded(|| self.write_some(rest)).map_err(broken)?
            };
            let (written, after) = rest.split_at(done);
            written.iter().for_each(|(key, _)| self.hot.forget(key));
            rest = after;
        }
        Ok(())
    }

    /// Makes the first of the writes, as far as they belong to one page, and tells how many.
    fn write_some(&self, writes: &[Write]) -> sled::Result<usize> {
        let (fence, bytes) = self.page_for(writes[0].0)?.unwrap_or_else(|| (LOWEST.into(), sled::IVec::default()));
        let above = self.tree.get_gt(&fence)?.map(|(fence, _)| fence);
        let mut size = 0;
        let fit = writes.iter().take_while(|(key, value)| {
            let before = size;
            size += key.len() + value.map_or(0, <[u8]>::len);
            before < WRITE_BYTES && above.as_ref().is_none_or(|above| *key < &above[1..])
        });
        let writes = &writes[..fit.count()];
        let (entries, adds_only) = page::merge(Page::read(&bytes), writes);
        let mut pages = page::pack(&entries, adds_only).into_iter();
        match (pages.next(), pages.len()) {
            (None, _) => drop(self.tree.remove(&fence)?),
            (Some((_, first)), 0) => drop(self.tree.insert(&fence, first)?),
            (Some((_, first)), _) => {
                let mut batch = sled::Batch::default();
                batch.insert(&fence, first);
                pages.for_each(|(key, bytes)| batch.insert(fence_of(&key), bytes));
                self.tree.apply_batch(batch)?;
            }
        }
        Ok(writes.len())
    }

    /// The page that holds the key, or would hold it, under its fence.
    fn page_for(&self, key: &[u8]) -> sled::Result<Option<(sled::IVec, sled::IVec)>> {
        self.tree.range(LOWEST.to_vec()..=fence_of(key)).next_back().transpose()
    }

    /// Says that everything up to this commit has been applied. sled keeps the order of its writes within a boot.
    pub fn set_position(&self, store: Uuid, commit: u64) -> Result<(), EngineError> {
        let position = [&[FORM], store.as_bytes().as_slice(), &commit.to_be_bytes()].concat();
        guarded(|| self.tree.insert(POSITION, position.as_slice()).map(drop)).map_err(broken)
    }

    /// Ensures that what waits for the index will find space, whoever else fills the disk: sled cannot go on after it has
    /// found none. Cheap unless the file has grown.
    ///
    /// # Errors
    /// There is not so much space.
    pub fn hold_room(&self) -> io::Result<()> {
        let end = self.file.metadata()?.len();
        if self.held_from.load(Ordering::Relaxed) == end {
            return Ok(());
        }
        let (_, total) = disk::space(&self.folder)?;
        disk::hold_space(&self.file, end, ROOM_BYTES.min(total / 8))?;
        self.held_from.store(end, Ordering::Relaxed);
        Ok(())
    }

    /// Brings all that was applied before to the disk.
    pub fn sync(&self) -> Result<(), EngineError> {
        guarded(|| self.tree.flush()).map_err(broken)?;
        self.file.sync_data().map_err(broken)
    }

    /// The same, with the files that sled keeps beside: for a folder that is to be believed after a power cut.
    pub fn sync_everything(&self) -> Result<(), EngineError> {
        self.sync()?;
        sync_files(&self.folder).map_err(broken)
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.hot.get(key, || {
            let _unchanged = self.structure.read();
            let look = || Ok(self.page_for(key)?.and_then(|(_, page)| Page::read(&page).get(key).map(<[u8]>::to_vec)));
            guarded(look).map_err(broken)
        })
    }

    pub fn scan(&self, range: &KeyRange, order: Order, limit: usize) -> Result<Vec<Pair>, EngineError> {
        if range.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        let _unchanged = self.structure.read();
        guarded(|| self.scan_pages(range, order, limit)).map_err(broken)
    }

    fn scan_pages(&self, range: &KeyRange, order: Order, limit: usize) -> sled::Result<Vec<Pair>> {
        // Most scans end in the page in which they begin, so that a second way down the tree is saved.
        let (start, end) = (fence_of(&range.start), fence_of(&range.end));
        let (mut first, mut pages) = match order {
            Order::Ascending => {
                let first = self.page_for(&range.start)?;
                let after = first.as_ref().map_or_else(|| LOWEST.to_vec(), |(fence, _)| fence.to_vec());
                (first, self.tree.range((Bound::Excluded(after), Bound::Excluded(end))))
            }
            Order::Descending => (None, self.tree.range(LOWEST.to_vec()..end)),
        };
        let mut pairs = Vec::new();
        while pairs.len() < limit {
            let page = match (order, first.take()) {
                (Order::Ascending, Some(first)) => Some(first),
                (Order::Ascending, None) => pages.next().transpose()?,
                (Order::Descending, _) => pages.next_back().transpose()?,
            };
            let Some((fence, page)) = page else { break };
            let page = Page::read(&page);
            let within = page.position(&range.start)..page.position(&range.end);
            let pair = |number| (page.key(number), page.value(number).to_vec());
            let wanted = limit - pairs.len();
            match order {
                Order::Ascending => pairs.extend(within.take(wanted).map(pair)),
                Order::Descending => pairs.extend(within.rev().take(wanted).map(pair)),
            }
            if order == Order::Descending && *fence <= *start {
                break;
            }
        }
        Ok(pairs)
    }
}

impl View for &Index {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Index::get(self, key)
    }

    fn scan(&self, range: &KeyRange, order: Order, limit: usize) -> Result<Vec<Pair>, EngineError> {
        Index::scan(self, range, order, limit)
    }
}

fn sync_files(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() {
            File::open(&path)?.sync_all()?;
        }
    }
    sync_folder(folder)?;
    folder.parent().map_or(Ok(()), disk::sync_folder)
}

#[cfg(test)]
mod tests;
