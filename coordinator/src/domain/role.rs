//! Roles that people make, the limits of what they reach, and how users name their roles.

use std::collections::BTreeSet;

use drover_protocol::{RoleId, Timestamp};
use serde::{Deserialize, Serialize};

use super::permission::{Permission, Permissions, Role, matching};

pub const MAX_PATTERNS: usize = 100;

/// A role that people made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OwnRole {
    pub id: RoleId,
    pub name: String,
    pub description: String,
    /// Permissions, `noun:*` or `*`: what a pattern stands for is looked up whenever it counts.
    pub permissions: BTreeSet<String>,
    pub limits: Option<Limits>,
    pub created_at: Timestamp,
    pub revision: u64,
}

impl OwnRole {
    pub fn granted(&self) -> Permissions {
        self.permissions.iter().filter_map(|pattern| matching(pattern)).fold(Permissions::new(), |all, some| all | some)
    }
}

/// What a role's permissions are about, by patterns of names. What is absent is not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub robot_groups: Option<Vec<String>>,
    pub queues: Option<Vec<String>>,
    pub folders: Option<Vec<String>>,
}

/// The nouns whose objects a role may be limited to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    RobotGroups,
    Queues,
    Folders,
}

impl Limits {
    pub fn of(&self, noun: Limited) -> Option<&[String]> {
        match noun {
            Limited::RobotGroups => self.robot_groups.as_deref(),
            Limited::Queues => self.queues.as_deref(),
            Limited::Folders => self.folders.as_deref(),
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What one role gives: permissions, and what they are about.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    pub permissions: Permissions,
    pub limits: Option<Limits>,
}

impl Grant {
    /// Whether it gives the permission for an object of this name; without a name: for all there may be.
    pub fn reaches(&self, permission: Permission, noun: Limited, name: Option<&str>) -> bool {
        let patterns = self.limits.as_ref().and_then(|limits| limits.of(noun));
        self.permissions.contains(permission)
            && match (patterns, name) {
                (None, _) => true,
                (Some(patterns), Some(name)) => patterns.iter().any(|pattern| fits(pattern, name)),
                (Some(_), None) => false,
            }
    }
}

/// Whether a name fits a pattern, in which `*` stands for any text, also none.
pub fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

/// A role of a user: a built-in one, or one that people made. Kept as its name or id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum RoleRef {
    BuiltIn(Role),
    Own(RoleId),
}

impl From<RoleRef> for String {
    fn from(role: RoleRef) -> Self {
        role.text()
    }
}

impl TryFrom<String> for RoleRef {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match Role::parse(&text) {
            Some(role) => Ok(Self::BuiltIn(role)),
            None => text.parse().map(Self::Own).map_err(|_| format!("{text} is no role")),
        }
    }
}

impl RoleRef {
    /// The name of a built-in role, or the id of another.
    pub fn text(self) -> String {
        match self {
            Self::BuiltIn(role) => role.as_str().to_owned(),
            Self::Own(id) => id.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, good, bad) in [
            ("finance", vec!["finance"], vec!["finance-1", "", "Finance"]),
            ("finance*", vec!["finance", "finance-1"], vec!["my finance"]),
            ("*-eu", vec!["a-eu", "-eu"], vec!["-eu-", "eu"]),
            ("a*b*c", vec!["abc", "a1b2c", "abbc"], vec!["ac", "abcd", "acb"]),
            ("a*a", vec!["aa", "aba"], vec!["a"]),
            ("*", vec!["", "всё"], vec![]),
            ("Счета*", vec!["Счета за ночь"], vec!["счета"]),
        ] {
            assert!(good.iter().all(|name| fits(pattern, name)), "{pattern}");
            assert!(!bad.iter().any(|name| fits(pattern, name)), "{pattern}");
        }
    }

    /// Users were stored with the names of built-in roles alone; these are still read.
    #[test]
    fn roles_of_users_are_kept_as_texts() {
        let id = RoleId::from_uuid(uuid::Uuid::from_u128(7));
        let bytes = rmp_serde::to_vec_named(&vec![RoleRef::BuiltIn(Role::Admin), RoleRef::Own(id)]).expect("plain");
        let texts: Vec<String> = rmp_serde::from_slice(&bytes).expect("they are texts");
        assert_eq!(texts, ["admin".to_owned(), id.to_string()]);
        let before = rmp_serde::to_vec_named(&vec![Role::Viewer]).expect("plain");
        assert_eq!(
            rmp_serde::from_slice::<Vec<RoleRef>>(&before).expect("the older form is read"),
            [RoleRef::BuiltIn(Role::Viewer)]
        );
    }

    /// A limit bounds the permissions of its own role and of no other.
    #[test]
    fn a_grant_reaches_what_its_limits_name() {
        let limits = Limits { queues: Some(vec!["pay*".to_owned()]), ..Limits::default() };
        let grant = Grant { permissions: Permission::TaskTake | Permission::JobStart, limits: Some(limits) };
        assert!(grant.reaches(Permission::TaskTake, Limited::Queues, Some("payments")));
        assert!(!grant.reaches(Permission::TaskTake, Limited::Queues, Some("other")));
        assert!(!grant.reaches(Permission::TaskTake, Limited::Queues, None));
        assert!(!grant.reaches(Permission::TaskRead, Limited::Queues, Some("payments")));
        assert!(grant.reaches(Permission::JobStart, Limited::RobotGroups, None));
    }
}
