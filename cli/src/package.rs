//! Packages: a folder as a zip file, the same bytes for the same files wherever and whenever it is made.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use ignore::{DirEntry, WalkBuilder};
use serde::Deserialize;
use tempfile::NamedTempFile;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter, write::SimpleFileOptions};

use crate::error::Error;

const MANIFEST: &str = "process.toml";
const IGNORE_FILE: &str = ".droverignore";
/// Names files and folders that lie elsewhere and are packed as well, one a line.
const INCLUDE_FILE: &str = ".droverinclude";
/// Files that say how a process is run which has no [`MANIFEST`]; so does a suite of Robot Framework.
const MAIN_FILES: [&str; 4] = ["robot.yaml", "main.py", "main.sh", "main.ps1"];
const SUITE_SUFFIX: &str = ".robot";
const MAX_MANIFEST_BYTES: u64 = 1024 * 1024;
/// Folders that are never part of a process, whatever `.droverignore` says.
const SKIPPED_FOLDERS: [&str; 9] =
    [".git", ".hg", ".svn", "__pycache__", ".venv", ".mypy_cache", ".pytest_cache", ".ruff_cache", "node_modules"];
const SKIPPED_FILES: [&str; 4] = [IGNORE_FILE, INCLUDE_FILE, ".DS_Store", "Thumbs.db"];

/// A package that is ready to be sent.
pub struct Package {
    /// The zip file; removed with this value if it was made here.
    file: PackageFile,
    /// From its manifest, else from the name of the folder or file.
    pub name: String,
    pub description: String,
    pub file_count: usize,
}

enum PackageFile {
    Made(NamedTempFile),
    Given(PathBuf),
}

impl Package {
    pub fn path(&self) -> &Path {
        match &self.file {
            PackageFile::Made(file) => file.path(),
            PackageFile::Given(path) => path,
        }
    }

    /// Takes a zip file as it is, or makes one of a folder.
    pub fn of(source: &Path) -> Result<Self, Error> {
        let metadata = fs::metadata(source).map_err(Error::file("read", source))?;
        if metadata.is_dir() { Self::of_folder(source) } else { Self::of_zip(source) }
    }

    fn of_zip(path: &Path) -> Result<Self, Error> {
        let not_a_zip = |_| Error::Usage(format!("{} is neither a folder nor a zip file", path.display()));
        let file = File::open(path).map_err(Error::file("read", path))?;
        let mut archive = ZipArchive::new(file).map_err(not_a_zip)?;
        let file_count = archive.len();
        check_that_something_is_run(path, archive.file_names().flatten())?;
        let manifest = match archive.by_name(MANIFEST) {
            Ok(entry) => {
                let mut text = String::new();
                entry.take(MAX_MANIFEST_BYTES).read_to_string(&mut text).map_err(Error::file("read", path))?;
                parse_manifest(&text, path)?
            }
            Err(_) => Section::default(),
        };
        let fallback = path.file_stem().unwrap_or_default();
        Ok(Self::new(PackageFile::Given(path.to_owned()), manifest, fallback, file_count))
    }

    fn of_folder(folder: &Path) -> Result<Self, Error> {
        let root = fs::canonicalize(folder).map_err(Error::file("read", folder))?;
        let files = all_files_of(&root)?;
        if files.is_empty() {
            return Err(Error::Usage(format!("{} has no files to publish", folder.display())));
        }
        check_that_something_is_run(folder, files.iter().map(|(name, _)| name))?;
        let manifest = match File::open(root.join(MANIFEST)) {
            Ok(file) => {
                let mut text = String::new();
                let read = file.take(MAX_MANIFEST_BYTES).read_to_string(&mut text);
                read.map_err(Error::file("read", root.join(MANIFEST)))?;
                parse_manifest(&text, &folder.join(MANIFEST))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Section::default(),
            Err(error) => return Err(Error::file("read", root.join(MANIFEST))(error)),
        };
        let file = zip_files(&files)?;
        Ok(Self::new(PackageFile::Made(file), manifest, root.file_name().unwrap_or_default(), files.len()))
    }

    fn new(file: PackageFile, manifest: Section, fallback: &OsStr, file_count: usize) -> Self {
        let name = manifest.name.unwrap_or_else(|| fallback.to_string_lossy().into_owned());
        Self { file, name, description: manifest.description.unwrap_or_default(), file_count }
    }
}

/// The coordinator judges the whole package, but only when its process is there: what is surely none makes no process.
fn check_that_something_is_run(source: &Path, mut names: impl Iterator<Item = impl AsRef<str>>) -> Result<(), Error> {
    let is_run = |name: &str| {
        name == MANIFEST || MAIN_FILES.contains(&name) || (name.ends_with(SUITE_SUFFIX) && !name.contains('/'))
    };
    match names.any(|name| is_run(name.as_ref())) {
        true => Ok(()),
        false => Err(Error::Usage(format!(
            "{} is no package: at its root lies neither {MANIFEST} nor a file that is run without one ({}, *{SUITE_SUFFIX})",
            source.display(),
            MAIN_FILES.join(", ")
        ))),
    }
}

/// The part of the manifest that is needed to publish; the coordinator judges the whole.
#[derive(Default, Deserialize)]
struct Section {
    name: Option<String>,
    description: Option<String>,
}

fn parse_manifest(text: &str, path: &Path) -> Result<Section, Error> {
    #[derive(Deserialize)]
    struct Manifest {
        #[serde(default)]
        process: Section,
    }
    let manifest: Manifest = toml::from_str(text)
        .map_err(|error| Error::Usage(format!("{} cannot be read: {}", path.display(), error.message())))?;
    Ok(manifest.process)
}

/// The files of a folder and those that it includes, as (name in the package, path), sorted by name.
fn all_files_of(root: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let mut files = files_of(root)?;
    for included in included_by(root)? {
        let name = name_in_package(included.parent().unwrap_or(root), &included)?;
        if included.is_dir() {
            let inner = files_of(&included)?;
            files.extend(inner.into_iter().map(|(inner, path)| (format!("{name}/{inner}"), path)));
        } else {
            files.push((name, included));
        }
    }
    files.sort();
    match files.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        None => Ok(files),
        Some(pair) => Err(Error::Usage(format!("{} is in the folder and in what {INCLUDE_FILE} names", pair[0].0))),
    }
}

/// What `.droverinclude` names, relative to the folder; each comes into the package under its own last name.
fn included_by(root: &Path) -> Result<Vec<PathBuf>, Error> {
    let path = root.join(INCLUDE_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("read", path)(error)),
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let included = fs::canonicalize(root.join(line)).map_err(Error::file("include", root.join(line)))?;
            match root.starts_with(&included) {
                true => Err(Error::Usage(format!("{line} of {INCLUDE_FILE} holds the folder itself"))),
                false => Ok(included),
            }
        })
        .collect()
}

/// The files of a folder as (name in the package, path), sorted by name.
fn files_of(root: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let walk = WalkBuilder::new(root)
        .standard_filters(false)
        .add_custom_ignore_filename(IGNORE_FILE)
        .filter_entry(|entry| !is_skipped(entry))
        .build();
    let mut files = Vec::new();
    for entry in walk {
        let entry = entry.map_err(|error| Error::Usage(format!("the folder cannot be read: {error}")))?;
        let kind = entry.file_type();
        if kind.is_some_and(|kind| kind.is_dir()) {
            continue;
        }
        let name = name_in_package(root, entry.path())?;
        if kind.is_some_and(|kind| kind.is_symlink()) {
            check_link(root, entry.path(), &name)?;
        } else if !kind.is_some_and(|kind| kind.is_file()) {
            return Err(Error::Usage(format!("{name} is no ordinary file: name it in {IGNORE_FILE}")));
        }
        files.push((name, entry.into_path()));
    }
    files.sort();
    Ok(files)
}

fn is_skipped(entry: &DirEntry) -> bool {
    if entry.depth() == 0 {
        return false;
    }
    let name = entry.file_name().to_string_lossy();
    if entry.file_type().is_some_and(|kind| kind.is_dir()) {
        // Every virtual environment of Python, whatever its name, has this file.
        SKIPPED_FOLDERS.contains(&name.as_ref()) || entry.path().join("pyvenv.cfg").exists()
    } else {
        SKIPPED_FILES.contains(&name.as_ref()) || name.ends_with(".pyc")
    }
}

fn name_in_package(root: &Path, path: &Path) -> Result<String, Error> {
    let relative = path.strip_prefix(root).unwrap_or(path);
    let parts: Option<Vec<&str>> = relative.iter().map(OsStr::to_str).collect();
    match parts {
        Some(parts) => Ok(parts.join("/")),
        None => Err(Error::Usage(format!("the name of {} is not UTF-8: rename it", relative.display()))),
    }
}

/// A link is packed as the file it leads to, if that is an ordinary file of the same folder.
fn check_link(root: &Path, path: &Path, name: &str) -> Result<(), Error> {
    let target = fs::canonicalize(path).map_err(Error::file("follow the link", path))?;
    if !target.starts_with(root) {
        return Err(Error::Usage(format!(
            "{name} is a link that leaves the folder: copy the file, or name it in {IGNORE_FILE}"
        )));
    }
    if !target.is_file() {
        return Err(Error::Usage(format!("{name} is a link to a folder: copy it, or name it in {IGNORE_FILE}")));
    }
    Ok(())
}

fn zip_files(files: &[(String, PathBuf)]) -> Result<NamedTempFile, Error> {
    let temporary = tempfile::Builder::new().prefix("drover-").suffix(".zip").tempfile();
    let mut temporary = temporary.map_err(Error::file("write into", std::env::temp_dir()))?;
    let path = temporary.path().to_owned();
    let mut zip = ZipWriter::new(io::BufWriter::new(temporary.as_file_mut()));
    for (name, source) in files {
        let mut file = File::open(source).map_err(Error::file("read", source))?;
        let metadata = file.metadata().map_err(Error::file("read", source))?;
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            // Neither the time nor the umask of this host are part of the process.
            .last_modified_time(DateTime::default())
            .unix_permissions(if is_executable(&metadata) { 0o755 } else { 0o644 })
            .large_file(metadata.len() >= u64::from(u32::MAX));
        zip.start_file(name, options).map_err(|error| Error::Usage(format!("{name} cannot be packed: {error}")))?;
        io::copy(&mut file, &mut zip).map_err(Error::file("pack", source))?;
    }
    let written = zip.finish().map_err(|error| Error::Usage(format!("the package cannot be made: {error}")))?;
    written.into_inner().map_err(|error| Error::file("write", path)(error.into_error()))?;
    Ok(temporary)
}

#[cfg(unix)]
fn is_executable(metadata: &fs::Metadata) -> bool {
    std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o100 != 0
}

#[cfg(not(unix))]
fn is_executable(_: &fs::Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, content) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, content).expect("a file");
        }
        folder
    }

    fn names(package: &Package) -> Vec<String> {
        let file = File::open(package.path()).expect("the package");
        ZipArchive::new(file).expect("a zip").file_names().map(|name| name.expect("UTF-8").into_owned()).collect()
    }

    #[test]
    fn the_same_files_make_the_same_bytes() {
        let files = [("main.py", "print(1)"), ("b/ä.txt", "ä"), ("a.txt", "a")];
        let reversed: Vec<_> = files.iter().rev().copied().collect();
        let (first, second) = (folder(&files), folder(&reversed));
        let (first, second) = (Package::of(first.path()).expect("one"), Package::of(second.path()).expect("two"));
        assert_eq!(fs::read(first.path()).expect("bytes"), fs::read(second.path()).expect("bytes"));
        assert_eq!(names(&first), ["a.txt", "b/ä.txt", "main.py"]);
    }

    #[test]
    fn what_does_not_belong_is_left_out() {
        let folder = folder(&[
            ("process.toml", "[process]\nname = \"p\"\ndescription = \"d\""),
            ("main.py", ""),
            (".git/config", ""),
            ("__pycache__/main.pyc", ""),
            ("env-of-mine/pyvenv.cfg", ""),
            ("env-of-mine/lib.py", ""),
            ("out/big.bin", ""),
            ("notes.tmp", ""),
            ("keep.tmp", ""),
            (".env.example", ""),
            (".droverignore", "/out/\n*.tmp\n!keep.tmp\n"),
        ]);
        let package = Package::of(folder.path()).expect("a package");
        assert_eq!(names(&package), [".env.example", "keep.tmp", "main.py", "process.toml"]);
        assert_eq!((package.name.as_str(), package.description.as_str(), package.file_count), ("p", "d", 4));
    }

    #[test]
    fn what_is_included_lies_in_the_root_of_the_package() {
        let whole = folder(&[
            ("sdk/helper/__init__.py", "1"),
            ("sdk/helper/deep/x.py", "2"),
            ("sdk/helper/__pycache__/x.pyc", ""),
            ("single.txt", "3"),
            ("process/main.py", ""),
            ("process/.droverinclude", "# what it shares\n\n../sdk/helper\n../single.txt\n"),
        ]);
        let process = whole.path().join("process");
        let package = Package::of(&process).expect("a package");
        assert_eq!(names(&package), ["helper/__init__.py", "helper/deep/x.py", "main.py", "single.txt"]);
        for (line, told) in [("../nothing", "nothing"), ("..", "itself"), ("main.py", "main.py is in")] {
            fs::write(process.join(INCLUDE_FILE), line).expect("a file");
            let refused = Package::of(&process).err().expect("it is refused").to_string();
            assert!(refused.contains(told), "{refused}");
        }
    }

    #[test]
    fn a_zip_is_taken_as_it_is_and_other_files_are_refused() {
        let folder = folder(&[("process.toml", "[process]\nname = \"p\""), ("x.txt", "x")]);
        let made = Package::of(folder.path()).expect("a package");
        let again = Package::of(made.path()).expect("a package");
        assert_eq!((again.name.as_str(), again.path()), ("p", made.path()));
        assert!(matches!(Package::of(&folder.path().join("x.txt")), Err(Error::Usage(_))));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_packed_as_files_but_never_lead_out() {
        let folder = folder(&[("main.py", "print(1)")]);
        std::os::unix::fs::symlink("main.py", folder.path().join("again.py")).expect("a link");
        let package = Package::of(folder.path()).expect("a package");
        assert_eq!(names(&package), ["again.py", "main.py"]);
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join("out.txt")).expect("a link");
        assert!(matches!(Package::of(folder.path()), Err(Error::Usage(text)) if text.contains("out.txt")));
    }
}
