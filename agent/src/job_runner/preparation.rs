//! Everything before the start: policy, package, environment, hooks, and what the supervisor is told.

use std::{collections::HashSet, fs, io, path::PathBuf, process::Stdio, time::Duration};

use drover_protocol::{
    Timestamp,
    agent::{AssignedVersion, Assignment},
    job::CauseCode,
};

use super::{ProcessRunner, id_of, secrets_of};
use crate::{
    config::matches_pattern,
    durable,
    launcher::{self, Launcher, Limits, RunFolder, Spec},
    package::{PackageError, unpack},
    python::PythonError,
    tool,
    transport::Transport,
    work_folder::{self, WorkFolder},
};

/// Not ready, and why: becomes the end report.
pub(super) struct Unready {
    pub code: CauseCode,
    pub message: String,
    /// Lines for the job's log.
    pub tail: Vec<String>,
}

impl Unready {
    fn new(code: CauseCode, message: impl ToString) -> Self {
        Self { code, message: message.to_string(), tail: Vec::new() }
    }
}

impl<T: Transport, L: Launcher> ProcessRunner<T, L> {
    pub(super) async fn get_ready(&self, assignment: &Assignment) -> Result<(), Unready> {
        let id = id_of(assignment);
        let (run, work) = (self.run_folder(id), self.work_folder(id));
        let disk = |error: io::Error| {
            Unready::new(CauseCode::LaunchFailed, format!("the work folder cannot be made: {error}"))
        };
        self.check_policy(assignment)?;
        run.create().map_err(disk)?;
        work.create(assignment).map_err(disk)?;
        self.ready_package(&assignment.version, &work).await.map_err(|error| Unready::new(error.code(), error))?;
        if let Some(account) = &self.account {
            launcher::give_to(&work.0, account).map_err(disk)?;
        }
        self.ready_environment(assignment, &run, &work).await?;
        self.hook("before_job", &self.settings.hooks.before_job, assignment, None).await.map_err(|(why, tail)| {
            Unready { code: CauseCode::EnvironmentFailed, message: format!("the host's before_job hook {why}"), tail }
        })
    }

    /// Fetches and unpacks the package. A full disk is emptied of what is only kept for later jobs before the job is given up.
    async fn ready_package(&self, version: &AssignedVersion, work: &WorkFolder) -> Result<(), PackageError> {
        let (target, limit) = (work.package(), self.settings.limits.unpacked_bytes);
        loop {
            let done = async {
                let zip = {
                    let lock = self.lock(&version.sha256);
                    let _one_at_a_time = lock.lock().await;
                    self.packages.fetch(&self.coordinator, version).await?
                };
                let target = target.clone();
                let unpacked = tokio::task::spawn_blocking(move || unpack(zip, &target, limit)).await;
                unpacked.unwrap_or_else(|error| Err(PackageError::Invalid(error.to_string())))
            };
            match done.await {
                Err(PackageError::Disk(error)) if durable::is_full(&error) => {
                    if target.exists() {
                        fs::remove_dir_all(&target)?;
                    }
                    if !self.packages.make_all_room(version)? {
                        return Err(error.into());
                    }
                }
                Err(PackageError::Invalid(why)) if self.remove_damaged_package(version).await? => {
                    tracing::warn!(why, "a cached package was damaged; it is fetched again");
                    if target.exists() {
                        fs::remove_dir_all(&target)?;
                    }
                }
                done => return done,
            }
        }
    }

    async fn remove_damaged_package(&self, version: &AssignedVersion) -> io::Result<bool> {
        let lock = self.lock(&version.sha256);
        let _one_at_a_time = lock.lock().await;
        self.packages.remove_damaged(version).await
    }

    fn check_policy(&self, assignment: &Assignment) -> Result<(), Unready> {
        let (name, policy) = (&assignment.job.process_name, &self.settings.policy);
        if !policy.allowed_processes.iter().any(|pattern| matches_pattern(pattern, name)) {
            let message = format!("the host's settings (policy.allowed_processes) do not allow the process \"{name}\"");
            return Err(Unready::new(CauseCode::HostPolicy, message));
        }
        if assignment.version.manifest.run.command_for(std::env::consts::OS).is_none() {
            let message = format!("the package has no command for {}", std::env::consts::OS);
            return Err(Unready::new(CauseCode::LaunchFailed, message));
        }
        Ok(())
    }

    async fn ready_environment(
        &self,
        assignment: &Assignment,
        run: &RunFolder,
        work: &WorkFolder,
    ) -> Result<(), Unready> {
        let Some(python) = &assignment.version.manifest.python else { return Ok(()) };
        let failed = |error: PythonError| match error {
            PythonError::Build { why, tail } => {
                let message = format!("the Python environment could not be built: {why}");
                Unready { code: CauseCode::EnvironmentFailed, message, tail }
            }
            other => Unready::new(CauseCode::EnvironmentFailed, other),
        };
        let (package, requirements) = (work.package(), python.requirements.as_str());
        let name =
            self.environments.name_for(&package, requirements, &assignment.version.sha256).await.map_err(failed)?;
        let Some(name) = name else { return Ok(()) };
        // Marked as in use first, so that no other job's eviction takes it away.
        durable::write(&run.environment(), name.as_bytes()).map_err(|error| failed(error.into()))?;
        let lock = self.lock(&name);
        let _one_at_a_time = lock.lock().await;
        self.environments.get(&name, &package, requirements, &self.environments_in_use()).await.map_err(failed)?;
        Ok(())
    }

    fn environments_in_use(&self) -> HashSet<String> {
        let runs = fs::read_dir(self.settings.state_dir.join("runs")).into_iter().flatten().flatten();
        runs.filter_map(|run| fs::read_to_string(RunFolder(run.path()).environment()).ok()).collect()
    }

    /// Runs a hook; on failure why, and what it said.
    pub(super) async fn hook(
        &self,
        name: &str,
        words: &[String],
        assignment: &Assignment,
        outcome: Option<&str>,
    ) -> Result<(), (String, Vec<String>)> {
        let Some((program, arguments)) = words.split_first() else { return Ok(()) };
        let mut command = tokio::process::Command::new(program);
        command
            .args(arguments)
            .current_dir(self.work_folder(id_of(assignment)).0)
            .env("DROVER_HOOK", name)
            .env("DROVER_JOB_ID", assignment.job.id.to_string())
            // Not under its usual name: a hook is not part of the job's tree and must not be taken for it.
            .env("DROVER_JOB_ATTEMPT", assignment.attempt.to_string())
            .env("DROVER_PROCESS", &assignment.job.process_name)
            .envs(outcome.map(|outcome| ("DROVER_OUTCOME", outcome)))
            .stdin(Stdio::null());
        let limit = Duration::from_secs(self.settings.hooks.timeout_seconds);
        match tokio::time::timeout(limit, tool::run_captured(command)).await {
            Ok(Ok((status, _))) if status.success() => Ok(()),
            Ok(Ok((status, said))) => Err((format!("failed ({status})"), tool::tail_of(&said))),
            Ok(Err(error)) => Err((format!("could not be started: {error}"), Vec::new())),
            Err(_) => Err((format!("took longer than {} seconds", limit.as_secs()), Vec::new())),
        }
    }

    pub(super) fn spec(&self, assignment: &Assignment, server_ahead_ms: i64) -> Spec {
        let id = id_of(assignment);
        let work = self.work_folder(id);
        let allowed = &self.settings.policy.environment;
        let mut environment =
            work_folder::environment(assignment, &work, &self.robot, std::env::vars(), allowed, self.account.as_ref());
        if let Ok(name) = fs::read_to_string(self.run_folder(id).environment()) {
            enter_environment(&mut environment, &self.settings.work_folder().join("environments").join(name));
        }
        let server_time = Timestamp::from_millis(self.clock.now().millis().saturating_add(server_ahead_ms));
        let time_until = |at: Timestamp| u64::try_from(at.since(server_time).as_millis()).unwrap_or(u64::MAX);
        let (job, limits) = (&assignment.job, &self.settings.limits);
        let run = &assignment.version.manifest.run;
        Spec {
            id,
            command: resolve(run.command_for(std::env::consts::OS).unwrap_or_default(), &environment, &work.package()),
            folder: work.package(),
            environment,
            stop_file: work.stop_file(),
            secrets: secrets_of(assignment),
            log_level: assignment.log_level,
            timeout_ms: job.timeout_seconds.or(run.timeout_seconds).map(|seconds| seconds.saturating_mul(1000)),
            stop_in_ms: job.stop_after.map(time_until),
            abort_in_ms: job.abort_after.map(time_until),
            stop_grace_ms: job.stop_grace_seconds.saturating_mul(1000),
            kill_wait_ms: limits.kill_wait_seconds.saturating_mul(1000),
            spool_limit_bytes: limits.spool_bytes,
            account: self.account.clone(),
            limits: Limits { memory_bytes: limits.memory_bytes, open_files: limits.open_files },
        }
    }
}

fn enter_environment(environment: &mut Vec<(String, String)>, folder: &std::path::Path) {
    let bin = folder.join("bin").to_string_lossy().into_owned();
    match environment.iter_mut().find(|(name, _)| name == "PATH") {
        Some((_, path)) => *path = format!("{bin}:{path}"),
        None => environment.push(("PATH".to_owned(), format!("{bin}:/usr/local/bin:/usr/bin:/bin"))),
    }
    environment.push(("VIRTUAL_ENV".to_owned(), folder.to_string_lossy().into_owned()));
}

/// The command with its program as a path: looked up in the folders of the *process's* PATH, because that is where its own
/// Python comes first; a name with a slash belongs to the package.
fn resolve(command: &[String], environment: &[(String, String)], package: &std::path::Path) -> Vec<String> {
    let mut command = command.to_vec();
    let Some(program) = command.first_mut() else { return command };
    let found: Option<PathBuf> = if program.contains('/') {
        Some(package.join(&*program)).filter(|path| path.is_file())
    } else {
        let path = environment
            .iter()
            .find(|(name, _)| name == "PATH")
            .map_or("/usr/local/bin:/usr/bin:/bin", |(_, path)| path);
        std::env::split_paths(path).map(|folder| folder.join(&*program)).find(|path| path.is_file())
    };
    if let Some(found) = found {
        *program = found.to_string_lossy().into_owned();
    }
    command
}
