//! `drover trigger`: rules that start jobs by themselves.

use clap::Subcommand;
use drover_protocol::{
    Timestamp,
    job::Job,
    page::Items,
    trigger::{
        Backfill, Backfilled, ByQueue, Decision, EventOn, Fire, FireNote, NonWorkingDays, PlannedFire,
        RotateHookSecret, RotatedSecret, Trigger,
    },
};

use crate::{
    commands::{
        ListArgs, events, list, name_or_id, process, queue, simple, target_in_words,
        trigger_settings::{CreateArgs, UpdateArgs},
    },
    error::Error,
    output::{Shown, Tone, duration_ms, moment, moment_opt, number, toned},
    session::Session,
    values,
};

#[derive(Subcommand)]
pub enum TriggerCommand {
    /// List triggers
    List {
        /// Only those whose name holds this text
        #[arg(long, short)]
        query: Option<String>,
        /// Only those of this process (name or id)
        #[arg(long)]
        process: Option<String>,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Show a trigger and when it fires next
    Show {
        /// Name or id
        trigger: String,
    },
    /// Make a trigger: --cron, --every, --monthly, --keep, --for-queue, --webhook, --when or --mail-server says by what it fires
    Create(Box<CreateArgs>),
    /// Change the settings of a trigger; what is not named stays as it is
    Update(Box<UpdateArgs>),
    /// Delete a trigger with its history; the jobs that it has started stay
    Delete {
        /// Name or id
        trigger: String,
    },
    /// Let a trigger fire
    Enable {
        /// Name or id
        trigger: String,
    },
    /// Let a trigger fire no more; its jobs go on
    Disable {
        /// Name or id
        trigger: String,
    },
    /// Start one job of a trigger now
    Fire {
        /// Name or id
        trigger: String,
    },
    /// Change the secret of a webhook, and show the new one
    RotateSecret {
        /// Name or id
        trigger: String,
        /// For so long the old secret is good as well, for example 24h
        #[arg(long, value_parser = values::seconds, value_name = "DURATION")]
        grace: Option<u64>,
    },
    /// Show the fires to come, as instants and by the clock of the trigger's zone
    Preview {
        /// Name or id
        trigger: String,
        /// How many
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
        count: u32,
        /// After this time (2026-11-23T18:00), or after this while (2h); default: now
        #[arg(long, value_parser = values::moment, value_name = "TIME")]
        from: Option<Timestamp>,
    },
    /// Show what became of a trigger's instants: fired, skipped, missed or failed, and why
    History {
        /// Name or id
        trigger: String,
        /// Only these
        #[arg(long, value_parser = ["fired", "skipped", "missed", "failed"])]
        decision: Option<String>,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Start a job for each instant of the past that has not fired
    Backfill {
        /// Name or id
        trigger: String,
        /// From this time on (2026-11-23T18:00), or since so long ago (6h)
        #[arg(long, value_parser = values::past_moment, value_name = "TIME")]
        from: Timestamp,
        /// Until before this time; default: now
        #[arg(long, value_parser = values::past_moment, value_name = "TIME", default_value = "0s")]
        to: Timestamp,
    },
    /// Show what people did to a trigger
    Events {
        /// Name or id
        trigger: String,
        #[command(flatten)]
        list: ListArgs,
    },
}

pub const NOUN: &str = "triggers";

pub async fn run(session: &Session, command: TriggerCommand) -> Result<(), Error> {
    let client = &session.client;
    match command {
        TriggerCommand::List { query, process, list } => {
            show_list(session, query.as_deref(), process.as_deref(), &list).await
        }
        TriggerCommand::Show { trigger } => show(session, &trigger).await,
        TriggerCommand::Create(args) => create(session, &args).await,
        TriggerCommand::Update(args) => {
            let done = format!("Trigger {} is changed.", args.trigger);
            simple(&session.out, client.patch(&[NOUN, &args.trigger])?.json(&args.body()?)?, &done).await
        }
        TriggerCommand::Delete { trigger } => {
            simple(&session.out, client.delete(&[NOUN, &trigger])?, &format!("Trigger {trigger} is deleted.")).await
        }
        TriggerCommand::Enable { trigger } => {
            let call = client.post(&[NOUN, &trigger, "enable"])?;
            simple(&session.out, call, &format!("Trigger {trigger} fires from now on.")).await
        }
        TriggerCommand::Disable { trigger } => {
            let call = client.post(&[NOUN, &trigger, "disable"])?;
            simple(&session.out, call, &format!("Trigger {trigger} fires no more.")).await
        }
        TriggerCommand::Fire { trigger } => fire(session, &trigger).await,
        TriggerCommand::RotateSecret { trigger, grace } => rotate_secret(session, &trigger, grace).await,
        TriggerCommand::Preview { trigger, count, from } => preview(session, &trigger, count, from).await,
        TriggerCommand::History { trigger, decision, list } => {
            history(session, &trigger, decision.as_deref(), &list).await
        }
        TriggerCommand::Backfill { trigger, from, to } => backfill(session, &trigger, &Backfill { from, to }).await,
        TriggerCommand::Events { trigger, list } => events(session, &list, &[NOUN, &trigger, "events"]).await,
    }
}

async fn create(session: &Session, args: &CreateArgs) -> Result<(), Error> {
    let answer = session.client.post(&[NOUN])?.json(&args.body()?)?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let made: Trigger = answer.decode()?;
    match (&made.schedule, &made.url) {
        (_, Some(url)) => {
            session.out.line(&format!("Trigger {} is made. It fires when it is called:", made.name))?;
            session.out.line(url)?;
            show_secret(session, made.secret.as_deref())
        }
        (Some(_), None) => {
            let text = format!("Trigger {} is made. When does it fire? drover trigger preview {0}", made.name);
            session.out.line(&text)
        }
        (None, None) => session.out.line(&format!("Trigger {} is made. It {}.", made.name, rule(&made))),
    }
}

fn show_secret(session: &Session, secret: Option<&str>) -> Result<(), Error> {
    let Some(secret) = secret else { return Ok(()) };
    session.out.line(&format!("Its secret, which is shown only now: {secret}"))
}

async fn rotate_secret(session: &Session, trigger: &str, grace: Option<u64>) -> Result<(), Error> {
    let request = RotateHookSecret { grace_seconds: grace };
    let answer = session.client.post(&[NOUN, trigger, "rotate-secret"])?.json(&request)?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let rotated: RotatedSecret = answer.decode()?;
    session.out.line(&format!("Trigger {trigger} is called at {}", rotated.url))?;
    show_secret(session, rotated.secret.as_deref())?;
    match rotated.old_secret_until {
        Some(until) => session.out.line(&format!("The old secret is good until {}.", moment(until))),
        None => Ok(()),
    }
}

/// By what it fires, in words.
fn rule(trigger: &Trigger) -> String {
    if let Some(schedule) = &trigger.schedule {
        return match schedule.time_zone.as_str() {
            "UTC" => schedule.cron_text.clone(),
            zone => format!("{} ({zone})", schedule.cron_text),
        };
    }
    if let Some(continuous) = &trigger.continuous {
        return format!("keeps {} jobs running", continuous.jobs);
    }
    if let Some(event) = &trigger.event {
        let what = match event.on {
            EventOn::JobFinished => "a job has finished",
            EventOn::TaskFailed => "a task has failed",
            EventOn::FileAdded => "a file was added",
            EventOn::RobotOffline => "a robot is offline",
        };
        return format!("fires when {what}");
    }
    if let Some(mail) = &trigger.mail {
        let mailbox = mail.mailbox.as_deref().unwrap_or("the mailbox");
        return format!("fires for new mails in {mailbox} at {}", mail.server);
    }
    match (&trigger.queue, &trigger.webhook) {
        (Some(queue), _) => for_queue(queue),
        (None, Some(_)) => "fires when it is called".to_owned(),
        (None, None) => String::new(),
    }
}

fn for_queue(rule: &ByQueue) -> String {
    let jobs = match (rule.min_jobs, rule.max_jobs) {
        (0, most) => format!("up to {most} jobs"),
        (least, most) => format!("{least} to {most} jobs"),
    };
    let tags = if rule.tags.is_empty() { String::new() } else { format!(" with {}", rule.tags.join(" ")) };
    format!("starts {jobs} for tasks{tags} of {}, {} each", rule.queue, rule.tasks_per_job)
}

fn state(trigger: &Trigger) -> Shown {
    match (trigger.enabled, &trigger.paused_because) {
        (false, _) => toned("disabled", Tone::Dim),
        (true, Some(_)) => toned("paused", Tone::Warning),
        (true, None) => toned("enabled", Tone::Good),
    }
}

async fn show_list(
    session: &Session,
    query: Option<&str>,
    process: Option<&str>,
    args: &ListArgs,
) -> Result<(), Error> {
    let listed = list::<Trigger, _>(session, args, |session| {
        Ok(session.client.get(&[NOUN])?.query_opt("q", query).query_opt("process", process))
    });
    let Some(triggers) = listed.await? else { return Ok(()) };
    if triggers.is_empty() {
        return session
            .out
            .line("There are no triggers. Make one: drover trigger create NAME --process P --cron '30 6 * * 1-5'");
    }
    let rows = triggers.into_iter().map(|trigger| {
        vec![
            trigger.name.clone().into(),
            state(&trigger),
            rule(&trigger).into(),
            moment_opt(trigger.next_fire_at).into(),
            moment_opt(trigger.last_fired_at).into(),
            number(trigger.fired_count),
        ]
    });
    session.out.table(&["NAME", "STATE", "FIRES", "NEXT", "LAST", "JOBS"], rows.collect())
}

async fn show(session: &Session, trigger: &str) -> Result<(), Error> {
    let answer = session.client.get(&[NOUN, trigger])?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let mut trigger: Trigger = answer.decode()?;
    let process = name_or_id(session, process::NOUN, &trigger.process_id.to_string()).await;
    let target = target_in_words(session, &trigger.target).await;
    if let Some(rule) = &mut trigger.queue {
        rule.queue = name_or_id(session, queue::NOUN, &rule.queue).await;
    }
    // Without a calendar every day is a working day.
    let non_working_days = trigger.calendar.as_ref().map(|_| match trigger.non_working_days {
        NonWorkingDays::Skip => "it does not fire",
        NonWorkingDays::Before => "it fires on the last working day before",
        NonWorkingDays::After => "it fires on the next working day",
    });
    let while_ =
        |seconds: Option<u64>| seconds.map(|seconds| duration_ms(u128::from(seconds) * 1000)).unwrap_or_default();
    let window =
        trigger.window.as_ref().map(|window| format!("{} to {} ({})", window.from, window.to, trigger.time_zone));
    session.out.fields(vec![
        ("name", trigger.name.clone().into()),
        ("id", trigger.id.to_string().into()),
        ("description", trigger.description.clone().into()),
        ("state", state(&trigger)),
        ("because", trigger.paused_because.clone().unwrap_or_default().into()),
        ("fires", rule(&trigger).into()),
        ("address", trigger.url.clone().unwrap_or_default().into()),
        ("process", process.into()),
        ("target", target.into()),
        ("window", window.unwrap_or_default().into()),
        ("calendar", trigger.calendar.clone().unwrap_or_default().into()),
        ("other than working days", non_working_days.unwrap_or_default().into()),
        ("next", moment_opt(trigger.next_fire_at).into()),
        ("last", moment_opt(trigger.last_fired_at).into()),
        ("jobs started", number(trigger.fired_count)),
        ("waiting instants", number(trigger.buffered)),
        ("stop after", while_(trigger.stop_after_seconds).into()),
        ("abort after", while_(trigger.abort_after_seconds).into()),
    ])
}

async fn fire(session: &Session, trigger: &str) -> Result<(), Error> {
    let answer = session.client.post(&[NOUN, trigger, "fire"])?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let job: Job = answer.decode()?;
    session.out.line(&job.id.to_string())
}

async fn preview(session: &Session, trigger: &str, count: u32, from: Option<Timestamp>) -> Result<(), Error> {
    let call = session.client.get(&[NOUN, trigger, "preview"])?.query("count", count).query_opt("from", from);
    let answer = call.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let fires: Items<PlannedFire> = answer.decode()?;
    if fires.items.is_empty() {
        return session.out.line("It has no instants to come: its kind has none, or its validity is over.");
    }
    let rows = fires.items.into_iter().map(|fire| {
        let note = match fire.note {
            Some(FireNote::MissingHour) => toned("the clock leaps over its time", Tone::Warning),
            Some(FireNote::RepeatedHour) => toned("the clock shows this time twice", Tone::Warning),
            Some(FireNote::MovedByCalendar) => toned("moved by the calendar", Tone::Warning),
            None => toned("", Tone::Plain),
        };
        vec![fire.at.to_string().into(), fire.local.replace('T', " ").into(), fire.offset.into(), note]
    });
    session.out.table(&["UTC", "LOCAL", "OFFSET", "NOTE"], rows.collect())
}

async fn history(session: &Session, trigger: &str, decision: Option<&str>, args: &ListArgs) -> Result<(), Error> {
    let listed = list::<Fire, _>(session, args, |session| {
        Ok(session.client.get(&[NOUN, trigger, "history"])?.query_opt("decision", decision))
    });
    let Some(fires) = listed.await? else { return Ok(()) };
    if fires.is_empty() {
        return session.out.line("None of its instants has come yet. When do they? drover trigger preview TRIGGER");
    }
    session.out.table(&["INSTANT", "DECISION", "JOBS", "WHY"], fires.into_iter().map(fire_row).collect())
}

fn fire_row(fire: Fire) -> Vec<Shown> {
    let decision = match fire.decision {
        Decision::Fired => toned("fired", Tone::Good),
        Decision::Skipped => toned("skipped", Tone::Dim),
        Decision::Missed => toned("missed", Tone::Warning),
        Decision::Failed => toned("failed", Tone::Bad),
    };
    let jobs: Vec<String> = fire.job_ids.iter().map(ToString::to_string).collect();
    vec![moment(fire.instant).into(), decision, jobs.join(" ").into(), fire.reason.into()]
}

async fn backfill(session: &Session, trigger: &str, wanted: &Backfill) -> Result<(), Error> {
    let answer = session.client.post(&[NOUN, trigger, "backfill"])?.json(wanted)?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let done: Backfilled = answer.decode()?;
    session.out.line(&format!("{} instants have fired now; {} had fired before.", done.fired, done.fired_before))
}
