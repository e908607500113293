//! Samples of the use of the disk, kept in the system account, and what follows from them.

use super::alert_watch::Disk;
use crate::{
    domain::disk::{Forecast, Sample, Samples},
    error::{Error, Result},
    store::{
        Reading, Tx,
        key::{Key, Kind, SYSTEM_ACCOUNT},
    },
};

fn key() -> Vec<u8> {
    Key::new(Kind::System, SYSTEM_ACCOUNT).with("disk samples").into_bytes()
}

fn samples(reading: &dyn Reading) -> Result<Samples> {
    let unreadable = |error| Error::Internal(format!("the samples of the disk cannot be read: {error}"));
    match reading.view().get(&key())? {
        Some(bytes) => rmp_serde::from_slice(&bytes).map_err(unreadable),
        None => Ok(Samples::default()),
    }
}

/// Whether the disk is to be sampled now. `reading` is of the system account, here and below.
pub fn is_due(reading: &dyn Reading) -> Result<bool> {
    Ok(samples(reading)?.is_due(reading.now()))
}

/// Adds a sample.
pub fn sample(tx: &mut Tx, disk: &Disk) -> Result<()> {
    let mut samples = samples(tx)?;
    samples.add(Sample { at: tx.now(), used_bytes: disk.total_bytes.saturating_sub(disk.free_bytes) });
    let bytes = rmp_serde::to_vec(&samples)
        .map_err(|error| Error::Internal(format!("the samples of the disk cannot be written: {error}")))?;
    tx.put(key(), bytes)
}

/// When the disk is full, if all goes on as lately; absent while too little is known.
pub fn forecast(reading: &dyn Reading, disk: &Disk) -> Result<Option<Forecast>> {
    Ok(samples(reading)?.forecast(disk.free_bytes))
}
