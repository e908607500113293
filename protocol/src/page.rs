//! Pages of lists: `{"items": […], "next_cursor": "…" | null}`.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// One page of a list, newest first unless the call says otherwise.
///
/// A page may hold fewer items than the limit, even none, while `next_cursor` is present: a filter that matches
/// seldom looks at a bounded number of entries per call. The list has ended when `next_cursor` is null.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Give this back as `cursor` to read on; null at the end.
    #[schema(required)]
    pub next_cursor: Option<String>,
    /// How many there are in all, where `count=true` was asked and a counter knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// What every list takes.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// How many items at the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 1000, default = 50)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Asks for `total`; a list that has no counter leaves it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<bool>,
}

/// A few items that belong together and need no paging.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Items<T> {
    pub items: Vec<T>,
}
