//! The fires of all zones around every change of their offsets from 1970 to 2037, written to a file for a judge that is
//! another implementation: `contract/schedules.py`, which `.ci/test` runs right after.
#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it must be")]

use std::{
    io::{BufWriter, Write},
    path::Path,
};

use drover_coordinator::domain::schedule::{CronPattern, MissingHour, Pattern, RepeatedHour, WallSchedule};
use jiff::{SignedDuration, Timestamp, tz::TimeZoneDatabase};

const PATTERNS: [&str; 8] = [
    "30 2 * * *",
    "*/20 * * * *",
    "0 0 * * *",
    "15 1 * * 1-5",
    "0 9 1,15 * 1",
    "45 23 * * *",
    "10 0-3 * * 0",
    "5 1,2,3 * * *",
];
const MISSING: [(MissingHour, &str); 2] = [(MissingHour::RunAfter, "run_after"), (MissingHour::Skip, "skip")];
const REPEATED: [(RepeatedHour, &str); 3] =
    [(RepeatedHour::First, "first"), (RepeatedHour::Second, "second"), (RepeatedHour::Both, "both")];
/// Of so many windows one is looked at, unless `SCHEDULE_WINDOWS=all`.
const STRIDE: usize = 12;

/// So that each zone is seen with each policy sooner or later, pattern and policies turn at paces of their own.
#[test]
fn the_fires_of_all_zones_are_written_for_the_judge() {
    let zones = TimeZoneDatabase::bundled();
    let (from, to): (Timestamp, Timestamp) =
        ("1970-01-03T00:00:00Z".parse().unwrap(), "2037-12-30T00:00:00Z".parse().unwrap());
    let stride = if std::env::var("SCHEDULE_WINDOWS").is_ok_and(|wanted| wanted == "all") { 1 } else { STRIDE };
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("schedules.ndjson");
    let mut out = BufWriter::new(std::fs::File::create(path).unwrap());
    let (mut count, mut written, mut fires_in_all) = (0_usize, 0_usize, 0_usize);
    for name in zones.available() {
        let zone = zones.get(name.as_str()).unwrap();
        let changes = zone.following(from).map(|change| change.timestamp()).take_while(|change| *change < to);
        let calm = ["2026-06-01T12:00:00Z".parse().unwrap()];
        for middle in changes.chain(calm) {
            let number = count;
            count += 1;
            if number % stride != 0 {
                continue;
            }
            let turn = number / stride;
            let pattern = PATTERNS[turn % PATTERNS.len()];
            let (missing_hour, missing) = MISSING[(turn / 3) % MISSING.len()];
            let (repeated_hour, repeated) = REPEATED[(turn / 7) % REPEATED.len()];
            let schedule = WallSchedule {
                pattern: Pattern::Cron(Box::new(CronPattern::parse(pattern, None).unwrap())),
                zone: zone.clone(),
                missing_hour,
                repeated_hour,
                calendar: None,
            };
            let (after, until) = (middle - SignedDuration::from_hours(30), middle + SignedDuration::from_hours(30));
            let next = |fire: &Timestamp| schedule.next_after(*fire).map(|found| found.at);
            let fires = std::iter::successors(next(&after), next).take_while(|fire| *fire <= until);
            let fires: Vec<i64> = fires.map(Timestamp::as_second).collect();
            fires_in_all += fires.len();
            let window = serde_json::json!({ "zone": name.as_str(), "pattern": pattern, "missing": missing,
                "repeated": repeated, "after": after.as_second(), "until": until.as_second(), "fires": fires });
            writeln!(out, "{window}").unwrap();
            written += 1;
        }
    }
    out.flush().unwrap();
    assert!(written > 2_000 && fires_in_all > 20_000, "{written} windows with {fires_in_all} fires are too few");
}
