//! How fast the embedded store is on this machine: durable transactions per second beside the disk's own rate of
//! `fdatasync`, and records per second when the index is made anew.
//!
//! `cargo bench -p drover-coordinator --bench store [-- SECONDS [FOLDER]]`; 5 seconds per measurement and the system's
//! folder for temporary files if not given. The folder should lie on the disk that is to be judged.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use drover_coordinator::{
    clock::{SystemClock, SystemRandomness},
    error::Result,
    store::{
        Db, Tx,
        embedded::{Embedded, Settings},
        engine::Engine,
        key::{Key, Kind},
    },
};
use drover_protocol::AccountId;
use uuid::Uuid;

/// Of the record that each transaction puts, beside two index entries.
const RECORD_BYTES: usize = 300;
const CALLERS: [usize; 3] = [1, 16, 128];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let seconds = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let duration = Duration::from_secs(seconds);
    let below = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(below)?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{processors} processors; one transaction = a record of {RECORD_BYTES} bytes and two index entries");

    let raw = raw_rate(folder.path(), duration)?;
    println!("disk alone, one writer: {raw:.0} overwrites of 512 bytes with fdatasync per second");
    for callers in CALLERS {
        let store = folder.path().join(format!("store-{callers}"));
        let (rate, mut latencies) = transactions(&store, callers, duration)?;
        latencies.sort_unstable();
        let at = |share: usize| latencies[(latencies.len() - 1) * share / 100].as_micros();
        println!(
            "{callers:>3} callers: {rate:>6.0} durable transactions per second ({:.0} % of the disk alone), p50 {} µs, p99 {} µs",
            rate / raw * 100.0,
            at(50),
            at(99)
        );
    }
    println!("disk alone once more: {:.0} per second", raw_rate(folder.path(), duration)?);
    rebuild(&folder.path().join("store-128"))
}

fn raw_rate(folder: &Path, duration: Duration) -> std::io::Result<f64> {
    const FILE_BYTES: usize = 64 * 1024 * 1024;
    let file = File::create(folder.join("raw"))?;
    file.write_all_at(&vec![0; FILE_BYTES], 0)?;
    file.sync_all()?;
    let started = Instant::now();
    let mut count = 0_u32;
    while started.elapsed() < duration {
        file.write_all_at(&[7; 512], u64::from(count) * 512 % FILE_BYTES as u64)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / started.elapsed().as_secs_f64())
}

fn transactions(
    folder: &Path,
    callers: usize,
    duration: Duration,
) -> Result<(f64, Vec<Duration>), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let engine = Arc::new(Embedded::open(folder, Settings::default())?);
    let shared: Arc<dyn Engine> = engine.clone();
    let on_broken = Box::new(|reason: &str| panic!("the store broke: {reason}"));
    let db = Arc::new(Db::new(shared, Arc::new(SystemClock), Arc::new(SystemRandomness), on_broken));
    let ended = Arc::new(AtomicBool::new(false));
    let started = Instant::now();
    let latencies = runtime.block_on(async {
        let calls: Vec<_> = (0..callers).map(|_| tokio::spawn(caller(Arc::clone(&db), Arc::clone(&ended)))).collect();
        tokio::time::sleep(duration).await;
        ended.store(true, Ordering::SeqCst);
        let mut latencies = Vec::new();
        for call in calls {
            latencies.extend(call.await??);
        }
        Ok::<_, Box<dyn std::error::Error>>(latencies)
    })?;
    let rate = latencies.len() as f64 / started.elapsed().as_secs_f64();
    db.close();
    engine.close()?;
    Ok((rate, latencies))
}

async fn caller(db: Arc<Db>, ended: Arc<AtomicBool>) -> Result<Vec<Duration>> {
    let account = AccountId::from_uuid(Uuid::from_u128(1));
    let mut latencies = Vec::new();
    while !ended.load(Ordering::SeqCst) {
        let started = Instant::now();
        db.write(account, transaction).await?;
        latencies.push(started.elapsed());
    }
    Ok(latencies)
}

fn transaction(tx: &mut Tx) -> Result<()> {
    use drover_coordinator::store::Reading;
    let id = tx.new_id();
    let mut record = [0; RECORD_BYTES];
    record[..16].copy_from_slice(&tx.random::<16>());
    tx.put(Key::new(Kind::Job, tx.account()).with(id).into_bytes(), record.to_vec())?;
    tx.put(Key::new(Kind::JobByPhase, tx.account()).with(1_u8).with(id).into_bytes(), id.as_bytes().to_vec())?;
    tx.put(
        Key::new(Kind::JobByProcess, tx.account()).with(tx.random::<16>()).with(id).into_bytes(),
        id.as_bytes().to_vec(),
    )
}

/// Makes the index anew twice: from the log alone, then from an export.
fn rebuild(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    for source in ["log", "export"] {
        let engine = if source == "export" {
            let engine = Embedded::open(folder, Settings::default())?;
            engine.export()?;
            engine.close()?;
            drop(engine);
            folder
        } else {
            folder
        };
        let started = Instant::now();
        let engine = Embedded::rebuild(engine, Settings::default(), false)?;
        let took = started.elapsed();
        let pairs = engine.export()?.pairs;
        engine.close()?;
        let rate = pairs as f64 / took.as_secs_f64();
        println!("index anew from {source}: {pairs} records in {:.2} s, {rate:.0} per second", took.as_secs_f64());
    }
    Ok(())
}
