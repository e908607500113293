//! The `drover` binary as a whole, against a scripted coordinator over real TCP.

mod calls;
mod files;
mod follow;
mod logs;
mod outbound;
mod people;
mod resources;
mod support;
mod tasks;
mod triggers;
