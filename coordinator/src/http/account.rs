//! The caller's account; and all accounts, for those who run the coordinator.

use std::sync::Arc;

use axum::{Json, extract::State, http::HeaderMap, response::Response};
use drover_protocol::{
    account::{Account, AccountChange, AccountPatch, CreatedAccount, Me, NewAccount},
    page::{Page, PageQuery},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    extract::{Call, IfMatch, Json as Body, ListQuery, NoFilter, Path, Posted},
    once::{self, Answer},
    page::{self, IfNoneMatch},
};
use crate::{
    app::App,
    domain::{self, permission::Permission},
    operations::{Actor, Caller, account, key, user},
    password,
    store::key::SYSTEM_ACCOUNT,
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(get_account, update_account))
        .routes(routes!(get_me))
        .routes(routes!(list_accounts, create_account))
        .routes(routes!(get_one_account, change_account, delete_account))
}

fn view(account: domain::account::Account) -> Account {
    Account {
        id: account.id,
        name: account.name,
        runs_system: account.runs_system,
        disabled: account.disabled,
        audit_retention_days: account.audit_retention_days,
        created_at: account.created_at,
        revision: account.revision,
    }
}

/// The account of the key
#[utoipa::path(get, path = "/account", tag = "Account", params(IfNoneMatch),
    responses((status = 200, body = Account)))]
async fn get_account(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap) -> Result<Response, Fault> {
    caller.require(Permission::AccountRead)?;
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

/// All accounts, for those who run the coordinator
#[utoipa::path(get, path = "/accounts", tag = "Account", params(PageQuery),
    responses((status = 200, body = Page<Account>)))]
async fn list_accounts(
    State(app): State<Arc<App>>,
    caller: Caller,
    ListQuery(query, NoFilter {}): ListQuery<NoFilter>,
) -> Result<Json<Page<Account>>, Fault> {
    let found = app.db.read(SYSTEM_ACCOUNT, |reading| account::list(reading, &caller, &query))?;
    Ok(page::page(found, view))
}

/// Make an account with its administrator
///
/// The administrator's key is in this answer and in no other.
#[utoipa::path(post, path = "/accounts", tag = "Account", request_body = NewAccount,
    params(Call),
    responses((status = 201, body = CreatedAccount)))]
async fn create_account(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Posted<NewAccount>,
) -> Result<Response, Fault> {
    if let Some(first) = once::replay(&app, &caller, request.call.as_ref())? {
        return Ok(first);
    }
    caller.require(Permission::SystemAccounts)?;
    let body = request.body;
    let hash = match body.admin.password.clone() {
        Some(password) => {
            user::check_password(&password, &body.admin.login, "/admin/password")?;
            Some(password::hash_in_turn(password, app.db.random()).await?)
        }
        None => None,
    };
    let (secrets, audit_days) = (Arc::clone(&app.secrets), app.rules.audit_retention_days);
    once::write(&app, caller, request.call, move |tx, caller| {
        let (account, key) = account::create(tx, caller, &body, hash, audit_days, &secrets)?;
        let path = format!("/accounts/{}", account.id);
        Ok(Answer::created(CreatedAccount { account: view(account), key }, path))
    })
    .await
}

/// One of all accounts
#[utoipa::path(get, path = "/accounts/{id}", tag = "Account",
    params(("id" = String, Path, description = "Id or name"), IfNoneMatch), responses((status = 200, body = Account)))]
async fn get_one_account(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let account = app.db.read(SYSTEM_ACCOUNT, |reading| account::find(reading, &caller, &text))?;
    Ok(page::object(&headers, account.revision, view(account)))
}

/// Rename an account, disable it or enable it again
///
/// Into a disabled account nobody gets, with whatever key or password, and none of its triggers fires. Its jobs that run are
/// lost like those of a robot that is gone.
#[utoipa::path(patch, path = "/accounts/{id}", tag = "Account", request_body = AccountChange,
    params(("id" = String, Path, description = "Id or name"), IfMatch), responses((status = 200, body = Account)))]
async fn change_account(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
    Body(patch): Body<AccountChange>,
) -> Result<Response, Fault> {
    once::write(&app, caller, None, move |tx, caller| {
        Ok(Answer::ok(view(account::change(tx, caller, &text, &patch, revision)?)))
    })
    .await
}

/// Delete an account with everything in it
///
/// It is gone at once for everybody; what it held, files included, is removed in the background.
#[utoipa::path(delete, path = "/accounts/{id}", tag = "Account",
    params(("id" = String, Path, description = "Id or name"), IfMatch), responses((status = 204)))]
async fn delete_account(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
) -> Result<Response, Fault> {
    once::carry_out(&app, caller, move |tx, caller| account::delete(tx, caller, &text, revision)).await
}
