//! Passwords: argon2id, off the request threads, a few at a time.

use argon2::{Argon2, PasswordHash, PasswordVerifier, password_hash::PasswordHasher};
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
