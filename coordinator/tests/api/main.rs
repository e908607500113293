//! The coordinator's API, driven in process over its router: the memory engine, blobs in memory, and a clock that only
//! moves when a test moves it. After every test the store is checked against its indexes.
#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it must be")]

mod agents;
mod artifacts;
mod connections;
mod conventions;
mod deadlines;
mod hostile;
mod jobs;
mod keys;
mod log_search;
mod logs;
mod model;
mod permissions;
mod processes;
mod robots;
mod support;
mod uploads;
