//! Search over the logs of all jobs: ten million lines of 200 bytes, most of them sealed.

use std::time::{Duration, Instant};

use anyhow::Context;
use drover_protocol::{
    API_BASE,
    agent::LogAccepted,
    log::{FoundLines, MAX_CHUNK_LINES},
};
use serde_json::Value;
use tokio::task::LocalSet;

use super::{
    Setting,
    logs::{Bench, Running, booking},
    runtime,
};
use crate::{
    api::Api,
    http::{Connection, Request},
    program::{Coordinator, KEY, cpu_time, resident_mb},
    report::Row,
};

const LINES: usize = 10_000_000;
/// Jobs that say them, one after another and four at a time.
const JOBS: usize = 40;
const AT_ONCE: usize = 4;
/// Of so many lines one has the word that is searched for.
const SELDOM: u64 = 100_000;
/// How long sealing may take.
const PATIENCE: Duration = Duration::from_secs(300);

pub fn measure(setting: &Setting) -> anyhow::Result<Vec<Row>> {
    let coordinator = Coordinator::start(&setting.folder.join("store"))?;
    let rows = LocalSet::new().block_on(&runtime()?, async {
        let bench = Bench { address: coordinator.address, pid: coordinator.program.pid() };
        let mut api = Api::open(bench.address).await?;
        api.publish("p", &["true"]).await?;
        let jobs = bench.running_jobs(&mut api, JOBS).await?;
        let begun = Instant::now();
        for together in jobs.chunks(AT_ONCE) {
            futures::future::try_join_all(together.iter().map(say)).await?;
        }
        let said = begun.elapsed();
        until_sealed(&bench).await?;
        let sealed = begun.elapsed();
        let mut rows = searches(&bench).await?;
        let text = format!(
            "{LINES} lines were taken in within {:.1} s and sealed {:.1} s later",
            said.as_secs_f64(),
            (sealed - said).as_secs_f64()
        );
        rows.push(Row::plain("memory of the coordinator then", resident_mb(bench.pid)?, "MB").beside(text));
        anyhow::Ok(rows)
    })?;
    coordinator.program.stop()?;
    Ok(rows)
}

fn line(seq: u64) -> String {
    let mut text = booking(seq);
    if seq % SELDOM == 7 {
        text.push_str(" NeedleInTheStack");
    }
    while text.len() < 200 {
        text.push_str(" and so on, as it is written down by the process");
    }
    text.truncate(200);
    text
}

/// One job's part of all lines.
async fn say(running: &Running) -> anyhow::Result<()> {
    let mut connection = running.robot.connect().await?;
    let mut next_seq = 1;
    while next_seq < (LINES / JOBS) as u64 {
        let chunk = running.chunk(next_seq, MAX_CHUNK_LINES, line)?;
        next_seq = connection.call(&chunk).await?.expect::<LogAccepted>(200)?.next_seq;
    }
    running.robot.finish(&mut connection, running.job, running.attempt).await
}

/// Waits until the coordinator has nothing more to do: sealing is done when it needs no time any more.
async fn until_sealed(bench: &Bench) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let before = cpu_time(bench.pid)?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        if cpu_time(bench.pid)? - before < Duration::from_millis(100) {
            return Ok(());
        }
        anyhow::ensure!(begun.elapsed() < PATIENCE, "sealing does not end");
    }
}

async fn searches(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let first = scan(bench, "limit=10&text=needleinthestack", 1).await?;
    let what = "first results of a text, in any case of letters";
    rows.push(Row::below(what, 1_000.0, first.took.as_secs_f64() * 1e3, "ms").beside(first.text()));
    for (what, query) in [
        ("lines searched for a text that is seldom", "limit=1000&text=needleinthestack"),
        ("lines searched for a text that is nowhere", "limit=1000&text=no%20such%20words"),
        ("lines searched for a pattern", "limit=1000&text=amount%20%5B0-9%5D%2B%20USD&regex=true"),
    ] {
        let whole = scan(bench, query, usize::MAX).await?;
        let rate = whole.lines as f64 / whole.took.as_secs_f64();
        rows.push(Row::at_least(what, 2_000_000.0, rate, "/s").beside(whole.text()));
    }
    let newest = scan(bench, "limit=100", 1).await?;
    rows.push(
        Row::below("newest 100 lines of all jobs", 300.0, newest.took.as_secs_f64() * 1e3, "ms").beside(newest.text()),
    );
    Ok(rows)
}

struct Scan {
    took: Duration,
    lines: u64,
    found: usize,
    pages: usize,
    cpu: Duration,
}

impl Scan {
    fn text(&self) -> String {
        let cpu = self.cpu.as_secs_f64();
        format!("{} found among {} lines in {} calls, CPU {cpu:.2} s", self.found, self.lines, self.pages)
    }
}

/// Searches page by page, until so many are found or to the end.
async fn scan(bench: &Bench, query: &str, enough: usize) -> anyhow::Result<Scan> {
    let mut connection = Connection::open(bench.address).await?;
    let (begun, cpu) = (Instant::now(), cpu_time(bench.pid)?);
    let mut scan = Scan { took: Duration::ZERO, lines: 0, found: 0, pages: 0, cpu: Duration::ZERO };
    let mut cursor = String::new();
    loop {
        let request = Request::json("GET", &format!("{API_BASE}/logs?{query}{cursor}"), KEY, &Value::Null)?;
        let page: FoundLines = connection.call(&request).await?.expect(200).context("a page of a search")?;
        scan.lines += page.searched_lines;
        scan.found += page.items.len();
        scan.pages += 1;
        match page.next_cursor {
            Some(next) if scan.found < enough => cursor = format!("&cursor={next}"),
            _ => break,
        }
    }
    scan.took = begun.elapsed();
    scan.cpu = cpu_time(bench.pid)? - cpu;
    Ok(scan)
}
