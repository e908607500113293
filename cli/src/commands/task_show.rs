//! What can be seen of a task: itself, its attempts, its line in a list.

use drover_protocol::task::{Task, TaskAttempt, TaskError, TaskErrorKind, TaskState};
use serde_json::Value;

use crate::{
    commands::{ListArgs, list, task::NOUN},
    error::Error,
    output::{Shown, Tone, moment, moment_opt, number, printable, size, toned},
    session::Session,
};

/// Longer texts are cut in tables; `drover task show` has the whole.
const MAX_CELL_CHARS: usize = 100;

pub async fn show(session: &Session, id: &str) -> Result<(), Error> {
    let answer = session.client.get(&[NOUN, id])?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let task: Task = answer.decode()?;
    let files = task.files.iter().flatten().map(|file| format!("{} ({})", file.name, size(file.size_bytes)));
    let holder = task.holder.as_ref().map(|holder| match holder.job_id {
        Some(job) => format!("job {job}"),
        None => holder.by.clone(),
    });
    let attempts = match task.max_attempts {
        Some(most) => format!("{} ({} of {most} count)", task.attempt, task.tries),
        None => format!("{} ({} count)", task.attempt, task.tries),
    };
    session.out.fields(vec![
        ("id", task.id.to_string().into()),
        ("queue", task.queue_id.to_string().into()),
        ("reference", task.reference.clone().unwrap_or_default().into()),
        ("name", task.name.clone().unwrap_or_default().into()),
        ("state", state(task.state)),
        ("error", task.error.as_ref().map_or("".into(), |error| toned(error_in_words(error), Tone::Bad))),
        ("progress", progress(&task).into()),
        ("held by", holder.unwrap_or_default().into()),
        ("lease ends", moment_opt(task.lease_ends_at).into()),
        ("attempts", attempts.into()),
        ("priority", task.priority.to_string().into()),
        ("deadline", moment_opt(task.deadline).into()),
        ("not before", moment_opt(task.postponed_until).into()),
        ("tags", task.tags.join(", ").into()),
        ("comment", task.comment.clone().unwrap_or_default().into()),
        ("added", moment(task.created_at).into()),
        ("started", moment_opt(task.started_at).into()),
        ("finished", moment_opt(task.finished_at).into()),
        ("made of task", task.origin_task_id.map(|id| id.to_string()).unwrap_or_default().into()),
        ("files", files.collect::<Vec<_>>().join(", ").into()),
        ("payload", pretty(task.payload.as_ref()).into()),
        ("checkpoint", pretty(task.checkpoint.as_ref()).into()),
        ("output", pretty(task.output.as_ref()).into()),
    ])
}

pub async fn attempts(session: &Session, args: &ListArgs, id: &str) -> Result<(), Error> {
    let listed = list::<TaskAttempt, _>(session, args, |session| session.client.get(&[NOUN, id, "attempts"])).await?;
    let Some(attempts) = listed else { return Ok(()) };
    if attempts.is_empty() {
        return session.out.line("Nobody has taken it yet.");
    }
    let rows = attempts.into_iter().map(|attempt| {
        let end = attempt.end.and_then(|end| serde_json::to_value(end).ok());
        vec![
            attempt.attempt.to_string().into(),
            end.as_ref().and_then(Value::as_str).unwrap_or("goes on").into(),
            attempt.holder.job_id.map_or(attempt.holder.by, |job| format!("job {job}")).into(),
            moment(attempt.started_at).into(),
            moment_opt(attempt.ended_at).into(),
            attempt.error.as_ref().map(error_in_words).unwrap_or_default().into(),
        ]
    });
    session.out.table(&["ATTEMPT", "ENDED AS", "HELD BY", "STARTED", "ENDED", "ERROR"], rows.collect())
}

/// A line of a list.
pub fn row(task: Task) -> Vec<Shown> {
    let last = match &task.error {
        Some(error) => toned(cut(&error_in_words(error)), Tone::Bad),
        None => cut(&progress(&task)).into(),
    };
    vec![
        task.id.to_string().into(),
        task.reference.or(task.name).unwrap_or_default().into(),
        state(task.state),
        number(task.priority),
        moment(task.created_at).into(),
        last,
    ]
}

fn state(state: TaskState) -> Shown {
    let tone = match state {
        TaskState::New | TaskState::Postponed => Tone::Plain,
        TaskState::InProgress | TaskState::Succeeded => Tone::Good,
        TaskState::Failed | TaskState::Abandoned => Tone::Bad,
    };
    toned(state.as_str(), tone)
}

fn error_in_words(error: &TaskError) -> String {
    let kind = match error.kind {
        TaskErrorKind::Business => "business",
        TaskErrorKind::Application => "application",
    };
    match &error.code {
        Some(code) => format!("{kind} ({code}): {}", error.message),
        None => format!("{kind}: {}", error.message),
    }
}

fn progress(task: &Task) -> String {
    let Some(progress) = &task.progress else { return String::new() };
    let percent = progress.percent.map(|percent| format!("{percent:.0} % ")).unwrap_or_default();
    format!("{percent}{}", progress.text.as_deref().unwrap_or_default())
}

fn cut(text: &str) -> String {
    let text = printable(text).replace('\n', " ");
    if text.chars().count() <= MAX_CELL_CHARS {
        return text;
    }
    text.chars().take(MAX_CELL_CHARS - 1).chain(['…']).collect()
}

fn pretty(value: Option<&Value>) -> String {
    value.and_then(|value| serde_json::to_string_pretty(value).ok()).unwrap_or_default()
}
