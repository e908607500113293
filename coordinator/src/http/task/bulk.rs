//! The same done to many tasks at once.

use std::{collections::HashSet, sync::Arc};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use drover_protocol::{
    QueueId, TaskId,
    problem::Code,
    task::{BulkAction, BulkActionDone},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::check_schema;
use crate::{
    app::App,
    domain,
    http::{
        Fault,
        extract::{Call, Posted},
        once::{self, Answer},
    },
    json_schema::Side,
    operations::{
        Caller,
        task::{self, BulkChange},
    },
    store::{Tx, document::Slot},
};

/// Tasks that are changed in one transaction.
const PAGE: usize = 100;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(act_on_tasks))
}

/// Those of some tasks, each with its revision, whose payloads fit the schema of the queue.
async fn taken_by(
    app: &App,
    caller: &Caller,
    queue: QueueId,
    tasks: Vec<(TaskId, u64)>,
) -> Result<Vec<(TaskId, u64)>, Fault> {
    let schema = app.db.read(caller.account, |reading| task::payload_schema(reading, queue))?;
    if schema.is_none() {
        return Ok(tasks);
    }
    let mut taken = Vec::with_capacity(tasks.len());
    for (id, revision) in tasks {
        let payload = app.db.read(caller.account, |reading| task::document(reading, id, Slot::Payload))?;
        // One that has been deleted meanwhile is found missing when it is to be moved.
        let payload = payload.unwrap_or_default();
        match check_schema(app, caller, schema, Side::Input, &payload, "/payload").await {
            Ok(()) => taken.push((id, revision)),
            Err(fault) if fault.code() == Code::Invalid => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(taken)
}

/// How many of those that would be moved the other queue does not take for their references.
fn refused_for_references(
    app: &App,
    caller: &Caller,
    change: BulkChange,
    found: &[domain::task::Task],
    fitting: &[(TaskId, u64)],
    references: &mut task::References,
) -> Result<usize, Fault> {
    let BulkChange::Move(queue) = change else { return Ok(0) };
    let fitting: HashSet<TaskId> = fitting.iter().map(|(id, _)| *id).collect();
    let moved = found.iter().filter(|task| fitting.contains(&task.id));
    Ok(app.db.read(caller.account, |reading| references.count_refused(reading, queue, moved))?)
}

/// Do the same to all tasks that a filter matches
///
/// With `dry_run` nothing is done but counting. Tasks in a state that the action does not fit are matched but not changed; so
/// are, with `move`, those that the other queue does not take: `not_taken` counts them.
/// It works in steps: tasks that come while it runs may be left out, and if it is interrupted, what was done stays done and
/// the same call does the rest.
#[utoipa::path(post, path = "/tasks/bulk-action", tag = "Task", request_body = BulkAction,
    params(Call), responses((status = 200, body = BulkActionDone)))]
async fn act_on_tasks(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Posted<BulkAction>,
) -> Result<Response, Fault> {
    if let Some(first) = once::replay(&app, &caller, request.call.as_ref())? {
        return Ok(first);
    }
    let body = request.body;
    let may = task::permission_of(body.action);
    let (wanted, change) = app.db.read(caller.account, |reading| {
        let wanted = task::checked_filter(reading, &caller, may, &body.filter, "/filter/")?;
        Ok((Arc::new(wanted), task::change_of(reading, &caller, &body)?))
    })?;
    let body = Arc::new(body);
    let mut done = BulkActionDone::default();
    let mut has_begun = false;
    let mut references = task::References::default();
    let mut cursor = None;
    loop {
        let looked = Arc::clone(&wanted);
        let (found, next) =
            app.read_aside(caller.account, move |reading| task::page_of_ids(reading, &looked, cursor)).await?;
        done.matched += found.len() as u64;
        let mut fitting: Vec<_> =
            found.iter().filter(|task| change.fits(task)).map(|task| (task.id, task.revision)).collect();
        if let BulkChange::Move(queue) = change {
            let before = fitting.len();
            fitting = taken_by(&app, &caller, queue, fitting).await?;
            done.not_taken += (before - fitting.len()) as u64;
        }
        if body.dry_run {
            let refused = refused_for_references(&app, &caller, change, &found, &fitting, &mut references)?;
            done.changed += (fitting.len() - refused) as u64;
            done.not_taken += refused as u64;
        } else {
            for seen in fitting.chunks(PAGE) {
                let (seen, asking, wanted) = (seen.to_vec(), caller.clone(), Arc::clone(&wanted));
                let beginning = (!std::mem::replace(&mut has_begun, true)).then(|| Arc::clone(&body));
                let changing = move |tx: &mut Tx| {
                    if let Some(request) = beginning {
                        task::write_down_begin(tx, &asking, &request)?;
                    }
                    task::apply_page(tx, &asking, may, &wanted, change, &seen)
                };
                let page = app.db.write(caller.account, changing).await?;
                done.changed += page.changed;
                done.not_taken += page.not_taken;
            }
        }
        match next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    if body.dry_run && request.call.is_none() {
        return Ok(Json(done).into_response());
    }
    once::write(&app, caller, request.call, move |tx, caller| {
        if !body.dry_run {
            task::write_down(tx, caller, &body, done)?;
        }
        Ok(Answer::ok(done))
    })
    .await
}
