//! Looks an uploaded process package over before it is accepted: a harmless zip with a manifest that can be read.
//!
//! What a robot will unpack is trusted on every host of the fleet, so nothing a package claims is believed: names are
//! checked against the rules of every system, and sizes are measured by unpacking. Storing it is not done here.

mod directory;
mod entry_name;
mod inferred;
mod manifest;
mod process_toml;
mod zip;

use std::io::{Read, Seek};

use drover_protocol::{manifest::Manifest, problem::Code};

use crate::error::{Error, Result};

/// How large a package may be inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_entries: usize,
    pub max_unpacked_bytes: u64,
    /// How many bytes may come out of one byte of the package.
    pub max_ratio: u64,
    /// Below this size any ratio is harmless.
    pub ratio_free_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_entries: 10_000, max_unpacked_bytes: 2 << 30, max_ratio: 200, ratio_free_bytes: 10 << 20 }
    }
}

/// Checks a whole package and gives its manifest. Blocks for as long as unpacking takes, with bounded memory. Refused
/// with `invalid_package`: the message names the entry, the reason and the remedy.
pub fn validate<R: Read + Seek>(package: R, limits: &Limits) -> Result<Manifest> {
    let mut archive = zip::Archive::open(package, limits)?;
    manifest::read(&mut archive)
}

/// The refusal of a package. `reason` is a fragment that says what is wrong and what helps.
fn refusal(reason: impl Into<String>) -> Error {
    Error::Refused { code: Code::InvalidPackage, message: reason.into() }
}

/// A name from the package, fit to be shown: nothing in it can move the cursor, and it is not endless.
fn shown(name: &str) -> String {
    const MAX_CHARS: usize = 200;
    let mut shown: String = name.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect();
    if name.chars().nth(MAX_CHARS).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

#[cfg(test)]
mod tests;
