//! The real programs as child processes, on folders of their own, and what they cost: CPU time and memory.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

/// The administrator's key of every coordinator that is started here.
pub const KEY: &str = "OTFiMmE3YzQtN2QzZS00ZjVhLThiNmMtMWQyZTNmNGE1YjZj";

const PATIENCE: Duration = Duration::from_secs(120);

/// A child process. It is killed when this goes out of scope.
#[derive(Debug)]
pub struct Program {
    child: Child,
    name: &'static str,
}

/// Where the built programs lie: beside this one.
pub fn built(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if !path.is_file() {
        bail!("{} is missing; `make bench` builds it", path.display());
    }
    Ok(path)
}

impl Program {
    fn spawn(name: &'static str, command: &mut Command) -> anyhow::Result<Self> {
        // Whatever ends this program, nothing of it is left behind.
        // SAFETY: between fork and exec only an async-signal-safe call is made.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let child = command.stdin(Stdio::null()).spawn().with_context(|| format!("{name} cannot be started"))?;
        Ok(Self { child, name })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, and waits for that.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id())?;
        // SAFETY: takes no pointers; the process is our child and has not been waited for.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                return if status.success() { Ok(()) } else { bail!("{} ended with {status}", self.name) };
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("{} does not end when asked", self.name)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time, user and system, that a process has used so far.
pub fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both pointers are to live values of the right type.
    let read = unsafe {
        libc::clock_getcpuclockid(libc::pid_t::try_from(pid)?, &raw mut clock) == 0
            && libc::clock_gettime(clock, &raw mut time) == 0
    };
    if !read {
        bail!("the CPU time of process {pid} cannot be read");
    }
    Ok(Duration::new(u64::try_from(time.tv_sec)?, u32::try_from(time.tv_nsec)?))
}

/// CPU time of this process: of the load generator.
pub fn own_cpu_time() -> anyhow::Result<Duration> {
    cpu_time(std::process::id())
}

/// Memory that a process holds, in MB.
pub fn resident_mb(pid: u32) -> anyhow::Result<f64> {
    memory_mb(pid, "VmRSS:")
}

/// The most memory that a process has held so far, in MB.
pub fn peak_mb(pid: u32) -> anyhow::Result<f64> {
    memory_mb(pid, "VmHWM:")
}

fn memory_mb(pid: u32, name: &str) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("the kernel does not tell")?;
    let kibibytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes * 1024.0 / 1e6)
}

/// A coordinator that serves.
#[derive(Debug)]
pub struct Coordinator {
    pub program: Program,
    pub address: SocketAddr,
    /// From the start of the process until it said that it serves.
    pub start_took: Duration,
}

impl Coordinator {
    /// Starts it over the store in `folder`, which is made if it is not there.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        Self::start_with(folder, "embedded")
    }

    /// Starts it with an engine of that name.
    pub fn start_with(folder: &Path, engine: &str) -> anyhow::Result<Self> {
        let started = Instant::now();
        let mut command = Command::new(built("drover-coordinator")?);
        command
            .arg("run")
            .env("DROVER_STORE__PATH", folder)
            .env("DROVER_STORE__ENGINE", engine)
            .env("DROVER_HTTP__LISTEN", "127.0.0.1:0")
            .env("DROVER_LOG__FORMAT", "json")
            // The large log is to be read as a whole.
            .env("DROVER_LIMITS__JOB_LOG_MIB", "1048576")
            .env("DROVER_BOOTSTRAP__API_KEY", KEY)
            .stdout(Stdio::null());
        let (program, address) = listening("drover-coordinator", &mut command, |line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            line["fields"]["address"].as_str()?.parse().ok()
        })?;
        Ok(Self { program, address, start_took: started.elapsed() })
    }
}

/// This very program as a bare service to compare with; see `bare.rs`.
pub fn start_bare(kind: &str, folder: &Path) -> anyhow::Result<(Program, SocketAddr)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--folder".as_ref(), folder.as_os_str(), "--serve-bare".as_ref(), kind.as_ref()]);
    listening("bare service", &mut command, |line| line.parse().ok())
}

/// Starts a program and reads on its standard error where it listens.
fn listening(
    name: &'static str,
    command: &mut Command,
    address_in: impl Fn(&str) -> Option<SocketAddr>,
) -> anyhow::Result<(Program, SocketAddr)> {
    let mut program = Program::spawn(name, command.stderr(Stdio::piped()))?;
    let mut lines = BufReader::new(program.child.stderr.take().context("no standard error")?).lines();
    let mut said = Vec::new();
    while let Some(line) = lines.next().transpose()? {
        if let Some(address) = address_in(&line) {
            // What it says later must not fill the pipe.
            std::thread::spawn(move || complain(name, lines));
            return Ok((program, address));
        }
        said.push(line);
    }
    bail!("{name} does not serve: {}", said.join("\n"))
}

/// Reads what a program says until it ends, and tells what it complained about and how often.
fn complain(name: &str, lines: impl Iterator<Item = std::io::Result<String>>) {
    let mut complaints: BTreeMap<String, u64> = BTreeMap::new();
    for line in lines.map_while(Result::ok) {
        let said: serde_json::Value = serde_json::from_str(&line).unwrap_or(serde_json::Value::String(line));
        let text = match (said["level"].as_str(), said["fields"]["message"].as_str()) {
            (Some("WARN" | "ERROR"), Some(message)) => message.to_owned(),
            (Some(_), _) => continue,
            (None, _) => said.to_string(),
        };
        *complaints.entry(text).or_default() += 1;
    }
    for (text, count) in complaints {
        eprintln!("  ({name} said {count} times: {text})");
    }
}

/// An agent over a state folder of its own.
#[derive(Debug)]
pub struct Agent {
    pub program: Program,
}

impl Agent {
    /// Joins and runs; `capacity` is how many jobs it takes at once.
    pub fn start(folder: &Path, coordinator: SocketAddr, token: &str, capacity: u32) -> anyhow::Result<Self> {
        let program = built("drover-agent")?;
        let joined = Command::new(&program)
            .args(["join", "--server", &format!("http://{coordinator}"), "--token", token, "--state"])
            .arg(folder)
            .env("DROVER_AGENT__CAPACITY", capacity.to_string())
            .output()?;
        if !joined.status.success() {
            bail!("the agent cannot join: {}", String::from_utf8_lossy(&joined.stderr));
        }
        let log = fs::File::create(folder.join("agent.log"))?;
        let mut command = Command::new(&program);
        command
            .args(["run", "--state"])
            .arg(folder)
            .env("DROVER_AGENT__CAPACITY", capacity.to_string())
            .stdout(Stdio::null())
            .stderr(log);
        Ok(Self { program: Program::spawn("drover-agent", &mut command)? })
    }

    /// The supervisors that run now.
    pub fn supervisors(&self) -> anyhow::Result<Vec<u32>> {
        let pid = self.program.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        Ok(children.split_whitespace().filter_map(|child| child.parse().ok()).collect())
    }
}
