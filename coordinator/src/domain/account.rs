//! Accounts and their users.

use drover_protocol::{AccountId, Timestamp, UserId, user::Locale};
use serde::{Deserialize, Serialize};

use super::{permission::Role, role::RoleRef};

pub const MIN_PASSWORD_CHARS: usize = 10;
pub const MAX_PASSWORD_BYTES: usize = 1024;

/// An isolated tenant. Its record lies in the system account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Account {
    pub id: AccountId,
    pub name: String,
    /// Its users may be given what concerns the coordinator as a whole. Before there could be others, the only account was
    /// such a one.
    #[serde(default = "yes")]
    pub runs_system: bool,
    /// Nobody gets in, and no trigger fires.
    #[serde(default)]
    pub disabled: bool,
    /// When it was last enabled again: no trigger makes up for what was before.
    #[serde(default)]
    pub enabled_at: Option<Timestamp>,
    /// It is gone for everybody; what it held is being removed.
    #[serde(default)]
    pub deleted: bool,
    /// Days for which the audit trail is kept; absent: for ever.
    #[serde(default)]
    pub audit_retention_days: Option<u32>,
    pub created_at: Timestamp,
    pub revision: u64,
}

fn yes() -> bool {
    true
}

impl Account {
    /// Whether anybody may do anything in it.
    pub fn is_open(&self) -> bool {
        !self.disabled && !self.deleted
    }
}

/// A person in one account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct User {
    pub id: UserId,
    pub login: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub email: Option<String>,
    pub roles: Vec<RoleRef>,
    #[serde(default)]
    pub locale: Locale,
    /// IANA name; absent: as the browser says.
    #[serde(default)]
    pub time_zone: Option<String>,
    /// argon2id in PHC form; absent: this user cannot prove a password.
    pub password_hash: Option<String>,
    /// By which the user is known who signs in elsewhere: `openid:…` or `ldap:…`.
    #[serde(default)]
    pub external_id: Option<String>,
    pub blocked: bool,
    #[serde(default)]
    pub last_sign_in_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub revision: u64,
}

impl User {
    /// Whether this one can give rights to others whatever they are.
    pub fn is_admin(&self) -> bool {
        !self.blocked && self.roles.contains(&RoleRef::BuiltIn(Role::Admin))
    }
}

/// What is wrong with a password, if anything is.
pub fn password_fault(password: &str, login: &str) -> Option<String> {
    if password.chars().count() < MIN_PASSWORD_CHARS {
        return Some(format!("a password must have at least {MIN_PASSWORD_CHARS} characters"));
    }
    if password.len() > MAX_PASSWORD_BYTES {
        return Some(format!("a password must have at most {MAX_PASSWORD_BYTES} bytes"));
    }
    if password.eq_ignore_ascii_case(login) || password.to_lowercase() == login.to_lowercase() {
        return Some("the password must not be the login".to_owned());
    }
    let mut chars = password.chars();
    let first = chars.next();
    if chars.all(|char| Some(char) == first) {
        return Some("the password must not be one character again and again".to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_long_and_not_the_login() {
        assert_eq!(password_fault("correct horse", "ann"), None);
        assert_eq!(password_fault("пароль из слов", "ann"), None);
        for bad in ["", "123456789", "aaaaaaaaaaaa", "ann@example.com", "ANN@example.com", &"ab".repeat(600)] {
            assert!(password_fault(bad, "ann@example.com").is_some(), "{bad}");
        }
    }
}
