//! How the API's document describes labels: small maps of short texts.

use utoipa::openapi::{ObjectBuilder, schema::Schema, schema::Type};

const MAX_LABELS: usize = 32;
const MAX_CHARS: usize = 128;

/// The schema of labels that people and hosts set.
pub(crate) fn schema() -> Schema {
    let text = || ObjectBuilder::new().schema_type(Type::String).max_length(Some(MAX_CHARS));
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .description(Some("Keys and values of at most 128 characters; a key contains neither `:` nor `=`."))
        .property_names(Some(text().min_length(Some(1)).pattern(Some("^[^:=]+$")).build()))
        .additional_properties(Some(text()))
        .max_properties(Some(MAX_LABELS))
        .into()
}
