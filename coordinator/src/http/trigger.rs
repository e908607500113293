//! Triggers.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json,
    extract::{FromRequestParts, State},
    http::{HeaderMap, Uri, header, request::Parts},
    response::Response,
};
use drover_protocol::{
    API_BASE, AccountId,
    event::Event,
    job::{Job, Target},
    page::{Items, Page, PageQuery},
    trigger::{
        Backfill, Backfilled, CronDialect, Fire, HistoryFilter, NewTrigger, PlannedFire, PreviewQuery,
        RotateHookSecret, RotatedSecret, ScheduleView, Trigger, TriggerFilter, TriggerPatch,
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    extract::{Call, IfMatch, Json as Body, ListQuery, MaybePosted, NoFilter, Path, Posted, Query},
    job, link,
    once::{self, Answer},
    page,
};
use crate::{
    app::App,
    domain::{
        self,
        job::Target as JobTarget,
        schedule::{Language, Timetable},
        trigger::Rule,
    },
    drafting::{self, Checked},
    error::Result as OperationResult,
    operations::{
        Caller,
        trigger::{self, by_webhook},
        trigger_fire,
    },
    secrets::Secrets,
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_triggers, create_trigger))
        .routes(routes!(get_trigger, update_trigger, delete_trigger))
        .routes(routes!(enable_trigger))
        .routes(routes!(disable_trigger))
        .routes(routes!(fire_trigger))
        .routes(routes!(rotate_trigger_secret))
        .routes(routes!(preview_trigger))
        .routes(routes!(list_fires))
        .routes(routes!(backfill_trigger))
        .routes(routes!(list_trigger_events))
}

impl FromRequestParts<Arc<App>> for Language {
    type Rejection = Infallible;

    /// The best of our languages by `Accept-Language`; English for everybody else.
    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Infallible> {
        let text = parts.headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        Ok(language_of(text))
    }
}

fn language_of(accepted: &str) -> Language {
    let weighed = accepted.split(',').filter_map(|part| {
        let (tag, parameters) = part.split_once(';').unwrap_or((part, ""));
        let weight = parameters.trim().strip_prefix("q=").map_or(Some(1.0), |q| q.trim().parse::<f32>().ok())?;
        let primary = tag.trim().split('-').next().unwrap_or_default().to_ascii_lowercase();
        let language = match primary.as_str() {
            "ru" => Language::Russian,
            "en" => Language::English,
            _ => return None,
        };
        (weight > 0.0).then_some((weight, language))
    });
    // Of equals the first one counts.
    let best = weighed.reduce(|best, other| if other.0 > best.0 { other } else { best });
    best.map_or(Language::English, |(_, language)| language)
}

/// A trigger; its schedule is told in the caller's language.
pub fn view(trigger: domain::trigger::Trigger, language: Language, now: drover_protocol::Timestamp) -> Trigger {
    let target = match trigger.target {
        JobTarget::Robot(robot) => Target { robot: Some(robot.to_string()), group: None },
        JobTarget::Group(group) => Target { robot: None, group: Some(group.to_string()) },
    };
    let paused_because = trigger.paused_because(now);
    let next_fire_at = trigger.next_fire_at.filter(|_| paused_because.is_none() || !trigger.is_used_up());
    let kind = trigger.rule.kind();
    let time_zone = match &trigger.rule {
        Rule::Schedule { schedule, .. } => schedule.time_zone.clone(),
        _ => trigger.time_zone.clone().unwrap_or_else(|| "UTC".to_owned()),
    };
    let (mut schedule, mut continuous, mut queue) = (None, None, None);
    let (mut webhook, mut event, mut mail) = (None, None, None);
    match &trigger.rule {
        Rule::Schedule { .. } => schedule = schedule_view(&trigger, language),
        Rule::Continuous(settings) => continuous = Some(settings.clone()),
        Rule::Queue { settings, .. } => queue = Some(settings.clone()),
        Rule::Webhook(hook) => webhook = Some(hook.settings.clone()),
        Rule::Event(settings) => event = Some(settings.clone()),
        Rule::Mail(settings) => mail = Some(settings.clone()),
    }
    Trigger {
        id: trigger.id,
        name: trigger.name,
        description: trigger.description,
        enabled: trigger.enabled,
        process_id: trigger.process_id,
        target,
        priority: trigger.priority,
        input: trigger.input,
        max_parallel: trigger.max_parallel,
        overlap: trigger.overlap,
        valid_from: trigger.valid_from,
        valid_to: trigger.valid_to,
        window: trigger.window,
        time_zone,
        calendar: trigger.calendar,
        non_working_days: trigger.non_working_days,
        max_runs: trigger.max_runs,
        max_runs_per_month: trigger.max_runs_per_month,
        stop_after_seconds: trigger.stop_after_seconds,
        abort_after_seconds: trigger.abort_after_seconds,
        busy: trigger.busy,
        kind,
        schedule,
        continuous,
        queue,
        webhook,
        event,
        mail,
        url: None,
        secret: None,
        fired_count: trigger.fired_count,
        last_fired_at: trigger.last_fired_at,
        next_fire_at,
        buffered: u32::try_from(trigger.buffered.len()).unwrap_or(u32::MAX),
        paused_because,
        created_at: trigger.created_at,
        revision: trigger.revision,
    }
}

/// Where a webhook is called, for those who may know.
fn address(
    account: AccountId,
    caller: &Caller,
    trigger: &domain::trigger::Trigger,
    base: &str,
    secrets: &Secrets,
) -> OperationResult<Option<String>> {
    let token = by_webhook::token(account, caller, trigger, secrets)?;
    Ok(token.map(|token| format!("{base}{API_BASE}/hooks/{token}")))
}

fn schedule_view(trigger: &domain::trigger::Trigger, language: Language) -> Option<ScheduleView> {
    let Rule::Schedule { schedule, anchor } = &trigger.rule else { return None };
    let understood = trigger.span().ok().and_then(|span| Timetable::of(schedule, span, *anchor, None).ok());
    let (cron_text, dialect) = match understood {
        Some((timetable, dialect)) => (timetable.in_words(schedule, language), dialect),
        None => (String::new(), CronDialect::Auto),
    };
    let schedule = schedule.clone();
    Some(ScheduleView {
        cron: schedule.cron,
        cron_text,
        interval_seconds: schedule.interval_seconds,
        monthly: schedule.monthly,
        dialect,
        time_zone: schedule.time_zone,
        missing_hour: schedule.missing_hour,
        repeated_hour: schedule.repeated_hour,
        catch_up: schedule.catch_up,
        catch_up_window_seconds: schedule.catch_up_window_seconds,
    })
}

fn fire_view(fire: domain::trigger::Fire) -> Fire {
    Fire {
        instant: fire.instant,
        decided_at: fire.decided_at,
        decision: fire.decision,
        reason: fire.reason,
        job_ids: fire.job_ids,
        count: fire.count,
        until: fire.until,
        event_id: fire.event_id,
    }
}

/// Triggers, newest first
#[utoipa::path(get, path = "/triggers", tag = "Trigger", params(PageQuery, TriggerFilter),
    responses((status = 200, body = Page<Trigger>)))]
async fn list_triggers(
    State(app): State<Arc<App>>,
    caller: Caller,
    language: Language,
    ListQuery(query, filter): ListQuery<TriggerFilter>,
) -> Result<Json<Page<Trigger>>, Fault> {
    let found = app.db.read(caller.account, |reading| trigger::list(reading, &caller, &filter, &query))?;
    Ok(page::page(found, |trigger| view(trigger, language, app.db.now())))
}

/// Make a trigger
///
/// `kind` says by what it fires; the member of the same name holds the settings of that kind. A schedule that would never
/// fire is refused. The `secret` of a webhook is told here and nowhere else.
#[utoipa::path(post, path = "/triggers", tag = "Trigger", request_body = NewTrigger,
    params(Call),
    responses((status = 201, body = Trigger)))]
async fn create_trigger(
    State(app): State<Arc<App>>,
    caller: Caller,
    language: Language,
    uri: Uri,
    headers: HeaderMap,
    request: Posted<NewTrigger>,
) -> Result<Response, Fault> {
    let now = app.db.now();
    let (base, secrets) = (link::base(&app, &uri, &headers), Arc::clone(&app.secrets));
    once::write(&app, caller, request.call, move |tx, caller| {
        let trigger = trigger::create(tx, caller, &request.body, &secrets)?;
        let path = format!("/triggers/{}", trigger.id);
        let url = address(caller.account, caller, &trigger, &base, &secrets)?;
        let secret = by_webhook::secret(caller.account, &trigger, &secrets)?;
        Ok(Answer::created(Trigger { url, secret, ..view(trigger, language, now) }, path))
    })
    .await
}

/// A trigger
#[utoipa::path(get, path = "/triggers/{trigger}", tag = "Trigger",
    params(("trigger" = String, Path, description = "Id or name")), responses((status = 200, body = Trigger)))]
async fn get_trigger(
    State(app): State<Arc<App>>,
    caller: Caller,
    language: Language,
    Path(text): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<Trigger>, Fault> {
    let trigger = app.db.read(caller.account, |reading| trigger::get(reading, &caller, &text))?;
    let url = address(caller.account, &caller, &trigger, &link::base(&app, &uri, &headers), &app.secrets)?;
    Ok(Json(Trigger { url, ..view(trigger, language, app.db.now()) }))
}

/// Change a trigger
///
/// Its kind stays. Instants are reckoned anew when its schedule, validity or window changes; one that was decided before is
/// not decided again.
#[utoipa::path(patch, path = "/triggers/{trigger}", tag = "Trigger", request_body = TriggerPatch,
    params(("trigger" = String, Path, description = "Id or name"), IfMatch), responses((status = 200, body = Trigger)))]
async fn update_trigger(
    State(app): State<Arc<App>>,
    caller: Caller,
    language: Language,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
    Body(patch): Body<TriggerPatch>,
) -> Result<Response, Fault> {
    let now = app.db.now();
    once::write(&app, caller, None, move |tx, caller| {
        Ok(Answer::ok(view(trigger::update(tx, caller, &text, &patch, revision)?, language, now)))
    })
    .await
}

/// Delete a trigger with its history
///
/// The jobs that it has started stay.
#[utoipa::path(delete, path = "/triggers/{trigger}", tag = "Trigger",
    params(("trigger" = String, Path, description = "Id or name"), IfMatch), responses((status = 204)))]
async fn delete_trigger(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
) -> Result<Response, Fault> {
    once::delete_in_pages(&app, caller, move |tx, caller| trigger::delete_page(tx, caller, &text, revision)).await
}

async fn set_enabled(
    app: Arc<App>,
    caller: Caller,
    language: Language,
    text: String,
    call: Call,
    enabled: bool,
) -> Result<Response, Fault> {
    let now = app.db.now();
    once::write(&app, caller, call.0, move |tx, caller| {
        Ok(Answer::ok(view(trigger::set_enabled(tx, caller, &text, enabled)?, language, now)))
    })
    .await
}

/// Let a trigger fire
///
/// Instants that have passed while it was disabled are neither made up for nor missed.
#[utoipa::path(post, path = "/triggers/{trigger}/enable", tag = "Trigger",
    params(("trigger" = String, Path, description = "Id or name"), Call), responses((status = 200, body = Trigger)))]
async fn enable_trigger(
    State(app): State<Arc<App>>,
    caller: Caller,
    language: Language,
    Path(text): Path<String>,
    call: Call,
) -> Result<Response, Fault> {
    set_enabled(app, caller, language, text, call, true).await
}

/// Let a trigger fire no more
///
/// Instants that wait for the end of a job are skipped. Its jobs go on.
#[utoipa::path(post, path = "/triggers/{trigger}/disable", tag = "Trigger",
    params(("trigger" = String, Path, description = "Id or name"), Call), responses((status = 200, body = Trigger)))]
async fn disable_trigger(
    State(app): State<Arc<App>>,
    caller: Caller,
    language: Language,
    Path(text): Path<String>,
    call: Call,
) -> Result<Response, Fault> {
    set_enabled(app, caller, language, text, call, false).await
}

/// Start one job now
///
/// It is started whatever the trigger's limits say, and also if the trigger is disabled. The answer is the job.
#[utoipa::path(post, path = "/triggers/{trigger}/fire", tag = "Trigger",
    params(("trigger" = String, Path, description = "Id or name"), Call), responses((status = 201, body = Job)))]
async fn fire_trigger(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    call: Call,
) -> Result<Response, Fault> {
    if let Some(first) = once::replay(&app, &caller, call.0.as_ref())? {
        return Ok(first);
    }
    let found = app.db.read(caller.account, |reading| trigger_fire::for_firing(reading, &caller, &text))?;
    let new = trigger_fire::request(&found, app.db.now());
    let checked = drafting::checked(&app, caller.account, |reading| trigger_fire::draft(reading, &found, &new)).await?;
    once::write(&app, caller, call.0, move |tx, caller| {
        let job = trigger_fire::fire_now(tx, caller, found.id, &new, &checked)?;
        let path = format!("/jobs/{}", job.id);
        Ok(Answer::created(job::view(job), path))
    })
    .await
}

/// Change the secret of a webhook
///
/// The new secret is told here and nowhere else. The old one ends at once, or after `grace_seconds`. Of a webhook whose
/// `auth` is `none` the address is the secret: it gets a new one.
#[utoipa::path(post, path = "/triggers/{trigger}/rotate-secret", tag = "Trigger", request_body = Option<RotateHookSecret>,
    params(("trigger" = String, Path, description = "Id or name"), Call),
    responses((status = 200, body = RotatedSecret)))]
async fn rotate_trigger_secret(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    MaybePosted(request): MaybePosted<RotateHookSecret>,
) -> Result<Response, Fault> {
    let (base, secrets) = (link::base(&app, &uri, &headers), Arc::clone(&app.secrets));
    once::write(&app, caller, request.call, move |tx, caller| {
        let trigger = by_webhook::rotate(tx, caller, &text, &request.body, &secrets)?;
        let url = address(caller.account, caller, &trigger, &base, &secrets)?.unwrap_or_default();
        let secret = by_webhook::secret(caller.account, &trigger, &secrets)?;
        let old_secret_until = match &trigger.rule {
            Rule::Webhook(webhook) => webhook.old_secret.as_ref().map(|old| old.until),
            _ => None,
        };
        Ok(Answer::ok(RotatedSecret { url, secret, old_secret_until }))
    })
    .await
}

/// The fires to come
///
/// By the trigger's schedule, validity and window, as if it were enabled. Each is told as an instant and by the clock of
/// the zone; `note` says where a change of the clock has moved or repeated it. Kinds that have no times answer none.
#[utoipa::path(get, path = "/triggers/{trigger}/preview", tag = "Trigger",
    params(("trigger" = String, Path, description = "Id or name"), PreviewQuery),
    responses((status = 200, body = Items<PlannedFire>)))]
async fn preview_trigger(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    Query(query): Query<PreviewQuery>,
) -> Result<Json<Items<PlannedFire>>, Fault> {
    let items = app.db.read(caller.account, |reading| trigger::preview(reading, &caller, &text, &query))?;
    Ok(Json(Items { items }))
}

/// What became of a trigger's instants, newest first
///
/// Every fire, skip, miss and failure is a row with its reason. A long run of misses is one row, with their number.
#[utoipa::path(get, path = "/triggers/{trigger}/history", tag = "Trigger",
    params(("trigger" = String, Path, description = "Id or name"), PageQuery, HistoryFilter),
    responses((status = 200, body = Page<Fire>)))]
async fn list_fires(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    ListQuery(query, filter): ListQuery<HistoryFilter>,
) -> Result<Json<Page<Fire>>, Fault> {
    let found = app.db.read(caller.account, |reading| trigger::history(reading, &caller, &text, &filter, &query))?;
    Ok(page::page(found, fire_view))
}

/// Make up for instants of the past
///
/// Starts a job for each instant of the schedule from `from` until before `to` that has not fired. Those that have fired
/// are left alone, so that repeating the call is safe. At most 100 instants may lie between.
#[utoipa::path(post, path = "/triggers/{trigger}/backfill", tag = "Trigger", request_body = Backfill,
    params(("trigger" = String, Path, description = "Id or name"), Call),
    responses((status = 200, body = Backfilled)))]
async fn backfill_trigger(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    request: Posted<Backfill>,
) -> Result<Response, Fault> {
    if let Some(first) = once::replay(&app, &caller, request.call.as_ref())? {
        return Ok(first);
    }
    let (found, instants) = app.db.read(caller.account, |reading| {
        let found = trigger_fire::for_firing(reading, &caller, &text)?;
        let instants = trigger_fire::instants(reading, &found, &request.body)?;
        Ok((found, instants))
    })?;
    let new = trigger_fire::request(&found, app.db.now());
    let checked: Checked =
        drafting::checked(&app, caller.account, |reading| trigger_fire::draft(reading, &found, &new)).await?;
    once::write(&app, caller, request.call, move |tx, caller| {
        let (fired, rows) = trigger_fire::backfill(tx, caller, found.id, &instants, &new, &checked)?;
        let fired_before = u32::try_from(rows.len()).unwrap_or(u32::MAX) - fired;
        Ok(Answer::ok(Backfilled { fired, fired_before, items: rows.into_iter().map(fire_view).collect() }))
    })
    .await
}

/// What happened to a trigger, newest first
#[utoipa::path(get, path = "/triggers/{trigger}/events", tag = "Trigger",
    params(("trigger" = String, Path, description = "Id or name"), PageQuery),
    responses((status = 200, body = Page<Event>)))]
async fn list_trigger_events(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    ListQuery(query, NoFilter {}): ListQuery<NoFilter>,
) -> Result<Json<Page<Event>>, Fault> {
    page::events(&app, &caller, &query, |reading, caller| Ok(trigger::get(reading, caller, &text)?.id.uuid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_our_languages_is_taken() {
        for russian in ["ru", "ru-RU,en;q=0.8", "de, ru;q=0.4, en;q=0.3", "RU"] {
            assert_eq!(language_of(russian), Language::Russian, "{russian}");
        }
        for english in ["", "en", "de", "en, ru", "ru;q=0.2, en;q=0.9", "ru;q=0", "*", "ru;q=x"] {
            assert_eq!(language_of(english), Language::English, "{english}");
        }
    }
}
