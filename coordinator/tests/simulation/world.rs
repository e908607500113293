//! What lies around agents and coordinator: time, chance, what everybody remembers, and the coordinator's lives.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use axum::Router;
use drover_agent::backoff::Jitter;
use drover_coordinator::{
    app::{App, Limits, Rules},
    background::{self, retention::Ages},
    clock::{Clock, Randomness},
    domain::job::Leases,
    http::router,
    mail_client::MailRules,
    operations::{
        account::{self, Bootstrap},
        robot_group,
        session::SessionRules,
    },
    secrets::Secrets,
    store::{Db, Topic, blob::Blobs},
    webhook_client::WebhookRules,
};
use drover_protocol::{AccountId, JobId, Timestamp};
use futures::FutureExt;
use object_store::memory::InMemory;
use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use crate::{
    content::Content,
    disk::Disk,
    mailboxes::{MailServer, Post},
    process::Processes,
    witness::Witness,
};

pub const ROBOTS: usize = 4;
pub const ADMIN_KEY: &str = "the administrator's key of this world";
const START_MS: i64 = 1_795_421_111_000;
/// Short, so that jobs are also lost while there are faults.
const LEASES: Leases = Leases { job_seconds: 20, accept_seconds: 15, lost_after_seconds: 20 };

/// Virtual time, which the world may also set wrongly.
pub struct SimulatedClock {
    start: Instant,
    skew_ms: AtomicI64,
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        let elapsed = i64::try_from(self.start.elapsed().as_millis()).expect("a short simulation");
        Timestamp::from_millis(START_MS + elapsed + self.skew_ms.load(Ordering::Relaxed))
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

/// One life of the coordinator.
#[derive(Clone)]
pub struct Coordinator {
    pub router: Router,
    pub app: Arc<App>,
}

pub struct World {
    jitter: RefCell<Jitter>,
    pub disk: Arc<Disk>,
    pub clock: Arc<SimulatedClock>,
    randomness: Arc<SimulatedRandomness>,
    kept: Arc<InMemory>,
    secrets: Arc<Secrets>,
    coordinator: RefCell<Option<Coordinator>>,
    /// Counts the lives of the coordinator: requests of an earlier life get no answer.
    life: watch::Sender<u64>,
    faults: Cell<bool>,
    account: AccountId,
    /// Every process that ever ran on any host; a second one for an attempt is the worst that can happen.
    pub processes: Arc<Processes>,
    pub mail: Arc<MailServer>,
    /// Until when the network of a robot is cut.
    cuts: RefCell<[Instant; ROBOTS]>,
    /// A host that never comes back.
    pub dead: Cell<Option<usize>>,
    /// Jobs that people know of.
    pub jobs: RefCell<Vec<JobId>>,
    /// Artifacts that the coordinator has taken: job and path to the newest attempt of which it has.
    pub artifacts: RefCell<BTreeMap<(JobId, String), u32>>,
    /// References of tasks whose adding was acknowledged.
    pub task_wishes: RefCell<Vec<String>>,
    /// Where the trigger is called that is called from outside, below the API's base.
    pub hook: RefCell<String>,
    wishes: Cell<u64>,
    failure: RefCell<Option<String>>,
    history: RefCell<Vec<String>>,
}

impl World {
    pub fn new(seed: u64) -> Rc<Self> {
        let jitter = |stream: u64| Jitter::new(seed.wrapping_mul(1_000_003).wrapping_add(stream));
        let account = AccountId::from_uuid(uuid::Uuid::from_u128(1));
        let clock = Arc::new(SimulatedClock { start: Instant::now(), skew_ms: AtomicI64::new(0) });
        let processes = Arc::new(Processes::default());
        let kept = Arc::new(InMemory::new());
        let witness = Witness::new(LEASES, Arc::clone(&processes), Blobs::within(kept.clone()));
        Rc::new(Self {
            jitter: RefCell::new(jitter(2)),
            disk: Arc::new(Disk::new(account, Arc::clone(&clock), jitter(1), witness)),
            clock,
            randomness: Arc::new(SimulatedRandomness(Mutex::new(jitter(3)))),
            kept,
            secrets: Arc::new(Secrets::from_bytes(&[7; 32])),
            coordinator: RefCell::new(None),
            life: watch::Sender::new(0),
            faults: Cell::new(false),
            account,
            processes,
            mail: MailServer::new(jitter(4)),
            cuts: RefCell::new([Instant::now(); ROBOTS]),
            dead: Cell::new(None),
            jobs: RefCell::default(),
            artifacts: RefCell::default(),
            task_wishes: RefCell::default(),
            hook: RefCell::default(),
            wishes: Cell::new(0),
            failure: RefCell::default(),
            history: RefCell::default(),
        })
    }

    pub fn below(&self, bound: u64) -> u64 {
        self.jitter.borrow_mut().below(bound)
    }

    /// One of `bound` things.
    pub fn pick(&self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).expect("below a usize")
    }

    /// A fault that happens so often while there are faults.
    pub fn fault(&self, of_thousand: u64) -> bool {
        self.faults.get() && self.below(1_000) < of_thousand
    }

    pub fn has_faults(&self) -> bool {
        self.faults.get()
    }

    pub fn note(&self, text: impl AsRef<str>) {
        let at = self.clock.start.elapsed().as_millis();
        self.history.borrow_mut().push(format!("{at} {}", text.as_ref()));
    }

    pub fn history(&self) -> Vec<String> {
        let mut history = self.history.borrow().clone();
        history.push(format!("all commits together: {:016x}", self.disk.digest()));
        history
    }

    pub fn fail(&self, what: String) {
        self.failure.borrow_mut().get_or_insert(what);
    }

    /// What has gone wrong first: after its own finding the witness sees no more, so that others stumble over it.
    pub fn failure(&self) -> Option<String> {
        self.disk.witness.lock().failure().or_else(|| self.failure.borrow().clone())
    }

    /// A life of its own beside the others. A panic in it is a failure of this world.
    pub fn spawn(self: &Rc<Self>, life: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
        let world = Rc::clone(self);
        tokio::task::spawn_local(async move {
            if let Err(panic) = AssertUnwindSafe(life).catch_unwind().await {
                world.fail(text_of(&*panic));
            }
        })
    }

    pub fn next_wish(&self) -> u64 {
        self.wishes.replace(self.wishes.get() + 1)
    }

    pub fn coordinator(&self) -> Option<Coordinator> {
        self.coordinator.borrow().clone()
    }

    pub fn life(&self) -> watch::Receiver<u64> {
        self.life.subscribe()
    }

    /// The content of files, packages and logs as it is, without any fault.
    pub fn kept(&self) -> Blobs {
        Blobs::within(self.kept.clone())
    }

    fn app(&self) -> Arc<App> {
        let life = self.disk.next_life();
        let db = Db::paced(life.clone(), self.clock.clone(), self.randomness.clone(), self.disk.pace());
        let mut topics = vec![
            Topic::Deadlines,
            Topic::TasksDue,
            Topic::Settling,
            Topic::Sealing,
            Topic::Garbage,
            Topic::Triggers,
            Topic::News,
            Topic::Mailboxes,
        ];
        let all = self.disk.read(|reading| robot_group::all(reading));
        topics.extend(all.map(|group| Topic::Group(group.id)));
        life.set_probe(db.watch(&topics));
        let rules = Rules {
            leases: LEASES,
            heartbeat_seconds: 10,
            limits: Limits {
                package_bytes: 1 << 20,
                artifact_bytes: 1 << 20,
                file_bytes: 1 << 20,
                job_log_bytes: 256 << 20,
                requests_per_second: 0,
            },
            public_metrics: true,
            public_url: String::new(),
            webhooks: WebhookRules { allow_private_targets: false, timeout_seconds: 15 },
            mail: MailRules::none(),
            telemetry: None,
            audit_retention_days: None,
            openid: None,
            ldap: None,
            sessions: SessionRules { idle_seconds: 3600, lifetime_seconds: 86_400, encrypted: false },
        };
        let blobs = Arc::new(Blobs::within(Arc::new(Content::new(Arc::clone(&self.kept), life))));
        App::new(Arc::new(db), blobs, Arc::clone(&self.secrets), rules, None)
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
            name: String::new(),
            email: None,
            runs_system: true,
            audit_retention_days: None,
        };
        let made = app.db.write(account, move |tx| account::bootstrap(tx, account, &wanted, &secrets)).await;
        made.expect("the first account is made");
        self.coordinator.replace(Some(Coordinator { router: router(Arc::clone(&app)), app }));
    }

    /// Kills the coordinator at once, with all that it was doing.
    fn kill_coordinator(&self) {
        self.note("the coordinator is killed");
        self.coordinator.replace(None);
        self.disk.end_life();
        self.life.send_modify(|life| *life += 1);
    }

    fn restart_coordinator(&self) {
        self.note("the coordinator starts");
        let app = self.app();
        self.coordinator.replace(Some(Coordinator { router: router(Arc::clone(&app)), app }));
    }

    pub fn begin_faults(&self) {
        self.faults.set(true);
        self.disk.set_faults(true);
        self.mail.set_faults(true);
    }

    pub fn end_faults(&self) {
        self.note("the faults end");
        self.faults.set(false);
        self.disk.set_faults(false);
        self.mail.set_faults(false);
        self.cuts.replace([Instant::now(); ROBOTS]);
    }

    /// Somebody sets the coordinator's clock.
    pub fn step_clock(&self) {
        let step = self.skew(if self.below(10) == 0 { 3_600_000 } else { 30_000 });
        self.note(format!("the coordinator's clock is set by {step} ms"));
        self.clock.skew_ms.store(step, Ordering::Relaxed);
    }

    fn skew(&self, limit: u64) -> i64 {
        i64::try_from(self.below(2 * limit)).expect("small") - i64::try_from(limit).expect("small")
    }

    /// What a host believes the time to be: some are wrong, a few by hours.
    pub fn host_time(&self) -> Timestamp {
        let skew = if self.fault(200) { self.skew(if self.below(4) == 0 { 86_400_000 } else { 60_000 }) } else { 0 };
        let elapsed = i64::try_from(self.clock.start.elapsed().as_millis()).expect("a short simulation");
        Timestamp::from_millis(START_MS + elapsed + skew)
    }

    /// Cuts the network of some robot for a while.
    pub fn cut_network(&self) {
        let (robot, seconds) = (self.pick(ROBOTS), self.below(150));
        self.note(format!("robot-{robot} is cut off for {seconds} s"));
        self.cuts.borrow_mut()[robot] = Instant::now() + Duration::from_secs(seconds);
    }

    pub fn is_cut(&self, robot: Option<usize>) -> bool {
        robot.is_some_and(|robot| self.faults.get() && Instant::now() < self.cuts.borrow()[robot])
    }
}

pub fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
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
                () = background::triggers::run(Arc::clone(&coordinator.app)) => {}
                () = background::mailboxes::run(Arc::clone(&coordinator.app), post(&world)) => {}
                () = tidy_now_and_then(&coordinator.app) => {}
                () = until_broken(&coordinator.app) => world.kill_coordinator(),
                () = tokio::time::sleep(lifetime) => {
                    if world.has_faults() {
                        world.kill_coordinator();
                    }
                }
            }
        } else {
            let long = world.fault(100);
            tokio::time::sleep(Duration::from_millis(world.below(if long { 120_000 } else { 10_000 }))).await;
            world.restart_coordinator();
        }
    }
}

fn post(world: &World) -> Arc<Post> {
    Arc::new(Post(Arc::clone(&world.mail)))
}

async fn tidy_now_and_then(app: &App) {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        // A full disk and a broken engine are part of this world; the next pass tries again.
        let _ = background::news::pass(app).await;
        let _ = background::sealing::pass(app).await;
        let _ = background::garbage::pass(app).await;
        let _ = background::retention::pass(app, Ages { jobs_days: 0, logs_days: 0, deliveries_days: 0 }).await;
    }
}

/// A broken engine ends the process.
async fn until_broken(app: &App) {
    while !app.db.read_only() {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
