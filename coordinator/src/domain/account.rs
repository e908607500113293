//! Accounts and their users.

use drover_protocol::{AccountId, Timestamp, UserId};
use serde::{Deserialize, Serialize};

use super::permission::{Permissions, Role};

/// An isolated tenant. Its record lies in the system account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Account {
    pub id: AccountId,
    pub name: String,
    pub created_at: Timestamp,
    pub revision: u64,
}

/// A person in one account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct User {
    pub id: UserId,
    pub login: String,
    pub roles: Vec<Role>,
    /// argon2id in PHC form; absent: this user cannot prove a password.
    pub password_hash: Option<String>,
    pub blocked: bool,
    pub created_at: Timestamp,
    pub revision: u64,
}

impl User {
    pub fn permissions(&self) -> Permissions {
        self.roles.iter().flat_map(|role| role.permissions()).collect()
    }
}
