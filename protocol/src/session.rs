//! Sessions: how people are known to the coordinator after they have signed in with a browser.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{KeyId, Timestamp, user::User};

/// `POST /session`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    #[schema(example = "ann")]
    pub login: String,
    pub password: String,
    /// Name or id of the account; needed where several accounts have this login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
}

/// The session of the cookie.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct OwnSession {
    /// To be sent as `X-CSRF-Token` with every call that changes something.
    pub csrf_token: String,
    pub session: Session,
    pub user: User,
}

/// How somebody has signed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignInMethod {
    Password,
    OpenidConnect,
    Ldap,
}

/// A session of the user.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Session {
    pub id: KeyId,
    /// Whether it is the one of this very call.
    pub current: bool,
    pub method: SignInMethod,
    /// From where the user signed in.
    #[schema(required)]
    pub address: Option<String>,
    /// The program in which the user signed in, as it calls itself.
    #[schema(required)]
    pub user_agent: Option<String>,
    pub created_at: Timestamp,
    /// Accurate to a minute.
    pub last_used_at: Timestamp,
    /// It ends then at the latest, and before that when it is not used for a while.
    pub expires_at: Timestamp,
}

/// What a provider of OpenID Connect sends back.
#[derive(Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OpenidAnswer {
    /// For which the coordinator gets to know who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// As it was sent along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Why the provider refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
