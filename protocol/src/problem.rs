//! Errors of the API: RFC 9457 problem documents with a closed list of codes.
//!
//! The doc comment of each code is its reference; the API documents show it.

use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, schema::Schema},
};

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal, $status:literal, $title:literal;)*) => {
        /// What went wrong, in one stable word.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code { $($(#[doc = $doc])* #[serde(rename = $text)] $name,)* }

        impl ToSchema for Code {}

        impl PartialSchema for Code {
            fn schema() -> RefOr<Schema> {
                let words = Self::ALL.iter().map(|code| (serde_json::to_value(code), code.explanation()));
                crate::words::schema("What went wrong, in one stable word.", words)
            }
        }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Code] = &[$(Code::$name),*];

            /// The word on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text),* }
            }

            /// The HTTP status that always goes with it.
            pub const fn status(self) -> u16 {
                match self { $(Code::$name => $status),* }
            }

            /// The same in a few words for people.
            pub const fn title(self) -> &'static str {
                match self { $(Code::$name => $title),* }
            }

            /// When it is answered and what helps.
            pub const fn explanation(self) -> &'static str {
                match self { $(Code::$name => concat!($($doc),*)),* }
            }
        }
    };
}

codes! {
    /// The request could not be read at all: broken JSON, a bad header, query or cursor. Mend the request.
    BadRequest = "bad_request", 400, "The request could not be read";
    /// There is no key, or it is unknown, expired or revoked. Send `Authorization: Bearer <key>`.
    Unauthenticated = "unauthenticated", 401, "A valid key is needed";
    /// The key is good but may not do this; `detail` names the missing permission.
    Forbidden = "forbidden", 403, "Not permitted";
    /// There is no such thing in this account.
    NotFound = "not_found", 404, "Not found";
    /// The address exists, but not with this method.
    MethodNotAllowed = "method_not_allowed", 405, "Method not allowed";
    /// The answer cannot be given in any of the accepted media types.
    NotAcceptable = "not_acceptable", 406, "Not acceptable";
    /// Another object already has this name; `id` is the id of that object.
    AlreadyExists = "already_exists", 409, "Already exists";
    /// The job has moved on to another attempt, or this attempt has ended with another result. Stop working on it.
    StaleAttempt = "stale_attempt", 409, "The attempt is over";
    /// The object is in a state in which this cannot be done; `detail` says which.
    WrongState = "wrong_state", 409, "Wrong state";
    /// Something else still refers to the object; `detail` says what.
    InUse = "in_use", 409, "In use";
    /// Lines before this chunk are missing; send again from `next_seq`.
    LogGap = "log_gap", 409, "Log lines are missing";
    /// The object has changed since the revision in `If-Match`. Read it again.
    PreconditionFailed = "precondition_failed", 412, "The object has changed";
    /// The content is over the limit; `detail` says the limit and how to send more.
    TooLarge = "too_large", 413, "Too large";
    /// The body has a media type that this call does not take.
    UnsupportedMediaType = "unsupported_media_type", 415, "Unsupported media type";
    /// The range lies outside of the content.
    RangeNotSatisfiable = "range_not_satisfiable", 416, "Range not satisfiable";
    /// The request is well-formed but not valid; `errors` has one entry per field.
    Invalid = "invalid", 422, "Not valid";
    /// This `Idempotency-Key` was used within 24 hours for another request. Take a new one.
    IdempotencyKeyReused = "idempotency_key_reused", 422, "The idempotency key was used for another request";
    /// The package cannot be accepted; `detail` says why.
    InvalidPackage = "invalid_package", 422, "Not a valid package";
    /// Too many requests; try again after `Retry-After` seconds.
    TooManyRequests = "too_many_requests", 429, "Too many requests";
    /// A bug of the coordinator. Report it with the request id.
    Internal = "internal", 500, "Internal error";
    /// Not possible right now (starting, stopping, or the outcome of a write is unknown). Try again.
    Unavailable = "unavailable", 503, "Unavailable";
    /// The disk is full: reads work, writes do not, until space returns.
    OutOfSpace = "out_of_space", 507, "Out of space";
}

/// One field that is not valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// JSON pointer to the field, or the name of the query parameter.
    #[schema(example = "/priority")]
    pub pointer: String,
    pub detail: String,
}

/// The body of every error answer (`application/problem+json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    #[serde(rename = "type")]
    pub code: Code,
    pub title: String,
    #[schema(example = 404)]
    pub status: u16,
    pub detail: String,
    /// The same as the header `X-Request-Id`.
    pub request_id: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// With `already_exists`: the object that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// With `log_gap`: the number of the line that is expected next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_seq: Option<u64>,
}
