//! The commit log, as a disk may give it back: any bytes, among them records whose checksums are right.
//!
//! The bytes are instructions: a record with right checksums and any payload, a real one, or bytes as they are.

use std::{fs, io, path::Path, sync::Arc};

use drover_coordinator::{
    clock::SystemRandomness,
    store::commit_log::{
        CommitLog, EXTENSION,
        recovery::{Damage, LogError},
        segment::{Found, RECORD_HEADER_BYTES, SegmentHeader, SegmentReader, encode_record, seal, writes_of},
    },
};
use drover_protocol::Timestamp;
use uuid::Uuid;

const SALT: u32 = 0x5eed;
const STORE: Uuid = Uuid::from_u128(7);
const SEGMENT_BYTES: u64 = 64 * 1024;

fn crafted(payload: &[u8], commit: u64) -> Vec<u8> {
    let mut record = vec![0; RECORD_HEADER_BYTES + payload.len().next_multiple_of(8)];
    record[..4].copy_from_slice(b"DRVc");
    record[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    record[8..16].copy_from_slice(&commit.to_le_bytes());
    record[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    record[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + payload.len()].copy_from_slice(payload);
    seal(&mut record, SALT);
    record
}

/// The file that the instructions come to.
fn file_of(mut bytes: &[u8]) -> Vec<u8> {
    let mut file = SegmentHeader { first_commit: 1, salt: SALT, store: STORE }.encode().to_vec();
    let mut commit = 1;
    while let Some(([what, length], rest)) = bytes.split_first_chunk() {
        let (piece, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        bytes = rest;
        match what % 4 {
            0 => file.extend_from_slice(piece),
            1 => file.extend(crafted(piece, commit)),
            2 => file.extend(crafted(piece, commit + u64::from(*what))),
            _ => {
                let mut record = Vec::new();
                let writes = [(piece.to_vec(), (!piece.is_empty()).then(|| piece.to_vec()))].into_iter().collect();
                assert!(encode_record(&mut record, SALT, commit, Timestamp::EPOCH, &writes));
                file.extend(record);
            }
        }
        commit += u64::from(what % 4 % 2);
        file.resize(file.len().next_multiple_of(8), 0);
    }
    file
}

fn folder() -> io::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }
}

/// Opening ends, with a log whose commits follow one another or with the place of the damage; when the damage is put
/// aside it always gives a log, which can be opened again and then is whole.
pub fn run(bytes: &[u8]) {
    let folder = folder().expect("a folder");
    let log = folder.path().join("log");
    fs::create_dir(&log).expect("a folder");
    let path = log.join(format!("{:020}.{EXTENSION}", 1));
    fs::write(&path, file_of(bytes)).expect("a file");
    let open = |damage| CommitLog::open(&log, SEGMENT_BYTES, Arc::new(SystemRandomness), damage, &|| Ok(()));
    match open(Damage::Refuse) {
        Ok(Some(opened)) => assert_eq!(read(&path), opened.last_commit()),
        Ok(None) => panic!("the file has a good header"),
        Err(LogError::Damaged { .. }) => {
            let opened = open(Damage::PutAside).expect("it is mended").expect("there is a log");
            let last = opened.last_commit();
            drop(opened);
            let again = open(Damage::Refuse).expect("what was mended is whole").expect("there is a log");
            assert_eq!((again.last_commit(), read(&path)), (last, last));
        }
        Err(error) => panic!("{error}"),
    }
}

/// Reads all records; gives the number of the last one.
fn read(path: &Path) -> u64 {
    let mut reader = SegmentReader::open(path).expect("it can be read").expect("it has a good header");
    let mut last = 0;
    while let Found::Record { commit, payload, .. } = reader.read().expect("it can be read") {
        assert_eq!(commit, last + 1);
        last = commit;
        let _ = writes_of(payload);
    }
    last
}

pub fn seeds() -> Vec<Vec<u8>> {
    let write = |what: u8, content: &[u8]| [&[what, content.len() as u8][..], content].concat();
    vec![
        [write(3, b"key"), write(3, b"other"), write(3, b"")].concat(),
        [write(3, b"key"), write(0, &[1, 2, 3]), write(1, &[3, 0, 0, 0, 1, 0, 0, 0, b'k', b'e', b'y', b'v'])].concat(),
        [write(1, &[0xff; 16]), write(2, b"x"), write(3, b"y")].concat(),
        [write(3, b"key"), write(0, b"DRVc")].concat(),
        Vec::new(),
    ]
}
