//! What the engine does beside commits, on a thread of its own: checkpoints, exports, and looking whether space is back.

use std::{
    fs::File,
    io::{self, Write},
    path::PathBuf,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use super::{
    Contents, Core,
    index::Index,
    marker::{Left, Marker, boot},
};
use crate::store::{
    commit_log::{CommitLog, move_to},
    disk::{self, create_file, files_with_extension, sync_folder},
    engine::EngineError,
    export::{self, Export, WriteError},
};

/// While writes are refused, space is looked for this often.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// An export that failed is not tried again before this.
const EXPORT_RETRY: Duration = Duration::from_secs(60);
/// What a probe writes: about what a small segment needs.
const PROBE_BYTES: usize = 256 * 1024;

/// Wakes or stops the thread.
#[derive(Default)]
pub struct Signal {
    state: Mutex<SignalState>,
    changed: Condvar,
}

#[derive(Default)]
struct SignalState {
    woken: bool,
    stopped: bool,
}

impl Signal {
    pub fn wake(&self) {
        self.state.lock().woken = true;
        self.changed.notify_all();
    }

    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Waits; `false` once it is stopped.
    pub fn wait(&self, at_most: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.woken && !state.stopped {
            self.changed.wait_for(&mut state, at_most);
        }
        state.woken = false;
        !state.stopped
    }
}

/// Keeps the store up until it is stopped.
pub fn run(core: &Core) {
    let mut checkpointed = Instant::now();
    let mut exported = None;
    loop {
        let is_full = core.full.load(Ordering::SeqCst);
        let left = core.settings.checkpoint_every.saturating_sub(checkpointed.elapsed());
        if !core.signal.wait(if is_full { PROBE_EVERY.min(left) } else { left }) {
            return;
        }
        if core.full.load(Ordering::SeqCst) {
            core.probe();
        }
        let unsynced = core.unsynced_bytes.load(Ordering::Relaxed);
        if unsynced > core.settings.checkpoint_bytes || checkpointed.elapsed() >= core.settings.checkpoint_every {
            checkpointed = Instant::now();
            match core.checkpoint() {
                Ok(()) => {}
                // The next start replays more; what is in the index already may stay there.
                Err(EngineError::OutOfSpace) => drop(core.out_of_space()),
                Err(error) => {
                    core.fail(error);
                    return;
                }
            }
        }
        let may_export = exported.is_none_or(|at: Instant| at.elapsed() > EXPORT_RETRY);
        if may_export
            && core.export_is_due()
            && let Err(error) = core.export()
        {
            exported = Some(Instant::now());
            tracing::warn!(%error, "no export was made; the log goes on growing until one is");
        }
    }
}

impl Core {
    /// Brings the index to the disk, so that the next start has little to replay.
    fn checkpoint(&self) -> Result<(), EngineError> {
        let mut checkpointed = self.checkpointed.lock();
        let commit = self.recent.moved();
        self.unsynced_bytes.store(0, Ordering::Relaxed);
        if commit > *checkpointed {
            self.index.set_position(self.store, commit)?;
            self.index.sync()?;
            self.save_marker(Left::Open, commit)?;
            *checkpointed = commit;
        }
        if Index::has_stray_pages(self.index.folder()) {
            tracing::error!(
                folder = %self.index.folder().display(),
                "the index has put pages into its blobs folder, which is never synced; it is made anew at the next start"
            );
        }
        Ok(())
    }

    fn save_marker(&self, left: Left, commit: u64) -> Result<(), EngineError> {
        let marker = Marker { store: self.store, left, boot: boot(), commit };
        marker.save(&self.folders.store).map_err(|error| match disk::is_out_of_space(&error) {
            true => EngineError::OutOfSpace,
            false => EngineError::Broken(format!("writing the marker failed: {error}")),
        })
    }

    /// The last steps of a clean end.
    pub(super) fn close(&self, log: &CommitLog) -> Result<(), EngineError> {
        self.recent.move_into(&self.index)?;
        self.index.set_position(self.store, log.last_commit())?;
        self.index.sync_everything()?;
        self.save_marker(Left::Closed, log.last_commit())
    }

    /// Takes writes again once space is back: what a commit needs is really written, since a quota cannot be asked.
    fn probe(&self) {
        let path = self.folders.log.join("probe.tmp");
        let write = || {
            let mut file = create_file(&path)?;
            file.write_all(&vec![1; PROBE_BYTES])?;
            file.sync_all()
        };
        let written = self.has_space() && write().is_ok();
        let removed = disk::remove_if_there(&path);
        if written && removed.is_ok() {
            tracing::info!(store = %self.folders.store.display(), "there is space again; writes are taken");
            self.full.store(false, Ordering::SeqCst);
        }
    }

    fn export_is_due(&self) -> bool {
        let (start, raw_bytes) = self.export.lock().as_ref().map_or((0, 0), |export| (export.start, export.raw_bytes));
        let log_bytes = self.log.lock().as_ref().map_or(0, |log| log.bytes_after(start));
        log_bytes > raw_bytes.max(self.settings.export_bytes)
    }

    pub(super) fn export(&self) -> Result<Export, WriteError> {
        let mut newest = self.export.lock();
        let started = Instant::now();
        let made = export::write(&self.folders.export, self.store, &|| self.view(), &|| self.recent.position())?;
        tracing::info!(pairs = made.pairs, took_ms = started.elapsed().as_millis(), "an export was made");
        *newest = Some(made.clone());
        // The log that the index still needs must not go with what the export makes needless.
        if self.recent.wait_for(made.start, || self.is_broken()) {
            self.checkpoint()?;
            self.give_up_before(&made)?;
        }
        Ok(made)
    }

    /// Deletes or archives what the export makes needless, the oldest first.
    fn give_up_before(&self, export: &Export) -> io::Result<()> {
        let mut needless: Vec<PathBuf> =
            self.log.lock().as_mut().map(|log| log.take_through(export.start)).unwrap_or_default();
        let exports = files_with_extension(&self.folders.export, export::EXTENSION)?;
        needless.extend(exports.into_iter().filter(|path| *path != export.path));
        for path in &needless {
            match &self.settings.archive {
                Some(archive) => move_to(archive, path)?,
                None => disk::remove_if_there(path)?,
            }
        }
        sync_folder(&self.folders.log)?;
        sync_folder(&self.folders.export)
    }

    pub(super) fn contents(&self) -> io::Result<Contents> {
        // No segment is given up while this is held.
        let export = self.export.lock();
        let (segments, commit, at) = match self.log.lock().as_ref() {
            Some(log) => (log.segments().to_vec(), log.last_commit(), log.last_at()),
            None => return Err(io::Error::other("the store is closed")),
        };
        let from = export.as_ref().map_or(0, |export| export.start);
        let needed = segments.into_iter().filter(|segment| segment.last_commit > from || segment.last_commit == commit);
        let segments = needed.map(|segment| File::open(&segment.path).map(|file| (segment, file)));
        let export = export.as_ref().map(|export| File::open(&export.path).map(|file| (export.clone(), file)));
        Ok(Contents {
            store: self.store,
            commit,
            at,
            export: export.transpose()?,
            segments: segments.collect::<Result<_, _>>()?,
        })
    }
}
