//! The database as operations see it: reads on a consistent view, and writes gathered by one writer.
//!
//! Callers hand in closures. The writer runs those that wait one after another over an overlay, commits once with one
//! flush, then answers all. A closure that fails drops only its own overlay; a panic inside fails that one closure.
//! Who runs them, and on which thread, is `turns.rs`.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use drover_protocol::{AccountId, Timestamp};
use futures::{
    FutureExt,
    future::{BoxFuture, ready},
};
use tokio::sync::oneshot;

use super::{
    changes::{Change, Changes},
    engine::{Engine, EngineError, View, WriteSet},
    ids::Ids,
    in_parts::InParts,
    overlay::Overlay,
    table::Reader,
    turns::{Committer, Turns},
    tx::{Interest, Tx},
    watch::{Topic, Watch, Watches},
};
use crate::{
    clock::{Clock, Randomness},
    error::{Error, Result},
};

/// A commit with more bytes than this takes no further operation.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// A closure that takes longer is named in the log.
const SLOW: Duration = Duration::from_millis(10);

/// An operation on its way through the writer.
trait Pending: Send {
    fn account(&self) -> AccountId;
    /// Runs it; `true` if its writes are to be committed.
    fn run(&mut self, tx: &mut Tx) -> bool;
    /// Gives the caller the result of the run, or `failure` if it could not be committed.
    fn answer(self: Box<Self>, failure: Option<Error>);
}

struct Operation<R, F> {
    account: AccountId,
    body: Option<F>,
    result: Option<Result<R>>,
    reply: oneshot::Sender<Result<R>>,
}

impl<R: Send, F: FnOnce(&mut Tx) -> Result<R> + Send> Pending for Operation<R, F> {
    fn account(&self) -> AccountId {
        self.account
    }

    fn run(&mut self, tx: &mut Tx) -> bool {
        let Some(body) = self.body.take() else { return false };
        let started = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| body(tx)))
            .unwrap_or_else(|_| Err(Error::Internal("an operation panicked".to_owned())));
        let took = started.elapsed();
        if took > SLOW {
            tracing::warn!(took_ms = took.as_millis(), operation = std::any::type_name::<F>(), "slow operation");
        }
        let succeeded = result.is_ok();
        self.result = Some(result);
        succeeded
    }

    fn answer(self: Box<Self>, failure: Option<Error>) {
        let result = match (self.result, failure) {
            // What had failed by its own rules has written nothing: its answer is true whatever became of the others.
            (Some(Err(error)), _) => Err(error),
            (_, Some(error)) => Err(error),
            (Some(result), None) => result,
            (None, None) => Err(stopping()),
        };
        // A caller that has gone away needs no answer.
        let _ = self.reply.send(result);
    }
}

/// What is called when the engine is broken. It must end the process; the next start puts things right.
pub type OnBroken = Box<dyn Fn(&str) + Send + Sync>;

struct Core {
    engine: Arc<dyn Engine>,
    clock: Arc<dyn Clock>,
    ids: Ids,
    watches: Arc<Watches>,
    changes: Arc<Changes>,
    is_traced: AtomicBool,
    on_broken: OnBroken,
    broken: AtomicBool,
}

impl Committer for Core {
    type Work = Box<dyn Pending>;

    /// Runs the operations, commits what succeeded, wakes and answers: in one commit, or several if they write much.
    fn commit(&self, mut batch: Vec<Box<dyn Pending>>) {
        while !batch.is_empty() {
            let now = self.clock.now();
            let mut told = Told::default();
            let mut ran = 0;
            let exclusive = AssertUnwindSafe(|| {
                self.engine.exclusive(&mut |view| {
                    told = Told::default();
                    let (writes, count) = run_batch(&mut batch, view, now, self, &mut told);
                    ran = count;
                    writes
                })
            });
            // How far an engine got that panicked is not known.
            let panicked = || EngineError::Broken("the engine panicked".to_owned());
            let committed = catch_unwind(exclusive).unwrap_or_else(|_| Err(panicked()));
            let failure = match committed {
                Ok(()) => {
                    self.watches.announce(&told.wakes);
                    self.changes.publish(std::mem::take(&mut told.changes));
                    None
                }
                Err(EngineError::OutOfSpace) => Some(Error::OutOfSpace),
                Err(EngineError::Broken(text)) => {
                    self.broken.store(true, Ordering::SeqCst);
                    (self.on_broken)(&text);
                    Some(unknown_outcome())
                }
            };
            // An engine that is broken, or did not even run one, will not do better with the others.
            let answered = if ran == 0 || self.is_broken() { batch.len() } else { ran };
            for operation in batch.drain(..answered) {
                operation.answer(failure.clone());
            }
        }
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }
}

/// What a commit tells.
#[derive(Default)]
struct Told {
    wakes: Vec<Topic>,
    changes: Vec<Change>,
}

/// Runs operations until their writes are many, and tells how many were run.
fn run_batch(
    batch: &mut [Box<dyn Pending>],
    view: &dyn View,
    now: Timestamp,
    core: &Core,
    told: &mut Told,
) -> (WriteSet, usize) {
    let interest = Interest {
        changes_are_followed: core.changes.are_followed(),
        is_traced: core.is_traced.load(Ordering::Relaxed),
    };
    let mut together = Overlay::new(view);
    let (mut bytes, mut ran) = (0, 0);
    for operation in batch {
        if bytes > MAX_BATCH_BYTES {
            break;
        }
        ran += 1;
        let mut tx = Tx::new(&together, operation.account(), now, &core.ids, interest);
        if operation.run(&mut tx) {
            let (writes, topics, changes) = tx.into_parts();
            bytes += writes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum::<usize>();
            together.writes.extend(writes);
            told.wakes.extend(topics);
            told.changes.extend(changes);
        }
    }
    (together.writes, ran)
}

fn stopping() -> Error {
    Error::Unavailable("the coordinator is stopping".to_owned())
}

fn unknown_outcome() -> Error {
    Error::Unavailable("the outcome of the write is unknown; read before you try again".to_owned())
}

enum Writer {
    /// Callers in turns, with a thread that gathers what waits.
    Turns(Turns<Core>),
    /// Each write on the caller's thread when its turn has come: a simulation's, where nothing may run beside.
    Inline(Pace),
}

/// What a write waits for before it is its turn, and once more before it is answered.
pub type Pace = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// The database. Cheap to share in an `Arc`.
pub struct Db {
    core: Arc<Core>,
    writer: Writer,
}

impl Db {
    /// A database with a writer thread.
    pub fn new(
        engine: Arc<dyn Engine>,
        clock: Arc<dyn Clock>,
        randomness: Arc<dyn Randomness>,
        on_broken: OnBroken,
    ) -> Self {
        let core = Arc::new(Self::core(engine, clock, randomness, on_broken));
        let writer = Writer::Turns(Turns::new(Arc::clone(&core)));
        Self { core, writer }
    }

    /// A database that writes at once on the caller's thread, for deterministic tests.
    pub fn inline(engine: Arc<dyn Engine>, clock: Arc<dyn Clock>, randomness: Arc<dyn Randomness>) -> Self {
        Self::paced(engine, clock, randomness, Box::new(|| ready(()).boxed()))
    }

    /// The same, but others get their turn before and after a write, as they do while a thread is busy with it.
    pub fn paced(engine: Arc<dyn Engine>, clock: Arc<dyn Clock>, randomness: Arc<dyn Randomness>, pace: Pace) -> Self {
        let on_broken: OnBroken = Box::new(|_| ());
        Self { core: Arc::new(Self::core(engine, clock, randomness, on_broken)), writer: Writer::Inline(pace) }
    }

    fn core(
        engine: Arc<dyn Engine>,
        clock: Arc<dyn Clock>,
        randomness: Arc<dyn Randomness>,
        on_broken: OnBroken,
    ) -> Core {
        let watches = Arc::new(Watches::default());
        let ids = Ids::new(randomness);
        Core {
            engine,
            clock,
            ids,
            watches,
            changes: Arc::default(),
            is_traced: AtomicBool::new(false),
            on_broken,
            broken: AtomicBool::new(false),
        }
    }

    /// Runs a reading closure on a consistent view of one account. It must be short and its scans bounded.
    pub fn read<R>(&self, account: AccountId, body: impl FnOnce(&Reader) -> Result<R>) -> Result<R> {
        let view = self.core.engine.view();
        body(&Reader { view: &*view, account, now: self.core.clock.now() })
    }

    /// The same for a look that takes long. It sees no single moment: what it finds in one place may be gone when it looks
    /// in the next.
    pub fn read_in_parts<R>(&self, account: AccountId, body: impl FnOnce(&Reader) -> Result<R>) -> Result<R> {
        let view = InParts(&*self.core.engine);
        body(&Reader { view: &view, account, now: self.core.clock.now() })
    }

    /// Runs a writing closure in the account. `Ok` means that its writes are on disk. If the caller goes away in the
    /// meantime the closure still runs: its outcome is then the same as that of a call whose answer was lost.
    pub async fn write<R, F>(&self, account: AccountId, body: F) -> Result<R>
    where
        R: Send + 'static,
        F: FnOnce(&mut Tx) -> Result<R> + Send + 'static,
    {
        if self.core.is_broken() {
            return Err(unknown_outcome());
        }
        let (reply, answer) = oneshot::channel();
        let operation = Box::new(Operation { account, body: Some(body), result: None, reply });
        match &self.writer {
            Writer::Inline(pace) => {
                pace().await;
                self.core.commit(vec![operation]);
                pace().await;
            }
            Writer::Turns(turns) => turns.submit(operation).map_err(|_| stopping())?,
        }
        answer.await.unwrap_or_else(|_| Err(unknown_outcome()))
    }

    /// Arms a watch; do it before looking.
    pub fn watch(&self, topics: &[Topic]) -> Watch {
        self.core.watches.watch(topics)
    }

    /// The changes of objects, for those who follow them.
    pub fn changes(&self) -> &Arc<Changes> {
        &self.core.changes
    }

    /// From now on transactions note for traces what ends.
    pub fn trace(&self) {
        self.core.is_traced.store(true, Ordering::Relaxed);
    }

    /// A new id for something that is written before its record: a blob.
    pub fn new_id(&self) -> uuid::Uuid {
        self.core.ids.next(self.core.clock.now())
    }

    /// The same, as old as this time.
    pub fn id_of_time(&self, time: Timestamp) -> uuid::Uuid {
        self.core.ids.of_time(time)
    }

    /// Random bytes, good enough for keys.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.core.ids.randomness().fill(&mut bytes);
        bytes
    }

    /// The injected clock's time.
    pub fn now(&self) -> Timestamp {
        self.core.clock.now()
    }

    /// Whether writes are refused for lack of space, or because the engine is broken.
    pub fn read_only(&self) -> bool {
        self.core.is_broken() || self.core.engine.read_only()
    }

    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.core.engine
    }

    /// Finishes the writes that wait, refuses further ones, and ends the writer.
    pub fn close(&self) {
        if let Writer::Turns(turns) = &self.writer {
            turns.close();
        }
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        self.close();
    }
}
