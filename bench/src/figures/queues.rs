//! How many tasks live a second: added, taken and ended, each acknowledged only when it is durable; and whether taking costs
//! more in a long queue.

use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use drover_protocol::{
    API_BASE,
    page::Items,
    task::{EndedTask, Task},
};
use serde_json::{Value, json};
use tokio::task::LocalSet;

use super::{Setting, runtime};
use crate::{
    http::{Connection, Request},
    load::Latencies,
    program::{Coordinator, KEY, cpu_time, own_cpu_time},
    report::Row,
};

const CLIENTS: usize = 64;
/// Lengths of the queues between which taking is compared.
const SHORT: u64 = 1_000;
const LONG: u64 = 1_000_000;
const TAKES: u64 = 1_000;

pub fn measure(setting: &Setting) -> anyhow::Result<Vec<Row>> {
    let coordinator = Coordinator::start(&setting.folder.join("queues"))?;
    let mut rows = Vec::new();
    for (take_next, target, what) in
        [(false, 6_000.0, "lives of tasks: add, take, succeed"), (true, 10_000.0, "… where ending one takes the next")]
    {
        let lives = lives(&coordinator, CLIENTS, setting.duration, take_next)?;
        let what = format!("{what}, {CLIENTS} clients");
        rows.push(Row::at_least(what, target, lives.per_second, "/s").beside(lives.text()));
    }
    let one = lives(&coordinator, 1, setting.duration, false)?;
    rows.push(Row::plain("lives of tasks, one client", one.per_second, "/s").beside(one.text()));
    let [short, long] = [SHORT, LONG].map(|length| take_from(&coordinator, length));
    let (short, long) = (short?, long?);
    rows.push(Row::plain(format!("take from {SHORT} waiting tasks, p50"), short.ms(50), "ms").beside(short.text()));
    let text = format!("{:.2} of the time with {SHORT}; {}", long.ms(50) / short.ms(50), long.text());
    rows.push(Row::plain(format!("take from {LONG} waiting tasks, p50"), long.ms(50), "ms").beside(text));
    let stats = stats(&coordinator, LONG)?;
    rows.push(Row::below("figures of the long queue, p99", 5.0, stats.ms(99), "ms").beside(stats.text()));
    coordinator.program.stop()?;
    Ok(rows)
}

/// What clients came to.
struct Lives {
    per_second: f64,
    steps: [Latencies; 3],
    server_cpu_us: f64,
    generator_cpu_us: f64,
}

impl Lives {
    fn text(&self) -> String {
        let [add, take, end] = &self.steps;
        format!(
            "p50 of add {:.2} ms, take {:.2} ms, end {:.2} ms; CPU {:.0} µs a life, generator {:.0} µs",
            add.ms(50),
            take.ms(50),
            end.ms(50),
            self.server_cpu_us,
            self.generator_cpu_us
        )
    }
}

fn post(path: &str, body: &Value) -> anyhow::Result<Request> {
    Request::json("POST", &format!("{API_BASE}{path}"), KEY, body)
}

fn new_task() -> Value {
    json!({"payload": {"number": "INV-2026-0417", "customer": "4711", "sum": 1250.5, "currency": "EUR"}})
}

async fn make_queue(address: SocketAddr, name: &str) -> anyhow::Result<()> {
    let request = post("/queues", &json!({"name": name}))?;
    Connection::open(address).await?.call(&request).await?.require(201)
}

fn lives(coordinator: &Coordinator, clients: usize, duration: Duration, take_next: bool) -> anyhow::Result<Lives> {
    let (address, pid) = (coordinator.address, coordinator.program.pid());
    LocalSet::new().block_on(&runtime()?, async {
        let name = format!("lives-{clients}-{take_next}");
        make_queue(address, &name).await?;
        let ended = Rc::new(Cell::new(0_u64));
        let (server, own, started) = (cpu_time(pid)?, own_cpu_time()?, Instant::now());
        let until = started + duration;
        let mut running = Vec::new();
        for _ in 0..clients {
            let client = Client { connection: Connection::open(address).await?, queue: name.clone() };
            running.push(tokio::task::spawn_local(client.live(until, take_next, Rc::clone(&ended))));
        }
        let mut steps: [Latencies; 3] = Default::default();
        for each in running {
            for (all, own) in steps.iter_mut().zip(each.await??) {
                all.extend(own);
            }
        }
        let (took, count) = (started.elapsed().as_secs_f64(), ended.get() as f64);
        let us = |now: Duration, before: Duration| (now - before).as_secs_f64() * 1e6 / count;
        Ok(Lives {
            per_second: count / took,
            steps,
            server_cpu_us: us(cpu_time(pid)?, server),
            generator_cpu_us: us(own_cpu_time()?, own),
        })
    })
}

struct Client {
    connection: Connection,
    queue: String,
}

impl Client {
    async fn live(mut self, until: Instant, take_next: bool, ended: Rc<Cell<u64>>) -> anyhow::Result<[Latencies; 3]> {
        let add = post(&format!("/queues/{}/tasks", self.queue), &new_task())?;
        let take = post(&format!("/queues/{}/take", self.queue), &json!({}))?;
        let mut steps: [Latencies; 3] = Default::default();
        let mut held: Option<Task> = None;
        while Instant::now() < until {
            let began = Instant::now();
            self.connection.call(&add).await?.require(201)?;
            steps[0].add(began.elapsed());
            let task = match held.take() {
                Some(task) => task,
                None => {
                    let began = Instant::now();
                    let taken: Items<Task> = self.connection.call(&take).await?.expect(200)?;
                    steps[1].add(began.elapsed());
                    // Another client may have been quicker; then it has one more to come.
                    let Some(task) = taken.items.into_iter().next() else { continue };
                    task
                }
            };
            let body = json!({"attempt": task.attempt, "output": {"booked": true}, "take_next": take_next});
            let end = post(&format!("/tasks/{}/succeed", task.id), &body)?;
            let began = Instant::now();
            let answer: EndedTask = self.connection.call(&end).await?.expect(200)?;
            steps[2].add(began.elapsed());
            ended.set(ended.get() + 1);
            if let EndedTask::WithNext { next, .. } = answer {
                held = next.map(|next| *next);
            }
        }
        Ok(steps)
    }
}

/// Fills a queue, and takes some of its tasks one after another.
fn take_from(coordinator: &Coordinator, length: u64) -> anyhow::Result<Latencies> {
    let address = coordinator.address;
    LocalSet::new().block_on(&runtime()?, async {
        let name = format!("long-{length}");
        make_queue(address, &name).await?;
        let left = Rc::new(Cell::new(length));
        let add = post(&format!("/queues/{name}/tasks"), &new_task())?;
        let mut filling = Vec::new();
        for _ in 0..CLIENTS {
            let (mut connection, left, add) = (Connection::open(address).await?, Rc::clone(&left), add.clone());
            filling.push(tokio::task::spawn_local(async move {
                while left.get() > 0 {
                    left.set(left.get() - 1);
                    connection.call(&add).await?.require(201)?;
                }
                anyhow::Ok(())
            }));
        }
        for each in filling {
            each.await??;
        }
        let mut connection = Connection::open(address).await?;
        let take = post(&format!("/queues/{name}/take"), &json!({}))?;
        let mut latencies = Latencies::default();
        for _ in 0..TAKES.min(length) {
            let began = Instant::now();
            connection.call(&take).await?.require(200)?;
            latencies.add(began.elapsed());
        }
        Ok(latencies)
    })
}

fn stats(coordinator: &Coordinator, length: u64) -> anyhow::Result<Latencies> {
    runtime()?.block_on(async {
        let mut connection = Connection::open(coordinator.address).await?;
        let path = format!("{API_BASE}/queues/long-{length}/stats");
        let request = Request::json("GET", &path, KEY, &Value::Null)?;
        let mut latencies = Latencies::default();
        for _ in 0..200 {
            let began = Instant::now();
            connection.call(&request).await?.require(200)?;
            latencies.add(began.elapsed());
        }
        Ok(latencies)
    })
}
