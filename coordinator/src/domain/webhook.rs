//! Webhooks: when a delivery is tried again, what is sent and how it is signed, and which addresses are never called.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use drover_protocol::{AccountId, DeliveryId, Timestamp, WebhookId, news::NewsType, webhook::DeliveryState};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::Sha256;

use super::news::News;

/// How long a delivery is tried.
pub const GIVE_UP_SECONDS: u64 = 86_400;
const FIRST_RETRY_SECONDS: u64 = 5;
const LONGEST_RETRY_SECONDS: u64 = 3_600;
/// How long both secrets are good after a change, unless the caller says otherwise; and the longest.
pub const DEFAULT_GRACE_SECONDS: u64 = 86_400;
pub const MAX_GRACE_SECONDS: u64 = 604_800;
/// What is kept of an answer, in bytes.
pub const MAX_ANSWER_BYTES: usize = 1024;
/// So many deliveries may wait for one webhook.
pub const MAX_WAITING: u64 = 100_000;
/// What secrets begin with when people see them.
const SECRET_PREFIX: &str = "whsec_";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Webhook {
    pub id: WebhookId,
    pub name: String,
    pub description: String,
    pub url: String,
    pub events: BTreeSet<NewsType>,
    pub enabled: bool,
    pub disabled_because: Option<String>,
    pub secret: SealedSecret,
    /// The secret of before, and until when it is good.
    pub old_secret: Option<(SealedSecret, Timestamp)>,
    pub created_at: Timestamp,
    pub revision: u64,
}

impl Webhook {
    /// What it wants to be told.
    pub fn wants(&self) -> Vec<NewsType> {
        if self.enabled { self.events.iter().copied().collect() } else { Vec::new() }
    }
}

/// A secret as it is kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedSecret(#[serde(with = "serde_bytes")] pub Vec<u8>);

impl std::fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("sealed")
    }
}

/// How a webhook fares. Apart from its record, which people change and which is then told to them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faring {
    pub waiting: u64,
    pub last_delivered_at: Option<Timestamp>,
    pub failing_since: Option<Timestamp>,
    /// Nothing more is taken in, since too much waits; told once until there is room again.
    pub is_full: bool,
}

/// One try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Try {
    pub at: Timestamp,
    pub latency_ms: u64,
    pub status: Option<u16>,
    pub error: Option<String>,
}

/// News on their way to a webhook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    pub id: DeliveryId,
    pub webhook_id: WebhookId,
    pub news: News,
    pub state: DeliveryState,
    pub created_at: Timestamp,
    /// When it is tried next, as long as it waits.
    pub next_try_at: Option<Timestamp>,
    pub give_up_at: Timestamp,
    /// Tries since it was made or asked for again: the delays grow with them.
    pub round: u32,
    pub tries: Vec<Try>,
    pub answer: Option<String>,
}

/// How a try went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub latency_ms: u64,
    pub status: Option<u16>,
    /// Absent: it was taken.
    pub error: Option<String>,
    pub answer: Option<String>,
}

impl Outcome {
    /// Whether the receiver says that it wants nothing any more.
    pub fn is_gone(&self) -> bool {
        self.status == Some(410)
    }
}

/// Tries that are kept; a day has about thirty, and each replay adds its own.
const MAX_TRIES: usize = 100;

impl Delivery {
    pub fn new(id: DeliveryId, webhook_id: WebhookId, news: News, now: Timestamp) -> Self {
        Self {
            id,
            webhook_id,
            news,
            state: DeliveryState::Waiting,
            created_at: now,
            next_try_at: Some(now),
            give_up_at: now.plus_seconds(GIVE_UP_SECONDS),
            round: 0,
            tries: Vec::new(),
            answer: None,
        }
    }

    /// It is to be sent again, as if it were new.
    pub fn begin_again(&mut self, now: Timestamp) {
        self.state = DeliveryState::Waiting;
        self.next_try_at = Some(now);
        self.give_up_at = now.plus_seconds(GIVE_UP_SECONDS);
        self.round = 0;
    }

    /// Takes the outcome of a try that began at `at`.
    pub fn tried(&mut self, at: Timestamp, outcome: &Outcome, now: Timestamp, chance: u8) {
        if self.tries.len() == MAX_TRIES {
            self.tries.remove(0);
        }
        let Outcome { latency_ms, status, error, answer } = outcome.clone();
        self.round += 1;
        self.tries.push(Try { at, latency_ms, status, error });
        self.answer = answer;
        let delay = i64::try_from(retry_delay_ms(self.round, chance)).unwrap_or(i64::MAX);
        let next = Timestamp::from_millis(now.millis().saturating_add(delay));
        (self.state, self.next_try_at) = match &outcome.error {
            None => (DeliveryState::Delivered, None),
            Some(_) if outcome.is_gone() || next > self.give_up_at => (DeliveryState::GivenUp, None),
            Some(_) => (DeliveryState::Waiting, Some(next)),
        };
    }
}

/// How long to wait after so many tries in vain: 5 s, doubling to an hour, and up to a fifth more by chance, so that what
/// failed together does not come again together.
fn retry_delay_ms(tries: u32, chance: u8) -> u64 {
    let seconds = FIRST_RETRY_SECONDS.saturating_mul(1 << tries.saturating_sub(1).min(20)).min(LONGEST_RETRY_SECONDS);
    seconds * 1_000 + seconds * 200 * u64::from(chance) / 255
}

/// The text of a secret.
pub fn secret_text(secret: &[u8]) -> String {
    format!("{SECRET_PREFIX}{}", STANDARD.encode(secret))
}

/// The header `webhook-signature`: one signature for each secret.
pub fn signature(secrets: &[Vec<u8>], message_id: &str, timestamp_seconds: i64, body: &[u8]) -> String {
    let sign = |secret: &Vec<u8>| {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret).expect("HMAC takes keys of any length");
        mac.update(format!("{message_id}.{timestamp_seconds}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    };
    secrets.iter().map(sign).collect::<Vec<_>>().join(" ")
}

/// What is sent: an event as CloudEvents 1.0 has it, structured. `root` is the coordinator's public address, or nothing.
pub fn cloud_event(root: &str, account: AccountId, kind: &str, news: &News) -> Value {
    let mut data = json!({ "noun": news.subject.noun, "id": news.subject.id });
    if let Some(members) = data.as_object_mut() {
        members.extend(news.subject.name.as_deref().map(|name| ("name".to_owned(), name.into())));
        members.extend(news.data.clone());
    }
    json!({
        "specversion": "1.0",
        "id": news.id,
        "source": format!("{}/accounts/{account}", root.trim_end_matches('/')),
        "type": kind,
        "subject": format!("{}/{}", news.subject.noun, news.subject.id),
        "time": news.at,
        "datacontenttype": "application/json",
        "data": data,
    })
}

/// Whether an address lies in the open Internet. What does not could be a service that trusts whoever reaches it: on this
/// host, in the private network, or the one that tells a cloud's machines their credentials.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// By the registry of special addresses (RFC 6890) and what was added to it since.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19));
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match parts {
        // An IPv4 address in another guise: mapped, translated (NAT64), tunnelled (6to4).
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            embedded(high, low)
        }
        // Of what is left, global unicast is 2000::/3 without what is set apart in it.
        [0x2001, 0x0db8, ..] | [0x3fff, ..] => false,
        [0x2001, second, ..] if second < 0x0200 => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news() -> News {
        let subject = crate::domain::news::Subject::new("job", uuid::Uuid::from_u128(5), Some("p"));
        let data = json!({ "outcome": "failed" }).as_object().expect("it is an object").clone();
        let id = drover_protocol::NewsId::from_uuid(uuid::Uuid::from_u128(6));
        News { id, kind: NewsType::JobFinished, at: Timestamp::from_millis(1_795_000_000_000), subject, data }
    }

    fn failure() -> Outcome {
        Outcome { latency_ms: 3, status: Some(500), error: Some("500".to_owned()), answer: None }
    }

    /// What no caller may reach through us, in each guise in which it can be written.
    #[test]
    fn only_the_open_internet_is_public() {
        let hidden = [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ];
        for text in hidden {
            assert!(!is_public(text.parse().expect("it is an address")), "{text}");
        }
        let open = [
            "1.1.1.1",
            "100.63.0.1",
            "100.128.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
        ];
        for text in open {
            assert!(is_public(text.parse().expect("it is an address")), "{text}");
        }
    }

    #[test]
    fn delays_double_to_an_hour_and_end_after_a_day() {
        let delays: Vec<u64> = (1..=12).map(|tries| retry_delay_ms(tries, 0) / 1_000).collect();
        assert_eq!(delays, [5, 10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 3_600, 3_600]);
        assert_eq!(retry_delay_ms(1, 255), 6_000);
        let mut now = Timestamp::from_millis(0);
        let (id, webhook) = (uuid::Uuid::from_u128(1), uuid::Uuid::from_u128(2));
        let mut delivery = Delivery::new(DeliveryId::from_uuid(id), WebhookId::from_uuid(webhook), news(), now);
        while let Some(next) = delivery.next_try_at {
            now = next;
            delivery.tried(now, &failure(), now, 128);
        }
        assert_eq!(delivery.state, DeliveryState::GivenUp);
        assert!((20..40).contains(&delivery.tries.len()), "{}", delivery.tries.len());
        assert!(now <= delivery.give_up_at && now > Timestamp::from_millis(0).plus_seconds(GIVE_UP_SECONDS - 5_000));
        delivery.begin_again(now);
        delivery.tried(now, &Outcome { error: None, status: Some(204), ..failure() }, now, 0);
        assert_eq!((delivery.state, delivery.next_try_at), (DeliveryState::Delivered, None));
    }

    #[test]
    fn a_receiver_that_is_gone_is_not_tried_again() {
        let now = Timestamp::from_millis(0);
        let (id, webhook) = (uuid::Uuid::from_u128(1), uuid::Uuid::from_u128(2));
        let mut delivery = Delivery::new(DeliveryId::from_uuid(id), WebhookId::from_uuid(webhook), news(), now);
        delivery.tried(now, &Outcome { status: Some(410), ..failure() }, now, 0);
        assert_eq!(delivery.state, DeliveryState::GivenUp);
    }

    /// The example of the specification (Standard Webhooks, "Signature scheme"), and two secrets during a change.
    #[test]
    fn signatures_are_those_of_the_specification() {
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("it is Base64");
        assert_eq!(secret_text(&secret), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let signed = signature(
            std::slice::from_ref(&secret),
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(signature(&[secret.clone(), secret], "m", 1, b"").split(' ').count(), 2);
    }

    #[test]
    fn the_body_is_a_cloud_event() {
        let account = AccountId::from_uuid(uuid::Uuid::from_u128(1));
        let event = cloud_event("https://drover.example.com/", account, "job.finished", &news());
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(event["source"], format!("https://drover.example.com/accounts/{account}"));
        assert_eq!(event["data"]["outcome"], "failed");
        assert_eq!((&event["data"]["name"], &event["time"]), (&json!("p"), &json!("2026-11-18T11:06:40.000Z")));
    }
}
