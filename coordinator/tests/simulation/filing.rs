//! People and programs who put files away, replace, read, copy, move and delete them, and what must hold of what they are
//! answered. What must hold after each commit is in `file_witness.rs`.

use std::{rc::Rc, time::Duration};

use axum::body::Body as HttpBody;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use drover_coordinator::{
    background,
    operations::garbage,
    store::{check::Report, check_blobs::check_blobs},
};
use drover_protocol::storage::{FilePage, StorageFolder, StoredFile};
use futures::{FutureExt, StreamExt};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    file_witness::{Place, digest_of},
    network::Answer,
    people::{at_desk, insist, is_passing, must, persist, read, send},
    world::World,
};

/// The folder for whose files a trigger fires.
pub const WATCHED: &str = "inbox";
const ARCHIVE: &str = "archive/2026";
/// There are few, so that files meet.
const PATHS: [&str; 4] = ["a.txt", "b/c.csv", "b/d", "ж & 100 %"];
/// The archive holds so many bytes, which is now and then too little.
const QUOTA_BYTES: u64 = 2_500;
const MAX_BYTES: u64 = 1_600;

/// Makes the folders.
pub async fn prepare(world: &Rc<World>) {
    must(world, Method::POST, "/storages", json!({"name": WATCHED})).await;
    must(world, Method::POST, "/storages", json!({"name": ARCHIVE, "quota_bytes": QUOTA_BYTES})).await;
}

/// Somebody who does something with files again and again, as long as there are faults.
pub async fn live(world: Rc<World>) {
    while world.has_faults() {
        tokio::time::sleep(Duration::from_millis(500 + world.below(6_000))).await;
        let at = Spot::of(&world);
        match world.below(100) {
            0..45 => put(&world, at).await,
            45..52 => put_half(&world, at).await,
            52..70 => get(&world, at).await,
            70..80 => delete(&world, at).await,
            80..90 => transfer(&world, at, "copy").await,
            _ => transfer(&world, at, "move").await,
        }
    }
}

/// Where a file may lie.
struct Spot {
    folder: String,
    path: String,
}

impl Spot {
    /// Some spot.
    fn of(world: &World) -> Self {
        Self { folder: [WATCHED, ARCHIVE][world.pick(2)].to_owned(), path: PATHS[world.pick(PATHS.len())].to_owned() }
    }

    fn address(&self) -> String {
        format!("/storages/{}/files/{}", encoded(&self.folder), encoded(&self.path))
    }

    fn place(&self, world: &World) -> Place {
        let folder = world.disk.witness.lock().files.folder(&self.folder).expect("it was made").key();
        (folder, self.path.clone())
    }
}

/// As it stands in an address.
fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// Something that nobody else writes.
fn content(world: &World) -> Bytes {
    let line = format!("this is content {}\n", world.next_wish());
    let bytes = usize::try_from(1 + world.below(MAX_BYTES)).expect("it is small");
    line.repeat(bytes.div_ceil(line.len())).into()
}

fn content_digest(content: &[u8]) -> HeaderValue {
    let digest = format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(content)));
    HeaderValue::from_str(&digest).expect("a sound header")
}

async fn put(world: &Rc<World>, at: Spot) {
    let content = content(world);
    let mut headers = HeaderMap::new();
    let damaged = world.below(8) == 0;
    if damaged {
        headers.insert("content-digest", content_digest(b"something else"));
    } else {
        headers.insert("content-digest", content_digest(&content));
        world.disk.witness.lock().files.note_sent(&content);
    }
    let is_new = world.below(4) == 0;
    if is_new {
        headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("*"));
    }
    let Some(answer) = persist(world, Method::PUT, &at.address(), headers, content.clone()).await else { return };
    match answer.status {
        StatusCode::CREATED | StatusCode::OK => {
            let stored: StoredFile = serde_json::from_slice(&answer.body).expect("a file");
            let digest = digest_of(&content);
            let fits = (stored.sha256.as_str(), stored.size_bytes) == (digest.as_str(), content.len() as u64);
            assert!(fits && stored.path == at.path && !damaged, "{} was answered with {stored:?}", at.address());
            assert!(!is_new || answer.status == StatusCode::CREATED, "{} took the place of another", at.address());
            let written = world.disk.witness.lock().files.was_written(stored.id, &digest);
            assert!(written, "{} was acknowledged as {} and is not there", at.address(), stored.id);
        }
        StatusCode::PAYLOAD_TOO_LARGE => {
            assert_eq!(at.folder, ARCHIVE, "only the archive has a quota");
            world.disk.witness.lock().count("file over quota".to_owned());
        }
        StatusCode::PRECONDITION_FAILED => assert!(is_new, "nothing was asked but to write"),
        StatusCode::UNPROCESSABLE_ENTITY => assert!(damaged, "{}", String::from_utf8_lossy(&answer.body)),
        status => panic!("{} was answered with {status}", at.address()),
    }
}

/// The connection breaks while the content comes.
async fn put_half(world: &Rc<World>, at: Spot) {
    let content = content(world);
    let half = content.slice(..content.len() / 2);
    let pause = Duration::from_millis(world.below(2_000));
    let breaks = async move {
        tokio::time::sleep(pause).await;
        Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
    };
    let pieces = futures::stream::iter([Ok(half)]).chain(breaks.into_stream());
    let answer = at_desk(world, Method::PUT, &at.address(), HttpBody::from_stream(pieces)).await;
    let taken = answer.is_some_and(|answer| answer.status.is_success());
    assert!(!taken, "half of a content was taken for {}", at.address());
}

/// Whatever is read is what lay there meanwhile, with its digest.
async fn get(world: &Rc<World>, at: Spot) {
    let place = at.place(world);
    let since = world.disk.witness.lock().commits;
    let Some(answer) = send(world, Method::GET, &at.address(), HeaderMap::new(), Bytes::new()).await else { return };
    if is_passing(answer.status) {
        return;
    }
    let found = (answer.status != StatusCode::NOT_FOUND).then(|| checked_digest(&at, &answer));
    let lay_there = world.disk.witness.lock().files.lay_there_since(since, &place, found.as_deref());
    assert!(lay_there, "{} was read as {found:?} ({}), which did not lie there", at.address(), answer.status);
}

/// The digest of what was read, of which the answer says the same.
fn checked_digest(at: &Spot, answer: &Answer) -> String {
    let digest = digest_of(&answer.body);
    assert_eq!(answer.status, StatusCode::OK, "{} was not read", at.address());
    let tag = format!("\"{digest}\"");
    assert_eq!(
        answer.headers.get(header::ETAG).map(HeaderValue::as_bytes),
        Some(tag.as_bytes()),
        "of {}",
        at.address()
    );
    let said = answer.headers.get("content-digest");
    assert_eq!(said, Some(&content_digest(&answer.body)), "of {}", at.address());
    digest
}

async fn delete(world: &Rc<World>, at: Spot) {
    let place = at.place(world);
    world.disk.witness.lock().files.note_leaving(place);
    let answer = persist(world, Method::DELETE, &at.address(), HeaderMap::new(), Bytes::new()).await;
    let status = answer.map_or(StatusCode::NO_CONTENT, |answer| answer.status);
    let known = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_FOUND);
    assert!(known, "deleting {} was answered with {status}", at.address());
}

/// Copies or moves a file to some spot.
async fn transfer(world: &Rc<World>, from: Spot, verb: &str) {
    let (to, place) = (Spot::of(world), from.place(world));
    if verb == "move" {
        world.disk.witness.lock().files.note_leaving(place);
    }
    let body = json!({"path": from.path, "to_folder": to.folder, "to_path": to.path,
        "replace": world.below(2) == 0});
    let key = format!("{verb} {}", world.next_wish());
    let path = format!("/storages/{}/{verb}", encoded(&from.folder));
    let Some((status, answer)) = insist(world, &path, &body, &key).await else { return };
    let known = matches!(
        status,
        // There is nothing to be moved, or something where it would go, or no room for it.
        StatusCode::CREATED | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::CONFLICT | StatusCode::PAYLOAD_TOO_LARGE
    );
    assert!(known, "{path} was answered with {status} {answer}");
}

/// When faults have ended: every file is there with its content, folders say what is in them, and nothing is left of what
/// nobody needs.
pub async fn check(world: &Rc<World>) {
    let (files, folders): (Vec<(Spot, String)>, Vec<_>) = {
        let witness = world.disk.witness.lock();
        let spot = |name: &str, path: &str| Spot { folder: name.to_owned(), path: path.to_owned() };
        let files = witness.files.in_folders();
        let files = files.map(|(folder, file)| (spot(&folder.name, &file.path), file.sha256.clone()));
        (files.collect(), witness.files.folders().cloned().collect())
    };
    for (at, sha256) in &files {
        let answer =
            at_desk(world, Method::GET, &at.address(), HttpBody::empty()).await.expect("the coordinator lives");
        assert_eq!(checked_digest(at, &answer), *sha256, "the content of {}", at.address());
    }
    for folder in folders {
        let (_, body) = read(world, &format!("/storages/{}", folder.id)).await;
        let told: StorageFolder = serde_json::from_slice(&body).expect("a folder");
        let (_, body) = read(world, &format!("/storages/{}/files?limit=1000", folder.id)).await;
        let page: FilePage = serde_json::from_slice(&body).expect("files");
        let bytes: u64 = page.items.iter().map(|file| file.size_bytes).sum();
        assert_eq!((told.file_count, told.used_bytes), (page.items.len() as u64, bytes), "of {}", folder.name);
    }
    nothing_is_left_over(world).await;
}

/// Everything that is kept is named by a record.
async fn nothing_is_left_over(world: &World) {
    let coordinator = world.coordinator().expect("the coordinator lives");
    // What is being brought just now is noted as well until its record is there.
    for _ in 0..60 {
        background::garbage::pass(&coordinator.app).await.expect("faults have ended");
        if world.disk.read(|reading| garbage::list(reading, None, 1)).expect("the store can be read").is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let noted = world.disk.read(|reading| garbage::list(reading, None, 10)).expect("the store can be read");
    assert!(noted.is_empty(), "nobody needs {noted:?}, and they are not deleted");
    let mut report = Report::default();
    let checked = check_blobs(&*world.disk.view(), &world.kept(), &mut report).now_or_never();
    checked.expect("memory is read at once").expect("the store can be read");
    assert!(report.is_sound(), "{report}");
}
