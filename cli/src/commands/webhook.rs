//! `drover webhook`: addresses outside to which events are sent.

use clap::{Args as ClapArgs, Subcommand};
use drover_protocol::{
    news::NewsType,
    webhook::{
        Delivery, DeliveryState, NewWebhook, RotateSecret, Webhook, WebhookPatch, WebhookTested, WebhookWithSecret,
    },
};

use crate::{
    commands::{ListArgs, events, list, simple},
    error::Error,
    output::{Shown, Tone, moment, moment_opt, note, number, toned},
    session::Session,
    values,
};

#[derive(Subcommand)]
pub enum WebhookCommand {
    /// List webhooks
    List {
        #[command(flatten)]
        list: ListArgs,
    },
    /// Show a webhook and how it fares
    Show {
        /// Name or id
        webhook: String,
    },
    /// Make a webhook; its secret is shown only once
    Create {
        /// What it is called
        name: String,
        /// Where events are sent
        #[arg(long)]
        url: String,
        /// A type of events, such as job.finished (repeatable)
        #[arg(long = "event", value_name = "TYPE", required = true, value_parser = event_type)]
        events: Vec<NewsType>,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
    },
    /// Change a webhook; what is not named stays as it is
    Update(UpdateArgs),
    /// Delete a webhook with its deliveries
    Delete {
        /// Name or id
        webhook: String,
    },
    /// Send it events
    Enable {
        /// Name or id
        webhook: String,
    },
    /// Send it nothing
    Disable {
        /// Name or id
        webhook: String,
    },
    /// Give it a new secret, shown only once
    RotateSecret {
        /// Name or id
        webhook: String,
        /// So long the old one is good as well, such as 1h
        #[arg(long, value_parser = values::seconds, value_name = "TIME")]
        grace: Option<u64>,
    },
    /// Send a test and show how the receiver answers
    Test {
        /// Name or id
        webhook: String,
    },
    /// Show what was sent, and what became of it
    Deliveries {
        /// Name or id
        webhook: String,
        /// Only these
        #[arg(long, value_parser = ["waiting", "delivered", "given_up"])]
        state: Option<String>,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Send a delivery again
    Replay {
        /// Name or id
        webhook: String,
        /// Id of the delivery
        delivery: String,
    },
    /// Show what happened to a webhook
    Events {
        /// Name or id
        webhook: String,
        #[command(flatten)]
        list: ListArgs,
    },
}

#[derive(ClapArgs)]
pub struct UpdateArgs {
    /// Name or id
    webhook: String,
    /// Another name
    #[arg(long)]
    name: Option<String>,
    /// Where events are sent
    #[arg(long)]
    url: Option<String>,
    /// The types of events, in place of those of before (repeatable)
    #[arg(long = "event", value_name = "TYPE", value_parser = event_type)]
    events: Vec<NewsType>,
    /// What it is for
    #[arg(long)]
    description: Option<String>,
}

fn event_type(text: &str) -> Result<NewsType, String> {
    NewsType::ALL.iter().copied().find(|kind| kind.as_str() == text).ok_or_else(|| {
        let known: Vec<&str> = NewsType::ALL.iter().map(|kind| kind.as_str()).collect();
        format!("is none of {}", known.join(", "))
    })
}

const NOUN: &str = "webhooks";

pub async fn run(session: &Session, command: WebhookCommand) -> Result<(), Error> {
    let client = &session.client;
    match command {
        WebhookCommand::List { list } => show_list(session, &list).await,
        WebhookCommand::Show { webhook } => show(session, &webhook).await,
        WebhookCommand::Create { name, url, events, description } => {
            let new = NewWebhook { name, description, url, events, enabled: None };
            show_secret(session, client.post(&[NOUN])?.json(&new)?).await
        }
        WebhookCommand::Update(args) => update(session, args).await,
        WebhookCommand::Delete { webhook } => {
            simple(&session.out, client.delete(&[NOUN, &webhook])?, &format!("Webhook {webhook} is deleted.")).await
        }
        WebhookCommand::Enable { webhook } => {
            set_enabled(session, &webhook, true, &format!("Webhook {webhook} is sent events from now on.")).await
        }
        WebhookCommand::Disable { webhook } => {
            set_enabled(session, &webhook, false, &format!("Webhook {webhook} is sent nothing from now on.")).await
        }
        WebhookCommand::RotateSecret { webhook, grace } => {
            let call = client.post(&[NOUN, &webhook, "rotate-secret"])?;
            show_secret(session, call.json(&RotateSecret { grace_seconds: grace })?).await
        }
        WebhookCommand::Test { webhook } => test(session, &webhook).await,
        WebhookCommand::Deliveries { webhook, state, list } => {
            deliveries(session, &webhook, state.as_deref(), &list).await
        }
        WebhookCommand::Replay { webhook, delivery } => {
            let call = client.post(&[NOUN, &webhook, "deliveries", &delivery, "replay"])?;
            simple(&session.out, call, &format!("Delivery {delivery} is sent again.")).await
        }
        WebhookCommand::Events { webhook, list } => events(session, &list, &[NOUN, &webhook, "events"]).await,
    }
}

async fn update(session: &Session, args: UpdateArgs) -> Result<(), Error> {
    let patch = WebhookPatch {
        name: args.name,
        description: args.description,
        url: args.url,
        events: (!args.events.is_empty()).then_some(args.events),
        enabled: None,
    };
    let call = session.client.patch(&[NOUN, &args.webhook])?.json(&patch)?;
    simple(&session.out, call, &format!("Webhook {} is changed.", args.webhook)).await
}

async fn set_enabled(session: &Session, webhook: &str, enabled: bool, done: &str) -> Result<(), Error> {
    let patch = WebhookPatch { enabled: Some(enabled), ..WebhookPatch::default() };
    simple(&session.out, session.client.patch(&[NOUN, webhook])?.json(&patch)?, done).await
}

fn state(webhook: &Webhook) -> Shown {
    match (webhook.enabled, webhook.failing_since) {
        (false, _) => toned("disabled", Tone::Dim),
        (true, Some(_)) => toned("failing", Tone::Bad),
        (true, None) => toned("enabled", Tone::Good),
    }
}

fn types(webhook: &Webhook) -> String {
    webhook.events.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(" ")
}

async fn show_list(session: &Session, args: &ListArgs) -> Result<(), Error> {
    let Some(webhooks) = list::<Webhook, _>(session, args, |session| session.client.get(&[NOUN])).await? else {
        return Ok(());
    };
    if webhooks.is_empty() {
        return session
            .out
            .line("There are no webhooks. Make one: drover webhook create NAME --url URL --event job.finished");
    }
    let rows = webhooks.into_iter().map(|webhook| {
        let (state, types) = (state(&webhook), types(&webhook));
        vec![webhook.name.into(), state, number(webhook.waiting), webhook.url.into(), types.into()]
    });
    session.out.table(&["NAME", "STATE", "WAITING", "URL", "EVENTS"], rows.collect())
}

fn fields(webhook: &Webhook) -> Vec<(&'static str, Shown)> {
    vec![
        ("name", webhook.name.clone().into()),
        ("id", webhook.id.to_string().into()),
        ("description", webhook.description.clone().into()),
        ("url", webhook.url.clone().into()),
        ("events", types(webhook).into()),
        ("state", state(webhook)),
        ("because", webhook.disabled_because.clone().unwrap_or_default().into()),
        ("waiting", number(webhook.waiting)),
        ("last delivered", moment_opt(webhook.last_delivered_at).into()),
        ("failing since", moment_opt(webhook.failing_since).into()),
        ("old secret until", moment_opt(webhook.old_secret_until).into()),
    ]
}

async fn show(session: &Session, webhook: &str) -> Result<(), Error> {
    let answer = session.client.get(&[NOUN, webhook])?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    session.out.fields(fields(&answer.decode()?))
}

async fn show_secret(session: &Session, call: crate::client::Call<'_>) -> Result<(), Error> {
    let answer = call.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let made: WebhookWithSecret = answer.decode()?;
    let mut rows = vec![("secret", made.secret.into())];
    rows.extend(fields(&made.webhook));
    session.out.fields(rows)?;
    note("Keep the secret now: it is not shown again. The receiver checks signatures with it.");
    Ok(())
}

async fn test(session: &Session, webhook: &str) -> Result<(), Error> {
    let answer = session.client.post(&[NOUN, webhook, "test"])?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let tested: WebhookTested = answer.decode()?;
    let taken = if tested.delivered { toned("yes", Tone::Good) } else { toned("no", Tone::Bad) };
    session.out.fields(vec![
        ("taken", taken),
        ("status", tested.status.map(|status| status.to_string()).unwrap_or_default().into()),
        ("because", tested.error.unwrap_or_default().into()),
        ("after", format!("{} ms", tested.latency_ms).into()),
        ("answer", tested.answer.unwrap_or_default().into()),
    ])
}

async fn deliveries(session: &Session, webhook: &str, state: Option<&str>, args: &ListArgs) -> Result<(), Error> {
    let listed = list::<Delivery, _>(session, args, |session| {
        Ok(session.client.get(&[NOUN, webhook, "deliveries"])?.query_opt("state", state))
    });
    let Some(deliveries) = listed.await? else { return Ok(()) };
    if deliveries.is_empty() {
        return session.out.line("Nothing has been sent yet. Does it work? drover webhook test WEBHOOK");
    }
    let rows = deliveries.into_iter().map(|delivery| {
        let state = match delivery.state {
            DeliveryState::Waiting => toned("waiting", Tone::Warning),
            DeliveryState::Delivered => toned("delivered", Tone::Good),
            DeliveryState::GivenUp => toned("given up", Tone::Bad),
        };
        let last = delivery.tries.last();
        let how = last.map(|last| match (&last.error, last.status) {
            (Some(error), _) => error.clone(),
            (None, status) => format!("{} in {} ms", status.unwrap_or_default(), last.latency_ms),
        });
        vec![
            moment(delivery.created_at).into(),
            delivery.id.to_string().into(),
            delivery.event.as_str().into(),
            state,
            number(delivery.tries.len()),
            moment_opt(delivery.next_try_at).into(),
            how.unwrap_or_default().into(),
        ]
    });
    session.out.table(&["WHEN", "ID", "EVENT", "STATE", "TRIES", "NEXT", "LAST ANSWER"], rows.collect())
}
