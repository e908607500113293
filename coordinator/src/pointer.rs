//! Where in a document something does not fit.

use serde_path_to_error::{Path, Segment};

/// The place as a JSON pointer (RFC 6901); the whole document is the empty text.
pub fn pointer_of(path: &Path) -> String {
    path.iter().fold(String::new(), |pointer, segment| match segment {
        Segment::Seq { index } => format!("{pointer}/{index}"),
        Segment::Map { key } => format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1")),
        Segment::Enum { .. } | Segment::Unknown => pointer,
    })
}
