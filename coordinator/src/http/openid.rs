//! Signing in by OpenID Connect: the way to the provider and back.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use drover_protocol::{
    API_BASE,
    session::{OpenidAnswer, SignInMethod},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Fault,
    auth::{Address, cookie_of},
    extract::Query,
    session::{admit, cookie, enter, is_encrypted, user_agent},
};
use crate::{
    app::App,
    error::Error,
    external::openid::Provider,
    operations::{
        external,
        session::{self, Entrance, Refusal},
    },
    store::key::SYSTEM_ACCOUNT,
};

/// In this cookie somebody brings back what was sealed at the beginning.
const COOKIE: &str = "drover_openid";
const WAY_SECONDS: u64 = 600;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(begin_openid_sign_in)).routes(routes!(finish_openid_sign_in))
}

fn provider(app: &App) -> Result<&Provider, Fault> {
    app.openid.as_ref().ok_or_else(|| Error::NotFound("way to sign in: openid.issuer is not set").into())
}

/// It comes back from another site, and yet must come along: SameSite=Lax.
fn way_cookie(app: &App, sealed: &str) -> HeaderValue {
    let age = if sealed.is_empty() { 0 } else { WAY_SECONDS };
    let secure = if is_encrypted(app) { "; Secure" } else { "" };
    let path = format!("{API_BASE}/session/openid");
    let value = format!("{COOKIE}={sealed}; Path={path}; Max-Age={age}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static(""))
}

fn see_other(address: &str) -> Result<Response, Fault> {
    let location = HeaderValue::from_str(address)
        .map_err(|_| Error::Internal("the provider's address cannot be written into a header".to_owned()))?;
    let mut response = StatusCode::SEE_OTHER.into_response();
    response.headers_mut().insert(header::LOCATION, location);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Sign in by OpenID Connect
///
/// Leads to the provider that the coordinator's settings name, which sends the browser back.
#[utoipa::path(get, path = "/session/openid", tag = "Account", security(()),
    responses((status = 303, description = "To the provider.",
        headers(("Location" = String, description = "The provider's page")))))]
async fn begin_openid_sign_in(State(app): State<Arc<App>>) -> Result<Response, Fault> {
    let begun = provider(&app)?.begin(&app.secrets, app.db.now(), || app.db.random(), app.db.random()).await?;
    let mut response = see_other(&begun.0)?;
    response.headers_mut().append(header::SET_COOKIE, way_cookie(&app, &begun.1));
    Ok(response)
}

/// Come back from the provider of OpenID Connect
///
/// A user who comes for the first time is made, if the settings say so, with the roles that groups give. The session's cookie
/// is set, and the browser is led to the console.
#[utoipa::path(get, path = "/session/openid/callback", tag = "Account", security(()), params(OpenidAnswer),
    responses((status = 303, description = "To the console.",
        headers(("Location" = String, description = "The console's page"),
            ("Set-Cookie" = String, description = "The session")))))]
async fn finish_openid_sign_in(
    State(app): State<Arc<App>>,
    Address(address): Address,
    headers: HeaderMap,
    Query(answer): Query<OpenidAnswer>,
) -> Result<Response, Fault> {
    let provider = provider(&app)?;
    let account = app.db.read(SYSTEM_ACCOUNT, |reading| external::account_of(reading, provider.admission()))?;
    let sealed = cookie_of(&headers, COOKIE).unwrap_or_default().to_owned();
    let entering = async {
        let code = answer.code.ok_or(Error::Unauthenticated("the provider of OpenID Connect refused the sign-in"))?;
        let state = answer.state.unwrap_or_default();
        let known = provider.finish(&app.secrets, app.db.now(), &sealed, code, &state).await?;
        let user = admit(&app, account, known, provider.admission()).await?;
        let method = SignInMethod::OpenidConnect;
        enter(&app, (account, user), Entrance { method, address, user_agent: user_agent(&headers) }).await
    };
    match entering.await {
        Ok((text, _)) => {
            let mut response = see_other(&format!("{}/", app.rules.public_url.trim_end_matches('/')))?;
            response.headers_mut().append(header::SET_COOKIE, cookie(&app, &text));
            response.headers_mut().append(header::SET_COOKIE, way_cookie(&app, ""));
            Ok(response)
        }
        Err(refusal) => {
            app.db.write(account, move |tx| session::note_refused(tx, None, address, Refusal::Wrong)).await?;
            Err(refusal)
        }
    }
}
