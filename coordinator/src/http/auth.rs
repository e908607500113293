//! Who is asking: `Authorization: Bearer <key>`, or `Basic <key>` as robots' older libraries send it; or the cookie of a
//! session, which a browser sends by itself, so that what changes anything needs a header besides. A key goes before a
//! cookie.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, header, request::Parts},
};
use drover_protocol::{AccountId, KeyId};

use super::{Fault, query};
use crate::{
    app::App,
    error::Error,
    operations::{self, Actor, Caller, key::Brought},
    store::key::SYSTEM_ACCOUNT,
};

const NO_KEY: Error = Error::Unauthenticated("send the header Authorization: Bearer <key>, or sign in");
/// The cookie in which the key of a session lies.
pub const COOKIE: &str = "drover_session";
const CSRF_HEADER: &str = "x-csrf-token";

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Fault> {
        let (key, brought) = match session_of(&parts.headers) {
            Some(session) if !parts.headers.contains_key(header::AUTHORIZATION) => (session, Brought::InCookie),
            _ => (text_of_key(parts)?, Brought::InHeader),
        };
        let (mut caller, stale) = app.db.read(SYSTEM_ACCOUNT, |reading| {
            operations::key::authenticate(reading, (key, brought), &app.secrets, &app.manifests)
        })?;
        if brought == Brought::InCookie {
            check_csrf_token(parts, app, key)?;
        }
        caller.address = address_of(parts);
        // What robots report by themselves is never refused: a job would be lost by it.
        if !matches!(caller.actor, Actor::Robot { .. }) {
            app.rates.count(caller.key_id)?;
        }
        if let Some(key) = stale {
            write_last_use(app, caller.account, key);
        }
        query::require_known(parts)?;
        Ok(caller)
    }
}

/// The text of the session's key, if there is one.
pub fn session_of(headers: &HeaderMap) -> Option<&str> {
    cookie_of(headers, COOKIE)
}

/// The value of a cookie.
pub fn cookie_of<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == wanted).map(|(_, value)| value).filter(|value| !value.is_empty())
}

/// Another site's page can make a browser send the cookie, but not this header.
fn check_csrf_token(parts: &Parts, app: &App, session: &str) -> Result<(), Error> {
    if parts.method.is_safe() {
        return Ok(());
    }
    let given = parts.headers.get(CSRF_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match app.secrets.is_csrf_token(session, given) {
        true => Ok(()),
        false => Err(Error::Forbidden(
            "a session changes something only with the header X-CSRF-Token; GET /session says what it is".to_owned(),
        )),
    }
}

/// Where a call comes from that needs no key.
pub struct Address(pub Option<IpAddr>);

impl FromRequestParts<Arc<App>> for Address {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Fault> {
        Ok(Self(address_of(parts)))
    }
}

/// Where the call comes from, as the server has found out.
fn address_of(parts: &Parts) -> Option<IpAddr> {
    parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| address.ip())
}

fn text_of_key(parts: &Parts) -> Result<&str, Error> {
    let value = parts.headers.get(header::AUTHORIZATION).ok_or(NO_KEY)?;
    let (scheme, key) = value.to_str().ok().and_then(|text| text.trim().split_once(' ')).ok_or(NO_KEY)?;
    if !scheme.eq_ignore_ascii_case("bearer") && !scheme.eq_ignore_ascii_case("basic") {
        return Err(NO_KEY);
    }
    Ok(key.trim())
}

/// For the calls that replace the caller's own key: the old one may repeat them, if the answer was lost.
pub struct Replacing {
    pub caller: Caller,
    /// The key has ended by such a call: only its repetition may be answered.
    pub is_replaced: bool,
}

impl FromRequestParts<Arc<App>> for Replacing {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Fault> {
        if !parts.headers.contains_key(header::AUTHORIZATION) && session_of(&parts.headers).is_some() {
            return Ok(Self { caller: Caller::from_request_parts(parts, app).await?, is_replaced: false });
        }
        let key = text_of_key(parts)?;
        let (mut caller, is_replaced) = app.db.read(SYSTEM_ACCOUNT, |reading| {
            operations::key::authenticate_for_replacing(reading, key, &app.secrets, &app.manifests)
        })?;
        caller.address = address_of(parts);
        query::require_known(parts)?;
        Ok(Self { caller, is_replaced })
    }
}

/// For the few addresses that also those may see who have no key.
pub struct MaybeCaller(pub Option<Caller>);

impl FromRequestParts<Arc<App>> for MaybeCaller {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Fault> {
        match parts.headers.contains_key(header::AUTHORIZATION) || session_of(&parts.headers).is_some() {
            true => Ok(Self(Some(Caller::from_request_parts(parts, app).await?))),
            false => Ok(Self(None)),
        }
    }
}

/// Writes the last use down beside the request, which does not wait for it.
fn write_last_use(app: &Arc<App>, account: AccountId, key: KeyId) {
    if !app.touching.lock().insert(key) {
        return;
    }
    let app = Arc::clone(app);
    tokio::spawn(async move {
        let written = app.db.write(account, move |tx| operations::key::touch(tx, key)).await;
        if let Err(error) = written {
            tracing::debug!(%error, "the last use of a key was not written");
        }
        app.touching.lock().remove(&key);
    });
}
