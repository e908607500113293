//! Which files of the artifacts' folder are uploaded, and under which names.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use drover_protocol::storage::MAX_PATH_BYTES;

use crate::{output::escape_invalid, redact::Redactor};

/// More are not uploaded; that is said in the log.
const MAX_ARTIFACTS: usize = 10_000;

/// A file to upload.
#[derive(Debug, PartialEq, Eq)]
pub struct Artifact {
    pub file: PathBuf,
    /// With `/` between the parts, secrets masked; no two have the same.
    pub name: String,
}

/// What was found, and what is not uploaded, each in a sentence for the log.
#[derive(Debug, Default)]
pub struct Found {
    pub artifacts: Vec<Artifact>,
    pub refused: Vec<String>,
}

/// Looks through the folder. Links are followed to ordinary files inside of the folder only.
pub fn find(folder: &Path, redactor: &Redactor) -> io::Result<Found> {
    let mut found = Found::default();
    let root = match fs::canonicalize(folder) {
        Ok(root) => root,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error),
    };
    let mut open = vec![root.clone()];
    while let Some(next) = open.pop() {
        let mut entries: Vec<_> = match fs::read_dir(&next).and_then(Iterator::collect) {
            Ok(entries) => entries,
            Err(error) if next == root => return Err(error),
            Err(error) => {
                let name = name_of(&next, &root, redactor);
                found.refused.push(format!("the artifacts in \"{name}\" cannot be read and are not uploaded: {error}"));
                continue;
            }
        };
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let name = name_of(&path, &root, redactor);
            let kind = entry.file_type()?;
            let file = if kind.is_symlink() { inside(&path, &root) } else { kind.is_file().then(|| path.clone()) };
            match file {
                _ if kind.is_dir() => open.push(path),
                Some(_) if name.len() > MAX_PATH_BYTES => {
                    found.refused.push(format!(
                        "the artifact \"{name}\" is not uploaded: its path is longer than {MAX_PATH_BYTES} bytes"
                    ));
                }
                Some(file) => found.artifacts.push(Artifact { file, name }),
                None => found.refused.push(format!(
                    "the artifact \"{name}\" is not uploaded: it is not an ordinary file, or a link out of the folder"
                )),
            }
        }
    }
    if found.artifacts.len() > MAX_ARTIFACTS {
        let more = found.artifacts.len() - MAX_ARTIFACTS;
        found.artifacts.truncate(MAX_ARTIFACTS);
        found.refused.push(format!(
            "{more} artifacts are not uploaded: there are more than {MAX_ARTIFACTS}; pack them into an archive"
        ));
    }
    number_equal_names(&mut found.artifacts);
    Ok(found)
}

/// Where a link leads, if that is an ordinary file inside.
fn inside(link: &Path, root: &Path) -> Option<PathBuf> {
    let target = fs::canonicalize(link).ok()?;
    (target.starts_with(root) && target.is_file()).then_some(target)
}

fn name_of(path: &Path, root: &Path, redactor: &Redactor) -> String {
    let relative = path.strip_prefix(root).unwrap_or(path);
    let parts: Vec<_> = relative.components().map(|part| escape_invalid(part.as_os_str().as_encoded_bytes())).collect();
    // As a whole: a secret may have slashes.
    redactor.text(&parts.join("/"))
}

/// Masking makes names equal, and of files of one name the last would replace the others: they are numbered in the order
/// in which they were found, which is the same each time.
fn number_equal_names(artifacts: &mut [Artifact]) {
    let mut taken = HashSet::new();
    for artifact in artifacts {
        let name = artifact.name.clone();
        let mut number = 1;
        while !taken.insert(artifact.name.clone()) {
            number += 1;
            artifact.name = with_number(&name, number);
        }
    }
}

/// Before the extension, so that the file is still opened by the same program.
fn with_number(name: &str, number: usize) -> String {
    let path = Path::new(name);
    let extension = path.extension().map_or(String::new(), |extension| format!(".{}", extension.display()));
    path.with_extension(format!("{number}{extension}")).display().to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_are_found_links_out_are_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        fs::create_dir_all(root.join("sub/deep")).expect("folders");
        fs::write(root.join("a & b%.txt"), "1").expect("written");
        fs::write(root.join("sub/deep/topsecret.csv"), "2").expect("written");
        symlink("/etc/passwd", root.join("out")).expect("a link");
        symlink("../..", root.join("sub/up")).expect("a link");
        symlink("a & b%.txt", root.join("inside")).expect("a link");
        symlink("nowhere", root.join("broken")).expect("a link");
        let found = find(root, &Redactor::new(["topsecret"])).expect("readable");
        let names: Vec<&str> = found.artifacts.iter().map(|artifact| artifact.name.as_str()).collect();
        assert_eq!(names, ["a & b%.txt", "inside", "sub/deep/***.csv"]);
        assert_eq!(found.refused.len(), 3, "{:?}", found.refused);
    }

    fn names(root: &Path, secrets: &[&str]) -> Vec<String> {
        let found = find(root, &Redactor::new(secrets)).expect("readable");
        assert!(found.refused.is_empty(), "{:?}", found.refused);
        found.artifacts.into_iter().map(|artifact| artifact.name).collect()
    }

    #[test]
    fn a_secret_with_a_slash_is_masked() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("key-AbCd")).expect("a folder");
        fs::write(folder.path().join("key-AbCd/EfGh12.txt"), "1").expect("written");
        assert_eq!(names(folder.path(), &["AbCd/EfGh12"]), ["key-***.txt"]);
    }

    /// Each file has a name of its own, and the same one each time that the folder is looked through.
    #[test]
    fn names_that_masking_makes_equal_are_numbered() {
        let folder = tempfile::tempdir().expect("a folder");
        for part in ["first-one", "second-one"] {
            fs::create_dir(folder.path().join(part)).expect("a folder");
            fs::write(folder.path().join(part).join("log"), part).expect("written");
            fs::write(folder.path().join(format!("f-{part}.csv")), part).expect("written");
        }
        fs::write(folder.path().join("f-***.2.csv"), "of this name from the beginning").expect("written");
        for _ in 0..2 {
            let found = names(folder.path(), &["first-one", "second-one"]);
            assert_eq!(found, ["f-***.2.csv", "f-***.csv", "f-***.3.csv", "***/log", "***/log.2"]);
        }
    }

    /// A folder that cannot be read, here because its path is longer than the system takes, costs no others.
    #[test]
    fn a_folder_that_cannot_be_read_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let script = "echo 1 > z; name=$(printf %0200d 0); for n in $(seq 25); do mkdir $name; cd -P $name; done";
        let made = std::process::Command::new("bash").args(["-c", script]).current_dir(folder.path()).output();
        assert!(made.expect("bash").status.success());
        let found = find(folder.path(), &Redactor::new([""])).expect("readable");
        let names: Vec<&str> = found.artifacts.iter().map(|artifact| artifact.name.as_str()).collect();
        assert_eq!((names, found.refused.len()), (vec!["z"], 1));
    }
}
