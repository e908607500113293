//! The coordinator's own secret, and all that is derived from it: hashes of keys, seals, and the keys of attempts.
//!
//! The secret lies in a file of its own, outside of the store's files. Whoever has the store alone has no key.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce, aead::Aead};
use drover_protocol::JobId;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use uuid::Builder;

use crate::{
    clock::Randomness,
    error::{Error, Result},
};

pub const NONCE_BYTES: usize = 24;
/// Length of what signs a link.
pub const LINK_TAG_BYTES: usize = 32;

/// Why the secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    #[error("the key file {0} is missing; without it no API key of this store can be recognised: put it back")]
    Missing(String),
    #[error("the key file {0} must hold 32, 64 or 96 bytes; restore it from your copy")]
    WrongSize(String),
    #[error("cannot use the key file {path}: {source}")]
    Io { path: String, source: std::io::Error },
}

/// A secret of the key file, in bytes.
const SECRET_BYTES: usize = 32;

/// Derived keys; the secrets themselves are not kept.
///
/// The key file holds the secret of the store, for its life. Once the sealing key has been changed, a second one follows
/// it, of which that key is derived; while it is being changed a third one, the new one. What is sealed then is sealed
/// with the new key, and opened with either.
pub struct Secrets {
    hashing: [u8; 32],
    /// The key to seal with, and after it the one that it replaces.
    sealing: Vec<[u8; 32]>,
    attempts: [u8; 32],
    links: [u8; 32],
    forms: [u8; 32],
    requests: [u8; 32],
    fingerprint: [u8; 32],
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

impl Secrets {
    pub fn from_bytes(secret: &[u8; SECRET_BYTES]) -> Self {
        Self::from_chain(&[*secret])
    }

    /// The same, which opens what the other one has sealed as well.
    pub fn with_older(&self, older: &Self) -> Self {
        Self { sealing: [self.sealing.as_slice(), &older.sealing].concat(), ..*self }
    }

    /// Of all secrets of the key file; there is at least one.
    fn from_chain(chain: &[[u8; SECRET_BYTES]]) -> Self {
        let derive = |purpose: &str| mac(&chain[0], &[b"drover ", purpose.as_bytes()]);
        let sealing = |secret: &[u8; SECRET_BYTES]| mac(secret, &[b"drover ", b"sealing"]);
        Self {
            hashing: derive("hashing of keys"),
            sealing: chain[1.min(chain.len() - 1)..].iter().rev().map(sealing).collect(),
            attempts: derive("keys of attempts"),
            links: derive("links"),
            forms: derive("forms of sessions"),
            requests: derive("repeated requests"),
            fingerprint: derive("fingerprint"),
        }
    }

    /// Reads the key file; makes it if `may_create`, which is so only for a new store.
    pub fn open(path: &Path, may_create: bool, randomness: &dyn Randomness) -> Result<Self, SecretsError> {
        let shown = path.display().to_string();
        let io = |source| SecretsError::Io { path: path.display().to_string(), source };
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && may_create => {
                return create(path, randomness).map_err(io);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(SecretsError::Missing(shown)),
            Err(error) => return Err(io(error)),
        };
        Ok(Self::from_chain(&read_chain(&mut file).map_err(io)?.ok_or(SecretsError::WrongSize(shown))?))
    }

    /// Begins to change the sealing key: writes a new one into the key file beside the one that it replaces. If that was
    /// begun before, it goes on with that one.
    pub fn begin_rotation(path: &Path, randomness: &dyn Randomness) -> Result<Self, SecretsError> {
        let mut chain = Self::chain_of(path)?;
        if chain.len() < 3 {
            let mut new = [0; SECRET_BYTES];
            randomness.fill(&mut new);
            let old = chain[chain.len() - 1];
            chain = vec![chain[0], old, new];
            write_chain(path, &chain).map_err(|source| io_error(path, source))?;
        }
        Ok(Self::from_chain(&chain))
    }

    /// Ends the change of the sealing key: the one that was replaced is forgotten. Nothing may be sealed with it any more.
    pub fn end_rotation(path: &Path) -> Result<Self, SecretsError> {
        let mut chain = Self::chain_of(path)?;
        if chain.len() == 3 {
            chain.remove(1);
            write_chain(path, &chain).map_err(|source| io_error(path, source))?;
        }
        Ok(Self::from_chain(&chain))
    }

    fn chain_of(path: &Path) -> Result<Vec<[u8; SECRET_BYTES]>, SecretsError> {
        let shown = || path.display().to_string();
        let mut file = File::open(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => SecretsError::Missing(shown()),
            _ => io_error(path, error),
        })?;
        read_chain(&mut file).map_err(|source| io_error(path, source))?.ok_or_else(|| SecretsError::WrongSize(shown()))
    }

    /// Without the key that is being replaced: what this opens is sealed with the new one.
    pub fn newest_only(&self) -> Self {
        Self { sealing: vec![self.sealing[0]], ..*self }
    }

    /// Tells the sealing key from others.
    pub fn sealing_fingerprint(&self) -> [u8; 32] {
        fingerprint_of(&self.sealing[0])
    }

    /// Whether one of the sealing keys has this fingerprint.
    pub fn has_sealing_key(&self, fingerprint: &[u8]) -> bool {
        self.sealing.iter().any(|key| fingerprint_of(key) == *fingerprint)
    }

    /// Tells this secret from others without giving anything of it away.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// The fingerprint as people compare it.
    pub fn fingerprint_text(&self) -> String {
        self.fingerprint.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// By which a key or token is found.
    pub fn hash(&self, text: &str) -> [u8; 32] {
        mac(&self.hashing, &[text.as_bytes()])
    }

    /// By which a repeated request is known. Its plain digest would tell whoever guesses a password in it that it is right.
    pub fn request_tag(&self, digest: &[u8; 32]) -> [u8; 32] {
        mac(&self.requests, &[digest])
    }

    /// The text of an attempt's key. It can be made again, so that an assignment whose answer was lost is given again.
    pub fn attempt_key(&self, job: JobId, attempt: u32) -> String {
        let digest = mac(&self.attempts, &[job.uuid().as_bytes(), &attempt.to_be_bytes()]);
        let mut guid = [0; 16];
        guid.copy_from_slice(&digest[..16]);
        key_text(guid)
    }

    /// Signs what a link allows.
    pub fn link_tag(&self, payload: &[u8]) -> [u8; LINK_TAG_BYTES] {
        mac(&self.links, &[payload])
    }

    /// Whether the tag signs this; takes the same time whatever it is.
    pub fn is_link_tag(&self, payload: &[u8], tag: &[u8; LINK_TAG_BYTES]) -> bool {
        self.link_tag(payload).ct_eq(tag).into()
    }

    /// What a page says with each change that it asks for in a session, which another site's page cannot know.
    pub fn csrf_token(&self, session: &str) -> String {
        URL_SAFE_NO_PAD.encode(mac(&self.forms, &[session.as_bytes()]))
    }

    /// Whether it is that of the session; takes the same time whatever it is.
    pub fn is_csrf_token(&self, session: &str, token: &str) -> bool {
        self.csrf_token(session).as_bytes().ct_eq(token.as_bytes()).into()
    }

    /// Seals bytes; `context` must be the same when they are opened.
    pub fn seal(&self, context: &[u8], plain: &[u8], nonce: [u8; NONCE_BYTES]) -> Result<Vec<u8>> {
        let cipher = XChaCha20Poly1305::new(&self.sealing[0].into());
        let payload = chacha20poly1305::aead::Payload { msg: plain, aad: context };
        let sealed =
            cipher.encrypt(&XNonce::from(nonce), payload).map_err(|_| Error::Internal("sealing failed".to_owned()))?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// Opens what was sealed under the same context.
    pub fn open_sealed(&self, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
        let broken = || Error::Internal("a sealed value cannot be opened with this key file".to_owned());
        let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES).ok_or_else(broken)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| broken())?;
        let open = |key: &[u8; 32]| {
            let payload = chacha20poly1305::aead::Payload { msg: sealed, aad: context };
            XChaCha20Poly1305::new(&(*key).into()).decrypt(&XNonce::from(nonce), payload).ok()
        };
        self.sealing.iter().find_map(open).ok_or_else(broken)
    }
}

fn fingerprint_of(key: &[u8; 32]) -> [u8; 32] {
    mac(key, &[b"fingerprint"])
}

fn io_error(path: &Path, source: std::io::Error) -> SecretsError {
    SecretsError::Io { path: path.display().to_string(), source }
}

/// The secrets of a key file; `None` if it is not one.
fn read_chain(file: &mut File) -> std::io::Result<Option<Vec<[u8; SECRET_BYTES]>>> {
    let mut bytes = Vec::new();
    file.take(3 * SECRET_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    let (chain, rest) = bytes.as_chunks::<SECRET_BYTES>();
    Ok((rest.is_empty() && (1..=3).contains(&chain.len())).then(|| chain.to_vec()))
}

fn create(path: &Path, randomness: &dyn Randomness) -> std::io::Result<Secrets> {
    let mut secret = [0; SECRET_BYTES];
    randomness.fill(&mut secret);
    write_chain(path, &[secret])?;
    Ok(Secrets::from_bytes(&secret))
}

/// Writes the key file whole: beside and renamed, for a crash in between must not leave half of one behind.
fn write_chain(path: &Path, chain: &[[u8; SECRET_BYTES]]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(chain.as_flattened())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    File::open(folder)?.sync_all()
}

/// The text of a key: the Base64 of a random GUID's text.
pub fn key_text(random: [u8; 16]) -> String {
    STANDARD.encode(Builder::from_random_bytes(random).into_uuid().to_string())
}

/// The text of a session's key.
pub fn session_text(random: [u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_texts_are_the_base64_of_a_guids_text() {
        let text = key_text([7; 16]);
        let guid = String::from_utf8(STANDARD.decode(text).expect("it is Base64")).expect("it is text");
        assert_eq!(uuid::Uuid::parse_str(&guid).map(|guid| guid.get_version_num()), Ok(4));
    }

    #[test]
    fn seals_open_only_unchanged_and_in_their_context() {
        let secrets = Secrets::from_bytes(&[1; 32]);
        let sealed = secrets.seal(b"here", b"the text", [9; 24]).expect("sealing works");
        assert_eq!(secrets.open_sealed(b"here", &sealed), Ok(b"the text".to_vec()));
        assert!(secrets.open_sealed(b"there", &sealed).is_err());
        assert!(Secrets::from_bytes(&[2; 32]).open_sealed(b"here", &sealed).is_err());
        assert!(secrets.open_sealed(b"here", &sealed[..10]).is_err());
        let mut flipped = sealed.clone();
        flipped[30] ^= 1;
        assert!(secrets.open_sealed(b"here", &flipped).is_err());
    }

    /// While the sealing key is being changed both are good, and only then. What else is derived stays as it was.
    #[test]
    fn the_sealing_key_is_changed_in_two_steps() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("secrets.key");
        let randomness = crate::clock::SystemRandomness;
        let mut before = Secrets::open(&path, true, &randomness).expect("a new one is made");
        for bytes in [64, 64] {
            let old = before.seal(b"c", b"old", [1; 24]).expect("sealing works");
            let during = Secrets::begin_rotation(&path, &randomness).expect("it begins");
            let again = Secrets::begin_rotation(&path, &randomness).expect("it goes on");
            assert_eq!(during.sealing_fingerprint(), again.sealing_fingerprint());
            assert!(during.has_sealing_key(&before.sealing_fingerprint()));
            let new = during.seal(b"c", b"new", [2; 24]).expect("sealing works");
            assert_eq!(during.open_sealed(b"c", &old), Ok(b"old".to_vec()));
            assert!(before.open_sealed(b"c", &new).is_err() && during.newest_only().open_sealed(b"c", &old).is_err());
            let after = Secrets::end_rotation(&path).expect("it ends");
            assert_eq!(std::fs::read(&path).map(|file| file.len()).ok(), Some(bytes));
            assert_eq!(after.open_sealed(b"c", &new), Ok(b"new".to_vec()));
            assert!(after.open_sealed(b"c", &old).is_err());
            assert_eq!((after.hash("x"), after.fingerprint()), (before.hash("x"), before.fingerprint()));
            before = Secrets::open(&path, false, &randomness).expect("it is read");
            assert_eq!(before.sealing_fingerprint(), after.sealing_fingerprint());
        }
    }

    /// A store must never get a second secret by accident: its keys would all be unknown from then on.
    #[test]
    fn the_key_file_is_made_once_and_missed_when_gone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("secrets.key");
        let randomness = crate::clock::SystemRandomness;
        let made = Secrets::open(&path, true, &randomness).expect("a new one is made");
        let read = Secrets::open(&path, false, &randomness).expect("it is read");
        assert_eq!(made.hash("x"), read.hash("x"));
        std::fs::write(&path, b"short").expect("the file is there");
        assert!(matches!(Secrets::open(&path, true, &randomness), Err(SecretsError::WrongSize(_))));
        std::fs::remove_file(&path).expect("the file is there");
        assert!(matches!(Secrets::open(&path, false, &randomness), Err(SecretsError::Missing(_))));
    }
}
