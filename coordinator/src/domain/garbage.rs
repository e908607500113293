//! A blob that no record refers to any more, to be deleted once that is certain.

use drover_protocol::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Garbage {
    pub blob: String,
    pub since: Timestamp,
}
