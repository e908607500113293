//! What a person does before anything can be measured: processes, versions, join tokens, jobs.

use std::{
    io::{Cursor, Write},
    net::SocketAddr,
};

use drover_protocol::{
    API_BASE, JobId,
    job::{Job, StartedJobs},
    join_token::CreatedJoinToken,
    log::LogPage,
};
use serde_json::{Value, json};
use zip::{ZipWriter, write::SimpleFileOptions};

use crate::{
    http::{Connection, Request},
    program::KEY,
};

/// Most jobs that one call starts.
pub const MAX_COUNT: u32 = 100;

/// A connection of the administrator.
#[derive(Debug)]
pub struct Api {
    connection: Connection,
}

/// The call that starts jobs of a process on the group of all robots.
pub fn start_request(process: &str, count: u32) -> anyhow::Result<Request> {
    let body = json!({"process": process, "target": {"group": "all"}, "count": count});
    Request::json("POST", &format!("{API_BASE}/jobs"), KEY, &body)
}

impl Api {
    pub async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self { connection: Connection::open(address).await? })
    }

    async fn call(&mut self, method: &str, path: &str, body: &Value, status: u16) -> anyhow::Result<Value> {
        let request = Request::json(method, &format!("{API_BASE}{path}"), KEY, body)?;
        self.connection.call(&request).await?.expect(status)
    }

    /// Makes a process with one active version that runs a command.
    pub async fn publish(&mut self, name: &str, command: &[&str]) -> anyhow::Result<()> {
        self.call("POST", "/processes", &json!({"name": name}), 201).await?;
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        zip.start_file("process.toml", SimpleFileOptions::default())?;
        // An array of strings is written alike in TOML and JSON.
        writeln!(zip, "[process]\nname = \"{name}\"\n\n[run]\ncommand = {}", serde_json::to_string(command)?)?;
        let package = zip.finish()?.into_inner();
        let path = format!("{API_BASE}/processes/{name}/versions?activate=true");
        let request = Request::new("POST", &path, KEY, "Content-Type: application/zip\r\n", &package);
        self.connection.call(&request).await?.require(201)
    }

    /// Makes a user who signs in with this password.
    pub async fn user(&mut self, login: &str, password: &str) -> anyhow::Result<()> {
        let user = json!({"login": login, "password": password, "roles": ["viewer"]});
        self.call("POST", "/users", &user, 201).await.map(drop)
    }

    /// A token with which so many robots may join.
    pub async fn join_token(&mut self, uses: u32) -> anyhow::Result<String> {
        let request = Request::json("POST", &format!("{API_BASE}/join-tokens"), KEY, &json!({"uses": uses}))?;
        Ok(self.connection.call(&request).await?.expect::<CreatedJoinToken>(201)?.token)
    }

    /// Starts jobs on the group of all robots, at most [`MAX_COUNT`].
    pub async fn start(&mut self, process: &str, count: u32) -> anyhow::Result<Vec<JobId>> {
        let request = start_request(process, count)?;
        let jobs = match self.connection.call(&request).await?.expect(201)? {
            StartedJobs::Many { items } => items,
            StartedJobs::One(job) => vec![*job],
        };
        Ok(jobs.into_iter().map(|job| job.id).collect())
    }

    /// Starts any number of jobs.
    pub async fn start_many(&mut self, process: &str, count: u32) -> anyhow::Result<Vec<JobId>> {
        let mut jobs = Vec::new();
        while jobs.len() < count as usize {
            let rest = u32::try_from(count as usize - jobs.len())?;
            jobs.extend(self.start(process, rest.min(MAX_COUNT)).await?);
        }
        Ok(jobs)
    }

    /// Waits until a job has finished.
    pub async fn finished(&mut self, job: JobId) -> anyhow::Result<Job> {
        let path = format!("{API_BASE}/jobs/{job}?wait_seconds=60&until=finished");
        let request = Request::json("GET", &path, KEY, &Value::Null)?;
        loop {
            let job: Job = self.connection.call(&request).await?.expect(200)?;
            if job.outcome.is_some() {
                return Ok(job);
            }
        }
    }

    /// How many lines the log of a job has.
    pub async fn lines_of(&mut self, job: JobId) -> anyhow::Result<u64> {
        let path = format!("{API_BASE}/jobs/{job}/logs?direction=backward&limit=1");
        let request = Request::json("GET", &path, KEY, &Value::Null)?;
        let page: LogPage = self.connection.call(&request).await?.expect(200)?;
        Ok(page.items.first().map_or(0, |line| line.seq))
    }

    /// Waits until so many robots are there and free.
    pub async fn idle_robots(&mut self, count: usize) -> anyhow::Result<()> {
        loop {
            let robots = self.call("GET", "/robots?state=idle&limit=1000", &Value::Null, 200).await?;
            if robots["items"].as_array().is_some_and(|items| items.len() >= count) {
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}
