//! The stream of changes: what it costs the coordinator that many follow while much happens.

use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use drover_protocol::API_BASE;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::LocalSet,
};

use super::{Setting, runtime};
use crate::{
    api::{Api, start_request},
    http::{Connection, Request},
    program::{Coordinator, KEY, cpu_time, resident_mb},
    report::Row,
};

const LISTENERS: usize = 200;
/// Changes in a second: each call starts several jobs, each of which is one.
const CHANGES: u64 = 1_000;
const JOBS_PER_CALL: u32 = 10;
/// How long the last changes may take to arrive.
const PATIENCE: Duration = Duration::from_secs(5);

pub fn measure(setting: &Setting) -> anyhow::Result<Vec<Row>> {
    let coordinator = Coordinator::start(&setting.folder.join("store"))?;
    let (address, pid) = (coordinator.address, coordinator.program.pid());
    let rows = LocalSet::new().block_on(&runtime()?, async {
        let mut api = Api::open(address).await?;
        api.publish("p", &["true"]).await?;
        // What the same changes cost while nobody follows.
        let alone = load(address, pid, setting.duration).await?;
        let seen = Rc::new(Cell::new(0));
        for _ in 0..LISTENERS {
            follow(address, Rc::clone(&seen)).await?;
        }
        let followed = load(address, pid, setting.duration).await?;
        let wanted = followed.changes * LISTENERS as u64;
        let begun = Instant::now();
        while seen.get() < wanted && begun.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let lag = begun.elapsed();
        anyhow::ensure!(seen.get() == wanted, "{} of {wanted} events have arrived", seen.get());
        let text = format!(
            "{LISTENERS} listeners, {:.0} changes a second, {wanted} events; {:.1} % without listeners",
            followed.per_second(),
            alone.cpu_percent()
        );
        anyhow::Ok(vec![
            Row::plain("CPU of the coordinator, of one core", followed.cpu_percent(), "%").beside(text),
            Row::plain("of which for the listeners", followed.cpu_percent() - alone.cpu_percent(), "%"),
            Row::below("last events after the last change", 1_000.0, lag.as_secs_f64() * 1e3, "ms"),
            Row::plain("memory of the coordinator then", resident_mb(pid)?, "MB"),
        ])
    })?;
    coordinator.program.stop()?;
    Ok(rows)
}

/// What a load came to.
struct Load {
    changes: u64,
    took: Duration,
    cpu: Duration,
}

impl Load {
    fn per_second(&self) -> f64 {
        self.changes as f64 / self.took.as_secs_f64()
    }

    fn cpu_percent(&self) -> f64 {
        100.0 * self.cpu.as_secs_f64() / self.took.as_secs_f64()
    }
}

/// Makes changes at an even pace.
async fn load(address: SocketAddr, pid: u32, duration: Duration) -> anyhow::Result<Load> {
    let mut connection = Connection::open(address).await?;
    let request = start_request("p", JOBS_PER_CALL)?;
    let mut pace = tokio::time::interval(Duration::from_secs(1) * JOBS_PER_CALL / u32::try_from(CHANGES)?);
    let (begun, cpu) = (Instant::now(), cpu_time(pid)?);
    let mut changes = 0;
    while begun.elapsed() < duration {
        pace.tick().await;
        connection.call(&request).await?.require(201)?;
        changes += u64::from(JOBS_PER_CALL);
    }
    Ok(Load { changes, took: begun.elapsed(), cpu: cpu_time(pid)? - cpu })
}

/// Follows the changes of jobs on a connection of its own, and counts them.
async fn follow(address: SocketAddr, seen: Rc<Cell<u64>>) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let path = format!("{API_BASE}/events?noun=job");
    stream.write_all(&Request::new("GET", &path, KEY, "Accept: text/event-stream\r\n", b"").0).await?;
    let mut buffer = vec![0; 64 * 1024];
    let mut begun = Vec::new();
    while !begun.windows(8).any(|window| window == b"position") {
        let length = stream.read(&mut buffer).await?;
        anyhow::ensure!(length > 0, "a listener was let go");
        begun.extend_from_slice(&buffer[..length]);
    }
    tokio::task::spawn_local(async move {
        // An event may be cut between two pieces: its beginning is looked for over the cut.
        let (mut kept, mark) = (Vec::new(), b"data: {\"type\"");
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            kept.extend_from_slice(&buffer[..length]);
            let found = kept.windows(mark.len()).filter(|window| window == mark).count();
            seen.set(seen.get() + found as u64);
            kept.drain(..kept.len().saturating_sub(mark.len() - 1));
        }
    });
    Ok(())
}
