//! Storage: one ordered key-value interface with serial writes; every rule of the product is written above it.

pub mod backup;
pub mod blob;
pub mod changes;
pub mod check;
pub mod check_audit;
pub mod check_blobs;
pub mod commit_log;
pub mod db;
mod decoded;
pub(crate) mod disk;
pub mod document;
pub mod embedded;
pub mod engine;
pub mod export;
pub mod ids;
mod in_parts;
pub mod key;
pub mod lines;
pub mod memory;
mod overlay;
pub mod restore;
pub mod schema;
pub mod table;
mod turns;
pub mod tx;
pub mod watch;

pub use db::Db;
pub use table::{IndexEntry, Reader, Reading, Record, Scan};
pub use tx::Tx;
pub use watch::{Topic, WakeUp, Watch};
