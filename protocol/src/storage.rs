//! Storage: folders, their files, and links that open one file without a key.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{FileId, FolderId, Timestamp};

/// The longest path of a file, in bytes of UTF-8.
pub const MAX_PATH_BYTES: usize = 1024;
/// The longest name of a folder, in bytes of UTF-8.
pub const MAX_FOLDER_NAME_BYTES: usize = 512;
/// A link holds for so long at the most: a week.
pub const MAX_LINK_SECONDS: u64 = 7 * 86_400;
/// Retention of at most a hundred years.
pub const MAX_RETENTION_DAYS: u32 = 36_500;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StorageFolder {
    pub id: FolderId,
    /// Parts of any number, separated by `/`.
    #[schema(example = "accounting/invoices")]
    pub name: String,
    pub description: String,
    /// Files are deleted when they have not been written for so many days; null: never.
    #[schema(required)]
    pub retention_days: Option<u32>,
    /// How many bytes its files may have together; null: as many as there is space for.
    #[schema(required)]
    pub quota_bytes: Option<u64>,
    /// True: nothing in it is written or deleted, not even by retention.
    pub read_only: bool,
    /// How many files are in it.
    pub file_count: u64,
    /// How many bytes they have together.
    pub used_bytes: u64,
    pub created_by: String,
    pub created_at: Timestamp,
    pub revision: u64,
}

/// `POST /storages`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewStorageFolder {
    /// Any number of parts separated by `/`; names that begin with `jobs/` or `tasks/` are reserved.
    #[schema(min_length = 1, max_length = 512)]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 2048)]
    pub description: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 36500)]
    pub retention_days: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
    #[serde(default)]
    pub read_only: bool,
}

/// `PATCH /storages/{folder}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StorageFolderPatch {
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, min_length = 1, max_length = 512)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, max_length = 2048)]
    pub description: Option<String>,
    /// Null: files are never deleted by age.
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 36500)]
    pub retention_days: Option<Option<u32>>,
    /// Null: no quota.
    #[serde(default, deserialize_with = "crate::patch::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub quota_bytes: Option<Option<u64>>,
    #[serde(default, deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = bool, required = false)]
    pub read_only: Option<bool>,
}

/// Filter of `GET /storages`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FolderFilter {
    /// Beginning of the name; the folders then come in the order of their names instead of newest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

/// Query of `DELETE /storages/{folder}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteFolderQuery {
    /// `true`: its files are deleted with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<bool>,
}

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
    /// What the one who wrote it has noted beside it.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    pub created_by: String,
    pub created_at: Timestamp,
    /// When its content was written.
    pub modified_at: Timestamp,
}

/// Some files of a folder in the order of their paths.
///
/// With `delimiter=/` only those of one level, and in `prefixes` the beginnings, up to the next `/`, of all others.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FilePage {
    pub items: Vec<StoredFile>,
    /// With `delimiter=/`: what lies deeper, each beginning once, with its `/`. Counts towards `limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<String>, required = false)]
    pub prefixes: Option<Vec<String>>,
    /// Give this back as `cursor` to read on; null at the end.
    #[schema(required)]
    pub next_cursor: Option<String>,
    /// With `count=true`, where a counter knows it: how many files there are in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// Filter of `GET /storages/{folder}/files`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FileFilter {
    /// Beginning of the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// `/`: only one level is listed, what lies deeper as `prefixes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(pattern = "^/$")]
    pub delimiter: Option<String>,
}

/// Query of `PUT /storages/{folder}/files/{path}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PutFileQuery {
    /// `key:value`, to be kept beside the file; repeat it for more. Without any the file has no metadata.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metadata: Vec<String>,
}

/// `POST /storages/{folder}/copy` and `/move`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FileTransfer {
    /// The file, in the folder of the address.
    pub path: String,
    /// Where it goes; left out: within the same folder. Id or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_folder: Option<String>,
    pub to_path: String,
    /// Whether a file that is there is replaced; otherwise it is refused with `already_exists`.
    #[serde(default)]
    pub replace: bool,
}

/// What a link is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LinkVerb {
    /// Reading the file.
    #[serde(alias = "GET")]
    Get,
    /// Writing the file.
    #[serde(alias = "PUT")]
    Put,
}

/// `POST /storages/{folder}/links`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewLink {
    pub path: String,
    pub verb: LinkVerb,
    #[schema(minimum = 1, maximum = 604800)]
    pub expires_in_seconds: u64,
}

/// An address that opens one file for one verb, without a key. Whoever has it may use it: treat it as a key.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Link {
    pub url: String,
    pub expires_at: Timestamp,
}
