//! Users, and the caller's own password.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use drover_protocol::{
    event::Event,
    page::{Page, PageQuery},
    user::{ChangePassword, CreatedUser, NewUser, User, UserFilter, UserPatch},
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
    error::{Error, Result as OperationResult},
    operations::{Caller, role, user},
    password::{self, Guesser},
    store::Reading,
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_users, create_user))
        .routes(routes!(get_user, update_user, delete_user))
        .routes(routes!(list_user_events))
        .routes(routes!(change_own_password))
}

pub fn view(reading: &dyn Reading, user: domain::account::User) -> OperationResult<User> {
    Ok(User {
        id: user.id,
        roles: role::names(reading, &user.roles)?,
        login: user.login,
        name: user.name,
        email: user.email,
        locale: user.locale,
        time_zone: user.time_zone,
        blocked: user.blocked,
        has_password: user.password_hash.is_some(),
        external_id: user.external_id,
        last_sign_in_at: user.last_sign_in_at,
        created_at: user.created_at,
        revision: user.revision,
    })
}

/// Users, newest first
#[utoipa::path(get, path = "/users", tag = "Account", params(PageQuery, UserFilter),
    responses((status = 200, body = Page<User>)))]
async fn list_users(
    State(app): State<Arc<App>>,
    caller: Caller,
    ListQuery(query, filter): ListQuery<UserFilter>,
) -> Result<Json<Page<User>>, Fault> {
    let (items, next_cursor) = app.db.read(caller.account, |reading| {
        let found = user::list(reading, &caller, &filter, &query)?;
        let items: Vec<User> =
            found.items.into_iter().map(|user| view(reading, user)).collect::<OperationResult<_>>()?;
        Ok((items, found.next_cursor))
    })?;
    Ok(Json(Page { items, next_cursor, total: None }))
}

/// The hash of a password, made beside the request.
async fn hashed(app: &App, password: Option<String>) -> Result<Option<String>, Fault> {
    match password {
        Some(password) => Ok(Some(password::hash_in_turn(password, app.db.random()).await?)),
        None => Ok(None),
    }
}

/// Make a user
///
/// The user gets no role that the caller could not have. One without a password cannot sign in, and works with a key
/// alone: it is in this answer and in no other.
#[utoipa::path(post, path = "/users", tag = "Account", request_body = NewUser,
    params(Call),
    responses((status = 201, body = CreatedUser)))]
async fn create_user(State(app): State<Arc<App>>, caller: Caller, request: Posted<NewUser>) -> Result<Response, Fault> {
    if let Some(first) = once::replay(&app, &caller, request.call.as_ref())? {
        return Ok(first);
    }
    caller.require(Permission::UserCreate)?;
    let body = request.body;
    if let Some(password) = &body.password {
        user::check_password(password, &body.login, "/password")?;
    }
    let hash = hashed(&app, body.password.clone()).await?;
    let secrets = Arc::clone(&app.secrets);
    once::write(&app, caller, request.call, move |tx, caller| {
        let shows_key = hash.is_none();
        let (user, key) = user::create(tx, caller, &body, hash, &secrets)?;
        let path = format!("/users/{}", user.id);
        Ok(Answer::created(CreatedUser { details: view(tx, user)?, key: shows_key.then_some(key) }, path))
    })
    .await
}

/// A user
#[utoipa::path(get, path = "/users/{user}", tag = "Account",
    params(("user" = String, Path, description = "Id or login"), IfNoneMatch), responses((status = 200, body = User)))]
async fn get_user(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let user = app.db.read(caller.account, |reading| view(reading, user::get(reading, &caller, &text)?))?;
    Ok(page::object(&headers, user.revision, user))
}

/// Change, block or unblock a user
///
/// A user with more rights than the caller's is changed by somebody who has them. The last administrator who is not
/// blocked stays one. A new password, and blocking, end the user's sessions at once.
#[utoipa::path(patch, path = "/users/{user}", tag = "Account", request_body = UserPatch,
    params(("user" = String, Path, description = "Id or login"), IfMatch), responses((status = 200, body = User)))]
async fn update_user(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
    Body(patch): Body<UserPatch>,
) -> Result<Response, Fault> {
    caller.require(Permission::UserUpdate)?;
    let password = patch.password.clone().flatten();
    if let Some(password) = &password {
        let login = app.db.read(caller.account, |reading| Ok(user::resolve(reading, &text)?.login))?;
        user::check_password(password, patch.login.as_deref().unwrap_or(&login), "/password")?;
    }
    let hash = hashed(&app, password).await?;
    once::write(&app, caller, None, move |tx, caller| {
        let user = user::update(tx, caller, &text, &patch, hash, revision)?;
        Ok(Answer::ok(view(tx, user)?))
    })
    .await
}

/// Delete a user; keys and sessions end at once
#[utoipa::path(delete, path = "/users/{user}", tag = "Account",
    params(("user" = String, Path, description = "Id or login"), IfMatch), responses((status = 204)))]
async fn delete_user(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
) -> Result<Response, Fault> {
    once::delete_in_pages(&app, caller, move |tx, caller| user::delete_page(tx, caller, &text, revision)).await
}

/// What happened to a user, newest first
///
/// Changes of the user and of the user's keys. Sign-ins are in the audit trail.
#[utoipa::path(get, path = "/users/{user}/events", tag = "Account",
    params(("user" = String, Path, description = "Id or login"), PageQuery),
    responses((status = 200, body = Page<Event>)))]
async fn list_user_events(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    ListQuery(query, NoFilter {}): ListQuery<NoFilter>,
) -> Result<Json<Page<Event>>, Fault> {
    page::events(&app, &caller, &query, |reading, caller| Ok(user::get(reading, caller, &text)?.id.uuid()))
}

/// Change one's own password
///
/// All other sessions of the user end. After five wrong passwords within a quarter of an hour the user has to wait for the
/// rest of it.
#[utoipa::path(post, path = "/account/password", tag = "Account", request_body = ChangePassword,
    responses((status = 204)))]
async fn change_own_password(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(request): Body<ChangePassword>,
) -> Result<StatusCode, Fault> {
    let own = app.db.read(caller.account, |reading| user::for_own_password(reading, &caller))?;
    let Some(old) = own.password_hash else {
        return Err(Error::wrong_state("this user has no password; an administrator gives the first one").into());
    };
    user::check_password(&request.new, &own.login, "/new")?;
    let guesser = [Guesser::User(own.id)];
    app.guesses.count(&guesser, app.db.now()).map_err(Error::from)?;
    let account = caller.account;
    if !password::verify(request.old, Some(old)).await? {
        app.db.write(account, move |tx| user::note_wrong_password(tx, &caller)).await?;
        return Err(Error::Forbidden("the old password is wrong".to_owned()).into());
    }
    app.guesses.forget(&guesser);
    let hash = password::hash_in_turn(request.new, app.db.random()).await?;
    app.db.write(account, move |tx| user::set_own_password(tx, &caller, hash)).await?;
    Ok(StatusCode::NO_CONTENT)
}
