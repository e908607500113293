//! How long the coordinator takes to serve, and what it holds when nobody asks anything.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use drover_coordinator::store::embedded::{Embedded, Settings};

use super::{Setting, runtime};
use crate::{
    api::Api,
    program::{Coordinator, resident_mb},
    report::Row,
};

const RECORDS: u64 = 1_000_000;
/// Started first, to see how many records a job comes to.
const FIRST_JOBS: u32 = 10_000;
const CONNECTIONS: u32 = 8;

pub fn measure(setting: &Setting) -> anyhow::Result<Vec<Row>> {
    let folder = setting.folder.join("store");
    let coordinator = Coordinator::start(&folder)?;
    let mut rows = vec![Row::below("start of an empty coordinator", 1.0, seconds(coordinator.start_took), "s")];
    settle();
    rows.push(Row::below("idle coordinator, memory", 60.0, resident_mb(coordinator.program.pid())?, "MB"));
    runtime()?.block_on(async { Api::open(coordinator.address).await?.publish("p", &["true"]).await })?;
    start_jobs(coordinator.address, FIRST_JOBS)?;
    coordinator.program.stop()?;
    let of_first = export(&folder)?;

    let coordinator = Coordinator::start(&folder)?;
    let wanted = u64::from(FIRST_JOBS) * RECORDS.div_ceil(of_first);
    start_jobs(coordinator.address, u32::try_from(wanted)? - FIRST_JOBS)?;
    // Dropping kills it, in the middle of a checkpoint's worth of log.
    drop(coordinator);
    let coordinator = Coordinator::start(&folder)?;
    rows.push(Row::below("start with a million records, killed before", 2.0, seconds(coordinator.start_took), "s"));
    coordinator.program.stop()?;
    let coordinator = Coordinator::start(&folder)?;
    let jobs = format!("{wanted} jobs");
    rows.push(Row::below("… ended in order before", 2.0, seconds(coordinator.start_took), "s").beside(jobs));
    settle();
    rows.push(Row::plain("… its memory then", resident_mb(coordinator.program.pid())?, "MB"));
    coordinator.program.stop()?;
    rows.push(rebuild(&folder)?);
    Ok(rows)
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// What a program holds just after its start is not what it goes on to hold: the allocator gives back within ten seconds
/// what only the start has needed.
fn settle() {
    std::thread::sleep(Duration::from_secs(15));
}

fn start_jobs(address: SocketAddr, count: u32) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        let callers = (0..CONNECTIONS)
            .map(|_| async { Api::open(address).await?.start_many("p", count.div_ceil(CONNECTIONS)).await });
        futures::future::try_join_all(callers).await.map(drop)
    })
}

/// Exports the store of a coordinator that was stopped; gives the number of its records.
fn export(folder: &Path) -> anyhow::Result<u64> {
    let engine = Embedded::open(folder, Settings::default())?;
    let records = engine.export()?.pairs;
    engine.close()?;
    Ok(records)
}

fn rebuild(folder: &Path) -> anyhow::Result<Row> {
    let records = export(folder)?;
    let begun = Instant::now();
    let engine = Embedded::rebuild(folder, Settings::default(), false)?;
    let took = begun.elapsed();
    engine.close()?;
    let text = format!("{records} records in {:.1} s", took.as_secs_f64());
    Ok(Row::at_least("index made anew", 100_000.0, records as f64 / took.as_secs_f64(), "/s").beside(text))
}
