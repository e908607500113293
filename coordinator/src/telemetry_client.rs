//! Sends traces and logs to a collector of OpenTelemetry: OTLP over HTTP with protobuf.

use std::{sync::OnceLock, time::Duration};

use drover_protocol::{
    Timestamp,
    log::{FoundLine, Level},
    trace::SpanId,
};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse},
        trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    },
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span as WireSpan, Status,
        span::{Link, SpanKind},
        status::StatusCode,
    },
};
use percent_encoding::percent_decode_str;
use prost::Message;
use reqwest::redirect;
use serde_json::Value;

use crate::{
    domain::{account::Account, trace::Span},
    error::{Error, Result},
    webhook_client::{beginning, reason},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// No message is larger, unless it is of one piece: collectors refuse what is too large.
const MAX_BODY_BYTES: usize = 2 * 1024 * 1024;
/// Of an answer no more is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Who waits as the collector asks does not wait longer than this.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Where traces and logs go.
#[derive(Clone)]
pub struct TelemetryRules {
    /// Root of the collector; the paths of the signals follow.
    pub endpoint: String,
    /// What every call carries.
    pub headers: HeaderMap,
    pub traces: bool,
    pub logs: bool,
    pub timeout_seconds: u64,
}

impl std::fmt::Debug for TelemetryRules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TelemetryRules").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// `name=value` pairs between commas, values percent-encoded where they must be, as OTEL_EXPORTER_OTLP_HEADERS has them.
/// Values are marked as secrets; no error repeats one.
pub fn headers(text: &str) -> std::result::Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (number, pair) in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()).enumerate() {
        let fault = |what: &str| format!("{what} (pair {}); write name=value between commas", number + 1);
        let (name, value) = pair.split_once('=').ok_or_else(|| fault("there is no ="))?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| fault("this is no name of a header"))?;
        let value: Vec<u8> = percent_decode_str(value.trim()).collect();
        let mut value = HeaderValue::try_from(value).map_err(|_| fault("this is no value of a header"))?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

/// What came of sending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The collector has it, but for so many pieces that it refused.
    Taken { refused: u64, reason: String },
    /// Nothing can be sent or taken now.
    Later { after: Option<Duration>, reason: String },
    /// The collector failed at it, and may do so again.
    Failed { reason: String },
}

/// What a collector says to one message.
enum Said {
    Taken { refused: u64, reason: String },
    TooLarge { reason: String },
    Refused { reason: String },
    Later(Sent),
}

/// A caller of a collector.
pub struct TelemetryClient {
    rules: TelemetryRules,
    /// Made when it is needed first: reading the certificates of the host takes a while.
    client: OnceLock<reqwest::Client>,
}

impl TelemetryClient {
    pub fn new(rules: TelemetryRules) -> Self {
        Self { rules, client: OnceLock::new() }
    }

    pub fn takes_traces(&self) -> bool {
        self.rules.traces
    }

    pub fn takes_logs(&self) -> bool {
        self.rules.logs
    }

    fn client(&self) -> Result<&reqwest::Client> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = reqwest::Client::builder()
            .user_agent(concat!("Drover/", env!("CARGO_PKG_VERSION")))
            .default_headers(self.rules.headers.clone())
            // What is sent would reach whoever the collector names, with the headers.
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(Duration::from_secs(self.rules.timeout_seconds))
            .build()
            .map_err(|error| Error::Internal(format!("no collector can be called: {}", reason(&error))))?;
        Ok(self.client.get_or_init(|| client))
    }

    /// Sends spans of one account.
    pub async fn send_spans(&self, account: &Account, spans: &[Span]) -> Result<Sent> {
        let message = |spans: &[Span]| {
            let scope_spans = vec![ScopeSpans {
                scope: Some(scope()),
                spans: spans.iter().map(wire_span).collect(),
                ..ScopeSpans::default()
            }];
            let of_account =
                ResourceSpans { resource: Some(resource(account)), scope_spans, ..ResourceSpans::default() };
            ExportTraceServiceRequest { resource_spans: vec![of_account] }.encode_to_vec()
        };
        self.send("v1/traces", spans, message, |answer| {
            let part = ExportTraceServiceResponse::decode(answer).ok()?.partial_success?;
            Some((part.rejected_spans, part.error_message))
        })
        .await
    }

    /// Sends lines of one account's logs; `now` is when they are seen here.
    pub async fn send_lines(&self, account: &Account, lines: &[FoundLine], now: Timestamp) -> Result<Sent> {
        let message = |lines: &[FoundLine]| {
            let scope_logs = vec![ScopeLogs {
                scope: Some(scope()),
                log_records: lines.iter().map(|line| log_record(line, now)).collect(),
                ..ScopeLogs::default()
            }];
            let of_account = ResourceLogs { resource: Some(resource(account)), scope_logs, ..ResourceLogs::default() };
            ExportLogsServiceRequest { resource_logs: vec![of_account] }.encode_to_vec()
        };
        self.send("v1/logs", lines, message, |answer| {
            let part = ExportLogsServiceResponse::decode(answer).ok()?.partial_success?;
            Some((part.rejected_log_records, part.error_message))
        })
        .await
    }

    /// Sends pieces in one message, or in halves as long as that is too large. What comes after a part that cannot be sent
    /// is not sent either, and all of it is to be sent again.
    async fn send<T>(
        &self,
        path: &str,
        pieces: &[T],
        message: impl Fn(&[T]) -> Vec<u8>,
        refusals: impl Fn(&[u8]) -> Option<(i64, String)>,
    ) -> Result<Sent> {
        let (mut refused, mut reasons) = (0, String::new());
        let mut parts = vec![pieces];
        while let Some(part) = parts.pop() {
            let body = message(part);
            let said = match body.len() > MAX_BODY_BYTES && part.len() > 1 {
                true => Said::TooLarge { reason: String::new() },
                false => self.call(path, body, &refusals).await?,
            };
            let (more, reason) = match said {
                Said::TooLarge { .. } if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                    continue;
                }
                Said::Taken { refused, reason } => (refused.min(part.len() as u64), reason),
                Said::Refused { reason } | Said::TooLarge { reason } => (part.len() as u64, reason),
                Said::Later(later) => return Ok(later),
            };
            refused += more;
            if more > 0 {
                reasons = reason;
            }
        }
        Ok(Sent::Taken { refused, reason: reasons })
    }

    async fn call(&self, path: &str, body: Vec<u8>, refusals: impl Fn(&[u8]) -> Option<(i64, String)>) -> Result<Said> {
        let url = format!("{}/{path}", self.rules.endpoint.trim_end_matches('/'));
        let request = self.client()?.post(url).header(header::CONTENT_TYPE, "application/x-protobuf").body(body);
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Ok(Said::Later(Sent::Later { after: None, reason: reason(&error) })),
        };
        let status = response.status();
        if status.is_success() {
            let (refused, reason) = refusals(&beginning(response, MAX_ANSWER_BYTES).await).unwrap_or_default();
            return Ok(Said::Taken { refused: u64::try_from(refused).unwrap_or_default(), reason });
        }
        let reason = format!("the collector answered {status}");
        Ok(match status.as_u16() {
            413 => Said::TooLarge { reason },
            // These say that the message itself is to blame.
            400 | 415 | 422 => Said::Refused { reason },
            // It may be this message at which it fails, and others may pass.
            500 | 501 => Said::Later(Sent::Failed { reason }),
            // Whatever else is wrong can be mended without the message.
            _ => Said::Later(Sent::Later { after: retry_after(response.headers()), reason }),
        })
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

/// Whose work it is.
fn resource(account: &Account) -> Resource {
    let attributes = vec![
        text("service.name", "drover"),
        text("service.version", env!("CARGO_PKG_VERSION")),
        text("drover.account.id", account.id.to_string()),
        text("drover.account.name", account.name.as_str()),
    ];
    Resource { attributes, ..Resource::default() }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "drover".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

fn wire_span(span: &Span) -> WireSpan {
    let link = |(trace, id): &(uuid::Uuid, SpanId)| Link {
        trace_id: trace.as_bytes().to_vec(),
        span_id: id.bytes().to_vec(),
        ..Link::default()
    };
    let status = match &span.error {
        Some(error) => Status { code: StatusCode::Error.into(), message: error.clone() },
        None => Status { code: StatusCode::Ok.into(), message: String::new() },
    };
    WireSpan {
        trace_id: span.trace.as_bytes().to_vec(),
        span_id: span.id.bytes().to_vec(),
        parent_span_id: span.parent.map(|parent| parent.bytes().to_vec()).unwrap_or_default(),
        name: span.name.clone(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: nanos(span.started_at),
        end_time_unix_nano: nanos(span.ended_at.max(span.started_at)),
        attributes: span.attributes.iter().map(|(name, value)| key_value(name, value)).collect(),
        links: span.follows.iter().map(link).collect(),
        status: Some(status),
        ..WireSpan::default()
    }
}

fn log_record(line: &FoundLine, now: Timestamp) -> LogRecord {
    let mut attributes: Vec<KeyValue> = line.fields.iter().map(|(name, value)| key_value(name, value)).collect();
    let known = [
        ("drover.robot.name", line.robot_name.clone()),
        ("drover.process.name", line.process_name.clone()),
        ("drover.by", line.by.clone()),
        ("drover.job.id", line.job_id.map(|id| id.to_string())),
    ];
    attributes.extend(known.into_iter().filter_map(|(name, value)| Some(text(name, value?))));
    let span = line.job_id.zip(line.attempt);
    if let (Some((job, attempt)), Some(seq)) = (span, line.seq) {
        attributes.push(number("drover.job.attempt", i64::from(attempt)));
        attributes.push(number("drover.log.seq", i64::try_from(seq).unwrap_or(i64::MAX)));
        // By this a line that was sent twice is known as one.
        attributes.push(text("log.record.uid", format!("{job}-{attempt}-{seq}")));
    }
    LogRecord {
        time_unix_nano: nanos(line.time),
        observed_time_unix_nano: nanos(now),
        severity_number: severity(line.level).into(),
        severity_text: line.level.as_str().to_owned(),
        body: Some(any(&Value::String(line.message.clone()))),
        attributes,
        trace_id: span.map(|(job, _)| job.uuid().as_bytes().to_vec()).unwrap_or_default(),
        span_id: span.map(|(job, attempt)| SpanId::of_process(job, attempt).bytes().to_vec()).unwrap_or_default(),
        ..LogRecord::default()
    }
}

fn severity(level: Level) -> SeverityNumber {
    match level {
        Level::Trace => SeverityNumber::Trace,
        Level::Debug => SeverityNumber::Debug,
        Level::Info => SeverityNumber::Info,
        Level::Warning => SeverityNumber::Warn,
        Level::Error => SeverityNumber::Error,
        Level::Critical => SeverityNumber::Fatal,
    }
}

fn nanos(time: Timestamp) -> u64 {
    u64::try_from(time.millis()).unwrap_or_default().saturating_mul(1_000_000)
}

fn text(name: &str, value: impl Into<String>) -> KeyValue {
    attribute(name, any_value::Value::StringValue(value.into()))
}

fn number(name: &str, value: i64) -> KeyValue {
    attribute(name, any_value::Value::IntValue(value))
}

fn attribute(name: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn key_value(name: &str, value: &Value) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(any(value)), ..KeyValue::default() }
}

/// Any JSON; its depth is bounded where it comes in.
fn any(value: &Value) -> AnyValue {
    use any_value::Value as Any;
    let value = match value {
        Value::Null => None,
        Value::Bool(flag) => Some(Any::BoolValue(*flag)),
        Value::Number(number) => Some(match number.as_i64() {
            Some(whole) => Any::IntValue(whole),
            None => Any::DoubleValue(number.as_f64().unwrap_or(f64::NAN)),
        }),
        Value::String(text) => Some(Any::StringValue(text.clone())),
        Value::Array(items) => Some(Any::ArrayValue(ArrayValue { values: items.iter().map(any).collect() })),
        Value::Object(members) => {
            let values = members.iter().map(|(name, value)| key_value(name, value)).collect();
            Some(Any::KvlistValue(KeyValueList { values }))
        }
    };
    AnyValue { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_pairs_and_no_error_repeats_a_value() {
        let read = headers("authorization=Bearer abc==, x-tenant = robots,api=Basic%20a%2Cb,x=100%").expect("headers");
        assert_eq!(read["authorization"], "Bearer abc==");
        assert_eq!(
            (&read["api"], &read["x"]),
            (&HeaderValue::from_static("Basic a,b"), &HeaderValue::from_static("100%"))
        );
        assert_eq!(read["x-tenant"], "robots");
        assert!(!format!("{read:?}").contains("abc"));
        for bad in ["secret", "a b=secret", "a=secret\u{7f}", "a=secret%0Ab: c"] {
            let error = headers(bad).expect_err("this is no header");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn json_of_any_shape_is_an_attribute() {
        let value = serde_json::json!({"a": [1, 2.5, true, null, "x"]});
        let AnyValue { value: Some(any_value::Value::KvlistValue(list)) } = any(&value) else { panic!("an object") };
        let Some(any_value::Value::ArrayValue(array)) = list.values[0].value.clone().and_then(|any| any.value) else {
            panic!("an array")
        };
        use any_value::Value as Any;
        let kinds: Vec<Option<Any>> = array.values.into_iter().map(|any| any.value).collect();
        let expected = vec![
            Some(Any::IntValue(1)),
            Some(Any::DoubleValue(2.5)),
            Some(Any::BoolValue(true)),
            None,
            Some(Any::StringValue("x".to_owned())),
        ];
        assert_eq!(kinds, expected);
    }
}
