//! The caller's account.

use std::sync::Arc;

use axum::{Json, extract::State, http::HeaderMap, response::Response};
use drover_protocol::account::{Account, AccountPatch, Me};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    extract::{IfMatch, Json as Body},
    once::{self, Answer},
    page::{self, IfNoneMatch},
};
use crate::{
    app::App,
    domain,
    operations::{Actor, Caller, account, key},
    store::key::SYSTEM_ACCOUNT,
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(get_account, update_account)).routes(routes!(get_me))
}

fn view(account: domain::account::Account) -> Account {
    Account { id: account.id, name: account.name, created_at: account.created_at, revision: account.revision }
}

/// The account of the key
#[utoipa::path(get, path = "/account", tag = "Account", params(IfNoneMatch),
    responses((status = 200, body = Account)))]
async fn get_account(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap) -> Result<Response, Fault> {
    caller.require(domain::permission::Permission::AccountRead)?;
    let account = app.db.read(SYSTEM_ACCOUNT, |reading| account::get(reading, &caller))?;
    Ok(page::object(&headers, account.revision, view(account)))
}

/// Change the account
#[utoipa::path(patch, path = "/account", tag = "Account", request_body = AccountPatch,
    params(IfMatch),
    responses((status = 200, body = Account)))]
async fn update_account(
    State(app): State<Arc<App>>,
    caller: Caller,
    IfMatch(revision): IfMatch,
    Body(patch): Body<AccountPatch>,
) -> Result<Response, Fault> {
    once::write(&app, caller, None, move |tx, caller| {
        Ok(Answer::ok(view(account::update(tx, caller, &patch, revision)?)))
    })
    .await
}

/// Who is asking, and what they may do
#[utoipa::path(get, path = "/account/me", tag = "Account", responses((status = 200, body = Me)))]
async fn get_me(State(app): State<Arc<App>>, caller: Caller) -> Result<Json<Me>, Fault> {
    let account = app.db.read(SYSTEM_ACCOUNT, |reading| account::get(reading, &caller))?;
    let roles = app.db.read(caller.account, |reading| key::roles(reading, &caller))?;
    let (kind, id) = match &caller.actor {
        Actor::User { id, .. } => ("user", id.to_string()),
        Actor::Robot { id, .. } => ("robot", id.to_string()),
        Actor::Job { job, .. } => ("job", job.to_string()),
    };
    Ok(Json(Me {
        account: view(account),
        kind: kind.to_owned(),
        id,
        name: caller.name(),
        key_id: caller.key_id,
        roles,
        permissions: caller.permissions.iter().map(|permission| permission.as_str().to_owned()).collect(),
    }))
}
