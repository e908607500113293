//! What outlives a coordinator: its store. An engine that fails now and then, and shows every commit to the witness.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use drover_agent::backoff::Jitter;
use drover_coordinator::{
    clock::Clock,
    store::{
        Reader, Watch,
        db::Pace,
        engine::{Engine, EngineError, View, WriteSet},
        memory::Memory,
    },
};
use drover_protocol::AccountId;
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{witness::Witness, world::SimulatedClock};

pub struct Disk {
    memory: Memory,
    account: AccountId,
    clock: Arc<SimulatedClock>,
    faults: AtomicBool,
    jitter: Mutex<Jitter>,
    full_until: Mutex<Instant>,
    /// The life of the coordinator that may write; earlier ones are over.
    life: AtomicU64,
    pub witness: Mutex<Witness>,
    /// Every commit so far in one number: two histories are the same only if this is.
    digest: Mutex<DefaultHasher>,
}

impl Disk {
    pub fn new(account: AccountId, clock: Arc<SimulatedClock>, jitter: Jitter, witness: Witness) -> Self {
        Self {
            memory: Memory::default(),
            account,
            clock,
            faults: AtomicBool::new(false),
            jitter: Mutex::new(jitter),
            full_until: Mutex::new(Instant::now()),
            life: AtomicU64::new(0),
            witness: Mutex::new(witness),
            digest: Mutex::new(DefaultHasher::new()),
        }
    }

    pub fn set_faults(&self, faults: bool) {
        self.faults.store(faults, Ordering::Relaxed);
        *self.full_until.lock() = Instant::now();
    }

    pub fn digest(&self) -> u64 {
        self.digest.lock().finish()
    }

    pub fn view(&self) -> Box<dyn View + '_> {
        self.memory.view()
    }

    pub fn read<R>(&self, body: impl FnOnce(&Reader) -> R) -> R {
        let view = self.memory.view();
        body(&Reader { view: &*view, account: self.account, now: self.clock.now() })
    }

    /// The engine for the next life of the coordinator; that of the life before is over.
    pub fn next_life(self: &Arc<Self>) -> Arc<Life> {
        let number = self.life.fetch_add(1, Ordering::Relaxed) + 1;
        Arc::new(Life { disk: Arc::clone(self), number, probe: Mutex::new(None) })
    }

    pub fn end_life(&self) {
        self.life.fetch_add(1, Ordering::Relaxed);
    }

    fn chance(&self, of_ten_thousand: u64) -> bool {
        self.faults.load(Ordering::Relaxed) && self.jitter.lock().below(10_000) < of_ten_thousand
    }

    /// How long it takes to write: seldom any time at all, very seldom long.
    fn dawdles(&self) -> Option<Duration> {
        let most = match (self.chance(3_000), self.chance(100)) {
            (_, true) => 3_000,
            (true, false) => 100,
            (false, false) => return None,
        };
        Some(Duration::from_millis(self.jitter.lock().below(most)))
    }

    /// How long a write waits.
    pub fn pace(self: &Arc<Self>) -> Pace {
        let disk = Arc::clone(self);
        Box::new(move || match disk.dawdles() {
            Some(wait) => tokio::time::sleep(wait).boxed(),
            None => futures::future::ready(()).boxed(),
        })
    }
}

/// The engine as one life of the coordinator has it.
pub struct Life {
    disk: Arc<Disk>,
    number: u64,
    /// Waits for whatever a commit may announce.
    probe: Mutex<Option<Watch>>,
}

impl Life {
    pub fn set_probe(&self, watch: Watch) {
        *self.probe.lock() = Some(watch);
    }

    pub fn is_over(&self) -> bool {
        self.disk.life.load(Ordering::Relaxed) != self.number
    }

    pub fn chance(&self, of_ten_thousand: u64) -> bool {
        self.disk.chance(of_ten_thousand)
    }

    pub fn dawdles(&self) -> Option<Duration> {
        self.disk.dawdles()
    }

    fn was_woken(&self) -> bool {
        self.probe.lock().as_ref().is_some_and(|probe| probe.woken().now_or_never().is_some())
    }

    fn fails_before(&self) -> Result<(), EngineError> {
        let disk = &self.disk;
        if self.is_over() {
            return Err(EngineError::Broken("the process that asked has ended".to_owned()));
        }
        if disk.chance(8) {
            *disk.full_until.lock() = Instant::now() + Duration::from_millis(disk.jitter.lock().below(15_000));
        }
        if disk.chance(50) || (disk.faults.load(Ordering::Relaxed) && Instant::now() < *disk.full_until.lock()) {
            return Err(EngineError::OutOfSpace);
        }
        if disk.chance(8) {
            return Err(EngineError::Broken("the disk did not answer, and had not written".to_owned()));
        }
        Ok(())
    }
}

impl Engine for Life {
    fn view(&self) -> Box<dyn View + '_> {
        self.disk.view()
    }

    fn exclusive(&self, body: &mut dyn FnMut(&dyn View) -> WriteSet) -> Result<(), EngineError> {
        let disk = &self.disk;
        self.fails_before()?;
        let mut written = WriteSet::default();
        // What earlier commits have announced is not of interest.
        self.was_woken();
        disk.memory.exclusive(&mut |view| {
            written = body(view);
            written.clone()
        })?;
        let woken_early = self.was_woken();
        written.hash(&mut *disk.digest.lock());
        let mut witness = disk.witness.lock();
        if woken_early {
            witness.fail("somebody was woken for a commit before it was made".to_owned());
        }
        disk.read(|reading| witness.see(reading, &written));
        if disk.chance(15) {
            return Err(EngineError::Broken("the disk did not answer after the commit".to_owned()));
        }
        Ok(())
    }
}
