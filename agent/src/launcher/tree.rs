//! Processes as Linux shows them in `/proc`: who descends from whom, who carries what in its environment.

use std::{collections::HashMap, fs, io};

use super::Identity;

/// What `/proc/<pid>/stat` says.
struct Stat {
    parent: u32,
    state: u8,
    start_time: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, also parentheses and spaces.
    let after_name = text.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(text.get(after_name + 2..)?).ok()?;
    let fields: Vec<&str> = rest.split(' ').collect();
    Some(Stat {
        state: *fields.first()?.as_bytes().first()?,
        parent: fields.get(1)?.parse().ok()?,
        start_time: fields.get(19)?.parse().ok()?,
    })
}

fn all_pids() -> io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        pids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(pids)
}

/// All living processes below `root`, without itself. Zombies are left out: they only wait to be collected.
pub fn descendants(root: u32) -> io::Result<Vec<u32>> {
    let mut children: HashMap<u32, Vec<(u32, bool)>> = HashMap::new();
    for pid in all_pids()? {
        if let Some(stat) = stat(pid) {
            children.entry(stat.parent).or_default().push((pid, stat.state != b'Z' && stat.state != b'X'));
        }
    }
    let (mut found, mut open) = (Vec::new(), vec![root]);
    while let Some(parent) = open.pop() {
        for (pid, alive) in children.remove(&parent).unwrap_or_default() {
            open.push(pid);
            if alive {
                found.push(pid);
            }
        }
    }
    Ok(found)
}

/// All living processes that carry all these variables, each as `NAME=value`, in their environment.
pub fn carriers(variables: &[String]) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for pid in all_pids()? {
        let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { continue };
        let has = |wanted: &str| environment.split(|&byte| byte == 0).any(|entry| entry == wanted.as_bytes());
        if variables.iter().all(|wanted| has(wanted))
            && stat(pid).is_some_and(|stat| stat.state != b'Z' && stat.state != b'X')
        {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Who the process with this id is; `None` if there is none.
pub fn identity(pid: u32) -> Option<Identity> {
    Some(Identity { pid, start_time: stat(pid)?.start_time, boot_id: boot_id().ok()? })
}

/// Names this run of the host's kernel: after a power cut there is another one.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// How often the kernel has ended a process for lack of memory since the host's start; 0 where it does not say.
pub fn out_of_memory_kills() -> u64 {
    let counters = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let line = counters.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// Sends a signal; a process that is gone already is no error.
pub fn signal(pid: u32, signal: i32) -> io::Result<()> {
    let Ok(pid) = i32::try_from(pid) else { return Err(io::ErrorKind::InvalidInput.into()) };
    // SAFETY: kill takes no pointers; `pid` is positive, so that it names one process only.
    if unsafe { libc::kill(pid, signal) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) }
}
