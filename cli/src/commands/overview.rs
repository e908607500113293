//! `drover overview`: how the fleet is, on one page.

use drover_protocol::overview::{DiskForecast, Overview, QueueFigures};

use crate::{
    error::Error,
    output::{Shown, Tone, moment, moment_opt, number, size, toned},
    session::Session,
};

/// A disk that is full so soon is something to see to.
const SOON_DAYS: u64 = 14;

pub async fn show(session: &Session) -> Result<(), Error> {
    let answer = session.client.get(&["overview"])?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let page: Overview = answer.decode()?;
    session.out.fields(figures(&page))?;
    if let Some(queues) = page.queues.filter(|queues| !queues.is_empty()) {
        session.out.line("")?;
        let rows = queues.into_iter().map(queue_row).collect();
        session.out.table(&["QUEUE", "NEW", "IN PROGRESS", "POSTPONED", "OLDEST SINCE"], rows)?;
    }
    if let Some(alerts) = page.alerts.filter(|alerts| !alerts.items.is_empty()) {
        session.out.line("")?;
        let row = |raised: drover_protocol::alert::RaisedAlert| {
            vec![moment(raised.raised_at).into(), raised.alert_name.into(), raised.text.into()]
        };
        session.out.table(&["RAISED", "ALERT", "WHAT"], alerts.items.into_iter().map(row).collect())?;
    }
    if let Some(fires) = page.next_fires.filter(|fires| !fires.is_empty()) {
        session.out.line("")?;
        let rows = fires.into_iter().map(|fire| vec![moment(fire.at).into(), fire.name.into()]).collect();
        session.out.table(&["FIRES", "TRIGGER"], rows)?;
    }
    Ok(())
}

/// Those figures that there are: `12 waiting, 4 running`.
fn counted(figures: &[(u64, &str)]) -> String {
    let some: Vec<String> =
        figures.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if some.is_empty() { "none".to_owned() } else { some.join(", ") }
}

fn figures(page: &Overview) -> Vec<(&'static str, Shown)> {
    let mut rows: Vec<(&str, Shown)> = Vec::new();
    if let Some(robots) = &page.robots {
        let text = counted(&[
            (robots.idle, "idle"),
            (robots.busy, "busy"),
            (robots.draining, "draining"),
            (robots.paused, "paused"),
            (robots.disabled, "disabled"),
            (robots.offline, "offline"),
        ]);
        rows.push(("robots", text.into()));
    }
    if let Some(jobs) = &page.jobs {
        let text = counted(&[
            (jobs.waiting, "waiting"),
            (jobs.assigned, "assigned"),
            (jobs.running, "running"),
            (jobs.silent, "silent"),
            (jobs.stopping, "stopping"),
        ]);
        rows.push(("jobs", text.into()));
        let finished = &jobs.finished;
        let text = counted(&[
            (finished.succeeded, "succeeded"),
            (finished.failed, "failed"),
            (finished.stopped, "stopped"),
            (finished.aborted, "aborted"),
            (finished.timed_out, "timed out"),
            (finished.lost, "lost"),
        ]);
        rows.push(("within a day", text.into()));
    }
    if let Some(alerts) = &page.alerts {
        let tone = if alerts.unacknowledged > 0 { Tone::Bad } else { Tone::Plain };
        rows.push(("alerts", toned(alerts.raised.to_string(), tone)));
    }
    if let Some(disk) = &page.disk {
        let text = format!("{} of {} free", size(disk.free_bytes), size(disk.total_bytes));
        rows.push(("disk", toned(text, if disk.low { Tone::Bad } else { Tone::Plain })));
        rows.extend(disk.forecast.as_ref().map(|forecast| ("disk full", full(forecast))));
    }
    rows
}

/// `in 23 days, by 1.2 GiB a day`.
fn full(forecast: &DiskForecast) -> Shown {
    let growth = size(forecast.growth_bytes_per_day.unsigned_abs());
    match forecast.full_in_days {
        Some(days) => {
            let tone = if days < SOON_DAYS { Tone::Warning } else { Tone::Plain };
            toned(format!("in {days} days, by {growth} a day"), tone)
        }
        None if forecast.growth_bytes_per_day > 0 => format!("not within ten years, by {growth} a day").into(),
        None => "its use does not grow".into(),
    }
}

fn queue_row(queue: QueueFigures) -> Vec<Shown> {
    let name = if queue.paused { format!("{} (paused)", queue.name) } else { queue.name };
    vec![
        name.into(),
        number(queue.new),
        number(queue.in_progress),
        number(queue.postponed),
        moment_opt(queue.oldest_new_at).into(),
    ]
}
