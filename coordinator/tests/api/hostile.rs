//! Bodies that are meant to do harm, sent to every route that takes one: the routes are those of the API's document, so
//! that a new one is covered by itself. Nothing is answered with a 5xx, nothing panics, and the store stays sound.

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use http::Method;
use serde_json::{Map, Value, json};

use crate::{
    permissions::{Things, described_operations},
    support::{Agent, Answer, Call, World, line, packed, text},
};

const MIB: usize = 1024 * 1024;

/// A route that takes a body, with objects to call it for.
struct Route {
    world: World,
    agent: Agent,
    things: Things,
    method: Method,
    template: String,
}

impl Route {
    /// Every route that takes a body of this media type; each in a world of its own.
    async fn all(media_type: &str) -> Vec<Self> {
        let mut routes = Vec::new();
        for (method, template, operation) in described_operations() {
            if operation.pointer("/requestBody/content").is_some_and(|content| content.get(media_type).is_some()) {
                let world = World::new().await;
                let agent = world.agent("r").await;
                let (things, _) = Things::make(&world, &agent).await;
                routes.push(Self { world, agent, things, method, template });
            }
        }
        routes
    }

    /// The same without webhooks: what those are sent is the caller's own, and any object will do.
    async fn all_with_fields(media_type: &str) -> Vec<Self> {
        let mut routes = Self::all(media_type).await;
        routes.retain(|route| !route.template.contains("{hook}"));
        routes
    }

    fn name(&self) -> String {
        format!("{} {}", self.method, self.template)
    }

    fn call(&self) -> Call {
        let path = self.things.path(self.template.strip_prefix("/api/v1").unwrap());
        let key = if self.template.contains("/agent/") { &self.agent.key } else { &self.world.admin };
        Call::new(self.world.router.clone(), self.method.clone(), &path).key(key)
    }

    async fn send(&self, body: impl Into<Vec<u8>>) -> Answer {
        self.call().header("content-type", "application/json").body(body).send().await
    }

    /// A body that is in order.
    fn good_body(&self) -> Value {
        let operation = format!("{} {}", self.method, self.template.strip_prefix("/api/v1").unwrap());
        let mut body = self.things.body(&operation).unwrap_or_else(|| panic!("the test has no body for {operation}"));
        if operation == "POST /agent/jobs/{job}/logs" {
            body["lines"] = json!([line("info", "a line")]);
        }
        if operation == "POST /jobs" {
            body["input"] = json!({ "text": "x", "list": [1, { "a": null }] });
        }
        if operation == "POST /agent/jobs/{job}/finish" {
            body["output"] = json!({ "text": "x", "list": [1, { "a": null }] });
        }
        body
    }

    /// Sends a variant of the good body; it may be taken or refused, in a clear way.
    async fn try_variant(&mut self, body: &Value) {
        let answer = self.send(body.to_string()).await;
        let what = || body.to_string().chars().take(300).collect::<String>();
        assert!(!answer.status.is_server_error(), "{}: {} for {}", self.name(), answer.text(), what());
        // Whoever signs in with something else is not known.
        assert!(answer.status != 401 || self.template.ends_with("/session"), "{}: {}", self.name(), what());
        if self.template.contains("/account/key") && answer.status == 200 {
            self.world.admin = text(&answer.json(), "/key");
        }
    }
}

/// The pointers of all values within a value.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(number, item)| pointers(item, &format!("{at}/{number}"), found));
        }
        Value::Object(members) => {
            members.iter().for_each(|(name, member)| pointers(member, &format!("{at}/{name}"), found));
        }
        _ => {}
    }
}

fn changed(body: &Value, at: &str, value: Value) -> Value {
    let mut body = body.clone();
    *body.pointer_mut(at).unwrap() = value;
    body
}

fn nested(depth: usize, array: bool) -> Value {
    (0..depth).fold(json!(1), |inner, _| if array { json!([inner]) } else { json!({ "a": inner }) })
}

/// What is no JSON at all is a 400 wherever it is sent, a fault of the media type a 415, too much a 413.
#[tokio::test]
async fn bodies_that_cannot_be_read() {
    let routes = Route::all_with_fields("application/json").await;
    assert!(routes.len() > 20, "{}", routes.len());
    for route in routes {
        let name = route.name();
        let good = route.good_body().to_string();
        let half = &good.as_bytes()[..good.len() / 2];
        let (deep, deeper) = ("[".repeat(50_000), "{\"a\":".repeat(10_000));
        let broken: [&[u8]; 11] = [
            b"{",
            b"\xff\xfe{}",
            b"{\"\xc3\x28\": 1}",
            b"\0",
            b"{}\0",
            b"{\"a\0\": 1}",
            b"{} {}",
            half,
            deep.as_bytes(),
            deeper.as_bytes(),
            &[0xef, 0xbb, 0xbf, b'{', b'}'],
        ];
        for body in broken {
            let answer = route.send(body).await;
            let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
            assert!([400, 422].contains(&answer.status.as_u16()), "{name}: {shown}: {}", answer.text());
        }
        for body in ["[]", "null", "true", "0", "\"text\""] {
            assert_eq!(route.send(body).await.status, 422, "{name}: {body}");
        }
        for media_type in ["text/plain", "application/xml", "multipart/form-data; boundary=x", "application/json2"] {
            let call = route.call().header("content-type", media_type).body(good.clone());
            assert_eq!(call.send().await.status, 415, "{name}: {media_type}");
        }
        let large = format!("{{\"a\": \"{}\"}}", "x".repeat(9 * MIB));
        let answer = route.send(large).await;
        assert_eq!(answer.status, 413, "{name}: {}", answer.text());
        assert!(text(&answer.refused("too_large"), "/detail").contains("bytes"));
    }
}

/// Every value in a good body is replaced by what it must not be: other types, numbers out of every range, a megabyte of
/// text, text with NUL and half a surrogate, values nested deeply. A field that nobody knows is always refused.
#[tokio::test]
async fn bodies_with_values_that_do_not_fit() {
    for mut route in Route::all_with_fields("application/json").await {
        let good = route.good_body();
        let (mut all, mut tried) = (Vec::new(), 0);
        pointers(&good, "", &mut all);
        let values = [
            json!(null),
            json!(true),
            json!(-1),
            json!(0),
            json!(u64::MAX),
            json!(1.5e300),
            json!(""),
            json!("a\u{0}b"),
            json!("\u{202e}\u{feff}\u{fffd}\u{10ffff}"),
            json!([]),
            json!({}),
            json!("x".repeat(MIB)),
            nested(60, true),
            nested(100, false),
        ];
        for at in all.iter().filter(|at| !at.is_empty() && !at.ends_with("/token")) {
            for value in &values {
                route.try_variant(&changed(&good, at, value.clone())).await;
                tried += 1;
            }
        }
        assert!(tried > 0, "{}", route.name());
        let mut unknown = good.clone();
        unknown["no_such_field"] = json!(1);
        let problem = route.send(unknown.to_string()).await.invalid(&["/no_such_field"]);
        assert!(text(&problem, "/errors/0/detail").contains("there is no such field"), "{}: {problem}", route.name());
        let twice = good.to_string();
        let first: &Map<String, Value> = good.as_object().unwrap();
        let (name, value) = first.iter().next().unwrap();
        let twice = format!("{{\"{name}\": {value}, {}", &twice[1..]);
        assert_eq!(route.send(twice).await.status, 422, "{}: the same field twice", route.name());
        route.world.check();
    }
}

/// Any number of spaces, made as they are taken.
fn spaces(bytes: usize) -> Body {
    let piece = Bytes::from(vec![b' '; MIB]);
    Body::from_stream(stream::iter((0..bytes / MIB).map(move |_| Ok::<_, std::io::Error>(piece.clone()))))
}

/// Limits hold for what a body is unpacked, whatever coding it came in and whatever the route takes; a coding that is
/// cut off, damaged or not what it is called is a 400.
#[tokio::test]
async fn compressed_bodies() {
    let mut bombs = Vec::new();
    for coding in ["gzip", "zstd", "br"] {
        let bomb = packed(coding, spaces(64 * MIB)).await;
        assert!(bomb.len() < MIB / 4, "{coding}: {}", bomb.len());
        bombs.push((coding, bomb));
    }
    for media_type in ["application/json", "application/zip", "application/octet-stream"] {
        let routes = Route::all(media_type).await;
        assert!(!routes.is_empty(), "{media_type}");
        for route in routes {
            let name = route.name();
            for (coding, bomb) in &bombs {
                let call = || route.call().header("content-type", media_type).header("content-encoding", coding);
                let answer = call().body(bomb.clone()).send().await;
                assert_eq!(answer.status, 413, "{name}: {coding}: {}", answer.text());
                let packed = packed(coding, vec![b'x'; 1000]).await;
                let mut damaged = packed.clone();
                damaged[4..].iter_mut().for_each(|byte| *byte = !*byte);
                for bad in [&packed[..packed.len() - 4], &damaged, b"{}", b"\0", &bomb[..bomb.len() / 2]] {
                    let answer = call().body(bad).send().await;
                    let clear = [400, 413].contains(&answer.status.as_u16());
                    assert!(clear, "{name}: {coding}: {}", answer.text());
                }
            }
            for coding in ["compress", "gzip, gzip", "deflate", "x"] {
                let call = route.call().header("content-type", media_type).header("content-encoding", coding);
                assert_eq!(call.body("{}").send().await.status, 415, "{name}: {coding}");
            }
        }
    }
}

/// A form whose parts never end, or of which there are too many, is refused without being held.
#[tokio::test]
async fn forms_without_end() {
    let route = Route::all("multipart/form-data").await.pop().unwrap();
    let send = async |body: Vec<u8>| {
        route.call().header("content-type", "multipart/form-data; boundary=XX").body(body).send().await
    };
    let part = |name: &str, content: &str| {
        format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{content}\r\n").into_bytes()
    };
    send([part("label", "a"), part("label", "b"), b"--XX--\r\n".to_vec()].concat()).await.invalid(&["label"]);
    send([part("package", "a"), part("package", "b"), b"--XX--\r\n".to_vec()].concat()).await.invalid(&["package"]);
    send([part("label", "a"), b"--XX".to_vec()].concat()).await.expect(400);
    let endless = |start: &str| {
        let start = Bytes::from(start.to_owned().into_bytes());
        let rest = Bytes::from(vec![b'h'; 64 * 1024]);
        let pieces = std::iter::once(start).chain(std::iter::repeat_n(rest, 1024));
        let given = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = std::sync::Arc::clone(&given);
        let body = Body::from_stream(stream::iter(pieces.map(move |piece| {
            counted.fetch_add(piece.len(), std::sync::atomic::Ordering::Relaxed);
            Ok::<_, std::io::Error>(piece)
        })));
        (body, given)
    };
    for start in ["--XX\r\nContent-Disposition: ", "", "--XX\r\nA: "] {
        let (body, given) = endless(start);
        let mut request = http::Request::builder()
            .method("POST")
            .uri(format!("/api/v1{}", route.things.path("/processes/{process}/versions")))
            .header("authorization", format!("Bearer {}", route.world.admin))
            .header("content-type", "multipart/form-data; boundary=XX")
            .body(body)
            .unwrap();
        request.extensions_mut().clear();
        let answer = tower::ServiceExt::oneshot(route.world.router.clone(), request).await.unwrap();
        assert_eq!(answer.status(), 400, "{start:?}");
        let given = given.load(std::sync::atomic::Ordering::Relaxed);
        assert!(given < 2 * MIB, "{start:?}: {given} bytes were held");
    }
}
