//! What an agent costs its host: idle, and with a process that prints.

use std::time::{Duration, Instant};

use anyhow::bail;

use super::{Setting, runtime};
use crate::{
    api::Api,
    program::{Agent, Coordinator, built, cpu_time, resident_mb},
    report::Row,
};

/// Several heartbeats' worth.
const IDLE: Duration = Duration::from_secs(60);
const LINES_PER_SECOND: u32 = 10_000;
const PRINTS_SECONDS: u32 = 12;
const WATCHED: Duration = Duration::from_secs(8);

pub fn measure(setting: &Setting) -> anyhow::Result<Vec<Row>> {
    let coordinator = Coordinator::start(&setting.folder.join("store"))?;
    let robot = built("drover-bench-robot")?;
    let rows = runtime()?.block_on(async {
        let mut api = Api::open(coordinator.address).await?;
        let (rate, seconds) = (LINES_PER_SECOND.to_string(), PRINTS_SECONDS.to_string());
        api.publish("lines", &[&robot.to_string_lossy(), "lines", &rate, &seconds]).await?;
        let token = api.join_token(1).await?;
        let agent = Agent::start(&setting.folder.join("agent"), coordinator.address, &token, 1)?;
        api.idle_robots(1).await?;
        let idle_rows = idle(&agent)?;
        // The coordinator closes connections that are idle for as long as that took.
        let mut api = Api::open(coordinator.address).await?;
        let printing = printing(&mut api, &agent).await?;
        agent.program.stop()?;
        anyhow::Ok([idle_rows, vec![printing]].concat())
    })?;
    coordinator.program.stop()?;
    Ok(rows)
}

fn idle(agent: &Agent) -> anyhow::Result<Vec<Row>> {
    let pid = agent.program.pid();
    std::thread::sleep(Duration::from_secs(2));
    let (before, begun) = (cpu_time(pid)?, Instant::now());
    std::thread::sleep(IDLE);
    let percent = (cpu_time(pid)? - before).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0;
    Ok(vec![
        Row::below("idle agent, memory", 20.0, resident_mb(pid)?, "MB"),
        Row::below("idle agent, of one core", 0.1, percent, "%").beside(format!("over {} s", IDLE.as_secs())),
    ])
}

async fn printing(api: &mut Api, agent: &Agent) -> anyhow::Result<Row> {
    let job = api.start("lines", 1).await?[0];
    let supervisor = loop {
        if let [supervisor] = agent.supervisors()?[..] {
            break supervisor;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    tokio::time::sleep(Duration::from_secs(2)).await;
    let pid = agent.program.pid();
    let (of_agent, of_supervisor, begun) = (cpu_time(pid)?, cpu_time(supervisor)?, Instant::now());
    tokio::time::sleep(WATCHED).await;
    let percent =
        |now: Duration, before: Duration| (now - before).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0;
    let (agent_percent, supervisor_percent) =
        (percent(cpu_time(pid)?, of_agent), percent(cpu_time(supervisor)?, of_supervisor));
    api.finished(job).await?;
    let kept = api.lines_of(job).await?;
    if kept != u64::from(LINES_PER_SECOND * PRINTS_SECONDS) {
        bail!("the coordinator has {kept} lines");
    }
    let text = format!("agent {agent_percent:.1} %, supervisor {supervisor_percent:.1} %");
    let what = format!("{LINES_PER_SECOND} lines per second of one process, of one core");
    Ok(Row::below(what, 10.0, agent_percent + supervisor_percent, "%").beside(text))
}
