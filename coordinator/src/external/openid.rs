//! Signing in by OpenID Connect: the authorization code flow with PKCE. What has to be known again when somebody comes back
//! travels sealed in a cookie of theirs; nothing is kept here.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use drover_protocol::{Timestamp, session::SignInMethod};
use openidconnect::{
    AuthorizationCode, ClientId, ClientSecret, CsrfToken, HttpRequest, HttpResponse, IssuerUrl, Nonce,
    PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope, TokenResponse,
    core::{CoreAuthenticationFlow, CoreClient, CoreIdToken, CoreProviderMetadata},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use subtle::ConstantTimeEq;

use super::{Admission, Known};
use crate::{
    error::{Error, Result},
    secrets::Secrets,
};

/// Who takes longer than this to sign in there begins anew.
const MAX_WAY_SECONDS: u64 = 600;
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// The largest answer of a provider.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
const SEALED_FOR: &[u8] = b"way to the provider and back";

#[derive(Clone, Debug)]
pub struct Settings {
    pub issuer: String,
    pub client_id: String,
    pub client_secret: String,
    pub scopes: Vec<String>,
    pub login_claim: String,
    pub groups_claim: String,
    /// Where the provider sends people back.
    pub redirect_url: String,
    pub admission: Admission,
}

/// What has to be known again.
#[derive(Serialize, Deserialize)]
struct Way {
    state: String,
    nonce: String,
    verifier: String,
    begun_at: Timestamp,
}

/// Why a call to the provider failed.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("{0}")]
    Http(#[from] reqwest::Error),
    #[error("the answer is larger than {MAX_ANSWER_BYTES} bytes")]
    TooLarge,
    #[error("the answer cannot be read")]
    Unreadable,
}

#[derive(Debug)]
pub struct Provider {
    settings: Settings,
}

impl Provider {
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    fn http() -> Result<reqwest::Client> {
        // A provider that sends calls elsewhere could send them anywhere.
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(CALL_TIMEOUT);
        http.build().map_err(|error| Error::Internal(format!("no client for the provider: {error}")))
    }

    pub fn admission(&self) -> &Admission {
        &self.settings.admission
    }

    async fn call(http: reqwest::Client, request: HttpRequest) -> Result<HttpResponse, CallError> {
        let mut answer = http.execute(reqwest::Request::try_from(request)?).await?;
        let mut head = http::Response::builder().status(answer.status());
        if let Some(headers) = head.headers_mut() {
            *headers = answer.headers().clone();
        }
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await? {
            if body.len() + piece.len() > MAX_ANSWER_BYTES {
                return Err(CallError::TooLarge);
            }
            body.extend_from_slice(&piece);
        }
        head.body(body).map_err(|_| CallError::Unreadable)
    }

    /// What the provider says of itself, asked anew each time: its keys change.
    async fn metadata(&self) -> Result<CoreProviderMetadata> {
        let issuer = IssuerUrl::new(self.settings.issuer.clone())
            .map_err(|error| Error::Internal(format!("openid.issuer is no address: {error}")))?;
        let http = Self::http()?;
        let call = move |request| Self::call(http.clone(), request);
        CoreProviderMetadata::discover_async(issuer, &call).await.map_err(|error| unavailable(&error))
    }

    fn redirect_url(&self) -> Result<RedirectUrl> {
        RedirectUrl::new(self.settings.redirect_url.clone())
            .map_err(|error| Error::Internal(format!("http.public_url is no address: {error}")))
    }

    fn secret(&self) -> Option<ClientSecret> {
        Some(self.settings.client_secret.clone()).filter(|secret| !secret.is_empty()).map(ClientSecret::new)
    }

    /// Where to send somebody, and what they have to bring back, sealed.
    pub async fn begin(
        &self,
        secrets: &Secrets,
        now: Timestamp,
        random: impl Fn() -> [u8; 32],
        seal_nonce: [u8; crate::secrets::NONCE_BYTES],
    ) -> Result<(String, String)> {
        let text = || URL_SAFE_NO_PAD.encode(random());
        let way = Way { state: text(), nonce: text(), verifier: text(), begun_at: now };
        let verifier = PkceCodeVerifier::new(way.verifier.clone());
        let client = CoreClient::from_provider_metadata(self.metadata().await?, self.client_id(), self.secret());
        let client = client.set_redirect_uri(self.redirect_url()?);
        let (state, nonce) = (way.state.clone(), way.nonce.clone());
        let mut asking = client
            .authorize_url(CoreAuthenticationFlow::AuthorizationCode, || CsrfToken::new(state), || Nonce::new(nonce))
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier));
        for scope in self.settings.scopes.iter().filter(|scope| *scope != "openid") {
            asking = asking.add_scope(Scope::new(scope.clone()));
        }
        let plain = serde_json::to_vec(&way)
            .map_err(|error| Error::Internal(format!("the way to the provider cannot be written: {error}")))?;
        let sealed = secrets.seal(SEALED_FOR, &plain, seal_nonce)?;
        Ok((asking.url().0.to_string(), URL_SAFE_NO_PAD.encode(sealed)))
    }

    fn client_id(&self) -> ClientId {
        ClientId::new(self.settings.client_id.clone())
    }

    /// Who comes back, when the provider says so and it is who was sent.
    pub async fn finish(
        &self,
        secrets: &Secrets,
        now: Timestamp,
        sealed: &str,
        code: String,
        state: &str,
    ) -> Result<Known> {
        let way = opened(secrets, sealed).ok_or(BEGIN_ANEW)?;
        let is_same: bool = way.state.as_bytes().ct_eq(state.as_bytes()).into();
        if !is_same || now.since(way.begun_at).as_secs() > MAX_WAY_SECONDS {
            return Err(BEGIN_ANEW);
        }
        let client = CoreClient::from_provider_metadata(self.metadata().await?, self.client_id(), self.secret());
        let client = client.set_redirect_uri(self.redirect_url()?);
        let http = Self::http()?;
        let call = move |request| Self::call(http.clone(), request);
        let tokens = client
            .exchange_code(AuthorizationCode::new(code))
            .map_err(|error| unavailable(&error))?
            .set_pkce_verifier(PkceCodeVerifier::new(way.verifier))
            .request_async(&call)
            .await
            .map_err(|error| refused(&error))?;
        let token = tokens.id_token().ok_or_else(|| refused(&CallError::Unreadable))?;
        let verifier = client.id_token_verifier();
        let verifier =
            verifier.set_time_fn(move || chrono::DateTime::from_timestamp_millis(now.millis()).unwrap_or_default());
        let claims = token.claims(&verifier, &Nonce::new(way.nonce)).map_err(|error| refused(&error))?;
        self.known(claims.subject().as_str(), &all_claims(token).unwrap_or_default())
    }

    fn known(&self, subject: &str, claims: &Value) -> Result<Known> {
        let text = |name: &str| claims[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let email = text("email").filter(|_| claims["email_verified"].as_bool() != Some(false));
        let groups = match &claims[self.settings.groups_claim.as_str()] {
            Value::String(group) => vec![group.clone()],
            Value::Array(groups) => groups.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        Ok(Known {
            method: SignInMethod::OpenidConnect,
            external_id: format!("openid:{}#{subject}", self.settings.issuer),
            login: text(&self.settings.login_claim).unwrap_or_else(|| subject.to_owned()),
            name: text("name").unwrap_or_default(),
            email,
            groups,
        })
    }
}

/// The claims of a token that has been verified, also those that no standard names.
fn all_claims(token: &CoreIdToken) -> Option<Value> {
    let text = token.to_string();
    let payload = text.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

fn opened(secrets: &Secrets, sealed: &str) -> Option<Way> {
    let plain = secrets.open_sealed(SEALED_FOR, &URL_SAFE_NO_PAD.decode(sealed).ok()?).ok()?;
    serde_json::from_slice(&plain).ok()
}

const BEGIN_ANEW: Error =
    Error::Unauthenticated("this sign-in was begun elsewhere or too long ago; begin it anew at /session/openid");

/// The provider cannot be asked. What it says goes to the log alone.
fn unavailable(error: &dyn std::error::Error) -> Error {
    tracing::warn!(error = %told(error), "the provider of OpenID Connect cannot be asked");
    Error::Unavailable("the provider of OpenID Connect cannot be asked now; try again".to_owned())
}

fn refused(error: &dyn std::error::Error) -> Error {
    tracing::warn!(error = %told(error), "a sign-in by OpenID Connect was refused");
    Error::Unauthenticated("the provider of OpenID Connect did not confirm the sign-in; begin it anew")
}

/// An error with its causes.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
