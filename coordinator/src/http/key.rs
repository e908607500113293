//! API keys.

use std::sync::Arc;

use axum::{Json, extract::State, response::Response};
use drover_protocol::{
    KeyId,
    key::{CreatedKey, FullKey, Key, KeyRefresh, KeyReveal, NewKey, OwnKey},
    page::{Page, PageQuery},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    auth::Replacing,
    extract::{Call, Json as Body, ListQuery, MaybePosted, NoFilter, Path, Posted, id},
    once::{self, Answer},
    page,
};
use crate::{
    app::App,
    domain::key::ApiKey,
    error::Error,
    operations::{Caller, idempotency::Repeatable, key},
    password::{self, Guesser},
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(get_own_key, assign_own_key))
        .routes(routes!(refresh_own_key))
        .routes(routes!(reveal_own_key))
        .routes(routes!(list_keys, create_key))
        .routes(routes!(get_key, delete_key))
}

fn full(record: &ApiKey, text: String) -> FullKey {
    FullKey { id: record.id, header: format!("Bearer {text}"), key: text }
}

fn view(key: ApiKey) -> Key {
    Key {
        id: key.id,
        name: key.name.unwrap_or_default(),
        prefix: key.prefix,
        permissions: key.permissions.into_iter().flatten().map(|permission| permission.as_str().to_owned()).collect(),
        created_at: key.created_at,
        last_used_at: key.last_used_at,
        expires_at: key.expires_at,
    }
}

/// The caller's own key, masked
#[utoipa::path(get, path = "/account/key", tag = "Key", responses((status = 200, body = OwnKey)))]
async fn get_own_key(State(app): State<Arc<App>>, caller: Caller) -> Result<Json<OwnKey>, Fault> {
    Ok(Json(app.db.read(caller.account, |reading| key::own(reading, &caller))?))
}

/// Assign a new key; the old one ends at once
///
/// The answer has the full key. It is the user's own key that is replaced; named keys stay as they are. If the answer is
/// lost, the call can be repeated for ten minutes with the old key, which is good for nothing else: send an
/// `Idempotency-Key` that nobody can guess, of at least 22 characters.
#[utoipa::path(post, path = "/account/key", tag = "Key", params(Call),
    responses((status = 200, body = FullKey)))]
async fn assign_own_key(
    State(app): State<Arc<App>>,
    replacing: Replacing,
    Call(call): Call,
) -> Result<Response, Fault> {
    replace(&app, replacing, call, 0).await
}

async fn replace(
    app: &Arc<App>,
    replacing: Replacing,
    call: Option<Repeatable>,
    grace_seconds: u64,
) -> Result<Response, Fault> {
    if replacing.is_replaced {
        let first = once::replay(app, &replacing.caller, call.as_ref())?;
        return first.ok_or_else(|| key::UNKNOWN.into());
    }
    let (secrets, asked) = (Arc::clone(&app.secrets), call.clone());
    once::write(app, replacing.caller, call, move |tx, caller| {
        let (record, text) = key::replace_own(tx, caller, grace_seconds, asked.as_ref(), &secrets)?;
        Ok(Answer::ok(full(&record, text)))
    })
    .await
}

/// Assign a new key; the old one lives on for a grace time
#[utoipa::path(post, path = "/account/key/refresh", tag = "Key", request_body = Option<KeyRefresh>,
    params(Call),
    responses((status = 200, body = FullKey)))]
async fn refresh_own_key(
    State(app): State<Arc<App>>,
    replacing: Replacing,
    MaybePosted(request): MaybePosted<KeyRefresh>,
) -> Result<Response, Fault> {
    replace(&app, replacing, request.call, request.body.grace_seconds.unwrap_or_default()).await
}

/// Show the key again, against the user's password
///
/// Every try is written down, good or bad. After five wrong passwords within a quarter of an hour the user has to wait
/// for the rest of it.
#[utoipa::path(post, path = "/account/key/reveal", tag = "Key", request_body = KeyReveal,
    responses((status = 200, body = FullKey)))]
async fn reveal_own_key(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(request): Body<KeyReveal>,
) -> Result<Json<FullKey>, Fault> {
    let (record, hash) = app.db.read(caller.account, |reading| key::prepare_reveal(reading, &caller))?;
    let user = caller.user()?;
    // Counted before it is looked at, so that many guesses at once are no way round.
    let guesser = [Guesser::User(user)];
    app.guesses.count(&guesser, app.db.now()).map_err(Error::from)?;
    let good = password::verify(request.password, Some(hash)).await?;
    if good {
        app.guesses.forget(&guesser);
    }
    let account = caller.account;
    app.db.write(account, move |tx| key::note_reveal(tx, &caller, good)).await?;
    if !good {
        return Err(Error::Forbidden("the password is wrong".to_owned()).into());
    }
    let text = key::unseal(&record, &app.secrets)?;
    Ok(Json(full(&record, text)))
}

/// Named keys of the user
#[utoipa::path(get, path = "/keys", tag = "Key", params(PageQuery), responses((status = 200, body = Page<Key>)))]
async fn list_keys(
    State(app): State<Arc<App>>,
    caller: Caller,
    ListQuery(query, NoFilter {}): ListQuery<NoFilter>,
) -> Result<Json<Page<Key>>, Fault> {
    let found = app.db.read(caller.account, |reading| key::list_named(reading, &caller, &query))?;
    Ok(page::page(found, view))
}

/// A named key of the user, without its text
#[utoipa::path(get, path = "/keys/{id}", tag = "Key", params(("id" = String, Path, description = "Id of the key")),
    responses((status = 200, body = Key)))]
async fn get_key(State(app): State<Arc<App>>, caller: Caller, Path(text): Path<String>) -> Result<Json<Key>, Fault> {
    let id: KeyId = id(&text, "key")?;
    Ok(Json(view(app.db.read(caller.account, |reading| key::get_named(reading, &caller, id))?)))
}

/// Make a named key with rights of its own
///
/// The full key is in this answer and in no other.
#[utoipa::path(post, path = "/keys", tag = "Key", request_body = NewKey,
    params(Call),
    responses((status = 201, body = CreatedKey)))]
async fn create_key(State(app): State<Arc<App>>, caller: Caller, request: Posted<NewKey>) -> Result<Response, Fault> {
    let secrets = Arc::clone(&app.secrets);
    once::write(&app, caller, request.call, move |tx, caller| {
        let (record, text) = key::create_named(tx, caller, &request.body, &secrets)?;
        let path = format!("/keys/{}", record.id);
        let header = format!("Bearer {text}");
        Ok(Answer::created(CreatedKey { details: view(record), key: text, header }, path))
    })
    .await
}

/// Delete a named key; it ends at once
#[utoipa::path(delete, path = "/keys/{id}", tag = "Key", params(("id" = String, Path, description = "Id of the key")),
    responses((status = 204)))]
async fn delete_key(State(app): State<Arc<App>>, caller: Caller, Path(text): Path<String>) -> Result<Response, Fault> {
    let id: KeyId = id(&text, "key")?;
    once::carry_out(&app, caller, move |tx, caller| key::delete_named(tx, caller, id)).await
}
