//! Names of blobs. They are made from ids and digests only, never from anything a caller has written.

use std::fmt;

use drover_protocol::{FileId, LogBlockId};
use object_store::path::Path;

use crate::error::{Error, Result};

/// What a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlobKind {
    /// A process package, named by its SHA-256.
    Package,
    /// A file of a storage folder.
    File,
    /// A sealed block of log lines.
    Log,
}

impl BlobKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Package => "package",
            Self::File => "file",
            Self::Log => "log",
        }
    }

    pub(super) fn path(self) -> Path {
        Path::from(self.as_str())
    }
}

/// The name of one blob, shown as `package/<sha256>`, `file/<id>` or `log/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlobName {
    kind: BlobKind,
    key: String,
}

impl BlobName {
    /// The package with this digest; refused unless it is 64 lower-case hexadecimal digits.
    pub fn package(sha256: &str) -> Result<Self> {
        if is_key(BlobKind::Package, sha256) {
            Ok(Self { kind: BlobKind::Package, key: sha256.to_owned() })
        } else {
            Err(Error::invalid("", "a digest is 64 lower-case hexadecimal digits"))
        }
    }

    pub fn file(id: FileId) -> Self {
        Self { kind: BlobKind::File, key: id.to_string() }
    }

    pub fn log(id: LogBlockId) -> Self {
        Self { kind: BlobKind::Log, key: id.to_string() }
    }

    /// The name that was shown as this text, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let (word, key) = text.split_once('/')?;
        let kind = [BlobKind::Package, BlobKind::File, BlobKind::Log].into_iter().find(|kind| kind.as_str() == word)?;
        is_key(kind, key).then(|| Self { kind, key: key.to_owned() })
    }

    pub fn kind(&self) -> BlobKind {
        self.kind
    }

    /// The digest, or the text of the id.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The digest that content of this name must have, if the name tells.
    pub fn digest(&self) -> Option<&str> {
        (self.kind == BlobKind::Package).then_some(self.key.as_str())
    }

    /// Two levels of folders keep each of them small. The last digits choose, because ids of one month begin alike.
    pub(super) fn path(&self) -> Path {
        let (rest, inner) = self.key.split_at(self.key.len() - 2);
        let outer = &rest[rest.len() - 2..];
        Path::from_iter([self.kind.as_str(), inner, outer, &self.key])
    }

    /// The name that has this path, if there is one.
    pub(super) fn of_path(kind: BlobKind, path: &Path) -> Option<Self> {
        let key = path.filename().filter(|key| is_key(kind, key))?;
        let name = Self { kind, key: key.to_owned() };
        (name.path() == *path).then_some(name)
    }
}

impl fmt::Display for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.as_str(), self.key)
    }
}

fn is_key(kind: BlobKind, key: &str) -> bool {
    match kind {
        BlobKind::Package => key.len() == 64 && key.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
        BlobKind::File => key.parse::<FileId>().is_ok_and(|id| id.to_string() == key),
        BlobKind::Log => key.parse::<LogBlockId>().is_ok_and(|id| id.to_string() == key),
    }
}
