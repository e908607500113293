//! Schemas of processes, and values checked against them: up to the first NUL the schema, then the value.

use std::sync::Arc;

use drover_coordinator::json_schema::{check, compile};
use drover_protocol::json::is_too_deep;
use serde_json::Value;

/// Any schema that is accepted must be checked in bounded time, on the stack of an ordinary thread.
pub fn run(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let mut json = || serde_json::from_slice::<Value>(parts.next()?).ok().filter(|value| !is_too_deep(value));
    let (Some(schema), Some(instance)) = (json(), json()) else { return };
    let Ok(validator) = compile(&schema) else { return };
    let validator = Arc::new(validator);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for finding in runtime.block_on(check(&validator, &schema, &instance, "/input")) {
        assert!(finding.pointer.starts_with("/input"), "{}", finding.pointer);
        assert!(finding.detail.chars().count() <= 301);
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let pairs = [
        (r##"{"$defs":{"n":{"properties":{"a":{"$ref":"#/$defs/n"}}}},"$ref":"#/$defs/n"}"##, r#"{"a":{"a":1}}"#),
        (
            r#"{"type":"array","items":{"anyOf":[{"type":"number"},{"enum":["a",null]}]},"uniqueItems":true}"#,
            r#"[1,"a"]"#,
        ),
        (r#"{"oneOf":[{"required":["a"]},{"not":{"minProperties":2}}],"unevaluatedProperties":false}"#, r#"{"a":1}"#),
        (
            r#"{"patternProperties":{"^[a-z]{2,}$":{"pattern":"(a|b)*c","maxLength":3}},"if":{},"then":true}"#,
            r#"{"ab":"c"}"#,
        ),
        (
            r##"{"$anchor":"x","dependentSchemas":{"a":{"$ref":"#x"}},"propertyNames":{"format":"date"}}"##,
            r#"{"a":[]}"#,
        ),
    ];
    pairs.iter().map(|(schema, instance)| format!("{schema}\0{instance}").into_bytes()).collect()
}
