//! The one error of the coordinator. It knows no HTTP; `http/problem.rs` turns it into an answer.

use drover_protocol::problem::{Code, FieldError};

/// Why something was not done. A message is a fragment in lower case, fit to follow "… failed:".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request cannot be read at all.
    #[error("{0}")]
    BadRequest(String),
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// Another object has this name already.
    #[error("{what} exists already")]
    AlreadyExists { what: String, id: String },
    /// Right question, wrong state.
    #[error("{message}")]
    Refused { code: Code, message: String },
    #[error("lines before this chunk are missing; the next expected line is {next_seq}")]
    LogGap { next_seq: u64 },
    #[error("the object has changed since; its revision is {revision} now")]
    PreconditionFailed { revision: u64 },
    /// Well-formed, but not valid: one entry per field.
    #[error("{}", describe(.0))]
    Invalid(Vec<FieldError>),
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// Names the missing permission or the reason.
    #[error("{0}")]
    Forbidden(String),
    #[error("too many requests")]
    TooMany { retry_after_seconds: u64 },
    #[error("{0}")]
    TooLarge(String),
    #[error("{0}")]
    Unavailable(String),
    #[error("the disk is full; writes are refused until there is space again")]
    OutOfSpace,
    /// A bug. The text goes to the coordinator's own log, never to the caller.
    #[error("{0}")]
    Internal(String),
}

/// What operations give.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn describe(fields: &[FieldError]) -> String {
    match fields {
        [] => "the request is not valid".to_owned(),
        [only] => only.detail.clone(),
        many => format!("{} fields are not valid", many.len()),
    }
}

impl Error {
    /// One field that is not valid.
    pub fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError { pointer: pointer.into(), detail: detail.into() }])
    }

    /// A refusal with the code `wrong_state`.
    pub fn wrong_state(message: impl Into<String>) -> Self {
        Self::Refused { code: Code::WrongState, message: message.into() }
    }

    /// A refusal with the code `in_use`.
    pub fn in_use(message: impl Into<String>) -> Self {
        Self::Refused { code: Code::InUse, message: message.into() }
    }

    /// A refusal with the code `stale_attempt`.
    pub fn stale_attempt(message: impl Into<String>) -> Self {
        Self::Refused { code: Code::StaleAttempt, message: message.into() }
    }

    /// The code that callers see.
    pub fn code(&self) -> Code {
        match self {
            Self::BadRequest(_) => Code::BadRequest,
            Self::NotFound(_) => Code::NotFound,
            Self::AlreadyExists { .. } => Code::AlreadyExists,
            Self::Refused { code, .. } => *code,
            Self::LogGap { .. } => Code::LogGap,
            Self::PreconditionFailed { .. } => Code::PreconditionFailed,
            Self::Invalid(_) => Code::Invalid,
            Self::Unauthenticated(_) => Code::Unauthenticated,
            Self::Forbidden(_) => Code::Forbidden,
            Self::TooMany { .. } => Code::TooManyRequests,
            Self::TooLarge(_) => Code::TooLarge,
            Self::Unavailable(_) => Code::Unavailable,
            Self::OutOfSpace => Code::OutOfSpace,
            Self::Internal(_) => Code::Internal,
        }
    }
}
