//! Jobs.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State, http::HeaderMap, response::Response};
use drover_protocol::{
    JobId,
    event::Event,
    job::{Attempt, CloseJob, Explanation, Job, JobFilter, JobState, JobWait, NewJob, StartedJobs, StopJob, Target},
    page::{Page, PageQuery},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    extract::{Call, IfMatch, ListQuery, NoFilter, Path, Posted, Query, id},
    once::{self, Answer},
    page::{self, IfNoneMatch},
};
use crate::{
    app::App,
    domain::{
        self,
        job::{State as JobStatus, Target as JobTarget},
    },
    drafting::{self, Checked},
    error::{Error, Result as OperationResult},
    operations::{Caller, assignment, attempt, job, key},
    store::{Reading, Topic, Tx, document::Slot},
};

const MAX_WAIT_SECONDS: u64 = 60;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_jobs, start_jobs))
        .routes(routes!(get_job, delete_job))
        .routes(routes!(stop_job))
        .routes(routes!(retry_job))
        .routes(routes!(close_job))
        .routes(routes!(explain_job))
        .routes(routes!(list_attempts))
        .routes(routes!(list_job_events))
}

/// A job without its documents, as it stands in lists.
pub fn view(job: domain::job::Job) -> Job {
    let target = match job.target {
        JobTarget::Robot(robot) => Target { robot: Some(robot.to_string()), group: None },
        JobTarget::Group(group) => Target { robot: None, group: Some(group.to_string()) },
    };
    let state = job.state.kind();
    let (mut not_before, mut lease_ends_at, mut outcome, mut cause) = (None, None, None, None);
    match job.state {
        JobStatus::Waiting { not_before: at } => not_before = at,
        JobStatus::Assigned { accept_by } => lease_ends_at = Some(accept_by),
        JobStatus::Running { lease_ends_at: at } => lease_ends_at = Some(at),
        JobStatus::Silent { .. } => {}
        JobStatus::Stopping { stop } => cause = Some(stop.why),
        JobStatus::Finished { outcome: how, cause: why } => (outcome, cause) = (Some(how), Some(why)),
    }
    let (robot_id, robot_name) = job.robot.map(|holder| (holder.id, holder.name)).unzip();
    Job {
        id: job.id,
        process_id: job.process_id,
        process_name: job.process_name,
        process_version_id: job.process_version_id,
        version_number: job.version_number,
        target,
        state,
        outcome,
        cause,
        attempt: job.attempt,
        tries: job.tries,
        robot_id,
        robot_name,
        priority: job.priority,
        input: None,
        output: None,
        error: job.error,
        exit: job.exit,
        usage: job.usage,
        progress: job.progress,
        source: job.source,
        created_at: job.created_at,
        not_before,
        assigned_at: job.assigned_at,
        started_at: job.started_at,
        finished_at: job.finished_at,
        stop_after: job.stop_after,
        abort_after: job.abort_after,
        timeout_seconds: job.timeout_seconds,
        stop_grace_seconds: job.stop_grace_seconds,
        lease_ends_at,
        labels: job.labels,
        parent_job_id: job.parent_job_id,
        revision: job.revision,
    }
}

/// A job with its input and output.
pub fn full_view(reading: &dyn Reading, record: domain::job::Job) -> OperationResult<Job> {
    let id = record.id;
    let mut job = view(record);
    job.input = job::document(reading, id, Slot::Input)?.and_then(as_members);
    job.output = job::document(reading, id, Slot::Output)?;
    Ok(job)
}

fn as_members(input: serde_json::Value) -> Option<serde_json::Map<String, serde_json::Value>> {
    match input {
        serde_json::Value::Object(members) => Some(members),
        _ => None,
    }
}

fn attempt_view(attempt: domain::attempt::Attempt) -> Attempt {
    Attempt {
        attempt: attempt.attempt,
        robot_id: attempt.robot.id,
        robot_name: attempt.robot.name,
        process_version_id: attempt.process_version_id,
        assigned_at: attempt.assigned_at,
        accepted_at: attempt.accepted_at,
        ended_at: attempt.ended_at,
        outcome: attempt.outcome,
        cause: attempt.cause,
        error: attempt.error,
        exit: attempt.exit,
        usage: attempt.usage,
    }
}

/// Start one or more jobs
#[utoipa::path(post, path = "/jobs", tag = "Job", request_body = NewJob,
    params(Call),
    responses((status = 201, body = StartedJobs)))]
async fn start_jobs(State(app): State<Arc<App>>, caller: Caller, request: Posted<NewJob>) -> Result<Response, Fault> {
    if let Some(first) = once::replay(&app, &caller, request.call.as_ref())? {
        return Ok(first);
    }
    let new = request.body;
    let Checked { draft, input } =
        drafting::checked(&app, caller.account, |reading| job::draft(reading, &caller, &new)).await?;
    once::write(&app, caller, request.call, move |tx, caller| {
        let jobs = job::start(tx, caller, &new, &draft, &input)?;
        let first = jobs[0].id;
        let mut views = jobs.into_iter().map(view);
        let answer = match (new.count.is_some_and(|count| count > 1), views.next()) {
            (false, Some(one)) => StartedJobs::One(Box::new(Job { input: as_members(draft.input), ..one })),
            (_, first) => StartedJobs::Many { items: first.into_iter().chain(views).collect() },
        };
        Ok(Answer::created(answer, format_args!("/jobs/{first}")))
    })
    .await
}

/// Jobs, newest first
#[utoipa::path(get, path = "/jobs", tag = "Job", params(PageQuery, JobFilter),
    responses((status = 200, body = Page<Job>)))]
async fn list_jobs(
    State(app): State<Arc<App>>,
    caller: Caller,
    ListQuery(query, filter): ListQuery<JobFilter>,
) -> Result<Json<Page<Job>>, Fault> {
    let found = app.db.read(caller.account, |reading| job::list(reading, &caller, &filter, &query))?;
    Ok(page::page(found, view))
}

/// A job, now or when it has got so far
#[utoipa::path(get, path = "/jobs/{job}", tag = "Job",
    params(("job" = String, Path, description = "Id of the job"), JobWait, IfNoneMatch),
    responses((status = 200, body = Job)))]
async fn get_job(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    Query(wait): Query<JobWait>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let id: JobId = id(&text, "job")?;
    let seconds = wait.wait_seconds.unwrap_or_default();
    if seconds > MAX_WAIT_SECONDS {
        return Err(Error::invalid("wait_seconds", format!("must be from 0 to {MAX_WAIT_SECONDS}")).into());
    }
    let job = wait_for(&app, &caller, id, &wait, Duration::from_secs(seconds)).await?;
    Ok(page::object(&headers, job.revision, job))
}

/// The job as soon as it is as far as asked, or as it is when the time is over.
async fn wait_for(app: &App, caller: &Caller, id: JobId, wait: &JobWait, time: Duration) -> Result<Job, Fault> {
    let ends_at = tokio::time::Instant::now() + time;
    let watch = app.db.watch(&[Topic::Job(id)]);
    let read = || {
        app.db.read(caller.account, |reading| {
            // Whoever waits may have lost the key or a role meanwhile.
            full_view(reading, job::get(reading, &key::renewed(reading, caller)?, id)?)
        })
    };
    let first = read()?;
    let seen = first.revision;
    let mut job = first;
    loop {
        let there = match wait.until {
            // One that has finished will not get there any more.
            Some(state) => job.state == state || job.state == JobState::Finished,
            None => job.revision != seen,
        };
        if there || time.is_zero() {
            return Ok(job);
        }
        tokio::select! {
            biased;
            () = app.stopping.cancelled() => return Ok(job),
            () = watch.woken() => job = read()?,
            () = tokio::time::sleep_until(ends_at) => return Ok(job),
        }
    }
}

/// Delete a finished job with its logs and artifacts
///
/// A job that has not finished is refused; stop or close it first.
#[utoipa::path(delete, path = "/jobs/{job}", tag = "Job",
    params(("job" = String, Path, description = "Id of the job"), IfMatch), responses((status = 204)))]
async fn delete_job(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    IfMatch(revision): IfMatch,
) -> Result<Response, Fault> {
    let id: JobId = id(&text, "job")?;
    once::delete_in_pages(&app, caller, move |tx, caller| job::delete_page(tx, caller, id, revision)).await
}

/// An action on one job, whose answer is the job.
async fn act(
    app: Arc<App>,
    caller: Caller,
    call: Call,
    action: impl FnOnce(&mut Tx, &Caller) -> OperationResult<domain::job::Job> + Send + 'static,
) -> Result<Response, Fault> {
    once::write(&app, caller, call.0, move |tx, caller| {
        let job = action(tx, caller)?;
        Ok(Answer::ok(full_view(tx, job)?))
    })
    .await
}

/// Ask a job to end, softly or at once
///
/// A soft stop becomes an abort when the grace of the job is over. Stopping a job that is being stopped changes
/// nothing.
#[utoipa::path(post, path = "/jobs/{job}/stop", tag = "Job", request_body = StopJob,
    params(("job" = String, Path, description = "Id of the job"), Call), responses((status = 200, body = Job)))]
async fn stop_job(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    request: Posted<StopJob>,
) -> Result<Response, Fault> {
    let (id, leases) = (id(&text, "job")?, app.rules.leases);
    let mode = request.body.mode;
    act(app, caller, Call(request.call), move |tx, caller| job::stop(tx, caller, id, mode, &leases)).await
}

/// Let a finished job be tried once more
///
/// It is the same job, with a further attempt; the history of its attempts stays.
#[utoipa::path(post, path = "/jobs/{job}/retry", tag = "Job",
    params(("job" = String, Path, description = "Id of the job"), Call), responses((status = 200, body = Job)))]
async fn retry_job(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    call: Call,
) -> Result<Response, Fault> {
    let (id, leases) = (id(&text, "job")?, app.rules.leases);
    act(app, caller, call, move |tx, caller| job::retry(tx, caller, id, &leases)).await
}

/// End a job whose robot is gone
///
/// The job ends at once with the given outcome. What its robot may report later is refused, and kept as an event.
#[utoipa::path(post, path = "/jobs/{job}/close", tag = "Job", request_body = CloseJob,
    params(("job" = String, Path, description = "Id of the job"), Call), responses((status = 200, body = Job)))]
async fn close_job(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    request: Posted<CloseJob>,
) -> Result<Response, Fault> {
    let (id, leases) = (id(&text, "job")?, app.rules.leases);
    act(app, caller, Call(request.call), move |tx, caller| job::close(tx, caller, id, &request.body, &leases)).await
}

/// Why a job waits, for each robot that might run it
///
/// Computed at the moment of asking.
#[utoipa::path(get, path = "/jobs/{job}/explain", tag = "Job",
    params(("job" = String, Path, description = "Id of the job")), responses((status = 200, body = Explanation)))]
async fn explain_job(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
) -> Result<Json<Explanation>, Fault> {
    let id: JobId = id(&text, "job")?;
    let account = caller.account;
    Ok(Json(app.read_aside(account, move |reading| assignment::explain(reading, &caller, id)).await?))
}

/// The attempts of a job, oldest first
#[utoipa::path(get, path = "/jobs/{job}/attempts", tag = "Job", operation_id = "list_job_attempts",
    params(("job" = String, Path, description = "Id of the job"), PageQuery),
    responses((status = 200, body = Page<Attempt>)))]
async fn list_attempts(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    ListQuery(query, NoFilter {}): ListQuery<NoFilter>,
) -> Result<Json<Page<Attempt>>, Fault> {
    let id: JobId = id(&text, "job")?;
    let found = app.db.read(caller.account, |reading| {
        job::get(reading, &caller, id)?;
        attempt::list(reading, id, &query)
    })?;
    Ok(page::page(found, attempt_view))
}

/// What happened to a job, newest first
///
/// A report that came too late has its output beside it as `output`: where that is large, a page has fewer items than the
/// limit.
#[utoipa::path(get, path = "/jobs/{job}/events", tag = "Job",
    params(("job" = String, Path, description = "Id of the job"), PageQuery),
    responses((status = 200, body = Page<Event>)))]
async fn list_job_events(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    ListQuery(query, NoFilter {}): ListQuery<NoFilter>,
) -> Result<Json<Page<Event>>, Fault> {
    let id: JobId = id(&text, "job")?;
    page::events(&app, &caller, &query, |reading, caller| Ok(job::get(reading, caller, id)?.id.uuid()))
}
