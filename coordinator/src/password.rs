//! Passwords: argon2id, off the request threads, a few at a time, and not to be guessed.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use argon2::{Argon2, PasswordHash, PasswordVerifier, password_hash::PasswordHasher};
use drover_protocol::{Timestamp, UserId};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::{
    clock::Randomness,
    domain::account::MAX_PASSWORD_BYTES,
    error::{Error, Result},
};

/// Each takes 19 MiB and a core for tens of milliseconds: one at a time leaves the other cores to everything else.
static PLACES: Semaphore = Semaphore::const_new(1);
/// Who would have to wait longer than about two seconds is told to come back.
const MAX_WAITING: usize = 40;
static WAITING: AtomicUsize = AtomicUsize::new(0);
/// The hash of a text that nobody knows, made as all others are: who is not there is refused no sooner than who is.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$3q2+7wAAAAAAAAAAAAAAAA$h0yb7fa6Gi5MG+OMppw12HmVoCexyhTZVoqwZxdnH0A";

/// The hash of a password in PHC form, with a new salt.
pub fn hash(password: &str, randomness: &dyn Randomness) -> Result<String> {
    let mut salt = [0; 16];
    randomness.fill(&mut salt);
    let hashed = Argon2::default()
        .hash_password_with_salt(password.as_bytes(), &salt)
        .map_err(|error| Error::Internal(format!("a password cannot be hashed: {error}")))?;
    Ok(hashed.to_string())
}

/// The same beside the request, in its turn.
pub async fn hash_in_turn(password: String, salt: [u8; 16]) -> Result<String> {
    in_turn(move || {
        let hashed = Argon2::default()
            .hash_password_with_salt(password.as_bytes(), &salt)
            .map_err(|error| Error::Internal(format!("a password cannot be hashed: {error}")))?;
        Ok(hashed.to_string())
    })
    .await
}

/// Whether the password fits the hash. Without a hash it does not, which takes as long to find out.
pub async fn verify(password: String, hash: Option<String>) -> Result<bool> {
    if password.len() > MAX_PASSWORD_BYTES {
        return Ok(false);
    }
    in_turn(move || {
        let parsed = PasswordHash::new(hash.as_deref().unwrap_or(NOBODY))
            .map_err(|error| Error::Internal(format!("the hash of a password cannot be read: {error}")))?;
        let fits = Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok();
        Ok(fits && hash.is_some())
    })
    .await
}

/// Refuses at once where there would be a long wait, before anything is counted.
pub fn require_room() -> Result<()> {
    match WAITING.load(Ordering::Relaxed) < MAX_WAITING {
        true => Ok(()),
        false => Err(Error::TooMany { retry_after_seconds: 2 }),
    }
}

/// Somebody who waits for a turn.
struct Waiting;

impl Waiting {
    fn begin() -> Result<Self> {
        let waiting = Self;
        match WAITING.fetch_add(1, Ordering::Relaxed) < MAX_WAITING {
            true => Ok(waiting),
            false => Err(Error::TooMany { retry_after_seconds: 2 }),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn in_turn<R: Send + 'static>(work: impl FnOnce() -> Result<R> + Send + 'static) -> Result<R> {
    let _waiting = Waiting::begin()?;
    let closed = |_| Error::Internal("passwords are not looked at any more".to_owned());
    let _place = PLACES.acquire().await.map_err(closed)?;
    let done = tokio::task::spawn_blocking(work);
    done.await.map_err(|error| Error::Internal(format!("a password was not looked at to the end: {error}")))?
}

/// How long wrong passwords are remembered, from the first one on.
const GUESSES_SECONDS: u64 = 900;
/// Whoever is remembered; more are not taken on, so that guessing cannot fill the memory.
const MAX_REMEMBERED: usize = 100_000;

/// By whom or about whom passwords were tried.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Guesser {
    /// A user who is known already, and says the password once more.
    User(UserId),
    /// Somebody at this address who wants to be the user of this login.
    LoginFrom(String, Option<IpAddr>),
    /// Anybody who wants to be that user.
    Login(String),
    /// Somebody at this address, whoever they want to be.
    Address(IpAddr),
}

impl Guesser {
    /// Tries before there is a wait. A login has many from everywhere, lest anybody could shut its user out at no cost.
    const fn most(&self) -> u32 {
        match self {
            Self::User(_) | Self::LoginFrom(..) => 5,
            Self::Login(_) => 50,
            Self::Address(_) => 100,
        }
    }
}

/// A try that is refused because there were too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttled {
    pub retry_after_seconds: u64,
    /// It is the first refusal since the wait began.
    pub is_first: bool,
}

impl From<Throttled> for Error {
    fn from(throttled: Throttled) -> Self {
        Self::TooMany { retry_after_seconds: throttled.retry_after_seconds }
    }
}

/// Passwords that were tried and not (yet) found right. A restart forgets them.
#[derive(Debug, Default)]
pub struct Guesses(Mutex<HashMap<Guesser, (u32, Timestamp)>>);

impl Guesses {
    /// Counts a try of all of these, or of none of them if one has had too many.
    pub fn count(&self, guessers: &[Guesser], now: Timestamp) -> Result<(), Throttled> {
        let mut guesses = self.0.lock();
        let is_old = |since: Timestamp| now.since(since).as_secs() >= GUESSES_SECONDS;
        for guesser in guessers {
            if let Some((count, since)) = guesses.get_mut(guesser)
                && *count >= guesser.most()
                && !is_old(*since)
            {
                let is_first = *count == guesser.most();
                *count = count.saturating_add(1);
                let retry_after_seconds = GUESSES_SECONDS - now.since(*since).as_secs();
                return Err(Throttled { retry_after_seconds, is_first });
            }
        }
        if guesses.len() + guessers.len() > MAX_REMEMBERED {
            guesses.retain(|_, (_, since)| !is_old(*since));
        }
        if guesses.len() + guessers.len() > MAX_REMEMBERED {
            return Err(Throttled { retry_after_seconds: 60, is_first: false });
        }
        for guesser in guessers {
            let (count, since) = guesses.entry(guesser.clone()).or_insert((0, now));
            if is_old(*since) {
                (*count, *since) = (0, now);
            }
            *count += 1;
        }
        Ok(())
    }

    /// The password was right: of an address this one try is taken back, of the others all.
    pub fn forget(&self, guessers: &[Guesser]) {
        let mut guesses = self.0.lock();
        for guesser in guessers {
            match guesser {
                Guesser::Address(_) => {
                    if let Some((count, _)) = guesses.get_mut(guesser) {
                        *count = count.saturating_sub(1);
                    }
                }
                _ => {
                    guesses.remove(guesser);
                }
            }
        }
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
        let user = |number| [Guesser::User(UserId::from_uuid(Uuid::from_u128(number)))];
        let (one, other) = (user(1), user(2));
        let at = |seconds: u64| Timestamp::EPOCH.plus_seconds(seconds);
        for second in 0..5 {
            guesses.count(&one, at(second)).unwrap();
        }
        let refused = |retry_after_seconds, is_first| Err(Throttled { retry_after_seconds, is_first });
        assert_eq!(guesses.count(&one, at(100)), refused(800, true));
        guesses.count(&other, at(100)).unwrap();
        assert_eq!(guesses.count(&one, at(899)), refused(1, false));
        guesses.count(&one, at(900)).unwrap();
        for _ in 0..20 {
            guesses.count(&one, at(901)).unwrap();
            guesses.forget(&one);
        }
    }

    /// Many logins from one address, and one login from many addresses, come to an end as well; a user who signs in all the
    /// time does not use up what the address has.
    #[test]
    fn guesses_are_counted_per_address_and_per_login() {
        let guesses = Guesses::default();
        let now = Timestamp::EPOCH;
        let who = |login: usize, host: usize| {
            let (login, address) = (format!("login {login}"), IpAddr::from([10, 0, 0, host as u8]));
            [Guesser::LoginFrom(login.clone(), Some(address)), Guesser::Login(login), Guesser::Address(address)]
        };
        for login in 0..100 {
            guesses.count(&who(login, 1), now).unwrap();
        }
        assert!(guesses.count(&who(100, 1), now).is_err());
        for host in 10..60 {
            guesses.count(&who(200, host), now).unwrap();
        }
        assert!(guesses.count(&who(200, 61), now).is_err());
        for _ in 0..1_000 {
            guesses.count(&who(300, 5), now).unwrap();
            guesses.forget(&who(300, 5));
        }
    }

    /// Who is not there costs what others cost, or the time would tell.
    #[tokio::test]
    async fn nobody_is_looked_at_as_everybody_is() {
        let nobody = PasswordHash::new(NOBODY).unwrap();
        let made = hash_in_turn("correct horse".to_owned(), [7; 16]).await.unwrap();
        let made = PasswordHash::new(&made).unwrap();
        assert_eq!((nobody.algorithm, &nobody.params), (made.algorithm, &made.params));
        assert!(!verify("correct horse".to_owned(), None).await.unwrap());
    }
}
