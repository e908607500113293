//! Webhooks: addresses outside to which news are sent, signed, until they are taken.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{DeliveryId, Timestamp, WebhookId, news::NewsType, words::words};

/// A webhook. Its secret is shown when it is made and when it is changed, never later.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    pub id: WebhookId,
    #[schema(example = "chat")]
    pub name: String,
    pub description: String,
    #[schema(example = "https://chat.example.com/hooks/drover")]
    pub url: String,
    /// What it is sent.
    pub events: Vec<NewsType>,
    pub enabled: bool,
    /// Why the coordinator has disabled it.
    #[schema(required)]
    pub disabled_because: Option<String>,
    /// Deliveries that have not been taken yet.
    pub waiting: u64,
    /// When something was taken last.
    #[schema(required)]
    pub last_delivered_at: Option<Timestamp>,
    /// Since when nothing is taken; null: the last try went well.
    #[schema(required)]
    pub failing_since: Option<Timestamp>,
    /// Until when deliveries are signed with the secret of before as well.
    #[schema(required)]
    pub old_secret_until: Option<Timestamp>,
    pub created_at: Timestamp,
    pub revision: u64,
}

/// A webhook with its secret: the answer to making it and to changing the secret, and only there.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WebhookWithSecret {
    #[serde(flatten)]
    pub webhook: Webhook,
    /// With it the receiver checks signatures (Standard Webhooks).
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    pub secret: String,
}

/// `POST /webhooks`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    #[schema(min_length = 1, max_length = 128)]
    pub name: String,
    #[serde(default)]
    #[schema(max_length = 2048)]
    pub description: String,
    /// `http` or `https`, without a user and a password in it.
    #[schema(max_length = 2048, example = "https://chat.example.com/hooks/drover")]
    pub url: String,
    #[schema(min_items = 1)]
    pub events: Vec<NewsType>,
    /// True if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// `PATCH /webhooks/{webhook}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookPatch {
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, min_length = 1, max_length = 128)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, max_length = 2048)]
    pub description: Option<String>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, max_length = 2048)]
    pub url: Option<String>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<NewsType>, required = false, min_items = 1)]
    pub events: Option<Vec<NewsType>>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = bool, required = false)]
    pub enabled: Option<bool>,
}

/// `POST /webhooks/{webhook}/rotate-secret`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateSecret {
    /// So long deliveries are signed with both secrets, so that receivers can be changed one after another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 604800)]
    pub grace_seconds: Option<u64>,
}

words! {
    /// Where a delivery stands.
    pub enum DeliveryState {
        /// It is going to be sent, for the first time or again.
        Waiting,
        /// The receiver has taken it.
        Delivered,
        /// It was tried for a day in vain, or the receiver does not want it.
        GivenUp,
    }
}

/// One try to deliver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeliveryTry {
    pub at: Timestamp,
    /// From the beginning to the answer.
    pub latency_ms: u64,
    /// The status of the answer; null: there was none.
    #[schema(required)]
    pub status: Option<u16>,
    /// Why it does not count as taken.
    #[schema(required)]
    pub error: Option<String>,
}

/// News on their way to a webhook.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Delivery {
    pub id: DeliveryId,
    pub webhook_id: WebhookId,
    /// The header `webhook-id`, and the `id` of the body: the same at every try, for receivers that take something once.
    pub message_id: Uuid,
    pub event: NewsType,
    /// The object that it is about.
    pub object_id: Uuid,
    pub state: DeliveryState,
    pub created_at: Timestamp,
    #[schema(required)]
    pub next_try_at: Option<Timestamp>,
    /// Oldest first.
    pub tries: Vec<DeliveryTry>,
    /// The first KiB of the last answer's body.
    #[schema(required)]
    pub answer: Option<String>,
}

/// Filter of `GET /webhooks/{webhook}/deliveries`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeliveryFilter {
    /// Only those in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<DeliveryState>,
}

/// What became of a delivery that was sent as a test.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WebhookTested {
    /// Whether the receiver has taken it.
    pub delivered: bool,
    pub latency_ms: u64,
    #[schema(required)]
    pub status: Option<u16>,
    #[schema(required)]
    pub error: Option<String>,
    /// The first KiB of the answer's body.
    #[schema(required)]
    pub answer: Option<String>,
}
