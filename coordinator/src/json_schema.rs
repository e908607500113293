//! JSON Schemas of processes: compiled under limits, kept ready, and their findings put into the API's words.
//!
//! A schema comes from whoever may upload a package, so it is bounded in what it may be (`shape`) and in the work that a
//! check may be (`effort`).

mod effort;
mod shape;

use std::{num::NonZeroUsize, sync::Arc};

use drover_protocol::problem::FieldError;
use jsonschema::{PatternOptions, Validator, error::ValidationErrorKind};
use lru::LruCache;
use parking_lot::Mutex;
use serde_json::Value;
use uuid::Uuid;

/// At most so many findings are told about one value.
const MAX_ERRORS: usize = 20;
const MAX_DETAIL_CHARS: usize = 300;
/// Compiled patterns are by far the largest part of a schema.
const MAX_PATTERNS: usize = 128;
const MAX_PATTERN_BYTES: usize = 1 << 20;
/// A check of so many steps takes a few milliseconds.
const STEPS_AT_ONCE: u64 = 20_000;
/// The same of compiling so many patterns.
const PATTERNS_AT_ONCE: usize = 8;

/// Compiles a schema; says why it cannot be used as a fragment. Nothing is ever fetched, and patterns are matched in
/// linear time, so a schema cannot make the coordinator call out or hang on a pattern.
pub fn compile(schema: &Value) -> Result<Validator, String> {
    if count_patterns(schema) > MAX_PATTERNS {
        return Err(format!("the schema has more than {MAX_PATTERNS} patterns; use fewer"));
    }
    shape::check(schema).map_err(|reason| format!("no valid JSON Schema: {reason}"))?;
    let patterns = PatternOptions::regex().size_limit(MAX_PATTERN_BYTES).dfa_size_limit(MAX_PATTERN_BYTES);
    jsonschema::options().offline().with_pattern_options(patterns).build(schema).map_err(|error| {
        let at = error.instance_path().as_str();
        let at = if at.is_empty() { String::new() } else { format!("{at}: ") };
        let remedy = match error.kind() {
            ValidationErrorKind::Referencing(_) => {
                "; only references inside of the same file (`#/$defs/…`) are followed: copy there what is referred to"
            }
            ValidationErrorKind::Format { .. } | ValidationErrorKind::Pattern { .. } => {
                "; patterns may have no look-around and no back-references, and must not be huge"
            }
            _ => "",
        };
        format!("no valid JSON Schema: {at}{}{remedy}", shortened(&error.to_string()))
    })
}

fn count_patterns(schema: &Value) -> usize {
    match schema {
        Value::Array(items) => items.iter().map(count_patterns).sum(),
        Value::Object(members) => members
            .iter()
            .map(|(key, value)| {
                let here = match (key.as_str(), value) {
                    ("pattern", Value::String(_)) => 1,
                    ("patternProperties", Value::Object(patterns)) => patterns.len(),
                    _ => 0,
                };
                here + count_patterns(value)
            })
            .sum(),
        _ => 0,
    }
}

/// What is wrong with a value: at most 20 findings, each with the JSON pointer of the field below `pointer_prefix` (such
/// as `/input`). Texts never repeat the value, which may be a secret. A value that it would take too long to check is
/// wrong as a whole; one that takes a while is checked off the threads that serve requests.
pub async fn check(
    validator: &Arc<Validator>,
    schema: &Value,
    instance: &Value,
    pointer_prefix: &'static str,
) -> Vec<FieldError> {
    match effort::steps(schema, instance) {
        Ok(steps) if steps <= STEPS_AT_ONCE => schema_errors(validator, instance, pointer_prefix),
        Ok(_) => {
            let (validator, instance) = (Arc::clone(validator), instance.clone());
            let checked = tokio::task::spawn_blocking(move || schema_errors(&validator, &instance, pointer_prefix));
            checked.await.unwrap_or_else(|_| vec![not_checked(pointer_prefix)])
        }
        Err(effort::TooMuch) => vec![not_checked(pointer_prefix)],
    }
}

/// The same within a transaction, which holds up all others: only if little work will do to find it out.
pub fn check_at_once(schema: &Value, instance: &Value, pointer_prefix: &str) -> Option<Vec<FieldError>> {
    let is_little = count_patterns(schema) <= PATTERNS_AT_ONCE
        && effort::steps(schema, instance).is_ok_and(|steps| steps <= STEPS_AT_ONCE);
    let validator = if is_little { compile(schema).ok()? } else { return None };
    Some(schema_errors(&validator, instance, pointer_prefix))
}

fn not_checked(pointer: &str) -> FieldError {
    let detail = format!(
        "checking it against the schema of the process would take more than {} steps; make it or the schema simpler",
        effort::MAX_STEPS
    );
    FieldError { pointer: pointer.to_owned(), detail }
}

fn schema_errors(schema: &Validator, instance: &Value, pointer_prefix: &str) -> Vec<FieldError> {
    schema
        .iter_errors(instance)
        .take(MAX_ERRORS)
        .map(|error| {
            let mut pointer = format!("{pointer_prefix}{}", error.instance_path().as_str());
            // The field that is missing is the one to point at, not the object that lacks it.
            if let ValidationErrorKind::Required { property: Value::String(name) } = error.kind() {
                pointer.push('/');
                pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
            }
            FieldError { pointer, detail: shortened(&error.masked().to_string()) }
        })
        .collect()
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_DETAIL_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// Which of the two schemas of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    Input,
    Output,
}

/// Compiled schemas of versions, the least recently used one dropped when there are too many. Versions never change, so
/// nothing here can be out of date. Usable from many threads.
#[derive(Debug)]
pub struct Schemas(Mutex<LruCache<(Uuid, Side), Arc<Validator>>>);

impl Default for Schemas {
    fn default() -> Self {
        Self::new(128)
    }
}

impl Schemas {
    /// Keeps at most `capacity` schemas, and always the last one.
    pub fn new(capacity: usize) -> Self {
        Self(Mutex::new(LruCache::new(NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN))))
    }

    /// The compiled schema of a version, or of another owner whose schema never changes. `schema` is compiled outside of the lock, and only if it is not here; the error
    /// is [`compile`]'s, and cannot occur with a schema that passed it when the version was uploaded.
    pub fn get(&self, owner: Uuid, side: Side, schema: &Value) -> Result<Arc<Validator>, String> {
        let key = (owner, side);
        if let Some(validator) = self.0.lock().get(&key) {
            return Ok(Arc::clone(validator));
        }
        let validator = Arc::new(compile(schema)?);
        self.0.lock().put(key, Arc::clone(&validator));
        Ok(validator)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn version(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    #[test]
    fn findings_point_at_the_field_and_hide_the_value() {
        let schema = compile(&json!({
            "type": "object",
            "required": ["supplier", "a/b~c"],
            "properties": {"amount": {"type": "number"}, "lines": {"items": {"pattern": "^[a-z]+$"}}},
        }))
        .unwrap();
        let found = schema_errors(&schema, &json!({"amount": "hunter2", "lines": ["ok", "NO"]}), "/input");
        let mut pointers: Vec<&str> = found.iter().map(|error| error.pointer.as_str()).collect();
        pointers.sort_unstable();
        assert_eq!(pointers, ["/input/amount", "/input/a~1b~0c", "/input/lines/1", "/input/supplier"]);
        assert!(
            found.iter().all(|error| !error.detail.contains("hunter2") && !error.detail.contains("NO")),
            "{found:?}"
        );
        let amount = found.iter().find(|error| error.pointer == "/input/amount").unwrap();
        assert_eq!(amount.detail, "value is not of type \"number\"");
        assert_eq!(schema_errors(&schema, &json!({"supplier": "x", "a/b~c": 1}), "/input"), []);
    }

    #[test]
    fn only_what_is_little_work_is_checked_at_once() {
        let schema = json!({"items": {"type": "number"}});
        assert_eq!(check_at_once(&schema, &json!([1]), ""), Some(Vec::new()));
        assert_eq!(check_at_once(&schema, &json!([1, "x"]), "").expect("it is little")[0].pointer, "/1");
        assert_eq!(check_at_once(&schema, &json!(vec![1; 30_000]), ""), None);
        let patterns: Vec<Value> = (0..9).map(|number| json!({"pattern": format!("a{number}")})).collect();
        assert_eq!(check_at_once(&json!({"allOf": patterns}), &json!(1), ""), None);
    }

    #[test]
    fn findings_are_bounded_in_number_and_length() {
        let schema = compile(&json!({"items": {"enum": ["x".repeat(10_000)]}})).unwrap();
        let found = schema_errors(&schema, &json!(vec!["y"; 1_000]), "/input");
        assert_eq!(found.len(), MAX_ERRORS);
        assert!(found.iter().all(|error| error.detail.chars().count() <= MAX_DETAIL_CHARS + 1));
    }

    #[test]
    fn schemas_that_cannot_be_trusted_are_refused_with_the_remedy() {
        let many: Vec<Value> = (0..=MAX_PATTERNS).map(|number| json!({"pattern": format!("a{number}")})).collect();
        let refused = [
            (json!({"$ref": "http://127.0.0.1:9/s.json"}), "only references inside of the same file"),
            (json!({"$ref": "https://example.com/s.json"}), "only references inside of the same file"),
            (json!({"properties": {"a": {"$ref": "file:///etc/passwd"}}}), "only references inside of the same file"),
            (json!({"$ref": "other.json"}), "only references inside of the same file"),
            (json!({"$ref": "#/$defs/none"}), "only references inside of the same file"),
            (json!({"type": "strin"}), "/type"),
            (json!({"properties": {"a": {"minimum": "one"}}}), "/properties/a/minimum"),
            (json!({"pattern": "(?=a)"}), "look-around"),
            (json!({"pattern": "((a{500}){500}){500}"}), "huge"),
            (json!({"pattern": "("}), "no valid JSON Schema"),
            (json!({"allOf": many}), "patterns"),
            (json!("text"), "no valid JSON Schema"),
        ];
        for (schema, reason) in refused {
            let refusal = compile(&schema).map(|_| ()).expect_err(&schema.to_string());
            assert!(refusal.contains(reason), "{schema}: {refusal}");
        }
    }

    #[test]
    fn usual_schemas_compile() {
        let fine = [
            json!(true),
            json!({}),
            json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.com/mine"}),
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"a": {}}, "$ref": "#/definitions/a"}),
            json!({"$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}}}}, "$ref": "#/$defs/node"}),
            json!({"pattern": "^\\w{1,64}$"}),
        ];
        for schema in fine {
            compile(&schema).unwrap_or_else(|error| panic!("{schema}: {error}"));
        }
    }

    /// A reference that leads to itself says nothing; it must not lead the coordinator round in circles.
    #[test]
    fn a_reference_to_itself_ends() {
        for schema in [json!({"$ref": "#"}), json!({"allOf": [{"$ref": "#"}]})] {
            if let Ok(validator) = compile(&schema) {
                let _ = schema_errors(&validator, &json!({"a": 1}), "/input");
            }
        }
    }

    /// However a schema is made, a check of the largest values that there may be ends within seconds, even unoptimised,
    /// and on the stack of a thread of the runtime.
    #[tokio::test]
    async fn hostile_schemas_cannot_burn_the_processor() {
        let chain: serde_json::Map<String, Value> = (0..120)
            .map(|number| (format!("d{number}"), json!({"allOf": [{"$ref": format!("#/$defs/d{}", number + 1)}]})))
            .chain([("d120".to_owned(), json!({"type": "object"}))])
            .collect();
        let fan: serde_json::Map<String, Value> = (0..60)
            .map(|number| {
                let next = json!({"$ref": format!("#/$defs/d{}", number + 1)});
                (format!("d{number}"), json!({"anyOf": [next.clone(), next.clone(), {"not": next}]}))
            })
            .chain([("d60".to_owned(), json!({"const": 1}))])
            .collect();
        let member = json!({"properties": {"a": {"$ref": "#"}}, "unevaluatedProperties": false});
        let mut deep = json!({"a": 1});
        for _ in 0..60 {
            deep = json!({ "a": deep });
        }
        let (long, many) = (json!("01".repeat(500_000)), json!(vec![json!({}); 300_000]));
        let cases = [
            (json!({"$defs": chain, "$ref": "#/$defs/d0"}), json!(1), false),
            (json!({"$defs": fan, "$ref": "#/$defs/d0"}), json!(2), true),
            (json!({"oneOf": [member.clone(), member]}), deep.clone(), true),
            (json!({"items": {"enum": (0..40_000).collect::<Vec<_>>()}}), many.clone(), true),
            (json!({"uniqueItems": true, "items": {"type": "object"}}), many, false),
            (json!({"pattern": "([01]*1[01]{200}){3}x"}), long.clone(), true),
            (json!({"pattern": "(0|1|01)*x"}), long, false),
            (json!({"patternProperties": {"^a": {"$ref": "#"}, "a$": {"$ref": "#"}, ".": {"$ref": "#"}}}), deep, true),
        ];
        for (number, (schema, instance, too_much)) in cases.into_iter().enumerate() {
            let validator = Arc::new(compile(&schema).unwrap_or_else(|error| panic!("{number}: {error}")));
            let began = std::time::Instant::now();
            let found = check(&validator, &schema, &instance, "/input").await;
            assert!(began.elapsed().as_secs() < 20, "{number}: {:?}", began.elapsed());
            assert!(!found.is_empty(), "{number}: none of these values fits");
            let told = found[0].detail.contains("would take more than");
            assert_eq!(told, too_much, "{number}: {found:?}");
        }
    }

    #[test]
    fn a_schema_is_compiled_once_and_the_least_used_one_makes_room() {
        let schemas = Schemas::new(2);
        let get = |number: u128| schemas.get(version(number), Side::Input, &json!({"const": number as u64})).unwrap();
        let (first, second) = (get(1), get(2));
        assert!(Arc::ptr_eq(&first, &get(1)));
        get(3);
        assert!(Arc::ptr_eq(&first, &get(1)), "used a moment ago");
        assert!(!Arc::ptr_eq(&second, &get(2)), "dropped, and compiled again");
        let output = schemas.get(version(2), Side::Output, &json!({"const": "out"})).unwrap();
        assert!(output.is_valid(&json!("out")), "the two sides of a version are apart");
    }

    #[test]
    fn many_threads_may_ask_at_once() {
        let schemas = Schemas::new(4);
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let schemas = &schemas;
                scope.spawn(move || {
                    for round in 0..200 {
                        let number = (thread + round) % 8;
                        let schema = json!({"const": number});
                        let validator = schemas.get(version(number.into()), Side::Input, &schema).unwrap();
                        assert!(validator.is_valid(&json!(number)));
                        assert!(!validator.is_valid(&json!(number + 1)));
                    }
                });
            }
        });
        assert!(schemas.0.lock().len() <= 4);
    }
}
