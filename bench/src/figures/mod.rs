//! All figures, in the order in which they are measured.

mod agent;
mod dispatch;
mod events;
mod fleet;
mod http;
mod logs;
mod logs_search;
mod sign_ins;
mod start;
mod storage;
mod store;
mod tasks;
mod triggers;

use std::{path::PathBuf, time::Duration};

use crate::report::Row;

/// What a measurement has to keep to.
#[derive(Clone, Debug)]
pub struct Setting {
    /// A folder of its own.
    pub folder: PathBuf,
    /// How long a load lasts.
    pub duration: Duration,
    /// Size of the large log.
    pub log_bytes: u64,
    /// Size of the large fleet.
    pub robots: usize,
    /// Size of the large queue.
    pub tasks: usize,
}

/// A group of figures that are measured together.
pub struct Figure {
    pub name: &'static str,
    about: &'static str,
    pub measure: fn(&Setting) -> anyhow::Result<Vec<Row>>,
}

pub const FIGURES: [Figure; 13] = [
    Figure { name: "store", about: "durable transactions, index made anew", measure: store::measure },
    Figure { name: "http", about: "durable job starts over HTTP", measure: http::measure },
    Figure {
        name: "dispatch",
        about: "from the API to the running process, jobs per second",
        measure: dispatch::measure,
    },
    Figure { name: "logs", about: "lines ingested, pages read, lag of a live log", measure: logs::measure },
    Figure {
        name: "logs_search",
        about: "text found among ten million lines of all jobs",
        measure: logs_search::measure,
    },
    Figure { name: "storage", about: "a large file up and down, beside a plain copy", measure: storage::measure },
    Figure { name: "tasks", about: "lives of tasks, single steps, queues of a million", measure: tasks::measure },
    Figure {
        name: "triggers",
        about: "ten thousand fires of one minute, reaction to tasks, previews",
        measure: triggers::measure,
    },
    Figure { name: "events", about: "changes streamed to hundreds of listeners", measure: events::measure },
    Figure { name: "sign_ins", about: "heartbeats beside people who sign in", measure: sign_ins::measure },
    Figure { name: "agent", about: "memory and CPU time of an agent", measure: agent::measure },
    Figure {
        name: "start",
        about: "start of the coordinator, empty and with a million records",
        measure: start::measure,
    },
    Figure { name: "fleet", about: "thousands of connected agents", measure: fleet::measure },
];

/// The figures and what they are, one a line.
pub fn list() -> String {
    let lines = FIGURES.iter().map(|figure| format!("  {:<11} {}\n", figure.name, figure.about));
    format!("Figures:\n{}", lines.collect::<String>())
}

/// A runtime of one thread: the load generator must leave the cores to the programs.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
