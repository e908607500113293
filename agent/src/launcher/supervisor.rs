//! The supervisor: `drover-agent supervise <run folder>`, one small single-threaded process per job.
//!
//! It starts the command in a session of its own, writes its output to the spool, keeps its time limits, and ends its
//! whole tree: as *child subreaper* it inherits every orphan, so that a process that forks twice to get away is still
//! its child. It is done when the kernel says that it has no child left.

use std::{
    collections::BTreeSet,
    fmt::Display,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use drover_protocol::{
    job::{Cause, CauseCode, Usage},
    log::Level,
};
use rustix::fs::{FlockOperation, flock};

use super::{
    EndMode, EndRequest, Ended, Interference, RunFolder, Spec,
    outputs::Outputs,
    read_json,
    system::{block_signals, poll, prepare_child, usage},
    tree,
};
use crate::{clock::wall_clock, durable, output::Origin, spool};

/// How often control file and room in the spool are looked at without being nudged.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_FOR_ROOM_EVERY: Duration = Duration::from_millis(100);
/// Left-over processes get this long after SIGTERM.
const LEFTOVER_WAIT: Duration = Duration::from_millis(500);
/// A tree that cannot be emptied in this time holds processes that may not be signalled; that is reported.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);

/// Runs the job of a run folder to its end. An error means that nothing was started or that the end could not be
/// written down; the agent sees that the supervisor is gone and cleans up.
pub fn supervise(folder: &Path) -> io::Result<()> {
    let run = RunFolder(folder.to_owned());
    // SAFETY: neither call takes pointers. The agent's terminal and its signals are none of the job's business.
    unsafe {
        libc::setsid();
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
    }
    let lock = File::options().read(true).write(true).create(true).truncate(false).open(run.lock())?;
    flock(&lock, FlockOperation::LockExclusive)?;
    // Whoever was here before has started the command, or the agent has given it up: never twice.
    if run.abandoned().exists() || run.identity().exists() || run.ended().exists() {
        return Ok(());
    }
    let signals = block_signals()?;
    // SAFETY: takes no pointers. Orphans of the tree become children of this process.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let spec: Spec = read_json(&run.spec())?.ok_or(io::ErrorKind::NotFound)?;
    let spool = spool::Writer::open(&run.spool())?;
    // The last thing before the start: without it the agent knows that nothing was started.
    let own = tree::identity(std::process::id()).ok_or_else(|| io::Error::other("/proc is not readable"))?;
    durable::replace(&run.identity(), &serde_json::to_vec(&own)?)?;
    let ended = serde_json::to_vec(&Supervision::new(run.clone(), spec, spool, signals).run()?)?;
    until_there_is_room(|| durable::write(&run.ended(), &ended))?;
    // The run folder was made without flushing.
    run.0.parent().map_or(Ok(()), durable::sync_folder)
}

/// Does what must not be given up only because the disk is full just now.
pub(super) fn until_there_is_room(mut write: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match write() {
            Err(error) if durable::is_full(&error) => std::thread::sleep(LOOK_FOR_ROOM_EVERY),
            done => return done,
        }
    }
}

/// Says it in the supervisor's own log, which may lie on a full disk: that is no reason to fail.
pub(super) fn complain(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// How far the ending of the process is.
enum Stage {
    Running,
    /// SIGINT was sent; force at this time.
    Asked(Instant),
    /// SIGTERM was sent; kill at this time.
    Terminated(Instant),
    /// SIGKILL is sent, from this time on, until nothing is left.
    Killing(Instant),
}

struct Supervision {
    run: RunFolder,
    spec: Spec,
    outputs: Outputs,
    signals: File,
    started: Instant,
    stage: Stage,
    interference: Interference,
    /// Process id, and so the process group, of the command.
    main_pid: u32,
    main: Option<ExitStatus>,
    looked: Instant,
    /// Processes of which was said that they cannot be signalled.
    complained: BTreeSet<u32>,
}

impl Supervision {
    fn new(run: RunFolder, spec: Spec, spool: spool::Writer, signals: OwnedFd) -> Self {
        let now = Instant::now();
        Self {
            run,
            outputs: Outputs::new(&spec, spool),
            spec,
            signals: signals.into(),
            started: now,
            stage: Stage::Running,
            interference: Interference::None,
            main_pid: 0,
            main: None,
            looked: now,
            complained: BTreeSet::new(),
        }
    }

    fn run(mut self) -> io::Result<Ended> {
        let memory_kills = tree::out_of_memory_kills();
        match self.launch() {
            Ok(child) => self.main_pid = child.id(),
            Err(error) => return self.not_launched(&error),
        }
        self.look_at_control()?;
        while self.main.is_none() && !self.is_hopeless() {
            self.wait_for_something()?;
            self.collect()?;
            self.keep_deadlines()?;
        }
        // A process that ended by itself takes what it left behind with it; else the tree is being ended already.
        let leftovers = self.clear_leftovers()?;
        let survivors = self.kill_all()?;
        self.outputs.read_rest();
        if leftovers > 0 && self.interference == Interference::None {
            let text = format!("the process ended and left {leftovers} others behind; they were ended as well");
            self.outputs.say(Level::Warning, text);
        }
        if survivors > 0 {
            let text = format!("{survivors} processes of the job could not be ended; see to them on the robot's host");
            self.outputs.say(Level::Error, text);
        }
        self.outputs.close()?;
        Ok(Ended {
            at: wall_clock(),
            launch_error: None,
            code: self.main.and_then(|status| status.code()),
            signal: self.main.and_then(|status| status.signal()),
            out_of_memory: tree::out_of_memory_kills() > memory_kills,
            interference: self.interference,
            usage: usage(),
            leftovers,
            survivors,
        })
    }

    fn launch(&mut self) -> io::Result<Child> {
        let (program, arguments) =
            self.spec.command.split_first().ok_or_else(|| io::Error::other("the command is empty"))?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(&self.spec.folder)
            .env_clear()
            .envs(self.spec.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let (supervisor, account, limits) = (std::process::id(), self.spec.account.clone(), self.spec.limits);
        // SAFETY: between fork and exec only async-signal-safe calls are made and nothing is allocated.
        unsafe {
            command.pre_exec(move || prepare_child(supervisor, account.as_ref(), limits));
        }
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().map(OwnedFd::from).map(|fd| (fd, Origin::Stdout));
        let stderr = child.stderr.take().map(OwnedFd::from).map(|fd| (fd, Origin::Stderr));
        for (fd, origin) in stdout.into_iter().chain(stderr) {
            self.outputs.add(fd, origin)?;
        }
        Ok(child)
    }

    fn not_launched(mut self, error: &io::Error) -> io::Result<Ended> {
        // Words, not the number alone; the command's name helps most.
        let text =
            format!("\"{}\" could not be started: {error}", self.spec.command.first().map_or("", String::as_str));
        let text = self.outputs.masked(&text);
        self.outputs.say(Level::Error, text.clone());
        self.outputs.close()?;
        Ok(Ended {
            at: wall_clock(),
            launch_error: Some(text),
            code: None,
            signal: None,
            out_of_memory: false,
            interference: Interference::None,
            usage: Usage::default(),
            leftovers: 0,
            survivors: 0,
        })
    }

    /// Sleeps until a signal, output, or the next deadline, and reads what there is.
    fn wait_for_something(&mut self) -> io::Result<()> {
        let full = !self.outputs.have_room();
        let mut wait = LOOK_EVERY;
        if full && self.outputs.is_any_open() {
            wait = LOOK_FOR_ROOM_EVERY;
        }
        if let Some(deadline) = self.next_deadline() {
            wait = wait.min(deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        }
        let mut polled = vec![self.signals.as_raw_fd()];
        let readable = if full { Vec::new() } else { self.outputs.open() };
        polled.extend(readable.iter().map(|(_, pipe)| pipe));
        let ready = poll(&polled, wait)?;
        for ((at, _), _) in readable.iter().zip(&ready[1..]).filter(|(_, ready)| **ready) {
            self.outputs.read(*at);
        }
        if ready[0] || self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Instant::now();
            self.take_signals()?;
            self.look_at_control()?;
        }
        Ok(())
    }

    fn take_signals(&mut self) -> io::Result<()> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        while let Ok(count) = self.signals.read(&mut info) {
            if count < info.len() {
                break;
            }
            let [a, b, c, d, ..] = info;
            let signal = i32::try_from(u32::from_ne_bytes([a, b, c, d])).unwrap_or(0);
            if signal == libc::SIGTERM || signal == libc::SIGINT {
                self.begin_hard_end(Interference::SupervisorEnded)?;
            }
        }
        Ok(())
    }

    fn look_at_control(&mut self) -> io::Result<()> {
        match read_json::<EndRequest>(&self.run.control()) {
            Ok(Some(request)) => self.end(request),
            Ok(None) => Ok(()),
            Err(error) => {
                complain(format_args!("the control file cannot be read: {error}"));
                Ok(())
            }
        }
    }

    fn end(&mut self, request: EndRequest) -> io::Result<()> {
        match request.mode {
            EndMode::Soft => self.begin_soft_end(request.cause),
            EndMode::Hard => self.begin_hard_end(Interference::Aborted(request.cause)),
        }
    }

    /// The stop file appears and the process group gets SIGINT. Does nothing if an end was asked before.
    fn begin_soft_end(&mut self, cause: Cause) -> io::Result<()> {
        if self.interference != Interference::None {
            return Ok(());
        }
        self.interference = Interference::Stopped(cause);
        self.stage = Stage::Asked(Instant::now() + Duration::from_millis(self.spec.stop_grace_ms));
        // The folder is the job's. Only what is not there is opened: a pipe would hold the supervisor, and a link might lead
        // to somebody else's file.
        match File::create_new(&self.spec.stop_file) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                complain(format_args!("the stop file cannot be made: {error}"));
            }
            _ => {}
        }
        // SAFETY: takes no pointers. The command leads a group of its own, which exists until it has been collected.
        unsafe {
            libc::kill(-libc::pid_t::try_from(self.main_pid).unwrap_or(0), libc::SIGINT);
        }
        Ok(())
    }

    fn begin_hard_end(&mut self, interference: Interference) -> io::Result<()> {
        if matches!(self.stage, Stage::Killing(_)) {
            return Ok(());
        }
        if matches!(self.interference, Interference::None | Interference::Stopped(_)) {
            self.interference = interference;
        }
        self.stage = Stage::Killing(Instant::now());
        Ok(())
    }

    /// True if the tree was killed for so long in vain that it must be told without its end: the kernel lets nobody end a
    /// process that waits for a broken disk.
    fn is_hopeless(&self) -> bool {
        matches!(self.stage, Stage::Killing(since) if since.elapsed() >= GIVE_UP_AFTER)
    }

    fn next_deadline(&self) -> Option<Instant> {
        // A timeout that has done its work is not waited for.
        let mut deadlines = vec![self.timeout().filter(|_| matches!(self.stage, Stage::Running | Stage::Asked(_)))];
        deadlines.push(match self.stage {
            Stage::Running => None,
            Stage::Asked(at) | Stage::Terminated(at) => Some(at),
            Stage::Killing(_) => Some(Instant::now() + Duration::from_millis(10)),
        });
        let now = Instant::now();
        for limit_ms in [self.spec.stop_in_ms, self.spec.abort_in_ms] {
            deadlines.push(self.limit(limit_ms).filter(|at| *at > now));
        }
        deadlines.into_iter().flatten().min()
    }

    fn timeout(&self) -> Option<Instant> {
        self.limit(self.spec.timeout_ms)
    }

    /// So long after the start. A limit beyond what the clock can count is no limit.
    fn limit(&self, limit_ms: Option<u64>) -> Option<Instant> {
        self.started.checked_add(Duration::from_millis(limit_ms?))
    }

    fn keep_deadlines(&mut self) -> io::Result<()> {
        if self.main.is_some() {
            return Ok(());
        }
        let now = Instant::now();
        let passed = |limit_ms| self.limit(limit_ms).is_some_and(|at| at <= now);
        let (stop, abort) = (passed(self.spec.stop_in_ms), passed(self.spec.abort_in_ms));
        if stop {
            self.begin_soft_end(agent_cause(CauseCode::StopAfter, "the job's stop_after has come"))?;
        }
        if abort {
            let cause = agent_cause(CauseCode::AbortAfter, "the job's abort_after has come");
            self.begin_hard_end(Interference::Aborted(cause))?;
        }
        if self.timeout().is_some_and(|at| at <= now) && matches!(self.stage, Stage::Running | Stage::Asked(_)) {
            self.interference = Interference::TimedOut;
            self.terminate()?;
        }
        match self.stage {
            Stage::Asked(at) if at <= now => {
                if let Interference::Stopped(cause) = &self.interference {
                    self.interference = Interference::StopForced(cause.clone());
                }
                self.terminate()
            }
            Stage::Terminated(at) if at <= now => {
                self.stage = Stage::Killing(now);
                self.signal_tree(libc::SIGKILL)
            }
            Stage::Killing(_) => self.signal_tree(libc::SIGKILL),
            Stage::Running | Stage::Asked(_) | Stage::Terminated(_) => Ok(()),
        }
    }

    fn terminate(&mut self) -> io::Result<()> {
        self.stage = Stage::Terminated(Instant::now() + Duration::from_millis(self.spec.kill_wait_ms));
        self.signal_tree(libc::SIGTERM)
    }

    fn signal_tree(&mut self, signal: i32) -> io::Result<()> {
        for pid in tree::descendants(std::process::id())? {
            if let Err(error) = tree::signal(pid, signal)
                && self.complained.insert(pid)
            {
                complain(format_args!("process {pid} cannot be signalled: {error}"));
            }
        }
        Ok(())
    }

    /// Collects every child that has ended; returns false when there is none left at all.
    fn collect(&mut self) -> io::Result<bool> {
        loop {
            let mut status = 0;
            // SAFETY: `status` is valid for writing.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            match pid {
                0 => return Ok(true),
                -1 => {
                    let error = io::Error::last_os_error();
                    match error.raw_os_error() {
                        Some(libc::ECHILD) => return Ok(false),
                        Some(libc::EINTR) => {}
                        _ => return Err(error),
                    }
                }
                pid if u32::try_from(pid) == Ok(self.main_pid) => self.main = Some(ExitStatus::from_raw(status)),
                _ => {}
            }
        }
    }

    /// Ends what the main process has left behind, at first politely; returns how many there were.
    fn clear_leftovers(&mut self) -> io::Result<u32> {
        if !self.collect()? {
            return Ok(0);
        }
        let left = tree::descendants(std::process::id())?.len();
        if left == 0 || !matches!(self.stage, Stage::Running) {
            return Ok(u32::try_from(left).unwrap_or(u32::MAX));
        }
        self.signal_tree(libc::SIGTERM)?;
        let until = Instant::now() + LEFTOVER_WAIT;
        while self.collect()? && Instant::now() < until {
            self.outputs.read_available();
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(u32::try_from(left).unwrap_or(u32::MAX))
    }

    /// Kills until the kernel says that no child is left; returns how many could not be ended.
    fn kill_all(&mut self) -> io::Result<u32> {
        let since = if let Stage::Killing(since) = self.stage { since } else { Instant::now() };
        let until = since + GIVE_UP_AFTER;
        while self.collect()? {
            if Instant::now() >= until {
                return Ok(u32::try_from(tree::descendants(std::process::id())?.len()).unwrap_or(u32::MAX));
            }
            self.signal_tree(libc::SIGKILL)?;
            self.outputs.read_available();
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(0)
    }
}

fn agent_cause(code: CauseCode, message: &str) -> Cause {
    Cause { by: "agent".to_owned(), code, message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launcher::Limits;

    fn supervision(folder: &Path, timeout_ms: Option<u64>) -> Supervision {
        let run = RunFolder(folder.to_owned());
        let spec = Spec {
            id: "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f-1".parse().expect("an id"),
            command: Vec::new(),
            folder: folder.to_owned(),
            environment: Vec::new(),
            stop_file: folder.join("stop"),
            secrets: Vec::new(),
            log_level: Level::Info,
            timeout_ms,
            stop_in_ms: None,
            abort_in_ms: None,
            stop_grace_ms: 0,
            kill_wait_ms: 0,
            spool_limit_bytes: 0,
            account: None,
            limits: Limits::default(),
        };
        let spool = spool::Writer::open(&run.spool()).expect("a spool");
        let signals = File::open("/dev/null").expect("a file");
        Supervision::new(run, spec, spool, signals.into())
    }

    /// A timeout that was kept does not keep the supervisor busy while the process uses its time to end.
    #[test]
    fn a_timeout_is_waited_for_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut supervision = supervision(folder.path(), Some(0));
        assert!(supervision.next_deadline().is_some_and(|at| at <= Instant::now()));
        let ends = Instant::now() + Duration::from_secs(60);
        supervision.stage = Stage::Terminated(ends);
        assert_eq!(supervision.next_deadline(), Some(ends));
    }

    /// What SIGKILL does not end is given up after a while, and not before.
    #[test]
    fn killing_is_given_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut supervision = supervision(folder.path(), None);
        assert!(!supervision.is_hopeless());
        for (since, hopeless) in [(GIVE_UP_AFTER, true), (GIVE_UP_AFTER / 2, false)] {
            supervision.stage = Stage::Killing(Instant::now().checked_sub(since).expect("the host runs for longer"));
            assert_eq!(supervision.is_hopeless(), hopeless, "{since:?}");
        }
    }
}
