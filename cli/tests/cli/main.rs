//! The `drover` binary as a whole, against a scripted coordinator over real TCP.

mod calls;
mod follow;
mod resources;
mod support;
mod tasks;
