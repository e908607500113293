//! Where files are written: whole or not at all under their name, or straight on, where no other file can stand in.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, Write},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use crate::error::Error;

/// As many links as Linux follows, one after another.
const MAX_LINKS: u32 = 40;

/// Where something is written.
pub enum Place {
    /// A temporary file, which takes the place of the other one when it is whole.
    Beside(NamedTempFile, PathBuf),
    /// Standard output, a pipe, a device: what is written has left.
    Direct(Box<dyn Write>),
}

/// Whether what is written there goes to standard output. By these names a file of the same content could take the place
/// of the link to it.
pub fn is_standard_output(target: &Path) -> bool {
    ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|name| target.as_os_str() == *name)
}

/// A file of this name in the current folder, also if the name would mean standard output.
pub fn named(name: &str) -> PathBuf {
    let path = PathBuf::from(name);
    if is_standard_output(&path) { Path::new(".").join(path) } else { path }
}

/// Whether it names what this process has open, of which a link tells where it lies.
fn is_open_already(target: &Path) -> bool {
    ["/dev/fd", "/proc/self/fd", "/dev/stderr"].iter().any(|open| target.starts_with(open))
}

impl Place {
    /// Prepares to write to `target`. Of a link it is the file to which it leads, though that may not be there yet.
    pub fn open(target: &Path) -> Result<Self, Error> {
        if is_standard_output(target) {
            return Ok(Self::Direct(Box::new(io::stdout())));
        }
        match fs::metadata(target) {
            Ok(there) if !there.is_file() => {
                let file = OpenOptions::new().write(true).open(target).map_err(Error::file("write", target))?;
                Ok(Self::Direct(Box::new(file)))
            }
            Ok(_) if is_open_already(target) => {
                let text = format!("{} is a file that is open already; name the file itself, or -", target.display());
                Err(Error::Usage(text))
            }
            _ => {
                let file = behind_links(target)?;
                Ok(Self::Beside(temporary_beside(&file)?, file))
            }
        }
    }

    pub fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        match self {
            Self::Beside(file, _) => file.write_all(piece),
            Self::Direct(stream) => stream.write_all(piece),
        }
    }

    /// Forgets what was written; refused where it has left.
    pub fn begin_again(&mut self) -> io::Result<()> {
        match self {
            Self::Beside(file, _) => {
                let file = file.as_file_mut();
                file.set_len(0).and_then(|()| file.rewind())
            }
            Self::Direct(_) => {
                Err(io::Error::other("the connection broke, and what comes now does not go on with what was written"))
            }
        }
    }

    /// All is written: gives a file its name, the rights of the one that it replaces, and the safety of the disk.
    pub fn finish(self) -> Result<(), Error> {
        match self {
            Self::Beside(file, target) => persist(file, &target),
            Self::Direct(mut stream) => stream.flush().map_err(Error::Output),
        }
    }
}

/// Writes a file that only this account may read, whole or not at all, and flushes it to the disk.
pub fn write_private(target: &Path, text: &str) -> Result<(), Error> {
    let target = behind_links(target)?;
    // Temporary files are readable by their owner only, and stay so when they are renamed.
    let mut file = temporary_beside(&target)?;
    file.write_all(text.as_bytes()).map_err(Error::file("write", &target))?;
    persist_with_its_mode(file, &target)
}

/// The file itself, whatever links lead to it: a file that took the place of a link would leave the file as it was.
fn behind_links(path: &Path) -> Result<PathBuf, Error> {
    let mut file = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&file) {
            Ok(next) => file = parent_of(&file).join(next),
            // No link, or nothing that could be one; what else is wrong with it is found when it is written.
            Err(_) => return Ok(file),
        }
    }
    Err(Error::file("write", path)(io::Error::other("it is a link that leads to itself")))
}

fn temporary_beside(target: &Path) -> Result<NamedTempFile, Error> {
    let folder = parent_of(target);
    tempfile::Builder::new().prefix(".drover-").tempfile_in(&folder).map_err(Error::file("write into", folder))
}

fn persist(file: NamedTempFile, target: &Path) -> Result<(), Error> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // What was there decides; else only this account may read it: it may hold anything.
        let mode = fs::metadata(target).map_or(0o600, |metadata| metadata.permissions().mode() & 0o777);
        file.as_file().set_permissions(fs::Permissions::from_mode(mode)).map_err(Error::file("write", target))?;
    }
    persist_with_its_mode(file, target)
}

fn persist_with_its_mode(file: NamedTempFile, target: &Path) -> Result<(), Error> {
    file.as_file().sync_all().map_err(Error::file("write", target))?;
    file.persist(target).map_err(|error| Error::file("write", target)(error.error))?;
    // The name is safe only when its folder is on the disk as well.
    #[cfg(unix)]
    File::open(parent_of(target)).and_then(|folder| folder.sync_all()).map_err(Error::file("write", target))?;
    Ok(())
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_output_has_several_names() {
        for name in ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
            assert!(is_standard_output(Path::new(name)), "{name}");
        }
        for name in ["./-", "/dev/null", "x"] {
            assert!(!is_standard_output(Path::new(name)), "{name}");
        }
        assert_eq!((named("-"), named("x")), (PathBuf::from("./-"), PathBuf::from("x")));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_to_their_end() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        symlink("second", path("first")).expect("a link");
        symlink(path("none yet"), path("second")).expect("a link");
        symlink("circle", path("circle")).expect("a link");
        assert_eq!(behind_links(&path("first")).expect("it ends"), path("none yet"));
        assert_eq!(behind_links(&path("none yet")).expect("it is no link"), path("none yet"));
        assert!(behind_links(&path("circle")).is_err());
    }
}
