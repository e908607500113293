//! Figures for Prometheus: what the HTTP face did, and what the store says at the moment of asking.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use metrics::{Counter, Gauge, Histogram, Label, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use parking_lot::RwLock;

/// A request that has not been answered yet.
pub struct UnderWay(Gauge);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// The figures of one method of one route, looked up once and then only counted.
pub struct RouteFigures {
    recorder: Arc<PrometheusRecorder>,
    labels: Vec<Label>,
    under_way: Gauge,
    seconds: Histogram,
    by_status: RwLock<HashMap<u16, Counter>>,
}

impl RouteFigures {
    fn new(recorder: &Arc<PrometheusRecorder>, method: &'static str, route: &str) -> Self {
        let labels = vec![Label::from_static_parts("method", method), Label::new("route", route.to_owned())];
        let key = |name: &'static str| metrics::Key::from_parts(name, labels.clone());
        Self {
            under_way: recorder.register_gauge(&key("drover_http_requests_under_way"), &METADATA),
            seconds: recorder.register_histogram(&key("drover_http_request_seconds"), &METADATA),
            by_status: RwLock::default(),
            recorder: Arc::clone(recorder),
            labels,
        }
    }

    /// Counts a request as under way until the guard is dropped; those that stay are long polls.
    pub fn begin(&self) -> UnderWay {
        self.under_way.increment(1.0);
        UnderWay(self.under_way.clone())
    }

    /// Counts a request that has been answered.
    pub fn count(&self, status: u16, took: Duration) {
        self.seconds.record(took.as_secs_f64());
        if let Some(counter) = self.by_status.read().get(&status) {
            return counter.increment(1);
        }
        let labels = self.labels.iter().cloned().chain([Label::new("status", status.to_string())]);
        let key = metrics::Key::from_parts("drover_http_requests_total", labels.collect::<Vec<_>>());
        let counter = self.recorder.register_counter(&key, &METADATA);
        counter.increment(1);
        self.by_status.write().insert(status, counter);
    }
}

fn key(name: &'static str, labels: Vec<(&'static str, String)>) -> metrics::Key {
    let labels: Vec<Label> = labels.into_iter().map(|(key, value)| Label::new(key, value)).collect();
    metrics::Key::from_parts(name, labels)
}

/// By method and route.
type Routes = HashMap<&'static str, HashMap<String, Arc<RouteFigures>>>;

/// The figures of one coordinator; several in one process (tests) do not mix.
#[derive(Clone)]
pub struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    routes: Arc<RwLock<Routes>>,
    /// Held while the store is counted; the last count.
    pub counting: Arc<tokio::sync::Mutex<Option<Counted>>>,
}

/// A count of what is in the store.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    began: Instant,
    took: Duration,
}

impl Counted {
    pub fn since(began: Instant) -> Self {
        Self { began, took: began.elapsed() }
    }

    /// Whether it will do for who asked at this time: it began later, or it took so long that one cannot be made for each
    /// who asks. Whoever may ask without a key could otherwise keep a core busy.
    pub fn is_good_for(self, asked: Instant) -> bool {
        let kept = if self.took < LONG_COUNT { Duration::ZERO } else { self.took * LONG_COUNT_KEPT };
        asked <= self.began + kept
    }
}

/// A count that takes longer is kept for so many times as long.
const LONG_COUNT: Duration = Duration::from_millis(100);
const LONG_COUNT_KEPT: u32 = 10;

/// Every figure, with what it says. Figures of objects are of all accounts; what is counted one by one is counted up to
/// 20,000 in each.
const GAUGES: &[(&str, &str)] = &[
    ("drover_http_requests_under_way", "HTTP requests that are not answered yet; those that stay are long polls"),
    ("drover_accounts", "Accounts, by whether they are disabled"),
    ("drover_users", "Users, by whether they are blocked"),
    ("drover_roles", "Roles that people made"),
    ("drover_keys", "API keys that are good, by whether a user, a robot or an attempt of a job holds them"),
    ("drover_sessions", "Sessions of users who have signed in"),
    ("drover_robots", "Robots by state"),
    ("drover_robot_groups", "Robot groups"),
    ("drover_processes", "Processes"),
    ("drover_process_versions", "Versions of processes"),
    ("drover_jobs", "Unfinished jobs by state"),
    ("drover_queues", "Queues, by whether they are paused"),
    ("drover_tasks", "Tasks by state; those that have ended are counted until they are deleted"),
    ("drover_triggers", "Triggers by kind and by whether they are enabled"),
    ("drover_resources", "Resources by kind"),
    ("drover_storage_folders", "Storage folders that people made"),
    ("drover_storage_files", "Files in these folders"),
    ("drover_storage_bytes", "Bytes of these files"),
    ("drover_webhooks", "Webhooks, by whether they are enabled"),
    ("drover_deliveries_waiting", "Deliveries to webhooks that wait for a try"),
    ("drover_alerts", "Alert rules, by whether they are enabled"),
    ("drover_alerts_raised", "Raised alerts that are not over"),
    ("drover_disk_free_bytes", "Free bytes of the disk of the store"),
    ("drover_disk_total_bytes", "All bytes of the disk of the store"),
    ("drover_disk_growth_bytes_per_day", "Median growth of the disk's use in a day; absent before a day of samples"),
    ("drover_disk_full_in_days", "Days until the disk is full at this growth, infinite if it does not grow"),
    ("drover_read_only", "1 while writes are refused because the disk is full, else 0"),
    ("drover_loop_seconds", "How long the last pass of a loop took"),
];
const COUNTERS: &[(&str, &str)] = &[
    ("drover_http_requests_total", "HTTP requests by method, route and status"),
    ("drover_jobs_finished_total", "Jobs that have finished, by outcome"),
    ("drover_fires_total", "Instants and events for which triggers were to fire, by what became of them"),
    ("drover_deliveries_ended_total", "Deliveries to webhooks that were taken or given up"),
    ("drover_alerts_raised_total", "Alerts that were raised"),
    ("drover_sign_ins_total", "Wishes to sign in with a browser that were accepted, refused or throttled"),
    ("drover_audit_acts_total", "Acts in the audit trail"),
    ("drover_telemetry_sent_total", "Spans and lines of logs that the collector has taken"),
    ("drover_telemetry_lost_total", "Spans and lines that were not exported: refused, too many or too old"),
];
const HISTOGRAMS: &[(&str, &str)] = &[("drover_http_request_seconds", "Time to answer, long polls included")];

const METADATA: metrics::Metadata = metrics::Metadata::new("drover", metrics::Level::INFO, None);
/// From a fast read to a long poll, in seconds.
const BUCKETS: [f64; 10] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0];

impl Default for Metrics {
    fn default() -> Self {
        let builder = PrometheusBuilder::new().set_buckets(&BUCKETS).expect("the buckets are not empty");
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        GAUGES.iter().for_each(|(name, about)| recorder.describe_gauge((*name).into(), None, (*about).into()));
        COUNTERS.iter().for_each(|(name, about)| recorder.describe_counter((*name).into(), None, (*about).into()));
        HISTOGRAMS.iter().for_each(|(name, about)| recorder.describe_histogram((*name).into(), None, (*about).into()));
        Self { recorder: Arc::new(recorder), handle, routes: Arc::default(), counting: Arc::default() }
    }
}

impl Metrics {
    /// The figures of a route; both words come from closed lists.
    pub fn of_route(&self, method: &'static str, route: &str) -> Arc<RouteFigures> {
        if let Some(figures) = self.routes.read().get(method).and_then(|routes| routes.get(route)) {
            return Arc::clone(figures);
        }
        let mut routes = self.routes.write();
        let of_method = routes.entry(method).or_default();
        let figures = of_method
            .entry(route.to_owned())
            .or_insert_with(|| Arc::new(RouteFigures::new(&self.recorder, method, route)));
        Arc::clone(figures)
    }

    /// Sets a figure that is known at the moment of asking.
    pub fn set(&self, name: &'static str, labels: Vec<(&'static str, String)>, value: f64) {
        self.recorder.register_gauge(&key(name, labels), &METADATA).set(value);
    }

    /// The same for a figure that only grows.
    pub fn set_total(&self, name: &'static str, labels: Vec<(&'static str, String)>, value: u64) {
        self.recorder.register_counter(&key(name, labels), &METADATA).absolute(value);
    }

    /// Counts something that has happened so many times.
    pub fn count(&self, name: &'static str, label: (&'static str, &'static str), times: u64) {
        self.recorder.register_counter(&key(name, vec![(label.0, label.1.to_owned())]), &METADATA).increment(times);
    }

    /// Puts what was timed since the last time into its buckets: until then every single time takes memory.
    pub fn gather(&self) {
        self.handle.run_upkeep();
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        self.gather();
        self.handle.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever operates it reads there what there is to watch.
    #[test]
    fn the_document_names_every_figure() {
        let document = include_str!("../../../README.md");
        let all = GAUGES.iter().chain(COUNTERS).chain(HISTOGRAMS);
        let missing: Vec<&str> =
            all.map(|(name, _)| *name).filter(|name| !document.contains(&format!("`{name}"))).collect();
        assert!(missing.is_empty(), "the README does not name {missing:?}");
    }
}
