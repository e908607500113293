//! Logs: lines taken in durably, pages of a large log, and how far a live log is behind.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context;
use drover_coordinator::clock::{Clock, SystemClock};
use drover_protocol::{
    API_BASE, JobId,
    agent::{LogAccepted, LogChunk},
    log::{Level, LogPage, MAX_CHUNK_LINES, NewLogLine},
};
use serde_json::Value;
use tokio::{io::AsyncReadExt, task::LocalSet};

use super::{Setting, runtime};
use crate::{
    api::Api,
    http::{Connection, Request},
    load::Latencies,
    program::{Coordinator, KEY, cpu_time, own_cpu_time, resident_mb},
    report::Row,
    robots::Robot,
};

/// Robots that send at once.
const SENDERS: usize = 4;
const CHUNKS_OF_EACH: usize = 50;
const PAGES: u64 = 200;
const TAILS: usize = 20;
const TAIL_CHUNKS: usize = 200;

pub fn measure(setting: &Setting) -> anyhow::Result<Vec<Row>> {
    let coordinator = Coordinator::start(&setting.folder.join("store"))?;
    let rows = LocalSet::new().block_on(&runtime()?, async {
        let bench = Bench { address: coordinator.address, pid: coordinator.program.pid() };
        let mut api = Api::open(bench.address).await?;
        api.publish("p", &["true"]).await?;
        let mut jobs = bench.running_jobs(&mut api, SENDERS + 2).await?;
        let tailed = jobs.pop().context("a job")?;
        let large = jobs.pop().context("a job")?;
        let mut rows = vec![bench.ingest(jobs).await?, bench.tail(tailed).await?];
        rows.extend(bench.pages(large, setting.log_bytes).await?);
        anyhow::Ok(rows)
    })?;
    coordinator.program.stop()?;
    Ok(rows)
}

/// A job that a simulated robot runs.
#[derive(Clone)]
pub(super) struct Running {
    pub robot: Robot,
    pub job: JobId,
    pub attempt: u32,
}

impl Running {
    /// Lines as processes write them: alike, but none the same.
    pub fn chunk(&self, first_seq: u64, lines: usize, message: impl Fn(u64) -> String) -> anyhow::Result<Request> {
        // Of today: what is old is deleted by retention.
        let time = SystemClock.now();
        let line = |seq| NewLogLine { time, level: Level::Info, message: message(seq), fields: serde_json::Map::new() };
        let lines = (first_seq..first_seq + lines as u64).map(line).collect();
        self.robot.log_chunk(self.job, &LogChunk { attempt: self.attempt, first_seq, lines })
    }
}

pub(super) fn booking(seq: u64) -> String {
    // Not to be foreseen by the compression, and the same in every run.
    let amount = seq.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    format!("invoice {seq} of supplier {} was booked, amount {amount} EUR", amount % 977)
}

pub(super) struct Bench {
    pub address: SocketAddr,
    pub pid: u32,
}

impl Bench {
    pub async fn running_jobs(&self, api: &mut Api, count: usize) -> anyhow::Result<Vec<Running>> {
        let token = api.join_token(u32::try_from(count)?).await?;
        let mut connection = Connection::open(self.address).await?;
        api.start_many("p", u32::try_from(count)?).await?;
        let mut running = Vec::new();
        for number in 0..count {
            let robot = Robot::join(&mut connection, self.address, &token, number).await?;
            let (job, attempt) = robot.take_one(&mut connection).await?.context("no job came")?;
            running.push(Running { robot, job, attempt });
        }
        Ok(running)
    }

    /// Chunks as large as they may be, made before the clock runs.
    async fn ingest(&self, senders: Vec<Running>) -> anyhow::Result<Row> {
        let mut ready = Vec::new();
        for sender in &senders {
            let first = |number: usize| (number * MAX_CHUNK_LINES) as u64 + 1;
            let chunks = (0..CHUNKS_OF_EACH).map(|number| sender.chunk(first(number), MAX_CHUNK_LINES, booking));
            ready.push((sender.robot.connect().await?, chunks.collect::<anyhow::Result<Vec<_>>>()?));
        }
        let (server, own, begun) = (cpu_time(self.pid)?, own_cpu_time()?, Instant::now());
        let sending = ready.into_iter().map(|(mut connection, chunks)| async move {
            let mut latencies = Latencies::default();
            for chunk in &chunks {
                let sent = Instant::now();
                connection.call(chunk).await?.expect::<LogAccepted>(200)?;
                latencies.add(sent.elapsed());
            }
            anyhow::Ok(latencies)
        });
        let mut latencies = Latencies::default();
        for of_one in futures::future::try_join_all(sending).await? {
            latencies.extend(of_one);
        }
        let took = begun.elapsed();
        let lines = (SENDERS * CHUNKS_OF_EACH * MAX_CHUNK_LINES) as f64;
        let us = |now: Duration, before: Duration| (now - before).as_secs_f64() * 1e6 / lines;
        let text = format!(
            "a chunk {}; CPU per line {:.2} µs, generator {:.2} µs",
            latencies.text(),
            us(cpu_time(self.pid)?, server),
            us(own_cpu_time()?, own)
        );
        let what = format!("lines ingested durably, {SENDERS} robots");
        Ok(Row::at_least(what, 300_000.0, lines / took.as_secs_f64(), "/s").beside(text))
    }

    /// From the sending of a line until a live reader has it, with several readers.
    async fn tail(&self, running: Running) -> anyhow::Result<Row> {
        let path = format!("{API_BASE}/jobs/{}/logs", running.job);
        let request = Request::new("GET", &path, KEY, "Accept: text/event-stream\r\n", b"");
        let epoch = Instant::now();
        let mut readers = Vec::new();
        for _ in 0..TAILS {
            let stream = Connection::open(self.address).await?.into_stream(&request).await?;
            readers.push(tokio::task::spawn_local(lags(stream, epoch)));
        }
        let mut connection = running.robot.connect().await?;
        for number in 0..TAIL_CHUNKS {
            let sent = epoch.elapsed().as_micros();
            let chunk = running.chunk(number as u64 * 10 + 1, 10, |_| format!("sent-at {sent} us"))?;
            connection.call(&chunk).await?.require(200)?;
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        let mut latencies = Latencies::default();
        for reader in readers {
            latencies.extend(reader.await??);
        }
        let what = format!("lag of a live log, {TAILS} readers, p99");
        Ok(Row::below(what, 250.0, latencies.ms(99), "ms").beside(latencies.text()))
    }

    async fn pages(&self, running: Running, log_bytes: u64) -> anyhow::Result<Vec<Row>> {
        let (mut connection, begun) = (running.robot.connect().await?, Instant::now());
        let long = |seq: u64| format!("{} {}", booking(seq), "and so on ".repeat(14));
        let (mut bytes, mut next_seq) = (0, 1);
        while bytes < log_bytes {
            let chunk = running.chunk(next_seq, MAX_CHUNK_LINES, long)?;
            bytes += (next_seq..next_seq + MAX_CHUNK_LINES as u64).map(|seq| long(seq).len() as u64).sum::<u64>();
            next_seq = connection.call(&chunk).await?.expect::<LogAccepted>(200)?.next_seq;
        }
        running.robot.finish(&mut connection, running.job, running.attempt).await?;
        let taken_in = begun.elapsed();
        let mut rows = Vec::new();
        for state in ["just written", "a minute later, sealed"] {
            let latencies = self.random_pages(running.job, next_seq).await?;
            let text = format!("{}; {:.2} GB in {next_seq} lines, {state}", latencies.text(), bytes as f64 / 1e9);
            rows.push(
                Row::below("first page of a large log anywhere, slowest", 300.0, latencies.ms(100), "ms").beside(text),
            );
            if rows.len() == 1 {
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
        }
        let text = format!("made in {:.1} s, its generator included", taken_in.as_secs_f64());
        rows.push(Row::plain("memory of the coordinator then", resident_mb(self.pid)?, "MB").beside(text));
        Ok(rows)
    }

    async fn random_pages(&self, job: JobId, next_seq: u64) -> anyhow::Result<Latencies> {
        let mut connection = Connection::open(self.address).await?;
        let mut latencies = Latencies::default();
        for number in 0..PAGES {
            let from_seq = 1 + number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (next_seq - 200);
            let path = format!("{API_BASE}/jobs/{job}/logs?from_seq={from_seq}&limit=200");
            let request = Request::json("GET", &path, KEY, &Value::Null)?;
            let asked = Instant::now();
            let page: LogPage = connection.call(&request).await?.expect(200)?;
            latencies.add(asked.elapsed());
            let first = page.items.first().context("an empty page")?;
            let found = (first.seq, page.items.len());
            anyhow::ensure!(found == (from_seq, 200), "the page from {from_seq} on is another one: {found:?}");
        }
        Ok(latencies)
    }
}

/// Reads a live log until all chunks have come; a lag for each line.
async fn lags(mut stream: tokio::net::TcpStream, epoch: Instant) -> anyhow::Result<Latencies> {
    const MARK: &str = "sent-at ";
    let (mut latencies, mut rest, mut buffer) = (Latencies::default(), String::new(), vec![0; 64 * 1024]);
    while latencies.count() < TAIL_CHUNKS * 10 {
        let count = stream.read(&mut buffer).await?;
        anyhow::ensure!(count > 0, "a live log has ended early");
        let now = epoch.elapsed();
        rest.push_str(&String::from_utf8_lossy(&buffer[..count]));
        while let Some((before, after)) = rest.split_once(" us\"") {
            let sent =
                before.rsplit_once(MARK).and_then(|(_, sent)| sent.parse().ok()).context("not a line of ours")?;
            latencies.add(now.saturating_sub(Duration::from_micros(sent)));
            rest = after.to_owned();
        }
    }
    Ok(latencies)
}
