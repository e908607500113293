//! Blobs in an S3-compatible object store: over a real server of that protocol, which the test starts, and with a whole
//! coordinator before it.
//!
//! The server comes with the other tools for tests (`.ci/install-missing test`). Without it nothing is tested here, which is
//! said; `DROVER_TEST_S3=required` makes that a failure.
#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it must be")]

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use bytes::Bytes;
use drover_coordinator::{
    config::Config,
    error::Error,
    start,
    store::{
        blob::{BlobKind, BlobName, Blobs, S3Settings},
        check,
        check_blobs::check_blobs,
        embedded::Embedded,
        engine::Engine,
    },
};
use drover_protocol::FileId;
use futures::TryStreamExt;
use uuid::Uuid;

const BUCKET: &str = "drover-test";

struct Server {
    process: Child,
    endpoint: String,
    folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// A server with an empty bucket, or nothing if there is none to be started.
    async fn start() -> Option<Self> {
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
        let python = target.join("test-tools/python/bin/python");
        let has_server = Command::new(&python).args(["-c", "import moto.server"]).stderr(Stdio::null()).status();
        if !has_server.is_ok_and(|status| status.success()) {
            assert!(
                std::env::var_os("DROVER_TEST_S3").is_none_or(|wanted| wanted != "required"),
                "there is no S3 server for tests; `.ci/install-missing test` installs it"
            );
            eprintln!("SKIPPED: there is no S3 server for tests; `.ci/install-missing test` installs it");
            return None;
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut process = Command::new(python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let started = lines.by_ref().map_while(Result::ok).any(|line| line.contains("Running on"));
        assert!(started, "the S3 server does not start");
        std::thread::spawn(move || lines.for_each(drop));
        let server =
            Self { process, endpoint: format!("http://127.0.0.1:{port}"), folder: tempfile::tempdir().unwrap() };
        let made = reqwest::Client::new().put(format!("{}/{BUCKET}", server.endpoint)).send().await.unwrap();
        assert!(made.status().is_success(), "{made:?}");
        Some(server)
    }

    fn settings(&self, prefix: &str) -> S3Settings {
        S3Settings {
            bucket: BUCKET.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: self.endpoint.clone(),
            region: "us-east-1".to_owned(),
            access_key_id: "test".to_owned(),
            secret_access_key: "test".to_owned(),
        }
    }

    async fn blobs(&self, prefix: &str) -> Blobs {
        Blobs::open_remote(&self.settings(prefix), &self.folder.path().join("staging")).await.unwrap()
    }

    async fn get(&self, query: &str) -> String {
        let answer = reqwest::get(format!("{}/{BUCKET}{query}", self.endpoint)).await.unwrap();
        answer.text().await.unwrap()
    }
}

fn pattern(length: usize) -> Bytes {
    (0..length).map(|index| (index % 251) as u8).collect::<Vec<_>>().into()
}

fn file(number: u128) -> BlobName {
    BlobName::file(FileId::from_uuid(Uuid::from_u128(number)))
}

#[tokio::test]
async fn blobs_are_kept_read_listed_and_deleted_in_an_object_store() {
    let Some(server) = Server::start().await else { return };
    let blobs = server.blobs("some/prefix").await;
    // In one call, and in three parts.
    for (number, length) in [(1, 0), (2, 5), (3, 20 * 1024 * 1024 + 7)] {
        let (name, content) = (file(number), pattern(length));
        blobs.put(&name, content.clone()).await.unwrap();
        blobs.put(&name, content.clone()).await.expect("a repeated call is success");
        assert_eq!(blobs.size_bytes(&name).await.unwrap(), length as u64);
        assert_eq!(blobs.read_all(&name).await.unwrap(), content);
    }
    let whole = pattern(20 * 1024 * 1024 + 7);
    for (start, end) in [(0, 3), (8 * 1024 * 1024 - 2, 8 * 1024 * 1024 + 2), (20 * 1024 * 1024, 99 << 20), (7, 7)] {
        let (total, part) = blobs.read(&file(3), Some(start..end)).await.unwrap();
        let part: Vec<Bytes> = part.try_collect().await.unwrap();
        assert_eq!(total, whole.len() as u64);
        assert_eq!(part.concat(), whole[start as usize..(end as usize).min(whole.len()).max(start as usize)]);
    }
    assert!(matches!(blobs.put(&file(2), "other".into()).await, Err(Error::Internal(_))));
    let mut listed: Vec<_> = blobs.list(BlobKind::File).map_ok(|blob| blob.name).try_collect().await.unwrap();
    listed.sort_by_key(|name| name.to_string());
    assert_eq!(listed, [file(1), file(2), file(3)]);
    blobs.delete(&file(1)).await.unwrap();
    blobs.delete(&file(1)).await.expect("deleting twice is success");
    assert_eq!(blobs.size_bytes(&file(1)).await, Err(Error::NotFound("stored content")));
    assert!(server.get("?list-type=2").await.contains("some/prefix/file/"));
}

/// What a dead process has begun to upload is given up by the next one, and a prefix belongs to one coordinator.
#[tokio::test]
async fn unfinished_uploads_are_given_up_and_a_prefix_has_one_owner() {
    let Some(server) = Server::start().await else { return };
    let first = server.blobs("p").await;
    first.claim("first").await.unwrap();
    first.claim("first").await.expect("it is its own");
    assert!(first.claim("second").await.is_err());
    server.blobs("q").await.claim("second").await.unwrap();

    // A process that is killed within an upload leaves the same behind: parts, and its note of them.
    let begun = reqwest::Client::new().post(format!("{}/{BUCKET}/p/file/x?uploads", server.endpoint)).send().await;
    let begun = begun.unwrap().text().await.unwrap();
    let id = begun.split("<UploadId>").nth(1).unwrap().split('<').next().unwrap();
    let part = format!("{}/{BUCKET}/p/file/x?partNumber=1&uploadId={id}", server.endpoint);
    assert!(reqwest::Client::new().put(part).body("part").send().await.unwrap().status().is_success());
    let notes = server.folder.path().join("staging/uploads");
    std::fs::write(notes.join("dead"), format!(r#"{{"path":"file/x","id":"{id}"}}"#)).unwrap();
    std::fs::write(notes.join("half"), "{\"pa").unwrap();
    assert!(server.get("?uploads").await.contains(id));
    drop(first);
    server.blobs("p").await;
    assert!(!server.get("?uploads").await.contains(id));
    assert_eq!(std::fs::read_dir(notes).unwrap().count(), 0);
}

/// A store that cannot be reached is no bug: it is said, and may be tried again.
#[tokio::test]
async fn a_store_that_is_gone_is_unavailable() {
    let Some(mut server) = Server::start().await else { return };
    let blobs = server.blobs("").await;
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    let gone = tokio::time::timeout(std::time::Duration::from_secs(240), blobs.size_bytes(&file(1))).await.unwrap();
    assert!(matches!(gone, Err(Error::Unavailable(_))), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_keeps_files_in_an_object_store() {
    let Some(server) = Server::start().await else { return };
    let store = server.folder.path().join("store");
    let settings = [
        ("DROVER_HTTP__LISTEN", "127.0.0.1:0"),
        ("DROVER_STORE__PATH", store.to_str().unwrap()),
        ("DROVER_BLOBS__URL", "s3://drover-test/coordinator"),
        ("DROVER_BLOBS__ENDPOINT", &server.endpoint),
        ("DROVER_BLOBS__REGION", "us-east-1"),
        ("DROVER_BLOBS__ACCESS_KEY_ID", "test"),
        ("DROVER_BLOBS__SECRET_ACCESS_KEY", "test"),
        ("DROVER_BOOTSTRAP__API_KEY", "a-key-of-the-test"),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::load(None, settings.into_iter()).unwrap();
    let running = start::start(&config).await.unwrap();
    let (app, root) = (running.app.clone(), format!("http://{}/api/v1", running.server.address()));
    let serving = tokio::spawn(running.serve());
    let client = reqwest::Client::new();
    let call = |method: reqwest::Method, path: &str| {
        client.request(method, format!("{root}{path}")).bearer_auth("a-key-of-the-test")
    };
    let made = call(reqwest::Method::POST, "/storages").json(&serde_json::json!({ "name": "f" })).send().await.unwrap();
    assert_eq!(made.status(), 201);
    let content = pattern(9 * 1024 * 1024);
    let put = call(reqwest::Method::PUT, "/storages/f/files/a").body(content.clone()).send().await.unwrap();
    assert_eq!(put.status(), 201);
    let read = call(reqwest::Method::GET, "/storages/f/files/a").send().await.unwrap();
    assert_eq!(read.bytes().await.unwrap(), content);
    let part = call(reqwest::Method::GET, "/storages/f/files/a").header("range", "bytes=5-9").send().await.unwrap();
    assert_eq!((part.status().as_u16(), part.bytes().await.unwrap()), (206, content.slice(5..10)));
    app.stopping.cancel();
    serving.await.unwrap().unwrap();
    drop(app);

    // The process holds the lock of its store to its end, so that a copy is looked at.
    let copy = server.folder.path().join("copy");
    assert!(Command::new("cp").arg("-a").args([&store, &copy]).status().unwrap().success());
    let engine = Embedded::open(&copy, start::engine_settings(&config)).unwrap();
    let (blobs, _) = start::open_blobs(&config).await.unwrap();
    let mut report = check::check(&*engine.view()).unwrap();
    check_blobs(&*engine.view(), &blobs, &mut report).await.unwrap();
    assert!(report.is_sound(), "{report}");
    engine.close().unwrap();
    assert!(server.get("?list-type=2").await.contains("coordinator/file/"));
    assert!(!server.get("?uploads").await.contains("<Upload>"));
}
