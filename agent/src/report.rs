//! The end report of an attempt: from what supervisor and process left behind to outcome, cause, error and output. Rules
//! only, no I/O.

use drover_protocol::{
    agent::{ErrorFile, Finish, MAX_CAUSE_BYTES, MAX_ERROR_BYTES, MAX_ERROR_CODE_BYTES},
    job::{Cause, CauseCode, ErrorKind, Exit, JobError, Outcome},
    json::{MAX_DEPTH, is_too_deep, too_long_number},
    problem::{Code, Problem},
};
use serde_json::Value;

use crate::{
    attempt::AttemptId,
    exit::meaning,
    launcher::{EndMode, EndRequest, Ended, Interference},
    output::floor_char_boundary,
    redact::Redactor,
};

/// The largest output, as JSON.
pub const MAX_OUTPUT_BYTES: usize = 1024 * 1024;

/// What was found in a result file.
#[derive(Clone, Debug, PartialEq)]
pub enum ResultFile<T> {
    Absent,
    Content(T),
    /// It is there but cannot be used; the reason in words.
    Unusable(String),
}

impl ResultFile<Value> {
    /// Also the reason: it may quote what it is about, and becomes part of cause and error.
    fn masked(self, redactor: &Redactor) -> Self {
        match self {
            Self::Absent => Self::Absent,
            Self::Content(value) => Self::Content(redactor.value(value)),
            Self::Unusable(reason) => Self::Unusable(redactor.text(&reason)),
        }
    }
}

/// Who is named in a cause.
fn cause(by: &str, code: CauseCode, message: impl AsRef<str>) -> Cause {
    Cause { by: by.to_owned(), code, message: shortened(message.as_ref(), MAX_CAUSE_BYTES) }
}

fn infrastructure(message: &str) -> JobError {
    JobError { kind: ErrorKind::Infrastructure, code: None, message: shortened(message, MAX_ERROR_BYTES) }
}

/// A report without exit, output and usage.
fn bare(id: AttemptId, outcome: Outcome, cause: Cause, error: Option<JobError>) -> Finish {
    Finish { attempt: id.attempt, outcome, exit: None, output: None, error, cause, usage: None }
}

/// The agent could not get so far as to start the process.
pub fn not_started(id: AttemptId, code: CauseCode, message: &str) -> Finish {
    bare(id, Outcome::Failed, cause("agent", code, message), Some(infrastructure(message)))
}

/// An end was asked before the process was started.
pub fn ended_before_start(id: AttemptId, request: &EndRequest) -> Finish {
    let outcome = match request.mode {
        EndMode::Soft => Outcome::Stopped,
        EndMode::Hard => Outcome::Aborted,
    };
    let mut cause = request.cause.clone();
    cause.message = shortened(&format!("{}; the process had not been started", cause.message), MAX_CAUSE_BYTES);
    bare(id, outcome, cause, None)
}

/// The end was asked for while artifacts were being delivered. What the process came to stays, but a success that did not
/// deliver what it made is none.
pub fn not_delivered(report: &mut Finish, asked: &Cause) {
    const NOTE: &str = "not all of its artifacts were delivered, because the end of the job was asked for meanwhile";
    if report.outcome == Outcome::Succeeded {
        report.outcome = Outcome::Aborted;
        report.cause = asked.clone();
    }
    match &mut report.error {
        Some(error) => error.message = shortened(&format!("{} (besides, {NOTE})", error.message), MAX_ERROR_BYTES),
        None => report.error = Some(infrastructure(NOTE)),
    }
}

/// Nobody can know how the process ended.
pub fn lost(id: AttemptId, why: &str) -> Finish {
    let message = format!("{why}; whatever was left of the process has been ended");
    bare(id, Outcome::Lost, cause("agent", CauseCode::AgentRestarted, &message), Some(infrastructure(&message)))
}

/// The supervisor was killed while the agent was there.
pub fn supervisor_killed(id: AttemptId) -> Finish {
    let message =
        "something else on the host killed the supervisor of the process; the process and its tree were ended";
    let mut report =
        bare(id, Outcome::Failed, cause("agent", CauseCode::Signal, message), Some(infrastructure(message)));
    report.exit = Some(Exit { code: None, signal: Some(9), meaning: meaning(None, Some(9)) });
    report
}

/// The journal does not take what must be on disk first.
pub fn journal_unwritable(id: AttemptId) -> Finish {
    let message =
        "the agent could not write to its state folder, so the process was not started; see to the host's disk";
    not_started(id, CauseCode::LaunchFailed, message)
}

/// The report of a process that was started. Masks what it takes over from the process.
pub fn of_process(
    id: AttemptId,
    ended: &Ended,
    output: ResultFile<Value>,
    error: ResultFile<ErrorFile>,
    redactor: &Redactor,
) -> Finish {
    let exit = Exit {
        code: ended.code.map(i64::from),
        signal: ended.signal,
        meaning: meaning(ended.code.map(i64::from), ended.signal),
    };
    if let Some(message) = &ended.launch_error {
        let mut report = not_started(id, CauseCode::LaunchFailed, message);
        report.usage = Some(ended.usage.clone());
        return report;
    }
    let output = output.masked(redactor);
    let (outcome, cause, mut job_error) = judge(ended, &exit, &output, error, redactor);
    let output = match output {
        ResultFile::Content(value) => Some(value),
        ResultFile::Absent => None,
        ResultFile::Unusable(reason) => {
            // Worth knowing also when something else decided the outcome.
            if let Some(error) = job_error.as_mut().filter(|_| cause.code != CauseCode::OutputInvalid) {
                error.message = shortened(&format!("{} (besides, {reason})", error.message), MAX_ERROR_BYTES);
            }
            None
        }
    };
    Finish {
        attempt: id.attempt,
        outcome,
        exit: Some(exit),
        output,
        error: job_error,
        cause,
        usage: Some(ended.usage.clone()),
    }
}

fn judge(
    ended: &Ended,
    exit: &Exit,
    output: &ResultFile<Value>,
    error: ResultFile<ErrorFile>,
    redactor: &Redactor,
) -> (Outcome, Cause, Option<JobError>) {
    let written = match error {
        ResultFile::Absent => None,
        ResultFile::Content(file) => Some(JobError {
            kind: file.kind,
            code: file.code.map(|code| shortened(&redactor.text(&code), MAX_ERROR_CODE_BYTES)),
            message: shortened(&redactor.text(&file.message), MAX_ERROR_BYTES),
        }),
        ResultFile::Unusable(reason) => Some(application(&redactor.text(&reason))),
    };
    match &ended.interference {
        Interference::None => by_itself(ended, exit, output, written),
        Interference::Stopped(cause) => (Outcome::Stopped, cause.clone(), written),
        Interference::StopForced(asked) => {
            let message = format!("{}, and the process did not end within its grace", asked.message);
            (Outcome::Aborted, cause("agent", CauseCode::StopGraceExceeded, message), written)
        }
        Interference::Aborted(cause) => (Outcome::Aborted, cause.clone(), written),
        Interference::TimedOut => {
            (Outcome::TimedOut, cause("agent", CauseCode::Timeout, "the job's time limit is over"), written)
        }
        Interference::SupervisorEnded => {
            let message = "the supervisor of the process was told to end, as happens when the host goes down";
            (Outcome::Aborted, cause("agent", CauseCode::AgentStopped, message), written)
        }
    }
}

fn by_itself(
    ended: &Ended,
    exit: &Exit,
    output: &ResultFile<Value>,
    written: Option<JobError>,
) -> (Outcome, Cause, Option<JobError>) {
    let failed = |code, message: &str, error| (Outcome::Failed, cause("process", code, message), Some(error));
    if let Some(error) = written {
        let code = match error.kind {
            ErrorKind::Business => CauseCode::BusinessError,
            ErrorKind::Application => CauseCode::ApplicationError,
            ErrorKind::Infrastructure => CauseCode::InfrastructureError,
        };
        return failed(code, &error.message.clone(), error);
    }
    let killed = ended.signal == Some(9) || ended.code == Some(137);
    if killed && ended.out_of_memory {
        let message = "the host ended the process for lack of memory";
        return failed(CauseCode::OutOfMemory, message, infrastructure(message));
    }
    if ended.signal.is_some() {
        return failed(CauseCode::Signal, &exit.meaning, application(&exit.meaning));
    }
    if ended.code != Some(0) {
        return failed(CauseCode::ExitCode, &exit.meaning, application(&exit.meaning));
    }
    if let ResultFile::Unusable(reason) = output {
        return failed(CauseCode::OutputInvalid, reason, application(reason));
    }
    (Outcome::Succeeded, cause("process", CauseCode::Completed, "the process ended with success"), None)
}

fn application(message: &str) -> JobError {
    JobError { kind: ErrorKind::Application, code: None, message: shortened(message, MAX_ERROR_BYTES) }
}

/// A text of at most `limit` bytes; what is cut says so.
fn shortened(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let note = format!(" … (cut; it has {} bytes)", text.len());
    let end = floor_char_boundary(text, limit.saturating_sub(note.len()));
    format!("{}{note}", &text[..end])
}

/// Makes a report acceptable that the coordinator has refused as it is: a final state must be reachable. Returns false if
/// there is nothing left to take away.
pub fn reduce(report: &mut Finish, problem: &Problem) -> bool {
    if !matches!(problem.code, Code::TooLarge | Code::Invalid) {
        return false;
    }
    let message = format!("the coordinator refused the report: {}", shortened(&problem.detail, 1000));
    if report.output.take().is_some() {
        if report.outcome == Outcome::Succeeded {
            report.outcome = Outcome::Failed;
            report.cause = cause("agent", CauseCode::OutputInvalid, &message);
            report.error = Some(application(&message));
        }
        return true;
    }
    if report.error.as_ref().is_some_and(|error| error.message != message) {
        report.error = Some(application(&message));
        report.cause.message = shortened(&report.cause.message, 500);
        return true;
    }
    false
}

/// Reads the text of `output.json`.
pub fn parse_output(content: &[u8]) -> ResultFile<Value> {
    if content.iter().all(u8::is_ascii_whitespace) {
        return ResultFile::Unusable("output.json is empty; write a JSON value or no file".to_owned());
    }
    if let Some(number) = too_long_number(content) {
        // With all its digits, so that a secret in it is found; the report is cut after it is masked.
        return ResultFile::Unusable(format!(
            "output.json: a whole number has more digits than are kept; write it as text, in quotes: {number}"
        ));
    }
    match serde_json::from_slice::<Value>(content) {
        Err(error) => ResultFile::Unusable(format!("output.json is not valid JSON: {error}")),
        Ok(value) if is_too_deep(&value) => {
            ResultFile::Unusable(format!("output.json is nested deeper than {MAX_DEPTH} levels; use an artifact"))
        }
        Ok(value) => match serde_json::to_string(&value) {
            Ok(text) if text.len() <= MAX_OUTPUT_BYTES => ResultFile::Content(value),
            _ => ResultFile::Unusable(too_large()),
        },
    }
}

/// What is said of an output over the limit.
pub fn too_large() -> String {
    format!(
        "output.json is larger than {MAX_OUTPUT_BYTES} bytes; write the data to a file in the folder DROVER_ARTIFACTS instead"
    )
}

/// Reads the text of `error.json`.
pub fn parse_error(content: &[u8]) -> ResultFile<ErrorFile> {
    match serde_json::from_slice(content) {
        Ok(file) => ResultFile::Content(file),
        Err(error) => ResultFile::Unusable(format!(
            "error.json is there but cannot be read (it should be {{\"kind\": \"business\" or \"application\", \"message\": \"…\"}}): {error}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use drover_protocol::{Timestamp, job::Usage};
    use serde_json::json;

    use super::*;

    fn id() -> AttemptId {
        "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f-2".parse().expect("an id")
    }

    fn ended(code: Option<i32>, signal: Option<i32>, interference: Interference) -> Ended {
        Ended {
            at: Timestamp::EPOCH,
            launch_error: None,
            code,
            signal,
            out_of_memory: false,
            interference,
            usage: Usage::default(),
            leftovers: 0,
            survivors: 0,
        }
    }

    fn asked() -> Cause {
        cause("coordinator", CauseCode::StopRequested, "a stop was asked")
    }

    fn outcome(ended: &Ended, output: &str, error: &str) -> (Outcome, CauseCode, Option<ErrorKind>) {
        let output = if output.is_empty() { ResultFile::Absent } else { parse_output(output.as_bytes()) };
        let error = if error.is_empty() { ResultFile::Absent } else { parse_error(error.as_bytes()) };
        let report = of_process(id(), ended, output, error, &Redactor::new(["topsecret"]));
        (report.outcome, report.cause.code, report.error.map(|error| error.kind))
    }

    /// The whole table of how a process can end.
    #[test]
    fn outcomes() {
        use CauseCode as C;
        use ErrorKind::{Application, Business, Infrastructure};
        use Outcome as O;
        let own = |code, signal| ended(code, signal, Interference::None);
        let business = r#"{"kind":"business","code":"E1","message":"no such supplier"}"#;
        assert_eq!(outcome(&own(Some(0), None), "", ""), (O::Succeeded, C::Completed, None));
        assert_eq!(outcome(&own(Some(0), None), "{\"a\":1}", ""), (O::Succeeded, C::Completed, None));
        assert_eq!(outcome(&own(Some(0), None), "{", ""), (O::Failed, C::OutputInvalid, Some(Application)));
        assert_eq!(outcome(&own(Some(0), None), " ", ""), (O::Failed, C::OutputInvalid, Some(Application)));
        assert_eq!(outcome(&own(Some(0), None), "", business), (O::Failed, C::BusinessError, Some(Business)));
        assert_eq!(outcome(&own(Some(0), None), "", "oops"), (O::Failed, C::ApplicationError, Some(Application)));
        assert_eq!(outcome(&own(Some(3), None), "{", ""), (O::Failed, C::ExitCode, Some(Application)));
        assert_eq!(outcome(&own(Some(3), None), "", business), (O::Failed, C::BusinessError, Some(Business)));
        assert_eq!(outcome(&own(None, Some(11)), "", ""), (O::Failed, C::Signal, Some(Application)));
        let hungry = Ended { out_of_memory: true, ..own(None, Some(9)) };
        assert_eq!(outcome(&hungry, "", ""), (O::Failed, C::OutOfMemory, Some(Infrastructure)));
        let stopped = ended(None, Some(2), Interference::Stopped(asked()));
        assert_eq!(outcome(&stopped, "", ""), (O::Stopped, C::StopRequested, None));
        let forced = ended(None, Some(9), Interference::StopForced(asked()));
        assert_eq!(outcome(&forced, "", ""), (O::Aborted, C::StopGraceExceeded, None));
        let late = ended(None, Some(15), Interference::TimedOut);
        assert_eq!(outcome(&late, "", ""), (O::TimedOut, C::Timeout, None));
        let missing = Ended { launch_error: Some("no such file".to_owned()), ..own(None, None) };
        assert_eq!(outcome(&missing, "", ""), (O::Failed, C::LaunchFailed, Some(Infrastructure)));
    }

    #[test]
    fn nothing_secret_is_reported() {
        let error =
            parse_error(br#"{"kind":"application","code":"topsecret","message":"login with topsecret failed"}"#);
        let output = ResultFile::Content(json!({"topsecret": ["x topsecret"]}));
        let own = ended(Some(1), None, Interference::None);
        let report = of_process(id(), &own, output, error, &Redactor::new(["topsecret"]));
        let text = serde_json::to_string(&report).expect("JSON");
        assert!(!text.contains("topsecret") && text.contains("login with *** failed"), "{text}");
    }

    /// The reason quotes what it refuses: a secret in it is known before anything of it is cut away.
    #[test]
    fn a_secret_in_the_reason_of_an_unusable_output_is_masked() {
        for secret in ["12345678901234567890123".to_owned(), "1234567890".repeat(5)] {
            for code in [0, 3] {
                let output = parse_output(format!("{{\"account\": {secret}}}").as_bytes());
                let own = ended(Some(code), None, Interference::None);
                let report = of_process(id(), &own, output, ResultFile::Absent, &Redactor::new([&secret]));
                let text = serde_json::to_string(&report).expect("JSON");
                assert!(!text.contains("1234567890") && text.contains("in quotes: ***"), "{text}");
            }
        }
    }

    #[test]
    fn sizes_are_bounded_and_said() {
        let large = serde_json::to_vec(&"x".repeat(MAX_OUTPUT_BYTES)).expect("JSON");
        assert!(matches!(parse_output(&large), ResultFile::Unusable(reason) if reason.contains("DROVER_ARTIFACTS")));
        let long = br#"{"account": 40817810099910004312}"#;
        assert!(matches!(parse_output(long), ResultFile::Unusable(reason) if reason.contains("write it as text")));
        let pretty = format!("[{}1]", " ".repeat(2 * MAX_OUTPUT_BYTES));
        assert_eq!(parse_output(pretty.as_bytes()), ResultFile::Content(json!([1])));
        let report = not_started(id(), CauseCode::EnvironmentFailed, &"é".repeat(100_000));
        assert!(report.cause.message.len() <= MAX_CAUSE_BYTES && report.cause.message.contains("200000 bytes"));
    }

    /// A report that is refused again and again becomes smaller, and then that ends.
    #[test]
    fn a_refused_report_is_reduced() {
        let own = ended(Some(0), None, Interference::None);
        let mut report =
            of_process(id(), &own, ResultFile::Content(json!({"a": 1})), ResultFile::Absent, &Redactor::new([""]));
        let problem: Problem = serde_json::from_value(json!({
            "type": "too_large", "title": "", "status": 413, "detail": "over the limit", "request_id": "1"
        }))
        .expect("a problem");
        assert!(reduce(&mut report, &problem));
        assert_eq!(
            (report.outcome, report.cause.code, report.output.as_ref()),
            (Outcome::Failed, CauseCode::OutputInvalid, None)
        );
        assert!(!reduce(&mut report, &problem));
    }
}
