//! API keys. The text of a key is the Base64 of a random GUID's text; it is shown once and then only on request.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{KeyId, Timestamp};

/// The caller's own key, masked.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct OwnKey {
    pub id: KeyId,
    #[schema(example = "OTFm••••••••")]
    pub masked: String,
    /// The first characters, to recognise it by.
    #[schema(example = "OTFm")]
    pub prefix: String,
    pub created_at: Timestamp,
    /// Accurate to a few minutes.
    #[schema(required)]
    pub last_used_at: Option<Timestamp>,
    #[schema(required)]
    pub expires_at: Option<Timestamp>,
    #[schema(example = "Bearer ••••")]
    pub header: String,
}

/// A key's full text, given only here.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FullKey {
    pub id: KeyId,
    pub key: String,
    /// Ready for `Authorization`.
    pub header: String,
}

/// `POST /account/key/refresh`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRefresh {
    /// How long the old key still works (0 to 604800).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 604800)]
    pub grace_seconds: Option<u64>,
}

/// `POST /account/key/reveal`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyReveal {
    /// The user's password, whatever the credential of the call.
    pub password: String,
}

/// A named key with scopes of its own.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Key {
    pub id: KeyId,
    #[schema(example = "nightly import")]
    pub name: String,
    pub prefix: String,
    /// What the key may do, at most what its user may.
    pub permissions: Vec<String>,
    pub created_at: Timestamp,
    #[schema(required)]
    pub last_used_at: Option<Timestamp>,
    #[schema(required)]
    pub expires_at: Option<Timestamp>,
}

/// `POST /keys`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    #[schema(min_length = 1, max_length = 128)]
    pub name: String,
    /// `noun:verb`, each one that the caller has; absent: all that the caller has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = json!(["job:read", "job:start"]))]
    pub permissions: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// The answer to `POST /keys`: the key and, only here, its text.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreatedKey {
    #[serde(flatten)]
    pub details: Key,
    pub key: String,
    pub header: String,
}
