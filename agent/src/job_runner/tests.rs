//! What the host does to a job when the operating system does not do what it should.

use std::cell::Cell;

use drover_protocol::{
    Timestamp,
    job::{Outcome, Usage},
};
use futures::FutureExt;
use serde_json::json;
use tokio::sync::mpsc;

use super::*;
use crate::{
    launcher::{Ended, Interference, Spec},
    transport::{Request, Response, TransportError},
};

struct NoNetwork;

impl Transport for NoNetwork {
    async fn call(&self, _: Request) -> Result<Response, TransportError> {
        Err(TransportError("there is none".to_owned()))
    }
}

/// Starts nothing, finds nothing, and cannot end what is left until it is allowed to.
#[derive(Default)]
struct Powerless {
    sweeps: Cell<u32>,
    may_sweep: Cell<bool>,
}

struct NeverStarted;

impl Supervisor for NeverStarted {
    async fn gone(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Launcher for Powerless {
    type Supervisor = NeverStarted;

    fn start(&self, _: &RunFolder, _: &Spec) -> io::Result<NeverStarted> {
        Err(io::Error::other("it cannot be watched"))
    }

    fn find(&self, _: &RunFolder) -> io::Result<Found<NeverStarted>> {
        Ok(Found::Gone)
    }

    fn end(&self, _: &RunFolder, _: &EndRequest) -> io::Result<()> {
        Ok(())
    }

    async fn sweep(&self, _: AttemptId) -> io::Result<u32> {
        self.sweeps.set(self.sweeps.get() + 1);
        if self.may_sweep.get() { Ok(0) } else { Err(io::Error::other("processes could not be ended")) }
    }
}

fn assignment() -> Assignment {
    let id = "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f";
    let time = "2026-11-23T08:00:00.000Z";
    serde_json::from_value(json!({
        "job": {
            "id": id, "process_id": id, "process_name": "p", "process_version_id": id, "version_number": 1, "target": {},
            "state": "assigned", "outcome": null, "cause": null, "attempt": 1, "tries": 0, "robot_id": null,
            "robot_name": null, "priority": 2, "error": null, "exit": null, "usage": null, "progress": null,
            "source": {"kind": "user", "id": "u"}, "created_at": time, "not_before": null, "assigned_at": null,
            "started_at": null, "finished_at": null, "stop_after": null, "abort_after": null, "timeout_seconds": null,
            "stop_grace_seconds": 30, "lease_ends_at": null, "labels": {}, "parent_job_id": null, "revision": 1
        },
        "attempt": 1, "lease_ends_at": time, "key": "the-key", "secrets_to_mask": [], "log_level": "info",
        "version": {"id": id, "number": 1, "sha256": "", "size_bytes": 0,
            "manifest": {"source": "inferred", "name": null, "run": {"command": ["x"]}}}
    }))
    .expect("an assignment")
}

fn runner(state: &tempfile::TempDir) -> ProcessRunner<NoNetwork, Powerless> {
    let state = state.path().to_str().expect("UTF-8").to_owned();
    let environment = [("DROVER_AGENT__STATE_DIR".to_owned(), state)];
    let settings = Settings::load(None, environment.into_iter().collect()).expect("valid");
    let coordinator = Rc::new(Coordinator::new(NoNetwork, None, 1));
    let robot = RobotFacts { server: "http://h".to_owned(), name: "r".to_owned(), ca_file: None };
    let runner = ProcessRunner::new(coordinator, Powerless::default(), settings, robot, Clock::system(), None);
    let runner = runner.expect("folders");
    runner.run_folder(id_of(&assignment())).create().expect("a folder");
    runner
}

/// Runs to the report; gives that and the job's log.
async fn run(runner: &ProcessRunner<NoNetwork, Powerless>, adopt: bool) -> (Box<Finish>, Vec<String>) {
    let (_keep, control) = mpsc::unbounded_channel();
    let report = runner.run(&assignment(), adopt, 0, control).await;
    let lines = runner.lines(id_of(&assignment())).read(1, 100, 100_000).await.expect("readable");
    (report, lines.into_iter().map(|record| record.line.message).collect())
}

/// A supervisor that could not be watched may have started the command: what is left of it is ended before that is reported.
#[tokio::test]
async fn a_job_that_could_not_be_started_leaves_nothing() {
    let state = tempfile::tempdir().expect("a folder");
    let runner = runner(&state);
    let (report, _) = run(&runner, false).await;
    assert_eq!(report.cause.code, CauseCode::LaunchFailed);
    assert_eq!(runner.launcher.sweeps.get(), 1);
}

/// Processes that nobody can end are said in the log, and the job ends as its supervisor saw it, or did not.
#[tokio::test]
async fn processes_that_cannot_be_ended_do_not_keep_a_job_from_its_end() {
    for (is_known, outcome) in [(true, Outcome::Succeeded), (false, Outcome::Lost)] {
        let state = tempfile::tempdir().expect("a folder");
        let runner = runner(&state);
        if is_known {
            let ended = Ended {
                at: Timestamp::EPOCH,
                launch_error: None,
                code: Some(0),
                signal: None,
                out_of_memory: false,
                interference: Interference::None,
                usage: Usage::default(),
                leftovers: 1,
                survivors: 1,
            };
            let path = runner.run_folder(id_of(&assignment())).ended();
            fs::write(path, serde_json::to_vec(&ended).expect("JSON")).expect("written");
        }
        let (report, lines) = run(&runner, true).await;
        assert_eq!(report.outcome, outcome);
        assert_eq!(lines, ["processes could not be ended; see to them on the robot's host"]);
    }
}

/// An attempt that comes again while its left-overs are still being removed waits until they are, and keeps what is its own.
#[tokio::test(start_paused = true)]
async fn nothing_is_prepared_in_a_folder_that_is_being_tidied() {
    let state = tempfile::tempdir().expect("a folder");
    let (runner, assignment) = (runner(&state), assignment());
    let (mut tidy, mut prepare) = (std::pin::pin!(runner.tidy(&[])), std::pin::pin!(runner.prepare(&assignment)));
    assert!(tidy.as_mut().now_or_never().is_none(), "it is tried again");
    assert!(prepare.as_mut().now_or_never().is_none(), "it waits");
    runner.launcher.may_sweep.set(true);
    let ((), prepared) = futures::join!(tidy, prepare);
    assert!(prepared.is_err_and(|report| report.cause.code == CauseCode::PackageInvalid));
    assert!(runner.run_folder(id_of(&assignment)).spool().exists(), "the reason is in its log");
}
