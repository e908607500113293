//! Resources and their values.

use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRequest, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use drover_protocol::{
    event::Event,
    page::{Page, PageQuery},
    resource::{
        Calendar, MAX_VALUE_BYTES, NewResource, NewResourceValue, Resource, ResourceFilter, ResourceKind,
        ResourceOverride, ResourcePatch, ResourceValue, ResourceVersion, ValueFor,
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    extract::{
        Accept, Call, IfMatch, Json as Body, ListQuery, NoFilter, Path, Posted, Query, parse_json, require_media_type,
        whole_body,
    },
    once::{self, Answer},
    page::{self, IfNoneMatch},
};
use crate::{
    app::App,
    domain,
    error::{Error, Result as OperationResult},
    ical,
    operations::{
        Caller,
        resource::{self, WithDefault},
        resource_value::{self, Found, Given},
    },
    store::{Reader, Reading, Tx, key::SYSTEM_ACCOUNT},
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_resources, create_resource))
        .routes(routes!(get_resource, update_resource, delete_resource))
        .routes(routes!(get_value, set_value))
        .routes(routes!(set_override, remove_override))
        .routes(routes!(list_versions))
        .routes(routes!(list_resource_events))
}

fn view(reading: &dyn Reading, found: WithDefault) -> Resource {
    let WithDefault { resource, default } = found;
    Resource {
        id: resource.id,
        sealed: resource.kind.is_sealed(),
        expired: resource.is_expired(reading.now()),
        name: resource.name,
        description: resource.description,
        kind: resource.kind,
        writable_by_jobs: resource.writable_by_jobs,
        expires_at: resource.expires_at,
        has_value: default.is_some(),
        value: default.as_ref().and_then(domain::resource::ResourceValue::shown),
        size_bytes: default.map(|value| value.size_bytes),
        override_count: resource.override_count,
        overrides: None,
        created_at: resource.created_at,
        updated_at: resource.updated_at,
        updated_by: resource.updated_by,
        revision: resource.revision,
    }
}

/// A resource with the values of the robots and groups that the caller reaches.
fn full_view(reading: &dyn Reading, caller: &Caller, found: WithDefault) -> OperationResult<Resource> {
    let overrides = resource_value::overrides(reading, caller, found.resource.id)?;
    let overrides = overrides.into_iter().filter_map(|(value, scope_name)| {
        Some(ResourceOverride {
            scope: value.scope.word(),
            scope_id: value.scope.id()?,
            scope_name,
            value: value.shown(),
            size_bytes: value.size_bytes,
            version: value.number,
            updated_at: value.at,
            updated_by: value.by,
        })
    });
    Ok(Resource { overrides: Some(overrides.collect()), ..view(reading, found) })
}

fn version_view(value: domain::resource::ResourceValue, scope_name: Option<String>) -> ResourceVersion {
    ResourceVersion {
        version: value.number,
        scope: value.scope.word(),
        scope_id: value.scope.id(),
        scope_name,
        current: value.current,
        value: value.shown(),
        size_bytes: value.size_bytes,
        created_at: value.at,
        created_by: value.by,
    }
}

fn value_view(reading: &dyn Reading, found: Found, json: &[u8]) -> OperationResult<ResourceValue> {
    let unreadable = |error| Error::Internal(format!("a value cannot be read: {error}"));
    Ok(ResourceValue {
        resource_id: found.resource.id,
        expired: found.resource.is_expired(reading.now()),
        name: found.resource.name,
        kind: found.resource.kind,
        value: serde_json::from_slice(json).map_err(unreadable)?,
        scope: found.value.scope.word(),
        scope_id: found.value.scope.id(),
        scope_name: found.scope_name,
        version: found.value.number,
        updated_at: found.value.at,
        updated_by: found.value.by,
        expires_at: found.resource.expires_at,
    })
}

const JSON: &str = "application/json";
/// A value, every byte of which its sender may have written as `\uXXXX`, and room for what is around it.
const MAX_VALUE_BODY_BYTES: usize = 6 * MAX_VALUE_BYTES + 64 * 1024;

/// A value in a body: JSON, or a file of iCalendar.
struct ValueBody(Given);

impl FromRequest<Arc<App>> for ValueBody {
    type Rejection = Fault;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Fault> {
        let (parts, body) = request.into_parts();
        require_media_type(&parts.headers, &[JSON, ical::MEDIA_TYPE])?;
        let bytes = whole_body(body, MAX_VALUE_BODY_BYTES).await?;
        if require_media_type(&parts.headers, &[JSON]).is_ok() {
            return Ok(Self(Given::Value(parse_json::<NewResourceValue>(&bytes)?.value)));
        }
        if bytes.len() > ical::MAX_BYTES {
            let text = format!("the calendar is over the limit of {} bytes; leave out past years", ical::MAX_BYTES);
            return Err(Error::TooLarge(text).into());
        }
        let now = app.db.read(SYSTEM_ACCOUNT, |reading| Ok(reading.now()))?;
        let year = now.to_string().get(..4).and_then(|year| year.parse().ok()).unwrap_or(i16::MAX);
        let read = move || -> Result<_, Fault> {
            let text = ical::unfolded(&bytes).ok_or_else(|| Fault::bad_request("The calendar is not UTF-8."))?;
            ical::read(&text, year).map_err(|reason| Error::invalid("", reason).into())
        };
        let read = tokio::task::spawn_blocking(read).await;
        let read = read.map_err(|error| Error::Internal(format!("a calendar was not read to its end: {error}")))?;
        Ok(Self(Given::Calendar(read?)))
    }
}

/// A calendar as a file of iCalendar.
fn calendar_file(found: &Found, json: &[u8]) -> OperationResult<Response> {
    let unreadable = |error| Error::Internal(format!("a calendar cannot be read: {error}"));
    let calendar: Calendar = serde_json::from_slice(json).map_err(unreadable)?;
    let stamp = found.value.at.to_string().replace(['-', ':'], "");
    let stamp = format!("{}Z", stamp.split('.').next().unwrap_or_default());
    let mut response = ical::write(&found.resource.name, &calendar, &stamp).into_response();
    let media_type = HeaderValue::from_static("text/calendar; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    Ok(response)
}

/// Nobody on the way keeps what may be a secret.
fn not_stored(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Resources
///
/// Newest first; with `expiring` the soonest to expire first. Sealed values stand in no list, and larger ones than 4 KiB
/// neither.
#[utoipa::path(get, path = "/resources", tag = "Resource", params(PageQuery, ResourceFilter),
    responses((status = 200, body = Page<Resource>)))]
async fn list_resources(
    State(app): State<Arc<App>>,
    caller: Caller,
    ListQuery(query, filter): ListQuery<ResourceFilter>,
) -> Result<Json<Page<Resource>>, Fault> {
    let found = app.db.read(caller.account, |reading| {
        let page = resource::list(reading, &caller, &filter, &query)?;
        Ok(page::page(page, |found| view(reading, found)))
    })?;
    Ok(found)
}

/// Make a resource
///
/// With or without a default value. A name is taken once in the account. Values of the kinds `credential` and `secret` are
/// sealed before they are kept.
#[utoipa::path(post, path = "/resources", tag = "Resource", request_body = NewResource,
    params(Call),
    responses((status = 201, body = Resource)))]
async fn create_resource(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Posted<NewResource, MAX_VALUE_BODY_BYTES>,
) -> Result<Response, Fault> {
    let secrets = Arc::clone(&app.secrets);
    once::write(&app, caller, request.call, move |tx, caller| {
        let made = resource::create(tx, caller, &request.body, &secrets)?;
        let path = format!("/resources/{}", made.resource.id);
        Ok(Answer::created(full_view(tx, caller, made)?, path))
    })
    .await
}

/// A resource
///
/// With the values of robots and groups, as far as they are not sealed and the caller's roles reach these; `override_count`
/// counts all of them. Without `ETag` if it has such values or expires: it
/// expires, and these get other names, while the revision stays.
#[utoipa::path(get, path = "/resources/{resource}", tag = "Resource",
    params(("resource" = String, Path, description = "Id or name"), IfNoneMatch),
    responses((status = 200, body = Resource)))]
async fn get_resource(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let found = app.db.read(caller.account, |reading| {
        let found = resource::get(reading, &caller, &text)?;
        full_view(reading, &caller, found)
    })?;
    if found.override_count > 0 || found.expires_at.is_some() {
        return Ok(Json(found).into_response());
    }
    Ok(page::object(&headers, found.revision, found))
}

/// Change a resource
///
/// Name, description, expiry, and whether jobs may set its value. Its kind stays; its values have addresses of their own.
/// Triggers that go by a calendar follow it to its new name.
#[utoipa::path(patch, path = "/resources/{resource}", tag = "Resource", request_body = ResourcePatch,
    params(("resource" = String, Path, description = "Id or name"), IfMatch),
    responses((status = 200, body = Resource)))]
async fn update_resource(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
    Body(patch): Body<ResourcePatch>,
) -> Result<Response, Fault> {
    once::write(&app, caller, None, move |tx, caller| {
        let found = resource::update(tx, caller, &text, &patch, revision)?;
        Ok(Answer::ok(full_view(tx, caller, found)?))
    })
    .await
}

/// Delete a resource with all its values and their versions
///
/// A calendar by which triggers go is refused with `in_use`.
#[utoipa::path(delete, path = "/resources/{resource}", tag = "Resource",
    params(("resource" = String, Path, description = "Id or name"), IfMatch), responses((status = 204)))]
async fn delete_resource(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
) -> Result<Response, Fault> {
    let account = caller.account;
    let id = app.db.write(account, move |tx| resource::delete(tx, &caller, &text, revision)).await?;
    // It is gone for everybody already; what a crash leaves here is removed later.
    while !app.db.write(account, move |tx| resource::remove_page(tx, id)).await? {}
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The value, for a robot, a group or everybody
///
/// A robot finds its own value, else that of the first of its groups by name (`all` comes last), else the default. Without
/// `robot` and `group` it is the default. Sealed values are opened for whoever has `resource:read_value`, and each reading
/// is written into the audit trail before the value leaves.
///
/// The key of a job reads what its version declares under `[requires] resources`, for its own robot. Sealed values it reads
/// as they were when its attempt was assigned, for these are the ones that its agent masks; a newer one counts from the next
/// attempt on (`wrong_state` if there is no other). What it has set itself it reads back; its agent masks that from the next
/// attempt on, and until then the process must not print it.
///
/// With `Accept: text/calendar` a calendar is answered as iCalendar: its holidays as events of whole days, its other days in
/// properties `X-DROVER-…`, which a `PUT` understands.
#[utoipa::path(get, path = "/resources/{resource}/value", tag = "Resource", operation_id = "get_resource_value",
    params(("resource" = String, Path, description = "Id or name"), ValueFor),
    responses((status = 200, content((ResourceValue = "application/json"), (String = "text/calendar")))))]
async fn get_value(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    Query(whom): Query<ValueFor>,
    accept: Accept,
) -> Result<Response, Fault> {
    let found = app.db.read(caller.account, |reading| resource_value::find(reading, &caller, &text, &whom))?;
    let offers: &[&'static str] = match found.resource.kind {
        ResourceKind::Calendar => &[JSON, ical::MEDIA_TYPE],
        _ => &[JSON],
    };
    let as_file = accept.choose(offers)? == ical::MEDIA_TYPE;
    let value = match found.value.sealed {
        false => {
            let content = |reading: &Reader| resource_value::content(reading, &found.value, &app.secrets);
            let json = app.db.read(caller.account, content)?;
            if as_file {
                return Ok(not_stored(calendar_file(&found, &json)?));
            }
            app.db.read(caller.account, |reading| value_view(reading, found, &json))?
        }
        true => {
            let (secrets, account) = (Arc::clone(&app.secrets), caller.account);
            let read = move |tx: &mut Tx| {
                let (found, json) = resource_value::read_sealed(tx, &caller, &text, &whom, &secrets)?;
                value_view(tx, found, &json)
            };
            app.db.write(account, read).await?
        }
    };
    Ok(not_stored(Json(value).into_response()))
}

/// Set the value, for a robot, a group or everybody
///
/// The value that was is kept as a version. The key of a job sets it only if the resource is `writable_by_jobs` and declared
/// by its version: the value that the job reads, or with `robot` that of its own robot. Of a sealed value that is the one
/// that its attempt was given, whatever groups its robot is in by now (`wrong_state` if that is gone).
///
/// With `Content-Type: text/calendar` the holidays of a calendar are set from an iCalendar file (at most 1 MiB): each event
/// of whole days is one, and its other days stay as they are unless the file has them (those of the value that counted for the
/// robot or group, if it had none of its own). Yearly events on a fixed date are written out up to the tenth year from now.
/// What is not understood for certain (times of day, other repetitions) is refused with the name of the event.
#[utoipa::path(put, path = "/resources/{resource}/value", tag = "Resource", operation_id = "set_resource_value",
    request_body(content((NewResourceValue = "application/json"), (String = "text/calendar"))),
    params(("resource" = String, Path, description = "Id or name"), ValueFor, IfMatch),
    responses((status = 200, body = ResourceVersion)))]
async fn set_value(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    Query(whom): Query<ValueFor>,
    IfMatch(revision): IfMatch,
    ValueBody(new): ValueBody,
) -> Result<Response, Fault> {
    let secrets = Arc::clone(&app.secrets);
    let answer = once::write(&app, caller, None, move |tx, caller| {
        let found = resource_value::set(tx, caller, &text, &whom, &new, revision, &secrets)?;
        Ok(Answer::ok(version_view(found.value, found.scope_name)))
    });
    Ok(not_stored(answer.await?))
}

/// Set the value of a robot or group
#[utoipa::path(put, path = "/resources/{resource}/overrides/{scope}/{holder}", tag = "Resource",
    operation_id = "set_resource_override",
    request_body(content((NewResourceValue = "application/json"), (String = "text/calendar"))),
    params(("resource" = String, Path, description = "Id or name"),
        ("scope" = String, Path, description = "`robot` or `group`", pattern = "^(robot|group)$"),
        ("holder" = String, Path, description = "Id or name of the robot or group"), IfMatch),
    responses((status = 200, body = ResourceVersion)))]
async fn set_override(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((text, kind, name)): Path<(String, String, String)>,
    IfMatch(revision): IfMatch,
    ValueBody(new): ValueBody,
) -> Result<Response, Fault> {
    let secrets = Arc::clone(&app.secrets);
    let answer = once::write(&app, caller, None, move |tx, caller| {
        let found = resource_value::set_override(tx, caller, &text, (&kind, &name), &new, revision, &secrets)?;
        Ok(Answer::ok(version_view(found.value, found.scope_name)))
    });
    Ok(not_stored(answer.await?))
}

/// Remove the value of a robot or group
///
/// With all its versions. From then on the robot or group finds the next value that counts for it.
#[utoipa::path(delete, path = "/resources/{resource}/overrides/{scope}/{holder}", tag = "Resource",
    operation_id = "remove_resource_override",
    params(("resource" = String, Path, description = "Id or name"),
        ("scope" = String, Path, description = "`robot` or `group`", pattern = "^(robot|group)$"),
        ("holder" = String, Path, description = "Id or name of the robot or group"), IfMatch),
    responses((status = 204)))]
async fn remove_override(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((text, kind, name)): Path<(String, String, String)>,
    IfMatch(revision): IfMatch,
) -> Result<Response, Fault> {
    once::carry_out(&app, caller, move |tx, caller| {
        resource_value::remove_override(tx, caller, &text, (&kind, &name), revision)
    })
    .await
}

/// Versions of the values: who set them when
///
/// Newest first, the last twenty of each value; sealed ones are not shown. With `robot` or `group` only those of that value.
/// Where the caller's roles are limited to some robot groups, only those of the default and of these groups and robots.
#[utoipa::path(get, path = "/resources/{resource}/versions", tag = "Resource", operation_id = "list_resource_versions",
    params(("resource" = String, Path, description = "Id or name"), PageQuery, ValueFor),
    responses((status = 200, body = Page<ResourceVersion>)))]
async fn list_versions(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    ListQuery(query, whom): ListQuery<ValueFor>,
) -> Result<Json<Page<ResourceVersion>>, Fault> {
    let found =
        app.db.read(caller.account, |reading| resource_value::versions(reading, &caller, &text, &whom, &query))?;
    Ok(page::page(found, |(value, name)| version_view(value, name)))
}

/// What happened to a resource, newest first
///
/// Changes of its settings and values, and that it expires. Of the values of robots and groups only what the caller's roles
/// reach.
#[utoipa::path(get, path = "/resources/{resource}/events", tag = "Resource",
    params(("resource" = String, Path, description = "Id or name"), PageQuery),
    responses((status = 200, body = Page<Event>)))]
async fn list_resource_events(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    ListQuery(query, NoFilter {}): ListQuery<NoFilter>,
) -> Result<Json<Page<Event>>, Fault> {
    let found = app.db.read(caller.account, |reading| resource::events(reading, &caller, &text, &query))?;
    Ok(page::page(found, page::event_view))
}
