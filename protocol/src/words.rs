//! Closed lists of words: enums of which the API's document shows each word with its meaning.

use utoipa::openapi::{ObjectBuilder, RefOr, schema::Schema, schema::Type};

/// Makes an enum whose words on the wire are the names in `snake_case`, and whose doc comments are the reference that
/// the API's document shows.
macro_rules! words {
    ($($(#[doc = $doc:literal])* pub enum $name:ident { $($(#[doc = $meaning:literal])* $word:ident,)* })*) => { $(
        $(#[doc = $doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
        )]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[doc = $meaning])* $word,)* }

        impl $name {
            /// Every word, in this order.
            pub const ALL: [Self; [$(stringify!($word)),*].len()] = [$(Self::$word),*];
        }

        impl utoipa::ToSchema for $name {}

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                let about = concat!($($doc, "\n"),*);
                $crate::words::schema(about, [$((serde_json::to_value(Self::$word), concat!($($meaning),*)),)*])
            }
        }
    )* };
}
pub(crate) use words;

/// The schema of a list of words, its description being what the list is about and what each word means.
pub(crate) fn schema<E>(
    about: &str,
    words: impl IntoIterator<Item = (Result<serde_json::Value, E>, &'static str)>,
) -> RefOr<Schema> {
    let mut description = about.lines().map(str::trim).collect::<Vec<_>>().join("\n").trim().to_owned();
    let mut values = Vec::new();
    for (word, meaning) in words.into_iter().filter_map(|(word, meaning)| Some((word.ok()?, meaning))) {
        if let (false, Some(word)) = (meaning.is_empty(), word.as_str()) {
            let start = if values.is_empty() { "\n\n" } else { "\n" };
            description.push_str(&format!("{start}- `{word}`: {}", meaning.trim()));
        }
        values.push(word);
    }
    ObjectBuilder::new().schema_type(Type::String).description(Some(description)).enum_values(Some(values)).into()
}
