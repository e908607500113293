//! Passwords: argon2id, off the request threads, a few at a time, and not to be guessed.

use std::collections::HashMap;

use argon2::{Argon2, PasswordHash, PasswordVerifier, password_hash::PasswordHasher};
use drover_protocol::{Timestamp, UserId};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::{
    clock::Randomness,
    error::{Error, Result},
};

const MAX_PASSWORD_BYTES: usize = 1024;
/// Each verification takes 19 MiB and a core for tens of milliseconds.
static PLACES: Semaphore = Semaphore::const_new(2);

/// The hash of a password in PHC form, with a new salt.
pub fn hash(password: &str, randomness: &dyn Randomness) -> Result<String> {
    let mut salt = [0; 16];
    randomness.fill(&mut salt);
    let hashed = Argon2::default()
        .hash_password_with_salt(password.as_bytes(), &salt)
        .map_err(|error| Error::Internal(format!("a password cannot be hashed: {error}")))?;
    Ok(hashed.to_string())
}

/// Whether the password fits the hash.
pub async fn verify(password: String, hash: String) -> Result<bool> {
    if password.len() > MAX_PASSWORD_BYTES {
        return Ok(false);
    }
    let closed = |_| Error::Internal("passwords are not verified any more".to_owned());
    let _place = PLACES.acquire().await.map_err(closed)?;
    tokio::task::spawn_blocking(move || {
        let parsed = PasswordHash::new(&hash)
            .map_err(|error| Error::Internal(format!("the hash of a password cannot be read: {error}")))?;
        Ok(Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok())
    })
    .await
    .map_err(|error| Error::Internal(format!("a password was not verified: {error}")))?
}

/// Tries that a user has before having to wait.
const MAX_GUESSES: u32 = 5;
/// How long they are remembered, from the first one on.
const GUESSES_SECONDS: u64 = 900;

/// Passwords that were tried and not (yet) found right, by user. A restart forgets them.
#[derive(Debug, Default)]
pub struct Guesses(Mutex<HashMap<UserId, (u32, Timestamp)>>);

impl Guesses {
    /// Counts a try; refuses it with `TooMany` when there were too many.
    pub fn count(&self, user: UserId, now: Timestamp) -> Result<()> {
        let mut guesses = self.0.lock();
        guesses.retain(|_, (_, since)| now.since(*since).as_secs() < GUESSES_SECONDS);
        let (count, since) = guesses.entry(user).or_insert((0, now));
        if *count >= MAX_GUESSES {
            return Err(Error::TooMany { retry_after_seconds: GUESSES_SECONDS - now.since(*since).as_secs() });
        }
        *count += 1;
        Ok(())
    }

    /// The user knows the password.
    pub fn forget(&self, user: UserId) {
        self.0.lock().remove(&user);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    /// Five wrong ones, then a wait to the end of the quarter of an hour that the first one began; per user.
    #[test]
    fn guesses_are_counted_per_user_and_forgotten() {
        let guesses = Guesses::default();
        let (one, other) = (UserId::from_uuid(Uuid::from_u128(1)), UserId::from_uuid(Uuid::from_u128(2)));
        let at = |seconds: u64| Timestamp::EPOCH.plus_seconds(seconds);
        for second in 0..5 {
            guesses.count(one, at(second)).unwrap();
        }
        assert_eq!(guesses.count(one, at(100)), Err(Error::TooMany { retry_after_seconds: 800 }));
        guesses.count(other, at(100)).unwrap();
        assert_eq!(guesses.count(one, at(899)), Err(Error::TooMany { retry_after_seconds: 1 }));
        guesses.count(one, at(900)).unwrap();
        for _ in 0..20 {
            guesses.count(one, at(901)).unwrap();
            guesses.forget(one);
        }
    }
}
