//! The coordinator's API, driven in process over its router: the memory engine, blobs in memory, and a clock that only
//! moves when a test moves it. After every test the store is checked against its indexes.
#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it must be")]

mod accounts;
mod agents;
mod alerts;
mod artifacts;
mod audit;
mod changes;
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
mod mail_server;
mod model;
mod news;
mod overview;
mod permissions;
mod processes;
mod queues;
mod receiver;
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
mod telemetry;
mod triggers;
mod triggers_by_event;
mod triggers_by_mail;
mod triggers_by_queue;
mod triggers_by_webhook;
mod uploads;
mod users;
mod webhooks;
