use std::io::{SeekFrom, Write as _};

use drover_protocol::{FileId, LogBlockId};
use uuid::Uuid;

use super::*;

const HELLO_SHA256: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

fn file_id(number: u128) -> FileId {
    FileId::from_uuid(Uuid::from_u128(number))
}

fn pattern(length: usize) -> Bytes {
    (0..length).map(|index| (index * 7 % 251) as u8).collect::<Vec<_>>().into()
}

async fn collect(content: BoxStream<'static, Result<Bytes>>) -> Vec<Bytes> {
    content.try_collect().await.unwrap()
}

async fn stage_all(blobs: &Blobs, content: &Bytes) -> Staged {
    let mut staging = blobs.stage(u64::MAX).await.unwrap();
    for piece in content.chunks(100_003) {
        staging.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    staging.finish().await.unwrap()
}

fn staged_files(root: &Path) -> usize {
    std::fs::read_dir(root.join("staging")).unwrap().count()
}

fn shape(listed: Vec<BlobEntry>) -> Vec<(BlobName, u64)> {
    listed.into_iter().map(|blob| (blob.name, blob.size_bytes)).collect()
}

/// What both kinds of store promise.
async fn behaves(blobs: Blobs) {
    let content = pattern(3 * CHUNK_BYTES + 17);
    let staged = stage_all(&blobs, &content).await;
    assert_eq!(staged.size_bytes, content.len() as u64);
    let sha256 = staged.sha256.clone();
    let package = BlobName::package(&sha256).unwrap();
    assert_eq!(blobs.read(&package, None).await.err(), Some(Error::NotFound("stored content")));
    blobs.keep(staged, &package).await.unwrap();
    blobs.keep(stage_all(&blobs, &content).await, &package).await.expect("the same content again is success");

    let (total, stored) = blobs.read(&package, None).await.unwrap();
    let pieces = collect(stored).await;
    assert_eq!(total, content.len() as u64);
    assert!(pieces.iter().all(|piece| piece.len() <= CHUNK_BYTES), "memory per transfer is bounded");
    assert_eq!(pieces.concat(), content);
    assert_eq!(blobs.read_all(&package).await.unwrap(), content);

    let length = content.len() as u64;
    for range in [
        0..1,
        5..5,
        Range { start: 9, end: 2 },
        CHUNK_BYTES as u64 - 3..length - 1,
        length - 4..length + 99,
        length..length + 1,
    ] {
        let (total, part) = blobs.read(&package, Some(range.clone())).await.unwrap();
        let expected = (range.start.min(length) as usize)..(range.end.min(length) as usize);
        assert_eq!(total, length);
        assert_eq!(collect(part).await.concat(), content.get(expected).unwrap_or_default(), "{range:?}");
    }

    let (empty, log) = (BlobName::file(file_id(7)), BlobName::log(LogBlockId::from_uuid(Uuid::from_u128(8))));
    blobs.put(&empty, Bytes::new()).await.unwrap();
    blobs.put(&log, Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(blobs.size_bytes(&empty).await.unwrap(), 0);
    assert!(collect(blobs.read(&empty, None).await.unwrap().1).await.concat().is_empty());
    let listed: Vec<BlobEntry> = blobs.list(BlobKind::File).try_collect().await.unwrap();
    assert_eq!(shape(listed), [(empty.clone(), 0)]);
    let listed: Vec<BlobEntry> = blobs.list(BlobKind::Log).try_collect().await.unwrap();
    assert_eq!(shape(listed), [(log, 5)]);

    blobs.delete(&empty).await.unwrap();
    blobs.delete(&empty).await.expect("deleting twice is success");
    assert_eq!(blobs.size_bytes(&empty).await, Err(Error::NotFound("stored content")));
    assert_eq!(blobs.list(BlobKind::File).count().await, 0);
}

#[tokio::test]
async fn a_folder_keeps_reads_lists_and_deletes() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("blobs");
    behaves(Blobs::open(&root).unwrap()).await;
    assert_eq!(staged_files(&root), 0, "nothing staged is left when all was kept");
}

/// The simulation runs on one thread with a clock of its own, so nothing may ever be waited for: no thread, no timer.
#[test]
fn memory_behaves_like_a_folder_without_waiting_for_anything() {
    let mut behaves = std::pin::pin!(behaves(Blobs::memory()));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(behaves.as_mut().poll(&mut context).is_ready());
}

#[tokio::test]
async fn content_is_found_again_by_a_later_process_and_lies_two_folders_deep() {
    let folder = tempfile::tempdir().unwrap();
    let name = BlobName::package(HELLO_SHA256).unwrap();
    Blobs::open(folder.path()).unwrap().put(&name, Bytes::from_static(b"hello")).await.unwrap();
    assert!(folder.path().join("package/24/98").join(HELLO_SHA256).is_file());
    assert_eq!(Blobs::open(folder.path()).unwrap().read_all(&name).await.unwrap(), "hello");
}

#[tokio::test]
async fn an_upload_over_the_limit_is_refused_with_the_remedy_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for blobs in [Blobs::open(folder.path()).unwrap(), Blobs::memory()] {
        let mut staging = blobs.stage(1 << 20).await.unwrap();
        staging.write(pattern(1 << 20)).await.expect("the limit itself is allowed");
        let refusal = staging.write(Bytes::from_static(b"x")).await.unwrap_err();
        assert_eq!(
            refusal,
            Error::TooLarge(
                "the content is larger than the limit of 1 MiB; send less, or ask the administrator to raise the limit"
                    .to_owned()
            )
        );
        assert!(staging.finish().await.is_err(), "what was refused cannot be finished");
    }
    assert_eq!(staged_files(folder.path()), 0);
}

#[tokio::test]
async fn what_is_dropped_or_left_by_a_dead_process_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(folder.path()).unwrap();
    let mut staging = blobs.stage(u64::MAX).await.unwrap();
    staging.write(pattern(CHUNK_BYTES)).await.unwrap();
    assert_eq!(staged_files(folder.path()), 1);
    drop(staging);
    assert_eq!(staged_files(folder.path()), 0, "a dropped upload");
    drop(stage_all(&blobs, &pattern(9)).await);
    assert_eq!(staged_files(folder.path()), 0, "a finished upload that was not kept");

    std::fs::write(folder.path().join("staging/upload-dead"), "half").unwrap();
    Blobs::open(folder.path()).unwrap();
    assert_eq!(staged_files(folder.path()), 0, "an upload that a kill interrupted");
}

#[tokio::test]
async fn other_content_under_a_name_in_use_is_refused_and_the_first_stays() {
    let folder = tempfile::tempdir().unwrap();
    for blobs in [Blobs::open(folder.path()).unwrap(), Blobs::memory()] {
        let name = BlobName::file(file_id(1));
        blobs.put(&name, Bytes::from_static(b"first")).await.unwrap();
        blobs.put(&name, Bytes::from_static(b"first")).await.expect("a repeated call is success");
        assert!(matches!(blobs.put(&name, Bytes::from_static(b"other")).await, Err(Error::Internal(_))));
        assert_eq!(blobs.read_all(&name).await.unwrap(), "first");
        let wrong_digest = blobs.put(&BlobName::package(HELLO_SHA256).unwrap(), Bytes::from_static(b"other")).await;
        assert!(matches!(wrong_digest, Err(Error::Internal(_))));
    }
}

/// A package is named by its content, so an upload of the same bytes mends one that has rotted.
#[tokio::test]
async fn keeping_a_package_again_heals_a_damaged_one() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(folder.path()).unwrap();
    let name = BlobName::package(HELLO_SHA256).unwrap();
    blobs.put(&name, Bytes::from_static(b"hello")).await.unwrap();
    std::fs::write(folder.path().join("package/24/98").join(HELLO_SHA256), "he").unwrap();
    blobs.put(&name, Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(blobs.read_all(&name).await.unwrap(), "hello");
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_read_is_an_error_and_not_a_short_answer() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(folder.path()).unwrap();
    let name = BlobName::file(file_id(0x1234));
    blobs.put(&name, pattern(4 * CHUNK_BYTES)).await.unwrap();
    let (_, mut content) = blobs.read(&name, None).await.unwrap();
    content.try_next().await.unwrap().expect("the first piece is whole");
    let path = folder.path().join("file/34/12").join(name.key());
    std::fs::File::options().write(true).open(path).unwrap().set_len(CHUNK_BYTES as u64 + 5).unwrap();
    // The second piece was on its way already; a failed stream has ended.
    let rest: Vec<Result<Bytes>> = content.collect().await;
    assert!(matches!(rest.as_slice(), [.., Err(Error::Internal(_))]) && rest.len() < 3, "{rest:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_is_told_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let (_, path) = tempfile::NamedTempFile::new_in(folder.path()).unwrap().into_parts();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut staging = Staging::in_file(full, path, u64::MAX);
    // It is found when the next buffer is full.
    assert_eq!(staging.write(pattern(4 * CHUNK_BYTES)).await, Err(Error::OutOfSpace));
    // The content cannot be whole any more.
    assert!(matches!(staging.write(pattern(1)).await, Err(Error::Internal(_))));
    assert!(matches!(staging.finish().await, Err(Error::Internal(_))));
    let io = std::io::Error::from(ErrorKind::StorageFull);
    let wrapped = object_store::Error::Generic { store: "x", source: Box::new(io) };
    assert_eq!(store_error(wrapped, "testing"), Error::OutOfSpace);
}

#[tokio::test]
async fn staged_content_can_be_looked_at_at_random() {
    let folder = tempfile::tempdir().unwrap();
    for blobs in [Blobs::open(folder.path()).unwrap(), Blobs::memory()] {
        let staged = stage_all(&blobs, &Bytes::from_static(b"hello world")).await;
        assert_eq!(staged.sha256, hex_of(b"hello world"));
        let tail = staged.inspect(|content| {
            content.seek(SeekFrom::End(-5)).unwrap();
            let mut tail = String::new();
            content.read_to_string(&mut tail).unwrap();
            Ok(tail)
        });
        assert_eq!(tail.await.unwrap(), "world");
    }
}

fn hex_of(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn names_are_made_of_digests_and_ids_only() {
    for wrong in ["", "../../etc/passwd", &"A".repeat(64), &"a".repeat(63), &format!("{}/", "a".repeat(63))] {
        assert!(BlobName::package(wrong).is_err(), "{wrong}");
    }
    let name = BlobName::file(file_id(0xab_cdef));
    assert_eq!(name.to_string(), "file/00000000-0000-0000-0000-000000abcdef");
    assert_eq!(name.path().as_ref(), "file/ef/cd/00000000-0000-0000-0000-000000abcdef");
    assert_eq!(BlobName::of_path(BlobKind::File, &name.path()), Some(name.clone()));
    assert_eq!(BlobName::of_path(BlobKind::Log, &name.path()), None);
}

/// What somebody else puts into the folder is not listed, and breaks nothing.
#[tokio::test]
async fn foreign_files_are_not_listed() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(folder.path()).unwrap();
    blobs.put(&BlobName::file(file_id(5)), Bytes::from_static(b"x")).await.unwrap();
    let mut foreign = std::fs::File::create(folder.path().join("file/lost+found.txt")).unwrap();
    foreign.write_all(b"not ours").unwrap();
    assert_eq!(blobs.list(BlobKind::File).count().await, 1);
}

/// Many may bring the same blob; whoever deletes it comes back later, and whoever brings one that is being deleted waits
/// for just that. Other blobs are nobody's concern.
#[tokio::test]
async fn a_blob_is_not_deleted_while_it_arrives() {
    let blobs = Blobs::memory();
    let (name, other) = (BlobName::package(HELLO_SHA256).unwrap(), BlobName::file(file_id(1)));
    let (first, second) = (blobs.arriving(&name).await, blobs.arriving(&name).await);
    assert!(blobs.deleting(&name).is_none());
    drop(first);
    assert!(blobs.deleting(&name).is_none(), "the second still brings it");
    drop(second);
    let deletes = blobs.deleting(&name).expect("nobody brings it any more");
    assert!(blobs.deleting(&name).is_none(), "one is enough");
    assert!(blobs.deleting(&other).is_some());
    let mut brings = std::pin::pin!(blobs.arriving(&name));
    assert!(futures::poll!(brings.as_mut()).is_pending());
    assert!(futures::poll!(std::pin::pin!(blobs.arriving(&other))).is_ready());
    drop(deletes);
    assert!(futures::poll!(brings.as_mut()).is_ready());
}
