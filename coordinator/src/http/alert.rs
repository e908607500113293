//! Alerts over HTTP.

use std::sync::Arc;

use axum::{Json, extract::State, response::Response};
use drover_protocol::{
    RaisedAlertId,
    alert::{
        AcknowledgeAlert, Acknowledgement, Alert, AlertChannel, AlertPatch, AlertSubject, NewAlert, RaisedAlert,
        RaisedFilter,
    },
    event::Event,
    page::{Page, PageQuery},
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
        alert::{Channel, Raised},
    },
    operations::{Caller, alert},
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_alerts, create_alert))
        .routes(routes!(list_raised_alerts))
        .routes(routes!(acknowledge_alert))
        .routes(routes!(get_alert, update_alert, delete_alert))
        .routes(routes!(list_alert_events))
}

fn view(alert: domain::alert::Alert) -> Alert {
    let channel = |channel: Channel| match channel {
        Channel::Email(addresses) => AlertChannel { email: Some(addresses), ..AlertChannel::default() },
        Channel::Webhook(id) => AlertChannel { webhook: Some(id.to_string()), ..AlertChannel::default() },
        Channel::Console => AlertChannel { console: Some(true), ..AlertChannel::default() },
    };
    Alert {
        id: alert.id,
        name: alert.name,
        description: alert.description,
        enabled: alert.enabled,
        when: alert.when,
        process_id: alert.process_id,
        queue_id: alert.queue_id,
        group_id: alert.group_id,
        after_seconds: alert.after_seconds,
        channels: alert.channels.into_iter().map(channel).collect(),
        created_at: alert.created_at,
        revision: alert.revision,
    }
}

/// What was raised, as people see it.
pub fn raised_view(raised: Raised) -> RaisedAlert {
    let state = raised.state();
    let (ended_at, ended_because) = raised.ended.unzip();
    RaisedAlert {
        id: raised.id,
        alert_id: raised.alert_id,
        alert_name: raised.alert_name,
        when: raised.when,
        state,
        subject: AlertSubject { noun: raised.subject.noun, id: raised.subject.id, name: raised.subject.name },
        text: raised.text,
        count: raised.count,
        raised_at: raised.raised_at,
        last_at: raised.last_at,
        ended_at,
        ended_because,
        acknowledged: raised.acknowledged.map(|seen| Acknowledgement { at: seen.at, by: seen.by, note: seen.note }),
    }
}

/// Alert rules, newest first
#[utoipa::path(get, path = "/alerts", tag = "Alert", params(PageQuery), responses((status = 200, body = Page<Alert>)))]
async fn list_alerts(
    State(app): State<Arc<App>>,
    caller: Caller,
    ListQuery(query, NoFilter {}): ListQuery<NoFilter>,
) -> Result<Json<Page<Alert>>, Fault> {
    let found = app.db.read(caller.account, |reading| alert::list(reading, &caller, &query))?;
    Ok(page::page(found, view))
}

/// Make an alert rule
///
/// `when` says what it watches, and `process`, `queue`, `group` and `after_seconds` narrow that. For each object that it
/// concerns it is raised once, until it is over for that object; then it can be raised again. Whoever is named in
/// `channels` is told when it is raised.
#[utoipa::path(post, path = "/alerts", tag = "Alert", request_body = NewAlert, params(Call),
    responses((status = 201, body = Alert)))]
async fn create_alert(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Posted<NewAlert>,
) -> Result<Response, Fault> {
    let can_mail = app.mail.is_known();
    once::write(&app, caller, request.call, move |tx, caller| {
        let made = alert::create(tx, caller, &request.body, can_mail)?;
        let path = format!("/alerts/{}", made.id);
        Ok(Answer::created(view(made), path))
    })
    .await
}

/// What alerts have raised, newest first
#[utoipa::path(get, path = "/alerts/raised", tag = "Alert", params(PageQuery, RaisedFilter),
    responses((status = 200, body = Page<RaisedAlert>)))]
async fn list_raised_alerts(
    State(app): State<Arc<App>>,
    caller: Caller,
    ListQuery(query, filter): ListQuery<RaisedFilter>,
) -> Result<Json<Page<RaisedAlert>>, Fault> {
    let found = app.db.read(caller.account, |reading| alert::raised(reading, &caller, &filter, &query))?;
    Ok(page::page(found, raised_view))
}

/// Say that somebody has seen to it
///
/// Where nothing else will say that it is over (jobs that failed or were lost, triggers that missed) it ends by that.
#[utoipa::path(post, path = "/alerts/raised/{raised}/acknowledge", tag = "Alert",
    request_body = Option<AcknowledgeAlert>, params(("raised" = String, Path, description = "Id"), Call),
    responses((status = 200, body = RaisedAlert)))]
async fn acknowledge_alert(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    MaybePosted(request): MaybePosted<AcknowledgeAlert>,
) -> Result<Response, Fault> {
    let id: RaisedAlertId = id(&text, "raised alert")?;
    once::write(&app, caller, request.call, move |tx, caller| {
        Ok(Answer::ok(raised_view(alert::acknowledge(tx, caller, id, &request.body)?)))
    })
    .await
}

/// An alert rule
#[utoipa::path(get, path = "/alerts/{alert}", tag = "Alert",
    params(("alert" = String, Path, description = "Id or name")), responses((status = 200, body = Alert)))]
async fn get_alert(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
) -> Result<Json<Alert>, Fault> {
    let found = app.db.read(caller.account, |reading| alert::get(reading, &caller, &text))?;
    Ok(Json(view(found)))
}

/// Change an alert rule
///
/// What it watches stays. When it is disabled, all that it has raised is over.
#[utoipa::path(patch, path = "/alerts/{alert}", tag = "Alert", request_body = AlertPatch,
    params(("alert" = String, Path, description = "Id or name"), IfMatch), responses((status = 200, body = Alert)))]
async fn update_alert(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
    Body(patch): Body<AlertPatch>,
) -> Result<Response, Fault> {
    let can_mail = app.mail.is_known();
    once::write(&app, caller, None, move |tx, caller| {
        Ok(Answer::ok(view(alert::update(tx, caller, &text, &patch, revision, can_mail)?)))
    })
    .await
}

/// Delete an alert rule with all that it has raised
#[utoipa::path(delete, path = "/alerts/{alert}", tag = "Alert",
    params(("alert" = String, Path, description = "Id or name"), IfMatch), responses((status = 204)))]
async fn delete_alert(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
) -> Result<Response, Fault> {
    once::delete_in_pages(&app, caller, move |tx, caller| alert::delete_page(tx, caller, &text, revision)).await
}

/// What happened to an alert rule, newest first
///
/// What people did to it, what it has raised, and what became of e-mails.
#[utoipa::path(get, path = "/alerts/{alert}/events", tag = "Alert",
    params(("alert" = String, Path, description = "Id or name"), PageQuery),
    responses((status = 200, body = Page<Event>)))]
async fn list_alert_events(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    ListQuery(query, NoFilter {}): ListQuery<NoFilter>,
) -> Result<Json<Page<Event>>, Fault> {
    page::events(&app, &caller, &query, |reading, caller| Ok(alert::get(reading, caller, &text)?.id.uuid()))
}
