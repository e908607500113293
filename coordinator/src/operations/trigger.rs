//! Triggers as people make, change and see them. How they fire is in `trigger_fire.rs`.

pub mod by_event;
pub mod by_mail;
pub mod by_queue;
pub mod by_webhook;

use drover_protocol::{
    Timestamp, TriggerId,
    page::PageQuery,
    resource::ResourceKind,
    trigger::{
        Busy, ByEvent, ByMail, ByQueue, ByWebhook, CronDialect, Decision, HistoryFilter, NewTrigger, NonWorkingDays,
        Overlap, PlannedFire, PreviewQuery, Schedule, TriggerFilter, TriggerKind, TriggerPatch,
    },
};
use uuid::Uuid;

use super::{
    Caller,
    audit::{self, Act},
    event, job,
    list::{self, Page, Via},
    process, reach, resource, resource_value, trigger_fire,
};
use crate::{
    domain::{
        job::{Job, State},
        name::{Faults, MAX_DESCRIPTION_CHARS},
        permission::Permission,
        process::{MAX_PARALLEL, MAX_SECONDS},
        resource::Scope,
        schedule::{Calendar, Fault, Timetable, calendar_of},
        trigger::{Fire, MAX_PAUSE_SECONDS, MonthRuns, Rule, Trigger},
    },
    error::{Error, Result},
    secrets::Secrets,
    store::{Reading, Scan, Topic, Tx, key::Kind, table},
};

/// How the audit trail calls it.
pub const NOUN: &str = "trigger";
/// The largest input, in bytes of JSON. A larger one belongs into a file.
const MAX_INPUT_BYTES: usize = 32 * 1024;
/// Triggers that go by one calendar and are reckoned anew when its days change, or follow it to another name.
const MAX_OF_CALENDAR: usize = 1_000;
/// So many of them are named to whoever wants to delete it.
const MAX_NAMED: usize = 10;
const DEFAULT_PREVIEW: u32 = 20;
const MAX_PREVIEW: u32 = 200;
/// What is removed in one transaction when a trigger is deleted.
const DELETE_PAGE: usize = 500;

/// The trigger with this id or name, for paths.
pub fn resolve(reading: &dyn Reading, text: &str) -> Result<Trigger> {
    super::by_id_or_name(reading, Kind::TriggerByName, text)
}

/// The id that a filter means. A trigger that is gone has left jobs behind; one that never was has none.
pub fn id_of(reading: &dyn Reading, text: &str) -> Result<TriggerId> {
    match text.parse() {
        Ok(id) => Ok(id),
        Err(_) => Ok(table::find_by::<Trigger>(reading, Kind::TriggerByName, text)?
            .map_or(TriggerId::from_uuid(Uuid::nil()), |trigger| trigger.id)),
    }
}

pub fn get(reading: &dyn Reading, caller: &Caller, text: &str) -> Result<Trigger> {
    reached(reading, caller, Permission::TriggerRead, text)
}

/// The trigger with this id or name, if the caller has the permission and it reaches that trigger.
pub fn reached(reading: &dyn Reading, caller: &Caller, permission: Permission, text: &str) -> Result<Trigger> {
    caller.require(permission)?;
    let trigger = resolve(reading, text)?;
    reach::trigger(reading, caller, permission, &trigger)?;
    Ok(trigger)
}

/// Triggers that fit the filter, newest first.
pub fn list(
    reading: &dyn Reading,
    caller: &Caller,
    filter: &TriggerFilter,
    query: &PageQuery,
) -> Result<Page<Trigger>> {
    caller.require(Permission::TriggerRead)?;
    let process = filter.process.as_deref().map(|text| process::find(reading, text, "process")).transpose()?;
    let part = filter.q.as_ref().map(|text| text.to_lowercase());
    let fits = |trigger: &Trigger| {
        filter.kind.is_none_or(|kind| trigger.rule.kind() == kind)
            && filter.enabled.is_none_or(|enabled| trigger.enabled == enabled)
            && part.as_ref().is_none_or(|part| trigger.name.to_lowercase().contains(part))
            && reach::reaches_target(reading, caller, Permission::TriggerRead, trigger.target) == Ok(true)
    };
    let (scan, via) = match process {
        Some(process) => (Scan::of(reading, Kind::TriggerByProcess, process.id), Via::Index),
        None => (Scan::of(reading, Kind::Trigger, ()), Via::Records),
    };
    list::page(reading, scan.newest_first(), via, query, fits)
}

pub fn create(tx: &mut Tx, caller: &Caller, new: &NewTrigger, secrets: &Secrets) -> Result<Trigger> {
    caller.require(Permission::TriggerCreate)?;
    let id = TriggerId::from_uuid(tx.new_id());
    let rule = rule_of(tx, caller, id, new, secrets)?;
    // What has an input of its own must not be skipped for want of a word.
    let overlap = if rule.has_own_inputs() { Overlap::Allow } else { Overlap::Skip };
    let mut trigger = Trigger {
        id,
        name: new.name.clone(),
        description: new.description.clone(),
        enabled: new.enabled.unwrap_or(true),
        process_id: process::find(tx, &new.process, "/process")?.id,
        target: job::target_of(tx, caller, Permission::TriggerCreate, &new.target)?,
        priority: new.priority,
        input: new.input.clone(),
        max_parallel: new.max_parallel,
        overlap: new.overlap.unwrap_or(overlap),
        valid_from: new.valid_from,
        valid_to: new.valid_to,
        window: new.window.clone(),
        time_zone: new.time_zone.clone().filter(|_| new.kind != TriggerKind::Schedule),
        calendar: new.calendar.as_deref().map(|text| calendar_named(tx, text)).transpose()?,
        non_working_days: new.non_working_days.unwrap_or(NonWorkingDays::Skip),
        max_runs: new.max_runs,
        max_runs_per_month: new.max_runs_per_month,
        stop_after_seconds: new.stop_after_seconds,
        abort_after_seconds: new.abort_after_seconds,
        busy: new.busy.unwrap_or(Busy::WaitInGroup),
        rule,
        fired_count: 0,
        month: MonthRuns::default(),
        last_fired_at: None,
        next_fire_at: None,
        look_at: None,
        rests_until: None,
        failed_in_row: 0,
        buffered: Vec::new(),
        created_at: tx.now(),
        revision: 1,
    };
    check(&trigger)?;
    // Of an enabled one it is found out when it is planned.
    if !trigger.enabled {
        first_fire(tx, &trigger)?;
    }
    plan(tx, &mut trigger)?;
    table::insert(tx, &trigger)?;
    follow(tx, None, Some(&trigger))?;
    event::note(tx, trigger.id.uuid(), "trigger_created", "the trigger was made", caller.by())?;
    audit::append(tx, caller, Act::new("create", NOUN, trigger.id, &trigger.name).after(&trigger))?;
    tx.wake(Topic::Triggers);
    Ok(trigger)
}

/// The settings of the kind, which must be there, and no others.
fn rule_of(tx: &mut Tx, caller: &Caller, id: TriggerId, new: &NewTrigger, secrets: &Secrets) -> Result<Rule> {
    let given = [
        ("schedule", TriggerKind::Schedule, new.schedule.is_some()),
        ("continuous", TriggerKind::Continuous, new.continuous.is_some()),
        ("queue", TriggerKind::Queue, new.queue.is_some()),
        ("webhook", TriggerKind::Webhook, new.webhook.is_some()),
        ("event", TriggerKind::Event, new.event.is_some()),
        ("mail", TriggerKind::Mail, new.mail.is_some()),
    ];
    let own = given.iter().find(|(_, kind, _)| *kind == new.kind).map_or("", |(name, ..)| name);
    if let Some((name, ..)) = given.iter().find(|(_, kind, is_given)| *is_given && *kind != new.kind) {
        return Err(Error::invalid(format!("/{name}"), format!("a trigger of the kind {own} has no {name}")));
    }
    let missing = || Error::invalid(format!("/{own}"), format!("a trigger of the kind {own} needs it"));
    match new.kind {
        TriggerKind::Schedule => {
            let mut schedule = new.schedule.clone().ok_or_else(missing)?;
            if let Some(zone) = &new.time_zone {
                if ![zone, &Schedule::default().time_zone].contains(&&schedule.time_zone) {
                    return Err(Error::invalid(
                        "/time_zone",
                        "is another one than schedule.time_zone; give one of them",
                    ));
                }
                schedule.time_zone.clone_from(zone);
            }
            Ok(Rule::Schedule { schedule, anchor: tx.now() })
        }
        TriggerKind::Continuous => Ok(Rule::Continuous(new.continuous.clone().ok_or_else(missing)?)),
        TriggerKind::Queue => by_queue::rule_of(tx, caller, new.queue.clone().ok_or_else(missing)?),
        TriggerKind::Webhook => by_webhook::rule_of(tx, id, new.webhook.clone().unwrap_or_default(), secrets),
        TriggerKind::Event => by_event::rule_of(tx, caller, new.event.clone().ok_or_else(missing)?),
        TriggerKind::Mail => by_mail::rule_of(tx, caller, new.mail.clone().ok_or_else(missing)?),
    }
}

/// Refuses settings that are not sound.
fn check(trigger: &Trigger) -> Result<()> {
    let mut faults = Faults::default();
    faults.name("/name", &trigger.name);
    faults.text("/description", &trigger.description, MAX_DESCRIPTION_CHARS);
    if let Some(priority) = trigger.priority {
        faults.range("/priority", u64::from(priority), 1, 3);
    }
    if let Some(most) = trigger.max_parallel {
        faults.range("/max_parallel", u64::from(most), 1, u64::from(MAX_PARALLEL));
    }
    for (pointer, most) in [("/max_runs", trigger.max_runs), ("/max_runs_per_month", trigger.max_runs_per_month)] {
        if most == Some(0) {
            faults.add(pointer, "must be at least 1; leave it out for no limit");
        }
    }
    let limits =
        [("/stop_after_seconds", trigger.stop_after_seconds), ("/abort_after_seconds", trigger.abort_after_seconds)];
    for (pointer, seconds) in limits {
        if let Some(seconds) = seconds {
            faults.range(pointer, seconds, 1, MAX_SECONDS);
        }
    }
    let bytes = trigger.input.as_ref().map_or(0, |input| serde_json::to_vec(input).map_or(0, |json| json.len()));
    if bytes > MAX_INPUT_BYTES {
        faults.add("/input", format!("larger than {MAX_INPUT_BYTES} bytes; use a file in a storage"));
    }
    match &trigger.rule {
        Rule::Schedule { schedule, .. } => {
            faults.range("/schedule/catch_up_window_seconds", schedule.catch_up_window_seconds, 0, MAX_SECONDS);
        }
        Rule::Continuous(continuous) => {
            faults.range("/continuous/jobs", u64::from(continuous.jobs), 1, u64::from(MAX_PARALLEL));
        }
        Rule::Queue { settings, .. } => by_queue::check(&mut faults, settings),
        Rule::Event(settings) => by_event::check(&mut faults, settings),
        Rule::Mail(settings) => by_mail::check(&mut faults, settings),
        Rule::Webhook(_) => {}
    }
    let buffers = matches!(trigger.overlap, Overlap::BufferOne | Overlap::BufferAll);
    if buffers && trigger.rule.has_own_inputs() {
        let text = "only instants of a schedule can wait; say allow, and the jobs wait for a robot by themselves";
        faults.add("/overlap", text);
    }
    if trigger.calendar.is_some() && !matches!(trigger.rule, Rule::Schedule { .. }) {
        faults.add("/calendar", "only a trigger of the kind schedule goes by a calendar");
    }
    if let Err(found) = trigger.timetable(None) {
        found.into_iter().for_each(|(pointer, text)| faults.add(pointer, text));
    }
    Ok(faults.check()?)
}

fn unsound(faults: Vec<Fault>) -> Error {
    let mut all = Faults::default();
    faults.into_iter().for_each(|(pointer, text)| all.add(pointer, text));
    match all.check() {
        Err(fields) => fields.into(),
        Ok(()) => Error::Internal("the settings of a trigger are unsound".to_owned()),
    }
}

/// The name of a calendar that a field means.
fn calendar_named(reading: &dyn Reading, text: &str) -> Result<String> {
    match resource::resolve(reading, text) {
        Ok(found) if found.kind == ResourceKind::Calendar => Ok(found.name),
        Ok(_) => Err(Error::invalid("/calendar", "the resource is of another kind than calendar")),
        Err(Error::NotFound(_)) => Err(Error::invalid("/calendar", "there is no such resource")),
        Err(other) => Err(other),
    }
}

/// The calendar of a trigger as it is now, or why it has none although it names one.
pub fn calendar(reading: &dyn Reading, trigger: &Trigger) -> Result<std::result::Result<Option<Calendar>, String>> {
    let Some(name) = &trigger.calendar else { return Ok(Ok(None)) };
    let gone = || Ok(Err(format!("its calendar {name} is not there, or has no value")));
    let found = match resource::resolve(reading, name) {
        Ok(found) => found,
        Err(Error::NotFound(_)) => return gone(),
        Err(other) => return Err(other),
    };
    let Some(value) = resource_value::current(reading, found.id, Scope::Default)? else { return gone() };
    match serde_json::from_slice(&resource_value::kept(reading, &value)?) {
        Ok(days) => Ok(Ok(Some(calendar_of(&days)))),
        Err(_) => gone(),
    }
}

/// The schedule of a trigger by its calendar; a calendar that is gone is left out.
pub fn timetable(reading: &dyn Reading, trigger: &Trigger) -> Result<Option<Timetable>> {
    let calendar = calendar(reading, trigger)?.unwrap_or_default();
    trigger.timetable(calendar).map_err(unsound)
}

fn of_calendar(reading: &dyn Reading, name: &str, limit: usize) -> Result<Vec<Trigger>> {
    let found = Scan::of(reading, Kind::TriggerByCalendar, name).indexed::<Trigger>(reading, limit)?;
    Ok(found.into_iter().map(|(_, trigger)| trigger).collect())
}

/// Refuses to delete the calendar of this name while triggers go by it.
pub fn require_no_use_of_calendar(reading: &dyn Reading, name: &str) -> Result<()> {
    let triggers = of_calendar(reading, name, MAX_NAMED + 1)?;
    if triggers.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = triggers.iter().take(MAX_NAMED).map(|trigger| trigger.name.as_str()).collect();
    let more = if triggers.len() > MAX_NAMED { " and others" } else { "" };
    let text = format!("these triggers go by this calendar: {}{more}; change or delete them first", names.join(", "));
    Err(Error::in_use(text))
}

/// A calendar has another name: the triggers that go by it name it so from now on.
pub fn calendar_renamed(tx: &mut Tx, before: &str, after: &str) -> Result<()> {
    let triggers = of_calendar(tx, before, MAX_OF_CALENDAR + 1)?;
    if triggers.len() > MAX_OF_CALENDAR {
        return Err(Error::in_use(format!(
            "more than {MAX_OF_CALENDAR} triggers go by this calendar; make another one and let them go by that"
        )));
    }
    for mut trigger in triggers {
        trigger.calendar = Some(after.to_owned());
        table::update(tx, &mut trigger)?;
        let text = format!("its calendar {before} is called {after} now");
        event::note(tx, trigger.id.uuid(), "calendar_renamed", text, "coordinator")?;
    }
    Ok(())
}

/// The days of a calendar have changed: the instants to come are reckoned anew.
pub fn calendar_changed(tx: &mut Tx, name: &str) -> Result<()> {
    for mut trigger in of_calendar(tx, name, MAX_OF_CALENDAR)? {
        let next = timetable(tx, &trigger)?.and_then(|timetable| timetable.next_after(tx.now()));
        if trigger.enabled && trigger.next_fire_at.is_none_or(|at| at > tx.now()) {
            trigger.next_fire_at = next.map(|fire| fire.at);
            table::rewrite(tx, &trigger)?;
        }
    }
    tx.wake(Topic::Triggers);
    Ok(())
}

/// The first time at which a schedule fires from now on. Refuses what would never fire at all.
fn first_fire(reading: &dyn Reading, trigger: &Trigger) -> Result<Option<Timestamp>> {
    let Some(timetable) = timetable(reading, trigger)? else { return Ok(None) };
    let never = || Error::invalid("/schedule", "it never fires, by its pattern, validity and window together");
    timetable.next_after(reading.now()).map(|fire| Some(fire.at)).ok_or_else(never)
}

/// Finds out anew when it is to be looked at, from now on. Refuses an enabled one that would never fire at all.
fn plan(reading: &dyn Reading, trigger: &mut Trigger) -> Result<()> {
    let now = reading.now();
    (trigger.next_fire_at, trigger.look_at) = match trigger.rule {
        // Whatever it is like, it can be turned off.
        _ if !trigger.enabled => (None, None),
        Rule::Schedule { .. } => (first_fire(reading, trigger)?, None),
        Rule::Continuous(_) | Rule::Queue { .. } => (None, trigger.span().map_err(unsound)?.opens(now)),
        // What has happened before and was not fired for is fired for now.
        Rule::Event(_) => (None, Some(now)),
        Rule::Webhook(_) | Rule::Mail(_) => (None, None),
    };
    (trigger.rests_until, trigger.failed_in_row) = (None, 0);
    Ok(())
}

pub fn update(
    tx: &mut Tx,
    caller: &Caller,
    text: &str,
    patch: &TriggerPatch,
    revision: Option<u64>,
) -> Result<Trigger> {
    let mut trigger = reached(tx, caller, Permission::TriggerUpdate, text)?;
    table::check_revision(trigger.revision, revision)?;
    let before = trigger.clone();
    if let Some(process) = &patch.process {
        trigger.process_id = process::find(tx, process, "/process")?.id;
    }
    if let Some(target) = &patch.target {
        trigger.target = job::target_of(tx, caller, Permission::TriggerUpdate, target)?;
    }
    if let Some(calendar) = &patch.calendar {
        trigger.calendar = calendar.as_deref().map(|text| calendar_named(tx, text)).transpose()?;
    }
    apply_patch(tx, caller, &mut trigger, patch)?;
    check(&trigger)?;
    let timing = |trigger: &Trigger| {
        let days = (trigger.calendar.clone(), trigger.non_working_days, trigger.time_zone.clone());
        (trigger.rule.clone(), trigger.valid_from, trigger.valid_to, trigger.window.clone(), days)
    };
    let is_timed_anew = timing(&before) != timing(&trigger);
    if is_timed_anew && !trigger.enabled {
        first_fire(tx, &trigger)?;
    }
    // What came due while it was not to fire is not made up for.
    let awakes = before.enabled != trigger.enabled || before.is_used_up() && !trigger.is_used_up();
    if is_timed_anew || awakes || trigger.rule.keeps_jobs() {
        plan_anew(tx, &mut trigger)?;
    }
    table::update(tx, &mut trigger)?;
    follow(tx, Some(&before), Some(&trigger))?;
    event::note(tx, trigger.id.uuid(), "trigger_changed", "the trigger's settings were changed", caller.by())?;
    audit::append(tx, caller, Act::new("update", NOUN, trigger.id, &trigger.name).change(&before, &trigger))?;
    tx.wake(Topic::Triggers);
    Ok(trigger)
}

/// What depends on a trigger that was written or deleted.
fn follow(tx: &mut Tx, before: Option<&Trigger>, after: Option<&Trigger>) -> Result<()> {
    by_queue::follow(tx, before, after)?;
    by_event::follow(tx, before, after)?;
    by_mail::follow(tx, before, after)
}

fn apply_patch(reading: &dyn Reading, caller: &Caller, trigger: &mut Trigger, patch: &TriggerPatch) -> Result<()> {
    macro_rules! replace {
        ($($field:ident),*) => { $( if let Some(value) = &patch.$field { trigger.$field = value.clone(); } )* };
    }
    replace!(name, description, enabled, priority, input, max_parallel, overlap, valid_from, valid_to, window);
    replace!(max_runs, max_runs_per_month, stop_after_seconds, abort_after_seconds, busy, non_working_days);
    let kind = trigger.rule.kind();
    let given = [
        ("schedule", TriggerKind::Schedule, patch.schedule.is_some()),
        ("continuous", TriggerKind::Continuous, patch.continuous.is_some()),
        ("queue", TriggerKind::Queue, patch.queue.is_some()),
        ("webhook", TriggerKind::Webhook, patch.webhook.is_some()),
        ("event", TriggerKind::Event, patch.event.is_some()),
        ("mail", TriggerKind::Mail, patch.mail.is_some()),
    ];
    if let Some((name, ..)) = given.iter().find(|(_, of, is_given)| *is_given && *of != kind) {
        return Err(Error::invalid(format!("/{name}"), "the trigger is of another kind"));
    }
    if kind != TriggerKind::Schedule {
        trigger.time_zone = patch.time_zone.clone().unwrap_or(trigger.time_zone.take());
    }
    match &mut trigger.rule {
        Rule::Schedule { schedule, anchor } => {
            if let Some(zone) = &patch.time_zone {
                schedule.time_zone = zone.clone().unwrap_or_else(|| Schedule::default().time_zone);
            }
            if let Some(members) = &patch.schedule {
                let patched = patched_schedule(schedule, members)?;
                if patched.interval_seconds != schedule.interval_seconds {
                    *anchor = reading.now();
                }
                *schedule = patched;
            }
        }
        Rule::Continuous(continuous) => *continuous = patch.continuous.clone().unwrap_or(continuous.clone()),
        Rule::Queue { settings, .. } => {
            if let Some(members) = &patch.queue {
                let patched: ByQueue = process::patched(settings, members, "/queue")?;
                trigger.rule = by_queue::rule_of(reading, caller, patched)?;
            }
        }
        Rule::Webhook(webhook) => {
            if let Some(members) = &patch.webhook {
                let patched: ByWebhook = process::patched(&webhook.settings, members, "/webhook")?;
                webhook.settings = patched;
            }
        }
        Rule::Event(settings) => {
            if let Some(members) = &patch.event {
                let patched: ByEvent = process::patched(settings, members, "/event")?;
                trigger.rule = by_event::rule_of(reading, caller, patched)?;
            }
        }
        Rule::Mail(settings) => {
            if let Some(members) = &patch.mail {
                let patched: ByMail = process::patched(settings, members, "/mail")?;
                trigger.rule = by_mail::rule_of(reading, caller, patched)?;
            }
        }
    }
    Ok(())
}

/// A schedule with another pattern in the place of the one before, if the patch names one.
fn patched_schedule(schedule: &Schedule, members: &serde_json::Map<String, serde_json::Value>) -> Result<Schedule> {
    let mut base = schedule.clone();
    let paces = ["cron", "interval_seconds", "monthly"];
    if paces.iter().any(|name| members.get(*name).is_some_and(|value| !value.is_null())) {
        (base.cron, base.interval_seconds, base.monthly) = (None, None, None);
        base.dialect = CronDialect::Auto;
        // What the patch says about a month is merged into the month that there is.
        base.monthly = schedule.monthly.clone().filter(|_| members.contains_key("monthly"));
    }
    process::patched(&base, members, "/schedule")
}

/// The same for one that is there: what waits by its rules of before is told as skipped when it is turned off.
fn plan_anew(tx: &mut Tx, trigger: &mut Trigger) -> Result<()> {
    if let Some(due) = trigger.next_fire_at.filter(|due| *due <= tx.now()) {
        let why = "the trigger was changed before this instant and those after it were decided";
        trigger_fire::note_instant(tx, trigger.id, due, Decision::Skipped, why)?;
    }
    plan(tx, trigger)?;
    if !trigger.enabled {
        for instant in std::mem::take(&mut trigger.buffered) {
            trigger_fire::note_instant(
                tx,
                trigger.id,
                instant,
                Decision::Skipped,
                "the trigger was disabled while it waited",
            )?;
        }
    } else if !trigger.buffered.is_empty() {
        trigger.look_at = Some(tx.now());
    }
    Ok(())
}

pub fn set_enabled(tx: &mut Tx, caller: &Caller, text: &str, enabled: bool) -> Result<Trigger> {
    let mut trigger = reached(tx, caller, Permission::TriggerUpdate, text)?;
    if trigger.enabled != enabled {
        let before = trigger.clone();
        trigger.enabled = enabled;
        plan_anew(tx, &mut trigger)?;
        table::update(tx, &mut trigger)?;
        follow(tx, Some(&before), Some(&trigger))?;
        let (code, text) = match enabled {
            true => ("trigger_enabled", "it fires from now on"),
            false => ("trigger_disabled", "it does not fire from now on"),
        };
        event::note(tx, trigger.id.uuid(), code, text, caller.by())?;
        let verb = if enabled { "enable" } else { "disable" };
        audit::append(tx, caller, Act::new(verb, NOUN, trigger.id, &trigger.name))?;
        tx.wake(Topic::Triggers);
    }
    Ok(trigger)
}

/// Deletes a trigger with its history, a page at a time: call until it gives `true`. Its jobs stay.
pub fn delete_page(tx: &mut Tx, caller: &Caller, text: &str, revision: Option<u64>) -> Result<bool> {
    let mut trigger = reached(tx, caller, Permission::TriggerDelete, text)?;
    table::check_revision(trigger.revision, revision)?;
    let rows = Scan::of(tx, Kind::TriggerFire, trigger.id).records::<Fire>(tx, DELETE_PAGE)?;
    for (_, row) in &rows {
        table::delete::<Fire>(tx, (row.trigger_id, row.instant, row.occasion))?;
    }
    if rows.len() == DELETE_PAGE
        || !by_event::forget_page(tx, &trigger, DELETE_PAGE)?
        || !event::delete_page(tx, trigger.id.uuid(), DELETE_PAGE)?
    {
        // It must not fire while it is being removed.
        let before = trigger.clone();
        trigger.enabled = false;
        table::rewrite(tx, &trigger)?;
        follow(tx, Some(&before), Some(&trigger))?;
        return Ok(false);
    }
    audit::append(tx, caller, Act::new("delete", NOUN, trigger.id, &trigger.name).before(&trigger))?;
    table::delete::<Trigger>(tx, trigger.id)?;
    follow(tx, Some(&trigger), None)?;
    by_webhook::forget(tx, &trigger);
    Ok(true)
}

/// The fires to come, as if it were enabled; none of a kind that has no times.
pub fn preview(reading: &dyn Reading, caller: &Caller, text: &str, query: &PreviewQuery) -> Result<Vec<PlannedFire>> {
    let trigger = get(reading, caller, text)?;
    let count = query.count.unwrap_or(DEFAULT_PREVIEW);
    if !(1..=MAX_PREVIEW).contains(&count) {
        return Err(Error::invalid("count", format!("must be from 1 to {MAX_PREVIEW}")));
    }
    let Some(timetable) = timetable(reading, &trigger)? else { return Ok(Vec::new()) };
    let first = timetable.next_after(query.from.unwrap_or(reading.now()));
    Ok(std::iter::successors(first, |fire| timetable.next_after(fire.at)).take(count as usize).collect())
}

/// What became of its instants, newest first.
pub fn history(
    reading: &dyn Reading,
    caller: &Caller,
    text: &str,
    filter: &HistoryFilter,
    query: &PageQuery,
) -> Result<Page<Fire>> {
    let trigger = get(reading, caller, text)?;
    let scan = Scan::of(reading, Kind::TriggerFire, trigger.id).newest_first();
    let fits = |fire: &Fire| filter.decision.is_none_or(|decision| fire.decision == decision);
    list::page(reading, scan, Via::Records, query, fits)
}

/// A job of a trigger has ended: what waits for that may go on.
pub fn job_ended(tx: &mut Tx, job: &Job) -> Result<()> {
    let Some(id) = job.trigger_id else { return Ok(()) };
    let Some(mut trigger) = table::find::<Trigger>(tx, id)? else { return Ok(()) };
    let before = trigger.clone();
    let at = match &trigger.rule {
        Rule::Webhook(_) | Rule::Event(_) | Rule::Mail(_) => return Ok(()),
        Rule::Schedule { .. } if trigger.buffered.is_empty() => return Ok(()),
        Rule::Schedule { .. } => tx.now(),
        Rule::Continuous(_) | Rule::Queue { .. } => goes_on_at(tx, &mut trigger, job)?,
    };
    if trigger.enabled && trigger.look_at.is_none_or(|look_at| at < look_at) {
        trigger.look_at = Some(at);
        tx.wake(Topic::Triggers);
    }
    if trigger != before {
        table::replace(tx, &before, &trigger)?;
    }
    Ok(())
}

/// When a trigger that keeps jobs running may look for the next one after this.
fn goes_on_at(tx: &mut Tx, trigger: &mut Trigger, job: &Job) -> Result<Timestamp> {
    if let State::Finished { outcome, .. } = &job.state
        && trigger.note_end(*outcome)
    {
        let text = format!(
            "its last {} jobs have failed; until one succeeds it starts the next one {MAX_PAUSE_SECONDS} seconds after \
             the end of the last",
            trigger.failed_in_row
        );
        event::note(tx, trigger.id.uuid(), "jobs_keep_failing", text, "coordinator")?;
    }
    let paused = tx.now().plus_seconds(trigger.pause_seconds());
    if trigger.pause_seconds() > 0 {
        trigger.rests_until = trigger.rests_until.max(Some(paused));
    }
    Ok(trigger_fire::continuous_again(trigger, tx.now()).max(trigger.rests_until.unwrap_or_default()))
}

/// Removes rows of history that were decided before `before`, a page at a time; how many there were.
pub fn expire_page(tx: &mut Tx, before: Timestamp, limit: usize) -> Result<usize> {
    let end = table::index_start(tx, Kind::TriggerFireByTime, before);
    let old = Scan::of(tx, Kind::TriggerFireByTime, ()).below(end).indexed::<Fire>(tx, limit)?;
    for (_, row) in &old {
        table::delete::<Fire>(tx, (row.trigger_id, row.instant, row.occasion))?;
    }
    Ok(old.len())
}
