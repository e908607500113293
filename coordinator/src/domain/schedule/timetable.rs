//! A trigger's settings as a schedule that can be asked: checked, with its span of validity and its window of the day.

use drover_protocol::{
    Timestamp, resource,
    trigger::{self as wire, CronDialect, FireNote, MonthDay, PlannedFire, Schedule, Window},
};
use jiff::{
    civil::{DateTime, Time, Weekday},
    tz::{TimeZone, TimeZoneDatabase},
};

use super::{
    Calendar, CronPattern, DayOfMonth, Dialect, MissingHour, NonWorkingDays, Note, Occurrence, Pattern, RepeatedHour,
    WallSchedule, next_interval, words,
};

const MAX_CRON_CHARS: usize = 256;
/// So many fires are looked through for one within the window, and not further than so many years.
const MAX_WINDOW_STEPS: usize = 1_500;
const MAX_WINDOW_YEARS: u64 = 9;

/// A field of the settings that is wrong, as a JSON pointer below the trigger, and why.
pub type Fault = (&'static str, String);

/// In which language texts for people are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Language {
    #[default]
    English,
    Russian,
}

#[derive(Clone, Debug)]
enum Pace {
    Wall(Box<WallSchedule>),
    /// Of days that are not worked on all fires are left out; an interval has no time of day at which they could be moved.
    Interval {
        anchor: jiff::Timestamp,
        seconds: u64,
        calendar: Option<Calendar>,
    },
}

/// When a trigger may fire, whatever its kind: its zone, its span of validity and its window.
#[derive(Clone, Debug)]
pub struct Span {
    zone: TimeZone,
    valid_from: Option<Timestamp>,
    valid_to: Option<Timestamp>,
    window: Option<(Time, Time)>,
}

/// When a trigger of kind `schedule` fires.
#[derive(Clone, Debug)]
pub struct Timetable {
    pace: Pace,
    span: Span,
}

fn to_jiff(time: Timestamp) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_millisecond(time.millis()).ok()
}

fn from_jiff(time: jiff::Timestamp) -> Timestamp {
    Timestamp::from_millis(time.as_millisecond())
}

/// Whether this is the name of a time zone.
pub fn is_zone(name: &str) -> bool {
    zone(name).is_some()
}

fn zone(name: &str) -> Option<TimeZone> {
    // Zones of their own making, such as `EST5EDT4,M3…`, have no name that would be kept up to date.
    TimeZoneDatabase::bundled().get(name).ok()
}

/// A time of the day as `HH:MM`.
fn minute(text: &str) -> Option<Time> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| (text.len() == 2).then(|| text.parse::<i8>().ok()).flatten();
    Time::new(number(hour)?, number(minute)?, 0, 0).ok()
}

impl Span {
    /// The span of a trigger, if its settings are sound; the zone comes with where it stands in them.
    pub fn of(
        (time_zone, pointer): (&str, &'static str),
        valid: (Option<Timestamp>, Option<Timestamp>),
        window: Option<&Window>,
    ) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let found = zone(time_zone);
        if found.is_none() {
            let text = "is no IANA name of a time zone, such as Europe/Berlin or UTC".to_owned();
            faults.push((pointer, text));
        }
        if let (Some(from), Some(to)) = valid
            && to <= from
        {
            faults.push(("/valid_to", "is not later than valid_from".to_owned()));
        }
        let mut between = None;
        if let Some(window) = window {
            between = minute(&window.from).zip(minute(&window.to));
            match between {
                None => faults.push(("/window", "its times must have the form HH:MM".to_owned())),
                Some((from, to)) if from == to => {
                    faults.push((
                        "/window",
                        "begins and ends at the same time; leave it out for the whole day".to_owned(),
                    ));
                }
                Some(_) => {}
            }
        }
        match (found, faults.is_empty()) {
            (Some(zone), true) => Ok(Self { zone, valid_from: valid.0, valid_to: valid.1, window: between }),
            _ => Err(faults),
        }
    }

    fn holds_time(&self, time: Time) -> bool {
        self.window.is_none_or(|(from, to)| match from < to {
            true => from <= time && time < to,
            false => time >= from || time < to,
        })
    }

    /// The first instant not before `at` at which the trigger may fire at all.
    pub fn opens(&self, at: Timestamp) -> Option<Timestamp> {
        let at = self.valid_from.map_or(at, |from| at.max(from));
        if self.is_over(at) {
            return None;
        }
        let local = self.zone.to_datetime(to_jiff(at)?);
        if self.holds_time(local.time()) {
            return Some(at);
        }
        let opens = self.opens_after(local)?;
        (!self.is_over(opens)).then_some(opens)
    }

    /// When the window opens after a local time outside of it. A beginning that the clock leaps over is after the gap.
    fn opens_after(&self, local: DateTime) -> Option<Timestamp> {
        let (from, _) = self.window?;
        let date = if local.time() < from { local.date() } else { local.date().tomorrow().ok()? };
        let zoned = self.zone.to_ambiguous_zoned(date.to_datetime(from)).compatible().ok()?;
        Some(from_jiff(zoned.timestamp()))
    }

    pub fn is_over(&self, at: Timestamp) -> bool {
        self.valid_to.is_some_and(|to| at >= to)
    }

    /// Year and month of an instant by the clock of the zone, as one number.
    pub fn month(&self, at: Timestamp) -> u32 {
        let local = to_jiff(at).map(|at| self.zone.to_datetime(at)).unwrap_or_default();
        u32::try_from(i32::from(local.year()) * 12 + i32::from(local.month())).unwrap_or_default()
    }
}

impl Timetable {
    /// The schedule of these settings, and the dialect as it was understood. Intervals are counted from `anchor`.
    pub fn of(
        schedule: &Schedule,
        span: Span,
        anchor: Timestamp,
        calendar: Option<(Calendar, NonWorkingDays)>,
    ) -> Result<(Self, CronDialect), Vec<Fault>> {
        let (pace, dialect) = match (&schedule.cron, schedule.interval_seconds, &schedule.monthly) {
            (Some(cron), None, None) => {
                let pattern = cron_pattern(cron, schedule.dialect).map_err(|text| vec![("/schedule/cron", text)])?;
                let dialect = match pattern.dialect {
                    Dialect::Unix => CronDialect::Unix,
                    Dialect::Quartz => CronDialect::Quartz,
                };
                (Pace::Wall(wall(schedule, &span, Pattern::Cron(Box::new(pattern)), calendar)), dialect)
            }
            (None, Some(seconds), None) => {
                if !(1..=31_536_000).contains(&seconds) {
                    return Err(vec![("/schedule/interval_seconds", "must be from 1 to 31536000".to_owned())]);
                }
                let anchor = to_jiff(span.valid_from.unwrap_or(anchor)).unwrap_or_default();
                let calendar = calendar.map(|(calendar, _)| calendar);
                (Pace::Interval { anchor, seconds, calendar }, CronDialect::Auto)
            }
            (None, None, Some(monthly)) => {
                let wrong = || vec![("/schedule/monthly/at", "must have the form HH:MM".to_owned())];
                let at = minute(&monthly.at).ok_or_else(wrong)?;
                let day = match monthly.day {
                    MonthDay::Nth(day) => DayOfMonth::Nth(day),
                    MonthDay::Last => DayOfMonth::Last,
                };
                let pattern = Pattern::Monthly { day, working: monthly.working, at };
                (Pace::Wall(wall(schedule, &span, pattern, calendar)), CronDialect::Auto)
            }
            _ => {
                let text = "give exactly one of cron, interval_seconds and monthly".to_owned();
                return Err(vec![("/schedule", text)]);
            }
        };
        Ok((Self { pace, span }, dialect))
    }

    pub fn span(&self) -> &Span {
        &self.span
    }

    /// The first fire later than `after`.
    pub fn next_after(&self, after: Timestamp) -> Option<PlannedFire> {
        let mut after = after;
        if let Some(from) = self.span.valid_from
            && after < from
        {
            after = Timestamp::from_millis(from.millis() - 1);
        }
        let last = after.plus_seconds(MAX_WINDOW_YEARS * 366 * 86_400);
        for step in 0..MAX_WINDOW_STEPS {
            let found = self.pace_after(after)?;
            let at = from_jiff(found.at);
            if self.span.is_over(at) || (step > 0 && at > last) {
                return None;
            }
            if let Pace::Interval { calendar: Some(calendar), .. } = &self.pace
                && !calendar.is_working_day(found.local.date())
            {
                let midnight = found.local.date().tomorrow().ok()?.to_datetime(Time::midnight());
                let opens = self.span.zone.to_ambiguous_zoned(midnight).compatible().ok()?.timestamp();
                after = Timestamp::from_millis(from_jiff(opens).millis() - 1).max(at);
                continue;
            }
            if self.span.holds_time(found.local.time()) {
                return Some(planned(&found));
            }
            // A fire at the very opening is still to be found.
            after = Timestamp::from_millis(self.span.opens_after(found.local)?.millis() - 1).max(at);
        }
        None
    }

    fn pace_after(&self, after: Timestamp) -> Option<Occurrence> {
        let after = to_jiff(after)?;
        match &self.pace {
            Pace::Wall(schedule) => schedule.next_after(after),
            Pace::Interval { anchor, seconds, .. } => {
                let at = next_interval(*anchor, *seconds, after)?;
                let offset = self.span.zone.to_offset(at);
                Some(Occurrence { at, local: offset.to_datetime(at), offset, note: None })
            }
        }
    }

    /// The schedule in plain words.
    pub fn in_words(&self, schedule: &Schedule, language: Language) -> String {
        let pattern = match &self.pace {
            Pace::Wall(wall) => Some(&wall.pattern),
            Pace::Interval { .. } => None,
        };
        match (pattern, &schedule.monthly) {
            (Some(Pattern::Cron(pattern)), _) => match language {
                Language::English => pattern.in_words(),
                Language::Russian => words::in_russian(&pattern.cron),
            },
            (_, Some(monthly)) => monthly_in_words(monthly, language),
            _ => {
                let seconds = schedule.interval_seconds.unwrap_or_default();
                match language {
                    Language::English => format!("Every {seconds} seconds."),
                    Language::Russian => format!("Каждые {seconds} с."),
                }
            }
        }
    }
}

fn cron_pattern(text: &str, dialect: CronDialect) -> Result<CronPattern, String> {
    if text.chars().count() > MAX_CRON_CHARS {
        return Err(format!("longer than {MAX_CRON_CHARS} characters"));
    }
    let dialect = match dialect {
        CronDialect::Auto => None,
        CronDialect::Unix => Some(Dialect::Unix),
        CronDialect::Quartz => Some(Dialect::Quartz),
    };
    CronPattern::parse(text, dialect).map_err(|error| error.to_string())
}

/// A calendar as its resource has it; what is no date there is left out.
pub fn calendar_of(value: &resource::Calendar) -> Calendar {
    let dates = |texts: &[String]| texts.iter().filter_map(|text| text.parse().ok()).collect();
    let weekday = |day: &resource::Weekday| match day {
        resource::Weekday::Monday => Weekday::Monday,
        resource::Weekday::Tuesday => Weekday::Tuesday,
        resource::Weekday::Wednesday => Weekday::Wednesday,
        resource::Weekday::Thursday => Weekday::Thursday,
        resource::Weekday::Friday => Weekday::Friday,
        resource::Weekday::Saturday => Weekday::Saturday,
        resource::Weekday::Sunday => Weekday::Sunday,
    };
    Calendar {
        rest_days: value.rest_days.iter().map(weekday).collect(),
        holidays: dates(&value.holidays),
        working_days: dates(&value.working_days),
    }
}

/// The policy for days that are not worked on.
pub fn policy_of(policy: wire::NonWorkingDays) -> NonWorkingDays {
    match policy {
        wire::NonWorkingDays::Skip => NonWorkingDays::Skip,
        wire::NonWorkingDays::Before => NonWorkingDays::Before,
        wire::NonWorkingDays::After => NonWorkingDays::After,
    }
}

fn wall(
    schedule: &Schedule,
    span: &Span,
    pattern: Pattern,
    calendar: Option<(Calendar, NonWorkingDays)>,
) -> Box<WallSchedule> {
    let missing_hour = match schedule.missing_hour {
        wire::MissingHour::RunAfter => MissingHour::RunAfter,
        wire::MissingHour::Skip => MissingHour::Skip,
    };
    let repeated_hour = match schedule.repeated_hour {
        wire::RepeatedHour::First => RepeatedHour::First,
        wire::RepeatedHour::Second => RepeatedHour::Second,
        wire::RepeatedHour::Both => RepeatedHour::Both,
    };
    Box::new(WallSchedule { pattern, zone: span.zone.clone(), missing_hour, repeated_hour, calendar })
}

fn offset_text(seconds: i32) -> String {
    let (sign, minutes) = (if seconds < 0 { '-' } else { '+' }, seconds.abs() / 60);
    format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}

fn planned(found: &Occurrence) -> PlannedFire {
    PlannedFire {
        at: from_jiff(found.at),
        local: found.local.strftime("%Y-%m-%dT%H:%M:%S").to_string(),
        offset: offset_text(found.offset.seconds()),
        note: found.note.map(|note| match note {
            Note::MissingHour => FireNote::MissingHour,
            Note::RepeatedHour => FireNote::RepeatedHour,
            Note::MovedByCalendar => FireNote::MovedByCalendar,
        }),
    }
}

fn monthly_in_words(monthly: &wire::Monthly, language: Language) -> String {
    let at = &monthly.at;
    match (language, monthly.day, monthly.working) {
        (Language::English, MonthDay::Last, false) => format!("At {at}, on the last day of the month."),
        (Language::English, MonthDay::Last, true) => format!("At {at}, on the last working day of the month."),
        (Language::English, MonthDay::Nth(day), false) => format!("At {at}, on day {day} of the month."),
        (Language::English, MonthDay::Nth(day), true) => format!("At {at}, on working day {day} of the month."),
        (Language::Russian, MonthDay::Last, false) => format!("В {at}, в последний день месяца."),
        (Language::Russian, MonthDay::Last, true) => format!("В {at}, в последний рабочий день месяца."),
        (Language::Russian, MonthDay::Nth(day), false) => format!("В {at}, {day}-го числа месяца."),
        (Language::Russian, MonthDay::Nth(day), true) => format!("В {at}, в {day}-й рабочий день месяца."),
    }
}
