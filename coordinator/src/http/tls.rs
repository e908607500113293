//! The certificate by which connections are encrypted: read from files, and read again when those change.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::RwLock;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path} cannot be read: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{path} holds no certificates in PEM form, or broken ones: {detail}")]
    Certificates { path: PathBuf, detail: String },
    #[error("{path} holds no private key in PEM form, or a broken one: {detail}")]
    PrivateKey { path: PathBuf, detail: String },
    #[error("the private key in {key} does not belong to the first certificate in {certificate}: {detail}")]
    Mismatch { certificate: PathBuf, key: PathBuf, detail: String },
    #[error("connections cannot be encrypted: {0}")]
    Unusable(#[from] rustls::Error),
}

/// What the two files held.
#[derive(PartialEq, Eq)]
struct Texts {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// A certificate with its chain and its private key, as they are in their files.
pub struct Certificate {
    certificate_file: PathBuf,
    key_file: PathBuf,
    current: RwLock<Arc<CertifiedKey>>,
    /// What the files held when they were read last, whether or not that could be used.
    seen: RwLock<Texts>,
}

/// The key stays out of whatever is printed.
impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").field("certificate_file", &self.certificate_file).finish_non_exhaustive()
    }
}

impl Certificate {
    pub fn open(certificate_file: &Path, key_file: &Path) -> Result<Self, TlsError> {
        let texts = read(certificate_file, key_file)?;
        let current = RwLock::new(Arc::new(parsed(&texts, certificate_file, key_file)?));
        let (certificate_file, key_file) = (certificate_file.to_owned(), key_file.to_owned());
        Ok(Self { certificate_file, key_file, current, seen: RwLock::new(texts) })
    }

    /// Reads the files again; `true` if a new certificate counts from now on. One that cannot be used changes nothing: the
    /// old one stays, and the error is given once for each change of the files.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let texts = read(&self.certificate_file, &self.key_file)?;
        if texts == *self.seen.read() {
            return Ok(false);
        }
        let new = parsed(&texts, &self.certificate_file, &self.key_file);
        *self.seen.write() = texts;
        *self.current.write() = Arc::new(new?);
        Ok(true)
    }

    /// How connections are encrypted: TLS 1.2 or 1.3, by whatever certificate counts when they begin.
    pub fn server_config(self: &Arc<Self>) -> Result<ServerConfig, TlsError> {
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let certificate: Arc<dyn ResolvesServerCert> = Arc::<Self>::clone(self);
        let mut config =
            builder.with_safe_default_protocol_versions()?.with_no_client_auth().with_cert_resolver(certificate);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read()))
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Texts, TlsError> {
    let text =
        |path: &Path| std::fs::read(path).map_err(|source| TlsError::Unreadable { path: path.to_owned(), source });
    Ok(Texts { certificate: text(certificate)?, key: text(key)? })
}

fn parsed(texts: &Texts, certificate: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let broken = |detail: String| TlsError::Certificates { path: certificate.to_owned(), detail };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&texts.certificate)
        .collect::<Result<_, _>>()
        .map_err(|error| broken(error.to_string()))?;
    if chain.is_empty() {
        return Err(broken("there is none".to_owned()));
    }
    // The parser's own words may hold a part of the key.
    let private = PrivateKeyDer::from_pem_slice(&texts.key).map_err(|_| TlsError::PrivateKey {
        path: key.to_owned(),
        detail: "it must begin with a line such as -----BEGIN PRIVATE KEY-----".to_owned(),
    })?;
    CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider()).map_err(|error| TlsError::Mismatch {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        detail: error.to_string(),
    })
}
