//! API keys and join tokens as they are kept: never their text, only a keyed hash of it.

use drover_protocol::{JobId, JoinTokenId, KeyId, RobotGroupId, RobotId, Timestamp, UserId, session::SignInMethod};
use serde::{Deserialize, Serialize};

use super::permission::Permissions;

/// Characters of a key that may be shown.
pub const PREFIX_CHARS: usize = 4;
/// A key must be so long that its first characters help nobody to guess the rest.
pub const MIN_CHARS_FOR_PREFIX: usize = 24;
/// The longest text that is looked up as a key.
pub const MAX_KEY_CHARS: usize = 256;
/// How long the call that replaced a key can be repeated with it.
pub const REPEATABLE_SECONDS: u64 = 600;
/// Whoever has stolen a key must not get the next one by guessing with which `Idempotency-Key` it was asked for.
pub const MIN_REPEATABLE_CHARS: usize = 22;
/// Last use is written at most this often per key.
pub const LAST_USE_SECONDS: u64 = 300;

/// The same for a session, which ends when it is not used for a while.
pub const LAST_USE_OF_SESSION_SECONDS: u64 = 60;

/// Whose key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owner {
    User(UserId),
    Robot(RobotId),
    /// Lives for one attempt.
    Job {
        job: JobId,
        attempt: u32,
        robot: RobotId,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiKey {
    pub id: KeyId,
    pub owner: Owner,
    /// Absent for the owner's own key; named keys have one.
    pub name: Option<String>,
    pub prefix: String,
    #[serde(with = "serde_bytes")]
    pub hash: [u8; 32],
    /// The text, sealed, for keys that their user may have revealed.
    #[serde(with = "serde_bytes")]
    pub sealed: Option<Vec<u8>>,
    /// Narrows what the owner may do; absent: all of it.
    pub permissions: Option<Permissions>,
    pub created_at: Timestamp,
    pub last_used_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    /// It has ended, for its user has taken a new one, and is known only so that this very call can be repeated.
    #[serde(default)]
    pub replaced: bool,
    /// It came with signing in, and its text lies in a cookie.
    #[serde(default)]
    pub session: Option<Session>,
}

/// What is known of a session beyond its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub method: SignInMethod,
    /// It ends when it was not used for so long.
    pub idle_seconds: u64,
    pub address: Option<String>,
    pub user_agent: Option<String>,
}

impl ApiKey {
    pub fn is_expired(&self, now: Timestamp) -> bool {
        let unused_since = self.last_used_at.unwrap_or(self.created_at);
        self.expires_at.is_some_and(|at| at <= now)
            || self.session.as_ref().is_some_and(|session| unused_since.plus_seconds(session.idle_seconds) <= now)
    }

    /// Whether it is the user's own key, and not a named one or a session.
    pub fn is_own(&self) -> bool {
        self.name.is_none() && self.session.is_none()
    }

    /// Whether it opens anything.
    pub fn is_good(&self, now: Timestamp) -> bool {
        !self.replaced && !self.is_expired(now)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JoinToken {
    pub id: JoinTokenId,
    #[serde(with = "serde_bytes")]
    pub hash: [u8; 32],
    pub group_id: Option<RobotGroupId>,
    /// It binds to this robot record, made in advance.
    pub robot_id: Option<RobotId>,
    pub uses: u32,
    pub uses_left: u32,
    pub expires_at: Timestamp,
    pub cidr: Option<ipnet::IpNet>,
    pub created_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes were stored as lists of numbers before they were stored as bytes; both are read.
    #[test]
    fn keys_stored_as_lists_of_numbers_are_read() {
        #[derive(Serialize)]
        struct Before {
            hash: [u8; 32],
            sealed: Option<Vec<u8>>,
        }
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Now {
            #[serde(with = "serde_bytes")]
            hash: [u8; 32],
            #[serde(with = "serde_bytes")]
            sealed: Option<Vec<u8>>,
        }
        for sealed in [None, Some(vec![0, 200, 7])] {
            let before =
                rmp_serde::to_vec_named(&Before { hash: [200; 32], sealed: sealed.clone() }).expect("it is plain");
            let now = Now { hash: [200; 32], sealed };
            assert_eq!(rmp_serde::from_slice::<Now>(&before).expect("the older form is read"), now);
            let bytes = rmp_serde::to_vec_named(&now).expect("it is plain");
            assert_eq!(rmp_serde::from_slice::<Now>(&bytes).expect("the newer form is read"), now);
        }
    }
}
