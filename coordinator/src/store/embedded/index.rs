//! The index over the commit log: a sled tree with all pairs as of some commit. The only file that knows sled.
//!
//! Nothing rests on sled keeping anything: whatever it loses is in the log.

use std::{
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use uuid::Uuid;

use crate::store::{
    disk::{self, sync_folder},
    engine::{EngineError, KeyRange, Order, Pair, View, WriteSet},
};

/// Fixed for the life of a folder; pages above a quarter of it would go to files that sled never syncs.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;
/// The key of store and commit number. The product's keys begin with letters.
const POSITION: &[u8] = &[0];
/// sled lets go of its lock a little after it has been dropped.
const LOCK_WAIT: Duration = Duration::from_secs(10);

pub struct Index {
    folder: PathBuf,
    tree: sled::Db,
    /// A handle of sled's own file: sled itself never syncs it on Linux.
    file: File,
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
            let file = File::open(folder.join("db"))?;
            file.sync_all()?;
            sync_folder(folder)?;
            folder.parent().map_or(Ok(()), sync_folder)?;
            Ok(file)
        };
        let file = synced().map_err(|error: io::Error| error.to_string())?;
        Ok(Self { folder: folder.to_owned(), tree, file })
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
        let (store, commit) = value.split_at_checked(16).ok_or("its position cannot be read")?;
        let commit = commit.try_into().map_err(|_| "its position cannot be read")?;
        Ok(Some((Uuid::from_slice(store).unwrap_or_default(), u64::from_be_bytes(commit))))
    }

    /// Puts the writes, in order of their keys. One by one: that is cheaper than a batch of sled, and whether all of
    /// them last does not matter, since the next start puts all again that come after the position.
    pub fn apply(&self, writes: &WriteSet) -> Result<(), EngineError> {
        let apply = || {
            writes.iter().try_for_each(|(key, value)| match value {
                Some(value) => self.tree.insert(key, value.as_slice()).map(drop),
                None => self.tree.remove(key).map(drop),
            })
        };
        guarded(apply).map_err(broken)
    }

    /// Says that everything up to this commit has been applied. sled keeps the order of its writes within a boot.
    pub fn set_position(&self, store: Uuid, commit: u64) -> Result<(), EngineError> {
        let mut position = [0; 24];
        position[..16].copy_from_slice(store.as_bytes());
        position[16..].copy_from_slice(&commit.to_be_bytes());
        guarded(|| self.tree.insert(POSITION, &position).map(drop)).map_err(broken)
    }

    /// Puts pairs without a position: for filling an empty index.
    pub fn load(&self, pairs: &[(&[u8], &[u8])]) -> Result<(), EngineError> {
        guarded(|| pairs.iter().try_for_each(|(key, value)| self.tree.insert(key, *value).map(drop))).map_err(broken)
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
        if key == POSITION {
            return Ok(None);
        }
        Ok(guarded(|| self.tree.get(key)).map_err(broken)?.map(|value| value.to_vec()))
    }

    pub fn scan(&self, range: &KeyRange, order: Order, limit: usize) -> Result<Vec<Pair>, EngineError> {
        let start = range.start.as_slice().max(&[1]);
        if start >= range.end.as_slice() || limit == 0 {
            return Ok(Vec::new());
        }
        let pair =
            |found: sled::Result<(sled::IVec, sled::IVec)>| found.map(|(key, value)| (key.to_vec(), value.to_vec()));
        let scan = || {
            let found = self.tree.range(start..range.end.as_slice());
            match order {
                Order::Ascending => found.take(limit).map(pair).collect(),
                Order::Descending => found.rev().take(limit).map(pair).collect(),
            }
        };
        guarded(scan).map_err(broken)
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
