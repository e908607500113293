//! Backups of a running store, and stores made out of them.
#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it must be")]

mod store_kit;

use std::{
    fs,
    io::{self, Cursor, Read, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use drover_coordinator::{
    clock::Clock,
    store::{
        backup::{self, About, BlobHold, Blobs, BlobsNote, Written},
        embedded::{Embedded, OpenError, Settings},
        engine::Engine,
        restore::{RestoreError, RestoreReport, restore},
    },
};
use drover_protocol::Timestamp;
use store_kit::{all_pairs, assert_state, busy, get, history, open, put, quiet};

fn about() -> About {
    About { created_at: Timestamp::from_millis(1_795_421_111_000), secrets_key_fingerprint: Some("f1:e2".to_owned()) }
}

fn backup_of(engine: &Embedded, blobs: Option<Blobs>) -> (Vec<u8>, Written) {
    let mut bytes = Vec::new();
    let written = backup::write(engine, blobs, &about(), &mut bytes).unwrap();
    (bytes, written)
}

fn restored(backup: &[u8], to: &Path, until: Option<Timestamp>) -> RestoreReport {
    restore(backup, to, quiet(), until, false).unwrap()
}

/// A clock that moves a second at each look.
struct Ticking(AtomicI64);

impl Clock for Ticking {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.fetch_add(1_000, Ordering::SeqCst))
    }
}

fn ticking(settings: Settings) -> Settings {
    Settings { clock: Arc::new(Ticking(AtomicI64::new(1_000))), ..settings }
}

/// Commits in order by one writer: whatever moment the backup was taken at, it holds exactly a beginning of them.
#[test]
fn a_backup_under_load_restores_to_the_state_of_its_last_commit() {
    let folder = tempfile::tempdir().unwrap();
    let engine = Embedded::open(&folder.path().join("store"), busy()).unwrap();
    let (states, backups) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| history(&engine, 3_000));
        let mut backups = Vec::new();
        while !writer.is_finished() {
            backups.push(backup_of(&engine, None));
        }
        backups.push(backup_of(&engine, None));
        (writer.join().unwrap(), backups)
    });
    assert!(backups.len() > 2);
    let step = backups.len() / 5 + 1;
    for (number, (bytes, written)) in backups.iter().rev().step_by(step).enumerate() {
        let to = folder.path().join(format!("restored-{number}"));
        let report = restored(bytes, &to, None);
        assert_eq!(report.manifest, written.manifest);
        assert_eq!(report.restored, written.manifest.last);
        let engine = open(&to);
        assert_eq!(engine.store(), written.manifest.store);
        assert_eq!(engine.position().0, written.manifest.last.commit);
        assert_state(&engine, &states[usize::try_from(written.manifest.last.commit).unwrap()]);
        put(&engine, "goes", "on");
    }
    let (_, last) = backups.last().unwrap();
    assert_eq!(last.manifest.last.commit, 3_000);
}

#[test]
fn a_store_can_be_restored_as_of_any_time_since_its_export() {
    let folder = tempfile::tempdir().unwrap();
    let engine = Embedded::open(&folder.path().join("store"), ticking(quiet())).unwrap();
    let states = history(&engine, 200);
    let (from_the_beginning, _) = backup_of(&engine, None);
    engine.export().unwrap();
    put(&engine, "after", "export");
    let (from_the_export, written) = backup_of(&engine, None);
    assert_eq!((written.manifest.earliest.commit, written.manifest.last.commit), (200, 201));

    for (until_ms, commit) in [(999, 0), (1_000, 1), (77_500, 77), (200_000, 200), (i64::MAX, 200)] {
        let to = folder.path().join(format!("as-of-{until_ms}"));
        let report = restored(&from_the_beginning, &to, Some(Timestamp::from_millis(until_ms)));
        assert_eq!(report.restored.commit, commit);
        let engine = open(&to);
        assert_state(&engine, &states[usize::try_from(commit).unwrap()]);
        put(&engine, "a new", "history");
        drop(engine);
        let engine = open(&to);
        assert_eq!(engine.position().0, commit + 1, "nothing of the old history comes back");
    }

    let to = folder.path().join("too-early");
    let refused = restore(&*from_the_export, &to, quiet(), Some(Timestamp::from_millis(150_000)), false);
    assert!(matches!(refused, Err(RestoreError::TooEarly { .. })), "{refused:?}");
    assert!(!to.exists() || fs::read_dir(&to).unwrap().next().is_none(), "nothing is left");
    let report = restored(&from_the_export, &to, Some(Timestamp::from_millis(200_000)));
    assert_eq!(report.restored.commit, 200);
    assert_state(&open(&to), &states[200]);
}

#[test]
fn blobs_are_in_the_backup_and_secrets_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let engine = open(&store);
    put(&engine, "key", "value");
    let blobs = store.join("blobs");
    let long = "x".repeat(120);
    let names = ["packages/ab/cd.zip".to_owned(), "лог.zst".to_owned(), format!("jobs/{long}/{long}")];
    for (name, content) in names.iter().zip([vec![1; 300_000], Vec::new(), b"text".to_vec()]) {
        fs::create_dir_all(blobs.join(name).parent().unwrap()).unwrap();
        fs::write(blobs.join(name), content).unwrap();
    }
    fs::write(store.join("secrets.key"), "very secret").unwrap();
    let hold = BlobHold::default();
    let (bytes, written) = backup_of(&engine, Some(Blobs { folder: &blobs, hold: &hold }));
    assert_eq!(written.manifest.blobs, BlobsNote::Included);
    assert!(!bytes.windows(11).any(|part| part == b"very secret"));

    let to = folder.path().join("restored");
    fs::create_dir(&to).unwrap();
    fs::write(to.join("secrets.key"), "put there by the operator").unwrap();
    let report = restored(&bytes, &to, None);
    assert_eq!(report.blobs, 3);
    assert!(report.to_string().contains("f1:e2"), "{report}");
    for name in &names {
        assert_eq!(fs::read(to.join("blobs").join(name)).unwrap(), fs::read(blobs.join(name)).unwrap());
    }
    assert_eq!(fs::read_to_string(to.join("secrets.key")).unwrap(), "put there by the operator");
    let (_, without) = backup_of(&engine, None);
    assert_eq!(without.manifest.blobs, BlobsNote::Elsewhere);
}

/// While a backup is written no blob may be deleted; afterwards it may.
#[test]
fn a_backup_holds_deletions_of_blobs() {
    struct Watching<'a>(&'a BlobHold, &'a AtomicBool);
    impl Write for Watching<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.fetch_and(self.0.try_delete().is_none(), Ordering::SeqCst);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let engine = open(&folder.path().join("store"));
    let (hold, held) = (BlobHold::default(), AtomicBool::new(true));
    let blobs = Blobs { folder: &folder.path().join("none"), hold: &hold };
    backup::write(&engine, Some(blobs), &about(), Watching(&hold, &held)).unwrap();
    assert!(held.load(Ordering::SeqCst));
    assert!(hold.try_delete().is_some());
}

fn small_backup(folder: &Path) -> Vec<u8> {
    let engine = open(&folder.join("store"));
    history(&engine, 20);
    engine.export().unwrap();
    put(&engine, "after", "export");
    fs::create_dir(folder.join("blobs")).unwrap();
    fs::write(folder.join("blobs/blob"), [9; 1_000]).unwrap();
    backup_of(&engine, Some(Blobs { folder: &folder.join("blobs"), hold: &BlobHold::default() })).0
}

fn assert_refused(backup: &[u8], to: &Path, what: &str) {
    for verify_only in [true, false] {
        match restore(backup, to, quiet(), None, verify_only) {
            Ok(_) => panic!("{what} was accepted"),
            Err(RestoreError::Damaged(_) | RestoreError::NoBackup(_) | RestoreError::UnknownFormat { .. }) => {}
            Err(RestoreError::Open(OpenError::Log(_) | OpenError::Export(_))) => {}
            Err(error) => panic!("{what}: {error}"),
        }
        assert!(!to.exists() || fs::read_dir(to).unwrap().next().is_none(), "{what} left something");
    }
}

#[test]
fn a_backup_that_is_cut_off_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let backup = small_backup(folder.path());
    let to = folder.path().join("to");
    let end = backup.windows(10).position(|part| part == b"SHA256SUMS").unwrap() + 512;
    for length in (0..end).step_by(997).chain([end - 512, end - 1, end]) {
        assert_refused(&backup[..length], &to, &format!("a backup cut off at {length} of {}", backup.len()));
    }
}

/// A bit that is wrong in what any entry holds is found, and whatever else a wrong bit does, it never panics and never
/// gives another store.
#[test]
fn a_backup_with_a_flipped_bit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let backup = small_backup(folder.path());
    let to = folder.path().join("to");
    let mut at = 0;
    let mut contents = Vec::new();
    let mut archive = tar::Archive::new(Cursor::new(&backup));
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let start = usize::try_from(entry.raw_file_position()).unwrap();
        contents.push((start, start + usize::try_from(entry.size()).unwrap()));
    }
    assert_eq!(contents.len(), 5, "manifest, log, export, blob, digests");
    for (start, end) in contents {
        for place in [start, (start + end) / 2, end - 1] {
            let mut damaged = backup.clone();
            damaged[place] ^= 1;
            assert_refused(&damaged, &to, &format!("a backup with a wrong bit at {place}"));
        }
    }
    let (good_to, expected) = (folder.path().join("good"), 21);
    assert_eq!(restored(&backup, &good_to, None).restored.commit, expected);
    let expected = all_pairs(&open(&good_to));
    while at < backup.len() {
        let mut damaged = backup.clone();
        damaged[at] ^= 0x10;
        if restore(&*damaged, &to, quiet(), None, false).is_ok() {
            assert!(all_pairs(&open(&to)) == expected, "a wrong bit at {at} gave another store");
            fs::remove_dir_all(&to).unwrap();
        }
        at += 1_237;
    }
}

#[test]
fn verifying_does_all_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let backup = small_backup(folder.path());
    let to = folder.path().join("to");
    let report = restore(&*backup, &to, quiet(), None, true).unwrap();
    assert_eq!((report.restored.commit, report.blobs), (21, 1));
    assert!(report.check.problem_count > 0, "the keys of this test are no records: that is said");
    assert!(!to.exists());
}

#[test]
fn a_folder_that_is_not_empty_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let backup = small_backup(folder.path());
    let to = folder.path().join("to");
    fs::create_dir(&to).unwrap();
    fs::write(to.join("precious"), "content").unwrap();
    assert!(matches!(restore(&*backup, &to, quiet(), None, false), Err(RestoreError::NotEmpty(_))));
    assert_eq!(fs::read_to_string(to.join("precious")).unwrap(), "content");
}

/// The coordinator does not start on what a killed restore left behind.
#[test]
fn a_restore_that_did_not_end_is_not_taken_for_a_store() {
    struct Looking<'a>(Cursor<&'a [u8]>, &'a Path, u32);
    impl Read for Looking<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.position() > 4_096 {
                assert!(matches!(Embedded::open(self.1, quiet()), Err(OpenError::Unfinished(_))));
                self.2 += 1;
            }
            self.0.read(buffer)
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let backup = small_backup(folder.path());
    let to = folder.path().join("to");
    let mut looking = Looking(Cursor::new(&backup), &to, 0);
    let _ = restore(&mut looking, &to, quiet(), None, false);
    assert!(looking.2 > 0, "the folder was looked at while it was filled");
}

/// Names that lead out of the folder, links and strangers are refused before anything is written.
#[test]
fn a_hostile_backup_writes_nothing_outside() {
    let folder = tempfile::tempdir().unwrap();
    let good = small_backup(folder.path());
    let mut archive = tar::Archive::new(Cursor::new(&good));
    let mut manifest = Vec::new();
    archive.entries().unwrap().next().unwrap().unwrap().read_to_end(&mut manifest).unwrap();
    for name in [
        "../outside",
        "log/../../outside",
        "/outside",
        "log/x/../../../outside",
        "blobs/../secrets.key",
        "marker",
        "LOCK",
        "sled/db",
    ] {
        for kind in [tar::EntryType::Regular, tar::EntryType::Symlink, tar::EntryType::Directory] {
            let mut builder = tar::Builder::new(Vec::new());
            let mut add = |name: &str, kind, content: &[u8]| {
                let mut header = tar::Header::new_old();
                header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
                header.set_size(content.len() as u64);
                header.set_entry_type(kind);
                header.set_mode(0o600);
                header.set_cksum();
                builder.append(&header, content).unwrap();
            };
            add("manifest.json", tar::EntryType::Regular, &manifest);
            add(name, kind, b"");
            let backup = builder.into_inner().unwrap();
            let to = folder.path().join("deep/er/to");
            assert_refused(&backup, &to, name);
            assert!(!folder.path().join("outside").exists() && !folder.path().join("deep/outside").exists());
        }
    }
}

#[test]
fn what_is_no_backup_is_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("to");
    for stranger in [&b""[..], b"hello", &[0; 4_096], &[0xff; 4_096], b"{\"format\":1}"] {
        assert_refused(stranger, &to, "a stranger");
    }
    let newer = serde_json::json!({ "format": 2, "drover_version": "9.9.9" }).to_string();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(newer.len() as u64);
    builder.append_data(&mut header, "manifest.json", newer.as_bytes()).unwrap();
    let message = restore(&*builder.into_inner().unwrap(), &to, quiet(), None, false).unwrap_err().to_string();
    assert!(message.contains("9.9.9") && message.contains("use a newer one"), "{message}");
    let engine = open(&to);
    assert_eq!(get(&engine, "nothing"), None);
    engine.close().unwrap();
    assert!(engine.view().get(b"nothing").unwrap().is_none());
}
