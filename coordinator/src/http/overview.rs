//! The figures of the console's first page over HTTP.

use std::sync::Arc;

use axum::{Json, extract::State};
use drover_protocol::{
    job::{JobState, Outcome},
    overview::{
        AlertFigures, DiskFigures, DiskForecast, JobFigures, NextFire, OutcomeFigures, Overview, QueueFigures,
        RobotFigures,
    },
    robot::RobotState,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Fault, alert::raised_view};
use crate::{
    app::App,
    domain::{disk::Forecast, task::Phase},
    operations::{
        Caller,
        overview::{self, MAX_RAISED, QueueLook},
    },
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(get_overview))
}

/// The figures of the console's first page
///
/// What the caller may not read is null. Jobs of one state and robots are counted up to 20,000.
#[utoipa::path(get, path = "/overview", tag = "System", responses((status = 200, body = Overview)))]
async fn get_overview(State(app): State<Arc<App>>, caller: Caller) -> Result<Json<Overview>, Fault> {
    overview::check(&caller)?;
    // Counting takes a while in a large fleet: so many at once, off the threads that serve requests.
    let _turn = app.overviews.acquire().await;
    let account = caller.account;
    let found = app.read_aside_in_parts(account, move |reading| overview::overview(reading, &caller)).await?;
    let forecast = app.disk_forecast()?;
    Ok(Json(view(&app, found, forecast)))
}

fn forecast_view(forecast: Forecast) -> DiskForecast {
    DiskForecast {
        growth_bytes_per_day: forecast.growth_bytes_per_day,
        full_in_days: forecast.full_in_days,
        observed_days: forecast.observed_days,
    }
}

fn view(app: &App, found: overview::Overview, forecast: Option<Forecast>) -> Overview {
    let robots_in = |state: RobotState| found.fleet.robots_in(state) as u64;
    let jobs_in = |state: JobState| found.fleet.jobs_in(state) as u64;
    let robots = found.may_see_robots.then(|| RobotFigures {
        offline: robots_in(RobotState::Offline),
        idle: robots_in(RobotState::Idle),
        busy: robots_in(RobotState::Busy),
        draining: robots_in(RobotState::Draining),
        paused: robots_in(RobotState::Paused),
        disabled: robots_in(RobotState::Disabled),
    });
    let jobs = found.finished.map(|finished| JobFigures {
        waiting: jobs_in(JobState::Waiting),
        assigned: jobs_in(JobState::Assigned),
        running: jobs_in(JobState::Running),
        silent: jobs_in(JobState::Silent),
        stopping: jobs_in(JobState::Stopping),
        finished: outcomes(finished),
    });
    let alerts = found.raised.map(|raised| AlertFigures {
        raised: raised.len() as u64,
        unacknowledged: raised.iter().filter(|raised| raised.acknowledged.is_none()).count() as u64,
        items: raised.into_iter().take(MAX_RAISED).map(raised_view).collect(),
    });
    let fires = found.next_fires.map(|triggers| {
        let fire = |trigger: crate::domain::trigger::Trigger| {
            let (trigger_id, process_id) = (trigger.id, trigger.process_id);
            trigger.next_fire_at.map(|at| NextFire { at, trigger_id, name: trigger.name, process_id })
        };
        triggers.into_iter().filter_map(fire).collect()
    });
    let disk = app.disk().map(|disk| DiskFigures {
        free_bytes: disk.free_bytes,
        total_bytes: disk.total_bytes,
        low: disk.is_low(),
        full: disk.is_full,
        forecast: forecast.map(forecast_view),
    });
    let queues = found.queues.map(|queues| queues.into_iter().map(queue_view).collect());
    Overview { at: app.db.now(), robots, jobs, queues, alerts, next_fires: fires, disk }
}

fn outcomes(finished: [u64; Outcome::ALL.len()]) -> OutcomeFigures {
    let of = |outcome: Outcome| finished[outcome as usize];
    OutcomeFigures {
        succeeded: of(Outcome::Succeeded),
        failed: of(Outcome::Failed),
        stopped: of(Outcome::Stopped),
        aborted: of(Outcome::Aborted),
        timed_out: of(Outcome::TimedOut),
        lost: of(Outcome::Lost),
    }
}

fn queue_view(look: QueueLook) -> QueueFigures {
    QueueFigures {
        queue_id: look.queue.id,
        name: look.queue.name,
        paused: look.paused,
        new: look.counters.ready(),
        in_progress: look.counters.count(Phase::InProgress),
        postponed: look.counters.count(Phase::Postponed),
        oldest_new_at: look.oldest_new_at,
    }
}
