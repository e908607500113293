//! The agent's side of supervision on Linux: starting a supervisor, finding one again, telling it to end, and ending what
//! a supervisor that was killed has left.

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, chownat, flock, openat, statat},
    process::{Gid, Pid, PidfdFlags, Uid, getegid, geteuid, pidfd_open},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    Account, EndMode, EndRequest, Found, Identity, Launcher, RunFolder, SUPERVISE, Spec, Supervisor, read_json,
    system::{become_account, end_with},
    tree,
};
use crate::{attempt::AttemptId, durable};

/// Starts supervisors as `drover-agent supervise <run folder>`.
#[derive(Clone, Debug)]
pub struct UnixLauncher {
    program: PathBuf,
}

impl UnixLauncher {
    /// `program` is the agent's own executable.
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// Fails if this host does not tell the agent when a process ends: better said at the start than with each job. Needs a
    /// tokio runtime.
    pub fn check() -> io::Result<()> {
        UnixSupervisor::watch(std::process::id()).map(drop)
    }
}

/// A supervisor, watched through a file descriptor of the process.
pub struct UnixSupervisor {
    pidfd: AsyncFd<OwnedFd>,
    /// Set if this agent started it and so has to collect it.
    child: Option<Child>,
}

impl UnixSupervisor {
    fn watch(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self { pidfd: registered(pidfd)?, child: None })
    }
}

fn registered(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor stays open and the same one for as long as it is registered.
    unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }.map_err(io::Error::from)
}

impl Supervisor for UnixSupervisor {
    async fn gone(&mut self) -> io::Result<()> {
        self.pidfd.readable().await?.retain_ready();
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for UnixSupervisor {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Collects it if it has ended meanwhile; a living one goes on by itself.
            let _ = child.try_wait();
        }
    }
}

impl Launcher for UnixLauncher {
    type Supervisor = UnixSupervisor;

    fn start(&self, run: &RunFolder, spec: &Spec) -> io::Result<UnixSupervisor> {
        durable::replace(&run.spec(), &serde_json::to_vec(spec)?)?;
        let complaints = OpenOptions::new().append(true).create(true).mode(0o600).open(run.complaints())?;
        let mut child = Command::new(&self.program)
            .arg(SUPERVISE)
            .arg(&run.0)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(complaints)
            .spawn()?;
        match UnixSupervisor::watch(child.id()) {
            Ok(mut supervisor) => {
                supervisor.child = Some(child);
                Ok(supervisor)
            }
            Err(error) => {
                // Nobody would see it end: it must not go on with what is reported as not started.
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    fn find(&self, run: &RunFolder) -> io::Result<Found<UnixSupervisor>> {
        let lock = match File::options().read(true).write(true).create(true).truncate(false).open(run.lock()) {
            Ok(lock) => lock,
            // Without a run folder no supervisor can start.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Gone),
            Err(error) => return Err(error),
        };
        for _ in 0..200 {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    // Marked while the lock is ours: a supervisor that comes late sees it.
                    durable::write(&run.abandoned(), b"")?;
                    return Ok(Found::Gone);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(supervisor) = living(run)? {
                return Ok(Found::Alive(supervisor));
            }
            // It holds the lock and is just about to write its identity, or just about to be gone.
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(io::Error::other("the supervisor holds its lock but does not say who it is"))
    }

    fn end(&self, run: &RunFolder, request: &EndRequest) -> io::Result<()> {
        let written = durable::write(&run.control(), &serde_json::to_vec(request)?);
        let identity = read_json::<Identity>(&run.identity())?;
        let Some(alive) = identity.filter(|identity| tree::identity(identity.pid).as_ref() == Some(identity)) else {
            return written;
        };
        if written.is_err() && request.mode == EndMode::Hard {
            // An abort needs no room on the disk: it ends the tree all the same, only without the reason why.
            return tree::signal(alive.pid, libc::SIGTERM);
        }
        written?;
        // Only a nudge: the supervisor also looks by itself once a second.
        tree::signal(alive.pid, libc::SIGUSR1)
    }

    async fn sweep(&self, id: AttemptId) -> io::Result<u32> {
        end_carriers(&[format!("DROVER_JOB_ID={}", id.job_id), format!("DROVER_ATTEMPT={}", id.attempt)]).await
    }
}

/// Ends every process that carries all these variables, each as `NAME=value`, in its environment; returns how many there were.
pub async fn end_carriers(variables: &[String]) -> io::Result<u32> {
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..500 {
        let carriers = tree::carriers(variables)?;
        if carriers.is_empty() {
            return Ok(u32::try_from(seen.len()).unwrap_or(u32::MAX));
        }
        for pid in carriers {
            let is_new = seen.insert(pid);
            if let Err(error) = tree::signal(pid, libc::SIGKILL)
                && is_new
            {
                tracing::warn!(pid, %error, "a left-over process cannot be ended");
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(io::Error::other(format!("processes with {} could not be ended", variables.join(" "))))
}

fn living(run: &RunFolder) -> io::Result<Option<UnixSupervisor>> {
    let Some(identity) = read_json::<Identity>(&run.identity())? else { return Ok(None) };
    let supervisor = match UnixSupervisor::watch(identity.pid) {
        Ok(supervisor) => supervisor,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    // Compared after the descriptor was opened: from here on it cannot become another process.
    Ok((tree::identity(identity.pid).as_ref() == Some(&identity)).then_some(supervisor))
}

/// Looks up the account that processes are to run as.
pub fn process_account(name: &str) -> io::Result<Account> {
    let c_name = CString::new(name).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: an all-zero passwd is valid; it is only written by getpwnam_r.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut buffer = vec![0 as libc::c_char; 16 * 1024];
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are valid for the call, and the length is that of the buffer.
    let code =
        unsafe { libc::getpwnam_r(c_name.as_ptr(), &raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found) };
    if code != 0 {
        return Err(io::Error::from_raw_os_error(code));
    }
    if found.is_null() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no account \"{name}\" on this host")));
    }
    let mut groups: Vec<libc::gid_t> = vec![0; 256];
    let mut count = 256;
    // SAFETY: `count` is the capacity of `groups`; the name is a C string.
    if unsafe { libc::getgrouplist(c_name.as_ptr(), entry.pw_gid, groups.as_mut_ptr(), &raw mut count) } < 0 {
        return Err(io::Error::other(format!("the account \"{name}\" is in more than 256 groups")));
    }
    groups.truncate(usize::try_from(count).unwrap_or(0));
    // SAFETY: getpwnam_r has set it to a C string inside of `buffer`.
    let home = unsafe { std::ffi::CStr::from_ptr(entry.pw_dir) }.to_string_lossy().into_owned();
    Ok(Account { name: name.to_owned(), uid: entry.pw_uid, gid: entry.pw_gid, groups, home })
}

/// Gives a folder and all in it to an account.
pub fn give_to(path: &Path, account: &Account) -> io::Result<()> {
    give_all(path, account.uid, account.gid)
}

/// Makes a folder and all in it the agent's own again.
pub fn take_back(path: &Path) -> io::Result<()> {
    give_all(path, geteuid().as_raw(), getegid().as_raw())
}

fn give_all(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid))?;
    give_entries(&File::options().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path)?, uid, gid)
}

/// By descriptors, not by paths: whoever owns it until now may put links in place of folders meanwhile.
fn give_entries(folder: &impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if [c".", c".."].contains(&name) {
            continue;
        }
        chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| FileType::from_raw_mode(stat.st_mode))?
            == FileType::Directory
        {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            give_entries(&openat(folder, name, flags, Mode::empty())?, uid.as_raw(), gid.as_raw())?;
        }
    }
    Ok(())
}

/// Has a program run as an account.
pub fn run_as(command: &mut tokio::process::Command, account: &Account) {
    let account = account.clone();
    // SAFETY: between fork and exec only async-signal-safe calls are made and nothing is allocated.
    unsafe {
        command.pre_exec(move || become_account(&account));
    }
}

/// Has a program be killed when the agent is. Comes after [`run_as`], which would undo it; the program must be started by the
/// agent's main thread, whose end is what counts.
pub fn end_with_agent(command: &mut tokio::process::Command) {
    let agent = std::process::id();
    // SAFETY: between fork and exec only async-signal-safe calls are made and nothing is allocated.
    unsafe {
        command.pre_exec(move || end_with(agent));
    }
}

/// Makes a folder that others may pass through but not list.
pub fn allow_passage(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o711))
}
