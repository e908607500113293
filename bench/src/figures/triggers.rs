//! Triggers: how long it takes until ten thousand that are due in the same minute have all fired, how soon a trigger sees
//! tasks that come, and what a preview costs. Times of fires are those that the coordinator writes down, so that asking for
//! them does not count.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use drover_protocol::{API_BASE, Timestamp, TriggerId, job::Job, page::Page, task::Task, trigger::Trigger};
use serde_json::{Value, json};
use tokio::task::LocalSet;

use super::{Setting, runtime};
use crate::{
    api::Api,
    http::{Connection, Request},
    load::Latencies,
    program::{Coordinator, KEY},
    report::Row,
};

const MANY: usize = 10_000;
const CLIENTS: usize = 32;
/// Making them must be over before their minute comes.
const LEAD_SECONDS: u64 = 40;
const REACTIONS: usize = 200;
const PREVIEWS: usize = 500;
const MINUTE_MILLIS: i64 = 60_000;

pub fn measure(setting: &Setting) -> anyhow::Result<Vec<Row>> {
    let coordinator = Coordinator::start(&setting.folder.join("triggers"))?;
    let address = coordinator.address;
    let rows = LocalSet::new().block_on(&runtime()?, async {
        Api::open(address).await?.publish("p", &["true"]).await?;
        let mut rows = vec![previews(address).await?, reactions(address).await?];
        rows.extend(together(address).await?);
        anyhow::Ok(rows)
    })?;
    coordinator.program.stop()?;
    Ok(rows)
}

fn request(method: &str, path: &str, body: &Value) -> anyhow::Result<Request> {
    Request::json(method, &format!("{API_BASE}{path}"), KEY, body)
}

/// A new trigger of the one process.
fn new_trigger(name: &str, more: &Value) -> anyhow::Result<Request> {
    let mut trigger = json!({"name": name, "process": "p", "target": {"group": "all"}});
    if let (Some(members), Value::Object(more)) = (trigger.as_object_mut(), more) {
        members.extend(more.clone());
    }
    request("POST", "/triggers", &trigger)
}

async fn previews(address: SocketAddr) -> anyhow::Result<Row> {
    let mut connection = Connection::open(address).await?;
    let schedule = json!({"kind": "schedule", "schedule": {"cron": "30 2 * * 1-5", "time_zone": "Europe/Berlin"}});
    connection.call(&new_trigger("shown", &schedule)?).await?.require(201)?;
    let preview = request("GET", "/triggers/shown/preview?count=20", &Value::Null)?;
    let mut latencies = Latencies::default();
    for _ in 0..PREVIEWS {
        let begun = Instant::now();
        connection.call(&preview).await?.require(200)?;
        latencies.add(begun.elapsed());
    }
    Ok(Row::below("preview of 20 fires, p99", 5.0, latencies.ms(99), "ms").beside(latencies.text()))
}

/// One task after the other comes, and for each of them there must be one job more.
async fn reactions(address: SocketAddr) -> anyhow::Result<Row> {
    let mut connection = Connection::open(address).await?;
    connection.call(&request("POST", "/queues", &json!({"name": "q"}))?).await?.require(201)?;
    let queue = json!({"kind": "queue", "queue": {"queue": "q", "max_jobs": 1000}});
    connection.call(&new_trigger("queue", &queue)?).await?.require(201)?;
    let add = request("POST", "/queues/q/tasks", &json!({"payload": {}}))?;
    let look = request("GET", "/jobs?trigger=queue&limit=1", &Value::Null)?;
    let mut latencies = Latencies::default();
    let mut last = None;
    for _ in 0..REACTIONS {
        let task: Task = connection.call(&add).await?.expect(201)?;
        let job = loop {
            let newest: Page<Job> = connection.call(&look).await?.expect(200)?;
            match newest.items.into_iter().next().filter(|job| Some(job.id) != last) {
                Some(job) => break job,
                None => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        };
        last = Some(job.id);
        latencies.add(job.created_at.since(task.created_at));
    }
    let row =
        Row::below("from a new task to the job that a trigger starts for it, p99", 1_000.0, latencies.ms(99), "ms");
    Ok(row.beside(latencies.text()))
}

/// Many triggers of one minute.
async fn together(address: SocketAddr) -> anyhow::Result<Vec<Row>> {
    let mut connection = Connection::open(address).await?;
    let probe = json!({"kind": "schedule", "enabled": false, "schedule": {"interval_seconds": 3600}});
    let probe: Trigger = connection.call(&new_trigger("probe", &probe)?).await?.expect(201)?;
    let minute = probe.created_at.plus_seconds(LEAD_SECONDS).millis() / MINUTE_MILLIS + 1;
    let at = Timestamp::from_millis(minute * MINUTE_MILLIS);
    let cron = format!("{} {} * * *", minute % 60, minute / 60 % 24);
    let begun = Instant::now();
    let made = make_many(address, &cron).await?;
    let making = begun.elapsed();
    let fires = all_fires(&mut connection, &made, at).await?;
    let mut latencies = Latencies::default();
    fires.values().for_each(|fired| latencies.add(fired.since(at)));
    let text = format!("{}; made in {:.1} s", latencies.text(), making.as_secs_f64());
    Ok(vec![
        Row::below(
            format!("{MANY} triggers of one minute: all have fired, once each"),
            5.0,
            latencies.ms(100) / 1e3,
            "s",
        )
        .beside(text),
    ])
}

async fn make_many(address: SocketAddr, cron: &str) -> anyhow::Result<HashSet<TriggerId>> {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let cron = cron.to_owned();
            tokio::task::spawn_local(async move {
                let mut connection = Connection::open(address).await?;
                let mut made = Vec::new();
                for number in (client..MANY).step_by(CLIENTS) {
                    let schedule = json!({"kind": "schedule", "overlap": "allow", "schedule": {"cron": cron}});
                    let request = new_trigger(&format!("t{number}"), &schedule)?;
                    made.push(connection.call(&request).await?.expect::<Trigger>(201)?.id);
                }
                anyhow::Ok(made)
            })
        })
        .collect();
    let mut made = HashSet::new();
    for client in clients {
        made.extend(client.await??);
    }
    Ok(made)
}

/// Waits until each has fired, and gives when; none may have fired twice.
async fn all_fires(
    connection: &mut Connection,
    made: &HashSet<TriggerId>,
    at: Timestamp,
) -> anyhow::Result<HashMap<TriggerId, Timestamp>> {
    let from = at.to_string();
    let until = Instant::now() + Duration::from_secs(180);
    loop {
        if Instant::now() > until {
            bail!("not all triggers have fired");
        }
        // Asking less often leaves the cores to the coordinator.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut fires: HashMap<TriggerId, Timestamp> = HashMap::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/jobs?source=trigger&created_from={from}&limit=1000{cursor}");
            let page: Page<Job> = connection.call(&request("GET", &path, &Value::Null)?).await?.expect(200)?;
            for job in page.items {
                let id: TriggerId = job.source.id.parse().ok().context("the source of a job is no trigger")?;
                if made.contains(&id) && fires.insert(id, job.created_at).is_some() {
                    bail!("the trigger {id} has fired twice");
                }
            }
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        if fires.len() == made.len() {
            return Ok(fires);
        }
    }
}
