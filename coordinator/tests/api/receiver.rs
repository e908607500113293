//! A real receiver of webhooks on loopback: it keeps what it is sent, and answers as the test says.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    response::Response,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::Value;
use sha2::Sha256;
use tokio::{net::TcpListener, sync::Notify};

/// What came.
#[derive(Clone, Debug)]
pub struct Received {
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Whether a signature of the message was made with this secret, as people see it.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&key).unwrap();
        mac.update(format!("{}.{}.", self.header("webhook-id"), self.header("webhook-timestamp")).as_bytes());
        mac.update(&self.body);
        let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        self.header("webhook-signature").split(' ').any(|signature| signature == expected)
    }
}

/// How the receiver answers.
#[derive(Clone, Debug)]
pub enum Answering {
    Status(u16),
    Body(u16, String),
    Redirect(String),
    /// Not at all.
    Never,
}

#[derive(Default)]
struct Kept {
    received: Mutex<Vec<Received>>,
    answers: Mutex<VecDeque<Answering>>,
    came: Notify,
}

#[derive(Clone)]
pub struct Receiver {
    kept: Arc<Kept>,
    pub address: SocketAddr,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let kept = Arc::new(Kept::default());
        let router = Router::new().fallback(receive).with_state(Arc::clone(&kept));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { kept, address }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Answers the next calls so, and those after them with 204.
    pub fn answer(&self, answers: impl IntoIterator<Item = Answering>) {
        *self.kept.answers.lock() = answers.into_iter().collect();
    }

    /// What has come since the last look.
    pub fn take(&self) -> Vec<Received> {
        std::mem::take(&mut self.kept.received.lock())
    }

    /// Waits until something comes.
    pub async fn came(&self) {
        self.kept.came.notified().await;
    }
}

async fn receive(State(kept): State<Arc<Kept>>, request: Request) -> Response<axum::body::Body> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    kept.received.lock().push(Received { headers: parts.headers, body });
    let answer = kept.answers.lock().pop_front().unwrap_or(Answering::Status(204));
    kept.came.notify_one();
    let mut response = Response::new(axum::body::Body::empty());
    let status = |status: u16| StatusCode::from_u16(status).unwrap();
    match answer {
        Answering::Status(code) => *response.status_mut() = status(code),
        Answering::Body(code, text) => {
            *response.status_mut() = status(code);
            *response.body_mut() = text.into();
        }
        Answering::Redirect(to) => {
            *response.status_mut() = status(307);
            response.headers_mut().insert("location", to.parse().unwrap());
        }
        Answering::Never => std::future::pending().await,
    }
    response
}
