//! Calls to triggers of the kind webhook: from outside, without a key, each trigger with its own proof.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use drover_protocol::{
    AccountId, JobId, TriggerId,
    job::JobState,
    json::{too_long_number, too_long_text},
    trigger::{Decision, HookAnswer, HookMode, HookQuery},
};
use serde_json::{Map, Value};
use tokio::time::Instant;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    extract::{Path, Query, whole_body},
    job,
};
use crate::{
    app::App,
    domain::trigger::{
        Fire, Rule, Trigger,
        by_webhook::{MAX_MESSAGE_ID_CHARS, occasion_of},
    },
    drafting,
    error::{Error, Result},
    operations::{
        job::MAX_JSON_BYTES,
        trigger::by_webhook::{self, Proof},
        trigger_fire::{self, Occasion, Ready},
    },
    store::{Topic, key::SYSTEM_ACCOUNT, table},
};

const DEFAULT_WAIT_SECONDS: u64 = 30;
const MAX_WAIT_SECONDS: u64 = 60;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(call_webhook))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim()
}

fn proof(headers: &HeaderMap) -> Proof<'_> {
    let authorization = text(headers, header::AUTHORIZATION.as_str());
    let bearer = match authorization.split_once(' ') {
        Some((scheme, secret)) if scheme.eq_ignore_ascii_case("bearer") => secret.trim(),
        _ => "",
    };
    Proof {
        message_id: text(headers, "webhook-id"),
        timestamp: text(headers, "webhook-timestamp"),
        signatures: text(headers, "webhook-signature"),
        bearer,
    }
}

/// By what a call is known again.
fn occasion(trigger: TriggerId, headers: &HeaderMap) -> Result<Occasion> {
    let names = ["webhook-id", "idempotency-key"];
    let id = names.into_iter().map(|name| text(headers, name)).find(|id| !id.is_empty());
    if id.is_some_and(|id| id.len() > MAX_MESSAGE_ID_CHARS) {
        let detail = format!("webhook-id and Idempotency-Key have at most {MAX_MESSAGE_ID_CHARS} characters");
        return Err(Error::BadRequest(detail));
    }
    let id = id.map(|id| occasion_of(trigger, "message", id.as_bytes()));
    Ok(Occasion { id, why: "it was called".to_owned(), comes_again: true, event_id: None, chain: 0 })
}

/// The members of a body; none at all is an empty object.
fn members(body: &[u8]) -> Result<Map<String, Value>> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    let members = serde_json::from_slice(body).map_err(|error| {
        Error::invalid("", format!("the body must be a JSON object, it becomes the job's input: {error}"))
    })?;
    match too_long_number(body) {
        Some(number) => Err(Error::invalid("", too_long_text(number))),
        None => Ok(members),
    }
}

/// Call a trigger of the kind webhook
///
/// The address is that of the trigger's `url`; no API key is needed. By the trigger's `auth` the call proves itself by a
/// signature as Standard Webhooks makes it, by `Authorization: Bearer <secret>`, or not at all. The body, a JSON object of
/// at most 1 MiB, becomes the input of the job, over the trigger's own. A call with a `webhook-id` (or `Idempotency-Key`)
/// that has started a job before is told of that job and starts no other. In mode `async` the answer is 202; in mode `sync`
/// it is 200 when the job has finished, however it has ended, and 202 if that takes longer than `wait_seconds`. What the
/// trigger's rules do not allow now is answered with 409 and starts nothing.
#[utoipa::path(post, path = "/hooks/{hook}", tag = "Trigger", security(()),
    params(("hook" = String, Path, description = "As it stands in the trigger's `url`"), HookQuery,
        ("webhook-id" = Option<String>, Header, description = "Id of the message: the same one fires once"),
        ("webhook-timestamp" = Option<String>, Header, description = "When it was sent, in seconds since 1970"),
        ("webhook-signature" = Option<String>, Header,
            description = "`v1,` and the signature in Base64; several between spaces")),
    request_body(content = Object, content_type = "application/json", example = json!({ "invoice": 1007 })),
    responses((status = 200, body = HookAnswer, description = "The job has finished."),
        (status = 202, body = HookAnswer, description = "The job is there.")))]
async fn call_webhook(
    State(app): State<Arc<App>>,
    Path(token): Path<String>,
    Query(query): Query<HookQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Fault> {
    let find = || app.db.read(SYSTEM_ACCOUNT, |reading| by_webhook::find(reading, &token, &app.secrets));
    find()?;
    let body = whole_body(body, MAX_JSON_BYTES).await?;
    // It may have changed while the body came.
    let (account, trigger) = find()?;
    app.db
        .read(account, |reading| by_webhook::authenticate(reading, &trigger, &proof(&headers), &body, &app.secrets))?;
    let wait_seconds = query.wait_seconds.unwrap_or(DEFAULT_WAIT_SECONDS);
    if wait_seconds > MAX_WAIT_SECONDS {
        return Err(Error::invalid("wait_seconds", format!("must be from 0 to {MAX_WAIT_SECONDS}")).into());
    }
    if !trigger.enabled {
        return Err(Error::wrong_state("the trigger of this webhook is disabled; enable it to have it fire").into());
    }
    let mode = match &trigger.rule {
        Rule::Webhook(webhook) => webhook.settings.mode,
        _ => HookMode::Async,
    };
    let occasion = occasion(trigger.id, &headers)?;
    let (row, repeated) = fired(&app, account, trigger, occasion, &body).await?;
    if row.decision != Decision::Fired {
        return Err(Error::wrong_state(format!("no job was started: {}", row.reason)).into());
    }
    let answer = HookAnswer { job_ids: row.job_ids, repeated, state: None, outcome: None, output: None, error: None };
    match (mode, answer.job_ids.first().copied()) {
        (HookMode::Sync, Some(job)) => ended(&app, account, job, Duration::from_secs(wait_seconds), answer).await,
        _ => Ok((StatusCode::ACCEPTED, Json(answer)).into_response()),
    }
}

/// Lets the trigger fire, unless it has done so for this call. What stands in its way is written down as well.
async fn fired(
    app: &App,
    account: AccountId,
    trigger: Trigger,
    occasion: Occasion,
    body: &[u8],
) -> Result<(Fire, bool), Fault> {
    let id = trigger.id;
    let known = app.db.read(account, |reading| trigger_fire::known(reading, id, &occasion))?;
    if let Some(row) = known {
        return Ok((row, true));
    }
    let input = members(body)?;
    let now = app.db.now();
    let new = trigger_fire::request_with(&trigger, input, now);
    let checked = drafting::checked(app, account, |reading| trigger_fire::draft(reading, &trigger, &new)).await;
    let (ready, refusal): (Ready, Option<Error>) = match checked {
        Ok(checked) => (Ok((new, checked)), None),
        Err(error) => (Err(trigger_fire::cannot(error.clone())?), Some(error)),
    };
    let leases = app.rules.leases;
    let (row, repeated) =
        app.db.write(account, move |tx| trigger_fire::fire_once(tx, id, &occasion, &ready, &leases)).await?;
    match refusal.filter(|_| row.decision == Decision::Failed) {
        Some(refusal) => Err(refusal.into()),
        None => Ok((row, repeated)),
    }
}

/// The answer when the job has finished, or as it is when the time is over.
async fn ended(
    app: &App,
    account: AccountId,
    id: JobId,
    time: Duration,
    mut answer: HookAnswer,
) -> Result<Response, Fault> {
    let ends_at = Instant::now() + time;
    let watch = app.db.watch(&[Topic::Job(id)]);
    let read = || app.db.read(account, |reading| job::full_view(reading, table::get(reading, id)?));
    let mut job = read()?;
    while job.state != JobState::Finished {
        tokio::select! {
            biased;
            () = app.stopping.cancelled() => break,
            () = watch.woken() => job = read()?,
            () = tokio::time::sleep_until(ends_at) => break,
        }
    }
    let status = if job.state == JobState::Finished { StatusCode::OK } else { StatusCode::ACCEPTED };
    (answer.state, answer.outcome) = (Some(job.state), job.outcome);
    (answer.output, answer.error) = (job.output, job.error);
    Ok((status, Json(answer)).into_response())
}
