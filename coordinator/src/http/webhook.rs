//! Webhooks over HTTP.

use std::sync::Arc;

use axum::{Json, extract::State, response::Response};
use drover_protocol::{
    DeliveryId, NewsId,
    event::Event,
    news::NewsType,
    page::{Page, PageQuery},
    webhook::{
        Delivery, DeliveryFilter, DeliveryTry, NewWebhook, RotateSecret, Webhook, WebhookPatch, WebhookTested,
        WebhookWithSecret,
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    extract::{Call, IfMatch, Json as Body, ListQuery, MaybePosted, NoFilter, Path, Posted, id},
    once::{self, Answer},
    page,
};
use crate::{
    app::App,
    domain::{
        self,
        news::{News, Subject},
    },
    operations::{
        Caller,
        webhook::{self, WithFaring},
    },
    webhook_client::Message,
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_webhooks, create_webhook))
        .routes(routes!(get_webhook, update_webhook, delete_webhook))
        .routes(routes!(rotate_webhook_secret))
        .routes(routes!(test_webhook))
        .routes(routes!(list_deliveries))
        .routes(routes!(replay_delivery))
        .routes(routes!(list_webhook_events))
}

fn view(WithFaring { webhook, faring }: WithFaring, now: drover_protocol::Timestamp) -> Webhook {
    Webhook {
        id: webhook.id,
        name: webhook.name,
        description: webhook.description,
        url: webhook.url,
        events: webhook.events.into_iter().collect(),
        enabled: webhook.enabled,
        disabled_because: webhook.disabled_because,
        waiting: faring.waiting,
        last_delivered_at: faring.last_delivered_at,
        failing_since: faring.failing_since,
        old_secret_until: webhook.old_secret.map(|(_, until)| until).filter(|until| now < *until),
        created_at: webhook.created_at,
        revision: webhook.revision,
    }
}

fn delivery_view(delivery: domain::webhook::Delivery) -> Delivery {
    let tries = delivery.tries.into_iter().map(|one| DeliveryTry {
        at: one.at,
        latency_ms: one.latency_ms,
        status: one.status,
        error: one.error,
    });
    Delivery {
        id: delivery.id,
        webhook_id: delivery.webhook_id,
        message_id: delivery.news.id.uuid(),
        event: delivery.news.kind,
        object_id: delivery.news.subject.id,
        state: delivery.state,
        created_at: delivery.created_at,
        next_try_at: delivery.next_try_at,
        tries: tries.collect(),
        answer: delivery.answer,
    }
}

/// Webhooks, newest first
#[utoipa::path(get, path = "/webhooks", tag = "Webhook", params(PageQuery),
    responses((status = 200, body = Page<Webhook>)))]
async fn list_webhooks(
    State(app): State<Arc<App>>,
    caller: Caller,
    ListQuery(query, NoFilter {}): ListQuery<NoFilter>,
) -> Result<Json<Page<Webhook>>, Fault> {
    let found = app.db.read(caller.account, |reading| webhook::list(reading, &caller, &query))?;
    Ok(page::page(found, |webhook| view(webhook, app.db.now())))
}

/// Make a webhook
///
/// What happens from then on, of the types in `events`, is sent to `url`: a POST with a CloudEvent (1.0, structured) as its
/// body, signed as Standard Webhooks have it (headers `webhook-id`, `webhook-timestamp`, `webhook-signature`) with the
/// `secret` that only this answer shows. What is not answered with 2xx is tried again, first after 5 s and then after twice
/// as long each time, at most an hour, for 24 hours; `webhook-id` stays the same. The answer 410 disables the webhook.
/// Addresses of the coordinator's host and of private networks are only called if the operator allows it.
#[utoipa::path(post, path = "/webhooks", tag = "Webhook", request_body = NewWebhook, params(Call),
    responses((status = 201, body = WebhookWithSecret)))]
async fn create_webhook(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Posted<NewWebhook>,
) -> Result<Response, Fault> {
    let (now, secrets) = (app.db.now(), Arc::clone(&app.secrets));
    once::write(&app, caller, request.call, move |tx, caller| {
        let (made, secret) = webhook::create(tx, caller, &request.body, &secrets)?;
        let path = format!("/webhooks/{}", made.webhook.id);
        Ok(Answer::created(WebhookWithSecret { webhook: view(made, now), secret }, path))
    })
    .await
}

/// A webhook
#[utoipa::path(get, path = "/webhooks/{webhook}", tag = "Webhook",
    params(("webhook" = String, Path, description = "Id or name")), responses((status = 200, body = Webhook)))]
async fn get_webhook(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
) -> Result<Json<Webhook>, Fault> {
    let found = app.db.read(caller.account, |reading| webhook::get(reading, &caller, &text))?;
    Ok(Json(view(found, app.db.now())))
}

/// Change a webhook
///
/// A disabled one is sent nothing, and what happens meanwhile is not made up for; what was on its way goes on when it is
/// enabled again.
#[utoipa::path(patch, path = "/webhooks/{webhook}", tag = "Webhook", request_body = WebhookPatch,
    params(("webhook" = String, Path, description = "Id or name"), IfMatch), responses((status = 200, body = Webhook)))]
async fn update_webhook(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
    Body(patch): Body<WebhookPatch>,
) -> Result<Response, Fault> {
    let now = app.db.now();
    once::write(&app, caller, None, move |tx, caller| {
        Ok(Answer::ok(view(webhook::update(tx, caller, &text, &patch, revision)?, now)))
    })
    .await
}

/// Delete a webhook with its deliveries
#[utoipa::path(delete, path = "/webhooks/{webhook}", tag = "Webhook",
    params(("webhook" = String, Path, description = "Id or name"), IfMatch), responses((status = 204)))]
async fn delete_webhook(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
) -> Result<Response, Fault> {
    once::delete_in_pages(&app, caller, move |tx, caller| webhook::delete_page(tx, caller, &text, revision)).await
}

/// Give a webhook a new secret
///
/// Only this answer shows it. For `grace_seconds` (a day if absent) deliveries are signed with the old one as well.
#[utoipa::path(post, path = "/webhooks/{webhook}/rotate-secret", tag = "Webhook",
    request_body = Option<RotateSecret>, params(("webhook" = String, Path, description = "Id or name"), Call),
    responses((status = 200, body = WebhookWithSecret)))]
async fn rotate_webhook_secret(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    MaybePosted(request): MaybePosted<RotateSecret>,
) -> Result<Response, Fault> {
    let (now, secrets) = (app.db.now(), Arc::clone(&app.secrets));
    once::write(&app, caller, request.call, move |tx, caller| {
        let (changed, secret) = webhook::rotate_secret(tx, caller, &text, &request.body, &secrets)?;
        Ok(Answer::ok(WebhookWithSecret { webhook: view(changed, now), secret }))
    })
    .await
}

/// Send a test
///
/// Sends an event of the type `webhook.test` at once and answers how the receiver took it. It is not tried again, and is
/// sent to a disabled webhook as well.
#[utoipa::path(post, path = "/webhooks/{webhook}/test", tag = "Webhook",
    params(("webhook" = String, Path, description = "Id or name"), Call), responses((status = 200, body = WebhookTested)))]
async fn test_webhook(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    Call(call): Call,
) -> Result<Response, Fault> {
    if let Some(first) = once::replay(&app, &caller, call.as_ref())? {
        return Ok(first);
    }
    let found = app.db.read(caller.account, |reading| webhook::for_testing(reading, &caller, &text))?;
    let (now, news) = (app.db.now(), test_news(&app, &found));
    let secrets = webhook::signing_secrets(&found, &app.secrets, now)?;
    let message = Message {
        root: &app.rules.public_url,
        account: caller.account,
        kind: "webhook.test",
        news: &news,
        secrets: &secrets,
        now,
    };
    let outcome = app.webhooks.send(&found, &message).await?;
    once::write(&app, caller, call, move |tx, caller| {
        webhook::note_test(tx, caller, &found, &outcome)?;
        Ok(Answer::ok(WebhookTested {
            delivered: outcome.error.is_none(),
            latency_ms: outcome.latency_ms,
            status: outcome.status,
            error: outcome.error,
            answer: outcome.answer,
        }))
    })
    .await
}

/// Something to tell that has not happened.
fn test_news(app: &App, webhook: &domain::webhook::Webhook) -> News {
    News {
        id: NewsId::from_uuid(app.db.new_id()),
        // The message says its own type; this one is only kept with news that wait.
        kind: NewsType::AlertRaised,
        at: app.db.now(),
        subject: Subject::new("webhook", webhook.id.uuid(), Some(&webhook.name)),
        data: Default::default(),
    }
}

/// Deliveries of a webhook, newest first
///
/// Each with its tries: status, latency, why it does not count, and the first KiB of the last answer. They are kept for
/// some days.
#[utoipa::path(get, path = "/webhooks/{webhook}/deliveries", tag = "Webhook",
    params(("webhook" = String, Path, description = "Id or name"), PageQuery, DeliveryFilter),
    responses((status = 200, body = Page<Delivery>)))]
async fn list_deliveries(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    ListQuery(query, filter): ListQuery<DeliveryFilter>,
) -> Result<Json<Page<Delivery>>, Fault> {
    let found = app.db.read(caller.account, |reading| webhook::deliveries(reading, &caller, &text, &filter, &query))?;
    Ok(page::page(found, delivery_view))
}

/// Send a delivery again
///
/// Whatever became of it. It has the same `webhook-id`, and is tried for another 24 hours.
#[utoipa::path(post, path = "/webhooks/{webhook}/deliveries/{delivery}/replay", tag = "Webhook",
    params(("webhook" = String, Path, description = "Id or name"), ("delivery" = String, Path, description = "Id"), Call),
    responses((status = 200, body = Delivery)))]
async fn replay_delivery(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((text, delivery)): Path<(String, String)>,
    Call(call): Call,
) -> Result<Response, Fault> {
    let id: DeliveryId = id(&delivery, "delivery")?;
    once::write(&app, caller, call, move |tx, caller| {
        Ok(Answer::ok(delivery_view(webhook::replay(tx, caller, &text, id)?)))
    })
    .await
}

/// What happened to a webhook, newest first
///
/// What people did to it, and what the coordinator decided: deliveries that were given up, and why it was disabled.
#[utoipa::path(get, path = "/webhooks/{webhook}/events", tag = "Webhook",
    params(("webhook" = String, Path, description = "Id or name"), PageQuery),
    responses((status = 200, body = Page<Event>)))]
async fn list_webhook_events(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    ListQuery(query, NoFilter {}): ListQuery<NoFilter>,
) -> Result<Json<Page<Event>>, Fault> {
    page::events(&app, &caller, &query, |reading, caller| Ok(webhook::get(reading, caller, &text)?.webhook.id.uuid()))
}
