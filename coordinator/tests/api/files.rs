//! Files of folders: what is written is what is read, whole or not at all, under names of any kind.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use axum::body::Body;
use drover_coordinator::store::blob::Blobs;
use futures::stream::BoxStream;
use http::Method;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};
use serde_json::json;
use tokio::sync::Notify;

use crate::support::{Answer, Call, World, each, settle, text};

async fn world() -> World {
    let world = World::new().await;
    world.post("/storages", json!({ "name": "f" })).await.created();
    world
}

fn encoded(path: &str) -> String {
    path.split('/')
        .map(|part| part.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>())
        .collect::<Vec<_>>()
        .join("/")
}

fn digest_of(content: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use sha2::{Digest, Sha256};
    format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(content)))
}

/// Names with everything in them that other systems break; upper and lower case, composed and decomposed letters are
/// different names.
#[tokio::test]
async fn names_are_kept_exactly_as_given() {
    let world = world().await;
    let names = [
        "a b",
        "a+b",
        "a%20b",
        "a&b=c",
        "100% ?#.csv",
        "Отчёт/Итоги «2026».xlsx",
        "请求/文件.txt",
        "A b",
        "caf\u{e9}",
        "cafe\u{301}",
        "\u{1f600}.png",
        "..a/.b",
        "a;b:c@d,e'f\"g\\h|i*j<k>",
        "xyz/%2e%2e/x",
    ];
    for name in names {
        world.put_file("f", &encoded(name), name).await.created();
    }
    let mut expected: Vec<&str> = names.to_vec();
    expected.sort_by_key(|name| name.as_bytes().to_vec());
    assert_eq!(each(&world.get("/storages/f/files").await.ok(), "path"), expected);
    for name in names {
        let answer = world.get(&format!("/storages/f/files/{}", encoded(name))).await.expect(200);
        assert_eq!(answer.text(), name);
    }
    for bad in ["", "a//b", "a/", "%2Fa", "a/../b", "..", ".", "a%00b", "a%0Ab", &"x".repeat(256), &"a/".repeat(513)] {
        let answer = world.put_file("f", bad, "x").await;
        assert!(matches!(answer.status.as_u16(), 404 | 405 | 422), "{bad}: {}", answer.status);
    }
    world.put_file("f", "%FF", "x").await.expect(400);
}

/// A condition names tags in several lines, between empty elements and with commas in them. `If-None-Match` compares weakly,
/// lest a write should replace what it names; `If-Match` does not.
#[tokio::test]
async fn conditions_name_tags_in_every_form() {
    let world = World::new().await;
    world.post("/storages", json!({ "name": "f" })).await.created();
    let path = "/storages/f/files/a";
    let tag = world.put_file("f", "a", "one").await.header("etag").unwrap().to_owned();
    let (weak, with_comma) = (format!("W/{tag}"), format!("\"a,b\" , ,{tag},"));
    let send = async |method: Method, name: &'static str, lines: &[&str]| {
        let call = world.call(method, path);
        lines.iter().fold(call, |call, line| call.also(name, line)).body("two").send().await.status.as_u16()
    };
    for lines in [&[weak.as_str()][..], &[&tag], &["\"a\"", &tag], &[&with_comma], &["*"]] {
        assert_eq!(send(Method::PUT, "if-none-match", lines).await, 412, "{lines:?}");
        assert_eq!(send(Method::GET, "if-none-match", lines).await, 304, "{lines:?}");
    }
    for lines in [&["\"a\"", &tag][..], &[&with_comma], &["*"]] {
        assert_eq!(send(Method::GET, "if-match", lines).await, 200, "{lines:?}");
    }
    assert_eq!(send(Method::PUT, "if-match", &[&weak]).await, 412);
    for broken in ["x", "\"a", "\"a\" \"b\"", "w/\"a\""] {
        assert_eq!(send(Method::PUT, "if-none-match", &[broken]).await, 400, "{broken}");
    }
    assert_eq!(world.get(path).await.text(), "one");
}

/// The headers of what is read say what it is; what was sent wrongly is refused and leaves nothing.
#[tokio::test]
async fn content_has_type_digest_tag_and_metadata() {
    let world = world().await;
    let path = "/storages/f/files/out/data.csv";
    let query = "?metadata=customer:%D0%9E%D0%9E%D0%9E&metadata=a:b:c";
    let put = world.call(Method::PUT, &format!("{path}{query}")).header("content-digest", &digest_of(b"1,2\n"));
    let answer = put.body("1,2\n").send().await.expect(201);
    let tag = answer.header("etag").unwrap().to_owned();
    assert_eq!(answer.header("location").unwrap().rsplit("/files/").next(), Some("out/data.csv"));
    let made = answer.json();
    assert_eq!(made["metadata"], json!({ "customer": "ООО", "a": "b:c" }));
    assert_eq!(text(&made, "/content_type"), "text/csv; charset=utf-8");
    assert!(text(&made, "/created_by").starts_with("user:"));
    for method in [Method::GET, Method::HEAD] {
        let answer = world.call(method.clone(), path).send().await.expect(200);
        assert_eq!(answer.header("content-digest"), Some(&*digest_of(b"1,2\n")), "{method}");
        assert_eq!(answer.header("etag"), Some(&*tag));
        assert_eq!(answer.header("content-length"), Some("4"));
        assert_eq!(answer.header("x-drover-metadata"), Some("a=b%3Ac&customer=%D0%9E%D0%9E%D0%9E"));
        assert_eq!(answer.body.is_empty(), method == Method::HEAD);
    }
    let typed = world.call(Method::PUT, path).header("content-type", "application/x-own").body("1,2\n").send().await;
    let replaced = typed.ok();
    assert_eq!(
        (text(&replaced, "/content_type"), replaced["metadata"].clone()),
        ("application/x-own".into(), json!({}))
    );
    assert_eq!(world.get(path).await.expect(200).content_type(), "application/x-own");
    let wrong = world.call(Method::PUT, path).header("content-digest", &digest_of(b"other")).body("mine");
    wrong.send().await.invalid(&["Content-Digest"]);
    for (unchecked, status) in [("sha-256=x", 400), ("md5=:AAAA:", 422)] {
        let put = world.call(Method::PUT, path).header("content-digest", unchecked).body("mine");
        put.send().await.expect(status);
    }
    for bad in ["?metadata=x", "?metadata=a:1&metadata=a:2", "?metadata=:1", "?meta=a:b"] {
        world.call(Method::PUT, &format!("{path}{bad}")).body("x").send().await.expect(422).refused("invalid");
    }
    world.call(Method::PUT, path).header("content-type", "nonsense").body("x").send().await.invalid(&["Content-Type"]);
    let large = vec![0; 1024 * 1024 + 1];
    world.put_file("f", "large", large).await.expect(413).refused("too_large");
    world.collect_garbage().await;
    assert_eq!(world.file_blobs().await, 1);
}

#[tokio::test]
async fn parts_are_read_and_conditions_hold() {
    let world = world().await;
    let path = "/storages/f/files/a";
    world.put_file("f", "a", "0123456789").await.created();
    let tag = world.get(path).await.header("etag").unwrap().to_owned();
    let get = async |headers: &[(&'static str, &str)]| -> Answer {
        headers.iter().fold(world.call(Method::GET, path), |call, (name, value)| call.header(name, value)).send().await
    };
    let part = get(&[("range", "bytes=2-4"), ("if-range", &tag)]).await.expect(206);
    assert_eq!((part.text(), part.header("content-range")), ("234".to_owned(), Some("bytes 2-4/10")));
    assert_eq!(get(&[("range", "bytes=2-4"), ("if-range", "\"old\"")]).await.expect(200).text(), "0123456789");
    get(&[("range", "bytes=10-")]).await.expect(416).refused("range_not_satisfiable");
    // Nobody asks for a part of what he does not read.
    for range in ["bytes=2-4", "bytes=10-"] {
        let head = world.call(Method::HEAD, path).header("range", range).send().await.expect(200);
        assert_eq!((head.header("content-length"), head.header("content-range")), (Some("10"), None), "{range}");
    }
    get(&[("if-none-match", &tag)]).await.expect(304);
    get(&[("if-match", &tag), ("range", "bytes=0-0")]).await.expect(206);
    get(&[("if-match", "\"old\""), ("range", "bytes=0-0")]).await.expect(412).refused("precondition_failed");

    let put = async |name: &'static str, value: &str, to: &str| {
        world.call(Method::PUT, &format!("/storages/f/files/{to}")).header(name, value).body("new").send().await
    };
    put("if-none-match", "*", "a").await.expect(412).refused("precondition_failed");
    put("if-none-match", "*", "b").await.expect(201);
    put("if-match", "*", "c").await.expect(412);
    put("if-match", "\"old\"", "a").await.expect(412);
    put("if-match", "nonsense", "a").await.expect(400);
    assert_eq!(world.get(path).await.expect(200).text(), "0123456789");
    put("if-match", &format!("\"old\", {tag}"), "a").await.expect(200);
    let delete = async |value: &str| world.call(Method::DELETE, path).header("if-match", value).send().await;
    delete(&tag).await.expect(412);
    delete("*").await.expect(204);
    delete("*").await.expect(404);
}

/// Whoever is still sending when the connection ends sees no answer: what is refused is read to its end.
#[tokio::test]
async fn a_refused_upload_is_read_off() {
    let world = world().await;
    let agent = world.agent("r").await;
    world.process("p").await;
    world.start("p").await;
    let (job, _) = agent.run().await;
    agent.fail(&job, 1).await.done();
    world.queue("q", json!({})).await;
    let of_task = format!("/tasks/{}/files/a", world.add("q", json!({})).await);
    world.put_file("f", "a", "content").await.created();
    let put = |path: &str| world.call(Method::PUT, path);
    put(&of_task).body("content").send().await.created();
    let link = json!({ "path": "a", "verb": "put", "expires_in_seconds": 1 });
    let link = text(&world.post("/storages/f/links", link).await.created(), "/url");
    world.move_clock(1);
    let versions = |process: &str| world.call(Method::POST, &format!("/processes/{process}/versions"));
    for (call, status) in [
        (put("/storages/f/files/a").header("if-none-match", "*"), 412),
        (put("/storages/f/files/a?metadata=x"), 422),
        (put(&of_task).header("if-none-match", "*"), 412),
        (put("/tasks/none/files/a"), 404),
        (Call::new(world.router.clone(), Method::PUT, link.split("/api/v1").nth(1).unwrap()), 403),
        (agent.call(Method::PUT, &format!("/jobs/{job}/files/a")), 409),
        (versions("none").header("content-type", "application/zip"), 404),
        (versions("p").header("content-type", "text/plain"), 415),
    ] {
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&sent);
        let pieces = (0..9).map(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>("piece")
        });
        let answer = call.streamed(Body::from_stream(futures::stream::iter(pieces))).send().await;
        assert_eq!((answer.status.as_u16(), sent.load(Ordering::Relaxed)), (status, 9), "{}", answer.text());
    }
}

/// Two that make the same file at once: one of them has made it.
#[tokio::test]
async fn only_one_of_two_makes_a_file() {
    let world = world().await;
    let open = || {
        let (pieces, body) = futures::channel::mpsc::unbounded::<Result<&'static [u8], std::io::Error>>();
        let call = world.call(Method::PUT, "/storages/f/files/a").header("if-none-match", "*");
        (pieces, tokio::spawn(call.streamed(Body::from_stream(body)).send()))
    };
    let (first, second) = (open(), open());
    first.0.unbounded_send(Ok(b"first")).unwrap();
    second.0.unbounded_send(Ok(b"second")).unwrap();
    settle().await;
    drop(second.0);
    second.1.await.unwrap().expect(201);
    drop(first.0);
    first.1.await.unwrap().expect(412);
    assert_eq!(world.get("/storages/f/files/a").await.expect(200).text(), "second");
    world.collect_garbage().await;
    assert_eq!(world.file_blobs().await, 1);
}

/// Whoever has begun to read the old content gets all of it, and whoever asks while the new comes gets the old.
#[tokio::test]
async fn readers_see_the_old_or_the_new_whole() {
    let world = world().await;
    let old = vec![b'a'; 600_000];
    world.put_file("f", "a", old.clone()).await.created();
    let reading = world.call(Method::GET, "/storages/f/files/a").open().await;
    let (pieces, body) = futures::channel::mpsc::unbounded::<Result<&'static [u8], std::io::Error>>();
    let writing = world.call(Method::PUT, "/storages/f/files/a").streamed(Body::from_stream(body));
    let writing = tokio::spawn(writing.send());
    pieces.unbounded_send(Ok(b"new")).unwrap();
    settle().await;
    assert_eq!(world.get("/storages/f/files/a").await.expect(200).body, old);
    drop(pieces);
    writing.await.unwrap().ok();
    assert_eq!(world.get("/storages/f/files/a").await.expect(200).text(), "new");
    let read = http_body_util::BodyExt::collect(reading.into_body()).await.unwrap().to_bytes();
    assert_eq!(read, old);
    // One whose sender goes away half-way changes nothing.
    let (pieces, body) = futures::channel::mpsc::unbounded::<Result<&'static [u8], std::io::Error>>();
    let broken = world.call(Method::PUT, "/storages/f/files/a").streamed(Body::from_stream(body));
    let broken = tokio::spawn(broken.send());
    pieces.unbounded_send(Ok(b"half")).unwrap();
    pieces.unbounded_send(Err(std::io::Error::other("gone"))).unwrap();
    broken.await.unwrap().expect(400);
    assert_eq!(world.get("/storages/f/files/a").await.expect(200).text(), "new");
}

/// A copy lives on when its origin goes, and the other way round; the content goes with the last of them.
#[tokio::test]
async fn copies_share_their_content_and_outlive_each_other() {
    let world = world().await;
    world.post("/storages", json!({ "name": "g" })).await.created();
    world.put_file("f", "a", "shared").await.created();
    let post = async |kind: &str, body| world.post(&format!("/storages/f/{kind}"), body).await;
    let copy = post("copy", json!({ "path": "a", "to_folder": "g", "to_path": "x/a" })).await;
    assert!(copy.header("location").unwrap().ends_with("/files/x/a"));
    let copy = copy.created();
    assert_eq!((text(&copy, "/path"), copy["size_bytes"].clone()), ("x/a".into(), json!(6)));
    world.post("/storages/g/copy", json!({ "path": "x/a", "to_path": "y" })).await.created();
    assert_eq!(world.file_blobs().await, 1);
    world.put_file("f", "a", "other").await.ok();
    world.delete("/storages/g/files/x/a").await.done();
    world.collect_garbage().await;
    assert_eq!(world.get("/storages/g/files/y").await.expect(200).text(), "shared");
    assert_eq!(world.file_blobs().await, 2);
    world.delete("/storages/g/files/y").await.done();
    world.collect_garbage().await;
    assert_eq!(world.file_blobs().await, 1);

    post("move", json!({ "path": "a", "to_path": "b" })).await.created();
    world.get("/storages/f/files/a").await.expect(404);
    assert_eq!(world.get("/storages/f/files/b").await.expect(200).text(), "other");
    world.put_file("f", "c", "c").await.created();
    let taken = post("move", json!({ "path": "b", "to_path": "c" })).await.expect(409).refused("already_exists");
    assert!(taken["id"].is_string());
    post("copy", json!({ "path": "b", "to_path": "b" })).await.created();
    post("copy", json!({ "path": "none", "to_path": "d" })).await.invalid(&["/path"]);
    post("copy", json!({ "path": "b", "to_path": "../d" })).await.invalid(&["/to_path"]);
    post("copy", json!({ "path": "b", "to_folder": "none", "to_path": "d" })).await.invalid(&["/to_folder"]);
}

/// One level at a time, in pages: each deeper beginning once, however much lies below it.
#[tokio::test]
async fn a_level_is_listed_without_what_lies_below() {
    let world = world().await;
    let deep = (0..130).map(|number| format!("b/{number:03}/x"));
    let paths = ["a", "b.txt", "b", "c/d/e", "c/d0", "c0", "é/x"].map(str::to_owned);
    for path in deep.chain(paths) {
        world.put_file("f", &encoded(&path), "x").await.created();
    }
    let level = async |query: &str| {
        let (mut files, mut prefixes, mut cursor) = (Vec::new(), Vec::new(), String::new());
        loop {
            let page = world.get(&format!("/storages/f/files?delimiter=/{query}{cursor}")).await.ok();
            files.extend(each(&page, "path").iter().map(|path| path.as_str().unwrap().to_owned()));
            prefixes.extend(page["prefixes"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return (files, prefixes),
            }
        }
    };
    for limit in ["", "&limit=1", "&limit=3"] {
        let (files, prefixes) = level(limit).await;
        assert_eq!(files, ["a", "b", "b.txt", "c0"], "{limit}");
        assert_eq!(prefixes, ["b/", "c/", "é/"], "{limit}");
        let (files, prefixes) = level(&format!("&prefix=c/{limit}")).await;
        assert_eq!((files, prefixes), (vec!["c/d0".to_owned()], vec!["c/d/".to_owned()]));
        let (files, prefixes) = level(&format!("&prefix=b/{limit}")).await;
        assert_eq!((files.len(), prefixes.len()), (0, 130));
    }
    world.get("/storages/f/files?delimiter=x").await.invalid(&["delimiter"]);
    world.get("/storages/f/files?delimiter=/&cursor=x").await.expect(400);
}

/// A package, or a file, that nothing names and that nobody brings is found by its age and deleted; what is in use, noted,
/// young or arriving is not.
#[tokio::test]
async fn orphans_are_found_and_what_is_needed_is_kept() {
    use drover_coordinator::store::blob::BlobName;
    use drover_protocol::FileId;
    use uuid::Uuid;

    let world = world().await;
    world.process("p").await;
    world.put_file("f", "a", "kept").await.created();
    world.post("/storages/f/copy", json!({ "path": "a", "to_path": "b" })).await.created();
    world.delete("/storages/f/files/a").await.done();
    let orphan = |number| BlobName::file(FileId::from_uuid(Uuid::from_u128(number)));
    for number in [1, 2] {
        world.app.blobs.put(&orphan(number), "lost".into()).await.unwrap();
    }
    let sweep = async || drover_coordinator::background::orphans::sweep(&world.app).await.unwrap();
    world.move_clock(-200 * 86_400);
    assert_eq!(sweep().await, 0, "all of them are young");
    world.move_clock(10_000 * 86_400);
    let arriving = world.app.blobs.arriving(&orphan(2)).await;
    assert_eq!(sweep().await, 1);
    assert_eq!(world.file_blobs().await, 2);
    drop(arriving);
    assert_eq!(sweep().await, 1);
    assert_eq!(world.get("/storages/f/files/b").await.expect(200).text(), "kept");
    world.get("/processes/p/versions/1/package").await.expect(200);
}

/// A blob that comes again while its last reference goes does not vanish: the package of a version that is deleted and
/// uploaded anew at the same time.
#[tokio::test]
async fn a_blob_that_comes_while_its_last_reference_goes_is_there() {
    use drover_coordinator::store::blob::BlobName;

    let world = World::new().await;
    world.process("p").await;
    let version = world.get("/processes/p/versions/1").await.ok();
    let name = BlobName::package(&text(&version, "/sha256")).unwrap();
    world.upload("p", "?activate=true", &crate::support::package(&[("main.sh", "other")])).await.created();
    let arriving = world.app.blobs.arriving(&name).await;
    world.delete("/processes/p/versions/1").await.done();
    world.collect_garbage().await;
    world.app.blobs.size_bytes(&name).await.expect("it is not deleted while it arrives");
    world.upload("p", "", &crate::support::package(&[("main.sh", "echo hello")])).await.created();
    drop(arriving);
    world.collect_garbage().await;
    world.get("/processes/p/versions/3/package").await.expect(200);
}

/// Content that is looked for once only when the test says so.
#[derive(Debug, Default)]
struct Gate {
    kept: InMemory,
    is_closed: AtomicBool,
    asked: Notify,
    opened: Notify,
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a gate")
    }
}

#[async_trait]
impl ObjectStore for Gate {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.kept.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.kept.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if self.is_closed.swap(false, Ordering::SeqCst) {
            self.asked.notify_one();
            self.opened.notified().await;
        }
        self.kept.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.kept.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.kept.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.kept.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.kept.copy_opts(from, to, options).await
    }
}

/// Between the look at its record and the look at its content a file may be replaced, and the old content be gone.
#[tokio::test]
async fn a_file_that_is_replaced_while_it_is_looked_for_is_there() {
    let gate = Arc::new(Gate::default());
    let world = World::with_blobs(Blobs::within(gate.clone())).await;
    world.post("/storages", json!({ "name": "f" })).await.created();
    world.put_file("f", "x", "old").await.created();
    gate.is_closed.store(true, Ordering::SeqCst);
    let reading = async { world.get("/storages/f/files/x").await };
    let replacing = async {
        gate.asked.notified().await;
        world.put_file("f", "x", "new").await.ok();
        world.collect_garbage().await;
        gate.opened.notify_one();
    };
    let (answer, ()) = tokio::join!(reading, replacing);
    assert_eq!(answer.expect(200).text(), "new");
}
