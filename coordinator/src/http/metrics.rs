//! Figures for Prometheus: what the HTTP face did, and what the store says at the moment of asking.

use std::{sync::Arc, time::Duration};

use metrics::{Label, Recorder, SharedString};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// A request that has not been answered yet.
pub struct UnderWay(metrics::Gauge);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// The figures of one coordinator; several in one process (tests) do not mix.
#[derive(Clone)]
pub struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
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
        Self { recorder: Arc::new(recorder), handle }
    }
}

impl Metrics {
    pub fn count_request(&self, method: &str, route: &str, status: u16, took: Duration) {
        let labels = vec![
            Label::new("method", SharedString::from(method.to_owned())),
            Label::new("route", SharedString::from(route.to_owned())),
        ];
        let timed = metrics::Key::from_parts("drover_http_request_seconds", labels.clone());
        self.recorder.register_histogram(&timed, &METADATA).record(took.as_secs_f64());
        let labels = labels.into_iter().chain([Label::new("status", SharedString::from(status.to_string()))]);
        let counted = metrics::Key::from_parts("drover_http_requests_total", labels.collect::<Vec<_>>());
        self.recorder.register_counter(&counted, &METADATA).increment(1);
    }

    /// Counts a request as under way until the guard is dropped; those that stay are long polls.
    pub fn under_way(&self, method: &str, route: &str) -> UnderWay {
        let labels = vec![
            Label::new("method", SharedString::from(method.to_owned())),
            Label::new("route", SharedString::from(route.to_owned())),
        ];
        let key = metrics::Key::from_parts("drover_http_requests_under_way", labels);
        let gauge = self.recorder.register_gauge(&key, &METADATA);
        gauge.increment(1.0);
        UnderWay(gauge)
    }

    /// Sets a figure that is known at the moment of asking.
    pub fn set(&self, name: &'static str, labels: Vec<(&'static str, String)>, value: f64) {
        let labels: Vec<Label> = labels.into_iter().map(|(key, value)| Label::new(key, value)).collect();
        self.recorder.register_gauge(&metrics::Key::from_parts(name, labels), &METADATA).set(value);
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        self.handle.run_upkeep();
        self.handle.render()
    }
}
