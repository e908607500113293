//! The forms in which a secret is looked for: itself, its parts, and each of them as writers of other formats write it.

use std::collections::BTreeSet;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

use super::{MIN_SECRET_BYTES, parts::parts_of};

/// Longer secrets are masked piece by piece, so that the automaton stays small.
const PIECE_BYTES: usize = 4096;
/// Of longer secrets only the raw form is known; their other forms would need too much memory. The parts of one secret
/// have as much together.
const MAX_ENCODED_BYTES: usize = 64 * 1024;
/// So many whole groups of four characters make a piece of Base64 that is known by itself.
const GROUPS_OF_A_PIECE: usize = 4;

/// How a writer of JSON escapes more than it must: which further characters, whether with digits in upper case, and
/// whether all that is not ASCII as well.
const JSON_WRITERS: [(&str, bool, bool); 10] = [
    // JavaScript, serde
    ("", false, false),
    // Python
    ("\x7f", false, true),
    // Jackson, if it is told to write ASCII
    ("", true, true),
    // PHP, with and without JSON_UNESCAPED_UNICODE
    ("/", false, true),
    ("/", false, false),
    // Go
    ("<>&\u{2028}\u{2029}", false, false),
    // PowerShell
    ("<>&'\u{2028}\u{2029}", false, false),
    // Gson
    ("<>&'=\u{2028}\u{2029}", false, false),
    // Jinja and Flask
    ("<>&'\x7f", false, true),
    // .NET
    ("\"<>&'+`\x7f", true, true),
];

/// All forms of all secrets, sorted. Empty and very short secrets have none.
pub fn forms_of<S: AsRef<str>>(secrets: impl IntoIterator<Item = S>) -> Vec<Vec<u8>> {
    let mut forms = BTreeSet::new();
    for secret in secrets {
        add_secret(secret.as_ref(), &mut forms);
    }
    forms.into_iter().collect()
}

fn add_secret(secret: &str, forms: &mut BTreeSet<Vec<u8>>) {
    for text in [secret, secret.trim()] {
        add_pieces(text.as_bytes(), text.len() <= MAX_ENCODED_BYTES, forms);
    }
    // The shortest parts come first: passwords and keys are among them.
    let mut parts: Vec<String> = parts_of(secret).into_iter().collect();
    parts.sort_by_key(String::len);
    let mut left = MAX_ENCODED_BYTES;
    for part in parts {
        add_pieces(part.as_bytes(), part.len() <= left, forms);
        left = left.saturating_sub(part.len());
    }
}

fn add_pieces(secret: &[u8], with_encodings: bool, forms: &mut BTreeSet<Vec<u8>>) {
    let mut pieces: Vec<&[u8]> = secret.chunks(PIECE_BYTES).collect();
    if pieces.len() > 1 && !secret.len().is_multiple_of(PIECE_BYTES) {
        // The last piece reaches back, so that it is not too short to be told from other text.
        pieces.pop();
        pieces.push(&secret[secret.len() - PIECE_BYTES..]);
    }
    for piece in pieces.into_iter().filter(|piece| piece.len() >= MIN_SECRET_BYTES) {
        add_form(piece.to_vec(), forms);
        if with_encodings {
            add_encodings(piece, forms);
        }
    }
}

fn add_form(form: Vec<u8>, forms: &mut BTreeSet<Vec<u8>>) {
    if form.len() >= MIN_SECRET_BYTES {
        forms.insert(form);
    }
}

fn add_encodings(secret: &[u8], forms: &mut BTreeSet<Vec<u8>>) {
    add_base64(secret, forms);
    add_lines_of_base64(secret, forms);
    for digits in ["0123456789abcdef", "0123456789ABCDEF"] {
        let digits = digits.as_bytes();
        add_form(secret.iter().flat_map(|byte| hex(*byte, digits)).collect(), forms);
        for unreserved in [b"-_.~".as_slice(), b"-_.~!'()*", b"-_.~/", b"-_.*"] {
            for plus in [false, true] {
                add_form(percent(secret, digits, unreserved, plus), forms);
            }
        }
    }
    // A piece of a long secret may begin inside of a character; then it has no textual forms of its own.
    if let Ok(text) = std::str::from_utf8(secret) {
        add_textual(text, forms);
    }
}

fn add_textual(text: &str, forms: &mut BTreeSet<Vec<u8>>) {
    for (also, upper, only_ascii) in JSON_WRITERS {
        let json = json(text, also, upper, only_ascii);
        // JSON inside of JSON, as loggers like to write it.
        let twice = json.replace('\\', "\\\\").replace('"', "\\\"");
        add_form(json.into_bytes(), forms);
        add_form(twice.into_bytes(), forms);
    }
    for bytes_of in [u16::to_le_bytes, u16::to_be_bytes] {
        let wide: Vec<u8> = text.encode_utf16().flat_map(bytes_of).collect();
        add_base64(&wide, forms);
        add_form(wide, forms);
    }
}

/// Inside of a longer text a value may begin at each of three positions of a Base64 group; the characters that it
/// shares with its neighbours are left out.
fn add_base64(secret: &[u8], forms: &mut BTreeSet<Vec<u8>>) {
    for offset in 0..3 {
        let shifted = [&[0; 2][..offset], secret].concat();
        let (first, end) = own_characters(offset, secret.len());
        for text in [STANDARD_NO_PAD.encode(&shifted), URL_SAFE_NO_PAD.encode(&shifted)] {
            add_form(text.as_bytes()[first.min(end)..end].to_vec(), forms);
        }
    }
}

/// Base64 in lines, as MIME and PEM have it: lines end between groups, but where depends on what stands before the
/// secret. With a piece of a few groups from each group on, every line is covered that has so many of them. The
/// characters of a group that is not wholly the secret's go with the first and the last piece.
fn add_lines_of_base64(secret: &[u8], forms: &mut BTreeSet<Vec<u8>>) {
    for offset in 0..3 {
        let text = STANDARD_NO_PAD.encode([&[0; 2][..offset], secret].concat());
        let (first, end) = own_characters(offset, secret.len());
        let (first_group, end_group) = (first.div_ceil(4), end / 4);
        for group in first_group..(end_group + 1).saturating_sub(GROUPS_OF_A_PIECE) {
            let after = group + GROUPS_OF_A_PIECE;
            let from = if group == first_group { first } else { group * 4 };
            let to = if after == end_group { end } else { after * 4 };
            add_form(text.as_bytes()[from..to].to_vec(), forms);
        }
    }
}

/// From where to where the characters of Base64 tell of nothing but `length` bytes that begin `offset` bytes into a
/// group.
fn own_characters(offset: usize, length: usize) -> (usize, usize) {
    ((offset * 8).div_ceil(6), (offset + length) * 8 / 6)
}

pub fn hex(byte: u8, digits: &[u8]) -> [u8; 2] {
    [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]
}

pub fn percent(secret: &[u8], digits: &[u8], unreserved: &[u8], plus: bool) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(secret.len() * 3);
    for &byte in secret {
        if byte.is_ascii_alphanumeric() || unreserved.contains(&byte) {
            encoded.push(byte);
        } else if byte == b' ' && plus {
            encoded.push(b'+');
        } else {
            encoded.push(b'%');
            encoded.extend(hex(byte, digits));
        }
    }
    encoded
}

/// The text as a writer of [`JSON_WRITERS`] writes it, without the quotes around it.
fn json(text: &str, also: &str, upper: bool, only_ascii: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '/' if also.contains('/') => escaped.push_str("\\/"),
            _ if also.contains(character) || (only_ascii && !character.is_ascii()) => {
                push_units(character, upper, &mut escaped);
            }
            '"' | '\\' => escaped.extend(['\\', character]),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            '\x08' => escaped.push_str("\\b"),
            '\x0c' => escaped.push_str("\\f"),
            '\0'..' ' => push_units(character, upper, &mut escaped),
            _ => escaped.push(character),
        }
    }
    escaped
}

fn push_units(character: char, upper: bool, escaped: &mut String) {
    for unit in character.encode_utf16(&mut [0; 2]) {
        escaped.push_str(&if upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") });
    }
}
