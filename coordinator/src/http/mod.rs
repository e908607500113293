//! The HTTP face: reads requests, calls operations, makes views of records. No rule of the product is decided here.

mod account;
mod activity;
mod agent;
mod alert;
mod audit;
mod auth;
mod change;
mod coding;
mod content;
mod extract;
mod file;
mod form;
mod hook;
mod job;
mod join_token;
mod key;
mod link;
mod log;
mod log_search;
pub mod metrics;
mod objects;
mod once;
pub mod openapi;
mod openid;
mod overview;
mod page;
mod problem;
mod process;
mod process_version;
mod proxies;
mod query;
mod queue;
pub mod rate;
mod resource;
mod robot;
mod robot_group;
mod role;
mod server;
mod session;
mod storage;
mod system;
mod task;
mod tls;
mod trigger;
mod user;
mod webhook;

use std::sync::Arc;

use axum::{Extension, Router, middleware};
use utoipa_axum::router::OpenApiRouter;

use self::query::WithoutQuery;
pub use self::{
    problem::Fault,
    proxies::Proxies,
    server::{Server, serve},
    tls::{Certificate, TlsError},
};
use crate::app::App;

/// Every route, with the document that describes them.
fn routes() -> OpenApiRouter<Arc<App>> {
    let versioned = OpenApiRouter::new()
        .merge(account::routes())
        .merge(agent::routes())
        .merge(alert::routes())
        .merge(audit::routes())
        .merge(change::routes())
        .merge(file::routes())
        .merge(hook::routes())
        .merge(job::routes())
        .merge(join_token::routes())
        .merge(key::routes())
        .merge(link::routes())
        .merge(log::routes())
        .merge(log_search::routes())
        .merge(overview::routes())
        .merge(openid::routes())
        .merge(process::routes())
        .merge(process_version::routes())
        .merge(queue::routes())
        .merge(resource::routes())
        .merge(robot::routes())
        .merge(robot_group::routes())
        .merge(role::routes())
        .merge(session::routes())
        .merge(storage::routes())
        .merge(system::versioned_routes())
        .merge(task::routes())
        .merge(trigger::routes())
        .merge(user::routes())
        .merge(webhook::routes());
    OpenApiRouter::with_openapi(openapi::base()).nest(drover_protocol::API_BASE, versioned).merge(system::routes())
}

/// The whole service.
pub fn router(app: Arc<App>) -> Router {
    let (router, document) = routes().split_for_parts();
    let without_query = WithoutQuery::of(&document);
    let document = openapi::finish(document);
    router
        .merge(openapi::pages(&document))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(Extension(without_query))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), problem::complete))
        .with_state(app)
}
