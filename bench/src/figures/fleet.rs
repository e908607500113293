//! Thousands of agents that are connected and have nothing to do: long poll and heartbeat, as the real ones.

use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::task::LocalSet;

use super::{Setting, runtime};
use crate::{
    api::Api,
    http::Connection,
    program::{Coordinator, cpu_time, own_cpu_time, resident_mb},
    report::Row,
    robots::Robot,
};

const HEARTBEAT: Duration = Duration::from_secs(20);
/// As long as an agent waits in one call.
const WAIT_SECONDS: u64 = 30;
/// Three heartbeats of each.
const WATCHED: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Counts {
    heartbeats: Cell<u64>,
    polls: Cell<u64>,
    reconnected: Cell<u64>,
    failed: Cell<u64>,
}

fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

pub fn measure(setting: &Setting) -> anyhow::Result<Vec<Row>> {
    let coordinator = Coordinator::start(&setting.folder.join("store"))?;
    let (pid, address) = (coordinator.program.pid(), coordinator.address);
    let counts = Rc::new(Counts::default());
    let robots = setting.robots;
    let rows = LocalSet::new().block_on(&runtime()?, async {
        let begun = Instant::now();
        let all = join_all(address, robots).await?;
        let joining = begun.elapsed();
        for (number, robot) in all.into_iter().enumerate() {
            // Spread over the period, as a fleet that was not switched on at one moment.
            let delay = HEARTBEAT.mul_f64(number as f64 / robots as f64);
            let (robot, counts) = (Rc::new(robot), Rc::clone(&counts));
            tokio::task::spawn_local(poll(Rc::clone(&robot), delay, Rc::clone(&counts)));
            tokio::task::spawn_local(beat(robot, delay, counts));
        }
        tokio::time::sleep(HEARTBEAT + Duration::from_secs(10)).await;
        let (cpu, own, begun) = (cpu_time(pid)?, own_cpu_time()?, Instant::now());
        let before = (counts.heartbeats.get(), counts.polls.get());
        tokio::time::sleep(WATCHED).await;
        let took = begun.elapsed().as_secs_f64();
        let percent = |now: Duration, before: Duration| (now - before).as_secs_f64() / took * 100.0;
        let text = format!(
            "{:.0} heartbeats and {:.0} polls per second, {} reconnected, {} failed; generator {:.0} %",
            (counts.heartbeats.get() - before.0) as f64 / took,
            (counts.polls.get() - before.1) as f64 / took,
            counts.reconnected.get(),
            counts.failed.get(),
            percent(own_cpu_time()?, own)
        );
        anyhow::Ok(vec![
            Row::below(format!("{robots} connected agents, of one core"), 50.0, percent(cpu_time(pid)?, cpu), "%")
                .beside(text),
            Row::below("… memory of the coordinator", 500.0, resident_mb(pid)?, "MB"),
            Row::plain("… joining, one after another on 16 connections", robots as f64 / joining.as_secs_f64(), "/s"),
        ])
    })?;
    coordinator.program.stop()?;
    Ok(rows)
}

async fn join_all(address: SocketAddr, robots: usize) -> anyhow::Result<Vec<Robot>> {
    const JOINING: usize = 16;
    let token = Api::open(address).await?.join_token(u32::try_from(robots)?).await?;
    let joins = (0..JOINING).map(|first| {
        let token = token.clone();
        async move {
            let mut connection = Connection::open(address).await?;
            let mut joined = Vec::new();
            for number in (first..robots).step_by(JOINING) {
                joined
                    .push(Robot::join(&mut connection, address, &token, number).await.context("a robot cannot join")?);
            }
            anyhow::Ok(joined)
        }
    });
    Ok(futures::future::try_join_all(joins).await?.concat())
}

async fn poll(robot: Rc<Robot>, delay: Duration, counts: Rc<Counts>) {
    tokio::time::sleep(delay).await;
    let Ok(request) = robot.next(WAIT_SECONDS) else { return };
    let mut connection = None;
    loop {
        match call(&robot, &mut connection, &request, &counts).await {
            Ok(204) => count(&counts.polls),
            _ => failed(&counts).await,
        }
    }
}

async fn beat(robot: Rc<Robot>, delay: Duration, counts: Rc<Counts>) {
    tokio::time::sleep(delay).await;
    let Ok(request) = robot.heartbeat(None) else { return };
    let mut ticks = tokio::time::interval(HEARTBEAT);
    loop {
        ticks.tick().await;
        // A new one each time: the coordinator closes a connection that is idle for as long as this.
        let mut connection = None;
        match call(&robot, &mut connection, &request, &counts).await {
            Ok(200) => count(&counts.heartbeats),
            _ => failed(&counts).await,
        }
    }
}

async fn failed(counts: &Counts) {
    count(&counts.failed);
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// Calls over the kept connection; over a new one if it was closed meanwhile, as every client does.
async fn call(
    robot: &Robot,
    kept: &mut Option<Connection>,
    request: &crate::http::Request,
    counts: &Counts,
) -> anyhow::Result<u16> {
    if let Some(mut connection) = kept.take() {
        if let Ok(status) = connection.call(request).await.map(|answer| answer.status) {
            *kept = Some(connection);
            return Ok(status);
        }
        count(&counts.reconnected);
    }
    let mut connection = robot.connect().await?;
    let status = connection.call(request).await?.status;
    *kept = Some(connection);
    Ok(status)
}
