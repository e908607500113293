//! Triggers: rules that start jobs by themselves.

mod by_event;
mod by_mail;
mod by_queue;
mod by_webhook;

pub use by_event::{ByEvent, EventOn};
pub use by_mail::{ByMail, MailJobs, MailProtocol, MailSecurity};
pub use by_queue::ByQueue;
pub use by_webhook::{ByWebhook, HookAnswer, HookAuth, HookMode, HookQuery, RotateHookSecret, RotatedSecret};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use crate::{EventId, JobId, ProcessId, Timestamp, TriggerId, job::Target, words::words};

words! {
    /// What a trigger goes by.
    pub enum TriggerKind {
        /// It fires at times.
        Schedule,
        /// It keeps a number of jobs running.
        Continuous,
        /// It starts jobs for the tasks of a queue.
        Queue,
        /// It is called from outside.
        Webhook,
        /// It fires when something happens.
        Event,
        /// It looks into a mailbox.
        Mail,
    }

    /// How the days of a cron pattern are numbered, and with it how many fields it has.
    pub enum CronDialect {
        /// By the number of fields: 5 are `unix`, 6 and 7 are `quartz`.
        Auto,
        /// 5 fields, or 6 with seconds first; 0 and 7 are Sunday.
        Unix,
        /// 6 fields with seconds first, or 7 with the year last; 1 is Sunday.
        Quartz,
    }

    /// What becomes of a time that the clock of the zone leaps over.
    pub enum MissingHour {
        /// It fires at the first instant after the gap.
        RunAfter,
        /// It does not fire.
        Skip,
    }

    /// What becomes of a time that the clock of the zone shows twice.
    pub enum RepeatedHour {
        /// It fires the first time.
        First,
        /// It fires the second time.
        Second,
        /// It fires both times.
        Both,
    }

    /// What becomes of instants at which the coordinator did not run.
    pub enum CatchUp {
        /// They are missed.
        None,
        /// The last of them is made up for.
        Last,
        /// All of them are made up for, the oldest first.
        All,
    }

    /// What becomes of a fire while as many jobs of the trigger as may be have not finished.
    pub enum Overlap {
        /// It is skipped.
        Skip,
        /// It waits for the end of a job; further ones are skipped meanwhile.
        BufferOne,
        /// All of them wait for the ends of jobs, at most 500.
        BufferAll,
        /// The oldest jobs are asked to stop, and the new one is started.
        StopOther,
        /// It starts a job beside the others, as long as there are fewer than `max_parallel`.
        Allow,
    }

    /// What becomes of a fire on a day that the calendar does not call a working day.
    pub enum NonWorkingDays {
        /// It does not fire.
        Skip,
        /// It fires on the last working day before, at the same time of day.
        Before,
        /// It fires on the next working day, at the same time of day.
        After,
    }

    /// For whom a job for a group is meant when all robots of the group are busy.
    pub enum Busy {
        /// For the first robot of the group that is free.
        WaitInGroup,
        /// For the robot that holds and awaits the fewest jobs.
        QueueOnLeastBusy,
    }

    /// What became of an instant.
    pub enum Decision {
        /// Jobs were started.
        Fired,
        /// The trigger's own rules forbade it.
        Skipped,
        /// The coordinator did not run then.
        Missed,
        /// It should have fired but could not.
        Failed,
    }
}

/// Local times between which a trigger fires; from a later to an earlier one it crosses midnight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The first minute.
    #[schema(pattern = "^([01][0-9]|2[0-3]):[0-5][0-9]$", example = "09:00")]
    pub from: String,
    /// The minute before which it ends.
    #[schema(pattern = "^([01][0-9]|2[0-3]):[0-5][0-9]$", example = "18:00")]
    pub to: String,
}

/// A day of the month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MonthDay {
    /// Counted from 1.
    Nth(u8),
    Last,
}

impl Serialize for MonthDay {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nth(day) => serializer.serialize_u8(*day),
            Self::Last => serializer.serialize_str("last"),
        }
    }
}

impl<'de> Deserialize<'de> for MonthDay {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = MonthDay;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a day from 1 to 31, or \"last\"")
            }

            fn visit_u64<E: serde::de::Error>(self, day: u64) -> Result<MonthDay, E> {
                match u8::try_from(day) {
                    Ok(day @ 1..=31) => Ok(MonthDay::Nth(day)),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Unsigned(day), &self)),
                }
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MonthDay, E> {
                match text {
                    "last" => Ok(MonthDay::Last),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl ToSchema for MonthDay {}

impl utoipa::PartialSchema for MonthDay {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Type};
        OneOfBuilder::new()
            .item(ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).maximum(Some(31)))
            .item(ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["last"])))
            .description(Some("A day of the month, counted from 1, or `last`."))
            .into()
    }
}

/// A day of each month. A month that has fewer days does not fire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Monthly {
    pub day: MonthDay,
    /// Whether only working days are counted: Monday to Friday, or those of the calendar.
    #[serde(default)]
    pub working: bool,
    /// Local time.
    #[schema(pattern = "^([01][0-9]|2[0-3]):[0-5][0-9]$", example = "06:30")]
    pub at: String,
}

/// When a trigger of kind `schedule` fires: exactly one of `cron`, `interval_seconds` and `monthly`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// A cron pattern: 5 fields (minute, hour, day, month, weekday), 6 (seconds first) or 7 (the year last).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 256, example = "30 6 * * 1-5")]
    pub cron: Option<String>,
    /// Seconds between two fires, counted from `valid_from` or from when this was set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31536000)]
    pub interval_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monthly: Option<Monthly>,
    /// `auto` if absent.
    pub dialect: CronDialect,
    /// IANA name of the zone whose clock counts.
    #[schema(max_length = 64, example = "Europe/Berlin")]
    pub time_zone: String,
    pub missing_hour: MissingHour,
    pub repeated_hour: RepeatedHour,
    pub catch_up: CatchUp,
    /// How far back instants are made up for.
    #[schema(minimum = 0, maximum = 31536000)]
    pub catch_up_window_seconds: u64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            cron: None,
            interval_seconds: None,
            monthly: None,
            dialect: CronDialect::Auto,
            time_zone: "UTC".to_owned(),
            missing_hour: MissingHour::RunAfter,
            repeated_hour: RepeatedHour::First,
            catch_up: CatchUp::None,
            catch_up_window_seconds: 86_400,
        }
    }
}

/// How many jobs a trigger of kind `continuous` keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Continuous {
    /// A further job is started as soon as one ends, at most once in a second.
    #[schema(minimum = 1, maximum = 1000)]
    pub jobs: u32,
}

/// A schedule as answers show it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ScheduleView {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "30 6 * * 1-5")]
    pub cron: Option<String>,
    /// The schedule in plain words, in the language of `Accept-Language` (English or Russian).
    #[schema(example = "At 06:30, on Monday, Tuesday, Wednesday, Thursday, and Friday.")]
    pub cron_text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monthly: Option<Monthly>,
    /// As it was understood; `auto` where there is no cron pattern.
    pub dialect: CronDialect,
    #[schema(example = "Europe/Berlin")]
    pub time_zone: String,
    pub missing_hour: MissingHour,
    pub repeated_hour: RepeatedHour,
    pub catch_up: CatchUp,
    pub catch_up_window_seconds: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Trigger {
    pub id: TriggerId,
    #[schema(example = "nightly invoices")]
    pub name: String,
    pub description: String,
    pub enabled: bool,
    pub process_id: ProcessId,
    pub target: Target,
    /// Of its jobs; null: as the process says.
    #[schema(required)]
    pub priority: Option<u8>,
    /// Of its jobs, over the process's default input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub input: Option<Map<String, Value>>,
    #[schema(required)]
    pub max_parallel: Option<u32>,
    pub overlap: Overlap,
    #[schema(required)]
    pub valid_from: Option<Timestamp>,
    #[schema(required)]
    pub valid_to: Option<Timestamp>,
    #[schema(required)]
    pub window: Option<Window>,
    /// By whose clock window and months go: that of the schedule if there is one.
    #[schema(example = "Europe/Berlin")]
    pub time_zone: String,
    /// Name of a resource of the kind `calendar`.
    #[schema(required)]
    pub calendar: Option<String>,
    pub non_working_days: NonWorkingDays,
    #[schema(required)]
    pub max_runs: Option<u64>,
    #[schema(required)]
    pub max_runs_per_month: Option<u64>,
    #[schema(required)]
    pub stop_after_seconds: Option<u64>,
    #[schema(required)]
    pub abort_after_seconds: Option<u64>,
    pub busy: Busy,
    pub kind: TriggerKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continuous: Option<Continuous>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<ByQueue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<ByWebhook>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<ByEvent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail: Option<ByMail>,
    /// Where a webhook is called. Only told one by one, and only to those who may let it fire or change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://drover.example.com/api/v1/hooks/3q2-7wS0V1mJfXo1lqPZs8Yd0r9hTtBnUeKcGxAiMlE")]
    pub url: Option<String>,
    /// By which callers of a webhook prove that they may call. Only told when the trigger is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=")]
    pub secret: Option<String>,
    /// Jobs that it has started.
    pub fired_count: u64,
    #[schema(required)]
    pub last_fired_at: Option<Timestamp>,
    #[schema(required)]
    pub next_fire_at: Option<Timestamp>,
    /// Instants that wait for the end of a job, by `overlap`.
    pub buffered: u32,
    /// Why it does not fire although it is enabled.
    #[schema(required)]
    pub paused_because: Option<String>,
    pub created_at: Timestamp,
    pub revision: u64,
}

/// `POST /triggers`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTrigger {
    #[schema(min_length = 1, max_length = 128)]
    pub name: String,
    #[serde(default)]
    #[schema(max_length = 2048)]
    pub description: String,
    /// True if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Id or name.
    #[serde(alias = "process_id")]
    pub process: String,
    pub target: Target,
    /// 1 low, 2 normal, 3 high; absent: as the process says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 3)]
    pub priority: Option<u8>,
    /// Of its jobs, at most 32 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub input: Option<Map<String, Value>>,
    /// Unfinished jobs of the trigger at once; absent: one, or any number if `overlap` is `allow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000)]
    pub max_parallel: Option<u32>,
    /// `skip` if absent; of the kinds `webhook`, `event` and `mail` it is `allow`, for each fire has an input of its own. Only instants of a
    /// schedule can wait: the buffering ones are for that kind alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<Overlap>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_from: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_to: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// IANA name of the zone by whose clock window, months and schedule go; UTC if absent. For a schedule it is another
    /// way to say `schedule.time_zone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 64, example = "Europe/Berlin")]
    pub time_zone: Option<String>,
    /// Name or id of a resource of the kind `calendar`; its default value counts. Only for the kind `schedule`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calendar: Option<String>,
    /// `skip` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub non_working_days: Option<NonWorkingDays>,
    /// Jobs that it may start in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_runs: Option<u64>,
    /// Jobs that it may start within a month of its zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_runs_per_month: Option<u64>,
    /// A soft stop of each job is asked so long after it was made.
    #[serde(default, skip_serializing_if = "Option::is_none", alias = "stop_after")]
    #[schema(minimum = 1, maximum = 31536000)]
    pub stop_after_seconds: Option<u64>,
    /// Each job is aborted so long after it was made.
    #[serde(default, skip_serializing_if = "Option::is_none", alias = "abort_after")]
    #[schema(minimum = 1, maximum = 31536000)]
    pub abort_after_seconds: Option<u64>,
    /// `wait_in_group` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy: Option<Busy>,
    pub kind: TriggerKind,
    /// For the kind `schedule`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// For the kind `continuous`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continuous: Option<Continuous>,
    /// For the kind `queue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<ByQueue>,
    /// For the kind `webhook`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<ByWebhook>,
    /// For the kind `event`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<ByEvent>,
    /// For the kind `mail`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail: Option<ByMail>,
}

/// `PATCH /triggers/{trigger}`. The kind stays.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TriggerPatch {
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, min_length = 1, max_length = 128)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, max_length = 2048)]
    pub description: Option<String>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = bool, required = false)]
    pub enabled: Option<bool>,
    /// Id or name.
    #[serde(
        default,
        deserialize_with = "crate::patch::present",
        skip_serializing_if = "Option::is_none",
        alias = "process_id"
    )]
    #[schema(value_type = String, required = false)]
    pub process: Option<String>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Target, required = false)]
    pub target: Option<Target>,
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u8>, minimum = 1, maximum = 3)]
    pub priority: Option<Option<u8>>,
    /// Replaces the input as a whole.
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub input: Option<Option<Map<String, Value>>>,
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    pub max_parallel: Option<Option<u32>>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Overlap, required = false)]
    pub overlap: Option<Overlap>,
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Timestamp>)]
    pub valid_from: Option<Option<Timestamp>>,
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Timestamp>)]
    pub valid_to: Option<Option<Timestamp>>,
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Window>)]
    pub window: Option<Option<Window>>,
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, max_length = 64)]
    pub time_zone: Option<Option<String>>,
    /// Name or id of a resource of the kind `calendar`.
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub calendar: Option<Option<String>>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = NonWorkingDays, required = false)]
    pub non_working_days: Option<NonWorkingDays>,
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, minimum = 1)]
    pub max_runs: Option<Option<u64>>,
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, minimum = 1)]
    pub max_runs_per_month: Option<Option<u64>>,
    #[serde(
        default,
        deserialize_with = "crate::patch::nullable",
        skip_serializing_if = "Option::is_none",
        alias = "stop_after"
    )]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 31536000)]
    pub stop_after_seconds: Option<Option<u64>>,
    #[serde(
        default,
        deserialize_with = "crate::patch::nullable",
        skip_serializing_if = "Option::is_none",
        alias = "abort_after"
    )]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 31536000)]
    pub abort_after_seconds: Option<Option<u64>>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Busy, required = false)]
    pub busy: Option<Busy>,
    /// A merge patch of `schedule`: a member that is null gets its default. Naming one of `cron`, `interval_seconds` and
    /// `monthly` takes the place of the one before.
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Schedule, required = false)]
    pub schedule: Option<Map<String, Value>>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Continuous, required = false)]
    pub continuous: Option<Continuous>,
    /// A merge patch of `queue`: a member that is null gets its default.
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = ByQueue, required = false)]
    pub queue: Option<Map<String, Value>>,
    /// A merge patch of `webhook`. The address and the secret stay.
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = ByWebhook, required = false)]
    pub webhook: Option<Map<String, Value>>,
    /// A merge patch of `event`.
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = ByEvent, required = false)]
    pub event: Option<Map<String, Value>>,
    /// A merge patch of `mail`. In another mailbox the looking begins anew.
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = ByMail, required = false)]
    pub mail: Option<Map<String, Value>>,
}

/// Filters of `GET /triggers`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TriggerFilter {
    /// Only those of this process (id or name).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Only those of this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<TriggerKind>,
    /// Only those that are enabled, or disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Part of the name, whatever the case of letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q: Option<String>,
}

/// Filters of `GET /triggers/{trigger}/history`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HistoryFilter {
    /// Only instants of which this became.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
}

/// `?count=&from=` of a preview.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PreviewQuery {
    /// How many fires; 20 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 200)]
    pub count: Option<u32>,
    /// After which time; now if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
}

words! {
    /// Why a fire is not simply where its pattern says.
    pub enum FireNote {
        /// The clock of the zone leaps over the time of the pattern.
        MissingHour,
        /// The clock of the zone shows this time twice.
        RepeatedHour,
        /// The day of the pattern is no working day of the calendar.
        MovedByCalendar,
    }
}

/// A fire to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedFire {
    pub at: Timestamp,
    /// What the clock of the zone shows then.
    #[schema(example = "2026-11-23T06:30:00")]
    pub local: String,
    #[schema(example = "+01:00")]
    pub offset: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<FireNote>,
}

/// What became of an instant at which a trigger was to fire.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Fire {
    pub instant: Timestamp,
    pub decided_at: Timestamp,
    pub decision: Decision,
    pub reason: String,
    pub job_ids: Vec<JobId>,
    /// How many instants the row is about: more than 1 for a long row of misses.
    pub count: u64,
    /// The last instant of a row of misses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The event that was answered, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<EventId>,
}

/// `POST /triggers/{trigger}/backfill`: the instants from `from` until before `to`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Backfill {
    pub from: Timestamp,
    /// Not in the future. At most 100 instants may lie between.
    pub to: Timestamp,
}

/// What a back-fill has done.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Backfilled {
    /// Instants that have fired just now.
    pub fired: u32,
    /// Instants that had fired before, and were left alone.
    pub fired_before: u32,
    /// The rows of all of them, oldest first.
    pub items: Vec<Fire>,
}
