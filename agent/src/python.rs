//! Python environments: one per hash of the requirements, built once, shared by the jobs that need it.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::process::Command;

use crate::{
    durable,
    package::hex,
    tool::{has_program, run_captured, tail_of},
};

/// Written last; without it an environment is not complete.
const COMPLETE: &str = ".complete";
const MAX_REQUIREMENTS_BYTES: u64 = 1024 * 1024;

/// The environments of this host.
pub struct PythonEnvironments {
    folder: PathBuf,
    python: String,
    limit_bytes: u64,
    build_timeout: Duration,
}

/// An environment could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PythonError {
    #[error("the requirements cannot be read: {0}")]
    Requirements(String),
    #[error("the Python environment could not be built: {why}")]
    Build { why: String, tail: Vec<String> },
    #[error("the folder of Python environments cannot be used: {0}")]
    Disk(#[from] io::Error),
}

/// An environment that is ready.
#[derive(Debug)]
pub struct Ready {
    /// Name of its folder.
    pub name: String,
    pub folder: PathBuf,
}

impl PythonEnvironments {
    pub fn open(folder: &Path, python: &str, limit_bytes: u64, build_timeout: Duration) -> io::Result<Self> {
        durable::create_private_folder(folder)?;
        Ok(Self { folder: folder.to_owned(), python: python.to_owned(), limit_bytes, build_timeout })
    }

    /// What an environment for these requirements is called; `None` if nothing is required.
    pub async fn name_for(
        &self,
        package: &Path,
        requirements: &str,
        sha256: &str,
    ) -> Result<Option<String>, PythonError> {
        let relative = Path::new(requirements);
        if relative
            .components()
            .any(|part| !matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir))
        {
            return Err(PythonError::Requirements(format!("\"{requirements}\" lies outside of the package")));
        }
        let named = |error: io::Error| PythonError::Requirements(format!("\"{requirements}\": {error}"));
        let file = crate::work_folder::open_plain(&package.join(relative)).map_err(named)?;
        let text = crate::spool::read_limited(file, MAX_REQUIREMENTS_BYTES).map_err(named)?;
        let text = text.ok_or_else(|| PythonError::Requirements(format!("\"{requirements}\" is larger than 1 MiB")))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> =
            text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        if lines.is_empty() {
            return Ok(None);
        }
        let mut digest = Sha256::new();
        digest.update(lines.join("\n"));
        digest.update([0]);
        digest.update(self.version().await?);
        // What is named by a path is part of the package: other packages may have something else there.
        if lines.iter().any(|line| line.starts_with(['-', '.', '/']) || line.contains("file:") || line.contains("./")) {
            digest.update([0]);
            digest.update(sha256);
        }
        Ok(Some(hex(&digest.finalize()[..16])))
    }

    async fn version(&self) -> Result<Vec<u8>, PythonError> {
        let asked = Command::new(&self.python)
            .args(["-c", "import sys, sysconfig; print(sys.version, sys.prefix, sysconfig.get_platform())"])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await;
        match asked {
            Ok(answer) if answer.status.success() => Ok(answer.stdout),
            Ok(answer) => Err(PythonError::Build {
                why: format!("\"{}\" does not work ({})", self.python, answer.status),
                tail: tail_of(&answer.stderr),
            }),
            Err(error) => Err(PythonError::Build {
                why: format!(
                    "\"{}\" could not be started: {error}; install Python 3 or set \"python\" in the agent's settings",
                    self.python
                ),
                tail: Vec::new(),
            }),
        }
    }

    /// The environment, built if there is none. Not to be called for the same name twice at a time.
    /// `in_use` names environments that must not be evicted.
    pub async fn get(
        &self,
        name: &str,
        package: &Path,
        requirements: &str,
        in_use: &HashSet<String>,
    ) -> Result<Ready, PythonError> {
        let folder = self.folder.join(name);
        if folder.join(COMPLETE).exists() {
            durable::write(&folder.join(COMPLETE), &size_of_folder(&folder.join(COMPLETE)).to_le_bytes())?;
            return Ok(Ready { name: name.to_owned(), folder });
        }
        self.make_room(in_use)?;
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        let build = self.build(&folder, package, requirements);
        match tokio::time::timeout(self.build_timeout, build).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let _ = fs::remove_dir_all(&folder);
                return Err(error);
            }
            Err(_) => {
                let _ = fs::remove_dir_all(&folder);
                let why = format!(
                    "it took longer than {} seconds (limits.environment_build_seconds)",
                    self.build_timeout.as_secs()
                );
                return Err(PythonError::Build { why, tail: Vec::new() });
            }
        }
        let size = size_of_folder(&folder);
        durable::write(&folder.join(COMPLETE), &size.to_le_bytes())?;
        Ok(Ready { name: name.to_owned(), folder })
    }

    async fn build(&self, folder: &Path, package: &Path, requirements: &str) -> Result<(), PythonError> {
        let inside = folder.join("bin/python");
        let words = |words: &[&str], paths: &[&Path]| -> Vec<OsString> {
            words.iter().map(OsString::from).chain(paths.iter().map(|path| path.as_os_str().to_owned())).collect()
        };
        if has_program("uv") {
            self.tool("uv", &words(&["venv", "--quiet", "--python", &self.python], &[folder]), package).await?;
            let mut arguments = words(&["pip", "install", "--quiet", "--python"], &[&inside]);
            arguments.extend(words(&["-r", requirements], &[]));
            self.tool("uv", &arguments, package).await
        } else {
            self.tool(&self.python, &words(&["-m", "venv"], &[folder]), package).await?;
            let arguments = words(
                &["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "-r", requirements],
                &[],
            );
            self.tool(&inside.to_string_lossy(), &arguments, package).await
        }
    }

    /// Runs a tool in the package's folder; what it said is kept for the error only.
    async fn tool(&self, program: &str, arguments: &[OsString], folder: &Path) -> Result<(), PythonError> {
        let failed = |why: String, tail: Vec<String>| PythonError::Build { why, tail };
        let mut command = Command::new(program);
        command.args(arguments).current_dir(folder).stdin(Stdio::null());
        match run_captured(command).await {
            Ok((status, _)) if status.success() => Ok(()),
            Ok((status, said)) => {
                let what = arguments.iter().take(3).map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
                Err(failed(format!("\"{program} {what} …\" failed ({status})"), tail_of(&said)))
            }
            Err(error) => Err(failed(format!("\"{program}\" could not be started: {error}"), Vec::new())),
        }
    }

    /// Removes the environments that were not used for longest while all together are over the limit.
    fn make_room(&self, in_use: &HashSet<String>) -> io::Result<()> {
        let mut complete = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let Ok(mark) = fs::metadata(entry.path().join(COMPLETE)) else { continue };
            let size = size_of_folder(&entry.path().join(COMPLETE));
            complete.push((mark.modified()?, size, entry));
        }
        complete.sort_by_key(|(used, _, _)| *used);
        let mut total: u64 = complete.iter().map(|(_, size, _)| size).sum();
        for (_, size, entry) in complete {
            if total <= self.limit_bytes {
                break;
            }
            if !entry.file_name().to_str().is_some_and(|name| in_use.contains(name)) {
                // The mark goes first: a removal that is cut short leaves an incomplete environment, not a broken one.
                durable::remove(&entry.path().join(COMPLETE))?;
                fs::remove_dir_all(entry.path())?;
                total -= size;
            }
        }
        Ok(())
    }
}

/// The size of a folder with all in it; of a mark, the size that is written in it.
fn size_of_folder(path: &Path) -> u64 {
    if path.ends_with(COMPLETE) {
        let written = fs::read(path).ok().and_then(|bytes| bytes.try_into().ok());
        return written.map_or(0, u64::from_le_bytes);
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of_folder(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
