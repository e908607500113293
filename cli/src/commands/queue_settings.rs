//! The settings of a queue as arguments, for making and for changing one.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value};

use crate::{error::Error, values};

#[derive(Args)]
pub struct CreateArgs {
    pub name: String,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args)]
pub struct UpdateArgs {
    /// Name or id
    pub queue: String,
    /// A new name
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    settings: Settings,
    /// Take a setting away (repeatable)
    #[arg(long = "clear", value_name = "SETTING", value_parser = CLEARABLE)]
    cleared: Vec<String>,
}

/// What can be absent, as the API names it.
const CLEARABLE: [&str; 6] = [
    "abandon_new_after_seconds",
    "payload_schema",
    "output_schema",
    "sla_seconds",
    "on_success_queue",
    "on_failure_queue",
];

#[derive(Args)]
struct Settings {
    #[arg(long)]
    description: Option<String>,
    /// No two tasks may have the same reference: adding one again adds nothing
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "true|false")]
    unique_references: Option<bool>,
    /// Attempts that count before a task stays failed (1: no task is tried again by itself)
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// Try again after application errors
    #[arg(long, value_name = "true|false")]
    retry_application: Option<bool>,
    /// Try again after business errors
    #[arg(long, value_name = "true|false")]
    retry_business: Option<bool>,
    /// Try again after a lease has run out
    #[arg(long, value_name = "true|false")]
    retry_abandoned: Option<bool>,
    /// Wait before the first repetition, for example 30s
    #[arg(long, value_parser = values::seconds, value_name = "DURATION")]
    retry_delay: Option<u64>,
    /// Each further repetition waits so many times longer
    #[arg(long, value_name = "FACTOR")]
    retry_factor: Option<f64>,
    /// No repetition waits longer
    #[arg(long, value_parser = values::seconds, value_name = "DURATION")]
    retry_max_delay: Option<u64>,
    /// How long a taker keeps a task without renewing it, for example 10m
    #[arg(long, value_parser = values::seconds, value_name = "DURATION")]
    lease: Option<u64>,
    /// Abandon tasks that nobody takes for this long
    #[arg(long, value_parser = values::seconds, value_name = "DURATION")]
    abandon_new_after: Option<u64>,
    /// File with the JSON Schema of payloads
    #[arg(long, value_name = "FILE")]
    payload_schema: Option<PathBuf>,
    /// File with the JSON Schema of outputs
    #[arg(long, value_name = "FILE")]
    output_schema: Option<PathBuf>,
    /// How long after it was added a task should have ended
    #[arg(long, value_parser = values::seconds, value_name = "DURATION")]
    sla: Option<u64>,
    /// Days for which succeeded tasks are kept (0: for ever)
    #[arg(long, value_name = "DAYS")]
    keep_done: Option<u32>,
    /// Days for which failed and abandoned tasks are kept (0: for ever)
    #[arg(long, value_name = "DAYS")]
    keep_failed: Option<u32>,
    /// Queue that gets a task for each one that succeeded
    #[arg(long, value_name = "QUEUE")]
    on_success: Option<String>,
    /// Queue that gets a task for each one that stays failed
    #[arg(long, value_name = "QUEUE")]
    on_failure: Option<String>,
    /// Whether tasks of a job that has ended end with it
    #[arg(long, value_name = "true|false")]
    settle_with_job: Option<bool>,
}

impl CreateArgs {
    pub fn body(&self) -> Result<Map<String, Value>, Error> {
        let mut body = self.settings.body()?;
        body.insert("name".to_owned(), self.name.clone().into());
        Ok(body)
    }
}

impl UpdateArgs {
    pub fn body(&self) -> Result<Map<String, Value>, Error> {
        let mut body = self.settings.body()?;
        put(&mut body, "name", self.name.clone());
        for name in &self.cleared {
            if body.insert(name.clone(), Value::Null).is_some() {
                return Err(Error::Usage(format!("{name} is both given and taken away")));
            }
        }
        if body.is_empty() {
            return Err(Error::Usage("nothing is to be changed: name a setting, see --help".to_owned()));
        }
        Ok(body)
    }
}

impl Settings {
    /// Only what was given, as the API names it.
    fn body(&self) -> Result<Map<String, Value>, Error> {
        let mut retry = Map::new();
        put(&mut retry, "application", self.retry_application);
        put(&mut retry, "business", self.retry_business);
        put(&mut retry, "abandoned", self.retry_abandoned);
        put(&mut retry, "delay_seconds", self.retry_delay);
        put(&mut retry, "factor", self.retry_factor);
        put(&mut retry, "max_delay_seconds", self.retry_max_delay);
        let mut retention = Map::new();
        put(&mut retention, "done_days", self.keep_done);
        put(&mut retention, "failed_days", self.keep_failed);
        let mut body = Map::new();
        put(&mut body, "description", self.description.clone());
        put(&mut body, "unique_references", self.unique_references);
        put(&mut body, "max_attempts", self.max_attempts);
        put(&mut body, "retry", (!retry.is_empty()).then_some(retry));
        put(&mut body, "lease_seconds", self.lease);
        put(&mut body, "abandon_new_after_seconds", self.abandon_new_after);
        put(&mut body, "payload_schema", self.payload_schema.as_ref().map(values::json_file).transpose()?);
        put(&mut body, "output_schema", self.output_schema.as_ref().map(values::json_file).transpose()?);
        put(&mut body, "sla_seconds", self.sla);
        put(&mut body, "retention", (!retention.is_empty()).then_some(retention));
        put(&mut body, "on_success_queue", self.on_success.clone());
        put(&mut body, "on_failure_queue", self.on_failure.clone());
        put(&mut body, "settle_with_job", self.settle_with_job);
        Ok(body)
    }
}

fn put(body: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        body.insert(name.to_owned(), value.into());
    }
}
