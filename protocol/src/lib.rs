//! The wire types of Drover: what coordinator, agents, command line and console say to each other.
//!
//! One file per noun, plus the conventions that hold for all of them (ids, times, pages, problems).
//! Nothing here performs I/O, reads a clock or makes an id.

pub mod account;
pub mod address;
pub mod agent;
pub mod alert;
pub mod audit;
pub mod change;
pub mod event;
pub mod id;
pub mod job;
pub mod join_token;
pub mod json;
pub mod key;
mod labels;
pub mod log;
pub mod manifest;
pub mod news;
pub mod overview;
pub mod page;
pub mod patch;
pub mod problem;
pub mod process;
pub mod queue;
pub mod resource;
pub mod robot;
pub mod robot_group;
pub mod role;
pub mod session;
pub mod storage;
pub mod system;
pub mod task;
pub mod time;
pub mod trace;
pub mod trigger;
pub mod user;
pub mod webhook;
mod words;

pub use id::*;
pub use time::Timestamp;

/// The path under which every versioned call lives.
pub const API_BASE: &str = "/api/v1";
