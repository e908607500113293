//! Runs jobs as processes of this host: gets package and environment, has a supervisor started, reads what the process
//! left, uploads its artifacts.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    fs, io,
    rc::Rc,
    time::Duration,
};

use drover_protocol::{
    agent::{Assignment, Finish},
    job::CauseCode,
    log::Level,
};
use tokio::sync::Mutex;

mod preparation;
#[cfg(test)]
mod tests;

use crate::{
    artifacts,
    attempt::AttemptId,
    clock::Clock,
    config::Settings,
    coordinator::{CallError, Coordinator},
    durable,
    launcher::{self, Account, EndMode, EndRequest, Found, Launcher, RunFolder, Supervisor},
    output::Record,
    package::PackageCache,
    python::{Builder, PythonEnvironments},
    redact::Redactor,
    report,
    runner::{Control, JobRunner, LineSource},
    spool,
    transport::Transport,
    work_folder::{self, WorkFolder},
};

/// How often a spool is looked at for new lines.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long the upload of an artifact is tried while the coordinator is there and only the upload fails: somebody may mend
/// that, but the job must come to its end.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(30 * 60);
/// The same after one that was given up: it will not be the only one.
const NEXT_UPLOAD_PATIENCE: Duration = Duration::from_secs(60);

/// Runs jobs through supervisors.
pub struct ProcessRunner<T, L> {
    coordinator: Rc<Coordinator<T>>,
    launcher: L,
    settings: Settings,
    robot: RobotFacts,
    clock: Clock,
    account: Option<Account>,
    packages: PackageCache,
    environments: PythonEnvironments,
    /// One at a time per package, per environment, and per attempt that is tidied away.
    locks: RefCell<HashMap<String, Rc<Mutex<()>>>>,
}

/// What processes are told about the robot that runs them.
#[derive(Clone, Debug)]
pub struct RobotFacts {
    /// The coordinator's root, without `/api/v1`.
    pub server: String,
    pub name: String,
    /// Certificate authorities to trust besides those of the host, if a file with some is set.
    pub ca_file: Option<String>,
}

impl<T: Transport, L: Launcher> ProcessRunner<T, L> {
    /// Makes the folders; fails if they cannot be made.
    pub fn new(
        coordinator: Rc<Coordinator<T>>,
        launcher: L,
        settings: Settings,
        robot: RobotFacts,
        clock: Clock,
        account: Option<Account>,
    ) -> io::Result<Self> {
        let work = settings.work_folder();
        durable::create_private_folder(&settings.state_dir.join("runs"))?;
        durable::create_private_folder(&work)?;
        durable::create_private_folder(&work.join("jobs"))?;
        let packages = PackageCache::open(&work.join("packages"), settings.cache.packages_bytes)?;
        let allowed = &settings.policy.environment;
        let variables = work_folder::builder_environment(std::env::vars(), allowed, account.as_ref());
        let environments = PythonEnvironments::open(
            &work.join("environments"),
            &settings.python,
            settings.cache.environments_bytes,
            Duration::from_secs(settings.limits.environment_build_seconds),
            Builder { account: account.clone(), variables },
        )?;
        if account.is_some() {
            for folder in [work.clone(), work.join("jobs"), work.join("environments")] {
                launcher::allow_passage(&folder)?;
            }
        }
        let locks = RefCell::default();
        Ok(Self { coordinator, launcher, settings, robot, clock, account, packages, environments, locks })
    }

    fn run_folder(&self, id: AttemptId) -> RunFolder {
        RunFolder(self.settings.state_dir.join("runs").join(id.to_string()))
    }

    fn work_folder(&self, id: AttemptId) -> WorkFolder {
        WorkFolder(self.settings.work_folder().join("jobs").join(id.to_string()))
    }

    fn lock(&self, name: &str) -> Rc<Mutex<()>> {
        Rc::clone(self.locks.borrow_mut().entry(name.to_owned()).or_default())
    }

    async fn supervise(
        &self,
        assignment: &Assignment,
        adopt: bool,
        server_ahead_ms: i64,
        control: &mut Control,
    ) -> io::Result<Box<Finish>> {
        let id = id_of(assignment);
        let run = self.run_folder(id);
        let supervisor = if adopt {
            match self.launcher.find(&run)? {
                Found::Alive(supervisor) => Some(supervisor),
                Found::Gone => None,
            }
        } else {
            None
        };
        // Without an identity no supervisor has come so far as to start the command: the agent was ended just between
        // writing that it will and doing it. Starting it now is the first time. After a power cut nobody can know that.
        let never_started = adopt
            && supervisor.is_none()
            && !run.identity().exists()
            && run.is_of_this_boot()?
            && self.work_folder(id).package().exists();
        let supervisor = if !adopt || never_started {
            durable::remove(&run.abandoned())?;
            match self.launcher.start(&run, &self.spec(assignment, server_ahead_ms)) {
                Ok(supervisor) => Some(supervisor),
                Err(error) => {
                    self.sweep(assignment).await;
                    let message = format!("the supervisor of the process could not be started: {error}");
                    return Ok(Box::new(report::not_started(id, CauseCode::LaunchFailed, &message)));
                }
            }
        } else {
            supervisor
        };
        let known_supervisor = supervisor.is_some();
        if let Some(mut supervisor) = supervisor {
            self.watch(&run, &mut supervisor, control).await?;
        }
        let Some(ended) = launcher::read_ended(&run)? else {
            tracing::warn!(attempt = %id, "the supervisor is gone without a word");
            self.sweep(assignment).await;
            let complaint = fs::read_to_string(run.complaints()).unwrap_or_default();
            if !complaint.is_empty() {
                tracing::warn!(attempt = %id, complaint, "the supervisor had said");
            }
            return Ok(Box::new(if known_supervisor && !run.identity().exists() {
                let why = if complaint.is_empty() { "see to the host's disk" } else { complaint.trim_end() };
                let message = format!("the supervisor could not begin, so the process was not started: {why}");
                report::not_started(id, CauseCode::LaunchFailed, &message)
            } else if known_supervisor {
                report::supervisor_killed(id)
            } else {
                report::lost(id, "the agent was restarted and found neither the process nor its result")
            }));
        };
        // A supervisor that has seen the end of all its children, orphans included, has left nothing behind.
        if ended.survivors > 0 {
            self.sweep(assignment).await;
        }
        let work = self.work_folder(id);
        let redactor = Redactor::new(secrets_of(assignment));
        Ok(Box::new(report::of_process(id, &ended, work.read_output(), work.read_error(), &redactor)))
    }

    /// Waits for the end of a supervisor and passes end requests on to it.
    async fn watch(&self, run: &RunFolder, supervisor: &mut L::Supervisor, control: &mut Control) -> io::Result<()> {
        // What the supervisor has not been told yet. A harder request takes the place of one that cannot be passed on.
        let mut asked: Option<EndRequest> = None;
        loop {
            if let Some(request) = &asked {
                match self.launcher.end(run, request) {
                    Ok(()) => asked = None,
                    Err(error) => {
                        tracing::error!(%error, "the supervisor cannot be told to end the job; it is tried again");
                    }
                }
            }
            tokio::select! {
                gone = supervisor.gone() => return gone,
                Some(request) = control.recv() => asked = Some(request),
                () = tokio::time::sleep(Duration::from_secs(1)), if asked.is_some() => {}
            }
        }
    }

    /// Ends what a supervisor has left. What nobody can end, as a process that waits for a broken disk, is said and does not
    /// keep the job from its end. Only while no supervisor writes.
    async fn sweep(&self, assignment: &Assignment) {
        let id = id_of(assignment);
        match self.launcher.sweep(id).await {
            Ok(0) => {}
            Ok(left) => tracing::warn!(attempt = %id, left, "processes that a supervisor had left were ended"),
            Err(error) => {
                tracing::error!(attempt = %id, %error, "the job is reported all the same");
                let line = format!("{error}; see to them on the robot's host");
                self.add_lines(assignment, Level::Error, &[line]);
            }
        }
    }

    /// Adds lines of the agent's own to the job's log. Only while no supervisor writes.
    fn add_lines(&self, assignment: &Assignment, level: Level, lines: &[String]) {
        let redactor = Redactor::new(secrets_of(assignment));
        let added = spool::Writer::open(&self.run_folder(id_of(assignment)).spool()).and_then(|mut spool| {
            for line in lines {
                spool.note(self.clock.now(), level, redactor.text(line))?;
            }
            spool.sync()
        });
        if let Err(error) = added {
            // Without the lines themselves: they may hold what is masked only on its way to the spool.
            tracing::error!(%error, "lines cannot be added to the job's log");
        }
    }

    async fn upload(&self, assignment: &Assignment) -> Vec<String> {
        let id = id_of(assignment);
        let redactor = Redactor::new(secrets_of(assignment));
        let found = match artifacts::find(&self.work_folder(id).artifacts(), &redactor) {
            Ok(found) => found,
            Err(error) => return vec![format!("the artifacts cannot be read and are not uploaded: {error}")],
        };
        let (mut refused, mut patience) = (found.refused, UPLOAD_PATIENCE);
        for artifact in found.artifacts {
            let name = &artifact.name;
            let sent = self.coordinator.until_answered_within(patience, "artifact", async || {
                // Opened again for each try: the one before has moved on in the file.
                let file = work_folder::open_plain(&artifact.file).and_then(|file| Ok((file.metadata()?.len(), file)));
                match file {
                    Ok((length, file)) => {
                        let file = tokio::fs::File::from_std(file);
                        self.coordinator.put_file(id, name, file, length).await.map(|()| None)
                    }
                    Err(error) => Ok(Some(error)),
                }
            });
            match sent.await {
                Ok(None) => {}
                Ok(Some(error)) => {
                    refused.push(format!("the artifact \"{name}\" cannot be read and is not uploaded: {error}"))
                }
                // The finish will hear the same.
                Err(error) if error.is_stale() => break,
                Err(CallError::Refused { problem }) => {
                    refused.push(format!("the artifact \"{name}\" was refused by the coordinator: {}", problem.detail));
                }
                Err(error) => {
                    refused.push(format!("the artifact \"{name}\" could not be uploaded and is given up: {error}"));
                    patience = NEXT_UPLOAD_PATIENCE;
                }
            }
        }
        refused
    }
}

impl<T: Transport, L: Launcher> JobRunner for ProcessRunner<T, L> {
    type Lines = SpoolLines;

    async fn prepare(&self, assignment: &Assignment) -> Result<(), Box<Finish>> {
        let tidied = self.locks.borrow().get(&id_of(assignment).to_string()).cloned();
        if let Some(tidied) = tidied {
            drop(tidied.lock().await);
        }
        let Err(unready) = self.get_ready(assignment).await else { return Ok(()) };
        let redactor = Redactor::new(secrets_of(assignment));
        let mut lines = unready.tail;
        lines.push(unready.message.clone());
        self.add_lines(assignment, Level::Error, &lines);
        Err(Box::new(report::not_started(id_of(assignment), unready.code, &redactor.text(&unready.message))))
    }

    async fn run(
        &self,
        assignment: &Assignment,
        adopt: bool,
        server_ahead_ms: i64,
        mut control: Control,
    ) -> Box<Finish> {
        let mut adopt = adopt;
        loop {
            match self.supervise(assignment, adopt, server_ahead_ms, &mut control).await {
                Ok(report) => return report,
                Err(error) => {
                    // A job is never given up as long as its processes may be there.
                    tracing::error!(attempt = %id_of(assignment), %error, "the job cannot be watched; it is tried again");
                    adopt = true;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn deliver(&self, assignment: &Assignment) {
        let id = id_of(assignment);
        let outcome = match launcher::read_ended(&self.run_folder(id)) {
            Ok(Some(ended)) if ended.code == Some(0) => "succeeded",
            _ => "failed",
        };
        let mut lines = Vec::new();
        if self.work_folder(id).0.exists() {
            if let Err((why, tail)) =
                self.hook("after_job", &self.settings.hooks.after_job, assignment, Some(outcome)).await
            {
                lines.extend(tail);
                lines.push(format!("the host's after_job hook {why}"));
            }
            lines.extend(self.upload(assignment).await);
        }
        if !lines.is_empty() {
            self.add_lines(assignment, Level::Warning, &lines);
        }
    }

    async fn abandon(&self, id: AttemptId) {
        let run = self.run_folder(id);
        let cause = drover_protocol::job::Cause {
            by: "agent".to_owned(),
            code: CauseCode::AgentRestarted,
            message: "the attempt was given up".to_owned(),
        };
        let request = EndRequest { mode: EndMode::Hard, cause };
        loop {
            let done = async {
                if let Found::Alive(mut supervisor) = self.launcher.find(&run)? {
                    self.launcher.end(&run, &request)?;
                    supervisor.gone().await?;
                }
                self.launcher.sweep(id).await
            };
            match done.await {
                Ok(_) => return,
                Err(error) => {
                    tracing::error!(attempt = %id, %error, "a job that was given up cannot be ended; it is tried again")
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn lines(&self, id: AttemptId) -> SpoolLines {
        SpoolLines { reader: Rc::new(RefCell::new(spool::Reader::new(&self.run_folder(id).spool()))) }
    }

    async fn discard(&self, id: AttemptId) {
        let (run, work) = (self.run_folder(id), self.work_folder(id));
        let removed = tokio::task::spawn_blocking(move || {
            work.remove()?;
            WorkFolder(run.0).remove()
        });
        if let Ok(Err(error)) = removed.await {
            tracing::warn!(attempt = %id, %error, "the files of a job cannot be removed; it is tried again at the next start");
        }
    }

    async fn tidy(&self, known: &[AttemptId]) {
        let folders = [self.settings.state_dir.join("runs"), self.settings.work_folder().join("jobs")];
        let mut found = HashSet::new();
        for folder in folders {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                found.extend(entry.file_name().to_str().and_then(|name| name.parse::<AttemptId>().ok()));
            }
        }
        // All at once: one that cannot be ended keeps none of the others.
        let tidied = found.into_iter().filter(|id| !known.contains(id)).map(async |id| {
            let lock = self.lock(&id.to_string());
            let _not_prepared = lock.lock().await;
            tracing::info!(attempt = %id, "removing what is left of a job that is over");
            self.abandon(id).await;
            self.discard(id).await;
            self.locks.borrow_mut().remove(&id.to_string());
        });
        futures::future::join_all(tidied).await;
    }
}

/// The lines of a spool.
pub struct SpoolLines {
    reader: Rc<RefCell<spool::Reader>>,
}

impl LineSource for SpoolLines {
    async fn read(&mut self, from_seq: u64, max_lines: usize, max_bytes: usize) -> io::Result<Vec<Record>> {
        Ok(self.reader.borrow_mut().read(from_seq, max_lines, max_bytes)?.records)
    }

    async fn changed(&mut self) {
        tokio::time::sleep(LOOK_EVERY).await;
    }

    fn acknowledge(&mut self, seq: u64) -> io::Result<()> {
        self.reader.borrow_mut().cut(seq)
    }
}

fn id_of(assignment: &Assignment) -> AttemptId {
    AttemptId { job_id: assignment.job.id, attempt: assignment.attempt }
}

fn secrets_of(assignment: &Assignment) -> Vec<String> {
    let mut secrets = assignment.secrets_to_mask.clone();
    secrets.push(assignment.key.clone());
    secrets
}
