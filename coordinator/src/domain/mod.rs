//! The rules, as pure functions on values: no clock, no store, no I/O.

pub mod account;
pub mod alert;
pub mod assignment;
pub mod attempt;
pub mod audit;
pub mod event;
pub mod file;
pub mod garbage;
pub mod idempotency;
pub mod job;
pub mod key;
pub mod log;
pub mod name;
pub mod news;
pub mod permission;
pub mod process;
pub mod queue;
pub mod resource;
pub mod robot;
pub mod role;
pub mod schedule;
pub mod storage;
pub mod task;
pub mod task_batch;
pub mod trigger;
pub mod webhook;
