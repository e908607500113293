//! Commits that are on disk in the log and not yet in the index: kept in memory, laid over the index for every reader.
//!
//! The index is slow beside the log. A thread of its own moves what has gathered into it, many commits at once and in
//! order of their keys, while further commits are made. What is being moved stays in sight until all of it is there,
//! so that the index may be changed under readers.

use std::{sync::Arc, time::Duration};

use drover_protocol::Timestamp;
use parking_lot::{RwLock, RwLockReadGuard};

use super::{Core, index::Index, upkeep::Signal};
use crate::store::{
    engine::{EngineError, KeyRange, Order, Pair, View, WriteSet},
    overlay::Layer,
};

/// Commits wait while more than this waits for the index: memory is bounded, and so are the time that they wait and the
/// deleted keys that a scan must step over.
const LARGEST_BYTES: usize = 4 * 1024 * 1024;
/// Less than this is left to grow for a moment before it is moved: what is written again and again, or comes and goes, as a
/// job does that takes no time, then goes into the index once or not at all.
const SMALL_BYTES: usize = 1024 * 1024;
const MOMENT: Duration = Duration::from_millis(100);
/// Beside its key and value.
const ENTRY_BYTES: usize = 64;
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What has not yet reached the index.
pub struct Recent {
    state: RwLock<State>,
    gathered: Signal,
    moved: Signal,
}

struct State {
    /// Number and time of the last commit.
    position: (u64, Timestamp),
    gathering: WriteSet,
    gathering_bytes: usize,
    moving: Option<Arc<WriteSet>>,
    /// The index has everything up to this commit.
    moved: u64,
}

impl Recent {
    pub fn new(position: (u64, Timestamp)) -> Self {
        let state = State { position, gathering: WriteSet::new(), gathering_bytes: 0, moving: None, moved: position.0 };
        Self { state: RwLock::new(state), gathered: Signal::default(), moved: Signal::default() }
    }

    /// Number and time of the last commit.
    pub fn position(&self) -> (u64, Timestamp) {
        self.state.read().position
    }

    /// The last commit of which the index has everything, as of all before it.
    pub fn moved(&self) -> u64 {
        self.state.read().moved
    }

    /// Shows a commit to readers, all of it at once.
    pub fn add(&self, position: (u64, Timestamp), writes: WriteSet) {
        let bytes =
            |(key, value): (&Vec<u8>, &Option<Vec<u8>>)| key.len() + value.as_ref().map_or(0, Vec::len) + ENTRY_BYTES;
        let added: usize = writes.iter().map(bytes).sum();
        let mut state = self.state.write();
        state.gathering.extend(writes);
        let before = state.gathering_bytes;
        state.gathering_bytes += added;
        let is_news = before == 0 || (before < SMALL_BYTES && state.gathering_bytes >= SMALL_BYTES);
        state.position = position;
        drop(state);
        if is_news {
            self.gathered.wake();
        }
    }

    /// Waits until there is room for another commit, or until `gone`.
    pub fn wait_for_room(&self, gone: impl Fn() -> bool) {
        while self.state.read().gathering_bytes > LARGEST_BYTES && !gone() {
            self.moved.wait(LOOK_AGAIN);
        }
    }

    /// Waits until the index has this commit; `false` if it is `gone` before.
    pub fn wait_for(&self, commit: u64, gone: impl Fn() -> bool) -> bool {
        while self.moved() < commit {
            if gone() {
                return false;
            }
            self.moved.wait(LOOK_AGAIN);
        }
        true
    }

    /// Ends [`run`].
    pub fn stop(&self) {
        self.gathered.stop();
    }

    /// Moves all that has gathered into the index.
    pub fn move_into(&self, index: &Index) -> Result<(), EngineError> {
        let (writes, commit) = {
            let mut state = self.state.write();
            if state.gathering.is_empty() {
                return Ok(());
            }
            let writes = Arc::new(std::mem::take(&mut state.gathering));
            state.gathering_bytes = 0;
            state.moving = Some(Arc::clone(&writes));
            (writes, state.position.0)
        };
        // Should it fail, what was moved stays in sight: readers go on with the state that was committed.
        index.apply(&writes)?;
        let mut state = self.state.write();
        state.moving = None;
        state.moved = commit;
        drop(state);
        self.moved.wake();
        Ok(())
    }

    /// The state as of the last commit. A waiting commit lets no new reader in, so a reader must not ask for a second
    /// view while it has one.
    pub fn view<'a>(&'a self, index: &'a Index) -> Shared<'a> {
        Shared { state: self.state.read(), index }
    }
}

/// A reader's view.
pub struct Shared<'a> {
    state: RwLockReadGuard<'a, State>,
    index: &'a Index,
}

impl Shared<'_> {
    fn layered<T>(&self, read: impl FnOnce(&dyn View) -> T) -> T {
        match &self.state.moving {
            Some(moving) => {
                let below = Layer { writes: moving, base: &self.index };
                read(&Layer { writes: &self.state.gathering, base: &below })
            }
            None => read(&Layer { writes: &self.state.gathering, base: &self.index }),
        }
    }
}

impl View for Shared<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.layered(|view| view.get(key))
    }

    fn scan(&self, range: &KeyRange, order: Order, limit: usize) -> Result<Vec<Pair>, EngineError> {
        self.layered(|view| view.scan(range, order, limit))
    }
}

/// Moves commits into the index until it is stopped.
pub fn run(core: &Core) {
    let recent = &core.recent;
    while recent.gathered.wait(Duration::from_secs(1)) {
        if recent.state.read().gathering_bytes < SMALL_BYTES && !recent.gathered.wait(MOMENT) {
            return;
        }
        if let Err(error) = recent.move_into(&core.index) {
            core.fail(error);
            return;
        }
    }
}
