//! Tasks: how many lives (added, taken, succeeded, each acknowledged when it is durable) get through, what each step costs
//! one client, and that neither depends on how many tasks wait.

use std::{
    cell::Cell,
    fs::File,
    net::SocketAddr,
    os::unix::fs::FileExt,
    path::Path,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use drover_protocol::{API_BASE, TaskId};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::LocalSet,
};

use super::{Setting, runtime};
use crate::{
    http::{Connection, Request},
    load::{Latencies, Outcome, closed_loop},
    program::{Coordinator, KEY, cpu_time, own_cpu_time, resident_mb, start_bare},
    report::Row,
};

const CLIENTS: usize = 64;
const STEPS: usize = 500;
const FEW: usize = 1_000;
const BULK: usize = 100_000;

pub fn measure(setting: &Setting) -> anyhow::Result<Vec<Row>> {
    let mut rows = lives(setting)?;
    rows.extend(steps(setting)?);
    rows.extend(large(setting)?);
    Ok(rows)
}

/// The members of a task that a holder needs.
#[derive(Debug, Deserialize)]
struct Held {
    id: TaskId,
    attempt: u32,
}

#[derive(Debug, Deserialize)]
struct Taken {
    items: Vec<Held>,
}

#[derive(Debug, Deserialize)]
struct Ended {
    next: Option<Held>,
}

/// One client of one queue.
struct Client {
    connection: Connection,
    add: Request,
    take: Request,
}

fn post(path: &str, body: &Value) -> anyhow::Result<Request> {
    Request::json("POST", &format!("{API_BASE}{path}"), KEY, body)
}

impl Client {
    async fn open(address: SocketAddr, queue: &str) -> anyhow::Result<Self> {
        let payload =
            json!({"payload": {"supplier": "Hafenlogistik Bremen KG", "number": "2025-00719", "total": "2628.88"}});
        Ok(Self {
            connection: Connection::open(address).await?,
            add: post(&format!("/queues/{queue}/tasks"), &payload)?,
            take: post(&format!("/queues/{queue}/take"), &json!({}))?,
        })
    }

    async fn make_queue(&mut self, name: &str) -> anyhow::Result<()> {
        self.connection.call(&post("/queues", &json!({"name": name}))?).await?.require(201)
    }

    async fn add(&mut self) -> anyhow::Result<()> {
        self.connection.call(&self.add).await?.require(201)
    }

    async fn take(&mut self) -> anyhow::Result<Option<Held>> {
        let taken: Taken = self.connection.call(&self.take).await?.expect(200)?;
        Ok(taken.items.into_iter().next())
    }

    async fn succeed(&mut self, task: &Held) -> anyhow::Result<()> {
        let request = post(&format!("/tasks/{}/succeed", task.id), &json!({"attempt": task.attempt}))?;
        self.connection.call(&request).await?.require(200)
    }

    async fn succeed_and_take(&mut self, task: &Held) -> anyhow::Result<Option<Held>> {
        let body = json!({"attempt": task.attempt, "take_next": true});
        let request = post(&format!("/tasks/{}/succeed", task.id), &body)?;
        Ok(self.connection.call(&request).await?.expect::<Ended>(200)?.next)
    }

    async fn get(&mut self, path: &str) -> anyhow::Result<Value> {
        let request = Request::json("GET", &format!("{API_BASE}{path}"), KEY, &Value::Null)?;
        self.connection.call(&request).await?.expect(200)
    }

    /// How long such a call takes, many times.
    async fn time(&mut self, path: &str, times: usize) -> anyhow::Result<Latencies> {
        let mut latencies = Latencies::default();
        for _ in 0..times {
            let begun = Instant::now();
            self.get(path).await?;
            latencies.add(begun.elapsed());
        }
        Ok(latencies)
    }
}

fn lives(setting: &Setting) -> anyhow::Result<Vec<Row>> {
    let bare = bare_under_load(setting)?;
    let of_bare =
        |lives: f64, calls: f64| format!("{:.0} % of the bare calls", 100.0 * lives * calls / bare.per_second);
    let coordinator = Coordinator::start(&setting.folder.join("lives"))?;
    let (rate, text) = under_load(setting, &coordinator, "apart", async |client, _| {
        client.add().await?;
        if let Some(task) = client.take().await? {
            client.succeed(&task).await?;
        }
        Ok(None)
    })?;
    let (joined, joined_text) = under_load(setting, &coordinator, "joined", async |client, held| {
        client.add().await?;
        match held {
            None => client.take().await,
            Some(task) => client.succeed_and_take(&task).await,
        }
    })?;
    coordinator.program.stop()?;
    let (text, joined_text) =
        (format!("{}; {text}", of_bare(rate, 3.0)), format!("{}; {joined_text}", of_bare(joined, 2.0)));
    Ok(vec![
        Row::plain(format!("bare axum, appended and flushed, {CLIENTS} clients"), bare.per_second, "/s")
            .beside(bare.text()),
        Row::at_least(format!("lives of tasks (add, take, succeed), {CLIENTS} clients"), 6_000.0, rate, "/s")
            .beside(text),
        Row::at_least("… as the stretch", 10_500.0, rate, "/s"),
        Row::at_least("… with take_next (add, end one and take the next)", 10_000.0, joined, "/s").beside(joined_text),
    ])
}

/// What the machine does in the same minute for a service that only appends and flushes: a guest of a busy host may be half as
/// fast as in another hour.
fn bare_under_load(setting: &Setting) -> anyhow::Result<Outcome> {
    let (program, address) = start_bare("append", &setting.folder)?;
    let request = Request::json("POST", "/", "", &json!({ "reference": "as long as a small task" }))?;
    closed_loop(program.pid(), address, CLIENTS, setting.duration, 200, move |_| request.clone())
}

/// Lives per second of many clients, each of which goes on with the task that its last life left.
fn under_load(
    setting: &Setting,
    coordinator: &Coordinator,
    queue: &str,
    live: impl AsyncFn(&mut Client, Option<Held>) -> anyhow::Result<Option<Held>> + Clone + 'static,
) -> anyhow::Result<(f64, String)> {
    let (address, pid) = (coordinator.address, coordinator.program.pid());
    LocalSet::new().block_on(&runtime()?, async {
        Client::open(address, queue).await?.make_queue(queue).await?;
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(Client::open(address, queue).await?);
        }
        let lives = Rc::new(Cell::new(0_u64));
        let (server, own, begun) = (cpu_time(pid)?, own_cpu_time()?, Instant::now());
        let until = begun + setting.duration;
        let loops: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                let (live, lives) = (live.clone(), Rc::clone(&lives));
                tokio::task::spawn_local(async move {
                    let mut latencies = Latencies::default();
                    let mut held = None;
                    let mut last = Instant::now();
                    while last < until {
                        held = live(&mut client, held.take()).await?;
                        lives.set(lives.get() + 1);
                        let now = Instant::now();
                        latencies.add(now - last);
                        last = now;
                    }
                    anyhow::Ok(latencies)
                })
            })
            .collect();
        let mut latencies = Latencies::default();
        for each in loops {
            latencies.extend(each.await??);
        }
        let count = lives.get() as f64;
        let rate = count / begun.elapsed().as_secs_f64();
        let us = |now: Duration, before: Duration| (now - before).as_secs_f64() * 1e6 / count;
        let (server, own) = (us(cpu_time(pid)?, server), us(own_cpu_time()?, own));
        Ok((rate, format!("{}; CPU {server:.0} µs, generator {own:.0} µs", latencies.text())))
    })
}

/// What each step costs one client alone, beside the disk.
fn steps(setting: &Setting) -> anyhow::Result<Vec<Row>> {
    let before = flushes(&setting.folder)?;
    let coordinator = Coordinator::start(&setting.folder.join("steps"))?;
    let [add, take, succeed, next] = runtime()?.block_on(async {
        let mut client = Client::open(coordinator.address, "steps").await?;
        client.make_queue("steps").await?;
        let mut times = <[Latencies; 4]>::default();
        for _ in 0..STEPS {
            let begun = Instant::now();
            client.add().await?;
            let added = Instant::now();
            let task = client.take().await?.context("the task that was added is not there")?;
            let taken = Instant::now();
            client.succeed(&task).await?;
            let ended = Instant::now();
            times[0].add(added - begun);
            times[1].add(taken - added);
            times[2].add(ended - taken);
        }
        for _ in 0..=STEPS {
            client.add().await?;
        }
        let mut held = client.take().await?.context("no task is there")?;
        for _ in 0..STEPS {
            let begun = Instant::now();
            held = client.succeed_and_take(&held).await?.context("no further task came")?;
            times[3].add(begun.elapsed());
        }
        anyhow::Ok(times)
    })?;
    coordinator.program.stop()?;
    let floors = [bare(setting, "echo")?, bare(setting, "append")?];
    let after = flushes(&setting.folder)?;
    let raw = f64::midpoint(before.ms(50), after.ms(50));
    let text = format!("{:.2} ms before, {:.2} ms after", before.ms(50), after.ms(50));
    let mut rows = vec![Row::plain("the disk alone: overwrite and fdatasync, p50", raw, "ms").beside(text)];
    for (times, what) in floors.into_iter().zip(["bare axum echo", "bare axum, appended and flushed"]) {
        rows.push(Row::plain(format!("one client: {what}, p50"), times.ms(50), "ms").beside(times.text()));
    }
    for (name, times) in [("add", add), ("take", take), ("succeed", succeed), ("succeed and take_next", next)] {
        rows.push(Row::below(format!("one client: {name}, p50"), 2.0 * raw, times.ms(50), "ms").beside(times.text()));
    }
    Ok(rows)
}

/// What a call costs one client of a service that does nothing but answer, or nothing but append and flush.
fn bare(setting: &Setting, kind: &str) -> anyhow::Result<Latencies> {
    // Killed when it is let go of: it knows no other end.
    let (_program, address) = start_bare(kind, &setting.folder)?;
    runtime()?.block_on(async {
        let mut connection = Connection::open(address).await?;
        let request = Request::json("POST", "/", "", &json!({ "reference": "as long as a small task" }))?;
        let mut times = Latencies::default();
        for _ in 0..STEPS {
            let begun = Instant::now();
            connection.call(&request).await?.require(200)?;
            times.add(begun.elapsed());
        }
        anyhow::Ok(times)
    })
}

fn flushes(folder: &Path) -> std::io::Result<Latencies> {
    const FILE_BYTES: usize = 4 * 1024 * 1024;
    let file = File::create(folder.join("raw-flushes"))?;
    file.write_all_at(&vec![0; FILE_BYTES], 0)?;
    file.sync_all()?;
    let mut latencies = Latencies::default();
    for number in 0..STEPS {
        let begun = Instant::now();
        file.write_all_at(&[7; 512], (number * 512 % FILE_BYTES) as u64)?;
        file.sync_data()?;
        latencies.add(begun.elapsed());
    }
    Ok(latencies)
}

/// A queue of a few tasks beside one of very many.
fn large(setting: &Setting) -> anyhow::Result<Vec<Row>> {
    let coordinator = Coordinator::start(&setting.folder.join("large"))?;
    let tasks = setting.tasks;
    let rows = runtime()?.block_on(async {
        let address = coordinator.address;
        for queue in ["few", "many"] {
            Client::open(address, queue).await?.make_queue(queue).await?;
        }
        bulk(address, "few", 0, FEW).await?;
        let first = bulk(address, "many", 0, BULK).await?;
        let mut slowest = first;
        for start in (BULK..tasks).step_by(BULK) {
            slowest = slowest.max(bulk(address, "many", start, BULK.min(tasks - start)).await?);
        }
        let memory = resident_mb(coordinator.program.pid())?;
        // Opened only now: the coordinator closes what is idle for half a minute, and ten millions take longer.
        let mut few = Client::open(address, "few").await?;
        let mut many = Client::open(address, "many").await?;
        // In turns, so that whatever else the machine does concerns both.
        let mut times = <[Latencies; 2]>::default();
        for _ in 0..STEPS {
            for (client, times) in [&mut few, &mut many].into_iter().zip(&mut times) {
                let begun = Instant::now();
                let task = client.take().await?.context("the queue is empty")?;
                times.add(begun.elapsed());
                client.succeed(&task).await?;
                client.add().await?;
            }
        }
        let [of_few, of_many] = times;
        let ratio = of_many.ms(50) / of_few.ms(50);
        let mut rows =
            vec![
                Row::below(format!("bulk addition of {BULK} tasks"), 5.0, first.as_secs_f64(), "s").beside(format!(
                    "{:.0} tasks/s; the slowest of {} such: {:.1} s; coordinator {memory:.0} MB",
                    BULK as f64 / first.as_secs_f64(),
                    tasks.div_ceil(BULK),
                    slowest.as_secs_f64()
                )),
                Row::below(format!("take from {tasks} waiting tasks, against {FEW}"), 1.2, ratio, "times")
                    .beside(format!("{}; of few: {}", of_many.text(), of_few.text())),
            ];
        let stats = many.time("/queues/many/stats", STEPS).await?;
        rows.push(
            Row::below(format!("stats of a queue of {tasks} tasks, p99"), 5.0, stats.ms(99), "ms").beside(stats.text()),
        );
        for (name, filter) in [
            ("state", "&state=new"),
            ("none found", "&state=failed"),
            ("reference", "&reference=r-777777"),
            ("tag", "&tag=t7"),
            ("a tag of few", "&tag=seldom"),
            ("priority", "&priority=3"),
            ("tag and priority", "&tag=seldom&priority=3"),
            ("payload", "&payload.n=777"),
        ] {
            let path = format!("/tasks?queue=many&limit=50{filter}");
            let times = many.time(&path, 50).await?;
            rows.push(
                Row::below(format!("a page of {tasks} tasks by {name}, p99"), 200.0, times.ms(99), "ms")
                    .beside(times.text()),
            );
        }
        anyhow::Ok(rows)
    })?;
    coordinator.program.stop()?;
    Ok(rows)
}

/// Adds so many tasks in one stream; how long it took until all were answered.
async fn bulk(address: SocketAddr, queue: &str, start: usize, count: usize) -> anyhow::Result<Duration> {
    let mut body = Vec::new();
    for n in start..start + count {
        let seldom = if n % 50_000 == 0 { ",\"seldom\"" } else { "" };
        let priority = if n % 100 == 0 { 3 } else { 2 };
        let line = format!(
            "{{\"reference\":\"r-{n}\",\"priority\":{priority},\"tags\":[\"t{}\"{seldom}],\"payload\":{{\"n\":{n},\"supplier\":\"Hafenlogistik Bremen KG\",\"total\":\"2628.88\"}}}}\n",
            n % 10
        );
        body.extend_from_slice(line.as_bytes());
    }
    let path = format!("{API_BASE}/queues/{queue}/tasks/bulk");
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: drover\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\
         Content-Type: application/x-ndjson\r\nIdempotency-Key: bulk-{start}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let begun = Instant::now();
    let stream = Connection::open(address).await?.into_stream(&Request(head.into_bytes())).await?;
    let (mut reading, mut writing) = stream.into_split();
    let mut answer = Vec::new();
    // Answers come while lines are still being sent.
    let (sent, received) = tokio::join!(writing.write_all(&body), reading.read_to_end(&mut answer));
    sent?;
    received?;
    let took = begun.elapsed();
    let tail = String::from_utf8_lossy(&answer[answer.len().saturating_sub(200)..]).into_owned();
    if !tail.contains(&format!("\"added\":{count},")) {
        bail!("not all tasks were added: {tail}");
    }
    Ok(took)
}
