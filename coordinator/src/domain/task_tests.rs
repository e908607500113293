//! Proves the life of a task: the whole table of state × event is a file, so that a change of a rule is a visible diff.

use uuid::Uuid;

use super::*;

const TABLE: &str = include_str!("task_table.golden");

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000 + seconds * 1000)
}

fn holder() -> Holder {
    let job = HolderJob {
        id: JobId::from_uuid(Uuid::from_u128(5)),
        attempt: 1,
        robot: RobotId::from_uuid(Uuid::from_u128(6)),
    };
    Holder { by: "job:5".to_owned(), job: Some(job) }
}

fn error(kind: TaskErrorKind) -> TaskError {
    TaskError { kind, code: None, message: "because".to_owned() }
}

fn task(state: State) -> Task {
    let taken = !matches!(state, State::New { .. });
    let ended = matches!(state, State::Succeeded | State::Failed | State::Abandoned);
    let newest = taken.then(|| Attempt {
        number: 1,
        holder: holder(),
        started_at: at(-10),
        ended_at: None,
        end: None,
        error: None,
        ended_by_holder: false,
        end_digest: None,
        next: None,
        late_digests: Vec::new(),
    });
    Task {
        id: TaskId::from_uuid(Uuid::from_u128(7)),
        queue_id: QueueId::from_uuid(Uuid::from_u128(8)),
        reference: None,
        name: None,
        error: (state == State::Failed).then(|| error(TaskErrorKind::Application)),
        state,
        priority: 2,
        deadline: None,
        tags: Vec::new(),
        comment: None,
        attempt: u32::from(taken),
        tries: u32::from(taken),
        max_attempts: None,
        newest,
        progress: None,
        payload_bytes: 2,
        has_output: false,
        has_checkpoint: false,
        without_files: true,
        created_at: at(-100),
        finished_at: ended.then(|| at(-1)),
        origin_task_id: None,
        revision: 1,
    }
}

fn states() -> Vec<(&'static str, State)> {
    vec![
        ("new", State::New { abandon_at: None }),
        ("new, taken in time", State::New { abandon_at: Some(at(9)) }),
        ("new, not taken in time", State::New { abandon_at: Some(at(0)) }),
        ("in progress", State::InProgress { lease_ends_at: at(9) }),
        ("in progress, lease out", State::InProgress { lease_ends_at: at(0) }),
        ("postponed", State::Postponed { until: at(9) }),
        ("postponed, its time has come", State::Postponed { until: at(0) }),
        ("succeeded", State::Succeeded),
        ("failed", State::Failed),
        ("abandoned", State::Abandoned),
    ]
}

fn events() -> Vec<(&'static str, TaskEvent)> {
    use TaskErrorKind::{Application, Business};
    let fail = |attempt, kind, retry| TaskEvent::Fail { attempt, error: error(kind), retry, chance: 0 };
    vec![
        ("take", TaskEvent::Take { holder: holder() }),
        ("renew", TaskEvent::Renew { attempt: 1 }),
        ("renew of another attempt", TaskEvent::Renew { attempt: 2 }),
        ("succeed", TaskEvent::Succeed { attempt: 1 }),
        ("succeed of another attempt", TaskEvent::Succeed { attempt: 2 }),
        ("fail, application", fail(1, Application, None)),
        ("fail, application, no retry", fail(1, Application, Some(false))),
        ("fail, business", fail(1, Business, None)),
        ("fail, business, retry", fail(1, Business, Some(true))),
        ("fail of another attempt", fail(2, Application, None)),
        ("postpone", TaskEvent::Postpone { attempt: 1, until: at(60), counts: true }),
        ("postpone to a past time", TaskEvent::Postpone { attempt: 1, until: at(-60), counts: true }),
        ("postpone of another attempt", TaskEvent::Postpone { attempt: 2, until: at(60), counts: true }),
        (
            "checkpoint",
            TaskEvent::Checkpoint { attempt: 1, progress: Some(Progress { percent: Some(1.0), text: None }) },
        ),
        ("checkpoint of another attempt", TaskEvent::Checkpoint { attempt: 2, progress: None }),
        ("its job ends", TaskEvent::JobEnded { error: error(Application), chance: 0 }),
        ("its job is heard of", TaskEvent::JobHeard { lease_ends_at: at(99) }),
        ("retry", TaskEvent::Retry { by: "user:u".to_owned() }),
        ("delay", TaskEvent::Delay { until: at(60), by: "user:u".to_owned() }),
        ("time passes", TaskEvent::Tick { chance: 0 }),
    ]
}

/// Rules with so many attempts, and repetitions after `delay_seconds`.
fn with_rules<R>(max_attempts: u32, delay_seconds: u64, body: impl FnOnce(&Rules<'_>) -> R) -> R {
    let retry = TaskRetry { delay_seconds, factor: 3.0, max_delay_seconds: 1_000, ..TaskRetry::default() };
    body(&Rules { max_attempts, retry: &retry, lease_seconds: 600, abandon_new_after_seconds: None })
}

fn shown(task: &Task) -> String {
    let seconds = |time: Timestamp| (time.millis() - at(0).millis()) / 1000;
    let state = match task.state {
        State::New { abandon_at: None } => "new".to_owned(),
        State::New { abandon_at: Some(time) } => format!("new until {}s", seconds(time)),
        State::InProgress { lease_ends_at } => format!("in progress until {}s", seconds(lease_ends_at)),
        State::Postponed { until } => format!("postponed until {}s", seconds(until)),
        State::Succeeded | State::Failed | State::Abandoned => task.state.kind().as_str().to_owned(),
    };
    format!("{state}, attempt {}", task.attempt)
}

fn result_of(state: State, event: TaskEvent, max_attempts: u32) -> String {
    let before = task(state);
    match with_rules(max_attempts, 30, |rules| step(before.clone(), event, rules, at(0))) {
        Err(Refusal::StaleAttempt { .. }) => "refused: stale attempt".to_owned(),
        Err(Refusal::WrongState(_)) => "refused: wrong state".to_owned(),
        Ok(step) if step.task == before => "nothing".to_owned(),
        Ok(step) => shown(&step.task),
    }
}

/// Any change of a rule shows in the file; run with `UPDATE_GOLDEN=1` to write it anew, and read the diff.
#[test]
fn the_whole_table_is_as_written_down() {
    let mut table = String::from(
        "# state × event → result with one attempt | with a second one after 30 s. Times are seconds from the event.\n",
    );
    for (state_name, state) in states() {
        table.push_str(&format!("\n{state_name}\n"));
        for (event_name, event) in events() {
            let one = result_of(state.clone(), event.clone(), 1);
            let two = result_of(state.clone(), event, 2);
            let both = if one == two { one } else { format!("{one} | {two}") };
            table.push_str(&format!("    {event_name:30} {both}\n"));
        }
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/domain/task_table.golden"), &table).unwrap();
        return;
    }
    assert_eq!(table, TABLE, "the rules of a task have changed");
}

/// An ended task stays as it is, whatever its former holders say and however long it lies; only people move it.
#[test]
fn an_ended_task_never_changes_by_itself() {
    for state in [State::Succeeded, State::Failed, State::Abandoned] {
        for (name, event) in events().into_iter().filter(|(name, _)| *name != "retry") {
            let before = task(state.clone());
            if let Ok(step) = with_rules(9, 0, |rules| step(before.clone(), event, rules, at(1_000_000))) {
                assert_eq!(step.task, before, "{name}");
            }
        }
    }
}

/// What is due is done by one tick at its time, or the loop that ticks would spin; and a held task is let go in the end.
#[test]
fn a_tick_at_its_time_always_moves_it() {
    for (name, state) in states() {
        let before = task(state);
        let Some(due) = before.due_at() else { continue };
        let tick = TaskEvent::Tick { chance: 255 };
        let after = with_rules(2, 30, |rules| step(before.clone(), tick, rules, due)).unwrap().task;
        assert_ne!(after.due_at(), before.due_at(), "{name}");
        assert_ne!(after.state, before.state, "{name}");
    }
}

/// Each repetition waits longer by the factor, and by chance at most a quarter more, up to the longest delay.
#[test]
fn delays_grow_by_the_factor_and_differ_by_chance() {
    let retry = TaskRetry { delay_seconds: 10, factor: 3.0, max_delay_seconds: 100, ..TaskRetry::default() };
    let delays: Vec<i64> = (1..=4).map(|tries| delay_millis(&retry, tries, 0)).collect();
    assert_eq!(delays, [10_000, 30_000, 90_000, 100_000]);
    assert_eq!(delay_millis(&retry, 1, 255), 12_500);
    assert_eq!(delay_millis(&retry, 4, 255), 100_000, "chance does not pass the longest delay");
    assert_eq!(delay_millis(&retry, u32::MAX, 0), 100_000, "a huge power is no reason to wait less");
}

/// Attempts that were put back do not use the task up, unless its holder says so.
#[test]
fn putting_back_costs_no_attempt_unless_it_is_meant_to() {
    for (counts, tries) in [(false, 0), (true, 1)] {
        let held = task(State::InProgress { lease_ends_at: at(9) });
        let event = TaskEvent::Postpone { attempt: 1, until: at(60), counts };
        let put_back = with_rules(1, 0, |rules| step(held, event, rules, at(0))).unwrap().task;
        assert_eq!((put_back.tries, put_back.attempt), (tries, 1));
    }
}

/// The attempt before is handed out when the next one begins, so that history is complete.
#[test]
fn history_is_handed_out_when_the_next_attempt_begins() {
    let held = task(State::InProgress { lease_ends_at: at(9) });
    let fail = TaskEvent::Fail { attempt: 1, error: error(TaskErrorKind::Application), retry: None, chance: 0 };
    let failed = with_rules(2, 0, |rules| step(held, fail, rules, at(0))).unwrap();
    assert!(failed.task.phase().is_ready() && failed.history.is_none());
    let taken =
        with_rules(2, 0, |rules| step(failed.task, TaskEvent::Take { holder: holder() }, rules, at(5))).unwrap();
    let history = taken.history.expect("the first attempt is history now");
    assert_eq!((history.number, history.end, history.ended_at), (1, Some(TaskAttemptEnd::Failed), Some(at(0))));
    assert_eq!(taken.task.attempt, 2);
}
