//! Who is asking: `Authorization: Bearer <key>`, or `Basic <key>` as robots' older libraries send it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{header, request::Parts},
};
use drover_protocol::{AccountId, KeyId};

use super::Fault;
use crate::{
    app::App,
    error::Error,
    operations::{self, Actor, Caller},
    store::key::SYSTEM_ACCOUNT,
};

const NO_KEY: Error = Error::Unauthenticated("send the header Authorization: Bearer <key>");

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Fault> {
        let key = text_of_key(parts)?;
        let (mut caller, stale) = app.db.read(SYSTEM_ACCOUNT, |reading| {
            operations::key::authenticate(reading, key, &app.secrets, &app.manifests)
        })?;
        caller.address = address_of(parts);
        // What robots report by themselves is never refused: a job would be lost by it.
        if !matches!(caller.actor, Actor::Robot { .. }) {
            app.rates.count(caller.key_id)?;
        }
        if let Some(key) = stale {
            write_last_use(app, caller.account, key);
        }
        Ok(caller)
    }
}

/// Where the call comes from.
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
        let key = text_of_key(parts)?;
        let (mut caller, is_replaced) = app.db.read(SYSTEM_ACCOUNT, |reading| {
            operations::key::authenticate_for_replacing(reading, key, &app.secrets, &app.manifests)
        })?;
        caller.address = address_of(parts);
        Ok(Self { caller, is_replaced })
    }
}

/// For the few addresses that also those may see who have no key.
pub struct MaybeCaller(pub Option<Caller>);

impl FromRequestParts<Arc<App>> for MaybeCaller {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Fault> {
        match parts.headers.contains_key(header::AUTHORIZATION) {
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
