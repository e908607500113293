//! Masking of secrets in everything that leaves the host: by value, in the forms in which values travel, and across
//! the borders of chunks.
//!
//! Every byte that any occurrence of any form covers is replaced; occurrences that overlap or touch become one mask.
//! Secrets shorter than [`MIN_SECRET_BYTES`] are not masked: they would tear holes into innocent text everywhere.

mod forms;
mod parts;

use std::cell::OnceCell;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use serde_json::{Map, Value};

use self::forms::forms_of;

/// What is written in place of a secret.
pub const MASK: &str = "***";
/// Shorter secrets are not masked.
pub const MIN_SECRET_BYTES: usize = 4;
/// Finds the secrets of one job in all their forms.
pub struct Redactor {
    /// Made when the first text comes: short jobs often have none.
    automaton: OnceCell<AhoCorasick>,
    /// Sorted, to find out whether the end of a chunk may be the beginning of a secret.
    forms: Vec<Vec<u8>>,
    /// Where [`place_of`] puts the first four bytes of a form. At most positions it spares the search among the forms.
    starts: Vec<bool>,
    longest: usize,
}

impl Redactor {
    /// Learns the values; empty and very short ones are left out.
    pub fn new<S: AsRef<str>>(secrets: impl IntoIterator<Item = S>) -> Self {
        let forms = forms_of(secrets);
        let longest = forms.iter().map(Vec::len).max().unwrap_or(0);
        let mut starts = vec![false; 1 << 16];
        for four in forms.iter().filter_map(|form| form.first_chunk()) {
            starts[place_of(*four)] = true;
        }
        Self { automaton: OnceCell::new(), forms, starts, longest }
    }

    fn automaton(&self) -> &AhoCorasick {
        self.automaton.get_or_init(|| {
            let mut builder = AhoCorasick::builder();
            builder.match_kind(MatchKind::Standard);
            // The contiguous automaton needs an eighth of the other's memory; only gigabytes of forms are refused.
            builder
                .kind(Some(AhoCorasickKind::ContiguousNFA))
                .build(&self.forms)
                .or_else(|_| AhoCorasick::new(&self.forms))
                .expect("the forms of secrets are far below the automaton's limit of two billion states")
        })
    }

    /// The bytes of `bytes` that are secret: ascending, disjoint, not touching.
    fn secret_ranges(&self, bytes: &[u8], open: usize) -> Vec<(usize, usize)> {
        let mut found: Vec<(usize, usize)> = Vec::new();
        if open > 0 {
            found.push((0, open));
        }
        if !bytes.is_empty() && !self.forms.is_empty() {
            found.extend(self.automaton().find_overlapping_iter(bytes).map(|found| (found.start(), found.end())));
        }
        found.sort_unstable();
        let mut merged: Vec<(usize, usize)> = Vec::new();
        for (start, end) in found {
            match merged.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        merged
    }

    /// Masks a whole text.
    pub fn text(&self, text: &str) -> String {
        let ranges = self.secret_ranges(text.as_bytes(), 0);
        if ranges.is_empty() {
            return text.to_owned();
        }
        let mut masked = Vec::with_capacity(text.len());
        let mut from = 0;
        for (start, end) in ranges {
            masked.extend_from_slice(&text.as_bytes()[from..start]);
            masked.extend_from_slice(MASK.as_bytes());
            from = end;
        }
        masked.extend_from_slice(&text.as_bytes()[from..]);
        // A form may begin or end inside of a character only if the text has bytes of it by chance.
        String::from_utf8(masked).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    /// Masks every text, key and number inside of a JSON value.
    pub fn value(&self, value: Value) -> Value {
        if self.forms.is_empty() {
            return value;
        }
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(items) => Value::Array(items.into_iter().map(|item| self.value(item)).collect()),
            Value::Object(members) => Value::Object(self.members(members)),
            Value::Number(number) => {
                let text = number.to_string();
                let masked = self.text(&text);
                if masked == text { Value::Number(number) } else { Value::String(masked) }
            }
            other @ (Value::Null | Value::Bool(_)) => other,
        }
    }

    /// The same for the members of an object. Names that become equal are numbered, so that no value is lost.
    pub fn members(&self, members: Map<String, Value>) -> Map<String, Value> {
        let mut all = Map::new();
        for (name, value) in members {
            let masked = self.text(&name);
            let numbered = (2..).map(|number| format!("{masked}.{number}"));
            let free = std::iter::once(masked.clone()).chain(numbered).find(|name| !all.contains_key(name));
            all.insert(free.unwrap_or(masked), self.value(value));
        }
        all
    }

    /// How many bytes at the end of `bytes` may be the beginning of a secret.
    fn undecided(&self, bytes: &[u8]) -> usize {
        let most = self.longest.saturating_sub(1).min(bytes.len());
        (bytes.len() - most..bytes.len())
            .find(|&from| self.begins_a_form(&bytes[from..]))
            .map_or(0, |from| bytes.len() - from)
    }

    fn begins_a_form(&self, start: &[u8]) -> bool {
        if start.first_chunk().is_some_and(|four| !self.starts[place_of(*four)]) {
            return false;
        }
        let at = self.forms.partition_point(|form| form.as_slice() < start);
        // Forms that begin with `start` follow each other, the shortest may be `start` itself.
        self.forms[at..].iter().take(2).any(|form| form.len() > start.len() && form.starts_with(start))
    }
}

/// One of 65536 places, spread by a multiplication.
fn place_of(four: [u8; 4]) -> usize {
    let [high, low, ..] = u32::from_le_bytes(four).wrapping_mul(0x9e37_79b1).to_be_bytes();
    usize::from(u16::from_be_bytes([high, low]))
}

/// Masks a stream that comes in chunks.
#[derive(Default)]
pub struct Stream {
    /// Bytes that are not given out yet: they may be the beginning of a secret.
    held: Vec<u8>,
    /// How many of them are known to be secret already, their mask given out.
    masked: usize,
}

impl Stream {
    /// Takes the next chunk and appends to `out` what is decided. Holds back less than the longest form of a secret.
    pub fn push(&mut self, redactor: &Redactor, chunk: &[u8], out: &mut Vec<u8>) {
        self.held.extend_from_slice(chunk);
        let keep_from = self.held.len() - redactor.undecided(&self.held);
        self.release(redactor, keep_from, out);
    }

    /// The stream has ended: appends all the rest.
    pub fn finish(&mut self, redactor: &Redactor, out: &mut Vec<u8>) {
        self.release(redactor, self.held.len(), out);
    }

    fn release(&mut self, redactor: &Redactor, keep_from: usize, out: &mut Vec<u8>) {
        let mut from = 0;
        let mut masked_after = 0;
        for (start, end) in redactor.secret_ranges(&self.held, self.masked) {
            if start >= keep_from && !(start == 0 && self.masked > 0) {
                break;
            }
            out.extend_from_slice(&self.held[from..start]);
            // The mask of a range that goes on from the last time was given out then.
            if !(start == 0 && self.masked > 0) {
                out.extend_from_slice(MASK.as_bytes());
            }
            from = end;
            masked_after = end.saturating_sub(keep_from);
        }
        if from < keep_from {
            out.extend_from_slice(&self.held[from..keep_from]);
        }
        // A range that ends just where the kept bytes begin may be continued by one that begins there: one mask.
        self.held.drain(..keep_from);
        self.masked = masked_after;
    }
}

#[cfg(test)]
mod tests {
    use base64::{
        Engine,
        engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
    };
    use proptest::prelude::*;

    use super::{
        forms::{hex, percent},
        *,
    };

    fn streamed(redactor: &Redactor, bytes: &[u8], cuts: &[usize]) -> Vec<u8> {
        let (mut stream, mut out, mut from) = (Stream::default(), Vec::new(), 0);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        cuts.sort_unstable();
        for cut in cuts {
            stream.push(redactor, &bytes[from..cut], &mut out);
            from = cut;
        }
        stream.push(redactor, &bytes[from..], &mut out);
        stream.finish(redactor, &mut out);
        out
    }

    fn contains(haystack: &[u8], needle: &[u8]) -> bool {
        haystack.windows(needle.len()).any(|window| window == needle)
    }

    #[test]
    fn known_forms_are_masked() {
        let redactor = Redactor::new(["p/ä ss\"word+1"]);
        for text in [
            "p/ä ss\"word+1",
            "p%2F%C3%A4%20ss%22word%2B1",
            "p%2f%c3%a4+ss%22word%2b1",
            r#"p/ä ss\"word+1"#,
            r#"p/\u00e4 ss\"word+1"#,
            r#"p\/\u00e4 ss\"word+1"#,
        ] {
            assert_eq!(redactor.text(&format!("<{text}>")), "<***>", "{text}");
        }
        for prefix in ["", "a", "ab", "abc"] {
            let encoded = STANDARD.encode(format!("{prefix}p/ä ss\"word+1 and more"));
            let inner = STANDARD_NO_PAD.encode(&"p/ä ss\"word+1".as_bytes()[3..9]);
            let masked = redactor.text(&encoded);
            assert!(masked.contains(MASK) && !masked.contains(&inner), "{encoded} became {masked}");
        }
    }

    #[test]
    fn utf16_is_masked_in_a_stream() {
        let redactor = Redactor::new(["geheim99"]);
        let wide: Vec<u8> = "x geheim99 y".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(!contains(&streamed(&redactor, &wide, &[7, 9, 11]), b"h\0e\0i\0m\0"));
    }

    #[test]
    fn lines_of_a_long_secret_and_values_of_json_are_masked() {
        let redactor = Redactor::new(["-----BEGIN-----\nabcdefghij\nklmnopqrst\n", "123456"]);
        assert_eq!(redactor.text("only klmnopqrst here"), "only *** here");
        let value = serde_json::json!({"a": [123456, {"klmnopqrst": true}], "n": 12345});
        assert_eq!(redactor.value(value), serde_json::json!({"a": ["***", {"***": true}], "n": 12345}));
    }

    #[test]
    fn json_is_masked_as_other_writers_escape_it() {
        let redactor = Redactor::new(["p&s<w>r'd+9=\"ä"]);
        for text in [
            r#"p\u0026s\u003cw\u003er'd+9=\"ä"#,
            r#"p\u0026s\u003cw\u003er\u0027d+9=\"ä"#,
            r#"p\u0026s\u003cw\u003er\u0027d+9\u003d\"ä"#,
            r#"p\u0026s\u003cw\u003er\u0027d+9=\"\u00e4"#,
            r#"p\u0026s\u003Cw\u003Er\u0027d\u002B9=\u0022\u00E4"#,
            r#"p\\u0026s\\u003Cw\\u003Er\\u0027d\\u002B9=\\u0022\\u00E4"#,
            r#"p&s<w>r'd+9=\"\u00E4"#,
        ] {
            assert_eq!(redactor.text(&format!("<{text}>")), "<***>", "{text}");
        }
    }

    #[test]
    fn values_in_the_lines_of_a_secret_are_masked() {
        let redactor = Redactor::new([concat!(
            "DB_USER=svc-invoices\nNODE_ENV=production\nDB_PASSWORD=hunter2xyz\nPIN=4711\r\n",
            "export API_TOKEN=\"say \\\"friend\\\"\"\n",
            "smtp:\n  - password: 'Tr0ub4dor-x'\n",
            "salt = 0a1b2c3d4e # of this year\n",
            "SETTINGS_ENV={\"PIN\":\"0815-4711\"}\nDATABASE=db://svc:abc@host\n",
            "ACCOUNT={\"key\":\"first line\\nsecond line\"}\n",
        )]);
        for value in [
            "hunter2xyz",
            "say \"friend\"",
            r#"say \"friend\""#,
            "Tr0ub4dor-x",
            "0a1b2c3d4e",
            "first line",
            "second line",
        ] {
            assert_eq!(redactor.text(&format!("<{value}>")), "<***>", "{value}");
        }
        for open in ["svc-invoices in production", "4711", "this year"] {
            assert_eq!(redactor.text(open), open);
        }
        assert_eq!(Redactor::new(["token=abcdefgh12"]).text("<abcdefgh12>"), "<***>");
    }

    #[test]
    fn texts_of_a_json_secret_are_masked() {
        let account = serde_json::json!({
            "type": "service_account",
            "project_id": "our-invoices",
            "private_key_id": "0123456789abcdef",
            "private_key": "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF\n-----END PRIVATE KEY-----\n",
            "client_email": "robot@our-invoices.iam.gserviceaccount.com",
            "token_uri": "https://oauth2.googleapis.com/token",
            "more": [{"password": "Tr0ub4dor-x", "user": "svc-invoices"}, 1234567890],
        });
        for secret in [account.to_string(), serde_json::to_string_pretty(&account).expect("JSON")] {
            let redactor = Redactor::new([secret]);
            for text in ["MIIEvQIBADANBg", "kqhkiG9w0BAQEF", "0123456789abcdef", "Tr0ub4dor-x"] {
                assert_eq!(redactor.text(&format!("<{text}>")), "<***>", "{text}");
            }
            for open in [
                "service_account svc-invoices of our-invoices with 1234567890",
                "robot@our-invoices.iam.gserviceaccount.com",
                "https://oauth2.googleapis.com/token",
            ] {
                assert_eq!(redactor.text(open), open);
            }
        }
    }

    /// What a job writes beside stays readable, and structured lines stay what they are.
    #[test]
    fn ordinary_words_in_a_secret_tear_no_holes() {
        let redactor = Redactor::new([
            "DB_PASSWORD=\"hunter2xyz\"\nVERBOSITY=\"warning\"\nSTAGE='canary'\nWORST=critical\nUNTIL=2027-01-01\n",
            r#"{"token": "abcdefgh12", "expires": "2027-01-01T08:00:00Z", "port": 12345678, "alg": "progress"}"#,
            r#"{"environment": ["API_KEY=abcdefgh34"]}"#,
        ]);
        for line in [
            r#"{"level": "warning", "message": "from the canary", "fields": {"on": "2027-01-01T08:00:00Z"}}"#,
            r#"{"level": "critical", "progress": {"percent": 4}, "port": 12345678}"#,
        ] {
            assert_eq!(redactor.text(line), line);
        }
        assert_eq!(redactor.text(r#"{"a": "hunter2xyz", "b": "abcdefgh34"}"#), r#"{"a": "***", "b": "***"}"#);
    }

    #[test]
    fn names_that_masking_makes_equal_keep_their_values() {
        let redactor = Redactor::new(["first-one", "second-one"]);
        let value = serde_json::json!({"first-one": 1, "second-one": 2, "***": 3});
        assert_eq!(redactor.value(value), serde_json::json!({"***": 3, "***.2": 1, "***.3": 2}));
    }

    /// However many parts a secret has, what is known of them is bounded; the short ones are known in all forms.
    #[test]
    fn the_parts_of_a_secret_have_a_bound() {
        let lines: String = (0..6_000).map(|n| format!("NAME_OF_{n}=value{n:05}\n")).collect();
        let redactor = Redactor::new([lines]);
        let bytes: usize = redactor.forms.iter().map(Vec::len).sum();
        assert!(bytes < 5 << 20, "{bytes} bytes of forms");
        assert_eq!(redactor.text("<value05999>"), "<***>");
        assert!(redactor.text(&STANDARD_NO_PAD.encode("value00000")).starts_with(MASK));
        for secret in ["x=".repeat(5_000), "[".repeat(5_000), "x=[\"".repeat(2_000)] {
            assert!(Redactor::new([secret]).forms.len() < 10_000);
        }
    }

    #[test]
    fn a_secret_longer_than_a_piece_is_wholly_masked() {
        let secret: String = (0..9_000).map(|n| char::from(b'a' + u8::try_from(n * 7 % 26).unwrap_or(0))).collect();
        assert_eq!(Redactor::new([&secret]).text(&format!("[{secret}]")), "[***]");
    }

    /// A line is given out at once although secrets exist, and a repeated prefix never makes the stream hoard.
    #[test]
    fn only_what_may_be_a_secret_is_held_back() {
        let redactor = Redactor::new(["aaaaaaaa", "topsecret"]);
        let (mut stream, mut out) = (Stream::default(), Vec::new());
        stream.push(&redactor, b"hello\n", &mut out);
        assert_eq!(out, b"hello\n");
        for _ in 0..1000 {
            stream.push(&redactor, &[b'a'; 100], &mut out);
            assert!(stream.held.len() < 64);
        }
        stream.finish(&redactor, &mut out);
        assert_eq!(out, b"hello\n***");
    }

    proptest! {
        /// However a stream is cut, the result is that of the whole text, and no secret is left in it.
        #[test]
        fn chunks_do_not_matter(
            text in "[ab*]{0,60}",
            secrets in proptest::collection::vec("[ab]{4,7}", 1..4),
            cuts in proptest::collection::vec(0usize..100, 0..8),
        ) {
            let redactor = Redactor::new(&secrets);
            let whole = redactor.text(&text);
            prop_assert_eq!(streamed(&redactor, text.as_bytes(), &cuts), whole.clone().into_bytes());
            for secret in &secrets {
                prop_assert!(!whole.contains(secret.as_str()));
            }
        }

        /// Any secret, encoded in any way and placed anywhere, does not come through.
        #[test]
        fn no_form_comes_through(
            secret in "\\PC{6,20}",
            before in "[a-z ]{0,9}",
            after in "[a-z ]{0,9}",
            cuts in proptest::collection::vec(0usize..400, 0..6),
        ) {
            prop_assume!(secret.trim().len() >= 6 && !before.contains(secret.trim()) && !after.contains(secret.trim()));
            let redactor = Redactor::new([&secret]);
            let json = Value::from(secret.as_str()).to_string();
            let form = json[1..json.len() - 1].to_owned();
            let percent = String::from_utf8(percent(secret.as_bytes(), b"0123456789ABCDEF", b"-_.~", false)).expect("ASCII");
            for encoded in [secret.clone(), form, percent, STANDARD_NO_PAD.encode(&secret)] {
                let text = format!("{before}|{encoded}|{after}");
                let masked = streamed(&redactor, text.as_bytes(), &cuts);
                prop_assert!(!contains(&masked, encoded.trim().as_bytes()), "{:?}", String::from_utf8_lossy(&masked));
            }
        }

        /// Base64 in lines does not come through either, wherever in a line the secret begins.
        #[test]
        fn no_line_of_base64_comes_through(
            secret in "\\PC{12,40}",
            before in "[a-z]{0,80}",
            width in proptest::sample::select(vec![64, 76]),
            line_end in proptest::sample::select(vec!["\n", "\r\n", "\\n"]),
            cuts in proptest::collection::vec(0usize..600, 0..6),
        ) {
            let secret = secret.trim();
            let encoded = STANDARD.encode(format!("{before}{secret} and more")).into_bytes();
            let lines: Vec<&[u8]> = encoded.chunks(width).collect();
            let masked = streamed(&Redactor::new([secret]), &lines.join(line_end.as_bytes()), &cuts);
            let (first, end) = ((before.len() * 8).div_ceil(6), (before.len() + secret.len()) * 8 / 6);
            for at in (0..end).step_by(width) {
                let (from, to) = (first.max(at), end.min(at + width));
                // Up to three characters are of a group that is not wholly the secret's.
                if to >= from + 19 {
                    for part in [&encoded[from..from + 10], &encoded[to - 10..to]] {
                        prop_assert!(!contains(&masked, part), "{}", String::from_utf8_lossy(&masked));
                    }
                }
            }
        }

        /// No form of any secret comes through, whatever stands beside it and however the stream is cut: of what encodes a
        /// secret alone, nothing is left.
        #[test]
        fn no_form_of_any_secret_survives_any_chunking(
            secrets in proptest::collection::vec("\\PC{8,24}", 1..4),
            before in "[a-z]{0,5}",
            after in "[a-z]{0,5}",
            cuts in proptest::collection::vec(0usize..600, 0..12),
        ) {
            prop_assume!(secrets.iter().all(|secret| secret.trim() == secret && secret.len() >= 8));
            let redactor = Redactor::new(&secrets);
            for secret in &secrets {
                for core in cores(secret, &before, &after) {
                    let text = [b"<", before.as_bytes(), &core.0, after.as_bytes(), b">"].concat();
                    let masked = streamed(&redactor, &text, &cuts);
                    prop_assert!(!contains(&masked, &core.1), "{}", String::from_utf8_lossy(&masked));
                }
            }
        }
    }

    /// Writes the characters of `json` of which `is_escaped` says so as numbers.
    fn as_unicode(json: &str, is_escaped: impl Fn(char) -> bool, upper: bool) -> Vec<u8> {
        let number = |unit: &mut u16| if upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") };
        let write = |character: char| match is_escaped(character) {
            true => character.encode_utf16(&mut [0; 2]).iter_mut().map(number).collect(),
            false => character.to_string(),
        };
        json.chars().map(write).collect::<String>().into_bytes()
    }

    /// Encodings of a secret among other text, each with that part of it which is of the secret alone.
    fn cores(secret: &str, before: &str, after: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
        let json = Value::from(secret).to_string();
        let json = &json[1..json.len() - 1];
        let wide = |bytes_of: fn(u16) -> [u8; 2]| secret.encode_utf16().flat_map(bytes_of).collect::<Vec<u8>>();
        let mut found: Vec<Vec<u8>> = vec![
            secret.as_bytes().to_vec(),
            json.as_bytes().to_vec(),
            as_unicode(json, |character| !character.is_ascii(), false),
            as_unicode(json, |character| !character.is_ascii(), true),
            as_unicode(json, |character| "<>&\u{2028}\u{2029}".contains(character), false),
            as_unicode(json, |character| "<>&'\u{2028}\u{2029}".contains(character), false),
            as_unicode(json, |character| "<>&'=\u{2028}\u{2029}".contains(character), false),
            as_unicode(
                &json.replace("\\\"", "\""),
                |character| !character.is_ascii() || "\"&'+<>`".contains(character),
                true,
            ),
            json.replace('\\', "\\\\").replace('"', "\\\"").into_bytes(),
            percent(secret.as_bytes(), b"0123456789ABCDEF", b"-_.~", false),
            percent(secret.as_bytes(), b"0123456789abcdef", b"-_.*", true),
            secret.bytes().flat_map(|byte| hex(byte, b"0123456789abcdef")).collect(),
            wide(u16::to_le_bytes),
            wide(u16::to_be_bytes),
        ];
        let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = found.drain(..).map(|form| (form.clone(), form)).collect();
        for bytes in [secret.as_bytes().to_vec(), wide(u16::to_le_bytes), wide(u16::to_be_bytes)] {
            for offset in 0..3 {
                let start = before.repeat(3).bytes().chain(*b"xxx").take(offset).collect::<Vec<u8>>();
                let whole = [start.as_slice(), &bytes, after.as_bytes()].concat();
                let (first, end) = ((offset * 8).div_ceil(6), (offset + bytes.len()) * 8 / 6);
                for text in [STANDARD.encode(&whole), URL_SAFE_NO_PAD.encode(&whole)] {
                    pairs.push((text.clone().into_bytes(), text.as_bytes()[first..end].to_vec()));
                }
            }
        }
        pairs
    }
}
