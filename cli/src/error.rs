//! Everything that can go wrong, how it is told to a person, and the exit code that goes with it.

use std::{io, path::PathBuf};

use drover_protocol::problem::{Code, Problem};

/// Exit code of a wrong command line; clap uses the same.
pub const EXIT_USAGE: u8 = 2;
/// Exit code of every other failure of the command itself.
pub const EXIT_FAILURE: u8 = 1;
/// Exit code after the third Ctrl-C, as shells write an interrupt.
pub const EXIT_INTERRUPTED: u8 = 130;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or a file it names cannot be used.
    #[error("{0}")]
    Usage(String),
    /// The coordinator refused, and said why.
    #[error("{}", .0.problem.title)]
    Refused(Box<Refused>),
    /// The answer was an error, but no problem document: a proxy, or not a coordinator at all.
    #[error("{server} answered {status} without saying why; is it a Drover coordinator? {hint}")]
    NotACoordinator { server: String, status: u16, hint: String },
    /// No answer, or not a whole one.
    #[error("{0}")]
    Network(Box<NetworkError>),
    /// The answer was not what this version of the command line understands.
    #[error("the answer cannot be understood ({0}); --json shows it as it is")]
    Answer(String),
    /// What was received is not what was sent.
    #[error("{what} arrived damaged: its digest is {found}, but should be {expected}; try again")]
    Damaged { what: String, expected: String, found: String },
    #[error("cannot {action} {}: {source}", .path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot write the output: {0}")]
    Output(#[source] io::Error),
    /// The others of a folder are written; what was wrong with each of these has been told.
    #[error("{failed} of {all} files are not written")]
    NotWritten { failed: usize, all: usize },
    /// The audit trail was tampered with.
    #[error("the audit trail is not whole")]
    NotWhole,
    /// Ctrl-C was pressed until the end.
    #[error("left; the job goes on")]
    Left,
}

/// A problem document, and the body that it was read from.
#[derive(Debug)]
pub struct Refused {
    pub problem: Problem,
    pub body: String,
}

/// A call that got no answer.
#[derive(Debug, thiserror::Error)]
#[error("{server} cannot be reached: {reason}")]
pub struct NetworkError {
    /// Address of the coordinator.
    pub server: String,
    /// The causes, outermost first.
    pub reason: String,
    /// Nobody listens there, or the name or certificate is wrong: surely nothing was done.
    pub not_connected: bool,
    /// The `Idempotency-Key` with which the call can be repeated safely.
    pub idempotency_key: Option<String>,
    /// It may have been carried out, and must not simply be repeated.
    pub outcome_unknown: bool,
}

impl Error {
    /// For `map_err` of calls of the file system.
    pub fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => EXIT_USAGE,
            Self::Left => EXIT_INTERRUPTED,
            _ => EXIT_FAILURE,
        }
    }

    /// The code of the problem document, if there is one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(refused) => Some(refused.problem.code),
            _ => None,
        }
    }

    /// Whether whoever reads the output has gone: nobody is left to be told.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// What happened, field by field, and what helps; without control characters.
    pub fn explain(&self) -> String {
        let text = match self {
            Self::Refused(refused) => explain_problem(&refused.problem),
            Self::Network(error) => explain_network(error),
            other => other.to_string(),
        };
        crate::output::printable(&text).into_owned()
    }
}

fn explain_problem(problem: &Problem) -> String {
    let mut text = problem.title.clone();
    if !problem.detail.is_empty() && problem.detail != problem.title {
        text.push_str(": ");
        text.push_str(&problem.detail);
    }
    for field in &problem.errors {
        text.push_str(&format!("\n  {}: {}", field.pointer, field.detail));
    }
    if let Some(id) = &problem.id {
        text.push_str(&format!("\n  the one that is there: {id}"));
    }
    text.push_str(&format!("\n  code {}, request {}", problem.code.as_str(), problem.request_id));
    if problem.code == Code::Unauthenticated {
        text.push_str("\n  Sign in with 'drover login', or give a valid key by --key or DROVER_KEY.");
    }
    text
}

fn explain_network(error: &NetworkError) -> String {
    let mut text = error.to_string();
    if error.not_connected {
        text.push_str(
            "\n  Is the coordinator running, and is the address right? Give another one by --server or DROVER_URL.",
        );
    } else if let Some(key) = &error.idempotency_key {
        text.push_str(&format!(
            "\n  Whether it was carried out is not known. Repeating it with --idempotency-key {key} is safe."
        ));
    } else if error.outcome_unknown {
        text.push_str("\n  Whether it was carried out is not known: look before you repeat it.");
    }
    text
}
