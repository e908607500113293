//! Users: persons in an account.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{Timestamp, UserId};

/// The language in which a user is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Locale {
    Ru,
    #[default]
    En,
}

/// A person in the account.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct User {
    pub id: UserId,
    #[schema(example = "ann")]
    pub login: String,
    #[schema(example = "Ann Smith")]
    pub name: String,
    #[schema(required)]
    pub email: Option<String>,
    /// Names of the roles.
    #[schema(example = json!(["operator"]))]
    pub roles: Vec<String>,
    pub locale: Locale,
    #[schema(required, example = "Europe/Berlin")]
    pub time_zone: Option<String>,
    /// A blocked user cannot sign in, and no key of theirs opens anything.
    pub blocked: bool,
    pub has_password: bool,
    /// By which the user is known who signs in by OpenID Connect or a directory: `openid:<issuer>#<subject>` or
    /// `ldap:<name>`.
    #[schema(required)]
    pub external_id: Option<String>,
    #[schema(required)]
    pub last_sign_in_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub revision: u64,
}

/// `POST /users`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// Without capital letters; unique in the account.
    #[schema(min_length = 1, max_length = 128, example = "ann")]
    pub login: String,
    /// At least 10 characters and not the login. Absent: the user cannot sign in with a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 10, max_length = 1024)]
    pub password: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 128)]
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 254)]
    pub email: Option<String>,
    /// Names or ids of roles; nothing that the caller does not have.
    #[schema(example = json!(["operator"]), max_items = 32)]
    pub roles: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<Locale>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "Europe/Berlin")]
    pub time_zone: Option<String>,
    /// For a user who signs in by OpenID Connect or a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024)]
    pub external_id: Option<String>,
}

/// `PATCH /users/{user}`.
#[derive(Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserPatch {
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, min_length = 1, max_length = 128)]
    pub login: Option<String>,
    /// A new password ends the user's sessions; null takes the password away.
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 10, max_length = 1024)]
    pub password: Option<Option<String>>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, max_length = 128)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 254)]
    pub email: Option<Option<String>>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<String>, required = false, max_items = 32)]
    pub roles: Option<Vec<String>>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Locale, required = false)]
    pub locale: Option<Locale>,
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<Option<String>>,
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024)]
    pub external_id: Option<Option<String>>,
    /// Blocking ends the user's sessions at once and makes all keys useless until the user is unblocked.
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = bool, required = false)]
    pub blocked: Option<bool>,
}

/// Filters of `GET /users`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UserFilter {
    /// Part of the login or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q: Option<String>,
    /// Name or id of a role that they have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Only those who are blocked, or who are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<bool>,
}

/// `POST /account/password`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangePassword {
    pub old: String,
    #[schema(min_length = 10, max_length = 1024)]
    pub new: String,
}

/// The answer to `POST /users`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreatedUser {
    #[serde(flatten)]
    pub details: User,
    /// The own key of a user without a password, given only here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}
