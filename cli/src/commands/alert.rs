//! `drover alert`: rules that say what people want to be told of, and what they have raised.

use clap::{Args as ClapArgs, Subcommand};
use drover_protocol::alert::{AcknowledgeAlert, Alert, AlertChannel, AlertPatch, NewAlert, RaisedAlert, RaisedState};
use serde_json::Value;

use crate::{
    commands::{ListArgs, events, list, simple},
    decode::decode_value,
    error::Error,
    output::{Shown, Tone, duration_ms, moment, number, toned},
    session::Session,
    values,
};

/// What an alert can watch.
const WHEN: [&str; 9] = [
    "job_failed",
    "job_lost",
    "job_waiting",
    "job_running_long",
    "task_over_sla",
    "robot_offline",
    "trigger_missed",
    "resource_expiring",
    "disk_low",
];

#[derive(Subcommand)]
pub enum AlertCommand {
    /// List alert rules
    List {
        #[command(flatten)]
        list: ListArgs,
    },
    /// Make an alert rule
    Create(CreateArgs),
    /// Delete an alert rule with all that it has raised
    Delete {
        /// Name or id
        alert: String,
    },
    /// Let an alert be raised
    Enable {
        /// Name or id
        alert: String,
    },
    /// Let an alert be raised no more; what it has raised is over
    Disable {
        /// Name or id
        alert: String,
    },
    /// Show what alerts have raised
    Raised {
        /// Only of this alert (name or id)
        #[arg(long)]
        alert: Option<String>,
        /// Also what is over
        #[arg(long)]
        ended: bool,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Say that you have seen to what was raised
    Acknowledge {
        /// Id of what was raised
        raised: String,
        /// What others should know
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Show what happened to an alert rule
    Events {
        /// Name or id
        alert: String,
        #[command(flatten)]
        list: ListArgs,
    },
}

#[derive(ClapArgs)]
pub struct CreateArgs {
    /// What it is called
    name: String,
    /// What it watches
    #[arg(long, value_parser = WHEN)]
    when: String,
    /// Only this process (name or id)
    #[arg(long)]
    process: Option<String>,
    /// Only this queue (name or id)
    #[arg(long)]
    queue: Option<String>,
    /// Only robots of this group, or jobs for it (name or id)
    #[arg(long)]
    group: Option<String>,
    /// How long is too long, such as 10m
    #[arg(long, value_parser = values::seconds, value_name = "TIME")]
    after: Option<u64>,
    /// Tell this address (repeatable)
    #[arg(long = "email", value_name = "ADDRESS")]
    emails: Vec<String>,
    /// Tell this webhook (name or id; repeatable)
    #[arg(long = "webhook", value_name = "WEBHOOK")]
    webhooks: Vec<String>,
    /// What it is for
    #[arg(long, default_value = "")]
    description: String,
}

impl CreateArgs {
    fn body(self) -> Result<NewAlert, Error> {
        let mut channels: Vec<AlertChannel> = Vec::new();
        if !self.emails.is_empty() {
            channels.push(AlertChannel { email: Some(self.emails), ..AlertChannel::default() });
        }
        let hook = |webhook| AlertChannel { webhook: Some(webhook), ..AlertChannel::default() };
        channels.extend(self.webhooks.into_iter().map(hook));
        if channels.is_empty() {
            channels.push(AlertChannel { console: Some(true), ..AlertChannel::default() });
        }
        Ok(NewAlert {
            name: self.name,
            description: self.description,
            enabled: None,
            when: decode_value(Value::String(self.when))?,
            process: self.process,
            queue: self.queue,
            group: self.group,
            after_seconds: self.after,
            channels,
        })
    }
}

const NOUN: &str = "alerts";

pub async fn run(session: &Session, command: AlertCommand) -> Result<(), Error> {
    let client = &session.client;
    match command {
        AlertCommand::List { list } => show_list(session, &list).await,
        AlertCommand::Create(args) => {
            let done = format!("Alert {} is made. What is raised? drover alert raised", args.name);
            simple(&session.out, client.post(&[NOUN])?.json(&args.body()?)?, &done).await
        }
        AlertCommand::Delete { alert } => {
            simple(&session.out, client.delete(&[NOUN, &alert])?, &format!("Alert {alert} is deleted.")).await
        }
        AlertCommand::Enable { alert } => {
            set_enabled(session, &alert, true, &format!("Alert {alert} is raised from now on.")).await
        }
        AlertCommand::Disable { alert } => {
            set_enabled(session, &alert, false, &format!("Alert {alert} is raised no more.")).await
        }
        AlertCommand::Raised { alert, ended, list } => raised(session, alert.as_deref(), ended, &list).await,
        AlertCommand::Acknowledge { raised, note } => {
            let call = client.post(&[NOUN, "raised", &raised, "acknowledge"])?.json(&AcknowledgeAlert { note })?;
            simple(&session.out, call, "It is noted that you have seen to it.").await
        }
        AlertCommand::Events { alert, list } => events(session, &list, &[NOUN, &alert, "events"]).await,
    }
}

async fn set_enabled(session: &Session, alert: &str, enabled: bool, done: &str) -> Result<(), Error> {
    let patch = AlertPatch { enabled: Some(enabled), ..AlertPatch::default() };
    simple(&session.out, session.client.patch(&[NOUN, alert])?.json(&patch)?, done).await
}

/// A word of a closed list, as it is on the wire.
fn word(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

fn channel(channel: &AlertChannel) -> String {
    match channel {
        AlertChannel { email: Some(addresses), .. } => addresses.join(" "),
        AlertChannel { webhook: Some(webhook), .. } => format!("webhook {webhook}"),
        _ => "console".to_owned(),
    }
}

async fn show_list(session: &Session, args: &ListArgs) -> Result<(), Error> {
    let Some(alerts) = list::<Alert, _>(session, args, |session| session.client.get(&[NOUN])).await? else {
        return Ok(());
    };
    if alerts.is_empty() {
        return session.out.line("There are no alert rules. Make one: drover alert create NAME --when job_failed");
    }
    let rows = alerts.into_iter().map(|alert| {
        let state = if alert.enabled { toned("enabled", Tone::Good) } else { toned("disabled", Tone::Dim) };
        let after = alert.after_seconds.map(|seconds| duration_ms(u128::from(seconds) * 1_000)).unwrap_or_default();
        let channels: Vec<String> = alert.channels.iter().map(channel).collect();
        vec![alert.name.into(), state, word(alert.when).into(), after.into(), channels.join(", ").into()]
    });
    session.out.table(&["NAME", "STATE", "WHEN", "AFTER", "TOLD TO"], rows.collect())
}

/// State, tone and words of what was raised.
fn raised_state(raised: &RaisedAlert) -> Shown {
    match (raised.state, &raised.acknowledged) {
        (RaisedState::Ended, _) => toned("ended", Tone::Dim),
        (RaisedState::Raised, Some(seen)) => toned(format!("seen by {}", seen.by), Tone::Warning),
        (RaisedState::Raised, None) => toned("raised", Tone::Bad),
    }
}

async fn raised(session: &Session, alert: Option<&str>, ended: bool, args: &ListArgs) -> Result<(), Error> {
    let state = (!ended).then_some("raised");
    let listed = list::<RaisedAlert, _>(session, args, |session| {
        Ok(session.client.get(&[NOUN, "raised"])?.query_opt("alert", alert).query_opt("state", state))
    });
    let Some(raised) = listed.await? else { return Ok(()) };
    if raised.is_empty() {
        return session.out.line("Nothing is raised.");
    }
    let rows = raised.into_iter().map(|one| {
        let state = raised_state(&one);
        let (at, times) = (moment(one.raised_at), number(one.count));
        vec![at.into(), one.id.to_string().into(), one.alert_name.into(), state, times, one.text.into()]
    });
    session.out.table(&["SINCE", "ID", "ALERT", "STATE", "TIMES", "WHAT"], rows.collect())
}
