//! Signing in by what lies outside: a provider of OpenID Connect, a directory. These say who somebody is; what that comes to
//! here is decided in `operations/external.rs`.

pub mod ldap;
pub mod openid;

use drover_protocol::session::SignInMethod;

/// How people become users.
#[derive(Clone, Debug)]
pub struct Admission {
    /// Into which account they come, by name or id; empty: the first one.
    pub account: String,
    /// Which group gives which role.
    pub roles: Vec<(String, String)>,
    /// Roles of those who have none by their groups.
    pub default_roles: Vec<String>,
    /// Whether they are made at their first sign-in.
    pub creates_users: bool,
}

/// Somebody who has proven elsewhere who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub method: SignInMethod,
    /// By this the very same person is known again, whatever becomes of login and name.
    pub external_id: String,
    pub login: String,
    pub name: String,
    pub email: Option<String>,
    pub groups: Vec<String>,
}

/// The parts of a setting that lists names.
pub fn names(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}
