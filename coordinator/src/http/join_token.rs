//! Join tokens.

use std::sync::Arc;

use axum::{Json, extract::State, response::Response};
use drover_protocol::{
    JoinTokenId,
    join_token::{CreatedJoinToken, JoinToken, NewJoinToken},
    page::{Page, PageQuery},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    extract::{Call, ListQuery, NoFilter, Path, Posted, id},
    once::{self, Answer},
    page,
};
use crate::{
    app::App,
    domain,
    operations::{Caller, join_token},
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_join_tokens, create_join_token))
        .routes(routes!(get_join_token, delete_join_token))
}

fn view(token: domain::key::JoinToken) -> JoinToken {
    JoinToken {
        id: token.id,
        group_id: token.group_id,
        robot_id: token.robot_id,
        uses: token.uses,
        uses_left: token.uses_left,
        expires_at: token.expires_at,
        cidr: token.cidr.map(|cidr| cidr.to_string()),
        created_at: token.created_at,
    }
}

/// Join tokens
#[utoipa::path(get, path = "/join-tokens", tag = "Robot", params(PageQuery),
    responses((status = 200, body = Page<JoinToken>)))]
async fn list_join_tokens(
    State(app): State<Arc<App>>,
    caller: Caller,
    ListQuery(query, NoFilter {}): ListQuery<NoFilter>,
) -> Result<Json<Page<JoinToken>>, Fault> {
    let found = app.db.read(caller.account, |reading| join_token::list(reading, &caller, &query))?;
    Ok(page::page(found, view))
}

/// A join token, without its text
#[utoipa::path(get, path = "/join-tokens/{id}", tag = "Robot",
    params(("id" = String, Path, description = "Id of the join token")), responses((status = 200, body = JoinToken)))]
async fn get_join_token(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
) -> Result<Json<JoinToken>, Fault> {
    let id: JoinTokenId = id(&text, "join token")?;
    Ok(Json(view(app.db.read(caller.account, |reading| join_token::get(reading, &caller, id))?)))
}

/// Make a join token
///
/// With it agents become robots of the account. Its text is in this answer and in no other.
#[utoipa::path(post, path = "/join-tokens", tag = "Robot", request_body = NewJoinToken,
    params(Call),
    responses((status = 201, body = CreatedJoinToken)))]
async fn create_join_token(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Posted<NewJoinToken>,
) -> Result<Response, Fault> {
    let secrets = Arc::clone(&app.secrets);
    once::write(&app, caller, request.call, move |tx, caller| {
        let (record, token) = join_token::create(tx, caller, &request.body, &secrets)?;
        let path = format!("/join-tokens/{}", record.id);
        Ok(Answer::created(CreatedJoinToken { details: view(record), token }, path))
    })
    .await
}

/// Delete a join token
#[utoipa::path(delete, path = "/join-tokens/{id}", tag = "Robot",
    params(("id" = String, Path, description = "Id of the join token")), responses((status = 204)))]
async fn delete_join_token(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(text): Path<String>,
) -> Result<Response, Fault> {
    let id: JoinTokenId = id(&text, "join token")?;
    once::carry_out(&app, caller, move |tx, caller| join_token::delete(tx, caller, id)).await
}
