//! Which tasks are meant: the same arguments for lists, exports and bulk actions.

use clap::{Args, ValueEnum};
use drover_protocol::{
    JobId, TaskId, Timestamp,
    task::{TaskErrorKind, TaskFilter, TaskState},
};
use serde_json::Value;

use crate::{client::Call, values};

#[derive(Args)]
pub struct FilterArgs {
    /// Only those of this queue (name or id)
    #[arg(long, short)]
    queue: Option<String>,
    /// Only those in this state (repeatable)
    #[arg(long = "state", value_enum)]
    states: Vec<StateArg>,
    /// Only those with this reference
    #[arg(long)]
    reference: Option<String>,
    /// Only those with this tag, or with a - before it those without (repeatable)
    #[arg(long = "tag", allow_hyphen_values = true)]
    tags: Vec<String>,
    /// Only those of this priority: 1 low, 2 normal, 3 high
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=3))]
    priority: Option<u8>,
    /// Only those added since this time (2026-11-23T18:00) or in this last while (2h)
    #[arg(long, value_parser = values::past_moment, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Only those added before this time
    #[arg(long, value_parser = values::past_moment, value_name = "TIME")]
    before: Option<Timestamp>,
    /// Only those that failed with this kind of error
    #[arg(long, value_enum, value_name = "KIND")]
    error: Option<ErrorKindArg>,
    /// Only those that this job holds or held last (id)
    #[arg(long, value_parser = values::id::<JobId>("job"))]
    job: Option<JobId>,
    /// Only this task (id, repeatable)
    #[arg(long = "id", value_name = "TASK", value_parser = values::id::<TaskId>("task"))]
    ids: Vec<TaskId>,
    /// Only those whose payload has this value there (repeatable), for example customer.city=Kazan
    #[arg(long = "where", value_parser = values::pair, value_name = "PATH=VALUE")]
    conditions: Vec<(String, String)>,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum StateArg {
    New,
    InProgress,
    Succeeded,
    Failed,
    Postponed,
    Abandoned,
}

#[derive(Clone, Copy, ValueEnum)]
enum ErrorKindArg {
    Business,
    Application,
}

impl FilterArgs {
    /// As the body of a call holds it.
    pub fn filter(&self) -> TaskFilter {
        let state = |state: &StateArg| match state {
            StateArg::New => TaskState::New,
            StateArg::InProgress => TaskState::InProgress,
            StateArg::Succeeded => TaskState::Succeeded,
            StateArg::Failed => TaskState::Failed,
            StateArg::Postponed => TaskState::Postponed,
            StateArg::Abandoned => TaskState::Abandoned,
        };
        let kind = |kind: &ErrorKindArg| match kind {
            ErrorKindArg::Business => TaskErrorKind::Business,
            ErrorKindArg::Application => TaskErrorKind::Application,
        };
        TaskFilter {
            queue: self.queue.clone(),
            state: self.states.iter().map(state).collect(),
            reference: self.reference.clone(),
            tag: self.tags.clone(),
            priority: self.priority,
            created_from: self.since,
            created_to: self.before,
            error_kind: self.error.as_ref().map(kind),
            job: self.job,
            id: self.ids.clone(),
            // As text, as in a query: the coordinator compares texts, and 007 is not 7.
            payload: self.conditions.iter().map(|(path, value)| (path.clone(), value.as_str().into())).collect(),
        }
    }

    /// The same in the query of a call.
    pub fn query<'a>(&self, mut call: Call<'a>) -> Call<'a> {
        let filter = self.filter();
        for state in &filter.state {
            call = call.query("state", state.as_str());
        }
        for tag in &filter.tag {
            call = call.query("tag", tag);
        }
        for id in &filter.id {
            call = call.query("id", id);
        }
        for (path, value) in &self.conditions {
            call = call.query(&format!("payload.{path}"), value);
        }
        let kind = filter.error_kind.and_then(|kind| serde_json::to_value(kind).ok());
        call.query_opt("queue", filter.queue)
            .query_opt("reference", filter.reference)
            .query_opt("priority", filter.priority)
            .query_opt("created_from", filter.created_from)
            .query_opt("created_to", filter.created_to)
            .query_opt("error_kind", kind.as_ref().and_then(Value::as_str))
            .query_opt("job", filter.job)
    }

    /// Whether it leaves out nothing at all.
    pub fn is_empty(&self) -> bool {
        self.filter() == TaskFilter::default()
    }
}
