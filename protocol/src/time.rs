//! Points in time: milliseconds since 1970 UTC inside, RFC 3339 with milliseconds and `Z` in JSON.

use std::{fmt, str::FromStr, time::Duration};

use jiff::{SignedDuration, civil::DateTime, fmt::temporal::Pieces};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, utoipa::ToSchema)]
#[schema(description = "RFC 3339, UTC, milliseconds. In requests any offset is understood; years 1970 to 9999.")]
#[schema(value_type = String, format = DateTime, example = "2026-11-23T08:05:11.000Z")]
pub struct Timestamp(i64);

impl Timestamp {
    /// The start of 1970.
    pub const EPOCH: Self = Self(0);
    /// The last instant that RFC 3339 can write: the end of the year 9999.
    pub const MAX: Self = Self(253_402_300_799_999);

    /// From milliseconds since 1970 UTC; values outside of the years 1970 to 9999 are moved to the nearest end.
    pub const fn from_millis(millis: i64) -> Self {
        if millis < 0 {
            Self(0)
        } else if millis > Self::MAX.0 {
            Self::MAX
        } else {
            Self(millis)
        }
    }

    /// Milliseconds since 1970 UTC, never negative.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// This instant and `seconds` more, never beyond the year 9999.
    pub const fn plus_seconds(self, seconds: u64) -> Self {
        let seconds = if seconds > 253_402_300_799 { 253_402_300_799 } else { seconds };
        Self::from_millis(self.0.saturating_add(seconds as i64 * 1000))
    }

    /// This instant less `seconds`, never before 1970.
    pub const fn minus_seconds(self, seconds: u64) -> Self {
        let seconds = if seconds > 253_402_300_799 { 253_402_300_799 } else { seconds };
        Self::from_millis(self.0.saturating_sub(seconds as i64 * 1000))
    }

    /// The time from `earlier` to this instant; zero if `earlier` is in fact later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => match EPOCH.checked_add(SignedDuration::from_millis(self.0)) {
                Ok(time) => write!(f, "{time:.3}Z"),
                Err(_) => f.write_str("out of range"),
            },
        }
    }
}

impl FromStr for Timestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let millis = match text.parse::<jiff::Timestamp>() {
            Ok(time) => time.as_millisecond(),
            Err(_) => last_day(text).ok_or_else(|| {
                format!("\"{}\" is not an RFC 3339 time such as 2026-11-23T08:05:11.000Z", shorten(text))
            })?,
        };
        if !(0..=Self::MAX.0).contains(&millis) {
            return Err("the time is outside of the years 1970 to 9999".to_owned());
        }
        Ok(Self(millis))
    }
}

/// The clock of the time library ends a day before the year 9999 does, its calendar does not.
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// Milliseconds since 1970 of a time that is written in full, with its offset.
fn last_day(text: &str) -> Option<i64> {
    let pieces = Pieces::parse(text).ok()?;
    let time = pieces.date().to_datetime(pieces.time()?);
    let offset = pieces.to_numeric_offset()?;
    let millis = time.duration_since(EPOCH).as_millis() - i128::from(offset.seconds()) * 1000;
    i64::try_from(millis).ok()
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_i64(self.0) }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Timestamp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
                text.parse().map_err(E::custom)
            }
        }
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(Visitor)
        } else {
            i64::deserialize(deserializer).map(Self::from_millis)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_milliseconds_and_z() {
        let time = Timestamp::from_millis(1_795_421_111_007);
        let json = serde_json::to_string(&time).expect("a time can be written");
        assert_eq!(json, "\"2026-11-23T08:05:11.007Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>(&json).expect("what was written can be read"), time);
    }

    #[test]
    fn offsets_are_understood_and_nonsense_is_refused() {
        assert_eq!("2026-11-23T11:05:11+03:00".parse::<Timestamp>(), "2026-11-23T08:05:11Z".parse());
        assert!("1969-12-31T23:59:59Z".parse::<Timestamp>().is_err());
        assert!("tomorrow".parse::<Timestamp>().is_err());
        assert!(serde_json::from_str::<Timestamp>("12").is_err());
    }

    /// The years are 1970 to 9999, to the very last millisecond.
    #[test]
    fn the_last_instant_can_be_read_and_written() {
        for text in ["9999-12-30T22:00:01.000Z", "9999-12-31T23:59:59.999Z"] {
            assert_eq!(text.parse::<Timestamp>().expect("within the range").to_string(), text);
        }
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!("9999-12-31T23:59:59.999+01:00".parse(), "9999-12-31T22:59:59.999Z".parse::<Timestamp>());
        for text in ["9999-12-31T23:59:59.999-01:00", "9999-12-31", "9999-12-31T23:59:59", "9999-12-31T23:59:60Zx"] {
            text.parse::<Timestamp>().expect_err(text);
        }
    }

    #[test]
    fn arithmetic_stays_in_range() {
        assert_eq!(Timestamp::MAX.plus_seconds(u64::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::EPOCH.minus_seconds(u64::MAX), Timestamp::EPOCH);
        assert_eq!(Timestamp::EPOCH.since(Timestamp::MAX), Duration::ZERO);
    }
}
