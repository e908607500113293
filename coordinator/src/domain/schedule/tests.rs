//! Cases that people ask about. That the fires of all zones are right is judged by another implementation, see
//! `tests/schedules.rs`.

use drover_protocol::trigger::{CronDialect, FireNote, MonthDay, Monthly, PlannedFire, Schedule, Window};
use jiff::tz::TimeZoneDatabase;

use super::*;

type Wire = drover_protocol::Timestamp;

fn at(text: &str) -> Wire {
    text.parse().expect("it is a time")
}

fn cron(pattern: &str, zone: &str) -> Schedule {
    Schedule { cron: Some(pattern.to_owned()), time_zone: zone.to_owned(), ..Schedule::default() }
}

fn table(schedule: &Schedule, window: Option<(&str, &str)>) -> Timetable {
    let window = window.map(|(from, to)| Window { from: from.to_owned(), to: to.to_owned() });
    let span = Span::of((&schedule.time_zone, "/time_zone"), (None, None), window.as_ref()).expect("a span");
    Timetable::of(schedule, span, at("2026-01-01T00:00:00Z"), None).expect("a schedule").0
}

fn fires(table: &Timetable, after: &str, count: usize) -> Vec<PlannedFire> {
    let next = |fire: &PlannedFire| table.next_after(fire.at);
    std::iter::successors(table.next_after(at(after)), next).take(count).collect()
}

fn locals(fires: &[PlannedFire]) -> Vec<&str> {
    fires.iter().map(|fire| fire.local.as_str()).collect()
}

#[test]
fn a_missing_hour_runs_after_the_gap_or_is_skipped() {
    let mut schedule = cron("30 2 * * *", "Europe/Berlin");
    let found = fires(&table(&schedule, None), "2026-03-28T12:00:00Z", 2);
    assert_eq!(locals(&found), ["2026-03-29T03:00:00", "2026-03-30T02:30:00"]);
    assert_eq!((found[0].at, found[0].note), (at("2026-03-29T01:00:00Z"), Some(FireNote::MissingHour)));
    assert_eq!((found[0].offset.as_str(), found[1].note), ("+02:00", None));
    schedule.missing_hour = drover_protocol::trigger::MissingHour::Skip;
    assert_eq!(locals(&fires(&table(&schedule, None), "2026-03-28T12:00:00Z", 1)), ["2026-03-30T02:30:00"]);
}

#[test]
fn a_repeated_hour_runs_as_often_as_is_wanted() {
    use drover_protocol::trigger::RepeatedHour as Wanted;
    let wanted = [
        (Wanted::First, vec!["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]),
        (Wanted::Second, vec!["2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"]),
        (Wanted::Both, vec!["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"]),
    ];
    for (repeated_hour, instants) in wanted {
        let schedule = Schedule { repeated_hour, ..cron("30 2 * * *", "Europe/Berlin") };
        let found = fires(&table(&schedule, None), "2026-10-24T12:00:00Z", 2);
        assert_eq!(
            found.iter().map(|fire| fire.at).collect::<Vec<_>>(),
            instants.into_iter().map(at).collect::<Vec<_>>()
        );
        assert_eq!(found[0].note, Some(FireNote::RepeatedHour));
    }
}

#[test]
fn offsets_are_written_with_their_sign_and_minutes() {
    let offset =
        |zone: &str| fires(&table(&cron("0 0 * * *", zone), None), "2026-01-10T00:00:00Z", 1)[0].offset.clone();
    assert_eq!(offset("Asia/Kolkata"), "+05:30");
    assert_eq!(offset("America/St_Johns"), "-03:30");
    assert_eq!(offset("UTC"), "+00:00");
}

#[test]
fn the_number_of_fields_decides_how_days_are_numbered() {
    let weekday =
        |pattern: &str| fires(&table(&cron(pattern, "UTC"), None), "2026-11-22T12:00:00Z", 1)[0].local.clone();
    // The 23rd of November 2026 is a Monday.
    assert_eq!(weekday("0 6 * * 1"), "2026-11-23T06:00:00");
    assert_eq!(weekday("0 0 6 ? * 2"), "2026-11-23T06:00:00");
    assert_eq!(weekday("0 6 * * 7"), "2026-11-29T06:00:00");
    assert_eq!(weekday("0 0 6 ? * 1"), "2026-11-29T06:00:00");
    let dialect = |schedule: &Schedule| {
        let span = Span::of(("UTC", "/time_zone"), (None, None), None).expect("a span");
        Timetable::of(schedule, span, at("2026-01-01T00:00:00Z"), None).map(|(_, dialect)| dialect)
    };
    assert_eq!(dialect(&cron("0 6 * * 1", "UTC")).ok(), Some(CronDialect::Unix));
    assert_eq!(dialect(&cron("0 0 6 ? * 1", "UTC")).ok(), Some(CronDialect::Quartz));
    let unix = Schedule { dialect: CronDialect::Unix, ..cron("0 0 6 * * 1", "UTC") };
    assert_eq!(dialect(&unix).ok(), Some(CronDialect::Unix));
    for wrong in ["0 6 * *", "0 0 6 1 * 1", "61 * * * *", "", "a b c d e"] {
        assert!(dialect(&cron(wrong, "UTC")).is_err(), "{wrong}");
    }
}

#[test]
fn a_window_may_cross_midnight_and_begins_with_its_first_minute() {
    let night = table(&cron("0 * * * *", "Europe/Berlin"), Some(("22:00", "01:00")));
    let found = fires(&night, "2026-06-01T12:00:00Z", 5);
    let hours: Vec<&str> = found.iter().map(|fire| &fire.local[11..13]).collect();
    assert_eq!(hours, ["22", "23", "00", "22", "23"]);
    let every_second = table(&cron("* * * * * *", "UTC"), Some(("09:00", "09:01")));
    assert_eq!(
        locals(&fires(&every_second, "2026-06-01T09:00:58Z", 2)),
        ["2026-06-01T09:00:59", "2026-06-02T09:00:00"]
    );
    let never = table(&cron("0 3 * * *", "UTC"), Some(("09:00", "10:00")));
    assert_eq!(never.next_after(at("2026-06-01T00:00:00Z")), None);
}

#[test]
fn working_days_of_a_month_are_counted() {
    let monthly = |day, working| {
        let monthly = Monthly { day, working, at: "06:30".to_owned() };
        table(&Schedule { monthly: Some(monthly), ..Schedule::default() }, None)
    };
    // The 31st of January 2026 is a Saturday, the 1st of February a Sunday.
    let last = monthly(MonthDay::Last, true);
    assert_eq!(locals(&fires(&last, "2026-01-15T00:00:00Z", 1)), ["2026-01-30T06:30:00"]);
    let first = monthly(MonthDay::Nth(1), true);
    assert_eq!(locals(&fires(&first, "2026-01-15T00:00:00Z", 1)), ["2026-02-02T06:30:00"]);
    let thirty_first = monthly(MonthDay::Nth(31), false);
    assert_eq!(
        locals(&fires(&thirty_first, "2026-02-01T00:00:00Z", 2)),
        ["2026-03-31T06:30:00", "2026-05-31T06:30:00"]
    );
}

#[test]
fn a_calendar_moves_fires_to_its_working_days() {
    let calendar = Calendar { holidays: ["2026-12-25".parse().expect("a day")].into(), ..Calendar::weekdays() };
    let found = |non_working| {
        let schedule = WallSchedule {
            pattern: Pattern::Cron(Box::new(CronPattern::parse("0 9 25 12 *", None).expect("a pattern"))),
            zone: TimeZoneDatabase::bundled().get("UTC").expect("UTC is there"),
            missing_hour: MissingHour::RunAfter,
            repeated_hour: RepeatedHour::First,
            calendar: Some((calendar.clone(), non_working)),
        };
        let fire = schedule.next_after("2026-12-01T00:00:00Z".parse().expect("a time")).expect("there is one");
        (fire.local.to_string(), fire.note)
    };
    // The 25th is a Friday: the next working day is the 28th.
    assert_eq!(found(NonWorkingDays::Before), ("2026-12-24T09:00:00".to_owned(), Some(Note::MovedByCalendar)));
    assert_eq!(found(NonWorkingDays::After), ("2026-12-28T09:00:00".to_owned(), Some(Note::MovedByCalendar)));
    assert_eq!(found(NonWorkingDays::Skip).0, "2028-12-25T09:00:00");
}

/// Days between rare times are leapt over: the same is found as by going through all of them.
#[test]
fn leaping_over_days_misses_none() {
    let text = |text: &str| text.parse().expect("a day");
    let long_rest: BTreeSet<Date> = (1..=40).map(|day| days_from(text("2027-12-20"), day)).collect();
    let calendars = [
        Calendar::weekdays(),
        Calendar { holidays: long_rest, ..Calendar::weekdays() },
        Calendar { rest_days: vec![Weekday::Monday], working_days: [text("2027-03-01")].into(), ..Calendar::default() },
    ];
    let patterns = ["0 9 29 2 *", "0 9 1 1 *", "30 8 * * 6", "0 9,17 31 * *", "*/20 7 1-3 1,12 *", "0 0 L * *"];
    for pattern in patterns {
        let pattern = Pattern::Cron(Box::new(CronPattern::parse(pattern, None).expect("a pattern")));
        for calendar in &calendars {
            for policy in [NonWorkingDays::Skip, NonWorkingDays::Before, NonWorkingDays::After] {
                let schedule = WallSchedule {
                    pattern: pattern.clone(),
                    zone: TimeZone::UTC,
                    missing_hour: MissingHour::RunAfter,
                    repeated_hour: RepeatedHour::First,
                    calendar: Some((calendar.clone(), policy)),
                };
                for step in 0..10 {
                    let from = days_from(text("2026-11-29"), step * 61).at(8, 35, 0, 0);
                    assert_eq!(schedule.next_wall(from), day_by_day(&schedule, from), "{schedule:?} from {from}");
                }
            }
        }
    }
}

/// What [`WallSchedule::next_wall`] gives, in the simplest way.
fn day_by_day(schedule: &WallSchedule, from: DateTime) -> Option<(DateTime, bool)> {
    let (calendar, policy) = schedule.calendar.as_ref()?;
    let mut at = from;
    while at.date() <= days_from(from.date(), HORIZON_DAYS) {
        let time_on = |source: Date| {
            let found = schedule.next_nominal(source.to_datetime(at.time()))?;
            (found.date() == source).then_some((found.time(), source != at.date()))
        };
        if calendar.is_working_day(at.date())
            && let Some((time, moved)) = sources(calendar, *policy, at.date()).filter_map(time_on).min()
        {
            return Some((at.date().to_datetime(time), moved));
        }
        at = at.date().tomorrow().ok()?.to_datetime(Time::midnight());
    }
    None
}

#[test]
fn what_no_clock_shows_never_fires() {
    for pattern in ["0 6 30 2 *", "0 6 31 4 *", "0 0 6 31 2 ? 2027", "0 0 6 1 1 ? 2020"] {
        for zone in ["UTC", "Europe/Berlin"] {
            let never = table(&cron(pattern, zone), None);
            assert_eq!(never.next_after(at("2026-11-29T00:00:00Z")), None, "{pattern}");
        }
    }
    let leap_day = table(&cron("0 6 29 2 *", "Europe/Berlin"), None);
    let found = fires(&leap_day, "2096-03-01T00:00:00Z", 1);
    assert_eq!(locals(&found), ["2104-02-29T06:00:00"], "2100 is no leap year");
    let never = table(&cron("0 6 29 2 *", "Europe/Berlin"), Some(("09:00", "10:00")));
    assert_eq!(never.next_after(at("2026-11-29T00:00:00Z")), None);
}

#[test]
fn intervals_are_counted_from_their_anchor() {
    let schedule = Schedule { interval_seconds: Some(90), ..Schedule::default() };
    let found = fires(&table(&schedule, None), "2026-01-01T00:00:00Z", 2);
    assert_eq!(locals(&found), ["2026-01-01T00:01:30", "2026-01-01T00:03:00"]);
}

#[test]
fn validity_bounds_the_fires() {
    let schedule = cron("0 * * * *", "UTC");
    let valid = (Some(at("2026-01-02T00:00:00Z")), Some(at("2026-01-02T02:00:00Z")));
    let span = Span::of(("UTC", "/time_zone"), valid, None).expect("a span");
    let (table, _) = Timetable::of(&schedule, span, at("2026-01-01T00:00:00Z"), None).expect("a schedule");
    assert_eq!(locals(&fires(&table, "2026-01-01T05:00:00Z", 9)), ["2026-01-02T00:00:00", "2026-01-02T01:00:00"]);
    assert!(Span::of(("Mars/Olympus", "/time_zone"), (None, None), None).is_err());
}
