//! Triggers that are called from outside.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::{
    JobId, Timestamp,
    job::{JobError, JobState, Outcome},
    words::words,
};

words! {
    /// How a caller of a webhook proves that it may call.
    pub enum HookAuth {
        /// By a signature over the body, as Standard Webhooks makes it: headers `webhook-id`, `webhook-timestamp` (within 5 minutes of now) and `webhook-signature`.
        Signature,
        /// By the secret itself: `Authorization: Bearer <secret>`.
        Bearer,
        /// By knowing the address.
        None,
    }

    /// When a webhook answers.
    pub enum HookMode {
        /// At once, with the id of the job.
        Async,
        /// When the job has finished, or the time to wait is over.
        Sync,
    }
}

/// How a trigger of kind `webhook` is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ByWebhook {
    /// `signature` if absent.
    pub auth: HookAuth,
    /// `async` if absent.
    pub mode: HookMode,
}

impl Default for ByWebhook {
    fn default() -> Self {
        Self { auth: HookAuth::Signature, mode: HookMode::Async }
    }
}

/// `POST /triggers/{trigger}/rotate-secret`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateHookSecret {
    /// For so long the old secret is good as well; 0 if absent, at most a week.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 604800)]
    pub grace_seconds: Option<u64>,
}

/// What a webhook is called by from now on.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RotatedSecret {
    #[schema(example = "https://drover.example.com/api/v1/hooks/3q2-7wS0V1mJfXo1lqPZs8Yd0r9hTtBnUeKcGxAiMlE")]
    pub url: String,
    /// Only told here. Absent where the address itself is the secret (`auth` is `none`): that one is new then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=")]
    pub secret: Option<String>,
    /// Until when the old secret is good as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_secret_until: Option<Timestamp>,
}

/// `?wait_seconds=` of a call to a webhook.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HookQuery {
    /// How long a webhook of mode `sync` waits for the end of the job; 30 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 0, maximum = 60)]
    pub wait_seconds: Option<u64>,
}

/// What a call to a webhook has done.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HookAnswer {
    /// The job that the call has started, or had started when it came before.
    pub job_ids: Vec<JobId>,
    /// A call with this `webhook-id` or `Idempotency-Key` had come before; nothing was started now.
    pub repeated: bool,
    /// Of the job; only in mode `sync`, as what follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub output: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
}
