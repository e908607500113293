//! What only the embedded engine must bear: kills, power cuts, lost and damaged files, a full disk.
#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it must be")]

mod store_kit;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use drover_coordinator::store::{
    Db,
    embedded::{Embedded, OpenError, Settings},
    engine::{Engine, EngineError, WriteSet},
    key::{Key, Kind},
};
use rand::RngExt;
use store_kit::{
    ACCOUNT, all_pairs, assert_state, busy, copy_folder, db, eventually, get, history, open, put, quiet, records,
    segments,
};

fn refusal(path: &Path) -> String {
    match Embedded::open(path, quiet()) {
        Ok(_) => panic!("the store was opened"),
        Err(error) => error.to_string(),
    }
}

/// Says that the host has been started anew since the store was last used.
fn another_boot(store: &Path) {
    let path = store.join("marker");
    let mut marker: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    marker["boot"] = "00000000-0000-0000-0000-000000000000".into();
    fs::write(path, marker.to_string()).unwrap();
}

fn has_old_index(store: &Path) -> usize {
    let names = fs::read_dir(store).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with("sled.old-")).count()
}

// ---- What is believed ----

#[test]
fn a_store_is_as_it_was_after_a_clean_close_even_if_the_host_was_restarted() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    let states = history(&engine, 100);
    engine.close().unwrap();
    drop(engine);
    another_boot(folder.path());
    let engine = open(folder.path());
    assert_eq!(engine.rebuilt(), None);
    assert_state(&engine, &states[100]);
    assert_eq!(engine.position().0, 100);
}

#[test]
fn after_a_mere_end_of_the_process_the_index_is_believed_and_brought_up_to_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    let states = history(&engine, 100);
    drop(engine);
    let engine = open(folder.path());
    assert_eq!(engine.rebuilt(), None);
    assert_state(&engine, &states[100]);
}

#[test]
fn after_a_restart_of_the_host_without_a_clean_close_the_index_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    let states = history(&engine, 100);
    drop(engine);
    another_boot(folder.path());
    let engine = open(folder.path());
    assert!(engine.rebuilt().unwrap().contains("started anew"), "{:?}", engine.rebuilt());
    assert_state(&engine, &states[100]);
    assert_eq!(has_old_index(folder.path()), 1, "the old folder is kept aside");
}

/// A failed write is told once and then forgotten by the system, which may have dropped what was written.
#[test]
fn after_a_failure_the_index_is_made_anew_although_the_host_was_not_restarted() {
    let folder = tempfile::tempdir().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let on_broken = Arc::new(move |reason: &str| tell.send(reason.to_owned()).unwrap());
    let settings = Settings { checkpoint_every: Duration::from_millis(10), on_broken, ..quiet() };
    let engine = Embedded::open(folder.path(), settings).unwrap();
    let in_the_way = folder.path().join("marker.tmp");
    fs::create_dir(&in_the_way).unwrap();
    put(&engine, "last", "word");
    assert!(told.recv_timeout(Duration::from_secs(20)).unwrap().contains("marker"));
    drop(engine);
    fs::remove_dir(&in_the_way).unwrap();
    let engine = open(folder.path());
    assert!(engine.rebuilt().is_some());
    assert_eq!(get(&engine, "last").as_deref(), Some("word"));
}

type Harm = fn(&Path, &Path);

/// Whatever becomes of sled's folder while the coordinator is down, nothing committed is lost.
#[test]
fn a_lost_or_damaged_index_is_made_anew_from_export_and_log() {
    let harms: [(&str, Harm); 7] = [
        ("deleted", |sled, _| fs::remove_dir_all(sled).unwrap()),
        ("emptied", |sled, _| {
            fs::remove_dir_all(sled).unwrap();
            fs::create_dir(sled).unwrap();
        }),
        ("its file emptied", |sled, _| drop(File::create(sled.join("db")).unwrap())),
        ("its file cut off", |sled, _| {
            let file = File::options().write(true).open(sled.join("db")).unwrap();
            file.set_len(1_000).unwrap();
        }),
        ("overwritten with rubbish", |sled, _| {
            let file = File::options().write(true).open(sled.join("db")).unwrap();
            file.write_all_at(&[0xa5; 200_000], 0).unwrap();
        }),
        ("replaced by an older copy", |sled, older| {
            fs::remove_dir_all(sled).unwrap();
            copy_folder(older, sled);
        }),
        ("with pages that are never synced", |sled, _| fs::write(sled.join("blobs/17"), b"page").unwrap()),
    ];
    for (name, harm) in harms {
        for with_export in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let (store, older) = (folder.path().join("store"), folder.path().join("older"));
            let engine = open(&store);
            history(&engine, 30);
            engine.close().unwrap();
            copy_folder(&store.join("sled"), &older);
            drop(engine);
            let engine = open(&store);
            let states = history(&engine, 150);
            if with_export {
                engine.export().unwrap();
                put(&engine, "after", "export");
            }
            let expected = all_pairs(&engine);
            engine.close().unwrap();
            drop(engine);
            harm(&store.join("sled"), &older);

            let engine = open(&store);
            assert!(engine.rebuilt().is_some(), "{name}");
            assert!(all_pairs(&engine) == expected, "{name}, with export: {with_export}");
            assert!(with_export || states[150].len() <= expected.len());
            put(&engine, "goes", "on");
            engine.close().unwrap();
            drop(engine);
            let engine = open(&store);
            assert_eq!(engine.rebuilt(), None, "{name}");
            assert_eq!(get(&engine, "goes").as_deref(), Some("on"));
        }
    }
}

#[test]
fn only_the_newest_of_the_old_indexes_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    let states = history(&engine, 20);
    drop(engine);
    for _ in 0..3 {
        let engine = Embedded::rebuild(folder.path(), quiet(), false).unwrap();
        assert_state(&engine, &states[20]);
        engine.close().unwrap();
    }
    assert!(folder.path().join("sled.old-3").exists());
    assert_eq!(has_old_index(folder.path()), 1);
}

#[test]
fn a_rebuild_that_did_not_end_is_done_again() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    let states = history(&engine, 20);
    engine.close().unwrap();
    drop(engine);
    let marker = fs::read_to_string(folder.path().join("marker")).unwrap().replace("closed", "rebuilding");
    fs::write(folder.path().join("marker"), marker).unwrap();
    let engine = open(folder.path());
    assert!(engine.rebuilt().unwrap().contains("did not end"));
    assert_state(&engine, &states[20]);
    assert_eq!(has_old_index(folder.path()), 0, "what was half filled is worth nothing");
}

#[test]
fn another_process_is_kept_out_and_strangers_too() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let engine = open(&store);
    assert!(matches!(Embedded::open(&store, quiet()), Err(OpenError::Locked(_))));
    assert_eq!(fs::metadata(&store).unwrap().permissions().mode() & 0o077, 0);
    engine.close().unwrap();
    assert!(matches!(engine.exclusive(&mut |_| [(b"k".to_vec(), None)].into()), Err(EngineError::Broken(_))));
    drop(engine);
    open(&store);
}

// ---- The log ----

/// A store of 30 commits that was killed, and then lost its index, as in a power cut.
fn cut_off_store(store: &Path) -> Vec<BTreeMap<Vec<u8>, Vec<u8>>> {
    let engine = open(store);
    let states = history(&engine, 30);
    drop(engine);
    another_boot(store);
    states
}

/// A record that was being written when the power went is cut, wherever it stopped, and the store goes on before it.
#[test]
fn a_torn_end_of_the_log_is_cut_at_every_byte() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let states = cut_off_store(&whole);
    let segment = segments(&whole).pop().unwrap();
    let (start, end) = *records(&segment).last().unwrap();
    let name = segment.file_name().unwrap();
    let good = fs::read(&segment).unwrap();
    let last_byte = (start..end).rev().find(|at| good[*at] != 0).unwrap();
    for cut_at in start..=end {
        // Opening 200 stores with an index takes long; every byte is tried, and what the log then says is looked at
        // through a store whose index has to be made from it.
        let store = folder.path().join("torn");
        let _ = fs::remove_dir_all(&store);
        fs::create_dir_all(store.join("log")).unwrap();
        let mut torn = good.clone();
        torn[cut_at..end].fill(0);
        fs::write(store.join("log").join(name), &torn).unwrap();
        let engine = open(&store);
        let expected = if cut_at > last_byte { 30 } else { 29 };
        assert_eq!(engine.position().0, expected, "cut at byte {cut_at} of {start}..{end}");
        assert_state(&engine, &states[usize::try_from(expected).unwrap()]);
        if cut_at % 16 == 0 {
            put(&engine, "next", "commit");
            drop(engine);
            let engine = open(&store);
            assert_eq!((engine.position().0, get(&engine, "next").as_deref()), (expected + 1, Some("commit")));
        }
    }
}

/// The file itself may end in the middle of the last record, too.
#[test]
fn a_segment_that_ends_in_its_last_record_is_cut_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let states = cut_off_store(folder.path());
    let segment = segments(folder.path()).pop().unwrap();
    let (start, end) = *records(&segment).last().unwrap();
    File::options().write(true).open(&segment).unwrap().set_len(((start + end) / 2) as u64).unwrap();
    // The marker does not know of this commit: it was written when the store was opened.
    let engine = open(folder.path());
    assert_state(&engine, &states[29]);
    put(&engine, "next", "commit");
    drop(engine);
    assert_eq!(get(&open(folder.path()), "next").as_deref(), Some("commit"));
}

/// Any single bit that is wrong before the last record stops the start with the file and the place.
#[test]
fn a_flipped_bit_in_the_log_is_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    history(&engine, 500);
    drop(engine);
    let paths = segments(folder.path());
    assert!(paths.len() >= 3, "the log has several segments");
    let flip = |path: &Path, at: usize, bit: u8| {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at as u64).unwrap();
        file.write_all_at(&[byte[0] ^ (1 << bit)], at as u64).unwrap();
    };
    let mut random = rand::rng();
    for (number, path) in paths.iter().enumerate() {
        let mut records = records(path);
        if number == paths.len() - 1 {
            records.pop();
        }
        let mut places: Vec<(usize, usize)> = (0..60).step_by(7).map(|at| (at, 0)).collect();
        for (start, end) in [records[0], records[records.len() / 2], records[records.len() - 1]] {
            places.extend((start..start + 32).map(|at| (at, start)));
            places.extend((0..8).map(|_| (random.random_range(start + 32..end), start)));
        }
        for (at, record) in places {
            let bit = random.random_range(0..8);
            flip(path, at, bit);
            let message = refusal(folder.path());
            let name = path.file_name().unwrap().to_str().unwrap();
            let place = format!("{name} is damaged at byte {record}:");
            assert!(message.contains(&place), "bit {bit} of byte {at} in {name}: {message}");
            assert!(message.contains("restore a backup"), "{message}");
            flip(path, at, bit);
        }
    }
    open(folder.path());
}

#[test]
fn a_missing_segment_is_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    history(&engine, 500);
    engine.close().unwrap();
    drop(engine);
    let paths = segments(folder.path());
    let aside = folder.path().join("aside");
    for (number, path) in paths.iter().enumerate() {
        fs::rename(path, &aside).unwrap();
        let message = refusal(folder.path());
        let expected = match number {
            0 => "does not have the commits 1 to",
            last if last == paths.len() - 1 => "the log ends at commit",
            _ => "should follow here, but the next segment",
        };
        assert!(message.contains(expected), "{message}");
        fs::rename(&aside, path).unwrap();
    }
    let log = folder.path().join("log");
    fs::rename(&log, &aside).unwrap();
    assert!(refusal(folder.path()).contains("there is no log"));
    fs::remove_dir(&log).unwrap();
    fs::rename(&aside, &log).unwrap();
    open(folder.path());
}

/// The end of the log is damaged, but the index proves that there was more: that is no torn end.
#[test]
fn a_log_that_ends_before_what_was_acknowledged_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    history(&engine, 30);
    engine.close().unwrap();
    drop(engine);
    let segment = segments(folder.path()).pop().unwrap();
    let (start, end) = *records(&segment).last().unwrap();
    let file = File::options().write(true).open(&segment).unwrap();
    file.write_all_at(&vec![0; end - start], start as u64).unwrap();
    let message = refusal(folder.path());
    assert!(message.contains("ends at commit 29") && message.contains("commit 30 was on disk"), "{message}");
    assert!(message.contains(&format!("byte {start}")), "{message}");
}

/// The way on that the message names: what follows the damage is put aside, what precedes it is there.
#[test]
fn loss_can_be_accepted_and_what_was_lost_is_kept_aside() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    let states = history(&engine, 500);
    engine.close().unwrap();
    drop(engine);
    let paths = segments(folder.path());
    let (place, _) = records(&paths[1])[10];
    File::options().write(true).open(&paths[1]).unwrap().write_all_at(&[0xff; 40], place as u64).unwrap();
    assert!(refusal(folder.path()).contains("--accept-loss"));
    let last = records(&paths[0]).len() + 10;
    let engine = Embedded::rebuild(folder.path(), quiet(), true).unwrap();
    assert_state(&engine, &states[last]);
    put(&engine, "next", "commit");
    let expected = all_pairs(&engine);
    drop(engine);
    let aside = fs::read_dir(folder.path().join("log.damaged")).unwrap().count();
    assert_eq!(aside, paths.len() - 1);
    assert!(all_pairs(&open(folder.path())) == expected);
    fs::remove_dir_all(folder.path().join("sled")).unwrap();
    assert!(all_pairs(&open(folder.path())) == expected);
}

#[test]
fn a_commit_larger_than_a_segment_gets_a_segment_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    put(&engine, "before", "1");
    let large: WriteSet = (0..100_u8).map(|key| (vec![b'k', key], Some(vec![key; 60_000]))).collect();
    store_kit::commit(&engine, large);
    put(&engine, "after", "1");
    let expected = all_pairs(&engine);
    drop(engine);
    fs::remove_dir_all(folder.path().join("sled")).unwrap();
    let engine = open(folder.path());
    assert!(all_pairs(&engine) == expected && expected.len() == 102);
}

// ---- Exports ----

/// Exports made while others write give, with the log, the exact state, and what they make needless goes.
#[test]
fn exports_under_load_and_the_log_give_the_exact_state() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("archive");
    let store = folder.path().join("store");
    let settings = Settings { archive: Some(archive.clone()), ..busy() };
    let engine = Embedded::open(&store, settings.clone()).unwrap();
    let states = std::thread::scope(|scope| {
        let writer = scope.spawn(|| history(&engine, 3_000));
        let mut exports = 0;
        while !writer.is_finished() {
            engine.export().unwrap();
            exports += 1;
        }
        assert!(exports > 1);
        writer.join().unwrap()
    });
    engine.export().unwrap();
    put(&engine, "after", "export");
    drop(engine);
    assert_eq!(segments(&store).len(), 1, "older segments have gone");
    assert_eq!(fs::read_dir(store.join("export")).unwrap().count(), 1);
    assert!(fs::read_dir(&archive).unwrap().count() > 3, "into the archive");
    fs::remove_dir_all(store.join("sled")).unwrap();
    let engine = Embedded::open(&store, settings).unwrap();
    let mut expected = states[3_000].clone();
    expected.insert(b"after".to_vec(), b"export".to_vec());
    assert_state(&engine, &expected);
}

#[test]
fn exports_are_made_when_the_log_outgrows_the_last_one() {
    let folder = tempfile::tempdir().unwrap();
    let engine = Embedded::open(folder.path(), busy()).unwrap();
    history(&engine, 2_500);
    eventually("export", || fs::read_dir(folder.path().join("export")).unwrap().any(|_| true));
    eventually("shorter log", || segments(folder.path()).len() < 5);
}

#[test]
fn a_damaged_export_is_refused_and_named_when_it_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    let states = history(&engine, 300);
    let export = engine.export().unwrap();
    engine.close().unwrap();
    drop(engine);
    let whole = fs::read(&export.path).unwrap();
    for at in [0, 20, 40, whole.len() / 2, whole.len() - 50, whole.len() - 20] {
        let _ = fs::remove_dir_all(folder.path().join("sled"));
        let mut damaged = whole.clone();
        damaged[at] ^= 4;
        fs::write(&export.path, damaged).unwrap();
        let message = refusal(folder.path());
        assert!(
            message.contains(&*export.path.to_string_lossy()) && message.contains("is damaged at byte"),
            "{message}"
        );
    }
    fs::write(&export.path, whole).unwrap();
    assert_state(&open(folder.path()), &states[300]);
}

// ---- A full disk ----

/// A small file system in memory, gone with this. `None` where it may not be mounted.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(bytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={bytes},mode=700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(folder.path()).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(folder))
    }

    /// Takes all space but this.
    fn fill_up_to(&self, left: u64) {
        let facts = rustix::fs::statvfs(self.0.path()).unwrap();
        let file = File::create(self.0.path().join("filler")).unwrap();
        let bytes = (facts.f_bavail * facts.f_frsize).saturating_sub(left);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
    }

    fn empty(&self) {
        fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

/// With a reserve and without one: writes are refused, nothing of them stays, reading goes on, and writing goes on by
/// itself when there is space again.
#[test]
fn a_full_disk_refuses_writes_until_there_is_space() {
    for reserve_bytes in [8 * 1024 * 1024, 0] {
        let Some(disk) = SmallDisk::mount(48 * 1024 * 1024) else {
            println!("SKIPPED: no file system may be mounted here, so that the full disk was not tested");
            eprintln!("SKIPPED: no file system may be mounted here, so that the full disk was not tested");
            return;
        };
        let store = disk.0.path().join("store");
        let engine = Embedded::open(&store, Settings { reserve_bytes, ..quiet() }).unwrap();
        let states = history(&engine, 50);
        disk.fill_up_to(if reserve_bytes > 0 { 2 * 1024 * 1024 } else { 0 });
        let value = vec![7; 30_000];
        let mut refused = None;
        let mut written = 0_u8;
        while refused.is_none() && written < 200 {
            match engine.exclusive(&mut |_| [(vec![b'z', written], Some(value.clone()))].into()) {
                Ok(()) => written += 1,
                Err(error) => refused = Some(error),
            }
        }
        assert_eq!(refused, Some(EngineError::OutOfSpace), "after {written} writes");
        assert!(engine.read_only());
        engine.exclusive(&mut |_| WriteSet::new()).unwrap();
        assert_eq!(get(&engine, "last").as_deref(), Some("50"));
        disk.empty();
        eventually("space", || !engine.read_only());
        put(&engine, "after", "space");
        drop(engine);
        fs::remove_dir_all(store.join("sled")).unwrap();
        let engine = Embedded::open(&store, quiet()).unwrap();
        let mut expected = states[50].clone();
        expected.extend((0..written).map(|number| (vec![b'z', number], value.clone())));
        expected.insert(b"after".to_vec(), b"space".to_vec());
        assert_state(&engine, &expected);
    }
}

// ---- Killed ----

const CALLERS: u8 = 6;
/// A caller keeps so many of its latest keys and deletes the one before: three changes in each commit.
const KEPT: u32 = 40;

fn value_of(caller: u8, number: u32) -> Vec<u8> {
    format!("{caller}:{number}:").repeat(number as usize % 60 + 1).into_bytes()
}

fn numbered(caller: u8, number: u32) -> Vec<u8> {
    Key::new(Kind::Job, ACCOUNT).with(caller).with(number).into_bytes()
}

fn last_of(caller: u8) -> Vec<u8> {
    Key::new(Kind::Robot, ACCOUNT).with(caller).into_bytes()
}

/// The last number of each caller, after it has been proved that all the commits are whole.
fn verified_numbers(engine: &dyn Engine) -> Vec<u32> {
    let mut expected: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let numbers: Vec<u32> = (0..CALLERS)
        .map(|caller| match engine.view().get(&last_of(caller)).unwrap() {
            Some(bytes) => u32::from_be_bytes(bytes.try_into().unwrap()),
            None => 0,
        })
        .collect();
    for (caller, last) in (0..).zip(&numbers) {
        if *last > 0 {
            expected.insert(last_of(caller), last.to_be_bytes().to_vec());
        }
        expected.extend(
            (last.saturating_sub(KEPT) + 1..=*last).map(|number| (numbered(caller, number), value_of(caller, number))),
        );
    }
    assert_state(engine, &expected);
    numbers
}

async fn call(db: Arc<Db>, caller: u8, mut number: u32) {
    loop {
        number += 1;
        let write = db.write(ACCOUNT, move |tx| {
            tx.put(numbered(caller, number), value_of(caller, number))?;
            tx.put(last_of(caller), number.to_be_bytes().to_vec())?;
            if let Some(old) = number.checked_sub(KEPT).filter(|old| *old > 0) {
                tx.delete(numbered(caller, old));
            }
            Ok(())
        });
        write.await.unwrap();
        println!("ack {caller} {number}");
    }
}

/// Not a test: the process that the next test kills. It first proves that what it finds is whole.
#[test]
#[ignore = "started by the test that kills it"]
fn child_under_load() {
    let Some(path) = std::env::var_os("DROVER_TEST_STORE") else { return };
    let engine = Arc::new(Embedded::open(path.as_ref(), busy()).unwrap());
    let numbers = verified_numbers(&*engine);
    println!("rebuilt {}", engine.rebuilt().unwrap_or_default());
    println!("found {}", numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" "));
    let db = Arc::new(db(engine));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let calls = (0..).zip(numbers).map(|(caller, number)| tokio::spawn(call(Arc::clone(&db), caller, number)));
        futures::future::join_all(calls).await;
    });
}

/// Starts the child, kills it after a while, and gives why it made the index anew, what it had found, and the last number
/// acknowledged by each caller.
fn one_life(store: &Path, life: Duration) -> (String, Vec<u32>, Vec<u32>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_under_load", "--ignored", "--nocapture", "--test-threads=1"])
        .env("DROVER_TEST_STORE", store)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut after = |word: &str| lines.find_map(|line| line.split_once(word).map(|(_, rest)| rest.to_owned()));
    let rebuilt = after("rebuilt ").unwrap_or_default();
    let found = after("found ");
    let found = found.expect("the child found a whole store; its own output says what is wrong");
    let found: Vec<u32> = found.split(' ').map(|number| number.parse().unwrap()).collect();
    let reader = std::thread::spawn({
        let mut acknowledged = found.clone();
        move || {
            for line in lines {
                // The last line may be cut off in the middle of a number: it is then smaller than the real one.
                let mut words = line.split(' ');
                if words.next() == Some("ack")
                    && let (Some(Ok(caller)), Some(Ok(number))) =
                        (words.next().map(str::parse::<usize>), words.next().map(str::parse::<u32>))
                {
                    acknowledged[caller] = acknowledged[caller].max(number);
                }
            }
            acknowledged
        }
    });
    std::thread::sleep(life);
    child.kill().unwrap();
    child.wait().unwrap();
    (rebuilt, found, reader.join().unwrap())
}

/// 60 lives of one store, each ended by SIGKILL at a random moment while callers write, checkpoints and exports are
/// made and segments change. Nothing acknowledged is ever lost, and no commit is there by half. In every tenth life the
/// index is lost as well.
#[test]
fn killed_again_and_again_nothing_acknowledged_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut acknowledged = vec![0; usize::from(CALLERS)];
    let mut random = rand::rng();
    for round in 0..60 {
        let (rebuilt, found, now) = one_life(&store, Duration::from_millis(random.random_range(5..250)));
        for (caller, number) in found.iter().enumerate() {
            assert!(
                *number >= acknowledged[caller],
                "round {round}: caller {caller} was told {}, found {number}",
                acknowledged[caller]
            );
        }
        acknowledged = now;
        // A mere kill needs no new index, unless it tore the record that was being written.
        let expected = match round % 10 {
            5 => rebuilt.contains("it is not there"),
            9 => rebuilt.contains("started anew"),
            _ => rebuilt.is_empty(),
        };
        assert!(expected || rebuilt.contains("torn"), "round {round}: {rebuilt}");
        match round % 10 {
            4 => fs::remove_dir_all(store.join("sled")).unwrap(),
            8 => another_boot(&store),
            _ => {}
        }
    }
    let engine = Embedded::open(&store, busy()).unwrap();
    let numbers = verified_numbers(&engine);
    assert!(numbers.iter().zip(&acknowledged).all(|(number, acknowledged)| number >= acknowledged));
    assert!(numbers.iter().all(|number| *number > 1_000), "there was load: {numbers:?}");
    assert!(fs::read_dir(store.join("export")).unwrap().any(|_| true), "exports were made");
}
