//! How fast the embedded store is on this machine: durable transactions per second beside the disk's own rate of
//! `fdatasync`, and records per second when the index is made anew. One transaction puts a record and two index entries.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
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

use super::Setting;
use crate::{load::Latencies, report::Row};

/// Of the record that each transaction puts, beside two index entries.
const RECORD_BYTES: usize = 300;
const CALLERS: [usize; 3] = [1, 16, 128];

pub fn measure(setting: &Setting) -> anyhow::Result<Vec<Row>> {
    let (folder, duration) = (&setting.folder, setting.duration);
    let before = raw_rate(folder, duration)?;
    let mut measured = Vec::new();
    for callers in CALLERS {
        measured.push(transactions(&folder.join(format!("store-{callers}")), callers, duration)?);
    }
    let after = raw_rate(folder, duration)?;
    // A disk that others use as well has no steady rate: what it did before and after frames what the store did.
    let raw = f64::midpoint(before, after);
    let text = format!("one writer, 512 bytes; {before:.0}/s before, {after:.0}/s after");
    let mut rows = vec![Row::plain("the disk alone: overwrite and fdatasync", raw, "/s").beside(text)];
    for (callers, (rate, latencies)) in CALLERS.into_iter().zip(measured) {
        let share = rate / raw * 100.0;
        let text = format!("{share:.0} % of the disk alone; {}", latencies.text());
        rows.push(match callers {
            1 => Row::at_least("durable transactions, one caller, of the disk alone", 60.0, share, "%")
                .beside(format!("{rate:.0}/s; {}", latencies.text())),
            128 => Row::at_least("durable transactions, 128 callers", 30_000.0, rate, "/s").beside(text),
            _ => Row::plain(format!("durable transactions, {callers} callers"), rate, "/s").beside(text),
        });
    }
    rows.extend(rebuild(&folder.join("store-128"))?);
    Ok(rows)
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

fn transactions(folder: &Path, callers: usize, duration: Duration) -> anyhow::Result<(f64, Latencies)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let engine = Arc::new(Embedded::open(folder, Settings::default())?);
    let shared: Arc<dyn Engine> = engine.clone();
    let on_broken = Box::new(|reason: &str| {
        eprintln!("the store broke: {reason}");
        std::process::exit(1);
    });
    let db = Arc::new(Db::new(shared, Arc::new(SystemClock), Arc::new(SystemRandomness), on_broken));
    let ended = Arc::new(AtomicBool::new(false));
    let started = Instant::now();
    let latencies = runtime.block_on(async {
        let calls: Vec<_> = (0..callers).map(|_| tokio::spawn(caller(Arc::clone(&db), Arc::clone(&ended)))).collect();
        tokio::time::sleep(duration).await;
        ended.store(true, Ordering::SeqCst);
        let mut latencies = Latencies::default();
        for call in calls {
            latencies.extend(call.await??);
        }
        anyhow::Ok(latencies)
    })?;
    let rate = latencies.count() as f64 / started.elapsed().as_secs_f64();
    db.close();
    engine.close()?;
    Ok((rate, latencies))
}

async fn caller(db: Arc<Db>, ended: Arc<AtomicBool>) -> Result<Latencies> {
    let account = AccountId::from_uuid(Uuid::from_u128(1));
    let mut latencies = Latencies::default();
    while !ended.load(Ordering::SeqCst) {
        let started = Instant::now();
        db.write(account, transaction).await?;
        latencies.add(started.elapsed());
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
fn rebuild(folder: &Path) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for source in ["log", "export"] {
        if source == "export" {
            let engine = Embedded::open(folder, Settings::default())?;
            engine.export()?;
            engine.close()?;
        }
        let started = Instant::now();
        let engine = Embedded::rebuild(folder, Settings::default(), false)?;
        let took = started.elapsed().as_secs_f64();
        let pairs = engine.export()?.pairs;
        engine.close()?;
        let text = format!("{pairs} records in {took:.2} s");
        let what = format!("index made anew from the {source}");
        rows.push(Row::at_least(what, 100_000.0, pairs as f64 / took, "/s").beside(text));
    }
    Ok(rows)
}
