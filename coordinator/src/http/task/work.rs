//! What takers and holders of tasks do: take, renew, note how far they are, and end.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use drover_protocol::{
    QueueId, TaskId,
    page::Items,
    task::{
        CheckpointTask, CommentTask, EndedTask, FailTask, PostponeTask, RenewTask, SucceedTask, TakeTasks, Task,
        TaskError,
    },
};
use serde_json::Value;
use tokio::time::Instant;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{check_schema, full_view, view};
use crate::{
    app::App,
    domain::{self, job::Leases},
    error::{Error, Result as OperationResult},
    http::{
        Fault,
        extract::{Call, MaybePosted, Path, Posted, id},
        once::{self, Answer},
    },
    json_schema::Side,
    operations::{
        Caller,
        idempotency::Repeatable,
        key,
        task::{self, Checkpoint, End, Ended, Ending, Taken, Wanted},
    },
    store::{Reading, Topic, Tx, WakeUp, document::Slot},
};

const MAX_WAIT_SECONDS: u64 = 60;
/// Whoever looks for a seldom kind of task may be beaten to it so often before the answer is that there is none.
const MAX_CONTESTS: usize = 10;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(take_tasks))
        .routes(routes!(renew_task))
        .routes(routes!(succeed_task))
        .routes(routes!(fail_task))
        .routes(routes!(postpone_task))
        .routes(routes!(checkpoint_task))
        .routes(routes!(comment_task))
        .routes(routes!(retry_task))
}

/// A request to take tasks, read and checked.
struct Taking {
    queue: QueueId,
    request: TakeTasks,
    wanted: Wanted,
    call: Option<Repeatable>,
}

/// Take tasks of a queue
///
/// They come in strict order: those whose deadline has passed (the earliest first), then by priority, then first in first
/// out. Whoever takes a task holds it for the queue's `lease_seconds`; a task that is taken with the key of a job is kept
/// as long as the heartbeats of that job come. With `wait_seconds` the call waits for the first task, and is answered at
/// once when there is one. An empty list means that there is none. Fewer tasks than asked come if their payloads are large,
/// or if the filter fits few of very many.
#[utoipa::path(post, path = "/queues/{queue}/take", tag = "Task", request_body = TakeTasks,
    params(("queue" = String, Path, description = "Id or name of the queue"), Call),
    responses((status = 200, body = Items<Task>)))]
async fn take_tasks(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    MaybePosted(posted): MaybePosted<TakeTasks>,
) -> Result<Response, Fault> {
    let (request, call) = (posted.body, posted.call);
    if let Some(first) = once::replay(&app, &caller, call.as_ref())? {
        return Ok(first);
    }
    let wanted = task::check_take(&request)?;
    let wait_seconds = request.wait_seconds.unwrap_or_default();
    if wait_seconds > MAX_WAIT_SECONDS {
        return Err(Error::invalid("/wait_seconds", format!("must be from 0 to {MAX_WAIT_SECONDS}")).into());
    }
    let ends_at = Instant::now() + Duration::from_secs(wait_seconds);
    let first = app.db.read(caller.account, |reading| task::look(reading, &caller, &text))?;
    let queue = first.queue;
    let taking = Arc::new(Taking { queue, request, wanted, call });
    if wait_seconds == 0 {
        let waits = first.ready > 0 && !first.paused;
        let taken = if waits { take(&app, &caller, &taking).await? } else { None };
        return Ok(taken.map_or_else(nothing, |(answer, _)| answer));
    }
    let mut woken: Option<WakeUp> = None;
    loop {
        // Armed before the look, so that nothing in between is missed.
        let watch = app.db.watch(&[Topic::Queue(queue), Topic::Pause(queue), Topic::Key(caller.key_id)]);
        let (caller, seen) = app.db.read(caller.account, |reading| {
            let caller = key::renewed(reading, &caller)?;
            let seen = task::look(reading, &caller, &text)?;
            Ok((caller, seen))
        })?;
        if seen.ready > 0 && !seen.paused {
            if seen.ready > u64::from(taking.request.max.unwrap_or(1)) {
                // The next one need not wait for this one's transaction.
                woken = None;
            }
            if let Some((answer, more_waits)) = take(&app, &caller, &taking).await? {
                if !more_waits {
                    settle_if_nothing_is_left(&app, &caller, &text, [Some(watch.end()), woken]);
                }
                return Ok(answer);
            }
        } else {
            woken.take().into_iter().for_each(WakeUp::settle);
        }
        // What is there suits this one not: perhaps the next one.
        drop(woken.take());
        let pause_ends = seen.pause_ends_in.map_or(ends_at, |time| Instant::now() + time);
        tokio::select! {
            biased;
            () = app.stopping.cancelled() => return Ok(nothing()),
            () = tokio::time::sleep_until(ends_at) => return Ok(nothing()),
            () = watch.woken() => {}
            () = tokio::time::sleep_until(pause_ends), if pause_ends < ends_at => {}
        }
        woken = Some(watch.end());
    }
}

/// A wake-up goes on to the next taker, by being dropped, if a task has come since this one looked: it was told of it and
/// has its own already.
fn settle_if_nothing_is_left(app: &App, caller: &Caller, queue: &str, wake_ups: [Option<WakeUp>; 2]) {
    if !wake_ups.iter().flatten().any(WakeUp::is_for_one) {
        return;
    }
    // If it cannot be said whether one waits, looking once more does no harm.
    let seen = app.db.read(caller.account, |reading| task::look(reading, caller, queue));
    if seen.is_ok_and(|seen| seen.ready == 0 || seen.paused) {
        wake_ups.into_iter().flatten().for_each(WakeUp::settle);
    }
}

fn nothing() -> Response {
    Json(Items::<Task> { items: Vec::new() }).into_response()
}

/// Takes what is there; the answer, if that is anything, and whether more waits.
async fn take(app: &Arc<App>, caller: &Caller, taking: &Arc<Taking>) -> Result<Option<(Response, bool)>, Fault> {
    let queue = taking.queue;
    let mut wanted = taking.wanted.clone();
    for _ in 0..MAX_CONTESTS {
        let (taken, answer) = match &taking.call {
            None => (take_once(app, caller, taking, wanted).await?, None),
            Some(call) => take_and_keep(app, caller, taking, wanted, call.clone()).await?,
        };
        let further = taken.further;
        let more_waits = taken.more_waits;
        match answer {
            Some(answer) => return Ok(Some((answer, more_waits))),
            None if !taken.tasks.is_empty() => {
                let leases = app.rules.leases;
                // Payloads are read here and not in the transaction: the writer is one thread for all.
                let items = app.db.read(caller.account, |reading| {
                    taken.tasks.into_iter().map(|task| full_view(reading, task, &leases)).collect()
                })?;
                return Ok(Some((Json(Items::<Task> { items }).into_response(), more_waits)));
            }
            None => {}
        }
        let Some(mut position) = further else { return Ok(None) };
        wanted = loop {
            let (max, filter) = (taking.request.max.unwrap_or(1) as usize, taking.wanted.clone());
            let found = app
                .read_aside(caller.account, move |reading| task::find_further(reading, queue, &filter, max, position))
                .await?;
            match found {
                (named, _) if !named.ids.is_empty() => break named,
                (_, Some(next)) => position = next,
                (_, None) => return Ok(None),
            }
        };
    }
    Ok(None)
}

async fn take_once(app: &Arc<App>, caller: &Caller, taking: &Arc<Taking>, wanted: Wanted) -> Result<Taken, Fault> {
    let (caller, taking) = (caller.clone(), Arc::clone(taking));
    let account = caller.account;
    Ok(app.db.write(account, move |tx| task::take(tx, &caller, taking.queue, &taking.request, &wanted)).await?)
}

/// The same with an answer that is kept for repetitions, which has to be made in the transaction. That nothing was there is
/// not kept.
async fn take_and_keep(
    app: &Arc<App>,
    caller: &Caller,
    taking: &Arc<Taking>,
    wanted: Wanted,
    call: Repeatable,
) -> Result<(Taken, Option<Response>), Fault> {
    let leases = app.rules.leases;
    let seen = Arc::new(parking_lot::Mutex::new(Taken::default()));
    let (told, taking) = (Arc::clone(&seen), Arc::clone(taking));
    let answer = once::write_or_refuse(app, caller.clone(), Some(call), move |tx: &mut Tx, caller: &Caller| {
        let taken = task::take(tx, caller, taking.queue, &taking.request, &wanted)?;
        *told.lock() = Taken { tasks: Vec::new(), more_waits: taken.more_waits, further: taken.further };
        if taken.tasks.is_empty() {
            return Ok(Err(Error::NotFound("task")));
        }
        let views = taken.tasks.into_iter().map(|task| full_view(tx, task, &leases));
        Ok(Ok(Answer::ok(Items::<Task> { items: views.collect::<OperationResult<_>>()? })))
    })
    .await;
    let taken = std::mem::take(&mut *seen.lock());
    match answer {
        Ok(answer) => Ok((taken, Some(answer))),
        Err(fault) if fault.code() == drover_protocol::problem::Code::NotFound => Ok((taken, None)),
        Err(fault) => Err(fault),
    }
}

/// An action of a holder that leaves the task with it, or of a person, whose answer is the task without its documents.
async fn act(
    app: Arc<App>,
    caller: Caller,
    call: Option<Repeatable>,
    action: impl FnOnce(&mut Tx, &Caller) -> OperationResult<domain::task::Task> + Send + 'static,
) -> Result<Response, Fault> {
    let leases = app.rules.leases;
    once::write(&app, caller, call, move |tx, caller| {
        let task = action(tx, caller)?;
        Ok(Answer::ok(view(tx, task, &leases)?))
    })
    .await
}

/// Hold a task for another lease
///
/// Not needed for a task that was taken with the key of a job: the heartbeat of that job renews it.
#[utoipa::path(post, path = "/tasks/{task}/renew", tag = "Task", request_body = RenewTask,
    params(("task" = String, Path, description = "Id of the task"), Call), responses((status = 200, body = Task)))]
async fn renew_task(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    request: Posted<RenewTask>,
) -> Result<Response, Fault> {
    let id: TaskId = id(&text, "task")?;
    let attempt = request.body.attempt;
    act(app, caller, request.call, move |tx, caller| task::renew(tx, caller, id, attempt)).await
}

/// Keep how far a task has got
///
/// The next attempt gets the checkpoint with the task, should this one not come to its end.
#[utoipa::path(post, path = "/tasks/{task}/checkpoint", tag = "Task", request_body = CheckpointTask,
    params(("task" = String, Path, description = "Id of the task"), Call), responses((status = 200, body = Task)))]
async fn checkpoint_task(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    request: Posted<CheckpointTask>,
) -> Result<Response, Fault> {
    let id: TaskId = id(&text, "task")?;
    let (attempt, body) = (request.body.attempt, request.body);
    let noted = Checkpoint { checkpoint: task::to_json(&body.checkpoint, "checkpoint")?, progress: body.progress };
    noted.check()?;
    act(app, caller, request.call, move |tx, caller| task::checkpoint(tx, caller, id, attempt, noted)).await
}

/// Comment on a task
///
/// The comment takes the place of the one before, which stays in the events of the task.
#[utoipa::path(post, path = "/tasks/{task}/comment", tag = "Task", request_body = CommentTask,
    params(("task" = String, Path, description = "Id of the task"), Call), responses((status = 200, body = Task)))]
async fn comment_task(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    request: Posted<CommentTask>,
) -> Result<Response, Fault> {
    let id: TaskId = id(&text, "task")?;
    act(app, caller, request.call, move |tx, caller| task::comment(tx, caller, id, &request.body)).await
}

/// Let a task be tried again now
///
/// It is the same task, with a further attempt: for failed, abandoned and postponed ones. The history of its attempts stays.
#[utoipa::path(post, path = "/tasks/{task}/retry", tag = "Task",
    params(("task" = String, Path, description = "Id of the task"), Call), responses((status = 200, body = Task)))]
async fn retry_task(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    call: Call,
) -> Result<Response, Fault> {
    let id: TaskId = id(&text, "task")?;
    act(app, caller, call.0, move |tx, caller| task::retry(tx, caller, id)).await
}

/// End a task well
///
/// The same call again is success and changes nothing; one with another result is refused, and that result is kept as an
/// event. With `take_next` the next task of the same queue is taken in the same transaction; a repetition gives the same next
/// task, as long as it is held, and takes none itself.
#[utoipa::path(post, path = "/tasks/{task}/succeed", tag = "Task", request_body = SucceedTask,
    params(("task" = String, Path, description = "Id of the task"), Call), responses((status = 200, body = EndedTask)))]
async fn succeed_task(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    request: Posted<SucceedTask>,
) -> Result<Response, Fault> {
    let id: TaskId = id(&text, "task")?;
    if let Some(first) = once::replay(&app, &caller, request.call.as_ref())? {
        return Ok(first);
    }
    let body = request.body;
    let json = body.output.as_ref().map(|output| task::to_json(output, "output")).transpose()?;
    if let Some(output) = &body.output {
        let schema = app.db.read(caller.account, |reading| task::output_schema(reading, &caller, id, body.attempt))?;
        check_schema(&app, &caller, schema, Side::Output, output, "/output").await?;
    }
    let ending = End::new(body.attempt, Ending::Succeed { output: json }, body.take_next.unwrap_or_default())?;
    end(app, caller, request.call, id, ending, body.output).await
}

/// End an attempt at a task with an error
///
/// Whether the task is tried again its queue decides by the kind of the error, or the call with `retry`; attempts are
/// limited in any case. The same call again is success and changes nothing; one with another result is refused and kept as
/// an event.
#[utoipa::path(post, path = "/tasks/{task}/fail", tag = "Task", request_body = FailTask,
    params(("task" = String, Path, description = "Id of the task"), Call), responses((status = 200, body = EndedTask)))]
async fn fail_task(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    request: Posted<FailTask>,
) -> Result<Response, Fault> {
    let id: TaskId = id(&text, "task")?;
    let body = request.body;
    let json = body.output.as_ref().map(|output| task::to_json(output, "output")).transpose()?;
    let error = TaskError { kind: body.kind, code: body.code, message: body.message };
    let ending = Ending::Fail { error, retry: body.retry, output: json };
    let ending = End::new(body.attempt, ending, body.take_next.unwrap_or_default())?;
    end(app, caller, request.call, id, ending, body.output).await
}

/// Put a task back for later, with its state
///
/// The next attempt gets the checkpoint with the task. The same call again is success and changes nothing; another end is
/// refused and kept as an event.
#[utoipa::path(post, path = "/tasks/{task}/postpone", tag = "Task", request_body = PostponeTask,
    params(("task" = String, Path, description = "Id of the task"), Call), responses((status = 200, body = EndedTask)))]
async fn postpone_task(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
    request: Posted<PostponeTask>,
) -> Result<Response, Fault> {
    let id: TaskId = id(&text, "task")?;
    let body = request.body;
    let checkpoint = body.checkpoint.as_ref().map(|json| task::to_json(json, "checkpoint")).transpose()?;
    let counts = body.attempt_counts.unwrap_or_default();
    let ending = Ending::Postpone { until: body.until, checkpoint, counts };
    let ending = End::new(body.attempt, ending, body.take_next.unwrap_or_default())?;
    end(app, caller, request.call, id, ending, None).await
}

/// Ends an attempt. The output is what the answer shows when the end was new.
async fn end(
    app: Arc<App>,
    caller: Caller,
    call: Option<Repeatable>,
    id: TaskId,
    ending: End,
    output: Option<Value>,
) -> Result<Response, Fault> {
    let leases = app.rules.leases;
    let takes_next = ending.takes_next();
    let Some(call) = call else {
        let account = caller.account;
        let ended = app.db.write(account, move |tx: &mut Tx| task::end(tx, &caller, id, ending)).await?;
        // What is told of the next task is read here and not in the transaction: the writer is one thread for all.
        let answer = app.db.read(account, |reading| told(reading, ended, output, takes_next, &leases))??;
        return Ok(once::answer(answer)?);
    };
    once::write_or_refuse(&app, caller, Some(call), move |tx, caller| {
        let ended = task::end(tx, caller, id, ending)?;
        told(tx, ended, output, takes_next, &leases)
    })
    .await
}

/// The answer to an end; the inner error is the refusal of a late one.
fn told(
    reading: &dyn Reading,
    ended: Ended,
    output: Option<Value>,
    takes_next: bool,
    leases: &Leases,
) -> OperationResult<OperationResult<Answer<EndedTask>>> {
    let (task, output, next) = match ended {
        Ended::Done { task, next } => (task, output, next),
        Ended::Again { task, next } => {
            let output = if task.has_output { task::document(reading, task.id, Slot::Output)? } else { None };
            (task, output, next)
        }
        Ended::Late(refusal) => return Ok(Err(refusal)),
    };
    let task = Box::new(Task { output, ..view(reading, *task, leases)? });
    let next = next.map(|next| full_view(reading, *next, leases)).transpose()?.map(Box::new);
    let answer = if takes_next { EndedTask::WithNext { task, next } } else { EndedTask::Alone(task) };
    Ok(Ok(Answer::ok(answer)))
}
