//! How the document describes the headers that conditions, repetitions and parts of files are asked with. The
//! extractor that reads a header is named in the annotation of a handler as its parameter.

use utoipa::{
    IntoParams,
    openapi::{
        Ref, RefOr, Required,
        path::{Parameter, ParameterBuilder, ParameterIn},
        schema::{ObjectBuilder, Type},
    },
};

use crate::{
    domain::idempotency::MAX_KEY_CHARS,
    http::{
        content::{Digest, Ranges},
        extract::{Call, ContentConditions, IfMatch},
        page::IfNoneMatch,
    },
};

pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
pub const IF_MATCH: &str = "If-Match";
pub const IF_NONE_MATCH: &str = "If-None-Match";
pub const RANGE: &str = "Range";
const IF_RANGE: &str = "If-Range";
const CONTENT_DIGEST: &str = "Content-Digest";
/// Before the names of headers that are about content and not about a revision.
const CONTENT: &str = "Content";

fn header(name: &str, description: &str, schema: ObjectBuilder) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema))
        .build()
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// The descriptions, each with the name under which it is found: two calls may mean different things by one header.
fn headers() -> Vec<(String, Parameter)> {
    let content = [
        header(
            IF_MATCH,
            "The `ETag` that the content must have, or `*` for any: to replace or delete only what the caller knows.",
            text(),
        ),
        header(
            IF_NONE_MATCH,
            "`*`: only if there is no such file yet. Or the `ETag` that the content must not have.",
            text(),
        ),
    ];
    let common = common_headers().into_iter().map(|parameter| (component(&parameter.name), parameter));
    common
        .chain(content.into_iter().map(|parameter| (format!("{CONTENT}{}", component(&parameter.name)), parameter)))
        .collect()
}

fn common_headers() -> [Parameter; 6] {
    [
        header(
            IDEMPOTENCY_KEY,
            "Makes repeating the call safe: the same key with the same request within 24 hours gives the first answer.",
            text().min_length(Some(1)).max_length(Some(MAX_KEY_CHARS)).pattern(Some("^[!-~]+( +[!-~]+)*$")),
        ),
        header(
            IF_MATCH,
            "The `revision` that the object must have, in quotes, or `*` for any. Without it the last writer wins.",
            text().pattern(Some(r#"^("[0-9]{1,19}"|\*)$"#)),
        ),
        header(IF_NONE_MATCH, "An `ETag` that the caller has; if it still holds, the answer is 304.", text()),
        header(
            RANGE,
            "One range of bytes, such as `bytes=0-1023`, `bytes=1024-` or `bytes=-512`. Anything else gives everything.",
            text(),
        ),
        header(IF_RANGE, "The `ETag` for which the range is meant; if it has changed, everything is sent.", text()),
        header(
            CONTENT_DIGEST,
            "`sha-256=:<Base64>:` (RFC 9530). A body that arrives with another digest is refused, and so is a header without it.",
            text(),
        ),
    ]
}

/// Where a header is described once.
fn component(name: &str) -> String {
    name.replace('-', "")
}

/// The descriptions that operations refer to.
pub fn components() -> impl Iterator<Item = (String, RefOr<Parameter>)> {
    headers().into_iter().map(|(name, parameter)| (name, RefOr::T(parameter)))
}

/// A reference instead of the description, if it is one of those that are described once.
pub fn referred(parameter: RefOr<Parameter>) -> RefOr<Parameter> {
    let RefOr::T(parameter) = parameter else { return parameter };
    match headers().into_iter().find(|(_, known)| *known == parameter) {
        Some((name, _)) => RefOr::Ref(Ref::new(format!("#/components/parameters/{name}"))),
        None => RefOr::T(parameter),
    }
}

fn named(names: &[&str]) -> Vec<Parameter> {
    let components: Vec<String> = names.iter().map(|name| component(name)).collect();
    headers().into_iter().filter(|(name, _)| components.contains(name)).map(|(_, parameter)| parameter).collect()
}

macro_rules! describe {
    ($($extractor:ty => $names:expr;)*) => { $(
        impl IntoParams for $extractor {
            fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
                named(&$names)
            }
        }
    )* };
}

describe! {
    Call => [IDEMPOTENCY_KEY];
    IfMatch => [IF_MATCH];
    IfNoneMatch => [IF_NONE_MATCH];
    Ranges => [IF_NONE_MATCH, RANGE, IF_RANGE];
    Digest => [CONTENT_DIGEST];
    ContentConditions => ["ContentIfMatch", "ContentIfNoneMatch"];
}
