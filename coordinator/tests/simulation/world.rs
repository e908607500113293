//! What lies around agents and coordinator: the clock, chance, the engine that fails, and the coordinator's lives.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use axum::Router;
use drover_agent::{attempt::AttemptId, backoff::Jitter};
use drover_coordinator::{
    app::{App, Limits, Rules},
    background,
    clock::{Clock, Randomness},
    domain::job::Leases,
    http::router,
    operations::account::{self, Bootstrap},
    secrets::Secrets,
    store::{
        Db,
        blob::Blobs,
        engine::{Engine, EngineError, View, WriteSet},
        memory::Memory,
    },
};
use drover_protocol::{AccountId, JobId, Timestamp, job::Outcome};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use crate::host::Process;

pub const ROBOTS: usize = 4;
pub const ADMIN_KEY: &str = "the administrator's key of this world";
const LEASES: Leases = Leases { job_seconds: 60, accept_seconds: 30, lost_after_seconds: 300 };

/// Virtual time, which the world may also set wrongly.
pub struct SimulatedClock {
    start: Instant,
    skew_ms: AtomicI64,
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        let elapsed = i64::try_from(self.start.elapsed().as_millis()).expect("a short simulation");
        Timestamp::from_millis(1_795_421_111_000 + elapsed + self.skew_ms.load(Ordering::Relaxed))
    }
}

/// Random bytes that a seed gives.
struct SimulatedRandomness(Mutex<Jitter>);

impl Randomness for SimulatedRandomness {
    fn fill(&self, bytes: &mut [u8]) {
        let mut jitter = self.0.lock();
        for chunk in bytes.chunks_mut(8) {
            let random = jitter.below(u64::MAX).to_be_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
    }
}

/// An engine that fails now and then: before the commit with a full disk, after it so that nobody knows.
pub struct FaultyEngine {
    memory: Memory,
    faults: AtomicBool,
    jitter: Mutex<Jitter>,
}

impl FaultyEngine {
    fn chance(&self, of_ten_thousand: u64) -> bool {
        self.faults.load(Ordering::Relaxed) && self.jitter.lock().below(10_000) < of_ten_thousand
    }
}

impl Engine for FaultyEngine {
    fn view(&self) -> Box<dyn View + '_> {
        self.memory.view()
    }

    fn exclusive(&self, body: &mut dyn FnMut(&dyn View) -> WriteSet) -> Result<(), EngineError> {
        if self.chance(100) {
            return Err(EngineError::OutOfSpace);
        }
        self.memory.exclusive(body)?;
        if self.chance(20) {
            return Err(EngineError::Broken("the disk did not answer after the commit".to_owned()));
        }
        Ok(())
    }
}

/// One life of the coordinator.
#[derive(Clone)]
pub struct Coordinator {
    pub router: Router,
    pub app: Arc<App>,
}

pub struct World {
    jitter: RefCell<Jitter>,
    pub engine: Arc<FaultyEngine>,
    pub clock: Arc<SimulatedClock>,
    randomness: Arc<SimulatedRandomness>,
    blobs: Arc<Blobs>,
    secrets: Arc<Secrets>,
    coordinator: RefCell<Option<Coordinator>>,
    /// Counts the lives of the coordinator: requests of an earlier life get no answer.
    life: watch::Sender<u64>,
    faults: Cell<bool>,
    pub account: AccountId,
    /// Every process that ever ran on any host; a second one for an attempt is the worst that can happen.
    pub processes: RefCell<BTreeMap<AttemptId, Process>>,
    /// Final states that were seen: job, and how often it was brought back, to outcome.
    pub finished: RefCell<BTreeMap<(JobId, usize), Outcome>>,
    pub jobs: RefCell<Vec<JobId>>,
    history: RefCell<Vec<String>>,
}

impl World {
    pub fn new(seed: u64) -> Rc<Self> {
        let jitter = |stream: u64| Jitter::new(seed.wrapping_mul(1_000_003).wrapping_add(stream));
        let engine =
            FaultyEngine { memory: Memory::default(), faults: AtomicBool::new(false), jitter: Mutex::new(jitter(1)) };
        Rc::new(Self {
            jitter: RefCell::new(jitter(2)),
            engine: Arc::new(engine),
            clock: Arc::new(SimulatedClock { start: Instant::now(), skew_ms: AtomicI64::new(0) }),
            randomness: Arc::new(SimulatedRandomness(Mutex::new(jitter(3)))),
            blobs: Arc::new(Blobs::memory()),
            secrets: Arc::new(Secrets::from_bytes(&[7; 32])),
            coordinator: RefCell::new(None),
            life: watch::Sender::new(0),
            faults: Cell::new(false),
            account: AccountId::from_uuid(uuid::Uuid::from_u128(1)),
            processes: RefCell::default(),
            finished: RefCell::default(),
            jobs: RefCell::default(),
            history: RefCell::default(),
        })
    }

    pub fn below(&self, bound: u64) -> u64 {
        self.jitter.borrow_mut().below(bound)
    }

    /// A fault that happens so often while there are faults.
    pub fn fault(&self, of_thousand: u64) -> bool {
        self.faults.get() && self.below(1_000) < of_thousand
    }

    pub fn has_faults(&self) -> bool {
        self.faults.get()
    }

    pub fn note(&self, text: String) {
        let at = self.clock.start.elapsed().as_millis();
        self.history.borrow_mut().push(format!("{at} {text}"));
    }

    pub fn history(&self) -> Vec<String> {
        self.history.borrow().clone()
    }

    pub fn coordinator(&self) -> Option<Coordinator> {
        self.coordinator.borrow().clone()
    }

    pub fn life(&self) -> watch::Receiver<u64> {
        self.life.subscribe()
    }

    fn app(&self) -> Arc<App> {
        let engine = Arc::clone(&self.engine) as Arc<dyn Engine>;
        let db = Db::inline(engine, self.clock.clone(), self.randomness.clone());
        let rules = Rules {
            leases: LEASES,
            heartbeat_seconds: 20,
            limits: Limits { package_bytes: 1 << 20, artifact_bytes: 1 << 20 },
            public_metrics: true,
        };
        App::new(Arc::new(db), Arc::clone(&self.blobs), Arc::clone(&self.secrets), rules, None)
    }

    /// The first start: makes the account.
    pub async fn start_coordinator(&self) {
        let app = self.app();
        let (account, secrets) = (self.account, Arc::clone(&self.secrets));
        let wanted = Bootstrap {
            account: "main".to_owned(),
            login: "admin".to_owned(),
            password_hash: None,
            api_key: Some(ADMIN_KEY.to_owned()),
        };
        let made = app.db.write(account, move |tx| account::bootstrap(tx, account, &wanted, &secrets)).await;
        made.expect("the first account is made");
        self.coordinator.replace(Some(Coordinator { router: router(Arc::clone(&app)), app }));
    }

    /// Kills the coordinator at once, with all that it was doing.
    fn kill_coordinator(&self) {
        self.note("the coordinator is killed".to_owned());
        self.coordinator.replace(None);
        self.life.send_modify(|life| *life += 1);
    }

    fn restart_coordinator(&self) {
        self.note("the coordinator starts".to_owned());
        let app = self.app();
        self.coordinator.replace(Some(Coordinator { router: router(Arc::clone(&app)), app }));
    }

    pub fn begin_faults(&self) {
        self.faults.set(true);
        self.engine.faults.store(true, Ordering::Relaxed);
    }

    pub fn end_faults(&self) {
        self.note("the faults end".to_owned());
        self.faults.set(false);
        self.engine.faults.store(false, Ordering::Relaxed);
    }

    /// Somebody sets the host's clock.
    pub fn step_clock(&self) {
        let limit = if self.below(10) == 0 { 3_600_000 } else { 30_000 };
        let step = i64::try_from(self.below(2 * limit)).expect("small") - i64::try_from(limit).expect("small");
        self.note(format!("the clock is set by {step} ms"));
        self.clock.skew_ms.store(step, Ordering::Relaxed);
    }
}

/// Runs the coordinator's loops, kills it now and then, and starts it again, as a supervisor of services does.
pub async fn keep_coordinator(world: Rc<World>) {
    loop {
        if let Some(coordinator) = world.coordinator() {
            let lifetime = match world.has_faults() {
                true => Duration::from_millis(1_000 + world.below(60_000)),
                false => Duration::from_secs(30),
            };
            tokio::select! {
                biased;
                () = background::deadlines::run(Arc::clone(&coordinator.app)) => {}
                () = seal_now_and_then(&coordinator.app) => {}
                () = until_broken(&coordinator.app) => world.kill_coordinator(),
                () = tokio::time::sleep(lifetime) => {
                    if world.has_faults() {
                        world.kill_coordinator();
                    }
                }
            }
        } else {
            tokio::time::sleep(Duration::from_millis(world.below(20_000))).await;
            world.restart_coordinator();
        }
    }
}

async fn seal_now_and_then(app: &App) {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        // A full disk and a broken engine are part of this world; the next pass tries again.
        let _ = background::sealing::pass(app).await;
        let _ = background::garbage::pass(app).await;
    }
}

/// A broken engine ends the process.
async fn until_broken(app: &App) {
    while !app.db.read_only() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
