//! Use cases: one file per noun, one function per use case, over a transaction or a reader's view.
//!
//! A function checks permission, reads, decides through `domain`, writes, and names whom to wake. It never sleeps,
//! calls out or spawns.

pub mod account;
pub mod agent;
pub mod alert;
pub mod alert_raise;
pub mod alert_watch;
pub mod assignment;
pub mod attempt;
pub mod audit;
pub mod caller;
pub mod census;
pub mod change;
pub mod disk;
pub mod event;
pub mod external;
pub mod file;
pub mod garbage;
pub mod idempotency;
pub mod job;
pub mod join_token;
pub mod key;
pub mod link;
pub mod list;
pub mod log;
pub mod log_sealing;
pub mod log_search;
pub mod news;
pub mod overview;
pub mod process;
pub mod process_version;
pub mod queue;
pub mod reach;
pub mod resource;
pub mod resource_value;
pub mod retention;
pub mod robot;
pub mod robot_group;
pub mod role;
pub mod rotation;
pub mod session;
pub mod storage;
pub mod system;
pub mod task;
pub mod trace;
pub mod transfer;
pub mod trigger;
pub mod trigger_fire;
pub mod user;
pub mod webhook;

use std::str::FromStr;

use crate::{
    error::{Error, Result},
    store::{Reading, Record, key::Kind, table},
};

pub use caller::{Actor, Caller, Reach};

/// The record with this id or this unique name, for paths. `names` is the index of the names.
fn by_id_or_name<R: Record<Id: FromStr>>(reading: &dyn Reading, names: Kind, text: &str) -> Result<R> {
    match text.parse() {
        Ok(id) => table::get(reading, id),
        Err(_) => table::find_by(reading, names, text)?.ok_or(Error::NotFound(R::NOUN)),
    }
}
