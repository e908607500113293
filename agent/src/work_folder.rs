//! The folder that a process works in, and the variables that tell it where everything is.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use drover_protocol::{
    agent::{Assignment, ErrorFile},
    trace::trace_parent,
};
use serde_json::Value;

use crate::{
    config::matches_pattern,
    job_runner::RobotFacts,
    launcher::Account,
    report::{self, ResultFile},
    spool::read_limited,
};

/// `error.json` need not be longer.
const MAX_ERROR_FILE_BYTES: u64 = 256 * 1024;
/// Pretty-printed output may be longer than the limit that counts, but not without end.
const MAX_OUTPUT_FILE_BYTES: u64 = 8 * 1024 * 1024;

/// The folder of one attempt.
#[derive(Clone, Debug)]
pub struct WorkFolder(pub PathBuf);

impl WorkFolder {
    /// The unpacked package, the process's current folder.
    pub fn package(&self) -> PathBuf {
        self.0.join("package")
    }
    pub fn input(&self) -> PathBuf {
        self.0.join("input.json")
    }
    pub fn output(&self) -> PathBuf {
        self.0.join("output.json")
    }
    pub fn error(&self) -> PathBuf {
        self.0.join("error.json")
    }
    pub fn artifacts(&self) -> PathBuf {
        self.0.join("artifacts")
    }
    pub fn stop_file(&self) -> PathBuf {
        self.0.join("stop")
    }

    /// Makes it anew: whatever an earlier preparation of the same attempt left is removed.
    pub fn create(&self, assignment: &Assignment) -> io::Result<()> {
        self.remove()?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        fs::DirBuilder::new().mode(0o700).create(self.artifacts())?;
        let input = assignment.job.input.clone().unwrap_or_default();
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(self.input())?;
        serde_json::to_writer(file, &Value::Object(input))?;
        Ok(())
    }

    /// Removes it; it is no error if there is none.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                // A process may have taken the rights of its own folders away.
                restore_rights(&self.0);
                fs::remove_dir_all(&self.0)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Reads `output.json`.
    pub fn read_output(&self) -> ResultFile<Value> {
        read_result(&self.output(), "output.json", MAX_OUTPUT_FILE_BYTES, report::parse_output, report::too_large)
    }

    /// Reads `error.json`.
    pub fn read_error(&self) -> ResultFile<ErrorFile> {
        let too_large = || format!("error.json is larger than {MAX_ERROR_FILE_BYTES} bytes");
        read_result(&self.error(), "error.json", MAX_ERROR_FILE_BYTES, report::parse_error, too_large)
    }
}

fn restore_rights(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            restore_rights(&entry.path());
        }
    }
}

fn read_result<T>(
    path: &Path,
    name: &str,
    limit: u64,
    parse: impl Fn(&[u8]) -> ResultFile<T>,
    too_large: impl Fn() -> String,
) -> ResultFile<T> {
    let content = match open_plain(path) {
        Ok(file) => read_limited(file, limit),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return ResultFile::Absent,
        Err(error) => Err(error),
    };
    match content {
        Ok(Some(content)) => parse(&content),
        Ok(None) => ResultFile::Unusable(too_large()),
        Err(error) => ResultFile::Unusable(format!("{name} cannot be read: {error}")),
    }
}

/// Opens an ordinary file that a process has left: no link is followed, and a pipe or device is refused, which could make
/// the agent wait for ever or read what the process itself could not.
pub fn open_plain(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => io::Error::other("it is a link"),
        _ => error,
    })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not an ordinary file")) }
}

/// What the host's owner lets through of the agent's own variables.
fn allowed_variables(
    inherited: impl Iterator<Item = (String, String)>,
    allowed: &[String],
    account: Option<&Account>,
) -> BTreeMap<String, String> {
    let mut variables: BTreeMap<String, String> = inherited
        .filter(|(name, _)| {
            !name.starts_with("DROVER_") && allowed.iter().any(|pattern| matches_pattern(pattern, name))
        })
        .collect();
    if let Some(account) = account {
        for (name, value) in [("HOME", &account.home), ("USER", &account.name), ("LOGNAME", &account.name)] {
            variables.insert(name.to_owned(), value.clone());
        }
    }
    variables
}

/// The whole environment of what builds Python environments: what a process gets of the agent's, and their own settings.
pub fn builder_environment(
    inherited: impl Iterator<Item = (String, String)>,
    allowed: &[String],
    account: Option<&Account>,
) -> BTreeMap<String, String> {
    let own = ["PIP_*", "UV_*"].map(str::to_owned);
    allowed_variables(inherited, &[allowed, &own].concat(), account)
}

/// The whole environment of a process. `inherited` is the agent's own.
pub fn environment(
    assignment: &Assignment,
    folder: &WorkFolder,
    robot: &RobotFacts,
    inherited: impl Iterator<Item = (String, String)>,
    allowed: &[String],
    account: Option<&Account>,
) -> Vec<(String, String)> {
    let job = &assignment.job;
    let path = |path: PathBuf| path.to_string_lossy().into_owned();
    let mut variables = allowed_variables(inherited, allowed, account);
    let own = [
        // Lines are to be seen when they are printed, not when a buffer is full.
        ("PYTHONUNBUFFERED", "1".to_owned()),
        ("DROVER_URL", robot.server.clone()),
        ("DROVER_TOKEN", assignment.key.clone()),
        ("DROVER_JOB_ID", job.id.to_string()),
        ("DROVER_ATTEMPT", assignment.attempt.to_string()),
        ("DROVER_ROBOT", job.robot_name.clone().unwrap_or_else(|| robot.name.clone())),
        ("DROVER_PROCESS", job.process_name.clone()),
        ("DROVER_VERSION", assignment.version.number.to_string()),
        ("DROVER_INPUT", path(folder.input())),
        ("DROVER_OUTPUT", path(folder.output())),
        ("DROVER_ERROR", path(folder.error())),
        ("DROVER_ARTIFACTS", path(folder.artifacts())),
        ("DROVER_STOP_FILE", path(folder.stop_file())),
        ("TRACEPARENT", trace_parent(assignment.job.id, assignment.attempt)),
    ];
    variables.extend(own.map(|(name, value)| (name.to_owned(), value)));
    variables.extend(robot.ca_file.clone().map(|file| ("DROVER_CA_FILE".to_owned(), file)));
    variables.into_iter().collect()
}
