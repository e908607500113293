//! The default engine: a commit log that is the acknowledgement, and an index over it that can always be made anew.
//!
//! A commit is appended to the log, and when it is on disk every reader sees it, all of it at once; it goes into the
//! index soon afterwards. What lies in the store's folder: `log/`, `export/`, `sled/` (the index),
//! `marker`, `LOCK`.

mod hot;
mod index;
mod marker;
mod page;
mod recent;
mod recovery;
mod upkeep;

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use drover_protocol::Timestamp;
use parking_lot::Mutex;
use uuid::Uuid;

use self::{
    index::Index,
    marker::Marker,
    recent::Recent,
    recovery::{Opened, Repair},
    upkeep::Signal,
};
use super::{
    commit_log::{CommitLog, Segment, recovery::LogError},
    disk::{self, create_folder},
    engine::{Engine, EngineError, View, WriteSet},
    export::{Export, ExportError, WriteError},
};
use crate::clock::{Clock, Randomness, SystemClock, SystemRandomness};

/// A file that lies in the folder while a restore fills it.
pub const RESTORING: &str = "RESTORING";

/// How long the lock of another process is waited for.
const LOCK_WAIT: Duration = Duration::from_millis(500);

/// A look at the free space is good for so long, and for so many bytes of the log: the reserve is there for what is written
/// meanwhile, and the index has room held for all that can wait for it.
const LOOK_TIME: Duration = Duration::from_millis(50);
const LOOK_BYTES: u64 = 1024 * 1024;

/// How the embedded engine works.
#[derive(Clone)]
pub struct Settings {
    /// Size of a file of the log; its space is taken beforehand. Large enough for many commits.
    pub segment_bytes: u64,
    /// Memory for the index's pages; the process takes about 120 MB beside it.
    pub cache_bytes: u64,
    /// The index is brought to the disk after so much log, or after `checkpoint_every`.
    pub checkpoint_bytes: u64,
    pub checkpoint_every: Duration,
    /// An export is made when the log since the last one is larger than it, and at least this large.
    pub export_bytes: u64,
    /// Where segments and exports go that are no longer needed; without it they are deleted.
    pub archive: Option<PathBuf>,
    /// Writes are refused when less than this is free, or an eighth of a smaller disk.
    pub reserve_bytes: u64,
    pub clock: Arc<dyn Clock>,
    pub randomness: Arc<dyn Randomness>,
    /// Called when the engine fails outside of a write; it must end the process.
    pub on_broken: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * 1024 * 1024,
            cache_bytes: 128 * 1024 * 1024,
            checkpoint_bytes: 64 * 1024 * 1024,
            checkpoint_every: Duration::from_secs(60),
            export_bytes: 64 * 1024 * 1024,
            archive: None,
            reserve_bytes: 64 * 1024 * 1024,
            clock: Arc::new(SystemClock),
            randomness: Arc::new(SystemRandomness),
            on_broken: Arc::new(|_| ()),
        }
    }
}

/// Why a store was not opened. Each says what helps.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("another process uses the store in {}; stop it first", .0.display())]
    Locked(PathBuf),
    #[error("{action} {} failed: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{0}; restore a backup into an empty folder with `drover-coordinator restore`, or go on without what follows \
         the damage with `drover-coordinator rebuild --accept-loss`"
    )]
    Log(#[from] LogError),
    #[error("{0}; restore a backup into an empty folder with `drover-coordinator restore`")]
    Export(#[from] ExportError),
    #[error(
        "the log ends at commit {found} ({}, byte {}), but commit {known} was on disk before: its end is damaged or \
         missing; put the missing file back, restore a backup into an empty folder with `drover-coordinator restore`, \
         or go on without the missing commits with `drover-coordinator rebuild --accept-loss`", at.0.display(), at.1
    )]
    LogTooShort { known: u64, found: u64, at: (PathBuf, u64) },
    #[error(
        "the log does not have the commits {from} to {to}: the files before {} are missing; put them back, or restore \
         a backup into an empty folder with `drover-coordinator restore`", folder.display()
    )]
    LogGap { from: u64, to: u64, folder: PathBuf },
    #[error(
        "there is no log in {}, though there was a store; put its files back, or restore a backup into an empty folder \
         with `drover-coordinator restore`", folder.display()
    )]
    NoLog { folder: PathBuf },
    #[error("{} belongs to another store; put the right file back", path.display())]
    OtherStore { path: PathBuf },
    #[error("a restore into {} did not end; empty the folder and restore again", .0.display())]
    Unfinished(PathBuf),
    #[error("a new index cannot be opened: {0}")]
    Index(String),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl OpenError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

/// Where everything lies.
#[derive(Clone, Debug)]
struct Folders {
    store: PathBuf,
    log: PathBuf,
    export: PathBuf,
    index: PathBuf,
}

impl Folders {
    fn of(store: &Path) -> Self {
        let [log, export, index] = ["log", "export", "sled"].map(|name| store.join(name));
        Self { store: store.to_owned(), log, export, index }
    }
}

/// What is shared with the engine's own threads.
struct Core {
    folders: Folders,
    settings: Settings,
    store: Uuid,
    index: Index,
    recent: Recent,
    /// The writer's alone; nothing once the store is closed.
    log: Mutex<Option<CommitLog>>,
    /// The newest export; held by whoever makes one or must not lose segments.
    export: Mutex<Option<Export>>,
    full: AtomicBool,
    /// The last look that found enough space; the writer's alone.
    seen_space: Mutex<Option<SeenSpace>>,
    broken: Mutex<Option<String>>,
    unsynced_bytes: AtomicU64,
    /// Up to this commit the index is on disk; held while it is brought there.
    checkpointed: Mutex<u64>,
    signal: Signal,
}

/// How long enough space that was seen is counted upon.
struct SeenSpace {
    until: Instant,
    bytes: u64,
}

/// An open store. One process at a time has it.
pub struct Embedded {
    core: Arc<Core>,
    /// Moving and upkeep.
    threads: Mutex<Vec<JoinHandle<()>>>,
    rebuilt: Option<String>,
    /// Unlocked when the store is dropped.
    _lock: File,
}

/// What a backup takes: everything up to a fixed commit. The files stay readable even if they are deleted meanwhile.
pub struct Contents {
    pub store: Uuid,
    pub commit: u64,
    pub at: Timestamp,
    pub export: Option<(Export, File)>,
    pub segments: Vec<(Segment, File)>,
}

impl Embedded {
    /// Opens the store in a folder, or makes one. Brings the index up to the log, or makes it anew.
    pub fn open(path: &Path, settings: Settings) -> Result<Self, OpenError> {
        Self::open_with(path, settings, Repair::Nothing)
    }

    /// Opens the store with a new index made from export and log. With `accept_loss` a damaged log is cut before the
    /// damage; what followed is kept in `log.damaged`.
    pub fn rebuild(path: &Path, settings: Settings, accept_loss: bool) -> Result<Self, OpenError> {
        let repair = if accept_loss { Repair::AcceptLoss } else { Repair::Rebuild };
        let engine = Self::open_with(path, settings, repair)?;
        if accept_loss {
            // An export that reaches beyond the cut log must not count any more.
            engine.export()?;
        }
        Ok(engine)
    }

    fn open_with(path: &Path, settings: Settings, repair: Repair) -> Result<Self, OpenError> {
        create_folder(path).map_err(|source| OpenError::io("making the folder", path, source))?;
        let lock = lock(path)?;
        if path.join(RESTORING).exists() {
            return Err(OpenError::Unfinished(path.to_owned()));
        }
        let folders = Folders::of(path);
        let Opened { log, index, export, rebuilt } = recovery::open(&folders, &settings, repair)?;
        let core = Arc::new(Core {
            store: log.store(),
            recent: Recent::new((log.last_commit(), log.last_at())),
            log: Mutex::new(Some(log)),
            export: Mutex::new(export),
            full: AtomicBool::new(false),
            seen_space: Mutex::default(),
            broken: Mutex::new(None),
            unsynced_bytes: AtomicU64::new(0),
            checkpointed: Mutex::new(0),
            signal: Signal::default(),
            folders,
            settings,
            index,
        });
        let engine = Self { core, threads: Mutex::default(), rebuilt, _lock: lock };
        let started =
            engine.start("store moving", recent::run).and_then(|()| engine.start("store upkeep", upkeep::run));
        started.map_err(|error| OpenError::io("starting threads for", path, error))?;
        Ok(engine)
    }

    /// Why the index had to be made anew at the start, if so.
    pub fn rebuilt(&self) -> Option<&str> {
        self.rebuilt.as_deref()
    }

    /// The store's own id, given when it was made.
    pub fn store(&self) -> Uuid {
        self.core.store
    }

    /// Number and time of the last commit.
    pub fn position(&self) -> (u64, Timestamp) {
        self.core.recent.position()
    }

    /// Makes an export now and gives up what it makes needless.
    pub fn export(&self) -> Result<Export, WriteError> {
        self.core.export()
    }

    /// Opens everything that holds the state of this moment.
    pub fn contents(&self) -> io::Result<Contents> {
        self.core.contents()
    }

    /// Ends it cleanly: the next start believes the index even after a power cut. Writes are refused from now on.
    pub fn close(&self) -> Result<(), EngineError> {
        self.stop_threads();
        let Some(log) = self.core.log.lock().take() else { return Ok(()) };
        if let Some(reason) = self.core.broken.lock().clone() {
            return Err(EngineError::Broken(reason));
        }
        self.core.close(&log)
    }

    fn start(&self, name: &str, run: fn(&Core)) -> io::Result<()> {
        let core = Arc::clone(&self.core);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&core))?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Ends the threads, the last one started first: upkeep may be waiting for what is being moved.
    fn stop_threads(&self) {
        let mut threads = self.threads.lock();
        for stop in [Core::stop_upkeep, Core::stop_moving] {
            stop(&self.core);
            if let Some(thread) = threads.pop() {
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stop_threads();
    }
}

/// Takes the store for this process. One that is just ending is given a moment.
fn lock(path: &Path) -> Result<File, OpenError> {
    let path = path.join("LOCK");
    let failed = |source| OpenError::io("locking", &path, source);
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if started.elapsed() < LOCK_WAIT => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::Locked(path.parent().unwrap_or(&path).to_owned()));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}

impl Engine for Embedded {
    fn view(&self) -> Box<dyn View + '_> {
        self.core.view()
    }

    fn exclusive(&self, body: &mut dyn FnMut(&dyn View) -> WriteSet) -> Result<(), EngineError> {
        let mut log = self.core.log.lock();
        let Some(log) = log.as_mut() else { return Err(EngineError::Broken("the store is closed".to_owned())) };
        if let Some(reason) = self.core.broken.lock().clone() {
            return Err(EngineError::Broken(reason));
        }
        let writes = body(&*self.core.view());
        if writes.is_empty() {
            return Ok(());
        }
        self.core.commit(log, writes)
    }

    fn read_only(&self) -> bool {
        self.core.full.load(Ordering::SeqCst)
    }
}

impl Core {
    fn view(&self) -> Box<dyn View + '_> {
        Box::new(self.recent.view(&self.index))
    }

    fn commit(&self, log: &mut CommitLog, writes: WriteSet) -> Result<(), EngineError> {
        if self.full.load(Ordering::SeqCst) || !self.has_space_for_now() {
            return Err(self.out_of_space());
        }
        self.recent.wait_for_room(|| self.is_broken());
        let commit = match log.append(&writes, self.settings.clock.now()) {
            Ok(commit) => commit,
            Err(EngineError::OutOfSpace) => return Err(self.out_of_space()),
            Err(error) => return Err(self.break_down(error)),
        };
        self.recent.add((commit, log.last_at()), writes);
        let bytes = log.last_record_bytes();
        if let Some(seen) = self.seen_space.lock().as_mut() {
            seen.bytes = seen.bytes.saturating_sub(bytes);
        }
        if self.unsynced_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > self.settings.checkpoint_bytes {
            self.signal.wake();
        }
        Ok(())
    }

    fn stop_upkeep(&self) {
        self.signal.stop();
    }

    fn stop_moving(&self) {
        self.recent.stop();
    }

    fn is_broken(&self) -> bool {
        self.broken.lock().is_some()
    }

    /// Remembers that nothing can be written any more; what is on disk decides at the next start.
    fn break_down(&self, error: EngineError) -> EngineError {
        self.broken.lock().get_or_insert_with(|| error.to_string());
        error
    }

    /// The same outside of a write: somebody must be told.
    fn fail(&self, error: EngineError) {
        let reason = self.break_down(error).to_string();
        tracing::error!(reason, "the store failed");
        // What the system could not bring to the disk it forgets: this boot's memory is no proof for the index any more.
        if let Err(error) = Marker::remove(&self.folders.store) {
            tracing::warn!(%error, "the marker was not removed; should anything be wrong, make the index anew");
        }
        (self.settings.on_broken)(&reason);
    }

    fn out_of_space(&self) -> EngineError {
        if !self.full.swap(true, Ordering::SeqCst) {
            tracing::error!(store = %self.folders.store.display(), "the disk is full; writes are refused until there is space");
            self.signal.wake();
        }
        EngineError::OutOfSpace
    }

    /// The same as [`Self::has_space`], by a look of a moment ago.
    fn has_space_for_now(&self) -> bool {
        let mut seen = self.seen_space.lock();
        if seen.as_ref().is_some_and(|seen| seen.bytes > 0 && Instant::now() < seen.until) {
            return true;
        }
        let found = self.has_space();
        *seen = found.then(|| SeenSpace { until: Instant::now() + LOOK_TIME, bytes: LOOK_BYTES });
        found
    }

    /// Whether enough is free that neither this commit nor the index can run out of space half-way.
    fn has_space(&self) -> bool {
        if self.index.hold_room().is_err_and(|error| disk::is_out_of_space(&error)) {
            return false;
        }
        let Ok((free, total)) = disk::space(&self.folders.store) else { return true };
        free >= self.settings.reserve_bytes.min(total / 8)
    }
}
