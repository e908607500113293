//! Writing calls: the operation, its answer, and the memory of that answer for repetitions, in one transaction.

use std::sync::Arc;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::Fault;
use crate::{
    app::App,
    error::{Error, Result},
    operations::{
        Caller,
        idempotency::{self, FirstAnswer, Repeatable},
    },
    store::Tx,
};

/// An answer in the making: status, body, and where the new thing lies.
pub struct Answer<T> {
    status: StatusCode,
    body: T,
    location: Option<String>,
}

impl<T> Answer<T> {
    /// 200 with a body.
    pub fn ok(body: T) -> Self {
        Self { status: StatusCode::OK, body, location: None }
    }

    /// 201; `path` is below the API's base.
    pub fn created(body: T, path: impl std::fmt::Display) -> Self {
        Self { status: StatusCode::CREATED, body, location: Some(format!("{}{path}", drover_protocol::API_BASE)) }
    }
}

impl Answer<()> {
    /// 204.
    pub fn done() -> Self {
        Self { status: StatusCode::NO_CONTENT, body: (), location: None }
    }
}

/// What a transaction gives for an answer. The writer is one thread for all callers: only an answer that is to be kept
/// is put into JSON there.
enum Made<T> {
    New(Answer<T>),
    Kept(FirstAnswer),
    Repeated(FirstAnswer),
    /// What was written stays, and yet the call is refused.
    Refused(Error),
}

/// Runs a writing operation. With an `Idempotency-Key`, a repetition gives the first answer and does nothing.
pub async fn write<T, F>(app: &Arc<App>, caller: Caller, call: Option<Repeatable>, body: F) -> Result<Response, Fault>
where
    T: Serialize + Send + 'static,
    F: FnOnce(&mut Tx, &Caller) -> Result<Answer<T>> + Send + 'static,
{
    write_or_refuse(app, caller, call, move |tx, caller| body(tx, caller).map(Ok)).await
}

/// The same for an operation that may refuse and yet keep what it has written: its inner result.
pub async fn write_or_refuse<T, F>(
    app: &Arc<App>,
    caller: Caller,
    call: Option<Repeatable>,
    body: F,
) -> Result<Response, Fault>
where
    T: Serialize + Send + 'static,
    F: FnOnce(&mut Tx, &Caller) -> Result<Result<Answer<T>>> + Send + 'static,
{
    let secrets = Arc::clone(&app.secrets);
    let account = caller.account;
    let made = app
        .db
        .write(account, move |tx| {
            let Some(call) = &call else { return Ok(body(tx, &caller)?.map_or_else(Made::Refused, Made::New)) };
            if let Some(first) = idempotency::find(tx, &caller, call, &secrets)? {
                return Ok(Made::Repeated(first));
            }
            let answer = match body(tx, &caller)? {
                Ok(answer) => answer,
                Err(refusal) => return Ok(Made::Refused(refusal)),
            };
            let first = first_answer(answer)?;
            idempotency::keep(tx, &caller, call, &first, &secrets)?;
            Ok(Made::Kept(first))
        })
        .await?;
    Ok(match made {
        Made::New(new) => answer(new)?,
        Made::Kept(first) => response(first, false),
        Made::Repeated(first) => response(first, true),
        Made::Refused(refusal) => return Err(refusal.into()),
    })
}

/// Runs a writing operation that answers nothing.
pub async fn carry_out<F>(app: &Arc<App>, caller: Caller, body: F) -> Result<Response, Fault>
where
    F: FnOnce(&mut Tx, &Caller) -> Result<()> + Send + 'static,
{
    write(app, caller, None, move |tx, caller| body(tx, caller).map(|()| Answer::done())).await
}

/// Deletes an object with all that belongs to it: `page` deletes some of it and says whether nothing is left.
pub async fn delete_in_pages<F>(app: &App, caller: Caller, page: F) -> Result<Response, Fault>
where
    F: Fn(&mut Tx, &Caller) -> Result<bool> + Send + Sync + 'static,
{
    let (account, asking) = (caller.account, Arc::new((caller, page)));
    loop {
        let asking = Arc::clone(&asking);
        if app.db.write(account, move |tx| (asking.1)(tx, &asking.0)).await? {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    }
}

/// An answer that nobody will repeat.
pub fn answer<T: Serialize>(answer: Answer<T>) -> Result<Response> {
    Ok(response(first_answer(answer)?, false))
}

fn first_answer<T: Serialize>(answer: Answer<T>) -> Result<FirstAnswer> {
    let body = to_json(answer.status, &answer.body)?;
    Ok(FirstAnswer { status: answer.status.as_u16(), location: answer.location, body })
}

/// The first answer, if the call is a repetition: for calls that look at the world before their transaction. The world
/// may have changed since the first call, which must not change its answer.
pub fn replay(app: &App, caller: &Caller, call: Option<&Repeatable>) -> Result<Option<Response>> {
    let Some(call) = call else { return Ok(None) };
    let first = app.db.read(caller.account, |reading| idempotency::find(reading, caller, call, &app.secrets))?;
    Ok(first.map(|first| response(first, true)))
}

fn to_json<T: Serialize>(status: StatusCode, body: &T) -> Result<Vec<u8>> {
    if status == StatusCode::NO_CONTENT {
        return Ok(Vec::new());
    }
    serde_json::to_vec(body).map_err(|error| Error::Internal(format!("an answer cannot be written: {error}")))
}

fn response(answer: FirstAnswer, replayed: bool) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let empty = answer.body.is_empty();
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if !empty {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if let Some(location) = answer.location.and_then(|text| HeaderValue::from_str(&text).ok()) {
        headers.insert(header::LOCATION, location);
    }
    if replayed {
        headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    response
}
