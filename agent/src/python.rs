//! Python environments: one per hash of the requirements, built once, shared by the jobs that need it.
//!
//! Building one runs code of packages: it happens as the account and with the variables that processes have. What is built
//! belongs to the agent, so that no job can change what the next one gets.

use std::{
    collections::{BTreeMap, HashSet},
    ffi::OsString,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::process::Command;

use crate::{
    durable,
    launcher::{self, Account},
    package::hex,
    tool::{has_program, run_captured, tail_of},
};

/// Written last; without it an environment is not complete.
const COMPLETE: &str = ".complete";
/// The variable by which programs are known that build an environment; its value is the folder.
const MARK: &str = "DROVER_ENVIRONMENT";
const MAX_REQUIREMENTS_BYTES: u64 = 1024 * 1024;

/// The environments of this host.
pub struct PythonEnvironments {
    folder: PathBuf,
    python: String,
    limit_bytes: u64,
    build_timeout: Duration,
    builder: Builder,
}

/// Who builds environments.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    /// `None`: the agent's own.
    pub account: Option<Account>,
    /// All variables that the building programs get.
    pub variables: BTreeMap<String, String>,
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
    pub fn open(
        folder: &Path,
        python: &str,
        limit_bytes: u64,
        build_timeout: Duration,
        builder: Builder,
    ) -> io::Result<Self> {
        durable::create_private_folder(folder)?;
        Ok(Self { folder: folder.to_owned(), python: python.to_owned(), limit_bytes, build_timeout, builder })
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
            .args(["-I", "-c", "import sys, sysconfig; print(sys.version, sys.prefix, sysconfig.get_platform())"])
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
        // An agent that was killed in the middle may have left programs that still write to it.
        launcher::end_carriers(&[mark(&folder)]).await?;
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        if let Some(account) = &self.builder.account {
            fs::DirBuilder::new().mode(0o755).create(&folder)?;
            launcher::give_to(&folder, account)?;
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
        if self.builder.account.is_some() {
            launcher::end_carriers(&[mark(&folder)]).await?;
            launcher::take_back(&folder)?;
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
            let arguments = words(&["venv", "--quiet", "--python", &self.python], &[folder]);
            self.tool("uv", &arguments, package, folder).await?;
            let mut arguments = words(&["pip", "install", "--quiet", "--python"], &[&inside]);
            arguments.extend(words(&["-r", requirements], &[]));
            self.tool("uv", &arguments, package, folder).await
        } else {
            // Isolated (-I): in the package's folder Python would take a module of that for its own.
            self.tool(&self.python, &words(&["-I", "-m", "venv"], &[folder]), package, folder).await?;
            let mut arguments = words(&["-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"], &[]);
            arguments.extend(words(&["--no-input", "-r", requirements], &[]));
            self.tool(&inside.to_string_lossy(), &arguments, package, folder).await
        }
    }

    /// Runs a tool in the package's folder, which paths in requirements start from; what it said is kept for the error only.
    async fn tool(
        &self,
        program: &str,
        arguments: &[OsString],
        package: &Path,
        folder: &Path,
    ) -> Result<(), PythonError> {
        let failed = |why: String, tail: Vec<String>| PythonError::Build { why, tail };
        let mut command = Command::new(program);
        command.args(arguments).current_dir(package).stdin(Stdio::null());
        command.env_clear().envs(&self.builder.variables).env(MARK, folder);
        if let Some(account) = &self.builder.account {
            launcher::run_as(&mut command, account);
        }
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

/// What the programs that build this environment carry among their variables.
fn mark(folder: &Path) -> String {
    format!("{MARK}={}", folder.to_string_lossy())
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    /// A Python that only notes how it was called.
    const NOTING: &str = r#"#!/bin/sh
echo "$(id -u) in $(basename "$PWD") with ${PIP_INDEX_URL-none} ${CARGO_MANIFEST_DIR-none}: $*" >> "$(dirname "$0")/../calls"
if test "$3" = venv; then mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; fi
"#;

    struct Host {
        folder: tempfile::TempDir,
        environments: PythonEnvironments,
    }

    impl Host {
        fn new(account: Option<Account>) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let (root, python) = (folder.path(), folder.path().join("bin/python"));
            for inner in ["bin", "package"] {
                fs::create_dir(root.join(inner)).expect("a folder");
                fs::set_permissions(root.join(inner), fs::Permissions::from_mode(0o755)).expect("rights");
            }
            fs::write(&python, NOTING).expect("a script");
            fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("rights");
            fs::write(root.join("package/requirements.txt"), "x").expect("a file");
            let variables = ["PATH", "PIP_INDEX_URL"].map(str::to_owned).into_iter();
            let variables = variables.zip([std::env::var("PATH").expect("a PATH"), "own".to_owned()]).collect();
            let (builder, python) = (Builder { account, variables }, python.to_str().expect("UTF-8").to_owned());
            let (folder_of_all, timeout) = (root.join("environments"), Duration::from_secs(60));
            let environments = PythonEnvironments::open(&folder_of_all, &python, u64::MAX, timeout, builder);
            for passed in [root, &folder_of_all] {
                launcher::allow_passage(passed).expect("rights");
            }
            Self { environments: environments.expect("a folder"), folder }
        }

        async fn get(&self) -> Result<Ready, PythonError> {
            self.environments.get("e", &self.folder.path().join("package"), "requirements.txt", &HashSet::new()).await
        }
    }

    /// Building is done as the account of the jobs, with their variables, and with no module of the package; what comes of it
    /// is the agent's.
    #[tokio::test]
    async fn an_environment_is_built_with_the_rights_of_jobs() {
        let is_root = rustix::process::geteuid().is_root();
        let account = is_root.then(|| launcher::process_account("nobody").expect("an account"));
        if has_program("uv") || !is_root {
            eprintln!("SKIPPED in part: run the tests as root, and without uv");
        }
        if has_program("uv") {
            return;
        }
        let uid = account.as_ref().map_or(rustix::process::geteuid().as_raw(), |account| account.uid);
        let host = Host::new(account);
        let calls = host.folder.path().join("environments/e/calls");
        // The first call notes beside the agent's own Python, the second inside of the environment.
        let first = host.folder.path().join("calls");
        fs::write(&first, "").expect("a file");
        fs::set_permissions(&first, fs::Permissions::from_mode(0o666)).expect("rights");
        let ready = host.get().await.expect("built");
        let called = fs::read_to_string(first).expect("a file") + &fs::read_to_string(&calls).expect("a file");
        let folder = ready.folder.display();
        assert_eq!(
            called,
            format!(
                "{uid} in package with own none: -I -m venv {folder}\n{uid} in package with own none: -I -m pip install \
                 --quiet --disable-pip-version-check --no-input -r requirements.txt\n"
            )
        );
        for path in [&ready.folder, &calls, &ready.folder.join("bin/python"), &ready.folder.join(COMPLETE)] {
            assert_eq!(fs::metadata(path).expect("it is there").uid(), rustix::process::geteuid().as_raw());
        }
    }

    /// What an agent that was killed has left building is ended before the environment is made anew.
    #[tokio::test]
    async fn a_build_that_was_left_is_ended() {
        let host = Host::new(None);
        let folder = host.folder.path().join("environments/e");
        let sleep =
            |folder: &Path| std::process::Command::new("sleep").arg("60").env(MARK, folder).spawn().expect("a process");
        let (mut left, mut other) = (sleep(&folder), sleep(&folder.with_extension("other")));
        let built = host.get().await;
        let ended = left.try_wait().expect("a child");
        other.kill().expect("the other one still runs");
        other.wait().expect("a child");
        assert!(ended.is_some_and(|status| !status.success()) && (built.is_ok() || has_program("uv")));
    }
}
