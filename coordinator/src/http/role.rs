//! Roles.

use std::sync::Arc;

use axum::{Json, extract::State, http::HeaderMap, response::Response};
use drover_protocol::{
    page::{Page, PageQuery},
    role::{NewRole, Role, RoleLimits, RolePatch},
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
    domain::{account::Account, permission::Permissions, role::Limits},
    error::Result as OperationResult,
    operations::{
        Caller, account,
        role::{self, AnyRole},
    },
    store::Reading,
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list_roles, create_role)).routes(routes!(get_role, update_role, delete_role))
}

fn texts(permissions: Permissions) -> Vec<String> {
    permissions.iter().map(|permission| permission.as_str().to_owned()).collect()
}

fn limits_view(limits: Limits) -> RoleLimits {
    RoleLimits { robot_groups: limits.robot_groups, queues: limits.queues, folders: limits.folders }
}

fn view(account: &Account, role: AnyRole) -> Role {
    let granted = texts(role.grant(account).permissions);
    match role {
        AnyRole::BuiltIn(role) => Role {
            id: None,
            name: role.as_str().to_owned(),
            description: role.description().to_owned(),
            built_in: true,
            permissions: granted.clone(),
            granted,
            limits: None,
            created_at: None,
            revision: 1,
        },
        AnyRole::Own(role) => Role {
            id: Some(role.id),
            name: role.name,
            description: role.description,
            built_in: false,
            permissions: role.permissions.into_iter().collect(),
            granted,
            limits: role.limits.map(limits_view),
            created_at: Some(role.created_at),
            revision: role.revision,
        },
    }
}

fn view_in(reading: &dyn Reading, role: AnyRole) -> OperationResult<Role> {
    Ok(view(&account::own(reading)?, role))
}

/// Roles: the built-in ones, then others by name
#[utoipa::path(get, path = "/roles", tag = "Account", params(PageQuery), responses((status = 200, body = Page<Role>)))]
async fn list_roles(
    State(app): State<Arc<App>>,
    caller: Caller,
    ListQuery(query, NoFilter {}): ListQuery<NoFilter>,
) -> Result<Json<Page<Role>>, Fault> {
    let (found, account) =
        app.db.read(caller.account, |reading| Ok((role::list(reading, &caller, &query)?, account::own(reading)?)))?;
    Ok(page::page(found, |role| view(&account, role)))
}

/// Make a role
///
/// A role gives nothing that its maker does not have. With `limits` its permissions reach only robot groups, queues and
/// storage folders of these names; everything else is as if it were not there. A user with several roles may do with each
/// what that one gives.
#[utoipa::path(post, path = "/roles", tag = "Account", request_body = NewRole,
    params(Call),
    responses((status = 201, body = Role)))]
async fn create_role(State(app): State<Arc<App>>, caller: Caller, request: Posted<NewRole>) -> Result<Response, Fault> {
    once::write(&app, caller, request.call, move |tx, caller| {
        let role = role::create(tx, caller, &request.body)?;
        let path = format!("/roles/{}", role.reference().text());
        Ok(Answer::created(view_in(tx, role)?, path))
    })
    .await
}

/// A role
#[utoipa::path(get, path = "/roles/{role}", tag = "Account",
    params(("role" = String, Path, description = "Id or name"), IfNoneMatch), responses((status = 200, body = Role)))]
async fn get_role(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let role = app.db.read(caller.account, |reading| view_in(reading, role::get(reading, &caller, &text)?))?;
    Ok(page::object(&headers, role.revision, role))
}

/// Change a role that is not built in
///
/// Those who have it have the new rights from their next call on.
#[utoipa::path(patch, path = "/roles/{role}", tag = "Account", request_body = RolePatch,
    params(("role" = String, Path, description = "Id or name"), IfMatch), responses((status = 200, body = Role)))]
async fn update_role(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
    Body(patch): Body<RolePatch>,
) -> Result<Response, Fault> {
    once::write(&app, caller, None, move |tx, caller| {
        let role = role::update(tx, caller, &text, &patch, revision)?;
        Ok(Answer::ok(view_in(tx, role)?))
    })
    .await
}

/// Delete a role that nobody has
#[utoipa::path(delete, path = "/roles/{role}", tag = "Account",
    params(("role" = String, Path, description = "Id or name"), IfMatch), responses((status = 204)))]
async fn delete_role(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
) -> Result<Response, Fault> {
    once::delete_in_pages(&app, caller, move |tx, caller| role::delete_page(tx, caller, &text, revision)).await
}
