//! The document is whole: it is the golden file's, every operation is described alike, and its examples are valid.

use std::{collections::BTreeSet, path::Path};

use serde_json::{Map, Value, json};

use super::*;

fn document() -> Value {
    serde_json::from_str(&document_text().expect("the document can be written")).expect("it is JSON")
}

/// Path, method and operation of everything there is.
fn operations_of(document: &Value) -> Vec<(String, String, Map<String, Value>)> {
    let paths = document["paths"].as_object().expect("there are paths");
    let each = |(path, item): (&String, &Value)| {
        let methods = item.as_object().expect("a path has methods").clone();
        let path = path.clone();
        methods.into_iter().map(move |(method, operation)| {
            (path.clone(), method, operation.as_object().expect("a method has an operation").clone())
        })
    };
    paths.iter().flat_map(each).collect()
}

fn id(operation: &Map<String, Value>) -> &str {
    operation["operationId"].as_str().expect("every operation has an id")
}

/// What a reference refers to; anything else is itself.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value.get("$ref").and_then(Value::as_str) {
        Some(place) => document.pointer(place.trim_start_matches('#')).expect("no reference leads nowhere"),
        None => value,
    }
}

fn takes(document: &Value, operation: &Map<String, Value>, header: &str) -> bool {
    let parameters = operation.get("parameters").and_then(Value::as_array);
    parameters.into_iter().flatten().any(|parameter| resolved(document, parameter)["name"] == header)
}

/// A change of the API is a change of this file, which people see. `UPDATE_GOLDEN=1` writes it anew.
#[test]
fn the_document_is_that_of_the_golden_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let text = document_text().expect("the document can be written");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let line = golden.lines().zip(text.lines()).position(|(golden, now)| golden != now);
    assert!(
        golden == text,
        "the API has changed, first at line {} of openapi.json; UPDATE_GOLDEN=1 writes the file anew",
        line.map_or(golden.lines().count(), |line| line) + 1
    );
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk(document: &Value, value: &Value) {
        match value {
            Value::Object(members) => {
                resolved(document, value);
                members.values().for_each(|member| walk(document, member));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(document, item)),
            _ => {}
        }
    }
    let document = document();
    walk(&document, &document);
}

/// People find a call by its summary and section, programs by its id.
#[test]
fn every_operation_is_named_described_and_in_one_section() {
    let document = document();
    let sections: Vec<&str> =
        document["tags"].as_array().into_iter().flatten().filter_map(|tag| tag["name"].as_str()).collect();
    assert_eq!(
        sections,
        [
            "Key",
            "Robot",
            "Robot group",
            "Process",
            "Process version",
            "Job",
            "Queue",
            "Task",
            "Trigger",
            "Resource",
            "Storage",
            "Log",
            "Account",
            "Agent",
            "System",
            "Webhook",
            "Alert"
        ]
    );
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations_of(&document) {
        let id = id(&operation);
        assert!(ids.insert(id.to_owned()), "{id} is there twice");
        assert!(id.split('_').count() >= 2, "{id} is a verb and a noun");
        assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{id} has no summary");
        let tags = operation["tags"].as_array().expect("there are tags");
        assert!(tags.len() == 1 && sections.contains(&tags[0].as_str().unwrap_or_default()), "{id}: {tags:?}");
        for parameter in operation.get("parameters").and_then(Value::as_array).into_iter().flatten() {
            let parameter = resolved(&document, parameter);
            assert!(parameter["description"].is_string(), "{method} {path}: {}", parameter["name"]);
        }
        for (status, answer) in operation["responses"].as_object().expect("there are answers") {
            let answer = resolved(&document, answer);
            assert!(answer["description"].as_str().is_some_and(|text| !text.is_empty()), "{id}: {status}");
            assert!(answer["headers"]["X-Request-Id"].is_object(), "{id}: {status} has no X-Request-Id");
        }
    }
    let listed: BTreeSet<String> = errors::listed_operations().map(str::to_owned).collect();
    assert!(listed.is_subset(&ids), "{:?} are not there", listed.difference(&ids));
}

/// The conventions of the API, for operations that are still to be written as well.
#[test]
fn headers_of_repetition_and_condition_are_where_they_must_be() {
    let document = document();
    // Agents' calls are repeatable by their own nature, messages to webhooks by their id; a key that is revealed must not
    // be kept.
    let without_key = |path: &str, id: &str| {
        let by_nature = ["reveal_own_key", "call_webhook", "sign_in", "change_own_password"];
        path.starts_with("/api/v1/agent/") || by_nature.contains(&id)
    };
    // These have no revision.
    let without_revision =
        ["delete_key", "delete_join_token", "remove_robot_from_group", "delete_logs", "sign_out", "end_session"];
    for (path, method, operation) in operations_of(&document) {
        let id = id(&operation);
        let answers = &operation["responses"];
        if method == "post" {
            assert_eq!(takes(&document, &operation, "Idempotency-Key"), !without_key(&path, id), "{id}");
        }
        if method == "patch" || method == "delete" {
            assert_eq!(takes(&document, &operation, "If-Match"), !without_revision.contains(&id), "{id}");
        }
        if let Some(made) = answers.get("201") {
            assert!(made["headers"]["Location"].is_object(), "{id} does not say where it is");
        }
        if method == "get" && takes(&document, &operation, "If-None-Match") {
            assert!(answers["200"]["headers"]["ETag"].is_object() && answers.get("304").is_some(), "{id}");
        }
        if takes(&document, &operation, "Range") {
            assert!(answers.get("206").is_some() && answers.get("416").is_some(), "{id}");
        }
        let open = operation["security"] == json!([{}]);
        let is_open = [
            "get_health",
            "get_readiness",
            "join_robot",
            "read_by_link",
            "write_by_link",
            "call_webhook",
            "sign_in",
            "begin_openid_sign_in",
            "finish_openid_sign_in",
        ]
        .contains(&id);
        assert_eq!(open, is_open, "{id}: {}", operation["security"]);
    }
}

/// Where an answer has several forms, one that the caller does not accept is refused.
#[test]
fn what_has_several_forms_may_be_not_acceptable() {
    let document = document();
    for (.., operation) in operations_of(&document) {
        let Some(content) = operation["responses"].get("200").and_then(|answer| answer["content"].as_object()) else {
            continue;
        };
        let may_refuse = operation["responses"].get("406").is_some();
        assert!(content.len() < 2 || may_refuse, "{}: {:?}", id(&operation), content.keys());
    }
}

/// Bodies that refuse unknown fields say so; what is said to a webhook is the caller's own.
#[test]
fn requests_are_closed() {
    let document = document();
    for (_, _, operation) in
        operations_of(&document).into_iter().filter(|(.., operation)| id(operation) != "call_webhook")
    {
        let Some(content) = operation.get("requestBody").and_then(|body| body["content"].get("application/json"))
        else {
            continue;
        };
        let place = content["schema"]["$ref"].as_str().expect("a body has a named schema").trim_start_matches('#');
        let schema = document.pointer(place).expect("no reference leads nowhere");
        assert_eq!(schema["additionalProperties"], false, "{}: {place}", id(&operation));
    }
}

/// Every JSON body has an example, and each fits its schema.
#[test]
fn examples_are_valid() {
    let document = document();
    let check = |name: &str, content: &Value| {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "components": document["components"],
            "allOf": [content["schema"]],
        });
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .build(&schema)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let several = content.get("examples").and_then(Value::as_object);
        let several = several.into_iter().flatten().map(|(_, example)| &example["value"]);
        let examples: Vec<&Value> = content.get("example").into_iter().chain(several).collect();
        assert!(!examples.is_empty(), "{name} has no example");
        for example in examples {
            let errors: Vec<String> = validator.iter_errors(example).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{name}: {errors:?}");
        }
    };
    for (_, _, operation) in operations_of(&document) {
        let id = id(&operation);
        let body = operation.get("requestBody").and_then(|body| body["content"].get("application/json"));
        body.into_iter().for_each(|content| check(&format!("body of {id}"), content));
        for (status, answer) in operation["responses"].as_object().expect("there are answers") {
            let content = resolved(&document, answer).get("content").and_then(Value::as_object);
            for (_, content) in content.into_iter().flatten().filter(|(kind, _)| kind.contains("json")) {
                check(&format!("{status} of {id}"), content);
            }
        }
    }
}

/// The words are those of the wire, each with its meaning.
#[test]
fn closed_lists_are_told_with_their_meaning() {
    let document = document();
    let schemas = &document["components"]["schemas"];
    assert!(schemas["Code"]["enum"].as_array().is_some_and(|words| words.contains(&json!("wrong_state"))));
    let causes = schemas["CauseCode"]["enum"].as_array().expect("there are causes");
    let text = schemas["CauseCode"]["description"].as_str().expect("they are described");
    for word in causes.iter().filter_map(Value::as_str) {
        assert!(text.contains(&format!("\n- `{word}`: ")), "{word} has no meaning");
    }
}
