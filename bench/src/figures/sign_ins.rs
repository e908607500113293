//! People who sign in, each of whom costs a core for some milliseconds, beside robots that must be heard of in time.

use std::{
    cell::{Cell, RefCell},
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Context;
use drover_protocol::API_BASE;
use serde_json::json;
use tokio::task::{JoinHandle, LocalSet};

use super::{Setting, runtime};
use crate::{
    api::Api,
    http::{Connection, Request},
    load::Latencies,
    program::Coordinator,
    report::Row,
    robots::Robot,
};

const ROBOTS: usize = 50;
/// Of each robot; a real one beats every few seconds.
const BEAT_EVERY: Duration = Duration::from_millis(100);
const PEOPLE: u64 = 20;
const PER_SECOND: u64 = 200;
const PASSWORD: &str = "correct horse battery staple";

/// What became of the wishes to sign in.
#[derive(Default)]
struct Ends {
    accepted: Cell<u64>,
    told_to_wait: Cell<u64>,
    other: Cell<u64>,
}

pub fn measure(setting: &Setting) -> anyhow::Result<Vec<Row>> {
    let coordinator = Coordinator::start(&setting.folder.join("store"))?;
    let (address, duration) = (coordinator.address, setting.duration);
    let rows = LocalSet::new().block_on(&runtime()?, async {
        let mut api = Api::open(address).await?;
        for number in 0..PEOPLE {
            api.user(&login(number), PASSWORD).await?;
        }
        let token = api.join_token(ROBOTS as u32).await?;
        let mut connection = Connection::open(address).await?;
        let mut robots = Vec::new();
        for number in 0..ROBOTS {
            robots.push(Robot::join(&mut connection, address, &token, number).await?);
        }
        let alone = beats(&robots, duration).await?;
        let ends = Rc::new(Ends::default());
        let people = tokio::task::spawn_local(sign_in_for(address, duration, Rc::clone(&ends)));
        let beside = beats(&robots, duration).await?;
        people.await??;
        let per_second = |count: &Cell<u64>| count.get() as f64 / duration.as_secs_f64();
        let text = format!(
            "{PER_SECOND}/s wished: {:.0}/s signed in, {:.0}/s told to come back, {:.0}/s otherwise",
            per_second(&ends.accepted),
            per_second(&ends.told_to_wait),
            per_second(&ends.other)
        );
        anyhow::Ok(vec![
            Row::plain("a heartbeat, nobody signs in, p99", alone.ms(99), "ms").beside(format!(
                "{}; {} of {ROBOTS} robots",
                alone.text(),
                alone.count()
            )),
            Row::plain("… beside people who sign in, p99", beside.ms(99), "ms").beside(format!(
                "{}; {}; {text}",
                beside.text(),
                beside.count()
            )),
        ])
    })?;
    coordinator.program.stop()?;
    Ok(rows)
}

fn login(number: u64) -> String {
    format!("person-{number}")
}

/// How long heartbeats take.
async fn beats(robots: &[Robot], duration: Duration) -> anyhow::Result<Latencies> {
    let all = Rc::new(RefCell::new(Latencies::default()));
    let until = Instant::now() + duration;
    let loops: Vec<JoinHandle<anyhow::Result<()>>> = robots
        .iter()
        .enumerate()
        .map(|(number, robot)| {
            let (robot, all) = (robot.clone(), Rc::clone(&all));
            tokio::task::spawn_local(async move {
                let (mut connection, request) = (robot.connect().await?, robot.heartbeat(None)?);
                // Spread over the period.
                tokio::time::sleep(BEAT_EVERY.mul_f64(number as f64 / ROBOTS as f64)).await;
                let mut ticks = tokio::time::interval(BEAT_EVERY);
                while Instant::now() < until {
                    ticks.tick().await;
                    let begun = Instant::now();
                    connection.call(&request).await?.require(200)?;
                    all.borrow_mut().add(begun.elapsed());
                }
                Ok(())
            })
        })
        .collect();
    for each in loops {
        each.await??;
    }
    Ok(all.take())
}

/// So many people a second, whatever becomes of those before them, each from one of some addresses.
async fn sign_in_for(address: SocketAddr, duration: Duration, ends: Rc<Ends>) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / PER_SECOND as u32);
    let mut all = Vec::new();
    for number in 0..PER_SECOND * duration.as_secs() {
        ticks.tick().await;
        let ends = Rc::clone(&ends);
        all.push(tokio::task::spawn_local(async move {
            let source = Ipv4Addr::new(127, 1, 0, 1 + (number % 100) as u8);
            let body = json!({"login": login(number % PEOPLE), "password": PASSWORD});
            let request = Request::json("POST", &format!("{API_BASE}/session"), "", &body)?;
            let mut connection = Connection::open_from(source.into(), address).await.context("nobody can connect")?;
            let ended = match connection.call(&request).await?.status {
                200 => &ends.accepted,
                429 => &ends.told_to_wait,
                _ => &ends.other,
            };
            ended.set(ended.get() + 1);
            anyhow::Ok(())
        }));
    }
    for each in all {
        each.await??;
    }
    Ok(())
}
