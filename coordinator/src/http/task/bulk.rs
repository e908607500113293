//! The same done to many tasks at once.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use drover_protocol::task::{BulkAction, BulkActionDone};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    http::{
        Fault,
        extract::{Call, Posted},
        once::{self, Answer},
    },
    operations::{Caller, task},
};

/// Tasks that are changed in one transaction.
const PAGE: usize = 100;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(act_on_tasks))
}

/// Do the same to all tasks that a filter matches
///
/// With `dry_run` nothing is done but counting. Tasks in a state that the action does not fit are matched but not changed.
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
    let (wanted, change) = app.db.read(caller.account, |reading| {
        let may = task::permission_of(body.action);
        let wanted = task::checked_filter(reading, &caller, may, &body.filter, "/filter/")?;
        Ok((Arc::new(wanted), task::change_of(reading, &caller, &body)?))
    })?;
    let mut done = BulkActionDone::default();
    let mut cursor = None;
    loop {
        let looked = Arc::clone(&wanted);
        let (found, next) =
            app.read_aside(caller.account, move |reading| task::page_of_ids(reading, &looked, cursor)).await?;
        done.matched += found.len() as u64;
        let fitting: Vec<_> = found.iter().filter(|task| change.fits(task)).map(|task| task.id).collect();
        if body.dry_run {
            done.changed += fitting.len() as u64;
        } else {
            for ids in fitting.chunks(PAGE) {
                let (ids, asking, wanted) = (ids.to_vec(), caller.clone(), Arc::clone(&wanted));
                let changing = move |tx: &mut crate::store::Tx| task::apply_page(tx, &asking, &wanted, change, &ids);
                done.changed += app.db.write(caller.account, changing).await?;
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
