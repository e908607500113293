//! Names that people give, and other short texts: what is allowed, in one place.

use drover_protocol::problem::FieldError;
use uuid::Uuid;

pub const MAX_NAME_CHARS: usize = 128;
pub const MAX_DESCRIPTION_CHARS: usize = 2048;
pub const MAX_REASON_CHARS: usize = 512;
pub const MAX_LABELS: usize = 32;
pub const MAX_LABELS_BYTES: usize = 16 * 1024;

/// Gathers what is wrong with a request, so that all of it is answered at once.
#[derive(Debug, Default)]
pub struct Faults(Vec<FieldError>);

impl Faults {
    pub fn add(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.0.push(FieldError { pointer: pointer.into(), detail: detail.into() });
    }

    /// A name is found in paths where an id could stand as well, so it must not look like one.
    pub fn name(&mut self, pointer: &str, name: &str) {
        self.text(pointer, name, MAX_NAME_CHARS);
        if name.trim() != name || name.is_empty() {
            self.add(pointer, "a name must not be empty, nor begin or end with a space");
        }
        if name.contains(['\r', '\n', '\t']) {
            self.add(pointer, "a name must be a single line");
        }
        if Uuid::try_parse(name).is_ok() {
            self.add(pointer, "a name must not look like an id");
        }
    }

    /// Any text up to a number of characters, without control characters other than line breaks and tabs.
    pub fn text(&mut self, pointer: &str, text: &str, max_chars: usize) {
        if text.chars().count() > max_chars {
            self.add(pointer, format!("longer than {max_chars} characters"));
        }
        if text.chars().any(|char| char.is_control() && !matches!(char, '\n' | '\r' | '\t')) {
            self.add(pointer, "control characters are not allowed");
        }
    }

    pub fn range(&mut self, pointer: &str, value: u64, min: u64, max: u64) {
        if !(min..=max).contains(&value) {
            self.add(pointer, format!("must be from {min} to {max}"));
        }
    }

    /// Labels, which have a limit together as well: an object with all of its texts must fit a value of the store.
    pub fn labels<'a>(&mut self, pointer: &str, labels: impl ExactSizeIterator<Item = (&'a String, &'a String)>) {
        let mut bytes = 0;
        if labels.len() > MAX_LABELS {
            self.add(pointer, format!("more than {MAX_LABELS} labels"));
        }
        for (key, value) in labels {
            let at = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
            if key.is_empty() || key.contains([':', '=']) {
                self.add(&at, "a label's key must not be empty nor contain ':' or '='");
            }
            self.text(&at, key, MAX_NAME_CHARS);
            self.text(&at, value, MAX_NAME_CHARS);
            bytes += key.len() + value.len();
        }
        if bytes > MAX_LABELS_BYTES {
            self.add(pointer, format!("all labels together are over {MAX_LABELS_BYTES} bytes"));
        }
    }

    /// `Ok` if nothing was wrong.
    pub fn check(self) -> Result<(), Vec<FieldError>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }
}

impl From<Vec<FieldError>> for crate::error::Error {
    fn from(fields: Vec<FieldError>) -> Self {
        Self::Invalid(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(name: &str) -> usize {
        let mut faults = Faults::default();
        faults.name("/name", name);
        faults.check().err().map_or(0, |fields| fields.len())
    }

    #[test]
    fn names_in_any_script_are_fine_and_confusing_ones_are_not() {
        for good in ["invoices", "Счета за ночь", "a/b & c? #1 %", "请求", &"x".repeat(128)] {
            assert_eq!(faults_of(good), 0, "{good}");
        }
        for bad in ["", " a", "a\n", "a\0b", "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f", &"x".repeat(129)] {
            assert_ne!(faults_of(bad), 0, "{bad:?}");
        }
    }
}
