//! Durable job starts over HTTP, beside bare services under the same load, and where their CPU time goes.

use std::net::SocketAddr;

use serde_json::json;

use super::{Setting, runtime};
use crate::{
    api::{Api, start_request},
    http::Request,
    load::{Outcome, closed_loop},
    program::{Coordinator, KEY, start_bare},
    report::Row,
};

const CONNECTIONS: usize = 64;

pub fn measure(setting: &Setting) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let body = json!({"process": "p", "target": {"group": "all"}, "count": 1});
    let request = Request::json("POST", "/", "", &body)?;
    let mut bare = |kind, what: &str| {
        let (program, address) = start_bare(kind, &setting.folder)?;
        let load = load(setting, program.pid(), address, 200, &request)?;
        rows.push(Row::plain(what, load.per_second, "/s").beside(load.text()));
        anyhow::Ok(load.server_cpu_us)
    };
    let echo = bare("echo", "bare axum echo")?;
    bare("append", "bare axum, appended and flushed together")?;

    let service = Service::start(setting, "embedded")?;
    let starts = service.job_starts(setting)?;
    let what = format!("durable job starts, {CONNECTIONS} connections");
    rows.push(Row::at_least(what, 15_000.0, starts.per_second, "/s").beside(starts.text()));
    let repeatable = service.job_starts_with_keys(setting)?;
    rows.push(Row::plain("… each with an Idempotency-Key", repeatable.per_second, "/s").beside(repeatable.text()));
    service.coordinator.program.stop()?;

    let service = Service::start(setting, "memory")?;
    let pid = service.coordinator.program.pid();
    let (address, api) = (service.coordinator.address, drover_protocol::API_BASE);
    let health = load(setting, pid, address, 200, &Request::json("GET", "/healthz", "", &())?)?;
    let me = load(setting, pid, address, 200, &Request::json("GET", &format!("{api}/account/me"), KEY, &())?)?;
    let in_memory = service.job_starts(setting)?;
    rows.extend(stages([echo, health.server_cpu_us, me.server_cpu_us, in_memory.server_cpu_us, starts.server_cpu_us]));
    Ok(rows)
}

/// What a job start costs, stage by stage: each kind of call does all that the one before it does, and more.
fn stages(cpu_us: [f64; 5]) -> Vec<Row> {
    let names = [
        "of a start: connection, HTTP, routing (the bare echo)",
        "of a start: layers around all calls",
        "of a start: key looked up, answer written",
        "of a start: body read, rules, transaction in memory",
        "of a start: commit log and index instead of memory",
    ];
    let before = std::iter::once(0.0).chain(cpu_us);
    let costs = cpu_us.into_iter().zip(before).map(|(now, before)| now - before);
    names.into_iter().zip(costs).map(|(name, cost)| Row::plain(name, cost, "µs CPU")).collect()
}

fn load(setting: &Setting, pid: u32, address: SocketAddr, status: u16, request: &Request) -> anyhow::Result<Outcome> {
    let request = request.clone();
    closed_loop(pid, address, CONNECTIONS, setting.duration, status, move |_| request.clone())
}

/// A coordinator with a process whose jobs can be started.
struct Service {
    coordinator: Coordinator,
}

impl Service {
    fn start(setting: &Setting, engine: &str) -> anyhow::Result<Self> {
        let coordinator = Coordinator::start_with(&setting.folder.join(engine), engine)?;
        let address = coordinator.address;
        runtime()?.block_on(async { Api::open(address).await?.publish("p", &["true"]).await })?;
        Ok(Self { coordinator })
    }

    fn job_starts(&self, setting: &Setting) -> anyhow::Result<Outcome> {
        load(setting, self.coordinator.program.pid(), self.coordinator.address, 201, &start_request("p", 1)?)
    }

    fn job_starts_with_keys(&self, setting: &Setting) -> anyhow::Result<Outcome> {
        let (pid, address) = (self.coordinator.program.pid(), self.coordinator.address);
        let start = start_request("p", 1)?;
        closed_loop(pid, address, CONNECTIONS, setting.duration, 201, move |number| {
            with_idempotency_key(&start, number)
        })
    }
}

fn with_idempotency_key(request: &Request, number: u64) -> Request {
    let line = format!("Idempotency-Key: key-{number}\r\n");
    let mut bytes = request.0.clone();
    // Behind the request line, which ends with the first line break.
    let at = bytes.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    bytes.splice(at..at, line.into_bytes());
    Request(bytes)
}
