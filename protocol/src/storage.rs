//! Files of storage folders. For now the folders `jobs/<job id>` with the artifacts of jobs.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{FileId, Timestamp};

/// The longest path of a file, in bytes of UTF-8.
pub const MAX_PATH_BYTES: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoredFile {
    pub id: FileId,
    /// Within its folder, parts separated by `/`.
    #[schema(example = "report.html")]
    pub path: String,
    pub size_bytes: u64,
    /// Lower-case hexadecimal.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub sha256: String,
    pub content_type: String,
    pub created_by: String,
    pub created_at: Timestamp,
    pub modified_at: Timestamp,
}

/// Filter of `GET /storages/{folder}/files`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FileFilter {
    /// Beginning of the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}
