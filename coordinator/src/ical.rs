//! Calendars as iCalendar (RFC 5545): holidays are events of whole days.
//!
//! What cannot be understood for certain is refused with the reason, never read wrongly: a calendar that lacks a holiday
//! runs a payment on it. Yearly events on a fixed date are written out as dates, for as many years as is said here.

use drover_protocol::resource::{Calendar, Weekday};
use icalendar::parser::Property;
use jiff::{ToSpan, civil::Date};

/// The largest file, in bytes.
pub const MAX_BYTES: usize = 1024 * 1024;
pub const MEDIA_TYPE: &str = "text/calendar";
/// Yearly events without an end are written out for so many years after the current one.
const YEARS_AHEAD: i16 = 10;
const MAX_EVENT_DAYS: i32 = 366;
const MAX_DAYS: usize = 20_000;
const CALENDAR: &str = "VCALENDAR";
const EVENT: &str = "VEVENT";
const REST_DAYS: &str = "X-DROVER-REST-DAYS";
const WORKING_DAY: &str = "X-DROVER-WORKING-DAY";
const CODES: [(&str, Weekday); 7] = [
    ("MO", Weekday::Monday),
    ("TU", Weekday::Tuesday),
    ("WE", Weekday::Wednesday),
    ("TH", Weekday::Thursday),
    ("FR", Weekday::Friday),
    ("SA", Weekday::Saturday),
    ("SU", Weekday::Sunday),
];

/// What a file says. What it does not say stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    pub holidays: Vec<String>,
    pub rest_days: Option<Vec<Weekday>>,
    pub working_days: Option<Vec<String>>,
}

impl Imported {
    /// The calendar that comes of it.
    pub fn onto(self, calendar: Calendar) -> Calendar {
        Calendar {
            rest_days: self.rest_days.unwrap_or(calendar.rest_days),
            holidays: self.holidays,
            working_days: self.working_days.unwrap_or(calendar.working_days),
        }
    }
}

/// The text of a file with its folded lines joined; absent if it is not UTF-8. Lines may be folded within a letter, so that
/// only what is joined is text (RFC 5545, 3.1). Every line ends with a line feed: files that went through several hands have
/// lines of several ends.
pub fn unfolded(bytes: &[u8]) -> Option<String> {
    let mut joined = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((byte, after)) = rest.split_first() {
        let ends = [b"\r\r\n".as_slice(), b"\r\n", b"\r", b"\n"];
        match ends.iter().find_map(|end| rest.strip_prefix(*end)) {
            Some([b' ' | b'\t', folded @ ..]) => rest = folded,
            Some(next) => {
                joined.push(b'\n');
                rest = next;
            }
            None => {
                joined.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8(joined).ok()
}

/// Reads the unfolded text of a file; the reason if it cannot be read for certain. `year` is the current one.
pub fn read(text: &str, year: i16) -> Result<Imported, String> {
    let contents = Contents::of(text.trim_start_matches('\u{feff}'))?;
    let mut found = Imported { rest_days: contents.rest_days()?, ..Imported::default() };
    if contents.events.is_empty() && found.rest_days.is_none() {
        return Err(format!("it has no {EVENT}, and would leave no holiday"));
    }
    let mut working_days = Vec::new();
    for event in contents.events {
        if event.text("STATUS").is_some_and(|status| is(status, "CANCELLED")) {
            continue;
        }
        let days = event.days(year).map_err(|reason| format!("event {}: {reason}", event.name()))?;
        let list = if event.property(WORKING_DAY).is_some() { &mut working_days } else { &mut found.holidays };
        list.extend(days.iter().map(Date::to_string));
        if found.holidays.len() + working_days.len() > MAX_DAYS {
            return Err(format!("it has more than {MAX_DAYS} days"));
        }
    }
    if found.rest_days.is_some() || !working_days.is_empty() {
        found.working_days = Some(working_days);
    }
    Ok(found)
}

fn is(text: &str, word: &str) -> bool {
    text.eq_ignore_ascii_case(word)
}

/// What stands in a file: the properties of its calendars themselves, and their events.
#[derive(Default)]
struct Contents<'a> {
    properties: Vec<Property<'a>>,
    events: Vec<Event<'a>>,
}

impl<'a> Contents<'a> {
    /// Several calendars in one file are one. What is in an event (its alarms), and parts of other kinds (time zones), say
    /// nothing of holidays.
    fn of(text: &'a str) -> Result<Self, String> {
        let mut found = Self::default();
        let mut parts: Vec<&str> = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let (word, name) = line.split_once(':').map_or((line, ""), |(word, name)| (word, name.trim()));
            if is(word, "BEGIN") {
                if is(name, CALENDAR) != parts.is_empty() || (is(name, EVENT) && parts.len() != 1) {
                    return Err(format!("it is not an iCalendar file: {} begins where it cannot", shown(name)));
                }
                parts.push(name);
                found.events.extend(is(name, EVENT).then(Event::default));
            } else if is(word, "END") {
                if !parts.pop().is_some_and(|begun| is(begun, name)) {
                    return Err(format!("it is not an iCalendar file: {} ends where it cannot", shown(name)));
                }
            } else {
                found.add(&parts, line)?;
            }
        }
        match parts.last() {
            Some(part) => Err(format!("it is cut off: {} does not end", shown(part))),
            None => Ok(found),
        }
    }

    /// Takes the property in that stands in this line, if it is one of a calendar or of an event.
    fn add(&mut self, parts: &[&str], line: &'a str) -> Result<(), String> {
        let properties = match (parts, self.events.last_mut()) {
            ([], _) => return Err(format!("it is not an iCalendar file, which begins with BEGIN:{CALENDAR}")),
            ([_], _) => &mut self.properties,
            ([_, part], Some(event)) if is(part, EVENT) => &mut event.properties,
            _ => return Ok(()),
        };
        properties.push(property(line).ok_or_else(|| format!("the line {} is not understood", shown(line)))?);
        Ok(())
    }

    fn rest_days(&self) -> Result<Option<Vec<Weekday>>, String> {
        let mut said = self.properties.iter().filter(|property| is(property.name.as_str(), REST_DAYS));
        match (said.next(), said.next()) {
            (Some(_), Some(_)) => Err(format!("it says {REST_DAYS} more than once")),
            (property, _) => property.map(read_rest_days).transpose(),
        }
    }
}

/// The property of a line. The crate takes what it understands of a line and leaves the rest unsaid.
fn property(line: &str) -> Option<Property<'_>> {
    let property = Property::try_from(line).ok()?;
    let (name, value) = (property.name.as_str(), property.val.as_str());
    let is_whole =
        line.get(name.len()..)?.starts_with([':', ';']) && (!value.is_empty() || line.trim_end().ends_with(':'));
    (!name.is_empty() && is_whole).then_some(property)
}

/// The beginning of a text from a file, for a message.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

fn read_rest_days(property: &Property) -> Result<Vec<Weekday>, String> {
    let day = |code: &str| CODES.iter().find(|(known, _)| is(code.trim(), known)).map(|(_, day)| *day);
    let codes = property.val.as_str().split(',').filter(|code| !code.trim().is_empty());
    codes.map(|code| day(code).ok_or_else(|| format!("{REST_DAYS} has no day {code}"))).collect()
}

#[derive(Default)]
struct Event<'a> {
    properties: Vec<Property<'a>>,
}

impl Event<'_> {
    fn property(&self, name: &str) -> Option<&Property<'_>> {
        self.properties.iter().find(|property| is(property.name.as_str(), name))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.property(name).map(|property| property.val.as_str().trim())
    }

    /// How people recognise it.
    fn name(&self) -> String {
        shown(self.text("SUMMARY").or_else(|| self.text("UID")).unwrap_or("without a name"))
    }

    /// All of its days.
    fn days(&self, year: i16) -> Result<Vec<Date>, String> {
        for unsure in ["RECURRENCE-ID", "RDATE", "EXRULE"] {
            if self.property(unsure).is_some() {
                return Err(format!("{unsure} is not understood; write its days as events of their own"));
            }
        }
        let start = self.property("DTSTART").ok_or("it has no DTSTART")?;
        let start = date(start.val.as_str())?;
        let length = self.length(start)?;
        let mut starts = match self.repeated()? {
            Some(rule) => yearly(rule, start, year)?,
            None => vec![start],
        };
        let excluded = self.excluded()?;
        starts.retain(|start| !excluded.contains(start));
        let day =
            |start: Date, after: i32| start.checked_add(after.days()).map_err(|_| "it is too far away".to_owned());
        starts.into_iter().flat_map(|start| (0..length).map(move |after| day(start, after))).collect()
    }

    /// How many days it lasts: its end is the first day that is not of it.
    fn length(&self, start: Date) -> Result<i32, String> {
        let days = match (self.text("DTEND"), self.text("DURATION")) {
            (Some(end), _) => (date(end)? - start).get_days(),
            (None, Some(duration)) => whole_days(duration)?,
            (None, None) => 1,
        };
        // Some programs write the day itself as its end.
        match days {
            0 => Ok(1),
            1..=MAX_EVENT_DAYS => Ok(days),
            _ => Err(format!("it lasts {days} days")),
        }
    }

    fn repeated(&self) -> Result<Option<&str>, String> {
        let rules = self.properties.iter().filter(|property| is(property.name.as_str(), "RRULE"));
        match rules.count() {
            0 | 1 => Ok(self.text("RRULE")),
            _ => Err("it has several rules of repetition".to_owned()),
        }
    }

    fn excluded(&self) -> Result<Vec<Date>, String> {
        let properties = self.properties.iter().filter(|property| is(property.name.as_str(), "EXDATE"));
        properties.flat_map(|property| property.val.as_str().split(',').map(date)).collect()
    }
}

/// A date of the form `20260101`. A time of day is refused: a holiday is a whole day.
fn date(text: &str) -> Result<Date, String> {
    let text = text.trim();
    if text.contains(['T', 't']) {
        return Err(format!("{text} is a time of day; only whole days are holidays (VALUE=DATE)"));
    }
    let wrong = || format!("{text:?} is not a date such as 20260101");
    if text.len() != 8 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number = |range: std::ops::Range<usize>| text[range].parse::<i16>().map_err(|_| wrong());
    let (month, day) = (number(4..6)?, number(6..8)?);
    let part = |number: i16| i8::try_from(number).map_err(|_| wrong());
    Date::new(number(0..4)?, part(month)?, part(day)?).ok().filter(|date| date.year() >= 1970).ok_or_else(wrong)
}

/// `P1D` or `P2W`, with a plus before it or without.
fn whole_days(text: &str) -> Result<i32, String> {
    let wrong = || format!("its DURATION {text} is not one of whole days");
    let number = text.strip_prefix('+').unwrap_or(text).strip_prefix('P').ok_or_else(wrong)?;
    let (number, factor) = match (number.strip_suffix('D'), number.strip_suffix('W')) {
        (Some(number), _) => (number, 1),
        (_, Some(number)) => (number, 7),
        _ => return Err(wrong()),
    };
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    number.parse::<i32>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(wrong)
}

/// The starts of an event that comes every year on the same date. February 29 is skipped in years without one, as the
/// standard says.
fn yearly(rule: &str, start: Date, year: i16) -> Result<Vec<Date>, String> {
    let mut rest = Rest { interval: 1, ..Rest::default() };
    let mut is_yearly = false;
    for part in rule.split(';').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').ok_or_else(|| not_understood(rule))?;
        let number = || value.parse::<u16>().ok().filter(|number| *number > 0).ok_or_else(|| not_understood(rule));
        match name.to_ascii_uppercase().as_str() {
            "FREQ" => is_yearly = is(value, "YEARLY"),
            "INTERVAL" => rest.interval = number()?,
            "COUNT" => rest.count = Some(number()?),
            "UNTIL" => rest.until = Some(date(value.split(['T', 't']).next().unwrap_or_default())?),
            "BYMONTH" if value.parse() == Ok(start.month()) => {}
            "BYMONTHDAY" if value.parse() == Ok(start.day()) => rest.by_day_of_month = true,
            // The first day of the week matters for weekly rules only.
            "WKST" => {}
            _ => return Err(not_understood(rule)),
        }
    }
    // A day of the month without a month would be one of every month.
    let has_month = rule.to_ascii_uppercase().contains("BYMONTH=");
    if !is_yearly || (rest.by_day_of_month && !has_month) {
        return Err(not_understood(rule));
    }
    let last = year.saturating_add(YEARS_AHEAD);
    if start.year() > last {
        return Err(format!("it begins in {}, and yearly ones are written out up to {last}", start.year()));
    }
    let mut starts = Vec::new();
    let mut at = start.year();
    while at <= last && rest.count.is_none_or(|count| starts.len() < usize::from(count)) {
        if let Ok(date) = Date::new(at, start.month(), start.day()) {
            if rest.until.is_some_and(|until| date > until) {
                break;
            }
            starts.push(date);
        }
        at = at.saturating_add(i16::try_from(rest.interval).unwrap_or(i16::MAX));
    }
    Ok(starts)
}

#[derive(Default)]
struct Rest {
    interval: u16,
    count: Option<u16>,
    until: Option<Date>,
    by_day_of_month: bool,
}

fn not_understood(rule: &str) -> String {
    format!(
        "the repetition {:?} is not understood: only yearly ones on the date of the event are; write its days as events \
         of their own",
        rule.chars().take(200).collect::<String>()
    )
}

/// Writes a calendar: every holiday an event of a whole day; what iCalendar has no words for, in words of our own, which
/// [`read`] understands. `stamp` is the time of the last change, as `20261123T080000Z`.
pub fn write(name: &str, calendar: &Calendar, stamp: &str) -> String {
    let codes = calendar.rest_days.iter().filter_map(|day| CODES.iter().find(|(_, known)| known == day));
    let codes: Vec<&str> = codes.map(|(code, _)| *code).collect();
    let mut lines = vec![
        "BEGIN:VCALENDAR".to_owned(),
        "VERSION:2.0".to_owned(),
        "PRODID:-//Drover//Calendar//EN".to_owned(),
        format!("X-WR-CALNAME:{}", escaped(name)),
        format!("{REST_DAYS}:{}", codes.join(",")),
    ];
    let days = calendar.holidays.iter().map(|day| (day, false));
    for (day, works) in days.chain(calendar.working_days.iter().map(|day| (day, true))) {
        let compact = day.replace('-', "");
        let (kind, summary) = if works { ("working-day", "Working day") } else { ("holiday", "Holiday") };
        lines.extend([
            "BEGIN:VEVENT".to_owned(),
            format!("UID:{kind}-{compact}@drover"),
            format!("DTSTAMP:{stamp}"),
            format!("DTSTART;VALUE=DATE:{compact}"),
            format!("SUMMARY:{summary}"),
            "TRANSP:TRANSPARENT".to_owned(),
        ]);
        lines.extend(works.then(|| format!("{WORKING_DAY}:TRUE")));
        lines.push("END:VEVENT".to_owned());
    }
    lines.push("END:VCALENDAR".to_owned());
    lines.iter().map(|line| folded(line)).collect()
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace(';', "\\;").replace(',', "\\,").replace(['\r', '\n'], " ")
}

/// A line of at most 75 bytes, continued in the next ones.
fn folded(line: &str) -> String {
    let mut out = String::with_capacity(line.len() + 2);
    let mut bytes = 0;
    for character in line.chars() {
        if bytes + character.len_utf8() > 74 {
            out.push_str("\r\n ");
            bytes = 1;
        }
        out.push(character);
        bytes += character.len_utf8();
    }
    out.push_str("\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(events: &str) -> String {
        format!("BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:x\r\n{events}END:VCALENDAR\r\n")
    }

    fn event(lines: &str) -> String {
        file(&format!("BEGIN:VEVENT\r\nUID:1\r\nSUMMARY:New Year\r\n{}\r\nEND:VEVENT\r\n", lines.replace('\n', "\r\n")))
    }

    fn read(file: &str, year: i16) -> Result<Imported, String> {
        super::read(&unfolded(file.as_bytes()).expect("it is text"), year)
    }

    fn holidays(lines: &str) -> Result<Vec<String>, String> {
        read(&event(lines), 2026).map(|found| found.holidays)
    }

    #[test]
    fn whole_days_are_read() {
        assert_eq!(holidays("DTSTART;VALUE=DATE:20260101"), Ok(vec!["2026-01-01".to_owned()]));
        let two = Ok(vec!["2026-12-25".to_owned(), "2026-12-26".to_owned()]);
        assert_eq!(holidays("DTSTART;VALUE=DATE:20261225\nDTEND;VALUE=DATE:20261227"), two);
        assert_eq!(holidays("DTSTART;VALUE=DATE:20261225\nDURATION:P2D"), two);
        assert_eq!(holidays("DTSTART;VALUE=DATE:20261225\nDURATION:+P2D"), two);
        assert_eq!(holidays("DTSTART;VALUE=DATE:20261225\nDTEND;VALUE=DATE:20261225").map(|days| days.len()), Ok(1));
        assert_eq!(holidays("DTSTART;VALUE=DATE:20260101\nSTATUS:CANCELLED"), Ok(vec![]));
        let over_months = holidays("DTSTART;VALUE=DATE:20261230\nDTEND;VALUE=DATE:20270202").map(|days| days.len());
        assert_eq!(over_months, Ok(34));
    }

    #[test]
    fn yearly_days_are_written_out() {
        let days = holidays("DTSTART;VALUE=DATE:20240101\nRRULE:FREQ=YEARLY").expect("it is understood");
        assert_eq!((days.len(), days[0].as_str(), days[12].as_str()), (13, "2024-01-01", "2036-01-01"));
        let leap = holidays("DTSTART;VALUE=DATE:20240229\nRRULE:FREQ=YEARLY;COUNT=3").expect("it is understood");
        assert_eq!(leap, ["2024-02-29", "2028-02-29", "2032-02-29"]);
        let until = "DTSTART;VALUE=DATE:20240501\nRRULE:FREQ=YEARLY;UNTIL=20260501;BYMONTH=5;BYMONTHDAY=1\n\
                     EXDATE;VALUE=DATE:20250501";
        assert_eq!(holidays(until), Ok(vec!["2024-05-01".to_owned(), "2026-05-01".to_owned()]));
        let every_other = "DTSTART;VALUE=DATE:20240501\nRRULE:FREQ=YEARLY;INTERVAL=2;UNTIL=20280601T000000Z";
        assert_eq!(holidays(every_other).map(|days| days.len()), Ok(3));
    }

    /// What is not understood for certain is refused with the name of the event.
    #[test]
    fn what_is_unsure_is_refused() {
        for bad in [
            "DTSTART:20260101T000000Z",
            "DTSTART;TZID=Europe/Moscow:20260101T090000",
            "DTSTART;VALUE=DATE:20260230",
            "DTSTART;VALUE=DATE:2026-01-01",
            "DTSTART;VALUE=DATE:20260102\nDTEND;VALUE=DATE:20260101",
            "DTSTART;VALUE=DATE:20260101\nDTEND;VALUE=DATE:20290101",
            "DTSTART;VALUE=DATE:20260101\nDURATION:PT8H",
            "DTSTART;VALUE=DATE:20260101\nDURATION:-P2D",
            "DTSTART;VALUE=DATE:20260101\nDURATION:++P2D",
            "DTSTART;VALUE=DATE:20260101\nDURATION:P+2D",
            "DTSTART;VALUE=DATE:20260101\nDURATION:PD",
            "DTSTART;VALUE=DATE:20261126\nRRULE:FREQ=YEARLY;BYMONTH=11;BYDAY=4TH",
            "DTSTART;VALUE=DATE:20261126\nRRULE:FREQ=YEARLY;BYMONTH=12",
            "DTSTART;VALUE=DATE:20261126\nRRULE:FREQ=YEARLY;BYMONTHDAY=26",
            "DTSTART;VALUE=DATE:20261126\nRRULE:FREQ=WEEKLY",
            "DTSTART;VALUE=DATE:20261126\nRRULE:FREQ=YEARLY;COUNT=0",
            "DTSTART;VALUE=DATE:20370101\nRRULE:FREQ=YEARLY",
            "DTSTART;VALUE=DATE:20261126\nRRULE:FREQ=YEARLY\nRRULE:FREQ=YEARLY;INTERVAL=2",
            "DTSTART;VALUE=DATE:20260101\nRDATE;VALUE=DATE:20260102",
            "DTSTART;VALUE=DATE:20260101\nRECURRENCE-ID;VALUE=DATE:20260101",
            "DESCRIPTION:no start",
        ] {
            let reason = holidays(bad).expect_err(bad);
            assert!(reason.contains("New Year"), "{bad}: {reason}");
        }
    }

    /// What is no whole calendar is refused: taken for one without events, it would clear the one that is there.
    #[test]
    fn what_is_no_calendar_is_refused() {
        let event = "BEGIN:VEVENT\nDTSTART;VALUE=DATE:20270101\nEND:VEVENT\n";
        let cases: &[(&str, &str)] = &[
            ("", "no VEVENT"),
            ("hello", "BEGIN:VCALENDAR"),
            ("BEGIN:VCARD\nVERSION:3.0\nEND:VCARD\n", "VCARD"),
            (event, "VEVENT"),
            (&file(""), "no VEVENT"),
            (&file("BEGIN:VTODO\nUID:1\nEND:VTODO\n"), "no VEVENT"),
            (&file(&file(event)), "VCALENDAR"),
            (&file(&format!("BEGIN:VEVENT\n{event}END:VEVENT\n")), "VEVENT"),
            ("BEGIN:VCALENDAR\nBEGIN:VEVENT\n", "cut off"),
            ("BEGIN:VCALENDAR\nBEGIN:VEVENT\nEND:VCALENDAR\n", "ends"),
            ("BEGIN:VCALENDAR\nEND:VCALENDAR\nEND:VCALENDAR\n", "ends"),
            (&file("BEGIN;X=1:VEVENT\nEND:VEVENT\n"), "not understood"),
            (&file(&event.replace("END:", "RRULE:FREQ=YEARLY;\nUNTIL=20280101\nEND:")), "not understood"),
            (&file(&event.replace("END:", "RRULE:FREQ=YEARLY\n;UNTIL=20280101\nEND:")), "not understood"),
            (&file(&event.replace("END:", "STATUS =x:CANCELLED\nEND:")), "not understood"),
            (&file(&event.replace("END:", "this is = garbage\nEND:")), "not understood"),
            (&file(&event.replace("END:", "=== whatever\nEND:")), "not understood"),
            (&file(&format!("{REST_DAYS}:SU\n{REST_DAYS}:SA\n")), "more than once"),
            (&format!("BEGIN:VCALENDAR\n{}", "B\n EGIN:A\n".repeat(100_000)), "cut off"),
        ];
        for (bad, reason) in cases {
            let refusal = read(bad, 2026).expect_err(reason);
            assert!(refusal.contains(reason), "{reason}: {refusal}");
        }
    }

    /// The same in lower case, with the ends of lines that other systems write, and in several calendars.
    #[test]
    fn a_calendar_may_be_written_in_many_ways() {
        let event = |day: &str| format!("BEGIN:VEVENT\r\nUID:1\r\nDTSTART;VALUE=DATE:{day}\r\nEND:VEVENT\r\n");
        let (first, second) = (event("20260501"), event("20260612"));
        let both = Ok(vec!["2026-05-01".to_owned(), "2026-06-12".to_owned()]);
        let whole = file(&format!("{first}{second}"));
        for written in [
            whole.to_lowercase(),
            whole.replace("\r\n", "\n"),
            whole.replace("\r\n", "\r"),
            whole.replace("UID:1", "SUMMARY:a long\r\n  name").replace("\r\n", "\r\r\n"),
            file(&format!("{}{second}", first.replace("\r\n", "\n"))),
            file(&format!("{first}{}", second.replace("\r\n", "\r"))),
            format!("{}\r\n{}", file(&first), file(&second)),
        ] {
            assert_eq!(read(&written, 2026).map(|found| found.holidays), both, "{written:?}");
        }
    }

    /// Lines are counted in bytes and may be folded within a letter: what is joined is text or not, and no byte is dropped
    /// or made up for that.
    #[test]
    fn lines_are_joined_before_they_are_text() {
        let text = "SUMMARY:День Победы\nX: €\n";
        for end in ["\n", "\r\n", "\r", "\r\r\n"] {
            for blank in [" ", "\t"] {
                for at in 1..text.len() {
                    let (begin, rest) = text.as_bytes().split_at(at);
                    // Where a line ends anyway, the next one would be part of it.
                    if begin.ends_with(b"\n") || rest.starts_with(b"\n") {
                        continue;
                    }
                    let folded = [begin, end.as_bytes(), blank.as_bytes(), rest].concat();
                    assert_eq!(unfolded(&folded).as_deref(), Some(text), "{end:?} {blank:?} at {at}");
                }
            }
        }
        let letter = "Д".as_bytes();
        for never in [
            b"\xff".to_vec(),
            letter[..1].to_vec(),
            [&letter[..1], b"\r\n"].concat(),
            [&letter[..1], b"\r\n ".as_slice()].concat(),
            [&letter[..1], b"\r\n".as_slice(), &letter[1..]].concat(),
            [&letter[..1], b"\r\n  ".as_slice(), &letter[1..]].concat(),
            [&letter[1..], b"\r\n ".as_slice(), &letter[..1]].concat(),
        ] {
            assert_eq!(unfolded(&never), None, "{never:?}");
        }
        assert_eq!(unfolded(b"a\r\n").as_deref(), Some("a\n"));
    }

    /// What is written is read as the same calendar.
    #[test]
    fn an_exported_calendar_is_read_as_it_was() {
        let calendar = Calendar {
            rest_days: vec![Weekday::Saturday, Weekday::Sunday],
            holidays: vec!["2026-01-01".to_owned(), "2026-05-09".to_owned()],
            working_days: vec!["2026-11-01".to_owned()],
        };
        let empty = read(&write("none", &Calendar::default(), "20261123T080000Z"), 2026).expect("it is understood");
        assert_eq!(empty.onto(calendar.clone()), Calendar::default());
        let text = write("Праздники; и, выходные ".repeat(9).trim(), &calendar, "20261123T080000Z");
        assert!(text.lines().all(|line| line.len() <= 75), "{text}");
        let read = read(&text, 2026).expect("it is understood");
        assert_eq!(read.onto(Calendar::default()), calendar);
        let foreign = Imported { holidays: vec!["2027-01-01".to_owned()], ..Imported::default() };
        let kept = foreign.onto(calendar.clone());
        assert_eq!((kept.rest_days, kept.working_days), (calendar.rest_days, calendar.working_days));
    }
}
