//! Names of entries: which are safe on every system, and which would fall onto each other somewhere.

use std::collections::HashMap;

use icu_casemap::CaseMapper;
use icu_normalizer::ComposingNormalizerBorrowed;

use super::shown;

const MAX_NAME_BYTES: usize = 1024;
/// What Linux file systems allow for one part.
const MAX_PART_BYTES: usize = 255;
const MAX_DEPTH: usize = 64;

/// Says why a name is refused, as a fragment that follows the name, and what helps.
pub(super) fn check(name: &str) -> Result<(), String> {
    if name.len() > MAX_NAME_BYTES {
        return Err(format!("is longer than {MAX_NAME_BYTES} bytes; use shorter names"));
    }
    if name.contains('\\') {
        return Err("contains a backslash, which is a separator on Windows; separate folders by `/`".to_owned());
    }
    if name.starts_with('/') {
        return Err("is an absolute path; use names relative to the root of the package".to_owned());
    }
    let mut start = name.chars();
    if start.next().is_some_and(|letter| letter.is_ascii_alphabetic()) && start.next() == Some(':') {
        return Err("begins with a drive letter; use names relative to the root of the package".to_owned());
    }
    if let Some(control) = name.chars().find(|letter| letter.is_control()) {
        return Err(format!("contains the control character U+{:04X}; rename it", u32::from(control)));
    }
    if let Some(letter) = name.chars().find(|letter| ":<>\"|?*".contains(*letter)) {
        return Err(format!("contains `{letter}`, which Windows does not allow in names; rename it"));
    }
    let parts: Vec<&str> = name.strip_suffix('/').unwrap_or(name).split('/').collect();
    if parts.len() > MAX_DEPTH {
        return Err(format!("lies more than {MAX_DEPTH} folders deep; use fewer folders"));
    }
    parts.into_iter().try_for_each(check_part)
}

fn check_part(part: &str) -> Result<(), String> {
    match part {
        "" => return Err("has an empty part; remove the doubled `/`".to_owned()),
        "." => return Err("has the part `.`; remove it".to_owned()),
        ".." => return Err("climbs out of its folder by `..`; use names that stay inside of the package".to_owned()),
        _ => {}
    }
    if part.len() > MAX_PART_BYTES {
        return Err(format!("has a part longer than {MAX_PART_BYTES} bytes; use shorter names"));
    }
    if part.ends_with(['.', ' ']) {
        return Err("has a part that ends with a dot or a space, which Windows drops; rename it".to_owned());
    }
    if is_windows_device(part) {
        return Err(format!("has the part {}, which is a device on Windows; rename it", shown(part)));
    }
    Ok(())
}

/// Windows takes these for devices in any folder, in any case and with any extension.
fn is_windows_device(part: &str) -> bool {
    let stem = part.split('.').next().unwrap_or(part).trim_end().to_ascii_uppercase();
    if matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$" | "CLOCK$") {
        return true;
    }
    let number = stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT"));
    number.is_some_and(|number| {
        let mut letters = number.chars();
        matches!((letters.next(), letters.next()), (Some('0'..='9' | '¹' | '²' | '³'), None))
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    /// A folder with an entry of its own.
    Folder,
    /// A folder that only entries below it name.
    ImpliedFolder,
}

/// All names of a package as the least exact file system would see them: case and composition do not matter there.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Parent and folded part to node. The root is node 0 and not in `nodes`.
    children: HashMap<(usize, String), usize>,
    nodes: Vec<(String, Kind)>,
}

impl Names {
    /// Adds a checked name; says why it cannot stand beside those before it.
    pub(super) fn add(&mut self, name: &str, is_folder: bool) -> Result<(), String> {
        let path = name.strip_suffix('/').unwrap_or(name);
        let mut parent = 0;
        let mut start = 0;
        loop {
            let end = path[start..].find('/').map(|at| start + at);
            let part = &path[start..end.unwrap_or(path.len())];
            let kind = match (end, is_folder) {
                (Some(_), _) => Kind::ImpliedFolder,
                (None, true) => Kind::Folder,
                (None, false) => Kind::File,
            };
            parent = self.step(parent, &path[..start], part, kind)?;
            match end {
                Some(end) => start = end + 1,
                None => return Ok(()),
            }
        }
    }

    fn step(&mut self, parent: usize, above: &str, part: &str, kind: Kind) -> Result<usize, String> {
        let new = self.nodes.len() + 1;
        let node = *self.children.entry((parent, folded(part))).or_insert(new);
        if node == new {
            self.nodes.push((part.to_owned(), kind));
            return Ok(node);
        }
        let (before, before_kind) = &mut self.nodes[node - 1];
        if before != part {
            let before = shown(&format!("{above}{before}"));
            return Err(format!(
                "and {before} are the same name where upper and lower case (or composed and decomposed \
                     letters) do not differ, as on Windows and macOS; rename one"
            ));
        }
        match (*before_kind, kind) {
            (Kind::File, Kind::File) | (Kind::Folder, Kind::Folder) => {
                Err("is there twice; keep one of them".to_owned())
            }
            (Kind::File, _) | (_, Kind::File) => {
                let both = shown(&format!("{above}{part}"));
                Err(format!("makes {both} a file and a folder at once; rename one"))
            }
            (Kind::ImpliedFolder, kind) => {
                *before_kind = kind;
                Ok(node)
            }
            (Kind::Folder, Kind::ImpliedFolder) => Ok(node),
        }
    }
}

/// Composed, then case-folded, then composed again, because folding may decompose.
fn folded(part: &str) -> String {
    let nfc = const { ComposingNormalizerBorrowed::new_nfc() };
    let folded = const { CaseMapper::new() }.fold_string(&nfc.normalize(part)).into_owned();
    nfc.normalize(&folded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_safe_everywhere_pass() {
        let fine = [
            "main.py",
            "a/",
            "a/b/c.txt",
            ".env",
            "..a",
            "a..b",
            "данные/счёт №1.csv",
            "日本/é.txt",
            "console.txt",
            "com10",
            "comma",
            "lpt",
            "a b/c",
            "100%/&+#.txt",
            "nul_.txt",
        ];
        for name in fine {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn names_unsafe_anywhere_are_refused_with_the_reason() {
        let refused = [
            ("/etc/passwd", "absolute"),
            ("//server/share", "absolute"),
            ("../x", "`..`"),
            ("a/../../x", "`..`"),
            ("a/..", "`..`"),
            ("..\\x", "backslash"),
            ("C:/x", "drive letter"),
            ("c:x", "drive letter"),
            ("a:stream", "drive letter"),
            ("file:stream", "Windows does not allow"),
            ("what?", "Windows does not allow"),
            ("a\0b", "U+0000"),
            ("a\nb", "U+000A"),
            ("a\u{85}b", "U+0085"),
            ("a//b", "empty part"),
            ("", "empty part"),
            ("./a", "`.`"),
            ("a/./b", "`.`"),
            ("a./b", "ends with a dot"),
            ("a ", "ends with a dot or a space"),
            ("x/NUL", "device"),
            ("con.txt", "device"),
            ("Aux .tar.gz", "device"),
            ("lpt1/x", "device"),
            ("COM\u{b9}", "device"),
            ("conin$", "device"),
        ];
        for (name, reason) in refused {
            let refusal = check(name).expect_err(name);
            assert!(refusal.contains(reason), "{name:?}: {refusal}");
        }
        assert!(check(&"a".repeat(256)).unwrap_err().contains("255"));
        assert!(check(&"ab/".repeat(400)).unwrap_err().contains("1024"));
        assert!(check(&"a/".repeat(65)).unwrap_err().contains("64"));
    }

    fn add_all(names: &[&str]) -> Result<(), String> {
        let mut all = Names::default();
        names.iter().try_for_each(|name| all.add(name, name.ends_with('/')))
    }

    #[test]
    fn names_that_fall_onto_each_other_anywhere_are_refused() {
        let refused: [(&[&str], &str); 12] = [
            (&["a", "a"], "twice"),
            (&["a/", "a/"], "twice"),
            (&["Main.py", "main.py"], "`Main.py`"),
            (&["a/X", "a/x"], "`a/X`"),
            (&["Lib/a", "lib/b"], "`Lib`"),
            (&["e\u{301}.txt", "\u{e9}.txt"], "same name"),
            (&["STRASSE", "straße"], "same name"),
            (&["ΣΑΣ", "σας"], "same name"),
            (&["\u{212a}", "k"], "same name"),
            (&["a", "a/b"], "a file and a folder"),
            (&["a/b", "a"], "a file and a folder"),
            (&["a/", "a"], "a file and a folder"),
        ];
        for (names, reason) in refused {
            let refusal = add_all(names).expect_err(names[0]);
            assert!(refusal.contains(reason), "{names:?}: {refusal}");
        }
        assert_eq!(add_all(&["a/b", "a/", "a/c/d", "b/a", "b/b/", "A-/x", "ı", "i"]), Ok(()));
    }
}
