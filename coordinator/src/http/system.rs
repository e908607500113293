//! Operation of the coordinator itself: whether it lives and serves, its figures, and its backup.

use std::{
    borrow::Cow,
    io::{self, BufWriter, Write},
    sync::Arc,
    time::Instant,
};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use drover_protocol::{job::JobState, system::ServiceState, task::TaskState};
use tokio_stream::wrappers::ReceiverStream;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Fault, auth::MaybeCaller, metrics::Counted, openapi::Binary};
use crate::{
    app::App,
    domain::permission::Permission,
    error::{Error, Result as OperationResult},
    operations::{
        Caller, account,
        census::{self, Census},
        system,
    },
    store::{
        backup::{self, About},
        key::SYSTEM_ACCOUNT,
    },
};

/// How a backup is handed over: pieces of this size, so many ahead of the reader.
const PIECE_BYTES: usize = 256 * 1024;
const PIECES_AHEAD: usize = 4;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(get_health)).routes(routes!(get_readiness)).routes(routes!(get_metrics))
}

pub fn versioned_routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(get_backup))
}

fn state(status: &str, detail: Option<&str>) -> ServiceState {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    ServiceState { status: status.to_owned(), version, detail: detail.map(str::to_owned) }
}

/// Whether the process lives
#[utoipa::path(get, path = "/healthz", tag = "System", security(()), responses((status = 200, body = ServiceState)))]
async fn get_health() -> Json<ServiceState> {
    Json(state("ok", None))
}

/// Whether it serves
///
/// 200 also when only reads are possible (`read_only`: the disk is full); 503 while it stops.
#[utoipa::path(get, path = "/readyz", tag = "System", security(()),
    responses((status = 200, body = ServiceState), (status = 503, description = "It stops.", body = ServiceState)))]
async fn get_readiness(State(app): State<Arc<App>>) -> (StatusCode, Json<ServiceState>) {
    if app.stopping.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(state("stopping", None)));
    }
    if app.db.read_only() {
        let detail = "the disk is full; writes are refused until there is space again";
        return (StatusCode::OK, Json(state("read_only", Some(detail))));
    }
    (StatusCode::OK, Json(state("ok", None)))
}

/// Figures for Prometheus
///
/// Open unless `metrics.public` is off; then any valid key of the account that runs the coordinator will do: the figures are
/// of all accounts.
#[utoipa::path(get, path = "/metrics", tag = "System", security((), ("key" = [])),
    responses((status = 200, body = String, content_type = "text/plain")))]
async fn get_metrics(State(app): State<Arc<App>>, MaybeCaller(caller): MaybeCaller) -> Result<Response, Fault> {
    if !app.rules.public_metrics && caller.is_none() {
        return Err(Error::Unauthenticated("metrics.public is off; send a key").into());
    }
    if let Some(caller) = caller.filter(|_| !app.rules.public_metrics)
        && !app.db.read(caller.account, |reading| account::own(reading))?.runs_system
    {
        return Err(
            Error::Forbidden("the figures are of all accounts, and this one sees only itself".to_owned()).into()
        );
    }
    set_gauges(&app).await?;
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, text)], app.metrics.render()).into_response())
}

/// Counting takes long in a large fleet. It is done by one at a time, once for all who asked before it began, and commits do
/// not wait for it.
async fn set_gauges(app: &App) -> OperationResult<()> {
    let asked = Instant::now();
    let mut counted = app.metrics.counting.lock().await;
    if counted.is_some_and(|counted| counted.is_good_for(asked)) {
        return Ok(());
    }
    let began = Instant::now();
    let (mut figures, mut all) = (system::Figures::default(), Census::default());
    // An account that goes meanwhile is missing rather than counted twice: totals never fall, and would not come back.
    let (accounts, open, gone) = app.db.read(SYSTEM_ACCOUNT, |reading| {
        Ok((account::all(reading)?, account::open(reading)?.len(), census::of_the_gone(reading)?))
    })?;
    for account in &accounts {
        let counted =
            app.read_aside_in_parts(*account, |reading| Ok((system::figures(reading)?, census::census(reading)?)));
        let (of_account, objects) = counted.await?;
        figures = figures.plus(of_account);
        all = all.plus(objects);
    }
    set_census(app, all.plus(gone));
    for (disabled, count) in [("false", open), ("true", accounts.len().saturating_sub(open))] {
        app.metrics.set("drover_accounts", vec![("disabled", disabled.to_owned())], count as f64);
    }
    for state in JobState::ALL.into_iter().filter(|state| *state != JobState::Finished) {
        let labels = vec![("state", state.as_str().to_owned())];
        app.metrics.set("drover_jobs", labels, figures.jobs_in(state) as f64);
    }
    for (state, name) in system::ROBOT_STATES {
        app.metrics.set("drover_robots", vec![("state", name.to_owned())], figures.robots_in(state) as f64);
    }
    for state in TaskState::ALL {
        let labels = vec![("state", state.as_str().to_owned())];
        app.metrics.set("drover_tasks", labels, figures.tasks_in(state) as f64);
    }
    app.metrics.set("drover_alerts_raised", Vec::new(), figures.raised as f64);
    app.metrics.set("drover_deliveries_waiting", Vec::new(), figures.deliveries as f64);
    if let Some(disk) = app.disk() {
        app.metrics.set("drover_disk_free_bytes", Vec::new(), disk.free_bytes as f64);
        app.metrics.set("drover_disk_total_bytes", Vec::new(), disk.total_bytes as f64);
    }
    if let Some(forecast) = app.disk_forecast()? {
        let days = forecast.full_in_days.map_or(f64::INFINITY, |days| days as f64);
        app.metrics.set("drover_disk_growth_bytes_per_day", Vec::new(), forecast.growth_bytes_per_day as f64);
        app.metrics.set("drover_disk_full_in_days", Vec::new(), days);
    }
    app.metrics.set("drover_read_only", Vec::new(), if app.db.read_only() { 1.0 } else { 0.0 });
    *counted = Some(Counted::since(began));
    Ok(())
}

fn set_census(app: &App, census: Census) {
    let owned = |labels: Vec<(&'static str, Cow<'static, str>)>| -> Vec<(&'static str, String)> {
        labels.into_iter().map(|(key, value)| (key, value.into_owned())).collect()
    };
    for ((name, labels), value) in census.gauges {
        app.metrics.set(name, owned(labels), value as f64);
    }
    for ((name, labels), value) in census.counters {
        app.metrics.set_total(name, owned(labels), value);
    }
}

/// A backup of everything but the key file, taken while the coordinator works
///
/// A tar file; `drover-coordinator restore` reads it. One that was cut off is known as such by its end.
#[utoipa::path(get, path = "/system/backup", tag = "System",
    responses((status = 200, body = inline(Binary), content_type = "application/x-tar")))]
async fn get_backup(State(app): State<Arc<App>>, caller: Caller) -> Result<Response, Fault> {
    caller.require(Permission::SystemBackup)?;
    let on_disk = app.on_disk.clone();
    let on_disk = on_disk.ok_or_else(|| Error::wrong_state("the store lies in memory and cannot be backed up"))?;
    let (sender, pieces) = tokio::sync::mpsc::channel(PIECES_AHEAD);
    let about = About { created_at: app.db.now(), secrets_key_fingerprint: Some(app.secrets.fingerprint_text()) };
    let hold = Arc::clone(&app.blob_hold);
    tokio::task::spawn_blocking(move || {
        let blobs = on_disk.blobs_folder.as_deref().map(|folder| backup::Blobs { folder, hold: &hold });
        let mut out = BufWriter::with_capacity(PIECE_BYTES, Pieces(sender.clone()));
        let written = backup::write(&on_disk.engine, blobs, &about, &mut out).and_then(|_| out.flush());
        if let Err(error) = written {
            tracing::warn!(%error, "a backup was not finished");
            // The reader sees a broken stream and not an end.
            let _ = sender.blocking_send(Err(error));
        }
    });
    let mut response = Body::from_stream(ReceiverStream::new(pieces)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    let disposition = HeaderValue::from_static("attachment; filename=\"drover-backup.tar\"");
    headers.insert(header::CONTENT_DISPOSITION, disposition);
    Ok(response)
}

/// Hands what is written on a blocking thread to an answer, and waits when the reader is slow.
struct Pieces(tokio::sync::mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the reader of the backup has gone away");
        self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
