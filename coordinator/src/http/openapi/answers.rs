//! What all answers have in common: headers, the answer to a condition that holds, parts of files, and examples.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::openapi::{
    Components, Content, Header, HeaderBuilder, Ref, RefOr, Response, ResponseBuilder,
    path::Operation,
    schema::{ObjectBuilder, Type},
};

use super::{
    errors::Nature,
    parameters::{IDEMPOTENCY_KEY, IF_NONE_MATCH, RANGE},
};

/// Headers that are described once: name, description, type.
const HEADERS: &[(&str, &str, Type)] = &[
    ("X-Request-Id", "By this id the request is found in the coordinator's log.", Type::String),
    ("Location", "Where the new object lies.", Type::String),
    (
        "ETag",
        "Names this state of the object or content, for `If-Match`, `If-None-Match` and `If-Range`.",
        Type::String,
    ),
    ("Idempotency-Replayed", "`true` if this is the first answer given again.", Type::String),
    ("Accept-Ranges", "`bytes`.", Type::String),
    ("Content-Range", "`bytes <first>-<last>/<size>`.", Type::String),
    ("Content-Digest", "`sha-256=:<Base64>:` of the whole content (RFC 9530).", Type::String),
    ("Content-Disposition", "Under which name to keep it.", Type::String),
];

fn component(name: &str) -> String {
    name.replace('-', "")
}

/// The descriptions that answers refer to.
pub fn header_components() -> impl Iterator<Item = (String, RefOr<Header>)> {
    HEADERS.iter().map(|(name, description, kind)| {
        let schema = ObjectBuilder::new().schema_type(kind.clone());
        let header = HeaderBuilder::new().description(Some(*description)).schema(Some(schema)).build();
        (component(name), RefOr::T(header))
    })
}

fn add_header(response: &mut Response, name: &str) {
    let reference = Ref::new(format!("#/components/headers/{}", component(name)));
    response.headers.insert(name.to_owned(), RefOr::Ref(reference));
}

/// The headers that every answer has.
pub fn add_common_headers(response: &mut Response) {
    add_header(response, "X-Request-Id");
}

/// Completes the answers of success: descriptions, headers, 304.
pub fn complete(operation: &mut Operation, nature: &Nature) {
    // Where something is written the same header asks that nothing be there.
    let conditional = nature.takes(IF_NONE_MATCH) && !nature.writes;
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        add_common_headers(response);
        let (description, more): (&str, &[&str]) = match status.as_str() {
            "200" if nature.takes(RANGE) => {
                let headers = &["ETag", "Accept-Ranges", "Content-Digest", "Content-Disposition"];
                ("The whole content.", headers)
            }
            "200" if conditional => ("What was asked for.", &["ETag"]),
            "200" if nature.writes => ("It is done; this is what came of it.", &[]),
            "200" => ("What was asked for.", &[]),
            "201" => ("It is made; `Location` says where it is.", &["Location"]),
            "204" => ("It is done.", &[]),
            "206" => {
                let headers = &["ETag", "Accept-Ranges", "Content-Range", "Content-Disposition"];
                ("The range that was asked for.", headers)
            }
            _ => ("", &[]),
        };
        if response.description.is_empty() {
            response.description = description.to_owned();
        }
        more.iter().for_each(|name| add_header(response, name));
        if nature.takes(IDEMPOTENCY_KEY) && status.starts_with('2') {
            add_header(response, "Idempotency-Replayed");
        }
    }
    if conditional {
        let mut response = ResponseBuilder::new().description("It is still as the caller has it.").build();
        add_common_headers(&mut response);
        add_header(&mut response, "ETag");
        operation.responses.responses.insert("304".to_owned(), RefOr::T(response));
    }
}

/// Examples by the name of their schema.
pub struct Examples(BTreeMap<String, Value>);

impl Examples {
    /// The examples that are built in. An object with `extends` has the members of that other example as well.
    pub fn built_in() -> Self {
        let texts: BTreeMap<String, Value> = serde_json::from_str(include_str!("examples.json"))
            .expect("the built-in examples are JSON, as a test proves");
        let whole = |value: &Value| {
            let mut value = value.clone();
            let base = value.as_object_mut().and_then(|object| object.remove("extends"));
            let base =
                base.as_ref().and_then(Value::as_str).and_then(|name| texts.get(name)).and_then(Value::as_object);
            for (name, member) in base.into_iter().flatten() {
                if value.get(name).is_none() {
                    value[name] = member.clone();
                }
            }
            value
        };
        Self(texts.iter().map(|(name, value)| (name.clone(), whole(value))).collect())
    }

    /// The example of a schema; that of a list is made of the example of its items.
    fn of(&self, schema: &str) -> Option<Value> {
        if let Some(example) = self.0.get(schema) {
            return Some(example.clone());
        }
        let (kind, item) = schema.split_once('_')?;
        let mut item = self.0.get(item)?.clone();
        // These are read one by one.
        for left_out in ["input", "output"] {
            item.as_object_mut()?.remove(left_out);
        }
        match kind {
            "Page" => Some(serde_json::json!({"items": [item], "next_cursor": null})),
            "Items" => Some(serde_json::json!({"items": [item]})),
            _ => None,
        }
    }

    /// Gives the bodies of an operation their examples.
    pub fn add(&self, operation: &mut Operation) {
        if let Some(RefOr::T(body)) = &mut operation.request_body {
            self.add_to(body.content.values_mut());
        }
        for response in operation.responses.responses.values_mut() {
            if let RefOr::T(response) = response {
                self.add_to(response.content.values_mut());
            }
        }
    }

    fn add_to<'a>(&self, contents: impl Iterator<Item = &'a mut RefOr<Content>>) {
        for content in contents {
            let RefOr::T(content) = content else { continue };
            if let Some(RefOr::Ref(reference)) = &content.schema {
                let name = reference.ref_location.rsplit('/').next().unwrap_or_default();
                content.example = content.example.take().or_else(|| self.of(name));
            }
        }
    }
}

/// Puts the shared descriptions in their place.
pub fn add_components(components: &mut Components) {
    components.headers.extend(header_components());
    components.parameters.extend(super::parameters::components());
}
