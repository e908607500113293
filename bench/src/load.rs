//! A closed loop: each connection sends its next request as soon as the last one is answered.

use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::task::LocalSet;

use crate::{
    http::{Connection, Request},
    program::{cpu_time, own_cpu_time},
};

/// How long something took, many times.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    pub fn add(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The `percent`-th percentile in milliseconds, by nearest rank.
    pub fn ms(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    }

    pub fn text(&self) -> String {
        format!("p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", self.ms(50), self.ms(99), self.ms(100))
    }
}

/// What a load came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub per_second: f64,
    pub latencies: Latencies,
    /// CPU time of the process that answered, per request.
    pub server_cpu_us: f64,
    /// CPU time of this process, per request.
    pub generator_cpu_us: f64,
}

impl Outcome {
    pub fn text(&self) -> String {
        let Self { server_cpu_us, generator_cpu_us, .. } = self;
        format!("{}; CPU {server_cpu_us:.0} µs, generator {generator_cpu_us:.0} µs", self.latencies.text())
    }
}

/// Sends requests on so many connections for so long. `request` makes the n-th one, so that none need be equal.
pub fn closed_loop(
    pid: u32,
    address: SocketAddr,
    connections: usize,
    duration: Duration,
    status: u16,
    request: impl Fn(u64) -> Request + 'static,
) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let (request, next) = (Rc::new(request), Rc::new(Cell::new(0)));
        let mut opened = Vec::new();
        for _ in 0..connections {
            opened.push(Connection::open(address).await?);
        }
        let (server, own, started) = (cpu_time(pid)?, own_cpu_time()?, Instant::now());
        let loops: Vec<_> = opened
            .into_iter()
            .map(|connection| {
                let (request, next) = (Rc::clone(&request), Rc::clone(&next));
                tokio::task::spawn_local(one(connection, started + duration, status, move || {
                    next.set(next.get() + 1);
                    request(next.get())
                }))
            })
            .collect();
        let mut latencies = Latencies::default();
        for each in loops {
            latencies.extend(each.await??);
        }
        let took = started.elapsed();
        let count = latencies.count() as f64;
        let us = |now: Duration, before: Duration| (now - before).as_secs_f64() * 1e6 / count;
        Ok(Outcome {
            per_second: count / took.as_secs_f64(),
            server_cpu_us: us(cpu_time(pid)?, server),
            generator_cpu_us: us(own_cpu_time()?, own),
            latencies,
        })
    })
}

async fn one(
    mut connection: Connection,
    until: Instant,
    status: u16,
    mut request: impl FnMut() -> Request,
) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::default();
    let mut sent = Instant::now();
    while sent < until {
        let answer = connection.call(&request()).await.context("a call was not answered")?;
        answer.require(status)?;
        let now = Instant::now();
        latencies.add(now - sent);
        sent = now;
    }
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let mut latencies = Latencies::default();
        assert!(latencies.ms(50).is_nan());
        for ms in (1..=200).rev() {
            latencies.add(Duration::from_millis(ms));
        }
        assert_eq!((latencies.ms(50), latencies.ms(99), latencies.ms(100)), (100.0, 198.0, 200.0));
    }
}
