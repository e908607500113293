//! The agent's disk is full: nothing is lost, nothing is started that could not be answered for, and all goes on by itself
//! when there is room again. Each test has a small disk of its own, which only root may have.

mod fake;

use std::{fs, path::Path, time::Duration};

use drover_protocol::job::{CauseCode, ErrorKind, Outcome};
use fake::{Agent, FakeCoordinator, SmallDisk, processes_with, wait_until};

const MIB: u64 = 1024 * 1024;

/// What two files outside of the small disk are for: `go` lets the script go on, `mark` grows by a byte per step of it.
fn script(outside: &Path, then: &str) -> String {
    let (go, mark) = (outside.join("go"), outside.join("mark"));
    let (go, mark) = (go.display(), mark.display());
    format!("mark='{mark}'; echo ready; while ! test -e '{go}'; do sleep 0.02; done\n{then}")
}

fn go(outside: &Path) {
    fs::write(outside.join("go"), b"").expect("a file");
}

fn steps(outside: &Path) -> Option<u64> {
    Some(fs::metadata(outside.join("mark")).ok()?.len())
}

/// More lines than pipe and memory hold: the process is held back as long as the disk is full, a restart of the agent
/// included; then every line arrives.
#[test]
fn a_full_disk_holds_the_process_back() {
    let Some(disk) = SmallDisk::mount(8 * MIB) else { return };
    let (coordinator, outside) = (FakeCoordinator::start(), tempfile::tempdir().expect("a folder"));
    let mut agent = Agent::start_in(disk.folder(), &coordinator, &[]);
    let loop_ =
        r#"for n in $(seq 1 20000); do echo "line $n with some more text to fill the disk"; printf . >> "$mark"; done"#;
    let job = coordinator.offer_script(&script(outside.path(), loop_));
    coordinator.wait_for_line(&job, "ready");
    disk.fill();
    go(outside.path());
    let mut before = None;
    wait_until("the process to stand still", || {
        std::thread::sleep(Duration::from_millis(500));
        let now = steps(outside.path());
        (now.is_some() && now == std::mem::replace(&mut before, now)).then_some(())
    });
    assert!(before.is_some_and(|line| line < 10_000), "it has come to line {before:?} although nothing can be written");
    agent.kill();
    agent.run();
    let beats = coordinator.lock().heartbeats.len();
    coordinator.wait("the new agent", |fake| (fake.heartbeats.len() > beats).then_some(()));
    disk.free();
    assert_eq!(coordinator.wait_for_end(&job).outcome, Outcome::Succeeded);
    let lines = (1..=20_000).map(|n| format!("line {n} with some more text to fill the disk"));
    assert!(coordinator.messages(&job).into_iter().eq(std::iter::once("ready".to_owned()).chain(lines)));
}

/// The process ends while nothing can be written: its last lines and its end are kept in mind until they can.
#[test]
fn an_end_on_a_full_disk_is_not_lost() {
    let Some(disk) = SmallDisk::mount(8 * MIB) else { return };
    let (coordinator, outside) = (FakeCoordinator::start(), tempfile::tempdir().expect("a folder"));
    let mut agent = Agent::start_in(disk.folder(), &coordinator, &[]);
    let last = r#"for n in $(seq 1 300); do echo "line $n of those that were printed on a full disk"; done; printf . >> "$mark"; exit 4"#;
    let job = coordinator.offer_script(&script(outside.path(), last));
    coordinator.wait_for_line(&job, "ready");
    disk.fill();
    go(outside.path());
    wait_until("the end of the process", || steps(outside.path()));
    agent.kill();
    agent.run();
    let beats = coordinator.lock().heartbeats.len();
    coordinator.wait("the new agent", |fake| (fake.heartbeats.len() > beats + 1).then_some(()));
    assert!(coordinator.lock().finishes.is_empty(), "nothing is reported that is not on disk");
    disk.free();
    let report = coordinator.wait_for_end(&job);
    assert_eq!((report.outcome, report.exit.and_then(|exit| exit.code)), (Outcome::Failed, Some(4)));
    assert_eq!(coordinator.messages(&job).len(), 301);
}

/// An abort needs no room: the tree is gone while the disk is still full.
#[test]
fn an_abort_gets_through_on_a_full_disk() {
    let Some(disk) = SmallDisk::mount(8 * MIB) else { return };
    let (coordinator, outside) = (FakeCoordinator::start(), tempfile::tempdir().expect("a folder"));
    let _agent = Agent::start_in(disk.folder(), &coordinator, &[]);
    let flood = "trap '' INT TERM; setsid sleep 7777.12 & yes 'a line for 7777.12'";
    let job = coordinator.offer_script(&script(outside.path(), flood));
    coordinator.wait_for_line(&job, "ready");
    disk.fill();
    go(outside.path());
    wait_until("the flood", || (processes_with("7777.12") >= 2).then_some(()));
    coordinator.command(&job, "stop");
    coordinator.command(&job, "abort");
    wait_until("an empty tree", || (processes_with("7777.12") == 0).then_some(()));
    disk.free();
    assert_eq!(coordinator.wait_for_end(&job).outcome, Outcome::Aborted);
}

/// A journal that cannot be written takes no job: it stays the coordinator's, and is taken when there is room again.
#[test]
fn a_full_disk_takes_no_job() {
    let Some(disk) = SmallDisk::mount(8 * MIB) else { return };
    let coordinator = FakeCoordinator::start();
    let _agent = Agent::start_in(disk.folder(), &coordinator, &[]);
    coordinator.wait("the agent", |fake| (!fake.heartbeats.is_empty()).then_some(()));
    disk.fill();
    let job = coordinator.offer_script("echo ran");
    let offered = |request: &serde_json::Value| request["free"] != 0;
    let before = coordinator.lock().known.len();
    // A poll that was waiting, and one after that: the job was offered with each of them.
    coordinator.wait("two polls", |fake| {
        (fake.known.iter().skip(before).filter(|one| offered(one)).count() >= 2).then_some(())
    });
    assert!(coordinator.lock().accepted.is_empty(), "it took a job on that it cannot write down");
    disk.free();
    assert_eq!(coordinator.wait_for_end(&job).outcome, Outcome::Succeeded);
    assert_eq!(coordinator.messages(&job), ["ran"]);
}

/// What is only kept for later jobs makes room for the one that is wanted now. A package for which there is no room at all
/// fails its job in clear words, and leaves the disk as empty as it was.
#[test]
fn packages_make_room_and_leave_none_taken() {
    let Some(disk) = SmallDisk::mount(8 * MIB) else { return };
    let coordinator = FakeCoordinator::start();
    let agent = Agent::start_in(disk.folder(), &coordinator, &[]);
    let with_data = |bytes: usize, seed: u32| {
        let mut state = seed;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .take(bytes)
        .collect();
        coordinator.offer(&[("main.sh", b"echo ran"), ("data", &noise)], |_| {})
    };
    for seed in [1, 2] {
        let job = with_data(3_000_000, seed);
        assert_eq!(coordinator.wait_for_end(&job).outcome, Outcome::Succeeded, "package {seed}");
        wait_until("a clean host", || (!agent.run_folder(&job).exists()).then_some(()));
    }
    for (bytes, seed) in [(12_000_000, 3), (5_000_000, 4)] {
        let report = coordinator.wait_for_end(&with_data(bytes, seed));
        assert_eq!((report.outcome, report.cause.code), (Outcome::Failed, CauseCode::PackageUnavailable), "{report:?}");
        assert!(report.error.is_some_and(|error| error.kind == ErrorKind::Infrastructure));
        assert!(report.cause.message.contains("No space left on device"), "{}", report.cause.message);
        let cache = agent.state.path().join("work").join("packages");
        assert_eq!(fs::read_dir(cache).expect("the cache").count(), 0, "package {seed}");
    }
    let job = coordinator.offer_script("echo ran");
    assert_eq!(coordinator.wait_for_end(&job).outcome, Outcome::Succeeded);
}
