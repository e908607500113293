//! Bodies of requests, through the whole of the HTTP face: the first byte chooses the call, the rest is the body.

use std::cell::RefCell;

use axum::{Router, body::Body};
use http::{Request, header};
use http_body_util::BodyExt;
use tokio::runtime::Runtime;
use tower::ServiceExt;

use crate::world::{self, ADMIN_KEY};

const CALLS: [(&str, &str, &str); 14] = [
    ("POST", "/api/v1/jobs", "application/json"),
    ("POST", "/api/v1/processes", "application/json"),
    ("PATCH", "/api/v1/processes/p", "application/json"),
    ("POST", "/api/v1/robots", "application/json"),
    ("PATCH", "/api/v1/robots/r", "application/json"),
    ("POST", "/api/v1/robots/r/pause", "application/json"),
    ("POST", "/api/v1/robot-groups", "application/json"),
    ("PATCH", "/api/v1/account", "application/merge-patch+json"),
    ("POST", "/api/v1/join-tokens", "application/json"),
    ("POST", "/api/v1/keys", "application/json"),
    ("POST", "/api/v1/agent/join", "application/json"),
    ("POST", "/api/v1/processes/p/versions", "application/zip"),
    ("POST", "/api/v1/processes/p/versions", "multipart/form-data; boundary=X"),
    ("POST", "/api/v1/robots/r/resume", "application/json"),
];
/// After so many calls the coordinator is made anew, so that what was kept does not pile up.
const ROUNDS: u32 = 2_000;

struct Served {
    runtime: Runtime,
    router: Router,
    rounds: u32,
}

impl Served {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let router = runtime.block_on(async { drover_coordinator::http::router(world::app().await) });
        let mut served = Self { runtime, router, rounds: 0 };
        assert_eq!(served.call(CALLS[1], br#"{"name": "p"}"#), 201);
        assert_eq!(served.call(CALLS[3], br#"{"name": "r"}"#), 201);
        served
    }

    fn call(&mut self, (method, path, media_type): (&str, &str, &str), body: &[u8]) -> u16 {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {ADMIN_KEY}"))
            .header(header::CONTENT_TYPE, media_type)
            .body(Body::from(body.to_vec()))
            .expect("a request");
        let router = self.router.clone();
        let (status, answer) = self.runtime.block_on(async {
            let answer = router.oneshot(request).await.expect("the router always answers");
            (answer.status().as_u16(), answer.into_body().collect().await.expect("a whole answer").to_bytes())
        });
        assert!(status < 500, "{method} {path}: {status} {}", String::from_utf8_lossy(&answer));
        status
    }
}

thread_local! {
    static SERVED: RefCell<Option<Served>> = const { RefCell::new(None) };
}

pub fn run(bytes: &[u8]) {
    let Some((which, body)) = bytes.split_first() else { return };
    SERVED.with_borrow_mut(|served| {
        served.take_if(|served| served.rounds >= ROUNDS);
        let served = served.get_or_insert_with(Served::new);
        served.rounds += 1;
        served.call(CALLS[usize::from(*which) % CALLS.len()], body);
    });
}

pub fn seeds() -> Vec<Vec<u8>> {
    let bodies = [
        r#"{"process": "p", "target": {"group": "all"}, "input": {"a": [1]}, "priority": 2, "count": 2, "labels": {"a": "b"}}"#,
        r#"{"name": "q", "description": "x", "defaults": {"priority": 1, "retry": {"max_attempts": 2, "on": ["lost"]}}}"#,
        r#"{"defaults": {"input": {"a": null}, "timeout_seconds": 60, "log_level": "info"}, "group_pins": {"all": "1"}}"#,
        r#"{"name": "s", "groups": ["all"], "labels": {"os": "linux"}, "capacity": 2}"#,
        r#"{"description": null, "capacity": null, "labels": {}}"#,
        r#"{"mode": "drain", "reason": "updates", "until": "2027-01-01T00:00:00Z"}"#,
        r#"{"name": "g", "description": "x"}"#,
        r#"{"name": "renamed"}"#,
        r#"{"uses": 2, "expires_in_seconds": 60, "cidr": "10.0.0.0/8", "group": "all"}"#,
        r#"{"name": "n", "permissions": ["job:read"], "expires_at": "2027-01-01T00:00:00Z"}"#,
        r#"{"token": "x", "machine_id": "m", "name": "r", "host": {"hostname": "h", "os": "linux", "cpus": 2}}"#,
        "PK\u{3}\u{4}",
        "--X\r\nContent-Disposition: form-data; name=\"label\"\r\n\r\n1.0\r\n--X\r\nContent-Disposition: form-data; \
            name=\"package\"; filename=\"a.zip\"\r\n\r\nPK\r\n--X--\r\n",
        "{}",
    ];
    bodies.iter().enumerate().map(|(call, body)| [&[call as u8][..], body.as_bytes()].concat()).collect()
}
