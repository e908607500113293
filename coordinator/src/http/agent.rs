//! What agents say.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body as HttpBody,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use drover_protocol::{
    API_BASE, AccountId, FileId, JobId, RobotId,
    agent::{
        Accept, Accepted, AssignedVersion, Assignment, Finish, Heartbeat, HeartbeatAnswer, Join, Joined, LogAccepted,
        LogChunk, MAX_JOBS, Next, NextAnswer, RobotBrief,
    },
    job::{Cause, CauseCode, ErrorKind, JobError, Outcome},
    json::{MAX_DEPTH, is_too_deep},
    log::MAX_CHUNK_BYTES,
    manifest::Manifest,
    storage::StoredFile,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    auth::Address,
    content::{self, Digest, Ranges, Sending},
    extract::{Json as Body, Path, Query, id},
    file as file_views, job,
    openapi::Binary,
    robot,
};
use crate::{
    app::App,
    domain::{self, robot::Robot},
    error::{Error, Result as OperationResult},
    json_schema::{self, Side},
    operations::{
        self, Caller,
        agent::Reported,
        assignment, file,
        job::{MAX_JSON_BYTES, too_large},
        join_token, log, process_version, resource_value, robot_group,
    },
    store::{Reading, Topic, Tx, WakeUp, blob::BlobName, key::SYSTEM_ACCOUNT},
};

const MAX_WAIT_SECONDS: u64 = 60;
/// Read before anybody knows who sends it.
const MAX_JOIN_BYTES: usize = 64 * 1024;
/// A report with an output of 1 MiB, and room for what is around it.
const MAX_REPORT_BYTES: usize = 2 * 1024 * 1024;
/// A chunk, and room for what JSON adds to it.
const MAX_CHUNK_BODY_BYTES: usize = MAX_CHUNK_BYTES + 64 * 1024;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(join))
        .routes(routes!(heartbeat))
        .routes(routes!(next))
        .routes(routes!(accept))
        .routes(routes!(finish))
        .routes(routes!(append_log))
        .routes(routes!(put_artifact))
        .routes(routes!(get_assigned_package))
}

/// Become a robot of the account that the join token is of
///
/// The token takes the place of a key. Joining again under the same `machine_id` gives the same robot back with a new
/// key, and does not use the token up.
#[utoipa::path(post, path = "/agent/join", tag = "Agent", operation_id = "join_robot", request_body = Join, security(()),
    responses((status = 201, body = Joined)))]
async fn join(
    State(app): State<Arc<App>>,
    Address(address): Address,
    Body(request): Body<Join, MAX_JOIN_BYTES>,
) -> Result<Response, Fault> {
    let secrets = Arc::clone(&app.secrets);
    let (account, token) =
        app.db.read(SYSTEM_ACCOUNT, |reading| join_token::account_of(reading, &request.token, &secrets))?;
    let joined = app
        .db
        .write(account, move |tx| {
            let (full, key) = operations::agent::join(tx, token, address, &request, &secrets)?;
            Ok(Joined { robot: robot::view(full), key })
        })
        .await?;
    let location = [(header::LOCATION, format!("{API_BASE}/robots/{}", joined.robot.id))];
    Ok((StatusCode::CREATED, location, Json(joined)).into_response())
}

/// Report the host's condition and renew all leases
///
/// The leases of all jobs that are listed are renewed in one transaction. A job that is answered with `drop` is not
/// this agent's any more.
#[utoipa::path(post, path = "/agent/heartbeat", tag = "Agent", operation_id = "send_heartbeat", request_body = Heartbeat,
    responses((status = 200, body = HeartbeatAnswer)))]
async fn heartbeat(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(request): Body<Heartbeat>,
) -> Result<Json<HeartbeatAnswer>, Fault> {
    let leases = app.rules.leases;
    let beat =
        app.db.write(caller.account, move |tx| operations::agent::heartbeat(tx, &caller, &request, &leases)).await?;
    let robot = robot::view(beat.robot);
    Ok(Json(HeartbeatAnswer {
        server_time: beat.now,
        lease_seconds: leases.job_seconds,
        next_in_seconds: app.rules.heartbeat_seconds,
        jobs: beat.jobs,
        robot: RobotBrief { state: robot.state, paused: robot.paused },
        config: beat.config,
    }))
}

/// Wait for jobs and commands
///
/// Long poll: answers at once when there is something, with 204 when the time is over. An assignment that the agent
/// does not name as known is given again until it is accepted or its time to accept is over.
#[utoipa::path(post, path = "/agent/next", tag = "Agent", operation_id = "await_assignments", request_body = Next,
    responses((status = 200, body = NextAnswer), (status = 204, description = "Nothing came in time")))]
async fn next(State(app): State<Arc<App>>, caller: Caller, Body(request): Body<Next>) -> Result<Response, Fault> {
    check_next(&request)?;
    let ends_at = tokio::time::Instant::now() + Duration::from_secs(request.wait_seconds);
    let request = Arc::new(request);
    let mut woken: Option<WakeUp> = None;
    loop {
        // Watches are armed before the looks, so that nothing in between is missed: first for what concerns the robot
        // itself, such as its groups, then for these groups.
        let own = app.db.watch(&[Topic::Robot(caller.robot()?), Topic::Key(caller.key_id)]);
        let look = app.db.read(caller.account, |reading| look(reading, &caller))?;
        let watch = app.db.watch(&look.topics);
        let wanted = app.db.read(caller.account, |reading| has_something(reading, &look.robot, &request))?;
        if wanted {
            if woken.as_ref().is_some_and(WakeUp::is_for_one)
                && more_waits(&app, &caller, &look.robot, request.free as usize)?
            {
                // The next one need not wait for this one's transaction.
                woken = None;
            }
            let answer = take(&app, &caller, look.robot.id, Arc::clone(&request)).await?;
            if !answer.assignments.is_empty() || !answer.commands.is_empty() {
                settle_if_nothing_is_left(&app, &caller, &look.robot, [Some(watch.end()), woken])?;
                return Ok(Json(answer).into_response());
            }
        }
        settle_if_nothing_is_left(&app, &caller, &look.robot, [woken.take(), None])?;
        let pause_ends = look.pause_ends_in.map_or(ends_at, |time| tokio::time::Instant::now() + time);
        tokio::select! {
            biased;
            () = app.stopping.cancelled() => return Ok(StatusCode::NO_CONTENT.into_response()),
            () = own.woken() => {}
            () = watch.woken() => {}
            () = tokio::time::sleep_until(pause_ends), if pause_ends < ends_at => {}
            () = tokio::time::sleep_until(ends_at) => return Ok(StatusCode::NO_CONTENT.into_response()),
        }
        woken = Some(watch.end());
    }
}

/// A wake-up for one robot goes on to the next, by being dropped, as long as a job waits for this robot's groups.
fn settle_if_nothing_is_left(
    app: &App,
    caller: &Caller,
    robot: &Robot,
    wake_ups: [Option<WakeUp>; 2],
) -> Result<(), Fault> {
    if wake_ups.iter().flatten().any(WakeUp::is_for_one) && !more_waits(app, caller, robot, 0)? {
        wake_ups.into_iter().flatten().for_each(WakeUp::settle);
    }
    Ok(())
}

fn more_waits(app: &App, caller: &Caller, robot: &Robot, than: usize) -> OperationResult<bool> {
    app.db.read(caller.account, |reading| assignment::more_waits(reading, robot, than))
}

fn check_next(request: &Next) -> Result<(), Error> {
    let mut faults = domain::name::Faults::default();
    faults.range("/wait_seconds", request.wait_seconds, 0, MAX_WAIT_SECONDS);
    faults.range("/free", u64::from(request.free), 0, MAX_JOBS as u64);
    if request.known.len() > MAX_JOBS {
        faults.add("/known", format!("more than {MAX_JOBS} jobs"));
    }
    Ok(faults.check()?)
}

/// What a waiting agent waits for.
struct Look {
    robot: Robot,
    topics: Vec<Topic>,
    /// A pause that ends by itself lets the robot take jobs again, without anybody's doing.
    pause_ends_in: Option<Duration>,
}

fn look(reading: &dyn Reading, caller: &Caller) -> OperationResult<Look> {
    let robot = operations::agent::own_robot(reading, caller)?;
    let groups = robot_group::of_robot(reading, &robot)?;
    let topics = groups.iter().flat_map(|group| [Topic::Group(group.id), Topic::Ready(group.id)]).collect();
    let standing = domain::robot::standing(&robot, groups.iter(), reading.now());
    let until = standing.pause.and_then(|(pause, _)| pause.until);
    let pause_ends_in = until.map(|until| until.since(reading.now()));
    Ok(Look { robot, topics, pause_ends_in })
}

fn has_something(reading: &dyn Reading, robot: &Robot, request: &Next) -> OperationResult<bool> {
    Ok(assignment::has_work(reading, robot, request.free as usize, &request.known)?
        || operations::agent::has_commands(reading, robot, &request.known)?)
}

async fn take(app: &Arc<App>, caller: &Caller, robot: RobotId, request: Arc<Next>) -> Result<NextAnswer, Fault> {
    let (leases, giving, asking) = (app.rules.leases, Arc::clone(app), caller.clone());
    let answer = app
        .db
        .write(caller.account, move |tx| {
            let commands = operations::agent::take_commands(tx, robot, &request.known, &leases)?;
            let free = request.free as usize;
            let jobs = assignment::assign_next(tx, &asking, robot, free, &request.known, &leases, &giving.secrets)?;
            let give = |job| assignment_view(tx, job, &giving);
            let assignments = jobs.into_iter().map(give).collect::<OperationResult<_>>()?;
            Ok(NextAnswer { assignments, commands })
        })
        .await?;
    Ok(answer)
}

fn assignment_view(reading: &dyn Reading, record: domain::job::Job, app: &App) -> OperationResult<Assignment> {
    let version: domain::process::ProcessVersion = crate::store::table::get(reading, record.process_version_id)?;
    let (attempt, log_level) = (record.attempt, record.log_level);
    let key = app.secrets.attempt_key(record.id, attempt);
    let job = job::full_view(reading, record)?;
    let lease_ends_at = job.lease_ends_at.unwrap_or_else(|| reading.now());
    let manifest = app.manifests.get(version.id, || process_version::manifest(reading, version.id))?;
    let secrets_to_mask = match version.resources.is_empty() {
        true => Vec::new(),
        false => {
            let attempt: domain::attempt::Attempt = crate::store::table::get(reading, (job.id, attempt))?;
            resource_value::texts_of(reading, &attempt.handed, &app.secrets)?
        }
    };
    let version = AssignedVersion {
        id: version.id,
        number: version.number,
        manifest: Manifest::clone(&manifest),
        sha256: version.sha256,
        size_bytes: version.size_bytes,
    };
    Ok(Assignment { job, attempt, lease_ends_at, version, key, secrets_to_mask, log_level })
}

/// Take an assigned job on
///
/// Says that the agent has written the assignment down and will see to it. Repeating it is fine; with another `claim` it is
/// another agent, and refused with `stale_attempt`.
#[utoipa::path(post, path = "/agent/jobs/{job}/accept", tag = "Agent", operation_id = "accept_job", request_body = Accept,
    params(("job" = String, Path, description = "Id of the job")), responses((status = 200, body = Accepted)))]
async fn accept(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    Body(request): Body<Accept>,
) -> Result<Json<Accepted>, Fault> {
    let (id, leases): (JobId, _) = (id(&text, "job")?, app.rules.leases);
    let account = caller.account;
    let lease_ends_at =
        app.db.write(account, move |tx| operations::agent::accept(tx, &caller, id, &request, &leases)).await?;
    Ok(Json(Accepted { lease_ends_at }))
}

/// Report how an attempt ended
///
/// Repeating the same report is fine. One that comes after the attempt has ended otherwise is refused, and kept as an
/// event of the job.
#[utoipa::path(post, path = "/agent/jobs/{job}/finish", tag = "Agent", operation_id = "finish_job", request_body = Finish,
    params(("job" = String, Path, description = "Id of the job")), responses((status = 204)))]
async fn finish(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    Body(mut report): Body<Finish, MAX_REPORT_BYTES>,
) -> Result<StatusCode, Fault> {
    let (id, leases): (JobId, _) = (id(&text, "job")?, app.rules.leases);
    caller.robot()?;
    operations::agent::check_finish(&report)?;
    let output = report.output.take();
    if output.as_ref().is_some_and(is_too_deep) {
        return Err(Error::invalid("/output", format!("nested deeper than {MAX_DEPTH} levels; use an artifact")).into());
    }
    let bytes = output.as_ref().map(serde_json::to_vec).transpose().unwrap_or_default();
    if bytes.as_ref().is_some_and(|bytes| bytes.len() > MAX_JSON_BYTES) {
        return Err(too_large("output").into());
    }
    if let Some(output) = &output {
        check_output(&app, caller.account, id, output, &mut report).await?;
    }
    let account = caller.account;
    let reported = app
        .db
        .write(account, move |tx| operations::agent::finish(tx, &caller, id, &report, bytes.as_deref(), &leases))
        .await?;
    match reported {
        Reported::Taken => Ok(StatusCode::NO_CONTENT),
        Reported::Late(refusal) => Err(refusal.into()),
    }
}

/// A success whose output is not as its schema says is a failure.
async fn check_output(
    app: &App,
    account: AccountId,
    id: JobId,
    output: &serde_json::Value,
    report: &mut Finish,
) -> Result<(), Fault> {
    let (version, manifest) = app.db.read(account, |reading| {
        let version = crate::store::table::get::<domain::job::Job>(reading, id)?.process_version_id;
        Ok((version, app.manifests.get(version, || process_version::manifest(reading, version))?))
    })?;
    let schema = manifest.output_schema.as_ref();
    let Some(schema) = schema.filter(|_| report.outcome == Outcome::Succeeded) else { return Ok(()) };
    let unusable = |error| Error::Internal(format!("the output schema of a version is unusable: {error}"));
    let validator = app.schemas.get(version.uuid(), Side::Output, schema).map_err(unusable)?;
    let errors = json_schema::check(&validator, schema, output, "").await;
    if errors.is_empty() {
        return Ok(());
    }
    let texts: Vec<String> = errors.iter().map(|error| format!("{}: {}", error.pointer, error.detail)).collect();
    let message: String =
        format!("the output is not as its schema says: {}", texts.join("; ")).chars().take(900).collect();
    report.outcome = Outcome::Failed;
    report.cause = Cause { by: "coordinator".to_owned(), code: CauseCode::OutputInvalid, message: message.clone() };
    report.error = Some(JobError { kind: ErrorKind::Application, code: Some("output_invalid".to_owned()), message });
    Ok(())
}

/// Send lines of a job's log
///
/// Lines that were sent before are accepted and not kept twice; lines that leave a gap are refused with `next_seq`.
#[utoipa::path(post, path = "/agent/jobs/{job}/logs", tag = "Agent", operation_id = "append_job_log", request_body = LogChunk,
    params(("job" = String, Path, description = "Id of the job")), responses((status = 200, body = LogAccepted)))]
async fn append_log(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    Body(chunk): Body<LogChunk, MAX_CHUNK_BODY_BYTES>,
) -> Result<Json<LogAccepted>, Fault> {
    let id: JobId = id(&text, "job")?;
    caller.robot()?;
    let packed = log::pack(chunk)?;
    let next_seq = app.db.write(caller.account, move |tx| log::append(tx, &caller, id, &packed)).await?;
    Ok(Json(LogAccepted { next_seq }))
}

/// Which attempt a file is of.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ArtifactQuery {
    /// Number of the attempt; absent: the job's newest.
    attempt: Option<u32>,
}

/// Store an artifact of a job
///
/// Into the folder `jobs/<job id>`, whole or not at all; one of the same path is replaced. Only until the attempt has
/// ended; after that it is refused with `stale_attempt`.
#[utoipa::path(put, path = "/agent/jobs/{job}/files/{*path}", tag = "Agent",
    params(("job" = String, Path, description = "Id of the job"),
        ("path" = String, Path, description = "Path of the file in the folder jobs/<job id>"), ArtifactQuery, Digest),
    request_body(content = inline(Binary), content_type = "application/octet-stream"),
    responses((status = 201, body = StoredFile)))]
async fn put_artifact(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((text, path)): Path<(String, String)>,
    Query(query): Query<ArtifactQuery>,
    headers: HeaderMap,
    body: HttpBody,
) -> Result<Response, Fault> {
    let allowed = || -> Result<_, Fault> {
        let job: JobId = id(&text, "job")?;
        let attempt = app.db.read(caller.account, |reading| {
            let newest = || crate::store::table::get::<domain::job::Job>(reading, job).map(|job| job.attempt);
            let attempt = query.attempt.map_or_else(newest, Ok)?;
            file::check_artifact(reading, &caller, job, attempt, &path)?;
            Ok(attempt)
        })?;
        Ok((job, attempt))
    };
    let ((job, attempt), body) = content::admit(allowed(), &headers, body).await?;
    let staged = content::receive(&app, body, app.rules.limits.artifact_bytes).await?;
    content::check_digest(&headers, &staged)?;
    let content = file::Content {
        id: FileId::from_uuid(app.db.new_id()),
        sha256: staged.sha256.clone(),
        size_bytes: staged.size_bytes,
    };
    let (account, name) = (caller.account, BlobName::file(content.id));
    let write = move |tx: &mut Tx| file::put_artifact(tx, &caller, job, attempt, &path, &content);
    let write = move |app: Arc<App>| async move { app.db.write(account, write).await.map_err(Fault::from) };
    let stored = content::keep(&app, account, staged, name, write).await?;
    let location = [(header::LOCATION, file_views::address(&stored))];
    Ok((StatusCode::CREATED, location, Json(file_views::view(stored))).into_response())
}

/// A package, by its digest, for a robot that holds a job with it
///
/// From the assignment to the end of the attempt; then it is as if there were no such package.
#[utoipa::path(get, path = "/agent/packages/{sha256}", tag = "Agent",
    params(("sha256" = String, Path, description = "Digest in lower-case hexadecimal"), Ranges),
    responses((status = 200, body = inline(Binary), content_type = "application/zip"),
        (status = 206, body = inline(Binary), content_type = "application/zip")))]
async fn get_assigned_package(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(sha256): Path<String>,
    Ranges(headers): Ranges,
) -> Result<Response, Fault> {
    app.db.read(caller.account, |reading| operations::agent::check_package(reading, &caller, &sha256))?;
    let name = BlobName::package(&sha256)?;
    let file_name = format!("{sha256}.zip");
    let sending = Sending { name, sha256: &sha256, content_type: "application/zip", file_name: &file_name };
    content::send(&app, &headers, sending).await
}
