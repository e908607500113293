//! Programs of the host that the agent runs for its own purposes: hooks, builders of environments. Not jobs.

use std::{cell::RefCell, io, process::ExitStatus, process::Stdio, time::Duration};

use tokio::{io::AsyncReadExt, process::Command};

use crate::launcher;

/// The end of what a tool said, for the job's log.
const TAIL_LINES: usize = 60;
const KEPT_BYTES: usize = 64 * 1024;
/// What a tool leaves running may hold its outputs open; they are not waited for longer than this.
const OUTPUT_WAIT: Duration = Duration::from_millis(500);

/// Ends the whole process group of a tool whose end is not awaited any more.
struct Group(Option<libc::pid_t>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // SAFETY: takes no pointers; the group is that of a child that has not been collected.
            unsafe {
                libc::kill(-group, libc::SIGKILL);
            }
        }
    }
}

/// Runs a command to its end; returns the last part of what it said on either output. When this is dropped, the command and
/// its children are killed, and when the agent is killed, at least the command; what it leaves behind after its end (a display server, say) lives on.
pub async fn run_captured(mut command: Command) -> io::Result<(ExitStatus, Vec<u8>)> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    launcher::end_with_agent(&mut command);
    let mut child = command.spawn()?;
    let mut group = Group(child.id().and_then(|id| libc::pid_t::try_from(id).ok()));
    let (out, err) = (RefCell::default(), RefCell::default());
    let reading = futures::future::join(keep_end(child.stdout.take(), &out), keep_end(child.stderr.take(), &err));
    let mut reading = std::pin::pin!(reading);
    let status = tokio::select! {
        status = child.wait() => {
            let _ = tokio::time::timeout(OUTPUT_WAIT, reading).await;
            status
        }
        _ = &mut reading => child.wait().await,
    };
    group.0 = None;
    let mut said = out.take();
    said.extend(err.take());
    Ok((status?, said))
}

async fn keep_end(stream: Option<impl AsyncReadExt + Unpin>, kept: &RefCell<Vec<u8>>) {
    let mut buffer = [0; 8192];
    let Some(mut stream) = stream else { return };
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let mut kept = kept.borrow_mut();
        kept.extend_from_slice(&buffer[..count]);
        if kept.len() > 2 * KEPT_BYTES {
            let surplus = kept.len() - KEPT_BYTES;
            kept.drain(..surplus);
        }
    }
}

/// The last lines of what a program said.
pub fn tail_of(said: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|line| line.chars().take(2000).collect()).collect()
}

/// True if a program of this name is on the agent's PATH.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    /// Neither much output nor a child that keeps the outputs open holds the tool's end up.
    #[tokio::test]
    async fn a_tool_ends_when_it_ends() {
        let began = tokio::time::Instant::now();
        let (status, said) = run_captured(shell("sleep 5 & seq 100000; echo end >&2; exit 3")).await.expect("it runs");
        assert_eq!(status.code(), Some(3));
        assert!(began.elapsed() < Duration::from_secs(4));
        assert_eq!(tail_of(&said).last().map(String::as_str), Some("end"));
        assert!(said.len() <= 3 * KEPT_BYTES);
    }

    /// A tool that is not awaited any more is ended with its children.
    #[tokio::test]
    async fn a_dropped_tool_takes_its_children_along() {
        let mark = format!("7778.{}", std::process::id());
        let waited =
            tokio::time::timeout(Duration::from_millis(300), run_captured(shell(&format!("sleep {mark}; true")))).await;
        assert!(waited.is_err());
        for _ in 0..200 {
            let left = std::fs::read_dir("/proc").expect("/proc").flatten().any(|entry| {
                let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&command).starts_with(&format!("sleep\0{mark}"))
            });
            if !left {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the child is still there");
    }
}
