//! Storage: one ordered key-value interface with serial writes; every rule of the product is written above it.

pub mod db;
pub mod document;
pub mod engine;
pub mod ids;
pub mod key;
pub mod memory;
mod overlay;
pub mod schema;
pub mod table;
pub mod tx;
pub mod watch;

pub use db::Db;
pub use table::{IndexEntry, Reader, Reading, Record, Scan};
pub use tx::Tx;
pub use watch::{Topic, Watch};
