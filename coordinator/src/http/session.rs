//! Signing in and out with a browser.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use drover_protocol::{
    API_BASE, AccountId, KeyId, UserId,
    page::Items,
    session::{OwnSession, Session, SignIn, SignInMethod},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    auth::{Address, COOKIE, session_of},
    extract::{Json as Body, Path, id},
    user,
};
use crate::{
    app::App,
    domain::key::ApiKey,
    error::{Error, Result as OperationResult},
    external::{Admission, Known},
    operations::{
        Caller, account, external,
        session::{self, Candidate, Entrance, REFUSED, Refusal},
    },
    password::{self, Guesser, Throttled},
    store::{Reading, key::SYSTEM_ACCOUNT},
};

/// The longest login that is written down as one.
const MAX_LOGIN_CHARS: usize = 128;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(get_session, sign_in, sign_out))
        .routes(routes!(list_sessions))
        .routes(routes!(end_session))
}

fn view(key: ApiKey, current: KeyId) -> OperationResult<Session> {
    let no_session = || Error::Internal("a key that is no session is shown as one".to_owned());
    let session = key.session.ok_or_else(no_session)?;
    Ok(Session {
        id: key.id,
        current: key.id == current,
        method: session.method,
        address: session.address,
        user_agent: session.user_agent,
        created_at: key.created_at,
        last_used_at: key.last_used_at.unwrap_or(key.created_at),
        expires_at: key.expires_at.unwrap_or(key.created_at),
    })
}

fn own(
    reading: &dyn Reading,
    key: ApiKey,
    found: crate::domain::account::User,
    csrf: String,
) -> OperationResult<OwnSession> {
    let id = key.id;
    Ok(OwnSession { csrf_token: csrf, session: view(key, id)?, user: user::view(reading, found)? })
}

/// Whether people come over TLS, be it that of the coordinator or that of a proxy before it.
pub fn is_encrypted(app: &App) -> bool {
    app.rules.sessions.encrypted || app.rules.public_url.starts_with("https://")
}

/// The `Set-Cookie` of a session; an empty one takes it away. Over TLS it is sent over nothing else.
pub fn cookie(app: &App, text: &str) -> HeaderValue {
    let age = if text.is_empty() { 0 } else { app.rules.sessions.lifetime_seconds };
    let secure = if is_encrypted(app) { "; Secure" } else { "" };
    let value = format!("{COOKIE}={text}; Path={API_BASE}; Max-Age={age}; HttpOnly; SameSite=Strict{secure}");
    HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static(""))
}

/// Sign in
///
/// The answer sets the cookie of the session, and says the token that has to go along as `X-CSRF-Token` with every call that
/// changes something. Where several accounts have users of this login with this password, `account` must say which one is
/// meant. After five wrong passwords for a login from one address there is a wait of up to a quarter of an hour.
#[utoipa::path(post, path = "/session", tag = "Account", security(()), request_body = SignIn,
    responses((status = 200, body = OwnSession, headers(("Set-Cookie" = String, description = "The session")))))]
async fn sign_in(
    State(app): State<Arc<App>>,
    Address(address): Address,
    headers: HeaderMap,
    Body(request): Body<SignIn>,
) -> Result<Response, Fault> {
    let login = request.login.trim().to_owned();
    let named = request.account.as_deref();
    let candidates = app.db.read(SYSTEM_ACCOUNT, |reading| session::candidates(reading, &login, named))?;
    password::require_room()?;
    let guessers = guessers(&login, address);
    if let Err(throttled) = app.guesses.count(&guessers, app.db.now()) {
        return Err(throttle(&app, throttled, candidates, address).await?.into());
    }
    let mut fitting = Vec::new();
    // Somebody is looked at in any case.
    let hashes = candidates.iter().map(Candidate::password_hash);
    for (number, hash) in hashes.chain(candidates.is_empty().then_some(None)).enumerate() {
        if password::verify(request.password.clone(), hash).await? {
            fitting.extend(candidates.get(number).cloned());
        }
    }
    let (admitted, method) = match fitting.as_slice() {
        [] => match recognised_elsewhere(&app, &request, &login).await? {
            Some(admitted) => (admitted, SignInMethod::Ldap),
            None => {
                note(&app, candidates, address, Refusal::Wrong).await?;
                return Err(REFUSED.into());
            }
        },
        [only] => ((only.account, only.user.id), SignInMethod::Password),
        _ => return Err(Error::invalid("/account", "several accounts have this login; say which one is meant").into()),
    };
    app.guesses.forget(&guessers);
    let entrance = Entrance { method, address, user_agent: user_agent(&headers) };
    let (text, answer) = enter(&app, admitted, entrance).await?;
    let mut response = Json(answer).into_response();
    response.headers_mut().insert(header::SET_COOKIE, cookie(&app, &text));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

pub fn user_agent(headers: &HeaderMap) -> Option<String> {
    headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// Begins a session for somebody who has been recognised: the text of its key, and what the user is told.
pub async fn enter(
    app: &Arc<App>,
    (account, user): (AccountId, UserId),
    entrance: Entrance,
) -> Result<(String, OwnSession), Fault> {
    let (rules, secrets) = (app.rules.sessions, Arc::clone(&app.secrets));
    let begun = app.db.write(account, move |tx| {
        let (key, found, text) = session::begin(tx, user, &entrance, rules, &secrets)?;
        let answer = own(tx, key, found, secrets.csrf_token(&text))?;
        Ok((text, answer))
    });
    Ok(begun.await?)
}

/// The user whom the directory knows by this login and password, if it is one of the account that was named.
async fn recognised_elsewhere(
    app: &Arc<App>,
    request: &SignIn,
    login: &str,
) -> Result<Option<(AccountId, UserId)>, Fault> {
    let Some(directory) = &app.directory else { return Ok(None) };
    let account = app.db.read(SYSTEM_ACCOUNT, |reading| {
        let account = external::account_of(reading, directory.admission())?;
        let is_meant = match &request.account {
            Some(text) => account::named(reading, text)?.iter().any(|named| named.id == account),
            None => true,
        };
        Ok(is_meant.then_some(account))
    })?;
    let Some(account) = account else { return Ok(None) };
    match directory.recognise(login, &request.password).await? {
        Some(known) => Ok(Some((account, admit(app, account, known, directory.admission()).await?))),
        None => Ok(None),
    }
}

/// The user who somebody is that has proven elsewhere who they are.
pub async fn admit(app: &Arc<App>, account: AccountId, known: Known, admission: &Admission) -> Result<UserId, Fault> {
    let (secrets, admission) = (Arc::clone(&app.secrets), admission.clone());
    Ok(app.db.write(account, move |tx| external::admit(tx, &known, &admission, &secrets)).await?)
}

fn guessers(login: &str, address: Option<IpAddr>) -> Vec<Guesser> {
    let login: String = login.to_lowercase().chars().take(MAX_LOGIN_CHARS).collect();
    let address = address.map(|address| address.to_canonical());
    let mut guessers = vec![Guesser::LoginFrom(login.clone(), address), Guesser::Login(login)];
    guessers.extend(address.map(Guesser::Address));
    guessers
}

/// The refusal of a try that comes too soon. The first one of a wait is written down.
async fn throttle(
    app: &App,
    throttled: Throttled,
    candidates: Vec<Candidate>,
    address: Option<IpAddr>,
) -> Result<Error, Fault> {
    if throttled.is_first {
        note(app, candidates, address, Refusal::Throttled).await?;
    }
    Ok(throttled.into())
}

/// Writes a refusal down in the accounts that it may concern; that of an unknown login where the coordinator is run.
async fn note(app: &App, candidates: Vec<Candidate>, address: Option<IpAddr>, why: Refusal) -> Result<(), Fault> {
    if candidates.is_empty() {
        let home = app.db.read(SYSTEM_ACCOUNT, |reading| account::home(reading))?;
        if let Some(home) = home {
            app.db.write(home, move |tx| session::note_refused(tx, None, address, why)).await?;
        }
    }
    for candidate in candidates {
        let user = candidate.user;
        app.db.write(candidate.account, move |tx| session::note_refused(tx, Some(&user), address, why)).await?;
    }
    Ok(())
}

/// The session of the cookie
#[utoipa::path(get, path = "/session", tag = "Account", responses((status = 200, body = OwnSession)))]
async fn get_session(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Json<OwnSession>, Fault> {
    let csrf = session_of(&headers).map(|text| app.secrets.csrf_token(text)).unwrap_or_default();
    let answer = app.db.read(caller.account, |reading| {
        let (key, user) = session::current(reading, &caller)?;
        own(reading, key, user, csrf)
    })?;
    Ok(Json(answer))
}

/// Sign out
#[utoipa::path(delete, path = "/session", tag = "Account", responses((status = 204)))]
async fn sign_out(State(app): State<Arc<App>>, caller: Caller) -> Result<Response, Fault> {
    app.db.write(caller.account, move |tx| session::end_current(tx, &caller)).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(header::SET_COOKIE, cookie(&app, ""));
    Ok(response)
}

/// One's own sessions, newest first
#[utoipa::path(get, path = "/sessions", tag = "Account", responses((status = 200, body = Items<Session>)))]
async fn list_sessions(State(app): State<Arc<App>>, caller: Caller) -> Result<Json<Items<Session>>, Fault> {
    let found = app.db.read(caller.account, |reading| session::list(reading, &caller))?;
    let items = found.into_iter().map(|key| view(key, caller.key_id)).collect::<OperationResult<_>>()?;
    Ok(Json(Items { items }))
}

/// End one of one's own sessions
#[utoipa::path(delete, path = "/sessions/{id}", tag = "Account",
    params(("id" = String, Path, description = "Id of the session")), responses((status = 204)))]
async fn end_session(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
) -> Result<StatusCode, Fault> {
    let id: KeyId = id(&text, "session")?;
    app.db.write(caller.account, move |tx| session::end(tx, &caller, id)).await?;
    Ok(StatusCode::NO_CONTENT)
}
