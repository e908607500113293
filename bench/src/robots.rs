//! Simulated agents: the protocol over real connections, without any process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context;
use drover_protocol::{
    API_BASE, JobId,
    agent::{Accept, Assignment, Finish, Heartbeat, HeldJob, Join, Joined, Next, NextAnswer, Phase},
    job::{Cause, CauseCode, Exit, Outcome},
    robot::{Health, Host},
};

use crate::http::{Connection, Request};

/// Robots of one loopback address. The closed connections of more would use up its ports.
const ROBOTS_PER_SOURCE: usize = 500;

/// A robot's key, and where its connections come from and go to.
#[derive(Clone, Debug)]
pub struct Robot {
    key: String,
    source: IpAddr,
    address: SocketAddr,
}

fn host(number: usize) -> Host {
    Host { hostname: format!("host-{number}"), os: "linux".to_owned(), cpus: 2, ..Host::default() }
}

impl Robot {
    /// Joins as the `number`-th robot.
    pub async fn join(
        connection: &mut Connection,
        address: SocketAddr,
        token: &str,
        number: usize,
    ) -> anyhow::Result<Self> {
        let name = format!("robot-{number:05}");
        let join = Join { token: token.to_owned(), machine_id: name.clone(), name: Some(name), host: host(number) };
        let request = Request::json("POST", &format!("{API_BASE}/agent/join"), "", &join)?;
        let key = connection.call(&request).await?.expect::<Joined>(201)?.key;
        let last = u8::try_from(2 + number / ROBOTS_PER_SOURCE)?;
        Ok(Self { key, source: Ipv4Addr::new(127, 0, 0, last).into(), address })
    }

    /// A connection for calls that are answered at once, or one for those that wait; an agent has both.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        Connection::open_from(self.source, self.address).await.context("a robot cannot connect")
    }

    /// The call that waits for jobs.
    pub fn next(&self, wait_seconds: u64) -> anyhow::Result<Request> {
        self.post("/agent/next", &Next { free: 1, wait_seconds, known: Vec::new() })
    }

    /// The call that says that the robot lives.
    pub fn heartbeat(&self, held: Option<(JobId, u32)>) -> anyhow::Result<Request> {
        let phase = Phase::Running;
        let jobs = held.map(|(job_id, attempt)| HeldJob { job_id, attempt, phase, progress: None });
        let health = Health { cpu_percent: Some(3.0), memory_total_bytes: 1 << 33, ..Health::default() };
        self.post("/agent/heartbeat", &Heartbeat { host: None, health, jobs: jobs.into_iter().collect() })
    }

    /// Waits for a job, takes it on, and says that it has ended well.
    pub async fn run_one(&self, connection: &mut Connection) -> anyhow::Result<bool> {
        let Some((job, attempt)) = self.take_one(connection).await? else { return Ok(false) };
        self.finish(connection, job, attempt).await?;
        Ok(true)
    }

    /// Waits for a job and takes it on; nothing if none came.
    pub async fn take_one(&self, connection: &mut Connection) -> anyhow::Result<Option<(JobId, u32)>> {
        let answer = connection.call(&self.next(30)?).await?;
        if answer.status == 204 {
            return Ok(None);
        }
        let answer: NextAnswer = answer.expect(200)?;
        let Some(Assignment { job, attempt, .. }) = answer.assignments.into_iter().next() else { return Ok(None) };
        let accept = self.post(&format!("/agent/jobs/{}/accept", job.id), &Accept { attempt, claim: None })?;
        connection.call(&accept).await?.require(200)?;
        Ok(Some((job.id, attempt)))
    }

    pub async fn finish(&self, connection: &mut Connection, job: JobId, attempt: u32) -> anyhow::Result<()> {
        let report = Finish {
            attempt,
            outcome: Outcome::Succeeded,
            exit: Some(Exit { code: Some(0), signal: None, meaning: "success".to_owned() }),
            output: None,
            error: None,
            cause: Cause { by: "process".to_owned(), code: CauseCode::Completed, message: "success".to_owned() },
            usage: None,
        };
        connection.call(&self.post(&format!("/agent/jobs/{job}/finish"), &report)?).await?.require(204)
    }

    /// The call that sends a chunk of a job's log, compressed as agents do it.
    pub fn log_chunk(&self, job: JobId, chunk: &drover_protocol::agent::LogChunk) -> anyhow::Result<Request> {
        let body = zstd::bulk::compress(&serde_json::to_vec(chunk)?, 1)?;
        let headers = "Content-Type: application/json\r\nContent-Encoding: zstd\r\n";
        Ok(Request::new("POST", &format!("{API_BASE}/agent/jobs/{job}/logs"), &self.key, headers, &body))
    }

    fn post(&self, path: &str, body: &impl serde::Serialize) -> anyhow::Result<Request> {
        Request::json("POST", &format!("{API_BASE}{path}"), &self.key, body)
    }
}
