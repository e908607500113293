//! What must hold in the end, and the check of the whole store. What must hold after each commit is in `witness.rs`.

use drover_agent::attempt::AttemptId;
use drover_coordinator::{
    domain::job::{Job, State},
    operations,
    store::check,
};
use drover_protocol::{JobId, job::Outcome, log::LogPage};
use http::StatusCode;
use serde_json::Value;

use crate::{people::read, witness::Witness, world::World};

/// The whole store, both ways: a commit is otherwise only checked for what it has written.
pub fn store(world: &World) {
    let report = check::check(&*world.disk.view()).expect("the store can be read");
    assert!(report.is_sound(), "{report}");
}

pub fn all_finished(world: &World) -> bool {
    let witness = world.disk.witness.lock();
    let all = witness.jobs().all(Job::is_finished) && witness.tasks.unfinished().next().is_none();
    all && witness.triggers.owed().is_empty() && unheard(world, &witness).is_empty()
}

/// Mails that have come, and for which no trigger has fired.
fn unheard(world: &World, witness: &Witness) -> Vec<String> {
    world.mail.subjects().into_iter().filter(|subject| !witness.triggers.has_fired_for(subject)).collect()
}

/// Every task that was acknowledged is there, and what has succeeded was handed on once.
pub fn tasks(world: &World) {
    let witness = world.disk.witness.lock();
    let lost = world.task_wishes.borrow().iter().find(|reference| !witness.tasks.has_reference(reference)).cloned();
    assert_eq!(lost, None, "a task was acknowledged and is not there");
    if let Err(what) = witness.tasks.check_handed_on() {
        panic!("{what}");
    }
    drop(witness);
    world.disk.read(|reading| operations::queue::check_counters(reading).expect("counters are those of the tasks"));
}

/// What has not ended, for the one who looks for the reason.
pub fn what_hangs(world: &World) -> String {
    let witness = world.disk.witness.lock();
    let hanging = witness.jobs().filter(|job| !job.is_finished());
    let lines: Vec<String> = hanging.map(|job| format!("{} {:?} for {:?}", job.id, job.state, job.target)).collect();
    let tasks: Vec<String> = witness.tasks.unfinished().map(|task| format!("{} {:?}", task.id, task.state)).collect();
    let owed = witness.triggers.owed();
    let all = [lines, tasks, owed, unheard(world, &witness)].concat().join("\n");
    format!("faults have ended and still this has not:\n{all}")
}

/// No process runs on for an attempt that is over.
pub fn no_process_is_left(world: &World) {
    let alive = world.processes.alive();
    assert!(alive.is_empty(), "all jobs have finished, and still these processes run: {alive:?}");
}

/// Logs, outputs and artifacts are those of the processes that made them.
pub async fn results(world: &World) {
    let attempts: Vec<(AttemptId, bool)> = {
        let witness = world.disk.witness.lock();
        let of = |attempt: &drover_coordinator::domain::attempt::Attempt| {
            let id = AttemptId { job_id: attempt.job_id, attempt: attempt.attempt };
            (id, attempt.reported.is_some())
        };
        witness.attempts().map(of).collect()
    };
    let mut reported = 0;
    for (id, was_reported) in attempts {
        log(world, id, was_reported).await;
        reported += u64::from(was_reported);
    }
    assert!(reported > 5, "only {reported} attempts were reported in this history; it proves too little");
    let jobs: Vec<Job> = world.disk.witness.lock().jobs().cloned().collect();
    for job in &jobs {
        if let State::Finished { outcome: Outcome::Succeeded, .. } = job.state {
            output(world, job).await;
        }
    }
    artifacts(world).await;
}

/// The log of an attempt whose end was reported has every line of the process, once and in order; another has its
/// beginning.
async fn log(world: &World, id: AttemptId, whole: bool) {
    let path = format!("/jobs/{}/logs?attempt={}&limit=1000", id.job_id, id.attempt);
    let (_, body) = read(world, &path).await;
    let page: LogPage = serde_json::from_slice(&body).expect("a page of a log");
    let lines: Vec<String> = page.items.iter().map(|line| line.line.message.clone()).collect();
    let Some(process) = world.processes.get(id) else {
        return assert_eq!(lines, Vec::<String>::new(), "the log of {id}, of which nothing ever ran");
    };
    let printed: Vec<String> = (1..=process.printed()).map(|number| process.line(number)).collect();
    if whole {
        assert_eq!(lines, printed, "the log of {id}");
    } else {
        assert_eq!(Some(&lines[..]), printed.get(..lines.len()), "the beginning of the log of {id}");
    }
    assert!(page.complete, "the log of {id} is not complete");
}

async fn output(world: &World, job: &Job) {
    let id = AttemptId { job_id: job.id, attempt: job.attempt };
    let (_, body) = read(world, &format!("/jobs/{}", job.id)).await;
    let job: Value = serde_json::from_slice(&body).expect("a job");
    let process = world.processes.get(id).expect("what has succeeded has run");
    assert_eq!(job["output"], process.output(), "the output of {id}");
}

/// What was acknowledged is there with its content, unless a newer attempt has put its own in its place.
async fn artifacts(world: &World) {
    let taken: Vec<((JobId, String), u32)> =
        world.artifacts.borrow().iter().map(|(name, attempt)| (name.clone(), *attempt)).collect();
    for ((job, path), attempt) in taken {
        if world.disk.witness.lock().job(job).is_none() {
            continue;
        }
        let (status, body) = read(world, &format!("/storages/jobs%2F{job}/files/{path}")).await;
        let found = String::from_utf8_lossy(&body);
        assert_eq!(status, StatusCode::OK, "{path} of {job}-{attempt} was taken and is not there: {found}");
        let made_by = |number: u32| {
            let process = world.processes.get(AttemptId { job_id: job, attempt: number });
            process.is_some_and(|process| process.artifacts().any(|(name, content)| name == path && content == found))
        };
        assert!((attempt..attempt + 20).any(made_by), "{path} of {job}-{attempt} has the content \"{found}\"");
    }
}
