//! When a schedule fires: cron patterns, days of a month and intervals, in the time of a zone, over missing and repeated
//! hours, by a calendar of working days. Pure: whoever asks gives the instant after which to look.
//!
//! A pattern speaks of wall clocks. Its times are found on an endless wall clock first, by `croner` or by counting days,
//! and are laid onto the stretches of a zone between two changes of its offset afterwards. There a missing hour is the
//! jump between two stretches, and a repeated hour lies in both: no rule needs to know how long an hour is missing.

mod timetable;
mod words;

use std::{collections::BTreeSet, fmt};

use chrono::{DateTime as ChronoTime, Datelike, NaiveDate, Timelike, Utc};
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{
    SignedDuration, Timestamp,
    civil::{Date, DateTime, Time, Weekday},
    tz::{Offset, TimeZone},
};

pub use timetable::{Fault, Language, Span, Timetable, calendar_of, is_zone, policy_of};

/// No pattern is looked for further in the future: the 29th of February falls on each weekday within 40 years.
const HORIZON_YEARS: i16 = 60;
/// No day is looked for further by a calendar: of two 29ths of February that follow each other one is no weekend.
const HORIZON_DAYS: i32 = 12 * 366;
/// A calendar moves no day further than this; longer rows of days of rest have no fire.
const MAX_MOVE_DAYS: i32 = 31;

/// How the days of a cron pattern are numbered, and with it how many fields it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Five fields, or six with seconds first; 0 and 7 are Sunday. If both days of month and of week are given, either suits.
    Unix,
    /// Six fields with seconds first, or seven with the year last; 1 is Sunday.
    Quartz,
}

/// What becomes of a time that the clock of the zone leaps over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingHour {
    /// Once, at the first instant after the gap.
    RunAfter,
    Skip,
}

/// What becomes of a time that the clock of the zone shows twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepeatedHour {
    First,
    Second,
    Both,
}

/// What becomes of a fire on a day that the calendar does not call a working day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonWorkingDays {
    Skip,
    /// On the last working day before, at the same time of day.
    Before,
    /// On the next working day, at the same time of day.
    After,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DayOfMonth {
    /// Counted from 1. A month that has fewer of them has no fire.
    Nth(u8),
    Last,
}

/// Which days are worked on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calendar {
    pub rest_days: Vec<Weekday>,
    /// Days of rest whatever weekday they are.
    pub holidays: BTreeSet<Date>,
    /// Worked on although they are a weekday of rest or a holiday.
    pub working_days: BTreeSet<Date>,
}

impl Calendar {
    /// Monday to Friday.
    pub fn weekdays() -> Self {
        Self { rest_days: vec![Weekday::Saturday, Weekday::Sunday], ..Self::default() }
    }

    pub fn is_working_day(&self, date: Date) -> bool {
        self.working_days.contains(&date)
            || !(self.rest_days.contains(&date.weekday()) || self.holidays.contains(&date))
    }
}

/// Why an occurrence is not simply where its pattern says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    MissingHour,
    RepeatedHour,
    MovedByCalendar,
}

/// One instant at which a schedule fires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrence {
    pub at: Timestamp,
    /// What the clock of the zone shows then.
    pub local: DateTime,
    pub offset: Offset,
    pub note: Option<Note>,
}

/// A pattern that cannot be understood, in words for the person who wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadPattern(pub String);

impl fmt::Display for BadPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A cron pattern that has been understood.
#[derive(Clone, Debug)]
pub struct CronPattern {
    pub dialect: Dialect,
    cron: Cron,
}

impl CronPattern {
    /// Reads a pattern; without a dialect the number of its fields decides. Refuses what is no pattern, and what two
    /// dialects understand differently in a way that cannot be told apart.
    pub fn parse(text: &str, dialect: Option<Dialect>) -> Result<Self, BadPattern> {
        let text = text.trim();
        let fields: Vec<&str> = text.split_whitespace().collect();
        let dialect = match (dialect, fields.len()) {
            (_, 1) if text.starts_with('@') => Dialect::Unix,
            (Some(Dialect::Unix), 5 | 6) | (None, 5) => Dialect::Unix,
            (Some(Dialect::Quartz), 5..=7) | (None, 6 | 7) => Dialect::Quartz,
            (Some(Dialect::Unix), count) => {
                return Err(wrong_count(count, "a Unix pattern has 5, or 6 with seconds first"));
            }
            (Some(Dialect::Quartz), count) => return Err(wrong_count(count, "a Quartz pattern has 5 to 7")),
            (None, count) => {
                return Err(wrong_count(
                    count,
                    "it has 5 (minute hour day month weekday) or 6 (seconds first, 1 is Sunday)",
                ));
            }
        };
        if dialect == Dialect::Quartz {
            let [day, weekday] = [3, 5].map(|field| fields[field - usize::from(fields.len() == 5)]);
            if ![day, weekday].iter().any(|field| matches!(*field, "*" | "?")) {
                return Err(BadPattern(
                    "a Quartz pattern gives the day of the month or the day of the week, and ? for the other one"
                        .to_owned(),
                ));
            }
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Optional)
            .year(Year::Optional)
            .alternative_weekdays(dialect == Dialect::Quartz)
            .build();
        let cron = parser.parse(text).map_err(|error| BadPattern(error.to_string()))?;
        Ok(Self { dialect, cron })
    }

    /// The pattern in plain English.
    pub fn in_words(&self) -> String {
        self.cron.describe()
    }

    /// The first day from `from` on that suits it, within the horizon: `croner` by itself looks for a 30th of February
    /// through some thousand years.
    fn next_day(&self, from: Date) -> Option<Date> {
        let pattern = &self.cron.pattern;
        let mut day = from;
        while day.year() <= from.year().saturating_add(HORIZON_YEARS) {
            let (year, [month, of_month]) = (i32::from(day.year()), [day.month(), day.day()].map(i8::unsigned_abs));
            day = if !pattern.year_match(year).ok()? {
                day.last_of_year().tomorrow().ok()?
            } else if !pattern.month_match(month.into()).ok()? {
                day.last_of_month().tomorrow().ok()?
            } else if !pattern.day_match(year, month.into(), of_month.into()).ok()? {
                day.tomorrow().ok()?
            } else {
                return Some(day);
            };
        }
        None
    }
}

fn wrong_count(count: usize, wanted: &str) -> BadPattern {
    BadPattern(format!("the pattern has {count} fields; {wanted}"))
}

/// What the wall clock must show.
#[derive(Clone, Debug)]
pub enum Pattern {
    Cron(Box<CronPattern>),
    Monthly { day: DayOfMonth, working: bool, at: Time },
}

/// A schedule in the time of a zone.
#[derive(Clone, Debug)]
pub struct WallSchedule {
    pub pattern: Pattern,
    pub zone: TimeZone,
    pub missing_hour: MissingHour,
    pub repeated_hour: RepeatedHour,
    /// Monday to Friday where a pattern counts working days and no calendar is given.
    pub calendar: Option<(Calendar, NonWorkingDays)>,
}

/// The time between two changes of a zone's offset.
#[derive(Debug)]
struct Stretch {
    /// Absent: it has no beginning.
    start: Option<Timestamp>,
    /// The offset that ended with its start.
    before: Offset,
    offset: Offset,
    /// When the next offset begins, and which.
    end: Option<(Timestamp, Offset)>,
}

impl Stretch {
    /// The stretch that holds `at`.
    fn around(zone: &TimeZone, at: Timestamp) -> Self {
        let just_after = at.saturating_add(SignedDuration::from_nanos(1)).expect("a span of no days");
        let start = zone.preceding(just_after).next().map(|change| change.timestamp());
        let before = start.map_or_else(
            || zone.to_offset(at),
            |start| zone.to_offset(start.saturating_sub(SignedDuration::from_nanos(1)).expect("a span of no days")),
        );
        let end = zone.following(at).next().map(|change| (change.timestamp(), change.offset()));
        Self { start, before, offset: zone.to_offset(at), end }
    }

    /// What the clock shows at its end, by its own offset.
    fn local_end(&self) -> DateTime {
        self.end.map_or(DateTime::MAX, |(end, _)| self.offset.to_datetime(end))
    }

    /// The wall clock times that the change at its start leaps over, if it does.
    fn gap(&self) -> Option<(DateTime, DateTime)> {
        let start = self.start?;
        (self.offset > self.before).then(|| (self.before.to_datetime(start), self.offset.to_datetime(start)))
    }

    /// Until then the clock shows what it has shown before the start already.
    fn second_until(&self) -> Option<DateTime> {
        let start = self.start?;
        (self.offset < self.before).then(|| self.before.to_datetime(start))
    }

    /// From then on the clock shows what it will show again after the end.
    fn first_from(&self) -> Option<DateTime> {
        let (end, next) = self.end?;
        (next < self.offset).then(|| next.to_datetime(end))
    }
}

impl WallSchedule {
    /// The first occurrence later than `after`; none if there is none within a lifetime of the pattern's horizon.
    pub fn next_after(&self, after: Timestamp) -> Option<Occurrence> {
        let last = after.as_second().saturating_add(i64::from(HORIZON_YEARS) * 366 * 86_400);
        let mut stretch = Stretch::around(&self.zone, after);
        // A wall clock shows whole seconds.
        let mut from = second_after(stretch.offset.to_datetime(after));
        loop {
            if let Some(found) = self.in_stretch(&stretch, from) {
                return Some(found);
            }
            let (end, _) = stretch.end?;
            if end.as_second() > last {
                return None;
            }
            // What no clock will show, no stretch holds. Where an hour is repeated the clock goes back, by less than a day.
            self.next_wall(days_from(from.date(), -1).to_datetime(Time::midnight()))?;
            stretch = Stretch::around(&self.zone, end);
            if let Some(found) = self.after_the_gap(&stretch) {
                return Some(found);
            }
            from = stretch.offset.to_datetime(end);
        }
    }

    /// A time within a missing hour, made up for at the first instant after it.
    fn after_the_gap(&self, stretch: &Stretch) -> Option<Occurrence> {
        let (gap, end) = stretch.gap()?;
        if self.missing_hour == MissingHour::Skip || self.next_wall(gap)?.0 >= end {
            return None;
        }
        Some(Occurrence { at: stretch.start?, local: end, offset: stretch.offset, note: Some(Note::MissingHour) })
    }

    fn in_stretch(&self, stretch: &Stretch, from: DateTime) -> Option<Occurrence> {
        let second_until = stretch.second_until().filter(|_| self.repeated_hour == RepeatedHour::First);
        let (local, moved) = self.next_wall(second_until.map_or(from, |until| from.max(until)))?;
        let first_from = stretch.first_from();
        let ends = first_from.filter(|_| self.repeated_hour == RepeatedHour::Second).unwrap_or(stretch.local_end());
        if local >= ends.min(stretch.local_end()) {
            return None;
        }
        let repeated =
            stretch.second_until().is_some_and(|until| local < until) || first_from.is_some_and(|from| local >= from);
        let note = match (repeated, moved) {
            (true, _) => Some(Note::RepeatedHour),
            (false, true) => Some(Note::MovedByCalendar),
            (false, false) => None,
        };
        let at = stretch.offset.to_timestamp(local).ok()?;
        Some(Occurrence { at, local, offset: stretch.offset, note })
    }

    /// The first time of the wall clock from `from` on at which it fires, and whether the calendar moved it there.
    fn next_wall(&self, from: DateTime) -> Option<(DateTime, bool)> {
        let Some((calendar, non_working)) = &self.calendar else {
            return Some((self.next_nominal(from)?, false));
        };
        let mut nominals = Nominals { schedule: self, known: Vec::new() };
        let last = days_from(from.date(), HORIZON_DAYS);
        let mut at = from;
        while at.date() <= last {
            // No fire comes about further from its own day than days are moved, so that the days before are leapt over.
            let earliest = days_from(at.date(), -MAX_MOVE_DAYS).to_datetime(Time::midnight());
            let leap = days_from(nominals.first(earliest)?.date(), -MAX_MOVE_DAYS).to_datetime(Time::midnight());
            if leap > at {
                at = leap;
                continue;
            }
            if calendar.is_working_day(at.date()) {
                let found = sources(calendar, *non_working, at.date())
                    .filter_map(|source| Some((nominals.within(source, at.time())?, source != at.date())))
                    // Of two at the same time the one that was not moved tells why.
                    .min();
                if let Some((time, moved)) = found {
                    return Some((at.date().to_datetime(time), moved));
                }
            }
            at = at.date().tomorrow().ok()?.to_datetime(Time::midnight());
        }
        None
    }

    fn next_nominal(&self, from: DateTime) -> Option<DateTime> {
        match &self.pattern {
            Pattern::Cron(pattern) => {
                let day = pattern.next_day(from.date())?;
                let from = if day > from.date() { day.to_datetime(Time::midnight()) } else { from };
                let found = pattern.cron.find_next_occurrence(&to_chrono(from)?, true).ok()?;
                (found.year() <= i32::from(from.year()) + i32::from(HORIZON_YEARS)).then(|| from_chrono(found))?
            }
            Pattern::Monthly { day, working, at } => {
                let calendar = self.calendar.as_ref().map(|(calendar, _)| calendar);
                let weekdays = Calendar::weekdays();
                let working = working.then(|| calendar.unwrap_or(&weekdays));
                let mut month = from.date().first_of_month();
                // A 29th of February is at most eight years away, a 31st two months.
                for _ in 0..12 * 9 {
                    if let Some(date) = day_of_month(month, day, working)
                        && date.to_datetime(*at) >= from
                    {
                        return Some(date.to_datetime(*at));
                    }
                    month = month.checked_add(jiff::Span::new().months(1)).ok()?;
                }
                None
            }
        }
    }
}

/// The times that a pattern gives without a calendar. What was found is remembered: each is asked for by many days, and a
/// rare one is searched for years.
struct Nominals<'a> {
    schedule: &'a WallSchedule,
    /// From when on was searched, and what was found.
    known: Vec<(DateTime, Option<DateTime>)>,
}

impl Nominals<'_> {
    /// The first one not before `at`.
    fn first(&mut self, at: DateTime) -> Option<DateTime> {
        let holds =
            |(from, found): &&(DateTime, Option<DateTime>)| *from <= at && found.is_none_or(|found| at <= found);
        if let Some((_, found)) = self.known.iter().rev().find(holds) {
            return *found;
        }
        let found = self.schedule.next_nominal(at);
        // Days go on, and ask for nothing that lies further back than days are moved.
        let old = days_from(at.date(), -2 * MAX_MOVE_DAYS).to_datetime(Time::midnight());
        self.known.retain(|(_, found)| found.is_none_or(|found| found >= old));
        self.known.push((at, found));
        found
    }

    /// The first one on `date`, not before `time`.
    fn within(&mut self, date: Date, time: Time) -> Option<Time> {
        self.first(date.to_datetime(time)).filter(|found| found.date() == date).map(DateTime::time)
    }
}

/// A day so many days later; the first or last of all days where there is none.
fn days_from(date: Date, days: i32) -> Date {
    date.saturating_add(jiff::Span::new().days(days))
}

/// The days whose fires come about on the working day `date`: itself, and the row of days of rest that are moved to it.
fn sources(calendar: &Calendar, non_working: NonWorkingDays, date: Date) -> impl Iterator<Item = Date> {
    let step = move |date: Date| match non_working {
        NonWorkingDays::Skip => None,
        NonWorkingDays::After => date.yesterday().ok(),
        NonWorkingDays::Before => date.tomorrow().ok(),
    };
    let rest = std::iter::successors(step(date), move |date| step(*date));
    std::iter::once(date)
        .chain(rest.take_while(|date| !calendar.is_working_day(*date)).take(MAX_MOVE_DAYS.unsigned_abs() as usize))
}

fn day_of_month(month: Date, day: &DayOfMonth, working: Option<&Calendar>) -> Option<Date> {
    let suits = |date: &Date| working.is_none_or(|calendar| calendar.is_working_day(*date));
    let mut days = (1..=month.days_in_month()).filter_map(|day| Date::new(month.year(), month.month(), day).ok());
    match day {
        DayOfMonth::Last => days.rev().find(suits),
        DayOfMonth::Nth(nth) => days.by_ref().filter(suits).nth(usize::from(nth.checked_sub(1)?)),
    }
}

/// The first instant after `after` that is a whole number of intervals away from `anchor`, and not before it.
pub fn next_interval(anchor: Timestamp, interval_seconds: u64, after: Timestamp) -> Option<Timestamp> {
    let (anchor, after) = (anchor.as_millisecond(), after.as_millisecond());
    let interval = i64::try_from(interval_seconds.max(1)).ok()?.checked_mul(1_000)?;
    let passed = if after < anchor { 0 } else { (after - anchor) / interval + 1 };
    Timestamp::from_millisecond(anchor.checked_add(passed.checked_mul(interval)?)?).ok()
}

/// The next whole second after a wall clock time.
fn second_after(time: DateTime) -> DateTime {
    let whole = time.with().subsec_nanosecond(0).build().expect("no nanoseconds are a valid number of them");
    whole.saturating_add(SignedDuration::from_secs(1))
}

fn to_chrono(time: DateTime) -> Option<ChronoTime<Utc>> {
    let whole = if time.subsec_nanosecond() == 0 { time } else { second_after(time) };
    let date =
        NaiveDate::from_ymd_opt(whole.year().into(), whole.month().try_into().ok()?, whole.day().try_into().ok()?)?;
    let [hour, minute, second] = [whole.hour(), whole.minute(), whole.second()].map(i8::unsigned_abs);
    Some(date.and_hms_opt(hour.into(), minute.into(), second.into())?.and_utc())
}

fn from_chrono(time: ChronoTime<Utc>) -> Option<DateTime> {
    let date =
        Date::new(time.year().try_into().ok()?, time.month().try_into().ok()?, time.day().try_into().ok()?).ok()?;
    let part = |part: u32| i8::try_from(part).ok();
    Some(date.to_datetime(Time::new(part(time.hour())?, part(time.minute())?, part(time.second())?, 0).ok()?))
}

#[cfg(test)]
mod tests;
