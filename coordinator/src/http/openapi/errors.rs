//! Which errors an operation can answer. What follows from its nature (a body, a key, a condition) is derived; the
//! refusals that follow from the rules of the product are listed by operation.

use drover_protocol::problem::Code;
use utoipa::openapi::{
    Content, ContentBuilder, HeaderBuilder, Ref, RefOr, Response, ResponseBuilder,
    example::ExampleBuilder,
    path::Operation,
    schema::{ObjectBuilder, Type},
};

use super::{
    answers,
    parameters::{IDEMPOTENCY_KEY, IF_MATCH, RANGE},
};

/// What an operation is like, as far as errors go.
pub struct Nature {
    pub writes: bool,
    pub open: bool,
    names: Vec<String>,
    in_path: bool,
    in_query: bool,
    has_body: bool,
}

impl Nature {
    pub fn of(operation: &Operation, writes: bool) -> Self {
        use utoipa::openapi::path::ParameterIn;
        let parameters: Vec<_> = operation
            .parameters
            .iter()
            .flatten()
            .filter_map(|parameter| match parameter {
                RefOr::T(parameter) => Some(parameter),
                RefOr::Ref(_) => None,
            })
            .collect();
        let any = |place: ParameterIn| parameters.iter().any(|parameter| parameter.parameter_in == place);
        Self {
            writes,
            open: operation.security.is_some(),
            in_path: any(ParameterIn::Path),
            in_query: any(ParameterIn::Query),
            has_body: operation.request_body.is_some(),
            names: parameters.iter().map(|parameter| parameter.name.clone()).collect(),
        }
    }

    pub fn takes(&self, name: &str) -> bool {
        self.names.iter().any(|own| own == name)
    }
}

/// Refusals by the rules of the product, by operation. A test holds this list to the operations that there are.
const BY_RULE: &[(&str, &[Code])] = &[
    ("get_own_key", &[Code::NotFound]),
    ("reveal_own_key", &[Code::NotFound, Code::WrongState, Code::TooManyRequests]),
    ("create_key", &[Code::WrongState]),
    ("delete_key", &[Code::WrongState]),
    ("create_robot", &[Code::AlreadyExists]),
    ("update_robot", &[Code::AlreadyExists]),
    ("delete_robot", &[Code::InUse]),
    ("create_robot_group", &[Code::AlreadyExists]),
    ("update_robot_group", &[Code::AlreadyExists]),
    ("delete_robot_group", &[Code::InUse]),
    ("remove_robot_from_group", &[Code::WrongState]),
    ("create_process", &[Code::AlreadyExists]),
    ("update_process", &[Code::AlreadyExists]),
    ("delete_process", &[Code::InUse]),
    ("upload_version", &[Code::AlreadyExists, Code::WrongState, Code::InvalidPackage]),
    ("update_version", &[Code::AlreadyExists, Code::InUse]),
    ("delete_version", &[Code::InUse]),
    ("activate_version", &[Code::WrongState]),
    ("create_resource", &[Code::AlreadyExists]),
    ("update_resource", &[Code::AlreadyExists]),
    ("get_resource_value", &[Code::NotAcceptable, Code::WrongState, Code::Unavailable, Code::OutOfSpace]),
    ("set_resource_value", &[Code::WrongState]),
    ("set_resource_override", &[Code::WrongState]),
    ("list_audit", &[Code::NotAcceptable]),
    ("start_jobs", &[Code::NotFound, Code::WrongState]),
    ("delete_job", &[Code::WrongState]),
    ("stop_job", &[Code::WrongState]),
    ("retry_job", &[Code::WrongState]),
    ("close_job", &[Code::WrongState]),
    ("read_job_log", &[Code::NotAcceptable]),
    ("create_queue", &[Code::AlreadyExists]),
    ("update_queue", &[Code::AlreadyExists, Code::WrongState]),
    ("delete_queue", &[Code::InUse]),
    ("list_tasks", &[Code::NotAcceptable]),
    ("add_task", &[Code::AlreadyExists]),
    ("update_task", &[Code::AlreadyExists, Code::WrongState]),
    ("delete_task", &[Code::WrongState]),
    ("renew_task", &[Code::StaleAttempt]),
    ("succeed_task", &[Code::StaleAttempt]),
    ("fail_task", &[Code::StaleAttempt]),
    ("postpone_task", &[Code::StaleAttempt]),
    ("checkpoint_task", &[Code::StaleAttempt]),
    ("comment_task", &[Code::StaleAttempt]),
    ("retry_task", &[Code::WrongState]),
    ("search_logs", &[Code::NotFound, Code::NotAcceptable, Code::TooManyRequests]),
    ("write_log_line", &[Code::NotFound, Code::StaleAttempt]),
    ("join_robot", &[Code::Unauthenticated, Code::Forbidden, Code::AlreadyExists, Code::WrongState]),
    ("accept_job", &[Code::StaleAttempt, Code::WrongState]),
    ("finish_job", &[Code::StaleAttempt, Code::WrongState]),
    ("append_job_log", &[Code::StaleAttempt, Code::LogGap]),
    ("put_artifact", &[Code::StaleAttempt]),
    ("create_storage", &[Code::AlreadyExists]),
    ("update_storage", &[Code::AlreadyExists]),
    ("delete_storage", &[Code::InUse, Code::WrongState]),
    ("get_file", &[Code::PreconditionFailed]),
    ("put_file", &[Code::WrongState, Code::StaleAttempt]),
    ("delete_file", &[Code::WrongState, Code::StaleAttempt]),
    ("copy_file", &[Code::AlreadyExists, Code::WrongState, Code::StaleAttempt]),
    ("move_file", &[Code::AlreadyExists, Code::WrongState, Code::StaleAttempt]),
    ("create_link", &[Code::WrongState, Code::StaleAttempt]),
    ("read_by_link", &[Code::Forbidden, Code::PreconditionFailed]),
    ("write_by_link", &[Code::Forbidden, Code::WrongState, Code::StaleAttempt]),
    ("delete_resource", &[Code::InUse]),
    ("create_trigger", &[Code::AlreadyExists]),
    ("update_trigger", &[Code::AlreadyExists]),
    ("fire_trigger", &[Code::WrongState, Code::TooLarge]),
    ("backfill_trigger", &[Code::WrongState]),
    ("create_webhook", &[Code::AlreadyExists, Code::WrongState]),
    ("update_webhook", &[Code::AlreadyExists]),
    ("replay_delivery", &[Code::WrongState]),
    ("delete_webhook", &[Code::InUse]),
    ("create_alert", &[Code::AlreadyExists, Code::WrongState]),
    ("update_alert", &[Code::AlreadyExists]),
    ("follow_changes", &[Code::NotAcceptable, Code::TooManyRequests, Code::Unavailable]),
    ("rotate_trigger_secret", &[Code::WrongState]),
    ("call_webhook", &[Code::Unauthenticated, Code::WrongState]),
    ("create_role", &[Code::AlreadyExists, Code::WrongState]),
    ("update_role", &[Code::AlreadyExists, Code::WrongState]),
    ("delete_role", &[Code::InUse, Code::WrongState]),
    ("create_user", &[Code::AlreadyExists, Code::WrongState, Code::TooManyRequests]),
    ("update_user", &[Code::AlreadyExists, Code::WrongState, Code::TooManyRequests]),
    ("delete_user", &[Code::WrongState]),
    ("change_own_password", &[Code::WrongState, Code::TooManyRequests]),
    ("sign_in", &[Code::Unauthenticated, Code::Forbidden, Code::TooManyRequests]),
    ("begin_openid_sign_in", &[Code::NotFound, Code::Unavailable]),
    (
        "finish_openid_sign_in",
        &[Code::NotFound, Code::Unauthenticated, Code::Forbidden, Code::Unavailable, Code::OutOfSpace],
    ),
    ("get_session", &[Code::NotFound]),
    ("sign_out", &[Code::NotFound]),
    ("create_account", &[Code::AlreadyExists, Code::WrongState, Code::TooManyRequests]),
    ("get_one_account", &[Code::WrongState]),
    ("change_account", &[Code::AlreadyExists, Code::WrongState]),
    ("delete_account", &[Code::WrongState]),
    ("get_metrics", &[Code::Unauthenticated, Code::Forbidden]),
    ("get_backup", &[Code::WrongState]),
];

/// Operations that answer no errors of this kind at all: they look at nothing but the state of the process.
const WITHOUT: &[&str] = &["get_health", "get_readiness"];
/// Any valid key will do.
const FOR_EVERYBODY: &[&str] = &["get_me"];

/// Names that stand in the lists of this file, for the test that holds them to the operations that there are.
#[cfg(test)]
pub fn listed_operations() -> impl Iterator<Item = &'static str> {
    BY_RULE.iter().map(|(name, _)| *name).chain(WITHOUT.iter().copied()).chain(FOR_EVERYBODY.iter().copied())
}

/// Every error of an operation, by status and then in the order of the list of codes.
pub fn possible(id: &str, nature: &Nature) -> Vec<Code> {
    if WITHOUT.contains(&id) {
        return Vec::new();
    }
    let conditions = [
        (
            Code::BadRequest,
            nature.in_path || nature.has_body || nature.takes("cursor") || nature.takes(IDEMPOTENCY_KEY),
        ),
        (Code::Unauthenticated, !nature.open),
        (Code::Forbidden, !nature.open && !FOR_EVERYBODY.contains(&id)),
        (Code::NotFound, nature.in_path),
        (Code::PreconditionFailed, nature.takes(IF_MATCH)),
        (Code::BadRequest, nature.takes(IF_MATCH)),
        (Code::TooLarge, nature.has_body),
        (Code::UnsupportedMediaType, nature.has_body),
        (Code::RangeNotSatisfiable, nature.takes(RANGE)),
        // Where no body is taken one is refused, and so is a query.
        (Code::Invalid, !nature.open || nature.has_body || nature.in_query || nature.takes(IDEMPOTENCY_KEY)),
        (Code::IdempotencyKeyReused, nature.takes(IDEMPOTENCY_KEY)),
        (Code::TooManyRequests, !nature.open),
        (Code::Internal, true),
        (Code::Unavailable, nature.writes),
        (Code::OutOfSpace, nature.writes),
    ];
    let rules = BY_RULE.iter().filter(|(name, _)| *name == id).flat_map(|(_, codes)| codes.iter().copied());
    let mut codes: Vec<Code> = conditions.into_iter().filter(|(_, holds)| *holds).map(|(code, _)| code).collect();
    codes.extend(rules);
    Code::ALL.iter().copied().filter(|code| codes.contains(code)).collect()
}

/// Under which name an answer with one of these codes is described once.
pub fn component(codes: &[Code]) -> String {
    codes.iter().map(|code| code.as_str()).collect::<Vec<_>>().join(".")
}

/// The answer with one of these codes, which share a status.
pub fn answer(codes: &[Code]) -> Response {
    let lines: Vec<String> =
        codes.iter().map(|code| format!("`{}`: {}", code.as_str(), code.explanation().trim())).collect();
    let status = codes.first().map_or(500, |code| code.status());
    let mut response = ResponseBuilder::new().description(lines.join("\n\n")).content(PROBLEM, content(codes));
    if let Some((name, description, kind)) = header_of(status) {
        let schema = ObjectBuilder::new().schema_type(kind);
        let header = HeaderBuilder::new().description(Some(description)).schema(Some(schema)).build();
        response = response.header(name, header);
    }
    let mut response = response.build();
    answers::add_common_headers(&mut response);
    response
}

const PROBLEM: &str = "application/problem+json";

fn header_of(status: u16) -> Option<(&'static str, &'static str, Type)> {
    match status {
        401 => Some(("WWW-Authenticate", "`Bearer`.", Type::String)),
        416 => Some(("Content-Range", "`bytes */<size>`.", Type::String)),
        429 | 503 | 507 => Some(("Retry-After", "Seconds to wait before the next try.", Type::Integer)),
        _ => None,
    }
}

fn content(codes: &[Code]) -> Content {
    let mut content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem")));
    let examples = codes.iter().map(|code| {
        let example = ExampleBuilder::new().summary(code.title()).value(Some(example(*code))).build();
        (code.as_str(), RefOr::T(example))
    });
    content = content.examples_from_iter(examples);
    content.build()
}

fn example(code: Code) -> serde_json::Value {
    let mut problem = serde_json::json!({
        "type": code.as_str(),
        "title": code.title(),
        "status": code.status(),
        "detail": code.explanation().trim(),
        "request_id": "0192f6c47a107cc398c4dc0c0c07398f",
    });
    let more = match code {
        Code::Invalid => ("errors", serde_json::json!([{"pointer": "/priority", "detail": "must be from 1 to 3"}])),
        Code::AlreadyExists => ("id", "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f".into()),
        Code::LogGap => ("next_seq", 41.into()),
        _ => return problem,
    };
    problem[more.0] = more.1;
    problem
}
