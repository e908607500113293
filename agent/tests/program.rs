//! The program from outside: joining, its settings, its checks, and the environments it builds for processes.

mod fake;

use std::process::Command;

use drover_protocol::job::{CauseCode, Outcome};
use fake::{Agent, FakeCoordinator, zip_of};
use serde_json::json;

fn agent(state: &std::path::Path, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_drover-agent"))
        .args(arguments)
        .arg("--state")
        .arg(state)
        .env_remove("HTTP_PROXY")
        .env_remove("http_proxy")
        .output()
        .expect("the agent can be started");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Joining keeps the key for the owner only, says what happened, and each mistake names its remedy.
#[test]
fn joining_and_its_mistakes() {
    use std::os::unix::fs::PermissionsExt;
    let coordinator = FakeCoordinator::start();
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("state");
    let (ok, text) = agent(&state, &["join", "--server", &coordinator.url, "--token", "old-token"]);
    assert!(!ok && text.contains("expired") && text.contains("join-token create"), "{text}");
    let (ok, text) = agent(&state, &["join", "--server", "http://127.0.0.1:1", "--token", "x"]);
    assert!(!ok && text.contains("nothing listens there"), "{text}");
    let (ok, text) = agent(&state, &["join", "--server", "nonsense", "--token", "x"]);
    assert!(!ok && text.contains("https://drover.example.org"), "{text}");
    let (ok, text) = agent(&state, &["run"]);
    assert!(!ok && text.contains("drover-agent join"), "{text}");

    let base = format!("{}/api/v1/", coordinator.url);
    let (ok, text) = agent(&state, &["join", "--server", &base, "--token", " good-token\n", "--name", "mine"]);
    assert!(ok && text.contains("robot-1") && !text.contains(fake::ROBOT_KEY), "{text}");
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(&state), mode(&state.join("agent.json"))), (0o700, 0o600));
    let (ok, text) = agent(&state, &["join", "--server", &coordinator.url, "--token", "good-token"]);
    assert!(ok && text.contains("again"), "{text}");
    let joins = coordinator.lock().joins.clone();
    assert_eq!((joins[0]["name"].as_str(), joins[0]["machine_id"].as_str().map(str::len)), (Some("mine"), Some(32)));
    assert_eq!(joins[0]["machine_id"], joins[1]["machine_id"]);
}

#[test]
fn settings_are_checked_and_printed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ok, text) = agent(folder.path(), &["--print-config"]);
    assert!(ok && text.contains("drain_timeout_seconds = 300") && text.contains("[policy]"), "{text}");
    let (ok, text) = agent(folder.path(), &["check-config"]);
    assert!(ok && text.contains("valid"), "{text}");
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, "[polcy]\nrun_as = \"x\"\n").expect("written");
    let (ok, text) = agent(folder.path(), &["check-config", "--config", &file.to_string_lossy()]);
    assert!(!ok && text.contains("policy.run_as"), "{text}");
    std::fs::write(&file, "ca_file = \"/nonexistent.pem\"\n").expect("written");
    let (ok, text) = agent(folder.path(), &["check-config", "--config", &file.to_string_lossy()]);
    assert!(!ok && text.contains("/nonexistent.pem"), "{text}");
}

#[test]
fn diagnosis_names_findings_with_remedies() {
    let coordinator = FakeCoordinator::start();
    let folder = tempfile::tempdir().expect("a folder");
    let (ok, text) = agent(folder.path(), &["diagnose"]);
    assert!(!ok && text.contains("FAIL  joined: not yet; run: drover-agent join"), "{text}");
    let agent_beside = Agent::start(&coordinator);
    coordinator.wait("the first poll", |fake| (!fake.known.is_empty()).then_some(()));
    let (ok, text) = agent(agent_beside.state.path(), &["diagnose"]);
    assert!(ok, "{text}");
    for line in [
        "OK    writing",
        "OK    DNS",
        "OK    TCP",
        "OK    HTTP",
        "OK    key",
        "OK    agent: runs as process",
        "OK    joined",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    coordinator.lock().unauthenticated = true;
    let (ok, text) = agent(agent_beside.state.path(), &["diagnose"]);
    assert!(!ok && text.contains("FAIL  key") && text.contains("join again"), "{text}");
}

/// Draining by command ends the agent with the exit code that keeps a service manager from starting it again.
#[test]
fn draining_by_command() {
    let coordinator = FakeCoordinator::start();
    let mut beside = Agent::start(&coordinator);
    coordinator.wait("the first poll", |fake| (!fake.known.is_empty()).then_some(()));
    let (ok, text) = agent(beside.state.path(), &["run"]);
    assert!(!ok && text.contains("already runs"), "{text}");
    let (ok, text) = agent(beside.state.path(), &["drain"]);
    assert!(ok && text.contains("takes no more"), "{text}");
    assert_eq!(beside.wait(), Some(80));
    let (ok, text) = agent(beside.state.path(), &["drain"]);
    assert!(!ok && text.contains("no agent runs"), "{text}");
}

/// A key that is not accepted any more is replaced by joining again, without a restart.
#[test]
fn a_running_agent_survives_a_refused_key() {
    let coordinator = FakeCoordinator::start();
    let agent = Agent::start(&coordinator);
    let mark = agent.state.path().join("go on");
    let job = coordinator.offer_script(&fake::script_until(&mark, ""));
    coordinator.wait_for_line(&job, "ready");
    coordinator.lock().unauthenticated = true;
    let log = fake::wait_until("the message", || Some(agent.log()).filter(|log| log.contains("join again")));
    assert!(!log.contains(fake::ROBOT_KEY));
    coordinator.lock().unauthenticated = false;
    std::fs::write(mark, b"").expect("a file");
    assert_eq!(coordinator.wait_for_end(&job).outcome, Outcome::Succeeded);
}

fn wheel() -> Vec<u8> {
    zip_of(&[
        ("tiny.py", b"GREETING = 'hello from the wheel'\n"),
        ("tiny-1.0.dist-info/METADATA", b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"),
        (
            "tiny-1.0.dist-info/WHEEL",
            b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        ),
        (
            "tiny-1.0.dist-info/RECORD",
            b"tiny.py,,\ntiny-1.0.dist-info/METADATA,,\ntiny-1.0.dist-info/WHEEL,,\ntiny-1.0.dist-info/RECORD,,\n",
        ),
    ])
}

fn with_python(assignment: &mut serde_json::Value) {
    let manifest = &mut assignment["version"]["manifest"];
    manifest["run"]["command"] = json!(["python3", "main.py"]);
    manifest["python"] = json!({"requirements": "requirements.txt"});
}

/// Requirements become an environment that is built once; its Python comes first for the process.
#[test]
fn python_requirements_become_a_cached_environment() {
    let coordinator = FakeCoordinator::start();
    let agent = Agent::start(&coordinator);
    let main = b"import sys, tiny\nprint(tiny.GREETING, sys.prefix)\n";
    let files: &[(&str, &[u8])] = &[
        ("main.py", main),
        ("requirements.txt", b"./tiny-1.0-py3-none-any.whl\n"),
        ("tiny-1.0-py3-none-any.whl", &wheel()),
    ];
    let mut prefixes = Vec::new();
    for _ in 0..2 {
        let job = coordinator.offer(files, with_python);
        let report = coordinator.wait_for_end(&job);
        assert_eq!(report.outcome, Outcome::Succeeded, "{report:?} {:?}", coordinator.messages(&job));
        prefixes.extend(coordinator.messages(&job));
    }
    assert!(prefixes[0].starts_with("hello from the wheel") && prefixes[0].contains("environments"), "{prefixes:?}");
    assert_eq!(prefixes[0], prefixes[1]);
    let environments = std::fs::read_dir(agent.state.path().join("work/environments")).expect("the folder");
    assert_eq!(environments.count(), 1);
}

/// Where processes run as another account, so does what builds their environments, with no module of the package in Python's
/// place; and no process can change what the next one gets.
#[test]
fn an_environment_is_built_and_used_by_another_account() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED, nothing is tested here: only root can run processes as another account");
        return;
    }
    let coordinator = FakeCoordinator::start();
    let work = tempfile::tempdir().expect("a folder");
    let work_dir = work.path().to_str().expect("UTF-8");
    let _agent = Agent::start_with(
        &coordinator,
        &[("DROVER_AGENT__POLICY__RUN_AS", "nobody"), ("DROVER_AGENT__WORK_DIR", work_dir)],
    );
    let main = b"import os, sys, tiny\nprint(tiny.GREETING, os.getuid() > 0, os.access(sys.prefix, os.W_OK))\n";
    let files: &[(&str, &[u8])] = &[
        ("main.py", main),
        ("venv.py", b"raise SystemExit('not Python\'s')"),
        ("pip.py", b"raise SystemExit('not Python\'s')"),
        ("requirements.txt", b"./tiny-1.0-py3-none-any.whl\n"),
        ("tiny-1.0-py3-none-any.whl", &wheel()),
    ];
    for _ in 0..2 {
        let job = coordinator.offer(files, with_python);
        let report = coordinator.wait_for_end(&job);
        assert_eq!(report.outcome, Outcome::Succeeded, "{report:?} {:?}", coordinator.messages(&job));
        assert_eq!(coordinator.messages(&job), ["hello from the wheel True False"]);
    }
}

#[test]
fn requirements_that_cannot_be_installed_are_told() {
    let coordinator = FakeCoordinator::start();
    let _agent = Agent::start(&coordinator);
    let files: &[(&str, &[u8])] =
        &[("main.py", b"print('never')"), ("requirements.txt", b"./missing-1.0-py3-none-any.whl\n")];
    let job = coordinator.offer(files, with_python);
    let report = coordinator.wait_for_end(&job);
    assert_eq!((report.outcome, report.cause.code), (Outcome::Failed, CauseCode::EnvironmentFailed));
    let messages = coordinator.messages(&job);
    assert!(messages.iter().any(|line| line.contains("missing-1.0")), "{messages:?}");
}

#[test]
fn hooks_run_around_the_job() {
    let coordinator = FakeCoordinator::start();
    let folder = tempfile::tempdir().expect("a folder");
    let hook = folder.path().join("hook.sh");
    let script = format!(
        "#!/bin/sh\necho \"$DROVER_HOOK $DROVER_PROCESS $DROVER_OUTCOME\" >> {}/hooks\n",
        folder.path().display()
    );
    std::fs::write(&hook, script).expect("written");
    let hook = format!("sh,{}", hook.display());
    let environment =
        [("DROVER_AGENT__HOOKS__BEFORE_JOB", hook.as_str()), ("DROVER_AGENT__HOOKS__AFTER_JOB", hook.as_str())];
    let _agent = Agent::start_with(&coordinator, &environment);
    let job = coordinator.offer_script("echo x");
    coordinator.wait_for_end(&job);
    let said = std::fs::read_to_string(folder.path().join("hooks")).expect("the hooks ran");
    assert_eq!(said, "before_job invoices \nafter_job invoices succeeded\n");
}
