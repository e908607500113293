//! The content of a package: unpacked once to measure it, then read file by file for the manifest.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Seek, SeekFrom},
};

use ::zip::{
    ZipArchive,
    read::{ArchiveOffset, Config},
    result::ZipError,
};

use super::{
    Limits,
    directory::{self, Entry},
    entry_name::{self, Names},
    refusal, shown,
};
use crate::error::{Error, Result};

const BUFFER_BYTES: usize = 64 * 1024;

/// A package whose every entry has been checked and unpacked.
pub(super) struct Archive<R> {
    zip: ZipArchive<R>,
    /// Files only.
    files: HashMap<String, usize>,
}

impl<R: Read + Seek> Archive<R> {
    /// Refuses whatever is not a plain, honest zip within the limits.
    pub(super) fn open(mut package: R, limits: &Limits) -> Result<Self> {
        let package_bytes = package.seek(SeekFrom::End(0)).map_err(directory::read_error)?;
        let entries = directory::read(&mut package, limits.max_entries)?;
        let mut names = Names::default();
        for entry in &entries {
            entry_name::check(&entry.name)
                .and_then(|()| names.add(&entry.name, entry.is_folder()))
                .map_err(|reason| refusal(format!("the entry {} {reason}", shown(&entry.name))))?;
        }
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let mut zip = ZipArchive::with_config(config, package).map_err(|error| unreadable("the zip", error))?;
        if zip.len() != entries.len() {
            return Err(refusal("the zip can be read in two ways; pack it again with another tool"));
        }
        measure(&mut zip, &entries, package_bytes, limits)?;
        let files = entries.into_iter().enumerate().filter(|(_, entry)| !entry.is_folder());
        Ok(Self { zip, files: files.map(|(index, entry)| (entry.name, index)).collect() })
    }

    /// The names of all files.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// A text of at most `max_bytes`; `None` if there is no such file.
    pub(super) fn read_text(&mut self, name: &str, max_bytes: u64) -> Result<Option<String>> {
        let Some(index) = self.files.get(name) else { return Ok(None) };
        let mut content = Vec::new();
        let entry = self.zip.by_index(*index).map_err(|error| unreadable(&shown(name), error))?;
        entry.take(max_bytes + 1).read_to_end(&mut content).map_err(|error| unreadable(&shown(name), error.into()))?;
        if content.len() as u64 > max_bytes {
            let limit_kib = max_bytes / 1024;
            return Err(refusal(format!("{} is larger than {limit_kib} KiB; make it smaller", shown(name))));
        }
        let text = String::from_utf8(content)
            .map_err(|_| refusal(format!("{} is not UTF-8 text; save it as UTF-8", shown(name))))?;
        // Windows editors put a mark in front of UTF-8 that the formats do not know.
        Ok(Some(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)))
    }
}

/// Unpacks every entry to nowhere: only so is it known how large it is, and that it is whole.
fn measure<R: Read + Seek>(
    zip: &mut ZipArchive<R>,
    entries: &[Entry],
    package_bytes: u64,
    limits: &Limits,
) -> Result<()> {
    let ratio_bytes = package_bytes.saturating_mul(limits.max_ratio).max(limits.ratio_free_bytes);
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut total: u64 = 0;
    for (index, entry) in entries.iter().enumerate() {
        let what = format!("the entry {}", shown(&entry.name));
        let mut content = zip.by_index(index).map_err(|error| unreadable(&what, error))?;
        if content.name_raw() != entry.name.as_bytes() {
            return Err(refusal(format!("{what} can be read under two names; pack it again with another tool")));
        }
        let before = total;
        loop {
            let read = content.read(&mut buffer).map_err(|error| unreadable(&what, error.into()))?;
            total += read as u64;
            if total > limits.max_unpacked_bytes {
                let limit_mib = limits.max_unpacked_bytes >> 20;
                return Err(refusal(format!(
                    "{what} takes the package over {limit_mib} MiB unpacked; leave out what is not needed to \
                         run, and load large data at run time"
                )));
            }
            if total > ratio_bytes {
                let ratio = limits.max_ratio;
                return Err(refusal(format!(
                    "{what} takes the package over {ratio} times its packed size, as in a zip bomb; leave out \
                         files of endlessly repeated content"
                )));
            }
            if read == 0 {
                break;
            }
        }
        if total - before != entry.size_bytes {
            return Err(refusal(format!("{what} is not as large as the zip says; pack it again")));
        }
    }
    Ok(())
}

/// Damage is the package's fault; a failing disk is not.
fn unreadable(what: &str, error: ZipError) -> Error {
    match error {
        ZipError::Io(error) => match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::Other => {
                refusal(format!("{what} is damaged ({error}); pack it again"))
            }
            _ => Error::Internal(format!("reading a package: {error}")),
        },
        error => refusal(format!("{what} cannot be read ({error}); pack it again")),
    }
}
