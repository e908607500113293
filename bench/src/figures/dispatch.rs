//! From the API to the running process, and how many jobs get through a fleet and through one agent.

use std::{
    cell::Cell,
    net::UdpSocket,
    process::Command,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use drover_protocol::{JobId, job::Outcome};
use tokio::task::LocalSet;

use super::{Setting, runtime};
use crate::{
    api::{Api, MAX_COUNT},
    http::Connection,
    load::Latencies,
    program::{Agent, Coordinator, built, cpu_time, own_cpu_time},
    report::Row,
    robots::Robot,
};

const ROUNDS: usize = 200;
const ROBOTS: usize = 200;
/// So many jobs more than robots wait at any time.
const BACKLOG: usize = 200;
const CAPACITY: u32 = 10;

pub fn measure(setting: &Setting) -> anyhow::Result<Vec<Row>> {
    let mut rows = bare_starts()?;
    rows.extend(to_running(setting)?);
    rows.push(through_fleet(setting)?);
    rows.extend(through_one_agent(setting)?);
    Ok(rows)
}

/// Nanoseconds on the clock that all processes of a host share.
fn now_ns() -> i128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

/// Where processes say that they run.
struct Stamps(UdpSocket);

impl Stamps {
    fn open() -> anyhow::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self(socket))
    }

    fn address(&self) -> anyhow::Result<String> {
        Ok(self.0.local_addr()?.to_string())
    }

    /// When the process of this job began to run.
    fn of(&self, job: &str) -> anyhow::Result<i128> {
        let mut buffer = [0; 256];
        let count = self.0.recv(&mut buffer).context("the process does not run")?;
        let (found, time) = std::str::from_utf8(&buffer[..count])?.split_once(' ').context("not a stamp")?;
        if found != job {
            bail!("the process of {found} ran instead of that of {job}");
        }
        Ok(time.parse()?)
    }
}

fn since(start_ns: i128, then_ns: i128) -> Duration {
    Duration::from_nanos(u64::try_from(then_ns - start_ns).unwrap_or(0))
}

/// What the operating system alone needs to start the same process.
fn bare_starts() -> anyhow::Result<Vec<Row>> {
    let stamps = Stamps::open()?;
    let program = built("drover-bench-robot")?;
    let mut latencies = Latencies::default();
    for _ in 0..ROUNDS {
        let started = now_ns();
        let mut child = Command::new(&program).args(["stamp", &stamps.address()?]).spawn()?;
        latencies.add(since(started, stamps.of("")?));
        child.wait()?;
    }
    let (started, mut count) = (Instant::now(), 0);
    while started.elapsed() < Duration::from_secs(1) {
        Command::new("/bin/true").status()?;
        count += 1;
    }
    let rate = f64::from(count) / started.elapsed().as_secs_f64();
    Ok(vec![
        Row::plain("the same process started by hand, p50", latencies.ms(50), "ms").beside(latencies.text()),
        Row::plain("fork and exec of /bin/true, one after another", rate, "/s"),
    ])
}

/// One job at a time on an idle agent.
fn to_running(setting: &Setting) -> anyhow::Result<Vec<Row>> {
    let coordinator = Coordinator::start(&setting.folder.join("dispatch"))?;
    let stamps = Stamps::open()?;
    let robot = built("drover-bench-robot")?;
    let (command, address) = (robot.to_string_lossy(), stamps.address()?);
    let latencies = runtime()?.block_on(async {
        let mut api = Api::open(coordinator.address).await?;
        api.publish("stamp", &[&command, "stamp", &address]).await?;
        let token = api.join_token(1).await?;
        let agent = Agent::start(&setting.folder.join("agent"), coordinator.address, &token, 1)?;
        api.idle_robots(1).await?;
        let mut latencies = Latencies::default();
        for round in 0..ROUNDS + 10 {
            let job = api.start("stamp", 1).await?[0];
            let accepted = now_ns();
            let running = stamps.of(&job.to_string())?;
            // The first ones fetch the package and warm the caches.
            if round >= 10 {
                latencies.add(since(accepted, running));
            }
            api.finished(job).await?;
            // Idle means that the agent waits for its next job.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        agent.program.stop()?;
        anyhow::Ok(latencies)
    })?;
    coordinator.program.stop()?;
    Ok(vec![
        Row::below("job accepted by the API → process running, p50", 9.0, latencies.ms(50), "ms")
            .beside(latencies.text()),
        Row::below("… p99", 25.0, latencies.ms(99), "ms"),
    ])
}

/// Simulated agents take jobs and end them at once.
fn through_fleet(setting: &Setting) -> anyhow::Result<Row> {
    let coordinator = Coordinator::start(&setting.folder.join("through-fleet"))?;
    let (pid, address) = (coordinator.program.pid(), coordinator.address);
    let row = LocalSet::new().block_on(&runtime()?, async {
        let mut api = Api::open(address).await?;
        api.publish("p", &["true"]).await?;
        let token = api.join_token(u32::try_from(ROBOTS)?).await?;
        let mut joining = Connection::open(address).await?;
        let done = Rc::new(Cell::new(0_usize));
        for number in 0..ROBOTS {
            let robot = Robot::join(&mut joining, address, &token, number).await?;
            let (mut connection, done) = (robot.connect().await?, Rc::clone(&done));
            tokio::task::spawn_local(async move {
                loop {
                    match robot.run_one(&mut connection).await {
                        Ok(ran) => done.set(done.get() + usize::from(ran)),
                        Err(error) => return eprintln!("a simulated agent gave up: {error:#}"),
                    }
                }
            });
        }
        let (cpu, own, begun) = (cpu_time(pid)?, own_cpu_time()?, Instant::now());
        let (mut started, mut counted_from) = (0_usize, None);
        while begun.elapsed() < setting.duration + Duration::from_secs(1) {
            if started < done.get() + ROBOTS + BACKLOG {
                started += api.start("p", MAX_COUNT).await?.len();
            } else {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            // The first second is for getting under way.
            if counted_from.is_none() && begun.elapsed() > Duration::from_secs(1) {
                counted_from = Some((Instant::now(), done.get()));
            }
        }
        let (since, before) = counted_from.context("the load was too short")?;
        let rate = (done.get() - before) as f64 / since.elapsed().as_secs_f64();
        let us = |now: Duration, before: Duration| (now - before).as_secs_f64() * 1e6 / done.get() as f64;
        let (server, generator) = (us(cpu_time(pid)?, cpu), us(own_cpu_time()?, own));
        let text = format!("start, next, accept and finish of a job: CPU {server:.0} µs, generator {generator:.0} µs");
        anyhow::Ok(
            Row::at_least(format!("{ROBOTS} simulated agents, trivial jobs end to end"), 500.0, rate, "/s")
                .beside(text),
        )
    })?;
    coordinator.program.stop()?;
    Ok(row)
}

/// One real agent, real processes.
fn through_one_agent(setting: &Setting) -> anyhow::Result<Vec<Row>> {
    let coordinator = Coordinator::start(&setting.folder.join("through-agent"))?;
    let pid = coordinator.program.pid();
    let rows = runtime()?.block_on(async {
        let mut api = Api::open(coordinator.address).await?;
        api.publish("true", &["/bin/true"]).await?;
        let token = api.join_token(1).await?;
        let agent = Agent::start(&setting.folder.join("agent-of-10"), coordinator.address, &token, CAPACITY)?;
        api.idle_robots(1).await?;
        let warm = api.start_many("true", 20).await?;
        have_succeeded(&mut api, &warm).await?;
        let agent_pid = agent.program.pid();
        let (server, own, begun) = (cpu_time(pid)?, cpu_time(agent_pid)?, Instant::now());
        let jobs = api.start_many("true", 1_000).await?;
        // They are taken in order, so that the last ones have ended when all have, but for a few.
        for job in jobs.iter().rev().take(2 * CAPACITY as usize) {
            api.finished(*job).await?;
        }
        let took = begun.elapsed();
        let count = jobs.len() as f64;
        let us = |now: Duration, before: Duration| (now - before).as_secs_f64() * 1e6 / count;
        let text = format!(
            "per job: CPU coordinator {:.0} µs, agent without supervisors {:.0} µs",
            us(cpu_time(pid)?, server),
            us(cpu_time(agent_pid)?, own)
        );
        have_succeeded(&mut api, &jobs).await?;
        agent.program.stop()?;
        let rate = count / took.as_secs_f64();
        anyhow::Ok(vec![
            Row::at_least(format!("one agent of capacity {CAPACITY}, jobs of /bin/true"), 150.0, rate, "/s")
                .beside(text),
            Row::at_least("… as the stretch", 300.0, rate, "/s"),
        ])
    })?;
    coordinator.program.stop()?;
    Ok(rows)
}

/// Waits until all of them have finished; fails if one has not succeeded.
async fn have_succeeded(api: &mut Api, jobs: &[JobId]) -> anyhow::Result<()> {
    for job in jobs {
        let job = api.finished(*job).await?;
        if job.outcome != Some(Outcome::Succeeded) {
            bail!("job {} ended as {:?}", job.id, job.cause);
        }
    }
    Ok(())
}
