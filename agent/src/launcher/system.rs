//! The supervisor's calls of the operating system: signals, the moment between fork and exec, waiting, accounting.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
    time::Duration,
};

use drover_protocol::job::Usage;

use super::{Account, Limits};

/// Makes the signals that matter here readable as a file.
pub(super) fn block_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before use; the descriptor is new and owned by nobody else.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGCHLD, libc::SIGUSR1, libc::SIGTERM, libc::SIGINT] {
            libc::sigaddset(&raw mut set, signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// What this process and all it has collected used.
pub(super) fn usage() -> Usage {
    // SAFETY: an all-zero rusage is valid and only written by the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        if libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) != 0 {
            return Usage::default();
        }
        usage
    };
    let ms = |time: libc::timeval| {
        u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + u64::try_from(time.tv_usec).unwrap_or(0) / 1000
    };
    Usage {
        peak_memory_bytes: u64::try_from(usage.ru_maxrss).ok().map(|kibibytes| kibibytes * 1024),
        cpu_time_ms: Some(ms(usage.ru_utime) + ms(usage.ru_stime)),
    }
}

/// Runs in the child between fork and exec: only async-signal-safe calls, no allocation.
pub(super) fn prepare_child(supervisor: u32, account: Option<&Account>, limits: Limits) -> io::Result<()> {
    // SAFETY: all calls are async-signal-safe; pointers are to live values of the right type.
    unsafe {
        if libc::setsid() < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::signal(libc::SIGHUP, libc::SIG_DFL);
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        set_limit(libc::RLIMIT_AS, limits.memory_bytes)?;
        set_limit(libc::RLIMIT_NOFILE, limits.open_files)?;
    }
    if let Some(account) = account {
        become_account(account)?;
    }
    // After the change of the account, which would clear it: when the supervisor is killed, so is the command.
    end_with(supervisor)
}

/// Runs in the child between fork and exec, as [`prepare_child`].
pub(super) fn become_account(account: &Account) -> io::Result<()> {
    // SAFETY: all calls are async-signal-safe; the pointer and the count are those of a live vector.
    let done = unsafe {
        libc::setgroups(account.groups.len(), account.groups.as_ptr()) == 0
            && libc::setgid(account.gid) == 0
            && libc::setuid(account.uid) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs in the child between fork and exec, as [`prepare_child`]: when the parent is killed, so is the child.
pub(super) fn end_with(parent: u32) -> io::Result<()> {
    // SAFETY: all calls are async-signal-safe and take no pointers.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return Err(io::Error::last_os_error());
        }
        if u32::try_from(libc::getppid()) != Ok(parent) {
            libc::_exit(125);
        }
    }
    Ok(())
}

/// # Safety
/// Only to be called where an async-signal-safe call may be made.
unsafe fn set_limit(resource: libc::__rlimit_resource_t, limit: u64) -> io::Result<()> {
    if limit == 0 {
        return Ok(());
    }
    let value = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: the pointer is to a live value.
    if unsafe { libc::setrlimit(resource, &raw const value) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Waits until one of the descriptors is readable (or at its end); tells which.
pub(super) fn poll(descriptors: &[RawFd], wait: Duration) -> io::Result<Vec<bool>> {
    let mut polled: Vec<libc::pollfd> =
        descriptors.iter().map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    let count = libc::nfds_t::try_from(polled.len()).map_err(io::Error::other)?;
    let wait_ms = libc::c_int::try_from(wait.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: the pointer and the count are those of a live vector.
    if unsafe { libc::poll(polled.as_mut_ptr(), count, wait_ms) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        return Ok(vec![false; descriptors.len()]);
    }
    Ok(polled.into_iter().map(|polled| polled.revents != 0).collect())
}
