//! How many tasks wait: from the counters, or from a bounded part of an index where only some of them are meant.

use drover_protocol::JobId;

use super::select::{has_tags, parse_tags};
use crate::{
    domain::{
        queue::Counters,
        task::{Phase, READY_PHASES, Task},
        trigger::by_queue::MAX_COUNTED,
    },
    error::Result,
    operations::queue,
    store::{Reading, Scan, key::Kind},
};

/// Tasks that are read at once.
const STEP: usize = 500;

/// How many tasks wait that have these tags and not those with a `-` before them. With tags it stops counting at `enough`,
/// and when it has looked at so many tasks as are counted at the most.
pub fn count_ready(reading: &dyn Reading, counters: &Counters, tags: &[String], enough: u64) -> Result<u64> {
    let (with, without) = parse_tags(tags);
    if with.is_empty() && without.is_empty() {
        return Ok(counters.ready());
    }
    let (mut count, mut examined) = (0, 0);
    for phase in Phase::ALL.into_iter().take(READY_PHASES).filter(|phase| counters.count(*phase) > 0) {
        let mut scan = match with.first() {
            Some(tag) => Scan::of(reading, Kind::TaskByTag, (counters.queue_id, tag.as_str(), phase as u8)),
            None => queue::ready_of(reading, counters, phase),
        };
        loop {
            let wanted = enough.saturating_sub(count).min(MAX_COUNTED.saturating_sub(examined)) as usize;
            if wanted == 0 {
                return Ok(count.min(enough));
            }
            if with.len() == 1 && without.is_empty() {
                count += scan.pairs(reading, wanted)?.len() as u64;
                break;
            }
            let found = scan.indexed::<Task>(reading, STEP)?;
            let Some((last, _)) = found.last() else { break };
            examined += found.len() as u64;
            count += found.iter().filter(|(_, task)| has_tags(task, &with, &without)).count() as u64;
            if found.len() < STEP {
                break;
            }
            scan = scan.clone().after(last);
        }
    }
    Ok(count.min(enough))
}

/// Whether an attempt of a job holds a task now.
pub fn is_holder(reading: &dyn Reading, job: JobId, attempt: u32) -> Result<bool> {
    Ok(!Scan::of(reading, Kind::TaskByJob, (job, attempt)).pairs(reading, 1)?.is_empty())
}
