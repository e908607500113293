//! The real agent binary against a scripted coordinator over TCP, with real processes.

mod fake;

use drover_protocol::job::{CauseCode, ErrorKind, Outcome};
use drover_protocol::log::Level;
use fake::{Agent, FakeCoordinator, processes_with};
use serde_json::json;

/// The main path: variables, input, output, artifact, structured lines, masking, usage, and a clean host afterwards.
#[test]
fn a_job_runs_and_everything_arrives() {
    let coordinator = FakeCoordinator::start();
    let agent = Agent::start(&coordinator);
    let job = coordinator.offer_script(
        r#"
        echo "started $DROVER_JOB_ID $DROVER_ATTEMPT $DROVER_ROBOT $DROVER_PROCESS $DROVER_VERSION in $(basename "$PWD")"
        cat "$DROVER_INPUT"; echo
        echo '{"message": "half", "level": "debug", "fields": {"n": 1}}'
        echo '{"message": "more", "level": "error", "fields": {"n": 2}, "progress": {"percent": 50, "text": "half"}}'
        echo "the key is $DROVER_TOKEN and s3cret-value" >&2
        test -e "$DROVER_STOP_FILE" && echo "unexpected stop file"
        echo "url $DROVER_URL trace $TRACEPARENT home ${HOME:+set} hidden ${HIDDEN_VARIABLE:-none}"
        mkdir -p "$DROVER_ARTIFACTS/sub"; printf 'a report' > "$DROVER_ARTIFACTS/sub/отчёт & 1.txt"
        echo '{"booked": 3, "token": "'$DROVER_TOKEN'"}' > "$DROVER_OUTPUT"
        "#,
    );
    let report = coordinator.wait_for_end(&job);
    assert_eq!((report.outcome, report.cause.code, report.attempt), (Outcome::Succeeded, CauseCode::Completed, 1));
    assert_eq!(report.cause.by, "process");
    assert_eq!(report.output, Some(json!({"booked": 3, "token": "***"})));
    assert_eq!(report.exit.as_ref().and_then(|exit| exit.code), Some(0));
    assert!(report.usage.as_ref().and_then(|usage| usage.peak_memory_bytes).is_some_and(|bytes| bytes > 100_000));
    let messages = coordinator.messages(&job);
    assert_eq!(messages.len(), 5, "{messages:?}");
    assert!(messages.contains(&format!("started {job} 1 robot-1 invoices 7 in package")));
    assert!(messages.contains(&r#"{"limit":3}"#.to_owned()));
    assert!(messages.contains(&"the key is *** and ***".to_owned()));
    assert!(!messages.contains(&"half".to_owned()), "debug lines are below the level that was asked for");
    let trace = format!("trace 00-{}-", job.replace('-', ""));
    let line = messages.iter().find(|message| message.starts_with("url ")).expect("the line");
    assert!(
        line.contains(&coordinator.url) && line.contains(&trace) && line.ends_with("home set hidden none"),
        "{line}"
    );
    {
        let fake = coordinator.lock();
        let lines = &fake.lines[&(job.clone(), 1)];
        let of = |text: &str| lines.iter().find(|line| line.message.starts_with(text)).expect("the line");
        assert_eq!((of("more").level, of("more").fields.get("n")), (Level::Error, Some(&json!(2))));
        assert_eq!(of("the key").level, Level::Warning);
        assert_eq!(fake.files.get("sub/отчёт & 1.txt").map(Vec::as_slice), Some(b"a report".as_slice()));
        let host = fake.heartbeats[0].host.as_ref().expect("facts with the first heartbeat");
        assert_eq!((host.os.as_str(), host.labels.get("os").map(String::as_str)), ("linux", Some("linux")));
        assert!(fake.heartbeats.iter().skip(1).all(|beat| beat.host.is_none()));
    }
    fake::wait_until("a clean host", || (!agent.run_folder(&job).exists()).then_some(()));
    let journal = std::fs::read_to_string(agent.state.path().join("journal")).expect("the journal");
    assert_eq!(journal, "", "nothing of an attempt that is over lies on the host");
    assert_eq!(coordinator.lock().finishes.len(), 1);
}

#[test]
fn exit_codes_errors_and_outputs_become_outcomes() {
    let coordinator = FakeCoordinator::start();
    let _agent = Agent::start(&coordinator);
    let business = r#"echo '{"kind": "business", "code": "E7", "message": "no s3cret-value"}' > "$DROVER_ERROR""#;
    let cases: [(&str, Outcome, CauseCode); 7] = [
        ("exit 3", Outcome::Failed, CauseCode::ExitCode),
        (business, Outcome::Failed, CauseCode::BusinessError),
        ("echo oops > \"$DROVER_ERROR\"", Outcome::Failed, CauseCode::ApplicationError),
        ("echo '{' > \"$DROVER_OUTPUT\"", Outcome::Failed, CauseCode::OutputInvalid),
        ("head -c 2000000 /dev/zero | tr '\\0' 1 > \"$DROVER_OUTPUT\"", Outcome::Failed, CauseCode::OutputInvalid),
        ("ln -s /etc/passwd \"$DROVER_OUTPUT\"", Outcome::Failed, CauseCode::OutputInvalid),
        ("kill -SEGV $$", Outcome::Failed, CauseCode::Signal),
    ];
    let jobs: Vec<String> = cases.iter().map(|(script, ..)| coordinator.offer_script(script)).collect();
    for (job, (script, outcome, code)) in jobs.iter().zip(cases) {
        let report = coordinator.wait_for_end(job);
        assert_eq!((report.outcome, report.cause.code), (outcome, code), "{script}: {report:?}");
        if code == CauseCode::BusinessError {
            let error = report.error.expect("an error");
            assert_eq!(
                (error.kind, error.code.as_deref(), error.message.as_str()),
                (ErrorKind::Business, Some("E7"), "no ***")
            );
        }
    }
}

#[test]
fn a_command_that_is_not_there_is_told() {
    let coordinator = FakeCoordinator::start();
    let _agent = Agent::start(&coordinator);
    let job = coordinator.offer(&[("x", b"")], |assignment| {
        assignment["version"]["manifest"]["run"]["command"] = json!(["no-such-program", "x"]);
    });
    let report = coordinator.wait_for_end(&job);
    assert_eq!((report.outcome, report.cause.code), (Outcome::Failed, CauseCode::LaunchFailed));
    assert!(report.cause.message.contains("no-such-program"), "{report:?}");
}

/// The process sees the stop file and the signal and ends in order.
#[test]
fn a_soft_stop_lets_the_process_end() {
    let coordinator = FakeCoordinator::start();
    let _agent = Agent::start(&coordinator);
    let job = coordinator.offer_script(
        r#"trap 'echo asked; while ! test -e "$DROVER_STOP_FILE"; do sleep 0.05; done; echo file; exit 5' INT
        echo ready; while true; do sleep 0.05; done"#,
    );
    coordinator.wait_for_line(&job, "ready");
    coordinator.command(&job, "stop");
    let report = coordinator.wait_for_end(&job);
    assert_eq!((report.outcome, report.cause.code), (Outcome::Stopped, CauseCode::StopRequested));
    assert_eq!(coordinator.messages(&job), ["ready", "asked", "file"]);
}

/// The stop file's place is the job's to spoil; that keeps nobody from stopping it, and no file elsewhere is touched.
#[test]
fn a_stop_file_that_is_in_the_way_holds_nobody() {
    let coordinator = FakeCoordinator::start();
    let agent = Agent::start(&coordinator);
    let elsewhere = agent.state.path().join("elsewhere");
    std::fs::write(&elsewhere, "kept").expect("a file");
    let link = format!("ln -s '{}' \"$DROVER_STOP_FILE\"", elsewhere.display());
    for in_the_way in ["mkfifo \"$DROVER_STOP_FILE\"", &link] {
        let script = format!("{in_the_way}; trap 'exit 5' INT; echo ready; while true; do sleep 0.05; done");
        let job = coordinator.offer_script(&script);
        coordinator.wait_for_line(&job, "ready");
        coordinator.command(&job, "stop");
        assert_eq!(coordinator.wait_for_end(&job).outcome, Outcome::Stopped);
    }
    assert_eq!(std::fs::read_to_string(&elsewhere).expect("the file"), "kept");
}

/// Who ignores everything is killed when the grace is over, with all it has started.
#[test]
fn who_ignores_the_stop_is_killed_after_its_grace() {
    let coordinator = FakeCoordinator::start();
    let _agent = Agent::start_with(&coordinator, &[("DROVER_AGENT__LIMITS__KILL_WAIT_SECONDS", "0")]);
    let script = br#"trap '' INT TERM; (trap '' INT TERM; sleep 7777.1 & sleep 7777.1) & echo ready; while true; do sleep 0.05; done"#;
    let job =
        coordinator.offer(&[("main.sh", script)], |assignment| assignment["job"]["stop_grace_seconds"] = json!(1));
    coordinator.wait_for_line(&job, "ready");
    let asked = std::time::Instant::now();
    coordinator.command(&job, "stop");
    let report = coordinator.wait_for_end(&job);
    assert_eq!((report.outcome, report.cause.code), (Outcome::Aborted, CauseCode::StopGraceExceeded));
    assert!(asked.elapsed().as_millis() >= 1000, "the grace is given");
    assert_eq!(processes_with("7777.1"), 0);
}

#[test]
fn an_abort_ends_the_tree_at_once() {
    let coordinator = FakeCoordinator::start();
    let _agent = Agent::start(&coordinator);
    let job = coordinator.offer_script("trap '' INT TERM; sleep 7777.2 & echo ready; wait; sleep 7777.2");
    coordinator.wait_for_line(&job, "ready");
    coordinator.command(&job, "abort");
    let report = coordinator.wait_for_end(&job);
    assert_eq!((report.outcome, report.cause.code), (Outcome::Aborted, CauseCode::AbortRequested));
    assert_eq!(processes_with("7777.2"), 0);
}

#[test]
fn a_timeout_is_kept() {
    let coordinator = FakeCoordinator::start();
    let _agent = Agent::start(&coordinator);
    let job = coordinator.offer(&[("main.sh", b"echo ready; sleep 7777.3")], |assignment| {
        assignment["job"]["timeout_seconds"] = json!(1);
    });
    let report = coordinator.wait_for_end(&job);
    assert_eq!((report.outcome, report.cause.code), (Outcome::TimedOut, CauseCode::Timeout));
    assert_eq!(processes_with("7777.3"), 0);
}

/// A daemon that forked twice into sessions of its own, clears its environment and ignores signals does not survive its job.
#[test]
fn daemons_do_not_survive_their_job() {
    let coordinator = FakeCoordinator::start();
    let _agent = Agent::start(&coordinator);
    let job = coordinator.offer_script(
        "trap '' TERM; begun=$(mktemp -u); setsid bash -c \"setsid env -i sleep 7777.4 </dev/null >/dev/null 2>&1 & setsid sleep 7777.4 & : > $begun\" & \
         while ! test -e $begun; do sleep 0.02; done; rm $begun; echo done",
    );
    let report = coordinator.wait_for_end(&job);
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert_eq!(processes_with("7777.4"), 0);
}

/// A child that holds the pipes does not keep the job from ending.
#[test]
fn a_child_that_holds_the_pipes_does_not_hang_the_job() {
    let coordinator = FakeCoordinator::start();
    let _agent = Agent::start(&coordinator);
    let job = coordinator.offer_script("sleep 7777.5 & echo parent ends; exit 0");
    let report = coordinator.wait_for_end(&job);
    assert_eq!(report.outcome, Outcome::Succeeded);
    let told = "the process ended and left 1 others behind; they were ended as well";
    assert_eq!(coordinator.messages(&job), ["parent ends", told]);
    assert_eq!(processes_with("7777.5"), 0);
}

#[test]
fn odd_output_arrives_whole() {
    let coordinator = FakeCoordinator::start();
    let _agent = Agent::start(&coordinator);
    let job = coordinator.offer_script(
        r#"head -c 1000000 /dev/zero | tr '\0' y; echo; printf 'bad \xff\x00 bytes\n'; printf 'no newline at the end'"#,
    );
    coordinator.wait_for_end(&job);
    let messages = coordinator.messages(&job);
    assert_eq!(messages.iter().filter(|message| message.starts_with('y')).map(String::len).sum::<usize>(), 1_000_000);
    assert!(messages.contains(&"bad \\xff\0 bytes".to_owned()));
    assert_eq!(messages.last().map(String::as_str), Some("no newline at the end"));
}

/// Without any newline or with many, whatever is printed arrives whole, and neither memory nor disk grows with it.
/// `DROVER_TEST_PRINTED_BYTES=1000000000` prints so many bytes.
#[test]
fn much_output_is_held_in_bounds() {
    const MAX_MESSAGE_BYTES: u64 = drover_protocol::log::MAX_MESSAGE_BYTES as u64;
    let printed = std::env::var("DROVER_TEST_PRINTED_BYTES").ok().and_then(|text| text.parse().ok());
    let printed: u64 = printed.unwrap_or(32_000_000);
    let coordinator = FakeCoordinator::start();
    coordinator.lock().count_only = true;
    let limit: u64 = 4 * 1024 * 1024;
    let agent = Agent::start_with(&coordinator, &[("DROVER_AGENT__LIMITS__SPOOL_BYTES", &limit.to_string())]);
    // Lines are dearer than bytes, so fewer are printed.
    let lines = printed / 400;
    let no_newline = format!("head -c {printed} /dev/zero | tr '\\0' y");
    let short_lines = format!("yes $(printf %049d 7) | head -n {lines}");
    for (script, bytes, lines) in
        [(no_newline, printed, printed.div_ceil(MAX_MESSAGE_BYTES)), (short_lines, lines * 49, lines)]
    {
        let job = coordinator.offer_script(&script);
        let (supervisor, daemon) = (agent.supervisor(&job), i32::try_from(agent.child.as_ref().expect("it runs").id()));
        let (mut spool, mut memory) = (0, 0);
        fake::wait_until_late("the end", || {
            spool = spool.max(agent.spool_bytes(&job));
            memory = memory.max(fake::peak_memory_kib(supervisor).unwrap_or(0));
            coordinator.lock().finishes.iter().any(|(id, _)| *id == job).then_some(())
        });
        assert_eq!(coordinator.wait_for_end(&job).outcome, Outcome::Succeeded);
        assert_eq!(coordinator.lock().counted[&(job, 1)], (lines, bytes));
        assert!(spool < limit + 3 * 1024 * 1024, "{spool} bytes of spool");
        let agents = fake::peak_memory_kib(daemon.expect("an id")).expect("it runs");
        eprintln!("{bytes} bytes: spool {spool} bytes, supervisor {memory} KiB, agent {agents} KiB");
        assert!((1..32 * 1024).contains(&memory), "the supervisor has had {memory} KiB");
        assert!(agents < 64 * 1024, "the agent has had {agents} KiB");
    }
}

#[test]
fn a_process_that_ends_at_once_leaves_its_lines() {
    let coordinator = FakeCoordinator::start();
    let _agent = Agent::start(&coordinator);
    let jobs: Vec<String> = (0..8).map(|n| coordinator.offer_script(&format!("echo line {n}"))).collect();
    for (n, job) in jobs.iter().enumerate() {
        assert_eq!(coordinator.wait_for_end(job).outcome, Outcome::Succeeded);
        assert_eq!(coordinator.messages(job), [format!("line {n}")]);
    }
}

/// Packages: an interrupted download goes on where it stopped, wrong bytes and hostile zips are refused with the reason.
#[test]
fn packages_are_resumed_and_verified() {
    let coordinator = FakeCoordinator::start();
    let _agent = Agent::start(&coordinator);
    coordinator.lock().break_downloads = 1;
    let job = coordinator.offer_script("echo resumed");
    assert_eq!(coordinator.wait_for_end(&job).outcome, Outcome::Succeeded);
    assert_eq!(coordinator.lock().ranges.len(), 1);

    let job = coordinator.offer_script("echo never");
    {
        let mut fake = coordinator.lock();
        let sha256 = fake.offers.last().map(|offer| offer["version"]["sha256"].as_str().unwrap_or_default().to_owned());
        if let Some(bytes) = sha256.and_then(|sha256| fake.packages.get_mut(&sha256)) {
            bytes[10] ^= 1;
        }
    }
    let report = coordinator.wait_for_end(&job);
    assert_eq!((report.outcome, report.cause.code), (Outcome::Failed, CauseCode::PackageInvalid));
    assert!(coordinator.messages(&job).iter().any(|line| line.contains("digest")));

    let escape = format!("drover-escape-{}", std::process::id());
    let hostile = fake::zip_of(&[("main.sh", b"echo never"), (&format!("../../../../../../../tmp/{escape}"), b"x")]);
    let job = coordinator.offer_zip(hostile, |_| {});
    let report = coordinator.wait_for_end(&job);
    assert_eq!((report.outcome, report.cause.code), (Outcome::Failed, CauseCode::PackageInvalid), "{report:?}");
    assert!(!fake::exists(&std::path::Path::new("/tmp").join(escape)));
}

/// The package that one job has spoiled is whole for the next.
#[test]
fn a_job_cannot_spoil_the_package_of_the_next() {
    let coordinator = FakeCoordinator::start();
    let _agent = Agent::start(&coordinator);
    for _ in 0..2 {
        let job = coordinator.offer(&[("main.sh", b"cat data; echo spoiled > data"), ("data", b"fresh")], |_| {});
        coordinator.wait_for_end(&job);
        assert_eq!(coordinator.messages(&job), ["fresh"]);
    }
}

/// A cached package that the disk has damaged is fetched again.
#[test]
fn a_damaged_package_is_fetched_again() {
    let coordinator = FakeCoordinator::start();
    let agent = Agent::start(&coordinator);
    let job = coordinator.offer_script("echo whole");
    coordinator.wait_for_end(&job);
    let cache = agent.state.path().join("work").join("packages");
    for entry in std::fs::read_dir(cache).expect("the cache").flatten() {
        let length = std::fs::read(entry.path()).expect("a package").len();
        std::fs::write(entry.path(), vec![0; length]).expect("damaged");
    }
    let job = coordinator.offer_script("echo whole");
    assert_eq!(coordinator.wait_for_end(&job).outcome, Outcome::Succeeded);
    assert_eq!(coordinator.messages(&job), ["whole"]);
}

#[test]
fn the_hosts_policy_has_the_last_word() {
    let coordinator = FakeCoordinator::start();
    let _agent = Agent::start_with(&coordinator, &[("DROVER_AGENT__POLICY__ALLOWED_PROCESSES", "payroll*,backup")]);
    let job = coordinator.offer_script("echo never");
    let report = coordinator.wait_for_end(&job);
    assert_eq!((report.outcome, report.cause.code), (Outcome::Failed, CauseCode::HostPolicy));
}

/// What a proxy in between does not let through is not tried for ever: the job ends, and says what is missing.
#[test]
fn a_proxys_limit_does_not_keep_a_job_from_its_end() {
    let coordinator = FakeCoordinator::start();
    coordinator.lock().most_body_bytes = Some(50_000);
    let _agent = Agent::start(&coordinator);
    let job = coordinator.offer_script(
        r#"text=$(head -c 60000 /dev/zero | tr '\0' x); echo "\"$text\"" > "$DROVER_OUTPUT"
        echo "$text" > "$DROVER_ARTIFACTS/large"; echo small > "$DROVER_ARTIFACTS/small""#,
    );
    let report = coordinator.wait_for_end(&job);
    assert_eq!((report.outcome, report.cause.code), (Outcome::Failed, CauseCode::OutputInvalid), "{report:?}");
    assert!(report.cause.message.contains("proxy"), "{report:?}");
    let messages = coordinator.messages(&job);
    assert!(messages.iter().any(|line| line.contains("\"large\"") && line.contains("proxy")), "{messages:?}");
    assert_eq!(coordinator.lock().files.keys().collect::<Vec<_>>(), ["small"]);
}

#[test]
fn refused_artifacts_are_told_in_the_log() {
    let coordinator = FakeCoordinator::start();
    coordinator.lock().refuse_files = true;
    let _agent = Agent::start(&coordinator);
    let job = coordinator
        .offer_script("echo x > \"$DROVER_ARTIFACTS/s3cret-value.txt\"; ln -s /etc/passwd \"$DROVER_ARTIFACTS/link\"");
    assert_eq!(coordinator.wait_for_end(&job).outcome, Outcome::Succeeded);
    let messages = coordinator.messages(&job);
    assert!(messages.iter().any(|line| line.contains("\"***.txt\"") && line.contains("quota")), "{messages:?}");
    assert!(
        messages.iter().any(|line| line.contains("\"link\"") && line.contains("out of the folder")),
        "{messages:?}"
    );
}
