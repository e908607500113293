//! How the parts of a schema hang together: which lie in which, and what a reference leads to.

use std::collections::HashMap;

use serde_json::Value;

/// Schemas that lie in each other, through members and references.
const MAX_NESTING: usize = 256;
const MAX_SCHEMAS: usize = 10_000;
const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];

/// What references within a schema lead to. Only those into the schema itself are followed.
pub struct References<'a> {
    root: &'a Value,
    /// Looked for when the first one is needed.
    anchors: Option<HashMap<&'a str, &'a Value>>,
}

impl<'a> References<'a> {
    pub fn of(root: &'a Value) -> Self {
        Self { root, anchors: None }
    }

    pub fn target(&mut self, reference: &str) -> Option<&'a Value> {
        let fragment = reference.strip_prefix('#')?;
        if fragment.is_empty() || fragment.starts_with('/') {
            let pointer = percent_decoded(fragment)?;
            return self.root.pointer(&pointer);
        }
        let root = self.root;
        self.anchors.get_or_insert_with(|| anchors(root)).get(fragment).copied()
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    // A form's decoder, for which a plus is a space.
    let pair = format!("={}", text.replace('+', "%2B").replace('&', "%26"));
    url::form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned())
}

fn anchors(root: &Value) -> HashMap<&str, &Value> {
    let mut found = HashMap::new();
    let mut left = vec![root];
    while let Some(schema) = left.pop() {
        for name in ["$anchor", "$dynamicAnchor"] {
            if let Some(Value::String(anchor)) = schema.get(name) {
                found.entry(anchor.as_str()).or_insert(schema);
            }
        }
        left.extend(parts(schema).into_iter().map(|(_, part)| part));
    }
    found
}

/// The schemas that are directly in a schema, each with the keyword that holds it.
fn parts(schema: &Value) -> Vec<(&str, &Value)> {
    let Value::Object(keywords) = schema else { return Vec::new() };
    let mut found = Vec::new();
    for (name, value) in keywords {
        match (name.as_str(), value) {
            (
                "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas" | "dependencies",
                Value::Object(named),
            ) => found.extend(named.values().map(|part| (name.as_str(), part))),
            ("allOf" | "anyOf" | "oneOf" | "prefixItems" | "items", Value::Array(list)) => {
                found.extend(list.iter().map(|part| (name.as_str(), part)));
            }
            (
                "items"
                | "additionalItems"
                | "unevaluatedItems"
                | "contains"
                | "additionalProperties"
                | "unevaluatedProperties"
                | "propertyNames"
                | "not"
                | "if"
                | "then"
                | "else",
                part,
            ) => found.push((name.as_str(), part)),
            _ => {}
        }
    }
    found
}

/// Says what of a schema's shape cannot be followed, and what helps.
pub fn check(root: &Value) -> Result<(), String> {
    let mut walk = Walk { references: References::of(root), nesting: HashMap::new(), schemas: 0 };
    walk.nesting_of(root, 0, true).map(|_| ())
}

fn too_nested() -> String {
    format!("more than {MAX_NESTING} schemas lie in each other or refer to each other in a row; make it flatter")
}

struct Walk<'a> {
    references: References<'a>,
    /// By place in memory; absent while the walk is within.
    nesting: HashMap<*const Value, Option<usize>>,
    schemas: usize,
}

impl<'a> Walk<'a> {
    /// How many schemas lie in each other in this one, itself counted. One that leads round to itself ends there.
    fn nesting_of(&mut self, schema: &'a Value, above: usize, is_root: bool) -> Result<usize, String> {
        let place = std::ptr::from_ref(schema);
        if let Some(known) = self.nesting.get(&place) {
            return Ok(known.unwrap_or(0));
        }
        if above >= MAX_NESTING {
            return Err(too_nested());
        }
        self.schemas += 1;
        if self.schemas > MAX_SCHEMAS {
            return Err(format!("it has more than {MAX_SCHEMAS} schemas in it; use fewer"));
        }
        self.nesting.insert(place, None);
        let mut deepest = 0;
        for part in self.successors(schema, is_root)? {
            let nesting = self.nesting_of(part, above + 1, false)?;
            deepest = deepest.max(nesting);
            if above + 1 + nesting > MAX_NESTING {
                return Err(too_nested());
            }
        }
        self.nesting.insert(place, Some(deepest + 1));
        Ok(deepest + 1)
    }

    fn successors(&mut self, schema: &'a Value, is_root: bool) -> Result<Vec<&'a Value>, String> {
        if !is_root && (schema.get("$id").is_some() || schema.get("id").is_some_and(Value::is_string)) {
            return Err("only the schema as a whole may have an $id; name a part of it by $anchor".to_owned());
        }
        let mut found: Vec<&Value> = parts(schema).into_iter().map(|(_, part)| part).collect();
        for name in REFERENCES {
            let Some(Value::String(reference)) = schema.get(name) else { continue };
            match self.references.target(reference) {
                Some(target) => found.push(target),
                None => {
                    let shown: String = reference.chars().take(100).flat_map(char::escape_debug).collect();
                    return Err(format!(
                        "{shown} leads nowhere; only references inside of the same file (`#/$defs/…`) are followed: \
                             copy there what is referred to"
                    ));
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_lead_into_the_schema_and_nowhere_else() {
        let schema =
            json!({"$defs": {"a/b %": {"const": 1}, "c": {"$anchor": "named", "const": 2}}, "enum": [{"$ref": "x"}]});
        let mut references = References::of(&schema);
        assert_eq!(references.target("#"), Some(&schema));
        assert_eq!(references.target("#/$defs/a~1b%20%25"), Some(&json!({"const": 1})));
        assert_eq!(references.target("#named"), Some(&schema["$defs"]["c"]));
        for nowhere in ["", "x", "#x", "#/x", "file:///etc/passwd", "https://json-schema.org/draft/2020-12/schema"] {
            assert_eq!(references.target(nowhere), None, "{nowhere}");
        }
        check(&schema).expect("what is only data is no reference");
        check(&json!({"properties": {"$ref": {"type": "string"}, "$id": {}}})).expect("members may have any name");
    }

    #[test]
    fn long_chains_are_refused_and_circles_are_none() {
        let chain = |length: usize| {
            let defs = (0..length)
                .map(|number| (format!("d{number}"), json!({"allOf": [{"$ref": format!("#/$defs/d{}", number + 1)}]})));
            let mut defs: serde_json::Map<String, Value> = defs.collect();
            defs.insert(format!("d{length}"), json!({}));
            json!({"$defs": defs, "$ref": "#/$defs/d0"})
        };
        check(&chain(100)).expect("a hundred references in a row");
        assert!(check(&chain(130)).unwrap_err().contains("flatter"));
        assert!(check(&chain(4_000)).unwrap_err().contains("flatter"));
        check(&json!({"allOf": [{"$ref": "#"}]})).expect("a circle has no length");
    }
}
