//! The coordinator: holds everything, decides everything, and answers over HTTP.
//!
//! Four layers, one direction: `http` and `background` → `operations` → `domain` and `store`.

pub mod account_archive;
pub mod app;
pub mod background;
pub mod clock;
pub mod config;
pub mod domain;
mod drafting;
pub mod error;
pub mod external;
pub mod http;
pub mod ical;
pub mod json_schema;
pub mod log_deletion;
pub mod log_reader;
pub mod log_search;
pub mod mail_client;
pub mod mailbox;
pub mod manifests;
mod nearest;
pub mod operations;
pub mod package;
pub mod password;
mod pointer;
pub mod queue_schemas;
pub mod secrets;
pub mod standard_webhooks;
pub mod start;
pub mod store;
pub mod telemetry_client;
pub mod webhook_client;
