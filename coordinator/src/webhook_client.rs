//! Calls webhooks: only addresses that may be called, without following anybody elsewhere, and never for long.

use std::{
    error::Error as StdError,
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use drover_protocol::{AccountId, Timestamp};
use futures::StreamExt;
use reqwest::{
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    domain::{
        news::News,
        webhook::{MAX_ANSWER_BYTES, Outcome, Webhook, cloud_event, is_public, signature},
    },
    error::{Error, Result},
};

/// Calls that are under way at the same time, of all webhooks together.
const MAX_CALLS: usize = 64;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How webhooks are called.
#[derive(Clone, Copy, Debug)]
pub struct WebhookRules {
    /// Whether addresses of this host and of private networks may be called.
    pub allow_private_targets: bool,
    /// How long a receiver may take to answer.
    pub timeout_seconds: u64,
}

/// What is to be sent.
#[derive(Debug)]
pub struct Message<'a> {
    /// The public address of the coordinator, or nothing.
    pub root: &'a str,
    pub account: AccountId,
    pub kind: &'a str,
    pub news: &'a News,
    /// All of them sign it.
    pub secrets: &'a [Vec<u8>],
    pub now: Timestamp,
}

/// A caller of webhooks.
pub struct WebhookClient {
    rules: WebhookRules,
    /// Made when it is needed first: reading the certificates of the host takes a while.
    client: OnceLock<reqwest::Client>,
    calls: Semaphore,
}

impl WebhookClient {
    pub fn new(rules: WebhookRules) -> Self {
        Self { rules, client: OnceLock::new(), calls: Semaphore::new(MAX_CALLS) }
    }

    fn client(&self) -> Result<&reqwest::Client> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let resolver = Arc::new(Resolver { allow_private: self.rules.allow_private_targets });
        let client = reqwest::Client::builder()
            .user_agent(concat!("Drover/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(Duration::from_secs(self.rules.timeout_seconds))
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(4)
            // A proxy would connect to addresses that are not seen here.
            .no_proxy()
            .dns_resolver(resolver)
            .build()
            .map_err(|error| Error::Internal(format!("webhooks cannot be called: {}", reason(&error))))?;
        Ok(self.client.get_or_init(|| client))
    }

    /// Sends a message, and tells how the receiver answers. Waits for a turn if too much is sent already.
    pub async fn send(&self, webhook: &Webhook, message: &Message<'_>) -> Result<Outcome> {
        let client = self.client()?;
        let _turn = self.calls.acquire().await.map_err(|_| Error::Internal("no calls are made".to_owned()))?;
        let body = cloud_event(message.root, message.account, message.kind, message.news).to_string();
        let id = message.news.id.to_string();
        let seconds = message.now.millis() / 1_000;
        let signed = signature(message.secrets, &id, seconds, body.as_bytes());
        let began = Instant::now();
        let failed =
            |error: String| Outcome { latency_ms: millis(began), status: None, error: Some(error), answer: None };
        if let Err(refusal) = self.check_literal(&webhook.url) {
            return Ok(failed(refusal));
        }
        let request = client
            .post(&webhook.url)
            .header("content-type", "application/cloudevents+json")
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds.to_string())
            .header("webhook-signature", signed)
            .body(body);
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Ok(failed(reason(&error))),
        };
        let status = response.status();
        let location = response.headers().get("location").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let answer = beginning(response, MAX_ANSWER_BYTES).await;
        let answer = (!answer.is_empty()).then(|| String::from_utf8_lossy(&answer).into_owned());
        let error = match status.as_u16() {
            200..300 => None,
            300..400 => Some(format!(
                "the receiver redirects with {status} to {}; redirects are not followed, give the final address",
                location.as_deref().unwrap_or("nowhere")
            )),
            _ => Some(format!("the receiver answered {status}")),
        };
        Ok(Outcome { latency_ms: millis(began), status: Some(status.as_u16()), error, answer })
    }

    /// An address that stands in the URL itself is asked of no resolver.
    fn check_literal(&self, url: &str) -> std::result::Result<(), String> {
        let url = url::Url::parse(url).map_err(|error| format!("the URL is no address: {error}"))?;
        let literal = match url.host() {
            Some(url::Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(url::Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            _ => None,
        };
        match literal {
            Some(address) if !self.rules.allow_private_targets && !is_public(address) => Err(refusal(address)),
            _ => Ok(()),
        }
    }
}

fn refusal(address: IpAddr) -> String {
    format!(
        "the address {address} is not in the open Internet, and is not called unless the setting \
         webhooks.allow_private_targets is on"
    )
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The beginning of an answer's body: at most so many bytes.
pub async fn beginning(response: reqwest::Response, limit: usize) -> Vec<u8> {
    let mut body = Vec::new();
    let mut pieces = response.bytes_stream();
    while let Some(Ok(piece)) = pieces.next().await {
        body.extend_from_slice(&piece);
        if body.len() >= limit {
            body.truncate(limit);
            break;
        }
    }
    body
}

/// What a failed call comes to, in one line: the outer error says what was done, the inner ones why it failed.
pub fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "the receiver did not answer in time".to_owned();
    }
    let mut text = String::new();
    let mut source: Option<&dyn StdError> = error.source();
    while let Some(inner) = source {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    if text.is_empty() { error.to_string() } else { text }
}

/// Finds the addresses of a name, and keeps those that may be called: the connection is made to one of these and to no
/// other, so that no second look at the name can lead elsewhere.
struct Resolver {
    allow_private: bool,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed: Vec<SocketAddr> =
                found.iter().copied().filter(|address| allow_private || is_public(address.ip())).collect();
            match (allowed.is_empty(), found.first()) {
                (true, Some(hidden)) => Err(refusal(hidden.ip()).into()),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}
