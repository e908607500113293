//! Whose turn it is to commit. One commit at a time: by the caller that finds nobody committing and nobody waiting, or by
//! a thread that gathers all that waits into one.
//!
//! A lone caller pays for the disk and for nothing else; two hand-overs between threads cost as much as the disk does.
//! Where many come at once, all wait for the thread, and one flush pays for many.

use std::{
    collections::VecDeque,
    sync::Arc,
    thread::{Builder, JoinHandle},
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::runtime::{Handle, RuntimeFlavor};

/// Most pieces of work in one commit.
const MAX_BATCH: usize = 1_000;
/// After so many commits of one piece of work, during which no other came, the next caller is taken to be alone as well.
/// Among many callers such a commit is chance, and a caller that then commits by itself has a flush for itself while the
/// others wait.
const LONE_COMMITS: u32 = 16;

/// Does what is gathered, all of it together. It answers whoever waits, and it does not panic.
pub(super) trait Committer: Send + Sync + 'static {
    type Work: Send;

    fn commit(&self, batch: Vec<Self::Work>);

    /// Whether nothing can be committed any more. What waits is dropped then.
    fn is_broken(&self) -> bool;
}

/// Work comes after the end.
#[derive(Debug)]
pub(super) struct Closed;

pub(super) struct Turns<C: Committer> {
    shared: Arc<Shared<C>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared<C: Committer> {
    committer: Arc<C>,
    line: Mutex<Line<C::Work>>,
    /// For the thread: there is something to do.
    news: Condvar,
}

struct Line<W> {
    waiting: VecDeque<W>,
    /// Somebody commits.
    is_taken: bool,
    /// Commits of one since there was a larger one, or since somebody came during one.
    lone_commits: u32,
    is_closed: bool,
}

impl<C: Committer> Turns<C> {
    pub fn new(committer: Arc<C>) -> Self {
        let line = Line { waiting: VecDeque::new(), is_taken: false, lone_commits: LONE_COMMITS, is_closed: false };
        let shared = Arc::new(Shared { committer, line: Mutex::new(line), news: Condvar::new() });
        let gathering = Arc::clone(&shared);
        let thread = Builder::new()
            .name("writer".to_owned())
            .spawn(move || gathering.run())
            .expect("a thread can be started at the start of the process");
        Self { shared, thread: Mutex::new(Some(thread)) }
    }

    /// Has it committed, now on this thread or soon on the other one.
    ///
    /// A thread of a runtime of several hands its other tasks over for as long as it takes. That of a runtime of one
    /// could not, and never commits itself.
    pub fn submit(&self, work: C::Work) -> Result<(), Closed> {
        let shared = &*self.shared;
        let mut line = shared.line.lock();
        if line.is_closed {
            return Err(Closed);
        }
        let is_free = !line.is_taken && line.waiting.is_empty();
        if is_free && line.lone_commits >= LONE_COMMITS && may_block() {
            take_turn(&mut line, 1, || tokio::task::block_in_place(|| shared.committer.commit(vec![work])));
        } else {
            line.waiting.push_back(work);
        }
        if !line.is_taken && (!line.waiting.is_empty() || line.is_closed) {
            shared.news.notify_one();
        }
        Ok(())
    }

    /// Refuses further work, and returns when all that waited is done.
    pub fn close(&self) {
        let mut thread = self.thread.lock();
        self.shared.line.lock().is_closed = true;
        self.shared.news.notify_one();
        if let Some(thread) = thread.take() {
            let _ = thread.join();
        }
    }
}

impl<C: Committer> Shared<C> {
    /// Commits what waits until it is closed.
    fn run(&self) {
        let mut line = self.line.lock();
        loop {
            if line.is_taken || (line.waiting.is_empty() && !line.is_closed) {
                self.news.wait(&mut line);
                continue;
            }
            if line.waiting.is_empty() || self.committer.is_broken() {
                line.is_closed = true;
                line.waiting.clear();
                return;
            }
            let count = line.waiting.len().min(MAX_BATCH);
            let batch: Vec<_> = line.waiting.drain(..count).collect();
            take_turn(&mut line, count, || self.committer.commit(batch));
        }
    }
}

/// Commits so many while the others may come and wait.
fn take_turn<W>(line: &mut MutexGuard<'_, Line<W>>, count: usize, commit: impl FnOnce()) {
    line.is_taken = true;
    MutexGuard::unlocked(line, commit);
    line.is_taken = false;
    let was_lone = count == 1 && line.waiting.is_empty();
    line.lone_commits = if was_lone { line.lone_commits.saturating_add(1) } else { 0 };
}

/// Whether this thread may wait for a disk: one of a runtime whose other threads take over, or one of no runtime.
fn may_block() -> bool {
    Handle::try_current().map_or(true, |runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicBool, Ordering},
            mpsc,
        },
        thread::ThreadId,
    };

    use super::*;

    /// Work that is done when it has been let go on.
    type Held = mpsc::Receiver<()>;

    /// Remembers how many were committed together, and by whom.
    #[derive(Default)]
    struct Recorder {
        batches: Mutex<Vec<(usize, ThreadId)>>,
        is_broken: AtomicBool,
    }

    impl Committer for Recorder {
        type Work = Held;

        fn commit(&self, batch: Vec<Held>) {
            self.batches.lock().push((batch.len(), std::thread::current().id()));
            for work in batch {
                // One whose caller has gone is not held.
                let _ = work.recv();
            }
        }

        fn is_broken(&self) -> bool {
            self.is_broken.load(Ordering::SeqCst)
        }
    }

    impl Recorder {
        fn wait_for(&self, count: usize) -> Vec<(usize, ThreadId)> {
            for _ in 0..10_000 {
                let batches = self.batches.lock().clone();
                if batches.len() >= count {
                    return batches;
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            panic!("only {:?} of {count} batches were committed", self.batches.lock());
        }
    }

    fn turns() -> (Arc<Recorder>, Arc<Turns<Recorder>>) {
        let recorder = Arc::new(Recorder::default());
        (Arc::clone(&recorder), Arc::new(Turns::new(recorder)))
    }

    fn free() -> Held {
        mpsc::channel().1
    }

    /// A lone caller commits on its own thread, without a runtime and on one of several threads; on the only thread of a
    /// runtime, which others wait for, it does not.
    #[test]
    fn a_lone_caller_commits_by_itself_where_it_may_wait() {
        let submit_one = || {
            let (recorder, turns) = turns();
            turns.submit(free()).expect("it is open");
            turns.close();
            let batches = recorder.batches.lock().clone();
            assert_eq!(batches.len(), 1);
            batches[0].1 == std::thread::current().id()
        };
        let in_a_task = |mut builder: tokio::runtime::Builder| {
            let runtime = builder.build().expect("it is plain");
            runtime.block_on(async { tokio::spawn(async move { submit_one() }).await.expect("it does not panic") })
        };
        assert!(submit_one());
        assert!(in_a_task(tokio::runtime::Builder::new_multi_thread()));
        assert!(!in_a_task(tokio::runtime::Builder::new_current_thread()));
    }

    /// What comes while somebody commits waits, and is committed together by the thread. From then on callers wait for the
    /// thread, until so many have been alone that the next one probably is.
    #[test]
    fn what_comes_during_a_commit_is_gathered() {
        let (recorder, turns) = turns();
        let (release, held) = mpsc::channel();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| turns.submit(held));
            recorder.wait_for(1);
            for _ in 0..5 {
                turns.submit(free()).expect("it is open");
            }
            release.send(()).expect("it waits");
            first.join().expect("it does not panic").expect("it was open");
        });
        for lone in 0..=LONE_COMMITS as usize {
            recorder.wait_for(2 + lone);
            while turns.shared.line.lock().is_taken {
                std::thread::yield_now();
            }
            turns.submit(free()).expect("it is open");
        }
        turns.close();
        let batches = recorder.batches.lock().clone();
        let counts: Vec<usize> = batches.iter().map(|(count, _)| *count).collect();
        assert_eq!(counts, [&[1, 5], &[1; LONE_COMMITS as usize + 1][..]].concat());
        let here = std::thread::current().id();
        let by_the_thread = &batches[1..=LONE_COMMITS as usize + 1];
        assert!(by_the_thread.iter().all(|(_, thread)| *thread == batches[1].1 && *thread != here), "{batches:?}");
        assert_eq!(batches.last().map(|(_, thread)| *thread), Some(here));
    }

    /// The end waits for who commits and for all that had come before; what comes after is refused.
    #[test]
    fn the_end_waits_for_all_that_came_before() {
        let (recorder, turns) = turns();
        let (release, held) = mpsc::channel();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| turns.submit(held));
            recorder.wait_for(1);
            turns.submit(free()).expect("it is open");
            let end = scope.spawn(|| turns.close());
            while !turns.shared.line.lock().is_closed {
                std::thread::yield_now();
            }
            assert!(turns.submit(free()).is_err());
            assert!(!end.is_finished());
            release.send(()).expect("it waits");
            first.join().expect("it does not panic").expect("it was open");
        });
        assert_eq!(recorder.batches.lock().len(), 2);
    }

    /// Nothing is committed once a commit broke what it writes to: those who wait are let go, later ones are refused.
    #[test]
    fn nothing_is_committed_after_a_break() {
        let (recorder, turns) = turns();
        let (release, held) = mpsc::channel();
        let (waiting, still_waits) = mpsc::channel();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| turns.submit(held));
            recorder.wait_for(1);
            turns.submit(still_waits).expect("it is open");
            recorder.is_broken.store(true, Ordering::SeqCst);
            release.send(()).expect("it waits");
            first.join().expect("it does not panic").expect("it was open");
        });
        turns.close();
        assert!(waiting.send(()).is_err(), "what waited is still there");
        assert!(turns.submit(free()).is_err());
        assert_eq!(recorder.batches.lock().len(), 1);
    }
}
