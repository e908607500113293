//! What must hold after each step, and at the end.

use std::collections::BTreeMap;

use axum::body::Body;
use drover_agent::attempt::AttemptId;
use drover_coordinator::{
    domain::{
        attempt::Attempt,
        event::Event,
        job::{Job, State},
        robot::Robot,
    },
    store::{Reader, Scan, check, engine::Engine, key::Kind, table},
};
use drover_protocol::{JobId, log::LogPage};

use crate::{
    network::deliver,
    people::MAX_PARALLEL,
    world::{ADMIN_KEY, World},
};

fn jobs(reading: &Reader) -> Vec<Job> {
    let found = Scan::of(reading, Kind::Job, ()).records::<Job>(reading, 100_000).expect("jobs can be read");
    found.into_iter().map(|(_, job)| job).collect()
}

fn with_reader<R>(world: &World, body: impl FnOnce(&Reader) -> R) -> R {
    use drover_coordinator::clock::Clock;
    let view = world.engine.view();
    body(&Reader { view: &*view, account: world.account, now: world.clock.now() })
}

/// The store is sound, limits are kept, nobody works on what is another's, and what has finished stays as it was.
pub fn safety(world: &World) {
    let report = check::check(&*world.engine.view()).expect("the store can be read");
    assert!(report.is_sound(), "{report}");
    with_reader(world, |reading| {
        let jobs = jobs(reading);
        places_are_kept(reading, &jobs);
        at_most_one_process_counts(world, &jobs);
        finished_stays(world, reading, &jobs);
    });
}

fn places_are_kept(reading: &Reader, jobs: &[Job]) {
    let mut held: BTreeMap<_, u32> = BTreeMap::new();
    let mut limited = 0;
    for job in jobs.iter().filter(|job| job.is_held()) {
        *held.entry(job.robot.as_ref().expect("a held job has a holder").id).or_default() += 1;
        limited += u64::from(job.process_name == "limited");
    }
    for (robot, held) in held {
        let robot: Robot = table::get(reading, robot).expect("a holder is there");
        assert!(held <= 3.max(robot.capacity()), "{} holds {held} jobs", robot.name);
    }
    assert!(limited <= MAX_PARALLEL, "{limited} jobs of the limited process are active");
}

/// A process may outlive its attempt until its agent hears of it, but never do two processes count for one job.
fn at_most_one_process_counts(world: &World, jobs: &[Job]) {
    let processes = world.processes.borrow();
    for job in jobs.iter().filter(|job| job.is_held()) {
        let id = AttemptId { job_id: job.id, attempt: job.attempt };
        let Some(process) = processes.get(&id).filter(|process| process.is_alive()) else { continue };
        let holder = &job.robot.as_ref().expect("a held job has a holder").name;
        assert_eq!(*holder, format!("robot-{}", process.robot), "{id} runs on a robot that does not hold it");
    }
}

/// How often a person has asked for one more attempt; only that brings a finished job back.
fn retries_asked(reading: &Reader, job: JobId) -> usize {
    let found =
        Scan::of(reading, Kind::Event, job.uuid()).records::<Event>(reading, 10_000).expect("events can be read");
    found.iter().filter(|(_, event)| event.code == "retry_asked").count()
}

fn finished_stays(world: &World, reading: &Reader, jobs: &[Job]) {
    let mut finished = world.finished.borrow_mut();
    for job in jobs {
        if let State::Finished { outcome, .. } = job.state {
            let before = finished.insert((job.id, retries_asked(reading, job.id)), outcome);
            assert!(before.is_none_or(|before| before == outcome), "{} ended twice", job.id);
        }
    }
}

pub fn all_finished(world: &World) -> bool {
    with_reader(world, |reading| jobs(reading).iter().all(Job::is_finished))
}

/// What has not ended, for the one who looks for the reason.
pub fn what_hangs(world: &World) -> String {
    with_reader(world, |reading| {
        let hanging = jobs(reading).into_iter().filter(|job| !job.is_finished());
        let lines: Vec<String> = hanging.map(|job| format!("{} {:?}", job.id, job.state)).collect();
        format!("faults have ended and still this has not:\n{}", lines.join("\n"))
    })
}

/// The log of each attempt that its agent reported has every line of the process, once and in order.
pub async fn logs(world: &World) {
    let attempts: Vec<Attempt> = with_reader(world, |reading| {
        let found = Scan::of(reading, Kind::Attempt, ()).records(reading, 100_000).expect("attempts can be read");
        found.into_iter().map(|(_, attempt)| attempt).collect()
    });
    let mut checked = 0;
    for attempt in attempts.into_iter().filter(|attempt| attempt.reported.is_some()) {
        let id = AttemptId { job_id: attempt.job_id, attempt: attempt.attempt };
        let Some(process) = world.processes.borrow().get(&id).cloned() else { continue };
        let path = format!("/api/v1/jobs/{}/logs?attempt={}&limit=1000", id.job_id, id.attempt);
        let request = http::Request::get(path)
            .header("authorization", format!("Bearer {ADMIN_KEY}"))
            .body(Body::empty())
            .expect("a request");
        let answer = deliver(world, request).await.expect("the coordinator lives");
        let page: LogPage = serde_json::from_slice(&answer.body).expect("a page of a log");
        let lines: Vec<String> = page.items.iter().map(|line| line.line.message.clone()).collect();
        let printed: Vec<String> = (1..=process.printed()).map(|n| format!("line {n}")).collect();
        assert_eq!(lines, printed, "the log of {id}");
        assert!(page.complete, "the log of {id} is not complete");
        checked += 1;
    }
    assert!(checked > 10, "only {checked} attempts were reported in this history; it proves too little");
}
