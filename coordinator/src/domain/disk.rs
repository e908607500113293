//! How the use of the disk grows, and when the disk is full if that goes on.

use drover_protocol::Timestamp;
use serde::{Deserialize, Serialize};

const HOUR_SECONDS: u64 = 3_600;
const DAY_MILLIS: i64 = 86_400_000;
const KEPT_DAYS: u64 = 14;
/// What would take longer is not foretold.
const MAX_DAYS: u64 = 3_650;

/// How many bytes of the disk were used at one moment, by whomever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub at: Timestamp,
    pub used_bytes: u64,
}

/// Samples of the last two weeks, one an hour, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Samples(Vec<Sample>);

/// What is to be expected if all goes on as lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// Negative if the use shrinks.
    pub growth_bytes_per_day: i64,
    /// Absent if it does not grow, or if it would take longer than ten years.
    pub full_in_days: Option<u64>,
    /// For how many days it was looked at.
    pub observed_days: u64,
}

impl Samples {
    /// Whether it is time for another one.
    pub fn is_due(&self, now: Timestamp) -> bool {
        // What is later than now was written by a clock that has been set back.
        self.0.last().is_none_or(|last| last.at > now || now.since(last.at).as_secs() >= HOUR_SECONDS)
    }

    /// Adds one, and forgets those that are too old.
    pub fn add(&mut self, sample: Sample) {
        let oldest = sample.at.minus_seconds(KEPT_DAYS * 24 * HOUR_SECONDS);
        self.0.retain(|kept| oldest <= kept.at && kept.at < sample.at);
        self.0.push(sample);
    }

    /// What to expect with so many bytes free; nothing before there are samples of a whole day.
    ///
    /// Each sample is compared with the one a day before it, so that the hours of a day do not matter, and the median of
    /// these differences counts: what came once, such as a large upload or clearing up, does not once there are some days.
    pub fn forecast(&self, free_bytes: u64) -> Option<Forecast> {
        let (first, last) = (self.0.first()?, self.0.last()?);
        let (mut growths, mut before) = (Vec::new(), 0);
        for sample in &self.0 {
            let is_day_before = |kept: &Sample| sample.at.millis() - kept.at.millis() >= DAY_MILLIS;
            while self.0.get(before + 1).is_some_and(is_day_before) {
                before += 1;
            }
            growths.extend(self.0.get(before).filter(|kept| is_day_before(kept)).map(|kept| per_day(kept, sample)));
        }
        growths.sort_unstable();
        let growth_bytes_per_day = *growths.get(growths.len() / 2)?;
        let days = u64::try_from(growth_bytes_per_day).ok().and_then(|growth| free_bytes.checked_div(growth));
        Some(Forecast {
            growth_bytes_per_day,
            full_in_days: days.filter(|days| *days <= MAX_DAYS),
            observed_days: last.at.since(first.at).as_secs() / (24 * HOUR_SECONDS),
        })
    }
}

/// By how much the use grew in a day, between two samples that are some days apart.
fn per_day(from: &Sample, to: &Sample) -> i64 {
    let (grown, took) = (i128::from(to.used_bytes) - i128::from(from.used_bytes), to.at.millis() - from.at.millis());
    let per_day = grown * i128::from(DAY_MILLIS) / i128::from(took.max(1));
    i64::try_from(per_day).unwrap_or(if grown < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const HOUR_MILLIS: i64 = 3_600_000;

    fn sample(hour: i64, used_bytes: u64) -> Sample {
        Sample { at: Timestamp::from_millis(1_795_000_000_000 + hour * HOUR_MILLIS), used_bytes }
    }

    /// One sample an hour, as the loop writes them.
    fn samples(hours: std::ops::Range<i64>, used_bytes: impl Fn(i64) -> u64) -> Samples {
        let mut samples = Samples::default();
        for hour in hours {
            let sample = sample(hour, used_bytes(hour));
            assert!(samples.is_due(sample.at));
            samples.add(sample);
        }
        samples
    }

    /// A steady growth of a GiB a day.
    fn steady(hour: i64) -> u64 {
        100 * GIB + hour.unsigned_abs() * GIB / 24
    }

    #[test]
    fn nothing_is_said_before_there_is_a_day_of_samples() {
        assert_eq!(Samples::default().forecast(GIB), None);
        assert_eq!(samples(0..24, steady).forecast(GIB), None);
        let forecast = samples(0..25, steady).forecast(23 * GIB + GIB / 2);
        let growth_bytes_per_day = i64::try_from(GIB).expect("it fits");
        assert_eq!(forecast, Some(Forecast { growth_bytes_per_day, full_in_days: Some(23), observed_days: 1 }));
    }

    #[test]
    fn what_does_not_grow_is_never_full() {
        let full_in_days = |samples: Samples, free| samples.forecast(free).expect("a forecast").full_in_days;
        assert_eq!(full_in_days(samples(0..100, |_| GIB), 0), None);
        let shrinking = samples(0..100, |hour| 100 * GIB - steady(hour) / 2);
        assert!(shrinking.forecast(GIB).expect("a forecast").growth_bytes_per_day < 0);
        assert_eq!(full_in_days(shrinking, GIB), None);
        assert_eq!(full_in_days(samples(0..100, steady), 0), Some(0));
        assert_eq!(full_in_days(samples(0..100, |hour| hour.unsigned_abs()), GIB), None, "after ten years or more");
    }

    /// A backup that was copied there, or old files that were deleted, say nothing about the days to come.
    #[test]
    fn what_comes_once_does_not_count() {
        let growth = |samples: Samples| samples.forecast(GIB).expect("a forecast").growth_bytes_per_day as u64;
        let jump = |at: i64, by: u64| samples(0..240, move |hour| steady(hour) + if hour >= at { by } else { 0 });
        for at in [1, 30, 120, 200, 239] {
            assert_eq!(growth(jump(at, 500 * GIB)), GIB, "at hour {at}");
        }
        let drop = samples(0..240, |hour| steady(hour) + if hour < 120 { 90 * GIB } else { 0 });
        assert_eq!(growth(drop), GIB);
    }

    /// Logs of the day that are sealed at night: the use goes up and down all day long and by a GiB a day.
    #[test]
    fn the_hours_of_a_day_do_not_count() {
        let daily = |hour: i64| steady(hour / 24 * 24) + (hour % 24).unsigned_abs() * 3 * GIB;
        let forecast = samples(0..200, daily).forecast(10 * GIB).expect("a forecast");
        assert_eq!((forecast.growth_bytes_per_day as u64, forecast.full_in_days), (GIB, Some(10)));
    }

    /// However long it runs, two weeks are kept; and hours in which nothing ran do not distort the growth.
    #[test]
    fn two_weeks_are_kept_with_or_without_gaps() {
        let long = samples(0..2_000, steady);
        assert_eq!((long.0.len(), long.forecast(GIB).expect("a forecast").observed_days), (337, 14));
        let mut gaps = Samples::default();
        for hour in (0..48).chain(150..160).chain([300]) {
            gaps.add(sample(hour, steady(hour)));
        }
        assert_eq!(gaps.forecast(GIB).expect("a forecast").growth_bytes_per_day as u64, GIB);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_stop_the_sampling() {
        let mut samples = samples(1_000..1_030, steady);
        assert!(samples.is_due(sample(0, 0).at) && !samples.is_due(sample(1_029, 0).at));
        samples.add(sample(0, GIB));
        assert_eq!(samples.0, [sample(0, GIB)]);
    }
}
