//! The coordinator's API, driven in process over its router: the memory engine, blobs in memory, and a clock that only
//! moves when a test moves it. After every test the store is checked against its indexes.
#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it must be")]

mod accounts;
mod agents;
mod artifacts;
mod audit;
mod connections;
mod conventions;
mod deadlines;
mod files;
mod hostile;
mod jobs;
mod keys;
mod links;
mod log_search;
mod logs;
mod model;
mod permissions;
mod processes;
mod queues;
mod resources;
mod robots;
mod roles;
mod sessions;
mod storages;
mod support;
mod task_lists;
mod tasks;
mod tasks_bulk;
mod tasks_of_jobs;
mod triggers;
mod uploads;
mod users;
