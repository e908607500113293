//! A cron pattern in plain Russian. The English words are those of `croner`.

use croner::{Cron, describe::Language};

/// The words of a language other than English.
#[derive(Clone, Copy, Default)]
struct Russian;

impl Language for Russian {
    fn every_minute(&self) -> &'static str {
        "Каждую минуту"
    }
    fn every_second_phrase(&self) -> &'static str {
        "Каждую секунду"
    }
    fn every_x_minutes(&self, step: u16) -> String {
        format!("каждые {step} мин")
    }
    fn every_x_seconds(&self, step: u16) -> String {
        format!("каждые {step} с")
    }
    fn every_x_hours(&self, step: u16) -> String {
        format!("каждые {step} ч")
    }
    fn every_minute_of_every_x_hours(&self, step: u16) -> String {
        format!("Каждую минуту, каждые {step} ч")
    }
    fn at_time(&self, time: &str) -> String {
        format!("В {time}")
    }
    fn at_time_and_every_x_seconds(&self, time: &str, step: u16) -> String {
        format!("В {time}, каждые {step} с")
    }
    fn at_time_at_second(&self, time: &str, second: &str) -> String {
        format!("В {time}, секунды: {second}")
    }
    fn at_phrase(&self, phrase: &str) -> String {
        phrase.to_owned()
    }
    fn on_phrase(&self, phrase: &str) -> String {
        phrase.to_owned()
    }
    fn in_phrase(&self, phrase: &str) -> String {
        phrase.to_owned()
    }
    fn second_phrase(&self, seconds: &str) -> String {
        format!("секунды: {seconds}")
    }
    fn minute_phrase(&self, minutes: &str) -> String {
        format!("минуты: {minutes}")
    }
    fn minute_past_every_hour_phrase(&self, phrase: &str) -> String {
        format!("{phrase} каждого часа")
    }
    fn hour_phrase(&self, hours: &str) -> String {
        format!("часы: {hours}")
    }
    fn year_phrase(&self, years: &str) -> String {
        format!("годы: {years}")
    }
    fn day_phrase(&self, days: &str) -> String {
        format!("числа: {days}")
    }
    fn the_last_day_of_the_month(&self) -> &'static str {
        "последний день месяца"
    }
    fn the_weekday_nearest_day(&self, day: &str) -> String {
        format!("ближайший к числу {day} будний день")
    }
    fn the_last_weekday_of_the_month(&self, day: &str) -> String {
        format!("последний раз в месяце: {day}")
    }
    fn the_nth_weekday_of_the_month(&self, nth: u8, day: &str) -> String {
        format!("{nth}-й раз в месяце: {day}")
    }
    fn dom_and_dow_if_also(&self, day: &str) -> String {
        format!("(если это также {day})")
    }
    fn dom_and_dow_if_also_one_of(&self, days: &str) -> String {
        format!("(если это также один из дней: {days})")
    }
    fn list_conjunction_and(&self) -> &'static str {
        "и"
    }
    fn list_conjunction_or(&self) -> &'static str {
        "или"
    }
    fn list_conjunction_and_comma(&self) -> &'static str {
        " и"
    }
    fn day_of_week_names(&self) -> [&'static str; 7] {
        ["воскресенье", "понедельник", "вторник", "среда", "четверг", "пятница", "суббота"]
    }
    fn month_names(&self) -> [&'static str; 12] {
        [
            "январь",
            "февраль",
            "март",
            "апрель",
            "май",
            "июнь",
            "июль",
            "август",
            "сентябрь",
            "октябрь",
            "ноябрь",
            "декабрь",
        ]
    }
}

/// What the describer says in English whatever the language is.
const LEFT_OVER: [(&str, &str); 4] =
    [(" past hour ", ", часы: "), (" past ", ", "), ("every ", "каждые "), (" months", " мес")];

/// The pattern in Russian.
pub fn in_russian(cron: &Cron) -> String {
    let text = cron.describe_lang(Russian);
    LEFT_OVER.iter().fold(text, |text, (english, russian)| text.replace(english, russian))
}

#[cfg(test)]
mod tests {
    use super::{super::CronPattern, *};

    #[test]
    fn russian_has_no_english_left() {
        let patterns = [
            ("30 6 * * 1-5", "В 06:30, понедельник, вторник, среда, четверг, и пятница."),
            ("*/15 * * * *", "Каждые 15 мин."),
            ("* 0 * * *", "Каждую минуту, часы: 0."),
            ("* */2 * * *", "Каждую минуту, каждые 2 ч."),
            ("0 12 L * *", "В 12:00, последний день месяца."),
            ("0 0 1 */3 *", "В 00:00, числа: 1, каждые 3 мес."),
            ("5 1,2,3 * * *", "Минуты: 5, часы: 1-3."),
            ("0 9 * * MON#1", "В 09:00, 1-й раз в месяце: понедельник."),
        ];
        for (pattern, text) in patterns {
            let pattern = CronPattern::parse(pattern, None).expect("it is a pattern");
            assert_eq!(in_russian(&pattern.cron).replace(", и ", " и "), text.replace(", и ", " и "));
        }
    }
}
