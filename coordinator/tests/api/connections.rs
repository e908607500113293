//! Clients that are slow, silent, greedy or do not keep to the protocol, over real connections to the service. Where a
//! test waits for a limit of time, the clock of the runtime is paused and jumps.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use drover_coordinator::{
    app::{Limits, Rules},
    http::{Proxies, Server, serve},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    permissions::{Things, described_operations},
    support::{PASSWORD, World, rules, text},
};

const LIMIT: Duration = Duration::from_secs(600);

async fn listen(world: &World) -> SocketAddr {
    listen_behind(world, "").await
}

/// A service that believes these proxies.
async fn listen_behind(world: &World, proxies: &str) -> SocketAddr {
    let server = Server::bind("127.0.0.1:0").await.unwrap().behind(Proxies::parse(proxies).unwrap());
    let address = server.address();
    tokio::spawn(serve(server, Arc::clone(&world.app), Duration::ZERO));
    address
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// What comes until the other side closes the connection, in order or not.
async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let reading = async {
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            all.extend_from_slice(&buffer[..read]);
        }
    };
    timeout(LIMIT, reading).await.expect("the connection is closed");
    all
}

/// Sends bytes as they are, and reads what comes until the connection is closed.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect(address).await;
    // The service may close before it has read all of it.
    let _ = stream.write_all(bytes).await;
    String::from_utf8_lossy(&read_to_end(&mut stream).await).into_owned()
}

fn head(world: &World, line: &str, headers: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n{headers}\r\n", world.admin)
}

async fn is_served(address: SocketAddr) -> bool {
    exchange(address, b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.starts_with("HTTP/1.1 200")
}

/// A client that says nothing, stops within its headers, sends them one by one, or is silent after an answer, loses
/// its connection in a minute at most.
#[tokio::test(start_paused = true)]
async fn slow_headers_and_silent_clients_are_cut_off() {
    let world = World::new().await;
    let address = listen(&world).await;
    for start in
        [&b""[..], b"G", b"GET /readyz HTTP/1.1\r\nHost:", b"PRI * HTTP/2.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        let began = Instant::now();
        exchange(address, start).await;
        assert!(began.elapsed() <= Duration::from_secs(60), "{:?} for {start:?}", began.elapsed());
    }
    let mut drip = connect(address).await;
    drip.write_all(b"GET /readyz HTTP/1.1\r\n").await.unwrap();
    let began = Instant::now();
    for number in 0..100 {
        if drip.write_all(format!("X-{number}: 1\r\n").as_bytes()).await.is_err() {
            break;
        }
        sleep(Duration::from_secs(3)).await;
    }
    assert!(began.elapsed() <= Duration::from_secs(60), "{:?}", began.elapsed());
    let mut quiet = connect(address).await;
    quiet.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let began = Instant::now();
    let answer = read_to_end(&mut quiet).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    assert!((25..=60).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

/// Every route that takes a body gives up on one that trickles in, with a 400, whatever it was declared to be.
#[tokio::test(start_paused = true)]
async fn slow_bodies_are_given_up() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    let (things, _) = Things::make(&world, &agent).await;
    let address = listen(&world).await;
    let mut tried = 0;
    for (method, template, operation) in described_operations() {
        let Some(content) = operation.pointer("/requestBody/content").and_then(|content| content.as_object()) else {
            continue;
        };
        for media_type in content.keys() {
            let key = if template.contains("/agent/") { &agent.key } else { &world.admin };
            let path = format!("/api/v1{}", things.path(template.strip_prefix("/api/v1").unwrap()));
            let boundary = if media_type.starts_with("multipart") { "; boundary=XX" } else { "" };
            let head = format!(
                "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\
                 Content-Type: {media_type}{boundary}\r\nContent-Length: 1000000\r\n\r\n"
            );
            let mut stream = connect(address).await;
            stream.write_all(head.as_bytes()).await.unwrap();
            let began = Instant::now();
            let (mut reading, mut writing) = stream.into_split();
            let trickle = tokio::spawn(async move {
                for byte in b"--XX\r\nContent-Disposition: form-data; name=\"package\"\r\n\r\n".iter().cycle() {
                    if writing.write_all(&[*byte]).await.is_err() {
                        break;
                    }
                    sleep(Duration::from_secs(4)).await;
                }
            });
            let mut answer = Vec::new();
            let _ = timeout(LIMIT, reading.read_to_end(&mut answer)).await.expect("it is given up");
            trickle.abort();
            let answer = String::from_utf8_lossy(&answer);
            if media_type == "application/x-ndjson" {
                // Lines were answered before; such an answer ends without its sum.
                assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("\"added\""), "{template}: {answer}");
            } else {
                assert!(answer.starts_with("HTTP/1.1 400"), "{method} {template} {media_type}: {answer}");
                assert!(answer.contains("too slowly"), "{method} {template} {media_type}: {answer}");
            }
            assert!(began.elapsed() < Duration::from_secs(90), "{method} {template}: {:?}", began.elapsed());
            tried += 1;
        }
    }
    assert!(tried > 30, "{tried}");
}

/// Whoever does not take an answer loses the connection after a minute; so does whoever takes a part and then stops.
#[tokio::test(start_paused = true)]
async fn answers_that_are_not_taken_are_given_up() {
    let limits = Limits {
        package_bytes: 1 << 20,
        artifact_bytes: 64 << 20,
        file_bytes: 64 << 20,
        job_log_bytes: 256 << 20,
        requests_per_second: 0,
    };
    let world = World::with_rules(Rules { limits, ..rules() }).await;
    let process = world.process("p").await;
    let agent = world.agent("r").await;
    world.start(&process).await;
    let (job, _) = agent.run().await;
    agent.put(&job, "large.bin", &vec![7; 48 << 20]).await.created();
    let address = listen(&world).await;
    let request = head(&world, &format!("GET /api/v1/storages/jobs%2F{job}/files/large.bin"), "");
    for first in [0, 1 << 20] {
        let mut stream = connect(address).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut taken = vec![0; first];
        stream.read_exact(&mut taken).await.unwrap();
        sleep(Duration::from_secs(90)).await;
        let rest = read_to_end(&mut stream).await;
        assert!(first + rest.len() < 40 << 20, "{} bytes came", first + rest.len());
    }
    assert!(is_served(address).await);
}

/// Heads that are too large or of too many headers are refused with the status for it, and the next client is served.
#[tokio::test]
async fn heads_without_measure_are_refused() {
    let world = World::new().await;
    let address = listen(&world).await;
    let many: String = (0..1_000).map(|number| format!("X-{number}: {number}\r\n")).collect();
    let cases = [
        (head(&world, "GET /readyz", &format!("X-Large: {}\r\n", "x".repeat(300_000))), "431"),
        (head(&world, "GET /readyz", &many), "431"),
        (head(&world, &format!("GET /{}", "x".repeat(300_000)), ""), "4"),
        (head(&world, "GET /readyz", "X-Bad: a\0b\r\n"), "400"),
        (head(&world, "GET /readyz", "X Bad: a\r\n"), "400"),
        (head(&world, "GET /readyz", ": a\r\n"), "400"),
        ("GET /readyz HTTP/1.1\r\nHost: x\r\n\tfolded: a\r\n\r\n".to_owned(), "400"),
        ("GET /readyz HTTP/9.9\r\n\r\n".to_owned(), "400"),
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\u{fc}\u{3}\u{3}".to_owned() + &"\u{0}".repeat(100), "400"),
        (head(&world, "GE\u{1}T /readyz", ""), "400"),
    ];
    for (request, status) in cases {
        let answer = exchange(address, request.as_bytes()).await;
        let shown: String = request.chars().take(60).collect();
        assert!(answer.is_empty() || answer.starts_with(&format!("HTTP/1.1 {status}")), "{shown:?}: {answer}");
    }
    assert!(is_served(address).await);
}

/// A proxy in front may see the end of a request elsewhere than the coordinator does: what can be read in two ways is
/// refused and the connection closed, so that nothing that follows is ever taken for a request.
#[tokio::test]
async fn requests_that_can_be_read_in_two_ways_are_refused() {
    let world = World::new().await;
    world.post("/robots", json!({ "name": "r" })).await.created();
    let address = listen(&world).await;
    let hidden = head(&world, "POST /api/v1/robots/r/disable", "Content-Length: 0\r\n");
    let chunked = format!("0\r\n\r\n{hidden}");
    let cases = [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", chunked.clone()),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", chunked.clone()),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", format!("{{}}   {hidden}")),
        ("Content-Length: 2, 60\r\n", format!("{{}}{hidden}")),
        ("Content-Length: +2\r\n", format!("{{}}{hidden}")),
        ("Content-Length: -1\r\n", hidden.clone()),
        ("Content-Length: 99999999999999999999999\r\n", hidden.clone()),
        ("Content-Length: 0x2\r\n", format!("{{}}{hidden}")),
        ("Transfer-Encoding: xchunked\r\n", chunked.clone()),
        ("Transfer-Encoding: chunked, identity\r\n", chunked.clone()),
        ("Transfer-Encoding: identity\r\n", hidden.clone()),
        ("Transfer-Encoding : chunked\r\n", chunked.clone()),
        ("Transfer-Encoding: chunked\r\n", format!("-1\r\n{{}}\r\n{chunked}")),
        ("Transfer-Encoding: chunked\r\n", format!("fffffffffffffffff\r\n{{}}\r\n{chunked}")),
        ("Transfer-Encoding: chunked\r\n", format!("2;{}\r\n{{}}\r\n{chunked}", "x".repeat(100_000))),
        ("Transfer-Encoding: chunked\r\n", format!("2\r\n{{}}x\r\n{chunked}")),
        ("Transfer-Encoding: chunked\r\n", format!("2\n{{}}\n0\n\n{hidden}")),
    ];
    for (headers, rest) in cases {
        let headers = format!("Content-Type: application/json\r\n{headers}");
        let request = head(&world, "PATCH /api/v1/robots/r", &headers) + &rest;
        let answer = exchange(address, request.as_bytes()).await;
        let shown: String = request.chars().skip(80).take(200).collect();
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{shown}: {answer}");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{shown}: {answer}");
        assert_eq!(text(&world.get("/robots/r").await.ok(), "/state"), "offline", "{shown}: {answer}");
    }
    assert!(is_served(address).await);
}

/// Frames of HTTP/2, by hand.
mod frames {
    pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    pub const HEADERS: u8 = 1;
    pub const RESET: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const GOAWAY: u8 = 7;
    pub const CONTINUATION: u8 = 9;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;

    pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    /// A header without any compression.
    pub fn header(name: &str, value: &str) -> Vec<u8> {
        let text = |text: &str| {
            assert!(text.len() < 127, "a length of one byte");
            [&[text.len() as u8][..], text.as_bytes()].concat()
        };
        [&[0][..], &text(name), &text(value)].concat()
    }

    pub fn get(path: &str) -> Vec<u8> {
        let all = [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "x")];
        all.iter().flat_map(|(name, value)| header(name, value)).collect()
    }

    /// The kinds of frames in what was received.
    pub fn kinds(mut bytes: &[u8]) -> Vec<u8> {
        let mut found = Vec::new();
        while let Some((head, rest)) = bytes.split_at_checked(9) {
            found.push(head[3]);
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            bytes = rest.get(length..).unwrap_or_default();
        }
        found
    }
}

/// HTTP/2 without TLS is spoken as well. Streams that are begun and reset without end, more of them than allowed, and
/// headers that never end cost the client its connection, and nobody else anything.
#[tokio::test]
async fn http2_floods_are_ended() {
    use frames::*;
    let world = World::new().await;
    let address = listen(&world).await;
    let begin = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let block = get("/readyz");

    let mut polite = connect(address).await;
    polite.write_all(&begin).await.unwrap();
    polite.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)).await.unwrap();
    polite.write_all(&frame(GOAWAY, 0, 0, &[0; 8])).await.unwrap();
    assert!(kinds(&read_to_end(&mut polite).await).contains(&HEADERS), "an ordinary request is answered");

    let reset = |stream: u32| {
        [frame(HEADERS, END_STREAM | END_HEADERS, stream, &block), frame(RESET, 0, stream, &8_u32.to_be_bytes())]
            .concat()
    };
    let rapid: Vec<u8> = (0..20_000_u32).flat_map(|number| reset(2 * number + 1)).collect();
    let answer = flood(address, &begin, &rapid).await;
    assert!(kinds(&answer).contains(&GOAWAY), "rapid resets end the connection");

    let endless = [frame(HEADERS, END_STREAM, 1, &block), frame(CONTINUATION, 0, 1, &header("x", "y")).repeat(100_000)];
    let answer = flood(address, &begin, &endless.concat()).await;
    assert!(kinds(&answer).contains(&GOAWAY), "headers that never end do as well");

    let long: Vec<u8> = (0..2_000).flat_map(|number| header(&format!("x-{number}"), &"v".repeat(100))).collect();
    let pieces: Vec<&[u8]> = long.chunks(16_000).collect();
    let mut large = frame(HEADERS, END_STREAM, 1, &block);
    for (number, piece) in pieces.iter().enumerate() {
        let flags = if number + 1 == pieces.len() { END_HEADERS } else { 0 };
        large.extend(frame(CONTINUATION, flags, 1, piece));
    }
    large.extend(frame(GOAWAY, 0, 0, &[0; 8]));
    let answer = flood(address, &begin, &large).await;
    assert!(!answer.windows(3).any(|window| window == b"200"), "a list of 200 kB of headers is not taken");

    let garbage: Vec<u8> = (0..100_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    flood(address, &begin, &garbage).await;
    assert!(is_served(address).await);
}

async fn flood(address: SocketAddr, begin: &[u8], bytes: &[u8]) -> Vec<u8> {
    let stream = connect(address).await;
    let (mut reading, mut writing) = stream.into_split();
    let all = [begin, bytes].concat();
    let sending = tokio::spawn(async move {
        let _ = writing.write_all(&all).await;
        writing
    });
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(20), reading.read_to_end(&mut answer)).await.expect("the connection is ended");
    let _ = sending.await;
    answer
}

/// More streams at once than allowed are refused one by one; those within the limit are served.
#[tokio::test]
async fn http2_streams_are_limited() {
    use frames::*;
    let world = World::new().await;
    let address = listen(&world).await;
    let agent = world.agent("r").await;
    let poll = |stream: u32| {
        let body = br#"{"free": 1, "wait_seconds": 30, "known": []}"#;
        let headers = [
            header(":method", "POST"),
            header(":scheme", "http"),
            header(":path", "/api/v1/agent/next"),
            header("authorization", &format!("Bearer {}", agent.key)),
            header("content-type", "application/json"),
        ];
        [frame(HEADERS, END_HEADERS, stream, &headers.concat()), frame(0, END_STREAM, stream, body)].concat()
    };
    let begin = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let many: Vec<u8> = (0..300_u32).flat_map(|number| poll(2 * number + 1)).collect();
    let mut stream = connect(address).await;
    stream.write_all(&begin).await.unwrap();
    let _ = stream.write_all(&many).await;
    let mut received = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let refused = async {
        while kinds(&received).iter().filter(|kind| **kind == RESET).count() < 200 {
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "the connection stays: {:?}", kinds(&received));
            received.extend_from_slice(&buffer[..read]);
        }
    };
    timeout(Duration::from_secs(20), refused).await.expect("what is too much is refused");
    world.app.stopping.cancel();
}

/// Signs the administrator in with this `X-Forwarded-For`: status and answer.
async fn sign_in_for(address: SocketAddr, whom: &str, password: &str) -> (u16, Value) {
    let body = json!({ "login": "admin", "password": password }).to_string();
    let head = format!(
        "POST /api/v1/session HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nX-Forwarded-For: {whom}\r\n\r\n",
        body.len()
    );
    let answer = exchange(address, (head + &body).as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap())
}

/// Behind a proxy that is trusted people are told apart by their own addresses; what they say of themselves does not count,
/// with or without a proxy.
#[tokio::test]
async fn people_behind_a_proxy_are_told_apart() {
    let world = World::new().await;
    let (behind, open) = (listen_behind(&world, "127.0.0.0/8").await, listen(&world).await);
    for (address, whom, found) in [
        (behind, "198.51.100.1, 203.0.113.7", "203.0.113.7"),
        (behind, "nobody", "127.0.0.1"),
        (open, "203.0.113.7", "127.0.0.1"),
    ] {
        let (status, answer) = sign_in_for(address, whom, PASSWORD).await;
        assert_eq!((status, text(&answer, "/session/address").as_str()), (200, found), "{whom}");
    }
    let acts = world.get("/audit?noun=session").await.ok();
    assert!(acts.to_string().contains("203.0.113.7") && !acts.to_string().contains("198.51.100.1"), "{acts}");
    for number in 0..5 {
        let whom = format!("198.51.100.{number}, 203.0.113.7");
        assert_eq!(sign_in_for(behind, &whom, "wrong").await.0, 401);
        assert_eq!(sign_in_for(open, &format!("203.0.113.{number}"), "wrong").await.0, 401);
    }
    assert_eq!(sign_in_for(behind, "198.51.100.9, 203.0.113.7", PASSWORD).await.0, 429);
    assert_eq!(sign_in_for(open, "203.0.113.9", PASSWORD).await.0, 429);
    assert_eq!(sign_in_for(behind, "203.0.113.8", PASSWORD).await.0, 200, "somebody else need not wait");
    let long = format!("{}, 203.0.113.10", ["203.0.113.7"; 1_000].join(", "));
    assert_eq!(sign_in_for(behind, &long, PASSWORD).await.0, 200);
    world.app.stopping.cancel();
}
