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

/// By method and route.
type Routes = HashMap<&'static str, HashMap<String, Arc<RouteFigures>>>;

/// The figures of one coordinator; several in one process (tests) do not mix.
#[derive(Clone)]
pub struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    routes: Arc<RwLock<Routes>>,
    /// Held while the store is counted; when the last count began.
    pub counting: Arc<tokio::sync::Mutex<Option<Instant>>>,
}

const METADATA: metrics::Metadata = metrics::Metadata::new("drover", metrics::Level::INFO, None);
/// From a fast read to a long poll, in seconds.
const BUCKETS: [f64; 10] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0];

impl Default for Metrics {
    fn default() -> Self {
        let builder = PrometheusBuilder::new().set_buckets(&BUCKETS).expect("the buckets are not empty");
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        recorder.describe_counter(
            "drover_http_requests_total".into(),
            None,
            "HTTP requests by method, route and status".into(),
        );
        recorder.describe_histogram(
            "drover_http_request_seconds".into(),
            None,
            "Time to answer, long polls included".into(),
        );
        recorder.describe_counter(
            "drover_telemetry_sent_total".into(),
            None,
            "Spans and lines of logs that the collector has taken".into(),
        );
        recorder.describe_counter(
            "drover_telemetry_lost_total".into(),
            None,
            "Spans and lines of logs that were not exported: refused, or too old or too many while the collector could not \
             be reached (of lines that were too old: 1 for each time)"
                .into(),
        );
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
        let labels: Vec<Label> = labels.into_iter().map(|(key, value)| Label::new(key, value)).collect();
        self.recorder.register_gauge(&metrics::Key::from_parts(name, labels), &METADATA).set(value);
    }

    /// Counts something that has happened so many times.
    pub fn count(&self, name: &'static str, label: (&'static str, &'static str), times: u64) {
        let labels = vec![Label::from_static_parts(label.0, label.1)];
        self.recorder.register_counter(&metrics::Key::from_parts(name, labels), &METADATA).increment(times);
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
